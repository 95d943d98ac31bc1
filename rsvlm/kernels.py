"""Every compiled loop of the package: arrays in, arrays out.

Each kernel has a NumPy twin in the tests. Sums run in a fixed order, so equal inputs give equal bits: two identical captions tie
exactly, whatever block of the work they fall into.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

GALLERY_BLOCK = 512  # columns scored at once: with E = 512 the block of the gallery (1 MB) stays in a core's L2 cache


@njit(cache=True, parallel=True)
def best_positive_ranks(queries, gallery_transposed, positive_start, positive_index):
    """Rank of each query's best positive in the gallery, without ever holding the (Nq, Ng) score matrix.

    A gallery item outranks the positive when its score is higher *or equal*: ties count against the query (pessimistic). Other
    positives of the same query never count.

    Args:
        queries: (Nq, E) float32.
        gallery_transposed: (E, Ng) float32, C-contiguous: scores are built as E rank-one updates over a row of gallery items,
            which vectorises and keeps the order of the additions the same for every item.
        positive_start: (Nq + 1,) int64; the positives of query i are `positive_index[positive_start[i]:positive_start[i + 1]]`.
        positive_index: (S,) int64, columns of the gallery.

    Returns:
        ranks: (Nq,) int64, 1 is best, 0 where the query has no positive.
        not_finite: (Nq,) int64, how many of the query's scores are NaN or infinite; the ranks mean nothing unless this is 0.
    """
    count, width = queries.shape
    size = gallery_transposed.shape[1]
    ranks = np.zeros(count, np.int64)
    not_finite = np.zeros(count, np.int64)
    for i in prange(count):
        first, last = positive_start[i], positive_start[i + 1]
        scores = np.empty(GALLERY_BLOCK, np.float32)
        best = np.float32(-np.inf)
        for p in range(first, last):
            column = positive_index[p]
            score = np.float32(0.0)
            for e in range(width):
                score += queries[i, e] * gallery_transposed[e, column]
            best = max(best, score)
        above = 0
        bad = 0
        for start in range(0, size, GALLERY_BLOCK):
            stop = min(start + GALLERY_BLOCK, size)
            block = scores[: stop - start]
            block[:] = 0.0
            for e in range(width):
                weight = queries[i, e]
                row = gallery_transposed[e, start:stop]
                for j in range(stop - start):
                    block[j] += weight * row[j]
            for j in range(stop - start):
                above += block[j] >= best
                bad += not np.isfinite(block[j])
        for p in range(first, last):  # take the query's own positives out again
            column = positive_index[p]
            score = np.float32(0.0)
            for e in range(width):
                score += queries[i, e] * gallery_transposed[e, column]
            above -= score >= best
        not_finite[i] = bad
        ranks[i] = above + 1 if last > first else 0
    return ranks, not_finite
