"""The validation curve of a training: how well captions that it never reads find their images."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsvlm.data import benchmarks, reading
from rsvlm.errors import DataError
from rsvlm.model import embed
from rsvlm.model.mammut import Mammut

logger = logging.getLogger(__name__)


def read(model: Mammut, data: Mapping[str, Path], most: int = 1000) -> tuple[Tensor, list[str]] | None:
    """Read the images, as the model takes them, and the first captions of the data sets' `val` splits.

    Args:
        model: Model that gives the size and the device of the images.
        data: Folder of each data set; those without a `val` split, or whose split cannot be read, are left out, and it is told why.
        most: Number of pairs at most, in equal shares of the data sets.

    Returns:
        (N, 3, S, S) images and N captions; None if there is no pair.
    """
    samples: list = []
    for folder in data.values():
        try:  # a data set without a val split trains all the same
            readable = reading.decoded(benchmarks.samples(folder, "val"), Counter())
            samples += itertools.islice(readable, most // len(data))
        except DataError as error:
            logger.warning("%s is not in the validation curve: %s", folder, error)
    if not samples:
        return None
    return embed.to_batch(model, [array for _, array in samples]), [sample.captions[0] for sample, _ in samples]


def measure(model: Mammut, images: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """Mean of image→text and text→image R@5 in percent, each image against the first captions of all (ties count against)."""
    model.eval()
    with torch.inference_mode():
        vectors = torch.cat([model.encode_image(part) for part in images.split(64)]).float().cpu().numpy()
    scores = vectors @ embed.texts(model, captions).T
    right = np.diagonal(scores)
    hits = [((scores >= right[:, None]).sum(1) <= 5).mean(), ((scores >= right[None, :]).sum(0) <= 5).mean()]
    return {"val_R@5": 100 * float(np.mean(hits)), "val_chance_R@5": 100 * min(5 / len(right), 1.0)}
