"""Multi-head attention, the pooling that is made of it, and the MLP between: what every transformer here is built from.

Letters: B batch, T queries, S keys, P patches, D width, n heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention. Keys and values come projected, so that a caller can keep them."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, key_value: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Attend from (B, T, D) `x` to (B, S, 2D) `key_value`; `mask` is True where attention may go, (B, 1, 1, S)."""
        B, T, D = x.shape
        query = self.query(x).view(B, T, self.heads, -1).transpose(1, 2)  # (B, n, T, D/n)
        key, value = key_value.view(B, -1, 2, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # each (B, n, S, D/n)
        if query.dtype == torch.bfloat16 and query.device.type == "cpu":  # there the backward of this is nine times slower
            with torch.autocast("cpu", enabled=False):
                query, key, value = query.float(), key.float(), value.float()
                mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal).to(x.dtype)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)  # (B, n, T, D/n)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))


class AttentionPool(nn.Module):
    """One learned query over the patches: z = Σ a_i v_i / Σ a_i with a_i = exp(q·k_i / √d), then a linear map."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, width).normal_(std=width**-0.5))
        self.attention = Attention(width, heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool (B, P, D) into (B, D)."""
        query = self.query.expand(tokens.shape[0], -1, -1)
        return self.attention(query, self.attention.key_value(tokens))[:, 0]


def mlp(width: int) -> nn.Sequential:
    """Make two linear maps with a GELU between, which is four times as wide."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
