"""Chips of Itaipu, and what two looks have seen in them: a small benchmark of labels, several to a chip.

The mosaic is cut into cells of 64 x 64 pixels, 1.9 km a side, from its north-western corner on. The north trains and validates, the
south tests; no two cells overlap. `itaipu_labels.md` says how the labels were made, `itaipu_labels.csv` holds them. Where the two looks
at a chip disagree, a label is unknown: it is neither trained on nor counted.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rsvlm.errors import ConfigError, DataError, need
from rsvlm.records.text import one_line

rasterio = need("rasterio", "data")

log = logging.getLogger(__name__)

LABELS = ("water", "river", "city", "village", "forest", "fields", "bare ground", "dam", "island")
"""What a chip may show, in the order of the guideline."""

SPLITS = ("train", "val", "test")

YES, NO, UNKNOWN = 1, 0, -1
"""Whether a label holds; unknown where the two looks disagree."""

SIDE_PX = 64
"""Side of a cell, in pixels."""

FIRST_TEST_ROW = 22
"""Rows of cells from here on, counted from the north, are the south, which tests."""

FILE = Path(__file__).with_name("itaipu_labels.csv")

_BLOCK = 4  # cells a side of a block
_NAME = re.compile(r"r(\d\d)c(\d\d)")
_COLUMNS = ("chip", "row", "col", "split", "first", "second", "labels", "unsure")


def name(row: int, col: int) -> str:
    """Return the name of a cell, as `r03c17`."""
    return f"r{row:02d}c{col:02d}"


def split(row: int, col: int) -> str:
    """Return the split of a cell: the south tests; of the north, every fifth block of 4 x 4 cells validates, and the rest trains.

    Blocks that validate lie a knight's move apart, so that they are spread evenly over rows and columns.
    """
    if row >= FIRST_TEST_ROW:
        return "test"
    return "val" if (2 * (row // _BLOCK) + col // _BLOCK) % 5 == 0 else "train"


def block(chip: str) -> str:
    """Return the name of the block of 4 x 4 cells in which a cell lies: what to resample, for neighbours are alike."""
    row, col = place(chip)
    return name(row // _BLOCK, col // _BLOCK)


def cells(picture: np.ndarray) -> pd.DataFrame:
    """List the cells of the mosaic that are covered by data wholly, row by row.

    Args:
        picture: `(H, W, 3)`, uint8, the mosaic in true colour; 0 where no data are.

    Returns:
        One row per cell: `chip row col split`.
    """
    rows, cols = picture.shape[0] // SIDE_PX, picture.shape[1] // SIDE_PX
    seen = (picture[: rows * SIDE_PX, : cols * SIDE_PX] > 0).all(axis=2)
    whole = seen.reshape(rows, SIDE_PX, cols, SIDE_PX).all(axis=(1, 3))
    there = np.argwhere(whole).tolist()
    return pd.DataFrame([{"chip": name(*at), "row": at[0], "col": at[1], "split": split(*at)} for at in there])


def pictures(folder: Path, chips: Sequence[str]) -> np.ndarray:
    """Read the pixels of cells.

    Args:
        folder: As from `ground.itaipu`.
        chips: Names of cells.

    Returns:
        `(N, 64, 64, 3)`, uint8, in true colour.

    Raises:
        ConfigError: A name is that of no cell.
    """
    mosaic = _mosaic(folder)
    result = np.empty((len(chips), SIDE_PX, SIDE_PX, 3), np.uint8)
    for number, chip in enumerate(chips):
        top, left = (SIDE_PX * part for part in place(chip))
        if top + SIDE_PX > mosaic.shape[0] or left + SIDE_PX > mosaic.shape[1]:
            raise ConfigError(f"{chip} lies outside of the mosaic")
        result[number] = mosaic[top : top + SIDE_PX, left : left + SIDE_PX]
    return result


def labels(path: Path = FILE) -> pd.DataFrame:
    """Read the labels.

    Args:
        path: Table in the form of `itaipu_labels.csv`.

    Returns:
        One row per labelled cell, in the order of the file, with `chip` as its index: `row col split`, and for each of `LABELS` a
        column, int8: `YES`, `NO` or `UNKNOWN`.

    Raises:
        DataError: The file is missing, or a row of it is not as the form wants it.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): give a table with the columns {', '.join(_COLUMNS)}") from None
    if tuple(table.columns) != _COLUMNS:
        raise DataError(f"{path} has the columns {', '.join(table.columns)}: expected {', '.join(_COLUMNS)}")
    if table["chip"].duplicated().any():
        raise DataError(f"{path} has {table.loc[table['chip'].duplicated(), 'chip'].iloc[0]} more than once")
    rows = []
    for entry in table.to_dict("records"):
        if not _NAME.fullmatch(entry["chip"]):
            raise DataError(f"{path}: '{one_line(entry['chip'])}' is no name of a chip: they are called as {name(3, 17)}")
        row, col = place(entry["chip"])
        if (entry["row"], entry["col"], entry["split"]) != (str(row), str(col), split(row, col)):
            raise DataError(f"{path}: {entry['chip']} is in row {row}, column {col}, of the split {split(row, col)}")
        sure, unsure = (_read_labels(entry[column], entry["chip"], path) for column in ("labels", "unsure"))
        held = {label: YES if label in sure else UNKNOWN if label in unsure else NO for label in LABELS}
        rows.append({"chip": entry["chip"], "row": row, "col": col, "split": entry["split"], **held})
    result = pd.DataFrame(rows, columns=["chip", "row", "col", "split", *LABELS]).set_index("chip")
    return result.astype(dict.fromkeys(LABELS, np.int8) | {"row": int, "col": int})


def labelled(folder: Path, which: str, path: Path = FILE) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the labelled chips of a split.

    Args:
        folder: As from `ground.itaipu`.
        which: Split.
        path: As in `labels`.

    Returns:
        `(N, 64, 64, 3)`, uint8, the pictures; and their rows of `labels`.

    Raises:
        ConfigError: There is no such split.
        DataError: As in `labels`.
    """
    if which not in SPLITS:
        raise ConfigError(f"there is no split '{which}': give one of {', '.join(SPLITS)}")
    table = labels(path)
    table = table[table["split"] == which]
    return pictures(folder, table.index.tolist()), table


def join(first: Path, second: Path) -> pd.DataFrame:
    """Join two looks at the same chips into the table that `labels` reads.

    Args:
        first: Table with the columns `chip` and `labels`, the labels separated by `;`.
        second: The other look.

    Returns:
        One row per chip that both looks have, in the order of their names: `chip row col split first second labels unsure`; `labels`
        are those that both looks saw, `unsure` those that one saw.

    Raises:
        DataError: A look has a chip twice, a name of no chip, or a label that the guideline does not have.
    """
    looks = [_look(path) for path in (first, second)]
    both = sorted(looks[0].keys() & looks[1].keys())
    if alone := sorted(looks[0].keys() ^ looks[1].keys()):
        log.warning("%d chips were looked at once and are left out, as %s", len(alone), ", ".join(alone[:5]))
    rows = []
    for chip in both:
        one, other = (look[chip] for look in looks)
        sets = (one, other, one & other, one ^ other)
        row, col = place(chip)
        texts = [";".join(label for label in LABELS if label in group) for group in sets]
        rows.append(dict(zip(_COLUMNS, (chip, row, col, split(row, col), *texts), strict=True)))
    return pd.DataFrame(rows, columns=_COLUMNS)


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Say how far the two looks agree.

    Args:
        table: As from `join`.

    Returns:
        One row per label: `label`; `first`, `second` and `both`, the chips in which the first, the second and both saw it; `agreed`, the
        share of chips on which they agree; and `kappa`, Cohen's, NaN where neither saw any.
    """
    looks = [[set(group.split(";")) for group in table[look]] for look in ("first", "second")]
    rows = []
    for label in LABELS:
        one, other = (np.array([label in group for group in look], bool) for look in looks)
        agreed, p, q = (one == other).mean(), one.mean(), other.mean()
        chance = p * q + (1 - p) * (1 - q)
        kappa = (agreed - chance) / (1 - chance) if chance < 1 else np.nan
        counts = {"first": one.sum(), "second": other.sum(), "both": (one & other).sum()}
        rows.append({"label": label, **counts, "agreed": agreed, "kappa": kappa})
    return pd.DataFrame(rows)


def place(chip: str) -> tuple[int, int]:
    """Return row and column of a cell; a ConfigError if the name is that of none."""
    if not (match := _NAME.fullmatch(chip)):
        raise ConfigError(f"'{chip}' is no name of a chip: they are called as {name(3, 17)}")
    return int(match[1]), int(match[2])


def _mosaic(folder: Path) -> np.ndarray:
    with rasterio.open(folder / "picture.tif") as file:
        return np.moveaxis(file.read(), 0, 2)


def _look(path: Path) -> dict[str, frozenset[str]]:
    """Read one look: the labels of each chip."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
        rows = list(zip(table["chip"].str.strip(), table["labels"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({error}): give a table with the columns chip and labels") from None
    look: dict[str, frozenset[str]] = {}
    for chip, text in rows:
        if not _NAME.fullmatch(chip) or chip in look:
            raise DataError(f"{path}: {one_line(chip)} {'is there twice' if chip in look else 'is no name of a chip'}")
        look[chip] = _read_labels(text, chip, path)
    return look


def _read_labels(text: str, chip: str, path: Path) -> frozenset[str]:
    group = frozenset(part for part in map(str.strip, text.lower().split(";")) if part)
    if unknown := group - set(LABELS):
        raise DataError(f"{path}: {chip} has the label '{one_line(min(unknown))}': expected some of {', '.join(LABELS)}")
    return group
