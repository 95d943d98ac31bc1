"""CLIP of transformers: the class token pools in the last block.

Source: Wolf et al., transformers (Apache-2.0); Radford et al. (arXiv 2103.00020).
"""

from __future__ import annotations

from torch import Tensor, nn

from rsvlm.model.encoder import Patches, in_heads, joined, split_pooling
from rsvlm.model.others.towers import after_attention

PADDING, ASKED = "longest", ("input_ids", "attention_mask")
"""How texts are padded, and what the text tower is given: what follows the end of a text, it never sees."""


def has_patches(model: nn.Module) -> bool:
    """Say whether `patches` knows this model."""
    return model.config.model_type == "clip"


def patch_size(model: nn.Module) -> int:
    """Side of a patch, in pixels."""
    return model.config.vision_config.patch_size


def pools_by_class_token(model: nn.Module) -> bool:
    """It does."""
    return True


def vision_of(model: nn.Module) -> nn.Module:
    """The vision tower: its parts stood one level deeper before the fifth series of transformers."""
    tower = model.vision_model
    return getattr(tower, "vision_model", tower)


def run(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block on tokens (B, P, D)."""
    output = block(x, attention_mask=None)
    return output[0] if isinstance(output, tuple) else output  # a tuple before the fifth series


def patches(model: nn.Module, batch: Tensor) -> Patches:
    """Split the pooling of (B, 3, H, W) as `Encoder.patches` does."""
    query, key, value, x = last_block(model, batch)
    side = patch_size(model)
    return split_pooling(query[:, :, 0], key, value, (batch.shape[2] // side, batch.shape[3] // side), x[:, 0])


def last_block(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the tower up to the attention of its last block, as `Encoder.last_block` does."""
    tower = vision_of(model)
    x = tower.pre_layrnorm(tower.embeddings(batch, interpolate_pos_encoding=True))
    *blocks, last = tower.encoder.layers
    for block in blocks:
        x = run(block, x)
    attention, context = last.self_attn, last.layer_norm1(x)
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    return *(in_heads(projection(context), attention.num_heads) for projection in projections), x


def project(model: nn.Module, pooled: Tensor, rest: Tensor | None) -> Tensor:
    """Send pooled values through the rest of the tower as `Encoder.project` does."""
    tower = vision_of(model)
    last = tower.encoder.layers[-1]
    x = last.self_attn.out_proj(joined(pooled).to(last.self_attn.out_proj.weight.dtype))
    x = after_attention(x, rest, lambda y: last.mlp(last.layer_norm2(y)))
    return model.visual_projection(tower.post_layernorm(x))
