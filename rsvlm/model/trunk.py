"""A convolutional network of timm as MaMMUT's vision tower, so that a training can start from what is known about photographs.

Its batch norms are frozen whole, statistics and weights: in training as in use they are fixed factors and offsets, so no picture
shows in the features of another, and micro-batches, averages of weights and several processes need no care for them.

The patches are cells of one of the network's maps. Where the network goes on to coarser maps, these are enlarged and added, each
through a linear map of its channels (Lin et al., Feature Pyramid Networks, arXiv 1612.03144, section 3, without the further
convolutions). All but the coarsest begin with factors of 0, so what a training starts from is the network's own last map.

A mean over patches forgets where they lay. Two remedies, which go together: transformer blocks may follow, whose patches carry learned
positions; and channels may belong to places. Of these a tenth counts everywhere, and each other tenth in one of nine windows on the picture
alone, so that the mean over patches holds what each ninth of the picture shows, side by side.

Letters: B batch, H W pixels, h w grid of cells, P = h · w, Dv vision width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from difflib import get_close_matches

import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed_nhwc
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from rsvlm.errors import ModelError


class TimmTower(nn.Module):
    """A network of timm and transformer blocks on its cells; its weights are random.

    Args:
        name: Name of the network in timm.
        stride: Side of a cell, in pixels.
        width: Channels of the tokens, Dv.
        layers: Number of transformer blocks; with 0 there are no positions either.
        heads: Heads of each block.
        side_px: Side of the pictures that the positions are for; those of other pictures are interpolated.
        places: Windows a side that channels belong to, as in `windows`; 0: all channels count everywhere.
        dropout: Dropout of whole channels of the network's maps, in training.

    Raises:
        ModelError: As `layout`, or the network has no map of such cells.
    """

    def __init__(
        self,
        name: str,
        stride: int,
        width: int,
        layers: int = 0,
        heads: int = 8,
        side_px: int = 128,
        places: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        maps = layout(name)
        if stride not in maps:
            raise ModelError(
                f"vision_tower='{name}' has maps of {', '.join(map(str, maps))} pixels: patch_size={stride} is none"
            )
        self.trunk = timm.create_model(name, num_classes=0)
        self.places = places
        self.drop = nn.Dropout2d(dropout)
        self.indices = [index for index, side in enumerate(maps) if side >= stride]
        self.laterals = nn.ModuleList(nn.Conv2d(channels, width, 1) for side, channels in maps.items() if side >= stride)
        for lateral in self.laterals[:-1]:
            nn.init.zeros_(lateral.weight)
            nn.init.zeros_(lateral.bias)
        if layers:
            self.norm_in = nn.LayerNorm(width)
            self.positions = nn.Parameter(torch.empty(1, side_px // stride, side_px // stride, width).normal_(std=0.2))
        norm = functools.partial(nn.LayerNorm, eps=1e-6)
        self.layers = nn.ModuleList(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.train(self.training)

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """What is compiled, or sharded, by itself: the tower is one block."""
        return (self,)

    def train(self, mode: bool = True) -> TimmTower:
        """Switch to training, or to evaluation, where the batch norms always are; they are frozen here, for weights may be new ones."""
        super().train(mode)
        for norm in self._batch_norms():
            norm.eval().requires_grad_(False)
        return self

    def checkpoint(self, enable: bool) -> None:
        """Keep only the input of each stage in training, and run it again backward, as far as timm can."""
        if getattr(self.trunk, "grad_checkpointing", False) != enable:
            self.trunk.set_grad_checkpointing(enable)

    def forward(self, images: Tensor, placed: bool = True) -> Tensor:
        """Map (B, 3, H, W), with sides that are multiples of the stride, to (B, P, Dv) tokens in reading order.

        If not `placed`, all channels count everywhere, whatever `places` is: what a token is does not depend on where it lies.
        """
        return self.tokens(self.maps(images), placed)

    def maps(self, images: Tensor) -> list[Tensor]:
        """What the network itself makes of (B, 3, H, W): the maps (B, C, h, w) that tokens are made of, from fine to coarse.

        Of a frozen network they stay what they are, so that a training can keep them.
        """
        if torch.is_autocast_enabled("cpu"):  # convolutions of single channels are twice as slow in bf16 there
            with torch.autocast("cpu", enabled=False):
                last, maps = self.trunk.forward_intermediates(images.float(), indices=self.indices)
        else:
            last, maps = self.trunk.forward_intermediates(images, indices=self.indices)
        return [*maps[:-1], last]

    def tokens(self, maps: Sequence[Tensor], placed: bool = True) -> Tensor:
        """Make the tokens of `maps`; as `forward`."""
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self._tokens([part.float() for part in maps], placed)
        return self._tokens(maps, placed)

    def _tokens(self, maps: Sequence[Tensor], placed: bool) -> Tensor:
        maps = [self.drop(part) for part in maps]
        x = self.laterals[-1](maps[-1])  # (B, Dv, h, w) of the coarsest grid
        for finer, lateral in zip(maps[-2::-1], self.laterals[-2::-1] if len(maps) > 1 else ()):
            x = lateral(finer) + F.interpolate(x, finer.shape[2:], mode="bilinear")
        size, x = x.shape[2:], x.flatten(2).transpose(1, 2)
        if self.layers:
            grid = self.positions
            grid = grid if grid.shape[1:3] == size else resample_abs_pos_embed_nhwc(grid, size)  # bicubic, antialiased
            x = self.norm_in(x) + grid.flatten(1, 2)
        for block in self.layers:
            x = block(x)
        x = self.norm(x)
        return x * windows(self.places, *size, x.shape[2]).to(x) if self.places and placed else x

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self.trunk.modules() if isinstance(module, _BatchNorm)]


@functools.lru_cache(64)
def windows(places: int, height: int, width: int, channels: int) -> Tensor:
    """Return how much each channel counts in each cell: (P, Dv) float32 in reading order.

    Channels make 1 + n · n groups, as equal as can be, n being `places`. The first counts everywhere, with 1; each other one in a window
    alone, which falls linearly from the middle of its part of the picture to the middles of the neighbouring parts and has 1 as its mean.
    """
    middles = (torch.arange(places) + 0.5) / places
    sides = []
    for cells in (height, width):
        away = ((torch.arange(cells) + 0.5) / cells).clamp(float(middles[0]), float(middles[-1]))[:, None] - middles
        side = (1 - places * away.abs()).round(decimals=5).clamp(min=0)  # (cells, n)
        sides.append(side / side.mean(0).clamp(min=1e-6))
    parts = torch.einsum("yi,xj->yxij", *sides).reshape(height * width, places * places)
    group = torch.arange(channels) * (places * places + 1) // channels
    return torch.cat([torch.ones(len(parts), 1), parts], 1)[:, group]


@functools.cache
def layout(name: str) -> dict[int, int]:
    """Return the maps of a network of timm, from fine to coarse: side of a cell in pixels, and number of channels.

    Raises:
        ModelError: timm has no such network, or it gives no maps from which patches could be made.
    """
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), 5)
        raise ModelError(f"timm knows no model '{name}'" + f": did you mean {', '.join(near)}?" * bool(near))
    side = 256
    try:
        with torch.device("meta"), torch.no_grad():
            trunk = timm.create_model(name, num_classes=0).eval()
            last, maps = trunk.forward_intermediates(torch.zeros(1, 3, side, side))
        maps[-1] = last
        sides = [side // x.shape[2] for x in maps]
        fits = all(x.shape[2] == x.shape[3] == side // cell for x, cell in zip(maps, sides)) and sorted(set(sides)) == sides
    except Exception:  # of timm, of whatever a network is that gives no maps
        fits = False
    if not fits or any(module._non_persistent_buffers_set for module in trunk.modules()):
        raise ModelError(
            f"vision_tower='{name}' is no convolutional network whose maps are halved from stage to stage: take another of timm, "
            "such as tf_efficientnet_lite0 or resnet50, or, for a transformer, the options of a preset such as b16"
        )
    return {cell: x.shape[1] for cell, x in zip(sides, maps)}


def stage_ends(name: str) -> list[str]:
    """Return, from the stem up, the name of the module that ends each stage of a network of timm."""
    with torch.device("meta"):
        return [info["module"] for info in timm.create_model(name, num_classes=0).feature_info]


def normalisation(name: str | None) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of the channels that a network of timm expects; if None, those of our own towers."""
    settings = timm.get_pretrained_cfg(name) if name and timm.is_model(name) else None
    return ([0.5] * 3, [0.25] * 3) if settings is None else (list(settings.mean), list(settings.std))


def flops(name: str, stride: int, width: int, side_px: int, layers: int = 0, heads: int = 8) -> int:
    """Count the operations of a tower's matrix products and convolutions on one square picture; arguments are as for `TimmTower`."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        tower = TimmTower(name, stride, width, layers, heads, side_px).eval().requires_grad_(False)
        tower(torch.zeros(1, 3, side_px, side_px))
    return counter.get_total_flops()
