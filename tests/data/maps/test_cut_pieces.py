"""What tiles cut is put together again, and things that only share a number stay apart."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from mapping import feature, point, polygon, write

from rsvlm.data.maps import features as maps

shapely = pytest.importorskip("shapely", reason="the extra [data] is not installed")


def houses(count: int = 25, **changes) -> list[dict]:
    return [polygon(0.001 * (i % 5), 0.001 * (i // 5), side=0.0002, building="yes") | changes for i in range(count)]


def line(*points, identity=None, **tags) -> dict:
    return feature({"type": "LineString", "coordinates": list(map(list, points))}, identity, **tags)


@pytest.mark.parametrize("identity", [0, 1, "0", -1, 7.0, "house", None])
@pytest.mark.parametrize("beside", [True, False], ids=["own id", "property"])
def test_a_number_that_all_share_joins_nothing(tmp_path, identity, beside):
    found = houses()
    for one in found:
        one.update({"id": identity} if beside else {"properties": one["properties"] | {"id": identity}})
    read = maps.read([write(tmp_path / "map.geojson", *found)])
    assert len(read.table) == 25 and not read.counts


def test_class_numbers_and_numbers_that_start_anew_join_nothing(tmp_path):
    found = houses()
    for number, one in enumerate(found):
        one["id"] = number % 3 + 1
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = write(tmp_path / "a" / "map.geojson", *(one | {"id": number} for number, one in enumerate(houses(), 1)))
    further = [polygon(0.001 * (i % 5) + 0.0005, 0.001 * (i // 5), i + 1, side=0.0002, building="yes") for i in range(25)]
    second = write(tmp_path / "b" / "map.geojson", *further)
    assert len(maps.read([write(tmp_path / "classes.geojson", *found)]).table) == 25
    assert len(maps.read([first, second]).table) == 50


def test_houses_of_one_row_that_share_a_number_stay_apart(tmp_path):
    turned = []
    for i in range(6):
        ring = np.array([(i, 0), (i + 1, 0), (i + 1, 1), (i, 1), (i, 0)]) * 1e-4 @ np.array([[0.9, 0.4], [-0.4, 0.9]])
        turned.append(feature({"type": "Polygon", "coordinates": [ring.tolist()]}, 4, building="yes"))
    where = write(tmp_path / "map.geojson", *turned, polygon(1, 1, 5, building="yes"))
    assert len(maps.read([where]).table) == 7


@pytest.mark.parametrize("identity", ["way/12", 12, "6ba7b810-9dad-11d1-80b4-00c04fd430c8"])
def test_what_a_tile_cut_is_whole_again(tmp_path, identity):
    lake = shapely.Point(0.01, 0.01).buffer(0.004)
    pieces = [lake.intersection(shapely.box(x, y, x + 0.01, y + 0.01)) for x in (0, 0.01) for y in (0, 0.01)]
    cut = [feature(shapely.geometry.mapping(one), identity, natural="water") for one in pieces]
    road = [
        line((0, 0), (0.01, 0.004), identity="way/7", highway="track"),
        line((0.01, 0.004), (0.02, 0.01), identity="way/7", highway="track"),
    ]
    read = maps.read([write(tmp_path / "map.geojson", *cut, *road, point(0.5, 0.5, natural="tree"))])
    assert read.table["category"].tolist() == ["lake", "track", "tree"] and read.counts["pieces merged"] == 4
    assert read.geometry[0].area == pytest.approx(lake.area) and read.geometry[1].geom_type == "LineString"


def test_pieces_in_several_parts_are_joined_by_numbers_too(tmp_path):
    """A tile may hold two arms of a lake, and two stretches of a road."""
    lake = shapely.Polygon([(0, 0), (0.006, 0), (0.006, 0.006), (0.004, 0.006), (0.003, 0.002), (0.002, 0.006), (0, 0.006)])
    road = shapely.LineString([(0.021, 0.001), (0.024, 0.0045), (0.027, 0.001)])
    cut = []
    for number, thing, tags in ((1, lake, {"natural": "water"}), (2, road, {"highway": "track"})):
        for piece in (thing.intersection(shapely.box(-1, -1, 1, 0.003)), thing.intersection(shapely.box(-1, 0.003, 1, 1))):
            cut.append(feature(shapely.geometry.mapping(piece), number, **tags))
    assert {one["geometry"]["type"] for one in cut} >= {"MultiPolygon", "MultiLineString"}
    read = maps.read([write(tmp_path / "map.geojson", *cut)])
    assert read.table["category"].tolist() == ["lake", "track"] and read.counts["pieces merged"] == 2
    assert shapely.hausdorff_distance(read.geometry, [lake, road]).max() < 1e-9


def test_the_same_thing_twice_is_one(tmp_path):
    first = write(tmp_path / "map.geojson", *(one | {"id": number} for number, one in enumerate(houses(), 1)))
    (tmp_path / "again").mkdir()
    again = write(tmp_path / "again" / "map.geojson", *(one | {"id": number} for number, one in enumerate(houses(), 1)))
    assert len(maps.read([first, again]).table) == 25
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other" / "map.geojson", *houses())
    read = maps.read([first, other])
    assert len(read.table) == 25 and read.counts["same thing in another map"] == 25


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 99), min_size=2, max_size=25, unique=True), st.lists(st.integers(0, 4), min_size=25, max_size=25)
)
def test_houses_apart_are_never_joined_whatever_their_numbers(cells, numbers):
    from rsvlm.data.maps.cut_pieces import joined_pieces

    shapes = np.array([shapely.box(c % 10, c // 10, c % 10 + 0.5, c // 10 + 0.5) for c in cells], object)
    shapes = shapely.transform(shapes, lambda xy: xy * 1e-3)
    identities = [str(number) for number in numbers[: len(cells)]]
    geometry, drop = joined_pieces(["m"] * len(cells), identities, ["building"] * len(cells), [None] * len(cells), shapes)
    assert not drop.any() and shapely.equals(geometry, shapes).all()
