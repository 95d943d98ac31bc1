"""Embeddings → ranks → recall both ways under every protocol, with chance and a bootstrap interval beside every number."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from rsvlm import distributed, kernels, statistics
from rsvlm.errors import DataError

logger = logging.getLogger(__name__)

PROTOCOLS = {
    "plain": "every caption is an item; an image is right if any of its captions is in the top k (CLIP_benchmark)",
    "remoteclip": "as plain, each caption capitalised: its first letter large, all others small (RemoteCLIP)",
    "rs5m": "as plain, captions as they are in the file (GeoRSCLIP)",
    "skyscript": "captions begin with 'a satellite image. ', equal ones are one item, any image that carries it counts (SkyCLIP)",
    "one-to-one": "one caption per image, its first; equal captions of other images count as errors (open_clip in training)",
}
TIES = {"pessimistic": 1.0, "average": 0.5, "optimistic": 0.0}  # share of the equally good wrong items that stand before
BLOCK = 1024  # images and captions scored at once by a thread: 4 MB of scores
CUDA_BLOCK = 8192
CHUNK = 8192  # rows read at once where vectors are only looked at


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
    """What a protocol compares: right pairs, sorted by image, and the rows of the caption embeddings that are its items."""

    items: np.ndarray | None  # None: all rows
    pair_image: np.ndarray
    pair_text: np.ndarray


@dataclass(frozen=True)
class _Thresholds:
    """The scores of the S right pairs, sorted by the row (or column) of the score matrix that they belong to."""

    of: np.ndarray
    start: np.ndarray
    exact: np.ndarray
    low: np.ndarray
    high: np.ndarray


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
    """Find where the best right answers stand, both ways, in one pass over the scores and without ever holding them all.

    The score of a pair is its dot product in float64. Blocks of scores come from a float32 matrix product; those within its
    rounding error of a right answer's score are computed again, so neither the size of a block nor the device has any influence,
    and equal vectors tie exactly.

    Args:
        image_embeddings: (N, E) float32, of norm 1 by custom; a memory map is read a block at a time.
        caption_embeddings: (M, E) float32, likewise.
        image_of_caption: (M,) int64 rows of `image_embeddings`.
        device: cpu (as many threads as torch may use), cuda, cuda:N or auto.

    Returns:
        Image→text (N queries) and text→image (M queries).

    Raises:
        DataError: Shapes that do not fit, an index out of range, or a vector that is zero, NaN or infinite.
    """
    owners = _checked(image_embeddings, caption_embeddings, image_of_caption)
    task = _Task(None, owners, np.arange(len(owners)))
    return _stand(image_embeddings, caption_embeddings, task, device)


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
    """Rank of the best right answer of every query, 1 being best; ties count against the query unless told otherwise.

    Arguments and errors are those of `standings`, ties those of `rank`.

    Returns:
        image_to_text: (N,) int64, 0 for an image without a caption.
        text_to_image: (M,) int64.
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
) -> list[dict]:
    """Retrieval metrics as rows `{dataset, split, protocol, direction, metric, value, ci_low, ci_high, chance, n}`.

    Metrics are `R@k` and `mAP` in percent, `mR`, the mean of all R@k of both directions, and `median_rank`. An image without
    captions asks nothing but stays in the gallery; an empty caption is left out, counted and said in the log. The interval is the
    2.5 to 97.5 percentile over bootstrap resamples of the *images*, each with its captions; a caption that several images share is
    shared out among them. `chance` is the exact expectation under a random ranking (for median ranks: the median expected rank).

    Protocols differ in what they compare and in how captions are written. The second is up to whoever embeds: give embeddings of
    `caption_text(protocol, captions)` to reproduce a protocol whole. With embeddings of the captions as they are, remoteclip and
    rs5m equal plain. And plain equals `clip_benchmark.metrics.zeroshot_retrieval` of the package CLIP_benchmark, up to ties, which that
    takes in the order of `topk`.

    Args:
        image_embeddings: (N, E) float32, norm 1; a memory map is read a block at a time.
        caption_embeddings: (M, E) float32, norm 1, likewise.
        image_of_caption: (M,) int64.
        captions: M strings: needed by skyscript, and to find empty ones.
        protocol: One of `PROTOCOLS`, or `all`: those that these embeddings allow; the log says which were left out.
        dataset: Name that goes into the rows.
        split: Name that goes into the rows.
        ks: The recalls asked for.
        ties: `pessimistic`, `average` or `optimistic`, see `rank`. Recalls under `average` are expected hits; its mAP takes the
            mean rank within each tied group. All but the first are named in the rows' protocol.
        bootstrap_samples: Resamples of the images; 0: no intervals.
        seed: Of the bootstrap.
        classes: N class names, None where unknown: adds rows such as `R@1[airport]`, over the queries of that class in the whole
            gallery.
        skipped: Empty captions are counted here.
        device: As in `standings`.

    Raises:
        DataError: As `standings`; an unknown protocol or tie rule; a k below 1 or above the size of a gallery; captions that the
            protocol needs and that are missing.
    """
    chosen = list(PROTOCOLS) if protocol == "all" else [_known(protocol, PROTOCOLS, "protocol")]
    _known(ties, TIES, "rule for ties")
    ks = [int(k) for k in ks]
    if not ks or min(ks) < 1:
        raise DataError(f"ks = {ks}: expected one or more numbers from 1 on")
    owners = _checked(image_embeddings, caption_embeddings, image_of_caption)
    N = len(image_embeddings)
    for name, given, count in (("captions", captions, len(owners)), ("classes", classes, N)):
        if given is not None and len(given) != count:
            raise DataError(f"{len(given)} {name} for {count} rows of embeddings: expected one each, in the same order")
    kept = np.arange(len(owners))
    if captions is not None:
        kept = np.flatnonzero([bool(caption.strip()) for caption in captions])
        if empty := len(owners) - len(kept):
            logger.warning("%d of %d captions are empty: left out", empty, len(owners))
            if skipped is not None:
                skipped["empty caption"] += empty
        if not len(kept):
            raise DataError(f"all {len(owners)} captions are empty: nothing can be asked")
    found: dict[str, list[dict]] = {}
    rows = []
    for name in chosen:
        kind = name if name in ("skyscript", "one-to-one") else "plain"
        if kind not in found:
            try:
                task = _task(kind, owners, captions, kept)
                _fits(ks, kind, N, 1 + int(task.pair_text.max()))
            except DataError as error:
                if protocol != "all" or kind == "plain":
                    raise
                logger.warning("protocol %s is left out: %s", name, error)
                continue
            both = _stand(image_embeddings, caption_embeddings, task, device)
            found[kind] = _measure(task, both, N, ks, ties, bootstrap_samples, seed, classes)
        label = name if ties == "pessimistic" else f"{name} ({ties} ties)"
        rows += [{"dataset": dataset, "split": split, "protocol": label, **row} for row in found[kind]]
    return rows


def _known(name: str, table: dict, what: str) -> str:
    if name not in table:
        raise DataError(f"unknown {what} '{name}': choose one of {', '.join(table)}")
    return name


def _checked(images: np.ndarray, texts: np.ndarray, image_of_caption: np.ndarray) -> np.ndarray:
    owners = np.asarray(image_of_caption)
    if images.ndim != 2 or texts.ndim != 2 or texts.shape[1] != images.shape[1] or not images.shape[1]:
        raise DataError(f"embeddings of shape {images.shape} and {texts.shape}: expected (N, E) and (M, E)")
    N, M = len(images), len(texts)
    if not N or not M or owners.shape != (M,):
        raise DataError(f"{N} images, {M} captions, image_of_caption of shape {owners.shape}: expected ({M},), N, M ≥ 1")
    if owners.dtype.kind not in "iu":
        raise DataError(f"image_of_caption is of type {owners.dtype}: expected whole numbers, rows of the image embeddings")
    if owners.min() < 0 or owners.max() >= N:
        raise DataError(f"image_of_caption reaches from {owners.min()} to {owners.max()}: expected 0…{N - 1}")
    return owners.astype(np.int64)


def _fits(ks: Sequence[int], kind: str, N: int, M: int) -> None:
    for count, what in ((N, "images"), (M, "captions")):
        if max(ks) > count:
            raise DataError(
                f"k = {max(ks)} is larger than the gallery of {count} {what} under {kind}: every answer would be right; "
                f"ask for ks up to {min(N, M)}"
            )


def _task(kind: str, owners: np.ndarray, captions: Sequence[str] | None, kept: np.ndarray) -> _Task:
    if kind == "skyscript":
        if captions is None:
            raise DataError(
                "skyscript pools equal captions: give the caption strings, captions=[...], in the order of their rows"
            )
        codes, texts = pd.factorize(np.array([captions[i] for i in kept], object))
        items = kept[np.unique(codes, return_index=True)[1]]  # equal captions have equal embeddings: take the first
        pairs = np.unique(owners[kept] * len(texts) + codes)  # an image may carry the same caption twice
        return _Task(items, pairs // len(texts), pairs % len(texts))
    if kind == "one-to-one":
        kept = np.sort(kept[np.unique(owners[kept], return_index=True)[1]])
    return _Task(None if len(kept) == len(owners) else kept, owners[kept], np.arange(len(kept)))


def _rows(array: np.ndarray, items: np.ndarray | None, start: int, stop: int) -> np.ndarray:
    """Copy some rows into memory: a kernel and torch then never meet a memory map, another type or other strides."""
    return np.array(array[start:stop] if items is None else array[items[start:stop]], np.float32, order="C")


def _norms(array: np.ndarray, items: np.ndarray | None, what: str) -> np.ndarray:
    count = len(array) if items is None else len(items)
    squares = np.empty(count)
    for start in range(0, count, CHUNK):
        block = _rows(array, items, start, start + CHUNK)
        with np.errstate(over="ignore", invalid="ignore"):
            squares[start : start + CHUNK] = np.einsum("ij,ij->i", block, block)
    broken, zero = ~np.isfinite(squares), squares == 0
    for wrong, name in ((broken, "hold NaN, infinite or huge numbers"), (zero, "are zero")):
        if wrong.any():
            row = np.flatnonzero(wrong)[0]
            raise DataError(
                f"{wrong.sum()} of {count} {what} embeddings {name} (the first is row {row if items is None else items[row]}): "
                "the embeddings are broken, a recall of them would mean nothing; embed again"
            )
    return np.sqrt(squares)


def _stand(images: np.ndarray, texts: np.ndarray, task: _Task, device: str) -> tuple[Standing, Standing]:
    """Compare all images with all items; pairs of the task come in any order."""
    place = distributed.resolve_device(device)
    items = task.items
    image_norms, text_norms = _norms(images, None, "image"), _norms(texts, items, "caption")
    order = np.lexsort((task.pair_text, task.pair_image))
    pair_image, pair_text = task.pair_image[order], task.pair_text[order]
    exact = np.empty(len(order))
    for start in range(0, len(order), CHUNK):
        chunk = slice(start, start + CHUNK)
        row = pair_text[chunk] if items is None else items[pair_text[chunk]]
        image, text = (np.array(a[i], np.float32, order="C") for a, i in ((images, pair_image[chunk]), (texts, row)))
        exact[chunk] = kernels.exact_scores(image, text, np.arange(len(image)), np.arange(len(image)))
    # A float32 dot product, summed in any order, is off by at most E · 2^-24 · |x| |y| to first order.
    # Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1.
    error = 1.01 * (images.shape[1] + 2) * 2.0**-24
    by_image = _thresholds(pair_image, len(image_norms), exact, error * image_norms[pair_image] * text_norms.max())
    turn = np.argsort(pair_text, kind="stable")
    by_text = _thresholds(
        pair_text[turn], len(text_norms), exact[turn], error * text_norms[pair_text[turn]] * image_norms.max()
    )
    counts = _count(images, texts, items, by_image, by_text, place)
    return _standing(by_image, counts[0], counts[1]), _standing(by_text, counts[2], counts[3])


def _thresholds(of: np.ndarray, count: int, exact: np.ndarray, error: np.ndarray) -> _Thresholds:
    low = np.nextafter((exact - error).astype(np.float32), np.float32(-np.inf))
    high = np.nextafter((exact + error).astype(np.float32), np.float32(np.inf))
    return _Thresholds(of, np.searchsorted(of, np.arange(count + 1)), exact, low, high)


def _count(
    images: np.ndarray,
    texts: np.ndarray,
    items: np.ndarray | None,
    by_image: _Thresholds,
    by_text: _Thresholds,
    device: torch.device,
) -> np.ndarray:
    """(4, S) int64: items above and equal to each right pair in its row, images above and equal to it in its column."""
    N, M = len(by_image.start) - 1, len(by_text.start) - 1
    block = BLOCK if device.type == "cpu" else CUDA_BLOCK
    tiles = [(i, j) for i in range(0, N, block) for j in range(0, M, block)]
    progress = tqdm(total=len(tiles), desc="compare", unit=" blocks", disable=len(tiles) < 1000)
    todo, lock = iter(tiles), threading.Lock()
    threads = torch.get_num_threads()

    def work(_: int) -> np.ndarray:
        counts = np.zeros((4, len(by_image.of)), np.int32)
        torch.set_num_threads(1)  # of this worker's products: whole tiles in parallel need not wait for each other
        try:
            last = None
            while True:
                with lock:
                    tile = next(todo, None)
                    progress.update(tile is not None)
                if tile is None:
                    return counts
                if tile[0] != last:
                    x, last = _rows(images, None, tile[0], tile[0] + block), tile[0]
                y = _rows(texts, items, tile[1], tile[1] + block)
                _count_tile(x, y, tile, by_image, by_text, device, counts)
        finally:
            torch.set_num_threads(threads)

    workers = min(threads, len(tiles)) if device.type == "cpu" else 1
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # the error bound is that of float32
    try:
        with progress, ThreadPoolExecutor(workers) as pool:
            return sum(pool.map(work, range(workers)), np.zeros((4, len(by_image.of)), np.int64))
    finally:
        torch.set_float32_matmul_precision(precision)


def _count_tile(
    x: np.ndarray,
    y: np.ndarray,
    tile: tuple[int, int],
    by_image: _Thresholds,
    by_text: _Thresholds,
    device: torch.device,
    counts: np.ndarray,
) -> None:
    scores = torch.from_numpy(x).to(device) @ torch.from_numpy(y).to(device).T
    for side, start, length, above, equal in (
        (by_image, tile[0], len(x), counts[0], counts[1]),
        (by_text, tile[1], len(y), counts[2], counts[3]),
    ):
        part = slice(side.start[start], side.start[start + length])
        of, low, high = side.of[part] - start, side.low[part], side.high[part]
        if _on_cpu(device):
            count = kernels.count_rows if side is by_image else kernels.count_columns
            near = count(scores.numpy(), of, low, high, above[part])
        else:
            near = _count_in_torch(scores if side is by_image else scores.T, of, low, high, above[part])
            near = near if side is by_image else near[:, [1, 0, 2]]
        score = kernels.exact_scores(x, y, near[:, 0].copy(), near[:, 1].copy())
        pair, right = near[:, 2], side.exact[part][near[:, 2]]
        np.add.at(above[part], pair[score > right], 1)
        np.add.at(equal[part], pair[score == right], 1)


def _on_cpu(device: torch.device) -> bool:  # the tests send a CPU the other way
    return device.type == "cpu"


def _count_in_torch(scores: torch.Tensor, of: np.ndarray, low: np.ndarray, high: np.ndarray, above: np.ndarray) -> np.ndarray:
    """`kernels.count_rows` where the scores are: the first threshold of every row at once, then the second, and so on."""
    turn = np.arange(len(of)) - np.searchsorted(of, of)
    found = [np.empty((0, 3), np.int64)]
    for t in range(turn.max(initial=-1) + 1):
        pair = np.flatnonzero(turn == t)
        row, least, most = (torch.from_numpy(a[pair]).to(scores.device) for a in (of, low, high))
        chosen = scores if len(pair) == len(scores) else scores[row]
        above[pair] += (chosen > most[:, None]).sum(1).cpu().numpy()
        q, column = ((chosen >= least[:, None]) & (chosen <= most[:, None])).nonzero().cpu().numpy().T
        found.append(np.column_stack([of[pair[q]], column, pair[q]]))
    return np.concatenate(found)


def _standing(side: _Thresholds, above: np.ndarray, equal: np.ndarray) -> Standing:
    """Take the query's own right items out of the counts, and keep its best."""
    count = len(side.start) - 1
    order = np.lexsort((-side.exact, side.of))
    query, score = side.of[order], side.exact[order]
    new_group = np.diff(query, prepend=-1).astype(bool) | (np.diff(score, prepend=np.nan) != 0)
    first_of_group = np.flatnonzero(new_group)
    group = np.cumsum(new_group) - 1
    place = np.arange(len(order)) - side.start[query]
    own = np.diff(first_of_group, append=len(order))[group]
    above = above[order] - (first_of_group[group] - side.start[query])
    equal = equal[order] - own
    asked = np.diff(side.start) > 0
    best = side.start[:-1][asked]
    values = [np.zeros(count, np.int64) for _ in range(3)]
    for array, source in zip(values, (above, equal, own), strict=True):
        array[asked] = source[best]
    answers = np.maximum(np.diff(side.start), 1)
    precision = {
        ties: np.bincount(query, (place + 1) / (place + 1 + above + share * equal), count) / answers
        for ties, share in TIES.items()
    }
    return Standing(*values, precision)


def _measure(task: _Task, both: tuple, N: int, ks: Sequence[int], ties: str, samples: int, seed: int, classes) -> list[dict]:
    image, text, M, K = task.pair_image, task.pair_text, len(both[1].own), len(ks)
    texts_of_image, images_of_text = np.bincount(image, minlength=N), np.bincount(text, minlength=M)
    asked = texts_of_image > 0
    share = 1 / images_of_text[text]  # of a text's query, for each image that carries it

    def by_image(i2t: tuple, t2i: tuple) -> np.ndarray:  # (N, 2K + 4): K recalls, precision and queries, for both directions
        shared = [np.bincount(image, share * column[text], N) for column in (*t2i[0].T, t2i[1], np.ones(M))]
        return np.column_stack([*i2t, np.ones(N), *shared]) * np.repeat([asked, np.ones(N)], K + 2, axis=0).T

    found = by_image(*((hits(side, ks, ties), side.precision[ties]) for side in both))
    chances = by_image(
        *(
            (1 - _miss(right[:, None], total, np.asarray(ks)), _chance_precision(right, total))
            for right, total in ((texts_of_image, M), (images_of_text, N))
        )
    )
    queries = (
        (rank(both[0], ties)[asked], np.flatnonzero(asked), np.ones(asked.sum())),
        (rank(both[1], ties)[text], image, share),
    )
    medians = [tuple(column[np.argsort(query[0], kind="stable")] for column in query) for query in queries]
    expected_ranks = [np.median((M + 1) / (texts_of_image[asked] + 1)), np.median((N + 1) / (images_of_text + 1))]
    codes, names = pd.factorize(np.array([None] * N if classes is None else list(classes), object))  # None becomes -1
    groups = [("", asked, medians, expected_ranks)]
    groups += [(f"[{name}]", asked & (codes == code), [], []) for code, name in enumerate(names)]
    labels = (
        [("i2t", f"R@{k}") for k in ks] + [("t2i", f"R@{k}") for k in ks] + [("both", "mR"), ("i2t", "mAP"), ("t2i", "mAP")]
    )
    labels += [("i2t", "median_rank"), ("t2i", "median_rank")]
    rows = []
    for suffix, inside, of_group, ranks_of_group in groups:
        if not inside.any():
            continue
        table = found if not suffix else found[inside]
        expected = [*_scores(chances[inside].sum(0), K), *ranks_of_group]
        n = {"i2t": int(inside.sum()), "t2i": len(np.unique(text[inside[image]])), "both": len(table)}
        values = np.array(
            [
                [*_scores(times @ table, K), *(_median(found, times[image] * weight) for found, image, weight in of_group)]
                for times in (drawn[0].astype(float) for drawn in statistics.bootstrap(len(table), samples, seed))
            ]
        )
        for label, of_metric, chance in zip(labels, values.T, expected):  # no medians of classes
            row = {"direction": label[0], "metric": label[1] + suffix, **statistics.interval(of_metric)}
            rows.append(row | {"chance": float(chance), "n": n[label[0]]})
    return rows


def _median(found: np.ndarray, weight: np.ndarray) -> float:
    """Weighted median of sorted numbers: that of each number written down as often as its weight says."""
    total = np.cumsum(weight)
    if not len(total) or not total[-1]:
        return np.nan
    half = total[-1] / 2
    return (found[np.searchsorted(total, half)] + found[np.searchsorted(total, half, side="right")]) / 2


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
