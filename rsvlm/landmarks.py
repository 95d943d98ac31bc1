"""What the map has inside each chip: landmarks, ranked, placed, measured, and judged for whether a picture can show them.

Features are found by a spatial index, clipped to the chip, and measured in metres on the ellipsoid. Unnamed things of one
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

from rsvlm import maps
from rsvlm.taxonomy import Category, taxonomy

SECTORS = ("northwest", "north", "northeast", "west", "centre", "east", "southwest", "south", "southeast")
"""The nine sectors of a chip, row by row, as in `worldmap`."""

EIGHT_DIRECTIONS = ("east", "northeast", "north", "northwest", "west", "southwest", "south", "southeast")
"""Compass directions, counter-clockwise from east, as in `worldmap`."""

NOT_FROM_ABOVE = "not seen from above"
UNDERGROUND = "underground"
INDOORS = "indoors"
TOO_SMALL = "too small at this resolution"
TOO_THIN = "too thin at this resolution"
TOO_SHORT = "too short at this resolution"
HIDDEN = (None, NOT_FROM_ABOVE, UNDERGROUND, INDOORS, TOO_SMALL, TOO_THIN, TOO_SHORT)
"""Why a landmark is not visible; none: it is."""

SHORTEST_LINE_PX = 6.0
"""Shortest visible line, in pixels."""

THINNEST_AREA_PX = 0.5
"""Thinnest visible area: twice its area over its outline, in pixels."""

MOST_VISIBLE, MOST_HIDDEN = 24, 6
"""Landmarks listed for one chip, the most prominent ones."""

MAX_VERTICES = 50
"""Vertices of a landmark's geometry, at most."""

_POINT, _LINE, _AREA = 0, 1, 2
_BATCH = 512
_WGS84_A, _WGS84_E2 = 6_378_137.0, 0.00669437999014


@dataclass(frozen=True)
class Index:
    """Features in a spatial index, with what `describe` asks of every one of them in arrays `(F,)`.

    Attributes:
        tree: shapely.STRtree of the geometries.
        bounds: `(F, 4)`, `west, south, east, north` in degrees.
        kind: Dimension of the geometry: 0 point, 1 line, 2 area.
        category: Position of its category in the taxonomy.
        name: Code of its name; -1: none.
        extent: Area or length, in degrees; 0 for points.
        size_m: Side of a point, width of a line, in metres.
        smallest_px: Smallest visible size, in pixels.
        interest: As in the taxonomy.
        countable: Whether features of its category are things, and not pieces.
        linear: Whether its category is drawn as a line, so that its size is a width.
        hidden: Position in `HIDDEN` of why it can never be seen; 0: it can.
    """

    tree: object
    bounds: np.ndarray
    kind: np.ndarray
    category: np.ndarray
    name: np.ndarray
    extent: np.ndarray
    size_m: np.ndarray
    smallest_px: np.ndarray
    interest: np.ndarray
    countable: np.ndarray
    linear: np.ndarray
    hidden: np.ndarray


def index(features: maps.Features) -> Index:
    """Build the spatial index of a map.

    Args:
        features: What `maps.read` or `maps.load` gave.

    Raises:
        DataError: The taxonomy is broken.
    """
    import shapely

    categories = taxonomy()
    order = {name: number for number, name in enumerate(categories)}
    entries = [categories[name] for name in features.table["category"]]
    names = pd.factorize(features.table["name"].fillna("").map(str.casefold))
    code = np.where(features.table["name"].isna(), -1, names[0])
    kind = shapely.get_dimensions(features.geometry)
    size = np.array([entry.typical_size_m for entry in entries], float)
    tags = features.table["tags"].tolist()
    for i in np.flatnonzero(kind == _LINE):
        size[i] = _width_m(tags[i]) or size[i]
    return Index(
        tree=shapely.STRtree(features.geometry),
        bounds=shapely.bounds(features.geometry).reshape(-1, 4),
        kind=kind,
        category=np.array([order[entry.name] for entry in entries], int),
        name=np.asarray(code, int),
        extent=np.where(kind == _AREA, shapely.area(features.geometry), shapely.length(features.geometry)),
        size_m=size,
        smallest_px=np.array([entry.smallest_visible_px for entry in entries], float),
        interest=np.array([entry.interest for entry in entries], float),
        countable=np.array([entry.countable for entry in entries], bool),
        linear=np.array([entry.shape == "line" for entry in entries], bool),
        hidden=np.array([_never_seen(entry, one, k) for entry, one, k in zip(entries, tags, kind)], int),
    )


def describe(features: maps.Features, index: Index, chips: pd.DataFrame) -> list[list[dict]]:
    """List the landmarks of chips, visible ones first, most prominent first.

    The prominence is `interest * name * (0.15 + 0.25 * inside + 0.6 * extent)`: `interest` is the category's, `name` is 1 with a
    name and 0.8 without, `inside` is the part of the thing that lies in the chip, and `extent`, at most 1, is the root of the
    share for areas, the length over twice the chip's side for lines, and three times the size over the chip's side for points.

    Args:
        features: The map.
        index: Its index, from `index`.
        chips: Rows with `west south east north` in degrees, `gsd_m` and `size_px`.

    Returns:
        One list per chip, in their order, of dictionaries that JSON can hold: `name`, `names` (by language), `category`;
        `lon lat` of a point of it inside the chip (beyond 180 where the chip is); `position` (one of `SECTORS`); `by_sector`
        (nine counts in the order of `SECTORS`: of things, or 1 where a single thing reaches); `area_m2` and `share` of the chip
        for areas and `length_m` for lines, of what lies inside the chip; `size_px` (root of the area, length of a line, usual
        size of a point; of the largest where they are several); `prominence`; `visible`, `hidden_because` (one of `HIDDEN`);
        `count` (things that are told as one; of roads, forests and the like the pieces that do not hang together); `cut`
        (whether the chip's edge cuts it); `source licence attribution`; and `geometry` (GeoJSON in degrees, clipped, within a
        pixel or more where that takes more than `MAX_VERTICES` vertices; points for things told as one).

    Source: our choice; the paper does not publish how landmarks were chosen.
    """
    columns = {
        name: features.table[name].tolist() for name in ("name", "names", "category", "source", "licence", "attribution")
    }
    boxes = chips[["west", "south", "east", "north"]].to_numpy(np.float64)
    gsd, size = chips["gsd_m"].to_numpy(np.float64), chips["size_px"].to_numpy(np.float64)
    found: list[list[dict]] = []
    for start in range(0, len(chips), _BATCH):  # memory stays that of one batch
        part = slice(start, start + _BATCH)
        found += _describe(features.geometry, columns, index, boxes[part], gsd[part], size[part])
    return found


def relations(landmarks: Sequence[dict], most: int = 4) -> list[dict]:
    """Tell where some landmarks lie as seen from others.

    Taken are pairs of visible single things that lie apart and neither of which fills more than a quarter of the chip, the most
    prominent first, with no landmark in more than two pairs.

    Args:
        landmarks: Those of one chip, from `describe`.
        most: Pairs wanted.

    Returns:
        `{"from": i, "to": j, "distance_m", "direction"}`: landmark `j` lies `direction` (one of `EIGHT_DIRECTIONS`) of landmark
        `i`; the distance is that between their nearest points. The direction leads from the point of `i` that is nearest to the
        middle of `j`, and is told only where that from middle to middle is not far from it.
    """
    import shapely

    singles = [
        i
        for i, mark in enumerate(landmarks)
        if mark["visible"] and mark["count"] == 1 and (mark["share"] or 0.0) <= 0.25 and mark["position"]
    ][:7]
    if len(singles) < 2:
        return []
    # The larger one is where the smaller is seen from.
    singles.sort(key=lambda i: -(landmarks[i]["share"] or 0.0) - (landmarks[i]["length_m"] or 0.0))
    lat = float(np.mean([landmarks[i]["lat"] for i in singles]))
    scale = np.array(_metres_per_degree(lat))
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
    found, used = [], np.zeros(len(singles), int)
    for pair in np.argsort(-weight[a] * weight[b], kind="stable"):
        first, second = a[pair], b[pair]
        if distance[pair] <= 1.0 or not agrees[pair] or max(used[first], used[second]) >= 2:
            continue
        used[[first, second]] += 1
        turn = int(np.round(np.degrees(np.arctan2(edge[pair, 1], edge[pair, 0])) / 45.0)) % 8
        found.append(
            {
                "from": singles[first],
                "to": singles[second],
                "distance_m": round(float(distance[pair]), 1),
                "direction": EIGHT_DIRECTIONS[turn],
            }
        )
        if len(found) == most:
            break
    return found


def _describe(geometry, columns: dict, index: Index, boxes, gsd_m, size_px) -> list[list[dict]]:
    chip, row, box = _pairs(index, boxes)
    found: list[list[dict]] = [[] for _ in range(len(boxes))]
    if not len(chip):
        return found
    clipped, cut = _clip(geometry[row], box, index.bounds[row], index.kind[row])
    inside = clipped != None  # noqa: E711 (an array)
    chip, row, box, clipped, cut = chip[inside], row[inside], box[inside], clipped[inside], cut[inside]
    if not len(chip):
        return found
    measured = _Measured.of(clipped, box, index.kind[row], gsd_m[chip])
    hidden = _hidden(measured, index, row, gsd_m[chip])
    group, kept = _group(index, chip, row, hidden)
    parts = np.split(kept, np.flatnonzero(np.diff(group[kept])) + 1)
    for members in parts:
        # Largest first: it lends the group its name, position and size.
        if len(members) > 1:
            members = members[np.argsort(-measured.extent_m[members], kind="stable")]
        here = chip[members[0]]
        found[here].append(
            _landmark(columns, index, row[members], measured, members, hidden[members], cut, gsd_m[here], size_px[here])
        )
    for marks in found:
        marks.sort(key=lambda mark: (not mark["visible"], -mark["prominence"]))
        visible = sum(mark["visible"] for mark in marks)
        del marks[visible + MOST_HIDDEN :], marks[min(visible, MOST_VISIBLE) : visible]
    _draw(found, measured)
    return found


def _pairs(index: Index, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return chip, feature and the chip's box in the feature's longitudes for everything that meets, ordered by chip."""
    import shapely

    parts = []
    east = index.bounds[:, 2].max(initial=-np.inf)
    for shift, some in ((0.0, slice(None)), (-360.0, boxes[:, 2] > 180.0), (360.0, boxes[:, 0] + 360.0 <= east)):
        moved = boxes + (shift, 0.0, shift, 0.0)
        chips = np.arange(len(boxes))[some]
        if len(chips):
            pair = index.tree.query(shapely.box(*moved[chips].T), predicate="intersects")
            parts.append((chips[pair[0]], pair[1], moved[chips[pair[0]]]))
    chip, row, box = (np.concatenate([part[i] for part in parts]) for i in range(3))
    order = np.lexsort((row, chip))
    return chip[order], row[order], box[order]


def _clip(geometry, box, bounds, kind) -> tuple[np.ndarray, np.ndarray]:
    """Return what lies inside the boxes, none where nothing of the feature's own dimension does, and whether anything was cut."""
    import shapely

    cut = ~((bounds[:, :2] >= box[:, :2]) & (bounds[:, 2:] <= box[:, 2:])).all(axis=1)
    result = geometry.copy()
    where = np.flatnonzero(cut & (kind > _POINT))
    if len(where):
        rectangles = shapely.box(*box[where].T)
        shapely.prepare(geometry[where])  # a lake under many chips is asked many times
        full = shapely.covers(geometry[where], rectangles)
        result[where[full]] = rectangles[full]
        where, rectangles = where[~full], rectangles[~full]
        # Clipping by rectangle is quick for outlines of thousands of vertices, but may give rings that touch themselves.
        large = shapely.get_num_coordinates(geometry[where]) > 200
        for i in where[large]:
            result[i] = shapely.clip_by_rect(geometry[i], *box[i])
        bad = ~large
        bad[large] = ~shapely.is_valid(result[where[large]])
        result[where[bad]] = shapely.intersection(geometry[where[bad]], rectangles[bad])
        for i in where[shapely.get_type_id(result[where]) == 7]:
            result[i] = _of_dimension(result[i], kind[i])
    lost = shapely.is_empty(result) | (shapely.get_dimensions(result) < kind)
    result[lost] = None
    return result, cut


def _of_dimension(collection, kind: int):
    import shapely

    parts = shapely.get_parts(shapely.get_parts(collection))
    return shapely.union_all(parts[shapely.get_dimensions(parts) == kind])


@dataclass(frozen=True)
class _Measured:
    """Pieces of features in metres from their chip's middle, and what was measured on them."""

    shape: np.ndarray
    degrees: np.ndarray
    origin: np.ndarray
    scale: np.ndarray
    box: np.ndarray
    kind: np.ndarray
    gsd_m: np.ndarray
    area_m2: np.ndarray
    length_m: np.ndarray
    thickness_m: np.ndarray
    extent_m: np.ndarray
    lonlat: np.ndarray
    middle: np.ndarray
    sector: np.ndarray
    reaches: np.ndarray
    share: np.ndarray

    @staticmethod
    def of(clipped, box, kind, gsd_m) -> _Measured:
        import shapely

        bounds = shapely.bounds(clipped)
        origin = (box[:, :2] + box[:, 2:]) / 2
        # East to west is measured at the latitude of the piece itself: chips may be large.
        scale = np.stack(_metres_per_degree((bounds[:, 1] + bounds[:, 3]) / 2), axis=1)
        coordinates, pair = shapely.get_coordinates(clipped, return_index=True)
        shape = shapely.set_coordinates(clipped.copy(), (coordinates - origin[pair]) * scale[pair])
        area = shapely.area(shape)
        outline = shapely.length(shape)
        middle = shapely.get_coordinates(shapely.centroid(shape))
        areas = np.flatnonzero(kind == _AREA)
        odd = areas[~shapely.intersects_xy(shape[areas], *middle[areas].T)] if len(areas) else areas
        middle[odd] = shapely.get_coordinates(shapely.point_on_surface(shape[odd]))
        lines = np.flatnonzero(kind == _LINE)
        middle[lines] = shapely.get_coordinates(shapely.line_interpolate_point(_longest(shape[lines]), 0.5, normalized=True))
        side = (box[:, 2:] - box[:, :2]) * scale
        lonlat = np.clip(middle / scale + origin, box[:, :2], box[:, 2:])
        lonlat[:, 0] += _turn(box)
        lonlat = lonlat.round(7)
        sector = _sectors(middle / side)
        share = np.minimum(area / side.prod(axis=1), 1.0)
        degrees = np.where(kind == _AREA, shapely.area(clipped), shapely.length(clipped))
        return _Measured(
            shape,
            degrees,
            origin,
            scale,
            box,
            kind,
            gsd_m,
            area,
            np.where(kind == _LINE, outline, 0.0),
            np.where(kind == _AREA, 2 * area / np.maximum(outline, 1e-9), 0.0),
            np.where(kind == _AREA, np.sqrt(area), outline),
            lonlat,
            middle,
            sector,
            _reaches(shape, kind, side, sector, share),
            share,
        )


def _longest(lines: np.ndarray) -> np.ndarray:
    """Return the longest part of each line."""
    import shapely

    parts, line = shapely.get_parts(lines, return_index=True)
    order = np.lexsort((shapely.length(parts), line))
    return parts[order[np.append(np.diff(line[order]) > 0, True)]] if len(lines) else lines


def _sectors(place: np.ndarray) -> np.ndarray:
    """Return the sectors of places `(..., 2)` measured from a chip's middle, east and north, in sides."""
    column = np.clip(np.floor((place[..., 0] + 0.5) * 3), 0, 2).astype(int)
    return np.clip(np.floor((0.5 - place[..., 1]) * 3), 0, 2).astype(int) * 3 + column


def _reaches(shape, kind, side, sector, share) -> np.ndarray:
    """Return `(P, 9)`, bool: the sector of its middle, those half covered by an area, and those with a tenth of a line."""
    import shapely

    reaches = np.zeros((len(shape), 9), bool)
    reaches[np.arange(len(shape)), sector] = True
    lines = np.flatnonzero(kind == _LINE)
    if len(lines):
        steps = (np.arange(10) + 0.5) / 10
        points = shapely.line_interpolate_point(_longest(shape[lines])[:, None], steps[None, :], normalized=True)
        at = _sectors(shapely.get_coordinates(points).reshape(len(lines), 10, 2) / side[lines, None, :])
        reaches[lines] |= (at[..., None] == np.arange(9)).any(axis=1)
    # Half a sector is a twentieth of the chip.
    areas = np.flatnonzero((kind == _AREA) & (share > 0.05))
    if len(areas):
        ticks = (np.arange(6) + 0.5) / 6 - 0.5
        grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
        at = grid[None] * side[areas, None, :]
        shapely.prepare(shape[areas])
        covered = shapely.contains_xy(shape[areas][:, None], at[..., 0], at[..., 1])
        reaches[areas] |= (covered[..., None] & (_sectors(grid)[:, None] == np.arange(9))).sum(axis=1) >= 2
    return reaches


def _hidden(measured: _Measured, index: Index, row, gsd_m) -> np.ndarray:
    """Apply the visibility rule to every piece, but for the length of lines, which may come in pieces."""
    size = np.where(measured.kind == _AREA, np.sqrt(measured.area_m2), index.size_m[row])
    # Rivers and piers drawn as areas are as visible as they are wide.
    size = np.where((measured.kind == _AREA) & index.linear[row], measured.thickness_m, size) / gsd_m
    thin = (measured.kind == _AREA) & (measured.thickness_m < THINNEST_AREA_PX * gsd_m)
    small = np.where(measured.kind == _LINE, HIDDEN.index(TOO_THIN), HIDDEN.index(TOO_SMALL))
    never = index.hidden[row]
    return np.select(
        [never > 0, size < index.smallest_px[row], thin],
        [never, small, HIDDEN.index(TOO_THIN)],
        0,
    )


def _group(index: Index, chip, row, hidden) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of every piece, and the pieces to keep, ordered by group.

    Things with a name are one where category and name agree; those without where the category does, and all of them can be
    seen or none. Beside an area, lines and points of the same name are another drawing of the same thing, as with rivers.
    """
    named = index.name[row] >= 0
    keys = pd.DataFrame({"chip": chip, "category": index.category[row], "name": index.name[row]})
    keys["hidden"] = np.where(named, 0, hidden)
    group = keys.groupby(list(keys.columns), sort=False).ngroup().to_numpy()
    highest = np.zeros(group.max() + 1, int)
    np.maximum.at(highest, group, index.kind[row])
    kept = np.flatnonzero((~named & index.countable[row]) | (index.kind[row] == highest[group]))
    return group, kept[np.argsort(group[kept], kind="stable")]


def _landmark(columns, index: Index, rows, measured: _Measured, members, hidden, cut, gsd_m, size_px) -> dict:
    """Make one landmark of its members, the largest first; `_draw` replaces the members under `geometry`."""
    first, row = members[0], int(rows[0])
    # Lines are cut where a name or a speed limit changes: what counts is what hangs together.
    countable = bool(index.countable[row] and measured.kind[first] != _LINE)
    # What is drawn twice is seen if either drawing says so.
    reason = int(hidden.min())
    area, length = float(measured.area_m2[members].sum()), float(measured.length_m[members].sum())
    if not reason and measured.kind[first] == _LINE and length < SHORTEST_LINE_PX * gsd_m:
        reason = HIDDEN.index(TOO_SHORT)
    count = len(members) if countable else _connected(measured.shape[members])
    sector, by_sector = int(measured.sector[first]), measured.reaches[first].astype(int)
    if len(members) > 1:
        if countable:
            by_sector = np.bincount(measured.sector[members], minlength=9)
            sector = int(by_sector.argmax())
            first = next(member for member in members if measured.sector[member] == sector)
        else:
            by_sector = measured.reaches[members].any(axis=0).astype(int)
    share = min(1.0, float(measured.share[members].sum()))
    kind, side_m = measured.kind[members[0]], gsd_m * size_px
    size = float((measured.extent_m[members[0]] if kind else index.size_m[row]) / gsd_m)
    extent = min(1.0, (3 * size / size_px, length / (2 * side_m), share**0.5)[kind])
    inside = min(1.0, measured.degrees[members].sum() / max(index.extent[rows].sum(), 1e-30)) if kind else 1.0
    weight = index.interest[row] * (1.0 if columns["name"][row] else 0.8) * (0.15 + 0.25 * inside + 0.6 * extent)
    lon, lat = measured.lonlat[first].tolist()
    names = columns["names"][row]
    one = {name: _joined(columns[name], rows) for name in ("source", "licence", "attribution")}
    return {
        "name": columns["name"][row],
        "names": dict(names),
        "category": columns["category"][row],
        "lon": lon,
        "lat": lat,
        "position": SECTORS[sector],
        "by_sector": by_sector.tolist(),
        "area_m2": float(f"{area:.4g}") if kind == _AREA else None,
        "length_m": float(f"{length:.4g}") if kind == _LINE else None,
        "share": round(share, 5) if kind == _AREA else None,
        "size_px": round(size, 1),
        "prominence": round(float(weight), 4),
        "visible": reason == 0,
        "hidden_because": HIDDEN[reason],
        "count": count,
        "cut": bool(cut[members].any()),
        **one,
        "geometry": (members, countable),
    }


def _connected(shapes: np.ndarray) -> int:
    """Return how many of the shapes there are when those that touch are one."""
    import shapely

    if len(shapes) == 1 or len(shapes) > 100:
        return len(shapes)
    # Pieces of one chip are measured at slightly different latitudes; half a metre bridges that.
    near = shapely.dwithin(shapes[:, None], shapes[None, :], 0.5)
    for _ in range(len(shapes).bit_length()):
        near = (near.astype(np.float32) @ near.astype(np.float32)) > 0
    return len(np.unique(near.argmax(axis=1)))


def _joined(values: list, rows: np.ndarray) -> str:
    return values[rows[0]] if len(rows) == 1 else "; ".join(dict.fromkeys(values[row] for row in rows))


def _draw(found: list[list[dict]], measured: _Measured) -> None:
    """Put GeoJSON in the place of members: simplified, in degrees, inside the chip."""
    import shapely

    marks = [mark for one in found for mark in one]
    if not marks:
        return
    shapes = np.empty(len(marks), object)
    for i, mark in enumerate(marks):
        members, countable = mark["geometry"]
        if len(members) == 1:
            shapes[i] = measured.shape[members[0]]
        elif countable or measured.kind[members[0]] == _POINT:
            shapes[i] = shapely.multipoints(measured.middle[members[:MAX_VERTICES]])
        else:
            # Pieces are measured at their own latitudes; for a drawing, those of one chip are near enough.
            whole = shapely.union_all(measured.shape[members])
            shapes[i] = shapely.line_merge(whole) if whole.geom_type == "MultiLineString" else whole
    first = np.array([mark["geometry"][0][0] for mark in marks])
    shapes = _simplified(shapes, measured.gsd_m[first])
    coordinates, row = shapely.get_coordinates(shapes, return_index=True)
    degrees = coordinates / measured.scale[first[row]] + measured.origin[first[row]]
    box = measured.box[first]
    # Features may be in longitudes a turn away from those of the chip.
    degrees = np.clip(degrees, box[row, :2], box[row, 2:])
    degrees[:, 0] += _turn(box[row])
    shapes = shapely.set_coordinates(shapes, degrees.round(7))
    for mark, text in zip(marks, shapely.to_geojson(shapes)):
        mark["geometry"] = json.loads(text)


def _simplified(shapes: np.ndarray, tolerance_m: np.ndarray) -> np.ndarray:
    """Simplify to a pixel, and further where there are still too many vertices."""
    import shapely

    shapes = shapes.copy()
    several = np.flatnonzero(shapely.get_num_coordinates(shapes) > 5)
    shapes[several] = shapely.simplify(shapes[several], tolerance_m[several])
    for doubling in range(1, 7):
        large = several[shapely.get_num_coordinates(shapes[several]) > MAX_VERTICES]
        if not len(large):
            return shapes
        shapes[large] = shapely.simplify(shapes[large], tolerance_m[large] * 2**doubling)
    for i in large[shapely.get_num_coordinates(shapes[large]) > MAX_VERTICES]:
        parts = shapely.get_parts(shapes[i])
        if shapes[i].geom_type == "MultiPoint":
            shapes[i] = shapely.multipoints(parts[:MAX_VERTICES])
            continue
        parts = parts[np.argsort(-(shapely.area(parts) + shapely.length(parts)), kind="stable")]
        if shapely.get_dimensions(shapes[i]) == _AREA:
            parts = shapely.polygons(shapely.get_exterior_ring(parts))
        fits = np.cumsum(shapely.get_num_coordinates(parts)) <= MAX_VERTICES
        shapes[i] = shapely.union_all(parts[fits]) if fits.any() else shapely.envelope(parts[0])
    return shapes


def _turn(box: np.ndarray) -> np.ndarray:
    """Return what brings the longitudes of moved boxes back: the western edge of a chip is in [-180, 180)."""
    return -360.0 * np.floor((box[..., 0] + 180.0) / 360.0)


def _metres_per_degree(lat: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return metres of a degree of longitude and of latitude at latitudes in degrees, on the WGS 84 ellipsoid."""
    sine2 = np.sin(np.radians(lat)) ** 2
    root = np.sqrt(1 - _WGS84_E2 * sine2)
    east = np.radians(_WGS84_A * np.cos(np.radians(lat)) / root)
    return np.maximum(east, 1e-6), np.radians(_WGS84_A * (1 - _WGS84_E2) / root**3)


def _never_seen(entry: Category, tags: dict[str, str], kind: int) -> int:
    """Return the position in `HIDDEN` of why a feature is never seen from above; 0: it is."""
    if not entry.visible_from_above:
        return HIDDEN.index(NOT_FROM_ABOVE)
    below = tags.get("tunnel", "no") not in ("no", "avalanche_protector") or tags.get("location") in (
        "underground",
        "underwater",
    )
    if below or tags.get("covered") == "yes" or re.fullmatch(r"-\d+(\.0)?", tags.get("layer", "")) and entry.shape != "area":
        return HIDDEN.index(UNDERGROUND)
    if tags.get("indoor", "no") != "no" or kind == _POINT and tags.get("level", "0") not in ("0", ""):
        return HIDDEN.index(INDOORS)
    return 0


def _width_m(tags: dict[str, str]) -> float | None:
    """Return the width of a line in metres as its tags tell it, or none."""
    for key, factor in (("width", 1.0), ("est_width", 1.0), ("lanes", 3.25)):
        if match := re.match(r"(\d{1,3}(?:\.\d+)?)\s*m?$", tags.get(key, "")):
            return min(max(float(match[1]) * factor, 0.3), 500.0)
    return None
