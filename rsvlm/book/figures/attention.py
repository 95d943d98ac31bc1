"""Maps over the picture that they are of: attention, pooling, contributions, windows, and what a round of training changed.

    items (P pictures) ── texts (T words or sentences) ── views (V heads, methods, windows or rounds) ── one map (h, w) of each

One map lies over the picture, large, with an outline; the words stand below it, the views beside it as small maps. All are groups
of buttons, so that a click or an arrow key chooses. Without scripts the first map is seen, which is the most telling one.

Letters: P pictures, T texts, V views, h w grid of a map, H W pixels.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape

import matplotlib as mpl
import numpy as np
from PIL import Image

from rsvlm.book.figures import markup, scale
from rsvlm.book.figures.markup import Html
from rsvlm.book.figures.style import PALETTE, SEQUENTIAL
from rsvlm.errors import DataError

UNIFORM = 0.1
"""A map whose range is less than this share of its mean is shown grey: its colours would show differences that hardly are there."""
GREY = (128, 128, 128)
FIXED, BROKEN = (PALETTE[name] for name in ("blue", "vermilion"))
STRIPE_PX = 6
"""Width of a stripe of what is broken, in pixels of its overlay, which is about 400 of them wide."""


@dataclass(frozen=True)
class State:
    """One map as the page holds it."""

    png: str
    """The map as an image, one pixel for a cell, in base64."""
    path: str
    """Outline, as a path of SVG in cells."""
    said: str
    """What there is to see, as a sentence."""
    short: str
    """The same in a few signs, below the small map."""
    low: str
    """What the darkest colour means; empty where colours are no values."""
    high: str
    """What the brightest colour means."""
    grey: bool
    """Whether the map is uniform."""
    box: str
    """The cells as a `viewBox` of SVG: those of `path`."""
    key: int = 0
    """Which of the legends below the picture belongs to it."""


def explore(
    items: Sequence[Mapping[str, object]],
    maps: Sequence[np.ndarray],
    unit: str = "",
    *,
    texts: Sequence[str] = (),
    views: Sequence[str] = (),
    kinds: tuple[str, str] = ("text", "map"),
    notes: Sequence | np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
) -> Html:
    """Lay maps of values over their pictures, each in colours of its own range, and begin with the one of the largest range.

    Args:
        items: P pictures as for `galleries.gallery`: `image`, `alt`, and where wanted `name` (on its button) and `ground`.
        maps: Of each picture (T, V, h, w) values; what is not finite is grey.
        unit: Unit of the values, as in `%`.
        texts: T words or sentences, in the order of the text. If empty, T is 1.
        views: V names of heads, methods, windows. If empty, V is 1.
        kinds: What a text is, and what a view is: names of the two groups of buttons.
        notes: Of each picture, text and view a sentence to be added, or nothing.
        limits: What is darkest and what is brightest in all maps. If None, each map has its own range.

    Raises:
        DataError: No picture, one without alternative text, or maps that are not as many as texts and views, or not two-dimensional.
    """
    names = [list(map(str, part)) or [""] for part in (texts, views)]
    shape = tuple(map(len, names))
    grids = [np.asarray(part, float) for part in maps]
    if not len(items) or len(grids) != len(items) or any(g.shape[:2] != shape or g.ndim != 4 or not g.size for g in grids):
        shapes = ", ".join(str(grid.shape) for grid in grids)
        raise DataError(
            f"{len(items)} pictures and maps {shapes}: expected one array (texts, views, h, w) of {shape} for each"
        )
    states, spans = [], []
    for p, t, v in np.ndindex(len(items), *shape):
        note = str(notes[p][t][v] or "") if notes is not None else ""
        state, span = _of_values(grids[p][t, v], unit, (names[0][t], names[1][v]), note, limits)
        states.append(state)
        spans.append(span)
    start = int(np.argmax(spans))
    told = f"{len(states)} maps. " * (len(states) > 1)
    if limits is None:
        told += "In each, colours go" if len(states) > 1 else "Colours of the map go"
        told += " from its lowest value (dark) to its highest (yellow)"
    else:
        told += f"Colours go from {_signed(limits[0])} (dark) to {_signed(limits[1])} (yellow) in all maps"
    told += "; the line encloses what is above the middle of that range."
    if any(state.grey for state in states):
        told += f" A map is grey where its range is below {100 * UNIFORM:.0f} % of its mean, or no value is known."
    if len(states) > 1:
        told += " Shown first is the map with the largest range."
    return _figure(items, states, names, kinds, start, told, _bar(states[start]))


def changes(
    items: Sequence[Mapping[str, object]],
    covers: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    views: Sequence[str],
    classes: Mapping[str, str],
    truth_name: str = "masks",
) -> Html:
    """Lay what a model says before and after a change over the pictures, and what the change has fixed and broken.

    Args:
        items: P pictures, as for `explore`.
        covers: Of each picture (V, H, W) the number of a class in each pixel, -1 for none, in the order of the change: the first
            is before it, the last is after it.
        truth: Of each picture (H, W), the right class; where it is -1 nothing is right or wrong.
        views: V names, as in `round 0`.
        classes: Name of each class → its colour.
        truth_name: What the right classes are called.

    Raises:
        DataError: Fewer than two views, or arrays that do not fit each other.
    """
    views, paint = list(map(str, views)), np.array([mpl.colors.to_rgb(colour) for colour in classes.values()])
    fit = len(covers) == len(truth) == len(items) > 0 and len(views) > 1
    if not fit or any(np.shape(c) != (len(views), *np.shape(t)) for c, t in zip(covers, truth, strict=True)):
        shapes = ", ".join(str(np.shape(cover)) for cover in covers)
        raise DataError(
            f"{len(items)} pictures, {len(views)} views, covers {shapes}: expected (views, H, W) and (H, W) for each"
        )
    states, moved = [], []
    for cover, right in zip(map(np.asarray, covers), map(np.asarray, truth), strict=True):
        state, share = _of_changes(cover[0], cover[-1], right, (views[0], views[-1]))
        moved.append(share)
        states += [state, *(_of_classes(c, right, name, classes, paint) for name, c in zip(views, cover, strict=True))]
        states.append(_of_classes(right, None, truth_name, classes, paint))
    marks = (
        f"fixed: wrong in {views[0]}, right in {views[-1]}",
        f"broken, in stripes: right in {views[0]}, wrong in {views[-1]}",
    )
    legends = [
        [(_striped(np.full((6, 6), mark), 4), name) for mark, name in enumerate(marks, 1)],
        [(np.full((1, 1, 3), np.round(255 * colour), np.uint8), name) for colour, name in zip(paint, classes, strict=True)],
    ]
    key = "".join(_legend(entries, shown=not number) for number, entries in enumerate(legends))
    every = [[""], ["fixed and broken", *views, truth_name]]
    start = int(np.argmax(moved)) * len(every[1])
    told = f"Shown first is what changed from {views[0]} to {views[-1]}{', in the picture where most did' * (len(items) > 1)}."
    return _figure(items, states, every, ("", "what lies over the picture"), start, told, key)


def _of_values(
    grid: np.ndarray, unit: str, names: tuple[str, str], note: str, limits: tuple[float, float] | None
) -> tuple[State, float]:
    """One map of values as a state, and its range; that of a uniform map counts as nothing."""
    known = np.isfinite(grid)
    if not known.any():
        grey = _png(np.full((*grid.shape, 3), GREY, np.uint8))
        return State(grey, "", _sentence(names, "no value is known", note), "unknown", "", "", True, _box(grid)), 0.0
    low, high, mean = grid[known].min(), grid[known].max(), grid[known].mean()
    uniform = high - low <= UNIFORM * abs(mean)
    write, about = _writer(high - low, unit), _writer(abs(mean) if uniform else (high - low) / 10, unit)
    bottom, top, box = *(limits or (low, high)), _box(grid)
    shares = (np.where(known, grid, bottom) - bottom) / max(top - bottom, np.finfo(float).tiny)
    colours = (255 * mpl.colormaps[SEQUENTIAL](np.round(250 * shares) / 250)[..., :3]).astype(np.uint8)
    colours[~known | uniform] = GREY
    between = f"{write(low, False)} to {write(high)}"
    if uniform:
        told = f"uniform, {about(mean)} in the mean and a range below {100 * UNIFORM:.0f} % of it, so that it is shown grey"
        said, short = _sentence(names, told, note), f"uniform, {about(mean)}"
        return State(_png(colours), "", said, short, about(low), about(high), True, box), 0.0
    told = f"{between}, mean {about(mean)}; highest {_where(np.where(known, grid, -np.inf))}"
    path = _outline(known & (grid > (bottom + top) / 2))
    ends = (write(low), write(high)) if limits is None else tuple(f"{_signed(end)} {unit}".strip() for end in limits)
    return State(_png(colours), path, _sentence(names, told, note), between, *ends, False, box), float(high - low)


def _of_changes(before: np.ndarray, after: np.ndarray, right: np.ndarray, names: tuple[str, str]) -> tuple[State, float]:
    """What a change fixed and broke, and the share of pixels that are either."""
    was, now, scored = before == right, after == right, right >= 0
    marks = np.where(scored & now & ~was, 1, 0) + np.where(scored & was & ~now, 2, 0)
    fixed, broken = (100 * (marks == mark).sum() / max(scored.sum(), 1) for mark in (1, 2))
    said = (
        f"From {names[0]} to {names[1]}: {fixed:.0f} % of the pixels are fixed (blue), {broken:.0f} % broken (orange stripes)."
    )
    png = _png(_striped(marks, max(400 // max(marks.shape), 1)))
    return State(
        png, _outline(marks > 0), said, f"{fixed:.0f} % fixed, {broken:.0f} % broken", "", "", False, _box(marks)
    ), fixed + broken


def _of_classes(
    cover: np.ndarray, right: np.ndarray | None, name: str, classes: Mapping[str, str], paint: np.ndarray
) -> State:
    """The classes of each pixel in their colours, and how many are right if `right` is given."""
    colours = np.zeros((*cover.shape, 4), np.uint8)
    colours[cover >= 0] = np.concatenate([255 * paint[cover[cover >= 0]], np.full(((cover >= 0).sum(), 1), 255)], axis=1)
    shares = ", ".join(f"{100 * (cover == number).mean():.0f} % {one}" for number, one in enumerate(classes))
    short = "" if right is None else f"{100 * (cover == right)[right >= 0].mean():.0f} % right" if (right >= 0).any() else ""
    said = f"{name}: {shares}" + f"; {short}" * bool(short) + "."
    return State(_png(colours), "", said, short, "", "", False, _box(cover), 1)


def _figure(
    items: Sequence[Mapping[str, object]],
    states: Sequence[State],
    names: Sequence[Sequence[str]],
    kinds: tuple[str, str],
    start: int,
    told: str,
    key: str,
) -> Html:
    """The picture with the first map, buttons for pictures, texts and views, and all maps for the script."""
    shape = (len(items), *map(len, names))
    place = [int(part) for part in np.unravel_index(start, shape)]
    first, of_views = states[start], states[start - place[2] : start - place[2] + shape[2]]
    bases = "".join(_base(number, item, number == place[0]) for number, item in enumerate(items))
    line = f'<path d="{first.path}"/>'  # twice: white on black can be seen on anything
    drawing = f'<svg viewBox="{first.box}" preserveAspectRatio="none" aria-hidden="true">{line}{line}</svg>'
    stage = f'<div class="rsvlm-stage">{bases}<img class="dark-light rsvlm-over{" rsvlm-grey" * first.grey}" alt="{escape(first.said)}" '
    stage += f'src="{_uri(first.png)}">{drawing}</div><p class="rsvlm-said" aria-live="polite">{escape(first.said)}</p>'
    stage += '<label class="rsvlm-opacity">opacity of the map<input type="range" name="opacity" min="0" max="100" value="50"></label>'
    smalls = [f'<img class="dark-light" alt="" src="{_uri(one.png)}">' for one in of_views]
    small = [
        f"{image}<span>{escape(name)}</span><small>{escape(s.short)}</small>"
        for image, name, s in zip(smalls, names[1], of_views)
    ]
    pictures = [escape(str(item.get("name") or f"picture {number}")) for number, item in enumerate(items, 1)]
    groups = [
        _buttons("picture", "picture", pictures, place[0]),
        _buttons("text", kinds[0], list(map(escape, names[0])), place[1]),
        _buttons("view", kinds[1], small, place[2]),
    ]
    held = json.dumps({"texts": shape[1], "views": shape[2], "states": list(map(asdict, states))})
    words = scale.in_words([item.get("ground") for item in items])
    quiet = f"{markup.stylesheet('attention_off.css')}<p>{escape(first.said)} To choose another map needs scripts.</p>"
    return Html(
        f'{markup.stylesheet("attention.css")}<form class="rsvlm-attention" autocomplete="off" onsubmit="return false" '
        f'oninput="{markup.handler("attention.js", "show(this)")}" data-figure="{escape(held)}">{groups[0]}'
        f'<div class="rsvlm-pair-of"><div>{stage}<div class="rsvlm-key">{key}</div>{groups[1]}</div><div>{groups[2]}</div></div>'
        f"<noscript>{quiet}</noscript><p class='rsvlm-told'>{escape(' '.join(filter(None, (told, words))))}</p></form>"
    )


def _base(number: int, item: Mapping[str, object], shown: bool) -> str:
    """A picture below its maps, with its bar."""
    if item.get("image") is None or not str(item.get("alt") or "").strip():
        raise DataError(f"picture {number} needs an 'image' and an 'alt' that says what it shows")
    image = item["image"] if isinstance(item["image"], Image.Image) else Image.fromarray(np.asarray(item["image"]))
    image = image.convert("RGB")
    image.thumbnail((840, 840), Image.Resampling.LANCZOS)  # twice what the page gives it: sharp on dense screens
    source = markup.data_uri("webp", markup.webp(image, quality=85))
    hidden = "" if shown else " hidden"
    return f'<div{hidden}><img class="dark-light" alt="{escape(str(item["alt"]))}" src="{source}">{scale.bar(item.get("ground"))}</div>'


def _buttons(name: str, legend: str, labels: Sequence[str], chosen: int) -> str:
    """A group of buttons of which one is chosen, each label HTML; nothing where there is no choice."""
    if len(labels) < 2:
        return ""
    marks = [" checked" if number == chosen else "" for number in range(len(labels))]
    inputs = (
        f'<label><input type="radio" name="{name}" value="{n}"{mark}><span>{label}</span></label>'
        for n, (label, mark) in enumerate(zip(labels, marks, strict=True))
    )
    return f'<fieldset class="rsvlm-{name}s"><legend>{escape(legend)}</legend>{"".join(inputs)}</fieldset>'


def _bar(state: State) -> str:
    """The colours from low to high with the values of their ends."""
    stops = ", ".join(mpl.colors.to_hex(mpl.colormaps[SEQUENTIAL](share)) for share in np.linspace(0, 1, 9))
    grey = " rsvlm-grey" * state.grey
    return (
        f'<div class="rsvlm-bar"><span>{escape(state.low)}</span><i class="rsvlm-colours{grey}" style="--rsvlm-colours: {stops}"></i>'
        f"<span>{escape(state.high)}</span></div>"
    )


def _legend(entries: Sequence[tuple[np.ndarray, str]], shown: bool) -> str:
    """Colours, each as a small image, and what they mean."""
    marks = (f'<li><img class="dark-light" alt="" src="{_uri(_png(mark))}">{escape(name)}</li>' for mark, name in entries)
    return f"<ul{'' if shown else ' hidden'}>{''.join(marks)}</ul>"


def _sentence(names: tuple[str, str], told: str, note: str) -> str:
    text, view = names
    return ", ".join(filter(None, (f"“{text}”" * bool(text), view))) + ": " * any(names) + told + "." + f" {note}" * bool(note)


def _writer(span: float, unit: str) -> Callable[..., str]:
    """How values are written whose range is `span`: with as many decimals as tell them apart."""
    decimals = min(max(1 - math.floor(math.log10(span)), 0), 6) if span > 0 else 1
    tail = f" {unit}" if unit else ""
    return lambda value, whole=True: f"{value:.{decimals}f}".replace("-", "−") + tail * whole


def _signed(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _where(grid: np.ndarray) -> str:
    """Where the largest value lies, as one of nine parts of the picture."""
    row, column = np.unravel_index(int(grid.argmax()), grid.shape)
    down = ("at the top", "in the middle", "at the bottom")[3 * int(row) // grid.shape[0]]
    across = ("left", "", "right")[3 * int(column) // grid.shape[1]]
    return f"{down} {across}".strip()


def _outline(inside: np.ndarray) -> str:
    """The edges between the cells that are inside and those that are not, as a path of SVG; straight edges are one line each."""
    padded = np.pad(inside, 1)
    parts = []
    for turned in (False, True):
        grid = padded.T if turned else padded
        edges = grid[1:, 1:-1] != grid[:-1, 1:-1]  # (lines between rows, columns)
        for line, row in enumerate(edges):
            ends = np.flatnonzero(np.diff(np.pad(row.astype(np.int8), 1)))
            for begin, end in ends.reshape(-1, 2).tolist():
                parts.append(f"M{line} {begin}V{end}" if turned else f"M{begin} {line}H{end}")
    return "".join(parts)


def _box(grid: np.ndarray) -> str:
    return f"0 0 {grid.shape[1]} {grid.shape[0]}"


def _striped(marks: np.ndarray, times: int) -> np.ndarray:
    """Marks as colours (H, W, 4), each cell `times` pixels wide: 1 is even, 2 in stripes, all else clear."""
    large = marks.repeat(times, axis=0).repeat(times, axis=1)
    stripe = (np.add.outer(np.arange(large.shape[0]), np.arange(large.shape[1])) // STRIPE_PX) % 2 == 0
    colours = np.zeros((*large.shape, 4), np.uint8)
    for where, colour in ((large == 1, FIXED), ((large == 2) & stripe, BROKEN), ((large == 2) & ~stripe, "#ffffff")):
        colours[where] = (255 * np.array(mpl.colors.to_rgba(colour))).astype(np.uint8)
    return colours


def _png(colours: np.ndarray) -> str:
    """An image of few colours (h, w, 3 or 4) uint8 as a PNG with a palette, in base64."""
    flat = colours.reshape(-1, colours.shape[-1])
    used, indices = np.unique(flat, axis=0, return_inverse=True)
    if len(used) > 256:
        raise DataError(f"an overlay of {len(used)} colours: 256 at most")
    image = Image.fromarray(indices.reshape(colours.shape[:2]).astype(np.uint8), "P")
    image.putpalette(used[:, :3].tobytes())
    clear = {"transparency": used[:, 3].tobytes()} if colours.shape[-1] == 4 else {}
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=True, **clear)
    return markup.data_uri("png", data.getvalue()).partition(",")[2]


def _uri(png: str) -> str:
    return f"data:image/png;base64,{png}"
