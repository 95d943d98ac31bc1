"""Which pictures show the same ground, so that they are one unit of an interval and not several.

Chips of a grid that is finer than its chips overlap, and what a model gets right of one it gets right of its neighbours. Intervals over
single chips are then too narrow; `statistics.bootstrap` draws whole blocks in their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rsvlm.evaluation import statistics

FOOTPRINT = "footprint_lonlat"
"""Field of a record with west, south, east and north in degrees; east is above west, or below it over the date line."""


def blocks(records: Sequence[Mapping]) -> np.ndarray | None:
    """Put pictures whose ground overlaps into one block, and so whatever hangs together through them.

    Args:
        records: Records of N pictures; what counts is `FOOTPRINT`.

    Returns:
        (N,) int64 blocks, as for `statistics.bootstrap`; None where there is no picture, or one does not tell its ground.

    Raises:
        DataError: As `statistics.overlapping`.
    """
    boxes = _boxes(records)
    if boxes is None:
        return None
    N = len(boxes)

    # Once around the Earth every box is itself again, so that what overlaps over the date line does so in one of the two places.
    twice = statistics.overlapping(np.concatenate([boxes, boxes + [360, 0, 360, 0]]))
    for one in range(N):
        if twice[one] != twice[N + one]:
            twice[twice == twice[N + one]] = twice[one]
    return twice[:N]


def overlap(one: Mapping, other: Mapping) -> float:
    """Return the share of a picture's box, in degrees, that another one covers; 0 where one of the two does not tell its ground."""
    boxes = _boxes([one, other])
    if boxes is None:
        return 0.0
    turned = boxes[1] + np.array([[-360], [0], [360]]) * [1, 0, 1, 0]  # over the date line
    sides = np.minimum(boxes[0, 2:], turned[:, 2:]) - np.maximum(boxes[0, :2], turned[:, :2])
    return float(np.maximum(sides, 0).prod(axis=1).max() / np.prod(boxes[0, 2:] - boxes[0, :2]))


def _boxes(records: Sequence[Mapping]) -> np.ndarray | None:
    """(N, 4) footprints, east above west; None where there is none, or a record has none."""
    boxes = [record.get(FOOTPRINT) for record in records]
    if not boxes or not all(box is not None and len(box) == 4 for box in boxes):
        return None
    boxes = np.array(boxes, float)
    boxes[:, 2] += np.where(boxes[:, 2] <= boxes[:, 0], 360, 0)
    return boxes
