"""Masks from every layout, against the same shapes drawn by hand; hostile files; and real ones where they are on disk."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import DATA, png
from hypothesis import given, settings, strategies as st
from PIL import Image

from rsvlm.errors import DataError
from rsvlm.localization import coco as coco_table, true_masks
from rsvlm.model import images


def picture(H=20, W=30):
    return png(np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8))


def encode(counts):
    """COCO's compression, written out: differences to the one before last, 5 bits a character, low ones first."""
    text = ""
    for i, count in enumerate(counts):
        number = count - counts[i - 2] if i > 2 else count
        while True:
            digit = number & 31
            number >>= 5
            last = number == (-1 if digit & 16 else 0)
            text += chr(48 + (digit | (0 if last else 32)))
            if last:
                break
    return text


def counts_of(mask):
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(int), prepend=0))
    return np.diff([0, *edges, len(flat)]).tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**30), max_size=12))
def test_compressed_run_lengths_come_back(counts):
    assert coco_table.decode_counts(encode(counts)).tolist() == counts


def test_a_known_compressed_mask():
    # 0 outside, then 6 inside of a 2 × 3 mask, and one whose third and fourth numbers are differences
    assert coco_table.run_lengths(coco_table.decode_counts("06"), 2, 3).all()
    assert coco_table.decode_counts("52203").tolist() == [5, 2, 2, 2, 5]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_run_lengths_give_back_the_mask(H, W, seed):
    mask = np.random.default_rng(seed).random((H, W)) < 0.5
    np.testing.assert_array_equal(coco_table.run_lengths(counts_of(mask), H, W), mask)


@pytest.mark.parametrize("text", ["\x00", "é", "P", "`", "PPPPPPPPPPP0", "~~"])
def test_broken_run_lengths_are_refused(text):
    with pytest.raises(DataError, match="run lengths"):
        coco_table.run_lengths(coco_table.decode_counts(text), 4, 4)


def coco(tmp_path, annotations, H=20, W=30, said=None, **more):
    (tmp_path / "images").mkdir(parents=True, exist_ok=True)
    for name in ("b.png", "a.png"):
        (tmp_path / "images" / name).write_bytes(picture(H, W))
    h, w = said or (H, W)
    rows = [{"id": i, "file_name": name, "height": h, "width": w} for i, name in enumerate(("b.png", "a.png"))]
    table = {
        "images": rows,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "storage_tank"}, {"id": 9, "name": "ship"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(table | more))
    return tmp_path


def of(segmentation, image=1, category=7, **more):
    return {"id": 1, "image_id": image, "category_id": category, "segmentation": segmentation} | more


def test_coco_polygons_and_both_run_lengths_agree(tmp_path):
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:20] = True
    counts = counts_of(mask)
    square = [10, 5, 20, 5, 20, 15, 10, 15]
    for what in ([square], {"size": [20, 30], "counts": counts}, {"size": [20, 30], "counts": encode(counts)}):
        items = list(true_masks.read(coco(tmp_path, [of(what)]), "coco"))
        assert [item.key for item in items] == ["a", "b"] and items[1].masks == {}
        np.testing.assert_array_equal(items[0].masks["storage tank"], mask)
        assert items[0].record["boxes"]["storage tank"].tolist() == [[10, 5, 20, 15]]
        assert images.decode(items[0].image).shape == (20, 30, 3)
    assert true_masks.classes(tmp_path, "coco") == ["storage tank", "ship"]
    assert len(list(true_masks.read(tmp_path, "coco", limit=1))) == 1


def test_coco_parts_are_joined_and_crowds_have_no_box(tmp_path):
    two = [[0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 8, 2, 8, 8, 2, 8]]  # they overlap: both inside
    crowd = of({"size": [20, 30], "counts": counts_of(np.eye(20, 30) > 0)}, iscrowd=1)
    item = next(true_masks.read(coco(tmp_path, [of(two), of([[20, 10, 25, 10, 25, 15]]), crowd]), "coco"))
    mask, unknown = item.masks["storage tank"], item.unknown["storage tank"]
    assert mask[:4, :4].all() and mask[2:8, 2:8].all() and len(item.record["boxes"]["storage tank"]) == 2
    assert unknown[19, 19] and not unknown[3, 3] and not (mask & unknown).any() and set(item.unknown) == {"storage tank"}


def test_coco_masks_of_another_size_are_resampled_or_left_out(tmp_path):
    square, skipped = [20, 10, 40, 10, 40, 30, 20, 30], Counter()
    item = next(true_masks.read(coco(tmp_path, [of([square])], said=(40, 60)), "coco", skipped=skipped))
    wanted = np.zeros((20, 30), bool)
    wanted[5:15, 10:20] = True
    np.testing.assert_array_equal(item.masks["storage tank"], wanted)
    assert skipped == {"mask resampled to its picture": 1}
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:40] = True
    lengths = {"size": [40, 60], "counts": counts_of(mask)}
    item = next(true_masks.read(coco(tmp_path, [of(lengths)], said=(40, 60)), "coco"))
    np.testing.assert_array_equal(item.masks["storage tank"], wanted)
    skipped = Counter()
    assert list(true_masks.read(coco(tmp_path, [of([square])], said=(30, 20)), "coco", skipped=skipped)) == []
    assert skipped == {"picture of another shape than its masks": 2}


def test_coco_broken_parts_are_counted(tmp_path):
    square, skipped = [1, 1, 9, 1, 9, 9, 1, 9], Counter()
    broken = [of([[1, 2, 3]]), of([[1, 2, 3, 4]]), of([]), of({"size": [2, 2], "counts": [4]}), of([["a", 1, 2, 3, 4, 5]])]
    broken += [of({"size": [20, 30], "counts": [-1, 601]}), of([[np.nan, 1, 2, 3, 4, 5]]), of({"counts": "0"}), of(None)]
    broken += [of({"size": [20, 30], "counts": [2**62, 2**62, 2**62, 2**62, 600]})]
    away = [of([[900, 900, 910, 900, 910, 910]]), of([square], image=55), of([square], category=3)]
    (coco(tmp_path, [*broken, *away, of([square])]) / "images" / "b.png").unlink()
    items = list(true_masks.read(tmp_path, "coco", skipped=skipped))
    assert items[0].masks["storage tank"].sum() == 64 and len(items) == 1
    wanted = {
        "neither mask nor box: class left out of its picture": len(broken),
        "mask without a pixel": 1,
        "annotation of no picture or category": 2,
        "picture missing": 1,
    }
    assert skipped == wanted
    (tmp_path / "images" / "a.png").write_bytes(picture()[:200])
    skipped.clear()
    assert list(true_masks.read(tmp_path, "coco", skipped=skipped)) == [] and skipped["picture broken"] == 1


def test_coco_polygons_over_the_edge_are_cut_there(tmp_path):
    over = [[-10, -5, 6, -5, 6, 4, -10, 4]]
    item = next(true_masks.read(coco(tmp_path, [of(over), of([[25, 15, 90, 15, 90, 90, 25, 90]], category=9)]), "coco"))
    assert item.masks["storage tank"].sum() == 6 * 4 and item.masks["storage tank"][:4, :6].all()
    assert item.masks["ship"].sum() == 5 * 5 and item.record["boxes"]["ship"].tolist() == [[25, 15, 30, 20]]


def test_halves_share_no_picture_and_depend_on_the_name_alone(tmp_path):
    root = coco(tmp_path, [])
    names = [f"{n}.png" for n in range(40)]
    for name in names:
        (root / "images" / name).write_bytes(picture())
    rows = [{"id": n, "file_name": name, "height": 20, "width": 30} for n, name in enumerate(names)]
    coco(root, [], images=rows)
    a, b = ([item.key for item in true_masks.read(root, "coco", half=half)] for half in "ab")
    assert sorted([*a, *b]) == sorted(name[:-4] for name in names) and min(len(a), len(b)) > 10
    assert all(true_masks.half_of(key) == "a" for key in a)
    coco(root, [], images=rows[::2])
    assert {item.key for item in true_masks.read(root, "coco", half="a")} == {key for key in a if int(key) % 2 == 0}
    few = [item.key for item in true_masks.read(root, "coco", half="b", limit=3)]
    assert len(few) == 3 and set(few) <= set(b)
    with pytest.raises(DataError, match="choose a or b"):
        true_masks.read(root, "coco", half="c")


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("../../etc/passwd", "not inside"),
        ("/etc/passwd", "not inside"),
        ("x\0.png", "not inside"),
        ("link.png", "not inside"),
    ],
)
def test_names_that_lead_out_stop_everything(tmp_path, file, says):
    root = coco(tmp_path / "set", [])
    (tmp_path / "secret.png").write_bytes(picture())
    (root / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    rows = [{"id": 0, "file_name": file, "height": 20, "width": 30}]
    coco(root, [], images=rows)
    with pytest.raises(DataError, match=says):
        list(true_masks.read(root, "coco"))


@pytest.mark.parametrize(
    "table",
    ["[1, 2", "[]", '{"images": [], "annotations": []}', '{"images": [{}], "annotations": [], "categories": []}'],
)
def test_what_is_no_coco_table_is_refused(tmp_path, table):
    (tmp_path / "instances.json").write_text(table)
    with pytest.raises(DataError, match="JSON|table"):
        true_masks.read(tmp_path, "coco")


def folder(tmp_path, masks, H=20, W=30):
    (tmp_path / "images").mkdir(parents=True, exist_ok=True)
    for key in ("a", "b"):
        (tmp_path / "images" / f"{key}.png").write_bytes(picture(H, W))
    for name, array in masks.items():
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(tmp_path / "masks" / name)
    return tmp_path


def test_folders_of_classes(tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 4:8] = 255
    colours = np.zeros((20, 30, 4), np.uint8)
    colours[..., 3], colours[1:3, 1:3, 1] = 255, 9
    large = np.kron(mask, np.ones((2, 2), np.uint8))
    root = folder(tmp_path, {"storage_tank/a.png": mask, "ship/a.png": colours, "ship/b.tif": large, "field/b.png": mask * 0})
    skipped = Counter()
    items = list(true_masks.read(root, "masks", skipped=skipped))
    assert true_masks.classes(root, "masks") == ["field", "ship", "storage tank"]
    assert items[0].masks["storage tank"].sum() == 24 and items[0].masks["ship"].sum() == 4
    assert set(items[1].masks) == {"ship"}
    np.testing.assert_array_equal(items[1].masks["ship"], mask > 0)
    no_mask = {f"no mask in {name}/: taken as nothing of it there": 1 for name in ("field", "storage_tank")}
    assert skipped == {"mask resampled to its picture": 1} | no_mask
    Image.fromarray(mask.T.copy()).save(root / "masks" / "ship" / "a.png")
    (root / "masks" / "field" / "b.png").write_bytes(b"\x89PNG broken")
    skipped.clear()
    assert list(true_masks.read(root, "masks", skipped=skipped)) == []
    assert skipped["mask of another shape than its picture"] == 1 and skipped["mask broken"] == 1


@pytest.mark.parametrize(
    "table", [["background", "sea ice", "lake"], {"1": "sea_ice", "2": "lake"}, {"sea_ice": 1, "lake": 2}]
)
def test_pictures_of_class_numbers(tmp_path, table):
    index = np.zeros((20, 30), np.uint8)
    index[:5], index[5:9, :7], index[19] = 1, 2, 77
    root = folder(tmp_path, {"a.png": index})
    palette = Image.fromarray(index, "P")
    palette.putpalette([200, 200, 200] * 256)  # the colours do not matter
    palette.save(root / "masks" / "b.png")
    (root / "classes.json").write_text(json.dumps(table))
    assert true_masks.classes(root, "masks") == ["sea ice", "lake"]
    for item in true_masks.read(root, "masks"):
        assert {name: int(mask.sum()) for name, mask in item.masks.items()} == {"sea ice": 150, "lake": 28}
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / "masks" / "a.png")
    (root / "masks" / "b.png").unlink()
    skipped = Counter()
    assert list(true_masks.read(root, "masks", skipped=skipped)) == []
    assert skipped == {"mask in colours, not in class numbers": 1, "mask missing": 1}


@pytest.mark.parametrize("table", ["3", "[]", '["background"]', '{"a": "b"}', '{"a": [1]}', '{"99999": "sea"}'])
def test_a_table_of_numbers_that_names_nothing_is_refused(tmp_path, table):
    root = folder(tmp_path, {"a.png": np.zeros((20, 30), np.uint8)})
    (root / "classes.json").write_text(table)
    with pytest.raises(DataError, match="classes.json"):
        true_masks.read(root, "masks")


def test_a_bad_request_stops_before_any_work(tmp_path):
    for benchmark, says in (("coco", "no JSON"), ("masks", "images/ and masks/"), ("polygons", "labels.geojson")):
        with pytest.raises(DataError, match=says):
            true_masks.read(tmp_path, benchmark)
        with pytest.raises(DataError, match=says):
            true_masks.classes(tmp_path, benchmark)
    for call in (lambda: true_masks.read(tmp_path, "boxes"), lambda: true_masks.classes(tmp_path, "boxes")):
        with pytest.raises(DataError, match="choose one of"):
            call()
    with pytest.raises(DataError, match="not a folder"):
        true_masks.read(tmp_path / "no", "coco")
    with pytest.raises(DataError, match="limit 0"):
        true_masks.read(tmp_path, "coco", limit=0)


def test_polygons_land_on_the_right_pixels(tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="the extra [data] is not installed")
    pyproj = pytest.importorskip("pyproj")
    from rasterio.transform import from_origin

    pixels = np.random.default_rng(0).integers(1, 256, (3, 64, 96), dtype=np.uint8)
    profile = {"driver": "GTiff", "count": 3, "height": 64, "width": 96, "dtype": "uint8", "crs": "EPSG:32629"}
    with rasterio.open(tmp_path / "p.tif", "w", transform=from_origin(460_000, 4_300_000, 10, 10), **profile) as dataset:
        dataset.write(pixels)
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32629", "EPSG:4326", always_xy=True)

    def ring(left, top, right, bottom):
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        return [to_lonlat.transform(460_000 + 10 * x, 4_300_000 - 10 * y) for x, y in corners]

    house = {"type": "Polygon", "coordinates": [ring(4, 6, 20, 16), ring(8, 8, 10, 12)]}
    two = {"type": "MultiPolygon", "coordinates": [[ring(28, 40, 40, 44)], [ring(30, 50, 33, 53)]]}  # over the edge of chips
    line = {"type": "LineString", "coordinates": ring(0, 0, 50, 50)}
    shapes = [(house, {}), (two, {"class": "green_house"}), (line, {}), (None, {})]
    features = [{"type": "Feature", "geometry": g, "properties": p} for g, p in shapes]
    (tmp_path / "labels.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    assert true_masks.classes(tmp_path, "polygons") == ["building", "green house"]
    items = {item.key: item for item in true_masks.read(tmp_path, "polygons", size_px=32)}
    assert len(items) == 6
    first = next(item for item in items.values() if "building" in item.masks)
    wanted = np.zeros((32, 32), bool)
    wanted[6:16, 4:20] = True
    wanted[8:12, 8:10] = False
    np.testing.assert_array_equal(first.masks["building"], wanted)
    np.testing.assert_array_equal(images.decode(first.image), np.moveaxis(pixels[:, :32, :32], 0, 2))
    assert first.record["boxes"]["building"].tolist() == [[4, 6, 20, 16]]
    cut = [item.masks["green house"].sum() for item in items.values() if "green house" in item.masks]
    assert sorted(cut) == [4 * 4 + 2 * 3, 8 * 4 + 1 * 3]
    assert len(list(true_masks.read(tmp_path, "polygons", size_px=32, limit=2))) == 2
    halves = [{item.key for item in true_masks.read(tmp_path, "polygons", size_px=32, half=half)} for half in "ab"]
    assert halves[0] | halves[1] == set(items) and not halves[0] & halves[1]


def test_real_instances_are_read():
    root = DATA / "vhr10"
    if not root.is_dir():
        pytest.skip(f"{root} is not there: it holds half of NWPU VHR-10")
    skipped = Counter()
    items = list(true_masks.read(root, "coco", skipped=skipped, limit=20))
    assert len(items) == 20 and not skipped and all(item.masks for item in items)
    table = json.loads((root / "instances.json").read_text())
    area: Counter = Counter()
    for one in table["annotations"]:  # the file's own areas are up to a fifth larger than its polygons
        for ring in one["segmentation"]:
            x, y = np.array(ring).reshape(-1, 2).T
            area[one["image_id"]] += abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    number = {row["file_name"]: row["id"] for row in table["images"]}
    for item in items:
        pixels = sum(int(mask.sum()) for mask in item.masks.values())
        assert pixels == pytest.approx(area[number[item.record["file"]]], rel=0.02)


def test_real_polygons_are_read():
    root = DATA / "oam_osm"
    pytest.importorskip("rasterio", reason="the extra [data] is not installed")
    if not root.is_dir():
        pytest.skip(f"{root} is not there: it holds OpenAerialMap tiles with buildings")
    items = list(true_masks.read(root, "polygons", limit=24))
    built = [item.masks["building"].mean() for item in items if item.masks]
    assert len(items) == 24 and {item.key[0] for item in items} == {"1", "2"} and 0.02 < np.mean(built) < 0.7


def test_classes_of_shapes_are_the_taxonomys_and_the_label_is_for_those_that_say_nothing(tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="the extra [data] is not installed")
    from rasterio.transform import from_origin

    profile = {"driver": "GTiff", "count": 3, "height": 48, "width": 48, "dtype": "uint8", "crs": "EPSG:4326"}
    with rasterio.open(tmp_path / "p.tif", "w", transform=from_origin(10, 0.002, 1e-4, 1e-4), **profile) as dataset:
        dataset.write(np.random.default_rng(0).integers(1, 256, (3, 48, 48), dtype=np.uint8))
    said = [
        {"natural": "water"},
        {"building": "yes"},
        {"id": 3},
        {"class": "solar_park"},
        {"boundary": "administrative"},
        {"amenity": "parking", "parking": "underground"},
        {"building": "yes", "demolished": "yes"},
        {"note": "something else"},
    ]
    features = []
    for number, tags in enumerate(said):
        left, top = 10.0004 + 4e-4 * number, 0.002 - 1e-3
        ring = [[left, top], [left + 2e-4, top], [left + 2e-4, top - 2e-4], [left, top - 2e-4], [left, top]]
        features.append({"type": "Feature", "properties": tags, "geometry": {"type": "Polygon", "coordinates": [ring]}})
    features.append(
        {"type": "Feature", "properties": {"natural": "tree"}, "geometry": {"type": "Point", "coordinates": [10, 0]}}
    )
    (tmp_path / "labels.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    assert true_masks.classes(tmp_path, "polygons", label="thing") == ["building", "lake", "solar park", "thing"]
    skipped = Counter()
    (item,) = true_masks.read(tmp_path, "polygons", size_px=40, label="thing", skipped=skipped)
    assert set(item.masks) == {"building", "lake", "solar park", "thing"}
    assert all(1 <= mask.sum() <= 9 for mask in item.masks.values())
    assert skipped == {"shape of no class, or not to be seen from above": 4, "shape that is no area": 1}
