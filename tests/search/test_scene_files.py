"""The room where scenes are read and maps are written: any part at any size, from any thread, and in whose coordinates."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from rasters import X, Y, mosaic, picture, write, write_mbtiles

from rsvlm.errors import DataError
from rsvlm.search import scene_files

rasterio = pytest.importorskip("rasterio")
warp = pytest.importorskip("rasterio.warp")


def test_any_part_of_a_raster_in_its_own_pixels_and_smaller(tmp_path):
    array = picture(90, 120)
    scene = scene_files.open_scene(write(tmp_path / "a.tif", array))[0]
    with scene_files.reader(scene, broken := set()) as read:
        pixels, valid = read((10, 20, 50, 70), 1)
        np.testing.assert_array_equal(pixels, array[:, 10:50, 20:70].transpose(1, 2, 0))
        small, _ = read((5, 10, 25, 35), 2)
    means = array[:, 10:50, 20:70].reshape(3, 20, 2, 25, 2).mean(axis=(2, 4)).transpose(1, 2, 0)
    assert np.abs(small - means).max() <= 0.5 + 1e-6 and valid.all() and not broken


def test_tiles_of_a_database_are_read_from_another_thread_and_bad_ones_counted_once(tmp_path):
    whole, tiles = mosaic()
    tiles |= {(X + 1, Y + 1): b"no picture"}
    del tiles[X + 2, Y]
    scene = scene_files.open_scene(write_mbtiles(tmp_path / "m.mbtiles", tiles))[0]
    assert (scene.width, scene.height, len(scene.tiles)) == (192, 192, 8)
    with scene_files.reader(scene, broken := set()) as read, ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            pixels, valid = pool.submit(read, (0, 0, 192, 192), 1).result()
    expected = np.ones((192, 192), bool)
    expected[64:128, 64:128] = expected[:64, 128:] = False
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(pixels[valid], whole[valid])
    assert len(broken) == 1


def test_a_box_without_a_tile_is_not_touched(tmp_path):
    _, tiles = mosaic(3, 1)
    del tiles[X + 1, Y]
    scene = scene_files.open_scene(write_mbtiles(tmp_path / "m.mbtiles", tiles))[0]
    assert [scene_files.touches(scene, (0, x, 8, x + 8), 8) for x in (0, 8, 16)] == [True, False, True]
    assert scene_files.touches(scene, (0, 6, 4, 10), 8)


def test_coordinates_of_cells_and_their_area(tmp_path):
    scene = scene_files.open_scene(write(tmp_path / "a.tif", picture(40, 60)))[0]
    grid = scene_files.Grid(scene, 4)
    assert grid.transform == (460_000, 40, 4_300_000, 40) and grid.polygons_in == "EPSG:32629"
    assert grid.outline(np.array([[0, 0], [2, 1]])) == [[460_000, 4_300_000], [460_080, 4_299_960]]
    lon, lat, area = grid.measure(np.array([0.5]), np.array([0.5]))
    x, y = warp.transform("EPSG:32629", "EPSG:4326", [460_020], [4_299_980])
    np.testing.assert_allclose((lon[0], lat[0]), (x[0], y[0]), atol=1e-6)
    assert area[0] == pytest.approx(1600, rel=2e-3)


def test_a_map_that_is_not_finished_leaves_nothing(tmp_path):
    grid = scene_files.Grid(scene_files.open_scene(write(tmp_path / "a.tif", picture(40, 60)))[0], 4)
    with pytest.raises(DataError), scene_files.write_cells(tmp_path / "heat.tif", grid, (10, 15), ["a"]) as one:
        one((0, 0, 5, 5), np.ones((1, 5, 5), np.float32))
        raise DataError("stopped")
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]
    with scene_files.write_cells(tmp_path / "heat.tif", grid, (10, 15), ["a <b>"]) as one:
        one((5, 10, 10, 15), np.full((1, 5, 5), 0.5, np.float32))
    with rasterio.open(tmp_path / "heat.tif") as file:
        found = file.read(1)
        assert file.descriptions == ("a <b>",) and file.crs.to_epsg() == 32629
    assert (found[5:, 10:] == 0.5).all() and np.isfinite(found).sum() == 25


def test_polygons_keep_their_holes_and_name_their_coordinates(tmp_path):
    grid = scene_files.Grid(scene_files.open_scene(write(tmp_path / "a.tif", picture(40, 60)))[0], 4)
    square = np.array([[0, 0], [0, 6], [6, 6], [6, 0], [0, 0]], float)
    told = {"confidence": 0.7, "peak": 0.9, "area_m2": 1.0, "area_px": 2.0, "lon": 0.1, "lat": 0.2}
    listed = [{"text": 0, "rings": [[square, square / 3 + 2]], **told}, {"text": 0, "rings": [[square], [square + 6]], **told}]
    scene_files.write_polygons(tmp_path / "p.geojson", listed, ["“harbour” & more"], grid)
    content = json.loads((tmp_path / "p.geojson").read_text())
    assert content["crs"]["properties"]["name"].endswith("EPSG::32629")
    first, second = content["features"]
    assert first["properties"].items() >= {"text": "“harbour” & more", "file": "a.tif", **told}.items()
    assert first["geometry"]["type"] == "Polygon" and len(first["geometry"]["coordinates"]) == 2
    assert second["geometry"]["type"] == "MultiPolygon" and second["geometry"]["coordinates"][1][0][0] == [460_240, 4_299_760]


def test_bands_in_files_of_their_own_are_one_scene(tmp_path, caplog):
    for number in (2, 3, 4, 8):
        write(tmp_path / f"T29SMC_20240101_B0{number}.tif", np.full((48, 64), 10 * number, np.uint8))
    write(tmp_path / "T29SMC_20240101_SCL.tif", np.full((48, 64), 4, np.uint8))
    (scene,) = scene_files.open_scene(tmp_path)
    with scene_files.reader(scene, set()) as read:
        pixels, valid = read((8, 8, 40, 40), 1.0)
    assert (pixels == (40, 30, 20)).all() and valid.all()
    assert "mask" in caplog.text and "4 B8" in caplog.text  # what is left out is told
