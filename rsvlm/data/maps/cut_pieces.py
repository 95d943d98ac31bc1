"""Pieces that a map was cut into, at the borders of tiles, put together again; and nothing else.

An identity is trusted where its form makes it one of a kind. Any other may be a class number, the zero of every new layer, or a
count that starts anew in each file: features that share one are pieces of one thing only where a border between them shows it.

Source: our choice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from rsvlm.data.maps.raw import is_unique
from rsvlm.errors import need

shapely = need("shapely", "data")

TOUCHING_DEG = 1.5e-6
"""Distance, in degrees, up to which pieces touch: maps round their coordinates to six digits."""

_LEAST_TRUST = 0.5
_SAME = 0.5  # share of the smaller one from which two shapes over each other are one thing drawn twice


def joined_pieces(
    sources: Sequence[str],
    identities: Sequence[str],
    categories: Sequence[str],
    names: Sequence[str | None],
    geometry: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Join pieces of the same source, identity, category, name and dimension that touch or lie over each other.

    Of identities that are not one of a kind by their form, none is trusted that all features of a source share, and none at all
    of a source in which most features of one identity lie apart; between areas of one such identity there must be a straight
    border from north to south or from west to east, as between tiles, or most of one must lie in the other.

    Args:
        sources: Source of each feature.
        identities: Identity of each; empty where it has none.
        categories: Category of each.
        names: Name of each, or none.
        geometry: `(F,)`, in degrees.

    Returns:
        `(F,)` geometries, the first of the pieces of one thing being whole; `(F,)` bool, the other pieces.
    """
    geometry, drop = geometry.copy(), np.zeros(len(geometry), bool)
    dimensions = shapely.get_dimensions(geometry).tolist()
    groups: dict[tuple, list[int]] = defaultdict(list)
    for row, key in enumerate(zip(sources, identities, categories, names, dimensions)):
        if key[1]:
            groups[key].append(row)
    repeated = {key: rows for key, rows in groups.items() if len(rows) > 1}
    distrusted = _distrusted(sources, identities, repeated, geometry)
    for key, rows in repeated.items():
        unique = is_unique(key[1])
        if not unique and key[0] in distrusted:
            continue
        for members in _clusters(geometry[rows], not unique):
            pieces = np.array(rows)[members]
            if len(pieces) > 1:
                whole = shapely.union_all(geometry[pieces])
                geometry[pieces[0]] = shapely.line_merge(whole) if whole.geom_type == "MultiLineString" else whole
                drop[pieces[1:]] = True
    return geometry, drop


def _distrusted(sources: Sequence[str], identities: Sequence[str], repeated: dict, geometry: np.ndarray) -> set[str]:
    """Return the sources whose identities tell little: all features share one, or most that share one lie apart."""
    different = defaultdict(set)
    for source, identity in zip(sources, identities):
        different[source].add(identity)
    sharing, touching = Counter(), Counter()
    for key, rows in repeated.items():
        if not is_unique(key[1]):
            sharing[key[0]] += len(rows)
            first, second = shapely.STRtree(geometry[rows]).query(geometry[rows], predicate="dwithin", distance=TOUCHING_DEG)
            touching[key[0]] += len(np.unique(first[first != second]))
    apart = {source for source, count in sharing.items() if touching[source] <= _LEAST_TRUST * count}
    return apart | {source for source in sharing if len(different[source]) == 1}


def _clusters(shapes: np.ndarray, strict: bool) -> list[list[int]]:
    """Group shapes that are pieces of one thing; their numbers, in ascending order.

    Args:
        shapes: `(n,)`, of one dimension.
        strict: Whether a border between two of them has to show that they were cut.
    """
    root = list(range(len(shapes)))

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = number = root[root[number]]
        return number

    first, second = shapely.STRtree(shapes).query(shapes, predicate="dwithin", distance=TOUCHING_DEG)
    for a, b in zip(first.tolist(), second.tolist()):
        if a < b and find(a) != find(b) and (not strict or _were_one(shapes[a], shapes[b])):
            root[find(b)] = find(a)
    clusters: dict[int, list[int]] = defaultdict(list)
    for number in range(len(shapes)):
        clusters[find(number)].append(number)
    return list(clusters.values())


def _were_one(one: object, other: object) -> bool:
    """Tell whether two shapes that touch look like pieces of one."""
    dimension = shapely.get_dimensions(one)
    if dimension == 0:
        return True
    if dimension == 1:
        # End to end, and not crossing.
        ends = [shapely.get_point(shapely.get_parts(shape)[:, None], [0, -1]).ravel() for shape in (one, other)]
        near = shapely.distance(ends[0][:, None], ends[1][None, :]) <= TOUCHING_DEG
        return bool(near.any()) or bool(shapely.equals_exact(one, other, TOUCHING_DEG))
    smaller = min(one.area, other.area)
    if smaller > 0 and shapely.intersection(one, other).area > _SAME * smaller:
        return True
    return any(_border(*sorted((one, other), key=lambda shape: shape.bounds[axis]), axis) for axis in (0, 1))


def _border(first: object, second: object, axis: int) -> bool:
    """Tell whether two areas end at a straight line across this axis, or each inside the other, over the same stretch of it."""
    end, start = first.bounds[axis + 2], second.bounds[axis]
    if start > end + TOUCHING_DEG:
        return False
    one, other = (_stretches(shape, axis, at) for shape, at in ((first, end), (second, start)))
    both = np.minimum(one[:, None, 1], other[None, :, 1]) - np.maximum(one[:, None, 0], other[None, :, 0])
    return bool((both > TOUCHING_DEG).any())


def _stretches(shape: object, axis: int, at: float) -> np.ndarray:
    """Return the ends `(n, 2)`, along the other axis, of the edges of an area that lie on a line across this one."""
    ends = []
    for ring in shapely.get_rings(shapely.get_parts(shape)):
        points = shapely.get_coordinates(ring)
        on = np.abs(points[:, axis] - at) <= TOUCHING_DEG
        edges = np.flatnonzero(on[:-1] & on[1:])
        ends.append(np.sort(np.stack([points[edges, 1 - axis], points[edges + 1, 1 - axis]], axis=1), axis=1))
    return np.concatenate(ends)
