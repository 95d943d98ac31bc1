"""A small convolutional vision tower, for thousands of pictures, not millions: it starts with what a transformer would have to learn.

Residual blocks of two 3 × 3 convolutions (He et al., arXiv 1512.03385), with group norms, so that no batch shows in a feature. The
first stage works on cells of 4 pixels; each further one on cells of twice the side with twice the channels.

Letters: B batch, H W pixels, h w grid of cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StandardConv2d(nn.Conv2d):
    """A convolution by weights of mean 0 and norm 1 for each output channel. Source: Qiao et al. (arXiv 1903.10520), section 3."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, width, h', w')."""
        rows = self.weight.flatten(1)
        weight = F.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1).view_as(self.weight)
        return self._conv_forward(x, weight.contiguous(memory_format=torch.channels_last), None)


def conv_norm(inputs: int, width: int, side: int, stride: int, standard: bool) -> nn.Sequential:
    """Return a convolution and its group norm; `standard` is as `MammutConfig.vision_standard_weights`."""
    conv = (StandardConv2d if standard else nn.Conv2d)(inputs, width, side, stride, side // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.GroupNorm(math.ceil(width / 16), width))


class ConvBlock(nn.Module):
    """Two 3 × 3 convolutions with a way around them, which it starts as. Source: He et al. (arXiv 1512.03385), figure 2."""

    def __init__(self, inputs: int, width: int, standard: bool):
        super().__init__()
        stride = 1 if inputs == width else 2
        self.first = conv_norm(inputs, width, 3, stride, standard)
        self.second = conv_norm(width, width, 3, 1, standard)
        nn.init.zeros_(self.second[1].weight)
        shrink = stride == 2
        self.around = nn.Sequential(nn.AvgPool2d(2), *conv_norm(inputs, width, 1, 1, standard)) if shrink else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, width, h, w), or (B, width, h/2, w/2) where the width grows."""
        return F.relu(self.around(x) + self.second(F.relu(self.first(x))))


class ConvTower(nn.Module):
    """A stem that takes (B, 3, H, W) to cells of 4 pixels, and `stages[i]` blocks on each size of cells, up to `width` channels."""

    def __init__(self, stages: Sequence[int], width: int, standard: bool):
        super().__init__()
        widths = [width // 2 ** (len(stages) - 1 - stage) for stage, blocks in enumerate(stages) for _ in range(blocks)]
        first = conv_norm(3, widths[0] // 2, 3, 2, standard)
        second = conv_norm(widths[0] // 2, widths[0], 3, 2, standard)
        self.stem = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        self.blocks = nn.Sequential(*(ConvBlock(*sides, standard) for sides in zip([widths[0], *widths[:-1]], widths)))
