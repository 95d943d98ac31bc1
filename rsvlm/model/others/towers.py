"""What the families share: a first try of a model that was opened, and what libraries call by several names."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from rsvlm.errors import ModelError
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder


def tried(encoder: Encoder) -> Encoder:
    """Embed one image and one text, so that a model without a usable tokenizer or processor stops before the work."""
    try:
        width = embed.unit(encoder.images([np.zeros((32, 48, 3), np.uint8)]), "images").shape[1]
        of_texts = embed.unit(encoder.texts(["a river"]), "texts").shape[1] if "texts" in encoder.can else width
    except Exception as error:  # whatever libraries raise where parts do not fit
        raise ModelError(f"{encoder.name} was opened, but cannot embed a black image and 'a river': {short(error)}") from error
    if width != of_texts:
        raise ModelError(f"{encoder.name}: its images have {width} dimensions, its texts {of_texts}: expected one space")
    return encoder


def features_of(output) -> Tensor:
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
