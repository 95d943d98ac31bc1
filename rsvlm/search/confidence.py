"""How sure a search is that learns from labels: average precision on them, and what to expect of all chips.

Pure functions, as `teaching`, whose steps are continued here for whoever writes them again:

7.  On the labels alone: the average precision of the order by g, the labels' f had they not been given. Its interval is over `DRAWS` draws
    of n labels with replacement, label floor(n · u) with u of `uniforms` of seed 1.
8.  Of the whole order, from a classifier on: ranks are put into groups, 2,000 of one and then of half a percent of the ranks so far. For
    each draw, k and l are their fit plus L e, L being the lower Cholesky factor of their covariance and e two normal numbers of Box
    and Muller (uniforms of seed 2). In a group of one that has no label there is a yes if a uniform of seed 3 is below the probability
    at its f; in a larger one as many as the probability at the mean f of its chips without a label, times their number. A
    labelled chip is what its label says. Each draw has an average precision, and a number of yes among the first k.
9.  Enough is taught when the expected average precision is not `RISE` above the best of `PATIENCE` or more labels ago.

Values are means over draws, intervals 2.5 and 97.5 percentiles, linear between neighbours. Average precision is as `evaluation.statistics` has it: precision is the best at that recall or a higher one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsvlm.search import teaching
from rsvlm.search.teaching import Classifier, Lesson, Space, logistic, uniforms

DRAWS = 64
"""Number of draws behind an expectation."""

PATIENCE, RISE = 10, 0.01
"""Labels over which the expected average precision must rise by so much, or teaching may stop."""

_SINGLE = 2000  # ranks that are drawn one by one


def precision_on_labels(classifier: Classifier, yes: np.ndarray) -> dict[str, float] | None:
    """Measure average precision on the labels alone, each left out in turn.

    What was proposed is what was hard to tell, so this is not the precision on the whole index; `expectations` is about that.

    Args:
        classifier: As from `teaching.fit`.
        yes: (n,) bool, the labels that it learnt from.

    Returns:
        `value`, and `ci_low` and `ci_high`, 2.5 and 97.5 percentiles over labels drawn anew; None if not both kinds are there.
    """
    yes = np.asarray(yes, bool)
    if yes.all() or not yes.any():
        return None
    order = np.lexsort((yes, -classifier.left_out))  # of equal ones, no comes first
    n = len(yes)
    drawn = (uniforms(DRAWS, n, 1) * n).astype(np.int64)
    times = [np.ones(n), *(np.bincount(row, minlength=n) for row in drawn)]
    value, *values = (_precision(row[order], row[order] * yes[order]) for row in times if (row * yes).any())
    low, high = np.percentile(values, [2.5, 97.5])
    return {"value": float(value), "ci_low": float(low), "ci_high": float(high)}


def expectations(lesson: Lesson, rows: np.ndarray, yes: np.ndarray, ks: Sequence[int] = (10, 50, 100)) -> dict | None:
    """Say how good the whole order should be: step 8 of the method.

    Labels count as what they are, all other chips by their probabilities. Which chips were proposed does not bend a probability, as it
    would bend a share of the labels: it is fitted to yes against score.

    Args:
        lesson: As from `teaching.teach`.
        rows: As for `teaching.teach`.
        yes: As for `teaching.teach`.
        ks: How many of the first chips to speak of; those above N are left out.

    Returns:
        `average_precision`, `yes` (number of chips among all) and `first`, by k the number of yes among the first k; each with `value`,
        `ci_low` and `ci_high`. None without a classifier, or with one kind of label alone.
    """
    yes = np.asarray(yes, bool)
    if lesson.classifier is None or yes.all() or not yes.any():
        return None
    known = np.full(len(lesson.order), -1, np.int8)
    known[rows] = yes
    edges = groups(len(lesson.order), ks)
    f, label = lesson.scores[lesson.order], known[lesson.order]
    # By group of ranks: the labelled yes, and how many others with which mean of f.
    given = np.add.reduceat(label == 1, edges[:-1], dtype=np.int64)
    others = np.add.reduceat(label < 0, edges[:-1], dtype=np.int64)
    middle = np.add.reduceat(np.where(label < 0, f, 0), edges[:-1]) / np.maximum(others, 1)
    # Standard normal pairs by Box and Muller, one for each draw.
    flat = uniforms(DRAWS, 2, 2)
    radius, angle = np.sqrt(-2 * np.log(1 - flat[:, 0])), 2 * np.pi * flat[:, 1]
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    fitted = np.array([np.log(lesson.classifier.slope), lesson.classifier.shift])
    log_slope, shift = (fitted + normal @ np.linalg.cholesky(lesson.classifier.doubt).T).T[:, :, None]
    chance = logistic(np.exp(log_slope) * middle + shift)
    coins = uniforms(DRAWS, len(middle), 3)
    hits = given + np.where(others == 1, coins < chance, others * chance)
    total = np.cumsum(hits, axis=1)
    precision = np.array([_precision(np.diff(edges), one) for one in hits])
    first = {k: total[:, np.searchsorted(edges, k) - 1] for k in ks if k <= len(f)}
    spoken = {"average_precision": _told(precision), "yes": _told(total[:, -1])}
    return spoken | {"first": {k: _told(counts) for k, counts in first.items()}}


def history(vectors: np.ndarray, about: Space, rows: np.ndarray, yes: np.ndarray, step: int = 5) -> list[tuple[int, float]]:
    """Say what was expected as labels came in: the arguments are those of `teaching.teach`.

    Returns:
        Numbers of labels, every `step` from `teaching.FEW` on, at most the last 20 of them, and all; each with the expected
        `average_precision`. Numbers at which there was one kind of label alone are left out.
    """
    rows, yes = np.asarray(rows, np.int64), np.asarray(yes, bool)
    counts = sorted({*range(teaching.FEW, len(rows) + 1, step), len(rows)})[-20:]
    counts = [n for n in counts if n >= teaching.FEW and 0 < yes[:n].sum() < n]
    if not counts:
        return []
    labelled = np.asarray(vectors[rows], np.float64)
    fits = [teaching.fit(about, labelled[:n], yes[:n]) for n in counts]
    scores = teaching.products(vectors, np.stack([one.weights for one in fits], axis=1))
    result = []
    for n, one, score in zip(counts, fits, scores.T):
        order = np.argsort(-score, kind="stable")
        f = score + one.offset
        lesson = Lesson("classifier", f, None, order, np.empty(0, np.int64), one.weights, one.offset, one)
        result.append((n, expectations(lesson, rows[:n], yes[:n], ())["average_precision"]["value"]))
    return result


def enough(told: Sequence[tuple[int, float]]) -> bool:
    """Say whether more labels are likely to add little.

    Args:
        told: As from `history`.

    Returns:
        Whether the last is not above all those of at least `PATIENCE` labels before by `RISE`.
    """
    if not told:
        return False
    count, last = told[-1]
    before = [value for n, value in told if n <= count - PATIENCE]
    return bool(before) and last < max(before) + RISE


def groups(n: int, ks: Sequence[int]) -> np.ndarray:
    """Edges of groups of ranks: one by one up to `_SINGLE`, then each half a percent longer, and an edge at every k."""
    edges, at = list(range(min(n, _SINGLE) + 1)), min(n, _SINGLE)
    while at < n:
        at = min(n, at + max(1, at // 200))
        edges.append(at)
    return np.unique(np.array([*edges, *(k for k in ks if 0 < k < n)], np.int64))


def _precision(sizes: np.ndarray, hits: np.ndarray) -> float:
    """Average precision of groups of ranks from the best on: (g,) numbers of chips and (g,) numbers of yes among them."""
    total = np.cumsum(hits)
    if total[-1] <= 0:
        return 0.0
    precision = total / np.maximum(np.cumsum(sizes), 1)
    return float((np.maximum.accumulate(precision[::-1])[::-1] * hits).sum() / total[-1])


def _told(values: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return {"value": float(values.mean()), "ci_low": float(low), "ci_high": float(high)}
