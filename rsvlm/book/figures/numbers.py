"""Numbers as pages print them, in tables and in sentences: real minus signs, one notation of intervals, no `nan` and no dictionaries."""

from __future__ import annotations

import numbers
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

_MINUS = re.compile(r"(?<![\w.,`/\\^-])-(?=[\d∞])")
_NOTHING = re.compile(r"−(?=0(?:\.0+)?(?![\d.]*\d))")  # rounded to zero
_UNIT = re.compile(r"(?<=\d) (?=%)")


class Prose(str):
    """Text of Markdown that a notebook shows as text; where Markdown is not understood, it is there as it was written."""

    def _repr_markdown_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return str(self)

    def _ipython_display_(self) -> None:
        """Show nothing where there is no text: an empty box would say that something is missing."""
        if self:
            raise NotImplementedError  # IPython then shows the Markdown


def minus(text: str) -> str:
    """Put a minus sign for a hyphen ahead of a number, and none ahead of what was rounded to zero. Ranges (2-3), powers (1e-5) and what stands in `code` stay as they are."""
    parts = text.split("`")
    return "`".join(part if number % 2 else _NOTHING.sub("", _MINUS.sub("−", part)) for number, part in enumerate(parts))


def prose(*sentences: str) -> Prose:
    """Join sentences to a paragraph of Markdown, with minus signs, and no line begins with a percent sign; empty ones are left out."""
    return Prose(_UNIT.sub("\u00a0", minus(" ".join(sentence for sentence in sentences if sentence))))


def points(*lines: str) -> Prose:
    """List sentences, one below the other, as Markdown with signs as in `prose`; empty ones are left out."""
    return Prose(_UNIT.sub("\u00a0", minus("".join(f"- {line}\n" for line in lines if line))))


def measured_before(found: Mapping[str, object] | None, what: str) -> Prose:
    """Say of stored numbers when and by which code they were measured, and how to measure them anew.

    Args:
        found: As of `results.stored`; None if they were measured just now, which needs no word.
        what: What was not run again, in the plural, as in "The six trainings".
    """
    if found is None:
        return Prose("")
    origin = found["origin"]
    took = f"{origin['duration_s'] / 60:.0f} minutes" if origin["duration_s"] >= 90 else f"{origin['duration_s']:.0f} seconds"
    return Prose(
        f"{what} were not run again for this page. What follows was measured in {took}, on {str(origin['started'])[:10]} at commit "
        f"`{str(origin['commit'])[:7]}`; `-p recompute=True` measures it anew."
    )


def interval(row: Mapping[str, object], digits: int = 1, signed: bool = False, unit: str = "") -> str:
    """Write a number with its interval, `62.9 % (58.1 to 67.1)`; without one, the number alone; nothing for one that is missing.

    Args:
        row: `value`, and where there is an interval `ci_low` and `ci_high`.
        digits: Decimals of all three.
        signed: Whether a plus stands ahead of what is above zero: for differences.
        unit: What stands behind the number, as in `%`.
    """
    sign = "+" if signed else ""
    value, low, high = (row.get(name) for name in ("value", "ci_low", "ci_high"))
    if value is None or value != value:
        return ""
    text = f"{value:{sign}.{digits}f}{f' {unit}' if unit else ''}"
    known = low is not None and high is not None and low == low and high == high
    return minus(f"{text} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})" if known else text)


def counted(number: int, one: str, several: str = "") -> str:
    """Write a count with its noun in the right number: `1 region`, `2,310 regions`.

    Args:
        number: The count.
        one: The noun for one.
        several: The noun for none or several. If empty, `one` with an s.
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def cell(value: object, digits: int = 1) -> str:
    """Write one value of a table.

    Nothing for what is missing, commas in whole numbers, `digits` decimals and a minus sign in others, yes or no for truth, and the parts
    of a list or a mapping in words.
    """
    if isinstance(value, Mapping):
        return "; ".join(f"{cell(part, digits)} {name}" for name, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(cell(part, digits) for part in value)
    if value is None or value is pd.NaT or value != value:
        return ""
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return minus(f"{value:,}")
    return minus(f"{value:,.{digits}f}") if isinstance(value, numbers.Real) else minus(str(value))


def table(frame: pd.DataFrame, digits: int | Mapping[str, int] = 1, index: bool = False) -> Styler:
    """Show a table with its values written as `cell` writes them; texts are text, never markup.

    Args:
        frame: The table.
        digits: Decimals of numbers that are not whole; for some columns their own by name, the others have one.
        index: Whether the index is shown.
    """
    of_column = digits if isinstance(digits, Mapping) else dict.fromkeys(frame.columns, digits)
    formats = {name: lambda value, name=name: cell(value, of_column.get(name, 1)) for name in frame.columns}
    shown = frame.style.format(formats, escape="html")
    return shown if index else shown.hide(axis="index")
