"""Captions written offline, by a grammar over measured facts.

Every sentence states facts of one record of `worldmap.describe`, so every caption is true of its chip by construction. Numbers
become levels that can be seen in pixels ("about a third"), places become the nine sectors. The first caption is the fullest,
with what is visible first and names last; the others are shorter, reordered or partial. Wording is drawn with a generator that
depends on the chip's key alone.

`write_map` does the same for the landmarks of any map, `landmarks.describe`. There names come from strangers: `sayable` says
which of them a caption may hold, and how.

Source: our choice. The paper's captions come from Gemini, with a prompt that was not published.
"""

from __future__ import annotations

import functools
import json
import random
import re
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsvlm.worldmap import EIGHT_DIRECTIONS, SECTORS

MAX_WORDS = 70
"""Longest caption, in words."""

SEA_LEVELS = (
    (0.08, "a sliver"),
    (0.18, "about an eighth"),
    (0.29, "about a quarter"),
    (0.42, "about a third"),
    (0.58, "about half"),
    (0.71, "about two thirds"),
    (0.85, "about three quarters"),
    (1.01, "nearly all"),
)
"""Upper limits of the sea's share of the chip, and the words for it. Below 1 % the sea is not mentioned."""

TEXTURE_LEVELS = ((3.0, "very smooth"), (4.2, "smooth"), (5.6, "mottled"), (8.6, "rough"), (1e9, "very rough"))
"""Upper limits of the mean luma difference between neighbouring land pixels, and the words for it."""

COUNT_WORDS = ((2, "one"), (3, "two"), (6, "a few"), (11, "several"), (1e9, "many"))
"""Upper limits of a count, and the words for it."""

SEA_LEAST = 0.01
"""Smallest share of the chip from which sea is mentioned."""

OPEN_WATER = 0.6
"""Smallest share of a sector from which its water's colour is told."""

COAST_LEAST = 0.08
"""Smallest share of sea and of land in a sector for the coast to run through it."""

LAKE_LEAST = 0.02
"""Smallest share of the chip from which the water of lakes that are not counted (too small, or cut by its edge) is told."""

LAKE_SECTOR_LEAST = 0.06
"""Smallest share of a sector from which such water lies in it."""

WHITE_LEAST = 0.05
"""Smallest share of a sector's land pixels from which it has white patches."""

Writer = Callable[[dict, random.Random], str]


def write(record: dict, rng: random.Random, count: int = 5) -> list[str]:
    """Write different true captions of one chip.

    Args:
        record: One record of `worldmap.describe`.
        rng: Source of the choices of wording.
        count: Captions wanted.

    Returns:
        `count` captions, no two alike, none empty, none above `MAX_WORDS` words; the first is the fullest.
    """
    captions = [_fullest(record, rng)]
    makers = [_layout, _short, _relation, _mixture]
    # A record has a dozen facts and each a few wordings, so repeats run out quickly; the numbered ending is for huge counts.
    attempts = 0
    while len(captions) < count:
        maker = makers[attempts % len(makers)] if attempts < len(makers) else _mixture
        caption = maker(record, rng)
        attempts += 1
        if caption and caption not in captions:
            captions.append(caption)
        elif attempts > 20 * count:
            captions.append(f"View {len(captions)}: {captions[0][0].lower()}{captions[0][1:]}")
    return captions


def write_all(records: Sequence[dict], count: int = 5) -> list[list[str]]:
    """Write the captions of many chips; a chip's captions depend on its own record alone.

    Args:
        records: Records of `worldmap.describe`.
        count: Captions for each chip.

    Returns:
        One list of `count` captions per record.
    """
    return [write(record, random.Random(zlib.crc32(record["key"].encode())), count) for record in records]


def level_word(value: float, levels: Sequence[tuple[float, str]]) -> str:
    """Return the word of the first level whose upper limit is above a value."""
    return next(word for limit, word in levels if value < limit)


def list_words(words: Sequence[str]) -> str:
    """Join words as English does: `a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def place_words(sectors: Sequence[int]) -> str:
    """Say where a set of sectors lies.

    Args:
        sectors: Positions in `worldmap.SECTORS`, ascending.
    """
    return f"the {list_words([SECTORS[sector] for sector in sectors])}"


def _fullest(record: dict, rng: random.Random) -> str:
    writers = (_sea, _lake_water, _land, _white, _light, _islands, _lakes, _texture, _belt, _border, _names)
    return _fit(writer(record, rng) for writer in writers)


def _layout(record: dict, rng: random.Random) -> str:
    writers = rng.choice(((_sea, _land), (_land, _sea), (_land, _coast, _lake_water)))
    return _fit([writer(record, rng) for writer in writers])


def _short(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    land = _groups(facts["land_colours"])
    parts = []
    if land:
        colours = [colour for colour, _ in land[:2]]
        parts.append(f"{list_words(colours)} land")
    if facts["sea_share"] >= SEA_LEAST:
        where = facts["sea_side"]
        side = "on several sides" if where in (None, "several sides") else f"to the {where}"
        parts.append(f"sea {side}")
    if _cut_lake_share(facts) >= LAKE_LEAST:
        parts.append("lake water")
    opening = rng.choice(("", "a satellite picture of ", "seen from above: "))
    return _sentence(opening + list_words(parts or ["open water"]))


def _relation(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    colours = facts["land_colours"]
    pairs = [(first, second) for first, second in ((1, 7), (3, 5), (0, 8), (2, 6)) if colours[first] and colours[second]]
    contrasts = [pair for pair in pairs if colours[pair[0]] != colours[pair[1]]]
    if contrasts:
        first, second = rng.choice(contrasts)
        if rng.random() < 0.5:
            first, second = second, first
        text = f"{colours[first]} in the {SECTORS[first]}, but {colours[second]} in the {SECTORS[second]}"
        return _fit([_sentence(text), rng.choice((_sea, _light, _texture))(record, rng)])
    return _fit([_light(record, rng), _sea(record, rng), _lake_water(record, rng), _belt(record, rng)])


def _mixture(record: dict, rng: random.Random) -> str:
    writers = [_sea, _coast, _lake_water, _land, _white, _light, _texture, _islands, _lakes, _rivers, _belt, _border, _names]
    chosen = rng.sample(writers, rng.randint(3, 6))
    return _fit(writer(record, rng) for writer in chosen)


def _sea(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    share = facts["sea_share"]
    if share < SEA_LEAST:
        return ""
    side = facts["sea_side"]
    where = "on several sides" if side in (None, "several sides") else f"to the {side}"
    verb = rng.choice(("covers", "takes up"))
    text = f"sea {where} {verb} {level_word(share, SEA_LEVELS)} of the picture"
    return _sentence(text + _water_colours(facts, "sea_by_sector"))


def _lake_water(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    share = _cut_lake_share(facts)
    sectors = [s for s in range(9) if facts["lake_by_sector"][s] >= LAKE_SECTOR_LEAST]
    if share < LAKE_LEAST or not sectors:
        return ""
    verb = rng.choice(("covers", "takes up"))
    text = f"lake water in {place_words(sectors)} {verb} {level_word(share, SEA_LEVELS)} of the picture"
    return _sentence(text + _water_colours(facts, "lake_by_sector"))


def _coast(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    sectors = [s for s in range(9) if COAST_LEAST <= facts["sea_by_sector"][s] and facts["land_by_sector"][s] >= COAST_LEAST]
    if facts["sea_share"] < SEA_LEAST or not sectors:
        return ""
    verb = rng.choice(("runs through", "crosses"))
    return _sentence(f"the coast {verb} {place_words(sectors)}")


def _land(record: dict, rng: random.Random) -> str:
    groups = _groups(record["measurements"]["land_colours"])
    if not groups:
        return ""
    total = sum(len(sectors) for _, sectors in groups)
    colour, sectors = groups[0]
    if len(groups) == 1:
        where = "throughout" if total == 9 else f"in {place_words(sectors)}"
        return _sentence(f"{rng.choice(('the land is', 'land is'))} {colour} {where}")
    if len(sectors) >= 5:
        rest = list_words([f"{other} in {place_words(where)}" for other, where in groups[1:]])
        return _sentence(f"{rng.choice(('the land is', 'land is'))} mostly {colour}, with {rest}")
    parts = [f"{other} in {place_words(where)}" for other, where in groups]
    return _sentence(f"{rng.choice(('the land is', 'land is'))} {list_words(parts)}")


def _white(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    pairs = zip(facts["white_by_sector"], facts["land_colours"], strict=True)
    sectors = [
        s for s, (share, colour) in enumerate(pairs) if share is not None and share >= WHITE_LEAST and colour != "white"
    ]
    if not sectors:
        return ""
    return _sentence(f"{rng.choice(('white patches lie', 'there are white patches'))} in {place_words(sectors)}")


def _light(record: dict, rng: random.Random) -> str:
    bright = [(value, sector) for sector, value in enumerate(record["measurements"]["land_brightness"]) if value is not None]
    if len(bright) < 2:
        return ""
    darkest, brightest = min(bright), max(bright)
    if brightest[0] - darkest[0] < 3.0:
        return "The land is evenly bright."
    extent = "far " if brightest[0] - darkest[0] >= 40.0 else ""
    return _sentence(
        rng.choice(
            (
                f"the land is {extent}brightest in the {SECTORS[brightest[1]]} and darkest in the {SECTORS[darkest[1]]}",
                f"land is {extent}brightest in the {SECTORS[brightest[1]]}, darkest in the {SECTORS[darkest[1]]}",
            )
        )
    )


def _texture(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    if facts["roughness"] is None:
        return ""
    word = level_word(facts["roughness"], TEXTURE_LEVELS)
    text = f"{rng.choice(('the texture', 'its texture'))} is {word}"
    rough = [(value, sector) for sector, value in enumerate(facts["land_roughness"]) if value is not None]
    if len(rough) >= 3:
        text += f", roughest in the {SECTORS[max(rough)[1]]}"
        if min(rough)[0] < 0.7 * facts["roughness"]:
            text += f" and smoothest in the {SECTORS[min(rough)[1]]}"
    return _sentence(text)


def _islands(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    return _count_sentence("island", facts["islands_by_sector"], rng) if facts["islands"] else ""


def _lakes(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    if facts["lakes"]:
        return _count_sentence("lake", facts["lakes_by_sector"], rng)
    return ""


def _rivers(record: dict, rng: random.Random) -> str:
    per_sector = record["measurements"]["river_km"]
    if max(per_sector) < 50.0:
        return ""
    sector = per_sector.index(max(per_sector))
    return _sentence(f"{rng.choice(('rivers run', 'rivers flow'))} mostly through the {SECTORS[sector]}")


def _belt(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    return _sentence(f"{facts['belt']} {rng.choice(('belt of the', 'latitudes of the'))} {facts['hemisphere']} hemisphere")


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
    verb = rng.choice(("runs through", "crosses"))
    return _sentence(f"a national border {verb} {place_words(sectors)}{between}")


def _names(record: dict, rng: random.Random) -> str:
    facts = record["measurements"]
    country_of = {city: entry["name"] for entry in facts["countries"] for city in entry["cities"]}
    cities = [mark for mark in record["landmarks"] if mark["category"] == "city" and mark["name"] in country_of][:3]
    if not cities:
        return ""
    parts, said = [], ""
    for city in cities:
        country = country_of[city["name"]]
        parts.append(f"{city['name']}{'' if country == said else f', {country},'} in the {city['position']}")
        said = country
    verb = rng.choice(("the map shows", "on the map"))
    joint = " " if verb.endswith("shows") else ": "
    return _sentence(f"{verb}{joint}{list_words(parts)}")


def _count_sentence(noun: str, by_sector: list[int], rng: random.Random) -> str:
    total = sum(by_sector)
    word = level_word(total, COUNT_WORDS)
    plural, verb, there = (noun, "lies", "is") if total == 1 else (f"{noun}s", "lie", "are")
    fullest = sorted(range(9), key=lambda sector: -by_sector[sector])[:3]
    named = sorted(sector for sector in fullest if by_sector[sector])
    share = sum(by_sector[sector] for sector in named) / total
    if share < 0.6:
        return _sentence(f"{word} {plural} {verb} all over the picture")
    where = f"{'' if share == 1 else 'mostly '}in {place_words(named)}"
    return _sentence(rng.choice((f"{word} {plural} {verb} {where}", f"there {there} {word} {plural} {where}")))


def _cut_lake_share(facts: dict) -> float:
    return facts["lake_share"] - facts["lakes_share"]


def _water_colours(facts: dict, kind: str) -> str:
    told = [colour if share >= OPEN_WATER else None for colour, share in zip(facts["water_colours"], facts[kind], strict=True)]
    groups = _groups(told)
    return ", " + list_words([f"{colour} in {place_words(sectors)}" for colour, sectors in groups]) if groups else ""


def _groups(colours: Sequence[str | None]) -> list[tuple[str, list[int]]]:
    groups: dict[str, list[int]] = {}
    for sector, colour in enumerate(colours):
        if colour is not None:
            groups.setdefault(colour, []).append(sector)
    return sorted(groups.items(), key=lambda item: -len(item[1]))


def _fit(sentences) -> str:
    kept, words = [], 0
    for sentence in sentences:
        length = len(sentence.split())
        if sentence and words + length <= MAX_WORDS:
            kept.append(sentence)
            words += length
    return " ".join(kept)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


MAP_KINDS = ("full", "short", "relational")
"""Kinds of captions of a map's landmarks, the fullest first."""

SHARE_LEAST = 0.08
"""Smallest share of the chip from which a thing's extent is told."""

SHARE_PLACED = 0.5
"""Share of the chip from which a thing is too large to lie in one sector."""

WIDE_SHARE = 0.25
"""Share of the chip up to which a thing is small enough to lie in a direction from another."""

UNSAYABLE = {
    "address on the web": re.compile(
        r"\bhttps?:|\bwww\.|\bmailto:|(?<=\w)\.(?:com|org|net|gov|edu|info|io)\b|(?<=[\w.])\s?(?:@|\(at\)|\[at\])\s?\w[\w-]*\.\w",
        re.I,
    ),
    "phone number": re.compile(r"(?:\+|\b00)\d[\d\s().-]{6,}\d|\b\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b|\b[Tt]el[.:]\s*\d"),
    "coordinates": re.compile(
        r"\d(?:\.\d{3}|\.\d+\s*[,;/]\s*-?\d+\.\d|\.\d+\s*[°º]?\s*[NSEW]\b|\s*[°º]\s*[\dnsew]\b"
        r"|\s*[°º]\s*\d|\s*degrees\s+(?:north|south|east|west|latitude|longitude|[NSEW]\b))"
        r"|\b(?:[Ll]at|[Ll]on|[Ll]ng|[Ll]atitude|[Ll]ongitude|[Ee]asting|[Nn]orthing)\b\.?\s*(?:of|is|about)?\s*[:=]?\s*-?\d"
        r"|(?<=[2-9CFGHJMPQRVWX]{4})\+[2-9CFGHJMPQRVWX]{2,3}\b|\b\d{1,2}[C-X]\s?[A-Z]{2}\s?\d{4,10}\b|\bEPSG:\d"
    ),
    "street address": re.compile(
        r"\b\d{1,5}[A-Za-z]?,?\s+(?:[^\W\d_][\w'’.-]*\s+){1,4}"
        r"(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Terrace|Crescent)\b"
        r"|\b(?:Rua|Avenida|Av\.|Calle|Rue|Via|Viale|Travessa|Praça|Plaza)\s+(?:[\w'’.-]+\s+){0,4}?[\w'’.-]+"
        r"(?:,\s*|\s+n?\.?[ºo°]?\s*)\d{1,5}\b(?!\s+de\b)"
        r"|(?<=\w)(?:straße|strasse|gasse|allee)\s+\d{1,4}[a-z]?\b|\b[Pp]\.?\s?[Oo]\.?\s[Bb]ox\b"
    ),
    "postcode": re.compile(
        r"\b(?:[A-Z]{1,2}\d[A-Z\d]?\s\d[A-Z]{2}|\d{4}-\d{3}|[A-Z]{2}\s\d{5}|[A-Z]\d[A-Z]\s\d[A-Z]\d|\d{5}\s[A-Z][a-z]{2}\w*)\b"
        r"|\b(?:[Zz][Ii][Pp]\s?|[Pp]ost(?:al)?\s?)code\b"
    ),
    "markup": re.compile(
        r"</?[A-Za-z!][^<>]*>|&(?:[a-z]{2,8}|#x?[0-9a-fA-F]{1,6});|```|\[[^\]]{0,200}\]\(|\{\s*[\"']|[\"']\s*:\s*[\[{\"']"
        r"|^\s*#{1,6}\s|\*\*|__\w|\[/?[A-Z]{3,}\]|<\||\|>|\bjavascript:|\\[nt\"]|\{\{|\}\}|\$\{"
    ),
    "instruction": re.compile(
        r"\b(?:(?:ignor|disregard|forget|overrid)\w*\s+(?:\w+\s+){0,4}?"
        r"(?:above|before|previous|prior|instruction\w*|prompt\w*|rules?|everything|text)"
        r"|(?:system|developer)\s+(?:prompt|message|instruction)"
        r"|you (?:are|must|will|should|have)(?: \w+)? (?:now|to|not|only|be|say|write|obey)"
        r"|(?:say|write|print|output|respond|reply|answer|repeat|translate|pretend)[\s:]+(?:\w+\s+){0,3}?"
        r"(?:only|exactly|with|that|nothing|instead)|new instructions?|as (?:instructed|requested|you asked|per your)"
        r"|jailbreak|pwned|hacked|prompt injection|click here|subscribe|buy now|visit our|follow us|act as)\b",
        re.I,
    ),
}
"""What no caption says, whoever wrote it and whatever the map's names hold."""

_PLAIN = re.compile(r"[^\W_][\w '’ʼ.\-]*")
_SENTENCE_END = re.compile(r"\w{4,}\.\s|[!?;:]\s|[.!?;:,]$")
_UNITS = "zero one two three four five six seven eight nine ten".split()
_TENS = {10: "ten", 15: "fifteen", 20: "twenty", 25: "twenty-five", 30: "thirty", 40: "forty", 50: "fifty", 60: "sixty"}
_TENS |= {70: "seventy", 80: "eighty", 90: "ninety", 100: "a hundred"}
_MASS = frozenset("water sand scrub scree grass vegetation heath ruins snow ice mud tundra housing furniture".split())
_ONLY_ONE = ("sea", "coastline")
_NAME_LENGTH, _NAME_WORDS = 80, 8


def write_map(record: dict, rng: random.Random, count: int = 3) -> dict[str, str]:
    """Write true captions of one chip from the landmarks that a map has in it.

    Args:
        record: A sample's record with `landmarks`, `relations`, `gsd_m` and `size_px`; landmarks that are not visible are left
            out, and the names of the others are data: see `sayable`.
        rng: Source of the choices of wording.
        count: Kinds wanted, 1 to 3: the first of `MAP_KINDS`.

    Returns:
        Captions by kind, no two alike, none above `MAX_WORDS` words; `{}` where no landmark is visible.
    """
    things = _things(record)
    if not things:
        return {}
    captions = {}
    for kind, writer in zip(MAP_KINDS[: max(count, 1)], (_map_full, _map_short, _map_relational)):
        caption = writer(record, things, rng)
        if caption and caption not in captions.values():
            captions[kind] = caption
    return captions


@functools.lru_cache(100_000)
def sayable(name: str | None) -> str | None:
    """Return a map's name as it may stand in a caption, or none.

    A name of letters, digits, spaces, hyphens, apostrophes and dots stands as it is; any other stands in double quotes, without
    the quotes, signs of markup and control characters it may hold. A name is not said at all that is one letter, one word in
    lower case or as long as a text, that has a sentence's end inside, or that reads as an address, a number to call, markup or an
    instruction (`UNSAYABLE`).
    """
    if not name or len(name) > 5 * _NAME_LENGTH:
        return None
    kept = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in unicodedata.normalize("NFC", name))
    kept = " ".join(re.sub(r"[\"“”„«»`<>{}\[\]\\_*|~]", " ", kept).split())
    words = kept.split()
    if not any(c.isalnum() for c in kept) or not 1 < len(kept) <= _NAME_LENGTH or len(words) > _NAME_WORDS:
        return None
    # "beach" as the name of a beach is a mapper's note; such a word could not be told from any other.
    if kept.isalpha() and kept[0].islower():
        return None
    if any(pattern.search(text) for pattern in UNSAYABLE.values() for text in (name, kept)) or _SENTENCE_END.search(kept):
        return None
    return kept if _PLAIN.fullmatch(kept) else f'"{kept}"'


def name_of(landmark: dict) -> str | None:
    """Return the name a caption uses for a landmark: the English one where its own is in another script; as `sayable` has it."""
    name, other = landmark.get("name"), (landmark.get("names") or {}).get("en")
    if name and other and any(ord(c) > 0x24F for c in name if c.isalpha()):
        name = other
    return sayable(name)


@functools.lru_cache(10_000)
def words_of(category: str) -> tuple[str, str]:
    """Return the singular and the plural of a category, from the taxonomy, else made from its name.

    The two are equal for what is not counted: `farmland`, `ruins`.
    """
    if entry := _taxonomy().get(category):
        return tuple(entry["words"])
    singular = " ".join(category.replace("_", " ").split()) or "thing"
    return singular, _plural(singular)


def categories() -> list[str]:
    """Return the taxonomy's categories."""
    return list(_taxonomy())


def countable(category: str) -> bool:
    """Return whether the number of a category's features is a number of things, and not of pieces as with roads."""
    return _taxonomy().get(category, {}).get("countable", True)


def count_words(count: int, rng: random.Random) -> str:
    """Say how many: exactly up to ten, then as a level ("about forty", "dozens of")."""
    if count <= 10:
        return _UNITS[count]
    if count <= 105:
        near = 5 * round(count / 5) if count < 28 else 10 * round(count / 10)
        exact = f"about {_TENS[near]}"
        return rng.choice((exact, "dozens of")) if count >= 30 else exact
    if count < 950:
        near = round(count / 100)
        return f"about {'a' if near == 1 else _UNITS[near]} hundred"
    return "about a thousand" if count < 1500 else "thousands of" if count >= 2500 else "more than a thousand"


def length_words(length_m: float) -> str:
    """Say a length: two figures, in metres to the next five, or in kilometres from one on."""
    if length_m >= 995:
        return f"{float(f'{length_m / 1000:.2g}'):g} km"
    return f"{max(5 * round(float(f'{length_m:.2g}') / 5), 5)} m"


@dataclass(frozen=True)
class _Thing:
    """One visible landmark, or all unnamed ones of a category together.

    Attributes:
        phrase: What to call it; `{count:37}` is said in words each time anew.
        plural: Whether it takes a verb in the plural.
        marks: The landmarks.
        by_sector: How many things lie in each of `worldmap.SECTORS`; where `reaches`, 1 for those it reaches into.
        reaches: Whether it is one thing, or pieces that are not counted.
    """

    phrase: str
    plural: bool
    marks: tuple[dict, ...]
    by_sector: tuple[int, ...]
    reaches: bool

    @property
    def share(self) -> float:
        return sum(mark.get("share") or 0.0 for mark in self.marks)

    @property
    def line(self) -> bool:
        return bool(self.marks[0].get("length_m"))

    @property
    def sectors(self) -> list[int]:
        return [sector for sector in range(9) if self.by_sector[sector]]


def _things(record: dict) -> list[_Thing]:
    groups: dict[object, list[dict]] = {}
    for number, mark in enumerate(record.get("landmarks") or ()):
        if mark.get("visible", True):
            groups.setdefault((mark["category"], number if name_of(mark) else None), []).append(mark)
    named = {category for category, number in groups if number is not None}
    return [_thing(marks, category in named) for (category, _), marks in groups.items()]


def _thing(marks: list[dict], beside_named: bool) -> _Thing:
    (singular, plural), name = words_of(marks[0]["category"]), name_of(marks[0])
    total = sum(mark.get("count") or 1 for mark in marks)
    # Roads and forests come in as many pieces as the map's makers cut them into, so their number says nothing.
    counted = countable(marks[0]["category"])
    rest = (
        tuple(marks),
        tuple(map(sum, zip(*map(_by_sector, marks)))),
        total == 1 or not counted or bool(marks[0].get("length_m")),
    )
    if name:
        own = {word.casefold() for word in name.strip('"').split()}
        return _Thing(name if own & set(singular.split()) else f"the {singular} {name}", False, *rest)
    if singular in _ONLY_ONE:
        return _Thing(f"the {singular}", False, *rest)
    if singular == plural or singular in _MASS:
        return _Thing(singular, singular.endswith("s"), *rest)
    if total == 1:
        if beside_named:
            return _Thing(f"another {singular}", False, *rest)
        article = "an" if re.match(r"[aeiou](?!ni[vtfoq]|u)", singular) else "a"
        return _Thing(f"{article} {singular}", False, *rest)
    more = f"{'other ' if beside_named else ''}{plural}"
    return _Thing(f"{{count:{total}}} {more}" if counted else more, True, *rest)


def _by_sector(mark: dict) -> tuple[int, ...]:
    if told := mark.get("by_sector"):
        return tuple(told)
    count = mark.get("count") or 1
    return tuple(count * (sector == mark.get("position")) for sector in SECTORS)


def _say(thing: _Thing, rng: random.Random) -> str:
    return re.sub(r"\{count:(\d+)\}", lambda match: count_words(int(match[1]), rng), thing.phrase)


def _where(thing: _Thing) -> str:
    """Say in which sectors a thing lies: "in the north", "mostly in the north and east"; empty where no few of them say it."""
    total, sectors = sum(thing.by_sector), thing.sectors
    if not total or thing.share >= SHARE_PLACED or (thing.reaches and len(sectors) > 4):
        return ""
    if thing.reaches or total <= 3:
        return f"in {place_words(sectors)}"
    fullest = sorted(sectors, key=lambda sector: -thing.by_sector[sector])
    told = next(n for n in range(1, 10) if sum(thing.by_sector[s] for s in fullest[:n]) >= 0.6 * total)
    if told > 3:
        return "all over the picture"
    return f"{'mostly ' if told < len(sectors) else ''}in {place_words(sorted(fullest[:told]))}"


def _map_sentence(thing: _Thing, rng: random.Random) -> str:
    what, where, s = _say(thing, rng), _where(thing), "" if thing.plural else "s"
    if thing.share >= SHARE_LEAST:
        extent = level_word(min(thing.share, 1.0), SEA_LEVELS)
        verb = rng.choice((f"cover{s}", f"take{s} up", "occupy" if thing.plural else "occupies"))
        return _sentence(f"{what} {verb} {extent} of the picture{', ' + where if where else ''}")
    if thing.line:
        verb = rng.choice((f"run{s}", f"extend{s}"))
        return _sentence(f"{what} {verb} through {where.removeprefix('in ') or 'the picture'}")
    if not where:
        return _sentence(f"{what} {'are' if thing.plural else 'is'} in the picture")
    verb = rng.choice((f"lie{s}", "can be seen", "are visible" if thing.plural else "is visible"))
    return _sentence(f"{what} {verb} {where}")


def _scene(record: dict) -> str:
    return f"about {length_words(record['gsd_m'] * record['size_px'])} across"


def _map_full(record: dict, things: Sequence[_Thing], rng: random.Random) -> str:
    size = _scene(record)
    opening = rng.choice(
        (f"An aerial view covering {size}", f"The picture shows an area {size}", f"Seen from above is an area {size}")
    )
    related = _relation_sentences(record, things, rng)
    rest = [f"{_say(thing, rng)} {where}" if (where := _where(thing)) else _say(thing, rng) for thing in things[4:8]]
    end = f"{rng.choice(('also visible:', 'also in view:', 'besides these:'))} {list_words(rest)}" if rest else ""
    sentences = [f"{opening}.", *(_map_sentence(thing, rng) for thing in things[:4]), *related[:1]]
    return _fit([*sentences, _sentence(end) if end else ""])


def _map_short(record: dict, things: Sequence[_Thing], rng: random.Random) -> str:
    what = list_words([_say(thing, rng) for thing in things[: rng.randint(2, 3)]])
    return _sentence(rng.choice((f"an aerial picture of {what}", f"{what}, seen from above", f"an overhead view of {what}")))


def _map_relational(record: dict, things: Sequence[_Thing], rng: random.Random) -> str:
    sentences = _relation_sentences(record, things, rng)[:3]
    placed = [(thing, where) for thing in things if (where := _where(thing)) and where.startswith("in ")]
    pairs = [(a, b) for n, a in enumerate(placed) for b in placed[n + 1 :] if a[1] != b[1]]
    if len(sentences) < 2 and pairs:
        (first, here), (second, there) = pairs[0]
        joint, verb = rng.choice(("while", "and")), "are" if second.plural else "is"
        be = "are" if first.plural else "is"
        sentences.append(_sentence(f"{_say(first, rng)} {be} {here}, {joint} {_say(second, rng)} {verb} {there}"))
    if not sentences and placed:
        thing, where = placed[0]
        be, side = "lie" if thing.plural else "lies", where.removeprefix("in the ")
        what = _say(thing, rng)
        far = f"{be} {rng.choice(('in the middle of the picture', 'near its middle'))}".replace("its", "the picture's")
        text = f"{what} {far}" if side == "centre" else f"{what} {be} {side} of the picture's middle"
        sentences.append(_sentence(text if side in SECTORS else f"{where} {be} {what}"))
    if not sentences:
        sentences.append(
            _sentence(f"{_say(things[0], rng)} {'extend' if things[0].plural else 'extends'} over most of the picture")
        )
    return _fit(sentences)


def _relation_sentences(record: dict, things: Sequence[_Thing], rng: random.Random) -> list[str]:
    """Say where one thing lies from another, where both are single and small enough to have a direction between them."""
    marks = record.get("landmarks") or []
    single = {
        id(thing.marks[0]): thing for thing in things if len(thing.marks) == 1 and (thing.marks[0].get("count") or 1) == 1
    }
    sentences = []
    for relation in record.get("relations") or ():
        first, second = (single.get(id(marks[relation[end]])) for end in ("from", "to"))
        if not first or not second or max(first.share, second.share) > WIDE_SHARE:
            continue
        # The second lies in this direction of the first; the reverse is as true where neither is large.
        direction = relation["direction"]
        if len(first.sectors) == len(second.sectors) == 1 and rng.random() < 0.5:
            first, second, direction = second, first, EIGHT_DIRECTIONS[(EIGHT_DIRECTIONS.index(direction) + 4) % 8]
        far = f"about {length_words(relation['distance_m'])} " if relation.get("distance_m", 0) >= 5 else ""
        verb = rng.choice(("lie", "are")) if second.plural else rng.choice(("lies", "is"))
        to = "" if far else "to the "
        sentences.append(_sentence(f"{_definite(second)} {verb} {far}{to}{direction} of {_definite(first)}"))
    return sentences


def _definite(thing: _Thing) -> str:
    named = thing.phrase.startswith("the ") or name_of(thing.marks[0])
    return thing.phrase if named else f"the {re.sub(r'^an? |^an(?=other )', '', thing.phrase)}"


def _plural(word: str) -> str:
    last = word.split()[-1]
    if last in _MASS or (last.endswith("land") and last not in ("island", "headland")):
        return word
    if re.search(r"(?:[sxz]|ch|sh)$", word):
        return f"{word}es"
    return f"{word[:-1]}ies" if re.search(r"[^aeiou]y$", word) else f"{word}s"


@functools.cache
def _taxonomy() -> dict:
    return json.loads(Path(__file__).with_name("taxonomy.json").read_text(encoding="utf-8"))["categories"]
