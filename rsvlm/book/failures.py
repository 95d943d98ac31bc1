"""Why does a sentence not find its picture first? Kinds of failure, told apart by ground, rank and the words of captions."""

from __future__ import annotations

from collections.abc import Sequence

from rsvlm.evaluation import words

FOUND, NEAR, LOST, COLOURS, DIRECTIONS, OTHER = (
    "found",
    "near miss",
    "lost",
    "other colours",
    "right colours, other directions",
    "much the same words",
)
KINDS = (FOUND, NEAR, DIRECTIONS, COLOURS, OTHER, LOST)
"""All kinds, as a page shows them."""

LOST_SHARE = 0.1
"""Share of all pictures beyond which the right one counts as lost."""


def kind(rank: int, size: int, overlap: float, asked: str, first: str) -> str:
    """Name the kind of a search: the first that fits of found, near miss, lost, and what the captions differ in.

    Args:
        rank: Rank of the right picture, 1 being best.
        size: Number of pictures that are searched.
        overlap: Share of the right picture's ground that the first answer shows.
        asked: Sentence that was asked.
        first: Caption of the first answer.

    Returns:
        One of `KINDS`.
    """
    if rank == 1:
        return FOUND
    if overlap > 0:
        return NEAR
    if rank > LOST_SHARE * size:
        return LOST
    if _named(asked, "colours") != _named(first, "colours"):
        return COLOURS
    return DIRECTIONS if _named(asked, "directions") != _named(first, "directions") else OTHER


def reason(kind: str, overlap: float, asked: str, first: str, hindering: str = "") -> str:
    """Say in one line why the first answer came first.

    Args:
        kind: One of `KINDS`.
        overlap: As for `kind`.
        asked: As for `kind`.
        first: As for `kind`.
        hindering: What is known of the word that hinders most; said of what is lost.
    """
    ours, theirs = (_named(text, "colours") for text in (asked, first))
    lacks, adds = (
        [f"{word} {_listed(names)}"] if names else [] for word, names in (("lacks", ours - theirs), ("adds", theirs - ours))
    )
    if kind == COLOURS:
        return f"the first answer's caption {' and '.join(lacks + adds)}."
    return {
        FOUND: "the right one comes first.",
        NEAR: f"the first answer shows {max(round(100 * overlap), 1)} % of the right one's ground.",
        LOST: f"the right one is far down. {hindering}".strip(),
        DIRECTIONS: f"the first answer has the colours of the sentence ({_listed(ours)}), but in other places.",
        OTHER: "the caption of the first answer names the same colours and directions.",
    }[kind]


def examples(kinds: Sequence[str], ranks: Sequence[int]) -> dict[str, int]:
    """Return the search with the median rank of each kind that there is, in the order of `KINDS`.

    Args:
        kinds: Kind of each search.
        ranks: Rank of the right picture of each.
    """
    of_kind = {name: [i for i, own in enumerate(kinds) if own == name] for name in KINDS}
    return {name: sorted(of, key=lambda i: ranks[i])[len(of) // 2] for name, of in of_kind.items() if of}


def hindering(spans: Sequence[tuple[int, int]], text: str, rank: int, ranks: Sequence[int]) -> str:
    """Say which word stands in the way most, from the ranks without each, as `reading.Importance` has them; nothing if none does."""
    best = min(range(len(spans)), key=lambda i: ranks[i], default=None)
    if best is None or ranks[best] >= rank:
        return "No single word is to blame."
    return f"Without “{text[slice(*spans[best])]}” it would have rank {ranks[best]:,}."


def _named(text: str, kind: str) -> set[str]:
    return set(words.of_kind(text, kind))


def _listed(names: set[str]) -> str:
    *most, last = sorted(names) or ["none"]
    return f"{', '.join(most)} and {last}" if most else last
