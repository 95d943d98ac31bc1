"""Where a landmark runs is read in the picture as it lies on the ground, turned or not."""

import math

import pytest

from rsvlm.data.captions import audit, audit_outlines


def at(x: float, y: float, degrees: float) -> list[float]:
    """A place of a picture of 0.01 degrees at the equator, 0 to 1 from its upper left corner, turned clockwise."""
    turn = math.radians(degrees)
    right, up = (x - 0.5) * 0.01, (0.5 - y) * 0.01
    return [right * math.cos(turn) + up * math.sin(turn), up * math.cos(turn) - right * math.sin(turn)]


def record(degrees: float) -> dict:
    ring = [at(x, y, degrees) for x, y in ((0, 0), (0.5, 0), (1, 0), (1, 0.5), (1, 1), (0.5, 1), (0, 1), (0, 0.5))]
    lons, lats = zip(*ring)
    line = {"type": "LineString", "coordinates": [at(0.36, 0.05, degrees), at(0.36, 0.95, degrees)]}
    mark = {"name": "Rio Alva", "category": "river", "geometry": line, "visible": True, "count": 1, "length_m": 1000.0}
    mark |= {"position": "north", "by_sector": [0] * 9}
    return {
        "key": "k",
        "bbox_lonlat": [min(lons), min(lats), max(lons), max(lats)],
        "outline_lonlat": ring,
        "landmarks": [mark],
    }


@pytest.mark.parametrize("degrees", [-40.0, -5.9, 0.0, 5.9])
def test_sectors_are_those_of_the_picture_and_not_of_the_box_around_it(degrees):
    scene = record(degrees)
    corners = audit_outlines.corners_of(scene)
    assert audit_outlines.touched(scene["landmarks"][0], corners) == {"north", "centre", "south"}


def test_a_place_outside_the_sectors_that_a_river_runs_through_is_found():
    scene = record(5.9)  # in its box the river would reach the southwest
    for where, sound in (("south", True), ("southwest", False), ("southeast", False)):
        verdict = audit.check({"full": f"The Rio Alva is in the {where} of the picture."}, scene)
        assert (verdict.findings[0].status == "kept") == sound if verdict.findings else sound, where


def test_a_record_of_a_box_alone_has_the_corners_of_the_box():
    assert audit_outlines.corners_of({"bbox_lonlat": [1, 2, 3, 4]}) == ((1, 4), (3, 4), (3, 2), (1, 2))
    assert audit_outlines.corners_of({}) == ()
