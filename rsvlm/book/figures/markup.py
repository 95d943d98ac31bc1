"""HTML that all figures are made of: style sheets and scripts from the files beside, images as data, tables, a page."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from html import escape
from importlib import resources

import numpy as np
from PIL import Image


class Html(str):
    """Text of HTML that a notebook shows as HTML."""

    def _repr_html_(self) -> str:
        return str(self)


def source(name: str) -> str:
    """Return the text of a style sheet or a script that lies beside this file, without lines of comment.

    Args:
        name: Name of the file, as in `slider.js`.
    """
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    comments = r"(?s)/\*.*?\*/\n" if name.endswith(".css") else r"(?m)^ *//.*\n"
    return re.sub(comments, "", text)


def stylesheet(name: str) -> str:
    """Return a style sheet that lies beside this file as the element `<style>`.

    Args:
        name: Name of the file, as in `gallery.css`.
    """
    return f"<style>\n{source(name)}</style>"


def handler(name: str, call: str) -> str:
    """Return a script that lies beside this file as the value of an attribute such as `oninput`.

    Args:
        name: Name of the file, as in `slider.js`.
        call: Call of one of its functions; `this` is the element that has the attribute.
    """
    return escape(f"{source(name)}{call};")


def page(title: str, body: str) -> str:
    """Put a block of HTML into a page of its own, which loads nothing.

    Args:
        title: Its title, text.
        body: HTML, as the figures give it.
    """
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
    head += stylesheet("page.css")
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>{escape(title)}</h1>{body}</body></html>\n'


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; its cells are text, whole numbers with commas.

    Args:
        head: Names of the columns.
        rows: A cell per column.
    """
    cells = "".join(
        "<tr>" + "".join(f"<td>{f'{cell:,}' if isinstance(cell, int) else escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    names = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{cells}</tbody></table>"


def script_json(value: object) -> str:
    """Return a value as JSON that a script can hold."""
    # `<` is escaped, because a script ends at the first `</script` in it, inside a string or not.
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def webp(image: Image.Image, quality: int) -> bytes:
    """Return an image as a WebP file, its quality from 0 to 100."""
    data = io.BytesIO()
    image.save(data, format="WEBP", quality=quality, method=4)
    return data.getvalue()


def thumbnail(image: Image.Image | np.ndarray, alt: str, longest_px: int, gain: float = 1.0) -> str:
    """Return a picture as an element that holds it.

    Args:
        image: A PIL image, or (H, W, 3) uint8.
        alt: What it shows.
        longest_px: Longest side at most; nothing is made larger.
        gain: What the page multiplies its brightness by. The picture itself stays as it is.
    """
    image = (image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))).convert("RGB")
    image.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    style = f' style="--rsvlm-gain: {gain:.2f}"' if gain != 1 else ""
    source = data_uri("webp", webp(image, quality=72))
    return f'<img class="dark-light" loading="lazy" alt="{escape(alt)}" src="{source}"{style}>'


def data_uri(kind: str, data: bytes) -> str:
    """Return the bytes of an image as an address that holds them; `kind` is the part of its type after `image/`."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def plain_text(value: object) -> str:
    """Return text of the web that a page can hold: half characters, which have no bytes, are replaced."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode()
