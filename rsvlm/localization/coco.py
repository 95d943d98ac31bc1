"""COCO's table of pictures, categories and annotations, as masks: what each annotation says, and what it leaves unknown.

A crowd is an area in which things of a class were not told apart: it is not scored, as in COCO's own evaluation, and nor is what a
category called `ignore`, `void` or the like covers. A ring of fewer than three points has no area and is left out alone. Of a thing
whose mask is missing or broken the box is scored in `ap50` alone; where it has none, nothing is known of its class in that picture.
Nor is it of classes that were not looked for there, where the table tells (`neg_category_ids`, `not_exhaustive_category_ids`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rsvlm.data.reading import visible
from rsvlm.errors import DataError
from rsvlm.localization import pixels
from rsvlm.localization.mask_reading import (
    EVERY,
    MAX_BYTES,
    Choose,
    Parts,
    box_of,
    inside,
    is_background,
    is_unknown,
    read_json,
    read_picture,
    resized,
    same_shape,
    words,
)

logger = logging.getLogger(__name__)

LISTS = ("images", "annotations", "categories")
"""What a table has to hold."""


class Coco:
    """A table of pictures, categories and annotations."""

    def __init__(self, root: Path):
        self.root = root
        self.path, table = _find_table(root)
        try:
            names = {one["id"]: words(one["name"]) for one in table["categories"]}
            rows = sorted(table["images"], key=lambda one: str(one["file_name"]))
            for row in rows:
                if not (isinstance(row["file_name"], str) and 0 < row["height"] < 1e6 and 0 < row["width"] < 1e6):
                    raise DataError(f"{self.path}: picture {row} has no file_name, height or width")
            by_picture: dict = {row["id"]: [] for row in rows}
            strange = 0
            for one in table["annotations"]:
                if one["image_id"] in by_picture and one["category_id"] in names:
                    by_picture[one["image_id"]].append(one)
                else:
                    strange += 1
        except (KeyError, TypeError) as error:
            what = f"{type(error).__name__} {error} where one was expected"
            raise DataError(f"{self.path} is no COCO table: {what}") from None
        if len(by_picture) < len(rows) or len({row["file_name"] for row in rows}) < len(rows) or not names:
            ids = f"{len(by_picture)} ids, {len(names)} categories"
            raise DataError(f"{self.path}: {len(rows)} pictures with {ids}: keep one of each")
        if strange:
            logger.warning("%s: %d annotations are of no picture or no category of the table", self.path, strange)
        self.names, self.rows, self.strange, self.annotations = names, rows, strange, by_picture
        self.classes = list(dict.fromkeys(name for name in names.values() if not is_background(name) and not is_unknown(name)))
        if not self.classes:
            raise DataError(f"{self.path}: its categories, {', '.join(names.values())}, name no class to look for")

    def read(self, choose: Choose, skipped: Counter) -> Iterator[Parts]:
        """Yield pictures by the names of their files.

        Raises:
            DataError: None of the chosen pictures is there, or a name leads out of the folder.
        """
        files = [self._file(row["file_name"]) for row in self.rows]
        if self.strange:
            skipped["annotation of no picture or category"] += self.strange
        keys = [Path(_slashes(row["file_name"])).with_suffix("").as_posix() for row in self.rows]
        chosen = choose(keys)
        if chosen and not any(files[number].is_file() for number in chosen):
            name = self.rows[chosen[0]]["file_name"]
            raise DataError(
                f"{self.path}: none of its {len(chosen)} pictures is there; the first, {name!r}, was looked for in "
                f"{self._place()} and in {self.root}: put the pictures there, or give the folder that file_name starts from"
            )
        for number in chosen:
            row = self.rows[number]
            if (picture := read_picture(files[number], skipped)) is None:
                continue
            data, size = picture
            stated = (int(row["height"]), int(row["width"]))
            if stated != size:
                if not same_shape(stated, size):
                    skipped["picture of another shape than its masks"] += 1
                    continue
                skipped["mask resampled to its picture"] += 1
            masks, record, unknown = self._truth(row, stated, size, skipped)
            yield keys[number], data, masks, {"file": row["file_name"]} | record, unknown

    def _place(self) -> Path:
        return self.root / "images" if (self.root / "images").is_dir() else self.root

    def _file(self, name: str) -> Path:
        """Where a picture lies: by its name below images/, or below the folder of the table, however its parts are divided."""
        paths = [
            inside(self.root, place, file, self.path)
            for file in dict.fromkeys([name, _slashes(name)])
            for place in dict.fromkeys([self._place(), self.root, self.path.parent])
        ]
        return next((path for path in paths if path.is_file()), paths[0])

    def _truth(
        self, row: dict, stated: tuple[int, int], size: tuple[int, int], skipped: Counter
    ) -> tuple[dict[str, np.ndarray], dict, dict[str, np.ndarray]]:
        """Masks of classes; boxes of things, and of those that have no mask; and where nothing is known, by class."""
        masks, unknown = {}, {}
        boxes: dict[str, list] = {}
        alone: dict[str, list] = {}
        scale = np.array([size[1] / stated[1], size[0] / stated[0]])
        for one in self.annotations[row["id"]]:
            name = self.names[one["category_id"]]
            if is_background(name):
                continue
            void, broken = is_unknown(name), False
            apart = void or one.get("iscrowd") or one.get("ignore")
            try:
                mask = _segmentation(one.get("segmentation"), stated, size, skipped)
            except (DataError, ValueError, TypeError, KeyError, OverflowError) as error:
                logger.info("%s, annotation %s: %s", row["file_name"], one.get("id"), error)
                mask, broken = None, True
            if mask is not None and mask.any() and not apart:
                _add(masks, name, mask)
                boxes.setdefault(name, []).append(box_of(mask))
                continue
            box = _box(one, scale, size)
            if mask is not None and mask.any():
                skipped[f"area of '{name}', not scored" if void else "crowd or part to ignore, not scored"] += 1
            elif mask is not None and (box is None or min(box[2:] - box[:2]) < 1):
                skipped["mask without a pixel"] += 1
                if box is None:
                    continue
            elif box is not None:
                what = "mask broken" if broken else "box without a mask"
                skipped[f"{what}, not scored" if apart else f"{what}, for ap50 alone"] += 1
                if not apart:
                    alone.setdefault(name, []).append(box)
                    continue
            else:
                skipped["neither mask nor box: class left out of its picture"] += 1
            _add(unknown, EVERY if void else name, _area(mask, box, size))
        if "neg_category_ids" in row:
            self._open_world(row, size, masks, unknown)
        for name in unknown.keys() & masks.keys():  # what is known inside a crowd; of a whole picture nothing is
            if not unknown[name].all():
                unknown[name] = unknown[name] & ~masks[name]
        record = {"boxes": {name: np.array(corners, float) for name, corners in boxes.items()}}
        if alone:
            record["boxes_alone"] = {name: np.array(corners, float) for name, corners in alone.items()}
        return masks, record, unknown

    def _open_world(self, row: dict, size: tuple[int, int], masks: dict, unknown: dict) -> None:
        """Where a table says which classes were looked for in a picture, as LVIS does, the others are unknown there."""
        looked = {self.names.get(number) for number in row["neg_category_ids"] or []}
        partly = {self.names.get(number) for number in row.get("not_exhaustive_category_ids") or []}
        everywhere = np.broadcast_to(True, size)
        for name in self.classes:
            if name not in masks and name not in looked:
                unknown[name] = everywhere
            elif name in partly:
                unknown[name] = everywhere if name not in masks else ~masks[name]


def _find_table(root: Path) -> tuple[Path, dict]:
    """The first JSON file of the form, in the folder or in its annotations/, `instances.json` before others."""
    for folder in (root, root / "annotations"):
        paths = sorted(visible(folder, "*.json"), key=lambda path: (path.name != "instances.json", path.name))
        for number, path in enumerate(paths, 1):
            table = read_json(path)
            if isinstance(table, dict) and all(isinstance(table.get(name), list) for name in LISTS):
                if others := [other.name for other in paths[number:] if _may_be_table(other)]:
                    advice = "name the one that shall be read instances.json, or move the others elsewhere"
                    logger.warning("%s is read, and not %s beside it: %s", path, ", ".join(others), advice)
                return path, table
    raise DataError(f"{root} has no JSON file with lists of images, annotations and categories: expected a COCO data set")


def _may_be_table(path: Path) -> bool:
    """Tell by its words whether a file is another such table, without reading the numbers, which takes long."""
    data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    return not data or all(b'"%s"' % name.encode() in data for name in LISTS)


def _slashes(name: str) -> str:
    return name.replace("\\", "/")


def _add(areas: dict[str, np.ndarray], name: str, mask: np.ndarray) -> None:
    areas[name] = areas[name] | mask if name in areas else mask


def _area(mask: np.ndarray | None, box: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a mask; else those that a box touches; else the whole picture."""
    if mask is not None and mask.any():
        return mask
    area = np.zeros(size, bool)
    left, top = (0, 0) if box is None else np.floor(box[:2]).astype(int)
    right, bottom = size[::-1] if box is None else np.ceil(box[2:]).astype(int)
    area[top:bottom, left:right] = True
    return area


def _box(annotation: dict, scale: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The part of an annotation's box that is in the picture, in its pixels: left, top, right, bottom; None if there is none."""
    try:
        left, top, width, height = (float(number) for number in annotation["bbox"])
    except (KeyError, TypeError, ValueError):
        return None
    box = np.array([left, top, left + width, top + height]) * np.tile(scale, 2)
    if not np.isfinite(box).all():
        return None
    box = np.clip(box, 0, [size[1], size[0]] * 2)
    return box if (box[2:] > box[:2]).all() else None


def _segmentation(what: object, stated: tuple[int, int], size: tuple[int, int], skipped: Counter) -> np.ndarray | None:
    """The mask of an annotation, in the picture's own size; None where there is no outline and no run length."""
    if isinstance(what, dict):
        if [int(n) for n in what["size"]] != list(stated):
            raise DataError(f"run lengths of a mask of {what['size']}, picture of {list(stated)}")
        counts = what["counts"]
        counts = decode_counts(counts) if isinstance(counts, (str, bytes)) else np.array(counts or [], np.int64)
        return resized(run_lengths(counts, *stated), size)
    if what is not None and not isinstance(what, list):
        raise DataError("a segmentation that is neither rings nor run lengths")
    rings = [np.array(ring, np.float64).ravel() for ring in what or []]
    usable = [ring.reshape(-1, 2) for ring in rings if len(ring) > 5]
    if usable and len(usable) < len(rings):
        skipped["ring of fewer than three points"] += len(rings) - len(usable)
    mask, scale = np.zeros(size, bool), np.array([size[1] / stated[1], size[0] / stated[0]])
    for points in usable:
        if not np.isfinite(points).all():
            raise DataError("a polygon with numbers that are not finite")
        pixels.fill_rings(points * scale, np.array([0, len(points)]), mask)
    return mask if usable else None


def decode_counts(text: str | bytes) -> np.ndarray:
    """Decode COCO's compressed run lengths: numbers of 5 bits a character, from the third on differences to the one before last.

    Returns:
        (n,) int64 run lengths.

    Raises:
        DataError: A character that none has, or a number that is cut off or too long.

    Source: the format of the COCO API's masks (maskApi, rleFrString), written anew.
    """
    data = np.frombuffer(text.encode("latin-1", "replace") if isinstance(text, str) else bytes(text), np.uint8)
    digits = data.astype(np.int64) - 48
    if (digits < 0).any() or (digits > 63).any() or (len(digits) and digits[-1] & 32):
        raise DataError(f"run lengths {str(text)[:40]!r} are no compressed COCO mask")
    ends = np.flatnonzero((digits & 32) == 0)
    starts = np.concatenate([[0], ends + 1])[:-1]
    place = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    if place.max(initial=0) > 9:
        raise DataError(f"run lengths {str(text)[:40]!r} hold a number of more than 50 bits")
    numbers = np.add.reduceat((digits & 31) << (5 * place), starts) if len(ends) else np.zeros(0, np.int64)
    numbers -= np.where(digits[ends] & 16, np.int64(1) << (5 * (place[ends] + 1)), 0)
    for first in (1, 2):  # every second one, from the third on, is a difference
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def run_lengths(counts: Sequence[int] | np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the (height, width) bool mask of run lengths: outside and inside in turn, down the columns.

    Raises:
        DataError: Counts that are negative or do not add up to the size.
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 0).any() or counts.astype(float).sum() != height * width:
        raise DataError(f"run lengths do not add up to {width} x {height} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
