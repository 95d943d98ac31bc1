"""Two towers behind `embed.Encoder`, whoever made them, each with its own preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsvlm.errors import DataError, ModelError
from rsvlm.model import embed
from rsvlm.records.text import batched

TEXTS = 256
"""Texts per forward pass."""


class TowerEncoder:
    """Two functions into one space as an `Encoder`: `see` takes a list of (H, W, 3) uint8 arrays, `read` a list of texts."""

    def __init__(
        self,
        name: str,
        fingerprint: Callable[[], str],
        logit_scale: float | None,
        see: Callable[[list[np.ndarray]], Tensor],
        read: Callable[[list[str]], Tensor],
    ):
        self.name, self.logit_scale, self._fingerprint, self._see, self._read = name, logit_scale, fingerprint, see, read

    @cached_property
    def fingerprint(self) -> str:
        """Made when it is asked for: it reads all weights."""
        return self._fingerprint()

    @cached_property
    def width(self) -> int:
        """E, of a text."""
        return self.texts(["a river"]).shape[1]

    def images(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Embed as `Encoder` says."""
        if wrong := [a for a in arrays if a.dtype != np.uint8 or a.ndim != 3 or a.shape[2] != 3]:
            raise DataError(f"an image is {wrong[0].dtype} {wrong[0].shape}: expected uint8 (H, W, 3)")
        return self._normalised(self._see, list(arrays))

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Embed as `Encoder` says."""
        if blank := [i for i, text in enumerate(captions) if not text.strip()]:
            raise DataError(f"text {blank[0]} of {len(captions)} is empty: drop it, or write a caption")
        return np.concatenate([self._normalised(self._read, part) for part in batched(captions, TEXTS)])

    def _normalised(self, tower: Callable[[list], Tensor], given: list) -> np.ndarray:
        with torch.inference_mode():
            return F.normalize(tower(given).float(), dim=-1).cpu().numpy()


def tried(encoder: TowerEncoder) -> TowerEncoder:
    """Embed one image and one text, so that a model without a usable tokenizer or processor stops before the work."""
    try:
        width = embed.unit(encoder.images([np.zeros((32, 48, 3), np.uint8)]), "images").shape[1]
        embed.unit(encoder.texts(["a river"]), "texts")
        if width == encoder.width:
            return encoder
        problem = f"its images have {width} dimensions, its texts {encoder.width}"
    except Exception as error:  # whatever libraries raise where parts do not fit
        raise ModelError(f"{encoder.name} was opened, but cannot embed a black image and 'a river': {short(error)}") from error
    raise ModelError(f"{encoder.name}: {problem}: expected one space")


def pooled(output) -> Tensor:
    """Take the embedding out of what transformers returns: a tensor before its fifth series, in the fifth one of several."""
    return output if isinstance(output, Tensor) else output.pooler_output


def scale_of(model: nn.Module) -> float | None:
    """Return the factor of the cosines in a model's own loss; None where it has none."""
    scale = getattr(model, "logit_scale", None)
    return scale.exp().item() if isinstance(scale, Tensor) and scale.numel() == 1 else None


def short(error: Exception) -> str:
    """Tell an error of another package in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{' …' * (len(text) > 300)}"
