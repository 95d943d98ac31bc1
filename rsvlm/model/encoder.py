"""The one face of every model, whoever made it: what an evaluation, a heat map, a search and a page ask of it.

    arrays (H, W, 3) ── preprocess ── batch (B, 3, S, S) ─┬─ encode_images ── (B, E)
    texts ── encode_texts ── (M, E)                       └─ patches ── scores, values ── pooled by windows ── project ── (B, …, E)

A family of models is a class below `Encoder` in one file of `others/`; `others/TEMPLATE.py` says what it has to give.

Letters: B batch, M texts, E embedding, n heads, d width of a head, h w patch grid, S side in pixels, D width of the tower.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsvlm.errors import DataError, ModelError
from rsvlm.model.device import keep_freed_memory
from rsvlm.model.images import normalise
from rsvlm.records.text import batched

TEXTS = 256
"""Texts per forward pass."""

ABILITIES = {
    "texts": "sentences as queries",
    "patches": "maps of places, and searches of scenes",
    "last block": "maps by other attention than the model's own in its last block",
    "captions": "sentences about an image",
}


@dataclass(frozen=True)
class Patches:
    """The patches of B images, as the model's own pooling sees them.

    Attributes:
        scores: (B, n, h, w) float32, q·k / √d of the query that pools. A model with mean pooling weighs all alike: n = 1 and zeros.
        values: (B, n, h, w, d) float32, what is averaged with the exponentials of the scores as weights.
        common: Score (B, n) and value (B, n, d) of what is pooled besides the patches, such as a class token. If None, nothing is.
        rest: (B, C) float32, what `Encoder.project` needs of the image besides what was pooled, such as the class token that the
            pooled values are added to. C may be 0.
    """

    scores: Tensor
    values: Tensor
    common: tuple[Tensor, Tensor] | None
    rest: Tensor


class Encoder:
    """A model behind the one face. Families overrule `preprocess`, `encode_images` and, where they can, the others.

    Attributes:
        name: Name in tables.
        model: The module, in evaluation mode.
        can: Which of `ABILITIES` it has, besides images.
        image_size: Side of the square images that it was trained with, in pixels.
        patch_size: Side of a patch, in pixels. None without patches.
        mean: Mean of each channel, (3,), of images in 0…1; likewise `std`.
        logit_scale: Factor of the cosines in its own loss, for calibration. None if it is not known.
        revision: Commit of the hub that it was fetched from. Empty for a model on disk.
    """

    revision: str = ""
    logit_scale: float | None = None
    linear: bool = False
    """Whether `project` is linear, so that the contributions of patches add up to the image's vector."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        can: Sequence[str],
        fingerprint: Callable[[], str],
        image_size: int,
        patch_size: int | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        logit_scale: float | None = None,
    ):
        keep_freed_memory()
        self.name, self.model, self.can, self._fingerprint = name, model, frozenset(can), fingerprint
        self.image_size, self.patch_size, self.mean, self.std = image_size, patch_size, tuple(mean), tuple(std)
        if logit_scale is not None:
            self.logit_scale = logit_scale

    # What a family gives

    def preprocess(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Turn B decoded images, each (H, W, 3) uint8 of any size, into what the model was trained with: (B, 3, S, S) float32."""
        raise NotImplementedError

    def encode_images(self, batch: Tensor) -> Tensor:
        """Embed a batch of `preprocess` as (B, E), of any norm."""
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed up to `TEXTS` texts as (M, E), of any norm."""
        raise ModelError(f"{self.name} reads no texts: ask it with a picture, or take a model with a text tower")

    def patches(self, batch: Tensor) -> Patches:
        """Run the tower on (B, 3, H, W), sides any multiples of the patch's, and split its pooling into scores and values."""
        raise ModelError(
            f"{self.name} shows no patches, which maps and searches of scenes need: take another model, or whole chips"
        )

    def contributing(self, batch: Tensor) -> Patches:
        """Split the pooling into patches that add up to the image's vector, if `linear`; as `patches`, unless a patch's place counts."""
        return self.patches(batch)

    def project(self, pooled: Tensor, rest: Tensor | None) -> Tensor:
        """Send pooled values (B, n, …, d) through the rest of the model: (B, …, E) float32, of any norm.

        With the values of all patches, and what they have in common, weighed by the softmax of their scores, the result is the
        model's own embedding of the image. `rest` is that of `patches`, (B, C), or one for each place, (B, …, C). If None, what
        the pooled values are added to in the last block, and the block's MLP, are left out.
        """
        raise NotImplementedError

    def last_block(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the tower up to the attention of its last block: q, k and v, each (B, n, P, d), and what it is added to, (B, P, C).

        P counts what stands in front of the h · w patches, too.
        """
        raise ModelError(f"{self.name} has no last block with a class token: choose another method")

    # What all have

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digits that name weights and preprocessing; made when asked for, as it reads all weights."""
        return self._fingerprint()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.model.parameters()).dtype

    @cached_property
    def width(self) -> int:
        """E."""
        return self.images([np.zeros((self.image_size, self.image_size, 3), np.uint8)]).shape[1]

    def images(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Embed B decoded images, each (H, W, 3) uint8 of any size, as (B, E) float32 of norm 1.

        Raises:
            DataError: An array of another shape or type, or a single one that is not in a list.
        """
        if isinstance(arrays, np.ndarray) and arrays.ndim < 4:
            raise DataError(f"one array of shape {arrays.shape} is given: expected a list of images, [array]")
        if wrong := [
            i for i, a in enumerate(arrays) if np.ndim(a) != 3 or np.shape(a)[2] != 3 or np.asarray(a).dtype != np.uint8
        ]:
            shape = f"{np.asarray(arrays[wrong[0]]).dtype} of shape {np.shape(arrays[wrong[0]])}"
            raise DataError(f"image {wrong[0]} is {shape}: expected uint8 of shape (H, W, 3), as from images.decode")
        if not len(arrays):
            return np.empty((0, self.width), np.float32)
        with torch.inference_mode():
            return F.normalize(self.encode_images(self.preprocess(arrays)).float(), dim=-1).cpu().numpy()

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Embed M texts, none blank, as (M, E) float32 of norm 1. Texts of similar length go together, so that little is padded.

        Raises:
            DataError: A single text that is not in a list, or a blank one.
            ModelError: The model reads no texts.
        """
        if isinstance(captions, str):
            raise DataError(f"one text is given, {captions[:60]!r}: expected a list of texts, [text]")
        if not len(captions):
            return np.empty((0, self.width), np.float32)
        if blank := [i for i, text in enumerate(captions) if not text.strip()]:
            raise DataError(f"text {blank[0]} of {len(captions)} is empty: drop it, or write a caption")
        order = np.argsort([len(caption) for caption in captions], kind="stable").tolist()
        with torch.inference_mode():
            parts = [self.encode_texts([captions[i] for i in part]).float() for part in batched(order, TEXTS)]
            vectors = F.normalize(torch.cat(parts), dim=-1).cpu().numpy()
        embeddings = np.empty_like(vectors)
        embeddings[order] = vectors
        return embeddings

    def normalised(self, tiles: np.ndarray) -> Tensor:
        """Normalise (B, H, W, 3) uint8 tiles as the model's images are, without resizing: (B, 3, H, W) on its device, of its type."""
        return torch.from_numpy(normalise(tiles, self.mean, self.std)).to(self.device, self.dtype)

    def in_bfloat16(self) -> Encoder:
        """Return a copy whose weights are in half precision."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model).bfloat16()
        return other


def in_heads(x: Tensor, heads: int) -> Tensor:
    """Cut (B, P, n·d) into heads: (B, n, P, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(pooled: Tensor) -> Tensor:
    """Put heads beside each other: (B, n, …, d) to (B, …, n·d)."""
    return pooled.movedim(1, -2).flatten(-2)


def split_pooling(query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int], rest: Tensor | None = None) -> Patches:
    """Write an attention pooling as `Patches`.

    Args:
        query: (B, n, d) or (1, n, d) of the one query that pools.
        key: (B, n, P, d), of which the last h · w are the grid in reading order; those in front are common to all windows.
        value: (B, n, P, d), likewise.
        grid: h and w.
        rest: (B, C). If None, nothing.
    """
    query, key, value = query.float(), key.float(), value.float()
    scores = (query[:, :, None] * key).sum(-1) * key.shape[-1] ** -0.5  # (B, n, P)
    ahead, common = scores.shape[2] - grid[0] * grid[1], None
    if ahead:
        # several that all windows hold are as one, with the sum of their weights and the weighted mean of their values
        front = scores[..., :ahead]
        common = front.logsumexp(-1), (front.softmax(-1)[..., None] * value[:, :, :ahead]).sum(2)
    rest = scores.new_zeros(len(key), 0) if rest is None else rest.float()
    return Patches(scores[..., ahead:].unflatten(-1, grid), value[:, :, ahead:].unflatten(2, grid), common, rest)


def mean_pooling(tokens: Tensor, grid: tuple[int, int]) -> Patches:
    """Write the mean over (B, P, D) tokens as `Patches`: one head, scores of 0; tokens in front of the grid are common to all windows."""
    tokens = tokens.float()
    ahead = tokens.shape[1] - grid[0] * grid[1]
    values = tokens[:, None, ahead:].unflatten(2, grid)  # (B, 1, h, w, D)
    common = (tokens.new_full((len(tokens), 1), float(np.log(ahead))), tokens[:, None, :ahead].mean(2)) if ahead else None
    return Patches(values.new_zeros(values.shape[:4]), values, common, tokens.new_zeros(len(tokens), 0))


def at_places(rest: Tensor, like: Tensor) -> Tensor:
    """Shape what is left of an image, (B, D), or of each place, (B, …, D), so that it can be added to (B, …, D)."""
    rest = rest.to(like.dtype)
    return rest if rest.ndim == like.ndim else rest[(slice(None), *(None,) * (like.ndim - rest.ndim))]


def attend(attention: nn.MultiheadAttention, query: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project a query (B, Q, D) and a context (B, P, C) with the weights of torch's module: q, k and v, in heads."""
    width = attention.embed_dim
    if attention.in_proj_weight is not None:
        weights = attention.in_proj_weight.split(width)
    else:
        weights = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
    biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.split(width)
    pairs = zip((query, context, context), weights, biases)
    return tuple(in_heads(F.linear(x, weight, bias), attention.num_heads) for x, weight, bias in pairs)
