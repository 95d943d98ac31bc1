"""Several labels to a picture: precision by hand, and unknowns left out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rsvlm.errors import DataError
from rsvlm.evaluation import labels

ONCE = np.ones((1, 4), int)


def test_average_precision_is_that_by_hand():
    scores = np.array([[0.9, 1], [0.8, 2], [0.7, 3], [0.6, 4]])
    truth = np.array([[1, 0], [0, 0], [1, 1], [0, 1]])
    found = labels.average_precisions(scores, truth, ONCE)
    # First, and third of three: (1 + 2 / 3) / 2.
    assert found[:, 0] == pytest.approx([100 * 5 / 6, 100])
    assert labels.mean_average_precision(found) == pytest.approx([100 * 11 / 12])


def test_chance_is_what_random_orders_have():
    """Of one picture among N it is the mean of 1, 1/2 … 1/N, and not 1/N; of more, the mean over all orders."""
    truth = np.zeros((50, 3), int)
    truth[7, 0] = truth[:, 1] = 1
    one, every, none = labels.chance(truth)
    assert one == pytest.approx(100 * np.mean(1 / np.arange(1, 51)), abs=1.5) and every == 100 and np.isnan(none)

    truth = np.array([[1], [1], [0], [0], [0]])
    orders = np.array(list(itertools.permutations(range(5))), float)
    found = [labels.average_precisions(order[:, None], truth, np.ones((1, 5), int))[0, 0] for order in orders]
    assert labels.chance(truth, draws=4000)[0] == pytest.approx(np.mean(found), abs=1.5) and np.mean(found) > 45


def test_an_unknown_counts_neither_way():
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    for unknown in (labels.YES, labels.NO):
        truth = np.array([[1], [unknown], [1], [0]])
        with_it = labels.average_precisions(scores, truth, ONCE)
        truth[1] = labels.UNKNOWN
        assert labels.average_precisions(scores, truth, ONCE)[0, 0] == 100 >= with_it[0, 0]
    alone = labels.chance(truth[[0, 2, 3]], seed=1)
    assert labels.chance(truth)[0] == pytest.approx(alone[0], abs=3)


def test_a_label_that_a_resample_lacks_is_left_out_of_its_mean():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    truth = np.array([[0, 1], [1, 0], [1, 0], [0, 0]])
    times = np.array([[1, 1, 1, 1], [0, 2, 1, 1]])
    found = labels.average_precisions(scores, truth, times)
    assert np.isnan(found[1, 1]) and labels.mean_average_precision(found)[1] == found[0, 1] == 100


def test_shapes_that_do_not_fit_are_named():
    for scores, truth, times in (((3, 1), (4, 1), 4), ((4, 1), (4, 2), 4), ((4, 1), (4, 1), 3)):
        with pytest.raises(DataError, match="expected"):
            labels.average_precisions(np.zeros(scores), np.zeros(truth, int), np.ones((2, times), int))


def test_what_is_no_score_or_label_is_refused():
    with pytest.raises(DataError, match="1 scores are NaN"):
        labels.average_precisions(np.array([[np.nan]]), np.array([[1]]), ONCE[:, :1])
    with pytest.raises(DataError, match="1, 0 or -1, and not 2"):
        labels.average_precisions(np.array([[0.0]]), np.array([[2]]), ONCE[:, :1])


def test_rows_name_each_label_and_leave_rare_ones_out_of_the_mean():
    rng = np.random.default_rng(0)
    truth = (rng.random((200, 3)) < [0.5, 0.2, 0.0]).astype(int)
    truth[:3, 2], truth[3:9, 0] = 1, labels.UNKNOWN
    scores = truth + rng.normal(0, 0.7, truth.shape)
    draws: dict = {}
    rows = labels.evaluate(
        scores, truth, ["a", "b", "rare"], bootstrap_samples=200, blocks=np.arange(200) // 4, resampled=draws
    )
    told = {row["metric"]: row for row in rows}
    assert set(told) == {"AP[a]", "AP[b]", "AP[rare]", "mAP"} and told["AP[rare]"]["n"] == 3
    assert told["mAP"]["value"] == pytest.approx((told["AP[a]"]["value"] + told["AP[b]"]["value"]) / 2)
    assert told["mAP"]["ci_low"] < told["mAP"]["value"] < told["mAP"]["ci_high"]
    assert told["AP[a]"]["chance"] > 100 * (truth[:, 0] == 1).sum() / 194
    assert draws["labels", "t2i", "mAP"].shape == (201,)
    with pytest.raises(DataError, match="5 pictures"):
        labels.evaluate(scores[:8], truth[:8], ["a", "b", "rare"])


def test_ridge_learns_labels_and_passes_over_unknown_ones():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 6))
    truth = np.column_stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 0.5, np.zeros(300)]).astype(int)
    spoilt = truth.copy()
    spoilt[:60, 0] = labels.UNKNOWN
    scores = labels.ridge(x[:150], spoilt[:150], x[150:200], truth[150:200], x[200:])
    precisions = labels.average_precisions(scores[:, :2], truth[200:, :2], np.ones((1, 100), int))
    assert (precisions > 90).all()
    assert np.ptp(scores[:, 2]) < 1e-9
