"""Pictures of the same ground, and intervals over them."""

from __future__ import annotations

import numpy as np
import pytest

from rsvlm.errors import DataError
from rsvlm.evaluation import shared_ground


def of(*boxes):
    return shared_ground.blocks([{"footprint_lonlat": list(box)} for box in boxes])


def test_what_overlaps_or_hangs_together_is_one_block():
    found = of((0, 0, 2, 2), (10, 0, 12, 2), (1, 1, 3, 3), (2.5, 2.5, 4, 4), (4, 2.5, 5, 4))
    assert found[0] == found[2] == found[3] and len({found[0], found[1], found[4]}) == 3, "those that touch are apart"


@pytest.mark.parametrize("east", [182.0, -178.0])
def test_the_date_line_cuts_nothing(east):
    found = of((179, 0, east, 2), (-179, 1, -177, 3), (-170, 0, -168, 2), (0, 0, 1, 1))
    assert found[0] == found[1] and len(set(found.tolist())) == 3


def test_where_one_picture_does_not_tell_its_ground_there_are_no_blocks():
    assert shared_ground.blocks([]) is None
    assert shared_ground.blocks([{"footprint_lonlat": [0, 0, 1, 1]}, {}]) is None
    with pytest.raises(DataError, match="west, south, east, north"):
        of((0, 2, 1, 1))


def test_blocks_are_the_same_whatever_the_order():
    rng = np.random.default_rng(0)
    corners = np.column_stack([rng.uniform(-180, 180, 200), rng.uniform(-60, 60, 200)])
    boxes = np.column_stack([corners, corners + 8])
    order = rng.permutation(200)
    one, other = of(*boxes), of(*boxes[order])
    pairs = set(zip(one[order].tolist(), other.tolist()))
    assert 1 < len(set(one.tolist())) == len(set(other.tolist())) == len(pairs) < 200


def test_shares_of_ground():
    one, half, far = ({"footprint_lonlat": box} for box in ([179, 0, -179, 2], [-180, 0, -178, 2], [0, 0, 1, 1]))
    assert shared_ground.overlap(one, half) == shared_ground.overlap(half, one) == 0.5
    assert shared_ground.overlap(one, one) == 1 and shared_ground.overlap(one, far) == 0 == shared_ground.overlap(one, {})
