"""Vision transformers of timm, EVA among them: pooled by the class token in the last block, by a learned query, or by the mean.

EVA-02 and DINOv3 turn queries and keys by the places of their patches; a class token has no place and is not turned. A block that
closes a gate on what was attended to (`gated_attn`) is not read: the gate is of each token, not of what is pooled.

Source: Wightman, timm (Apache-2.0); Fang et al., EVA-02 (arXiv 2303.11331).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import HybridEmbed, RotaryEmbeddingCat, apply_rot_embed_cat
from timm.layers.format import Format
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from rsvlm.model.encoder import Patches, in_heads, joined, mean_pooling, split_pooling
from rsvlm.model.others.towers import after_attention


def has_patches(trunk: nn.Module) -> bool:
    """Say whether `patches` knows this tower and its pooling."""
    if not isinstance(trunk, (VisionTransformer, Eva)):
        return False
    if (pool := trunk.attn_pool) is not None:
        return getattr(pool, "latent_len", 0) == 1 and pool.pos_embed is None and pool.pool == "token"
    last = trunk.blocks[-1]
    usual = type(last) is Block or (type(last) in (EvaBlock, EvaBlockPostNorm) and type(last.attn) is EvaAttention)
    plain = usual and getattr(last.attn, "gate", None) is None
    return trunk.global_pool == "avg" or (trunk.global_pool == "token" and plain)


def patch_size(trunk: nn.Module) -> int:
    """Side of a patch, in pixels; where convolutions come first, all that they shrink it by."""
    embed = trunk.patch_embed
    return embed.feat_ratio() if isinstance(embed, HybridEmbed) else embed.patch_size[0]


def pools_by_class_token(trunk: nn.Module) -> bool:
    """Say whether the embedding is the class token's row of the last block."""
    return trunk.attn_pool is None and trunk.global_pool == "token"


def dynamic(trunk: nn.Module) -> nn.Module:
    """Let a transformer take images of any size, its positions interpolated, or turned by the new places; return it."""
    if isinstance(trunk, (VisionTransformer, Eva)):
        embed = trunk.patch_embed
        trunk.dynamic_img_size, embed.strict_img_size, embed.flatten, embed.output_fmt = True, False, False, Format.NHWC
    if isinstance(rope := getattr(trunk, "rope", None), RotaryEmbeddingCat):
        rope._use_cached_embed = False  # else it turns by the places of the first size, whatever it is asked
    return trunk


def patches(trunk: nn.Module, batch: Tensor) -> Patches:
    """Split the pooling of (B, 3, H, W) as `Encoder.patches` does; the tower is `dynamic`."""
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
    *blocks, last = trunk.blocks
    x = trunk.patch_embed(batch)
    if isinstance(trunk, Eva):
        x, turns = trunk._pos_embed(x)
        turns = turns if getattr(trunk, "rope_mixed", False) else [turns] * len(trunk.blocks)  # of each block, or one of all
        x = trunk.norm_pre(x)
        for block, turn in zip(blocks, turns):
            x = block(x, rope=turn)
        context = x if type(last) is EvaBlockPostNorm else last.norm1(x)
        return *_turned(last.attn, context, turns[-1]), x
    x = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(x)))
    for block in blocks:
        x = block(x)
    attention = last.attn
    query, key, value = (in_heads(part, attention.num_heads) for part in attention.qkv(last.norm1(x)).chunk(3, dim=-1))
    return attention.q_norm(query), attention.k_norm(key), value, x


def _turned(attention: EvaAttention, context: Tensor, turn: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v, in heads, queries and keys of the patches turned by their places."""
    if attention.qkv is None:
        parts = attention.q_proj(context), attention.k_proj(context), attention.v_proj(context)
    else:
        biases = attention.q_bias, attention.k_bias, attention.v_bias
        bias = None if attention.q_bias is None else torch.cat(biases)
        parts = F.linear(context, attention.qkv.weight, bias).chunk(3, dim=-1)
    query, key, value = (in_heads(part, attention.num_heads) for part in parts)
    query, key = attention.q_norm(query), attention.k_norm(key)
    if turn is None:
        return query, key, value
    ahead = attention.num_prefix_tokens

    def placed(x: Tensor) -> Tensor:
        turned = apply_rot_embed_cat(x[:, :, ahead:], turn, half=getattr(attention, "rotate_half", False))
        return torch.cat([x[:, :, :ahead], turned], dim=2).type_as(value)

    return placed(query), placed(key), value


def project(trunk: nn.Module, pooled: Tensor, rest: Tensor | None) -> Tensor:
    """Send pooled values (B, n, …, d) through the rest of the tower and its classifier, where it has one: (B, …, E)."""
    x = joined(pooled).to(next(trunk.parameters()).dtype)
    if (pool := trunk.attn_pool) is not None:
        x = pool.proj(x)
        x = x + pool.mlp(pool.norm(x)) if pool.mlp is not None else x
    elif pools_by_class_token(trunk):
        attended, mlp = _branches(trunk.blocks[-1])
        x = trunk.norm(after_attention(attended(x), rest, mlp))
    return trunk.head(trunk.fc_norm(x))


def _branches(block: nn.Module) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """What a block does to its attention's pooled values, and its MLP; each is added to what is there."""
    out = block.attn
    if type(block) is EvaBlockPostNorm:
        return lambda x: block.norm1(out.proj(out.norm(x))), lambda x: block.norm2(block.mlp(x))
    if type(block) is EvaBlock:
        first, second = (1.0 if scale is None else scale for scale in (block.gamma_1, block.gamma_2))
        return lambda x: first * out.proj(out.norm(x)), lambda x: second * block.mlp(block.norm2(x))
    return lambda x: block.ls1(out.proj(out.norm(x))), lambda x: block.ls2(block.mlp(block.norm2(x)))
