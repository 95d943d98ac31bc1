"""The Smooth-Attention-Operation against its definition, written out in float64, for any window, size and range of scores."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rsvlm.errors import DataError
from rsvlm.localization import smoothing


def direct(scores: np.ndarray, values: np.ndarray, window: int) -> np.ndarray:
    """z_p = Σ a_i v_i / Σ a_i over the window around p, the maximum of the window subtracted; NaN where it holds no data."""
    scores, values, radius = scores.astype(np.float64), values.astype(np.float64), window // 2
    out = np.full(values.shape, np.nan)
    for y, x in np.ndindex(*scores.shape):
        part = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        there = scores[part] > -np.inf
        if there.any():
            weights = np.exp(scores[part][there] - scores[part][there].max())
            out[y, x] = np.tensordot(weights, values[part][there], 1) / weights.sum()
    return out


def grid(h: int, w: int, D: int | None, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (h, w) if D is None else (h, w, D)
    return rng.uniform(-spread, spread, (h, w)).astype(np.float32), rng.normal(size=shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    h=st.integers(1, 24),
    w=st.integers(1, 24),
    D=st.sampled_from([None, 1, 3]),
    radius=st.integers(0, 30),
    spread=st.sampled_from([0.0, 1.0, 30.0, 100.0, 600.0]),
    seed=st.integers(0, 99),
)
def test_any_grid_equals_the_definition(h, w, D, radius, spread, seed):
    scores, values = grid(h, w, D, spread, seed)
    found = smoothing.smooth_pool(scores, values, 2 * radius + 1)
    assert found.shape == values.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, direct(scores, values, 2 * radius + 1), rtol=0, atol=1e-5)


def test_window_of_one_gives_back_the_values():
    scores, values = grid(9, 14, 5, 20)
    np.testing.assert_allclose(smoothing.smooth_pool(scores, values, 1), values, rtol=1e-6)


@pytest.mark.parametrize("window", [2 * 12 - 1, 2 * 12 + 1, 999])
def test_a_window_over_the_whole_grid_is_global_pooling(window):
    scores, values = grid(7, 12, 4, 20)
    weights = np.exp(scores.astype(float) - scores.max())
    everywhere = (weights[..., None] * values).sum((0, 1)) / weights.sum()
    np.testing.assert_allclose(
        smoothing.smooth_pool(scores, values, window), np.broadcast_to(everywhere, values.shape), atol=1e-5
    )


def test_equal_scores_are_a_box_mean_normalised_at_the_edges():
    values = np.arange(20, dtype=np.float32).reshape(4, 5)
    found = smoothing.smooth_pool(np.zeros((4, 5), np.float32), values, 3)
    assert found[0, 0] == pytest.approx(values[:2, :2].mean()) and found[1, 1] == pytest.approx(values[:3, :3].mean())


def test_a_huge_weight_costs_no_digit_where_no_window_holds_it():
    """A running sum that subtracts what leaves the window would keep the rounding error of the peak in all that follows."""
    scores, values = grid(40, 200, None, 1)
    scores[20, 10] += 28  # float32 sums
    values[20, 10] = 3e4
    found, wanted = smoothing.smooth_pool(scores, values, 7), direct(scores, values, 7)
    np.testing.assert_allclose(found[:, 20:], wanted[:, 20:], atol=1e-5)


def test_far_from_the_maximum_nothing_underflows():
    scores, values = grid(30, 60, 2, 1)
    scores += np.linspace(-100, 100, 60, dtype=np.float32)
    found = smoothing.smooth_pool(scores, values, 5)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, direct(scores, values, 5), atol=1e-5)


def test_a_large_map_does_not_drift():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(64, 20_000)).astype(np.float32)
    values = (1000 + rng.normal(size=scores.shape)).astype(np.float32)
    found = smoothing.smooth_pool(scores, values, 31)
    last = np.s_[40:, 19_900:]
    wanted = direct(scores[25:, 19_800:], values[25:, 19_800:], 31)[15:, 100:]
    np.testing.assert_allclose(found[last], wanted, rtol=1e-6)


def test_what_is_in_every_window_is_one_position_more():
    """As though each window held one position that lies nowhere: the same sums, with its weight and its value added."""
    scores, values = grid(9, 14, 5, 20)
    own_scores, own_values = grid(9, 14, 5, 20, seed=1)
    found = smoothing.smooth_pool(scores, values, 5, common=(own_scores, own_values))
    for y, x in ((0, 0), (4, 7), (8, 13)):
        part = np.s_[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        flat = np.append(scores[part].ravel(), own_scores[y, x]).astype(np.float64)
        weights = np.exp(flat - flat.max())
        wanted = weights @ np.vstack([values[part].reshape(-1, 5), own_values[y, x]]) / weights.sum()
        np.testing.assert_allclose(found[y, x], wanted, atol=1e-5)


def test_no_data_has_no_weight():
    scores, values = grid(12, 15, 3, 5)
    scores[:, :6] = np.nan
    scores[3, 9] = -np.inf
    values[:, :6] = np.nan
    values[3, 9] = np.inf
    found = smoothing.smooth_pool(scores, values, 5)
    np.testing.assert_allclose(found, direct(scores, values, 5), atol=1e-5)
    assert np.isnan(found[:, :4]).all() and np.isfinite(found[:, 4:]).all()
    assert np.isnan(smoothing.smooth_pool(np.full((3, 3), np.nan, np.float32), np.ones((3, 3), np.float32), 3)).all()


def test_the_result_does_not_depend_on_threads():
    scores, values = grid(101, 37, 2, 10)
    whole = smoothing.smooth_pool(scores, values, 9)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_allclose(smoothing.smooth_pool(scores, values, 9), whole, rtol=1e-5, atol=1e-6)
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("window", [0, -3, 2, 8, 2.5])
def test_a_window_has_a_centre(window):
    with pytest.raises(DataError, match="odd"):
        smoothing.smooth_pool(*grid(4, 4, 1, 1), window)


@pytest.mark.parametrize(
    ("scores", "values", "message"),
    [
        (np.zeros((3, 4)), np.zeros((4, 3, 2)), "shape"),
        (np.zeros(3), np.zeros((3, 1)), "shape"),
        (np.zeros((0, 3)), np.zeros((0, 3, 1)), "shape"),
        (np.array([[0.0, np.inf]]), np.zeros((1, 2)), "temperature"),
        (np.array([[0.0, 1300.0]]), np.zeros((1, 2)), "temperature"),
    ],
)
def test_what_cannot_be_pooled_is_refused(scores, values, message):
    with pytest.raises(DataError, match=message):
        smoothing.smooth_pool(scores, values, 3)
