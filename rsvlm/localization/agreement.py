"""How well a map agrees with a mask, in one image: where its maximum lies, how much of it is inside, overlaps at every threshold."""

from __future__ import annotations

import numpy as np

from rsvlm.errors import DataError
from rsvlm.localization import pixels, shapes, smoothing, true_masks

BINS = 100
"""Thresholds that are tried: k / BINS of a map's range."""

MOST_BOXES = 100
"""Boxes of a class in an image that count, the best ones, as in COCO's own evaluation; noise would have thousands."""


def pointing(heat: np.ndarray, mask: np.ndarray, tolerance_px: int = 0) -> float:
    """Return 1 where the maximum of a map lies in the mask, else 0; of several equal maxima the share that does.

    Args:
        heat: (H, W); what is not finite cannot be the maximum.
        mask: (H, W) bool.
        tolerance_px: A maximum within a square of this radius around a pixel of the mask counts too.

    Source: Zhang et al. 2016 (arXiv 1608.00507), section 4.1, without its 15 pixels of tolerance.
    """
    known = np.isfinite(heat)
    if not known.any():
        return 0.0
    if tolerance_px:
        mask = smoothing.smooth_pool(np.zeros(mask.shape, np.float32), mask.astype(np.float32), 2 * tolerance_px + 1) > 0
    return float(mask[known & (heat == heat[known].max())].mean())


def energy(heat: np.ndarray, mask: np.ndarray) -> float:
    """Return the share of a map's sum that lies in the mask, once its minimum is taken off; NaN where nothing is left.

    Source: Wang et al. 2020 (Score-CAM, arXiv 1910.01279), section 4.3, which has no negative values to begin with.
    """
    known = np.isfinite(heat)
    if not known.any():
        return np.nan
    values = np.where(known, heat, 0).astype(np.float64) - heat[known].min()
    values[~known] = 0
    total = values.sum()
    return float(values[mask].sum() / total) if total > 0 else np.nan


def iou_curve(heat: np.ndarray, mask: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """Return the IoU of the mask and {heat at or above low + k / BINS · (high - low)} for k from 0 to BINS - 1.

    Args:
        heat: (H, W) numbers; pixels that are not finite are left out.
        mask: (H, W) bool.
        value_range: low and high. If None, the map's own.

    Returns:
        (BINS,) float64; NaN where neither mask nor map has a pixel.

    Raises:
        DataError: Shapes that differ.
    """
    heat, mask = np.ascontiguousarray(heat, np.float32), np.ascontiguousarray(mask, bool)
    if heat.ndim != 2 or heat.shape != mask.shape:
        raise DataError(f"a map of shape {heat.shape} and a mask of shape {mask.shape}: expected (H, W) of both")
    low, high = value_range or np.nan_to_num(ends(np.where(np.isfinite(heat), heat, np.nan)[None])[:, 0])
    counts = pixels.heat_counts(heat, mask, low, high, BINS)
    outside, inside = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return inside / (counts[1].sum() + outside)


def ends(maps: np.ndarray) -> np.ndarray:
    """Lowest and highest value of each map (C, H, W), whose unknown pixels are NaN: (2, C) float64, NaN where nothing is known."""
    flat = maps.reshape(len(maps), -1)
    return np.array([np.fmin.reduce(flat, axis=1), np.fmax.reduce(flat, axis=1)], np.float64)


def cells(maps: np.ndarray, truth: np.ndarray, low: float, high: float) -> np.ndarray:
    """Count pixels that are said to be of each class, are so truly, and both: (thresholds, C + 1, 3), the background last.

    If the background has a map, there is one threshold alone, which nothing is below.
    """
    C = len(truth)
    with_map = len(maps) == C + 1
    full = np.concatenate([truth, ~truth.any(0)[None]]) if with_map else truth
    counts, true = pixels.label_counts(maps, full, low, high, BINS)
    if with_map:
        return np.stack([counts[: C + 1, :, 0].sum(1), true, counts[: C + 1, :, 1].sum(1)], -1)[None]
    above = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]  # (C + 1, BINS, 2) from each threshold on
    everything, free = counts[C].sum(0)
    predicted = [*above[:C, :, 0], everything - above[C, :, 0]]
    both = [*above[:C, :, 1], free - above[C, :, 1]]
    true = np.repeat([*true, free], BINS).reshape(C + 1, BINS)
    return np.stack([predicted, true, both], -1).swapaxes(0, 1)


def best_boxes(
    heat: np.ndarray,
    truth: np.ndarray,
    low: float,
    high: float,
    threshold: float = 0.5,
    min_px: int = 1,
    unknown: np.ndarray | None = None,
) -> np.ndarray:
    """Draw boxes around the parts of a map from a threshold on, and say which are right: those with an IoU of 0.5 with a true box.

    Args:
        heat: (H, W) float32.
        truth: (m, 4) float64 true boxes: left, top, right, bottom in pixels.
        low: Start of the map's range.
        high: End of the map's range.
        threshold: Where in this range the threshold is, 0 to 1.
        min_px: Parts of fewer pixels become no box.
        unknown: (H, W) bool, where nothing is known. What is mostly there is neither right nor wrong, as true boxes there are none.
            If None, all is known.

    Returns:
        (n, 2) float64 of the `MOST_BOXES` best, best first: highest value inside, and whether it is right.
    """
    if not high > low:
        return np.zeros((0, 2))
    labels = shapes.components(heat >= low + threshold * (high - low), min_px)
    parts = shapes.boxes(labels).astype(np.float64)
    peaks = np.full(len(parts), -np.inf)
    flat = labels.ravel()  # by runs of equal labels, of which there are few
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    run, most = flat[starts], np.maximum.reduceat(heat.ravel(), starts)
    np.maximum.at(peaks, run[run > 0] - 1, most[run > 0])
    order = np.argsort(-peaks, kind="stable")[:MOST_BOXES]
    right = pixels.match_boxes(parts[order], truth, 0.5)
    counts = slice(None) if unknown is None else right | true_masks.mostly_known(parts[order], unknown)
    return np.column_stack([peaks[order], right])[counts]
