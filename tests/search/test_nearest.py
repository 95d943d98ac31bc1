"""The nearest of many vectors, exactly, and without holding them."""

from __future__ import annotations

import numpy as np
import pytest

from rsvlm.errors import DataError
from rsvlm.search import nearest


def halves(count: int, width: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, width), np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("part_bytes", [1 << 25, 16, 4096])
@pytest.mark.parametrize(
    ("count", "width", "questions", "k"), [(1000, 48, 1, 10), (257, 16, 3, 257), (5, 8, 2, 9), (3, 1, 1, 1)]
)
def test_it_is_what_the_whole_product_says(tmp_path, monkeypatch, part_bytes, count, width, questions, k):
    monkeypatch.setattr(nearest, "_ROWS", 100)
    monkeypatch.setattr(nearest, "_BLOCK_BYTES", 700)
    monkeypatch.setattr(nearest, "_PART_BYTES", part_bytes)
    vectors, asked = halves(count, width), halves(questions, width, 1).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    scores, rows = nearest.nearest(tmp_path / "v.npy", asked, k)
    product = asked.astype(np.float64) @ vectors.astype(np.float64).T
    expected = np.argsort(-product, axis=1, kind="stable")[:, :k]
    np.testing.assert_allclose(scores, np.take_along_axis(product, expected, 1), atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(product, rows, 1), scores, atol=1e-6)
    assert rows.shape == (questions, min(k, count)) and all(len(set(row)) == len(row) for row in rows.tolist())


def test_every_half_is_read_as_it_is(tmp_path):
    bits = np.arange(1 << 16, dtype=np.uint16)
    numbers = bits.view(np.float16)
    numbers = numbers[np.isfinite(numbers)]  # with zeros of both signs and the smallest of all
    np.save(tmp_path / "v.npy", numbers[:, None])
    scores, rows = nearest.nearest(tmp_path / "v.npy", np.ones((1, 1), np.float32), len(numbers))
    np.testing.assert_array_equal(scores[0], numbers[rows[0]].astype(np.float32))
    assert sorted(rows[0].tolist()) == list(range(len(numbers)))


def test_of_equal_ones_the_first_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(nearest, "_ROWS", 7)
    monkeypatch.setattr(nearest, "_PART_BYTES", 64)
    np.save(tmp_path / "v.npy", np.ones((40, 4), np.float16))
    _, rows = nearest.nearest(tmp_path / "v.npy", np.ones((2, 4), np.float32), 12)
    assert rows.tolist() == [list(range(12))] * 2


def test_a_file_that_is_something_else_is_refused(tmp_path):
    path, asked = tmp_path / "v.npy", np.ones((1, 4), np.float32)
    np.save(path, np.ones((3, 4), np.float32))
    with pytest.raises(DataError, match="not vectors in half precision"):
        nearest.nearest(path, asked, 1)
    np.save(path, np.ones((3, 5), np.float16))
    with pytest.raises(DataError, match="5 numbers, the question has 4"):
        nearest.nearest(path, asked, 1)
    np.save(path, np.ones((300, 4), np.float16))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="ends before its last vector"):
        nearest.nearest(path, asked, 1)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="no file of vectors"):
        nearest.nearest(path, asked, 1)
