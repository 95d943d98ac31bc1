"""The inner loops of `earth_map` and `earth_facts`: classes of a mask inside boxes, measured pixels, points inside boxes."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def sector_counts(mask: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Count the cells of a class map in every sector of every box.

    A cell belongs to the sector that holds its centre, so the sectors of a box share no cell and miss none.

    Args:
        mask: `(R, C)`, uint8, classes 0 to 2; plate carree, row 0 in the north, column 0 at 180 degrees west.
        boxes: `(N, 4)`, float64, `west, south, east, north` in degrees; `east` may exceed 180.

    Returns:
        Counts `(N, 9, 3)`, int64: sectors row by row from the northwest, then classes.
    """
    rows, columns = mask.shape
    counts = np.zeros((boxes.shape[0], 9, 3), np.int64)
    for n in range(boxes.shape[0]):
        west, south, east, north = boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3]
        x0, x1 = (west + 180.0) * columns / 360.0, (east + 180.0) * columns / 360.0
        y0, y1 = (90.0 - north) * rows / 180.0, (90.0 - south) * rows / 180.0
        for sector in range(9):
            first_column = int(np.ceil(x0 + (x1 - x0) * (sector % 3) / 3.0 - 0.5))
            last_column = int(np.ceil(x0 + (x1 - x0) * (sector % 3 + 1) / 3.0 - 0.5))
            first_row = max(0, int(np.ceil(y0 + (y1 - y0) * (sector // 3) / 3.0 - 0.5)))
            last_row = min(rows, int(np.ceil(y0 + (y1 - y0) * (sector // 3 + 1) / 3.0 - 0.5)))
            ones, twos, cells = 0, 0, 0
            while first_column < last_column:
                # Runs that do not cross the map's edge, so that the inner loop is free of remainders.
                start = first_column % columns
                stop = min(columns, start + last_column - first_column)
                for r in range(first_row, last_row):
                    for c in range(start, stop):
                        ones += mask[r, c] == 1
                        twos += mask[r, c] == 2
                cells += (last_row - first_row) * (stop - start)
                first_column += stop - start
            counts[n, sector, 0] = cells - ones - twos
            counts[n, sector, 1] = ones
            counts[n, sector, 2] = twos
    return counts


@njit(cache=True, nogil=True)
def sample_classes(mask: np.ndarray, boxes: np.ndarray, size_px: int) -> np.ndarray:
    """Read a class map at the pixel centres of every box.

    Args:
        mask: `(R, C)`, uint8; plate carree, row 0 in the north, column 0 at 180 degrees west.
        boxes: `(N, 4)`, float64, `west, south, east, north` in degrees; `east` may exceed 180.
        size_px: Pixels on each side of a box.

    Returns:
        Classes `(N, size_px, size_px)`, uint8.
    """
    rows, columns = mask.shape
    classes = np.empty((boxes.shape[0], size_px, size_px), np.uint8)
    for n in range(boxes.shape[0]):
        west, south, east, north = boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3]
        for i in range(size_px):
            latitude = north - (i + 0.5) * (north - south) / size_px
            r = min(rows - 1, max(0, int((90.0 - latitude) * rows / 180.0)))
            for j in range(size_px):
                longitude = west + (j + 0.5) * (east - west) / size_px
                c = int((longitude + 180.0) * columns / 360.0) % columns
                classes[n, i, j] = mask[r, c]
    return classes


@njit(cache=True, nogil=True)
def measure_pixels(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Sum colours, roughness and white pixels over the land and the water of every sector.

    Roughness is the absolute difference of luma (0.299 R + 0.587 G + 0.114 B) between a pixel and its neighbours to the right
    and below, counted only where both are of the same kind, so that coasts do not count as rough. A pixel is white from luma
    150 on, when its channels differ by less than a fifth of its luma.

    Args:
        images: `(N, S, S, 3)`, uint8, 0 to 255.
        classes: `(N, S, S)`, uint8; 1 is land, everything else water.

    Returns:
        Sums `(N, 9, 2, 7)`, float64: sectors row by row from the northwest; land, then water; number of pixels, sum of red,
        green, blue, sum of luma differences, number of luma differences, number of white pixels.
    """
    size = images.shape[1]
    sums = np.zeros((images.shape[0], 9, 2, 7))
    luma = np.empty((size, size))
    for n in range(images.shape[0]):
        for i in range(size):
            for j in range(size):
                luma[i, j] = 0.299 * images[n, i, j, 0] + 0.587 * images[n, i, j, 1] + 0.114 * images[n, i, j, 2]
        for i in range(size):
            for j in range(size):
                kind = 0 if classes[n, i, j] == 1 else 1
                cell = sums[n, (i * 3 // size) * 3 + j * 3 // size, kind]
                cell[0] += 1
                highest, lowest = 0.0, 255.0
                for channel in range(3):
                    value = float(images[n, i, j, channel])
                    cell[1 + channel] += value
                    highest, lowest = max(highest, value), min(lowest, value)
                if luma[i, j] >= 150.0 and highest - lowest < 0.2 * luma[i, j]:
                    cell[6] += 1
                if j + 1 < size and (classes[n, i, j + 1] == 1) == (kind == 0):
                    cell[4] += abs(luma[i, j] - luma[i, j + 1])
                    cell[5] += 1
                if i + 1 < size and (classes[n, i + 1, j] == 1) == (kind == 0):
                    cell[4] += abs(luma[i, j] - luma[i + 1, j])
                    cell[5] += 1
    return sums


@njit(cache=True, nogil=True)
def points_in_boxes(
    longitudes: np.ndarray, latitudes: np.ndarray, band_start: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """List which points lie in which boxes.

    Points are stored in bands one degree of latitude high, from south to north, and by longitude within a band; a box reads
    only its bands, each by binary search.

    Args:
        longitudes: `(M,)`, float64, degrees, in the same range as the boxes (points seen across the antimeridian twice).
        latitudes: `(M,)`, float64, degrees.
        band_start: `(181,)`, int64, position of the first point of each band.
        boxes: `(N, 4)`, float64, `west, south, east, north` in degrees; west and south belong to the box, east and north not.

    Returns:
        `(L,)` box numbers and `(L,)` point numbers, int64, ordered by box.
    """
    pairs, count = np.empty((2, 1024), np.int64), 0
    for n in range(boxes.shape[0]):
        west, south, east, north = boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3]
        for band in range(max(0, int(np.floor(south)) + 90), min(179, int(np.floor(north)) + 90) + 1):
            start, stop = band_start[band], band_start[band + 1]
            low = start + np.searchsorted(longitudes[start:stop], west)
            high = start + np.searchsorted(longitudes[start:stop], east)
            for point in range(low, high):
                if latitudes[point] < south or latitudes[point] >= north:
                    continue
                if count == pairs.shape[1]:
                    pairs = np.concatenate((pairs, np.empty_like(pairs)), axis=1)
                pairs[0, count], pairs[1, count] = n, point
                count += 1
    return pairs[0, :count], pairs[1, :count]
