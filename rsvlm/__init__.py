"""rsvlm: a readable implementation of a recipe for remote-sensing vision-language models.

Its rooms, in the order in which data passes through them; each one's docstring lists its files:

    config, errors → records → model → data → training → evaluation → localization → search → book

Tensor letters, the same in every module: B batch, T text tokens, P patches, D width, E embedding, V vocabulary, H W pixels,
h w patch grid, N images, M captions, K top-k.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsvlm.model.mammut import Mammut

__version__ = "0.1.0"


def load(folder: Path | str, device: str = "auto") -> Mammut:
    """Load a model folder in eval mode, with `model.tokenizer` attached. Nothing is unpickled.

    Args:
        folder: What `rsvlm train` wrote as `model/`, or an openMaMMUT in open_clip's format (without a tokenizer.json there,
            `model.tokenizer` is None).
        device: auto, cpu, cuda or cuda:N.

    Raises:
        rsvlm.errors.ModelError: A file is missing or does not fit; the message lists what.
    """
    from rsvlm.model import weights
    from rsvlm.model.device import resolve_device

    return weights.load(folder, resolve_device(device))
