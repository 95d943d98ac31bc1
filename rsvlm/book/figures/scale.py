"""How large is what a picture shows, and where is it: in words, and as a bar on it, from the picture's own record.

A record that tells its resolution and its side in pixels, `gsd_m` and `size_px` as the shards have them, tells how large; one that tells
its centre or its corners, `lon` and `lat` or `footprint_lonlat`, tells where. Of any other nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

LONGEST_BAR = 0.4
"""Share of a picture's side that its bar takes at most."""


def ground(record: Mapping | None) -> tuple[float, float] | None:
    """Return metres to a pixel and to the side of the picture, or None where the record does not tell them."""
    try:
        gsd_m, size_px = float((record or {})["gsd_m"]), float((record or {})["size_px"])
    except (KeyError, TypeError, ValueError):
        return None
    known = math.isfinite(gsd_m) and math.isfinite(size_px) and gsd_m > 0 and size_px > 0
    return (gsd_m, gsd_m * size_px) if known else None


def length(metres: float) -> str:
    """Write a length with its unit: 10 cm, 4.8 m, 30 m, 1.9 km, 474 km."""
    for unit, size in (("km", 1000.0), ("m", 1.0), ("cm", 0.01)):
        if metres >= 0.9995 * size or unit == "cm":
            value = metres / size
            return f"{value:.1f}".removesuffix(".0") + f" {unit}" if value < 9.95 else f"{value:,.0f} {unit}"
    raise AssertionError


def in_words(records: Iterable[Mapping | None]) -> str:
    """Say how much ground a pixel and a picture are, in one sentence; nothing where no record tells it."""
    known = [pair for record in records if (pair := ground(record))]
    if not known:
        return ""
    pixel, side = (dict.fromkeys((length(min(part)), length(max(part)))) for part in zip(*known, strict=True))
    return f"One pixel is {' to '.join(pixel)}; a picture is {' to '.join(side)} wide."


def bar(record: Mapping | None) -> str:
    """Return a bar of a round length, as HTML to lie on the picture; empty where the record does not tell its ground."""
    pair = ground(record)
    if pair is None:
        return ""
    most = LONGEST_BAR * pair[1]
    power = 10.0 ** math.floor(math.log10(most))
    metres = max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))
    return f'<span class="rsvlm-scale" style="--rsvlm-length: {100 * metres / pair[1]:.1f}%">{length(metres)}</span>'


def place(record: Mapping | None) -> str:
    """Write where a picture is, as exactly as its size asks for: 12° S 60° W; empty where the record does not tell it."""
    record = record or {}
    try:
        lon, lat = float(record["lon"]), float(record["lat"])
    except (KeyError, TypeError, ValueError):
        try:
            west, south, east, north = map(float, record["footprint_lonlat"])
        except (KeyError, TypeError, ValueError):
            return ""
        lon, lat = (west + east + 360 * (east < west)) / 2, (south + north) / 2
    if not (math.isfinite(lon) and abs(lat) <= 90):
        return ""
    side_m = (ground(record) or (0.0, 10_000.0))[1]
    digits = min(max(math.ceil(math.log10(100_000 / side_m)), 0), 5)  # a degree is about 111 km
    parts = []
    for value, (more, less) in ((lat, "NS"), ((lon + 180) % 360 - 180, "EW")):
        shown = f"{abs(value):.{digits}f}°"
        parts.append(shown if not float(shown[:-1]) else f"{shown} {more if value > 0 else less}")
    return " ".join(parts)


def described(record: Mapping | None) -> str:
    """Say what is to be seen on a chip, for those who cannot see it: where it is, and its shortest caption.

    Args:
        record: Record of the chip, with its `captions`.
    """
    captions = [text.strip() for text in map(str, (record or {}).get("captions") or ()) if text.strip()]
    where, what = place(record), min(captions, key=len, default="").rstrip(".")
    return f"Chip{f' near {where}' if where else ''}{f': {what}' if what else ''}"
