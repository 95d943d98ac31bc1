"""Anybody's imagery into chips: GeoTIFF by file or URL, folders, XYZ tiles, MBTiles and STAC items.

`open_imagery` turns a path or URL into sources, `lay_out` says where chips lie on them, `read` gives their pixels. A chip is
a window of its source's own pixel grid, so pixels are copied and not resampled wherever the grid allows it: the raster is
north-up and its pixels are square on the ground within 1 %. A raster that is rotated or upside down is first warped into a
north-up grid of its own projection. Where pixels are not square on the ground (degrees away from the equator) or a size in
metres is asked for, the window is resampled, from an overview when it shrinks. North of the picture is north of the
projection; `up_deg` says how far that is from true north, which matters near the poles. Everything found in a file or told
by a server is data: no text of it is followed, no network address in it is opened.
"""

from __future__ import annotations

import csv
import hashlib
import http.client
import io
import ipaddress
import json
import logging
import os
import re
import socket
import sqlite3
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import numpy as np
import pandas as pd
from PIL import Image

from rsvlm import images
from rsvlm.errors import ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:
    from rsvlm import config

log = logging.getLogger(__name__)

COLUMNS = "key source split lon lat west south east north gsd_m size_px left_px top_px width_px height_px up_deg".split()
"""Columns of a chip table. The last five: the chip's window in its source's pixel grid, and the bearing of the picture's upper
edge, in degrees clockwise from true north."""

SQUARE = 0.01  # pixels whose sides differ by less on the ground are taken as square
UNSCALED = 0.005  # a size in metres this near to `size_px` pixels is read without resampling
MAX_CHIPS = 20_000_000
MAX_WINDOW_PX = 64_000_000
DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".gtiff": "GTiff", ".jp2": "JP2OpenJPEG", ".j2k": "JP2OpenJPEG"}
"""Formats that are opened. Others, VRT and WMS above all, may point GDAL to any file or address."""

_MERCATOR_M = 20_037_508.342789244
_BATCH_BYTES = 32_000_000
# GDAL follows some references inside files. With these options no such reference can reach a network.
_GDAL = {
    "GDAL_CACHEMAX": 128_000_000,
    "GDAL_HTTP_PROXY": "127.0.0.1:1",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "-",
    "GDAL_PAM_PROXY_DIR": "",
}
_NESTED = re.compile(r"((?:.*/)?)(\d{1,2})/(\d{1,10})/(\d{1,10})(\.(?:jpe?g|png|webp))", re.IGNORECASE)
_FLAT = re.compile(r"((?:.*/)?(?:[^/]*[^0-9/])?)(\d{1,10})-(\d{1,10})-(\d{1,2})(\.(?:jpe?g|png|webp))", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """Imagery on one pixel grid. It holds no open file: a worker process reopens it by itself.

    Attributes:
        name: Names the source in keys of chips; `[A-Za-z0-9_-]` only.
        path: Absolute path, or URL. A URL may carry a signature: write `name` into records, not this.
        kind: `raster`, `tiles` or `mbtiles`.
        licence: As found beside the imagery, else `unknown`.
        attribution: As found beside the imagery, else empty. Text from a file: escape it where it is shown.
        fingerprint: SHA-256, in hexadecimal, of size and samples of a raster, or of names and sizes of tiles.
        crs: Coordinate system of the grid, as WKT or code.
        transform: `x0, pixel width, y0, pixel height` of the grid, north-up: x = x0 + width · column, y = y0 - height · row.
        width: Columns of the grid.
        height: Rows of the grid.
        bbox_lonlat: West, south, east, north in degrees; east may exceed 180.
        bands: Bands shown, from 1: three, or one for grey.
        limits: Of each band the values that become 0 and 255; empty: values are kept.
        min_valid_share: Chips with a smaller share of pixels that hold data are not returned.
        warped: The raster is warped to the grid while it is read.
        allow_loopback: The URL may lie on this machine.
        zoom: Zoom level of tiles.
        tile_px: Side of a tile.
        patterns: Names of tiles: what stands before the numbers, whether they are folders, what stands after.
        better_zooms: Zoom levels whose tiles replace tiles of this one.
        notes: What was left out on opening: reason, count, an example. `lay_out` tells them.
    """

    name: str
    path: str
    kind: str
    licence: str
    attribution: str
    fingerprint: str
    crs: str
    transform: tuple[float, float, float, float]
    width: int
    height: int
    bbox_lonlat: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    bands: tuple[int, ...] = ()
    limits: tuple[tuple[float, float], ...] = ()
    min_valid_share: float = 0.0
    warped: bool = False
    allow_loopback: bool = False
    zoom: int = -1
    tile_px: int = 0
    patterns: tuple[tuple[str, bool, str], ...] = ()
    better_zooms: tuple[int, ...] = ()
    notes: tuple[tuple[str, int, str], ...] = ()


# Opening


def open_imagery(where: str, options: config.Chips) -> list[Source]:
    """Find the imagery behind a path or URL, and what is needed to read it.

    Args:
        where: A GeoTIFF or JPEG 2000 file, its http(s) URL, a folder of those, a folder of XYZ tiles (`z/x/y.ext` or
            `x-y-z.ext` with any prefix), an MBTiles file, or a JSON file with STAC items.
        options: Bands, stretch, and the least share of valid pixels.

    Returns:
        Sources in a stable order. Tiles give one per zoom level that is not wholly covered by a better one: without `size_m`
        the deepest is best, else the coarsest that is fine enough. Broken files in a folder are in the notes of the first.

    Raises:
        ConfigError: The address is of a kind that is not read, or the options do not fit the imagery.
        DataError: Nothing is there, or it is broken, or it says not where on Earth it lies.
        MissingExtraError: rasterio or pyproj is not installed.
    """
    if where == "blue-marble":
        raise ConfigError("'blue-marble' is the embedded world image, which has its own layout: build without --imagery")
    if where.startswith("/vsi") or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", where):
        return [_open_url(where, options)]
    path = Path(where).expanduser().resolve()
    if path.is_dir():
        return _open_folder(path, options)
    if not path.is_file():
        raise DataError(
            f"{where} does not exist: give a raster, a folder, an MBTiles file, a STAC JSON file or an http(s) URL"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{where} has no bytes: download or copy it again")
    if path.suffix.lower() in (".json", ".geojson"):
        return _open_stac(path, options)
    if path.suffix.lower() == ".mbtiles":
        return _open_mbtiles(path, options)
    return [_open_raster(str(path), path.stem, options)]


def _open_url(url: str, options: config.Chips, text: str = "") -> Source:
    if not url.lower().startswith(("http://", "https://")):
        raise ConfigError(f"imagery is read from files and from http(s) addresses, not from '{url.split(':')[0][:40]}'")
    path = urlsplit(url).path
    if path.lower().endswith((".json", ".geojson", ".mbtiles", ".zip")):
        raise ConfigError(f"{_shown(url)} is no raster: download it first, then give the file")
    return _open_raster(url, text or Path(path).stem or "imagery", options)


def _open_folder(path: Path, options: config.Chips) -> list[Source]:
    zooms, skipped = _list_tiles(path)
    rasters = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in DRIVERS and not p.name.startswith(".")]
    sources, notes = _tile_sources(path, "tiles", zooms, options, ""), list(skipped)
    for file in rasters:
        relative = file.relative_to(path).with_suffix("").as_posix()
        try:
            sources.append(_open_raster(str(file), relative, options))
        except DataError as error:
            log.warning("left out: %s", error)
            notes.append(("raster cannot be used", 1, str(error)[:300]))
    if not sources and notes:
        raise DataError(f"{path} holds no usable imagery; for example: {notes[0][2]}")
    if not sources:
        raise DataError(
            f"{path} holds no GeoTIFF ({', '.join(DRIVERS)}) and no tiles named z/x/y.jpg or x-y-z.jpg (also png, webp)"
        )
    return [replace(sources[0], notes=sources[0].notes + tuple(notes)), *sources[1:]]


def _open_mbtiles(path: Path, options: config.Chips) -> list[Source]:
    zooms, skipped = _list_mbtiles(path)
    with closing(_connect(path)) as database:
        try:
            rows = dict(
                database.execute("SELECT name, value FROM metadata WHERE name IN ('attribution', 'license')").fetchall()
            )
        except sqlite3.Error:
            rows = {}
    sources = _tile_sources(path, "mbtiles", zooms, options, _clean(rows.get("attribution")))
    if not sources:
        raise DataError(f"{path} has no tiles: it must have a table 'tiles' with zoom_level, tile_column, tile_row, tile_data")
    licence = _clean(rows.get("license")) or "unknown"
    return [
        replace(source, licence=licence, notes=source.notes + (tuple(skipped) if i == 0 else ()))
        for i, source in enumerate(sources)
    ]


def _open_stac(path: Path, options: config.Chips) -> list[Source]:
    try:
        import pystac
    except ImportError as error:
        raise _missing("pystac") from error
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): a STAC item, ItemCollection or search result was expected") from error
    features = document.get("features", [document]) if isinstance(document, dict) else None
    if not isinstance(features, list):
        raise DataError(f"{path} is neither a STAC item nor a list of items")
    sources, notes = [], []
    for number, feature in enumerate(features):
        # A bad item is counted; so is one whose imagery cannot be opened.
        try:
            item = pystac.Item.from_dict(feature)
            asset = _stac_asset(item)
        except Exception as error:  # pystac checks little: whatever is missing surfaces as any kind of error
            notes.append(("not a usable STAC item", 1, f"feature {number}: {type(error).__name__}: {error}"[:300]))
            continue
        try:
            source = (
                _open_url(asset.href, options, item.id)
                if "://" in asset.href
                else _open_beside(path, asset.href, item.id, options)
            )
        except (DataError, ConfigError) as error:
            notes.append(("asset cannot be used", 1, str(error)[:300]))
            continue
        providers = [p.name for p in item.common_metadata.providers or []]
        licence = item.properties.get("license") or feature.get("license")
        sources.append(
            replace(
                source,
                licence=_clean(licence) or source.licence,
                attribution=_clean(", ".join(map(str, providers))) or source.attribution,
            )
        )
    if not sources:
        raise DataError(f"{path} has no item that can be used; for example: {notes[0][2] if notes else 'it lists no items'}")
    return [replace(sources[0], notes=(*sources[0].notes, *notes)), *sources[1:]]


def _stac_asset(item):
    """Return the asset that shows an item in colours: role or name `visual`, else the only raster with the role `data`."""
    rasters = {
        key: asset
        for key, asset in item.assets.items()
        if "tiff" in (asset.media_type or "")
        or "jp2" in (asset.media_type or "")
        or Path(urlsplit(asset.href).path).suffix.lower() in DRIVERS
    }
    visual = [asset for key, asset in rasters.items() if key == "visual" or "visual" in (asset.roles or [])]
    data = [asset for key, asset in rasters.items() if "data" in (asset.roles or []) or key in ("data", "image")]
    if visual or len(data) == 1:
        return (visual or data)[0]
    raise DataError(f"item {item.id!r} has {len(data)} raster assets with the role 'data' and none with 'visual'")


def _open_beside(path: Path, href: str, name: str, options: config.Chips) -> Source:
    file = (path.parent / href).resolve()
    # A downloaded search result must not be able to name any file of this machine.
    if not file.is_relative_to(path.parent.resolve()):
        raise DataError(f"{path.name} names the file '{href[:80]}' outside its own folder: put the imagery beside it")
    if not file.is_file():
        raise DataError(f"{path.name} names the file '{href[:80]}', which is not there")
    return _open_raster(str(file), name, options)


def _open_raster(path: str, text: str, options: config.Chips) -> Source:
    rasterio = _rasterio()
    suffix = Path(urlsplit(path).path if "://" in path else path).suffix.lower()
    if suffix not in DRIVERS and "://" not in path:
        raise DataError(
            f"{path} is not of a format that is read ({', '.join(DRIVERS)}): convert it with rio convert IN OUT.tif"
        )
    shown = _shown(path)
    with _dataset(path, options.allow_loopback) as (dataset, file), rasterio.Env(**_GDAL):
        if dataset.tags(ns="OVERVIEWS"):
            raise DataError(
                f"{shown} names another file as its overviews, which is not followed: write a copy with rio convert"
            )
        if dataset.crs is None:
            raise DataError(
                f"{shown} does not say in which coordinate system it is: set it, as with rio edit-info --crs EPSG:32629 FILE"
            )
        if dataset.transform.is_identity or not dataset.transform.determinant:
            raise DataError(
                f"{shown} does not say where it lies (no geotransform): set it with rio edit-info --transform, or warp it with rio warp"
            )
        if any(kind.startswith("complex") for kind in dataset.dtypes):
            raise DataError(f"{shown} holds complex numbers: write their magnitude to a GeoTIFF first")
        bands = _bands(dataset, options.bands, shown)
        (x0, pixel_width, y0, pixel_height), width, height, warped = _north_up(dataset)
        source = Source(
            name=_name(text),
            path=path,
            kind="raster",
            licence="unknown",
            attribution=_clean(dataset.tags().get("TIFFTAG_COPYRIGHT")),
            fingerprint=file.fingerprint() if file else _fingerprint(Path(path)),
            crs=dataset.crs.to_wkt(),
            transform=(x0, pixel_width, y0, pixel_height),
            width=width,
            height=height,
            bands=bands,
            limits=_limits(dataset, bands, options, shown),
            min_valid_share=options.min_valid_share,
            warped=warped,
            allow_loopback=options.allow_loopback,
        )
    try:
        box = _boxes(source, *(np.array([float(v)]) for v in (0, 0, width, height)), fine=True)[0]
    except Exception as error:  # pyproj's errors, and those of coordinate systems that are not of the Earth
        raise DataError(f"{shown}: its coordinate system cannot be turned into longitude and latitude ({error})") from error
    if not np.isfinite(box).all():
        raise DataError(f"{shown} lies outside of what its coordinate system can express: check its CRS and geotransform")
    return replace(source, bbox_lonlat=tuple(box.tolist()))


def _bands(dataset, wanted: tuple[int, ...], shown: str) -> tuple[int, ...]:
    count = dataset.count
    if wanted:
        if len(wanted) not in (1, 3) or not all(1 <= band <= count for band in wanted):
            raise ConfigError(f"chips.bands is {wanted}; {shown} has bands 1 to {count}, and one or three can be shown")
        return tuple(wanted)
    colours = ("red", "green", "blue")
    by_kind = [kind.name for kind in dataset.colorinterp]
    by_text = [re.sub(r"[^a-z]|band", "", (text or "").lower()) for text in dataset.descriptions]
    for names in (by_kind, by_text):
        if all(names.count(colour) == 1 for colour in colours):
            return tuple(names.index(colour) + 1 for colour in colours)
    return (1, 2, 3) if count >= 3 and by_kind[0] != "palette" else (1,)


def _north_up(dataset) -> tuple[tuple[float, float, float, float], int, int, bool]:
    t, width, height = dataset.transform, dataset.width, dataset.height
    if t.b == 0 and t.d == 0 and t.a > 0 and t.e < 0:
        return (t.c, t.a, t.f, -t.e), width, height, False
    column, row = np.array([[0, width, 0, width], [0, 0, height, height]])
    x, y = t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f
    straight = t.b == 0 and t.d == 0
    pixel_width, pixel_height = (abs(t.a), abs(t.e)) if straight else (abs(t.determinant) ** 0.5,) * 2
    spans = np.array([np.ptp(x) / pixel_width, np.ptp(y) / pixel_height])
    columns, rows = np.ceil(spans - 1e-6).astype(int).tolist()
    return (float(x.min()), pixel_width, float(y.max()), pixel_height), columns, rows, True


def _limits(dataset, bands: tuple[int, ...], options: config.Chips, shown: str) -> tuple[tuple[float, float], ...]:
    """Find the values that become 0 and 255: one pair per band for the whole raster, so that its chips can be compared."""
    kind = "percentile" if options.stretch == "auto" else options.stretch
    if dataset.dtypes[bands[0] - 1] == "uint8" and options.stretch in ("auto", "none"):
        return ()
    if kind == "none":
        return ((0.0, 255.0),) * len(bands)
    values, valid = _sample(dataset, bands)
    cut = options.stretch_percent if kind == "percentile" else 0.0
    result = []
    for band, mask in zip(values, valid):
        band = band[(mask > 0) & np.isfinite(band)]
        if not band.size:
            raise DataError(f"{shown} holds no data that could be stretched to 0-255")
        low, high = np.percentile(band.astype(np.float64), (cut, 100 - cut)).tolist()
        result.append((low, high if high > low else low + 1.0))
    return tuple(result)


def _sample(dataset, bands: tuple[int, ...], side: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    from rasterio.windows import Window

    width, height = dataset.width, dataset.height
    if dataset.overviews(bands[0]) or width * height <= MAX_WINDOW_PX:
        scale = min(1.0, side / max(width, height))
        shape = (len(bands), max(1, round(height * scale)), max(1, round(width * scale)))
        return dataset.read(bands, out_shape=shape), dataset.read_masks(bands, out_shape=shape)
    # Without overviews a whole look would read everything, perhaps over a network: look at 64 small windows instead.
    windows = [
        Window(int(x), int(y), min(128, width), min(128, height))
        for y in np.linspace(0, max(0, height - 128), 8)
        for x in np.linspace(0, max(0, width - 128), 8)
    ]
    values = [dataset.read(bands, window=w).reshape(len(bands), -1) for w in windows]
    return np.concatenate(values, 1), np.concatenate(
        [dataset.read_masks(bands, window=w).reshape(len(bands), -1) for w in windows], 1
    )


# Tiles


def _list_tiles(root: Path) -> tuple[dict[int, dict], list[tuple[str, int, str]]]:
    """Return for each zoom level `xy` (N, 2), `patterns`, a digest, and one file name; and notes about names that make no sense."""
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
    database = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
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
    zooms, digest = {}, _fingerprint(path)
    for zoom in np.unique(table[:, 0]).tolist() if len(table) else []:
        xy = table[table[:, 0] == zoom, 1:]
        # Rows count from the south in MBTiles.
        xy = np.unique(np.stack([xy[:, 0], (1 << zoom) - 1 - xy[:, 1]], 1), axis=0)
        zooms[zoom] = {"xy": xy, "patterns": (), "digest": f"{digest}-{zoom}", "files": xy[:16].tolist()}
    bad = total - len(table)
    return zooms, [("tile number beyond its zoom level", bad, path.name)] if bad else []


def _tile_sources(path: Path, kind: str, zooms: dict[int, dict], options: config.Chips, attribution: str) -> list[Source]:
    sources = {}
    for zoom, listed in zooms.items():
        source = Source(
            name=f"{_name(path.stem)}-z{zoom}",
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
            pixel_m = 2 * _MERCATOR_M / side
            transform = (-_MERCATOR_M, pixel_m, _MERCATOR_M, pixel_m)
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
            boxes = _boxes(source, *(xy.T * source.tile_px).astype(float), *np.full((2, len(xy)), float(source.tile_px)))
            box = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
            result.append(replace(source, bbox_lonlat=box))
    if covered:
        result[0] = replace(result[0], notes=(("tile shows what a better zoom level shows", covered, path.name),))
    return result


def _tile_side(source: Source, candidates: Sequence) -> int:
    """Return the side of the first tile that can be read; 0: none can."""
    with _tile_getter(source) as get:
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
        gsd_m[zoom] = float(_measure(source, *middle.T)[2][0])
    fine = sorted(zoom for zoom in sources if gsd_m[zoom] <= wanted_m * 1.01)
    return fine + sorted(set(sources) - set(fine), reverse=True)


def _uncovered(zoom: int, better: tuple[int, ...], zooms: dict[int, dict]) -> np.ndarray:
    """Return tiles `(N, 2)` of a zoom level that are neither under a tile of a better one nor wholly under several."""
    xy = zooms[zoom]["xy"] if zoom in zooms else np.zeros((0, 2), np.int64)
    for other in (other for other in better if other in zooms):
        down, up = max(other - zoom, 0), max(zoom - other, 0)
        covers, counts = np.unique(_code(zooms[other]["xy"] >> down), return_counts=True)
        xy = xy[~np.isin(_code(xy >> up), covers[counts == 4**down])]
    return xy


def _code(xy: np.ndarray) -> np.ndarray:
    return (xy[..., 0] << 31) | xy[..., 1]


def _present(source: Source) -> np.ndarray:
    zooms, _ = (_list_tiles if source.kind == "tiles" else _list_mbtiles)(Path(source.path))
    return _uncovered(source.zoom, source.better_zooms, zooms)


def _holes(xy: np.ndarray) -> np.ndarray:
    """Return missing tiles with at least two of their four neighbours present: gaps and missing corners, not the outside."""
    around = (xy[:, None] + np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])).reshape(-1, 2)
    near, counts = np.unique(around, axis=0, return_counts=True)
    return near[(counts >= 2) & ~np.isin(_code(near), _code(xy))]


# Where chips lie


def lay_out(
    sources: Sequence[Source], options: config.Chips, points: np.ndarray | Sequence | None = None
) -> tuple[pd.DataFrame, list[dict]]:
    """Lay out chips over sources.

    By grid, chips stand side by side (`stride` apart) inside every source: in pixels counted from the grid's corner, so that a
    chip keeps its key when the mosaic grows. By landmark or list, one chip is centred on each point, in the first source that
    holds it whole. What remains at edges is not used; a chip is never padded. With `size_m`, or where pixels are not square on
    the ground, the side in source pixels follows the ground at each chip's centre.

    Args:
        sources: As from `open_imagery`.
        options: Place, size and stride.
        points: `(N, 2)`, longitudes and latitudes in degrees, or a list of such pairs; none: from the file `options.points`.

    Returns:
        A table with the columns `COLUMNS`, `split` empty; and notes `{source, stage, reason, count, examples}` about what was
        left out.

    Raises:
        ConfigError: No points where they are needed, or far too many chips.
        DataError: No chip fits.
    """
    notes = [_note(source.name, *note) for source in sources for note in source.notes]
    keys: list[str] | None = None
    if options.place != "grid" and points is None:
        if not options.points:
            raise ConfigError(
                f"chips.place={options.place} needs points: give a CSV or GeoJSON file of lon, lat with chips.points"
            )
        points, keys, skipped = read_points(Path(options.points))
        notes += [_note(Path(options.points).name, *note) for note in skipped]
    tables = []
    waiting = None if options.place == "grid" else np.asarray(points, np.float64).reshape(-1, 2)
    found = np.zeros(0 if waiting is None else len(waiting), bool)
    for source in sources:
        present = _present(source) if source.kind != "raster" else None
        if present is not None and len(holes := _holes(present)):
            examples = [f"{source.zoom}/{x}/{y}" for x, y in holes[:20].tolist()]
            notes.append(_note(source.name, "tile missing from the mosaic", len(holes), examples))
        if waiting is None:
            table, numbers = _chips(source, options, *_grid_centres(source, options, present)), None
        else:
            numbers = np.flatnonzero(~found)
            table = _chips(source, options, *_to_pixels(source, *waiting[numbers].T))
        inside = _inside(source, table, present)
        if waiting is None and present is not None and not inside.all():
            notes.append(
                _note(
                    source.name,
                    "chip needs a tile that is missing",
                    int((~inside).sum()),
                    table["key"][~inside].head(5).tolist(),
                )
            )
        if waiting is None and not inside.any():
            notes.append(_note(source.name, "smaller than one chip", 1, [f"{source.width} x {source.height} px"]))
        table = table[inside]
        if numbers is not None:
            found[numbers[inside]] = True
            if keys is not None:
                table = table.assign(key=[keys[i] or key for i, key in zip(numbers[inside], table["key"])])
        tables.append(table)
    if waiting is not None and not found.all():
        examples = [f"{lon:.6f},{lat:.6f}" for lon, lat in waiting[~found][:5].tolist()]
        notes.append(
            _note("", "point not in the imagery, or nearer to its edge than half a chip", int((~found).sum()), examples)
        )
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    if (twice := table["key"].duplicated()).any():
        notes.append(_note("", "same chip twice", int(twice.sum()), table["key"][twice].head(5).tolist()))
        table = table[~twice].reset_index(drop=True)
    if table.empty:
        why = "; ".join(f"{note['reason']} ({note['count']})" for note in notes) or "there are no sources"
        raise DataError(
            f"no chip of {options.size_px} px fits into the imagery: {why}. Smaller chips (chips.size_px, chips.size_m) may"
        )
    return table, notes


def _note(source: str, reason: str, count: int, examples: str | list[str]) -> dict:
    return {
        "source": source,
        "stage": "imagery",
        "reason": reason,
        "count": count,
        "examples": examples if isinstance(examples, list) else [examples],
    }


def read_points(path: Path) -> tuple[np.ndarray, list[str], list[tuple[str, int, str]]]:
    """Read places of chips from a file.

    Args:
        path: CSV with the columns `lon`, `lat` and perhaps `key`, or GeoJSON of points with perhaps a property `key`.

    Returns:
        `(N, 2)` longitudes and latitudes in degrees; N keys, empty where none was given or it has other characters than
        letters, digits, `_` and `-`; notes about rows left out.

    Raises:
        DataError: The file is missing or of another form, or no row can be used.
    """
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() in (".json", ".geojson"):
            rows = []
            for feature in json.loads(text)["features"]:
                point = feature.get("geometry") or {}
                lon, lat = point["coordinates"][:2] if point.get("type") == "Point" else (None, None)
                rows.append((lon, lat, (feature.get("properties") or {}).get("key", feature.get("id"))))
        else:
            rows = [(row["lon"], row["lat"], row.get("key")) for row in csv.DictReader(io.StringIO(text))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read as CSV with the columns lon, lat, or as GeoJSON points ({type(error).__name__}: {error})"
        ) from error
    points, keys, bad = [], [], []
    for row in rows:
        try:
            lon, lat = float(row[0]), float(row[1])
        except (TypeError, ValueError):
            lon = lat = float("nan")
        if abs(lat) <= 90 and abs(lon) <= 360:
            points.append((lon, lat))
            keys.append(str(row[2]) if row[2] and re.fullmatch(r"[A-Za-z0-9_-]{1,100}", str(row[2])) else "")
        else:
            bad.append(str(row[:2])[:80])
    if not points:
        raise DataError(f"{path} has no row with a longitude and latitude in degrees")
    return np.array(points), keys, [("row without a longitude and latitude in degrees", len(bad), bad[0])] if bad else []


def _grid_centres(source: Source, options: config.Chips, present: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel centres of all grid chips that touch the imagery; whether they lie wholly inside is judged later."""
    if present is None:
        boxes = np.array([[0, 0, source.width, source.height]], np.float64)
    else:
        boxes = np.concatenate([present, present + 1], 1).astype(np.float64) * source.tile_px
    if not len(boxes):
        return np.zeros(0), np.zeros(0)
    (west, north), (east, south) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    # Chips of one row share one width, that of the row's middle; each chip's own window follows at its own centre.
    y = np.linspace(north, south, 2049)
    width, height, _ = _sides(source, options, np.full(len(y), (west + east) / 2), y)
    width, height = (np.where(np.isfinite(v), v, options.size_px) for v in (width, height))
    step = options.stride
    if (width == options.size_px).all() and (height == options.size_px).all():
        side = options.size_px * step
        tops = np.arange(np.floor(north / side), np.ceil(south / side) + 1) * side
    else:
        width, height = np.clip(width, 1.0, 4.0 * source.width), np.clip(height, 1.0, 4.0 * source.height)
        if (south - north) / (height.min() * step) > MAX_CHIPS:
            raise ConfigError(
                f"{source.name}: chips of {height.min():.1f} source pixels are too many; larger chips are needed"
            )
        tops, top = [], north
        while top < south:
            tops.append(top)
            top += step * float(np.interp(top, y, height))
        tops = np.array(tops)
    row_width, row_height = np.interp(tops, y, width), np.interp(tops, y, height)
    first, last = np.searchsorted(tops + row_height, boxes[:, 1], "right"), np.searchsorted(tops, boxes[:, 3], "left")
    box, row = _spread(first, last)
    steps = row_width[row] * step
    left = np.maximum(np.floor((boxes[box, 0] - row_width[row]) / steps + 1e-9) + 1, 0)
    right = np.ceil(boxes[box, 2] / steps - 1e-9)
    if np.maximum(right - left, 0).sum() > MAX_CHIPS:
        raise ConfigError(
            f"{source.name} would be cut into more than {MAX_CHIPS} chips: larger chips or a larger stride are needed"
        )
    pair, column = _spread(left.astype(np.int64), right.astype(np.int64))
    cells = np.unique(np.stack([row[pair], column], 1), axis=0)
    row, column = cells.T
    return column * row_width[row] * step + row_width[row] / 2, tops[row] + row_height[row] / 2


def _spread(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for ranges first[i] to last[i], exclusive, the number i and the value of every member."""
    counts = np.maximum(last - first, 0)
    number = np.repeat(np.arange(len(counts)), counts)
    return number, np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)


def _sides(source: Source, options: config.Chips, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return width and height of chips in source pixels, and their ground sample distance, at pixel positions of centres."""
    _, _, east_m, south_m, _ = _measure(source, x, y)
    size = float(options.size_px)
    with np.errstate(divide="ignore", invalid="ignore"):
        if options.size_m:
            gsd_m = np.full(len(x), options.size_m / size)
        else:
            # Square on the ground means: the coarser side is kept, the finer one is averaged.
            gsd_m = np.where(np.abs(east_m / south_m - 1) <= SQUARE, np.sqrt(east_m * south_m), np.maximum(east_m, south_m))
        width, height = size * gsd_m / east_m, size * gsd_m / south_m
        tolerance = UNSCALED if options.size_m else SQUARE
        as_is = (np.abs(width / size - 1) <= tolerance) & (np.abs(height / size - 1) <= tolerance)
    gsd_m = np.where(as_is, np.sqrt(east_m * south_m), gsd_m)
    return np.where(as_is, size, width), np.where(as_is, size, height), gsd_m


def _chips(source: Source, options: config.Chips, x: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    """Make the table of chips around pixel positions; those with no place on Earth have NaN in it."""
    size = options.size_px
    width, height, _ = _sides(source, options, x, y)
    width, height = width.round(3), height.round(3)
    # Whole pixels at the corner: chips of whole pixels are then copies, and keys are short.
    left, top = np.round(x - width / 2) + 0.0, np.round(y - height / 2) + 0.0
    lon, lat, east_m, south_m, up_deg = _measure(source, left + width / 2, top + height / 2)
    gsd_m = np.sqrt(east_m * width * south_m * height) / size
    boxes = _boxes(source, left, top, width, height)
    ending = f"_{options.size_m:g}m".replace(".", "p").replace("+", "") if options.size_m else ""
    usable = np.isfinite(left) & np.isfinite(top) & np.isfinite(boxes).all(1)
    keys = [f"{source.name}_{size}_{int(a)}_{int(b)}{ending}" if ok else "" for a, b, ok in zip(left, top, usable)]
    columns = (keys, source.name, "", lon, lat, *boxes.T, gsd_m, size, left, top, width, height, up_deg)
    return pd.DataFrame(dict(zip(COLUMNS, columns)), index=range(len(x)))


def _inside(source: Source, table: pd.DataFrame, present: np.ndarray | None) -> np.ndarray:
    left, top, width, height = table[["left_px", "top_px", "width_px", "height_px"]].to_numpy(np.float64).T
    with np.errstate(invalid="ignore"):
        inside = (table["key"].to_numpy() != "") & (left >= 0) & (top >= 0) & (top + height <= source.height)
    if present is None:
        return inside & (left + width <= source.width)
    if not inside.any():
        return inside
    if (width * height)[inside].max() > MAX_WINDOW_PX:
        raise ConfigError(
            f"a chip would be put together from more than {MAX_WINDOW_PX} pixels of {source.name}: give coarser tiles"
        )
    codes, whole = np.sort(_code(present)), np.flatnonzero(inside)
    x0, y0 = (np.floor(v[whole] / source.tile_px).astype(np.int64) for v in (left, top))
    x1, y1 = (np.ceil(v[whole] / source.tile_px).astype(np.int64) for v in (left + width, top + height))
    complete = np.ones(len(whole), bool)
    for dx in range(int((x1 - x0).max())):
        for dy in range(int((y1 - y0).max())):
            # Modulo: a mosaic of the world goes on at its first column.
            code = _code(np.stack([(x0 + dx) % (1 << source.zoom), y0 + dy], 1))
            found = codes[np.minimum(np.searchsorted(codes, code), len(codes) - 1)] == code
            complete &= found | (x0 + dx >= x1) | (y0 + dy >= y1)
    inside[whole] = complete
    return inside


# Geometry


def _lonlat(source: Source) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the function from pixel positions to longitude and latitude; infinite where there is none."""
    pyproj = _pyproj()
    to_lonlat = pyproj.Transformer.from_crs(source.crs, "EPSG:4326", always_xy=True)
    x0, pixel_width, y0, pixel_height = source.transform

    def transform(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lon, lat = to_lonlat.transform(x0 + pixel_width * np.asarray(x), y0 - pixel_height * np.asarray(y))
        return lon, np.where(np.abs(lat) <= 90 + 1e-9, np.clip(lat, -90, 90), np.inf)

    return transform


def _to_pixels(source: Source, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel positions of places; of those a turn of the Earth apart, the one inside the grid."""
    pyproj = _pyproj()
    crs = pyproj.CRS.from_user_input(source.crs)
    x0, pixel_width, y0, pixel_height = source.transform
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    x, y = (np.asarray(x) - x0) / pixel_width, (y0 - np.asarray(y)) / pixel_height
    turn = 360.0 if crs.is_geographic else 2 * _MERCATOR_M if crs.to_epsg() == 3857 else 0.0
    if turn:
        # Infinite stays infinite: such a place has no pixel.
        with np.errstate(invalid="ignore"):
            x = np.where(np.isfinite(x), x - np.floor(x / (turn / pixel_width)) * (turn / pixel_width), x)
    return x, y


def _measure(source: Source, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return longitude, latitude, metres of one pixel to the right and downwards, and the bearing of up, at pixel positions."""
    geod = _pyproj().Geod(ellps="WGS84")
    transform = _lonlat(source)
    lon, lat = transform(x, y)
    ends = [transform(x + dx, y + dy) for dx, dy in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))]
    usable = np.isfinite(lon) & np.isfinite(lat) & np.all([np.isfinite(v) for end in ends for v in end], axis=0)
    (w, e, n, s) = [tuple(np.where(usable, v, 0.0) for v in end) for end in ends]
    east_m, south_m = geod.inv(*w, *e)[2], geod.inv(*n, *s)[2]
    up_deg = geod.inv(*s, *n)[0]
    lon = (np.where(usable, lon, 0.0) + 180.0) % 360.0 - 180.0
    return tuple(np.where(usable, v, np.nan) for v in (lon, lat, east_m, south_m, up_deg))


def _boxes(
    source: Source, left: np.ndarray, top: np.ndarray, width: np.ndarray, height: np.ndarray, *, fine: bool = False
) -> np.ndarray:
    """Return west, south, east, north `(N, 4)` of windows: of points along their edges, and of a pole inside."""
    transform = _lonlat(source)
    _, lat_top = transform(left + width / 2, top)
    _, lat_bottom = transform(left + width / 2, top + height)
    with np.errstate(invalid="ignore"):
        large = (np.abs(lat_top - lat_bottom) > 0.5) | fine
    result = np.empty((len(left), 4))
    # Edges of small windows are nearly straight on the globe; of large ones more points are looked at, a few windows at a time.
    for points, chosen in ((33, large), (3, ~large)):
        rows = np.flatnonzero(chosen)
        for part in np.array_split(rows, len(rows) * points // 400_000 + 1):
            result[part] = _edges(transform, left[part], top[part], width[part], height[part], np.linspace(0, 1, points))
    x0, pixel_width, y0, pixel_height = source.transform
    to_grid = _pyproj().Transformer.from_crs("EPSG:4326", source.crs, always_xy=True)
    for lat_pole, side in ((90.0, 3), (-90.0, 1)):
        x, y = to_grid.transform(0.0, lat_pole)
        column, row = (x - x0) / pixel_width, (y0 - y) / pixel_height
        around = (left < column) & (column < left + width) & (top < row) & (row < top + height)
        result[around, 0], result[around, 2], result[around, side] = -180.0, 180.0, lat_pole
    return result


def _edges(
    transform, left: np.ndarray, top: np.ndarray, width: np.ndarray, height: np.ndarray, part: np.ndarray
) -> np.ndarray:
    edge_x = np.concatenate([part, part, np.zeros_like(part), np.ones_like(part)])
    edge_y = np.concatenate([np.zeros_like(part), np.ones_like(part), part, part])
    centre_lon, _ = transform(left + width / 2, top + height / 2)
    lon, lat = transform(left[:, None] + width[:, None] * edge_x, top[:, None] + height[:, None] * edge_y)
    with np.errstate(invalid="ignore"):
        # A window as wide as the world has its edges half a turn from its centre: keep them on their own sides.
        turn = (lon - centre_lon[:, None] + 180.0) % 360.0 - 180.0
        turn = np.where((np.abs(turn) >= 180.0 - 1e-9) & (edge_x > 0.5), 180.0, turn)
        west, east = turn.min(1) + centre_lon, turn.max(1) + centre_lon
        shift = np.floor((west + 180.0) / 360.0) * 360.0
        return np.stack([west - shift, lat.min(1), east - shift, lat.max(1)], 1)


def corners(source: Source, chips: pd.DataFrame) -> np.ndarray:
    """Return longitude and latitude of the four corners of chips, from the upper left clockwise.

    Args:
        source: Their source.
        chips: N rows of a chip table.

    Returns:
        `(N, 4, 2)`, degrees.
    """
    left, top, width, height = chips[["left_px", "top_px", "width_px", "height_px"]].to_numpy(np.float64).T
    x = np.stack([left, left + width, left + width, left], 1)
    y = np.stack([top, top, top + height, top + height], 1)
    return np.stack(_lonlat(source)(x, y), 2)


# Reading


def read(source: Source, chips: pd.DataFrame) -> Iterator[tuple[np.ndarray | None, str | None]]:
    """Read the pixels of chips, in their order. The source is opened once: give many chips at a time, neighbours together.

    Pixels without data are black. Values other than 8-bit become 0 to 255 by `source.limits`, the same for all chips.

    Args:
        source: As from `open_imagery`.
        chips: Rows of a chip table, all of this source.

    Yields:
        `(S, S, 3)` uint8 and none, or none and a reason: `all nodata`, `too little data`, `cannot be read`, `tile missing`,
        `tile broken`.

    Raises:
        DataError: The source itself cannot be opened, has changed, or its server does not answer: a restart may mend that,
            while dropped chips would stay dropped.
    """
    if (chips["source"] != source.name).any():
        raise DataError(f"chips of other sources were given to '{source.name}'")
    windows = chips[["left_px", "top_px", "width_px", "height_px", "size_px"]].to_numpy(np.float64)
    yield from (_read_raster if source.kind == "raster" else _read_tiles)(source, windows)


def _finish(pixels: np.ndarray, valid: np.ndarray | None, source: Source) -> tuple[np.ndarray | None, str | None]:
    if valid is not None and not valid.all():
        if not valid.any():
            return None, "all nodata"
        if valid.mean() < source.min_valid_share:
            return None, "too little data"
        pixels = np.where(valid[..., None], pixels, 0).astype(np.uint8)
    return np.ascontiguousarray(pixels), None


def _read_tiles(source: Source, windows: np.ndarray) -> Iterator[tuple[np.ndarray | None, str | None]]:
    side, kept = source.tile_px, OrderedDict()
    limit = max(8, _BATCH_BYTES * 2 // (side * side * 3))
    with _tile_getter(source) as get:

        def tile(x: int, y: int) -> tuple[np.ndarray, np.ndarray | None] | str:
            if (x, y) not in kept:
                kept[x, y] = _decode_tile(get(x, y), side)
                if len(kept) > limit:
                    kept.popitem(last=False)
            kept.move_to_end((x, y))
            return kept[x, y]

        for left, top, width, height, size in windows.tolist():
            x0, y0, x1, y1 = int(np.floor(left)), int(np.floor(top)), int(np.ceil(left + width)), int(np.ceil(top + height))
            pixels, valid, reason = np.zeros((y1 - y0, x1 - x0, 3), np.uint8), np.ones((y1 - y0, x1 - x0), bool), None
            for ty in range(y0 // side, -(-y1 // side)):
                for tx in range(x0 // side, -(-x1 // side)):
                    got = tile(tx % (1 << source.zoom), ty)
                    if isinstance(got, str):
                        reason = reason or got
                        continue
                    rows, columns = (
                        slice(max(ty * side, y0), min(ty * side + side, y1)),
                        slice(max(tx * side, x0), min(tx * side + side, x1)),
                    )
                    here = np.s_[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
                    there = np.s_[
                        rows.start - ty * side : rows.stop - ty * side, columns.start - tx * side : columns.stop - tx * side
                    ]
                    pixels[here] = got[0][there]
                    if got[1] is not None:
                        valid[here] = got[1][there]
            if reason:
                yield None, reason
                continue
            if pixels.shape != (size, size, 3) or width != size or height != size:
                box, shape = (left - x0, top - y0, left - x0 + width, top - y0 + height), (int(size), int(size))
                pixels = np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.BICUBIC, box=box))
                valid = (
                    np.asarray(Image.fromarray(valid.astype(np.uint8)).resize(shape, Image.Resampling.NEAREST, box=box)) > 0
                )
            yield _finish(pixels, valid, source)


def _decode_tile(data: bytes | None, side: int) -> tuple[np.ndarray, np.ndarray | None] | str:
    if data is None:
        return "tile missing"
    try:
        if images.read_size(data) != (side, side):
            return "tile broken"
        pixels = images.decode(data)
        with Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
            see_through = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            valid = np.asarray(image.convert("RGBA"))[..., 3] > 0 if see_through else None
    except DataError:
        return "tile broken"
    return pixels, valid


@contextmanager
def _tile_getter(source: Source) -> Iterator[Callable[[int, int], bytes | None]]:
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


def _read_raster(source: Source, windows: np.ndarray) -> Iterator[tuple[np.ndarray | None, str | None]]:
    rasterio = _rasterio()
    from rasterio.enums import MaskFlags

    # The options are held while GDAL reads, not while the caller works: generators may be left in any order.
    with _dataset(source.path, source.allow_loopback, source) as (dataset, file):
        with rasterio.Env(**_GDAL):
            if (dataset.width, dataset.height) != (source.width, source.height) or dataset.count < max(source.bands):
                raise DataError(f"{_shown(source.path)} has changed since it was opened: start again")
            masked = any(MaskFlags.all_valid not in dataset.mask_flag_enums[band - 1] for band in source.bands)
            palette = _palette(dataset, source.bands)
        for batch in _batches(windows):
            with rasterio.Env(**_GDAL):
                results = [_read_window(dataset, source, window, masked, palette) for window in batch]
            if file and file.problem:
                raise DataError(file.problem)
            yield from results


def _batches(windows: np.ndarray) -> Iterator[list[list[float]]]:
    count = 1 if not len(windows) else max(1, int(_BATCH_BYTES // (3 * windows[:, 4].max() ** 2)))
    for start in range(0, len(windows), count):
        yield windows[start : start + count].tolist()


def _read_window(
    dataset, source: Source, window: list[float], masked: bool, palette: np.ndarray | None
) -> tuple[np.ndarray | None, str | None]:
    from rasterio.enums import Resampling
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    left, top, width, height, size = window
    plain = width == size and height == size
    shape = (len(source.bands), int(size), int(size))
    # Averages do not ring at edges of missing data; numbers of a palette cannot be averaged.
    how = (
        Resampling.nearest
        if plain or palette is not None
        else Resampling.average
        if width > size or height > size
        else Resampling.bilinear
    )
    place = Window(*(map(int, window[:4]) if plain else window[:4]))
    try:
        values = dataset.read(source.bands, window=place, out_shape=shape, resampling=how)
        valid = dataset.read_masks(source.bands, window=place, out_shape=shape).any(0) if masked else None
    except RasterioError:
        return None, "cannot be read"
    if palette is not None:
        colours = palette[np.minimum(values[0], len(palette) - 1)]
        seen = colours[..., 3] > 0
        return _finish(colours[..., :3], seen if valid is None else seen & valid, source)
    if np.issubdtype(values.dtype, np.floating):
        finite = np.isfinite(values).all(0)
        valid = finite if valid is None else valid & finite
    if source.limits:
        low, high = np.array(source.limits, np.float32).T[..., None, None]
        with np.errstate(invalid="ignore"):
            values = np.clip((values.astype(np.float32) - low) * (255.0 / (high - low)) + 0.5, 0, 255)
        values = np.where(np.isfinite(values), values, 0).astype(np.uint8)
    pixels = values.transpose(1, 2, 0)
    return _finish(pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2), valid, source)


def _palette(dataset, bands: tuple[int, ...]) -> np.ndarray | None:
    if len(bands) != 1 or dataset.colorinterp[bands[0] - 1].name != "palette":
        return None
    colours = dataset.colormap(bands[0])
    table = np.zeros((max(colours) + 1, 4), np.uint8)
    for number, colour in colours.items():
        table[number] = colour
    return table


@contextmanager
def _dataset(path: str, allow_loopback: bool, source: Source | None = None) -> Iterator[tuple]:
    """Yield the open raster, on the grid of its source where one is given, and the file behind a URL."""
    rasterio = _rasterio()
    from affine import Affine
    from rasterio.enums import MaskFlags, Resampling
    from rasterio.vrt import WarpedVRT

    with ExitStack() as stack:
        file, remote = None, "://" in path
        suffix = Path(urlsplit(path).path if remote else path).suffix.lower()
        driver = DRIVERS.get(suffix, "GTiff")
        # For a URL, GDAL would also ask for half a dozen files beside it.
        beside = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"} if remote else {}
        if remote:
            file = _WebFile(path, allow_loopback)
            stack.callback(file.disconnect)
        try:
            opener = _Container(file) if file else None
            with rasterio.Env(**_GDAL, **beside):
                dataset = stack.enter_context(rasterio.open("imagery" if file else path, driver=driver, opener=opener))
        except rasterio.errors.RasterioError as error:
            raise DataError(
                (file and file.problem)
                or f"{_shown(path)} cannot be read as a {driver} raster: it is broken, cut short or of another format"
            ) from error
        if source and source.warped:
            x0, pixel_width, y0, pixel_height = source.transform
            bare = all(flags == [MaskFlags.all_valid] for flags in dataset.mask_flag_enums)
            straight = dataset.transform.b == 0 and dataset.transform.d == 0
            smooth = not straight and dataset.colorinterp[0].name != "palette"
            dataset = stack.enter_context(
                WarpedVRT(
                    dataset,
                    crs=dataset.crs,
                    transform=Affine(pixel_width, 0, x0, 0, -pixel_height, y0),
                    width=source.width,
                    height=source.height,
                    resampling=Resampling.bilinear if smooth else Resampling.nearest,
                    add_alpha=bare,
                )
            )
        yield dataset, file


# Files on the web


class _WebFile(io.RawIOBase):
    """A file on a web server, read by ranges. It is read here and not by GDAL, which follows redirects to any address."""

    BLOCK = 32_768
    KEPT_BLOCKS = 2048
    LONGEST_S = 120.0

    def __init__(self, url: str, allow_loopback: bool):
        self._url, self._allow_loopback = url, allow_loopback
        self._position, self._blocks, self._connection = 0, OrderedDict(), None
        self.problem, self.size = "", 0
        first = self._request(0, 2 * self.BLOCK)
        for number in range(-(-len(first) // self.BLOCK)):
            self._blocks[number] = first[number * self.BLOCK : (number + 1) * self.BLOCK]

    def fingerprint(self) -> str:
        """Hash the size, the beginning and the end."""
        digest = hashlib.sha256(f"{self.size}\n".encode())
        for start in (0, max(0, self.size - 2 * self.BLOCK)):
            self.seek(start)
            digest.update(self.read(2 * self.BLOCK))
        if self.problem:
            raise DataError(self.problem)
        return digest.hexdigest()

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, count: int = -1) -> bytes:
        start = min(self._position, self.size)
        stop = self.size if count < 0 else min(start + count, self.size)
        numbers = range(start // self.BLOCK, -(-stop // self.BLOCK))
        missing = [number for number in numbers if number not in self._blocks]
        if missing:
            # One request from the first missing block to the last: servers answer one long range faster than many short ones.
            try:
                data = self._request(missing[0] * self.BLOCK, min((missing[-1] + 1) * self.BLOCK, self.size))
            except DataError as error:
                # GDAL cannot pass an error on: it sees the end of the file, and whoever asked it looks at `problem`.
                self.problem = str(error)
                return b""
            for number in range(missing[0], missing[-1] + 1):
                at = (number - missing[0]) * self.BLOCK
                self._blocks[number] = data[at : at + self.BLOCK]
        data = b"".join(self._blocks[number] for number in numbers)
        for number in numbers:
            self._blocks.move_to_end(number)
        while len(self._blocks) > self.KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        first = numbers.start * self.BLOCK if numbers else start
        self._position = stop
        return data[start - first : stop - first]

    def close(self) -> None:
        """Stay open: GDAL closes and reopens as it likes; `disconnect` ends it."""

    def disconnect(self) -> None:
        """Close the connection."""
        if self._connection:
            self._connection.close()
        self._connection = None

    def _request(self, start: int, stop: int) -> bytes:
        why = ""
        for attempt in range(4):
            if attempt:
                self.disconnect()
                time.sleep(0.25 * 2**attempt)
            try:
                status, headers, body = self._follow(
                    {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}, stop - start
                )
            except (OSError, ValueError, http.client.HTTPException) as error:
                why = f"{type(error).__name__}: {error}"
                continue
            match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", ""))
            if status == 206 and match and int(match[1]) == start and len(body) == int(match[2]) - start + 1:
                total = int(match[3])
                if self.size and total != self.size:
                    self._fail(f"changed from {self.size} to {total} bytes while it was read: start again")
                if len(body) == min(stop, total) - start:
                    self.size = total
                    return body
            why = f"status {status}"
            if status == 200:
                self._fail("comes from a server that does not serve parts of files: download it first")
            if status != 206 and status != 429 and status < 500:
                break
        self._fail(f"cannot be read ({why}): check the address, or try again later")

    def _fail(self, what: str):
        self.problem = f"{_shown(self._url)} {what}"
        raise DataError(self.problem)

    def _follow(self, headers: dict[str, str], most: int) -> tuple[int, http.client.HTTPMessage, bytes]:
        for _ in range(6):
            parts = urlsplit(self._url)
            if self._connection is None:
                self._connection = _connect_web(parts, self._allow_loopback, _shown(self._url))
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            self._connection.request("GET", target, headers={"User-Agent": "rsvlm", **headers})
            response = self._connection.getresponse()
            if response.status not in (301, 302, 303, 307, 308):
                # One byte more than asked for tells of a server that sends everything.
                body, deadline = b"", time.monotonic() + self.LONGEST_S
                while response.status == 206 and len(body) <= most and (piece := response.read1(most + 1 - len(body))):
                    body += piece
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{len(body)} bytes in {self.LONGEST_S:.0f} s")
                response.close()  # or the connection would not be used again
                if response.status != 206 or len(body) > most:
                    self.disconnect()
                return response.status, response.headers, body
            self.disconnect()
            self._url = urljoin(self._url, response.headers.get("Location", ""))
        self._fail("is redirected more than five times")


class _Container:
    """What GDAL sees of the web: one file named `imagery`, and nothing beside it."""

    def __init__(self, file: _WebFile):
        self._file = file

    def open(self, path: str, mode: str = "r") -> _WebFile:
        if path != "imagery":
            raise FileNotFoundError(path)
        self._file.seek(0)
        return self._file

    def isfile(self, path: str) -> bool:
        return path == "imagery"

    def isdir(self, path: str) -> bool:
        return False

    def ls(self, path: str) -> list[str]:
        return []

    def mtime(self, path: str) -> int:
        return 0

    def size(self, path: str) -> int:
        return self._file.size


def _connect_web(parts, allow_loopback: bool, shown: str) -> http.client.HTTPConnection:
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise DataError(f"{shown} is not an http(s) address without user name, so it is not opened")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise OSError(f"the host cannot be found ({error})") from error
    for entry in found:
        _check_address(entry[4][0], allow_loopback, shown)
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.hostname, port, timeout=30, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=30)
    connection.connect()
    try:
        # Again for the address that answered: a name may have changed its address since it was looked up.
        _check_address(connection.sock.getpeername()[0], allow_loopback, shown)
    except DataError:
        connection.close()
        raise
    return connection


def _check_address(text: str, allow_loopback: bool, shown: str) -> None:
    address = ipaddress.ip_address(text.split("%")[0])
    address = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
    if address in ipaddress.ip_network("64:ff9b::/96"):
        address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.is_loopback and allow_loopback:
        return
    if not address.is_global or address.is_multicast:
        raise DataError(
            f"{shown} lies on this machine or in a private network, which is not read (chips.allow_loopback for this machine)"
        )


# Small things


def _shown(path: str) -> str:
    """Return a path or URL as it may be shown: without query and user name, which may hold keys."""
    if "://" not in path:
        return path
    parts = urlsplit(path)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _name(text: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:40] or "imagery"
    return clean if clean == text else f"{clean}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:6]}"


def _clean(text: object) -> str:
    """Return text from a file without control characters, and not too long."""
    return (
        re.sub(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+", " ", text).strip()[:300]
        if isinstance(text, str)
        else ""
    )


def _fingerprint(path: Path, pieces: int = 64, piece: int = 65_536) -> str:
    """Hash the size of a file and pieces evenly spread over it (all of it up to 4 MB), and its companions' sizes."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    starts = (
        range(0, size, piece) if size <= pieces * piece else np.linspace(0, size - piece, pieces).astype(np.int64).tolist()
    )
    with open(path, "rb") as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(piece))
    for ending in (".aux.xml", ".msk", ".ovr"):
        companion = path.with_name(path.name + ending)
        digest.update(f"{ending} {companion.stat().st_size if companion.is_file() else 0}\n".encode())
    return digest.hexdigest()


def _missing(package: str) -> MissingExtraError:
    return MissingExtraError(f'the package {package} is not installed: pip install "rsvlm[data]"')


def _rasterio():
    try:
        import rasterio
        import rasterio.errors
    except ImportError as error:
        raise _missing("rasterio") from error
    return rasterio


def _pyproj():
    try:
        import pyproj
    except ImportError as error:
        raise _missing("pyproj") from error
    return pyproj
