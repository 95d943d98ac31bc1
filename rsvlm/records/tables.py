"""Results as text, Markdown, LaTeX or CSV, one table for each protocol."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from rsvlm.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

from rsvlm.records.results import KEY, UNSTATED, beside, keys_of, matching, published, systems, table

FORMATS = ("text", "markdown", "csv", "latex")


# Printed tables: cut into blocks of one protocol each, then written in one of four ways.

Block = tuple[str, list[str], list[list[str]]]  # title, names of columns, cells
_TEXTS = {"run", "system", "direction", "metric", "trained on it", "source", "dataset", "model", "task"}


def markdown(experiment: str | None = None, with_published: bool = False) -> str:
    """Return the results as Markdown tables, one per protocol; runs of the profile `smoke` measure nothing and are left out."""
    parts = []
    for title, names, rows in _blocks(experiment, with_published):
        rule = "|".join("---" if name in _TEXTS else "--:" for name in names)
        lines = [f"| {' | '.join(map(_markdown, cells))} |" for cells in rows]
        parts.append("\n".join([f"{_markdown(title)}:", "", f"| {' | '.join(names)} |", f"|{rule}|", *lines]))
    return "\n\n".join(parts)


def latex(experiment: str | None = None, with_published: bool = False) -> str:
    """Return the results as LaTeX tables (package booktabs), one per protocol, without runs of the profile `smoke`."""
    parts = []
    for title, names, rows in _blocks(experiment, with_published):
        columns = "".join("l" if name in _TEXTS else "r" for name in names)
        lines = [" & ".join(map(_latex, cells)) + r" \\" for cells in (names, *rows)]
        body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        begin = [r"\begin{table}", rf"\caption{{{_latex(title)}}}", rf"\begin{{tabular}}{{{columns}}}"]
        parts.append("\n".join([*begin, *body, r"\end{tabular}", r"\end{table}"]))
    return "\n\n".join(parts)


def text(experiment: str | None = None, with_published: bool = False) -> str:
    """Return the results, those of the profile `smoke` too, as tables for a terminal, one per protocol."""
    parts = []
    for title, names, rows in _blocks(experiment, with_published, smoke=True):
        cells = [names, *([_plain(cell) for cell in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        sides = ["<" if name in _TEXTS else ">" for name in names]
        lines = ["  ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)).rstrip() for row in cells]
        parts.append("\n".join([_plain(title), *lines]))
    return "\n\n".join(parts)


def csv(experiment: str | None = None, with_published: bool = False) -> str:
    """Return the results as one CSV in which every number has its protocol beside it: the columns of `table`, or of `beside`.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    frame = table(experiment)
    frame = beside(frame) if with_published else frame
    for name in frame.select_dtypes(exclude="number"):
        frame[name] = [f"'{cell}" if str(cell)[:1] in ("=", "+", "-", "@", "\t", "\r") else cell for cell in frame[name]]
    return frame.to_csv(index=False, lineterminator="\n").rstrip("\n")


def formatted(experiment: str | None, form: str, with_published: bool = False) -> str:
    """Return the results in one of `FORMATS`.

    Raises:
        ConfigError: No such format.
        DataError: As `table`.
    """
    writers = {"text": text, "markdown": markdown, "csv": csv, "latex": latex}
    if form not in writers:
        raise ConfigError(f"no format '{form}': choose {', '.join(FORMATS)}")
    return writers[form](experiment, with_published)


def _blocks(experiment: str | None, with_published: bool, smoke: bool = False) -> list[Block]:
    measured = table(experiment)
    measured = measured if smoke and not with_published else measured[measured["profile"] != "smoke"]
    return _published_blocks(measured) if with_published else _measured_blocks(measured, experiment is None)


def _measured_blocks(measured: pd.DataFrame, several: bool) -> list[Block]:
    names = ["run", "direction", "metric", "value", "95 % interval", "chance", "n"]
    blocks = []
    for (experiment, *key), group in measured.groupby(["experiment", *KEY[:3]], sort=False):
        chance = ["" if math.isnan(value) else f"{value:.2f}" for value in group["chance"]]
        rows = [
            [r.run, r.direction, r.metric, f"{r.value:.1f}", _interval(r), guess, str(r.n)]
            for r, guess in zip(group.itertuples(), chance, strict=True)
        ]
        blocks.append((f"{f'{experiment}: ' if several else ''}{_named(*key)}", names, rows))
    return blocks


def _published_blocks(measured: pd.DataFrame) -> list[Block]:
    figures = published()
    both = beside(measured, figures)
    alone = figures[~matching(figures, set(keys_of(both)))]
    alone = alone.assign(system=systems(alone), ci_low=math.nan, ci_high=math.nan)
    unstated = alone["protocol"] == UNSTATED
    blocks = []
    for frame, about in ((both, ""), (alone[~unstated], "published, nothing of ours beside it: ")):
        for (*key, direction, metric), group in frame.groupby(list(KEY), sort=False):
            names = ["system", metric, "95 % interval", "trained on it", "source"]
            rows = [[r.system, *_told(r), r.trained_on_dataset, r.source or "measured here"] for r in group.itertuples()]
            blocks.append((f"{about}{_named(*key)}, {direction}", names, rows))
    if unstated.any():
        names = ["task", "dataset", "metric", "system", "value", "source"]
        rows = [[r.task, r.dataset, r.metric, r.system, _told(r)[0], r.source] for r in alone[unstated].itertuples()]
        blocks.append(("published under an unstated protocol, comparable with nothing", names, rows))
    return blocks


def _told(row) -> tuple[str, str]:
    """Value and interval; figures of others as they printed them."""
    return (f"{row.value:g}" if row.source else f"{row.value:.1f}"), _interval(row)


def _named(dataset: str, split: str, protocol: str) -> str:
    return f"{dataset}, {split}, protocol {protocol}"


def _interval(row) -> str:
    return "" if math.isnan(row.ci_low) or math.isnan(row.ci_high) else f"{row.ci_low:.1f} to {row.ci_high:.1f}"


def _plain(cell: str) -> str:
    """One line without control characters: names come from files, and a terminal obeys some of them."""
    return "".join(letter if letter.isprintable() else " " for letter in cell)


def _markdown(cell: str) -> str:
    escaped = re.sub(
        r"([\\`*\[\]|$~#])", r"\\\1", _plain(cell).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\_", escaped)  # inside a word it is no emphasis


def _latex(cell: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in _plain(cell))
