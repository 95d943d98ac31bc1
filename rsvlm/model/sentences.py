"""A sentence encoder as the text side of a MaMMUT: a BERT that has read elsewhere.

Sentences that say the same are then near each other before the first picture is seen. Where a model has one, the contrastive pass is this
in place of the decoder's: the mean of the BERT's states over the real tokens, at a root mean square of 1, then one hidden layer into the
space of the pictures. The decoder is left with the captions. It has rows for those tokens alone that its training captions have: the
encoder's vocabulary may be fifteen times as large, and the product with it is the dearest part of a small decoder.

Source: Devlin et al., BERT (arXiv 1810.04805), section 3; Reimers and Gurevych, Sentence-BERT (arXiv 1908.10084), section 3, for the mean.

Letters: B batch, T text tokens, S width of the BERT, E embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsvlm.model.attention import Attention, mlp

NORM_EPS = 1e-12
"""Epsilon of a BERT's norms."""


class BertLayer(nn.Module):
    """Self-attention and an MLP, each with its norm behind it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm_attention = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = mlp(width)
        self.norm_mlp = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Update (B, T, S) states; `mask` is True where attention may go, (B, 1, 1, T)."""
        x = self.norm_attention(x + self.attention(x, self.attention.key_value(x), mask))
        return self.norm_mlp(x + self.mlp(x))


class Bert(nn.Module):
    """A BERT without what stands behind its last layer; its embedding of the first token type is part of its positions."""

    def __init__(self, vocab_size: int, context_length: int, width: int, layers: int, heads: int):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(context_length, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.layers = nn.ModuleList(BertLayer(width, heads) for _ in range(layers))


class SentenceEncoder(nn.Module):
    """A `Bert`, the mean over its states, and a hidden layer; its weights are random.

    Args:
        vocab_size: Tokens that it knows.
        context_length: Longest text, in tokens.
        width: S.
        layers: Number of the BERT's layers.
        heads: Heads of each.
        embedding: E.
        dropout: Dropout ahead of either linear map of the hidden layer, in training.
    """

    def __init__(
        self, vocab_size: int, context_length: int, width: int, layers: int, heads: int, embedding: int, dropout: float
    ):
        super().__init__()
        self.bert = Bert(vocab_size, context_length, width, layers, heads)
        first, second = nn.Linear(width, 2 * width), nn.Linear(2 * width, embedding)
        self.head = nn.Sequential(nn.Dropout(dropout), first, nn.GELU(), nn.Dropout(dropout), second)

    def forward(self, tokens: Tensor, real: Tensor, run: Callable = lambda layer, x: layer(x)) -> Tensor:
        """Embed (B, T) tokens, of which those count that are `real`, as (B, E); `run` runs a layer on (B, T, S) states."""
        mask = real[:, None, None, :]
        x = self.bert.token_embedding(tokens) + self.bert.position_embedding.weight[: tokens.shape[1]]
        x = self.bert.norm(x)  # (B, T, S)
        for layer in self.bert.layers:
            x = run(functools.partial(layer, mask=mask), x)
        weights = real.to(x.dtype)[..., None]  # (B, T, 1)
        mean = (x * weights).sum(dim=1) / weights.sum(dim=1)  # (B, S)
        return self.head(F.rms_norm(mean, mean.shape[-1:]))


class DecoderRows(nn.Module):
    """The tokens that a decoder has rows for, out of all that a tokenizer makes.

    Args:
        size: Number of rows; each has a token of its own, in ascending order.
        unknown: Token whose row stands for all others.
    """

    def __init__(self, size: int, unknown: int):
        super().__init__()
        self.unknown = unknown
        self.register_buffer("tokens", torch.arange(size))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the rows of tokens (…)."""
        found = torch.searchsorted(self.tokens, tokens.contiguous()).clamp(max=len(self.tokens) - 1)
        return torch.where(self.tokens[found] == tokens, found, torch.searchsorted(self.tokens, self.unknown))
