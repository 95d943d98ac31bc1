"""Pictures with true masks as people have them on disk, behind one iterator: `read`.

| benchmark | on disk |
|---|---|
| `coco` | `instances.json` (any one JSON of that form, also in `annotations/`) beside `images/`: polygons, or run lengths |
| `masks` | `images/KEY.ext` and `masks/CLASS/KEY.png`, not 0 is inside; or `masks/KEY.png` of class numbers, and `classes.json` |
| `polygons` | `labels.geojson` (or another map) beside GeoTIFFs or XYZ tiles; or folders of that |

What was not labelled is not "nothing there": pixels of `ignore`, `void`, `unlabeled` or `no data`, numbers that `classes.json` does not
name, crowds, things without a mask, pixels without data. `Item.unknown` says where, `truth` what may be scored then.

Benchmarks that are kept in another way, as the demo's, come in as a `Benchmark`. A mask of another size than its picture is
resampled to it (nearest, and counted) where both have the same proportions within 1 %; otherwise the picture is left out and counted:
it was turned or cut since. Names in files are data: one that leads out of the folder stops everything.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rsvlm.errors import DataError
from rsvlm.localization import coco, mask_files, shapes
from rsvlm.localization.mask_reading import EVERY

BENCHMARKS = ("coco", "masks", "polygons")


@dataclass(frozen=True)
class Item:
    """A picture and what is where in it.

    Attributes:
        key: Its name in the data set.
        image: Encoded bytes, for `images.decode`.
        masks: Class → (H, W) bool of the picture's size; a class that is nowhere in it is left out.
        record: `boxes`, where the data tell single things: class → (n, 4) float left, top, right, bottom in pixels; and what else
            is known: `file`, `footprint_lonlat` (the box around it), `outline_lonlat` (as of `imagery.ground.outlines`); and
            `boxes_alone`, likewise, of things of which no mask is known.
        unknown: Class → (H, W) bool, where nobody knows whether the class is there; `mask_reading.EVERY` stands for all classes.
    """

    key: str
    image: bytes
    masks: dict[str, np.ndarray]
    record: dict = field(default_factory=dict)
    unknown: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Truth:
    """What may be scored of C classes in one picture.

    Attributes:
        masks: (C, H, W) bool.
        unknown: (C, H, W) bool, pixels of which nobody knows whether they are of the class. None where all is known.
        unboxed: (C, H, W) bool, the same for boxes: without the things whose boxes alone are known. None likewise.
        boxes: (m, 4) true boxes of each class: of the things that the data tell apart, else of the parts of the mask.
        told: (C,) bool: it is known whether the class is in the picture.
        scored: A pixel or more is known of all classes.
    """

    masks: np.ndarray
    unknown: np.ndarray | None
    unboxed: np.ndarray | None
    boxes: list[np.ndarray]
    told: np.ndarray
    scored: bool


@dataclass(frozen=True)
class Benchmark:
    """Pictures with masks that are kept in a way of their own.

    Attributes:
        classes: Classes that the masks may have.
        split: Name of the split that is read.
        read: Function of the folder, the split, a count `skipped` of what is left out, and a `limit` to the pictures or None; it
            yields the arguments of `Item`.
    """

    classes: Sequence[str]
    split: str
    read: Callable[..., Iterable[tuple]]


def read(
    root: Path | str,
    benchmark: str = "coco",
    *,
    skipped: Counter | None = None,
    limit: int | None = None,
    half: str | None = None,
    label: str = "building",
    size_px: int = 256,
    others: Mapping[str, Benchmark] | None = None,
) -> Iterator[Item]:
    """Yield pictures with their masks, in an order that does not depend on the file system; pictures without a mask too.

    Args:
        root: The folder.
        benchmark: One of `BENCHMARKS` or of `others`.
        skipped: Counts, by reason, the pictures and masks left out, and those resampled.
        limit: Number of pictures, spread evenly over all of them. If None, all.
        half: `a` or `b`: only the pictures of this half, as `half_of` splits them, so that settings are chosen on one and scores are of
            the other. If None, all.
        label: Of `polygons`: the class of shapes that say nothing of themselves; others tell theirs by a property `class`, or are
            what the taxonomy of maps has for their tags.
        size_px: Of `polygons`: side of the chips that pictures are cut into.
        others: Further benchmarks by name.

    Raises:
        DataError: The folder, or the file that describes it, is missing, broken or of another form.
        MissingExtraError: `polygons` needs the packages of [data].
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit}: give the number of pictures, 1 or more")
    if half not in (None, "a", "b"):
        raise DataError(f"half '{half}': choose a or b, or none for all pictures")
    layout, skipped = _opened(root, benchmark, others, label, size_px), Counter() if skipped is None else skipped
    if isinstance(layout, Benchmark):
        items = (Item(*parts) for parts in layout.read(Path(root), layout.split, skipped=skipped, limit=limit))
        return (item for item in items if half in (None, half_of(item.key)))

    def choose(keys: Sequence[str]) -> list[int]:
        """Return the numbers of the pictures of the half, and of these `limit`, spread evenly."""
        numbers = [n for n, key in enumerate(keys) if half in (None, half_of(key))]
        if limit is None or limit >= len(numbers):
            return numbers
        return [numbers[n] for n in np.linspace(0, len(numbers) - 1, limit).round().astype(int)]

    return (Item(*parts) for parts in layout.read(choose, skipped))


def classes(
    root: Path | str, benchmark: str = "coco", *, label: str = "building", others: Mapping[str, Benchmark] | None = None
) -> list[str]:
    """Return the classes that the masks may have, in the words a text tower reads (`storage_tank` is `storage tank`).

    Arguments and errors are those of `read`.
    """
    return list(_opened(root, benchmark, others, label).classes)


def truth(item: Item, classes: Sequence[str], size: tuple[int, int]) -> Truth:
    """Say what may be scored of some classes in a picture.

    Args:
        item: The picture.
        classes: C classes; masks of others are passed over.
        size: Height and width of the picture.

    Raises:
        DataError: A mask of another size than the picture.
    """
    shape = (len(classes), *size)
    masks, unboxed, unknown = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, bool)
    told = np.ones(len(classes), bool)
    boxes = []
    for c, name in enumerate(classes):
        masks[c] = _of_size(item, item.masks.get(name), size, f"mask of '{name}'")
        for key in (EVERY, name):
            unboxed[c] |= _of_size(item, item.unknown.get(key), size, f"unknown part of '{name}'")
        masks[c] &= ~unboxed[c]
        alone = np.asarray(item.record.get("boxes_alone", {}).get(name, []), np.float64).reshape(-1, 4)
        unknown[c] = (unboxed[c] | inside_boxes(alone, size)) & ~masks[c]
        told[c] = masks[c].any() or not (unknown[c].all() or len(alone) or item.unknown.get(name, np.False_).any())
        if "boxes" in item.record:
            of_things = np.asarray(item.record["boxes"].get(name, []), np.float64).reshape(-1, 4)
            of_things = np.concatenate([of_things, alone])
        else:
            of_things = shapes.boxes(shapes.components(masks[c])).astype(np.float64)
        boxes.append(of_things[mostly_known(of_things, unboxed[c])])
    known = not unknown.any()
    nowhere = None if known else unknown
    return Truth(masks, nowhere, None if known else unboxed, boxes, told, known or not unknown.any(0).all())


def _of_size(item: Item, mask: np.ndarray | None, size: tuple[int, int], what: str) -> np.ndarray:
    if mask is None:
        return np.zeros(size, bool)
    if mask.shape != size:
        raise DataError(
            f"{item.key}: the {what} is {mask.shape}, the image {size}: expected equal sizes, as from true_masks.read"
        )
    return np.asarray(mask, bool)


def inside_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the (H, W) bool pixels that boxes (m, 4) of left, top, right and bottom touch."""
    area = np.zeros(size, bool)
    for left, top, right, bottom in boxes:
        area[int(max(top, 0)) : int(np.ceil(bottom)), int(max(left, 0)) : int(np.ceil(right))] = True
    return area


def mostly_known(boxes: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Say of (m, 4) boxes whether not more than half of each is unknown: (m,) bool; `unknown` is (H, W) bool."""
    if not unknown.any():
        return np.ones(len(boxes), bool)
    return np.array([unknown[inside_boxes(box[None], unknown.shape)].mean() <= 0.5 for box in boxes], bool)


def half_of(key: str) -> str:
    """Return `a` or `b`, by a hash of a picture's name alone."""
    return "ab"[hashlib.sha256(key.encode()).digest()[-1] % 2]


def _opened(root: Path | str, benchmark: str, others: Mapping[str, Benchmark] | None, label: str, size_px: int = 256):
    """Open a folder, whose `classes` and whose pictures can be read then."""
    root, others = Path(root), others or {}
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: give the one that holds the pictures and their masks")
    if benchmark == "coco":
        return coco.Coco(root)
    if benchmark == "masks":
        return mask_files.Folders(root)
    if benchmark == "polygons":
        return mask_files.Polygons(root, label, size_px)
    if benchmark not in others:
        raise DataError(f"unknown kind of masks '{benchmark}': choose one of {', '.join([*BENCHMARKS, *others])}")
    return others[benchmark]
