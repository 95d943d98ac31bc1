"""Which way the rows of tiles count: from the north, as XYZ does, or from the south, as TMS and MBTiles do.

Nothing in a tile's number tells. So what lies beside the tiles is asked (`read_statement`: tilemapresource.xml, TileJSON, the
metadata of MBTiles), bounds before words, since both orders put tiles at places that can be compared with them. Where nothing is
said, the pictures are: tiles that are neighbours continue each other. A wrong order puts imagery on the other hemisphere, so whatever
had to be guessed is logged once, with the option that decides it.
"""

from __future__ import annotations

import json
import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsvlm.data.imagery.chip_layout import MERCATOR_M
from rsvlm.errors import DataError
from rsvlm.model import images

log = logging.getLogger(__name__)

FILES = ("tilemapresource.xml", "tilejson.json", "tiles.json", "metadata.json")
"""Files beside tiles that may say how their rows count, the surest first."""

NORTH, SOUTH, ROWS_FIRST = "xyz", "tms", "zyx"
_MOST_BYTES = 1_000_000
_LOOKED_AT = 200_000  # tiles among which neighbours are looked for
_PAIRS = 24  # neighbours that are compared
_SURE = 0.6  # a seam is that of neighbours where it differs less than this share of the other order's
_MERCATOR = ("EPSG:3857", "EPSG:900913", "OSGEO:41001", "EPSG:3785")


@dataclass(frozen=True)
class Statement:
    """What is said of tiles.

    Attributes:
        rows: `xyz`, `tms`, `zyx` (the folders are rows, from the north), or empty where it is not said.
        bounds: West, south, east, north in degrees. If None, they are not said.
        other_grid: What grid they are of, where that is not Web Mercator; else empty.
        file: Name of the file that says it.
    """

    rows: str = ""
    bounds: tuple[float, float, float, float] | None = None
    other_grid: str = ""
    file: str = ""


def read_statement(folder: Path) -> Statement:
    """Read what the files beside tiles say; of those that say nothing usable, nothing.

    Args:
        folder: Folder with the folders of zoom levels, or with the tiles.
    """
    for name in FILES:
        path = folder / name
        try:
            if not path.is_file() or path.stat().st_size > _MOST_BYTES:
                continue
            statement = _of_xml(path.read_bytes(), name) if name.endswith(".xml") else of_json(path.read_bytes(), name)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, ElementTree.ParseError):
            continue
        if statement.rows or statement.bounds or statement.other_grid:
            return statement
    return Statement()


def _of_xml(data: bytes, name: str) -> Statement:
    # No such file needs entities, and those can be made to fill the memory.
    if b"<!" in data.replace(b"<!--", b""):
        return Statement()
    root = ElementTree.fromstring(data)
    sets, box = root.find("TileSets"), root.find("BoundingBox")
    profile = (sets.get("profile") or "").lower() if sets is not None else ""
    system = (root.findtext("SRS") or "").strip().upper()
    if profile in ("geodetic", "raster") or (system and system not in _MERCATOR and "mercator" not in profile):
        return Statement(other_grid=profile or system[:40], file=name)
    bounds = None
    if box is not None:
        bounds = _bounds([box.get(edge) for edge in ("minx", "miny", "maxx", "maxy")])
    return Statement(SOUTH, bounds, file=name)


def of_json(data: bytes | Mapping, name: str) -> Statement:
    """Read TileJSON, or the metadata of MBTiles, whose `scheme` and `bounds` are the same."""
    content = data if isinstance(data, Mapping) else json.loads(data)
    scheme = str(content.get("scheme") or "").lower()
    templates = content.get("tiles") if isinstance(content.get("tiles"), list) else []
    if any("{-y}" in str(template) for template in templates):
        scheme = SOUTH
    if any("{z}/{y}/{x}" in str(template) for template in templates):
        scheme = ROWS_FIRST
    stated = content.get("bounds")
    bounds = _bounds(stated.split(",") if isinstance(stated, str) else stated) if stated else None
    return Statement(scheme if scheme in (NORTH, SOUTH, ROWS_FIRST) else "", bounds, file=name)


def _bounds(values) -> tuple[float, float, float, float] | None:
    """Return bounds in degrees of four numbers in degrees or in metres of Web Mercator; None where they are none."""
    try:
        x0, y0, x1, y1 = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    if not np.isfinite([x0, y0, x1, y1]).all():
        return None
    if max(map(abs, (x0, y0, x1, y1))) > 360:
        x0, x1 = (value / MERCATOR_M * 180 for value in (x0, x1))
        y0, y1 = (float(np.degrees(np.arctan(np.sinh(value / MERCATOR_M * np.pi)))) for value in (y0, y1))
    return (x0, y0, x1, y1) if x0 <= x1 and y0 <= y1 else None


def folders_are_rows(
    asked: str,
    statement: Statement,
    levels: Mapping[int, np.ndarray],
    get: Callable[[int, int, int], bytes | None],
    label: str,
) -> bool:
    """Decide whether the folders of tiles are rows (`z/y/x`, as ArcGIS numbers them), where `z/x/y` is usual; as `count_from_south`."""
    if asked != "auto" or statement.rows:
        return (statement.rows if asked == "auto" else asked) == ROWS_FIRST
    if statement.bounds:
        swapped = {zoom: xy[:, ::-1] for zoom, xy in levels.items()}
        if _orders_within(levels, statement.bounds) or NORTH not in _orders_within(swapped, statement.bounds):
            return False
    elif not _continue_sideways(levels, get):
        return False
    log.warning(
        "%s: %s as z/y/x, rows for folders, which is taken: chips.tile_rows (--tile-rows of `rsvlm search`) decides",
        label, f"the bounds of {statement.file} fit" if statement.bounds else "their pictures continue each other",
    )  # fmt: skip
    return True


def _continue_sideways(levels: Mapping[int, np.ndarray], get: Callable[[int, int, int], bytes | None]) -> bool:
    """Whether pictures of tiles of one folder continue each other from left to right, and not from above to below."""
    below = aside = 0.0
    for zoom, xy in levels.items():
        for first, second in _neighbours(zoom, xy, get):
            below += min(float(np.abs(a[-1] - b[0]).mean()) for a, b in ((first, second), (second, first)))
            aside += float(np.abs(first[:, -1] - second[:, 0]).mean())
    return below > 5 and aside < _SURE * below


def count_from_south(
    asked: str,
    statement: Statement,
    levels: Mapping[int, np.ndarray],
    get: Callable[[int, int, int], bytes | None] | None,
    label: str,
    usual: str = NORTH,
) -> bool:
    """Decide whether rows of tiles count from the south.

    Args:
        asked: What somebody asked for: `xyz`, `tms`, `zyx` or `auto`.
        statement: What is said of the tiles.
        levels: Columns and rows `(N, 2)` of the tiles of each zoom level, as they are numbered.
        get: Function from zoom level, column and row, as they are numbered, to the bytes of a tile. If None, no picture is looked at.
        label: Name of the tiles in messages.
        usual: Order that is taken where nothing tells.
    """
    if asked != "auto":
        return asked == SOUTH
    option = "chips.tile_rows (--tile-rows of `rsvlm search`)"
    by_bounds = _by_bounds(levels, statement.bounds) if statement.bounds else ""
    if by_bounds:
        if statement.rows and by_bounds != statement.rows:
            log.warning(
                "%s: %s says that rows count as %s, but its bounds fit %s alone, which is taken: %s decides",
                label, statement.file, statement.rows.upper(), by_bounds.upper(), option,
            )  # fmt: skip
        return by_bounds == SOUTH
    if statement.rows:
        return statement.rows == SOUTH
    if all(_mirrored(zoom, xy) for zoom, xy in levels.items()):
        return usual == SOUTH
    by_seams = _by_seams(levels, get) if get else ""
    if by_seams and by_seams != usual:
        log.warning(
            "%s: nothing says which way rows of tiles count; their pictures continue each other as %s, which is taken: %s decides",
            label, by_seams.upper(), option,
        )  # fmt: skip
    elif not by_seams and get:
        places = [f"{place} as {order.upper()}" for order in (NORTH, SOUTH) for place in [_place(levels, order)]]
        log.warning(
            "%s: nothing says which way rows of tiles count (%s); %s is taken: %s decides",
            label, ", ".join(places), usual.upper(), option,
        )  # fmt: skip
    return (by_seams or usual) == SOUTH


def _mirrored(zoom: int, xy: np.ndarray) -> bool:
    """Whether both orders put the tiles of a zoom level at the same places."""
    rows = np.unique(xy[:, 1])
    return np.array_equal(rows, np.unique((1 << zoom) - 1 - rows))


def _box(zoom: int, xy: np.ndarray, order: str) -> tuple[float, float, float, float]:
    """Return west, south, east, north in degrees of tiles whose rows count in an order."""
    side, rows = 1 << zoom, xy[:, 1] if order == NORTH else (1 << zoom) - 1 - xy[:, 1]
    west, east = (float(column) / side * 360 - 180 for column in (xy[:, 0].min(), xy[:, 0].max() + 1))
    north, south = (
        float(np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * float(row) / side))))) for row in (rows.min(), rows.max() + 1)
    )
    return west, south, east, north


def _place(levels: Mapping[int, np.ndarray], order: str) -> str:
    zoom = max(levels)
    _, south, _, north = _box(zoom, levels[zoom], order)
    middle = (south + north) / 2
    return f"{abs(middle):.2f}° {'N' if middle >= 0 else 'S'}"


def _by_bounds(levels: Mapping[int, np.ndarray], bounds: tuple[float, float, float, float]) -> str:
    """Return the one order that puts the tiles where the bounds are; empty where both do, or neither."""
    fits = _orders_within(levels, bounds)
    return fits[0] if len(fits) == 1 else ""


def _orders_within(levels: Mapping[int, np.ndarray], bounds: tuple[float, float, float, float]) -> list[str]:
    """Return the orders, of none, one or both, that put the tiles where the bounds are."""
    zoom = max(levels)
    x0, y0, x1, y1 = bounds
    # Older writers put latitude first.
    for west, south, east, north in ((x0, y0, x1, y1), (y0, x0, y1, x1)):
        fits = []
        for order in (NORTH, SOUTH):
            w, s, e, n = _box(zoom, levels[zoom], order)
            # More than an edge in common, where there is more.
            room = 1e-6 * (n - s)
            fits += [order] * (w <= east and e >= west and s + room < max(north, south + 2 * room) and n - room > south)
        if fits:
            return fits
    return []


def _neighbours(
    zoom: int, xy: np.ndarray, get: Callable[[int, int, int], bytes | None]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give pictures of some pairs of tiles of one column, one row number after the other, of one shape: `(H, W, 3)` float32."""
    there = set(map(tuple, xy[:_LOOKED_AT].tolist()))
    pairs = [(x, y) for x, y in sorted(there) if (x, y + 1) in there]
    for x, y in pairs[:: max(1, len(pairs) // _PAIRS)][:_PAIRS]:
        try:
            first, second = (images.decode(get(zoom, x, row) or b"").astype(np.float32) for row in (y, y + 1))
        except DataError:
            continue
        if first.shape == second.shape:
            yield first, second


def _by_seams(levels: Mapping[int, np.ndarray], get: Callable[[int, int, int], bytes | None]) -> str:
    """Return the order in which pictures of tiles above each other continue; empty where that does not show."""
    seams = {NORTH: 0.0, SOUTH: 0.0}
    for zoom in sorted(levels, reverse=True):
        for first, second in _neighbours(zoom, levels[zoom], get):
            seams[NORTH] += float(np.abs(first[-1] - second[0]).mean())
            seams[SOUTH] += float(np.abs(second[-1] - first[0]).mean())
        if max(seams.values()) > 5:
            break
    best, other = sorted(seams, key=seams.get)
    return best if seams[other] > 5 and seams[best] < _SURE * seams[other] else ""
