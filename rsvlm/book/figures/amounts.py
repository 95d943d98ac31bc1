"""How many of what: funnels, bars of counts, shares of a whole."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rsvlm.book.figures.style import PALETTE, SEQUENTIAL, canvas, for_phones, is_narrow, literal, small


@for_phones
def funnel(rows: Sequence[Mapping[str, object]]) -> Figure:
    """Bars of what each stage of a pipeline kept and rejected, one panel per split.

    Args:
        rows: `{split, stage, kept, rejected, reason}`, in order; counts of samples.
    """
    table = pd.DataFrame(rows)
    splits = list(dict.fromkeys(table["split"]))
    figure, panels = canvas(columns=len(splits), width=9.0, height=0.7 + 0.55 * table.groupby("split").size().max())
    for split, axes in zip(splits, np.atleast_1d(panels), strict=True):
        part = table[table["split"] == split][::-1]
        axes.barh(part["stage"], part["kept"], color=PALETTE["blue"], label="kept")
        axes.barh(part["stage"], part["rejected"], left=part["kept"], color=PALETTE["orange"], label="rejected")
        whole = (part["kept"] + part["rejected"]).max()
        for row in part.itertuples():
            # A number that is wider than its bar stands behind the bar.
            place, colour = (0, "white") if row.kept > 0.36 * whole else (row.kept, "black")
            axes.annotate(f"{row.kept:,}", (place, row.stage), (4, 0), textcoords="offset points", va="center", color=colour)
        axes.set(title=split, xlabel="chips")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
        axes.grid(axis="y", visible=False)
    first = np.atleast_1d(panels)[0]
    if is_narrow():
        figure.legend(*first.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    else:
        first.legend(loc="lower right")
    return figure


@for_phones
def funnel_sankey(rows: Sequence[Mapping[str, object]]) -> Figure:
    """Draw a funnel as one stream from left to right; at each stage what was rejected leaves it downwards.

    Args:
        rows: `{stage, in, kept, reasons}` as in a manifest's `funnel`, in order; rows of several splits are added up. At each
            stage the four commonest reasons are named; the others are summed up.
    """
    stages: dict[str, dict] = {}
    for row in _all_stages(rows):
        stage = stages.setdefault(str(row["stage"]), {"in": 0, "kept": 0, "reasons": Counter()})
        stage["in"], stage["kept"] = stage["in"] + int(row["in"]), stage["kept"] + int(row["kept"])
        stage["reasons"].update(dict(row["reasons"]))
    if is_narrow():
        return _funnel_list(stages)
    figure, axes = canvas(width=9.0, height=4.4)
    axes.set_axis_off()
    whole = max((stage["in"] for stage in stages.values()), default=0) or 1
    gone = 0.0
    for x, (name, stage) in enumerate(stages.items()):
        # As a share of what came in at the start; the upper edge of the stream is straight.
        entering, kept = stage["in"] / whole, stage["kept"] / whole
        axes.fill_between([x, x + 1], 1 - kept, 1, color=PALETTE["blue"], linewidth=0)
        _stream(axes, (x, 1 - entering, 1 - kept), (x + 0.6, -0.12 - (entering - kept), -0.12), PALETTE["orange"])
        axes.text(x + 0.02, 1.03, f"{name}\n{stage['in']:,}", va="bottom", fontweight="bold")
        # What is wider than its stage would lie on the next branch.
        lines = _wrapped(_reasons(stage["reasons"], 4), max(20, 100 // (len(stages) + 1)))
        low = -0.16 - (entering - kept)
        axes.text(x + 0.3, low, "\n".join(lines), va="top", fontsize=8, parse_math=False)
        gone = max(gone, -low + 0.055 * len(lines))
    kept = next((stage["kept"] for stage in reversed(stages.values())), 0)
    axes.text(len(stages) + 0.05, 1 - kept / whole / 2, f"kept\n{kept:,}", va="center", fontweight="bold")
    axes.set(xlim=(0, len(stages) + 0.55), ylim=(-gone - 0.05, 1.2))
    return figure


def _funnel_list(stages: Mapping[str, Mapping]) -> Figure:
    """Draw a funnel as bars one below the other, the reasons below each: on a phone a stream has no room for its words."""
    lines = [_wrapped(_reasons(stage["reasons"], 3), 50) for stage in stages.values()]
    figure, axes = canvas(height=0.3 + sum(0.68 + 0.15 * len(each) for each in lines))
    axes.set_axis_off()
    whole, y = max((stage["in"] for stage in stages.values()), default=0) or 1, 0.0
    for (name, stage), reasons in zip(stages.items(), lines, strict=True):
        axes.text(0, y, f"{name}: {stage['kept']:,} of {stage['in']:,} kept", va="bottom", fontweight="bold")
        axes.barh(y + 0.14, stage["kept"] / whole, 0.2, color=PALETTE["blue"])
        axes.barh(y + 0.14, (stage["in"] - stage["kept"]) / whole, 0.2, stage["kept"] / whole, color=PALETTE["orange"])
        axes.text(0, y + 0.28, "\n".join(reasons), va="top", fontsize=small(8), parse_math=False)
        y += 0.68 + 0.15 * len(reasons)
    axes.set(xlim=(0, 1), ylim=(y - 0.2, -0.25))
    return figure


def _reasons(reasons: Mapping[str, int], most: int) -> list[str]:
    """Return the commonest reasons with their counts, a line for each, and one for the sum of the others."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{count:,} {reason.replace('_', ' ')}" for reason, count in ordered[:most]]
    rest = sum(count for _, count in ordered[most:])
    return [*lines, f"{rest:,} other{'s' if rest > 1 else ''}"] if rest else lines


def _wrapped(lines: Sequence[str], width: int) -> list[str]:
    """Break lines of more than `width` characters between words."""
    return [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)]


def _stream(axes: Axes, start: tuple[float, float, float], end: tuple[float, float, float], colour: str) -> None:
    """Draw a band between two places `(x, low, high)`, bent like an S."""
    t = np.linspace(0, 1, 40)
    bend = t * t * (3 - 2 * t)
    x, low, high = (a + (b - a) * s for a, b, s in zip(start, end, (t, bend, bend), strict=True))
    axes.fill_between(x, low, high, color=colour, linewidth=0)


def _all_stages(rows: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """Add the stages at which a split lost nothing, where a funnel leaves them out: what enters them is kept."""
    parts: dict[object, dict[object, Mapping]] = {}
    for row in rows:
        parts.setdefault(row.get("split"), {})[row["stage"]] = row
    whole = []
    for part in parts.values():
        kept = next(iter(part.values()))["in"]
        for stage in dict.fromkeys(row["stage"] for row in rows):
            whole.append(part.get(stage) or {"stage": stage, "in": kept, "kept": kept, "reasons": {}})
            kept = whole[-1]["kept"]
    return whole


@for_phones
def count_bars(counts: Mapping[str, int], xlabel: str) -> Figure:
    """Draw bars of the twelve commonest names, the longest first, and of all others; names are text, whatever they hold."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [(str(name)[:40] or "(none)", count) for name, count in ordered[:12]]
    if len(ordered) > 12:
        rows.append(("(others)", sum(count for _, count in ordered[12:])))
    figure, axes = canvas(width=7.0, height=0.8 + 0.28 * max(len(rows), 1))
    places = np.arange(len(rows))[::-1]
    axes.barh(places, [count for _, count in rows], color=PALETTE["blue"])
    axes.set_yticks(places, [literal(name) for name, _ in rows])
    axes.set(xlabel=xlabel)
    axes.grid(axis="y", visible=False)
    return figure


@for_phones
def stacked_shares(table: pd.DataFrame, xlabel: str) -> Figure:
    """Horizontal bars that add up to 100 %, a bar per row and a colour per column.

    Args:
        table: Amounts, all positive or zero; the index names the bars.
        xlabel: What the whole of a bar is.
    """
    figure, axes = canvas(width=8.0, height=0.9 + 0.34 * len(table))
    shares = 100 * table.div(table.sum(axis=1), axis=0)[::-1]
    left = np.zeros(len(shares))
    for name, colour in zip(shares.columns, PALETTE.values(), strict=False):
        axes.barh([str(label) for label in shares.index], shares[name], left=left, color=colour, label=str(name))
        left += shares[name].to_numpy()
    axes.set(xlabel=xlabel, xlim=(0, 100))
    axes.grid(axis="y", visible=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=1 if is_narrow() else len(shares.columns))
    return figure


@for_phones
def share_matrix(counts: pd.DataFrame, xlabel: str, ylabel: str) -> Figure:
    """Draw a matrix of counts, coloured and labelled by their share of their row.

    Args:
        counts: Counts, zero or above; a row without any stays white.
        xlabel: What the columns are.
        ylabel: What the rows are; the number of each stands beside its name.
    """
    totals = counts.sum(axis=1)
    shares = 100 * counts.div(totals.where(totals > 0), axis=0).to_numpy(float)
    figure, axes = canvas(width=9.0, height=1.9 + (0.38 if is_narrow() else 0.32) * len(counts))
    axes.pcolormesh(np.ma.masked_invalid(shares), cmap=SEQUENTIAL, vmin=0, vmax=100, edgecolors="white", linewidth=1)
    for row, column in np.argwhere(shares > 0):
        share = shares[row, column]
        text, colour = "<1" if share < 1 else f"{share:.0f}", "black" if share > 60 else "white"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=small(8), color=colour)
    axes.set_xticks(np.arange(shares.shape[1]) + 0.5, map(literal, counts.columns), **_slope())
    names = [f"{name} ({total:,})" for name, total in totals.items()]
    if is_narrow():
        names = ["\n".join(textwrap.wrap(name, 20)) for name in names]
    axes.set_yticks(np.arange(len(counts)) + 0.5, map(literal, names))
    told = f"{xlabel};{chr(10) if is_narrow() else ' '}numbers: percent of the row"
    axes.set_xlabel(told, loc="right" if is_narrow() else "center")
    axes.set_ylabel("" if is_narrow() else ylabel)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.grid(visible=False)
    return figure


def _slope() -> dict:
    """How names of columns are turned: upright on a phone, where columns are narrow."""
    return {"rotation": 90} if is_narrow() else {"rotation": 35, "ha": "right"}


@for_phones
def size_strips(marks: pd.DataFrame, most: int = 14) -> Figure:
    """Draw landmarks as dots along an axis of their size, a strip per category, visible and hidden ones in two colours.

    A category none of whose landmarks has a size has no strip.

    Args:
        marks: A row per landmark: `category`, `size_px` (pixels), `visible`.
        most: Number of categories drawn, the commonest.
    """
    names = marks["category"].value_counts().index
    names = names[names.isin(marks.loc[marks["size_px"] > 0, "category"])][:most][::-1]
    figure, axes = canvas(width=8.0, height=1.1 + 0.45 * len(names))
    rng = np.random.default_rng(0)  # of the places of dots across their strip, which mean nothing
    for visible, colour, shift in ((True, "blue", 0.18), (False, "orange", -0.18)):
        part = marks[(marks["visible"] == visible) & marks["category"].isin(names) & (marks["size_px"] > 0)]
        rows = names.get_indexer(part["category"]) + shift + rng.uniform(-0.12, 0.12, len(part))
        label = f"{'visible' if visible else 'hidden'}: {len(part):,}"
        axes.scatter(part["size_px"], rows, s=7, alpha=0.5, linewidths=0, color=PALETTE[colour], label=label)
    axes.set_yticks(range(len(names)), map(literal, names))
    axes.set(xscale="log", xlabel="size, pixels", ylim=(-0.6, len(names) - 0.4))
    axes.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.grid(axis="y", visible=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, markerscale=2, frameon=False)
    return figure
