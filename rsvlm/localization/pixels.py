"""Inner loops over pixels: outlines filled, connected parts and their boxes, overlaps counted."""

from __future__ import annotations

import numpy as np
from numba import njit

from rsvlm.data.near_hashes import find_root


@njit(cache=True, nogil=True)
def fill_rings(points, ring_start, mask):
    """Set the pixels of a mask whose centre lies inside rings, by the even-odd rule: rings inside rings are holes.

    Args:
        points: (n, 2) float64, x and y in pixels; pixel (row r, column c) reaches from (c, r) to (c + 1, r + 1). Finite.
        ring_start: (R + 1,) int64, where each ring begins in `points`, and the end; rings are closed by themselves.
        mask: (H, W) bool; other pixels stay as they are.
    """
    H, W = mask.shape
    if not len(points):
        return
    crossings = np.empty(len(points))
    first = max(0, int(np.ceil(max(points[:, 1].min(), 0.0) - 0.5)))
    last = min(H, int(np.ceil(min(points[:, 1].max(), float(H)) - 0.5)))
    for row in range(first, last):
        y, n = row + 0.5, 0
        for ring in range(len(ring_start) - 1):
            start, stop = ring_start[ring], ring_start[ring + 1]
            for i in range(start, stop):
                j = i + 1 if i + 1 < stop else start
                if (points[i, 1] <= y) != (points[j, 1] <= y):
                    part = (y - points[i, 1]) / (points[j, 1] - points[i, 1])
                    crossings[n] = points[i, 0] + part * (points[j, 0] - points[i, 0])
                    n += 1
        ends = np.sort(crossings[:n])
        for k in range(0, n - 1, 2):
            left = int(np.ceil(min(max(ends[k], 0.0), float(W)) - 0.5))
            right = int(np.ceil(min(max(ends[k + 1], 0.0), float(W)) - 0.5))
            mask[row, left:right] = True


@njit(cache=True, nogil=True)
def label_components(mask, eight):
    """Number the connected parts of a mask, in the order in which their first pixels are read.

    Args:
        mask: (H, W) bool.
        eight: Pixels that touch at a corner are connected too.

    Returns:
        (H, W) int32, 0 outside the mask, parts from 1 on; and their number.
    """
    H, W = mask.shape
    labels = np.zeros((H, W), np.int32)
    parent = np.zeros((H * W + 1) // 2 + 2, np.int32)
    count = 0
    for y in range(H):
        for x in range(W):
            if not mask[y, x]:
                continue
            least = 0
            for k in range(4 if eight else 2):  # left, above, above left, above right
                j, i = (y, x - 1) if k == 0 else (y - 1, x if k == 1 else x - 1 if k == 2 else x + 1)
                if j < 0 or i < 0 or i >= W or labels[j, i] == 0:
                    continue
                root = find_root(parent, labels[j, i])
                if least == 0 or root == least:
                    least = root
                else:
                    a, b = min(least, root), max(least, root)
                    parent[b] = a
                    least = a
            if least == 0:
                count += 1
                parent[count] = count
                least = count
            labels[y, x] = least
    number = np.zeros(count + 1, np.int32)
    parts = 0
    for label in range(1, count + 1):  # a root is the lowest label of its part, so it comes first
        root = find_root(parent, label)
        if root == label:
            parts += 1
            number[label] = parts
        else:
            number[label] = number[root]
    for y in range(H):
        for x in range(W):
            labels[y, x] = number[labels[y, x]]
    return labels, parts


@njit(cache=True, nogil=True)
def component_boxes(labels, count):
    """Measure numbered parts.

    Args:
        labels: (H, W) int32, 0 to `count`.
        count: Number of parts.

    Returns:
        (count, 5) int64: left, top, right, bottom in pixels, the last two exclusive, and the number of pixels; zeros for a number
        that no pixel has.
    """
    H, W = labels.shape
    boxes = np.zeros((count, 5), np.int64)
    for y in range(H):
        for x in range(W):
            if labels[y, x] > 0:
                one = boxes[labels[y, x] - 1]
                if one[4] == 0:
                    one[0], one[1] = x, y
                one[0], one[2], one[3] = min(one[0], x), max(one[2], x + 1), y + 1
                one[4] += 1
    return boxes


@njit(cache=True, nogil=True)
def heat_counts(heat, mask, low, high, bins):
    """Count the values of a (H, W) map outside and inside a mask: (2, bins) int64, as `label_counts`, and faster for one map."""
    counts = np.zeros((2, bins), np.int64)
    scale = bins / (high - low) if high > low else 0.0
    for y in range(heat.shape[0]):
        for x in range(heat.shape[1]):
            value = np.float64(heat[y, x])
            if np.isfinite(value):
                place = int(min(max((value - low) * scale, 0.0), bins - 1.0))
                counts[1 if mask[y, x] else 0, place] += 1
    return counts


@njit(cache=True, nogil=True)
def label_counts(maps, masks, low, high, bins):
    """Count pixels by the map that is highest there, by its value, and by whether the mask of that map holds them.

    Args:
        maps: (C, H, W) float32. Pixels where no map is finite are not counted; of equal maps the first wins.
        masks: (C, H, W) bool; they may overlap.
        low: Start of bin 0; values below are in it.
        high: End of the last bin, in which values above are; where it is not above `low`, everything is in bin 0.
        bins: Number of bins, all of one width.

    Returns:
        (C + 1, bins, 2) int64: by highest map and bin all pixels, and those in that map's mask; the last plane: all pixels, and
        those in no mask. And (C,) int64 pixels of each mask.
    """
    C, H, W = maps.shape
    counts = np.zeros((C + 1, bins, 2), np.int64)
    truth = np.zeros(C, np.int64)
    scale = bins / (high - low) if high > low else 0.0
    for y in range(H):
        for x in range(W):
            best, value, free = -1, -np.inf, 1
            for c in range(C):
                if np.isfinite(maps[c, y, x]) and maps[c, y, x] > value:
                    best, value = c, np.float64(maps[c, y, x])
                if masks[c, y, x]:
                    free = 0
            if best < 0:
                continue
            for c in range(C):
                truth[c] += masks[c, y, x]
            place = int(min(max((value - low) * scale, 0.0), bins - 1.0))
            counts[best, place, 0] += 1
            counts[best, place, 1] += masks[best, y, x]
            counts[C, place, 0] += 1
            counts[C, place, 1] += free
    return counts, truth


@njit(cache=True, nogil=True)
def match_boxes(boxes, truth, least_iou):
    """Give each box, in order, the true box that it overlaps most, if none before has it.

    Args:
        boxes: (n, 4) float64, left, top, right, bottom; best first.
        truth: (m, 4) float64.
        least_iou: Smallest intersection over union that counts.

    Returns:
        (n,) bool: matched.
    """
    matched, taken = np.zeros(len(boxes), np.bool_), np.zeros(len(truth), np.bool_)
    for i in range(len(boxes)):
        best, most = -1, least_iou
        for j in range(len(truth)):
            width = min(boxes[i, 2], truth[j, 2]) - max(boxes[i, 0], truth[j, 0])
            height = min(boxes[i, 3], truth[j, 3]) - max(boxes[i, 1], truth[j, 1])
            if taken[j] or width <= 0 or height <= 0:
                continue
            both = width * height
            area = (boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1])
            iou = both / (area + (truth[j, 2] - truth[j, 0]) * (truth[j, 3] - truth[j, 1]) - both)
            if iou >= most and (best < 0 or iou > most):
                best, most = j, iou
        if best >= 0:
            matched[i], taken[best] = True, True
    return matched
