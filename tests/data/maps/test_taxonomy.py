"""Categories are told by tags of any map; hostile texts and broken geometry become usable, or have a reason."""

import json
from collections import Counter

import numpy as np
import pytest

from rsvlm.data.maps import taxonomy

shapely = pytest.importorskip("shapely", reason="the extra [data] is not installed")


def cleaned(*geometries) -> tuple[np.ndarray, list]:
    array = np.empty(len(geometries), object)
    array[:] = geometries
    result, reasons = taxonomy.clean_geometry(array)
    return result, reasons.tolist()


# Categories


def test_the_taxonomy_is_complete_and_unambiguous():
    categories = taxonomy.taxonomy()
    about = json.loads(taxonomy.TAXONOMY.read_text(encoding="utf-8"))["about"]["fields"]
    assert len(categories) >= 80
    codes = Counter()
    for category in categories.values():
        assert set(about) == set(vars(category)) - {"name"}
        assert len(category.words) == 2 and all(category.words)
        assert category.shape in ("area", "line", "point") and 0 < category.interest <= 1
        assert category.smallest_visible_px > 0 and category.typical_size_m > 0
        assert category.osm or category.overture or category.geonames
        assert all("=" in part for rule in category.osm for part in rule.split("&"))
        codes.update((kind, code) for kind in ("osm", "overture", "geonames") for code in getattr(category, kind))
    assert codes.most_common(1)[0][1] == 1, codes.most_common(3)
    assert not categories["restaurant or café"].visible_from_above and categories["beach"].visible_from_above


@pytest.mark.parametrize(
    "tags, category",
    [
        ({"natural": "beach"}, "beach"),
        ({"building": "yes", "man_made": "water_tower"}, "water tower"),
        ({"building": "yes", "amenity": "cafe"}, "building"),
        ({"amenity": "cafe"}, "restaurant or café"),
        ({"natural": "water", "water": "river"}, "river"),
        ({"natural": "water"}, "lake"),
        ({"leisure": "pitch", "sport": "basketball;tennis"}, "tennis court"),
        ({"highway": "service", "service": "parking_aisle"}, "parking aisle"),
        ({"building": "no"}, None),
        ({"fclass": "wind_turbine"}, "wind turbine"),
        ({"fclass": "water_tower"}, "water tower"),
        ({"category": "Solar Farm"}, "solar farm"),
        ({"nonsense": "yes"}, None),
        ({}, None),
    ],
)
def test_the_category_of_tags(tags, category):
    assert taxonomy.category_of(tags) == category


# Names


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Praia da\nAguda\t\x00!", "Praia da Aguda !"),
        ("e\u0301t\u00e9", "été"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("\u202eevil\u202c \u2066x\u2069\u200f", "evil x"),
        ("שלום עולם", "שלום עולם"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("tag\U000e0041\U000e0042s\ufeff\u200b", "tags"),
        ("line\u2028sep", "line sep"),
        ("\u200d\u200c ", None),
        ("   ", None),
        (None, None),
        (True, None),
        (["a"], None),
        (12, "12"),
        ("\ud800x", "x"),
    ],
)
def test_names_are_one_printable_line(text, expected):
    assert taxonomy.clean_text(text) == expected


def test_long_names_are_cut():
    assert len(taxonomy.clean_text("n" * 10_000_000)) == taxonomy.MAX_NAME


# Geometry


def test_a_ring_that_crosses_itself_is_repaired():
    bow = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    (result,), reasons = cleaned(bow)
    assert reasons == [None] and result.is_valid and result.area == pytest.approx(0.5)


def test_unusable_geometry_has_a_reason():
    _, reasons = cleaned(
        None,
        shapely.Point(),
        shapely.Polygon(),
        shapely.Point(10, 95),
        shapely.Point(1000, 5),
        shapely.Polygon([(0, 0), (1, 1), (2, 2)]),
        shapely.LineString([(1, 1), (1, 1)]),
        shapely.Point(np.nan, 3),
    )
    assert reasons[:3] == ["empty geometry"] * 3
    assert reasons[3:5] == ["coordinates outside the world"] * 2
    assert reasons[5:7] == ["geometry without extent"] * 2
    assert reasons[7] in ("coordinates outside the world", "empty geometry")


def test_of_a_mixed_collection_the_areas_stay():
    mixed = shapely.GeometryCollection(
        [shapely.Point(5, 5), shapely.LineString([(0, 0), (3, 3)]), shapely.box(0, 0, 1, 1), shapely.Polygon()]
    )
    nested = shapely.GeometryCollection([shapely.GeometryCollection([mixed]), shapely.Point(1, 1)])
    (first, second), reasons = cleaned(mixed, nested)
    assert reasons == [None, None] and first.equals(shapely.box(0, 0, 1, 1)) and second.equals(first)


def test_heights_are_dropped():
    (result,), _ = cleaned(shapely.Point(1, 2, 3))
    assert not result.has_z


@pytest.mark.parametrize(
    "geometry",
    [
        shapely.Polygon([(179, 0), (-179, 0), (-179, 1), (179, 1)]),
        shapely.MultiPolygon([shapely.box(179, 0, 180, 1), shapely.box(-180, 0, -179, 1)]),
        shapely.box(179, 0, 181, 1),
        shapely.box(-181, 0, -179, 1),
    ],
    ids=["one ring", "two halves", "beyond 180", "before -180"],
)
def test_an_area_across_the_antimeridian_is_whole(geometry):
    (result,), reasons = cleaned(geometry)
    assert reasons == [None]
    assert result.bounds == pytest.approx((179, 0, 181, 1)) and result.area == pytest.approx(2)


def test_the_whole_world_is_no_line():
    (result,), _ = cleaned(shapely.box(-180, -90, 180, 90))
    assert result.area == pytest.approx(360 * 180)


def test_boxes_meet_around_the_antimeridian():
    bounds = np.array([[-179.5, 0, -179, 1], [179, 0, 179.2, 1], [179, 0, 181, 1], [0, 0, 1, 1]])
    assert taxonomy.touches(bounds, (179.5, 0, 181, 1)).tolist() == [True, False, True, False]
    assert taxonomy.touches(bounds, (-180, 0, -179.6, 1)).tolist() == [False, False, True, False]
