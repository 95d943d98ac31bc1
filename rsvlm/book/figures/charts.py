"""Charts of measured values: curves, bars, dots and matrices; `picture` turns any Figure into an image."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle

import matplotlib as mpl
import matplotlib.colors
import matplotlib.lines
import matplotlib.patches
import matplotlib.text
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from rsvlm.book.figures import markup
from rsvlm.book.figures.markup import Html
from rsvlm.book.figures.style import PALETTE, SEQUENTIAL, STYLE, canvas, for_phones, is_narrow, literal, small
from rsvlm.errors import DataError


def picture(figure: Figure, alt: str) -> Html:
    """Turn a figure into an image with alternative text, for the end of a notebook cell.

    Args:
        figure: The figure.
        alt: Sentence that says what the figure shows, for those who cannot see it.

    Returns:
        An element that holds the figure as SVG, or as WebP where it has many points or images; on a phone it shows the drawing for
        phones, where there is one.

    Raises:
        DataError: The alternative text is empty.
    """
    if not alt.strip():
        raise DataError("a figure needs alternative text: say in one sentence what it shows")
    narrow = getattr(figure, "narrow", None)
    style = (
        f"width:{round(figure.get_figwidth() * 100)}px;max-width:100%;height:auto;background:#fff;padding:0;border-radius:4px"
    )
    letters = f'data-letters="{_smallest_letter(narrow or figure):.4f}"'
    image = f'<img class="dark-light" style="{style}" alt="{escape(alt)}" {letters} src="{_uri(figure)}">'
    if narrow is None:
        return Html(image)
    return Html(f'<picture><source media="(max-width: 600px)" srcset="{_uri(narrow)}">{image}</picture>')


def _uri(figure: Figure) -> str:
    """Return an address that holds the figure: as SVG, or as WebP where it has many points or images."""
    svg = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(svg, format="svg", metadata={"Date": None})
        if len(svg.getvalue()) <= 150_000:
            return markup.data_uri("svg+xml", svg.getvalue())
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=200)
    return markup.data_uri("webp", markup.webp(Image.open(png), quality=90))


def _smallest_letter(figure: Figure) -> float:
    """Return the size of the smallest letters of a figure, as a share of its width."""
    texts = [text for text in figure.findobj(mpl.text.Text) if text.get_visible() and text.get_text().strip()]
    return min((text.get_fontsize() for text in texts), default=10.0) / 72 / figure.get_figwidth()


def _legend(figure: Figure, axes: Axes, **named) -> None:
    """Put the legend of some axes into them, or above them on a phone, where it would lie on what is drawn."""
    if is_narrow():
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    else:
        axes.legend(**named)


@for_phones
def training_curves(metrics: pd.DataFrame, pictures: str = "the validation split") -> Figure:
    """Losses, validation recall and speed against the optimizer step.

    Args:
        metrics: The lines of `metrics.jsonl`: `step` with `contrastive` and `caption` (nats), `val_R@5` and `val_chance_R@5`
            (percent), `samples_per_s`; each may be absent from a line.
        pictures: On what recall was measured.
    """
    figure, (losses, recall, speed) = canvas(columns=3, width=10.0, height=3.2)
    for name, colour in (("contrastive", "blue"), ("caption", "orange")):
        if name in metrics:
            part = metrics.dropna(subset=[name])
            losses.plot(part["step"], part[name], color=PALETTE[colour], label=name)
    losses.set(title="Training loss", xlabel="step", ylabel="nats")
    losses.legend()
    if "val_R@5" in metrics:
        part = metrics.dropna(subset=["val_R@5"])
        recall.plot(part["step"], part["val_R@5"], "o-", color=PALETTE["green"], label="model")
        recall.plot(part["step"], part["val_chance_R@5"], "--", color=PALETTE["vermilion"], label="chance")
        recall.legend(loc="center right")  # the curve ends above it, and chance lies below
    recall.set(title=f"Recall@5 on {pictures}", xlabel="step", ylabel="percent", ylim=(0, None))
    part = metrics.dropna(subset=["samples_per_s"])
    speed.plot(part["step"], part["samples_per_s"], color=PALETTE["purple"])
    speed.set(title="Throughput", xlabel="step", ylabel="pairs per second", ylim=(0, None))
    return figure


@for_phones
def rank_histogram(ranks: Mapping[str, np.ndarray], gallery_size: int) -> Figure:
    """Share of queries whose right answer is within each rank, on a logarithmic axis, against guessing.

    Args:
        ranks: A name to ranks, each (n,) int64 with 1 the best.
        gallery_size: Items in the gallery.
    """
    figure, axes = canvas(width=7.0, height=3.6)
    grid = np.unique(np.geomspace(1, gallery_size, 200).astype(int))
    for (name, values), colour in zip(ranks.items(), PALETTE.values(), strict=False):
        axes.plot(grid, 100 * np.searchsorted(np.sort(values), grid, side="right") / len(values), color=colour, label=name)
    axes.plot(grid, 100 * grid / gallery_size, "--", color="#666666", label="guessing")
    axes.set(xscale="log", xlabel=f"rank of the right answer among {gallery_size:,}", ylabel="queries at or below, percent")
    _legend(figure, axes, loc="upper left")
    return figure


@for_phones
def recall_bars(systems: Mapping[str, Sequence[Mapping[str, object]]]) -> Figure:
    """Recall of each system with its 95 % interval, both directions, and chance as a line on every bar.

    Args:
        systems: A name to metric rows of one protocol.
    """
    figure, panels = canvas(columns=2, width=9.0, height=3.4)
    width = 0.8 / len(systems)
    for axes, (direction, title) in zip(panels, (("t2i", "Text → image"), ("i2t", "Image → text")), strict=True):
        for offset, ((name, rows), colour) in enumerate(zip(systems.items(), PALETTE.values(), strict=False)):
            part = [row for row in rows if row["direction"] == direction and str(row["metric"]).startswith("R@")]
            x = np.arange(len(part)) + (offset - (len(systems) - 1) / 2) * width
            value, low, high, chance = np.array(
                [[row[key] for row in part] for key in ("value", "ci_low", "ci_high", "chance")]
            )
            axes.bar(x, value, 0.9 * width, yerr=[value - low, high - value], capsize=3, color=colour, label=name)
            label = "chance" if not offset else None
            axes.hlines(chance, x - width / 2, x + width / 2, color="black", linewidth=2, label=label)
            axes.set_xticks(range(len(part)), [row["metric"] for row in part])
        axes.set(title=title, ylabel="recall, percent")
        axes.grid(axis="x", visible=False)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2 if is_narrow() else len(systems) + 1
    )
    return figure


@for_phones
def interval_dots(rows: Sequence[Mapping[str, object]], xlabel: str) -> Figure:
    """Draw values as dots with their intervals, one line per label, one colour per series, and chance as a grey mark.

    Further values of the same label and series, as of single seeds, are smaller dots.

    Args:
        rows: `{label, value}` in order and, where there are any, `series panel ci_low ci_high chance`. Panels stand side by side with
            the same labels and the same scale.
        xlabel: What the values are, with the unit.
    """
    blank = {"series": "", "panel": "", "ci_low": None, "ci_high": None, "chance": None}
    table = pd.DataFrame([blank | dict(row) for row in rows]).astype({"label": str, "series": str, "panel": str})
    labels, series, panels = (list(dict.fromkeys(table[name])) for name in ("label", "series", "panel"))
    xlabel = textwrap.fill(xlabel, 26) if is_narrow() else xlabel  # beside long labels there is no more room
    colours = dict(zip(series, cycle(PALETTE.values()), strict=False))
    height = 1.1 + len(labels) * (0.2 + 0.16 * len(series))
    figure, all_axes = canvas(columns=len(panels), width=min(9.0, 5.0 + 2.2 * len(panels)), height=height)
    all_axes = np.atleast_1d(all_axes)
    for number, (panel, axes) in enumerate(zip(panels, all_axes, strict=True)):
        drawn = set()
        for row in table[table["panel"] == panel].to_dict("records"):
            shift = 0.7 * (series.index(row["series"]) - (len(series) - 1) / 2) / len(series)
            y, colour = labels.index(row["label"]) + shift, colours[row["series"]]
            if not pd.isna(row["ci_low"]):
                axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, linewidth=2)
            axes.plot(row["value"], y, "o", markersize=3 if y in drawn else 6, color=colour)
            drawn.add(y)
            if not pd.isna(row["chance"]):
                axes.plot(row["chance"], y, "|", markersize=9, markeredgewidth=2, color="#777777")
        axes.set_yticks(range(len(labels)), ["" if number and not is_narrow() else literal(label) for label in labels])
        axes.set(title=literal(panel), xlabel=xlabel, ylim=(len(labels) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
    limits = [axes.get_xlim() for axes in all_axes]
    for axes in all_axes:
        axes.set_xlim(min(0.0, *(low for low, _ in limits)), max(high for _, high in limits))
    line = mpl.lines.Line2D
    marks = [line([], [], marker="o", color=colours[name], label=literal(name)) for name in series if name]
    if table["chance"].notna().any():
        marks.append(line([], [], marker="|", linestyle="", markeredgewidth=2, color="#777777", label="chance"))
    if marks:
        _legend_above(figure, marks, 1 if is_narrow() else 4)
    return figure


def _legend_above(figure: Figure, marks: Sequence[mpl.lines.Line2D], most: int) -> None:
    """Put a legend above the axes, in `most` columns or in as many as the figure is wide enough for."""
    for columns in range(min(len(marks), most), 0, -1):
        legend = figure.legend(handles=marks, loc="outside upper left", ncols=columns)
        if columns == 1 or legend.get_window_extent().width < 0.97 * figure.bbox.width:
            return
        legend.remove()


@for_phones
def curves_with_bands(
    curves: Mapping[str, pd.DataFrame], xlabel: str, ylabel: str, guessing: pd.DataFrame | None = None, scale: str = "log"
) -> Figure:
    """Draw curves, each with the band of its interval, and guessing as a broken line.

    Args:
        curves: A name to `x value` and, where there are any, `ci_low ci_high`.
        xlabel: What `x` is, with the unit.
        ylabel: What the values are, with the unit.
        guessing: `x value`, or none.
        scale: Scale of the x axis, `log` or `linear`.
    """
    figure, axes = canvas(width=7.0, height=3.6)
    for (name, curve), colour in zip(curves.items(), PALETTE.values(), strict=False):
        axes.plot(curve["x"], curve["value"], "o-", markersize=4, color=colour, label=name)
        if "ci_low" in curve:
            axes.fill_between(curve["x"], curve["ci_low"], curve["ci_high"], color=colour, alpha=0.2, linewidth=0)
    if guessing is not None:
        axes.plot(guessing["x"], guessing["value"], "--", color="#666666", label="guessing")
    axes.set(xscale=scale, xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    places = sorted({float(x) for curve in curves.values() for x in curve["x"]})
    axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.minorticks_off()
    _legend(figure, axes)
    return figure


@for_phones
def reliability(bins: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw how often answers of each confidence are right, a panel per system, and below how many answers there are.

    Args:
        bins: A name to a row per bin, as from `classification.reliability`: `low high confidence accuracy` from 0 to 1, and `n` answers.
    """
    figure, axes = canvas(columns=len(bins), rows=2, width=min(9.0, 1.4 + 3.4 * len(bins)), height=4.6)
    for (name, table), (upper, lower) in zip(bins.items(), np.reshape(axes, (2, -1)).T, strict=True):
        part = table[table["n"] > 0]
        upper.plot([0, 1], [0, 1], "--", color="#666666", label="as sure as right")
        upper.plot(part["confidence"], part["accuracy"], "o-", color=PALETTE["blue"], label="measured")
        upper.set(title=literal(name), ylabel="right, share", xlim=(0, 1), ylim=(0, 1.02))
        lower.bar(part["low"], part["n"], part["high"] - part["low"], align="edge", color=PALETTE["sky"], edgecolor="white")
        lower.set(xlabel="confidence, share", ylabel="answers", xlim=(0, 1))
    np.reshape(axes, (2, -1))[0, 0].legend(loc="upper left")
    return figure


@for_phones
def roc(curves: Mapping[str, np.ndarray], points: Mapping[str, tuple[float, float]]) -> Figure:
    """Draw receiver operating characteristics, and the chosen threshold on each.

    Args:
        curves: For each name `(N, 2)` false and true positive rates, 0 to 1.
        points: For each name the rates at its threshold.
    """
    figure, axes = canvas(width=4.6, height=4.2)
    for (name, curve), colour in zip(curves.items(), PALETTE.values(), strict=False):
        axes.plot(*np.asarray(curve).T, color=colour, label=name)
        if name in points:
            axes.plot(*points[name], "o", color=colour)
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle=":", label="chance")
    axes.set(xlabel="other pictures taken for overhead (share)", ylabel="overhead pictures found (share)")
    axes.set(xlim=(-0.02, 1), ylim=(0, 1.02))
    axes.legend(loc="lower right")
    return figure


@for_phones
def score_matrix(
    scores: np.ndarray,
    right: np.ndarray,
    names: tuple[Sequence[str], Sequence[str]],
    ranks: tuple[Sequence[int], Sequence[int]],
) -> Figure:
    """Draw the scores of a few images and captions, the right pairs framed, and the rank of each query in the margins.

    Args:
        scores: (N, M), images by captions.
        right: (N, M) bool, which caption belongs to which image.
        names: N names of images and M of captions.
        ranks: Of the best right caption of each image, drawn at the right; of the right image of each caption, drawn below.
    """
    N, M = scores.shape
    figure, axes = canvas(width=2.2 + 0.75 * M, height=1.9 + 0.55 * N)
    axes.pcolormesh(scores, cmap=SEQUENTIAL, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    for row, column in np.ndindex(N, M):
        colour = "black" if scores[row, column] > 0.6 else "white"
        axes.text(column + 0.5, row + 0.5, f"{scores[row, column]:.2f}", ha="center", va="center", color=colour)
    for row, column in np.argwhere(right):
        frame = mpl.patches.Rectangle((column + 0.06, row + 0.06), 0.88, 0.88, fill=False, linewidth=3)
        axes.add_patch(frame).set_edgecolor(PALETTE["vermilion"])
    for row, rank in enumerate(ranks[0]):
        axes.text(M + 0.15, row + 0.5, f"rank {rank}", va="center", fontweight="bold")
    for column, rank in enumerate(ranks[1]):
        told = str(rank) if is_narrow() else f"rank {rank}"
        axes.text(column + 0.5, N + 0.3, told, ha="center", va="center", fontweight="bold")
    if is_narrow():  # where there is no room for the word below each column
        axes.text(-0.15, N + 0.3, "rank", ha="right", va="center", fontweight="bold")
    axes.set_yticks(np.arange(N) + 0.5, map(literal, names[0]))
    axes.set_xticks(np.arange(M) + 0.5, map(literal, names[1]), rotation=25, ha="left")
    axes.set(xlim=(0, M + 1.1), ylim=(N + 0.6, 0))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    return figure


def token_matrices(
    panels: Mapping[str, np.ndarray], tokens: Sequence[str], labels: tuple[str, str, str], alt: str, logarithmic: bool = False
) -> Html:
    """Draw matrices of token against token in one scale of colours, beside each other where there is room.

    Args:
        panels: A title to (T, T) values; NaN, and zero on a logarithmic scale, is left white.
        tokens: T labels of both axes.
        labels: What the columns, the rows and the colours are, with the unit.
        alt: What the matrices show, for those who cannot see them.
        logarithmic: Whether the scale of colours is.
    """
    shown = [np.where(matrix == 0, np.nan, matrix) if logarithmic else matrix for matrix in panels.values()]
    shown = [np.ma.masked_invalid(matrix) for matrix in shown]
    low, high = min(matrix.min() for matrix in shown), max(matrix.max() for matrix in shown)
    scale = mpl.colors.LogNorm(low, high) if logarithmic else mpl.colors.PowerNorm(0.5, 0, high)  # small shares show

    @for_phones
    def one(title: str, matrix: np.ndarray) -> Figure:
        figure, axes = canvas(width=5.4, height=5.0 if not is_narrow() else 1.4 + 0.14 * len(tokens))
        drawn = axes.pcolormesh(matrix, norm=scale, cmap=SEQUENTIAL, edgecolors="white", linewidth=0.3)
        axes.set(title=title, xlabel=labels[0], ylabel=labels[1], aspect="auto" if is_narrow() else "equal")
        places, size = np.arange(len(tokens)) + 0.5, small(min(9, 240 / len(tokens)))
        every = 1 + is_narrow() * (len(tokens) // 18)  # there is room for so many labels
        axes.set_xticks(places[::every], tokens[::every], rotation=90, fontsize=size)
        axes.set_yticks(places, tokens, fontsize=size)
        axes.tick_params(length=0)
        axes.invert_yaxis()
        axes.grid(visible=False)
        figure.colorbar(drawn, ax=axes, label=labels[2], shrink=0.75, location="bottom" if is_narrow() else "right")
        return figure

    pictures = [f"<div>{picture(one(*panel), f'{panel[0]}. {alt}')}</div>" for panel in zip(panels, shown, strict=True)]
    return Html(markup.stylesheet("beside.css") + f'<div class="rsvlm-beside">{"".join(pictures)}</div>')


@for_phones
def token_bars(tokens: Sequence[str], series: Mapping[str, np.ndarray], ylabel: str) -> Figure:
    """Bars over the tokens of one text, one colour per series.

    Args:
        tokens: T labels, in order.
        series: A name to T values.
        ylabel: What they are, with the unit.
    """
    upright = not is_narrow()  # on a phone the tokens stand one below the other
    figure, axes = canvas(width=9.0, height=3.4 if upright else 1.2 + 0.2 * len(tokens))
    width = 0.8 / len(series)
    for offset, ((name, values), colour) in enumerate(zip(series.items(), PALETTE.values(), strict=False)):
        places = np.arange(len(tokens)) + (offset - (len(series) - 1) / 2) * width
        (axes.bar if upright else axes.barh)(places, values, width, color=colour, label=name)
    if upright:
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=min(10, 500 / len(tokens)))
        axes.set(ylabel=ylabel, xlim=(-0.6, len(tokens) - 0.4))
    else:
        axes.set_yticks(range(len(tokens)), tokens, fontsize=small(8))
        axes.set(xlabel=ylabel, ylim=(len(tokens) - 0.4, -0.6))
    axes.grid(axis="x" if upright else "y", visible=False)
    _legend(figure, axes)
    return figure
