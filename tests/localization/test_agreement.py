"""Scores of one map against its mask equal their definitions, written out."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rsvlm.errors import DataError
from rsvlm.localization import agreement, pixels


def a_map(rng, shape, empty=True):
    """Few values, so that ties are common, and some pixels without data."""
    heat = rng.integers(0, 9, shape).astype(np.float32) / 8 - 0.3
    heat[rng.random(shape) < 0.1 * empty] = np.nan
    return heat


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_scores_of_one_map_equal_their_definitions(H, W, seed):
    rng = np.random.default_rng(seed)
    heat, mask = a_map(rng, (H, W)), rng.random((H, W)) < 0.4
    there = np.isfinite(heat)
    if not there.any():
        assert agreement.pointing(heat, mask) == 0 and np.isnan(agreement.energy(heat, mask))
        return
    peak = heat[there].max()
    assert agreement.pointing(heat, mask) == pytest.approx(mask[there & (heat == peak)].mean())
    wide = np.array([[mask[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].any() for x in range(W)] for y in range(H)])
    assert agreement.pointing(heat, mask, 2) == pytest.approx(wide[there & (heat == peak)].mean())
    low = heat[there].min()
    if peak > low:
        lifted = np.where(there, heat - low, 0).astype(float)
        assert agreement.energy(heat, mask) == pytest.approx(lifted[mask].sum() / lifted.sum(), abs=1e-6)
    curve = agreement.iou_curve(heat, mask)
    counts = pixels.heat_counts(heat, mask, low, peak, agreement.BINS)
    for k in (0, 10, 49, 80, 99):  # no threshold that a value may equal but for rounding
        inside = there & (heat.astype(float) - low >= k / 100 * (float(peak) - low)) if peak > low else there & (k == 0)
        either = ((mask & there) | inside).sum()
        assert counts[:, k:].sum() == inside.sum() and counts[1].sum() == (mask & there).sum()
        wanted = (mask & inside).sum() / either if either else np.nan
        assert curve[k] == pytest.approx(wanted, nan_ok=True)


def test_shapes_that_differ_are_refused():
    with pytest.raises(DataError, match="mask of shape"):
        agreement.iou_curve(np.zeros((3, 4)), np.zeros((4, 3), bool))
