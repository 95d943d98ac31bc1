"""True masks of many forms beside pycocotools' and Pillow's reading of them, and scores that must not depend on how they were written."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import png
from fuzzing import fuzz
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from rsvlm.localization import mask_reading, scoring, true_masks

rasterio = pytest.importorskip("rasterio")
mask_api = pytest.importorskip("pycocotools.mask")

SEEDS = st.integers(0, 2**32 - 1)
NAMES = ("ship", "storage_tank", "dock")


def random_mask(rng, H, W):
    """A mask of blobs: some empty, some full, some of single pixels."""
    if (kind := rng.random()) < 0.1:
        return np.full((H, W), rng.random() < 0.5)
    noise = rng.random((H, W)) if kind < 0.4 else ndimage.gaussian_filter(rng.random((H, W)), rng.uniform(0.5, 3))
    return noise > np.quantile(noise, rng.uniform(0.2, 0.99))


def star(rng, H, W):
    """A ring that does not cross itself, which may reach over the edge of the picture."""
    count = rng.integers(3, 12)
    angles = np.sort(rng.random(count)) * 2 * np.pi
    radii = rng.uniform(0.1, 0.7, count) * rng.uniform(2, max(H, W))
    ring = rng.uniform(0, (W, H)) + np.column_stack([np.cos(angles), np.sin(angles)]) * radii[:, None]
    ring = ring.round(int(rng.integers(0, 4)))
    return ring[::-1] if rng.random() < 0.5 else ring


def lengths(mask, rng):
    """Run lengths of a mask in one of COCO's two forms; the table may be older JSON, with text that is compressed."""
    packed = mask_api.encode(np.asfortranarray(mask, np.uint8))
    if rng.random() < 0.5:
        return {"size": list(mask.shape), "counts": packed["counts"].decode()}
    flat = np.concatenate([[False], mask.T.ravel()])
    return {"size": list(mask.shape), "counts": np.diff([0, *np.flatnonzero(flat[1:] != flat[:-1]), mask.size]).tolist()}


def thing(rng, H, W):
    """An annotation; by pycocotools its mask with its outline, and those of its pixels that are beyond doubt; None if it has no mask."""
    kind = rng.choice(["rings", "rings", "lengths", "lengths", "box", "nothing"])
    nowhere = np.zeros((H, W), bool)
    if kind == "box":
        left, top = rng.integers(0, W - 2), rng.integers(0, H - 2)
        box = [int(left), int(top), int(rng.integers(1, W - left)), int(rng.integers(1, H - top))]
        return {"bbox": box} | rng.choice([{}, {"segmentation": []}, {"segmentation": None}]), None, None
    if kind == "nothing":
        return dict(rng.choice([{}, {"segmentation": []}, {"segmentation": [[1, 1, 2, 2]]}, {"bbox": []}])), None, None
    if kind == "lengths":
        mask = random_mask(rng, H, W)
        return {"segmentation": lengths(mask, rng)}, mask, mask
    rings = [star(rng, H, W) for _ in range(rng.integers(1, 4))]
    flat = [ring.ravel().tolist() for ring in rings]
    mask = mask_api.decode(mask_api.merge(mask_api.frPyObjects(flat, H, W))) > 0
    sure = nowhere.copy()
    beyond = 2 * max(H, W)  # drawn on a wider sheet: what leaves the picture, pycocotools draws along its edge
    for ring in flat:  # each by itself: where two touch, neither tells of the seam
        wide = mask_api.frPyObjects([(np.array(ring) + beyond).tolist()], H + 2 * beyond, W + 2 * beyond)[0]
        inside = ndimage.binary_erosion(mask_api.decode(wide) > 0, np.ones((3, 3)))
        sure |= inside[beyond : beyond + H, beyond : beyond + W]
    for ring in rings:  # a tip narrower than a pixel is drawn by one and not by the other
        edge = np.concatenate([np.linspace(a, b, 200) for a, b in zip(ring, np.roll(ring, -1, 0), strict=True)])
        column, row = np.floor(edge).astype(int).T
        there = (column >= 0) & (column < W) & (row >= 0) & (row < H)
        mask[row[there], column[there]] = True
    broken = [[[1.0, 2.0]], [[3, 4, 5, 6]], [[]], []]
    flat += broken[rng.integers(0, 4)]
    return {"segmentation": flat}, mask, sure


@fuzz(seed=SEEDS)
def test_what_a_coco_table_says_is_what_pycocotools_reads(seed):
    """Every annotation is in a mask, among what is unknown, or counted; no pixel is in a mask that pycocotools has not, but for outlines."""
    rng = np.random.default_rng(seed)
    H, W = (int(n) for n in rng.integers(4, 40, 2))
    numbers = rng.permutation(90)[: len(NAMES) + 1].tolist()  # ids of categories begin anywhere
    void = rng.choice(["ignored regions", "Void", "unlabeled", "no-data"])
    categories = [{"id": n, "name": name, "supercategory": None} for n, name in zip(numbers, (*NAMES, void), strict=True)]
    most, least, apart, counted, doubtful, annotations = {}, {}, Counter(), 0, 0, []
    empty = np.zeros((H, W), bool)
    for number in range(rng.integers(0, 7)):
        which = int(rng.integers(0, len(numbers)))
        said, mask, sure = thing(rng, H, W)
        flag = dict(rng.choice([{}, {}, {"iscrowd": 0}, {"iscrowd": 1}, {"ignore": 1}, {"iscrowd": True}]))
        annotations.append({"id": number * 7, "image_id": "p", "category_id": numbers[which], "area": 0} | said | flag)
        if which == len(NAMES) or any(flag.values()) or mask is None:
            counted += 1
            apart[which] += mask is None or sure.any()
            continue
        if not sure.any():  # narrower than a pixel, where each rounds in its way; or without a pixel in run lengths
            counted, doubtful = counted + (mask is sure), doubtful + (mask is not sure)
        name = NAMES[which].replace("_", " ")
        most[name], least[name] = most.get(name, empty) | mask, least.get(name, empty) | sure
    strange = int(rng.integers(0, 3))
    annotations += [{"id": 1, "image_id": "q", "category_id": numbers[0], "segmentation": []}] * strange
    rng.shuffle(annotations)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        prefix = rng.choice(["", "images/", "sub/", "sub\\", "./"])
        path = root / ("" if prefix.startswith("images") else "images") / (prefix.replace("\\", "/") + "a.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.full((H, W, 3), 90, np.uint8)))
        row = {"id": "p", "file_name": f"{prefix}a.png", "height": H, "width": W, "license": None}
        content = json.dumps({"images": [row], "annotations": annotations, "categories": categories, "info": {}})
        (root / rng.choice(["instances.json", "x.json"])).write_bytes(
            content.encode("utf-8-sig" if rng.random() < 0.2 else "utf-8")
        )
        skipped = Counter()
        logging.disable()
        try:
            (item,) = true_masks.read(root, "coco", skipped=skipped)
        finally:
            logging.disable(logging.NOTSET)
    for name in {*most, *item.masks}:
        ours = item.masks.get(name, empty)
        near = ndimage.binary_dilation(most.get(name, empty), np.ones((3, 3)))
        assert not (least.get(name, empty) & ~ours).any(), f"lacks pixels of {name}"
        assert not (ours & ~near).any(), f"has pixels that are no {name}"
    told = sum(n for reason, n in skipped.items() if "ring of fewer" not in reason)
    assert counted + strange <= told <= counted + strange + doubtful
    for which in apart:  # whatever is apart is unknown, or a box alone
        key = mask_reading.EVERY if which == len(NAMES) else NAMES[which].replace("_", " ")
        if apart[which]:
            assert key in item.unknown or key in item.record.get("boxes_alone", {}) or key in item.masks


@fuzz(seed=SEEDS)
def test_average_precision_of_boxes_is_that_of_pycocotools(seed):
    """Boxes around rectangles of distinct heights; COCO's own evaluation reads precision at 101 recalls, ours all of them."""
    from pycocotools import coco, cocoeval

    rng = np.random.default_rng(seed)
    H, W, images, truths, answers, items, maps = 40, 50, [], [], [], [], []
    for number in range(rng.integers(1, 5)):
        heat = np.zeros((1, H, W), np.float32)
        boxes = []
        for row in range(3):
            for column in range(3):  # a cell of 12 × 16 pixels for each, none of which touches another
                if rng.random() < 0.5:
                    top, left = rng.integers(1, 5) + 13 * row, rng.integers(1, 6) + 16 * column
                    height, width = rng.integers(2, 7), rng.integers(2, 9)
                    boxes.append([int(left), int(top), int(width), int(height)])
                if rng.random() < 0.5:
                    near = (
                        boxes[-1]
                        if boxes and rng.random() < 0.8 and boxes[-1][0] // 16 == column
                        else [16 * column + 2, 13 * row + 2, 6, 4]
                    )
                    left, top = near[0] + rng.integers(-1, 2), 13 * row + 1 + (near[1] - 1) % 13 + rng.integers(0, 2)
                    width, height = near[2] + rng.integers(-1, 2), min(near[3] + rng.integers(-1, 2), 13 * row + 12 - top)
                    if width < 1 or height < 1 or left < 16 * column or left + width > 16 * column + 15:
                        continue
                    score = float(np.float32(rng.uniform(0.6, 1)))
                    heat[0, top : top + height, left : left + width] = score
                    answers.append(
                        {
                            "image_id": number,
                            "category_id": 1,
                            "bbox": [int(n) for n in (left, top, width, height)],
                            "score": score,
                        }
                    )
        mask = np.zeros((H, W), bool)
        for left, top, width, height in boxes:
            mask[top : top + height, left : left + width] = True
        corners = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], float).reshape(-1, 4)
        items.append(
            true_masks.Item(
                str(number), png(np.zeros((H, W, 3), np.uint8)), {"ship": mask} if boxes else {}, {"boxes": {"ship": corners}}
            )
        )
        images.append({"id": number, "height": H, "width": W})
        truths += [{"image_id": number, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0} for box in boxes]
        maps.append(heat)
    if not truths or not answers:
        return
    turn = iter(maps)
    rows = scoring.evaluate(items, lambda image: next(turn), ["ship"], bootstrap_samples=0)
    ours = next(row["value"] for row in rows if row["metric"] == "ap50[ship]")
    table = coco.COCO()
    table.dataset = {
        "images": images,
        "annotations": [{"id": n} | one for n, one in enumerate(truths, 1)],
        "categories": [{"id": 1}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        table.createIndex()
        judge = cocoeval.COCOeval(table, table.loadRes(answers), "bbox")
        judge.params.iouThrs = np.array([0.5])
        judge.evaluate()
        judge.accumulate()
    theirs = 100 * judge.eval["precision"][0, :, 0, 0, 2].mean()
    assert abs(ours - theirs) < 1.01, (ours, theirs)


def write_index(root, key, index, rng):
    """Write class numbers as some program would."""
    kinds = ["L", "P", "I;16", "TIFF", "TIFF LZW", "GDAL", "turned"] + ["1"] * int(index.max() <= 1) + ["BIG"]
    kind = rng.choice(kinds)
    if kind == "BIG":  # a mask of twice the picture's sides
        index = index.repeat(2, 0).repeat(2, 1)
    if kind == "GDAL":  # as files of a single band are often written, and with 0 for white, which is no other number
        sizes = {"height": index.shape[0], "width": index.shape[1], "count": 1, "dtype": "uint8", "driver": "GTiff"}
        sizes |= {"interleave": "band"} | ({"photometric": "miniswhite"} if rng.random() < 0.5 else {})
        with rasterio.open(root / "masks" / f"{key}.tif", "w", **sizes) as dataset:
            dataset.write(index.astype(np.uint8)[None])
        return
    options = {}
    if kind == "turned":
        exif = Image.Exif()
        exif[274], index, options = 3, np.rot90(index, 2), {"exif": exif}
    image = Image.fromarray(index > 0 if kind == "1" else index.astype(np.uint16 if kind == "I;16" else np.uint8))
    if kind == "P":
        image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    suffix = ".tif" if kind.startswith("TIFF") else ".png"
    image.save(root / "masks" / f"{key}{suffix}", **options | ({"compression": "tiff_lzw"} if kind == "TIFF LZW" else {}))


@fuzz(seed=SEEDS)
def test_scores_hang_on_what_is_labelled_alone(seed):
    """An exact map is worth 100, whatever it says where nothing is known; a turn of everything, and more that is unknown, change little.

    Turned pictures, masks and maps have the scores of those that were not turned, and a part to ignore changes no number of pictures of
    other pictures.
    """
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 4))
    numbers = rng.permutation(np.arange(1, 254))[:3].tolist()
    table = {str(n): name for n, name in zip(numbers, NAMES, strict=True)}
    zero = rng.choice(["background", "ignore", "void"])
    table |= {"0": zero}
    values = np.array([0, *numbers, 255])  # 255 has no name
    labels = [values[ndimage.zoom(rng.integers(0, 5, (4, 3)), 4, order=0)] for _ in range(count)]
    if rng.random() < 0.2:
        labels = [np.where(label == 255, 0, label) for label in labels]
    for label in labels:
        label[-1, :4] = 0, 0, *numbers[:2]  # a map of a class that is everywhere is the same everywhere, which says nothing
    form = rng.integers(0, 3)
    if form == 1:
        table = {name: int(n) for n, name in table.items()}
    elif form == 2:
        table = [next((name for n, name in table.items() if int(n) == i), f"other {i}") for i in range(255)]
    names = [name.replace("_", " ") for name in NAMES]

    def scored(turns, more=False, noise=0.0):
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            (root / "images").mkdir()
            (root / "masks").mkdir()
            (root / "classes.json").write_text(json.dumps(table))
            for n, label in enumerate(labels):
                turned = np.rot90(label, turns).copy()
                (root / "images" / f"k{n}.png").write_bytes(png(np.full((*turned.shape, 3), n, np.uint8)))
                written = turned.copy()
                if more and n == 0:
                    written[:3] = 255
                write_index(root, f"k{n}", written, np.random.default_rng(seed + n))
            skipped = Counter()
            logging.disable()
            try:
                items = list(true_masks.read(root, "masks", skipped=skipped))
            finally:
                logging.disable(logging.NOTSET)
        assert len(items) == count, skipped

        def maps(image):
            n = int(image[0, 0, 0])
            exact = np.stack([labels[n] == number for number in numbers]).astype(np.float32)
            exact += noise * np.random.default_rng([seed, n]).random(exact.shape, np.float32)
            nowhere = (labels[n] == 255) | ((labels[n] == 0) & (zero != "background"))
            exact[:, nowhere] = np.random.default_rng().normal(0, 9, (3, nowhere.sum()))
            return np.rot90(exact, turns, (1, 2))

        rows = scoring.evaluate(items, maps, names, bootstrap_samples=0)
        return {row["metric"]: (row["value"], row["n"]) for row in rows}, items

    exact, items = scored(0)
    wrong = {metric: value for metric, (value, _) in exact.items() if value < 100 - 1e-6}
    assert not wrong, wrong
    there = {number for label in labels for number in label[label > 0].tolist()} - {255}
    assert ("miou" in exact) == bool(there)
    for item, label in zip(items, labels, strict=True):  # as numpy has them
        for number, name in zip(numbers, names, strict=True):
            np.testing.assert_array_equal(item.masks.get(name, label < 0), label == number)
        unknown = (label == 255) | ((label == 0) & (zero != "background"))
        np.testing.assert_array_equal(item.unknown.get(mask_reading.EVERY, label < 0), unknown)
    plain, _ = scored(0, noise=1.5)
    for turns in (1, 2, 3):
        turned, _ = scored(turns, noise=1.5)
        assert turned.keys() == plain.keys()
        for metric in plain:
            assert turned[metric] == pytest.approx(plain[metric], abs=1e-4), metric
    few, _ = scored(0, more=True)
    for metric, (value, n) in few.items():
        assert value > 100 - 1e-6, metric
        if metric in exact:  # of one picture of three classes
            assert exact[metric][1] - 3 <= n <= exact[metric][1], metric


@fuzz(seed=SEEDS)
def test_masks_of_a_class_are_what_is_not_black_in_them(seed):
    """Whatever the program that wrote a mask calls white, inside is where a viewer shows more than black."""
    rng = np.random.default_rng(seed)
    inside = random_mask(rng, 14, 18)
    kinds = ["L", "one", "bits", "P", "RGB", "RGBA", "LA", "I;16", "TIFF", "G4", "grey palette"]
    kind = rng.choice(kinds)
    grey = inside.astype(np.uint8) * np.uint8(1 if kind == "one" else rng.choice([1, 128, 255]))
    options, suffix = {}, rng.choice([".png", ".tif"])
    if kind in ("bits", "G4"):
        image = Image.fromarray(inside)
        options, suffix = ({"compression": "group4"}, ".tif") if kind == "G4" else ({}, suffix)
    elif kind in ("P", "grey palette"):  # either colour may come first
        black = int(rng.integers(0, 2))
        image = Image.fromarray(np.where(inside, 1 - black, black).astype(np.uint8))
        colour = [255, 255, 255] if kind == "grey palette" else rng.integers(1, 256, 3).tolist()
        image.putpalette([0, 0, 0, *colour] if black == 0 else [*colour, 0, 0, 0])
    elif kind == "I;16":
        image, suffix = Image.fromarray(inside.astype(np.uint16) * np.uint16(rng.choice([1, 256, 65535]))), ".png"
    elif kind in ("RGB", "RGBA"):
        image = Image.fromarray(np.where(inside[..., None], rng.integers(1, 256, 3), 0).astype(np.uint8))
        if kind == "RGBA":
            image.putalpha(255)
    else:
        image = Image.fromarray(grey)
        if kind == "LA":
            image = image.convert("LA")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "images").mkdir()
        (root / "masks" / "ship").mkdir(parents=True)
        (root / "images" / "a.png").write_bytes(png(np.zeros((14, 18, 3), np.uint8)))
        image.save(root / "masks" / "ship" / f"a{suffix}", **options)
        (root / "masks" / "ship" / "._a.png").write_bytes(b"\x00\x05\x16\x07")
        (item,) = true_masks.read(root, "masks")
    np.testing.assert_array_equal(item.masks.get("ship", np.zeros((14, 18), bool)), inside, err_msg=f"{kind} {suffix}")
