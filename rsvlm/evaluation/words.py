"""Sentences changed on purpose: words of a kind taken out, swapped for others of their kind, all made alike, or all words put in another order.

A model that reads a kind of word finds less when it is changed. What is changed is counted, for a sentence without such words stays as
it is. Removing words makes any sentence odd, so each removal has a control: as many words of no kind removed in its place.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from rsvlm.data.landmarks.directions import COMPASS
from rsvlm.errors import DataError

_COLOURS = (
    "beige black blond blue brown cream crimson cyan gold golden gray green grey ivory khaki lime magenta maroon navy ochre olive "
    "orange pink purple red rust sand silver tan teal turquoise violet white yellow"
)
_NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve dozen dozens half third thirds quarter quarters fifth fifths "
    "eighth eighths several many few some numerous single couple pair most all"
)
KINDS = {
    "colours": tuple(_COLOURS.split()),
    "directions": (*COMPASS, "centre", "center", "middle", "top", "bottom", "left", "right", "upper", "lower"),
    "counts": tuple(_NUMBERS.split()),
}
"""Words of each kind, in small letters. Counts are of how many and of how much."""

_COMPOUND = re.compile("(north|south)(east|west)")
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
Change = Callable[[Sequence[str], np.random.Generator], list[str]]
"""Captions and a generator → as many captions."""


@functools.cache
def _pattern(kind: str) -> re.Pattern:
    if kind not in KINDS:
        raise DataError(f"unknown kind of words '{kind}': choose one of {', '.join(KINDS)}")
    words = "|".join(_COMPOUND.sub(r"\1[- ]?\2", word) for word in sorted(KINDS[kind], key=len, reverse=True))
    before = r"(?P<before>(?:(?:very|dark|light|bright|pale|deep)[ -])*)" if kind == "colours" else "(?P<before>)"
    ending = "(?P<ending>ern|erly|wards?|ernmost)?" if kind == "directions" else "(?P<ending>)"
    digits = r"|\d+" if kind == "counts" else ""
    return re.compile(rf"\b{before}(?P<word>{words}{digits}){ending}\b", re.IGNORECASE)


def _plain(match: re.Match) -> str:
    """Return the word of a match as it stands in `KINDS`."""
    return re.sub("[- ]", "", match["word"]).lower()


def of_kind(text: str, kind: str) -> list[str]:
    """Return the words of a kind in a text, in small letters and without endings such as -ern. Raises DataError for an unknown kind."""
    return [_plain(match) for match in _pattern(kind).finditer(text)]


def removed(captions: Sequence[str], kind: str) -> list[str]:
    """Take the words of a kind out, of colours also "very dark" and the like; a caption of such words alone becomes "a picture"."""
    return [_tidied(_pattern(kind).sub("", text)) for text in captions]


def others_removed(captions: Sequence[str], kind: str, rng: np.random.Generator) -> list[str]:
    """Take as many words out as a caption has of a kind, but words of no kind at all: the control of `removed`.

    A caption that has fewer such words loses all of them.
    """
    changed = []
    for text in captions:
        taken = [match.span() for name in KINDS for match in _pattern(name).finditer(text)]
        free = [m for m in _WORD.finditer(text) if not any(m.start() < end and start < m.end() for start, end in taken)]
        count = min(sum(len(_WORD.findall(match[0])) for match in _pattern(kind).finditer(text)), len(free))
        spans = sorted((free[i].span() for i in rng.choice(len(free), count, replace=False)), reverse=True) if count else []
        for start, end in spans:
            text = text[:start] + text[end:]
        changed.append(_tidied(text) if count else text)
    return changed


def swapped(captions: Sequence[str], kind: str, rng: np.random.Generator) -> list[str]:
    """Put another word of the same kind, drawn from those in all captions, in place of each; within a caption always the same one.

    So what was alike stays alike: where "green" becomes "tan" it does so everywhere in the caption, and no two words become one.
    """
    words = _present(captions, kind)
    return [_pattern(kind).sub(functools.partial(_put, _shifted(of_kind(text, kind), words, rng)), text) for text in captions]


def alike(captions: Sequence[str], kind: str) -> list[str]:
    """Put the commonest word of the kind in place of all of them: what is known of it is then the same of every caption."""
    words = _present(captions, kind)
    return [_pattern(kind).sub(functools.partial(_put, dict.fromkeys(words, words[0])), text) for text in captions]


def shuffled(captions: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Put the words of each caption in another order; punctuation stays where it is, and capitals stand where capitals stood."""
    return [
        _refilled(text, rng.permutation([match[0].lower() for match in _WORD.finditer(text)]).tolist()) for text in captions
    ]


def _refilled(text: str, words: list[str]) -> str:
    following = iter(words)
    return _WORD.sub(lambda match: _cased(next(following), match[0]), text)


def east_for_west(captions: Sequence[str]) -> list[str]:
    """Swap east and west, and left and right, in every caption."""
    other = {"east": "west", "west": "east", "left": "right", "right": "left"}
    pattern = re.compile(r"east|west|\bleft\b|\bright\b", re.IGNORECASE)
    inside = re.compile(
        r"\b(?:(?:north|south)[- ]?)?(?:east|west)(?:ern|erly|wards?|ernmost)?\b|\bleft\b|\bright\b", re.IGNORECASE
    )
    return [
        inside.sub(lambda m: pattern.sub(lambda part: _cased(other[part[0].lower()], part[0]), m[0]), text)
        for text in captions
    ]


def changes() -> dict[str, Change]:
    """Return the changes that `reading.ablation` measures, by name."""
    table: dict[str, Change] = {}
    for kind in KINDS:
        table[f"{kind} removed"] = lambda captions, rng, kind=kind: removed(captions, kind)
        table[f"{kind} kept, as many others removed"] = lambda captions, rng, kind=kind: others_removed(captions, kind, rng)
        table[f"{kind} swapped"] = lambda captions, rng, kind=kind: swapped(captions, kind, rng)
        table[f"{kind} all alike"] = lambda captions, rng, kind=kind: alike(captions, kind)
    table["east for west"] = lambda captions, rng: east_for_west(captions)
    table["order shuffled"] = shuffled
    return table


def without_each(text: str) -> tuple[list[tuple[int, int]], list[str]]:
    """Return the place of each word of a text, and the text without that word, for each; none if there is only one word."""
    spans = [match.span() for match in _WORD.finditer(text)]
    return (spans, [_tidied(text[:start] + text[end:]) for start, end in spans]) if len(spans) > 1 else ([], [])


def _present(captions: Sequence[str], kind: str) -> list[str]:
    """Words of a kind in all captions, the commonest first, or all words of the kind where there are fewer than two."""
    counts = Counter(word for text in captions for word in of_kind(text, kind))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    return words if len(words) > 1 else list(dict.fromkeys([*words, *KINDS[kind]]))


def _shifted(used: Sequence[str], words: Sequence[str], rng: np.random.Generator) -> dict[str, str]:
    """Another word for each used one, no two the same: the words in an order that is drawn, each taken by the next."""
    if not used:
        return {}
    order = rng.permutation(len(words)).tolist()
    following = {words[one]: words[other] for one, other in zip(order, [*order[1:], order[0]])}
    return {word: following[word] for word in used}


def _put(table: dict[str, str], match: re.Match) -> str:
    return match["before"] + _cased(table[_plain(match)], match["word"]) + (match["ending"] or "")


def _cased(word: str, like: str) -> str:
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _tidied(text: str) -> str:
    """Close the gaps that removed words leave: blanks, commas and joining words with nothing beside them."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(?:\s*,)+(?=\s*[.;:]|\s*$)", "", text)
    text = re.sub(r"(?:\s*,){2,}", ",", text)
    text = re.sub(r"\s+([,.;:!?])", r"\1", text).strip(" ,;:-")
    return text if _WORD.search(text) else "a picture"
