"""Direction words: the nine sectors of a chip, the eight directions of the compass, and what lies where.

North is up in every chip. Whoever writes, reads, checks or turns a word of place takes it from here.
"""

from __future__ import annotations

import numpy as np

SECTORS = ("northwest", "north", "northeast", "west", "centre", "east", "southwest", "south", "southeast")
"""The nine sectors of a chip, row by row."""

COMPASS = ("east", "northeast", "north", "northwest", "west", "southwest", "south", "southeast")
"""The eight directions, counter-clockwise from east, 45 degrees each."""

STEPS = {word: (number % 3 - 1, 1 - number // 3) for number, word in enumerate(SECTORS) if word != "centre"}
"""Direction → one step there: -1, 0 or 1 to the east and to the north."""


def sectors(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return in which sectors places lie, as positions in `SECTORS`.

    Args:
        across: `(...)`, shares of the chip's width from its western edge, 0 to 1; places outside belong to the nearest sector.
        down: `(...)`, shares of its height from its northern edge.
    """
    column, row = (np.clip(share * 3, 0, 2).astype(int) for share in (across, down))
    return row * 3 + column


def direction(east: float, north: float) -> str:
    """Return the direction of `COMPASS` that a vector points to.

    Args:
        east: Component towards the east, any unit.
        north: Component towards the north, same unit.
    """
    return COMPASS[int(np.round(np.arctan2(north, east) / (np.pi / 4))) % 8]


def opposite(word: str) -> str:
    """Return the direction opposite to one of `COMPASS`."""
    return COMPASS[(COMPASS.index(word) + 4) % 8]
