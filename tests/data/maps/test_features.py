"""Maps of every format come out in one schema, each thing once; a bad request stops before any work."""

import pickle

import pytest
from conftest import DATA
from mapping import feature, point, polygon, square, write

from rsvlm.data.maps import features as maps
from rsvlm.errors import ConfigError, DataError

shapely = pytest.importorskip("shapely", reason="the extra [data] is not installed")

AGUDA = DATA / "osm_praia_da_aguda" / "osm_features_clipped.geojson"
BUILDINGS = DATA / "oam_osm" / "1" / "labels.geojson"


def test_origin_is_told_by_the_file_or_behind_the_path(tmp_path):
    own = write(tmp_path / "own.geojson", polygon(0, 0, natural="beach"))
    mine = write(tmp_path / "mine.geojson", polygon(3, 0, natural="beach"))
    osm = write(tmp_path / "osm.geojson", polygon(1, 0, identity="way/12", natural="beach"))
    said = write(tmp_path / "said.geojson", polygon(2, 0, natural="beach"), licence="CC0-1.0", attribution="City of X")
    table = maps.read([own, osm, said, f"{mine}#licence=CC-BY-4.0&attribution=Me"]).table
    assert table["licence"].tolist() == ["unknown", "ODbL-1.0", "CC0-1.0", "CC-BY-4.0"]
    assert table["attribution"].tolist() == ["own.geojson", "© OpenStreetMap contributors", "City of X", "Me"]


def test_a_category_may_stand_behind_the_path(tmp_path):
    where = write(tmp_path / "map.geojson", point(0, 0, height="3"))
    assert maps.read([f"{where}#water_tower"]).table["category"].tolist() == ["water tower"]
    with pytest.raises(ConfigError, match="did you mean 'beach'"):
        maps.read([f"{where}#beech"])


def test_small_polygons_that_say_nothing_are_buildings(tmp_path):
    houses = [polygon(i * 0.01, 0, side=0.0002, osm_id=i, height=3.5) for i in range(5)]
    features = maps.read([write(tmp_path / "houses.geojson", *houses)])
    assert set(features.table["category"]) == {"building"} and features.counts["taken for buildings"] == 5
    fields = [polygon(i, 0, side=0.5, id=i) for i in range(5)]
    features = maps.read([write(tmp_path / "fields.geojson", *fields)])
    assert len(features.table) == 0 and features.counts["no tags"] == 5
    features = maps.read([write(tmp_path / "mixed.geojson", *houses, polygon(3, 3, natural="beach"))])
    assert features.table["category"].tolist() == ["beach"]


def test_yes_no_and_provenance_say_nothing_of_footprints(tmp_path):
    about = {"verified": False, "source": "survey", "last_update": "May 2020", "area_m2": 40.5}
    houses = [polygon(i * 0.01, 0, side=0.0002, **about) for i in range(5)]
    assert set(maps.read([write(tmp_path / "houses.geojson", *houses)]).table["category"]) == {"building"}
    gone = [polygon(i * 0.01, 0, side=0.0002, building="yes", demolished="yes") for i in range(5)]
    features = maps.read([write(tmp_path / "gone.geojson", *gone)])
    assert not len(features.table) and features.counts == {"no longer or not yet there": 5}
    none = [polygon(i * 0.01, 0, side=0.0002, building="no") for i in range(5)]
    assert not len(maps.read([write(tmp_path / "none.geojson", *none)]).table)


def test_a_map_that_gives_nothing_says_why(tmp_path, caplog):
    empty = write(tmp_path / "empty.geojson", point(0, 0, colour="red"), point(0, 1, colour="red"), point(0, 2))
    with pytest.raises(
        DataError, match=r"empty\.geojson is left: 2 tags or columns .*#category=building; 1 shapes that say nothing"
    ):
        maps.needed(maps.read([empty]), [empty])
    with pytest.raises(DataError, match="it holds no feature"):
        maps.needed(maps.read([write(tmp_path / "none.geojson")]), ["none.geojson"])
    full = write(tmp_path / "full.geojson", point(0, 0, natural="tree"))
    elsewhere = maps.read([full], (5, 5, 6, 6))
    assert maps.needed(elsewhere, [full]) is elsewhere  # whoever has the imagery can say more
    maps.needed(maps.read([full, empty]), [full, empty])
    assert "empty.geojson: 0 features were read, and left out: 2 tags or columns" in caplog.text


def test_a_thing_keeps_its_own_and_its_english_name_among_many(tmp_path):
    names = {f"name:{chr(97 + i // 26)}{chr(97 + i % 26)}": f"N{i}" for i in range(200)}
    where = write(tmp_path / "map.geojson", point(0, 0, natural="peak", **names | {"name:en": "Mount", "name": "Monte"}))
    table = maps.read([where]).table
    assert table["name"][0] == "Monte" and table["names"][0]["en"] == "Mount" and len(table["names"][0]) == 39


def test_pieces_of_one_feature_are_joined(tmp_path):
    where = write(
        tmp_path / "map.geojson",
        polygon(0, 0, identity="way/1", natural="beach", name="A"),
        polygon(0.001, 0, identity="way/1", natural="beach", name="A"),
        polygon(0.001, 0, identity="way/2", natural="beach", name="B"),
    )
    features = maps.read([where])
    assert features.table["name"].tolist() == ["A", "B"] and features.counts["pieces merged"] == 1
    assert features.geometry[0].equals(shapely.box(0, 0, 0.002, 0.001))


def test_the_same_building_in_two_maps_counts_once(tmp_path):
    one = write(tmp_path / "one.geojson", polygon(0, 0, building="yes"), polygon(1, 1, building="yes"))
    two = write(tmp_path / "two.geojson", polygon(0.0001, 0.0001, building="yes"), polygon(2, 2, building="yes"))
    features = maps.read([one, two])
    assert len(features.table) == 3 and features.counts["same thing in another map"] == 1


def test_a_closed_line_of_an_area_is_an_area(tmp_path):
    ring = square(0, 0)[0]
    where = write(
        tmp_path / "map.geojson",
        feature({"type": "LineString", "coordinates": ring}, natural="beach"),
        feature({"type": "LineString", "coordinates": ring}, highway="track"),
    )
    assert [one.geom_type for one in maps.read([where]).geometry] == ["Polygon", "LineString"]


@pytest.mark.parametrize(
    "where, error",
    [
        ("nowhere.geojson", DataError),
        ("https://example.org/map.geojson", ConfigError),
        ("places:https://example.invalid", ConfigError),
    ],
)
def test_a_bad_request_stops_before_any_work(tmp_path, where, error):
    with pytest.raises(error):
        maps.read([where])


def test_an_unknown_suffix_a_bad_box_and_no_map_are_named(tmp_path):
    (tmp_path / "map.docx").write_text("x")
    with pytest.raises(ConfigError, match="docx"):
        maps.read([str(tmp_path / "map.docx")])
    with pytest.raises(ConfigError, match="no map"):
        maps.read([])
    where = write(tmp_path / "map.geojson")
    for box in ((1, 0, 0, 1), (0, 0, 1), (0, 0, float("nan"), 1), (0, -95, 1, 1)):
        with pytest.raises(ConfigError, match="box"):
            maps.read([where], box)
    assert len(maps.read([where]).table) == 0


def test_things_outside_the_region_are_left_out(tmp_path):
    where = write(tmp_path / "map.geojson", point(1, 1, natural="tree"), point(5, 5, natural="tree"))
    features = maps.read([where], (0, 0, 2, 2))
    assert len(features.table) == 1 and features.counts["outside the region"] == 1


def test_saved_features_come_back_and_bytes_repeat(tmp_path):
    where = write(
        tmp_path / "map.geojson",
        polygon(0, 0, natural="beach", name="שלום", **{"name:en": "Peace"}),
        point(0, 0, natural="tree"),
        point(0, 99, natural="tree"),
    )
    features = maps.read([where])
    first = maps.save(features, tmp_path / "a").read_bytes()
    again = maps.load(tmp_path / "a")
    assert again.table.to_dict("records") == features.table.to_dict("records")
    assert again.table["name"][1] is None and again.counts == features.counts
    assert shapely.equals_exact(again.geometry, features.geometry).all()
    assert maps.save(again, tmp_path / "b").read_bytes() == first
    assert maps.fingerprint(again) == maps.fingerprint(features) == maps.fingerprint(pickle.loads(pickle.dumps(features)))
    other = maps.read([write(tmp_path / "other.geojson", point(0, 1, natural="tree"))])
    assert maps.fingerprint(other) != maps.fingerprint(features)
    (tmp_path / "b" / "features.parquet").write_bytes(first[:100])
    with pytest.raises(DataError, match="features.parquet"):
        maps.load(tmp_path / "b")


def test_an_empty_map_can_be_saved(tmp_path):
    features = maps.read([write(tmp_path / "map.geojson")])
    maps.save(features, tmp_path)
    assert len(maps.load(tmp_path).table) == 0


# Real maps


@pytest.mark.skipif(not AGUDA.is_file(), reason=f"{AGUDA.parent.name} is not in RSVLM_DATA nor in ../shared/data")
def test_the_real_map_of_a_beach():
    features = maps.read([str(AGUDA)])
    categories = {"beach", "cliff", "ruins", "water tower", "parking", "track", "path", "coastline"}
    assert categories <= set(features.table["category"])
    beach = features.table[features.table["category"] == "beach"]
    assert beach["name"].tolist() == ["Praia da Aguda"]  # drawn in four tiles, one beach
    assert set(features.table["licence"]) == {"ODbL-1.0"} and features.counts["pieces merged"] > 40
    assert sum(features.counts.values()) + len(features.table) == 116
    assert shapely.is_valid(features.geometry).all()


@pytest.mark.skipif(not BUILDINGS.is_file(), reason="oam_osm is not in RSVLM_DATA nor in ../shared/data")
def test_the_real_map_of_buildings_without_tags():
    features = maps.read([str(BUILDINGS)])
    assert set(features.table["category"]) == {"building"} and len(features.table) == 201
    assert set(features.table["source"]) == {"OpenStreetMap"}
