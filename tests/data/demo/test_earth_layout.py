"""Chips are square on the ground, whole across the antimeridian, and splits keep their distance."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rsvlm import config
from rsvlm.data.demo import earth_layout
from rsvlm.errors import DataError, MissingExtraError
from rsvlm.records import files

PX = 15.0


def haversine_m(lon0, lat0, lon1, lat1):
    lon0, lat0, lon1, lat1 = map(np.radians, (lon0, lat0, lon1, lat1))
    a = np.sin((lat1 - lat0) / 2) ** 2 + np.cos(lat0) * np.cos(lat1) * np.sin((lon1 - lon0) / 2) ** 2
    return 2 * 6_371_008.8 * np.arcsin(np.sqrt(a))


def one_chip(lon: float, lat: float, size_px: int = 64) -> pd.DataFrame:
    table = pd.DataFrame({"lon": [lon], "lat": [lat], "size_px": [size_px]})
    table[["west", "south", "east", "north"]] = earth_layout.footprints(np.array([lon]), np.array([lat]), size_px, PX)
    return table


@given(st.floats(-180, 180), st.floats(-69, 69))
def test_ground_sample_distance_is_the_same_both_ways(lon, lat):
    west, south, east, north = earth_layout.footprints(np.array([lon]), np.array([lat]), 64, PX)[0]
    gsd_m = earth_layout.ground_sample_distance_m(PX)
    pixel_lon, pixel_lat = (east - west) / 64, (north - south) / 64
    # One pixel at the centre, measured with an independent formula.
    across = haversine_m(lon - pixel_lon / 2, lat, lon + pixel_lon / 2, lat)
    along = haversine_m(lon, lat - pixel_lat / 2, lon, lat + pixel_lat / 2)
    assert across == pytest.approx(gsd_m, rel=0.01)
    assert along == pytest.approx(gsd_m, rel=0.01)
    assert -180 <= west < 180 and east > west


def test_grid_is_even_on_the_ground_and_stays_within_latitudes():
    table = earth_layout.grid(64, 0.5, 72.0, PX)
    assert table["south"].min() >= -72 and table["north"].max() <= 72
    assert table["key"].is_unique and not table["key"].str.contains(r"\.").any()
    step_m = 0.5 * 64 * earth_layout.ground_sample_distance_m(PX)
    for lat, row in table.groupby("lat"):
        lon = np.sort(row["lon"].to_numpy())
        gaps = np.diff(np.append(lon, lon[0] + 360.0))
        assert np.ptp(gaps) < 1e-9
        ground_m = gaps[0] * np.cos(np.radians(lat)) * haversine_m(0, 0, 0, 1)
        assert 0.9 * step_m < ground_m <= step_m * 1.0001
    assert np.allclose(np.diff(np.sort(table["lat"].unique())), 0.5 * 64 / PX)


def test_grid_refuses_chips_that_do_not_fit():
    with pytest.raises(DataError, match="do not fit"):
        earth_layout.grid(1024, 0.5, 20.0, PX)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([20.0, 25.0, 30.0, 45.0]))
def test_blocks_are_seeded_and_hold_back_what_is_asked(seed, block_deg):
    blocks = earth_layout.assign_blocks(block_deg, 0.1, 0.2, seed)
    assert np.array_equal(blocks, earth_layout.assign_blocks(block_deg, 0.1, 0.2, seed))
    assert (blocks == 2).sum() == round(0.2 * blocks.size) and (blocks == 1).sum() == round(0.1 * blocks.size)


def test_blocks_without_weight_always_train():
    weights = np.zeros(earth_layout.block_shape(30.0))
    weights[2, 3:9] = 0.5
    blocks = earth_layout.assign_blocks(30.0, 0.2, 0.3, 0, weights)
    assert (blocks[weights == 0] == 0).all() and (blocks == 2).sum() == 2 and (blocks == 1).sum() == 1


def covered(windows: np.ndarray, height: int, width: int) -> np.ndarray:
    pixels = np.zeros((height, width), bool)
    for left, top, right, bottom in windows:
        pixels[top:bottom, np.arange(left, right) % width] = True
    return pixels


def grown(pixels: np.ndarray, size_px: int) -> np.ndarray:
    """Every pixel within one chip's side of a set: `size_px` rows, and as many columns as a chip is wide on that row."""
    height, width = pixels.shape
    rows = np.zeros_like(pixels)
    for shift in range(-size_px, size_px + 1):
        source = slice(max(0, -shift), min(height, height - shift))
        target = slice(max(0, shift), min(height, height + shift))
        rows[target] |= pixels[source]
    result = np.zeros_like(pixels)
    for row in np.flatnonzero(rows.any(axis=1)):
        lat = 90.0 - (row + 0.5) / PX
        reach = int(np.ceil(size_px / np.cos(np.radians(lat))))
        if 2 * reach >= width:
            result[row] = True
            continue
        sums = np.concatenate([[0], np.cumsum(np.tile(rows[row], 3))])
        columns = np.arange(width) + width
        result[row] = sums[columns + reach + 1] - sums[columns - reach] > 0
    return result


@pytest.mark.parametrize(("seed", "block_deg"), [(0, 24.0), (1, 30.0), (2, 25.0)])
def test_no_held_back_pixel_is_within_one_chip_of_training(seed, block_deg):
    options = config.Landmarks(block_deg=block_deg, train_stride=0.25, test_stride=0.5)
    table, funnel = earth_layout.chips(options, seed)
    height, width = 2700, 5400
    masks = {
        split: covered(earth_layout.pixel_windows(table[table["split"] == split], PX), height, width)
        for split in earth_layout.SPLITS
    }
    assert all(mask.any() for mask in masks.values())
    # Chips of some held-back block touch the antimeridian in at least one of the seeds; training chips always cross it.
    assert (table["east"] > 180).any()
    near_test, near_val = grown(masks["test"], 64), grown(masks["val"], 64)
    assert not (near_test & masks["train"]).any()
    assert not (near_val & masks["train"]).any()
    assert not (near_test & masks["val"]).any()
    for row in funnel:
        kept = (table["split"] == row["split"]).sum()
        stride = options.train_stride if row["split"] == "train" else options.test_stride
        assert row["kept"] == kept
        assert row["kept"] + row["rejected"] == len(earth_layout.grid(64, stride, options.max_latitude_deg, PX))


def test_held_back_block_at_the_antimeridian_clears_both_sides():
    blocks = np.zeros(earth_layout.block_shape(30.0), np.uint8)
    blocks[3, 0] = 2
    table = earth_layout.grid(64, 0.25, 72.0, PX)
    table["split"] = earth_layout.split_chips(table, blocks, 30.0, PX)
    west_of_it = table[(table["lat"].between(5, 25)) & (table["lon"] > 177)]
    assert len(west_of_it) and not (west_of_it["split"] == "train").any()
    test = table[table["split"] == "test"]
    assert len(test) and test["west"].min() >= -180 and test["east"].max() <= -150


def test_chips_refuse_blocks_without_room():
    with pytest.raises(DataError, match="larger blocks"):
        earth_layout.chips(config.Landmarks(block_deg=5.5, size_px=128), 0)


def test_cut_copies_pixels_that_need_no_resampling():
    world = np.random.default_rng(0).integers(0, 256, (2700, 5400, 3), dtype=np.uint8)
    table = one_chip(0.0, 0.0)
    result = earth_layout.cut(world, table)[0]
    # On the equator the window is as wide as it is high: 64 x 64 whole pixels.
    assert np.array_equal(result, world[1350 - 32 : 1350 + 32, 2700 - 32 : 2700 + 32])


def test_cut_crosses_the_antimeridian_as_if_it_were_not_there():
    rng = np.random.default_rng(1)
    world = rng.integers(0, 256, (270, 540, 3), dtype=np.uint8)
    turned = np.roll(world, 270, axis=1)
    scale = 540 / 360
    for lat in (0.0, 50.0, -60.0):
        here, there = pd.DataFrame({"size_px": [16]}), pd.DataFrame({"size_px": [16]})
        columns = ["west", "south", "east", "north"]
        here[columns] = earth_layout.footprints(np.array([180.0]), np.array([lat]), 16, scale)
        there[columns] = earth_layout.footprints(np.array([0.0]), np.array([lat]), 16, scale)
        assert here["east"].iloc[0] > 180
        assert np.array_equal(earth_layout.cut(world, here), earth_layout.cut(turned, there))


def test_cut_averages_where_the_window_is_wide():
    # A one-pixel checker at 60 degrees, where windows are twice as wide, must come out grey from west to east.
    world = np.zeros((2700, 5400, 3), np.uint8)
    world[:, ::2] = 255
    result = earth_layout.cut(world, one_chip(10.0, 60.0))[0].astype(float)
    assert result.std() < 10 and abs(result.mean() - 127.5) < 3


def test_cut_of_nothing_and_of_mixed_sizes():
    world = np.zeros((180, 360, 3), np.uint8)
    assert len(earth_layout.cut(world, one_chip(0, 0).iloc[:0])) == 0
    with pytest.raises(DataError, match="several sizes"):
        earth_layout.cut(world, pd.concat([one_chip(0, 0, 16), one_chip(0, 0, 32)]))


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "rsvlm\[demo\]"'):
        earth_layout.imagery_file()


def test_missing_file_inside_a_package_is_named():
    with pytest.raises(DataError, match="nothing.jpg"):
        files.package_file("rsvlm", "nothing.jpg")


def test_broken_or_misshapen_imagery_is_named(tmp_path):
    path = tmp_path / "world.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(DataError, match="world.png"):
        earth_layout.load_imagery(path)
    from rsvlm.model import images

    path.write_bytes(images.encode_png(np.zeros((10, 10, 3), np.uint8)))
    with pytest.raises(DataError, match="twice as wide"):
        earth_layout.load_imagery(path)
