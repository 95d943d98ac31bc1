"""SigLIP and SigLIP 2 of transformers: a learned query pools behind the last block, or the mean where there is no such head.

Source: Wolf et al., transformers (Apache-2.0); Zhai et al. (arXiv 2303.15343).
"""

from __future__ import annotations

from torch import Tensor, nn

from rsvlm.model.encoder import Patches, attend, joined, mean_pooling, split_pooling
from rsvlm.model.others.hugging_clip import patch_size, run, vision_of

__all__ = ["has_patches", "patch_size", "patches", "pools_by_class_token", "project"]

PADDING, ASKED = "max_length", ("input_ids",)
"""How texts are padded, and what the text tower is given: it was trained on the full length, with the pads attended to."""


def has_patches(model: nn.Module) -> bool:
    """Say whether `patches` knows this model."""
    return model.config.model_type == "siglip"


def pools_by_class_token(model: nn.Module) -> bool:
    """There is none."""
    return False


def patches(model: nn.Module, batch: Tensor) -> Patches:
    """Split the pooling of (B, 3, H, W) as `Encoder.patches` does."""
    tower, side = vision_of(model), patch_size(model)
    grid = batch.shape[2] // side, batch.shape[3] // side
    x = tower.embeddings(batch, interpolate_pos_encoding=True)
    for block in tower.encoder.layers:
        x = run(block, x)
    x = tower.post_layernorm(x)
    if not hasattr(tower, "head"):
        return mean_pooling(x, grid)
    query, key, value = attend(tower.head.attention, tower.head.probe, x)
    return split_pooling(query[:, :, 0], key, value, grid)


def project(model: nn.Module, pooled: Tensor, rest: Tensor | None) -> Tensor:
    """Send pooled values through the rest of the tower as `Encoder.project` does."""
    tower = vision_of(model)
    x = joined(pooled).to(next(tower.parameters()).dtype)
    if not hasattr(tower, "head"):
        return x
    x = tower.head.attention.out_proj(x)
    return x + tower.head.mlp(tower.head.layernorm(x))
