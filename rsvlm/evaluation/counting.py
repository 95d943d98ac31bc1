"""How many pairs score higher than a right one: exact counts for every right pair, with all scores computed but never held at once.

The score of a pair is its dot product in float64. Blocks of scores come from a float32 matrix product; only those within its rounding
error of a right pair's score are computed again. So neither the size of a block nor the device has any influence on a count.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from rsvlm.errors import DataError
from rsvlm.evaluation import score_kernels
from rsvlm.model.device import resolve_device

BLOCK = 1024  # images and captions scored at once by a thread: 4 MB of scores
CUDA_BLOCK = 8192
CHUNK = 8192  # rows read at once where vectors are only looked at


@dataclass(frozen=True)
class _Side:
    """The scores of the S right pairs as thresholds in the rows (or columns) of the score matrix, sorted by these.

    `pair` (S,) numbers the pairs, `of` (S,) is the row of each, `start` (rows + 1,) is where each row begins; what is below `low` (S,)
    float32 is truly below `exact` (S,) float64, and what is above `high` (S,) truly above it.
    """

    pair: np.ndarray
    of: np.ndarray
    start: np.ndarray
    exact: np.ndarray
    low: np.ndarray
    high: np.ndarray


def count(
    images: np.ndarray,
    texts: np.ndarray,
    items: np.ndarray | None,
    pair_image: np.ndarray,
    pair_text: np.ndarray,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count what scores higher than each right pair, and what scores the same.

    Args:
        images: (N, E) float32; a memory map is read a block at a time.
        texts: (M, E) float32, likewise.
        items: (I,) int64 rows of `texts` that are compared. If None, all.
        pair_image: (S,) int64, the image of each right pair, from 0 to N - 1; pairs come in any order.
        pair_text: (S,) int64, its text, from 0 to I - 1.
        device: cpu (as many threads as torch may use), cuda, cuda:N or auto.

    Returns:
        (S,) float64 scores of the pairs; (2, S) int64 texts that the pair's image scores higher with, and as high with, the pair itself
        included; (2, S) int64 the same of images that the pair's text scores with.

    Raises:
        DataError: A vector is zero, NaN or infinite.
    """
    place = resolve_device(device)
    image_norms, text_norms = _norms(images, None, "image"), _norms(texts, items, "caption")
    exact = np.empty(len(pair_image))
    for start in range(0, len(exact), CHUNK):
        chunk = slice(start, start + CHUNK)
        row = pair_text[chunk] if items is None else items[pair_text[chunk]]
        image, text = (np.array(a[i], np.float32, order="C") for a, i in ((images, pair_image[chunk]), (texts, row)))
        exact[chunk] = score_kernels.exact_scores(image, text, np.arange(len(image)), np.arange(len(image)))
    # A float32 dot product, summed in any order, is off by at most E · 2^-24 · |x| |y| to first order.
    # Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1.
    error = 1.01 * (images.shape[1] + 2) * 2.0**-24
    by_image = _side(pair_image, len(image_norms), exact, error * image_norms[pair_image] * text_norms.max())
    by_text = _side(pair_text, len(text_norms), exact, error * text_norms[pair_text] * image_norms.max())
    counts = _count_blocks(images, texts, items, by_image, by_text, place)
    in_row, in_column = np.empty((2, 2, len(exact)), np.int64)
    in_row[:, by_image.pair], in_column[:, by_text.pair] = counts[:2], counts[2:]
    return exact, in_row, in_column


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


def _rows(array: np.ndarray, items: np.ndarray | None, start: int, stop: int) -> np.ndarray:
    """Copy some rows into memory: a kernel and torch then never meet a memory map, another type or other strides."""
    return np.array(array[start:stop] if items is None else array[items[start:stop]], np.float32, order="C")


def _side(of: np.ndarray, count: int, exact: np.ndarray, error: np.ndarray) -> _Side:
    pair = np.argsort(of, kind="stable")
    of, exact, error = of[pair], exact[pair], error[pair]
    low = np.nextafter((exact - error).astype(np.float32), np.float32(-np.inf))
    high = np.nextafter((exact + error).astype(np.float32), np.float32(np.inf))
    return _Side(pair, of, np.searchsorted(of, np.arange(count + 1)), exact, low, high)


def _count_blocks(
    images: np.ndarray, texts: np.ndarray, items: np.ndarray | None, by_image: _Side, by_text: _Side, device: torch.device
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
    by_image: _Side,
    by_text: _Side,
    device: torch.device,
    counts: np.ndarray,
) -> None:
    """Add what the product of (n, E) images and (m, E) texts, whose first are those numbered by `tile`, has to (4, S) counts."""
    scores = torch.from_numpy(x).to(device) @ torch.from_numpy(y).to(device).T
    sides = ((by_image, tile[0], len(x), *counts[:2]), (by_text, tile[1], len(y), *counts[2:]))
    for side, start, length, above, equal in sides:
        # Scores that are above for certain are counted; the few too close to call are computed again, exactly.
        part = slice(side.start[start], side.start[start + length])
        of, low, high = side.of[part] - start, side.low[part], side.high[part]
        if _on_cpu(device):
            count_sure = score_kernels.count_rows if side is by_image else score_kernels.count_columns
            near = count_sure(scores.numpy(), of, low, high, above[part])
        else:
            near = _count_in_torch(scores if side is by_image else scores.T, of, low, high, above[part])
            near = near if side is by_image else near[:, [1, 0, 2]]
        score = score_kernels.exact_scores(x, y, near[:, 0].copy(), near[:, 1].copy())
        pair, right = near[:, 2], side.exact[part][near[:, 2]]
        np.add.at(above[part], pair[score > right], 1)
        np.add.at(equal[part], pair[score == right], 1)


def _on_cpu(device: torch.device) -> bool:  # the tests send a CPU the other way
    return device.type == "cpu"


def _count_in_torch(scores: torch.Tensor, of: np.ndarray, low: np.ndarray, high: np.ndarray, above: np.ndarray) -> np.ndarray:
    """`score_kernels.count_rows` where the scores are: the first threshold of every row at once, then the second, and so on."""
    turn = np.arange(len(of)) - np.searchsorted(of, of)
    near = [np.empty((0, 3), np.int64)]
    for t in range(turn.max(initial=-1) + 1):
        pair = np.flatnonzero(turn == t)
        row, least, most = (torch.from_numpy(a[pair]).to(scores.device) for a in (of, low, high))
        chosen = scores if len(pair) == len(scores) else scores[row]
        above[pair] += (chosen > most[:, None]).sum(1).cpu().numpy()
        q, column = ((chosen >= least[:, None]) & (chosen <= most[:, None])).nonzero().cpu().numpy().T
        near.append(np.column_stack([of[pair[q]], column, pair[q]]))
    return np.concatenate(near)
