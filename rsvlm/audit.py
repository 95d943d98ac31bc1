"""Every caption checked against the landmarks it was written from: kept, repaired or rejected, with a named reason.

A caption model sees a picture and a list of landmarks, and may still invent a name, count wrongly, mix up east and west, print
coordinates, refuse, or do what a hostile name on the map told it. `check` reads a caption as a strict reader with the list in
hand would: listed names are masked first, so that what is left and looks like a name is not on the list. Sentences that carry a
fault are dropped where others remain; what cannot be mended for sure is rejected. The rules know nothing of the pixels and read
English; they prefer a true caption lost to a false one kept only where a rule can be sure of what it read.

Source: our choice; how the paper's captions were checked was not published.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import heapq
import io
import json
import math
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rsvlm import grammar, runs
from rsvlm.errors import ConfigError, DataError, MissingExtraError
from rsvlm.worldmap import EIGHT_DIRECTIONS, SECTORS

REASONS = {
    "empty": "nothing is left once wrapping and markup are taken off",
    "refusal": "the model declines, apologises or speaks of itself",
    "instruction": "the text gives or repeats orders, or advertises, as a hostile name on the map may ask for",
    "markup": "HTML, JSON, Markdown or template text inside the caption",
    "language": "not in the language asked for",
    "too long": "more words than allowed",
    "too short": "fewer than two words",
    "duplicate": "the same as another caption of the chip",
    "name not on the list": "a proper name that no visible landmark has",
    "wrong count": "a number of things that the list contradicts",
    "wrong direction": "a thing placed in another part of the chip, or on another side of another thing, than the list has it",
    "coordinates": "degrees, grid references or plus codes",
    "street address": "a house number with a street",
    "postcode": "a postcode",
    "address on the web": "a web or e-mail address",
    "phone number": "a phone number",
    "wrapping": "quotation marks, code fences or a preamble around the caption (repaired)",
}
"""Why a caption was rejected or repaired."""

WORST = frozenset(("refusal", "instruction", "markup"))
"""Reasons that condemn the whole caption, whatever its other sentences say."""

MIN_WORDS = 2
"""Shorter captions are rejected."""

EXAMPLES = 5
"""Examples that a report shows of each reason."""

_LONGEST = 20_000  # characters of a caption that are looked at


@dataclass(frozen=True)
class Finding:
    """What became of one caption.

    Attributes:
        kind: Its kind, as `full`.
        status: `kept`, `repaired` or `rejected`.
        reasons: Of `REASONS`, in the order found; empty where it was kept.
        details: The words at fault, one per reason.
        text: The caption to use; empty where it was rejected.
        original: As it came.
    """

    kind: str
    status: str
    reasons: tuple[str, ...]
    details: tuple[str, ...]
    text: str
    original: str


@dataclass(frozen=True)
class Verdict:
    """What became of the captions of one chip, in their order."""

    key: str
    findings: tuple[Finding, ...]

    @property
    def captions(self) -> dict[str, str]:
        """Captions to use, by kind: those kept, and those repaired as they now are."""
        return {finding.kind: finding.text for finding in self.findings if finding.text}

    def rows(self) -> list[dict]:
        """Return one JSON-able row `{key, stage, kind, status, reason, reasons, details, text, original}` per caption.

        `reason` is the first reason, for `rejected.jsonl`; `text` is the caption to use, or of a rejected one what was rejected.
        """
        return [
            {
                "key": self.key,
                "stage": "audit",
                "kind": finding.kind,
                "status": finding.status,
                "reason": finding.reasons[0] if finding.reasons else None,
                "reasons": list(finding.reasons),
                "details": list(finding.details),
                "text": finding.text or finding.original,
                "original": finding.original,
            }
            for finding in self.findings
        ]


def check(
    captions: Mapping[str, str],
    record: Mapping,
    language: str = "en",
    max_words: int = 120,
    detect: Callable[[str], str | None] | None = None,
) -> Verdict:
    """Check the captions of one chip against its landmarks.

    Args:
        captions: Texts by kind.
        record: The sample's record; `landmarks` with name, names, category, position, lon, lat, count and visible are read,
            `relations`, and `bbox_lonlat` to place the outline of what reaches over several sectors.
        language: ISO 639-1 code of the language wanted. Names, counts and directions are judged in English only.
        max_words: Longer captions are rejected.
        detect: From a text to the code of its language or none, as `language_detector()`; without it scripts and the commonest
            words decide, which tells English from the other languages in `_COMMON` and from other scripts.

    Returns:
        The verdict; it never fails on a text or a name.
    """
    scene = _Scene.of(record)
    findings, seen = [], set()
    for kind, original in captions.items():
        original = original if isinstance(original, str) else ""
        text, mended = _unwrap(original)
        masked, mentions = _mask(text, scene)
        faults = _whole_faults(text, masked, language, max_words, detect)
        if not faults:
            text, faults, rejected = _mend(text, masked, mentions, scene, language)
        else:
            rejected = True
        folded = " ".join(re.findall(r"\w+", text.casefold()))
        if not rejected and folded in seen:
            faults, rejected = [*faults, ("duplicate", "")], True
        seen.add(folded)
        if mended and not rejected:
            faults = [("wrapping", ""), *faults]
        status = "rejected" if rejected else "repaired" if faults else "kept"
        reasons = dict(faults)
        findings.append(
            Finding(kind, status, tuple(reasons), tuple(reasons.values()), "" if rejected else text, original[:_LONGEST])
        )
    return Verdict(str(record.get("key", "")), tuple(findings))


@functools.cache
def language_detector() -> Callable[[str], str | None]:
    """Return a function from a text to the ISO 639-1 code of its language, in lower case, or none where it cannot tell.

    Raises:
        MissingExtraError: lingua is not installed.
    """
    try:
        import lingua
    except ImportError:
        raise MissingExtraError('the package lingua-language-detector is not installed: pip install "rsvlm[data]"') from None
    # The full models take a gigabyte in every process; on sentences the small ones are as good.
    builder = lingua.LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode()
    detector = builder.with_minimum_relative_distance(0.05).build()

    def detect(text: str) -> str | None:
        found = detector.detect_language_of(text)
        return found.iso_code_639_1.name.lower() if found else None

    return detect


# The list, as a reader has it in hand

_MASK = "\ue000"  # of the private area, which `_visible` has taken out of captions


@dataclass(frozen=True)
class _Scene:
    """What a record says, in the form the rules look things up in.

    Attributes:
        names: Folded spellings of listed names with the landmark each belongs to, longest first.
        parts: Words of those names, which may stand alone ("Aguda").
        nouns: Folded category words with the visible landmarks meant, longest first.
        counts: By folded category word, how many visible things of it there are, and how many with the hidden ones.
        marks: All landmarks.
        bbox: West, south, east, north, or none.
        relations: Direction from one landmark to another, by their numbers.
    """

    names: tuple[tuple[str, int | None], ...]
    parts: frozenset[str]
    nouns: tuple[tuple[str, int | None], ...]
    counts: Mapping[str, tuple[int, int]]
    marks: tuple[Mapping, ...]
    bbox: tuple[float, ...] | None
    relations: Mapping[tuple[int, int], str]

    @staticmethod
    def of(record: Mapping) -> _Scene:
        marks = tuple(record.get("landmarks") or ())
        names: dict[str, int | None] = {}
        nouns: dict[str, int | None] = {}
        counts: dict[str, tuple[int, int]] = {}
        for number, mark in enumerate(marks):
            count, visible = mark.get("count") or 1, mark.get("visible", True)
            for word in _nouns(mark["category"]):
                seen, total = counts.get(word, (0, 0))
                counts[word] = (seen + count * visible, total + count)
                if visible:
                    nouns[word] = None if word in nouns or count > 1 else number
            if visible:
                for name in (mark.get("name"), *(mark.get("names") or {}).values()):
                    for folded in _spellings(name):
                        names[folded] = None if names.get(folded, number) != number else number
        measured = record.get("measurements") or {}
        for country in measured.get("countries") or () if isinstance(measured, Mapping) else ():
            for name in (country["name"], *country.get("cities", ())):
                for folded in _spellings(name):
                    names.setdefault(folded, None)
        parts = frozenset(part for name in names for part in re.findall(r"[^\W\d_]{3,}", name))
        relations = {(relation["from"], relation["to"]): relation["direction"] for relation in record.get("relations") or ()}
        by_length = functools.partial(sorted, key=lambda item: (-len(item[0]), item[0]))
        bbox = record.get("bbox_lonlat")
        return _Scene(
            tuple(by_length(names.items())),
            parts - {"the", "and", "der", "die", "das", "los", "las", "les", "del", "des", "dos", "von", "van"},
            tuple(by_length(nouns.items())),
            counts,
            marks,
            tuple(bbox) if bbox else None,
            relations,
        )


@functools.lru_cache(100_000)
def _spellings(name: str | None) -> tuple[str, ...]:
    """Folded ways to write a listed name; none where it is a name that no caption says."""
    said = grammar.sayable(name)
    if not said:
        return ()
    said = said.strip('"')
    raw = " ".join(unicodedata.normalize("NFC", name).split())
    return tuple(dict.fromkeys(folded for text in (said, raw) if len(folded := _fold(text)) > 1))


@functools.lru_cache(10_000)
def _nouns(category: str) -> tuple[str, ...]:
    """Words that mean a category, singular and plural, with those of its last word alone ("road" for "main road")."""
    words = [word.casefold() for word in grammar.words_of(category)]
    return tuple(dict.fromkeys(word for full in words for word in (full, full.split()[-1] if " of " not in full else full)))


def _fold(text: str) -> str:
    """Lower case without accents, of the same length: positions in the folded text are positions in the text."""
    if text.isascii():
        return text.lower()
    return "".join(_fold_character(c) for c in text)


@functools.lru_cache(10_000)
def _fold_character(c: str) -> str:
    if c in "’ʼ‘`´":
        return "'"
    if ord(c) < 0x250 or 0x1E00 <= ord(c) < 0x1F00:
        c = unicodedata.normalize("NFKD", c)[0]
    lower = c.lower()
    return lower if len(lower) == 1 else c


def _find_words(folded: str, words: Iterable[tuple[str, int | None]], taken: list, text: str | None = None) -> None:
    """Add to `taken` every (start, end, landmark) at which a word stands alone and that is not taken yet."""
    for word, owner in words:
        start = folded.find(word)
        while start >= 0:
            end = start + len(word)
            alone = not (folded[start - 1 : start].isalnum() and word[0].isalnum()) and not folded[end : end + 1].isalnum()
            # Names are written with capitals: "a sandy beach" is not the road "Beach", nor "Two rivers" the town "Two Rivers".
            named = text is None or not word.isascii() or any(map(str.isupper, text[start + (" " in word) : end]))
            named = named or not any(map(str.isalpha, word))
            if alone and named and all(end <= a or start >= b for a, b, _ in taken):
                taken.append((start, end, owner))
            start = folded.find(word, end)


# Wrapping that can be taken off for sure

_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok)[,.!:]?\s+)?(?:(?:here(?:'s| is| are)|this is)\s+(?:the|a|an|your)\s+[\w\s,-]{0,40}?"
    r"(?:caption|description)s?\s*:|(?:image|picture|photo)\s+(?:shows|description)\s*:|(?:full|short|relational|brief|detailed)?"
    r"\s*(?:caption|description|answer|output)\s*\d*\s*:)\s*",
    re.I,
)
_INLINE = re.compile(r"</?(?:b|i|em|strong|p|span|br)\s*/?>|\*\*|(?<!\w)[*_](?=\w)|(?<=[\w.,])[*_](?!\w)", re.I)
_BULLET = re.compile(r"^\s*(?:#{1,6}|[-*•]|\d{1,2}[.)])\s+(?=\S)")
_QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»", "„": "“", "‘": "’"}


def _unwrap(original: str) -> tuple[str, bool]:
    """Take wrapping off a caption; say whether there was any beyond white space."""
    came = unicodedata.normalize("NFC", original[:_LONGEST])
    text = came.strip()
    if len(text) > 6 and text.startswith("```") and text.endswith("```"):
        text = re.sub(r"^\w*\n", "", text[3:-3]).strip()
    if text.startswith("{") and text.endswith("}"):
        try:
            loaded = json.loads(text)
        except (ValueError, RecursionError):
            loaded = None
        if isinstance(loaded, dict) and len(loaded) == 1 and isinstance(value := next(iter(loaded.values())), str):
            text = value
    text = _visible(text).strip()
    if "*" in text or "_" in text or "<" in text:
        text = _INLINE.sub("", text)
    text = _PREAMBLE.sub("", _BULLET.sub("", text)).strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and not {text[0], text[-1]} & set(text[1:-1]):
        text = text[1:-1]
    text = " ".join(text.split())
    return text, text != " ".join(came.split())


def _visible(text: str) -> str:
    """Replace control and private characters by blanks, and drop those that turn the order of writing or show nothing."""
    if text.isprintable():
        return text
    kinds = [(c, unicodedata.category(c)) for c in text]
    # The two joiners are spelling in Persian and in Indian scripts.
    return "".join(
        "" if kind == "Cf" and c not in "\u200c\u200d" else " " if kind in ("Cc", "Co", "Cs", "Cn") else c for c, kind in kinds
    )


# Rules for the whole caption

_REFUSAL = re.compile(
    r"\b(?:(?:I|we)(?:'m|’m| am| are| was| were)? (?:cannot|can't|can’t|can not|could not|couldn't|unable|sorry|not able|apologi[sz]e"
    r"|won't|will not|do not|don't|don’t|must decline)|as an? (?:\w+ )?(?:AI|assistant|language model)|language model"
    r"|I(?:'m| am) (?:an?|just|only)|(?:unable|not able|not possible) to (?:provide|describe|generate|assist|comply|identify|caption"
    r"|determine|see|view|write)|cannot (?:assist|help|comply|provide|describe|generate|fulfil)"
    r"|no (?:image|picture|landmarks?) (?:was|is|were|has been) (?:provided|given|attached)"
    r"|against (?:my|our|the) (?:guidelines|policy|policies)|(?:content|safety) policy|(?:please|kindly) provide)\b",
    re.I,
)
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


def _whole_faults(text: str, masked: str, language: str, max_words: int, detect) -> list[tuple[str, str]]:
    if not any(c.isalnum() for c in text):
        return [("empty", "")]
    if len(text) > 40 * max_words:
        return [("too long", f"{len(text)} characters")]
    if match := _REFUSAL.search(text):
        return [("refusal", match[0])]
    for reason in ("instruction", "markup"):
        if match := grammar.UNSAYABLE[reason].search(text):
            return [(reason, match[0][:80])]
    words = text.count(" ") + 1
    if words > max_words:
        return [("too long", f"{words} words")]
    if found := _other_language(masked, language, detect):
        return [("language", found)]
    # Scripts without spaces have long words.
    return [("too short", "")] if words < MIN_WORDS and text.isascii() else []


def _other_language(text: str, language: str, detect) -> str:
    """Return what a text (its names masked) is in, where that is not the language; else empty."""
    text = text.replace(_MASK, "")
    scripts = _SCRIPT_OF.get(language, "LATIN").split()
    if not text.isascii() or scripts != ["LATIN"]:
        letters = [c for c in text if c.isalpha()]
        inside = sum(any(unicodedata.name(c, "").startswith(script) for script in scripts) for c in letters)
        if inside < 0.7 * len(letters):
            return "another script"
    if detect is not None:
        found = detect(text) if len(text) >= 25 else None
        return found if found and found != language else ""
    if language not in _COMMON:
        return ""
    words = re.findall(r"[^\W\d_]+", text.lower())
    scores = {name: len(common.intersection(words)) for name, common in _COMMON.items()}
    best = max(scores, key=scores.get)
    if scores[best] >= 2 and scores[best] > scores[language] + 1:
        return best
    return "no common words" if len(words) >= 12 and not any(scores.values()) else ""


# Rules for each sentence

_ABBREVIATION = re.compile(r"\b(?:St|Ste|Mt|Dr|Mr|Mrs|Ms|Av|Ave|approx|ca|No|vs|e\.g|i\.e|[A-Z])\.$")
_SENTENCE = re.compile(r"[.!?]+[\"”’')\]]*\s+(?=[\"“‘(\[]?[^\W_a-z])")
_MASKED_FIRST = ("street address", "postcode")
_PRONOUN = re.compile(r"(?:It|Its|They|Their|These|Those|This|That|He|She|Both|Which|There it|Here)\b")


def _mask(text: str, scene: _Scene) -> tuple[str, list[tuple[int, int, int | None]]]:
    """Put a mask, as long as the name, in place of every listed name; return also where each stood and whose it is."""
    taken: list[tuple[int, int, int | None]] = []
    _find_words(_fold(text), scene.names, taken, text)
    for start, end, _ in taken:
        text = text[:start] + _MASK * (end - start) + text[end:]
    return text, taken


def _mend(text: str, masked: str, mentions: list, scene: _Scene, language: str) -> tuple[str, list[tuple[str, str]], bool]:
    """Drop the sentences at fault; return the text, the faults, and whether too little is left."""
    ends, start = [], 0
    for match in _SENTENCE.finditer(masked):
        if not _ABBREVIATION.search(masked[start : match.start() + 1]):
            ends.append((start, match.end()))
            start = match.end()
    faults: list[tuple[str, str]] = []
    # Most captions leak nothing: one look at the whole spares a look at every sentence.
    private = (reason for reason in grammar.UNSAYABLE if reason not in WORST)
    leaks = [r for r in private if grammar.UNSAYABLE[r].search(masked if r in _MASKED_FIRST else text)]
    kept, dropped = [], False
    for begin, end in [*ends, (start, len(text))]:
        found = _sentence_faults(text, masked, begin, end, mentions, scene, language, leaks)
        # What "it" means went with the sentence before.
        dropped = bool(found) or (dropped and _PRONOUN.match(masked, begin) is not None)
        faults += found
        if not dropped:
            kept.append(text[begin:end].strip())
    left = " ".join(kept)
    too_little = bool(faults) and (len(left.split()) < 3 or all(len(part.split()) < 3 for part in kept))
    return left, faults, too_little


def _sentence_faults(text, masked, start, end, mentions, scene, language, leaks) -> list[tuple[str, str]]:
    sentence, raw = masked[start:end], text[start:end]
    faults = []
    for reason in leaks:
        # Streets and numbers are allowed inside listed names ("Rua 25 de Abril"), addresses of any other kind are not.
        where = sentence if reason in _MASKED_FIRST else raw
        if match := grammar.UNSAYABLE[reason].search(where):
            faults.append((reason, match[0].strip()))
    if match := _HOUSE_NUMBER.search(sentence):
        faults.append(("street address", raw[match.start() : match.end()].strip()))
    if language == "en":
        if name := _unknown_name(sentence, scene):
            faults.append(("name not on the list", name))
        folded = _fold(sentence)
        if scene.marks:
            inside = [(a - start, b - start, owner) for a, b, owner in mentions if start <= a < end]
            faults += [("wrong count", said) for said in _wrong_counts(folded, scene)]
            faults += [("wrong direction", said) for said in _wrong_directions(folded, raw, inside, scene)]
    elif name := _unknown_script(sentence, scene, language):
        faults.append(("name not on the list", name))
    return faults


# A house number before or behind a listed name, but no length, count or share: "12 Main Street", "Main Street 12".
_HOUSE_NUMBER = re.compile(
    rf"\b\d{{1,4}}[a-zA-Z]?,? {_MASK}|{_MASK},? (?:n\.?[ºo°] ?)?\d{{1,4}}[a-zA-Z]?(?!\w|[.,]\d)"
    r"(?! ?(?:m|km|metres?|meters?|kilomet\w+|miles?|feet|ft|yards|ha|%|percent|of|or|to|\w{3,}s)\b| ?[%-])"
)
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


def _unknown_name(sentence: str, scene: _Scene) -> str:
    """Return the first run of words that reads as a proper name and is on no list; empty where there is none."""
    begin = re.search(r"\w", sentence)
    for match in _CAPITALS.finditer(sentence):
        words = match[0].split()
        first = begin is not None and match.start() == begin.start() or sentence[: match.start()].rstrip(' "“‘(').endswith(":")
        folded = _fold(match[0])
        if folded in _category_words() or re.sub(r"^(?:the|an?) ", "", folded) in _category_words():
            continue
        if first and len(words) == 1:
            word = re.sub(r"['’]s$", "", folded)
            verb = _LONE_VERB.match(sentence, match.end()) or folded != word
            known = word in _OPENERS or _ORDINARY.match(word) or word in _category_vocabulary() or word in scene.parts
            if verb and not known and word not in _CAPITALS_ALLOWED:
                return match[0]
            continue
        if first and (_fold(words[0]) in _OPENERS):
            words = words[1:]
        for word in words:
            plain = re.sub(r"['’]s$|['’]$", "", _fold(word))
            alone = plain in _category_vocabulary() and len(words) == 1
            if not (alone or plain in _CAPITALS_ALLOWED or plain in scene.parts or _SHAPES.match(word)):
                return match[0]
    return _unknown_script(sentence, scene, "en")


def _unknown_script(sentence: str, scene: _Scene, language: str) -> str:
    if sentence.isascii() or language in _SCRIPT_OF:
        return ""
    for match in _OTHER_SCRIPT.finditer(sentence):
        known = any(_fold(match[0]) in name for name, _ in scene.names)
        if any(c.isalpha() for c in match[0]) and not known:
            return match[0]
    return ""


@functools.cache
def _category_words() -> frozenset[str]:
    return frozenset(word.casefold() for category in grammar.categories() for word in grammar.words_of(category))


@functools.cache
def _category_vocabulary() -> frozenset[str]:
    return frozenset(word for words in _category_words() for word in words.split())


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
    r"\b(?:in|at|on|along|near|beside|around|by|of|to|across|between|inside|within|above|below|next|other|more)\b"
)
_EXTENTS = frozenset(
    "km m metres meters metre meter sides side lanes times storeys stories floors rows halves parts thirds quarters".split()
)


def _wrong_counts(sentence: str, scene: _Scene) -> Iterator[str]:
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
            if found := next((phrase for phrase in phrases if phrase in scene.counts), None):
                noun, end = found, last
        if noun is None or noun not in _counted(scene):
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


_STOPS = frozenset(
    "and or in of at on the to with is are lie near by from while along a an beside behind around between above below".split()
)


def _counted(scene: _Scene) -> frozenset[str]:
    pieces = {word for mark in scene.marks if not grammar.countable(mark["category"]) for word in _nouns(mark["category"])}
    return frozenset(scene.counts) - pieces


_COMPASS = r"(?:north|south)[ -]?(?:east|west)|north|south|east|west"
_SIDES = r"(?:upper|top|lower|bottom)[ -]?(?:left|right)|upper|top|lower|bottom|left|right"
_PICTURE = r"(?:the|this)\s+(?:image|picture|scene|frame|view|photo\w*|chip|area)\b"
_PLACE = re.compile(
    r"\b(?:in|at|on|along|across|through|over|towards?|fills|occupies|near|lines|to|throughout)\s+(?:the\s+|its\s+)?"
    rf"(?:(?:far|very|extreme)\s+)?(?P<where>(?:{_COMPASS})(?:ern|ernmost)?|{_SIDES}|centre|center|central|middle)(?:[ -]hand)?(?![\w-])"
    r"(?P<part>\s+(?:part|half|side|edge|corner|third|section|quadrant|portion|end|area|margin|border|sector|region|reaches)\b)?"
    rf"(?P<of>\s+of\s+(?!{_PICTURE}))?"
)
_BESIDE = re.compile(
    rf"\b(?:to the\s+)?(?:just\s+|directly\s+|immediately\s+)?(?:due\s+)?(?P<where>{_COMPASS})\s+of\s+(?!{_PICTURE})(?:the\s+|an?\s+)?"
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


def _wrong_directions(folded: str, raw: str, named: list, scene: _Scene) -> Iterator[str]:
    if not _SOME_PLACE.search(folded):
        return
    taken = list(named)
    _find_words(folded, scene.nouns, taken)
    taken.sort()
    # "the beach Praia da Aguda" is one mention, and its name says which.
    mentions = [
        m
        for n, m in enumerate(taken)
        if not (n + 1 < len(taken) and taken[n + 1] in named and folded[m[1] : taken[n + 1][0]].strip(' "“') == "")
    ]
    beside = [(match, True) for match in _BESIDE.finditer(folded)]
    spans = [match.span() for match, _ in beside]
    places = [(m, False) for m in _PLACE.finditer(folded) if not any(a <= m.start("where") < b for a, b in spans)]
    for match, relative in beside + places:
        where = _sector_of(match["where"])
        subject = _subject(folded, match, mentions)
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


def _subject(folded: str, match: re.Match, mentions: list):
    """Return the mention that a phrase behind it is about, where nothing between them could be meant instead."""
    before = [m for m in mentions if m[1] <= match.start()]
    if before and before[-1][2] is not None and not _BLOCKED.search(folded[before[-1][1] : match.start()]):
        return before[-1]
    return None


def _inverted(folded: str, start: int, end: int, mentions: list):
    """Return the mention that follows a phrase at a sentence's beginning: "In the north lies the beach"."""
    after = next((m for m in mentions if m[0] >= end), None)
    if after is None or after[2] is None or not _BEGINNING.fullmatch(folded[:start]):
        return None
    return after if _INVERTED.fullmatch(folded[end : after[0]]) else None


def _sector_of(words: str) -> str:
    words = re.sub(r"ern(?:most)?$", "", words.replace(" ", "").replace("-", ""))
    if words in _CELL:
        return words
    for first in ("upper", "top", "lower", "bottom"):
        if words.startswith(first) and len(words) > len(first):
            return _SYNONYMS[first] + _SYNONYMS[words[len(first) :]]
    return _SYNONYMS.get(words, words)


def _misplaced(scene: _Scene, number: int, where: str) -> bool:
    """Whether a landmark neither lies in a sector or next to it, nor reaches into it."""
    mark = scene.marks[number]
    position, share = mark.get("position"), mark.get("share") or 0
    if position not in _CELL or where not in _CELL or share >= grammar.SHARE_PLACED:
        return False
    rows, columns = (abs(a - b) for a, b in zip(_CELL[position], _CELL[where]))
    # What is small lies in its sector or next to it; what is large reaches further, but not from side to side.
    near = max(rows, columns) <= 1 if share >= grammar.WIDE_SHARE else rows + columns <= 1
    told = mark.get("by_sector")
    if not told and not mark.get("geometry") and (mark.get("length_m") or mark.get("length_km")):
        return False  # a line whose course is not on the record
    return not near and not (told and told[SECTORS.index(where)]) and where not in _touched(mark, scene.bbox)


def _touched(mark: Mapping, bbox: tuple[float, ...] | None) -> set[str]:
    """Sectors that a landmark's outline runs through."""
    touched: set[str] = set()
    if not bbox or not isinstance(mark.get("geometry"), Mapping):
        return touched
    west, south, east, north = bbox
    for line in _lines(mark["geometry"].get("coordinates"), mark["geometry"].get("geometries")):
        unit = [((x - west) / (east - west), (north - y) / (north - south)) for x, y, *_ in line]
        for (x0, y0), (x1, y1) in zip(unit, unit[1:] or unit):
            for step in range(9):
                x, y = x0 + (x1 - x0) * step / 8, y0 + (y1 - y0) * step / 8
                if 0 <= x <= 1 and 0 <= y <= 1:
                    touched.add(SECTORS[3 * min(int(3 * y), 2) + min(int(3 * x), 2)])
    return touched


def _lines(coordinates, parts=None) -> Iterator[list]:
    for part in parts or ():
        yield from _lines(part.get("coordinates"), part.get("geometries"))
    if not coordinates:
        return
    if isinstance(coordinates[0], (int, float)):
        yield [coordinates]
    elif isinstance(coordinates[0][0], (int, float)):
        yield coordinates
    else:
        for part in coordinates:
            yield from _lines(part)


def _contradicts(scene: _Scene, first: int, second: int | None, where: str) -> bool:
    """Whether the first landmark is clearly not in a direction of the second."""
    if second is None or first == second or where not in EIGHT_DIRECTIONS:
        return False
    told = math.radians(45 * EIGHT_DIRECTIONS.index(where))
    marks = scene.marks[first], scene.marks[second]
    listed = scene.relations.get((second, first))
    if listed is None and (reverse := scene.relations.get((first, second))) is not None:
        listed = EIGHT_DIRECTIONS[(EIGHT_DIRECTIONS.index(reverse) + 4) % 8]
    if listed is not None:
        return math.cos(told - math.radians(45 * EIGHT_DIRECTIONS.index(listed))) < 0.5
    if any(mark.get("lon") is None or (mark.get("share") or 0) > grammar.WIDE_SHARE or mark.get("length_m") for mark in marks):
        return False
    east = (marks[0]["lon"] - marks[1]["lon"] + 180) % 360 - 180
    north = marks[0]["lat"] - marks[1]["lat"]
    bearing = math.atan2(north, east * math.cos(math.radians(marks[1]["lat"])))
    return math.cos(bearing - told) < 0.35


# Reports


def read(folder: Path | str) -> Iterator[dict]:
    """Yield the records of all shards below a folder, in the order of their names; pictures are not read.

    Raises:
        DataError: There is no shard, or one is broken; the file is named.
    """
    paths = sorted(Path(folder).glob("**/*.tar"))
    if not paths:
        raise DataError(f"{folder} holds no shard (*.tar): give the folder of a finished build")
    for path in paths:
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if member.isreg() and member.name.endswith(".json"):
                        yield json.loads(tar.extractfile(member).read())
        except (tarfile.TarError, ValueError, OSError) as error:
            raise DataError(f"{path} is broken ({error}): remove it and run the build again") from None


def report(source: Path | str | Iterable[Mapping], language: str = "en", max_words: int = 120) -> dict:
    """Count what became of captions, and why.

    Args:
        source: Rows as `Verdict.rows` gives them, or the folder of a build: its shards' records, with the rows they carry as
            `audit` or else checked now, and the rejected ones of `rejected.jsonl`.
        language: For records that are checked now, as `check`.
        max_words: As `check`.

    Returns:
        `{"captions", "kept", "repaired", "rejected", "kept_percent", "repaired_percent", "rejected_percent", "kinds": {kind:
        {status: count}}, "reasons": {reason: {"count", "rejected", "repaired", "percent", "meaning", "examples": [{key, kind,
        detail, original, text}]}}}`; percents are of all captions, reasons in falling order. A caption may have several reasons.

    Raises:
        DataError: The folder holds no shard, or a broken file.
    """
    rows = _rows(Path(source), language, max_words) if isinstance(source, (str, Path)) else source
    statuses: Counter = Counter()
    kinds: dict[str, Counter] = {}
    reasons: dict[str, dict] = {}
    for row in rows:
        status = row.get("status", "rejected")
        statuses[status] += 1
        kinds.setdefault(str(row.get("kind", "")), Counter())[status] += 1
        details = row.get("details") or ()
        for number, reason in enumerate(row.get("reasons") or ([row["reason"]] if row.get("reason") else [])):
            entry = reasons.setdefault(reason, {"count": 0, "rejected": 0, "repaired": 0, "examples": []})
            entry["count"] += 1
            entry[status] = entry.get(status, 0) + 1
            if len(entry["examples"]) < EXAMPLES:
                original = row.get("original") or row.get("text", "")
                detail = details[number] if number < len(details) else ""
                text = row.get("text", "") if status == "repaired" else ""
                entry["examples"].append(
                    {
                        "key": row.get("key", ""),
                        "kind": row.get("kind", ""),
                        "detail": detail,
                        "original": original,
                        "text": text,
                    }
                )
    total = sum(statuses.values())
    result: dict = {"captions": total} | {status: statuses[status] for status in ("kept", "repaired", "rejected")}
    result |= {f"{status}_percent": _percent(statuses[status], total) for status in ("kept", "repaired", "rejected")}
    result["kinds"] = {kind: dict(counts) for kind, counts in sorted(kinds.items())}
    result["reasons"] = {
        reason: {**entry, "percent": _percent(entry["count"], total), "meaning": REASONS.get(reason, "")}
        for reason, entry in sorted(reasons.items(), key=lambda item: (-item[1]["count"], item[0]))
    }
    return result


def _percent(count: int, total: int) -> float:
    return round(100 * count / total, 2) if total else 0.0


def _rows(folder: Path, language: str, max_words: int) -> Iterator[dict]:
    for record in read(folder):
        if "audit" in record:
            yield from (row for row in record["audit"] if row.get("status") != "rejected")
        else:
            yield from check(_captions(record), record, language, max_words).rows()
    path = folder / "rejected.jsonl"
    if not path.is_file():
        return
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                raise DataError(f"{path}, line {number}, is no JSON: run the build again") from None
            if row.get("stage") == "audit":
                yield row


def _captions(record: Mapping) -> dict[str, str]:
    kinds = record.get("caption_kinds") or []
    return {kinds[n] if n < len(kinds) else f"caption {n + 1}": text for n, text in enumerate(record["captions"])}


def sample_sheet(source: Path | str | Iterable[Mapping], path: Path | str, count: int = 200, seed: int = 0) -> Path:
    """Write a CSV of captions for people to rate.

    Args:
        source: Folder of shards, or records with `key captions landmarks`.
        path: The CSV, UTF-8 with a mark at its beginning, so that spreadsheets read it as such.
        count: Captions drawn; all where there are fewer. Which ones depends on the seed, keys and kinds, not on their order.
        seed: Of the draw.

    Returns:
        The path. Columns: key, kind, caption, landmarks, then empty ones for the rating. A cell that a spreadsheet would take
        for a formula begins with an apostrophe.

    Raises:
        ConfigError: `count` is below 1.
        DataError: The folder holds no shard, or a broken one.
    """
    if count < 1:
        raise ConfigError(f"a sample sheet of {count} captions: ask for one or more")
    records = read(source) if isinstance(source, (str, Path)) else source
    drawn = heapq.nsmallest(count, _lots(records, seed), key=lambda lot: lot[:3])
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(["key", "kind", "caption", "landmarks", "true (1-5)", "fluent (1-5)", "what is wrong"])
    for _, key, kind, text, listed in drawn:
        writer.writerow([*map(_cell, (key, kind, text, listed)), "", "", ""])
    return runs.write_atomic(path, "\ufeff" + buffer.getvalue())


def _lots(records: Iterable[Mapping], seed: int) -> Iterator[tuple[bytes, str, str, str, str]]:
    for record in records:
        key = str(record.get("key", ""))
        marks = [mark for mark in record.get("landmarks") or () if mark.get("visible", True)]
        listed = "; ".join(
            " ".join(
                str(part) for part in (mark.get("count"), mark.get("category"), mark.get("name"), mark.get("position")) if part
            )
            for mark in marks[:20]
        )
        for kind, text in _captions(record).items():
            yield hashlib.sha256(f"{seed}\n{key}\n{kind}".encode()).digest(), key, kind, text, listed


def _cell(text: str) -> str:
    """Return a text as a spreadsheet shows it: on one line, and never as a formula."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")) else text
