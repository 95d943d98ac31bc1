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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from rsvlm.data.imagery import band_files, bands, chip_layout, tile_mosaics, values, windows
from rsvlm.data.imagery.chip_layout import COLUMNS, Source, clean, read_points
from rsvlm.data.imagery.remote import shown
from rsvlm.data.imagery.windows import DRIVERS
from rsvlm.errors import ConfigError, DataError
from rsvlm.records import text as texts

if TYPE_CHECKING:
    from rsvlm import config

log = logging.getLogger(__name__)
BATCH, BATCH_BYTES = 8, 8_000_000  # chips of a raster that are read at once, and what they may take


def open_imagery(
    where: str | Sequence[str], options: config.Chips, placed: bool = True, known: Mapping[str, Mapping] | None = None
) -> list[Source]:
    """Find the imagery behind a path or URL, or behind several, and what is needed to read it.

    Args:
        where: A GeoTIFF or JPEG 2000 file, its http(s) URL, a folder of those, a folder of XYZ tiles (`z/x/y.ext` or
            `x-y-z.ext` with any prefix), an MBTiles file, or a JSON file with STAC items; or several of these.
        options: Bands, stretch, and the least share of valid pixels.
        placed: Refuse a single raster that does not say where on Earth it lies. If False, its grid is its own pixels, `crs` is
            empty, and `bbox_lonlat` NaN.
        known: What was shown of sources that were opened before, as for `values.together`. If None, there is nothing.

    Returns:
        Sources in a stable order, each with another name. Bands of one scene, in files of their own, give one source. Tiles give one per zoom level that is not wholly covered by a better one: without `size_m`
        the deepest is best, else the coarsest that is fine enough. Broken files in a folder are in the notes of the first.

    Raises:
        ConfigError: The address is of a kind that is not read, or the options do not fit the imagery.
        DataError: Nothing is there, or it is broken, or it says not where on Earth it lies.
        MissingExtraError: rasterio or pyproj is not installed.
    """
    if isinstance(where, str):
        return values.together(_find_imagery(where, options, placed), options, known)
    sources = []
    for place in dict.fromkeys(where):
        opened = _find_imagery(place, options, placed)
        root = f"{place.rstrip('/')}/" if Path(place).is_dir() else ""
        if len(set(where)) > 1 and "://" not in place:
            # A folder of tiles is named by its root alone, which its tiles are relative to.
            files = [root if root and source.kind == "tiles" else root + source.file for source in opened]
            opened = [replace(source, file=file if root else place) for source, file in zip(opened, files)]
        sources += opened
    return values.together(_renamed(sources), options, known)


def _find_imagery(where: str, options: config.Chips, placed: bool) -> list[Source]:
    if where == "blue-marble":
        raise ConfigError("'blue-marble' is the embedded world image, which has its own layout: build without --imagery")
    if where.startswith("/vsi") or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", where):
        return _told_apart([_open_url(where, options)], Path())
    path = Path(where).expanduser().resolve()
    if path.is_dir():
        return _told_apart(_open_folder(path, options), path)
    if not path.is_file():
        raise DataError(f"{where} does not exist: give a raster, a folder, an MBTiles file, STAC JSON or an http(s) URL")
    if path.stat().st_size == 0:
        raise DataError(f"{where} has no bytes: download or copy it again")
    if path.suffix.lower() in (".json", ".geojson"):
        sources = _open_stac(path, options)
    elif path.suffix.lower() == ".mbtiles":
        sources = tile_mosaics.open_mbtiles(path, options)
    else:
        sources = [_open_raster(str(path), path.stem, options, placed)]
    return _told_apart(sources, path.parent)


def _told_apart(sources: Sequence[Source], root: Path) -> list[Source]:
    """Give sources their files, relative to a folder, and those that share a name others: keys of chips begin with it."""
    paths = [[source.path] if not source.bands_at else source.bands_at for source in sources]
    files = [" + ".join(_relative(path, root) for path in of_source) for of_source in paths]
    return _renamed([replace(source, file=file) for source, file in zip(sources, files, strict=True)])


def _renamed(sources: Sequence[Source]) -> list[Source]:
    """Give sources that share a name others, made of their files."""
    result, taken = [], set()
    # Names are files and folders too, and some systems do not tell small from capital letters.
    counts = Counter(source.name.casefold() for source in sources)
    for source in sources:
        shared = counts[source.name.casefold()] > 1
        file = source.file.rstrip("/")
        name = first = f"{source.name[:33]}-{chip_layout.name_of(file + '/').rpartition('-')[2]}" if shared else source.name
        number = 1
        while name.casefold() in taken or (number > 1 and name.casefold() in counts):
            number += 1
            name = f"{first}-{number}"
        taken.add(name.casefold())
        result.append(replace(source, name=name))
    return result


def _relative(path: str, root: Path) -> str:
    if "://" in path:
        return shown(path)
    relative = Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path
    return relative if relative != "." else root.name


def _open_url(url: str, options: config.Chips, text: str = "", named: Sequence[bands.Named] = (), group: str = "") -> Source:
    if not url.lower().startswith(("http://", "https://")):
        raise ConfigError(f"imagery is read from files and from http(s) addresses, not from '{url.split(':')[0][:40]}'")
    path = urlsplit(url).path
    if path.lower().endswith((".json", ".geojson", ".mbtiles", ".zip")):
        raise ConfigError(f"{shown(url)} is no raster: download it first, then give the file")
    return _open_raster(url, text or Path(path).stem or "imagery", options, named=named, group=group)


def _open_folder(path: Path, options: config.Chips) -> list[Source]:
    sources, notes = tile_mosaics.open_folder(path, options)
    named = (file for file in sorted(path.rglob("*")) if file.suffix.lower() in DRIVERS and not file.name.startswith("."))
    files = [file for file in named if not file.is_dir()]
    files, scenes, masks = band_files.gather(files, path, windows.open_file)
    notes += masks

    def add(file: Path, text: str, **bands) -> bool:
        try:
            sources.append(_open_raster(str(file), text, options, **bands))
        except DataError as error:
            log.warning("left out: %s", error)
            notes.append(("raster cannot be used", 1, str(error)[:300]))
            return False
        return True

    for file in files:
        add(file, file.relative_to(path).with_suffix("").as_posix())
    for scene in scenes:
        notes += scene.notes
        names, others = scene.chosen(options.bands), len(scene.bands)
        first = next(iter(scene.bands.values())).name
        if scene.pictures and not options.bands:
            for file in scene.pictures[:1]:
                add(file, file.relative_to(path).with_suffix("").as_posix())
            notes.append((band_files.PICTURED, others, first))
        elif not names:
            numbered = ", ".join(f"{number} {name}" for number, name in enumerate(scene.bands, 1))
            notes.append((band_files.COLOURLESS, others, f"{scene.text}: {numbered}"))
        elif add(scene.bands[names[0]], scene.text, bands_at=[str(scene.bands[name]) for name in names]):
            log.info("%s: %s are shown as %s", scene.text, ", ".join(names), "red, green, blue" if len(names) == 3 else "grey")
            if others > len(set(names)):
                unshown = ", ".join(f"{number} {name}" for number, name in enumerate(scene.bands, 1) if name not in names)
                notes.append((band_files.UNSHOWN, others - len(set(names)), f"{scene.text}: {unshown}"))
    if not sources:
        told = "; ".join(f"{reason} ({count}, as {example})" for reason, count, example in notes[:3])
        nothing = f"no GeoTIFF ({', '.join(DRIVERS)}) and no tiles named z/x/y.jpg or x-y-z.jpg (also png, webp)"
        raise DataError(f"{path} holds {f'no usable imagery: {told}' if notes else nothing}")
    return [replace(sources[0], notes=sources[0].notes + tuple(notes)), *sources[1:]]


def _open_stac(path: Path, options: config.Chips) -> list[Source]:
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): a STAC item, ItemCollection or search result was expected") from error
    items = document.get("features", [document]) if isinstance(document, dict) else None
    if not isinstance(items, list):
        raise DataError(f"{path} is neither a STAC item nor a list of items")
    sources, notes, listed, again = [], [], set(), []
    for number, item in enumerate(items):
        # A bad item is counted; so is one whose imagery cannot be opened, and one that is listed again, as servers do that page.
        try:
            hrefs = _stac_hrefs(item)
            identity = item["id"], str(item.get("collection")), *(href.partition("?")[0] for href in hrefs)
        except (DataError, ValueError, TypeError) as error:
            notes.append(("not a usable STAC item", 1, f"feature {number}: {error}"[:300]))
            continue
        if identity in listed:
            again.append(item["id"])
            continue
        listed.add(identity)
        try:
            about = {"named": bands.of_asset(item, hrefs[0]) if len(hrefs) == 1 else (), "group": bands.sensor(item)}
            if len(hrefs) == 1 and "://" in hrefs[0]:
                source = _open_url(hrefs[0], options, item["id"], **about)
            else:
                source = _open_beside(path, hrefs, item["id"], options, **about)
        except (DataError, ConfigError, ValueError) as error:
            notes.append(("asset cannot be used", 1, str(error)[:300]))
            continue
        licence = clean(item["properties"].get("license") or item.get("license")) or source.licence
        providers = item["properties"].get("providers")
        names = [one.get("name") for one in providers if isinstance(one, dict)] if isinstance(providers, list) else []
        attribution = clean(", ".join(str(name) for name in names if name)) or source.attribution
        sources.append(replace(source, licence=licence, attribution=attribution))
    if again:
        notes.append(("item that is listed again", len(again), again[0]))
    if not sources:
        raise DataError(f"{path} has no item that can be used; for example: {notes[0][2] if notes else 'it lists no items'}")
    return [replace(sources[0], notes=(*sources[0].notes, *notes)), *sources[1:]]


def _stac_hrefs(item: object) -> list[str]:
    """Return the address of the asset that shows a STAC item in colours, or those of its red, green and blue band.

    Taken is what has the role or name `visual`, else the only raster of data, else the assets of three bands.
    """
    fields = item if isinstance(item, dict) else {}
    name, properties, assets = (fields.get(key) for key in ("id", "properties", "assets"))
    if fields.get("type") != "Feature" or not isinstance(name, str) or not isinstance(properties, dict):
        raise DataError("an item has the type 'Feature', an id and properties")
    if not isinstance(assets, dict) or not all(
        isinstance(one, dict) and isinstance(one.get("href"), str) for one in assets.values()
    ):
        raise DataError(f"item {name!r} has no assets, or one without href")
    visual, data, colours = [], [], {}
    for key, asset in assets.items():
        kind, roles = str(asset.get("type")), asset.get("roles") or []
        if "tiff" in kind or "jp2" in kind or Path(urlsplit(asset["href"]).path).suffix.lower() in DRIVERS:
            visual += [asset["href"]] * (key == "visual" or "visual" in roles)
            data += [asset["href"]] * (key in ("data", "image") or "data" in roles)
            colours.setdefault(_stac_colour(key, asset), asset["href"])
    if visual or len(data) == 1:
        return [(visual or data)[0]]
    if {"red", "green", "blue"} <= set(colours):
        return [colours[colour] for colour in ("red", "green", "blue")]
    raise DataError(
        f"item {name!r} has {len(data)} raster assets with the role 'data', none with 'visual', and no three of the bands red, "
        "green and blue"
    )


def _stac_colour(key: str, asset: dict) -> str:
    """Return the colour of the one band that an asset holds, as its key or its bands say; empty where they say none."""
    described = asset.get("eo:bands") or asset.get("bands")
    if isinstance(described, list) and len(described) == 1 and isinstance(described[0], dict):
        return str(described[0].get("common_name") or described[0].get("eo:common_name") or key).lower()
    return key.lower() if not described else ""


def _open_beside(
    path: Path, hrefs: Sequence[str], name: str, options: config.Chips, named: Sequence[bands.Named] = (), group: str = ""
) -> Source:
    files = []
    for href in hrefs:
        if "://" in href:
            raise DataError(
                f"bands are put together from files alone: download '{shown(href)[:80]}' and name the file instead"
            )
        file = (path.parent / href).resolve()
        # A downloaded search result must not be able to name any file of this machine.
        if not file.is_relative_to(path.parent.resolve()):
            raise DataError(f"{path.name} names the file '{href[:80]}' outside its own folder: put the imagery beside it")
        if not file.is_file():
            raise DataError(f"{path.name} names the file '{href[:80]}', which is not there")
        files.append(str(file))
    return _open_raster(files[0], name, options, bands_at=files if len(files) > 1 else (), named=named, group=group)


def _open_raster(
    path: str,
    text: str,
    options: config.Chips,
    placed: bool = True,
    bands_at: Sequence[str] = (),
    named: Sequence[bands.Named] = (),
    group: str = "",
) -> Source:
    if "://" not in path and Path(path).suffix.lower() not in DRIVERS:
        known = ", ".join(DRIVERS)
        raise DataError(f"{path} is not of a format that is read ({known}): convert it with rio convert IN OUT.tif")
    label = shown(path)
    opening = windows.open_dataset(path, options.allow_loopback, bands_at=bands_at)
    with opening as (dataset, file), windows.environment():
        if dataset.tags(ns="OVERVIEWS"):
            raise DataError(f"{label} names another file as its overviews, which is not followed: copy it with rio convert")
        crs, transform = chip_layout.placed(dataset)
        in_pixels = not placed and (crs is None or transform.is_identity)
        if crs is None and not in_pixels:
            rough = " It has coefficients for a warp alone: gdalwarp -rpc IN OUT.tif" if dataset.rpcs else ""
            raise DataError(
                f"{label} does not say its coordinate system: set it, as with rio edit-info --crs EPSG:32629 FILE{rough}"
            )
        if (transform.is_identity or not transform.determinant) and not in_pixels:
            raise DataError(f"{label} does not say where it lies (no geotransform): set it with rio edit-info --transform")
        if any(kind.startswith("complex") for kind in dataset.dtypes):
            raise DataError(f"{label} holds complex numbers: write their magnitude to a GeoTIFF first")
        group = group or ("" if "://" in path else str(Path(path).parent))
        chosen = options.model_copy(update={"bands": ()}) if bands_at else options  # they have chosen the files
        meaning = values.read_meaning(dataset, chosen, label, named, group)
        size = dataset.width, dataset.height
        grid = ((0.0, 1.0, 0.0, -1.0), *size, False) if in_pixels else chip_layout.north_up(transform, *size)
        transform, width, height, warped = grid
        source = Source(
            name=chip_layout.name_of(text), path=path, kind="raster", licence="unknown",
            attribution=clean(dataset.tags().get("TIFFTAG_COPYRIGHT")),
            fingerprint=file.fingerprint() if file else chip_layout.fingerprint(*map(Path, bands_at or [path])),
            crs="" if in_pixels else crs.to_wkt(), transform=transform, width=width, height=height,
            bbox_lonlat=(np.nan,) * 4, min_valid_share=options.min_valid_share, warped=warped,
            allow_loopback=options.allow_loopback, bands_at=tuple(bands_at), **vars(meaning),
        )  # fmt: skip
    if in_pixels:
        return source
    try:
        box = chip_layout.footprints(source, *(np.array([float(v)]) for v in (0, 0, width, height)), fine=True)[0]
    except Exception as error:  # pyproj's errors, and those of coordinate systems that are not of the Earth
        raise DataError(f"{label}: its coordinate system cannot be turned into longitude and latitude ({error})") from error
    if not np.isfinite(box).all():
        raise DataError(f"{label} lies outside of what its coordinate system can express: check its CRS and geotransform")
    return replace(source, bbox_lonlat=tuple(box.tolist()))


def lay_out(
    sources: Sequence[Source],
    options: config.Chips,
    points: np.ndarray | Sequence | None = None,
    empty_ok: bool = False,
) -> tuple[pd.DataFrame, list[dict]]:
    """Lay out chips over sources.

    By grid, chips stand side by side (`stride` apart) inside every source: in pixels counted from the grid's corner, so that a
    chip keeps its key when the mosaic grows. By landmark or list, one chip is centred on each point, in the first source that
    holds it whole. What remains at edges is not used; a chip is never padded. With `size_m`, or where pixels are not square on
    the ground, the side in source pixels follows the ground at each chip's centre.

    Args:
        sources: As from `open_imagery`.
        options: Place, size and stride.
        points: `(N, 2)`, longitudes and latitudes in degrees, or a list of such pairs. If None, those of the file `options.points`.
        empty_ok: Return an empty table where no chip fits.

    Returns:
        A table with the columns `COLUMNS`, `split` empty; and notes `{source, stage, reason, count, examples}` on what is left out.

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
    placed, tables = np.zeros(len(waiting), bool), []
    for source in sources:
        tiles = tile_mosaics.present(source) if source.kind != "raster" else None
        if tiles is not None and len(holes := tile_mosaics.holes(tiles)):
            names = [f"{source.zoom}/{x}/{y}" for x, y in holes[:20].tolist()]
            notes.append(_note(source.name, "tile missing from the mosaic", len(holes), *names))
        numbers = np.flatnonzero(~placed)
        table, inside = chip_layout.place(source, options, None if points is None else waiting[numbers], tiles)
        outside = table["key"][~inside].head(5)
        table = table[inside]
        if points is None:
            if tiles is not None and len(outside):
                notes.append(_note(source.name, "chip needs a tile that is missing", int((~inside).sum()), *outside))
            if table.empty:
                notes.append(_note(source.name, "smaller than one chip", 1, f"{source.width} x {source.height} px"))
        else:
            placed[numbers[inside]] = True
            if keys:
                table = table.assign(key=[keys[i] or key for i, key in zip(numbers[inside], table["key"])])
        tables.append(table)
    if not placed.all():
        examples = [f"{lon:.6f},{lat:.6f}" for lon, lat in waiting[~placed][:5].tolist()]
        reason = "point not in the imagery, or nearer to its edge than half a chip"
        notes.append(_note("", reason, int((~placed).sum()), *examples))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    if (twice := table["key"].duplicated()).any():
        notes.append(_note("", "same chip twice", int(twice.sum()), *table["key"][twice].head(5)))
        table = table[~twice].reset_index(drop=True)
    if table.empty and not empty_ok:
        why = "; ".join(f"{note['reason']} ({note['count']})" for note in notes) or "there are no sources"
        raise DataError(
            f"no chip of {options.size_px} px fits into the imagery: {why}. Smaller chips (chips.size_px, chips.size_m) may"
        )
    return table, notes


def _note(source: str, reason: str, count: int, *examples: str) -> dict:
    return {"source": source, "stage": "imagery", "reason": reason, "count": count, "examples": list(examples)}


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
    places = chips[["left_px", "top_px", "width_px", "height_px", "size_px"]].to_numpy(np.float64).tolist()
    # Averages do not ring at edges of missing data.
    coarser, finer = ("average", "bilinear") if source.kind == "raster" else ("cubic", "cubic")
    count = max(1, min(BATCH, int(BATCH_BYTES // (3 * max((place[4] for place in places), default=1) ** 2))))
    with windows.open_windows(source) as reader:
        for batch in texts.batched(places, count if source.kind == "raster" else 1):
            wanted = []
            for left, top, width, height, size in batch:
                scaled = coarser if max(width, height) > size else finer
                resampling = "nearest" if width == height == size else scaled
                wanted.append(windows.Window(left, top, width, height, (int(size), int(size)), resampling))
            for picture in reader.read_all(wanted):
                yield _chip(picture, source.min_valid_share)


def _chip(picture: windows.Picture, min_valid_share: float) -> tuple[np.ndarray | None, str | None]:
    """Blacken pixels without data: `(S, S, 3)` and none, or none and a reason, as where too many of them hold no data."""
    valid = picture.valid
    if picture.reason or valid.all():
        return (None, picture.reason) if picture.reason else (picture.pixels, None)
    if valid.mean() < min_valid_share or not valid.any():
        return None, "too little data" if valid.any() else "all nodata"
    return np.where(valid[..., None], picture.pixels, 0).astype(np.uint8), None
