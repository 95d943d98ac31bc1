"""An index on disk: read by others, row by row, and never half of one and half of another."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pandas as pd
import pytest
from rasters import mosaic, picture, write, write_mbtiles
from searching import tiny_model

from rsvlm.data.imagery import sources as imagery
from rsvlm.errors import DataError
from rsvlm.search import index as archive, index_files, index_parts

pyproj = pytest.importorskip("pyproj")
from_origin = pytest.importorskip("rasterio.transform").from_origin

TEXTS = ["a red field", "a blue lake"]


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(index_parts, "CHIPS", 5)
    write(tmp_path / "in" / "a.tif", picture(96, 128))
    write(tmp_path / "in" / "b.tif", picture(64, 64, 1), transform=from_origin(470_000, 4_300_000, 10, 10))
    archive.index(tmp_path / "in", tiny_model(TEXTS), tmp_path / "out", chip_m=(320, 640), progress=False)
    return archive.open_index(tmp_path / "out")


def test_it_is_geoparquet_with_geometry_and_vectors(made):
    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.read_parquet(made.folder / "chips.parquet")
    assert len(frame) == len(made) and frame.crs == "OGC:CRS84" and frame.geometry.is_valid.all()
    assert frame.geometry.exterior.is_ccw.all()
    vectors = np.stack(frame["vector"])
    assert vectors.dtype == np.float16
    np.testing.assert_array_equal(vectors, made.vectors)
    # The areas are those of the chips on the ground.
    metres = frame[frame["source"] == "a"].to_crs("EPSG:32629")
    expected = metres["scale"].map({"320 m": 320.0, "640 m": 640.0}) ** 2
    np.testing.assert_allclose(metres.area, expected, rtol=0.01)
    assert frame.total_bounds.tolist() == pytest.approx(
        [frame["west"].min(), frame["south"].min(), frame["east"].max(), frame["north"].max()]
    )


def test_rows_keys_and_places_are_found_without_the_whole_table(made):
    numbers = [17, 0, 3, 17, len(made) - 1]
    some = archive.open_index(made.folder).rows(numbers)
    whole = made.chips
    pd.testing.assert_frame_equal(some, whole.iloc[numbers].reset_index(drop=True))
    pd.testing.assert_frame_equal(made.rows(numbers), some)
    assert len(archive.open_index(made.folder).rows([])) == 0
    assert [made.find(key) for key in some["key"]] == numbers
    with pytest.raises(DataError, match="has no chip 'absent'"):
        made.find("absent")
    for number in (0, 9, 14):
        row = whole.iloc[number]
        assert made.at(row["lon"], row["lat"]) == number == made.at(row["lon"] - 360, row["lat"])
    with pytest.raises(DataError, match="lies on no chip"):
        made.at(0.0, 0.0)
    rings = index_files._from_wkb(index_files._to_wkb(np.array([[[1.0, 2], [3, 4], [5, 6], [7, 8.5]]])))
    assert rings == [[1, 2, 3, 4, 5, 6, 7, 8.5]]


def test_files_of_two_indexings_are_not_mixed(made, tmp_path):
    other = archive.index(tmp_path / "in" / "a.tif", tiny_model(TEXTS), tmp_path / "other", progress=False)
    for name in ("vectors.npy", "chips.parquet"):
        held = (made.folder / name).read_bytes()
        (made.folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
        index = archive.open_index(made.folder)
        with pytest.raises(DataError, match=f"{name} and index.json are not of one indexing"):
            getattr(index, name.partition(".")[0])
        (made.folder / name).write_bytes(held)
    (made.folder / "chips.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        archive.open_index(made.folder).rows([0])
    with pytest.raises(DataError, match="no finished index"):
        archive.open_index(tmp_path / "in")
    assert other["chips"] == 12


def test_pictures_are_as_they_were_or_missing(made, tmp_path, caplog):
    rows = made.rows([0, 5, len(made) - 1])
    shown = made.pictures(rows)
    sources = {
        source.name: source for source in imagery.open_imagery(str(tmp_path / "in"), index_files._options(min_valid_share=0.5))
    }
    for row, one in zip(range(3), shown):
        ((expected, _),) = imagery.read(sources[rows["source"][row]], rows.iloc[row : row + 1])
        np.testing.assert_array_equal(one, expected)
    write(tmp_path / "in" / "a.tif", picture(96, 128, 5))
    (tmp_path / "in" / "b.tif").unlink()
    with caplog.at_level(logging.WARNING):
        assert made.pictures(rows) == [None] * 3
    assert "its file is gone, or has changed" in caplog.text


def test_licence_and_provenance_come_along(tmp_path):
    text = "<b>ACME</b> 2024"
    write_mbtiles(tmp_path / "in.mbtiles", mosaic()[1], license="CC-BY-4.0", attribution=text)
    model = tiny_model(TEXTS)
    facts = archive.index(tmp_path / "in.mbtiles", model, tmp_path / "out", model_folder="FOLDER", progress=False)
    assert facts["sources"][0]["licence"] == "CC-BY-4.0" and facts["sources"][0]["attribution"] == text
    assert facts["model"] == "FOLDER" and facts["fingerprint"] == index_files.embed.encoder_of(model).fingerprint
    assert facts == json.loads((tmp_path / "out" / "index.json").read_text())
    matches = archive.query(tmp_path / "out", TEXTS[:1], model, k=2)
    properties = archive.features(matches)["features"][0]["properties"]
    assert properties["licence"] == "CC-BY-4.0" and properties["attribution"] == text and properties["model"] == "mammut"
    assert properties["model_hash"] == facts["fingerprint"]


def test_an_address_with_a_key_is_not_kept():
    source = imagery.Source(
        "a", "https://host/a.tif?token=secret", "raster", "unknown", "", "00", "EPSG:4326", (0.0, 1.0, 0.0, 1.0), 1, 1
    )
    assert "secret" not in json.dumps(index_files.source_fields(source))
    plain = dataclasses.replace(source, path="https://host/a.tif", limits=((0.0, 1.0),))
    assert index_files.source_of(json.loads(json.dumps(index_files.source_fields(plain)))) == plain
