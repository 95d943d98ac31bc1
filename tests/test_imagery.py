"""Chips of anybody's imagery: at the right place, of the right size, with the right pixels, and nothing follows hostile files."""

import http.server
import io
import json
import os
import pickle
import re
import socket
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsvlm import config, imagery
from rsvlm.errors import ConfigError, DataError

rasterio = pytest.importorskip("rasterio")
pyproj = pytest.importorskip("pyproj")
from rasterio.enums import ColorInterp, Resampling  # noqa: E402
from rasterio.transform import Affine, from_origin  # noqa: E402

GEOD = pyproj.Geod(ellps="WGS84")
# Code, x and y of the upper left corner, side of a pixel: Lisbon twice, Lisbon in UTM, Greenland.
GRIDS = {
    "EPSG:4326": (-9.5, 38.9, 0.0001),
    "EPSG:3857": (-1_057_000.0, 4_700_000.0, 10.0),
    "EPSG:32629": (460_000.0, 4_300_000.0, 10.0),
    "EPSG:3413": (-180_000.0, -1_200_000.0, 10.0),
}


def options(**values) -> config.Chips:
    return config.Chips(**{"size_px": 32, **values})


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (3, height, width), dtype=np.uint8)


def write(
    path: Path, array: np.ndarray, crs="EPSG:32629", transform=None, overviews=(), colours=None, names=(), **profile
) -> Path:
    array = array if array.ndim == 3 else array[None]
    transform = from_origin(460_000, 4_300_000, 10, 10) if transform is None else transform
    count, height, width = array.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": array.dtype.name, **profile}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as dataset:
        dataset.write(array)
        if colours:
            dataset.colorinterp = colours
        for number, name in enumerate(names, 1):
            dataset.set_band_description(number, name)
        if overviews:
            dataset.build_overviews(list(overviews), Resampling.nearest)
    return path


def chips(where, points=None, **values):
    chosen = options(**values)
    sources = imagery.open_imagery(str(where), chosen)
    table, notes = imagery.lay_out(sources, chosen, points)
    return sources, table, notes


def pixels(sources, table) -> list:
    return [got for source in sources for got in imagery.read(source, table[table["source"] == source.name])]


# Place and size


@pytest.mark.parametrize("crs", GRIDS)
def test_footprint_gsd_and_pixels_are_right(tmp_path, crs):
    x0, y0, side = GRIDS[crs]
    array = picture(96, 200)
    sources, table, notes = chips(write(tmp_path / "a.tif", array, crs, from_origin(x0, y0, side, side)))
    assert notes == [] and len(table) >= 9 and table["key"].is_unique
    to_lonlat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    to_grid = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    for row, corners, (got, why) in zip(table.itertuples(), imagery.corners(sources[0], table), pixels(sources, table)):
        left, top, width, height = row.left_px, row.top_px, row.width_px, row.height_px
        xs = x0 + side * np.array([left, left + width, left + width, left])
        ys = y0 - side * np.array([top, top, top + height, top + height])
        expected = np.stack(to_lonlat.transform(xs, ys), 1)
        assert np.allclose(corners, expected, atol=1e-9)
        lon, lat = expected.T
        assert row.west <= lon.min() + 1e-9 and row.east >= lon.max() - 1e-9
        assert row.south <= lat.min() + 1e-9 and row.north >= lat.max() - 1e-9
        assert row.west >= lon.min() - (lon.max() - lon.min()) and row.north <= lat.max() + (lat.max() - lat.min())
        middle = to_lonlat.transform(x0 + side * (left + width / 2), y0 - side * (top + height / 2))
        assert np.allclose((row.lon, row.lat), middle, atol=1e-9)
        for dx, dy in ((1, 0), (0, 1)):  # both ways, at the centre
            ends = [
                to_lonlat.transform(x0 + side * (left + width / 2 + s * dx), y0 - side * (top + height / 2 + s * dy))
                for s in (-0.5, 0.5)
            ]
            metres = GEOD.inv(*ends[0], *ends[1])[2] * (width / 32 if dx else height / 32)
            assert metres == pytest.approx(row.gsd_m, rel=0.01)
        assert why is None and got.shape == (32, 32, 3) and got.dtype == np.uint8
        # A place on the ground, here the middle of one source pixel, is where the picture shows it.
        column, line = int(left + width * 0.7), int(top + height * 0.3)
        x, y = to_grid.transform(*to_lonlat.transform(x0 + side * (column + 0.5), y0 - side * (line + 0.5)))
        place = (int(((y0 - y) / side - top) / height * 32), int(((x - x0) / side - left) / width * 32))
        if crs == "EPSG:4326":  # resampled: 41 pixels became 32
            assert width > 32 and height == 32
        else:
            assert np.array_equal(got[place], array[:, line, column])
            assert np.array_equal(got, array[:, int(top) : int(top) + 32, int(left) : int(left) + 32].transpose(1, 2, 0))


@pytest.mark.parametrize("lat", [0.3, 45.0, 60.0, 80.0, -75.0])
def test_degrees_become_square_on_the_ground(tmp_path, lat):
    """A marker stays where it is in the picture though the window is wider than high."""
    array = np.zeros((3, 64, 1200), np.uint8)
    path = write(tmp_path / "a.tif", array, "EPSG:4326", from_origin(10, lat, 0.001, 0.001))
    sources, table, _ = chips(path)
    row = table.iloc[1]
    assert GEOD.inv(row.west, row.lat, row.east, row.lat)[2] == pytest.approx(32 * row.gsd_m, rel=0.01)
    assert GEOD.inv(row.lon, row.south, row.lon, row.north)[2] == pytest.approx(32 * row.gsd_m, rel=0.01)
    middle = int(row.left_px + row.width_px / 2)
    array[:, :, middle - 1 : middle + 1] = 255
    write(path, array, "EPSG:4326", from_origin(10, lat, 0.001, 0.001))
    got = next(imagery.read(sources[0], table.iloc[1:2]))[0]
    assert abs(np.average(np.arange(32) + 0.5, weights=got[..., 0].sum(0)) - 16) < 0.6


def test_web_mercator_is_measured_on_the_ground_not_on_the_map(tmp_path):
    x, y = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(25.0, 70.0)
    _, table, _ = chips(write(tmp_path / "a.tif", picture(64, 64), "EPSG:3857", from_origin(x, y, 10, 10)))
    assert table["gsd_m"].iloc[0] == pytest.approx(10 * np.cos(np.radians(70)), rel=0.01)
    assert len(table) == 4


def test_size_in_metres(tmp_path):
    path = write(tmp_path / "a.tif", picture(300, 300))
    sources, table, _ = chips(path, size_m=640.0)
    assert np.allclose(table["gsd_m"], 20.0) and table["width_px"].between(63.5, 64.5).all()
    for row in table.itertuples():
        assert GEOD.inv(row.lon, row.south, row.lon, row.north)[2] == pytest.approx(640, rel=0.03)
    assert all(got.shape == (32, 32, 3) for got, _ in pixels(sources, table))
    # 320 m are 32 pixels of 10 m but for the scale of the projection: such chips are copies, not resampled.
    assert (chips(path, size_m=320.0)[1]["width_px"] == 32).all()


def test_antimeridian(tmp_path):
    _, table, _ = chips(write(tmp_path / "a.tif", picture(64, 160), "EPSG:4326", from_origin(179.95, 0.05, 0.001, 0.001)))
    assert ((table["west"] >= -180) & (table["west"] < 180) & (table["east"] > table["west"])).all()
    assert (table["east"] - table["west"] < 0.05).all() and table["east"].max() > 180 and table["lon"].min() < 0
    east = chips(tmp_path / "a.tif", points=[(-179.98, 0.02)], place="landmark")[1].iloc[0]
    assert east.lon == pytest.approx(-179.98, abs=0.001)


def test_a_chip_on_the_pole(tmp_path):
    _, table, _ = chips(write(tmp_path / "a.tif", picture(32, 32), "EPSG:3413", from_origin(-16_000, 16_000, 1000, 1000)))
    row = table.iloc[0]
    assert (row.west, row.east, row.north) == (-180, 180, 90) and row.south < 89.9
    assert row.gsd_m == pytest.approx(1000 / 0.97, rel=0.02)  # the projection is true to scale at 70 degrees, not at the pole


def test_up_is_told_where_it_is_not_north(tmp_path):
    _, table, _ = chips(write(tmp_path / "a.tif", picture(32, 32), "EPSG:3413", from_origin(1_200_000, -500_000, 10, 10)))
    row = table.iloc[0]
    lon, lat, _ = GEOD.fwd(row.lon, row.lat, row.up_deg, 100.0)
    to_grid = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3413", always_xy=True)
    (x0, y0), (x1, y1) = to_grid.transform(row.lon, row.lat), to_grid.transform(lon, lat)
    assert abs(x1 - x0) < 0.1 and y1 > y0 + 90 and abs(row.up_deg) > 20


# Placing


def test_grid_stride_and_stable_keys(tmp_path):
    path = write(tmp_path / "a.tif", picture(100, 100))
    _, table, _ = chips(path)
    assert len(table) == 9 and list(table.columns) == imagery.COLUMNS
    assert len(chips(path, stride=0.5)[1]) == 25
    larger = write(tmp_path / "more" / "a.tif", picture(160, 300))
    assert set(table["key"]) <= set(chips(larger)[1]["key"])
    assert all(re.fullmatch("[A-Za-z0-9_-]+", key) for key in chips(path, size_m=333.5)[1]["key"])


def test_points_from_files(tmp_path):
    array = picture(100, 100)
    path = write(tmp_path / "a.tif", array)
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32629", "EPSG:4326", always_xy=True)
    inside, edge = (to_lonlat.transform(460_000 + 10 * c, 4_300_000 - 10 * r) for c, r in ((50, 40), (5, 50)))
    rows = [("mine", *inside), ("../bad\nkey", *inside), ("edge", *edge), ("sea", 0, 0), ("x", "north", 3)]
    table = tmp_path / "p.csv"
    table.write_text("lon,lat,key\n" + "".join(f'{lon},{lat},"{key}"\n' for key, lon, lat in rows))
    sources, found, notes = _listed(path, table)
    assert found["key"].tolist() == ["mine", "a_32_34_24"]
    assert (found["lon"] - inside[0]).abs().max() < 1e-4
    assert np.array_equal(pixels(sources, found)[0][0], array[:, 24:56, 34:66].transpose(1, 2, 0))
    assert {note["reason"].split()[0]: note["count"] for note in notes} == {"row": 1, "point": 2}
    features = [
        {"type": "Feature", "id": "p1", "geometry": {"type": "Point", "coordinates": inside}, "properties": {}},
        {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [inside, edge]}, "properties": None},
        {"type": "Feature", "geometry": None, "properties": {}},
    ]
    geojson = tmp_path / "p.geojson"
    geojson.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    _, found, notes = _listed(path, geojson)
    assert found["key"].tolist() == ["p1"] and notes[0]["count"] == 2
    for bad in ("", "lon;lat\n1;2", "lon,lat\nx,y", "\x00\x01"):
        table.write_text(bad)
        with pytest.raises(DataError, match="p.csv"):
            _listed(path, table)


def _listed(path, points):
    chosen = options(place="list", points=str(points))
    sources = imagery.open_imagery(str(path), chosen)
    return sources, *imagery.lay_out(sources, chosen)


def test_no_points_and_no_room_stop_before_any_work(tmp_path):
    path = write(tmp_path / "a.tif", picture(20, 20))
    with pytest.raises(ConfigError, match="chips.points"):
        chips(path, place="landmark")
    with pytest.raises(DataError, match="smaller than one chip"):
        chips(path)
    with pytest.raises(DataError, match="point not in the imagery"):
        chips(path, place="landmark", points=[(0.0, 0.0), (float("nan"), 1.0)])


# Pixels


def test_nodata_is_counted_and_black(tmp_path):
    array = picture(32, 128)
    array[:, :, :32] = 0
    array[:, :16, 32:64] = 0
    array[:, :2, 64:96] = 0
    array[0, :, 96:] = 0  # one band alone does not make a pixel invalid
    sources, table, _ = chips(write(tmp_path / "a.tif", array, nodata=0))
    got = pixels(sources, table)
    assert [why for _, why in got] == ["all nodata", "too little data", None, None]
    assert got[0][0] is None and not got[2][0][:2].any() and np.array_equal(got[3][0], array[:, :, 96:].transpose(1, 2, 0))
    assert pixels(*chips(tmp_path / "a.tif", min_valid_share=0.4)[:2])[1][1] is None


def test_alpha_band(tmp_path):
    array = np.concatenate([picture(32, 64), np.full((1, 32, 64), 255, np.uint8)])
    array[3, :, :32] = 0
    kinds = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    sources, table, _ = chips(write(tmp_path / "a.tif", array, colours=kinds))
    assert [why for _, why in pixels(sources, table)] == ["all nodata", None]


def test_stretch_is_one_rule_for_the_whole_image(tmp_path):
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 10
    path = write(tmp_path / "a.tif", values)
    sources, table, _ = chips(path, stretch="minmax")
    assert sources[0].limits == ((0.0, 40_950.0),)
    whole = np.round(values / 40_950 * 255)
    for row, (got, _) in zip(table.itertuples(), pixels(sources, table)):
        top, left = int(row.top_px), int(row.left_px)
        assert np.abs(got[..., 0] - whole[top : top + 32, left : left + 32]).max() <= 1
        assert (got[..., 0] == got[..., 2]).all()  # one band is shown as grey
    low, high = chips(path, stretch_percent=10.0)[0][0].limits[0]
    assert low == pytest.approx(4_095, rel=0.01) and high == pytest.approx(36_855, rel=0.01)
    assert pixels(*chips(path, stretch="none")[:2])[3][0].min() == 255  # all values there are above 255
    assert chips(write(tmp_path / "b.tif", picture(64, 64)))[0][0].limits == ()


def test_floats_with_holes(tmp_path):
    values = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    values[:32, :32] = np.nan
    values[40, 40] = np.inf
    sources, table, _ = chips(write(tmp_path / "a.tif", values), stretch="minmax")
    got = pixels(sources, table)
    assert [why for _, why in got] == ["all nodata", None, None, None]
    assert got[3][0][8, 8].tolist() == [0, 0, 0] and got[3][0][31, 31, 0] == 255
    with pytest.raises(DataError, match="no data"):
        chips(write(tmp_path / "b.tif", np.full((64, 64), np.nan, np.float32)))


def test_bands_are_found_or_chosen(tmp_path):
    array = np.stack([np.full((32, 32), 10 * band, np.uint8) for band in (1, 2, 3, 4)])

    def shown(path, **values):
        return pixels(*chips(path, **values)[:2])[0][0][0, 0].tolist()

    plain = write(tmp_path / "a.tif", array, photometric="minisblack")
    assert shown(plain) == [10, 20, 30]
    assert shown(plain, bands=(4, 3, 2)) == [40, 30, 20] and shown(plain, bands=(2,)) == [20, 20, 20]
    kinds = [ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    assert shown(write(tmp_path / "b.tif", array, colours=kinds)) == [40, 30, 20]
    names = ("Blue band", "green", "RED", "nir")
    assert shown(write(tmp_path / "c.tif", array, photometric="minisblack", names=names)) == [30, 20, 10]
    assert shown(write(tmp_path / "d.tif", array[:2])) == [10, 10, 10]
    for bad in ((5,), (0, 1, 2), (1, 2)):
        with pytest.raises(ConfigError, match="chips.bands"):
            chips(plain, bands=bad)


def test_palette(tmp_path):
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": 32, "height": 32, "count": 1, "dtype": "uint8", "photometric": "palette"}
    with rasterio.open(path, "w", crs="EPSG:32629", transform=from_origin(0, 0, 10, 10), **profile) as dataset:
        values = np.zeros((1, 32, 32), np.uint8)
        values[:, 16:] = 7
        dataset.write(values)
        dataset.write_colormap(1, {0: (200, 0, 0, 255), 7: (0, 0, 90, 255)})
    got = pixels(*chips(path)[:2])[0][0]
    assert got[0, 0].tolist() == [200, 0, 0] and got[31, 0].tolist() == [0, 0, 90]


def test_upside_down_raster_is_shown_upright(tmp_path):
    array = picture(64, 64)
    upright = write(tmp_path / "a.tif", array)
    flipped = write(tmp_path / "b.tif", array[:, ::-1], transform=Affine(10, 0, 460_000, 0, 10, 4_300_000 - 640))
    first, second = chips(upright), chips(flipped)
    assert second[0][0].warped
    for (one, _), (two, _) in zip(pixels(*first[:2]), pixels(*second[:2]), strict=True):
        assert np.array_equal(one, two)
    assert np.allclose(first[1][["west", "north"]], second[1][["west", "north"]])


def test_rotated_raster_is_turned_north_up(tmp_path):
    array = np.full((3, 128, 128), 50, np.uint8)
    array[:, 90:94, 30:34] = 255
    turn = Affine.translation(460_000, 4_300_000) * Affine.rotation(30) * Affine.scale(10, -10)
    sources, table, _ = chips(write(tmp_path / "a.tif", array, transform=turn), size_px=16)
    assert 0 < len(table) and sources[0].warped
    x, y = turn * (32, 92)
    lonlat = pyproj.Transformer.from_crs("EPSG:32629", "EPSG:4326", always_xy=True).transform(x, y)
    near = chips(tmp_path / "a.tif", points=[lonlat], place="landmark", size_px=32)[1]
    got = next(imagery.read(sources[0], near))[0]
    rows, columns = np.nonzero(got[..., 0] > 150)
    assert abs(rows.mean() - 15.5) < 1.5 and abs(columns.mean() - 15.5) < 1.5
    assert {why for _, why in pixels(sources, table)} == {None, "all nodata", "too little data"}


def test_coarser_chips_come_from_overviews(tmp_path):
    array = np.zeros((3, 512, 512), np.uint8)
    array[:, 1::2, :] = 200  # nearest-neighbour overviews keep the even rows only
    path = write(tmp_path / "a.tif", array, overviews=(2, 4), tiled=True, blockxsize=128, blockysize=128)
    expected = {10.0: 100, 40.0: 0}
    for gsd_m, value in expected.items():
        got = pixels(*chips(path, size_px=64, size_m=64 * gsd_m)[:2])[0][0]
        assert got.mean() == pytest.approx(value, abs=1)


def test_reading_is_repeatable_after_pickling_and_in_any_order(tmp_path):
    sources, table, _ = chips(write(tmp_path / "a.tif", picture(128, 128)), stride=0.5)
    source = pickle.loads(pickle.dumps(sources[0]))
    first = [got for got, _ in imagery.read(source, table)]
    backwards = [got for got, _ in imagery.read(source, table.iloc[::-1])]
    assert all(np.array_equal(a, b) for a, b in zip(first, backwards[::-1]))
    halves = zip(imagery.read(source, table.iloc[:9]), imagery.read(source, table.iloc[9:18]))
    assert all(np.array_equal(a[0], first[i]) and np.array_equal(b[0], first[i + 9]) for i, (a, b) in enumerate(halves))
    again = imagery.open_imagery(str(tmp_path / "a.tif"), options())[0]
    assert again == sources[0]
    write(tmp_path / "a.tif", picture(128, 128, seed=1))
    assert imagery.open_imagery(str(tmp_path / "a.tif"), options())[0].fingerprint != source.fingerprint


# Broken and hostile files


def test_missing_facts_are_named_with_a_remedy(tmp_path):
    with pytest.raises(DataError, match="coordinate system.*rio edit-info --crs"):
        chips(write(tmp_path / "a.tif", picture(64, 64), crs=None))
    with pytest.raises(DataError, match="no geotransform"):
        chips(write(tmp_path / "b.tif", picture(64, 64), transform=Affine.identity()))
    with pytest.raises(DataError, match="does not exist"):
        chips(tmp_path / "none.tif")
    with pytest.raises(ConfigError, match="blue-marble"):
        chips("blue-marble")
    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    with pytest.raises(DataError, match="longitude and latitude|coordinate system"):
        chips(write(tmp_path / "c.tif", picture(64, 64), crs=local))


@pytest.mark.parametrize("content", [b"", b"hello", b"II*\0\xff\xff\xff\xff", b"<VRTDataset/>"])
def test_broken_rasters(tmp_path, content):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(DataError, match="a.tif"):
        chips(path)


def test_other_formats_are_refused(tmp_path):
    path = tmp_path / "a.vrt"
    path.write_text("<VRTDataset/>")
    with pytest.raises(DataError, match="format"):
        chips(path)


def test_truncated_raster_loses_only_the_chips_that_are_cut(tmp_path):
    path = write(tmp_path / "a.tif", picture(256, 64), tiled=True, blockxsize=32, blockysize=32, interleave="pixel")
    sources, table, _ = chips(path)
    os.truncate(path, path.stat().st_size * 2 // 3)
    reasons = [why for _, why in pixels(sources, table)]
    assert reasons[:4] == [None] * 4 and reasons[-1] == "cannot be read" and len(reasons) == 16
    path.unlink()
    with pytest.raises(DataError):
        pixels(sources, table)


def test_folder_of_rasters_with_a_broken_one(tmp_path):
    write(tmp_path / "north" / "a.tif", picture(64, 64))
    write(tmp_path / "south" / "a.tif", picture(64, 64, 1), transform=from_origin(460_000, 4_200_000, 10, 10))
    (tmp_path / "south" / "bad.tif").write_bytes(b"II*\0nothing")
    (tmp_path / "read.me").write_text("hello")
    sources, table, notes = chips(tmp_path)
    assert len(sources) == 2 and len(table) == 8 and table["key"].is_unique
    assert [(note["reason"], note["count"]) for note in notes] == [("raster cannot be used", 1)]
    assert "bad.tif" in notes[0]["examples"][0]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no GeoTIFF"):
        chips(empty)


# The web


@pytest.fixture
def server(tmp_path):
    """A loopback server with byte ranges; it remembers paths, and counts the bytes sent."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.server.seen.append(self.path)
            if self.server.fail:
                return self.send_error(self.server.fail.pop())
            name = self.path.split("?")[0]
            if name in self.server.moved:
                self.send_response(302)
                self.send_header("Location", self.server.moved[name])
                self.send_header("Content-Length", "0")
                return self.end_headers()
            file = tmp_path / name.lstrip("/")
            if not file.is_file():
                return self.send_error(404)
            data, total = file.read_bytes(), file.stat().st_size
            if name == "/whole.tif":
                self.send_response(200)
            else:
                first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups()
                data = data[int(first) : int(last) + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(data) - 1}/{total}")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.server.sent += len(data)
            try:
                self.wfile.write(data)
            except OSError:  # the client has heard enough
                self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

        def setup(self):
            super().setup()
            self.server.connections += 1

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.sent, server.fail, server.moved, server.connections = [], 0, [], {}, 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def cog(tmp_path) -> Path:
    shape = {"driver": "COG", "blocksize": 128, "compress": "none", "overview_resampling": "average"}
    return write(tmp_path / "cog.tif", picture(1024, 1024), **shape)


def test_only_the_windows_needed_cross_the_network(server, cog):
    sources, table, _ = chips(f"{server.url}/cog.tif", size_px=128, allow_loopback=True)
    local = chips(cog, size_px=128)
    size = cog.stat().st_size
    opened = server.sent
    assert opened < 0.1 * size and size > 3_000_000
    some = table.iloc[[0, 27]]
    got = [array for array, _ in imagery.read(sources[0], some)]
    expected = [array for array, _ in imagery.read(local[0][0], local[1].iloc[[0, 27]])]
    assert all(np.array_equal(a, b) for a, b in zip(got, expected))
    # Two tiles of 128 x 128 x 3 bytes, the header again, and what the 32-KiB blocks bring along.
    assert server.sent - opened < 2 * 128 * 128 * 3 + 6 * 32_768
    assert set(server.seen) == {"/cog.tif"} and server.connections == 2  # one to open, one to read
    before = server.sent
    coarse = chips(f"{server.url}/cog.tif", size_px=128, size_m=10_000.0, allow_loopback=True)
    assert len(pixels(*coarse[:2])) == 1 and server.sent - before < 0.2 * size  # from the overview


def test_private_addresses_are_refused(server, cog):
    for url in (
        f"{server.url}/cog.tif",
        "http://localhost/a.tif",
        "http://10.0.0.1/a.tif",
        "http://169.254.169.254/a.tif",
        "http://[::1]/a.tif",
        "http://[::ffff:127.0.0.1]/a.tif",
        "http://0.0.0.0/a.tif",
        "http://2130706433/a.tif",
    ):
        with pytest.raises(DataError, match="private network"):
            chips(url)
    # Allowed loopback does not allow other private addresses, not even by a redirect.
    server.moved["/inward.tif"] = "http://10.0.0.1/cog.tif"
    for url in ("http://192.168.0.1/a.tif", f"{server.url}/inward.tif"):
        with pytest.raises(DataError, match="private network"):
            chips(url, allow_loopback=True)
    server.moved["/file.tif"] = "file:///etc/passwd"
    with pytest.raises(DataError, match="http"):
        chips(f"{server.url}/file.tif", allow_loopback=True)
    assert server.seen == ["/inward.tif", "/file.tif"]


def test_a_name_that_changes_its_address_is_refused(server, cog, monkeypatch):
    """The name resolves to a public address when it is looked up, and to this machine when it is connected to."""
    real, answers = socket.getaddrinfo, ["93.184.216.34"]

    def lookup(host, port, *args, **kwargs):
        return real(answers.pop() if answers else "127.0.0.1", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(DataError, match="private network"):
        chips(f"http://rebound.example:{server.server_port}/cog.tif")
    assert server.seen == [] and answers == []


@pytest.mark.parametrize(
    "where", ["/vsicurl/http://10.0.0.1/a.tif", "s3://bucket/a.tif", "ftp://host/a.tif", "file:///a.tif", "WMS:x"]
)
def test_other_addresses_are_refused(where):
    with pytest.raises(ConfigError, match="http"):
        imagery.open_imagery(where, options())


def test_redirects_and_passing_failures_are_survived(server, cog, monkeypatch):
    monkeypatch.setattr(imagery.time, "sleep", lambda seconds: None)
    server.moved["/old.tif"] = "/cog.tif"
    server.fail[:] = [503, 429]
    assert len(chips(f"{server.url}/old.tif", size_px=128, allow_loopback=True)[1]) == 64


def test_servers_that_cannot_be_used(server, cog, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(imagery.time, "sleep", lambda seconds: None)
    (tmp_path / "whole.tif").write_bytes(cog.read_bytes())
    server.moved["/loop.tif"] = "/loop.tif"
    for name, text in (("whole.tif", "parts of files"), ("none.tif", "404"), ("loop.tif", "redirected")):
        with pytest.raises(DataError, match=text) as caught:
            chips(f"{server.url}/{name}?signature=SECRET", allow_loopback=True)
        assert "SECRET" not in str(caught.value) and "SECRET" not in caplog.text
    with pytest.raises(DataError, match="without user name") as caught:
        chips(f"http://me:SECRET@127.0.0.1:{server.server_port}/cog.tif", allow_loopback=True)
    assert "SECRET" not in str(caught.value)


def test_a_server_that_fails_midway_stops_the_task_instead_of_dropping_chips(server, cog, monkeypatch):
    monkeypatch.setattr(imagery.time, "sleep", lambda seconds: None)
    sources, table, _ = chips(f"{server.url}/cog.tif", size_px=128, allow_loopback=True)
    reading = imagery.read(sources[0], table.iloc[20:40])
    monkeypatch.setattr(imagery, "_BATCH_BYTES", 1)
    assert next(reading)[1] is None
    server.fail[:] = [500] * 100
    with pytest.raises(DataError, match="500"):
        list(reading)


@pytest.mark.parametrize("prefix", ["", "/vsicurl/"])
def test_references_inside_a_raster_are_not_followed(server, tmp_path, prefix):
    path = write(tmp_path / "a.tif", picture(64, 64))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=f"{prefix}{server.url}/inward.tif")
    with pytest.raises(DataError, match="not followed"):
        chips(path)
    assert server.seen == []


# Tiles


def encode(array: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


ZOOM, X, Y, SIDE = 12, 1940, 1569, 64


def mosaic(columns: int = 3, rows: int = 3) -> tuple[np.ndarray, dict[tuple[int, int], bytes]]:
    whole = picture(rows * SIDE, columns * SIDE).transpose(1, 2, 0)
    return whole, {
        (X + c, Y + r): encode(whole[r * SIDE : r * SIDE + SIDE, c * SIDE : c * SIDE + SIDE])
        for c in range(columns)
        for r in range(rows)
    }


def write_tiles(folder: Path, tiles: dict, name: str) -> Path:
    for (x, y), data in tiles.items():
        path = folder / name.format(z=ZOOM, x=x, y=y)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_mbtiles(path: Path, tiles: dict, **metadata) -> Path:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB)")
        database.execute("CREATE TABLE metadata (name TEXT, value TEXT)")
        database.executemany(
            "INSERT INTO tiles VALUES (?, ?, ?, ?)", [(ZOOM, x, (1 << ZOOM) - 1 - y, d) for (x, y), d in tiles.items()]
        )
        database.executemany("INSERT INTO metadata VALUES (?, ?)", list(metadata.items()))
    database.close()
    return path


@pytest.mark.parametrize(
    "form", ["{z}/{x}/{y}.png", "deep/{z}/{x}/{y}.PNG", "OAM-{x}-{y}-{z}.png", "{x}-{y}-{z}.png", "mbtiles"]
)
def test_tiles_are_one_grid_whatever_their_names(tmp_path, form):
    whole, tiles = mosaic()
    where = write_mbtiles(tmp_path / "m.mbtiles", tiles) if form == "mbtiles" else write_tiles(tmp_path / "m", tiles, form)
    sources, table, notes = chips(where, size_px=SIDE)
    assert len(table) == 9 and notes == [] and (sources[0].zoom, sources[0].tile_px) == (ZOOM, SIDE)
    for row, (got, _) in zip(table.itertuples(), pixels(sources, table)):
        top, left = int(row.top_px) - Y * SIDE, int(row.left_px) - X * SIDE
        assert np.array_equal(got, whole[top : top + SIDE, left : left + SIDE])
    # Independent formula of the tile grid.
    first = table[(table["left_px"] == X * SIDE) & (table["top_px"] == Y * SIDE)].iloc[0]
    assert first.west == pytest.approx(X / 2**ZOOM * 360 - 180)
    assert first.north == pytest.approx(np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * Y / 2**ZOOM)))))
    assert first.gsd_m == pytest.approx(40_075_016.686 / (SIDE * 2**ZOOM) * np.cos(np.radians(first.lat)), rel=0.005)
    # Chips across borders, and at a point.
    across = pixels(sources, imagery.lay_out(sources, options(size_px=48))[0])
    assert len(across) == 16 - 4 or len(across) >= 9
    row = chips(where, size_px=SIDE, place="landmark", points=[(first.east, first.south)])[1].iloc[0]
    got = next(imagery.read(sources[0], row.to_frame().T))[0]
    assert np.array_equal(got, whole[SIDE // 2 : SIDE // 2 + SIDE, SIDE // 2 : SIDE // 2 + SIDE])


def test_missing_and_broken_tiles_are_told_and_the_rest_goes_on(tmp_path):
    _, tiles = mosaic()
    del tiles[X, Y]  # a corner
    tiles[X + 1, Y + 1] = tiles[X + 1, Y + 1][:200]
    tiles[X + 2, Y + 2] = b""
    tiles[X + 2, Y] = encode(np.zeros((SIDE, SIDE // 2, 3), np.uint8))
    tiles[X + 7, Y + 7] = tiles[X, Y + 1]  # far away: the way there is no hole
    where = write_tiles(tmp_path, tiles, "{x}-{y}-{z}.png")
    (tmp_path / "9-9-2.png").write_bytes(b"beyond its zoom")
    sources, table, notes = chips(where, size_px=SIDE)
    reasons = {note["reason"]: (note["count"], note["examples"]) for note in notes}
    assert reasons["tile missing from the mosaic"] == (1, [f"{ZOOM}/{X}/{Y}"])
    assert reasons["tile number beyond its zoom level"] == (1, ["9-9-2.png"])
    got = [why for _, why in pixels(sources, table)]
    assert len(got) == 9 and sorted(filter(None, got)) == ["tile broken"] * 3
    _, half, notes = chips(where, size_px=SIDE, stride=0.5)
    assert [note["count"] for note in notes if note["reason"] == "chip needs a tile that is missing"][0] > 0
    (tmp_path / f"{X + 1}-{Y}-{ZOOM}.png").unlink()
    assert "tile missing" in {why for _, why in pixels(sources, table)}


def test_chips_over_tiles_in_metres(tmp_path):
    whole, tiles = mosaic(4, 4)
    where = write_tiles(tmp_path, tiles, "{z}/{x}/{y}.png")
    gsd_m = chips(where, size_px=SIDE)[1]["gsd_m"].iloc[0]
    sources, table, _ = chips(where, size_px=32, size_m=float(gsd_m * 80))
    assert len(table) >= 4 and np.allclose(table["gsd_m"], gsd_m * 2.5)
    row, got = table.iloc[0], pixels(sources, table)[0][0]
    top, left = int(row.top_px) - Y * SIDE, int(row.left_px) - X * SIDE
    assert got.mean() == pytest.approx(whole[top : top + 80, left : left + 80].mean(), abs=2)


def test_transparent_tiles_hold_no_data(tmp_path):
    clear = np.zeros((SIDE, SIDE, 4), np.uint8)
    half = clear.copy()
    half[: SIDE // 2] = 255
    tiles = {(X, Y): encode(clear), (X + 1, Y): encode(half), (X + 2, Y): encode(picture(SIDE, SIDE).transpose(1, 2, 0))}
    sources, table, _ = chips(write_tiles(tmp_path, tiles, "{z}/{x}/{y}.png"), size_px=SIDE)
    assert [why for _, why in pixels(sources, table)] == ["all nodata", "too little data", None]


def test_of_several_zoom_levels_the_best_shows_each_place(tmp_path):
    _, tiles = mosaic(2, 2)
    write_tiles(tmp_path, tiles, "{z}/{x}/{y}.png")
    blank = encode(np.full((SIDE, SIDE, 3), 9, np.uint8))
    for zoom, x, y in ((ZOOM - 1, X // 2, 784), (ZOOM - 1, X // 2 + 1, 784), (ZOOM - 1, X // 2 + 5, 784)):
        path = tmp_path / f"{zoom}/{x}/{y}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blank)
    # X is even, Y odd: no coarse tile is wholly under the four fine ones.
    sources, table, _ = chips(tmp_path, size_px=SIDE)
    assert [source.zoom for source in sources] == [ZOOM, ZOOM - 1] and len(table) == 4 + 3
    for y in (Y - 1,):
        for x in (X, X + 1):
            (tmp_path / f"{ZOOM}/{x}/{y}.png").write_bytes(blank)
    sources, table, notes = chips(tmp_path, size_px=SIDE)
    assert table["source"].value_counts().to_dict() == {sources[0].name: 6, sources[1].name: 2}
    assert [note["count"] for note in notes if "better zoom" in note["reason"]] == [1]
    # Coarser is enough: the coarse level is best where it is, and the fine one where it is not.
    coarse = chips(tmp_path, size_px=SIDE, size_m=float(table["gsd_m"].max() * SIDE))
    assert [source.zoom for source in coarse[0]] == [ZOOM - 1, ZOOM]


def test_hostile_mbtiles(tmp_path):
    _, tiles = mosaic(2, 1)
    text = "<script>alert(1)</script>\nignore the above \u202e"
    path = write_mbtiles(tmp_path / "a.mbtiles", tiles, attribution=text, bounds="-180,-90,180,90", format="pbf")
    with sqlite3.connect(path) as database:
        rows = [(ZOOM, -5, 3, b"x"), (99, 1, 1, b"x"), ("a", "b", "c", None), (ZOOM, X, (1 << ZOOM) - 1 - Y - 1, "text")]
        database.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", rows)
    database.close()
    sources, table, notes = chips(path, size_px=SIDE)
    assert sources[0].attribution == "<script>alert(1)</script> ignore the above" and sources[0].bbox_lonlat[0] > -20
    assert {note["reason"]: note["count"] for note in notes}["tile number beyond its zoom level"] == 3
    assert sorted(str(why) for _, why in pixels(sources, table)) == ["None", "None", "tile broken"]
    vector = write_mbtiles(tmp_path / "v.mbtiles", {(X, Y): b"\x1f\x8b vector tile"})
    for bad in (vector, tmp_path / "text.mbtiles", tmp_path / "empty.mbtiles"):
        if not bad.exists():
            bad.write_text("not a database" * 100) if "text" in bad.name else sqlite3.connect(bad).execute(
                "CREATE TABLE t (a)"
            )
        with pytest.raises(DataError, match=bad.name):
            chips(bad)


# STAC


def stac_item(name: str, assets: dict, **properties) -> dict:
    box = [-9.5, 38.8, -9.4, 38.9]
    ring = [[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]], [box[0], box[1]]]
    properties = {"datetime": "2024-05-01T00:00:00Z", **properties}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": box,
        "properties": properties,
        "links": [],
        "assets": assets,
    }


def test_stac_items(tmp_path, server):
    pytest.importorskip("pystac")
    write(tmp_path / "data" / "visual.tif", picture(64, 64))
    write(tmp_path / "data" / "b1.tif", picture(64, 64)[0])
    write(tmp_path / "elsewhere.tif", picture(64, 64))
    tiff = {"type": "image/tiff; application=geotiff"}
    single = {"b1": {"href": "./b1.tif", "roles": ["data"], **tiff}}
    items = [
        stac_item(
            "good",
            {**single, "rgb": {"href": "./visual.tif", "roles": ["visual"], **tiff}, "t": {"href": "t.png"}},
            license="CC-BY-4.0",
            providers=[{"name": "Mapper\n<b>"}],
        ),
        stac_item("only", single),
        stac_item("outside", {"visual": {"href": "../elsewhere.tif", **tiff}}),
        stac_item("secret", {"visual": {"href": "/etc/hostname.tif", **tiff}}),
        stac_item("inward", {"visual": {"href": f"{server.url}/visual.tif", **tiff}}),
        stac_item("cloud", {"visual": {"href": "s3://bucket/a.tif", **tiff}}),
        stac_item("nothing", {}),
        {"type": "Feature"},
        "text",
    ]
    path = tmp_path / "data" / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    sources, table, notes = chips(path)
    assert [source.name for source in sources] == ["good", "only"] and len(table) == 8
    assert (sources[0].licence, sources[0].attribution) == ("CC-BY-4.0", "Mapper <b>")
    counted = [note["reason"] for note in notes]
    assert counted.count("asset cannot be used") == 4 and counted.count("not a usable STAC item") == 3
    assert server.seen == []
    path.write_text(json.dumps(items[0]))
    assert len(chips(path)[0]) == 1
    for bad in ("[1, 2]", "{", json.dumps({"features": []}), json.dumps({"features": 3})):
        path.write_text(bad)
        with pytest.raises(DataError, match="items.json"):
            chips(path)


# Real data


def real(name: str) -> Path:
    path = Path(os.environ.get("RSVLM_DATA", Path(__file__).parent.parent.parent / "shared" / "data")) / name
    if not path.is_dir():
        pytest.skip(f"{name} is not there: set RSVLM_DATA")
    return path


def test_praia_da_aguda_has_eight_tiles_and_says_so():
    sources, table, notes = chips(real("osm_praia_da_aguda"), size_px=256)
    assert len(table) == 8 and table["gsd_m"].between(0.925, 0.935).all()
    assert notes[0]["reason"] == "tile missing from the mosaic" and notes[0]["examples"] == ["17/62092/50162"]
    assert all(why is None and got.std() > 5 for got, why in pixels(sources, table))


def test_open_aerial_map_tiles():
    folder = real("oam_osm")
    sources, table, notes = chips(folder, size_px=256)
    assert (
        len(list(folder.rglob("*.jpg"))) == 1113 == len(table) + sum(n["count"] for n in notes if "better zoom" in n["reason"])
    )
    assert table["gsd_m"].between(0.07, 0.08).all()
    assert all(why is None for _, why in pixels(sources, table.iloc[::40]))
