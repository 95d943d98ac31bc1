"""How often does a 95 % interval hold the truth? Test sets are drawn from models whose true score is known, and intervals are counted.

A world is a metric, a model with a known score of it, and a size. Many test sets are drawn from it; of each, the metric is measured and
given an interval twice: by percentiles over resamples, and as this package does it (`statistics.interval`, `gap`, `magnitude_interval`).
Differences over very unequal blocks (`gap`) are in no world here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rsvlm.evaluation import retrieval, statistics

TARGET = 93.0
"""Share of intervals, in percent, that must hold the truth, for the method to stay."""

Interval = dict[str, float | None]


@dataclass(frozen=True)
class World:
    """A metric of a model that is known, on test sets of one kind.

    Attributes:
        metric: Name of the metric.
        kind: What the test sets are like.
        images: Number of images of each.
        units: Number of images, or blocks, that are independent.
        truth: The model's true score, in percent.
        intervals: From a random generator, (R, images) resamples and a number of test sets, two intervals of each set: by percentiles,
            and as shipped.
        blocks: (images,) blocks that are resampled whole. If None, images are.
    """

    metric: str
    kind: str
    images: int
    units: int
    truth: float
    intervals: Callable[[np.random.Generator, np.ndarray, int], list[tuple[Interval, Interval]]]
    blocks: np.ndarray | None = None


def simulate(
    worlds: Iterable[World] | None = None, *, sets: int = 400, bootstrap_samples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Draw test sets from each world and count the intervals that hold the truth.

    Args:
        worlds: The worlds. If None, `usual(seed)`.
        sets: Number of test sets of each; the share of 400 has a standard error of 1.1 points where it is 95 %.
        bootstrap_samples: Number of resamples of each test set; all sets of one world meet the same.
        seed: Seed of test sets and resamples.

    Returns:
        A row for each world: `metric kind images units truth percentiles shipped`, the latter two in percent of the sets; and
        `width_percentiles width_shipped`, the mean widths.
    """
    rows = []
    for number, world in enumerate(usual(seed) if worlds is None else worlds):
        rng = np.random.default_rng([seed, number])
        times = statistics.resamples(world.images, bootstrap_samples, seed, world.blocks).astype(float)
        pairs = world.intervals(rng, times, sets)
        ends = np.array([[(one["ci_low"], one["ci_high"]) for one in pair] for pair in pairs])  # (sets, 2, 2)
        holds = (ends[..., 0] <= world.truth + 1e-9) & (world.truth - 1e-9 <= ends[..., 1])
        percentiles, shipped = (100 * holds.mean(axis=0)).tolist()
        width, other = (ends[..., 1] - ends[..., 0]).mean(axis=0).tolist()
        facts = {
            "metric": world.metric,
            "kind": world.kind,
            "images": world.images,
            "units": world.units,
            "truth": world.truth,
        }
        widths = {"width_percentiles": width, "width_shipped": other}
        rows.append(facts | {"percentiles": percentiles, "shipped": shipped} | widths)
    return pd.DataFrame(rows)


def usual(seed: int = 0) -> Iterator[World]:
    """Yield the worlds that a chapter shows: sizes from 50 to 2,000, easy and hard, captions, blocks, small classes, ties, differences."""
    rng = np.random.default_rng(seed)
    for n in (50, 200, 500, 2000):
        for truth in (30, 90, 98):
            yield accuracy(n, truth)
    for n in (50, 200, 1000):
        for truth in (5, 40, 90):
            yield captions(n, truth, rng)
    for count in (10, 20, 50, 100, 300):
        for truth in (30, 90, 97):
            yield blocks(count, truth, rng)
    yield blocks(100, 30, rng, whole=False)
    for smallest in (5, 20):
        yield balanced(smallest)
    for n, positive in ((100, 5), (200, 20), (500, 250)):
        yield from (area(n, positive, shift) for shift in (1.0, 2.5))
    for n, positive in ((100, 5), (200, 20), (500, 250)):
        yield precision(n, positive, 1.5, seed)
    for n in (50, 100, 300):
        yield from (gallery(n, noise, seed) for noise in (0.7, 2.0))
    for n in (50, 200, 1000):
        for both in ((50, 45), (95, 90), (99, 97)):
            yield difference(n, *both)
    for n in (200, 500, 2000):
        yield from (calibration(n, factor) for factor in (1.0, 1.5))
    for n, count in ((100, 5), (1000, 5), (1000, 3)):
        yield seeds(n, count)


def accuracy(n: int, truth: float) -> World:
    """Top-1 accuracy of independent images."""

    def intervals(rng: np.random.Generator, times: np.ndarray, sets: int) -> list[tuple[Interval, Interval]]:
        return _of_shares(times, rng.random((n, sets)) < truth / 100, np.ones((n, 1)), n)

    return World("top-1", "independent images", n, n, truth, intervals)


def captions(n: int, truth: float, rng: np.random.Generator) -> World:
    """Recall of captions, one to five for each image, which stand or fall together in part."""
    asked = rng.integers(1, 6, (n, 1))

    def intervals(rng: np.random.Generator, times: np.ndarray, sets: int) -> list[tuple[Interval, Interval]]:
        return _of_shares(times, rng.binomial(asked, rng.beta(truth / 50, 2 - truth / 50, (n, sets))), asked, n)

    return World("R@k", "1 to 5 captions an image", n, n, truth, intervals)


def blocks(count: int, truth: float, rng: np.random.Generator, whole: bool = True) -> World:
    """Accuracy of chips that overlap and hang together in `count` blocks; if not `whole`, chips are resampled one by one all the same."""
    corners = rng.uniform(0, np.sqrt(4 * count), (10 * count, 2))  # 2.5 chips to the ground of one
    block = statistics.codes(statistics.overlapping(np.column_stack([corners, corners + 0.6])), len(corners))
    block = block[block < count]
    n = len(block)

    def intervals(rng: np.random.Generator, times: np.ndarray, sets: int) -> list[tuple[Interval, Interval]]:
        chances = rng.beta(3 * truth / 100, 3 - 3 * truth / 100, (count, sets))[block]
        units = statistics.count_blocks(block, n) if whole else n
        return _of_shares(times, rng.random((n, sets)) < chances, np.ones((n, 1)), units)

    kind = "overlapping chips, blocks resampled" if whole else "overlapping chips, resampled one by one"
    return World("top-1", kind, n, statistics.count_blocks(block, n), truth, intervals, block if whole else None)


def balanced(smallest: int, classes: int = 10) -> World:
    """Mean accuracy over classes, the largest of which has twenty times as many images as the smallest."""
    sizes = np.round(np.geomspace(smallest, 20 * smallest, classes)).astype(int)
    label, chances = np.repeat(np.arange(classes), sizes), np.linspace(0.9, 0.4, classes)
    one, units = np.eye(classes)[label], max(1, round(classes**2 / (1 / sizes).sum()))

    def intervals(rng: np.random.Generator, times: np.ndarray, sets: int) -> list[tuple[Interval, Interval]]:
        hits = rng.random((len(label), sets)) < chances[label][:, None]
        with np.errstate(invalid="ignore"):
            own = [(times[:, label == c] @ hits[label == c]) / (times @ one)[:, c, None] for c in range(classes)]
        return [_both(values, units) for values in 100 * np.nanmean(own, axis=0).T]

    return World("balanced accuracy", f"classes of {smallest} images and more", len(label), units, 65.0, intervals)


def area(n: int, positive: int, shift: float) -> World:
    """Area under the ROC curve of scores that differ by `shift` standard deviations, in steps of a tenth, so that some are equal."""
    present, rarer = np.arange(n) < positive, min(positive, n - positive)
    steps = np.arange(-100, 101)
    chances = [np.diff(_normal((np.append(steps, 101) - 0.5) / 10 - mean)) for mean in (shift, 0)]
    truth = 100 * float(chances[0] @ (np.cumsum(chances[1]) - chances[1] / 2))

    def intervals(rng: np.random.Generator, times: np.ndarray, sets: int) -> list[tuple[Interval, Interval]]:
        scores = np.round(rng.normal(size=(sets, n)) + shift * present, 1)
        return [_both(100 * statistics.auc(row, present, times), rarer) for row in scores]

    return World("AUC", f"{positive} images with the thing", n, rarer, truth, intervals)


def precision(n: int, positive: int, shift: float, seed: int) -> World:
    """Average precision of such scores; the truth is its mean over 2,000 test sets."""
    present, once, total = np.arange(n) < positive, np.ones((1, n)), np.array([positive])

    def scores(rng: np.random.Generator, sets: int) -> np.ndarray:
        return np.round(rng.normal(size=(sets, n)) + shift * present, 1)

    known = scores(np.random.default_rng([seed, n, positive]), 2000)
    truth = 100 * float(np.mean([statistics.average_precision(row, present, total, once)[0] for row in known]))

    def intervals(rng: np.random.Generator, times: np.ndarray, sets: int) -> list[tuple[Interval, Interval]]:
        totals = times @ present
        drawn = scores(rng, sets)
        return [_both(100 * statistics.average_precision(row, present, totals, times), positive) for row in drawn]

    return World("AP", f"{positive} images with the thing", n, positive, truth, intervals)


def gallery(n: int, noise: float, seed: int, captions: int = 3, width: int = 16) -> World:
    """Mean average precision of images that ask for their captions among those of all; the truth is its mean over 2,000 galleries.

    Images are random directions, captions their images with so much noise. A gallery is drawn anew for each test set, which no resample
    of its images shows.
    """

    def precisions(rng: np.random.Generator) -> np.ndarray:  # (n,)
        images = rng.normal(size=(n, width))
        texts = images[:, None] + noise * rng.normal(size=(n, captions, width))
        images, texts = (one / np.linalg.norm(one, axis=-1, keepdims=True) for one in (images, texts))
        scores = images @ texts.reshape(-1, width).T
        own = -np.sort(-scores[np.arange(n)[:, None], np.arange(n * captions).reshape(n, captions)])
        ranks = 1 + (scores[:, None] > own[..., None]).sum(axis=2)
        return (np.arange(1, captions + 1) / ranks).mean(axis=1)

    drawn = np.random.default_rng([seed, n])
    truth = 100 * float(np.mean([precisions(drawn).mean() for _ in range(2000)]))

    def intervals(rng: np.random.Generator, times: np.ndarray, sets: int) -> list[tuple[Interval, Interval]]:
        return _of_shares(times, np.stack([precisions(rng) for _ in range(sets)], axis=1), np.ones((n, 1)), n)

    return World("mAP", f"galleries of {n} images", n, n, truth, intervals)


def difference(n: int, ours: float, theirs: float) -> World:
    """Difference of the accuracies of two models, the second of which agrees with the first more often than by chance."""

    def intervals(rng: np.random.Generator, times: np.ndarray, sets: int) -> list[tuple[Interval, Interval]]:
        hard, other = rng.random((2, n, sets))
        shared, total = np.where(rng.random((n, sets)) < 0.6, hard, other), times.sum(axis=1, keepdims=True)
        one, two = (100 * (times @ hits) / total for hits in (hard < ours / 100, shared < theirs / 100))
        return [(statistics.interval(a - b), statistics.gap(a, b, n)) for a, b in zip(one.T, two.T, strict=True)]

    return World("difference of top-1", f"{ours} against {theirs} %", n, n, ours - theirs, intervals)


def calibration(n: int, factor: float, bins: int = 15) -> World:
    """Expected calibration error of a model whose log odds are `factor` times the right ones; 1 is calibrated, and its error is 0."""

    def drawn(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        odds = 1.5 * rng.normal(size=count) + 1
        chance, sure = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-factor * odds))
        return chance, sure, np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)

    chance, sure, place = drawn(np.random.default_rng(0), 1_000_000)
    truth = 100 * float(np.abs(np.bincount(place, chance - sure, bins)).sum() / len(place))

    def intervals(rng: np.random.Generator, times: np.ndarray, sets: int) -> list[tuple[Interval, Interval]]:
        total, pairs = times.sum(axis=1, keepdims=True), []
        for _ in range(sets):
            chance, sure, place = drawn(rng, n)
            gaps = ((rng.random(n) < chance) - sure)[:, None] * np.eye(bins)[place]
            parts = 100 * (times @ gaps) / total
            pairs.append((statistics.interval(np.abs(parts).sum(axis=1)), statistics.magnitude_interval(parts)))
        return pairs

    return World("calibration error", "calibrated" if factor == 1 else "too sure", n, n, truth, intervals)


def seeds(n: int, count: int, truth: float = 70.0, spread: float = 3.0) -> World:
    """Mean accuracy over draws of training pictures (seeds), which differ by `spread` points; images are hard or easy for all of them."""

    def intervals(rng: np.random.Generator, times: np.ndarray, sets: int) -> list[tuple[Interval, Interval]]:
        total, pairs = times.sum(axis=1, keepdims=True), []
        for number in range(sets):
            chances = rng.beta(truth / 50, 2 - truth / 50, (n, 1)) + rng.normal(scale=spread / 100, size=count)
            values = 100 * (times @ (rng.random((n, count)) < chances)) / total
            varied = statistics.over_seeds(values, number)
            pairs.append((statistics.interval(values.mean(axis=1)), statistics.interval(varied, n)))
        return pairs

    return World("few-shot top-1", f"{count} seeds", n, n, truth, intervals)


def of_retrieval(
    n: int = 100, width: int = 16, noise: float = 1.0, *, sets: int = 100, bootstrap_samples: int = 300, seed: int = 0
) -> pd.DataFrame:
    """Do the same with galleries: vectors are drawn, one to five captions to an image, a tenth of them there twice, and ranked.

    The truth is the mean over 200 galleries (of the median rank, the median). What is shipped is what `retrieval.evaluate` gives, so this
    takes a second for ten galleries.

    Returns:
        A row for each metric and direction: `metric direction truth shipped`.
    """
    rng = np.random.default_rng(seed)

    def rows(samples: int) -> list[dict]:
        owners = np.repeat(np.arange(n), rng.integers(1, 6, n))
        images = rng.normal(size=(n, width))
        texts = images[owners] + noise * rng.normal(size=(len(owners), width))
        again = rng.integers(0, len(owners), len(owners) // 10)
        texts[again] = texts[(again + 1) % len(owners)]
        vectors = [(one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32) for one in (images, texts)]
        return retrieval.evaluate(*vectors, owners, ties="average", bootstrap_samples=samples, seed=seed)

    known = [rows(0) for _ in range(200)]
    measured = [rows(bootstrap_samples) for _ in range(sets)]
    table = []
    for place, row in enumerate(known[0]):
        middle = np.median if row["metric"] == "median_rank" else np.mean
        truth = float(middle([one[place]["value"] for one in known]))
        holds = np.mean([one[place]["ci_low"] <= truth <= one[place]["ci_high"] for one in measured])
        table.append({"metric": row["metric"], "direction": row["direction"], "truth": truth, "shipped": 100 * float(holds)})
    return pd.DataFrame(table)


def _of_shares(times: np.ndarray, hits: np.ndarray, asked: np.ndarray, units: int) -> list[tuple[Interval, Interval]]:
    """Intervals of Σ hits / Σ asked, for each column of hits."""
    return [_both(values, units) for values in (100 * (times @ hits.astype(float)) / (times @ asked)).T]


def _both(values: np.ndarray, units: int) -> tuple[Interval, Interval]:
    return statistics.interval(values), statistics.interval(values, units)


def _normal(x: np.ndarray) -> np.ndarray:
    """Share of a standard normal below x, to 1e-7. Source: Abramowitz and Stegun (1964), 26.2.17."""
    t = 1 / (1 + 0.2316419 * np.abs(x))
    series = 0.319381530, -0.356563782, 1.781477937, -1.821255978, 1.330274429
    tail = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * sum(c * t**power for power, c in enumerate(series, 1))
    return np.where(x > 0, 1 - tail, tail)
