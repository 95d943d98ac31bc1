"""Labels as files: what people, QGIS and strangers write, and on which chips it lies."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from rsvlm.errors import DataError
from rsvlm.search import label_files

HOSTILE = '<img src=x onerror=alert(1)> "\u202e” </script>\x1b[31m'


def chips(side: int = 4, size: float = 0.01, west: float = 10.0, south: float = 50.0) -> pd.DataFrame:
    """A grid of chips that touch, keys `a/0` and so on, from the south-west row by row."""
    rows = []
    for number in range(side * side):
        left, low = west + size * (number % side), south + size * (number // side)
        right, high = left + size, low + size
        outline = [left, high, right, high, right, low, left, low]
        middle = {"lon": left + size / 2, "lat": low + size / 2}
        box = {"west": left, "south": low, "east": right, "north": high}
        rows.append({"key": f"a/{number}", "source": "a", **middle, **box, "outline": outline})
    return pd.DataFrame(rows)


def point(lon: float, lat: float, **properties: object) -> dict:
    return {"type": "Feature", "properties": properties, "geometry": {"type": "Point", "coordinates": [lon, lat]}}


def square(west: float, south: float, size: float, **properties: object) -> dict:
    ring = [[west, south], [west + size, south], [west + size, south + size], [west, south + size], [west, south]]
    return {"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [ring]}}


def write(path, features, **more):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **more}), encoding="utf-8")
    return path


def test_labels_come_back_as_they_were_saved(tmp_path):
    table = chips()
    records = table.to_dict("records")
    features = label_files.edited([], [records[3], records[1]], "yes", note=HOSTILE)
    features = label_files.edited(features, [records[7]], "no")
    path = label_files.write(tmp_path / "labels.geojson", features)
    back = label_files.read(path)
    assert back == features and back[0]["properties"]["note"] == HOSTILE
    placed = label_files.place(back, table)
    assert placed.rows.tolist() == [3, 1, 7] and placed.yes.tolist() == [True, True, False] and not placed.left_out
    # Changed, taken away, and the rest left as it was.
    again = label_files.edited(label_files.edited(back, [records[3]], "no"), [records[1]], None)
    placed = label_files.place(again, table)
    assert placed.rows.tolist() == [3, 7] and placed.yes.tolist() == [False, False]
    assert again[0]["properties"]["note"] == HOSTILE


def test_qgis_can_open_and_edit_them(tmp_path):
    pyogrio = pytest.importorskip("pyogrio")
    table = chips()
    features = [label_files.feature(chip, label) for chip, label in zip(table.to_dict("records"), ["yes", "no", None])]
    path = label_files.write(tmp_path / "labels.geojson", features)
    about = pyogrio.read_info(path)
    assert about["crs"] == "EPSG:4326" and {"label", "key"} <= set(about["fields"]) and about["features"] == 3
    # What its driver writes is read again.
    edited = tmp_path / "edited.geojson"
    meta, _, geometry, columns = pyogrio.raw.read(path)
    columns[list(meta["fields"]).index("label")][2] = "yes"
    form = {"crs": meta["crs"], "geometry_type": meta["geometry_type"], "driver": "GeoJSON"}
    pyogrio.raw.write(str(edited), geometry, columns, meta["fields"], **form)
    placed = label_files.place(label_files.read(edited), table)
    assert placed.rows.tolist() == [0, 1, 2] and placed.yes.tolist() == [True, False, True]


def test_a_ring_is_counter_clockwise_and_closed():
    ring = np.array(label_files.feature(chips().iloc[0].to_dict(), "yes")["geometry"]["coordinates"][0])
    x, y = ring.T
    assert (ring[0] == ring[-1]).all() and (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0


def test_points_and_polygons_lie_on_chips():
    pytest.importorskip("shapely")
    table = chips()
    features = [
        point(10.005, 50.005, label="yes"),
        square(10.012, 50.001, 0.016, label="no"),  # over the middles of four chips
        square(10.031, 50.031, 0.002, label="yes"),  # inside one
        {
            "properties": {"label": "no"},
            "geometry": {"type": "MultiPoint", "coordinates": [[10.005, 50.025], [10.015, 50.025]]},
        },
        point(11, 50, label="yes"),
        {"properties": {"label": "yes"}, "geometry": None},
        point(10.025, 50.035, label=None),
    ]
    placed = label_files.place(features, table)
    labels = dict(zip(placed.rows.tolist(), placed.yes.tolist()))
    assert labels == {0: True, 1: False, 2: False, 5: False, 6: False, 15: True, 8: False, 9: False}
    assert placed.left_out == {"outside the imagery": 1, "without a place, and with no key of this index": 1}


def test_a_point_on_several_chips_labels_the_one_whose_middle_is_nearest():
    pytest.importorskip("shapely")
    table = pd.concat([chips(1, 0.04), chips(4, 0.01).assign(key=lambda t: "b" + t["key"])], ignore_index=True)
    assert label_files.place([point(10.005, 50.005, label="yes")], table).rows.tolist() == [1]
    assert label_files.place([point(10.0195, 50.0195, label="yes")], table).rows.tolist() == [0]


def test_a_place_beyond_the_180th_meridian_is_found_by_both_its_names():
    pytest.importorskip("shapely")
    table = chips(2, 0.01, west=179.99)
    for lon in (180.005, -179.995):
        assert label_files.place([point(lon, 50.005, label="yes")], table).rows.tolist() == [1]
        assert label_files.place([square(lon - 0.002, 50.003, 0.004, label="yes")], table).rows.tolist() == [1]
        assert label_files.place([point(lon, 50.005, label="yes", key="a/1")], table).rows.tolist() == [1]


def test_yes_and_no_on_one_chip_are_neither():
    table = chips()
    features = [point(10.005, 50.005, label=label, key="a/0") for label in ("yes", "no")] + [
        {"properties": {"label": "no", "key": "a/2"}}
    ]
    placed = label_files.place(features, table)
    assert placed.rows.tolist() == [2] and placed.both == [0]
    assert placed.left_out == {"chip with both yes and no, as a/0": 1}


def test_a_key_that_lies_elsewhere_is_of_another_archive():
    placed = label_files.place([square(-50, -20, 0.01, label="yes", key="a/0")], chips())
    assert not len(placed.rows) and list(placed.left_out) == ["key of a chip that lies elsewhere: labels of another archive"]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("yes", "yes"),
        (" Yes ", "yes"),
        (True, "yes"),
        (1.0, "yes"),
        (0.0, "no"),
        (1, "yes"),
        ("no", "no"),
        (False, "no"),
        (0, "no"),
        ("", None),
        (None, None),
    ],
)
def test_labels_are_read_as_programs_write_them(tmp_path, value, label):
    assert label_files.read(write(tmp_path / "a.geojson", [point(1, 2, label=value)]))[0]["properties"]["label"] == label


def test_a_feature_without_a_label_has_that_of_its_file(tmp_path):
    path = write(tmp_path / "a.geojson", [point(1, 2), point(1, 2, label="no")])
    assert [one["properties"]["label"] for one in label_files.read(path, "yes")] == ["yes", "no"]
    single = tmp_path / "b.geojson"
    single.write_text("\ufeff" + json.dumps(point(1, 2)))
    assert label_files.read(single, "no")[0]["properties"]["label"] == "no"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("{" * 5, "cannot be read"),
        ("[" * 200_000, "nested too deeply"),
        ('{"type": "FeatureCollection", "features": ' + '{"a":' * 100_000, "nested too deeply"),
        ("[1, 2]", "list of features"),
        ('{"features": {"0": 1}}', "list of features"),
        ('{"features": [1]}', "list of features"),
        ('{"features": [{"properties": 3}]}', "feature 1: its properties"),
        ('{"features": [{"properties": {"key": ["a"]}}]}', "feature 1: its key"),
        ('{"features": [{"properties": {}, "geometry": {"type": "Point", "coordinates": [NaN, 1]}}]}', "NaN is no number"),
        ('{"features": [{"properties": {}, "geometry": {"type": "Point", "coordinates": [1e999, 1]}}]}', "finite"),
        ('{"features": [{"properties": {}, "geometry": {"type": "Point", "coordinates": [true, 1]}}]}', "finite"),
        ('{"features": [{"properties": {}, "geometry": {"type": "Point", "coordinates": [1]}}]}', "finite"),
        (
            '{"features": [{"properties": {}, "geometry": {"type": "Point", "coordinates": [1, 1' + "0" * 5000 + "]}}]}",
            "read|finite",
        ),
        ('{"features": [{"properties": {}, "geometry": {"type": "Point", "coordinates": [500000, 5500000]}}]}', "in degrees"),
        (
            '{"features": [{"properties": {}, "geometry": {"type": "Polygon", "coordinates": [[1, 2], [3, 4]]}}]}',
            "corner|coordinates",
        ),
        ('{"features": [{"properties": {}, "geometry": {"type": "Polygon", "coordinates": 5}}]}', "coordinates"),
        (
            '{"features": [{"properties": {}, "geometry": {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}}]}',
            "point or a polygon",
        ),
        ('{"features": [{"properties": {}, "geometry": {"type": ["Point"], "coordinates": [1, 2]}}]}', "point or a polygon"),
        ('{"features": [{"properties": {}, "geometry": "x"}]}', "point or a polygon"),
        ('{"features": [], "crs": {"properties": {"name": "urn:ogc:def:crs:EPSG::32721"}}}', "longitude and latitude"),
        ('{"features": [{"properties": {"label": {"a": 1}}}]}', "expected yes or no"),
    ],
)
def test_a_hostile_file_ends_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "labels.geojson"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        label_files.read(path)
    assert len(str(error.value)) < 500 + len(str(tmp_path))


def test_markup_in_a_wrong_label_is_told_as_one_short_line(tmp_path):
    path = write(tmp_path / "a.geojson", [point(1, 2, label=HOSTILE * 50)])
    with pytest.raises(DataError) as error:
        label_files.read(path)
    told = str(error.value)
    assert "feature 1" in told and "\x1b" not in told and "\u202e" not in told and len(told) < 300 + len(str(path))


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.geojson", [point(1, 2)] * 3)
    with pytest.raises(DataError, match="cannot be read"):
        label_files.read(tmp_path)
    monkeypatch.setattr(label_files, "MOST_POINTS", 2)
    with pytest.raises(DataError, match="simplify"):
        label_files.read(path)
    monkeypatch.setattr(label_files, "MOST_BYTES", 10)
    with pytest.raises(DataError, match="MB"):
        label_files.read(path)


def test_a_broken_polygon_still_labels(tmp_path):
    pytest.importorskip("shapely")
    bow = [[10.0, 50.0], [10.01, 50.01], [10.01, 50.0], [10.0, 50.01], [10.0, 50.0]]
    feature = {"type": "Feature", "properties": {"label": "yes"}, "geometry": {"type": "Polygon", "coordinates": [bow]}}
    short = {"type": "Feature", "properties": {"label": "yes"}, "geometry": {"type": "Polygon", "coordinates": [bow[:2]]}}
    empty = {"type": "Feature", "properties": {"label": "yes"}, "geometry": {"type": "Polygon", "coordinates": []}}
    features = label_files.read(write(tmp_path / "a.geojson", [feature, short, empty]))
    placed = label_files.place(features, chips())
    assert placed.rows.tolist() == [0] and sum(placed.left_out.values()) == 2
