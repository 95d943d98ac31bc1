"""Positions of the patches of a picture that is a part of a larger one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def cropped(grid: Tensor, crops: Tensor, size: Sequence[int]) -> Tensor:
    """Take the part (B, 4) `crops` of (1, g, g, D) positions, blown up to `size`: (B, h, w, D).

    A crop is (x0, y0, x1, y1) in 0…1. Source: Kim et al. 2023 (RO-ViT, arXiv 2305.07011), section 3.2.
    """
    h, w = size
    centres = [(torch.arange(n, device=grid.device, dtype=torch.float32) + 0.5) / n for n in (h, w)]
    y = crops[:, 1, None] + (crops[:, 3] - crops[:, 1])[:, None] * centres[0]  # (B, h) in 0…1
    x = crops[:, 0, None] + (crops[:, 2] - crops[:, 0])[:, None] * centres[1]  # (B, w)
    where = torch.stack([x[:, None, :].expand(-1, h, -1), y[:, :, None].expand(-1, -1, w)], dim=-1) * 2 - 1  # (B, h, w, 2)
    source = grid.permute(0, 3, 1, 2).float().expand(len(crops), -1, -1, -1)
    crop = F.grid_sample(source, where, mode="bilinear", padding_mode="border", align_corners=False)  # (B, D, h, w)
    return crop.permute(0, 2, 3, 1).to(grid.dtype)
