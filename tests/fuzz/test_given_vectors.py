"""Vectors in a file: ranks and recalls are those of plain numpy, with ties, and in whatever order images and captions stand."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from fuzzing import fuzz
from hypothesis import strategies as st

from rsvlm.evaluation import given, retrieval

TYPES = ("<f4", ">f4", "<f8", "<f2")


def by_numpy(images, texts, right, ks):
    """Recalls in percent of both directions, a wrong item with the same score standing before: over queries with a right answer."""
    recalls = {}
    for direction, scores, own in (("i2t", images @ texts.T, right), ("t2i", texts @ images.T, right.T)):
        asked = own.any(1)
        best = np.where(own, scores, -np.inf).max(1, keepdims=True)
        ranks = 1 + (~own & (scores >= best)).sum(1)[asked]
        recalls |= {(direction, f"R@{k}"): 100 * (ranks <= k).mean() for k in ks}
        recalls[direction, "median_rank"] = np.median(ranks)
    return recalls


@fuzz(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(2, 12), st.integers(2, 30), st.integers(1, 5)),
    kind=st.sampled_from(TYPES),
    order=st.sampled_from("CF"),
    owner=st.sampled_from(["<i8", ">i4", "u1"]),
)
def test_recalls_of_given_vectors_are_those_of_numpy_in_any_order(seed, shape, kind, order, owner):
    (N, M, width), rng = shape, np.random.default_rng(seed)
    # Signs alone have the same norm, so that all scores and their ties are exact; any other length is scaled away.
    images, texts = (rng.choice([-1.0, 1.0], (count, 4**width // 4 or 1)) for count in (N, M))
    owners = rng.integers(0, N, M)
    wanted = by_numpy(images, texts, owners == np.arange(N)[:, None], ks := [1, 2])
    with tempfile.TemporaryDirectory() as name:
        for turn in (np.arange(N), rng.permutation(N)):
            back, texts_in = np.argsort(turn), rng.permutation(M)
            lengths = 2.0 ** rng.integers(-3, 4, (N, 1))
            arrays = {
                "image_embeddings": np.asarray((images * lengths)[turn], kind, order=order),
                "caption_embeddings": np.asarray(texts[texts_in], kind, order=order),
                "image_of_caption": back[owners[texts_in]].astype(owner),
                "keys": np.array([f"é{i}" for i in turn]),
            }
            np.savez(Path(name) / "a.npz", **arrays)
            vectors = given.read_embeddings(f"embeddings:{name}/a.npz")
            assert vectors.keys == [f"é{i}" for i in turn]
            np.testing.assert_allclose(vectors.image_embeddings, images[turn] / np.sqrt(images.shape[1]), rtol=1e-6)
            rows = retrieval.evaluate(*vectors.arrays(), ks=ks, bootstrap_samples=0)
            found = {(row["direction"], row["metric"]): row["value"] for row in rows}
            assert all(abs(found[key] - value) < 1e-9 for key, value in wanted.items())
