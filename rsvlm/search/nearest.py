"""The chips nearest to a question, exactly: vectors in half precision, read from disk once, a block at a time, by each core a part.

Reading them takes longest. What a block needs more is done while it lies in the processor's cache, and nothing of it is kept but the best.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np

from rsvlm.errors import DataError

_BLOCK_BYTES = 1 << 20  # what is read at once: it stays in the cache of one core
_PART_BYTES = 1 << 25  # fewer are not worth a thread of their own
_ROWS = 1 << 16  # scores that are ranked at once
_SCALE = np.float32(2.0**112)  # between the exponents of half and of single precision


def nearest(path: Path, questions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k rows of a file of vectors with the greatest dot product with each question.

    Args:
        path: A file as of `numpy.save`, (N, E) float16. Memory does not grow with N.
        questions: (Q, E) float32.
        k: Rows for each question.

    Returns:
        (Q, k) float32 dot products, greatest first; and (Q, k) int64 numbers of rows, of equal ones the lower first. If N is smaller
        than k, there are N.

    Raises:
        DataError: The file holds something else.
    """
    questions = np.ascontiguousarray(questions, np.float32) * _SCALE
    with open(path, "rb", buffering=0) as file:
        count, width = _shape(file, path)
        begin = file.tell()
    if questions.shape[1] != width:
        raise DataError(f"{path} holds vectors of {width} numbers, the question has {questions.shape[1]}")
    k, line = min(k, count), 2 * width
    parts = max(1, min(numba.get_num_threads(), count * line // _PART_BYTES))
    edges = [count * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        tasks = [
            pool.submit(_of_rows, path, begin + first * line, (first, last), questions, k)
            for first, last in itertools.pairwise(edges)
        ]
        found = [task.result() for task in tasks]
    scores, rows = (np.concatenate(each, axis=1) for each in zip(*found, strict=True))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _of_rows(path: Path, begin: int, between: tuple[int, int], questions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of the rows from one number up to another, which begin at a byte of the file."""
    width = questions.shape[1]
    scores = np.empty((len(questions), 0), np.float32)
    rows = np.empty((len(questions), 0), np.int64)
    step = max(1, _BLOCK_BYTES // (2 * width))
    block, of_block = np.empty((step, width), np.uint16), np.empty((len(questions), step), np.float32)
    fresh = np.empty((len(questions), _ROWS), np.float32)
    with open(path, "rb", buffering=0) as file:
        file.seek(begin)
        for start in range(*between, _ROWS):
            many = min(_ROWS, between[1] - start)
            for first in range(0, many, step):
                part = block[: min(step, many - first)]
                _fill(file, part, path)
                _dots(part, questions, of_block)
                fresh[:, first : first + len(part)] = of_block[:, : len(part)]
            scores, rows = _merge(scores, rows, fresh[:, :many], start, k)
    return scores, rows


def _shape(file, path: Path) -> tuple[int, int]:
    """Read the header of a file of vectors: N and E."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, kind = read(file)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is no file of vectors ({error}): index again") from None
    if len(shape) != 2 or by_columns or kind != np.float16:
        raise DataError(f"{path} holds {kind} of shape {shape}, not vectors in half precision: index again")
    return shape


def _fill(file, part: np.ndarray, path: Path) -> None:
    """Read as many bytes as an array takes."""
    wanted = memoryview(part).cast("B")
    while wanted:
        count = file.readinto(wanted)
        if not count:
            raise DataError(f"{path} ends before its last vector: index again")
        wanted = wanted[count:]


def _merge(scores: np.ndarray, rows: np.ndarray, fresh: np.ndarray, start: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Put the scores of the rows from `start` on among the best so far, and keep the k best of each question."""
    if not k:
        return scores, rows
    merged = []
    for old, numbers, new in zip(scores, rows, fresh):
        # Few are greater than the least of the best so far.
        least = old[-1] if len(old) == k else -np.inf
        candidates = np.flatnonzero(new > least)
        if len(candidates) > 4 * k:
            least = np.partition(new[candidates], len(candidates) - k)[len(candidates) - k]
            candidates = candidates[new[candidates] >= least]
        values = np.concatenate([old, new[candidates]])
        order = np.argsort(-values, kind="stable")[:k]
        merged.append((values[order], np.concatenate([numbers, candidates + start])[order]))
    return np.stack([one for one, _ in merged]), np.stack([one for _, one in merged])


@numba.njit(fastmath={"reassoc", "contract", "nsz"}, nogil=True, cache=True)
def _dots(block, questions, scores):  # pragma: no cover - compiled
    """Write into the first columns of scores the (Q, n) dot products of a block (n, E) of halves, as their bits, with questions (Q, E) times `_SCALE`.

    The bits of a half, moved to their places in a single, mean 2 to the power of -112 of its number, subnormal ones too.
    """
    count, width = block.shape
    row = np.empty(width, np.float32)
    several = len(questions) > 1
    for i in range(count):
        total = np.float32(0)
        for j in range(width):
            bits = np.int32(block[i, j])
            number = np.int32(((bits & 0x7FFF) << 13) | ((bits & 0x8000) << 16)).view(np.float32)
            total += number * questions[0, j]
            if several:
                row[j] = number
        scores[0, i] = total
        for q in range(1, len(questions)):
            total = np.float32(0)
            for j in range(width):
                total += row[j] * questions[q, j]
            scores[q, i] = total
