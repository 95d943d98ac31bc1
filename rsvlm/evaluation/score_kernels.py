"""The inner loops of `counting`: exact scores, and how many lie above a threshold.

Each has a NumPy twin in the tests. Equal inputs give equal bits, whatever block of the work they fall into.
"""

from __future__ import annotations

import numpy as np
from numba import njit

STRIP = 64  # scores counted before looking whether some were too close to call
ROWS = 64  # rows of a column counted likewise


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def exact_scores(images, texts, rows, columns):
    """Dot products of some pairs, in float64.

    The product of two float32 is exact in float64. The one loop is compiled once and knows nothing of where a vector lies, so
    equal vectors give equal bits: identical captions tie exactly, whatever block of the work they fall into.

    Args:
        images: (N, E) float32, C-contiguous.
        texts: (M, E) float32, C-contiguous.
        rows: (S,) int64 rows of `images`.
        columns: (S,) int64 rows of `texts`.

    Returns:
        (S,) float64.
    """
    scores = np.empty(rows.shape[0], np.float64)
    for s in range(rows.shape[0]):
        image, text = images[rows[s]], texts[columns[s]]
        total = 0.0
        for e in range(image.shape[0]):
            total += np.float64(image[e]) * np.float64(text[e])
        scores[s] = total
    return scores


@njit(cache=True, nogil=True)
def count_rows(scores, row, low, high, above):
    """Count, for each of S thresholds, the scores of its row that are above it for certain, and list those too close to call.

    Args:
        scores: (R, C) float32, C-contiguous, each within a known error of the truth.
        row: (S,) int64, the row of each threshold.
        low: (S,) float32: a score below is truly below the threshold.
        high: (S,) float32: a score above is truly above it.
        above: (S,) int32: the count of scores above `high` is added to it.

    Returns:
        (n, 3) int64: row, column and threshold of every score from `low` to `high`, both included.
    """
    near = np.empty((64, 3), np.int64)
    n = 0
    for s in range(row.shape[0]):
        line, least, most = scores[row[s]], low[s], high[s]
        for start in range(0, line.shape[0], STRIP):
            part = line[start : start + STRIP]
            over, reached = 0, 0
            for j in range(part.shape[0]):
                over += part[j] > most
                reached += part[j] >= least
            above[s] += over
            j = 0
            while reached > over:  # that many are left to find
                if least <= part[j] <= most:
                    if n == near.shape[0]:
                        near = _twice(near)
                    near[n, 0], near[n, 1], near[n, 2] = row[s], start + j, s
                    n += 1
                    reached -= 1
                j += 1
    return near[:n]


@njit(cache=True, nogil=True)
def count_columns(scores, column, low, high, above):
    """As `count_rows`, with thresholds of columns; fastest where every column has exactly one, in order."""
    count = column.shape[0]
    dense = count == scores.shape[1]
    for s in range(count):
        dense = dense and column[s] == s
    near = np.empty((64, 3), np.int64)
    n = 0
    over, reached = np.empty(count, np.int32), np.empty(count, np.int32)
    for start in range(0, scores.shape[0], ROWS):
        stop = min(start + ROWS, scores.shape[0])
        over[:] = 0
        reached[:] = 0
        for i in range(start, stop):
            line = scores[i]
            if dense:  # the same without a look-up, which would keep the loop from being vectorised
                for s in range(count):
                    over[s] += line[s] > high[s]
                    reached[s] += line[s] >= low[s]
            else:
                for s in range(count):
                    over[s] += line[column[s]] > high[s]
                    reached[s] += line[column[s]] >= low[s]
        for s in range(count):
            above[s] += over[s]
            i = start
            while reached[s] > over[s]:
                if low[s] <= scores[i, column[s]] <= high[s]:
                    if n == near.shape[0]:
                        near = _twice(near)
                    near[n, 0], near[n, 1], near[n, 2] = i, column[s], s
                    n += 1
                    reached[s] -= 1
                i += 1
    return near[:n]


@njit(cache=True, nogil=True)
def _twice(rows):
    larger = np.empty((2 * rows.shape[0], rows.shape[1]), rows.dtype)
    larger[: rows.shape[0]] = rows
    return larger
