"""What numbers and folders of masks leave unknown is not taken for "nothing there"."""

import json
import logging
from collections import Counter

import numpy as np
import pytest
from conftest import png
from PIL import Image

from rsvlm.errors import DataError
from rsvlm.localization import mask_reading, scoring, true_masks


def write(root, masks, table=None):
    """Pictures of 20 × 30 pixels, `a` and `b`, and masks by name."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    for n, key in enumerate("ab"):
        (root / "images" / f"{key}.png").write_bytes(png(np.full((20, 30, 3), 90 + n, np.uint8)))
    for name, array in masks.items():
        (root / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / "masks" / name)
    if table is not None:
        (root / "classes.json").write_text(json.dumps(table))
    return root


def read(root):
    skipped = Counter()
    return list(true_masks.read(root, "masks", skipped=skipped)), dict(skipped)


def index(**areas):
    """Zeros, with values in bands of rows: v255=(0, 4)."""
    mask = np.zeros((20, 30), np.uint8)
    for value, (top, bottom) in areas.items():
        mask[top:bottom] = int(value[1:])
    return mask


@pytest.mark.parametrize("name", ["ignore", "Void", "unlabeled", "unlabelled", "no-data", "no_data", "NoData", "unknown"])
def test_what_was_not_labelled_is_unknown(tmp_path, name):
    mask = index(v1=(0, 5), v2=(5, 9), v3=(9, 12))
    table = {"0": name, "1": "background", "2": "house", "3": "road"}
    for names in (table, list(table.values()), {text: int(number) for number, text in table.items()}):
        root = write(tmp_path, {"a.png": mask, "b.png": mask}, names)
        items, skipped = read(root)
        assert true_masks.classes(root, "masks") == ["house", "road"] and list(skipped.values()) == [2]
        np.testing.assert_array_equal(items[0].unknown[""], mask == 0)


@pytest.mark.parametrize("name", ["house", "background", "sea", "land without data", "voids", "other"])
def test_other_names_are_labels(name):
    assert not mask_reading.is_unknown(name)


def test_an_exact_map_of_every_labelled_pixel_is_worth_100(tmp_path):
    mask = index(v1=(10, 13), v2=(13, 16), v3=(16, 20))
    items, _ = read(write(tmp_path, {"a.png": mask, "b.png": mask}, ["ignore", "background", "house", "road"]))

    def exact(image):
        heat = np.stack([mask == 2, mask == 3]).astype(np.float32)
        heat[:, mask == 0] = np.random.default_rng(0).normal(0, 9, (2, 300))
        return heat

    for rules in (scoring.Rules(), scoring.Rules(background=False)):
        rows = scoring.evaluate(items, exact, ["house", "road"], rules, bootstrap_samples=0)
        wrong = {row["metric"]: row["value"] for row in rows if row["value"] != 100}
        if rules.background:
            assert not wrong
        else:  # each pixel gets a class, the background too
            assert set(wrong) <= {"miou", "iou[house]", "iou[road]"}


def test_a_number_that_is_no_class_is_counted_and_unknown(tmp_path):
    mask = index(v255=(0, 6), v7=(6, 7))
    items, skipped = read(write(tmp_path, {"a.png": mask, "b.png": index(v1=(0, 3))}, ["background", "road"]))
    np.testing.assert_array_equal(items[0].unknown[""], mask > 0)
    assert items[1].masks["road"].sum() == 90 and not items[1].unknown
    assert skipped == {f"mask with {n}, which classes.json does not name: not scored there": 1 for n in (7, 255)}
    grey = np.arange(600).reshape(20, 30).astype(np.uint8)
    items, skipped = read(write(tmp_path, {"a.png": grey}, {"200": "road"}))
    assert len(skipped) == 2 and skipped["mask with many values that classes.json does not name: not scored there"] == 1


def test_numbers_with_fractions_and_bits_are_numbers(tmp_path):
    real = index(v1=(0, 3)).astype(np.float32)
    real[4] = np.nan
    bits = index(v1=(0, 3)) > 0
    items, _ = read(write(tmp_path, {"a.tif": real, "b.png": bits}, ["background", "road"]))
    assert [item.masks["road"].sum() for item in items] == [90, 90]
    assert items[0].unknown[""].sum() == 30 and not items[1].unknown


def test_0_without_a_name_is_background_unless_another_number_is(tmp_path, caplog):
    mask = index(v255=(0, 6))
    with caplog.at_level(logging.WARNING):
        items, skipped = read(write(tmp_path, {"a.png": mask, "b.png": mask}, {"255": "road"}))
    assert not skipped and not items[0].unknown and len(caplog.records) == 1 and "ignore" in caplog.text
    items, skipped = read(write(tmp_path, {"a.png": mask, "b.png": mask}, {"255": "road", "1": "background"}))
    np.testing.assert_array_equal(items[0].unknown[""], mask == 0)
    assert skipped == {"mask with 0, which classes.json does not name: not scored there": 2}


def test_folders_called_ignore_are_unknown_and_background_is_no_class(tmp_path):
    masks = {"road/a.png": index(v255=(0, 3)), "ignore/a.png": index(v255=(8, 9)), "background/a.png": index(v255=(9, 20))}
    root = write(tmp_path, masks | {"house/b.png": index(), ".trash/a.png": index()})
    assert true_masks.classes(root, "masks") == ["house", "road"]
    items, skipped = read(root)
    assert items[0].masks.keys() == {"road"} and items[0].unknown[""].sum() == 30 and not items[1].unknown
    assert skipped == {
        "mask with 'ignore': not scored there": 1,
        "no mask in house/: taken as nothing of it there": 1,
        "no mask in road/: taken as nothing of it there": 1,
    }


def test_a_picture_without_any_mask_is_left_out_not_empty(tmp_path):
    items, skipped = read(write(tmp_path, {"road/a.png": index(v1=(0, 3))}))
    assert [item.key for item in items] == ["a"] and skipped == {"mask missing in the folders of all classes": 1}


def test_1_and_255_in_a_mask_of_one_class_are_told(tmp_path):
    items, skipped = read(write(tmp_path, {"road/a.png": index(v1=(0, 3), v255=(3, 4)), "road/b.png": index(v255=(0, 1))}))
    assert items[0].masks["road"].sum() == 120 and skipped == {"mask in road/ with 1 and 255: both taken as inside": 1}


def test_a_table_of_unlabelled_alone_names_no_class(tmp_path):
    root = write(tmp_path, {"a.png": index()}, ["void", "background"])
    with pytest.raises(DataError, match="names no class"):
        true_masks.classes(root, "masks")


def imagery(root, pixels, features):
    """A raster of 10-metre pixels in UTM, and a map of rings in its pixels."""
    rasterio = pytest.importorskip("rasterio", reason="the extra [data] is not installed")
    from pyproj import Transformer
    from rasterio.transform import from_origin

    profile = {"driver": "GTiff", "count": 3, "height": pixels.shape[1], "width": pixels.shape[2], "dtype": "uint8"}
    profile |= {"crs": "EPSG:32629", "nodata": 0, "transform": from_origin(460_000, 4_300_000, 10, 10)}
    with rasterio.open(root / "p.tif", "w", **profile) as dataset:
        dataset.write(pixels)
    to_lonlat = Transformer.from_crs("EPSG:32629", "EPSG:4326", always_xy=True)
    rings = [[to_lonlat.transform(460_000 + 10 * x, 4_300_000 - 10 * y) for x, y in ring] for ring in features]
    shapes = [{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}} for ring in rings]
    (root / "labels.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    skipped = Counter()
    return list(true_masks.read(root, "polygons", size_px=32, skipped=skipped)), dict(skipped)


def test_pixels_without_data_are_unknown(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 256, (3, 32, 64), dtype=np.uint8)
    pixels[:, :10, :20] = 0
    pixels[:, 20, 20] = 0  # one dark pixel
    items, skipped = imagery(tmp_path, pixels, [])
    unknown = [item.unknown[""].sum() for item in items if item.unknown]
    assert len(items) == 2 and unknown == [200] and skipped == {"picture with pixels without data: not scored there": 1}


def test_pictures_beyond_the_map_are_told(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 256, (3, 32, 96), dtype=np.uint8)
    items, skipped = imagery(tmp_path, pixels, [[(2, 2), (9, 2), (9, 9), (2, 2)]])
    assert len(items) == 3 and skipped == {"picture beyond all shapes of the map: taken as empty": 2}


def test_maps_that_other_systems_write_beside_files_are_passed_over(tmp_path):
    square = [[[0, 0], [1, 0], [1, 1], [0, 0]]]
    feature = {"type": "Feature", "properties": {"class": "pier"}, "geometry": {"type": "Polygon", "coordinates": square}}
    (tmp_path / "town.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    (tmp_path / "._town.geojson").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "labels.geojson").write_bytes(b"\x00\x05\x16\x07")
    assert true_masks.classes(tmp_path, "polygons") == ["pier"]


@pytest.mark.parametrize(
    ("palette", "number"),
    [([255, 255, 255, 0, 0, 0], 0), ([0, 0, 0, 255, 255, 255], 1), ([0, 0, 0, 128, 0, 0], 1), ([68, 1, 84, 253, 231, 36], 1)],
)
def test_the_black_of_a_palette_is_outside_whatever_its_number(tmp_path, palette, number):
    """Without a black, 0 is outside; for class numbers colours say nothing."""
    (tmp_path / "road").mkdir()
    mask = np.full((20, 30), 1 - number, np.uint8)
    mask[3:5] = number
    root = write(tmp_path, {"road/b.png": mask})
    image = Image.fromarray(mask)
    image.putpalette(palette)
    image.save(root / "masks" / "road" / "a.png")
    (item, _), _ = read(root)
    np.testing.assert_array_equal(item.masks["road"], mask == number)
    (root / "masks" / "road" / "a.png").rename(root / "masks" / "a.png")
    (root / "classes.json").write_text(json.dumps(["background", "road"]))
    (item,), _ = read(root)
    np.testing.assert_array_equal(item.masks["road"], mask == 1)


@pytest.mark.parametrize("driver", ["PNG", "GTiff"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_numbers_are_those_that_are_stored(tmp_path, driver, bits, photometric):
    """However many bits they have, and whatever their shade."""
    rasterio = pytest.importorskip("rasterio", reason="the extra [data] is not installed")
    mask = index(v1=(3, 6), v0=(8, 9))
    mask[12:14] = 2**bits - 1
    root = write(tmp_path, {"b.png": mask})
    options = {"nbits": bits} | ({"photometric": photometric} if driver == "GTiff" else {})
    name = "a.tif" if driver == "GTiff" else "a.png"
    with rasterio.open(root / "masks" / name, "w", driver, 30, 20, 1, dtype="uint8", **options) as dataset:
        dataset.write(mask[None])
    (root / "classes.json").write_text(
        json.dumps({"0": "background", "1": "road", "255": "house"} | {str(2**bits - 1): "road"})
    )
    item = read(root)[0][0]
    np.testing.assert_array_equal(item.masks["road"], (mask == 1) | (mask == 2**bits - 1))


def test_a_mask_is_turned_upright_as_its_picture_is(tmp_path):
    mask, exif = index(v1=(0, 5)), Image.Exif()
    mask[:5, 7:] = 0
    root, exif[274] = write(tmp_path, {"b.png": mask}, ["background", "road"]), 6
    for folder in ("images", "masks"):
        stored = np.rot90(mask) if folder == "masks" else np.zeros((30, 20, 3), np.uint8)
        Image.fromarray(np.ascontiguousarray(stored)).save(root / folder / "a.png", exif=exif)
    np.testing.assert_array_equal(read(root)[0][0].masks["road"], mask == 1)


def test_the_outline_of_a_picture_is_told_and_not_only_the_box_around_it(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 256, (3, 32, 32), dtype=np.uint8)
    (item,), _ = imagery(tmp_path, pixels, [[(2, 2), (9, 2), (9, 9), (2, 2)]])
    from pyproj import Transformer

    to_grid = Transformer.from_crs("EPSG:4326", "EPSG:32629", always_xy=True)
    corners = [to_grid.transform(*place) for place in item.record["outline_lonlat"]]
    east, north = 460_000 + 320, 4_300_000 - 320
    assert np.allclose(corners, [(460_000, 4_300_000), (east, 4_300_000), (east, north), (460_000, north)], atol=0.01)
    west, south, east, north = item.record["footprint_lonlat"]
    lons, lats = zip(*item.record["outline_lonlat"])
    assert np.allclose([west, south, east, north], [min(lons), min(lats), max(lons), max(lats)], atol=1e-7)
