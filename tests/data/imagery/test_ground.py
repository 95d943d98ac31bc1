"""Outlines of chips are where the chips are, and the share of the ground under them is counted, not guessed."""

import numpy as np
import pytest
from rasters import SIDE, chips, mosaic, picture, write, write_tiles

from rsvlm.data.imagery import ground

pyproj = pytest.importorskip("pyproj")
from rasterio.transform import from_origin  # noqa: E402

# Code, x and y of the upper left corner, side of a pixel: degrees, UTM off its meridian, Europe far from its own, Greenland.
GRIDS = {
    "EPSG:4326": (-9.5, 38.9, 0.0001),
    "EPSG:32629": (700_000.0, 6_900_000.0, 10.0),
    "EPSG:3035": (5_800_000.0, 3_000_000.0, 10.0),
    "EPSG:3413": (-180_000.0, -1_200_000.0, 2000.0),
}


@pytest.mark.parametrize("crs", GRIDS)
def test_outlines_run_along_the_grid(tmp_path, crs):
    x0, y0, side = GRIDS[crs]
    sources, table, _ = chips(write(tmp_path / "a.tif", picture(96, 128), crs, from_origin(x0, y0, side, side)))
    rings = ground.outlines(sources, table)
    k = rings.shape[1] // 4
    assert k == (16 if side == 2000 else 1)
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(rings[..., 0], rings[..., 1])
    column, row = (x - x0) / side, (y0 - y) / side
    for chip, c, r in zip(table.itertuples(), column, row):
        left, top, right, bottom = chip.left_px, chip.top_px, chip.left_px + chip.width_px, chip.top_px + chip.height_px
        np.testing.assert_allclose(c[::k], [left, right, right, left], atol=1e-3)
        np.testing.assert_allclose(r[::k], [top, top, bottom, bottom], atol=1e-3)
        assert np.minimum(np.minimum(abs(c - left), abs(c - right)), np.minimum(abs(r - top), abs(r - bottom))).max() < 1e-3
    # The box of the table is the one around it.
    box = table[["west", "south", "east", "north"]].to_numpy()
    assert (rings.min(1) >= box[:, :2] - 1e-4 * side).all() and (rings.max(1) <= box[:, 2:] + 1e-4 * side).all()
    if crs == "EPSG:4326":
        np.testing.assert_allclose(np.concatenate([rings.min(1), rings.max(1)], 1), box, atol=1e-12)


def test_outlines_across_180_degrees_and_around_a_pole(tmp_path):
    path = write(tmp_path / "a.tif", picture(64, 160), "EPSG:32660", from_origin(832_000, 100_000, 100, 100))
    sources, table, _ = chips(path)
    rings = ground.outlines(sources, table)
    assert (np.ptp(rings[..., 0], axis=1) < 0.1).all() and rings[..., 0].max() > 180
    assert (rings[..., 0].min(1) >= table["west"] - 1e-6).all() and (rings[..., 0].max(1) <= table["east"] + 1e-6).all()
    polar = write(tmp_path / "b.tif", picture(32, 32), "EPSG:3413", from_origin(-16_000, 16_000, 1000, 1000))
    sources, table, _ = chips(polar)
    ring = ground.outlines(sources, table)[0]
    assert (ring[:, 0].min(), ring[:, 0].max(), ring[:, 1].max()) == (-180, 180, 90)


@pytest.mark.parametrize("stride", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [(64, 96), (75, 130), (33, 200)])
def test_the_share_under_chips_is_that_of_pixels(tmp_path, stride, size):
    sources, table, _ = chips(write(tmp_path / "a.tif", picture(*size)), stride=stride)
    seen = np.zeros(size, bool)
    for left, top, width, height in table[["left_px", "top_px", "width_px", "height_px"]].astype(int).to_numpy():
        seen[top : top + height, left : left + width] = True
    assert ground.covered(sources, table)[0] == pytest.approx(seen.mean(), abs=0.02)
    assert ground.covered(sources, table.iloc[:0])[0] == 0


def test_the_share_of_a_mosaic_is_that_of_its_tiles(tmp_path):
    tiles = mosaic(3, 3)[1]
    (corner, *_) = tiles
    del tiles[corner]
    sources, table, _ = chips(write_tiles(tmp_path, tiles, "{z}/{x}/{y}.png"), size_px=SIDE, tile_rows="xyz")
    assert len(table) == 8 and ground.covered(sources, table)[0] == pytest.approx(1, abs=0.01)
    assert ground.covered(sources, table.iloc[:2])[0] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("crs", ["EPSG:32629", "EPSG:4326"])
@pytest.mark.parametrize("size", [(64, 64), (70, 129), (40, 20), (20, 64), (17, 100)])
def test_chips_to_the_edges_cover_all_and_stay_inside(tmp_path, crs, size):
    side = 10 if crs == "EPSG:32629" else 0.0001
    place = from_origin(*((460_000, 4_300_000) if side == 10 else (10, 60)), side, side)
    sources, table, _ = chips(write(tmp_path / "a.tif", picture(*size), crs, place), cover_edges=True)
    right, bottom = table["left_px"] + table["width_px"], table["top_px"] + table["height_px"]
    assert (table[["left_px", "top_px"]] >= 0).all(axis=None) and right.max() <= size[1] and bottom.max() <= size[0]
    # Where pixels are not square on the ground, chips begin at whole ones.
    assert ground.covered(sources, table)[0] > (0.999 if side == 10 else 0.9) and table["key"].is_unique
