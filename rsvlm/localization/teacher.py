"""What a model says of the patches of unlabelled pictures, and which of it is sure enough to be a label."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from rsvlm.errors import ModelError
from rsvlm.localization import heat
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder
from rsvlm.model.mammut import Mammut
from rsvlm.training import processes

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
    grid: int | None = None,
) -> Iterator[np.ndarray]:
    """Tell the classes of patches apart: yield (flips, n, C, h, w) float32 probabilities, over the classes they add up to 1.

    Some pictures come after others, so that memory does not grow with N.

    Args:
        model: The model, in evaluation mode.
        images: (N, S, S, 3) uint8; S need not be the model's.
        classes: Sentences of each class; the surest sentence speaks for its class.
        window: Window of the Smooth-Attention-Operation.
        scale: Whole number by which pictures are enlarged; maps are then averaged, so that the grid stays that of scale 1.
        flips: Number of `FLIPS` that are looked at; maps are turned back.
        grid: Patches along a side, h = w, for instance those of a pupil with other patches. If None, the model's own at scale 1.

    Raises:
        ModelError: As `check`.
    """
    model = check(model)
    groups = [list(texts) for texts in classes.values()]
    starts = np.cumsum([0, *map(len, groups[:-1])])
    texts = embed.texts(model, sum(groups, []))
    # of another grid each patch is the mean of so many of the model's own, a side, as come nearest to the size that it is used to
    grid = grid or model.image_size // model.patch_size
    shrink = max(round(model.image_size * scale / (grid * model.patch_size)), 1)
    side = grid * shrink * model.patch_size
    for part in np.array_split(images, max(int(len(images) * (side / model.image_size) ** 2) // 64, 1)):
        batch, odds = heat.to_batch(model, list(part), side, side), []
        for flip in FLIPS[:flips]:
            scores = heat.heat(model, batch.flip(flip) if flip else batch, texts, window=window)
            scores = torch.from_numpy(np.maximum.reduceat(scores, starts, axis=1) * model.logit_scale)
            shares = F.avg_pool2d(scores.softmax(1), shrink)
            odds.append((shares.flip(flip) if flip else shares).numpy())
        yield np.stack(odds)


def check(model: Mammut | Encoder) -> Encoder:
    """Return a model behind the one face, if it can tell the classes of patches apart.

    Raises:
        ModelError: It reads no texts, shows no patches, or does not say how sharp its loss was.
    """
    model = embed.encoder_of(model)
    lacks = [name for name in ("texts", "patches") if name not in model.can]
    lacks += ["the scale of its loss"] if model.logit_scale is None else []
    if lacks:
        raise ModelError(
            f"{model.name} cannot label patches, for want of {' and '.join(lacks)}: give a teacher with texts and patches, such as a CLIP"
        )
    return model


def load_or_label(
    path: Path,
    model: Mammut | Encoder,
    images: np.ndarray,
    classes: Mapping[str, Sequence[str]],
    *,
    window: int,
    scale: int,
    grid: int,
    sure_share: float,
) -> np.ndarray:
    """Return labels of patches, (N, h, w) int8, -1 where the teacher is not sure, of a file that is written now unless it was before.

    Args:
        path: The file.
        model: The teacher; likewise `images`, `classes`, `window`, `scale` and `grid`, as for `odds_by_part`. All flips are looked at.
        images: (N, S, S, 3) uint8.
        classes: Sentences of each class.
        window: Window of the Smooth-Attention-Operation.
        scale: Whole number by which pictures are enlarged.
        grid: Patches along a side of the labels.
        sure_share: As for `choose`.
    """
    if not path.is_file():
        winners, sures = [], []
        how = {"window": window, "scale": scale, "grid": grid, "flips": len(FLIPS)}
        for odds in odds_by_part(model, images, classes, **how):
            odds = odds.mean(axis=0)  # (n, C, h, w)
            winners.append(odds.argmax(axis=1).astype(np.int8))
            sures.append(odds.max(axis=1))
        buffer = io.BytesIO()
        np.savez_compressed(buffer, labels=choose(np.concatenate(winners), np.concatenate(sures), sure_share))
        processes.write(path, buffer.getvalue())
    return np.load(path)["labels"]


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
