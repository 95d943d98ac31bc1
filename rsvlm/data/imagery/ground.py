"""What of the ground chips show: their outlines in longitude and latitude, and how much of their imagery lies under them.

A chip is square in its picture, but its edges run along the grid of its projection, and not along meridians and parallels: the
smallest box in degrees around it (`west south east north` of its table) reaches beyond it. What is inside a chip, or near it, is
asked of its outline.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rsvlm.data.imagery import chip_layout, tile_mosaics
from rsvlm.data.imagery.chip_layout import Source

_BOX = ["west", "south", "east", "north"]
_BENT_DEG = 0.1  # from this height on, edges are drawn with more points than their ends
_MOST_CELLS = 1_000_000


def outlines(sources: Sequence[Source], chips: pd.DataFrame) -> np.ndarray:
    """Return the outlines of chips in degrees.

    Args:
        sources: The sources that the chips are cut from.
        chips: N rows of a chip table.

    Returns:
        `(N, 4k, 2)`, longitude and latitude of points along the edges, clockwise from the upper left corner of the picture; the corners
        are at 0, k, 2k and 3k. Longitudes are those of `west` and `east`: they may exceed 180. A chip around a pole has its box.
    """
    boxes = chips[_BOX].to_numpy(np.float64)
    bent = len(boxes) and (boxes[:, 3] - boxes[:, 1]).max() > _BENT_DEG
    points = 16 if bent else 1
    result = box_rings(boxes, points)
    named = {source.name: source for source in sources}
    part = np.arange(points) / points
    across = np.concatenate([part, np.ones(points), 1 - part, np.zeros(points)])
    down = np.concatenate([np.zeros(points), part, np.ones(points), 1 - part])
    for name, rows in chips.groupby("source", sort=False).indices.items():
        for some in np.array_split(rows, len(rows) // 50_000 + 1):
            left, top, width, height = (
                chips[column].to_numpy(np.float64)[some, None] for column in ("left_px", "top_px", "width_px", "height_px")
            )
            lon, lat = chip_layout.to_lonlat(named[name])(left + width * across, top + height * down)
            # Into the turn in which the chip's box lies.
            middle = boxes[some, ::2].mean(axis=1, keepdims=True)
            with np.errstate(invalid="ignore"):
                lon = lon - 360.0 * np.round((lon - middle) / 360.0)
            rings = np.stack([lon, lat], axis=2)
            usable = np.isfinite(rings).all(axis=(1, 2)) & (boxes[some, 2] - boxes[some, 0] < 180)
            result[some[usable]] = rings[usable]
    return result


def box_rings(boxes: np.ndarray, points: int = 1) -> np.ndarray:
    """Return boxes `(N, 4)`, west, south, east, north, as outlines `(N, 4 * points, 2)` like those of `outlines`."""
    west, south, east, north = (boxes[:, [edge]] for edge in range(4))
    part = np.arange(points) / points
    up, right = (north - south) * part, (east - west) * part
    lon = np.concatenate([west + right, east + 0 * up, east - right, west + 0 * up], axis=1)
    lat = np.concatenate([north + 0 * right, north - up, south + 0 * right, south + up], axis=1)
    return np.stack([lon, lat], axis=2)


def covered(sources: Sequence[Source], chips: pd.DataFrame) -> tuple[float, list[float]]:
    """Return the share of the ground of all sources, in their own pixels, that lies under at least one chip, and that of each.

    Args:
        sources: All imagery.
        chips: Chip table of it.
    """
    parts = chips.groupby("source", sort=False).indices
    both = [measured(source, chips.iloc[parts.get(source.name, [])]) for source in sources]
    return sum(size * share for size, share in both) / max(sum(size for size, _ in both), 1), [share for _, share in both]


def measured(source: Source, chips: pd.DataFrame) -> tuple[int, float]:
    """Return how many pixels a source shows, and the share of them that lies under at least one of its chips."""
    tiles = tile_mosaics.present(source) if source.kind != "raster" else None
    pixels = source.width * source.height if tiles is None else len(tiles) * source.tile_px**2
    return pixels, _covered_share(source, chips, tiles)


def _covered_share(source: Source, chips: pd.DataFrame, tiles: np.ndarray | None) -> float:
    """Return the share of one source, to about a percent; `tiles` (M, 2) are those of a mosaic."""
    windows = chips[["left_px", "top_px", "width_px", "height_px"]].to_numpy(np.float64)
    if tiles is not None:
        if not len(tiles):
            return 0.0
        (left, top), (right, bottom) = tiles.min(0) * source.tile_px, (tiles.max(0) + 1) * source.tile_px
    else:
        left, top, right, bottom = 0, 0, source.width, source.height
    columns, rows = right - left, bottom - top
    # Pixels, or cells of more of them, or of parts: a chip covers those whose middles are under it.
    least = np.median(windows[:, 2:]) if len(windows) else 16.0
    cell = max(min(1.0, least / 16), (columns * rows / _MOST_CELLS) ** 0.5)
    if cell > least / 2 and tiles is not None:  # tiles far apart: their number has to do
        step = min(1.0, float(np.diff(np.unique(windows[:, 1])).min(initial=np.inf)) / max(least, 1e-9))
        return min(1.0, float((windows[:, 2] * windows[:, 3]).sum()) * step**2 / (len(tiles) * source.tile_px**2))
    wide, high = max(1, round(columns / cell)), max(1, round(rows / cell))
    x = (windows[:, [0]] + windows[:, [2]] * [0, 1] - left) / columns * wide
    y = (windows[:, [1]] + windows[:, [3]] * [0, 1] - top) / rows * high
    (x0, x1), (y0, y1) = (np.clip(np.ceil(v - 0.5), 0, n).astype(int).T for v, n in ((x, wide), (y, high)))
    under = np.zeros((high + 1, wide + 1), np.int32)
    for row, column, sign in ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1)):
        np.add.at(under, (row, column), sign)
    under = under.cumsum(0).cumsum(1)[:high, :wide] > 0
    if tiles is None:
        return float(under.mean())
    cx = ((np.arange(wide) + 0.5) / wide * columns + left) // source.tile_px
    cy = ((np.arange(high) + 0.5) / high * rows + top) // source.tile_px
    codes = chip_layout.tile_code(np.stack(np.meshgrid(cx, cy), axis=2).astype(np.int64))
    there = np.isin(codes, chip_layout.tile_code(tiles))
    return float(under[there].mean()) if there.any() else 0.0
