"""Where brightness rises within pictures: a second look at those that their perceptual hashes take for one.

Frames, titles and margins that different pictures share decide a hash, which sees the lowest frequencies alone. So every part of
the picture has to agree by itself.
"""

from __future__ import annotations

import numpy as np

from rsvlm.data import near_hashes

GRID = 16
"""Cells on each side among which `rises` looks for rises of brightness."""

RISE = 1.0
"""Smallest rise of the luma (0 to 255) from one cell to the next that is a detail; less is noise of compression, or a plain margin."""

LEAST = 32
"""Details that one of two pictures has to have in a window of 8 x 8 cells, of 128 at most, for the window to be compared."""

ALIKE = 0.52
"""Share of the details of a window, those of either picture, that both have to have.

Source: our choice, with `RISE` and `LEAST`, on 500 pictures of RSICD's train split, bare and in frames. In a map sheet, or turned
by 12 degrees on black or white, none is dropped as near another, on a slide of a talk 4.0 % (by hashes alone, along chains, 32, 18, 38 and
58 %); of copies within `DISTANCE` that were compressed, made smaller, brighter, darker or marked 99.4 to 100 % agree, of those cropped by
2.5 % a side 94 %. Of 3,031 others (RSICD's val split, OpenAerialMap, VHR-10, photographs) 0 to 1.5 % are dropped in sheets and on black or
white (6 to 64 %), and 2 to 24 % on slides (31 to 84 %), where the picture fills a fifth.
"""

WINDOW_STARTS = (0, 2, 4, 6)
"""Rows and columns where windows begin."""

COLUMNS = [f"detail_{number}" for number in range(8)]
"""Names of the eight numbers in a table."""


def rises(luma: np.ndarray) -> np.ndarray:
    """Say where brightness rises: from each of 16 x 16 cells to the one on its right, and to the one below.

    Args:
        luma: `(N, 32, 32)`, float32, as from `duplicates.thumbnails`.

    Returns:
        `(N, 8)`, uint64: 256 bits of rises to the right, row by row, the first cell in the highest bit, then 256 of rises downwards;
        those of the last row and column are 0.
    """
    n = luma.shape[1] // GRID
    cells = luma.reshape(len(luma), GRID, n, GRID, n).mean((2, 4))
    found = np.zeros((len(luma), 2, GRID, GRID), bool)
    found[:, 0, :-1, :-1] = np.diff(cells, axis=2)[:, :-1] > RISE
    found[:, 1, :-1, :-1] = np.diff(cells, axis=1)[:, :, :-1] > RISE
    return _words(found)


def alike(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Say of each pair of `(N, 8)` details whether they agree in every part of the picture: `(N,)` bool."""
    return near_hashes.alike(ours, theirs, windows(), LEAST, ALIKE)


def windows() -> np.ndarray:
    """Return masks of the windows that are compared, (16, 4) uint64."""
    masks = np.zeros((len(WINDOW_STARTS), len(WINDOW_STARTS), GRID, GRID), bool)
    for row, top in enumerate(WINDOW_STARTS):
        for column, left in enumerate(WINDOW_STARTS):
            masks[row, column, top : top + GRID // 2, left : left + GRID // 2] = True
    return _words(masks.reshape(-1, 1, GRID, GRID))


def _words(bits: np.ndarray) -> np.ndarray:
    flat = np.packbits(bits.reshape(len(bits), bits[:1].size if len(bits) else 2 * GRID**2), axis=1)
    return np.ascontiguousarray(flat).view(">u8").astype(np.uint64)
