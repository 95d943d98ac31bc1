"""Grids of any kind: turned, slanted, of oblong pixels, in degrees, over the 180th meridian, near a pole; each pixel of a chip shows its place.

Colours are functions of the place, so that what a pixel should show is known without reading the file as the package does.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import strategies as st
from test_rasters import outlines_hold, touched

from rsvlm import config
from rsvlm.data.imagery import ground, sources as imagery
from rsvlm.errors import DataError

rasterio = pytest.importorskip("rasterio")
from affine import Affine  # noqa: E402
from rasterio import warp  # noqa: E402
from rasterio.control import GroundControlPoint  # noqa: E402

GRIDS = {
    "EPSG:4326": [(-9.2, 38.7, 1e-4), (179.997, -17, 1e-4), (-180.005, 65, 2e-4), (359.99, 71, 1e-4), (20, -80, 5e-4)],
    "EPSG:32601": [(300_000, 6_000_000, 10), (201_000, 100_000, 30)],
    "EPSG:3035": [(2_700_000, 1_900_000, 10), (6_400_000, 4_900_000, 100)],
    "EPSG:3031": [(2_000_000, 300_000, 100), (-20_000, 20_500, 300)],
    "EPSG:3413": [(-1_500, 1_800, 40)],
    "EPSG:3857": [(-8_000_000, 9_500_000, 5), (20_037_000, 1_000_000, 10)],
    "EPSG:5041": [(2_100_000, 2_050_000, 50)],
    "EPSG:2193": [(1_570_000, 5_180_000, 0.1)],
    "EPSG:4258": [(24, 60, 2e-5)],
    "EPSG:2180": [(500_000, 500_000, 1)],
}
"""Coordinate systems with corners and sizes of pixels."""

TURNS = {"EPSG:4326": 360, "EPSG:4258": 360, "EPSG:3857": 40_075_016.68557849}


@st.composite
def grids(draw) -> tuple[str, Affine]:
    crs = draw(st.sampled_from(list(GRIDS)))
    x, y, pixel = draw(st.sampled_from(GRIDS[crs]))
    oblong = draw(st.sampled_from([1, 1, 1, 1.005, 1.3, 2, 0.6]))
    angle, slant = draw(st.sampled_from([0, 0, 12.5, 45, 90, 135, 180, 200, 270, 359])), draw(st.sampled_from([0, 0, 0, 8]))
    down = draw(st.sampled_from([-1, -1, 1]))
    return crs, Affine.translation(x, y) @ Affine.rotation(angle) @ Affine.shear(slant) @ Affine.scale(
        pixel * oblong, down * pixel
    )


def ramp(grid: Affine, width: int, height: int, x, y) -> np.ndarray:
    """Colours at places of the raster's coordinate system, and none where the raster has none: (..., 3), 40 to 240."""
    column, row = ~grid @ (x, y)
    return np.stack([40 + 200 * column / width, 40 + 200 * row / height, 100 + 0 * row], axis=-1)


@fuzz(
    drawn=grids(), width=st.integers(20, 120), height=st.integers(20, 120), size=st.integers(16, 32), points=st.booleans(),
    scale=st.sampled_from([None, None, 0.7, 1, 1.5, 2.5]), kind=st.sampled_from(["uint8", "float32"]), edges=st.booleans(),
    gone=st.sampled_from(["", "nodata", "msk"]),
)  # fmt: skip
def test_each_pixel_shows_its_place(drawn, width, height, size, points, scale, kind, edges, gone):
    (crs, grid), options = drawn, {}
    pixel = abs(grid.determinant) ** 0.5
    metres = pixel if pixel > 0.05 else pixel * 111_000
    if scale:
        options["size_m"] = metres * scale * size
    if kind == "float32":
        options["limits"] = (0, 255)
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    colours = ramp(grid, width, height, *(grid @ (column, row)))
    values = (np.round(colours) if kind == "uint8" else colours).astype(kind).transpose(2, 0, 1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, "ramp.tif")
        profile = {"count": 3, "width": width, "height": height, "dtype": kind, "photometric": "RGB"}
        profile |= {"nodata": 0} if gone == "nodata" else {}
        with rasterio.open(path, "w", driver="GTiff", **profile) as file:
            if points:
                places = [(0, 0), (height, 0), (0, width), (height, width), (height / 3, width / 2)]
                file.gcps = (
                    [GroundControlPoint(r, c, *(grid @ (c, r)), 0) for r, c in places],
                    rasterio.crs.CRS.from_string(crs),
                )
            else:
                file.crs, file.transform = crs, grid
            file.write(values)
            if gone == "msk":
                file.write_mask(np.ones((height, width), bool))
        chips = config.Chips(size_px=size, min_valid_share=0, cover_edges=edges, nodata="file", **options)
        (source,) = imagery.open_imagery(str(path), chips)
        try:
            table, _ = imagery.lay_out([source], chips)
        except DataError as error:
            assert not edges and "smaller than one chip" in str(error)
            return
        outlines_hold(source, table)
        if edges:
            assert touched(source, table).all()
        k = ground.outlines([source], table).shape[1] // 4
        rings = ground.outlines([source], table)[:, ::k]
        part = (np.arange(size) + 0.5) / size
        across, down = np.meshgrid(part, part)
        round_pole = (table["east"] - table["west"] >= 180).tolist()
        for ring, chip, (pixels, reason), of_box in zip(
            rings, table.itertuples(), imagery.read(source, table), round_pole, strict=True
        ):
            if of_box:
                continue
            corners = np.array(warp.transform("EPSG:4326", crs, *ring.T)).T
            if turn := TURNS.get(crs):  # into the one in which the raster lies
                middle = (grid @ (width / 2, height / 2))[0]
                corners[:, 0] += turn * np.round((middle - corners[:, 0]) / turn)
            weights = np.stack([(1 - across) * (1 - down), across * (1 - down), across * down, (1 - across) * down], -1)
            x, y = np.moveaxis(weights @ corners, -1, 0)
            column, row = ~grid @ (x, y)
            # One pixel, of those that are coarser, may be missing or mixed at the edge.
            room = 1.5 + max(chip.width_px, chip.height_px) / size
            inside = (column > room) & (row > room) & (column < width - room) & (row < height - room)
            outside = (column < -room) | (row < -room) | (column > width + room) | (row > height + room)
            if pixels is None:
                assert reason in ("all nodata", "too little data") and not inside.any()
                continue
            expected = ramp(grid, width, height, x, y)
            slack = 2 + 200 / min(width, height) * (0.6 + 0.55 * max(chip.width_px, chip.height_px) / size)
            assert np.abs(pixels - expected)[inside].max(initial=0) <= slack
            assert not pixels[outside].any()
