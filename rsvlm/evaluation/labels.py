"""Several labels to a picture: how well do scores find the pictures that show each, and all of them on average?

A label that is unknown for a picture, as where two people disagree, neither counts for a score nor against it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsvlm.errors import DataError
from rsvlm.evaluation import statistics

YES, NO, UNKNOWN = 1, 0, -1
"""Whether a picture shows what a label says."""

LEAST = 5
"""Pictures that must show a label for it to count in the mean over labels."""

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Penalties that `ridge` chooses from, as shares of the number of training pictures."""


def average_precisions(scores: np.ndarray, labels: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Measure the average precision of each label: the area under precision against recall, as `statistics.average_precision`.

    Precision is there the best at a recall or a higher one, and of equal scores the wrong come first: without equal scores it is
    somewhat more than what sums the precision at each picture that is found, as scikit-learn does.

    Args:
        scores: (N, L) float, how well each label fits each picture, in any unit; compared within a label alone.
        labels: (N, L) `YES`, `NO` or `UNKNOWN`.
        times: (R, N), how often each picture counts, as from `statistics.resamples`.

    Returns:
        (L, R) float64, in percent; NaN in a resample in which no picture shows the label.

    Raises:
        DataError: A score is NaN, a label is none of the three, or shapes do not fit.
    """
    scores, labels, times = np.asarray(scores, float), np.asarray(labels), np.asarray(times)
    if scores.ndim != 2 or scores.shape != labels.shape or times.shape[1:] != labels.shape[:1]:
        raise DataError(f"scores {scores.shape}, labels {labels.shape}, times {times.shape}: expected (N, L), (N, L), (R, N)")
    if np.isnan(scores).any():
        raise DataError(f"{np.isnan(scores).sum()} scores are NaN: the embeddings are broken")
    if not np.isin(labels, (YES, NO, UNKNOWN)).all():
        raise DataError(f"labels are {YES}, {NO} or {UNKNOWN}, and not {labels[~np.isin(labels, (YES, NO, UNKNOWN))][0]}")
    result = np.empty((scores.shape[1], len(times)))
    for number, (score, label) in enumerate(zip(scores.T, labels.T, strict=True)):
        known = label != UNKNOWN
        right, counts = label[known] == YES, times[:, known]
        result[number] = 100 * statistics.average_precision(score[known], right, (counts * right).sum(axis=1), counts)
    return result


def mean_average_precision(precisions: np.ndarray) -> np.ndarray:
    """Return the mean over labels: (L, R) as from `average_precisions` → (R,) percent; a label that a resample lacks is left out of it."""
    there = np.isfinite(precisions)
    with np.errstate(invalid="ignore"):
        return np.where(there, precisions, 0).sum(axis=0) / there.sum(axis=0)


def chance(labels: np.ndarray, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """Return the average precision that pictures in a random order have: (L,) in percent, the mean over so many orders.

    It is above the share of pictures that show a label, and far above where few do: of one among 100 it is 5, not 1. NaN where none does.
    """
    labels = np.asarray(labels)
    orders = np.random.default_rng(seed).random((draws, len(labels)))
    once = np.ones((1, len(labels)), np.int64)
    return np.mean(
        [average_precisions(np.repeat(order[:, None], labels.shape[1], 1), labels, once)[:, 0] for order in orders], axis=0
    )


def evaluate(
    scores: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    dataset: str = "unnamed",
    split: str = "test",
    protocol: str = "labels",
    bootstrap_samples: int = 1000,
    seed: int = 0,
    blocks: Sequence | None = None,
    resampled: dict | None = None,
) -> list[dict]:
    """Score each label, and their mean, with intervals and what a random order has.

    Args:
        scores: (N, L) as for `average_precisions`.
        labels: (N, L) as for `average_precisions`.
        names: L names of the labels.
        dataset: Name that goes into the rows.
        split: Name that goes into the rows.
        protocol: Name that goes into the rows.
        bootstrap_samples: Number of resamples of the pictures.
        seed: Seed of the resamples.
        blocks: N blocks, as for `statistics.bootstrap`.
        resampled: Dictionary that the values over resamples are added to, (R,) under each row's (protocol, direction, metric).

    Returns:
        Rows as of `retrieval.evaluate`: `AP[NAME]` of each label that some picture shows, `n` being the pictures that do; and `mAP` over
        the labels that at least `LEAST` pictures show, `n` being all pictures.

    Raises:
        DataError: As of `average_precisions`, or no label has enough pictures.
    """
    labels = np.asarray(labels)
    times = statistics.resamples(len(labels), bootstrap_samples, seed, blocks)
    values, random = average_precisions(scores, labels, times), chance(labels)
    shown = (labels == YES).sum(axis=0)
    if not (counted := shown >= LEAST).any():
        raise DataError(f"no label is shown by {LEAST} pictures of {dataset}: a mean over labels needs one that is")
    told = [(f"AP[{name}]", values[i], random[i], shown[i]) for i, name in enumerate(names) if shown[i]]
    told.append(("mAP", mean_average_precision(values[counted]), random[counted].mean(), len(labels)))
    rows = []
    for metric, draws, by_chance, count in told:
        facts = {"dataset": dataset, "split": split, "protocol": protocol, "direction": "t2i", "metric": metric}
        rows.append(facts | statistics.interval(draws) | {"chance": float(by_chance), "n": int(count)})
        if resampled is not None:
            resampled[protocol, "t2i", metric] = draws
    statistics.warn_of_few(rows, bootstrap_samples)
    return rows


def ridge(
    features: np.ndarray, labels: np.ndarray, held: np.ndarray, held_labels: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    """Learn labels from features by ridge regression, the supervised rival of a model that was never shown a label.

    One penalty serves all labels: that with the highest mean average precision on pictures held out. With it the labels are learned again from all
    pictures, those included, for a place that only they show would be unknown otherwise.

    Args:
        features: (T, D) of the training pictures, as of `baselines.colours`.
        labels: (T, L) as for `average_precisions`.
        held: (H, D) of pictures that the penalty is chosen on.
        held_labels: (H, L) their labels.
        asked: (N, D) of the pictures to tell.

    Returns:
        (N, L) float64 scores. A label that no training picture shows has the same score everywhere.
    """
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    once, best = np.ones((1, len(held)), int), (-np.inf, PENALTIES[0])
    for penalty in PENALTIES:
        scores = _linear(features, labels, penalty, held)
        best = max(best, (np.nanmean(average_precisions(scores, held_labels, once)), penalty), key=lambda pair: pair[0])
    return _linear(np.concatenate([features, held]), np.concatenate([labels, held_labels]), best[1], asked)


def _linear(features: np.ndarray, labels: np.ndarray, penalty: float, asked: np.ndarray) -> np.ndarray:
    """Learn labels by ridge regression from (T, D) features, with a penalty as a share of T, and score (N, D) others: (N, L)."""
    centre, width = features.mean(0), features.std(0)
    scaled = [np.column_stack([(x - centre) / np.where(width > 1e-6, width, 1), np.ones(len(x))]) for x in (features, asked)]
    weights = np.zeros((scaled[0].shape[1], labels.shape[1]))
    for label in range(labels.shape[1]):
        known = labels[:, label] != UNKNOWN
        x, y = scaled[0][known], labels[known, label] == YES
        gram = x.T @ x + penalty * len(x) * np.diag([*np.ones(x.shape[1] - 1), 0])
        weights[:, label] = np.linalg.solve(gram, x.T @ y)
    return scaled[1] @ weights
