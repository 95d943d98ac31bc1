"""Results as files that other programs read."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
from rasters import picture, write
from searching import HOSTILE, tiny_model

from rsvlm.book.figures import atlas
from rsvlm.search import index as archive, result_files

pytest.importorskip("pyproj")

TEXTS = ["=1+1 a red field", HOSTILE]


@pytest.fixture(scope="module")
def matches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write(folder / "in" / "a.tif", picture(96, 96))
    model = tiny_model(TEXTS)
    archive.index(folder / "in", model, folder / "out", progress=False)
    index = archive.open_index(folder / "out")
    found = archive.query(index, TEXTS, model, k=3)
    return found, index.pictures(found)


def test_a_geopackage_says_what_geojson_says(matches, tmp_path):
    geopandas = pytest.importorskip("geopandas")
    found, _ = matches
    features = result_files.features(found)["features"]
    result_files.write_geojson(tmp_path / "a.geojson", found)
    for _ in range(2):  # what is there is replaced
        path = result_files.write_geopackage(tmp_path / "a.gpkg", features)
    package, plain = geopandas.read_file(path, layer="results"), geopandas.read_file(tmp_path / "a.geojson")
    assert package.crs == "EPSG:4326" and package.geom_equals_exact(plain.geometry, 1e-9).all()
    for name in ("text", "rank", "score", "key", "source", "file", "scale", "model", "licence"):
        assert package[name].tolist() == plain[name].tolist() == [one["properties"][name] for one in features]
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("a.gpkg", "a.geojson")] == []


def test_polygons_of_several_parts_and_values_that_miss(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    square = [[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]]
    members = [
        {"geometry": {"type": "Polygon", "coordinates": square}, "properties": {"area": None, "name": "one"}},
        {"geometry": {"type": "MultiPolygon", "coordinates": [square, square]}, "properties": {"area": 2.5, "name": None}},
    ]
    frame = geopandas.read_file(result_files.write_geopackage(tmp_path / "a.gpkg", members, "EPSG:32629"))
    assert frame.crs == "EPSG:32629" and set(frame.geom_type) == {"MultiPolygon"}
    assert np.isnan(frame["area"][0]) and frame["area"][1] == 2.5 and frame["name"].tolist()[0] == "one"
    assert pd.isna(frame["name"][1])


def test_a_table_is_safe_in_a_spreadsheet(matches, tmp_path):
    found, _ = matches
    path = result_files.write_csv(tmp_path / "a.csv", [one["properties"] for one in result_files.features(found)["features"]])
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and rows[0]["text"] == f"'{TEXTS[0]}" and rows[3]["text"] == HOSTILE
    assert [float(row["score"]) for row in rows] == pytest.approx(found["score"].tolist(), abs=1e-4)


def test_a_map_shows_each_chip_once_and_texts_as_text(matches):
    pytest.importorskip("xstatic.pkg.leaflet")
    found, pictures = matches
    items = result_files.map_items(found, [None, *pictures[1:]])
    assert len(items) == found["key"].nunique()
    assert json.dumps([item["record"] for item in items]).count("cosine") == 6
    page = atlas.chips_map(items).get_root().render()
    assert "<img src=x" not in page and "red field" in page
