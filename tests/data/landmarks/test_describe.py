"""Landmarks are where the map says, as large as they are on the ground, and visible only if a picture can show them."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from conftest import DATA

from rsvlm.data.landmarks import describe as landmarks, directions, pieces
from rsvlm.data.maps import features as maps
from rsvlm.data.maps.taxonomy import clean_geometry

shapely = pytest.importorskip("shapely", reason="the extra [data] is not installed")

AGUDA = DATA / "osm_praia_da_aguda"
BUILDINGS = DATA / "oam_osm" / "1" / "labels.geojson"


def features(*rows) -> maps.Features:
    """A map of (category, geometry, name, tags) rows."""
    table, shapes = [], np.empty(len(rows), object)
    for i, (category, shape, *more) in enumerate(rows):
        name, tags = (*more, None, {})[:2] if len(more) < 2 else more
        table.append((name, {}, category, "Map", "ODbL-1.0", "© somebody", str(i), tags or {}))
        shapes[i] = shape
    shapes, reasons = clean_geometry(shapes)
    assert all(reason is None for reason in reasons)
    frame = pd.DataFrame(table, columns=["name", "names", "category", "source", "licence", "attribution", "id", "tags"])
    frame["name"] = frame["name"].astype(object).where(frame["name"].notna(), None)
    return maps.Features(frame, shapes)


def chip(lon: float = 0.0, lat: float = 0.0, side_m: float = 256.0, size_px: int = 256) -> dict:
    """A chip square on the ground (exactly, by geodesics)."""
    pyproj = pytest.importorskip("pyproj")
    geod = pyproj.Geod(ellps="WGS84")
    east = (geod.fwd(lon, lat, 90, side_m / 2)[0] - lon) % 360
    north = geod.fwd(lon, lat, 0, side_m / 2)[1] - lat
    west = (lon - east + 180) % 360 - 180
    box = {"west": west, "south": lat - north, "east": west + 2 * east, "north": lat + north}
    return {"key": "k", "lon": lon, "lat": lat, **box, "gsd_m": side_m / size_px, "size_px": size_px}


def place(one: dict, x: float, y: float) -> tuple[float, float]:
    """A point of a chip, 0 to 1 from its northwest corner."""
    return one["west"] + x * (one["east"] - one["west"]), one["north"] - y * (one["north"] - one["south"])


def box(one: dict, x0: float, y0: float, x1: float, y1: float):
    (west, north), (east, south) = place(one, x0, y0), place(one, x1, y1)
    return shapely.box(west, south, east, north)


def describe(world: maps.Features, *chips: dict) -> list[list[dict]]:
    return landmarks.describe(world, landmarks.index(world), pd.DataFrame(list(chips)))


def test_every_sector_has_its_name():
    one = chip(10, 50)
    for number, word in enumerate(directions.SECTORS):
        x, y = (number % 3 + 0.5) / 3, (number // 3 + 0.5) / 3
        (found,) = describe(features(("lake", box(one, x - 0.1, y - 0.1, x + 0.1, y + 0.1))), one)
        assert found[0]["position"] == word
        assert found[0]["by_sector"] == [int(sector == word) for sector in directions.SECTORS]


@pytest.mark.parametrize("lat", [-80.0, -33.0, 0.0, 45.0, 71.0, 85.0])
@pytest.mark.parametrize("side_m", [100.0, 20_000.0])
def test_areas_and_lengths_are_right_to_one_percent(lat, side_m):
    pyproj = pytest.importorskip("pyproj")
    geod = pyproj.Geod(ellps="WGS84")
    one = chip(20, lat, side_m)
    # Off the middle, where one scale for the whole chip would show.
    area, line = box(one, 0.1, 0.05, 0.5, 0.3), shapely.LineString([place(one, 0.1, 0.2), place(one, 0.9, 0.2)])
    (found,) = describe(features(("lake", area), ("motorway", line)), one)
    by_category = {mark["category"]: mark for mark in found}
    assert by_category["lake"]["area_m2"] == pytest.approx(abs(geod.geometry_area_perimeter(area)[0]), rel=0.01)
    assert by_category["lake"]["share"] == pytest.approx(0.1, rel=0.01)
    assert by_category["lake"]["size_px"] == pytest.approx(256 * 0.1**0.5, rel=0.01)
    assert by_category["motorway"]["length_m"] == pytest.approx(geod.geometry_length(line), rel=0.01)


# Outlines


def turned(one: dict, degrees: float) -> tuple[dict, np.ndarray]:
    """A chip whose picture is turned clockwise on the ground: its row, with the box around it, and its outline."""
    pyproj = pytest.importorskip("pyproj")
    geod, half = pyproj.Geod(ellps="WGS84"), one["gsd_m"] * one["size_px"] / 2**0.5
    corners = [geod.fwd(one["lon"], one["lat"], azimuth + degrees, half)[:2] for azimuth in (-45, 45, 135, -135)]
    ring = np.array(corners)
    (west, south), (east, north) = ring.min(0), ring.max(0)
    return one | {"west": west, "south": south, "east": east, "north": north}, ring[None]


def at(ring: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """A point of a turned chip, 0 to 1 from the upper left corner of its picture; also outside."""
    nw, ne, se, sw = ring[0]
    return tuple(((1 - y) * ((1 - x) * nw + x * ne) + y * ((1 - x) * sw + x * se)).tolist())


def quad(ring: np.ndarray, x0: float, y0: float, x1: float, y1: float):
    return shapely.Polygon([at(ring, x, y) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))])


@pytest.mark.parametrize("degrees", [-5.6, 5.6])
@pytest.mark.parametrize("lat", [3.0, -52.0, 70.0])
def test_what_lies_beside_a_turned_picture_is_not_in_it(lat, degrees):
    one, ring = turned(chip(21.0, lat, 256.0), degrees)
    frame = shapely.Polygon(ring[0])
    gap = shapely.box(*frame.bounds).difference(frame)
    houses = [("building", part.representative_point().buffer(2e-5)) for part in gap.geoms]
    wood = ("forest", gap.geoms[0].buffer(-1e-5), "Outside Wood")
    road = ("motorway", shapely.LineString([at(ring, -0.02, -0.5), at(ring, -0.02, 1.5)]))
    world = features(*houses, wood, road)
    index, table = landmarks.index(world), pd.DataFrame([one])
    assert len(landmarks.describe(world, index, table)[0]) == 3  # in the box around it they all are
    assert landmarks.describe(world, index, table, ring) == [[]]


@pytest.mark.parametrize("degrees", [-5.6, 5.6])
@pytest.mark.parametrize("lat", [3.0, -52.0, 70.0])
def test_a_turned_picture_of_a_turned_ground_tells_the_same(lat, degrees):
    """Sectors, counts, shares and lengths are those of the picture, however it lies on the ground."""
    shapes = [
        ("lake", (0.05, 0.02, 0.31, 0.3)), ("forest", (0.6, 0.6, 1.4, 1.4)), ("park", (-1, 0.34, 2, 0.66)),
        *(("building", (x, 0.02, x + 0.03, 0.05)) for x in (0.4, 0.5, 0.64, 0.7)), ("stadium", (0.97, 0.4, 1.05, 0.45)),
    ]  # fmt: skip
    said = []
    for turn in (0.0, degrees):
        one, ring = turned(chip(21.0, lat, 300.0), turn)
        lines = [("motorway", shapely.LineString([at(ring, -0.5, 0.32), at(ring, 0.99, 0.34)]))]
        world = features(*((category, quad(ring, *where)) for category, where in shapes), *lines)
        marks = landmarks.describe(world, landmarks.index(world), pd.DataFrame([one]), ring)[0]
        said.append({mark["category"]: mark for mark in marks})
    assert set(said[0]) == set(said[1]) == {"lake", "forest", "park", "building", "stadium", "motorway"}
    for category, first in said[0].items():
        second = said[1][category]
        for name in ("position", "by_sector", "count", "cut", "visible"):
            assert first[name] == second[name], (category, name)
        for name in ("share", "area_m2", "length_m"):
            assert first[name] == pytest.approx(second[name], rel=0.01) if first[name] else second[name] is None
    assert said[1]["lake"]["share"] == pytest.approx(0.26 * 0.28, rel=0.01)
    assert said[1]["forest"]["share"] == pytest.approx(0.16, rel=0.01)
    assert said[1]["park"]["share"] == pytest.approx(0.32, rel=0.01)


@pytest.mark.parametrize("degrees", [0.0, 5.6])
def test_a_narrow_area_reaches_all_that_it_runs_through(degrees):
    """A river that is drawn as an area is where it flows, and a house only where it stands."""
    one, ring = turned(chip(21.0, 47.0, 1000.0), degrees)
    bank = [(-0.2, 0.15), (0.4, 0.2), (0.55, 0.55), (0.8, 0.85), (1.2, 0.85)]
    river = shapely.Polygon([at(ring, x, y) for x, y in [*bank, *((x, y + 0.03) for x, y in bank[::-1])]])
    house = quad(ring, 0.3, 0.3, 0.36, 0.345)
    world = features(("river", river), ("building", house))
    marks = landmarks.describe(world, landmarks.index(world), pd.DataFrame([one]), ring)[0]
    seen = {
        mark["category"]: {where for where, there in zip(directions.SECTORS, mark["by_sector"]) if there} for mark in marks
    }
    assert marks[0]["share"] < 0.05 and seen == {
        "river": {"northwest", "north", "centre", "southeast"},
        "building": {"northwest"},
    }


def test_drawings_over_each_other_count_once_as_ground():
    one = chip(21.0, 47.0, 300.0)
    world = features(
        *(("forest", box(one, *where)) for where in ((0.1, 0.1, 0.6, 0.6), (0.1, 0.1, 0.6, 0.6), (0.4, 0.4, 0.9, 0.9))),
        *(("building", box(one, x, 0.92, x + 0.05, 0.97)) for x in (0.1, 0.15, 0.2)),
    )
    marks = {mark["category"]: mark for mark in describe(world, one)[0]}
    assert marks["forest"]["share"] == pytest.approx(0.25 + 0.25 - 0.04, rel=0.01)
    assert marks["forest"]["area_m2"] == pytest.approx(0.46 * 300**2, rel=0.01)
    assert marks["building"]["share"] == pytest.approx(3 * 0.0025, rel=0.01) and marks["building"]["count"] == 3


def test_outlines_that_are_boxes_change_nothing():
    one = chip(5, 40, 1000)
    world = features(
        ("lake", box(one, 0.1, 0.2, 1.3, 0.4)), ("motorway", shapely.LineString([place(one, -1, 0.9), place(one, 2, 0.7)]))
    )
    table, index = pd.DataFrame([one]), landmarks.index(world)
    ring = np.array([[place(one, x, y) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]])
    assert landmarks.describe(world, index, table, ring) == landmarks.describe(world, index, table)


def test_what_the_edge_cuts_is_clipped():
    one = chip()
    (found,) = describe(
        features(
            ("forest", box(one, -1, -1, 2, 2)),
            ("lake", box(one, 0.5, 0.5, 3, 0.75)),
            ("track", shapely.LineString([place(one, -5, 0.1), place(one, 5, 0.1)])),
            ("river", shapely.LineString([place(one, -1, 2), place(one, 2, 2)])),
            ("beach", box(one, 1, 0, 2, 1)),  # touches the edge and no more
            ("water tower", shapely.Point(place(one, 1.01, 0.5))),
        ),
        one,
    )
    marks = {mark["category"]: mark for mark in found}
    assert set(marks) == {"forest", "lake", "track"} and all(mark["cut"] for mark in found)
    assert marks["forest"]["share"] == 1 and marks["forest"]["position"] == "centre" and sum(marks["forest"]["by_sector"]) == 9
    assert marks["forest"]["area_m2"] == pytest.approx(256**2, rel=0.01)
    assert marks["lake"]["share"] == pytest.approx(0.125, rel=0.01)
    assert marks["track"]["length_m"] == pytest.approx(256, rel=0.01)
    assert [directions.SECTORS[i] for i in np.flatnonzero(marks["track"]["by_sector"])] == ["northwest", "north", "northeast"]
    frame = shapely.box(one["west"], one["south"], one["east"], one["north"]).buffer(1e-7)
    for mark in found:
        shape = shapely.from_geojson(json.dumps(mark["geometry"]))
        assert frame.covers(shape) and frame.covers(shapely.Point(mark["lon"], mark["lat"]))


def test_large_and_small_outlines_are_clipped_alike():
    """Clipping by rectangle and by intersection give the same area, for outlines that leave and enter the chip often."""
    one = chip(5, 40, 1000)
    rng = np.random.default_rng(0)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 3000))
    radius = rng.uniform(0.2, 0.8, 3000)
    corners = [place(one, 0.5 + r * np.cos(a), 0.5 + r * np.sin(a)) for r, a in zip(radius, angle)]
    star = shapely.make_valid(shapely.Polygon(corners))
    frame = shapely.box(one["west"], one["south"], one["east"], one["north"])
    (found,) = describe(features(("lake", star)), one)
    assert found[0]["share"] == pytest.approx(star.intersection(frame).area / frame.area, rel=1e-3)
    assert shapely.get_num_coordinates(shapely.from_geojson(json.dumps(found[0]["geometry"]))) <= pieces.MAX_VERTICES


@pytest.mark.parametrize(
    ("category", "tags", "why"),
    [
        ("parking", {"amenity": "parking", "parking": "underground"}, landmarks.UNDERGROUND),
        ("parking", {"amenity": "parking", "parking": "surface"}, None),
        ("parking", {"amenity": "parking", "parking": "surface", "layer": "-1"}, landmarks.UNDERGROUND),
        ("building", {"building": "yes", "location": "underground"}, landmarks.UNDERGROUND),
        ("building", {"building": "yes", "layer": "-1"}, landmarks.UNDERGROUND),
        ("lake", {"natural": "water", "layer": "-1"}, None),  # drawn so below a bridge
        ("electrical substation", {"power": "substation", "location": "indoor"}, landmarks.INDOORS),
    ],
)
def test_what_is_below_ground_or_inside_is_hidden(category, tags, why):
    one = chip(side_m=256, size_px=256)
    world = features((category, box(one, 0.1, 0.1, 0.6, 0.6), None, tags))
    (mark,) = describe(world, one)[0]
    assert mark["hidden_because"] == why and landmarks.seen_from_above(category, tags) == (why is None)


def test_the_visibility_rule_says_why():
    one = chip(side_m=256, size_px=256)  # 1 m per pixel
    line = [place(one, 0.1, 0.5), place(one, 0.9, 0.5)]
    spot = shapely.Point(place(one, 0.5, 0.5))
    world = features(
        ("restaurant or café", spot, "Café on the second floor"),
        ("water tower", spot, "tower"),
        ("parking", box(one, 0.1, 0.1, 0.11, 0.11), "small"),
        ("lake", box(one, 0.1, 0.1, 0.9, 0.101), "thin"),
        ("motorway", shapely.LineString(line), "tunnel", {"tunnel": "yes"}),
        ("residential street", shapely.LineString(line), "street", {}),
        ("path", shapely.LineString([place(one, 0.5, 0.5), place(one, 0.51, 0.5)]), "short", {}),
        ("stream", shapely.LineString(line), "below", {"layer": "-1"}),
        ("playground", spot, "upstairs", {"level": "2"}),
        ("wall", shapely.LineString(line), "wall", {"width": "0.3 m"}),
        ("hedge", shapely.LineString(line), "wide hedge", {"width": "3"}),
        ("pier", box(one, 0.1, 0.2, 0.9, 0.24), "pier"),
    )
    (found,) = describe(world, one)
    visible = [mark["visible"] for mark in found]
    assert len(found) <= 12 and visible == sorted(visible, reverse=True)
    seen = {mark["name"] for mark in found if mark["visible"]}
    assert seen == {"tower", "street", "wide hedge", "pier"}
    index = landmarks.index(world)
    never = {name: landmarks.HIDDEN[code] for name, code in zip(world.table["name"], index.hidden)}
    assert never["Café on the second floor"] == landmarks.NOT_FROM_ABOVE
    assert never["tunnel"] == never["below"] == landmarks.UNDERGROUND and never["upstairs"] == landmarks.INDOORS
    why = {mark["name"]: mark["hidden_because"] for row in world.table["name"] for mark in found if not mark["visible"]}
    assert len(why) == landmarks.MOST_HIDDEN
    expected = (("small", 2, landmarks.TOO_SMALL), ("thin", 3, landmarks.TOO_THIN), ("short", 6, landmarks.TOO_SHORT))
    for name, number, reason in (*expected, ("wall", 9, landmarks.TOO_THIN)):
        row = world.table.iloc[number]
        (alone,) = describe(features((row["category"], world.geometry[number], name, row["tags"])), one)
        assert alone[0]["hidden_because"] == reason and not alone[0]["visible"]


def test_visibility_follows_the_ground_sample_distance():
    tower = features(("water tower", shapely.Point(0, 0)))
    sharp, coarse = chip(side_m=256, size_px=256), chip(side_m=2560, size_px=256)
    first, second = describe(tower, sharp, coarse)
    assert first[0]["visible"] and first[0]["size_px"] == 15 and first[0]["area_m2"] is None and first[0]["length_m"] is None
    assert not second[0]["visible"] and second[0]["hidden_because"] == landmarks.TOO_SMALL


def test_unnamed_buildings_are_counted_by_sector():
    one = chip()
    corners = [(0.05, 0.05), (0.15, 0.05), (0.05, 0.2), (0.8, 0.8)]
    houses = [("building", box(one, x, y, x + 0.05, y + 0.05)) for x, y in corners]
    (found,) = describe(features(*houses, ("building", box(one, 0.5, 0.5, 0.56, 0.56), "Town hall")), one)
    group = next(mark for mark in found if mark["name"] is None)
    hall = next(mark for mark in found if mark["name"])
    assert group["count"] == 4 and group["position"] == "northwest" and group["by_sector"] == [3, 0, 0, 0, 0, 0, 0, 0, 1]
    assert group["area_m2"] == pytest.approx(4 * (0.05 * 256) ** 2, rel=0.01)
    assert group["geometry"]["type"] == "MultiPoint" and len(group["geometry"]["coordinates"]) == 4
    assert hall["count"] == 1 and hall["prominence"] > 0.8 * group["prominence"]


def test_small_and_large_buildings_are_two_groups():
    one = chip()
    large = [("building", box(one, x, 0.5, x + 0.05, 0.55)) for x in (0.1, 0.3)]
    small = [("building", box(one, x, 0.7, x + 0.01, 0.71)) for x in (0.1, 0.3, 0.5)]
    (found,) = describe(features(*large, *small), one)
    assert [(mark["visible"], mark["count"]) for mark in found] == [(True, 2), (False, 3)]


def test_pieces_of_a_road_are_one_and_separate_roads_are_two():
    one = chip()
    lines = [shapely.LineString([place(one, x, 0.2), place(one, x + 0.2, 0.2)]) for x in (0.1, 0.3, 0.5)]
    pieces = [("road", line, "High Street") for line in lines]
    tracks = [("track", shapely.LineString([place(one, 0.1, y), place(one, 0.9, y)])) for y in (0.5, 0.8)]
    (found,) = describe(features(*pieces, *tracks), one)
    marks = {mark["category"]: mark for mark in found}
    assert marks["road"]["count"] == 1 and marks["road"]["length_m"] == pytest.approx(0.6 * 256, rel=0.01)
    assert marks["road"]["geometry"]["type"] == "LineString" and marks["track"]["count"] == 2


def test_a_point_and_an_area_of_one_name_are_one_thing():
    one = chip()
    world = features(("beach", box(one, 0.2, 0.2, 0.6, 0.6), "Praia"), ("beach", shapely.Point(place(one, 0.9, 0.9)), "PRAIA"))
    (found,) = describe(world, one)
    assert len(found) == 1 and found[0]["position"] == "centre" and found[0]["count"] == 1


def test_prominent_things_come_first():
    one = chip()
    (found,) = describe(
        features(
            ("grassland", box(one, 0, 0, 0.3, 0.3)),
            ("building", box(one, 0.4, 0.4, 0.5, 0.5)),
            ("stadium", box(one, 0.4, 0.4, 0.8, 0.8), "Arena"),
            ("beach", box(one, 0.97, 0, 5, 0.05), "sliver"),
        ),
        one,
    )
    assert found[0]["name"] == "Arena" and found[-1]["category"] == "building" or found[1]["name"] != "sliver"
    assert all(0 <= mark["prominence"] <= 1 for mark in found)
    assert [mark["prominence"] for mark in found] == sorted((mark["prominence"] for mark in found), reverse=True)


@pytest.mark.parametrize("lon", [179.9995, -179.9995, 180.0])
def test_chips_and_features_across_the_antimeridian(lon):
    one = chip(lon, 10)
    assert -180 <= one["west"] < 180
    middle = one["west"] + (one["east"] - one["west"]) / 2
    lake = shapely.box(middle - 0.0003, 9.9997, middle + 0.0003, 10.0003)
    for shift in (0, -360):
        (found,) = describe(features(("lake", shapely.transform(lake, lambda xy, by=shift: xy + (by, 0)))), one)
        assert found[0]["position"] == "centre" and found[0]["lon"] == pytest.approx(middle, abs=1e-6)
        west, _, east, _ = shapely.from_geojson(json.dumps(found[0]["geometry"])).bounds
        assert one["west"] <= west < east <= one["east"]


def test_relations_tell_distance_and_direction():
    one = chip(30, 60)
    spots = {"northeast": (0.75, 0.25), "south": (0.5, 0.9), "west": (0.1, 0.5)}
    world = features(
        ("ruins", box(one, 0.48, 0.48, 0.52, 0.52), "Ruins"),
        *(("water tower", shapely.Point(place(one, *spot)), word) for word, spot in spots.items()),
    )
    (found,) = describe(world, one)
    told = landmarks.relations(found, most=10)
    assert told
    for relation in told:
        first, second = found[relation["from"]], found[relation["to"]]
        dx = (second["lon"] - first["lon"]) / (one["east"] - one["west"])
        dy = (second["lat"] - first["lat"]) / (one["north"] - one["south"])
        turn = round(np.degrees(np.arctan2(dy, dx)) / 45) % 8
        assert relation["direction"] == directions.COMPASS[turn]
        if first["name"] == "Ruins":
            assert relation["direction"] == second["name"]
            edge = 0.02 * 256 if second["name"] != "northeast" else 0.02 * 256 * 2**0.5
            assert relation["distance_m"] == pytest.approx(256 * np.hypot(dx, dy) - edge, rel=0.02)
    used = [relation[end] for relation in told for end in ("from", "to")]
    assert max(used.count(i) for i in used) <= 2


def test_no_relations_where_there_is_nothing_to_relate():
    one = chip()
    (found,) = describe(
        features(
            ("forest", box(one, 0, 0, 1, 1)),
            ("lake", box(one, 0.4, 0.4, 0.6, 0.6), "Lake"),
            ("restaurant or café", shapely.Point(place(one, 0.1, 0.1)), "C"),
        ),
        one,
    )
    assert landmarks.relations(found) == [] and landmarks.relations([]) == []


def test_the_result_is_json_and_short():
    one = chip()
    rng = np.random.default_rng(1)
    rows = [("building", box(one, x, y, x + 0.03, y + 0.03)) for x, y in rng.uniform(0, 0.95, (300, 2))]
    wiggle = np.c_[np.linspace(0, 1, 4000), 0.5 + 0.3 * np.sin(np.linspace(0, 300, 4000))]
    rows += [("river", shapely.LineString([place(one, x, y) for x, y in wiggle]), 'A "<b>" \u05d0')]
    rows += [("forest", box(one, x, 0.02, x + 0.02, 0.06)) for x in np.arange(0, 0.95, 0.04)]
    (found,) = describe(features(*rows), one)
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found and len(text) < 20_000
    for mark in found:
        assert shapely.get_num_coordinates(shapely.from_geojson(json.dumps(mark["geometry"]))) <= pieces.MAX_VERTICES


def test_lists_are_limited():
    one = chip(side_m=1000, size_px=1000)
    rng = np.random.default_rng(1)
    corners = enumerate(rng.uniform(0, 0.95, (60, 2)))
    rows = [("building", box(one, x, y, x + 0.03, y + 0.03), f"n{i}") for i, (x, y) in corners]
    rows += [("shop", shapely.Point(place(one, 0.5, 0.5)), f"s{i}") for i in range(30)]
    (found,) = describe(features(*rows), one)
    assert sum(mark["visible"] for mark in found) == landmarks.MOST_VISIBLE
    assert sum(not mark["visible"] for mark in found) == landmarks.MOST_HIDDEN


def test_empty_maps_and_empty_chips():
    one, far = chip(), chip(50, 50)
    assert describe(features(("beach", box(one, 0, 0, 1, 1))), far, one, far)[::2] == [[], []]
    empty = maps.Features(features(("beach", box(one, 0, 0, 1, 1))).table.iloc[:0], np.empty(0, object))
    assert describe(empty, one) == [[]]
    world = features(("beach", box(one, 0, 0, 1, 1)))
    assert landmarks.describe(world, landmarks.index(world), pd.DataFrame([one]).iloc[:0]) == []


def test_batches_change_nothing(monkeypatch):
    one = chip(side_m=3000)
    rng = np.random.default_rng(2)
    world = features(*(("building", box(one, x, y, x + 0.01, y + 0.01)) for x, y in rng.uniform(0, 0.9, (200, 2))))
    chips = [chip(lon, lat) for lon, lat in rng.uniform(-0.01, 0.01, (40, 2))]
    whole = describe(world, *chips)
    assert any(whole)
    monkeypatch.setattr(landmarks, "_BATCH", 7)
    assert describe(world, *chips) == whole
    assert [describe(world, one)[0] for one in chips] == whole


def tiles() -> pd.DataFrame:
    """The chips of the real tiles."""
    rows = []
    for path in sorted((AGUDA / "tiles").glob("*.jpg")):
        x, y, z = map(int, re.fullmatch(r"(\d+)-(\d+)-(\d+)", path.stem).groups())
        west, east = (360 * (x + i) / 2**z - 180 for i in (0, 1))
        north, south = (np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * (y + i) / 2**z)))) for i in (0, 1))
        gsd = 156543.034 * np.cos(np.radians((north + south) / 2)) / 2**z
        box = {"west": west, "south": south, "east": east, "north": north}
        rows.append({"key": path.stem, **box, "gsd_m": gsd, "size_px": 256})
    return pd.DataFrame(rows)


@pytest.mark.skipif(not AGUDA.is_dir(), reason="osm_praia_da_aguda is not in RSVLM_DATA nor in ../shared/data")
def test_the_real_beach_is_where_it_is():
    world = maps.read([str(AGUDA / "osm_features_clipped.geojson")])
    chips = tiles()
    found = dict(zip(chips["key"], landmarks.describe(world, landmarks.index(world), chips)))
    assert len(found) == 8 and all(any(mark["visible"] for mark in marks) for marks in found.values())
    middle = {mark["category"]: mark for mark in found["62093-50162-17"]}
    assert middle["beach"]["name"] == "Praia da Aguda" and middle["beach"]["share"] == pytest.approx(0.18, abs=0.02)
    assert all(middle[word]["visible"] for word in ("beach", "cliff", "path", "flight of steps"))
    tower = next(mark for mark in found["62094-50163-17"] if mark["category"] == "water tower")
    assert tower["visible"] and tower["position"] == "southwest" and tower["area_m2"] == pytest.approx(276, rel=0.02)
    assert not any(mark["visible"] for marks in found.values() for mark in marks if mark["category"] == "protected area")
    assert any(landmarks.relations(marks) for marks in found.values())


@pytest.mark.skipif(not BUILDINGS.is_file(), reason="oam_osm is not in RSVLM_DATA nor in ../shared/data")
def test_real_buildings_are_counted():
    world = maps.read([str(BUILDINGS)])
    west, south, east, north = shapely.total_bounds(world.geometry)
    metres = (north - south) * 110_600
    one = {"west": west, "south": south, "east": east, "north": north, "gsd_m": metres / 4000, "size_px": 4000}
    (found,) = describe(world, one)
    assert sum(mark["count"] for mark in found) == 201 and found[0]["count"] > 150
