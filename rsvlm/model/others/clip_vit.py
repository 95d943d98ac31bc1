"""open_clip's own vision transformers: CLIP, whose class token pools in the last block, and CoCa, whose pooler has queries.

open_clip runs them at one size; here the positions are interpolated for others. Source: Ilharco et al., open_clip (MIT); Radford et
al. (arXiv 2103.00020); Yu et al., CoCa (arXiv 2205.01917).
"""

from __future__ import annotations

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from rsvlm.model.encoder import Patches, attend, joined, mean_pooling, split_pooling
from rsvlm.model.others.towers import after_attention


def has_patches(visual: nn.Module) -> bool:
    """Say whether `patches` knows this tower: the usual blocks, one pooling."""
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    if type(visual) is not VisionTransformer:
        return False
    usual = all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks)
    batch_first = getattr(visual.transformer, "batch_first", True)
    one = getattr(visual, "attn_pool_contrastive", None) is None and visual.pool_type in ("tok", "avg")
    return usual and batch_first and one and not (visual.attn_pool is not None and visual.pool_type == "avg")


def patch_size(visual: nn.Module) -> int:
    """Side of a patch, in pixels."""
    return visual.patch_size[0]


def pools_by_class_token(visual: nn.Module) -> bool:
    """Say whether the embedding is the class token's row of the last block."""
    return visual.attn_pool is None and visual.pool_type == "tok"


def patches(visual: nn.Module, batch: Tensor) -> Patches:
    """Split the pooling of (B, 3, H, W) as `Encoder.patches` does."""
    grid = batch.shape[2] // visual.patch_size[0], batch.shape[3] // visual.patch_size[1]
    if pools_by_class_token(visual):
        query, key, value, x = last_block(visual, batch)
        return split_pooling(query[:, :, 0], key, value, grid, x[:, 0])
    x = visual.transformer.resblocks[-1](_ahead_of_last(visual, batch, grid))
    if visual.attn_pool is None:
        return mean_pooling((x if visual.final_ln_after_pool else visual.ln_post(x))[:, 1:], grid)
    # the first query is the embedding's, the others are the captions'
    pooler = visual.attn_pool
    query, key, value = attend(pooler.attn, pooler.ln_q(pooler.query)[None, :1], pooler.ln_k(x))
    return split_pooling(query[:, :, 0], key, value, grid)


def last_block(visual: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the tower up to the attention of its last block, as `Encoder.last_block` does."""
    grid = batch.shape[2] // visual.patch_size[0], batch.shape[3] // visual.patch_size[1]
    x, last = _ahead_of_last(visual, batch, grid), visual.transformer.resblocks[-1]
    context = last.ln_1(x)
    return *attend(last.attn, context, context), x


def project(visual: nn.Module, pooled: Tensor, rest: Tensor | None) -> Tensor:
    """Send pooled values through the rest of the tower as `Encoder.project` does."""
    x = joined(pooled).to(visual.proj.dtype)
    if visual.attn_pool is not None:
        x = visual.ln_post(visual.attn_pool.attn.out_proj(x))
    elif visual.pool_type == "avg":
        x = visual.ln_post(x) if visual.final_ln_after_pool else x
    else:
        last = visual.transformer.resblocks[-1]
        x = after_attention(last.ls_1(last.attn.out_proj(x)), rest, lambda y: last.ls_2(last.mlp(last.ln_2(y))))
        x = visual.ln_post(x)
    return (x @ visual.proj).float()


def _ahead_of_last(visual: nn.Module, batch: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, 1 + h·w, D) as they enter the last block."""
    x = visual.conv1(batch).flatten(2).transpose(1, 2)  # (B, h·w, D)
    x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
    positions = visual.positional_embedding
    if grid != tuple(visual.grid_size):
        old = list(visual.grid_size)
        positions = resample_abs_pos_embed(positions[None], list(grid), old_size=old, num_prefix_tokens=1)[0]
    x = visual.ln_pre(x + positions.to(x.dtype))
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    return x
