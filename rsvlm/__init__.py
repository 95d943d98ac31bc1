"""rsvlm: a readable implementation of a recipe for remote-sensing vision-language models.

The rooms, in the order in which data passes through them; each `__init__.py` lists its files:

    config, errors   every option; every error that a user can mend
    records          what is kept, and where it came from
    model            MaMMUT and its losses, and other people's models behind one face
    data             pictures with texts: read, written, made
    training         one loop
    evaluation       how well does it find and tell?
    localization     where is it?
    search           find it in your own imagery
    book             notebooks, figures, pages
    doctor           what any input is, before anything is built

The heart: model/mammut, model/losses, training/train, localization/smoothing, evaluation/retrieval.

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
