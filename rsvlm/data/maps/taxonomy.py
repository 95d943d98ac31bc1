"""The categories of things on maps, and the cleaning of what maps say: texts, names, geometry.

`taxonomy.json` documents itself; here its rules are asked. What a map says is data: texts are cleaned of control and direction
marks and kept otherwise as they are, markup included; geometry that cannot be mended has a reason.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsvlm.errors import DataError

TAXONOMY = Path(__file__).with_name("taxonomy.json")
"""The categories: their words, what makes them visible, and the tags, classes, types and codes that mean them."""

MAX_NAME = 120
"""Longest name, in characters; longer ones are cut."""

_GENERIC_KEYS = ("fclass", "class", "subclass", "category", "type", "kind", "feature", "landmark", "label")
_TRUE = ("yes", "true", "True")
_GONE = ("demolished", "razed", "removed", "destroyed", "dismantled", "collapsed", "proposed", "planned")
_UNUSED = ("abandoned", "disused")
_NOTHING = ("no", "construction", "vacant", *_GONE)
_LASTING = ("building", "natural", "historic", "ruins", "barrier", "waterway", "man_made", "bridge")
_AMBIGUOUS = frozenset("* yes line plant base stop works state information gate lock".split())
_DRAWN_AS = (("point", "area"), ("line",), ("area",))
_JOINERS = "\u200c\u200d"  # Persian, Hindi and others need them inside words
_NEVER_PRINTED = ("Cf", "Cs", "Cn", "Co")


@dataclass(frozen=True)
class Category:
    """One category of `taxonomy.json`; the file says what each field means."""

    name: str
    words: tuple[str, str]
    visible_from_above: bool
    smallest_visible_px: float
    typical_size_m: float
    shape: str
    countable: bool
    interest: float
    osm: tuple[str, ...] = ()
    overture: tuple[str, ...] = ()
    geonames: tuple[str, ...] = ()


@functools.cache
def taxonomy() -> dict[str, Category]:
    """Return the categories by name, in order of precedence: of several that match a feature, the first is its category.

    Raises:
        DataError: The taxonomy is missing or broken.
    """
    return _content()[0]


@functools.cache
def _content() -> tuple[dict[str, Category], list[str]]:
    """Return the categories, and Overture's classes of which nothing is said."""
    try:
        content = json.loads(TAXONOMY.read_text(encoding="utf-8"))
        categories = {
            name: Category(name=name, **{key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()})
            for name, entry in content["categories"].items()
        }
        return categories, list(content["unsaid"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{TAXONOMY} is broken ({error}): reinstall the package") from error


def category_of(tags: dict[str, str], dimension: int | None = None) -> str | None:
    """Return the category that OpenStreetMap tags mean, or none.

    Properties of other maps count too where one named `fclass`, `class`, `category`, `type` or the like has the value of a tag
    or the words of a category. Of what is out of use only what still stands counts: a building, and no school.

    Args:
        tags: Keys to values; of several values (`a;b`) each one counts.
        dimension: Dimension of the geometry, 0 to 2: a line of the class `residential` is a street, and an area a residential
            area. If None, the first meaning of such a word counts.
    """
    rules, _, bare = _rules()
    best, unused = None, any(tags.get(key) in _TRUE for key in _UNUSED)
    for key, value in tags.items():
        if unused and key not in _LASTING:
            continue
        for part in value.split(";") if ";" in value else (value,):
            part = part.strip()
            for rank, rest, name in rules.get((key, part), ()) + (rules.get((key, "*"), ()) if part not in _NOTHING else ()):
                if (best is None or rank < best[0]) and all(_holds(tags, k, v) for k, v in rest):
                    best = (rank, name)
    if best is not None:
        return best[1]
    words = (tags[key].lower().replace("_", " ") for key in _GENERIC_KEYS if key in tags and not unused)
    meanings = next((bare[word] for word in words if word in bare), ())
    fitting = (name for name in meanings if dimension is None or taxonomy()[name].shape in _DRAWN_AS[dimension])
    return next(fitting, None) or next(iter(meanings), None)


def is_there(tags: dict[str, str]) -> bool:
    """Return whether tags say nothing against a thing's being there: `demolished=yes`, `proposed=yes` and the like do."""
    return not any(tags.get(key) in _TRUE for key in (*_GONE, "construction"))


def tells_of_the_past(tags: dict[str, str]) -> bool:
    """Return whether a key says by its beginning that a thing was or will be: `demolished:building`, `proposed:highway`."""
    return any(key.partition(":")[0] in (*_GONE, *_UNUSED, "construction", "was", "old") for key in tags if ":" in key)


def category_of_code(kind: str, code: str) -> str | None:
    """Return the category that a code of another map means; none where it is not known, empty where nothing is to be said.

    Args:
        kind: `overture` or `geonames`.
        code: As in the taxonomy, `land.beach` or `T.BCH`.
    """
    return _rules()[1].get((kind, code))


def osm_keys() -> list[str]:
    """Return the keys of OpenStreetMap tags without which a thing has no category."""
    return sorted({key for key, _ in _rules()[0]})


def clean_text(value: object, limit: int = MAX_NAME) -> str | None:
    """Make one printable line of a text from a map, without changing what it says.

    Unicode is composed (NFC); line breaks and control characters become spaces; marks that steer direction or print nothing
    are removed, but for the joiners of some scripts; right-to-left text and markup stay as they are.

    Args:
        value: Anything; only text and numbers give a text.
        limit: Longest result in characters.

    Returns:
        The text, or none where nothing printable is left.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value)[: 20 * limit]
    if not (text.isascii() and text.isprintable()):  # most are
        text = printable_line(text)
    text = " ".join(text.split())[:limit].strip()
    return text if text.strip(_JOINERS) else None


def printable_line(text: str) -> str:
    """Compose a text (NFC) and put it on one line, without what steers direction or prints nothing, but for the joiners."""
    text = text if text.isascii() else unicodedata.normalize("NFC", text)
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() or letter in _JOINERS else _blank(letter) for letter in text)
    return " ".join(text.split())


def _blank(letter: str) -> str:
    return "" if unicodedata.category(letter) in _NEVER_PRINTED else " "


def names_of(tags: dict[str, str]) -> dict[str, str]:
    """Return names by language, the map's own under the empty string."""
    lower = {key.lower(): value for key, value in tags.items()}
    own = next((lower[key] for key in ("name", "official_name", "int_name", "name:en", "name_en") if lower.get(key)), None)
    matches = ((re.fullmatch(r"name[:_]([a-z]{2,3}(?:-[a-z]{2,8})?)", key), value) for key, value in lower.items())
    return ({"": own} if own else {}) | {match[1]: value for match, value in matches if match}


def clean_geometry(geometry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mend geometries, or say why they cannot be used.

    Rings that cross themselves are repaired; of mixed collections the parts of the highest dimension stay; what crosses the
    antimeridian is made whole beyond 180 degrees.

    Args:
        geometry: `(F,)`, shapely geometries or none, lon and lat in degrees.

    Returns:
        `(F,)` geometries as in `Features`, none where unusable, and `(F,)` reasons, none where usable.
    """
    import shapely

    geometry = shapely.force_2d(np.asarray(geometry, dtype=object))
    reasons = np.full(len(geometry), None, dtype=object)

    def refuse(where: np.ndarray, why: str) -> None:
        where = where & np.equal(reasons, None)
        reasons[where], geometry[where] = why, None

    refuse(shapely.is_missing(geometry) | shapely.is_empty(geometry), "empty geometry")
    coordinates, row = shapely.get_coordinates(geometry, return_index=True)
    odd = ~(np.abs(coordinates[:, 0]) <= 540) | ~(np.abs(coordinates[:, 1]) <= 90.0000001)  # not a number counts as odd
    refuse(np.isin(np.arange(len(geometry)), row[odd]), "coordinates outside the world")
    before = shapely.get_dimensions(geometry)
    # Crossing the antimeridian comes first: only then does it show whether a ring is valid.
    bounds = shapely.bounds(geometry)
    for i in np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180):
        geometry[i] = _unwrapped(geometry[i])
    broken = ~shapely.is_valid(geometry) & ~shapely.is_missing(geometry)
    geometry[broken] = shapely.make_valid(geometry[broken])
    for i in np.flatnonzero(shapely.get_type_id(geometry) == 7):
        geometry[i] = _of_highest_dimension(geometry[i])
    refuse(shapely.is_missing(geometry) | shapely.is_empty(geometry), "empty geometry")
    flat = (shapely.get_dimensions(geometry) < before) | ((before == 1) & (shapely.length(geometry) == 0))
    refuse(flat, "geometry without extent")
    shift = -360.0 * np.floor((shapely.bounds(geometry)[:, 0] + 180.0) / 360.0)
    for i in np.flatnonzero(np.nan_to_num(shift) != 0):
        geometry[i] = shapely.transform(geometry[i], lambda xy, by=shift[i]: xy + (by, 0.0))
    return geometry, reasons


def touches(bounds: np.ndarray, bbox_lonlat: Sequence[float]) -> np.ndarray:
    """Tell which boxes meet a box, around the antimeridian too.

    Args:
        bounds: `(F, 4)`, `west, south, east, north` in degrees.
        bbox_lonlat: The other box.

    Returns:
        `(F,)`, bool.
    """
    west, south, east, north = bbox_lonlat
    turns = np.array([[-360.0], [0.0], [360.0]])
    across = ((bounds[:, 0] <= east + turns) & (bounds[:, 2] >= west + turns)).any(axis=0)
    return across & (bounds[:, 1] <= north) & (bounds[:, 3] >= south)


@functools.cache
def _rules() -> tuple[dict, dict, dict]:
    """Return OSM rules by (key, value), codes of other maps, and words and bare values, each to its category or categories."""
    rules: dict[tuple[str, str], tuple] = {}
    codes: dict[tuple[str, str], str] = {("overture", code): "" for code in _content()[1]}
    bare: dict[str, list[str]] = {}
    for rank, category in enumerate(taxonomy().values()):
        for rule in category.osm:
            (key, value), *rest = [tuple(part.split("=", 1)) for part in rule.split("&")]
            rules[key, value] = rules.get((key, value), ()) + ((rank, tuple(rest), category.name),)
        for kind in ("overture", "geonames"):
            codes.update({(kind, code): category.name for code in getattr(category, kind)})
    words = [(word.lower(), category.name) for category in taxonomy().values() for word in (category.name, *category.words)]
    plain = [
        (rule.split("=", 1)[1], category.name) for category in taxonomy().values() for rule in category.osm if "&" not in rule
    ]
    values = [(value.replace("_", " "), name) for value, name in plain if value not in _AMBIGUOUS]
    for word, name in words + values:  # in the order in which they are tried
        if name not in bare.setdefault(word, []):
            bare[word].append(name)
    return rules, codes, bare


def _holds(tags: dict[str, str], key: str, wanted: str) -> bool:
    value = tags.get(key, "no")  # what is absent is as good as "no"
    return value not in _NOTHING if wanted == "*" else wanted in (part.strip() for part in value.split(";"))


def _of_highest_dimension(collection):
    import shapely

    parts = np.array([part for part in _leaves(collection) if not part.is_empty], dtype=object)
    if not len(parts):
        return None
    dimension = shapely.get_dimensions(parts)
    return shapely.union_all(parts[dimension == dimension.max()])


def _leaves(geometry) -> Iterator:
    if geometry.geom_type.startswith(("Multi", "GeometryCollection")):
        for part in geometry.geoms:
            yield from _leaves(part)
    else:
        yield geometry


def _unwrapped(geometry):
    """Return a geometry wider than half the world with its parts put together across the antimeridian, if that is narrower."""
    import shapely

    parts = []
    for part in _leaves(geometry):
        longitudes = shapely.get_coordinates(part)[:, 0]
        steps = np.abs(np.diff(longitudes))
        # An edge from -180 to 180 is one around the world; a shorter leap is a step over the antimeridian.
        if ((steps > 180) & (steps < 359.99)).any():
            part = shapely.transform(part, lambda xy: np.column_stack([xy[:, 0] + 360.0 * (xy[:, 0] < 0), xy[:, 1]]))
        parts.append(part)
    bounds = shapely.bounds(np.array(parts, dtype=object))
    east = np.where(bounds[:, 0] + bounds[:, 2] < 0, 360.0, 0.0)
    if np.ptp(np.concatenate([bounds[:, 0] + east, bounds[:, 2] + east])) < np.ptp(bounds[:, [0, 2]]):
        parts = [shapely.transform(part, lambda xy, by=by: xy + (by, 0.0)) if by else part for part, by in zip(parts, east)]
    if len(parts) == 1:
        return parts[0]
    # Parts are mended before they are joined: a union of crossing rings is an error.
    return shapely.union_all([part if part.is_valid else shapely.make_valid(part) for part in parts])
