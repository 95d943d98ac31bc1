"""What the families share: an encoder that leaves its pooling to a file for its kind of tower, and a first try of what was opened.

A file for a kind of tower, such as `clip_vit`, has these functions, in the letters of `encoder`:

    has_patches(tower)              whether it knows this tower and its pooling
    patch_size(tower)               side of a patch, in pixels
    pools_by_class_token(tower)     whether the embedding is the class token's row of the last block; only then there is `last_block`
    patches(tower, batch)           as `Encoder.patches`; likewise last_block(tower, batch) and project(tower, pooled, rest)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rsvlm.errors import ModelError
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder, Patches, at_places


class TowerEncoder(Encoder):
    """An encoder whose tower is read by a file for its kind.

    Attributes:
        kind: That file. None: there is none for this tower, so it shows no patches.
        transform: What makes a (3, S, S) tensor of a picture, of the library that the tower comes from.
    """

    kind: ModuleType | None = None
    transform: Callable[[Image.Image], Tensor]

    @property
    def tower(self) -> nn.Module:
        """The vision tower, as `kind` takes it."""
        return self.model

    def preprocess(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Prepare images as `Encoder` says."""
        return torch.stack([self.transform(Image.fromarray(a)) for a in arrays]).to(self.device, self.dtype)

    def patches(self, batch: Tensor) -> Patches:
        """Split the pooling as `Encoder` says."""
        return self.kind.patches(self.tower, batch) if self.kind else super().patches(batch)

    def last_block(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the tower up to the attention of its last block, as `Encoder` says."""
        return self.kind.last_block(self.tower, batch) if "last block" in self.can else super().last_block(batch)

    def project(self, pooled: Tensor, rest: Tensor | None) -> Tensor:
        """Send pooled values through the rest of the tower as `Encoder` says."""
        return self.kind.project(self.tower, pooled, rest).float()


def kind_of(tower: nn.Module, kinds: Sequence[ModuleType]) -> tuple[ModuleType | None, list[str], int | None]:
    """Find the file that reads a tower: the file, what the tower then can, as in `encoder.ABILITIES`, and the side of a patch."""
    kind = next((kind for kind in kinds if kind.has_patches(tower)), None)
    if kind is None:
        return None, [], None
    return kind, ["patches"] + ["last block"] * kind.pools_by_class_token(tower), kind.patch_size(tower)


def after_attention(attended: Tensor, rest: Tensor | None, mlp: Callable[[Tensor], Tensor]) -> Tensor:
    """Add what a block's attention gave to what it is added to, as in `at_places`, and then the block's MLP; if None, neither."""
    if rest is None:
        return attended
    x = at_places(rest, attended) + attended
    return x + mlp(x)


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


def scale_of(model: nn.Module) -> float | None:
    """Return the factor of the cosines in a model's own loss; None where it has none."""
    scale = getattr(model, "logit_scale", None)
    return scale.exp().item() if isinstance(scale, Tensor) and scale.numel() == 1 else None


def short(error: Exception) -> str:
    """Tell an error of another package in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{' …' * (len(text) > 300)}"
