"""Intervals hold the truth about as often as they say; where percentiles do not, the simulation notices it."""

from __future__ import annotations

import numpy as np
import pytest

from rsvlm.evaluation import coverage, statistics

SETS = 150
LEAST = coverage.TARGET - 100 * 2.6 * np.sqrt(0.93 * 0.07 / SETS)  # of 1,000 that are at the target, 5 lie below this


def simulated(*worlds):
    return coverage.simulate(worlds, sets=SETS, bootstrap_samples=300, seed=1)


def test_intervals_of_every_metric_hold_the_truth():
    rng = np.random.default_rng(0)
    table = simulated(
        coverage.accuracy(200, 60),
        coverage.accuracy(60, 96),
        coverage.accuracy(200, 98),
        coverage.captions(50, 5, rng),
        coverage.captions(200, 40, rng),
        coverage.blocks(20, 30, rng),
        coverage.blocks(50, 90, rng),
        coverage.blocks(300, 90, rng),
        coverage.blocks(100, 97, rng),
        coverage.balanced(20, classes=5),
        coverage.area(100, 5, 2.5),
        coverage.precision(100, 10, 1.5, 0),
        coverage.gallery(100, 0.7, 0),
        coverage.gallery(100, 2.0, 0),
        coverage.difference(50, 99, 97),
        coverage.difference(200, 60, 50),
        coverage.calibration(200, 1.0),
        coverage.calibration(200, 1.5),
        coverage.seeds(100, 5),
    )
    assert (table["shipped"] >= LEAST).all(), table.to_string()
    wide = table["width_shipped"] / table["width_percentiles"].clip(lower=0.1)
    assert wide[[0, 4]].between(0.99, 1.02).all(), "of many images, and neither few hits nor misses, percentiles stay"
    assert wide[13] < 1.03, "galleries of a hundred are hardly wider"


def held_over_blocks(sizes, truth, together, sets=1000):
    """Percent of intervals over blocks of these sizes that hold the truth; the smaller `together`, the more blocks differ."""
    rng, sizes, p = np.random.default_rng(0), np.array(sizes), truth / 100
    hits = rng.binomial(sizes, rng.beta(together * p, together * (1 - p), (sets, len(sizes))))
    times = np.concatenate([np.ones((1, len(sizes))), rng.multinomial(len(sizes), np.ones(len(sizes)) / len(sizes), 200)])
    units = statistics.count_blocks(np.repeat(np.arange(len(sizes)), sizes), int(sizes.sum()))
    found = [statistics.interval(values, units) for values in 100 * (hits @ times.T) / (times @ sizes)]
    return 100 * np.mean([one["ci_low"] <= truth <= one["ci_high"] for one in found])


UNEQUAL = [158, 126, 83, 72, 57, 49] + [6] * 75


@pytest.mark.parametrize("sizes", [UNEQUAL, [177, 158, 51, 46] + [10] * 96, [300] + [10] * 70], ids=["six", "four", "one"])
@pytest.mark.parametrize("truth", [90, 97])
def test_intervals_over_very_unequal_blocks_hold_the_truth(sizes, truth):
    assert min(held_over_blocks(sizes, truth, together) for together in (3, 10)) >= coverage.TARGET


def test_over_unequal_blocks_the_assumption_of_whole_blocks_is_needed(monkeypatch):
    monkeypatch.setattr(statistics, "WHOLE_BLOCKS", 0)
    assert held_over_blocks(UNEQUAL, 97, 3) < coverage.TARGET - 2


@pytest.mark.parametrize(
    "world",
    [
        coverage.accuracy(60, 98),
        coverage.captions(50, 4, np.random.default_rng(0)),
        coverage.blocks(15, 90, np.random.default_rng(0)),
        coverage.area(100, 5, 2.5),
        coverage.calibration(300, 1.0),
        coverage.seeds(500, 3),
    ],
    ids=lambda world: world.metric,
)
def test_percentiles_alone_do_not(world):
    table = simulated(world)
    assert table["percentiles"][0] < 93 < table["shipped"][0] + 3 and table["shipped"][0] > table["percentiles"][0] + 2


def test_images_that_hang_together_need_their_blocks():
    alone = simulated(coverage.blocks(60, 30, np.random.default_rng(0), whole=False))
    assert alone["shipped"][0] < 75


def test_the_true_area_is_that_of_many_draws():
    world = coverage.area(100, 50, 1.0)
    rng = np.random.default_rng(0)
    right, wrong = np.round(rng.normal(size=20000) + 1, 1), np.sort(np.round(rng.normal(size=20000), 1))
    below = (np.searchsorted(wrong, right, "left") + np.searchsorted(wrong, right, "right")) / 2
    assert world.truth == pytest.approx(100 * below.mean() / 20000, abs=0.7)


def test_galleries_are_ranked_and_their_intervals_hold_the_mean():
    table = coverage.of_retrieval(30, 8, 1.0, sets=30, bootstrap_samples=50)
    assert set(table["metric"]) == {"R@1", "R@5", "R@10", "mR", "mAP", "median_rank"}
    assert table["shipped"].mean() > 88 and table["shipped"].min() > 75, table.to_string()
