"""Embeddings → ranks → recall both ways under every protocol, with chance and a bootstrap interval beside every number."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rsvlm.errors import DataError
from rsvlm.evaluation import counting, statistics

logger = logging.getLogger(__name__)

PROTOCOLS = {
    "plain": "every caption is an item; an image is right if any of its captions is in the top k (CLIP_benchmark)",
    "remoteclip": "as plain, each caption capitalised: its first letter large, all others small (RemoteCLIP)",
    "rs5m": "as plain, captions as they are in the file (GeoRSCLIP)",
    "skyscript": "captions begin with 'a satellite image. ', equal ones are one item, any image that carries it counts (SkyCLIP)",
    "one-to-one": "one caption per image, its first; equal captions of other images count as errors (open_clip in training)",
}
TIES = {"pessimistic": 1.0, "average": 0.5, "optimistic": 0.0}  # share of the equally good wrong items that stand before


@dataclass(frozen=True)
class Standing:
    """Where the best right answer of each of Q queries stands in the gallery, whatever is decided about ties.

    `above` (Q,) int64 counts the wrong items with a higher score, `equal` (Q,) int64 the wrong items with the same score, and
    `own` (Q,) int64 the right items with that score, itself included; 0 says that the query has no right answer.
    `precision[ties]` (Q,) float64 is the average precision over all right answers of the query, from 0 to 1.
    """

    above: np.ndarray
    equal: np.ndarray
    own: np.ndarray
    precision: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Task:
    """What a protocol compares: right pairs, (S,) int64 each, and the rows of the caption embeddings that are its items."""

    items: np.ndarray | None  # None: all rows
    pair_image: np.ndarray
    pair_text: np.ndarray


def caption_text(protocol: str, captions: Sequence[str]) -> list[str]:
    """Write captions as a protocol feeds them to the text tower.

    Source:
        remoteclip: `str.capitalize` on the raw sentence, `remoteclip_retrieval.py` in github.com/ChenDelong1999/RemoteCLIP.
        skyscript: the prefix goes before the captions of RSICD, RSITMD and UCM, not before those of SkyScript's own test set,
        `cross_modal_retrieval.ipynb` in github.com/wangzhecheng/SkyScript.

    Raises:
        DataError: An unknown protocol.
    """
    _known(protocol, PROTOCOLS, "protocol")
    if protocol == "remoteclip":
        return [caption.capitalize() for caption in captions]
    return [f"a satellite image. {caption}" for caption in captions] if protocol == "skyscript" else list(captions)


def standings(
    image_embeddings: np.ndarray, caption_embeddings: np.ndarray, image_of_caption: np.ndarray, *, device: str = "cpu"
) -> tuple[Standing, Standing]:
    """Find where the best right answers stand, both ways, in one pass over the scores (see `counting`); equal vectors tie exactly.

    Embeddings are (N, E) and (M, E) float32, of norm 1 by custom; a memory map is read a block at a time. `image_of_caption` has M rows
    of the former. The device is cpu (as many threads as torch may use), cuda, cuda:N or auto.

    Returns:
        Image→text (N queries) and text→image (M queries).

    Raises:
        DataError: Shapes that do not fit, an index out of range, or a vector that is zero, NaN or infinite.
    """
    owners = checked_owners(image_embeddings, caption_embeddings, image_of_caption)
    return _stand(image_embeddings, caption_embeddings, _Task(None, owners, np.arange(len(owners))), device)


def rank(standing: Standing, ties: str = "pessimistic") -> np.ndarray:
    """Rank of each query's best right answer, 1 being best and 0 where there is none.

    Equally good wrong items stand before it (`pessimistic`, (Q,) int64), behind it (`optimistic`, (Q,) int64), or in random order
    (`average`, (Q,) float64: the expected rank, which for one right answer is the mean rank of the tied group).
    """
    _known(ties, TIES, "rule for ties")
    if ties == "average":
        return np.where(standing.own > 0, standing.above + 1 + standing.equal / (standing.own + 1), 0.0)
    return np.where(standing.own > 0, standing.above + 1 + (standing.equal if ties == "pessimistic" else 0), 0)


def hits(standing: Standing, ks: Sequence[int], ties: str = "pessimistic") -> np.ndarray:
    """(Q, K) float64: is a right answer among the first k? Under `average`, the probability that it is."""
    ks = np.asarray(ks)
    if ties != "average":
        position = rank(standing, ties)[:, None]
        return ((position > 0) & (position <= ks)).astype(float)
    asked = standing.own > 0
    places = np.clip(ks - standing.above[:, None], 0, None)  # of the first k, those that the tied group fills
    return asked[:, None] * (1 - _miss(standing.own[:, None], (standing.own + standing.equal)[:, None], places))


def ranks(
    image_embeddings: np.ndarray,
    caption_embeddings: np.ndarray,
    image_of_caption: np.ndarray,
    *,
    ties: str = "pessimistic",
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the best right answer of every query: (N,) int64 image → text, 0 without a caption, and (M,) int64 text → image.

    Arguments and errors are those of `standings`, ties those of `rank`.
    """
    _known(ties, TIES, "rule for ties")
    both = standings(image_embeddings, caption_embeddings, image_of_caption, device=device)
    return rank(both[0], ties), rank(both[1], ties)


def evaluate(
    image_embeddings: np.ndarray,
    caption_embeddings: np.ndarray,
    image_of_caption: np.ndarray,
    captions: Sequence[str] | None = None,
    protocol: str = "plain",
    *,
    dataset: str = "unnamed",
    split: str = "test",
    ks: Sequence[int] = (1, 5, 10),
    ties: str = "pessimistic",
    bootstrap_samples: int = 1000,
    seed: int = 0,
    classes: Sequence | None = None,
    skipped: Counter | None = None,
    device: str = "cpu",
    blocks: Sequence | None = None,
    resampled: dict | None = None,
) -> list[dict]:
    """Retrieval metrics as rows `{dataset, split, protocol, direction, metric, value, ci_low, ci_high, chance, n}`.

    Metrics are `R@k` and `mAP` in percent, `mR`, the mean of all R@k of both directions, and `median_rank`. An image without
    captions asks nothing but stays in the gallery; an empty caption is left out, counted and said in the log. The interval is
    `statistics.interval` over bootstrap resamples of the *images*, each with its captions; a caption that several images share is
    shared out among them. `chance` is the exact expectation under a random ranking (for median ranks: the median expected rank).

    Protocols differ in what they compare and in how captions are written. The second is up to whoever embeds: give embeddings of
    `caption_text(protocol, captions)` to reproduce a protocol whole; of captions as they are, remoteclip and rs5m equal plain. Plain
    equals `zeroshot_retrieval` of the package CLIP_benchmark, up to ties, which that takes in the order of `topk`.

    Args:
        image_embeddings: (N, E) float32, norm 1; a memory map is read a block at a time.
        caption_embeddings: (M, E) float32, norm 1, likewise.
        image_of_caption: (M,) int64.
        captions: M strings: needed by skyscript, and to find empty ones.
        protocol: One of `PROTOCOLS`, or `all`: those that these embeddings allow; the log says which were left out.
        dataset: Name that goes into the rows.
        split: Name that goes into the rows.
        ks: Ranks that recalls are of.
        ties: `pessimistic`, `average` or `optimistic`, see `rank`. Recalls under `average` are expected hits; its mAP takes the
            mean rank within each tied group. All but the first are named in the rows' protocol.
        bootstrap_samples: Number of resamples of the images. If 0, there are no intervals.
        seed: Seed of the resamples.
        classes: N class names, None where unknown: adds rows such as `R@1[airport]`, over the queries of that class in the whole
            gallery.
        skipped: Counter that empty captions are added to.
        device: As in `standings`.
        blocks: N blocks, equal for images that are not independent: they are resampled whole, as by `statistics.bootstrap`.
        resampled: Dictionary that the values over resamples are added to, (R,) under each row's (protocol, direction, metric): what
            two systems differ by is `statistics.gap` of theirs.

    Raises:
        DataError: As `standings`; an unknown protocol or tie rule; a k below 1 or above the size of a gallery; captions that the
            protocol needs and that are missing.
    """
    # A bad request stops before any work.
    chosen = list(PROTOCOLS) if protocol == "all" else [_known(protocol, PROTOCOLS, "protocol")]
    _known(ties, TIES, "rule for ties")
    ks = [int(k) for k in ks]
    if not ks or min(ks) < 1:
        raise DataError(f"ks = {ks}: expected one or more numbers from 1 on")
    owners = checked_owners(image_embeddings, caption_embeddings, image_of_caption)
    N = len(image_embeddings)
    for name, given, count in (("captions", captions, len(owners)), ("classes", classes, N), ("blocks", blocks, N)):
        if given is not None and len(given) != count:
            raise DataError(f"{len(given)} {name} for {count} rows of embeddings: expected one each, in the same order")

    # Empty captions are left out.
    readable = np.arange(len(owners))
    if captions is not None:
        readable = np.flatnonzero([bool(caption.strip()) for caption in captions])
        if empty := len(owners) - len(readable):
            logger.warning("%d of %d captions are empty: left out", empty, len(owners))
            if skipped is not None:
                skipped["empty caption"] += empty
        if not len(readable):
            raise DataError(f"all {len(owners)} captions are empty: nothing can be asked")

    # Protocols that compare the same things share one pass over the scores.
    measured: dict[str, list[tuple[dict, np.ndarray]]] = {}
    rows, block = [], None if blocks is None else statistics.codes(blocks, N)
    for name in chosen:
        kind = name if name in ("skyscript", "one-to-one") else "plain"
        if kind not in measured:
            try:
                task = _task(kind, owners, captions, readable)
                _fits(ks, kind, N, 1 + int(task.pair_text.max()))
            except DataError as error:
                if protocol != "all" or kind == "plain":
                    raise
                logger.warning("protocol %s is left out: %s", name, error)
                continue
            both = _stand(image_embeddings, caption_embeddings, task, device)
            measured[kind] = _measure(task, both, N, ks, ties, classes, (bootstrap_samples, seed), block)
        label = name if ties == "pessimistic" else f"{name} ({ties} ties)"
        rows += [{"dataset": dataset, "split": split, "protocol": label, **row} for row, _ in measured[kind]]
        if resampled is not None:
            resampled |= {(label, row["direction"], row["metric"]): values for row, values in measured[kind]}
    statistics.warn_of_few(rows, bootstrap_samples)
    return rows


def _known(name: str, table: dict, what: str) -> str:
    if name not in table:
        raise DataError(f"unknown {what} '{name}': choose one of {', '.join(table)}")
    return name


def checked_owners(images: np.ndarray, texts: np.ndarray, image_of_caption: np.ndarray) -> np.ndarray:
    """Return (M,) int64 rows of (N, E) images, one for each of (M, E) texts, or raise a DataError where they do not fit together."""
    owners = np.asarray(image_of_caption)
    if images.ndim != 2 or texts.ndim != 2 or not images.shape[1]:
        raise DataError(f"embeddings of shape {images.shape} and {texts.shape}: expected (N, E) and (M, E)")
    if texts.shape[1] != images.shape[1]:
        raise DataError(f"images have {images.shape[1]} dimensions, captions {texts.shape[1]}: expected the same")
    N, M = len(images), len(texts)
    if not N or not M or owners.shape != (M,) or owners.dtype.kind not in "iu":
        raise DataError(
            f"{N} images, {M} captions, image_of_caption of {owners.dtype} {owners.shape}: expected at least one image, "
            f"and {M} whole numbers, N, M ≥ 1"
        )
    if owners.min() < 0 or owners.max() >= N:
        raise DataError(f"image_of_caption reaches from {owners.min()} to {owners.max()}: expected 0…{N - 1}")
    return owners.astype(np.int64)


def _fits(ks: Sequence[int], kind: str, N: int, M: int) -> None:
    for count, what in ((N, "images"), (M, "captions")):
        if max(ks) > count:
            raise DataError(
                f"k = {max(ks)} is larger than the gallery of {count} {what} under {kind}: every answer would be right; "
                f"take more images and captions, or, in Python, ks up to {min(N, M)}"
            )


def _task(kind: str, owners: np.ndarray, captions: Sequence[str] | None, rows: np.ndarray) -> _Task:
    if kind == "skyscript":
        if captions is None:
            raise DataError("skyscript pools equal captions: give the caption strings, captions=[...], in the order of rows")
        codes, texts = pd.factorize(np.array([captions[i] for i in rows], object))
        items = rows[np.unique(codes, return_index=True)[1]]  # equal captions have equal embeddings: take the first
        pairs = np.unique(owners[rows] * len(texts) + codes)  # an image may carry the same caption twice
        return _Task(items, pairs // len(texts), pairs % len(texts))
    if kind == "one-to-one":
        rows = np.sort(rows[np.unique(owners[rows], return_index=True)[1]])
    return _Task(None if len(rows) == len(owners) else rows, owners[rows], np.arange(len(rows)))


def _stand(images: np.ndarray, texts: np.ndarray, task: _Task, device: str) -> tuple[Standing, Standing]:
    """Compare all images with all items: queries of images, and of items."""
    score, of_image, of_text = counting.count(images, texts, task.items, task.pair_image, task.pair_text, device)
    texts_compared = len(texts) if task.items is None else len(task.items)
    by_image = _standing(task.pair_image, len(images), score, *of_image)
    return by_image, _standing(task.pair_text, texts_compared, score, *of_text)


def _standing(query: np.ndarray, count: int, score: np.ndarray, above: np.ndarray, equal: np.ndarray) -> Standing:
    """Take a query's own right items out of the counts of its right pairs (S,), and keep those of its best."""
    order = np.lexsort((-score, query))
    query, score = query[order], score[order]
    answers = np.bincount(query, minlength=count)
    start = np.cumsum(answers) - answers
    # A group are right items of one query with the same score; those of the groups before it stand above.
    new_group = np.diff(query, prepend=-1).astype(bool) | (np.diff(score, prepend=np.nan) != 0)
    first_of_group = np.flatnonzero(new_group)
    group = np.cumsum(new_group) - 1
    own = np.diff(first_of_group, append=len(order))[group]
    above = above[order] - (first_of_group[group] - start[query])
    equal = equal[order] - own
    asked = answers > 0
    best = np.zeros((3, count), np.int64)
    best[:, asked] = [column[start[asked]] for column in (above, equal, own)]
    place = np.arange(1, len(order) + 1) - start[query]
    shares = {ties: place / (place + above + share * equal) for ties, share in TIES.items()}
    precision = {ties: np.bincount(query, share, count) / np.maximum(answers, 1) for ties, share in shares.items()}
    return Standing(*best, precision)


def _measure(
    task: _Task,
    both: tuple[Standing, Standing],
    N: int,
    ks: Sequence[int],
    ties: str,
    classes: Sequence | None,
    draws: tuple[int, int],
    block: np.ndarray | None,
) -> list[tuple[dict, np.ndarray]]:
    """Metric rows without the names of data set, split and protocol, each with its values over resamples.

    `draws` are number and seed of the resamples, `block` (N,) what is drawn whole.
    """
    image, text, M, K = task.pair_image, task.pair_text, len(both[1].own), len(ks)
    texts_of_image, images_of_text = np.bincount(image, minlength=N), np.bincount(text, minlength=M)
    asked = texts_of_image > 0
    share = 1 / images_of_text[text]  # of a text's query, for each image that carries it

    def by_image(i2t: tuple, t2i: tuple) -> np.ndarray:  # (N, 2K + 4): K recalls, precision and queries, for both directions
        shared = [np.bincount(image, share * column[text], N) for column in (*t2i[0].T, t2i[1], np.ones(M))]
        return np.column_stack([*i2t, np.ones(N), *shared]) * np.repeat([asked, np.ones(N)], K + 2, axis=0).T

    # What each image adds to the sums behind all means: as measured, and as expected of a random order.
    table = by_image(*((hits(side, ks, ties), side.precision[ties]) for side in both))
    orders = ((texts_of_image, M), (images_of_text, N))
    chances = by_image(*((1 - _miss(m[:, None], n, np.asarray(ks)), _chance_precision(m, n)) for m, n in orders))

    # Medians are of all queries alone: ranks in order, the image that each belongs to, and its weight.
    of_images = (rank(both[0], ties)[asked], np.flatnonzero(asked), np.ones(asked.sum()))
    queries = (of_images, (rank(both[1], ties)[text], image, share))
    medians = [tuple(column[np.argsort(query[0], kind="stable")] for column in query) for query in queries]
    expected_ranks = [np.median((M + 1) / (texts_of_image[asked] + 1)), np.median((N + 1) / (images_of_text + 1))]

    # Rows of all queries, then of those of each class.
    codes, names = pd.factorize(np.array([None] * N if classes is None else list(classes), object))  # None becomes -1
    groups = [("", asked, table, medians, expected_ranks)]
    for code, name in enumerate(names):
        inside = asked & (codes == code)
        groups += [(f"[{name}]", inside, table[inside], [], [])] if inside.any() else []
    labels = [(direction, f"R@{k}") for direction in ("i2t", "t2i") for k in ks] + [("both", "mR")]
    labels += [(direction, metric) for metric in ("mAP", "median_rank") for direction in ("i2t", "t2i")]
    rows = []
    for suffix, inside, part, of_group, ranks_of_group in groups:
        n = {"i2t": int(inside.sum()), "t2i": len(np.unique(text[inside[image]])), "both": len(part)}
        expected = [*_scores(chances[inside].sum(0), K), *ranks_of_group]
        values = _resampled(part, K, of_group, *draws, None if block is None else block[inside] if suffix else block)
        independent = statistics.count_blocks(None if block is None else block[inside], n["i2t"])
        for (direction, metric), of_metric, chance in zip(labels, values.T, expected):
            units = independent if metric != "median_rank" else None  # captions of one image stand or fall together
            row = {"direction": direction, "metric": metric + suffix, **statistics.interval(of_metric, units)}
            rows.append((row | {"chance": float(chance), "n": n[direction]}, of_metric))
    return rows


def _resampled(
    table: np.ndarray, K: int, medians: list[tuple], samples: int, seed: int, block: np.ndarray | None
) -> np.ndarray:
    """(samples + 1, metrics) float64: over all images, then over each resample.

    `table` (n, 2K + 4) is summed over images; `medians` are (sorted ranks, their images, weights).
    """
    values = []
    for (times,) in statistics.bootstrap(len(table), samples, seed, blocks=block):
        times = times.astype(float)
        of_ranks = [_median(ranks, times[image] * weight) for ranks, image, weight in medians]
        values.append([*_scores(times @ table, K), *of_ranks])
    return np.array(values)


def _median(numbers: np.ndarray, weight: np.ndarray) -> float:
    """Weighted median of sorted numbers: that of each number written down as often as its weight says."""
    total = np.cumsum(weight)
    if not len(total) or not total[-1]:
        return np.nan
    half = total[-1] / 2
    return (numbers[np.searchsorted(total, half)] + numbers[np.searchsorted(total, half, side="right")]) / 2


def _scores(sums: np.ndarray, K: int) -> np.ndarray:
    """Sums over images → all R@k, mR and both mAP in percent."""
    with np.errstate(invalid="ignore"):
        i2t, t2i = 100 * sums[: K + 1] / sums[K + 1], 100 * sums[K + 2 : -1] / sums[-1]
    recalls = np.concatenate([i2t[:K], t2i[:K]])
    return np.concatenate([recalls, [recalls.mean(), i2t[K], t2i[K]]])


def _miss(right: np.ndarray, total: np.ndarray | int, places: np.ndarray) -> np.ndarray:
    """Probability that none of the right items is in the first places of a random order of all: C(total - m, k) / C(total, k)."""
    right, total, places = np.broadcast_arrays(right, total, places)
    miss = np.ones(right.shape)
    for step in range(int(min(places.max(initial=0), total.max(initial=0)))):
        open_places = step < places
        miss = np.where(open_places, miss * np.clip((total - right - step) / np.maximum(total - step, 1), 0, 1), miss)
    return miss


def _chance_precision(right: np.ndarray, total: int) -> np.ndarray:
    """Expected average precision of m right items in a random order: (H + (m - 1) / (n - 1) · (n - H)) / n, H the n-th harmonic."""
    harmonic = np.sum(1 / np.arange(1, total + 1))
    return (harmonic + (right - 1) / max(total - 1, 1) * (total - harmonic)) / total
