"""Where chips may lie: splits that stay apart on the ground, and footprints of benchmarks that nothing may touch."""

from __future__ import annotations

import functools
import hashlib
import io
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rsvlm.data.imagery import ground
from rsvlm.data.maps import files as map_files
from rsvlm.errors import ConfigError, DataError, need

shapely = need("shapely", "data")
h3 = need("h3.api.basic_int", "data")

if TYPE_CHECKING:
    from rsvlm import config

SPLITS = ("train", "val", "test")
MOST_TURNED_DEG = 6.0
"""Chips whose upper edge is turned further from true north are dropped: their captions would name wrong directions."""
TURNED = f"up is more than {MOST_TURNED_DEG:g} degrees from true north: warp the imagery, for instance to its UTM zone"
log = logging.getLogger(__name__)

_EDGES = ["west", "south", "east", "north"]
_GUARD_STEPS = 13  # points along each side of the square in which a chip looks for cells held back: a quarter chip apart


def assign(
    chips: pd.DataFrame, options: config.Chips, seed: int, outlines: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Put chips into splits by the H3 cell of their centres, and keep the splits apart.

    A cell goes to a split by a hash of its number and the seed, so that a cell is in the same split in every data set made with
    this seed, however much imagery is added. A chip that comes nearer than its own side to a cell of a later split (`train` before
    `val` before `test`) is dropped: no pixel of it, and none of its neighbours, is in a held-back chip.

    Args:
        chips: Chip table; `lon lat west south east north` in degrees, `gsd_m`, `size_px`.
        options: `h3_resolution`, `test_share` and `val_share`.
        seed: Seed of the draw.
        outlines: `(N, 4k, 2)`, outlines of the chips, as of `imagery.ground.outlines`. If None, their boxes in degrees.

    Returns:
        `(N,)` names of splits, and `(N,)` reasons for dropping a chip, empty where it stays.

    Raises:
        ConfigError: The shares leave nothing for training, or cells are smaller than chips.
        MissingExtraError: h3 is not installed.

    Source:
        Our choice; H3 is Uber's hexagonal grid of the globe.
    """
    if options.test_share + options.val_share >= 1:
        raise ConfigError("chips.test_share and chips.val_share add up to 1 or more: leave cells for training")
    resolution = options.h3_resolution
    edge_m = h3.average_hexagon_edge_length(resolution, unit="m")
    side_m = float((chips["gsd_m"] * chips["size_px"]).max()) if len(chips) else 0.0
    if side_m > edge_m and options.test_share + options.val_share > 0:
        fits = [r for r in range(resolution) if h3.average_hexagon_edge_length(r, unit="m") >= side_m]
        hint = f"give {fits[-1]} or less" if fits else "make chips smaller"
        raise ConfigError(
            f"chips.h3_resolution={resolution} makes cells with sides of {edge_m:,.0f} m, but chips are {side_m:,.0f} m wide: {hint}"
        )
    cell = functools.partial(_cells, resolution=resolution)
    draw = functools.cache(functools.partial(_draw, options=options, seed=seed))

    def rank(cells: np.ndarray) -> np.ndarray:
        unique, where = np.unique(cells, return_inverse=True)
        return np.array(list(map(draw, unique.tolist())), np.int8)[where].reshape(cells.shape)

    own = rank(cell(chips["lat"].to_numpy(), chips["lon"].to_numpy()))
    reasons = np.full(len(chips), "", object)
    # Cells are convex: where all corners of the chip with its own side around it are in one cell, all of it is.
    frames = _outlines(chips, outlines)
    lat, lon = _around(frames, np.array([-1.0, 2, -1, 2]), np.array([-1.0, -1, 2, 2]))
    corners = cell(lat.ravel(), lon.ravel()).reshape(lat.shape)
    border = np.flatnonzero((corners != corners[:, :1]).any(axis=1))
    for part in np.array_split(border, max(1, len(border) // 5000)):
        lat, lon = _rings(frames[part])
        near = rank(cell(lat.ravel(), lon.ravel())).reshape(lat.shape)
        close = near.max(axis=1) > own[part] if len(part) else np.zeros(0, bool)
        reasons[part[close]] = "nearer than one chip to a cell of another split"
    return np.array(SPLITS, object)[own], reasons


def _draw(cell: int, options: config.Chips, seed: int) -> int:
    share = int.from_bytes(hashlib.sha256(f"{seed} {cell:x}".encode()).digest()[:8], "big") / 2**64
    return 2 if share < options.test_share else 1 if share < options.test_share + options.val_share else 0


def _cells(lat: np.ndarray, lon: np.ndarray, resolution: int) -> np.ndarray:
    points = zip(lat.tolist(), lon.tolist(), strict=True)
    return np.fromiter((h3.latlng_to_cell(y, x, resolution) for y, x in points), np.uint64, len(lat))


def _outlines(chips: pd.DataFrame, outlines: np.ndarray | None) -> np.ndarray:
    return ground.box_rings(chips[_EDGES].to_numpy(float)) if outlines is None else outlines


def _around(frames: np.ndarray, across: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return latitudes and longitudes, (N, points), of places in and around outlines `(N, 4k, 2)`.

    `across` and `down`, (points,), are shares of a chip's sides from its upper left corner.
    """
    nw, ne, se, sw = (corner[:, None] for corner in np.moveaxis(frames[:, :: frames.shape[1] // 4], 1, 0))
    x, y = across[None, :, None], down[None, :, None]
    places = (1 - y) * ((1 - x) * nw + x * ne) + y * ((1 - x) * sw + x * se)
    return places[..., 1].clip(-90, 90), places[..., 0]


def _rings(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return latitudes and longitudes, (N, points), on the border of chips with their own side around them, and in their middle."""
    steps = np.linspace(-1, 2, _GUARD_STEPS)
    x, y = (part.ravel() for part in np.meshgrid(steps, steps))
    # The middle third is the chip; a cell that touches the square, but neither its border nor the chip, would be smaller than both.
    ends = (-1, 2)
    looked_at = np.isin(x, ends) | np.isin(y, ends) | (np.isin(x, steps[::3]) & np.isin(y, steps[::3]))
    return _around(frames, x[looked_at], y[looked_at])


def excluded(chips: pd.DataFrame, paths: Sequence[str | Path], outlines: np.ndarray | None = None) -> np.ndarray:
    """Say which chips touch footprints that must stay out of the data, those of benchmarks above all.

    Args:
        chips: Chip table.
        paths: GeoJSON files of polygons or boxes, in degrees unless their member `crs` says otherwise, or CSV files with columns
            `west south east north` in degrees.
        outlines: As in `assign`.

    Returns:
        `(N,)` reasons, empty where a chip touches none; a reason names the file.

    Raises:
        DataError: A file is missing, holds no footprint, or something that is none.
    """
    reasons = np.full(len(chips), "", object)
    frames = _outlines(chips, outlines)
    for path in paths:
        footprints = read_footprints(path)
        tree = shapely.STRtree(footprints)
        for turn in (-360.0, 0.0, 360.0):  # the same place by its other name, for what crosses 180 degrees
            hit = np.unique(tree.query(shapely.polygons(frames + [turn, 0]), predicate="intersects")[0])
            reasons[hit] = f"touches a footprint of {Path(path).name}"
    return reasons


def read_footprints(path: str | Path) -> np.ndarray:
    """Read footprints to keep out, as an array of shapely geometry in degrees; errors as `excluded`."""
    path = Path(path)
    wants = "a GeoJSON file, or a CSV file with the columns west, south, east, north"
    try:
        if path.suffix.lower() == ".csv":
            table = pd.read_csv(io.StringIO(map_files.text_of(path, None)))
            table.columns = [str(name).strip().lower() for name in table.columns]
            west, south, east, north = (pd.to_numeric(table[edge]).to_numpy(float) for edge in _EDGES)
            footprints = shapely.box(west, south, np.where(east < west, east + 360, east), north)
            if not np.isfinite([west, south, east, north]).all():
                raise ValueError("a cell without a number")
        else:
            if not path.is_file():
                raise FileNotFoundError
            counts: Counter = Counter()
            footprints = np.array([raw.geometry for raw in map_files.read_geojson(path, counts, {})], object)
            if counts:
                raise ValueError(", ".join(f"{number} {reason}" for reason, number in counts.items()))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: --exclude takes {wants}") from None
    except (OSError, ValueError, KeyError, TypeError, DataError, shapely.errors.ShapelyError) as error:
        raise DataError(f"{path} cannot be read as footprints ({error}): give {wants}") from None
    nowhere = shapely.is_empty(footprints) | shapely.is_missing(footprints)
    if nowhere.any():
        log.warning(
            "%s: %d of %d footprints have no geometry: nothing is kept out for them", path, nowhere.sum(), len(nowhere)
        )
    footprints = footprints[~nowhere]
    if not len(footprints):
        raise DataError(f"{path} holds no footprint: give {wants}")
    low_x, low_y, high_x, high_y = shapely.total_bounds(footprints)
    if not (-360 <= low_x <= high_x <= 540 and -90 <= low_y <= high_y <= 90):
        raise DataError(f"{path} reaches from {low_x:g}, {low_y:g} to {high_x:g}, {high_y:g}: footprints are in degrees")
    return shapely.make_valid(footprints)


def select(
    chips: pd.DataFrame, options: config.Config, exclude: Sequence[str | Path] = (), outlines: np.ndarray | None = None
) -> tuple[pd.DataFrame, list[dict]]:
    """Choose which chips are worked on.

    Args:
        chips: Chip table.
        options: `chips` and `seed` of them.
        exclude: See `excluded`.
        outlines: As in `assign`.

    Returns:
        The chips that stay, in their order and with a column `split`; and what was rejected, as in `shards.Made.rejected`.

    Raises:
        ConfigError: See `splits`.
        DataError: See `excluded`.
    """
    footprints = excluded(chips, exclude, outlines)
    split, near = assign(chips, options.chips, options.seed, outlines)
    chips = chips.assign(split=split)
    up_deg = chips["up_deg"].to_numpy(float) if "up_deg" in chips else np.zeros(len(chips))
    turned = np.abs((up_deg + 180) % 360 - 180) > MOST_TURNED_DEG
    cases = [turned, footprints != "", near != ""]
    stage = np.select(cases, ["turned", "footprints", "split"], "")
    reason = np.select(cases, [np.full(len(chips), TURNED, object), footprints, near], "")
    gone = pd.DataFrame({"key": chips["key"], "split": split, "stage": stage.astype(object), "reason": reason})
    before = gone[stage != ""].to_dict("records")
    chips = chips[stage == ""]
    most = options.chips.max_chips
    if most is not None and len(chips) > most:
        drawn = np.sort(np.random.default_rng([options.seed, 1]).choice(len(chips), most, replace=False))
        left = Counter(chips["split"]) - Counter(chips["split"].iloc[drawn])
        why = "beyond chips.max_chips"
        before += [{"split": name, "stage": "sample", "reason": why, "n": n} for name, n in left.items()]
        chips = chips.iloc[drawn]
    return chips.reset_index(drop=True), before


THIN = "no chip is in the split"
"""How a line of `thin` begins."""


def thin(chips: pd.DataFrame, options: config.Chips) -> list[str]:
    """Say which splits were asked for and hold no chip."""
    shares = {"train": 1.0, "val": options.val_share, "test": options.test_share}
    absent = [split for split in SPLITS if shares[split] > 0 and not (chips["split"] == split).any()]
    if not absent:
        return []
    return [
        f"{THIN} {' or '.join(absent)}: the area has few H3 cells of resolution {options.h3_resolution}; "
        "raise chips.h3_resolution, or choose another --seed, or chips.val_share and chips.test_share"
    ]
