"""Chips lie where their tables say, at any latitude, and are as large on the ground."""

import json
import re

import numpy as np
import pytest
from rasters import chips, options, picture, pixels, write

from rsvlm.data.imagery import sources as imagery
from rsvlm.errors import ConfigError, DataError

pyproj = pytest.importorskip("pyproj")
from rasterio.transform import from_origin  # noqa: E402

GEOD = pyproj.Geod(ellps="WGS84")
# Code, x and y of the upper left corner, side of a pixel: Lisbon twice, Lisbon in UTM, Greenland.
GRIDS = {
    "EPSG:4326": (-9.5, 38.9, 0.0001),
    "EPSG:3857": (-1_057_000.0, 4_700_000.0, 10.0),
    "EPSG:32629": (460_000.0, 4_300_000.0, 10.0),
    "EPSG:3413": (-180_000.0, -1_200_000.0, 10.0),
}


# Place and size


@pytest.mark.parametrize("crs", GRIDS)
def test_footprint_gsd_and_pixels_are_right(tmp_path, crs):
    x0, y0, side = GRIDS[crs]
    array = picture(96, 200)
    sources, table, notes = chips(write(tmp_path / "a.tif", array, crs, from_origin(x0, y0, side, side)))
    assert notes == [] and len(table) >= 9 and table["key"].is_unique
    to_lonlat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    to_grid = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    for row, (got, why) in zip(table.itertuples(), pixels(sources, table)):
        left, top, width, height = row.left_px, row.top_px, row.width_px, row.height_px
        xs = x0 + side * np.array([left, left + width, left + width, left])
        ys = y0 - side * np.array([top, top, top + height, top + height])
        lon, lat = to_lonlat.transform(xs, ys)
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


def test_no_chip_of_a_low_raster_is_lost_where_the_scale_changes_along_it(tmp_path, caplog):
    # Polar stereographic: a chip of so many metres takes more pixels the further it is from the pole.
    path = write(tmp_path / "a.tif", picture(24, 138), crs="EPSG:3031", transform=from_origin(2_000_000, 302_400, 114, 114))
    sources, table, _ = chips(path, size_px=31, size_m=77.5 * 114, cover_edges=True)
    assert (table["left_px"] + table["width_px"]).max() > 137 and len(table) == 6
    assert "its chips take 24 x 24 of them" in caplog.text
    assert len(pixels(sources, table)) == 6
