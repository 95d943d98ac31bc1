"""CLIP and SigLIP of transformers: a class token that pools in the last block, and a learned query behind it.

Source: Wolf et al., transformers (Apache-2.0); Radford et al. (arXiv 2103.00020); Zhai et al. (arXiv 2303.15343).
"""

from __future__ import annotations

from torch import Tensor, nn

from rsvlm.model.encoder import Patches, at_places, attend, in_heads, joined, mean_pooling, split_pooling


def vision_of(model: nn.Module) -> nn.Module:
    """The vision tower: its parts stood one level deeper before the fifth series of transformers."""
    tower = model.vision_model
    return getattr(tower, "vision_model", tower)


def patches(model: nn.Module, batch: Tensor) -> Patches:
    """Split the pooling of (B, 3, H, W) as `Encoder.patches` does."""
    tower, side = vision_of(model), model.config.vision_config.patch_size
    grid = batch.shape[2] // side, batch.shape[3] // side
    if model.config.model_type == "clip":
        query, key, value, x = last_block(model, batch)
        return split_pooling(query[:, :, 0], key, value, grid, x[:, 0])
    x = tower.embeddings(batch, interpolate_pos_encoding=True)
    for block in tower.encoder.layers:
        x = _run(block, x)
    x = tower.post_layernorm(x)
    if not hasattr(tower, "head"):
        return mean_pooling(x, grid)
    query, key, value = attend(tower.head.attention, tower.head.probe, x)
    return split_pooling(query[:, :, 0], key, value, grid)


def last_block(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run a CLIP up to the attention of its last block, as `Encoder.last_block` does."""
    tower = vision_of(model)
    x = tower.pre_layrnorm(tower.embeddings(batch, interpolate_pos_encoding=True))
    *blocks, last = tower.encoder.layers
    for block in blocks:
        x = _run(block, x)
    attention, context = last.self_attn, last.layer_norm1(x)
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    return *(in_heads(projection(context), attention.num_heads) for projection in projections), x


def project(model: nn.Module, pooled: Tensor, rest: Tensor | None) -> Tensor:
    """Send pooled values through the rest of the tower as `Encoder.project` does."""
    tower = vision_of(model)
    x = joined(pooled).to(next(tower.parameters()).dtype)
    if model.config.model_type == "clip":
        last = tower.encoder.layers[-1]
        x = last.self_attn.out_proj(x)
        if rest is not None:
            x = at_places(rest, x) + x
            x = x + last.mlp(last.layer_norm2(x))
        return model.visual_projection(tower.post_layernorm(x)).float()
    if hasattr(tower, "head"):
        x = tower.head.attention.out_proj(x)
        x = x + tower.head.mlp(tower.head.layernorm(x))
    return x.float()


def _run(block: nn.Module, x: Tensor) -> Tensor:
    output = block(x, attention_mask=None)
    return output[0] if isinstance(output, tuple) else output  # a tuple before the fifth series
