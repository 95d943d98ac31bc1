"""Towers of timm: transformers and convolutional ones, by themselves (`timm:NAME`, `timm:NAME:FILE`) or inside open_clip's models.

A vision transformer pools by its class token in the last block, by a learned query, or by the mean; DINOv3 and EVA, which turn
keys by their places, and convolutional towers are read where they pool by the mean. A tower by itself reads no texts.

Source: Wightman, timm (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.layers import Format
from timm.models.eva import Eva
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from rsvlm.errors import ModelError
from rsvlm.model.encoder import Encoder, Patches, at_places, in_heads, joined, mean_pooling, split_pooling
from rsvlm.model.others import efficientnet_lite, reading
from rsvlm.model.others.towers import tried
from rsvlm.records.files import file_sha256

CLASSIFIERS = ("head.", "classifier.", "fc.", "head_dist.")


def open_model(where: str, device: torch.device) -> Encoder:
    """Open a tower of timm by its name, and weights of a file, of an installed package, or those that timm names.

    Raises as `opening.open_encoder`.
    """
    name, file, revision = find_weights(where)
    trunk = timm.create_model(name, num_classes=0)
    state = reading.read_state(file)
    if efficientnet_lite.is_port(state):
        state = efficientnet_lite.renamed(state, trunk.state_dict(), file)
    reading.fill(trunk, state, file, CLASSIFIERS)
    label = f"timm:{name}" + f":{file.name}" * (not revision)
    encoder = TimmEncoder(label, trunk.eval().to(device), lambda: file_sha256(file))
    encoder.revision = revision
    return tried(encoder)


def find_weights(where: str) -> tuple[str, Path, str]:
    """Find the weights of `NAME` or `NAME:FILE`: in that file, in an installed package, or where timm says.

    Returns:
        Name in timm, file of weights, and the revision of the hub where they come from one, else nothing.

    Raises:
        ModelError: timm knows no such model, or there are no weights of it; of the hub, as `reading.from_hub`.
    """
    name, _, file = where.partition(":")
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), 5)
        raise ModelError(f"timm knows no model '{name}'" + f": did you mean {', '.join(near)}?" * bool(near))
    if file or (file := efficientnet_lite.packaged(name)):
        return name, Path(file), ""
    settings = timm.get_pretrained_cfg(name)
    if settings is None or not settings.hf_hub_id:
        raise ModelError(f"timm names no weights of {name} on the hub: give a file, timm:{name}:FILE")
    folder, revision = reading.from_hub(settings.hf_hub_id.removeprefix("hf-hub:"), ["*.json", "model.safetensors"])
    return name, folder / "model.safetensors", revision


class TimmEncoder(Encoder):
    """A vision tower of timm behind the one face."""

    def __init__(self, name: str, trunk: nn.Module, fingerprint: Callable[[], str]):
        settings, seen = resolve_model_data_config(trunk), has_patches(trunk)
        super().__init__(
            name,
            dynamic(trunk),
            can=["patches"] * seen + ["last block"] * (seen and pools_by_class_token(trunk)),
            fingerprint=fingerprint,
            image_size=settings["input_size"][1],
            patch_size=patch_size(trunk) if seen else None,
            mean=settings["mean"],
            std=settings["std"],
        )
        self.transform = create_transform(**settings, is_training=False)

    def preprocess(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Prepare images as `Encoder` says."""
        return torch.stack([self.transform(Image.fromarray(a)) for a in arrays]).to(self.device, self.dtype)

    def encode_images(self, batch: Tensor) -> Tensor:
        """Embed as `Encoder` says."""
        return self.model(batch)

    def patches(self, batch: Tensor) -> Patches:
        """Split the pooling as `Encoder` says."""
        return patches(self.model, batch) if "patches" in self.can else super().patches(batch)

    def last_block(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the tower up to the attention of its last block, as `Encoder` says."""
        return last_block(self.model, batch) if "last block" in self.can else super().last_block(batch)

    def project(self, pooled: Tensor, rest: Tensor | None) -> Tensor:
        """Send pooled values through the rest of the tower as `Encoder` says."""
        return project(self.model, pooled, rest).float()


def has_patches(trunk: nn.Module) -> bool:
    """Say whether `patches` knows this tower and its pooling."""
    if isinstance(trunk, Eva) and trunk.attn_pool is None:
        return trunk.global_pool == "avg"
    if not isinstance(trunk, (VisionTransformer, Eva)):
        pool = getattr(trunk, "global_pool", None) or getattr(getattr(trunk, "head", None), "global_pool", None)
        by_channel = getattr(trunk, "output_fmt", "NCHW") == "NCHW" and hasattr(trunk, "forward_head")
        return by_channel and getattr(pool, "pool_type", "") == "avg"
    if (pool := trunk.attn_pool) is not None:
        return getattr(pool, "latent_len", 0) == 1 and pool.pos_embed is None and pool.pool == "token"
    last = trunk.blocks[-1]
    return trunk.global_pool == "avg" or (
        trunk.global_pool == "token" and type(last) is Block and getattr(last.attn, "gate", None) is None
    )


def patch_size(trunk: nn.Module) -> int:
    """Side of a patch, in pixels: of a convolutional tower, what one place of its last map stands for."""
    return trunk.patch_embed.patch_size[0] if hasattr(trunk, "patch_embed") else trunk.feature_info[-1]["reduction"]


def dynamic(trunk: nn.Module) -> nn.Module:
    """Let a transformer take images of any size, its positions interpolated; return it."""
    if isinstance(trunk, (VisionTransformer, Eva)):
        embed = trunk.patch_embed
        trunk.dynamic_img_size, embed.strict_img_size, embed.flatten, embed.output_fmt = True, False, False, Format.NHWC
    return trunk


def pools_by_class_token(trunk: nn.Module) -> bool:
    """Say whether the embedding is the class token's row of the last block."""
    return isinstance(trunk, VisionTransformer) and trunk.attn_pool is None and trunk.global_pool == "token"


def patches(trunk: nn.Module, batch: Tensor) -> Patches:
    """Split the pooling of (B, 3, H, W) as `Encoder.patches` does; the tower is `dynamic`."""
    if not isinstance(trunk, (VisionTransformer, Eva)):
        x = trunk.forward_features(batch)  # (B, D, h, w)
        return mean_pooling(x.flatten(2).transpose(1, 2), tuple(x.shape[2:]))
    grid = batch.shape[2] // patch_size(trunk), batch.shape[3] // patch_size(trunk)
    if pools_by_class_token(trunk):
        query, key, value, x = last_block(trunk, batch)
        return split_pooling(query[:, :, 0], key, value, grid, x[:, 0])
    x = trunk.forward_features(batch)
    with_prefix = getattr(trunk, "pool_include_prefix", isinstance(trunk, Eva) and trunk.attn_pool is not None)
    x = x if with_prefix else x[:, trunk.num_prefix_tokens :]
    if (pool := trunk.attn_pool) is None:
        return mean_pooling(x, grid)
    key, value = (in_heads(part, pool.num_heads) for part in pool.kv(x).chunk(2, dim=-1))
    query = pool.q_norm(in_heads(pool.q(pool.latent), pool.num_heads))
    return split_pooling(query[:, :, 0], pool.k_norm(key), value, grid)


def last_block(trunk: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the tower up to the attention of its last block, as `Encoder.last_block` does; the class token is the first."""
    x = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(batch))))
    *blocks, last = trunk.blocks
    for block in blocks:
        x = block(x)
    attention = last.attn
    query, key, value = (in_heads(part, attention.num_heads) for part in attention.qkv(last.norm1(x)).chunk(3, dim=-1))
    return attention.q_norm(query), attention.k_norm(key), value, x


def project(trunk: nn.Module, pooled: Tensor, rest: Tensor | None) -> Tensor:
    """Send pooled values (B, n, …, d) through the rest of the tower and its classifier, where it has one: (B, …, E)."""
    x = joined(pooled).to(next(trunk.parameters()).dtype)
    if not isinstance(trunk, (VisionTransformer, Eva)):
        vectors = trunk.forward_head(x.flatten(0, -2)[..., None, None])  # each place as a map of one
        return vectors.view(*x.shape[:-1], -1)
    if (pool := trunk.attn_pool) is not None:
        x = pool.proj(x)
        x = x + pool.mlp(pool.norm(x)) if pool.mlp is not None else x
    elif pools_by_class_token(trunk):
        last = trunk.blocks[-1]
        x = last.ls1(last.attn.proj(last.attn.norm(x)))
        if rest is not None:
            x = at_places(rest, x) + x
            x = x + last.ls2(last.mlp(last.norm2(x)))
        x = trunk.norm(x)
    return trunk.head(trunk.fc_norm(x))
