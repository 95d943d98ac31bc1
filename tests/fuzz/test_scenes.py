"""Bands of a scene in files of their own, and parts of scenes, which show what the whole shows."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import strategies as st
from test_rasters import Raster, turn

from rsvlm import config
from rsvlm.data.imagery import sources as imagery
from rsvlm.search import scene_blocks, scene_files

pytest.importorskip("pyproj")
rasterio = pytest.importorskip("rasterio")
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402


@fuzz(
    height=st.integers(20, 60), width=st.integers(20, 60), coarse=st.sampled_from([1, 1, 2]),
    turned=st.tuples(st.booleans(), st.booleans(), st.booleans()), gone=st.sampled_from(["", "nodata", "msk", "internal", "points"]),
    kind=st.sampled_from(["uint8", "uint16", "int16", "float32"]), names=st.sampled_from(["B{}", "S2_B0{}", "T29_B{}", "a/LC08_SR_B{}"]),
    seed=st.integers(0, 2**31), wanted=st.sampled_from([(), (3,), (1, 2, 3)]),
)  # fmt: skip
def test_bands_in_files_of_their_own_are_one_picture(height, width, coarse, turned, gone, kind, names, seed, wanted):
    rng = np.random.default_rng(seed)
    height, width = height // 2 * 2, width // 2 * 2
    raster = Raster(height, width, "", kind, gone, (), "EPSG:32629", turned, False, 0, (), False, seed)
    valid = np.ones((height, width), bool)
    if gone in ("nodata", "msk", "internal"):
        valid[: rng.integers(height), : rng.integers(1, width)] = False
    layers = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for band in (2, 3, 4, 8):
            zoom = coarse if band in (4, 8) else 1
            values = rng.integers(1, 250, (height // zoom, width // zoom)).repeat(zoom, 0).repeat(zoom, 1).astype(kind)
            layers[band] = values = np.where(valid, values, 0).astype(kind)
            (stored, holds), grid = turn(np.stack([values, valid]), raster)
            grid *= grid.scale(zoom)
            stored, holds = stored[::zoom, ::zoom].astype(kind), valid_of(holds, zoom)
            path = Path(folder, names.format(band) + ".tif")
            path.parent.mkdir(exist_ok=True)
            profile = {"width": stored.shape[1], "height": stored.shape[0], "count": 1, "dtype": kind}
            profile |= {"nodata": 0} if gone == "nodata" else {}
            place = {"crs": "EPSG:32629", "transform": grid} if gone != "points" else {}
            with (
                rasterio.Env(GDAL_TIFF_INTERNAL_MASK=gone == "internal"),
                rasterio.open(path, "w", "GTiff", **profile, **place) as file,
            ):
                if gone == "points":
                    corners = [(0, 0), (stored.shape[0], 0), (0, stored.shape[1]), stored.shape]
                    file.gcps = (
                        [rasterio.control.GroundControlPoint(r, c, *(grid @ (c, r)), 0) for r, c in corners],
                        rasterio.crs.CRS.from_epsg(32629),
                    )
                file.write(stored, 1)
                if gone in ("msk", "internal"):
                    file.write_mask(holds)
        options = config.Chips(size_px=16, min_valid_share=0, nodata="file", limits=(0, 255), bands=wanted)
        (source,) = imagery.open_imagery(folder, options)
        notes = sum(count for _, count, _ in source.notes)
        assert notes == 4 - len(source.bands_at or [source.path])
        shown = [layers[(2, 3, 4, 8)[number - 1]] for number in wanted or (3, 2, 1)]
        picture = np.broadcast_to(np.stack(shown, -1), (height, width, 3)).astype(np.uint8)
        if wanted == (3,) and coarse == 2:
            return
        assert (source.width, source.height) == (width, height)
        table, _ = imagery.lay_out([source], options)
        for chip, (pixels, reason) in zip(table.itertuples(), imagery.read(source, table), strict=True):
            place = np.s_[int(chip.top_px) : int(chip.top_px) + 16, int(chip.left_px) : int(chip.left_px) + 16]
            if coarse == 2 and not valid[place].all():
                continue
            assert reason == (None if valid[place].any() else "all nodata")
            if pixels is not None:
                assert np.array_equal(pixels, np.where(valid[place][..., None], picture[place], 0))


def valid_of(holds: np.ndarray, zoom: int) -> np.ndarray:
    """What holds data in a band of larger pixels."""
    return holds[::zoom, ::zoom].astype(bool)


class _Sizes:
    """What of a model decides how scenes are cut up."""

    image_size, patch_size, mean = 32, 8, (0.5, 0.4, 0.3)


@fuzz(
    height=st.integers(8, 150), width=st.integers(8, 150), part=st.tuples(*[st.floats(0, 1)] * 4), place=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    zoom=st.sampled_from([1, 1, 2, 3, 0.5]), kind=st.sampled_from(["uint8", "uint16"]), gone=st.booleans(), seed=st.integers(0, 2**31),
    tiled=st.booleans(),
)  # fmt: skip
def test_a_part_of_a_scene_shows_what_the_whole_shows(height, width, part, place, zoom, kind, gone, seed, tiled):
    rng, model = np.random.default_rng(seed), _Sizes()
    x0, y0 = 460_000 + 10 * place[0], 4_300_000 + 10 * place[1]
    top, bottom = sorted(int(v * (height - 1)) for v in part[:2])
    left, right = sorted(int(v * (width - 1)) for v in part[2:])
    bottom, right = bottom + 1, right + 1
    values = rng.integers(1, 250, (3, height, width)).astype(kind)
    if gone:
        values[:, : rng.integers(height), : rng.integers(width)] = 0
    pictures = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, box in (("whole", np.s_[:, :, :]), ("part", np.s_[:, top:bottom, left:right])):
            path, array = Path(folder, f"{name}.tif"), values[box]
            corner = (x0, y0) if name == "whole" else (x0 + 10 * left, y0 - 10 * top)
            profile = {"count": 3, "height": array.shape[1], "width": array.shape[2], "dtype": kind, "photometric": "RGB"}
            profile |= {"tiled": True, "blockxsize": 16, "blockysize": 16} if tiled else {}
            with rasterio.open(
                path, "w", "GTiff", crs="EPSG:32629", transform=from_origin(*corner, 10, 10), nodata=0, **profile
            ) as file:
                file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
                file.write(array)
            (scene,) = scene_files.open_scene(path, nodata="file", limits=(0, 255))
            scene = scene_blocks.align(scene, model, int(32 * zoom))
            row, column = scene_files.origin(scene)
            assert (row - scene.top, column - scene.left) == (place_row(corner[1]), place_column(corner[0]))
            assert zoom == 0.5 or (row % (8 * zoom), column % (8 * zoom)) == (0, 0)
            view = max(1, round(scene.height / zoom)), max(1, round(scene.width / zoom))
            with scene_files.reader(scene, set()) as read:
                pixels, valid = read((0, 0, *view), zoom)
                # What is read in pieces is the same.
                cut = rng.integers(0, view[0] + 1), rng.integers(0, view[1] + 1)
                for piece in (np.s_[: cut[0], : cut[1]], np.s_[cut[0] :, cut[1] :]):
                    rows, columns = (slice(*s.indices(n)) for s, n in zip(piece, view))
                    if rows.start < rows.stop and columns.start < columns.stop:
                        again, holds = read((rows.start, columns.start, rows.stop, columns.stop), zoom)
                        if zoom >= 1:  # larger pixels are mixed of neighbours, which the edge of a piece does not have
                            # Not those that reach beyond the last pixel of the file, and repeat what is before them.
                            ends = (int((scene.height) // zoom), int(scene.width // zoom))
                            full = np.s_[: max(0, ends[0] - rows.start), : max(0, ends[1] - columns.start)]
                            assert np.array_equal(holds[full], valid[piece][full])
                            assert np.array_equal(again[full][holds[full]], pixels[piece][full][holds[full]])
            assert pixels.shape == (*view, 3) and valid.shape == view
            pictures.append((row, column, pixels, valid))
        if zoom < 1:
            return
        (row, column, whole, holds), (row2, column2, some, some_holds) = pictures
        # Pixels of the part whose ground lies wholly in it.
        down, across = int((row2 - row) // zoom), int((column2 - column) // zoom)
        first = tuple(int(-(-n // zoom)) for n in (top + place_row(y0) - row2, left + place_column(x0) - column2))
        last = int((bottom + place_row(y0) - row2) // zoom), int((right + place_column(x0) - column2) // zoom)
        inner = np.s_[first[0] : last[0], first[1] : last[1]]
        outer = np.s_[first[0] + down : last[0] + down, first[1] + across : last[1] + across]
        assert np.array_equal(some_holds[inner], holds[outer])
        assert np.array_equal(some[inner][some_holds[inner]], whole[outer][holds[outer]])


def place_row(y0: float) -> int:
    return round(-y0 / 10)


def place_column(x0: float) -> int:
    return round(x0 / 10)
