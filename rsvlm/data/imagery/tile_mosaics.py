"""Mosaics of Web Mercator tiles: folders named `z/x/y.ext`, `z/y/x.ext` or `x-y-z.ext`, and MBTiles.

All tiles of a zoom level are one source: a pixel grid that spans the world, most of it empty. `present` says which tiles are
there, `holes` which seem to be missing, `tile_getter` gives the bytes of one; `windows` puts their pixels together. Where
several zoom levels show a place, the one that suits the wanted resolution best is taken. Rows count from the north here; which
files count them from the south, or have rows for folders, is decided in `tile_rows`. Whatever the files say about themselves is checked or cleaned first:
names and numbers of tiles, and the metadata of MBTiles.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rsvlm.data.imagery import tile_rows
from rsvlm.data.imagery.chip_layout import MERCATOR_M, Source, clean, fingerprint, footprints, measure, name_of, tile_code
from rsvlm.errors import DataError
from rsvlm.model import images

if TYPE_CHECKING:
    from rsvlm import config

_IMAGE = r"(?P<after>\.(?:jpe?g|png|webp))"
_NESTED = re.compile(r"(?P<before>(?:.*/)?)(?P<zoom>\d{1,2})/(?P<x>\d{1,10})/(?P<y>\d{1,10})" + _IMAGE, re.IGNORECASE)
_FLAT = re.compile(
    r"(?P<before>(?:.*/)?(?:[^/]*[^0-9/])?)(?P<x>\d{1,10})-(?P<y>\d{1,10})-(?P<zoom>\d{1,2})" + _IMAGE, re.IGNORECASE
)
_CHECKED = " AND ".join(
    ["typeof(zoom_level) = 'integer' AND zoom_level BETWEEN 0 AND 30"]
    + [f"typeof({name}) = 'integer' AND {name} BETWEEN 0 AND (1 << zoom_level) - 1" for name in ("tile_column", "tile_row")]
)
_TILE = (
    "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ? AND length(tile_data) < 50000000"
)
BEYOND = "tile number beyond its zoom level"
TWICE = "tile number there twice, under two names: the first is shown"
OTHER_GRID = "tile of another grid than Web Mercator: cut it again, as with gdal2tiles --profile=mercator"


class _Level(NamedTuple):
    """Tiles of one zoom level: columns and rows (N, 2), those of a few to look at, a digest, and `patterns` as in `Source`."""

    xy: np.ndarray
    first: list
    digest: str
    patterns: tuple[tuple[str, bool, str], ...] = ()


def open_folder(path: Path, options: config.Chips) -> tuple[list[Source], list[tuple[str, int, str]]]:
    """Find the tiles in a folder, at any depth: one source per zoom level, and notes about names that make no sense.

    Raises:
        DataError: There are files named like tiles, but none can be used.
    """
    files, statements, notes = _usable(path)
    south, rows_first, sets = [], [], defaultdict(dict)
    for file in files:
        sets[file.before][file.zoom, file.x, file.y] = file.name
    for before, names in sets.items():
        numbered = {zoom: np.array([xy for z, *xy in names if z == zoom]) for zoom in {number[0] for number in names}}

        def get(*number: int, names: dict = names) -> bytes | None:
            return (path / names[number]).read_bytes()

        nested = all("/" in name[len(before) :] for name in names.values())
        if nested and tile_rows.folders_are_rows(
            options.tile_rows, statements[before], numbered, get, f"tiles in {path / before}"
        ):
            rows_first.append(before)
        elif tile_rows.count_from_south(options.tile_rows, statements[before], numbered, get, f"tiles in {path / before}"):
            south.append(before)
    levels, twice = _levels(path, files, south, rows_first)
    notes += [(TWICE, len(twice), twice[0])] if twice else []
    return _sources(path, "tiles", levels, options, tuple(south), tuple(rows_first)), notes


def open_mbtiles(path: Path, options: config.Chips) -> list[Source]:
    """Find the tiles of an MBTiles file: one source per zoom level.

    Raises:
        DataError: It is no MBTiles file, or none of its tiles can be used.
    """
    rows, notes = _list_mbtiles(path)
    wanted = "name IN ('attribution', 'license', 'scheme', 'bounds')"
    with closing(_connect(path)) as database:
        try:
            about = dict(database.execute(f"SELECT name, value FROM metadata WHERE {wanted}"))
        except sqlite3.Error:
            about = {}
    # By the standard of MBTiles rows count from the south, but not every writer keeps to it.
    statement = tile_rows.of_json(about, "metadata")
    numbered = {zoom: rows[rows[:, 0] == zoom, 1:] for zoom in np.unique(rows[:, 0]).tolist()}
    south = bool(numbered) and tile_rows.count_from_south(
        options.tile_rows, statement, numbered, _getter_of(path), path.name, usual=tile_rows.SOUTH
    )
    levels = _levels_of_mbtiles(path, rows, south)
    sources = _sources(path, "mbtiles", levels, options, ("",) if south else ())
    if not sources:
        raise DataError(f"{path} has no tiles: it must have a table 'tiles' with zoom_level, tile_column, tile_row, tile_data")
    stated = {"licence": clean(about.get("license")) or "unknown", "attribution": clean(about.get("attribution"))}
    first, *others = (replace(source, **stated) for source in sources)
    return [replace(first, notes=(*first.notes, *notes)), *others]


class _File(NamedTuple):
    """A file named like a tile, and what its name says; the row as it is numbered there."""

    name: str
    before: str
    nested: bool
    after: str
    zoom: int
    x: int
    y: int


def _walk(root: Path) -> tuple[list[_File], list[str]]:
    """Return the files in a folder that are named like tiles, in order, and the names that are impossible."""
    files, impossible = [], []
    for folder, folders, names in os.walk(root):
        folders.sort()
        for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            relative = path.relative_to(root).as_posix()
            match = _NESTED.fullmatch(relative) or _FLAT.fullmatch(relative)
            if not match:
                continue
            zoom, x, y = (int(match[number]) for number in ("zoom", "x", "y"))
            if zoom > 30 or max(x, y) >= 1 << zoom:
                impossible.append(relative)
                continue
            files.append(_File(relative, match["before"], match.re is _NESTED, match["after"], zoom, x, y))
    return files, impossible


def _usable(root: Path) -> tuple[list[_File], dict[str, tile_rows.Statement], list[tuple[str, int, str]]]:
    """Return the tiles of Web Mercator in a folder, what is said of them by what stands before their numbers, and notes."""
    files, impossible = _walk(root)
    notes = [(BEYOND, len(impossible), impossible[0])] if impossible else []
    counts = Counter(file.before for file in files)
    folders = {folder: tile_rows.read_statement(root / folder) for folder in {before.rpartition("/")[0] for before in counts}}
    statements = {before: folders[before.rpartition("/")[0]] for before in counts}
    for before, statement in statements.items():
        if statement.other_grid:
            notes.append((OTHER_GRID, counts[before], f"{before}{statement.file}: {statement.other_grid}"))
    files = [file for file in files if not statements[file.before].other_grid]
    return files, {before: said for before, said in statements.items() if not said.other_grid}, notes


def _levels(
    root: Path, files: Sequence[_File], south: Collection[str], rows_first: Collection[str]
) -> tuple[dict[int, _Level], list[str]]:
    """Return the tiles of each zoom level, rows counted from the north, and names of files whose number is there already.

    Args:
        root: Their folder.
        files: Files named like tiles.
        south: What stands before the numbers of those whose rows count from the south.
        rows_first: What stands before the numbers of those whose folders are rows.
    """
    places, patterns, digests = defaultdict(dict), defaultdict(dict), defaultdict(hashlib.sha256)
    twice = []
    for file in files:
        column, row = (file.y, file.x) if file.before in rows_first else (file.x, file.y)
        row = (1 << file.zoom) - 1 - row if file.before in south else row
        if (column, row) in places[file.zoom]:
            twice.append(file.name)
        places[file.zoom][column, row] = None
        patterns[file.zoom][file.before, file.nested, file.after] = None
        digests[file.zoom].update(f"{file.name}\0{(root / file.name).stat().st_size}\n".encode())
    levels = {}
    for zoom, xy in sorted(places.items()):
        if len(patterns[zoom]) > 64:
            raise DataError(f"tiles of zoom level {zoom} in {root} are named in more than 64 ways: give all one prefix")
        first = list(xy)[:16]
        levels[zoom] = _Level(np.array(sorted(xy), np.int64), first, digests[zoom].hexdigest(), tuple(patterns[zoom]))
    return levels, twice


def _connect(path: Path) -> sqlite3.Connection:
    # Threads may ask it, one at a time.
    database = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA query_only = ON")
    return database


def _list_mbtiles(path: Path) -> tuple[np.ndarray, list[tuple[str, int, str]]]:
    """Return zoom levels, columns and rows `(N, 3)` of tiles, rows as they are numbered, and notes on impossible numbers."""
    try:
        with closing(_connect(path)) as database:
            rows = database.execute(f"SELECT zoom_level, tile_column, tile_row FROM tiles WHERE {_CHECKED}").fetchall()
            bad = database.execute("SELECT count(*) FROM tiles").fetchone()[0] - len(rows)
    except sqlite3.Error as error:
        raise DataError(f"{path} is not a readable MBTiles file ({error})") from error
    return np.array(rows, np.int64).reshape(-1, 3), [(BEYOND, bad, path.name)] if bad else []


def _levels_of_mbtiles(path: Path, rows: np.ndarray, south: bool) -> dict[int, _Level]:
    """Return the tiles of each zoom level, rows counted from the north."""
    levels, digest = {}, fingerprint(path)
    for zoom in np.unique(rows[:, 0]).tolist():
        _, x, y = rows[rows[:, 0] == zoom].T
        xy = np.unique(np.stack([x, (1 << zoom) - 1 - y if south else y], 1), axis=0)
        levels[zoom] = _Level(xy, xy[:16].tolist(), f"{digest}-{zoom}")
    return levels


def _getter_of(path: Path) -> Callable[[int, int, int], bytes | None]:
    """Return the function from zoom level, column and row, as numbered in an MBTiles file, to the bytes of that tile."""

    def get(zoom: int, x: int, y: int) -> bytes | None:
        with closing(_connect(path)) as database:
            row = database.execute(_TILE, (int(zoom), int(x), int(y))).fetchone()
        return row[0] if row and isinstance(row[0], bytes) else None

    return get


def _sources(
    path: Path,
    kind: str,
    levels: dict[int, _Level],
    options: config.Chips,
    south: tuple[str, ...],
    rows_first: tuple[str, ...] = (),
) -> list[Source]:
    sources = {}
    for zoom, level in levels.items():
        source = Source(
            name=f"{name_of(path.stem)}-z{zoom}", path=str(path), kind=kind, licence="unknown", attribution="",
            fingerprint=hashlib.sha256(level.digest.encode()).hexdigest(), crs="EPSG:3857", transform=(0.0, 0.0, 0.0, 0.0),
            width=0, height=0, min_valid_share=options.min_valid_share, zoom=zoom, patterns=level.patterns,
            south_first=south, rows_first=rows_first,
        )  # fmt: skip
        if tile_px := _tile_side(source, level.first):
            side = tile_px << zoom
            pixel_m = 2 * MERCATOR_M / side
            transform = (-MERCATOR_M, pixel_m, MERCATOR_M, pixel_m)
            sources[zoom] = replace(source, tile_px=tile_px, width=side, height=side, transform=transform)
    if levels and not sources:
        raise DataError(f"none of the tiles looked at in {path} is a square picture (JPEG, PNG or WebP) of 64 to 4096 pixels")
    order = _preferred(sources, levels, options)
    result, covered = [], 0
    for place, zoom in enumerate(order):
        xy = _uncovered(zoom, order[:place], levels)
        covered += len(levels[zoom].xy) - len(xy)
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


def _preferred(sources: dict[int, Source], levels: dict[int, _Level], options: config.Chips) -> list[int]:
    if not options.size_m:
        return sorted(sources, reverse=True)
    wanted_m = options.size_m / options.size_px
    middles = {zoom: (levels[zoom].xy.mean(0, keepdims=True) + 0.5) * source.tile_px for zoom, source in sources.items()}
    fine = sorted(zoom for zoom in sources if measure(sources[zoom], *middles[zoom].T)[2][0] <= wanted_m * 1.01)
    return fine + sorted(set(sources) - set(fine), reverse=True)


def _uncovered(zoom: int, better: Sequence[int], levels: dict[int, _Level]) -> np.ndarray:
    """Return tiles `(N, 2)` of a zoom level that are neither under a tile of a better one nor wholly under several."""
    xy = levels[zoom].xy if zoom in levels else np.zeros((0, 2), np.int64)
    for other in (other for other in better if other in levels):
        down, up = max(other - zoom, 0), max(zoom - other, 0)
        covers, counts = np.unique(tile_code(levels[other].xy >> down), return_counts=True)
        xy = xy[~np.isin(tile_code(xy >> up), covers[counts == 4**down])]
    return xy


def present(source: Source) -> np.ndarray:
    """Return columns and rows `(N, 2)` of the tiles that a source shows."""
    path = Path(source.path)
    if source.kind == "tiles":
        levels, _ = _levels(path, _usable(path)[0], source.south_first, source.rows_first)
    else:
        levels = _levels_of_mbtiles(path, _list_mbtiles(path)[0], bool(source.south_first))
    return _uncovered(source.zoom, source.better_zooms, levels)


def holes(xy: np.ndarray) -> np.ndarray:
    """Return missing tiles with at least two of their four neighbours present: gaps and missing corners, not the outside."""
    around = (xy[:, None] + np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])).reshape(-1, 2)
    near, counts = np.unique(around, axis=0, return_counts=True)
    return near[(counts >= 2) & ~np.isin(tile_code(near), tile_code(xy))]


def _names(source: Source, x: int, y: int) -> Iterator[str]:
    """Yield the names that a tile of a folder may have."""
    for before, nested, after in source.patterns:
        row = (1 << source.zoom) - 1 - y if before in source.south_first else y
        folders = f"{source.zoom}/{row}/{x}" if before in source.rows_first else f"{source.zoom}/{x}/{row}"
        yield f"{before}{folders if nested else f'{x}-{row}-{source.zoom}'}{after}"


def file_of(source: Source, x: int, y: int) -> str:
    """Return the file, relative to the folder of a mosaic, that shows a tile; empty for a tile that is in no file of its own."""
    if source.kind != "tiles":
        return ""
    return next((name for name in _names(source, x, y) if (Path(source.path) / name).is_file()), "")


@contextmanager
def tile_getter(source: Source) -> Iterator[Callable[[int, int], bytes | None]]:
    """Yield a function from column and row of a tile to its bytes, or None if there is no such tile."""
    root, zoom = Path(source.path), source.zoom

    def from_folder(x: int, y: int) -> bytes | None:
        for name in _names(source, x, y):
            try:
                return (root / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
        return None

    if source.kind == "tiles":
        yield from_folder
        return
    with closing(_connect(root)) as database:

        def from_database(x: int, y: int) -> bytes | None:
            try:
                row = database.execute(
                    _TILE, (zoom, int(x), (1 << zoom) - 1 - int(y) if source.south_first else int(y))
                ).fetchone()
            except sqlite3.Error as error:
                raise DataError(f"{root} cannot be read any further ({error}): copy or download it again") from error
            return None if row is None else row[0] if isinstance(row[0], bytes) else b""

        yield from_database
