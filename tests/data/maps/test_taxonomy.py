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


@pytest.mark.parametrize(
    "tags, category",
    [
        ({"highway": "pedestrian"}, "pedestrian street"),
        ({"highway": "pedestrian", "area": "yes"}, "pedestrian area"),
        ({"place": "square", "highway": "pedestrian"}, "square"),
        ({"man_made": "tower", "tower:type": "bell_tower"}, "tower"),
        ({"man_made": "tower", "tower:type": "communication"}, "communications tower"),
        ({"man_made": "mast"}, "mast"),
        ({"building": "residential"}, "residential building"),
        ({"building": "apartments"}, "apartment block"),
        ({"landuse": "greenfield"}, None),
        ({"leisure": "track", "sport": "horse_racing"}, "racecourse"),
        ({"leisure": "track", "sport": "athletics"}, "athletics track"),
        ({"leisure": "track"}, "sports track"),
        ({"building": "yes", "sport": "horse_racing"}, "building"),
        ({"aeroway": "heliport"}, "heliport"),
        ({"natural": "desert"}, "desert"),
        ({"natural": "water", "water": "wastewater"}, "basin"),
        ({"natural": "water", "water": "rapids"}, "body of water"),
        ({"historic": "archaeological_site"}, "archaeological site"),
        ({"highway": "trunk"}, "main road"),
        ({"building": "garage"}, "garage"),
        ({"building": "stable"}, "stable"),
        ({"amenity": "kindergarten"}, "kindergarten"),
        ({"landuse": "grass"}, "grass"),
        ({"landuse": "recreation_ground"}, "recreation ground"),
        ({"railway": "station", "station": "subway"}, "metro station"),
        ({"man_made": "pipeline"}, "pipeline, perhaps buried"),
        ({"man_made": "pipeline", "location": "overground"}, "pipeline"),
    ],
)
def test_a_category_says_no_more_than_its_tag(tags, category):
    assert taxonomy.category_of(tags) == category


@pytest.mark.parametrize(
    "kind, code, category",
    [
        ("geonames", "S.GHSE", "hotel"),  # a guest house, and no greenhouse
        ("geonames", "S.TNKD", None),  # a cattle dipping tank, and no storage tank
        ("geonames", "S.TOWR", "tower"),
        ("geonames", "P.PPL", "settlement"),
        ("geonames", "H.STM", "watercourse"),
        ("overture", "building.residential", "residential building"),
        ("overture", "segment.pedestrian", "pedestrian street"),
        ("overture", "infrastructure.bell_tower", "tower"),
        ("overture", "land_use.greenfield", ""),
        ("overture", "place.ferry_service", None),  # a company
    ],
)
def test_a_category_says_no_more_than_its_code(kind, code, category):
    assert taxonomy.category_of_code(kind, code) == category


@pytest.mark.parametrize("word", ["demolished", "razed", "removed", "destroyed", "dismantled", "proposed", "planned"])
def test_what_is_not_there_is_not_told(word):
    assert not taxonomy.is_there({"building": "yes", word: "yes"}) and taxonomy.is_there({"building": "yes", word: "no"})
    assert taxonomy.category_of({"building": word}) is None and taxonomy.category_of({"shop": word}) is None
    assert taxonomy.category_of({f"{word}:building": "yes"}) is None and taxonomy.tells_of_the_past(
        {f"{word}:building": "yes"}
    )
    assert taxonomy.category_of({f"{word}:building": "yes", "landuse": "meadow"}) == "meadow"


def test_of_what_is_out_of_use_only_what_stands_is_told():
    for word in ("abandoned", "disused"):
        assert taxonomy.category_of({"amenity": "school", word: "yes"}) is None
        assert taxonomy.category_of({"amenity": "school", "building": "school", word: "yes"}) == "school"
        assert taxonomy.category_of({"aeroway": "aerodrome", word: "yes"}) is None
        assert taxonomy.category_of({"building": "yes", word: "yes"}) == "building"
    assert taxonomy.category_of({"building": "construction"}) == "construction site"


def test_a_word_means_what_its_shape_can_be():
    classes = [taxonomy.category_of({"fclass": "residential"}, dimension) for dimension in (1, 2, None)]
    assert classes == ["residential street", "residential area", "residential street"]
    assert (
        taxonomy.category_of({"class": "track"}, 2) == "sports track"
        and taxonomy.category_of({"class": "track"}, 1) == "track"
    )
    assert taxonomy.category_of({"type": "line"}) is None and taxonomy.category_of({"class": "plant"}) is None


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
