"""Captions written offline, by a grammar over measured facts.

Every sentence states facts of one record of `earth_facts.describe`, so every caption is true of its chip by construction. Numbers
become levels that can be seen in pixels ("about a third"), places become the nine sectors. The first caption is the fullest,
with what is visible first and names last; the others are shorter, reordered or partial. Wording is drawn with a generator that
depends on the chip's key alone.

Source: our choice. The paper's captions come from Gemini, with a prompt that was not published.
"""

from __future__ import annotations

import functools
import itertools
import random
import zlib
from collections.abc import Sequence

from rsvlm.data.captions.sentences import SHARE_LEVELS, fit, level_word, list_words, place_words, sentence
from rsvlm.data.landmarks.directions import SECTORS

# Upper limits of the mean luma difference between neighbouring land pixels, and of a count, and the words for them.
TEXTURE_LEVELS = ((3.0, "very smooth"), (4.2, "smooth"), (5.6, "mottled"), (8.6, "rough"), (1e9, "very rough"))
COUNT_WORDS = ((2, "one"), (3, "two"), (6, "a few"), (11, "several"), (1e9, "many"))

# Smallest shares from which something is told.
SEA_LEAST = 0.01  # sea, of the chip
OPEN_WATER = 0.6  # the colour of water, of a sector
COAST_LEAST = 0.08  # a coast that runs through a sector, of sea and of land in it
LAKE_LEAST = 0.02  # water of lakes that are not counted (too small, or cut by the chip's edge), of the chip
LAKE_SECTOR_LEAST = 0.06  # such water in a sector, of the sector
WHITE_LEAST = 0.05  # white patches, of a sector's land pixels


def write(record: dict, rng: random.Random, count: int = 5) -> list[str]:
    """Write different true captions of one chip.

    Args:
        record: Record of `earth_facts.describe`.
        rng: Source of the choices of wording.
        count: Number of captions.

    Returns:
        `count` captions, no two alike, none empty, none above `sentences.MAX_WORDS` words; the first is the fullest.
    """
    captions = [_fullest(record, rng)]
    for attempt, maker in enumerate(itertools.chain((_layout, _short, _relation), itertools.repeat(_mixture)), start=1):
        if len(captions) >= count:
            return captions
        caption = maker(record, rng)
        if caption and caption not in captions:
            captions.append(caption)
        elif attempt > 20 * count:  # for huge counts: a record has a dozen facts, and each a few wordings
            captions.append(f"View {len(captions)}: {captions[0][0].lower()}{captions[0][1:]}")


def write_all(records: Sequence[dict], count: int = 5) -> list[list[str]]:
    """Write `count` captions for each record of `earth_facts.describe`; a chip's captions depend on its own record alone."""
    return [write(record, random.Random(zlib.crc32(record["key"].encode())), count) for record in records]


def _fullest(record: dict, rng: random.Random) -> str:
    writers = (_sea, _lake_water, _land, _white, _light, _islands, _lakes, _texture, _belt, _border, _names)
    return fit(writer(record, rng) for writer in writers)


def _layout(record: dict, rng: random.Random) -> str:
    writers = rng.choice(((_sea, _land), (_land, _sea), (_land, _coast, _lake_water)))
    return fit([writer(record, rng) for writer in writers])


def _short(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    parts = []
    if land := _groups(facts["land_colours"]):
        parts.append(f"{list_words([colour for colour, _ in land[:2]])} land")
    if facts["sea_share"] >= SEA_LEAST:
        parts.append(f"sea {_sea_side(facts)}")
    if _cut_lake_share(facts) >= LAKE_LEAST:
        parts.append("lake water")
    opening = rng.choice(("", "a satellite picture of ", "seen from above: "))
    return sentence(opening + list_words(parts or ["open water"]))


def _relation(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    colours = facts["land_colours"]
    pairs = [(first, second) for first, second in ((1, 7), (3, 5), (0, 8), (2, 6)) if colours[first] and colours[second]]
    contrasts = [pair for pair in pairs if colours[pair[0]] != colours[pair[1]]]
    if not contrasts:
        return fit(writer(record, rng) for writer in (_light, _sea, _lake_water, _belt))
    first, second = rng.choice(contrasts)
    if rng.random() < 0.5:
        first, second = second, first
    text = f"{colours[first]} in the {SECTORS[first]}, but {colours[second]} in the {SECTORS[second]}"
    return fit([sentence(text), rng.choice((_sea, _light, _texture))(record, rng)])


def _mixture(record: dict, rng: random.Random) -> str:
    writers = [_sea, _coast, _lake_water, _land, _white, _light, _texture, _islands, _lakes, _rivers, _belt, _border, _names]
    chosen = rng.sample(writers, rng.randint(3, 6))
    return fit(writer(record, rng) for writer in chosen)


def _sea(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    if facts["sea_share"] < SEA_LEAST:
        return ""
    return _water(f"sea {_sea_side(facts)}", facts["sea_share"], facts["sea_by_sector"], facts, rng)


def _lake_water(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    share = _cut_lake_share(facts)
    sectors = [s for s in range(9) if facts["lake_by_sector"][s] >= LAKE_SECTOR_LEAST]
    if share < LAKE_LEAST or not sectors:
        return ""
    return _water(f"lake water in {place_words(sectors)}", share, facts["lake_by_sector"], facts, rng)


def _water(subject: str, share: float, by_sector: list[float], facts: dict, rng: random.Random) -> str:
    text = f"{subject} {rng.choice(('covers', 'takes up'))} {level_word(share, SHARE_LEVELS)} of the picture"
    colours = [facts["water_colours"][s] if by_sector[s] >= OPEN_WATER else None for s in range(9)]
    return sentence(f"{text}, {_placed(_groups(colours))}" if any(colours) else text)


def _coast(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    sectors = [s for s in range(9) if min(facts["sea_by_sector"][s], facts["land_by_sector"][s]) >= COAST_LEAST]
    if facts["sea_share"] < SEA_LEAST or not sectors:
        return ""
    return sentence(f"the coast {rng.choice(('runs through', 'crosses'))} {place_words(sectors)}")


def _land(record: dict, rng: random.Random) -> str:
    groups = _groups(record["measurements"]["land_colours"])
    if not groups:
        return ""
    colour, sectors = groups[0]
    if len(groups) == 1:
        text = f"{colour} {'throughout' if len(sectors) == 9 else f'in {place_words(sectors)}'}"
    elif len(sectors) >= 5:
        text = f"mostly {colour}, with {_placed(groups[1:])}"
    else:
        text = _placed(groups)
    return sentence(f"{rng.choice(('the land is', 'land is'))} {text}")


def _white(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    patches = zip(facts["white_by_sector"], facts["land_colours"], strict=True)
    sectors = [s for s, (share, colour) in enumerate(patches) if (share or 0) >= WHITE_LEAST and colour != "white"]
    if not sectors:
        return ""
    return sentence(f"{rng.choice(('white patches lie', 'there are white patches'))} in {place_words(sectors)}")


def _light(record: dict, rng: random.Random) -> str:
    values = [(value, sector) for sector, value in enumerate(record["measurements"]["land_brightness"]) if value is not None]
    if len(values) < 2:
        return ""
    (least, darkest), (most, brightest) = min(values), max(values)
    if most - least < 3.0:
        return "The land is evenly bright."
    opening, joint = rng.choice((("the land is", " and"), ("land is", ",")))
    extent = "far " if most - least >= 40.0 else ""
    return sentence(f"{opening} {extent}brightest in the {SECTORS[brightest]}{joint} darkest in the {SECTORS[darkest]}")


def _texture(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    if facts["roughness"] is None:
        return ""
    text = f"{rng.choice(('the texture', 'its texture'))} is {level_word(facts['roughness'], TEXTURE_LEVELS)}"
    rough = [(value, sector) for sector, value in enumerate(facts["land_roughness"]) if value is not None]
    if len(rough) >= 3:
        text += f", roughest in the {SECTORS[max(rough)[1]]}"
        if min(rough)[0] < 0.7 * facts["roughness"]:
            text += f" and smoothest in the {SECTORS[min(rough)[1]]}"
    return sentence(text)


def _counted(noun: str, record: dict, rng: random.Random) -> str:
    by_sector = record["measurements"][f"{noun}s_by_sector"]
    total = sum(by_sector)
    if not total:
        return ""
    plural, verb, there = (noun, "lies", "is") if total == 1 else (f"{noun}s", "lie", "are")
    things = f"{level_word(total, COUNT_WORDS)} {plural}"
    fullest = sorted(range(9), key=lambda sector: -by_sector[sector])[:3]
    named = sorted(sector for sector in fullest if by_sector[sector])
    share = sum(by_sector[sector] for sector in named) / total
    if share < 0.6:
        return sentence(f"{things} {verb} all over the picture")
    where = f"{'' if share == 1 else 'mostly '}in {place_words(named)}"
    return sentence(rng.choice((f"{things} {verb} {where}", f"there {there} {things} {where}")))


_islands, _lakes = (functools.partial(_counted, noun) for noun in ("island", "lake"))


def _rivers(record: dict, rng: random.Random) -> str:
    per_sector = record["measurements"]["river_km"]
    if max(per_sector) < 50.0:
        return ""
    sector = per_sector.index(max(per_sector))
    return sentence(f"{rng.choice(('rivers run', 'rivers flow'))} mostly through the {SECTORS[sector]}")


def _belt(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    return sentence(f"{facts['belt']} {rng.choice(('belt of the', 'latitudes of the'))} {facts['hemisphere']} hemisphere")


def _border(record: dict, rng: random.Random) -> str:
    per_sector = record["measurements"]["national_border_km"]
    sectors = [s for s in range(9) if per_sector[s] >= 30.0]
    if not sectors:
        return ""
    countries = record["measurements"]["countries"]
    between = ""
    if len(countries) == 2 and countries[1]["name"] in countries[0]["neighbours"]:
        places = [country["positions"][0] for country in countries]
        if places[0] != places[1]:
            between = f", with {countries[0]['name']} in the {places[0]} and {countries[1]['name']} in the {places[1]}"
    return sentence(f"a national border {rng.choice(('runs through', 'crosses'))} {place_words(sectors)}{between}")


def _names(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    country_of = {city: entry["name"] for entry in facts["countries"] for city in entry["cities"]}
    cities = [mark for mark in record["landmarks"] if mark["category"] == "city" and mark["name"] in country_of][:3]
    if not cities:
        return ""
    parts, last = [], ""
    for city in cities:
        country = country_of[city["name"]]
        parts.append(f"{city['name']}{'' if country == last else f', {country},'} in the {city['position']}")
        last = country
    return sentence(rng.choice(("the map shows ", "on the map: ")) + list_words(parts))


def _sea_side(facts: dict) -> str:
    return "on several sides" if facts["sea_side"] in (None, "several sides") else f"to the {facts['sea_side']}"


def _cut_lake_share(facts: dict) -> float:
    return facts["lake_share"] - facts["lakes_share"]


def _groups(colours: Sequence[str | None]) -> list[tuple[str, list[int]]]:
    groups: dict[str, list[int]] = {}
    for sector, colour in enumerate(colours):
        if colour is not None:
            groups.setdefault(colour, []).append(sector)
    return sorted(groups.items(), key=lambda item: -len(item[1]))


def _placed(groups: list[tuple[str, list[int]]]) -> str:
    return list_words([f"{colour} in {place_words(sectors)}" for colour, sectors in groups])
