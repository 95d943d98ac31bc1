"""Itaipu's labels by their names alone: the words for each, and how well pictures fit them, as chapter and front page read them out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsvlm.evaluation import reading
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder

WORDS = {
    "water": ("water", "a lake", "a reservoir", "a large river"),
    "river": ("a river", "a stream", "a narrow river"),
    "city": ("a city", "a town", "buildings and streets"),
    "village": ("a village", "a hamlet", "a few houses"),
    "forest": ("a forest", "forests", "trees"),
    "fields": ("fields", "farmland"),
    "bare ground": ("bare ground", "bare soil"),
    "dam": ("a dam",),
    "island": ("an island", "islands"),
}
"""Words for each label, in the order of the labels; chosen before any look at the south."""

SENTENCES = ("An aerial picture of {}.", "{}, seen from above.", "An overhead view of {}.", "A picture with {}.")
"""Sentences into which each word is put."""

AT_ONCE = 64


def cosines(encoder: Encoder, pictures: Sequence[np.ndarray], turned: bool = True) -> np.ndarray:
    """Measure how near each picture is to each label: to the mean of all sentences with words for it.

    Args:
        encoder: Model that reads texts.
        pictures: Of each (H, W, 3) uint8.
        turned: Whether a picture stands for itself in its eight rotations and mirrorings, by the mean of their vectors: no label says which
            way is up.

    Returns:
        (N, L) float, with the labels as in `WORDS`.
    """
    parts = [list(pictures[start : start + AT_ONCE]) for start in range(0, len(pictures), AT_ONCE)]
    seen = [reading.turned_vectors(encoder, part).mean(axis=1) if turned else encoder.images(part) for part in parts]
    vectors = embed.unit(np.concatenate(seen), "chips")
    of_labels = []
    for words in WORDS.values():
        sentences = [sentence.format(word) for word in words for sentence in SENTENCES]
        of_labels.append(embed.unit(np.asarray(encoder.texts(sentences)), "texts").mean(0))
    return vectors @ embed.unit(np.stack(of_labels), "labels").T


def contrast(scores: np.ndarray) -> np.ndarray:
    """Judge labels against each other: each cosine minus the mean of the picture's cosines with all labels, for some pictures are near every text.

    Args:
        scores: (N, L) as from `cosines`.

    Returns:
        (N, L); rows have the mean 0.
    """
    return scores - scores.mean(axis=1, keepdims=True)
