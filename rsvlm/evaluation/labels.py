"""Several labels to a picture: how well do scores find the pictures that show each, and all of them on average?

A label that is unknown for a picture, as where two people disagree, neither counts for a score nor against it.
"""

from __future__ import annotations

import numpy as np

from rsvlm.errors import DataError
from rsvlm.evaluation import statistics

YES, NO, UNKNOWN = 1, 0, -1
"""Whether a picture shows what a label says."""


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
