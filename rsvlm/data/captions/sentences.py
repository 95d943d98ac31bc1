"""What a grammar knows of English: sentences that fit, lists, places and shares in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rsvlm.data.landmarks.directions import SECTORS

MAX_WORDS = 70
"""Longest caption, in words."""

SHARE_LEVELS = (
    (0.08, "a sliver"),
    (0.18, "about an eighth"),
    (0.29, "about a quarter"),
    (0.42, "about a third"),
    (0.58, "about half"),
    (0.71, "about two thirds"),
    (0.85, "about three quarters"),
    (1.01, "nearly all"),
)
"""Upper limits of a share of the chip, and the words for it."""


def level_word(value: float, levels: Sequence[tuple[float, str]]) -> str:
    """Return the word of the first level whose upper limit is above a value."""
    return next(word for limit, word in levels if value < limit)


def list_words(words: Sequence[str]) -> str:
    """Join words as English does: `a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def place_words(sectors: Sequence[int]) -> str:
    """Say where a set of sectors lies.

    Args:
        sectors: Positions in `directions.SECTORS`, ascending.
    """
    return f"the {list_words([SECTORS[sector] for sector in sectors])}"


def sentence(text: str) -> str:
    """Return a text with a capital at its beginning and a stop at its end."""
    return f"{text[0].upper()}{text[1:]}."


def fit(sentences: Iterable[str]) -> str:
    """Join sentences, leaving out empty ones and those with which there would be more than `MAX_WORDS` words."""
    fitting, words = [], 0
    for text in sentences:
        length = len(text.split())
        if text and words + length <= MAX_WORDS:
            fitting.append(text)
            words += length
    return " ".join(fitting)
