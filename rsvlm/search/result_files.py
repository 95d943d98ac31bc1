"""Results of searches as files: GeoJSON, GeoPackage, and a table for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rsvlm.errors import need
from rsvlm.records import files, text

PROPERTIES = (
    "text",
    "rank",
    "score",
    "key",
    "source",
    "file",
    "scale",
    "model",
    "model_hash",
    "lon",
    "lat",
    "licence",
    "attribution",
)
"""What is said of each chip, where it is known."""


def features(matches: pd.DataFrame) -> dict:
    """Footprints of the chips of a table that `query` gave, as GeoJSON in longitude and latitude, with `PROPERTIES`."""
    members = []
    for row in matches.to_dict("records"):
        ring = np.asarray(row["outline"], float).reshape(-1, 2)
        # Counter-clockwise, as GeoJSON has it.
        ring = np.concatenate([ring[:1], ring[::-1]]).round(8).tolist()
        properties = {name: row[name] for name in PROPERTIES if name in row}
        properties |= {"score": round(float(row["score"]), 4)}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        members.append({"type": "Feature", "properties": properties, "geometry": geometry})
    return {"type": "FeatureCollection", "features": members}


def map_items(matches: pd.DataFrame, pictures: Sequence[np.ndarray | None]) -> list[dict]:
    """Return chips, each once, with what they answer, as `atlas.chips_map` takes them; black where a picture cannot be read."""
    items: dict[str, dict] = {}
    for row, picture in zip(matches.to_dict("records"), pictures, strict=True):
        ring = np.asarray(row["outline"], float).reshape(-1, 2)
        record = {
            "key": row["key"], "bbox_lonlat": [row[edge] for edge in ("west", "south", "east", "north")],
            "outline_lonlat": ring.tolist(), "gsd_m": row["gsd_m"], "captions": [row["file"]] if row["file"] else [],
            "attribution": row.get("attribution", ""),
        }  # fmt: skip
        image = np.zeros((64, 64, 3), np.uint8) if picture is None else picture
        item = items.setdefault(row["key"], {"record": record, "image": image})
        item["record"]["captions"].insert(0, f"{row['text']}: {row['rank']}., cosine {row['score']:.3f}")
    return list(items.values())


def write_geojson(path: Path, matches: pd.DataFrame) -> Path:
    """Write the footprints of chips as GeoJSON."""
    return files.write_atomic(path, json.dumps(features(matches), ensure_ascii=False))


def write_more(path: Path, polygons_in: str, gpkg: bool, table: bool) -> list[str]:
    """Write the polygons of a scene also as a GeoPackage, and as a table, beside their GeoJSON; return the names of the files.

    Args:
        path: The GeoJSON.
        polygons_in: What its coordinates are, as `scene_files.Grid` says.
        gpkg: Whether a GeoPackage is wanted.
        table: Whether a table is.
    """
    written = []
    members = json.loads(path.read_text(encoding="utf-8"))["features"] if gpkg or table else []
    if gpkg:
        crs = {"longitude, latitude": "EPSG:4326", "pixels, y downwards": None}.get(polygons_in, polygons_in)
        written.append(write_geopackage(path.with_suffix(".gpkg"), members, crs).name)
    if table:
        written.append(write_csv(path.with_suffix(".csv"), [one["properties"] for one in members]).name)
    return written


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write properties as a table, UTF-8 with a mark at its beginning; a cell that a spreadsheet would take for a formula has an apostrophe."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(
            [text.cell(text.one_line(value) if isinstance(value := row.get(name), str) else value) for name in names]
        )
    return files.write_atomic(path, "\ufeff" + buffer.getvalue())


def write_geopackage(path: Path, members: Sequence[Mapping], crs: str | None = "EPSG:4326") -> Path:
    """Write features, as GeoJSON has them, as a GeoPackage of one layer, `results`.

    Args:
        path: The file; what was there is replaced.
        members: Features with polygons, or with several; all have the same properties.
        crs: Coordinate system of their coordinates. If None, it is none of the Earth.

    Raises:
        MissingExtraError: pyogrio or shapely is not installed.
    """
    shapely, pyogrio = need("shapely.geometry", "data"), need("pyogrio.raw", "data")
    shapes = [shapely.shape(one["geometry"]) for one in members]
    names = list(dict.fromkeys(name for one in members for name in one["properties"]))
    columns = [_column([one["properties"].get(name) for one in members]) for name in names]
    kinds = {shape.geom_type for shape in shapes}
    form = {
        "driver": "GPKG",
        "layer": "results",
        "crs": crs,
        "geometry_type": kinds.pop() if len(kinds) == 1 else "MultiPolygon",
    }
    if form["geometry_type"] == "MultiPolygon":
        shapes = [shape if shape.geom_type == "MultiPolygon" else shapely.MultiPolygon([shape]) for shape in shapes]
    with files.replacing(path) as temporary:
        # Its driver wants the ending.
        package = temporary.with_name(f"{temporary.name}.gpkg")
        try:
            pyogrio.write(str(package), np.array([shape.wkb for shape in shapes], object), columns, np.array(names), **form)
            os.replace(package, temporary)
        finally:
            package.unlink(missing_ok=True)
    return Path(path)


def _column(values: list) -> np.ndarray:
    """Return a column of one type: numbers, those that are missing as NaN, or texts."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, (int, np.integer)) for value in known) and len(known) == len(values):
        return np.array(values, np.int64)
    if all(isinstance(value, (int, float, np.number)) for value in known):
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array([None if value is None else str(value) for value in values], object)
