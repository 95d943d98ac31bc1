"""Results as text, Markdown, LaTeX or CSV, one table for each protocol."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rsvlm.errors import ConfigError
from rsvlm.records.results import (
    KEY,
    RUN,
    UNSTATED,
    bare,
    beside,
    keys_of,
    matching,
    published,
    spelled,
    strangers,
    systems,
    table,
)
from rsvlm.records.text import cell, one_line

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

FORMATS = ("text", "markdown", "csv", "latex")

Block = tuple[str, list[str], list[list[str]]]  # title, names of columns, cells
_TEXTS = {"run", "system", "direction", "metric", "trained on it", "source", "dataset", "model", "task"}
_LATEX = {"\\": "textbackslash", "~": "textasciitilde", "^": "textasciicircum", "<": "textless", ">": "textgreater"}


def formatted(
    experiment: str | None = None,
    form: str = "text",
    with_published: bool = False,
    known: Mapping[tuple[str, str], Mapping] | None = None,
) -> str:
    """Return the results in one of `FORMATS`, as tables of one protocol each; a CSV is one table with the protocol in a column.

    With published figures, our other rows follow; those of a benchmark's name that are not over its images and captions say so. Where an
    experiment is named, figures of other data sets than its own are left out.

    Runs of the profile `smoke` measure nothing: `markdown`, `latex` and all that stands beside published figures leave them out.

    Args:
        experiment: Experiment, file or folders, as for `results.table`. If None, all.
        form: One of `FORMATS`.
        with_published: Whether published figures stand beside our own, as in `results.beside`.
        known: Number of images and captions of each data set and split, as for `results.beside`. If None, none is known, and so
            nothing stands beside a published figure.

    Raises:
        ConfigError: No such format.
        DataError: As `results.table`.
    """
    if form not in FORMATS:
        raise ConfigError(f"no format '{form}': choose {', '.join(FORMATS)}")
    measured = table(experiment)
    if form == "csv":
        frame = _published_frame(measured, known or {}) if with_published else measured.drop(columns="sketch")
        frame = frame.assign(**{name: frame[name].map(cell) for name in frame.select_dtypes(exclude="number")})
        return frame.to_csv(index=False, lineterminator="\n").rstrip("\n")
    if form != "text" or with_published:
        small = measured["profile"] == "smoke"
        if small.any():
            logger.warning("%d rows of the profile smoke are left out: they measure nothing", small.sum())
        measured = measured[~small]
    blocks = _measured_blocks(measured, experiment is None)
    if with_published:
        blocks = _published_blocks(measured, known or {}, experiment is None)
    write = {"text": _text_table, "markdown": _markdown_table, "latex": _latex_table}[form]
    return "\n\n".join(write(*block) for block in blocks)


def _text_table(title: str, names: list[str], rows: list[list[str]]) -> str:
    cells = [names, *(list(map(one_line, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = ["<" if name in _TEXTS else ">" for name in names]
    lines = ["  ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([one_line(title), *lines])


def _markdown_table(title: str, names: list[str], rows: list[list[str]]) -> str:
    rule = "|".join("---" if name in _TEXTS else "--:" for name in names)
    lines = [f"| {' | '.join(map(_markdown, cells))} |" for cells in rows]
    return "\n".join([f"{_markdown(title)}:", "", f"| {' | '.join(names)} |", f"|{rule}|", *lines])


def _latex_table(title: str, names: list[str], rows: list[list[str]]) -> str:
    """Return one table for the package booktabs."""
    columns = "".join("l" if name in _TEXTS else "r" for name in names)
    head, *lines = [" & ".join(map(_latex, cells)) + r" \\" for cells in (names, *rows)]
    begin = [r"\begin{table}", rf"\caption{{{_latex(title)}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    return "\n".join([*begin, head, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _measured_blocks(measured: pd.DataFrame, several: bool) -> list[Block]:
    names = ["run", "direction", "metric", "value", "95 % interval", "chance", "n"]
    blocks = []
    for (experiment, *key), group in measured.groupby(["experiment", *KEY[:3]], sort=False):
        rows = [
            [
                r.run,
                r.direction,
                r.metric,
                f"{r.value:.1f}",
                _interval(r),
                "" if math.isnan(r.chance) else f"{r.chance:.2f}",
                str(r.n),
            ]
            for r in group.itertuples()
        ]
        blocks.append((f"{f'{experiment}: ' if several else ''}{_title(key)}", names, rows))
    return blocks


def _apart(measured: pd.DataFrame, both: pd.DataFrame, known: Mapping) -> pd.DataFrame:
    """Return our rows that are beside no published figure, with a `note` where that is because they are over other images."""
    figures = published()
    ours, names = spelled(measured, figures), (*RUN, "dataset", "split")
    there = set(keys_of(figures, names[2:]))
    reasons = {key: reason for key, reason in strangers(ours, known).items() if key[2:] in there}
    shown = set(keys_of(both, ["system", *KEY]))
    ours = ours.assign(system=systems(ours), note=[reasons.get(key, "") for key in keys_of(ours, names)])
    return ours[~matching(ours, shown, ["system", *KEY])]


def _published_frame(measured: pd.DataFrame, known: Mapping) -> pd.DataFrame:
    import pandas as pd

    measured = measured[measured["profile"] != "smoke"]
    both = beside(measured, known=known).assign(note="")
    apart = _apart(measured, both, known).assign(trained_on_dataset="", source="")[list(both)]
    return pd.concat([part for part in (both, apart) if len(part)], ignore_index=True) if len(both) + len(apart) else both


def _published_blocks(measured: pd.DataFrame, known: Mapping, everything: bool) -> list[Block]:
    figures = published()
    both = beside(measured, figures, known=known)
    apart = _apart(measured, both, known)
    if not everything:
        ours = set(map(bare, measured["dataset"]))
        figures = figures[[bare(name) in ours for name in figures["dataset"]]]
    alone = figures[~matching(figures, set(keys_of(both)))]
    alone = alone.assign(system=systems(alone), ci_low=math.nan, ci_high=math.nan, n=0)
    unstated = (alone["protocol"] == UNSTATED) | (alone["split"] == UNSTATED)
    of_us: list[Block] = []
    for note, rows in apart.groupby("note", sort=False):
        about = f"ours, beside no published figure ({note}): " if note else "ours, nothing published beside it: "
        of_us += [(f"{about}{title}", *cells) for title, *cells in _measured_blocks(rows, everything)]
    blocks = []
    for frame, about in ((both, ""), (alone[~unstated], "published, nothing of ours beside it: ")):
        for (*key, direction, metric), group in frame.groupby(list(KEY), sort=False):
            names = ["system", metric, "95 % interval", "n", "trained on it", "source"]
            rows = [
                [r.system, _value(r), _interval(r), str(r.n or ""), r.trained_on_dataset, r.source or "measured here"]
                for r in group.sort_values("value", ascending=False, kind="stable").itertuples()
            ]
            blocks.append((f"{about}{_title(key)}, {direction}", names, rows))
        if frame is both:
            blocks += of_us
    if unstated.any():
        names = ["task", "dataset", "metric", "system", "value", "source"]
        rows = [[r.task, r.dataset, r.metric, r.system, _value(r), r.source] for r in alone[unstated].itertuples()]
        blocks.append(("published with a split or protocol that is unstated, comparable with nothing", names, rows))
    return blocks


def _title(key: Sequence[str]) -> str:
    return "{}, {}, protocol {}".format(*key)


def _value(row) -> str:
    return f"{row.value:g}" if row.source else f"{row.value:.1f}"  # figures of others as they printed them


def _interval(row) -> str:
    return "" if math.isnan(row.ci_low + row.ci_high) else f"{row.ci_low:.1f} to {row.ci_high:.1f}"


def _markdown(text: str) -> str:
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|$~#])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\_", text)  # inside a word it is no emphasis


def _latex(text: str) -> str:
    names = {letter: rf"\{name}{{}}" for letter, name in _LATEX.items()} | {letter: f"\\{letter}" for letter in "&%$#_{}"}
    return one_line(text).translate(str.maketrans(names))
