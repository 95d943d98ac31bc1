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

    Args:
        scores: (N, L) float, how well each label fits each picture, in any unit; compared within a label alone.
        labels: (N, L) `YES`, `NO` or `UNKNOWN`.
        times: (R, N), how often each picture counts, as from `statistics.resamples`.

    Returns:
        (L, R) float64, in percent; NaN in a resample in which no picture shows the label.

    Raises:
        DataError: A score is NaN, or a label is none of the three.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels)
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


def chance(labels: np.ndarray) -> np.ndarray:
    """Return the share of pictures that show each label, of those of which it is known: what a random order has, (L,) in percent."""
    labels = np.asarray(labels)
    with np.errstate(invalid="ignore"):
        return 100 * (labels == YES).sum(axis=0) / (labels != UNKNOWN).sum(axis=0)
