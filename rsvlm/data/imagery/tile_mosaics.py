"""Mosaics of Web Mercator tiles: folders named `z/x/y.ext` or `x-y-z.ext`, and MBTiles.

All tiles of a zoom level are one source: a pixel grid that spans the world, most of it empty. `present` says which tiles are
there, `holes` which seem to be missing, `tile_getter` gives the bytes of one; `windows` puts their pixels together. Where
several zoom levels show a place, the one that suits the wanted resolution best is taken. Whatever the files say about
themselves is checked or cleaned first: names and numbers of tiles, and the metadata of MBTiles.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rsvlm.data.imagery.chip_layout import MERCATOR_M, Source, clean, fingerprint, footprints, measure, name_of, tile_code
from rsvlm.errors import DataError
from rsvlm.model import images

if TYPE_CHECKING:
    from rsvlm import config

_NESTED = re.compile(r"((?:.*/)?)(\d{1,2})/(\d{1,10})/(\d{1,10})(\.(?:jpe?g|png|webp))", re.IGNORECASE)
_FLAT = re.compile(r"((?:.*/)?(?:[^/]*[^0-9/])?)(\d{1,10})-(\d{1,10})-(\d{1,2})(\.(?:jpe?g|png|webp))", re.IGNORECASE)


def open_folder(path: Path, options: config.Chips) -> tuple[list[Source], list[tuple[str, int, str]]]:
    """Find the tiles in a folder, at any depth: one source per zoom level, and notes about names that make no sense.

    Raises:
        DataError: There are files named like tiles, but none can be used.
    """
    zooms, notes = _list_tiles(path)
    return _sources(path, "tiles", zooms, options, ""), notes


def open_mbtiles(path: Path, options: config.Chips) -> list[Source]:
    """Find the tiles of an MBTiles file: one source per zoom level.

    Raises:
        DataError: It is no MBTiles file, or none of its tiles can be used.
    """
    zooms, skipped = _list_mbtiles(path)
    with closing(_connect(path)) as database:
        try:
            rows = dict(
                database.execute("SELECT name, value FROM metadata WHERE name IN ('attribution', 'license')").fetchall()
            )
        except sqlite3.Error:
            rows = {}
    sources = _sources(path, "mbtiles", zooms, options, clean(rows.get("attribution")))
    if not sources:
        raise DataError(f"{path} has no tiles: it must have a table 'tiles' with zoom_level, tile_column, tile_row, tile_data")
    licence = clean(rows.get("license")) or "unknown"
    return [
        replace(source, licence=licence, notes=source.notes + (tuple(skipped) if i == 0 else ()))
        for i, source in enumerate(sources)
    ]


def _list_tiles(root: Path) -> tuple[dict[int, dict], list[tuple[str, int, str]]]:
    """Return for each zoom level `xy` (N, 2), `patterns`, `digest` and the first `files`; and notes on impossible names."""
    found: dict[int, dict] = {}
    impossible: list[str] = []
    for folder, folders, files in os.walk(root):
        folders.sort()
        for file in sorted(files):
            relative = Path(folder, file).relative_to(root).as_posix()
            if file.startswith("."):
                continue
            if match := _NESTED.fullmatch(relative):
                before, zoom, x, y, after = match.groups()
            elif match := _FLAT.fullmatch(relative):
                before, x, y, zoom, after = match.groups()
            else:
                continue
            nested = match.re is _NESTED
            x, y, zoom = int(x), int(y), int(zoom)
            if zoom > 30 or max(x, y) >= 1 << zoom:
                impossible.append(relative)
                continue
            group = found.setdefault(zoom, {"xy": set(), "patterns": {}, "digest": hashlib.sha256(), "files": []})
            group["xy"].add((x, y))
            group["patterns"][before, nested, after] = None
            group["digest"].update(f"{relative}\0{os.path.getsize(os.path.join(folder, file))}\n".encode())
            if len(group["files"]) < 16:
                group["files"].append((x, y))
    for zoom, group in found.items():
        if len(group["patterns"]) > 64:
            raise DataError(
                f"tiles of zoom level {zoom} in {root} are named in more than 64 ways: one prefix for all was expected"
            )
    notes = [("tile number beyond its zoom level", len(impossible), impossible[0])] if impossible else []
    return {zoom: _listed(group) for zoom, group in sorted(found.items())}, notes


def _listed(group: dict) -> dict:
    xy = np.array(sorted(group["xy"]), np.int64).reshape(-1, 2)
    return {"xy": xy, "patterns": tuple(group["patterns"]), "digest": group["digest"].hexdigest(), "files": group["files"]}


def _connect(path: Path) -> sqlite3.Connection:
    # Threads may ask it, one at a time.
    database = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA query_only = ON")
    return database


def _list_mbtiles(path: Path) -> tuple[dict[int, dict], list[tuple[str, int, str]]]:
    try:
        with closing(_connect(path)) as database:
            sizes = "typeof(zoom_level) = 'integer' AND typeof(tile_column) = 'integer' AND typeof(tile_row) = 'integer'"
            rows = database.execute(f"SELECT zoom_level, tile_column, tile_row FROM tiles WHERE {sizes}").fetchall()
            total = database.execute("SELECT count(*) FROM tiles").fetchone()[0]
    except sqlite3.Error as error:
        raise DataError(f"{path} is not a readable MBTiles file ({error})") from error
    table = np.array(
        [row for row in rows if 0 <= row[0] <= 30 and 0 <= row[1] < 1 << row[0] and 0 <= row[2] < 1 << row[0]], np.int64
    )
    zooms, digest = {}, fingerprint(path)
    for zoom in np.unique(table[:, 0]).tolist() if len(table) else []:
        xy = table[table[:, 0] == zoom, 1:]
        # Rows count from the south in MBTiles.
        xy = np.unique(np.stack([xy[:, 0], (1 << zoom) - 1 - xy[:, 1]], 1), axis=0)
        zooms[zoom] = {"xy": xy, "patterns": (), "digest": f"{digest}-{zoom}", "files": xy[:16].tolist()}
    bad = total - len(table)
    return zooms, [("tile number beyond its zoom level", bad, path.name)] if bad else []


def _sources(path: Path, kind: str, zooms: dict[int, dict], options: config.Chips, attribution: str) -> list[Source]:
    sources = {}
    for zoom, listed in zooms.items():
        source = Source(
            name=f"{name_of(path.stem)}-z{zoom}",
            path=str(path),
            kind=kind,
            licence="unknown",
            attribution=attribution,
            fingerprint=hashlib.sha256(listed["digest"].encode()).hexdigest(),
            crs="EPSG:3857",
            transform=(0.0, 0.0, 0.0, 0.0),
            width=0,
            height=0,
            min_valid_share=options.min_valid_share,
            zoom=zoom,
            patterns=listed["patterns"],
        )
        if tile_px := _tile_side(source, listed["files"]):
            side = tile_px << zoom
            pixel_m = 2 * MERCATOR_M / side
            transform = (-MERCATOR_M, pixel_m, MERCATOR_M, pixel_m)
            sources[zoom] = replace(source, tile_px=tile_px, width=side, height=side, transform=transform)
    if zooms and not sources:
        raise DataError(f"none of the tiles looked at in {path} is a square picture (JPEG, PNG or WebP) of 64 to 4096 pixels")
    order = _preferred(sources, zooms, options)
    result, covered = [], 0
    for place, zoom in enumerate(order):
        xy = _uncovered(zoom, tuple(order[:place]), zooms)
        covered += len(zooms[zoom]["xy"]) - len(xy)
        if len(xy):
            source = replace(sources[zoom], better_zooms=tuple(order[:place]))
            boxes = footprints(source, *(xy.T * source.tile_px).astype(float), *np.full((2, len(xy)), float(source.tile_px)))
            box = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
            result.append(replace(source, bbox_lonlat=box))
    if covered:
        result[0] = replace(result[0], notes=(("tile shows what a better zoom level shows", covered, path.name),))
    return result


def _tile_side(source: Source, candidates: Sequence) -> int:
    """Return the side of the first tile that can be read; 0: none can."""
    with tile_getter(source) as get:
        for x, y in candidates:
            try:
                width, height = images.read_size(get(x, y) or b"")
            except DataError:
                continue
            if width == height and 64 <= width <= 4096:
                return width
    return 0


def _preferred(sources: dict[int, Source], zooms: dict[int, dict], options: config.Chips) -> list[int]:
    if not options.size_m:
        return sorted(sources, reverse=True)
    wanted_m = options.size_m / options.size_px
    gsd_m = {}
    for zoom, source in sources.items():
        middle = (zooms[zoom]["xy"].mean(0, keepdims=True) + 0.5) * source.tile_px
        gsd_m[zoom] = float(measure(source, *middle.T)[2][0])
    fine = sorted(zoom for zoom in sources if gsd_m[zoom] <= wanted_m * 1.01)
    return fine + sorted(set(sources) - set(fine), reverse=True)


def _uncovered(zoom: int, better: tuple[int, ...], zooms: dict[int, dict]) -> np.ndarray:
    """Return tiles `(N, 2)` of a zoom level that are neither under a tile of a better one nor wholly under several."""
    xy = zooms[zoom]["xy"] if zoom in zooms else np.zeros((0, 2), np.int64)
    for other in (other for other in better if other in zooms):
        down, up = max(other - zoom, 0), max(zoom - other, 0)
        covers, counts = np.unique(tile_code(zooms[other]["xy"] >> down), return_counts=True)
        xy = xy[~np.isin(tile_code(xy >> up), covers[counts == 4**down])]
    return xy


def present(source: Source) -> np.ndarray:
    """Return columns and rows `(N, 2)` of the tiles that a source shows."""
    zooms, _ = (_list_tiles if source.kind == "tiles" else _list_mbtiles)(Path(source.path))
    return _uncovered(source.zoom, source.better_zooms, zooms)


def holes(xy: np.ndarray) -> np.ndarray:
    """Return missing tiles with at least two of their four neighbours present: gaps and missing corners, not the outside."""
    around = (xy[:, None] + np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])).reshape(-1, 2)
    near, counts = np.unique(around, axis=0, return_counts=True)
    return near[(counts >= 2) & ~np.isin(tile_code(near), tile_code(xy))]


@contextmanager
def tile_getter(source: Source) -> Iterator[Callable[[int, int], bytes | None]]:
    """Yield a function from column and row of a tile to its bytes; none: there is no such tile."""
    root, zoom = Path(source.path), source.zoom
    if source.kind == "tiles":

        def from_folder(x: int, y: int) -> bytes | None:
            for before, nested, after in source.patterns:
                try:
                    return (root / f"{before}{f'{zoom}/{x}/{y}' if nested else f'{x}-{y}-{zoom}'}{after}").read_bytes()
                except (FileNotFoundError, NotADirectoryError):
                    continue
            return None

        yield from_folder
        return
    with closing(_connect(root)) as database:
        query = "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ? AND length(tile_data) < 50000000"

        def from_database(x: int, y: int) -> bytes | None:
            try:
                row = database.execute(query, (zoom, int(x), (1 << zoom) - 1 - int(y))).fetchone()
            except sqlite3.Error as error:
                raise DataError(f"{root} cannot be read any further ({error}): copy or download it again") from error
            return None if row is None else row[0] if isinstance(row[0], bytes) else b""

        yield from_database
