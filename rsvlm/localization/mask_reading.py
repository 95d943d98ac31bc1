"""What the layouts of masks on disk have in common: tables, names of classes, pictures, sizes."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from rsvlm.errors import DataError
from rsvlm.model import images

logger = logging.getLogger(__name__)

MAX_BYTES = 512 * 2**20
"""Largest file that is read, in bytes."""

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
PROPORTION = 0.01
"""Proportions of a mask and its picture that differ by no more are the same."""

EVERY = ""
"""Instead of a class, of pixels of which nothing is known of any class."""

Choose = Callable[[Sequence[str]], list[int]]
Parts = tuple[str, bytes, dict[str, np.ndarray], dict, dict[str, np.ndarray]]
Thing = tuple[str, np.ndarray, bool]
"""Its class, its mask, and whether it is a single thing, which has a box."""

_BACKGROUND = ("", "background", "bg")
_UNKNOWN = """void|ignore|ignored|ignored? regions?|unlabel(l)?ed|unknown|unclassified|undefined|no ?data|don'?t care"""


def is_background(name: str) -> bool:
    """Tell whether a class of this name is where none of the others is."""
    return words(name).casefold() in _BACKGROUND


def is_unknown(name: str) -> bool:
    """Tell whether what has this name was not labelled: nothing is known of it, and it is not scored."""
    return re.fullmatch(_UNKNOWN, words(name).casefold().replace("-", " ")) is not None


def read_json(path: Path):
    """Read a table.

    Raises:
        DataError: The file is missing, too large or no JSON.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES:,} bytes: split it")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): is the file complete?") from None


def words(name: object) -> str:
    """Return the name of a class in the words that a text tower reads."""
    return re.sub(r"[_\s]+", " ", str(name)).strip()


def inside(root: Path, place: Path, file: str, table: Path) -> Path:
    """Where a file lies that a table names.

    Raises:
        DataError: The name or link leads out of the folder, which stops everything.
    """
    path = place / file
    if "\0" in file or not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{table} names {file!r}, which is not inside its folder: such a table is not read")
    return path


def read_picture(path: Path, skipped: Counter) -> tuple[bytes, tuple[int, int]] | None:
    """A picture's bytes, and its height and width once it is upright; None, and counted, where it cannot be used."""
    try:
        if path.stat().st_size > MAX_BYTES:
            skipped["picture too large"] += 1
            return None
        data = path.read_bytes()
        return data, images.decode(data, where=str(path)).shape[:2]
    except OSError:
        if not skipped["picture missing"]:
            logger.warning("%s is missing, or cannot be read; others like it are counted", path)
        skipped["picture missing"] += 1
    except DataError as error:
        logger.warning("%s: %s", path.name, error)
        skipped["picture broken"] += 1
    return None


def same_shape(one: Sequence[int], other: Sequence[int]) -> bool:
    """Tell whether two sizes have the same proportions."""
    return abs(one[0] * other[1] - other[0] * one[1]) <= PROPORTION * one[0] * other[1]


def resized(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resample a mask to (height, width), to the nearest pixel."""
    rows, columns = ((np.arange(n) * m) // n for n, m in zip(size, mask.shape[:2], strict=True))
    return mask[rows[:, None], columns]


def box_of(mask: np.ndarray) -> list[int]:
    """Left, top, right and bottom of what is inside, the last two exclusive."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def joined(things: Iterable[Thing]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Join the masks of each class, and box single things: (n, 4) float left, top, right, bottom in pixels."""
    masks: dict[str, np.ndarray] = {}
    boxes: dict[str, list] = {}
    for name, mask, single in things:
        masks[name] = masks[name] | mask if name in masks else mask
        if single:
            boxes.setdefault(name, []).append(box_of(mask))
    return masks, {name: np.array(corners, float) for name, corners in boxes.items()}
