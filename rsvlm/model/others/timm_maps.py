"""Convolutional towers of timm: EfficientNet, ResNet, ConvNeXt, FastViT and others whose last map is averaged.

Source: Wightman, timm (Apache-2.0).
"""

from __future__ import annotations

from torch import Tensor, nn

from rsvlm.model.encoder import Patches, joined, mean_pooling


def has_patches(trunk: nn.Module) -> bool:
    """Say whether `patches` knows this tower: its last map is (B, D, h, w), and is averaged."""
    pools = (getattr(part, "global_pool", None) for part in (trunk, getattr(trunk, "head", None)))
    pool = next((pool for pool in pools if isinstance(pool, nn.Module)), None)  # FastViT's own is a word
    by_channel = getattr(trunk, "output_fmt", "NCHW") == "NCHW" and hasattr(trunk, "forward_head")
    return by_channel and getattr(pool, "pool_type", "") == "avg"


def patch_size(trunk: nn.Module) -> int:
    """Side of what one place of the last map stands for, in pixels."""
    return trunk.feature_info[-1]["reduction"]


def pools_by_class_token(trunk: nn.Module) -> bool:
    """There is none."""
    return False


def patches(trunk: nn.Module, batch: Tensor) -> Patches:
    """Split the pooling of (B, 3, H, W) as `Encoder.patches` does."""
    x = trunk.forward_features(batch)  # (B, D, h, w)
    return mean_pooling(x.flatten(2).transpose(1, 2), tuple(x.shape[2:]))


def project(trunk: nn.Module, pooled: Tensor, rest: Tensor | None) -> Tensor:
    """Send pooled values (B, 1, …, D) through the head of the tower: (B, …, E)."""
    x = joined(pooled).to(next(trunk.parameters()).dtype)
    vectors = trunk.forward_head(x.flatten(0, -2)[..., None, None])  # each place as a map of one
    return vectors.view(*x.shape[:-1], -1)
