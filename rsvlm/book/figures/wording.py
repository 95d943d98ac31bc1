"""Words of a text marked by what they are worth to a search, or by what another text has in their place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from html import escape

from rsvlm.errors import DataError

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_MARKS = re.compile(r"[^\s\w]+")
_SENTENCE = re.compile(r"\S.*?(?:[.!?]+(?=\s|$)|$)", re.DOTALL)


def shaded(
    text: str,
    spans: Sequence[tuple[int, int]],
    changes: Sequence[float],
    largest: float,
    numbers: bool = True,
    least: float = 0.1,
) -> str:
    """Shade the words of a text by how much a search loses without them, as HTML.

    Args:
        text: The text.
        spans: (start, end) of each word, in order.
        changes: What the cosine loses without each word; negative where it gains.
        largest: Change that has the deepest shade.
        numbers: Write the change below each shaded word, in thousandths.
        least: Share of `largest` below which a word is left plain.

    Raises:
        DataError: Spans are not in order, or there is not one change for each.
    """
    if len(spans) != len(changes):
        raise DataError(f"“{text}”: {len(spans)} words and {len(changes)} changes: expected as many")
    end, parts = 0, []
    following = [start for start, _ in spans[1:]] + [len(text)]
    for (start, stop), change, limit in zip(spans, map(float, changes), following, strict=True):
        if not end <= start < stop <= len(text):
            raise DataError(f"“{text}”: word from {start} to {stop}: expected places in order, within the text")
        word = _shade(text[start:stop], change, largest, numbers, least)
        parts, end = [*parts, escape(text[end:start])], stop
        marks = _MARKS.match(text, stop, max(stop, limit))
        if marks and word.startswith("<ruby"):  # no line begins with the full stop of the word before
            word, end = f'<span class="rsvlm-whole">{word}{escape(marks[0])}</span>', marks.end()
        parts.append(word)
    return "".join(parts) + escape(text[end:])


def _shade(word: str, change: float, largest: float, numbers: bool, least: float) -> str:
    share = abs(change) / largest if largest else 0.0
    if share < least:
        return escape(word)
    kind, sign = ("rsvlm-more", "+") if change > 0 else ("rsvlm-less", "−")
    name, told = ("ruby", f"<rt>{sign}{1000 * abs(change):.0f}</rt>") if numbers else ("span", "")
    return f'<{name} class="{kind}" style="--rsvlm-worth: {0.5 * share:.2f}">{escape(word)}{told}</{name}>'


def differing(text: str, other: str) -> tuple[str, int]:
    """Mark the words of a text that another text does not have at their place, and dim those that it has, as HTML.

    Each sentence is compared with the sentence of the other text that is most like it, so that their order does not count.

    Returns:
        The HTML, and how many words differ.
    """
    others = [_words(sentence) for sentence in _SENTENCE.findall(other)] or [[]]
    parts, count, end = [], 0, 0
    for sentence in _SENTENCE.finditer(text):
        places = [match.span() for match in _WORD.finditer(text, *sentence.span())]
        own = [text[start:stop].casefold() for start, stop in places]
        compared = [SequenceMatcher(None, own, words, autojunk=False) for words in others]
        best = max(compared, key=lambda matcher: matcher.ratio())
        common = {i for start, _, size in best.get_matching_blocks() for i in range(start, start + size)}
        for i, (start, stop) in enumerate(places):
            differs = i not in common
            joined = bool(parts) and differs and parts[-1][1]  # what lies between two words that differ is marked with them
            parts += [(text[end:start], joined), (text[start:stop], differs)]
            count, end = count + differs, stop
    parts.append((text[end:], False))
    runs: list[list] = []
    for part, differs in parts:
        if runs and runs[-1][1] == differs:
            runs[-1][0] += part
        elif part:
            runs.append([part, differs])
    names = {True: "b", False: "span"}
    return "".join(f"<{names[differs]}>{escape(run)}</{names[differs]}>" for run, differs in runs), count


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]
