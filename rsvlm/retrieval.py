"""Embeddings → ranks → recall both ways, with chance and a bootstrap interval beside every number."""

from __future__ import annotations

import numpy as np

from rsvlm import kernels
from rsvlm.errors import DataError

PROTOCOLS = {
    "plain": "every caption is an item; an image is right if any of its captions is in the top k (CLIP_benchmark)",
    "one-to-one": "one caption per image, its first; equal captions of other images count as errors (open_clip in training)",
}


def ranks(
    image_embeddings: np.ndarray, caption_embeddings: np.ndarray, image_of_caption: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the best right answer of every query, 1 being best; ties count against the query.

    Args:
        image_embeddings: (N, E) float32; the score of a pair is its dot product, so give embeddings of norm 1.
        caption_embeddings: (M, E) float32.
        image_of_caption: (M,) int64 rows of `image_embeddings`.

    Returns:
        image_to_text: (N,) int64, 0 for an image without a caption.
        text_to_image: (M,) int64.

    Raises:
        DataError: Shapes that do not fit, an index out of range, or a score that is NaN or infinite.
    """
    image_embeddings = np.ascontiguousarray(image_embeddings, np.float32)
    caption_embeddings = np.ascontiguousarray(caption_embeddings, np.float32)
    image_of_caption = np.asarray(image_of_caption, np.int64)
    N, M = len(image_embeddings), len(caption_embeddings)
    if image_embeddings.ndim != 2 or caption_embeddings.shape != (M, image_embeddings.shape[1]):
        raise DataError(
            f"embeddings of shape {image_embeddings.shape} and {caption_embeddings.shape}: expected (N, E) and (M, E)"
        )
    if not N or not M or image_of_caption.shape != (M,):
        raise DataError(
            f"{N} images, {M} captions, image_of_caption of shape {image_of_caption.shape}: expected ({M},), N, M ≥ 1"
        )
    if image_of_caption.min() < 0 or image_of_caption.max() >= N:
        raise DataError(
            f"image_of_caption reaches from {image_of_caption.min()} to {image_of_caption.max()}: expected 0…{N - 1}"
        )
    order = np.argsort(image_of_caption, kind="stable")
    start = np.searchsorted(image_of_caption[order], np.arange(N + 1))
    image_to_text, bad = kernels.best_positive_ranks(image_embeddings, _transposed(caption_embeddings), start, order)
    if not bad.any():
        text_to_image, bad = kernels.best_positive_ranks(
            caption_embeddings, _transposed(image_embeddings), np.arange(M + 1), image_of_caption
        )
    if bad.any():
        raise DataError(
            f"{bad.sum()} scores are NaN or infinite: the embeddings are broken, a recall of them would mean nothing"
        )
    return image_to_text, text_to_image


def evaluate(
    image_embeddings: np.ndarray,
    caption_embeddings: np.ndarray,
    image_of_caption: np.ndarray,
    *,
    dataset: str = "unnamed",
    split: str = "test",
    protocol: str = "plain",
    ks: tuple[int, ...] = (1, 5, 10),
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> list[dict]:
    """Retrieval metrics as rows `{dataset, split, protocol, direction, metric, value, ci_low, ci_high, chance, n}`.

    Recalls are in percent. `mR` is the mean of all recalls of both directions. The interval is the 2.5 to 97.5 percentile over
    bootstrap resamples of the *images*, each with its captions. `chance` is the exact expectation under a random ranking.

    Args:
        image_embeddings: (N, E) float32, norm 1.
        caption_embeddings: (M, E) float32, norm 1.
        image_of_caption: (M,) int64.
        dataset: Name that goes into the rows.
        split: Name that goes into the rows.
        protocol: `plain`, or `one-to-one`: only the first caption of each image is used. See `PROTOCOLS`.
        ks: The recalls asked for.
        bootstrap_samples: Resamples of the images.
        seed: Of the bootstrap.

    Raises:
        DataError: As `ranks`, or an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise DataError(f"unknown protocol '{protocol}': choose one of {', '.join(PROTOCOLS)}")
    image_of_caption = np.asarray(image_of_caption, np.int64)
    if protocol == "one-to-one":
        first = np.sort(np.unique(image_of_caption, return_index=True)[1])
        caption_embeddings, image_of_caption = np.asarray(caption_embeddings)[first], image_of_caption[first]
    image_to_text, text_to_image = ranks(image_embeddings, caption_embeddings, image_of_caption)
    N, M = len(image_to_text), len(text_to_image)
    per_image = np.bincount(image_of_caption, minlength=N)  # captions of each image
    asked = per_image > 0

    k = np.asarray(ks)
    i2t_hits = (image_to_text[:, None] <= k) & asked[:, None]  # (N, K)
    t2i_hits = np.zeros((N, len(k)))
    np.add.at(t2i_hits, image_of_caption, text_to_image[:, None] <= k)
    totals = np.column_stack([i2t_hits, t2i_hits, asked, per_image]).astype(float)  # (N, 2K + 2): everything that is summed
    value = _recalls(totals.sum(0), len(k))
    rng = np.random.default_rng(seed)
    drawn = [np.bincount(rng.integers(0, N, N), minlength=N) for _ in range(bootstrap_samples)]  # times each image was drawn
    resampled = np.stack([times @ totals for times in drawn])
    low, high = np.percentile(_recalls(resampled, len(k)), [2.5, 97.5], axis=0)
    chance = _recalls(np.concatenate([_chance_i2t(per_image, M, k), _chance_t2i(N, M, k), [asked.sum(), M]]), len(k))

    labels = [("i2t", f"R@{j}") for j in ks] + [("t2i", f"R@{j}") for j in ks] + [("both", "mR")]
    counts = [int(asked.sum())] * len(k) + [M] * len(k) + [N]
    common = {"dataset": dataset, "split": split, "protocol": protocol}
    rows = [
        {**common, "direction": direction, "metric": metric, "value": value[i], "ci_low": low[i], "ci_high": high[i]}
        | {"chance": chance[i], "n": counts[i]}
        for i, (direction, metric) in enumerate(labels)
    ]
    for direction, found, image, expected in (
        ("i2t", image_to_text[asked], np.flatnonzero(asked), _chance_median_i2t(per_image[asked], M)),
        ("t2i", text_to_image, image_of_caption, (N + 1) / 2),
    ):
        medians = [np.median(np.repeat(found, times[image])) for times in drawn if times[image].any()]
        low_rank, high_rank = np.percentile(medians, [2.5, 97.5])
        rows.append(
            {**common, "direction": direction, "metric": "median_rank", "value": np.median(found), "ci_low": low_rank}
            | {"ci_high": high_rank, "chance": expected, "n": len(found)}
        )
    numbers = ("value", "ci_low", "ci_high", "chance")
    return [{name: float(cell) if name in numbers else cell for name, cell in row.items()} for row in rows]


def _transposed(embeddings: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(embeddings.T)


def _recalls(totals: np.ndarray, count: int) -> np.ndarray:
    """(…, 2K + 2) sums of hits and queries → (…, 2K + 1) percentages, the last their mean."""
    with np.errstate(invalid="ignore"):
        i2t = 100 * totals[..., :count] / totals[..., -2:-1]
        t2i = 100 * totals[..., count : 2 * count] / totals[..., -1:]
    both = np.concatenate([i2t, t2i], axis=-1)
    return np.concatenate([both, both.mean(-1, keepdims=True)], axis=-1)


def _miss(per_image: np.ndarray, M: int, k: np.ndarray) -> np.ndarray:
    """(N, K) probability that none of an image's captions is in the top k of a random order of M: C(M - m, k) / C(M, k)."""
    steps = np.arange(k.max())[None, :]
    factors = np.clip((M - per_image[:, None] - steps) / np.maximum(M - steps, 1), 0, 1)
    return np.cumprod(factors, axis=1)[:, k - 1]


def _chance_i2t(per_image: np.ndarray, M: int, k: np.ndarray) -> np.ndarray:
    return (1 - _miss(per_image, M, k)).sum(0)


def _chance_t2i(N: int, M: int, k: np.ndarray) -> np.ndarray:
    return M * np.minimum(k / N, 1)


def _chance_median_i2t(per_image: np.ndarray, M: int) -> float:
    """Median over images of the expected best rank of m captions among M: (M + 1) / (m + 1)."""
    return float(np.median((M + 1) / (per_image + 1)))
