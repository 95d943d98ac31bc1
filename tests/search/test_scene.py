"""Search in scenes: the same answer however it is cut up, and a stated behaviour for everything that may be wrong with one."""

from __future__ import annotations

import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import DATA
from rasters import ZOOM, X, Y, mosaic, picture, write, write_tiles
from searching import tiny_model

from rsvlm.book.figures import atlas
from rsvlm.errors import DataError
from rsvlm.localization import pixels as kernels, shapes as masks
from rsvlm.search import scene as scenes, scene_blocks, scene_files

rasterio = pytest.importorskip("rasterio")
shapely = pytest.importorskip("shapely")
from rasterio.transform import from_origin  # noqa: E402

SCENES = DATA / "oam_osm" / "1"
TEXTS = ["red in the north", "a picture that is blue"]


@pytest.fixture(scope="module")
def model():
    return tiny_model([*TEXTS, *scenes.BACKGROUND], image_pooling="attention")


def search(scene, model, out, **values):
    settings = {"temperature": 0.05, "threshold": 0.2, "min_px": 0, "precision": "fp32"}
    return scenes.search(scene, TEXTS, model, out, scenes.SearchOptions(**settings | values), progress=False)


def heat(out) -> np.ndarray:
    with rasterio.open(out / "heat.tif") as file:
        return file.read()


def features(out) -> list:
    return json.loads((out / "polygons.geojson").read_text())["features"]


def scene(tmp_path, height=150, width=203, **profile):
    """Fields of 25 pixels and some noise, so that places differ."""
    fields = np.random.default_rng(3).integers(0, 256, (3, -(-height // 25), -(-width // 25))).repeat(25, 1).repeat(25, 2)
    array = np.clip(fields[:, :height, :width] + picture(height, width).astype(int) // 8, 0, 255).astype(np.uint8)
    return write(tmp_path / "scene.tif", array, tiled=True, blockxsize=32, blockysize=32, compress="deflate", **profile)


def test_the_result_does_not_depend_on_how_the_scene_is_cut_into_blocks(model, tmp_path, monkeypatch):
    path = scene(tmp_path)
    whole = search(path, model, tmp_path / "whole")
    monkeypatch.setattr(scene_blocks, "VIEW_PX", 48)
    cut = search(path, model, tmp_path / "cut", batch_size=5)
    np.testing.assert_allclose(heat(tmp_path / "cut"), heat(tmp_path / "whole"), atol=1e-5)
    assert [t["regions"] for t in cut.facts["texts"]] == [t["regions"] for t in whole.facts["texts"]]
    assert sum(t["regions"] for t in whole.facts["texts"]) > 3
    np.testing.assert_allclose(cut.heat, whole.heat, atol=1e-5)
    found = [[feature["properties"] for feature in features(tmp_path / out)] for out in ("cut", "whole")]
    one, other = ({(part["text"], part["area_px"], f"{part['peak']:.3f}") for part in parts} for parts in found)
    assert one == other


def part_of(path, name, top, left, height, width):
    """Write a part of a raster, on the same grid."""
    with rasterio.open(path) as file:
        window = rasterio.windows.Window(left, top, width, height)
        return write(
            path.with_name(name), file.read(window=window), transform=file.window_transform(window), photometric="rgb"
        )


def on_the_same_ground(one, other, edge):
    """Cells of two maps of confidence at the same places, but for so many at the edges of the second."""
    with rasterio.open(one / "heat.tif") as first, rasterio.open(other / "heat.tif") as second:
        row, column = first.index(*second.xy(0, 0))
        place = rasterio.windows.Window(column + edge, row + edge, second.width - 2 * edge, second.height - 2 * edge)
        return first.read(window=place), second.read()[:, edge:-edge, edge:-edge]


@pytest.mark.parametrize("corner", [(64, 32), (40, 24), (44, 53)])  # on the grid of tiles, of patches, and on none
@pytest.mark.parametrize("values", [{}, {"overlap": 0.5}, {"tile_px": 64}])
def test_the_same_ground_has_the_same_answer_in_any_part_of_a_scene(model, tmp_path, corner, values):
    height, width = (290, 300) if "tile_px" in values else (190, 200)
    whole = scene(tmp_path, height + 70, width + 70, transform=from_origin(460_005, 4_300_005, 10, 10))
    part = part_of(whole, "part.tif", *corner, height, width)
    search(whole, model, tmp_path / "whole", **values)
    found = search(part, model, tmp_path / "part", **values)
    one, other = on_the_same_ground(tmp_path / "whole", tmp_path / "part", 12)
    assert other.std() > 0.01 and np.isfinite(other).all()
    np.testing.assert_allclose(other, one, atol=1e-5)
    assert found.facts["size_px"] == [width, height]
    with rasterio.open(tmp_path / "part" / "heat.tif") as file, rasterio.open(part) as raster:
        assert (
            0 <= raster.bounds.left - file.bounds.left < 8 * 10 * 2 and 0 <= file.bounds.top - raster.bounds.top < 8 * 10 * 2
        )


def test_limits_that_are_given_hold_in_any_part_of_a_scene(model, tmp_path):
    path = scene(tmp_path, 160, 192)
    with rasterio.open(path) as file:
        array = file.read().astype(np.uint16) * 10
    array[:, :40, :40] += 9000  # clouds
    path = write(tmp_path / "deep.tif", array, photometric="rgb")
    part = part_of(path, "part.tif", 32, 64, 128, 128)
    differences = []
    for values in ({}, {"limits": (0, 2560)}):
        told = [search(path, model, tmp_path / "whole", **values), search(part, model, tmp_path / "part", **values)]
        one, other = on_the_same_ground(tmp_path / "whole", tmp_path / "part", 12)
        differences.append(np.abs(one - other).max())
        assert told[0].facts["bands"] == [1, 2, 3] and (told[0].facts["limits"] == told[1].facts["limits"]) == bool(values)
    assert differences[0] > 0.01 and differences[1] < 1e-5
    facts = json.loads((tmp_path / "part" / "search.json").read_text())
    assert facts["limits"] == [[0, 2560]] * 3 and facts["nodata"] is None and facts["guesses"] == []


def test_windows_reach_over_the_borders_of_tiles_and_leave_out_what_has_no_data(model, tmp_path):
    """The same by hand: raw patches of every tile, a plain loop over windows, and the cosines of what it gives."""
    path = scene(tmp_path, 64, 96)
    with rasterio.open(path) as file:
        array = file.read()
    array[:, 8:24, 40:64] = 0  # six patches, in two tiles
    path = write(tmp_path / "holes.tif", array, nodata=0, transform=from_origin(320_000, 3_200_000, 10, 10))
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 3)))[0].T.astype(np.float32)
    tower = scenes._tower(model, "fp32")
    pixels, valid = array.transpose(1, 2, 0).copy(), (array > 0).any(0)
    pixels[~valid] = 128
    starts = [np.arange(0, n, 4) for n in (8, 12)]
    plan = scene_blocks.cut(scene_files.open_scene(path)[0], model, None, 0.0, 2)
    assert plan.boxes == [(0, 0, 16, 24)] and plan.fill.tolist() == [128, 128, 128]
    found = scene_blocks.look(plan, plan.boxes[0], pixels.copy(), valid, tower, 5)
    scores, values = np.zeros((2, 8, 12)), np.zeros((2, 8, 12, 16))
    for y in starts[0]:
        for x in starts[1]:
            s, v = tower(pixels[None, y * 8 : y * 8 + 32, x * 8 : x * 8 + 32])
            scores[:, y : y + 4, x : x + 4], values[:, y : y + 4, x : x + 4] = s[0], v[0]
    weights = np.exp(scores) * valid.reshape(8, 8, 12, 8).any(axis=(1, 3))
    pooled = np.zeros((2, 8, 12, 16))
    for y in range(8):
        for x in range(12):
            here = np.s_[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            total = weights[here].sum(axis=(1, 2))
            pooled[:, y, x] = (weights[here][..., None] * values[here]).sum(axis=(1, 2)) / np.maximum(total, 1e-30)[:, None]
    with torch.inference_mode():
        expected = (scenes.heat.project(model, torch.from_numpy(pooled[None]).float()) @ torch.from_numpy(vectors.T))[0]
    cosines = scenes._cosines(model, found, [3], vectors)
    assert found.known.sum() == 16 * 24 - 6 * 4
    np.testing.assert_allclose(cosines.transpose(1, 2, 0), expected.numpy(), atol=2e-5)


def test_cells_lie_between_their_patches_and_know_what_these_know():
    log_odds = np.array([[[0.0, 2.0, np.nan], [4.0, 6.0, np.nan]]], np.float32)
    found = scenes._confidence(log_odds, np.s_[1:4, 0:4])
    rows = np.array([[0, 0.5, 1.5, 2]]) + 4 * np.array([[0], [0.25], [0.75], [1]])
    np.testing.assert_allclose(found[0], (1 / (1 + np.exp(-rows)))[1:4], rtol=1e-5)


def test_shares_of_tiles_that_overlap_add_up_to_one():
    for length, tile, step in ((8, 4, 4), (10, 4, 4), (3, 4, 2), (30, 8, 3)):
        total, last = np.zeros(max(length, tile)), 0
        for start, share in scene_blocks.tile_shares(length, tile, step).items():
            total[start : start + tile] += share
            last = start + tile
        np.testing.assert_allclose(total, 1, rtol=1e-6)
        assert last == max(length, tile)


def test_threads_change_nothing_and_are_as_many_as_before_afterwards(model, tmp_path, monkeypatch):
    path, before = scene(tmp_path), torch.get_num_threads()
    monkeypatch.setattr(scene_blocks, "VIEW_PX", 48)
    maps = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            search(path, model, tmp_path / "out")
            assert torch.get_num_threads() == threads
            maps.append(heat(tmp_path / "out"))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(*maps, atol=1e-5)


def test_a_window_larger_than_the_scene_says_the_same_everywhere_and_too_large_a_one_is_refused(model, tmp_path):
    path = scene(tmp_path, 40, 56)
    search(path, model, tmp_path / "out", window=15)
    found = heat(tmp_path / "out")
    assert np.ptp(found, axis=(1, 2)).max() < 1e-4
    with pytest.raises(DataError, match="tile_px"):
        search(path, model, tmp_path / "no", window=scenes.WIDEST + 2)


def test_polygons_are_the_cells_at_the_threshold_in_the_coordinates_of_the_scene(model, tmp_path, monkeypatch):
    from rasterio.features import rasterize

    monkeypatch.setattr(scene_blocks, "VIEW_PX", 64)
    found = search(scene(tmp_path), model, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "polygons.geojson").read_text())
    assert content["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32629"
    with rasterio.open(tmp_path / "out" / "heat.tif") as file:
        assert file.crs.to_epsg() == 32629 and file.transform.a == 40 and file.descriptions == tuple(TEXTS)
        assert file.bounds.left == 460_000 and file.bounds.top == 4_300_000
        for number, text in enumerate(TEXTS, 1):
            mask = file.read(number) >= 0.2
            shapes = [f["geometry"] for f in content["features"] if f["properties"]["text"] == text]
            drawn = rasterize(shapes, mask.shape, transform=file.transform) > 0 if shapes else np.zeros(mask.shape, bool)
            np.testing.assert_array_equal(drawn, mask)
            assert len(shapes) == kernels.label_components(mask, False)[1] == found.facts["texts"][number - 1]["regions"]
    order = [f["properties"]["confidence"] for f in content["features"]]
    assert order == sorted(order, reverse=True)
    assert all(shapely.geometry.shape(f["geometry"]).is_valid for f in content["features"])
    first = content["features"][0]
    area = shapely.geometry.shape(first["geometry"]).area
    assert first["properties"]["area_m2"] == pytest.approx(area, rel=0.01)
    assert first["properties"]["lon"] == pytest.approx(-9.4, abs=0.2)


def test_confidence_is_the_softmax_against_what_is_held_against_the_text():
    scores = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    held = np.array([[True, True, False], [False, True, True]])
    found = 1 / (1 + np.exp(-scenes._log_odds(scores, held, 3.0)))
    for m in range(2):
        logits = 3 * scores[[m, *(2 + np.flatnonzero(held[m]))]].astype(np.float64)
        np.testing.assert_allclose(found[m], np.exp(logits[0]) / np.exp(logits).sum(0), rtol=1e-5)
    assert np.isfinite(scenes._log_odds(scores, held, 1e6)).all()


def test_a_background_text_of_the_same_words_is_not_held_against_a_text_but_nonsense_always_is():
    rivals = ["many roads", "open water", "foo bar baz"]
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 2, 0]]
    assert scenes._held_against(["a road"], rivals, vectors).tolist() == [[False, True, True]]


def test_a_text_that_fits_nowhere_gives_an_empty_result_and_says_how_near_it_came(model, tmp_path):
    found = search(scene(tmp_path), model, tmp_path / "out", threshold=0.999)
    assert features(tmp_path / "out") == [] and found.regions == []
    assert all(t["regions"] == 0 and 0 < t["highest_confidence"] < 0.999 for t in found.facts["texts"])
    assert "confidence" in found.facts["meaning"]


def test_without_coordinates_results_are_in_pixels_and_this_is_said_once(model, tmp_path, caplog):
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        path = scene(tmp_path, crs=None, transform=rasterio.Affine.identity())
    with caplog.at_level(logging.WARNING):
        found = search(path, model, tmp_path / "out")
    assert sum("pixels" in record.message for record in caplog.records) == 1
    content = json.loads((tmp_path / "out" / "polygons.geojson").read_text())
    assert "crs" not in content and found.facts["coordinates"] == "pixels, y downwards"
    shapes = [shapely.geometry.shape(f["geometry"]) for f in content["features"]]
    points = np.concatenate([shapely.get_coordinates(shape) for shape in shapes])
    assert points.min() >= 0 and points.max() > 60 and points[:, 1].max() <= 152
    assert content["features"][0]["properties"]["lon"] is None
    atlas.scene_map(found).get_root().render()


def test_nodata_stays_nodata_and_all_of_it_is_an_error(model, tmp_path):
    array = np.asarray(rasterio.open(scene(tmp_path)).read())
    array[:, :, 100:] = 0
    write(tmp_path / "half.tif", array, nodata=0)
    search(tmp_path / "half.tif", model, tmp_path / "out")
    found = heat(tmp_path / "out")
    assert np.isnan(found[:, :, 26:]).all() and np.isfinite(found[:, :, :24]).all()
    write(tmp_path / "none.tif", np.zeros_like(array), nodata=0)
    with pytest.raises(DataError, match="every pixel is nodata"):
        search(tmp_path / "none.tif", model, tmp_path / "nothing")
    assert not list((tmp_path / "nothing").iterdir())


def test_one_band_and_sixteen_bits(model, tmp_path):
    array = picture(64, 96)[:1]
    write(tmp_path / "grey.tif", array)
    write(tmp_path / "deep.tif", array.astype(np.uint16) * 200)
    for name in ("grey", "deep"):
        found = search(tmp_path / f"{name}.tif", model, tmp_path / name)
        assert np.isfinite(heat(tmp_path / name)).all() and found.image.std() > 10


def test_a_broken_block_in_the_middle_is_counted_once_and_left_without_data(model, tmp_path, monkeypatch):
    path = scene(tmp_path, 160, 224)
    with rasterio.open(path) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_3_2", "TIFF", bidx=1))
    data = bytearray(path.read_bytes())
    data[offset : offset + 60] = b"\xff" * 60
    path.write_bytes(data)
    monkeypatch.setattr(scene_blocks, "VIEW_PX", 64)  # several blocks of ours meet it
    found = search(path, model, tmp_path / "out")
    assert found.facts["unreadable"] == 1
    missing = np.isnan(heat(tmp_path / "out"))[0]
    expected = np.zeros_like(missing)
    expected[16:24, 24:32] = True  # block column 3, row 2 of 32 pixels, in cells of 4
    np.testing.assert_array_equal(missing, expected)


def test_tiles_and_a_raster_made_of_them_give_the_same(model, tmp_path):
    from rsvlm.data.imagery import chip_layout

    array, tiles = mosaic()
    del tiles[X + 2, Y + 1]
    write_tiles(tmp_path / "tiles", tiles, "{z}/{x}/{y}.png")
    array[64:128, 128:] = 0
    pixel = 2 * chip_layout.MERCATOR_M / (64 << ZOOM)
    corner = -chip_layout.MERCATOR_M + X * 64 * pixel, chip_layout.MERCATOR_M - Y * 64 * pixel
    mask = np.full((192, 192), 255, np.uint8)
    mask[64:128, 128:] = 0
    path = write(tmp_path / "whole.tif", array.transpose(2, 0, 1), "EPSG:3857", from_origin(*corner, pixel, pixel))
    with rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    for zoom in (None, 64):
        search(tmp_path / "tiles", model, tmp_path / "a", tile_px=zoom)
        search(path, model, tmp_path / "b", tile_px=zoom)
        one, other = heat(tmp_path / "a"), heat(tmp_path / "b")
        np.testing.assert_allclose(one, other, atol=1e-5 if zoom is None else 0.1)
        assert np.isnan(one).any()
    assert len(features(tmp_path / "a")) > 0
    assert json.loads((tmp_path / "a" / "search.json").read_text())["coordinates"] == "EPSG:3857"


def test_the_preview_is_finer_than_the_cells_where_there_is_room(model, tmp_path, monkeypatch):
    path = scene(tmp_path, 64, 96)
    with rasterio.open(path) as file:
        array = file.read().transpose(1, 2, 0)
    found = search(path, model, tmp_path / "out")
    np.testing.assert_array_equal(found.image, array)
    assert found.heat.shape == (2, 16, 24)
    corners = np.concatenate([np.array(ring) for region in found.regions for polygon in region["rings"] for ring in polygon])
    assert 24 < corners.max() <= 96
    monkeypatch.setattr(scene_blocks, "PREVIEW_PX", 8)
    found = search(path, model, tmp_path / "out")
    assert found.image.shape == (6, 8, 3) and found.heat.shape == (2, 6, 8)
    means = array[2::4, 2::4][:15].reshape(5, 3, 8, 3, 3).mean(axis=(1, 3))
    assert np.abs(found.image[:5] - means).max() <= 0.5


def test_a_coarser_look_has_larger_cells(model, tmp_path):
    found = search(scene(tmp_path), model, tmp_path / "out", tile_px=64)
    assert found.facts["cell_px"] == 8 and heat(tmp_path / "out").shape == (2, 19, 26)


def test_a_scene_smaller_than_a_window(model, tmp_path):
    write(tmp_path / "small.tif", picture(20, 13))
    search(tmp_path / "small.tif", model, tmp_path / "out")
    assert heat(tmp_path / "out").shape == (2, 5, 4) and np.isfinite(heat(tmp_path / "out")).all()


def test_bf16_changes_little(model, tmp_path):
    path = scene(tmp_path)
    search(path, model, tmp_path / "a")
    search(path, model, tmp_path / "b", precision="bf16")
    assert np.abs(heat(tmp_path / "a") - heat(tmp_path / "b")).max() < 0.1
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    "name, value, words",
    [("threshold", 1.5, "threshold"), ("overlap", 0.9, "overlap"), ("window", 2, "odd"), ("precision", "fp8", "precision")]
    + [("tile_px", 3, "tile_px")],
)
def test_a_bad_request_stops_before_anything_is_written(model, tmp_path, name, value, words):
    with pytest.raises(DataError, match=words):
        search(scene(tmp_path), model, tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


def test_only_the_best_regions_are_kept_and_all_are_counted(model, tmp_path):
    found = search(scene(tmp_path), model, tmp_path / "all")
    few = search(scene(tmp_path), model, tmp_path / "few", max_regions=1)
    best = [next(r["confidence"] for r in found.regions if r["text"] == m) for m in (0, 1)]
    assert sorted(r["confidence"] for r in few.regions) == sorted(best)
    assert [t["regions"] for t in few.facts["texts"]] == [t["regions"] for t in found.facts["texts"]]


def test_regions_across_many_blocks_are_joined_as_whole_arrays_are():
    rng = np.random.default_rng(7)
    heat_map = rng.random((57, 83)).astype(np.float32).round(3)
    heat_map = (heat_map + np.roll(heat_map, 1, 0) + np.roll(heat_map, 1, 1)) / 3
    heat_map[20:40, 30:50] = np.nan
    one, cut = masks.Regions(83, 0.5, 3, 10_000), masks.Regions(83, 0.5, 3, 10_000)
    one.add(0, 0, heat_map)
    for top in range(0, 57, 8):
        for left in range(0, 83, 8):
            part = heat_map[top : top + 8, left : left + 8]
            cut.skip() if np.isnan(part).all() else cut.add(top, left, part)
        cut.end_of_row()
    for regions in (one, cut):
        regions.close()
    told = [sorted((round(r[0], 6), r[2], r[5], round(r[6].area, 6)) for r in regions.best) for regions in (one, cut)]
    assert told[0] == told[1] and len(told[0]) > 10
    labels, count = kernels.label_components(np.nan_to_num(heat_map) >= 0.5, False)
    assert one.count == (np.bincount(labels.ravel())[1:] >= 3).sum()
    assert one.cells == cut.cells and one.highest == cut.highest


def test_what_is_held_open_is_bounded(monkeypatch):
    monkeypatch.setattr(masks, "PENDING_POINTS", 10)
    regions = masks.Regions(8, 0.5, 1, 100)
    for top in range(0, 32, 8):
        regions.add(top, 0, np.ones((8, 8), np.float32))
        regions.end_of_row()
    regions.close()
    assert regions.count > 1 and regions.cut >= 1 and sum(item[5] for item in regions.best) == 256


def test_memory_does_not_grow_with_the_scene(model, tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.setattr(scene_blocks, "VIEW_PX", 64)
    monkeypatch.setattr(scene_blocks, "PREVIEW_PX", 32)
    monkeypatch.setattr(scene_blocks, "WORKERS", 1)  # as many blocks under way, however few there are
    peaks = []
    # The first one for what is made once; half a window of overlap: as many windows in each block.
    for side in (192, 192, 448):
        path = scene(tmp_path, side, side)
        tracemalloc.start()
        search(path, model, tmp_path / "out", threshold=0.9, overlap=0.5)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1], peaks


def test_the_page_holds_all_it_shows_and_no_text_of_others_is_markup(model, tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    options = scenes.SearchOptions(threshold=0.1, temperature=0.05, precision="fp32")
    found = scenes.search(scene(tmp_path), [evil], model, tmp_path / "out", options, progress=False)
    page = atlas.scene_map(found).get_root().render()
    assert "<img src=x" not in page and 'type: "range"' in page
    assert not re.findall(r"<script [^>]*src=|<link|<img", page.partition("L.imageOverlay")[2]) and "<link" not in page
    shown = atlas.scene_map(found)._repr_html_()
    assert shown.startswith("<iframe title=") and evil not in shown


def test_many_scenes_are_not_searched_as_one(model, tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "folder" / f"{name}.tif", picture(40, 40))
    assert len(scene_files.open_scene(tmp_path / "folder")) == 2
    with pytest.raises(DataError, match="2 scenes"):
        search(tmp_path / "folder", model, tmp_path / "out")


@pytest.mark.skipif(not SCENES.is_dir(), reason="oam_osm is not in RSVLM_DATA nor in ../shared/data")
def test_real_tiles_and_a_geotiff_made_from_them(model, tmp_path):
    from PIL import Image

    known = scene_files.open_scene(SCENES)[0]
    column, row = known.tiles[0]
    here = [(x, y) for x, y in known.tiles.tolist() if 0 <= x - column < 3 and 0 <= y - row < 3]
    pixel, side = known.source.transform[1], known.source.tile_px
    array, valid = np.zeros((3 * side, 3 * side, 3), np.uint8), np.zeros((3 * side, 3 * side), np.uint8)
    (tmp_path / "tiles").mkdir()
    for x, y in here:
        name = f"OAM-{x}-{y}-{known.source.zoom}.jpg"
        shutil.copyfile(SCENES / name, tmp_path / "tiles" / name)
        at = np.s_[(y - row) * side : (y - row + 1) * side, (x - column) * side : (x - column + 1) * side]
        array[at], valid[at] = np.asarray(Image.open(SCENES / name).convert("RGB")), 255
    one = scene_files.open_scene(tmp_path / "tiles")[0]
    array, valid = array[: one.height, : one.width], valid[: one.height, : one.width]
    x0, _, y0, _ = known.source.transform
    place = from_origin(x0 + column * side * pixel, y0 - row * side * pixel, pixel, pixel)
    path = write(tmp_path / "scene.tif", array.transpose(2, 0, 1), "EPSG:3857", place)
    with rasterio.open(path, "r+") as file:
        file.write_mask(valid)
    search(tmp_path / "tiles", model, tmp_path / "a", tile_px=64)
    search(path, model, tmp_path / "b", tile_px=64)
    difference = np.abs(heat(tmp_path / "a") - heat(tmp_path / "b"))
    assert len(here) > 1 and np.nanmax(difference) < 0.05
    assert np.isnan(difference).mean() == pytest.approx(1 - (valid > 0).mean(), abs=0.01)
    with rasterio.open(tmp_path / "a" / "heat.tif") as tiles, rasterio.open(tmp_path / "b" / "heat.tif") as raster:
        np.testing.assert_allclose(tiles.bounds, raster.bounds, atol=pixel / 10)
