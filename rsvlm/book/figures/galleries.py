"""Images in a grid, images with the texts that belong to them, and values painted as images.

All text is text, never markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from rsvlm.book.figures import markup, scale, strips, wording
from rsvlm.book.figures.markup import Html
from rsvlm.book.figures.style import PALETTE, SEQUENTIAL, canvas, for_phones
from rsvlm.errors import DataError


def gallery(items: Sequence[Mapping[str, object]], thumbnail_px: int = 160, whole: bool = False) -> Html:
    """Lay images out in a grid that fits a phone as well as a desk.

    Args:
        items: One mapping per image: `image` (a PIL image, or `[H W 3]` uint8), `alt` (what it shows), and, where wanted,
            `caption` (text below), `badge` (a few letters in the corner: a rank, a score) and `ground` (the record of the picture,
            from which `scale` makes a bar on it, and a sentence below the grid) and `gain` (what the page multiplies the brightness by,
            as `strips.gain` has it; who looks is to be told).
        thumbnail_px: Longest side of a thumbnail, in pixels.
        whole: Show images in their own shape, in place of the square in their middle.

    Returns:
        A self-contained grid; captions are text, never markup.

    Raises:
        DataError: An item without an image or without alternative text.
    """
    words = _ground([item.get("ground") for item in items])
    return Html(markup.stylesheet("gallery.css") + _grid(items, thumbnail_px, whole) + words)


def _ground(records: Sequence[Mapping | None]) -> str:
    """How much ground pixels and pictures are, as a line below them."""
    words = scale.in_words(records)
    return f'<p class="rsvlm-ground">{words}</p>' if words else ""


def _grid(items: Sequence[Mapping[str, object]], thumbnail_px: int, whole: bool = False) -> str:
    """The grid of `gallery` alone."""
    cells = []
    for index, item in enumerate(items):
        if item.get("image") is None or not str(item.get("alt") or "").strip():
            raise DataError(f"gallery item {index} needs an 'image' and an 'alt' that says what it shows")
        picture = markup.thumbnail(
            item["image"], str(item["alt"]), 2 * thumbnail_px, float(item.get("gain") or 1)
        )  # twice: dense screens
        badge = f'<span class="rsvlm-badge">{escape(str(item["badge"]))}</span>' if item.get("badge") is not None else ""
        caption = f"<figcaption>{escape(str(item['caption']))}</figcaption>" if item.get("caption") else ""
        cells.append(f"<figure><div>{picture}{badge}{scale.bar(item.get('ground'))}</div>{caption}</figure>")
    kind = "rsvlm-gallery rsvlm-whole" if whole else "rsvlm-gallery"
    return f'<div class="{kind}" style="--rsvlm-side: {thumbnail_px}px">{"".join(cells)}</div>'


def text_to_image(queries: Sequence[Mapping[str, object]]) -> Html:
    """Queries with the pictures that answer them in one row, best first; behind a gap, the right one with its rank.

    Args:
        queries: `{query, images}`, where wanted with `note` (said behind the query), `kind` and `reason` (a line above the row), `spans`
            and `changes` (as in `reading.Importance`: the query's words are shaded by what they are worth) and `right_one`. Each of
            the images is `{image, alt}`, with `right` where it answers the query, `overlaps` where it shows some of the ground of the
            right one, `score` (drawn as a bar, from 0 to the highest of the figure) and `ground`, the record, as for `gallery`; `image`
            is (H, W, 3) uint8. `right_one` is such an image with its `rank`; it is drawn if it is not in the row, and its rank is told
            if it is.

    Raises:
        DataError: A picture has no alternative text, or a rank does not fit to the row.
    """
    return Html(strips.strips(queries))


def image_to_text(queries: Sequence[Mapping[str, object]]) -> Html:
    """Images with the captions that answer them, best first, and always the right one with its rank.

    Of a wrong caption, the words that the right one does not have at their place are marked, and those that it has are dimmed; of the
    right one, the words that the first answer lacks.

    Args:
        queries: `{image, alt, captions}` and, where wanted, `note`, `ground` and `right_one`; `captions` is a list of `{text, right}`,
            `image` is (H, W, 3) uint8. `right_one` is the right caption, `{text, rank}`, which may be one of the captions; without it
            texts stand as they are.
    """
    pairs = []
    for entry in queries:
        right, first = entry.get("right_one"), entry["captions"][0] if entry["captions"] else {}
        lines = []
        for rank, answer in enumerate(entry["captions"], start=1):
            lines.append(
                _caption(answer, rank, right["text"] if right and not answer["right"] else None, "from the right one")
            )
        if right and not any(answer["right"] for answer in entry["captions"]):
            last = {"text": right["text"], "right": True}
            lines.append(
                '<li class="rsvlm-gap" aria-hidden="true">⋯</li>'
                + _caption(last, right["rank"], first.get("text"), "from the first")
            )
        shown = {**entry, "badge": entry.get("note"), "gain": strips.gain(entry["image"])}
        pairs.append((shown, f'<ul class="rsvlm-told">{"".join(lines)}</ul>'))
    return Html(f'{_beside(pairs)}<p class="rsvlm-ground">{strips.ORIGINAL}</p>')


def _caption(answer: Mapping[str, object], rank: int, other: str | None, where: str) -> str:
    """A caption with its rank; against another one, what is not in that one stands out."""
    text, count = (escape(str(answer["text"])), 0) if other is None else wording.differing(str(answer["text"]), str(other))
    kind, mark = (' class="rsvlm-right"', "✓ the right one, ") if answer["right"] else ("", "")
    note = "" if other is None else f", {count} {'word differs' if count == 1 else 'words differ'} {where}"
    return f"<li{kind}><small>{mark}rank {int(rank):,}{note}</small> {text}</li>"


def captions_beside(items: Sequence[Mapping[str, object]]) -> Html:
    """Images with several captions each, every one under the name of where it came from.

    Args:
        items: `{image, alt, captions}`, and perhaps `ground`, with `captions` a mapping of a name to a text; `image` is (H, W, 3)
            uint8.
    """
    pairs = []
    for item in items:
        named = [(escape(str(name)), escape(str(text))) for name, text in dict(item["captions"]).items()]
        pairs.append((item, f"<dl>{''.join(f'<dt>{name}</dt><dd>{text}</dd>' for name, text in named)}</dl>"))
    return _beside(pairs)


def shaded_words(entries: Sequence[Mapping[str, object]]) -> Html:
    """Sentences whose words are shaded by how much a search loses without them, each with its number below.

    A word that helps stands on orange over a solid line, one that hinders on blue over a dotted line; words that change less than a
    tenth of what the most important one does have neither. The shade is even over all sentences of the figure.

    Args:
        entries: `{text, spans, changes}` as in `reading.Importance`, with `spans` the (start, end) of each word of the text and
            `changes` what the cosine loses without it; where wanted `note`, said behind the sentence, and `image` with its `alt`
            and perhaps `ground`, as for `gallery`.

    Raises:
        DataError: Spans are not in order, or there is not one change for each.
    """
    largest = max((abs(float(change)) for entry in entries for change in entry["changes"]), default=0.0)
    ground = _ground([entry.get("ground") for entry in entries if entry.get("image") is not None])
    blocks = []
    for entry in entries:
        text = wording.shaded(str(entry["text"]), entry["spans"], entry["changes"], largest)
        note = f' <span class="rsvlm-note">{escape(str(entry["note"]))}</span>' if entry.get("note") else ""
        line = f"<p>{text}{note}</p>"
        blocks.append(line if entry.get("image") is None else _beside([(entry, f"<div>{line}</div>")], told=False))
    legend = (
        '<p class="rsvlm-legend"><ruby class="rsvlm-more" style="--rsvlm-worth: .5">orange, solid line<rt>+</rt></ruby> the search '
        'loses without the word; <ruby class="rsvlm-less" style="--rsvlm-worth: .5">blue, dotted line<rt>−</rt></ruby> it gains; '
        "below, in thousandths, what the word adds to the cosine; neither line: hardly anything.</p>"
    )
    styles = markup.stylesheet("queries.css") + markup.stylesheet("words.css")
    return Html(f'{styles}<div class="rsvlm-words">{"".join(blocks)}{legend}{ground}</div>')


def _beside(pairs: Sequence[tuple[Mapping[str, object], str]], told: bool = True) -> Html:
    """Images (`image`, `alt`, perhaps `badge` and `ground`), each with HTML beside it; below, if `told`, how much ground they show."""
    blocks = []
    for item, html in pairs:
        picture = _grid([{name: item.get(name) for name in ("image", "alt", "badge", "ground", "gain")}], thumbnail_px=150)
        blocks.append(f'<div class="rsvlm-pair"><div>{picture}</div>{html}</div>')
    words = _ground([item.get("ground") for item, _ in pairs]) if told else ""
    return Html(markup.stylesheet("gallery.css") + markup.stylesheet("queries.css") + "".join(blocks) + words)


def chip_matches(rows: Sequence[Mapping[str, object]], pictures: Sequence[np.ndarray | None]) -> Html:
    """Chips of an index that answer texts, best first.

    Args:
        rows: `{text, rank, score, key, lon, lat}`, and perhaps `gsd_m` and `size_px`, those of one text together.
        pictures: Of each row (S, S, 3) uint8, or None where it cannot be shown.
    """
    queries: dict[str, list] = {}
    for row, image in zip(rows, pictures, strict=True):
        about = f"{scale.place(row)}, cosine {row['score']:.3f}".lstrip(", ")
        shown = np.zeros((8, 8, 3), np.uint8) if image is None else image
        text = str(row["text"])
        alt = f"Answer {row['rank']} to “{text}”: {scale.described(row)}"
        cell = {"image": shown, "alt": alt, "badge": row["rank"], "caption": f"{about} ({row['key']})", "ground": row}
        queries.setdefault(text, []).append(cell)
    titles = (f'<p class="rsvlm-query">“{escape(text)}”</p>' for text in queries)
    grids = (gallery(cells, thumbnail_px=150) for cells in queries.values())
    return Html(markup.stylesheet("queries.css") + "".join(map(str.__add__, titles, grids)))


def chips_beside(answers: Mapping[str, tuple[Sequence[Mapping[str, object]], Sequence[np.ndarray | None]]]) -> Html:
    """Lay the chips with which several models answer the same queries side by side: a row for each query, a column for each model.

    Args:
        answers: By what to call the model, rows and pictures as for `chip_matches`.
    """
    blocks = []
    for text in dict.fromkeys(row["text"] for rows, _ in answers.values() for row in rows):
        columns = ""
        for name, (rows, pictures) in answers.items():
            cells = []
            for row, image in zip(rows, pictures, strict=True):
                if row["text"] == text:
                    place = f"{scale.place(row)}: {row['score']:.2f}".lstrip(": ")
                    shown = np.zeros((8, 8, 3), np.uint8) if image is None else image
                    alt = f"Answer {row['rank']} of {name} to “{text}”: {scale.described(row)}"
                    cells.append({"image": shown, "alt": alt, "badge": row["rank"], "caption": place, "ground": row})
            columns += f"<div><p>{escape(str(name))}</p>{gallery(cells, thumbnail_px=90)}</div>"
        blocks.append(f'<p class="rsvlm-query">“{escape(str(text))}”</p><div class="rsvlm-columns">{columns}</div>')
    return Html(markup.stylesheet("queries.css") + "".join(blocks))


def scenes_beside(answers: Mapping[str, object]) -> Html:
    """Lay the answers of several models for one scene side by side: for each text the scene, and a map of confidence of each model.

    Args:
        answers: `search.scene.SearchResult`s of one scene and the same texts, by what to call them.
    """
    first = next(iter(answers.values()))
    what = f"The scene that is searched, “{first.facts['scene']}”"
    scene = {"image": first.image, "alt": what}
    told_once = {"caption": f"{what}. Beside it, confidence 0 is dark and 1 yellow; grey: no data"}
    blocks = []
    for number, text in enumerate(row["text"] for row in first.facts["texts"]):
        cells = [scene | told_once if number == 0 else scene]
        for name, answer in answers.items():
            row = answer.facts["texts"][number]
            share = 100 * row["share_of_area"]
            regions = "1 region" if row["regions"] == 1 else f"{row['regions']:,} regions"
            told = f"{regions}, {share:.1f} % of the ground; highest confidence {row['highest_confidence']:.2f}"
            heat = heat_image(answer.heat[number], side_px=2 * 240)
            cells.append({"image": heat, "alt": f"{name}: confidence of “{text}”: {told}", "caption": f"{name}: {told}"})
        blocks.append(f'<p class="rsvlm-query">“{escape(text)}”</p>{gallery(cells, thumbnail_px=240, whole=True)}')
    return Html(markup.stylesheet("queries.css") + "".join(blocks))


@for_phones
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
    colours = _coloured((np.where(known, heat, low) - low) / max(high - low, np.finfo(float).tiny))
    colours[~known] = 150
    times = max(side_px // max(heat.shape), 1)
    return colours.repeat(times, axis=0).repeat(times, axis=1)


def _coloured(shares: np.ndarray) -> np.ndarray:
    return (255 * mpl.colormaps[SEQUENTIAL](shares)[..., :3]).astype(np.uint8)


def mask_image(image: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Paint what a mask has right (blue), what it has too much (orange) and what it lacks (purple) over a picture in grey.

    Args:
        image: (H, W, 3) uint8.
        predicted: (H, W) bool.
        truth: (H, W) bool.

    Returns:
        (H, W, 3) uint8.
    """
    painted = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    for where, name in ((predicted & truth, "blue"), (predicted & ~truth, "orange"), (truth & ~predicted, "purple")):
        painted[where] = 0.35 * painted[where] + 0.65 * 255 * np.array(mpl.colors.to_rgb(PALETTE[name]))
    return painted.astype(np.uint8)


def web_pairs(items: Sequence[Mapping[str, object]]) -> Html:
    """Show pairs of a data set from the web: picture, text, and where it was found, all as text.

    Args:
        items: `{"record", "image"}` each and, where known, `alt`, what the picture shows; without it, its text, true or not, stands in.
    """
    cells = []
    for item in items:
        record = item["record"]
        text = markup.plain_text(record["captions"][0])
        caption = f"{text} — {markup.plain_text(record.get('attribution'))[:80]}"
        badge = f"{record['scores']['overhead']:.2f}"
        cells.append({"image": item["image"], "alt": item.get("alt") or text, "caption": caption, "badge": badge})
    return gallery(cells)


def web_rejected(reasons: Sequence[Mapping[str, object]]) -> Html:
    """Show what was rejected, reason by reason: pictures where there are some, else addresses and texts.

    Args:
        reasons: Reasons, as `rejected` from `pairs.look`.

    Returns:
        Blocks that open and close; texts of the web are text, never markup, and no address is a link.
    """
    blocks = []
    for entry in reasons:
        items, lines = [], ""
        for example in entry["examples"]:
            text = markup.plain_text(example.get("text"))
            if example.get("image") is not None:
                badge = f"{example['overhead']:.2f}" if example.get("overhead") else None
                alt = f"Rejected picture: {text or 'no text'}"
                items.append({"image": example["image"], "alt": alt, "caption": text, "badge": badge})
            else:
                url = escape(markup.plain_text(example.get("url"))[:160])
                lines += f"<li><span dir=auto>{escape(text)}</span><br><code dir=ltr>{url}</code></li>"
        shown = (gallery(items, thumbnail_px=110) if items else "") + (f"<ul>{lines}</ul>" if lines else "")
        title = f"{entry['stage']}: {str(entry['reason']).replace('_', ' ')} ({entry['count']:,})"
        about = f"<p>{escape(markup.plain_text(entry.get('meaning')))}</p>" if entry.get("meaning") else ""
        blocks.append(f"<details><summary>{escape(markup.plain_text(title))}</summary>{about}{shown}</details>")
    return Html(markup.stylesheet("web.css") + f'<div class="rsvlm-web">{"".join(blocks)}</div>')


def leakage_pairs(items: Sequence[Mapping[str, object]]) -> Html:
    """Show pairs of a training set and a benchmark side by side, each with the reason that makes it a pair.

    Args:
        items: As from `leakage.look`: `train_set train_key benchmark benchmark_key reason distance turn`, `train_image` and
            `benchmark_image` (pictures or None), `train_captions` and `benchmark_captions` (texts or None).

    Returns:
        A block without scripts; names and captions are text, never markup.
    """
    blocks = []
    for item in items:
        sides = []
        for side, name in (("train", item["train_set"]), ("benchmark", item["benchmark"])):
            shown = markup.plain_text(f"{name}: {item[f'{side}_key']}")
            captions = [markup.plain_text(text) for text in item.get(f"{side}_captions") or ()]
            texts = "".join(f"<li dir=auto>{escape(text)}</li>" for text in dict.fromkeys(captions))
            image = item.get(f"{side}_image")
            picture = "" if image is None else gallery([{"image": image, "alt": shown}])
            sides.append(f"<div><b>{escape(shown)}</b>{picture}<ul>{texts}</ul></div>")
        turn, bits = int(item["turn"]), float(item["distance"])
        why = f"{item['reason']}, " + (f"{bits:.0f} bits" if turn >= 0 else f"1 - Jaccard {bits:.2f}")
        why += ", mirrored" * (turn >= 4) + f", turned by {90 * (turn % 4)}°" * (turn > 0 and turn % 4 > 0)
        blocks.append(f"<p>{escape(why)}</p><div class='rsvlm-leak'>{''.join(sides)}</div>")
    styles = markup.stylesheet("leakage.css") + markup.stylesheet("web.css")
    return Html(f'{styles}<div class="rsvlm-web">{"".join(blocks) or "<p>None.</p>"}</div>')
