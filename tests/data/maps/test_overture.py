"""Features of Overture are the same in every form in which its own command and other programs write them."""

import json

import numpy as np
import pytest
from mapping import feature, write

from rsvlm.data.landmarks import describe
from rsvlm.data.maps import features as maps
from rsvlm.errors import ConfigError

shapely = pytest.importorskip("shapely", reason="the extra [data] is not installed")

OSM = [{"property": "", "dataset": "OpenStreetMap", "license": "ODbL-1.0"}]
OTHER = [{"property": "", "dataset": "Microsoft ML Buildings", "license": "ODbL-1.0", "confidence": 0.9}]


def box(number: int) -> dict:
    return shapely.geometry.mapping(shapely.box(number * 0.001, 0, number * 0.001 + 0.0002, 0.0002))


def buildings() -> list[dict]:
    plain = {"version": 1, "sources": OTHER, "has_parts": False, "is_underground": False}
    school = plain | {"subtype": "education", "class": "school", "names": {"primary": "Escola", "common": {"en": "School"}}}
    return [feature(box(i), f"b{i}", **plain) for i in range(5)] + [
        feature(box(5), "b5", **school),
        feature(box(6), "b6", **plain | {"is_underground": True}),
    ]


def told(where: str) -> list[tuple]:
    table = maps.read([where]).table
    return sorted(zip(table["id"], table["category"], table["name"].fillna(""), table["licence"], table["source"]))


def as_texts(features: list[dict]) -> list[dict]:
    """Write what is nested as JSON, as programs do whose columns cannot hold it."""
    nest = {True: json.dumps, False: lambda value: value}
    return [
        one | {"properties": {k: nest[isinstance(v, list | dict)](v) for k, v in one["properties"].items()}}
        for one in features
    ]


def test_buildings_in_every_form(tmp_path):
    pyogrio = pytest.importorskip("pyogrio")
    collection = write(tmp_path / "building.geojson", *buildings())
    lines = tmp_path / "building.geojsonseq"
    lines.write_text("\n".join(map(json.dumps, buildings())))
    wrong_name = tmp_path / "lines.geojson"
    wrong_name.write_text("\x1e" + "\n\x1e".join(map(json.dumps, buildings())))
    texts = write(tmp_path / "texts.geojson", *as_texts(buildings()))
    table = tmp_path / "building.gpkg"
    rows = [one["properties"] | {"id": one["id"]} for one in as_texts(buildings())]
    keys = ["id", "version", "sources", "has_parts", "is_underground", "subtype", "class", "names"]
    columns = [np.array([row.get(key) for row in rows], object) for key in keys]
    columns[1:2] = [np.array([1] * len(rows))]
    columns[3:5] = [np.array([row[key] for row in rows], bool) for key in ("has_parts", "is_underground")]
    wkb = shapely.to_wkb(np.array([shapely.geometry.shape(one["geometry"]) for one in buildings()], object))
    pyogrio.raw.write(table, wkb, columns, keys, geometry_type="Polygon", crs="EPSG:4326")
    first = told(collection)
    assert [row[1] for row in first] == ["building"] * 5 + ["school", "building"] and first[5][2] == "Escola"
    assert {row[3:] for row in first} == {("ODbL-1.0", "Overture (Microsoft ML Buildings)")}
    for where in (lines, wrong_name, texts, table):
        assert told(str(where)) == first, where
    read = maps.read([collection])
    hidden = describe.index(read).hidden
    assert [describe.HIDDEN[h] for h in hidden] == [None] * 6 + [describe.UNDERGROUND]
    assert read.table["attribution"][0] == "Microsoft ML Buildings, Overture Maps Foundation"


def test_other_types_are_known_by_their_columns_and_their_names(tmp_path):
    where = shapely.geometry.mapping(shapely.Point(0, 0))
    way = shapely.geometry.mapping(shapely.LineString([(0, 0), (0.01, 0.01)]))
    place = {"version": 1, "sources": [{"dataset": "meta"}], "names": {"primary": "X"}, "categories": {"primary": "zoo"}}
    tunnel = {"version": 1, "sources": OSM, "subtype": "road", "class": "primary", "connectors": []}
    part = {"version": 1, "sources": OTHER, "building_id": "b1", "is_underground": False}
    read = maps.read(
        [
            write(tmp_path / "place.geojson", feature(where, "p", **place)),
            write(tmp_path / "roads.geojson", feature(way, "s", **tunnel | {"road_flags": [{"values": ["is_tunnel"]}]})),
            write(tmp_path / "parts.geojson", feature(box(0), "q", **part)),
            write(
                tmp_path / "land_use.geojson",
                feature(box(1), "l", version=1, sources=OSM, subtype="residential", **{"class": "residential"}),
            ),
            write(
                tmp_path / "water.geojson", feature(box(2), "w", version=1, sources=OSM, subtype="lake", **{"class": "lake"})
            ),
            write(
                tmp_path / "gate.geojson",
                feature(where, "g", version=1, sources=OSM, subtype="airport", **{"class": "airport_gate"}),
            ),
            write(tmp_path / "gone.geojson", feature(way, "r", **tunnel | {"road_flags": [{"values": ["is_abandoned"]}]})),
        ]
    )
    assert read.table["category"].tolist() == ["zoo", "main road", "residential area", "lake"]
    assert read.table["licence"][0] == "CDLA-Permissive-2.0" and read.table["name"][0] == "X"
    assert describe.HIDDEN[describe.index(read).hidden[1]] == describe.UNDERGROUND
    assert read.counts["unmapped tags"] == 2 and read.counts["no longer or not yet there"] == 1


@pytest.mark.parametrize("common", [{"en": "Beach"}, [["en", "Beach"]], [{"key": "en", "value": "Beach"}]])
def test_names_in_every_form_of_a_map(tmp_path, common):
    kinds = {
        "taxonomy": {"primary": "beach", "hierarchy": ["nature", "beach"]},
        "names": {"primary": "Praia", "common": common},
    }
    shape = shapely.geometry.mapping(shapely.Point(0, 0))
    table = maps.read([write(tmp_path / "map.geojson", feature(shape, "p", version=1, sources=OSM, **kinds))]).table
    assert table["category"][0] == "beach" and table["names"][0] == {"en": "Beach"}


def test_maps_without_layers_have_no_option_for_one(tmp_path):
    where = write(tmp_path / "building.geojson", *buildings())
    with pytest.raises(ConfigError, match="no layers"):
        maps.read([f"{where}#layer=a"])
