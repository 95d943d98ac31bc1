"""Captions of the landmarks of any map, written offline, and the names and words that a caption may hold.

`write_map` states what `describe.describe` found, so its captions are as true as the map. The map's names come from strangers:
`sayable` says which of them a caption may hold, and how; `UNSAYABLE` is what no caption says, whoever wrote it. `spellings`,
`nouns` and `vocabulary` say how a name or a category may be written by others, for those who read captions.

Source: our choice. The paper's captions come from Gemini, with a prompt that was not published.
"""

from __future__ import annotations

import functools
import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from rsvlm.data.captions.sentences import SHARE_LEVELS, fit, level_word, list_words, place_words, sentence
from rsvlm.data.landmarks.directions import SECTORS, opposite
from rsvlm.data.maps.taxonomy import taxonomy

ROOMS = ("data/captions/grammar", "data/captions/sentences", "data/landmarks/directions", "data/maps/taxonomy")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

MAP_KINDS = ("full", "short", "relational")
"""Kinds of captions of a map's landmarks, the fullest first."""

SHARE_LEAST = 0.08
"""Smallest share of the chip from which a thing's extent is told."""

SHARE_PLACED = 0.5
"""Share of the chip from which a thing is too large to lie in one sector."""

WIDE_SHARE = 0.25
"""Share of the chip up to which a thing is small enough to lie in a direction from another."""

RUNS_THROUGH = 0.2
"""Length of a line, in sides of the chip for each sector it reaches into, from which it is told to run through them."""

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
# What is left of letters that were read in another encoding than they were written in: "Pra\ufffda", "PraÃ§a".
_BROKEN = re.compile(r"\ufffd|[ÂÃÄÅÎÏÐÑØÙ][\u0080-\u00bf\u0152-\u0178\u0192\u02c6\u02dc\u2018-\u203a]")
_SENTENCE_END = re.compile(r"\w{4,}\.\s|[!?;:]\s|[.!?;:,]$")
_UNITS = "zero one two three four five six seven eight nine ten".split()
_TEN_WORDS = "ten,fifteen,twenty,twenty-five,thirty,forty,fifty,sixty,seventy,eighty,ninety,a hundred".split(",")
_TENS = dict(zip((10, 15, 20, 25, *range(30, 110, 10)), _TEN_WORDS))
_MASS = frozenset("water sand scrub scree grass vegetation heath ruins snow ice mud tundra housing furniture".split())
_NO_NOUN_ALONE = ("run", "runs", "land")  # a road runs, and land is any land
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
        Captions by kind, no two alike, none above `sentences.MAX_WORDS` words; `{}` where no landmark is visible.
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
    the quotes, signs of markup and control characters it may hold. A name is not said at all that is one letter, small single
    letters, one word in lower case or as long as a text, that has a sentence's end inside, or that reads as an address, a number to
    call, markup or an instruction (`UNSAYABLE`).
    """
    if not name or len(name) > 5 * _NAME_LENGTH or _BROKEN.search(name):
        return None
    plain = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in unicodedata.normalize("NFC", name))
    words = re.sub(r"[\"“”„«»`<>{}\[\]\\_*|~]", " ", plain).split()
    plain = " ".join(words)
    if not any(c.isalnum() for c in plain) or not 1 < len(plain) <= _NAME_LENGTH or len(words) > _NAME_WORDS:
        return None
    if max(map(len, words)) < 2 and not plain.isupper():
        return None
    # "beach" as the name of a beach is a mapper's note; such a word could not be told from any other.
    if plain.isalpha() and plain[0].islower():
        return None
    if any(pattern.search(text) for pattern in UNSAYABLE.values() for text in (name, plain)) or _SENTENCE_END.search(plain):
        return None
    return plain if _PLAIN.fullmatch(plain) else f'"{plain}"'


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
    if entry := taxonomy().get(category):
        return entry.words
    singular = " ".join(category.replace("_", " ").split()) or "thing"
    return singular, _plural(singular)


def countable(category: str) -> bool:
    """Return whether the number of a category's features is a number of things, and not of pieces as with roads."""
    return category not in taxonomy() or taxonomy()[category].countable


@functools.lru_cache(10_000)
def nouns(category: str) -> tuple[str, ...]:
    """Return the words that mean a category, singular and plural, with its last word alone too ("road" for "main road")."""
    words = [word.casefold() for word in words_of(category)]
    lasts = (full.split()[-1] for full in words if " of " not in full)
    return tuple(dict.fromkeys([*words, *(last for last in lasts if last not in _NO_NOUN_ALONE)]))


@functools.cache
def phrases() -> frozenset[str]:
    """Return the singulars and plurals of all categories, in lower case."""
    return frozenset(word.casefold() for category in taxonomy() for word in words_of(category))


@functools.cache
def vocabulary() -> frozenset[str]:
    """Return the single words that `phrases` consists of."""
    return frozenset(word for phrase in phrases() for word in phrase.split())


@functools.lru_cache(100_000)
def spellings(name: str | None) -> tuple[str, ...]:
    """Return the ways to write a name, as `fold` gives them; none where no caption says it."""
    said = sayable(name)
    if not said:
        return ()
    raw = " ".join(unicodedata.normalize("NFC", name).split())
    return tuple(dict.fromkeys(folded for text in (said.strip('"'), raw) if len(folded := fold(text)) > 1))


def fold(text: str) -> str:
    """Return a text in lower case without accents, of the same length: positions in one are positions in the other."""
    return text.lower() if text.isascii() else "".join(map(_fold_character, text))


@functools.lru_cache(10_000)
def _fold_character(c: str) -> str:
    if c in "’ʼ‘`´":
        return "'"
    if ord(c) < 0x250 or 0x1E00 <= ord(c) < 0x1F00:
        c = unicodedata.normalize("NFKD", c)[0]
    lower = c.lower()
    return lower if len(lower) == 1 else c


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
    """One visible landmark, or all unnamed ones of a category together."""

    phrase: str  # what to call it; `{count:37}` is said in words each time anew
    plural: bool  # whether it takes a verb in the plural
    marks: tuple[dict, ...]
    by_sector: tuple[int, ...]  # how many things lie in each of `SECTORS`; where `reaches`, 1 for those it reaches into
    reaches: bool  # whether it is one thing, or pieces that are not counted

    @property
    def share(self) -> float:
        return sum(mark.get("share") or 0.0 for mark in self.marks)

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
    total = sum(mark.get("count") or 1 for mark in marks)
    # Roads and forests come in as many pieces as the map's makers cut them into, so their number says nothing.
    counted = countable(marks[0]["category"])
    reaches = total == 1 or not counted or bool(marks[0].get("length_m"))
    by_sector = tuple(map(sum, zip(*map(_by_sector, marks))))
    return _Thing(*_phrase(marks[0], total, counted, beside_named), tuple(marks), by_sector, reaches)


def _phrase(mark: dict, total: int, counted: bool, beside_named: bool) -> tuple[str, bool]:
    """Return what to call so many landmarks like this one, and whether that is a plural."""
    (singular, plural), name = words_of(mark["category"]), name_of(mark)
    if name and counted and total > 1:
        return f"{{count:{total}}} {plural} named {name}", True
    if name:
        own = {word.casefold() for word in name.strip('"').split()}
        return name if own & set(singular.split()) else f"the {singular} {name}", False
    if singular in _ONLY_ONE:
        return f"the {singular}", False
    if singular == plural or singular in _MASS:
        return singular, singular.endswith("s")
    if total == 1:
        article = "another" if beside_named else "an" if re.match(r"[aeiou](?!ni[vtfoq]|u)", singular) else "a"
        return f"{article} {singular}", False
    return f"{f'{{count:{total}}} ' if counted else ''}{'other ' if beside_named else ''}{plural}", True


def _by_sector(mark: dict) -> tuple[int, ...]:
    count = mark.get("count") or 1
    return tuple(mark.get("by_sector") or (count * (sector == mark.get("position")) for sector in SECTORS))


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
    most = next(n for n in range(1, 10) if sum(thing.by_sector[s] for s in fullest[:n]) >= 0.6 * total)
    if most > 3:
        return "all over the picture" if _all_over(sectors) else ""
    return f"{'mostly ' if most < len(sectors) else ''}in {place_words(sorted(fullest[:most]))}"


def _all_over(sectors: Sequence[int]) -> bool:
    """Tell whether hardly a sector is without a thing, and no row and no column of them."""
    return len(sectors) >= 7 and all(len({place(sector) for sector in sectors}) == 3 for place in (_row, _column))


def _row(sector: int) -> int:
    return sector // 3


def _column(sector: int) -> int:
    return sector % 3


def _map_sentence(record: dict, thing: _Thing, rng: random.Random) -> str:
    what, where, s = _say(thing, rng), _where(thing), "" if thing.plural else "s"
    if thing.share >= SHARE_LEAST:
        extent = level_word(min(thing.share, 1.0), SHARE_LEVELS)
        verb = rng.choice((f"cover{s}", f"take{s} up", "occupy" if thing.plural else "occupies"))
        return sentence(f"{what} {verb} {extent} of the picture{', ' + where if where else ''}")
    # Through a part runs what is long beside it.
    long = sum(mark.get("length_m") or 0.0 for mark in thing.marks)
    if thing.sectors and long >= RUNS_THROUGH * len(thing.sectors) * record["gsd_m"] * record["size_px"]:
        verb = rng.choice((f"run{s}", f"extend{s}"))
        return sentence(f"{what} {verb} through {where.removeprefix('in ') or 'the picture'}")
    if not where:
        return sentence(f"{what} {'are' if thing.plural else 'is'} in the picture")
    verb = rng.choice((f"lie{s}", "can be seen", "are visible" if thing.plural else "is visible"))
    return sentence(f"{what} {verb} {where}")


def _map_full(record: dict, things: Sequence[_Thing], rng: random.Random) -> str:
    size = f"about {length_words(record['gsd_m'] * record['size_px'])} across"
    opening = rng.choice(
        (f"An aerial view covering {size}", f"The picture shows an area {size}", f"Seen from above is an area {size}")
    )
    related = _relation_sentences(record, things, rng)
    rest = [f"{_say(thing, rng)} {where}" if (where := _where(thing)) else _say(thing, rng) for thing in things[4:8]]
    end = f"{rng.choice(('also visible:', 'also in view:', 'besides these:'))} {list_words(rest)}" if rest else ""
    sentences = [f"{opening}.", *(_map_sentence(record, thing, rng) for thing in things[:4]), *related[:1]]
    return fit([*sentences, sentence(end) if end else ""])


def _map_short(record: dict, things: Sequence[_Thing], rng: random.Random) -> str:
    what = list_words([_say(thing, rng) for thing in things[: rng.randint(2, 3)]])
    return sentence(rng.choice((f"an aerial picture of {what}", f"{what}, seen from above", f"an overhead view of {what}")))


def _map_relational(record: dict, things: Sequence[_Thing], rng: random.Random) -> str:
    sentences = _relation_sentences(record, things, rng)[:3]
    placed = [(thing, where) for thing in things if (where := _where(thing)) and where.startswith("in ")]
    pairs = [(a, b) for n, a in enumerate(placed) for b in placed[n + 1 :] if a[1] != b[1]]
    if len(sentences) < 2 and pairs:
        joint = rng.choice(("while", "and"))
        halves = [f"{_say(thing, rng)} {'are' if thing.plural else 'is'} {where}" for thing, where in pairs[0]]
        sentences.append(sentence(f"{halves[0]}, {joint} {halves[1]}"))
    if not sentences and placed:
        thing, where = placed[0]
        be, side = "lie" if thing.plural else "lies", where.removeprefix("in the ")
        what = _say(thing, rng)
        middle = rng.choice(("in the middle of the picture", "near the picture's middle"))
        text = f"{what} {be} {middle}" if side == "centre" else f"{what} {be} {side} of the picture's middle"
        sentences.append(sentence(text if side in SECTORS else f"{where} {be} {what}"))
    if not sentences:
        sentences.append(_spread_sentence(record, things[0], rng))
    return fit(sentences)


def _spread_sentence(record: dict, thing: _Thing, rng: random.Random) -> str:
    """Say of what has no few places how far it reaches, as far as that was measured."""
    many = thing.reaches and len(thing.sectors) > 4
    if thing.share >= SHARE_LEAST or not many:
        return _map_sentence(record, thing, rng)
    be = "are" if thing.plural else "is"
    return sentence(f"{_say(thing, rng)} {be} in many parts of the picture")


def _relation_sentences(record: dict, things: Sequence[_Thing], rng: random.Random) -> list[str]:
    """Say where one thing lies from another, where both are single and small enough to have a direction between them."""
    marks = record.get("landmarks") or []
    alone = [thing for thing in things if len(thing.marks) == 1 and (thing.marks[0].get("count") or 1) == 1]
    single = {id(thing.marks[0]): thing for thing in alone}
    sentences = []
    for relation in record.get("relations") or ():
        first, second = (single.get(id(marks[relation[end]])) for end in ("from", "to"))
        if not first or not second or max(first.share, second.share) > WIDE_SHARE:
            continue
        # The second lies in this direction of the first; the reverse is as true where neither is large.
        direction = relation["direction"]
        if len(first.sectors) == len(second.sectors) == 1 and rng.random() < 0.5:
            first, second, direction = second, first, opposite(direction)
        far = f"about {length_words(relation['distance_m'])} " if relation.get("distance_m", 0) >= 5 else ""
        verb = rng.choice(("lie", "are")) if second.plural else rng.choice(("lies", "is"))
        to = "" if far else "to the "
        sentences.append(sentence(f"{_definite(second)} {verb} {far}{to}{direction} of {_definite(first)}"))
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
