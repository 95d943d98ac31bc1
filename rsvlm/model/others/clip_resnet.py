"""CLIP's ResNets in open_clip, such as RemoteCLIP's RN50: the mean over the last map asks all places, and itself, for the embedding.

Source: Radford et al. (arXiv 2103.00020), section 2.4; Ilharco et al., open_clip (MIT).
"""

from __future__ import annotations

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from rsvlm.model.encoder import Patches, in_heads, joined, split_pooling


def has_patches(visual: nn.Module) -> bool:
    """Say whether `patches` knows this tower."""
    from open_clip.modified_resnet import ModifiedResNet

    return type(visual) is ModifiedResNet


def patch_size(visual: nn.Module) -> int:
    """Side of what one place of the last map stands for, in pixels."""
    return 32


def pools_by_class_token(visual: nn.Module) -> bool:
    """There is none."""
    return False


def patches(visual: nn.Module, batch: Tensor) -> Patches:
    """Split the pooling of (B, 3, H, W) as `Encoder.patches` does; the mean is common to all windows."""
    x = visual.stem(batch)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    pool, grid = visual.attnpool, tuple(x.shape[2:])
    x = x.flatten(2).transpose(1, 2)  # (B, h·w, D)
    x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
    positions = pool.positional_embedding[None]
    if positions.shape[1] != x.shape[1]:
        positions = resample_abs_pos_embed(positions, list(grid), num_prefix_tokens=1)
    x = x + positions.to(x.dtype)
    query, key, value = (in_heads(map_to(x), pool.num_heads) for map_to in (pool.q_proj, pool.k_proj, pool.v_proj))
    return split_pooling(query[:, :, 0], key, value, grid)


def project(visual: nn.Module, pooled: Tensor, rest: Tensor | None) -> Tensor:
    """Send pooled values through the rest of the tower as `Encoder.project` does."""
    return visual.attnpool.c_proj(joined(pooled).to(visual.attnpool.c_proj.weight.dtype)).float()
