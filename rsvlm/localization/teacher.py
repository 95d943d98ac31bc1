"""What a model says of the patches of unlabelled pictures, and which of it is sure enough to be a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from rsvlm.localization import heat as localize
from rsvlm.model import embed
from rsvlm.model.mammut import Mammut

FLIPS = ((), (-1,), (-2,), (-2, -1))


def probabilities(
    model: Mammut, images: np.ndarray, classes: Mapping[str, Sequence[str]], *, window: int = 3, scale: int = 1, flips: int = 1
) -> np.ndarray:
    """Tell the classes of patches apart: (flips, N, C, h, w) float32, over the classes they add up to 1.

    Args:
        model: The model, in evaluation mode.
        images: (N, S, S, 3) uint8.
        classes: Sentences of each class; the surest sentence speaks for its class.
        window: Of the Smooth-Attention-Operation.
        scale: Pictures are enlarged by this number; maps then averaged, so that the grid stays that of scale 1.
        flips: So many of: as it is, left-right, upside down, both; maps are turned back.
    """
    parts = odds_by_part(model, images, classes, window=window, scale=scale, flips=flips)
    return np.concatenate(list(parts), axis=1)


def odds_by_part(
    model: Mammut, images: np.ndarray, classes: Mapping[str, Sequence[str]], *, window: int = 3, scale: int = 1, flips: int = 1
) -> Iterator[np.ndarray]:
    """Yield the same for some pictures after others, (flips, n, C, h, w), so that memory does not grow with N."""
    sentences, starts = _sentences(classes)
    texts = embed.texts(model, sentences)
    side = model.config.image_size * scale
    for part in np.array_split(images, max(len(images) * scale**2 // 64, 1)):
        batch, odds = localize.to_batch(model, list(part), side, side), []
        for flip in FLIPS[:flips]:
            scores = localize.heat(model, batch.flip(flip) if flip else batch, texts, window=window)
            scores = torch.from_numpy(np.maximum.reduceat(scores, starts, axis=1) * model.logit_scale.item())
            grid = F.avg_pool2d(scores.softmax(1), scale)
            odds.append((grid.flip(flip) if flip else grid).numpy())
        yield np.stack(odds)


def choose(winner: np.ndarray, sure: np.ndarray, sure_share: float) -> np.ndarray:
    """Label the surest patches of each class.

    Args:
        winner: (N, h, w) int, the likeliest class of each patch.
        sure: (N, h, w) float32, its probability.
        sure_share: Share of the patches of each class that are labelled.

    Returns:
        (N, h, w) int8, the class, or -1 where unsure.
    """
    labels = np.full(winner.shape, -1, np.int8)
    for c in np.unique(winner):
        mine = winner == c
        labels[mine & (sure >= np.quantile(sure[mine], 1 - sure_share))] = c
    return labels


def _sentences(classes: Mapping[str, Sequence[str]]) -> tuple[list[str], list[int]]:
    groups = [list(texts) for texts in classes.values()]
    return sum(groups, []), [0, *np.cumsum([len(group) for group in groups])[:-1].tolist()]
