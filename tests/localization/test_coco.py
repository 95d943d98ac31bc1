"""What COCO's tables say, and what they leave unknown, beside pycocotools' reading of the same files."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import png
from hypothesis import given, settings, strategies as st

from rsvlm.errors import DataError
from rsvlm.localization import scoring, true_masks

SQUARE = [10, 5, 20, 5, 20, 15, 10, 15]


def write(root, annotations, *, names=("a.png", "b.png"), categories=("ship", "dock"), table="instances.json", at=None):
    """A table of pictures of 20 × 30 pixels; their files lie at `at`, or where the names say below images/."""
    rows = [{"id": n, "file_name": name, "height": 20, "width": 30} for n, name in enumerate(names)]
    for n, name in enumerate(at or [f"images/{name}" for name in names]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(np.full((20, 30, 3), 40 * n + 90, np.uint8)))
    of = [{"id": n, "name": name} for n, name in enumerate(categories)]
    (root / table).parent.mkdir(parents=True, exist_ok=True)
    numbered = [{"id": n} | one for n, one in enumerate(annotations, 1)]
    (root / table).write_text(json.dumps({"images": rows, "annotations": numbered, "categories": of}))
    return root


def of(segmentation, image=0, category=0, **more):
    return {"image_id": image, "category_id": category, "segmentation": segmentation} | more


def lengths(mask):
    """Uncompressed run lengths, down the columns."""
    flat = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, mask.size]).tolist()}


def read(root):
    skipped = Counter()
    return list(true_masks.read(root, "coco", skipped=skipped)), dict(skipped)


def test_a_ring_without_an_area_is_left_out_alone(tmp_path):
    (good, _), _ = read(write(tmp_path / "good", [of([SQUARE])]))
    for odd in ([12, 12, 13, 13], [12, 12], [], [12, 12, 13]):
        (item, _), skipped = read(write(tmp_path / "odd", [of([odd, SQUARE])]))
        np.testing.assert_array_equal(item.masks["ship"], good.masks["ship"])
        assert not item.unknown and skipped == {"ring of fewer than three points": 1}


@pytest.mark.parametrize(
    ("names", "at", "table"),
    [
        (("images/a.png", "images/b.png"), None, "instances.json"),
        (("a.png", "b.png"), ("a.png", "images/b.png"), "instances.json"),
        (("images\\a.png", "deep\\b.png"), ("images/a.png", "images/deep/b.png"), "instances.json"),
        (("a.png", "b.png"), None, "annotations/instances_default.json"),
        (("a.png", "b.png"), ("annotations/a.png", "annotations/b.png"), "annotations/x.json"),
    ],
)
def test_pictures_are_found_however_their_names_are_written(tmp_path, names, at, table):
    if at is None:
        at = [name if name.startswith("images") else f"images/{name}" for name in names]
    (tmp_path / ".odd").mkdir()
    root = write(tmp_path, [of([SQUARE])], names=names, at=at, table=table)
    (root / "._instances.json").write_bytes(b"\x00\x05\x16\x07")  # what other systems write beside files
    items, skipped = read(root)
    (item,) = [item for item in items if item.record["file"] == names[0]]
    assert len(items) == 2 and not skipped and item.masks["ship"].sum() == 100
    assert "\\" not in "".join(item.key for item in items)


def test_where_no_picture_is_there_the_first_is_named(tmp_path):
    root = write(tmp_path, [of([SQUARE])])
    for name in ("a.png", "b.png"):
        (root / "images" / name).rename(root / "images" / f"moved {name}")
    with pytest.raises(DataError, match=r"none of its 2 pictures is there; the first, 'a.png'"):
        read(root)


def knows(image):
    """An exact map of the square in the pictures of `write` that have it: those of the colour 90."""
    heat = np.zeros((2, *image.shape[:2]), np.float32)
    if image[0, 0, 0] == 90:
        heat[0, 5:15, 10:20] = 1
    return heat


@pytest.mark.parametrize(
    "segmentation", [[], None, [[1, 2, 3, 4]], [[0, 0, 4, 4, np.nan, 9]], {"size": [2, 2], "counts": [4]}]
)
def test_a_box_without_a_mask_counts_in_ap50_alone(tmp_path, segmentation):
    (item, other), skipped = read(write(tmp_path, [of(segmentation, bbox=[10, 5, 10, 10])]))
    assert not item.masks and item.record["boxes_alone"]["ship"].tolist() == [[10, 5, 20, 15]]
    assert list(skipped.values()) == [1] and all("ap50 alone" in reason for reason in skipped)
    rows = scoring.evaluate([item, other], knows, ["ship", "dock"], bootstrap_samples=0)
    assert {row["metric"]: row["value"] for row in rows} == {"ap50": 100, "ap50[ship]": 100}
    truth = true_masks.truth(item, ["ship", "dock"], (20, 30))
    assert truth.unknown[0].sum() == 100 and not truth.unboxed.any() and truth.told.tolist() == [False, True]


def test_a_thing_of_which_nothing_is_known_takes_its_class_out_of_the_picture(tmp_path):
    root = write(tmp_path, [of([]), of([SQUARE]), of([SQUARE], category=1), of([SQUARE], image=1)])
    (item, other), skipped = read(root)
    assert skipped == {"neither mask nor box: class left out of its picture": 1}
    truth = true_masks.truth(item, ["ship", "dock"], (20, 30))
    assert truth.unknown[0].all() and not truth.unknown[1].any() and truth.told.tolist() == [False, True] and not truth.scored
    measured = scoring.measure([item, other], {"a": lambda image: np.ones((2, 20, 30))}, ["ship", "dock"])["a"]
    assert measured.pairs[["image", "label"]].to_numpy().tolist() == [[0, 1], [1, 0]]
    assert measured.true_boxes.tolist() == [[0, 1], [1, 0]] and measured.cells[0].sum() == 0


def test_a_thing_smaller_than_a_pixel_is_not_scored(tmp_path):
    tiny = of([[3.1, 3.1, 3.3, 3.1, 3.3, 3.3]], bbox=[3.1, 3.1, 0.2, 0.2])
    (item, _), skipped = read(write(tmp_path, [tiny, of([[90, 90, 95, 90, 95, 95]], bbox=[90, 90, 5, 5])]))
    assert skipped == {"mask without a pixel": 2} and np.argwhere(item.unknown["ship"]).tolist() == [[3, 3]]


def test_crowds_and_what_is_to_be_ignored_are_unknown_as_pycocotools_holds_them(tmp_path):
    """A box in a crowd, or in a part to ignore, is neither right nor wrong: the same AP as COCO's own evaluation."""
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    crowd = np.zeros((20, 30), bool)
    crowd[2:18, 1:9] = True
    annotations = [of([SQUARE], area=100, bbox=[10, 5, 10, 10], iscrowd=0)]
    annotations.append(of(lengths(crowd), iscrowd=1, area=128, bbox=[1, 2, 8, 16]))
    root = write(tmp_path, annotations)
    (item, other), skipped = read(root)
    np.testing.assert_array_equal(item.unknown["ship"], crowd)
    assert skipped == {"crowd or part to ignore, not scored": 1}

    def maps(image):
        """Sure of something in the crowd, less sure of the ship."""
        heat = knows(image)
        heat[0, 4:9, 3:7] = 2
        return heat if image[0, 0, 0] == 90 else heat * 0

    rows = scoring.evaluate([item, other], maps, ["ship", "dock"], bootstrap_samples=0)
    ours = {row["metric"]: row["value"] for row in rows}
    assert {ours[name] for name in ("pointing", "energy", "iou@0.5", "miou", "ap50")} == {100}
    truth = coco.COCO(str(root / "instances.json"))
    boxes = [([3, 4, 4, 5], 2.0), ([10, 5, 10, 10], 1.0)]
    answers = [{"image_id": 0, "category_id": 0, "bbox": box, "score": score} for box, score in boxes]
    judge = cocoeval.COCOeval(truth, truth.loadRes(answers), "bbox")
    judge.params.iouThrs = np.array([0.5])
    judge.evaluate()
    judge.accumulate()
    assert judge.eval["precision"][0, :, 0, 0, 2].mean() == pytest.approx(ours["ap50"] / 100)


def test_classes_that_were_not_looked_for_in_a_picture_are_unknown_there(tmp_path):
    root = write(tmp_path, [of([SQUARE]), of([SQUARE], category=1)], categories=("ship", "dock", "tree", "road"))
    table = json.loads((root / "instances.json").read_text())
    table["images"][0] |= {"neg_category_ids": [2], "not_exhaustive_category_ids": [1]}
    (root / "instances.json").write_text(json.dumps(table))
    (item, other), _ = read(root)
    truth = true_masks.truth(item, true_masks.classes(root, "coco"), (20, 30))
    assert truth.unknown.sum((1, 2)).tolist() == [0, 500, 0, 600] and truth.told.tolist() == [True, True, True, False]
    assert not other.unknown


def test_categories_may_be_called_ignore_or_background(tmp_path):
    annotations = [of([SQUARE]), of([SQUARE], category=1, image=1), of([[0, 0, 30, 0, 30, 4, 0, 4]], category=2)]
    root = write(tmp_path, annotations, categories=("ship", "ignored regions", "background"))
    assert true_masks.classes(root, "coco") == ["ship"]
    (item, other), skipped = read(root)
    assert set(item.masks) == {"ship"} and not item.unknown and other.unknown[""].sum() == 100
    assert skipped == {"area of 'ignored regions', not scored": 1}
    write(tmp_path, [], categories=("void",))
    with pytest.raises(DataError, match="name no class"):
        true_masks.classes(root, "coco")


def shapes_of(draw):
    """Rings of a thing in a picture of 20 × 30 pixels, some over its edge, some too short."""
    points = st.tuples(st.floats(-4, 34), st.floats(-4, 24))
    return draw(st.lists(st.lists(points, min_size=1, max_size=6), min_size=1, max_size=3))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_masks_are_those_of_pycocotools(tmp_path_factory, data):
    """Run lengths are the same to the pixel; polygons but for pixels that an edge runs through, which each rounds in its way."""
    coco = pytest.importorskip("pycocotools.coco")
    mask = np.random.default_rng(data.draw(st.integers(0, 10**6))).random((20, 30)) < data.draw(st.floats(0.01, 0.99))
    rings = [[round(number, 2) for point in ring for number in point] for ring in shapes_of(data.draw)]
    usable = [ring for ring in rings if len(ring) > 5]
    root = write(tmp_path_factory.mktemp("coco"), [of(lengths(mask)), of(rings, image=1)], names=("a.png", "b.png"))
    items, _ = read(root)
    table = coco.COCO(str(root / "instances.json"))
    np.testing.assert_array_equal(items[0].masks["ship"], table.annToMask(table.anns[1]) > 0)
    if not usable:
        assert items[1].unknown["ship"].all()
        return
    table.anns[2]["segmentation"] = usable
    theirs, ours = table.annToMask(table.anns[2]) > 0, items[1].masks.get("ship", np.zeros((20, 30), bool))
    near = np.zeros((20, 30), bool)
    for ring in usable:
        corners = np.array(ring).reshape(-1, 2)
        for one, other in zip(corners, np.roll(corners, -1, 0), strict=True):
            steps = np.linspace(one, other, 400)
            for dx in (-1, 0, 1):
                for dy in (-1, 0, 1):
                    column, row = np.floor(steps + [dx, dy]).astype(int).T
                    there = (column >= 0) & (column < 30) & (row >= 0) & (row < 20)
                    near[row[there], column[there]] = True
    # A ring that crosses itself is filled by another rule there.
    assert ((theirs != ours) & ~near).sum() == 0 or any(crosses(ring) for ring in usable)


def crosses(ring):
    shapely = pytest.importorskip("shapely")
    return not shapely.LinearRing(np.array(ring).reshape(-1, 2)).is_simple


def test_of_several_tables_the_one_that_is_read_is_told(tmp_path, caplog):
    root = write(tmp_path, [of([SQUARE])], table="annotations/a.json")
    write(root, [], table="annotations/b.json")
    (root / "annotations" / "captions.json").write_text('{"images": [], "annotations": []}')
    items, _ = read(root)
    assert items[0].masks["ship"].sum() == 100
    (told,) = [line.getMessage() for line in caplog.records]
    assert "a.json is read, and not b.json beside it" in told and "instances.json" in told
