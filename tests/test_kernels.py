"""Each kernel against its NumPy twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvlm import kernels


def numpy_best_positive_ranks(queries, gallery, positives):
    """The full matrix, one query at a time; scores in float64 over exactly representable inputs, so ties are ties."""
    scores = queries.astype(np.float64) @ gallery.astype(np.float64).T
    ranks = []
    for row, own in zip(scores, positives, strict=True):
        if not len(own):
            ranks.append(0)
            continue
        others = np.ones(len(row), bool)
        others[own] = False
        ranks.append(1 + int((row[others] >= row[own].max()).sum()))
    return np.array(ranks)


def csr(positives):
    start = np.concatenate([[0], np.cumsum([len(own) for own in positives])]).astype(np.int64)
    return start, np.array([column for own in positives for column in own], np.int64)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 1300), st.integers(1, 17))
def test_ranks_equal_the_full_matrix(seed, count, size, width):
    rng = np.random.default_rng(seed)
    queries = rng.integers(-3, 4, (count, width)).astype(np.float32)  # small integers: sums are exact and ties are common
    gallery = rng.integers(-3, 4, (size, width)).astype(np.float32)
    positives = [np.sort(rng.choice(size, min(size, rng.integers(0, 4)), replace=False)) for _ in range(count)]
    ranks, bad = kernels.best_positive_ranks(queries, np.ascontiguousarray(gallery.T), *csr(positives))
    np.testing.assert_array_equal(ranks, numpy_best_positive_ranks(queries, gallery, positives))
    assert not bad.any()


def test_equal_items_tie_exactly_wherever_they_stand():
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(1500, 64)).astype(np.float32)
    gallery[[3, 517, 1499]] = gallery[700]  # copies in other blocks and in the short last block
    query = gallery[700:701] * 2  # far above all but the copies
    ranks, _ = kernels.best_positive_ranks(query, np.ascontiguousarray(gallery.T), np.array([0, 1]), np.array([700]))
    assert ranks[0] == 4


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_counted(poison):
    gallery = np.ones((5, 3), np.float32)
    gallery[2, 1] = poison
    queries = np.ones((2, 3), np.float32)
    _, bad = kernels.best_positive_ranks(queries, np.ascontiguousarray(gallery.T), np.array([0, 1, 2]), np.array([0, 1]))
    assert bad.tolist() == [1, 1]
