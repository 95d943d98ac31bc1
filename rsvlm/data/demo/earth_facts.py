"""What captions may say about a chip: what the map knows of it, and what is measured on its pixels.

A chip is divided into nine sectors, three by three, and everything is placed by sector, because "in the northwest" is what a
caption can say and a model can learn. Colour words come from measured pixels alone.

Categories of landmarks: `sea`, `lake`, `island`, `river`, `national border`, `state border`, `city`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rsvlm.data.demo import earth_kernels, earth_layout
from rsvlm.data.demo.earth_map import CITY_SOURCE, KM_PER_DEGREE, LAKE, LAND, MAP_SOURCE, SEA, Map, Points, shares
from rsvlm.data.landmarks.directions import SECTORS, direction, sectors

BELTS = ((23.5, "tropical"), (35.0, "subtropical"), (55.0, "temperate"), (66.5, "subpolar"), (90.0, "polar"))
"""Latitude belts: the absolute latitude, in degrees, up to which each reaches."""

ONE_SIDE = 0.8
"""Share of the sea that must lie in front of the rest, seen from the rest's middle, for the sea to lie on one side."""

_MOST_LANDMARKS, _MOST_CITIES = 16, 10  # of a chip


def describe(world: Map, table: pd.DataFrame, images: np.ndarray) -> list[dict]:
    """Collect everything that captions may say about chips.

    Args:
        world: The map.
        table: Chips of one size, as from `earth_layout.chips`.
        images: `(N, S, S, 3)`, uint8, their pixels.

    Returns:
        One dictionary per chip: `key`, `measurements` (shares, colour words, texture and map facts by sector) and `landmarks`, most
        prominent first: dictionaries of `name category`, `lon lat` of its middle in degrees, `position` (the sector that holds the
        middle), `area_km2` (of the whole; none for lines and cities), `length_km` (inside the chip; none for areas and cities),
        `population` (none but for cities), `share` (of the chip that it covers, 0 to 1; none for lines and cities), `prominence`
        (0 to 1, comparable between categories: root of the share for areas, length over twice the chip's side for lines,
        log10(population) / 8 for cities), `source license`.
    """
    boxes = np.ascontiguousarray(table[earth_layout.BOX].to_numpy(np.float64))
    side_km = (boxes[:, 3] - boxes[:, 1]) * KM_PER_DEGREE
    measurements = _measure(world, boxes, images)
    lengths = {category.replace(" ", "_"): _line_lengths(*line, boxes) for category, line in world.lines.items()}
    areas = _areas(world, boxes, side_km)
    cities = _cities(world, boxes)
    records = []
    for n, (key, lat) in enumerate(zip(table["key"].tolist(), table["lat"].tolist(), strict=True)):
        facts = measurements[n] | {"belt": belt(lat), "hemisphere": "northern" if lat >= 0 else "southern"}
        for category, by_sector in lengths.items():
            facts[f"{category}_km"] = [round(value, 1) for value in by_sector[n].tolist()]
        for category in ("island", "lake"):
            inside = [mark for mark in areas[n] if mark["category"] == category]
            facts[f"{category}s"] = len(inside)
            facts[f"{category}s_by_sector"] = [sum(mark["position"] == sector for mark in inside) for sector in SECTORS]
            facts[f"{category}s_share"] = round(sum(mark["share"] for mark in inside), 4)
        facts["countries"] = _countries(cities[n], world.neighbours)
        landmarks = areas[n] + _waters_and_lines(facts, boxes[n], side_km[n]) + [mark for mark, _ in cities[n]]
        landmarks.sort(key=lambda mark: -mark["prominence"])
        records.append({"key": key, "measurements": facts, "landmarks": landmarks[:_MOST_LANDMARKS]})
    return records


def belt(lat: float) -> str:
    """Return the name of the latitude belt of `BELTS` that holds a latitude in degrees."""
    return next(name for limit, name in BELTS if abs(lat) <= limit)


def colour_word(red: float, green: float, blue: float) -> str:
    """Name the mean colour of land pixels, channels from 0 to 255, by chroma (largest channel minus smallest), red, green and luma.

    Source: our choice, from the distribution of sector means over the Blue Marble's land.
    """
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    if max(red, green, blue) - min(red, green, blue) < max(0.2 * luma, 12.0):
        return _by_level(luma, ((205.0, "white"), (150.0, "pale grey"), (85.0, "grey"), (0.0, "dark grey")))
    if green > red:
        return _by_level(luma, ((62.0, "light green"), (47.0, "green"), (36.0, "dark green"), (0.0, "very dark green")))
    if red <= 1.12 * green:
        return _by_level(luma, ((85.0, "khaki"), (62.0, "olive"), (0.0, "dark olive")))
    if red > 1.45 * green:
        return _by_level(luma, ((110.0, "orange"), (0.0, "reddish brown")))
    return _by_level(luma, ((160.0, "pale sand"), (125.0, "tan"), (95.0, "light brown"), (0.0, "brown")))


def water_word(red: float, green: float, blue: float) -> str:
    """Name the mean colour of water pixels, channels from 0 to 255, by luma, green and blue.

    Source: our choice, from the distribution of sector means over the Blue Marble's sea, where shelves are brighter.
    """
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    if luma >= 150.0:
        return "white"
    if luma > 60.0 and green > 0.8 * blue:
        return "turquoise"
    levels = ((115.0, "bright blue"), (85.0, "blue"), (55.0, "dark blue"), (32.0, "navy"), (0.0, "almost black"))
    return _by_level(blue, levels)


def _by_level(value: float, levels: tuple[tuple[float, str], ...]) -> str:
    return next(word for least, word in levels if value >= least)


def _measure(world: Map, boxes: np.ndarray, images: np.ndarray) -> list[dict]:
    share = shares(world.mask, boxes)
    classes = earth_kernels.sample_classes(world.mask, boxes, images.shape[1])
    sums = earth_kernels.measure_pixels(np.ascontiguousarray(images), classes)
    counts, land = sums[..., 0], sums[:, :, 0]
    means = sums[..., 1:4] / np.maximum(counts, 1)[..., None]
    # Fewer than a tenth of a sector's pixels are too few for a colour: coasts bleed into each other.
    enough = counts >= 0.1 * counts.sum(axis=2, keepdims=True)
    brightness = means[:, :, 0] @ np.array([0.299, 0.587, 0.114])
    roughness = land[..., 4] / np.maximum(land[..., 5], 1)
    whole_roughness = land[..., 4].sum(axis=1) / np.maximum(land[..., 5].sum(axis=1), 1)
    white = land[..., 6] / np.maximum(land[..., 0], 1)
    totals, sides = share.mean(axis=1), _sea_sides(classes)
    kinds, measurements = {"sea": SEA, "land": LAND, "lake": LAKE}, []
    for n, (colours, there) in enumerate(zip(means.tolist(), enough.tolist(), strict=True)):
        on_land = [land_there for land_there, _ in there]
        measurements.append(
            {
                **{f"{name}_share": round(float(totals[n, kind]), 4) for name, kind in kinds.items()},
                **{f"{name}_by_sector": share[n, :, kind].round(4).tolist() for name, kind in kinds.items()},
                "sea_side": sides[n] if 0.02 <= totals[n, SEA] <= 0.98 else None,
                "land_colours": [colour_word(*colours[s][0]) if there[s][0] else None for s in range(9)],
                "water_colours": [water_word(*colours[s][1]) if there[s][1] else None for s in range(9)],
                "land_brightness": _known(brightness[n], on_land, 1),
                "land_roughness": _known(roughness[n], on_land, 2),
                "roughness": round(float(whole_roughness[n]), 2) if any(on_land) else None,
                "white_by_sector": _known(white[n], on_land, 3),
            }
        )
    return measurements


def _known(values: np.ndarray, there: list[bool], digits: int) -> list[float | None]:
    return [round(value, digits) if known else None for value, known in zip(values.tolist(), there, strict=True)]


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
    moves = zip(east.tolist(), north.tolist(), one_side.tolist(), strict=True)
    return [direction(east, north) if one else "several sides" for east, north, one in moves]


def _line_lengths(points: Points, km: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    box, row, lon, lat = points.inside(boxes)
    sector = _sectors(lon, lat, boxes[box])
    return np.bincount(box * 9 + sector, weights=km[row], minlength=9 * len(boxes)).reshape(-1, 9)


def _areas(world: Map, boxes: np.ndarray, side_km: np.ndarray) -> list[list[dict]]:
    box, row, lon, _ = world.area_points.inside(boxes)
    area = {name: values.to_numpy()[row] for name, values in world.areas.items()}
    # The areas' own longitudes may be a turn away from the box's.
    turn = lon - (area["west"] + area["east"]) / 2
    west, south, east, north = boxes[box].T
    inside = (
        (area["west"] + turn >= west) & (area["east"] + turn <= east) & (area["south"] >= south) & (area["north"] <= north)
    )
    sector = _sectors(area["lon"] + turn, area["lat"], boxes[box])
    landmarks: list[list[dict]] = [[] for _ in boxes]
    for i in np.flatnonzero(inside):
        category = "island" if area["kind"][i] == 1 else "lake"
        km2 = float(area["area_km2"][i])
        share = min(1.0, float(km2 / side_km[box[i]] ** 2))
        known = {"area_km2": round(km2, 1), "share": round(share, 5)}
        landmarks[box[i]].append(_landmark(category, area["lon"][i], area["lat"][i], sector[i], share**0.5, known))
    return landmarks


def _cities(world: Map, boxes: np.ndarray) -> list[list[tuple[dict, str]]]:
    """Return the largest cities of every box, each with its country."""
    box, row, lon, lat = world.city_points.inside(boxes)
    sector = _sectors(lon, lat, boxes[box])
    names, countries, population = (world.cities[name].to_numpy() for name in ("name", "country", "population"))
    cities: list[list[tuple[dict, str]]] = [[] for _ in boxes]
    # Cities are stored by falling population, so the order of rows is their rank.
    rank = np.arange(len(box)) - np.searchsorted(box, box)
    for i in np.lexsort((row, box))[rank < _MOST_CITIES]:
        people = int(population[row[i]])
        known = {"name": names[row[i]], "population": people, "source": "GeoNames", "license": CITY_SOURCE["license"]}
        prominence = min(1.0, float(np.log10(people)) / 8)
        cities[box[i]].append((_landmark("city", lon[i], lat[i], sector[i], prominence, known), countries[row[i]]))
    return cities


def _countries(cities: list[tuple[dict, str]], neighbours: dict[str, frozenset[str]]) -> list[dict]:
    countries: dict[str, dict] = {}
    for city, name in cities:
        country = countries.setdefault(name, {"name": name, "cities": [], "positions": [], "neighbours": []})
        country["cities"].append(city["name"])
        if city["position"] not in country["positions"]:
            country["positions"].append(city["position"])
    for name, country in countries.items():
        country["neighbours"] = sorted(set(countries) & neighbours.get(name, frozenset()))
    return list(countries.values())


def _waters_and_lines(facts: dict, box: np.ndarray, side_km: float) -> list[dict]:
    """Return sea, lake water, rivers and borders, each in the sector that has most of it."""
    landmarks = []

    def add(category: str, by_sector: list[float], prominence: float, known: dict) -> None:
        west, south, east, north = box
        sector = int(np.argmax(by_sector))
        lon = west + (sector % 3 + 0.5) * (east - west) / 3
        lat = north - (sector // 3 + 0.5) * (north - south) / 3
        landmarks.append(_landmark(category, lon, lat, sector, prominence, known))

    # Lakes that lie wholly inside are landmarks already; the rest is water of small lakes and of those cut by the edge.
    lake_share = round(facts["lake_share"] - facts["lakes_share"], 4)
    for category, share in (("sea", facts["sea_share"]), ("lake", lake_share)):
        if share >= 0.01:
            known = {"area_km2": round(share * side_km**2, 1), "share": share}
            add(category, facts[f"{category}_by_sector"], share**0.5, known)
    for category in ("river", "national border", "state border"):
        by_sector = facts[f"{category.replace(' ', '_')}_km"]
        total = sum(by_sector)
        if total >= 0.1 * side_km:
            add(category, by_sector, min(1.0, total / (2 * side_km)), {"length_km": round(total, 1)})
    return landmarks


def _landmark(category: str, lon: float, lat: float, sector: int, prominence: float, known: dict) -> dict:
    return {
        "name": category,
        "category": category,
        "lon": round(float((lon + 180.0) % 360.0 - 180.0), 4),
        "lat": round(float(lat), 4),
        "position": SECTORS[sector],
        "area_km2": None,
        "length_km": None,
        "population": None,
        "share": None,
        "prominence": round(prominence, 4),
        "source": "GSHHG",
        "license": MAP_SOURCE["license"],
    } | known


def _sectors(lon: np.ndarray, lat: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    west, south, east, north = boxes.T
    return sectors((lon - west) / (east - west), (north - lat) / (north - south))
