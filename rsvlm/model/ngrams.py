"""Embeddings of several tokens in a row: who reads "green in the north" as one thing need not learn first which words belong together.

A transformer of a few layers takes hundreds of steps to begin to find out which colour belongs to which direction; in a table of n-grams
the two stand in one row from the start. The n-grams of all lengths share the rows of one table by their hash, and add to the embedding of their last token.

Source: Pagnoni et al. 2024 (Byte Latent Transformer, arXiv 2412.09871), section 3.2.1, there over bytes; here over tokens, in one table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FACTORS = 1_000_003, 7_919
_PRIME = 2**31 - 1  # times either factor it stays within 64 bits


class NgramEmbedding(nn.Module):
    """One table for the n-grams of 2 to `longest` tokens that end at each token.

    Args:
        longest: Tokens of the longest n-gram.
        rows: Rows of the table; n-grams of the same row are taken for one.
        width: D.
    """

    def __init__(self, longest: int, rows: int, width: int):
        super().__init__()
        self.longest, self.rows = longest, rows
        self.table = nn.Embedding(rows, width)

    def forward(self, tokens: Tensor, before: Tensor | None = None) -> Tensor:
        """Sum up the n-grams that end at each of (B, T) tokens: (B, T, D).

        Args:
            tokens: (B, T) int64.
            before: (B, P) tokens that precede them; as far as they are missing, zeros.
        """
        past, T = self.longest - 1, tokens.shape[1]
        given = tokens if before is None else torch.cat([before[:, -past:], tokens], dim=1)
        padded = F.pad(given, (past - (0 if before is None else min(past, before.shape[1])), 0))  # (B, past + T)
        hashed, total = tokens, 0
        for back in range(1, past + 1):
            hashed = (hashed * _FACTORS[0] + padded[:, past - back : past - back + T] * _FACTORS[1] + back) % _PRIME
            total = total + self.table(hashed % self.rows)
        return total
