"""Numbers with intervals: one bootstrap over images for every metric, and measures over several trained models (seeds).

A metric is measured on all images and then on resamples of them, in each of which an image counts as often as it was drawn. So a
metric becomes an array (R,): its value, and after it its R - 1 values over resamples, from which the interval is read. What is compared
meets the same resamples; a difference of two such arrays has an interval of its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from rsvlm.errors import DataError

logger = logging.getLogger(__name__)

ENOUGH = 1000
"""Number of resamples from which an interval is no matter of luck."""

FEW_UNITS, FEW_HITS = 100, 15
"""Numbers of units, and of hits or misses, below which percentiles over resamples hold the truth in less than 93 of 100 cases."""

WHOLE_BLOCKS, WHOLE_IMAGES = 0.5, 0.05
"""Hits, or misses, in whose place a block, or an image, is taken as right or wrong as a whole; see `effective_images`.

The least of 0.05, 0.1, 0.25 and 0.5 with which intervals over very unequal blocks, and of areas under the curve of twenty images with the
thing, hold the truth in 93 of 100 cases.
"""


class Blocks(int):
    """A number of blocks of images, as `count_blocks` returns it where images are not each their own."""


def bootstrap(
    n: int, count: int, seed: int, at_once: int = 1, blocks: Sequence | np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Say how often each of n images counts: once in the first array, then as often as it is drawn.

    Images that share ground, or a source, are not independent, and an interval over single images is then too narrow. With `blocks`
    whole blocks are drawn, each image as often as its block; a resample has as many blocks as there are, and so not always n images.

    Args:
        n: Number of images.
        count: Number of resamples.
        seed: Seed of the draws.
        at_once: Number of resamples in an array.
        blocks: (n,) of any kind, equal for images of one block. If None, each image is its own.

    Yields:
        (1, n) int64 ones, and then (`at_once`, n) int64 numbers of draws, in the last array fewer.

    Raises:
        DataError: There is not one block for each image.

    Source:
        A. C. Davison, D. V. Hinkley: Bootstrap Methods and their Application (1997), section 3.8, resampling whole groups.
    """
    block = None if blocks is None else codes(blocks, n)
    G = n if block is None else int(block.max(initial=-1)) + 1
    yield np.ones((1, n), np.int64)
    rng = np.random.default_rng(seed)
    for start in range(0, count, at_once):
        resamples = range(start, min(start + at_once, count))
        drawn = np.stack([np.bincount(rng.integers(0, G, G), minlength=G) for _ in resamples])
        yield drawn if block is None else drawn[:, block]


def resamples(n: int, count: int, seed: int, blocks: Sequence | np.ndarray | None = None) -> np.ndarray:
    """Draw all of `bootstrap` at once: (count + 1, n) int64 times that each image counts; the first row is all ones."""
    return np.concatenate(list(bootstrap(n, count, seed, max(count, 1), blocks)))


def codes(blocks: Sequence | np.ndarray, n: int) -> np.ndarray:
    """Number the blocks of n images from 0 on, in the order in which they come: (n,) int64.

    Raises:
        DataError: There is not one block for each image, or an image has none (None or NaN).
    """
    if len(blocks) != n:
        raise DataError(f"{len(blocks)} blocks for {n} images: expected one each, in the same order")
    numbers = pd.factorize(np.asarray(blocks) if isinstance(blocks, np.ndarray) else pd.Series(list(blocks)).to_numpy())[0]
    if (numbers < 0).any():
        raise DataError(f"image {np.flatnonzero(numbers < 0)[0]} has no block: give each image one, or none of them")
    return numbers.astype(np.int64)


def count_blocks(blocks: Sequence | np.ndarray | None, n: int) -> int:
    """Return the number of independent units among n images: n where `blocks` is None, else of blocks. Raises as `codes`.

    Blocks of unlike sizes count as so many of one size as would vary as much: (Σ size)² / Σ size², rounded down. A block that holds
    most of the images leaves little more than one.

    Source:
        L. Kish: Survey Sampling (1965), section 11.7: the effective number of what is weighted.
    """
    if blocks is None or not n:
        return n
    sizes = np.bincount(codes(blocks, n)).astype(float)
    return Blocks(n**2 / (sizes**2).sum() + 1e-9)


def overlapping(boxes: np.ndarray) -> np.ndarray:
    """Put images whose ground overlaps into one block, and so whatever hangs together through them: (N,) int64, for `bootstrap`.

    Args:
        boxes: (N, 4) float, west, south, east and north of each image, any unit. Boxes that only touch are apart; none may reach
            over the edge of the map.

    Raises:
        DataError: A box is not finite, or its east or north is not above its west or south.
    """
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    if wrong := np.flatnonzero(~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))).tolist():
        raise DataError(
            f"box {wrong[0]} is {boxes[wrong[0]].tolist()}: expected west, south, east, north, the latter two larger"
        )
    block = np.full(len(boxes), -1, np.int64)
    for first in range(len(boxes)):
        if block[first] >= 0:
            continue
        block[first], reached = first, [first]
        while reached:
            west, south, east, north = boxes[reached.pop()].tolist()
            meets = (boxes[:, 0] < east) & (boxes[:, 2] > west) & (boxes[:, 1] < north) & (boxes[:, 3] > south)
            new = np.flatnonzero(meets & (block < 0))
            block[new] = first
            reached += new.tolist()
    return block


def interval(values: np.ndarray, units: int | None = None) -> dict[str, float | None]:
    """Return a metric's `value`, and `ci_low` and `ci_high`, the 2.5 and 97.5 percentile over resamples.

    Resamples of n units vary less than n units do, and by how much is itself uncertain. So of a share the percentiles lie a little
    further out, as far as Student's t with n - 1 degrees of freedom does, times √(n / (n - 1)): at 2.3 and 97.7 with a hundred units.

    Of few units, and of few hits or few misses, percentiles lie too close: see `coverage`. So a share of fewer than `FEW_UNITS` units, or
    of fewer than `FEW_HITS` hits or misses, has the interval of `exact_interval`. Of a share of 0 or 100 % all resamples are alike, which
    would give an interval without width; there it is Clopper's and Pearson's for none, or all, of `units`: 58 of 58 is 93.8 to 100 %.
    Resamples of another share that are all alike show one block alone, of which nothing follows for others: 0 to 100 %.

    Args:
        values: (R,) float: first over all images, then over each resample; NaN where it cannot be measured.
        units: Number of independent images, or blocks of images, that a share in percent is of. If None, the metric is no share in
            percent.

    Returns:
        The three as numbers; both ends are None where no resample has a value.

    Source:
        C. J. Clopper, E. S. Pearson: The use of confidence or fiducial limits illustrated in the case of the binomial, Biometrika 26
        (1934); with 0 of n its upper end is 1 - 0.025^(1/n). T. C. Hesterberg: What teachers should know about the bootstrap, The
        American Statistician 69 (2015): percentiles that lie further out, "expanded".
    """
    value, draws = float(values[0]), values[1:][~np.isnan(values[1:])]
    if not len(draws):
        return {"value": value, "ci_low": None, "ci_high": None}
    outside = _outside(units) if units else 2.5
    low, high = np.percentile(draws, [outside, 100 - outside]).tolist()
    if units and np.isclose(value, 100, rtol=0, atol=1e-9):
        low = min(low, 100 - most_missed(units))
    elif units and np.isclose(value, 0, atol=1e-9):
        high = max(high, most_missed(units))
    elif units and 0 < value < 100:
        share, variance = value / 100, _variance(draws / 100, units)
        hits = min(share, 1 - share) * effective_images(share, variance, units)
        if variance < 1e-12 and isinstance(units, Blocks):
            low, high = 0.0, 100.0  # all of it lies in one block
        elif units < FEW_UNITS or hits < FEW_HITS:
            low, high = exact_interval(share, variance, units)
    return {"value": value, "ci_low": low, "ci_high": high}


def exact_interval(share: float, variance: float, units: int) -> tuple[float, float]:
    """Return the ends, in percent, of the 95 % interval of a share by Clopper's and Pearson's method, over an effective number of images.

    That is `effective_images`, and smaller by as much as Student's t for so many units is wider than the normal distribution.

    Args:
        share: The share, above 0 and below 1.
        variance: Its variance. If 0, the units count as independent images.
        units: Number of independent images, or blocks of images.

    Source:
        E. L. Korn, B. I. Graubard: Confidence intervals for proportions with small expected number of positive counts estimated from
        survey data, Survey Methodology 24 (1998).
    """
    if units < 2:
        return 0.0, 100.0
    n = effective_images(share, variance, units) * (student(np.inf) / student(units - 1)) ** 2
    ends = _beta(0.025, share * n, n - share * n + 1), _beta(0.975, share * n + 1, n - share * n)
    return tuple(100 * end for end in ends)


def effective_images(share: float, variance: float, units: int) -> float:
    """Return the number of independent images of which a share has this variance, lowered where few hits, or misses, tell the variance.

    A few misses that happen to lie in different blocks look like independent ones, and the variance is then too small. So beside the hits
    or misses, whichever are fewer, half a one (`WHOLE_BLOCKS`) is counted that says that blocks are right or wrong as a whole, and 1 / n
    is the mean over all of them. Of independent images nothing changes; of none or all it becomes the number of blocks. Where units are
    images, which may be half right, it is a twentieth. Arguments as of `exact_interval`.

    Source:
        The number: L. Kish: Survey Sampling (1965), section 8.2, the design effect. That it be pulled towards whole blocks is this
        package's own; how far was chosen in simulations, see `coverage`.
    """
    n = share * (1 - share) / variance if variance else float(units)
    hits, whole = min(share, 1 - share) * n, WHOLE_BLOCKS if isinstance(units, Blocks) else WHOLE_IMAGES
    return min(n, (hits + whole) / (hits / n + whole / units))


def _outside(units: int) -> float:
    """Percent of the resamples that lie outside on either side of the interval of a share."""
    freedom = max(units - 1, 1)
    return 50 * math.erfc(student(freedom) * math.sqrt((freedom + 1) / freedom) / math.sqrt(2))


def _beta(part: float, a: float, b: float) -> float:
    """Return the value below which this part of a beta distribution lies, to three digits or more."""
    odds = np.linspace(-20, 20, 8001)  # as logarithms
    logs = -a * np.logaddexp(0, -odds) - b * np.logaddexp(0, odds)
    density = np.exp(logs - logs.max())
    below = np.cumsum(density) - density / 2
    return float(1 / (1 + np.exp(-np.interp(part, below / density.sum(), odds))))


def student(freedom: float) -> float:
    """Return the 97.5 percentile of Student's t, to 1 in 300 from 4 degrees of freedom on; below that it is too small.

    Source:
        M. Abramowitz, I. A. Stegun: Handbook of Mathematical Functions (1964), 26.7.5.
    """
    z = 1.959964
    powers = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / freedom**power for power, term in enumerate(powers, 1))


def _variance(draws: np.ndarray, units: int) -> float:
    """Variance over resamples, times n / (n - 1): resamples of n units vary too little by that."""
    return float(np.var(draws)) * units / max(units - 1, 1)


def gap(
    ours: np.ndarray, theirs: np.ndarray, units: int | None, counted: bool = True, images: int | None = None
) -> dict[str, float | None]:
    """Return the difference of two metrics over the same resamples, as `interval`, whose arguments are these.

    `counted` says that each unit is right or wrong, and not half right, as an intersection over union may be; `images` is the number of
    images in units that are blocks.

    Of shares that differ in few units, or are of few, it is value ± t times its standard error, as if one more image were right for
    the one alone and one for the other alone. Of two that are right everywhere, or nowhere, it is 0, give or take the share that so many
    images may have missed; of two that never differ, it is 0.

    Source:
        D. G. Bonett, R. M. Price: Adjusted Wald confidence interval for a difference of binomial proportions based on paired data,
        Journal of Educational and Behavioral Statistics 37 (2012).
    """
    values = ours - theirs
    result, draws = interval(values), values[1:][~np.isnan(values[1:])]
    if result["ci_low"] is None or not units:
        return result
    value = values[0]
    if np.isclose([ours[0], theirs[0]], [[0], [100]], rtol=0, atol=1e-9).all(1).any():
        most = most_missed(units)
        return result | {"ci_low": min(result["ci_low"], -most), "ci_high": max(result["ci_high"], most)}
    if not counted or (not value and not draws.any()):  # half right, or the same answers throughout
        return result
    variance = _variance(draws, units)
    differing = units**2 * variance / 1e4 + units * (value / 100) ** 2
    if units < FEW_UNITS or differing < FEW_HITS:
        half = student(max(units - 1, 1)) * np.sqrt(variance + 2e4 / ((images or units) + 2) ** 2)
        result |= {"ci_low": float(max(value - half, -100)), "ci_high": float(min(value + half, 100))}
    return result


def magnitude_interval(parts: np.ndarray) -> dict[str, float | None]:
    """Return the interval, as `interval`, of a sum of magnitudes, such as a calibration error: Σ |part|.

    Noise makes such a sum larger, and resamples, which are noisy twice, larger again: percentiles over them miss the truth. Here the parts
    are scaled up and down by one factor, with the noise of the resamples added, until so large a sum as was measured becomes improbable:
    above 97.5 % for the lower end, below 2.5 % for the upper. The upper end is never below the measured sum.

    Args:
        parts: (R, K) float: the signed parts, first over all images, then over each resample.

    Source:
        J. Carpenter: Test inversion bootstrap confidence intervals, Journal of the Royal Statistical Society B 61 (1999).
    """
    measured, noise = parts[0], parts[1:] - parts[0]
    value = float(np.abs(measured).sum())
    if not len(noise) or not np.isfinite(parts).all():
        return {"value": value, "ci_low": None, "ci_high": None}

    def end(percentile: float) -> float:
        low, high = 0.0, 3.0
        for _ in range(30):
            factor = (low + high) / 2
            reached = np.percentile(np.abs(factor * measured + noise).sum(axis=1), percentile) >= value
            low, high = (low, factor) if reached else (factor, high)
        return value * low

    return {"value": value, "ci_low": min(end(97.5), value), "ci_high": max(end(2.5), value)}


def most_missed(units: int) -> float:
    """Return the largest share, in percent, of what none of so many independent units showed: Clopper's and Pearson's upper end."""
    return 100 * (1 - 0.025 ** (1 / units))


def warn_of_few(rows: Iterable[Mapping], count: int) -> None:
    """Warn where so few resamples were drawn that metric rows lie outside their own intervals."""
    measured = [row for row in rows if row["ci_low"] is not None]
    outside = [row for row in measured if not row["ci_low"] - 1e-9 <= row["value"] <= row["ci_high"] + 1e-9]
    if outside and count < ENOUGH:
        first = f"{outside[0]['metric']} {outside[0]['direction']}" if "direction" in outside[0] else outside[0]["metric"]
        advice = f"take {ENOUGH:,} (--bootstrap-samples)"
        told = len(outside), len(measured), first, count, advice
        logger.warning("%d of %d intervals do not hold their own number, the first is of %s: %d resamples are few, %s", *told)


# Measures


def recall(ranks: np.ndarray, image: np.ndarray, k: int, times: np.ndarray) -> np.ndarray:
    """Recall at k in percent, the mean over seeds, in every resample of the images.

    Args:
        ranks: (S, M) int: for each seed's model the rank of the right answer of M queries, 1 being best.
        image: (M,) int: the image that a query belongs to.
        k: How many answers count.
        times: (R, N) from `resamples`.

    Returns:
        (R,) float; NaN in a resample without any of the queries' images.
    """
    hits, weights = (np.asarray(ranks) <= k).mean(axis=0), times[:, image]
    with np.errstate(invalid="ignore"):
        return 100 * (weights @ hits) / weights.sum(axis=1)


def mean_recall(i2t: np.ndarray, t2i: np.ndarray, times: np.ndarray, ks: Sequence[int] = (1, 5, 10)) -> np.ndarray:
    """Mean of the recalls at `ks` in both directions, one caption per image: (S, N) ranks each → (R,) percent, as `recall`."""
    image = np.arange(i2t.shape[1])
    return np.mean([recall(ranks, image, k, times) for ranks in (i2t, t2i) for k in ks], axis=0)


def chance(n: int, ks: Sequence[int] = (1, 5, 10)) -> float:
    """Return the mean recall at `ks` of a random order of n, in percent."""
    return 100 * float(np.mean(np.minimum(np.array(ks) / n, 1)))


def auc(scores: np.ndarray, present: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Area under the ROC curve: the probability that an image with the thing scores higher than one without, ties by half.

    Args:
        scores: (N,) float; -inf is allowed, NaN is not.
        present: (N,) bool: whether the image shows the thing.
        times: (R, N), how often each image counts.

    Returns:
        (R,) float64, 0 to 1; 0.5 is guessing; NaN in a resample where all images show it, or none does.
    """
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # of runs of equal scores
    right, wrong = (np.add.reduceat(times[:, order] * kind[order], starts, axis=1) for kind in (present, ~present))
    below = np.cumsum(wrong, axis=1) - wrong / 2
    with np.errstate(invalid="ignore"):
        return (right * below).sum(axis=1) / (right.sum(axis=1) * wrong.sum(axis=1))


def mean_auc(scores: np.ndarray, present: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Area under the ROC curve in percent, the mean over seeds: `auc` with (S, N) scores, a row for each seed's model.

    Raises:
        DataError: A score is NaN or infinite.
    """
    scores = np.asarray(scores, float)
    if not np.isfinite(scores).all():
        raise DataError(f"{(~np.isfinite(scores)).sum()} scores are NaN or infinite: the embeddings are broken")
    return 100 * np.mean([auc(row, np.asarray(present), times) for row in scores], axis=0)


def average_precision(score: np.ndarray, right: np.ndarray, total: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Area under precision against recall, precision being the best at that recall or a higher one.

    Args:
        score: (D,) of what was found; of equal ones the wrong come first.
        right: (D,) bool.
        total: (S,) number of all true ones.
        times: (S, D), how often each counts: one row for each resample.

    Returns:
        (S,) float64, 0 to 1; NaN where there is nothing to find.
    """
    order = np.lexsort((right, -score))
    hits = times[:, order] * right[order]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(np.cumsum(hits, 1) / np.cumsum(times[:, order], 1))
        best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        return np.where(total > 0, (best * hits).sum(1) / total, np.nan)


# Numbers over several seeds


def summary(measure: Callable[..., np.ndarray], arrays: Sequence[np.ndarray], *rest: object, times: np.ndarray) -> dict:
    """Sum up a measure over seeds: its mean with an interval, and each seed's own value.

    Args:
        measure: `recall`, `mean_recall` or `mean_auc`.
        arrays: Its first arguments, those that have a row for each seed.
        rest: Its arguments between these and `times`.
        times: (R, N) from `resamples`; the same for whatever is compared.

    Returns:
        `value`, `ci_low` and `ci_high` as from `interval`, `seeds` (one value each), `values` (R,), which the interval is of, and
        `units`, the number of images behind it.
    """
    values = measure(*arrays, *rest, times)
    units = times.shape[1]  # images; of recalls those that ask, of areas under the curve those of the rarer kind
    if measure is recall:
        units = len(np.unique(rest[0]))
    elif measure is mean_auc:
        units = int(min(np.sum(rest[0]), np.sum(~np.asarray(rest[0], bool))))
    seeds = [float(measure(*(array[i : i + 1] for array in arrays), *rest, times[:1])[0]) for i in range(len(arrays[0]))]
    return interval(values, units) | {"seeds": seeds, "values": values, "units": units}


def over_seeds(values: np.ndarray, seed: int) -> np.ndarray:
    """Return the mean over seeds in every resample of the images, with the seeds varied beside them.

    A handful of seeds, drawn with replacement, would vary too little. So to each resample of the images a random number is added, as
    wide as the mean of so many seeds varies; it is wider by Student's t, as far as the seeds are what the whole varies by. An interval
    over these values covers other images and other seeds.

    Args:
        values: (R, S) float: a column for each seed; the first row over all images, then over each resample.
        seed: Seed of the random numbers.

    Returns:
        (R,) float. Of one seed alone its own values: what another would give is not known.

    Source:
        A. B. Owen: The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007): images and seeds together. F. E. Satterthwaite: An
        approximate distribution of estimates of variance components, Biometrics Bulletin 2 (1946): the degrees of freedom.
    """
    values = np.asarray(values, float)
    means, S = values.mean(axis=1), values.shape[1]
    of_seeds = float(values[0].var(ddof=1)) / S if S > 1 else 0.0
    if not of_seeds or len(means) < 2:
        return means
    of_images = float(means[1:].var())
    t, z = student((of_images + of_seeds) ** 2 * (S - 1) / of_seeds**2), student(np.inf)
    wide = np.sqrt((t / z) ** 2 * (of_images + of_seeds) - of_images)
    return means + wide * np.append(0.0, np.random.default_rng(seed).normal(size=len(means) - 1))


def difference(one: Mapping, other: Mapping) -> dict:
    """Return the difference of two summaries, as `gap`, and `seeds`, one for each seed."""
    seeds = [a - b for a, b in zip(one["seeds"], other["seeds"], strict=True)]
    return gap(one["values"], other["values"], one["units"]) | {"seeds": seeds}


def in_words(gap: Mapping) -> str:
    """Say a `difference` in points, with its interval over images, and why it may be chance: the interval holds 0, or seeds disagree.

    One seed cannot disagree with itself, so of one seed alone it says that, too.
    """
    if gap["ci_low"] is None:
        return f"{gap['value']:+.1f} points (no interval)"
    words = f"{gap['value']:+.1f} points ({gap['ci_low']:+.1f} to {gap['ci_high']:+.1f}"
    doubts = ["may be chance"] if gap["ci_low"] <= 0 <= gap["ci_high"] else []
    doubts += ["one seed"] if len(gap["seeds"]) == 1 else []
    doubts += ["seeds disagree"] if min(gap["seeds"]) < 0 < max(gap["seeds"]) else []
    return "; ".join([words, *doubts]) + ")"


def row(entry: Mapping) -> dict:
    """Return the part of a `summary` that a row of results holds: `value ci_low ci_high`."""
    return {name: entry[name] for name in ("value", "ci_low", "ci_high")}


def dots(entries: Mapping[tuple[str, str], Mapping], chance: float) -> list[dict]:
    """Return summaries, named by label and series, as rows for `charts.interval_dots`: the interval, and a dot for each seed."""
    rows = []
    for (label, series), entry in entries.items():
        rows.append({"label": label, "series": series, "chance": chance} | row(entry))
        rows += [{"label": label, "series": series, "value": value} for value in entry["seeds"]]
    return rows
