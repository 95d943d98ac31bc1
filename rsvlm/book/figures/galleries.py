"""Images in a grid, images with the texts that belong to them, and values painted as images.

All text is text, never markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from rsvlm.book.figures import markup
from rsvlm.book.figures.markup import Html
from rsvlm.book.figures.style import PALETTE, SEQUENTIAL, canvas
from rsvlm.errors import DataError


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
            f'src="{markup.data_uri("webp", markup.webp(image, quality=72))}">{badge}</div>{caption}</figure>'
        )
    return Html(
        markup.stylesheet("gallery.css").replace("160px", f"{thumbnail_px}px")
        + f'<div class="rsvlm-gallery">{"".join(cells)}</div>'
    )


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
    return Html(markup.stylesheet("queries.css") + "".join(blocks))


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
    return Html(markup.stylesheet("queries.css") + "".join(blocks))


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
    return Html(markup.stylesheet("queries.css") + "".join(blocks))


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
    return Html(markup.stylesheet("queries.css") + "".join(blocks))


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


def web_pairs(items: Sequence[Mapping[str, object]], thumbnail_px: int = 160) -> Html:
    """Show pairs of a data set from the web: picture, text, and where it was found, all as text.

    Args:
        items: `{"record", "image"}` each, as from `pairs.look`.
        thumbnail_px: Longest side of a thumbnail, in pixels.
    """
    cells = []
    for item in items:
        record = item["record"]
        caption = markup.plain_text(record["captions"][0])
        cells.append(
            {
                "image": item["image"],
                "alt": caption,
                "caption": f"{caption} — {markup.plain_text(record.get('attribution'))[:80]}",
            }
            | {"badge": f"{record['scores']['overhead']:.2f}"}
        )
    return gallery(cells, thumbnail_px)


def web_rejected(reasons: Sequence[Mapping[str, object]], thumbnail_px: int = 110) -> Html:
    """Show what was rejected, reason by reason: pictures where there are some, else addresses and texts.

    Args:
        reasons: `rejected` of what `pairs.look` returned.
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
                "alt": f"Rejected picture: {markup.plain_text(e.get('text')) or 'no text'}",
                "caption": markup.plain_text(e.get("text")),
            }
            | ({"badge": f"{e['overhead']:.2f}"} if e.get("overhead") else {})
            for e in with_picture
        ]
        shown = (gallery(items, thumbnail_px) if items else "") + (f"<ul>{lines}</ul>" if lines else "")
        title = f"{entry['stage']}: {str(entry['reason']).replace('_', ' ')} ({entry['count']:,})"
        about = f"<p>{escape(markup.plain_text(entry.get('meaning')))}</p>" if entry.get("meaning") else ""
        blocks.append(f"<details><summary>{escape(markup.plain_text(title))}</summary>{about}{shown}</details>")
    return Html(markup.stylesheet("web.css") + f'<div class="rsvlm-web">{"".join(blocks)}</div>')


def _web_line(example: Mapping[str, object]) -> str:
    text = escape(markup.plain_text(example.get("text")))
    return (
        f"<li><span dir=auto>{text}</span><br><code dir=ltr>{escape(markup.plain_text(example.get('url'))[:160])}</code></li>"
    )


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
            captions = [markup.plain_text(text) for text in item.get(f"{side}_captions") or ()]
            texts = "".join(f"<li dir=auto>{escape(text)}</li>" for text in dict.fromkeys(captions))
            image = item.get(f"{side}_image")
            image = gallery([{"image": image, "alt": markup.plain_text(shown)}], thumbnail_px) if image is not None else ""
            sides.append(f"<div><b>{escape(markup.plain_text(shown))}</b>{image}<ul>{texts}</ul></div>")
        turn, bits = int(item["turn"]), float(item["distance"])
        moved = [*(["mirrored"] if turn >= 4 else []), *([f"turned by {90 * (turn % 4)}°"] if turn > 0 and turn % 4 else [])]
        how = f"{bits:.0f} bits" if turn >= 0 else f"1 - Jaccard {bits:.2f}"
        told = ", ".join([str(item["reason"]), how, *moved])
        blocks.append(f"<p>{escape(told)}</p><div class='rsvlm-leak'>{''.join(sides)}</div>")
    return Html(
        markup.stylesheet("leakage.css")
        + markup.stylesheet("web.css")
        + f'<div class="rsvlm-web">{"".join(blocks) or "<p>None.</p>"}</div>'
    )
