"""What a model says of the patches of unlabelled pictures, and which of it is sure enough to be a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from rsvlm.localization import heat
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder
from rsvlm.model.mammut import Mammut

FLIPS = ((), (-1,), (-2,), (-2, -1))
"""As it is, left-right, upside down, both: axes that are turned."""


def odds_by_part(
    model: Mammut | Encoder,
    images: np.ndarray,
    classes: Mapping[str, Sequence[str]],
    *,
    window: int = 3,
    scale: int = 1,
    flips: int = 1,
) -> Iterator[np.ndarray]:
    """Tell the classes of patches apart: yield (flips, n, C, h, w) float32 probabilities, over the classes they add up to 1.

    Some pictures come after others, so that memory does not grow with N.

    Args:
        model: The model, in evaluation mode.
        images: (N, S, S, 3) uint8.
        classes: Sentences of each class; the surest sentence speaks for its class.
        window: Window of the Smooth-Attention-Operation.
        scale: Whole number by which pictures are enlarged; maps are then averaged, so that the grid stays that of scale 1.
        flips: Number of `FLIPS` that are looked at; maps are turned back.
    """
    model = embed.encoder_of(model)
    groups = [list(texts) for texts in classes.values()]
    starts = np.cumsum([0, *map(len, groups[:-1])])
    texts = embed.texts(model, sum(groups, []))
    side = model.image_size * scale
    for part in np.array_split(images, max(len(images) * scale**2 // 64, 1)):
        batch, odds = heat.to_batch(model, list(part), side, side), []
        for flip in FLIPS[:flips]:
            scores = heat.heat(model, batch.flip(flip) if flip else batch, texts, window=window)
            scores = torch.from_numpy(np.maximum.reduceat(scores, starts, axis=1) * model.logit_scale)
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
