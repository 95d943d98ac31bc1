"""Texts of strangers as lines: without control marks, safe in a spreadsheet, drawn by hash, compared, in batches, and near to a known name."""

from __future__ import annotations

import difflib
import hashlib
import heapq
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
SKETCH = 32
"""Number of hashes in the sketch of a set of texts."""

ALIKE = 0.5
"""Share of common texts from which two sets are versions of each other."""

_FORMULA = tuple("=+-@\t\r＝＋－＠")


def one_line(text: str) -> str:
    """Put a blank for every character that cannot be printed (line ends, control and direction marks), and one for several."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def cell(value: object) -> object:
    """Return what a spreadsheet may be given: a text that it would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def sketch(texts: Iterable[str]) -> str:
    """Return the smallest hashes of texts, by which `likeness` tells whether two sets are the same but for a few.

    Capitals, signs and blanks do not count, nor do repetitions and empty texts.

    Source: A. Z. Broder, On the resemblance and containment of documents, 1997: the smallest hashes of a set are a sample of it.
    """
    wordings = {" ".join(re.findall(r"\w+", text.casefold())) for text in texts} - {""}
    hashes = sorted(hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8] for text in wordings)
    return "".join(hashes[:SKETCH])


def likeness(one: str, other: str) -> float:
    """Estimate what share two sets of texts have in common, from 0 to 1, by their sketches."""
    ours, theirs = ({text[i : i + 8] for i in range(0, len(text), 8)} for text in (one, other))
    sample = sorted(ours | theirs)[: max(len(ours), len(theirs))]
    return sum(part in ours and part in theirs for part in sample) / max(len(sample), 1)


def sample(items: Iterable[T], count: int, seed: int, key: Callable[[T], str]) -> list[T]:
    """Draw items by the hash of their key, so that a draw does not depend on the order of the items; memory holds `count`.

    Args:
        items: Items to draw from, read once.
        count: Number of items drawn; fewer if there are no more.
        seed: Seed of the draw.
        key: Function from an item to the text that names it.

    Returns:
        The items drawn, in the order of their hashes.
    """
    return heapq.nsmallest(count, items, key=lambda item: rank(key(item), seed))


def rank(name: str, seed: int) -> bytes:
    """Return the place of a name in a seeded order that is the same on every machine: 8 bytes to compare."""
    return hashlib.blake2b(f"{seed} {name}".encode("utf-8", "replace"), digest_size=8).digest()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return "; did you mean 'NAME'?" for the known name that is nearest, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean '{near[0]}'?" if near else ""
