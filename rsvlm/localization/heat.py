"""Where in an image is what a text says: maps from patches, from attention, and by the Smooth-Attention-Operation.

    images (B, 3, H, W) ── tower ── scores (B, n, h, w), values (B, n, h, w, d)
    windows pooled by `smoothing` ── rest of the model ── (B, h, w, E) · texts (M, E)

The model, whoever made it, is asked with the same output head that it was trained with.

Letters: B batch, M texts, n heads, d width of a head, h w patch grid, H W pixels, E embedding, L decoder layers that see the image.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rsvlm.errors import DataError, ModelError
from rsvlm.localization import shapes
from rsvlm.localization.smoothing import check_window, smooth_attention
from rsvlm.model import embed, images as imaging, tokenizer
from rsvlm.model.encoder import Encoder, Patches
from rsvlm.model.mammut import Mammut

METHODS = {
    "smooth": "cosine of each text with the attention pooling of a window around each patch (the Smooth-Attention-Operation)",
    "raw": "cosine of each text with each patch: a window of one",
    "attention": "what each patch adds to the image's cosine with the text: its pooling weight times its own product",
    "weights": "the pooling weights of the patches, whatever the text",
    "caption": "cross-attention of the decoder that reads the text, mean over words, layers and heads",
    "gradient": "the same, weighted by how much the text's likelihood grows with it",
    "values": "cosine of each text with each patch, which in the last block attends to itself alone (MaskCLIP)",
    "correlative": "the same, each patch attending to those of like queries and keys (SCLIP)",
    "clear": "the same, to those of like queries, without what the block adds to it and without its MLP (ClearCLIP)",
}
READING = ("caption", "gradient")
OTHER_ATTENTION = ("values", "correlative", "clear")
"""Sources: Zhou et al. (arXiv 2112.01071), section 3.2; Wang et al. (arXiv 2312.01597), section 3.2; Lan et al. (arXiv 2407.12442), 3.3."""


@dataclass(frozen=True)
class LastBlock:
    """What meets in the last block of B images: query, key and value, each (B, n, P, d), what they are added to, (B, P, C), and h, w."""

    query: Tensor
    key: Tensor
    value: Tensor
    state: Tensor
    grid: tuple[int, int]


def project(model: Mammut | Encoder, pooled: Tensor, rest: Tensor | None, normalize: bool = True) -> Tensor:
    """Send pooled values (B, n, …, d) through the rest of the model: (B, …, E) float32, of norm 1 if `normalize`."""
    vectors = embed.encoder_of(model).project(pooled, rest)
    return F.normalize(vectors, dim=-1) if normalize else vectors


def smooth(model: Mammut | Encoder, patches: Patches, window: int) -> Tensor:
    """Embed the window around every patch: (B, h, w, E) float32 of norm 1; with mean pooling, the mean of the window's patches."""
    alone = window == 1 and patches.common is None
    pooled = patches.values if alone else smooth_attention(patches.scores, patches.values, window, patches.common)
    return project(model, pooled, patches.rest)


def look(model: Mammut | Encoder, images: Tensor, method: str = "smooth") -> Patches | LastBlock:
    """Run the tower on (B, 3, H, W) normalised images as far as a method needs, with gradients where the caller wants them.

    Raises:
        DataError: An unknown method, or one that does not look at patches.
        ModelError: The model shows no patches, or has no last block that the method could change; or images of another shape.
    """
    encoder = embed.encoder_of(model)
    if method not in METHODS or method in READING:
        raise DataError(f"method '{method}': choose one of {', '.join(name for name in METHODS if name not in READING)}")
    if method not in OTHER_ATTENTION:
        return encoder.contributing(images) if method in ("weights", "attention") else encoder.patches(images)
    grid = tuple(side // encoder.patch_size for side in images.shape[2:]) if encoder.patch_size else (0, 0)
    return LastBlock(*encoder.last_block(images), grid)


def text_vectors(model: Mammut | Encoder, texts: str | Sequence[str]) -> np.ndarray:
    """Embed M texts, one sentence or several: (M, E) float32 of norm 1.

    Raises:
        DataError: No text, or a blank one.
    """
    return embed.texts(model, _groups([texts])[0])


def sentences(where: Path | str, classes: Sequence[str]) -> tuple[list[list[str]], list[str] | None]:
    """Read the sentences that stand for classes, and those of what else there may be.

    Args:
        where: A name in `sentences.json`, or a JSON file `{class: sentence or [sentence, ...]}`; there the key "" is what else there
            may be.
        classes: C names.

    Returns:
        C lists of sentences, and those of the background; None where the file has none.

    Raises:
        DataError: The file cannot be read, or has no sentence for a class, or a blank one.
    """
    own = json.loads(Path(__file__).with_name("sentences.json").read_text(encoding="utf-8"))
    try:
        table = own[where]["classes"] if where in own else json.loads(Path(where).read_text(encoding="utf-8-sig"))
        rest = own[where]["background"] if where in own else table.get("", [])
        groups = [table[name] for name in classes] + [rest]
        groups = [[group] if isinstance(group, str) else list(group) for group in groups]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        wanted = f"give a JSON file {{class: [sentence, ...]}}, or {', '.join(own)}"
        raise DataError(f"{where} cannot be read ({error}): {wanted}") from None
    except KeyError as error:
        raise DataError(f"{where} has no sentence for class {error}: give one, or leave the class out with --class") from None
    if not all(groups[:-1]) or not _not_blank(groups):
        raise DataError(f"{where}: a class has no sentence, or one that is blank")
    return groups[:-1], groups[-1] or None


def heat(
    model: Mammut | Encoder,
    images: Tensor | Patches | LastBlock,
    texts: np.ndarray,
    *,
    method: str = "smooth",
    window: int | Sequence[int] = 3,
    global_share: float = 0.0,
) -> np.ndarray:
    """Score each patch of a batch for each text: (B, M, h, w) float32.

    Args:
        model: The model, in evaluation mode.
        images: (B, 3, H, W) normalised, on the model's device; or what `look` gave, where it is there already.
        texts: (M, E) vectors of norm 1, as of `text_vectors`.
        method: One of `METHODS`, but not of those of the caption pass, which read words: see `cross_attention`.
        window: For `smooth`: the side in patches, odd; or several, whose scores are averaged.
        global_share: For `smooth` and `raw`: this share of the whole image's vector is subtracted from each vector, which a tower
            with global attention mixes into every patch. Source: Li et al. (SegEarth-OV, arXiv 2410.01768), section 3.3.

    Raises:
        DataError: An unknown method or an even window, or one that does not fit the model.
        ModelError: As `look`.
    """
    windows, encoder = _windows(method, window), embed.encoder_of(model)
    vectors = torch.from_numpy(np.ascontiguousarray(texts, np.float32)).to(encoder.device)
    with torch.inference_mode():
        seen = look(encoder, images, method) if isinstance(images, Tensor) else images
        if isinstance(seen, LastBlock):
            return (_by_other_attention(encoder, seen, method) @ vectors.T).movedim(-1, 1).cpu().numpy()
        if method in ("weights", "attention"):
            h, w = seen.scores.shape[2:]
            weights = seen.scores.flatten(2).softmax(-1).unflatten(-1, (h, w))  # (B, n, h, w)
            if method == "weights":
                return weights.mean(1, keepdim=True).expand(-1, len(vectors), -1, -1).cpu().numpy()
            if not encoder.linear or seen.common is not None:
                raise DataError(
                    f"method 'attention' adds up what patches contribute, and {encoder.name} adds up nothing: take 'smooth'"
                )
            # the head is linear: the mean over patches is the image's cosine
            parts = encoder.project(h * w * weights[..., None] * seen.values, seen.rest)  # (B, h, w, E)
            parts = parts / parts.mean(dim=(1, 2), keepdim=True).norm(dim=-1, keepdim=True)
            return (parts @ vectors.T).movedim(-1, 1).cpu().numpy()
        cosines = 0
        for side in windows:
            embeddings = smooth(encoder, seen, side)
            if global_share:
                whole = smooth(encoder, seen, 2 * max(seen.scores.shape[2:]) - 1)
                embeddings = F.normalize(embeddings - global_share * whole, dim=-1)
            cosines = cosines + embeddings @ vectors.T
        return (cosines / len(windows)).movedim(-1, 1).cpu().numpy()


def _by_other_attention(encoder: Encoder, block: LastBlock, method: str) -> Tensor:
    """Embed patches by another attention of the last block than its own: (B, h, w, E) float32 of norm 1."""
    ahead, pooled = block.key.shape[2] - block.grid[0] * block.grid[1], block.value
    if method != "values":
        likes = [block.query] if method == "clear" else [block.query, block.key]
        weights = sum((like @ like.transpose(-1, -2) * like.shape[-1] ** -0.5).softmax(-1) for like in likes)
        pooled = weights @ pooled
    rest = None if method == "clear" else block.state[:, ahead:].unflatten(1, block.grid)
    return project(encoder, pooled[:, :, ahead:].unflatten(2, block.grid), rest)


def cross_attention(
    model: Mammut | Encoder, images: Tensor, texts: Sequence[str], gradient: bool = False, by_token: bool = False
) -> np.ndarray:
    """Where the decoder looks while it reads each text after each image: (B, M, L, n, h, w) float32.

    Attention to the patches, mean over the tokens to be read; the sum over a grid is 1. With `gradient` each weight is first
    multiplied by the slope of the text's log-likelihood with respect to it, and what is below 0 is left out.

    Args:
        model: The model, in evaluation mode, with its tokenizer.
        images: (B, 3, H, W) normalised, on the model's device.
        texts: M texts.
        gradient: Weigh by the slope. Source: Chefer et al. (arXiv 2103.15679), equation 5, for one layer at a time.
        by_token: Keep the T tokens that are to be read apart, the end of the text being the last: (B, M, T, L, n, h, w), 0 where a
            text is shorter.

    Raises:
        DataError: No text.
        ModelError: The model writes no captions.
    """
    encoder = embed.encoder_of(model)
    if "captions" not in encoder.can:
        raise ModelError(f"{encoder.name} writes no captions, so no decoder of it looks at the image: take method 'smooth'")
    if not len(texts):
        raise DataError("no text to read: give one or more")
    model = encoder.model
    tokens = torch.from_numpy(tokenizer.encode(model.tokenizer, list(texts))).to(images.device)  # (M, T)
    targets = model.decoder_rows(tokens[:, 1:])
    real = (tokens[:, 1:] != model.config.pad_token_id).float()  # (M, T-1)
    h, w = (side // model.config.patch_size for side in images.shape[2:])

    # What goes into each layer that sees the image, and what it mixed, is noted while the decoder runs.
    layers = [layer.cross_attention for layer in model.layers if layer.cross_attention is not None]
    noted: dict[int, list] = {}
    hooks = []
    for i, layer in enumerate(layers):
        hooks.append(layer.register_forward_pre_hook(lambda _, inputs, i=i: noted.__setitem__(i, [*inputs[:2]])))
        hooks.append(layer.out.register_forward_pre_hook(lambda _, inputs, i=i: noted[i].append(inputs[0])))

    # Each image is read with all texts.
    maps = []
    try:
        with torch.set_grad_enabled(gradient):
            for image_tokens in model.image_tokens(images).detach():
                repeated = image_tokens.expand(len(tokens), -1, -1).requires_grad_(gradient)
                states = model.caption_states(tokens[:, :-1], repeated)
                slopes = [None] * len(layers)
                if gradient:
                    likely = model.vocabulary(states).log_softmax(-1).gather(-1, targets[..., None])[..., 0]  # (M, T-1)
                    slopes = torch.autograd.grad((likely * real).sum(), [noted[i][2] for i in range(len(layers))])
                weights = [_attention(layer, *noted[i][:2], slopes[i]) for i, layer in enumerate(layers)]  # (M, n, T-1, P)
                share = real if by_token else real / real.sum(1, keepdim=True)
                each = torch.stack(weights, dim=1) * share[:, None, None, :, None]  # (M, L, n, T-1, P)
                grids = each.movedim(3, 1) if by_token else each.sum(dim=3)
                maps.append(grids[..., -h * w :].unflatten(-1, (h, w)).detach())
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(maps).float().cpu().numpy()


def maps(
    model: Mammut | Encoder,
    image: np.ndarray,
    texts: Sequence[str | Sequence[str] | np.ndarray],
    *,
    method: str = "smooth",
    window: int | Sequence[int] = 3,
    background: Sequence[str | Sequence[str] | np.ndarray] | None = None,
    join: str = "best",
    temperature: float | None = None,
    global_share: float = 0.0,
    scale: float | Sequence[float] = 1.0,
    tile_px: int | None = None,
    overlap: float = 0.5,
    size: str = "image",
    batch_size: int = 32,
    seen: dict | None = None,
) -> np.ndarray:
    """Score every pixel of an image for each text.

    Args:
        model: The model, in evaluation mode.
        image: (H, W, 3) uint8, of any size.
        texts: M texts, each one sentence or several; or, for the methods that need no words, vectors (m, E) of `text_vectors` in
            place of sentences, so that they are embedded once for many images.
        method: One of `METHODS`.
        window: For `smooth`: side of the window in patches, odd; or several, whose scores are averaged.
        background: What else there may be. If given (an empty list is), scores become probabilities: a softmax over the texts and
            these. If None, they are cosines, or for the other methods weights.
        join: Of several sentences of a text: the `best` in a patch speaks for it, or their `mean`.
        temperature: Temperature of that softmax, in cosines. If None, that of the model's own loss.
        global_share: As for `heat`.
        scale: Factor by which the image is enlarged first, so that patches show less ground; or several, whose scores are averaged.
        tile_px: Side of the tiles in pixels of the image. If None, the image is looked at at once, which for a tower with global
            attention costs the square of its pixels.
        overlap: Share of a tile's side that the next one shows too; tiles fade into each other.
        size: `image` for the image's size, by bilinear interpolation; `guided`: the same, edges then taken from the image;
            `patches` for the grid of patches (without tiles).
        batch_size: Tiles per forward pass.
        seen: Empty at first, and then given again with the same image, model, scale and tiles: patches are kept here, so that several
            methods and windows look at an image once.

    Returns:
        (M, H, W) float32, or (M, h, w) for `size="patches"`.

    Raises:
        DataError: Another image, method, window or size; or vectors for a method that reads words.
    """
    # What is asked: words, or vectors of them.
    image = np.asarray(image)
    scales = [scale] if isinstance(scale, (int, float)) else list(scale)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(f"an image of shape {image.shape}, {image.dtype}: expected (H, W, 3) uint8")
    if size not in ("image", "guided", "patches") or (size == "patches" and (tile_px or not isinstance(scale, (int, float)))):
        raise DataError(f"size '{size}': choose image, guided, or, without tiles and at one scale, patches")
    if not 0 <= overlap < 1 or not scales or min(scales) <= 0 or (tile_px is not None and tile_px < 1):
        raise DataError(f"overlap {overlap}, scale {scale}, tile_px {tile_px}: expected 0…1 (without 1), > 0 and ≥ 1")
    if join not in ("best", "mean"):
        raise DataError(f"join '{join}': choose best or mean")
    _windows(method, window)
    model = embed.encoder_of(model)
    texts = [texts] if isinstance(texts, str) else texts
    asked, reads = [*texts, *(background if background is not None else [])], method in READING
    groups = (
        _groups(asked) if reads else [np.atleast_2d(t) if isinstance(t, np.ndarray) else text_vectors(model, t) for t in asked]
    )
    if not groups:
        raise DataError("no text: give one or more")
    question = sum(groups, []) if reads else np.concatenate(groups)
    counts = [len(group) for group in groups]
    starts = np.cumsum([0, *counts[:-1]])

    # Tiles, which fade into each other; without `tile_px` one, the image.
    (H, W), side = image.shape[:2], model.patch_size or 1
    tile = (min(tile_px, H), min(tile_px, W)) if tile_px else (H, W)
    corners = [(y, x) for y in _starts(H, tile[0], overlap) for x in _starts(W, tile[1], overlap)]
    fade = _fade(tile[0])[:, None] * _fade(tile[1])
    total, weight = np.zeros((len(counts), H, W), np.float32), np.zeros((H, W), np.float32)
    for factor, start in itertools.product(scales, range(0, len(corners), batch_size)):
        batch_corners = corners[start : start + batch_size]
        tiles = [image[y : y + tile[0], x : x + tile[1]] for y, x in batch_corners]
        shown = [max(round(length * factor / side), 1) * side for length in tile]  # pixels that the model sees

        # Scores of each patch for each sentence, then for each text.
        if reads:
            batch = to_batch(model, tiles, *shown)
            scores = cross_attention(model, batch, question, method == "gradient").mean(axis=(2, 3))
        else:
            place = factor, start, method in OTHER_ATTENTION
            looked_at = (seen or {}).get(place)
            if looked_at is None:
                with torch.inference_mode():
                    looked_at = look(model, to_batch(model, tiles, *shown), method)
                if seen is not None:
                    seen[place] = looked_at
            scores = heat(model, looked_at, question, method=method, window=window, global_share=global_share)
        if join == "best":
            scores = np.maximum.reduceat(scores, starts, axis=1)
        else:
            scores = np.add.reduceat(scores, starts, axis=1) / np.array(counts, np.float32)[:, None, None]
        if size == "patches":
            return _contrast(model, scores[0], len(texts), background, temperature)

        # From patches to pixels.
        pixels = F.interpolate(torch.from_numpy(scores), size=tile, mode="bilinear", align_corners=False).numpy()
        if len(corners) == 1:  # no tiles, nothing fades
            total += pixels[0]
            weight += 1
            continue
        for (y, x), part in zip(batch_corners, pixels, strict=True):
            total[:, y : y + tile[0], x : x + tile[1]] += fade * part
            weight[y : y + tile[0], x : x + tile[1]] += fade

    scores = _contrast(model, total / weight, len(texts), background, temperature)
    if size == "guided":
        radius = max(round(side / np.mean(scales) / 2), 1)
        scores = np.stack([shapes.refine(one, image, radius, 1e-3) for one in scores])
    return scores


def to_batch(model: Mammut | Encoder, arrays: Sequence[np.ndarray], height: int, width: int) -> Tensor:
    """Resize (where needed) and normalise B decoded images: (B, 3, height, width) on the model's device."""
    resized = [a if a.shape[:2] == (height, width) else imaging.resize(a, height, width) for a in arrays]
    return embed.encoder_of(model).normalised(np.stack(resized))


def _attention(layer: torch.nn.Module, x: Tensor, key_value: Tensor, slope: Tensor | None) -> Tensor:
    """Weights (M, n, T, P) of a cross-attention from what went into it; with the slope (M, T, D) of what it mixed, weighed."""
    query = layer.query(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2)  # (M, n, T, d)
    key, value = key_value.unflatten(-1, (2, layer.heads, -1)).permute(2, 0, 3, 1, 4)  # each (M, n, P, d)
    weights = (query @ key.transpose(-1, -2) * key.shape[-1] ** -0.5).softmax(-1)
    if slope is None:
        return weights
    of_weights = slope.unflatten(-1, (layer.heads, -1)).transpose(1, 2) @ value.transpose(-1, -2)
    return (weights * of_weights).clamp_min(0)


def _contrast(model: Encoder, scores: np.ndarray, count: int, background, temperature: float | None) -> np.ndarray:
    """Turn (texts + background, h, w) scores into probabilities of the first `count`, where a background is given."""
    if background is None:
        return scores.astype(np.float32, copy=False)
    if not temperature and model.logit_scale is None:
        raise DataError(f"{model.name} does not say how sharp its loss was: give a temperature, in cosines")
    odds = scores * np.float32(1 / temperature if temperature else model.logit_scale)
    odds -= odds.max(axis=0)  # in place: there may be dozens of texts and millions of pixels
    np.exp(odds, out=odds)
    return odds[:count] / odds.sum(axis=0)


def _groups(texts: Sequence[str | Sequence[str]]) -> list[list[str]]:
    groups = [[text] if isinstance(text, str) else list(text) for text in texts]
    if not groups or not all(groups) or not _not_blank(groups):
        raise DataError("a text is missing or blank: give one or more texts, each a sentence or a list of sentences")
    return groups


def _not_blank(groups: list[list]) -> bool:
    return all(isinstance(text, str) and text.strip() for group in groups for text in group)


def _windows(method: str, window: int | Sequence[int]) -> list[int]:
    if method not in METHODS:
        raise DataError(f"unknown method '{method}': choose one of {', '.join(METHODS)}")
    windows = [1] if method == "raw" else [window] if isinstance(window, (int, float)) else list(window)
    for side in windows:
        check_window(side)
    if not windows:
        raise DataError("no window: give an odd number of patches, or several")
    return [int(side) for side in windows]


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles begin so that they cover 0…length, overlap by at least this share, and the last ends with the image."""
    count = 1 + int(np.ceil((length - tile) / max(tile * (1 - overlap), 1)))
    return sorted({int(round(start)) for start in np.linspace(0, length - tile, count)})


def _fade(length: int) -> np.ndarray:
    """Weights of a tile along one axis, (length,) float32: highest in the middle, nowhere 0."""
    return np.sin((np.arange(length, dtype=np.float32) + 0.5) * np.pi / length) + 1e-3
