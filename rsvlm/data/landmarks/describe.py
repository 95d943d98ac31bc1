"""What the map has inside each chip: landmarks, ranked, placed, measured, and judged for whether a picture can show them.

Features are found by a spatial index, clipped to the chip's outline, and measured in metres on the ellipsoid. Unnamed things of one
category become one landmark with a count; pieces of one road or forest become one landmark. A thing is visible where its
category can be seen from above, it is not underground or indoors, and it is large enough at the chip's ground sample distance;
for any other the landmark says why not, so that no caption tells of a café on the second floor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rsvlm.data.imagery import ground
from rsvlm.data.landmarks.directions import SECTORS, direction
from rsvlm.data.landmarks.pieces import AREA, LINE, POINT, Pieces, connected, cut_out, metres_per_degree, outlines
from rsvlm.data.maps import features as maps
from rsvlm.data.maps.taxonomy import Category, taxonomy
from rsvlm.errors import need

shapely = need("shapely", "data")

NOT_FROM_ABOVE = "not seen from above"
UNDERGROUND = "underground"
INDOORS = "indoors"
TOO_SMALL = "too small at this resolution"
TOO_THIN = "too thin at this resolution"
TOO_SHORT = "too short at this resolution"
HIDDEN = (None, NOT_FROM_ABOVE, UNDERGROUND, INDOORS, TOO_SMALL, TOO_THIN, TOO_SHORT)
"""Why a landmark is not visible. If None, it is."""

SHORTEST_LINE_PX = 6.0
"""Shortest visible line, in pixels."""

THINNEST_AREA_PX = 0.5
"""Thinnest visible area: twice its area over its outline, in pixels."""

MOST_VISIBLE, MOST_HIDDEN = 24, 6
"""Landmarks listed for one chip, the most prominent ones."""

_BATCH = 512


@dataclass(frozen=True)
class Index:
    """Features in a spatial index, with what `describe` asks of every one of them in arrays `(F,)`."""

    tree: object  # shapely.STRtree of the geometries
    bounds: np.ndarray  # `(F, 4)`, `west, south, east, north` in degrees
    kind: np.ndarray  # dimension of the geometry: 0 point, 1 line, 2 area
    category: np.ndarray  # position of its category in the taxonomy
    name: np.ndarray  # code of its name; -1: none
    extent: np.ndarray  # area or length, in degrees; 0 for points
    size_m: np.ndarray  # side of a point, width of a line, in metres
    smallest_px: np.ndarray  # smallest visible size, in pixels
    interest: np.ndarray  # as in the taxonomy
    countable: np.ndarray  # whether features of its category are things, and not pieces
    linear: np.ndarray  # whether its category is drawn as a line, so that its size is a width
    hidden: np.ndarray  # position in `HIDDEN` of why it can never be seen; 0: it can


def index(features: maps.Features) -> Index:
    """Build the spatial index of a map.

    Args:
        features: What `features.read` or `features.load` gave.

    Raises:
        DataError: The taxonomy is broken.
    """
    categories = taxonomy()
    order = {name: number for number, name in enumerate(categories)}
    entries = [categories[name] for name in features.table["category"]]
    names = pd.factorize(features.table["name"].fillna("").map(str.casefold))
    code = np.where(features.table["name"].isna(), -1, names[0])
    kind = shapely.get_dimensions(features.geometry)
    size = np.array([entry.typical_size_m for entry in entries], float)
    tags = features.table["tags"].tolist()
    for i in np.flatnonzero(kind == LINE):
        size[i] = _width_m(tags[i]) or size[i]
    return Index(
        tree=shapely.STRtree(features.geometry),
        bounds=shapely.bounds(features.geometry).reshape(-1, 4),
        kind=kind,
        category=np.array([order[entry.name] for entry in entries], int),
        name=np.asarray(code, int),
        extent=np.where(kind == AREA, shapely.area(features.geometry), shapely.length(features.geometry)),
        size_m=size,
        smallest_px=np.array([entry.smallest_visible_px for entry in entries], float),
        interest=np.array([entry.interest for entry in entries], float),
        countable=np.array([entry.countable for entry in entries], bool),
        linear=np.array([entry.shape == "line" for entry in entries], bool),
        hidden=np.array([_never_seen(entry, one, k) for entry, one, k in zip(entries, tags, kind)], int),
    )


def describe(
    features: maps.Features, index: Index, chips: pd.DataFrame, outlines: np.ndarray | None = None
) -> list[list[dict]]:
    """List the landmarks of chips, visible ones first, most prominent first.

    The prominence is `interest * name * (0.15 + 0.25 * inside + 0.6 * extent)`: `interest` is the category's, `name` is 1 with a
    name and 0.8 without, `inside` is the part of the thing that lies in the chip, and `extent`, at most 1, is the root of the
    share for areas, the length over twice the chip's side for lines, and three times the size over the chip's side for points.

    Args:
        features: The map.
        index: Its index, from `index`.
        chips: Rows with `west south east north` in degrees, `gsd_m` and `size_px`.
        outlines: `(N, 4k, 2)`, outlines of the chips in degrees, as of `imagery.ground.outlines`. If None, they are those boxes.

    Returns:
        One list per chip, in their order, of dictionaries that JSON can hold: `name`, `names` (by language), `category`;
        `lon lat` of a point of it inside the chip (beyond 180 where the chip is); `position` (one of `directions.SECTORS`); `by_sector`
        (nine counts in the order of `SECTORS`: of things, or 1 where a single thing reaches); `area_m2` and `share` of the chip
        for areas and `length_m` for lines, of what lies inside the chip; `size_px` (root of the area, length of a line, usual
        size of a point; of the largest where they are several); `prominence`; `visible`, `hidden_because` (one of `HIDDEN`);
        `count` (things that are told as one; of roads, forests and the like the pieces that do not hang together); `cut`
        (whether the chip's edge cuts it); `source licence attribution`; and `geometry` (GeoJSON in degrees, clipped, within a
        pixel or more where that takes more than `pieces.MAX_VERTICES` vertices; points for things told as one).

    Source: our choice; the paper does not publish how landmarks were chosen.
    """
    names = ("name", "names", "category", "source", "licence", "attribution")
    columns = {name: features.table[name].to_numpy(object) for name in names}
    if outlines is None:
        outlines = ground.box_rings(chips[["west", "south", "east", "north"]].to_numpy(np.float64))
    result = []
    for start in range(0, len(chips), _BATCH):  # memory stays that of one batch
        batch = np.s_[start : start + _BATCH]
        result += _describe(features.geometry, columns, index, chips.iloc[batch], outlines[batch])
    return result


def relations(landmarks: Sequence[dict], most: int = 4) -> list[dict]:
    """Tell where some landmarks lie as seen from others.

    Taken are pairs of visible single things that lie apart and neither of which fills more than a quarter of the chip, the most
    prominent first, with no landmark in more than two pairs.

    Args:
        landmarks: Those of one chip, from `describe`.
        most: Pairs wanted.

    Returns:
        `{"from": i, "to": j, "distance_m", "direction"}`: landmark `j` lies `direction` (one of `directions.COMPASS`) of landmark
        `i`; the distance is that between their nearest points. The direction leads from the point of `i` that is nearest to the
        middle of `j`, and is told only where that from middle to middle is not far from it.
    """
    seen = [i for i, mark in enumerate(landmarks) if mark["visible"] and mark["count"] == 1 and mark["position"]]
    singles = [i for i in seen if (landmarks[i]["share"] or 0.0) <= 0.25][:7]
    if len(singles) < 2:
        return []
    # The larger one is where the smaller is seen from.
    singles.sort(key=lambda i: -(landmarks[i]["share"] or 0.0) - (landmarks[i]["length_m"] or 0.0))
    lat = float(np.mean([landmarks[i]["lat"] for i in singles]))
    scale = np.array(metres_per_degree(lat))
    origin = np.array([landmarks[singles[0]]["lon"], lat])
    shapes = shapely.from_geojson([json.dumps(landmarks[i]["geometry"]) for i in singles])
    shapes = shapely.set_coordinates(shapes, (shapely.get_coordinates(shapes) - origin) * scale)
    middles = (np.array([[landmarks[i]["lon"], landmarks[i]["lat"]] for i in singles]) - origin) * scale
    a, b = np.triu_indices(len(singles), 1)
    distance = shapely.distance(shapes[a], shapes[b])
    near = shapely.get_coordinates(shapely.shortest_line(shapes[a], shapely.points(middles[b])))[::2]
    edge, centre = middles[b] - near, middles[b] - middles[a]
    lengths = np.hypot(*edge.T) * np.hypot(*centre.T)
    agrees = (edge * centre).sum(axis=1) > 0.6 * np.maximum(lengths, 1e-9)
    # A thing in one place says more about where another lies than one that runs through the chip.
    weight = np.array([landmarks[i]["prominence"] * (2 if sum(landmarks[i]["by_sector"]) == 1 else 1) for i in singles])
    pairs, used = [], np.zeros(len(singles), int)
    for pair in np.argsort(-weight[a] * weight[b], kind="stable"):
        first, second = a[pair], b[pair]
        if distance[pair] <= 1.0 or not agrees[pair] or max(used[first], used[second]) >= 2:
            continue
        used[[first, second]] += 1
        ends = {"from": singles[first], "to": singles[second]}
        pairs.append(ends | {"distance_m": round(float(distance[pair]), 1), "direction": direction(*edge[pair])})
        if len(pairs) == most:
            break
    return pairs


def _describe(
    geometry: np.ndarray, columns: dict[str, np.ndarray], index: Index, chips: pd.DataFrame, rings: np.ndarray
) -> list[list[dict]]:
    """Describe one batch of chips: cut out, judge, group, tell, rank and draw."""
    by_chip: list[list[tuple[dict, _Group]]] = [[] for _ in range(len(chips))]
    gsd_m, size_px = chips["gsd_m"].to_numpy(np.float64), chips["size_px"].to_numpy(np.float64)
    pieces = cut_out(index.tree, geometry, index.bounds, index.kind, rings)
    if pieces is None:
        return [[] for _ in by_chip]
    hidden = _hidden(pieces, index, gsd_m[pieces.chip])
    for group in _groups(pieces, index, hidden):
        chip = pieces.chip[group.members[0]]
        mark = _landmark(columns, index, pieces, group, hidden, gsd_m[chip], size_px[chip])
        by_chip[chip].append((mark, group))
    by_chip = [_ranked(marks) for marks in by_chip]
    listed = [pair for marks in by_chip for pair in marks]
    first = np.array([group.members[0] for _, group in listed])
    dotted = [group.things or pieces.kind[group.members[0]] == POINT for _, group in listed]
    drawings = outlines(pieces, [group.members for _, group in listed], dotted, gsd_m[pieces.chip[first]])
    for (mark, _), drawing in zip(listed, drawings, strict=True):
        mark["geometry"] = drawing
    return [[mark for mark, _ in marks] for marks in by_chip]


@dataclass(frozen=True)
class _Group:
    """Pieces of one chip that are told as one landmark."""

    members: np.ndarray  # their positions, the largest first: it lends the landmark its name and size
    things: bool  # whether each of them is a thing, as a building, and not a piece, as of a road


def _hidden(pieces: Pieces, index: Index, gsd_m: np.ndarray) -> np.ndarray:
    """Apply the visibility rule to every piece, but for the length of lines, which may come in pieces."""
    feature, area = pieces.feature, pieces.kind == AREA
    size = np.where(area, np.sqrt(pieces.area_m2), index.size_m[feature])
    # Rivers and piers drawn as areas are as visible as they are wide.
    size = np.where(area & index.linear[feature], pieces.thickness_m, size) / gsd_m
    thin = area & (pieces.thickness_m < THINNEST_AREA_PX * gsd_m)
    small = np.where(pieces.kind == LINE, HIDDEN.index(TOO_THIN), HIDDEN.index(TOO_SMALL))
    never = index.hidden[feature]
    return np.select([never > 0, size < index.smallest_px[feature], thin], [never, small, HIDDEN.index(TOO_THIN)], 0)


def _groups(pieces: Pieces, index: Index, hidden: np.ndarray) -> list[_Group]:
    """Gather the pieces that are one landmark, in the order in which each landmark's first piece comes.

    Things with a name are one where category and name agree; those without where the category does, and all of them can be
    seen or none. Beside an area, lines and points of the same name are another drawing of the same thing, as with rivers.
    """
    category, name, countable = (values[pieces.feature] for values in (index.category, index.name, index.countable))
    named = name >= 0
    keys = pd.DataFrame({"chip": pieces.chip, "category": category, "name": name, "hidden": np.where(named, 0, hidden)})
    number = keys.groupby(list(keys.columns), sort=False).ngroup().to_numpy()
    highest = np.zeros(number.max() + 1, int)
    np.maximum.at(highest, number, pieces.kind)
    drawn_once = np.flatnonzero((~named & countable) | (pieces.kind == highest[number]))
    order = drawn_once[np.lexsort((-pieces.extent_m[drawn_once], number[drawn_once]))]
    things = countable & (pieces.kind != LINE)  # lines are cut where a name or a speed limit changes
    parts = np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
    return [_Group(members, bool(things[members[0]])) for members in parts]


def _landmark(
    columns: dict, index: Index, pieces: Pieces, group: _Group, hidden: np.ndarray, gsd_m: float, size_px: float
) -> dict:
    """Tell one landmark, all but its `geometry`."""
    members, side_m = group.members, gsd_m * size_px
    first, rows = members[0], pieces.feature[members]
    row, kind = int(rows[0]), pieces.kind[first]
    # How large the whole is, and how large its largest member.
    once = _drawn_once(pieces.shape[members]) if kind == AREA else 1.0
    area, length = once * float(pieces.area_m2[members].sum()), float(pieces.length_m[members].sum())
    share = min(1.0, once * float(pieces.share[members].sum()))
    size = float((pieces.extent_m[first] if kind else index.size_m[row]) / gsd_m)
    # What is drawn twice is seen if either drawing says so.
    reason = int(hidden[members].min())
    if not reason and kind == LINE and length < SHORTEST_LINE_PX * gsd_m:
        reason = HIDDEN.index(TOO_SHORT)
    # How many there are, and where: several things lie where most of them do.
    count = len(members) if group.things else connected(pieces.shape[members])
    sector, at = int(pieces.sector[first]), first
    by_sector = (pieces.reaches[members].any(axis=0) if len(members) > 1 else pieces.reaches[first]).astype(int)
    if group.things and len(members) > 1:
        by_sector = np.bincount(pieces.sector[members], minlength=9)
        sector = int(by_sector.argmax())
        at = members[pieces.sector[members] == sector][0]
    lon, lat = pieces.lonlat[at].tolist()
    # How prominent it is.
    extent = min(1.0, (3 * size / size_px, length / (2 * side_m), share**0.5)[kind])
    inside = min(1.0, pieces.extent_deg[members].sum() / max(index.extent[rows].sum(), 1e-30)) if kind else 1.0
    weight = index.interest[row] * (1.0 if columns["name"][row] else 0.8) * (0.15 + 0.25 * inside + 0.6 * extent)
    return {
        "name": columns["name"][row],
        "names": dict(columns["names"][row]),
        "category": columns["category"][row],
        "lon": lon,
        "lat": lat,
        "position": SECTORS[sector],
        "by_sector": by_sector.tolist(),
        "area_m2": float(f"{area:.4g}") if kind == AREA else None,
        "length_m": float(f"{length:.4g}") if kind == LINE else None,
        "share": round(share, 5) if kind == AREA else None,
        "size_px": round(size, 1),
        "prominence": round(float(weight), 4),
        "visible": reason == 0,
        "hidden_because": HIDDEN[reason],
        "count": count,
        "cut": bool(pieces.cut[members].any()),
        **{name: _joined(columns[name], rows) for name in ("source", "licence", "attribution")},
    }


def _drawn_once(areas: np.ndarray) -> float:
    """Return the area that shapes cover together over the sum of their areas: less than 1 where some lie over others."""
    first, second = shapely.STRtree(areas).query(areas, predicate="intersects")
    if not (first != second).any():
        return 1.0
    together = shapely.area(shapely.union_all(areas)) / max(float(shapely.area(areas).sum()), 1e-30)
    return float(together) if together < 0.999 else 1.0  # neighbours are measured at latitudes of their own


def _joined(values: np.ndarray, rows: np.ndarray) -> str:
    return values[rows[0]] if len(rows) == 1 else "; ".join(dict.fromkeys(values[rows]))


def _ranked(marks: list[tuple[dict, _Group]]) -> list[tuple[dict, _Group]]:
    """Return the landmarks of a chip that are listed, visible ones first, most prominent first."""
    marks = sorted(marks, key=lambda pair: -pair[0]["prominence"])
    visible = [pair for pair in marks if pair[0]["visible"]]
    return visible[:MOST_VISIBLE] + [pair for pair in marks if not pair[0]["visible"]][:MOST_HIDDEN]


def _never_seen(entry: Category, tags: dict[str, str], kind: int) -> int:
    """Return the position in `HIDDEN` of why a feature is never seen from above; 0: it is."""
    if not entry.visible_from_above:
        return HIDDEN.index(NOT_FROM_ABOVE)
    # Ground and water are drawn below bridges by a layer below 0; houses and roads are built there.
    built = entry.shape != "area" or not tags.keys().isdisjoint(("building", "parking"))
    below = built and re.fullmatch(r"-\d+(\.0)?", tags.get("layer", ""))
    below = below or tags.get("covered") == "yes" or tags.get("location") in ("underground", "underwater")
    below = below or tags.get("parking") == "underground"
    if below or tags.get("tunnel", "no") not in ("no", "avalanche_protector"):
        return HIDDEN.index(UNDERGROUND)
    if (
        tags.get("indoor", "no") != "no"
        or tags.get("location") in ("indoor", "indoors")
        or kind == POINT
        and tags.get("level", "0") not in ("0", "")
    ):
        return HIDDEN.index(INDOORS)
    return 0


def _width_m(tags: dict[str, str]) -> float | None:
    """Return the width of a line in metres as its tags tell it, or none."""
    for key, factor in (("width", 1.0), ("est_width", 1.0), ("lanes", 3.25)):
        if match := re.match(r"(\d{1,3}(?:\.\d+)?)\s*m?$", tags.get(key, "")):
            return min(max(float(match[1]) * factor, 0.3), 500.0)
    return None


def seen_from_above(category: str, tags: dict[str, str]) -> bool:
    """Return whether a picture from above can show an area of a category: it is not underground, and not indoors."""
    return not _never_seen(taxonomy()[category], tags, AREA)
