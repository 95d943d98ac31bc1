"""Colours of the figures, and the empty figure that all charts begin with.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; maps of values use `SEQUENTIAL`,
which is even to the eye and readable in grey.
"""

from __future__ import annotations

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


def canvas(columns: int = 1, rows: int = 1, width: float = 7.0, height: float = 3.6) -> tuple[Figure, Axes | np.ndarray]:
    """Make an empty figure in the style of the book; draw on it inside `matplotlib.rc_context(STYLE)`.

    Args:
        columns: Axes side by side.
        rows: Axes one above the other.
        width: Width of the whole figure, in inches; 7 fills the text column.
        height: Height of the whole figure, in inches.

    Returns:
        The figure, and its one Axes or the array of them. It is not pyplot's: nothing is shown twice or has to be closed.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns)


def literal(name: object) -> str:
    """Return a name as matplotlib shows it letter by letter: a pair of dollar signs would make it a formula."""
    return str(name).replace("$", r"\$")
