"""The single rules that the audit of captions consists of: what is said against a list of landmarks, and what nobody says.

A `Scene` holds what a record says, in the form in which it is looked up. `mask` covers the listed names of a caption, so that
what is left and looks like a name is not on the list. Then each rule returns the words at fault, or nothing: `refusal`,
`unsayable` (leaks, orders, markup), `house_number`, `other_language`, `unknown_name`, `wrong_counts`, `wrong_directions`. They
know nothing of the pixels and read English; they find fault only where a rule can be sure of what it read.

Source: our choice; how the paper's captions were checked was not published.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from rsvlm.data.captions import audit_outlines, grammar
from rsvlm.data.landmarks.directions import COMPASS, SECTORS, opposite

WORST = ("instruction", "markup")
"""Of `grammar.UNSAYABLE`, what condemns a whole caption, whatever its other sentences say."""

LEAKS = tuple(reason for reason in grammar.UNSAYABLE if reason not in WORST)
"""Of `grammar.UNSAYABLE`, what condemns a sentence."""

Mention = tuple[int, int, int | None]
"""Where a listed name or a category word begins and ends, and the number of the landmark meant, if it is one."""

_MASK = "\ue000"  # of the private area, which `audit` takes out of captions


@dataclass(frozen=True)
class Scene:
    """What a record says, in the form the rules look things up in."""

    names: tuple[tuple[str, int | None], ...]  # folded spellings of listed names, with whose each is, longest first
    parts: frozenset[str]  # words of those names, which may stand alone ("Aguda")
    nouns: tuple[tuple[str, int | None], ...]  # folded category words with the visible landmarks meant, longest first
    counts: Mapping[str, tuple[int, int]]  # by folded category word: visible things at least, and all with the hidden ones
    pieces: frozenset[str]  # category words of what is not counted, as roads
    marks: tuple[Mapping, ...]  # all landmarks
    corners: tuple[tuple[float, float], ...]  # of the picture in degrees, clockwise from the upper left; empty: not known
    relations: Mapping[tuple[int, int], str]  # direction from one landmark to another, by their numbers

    @staticmethod
    def of(record: Mapping) -> Scene:
        """Read a sample's record: its landmarks, relations, box, and the countries and cities of a Blue Marble chip."""
        marks = tuple(record.get("landmarks") or ())
        names: dict[str, int | None] = {}
        nouns: dict[str, int | None] = {}
        counts: dict[str, tuple[int, int]] = {}
        own: dict[str, int] = {}  # visible things by the words of their very category: two towers beside a water tower
        pieces: set[str] = set()
        for number, mark in enumerate(marks):
            count, visible = mark.get("count") or 1, mark.get("visible", True)
            if not grammar.countable(mark["category"]):
                pieces.update(grammar.nouns(mark["category"]))
            for word in grammar.nouns(mark["category"]):
                seen, total = counts.get(word, (0, 0))
                counts[word] = (seen + count * visible, total + count)
                if word in map(str.casefold, grammar.words_of(mark["category"])):
                    own[word] = own.get(word, 0) + count * visible
                if visible:
                    nouns[word] = None if word in nouns or count > 1 else number
            if visible:
                for name in (mark.get("name"), *(mark.get("names") or {}).values()):
                    for folded in grammar.spellings(name):
                        names[folded] = None if names.get(folded, number) != number else number
        counts |= {word: (seen, counts[word][1]) for word, seen in own.items()}
        measured = record.get("measurements") or {}
        for country in measured.get("countries") or () if isinstance(measured, Mapping) else ():
            for name in (country["name"], *country.get("cities", ())):
                for folded in grammar.spellings(name):
                    names.setdefault(folded, None)
        parts = frozenset(part for name in names for part in re.findall(r"[^\W\d_]{3,}", name))
        relations = {(relation["from"], relation["to"]): relation["direction"] for relation in record.get("relations") or ()}
        by_length = functools.partial(sorted, key=lambda item: (-len(item[0]), item[0]))
        return Scene(
            tuple(by_length(names.items())),
            parts - {"the", "and", "der", "die", "das", "los", "las", "les", "del", "des", "dos", "von", "van"},
            tuple(by_length(nouns.items())),
            counts,
            frozenset(pieces),
            marks,
            audit_outlines.corners_of(record),
            relations,
        )


def _find_words(folded: str, words: Iterable[tuple[str, int | None]], taken: list[Mention], text: str | None = None) -> None:
    """Add to `taken` every (start, end, landmark) at which a word stands alone and that is not taken yet."""
    for word, owner in words:
        start = folded.find(word)
        while start >= 0:
            end = start + len(word)
            alone = not (folded[start - 1 : start].isalnum() and word[0].isalnum()) and not folded[end : end + 1].isalnum()
            # Names are written with capitals: "a sandy beach" is not the road "Beach", nor "Two rivers" the town "Two Rivers".
            named = text is None or not word.isascii() or any(map(str.isupper, text[start + (" " in word) : end]))
            # Of "A0 0" or "7 8" no letter could be a capital, or none but the first.
            named = named or not any(map(str.isalpha, word[text[start].isupper() :]))
            if alone and named and all(end <= a or start >= b for a, b, _ in taken):
                taken.append((start, end, owner))
            start = folded.find(word, end)


def mask(text: str, scene: Scene) -> tuple[str, list[Mention]]:
    """Put a mask, as long as the name, in place of every listed name; return also where each stood and whose it is."""
    taken: list[Mention] = []
    _find_words(grammar.fold(text), scene.names, taken, text)
    for start, end, _ in taken:
        text = text[:start] + _MASK * (end - start) + text[end:]
    return text, taken


# What nobody says

_REFUSAL = re.compile(
    r"\b(?:(?:I|we)(?:'m|’m| am| are| was| were)? (?:cannot|can't|can’t|can not|could not|couldn't|unable|sorry|not able|apologi[sz]e"
    r"|won't|will not|do not|don't|don’t|must decline)|as an? (?:\w+ )?(?:AI|assistant|language model)|language model"
    r"|I(?:'m| am) (?:an?|just|only)|(?:unable|not able|not possible) to (?:provide|describe|generate|assist|comply|identify|caption"
    r"|determine|see|view|write)|cannot (?:assist|help|comply|provide|describe|generate|fulfil)"
    r"|no (?:image|picture|landmarks?) (?:was|is|were|has been) (?:provided|given|attached)"
    r"|against (?:my|our|the) (?:guidelines|policy|policies)|(?:content|safety) policy|(?:please|kindly) provide)\b",
    re.I,
)


def refusal(text: str) -> str:
    """Return the words with which a model declines, apologises or speaks of itself; empty where there are none."""
    match = _REFUSAL.search(text)
    return match[0] if match else ""


def unsayable(text: str, masked: str, reasons: Iterable[str] = LEAKS) -> list[tuple[str, str]]:
    """Find what no caption says.

    Args:
        text: A caption or a sentence of it.
        masked: The same with listed names masked. Streets and numbers are allowed inside those ("Rua 25 de Abril"), addresses
            of any other kind are not.
        reasons: Of `grammar.UNSAYABLE`.

    Returns:
        A reason with the words at fault for each that is found, in the order of `reasons`.
    """
    texts = ((reason, masked if reason in ("street address", "postcode") else text) for reason in reasons)
    matches = ((reason, grammar.UNSAYABLE[reason].search(where)) for reason, where in texts)
    return [(reason, match[0].strip()) for reason, match in matches if match]


# A house number before or behind a listed name, but no length, count or share: "12 Main Street", "Main Street 12".
_HOUSE_NUMBER = re.compile(
    rf"\b\d{{1,4}}[a-zA-Z]?,? {_MASK}|{_MASK},? (?:n\.?[ºo°] ?)?\d{{1,4}}[a-zA-Z]?(?!\w|[.,]\d)"
    r"(?! ?(?:m|km|metres?|meters?|kilomet\w+|miles?|feet|ft|yards|ha|%|percent|of|or|to|\w{3,}s)\b| ?[%-])"
)


def house_number(text: str, masked: str) -> str:
    """Return a number that stands beside a listed name as house numbers do; empty where there is none."""
    match = _HOUSE_NUMBER.search(masked)
    return text[match.start() : match.end()].strip() if match else ""


_COMMON = {
    "en": "the of and in is are with on to from by at near a an its it this that which where there",
    "de": "der die das und ist im mit von ein eine auf den dem zu sich am liegt sind bei zwischen",
    "fr": "le la les des et est une du dans avec sur au aux un par se de à l",
    "es": "el la los las y es una del en con por un al se de hay junto",
    "pt": "o os as e é uma do da no na com um ao dos das de em há pela",
    "it": "il lo la gli e è una del della nel con un al di in sono che si",
    "nl": "de het een en is van met op in aan zijn bij naar te ligt",
}
_COMMON = {language: frozenset(words.split()) for language, words in _COMMON.items()}
_SCRIPTS = {"ARABIC": "ar fa ur", "HEBREW": "he", "CYRILLIC": "ru uk bg", "GREEK": "el", "CJK HIRAGANA KATAKANA": "zh ja"}
_SCRIPTS |= {"HANGUL": "ko", "DEVANAGARI": "hi", "THAI": "th", "BENGALI": "bn"}
_SCRIPT_OF = {language: script for script, languages in _SCRIPTS.items() for language in languages.split()}


def other_language(masked: str, language: str, detect: Callable[[str], str | None] | None = None) -> str:
    """Return what a text is in where that is not the language wanted, else empty.

    Args:
        masked: A caption with its listed names masked.
        language: ISO 639-1 code of the language wanted.
        detect: From a text to the code of its language or none; without it scripts and the commonest words decide.
    """
    text = masked.replace(_MASK, "")
    scripts = _SCRIPT_OF.get(language, "LATIN").split()
    if not text.isascii() or scripts != ["LATIN"]:
        letters = [c for c in text if c.isalpha()]
        inside = sum(any(unicodedata.name(c, "").startswith(script) for script in scripts) for c in letters)
        if inside < 0.7 * len(letters):
            return "another script"
    if detect is not None:
        detected = detect(text) if len(text) >= 25 else None
        return detected if detected and detected != language else ""
    if language not in _COMMON:
        return ""
    words = re.findall(r"[^\W\d_]+", text.lower())
    scores = {name: len(common.intersection(words)) for name, common in _COMMON.items()}
    best = max(scores, key=scores.get)
    if scores[best] >= 2 and scores[best] > scores[language] + 1:
        return best
    return "no common words" if len(words) >= 12 and not any(scores.values()) else ""


# Names

_UPPER = "".join(c for c in map(chr, range(0x2000)) if c.isupper())
_CAPITALS = re.compile(rf"(?<![\w'’])[{re.escape(_UPPER)}][\w'’-]*(?:\s+[{re.escape(_UPPER)}][\w'’-]*)*")
_OTHER_SCRIPT = re.compile(r"[\u0370-\u1dff\u1f00-\u1fff\u2c00-\ud7ff\uf900-\ufdff\ufe70-\ufeff\U00010000-\U0003ffff]+")
_CAPITALS_ALLOWED = frozenset(
    "north south east west northeast northwest southeast southwest northern southern eastern western northeastern northwestern "
    "southeastern southwestern earth moon sun i osm gis rgb uav victorian georgian roman gothic baroque mediterranean".split()
)
_OPENERS = frozenset(
    "the a an this that these those it its in on at to from by near along across around above below between beyond behind beside "
    "there here both each every some many several few most all one two three four five six seven eight nine ten no with within "
    "while where when as of for and but or is are not only just also another other further besides inside outside towards toward "
    "over under through throughout next close adjacent about nearly almost dozens hundreds thousands large small seen visible "
    "overhead aerial satellite image picture view photo scene bird's nearby farther further elsewhere overall together".split()
)
_SHAPES = re.compile(r"[A-Z](?:-\w+)?$")
_LONE_VERB = re.compile(
    r"\s*(?:['’]s\b|(?:is|lies|stands|sits|covers|occupies|runs|stretches|dominates|extends|spans|borders|has)\b)"
)
_ORDINARY = re.compile(
    r"\w+(?:ing|tion|ment|ness|ity|lands?|age|ure|ery|scape|wood|water|side|ways?|works?|body|thing|one|ed|ly|ous|al|ic|field|yard"
    r"|ship)$|(?:sand|water|grass|snow|ice|soil|rock|mud|forest|agriculture|traffic|turf|shade|foam|surf|concrete|asphalt|pavement"
    r"|bush|mist|fog|haze|smoke|dust|gravel|shore|ocean|sea|coast|space|part|half|much|nothing|what|everything|none|either|neither"
    r"|land|debris|cargo|brush|shrub|crop|moss|algae)$"
)


def unknown_name(sentence: str, scene: Scene, language: str) -> str:
    """Return the first run of words that reads as a proper name and is on no list; empty where there is none.

    Args:
        sentence: With its listed names masked.
        scene: The list.
        language: ISO 639-1 code; names are known by their capitals in English only, elsewhere by a foreign script.
    """
    if language != "en":
        return _unknown_script(sentence, scene, language)
    begin, vocabulary = re.search(r"\w", sentence), grammar.vocabulary()
    for match in _CAPITALS.finditer(sentence):
        words = match[0].split()
        first = begin is not None and match.start() == begin.start() or sentence[: match.start()].rstrip(' "“‘(').endswith(":")
        folded = grammar.fold(match[0])
        if re.sub(r"^(?:the|an?) ", "", folded) in grammar.phrases():
            continue
        if first and len(words) == 1:
            word = re.sub(r"['’]s$", "", folded)
            verb = _LONE_VERB.match(sentence, match.end()) or folded != word
            known = word in _OPENERS or _ORDINARY.match(word) or word in vocabulary or word in scene.parts
            if verb and not known and word not in _CAPITALS_ALLOWED:
                return match[0]
            continue
        if first and grammar.fold(words[0]) in _OPENERS:
            words = words[1:]
        for word in words:
            plain = re.sub(r"['’]s$|['’]$", "", grammar.fold(word))
            alone = plain in vocabulary and len(words) == 1
            if not (alone or plain in _CAPITALS_ALLOWED or plain in scene.parts or _SHAPES.match(word)):
                return match[0]
    return _unknown_script(sentence, scene, "en")


def _unknown_script(sentence: str, scene: Scene, language: str) -> str:
    if sentence.isascii() or language in _SCRIPT_OF:
        return ""
    for match in _OTHER_SCRIPT.finditer(sentence):
        known = any(grammar.fold(match[0]) in name for name, _ in scene.names)
        if any(c.isalpha() for c in match[0]) and not known:
            return match[0]
    return ""


# Counts

_NUMBERS = {word: n for n, word in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())}
_NUMBERS |= {word: n for n, word in enumerate("thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split(), 13)}
_NUMBERS |= {w: 10 * n for n, w in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
_NUMBERS |= {"twenty-five": 25, "single": 1, "lone": 1, "sole": 1, "pair of": 2, "couple of": 2, "trio of": 3, "dozen": 12}
_NUMBERS |= {"a hundred": 100, "dozens of": 24, "hundreds of": 100, "thousands of": 1000, "a thousand": 1000}
_NUMBERS |= {f"{word} hundred": 100 * n for word, n in list(_NUMBERS.items())[2:10]}
_COUNT = re.compile(
    r"(?P<vague>\b(?:about|around|some|roughly|approximately|nearly|almost|over|more than|at least|up to|under|less than|circa|perhaps|"
    r"an? estimated)\s+)?(?<![\w.,-])(?P<number>\d{1,5}|"
    + "|".join(sorted(_NUMBERS, key=len, reverse=True))
    + r")\s+(?=(?P<rest>[a-z][\w'’ -]{0,60}))"
)
_PLACED = re.compile(
    r"\b(?:in|at|on|along|near|beside|around|by|of|to|across|between|inside|within|above|below|next|other|more|named|called)\b"
)
_EXTENTS = frozenset(
    "km m metres meters metre meter sides side lanes times storeys stories floors rows halves parts thirds quarters".split()
)
_STOPS = frozenset(
    "and or in of at on the to with is are lie near by from while along a an beside behind around between above below".split()
)


def wrong_counts(sentence: str, scene: Scene) -> Iterator[str]:
    """Yield the numbers of things, in a folded and masked sentence, that the list contradicts."""
    for match in _COUNT.finditer(sentence):
        number = int(match["number"]) if match["number"].isdigit() else _NUMBERS[match["number"]]
        words = match["rest"].split()[:5]
        noun, end = None, 0
        for last in range(1, len(words) + 1):
            before = words[last - 2] if last > 1 else ""
            # Only adjectives and nouns in the singular stand between a number and what it counts.
            if words[last - 1] in _STOPS or words[0] in _EXTENTS or (before.endswith("s") and not before.endswith("ss")):
                break
            phrases = (" ".join(words[first:last]) for first in range(last))
            if phrase := next((phrase for phrase in phrases if phrase in scene.counts), None):
                noun, end = phrase, last
        if noun is None or noun in scene.pieces:
            continue
        seen, total = scene.counts[noun]
        level = match["number"].endswith(" of") and match["number"][0] in "dht"
        level = level or (match["vague"] or "").strip() in ("more than", "over", "at least")
        loose = level or match["vague"] is not None
        # "Two houses in the north" may be two of many; more than there are is wrong wherever they are.
        placed = _PLACED.search(sentence, match.end()) or sentence[: match.start()].endswith(("of ", "these ", "those "))
        too_many = number > (total * 1.35 + 1 if loose else total)
        too_few = number < (seen * 0.65 - 1 if loose else seen) and not (level and number * 12 > seen)
        qualified = words[:end] != noun.split()
        if too_many or (too_few and not placed and not qualified):
            yield f"{match[0].strip()} {noun} (the list has {total})"


# Directions

_POINTS = r"(?:north|south)[ -]?(?:east|west)|north|south|east|west"
_SIDES = r"(?:upper|top|lower|bottom)[ -]?(?:left|right)|upper|top|lower|bottom|left|right"
_PICTURE = r"(?:the|this)\s+(?:image|picture|scene|frame|view|photo\w*|chip|area)\b"
_PLACE = re.compile(
    r"\b(?:in|at|on|along|across|through|over|towards?|fills|occupies|near|lines|to|throughout)\s+(?:the\s+|its\s+)?"
    rf"(?:(?:far|very|extreme)\s+)?(?P<where>(?:{_POINTS})(?:ern|ernmost)?|{_SIDES}|centre|center|central|middle)(?:[ -]hand)?(?![\w-])"
    r"(?P<part>\s+(?:part|half|side|edge|corner|third|section|quadrant|portion|end|area|margin|border|sector|region|reaches)\b)?"
    rf"(?P<of>\s+of\s+(?!{_PICTURE}))?"
)
_BESIDE = re.compile(
    rf"\b(?:to the\s+)?(?:just\s+|directly\s+|immediately\s+)?(?:due\s+)?(?P<where>{_POINTS})\s+of\s+(?!{_PICTURE})(?:the\s+|an?\s+)?"
)
_BLOCKED = re.compile(
    r"[;:.]|\b(?:and|or|while|with|but|whereas|where|which|that|has|have|having|contains?|holds|to|from|towards?|near|beside|facing"
    r"|of|a|an|the|not|than|between|beyond|behind|some|several|other|another|many|few|both)\b"
)
_SOME_PLACE = re.compile(r"north|south|east|west|top|upper|bottom|lower|left|right|cent|middle")
_BEGINNING = re.compile(r"\W*(?:(?:about|some|roughly|around) )?(?:[\d.]+ ?\w+ )?")
_INVERTED = re.compile(
    r"(?: of (?:the|this) \w+)?,?(?: (?:is|lies|stands|sits|runs|appears|there is))*(?: (?:the|a|an))?(?: (?!and\b|or\b)[\w-]+)? ?[\"“]?"
)
_SYNONYMS = {"top": "north", "upper": "north", "bottom": "south", "lower": "south", "left": "west", "right": "east"}
_SYNONYMS |= {"middle": "centre", "center": "centre", "central": "centre"}
_CELL = {sector: divmod(number, 3) for number, sector in enumerate(SECTORS)}


def wrong_directions(folded: str, raw: str, named: list[Mention], scene: Scene) -> Iterator[str]:
    """Yield the words that place a thing where the list does not have it.

    Args:
        folded: A sentence, masked and folded.
        raw: The same as it came.
        named: The listed names in it.
        scene: The list.
    """
    if not _SOME_PLACE.search(folded):
        return
    mentions = mentions_in(folded, named, scene)
    beside = [(match, True) for match in _BESIDE.finditer(folded)]
    spans = [match.span() for match, _ in beside]
    places = [(m, False) for m in _PLACE.finditer(folded) if not any(a <= m.start("where") < b for a, b in spans)]
    for match, relative in beside + places:
        where = _sector_of(match["where"])
        subject = subject_of(folded, match, mentions)
        if relative:
            other = next((m for m in mentions if match.end() <= m[0] <= match.end() + 25), None)
            if other is None or (other[0] != match.end() and _BLOCKED.search(folded[match.end() : other[0]])):
                continue
            if subject is None:
                subject = _inverted(folded, match.start(), other[1], mentions)
            if subject is not None and _contradicts(scene, subject[2], other[2], where):
                yield raw[min(subject[0], match.start()) : max(other[1], subject[1])].strip()
        elif not match["of"] and (match["part"] or not match[0].startswith("to ")):
            if subject is None:
                subject = _inverted(folded, *match.span(), mentions)
            if subject is not None and _misplaced(scene, subject[2], where):
                yield raw[min(subject[0], match.start()) : max(subject[1], match.end())].strip()


def mentions_in(folded: str, named: list[Mention], scene: Scene) -> list[Mention]:
    """Return the mentions of listed things in a sentence, by name or by category word, in their order."""
    taken = list(named)
    _find_words(folded, scene.nouns, taken)
    taken.sort()
    # "the beach Praia da Aguda" is one mention, and its name says which.
    return [
        m
        for n, m in enumerate(taken)
        if not (n + 1 < len(taken) and taken[n + 1] in named and folded[m[1] : taken[n + 1][0]].strip(' "“') == "")
    ]


def subject_of(folded: str, match: re.Match, mentions: list[Mention]) -> Mention | None:
    """Return the mention that a phrase behind it is about, where nothing between them could be meant instead."""
    before = [m for m in mentions if m[1] <= match.start()]
    if before and before[-1][2] is not None and not _BLOCKED.search(folded[before[-1][1] : match.start()]):
        return before[-1]
    return None


def _inverted(folded: str, start: int, end: int, mentions: list[Mention]) -> Mention | None:
    """Return the mention that follows a phrase at a sentence's beginning: "In the north lies the beach"."""
    after = next((m for m in mentions if m[0] >= end), None)
    if after is None or after[2] is None or not _BEGINNING.fullmatch(folded[:start]):
        return None
    return after if _INVERTED.fullmatch(folded[end : after[0]]) else None


def _sector_of(words: str) -> str:
    words = re.sub(r"ern(?:most)?$", "", words.replace(" ", "").replace("-", ""))
    if match := re.fullmatch(r"(upper|top|lower|bottom)(left|right)", words):
        return _SYNONYMS[match[1]] + _SYNONYMS[match[2]]
    return _SYNONYMS.get(words, words)


def _misplaced(scene: Scene, number: int, where: str) -> bool:
    """Whether a landmark neither lies in a sector or next to it, nor reaches into it."""
    mark = scene.marks[number]
    position, share = mark.get("position"), mark.get("share") or 0
    if position not in _CELL or where not in _CELL or share >= grammar.SHARE_PLACED:
        return False
    rows, columns = (abs(a - b) for a, b in zip(_CELL[position], _CELL[where]))
    # What is small lies in its sector or next to it; what is large reaches further, but not from side to side.
    near = max(rows, columns) <= 1 if share >= grammar.WIDE_SHARE else rows + columns <= 1
    by_sector = mark.get("by_sector")
    if not by_sector and not mark.get("geometry") and (mark.get("length_m") or mark.get("length_km")):
        return False  # a line whose course is not on the record
    return (
        not near
        and not (by_sector and by_sector[SECTORS.index(where)])
        and where not in audit_outlines.touched(mark, scene.corners)
    )


def _contradicts(scene: Scene, first: int, second: int | None, where: str) -> bool:
    """Whether the first landmark is clearly not in a direction of the second."""
    if second is None or first == second or where not in COMPASS:
        return False
    said = math.radians(45 * COMPASS.index(where))
    marks = scene.marks[first], scene.marks[second]
    listed = scene.relations.get((second, first))
    if listed is None and (reverse := scene.relations.get((first, second))) is not None:
        listed = opposite(reverse)
    if listed is not None:
        return math.cos(said - math.radians(45 * COMPASS.index(listed))) < 0.5
    wide = any(mark.get("length_m") or (mark.get("share") or 0) > grammar.WIDE_SHARE for mark in marks)
    if wide or any(mark.get("lon") is None for mark in marks):
        return False
    east = (marks[0]["lon"] - marks[1]["lon"] + 180) % 360 - 180
    north = marks[0]["lat"] - marks[1]["lat"]
    bearing = math.atan2(north, east * math.cos(math.radians(marks[1]["lat"])))
    return math.cos(bearing - said) < 0.35
