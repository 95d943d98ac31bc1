"""What lies of the features of a map inside chips: cut out, placed, measured in metres on the ellipsoid, and drawn.

A piece is one feature in one chip. `cut_out` gives all pieces of a batch of chips as arrays of one length, `outlines` brings shapes
made of them back into degrees as short GeoJSON, and `connected` tells how many hang together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rsvlm.data.landmarks.directions import sectors
from rsvlm.errors import need

shapely = need("shapely", "data")

POINT, LINE, AREA = 0, 1, 2
"""Kinds of geometry, by dimension."""

MAX_VERTICES = 50
"""Vertices of a landmark's geometry, at most."""

_BOX = ["west", "south", "east", "north"]
_WGS84_A, _WGS84_E2 = 6_378_137.0, 0.00669437999014


@dataclass(frozen=True)
class Pieces:
    """Pieces of features, ordered by chip and feature, in arrays `(P,)`."""

    chip: np.ndarray  # position of its chip
    feature: np.ndarray  # position of its feature
    kind: np.ndarray  # `POINT`, `LINE` or `AREA`
    box: np.ndarray  # `(P, 4)`, box around the chip in the longitudes of the feature: `west, south, east, north` in degrees
    cut: np.ndarray  # whether the chip's edge cuts the feature
    shape: np.ndarray  # geometry in metres east and north of the chip's middle
    origin: np.ndarray  # `(P, 2)`, the chip's middle in the longitudes of the feature, in degrees
    scale: np.ndarray  # `(P, 2)`, metres of a degree of longitude and of latitude
    extent_deg: np.ndarray  # area in square degrees or length in degrees; 0 for points
    area_m2: np.ndarray  # area; 0 for points and lines
    length_m: np.ndarray  # length; 0 for points and areas
    thickness_m: np.ndarray  # twice the area over the outline; 0 for points and lines
    extent_m: np.ndarray  # root of the area, or length; 0 for points
    share: np.ndarray  # share of the chip that it covers, at most 1
    middle: np.ndarray  # `(P, 2)`, a point of it, in metres as `shape`
    lonlat: np.ndarray  # `(P, 2)`, the same in degrees, beyond 180 where the chip is
    sector: np.ndarray  # position in `directions.SECTORS` of its middle
    reaches: (
        np.ndarray
    )  # `(P, 9)`, bool, the sector of its middle, those half under it, those with a tenth of a line or of a strip


def cut_out(tree, geometry: np.ndarray, bounds: np.ndarray, kind: np.ndarray, rings: np.ndarray) -> Pieces | None:
    """Cut features to chips and measure what is left of them.

    Args:
        tree: shapely.STRtree of the geometries.
        geometry: `(F,)`, geometries in degrees.
        bounds: `(F, 4)`, their `west, south, east, north`.
        kind: `(F,)`, their dimensions.
        rings: `(N, 4k, 2)`, outlines of chips in degrees, as of `imagery.ground.outlines`.

    Returns:
        The pieces; None where no feature lies in any chip.
    """
    pairs = _meeting(tree, bounds, rings)
    feature, box = pairs["feature"].to_numpy(), pairs[_BOX].to_numpy()
    chip = pairs["chip"].to_numpy()
    frames = rings[chip]
    frames[..., 0] += pairs["shift"].to_numpy()[:, None]
    pairs["kind"] = kind[feature]
    straight = _straight(rings)[chip]
    whole = ((bounds[feature, :2] >= box[:, :2]) & (bounds[feature, 2:] <= box[:, 2:])).all(axis=1)
    slanting = np.flatnonzero(whole & ~straight)
    whole[slanting] = shapely.covers(shapely.polygons(frames[slanting]), geometry[feature[slanting]])
    pairs["cut"] = ~whole
    pairs["clipped"] = _clipped(geometry[feature], box, frames, straight, pairs["kind"].to_numpy(), ~whole)
    inside = pairs["clipped"].notna().to_numpy()
    return _measured(pairs[inside], frames[inside]) if inside.any() else None


def _straight(rings: np.ndarray) -> np.ndarray:
    """Say which outlines `(N, 4k, 2)` are the boxes around them, to a ten-thousandth of a metre."""
    low, high = rings.min(axis=1, keepdims=True), rings.max(axis=1, keepdims=True)
    on_edge = (np.minimum(np.abs(rings - low), np.abs(rings - high)) < 1e-9).any(axis=2)
    at_corner = (np.minimum(np.abs(rings - low), np.abs(rings - high)) < 1e-9)[:, :: rings.shape[1] // 4].all(axis=(1, 2))
    return on_edge.all(axis=1) & at_corner


def _meeting(tree, bounds: np.ndarray, rings: np.ndarray) -> pd.DataFrame:
    """Return `chip`, `feature`, the chip's box in the feature's longitudes, and the `shift` to these, of all that meet.

    They are ordered by chip and feature.
    """
    parts = []
    boxes = np.concatenate([rings.min(axis=1), rings.max(axis=1)], axis=1)
    east = bounds[:, 2].max(initial=-np.inf)
    for shift, chosen in ((0.0, slice(None)), (-360.0, boxes[:, 2] > 180.0), (360.0, boxes[:, 0] + 360.0 <= east)):
        chips, moved = np.arange(len(boxes))[chosen], boxes[chosen] + (shift, 0.0, shift, 0.0)
        if len(chips):
            frames = shapely.polygons(rings[chosen] + (shift, 0.0))
            number, feature = tree.query(frames, predicate="intersects")
            part = pd.DataFrame(moved[number], columns=_BOX)
            parts.append(part.assign(chip=chips[number], feature=feature, shift=shift))
    return pd.concat(parts).sort_values(["chip", "feature"], kind="stable", ignore_index=True)


def _clipped(
    geometry: np.ndarray, box: np.ndarray, frames: np.ndarray, straight: np.ndarray, kind: np.ndarray, cut: np.ndarray
) -> np.ndarray:
    """Return what lies inside the outlines; None where nothing of the feature's own dimension does.

    Args:
        geometry: `(P,)`, features.
        box: `(P, 4)`, boxes around the outlines.
        frames: `(P, 4k, 2)`, outlines.
        straight: Whether an outline is its box.
        kind: `(P,)`, dimensions of the features.
        cut: Whether they reach beyond the outlines.
    """
    result = geometry.copy()
    where = np.flatnonzero(cut & (kind > POINT))
    if len(where):
        polygons = shapely.polygons(frames[where])
        shapely.prepare(geometry[where])  # a lake under many chips is asked many times
        full = shapely.covers(geometry[where], polygons)
        result[where[full]] = polygons[full]
        where, polygons = where[~full], polygons[~full]
        # Clipping by rectangle is quick for outlines of thousands of vertices, but may give rings that touch themselves.
        large = shapely.get_num_coordinates(geometry[where]) > 200
        for i in where[large]:
            result[i] = shapely.clip_by_rect(geometry[i], *box[i])
        bad = ~large
        bad[large] = ~shapely.is_valid(result[where[large]])
        result[where[bad]] = geometry[where[bad]]
        # The box is done where it is the outline.
        rest = bad | ~straight[where]
        result[where[rest]] = shapely.intersection(result[where[rest]], polygons[rest])
        # An edge that only touches the outline leaves points and lines beside the areas.
        for i in where[shapely.get_type_id(result[where]) == shapely.GeometryType.GEOMETRYCOLLECTION]:
            parts = shapely.get_parts(shapely.get_parts(result[i]))
            result[i] = shapely.union_all(parts[shapely.get_dimensions(parts) == kind[i]])
    result[shapely.is_empty(result) | (shapely.get_dimensions(result) < kind)] = None
    return result


def _measured(pairs: pd.DataFrame, frames: np.ndarray) -> Pieces:
    """Measure what was cut out: `chip feature kind cut clipped`, the box in four columns, and the outlines `(P, 4k, 2)`."""
    clipped, kind, box = pairs["clipped"].to_numpy(), pairs["kind"].to_numpy(), pairs[_BOX].to_numpy()
    # Into metres. East to west is measured at the latitude of the piece itself: chips may be large.
    bounds = shapely.bounds(clipped)
    origin = (box[:, :2] + box[:, 2:]) / 2
    scale = np.stack(metres_per_degree((bounds[:, 1] + bounds[:, 3]) / 2), axis=1)
    coordinates, row = shapely.get_coordinates(clipped, return_index=True)
    shape = shapely.set_coordinates(clipped.copy(), (coordinates - origin[row]) * scale[row])
    frames = (frames - origin[:, None]) * scale[:, None]
    frame = _Frame.of(frames)
    # How large it is.
    area, outline = shapely.area(shape), shapely.length(shape)
    share = np.minimum(area / np.maximum(shapely.area(shapely.polygons(frames)), 1e-30), 1.0)
    # Where it is: its middle is moved onto areas that bend around it, and along lines.
    middle = shapely.get_coordinates(shapely.centroid(shape))
    areas, lines = np.flatnonzero(kind == AREA), np.flatnonzero(kind == LINE)
    odd = areas[~shapely.intersects_xy(shape[areas], *middle[areas].T)] if len(areas) else areas
    middle[odd] = shapely.get_coordinates(shapely.point_on_surface(shape[odd]))
    middle[lines] = shapely.get_coordinates(shapely.line_interpolate_point(_longest(shape[lines]), 0.5, normalized=True))
    lonlat = np.clip(middle / scale + origin, box[:, :2], box[:, 2:])
    lonlat[:, 0] += _turn(box)
    sector = _sectors(frame.shares(middle))
    return Pieces(
        chip=pairs["chip"].to_numpy(),
        feature=pairs["feature"].to_numpy(),
        kind=kind,
        box=box,
        cut=pairs["cut"].to_numpy(),
        shape=shape,
        origin=origin,
        scale=scale,
        extent_deg=np.where(kind == AREA, shapely.area(clipped), shapely.length(clipped)),
        area_m2=area,
        length_m=np.where(kind == LINE, outline, 0.0),
        thickness_m=np.where(kind == AREA, 2 * area / np.maximum(outline, 1e-9), 0.0),
        extent_m=np.where(kind == AREA, np.sqrt(area), outline),
        share=share,
        middle=middle,
        lonlat=lonlat.round(7),
        sector=sector,
        reaches=_reaches(shape, kind, frame, sector, share) | _reached_by_strips(shape, kind, frame),
    )


@dataclass(frozen=True)
class _Frame:
    """Chips as parallelograms: `middle`, and the sides `right` and `up`, each `(P, 2)`, in metres as `Pieces.shape`."""

    middle: np.ndarray
    right: np.ndarray
    up: np.ndarray

    @classmethod
    def of(cls, frames: np.ndarray) -> _Frame:
        """Take the mean of opposite edges of outlines `(P, 4k, 2)`."""
        nw, ne, se, sw = np.moveaxis(frames[:, :: frames.shape[1] // 4], 1, 0)
        return cls((nw + ne + se + sw) / 4, (ne - nw + se - sw) / 2, (nw - sw + ne - se) / 2)

    def shares(self, at: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return places `(n, ..., 2)` of some chips, measured from their middles along their sides, in sides."""
        middle, right, up = (v[rows].reshape(-1, *(1,) * (at.ndim - 2), 2) for v in (self.middle, self.right, self.up))
        at = at - middle
        area = right[..., 0] * up[..., 1] - right[..., 1] * up[..., 0]
        across = (at[..., 0] * up[..., 1] - at[..., 1] * up[..., 0]) / area
        return np.stack([across, (right[..., 0] * at[..., 1] - right[..., 1] * at[..., 0]) / area], axis=-1)

    def places(self, shares: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the places `(n, m, 2)` in metres of shares `(m, 2)`, measured as by `shares`."""
        middle, right, up = (v[rows][:, None] for v in (self.middle, self.right, self.up))
        return middle + shares[None, :, :1] * right + shares[None, :, 1:] * up


def _reaches(shape: np.ndarray, kind: np.ndarray, frame: _Frame, sector: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return `(P, 9)`, bool, the sectors that pieces reach into, as in `Pieces`."""
    reaches = sector[:, None] == np.arange(9)
    lines = np.flatnonzero(kind == LINE)
    if len(lines):
        steps = (np.arange(10) + 0.5) / 10
        points = shapely.line_interpolate_point(_longest(shape[lines])[:, None], steps[None, :], normalized=True)
        at = _sectors(frame.shares(shapely.get_coordinates(points).reshape(len(lines), 10, 2), lines))
        reaches[lines] |= (at[..., None] == np.arange(9)).any(axis=1)
    # Half a sector is a twentieth of the chip.
    areas = np.flatnonzero((kind == AREA) & (share > 0.05))
    if len(areas):
        ticks = (np.arange(6) + 0.5) / 6 - 0.5
        grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
        at = frame.places(grid, areas)
        shapely.prepare(shape[areas])
        covered = shapely.contains_xy(shape[areas][:, None], at[..., 0], at[..., 1])
        reaches[areas] |= (covered[..., None] & (_sectors(grid)[:, None] == np.arange(9))).sum(axis=1) >= 2
    return reaches


def _reached_by_strips(shape: np.ndarray, kind: np.ndarray, frame: _Frame) -> np.ndarray:
    """Return `(P, 9)`, bool, the sectors with a tenth of an area that is long and thin, as a river or a railway yard."""
    reaches = np.zeros((len(shape), 9), bool)
    areas = np.flatnonzero(kind == AREA)
    side = np.minimum(np.hypot(*frame.right[areas].T), np.hypot(*frame.up[areas].T))
    area, outline = shapely.area(shape[areas]), shapely.length(shape[areas])
    # As a rectangle longer than a sector, and at least three times as long as it is wide.
    strips = areas[(outline * 3 / 8 > side / 3) & (4 * area < 3 / 16 * outline**2)]
    if len(strips):
        ticks = np.arange(4) / 3 - 0.5
        corners = np.stack(np.meshgrid(ticks, ticks), axis=-1)
        cells = np.stack([corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1]], axis=2).reshape(9, 4, 2)
        rings = frame.places(cells.reshape(-1, 2), strips).reshape(-1, 9, 4, 2)
        inside = shapely.area(shapely.intersection(shape[strips][:, None], shapely.polygons(rings)))
        enough = inside > 0.1 * shapely.area(shape[strips])[:, None]
        reaches[strips[:, None], _sectors(cells.mean(axis=1))[None]] = enough
    return reaches


def _longest(lines: np.ndarray) -> np.ndarray:
    """Return the longest part of each line."""
    parts, line = shapely.get_parts(lines, return_index=True)
    order = np.lexsort((shapely.length(parts), line))
    return parts[order[np.append(np.diff(line[order]) > 0, True)]] if len(lines) else lines


def _sectors(place: np.ndarray) -> np.ndarray:
    """Return the sectors of places `(..., 2)` measured from a chip's middle, to the right and upwards, in sides."""
    return sectors(place[..., 0] + 0.5, 0.5 - place[..., 1])


def _turn(box: np.ndarray) -> np.ndarray:
    """Return what brings the longitudes of moved boxes back: the western edge of a chip is in [-180, 180)."""
    return -360.0 * np.floor((box[..., 0] + 180.0) / 360.0)


def metres_per_degree(lat: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return metres of a degree of longitude and of latitude at latitudes in degrees, on the WGS 84 ellipsoid."""
    sine2 = np.sin(np.radians(lat)) ** 2
    root = np.sqrt(1 - _WGS84_E2 * sine2)
    east = np.radians(_WGS84_A * np.cos(np.radians(lat)) / root)
    return np.maximum(east, 1e-6), np.radians(_WGS84_A * (1 - _WGS84_E2) / root**3)


def connected(shapes: np.ndarray) -> int:
    """Return how many of the shapes `(n,)`, in metres, there are when those that touch are one."""
    if len(shapes) == 1 or len(shapes) > 100:
        return len(shapes)
    # Pieces of one chip are measured at slightly different latitudes; half a metre bridges that.
    near = shapely.dwithin(shapes[:, None], shapes[None, :], 0.5)
    for _ in range(len(shapes).bit_length()):
        near = (near.astype(np.float32) @ near.astype(np.float32)) > 0
    return len(np.unique(near.argmax(axis=1)))


def outlines(pieces: Pieces, groups: list[np.ndarray], dotted: list[bool], tolerance_m: np.ndarray) -> list[dict]:
    """Draw groups of pieces of one chip each: simplified, in degrees, inside the chip.

    Args:
        pieces: Pieces, as from `cut_out`.
        groups: Positions of the pieces of each drawing, at least one.
        dotted: Whether several pieces are drawn as their middles, and not as one shape.
        tolerance_m: `(G,)`, metres by which an outline may be off.

    Returns:
        GeoJSON of each group, of `MAX_VERTICES` vertices at most.
    """
    shapes = np.empty(len(groups), object)
    for i, (members, dots) in enumerate(zip(groups, dotted, strict=True)):
        if len(members) == 1:
            shapes[i] = pieces.shape[members[0]]
        elif dots:
            shapes[i] = shapely.multipoints(pieces.middle[members[:MAX_VERTICES]])
        else:
            # Pieces are measured at their own latitudes; for a drawing, those of one chip are near enough.
            whole = shapely.union_all(pieces.shape[members])
            shapes[i] = shapely.line_merge(whole) if whole.geom_type == "MultiLineString" else whole
    shapes = _simplified(shapes, tolerance_m)
    # Back into degrees, in the longitudes of the chip: a feature may be a turn away.
    coordinates, row = shapely.get_coordinates(shapes, return_index=True)
    first = np.array([members[0] for members in groups])[row]
    box = pieces.box[first]
    degrees = np.clip(coordinates / pieces.scale[first] + pieces.origin[first], box[:, :2], box[:, 2:])
    degrees[:, 0] += _turn(box)
    return [json.loads(text) for text in shapely.to_geojson(shapely.set_coordinates(shapes, degrees.round(7)))]


def _simplified(shapes: np.ndarray, tolerance_m: np.ndarray) -> np.ndarray:
    """Simplify shapes, and further where there are still too many vertices."""
    shapes = shapes.copy()
    several = np.flatnonzero(shapely.get_num_coordinates(shapes) > 5)
    shapes[several] = shapely.simplify(shapes[several], tolerance_m[several])
    for doubling in range(1, 7):
        large = several[shapely.get_num_coordinates(shapes[several]) > MAX_VERTICES]
        if not len(large):
            return shapes
        shapes[large] = shapely.simplify(shapes[large], tolerance_m[large] * 2**doubling)
    # What is still too long loses its holes and its smallest parts.
    for i in large[shapely.get_num_coordinates(shapes[large]) > MAX_VERTICES]:
        parts = shapely.get_parts(shapes[i])
        if shapes[i].geom_type == "MultiPoint":
            shapes[i] = shapely.multipoints(parts[:MAX_VERTICES])
            continue
        parts = parts[np.argsort(-(shapely.area(parts) + shapely.length(parts)), kind="stable")]
        if shapely.get_dimensions(shapes[i]) == AREA:
            parts = shapely.polygons(shapely.get_exterior_ring(parts))
        fits = np.cumsum(shapely.get_num_coordinates(parts)) <= MAX_VERTICES
        shapes[i] = shapely.union_all(parts[fits]) if fits.any() else shapely.envelope(parts[0])
    return shapes
