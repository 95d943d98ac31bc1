"""A word of place means one place, whoever says it."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rsvlm.data.landmarks import directions


def test_sectors_are_thirds_of_a_chip_row_by_row():
    middles = (np.arange(3) + 0.5) / 3
    across, down = np.meshgrid(middles, middles)
    assert directions.sectors(across, down).ravel().tolist() == list(range(9))
    outside = directions.sectors(np.array([-2.0, 0.5, 1.0, 7.0]), np.array([-1.0, 9.0, 1.0, 0.0]))
    assert [directions.SECTORS[number] for number in outside] == ["northwest", "south", "southeast", "northeast"]


@pytest.mark.parametrize("word", directions.COMPASS)
def test_a_step_in_a_direction_leads_there_and_back(word):
    east, north = directions.STEPS[word]
    assert directions.direction(east, north) == word
    assert directions.direction(-east, -north) == directions.opposite(word)
    sector = directions.sectors(0.5 + 0.4 * east, 0.5 - 0.4 * north)
    assert directions.SECTORS[int(sector)] == word


def test_both_lists_hold_the_same_words():
    assert set(directions.COMPASS) == set(directions.STEPS) == set(directions.SECTORS) - {"centre"}
    assert len(set(directions.SECTORS)) == 9 and len(set(directions.COMPASS)) == 8


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_a_direction_is_the_nearest_of_eight(east, north):
    if np.hypot(east, north) < 1e-3:
        return
    axes = {"east": (1, 0), "north": (0, 1), "west": (-1, 0), "south": (0, -1)}
    axes |= {
        f"{ns}{ew}": (np.sqrt(0.5) * axes[ew][0], np.sqrt(0.5) * axes[ns][1])
        for ns in ("north", "south")
        for ew in ("east", "west")
    }
    dots = {name: east * x + north * y for name, (x, y) in axes.items()}
    assert dots[directions.direction(east, north)] == pytest.approx(max(dots.values()), abs=1e-9)
