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

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from rsvlm.data.imagery import chip_layout, tile_mosaics, windows
from rsvlm.data.imagery.chip_layout import COLUMNS, Source, clean, corners, read_points
from rsvlm.data.imagery.remote import shown
from rsvlm.data.imagery.windows import DRIVERS
from rsvlm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rsvlm import config

__all__ = ["COLUMNS", "Source", "corners", "lay_out", "open_imagery", "read", "read_points"]

log = logging.getLogger(__name__)

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
        raise DataError(f"{where} does not exist: give a raster, a folder, an MBTiles file, STAC JSON or an http(s) URL")
    if path.stat().st_size == 0:
        raise DataError(f"{where} has no bytes: download or copy it again")
    if path.suffix.lower() in (".json", ".geojson"):
        return _open_stac(path, options)
    if path.suffix.lower() == ".mbtiles":
        return tile_mosaics.open_mbtiles(path, options)
    return [_open_raster(str(path), path.stem, options)]


def _open_url(url: str, options: config.Chips, text: str = "") -> Source:
    if not url.lower().startswith(("http://", "https://")):
        raise ConfigError(f"imagery is read from files and from http(s) addresses, not from '{url.split(':')[0][:40]}'")
    path = urlsplit(url).path
    if path.lower().endswith((".json", ".geojson", ".mbtiles", ".zip")):
        raise ConfigError(f"{shown(url)} is no raster: download it first, then give the file")
    return _open_raster(url, text or Path(path).stem or "imagery", options)


def _open_folder(path: Path, options: config.Chips) -> list[Source]:
    sources, notes = tile_mosaics.open_folder(path, options)
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() not in DRIVERS or file.name.startswith("."):
            continue
        try:
            sources.append(_open_raster(str(file), file.relative_to(path).with_suffix("").as_posix(), options))
        except DataError as error:
            log.warning("left out: %s", error)
            notes.append(("raster cannot be used", 1, str(error)[:300]))
    if not sources:
        nothing = f"no GeoTIFF ({', '.join(DRIVERS)}) and no tiles named z/x/y.jpg or x-y-z.jpg (also png, webp)"
        raise DataError(f"{path} holds {f'no usable imagery; for example: {notes[0][2]}' if notes else nothing}")
    return [replace(sources[0], notes=sources[0].notes + tuple(notes)), *sources[1:]]


def _open_stac(path: Path, options: config.Chips) -> list[Source]:
    try:
        import pystac
    except ImportError as error:
        raise chip_layout.missing("pystac") from error
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
            if "://" in asset.href:
                source = _open_url(asset.href, options, item.id)
            else:
                source = _open_beside(path, asset.href, item.id, options)
        except (DataError, ConfigError) as error:
            notes.append(("asset cannot be used", 1, str(error)[:300]))
            continue
        licence = clean(item.properties.get("license") or feature.get("license")) or source.licence
        providers = clean(", ".join(str(p.name) for p in item.common_metadata.providers or [])) or source.attribution
        sources.append(replace(source, licence=licence, attribution=providers))
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
    if "://" not in path and Path(path).suffix.lower() not in DRIVERS:
        known = ", ".join(DRIVERS)
        raise DataError(f"{path} is not of a format that is read ({known}): convert it with rio convert IN OUT.tif")
    label = shown(path)
    with windows.open_dataset(path, options.allow_loopback) as (dataset, file), windows.environment():
        if dataset.tags(ns="OVERVIEWS"):
            raise DataError(f"{label} names another file as its overviews, which is not followed: copy it with rio convert")
        if dataset.crs is None:
            raise DataError(f"{label} does not say its coordinate system: set it, as with rio edit-info --crs EPSG:32629 FILE")
        if dataset.transform.is_identity or not dataset.transform.determinant:
            raise DataError(f"{label} does not say where it lies (no geotransform): set it with rio edit-info --transform")
        if any(kind.startswith("complex") for kind in dataset.dtypes):
            raise DataError(f"{label} holds complex numbers: write their magnitude to a GeoTIFF first")
        bands = windows.shown_bands(dataset, options.bands, label)
        transform, width, height, warped = chip_layout.north_up(dataset.transform, dataset.width, dataset.height)
        source = Source(
            name=chip_layout.name_of(text),
            path=path,
            kind="raster",
            licence="unknown",
            attribution=clean(dataset.tags().get("TIFFTAG_COPYRIGHT")),
            fingerprint=file.fingerprint() if file else chip_layout.fingerprint(Path(path)),
            crs=dataset.crs.to_wkt(),
            transform=transform,
            width=width,
            height=height,
            bands=bands,
            limits=windows.value_limits(dataset, bands, options, label),
            min_valid_share=options.min_valid_share,
            warped=warped,
            allow_loopback=options.allow_loopback,
        )
    try:
        box = chip_layout.footprints(source, *(np.array([float(v)]) for v in (0, 0, width, height)), fine=True)[0]
    except Exception as error:  # pyproj's errors, and those of coordinate systems that are not of the Earth
        raise DataError(f"{label}: its coordinate system cannot be turned into longitude and latitude ({error})") from error
    if not np.isfinite(box).all():
        raise DataError(f"{label} lies outside of what its coordinate system can express: check its CRS and geotransform")
    return replace(source, bbox_lonlat=tuple(box.tolist()))


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
    keys: list[str] = []
    if options.place == "grid":
        points = None
    elif points is None:
        if not options.points:
            raise ConfigError(f"chips.place={options.place} needs points: give a CSV or GeoJSON file with chips.points")
        points, keys, skipped = read_points(Path(options.points))
        notes += [_note(Path(options.points).name, *note) for note in skipped]
    waiting = np.zeros((0, 2)) if points is None else np.asarray(points, np.float64).reshape(-1, 2)
    found, tables = np.zeros(len(waiting), bool), []
    for source in sources:
        tiles = tile_mosaics.present(source) if source.kind != "raster" else None
        if tiles is not None and len(holes := tile_mosaics.holes(tiles)):
            names = [f"{source.zoom}/{x}/{y}" for x, y in holes[:20].tolist()]
            notes.append(_note(source.name, "tile missing from the mosaic", len(holes), *names))
        numbers = np.flatnonzero(~found)
        table, inside = chip_layout.place(source, options, None if points is None else waiting[numbers], tiles)
        outside = table["key"][~inside].head(5)
        table = table[inside]
        if points is None:
            if tiles is not None and len(outside):
                notes.append(_note(source.name, "chip needs a tile that is missing", int((~inside).sum()), *outside))
            if table.empty:
                notes.append(_note(source.name, "smaller than one chip", 1, f"{source.width} x {source.height} px"))
        else:
            found[numbers[inside]] = True
            if keys:
                table = table.assign(key=[keys[i] or key for i, key in zip(numbers[inside], table["key"])])
        tables.append(table)
    if not found.all():
        examples = [f"{lon:.6f},{lat:.6f}" for lon, lat in waiting[~found][:5].tolist()]
        reason = "point not in the imagery, or nearer to its edge than half a chip"
        notes.append(_note("", reason, int((~found).sum()), *examples))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    if (twice := table["key"].duplicated()).any():
        notes.append(_note("", "same chip twice", int(twice.sum()), *table["key"][twice].head(5)))
        table = table[~twice].reset_index(drop=True)
    if table.empty:
        why = "; ".join(f"{note['reason']} ({note['count']})" for note in notes) or "there are no sources"
        raise DataError(
            f"no chip of {options.size_px} px fits into the imagery: {why}. Smaller chips (chips.size_px, chips.size_m) may"
        )
    return table, notes


def _note(source: str, reason: str, count: int, *examples: str) -> dict:
    return {"source": source, "stage": "imagery", "reason": reason, "count": count, "examples": list(examples)}


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
    places = chips[["left_px", "top_px", "width_px", "height_px", "size_px"]].to_numpy(np.float64)
    with windows.open_windows(source) as reader:
        for left, top, width, height, size in places.tolist():
            if width == height == size:
                resampling = "nearest"
            elif source.kind != "raster":
                resampling = "cubic"
            else:  # averages do not ring at edges of missing data
                resampling = "average" if max(width, height) > size else "bilinear"
            window = windows.Window(left, top, width, height, (int(size), int(size)), resampling)
            yield _chip(reader.read(window), source.min_valid_share)


def _chip(picture: windows.Picture, min_valid_share: float) -> tuple[np.ndarray | None, str | None]:
    """Blacken pixels without data: `(S, S, 3)` and none, or none and a reason, as where too many of them hold no data."""
    if picture.reason:
        return None, picture.reason
    if picture.valid.all():
        return picture.pixels, None
    if not picture.valid.any():
        return None, "all nodata"
    if picture.valid.mean() < min_valid_share:
        return None, "too little data"
    return np.where(picture.valid[..., None], picture.pixels, 0).astype(np.uint8), None
