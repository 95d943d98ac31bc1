"""Labels that people give to chips, as a GeoJSON file: read, edited, written, and laid on the chips of an index.

A feature is a point or a polygon in longitude and latitude, with flat properties, as QGIS opens and edits them:

    label   `yes` or `no`; null or empty: nobody has said yet
    key     the chip that is meant; without one, or with one that the index does not have, the place decides

A point labels, among the chips that show it, the one whose middle is nearest; a polygon those whose middles lie in it, or, where there
are none, the one that shows a point inside it. Whatever else a file holds is kept when it is written again.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rsvlm.errors import DataError, need
from rsvlm.records import files, text

YES, NO = "yes", "no"

MOST_BYTES = 64 * 2**20
"""Largest file that is read: labels are given by hand, or drawn."""

MOST_POINTS = 1_000_000
"""Most corners of all shapes of a file together."""

_WORDS = {"yes": YES, "y": YES, "true": YES, "1": YES, "no": NO, "n": NO, "false": NO, "0": NO, "": None}
_TURNS = (0.0, -360.0, 360.0)  # a place on the other side of the 180th meridian has two names
_EDGES = ((np.min, np.inf), (np.max, -np.inf))
_LONGEST = 40  # of a wrong word that a message repeats


@dataclass(frozen=True)
class Placed:
    """Labels on chips.

    Attributes:
        rows: (n,) int64, numbers of the chips, none twice, in the order of their labels.
        yes: (n,) bool.
        both: Numbers of the chips that were given both labels, and so have none.
        left_out: How many labels, and chips with both, are not used, by reason.
    """

    rows: np.ndarray
    yes: np.ndarray
    both: list[int]
    left_out: dict[str, int]


def read(path: Path | str, otherwise: str | None = None) -> list[dict]:
    """Read a file of labels.

    Args:
        path: GeoJSON: a FeatureCollection, or one Feature.
        otherwise: `yes` or `no`, which features have that say nothing. If None, they stay without.

    Returns:
        Its features, each with a `label` among its properties that is `yes`, `no` or None; and otherwise as they are.

    Raises:
        DataError: The file is too large, or no GeoJSON in longitude and latitude; or a feature's label is another word, its key no
            text, or its geometry broken: the message gives its number, from 1.
    """
    path = Path(path)
    wants = "give a GeoJSON file of points or polygons, with a property label that is yes or no"
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise DataError(f"{path} has {size / 2**20:,.0f} MB; labels are read up to {MOST_BYTES / 2**20:.0f}: {wants}")
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        kind = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise DataError(f"{path} cannot be read ({text.one_line(kind)}): {wants}") from None
    content = {"features": [content]} if isinstance(content, dict) and content.get("type") == "Feature" else content
    features = content.get("features") if isinstance(content, dict) else None
    if not isinstance(features, list) or not all(isinstance(one, dict) for one in features):
        raise DataError(f"{path} is no GeoJSON with a list of features: {wants}")
    _check_crs(content, path)
    corners = 0
    result = []
    for number, feature in enumerate(features, 1):
        where = f"{path}, feature {number}"
        properties = feature.get("properties")
        if not isinstance(properties, dict | None):
            raise DataError(f"{where}: its properties are no object: {wants}")
        label = _label((properties or {}).get("label"), where) or otherwise
        if not isinstance((properties or {}).get("key"), str | None):
            raise DataError(f"{where}: its key is no text: leave it out, or give that of a chip")
        corners += _check_geometry(feature.get("geometry"), where)
        if corners > MOST_POINTS:
            raise DataError(f"{where}: more than {MOST_POINTS:,} corners up to here: simplify the shapes")
        result.append({**feature, "type": "Feature", "properties": {**(properties or {}), "label": label}})
    return result


def write(path: Path | str, features: Sequence[Mapping]) -> Path:
    """Write features as a file that `read` and QGIS open, in one step, and return its path."""
    content = {"type": "FeatureCollection", "features": list(features)}
    return files.write_atomic(path, json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n")


def feature(chip: Mapping, label: str | None, **more: object) -> dict:
    """Make the feature of a chip: its outline, `label`, `key`, and whatever else is given.

    Args:
        chip: Row of an index's chip table, with `key` and `outline`.
        label: `yes`, `no`, or None where nobody has said yet.
        more: Further properties; numbers and texts, so that they become columns.
    """
    ring = _ring(chip)
    ring = np.concatenate([ring[:1], ring[::-1]]).round(8).tolist()  # counter-clockwise, as GeoJSON has it
    properties = {"label": label, "key": str(chip["key"]), **more}
    return {"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [ring]}}


def edited(features: Sequence[Mapping], chips: Iterable[Mapping], label: str | None, **more: object) -> list[dict]:
    """Give chips a label, whether they had one or not.

    Args:
        features: Features as from `read`.
        chips: Rows of an index's chip table, as for `feature`.
        label: `yes` or `no`; None takes labels away.
        more: Further properties of these chips.

    Returns:
        The features in their order, new ones last; those of other chips, and those without a key, are as they were.
    """
    new = {str(chip["key"]): feature(chip, label, **more) for chip in chips}
    result = []
    for one in features:
        key = (one.get("properties") or {}).get("key")
        changed = new.pop(key, None) if key is not None else None
        if changed is None:
            result.append(dict(one))
        elif label is not None:
            result.append({**one, "properties": {**one["properties"], **changed["properties"]}})
    return result + ([] if label is None else list(new.values()))


def place(features: Sequence[Mapping], chips: pd.DataFrame) -> Placed:
    """Lay labels on the chips of an index.

    A chip with both labels has none: which of the two holds, nobody can know here.

    Args:
        features: Features as from `read`; those without a label are passed over.
        chips: N rows, with `key lon lat west south east north outline`.

    Raises:
        MissingExtraError: A place has to be looked up, and shapely is not installed.
    """
    left_out: Counter[str] = Counter()
    number_of = {key: row for row, key in enumerate(chips["key"])}
    votes: dict[int, set[str]] = {}
    unkeyed = []
    labelled = [one for one in features if (one.get("properties") or {}).get("label") in (YES, NO)]
    for one in labelled:
        row = number_of.get(one["properties"].get("key"))
        if row is None:
            unkeyed.append(one)
        elif _is_elsewhere(one, chips, row):
            left_out["key of a chip that lies elsewhere: labels of another archive"] += 1
        else:
            votes.setdefault(row, set()).add(one["properties"]["label"])
    if unkeyed:
        for one, rows in zip(unkeyed, _under(unkeyed, chips)):
            if isinstance(rows, str):
                left_out[rows] += 1
            for row in rows if not isinstance(rows, str) else ():
                votes.setdefault(row, set()).add(one["properties"]["label"])
    both = [row for row, labels in votes.items() if len(labels) > 1]
    if both:
        left_out["chip with both yes and no, as " + text.one_line(str(chips["key"].iloc[min(both)]))[:80]] = len(both)
    rows = np.array([row for row in votes if row not in set(both)], np.int64)
    return Placed(rows, np.array([votes[row] == {YES} for row in rows.tolist()], bool), sorted(both), dict(left_out))


def _label(value: object, where: str) -> str | None:
    """Read a label as people and programs write it; a column of 1, 0 and nothing is one of 1.0 and 0.0 in a table."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    word = str(value).strip().lower() if isinstance(value, str | int | float | bool) else "" if value is None else "?"
    if word not in _WORDS:
        told = text.one_line(str(value))[:_LONGEST]
        raise DataError(f"{where} has the label '{told}': expected yes or no, or nothing where it is still to be looked at")
    return _WORDS[word]


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _check_crs(content: Mapping, path: Path) -> None:
    """Refuse files in metres: coordinates of a label file are degrees."""
    crs = content.get("crs")
    name = crs.get("properties", {}).get("name") if isinstance(crs, dict) and isinstance(crs.get("properties"), dict) else None
    if name is not None and not str(name).upper().endswith(("CRS84", "EPSG::4326", "EPSG:4326")):
        told = text.one_line(str(name))[:_LONGEST]
        raise DataError(f"{path} is in '{told}': save it in longitude and latitude (EPSG:4326)")


def _check_geometry(geometry: object, where: str) -> int:
    """Return the number of corners of a geometry, if it is a whole one of points or polygons in degrees."""
    if geometry is None:
        return 0
    depths = {"Point": 0, "MultiPoint": 1, "Polygon": 2, "MultiPolygon": 3}
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if not isinstance(kind, str) or kind not in depths:
        told = text.one_line(str(kind))[:_LONGEST]
        raise DataError(f"{where} is a '{told}': expected a point or a polygon")
    level = [geometry.get("coordinates")]
    for _ in range(depths[kind]):
        if not all(isinstance(part, list) for part in level):
            raise DataError(f"{where}: its coordinates are not those of a {kind}")
        level = [point for part in level for point in part]
    for point in level:
        if not isinstance(point, list) or len(point) < 2 or not all(_is_number(value) for value in point[:2]):
            raise DataError(f"{where}: a corner is no pair of finite numbers")
        if not (-360 <= point[0] <= 540 and -90 <= point[1] <= 90):
            raise DataError(f"{where} has a corner at {point[0]:g}, {point[1]:g}: expected longitude and latitude in degrees")
    return len(level)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 and math.isfinite(value)


def _ring(chip: Mapping) -> np.ndarray:
    """Outline of a chip, (k, 2), clockwise, its first corner not repeated."""
    return np.asarray(chip["outline"], float).reshape(-1, 2)


def _is_elsewhere(one: Mapping, chips: pd.DataFrame, row: int) -> bool:
    """Say whether a label's shape lies wholly outside the box around the chip that its key names, as in another archive."""
    corners = _corners(one.get("geometry"))
    if not len(corners):
        return False
    ring = _ring(chips.iloc[row].to_dict())
    low, high = ring.min(axis=0) - 1e-6, ring.max(axis=0) + 1e-6
    turns = [corners + [turn, 0] for turn in _TURNS]
    return not any((part.max(axis=0) >= low).all() and (part.min(axis=0) <= high).all() for part in turns)


def _corners(geometry: Mapping | None) -> np.ndarray:
    """All corners of a geometry that `read` let pass, (k, 2)."""
    parts = [geometry["coordinates"]] if geometry else []
    while parts and isinstance(parts[0], list) and parts[0] and isinstance(parts[0][0], list):
        parts = [inner for part in parts for inner in part]
    return np.array([part[:2] for part in parts if part], float).reshape(-1, 2)


def _under(features: Sequence[Mapping], chips: pd.DataFrame) -> list[list[int] | str]:
    """Return for each feature the numbers of the chips that its place labels, or why there are none."""
    shapely = need("shapely", "data")
    corners = [_corners(one.get("geometry")) for one in features]
    low, high = (edge(np.concatenate([*corners, np.empty((0, 2))]), axis=0, initial=start) for edge, start in _EDGES)
    west, south, east, north = chips[["west", "south", "east", "north"]].to_numpy(np.float64).T
    near = np.zeros(len(chips), bool)
    for turn in _TURNS:
        near |= (west <= high[0] + turn) & (east >= low[0] + turn) & (south <= high[1]) & (north >= low[1])
    rows = np.flatnonzero(near)
    outlines = np.array([shapely.polygons(_ring(chip)) for chip in chips.iloc[rows].to_dict("records")], object)
    middles = chips[["lon", "lat"]].to_numpy(np.float64)[rows]
    trees = shapely.STRtree(outlines), shapely.STRtree(shapely.points(middles))
    result: list[list[int] | str] = []
    for one in features:
        if not one.get("geometry"):
            result.append("without a place, and with no key of this index")
            continue
        shape = shapely.make_valid(shapely.from_geojson(json.dumps(one["geometry"]), on_invalid="ignore"))
        if shape is None or shape.is_empty:
            result.append("with a shape that cannot be used")
            continue
        shapes = shapely.get_parts(shape).tolist()
        chosen = {row for shape in shapes for row in _under_shape(shape, middles, *trees)}
        result.append(rows[sorted(chosen)].tolist() or "outside the imagery")
    return result


def _under_shape(shape, middles: np.ndarray, by_outline, by_middle) -> set[int]:
    """Numbers of the chips that one point or polygon labels; a place may be named a turn of the Earth away."""
    import shapely

    turned = [shapely.transform(shape, lambda xy, turn=turn: xy + [turn, 0]) for turn in _TURNS]
    if shapely.area(shape) > 0:
        rows = {int(row) for one in turned for row in by_middle.query(one, predicate="intersects")}
        if rows:
            return rows
    for point in map(shapely.point_on_surface, turned):
        near = by_outline.query(point, predicate="intersects")
        if near.size:
            x, y = shapely.get_x(point), shapely.get_y(point)
            away = np.hypot((middles[near, 0] - x) * np.cos(np.radians(y)), middles[near, 1] - y)
            return {int(near[np.lexsort((near, away))[0]])}
    return set()
