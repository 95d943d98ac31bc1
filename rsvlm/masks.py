"""From heat to shapes: thresholds, connected parts, boxes, polygons, and edges drawn along those of the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsvlm import kernels
from rsvlm.errors import DataError, MissingExtraError

HOWS = ("fixed", "percentile", "otsu", "two")
"""Ways to put a threshold."""

OTSU_BINS = 256


def threshold(heat: np.ndarray, how: str = "fixed", value: float = 0.5, high: float | None = None) -> np.ndarray:
    """Split a map into inside and outside.

    `fixed`: inside from `value` on. `percentile`: inside from the `value`-th percentile (0 to 100) of the map on. `otsu`: inside
    from the value on that separates two groups best; of a map that is the same everywhere nothing is inside. `two`: inside from
    `high` on, outside below `value`, and between them neither, for whoever wants to learn from the sure pixels alone.

    Args:
        heat: (H, W) numbers of any range; NaN and infinite mean that there is no data, which is never inside.
        how: One of `HOWS`.
        value: See above; otsu takes none.
        high: Of `two` alone.

    Returns:
        (H, W) bool; of `two` int8: 1 inside, 0 outside, -1 neither and where there is no data.

    Raises:
        DataError: An unknown way, a percentile out of range, or `high` below `value`.

    Source: Otsu 1979 (doi:10.1109/TSMC.1979.4310076).
    """
    heat = _map(heat)
    there = np.isfinite(heat)
    if how not in HOWS:
        raise DataError(f"unknown threshold '{how}': choose one of {', '.join(HOWS)}")
    if how == "two":
        if high is None or not high >= value:
            raise DataError(f"two thresholds {value} and {high}: give value, and high at or above it")
        return np.where(there & (heat >= high), 1, np.where(there & (heat < value), 0, -1)).astype(np.int8)
    if how == "percentile" and not 0 <= value <= 100:
        raise DataError(f"percentile {value}: expected 0 to 100")
    if how == "percentile":
        value = np.percentile(heat[there], value) if there.any() else np.inf
    if how == "otsu":
        value = otsu(heat)
    with np.errstate(invalid="ignore"):
        return there & (heat >= value)


def otsu(heat: np.ndarray) -> float:
    """Return the threshold with the largest variance between the groups below and from it on; infinite where all is one value.

    Args:
        heat: (H, W); what is not finite is left out.
    """
    heat = _map(heat)
    values = heat[np.isfinite(heat)].astype(np.float64)
    if not values.size or values.min() == values.max():
        return np.inf
    counts, edges = np.histogram(values, OTSU_BINS)
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above, sums = values.size - below, np.cumsum(counts * middle)
    difference = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below * above.astype(float) * difference**2
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))  # a gap between the groups: its middle
    return float((edges[1 + best[0]] + edges[1 + best[-1]]) / 2)


def components(mask: np.ndarray, min_px: int = 1, connectivity: int = 8) -> np.ndarray:
    """Number the connected parts of a mask, in the order in which their first pixels are read.

    Args:
        mask: (H, W) bool; of numbers, those above 0 are inside.
        min_px: Parts of fewer pixels are left out.
        connectivity: 4, or 8 where pixels that touch at a corner are connected.

    Returns:
        (H, W) int32: 0 outside, parts from 1 on.
    """
    if connectivity not in (4, 8) or min_px < 1:
        raise DataError(f"connectivity {connectivity}, at least {min_px} pixels: expected 4 or 8, and 1 or more")
    labels, count = kernels.label_components(_mask(mask), connectivity == 8)
    if min_px > 1 and count:
        kept = kernels.component_boxes(labels, count)[:, 4] >= min_px
        labels = np.concatenate([[0], np.where(kept, np.cumsum(kept), 0)]).astype(np.int32)[labels]
    return labels


def boxes(labels: np.ndarray) -> np.ndarray:
    """Return the box around each part.

    Args:
        labels: (H, W) integers as from `components`.

    Returns:
        (n, 4) int64: left, top, right, bottom in pixels, the last two exclusive.
    """
    labels = np.ascontiguousarray(labels, np.int32)
    return kernels.component_boxes(labels, int(labels.max(initial=0)))[:, :4]


def polygons(labels: np.ndarray, transform: Sequence[float] | None = None) -> list[dict]:
    """Trace the outlines of parts along the edges of their pixels.

    Args:
        labels: (H, W) integers as from `components`.
        transform: `a b c d e f` of x = a · column + b · row + c and y = d · column + e · row + f, as in rasterio; none: pixels.

    Returns:
        A GeoJSON feature for each part, in the order of their numbers, with the property `part`; holes are kept, and a part that
        hangs together at corners alone is a MultiPolygon.

    Raises:
        MissingExtraError: rasterio is not installed.
    """
    try:
        from rasterio import features
        from rasterio.transform import Affine
    except ImportError:
        raise MissingExtraError('the package rasterio is not installed: pip install "rsvlm[data]"') from None
    labels = np.ascontiguousarray(labels, np.int32)
    place = Affine(*tuple(transform)[:6]) if transform is not None else Affine.identity()
    found: dict[int, list] = {}
    for shape, number in features.shapes(labels, labels > 0, 4, place):
        found.setdefault(int(number), []).append(shape["coordinates"])
    return [{"type": "Feature", "properties": {"part": n}, "geometry": _geometry(found[n])} for n in sorted(found)]


def refine(heat: np.ndarray, image: np.ndarray, radius: int = 8, eps: float = 1e-3) -> np.ndarray:
    """Move the edges of a map to those of the image: in each window the map becomes a linear function of the colours.

    Args:
        heat: (H, W) float; NaN where there is no data, and it stays so where a window holds none.
        image: (H, W, 3) uint8.
        radius: Windows are 2 · radius + 1 pixels wide.
        eps: Smallest variance of colour (in units of the whole range) that counts as an edge; a larger one smooths more.

    Returns:
        (H, W) float32; it may reach a little beyond the range of `heat`.

    Raises:
        DataError: Sizes that differ, or a radius or eps that is not above 0.

    Source: He, Sun and Tang 2013, guided image filtering (doi:10.1109/TPAMI.2012.213), equations 14 to 16.
    """
    heat = _map(heat)
    image = np.asarray(image)
    if image.shape != (*heat.shape, 3) or radius < 1 or not eps > 0:
        raise DataError(
            f"map {heat.shape}, image {image.shape}, radius {radius}, eps {eps}: expected an image of the map's size with three "
            "channels, a radius of 1 or more and eps above 0"
        )
    there = np.isfinite(heat)
    nowhere = np.where(there, np.float32(0), np.float32(np.nan))  # scores: all weights are equal, of no data there is none
    offset = heat[there].mean() if there.any() else 0.0
    p = np.where(there, heat - offset, 0).astype(np.float32)
    guide = (image / np.float32(255) - np.float32(0.5)).astype(np.float32)
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    products = [guide[..., i] * guide[..., j] for i, j in pairs]
    stack = np.dstack([guide, p, guide * p[..., None], *products])
    mean = kernels.smooth_pool(nowhere, stack, 2 * radius + 1).astype(np.float64)
    colour, value = mean[..., :3], mean[..., 3]
    together = mean[..., 4:7] - colour * value[..., None]
    spread = np.empty((*heat.shape, 3, 3))
    for k, (i, j) in enumerate(pairs):
        spread[..., i, j] = spread[..., j, i] = mean[..., 7 + k] - colour[..., i] * colour[..., j]
    spread += eps * np.eye(3)
    known = np.isfinite(value)
    slope = np.zeros((*heat.shape, 3))
    slope[known] = np.linalg.solve(spread[known], together[known][..., None])[..., 0]
    line = np.dstack([slope, np.where(known, value - (slope * colour).sum(-1), 0)]).astype(np.float32)
    line = kernels.smooth_pool(np.where(known, np.float32(0), np.float32(np.nan)), line, 2 * radius + 1)
    return ((line[..., :3] * guide).sum(-1) + line[..., 3] + offset).astype(np.float32)


def _geometry(parts: list) -> dict:
    return {"type": "Polygon", "coordinates": parts[0]} if len(parts) == 1 else {"type": "MultiPolygon", "coordinates": parts}


def _map(heat: np.ndarray) -> np.ndarray:
    heat = np.asarray(heat)
    if heat.ndim != 2 or not heat.size or heat.dtype.kind not in "fiub":
        raise DataError(f"a map of {heat.dtype} with shape {heat.shape}: expected numbers of shape (H, W)")
    return heat.astype(np.float32, copy=False) if heat.dtype != np.float64 else heat


def _mask(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or not mask.size:
        raise DataError(f"a mask of shape {mask.shape}: expected (H, W)")
    return np.ascontiguousarray(mask if mask.dtype == bool else mask > 0)
