"""Figures that a reader moves: sliders, and lines that one can point at. Each is whole without scripts, too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib as mpl
import numpy as np
import pandas as pd

from rsvlm.book.figures import markup
from rsvlm.book.figures.markup import Html
from rsvlm.book.figures.style import SEQUENTIAL
from rsvlm.errors import DataError


def slider(frames: Sequence[str], steps: Mapping[str, Sequence[str]], start: int = 0, drop_down: bool = False) -> Html:
    """Show one of several figures, chosen by one slider or several; no script is loaded, and without any one figure is left.

    Args:
        frames: HTML of each figure, as from `gallery` or `picture`: one for every combination of steps, the last slider's first.
        steps: Name of each slider → names of its places, two or more; a screen reader says them.
        start: Number of the frame that is shown first, and to those without scripts.
        drop_down: Whether the places are a list to choose from, for names in no order.

    Returns:
        A block that holds all frames; its names are text, never markup.

    Raises:
        DataError: Frames that are not as many as combinations, a slider without two places, or no such start.
    """
    shape = [len(names) for names in steps.values()]
    if not shape or min(shape) < 2 or len(frames) != np.prod(shape) or not 0 <= start < len(frames):
        expected = "expected one frame for each combination"
        raise DataError(f"{len(frames)} frames, sliders of {shape} places, start {start}: {expected}")
    controls, shown = [], []
    for (name, names), place in zip(steps.items(), np.unravel_index(start, shape), strict=True):
        now, options = escape(str(names[place])), escape(json.dumps([*map(str, names)]))
        shown.append(f"{name} {names[place]}")
        if drop_down:
            marks = [" selected" if k == place else "" for k in range(len(names))]
            listed = (f'<option value="{k}"{mark}>{escape(str(names[k]))}</option>' for k, mark in enumerate(marks))
            control = f'<select autocomplete="off" data-names="{options}">{"".join(listed)}</select></label>'
        else:
            control = f'<input type="range" min="0" max="{len(names) - 1}" value="{place}" autocomplete="off" '
            control += f'aria-valuetext="{now}" data-names="{options}"></label><b aria-hidden="true">{now}</b>'
        controls.append(f'<div class="rsvlm-range"><label>{escape(str(name))}{control}</div>')
    cells = [f"<div{'' if k == start else ' hidden'}>{frame}</div>" for k, frame in enumerate(frames)]
    quiet = f"{markup.stylesheet('slider_off.css')}<p>Shown is {escape(', '.join(shown))}; to choose needs scripts.</p>"
    return Html(
        f'{markup.stylesheet("slider.css")}<div class="rsvlm-slider" oninput="{markup.handler("slider.js", "choose(this)")}">'
        f"{''.join(controls)}<noscript>{quiet}</noscript><div>{''.join(cells)}</div></div>"
    )


def parallel_coordinates(rows: pd.DataFrame, colour_by: str) -> Html:
    """Draw rows of a table as lines over one vertical axis per column; pointing at a line, or tabbing to it, reads it out.

    Args:
        rows: One line for each row; numbers have a linear axis from the smallest to the largest, all else one place per value.
        colour_by: The column of numbers that colours the lines, from violet (small) to green (large).

    Returns:
        An SVG that needs no script.

    Raises:
        DataError: No rows, fewer than two columns, or a colour that is no column of numbers.
    """
    if not len(rows) or len(rows.columns) < 2:
        raise DataError(f"lines need rows and two columns or more, not {len(rows)} × {len(rows.columns)}")
    if colour_by not in rows or not pd.api.types.is_numeric_dtype(rows[colour_by]):
        raise DataError(f"'{colour_by}' is no column of numbers: colour by one of {', '.join(map(str, rows.columns))}")
    width, top, bottom, edge = 720, 70, 290, 70
    lefts = np.linspace(edge, width - edge, len(rows.columns))
    heights, parts = [], []
    for left, (name, column) in zip(lefts, rows.items(), strict=True):
        place, ticks = _axis_places(column)
        heights.append(bottom - place * (bottom - top))
        marks = [f'<text x="{left + 7:.0f}" y="{bottom - p * (bottom - top) + 4:.0f}">{escape(t)}</text>' for p, t in ticks]
        words = str(name).replace("_", " ").replace(".", ". ").split(". ")
        head = "".join(f'<tspan x="{left:.0f}" dy="1.2em">{escape(word)}</tspan>' for word in words[-2:])
        line = f'<path class="axis" d="M{left:.0f},{top}V{bottom}"/>'
        parts.append(f'{line}<text class="head" y="14">{head}</text>{"".join(marks)}')
    values = rows[colour_by].to_numpy(float)
    span = np.nanmax(values) - np.nanmin(values)
    shares = np.nan_to_num((values - np.nanmin(values)) / span if span > 0 else values * 0)
    for number, share in enumerate(shares):
        known = [(x, line[number]) for x, line in zip(lefts, heights, strict=True) if np.isfinite(line[number])]
        points = " L".join(f"{x:.1f},{y:.1f}" for x, y in known)
        text = escape(", ".join(f"{name} {_short(value)}" for name, value in rows.iloc[number].items()))
        colour = mpl.colors.to_hex(mpl.colormaps[SEQUENTIAL](0.25 + 0.55 * share))
        parts.append(
            f'<g class="row" tabindex="0" role="img" aria-label="{text}"><path class="wide" d="M{points}"/>'
            f'<path d="M{points}" stroke="{colour}"/><text class="told" x="{width // 2}" y="{bottom + 40}">{text}</text></g>'
        )
    parts = parts[len(rows.columns) :] + parts[: len(rows.columns)]  # numbers of the axes lie above the lines
    about = f"{len(rows)} lines over {len(rows.columns)} axes; each line is a row of the table."
    svg = f'<svg viewBox="0 0 {width} {bottom + 55}" role="group" aria-label="{about}">{"".join(parts)}</svg>'
    return Html(f'{markup.stylesheet("lines.css")}<div class="rsvlm-lines">{svg}</div>')


def _axis_places(column: pd.Series) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Places of the values on an axis from 0 to 1, and the ticks as (place, text)."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        values = column.to_numpy(float)
        low, high = np.nanmin(values), np.nanmax(values)
        if not high > low:
            return np.where(np.isnan(values), np.nan, 0.5), [(0.5, _short(low))]
        several = np.unique(values[~np.isnan(values)])
        shown = several if len(several) <= 4 else np.linspace(low, high, 4)
        ticks: list[tuple[float, str]] = []
        for value in [low, high, *shown]:  # the ends, and between them what leaves room for a line of text
            place = (value - low) / (high - low)
            if all(abs(place - other) > 0.06 for other, _ in ticks):
                ticks.append((place, _short(value)))
        return (values - low) / (high - low), ticks
    names = list(dict.fromkeys(column.astype(str)))
    place = {name: (number + 0.5) / len(names) for number, name in enumerate(names)}
    return column.astype(str).map(place).to_numpy(float), [(p, name) for name, p in place.items()]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
