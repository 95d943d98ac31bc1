"""A search that learns from yes and no: what is taught by a few labels, what to look at next, and how sure the answer is.

Pure functions of N vectors x of norm 1, a text's direction t of norm 1, and labels of n chips. The method, for whoever writes it again:

1.  Once for a text: m, the mean of all x; r = sqrt(1 - m·m), their spread; and the mean u and the deviation s of all x·t. A
    chip's text score is z = (x·t - u) / s, its vector is h = (x - m) / r.
2.  Without labels the order is that of x·t; with fewer than 5 it is Rocchio's, x·(t + 0.75 · mean of yes - 0.15 · mean of no).
3.  From 5 on it is f(x) = A z + B + v·h by logistic regression of the labels with a Gaussian prior: A ~ N(1, 1), B ~ N(-2,
    2²), v ~ N(0, c), so that with no labels it is the text. The solution lies in the span of n vectors: f = z - 2 + K a on the
    labelled chips, K_ij = c h_i·h_j + z_i z_j + 4, and a by Newton: p = 1 / (1 + exp(-f)), W = p (1 - p), b = W (f - z + 2) +
    y - p, a = b - √W S⁻¹ √W K b, S = 1 + √W K √W (Rasmussen and Williams, algorithm 3.1; y is 1 or 0), from a = 0 on;
    a step that lowers the posterior, -sum of log(1 + exp(-(2 y_i - 1) f_i)) - a·K a / 2, is halved until it does not. Then A = 1 + Σ a_i z_i,
    B = 4 Σ a_i - 2, v = c Σ a_i h_i.
4.  c is the one of `FREEDOMS` with the least sum of log(1 + exp(-(2 y_i - 1) g_i)) + (ln(c / 3))² / 2, where g_i is what f_i
    would be had label i not been given: g_i = f_i - q_i (y_i - p_i) / (1 - W_i q_i), q = diagonal of K - K √W S⁻¹ √W K.
5.  The probability of a chip is 1 / (1 + exp(-(exp(k) f + l))), k ~ N(0.7, 0.7²), l ~ N(0, 2²) fitted to the pairs of g_i and
    y_i by Newton; their covariance is twice the inverse of the curvature there, p (1 - p) for that of each label.
6.  To be looked at next: of the 20 · count unlabelled chips with the largest q = p (1 - p) one after another that with the
    largest q · (least |h - h'|² to a chip labelled or taken; 1 where there is none); the last fifth of the count, rounded
    down, is drawn from all that is left, as else nobody would see what the order buries: floor(left · u), u of `uniforms` of
    seed n. As long as no label is yes, and with fewer than 5, of the 20 · count first of the order, q = 1 / (1 + place /
    count), place from 0; and none is drawn.

Source: the weights of step 2 are those of Manning, Raghavan and Schütze, Introduction to Information Retrieval (2008), section
9.1.1; step 4 is the leave-one-out of Rad and Maleki (2020, arXiv 1801.10243); step 5 is Platt's scaling (1999). The priors are
ours, chosen on training pictures of RSICD and on the north of Itaipu; `benchmarks/teaching.py` measures on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsvlm.errors import DataError

ROCCHIO = (1.0, 0.75, 0.15)
"""Weights of the text, of the mean of yes and of the mean of no."""

FEW = 5
"""Number of labels from which on the classifier decides, and no more Rocchio's formula."""

FREEDOMS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Variances of the prior of v that are tried."""

MOST = 1000
"""Most labels that are learnt from: the work grows with their third power."""

_TEXT, _OFFSET = (1.0, 1.0), (-2.0, 2.0)  # mean and deviation of the priors of A and B
_FREEDOM = (3.0, 1.0)  # middle, and deviation of the logarithm, of the prior of c
_SLOPE, _SHIFT = (0.7, 0.7), (0.0, 2.0)  # of k and l
_DOUBT = 2.0  # factor of their covariance: labels proposed together are alike, and so count for less
_AT_RANDOM = 5  # one of so many proposals
_SHORTLIST = 20
_AT_ONCE = 65_536


@dataclass(frozen=True)
class Space:
    """Step 1 of the method: `middle` (E,), `spread`, and of the scores of the text `direction` (E,) their `mean` and `deviation`."""

    direction: np.ndarray
    middle: np.ndarray
    spread: float
    mean: float
    deviation: float

    def centred(self, vectors: np.ndarray) -> np.ndarray:
        """Return the h of the method, (n, E) float64."""
        return (np.asarray(vectors, np.float64) - self.middle) / self.spread

    def text(self, vectors: np.ndarray) -> np.ndarray:
        """Return the z of the method, (n,) float64."""
        return (np.asarray(vectors, np.float64) @ self.direction - self.mean) / self.deviation


@dataclass(frozen=True)
class Classifier:
    """A chip's f is x · `weights` + `offset`.

    Attributes:
        weights: (E,) float64.
        offset: Number added.
        freedom: The c of the method.
        left_out: (n,) float64, each label's f had it not been given.
        slope: Factor of f in a probability, and
        shift: what is added to it.
        doubt: (2, 2) covariance of the slope's logarithm and the shift.
    """

    weights: np.ndarray
    offset: float
    freedom: float
    left_out: np.ndarray
    slope: float
    shift: float
    doubt: np.ndarray

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return the probability of yes for each f, of the same shape."""
        return logistic(self.slope * scores + self.shift)


@dataclass(frozen=True)
class Lesson:
    """What a set of labels teaches.

    Attributes:
        method: `text`, `rocchio` or `classifier`.
        scores: (N,) float64, the larger the better; of the classifier they are f, else cosines or sums of them.
        probabilities: (N,) float64; None but for the classifier.
        order: (N,) int64, chips from the best on.
        proposals: Numbers of the chips to look at next, the first first.
        weights: (E,) float64; the scores are products with them, and
        offset: what is added.
        classifier: The classifier, if it decides.
    """

    method: str
    scores: np.ndarray
    probabilities: np.ndarray | None
    order: np.ndarray
    proposals: np.ndarray
    weights: np.ndarray
    offset: float
    classifier: Classifier | None


def space(vectors: np.ndarray, direction: np.ndarray) -> Space:
    """Measure the vectors once for a text.

    Args:
        vectors: (N, E) of any floating type and norm 1; a memory map is read a block at a time.
        direction: (E,) of any norm but 0: a text's vector, or what stands for one.

    Raises:
        DataError: Shapes do not fit, a number is not finite, or there are no two different vectors.
    """
    direction = np.asarray(direction, np.float64)
    if vectors.ndim != 2 or not len(vectors) or direction.shape != (vectors.shape[1],):
        raise DataError(f"vectors of shape {vectors.shape} and a direction of {direction.shape}: expected (N, E) and (E,)")
    norm = float(np.linalg.norm(direction))
    if not np.isfinite(norm) or not norm:
        raise DataError("the direction is zero, NaN or infinite: embed the text again")
    direction = direction / norm
    middle = np.zeros(len(direction))
    for start in range(0, len(vectors), _AT_ONCE):
        middle += np.asarray(vectors[start : start + _AT_ONCE], np.float32).sum(axis=0, dtype=np.float64)
    middle /= len(vectors)
    cosines = products(vectors, direction)
    if not np.isfinite(middle).all():
        raise DataError("some vectors hold NaN or infinite numbers: index again")
    spread = float(np.sqrt(max(1 - middle @ middle, 0)))
    deviation = float(cosines.std())
    if spread < 1e-3 or deviation < 1e-9:
        raise DataError(f"all {len(vectors)} vectors are alike: there is nothing to tell apart")
    return Space(direction, middle, spread, float(cosines.mean()), deviation)


def products(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Multiply (N, E) vectors of any floating type with weights, a block at a time, in single precision.

    Returns:
        Of (E,) weights (N,) float64, of (E, k) weights (N, k).
    """
    result = np.empty((len(vectors), *weights.shape[1:]))
    for start in range(0, len(vectors), _AT_ONCE):
        block = np.asarray(vectors[start : start + _AT_ONCE], np.float32)
        result[start : start + len(block)] = block @ weights.astype(np.float32)
    return result


def rocchio(direction: np.ndarray, labelled: np.ndarray, yes: np.ndarray) -> np.ndarray:
    """Move a text's direction towards the mean of yes and away from the mean of no, by `ROCCHIO`.

    Args:
        direction: (E,) of norm 1.
        labelled: (n, E), vectors of the labelled chips; n may be 0.
        yes: (n,) bool.

    Returns:
        (E,) float64, of any norm.
    """
    labelled, yes = np.asarray(labelled, np.float64), np.asarray(yes, bool)
    result = ROCCHIO[0] * np.asarray(direction, np.float64)
    for weight, part in ((ROCCHIO[1], labelled[yes]), (-ROCCHIO[2], labelled[~yes])):
        result = result + weight * part.mean(axis=0) if len(part) else result
    return result


def fit(about: Space, labelled: np.ndarray, yes: np.ndarray, freedoms: Sequence[float] = FREEDOMS) -> Classifier:
    """Learn a linear classifier that starts from the text: steps 3 to 5 of the method.

    Args:
        about: As from `space`.
        labelled: (n, E), vectors of the labelled chips, n at least 1; one kind of label alone is enough.
        yes: (n,) bool.
        freedoms: Variances c that are tried.

    Raises:
        DataError: There is no label, or there are more than `MOST`.
    """
    yes = np.asarray(yes, np.float64)
    if not 1 <= len(yes) <= MOST or len(labelled) != len(yes):
        raise DataError(f"{len(labelled)} vectors and {len(yes)} labels: expected as many of each, from 1 to {MOST:,}")
    h, z = about.centred(labelled), about.text(labelled)
    alike, prior = h @ h.T, _TEXT[0] * z + _OFFSET[0]
    common = _TEXT[1] ** 2 * np.outer(z, z) + _OFFSET[1] ** 2
    best = None
    for freedom in freedoms:
        a, left_out = _newton(freedom * alike + common, prior, yes)
        loss = np.logaddexp(0, -(2 * yes - 1) * left_out).sum() + (np.log(freedom / _FREEDOM[0]) / _FREEDOM[1]) ** 2 / 2
        if best is None or loss < best[0]:
            best = (loss, freedom, a, left_out)
    _, freedom, a, left_out = best
    of_text = (_TEXT[0] + _TEXT[1] ** 2 * float(a @ z)) / about.deviation
    of_vector = freedom * (a @ h) / about.spread
    offset = _OFFSET[0] + _OFFSET[1] ** 2 * float(a.sum()) - of_text * about.mean - float(of_vector @ about.middle)
    (log_slope, shift), doubt = _scaled(left_out, yes)
    weights = of_text * about.direction + of_vector
    return Classifier(weights, offset, freedom, left_out, float(np.exp(log_slope)), float(shift), doubt)


def propose(
    vectors: np.ndarray,
    about: Space,
    order: np.ndarray,
    rows: np.ndarray,
    count: int,
    probabilities: np.ndarray | None = None,
    passed_over: Sequence[int] = (),
) -> np.ndarray:
    """Choose what to look at next: step 6 of the method.

    Args:
        vectors: (N, E), as for `space`.
        about: As from `space`.
        order: (N,) chips from the best on.
        rows: (n,) numbers of the chips that have a label.
        count: How many; fewer where there are no more.
        probabilities: (N,) of yes. If None, they are chosen among the first of the order.
        passed_over: Numbers of chips that are not proposed, though they have no label.

    Returns:
        Numbers of chips, (count,) int64, or fewer where two draws at random meet.
    """
    free = np.ones(len(order), bool)
    free[rows] = False
    free[np.asarray(passed_over, np.int64)] = False
    if probabilities is None:
        left = order[free[order]][: _SHORTLIST * count]
        worth, blind = 1 / (1 + np.arange(len(left)) / max(count, 1)), 0
    else:
        blind = count // _AT_RANDOM
        doubt = probabilities * (1 - probabilities)
        left = np.flatnonzero(free)
        short = min(_SHORTLIST * count, len(left))
        if short < len(left):  # a cut that is quick leaves little to sort
            left = left[doubt[left] >= -np.partition(-doubt[left], short)[short]]
        left = left[np.lexsort((left, -doubt[left]))[:short]]
        worth = doubt[left]
    chosen = left[_spread(about.centred(vectors[left]), about.centred(vectors[np.sort(rows)]), worth, count - blind)]
    free[chosen] = False
    rest = np.flatnonzero(free)
    drawn = np.unique((uniforms(1, blind if len(rest) else 0, len(rows)) * len(rest)).astype(np.int64))
    return np.concatenate([chosen, rest[drawn]]).astype(np.int64)


def teach(
    vectors: np.ndarray,
    about: Space,
    rows: np.ndarray,
    yes: np.ndarray,
    count: int = 10,
    method: str = "auto",
    passed_over: Sequence[int] = (),
) -> Lesson:
    """Order all chips by the text and by labels, and choose what to look at next: all that a click asks for.

    Args:
        vectors: (N, E), as for `space`.
        about: As from `space`.
        rows: (n,) numbers of the chips with a label, each once, in the order in which they were given; n may be 0.
        yes: (n,) bool.
        count: How many chips to propose.
        method: `text`, `rocchio`, `classifier`, or `auto`: the number of labels decides, by step 2 of the method.
        passed_over: Numbers of chips that are not proposed, though they have no label.

    Raises:
        DataError: A row is out of range or there twice, or there are more than `MOST`.
    """
    rows, yes = np.asarray(rows, np.int64).reshape(-1), np.asarray(yes, bool).reshape(-1)
    if (
        len(rows) != len(yes)
        or len(np.unique(rows)) < len(rows)
        or (len(rows) and not 0 <= rows.min() <= rows.max() < len(vectors))
    ):
        raise DataError(
            f"{len(rows)} chips with {len(yes)} labels: expected one label for each of 0 to {len(vectors) - 1}, once"
        )
    if method == "auto":
        method = "text" if not len(rows) else "rocchio" if len(rows) < FEW else "classifier"
    labelled = np.asarray(vectors[rows], np.float64).reshape(len(rows), vectors.shape[1])
    if method == "classifier":
        classifier = fit(about, labelled, yes)
        weights, offset = classifier.weights, classifier.offset
    else:
        weights = about.direction if method == "text" else rocchio(about.direction, labelled, yes)
        classifier, offset = None, 0.0
    scores = products(vectors, weights) + offset
    probabilities = None if classifier is None else classifier.probabilities(scores)
    order = np.argsort(-scores, kind="stable")
    proposals = propose(vectors, about, order, rows, count, probabilities if yes.any() else None, passed_over)
    return Lesson(method, scores, probabilities, order, proposals, weights, offset, classifier)


def _spread(h: np.ndarray, known: np.ndarray, worth: np.ndarray, count: int) -> list[int]:
    """Take one after another the row of h with the most worth times the least squared distance to a row known or taken."""
    lengths, distance = np.einsum("ne,ne->n", h, h), np.full(len(h), np.inf)
    if len(known) and len(h):
        distance = (lengths[:, None] + np.einsum("ne,ne->n", known, known) - 2 * h @ known.T).min(axis=1)
    taken: list[int] = []
    while len(taken) < min(count, len(h)):
        gain = worth * np.maximum(np.where(np.isinf(distance), 1, distance), 0)
        gain[taken] = -1
        taken.append(int(gain.argmax()))
        distance = np.minimum(distance, lengths + lengths[taken[-1]] - 2 * h @ h[taken[-1]])
    return taken


def _newton(kernel: np.ndarray, prior: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the a of step 3 and the g of step 4, (n,) each."""
    n = len(y)
    sign, a, f = 2 * y - 1, np.zeros(len(y)), prior.copy()
    height = -np.logaddexp(0, -sign * f).sum()
    for _ in range(50):
        p = logistic(f)
        root = np.sqrt(np.maximum(p * (1 - p), 1e-9))
        inner = np.eye(n) + root[:, None] * kernel * root
        b = root**2 * (f - prior) + y - p
        move = b - root * np.linalg.solve(inner, root * (kernel @ b)) - a
        along = kernel @ move
        # A whole step may go too far, and then back and forth: half of it, until the posterior is no lower.
        for halving in range(31):
            higher = -np.logaddexp(0, -sign * (f + along)).sum() - (a + move) @ (f + along - prior) / 2
            if higher >= height or halving == 30:
                break
            move, along = move / 2, along / 2
        a, f, height = a + move, f + along, higher
        if np.abs(along).max() < 1e-6:
            break
    rooted = root[:, None] * kernel
    own = np.diag(kernel) - np.einsum("ij,ij->j", rooted, np.linalg.solve(inner, rooted))
    p = logistic(f)
    return a, f - own * (y - p) / np.maximum(1 - p * (1 - p) * own, 1e-3)


def _scaled(f: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit step 5: k and l, (2,), and their covariance, (2, 2)."""
    means, weights = (np.array(values) for values in zip(_SLOPE, _SHIFT))
    weights = weights**-2
    answer = means.copy()
    for _ in range(50):
        slope = np.exp(answer[0])
        p = logistic(slope * f + answer[1])
        moves = np.stack([slope * f, np.ones(len(f))], axis=1)
        gradient = moves.T @ (y - p) - weights * (answer - means)
        curvature = (moves * (p * (1 - p))[:, None]).T @ moves + np.diag(weights)
        step = np.clip(np.linalg.solve(curvature, gradient), -0.5, 0.5)
        answer = answer + step
        if np.abs(step).max() < 1e-8:
            break
    return answer, _DOUBT * np.linalg.inv(curvature)


def uniforms(rows: int, columns: int, seed: int) -> np.ndarray:
    """Draw numbers that JavaScript draws too: (rows, columns) float64, at least 0 and below 1.

    The i-th, row by row from 0, is mulberry32 of the state `seed` · 2²⁰ + (i + 1) · 0x6D2B79F5, all modulo 2³².
    """
    state = np.arange(1, rows * columns + 1, dtype=np.uint32) * np.uint32(0x6D2B79F5) + np.uint32((seed << 20) & 0xFFFFFFFF)
    t = (state ^ (state >> np.uint32(15))) * (state | np.uint32(1))
    t ^= t + (t ^ (t >> np.uint32(7))) * (t | np.uint32(61))
    return ((t ^ (t >> np.uint32(14))) / 4294967296.0).reshape(rows, columns)


def logistic(values: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-values)), of the same shape."""
    return 1 / (1 + np.exp(-np.clip(values, -40, 40)))
