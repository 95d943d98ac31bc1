"""Features of Overture Maps, as GeoParquet has them and as its own command and other programs write them out again.

Rows are known by their columns, whatever the format: nested ones may have become texts of JSON, and empty ones may be gone.

Source: the schema of Overture Maps (https://docs.overturemaps.org/schema/).
"""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path

from rsvlm.data.maps.raw import OSM, Raw, nested, pairs_of, tags_of
from rsvlm.data.maps.taxonomy import category_of, category_of_code, clean_text

TYPES = (
    "address bathymetry building building_part connector division division_area division_boundary infrastructure land "
    "land_cover land_use place segment water"
).split()
"""Types of features that Overture has."""

_OF_UNKNOWN_TYPE = ("infrastructure", "water", "land", "land_use", "land_cover", "building", "segment")
_MARKS = {
    "building_part": {"building_id"},
    "building": {"has_parts", "num_floors", "roof_shape", "facade_color"},
    "place": {"categories", "basic_category", "taxonomy", "operating_status"},
    "segment": {"connectors", "road_surface", "speed_limits", "road_flags", "rail_flags", "subclass_rules", "level_rules"},
    "division_area": {"division_id"},
    "division": {"hierarchies", "local_type", "parent_division_id"},
    "address": {"address_levels", "postal_city"},
    "water": {"is_salt", "is_intermittent"},
}
_NESTED = ("names", "sources", "categories", "taxonomy", "source_tags", "road_flags", "rail_flags")
_GONE = {"is_abandoned": "abandoned", "is_disused": "disused", "is_under_construction": "construction"}


def type_of(path: Path, columns: Set[str]) -> str | None:
    """Return the Overture type of a file by its folder, its columns or its name.

    Args:
        path: The file; `type=water` in it decides.
        columns: Columns of the file, or those of a feature that are not empty.

    Returns:
        One of `TYPES`; empty where it is Overture's, but of a type that cannot be told; None where it is not Overture's.
    """
    if match := re.search(r"type=([a-z_]+)", path.as_posix()):
        return match.group(1)
    if "sources" not in columns or not columns & {"bbox", "version", "categories", "basic_category"}:
        return None
    for kind, marks in _MARKS.items():
        if columns & marks:
            return kind
    return next((kind for kind in sorted(TYPES, key=len, reverse=True) if path.stem.lower().endswith(kind)), "")


def is_overture(properties: dict) -> bool:
    """Return whether the properties of a feature of any format are Overture's: a list of sources, each with its data set."""
    sources = nested(properties.get("sources"))
    return isinstance(sources, list) and any(isinstance(one, dict) and "dataset" in one for one in sources)


def feature(shape: object, row: dict, kind: str) -> Raw:
    """Read one feature.

    Args:
        shape: Its geometry.
        row: Its columns, `id` among them.
        kind: Its type, from `type_of`; empty where it is not known.

    Returns:
        The feature; its category is empty where its class and subtype mean none.
    """
    row = row | {key: nested(row[key]) for key in _NESTED if key in row}
    stated = row.get("type")
    kind = kind or (stated if stated in TYPES else "")
    groups = row.get("categories") if isinstance(row.get("categories"), dict) else {}
    alternate = groups.get("alternate") if isinstance(groups.get("alternate"), list) else []
    tree = row.get("taxonomy") if isinstance(row.get("taxonomy"), dict) else {}
    words = [
        groups.get("primary"),
        tree.get("primary"),
        row.get("basic_category"),
        row.get("class"),
        row.get("subtype"),
        *alternate,
    ]
    kinds = [kind] if kind else _OF_UNKNOWN_TYPE if _is_line(shape) else _OF_UNKNOWN_TYPE[:-1]
    keys = [f"{one}.{word}" for word in words if isinstance(word, str) for one in kinds] + [kind]
    # What it is, and whether it is there to be seen.
    tags = {"class": row.get("class"), "subtype": row.get("subtype"), "category": groups.get("primary")}
    tags = tags_of(tags | {"layer": row.get("level")})
    below = kind.startswith("building") and str(row.get("level") or "").startswith("-")
    if below or row.get("is_underground") in (True, "true", "yes", 1):
        tags["location"] = "underground"
    flags = _whole_length(row.get("road_flags")) | _whole_length(row.get("rail_flags"))
    tags |= {"tunnel": "yes"} if "is_tunnel" in flags else {}
    tags |= {word: "yes" for flag, word in _GONE.items() if flag in flags}
    if row.get("operating_status") in ("permanently_closed", "temporarily_closed"):
        tags["operating_status"] = str(row["operating_status"])
    source_tags = tags_of({"source_tags": row["source_tags"]}) if row.get("source_tags") else {}
    meanings = (category_of_code("overture", key) for key in keys)
    category = category_of(source_tags) or next((one for one in meanings if one is not None), "")
    category = category if tags.keys().isdisjoint(_GONE.values()) else ""
    return Raw(shape, clean_text(row.get("id"), 80) or "", source_tags | tags, category, _names(row), _origin(row, kind))


def _is_line(shape: object) -> bool:
    return getattr(shape, "geom_type", "") in ("LineString", "MultiLineString")


def _names(row: dict) -> dict[str, str]:
    given = row.get("names") if isinstance(row.get("names"), dict) else {}
    names = {"": given["primary"]} if given.get("primary") else {}
    return names | {str(a): b for a, b in pairs_of(given.get("common")).items() if re.fullmatch(r"[a-zA-Z-]{2,12}", str(a))}


def _origin(row: dict, kind: str) -> tuple[str, str, str]:
    sources = row.get("sources") if isinstance(row.get("sources"), list) else []
    first = next((one for one in sources if isinstance(one, dict)), {})
    dataset = clean_text(first.get("dataset"), 60) or OSM[0]
    licence = clean_text(first.get("license"), 60) or ("CDLA-Permissive-2.0" if kind == "place" else OSM[1])
    owner = OSM[2] if dataset == OSM[0] else dataset
    return f"Overture ({dataset})", licence, f"{owner}, Overture Maps Foundation"


def _whole_length(rules: object) -> set[str]:
    """Return the flags that hold for the whole of a segment."""
    flags = set()
    for rule in rules if isinstance(rules, list) else ():
        if isinstance(rule, dict) and rule.get("between") in (None, [], [0, 1], [0.0, 1.0]):
            flags.update(value for value in rule.get("values") or () if isinstance(value, str))
    return flags
