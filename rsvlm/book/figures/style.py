"""Colours of the figures, and the empty figure that all charts begin with.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; maps of values use `SEQUENTIAL`,
which is even to the eye and readable in grey.

A chart that is drawn `for_phones` is drawn twice: `charts.picture` shows a phone the second drawing, in which panels stand one below the
other, so that its letters can be read there.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Source: Okabe and Ito, "Color Universal Design" (2008); black is left out, being invisible on dark pages.
PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
}
SPLIT_COLOURS = {"train": PALETTE["sky"], "val": PALETTE["yellow"], "test": PALETTE["vermilion"]}
SEQUENTIAL = "viridis"
STYLE = {
    "axes.prop_cycle": mpl.cycler(color=list(PALETTE.values())),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "figure.facecolor": "white",  # a white card: readable in the light and in the dark theme
    "font.size": 10,
    "image.cmap": SEQUENTIAL,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",  # the same letters on every machine
    "svg.hashsalt": "rsvlm",  # the same file from the same data
}


PHONE_INCHES = 4.2
"""Width of the drawing for a phone."""

_narrow = contextvars.ContextVar("narrow", default=False)


def for_phones(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let a function that draws a chart draw it for phones as well: the figure that it returns has the other one as `narrow`."""

    @functools.wraps(draw)
    def both(*arguments, **named) -> Figure:
        figure = draw(*arguments, **named)
        token = _narrow.set(True)
        try:
            figure.narrow = draw(*arguments, **named)
        finally:
            _narrow.reset(token)
        return figure

    return both


def is_narrow() -> bool:
    """Whether what is drawn now is for a phone."""
    return _narrow.get()


def small(points: float) -> float:
    """Return a size of letters below the usual one; on a phone it is as small as can still be read.

    Args:
        points: The size on a desk.
    """
    return max(points, 9.0) if is_narrow() else points


def canvas(columns: int = 1, rows: int = 1, width: float = 7.0, height: float = 3.6) -> tuple[Figure, Axes | np.ndarray]:
    """Make an empty figure in the style of the book; draw on it inside `matplotlib.rc_context(STYLE)`.

    Args:
        columns: Axes side by side; for a phone they stand one below the other.
        rows: Axes one above the other.
        width: Width of the whole figure, in inches; 7 fills the text column. For a phone it is `PHONE_INCHES` at most.
        height: Height of the whole figure, in inches; for a phone that of each row, times all axes.

    Returns:
        The figure, and its one Axes or the array of them. It is not pyplot's: nothing is shown twice or has to be closed.
    """
    with mpl.rc_context(STYLE):
        if not is_narrow():
            figure = Figure(figsize=(width, height), layout="constrained")
            return figure, figure.subplots(rows, columns)
        figure = Figure(figsize=(min(width, PHONE_INCHES), height * columns), layout="constrained")
        axes = figure.subplots(rows * columns, 1)
        return figure, axes.reshape(columns, rows).T if min(rows, columns) > 1 else axes


def literal(name: object) -> str:
    """Return a name as matplotlib shows it letter by letter: a pair of dollar signs would make it a formula."""
    return str(name).replace("$", r"\$")
