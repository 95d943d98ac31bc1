"""Texts of strangers as lines: without control marks, safe in a spreadsheet, drawn by hash, in batches, and near to a known name."""

from __future__ import annotations

import difflib
import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
_FORMULA = tuple("=+-@\t\r＝＋－＠")


def one_line(text: str) -> str:
    """Put a blank for every character that cannot be printed (line ends, control and direction marks), and one for several."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def cell(value: object) -> object:
    """Return what a spreadsheet may be given: a text that it would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


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
