"""From heat to shapes: thresholds, connected parts (also of a map too large to hold), boxes, polygons, and edges along the image's."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rsvlm.errors import DataError, need
from rsvlm.localization import pixels, smoothing

HOWS = ("fixed", "percentile", "otsu", "two")
"""Ways to put a threshold."""

OTSU_BINS = 256
PENDING_POINTS = 3_000_000
"""Corners of parts that `Regions` holds at most before it closes them."""


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
    known = np.isfinite(heat)
    if how not in HOWS:
        raise DataError(f"unknown threshold '{how}': choose one of {', '.join(HOWS)}")
    if how == "two":
        if high is None or not high >= value:
            raise DataError(f"two thresholds {value} and {high}: give value, and high at or above it")
        return np.where(known & (heat >= high), 1, np.where(known & (heat < value), 0, -1)).astype(np.int8)
    if how == "percentile":
        if not 0 <= value <= 100:
            raise DataError(f"percentile {value}: expected 0 to 100")
        value = np.percentile(heat[known], value) if known.any() else np.inf
    elif how == "otsu":
        value = otsu(heat)
    with np.errstate(invalid="ignore"):
        return known & (heat >= value)


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
    labels, count = pixels.label_components(_mask(mask), connectivity == 8)
    if min_px > 1 and count:
        kept = pixels.component_boxes(labels, count)[:, 4] >= min_px
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
    return pixels.component_boxes(labels, int(labels.max(initial=0)))[:, :4]


def polygons(labels: np.ndarray, transform: Sequence[float] | None = None) -> list[dict]:
    """Trace the outlines of parts along the edges of their pixels.

    Args:
        labels: (H, W) integers as from `components`.
        transform: `a b c d e f` of x = a · column + b · row + c and y = d · column + e · row + f, as in rasterio. If None, pixels.

    Returns:
        A GeoJSON feature for each part, in the order of their numbers, with the property `part`; holes are kept, and a part that
        hangs together at corners alone is a MultiPolygon.

    Raises:
        MissingExtraError: rasterio is not installed.
    """
    features, affine = need("rasterio.features", "data"), need("affine", "data")
    labels = np.ascontiguousarray(labels, np.int32)
    place = affine.Affine(*tuple(transform)[:6]) if transform is not None else affine.identity
    areas: dict[int, list] = {}
    for shape, number in features.shapes(labels, labels > 0, 4, place):
        areas.setdefault(int(number), []).append(shape["coordinates"])
    result = []
    for n, parts in sorted(areas.items()):
        kind, coordinates = ("Polygon", parts[0]) if len(parts) == 1 else ("MultiPolygon", parts)
        geometry = {"type": kind, "coordinates": coordinates}
        result.append({"type": "Feature", "properties": {"part": n}, "geometry": geometry})
    return result


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
        wanted = "expected an image of the map's size with three channels, a radius of 1 or more and eps above 0"
        raise DataError(f"map {heat.shape}, image {image.shape}, radius {radius}, eps {eps}: {wanted}")

    # Means over windows: of the colours, of the map, and of their products.
    there = np.isfinite(heat)
    nowhere = np.where(there, np.float32(0), np.float32(np.nan))  # scores: all weights are equal, of no data there is none
    offset = heat[there].mean() if there.any() else 0.0
    p = np.where(there, heat - offset, 0).astype(np.float32)
    guide = (image / np.float32(255) - np.float32(0.5)).astype(np.float32)
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    products = [guide[..., i] * guide[..., j] for i, j in pairs]
    stack = np.dstack([guide, p, guide * p[..., None], *products])
    mean = smoothing.smooth_pool(nowhere, stack, 2 * radius + 1).astype(np.float64)

    # In each window the line through them, and at each pixel the mean of the lines of its windows.
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
    line = smoothing.smooth_pool(np.where(known, np.float32(0), np.float32(np.nan)), line, 2 * radius + 1)
    return ((line[..., :3] * guide).sum(-1) + line[..., 3] + offset).astype(np.float32)


class Region(NamedTuple):
    """A connected part of a map: mean and highest value, row and column of the highest, size in cells, and shape (of shapely, in cells).

    `order` falls from one to the next: of two parts alike the earlier is the better one.
    """

    confidence: float
    order: int
    peak: float
    row: int
    column: int
    cells: int
    shape: object


class Regions:
    """Connected parts (by sides) of a map of any size, put together from blocks in reading order.

    Give every block of a row, by `add` or, where it holds no data, by `skip`; after each row `end_of_row`, in the end `close`. Parts that
    no further block can reach are closed, so what is held does not grow with the map.

    Attributes:
        count: Parts found; `cells` of the map inside; `highest` value; `cut` parts closed early, because `PENDING_POINTS` were held.
        best: The `most` parts of highest mean, as a heap of `Region`.
    """

    def __init__(self, columns: int, threshold: float, least: float, most: int):
        """Begin a map of so many columns: inside from `threshold` on; parts of fewer than `least` cells are left out."""
        self.threshold, self.least, self.most = threshold, least, most
        self.count = self.cells = self.cut = 0
        self.highest = 0.0
        self.best: list[Region] = []
        self._parent: dict[int, int] = {}
        self._open: dict[int, list] = {}  # by root: cells, sum, peak, its row, its column, shapes
        self._next, self._points, self._order = 1, 0, 0
        self._above, self._below = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
        self._left: np.ndarray | None = None

    def skip(self) -> None:
        """Pass over a block without data."""
        self._left = None

    def add(self, top: int, left: int, heat: np.ndarray) -> None:
        """Take the next block: (h, w) confidence, NaN where there is no data, at this row and column of cells."""
        from affine import Affine
        from rasterio.features import shapes
        from shapely.geometry import shape

        # The parts of the block, of which small ones are kept at its edges alone, where they may go on.
        with np.errstate(invalid="ignore"):
            mask = heat >= self.threshold
        self.highest = max(self.highest, float(np.nanmax(heat, initial=0.0)))
        self.cells += int(mask.sum())
        labels, count = pixels.label_components(mask, False)
        inside, values = labels[mask], heat[mask].astype(np.float64)
        sizes, sums = np.bincount(inside, minlength=count + 1), np.bincount(inside, values, minlength=count + 1)
        edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        keep = sizes >= self.least
        keep[edge] = True
        keep[0] = False

        # Their facts: in `order` the highest value of each part comes first.
        order = np.lexsort((-values, inside))
        first = order[np.searchsorted(inside[order], np.arange(1, count + 1))] if count else order
        rows, columns = np.nonzero(mask)
        offset = self._next - 1
        for label in np.flatnonzero(keep).tolist():
            at = first[label - 1]
            peak = [float(values[at]), top + int(rows[at]), left + int(columns[at])]
            self._parent[offset + label] = offset + label
            self._open[offset + label] = [int(sizes[label]), float(sums[label]), *peak, []]
        shown = keep[labels]
        moved = Affine.translation(left, top)
        for geometry, label in shapes(labels, mask=shown, connectivity=4, transform=moved) if shown.any() else ():
            self._open[offset + int(label)][5].append(shape(geometry))
            self._points += sum(map(len, geometry["coordinates"]))
        self._next += count

        # Joined to the parts on the left and above.
        ids = np.where(shown, labels.astype(np.int64) + offset, 0)
        if self._left is not None:
            self._join(self._left, ids[:, 0])
        self._join(self._above[left : left + heat.shape[1]], ids[0])
        self._left = ids[:, -1]
        self._below[left : left + heat.shape[1]] = ids[-1]

    def end_of_row(self) -> None:
        """Close what ends above the last row of cells; and all, cut there, where too much would be held."""
        reached = {self._root(part) for part in np.unique(self._below[self._below > 0]).tolist()}
        if self._points > PENDING_POINTS:
            self.cut += len(reached)
            reached, self._below[:] = set(), 0
        for root in [root for root in self._open if root not in reached]:
            self._finish(root)
        alive = np.unique(self._below[self._below > 0])
        roots = [self._root(part) for part in alive.tolist()]
        self._below[self._below > 0] = np.array(roots, np.int64)[np.searchsorted(alive, self._below[self._below > 0])]
        self._parent = {root: root for root in self._open}
        self._above, self._below = self._below, np.zeros_like(self._below)
        self._left = None

    def close(self) -> None:
        """Close all that is open."""
        for root in list(self._open):
            self._finish(root)

    def _join(self, one: np.ndarray, other: np.ndarray) -> None:
        both = (one > 0) & (other > 0)
        for a, b in {(self._root(a), self._root(b)) for a, b in zip(one[both].tolist(), other[both].tolist())}:
            a, b = self._root(a), self._root(b)
            if a == b:
                continue
            if len(self._open[a][5]) < len(self._open[b][5]):
                a, b = b, a
            self._parent[b] = a
            kept, gone = self._open[a], self._open.pop(b)
            kept[:2] = kept[0] + gone[0], kept[1] + gone[1]
            if gone[2] > kept[2]:
                kept[2:5] = gone[2:5]
            kept[5] += gone[5]

    def _root(self, part: int) -> int:
        while self._parent[part] != part:
            self._parent[part] = part = self._parent[self._parent[part]]
        return part

    def _finish(self, root: int) -> None:
        from shapely import union_all

        cells, total, peak, row, column, parts = self._open.pop(root)
        self._points -= sum(len(ring.coords) for part in parts for ring in (part.exterior, *part.interiors))
        if cells < self.least:
            return
        self.count += 1
        self._order += 1
        # Equal confidence: the earlier one stays.
        item = total / cells, -self._order, peak, row, column, cells
        if len(self.best) == self.most and item < self.best[0][:6]:
            return
        whole = parts[0] if len(parts) == 1 else union_all(parts).simplify(0)
        (heapq.heappush if len(self.best) < self.most else heapq.heappushpop)(self.best, Region(*item, whole))


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
