"""The retrieval strip: a sentence, the pictures that answer it in one row and, apart from them, always the right one with its rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from rsvlm.book.figures import markup, scale, wording
from rsvlm.errors import DataError

LONGEST_PX = 220
"""Longest side of a picture as it is stored: twice what is shown, for dense screens."""

LEAST = 0.25
"""Share of the most important word's worth that shades a word: without numbers, faint shades say nothing."""

ORIGINAL = "Pictures are brightened for display; the model sees the original, and so do you when you point at one."


def gain(image: object, target: int = 220, most: float = 3.0) -> float:
    """Return what to multiply a picture's brightness by, so that all but its brightest hundredth is below `target` of 255.

    Args:
        image: A PIL image, or (H, W, 3) uint8.
        target: Brightness that the brightest of the rest gets.
        most: Limit, above which noise is all that would be seen. Nothing is made darker.
    """
    bright = np.percentile(np.asarray(image).reshape(-1, np.asarray(image).shape[-1])[:, :3].max(axis=1), 99)
    return float(np.clip(target / max(bright, 1), 1, most))


def strips(queries: Sequence[Mapping[str, object]]) -> str:
    """Lay out one strip for each query; what the entries hold is said in `galleries.text_to_image`."""
    cells = [cell for entry in queries for cell in (*entry["images"], entry.get("right_one") or {})]
    scores = [float(cell["score"]) for cell in cells if cell.get("score") is not None]
    highest = max(scores, default=0.0)
    largest = max((abs(float(change)) for entry in queries for change in entry.get("changes", ())), default=0.0)
    columns = max((len(entry["images"]) for entry in queries), default=1)
    apart = any(entry.get("right_one") for entry in queries)
    kinds = f"2.6fr {columns}fr" + " 1.5rem 1fr" * apart
    rows = "".join(_strip(entry, highest, largest) for entry in queries)
    legend = _legend(cells, scores, highest, any(len(entry.get("spans", ())) for entry in queries))
    styles = "".join(map(markup.stylesheet, ("gallery.css", "queries.css", "words.css", "strips.css")))
    return (
        f'{styles}<div class="rsvlm-strips" style="--rsvlm-columns: {kinds}; --rsvlm-answers: {columns}">{rows}{legend}</div>'
    )


def _strip(entry: Mapping[str, object], highest: float, largest: float) -> str:
    """One query with its answers and, if `right_one` tells it, the right one."""
    images, right = list(entry["images"]), entry.get("right_one")
    text = str(entry["query"])
    asked = (
        wording.shaded(text, entry["spans"], entry["changes"], largest, numbers=False, least=LEAST)
        if "spans" in entry
        else escape(text)
    )
    note = f' <span class="rsvlm-note">{escape(str(entry["note"]))}</span>' if entry.get("note") else ""
    head = [f"<b>{escape(str(entry['kind']))}</b>"] if entry.get("kind") else []
    head += [escape(str(entry["reason"]))] if entry.get("reason") else []
    above = f'<p class="rsvlm-kind">{": ".join(head)}</p>' if head else ""
    answers = "".join(f"<li>{_answer(answer, rank, highest)}</li>" for rank, answer in enumerate(images, start=1))
    return (
        f'<section>{above}<div class="rsvlm-strip">'
        f'<p class="rsvlm-asked">“{asked}”{note}</p><ol class="rsvlm-answers">{answers}</ol>'
        f"{_right_one(right, images, highest) if right else ''}</div></section>"
    )


def _right_one(right: Mapping[str, object], images: Sequence[Mapping[str, object]], highest: float) -> str:
    """The right one behind a gap, or where it stands in the row."""
    rank = int(right["rank"])
    name = "the right one" if sum(bool(answer.get("right")) for answer in images) < 2 else "the first right one"
    place = next((number for number, answer in enumerate(images, start=1) if answer.get("right")), None)
    if place is None and rank <= len(images) or place is not None and rank < place:
        raise DataError(f"the right one has rank {rank}, and stands at place {place} of {len(images)}: expected it in the row")
    if place is not None:
        return f'<div class="rsvlm-apart"><p>{name}:<br><b>rank {rank:,}</b>, in the row</p></div>'
    said = f"<p>the right one, <b>rank {rank:,}</b></p>"
    return f'<div class="rsvlm-apart">{_answer({**right, "right": True}, rank, highest, said)}</div>'


def _answer(answer: Mapping[str, object], rank: int, highest: float, said: str = "") -> str:
    """A picture in its frame, and below it what is known of it."""
    if answer.get("image") is None or not str(answer.get("alt") or "").strip():
        raise DataError(f"answer {rank} needs an 'image' and an 'alt' that says what it shows")
    right, overlaps = bool(answer.get("right")), bool(answer.get("overlaps"))
    kind, told = ("right", ", right") if right else ("overlaps", ", overlaps the right one") if overlaps else ("other", "")
    picture = markup.thumbnail(answer["image"], f"{answer['alt']}, rank {rank}{told}", LONGEST_PX, gain(answer["image"]))
    badge = f'<span class="rsvlm-badge">{rank:,}{" ✓" if right else ""}</span>'
    where, score = scale.place(answer.get("ground")), answer.get("score")
    where = escape(where).replace("° ", "°\u00a0")  # breaks between the two numbers alone
    lines = said + (f"<p>{where}</p>" if where else "")
    if score is not None:
        share = 100 * min(max(float(score) / highest, 0), 1) if highest > 0 else 0
        number = f"{float(score):.2f}".replace("-", "−")
        lines += f'<p class="rsvlm-score" style="--rsvlm-share: {share:.0f}%"><i></i>{number}</p>'
    return (
        f'<div class="rsvlm-answer rsvlm-{kind}"><div class="rsvlm-shown">{picture}{badge}{scale.bar(answer.get("ground"))}</div>'
        f"<div>{lines}</div></div>"
    )


def _legend(cells: Sequence[Mapping[str, object]], scores: Sequence[float], highest: float, shaded: bool) -> str:
    """What frames, bars and shades mean, as far as there are any, and how much ground is shown."""
    lines = []
    if any(cell.get("right") or "rank" in cell for cell in cells):
        lines.append("Green frame: right.")
    if any(cell.get("overlaps") and not cell.get("right") for cell in cells):
        lines.append("Dashed frame: overlaps the right one on the ground.")
    if scores:
        lines.append(f"Bars: cosine, all from 0 to {highest:.2f}.")
    if shaded:
        lines.append(
            'Words: without <span class="rsvlm-more" style="--rsvlm-worth: .5">those on orange, over a solid line</span>, the right one '
            'scores lower; without <span class="rsvlm-less" style="--rsvlm-worth: .5">those on blue, over dots</span>, higher.'
        )
    lines += [ORIGINAL, scale.in_words([cell.get("ground") for cell in cells])]
    return f'<p class="rsvlm-ground rsvlm-legend">{" ".join(filter(None, lines))}</p>'
