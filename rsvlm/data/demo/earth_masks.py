"""Chips of the Blue Marble with true masks of what covers the ground, from the world map and measured colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rsvlm.data import shards
from rsvlm.data.demo import earth_kernels, earth_map
from rsvlm.errors import DataError
from rsvlm.model import images

COVERS = ("sea", "land", "lake", "ice", "desert", "other land")
"""Classes of the masks; land is ice, desert and other land."""


def read(
    folder: Path | str, split: str = "test", *, skipped: Counter | None = None, limit: int | None = None
) -> Iterator[tuple[str, bytes, dict[str, np.ndarray], dict]]:
    """Yield chips of the Blue Marble with masks of `COVERS`.

    Args:
        folder: Shards made by `earth.build`.
        split: Their split.
        skipped: Counts what was left out, by reason.
        limit: Number of chips, spread evenly over the split. If None, all.

    Yields:
        What a `true_masks.Item` consists of: the chip's key, its encoded picture, class → (S, S) bool, and `footprint_lonlat`.

    Raises:
        DataError: The folder has no such shards or split, or its chips do not say where they lie.
        MissingExtraError: The packages of [demo] are not installed.
    """
    mask = earth_map.load_mask()
    total = shards.count(folder, split)
    count = total if limit is None else min(limit, total)
    chosen = set(np.linspace(0, total - 1, count).round().astype(int).tolist())
    for number, sample in enumerate(shards.stream(folder, split, skipped=skipped)):
        if number not in chosen:
            continue
        box = sample.record.get("footprint_lonlat")
        if not isinstance(box, list) or len(box) != 4:
            raise DataError(f"{folder}: chip {sample.key} does not say where it lies: expected shards of earth.build")
        pixels = images.decode(sample.image)
        if pixels.shape[0] != pixels.shape[1]:
            raise DataError(f"{folder}: chip {sample.key} is {pixels.shape[1]} x {pixels.shape[0]} pixels, no square")
        cover = earth_kernels.sample_classes(mask, np.array([box], float), len(pixels))[0]
        yield sample.key, sample.image, cover_masks(cover, pixels), {"footprint_lonlat": box}


def cover_masks(cover: np.ndarray, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Tell the covers of the ground apart in one chip.

    Sea, land and lake are the world map's (GSHHG, at 1.25 arc-minutes). Ice and desert are land of a measured colour, of the mean
    over 3 × 3 pixels: ice has a luma of 150 or more and channels that differ by less than a fifth of it (what captions call white),
    desert is redder than green by more than 12 %, has a luma of 95 or more and is no ice (what they call sand, tan, light brown or
    orange), other land is the rest.

    Args:
        cover: `(S, S)`, uint8, classes of `earth_map`.
        pixels: `(S, S, 3)`, uint8.

    Returns:
        Class of `COVERS` → `(S, S)` bool; a class of fewer than four pixels is left out.

    Source: our choice; colours as in `earth_facts.colour_word`.
    """
    colour = _mean_of_neighbours(pixels)
    red, green, blue = np.moveaxis(colour, 2, 0)
    luma, land = 0.299 * red + 0.587 * green + 0.114 * blue, cover == earth_map.LAND
    ice = land & (luma >= 150) & (colour.max(2) - colour.min(2) < 0.2 * luma)
    desert = land & ~ice & (red > 1.12 * green) & (luma >= 95)
    masks = {
        "sea": cover == earth_map.SEA,
        "land": land,
        "lake": cover == earth_map.LAKE,
        "ice": ice,
        "desert": desert,
        "other land": land & ~ice & ~desert,
    }
    return {name: mask for name, mask in masks.items() if mask.sum() >= 4}


def _mean_of_neighbours(pixels: np.ndarray) -> np.ndarray:
    """Mean over the window of 3 × 3 pixels around each, cut at the edges: (S, S, 3) uint8 → (S, S, 3) float32."""
    sums, counts = (
        sliding_window_view(np.pad(values, ((1, 1), (1, 1), (0, 0))), (3, 3), axis=(0, 1)).sum((-2, -1), dtype=np.float32)
        for values in (pixels, np.ones_like(pixels))
    )
    return sums / counts
