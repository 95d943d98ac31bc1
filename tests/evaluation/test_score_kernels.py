"""Each kernel against its NumPy twin."""

import numpy as np
from hypothesis import given, settings, strategies as st

from rsvlm.evaluation import score_kernels


def numpy_count_rows(scores, row, low, high):
    """Certain counts and the list of what is too close to call, from the whole matrix."""
    picked = scores[row]
    threshold, column = np.nonzero((picked >= low[:, None]) & (picked <= high[:, None]))
    return (picked > high[:, None]).sum(1), {*zip(row[threshold].tolist(), column.tolist(), threshold.tolist(), strict=True)}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 150), st.integers(1, 150), st.integers(0, 200), st.sampled_from([0.0, 0.1, 5.0]))
def test_counts_equal_the_whole_matrix(seed, height, width, thresholds, error):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=(height, width)), 1).astype(np.float32)  # one decimal: many equal scores
    row = np.sort(rng.integers(0, height, thresholds))
    exact = np.round(rng.normal(size=thresholds), 1)
    low, high = (exact - error).astype(np.float32), (exact + error).astype(np.float32)
    start = rng.integers(0, 9, thresholds).astype(np.int32)
    certain, close = numpy_count_rows(scores, row, low, high)

    above = start.copy()
    near = score_kernels.count_rows(scores, row, low, high, above)
    np.testing.assert_array_equal(above - start, certain)
    assert len(near) == len(close) and {*map(tuple, near.tolist())} == close

    above = start.copy()
    turned = np.ascontiguousarray(scores.T)
    near = score_kernels.count_columns(turned, row, low, high, above)
    np.testing.assert_array_equal(above - start, certain)
    assert len(near) == len(close) and {*map(tuple, near[:, [1, 0, 2]].tolist())} == close


def test_one_threshold_in_every_column_takes_the_fast_way_to_the_same_counts():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(130, 70)).astype(np.float32)
    low = rng.normal(size=70).astype(np.float32)
    high = low + np.float32(0.2)
    above = np.zeros(70, np.int32)
    near = score_kernels.count_columns(scores, np.arange(70), low, high, above)
    np.testing.assert_array_equal(above, (scores > high).sum(0))
    assert len(near) == ((scores >= low) & (scores <= high)).sum()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 600))
def test_exact_scores_are_float64_dot_products(seed, width):
    rng = np.random.default_rng(seed)
    images, texts = rng.normal(size=(5, width)).astype(np.float32), rng.normal(size=(7, width)).astype(np.float32)
    rows, columns = rng.integers(0, 5, 20), rng.integers(0, 7, 20)
    scores = score_kernels.exact_scores(images, texts, rows, columns)
    wanted = (images.astype(np.float64)[rows] * texts.astype(np.float64)[columns]).sum(1)
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-12 * width)


def test_equal_vectors_have_equal_bits_wherever_they_lie_in_memory():
    rng = np.random.default_rng(0)
    text = rng.normal(size=(1, 517)).astype(np.float32)
    image = rng.normal(size=(1, 517)).astype(np.float32)
    for count in (1, 2, 3, 8, 33):
        places = np.arange(count)
        scores = score_kernels.exact_scores(image, np.repeat(text, count, 0), places * 0, places)
        shifted = np.empty(517 * count + 3, np.float32)[3:].reshape(count, 517)  # another alignment
        shifted[:] = text
        assert {*scores, *score_kernels.exact_scores(image, shifted, places * 0, places)} == {scores[0]}
