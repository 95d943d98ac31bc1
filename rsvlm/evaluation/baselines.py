"""What is known without a model: colours, the commonest class, the kind of place. The best of them stands beside a headline.

A picture is 54 numbers here: mean and deviation of each channel in the nine sectors of a 3 × 3 grid, as logarithms. They tell the palette
and roughly where it is, and nothing of shapes. A ridge regression of the words of captions on them finds pictures by sentences, and
sentences by pictures; a logistic regression on them tells classes. Who reads more in a picture than its colours is better than both.

Where pointing is scored, the middle of the picture and its brightness are in `localization/baselines`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rsvlm.data.reading import decoded
from rsvlm.data.shards import Sample
from rsvlm.errors import DataError
from rsvlm.evaluation import classification, retrieval, statistics
from rsvlm.records.text import batched

GRID = 3
COLOURS = GRID * GRID * 6
"""Number of numbers of a picture."""

PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-5, 2))
"""Penalties that are tried, as shares of the number of training pictures."""

LONGEST = 5
"""Words of the longest n-gram."""
MOST_NGRAMS = {False: 8192, True: 2048}
"""Most n-grams, without whitening and with it."""

HELD_OUT = 0.2
"""Share of the training pictures that a penalty is chosen on, at most `MOST_HELD_OUT`."""
MOST_HELD_OUT = 1000

_WORD = re.compile(r"\w+")
_BATCH = 256


def colours(image: np.ndarray) -> np.ndarray:
    """Return the logarithms of mean and deviation of each channel in each sector: (54,) float32.

    Both are of values from 0 to 1, the mean plus 0.02, the deviation plus 0.005. A picture of fewer pixels than sectors is enlarged.

    Args:
        image: (H, W, 3) uint8.
    """
    image = np.asarray(image)
    repeats = [max(1, -(-GRID // side)) for side in image.shape[:2]]
    image = image.repeat(repeats[0], axis=0).repeat(repeats[1], axis=1)
    starts = [np.cumsum([0, *map(len, np.array_split(np.arange(side), GRID))])[:-1] for side in image.shape[:2]]
    count = np.multiply.outer(*(np.diff([*part, side]) for part, side in zip(starts, image.shape[:2], strict=True)))[..., None]
    # Sums of whole numbers are exact, so that nothing depends on their order.
    means, squares = (
        np.add.reduceat(np.add.reduceat(values, starts[0], axis=0, dtype=np.int64), starts[1], axis=1) / count
        for values in (image, np.square(image, dtype=np.int32))
    )
    deviations = np.sqrt(np.maximum(squares - means**2, 0))
    return np.log(np.concatenate([means / 255 + 0.02, deviations / 255 + 0.005], axis=2)).ravel().astype(np.float32)


def read(samples: Iterable[Sample]) -> tuple[np.ndarray, list[list[str]], list[str]]:
    """Return colours (N, 54), captions and keys of the pictures that can be read.

    Raises:
        DataError: None can.
    """
    parts = [(colours(image), list(sample.captions), sample.key) for sample, image in decoded(samples, Counter())]
    if not parts:
        raise DataError("no picture of the split can be read")
    several, captions, keys = zip(*parts, strict=True)
    return np.stack(several), list(captions), list(keys)


@dataclass(frozen=True)
class _Scale:
    """Mean and deviation of each of the numbers of the training pictures; of one that never changes, 1."""

    centre: np.ndarray
    width: np.ndarray

    def __call__(self, colours: np.ndarray) -> np.ndarray:
        return (np.asarray(colours, np.float64) - self.centre) / self.width


def _scale(colours: np.ndarray) -> _Scale:
    width = colours.std(0)
    return _Scale(colours.mean(0), np.where(width > 1e-6, width, 1))


def _held_out(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw which of so many training pictures a penalty is chosen on: the others, and those."""
    order = np.random.default_rng([seed, 0xC0]).permutation(count)
    most = min(MOST_HELD_OUT, max(1, int(HELD_OUT * count)))
    return np.sort(order[most:]), np.sort(order[:most])


# Retrieval


@dataclass(frozen=True)
class ColourRidge:
    """A ridge regression of the n-grams of captions on colours, and the n-grams that it knows.

    Cosines of its vectors of pictures and texts are those of predicted and actual n-grams: what lies outside of all predictions has no
    part in the products, and only its length is kept.

    Attributes:
        scale: Scale of the colours.
        weights: (54, D) from scaled colours to coordinates of the predictions.
        basis: (V, D) from n-grams to the same coordinates.
        ngrams: N-grams, their rarity and the usual caption.
        penalty: As chosen, as a share of the number of training pictures.
    """

    scale: _Scale
    weights: np.ndarray
    basis: np.ndarray
    ngrams: _Ngrams
    penalty: float

    def images(self, colours: np.ndarray) -> np.ndarray:
        """Return (N, D + 2) float32 vectors of norm 1 of pictures with (N, 54) `colours`."""
        inside = self.scale(colours) @ self.weights
        return _unit(inside, np.zeros(len(inside)))

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Return (M, D + 2) float32 vectors of norm 1 of M captions."""
        parts = []
        for vectors in map(self.ngrams.vectors, batched(list(captions), _BATCH)):
            inside = vectors @ self.basis
            beside = np.sqrt(np.maximum((vectors**2).sum(1) - (inside**2).sum(1), 0))
            parts.append(_unit(inside, beside))
        return np.concatenate(parts) if parts else np.empty((0, self.basis.shape[1] + 2), np.float32)


def colour_ridge(
    colours: np.ndarray,
    captions: Sequence[Sequence[str]],
    *,
    whitening: float = 0.0,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
) -> ColourRidge:
    """Learn which n-grams of up to five words go with which colours.

    A text is the set of its n-grams, weighted by rarity and brought to norm 1, minus the mean of the training captions: what it says
    besides what all say. A picture's target is the mean of its captions, or its first, often the fullest. Which of the two, and which
    penalty, is decided by mean recall over all captions on a part of the pictures held out; the regression is then of all of them.

    N-grams that always come together count again and again. Whitening makes all directions of their space count alike, but for those
    in which the training captions hardly differ; the regression then is the canonical correlation analysis of colours and n-grams.

    Args:
        colours: (T, 54) of the training pictures, as of `colours`.
        captions: T lists of captions.
        whitening: What is added to the variance of each direction before it is brought to 1, as a share of their mean; 0.1 is a
            good start. If 0, nothing is whitened.
        seed: Seed of the draw of those held out.
        penalties: Penalties to choose from. One alone is taken as it is.

    Raises:
        DataError: Fewer than ten pictures have captions, or there is not one list of captions for each picture.
    """
    colours = np.asarray(colours, np.float64)
    if len(colours) != len(captions):
        raise DataError(f"{len(captions)} lists of captions for {len(colours)} pictures: expected one each")
    told = [i for i, texts in enumerate(captions) if any(_WORD.search(text) for text in texts)]
    if len(told) < 10:
        raise DataError(f"{len(told)} training pictures have captions: a regression on colours needs ten or more")
    colours, captions = colours[told], [[text for text in captions[i] if _WORD.search(text)] for i in told]
    ways = [captions, [texts[:1] for texts in captions]]
    ways = ways if any(len(texts) > 1 for texts in captions) else ways[:1]
    best, way = penalties[0], 0
    if len(penalties) > 1 or len(ways) > 1:
        rest, out = _held_out(len(captions), seed)
        owners = np.repeat(np.arange(len(out)), [len(captions[i]) for i in out])
        texts = [text for i in out for text in captions[i]]
        scores = {}
        for number, chosen in enumerate(ways):
            solved = list(_solved(colours[rest], [chosen[i] for i in rest], whitening, penalties))
            known = solved[0].texts(texts)  # the same for all penalties
            scores |= {(r.penalty, number): _mean_recall(r.images(colours[out]), known, owners) for r in solved}
        best, way = max(scores, key=scores.get)
    return next(_solved(colours, ways[way], whitening, [best]))


@dataclass(frozen=True)
class _Ngrams:
    """V n-grams: their columns, how much each counts, and the mean vector of captions; perhaps a matrix that whitens."""

    columns: Mapping[str, int]
    rarity: np.ndarray
    usual: np.ndarray
    whiten: np.ndarray | None = None

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return (M, V) float64, the mean of captions taken off."""
        vectors = np.zeros((len(texts), len(self.rarity)))
        for row, text in enumerate(texts):
            known = [column for gram in set(ngrams(text)) if (column := self.columns.get(gram)) is not None]
            vectors[row, known] = self.rarity[known]
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) - self.usual
        return vectors if self.whiten is None else vectors @ self.whiten


def ngrams(text: str) -> Iterator[str]:
    """Yield the words of a text in small letters, and the sequences of up to `LONGEST` of them."""
    words = _WORD.findall(text.lower())
    return (" ".join(words[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(words) - n + 1))


def _solved(
    colours: np.ndarray, captions: Sequence[Sequence[str]], whitening: float, penalties: Sequence[float]
) -> Iterator[ColourRidge]:
    """A regression for each penalty; memory holds the n-grams of a few hundred captions, and with whitening their covariance."""
    T = len(colours)
    counts = Counter(gram for texts in captions for text in texts for gram in set(ngrams(text)))
    common = sorted(counts, key=lambda gram: (-counts[gram], gram))[: MOST_NGRAMS[bool(whitening)]]
    V = len(common)
    rarity = np.log((1 + sum(map(len, captions))) / (1 + np.array([counts[gram] for gram in common], float))) + 0.1
    raw = _Ngrams({gram: column for column, gram in enumerate(common)}, rarity, np.zeros(V))
    scale = _scale(colours)
    x = scale(colours)
    products, usual, covariance = np.zeros((x.shape[1], V)), np.zeros(V), np.zeros((V, V) if whitening else (0, 0))
    for part in batched(list(range(T)), _BATCH):
        of_part = [captions[i] for i in part]
        vectors = raw.vectors([text for texts in of_part for text in texts])
        sizes = np.array([len(texts) for texts in of_part])
        targets = np.add.reduceat(vectors, np.cumsum(sizes) - sizes) / sizes[:, None]
        products += x[part].T @ targets  # x has the mean 0, so that the mean of the targets drops out
        usual += targets.sum(0) / T
        if whitening:
            covariance += targets.T @ targets / T
    whiten = None
    if whitening:
        values, axes = np.linalg.eigh(covariance - np.outer(usual, usual))
        whiten = (axes / np.sqrt(np.maximum(values, 0) + whitening * max(values.mean(), 1e-12))) @ axes.T
        products = products @ whiten
    known = _Ngrams(raw.columns, rarity, usual, whiten)
    values, directions = np.linalg.eigh(x.T @ x)
    basis, corner = np.linalg.qr(products.T)  # all predictions lie in this basis, whatever the penalty
    turned = directions.T @ corner.T
    for penalty in penalties:
        weights = directions @ (turned / (np.maximum(values, 0) + penalty * T)[:, None])
        yield ColourRidge(scale, weights, basis, known, penalty)


def _unit(inside: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """Scale to norm 1; the last column, far below all others, keeps from zero what nothing is known of."""
    whole = np.column_stack([inside, beside, np.full(len(inside), 1e-9)])
    return (whole / np.linalg.norm(whole, axis=1, keepdims=True)).astype(np.float32)


def _mean_recall(images: np.ndarray, texts: np.ndarray, owners: np.ndarray) -> float:
    i2t, t2i = retrieval.ranks(images, texts, owners, ties="average")
    return float(np.mean([(ranks <= k).mean() for ranks in (i2t, t2i) for k in (1, 5, 10)]))


def scene_class(
    classes: Sequence,
    image_of_caption: np.ndarray,
    *,
    draws: int = 20,
    seed: int = 0,
    bootstrap_samples: int = 0,
    resampled: dict | None = None,
    **facts,
) -> list[dict]:
    """Score who knows the scene class of every picture and caption, and nothing else: the mean of random orders within classes.

    Args:
        classes: N classes.
        image_of_caption: (M,) images of the captions.
        draws: Number of random orders.
        seed: Seed of the draws, and of the resamples.
        bootstrap_samples: Number of resamples, for `resampled` alone.
        resampled: As for `retrieval.evaluate`; its values are means of the orders, too.
        facts: Further arguments of `retrieval.evaluate`.

    Returns:
        Rows as of `retrieval.evaluate`, without intervals.
    """
    _, kinds = np.unique(np.asarray(classes), return_inverse=True)
    owners = np.asarray(image_of_caption)
    several, values = [], []
    facts |= {"seed": seed, "bootstrap_samples": bootstrap_samples}
    for number in range(draws):
        rng = np.random.default_rng([seed, number])
        apart = [np.hstack([np.eye(kinds.max() + 1)[k], 0.01 * rng.normal(size=(len(k), 8))]) for k in (kinds, kinds[owners])]
        pair = [(one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32) for one in apart]
        values.append({})
        several.append(retrieval.evaluate(*pair, owners, resampled=values[-1], **facts))
    if resampled is not None:
        resampled |= {place: np.mean([order[place] for order in values], axis=0) for place in values[0]}
    none = {"ci_low": None, "ci_high": None}
    return [same[0] | none | {"value": float(np.mean([row["value"] for row in same]))} for same in zip(*several, strict=True)]


# Classification


def majority(labels: np.ndarray, class_count: int, count: int) -> np.ndarray:
    """Return (count, C) float32 that order the classes by how many training pictures have them, the same for each picture.

    With `np.eye(C)` for the classes, `classification.evaluate` takes them as vectors. Of classes that are equally common, the first is
    first.
    """
    frequency = np.bincount(labels, minlength=class_count)
    place = np.empty(class_count)
    place[np.lexsort((np.arange(class_count), -frequency))] = np.arange(class_count, 0, -1)
    return np.tile(place.astype(np.float32), (count, 1))


def colour_classes(
    colours: np.ndarray,
    labels: np.ndarray,
    class_count: int,
    asked: np.ndarray,
    *,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
) -> np.ndarray:
    """Tell classes by multinomial logistic regression on colours.

    The penalty, half the squared weights for each training picture, is that with the best accuracy on a part of them held out.

    Args:
        colours: (T, 54) of the training pictures, as of `colours`.
        labels: (T,) their classes, 0 to C - 1.
        class_count: C.
        asked: (N, 54) of the pictures to tell.
        seed: Seed of the draw of those held out.
        penalties: Penalties to choose from. One alone is taken as it is.

    Returns:
        (N, C) float32 log probabilities, moved above 0; with `np.eye(C)` for the classes, `classification.evaluate` takes them as
        vectors.

    Raises:
        DataError: Fewer than ten training pictures, or not one label for each.
    """
    colours, labels = np.asarray(colours, np.float64), np.asarray(labels)
    if len(colours) != len(labels) or len(colours) < 10:
        raise DataError(f"{len(colours)} training pictures, {len(labels)} labels: expected ten or more of both, as many")
    scale = _scale(colours)
    x = scale(colours)
    if len(penalties) > 1:
        rest, out = _held_out(len(x), seed)
        fitted = [_logistic(x[rest], labels[rest], class_count, penalty) for penalty in penalties]
        right = [(_scores(x[out], weights).argmax(1) == labels[out]).mean() for weights in fitted]
        penalties = [penalties[int(np.argmax(right))]]
    logs = _scores(scale(asked), _logistic(x, labels, class_count, penalties[0]))
    return (logs - logs.min(axis=1, keepdims=True) + 1).astype(np.float32)


def _scores(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.column_stack([x, np.ones(len(x))]) @ weights


def _logistic(x: np.ndarray, labels: np.ndarray, class_count: int, penalty: float) -> np.ndarray:
    """(55, C) float64 weights, the last row without a penalty."""
    inputs, targets = torch.from_numpy(np.column_stack([x, np.ones(len(x))])), torch.from_numpy(labels.astype(np.int64))
    weights = torch.zeros(inputs.shape[1], class_count, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(inputs @ weights, targets) + penalty / 2 * (weights[:-1] ** 2).sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return weights.detach().numpy()


# Beside a model


def beside(
    rows: Sequence[Mapping], draws: Mapping, name: str, baseline: Sequence[Mapping], theirs: Mapping, units: int
) -> list[dict]:
    """Return a baseline's rows, and what a model is better by: `PROTOCOL: NAME` and, over the same resamples, `PROTOCOL: model - NAME`.

    Args:
        rows: The model's rows.
        draws: Its values over resamples, from the argument `resampled` of `retrieval.evaluate` or `classification.evaluate`.
        name: Name of the baseline.
        baseline: The baseline's rows, of the same images and seed.
        theirs: Its values over resamples.
        units: Number of independent images, as for `statistics.gap`.
    """
    told = [row | {"protocol": f"{row['protocol']}: {name}"} for row in baseline if "[" not in row["metric"]]
    for row in rows:
        place = (row["protocol"], row["direction"], row["metric"])
        if place in theirs and "[" not in row["metric"]:
            share = units if row["metric"] != "median_rank" else None
            gap = statistics.gap(draws[place], theirs[place], share, images=row["n"])
            told.append(dict(row) | gap | {"protocol": f"{row['protocol']}: model - {name}", "chance": None})
    return told


def of_classes(
    colours: np.ndarray,
    labels: np.ndarray,
    asked: np.ndarray,
    truth: np.ndarray,
    names: Sequence[str],
    *,
    seed: int = 0,
    **facts,
) -> dict[str, tuple[list[dict], dict]]:
    """Score the commonest class and the colours: name → rows of `classification.evaluate`, and their values over resamples.

    Args:
        colours: (T, 54) of the training pictures, as of `colours`.
        labels: (T,) their classes.
        asked: (N, 54) of the test pictures.
        truth: (N,) their classes.
        names: C names of classes.
        seed: Seed of what is held out, and of the resamples.
        facts: Further arguments of `classification.evaluate`.
    """
    C = len(names)
    vectors = {"majority": majority(labels, C, len(asked)), "colour": colour_classes(colours, labels, C, asked, seed=seed)}
    scored = {}
    for name, images in vectors.items():
        draws: dict = {}
        rows = classification.evaluate(images, truth, np.eye(C, dtype=np.float32), names, seed=seed, resampled=draws, **facts)
        scored[name] = rows, draws
    return scored
