"""Where landmarks lie in their picture, by the outlines of both: which sectors one runs through, as the audit asks.

Source: our choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from rsvlm.data.landmarks.directions import SECTORS, sectors


def corners_of(record: Mapping) -> tuple[tuple[float, float], ...]:
    """Return the corners of a record's picture in degrees, clockwise from the upper left; those of its box where it tells no more."""
    if outline := record.get("outline_lonlat"):
        return tuple((lon, lat) for lon, lat in outline[:: len(outline) // 4])
    if not (box := record.get("bbox_lonlat")):
        return ()
    west, south, east, north = box
    return (west, north), (east, north), (east, south), (west, south)


def touched(mark: Mapping, corners: tuple[tuple[float, float], ...]) -> set[str]:
    """Return the sectors that the outline of a landmark runs through, in a picture with these corners."""
    if not corners or not isinstance(mark.get("geometry"), Mapping):
        return set()
    nw, ne, se, sw = np.array(corners, float)
    middle, right, down = (nw + ne + se + sw) / 4, (ne - nw + se - sw) / 2, (sw - nw + se - ne) / 2
    into_unit = np.linalg.inv(np.stack([right, down], axis=1))
    result = set()
    for line in _lines(mark["geometry"]):
        unit = into_unit @ (np.array([point[:2] for point in line], float) - middle).T + 0.5
        start, end = unit[:, : max(len(line) - 1, 1)], unit[:, min(len(line) - 1, 1) :]
        places = (start + (end - start) * np.arange(9)[:, None, None] / 8).swapaxes(0, 1).reshape(2, -1)
        result.update(SECTORS[number] for number in sectors(*places[:, ((places >= 0) & (places <= 1)).all(axis=0)]))
    return result


def _lines(shape) -> Iterator[list]:
    """Yield the runs of points of a GeoJSON geometry, or of its coordinates, however deep."""
    if isinstance(shape, Mapping):
        for part in shape.get("geometries") or [shape.get("coordinates")]:
            yield from _lines(part)
    elif shape and isinstance(shape[0], (int, float)):
        yield [shape]
    elif shape and isinstance(shape[0][0], (int, float)):
        yield shape
    else:
        for part in shape or ():
            yield from _lines(part)
