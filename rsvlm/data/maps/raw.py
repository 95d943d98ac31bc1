"""A feature as a map has it, before anybody asks what it means: shape, flat tags, identity, origin; and texts in any encoding.

Source: our choice, after the forms in which GDAL, geopandas, osmnx, QGIS and the tools of OpenStreetMap write properties.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from rsvlm.data.maps.taxonomy import clean_text

Origin = tuple[str, str, str]
"""Source, licence and attribution."""

OSM = ("OpenStreetMap", "ODbL-1.0", "© OpenStreetMap contributors")
"""Origin of what comes from OpenStreetMap."""

_NO_VALUE = frozenset(("nan", "None", "NaN", "NULL", "null", "<NA>", "<Null>", "NaT"))
_LONGEST_VALUE = 255
_OSM_IDENTITY = re.compile(r"(node|way|relation)/[1-9]\d*")
_KINDS = {"n": "node", "w": "way", "r": "relation", "node": "node", "way": "way", "relation": "relation"}
_NO_TEXT = ("tags", "source_tags", "other_tags", "all_tags")


@dataclass(frozen=True)
class Raw:
    """A feature as a reader found it; category, names and origin are None where its tags, or its map, tell them."""

    geometry: object  # a shapely geometry or None, in degrees of longitude and latitude, as it came
    id: str = ""  # its identity in the map
    tags: dict[str, str] = field(default_factory=dict)  # what the map says of it
    category: str | None = None  # empty where its map says that it is of none
    names: dict[str, str] | None = None  # language code to name, the map's own name under the empty string
    origin: Origin | None = None


Reader = Callable[[Counter], Iterator[Raw]]
"""Reads a map; what it leaves out is counted by reason."""


def tags_of(properties: object) -> dict[str, str]:
    """Make flat text tags of a feature's properties, nested `tags` and GDAL's `other_tags` included.

    Args:
        properties: Any number of columns; empty ones, and what other programs write for empty, give no tag.
    """
    if not isinstance(properties, dict):
        return {}
    tags = {}
    for key, value in properties.items():
        if value is None or value == "":
            continue
        if key in _NO_TEXT:
            for name, cell in _packed(value).items():
                if (label := clean_text(str(name), 60)) and (text := _value(cell)) is not None:
                    tags[label] = text
        elif (text := _value(value)) is not None and (label := clean_text(str(key), 60)):
            if text not in _NO_VALUE or (text == "None" and label.startswith("name")):
                tags[label] = text
    return tags


def _value(value: object) -> str | None:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return None
    return clean_text(value.item() if isinstance(value, np.number) else value, _LONGEST_VALUE)


def _packed(value: object) -> dict:
    """Return tags that stand in one cell: a dictionary, pairs, JSON, or GDAL's `"key"=>"value"`."""
    value = nested(value)
    if isinstance(value, str):
        pairs = re.findall(r'"((?:[^"\\]|\\.)*)"=>"((?:[^"\\]|\\.)*)"', value)
        return {re.sub(r"\\(.)", r"\1", a): re.sub(r"\\(.)", r"\1", b) for a, b in pairs}
    return pairs_of(value)


def pairs_of(value: object) -> dict:
    """Return a dictionary that may be written as pairs, or as a list of `{"key": ..., "value": ...}`; empty where it is none."""
    if isinstance(value, list) and value and all(isinstance(one, dict) and {"key", "value"} <= one.keys() for one in value):
        return {one["key"]: one["value"] for one in value if isinstance(one["key"], str)}
    try:
        return dict(value)
    except (TypeError, ValueError):
        return {}


def nested(value: object) -> object:
    """Return a nested value; one that a program wrote as a text of JSON is read."""
    if isinstance(value, str) and value[:1] in "{[" and value:
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value.tolist() if isinstance(value, np.ndarray) else value


def identity_of(own: object, tags: dict[str, str]) -> str:
    """Return a feature's own identity, as `way/12` where the map says it is one of OpenStreetMap's; empty where it has none.

    Args:
        own: Identity beside the properties, as GeoJSON's `id`. If None, one of the properties may hold it.
        tags: The properties, as `tags_of` gives them.
    """
    if own is None:
        keys = ("@id", "osm_id", "full_id", "osmid", "id", "osm_way_id", "fid")
        own = next((tags[key] for key in keys if key in tags), "")
    text = clean_text(own, 80) or ""
    if match := re.fullmatch(r"([nwr])/?([1-9]\d*)", text):  # as QuickOSM has it
        return f"{_KINDS[match[1]]}/{match[2]}"
    kind = _KINDS.get(
        str(tags.get("@type") or tags.get("osm_type") or tags.get("element_type") or tags.get("element")).lower()
    )
    if kind and text.isdigit() and int(text):
        return f"{kind}/{text}"
    # What every new layer of QGIS holds, and what stands for "none", tells nothing apart.
    return "" if re.fullmatch(r"[-+]?0*(\.0*)?|-1", text) or text in _NO_VALUE else text


def is_osm(identity: str, tags: dict[str, str]) -> bool:
    """Return whether a feature says that it comes from OpenStreetMap."""
    return bool(_OSM_IDENTITY.match(identity) or tags.keys() & {"osm_id", "@osmId", "osm_way_id", "full_id", "osmid"})


def is_unique(identity: str) -> bool:
    """Return whether an identity is one of a kind by its form: OpenStreetMap's, or a long random one."""
    return bool(_OSM_IDENTITY.fullmatch(identity) or re.fullmatch(r"\{?[0-9a-fA-F][0-9a-fA-F-]{26,}\}?", identity))


def decoded(value: object, guesses: Counter) -> object:
    """Read a text again whose encoding nobody told and that came byte by byte: UTF-8 where it is that, else Windows-1252.

    Args:
        value: What was read as ISO-8859-1, each character one byte; what is no text is returned as it is.
        guesses: Counts the texts by encoding, those of plain ASCII left out.
    """
    if not isinstance(value, str) or value.isascii():
        return value
    try:
        data = value.encode("latin-1")
    except UnicodeEncodeError:
        return value
    return decoded_bytes(data, guesses)


def decoded_bytes(data: bytes, guesses: Counter) -> str:
    """Read bytes as UTF-8 where they are that, else as Windows-1252; see `decoded`."""
    for cut in range(4):  # a table of fixed widths may end inside a letter
        try:
            text = data[: len(data) - cut].decode("utf-8")
        except UnicodeDecodeError:
            continue
        if cut == 0 or not text.isascii():
            guesses["UTF-8"] += 1
            return text
    guesses["Windows-1252"] += 1
    return data.decode("cp1252", errors="replace").replace("\ufffd", "")
