"""Every compiled loop of the package: arrays in, arrays out.

Each kernel has a NumPy twin in the tests. Equal inputs give equal bits, whatever block of the work they fall into.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange

from rsvlm.errors import DataError

STRIP = 64  # scores counted before looking whether some were too close to call
ROWS = 64  # rows of a column counted likewise


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def exact_scores(images, texts, rows, columns):
    """Dot products of some pairs, in float64.

    The product of two float32 is exact in float64. The one loop is compiled once and knows nothing of where a vector lies, so
    equal vectors give equal bits: identical captions tie exactly, whatever block of the work they fall into.

    Args:
        images: (N, E) float32, C-contiguous.
        texts: (M, E) float32, C-contiguous.
        rows: (S,) int64 rows of `images`.
        columns: (S,) int64 rows of `texts`.

    Returns:
        (S,) float64.
    """
    scores = np.empty(rows.shape[0], np.float64)
    for s in range(rows.shape[0]):
        image, text = images[rows[s]], texts[columns[s]]
        total = 0.0
        for e in range(image.shape[0]):
            total += np.float64(image[e]) * np.float64(text[e])
        scores[s] = total
    return scores


@njit(cache=True, nogil=True)
def count_rows(scores, row, low, high, above):
    """Count, for each of S thresholds, the scores of its row that are above it for certain, and list those too close to call.

    Args:
        scores: (R, C) float32, C-contiguous, each within a known error of the truth.
        row: (S,) int64, the row of each threshold.
        low: (S,) float32: a score below is truly below the threshold.
        high: (S,) float32: a score above is truly above it.
        above: (S,) int32: the count of scores above `high` is added to it.

    Returns:
        (n, 3) int64: row, column and threshold of every score from `low` to `high`, both included.
    """
    near = np.empty((64, 3), np.int64)
    n = 0
    for s in range(row.shape[0]):
        line, least, most = scores[row[s]], low[s], high[s]
        for start in range(0, line.shape[0], STRIP):
            part = line[start : start + STRIP]
            over, reached = 0, 0
            for j in range(part.shape[0]):
                over += part[j] > most
                reached += part[j] >= least
            above[s] += over
            j = 0
            while reached > over:  # that many are left to find
                if least <= part[j] <= most:
                    if n == near.shape[0]:
                        near = _twice(near)
                    near[n, 0], near[n, 1], near[n, 2] = row[s], start + j, s
                    n += 1
                    reached -= 1
                j += 1
    return near[:n]


@njit(cache=True, nogil=True)
def count_columns(scores, column, low, high, above):
    """As `count_rows`, with thresholds of columns; fastest where every column has exactly one, in order."""
    count = column.shape[0]
    dense = count == scores.shape[1]
    for s in range(count):
        dense = dense and column[s] == s
    near = np.empty((64, 3), np.int64)
    n = 0
    over, reached = np.empty(count, np.int32), np.empty(count, np.int32)
    for start in range(0, scores.shape[0], ROWS):
        stop = min(start + ROWS, scores.shape[0])
        over[:] = 0
        reached[:] = 0
        for i in range(start, stop):
            line = scores[i]
            if dense:  # the same without a look-up, which would keep the loop from being vectorised
                for s in range(count):
                    over[s] += line[s] > high[s]
                    reached[s] += line[s] >= low[s]
            else:
                for s in range(count):
                    over[s] += line[column[s]] > high[s]
                    reached[s] += line[column[s]] >= low[s]
        for s in range(count):
            above[s] += over[s]
            i = start
            while reached[s] > over[s]:
                if low[s] <= scores[i, column[s]] <= high[s]:
                    if n == near.shape[0]:
                        near = _twice(near)
                    near[n, 0], near[n, 1], near[n, 2] = i, column[s], s
                    n += 1
                    reached[s] -= 1
                i += 1
    return near[:n]


@njit(cache=True, nogil=True)
def _twice(rows):
    larger = np.empty((2 * rows.shape[0], rows.shape[1]), rows.dtype)
    larger[: rows.shape[0]] = rows
    return larger


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
    size = 1024
    found_box = np.empty(size, np.int64)
    found_point = np.empty(size, np.int64)
    found = 0
    for n in range(boxes.shape[0]):
        west, south, east, north = boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3]
        first_band = max(0, int(np.floor(south)) + 90)
        last_band = min(179, int(np.floor(north)) + 90)
        for band in range(first_band, last_band + 1):
            start, stop = band_start[band], band_start[band + 1]
            low = start + np.searchsorted(longitudes[start:stop], west)
            high = start + np.searchsorted(longitudes[start:stop], east)
            for point in range(low, high):
                if latitudes[point] < south or latitudes[point] >= north:
                    continue
                if found == size:
                    size *= 2
                    larger_box, larger_point = np.empty(size, np.int64), np.empty(size, np.int64)
                    larger_box[:found], larger_point[:found] = found_box, found_point
                    found_box, found_point = larger_box, larger_point
                found_box[found], found_point[found] = n, point
                found += 1
    return found_box[:found], found_point[:found]


@njit(inline="always")
def _bits(x):
    """Count the ones of a uint64."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(inline="always")
def find_root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)
def join_near_hashes(
    hashes: np.ndarray, order: np.ndarray, start: np.ndarray, probes: np.ndarray, distance: int
) -> np.ndarray:
    """Put hashes that differ in few bits into groups, without listing pairs.

    Hashes are cut into four bands of 16 bits. Two that differ in at most `distance` bits differ in at most a quarter of that,
    rounded down, in one band, so only hashes found by probing each band with so many bits flipped are compared.

    Args:
        hashes: `(N,)`, uint64, no two alike.
        order: `(4, N)`, int64, in row b the hashes by the value of band b (bits 16 b to 16 b + 15).
        start: `(4, 65537)`, int64, where each value begins in `order`.
        probes: `(K,)`, int64, what is flipped in a band, 0 included.
        distance: Largest number of bits that differ.

    Returns:
        `(N,)`, int64, the lowest number of each hash's group; groups are joined along chains.
    """
    n = len(hashes)
    parent = np.arange(n)
    for band in range(4):
        for i in range(n):
            value = np.int64((hashes[i] >> np.uint64(16 * band)) & np.uint64(0xFFFF))
            for probe in probes:
                first, last = start[band, value ^ probe], start[band, (value ^ probe) + 1]
                for place in range(first, last):
                    j = order[band, place]
                    if j <= i or _bits(hashes[i] ^ hashes[j]) > distance:
                        continue
                    a, b = find_root(parent, i), find_root(parent, j)
                    if a < b:
                        parent[b] = a
                    elif b < a:
                        parent[a] = b
    for i in range(n):
        parent[i] = find_root(parent, i)
    return parent


@njit(cache=True, parallel=True)
def nearest_hashes(
    queries: np.ndarray, gallery: np.ndarray, order: np.ndarray, start: np.ndarray, probes: np.ndarray, distance: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find for each query, in any of its forms, the gallery's hash that differs in the fewest bits.

    Args:
        queries: `(N, F)`, uint64, the F forms of a query.
        gallery: `(M,)`, uint64, no two alike.
        order: As for `join_near_hashes`, of the gallery; likewise `start` and `probes`.
        start: See `order`.
        probes: See `order`.
        distance: Largest number of bits that differ.

    Returns:
        `(N,)` int64 numbers in the gallery, -1 where none is near enough, `(N,)` int64 bits that differ, and `(N,)` int64 forms.
        Ties go to the first form, then to the first of the gallery.
    """
    n, forms = queries.shape
    best = np.full(n, -1, np.int64)
    bits = np.full(n, distance + 1, np.int64)
    form = np.zeros(n, np.int64)
    for i in prange(n):
        for f in range(forms):
            query = queries[i, f]
            for band in range(4):
                value = np.int64((query >> np.uint64(16 * band)) & np.uint64(0xFFFF))
                for probe in probes:
                    for place in range(start[band, value ^ probe], start[band, (value ^ probe) + 1]):
                        j = order[band, place]
                        found = _bits(query ^ gallery[j])
                        if found < bits[i] or (found == bits[i] and found <= distance and f == form[i] and j < best[i]):
                            best[i], bits[i], form[i] = j, found, f
    return best, bits, form


def smooth_pool(scores: np.ndarray, values: np.ndarray, window: int) -> np.ndarray:
    """Smooth-Attention-Operation: z_p = Σ a_i v_i / Σ a_i with a_i = exp(s_i), over the window around each position p.

    The window is cut at the edges of the grid, and the weights in what is left are normalised. So `window=1` gives back the values,
    and from `window = 2 * max(h, w) - 1` on every position gets the global attention pooling. The cost does not depend on the
    window: sums are put together from the end of one block and the start of the next (van Herk 1992, Gil and Werman 1993), with
    additions alone, so nothing drifts and no large weight outside a window costs a digit inside it. Where float32 would lose small
    weights to underflow, because the scores reach too far apart, or digits, because the window is large, sums are in float64.

    Memory beside the result: `4 * window * w * (D + 1)` numbers for each thread.

    Args:
        scores: (h, w) float32, the q·k_i / √d. NaN and -inf mean that there is no data at this place.
        values: (h, w, D) or (h, w) float32.
        window: Side of the window, odd, at least 1; it may be larger than the grid.

    Returns:
        Of the shape of `values`, float32; NaN where a window holds no data at all.

    Raises:
        DataError: An even window, shapes that do not fit, a score of +inf, or scores more than 1,200 apart.

    Source: our definition of the operation that the paper names; the paper does not state its formula.
    """
    scores = np.ascontiguousarray(scores, np.float32)
    planes = np.ascontiguousarray(values, np.float32)
    planes = planes[..., None] if planes.ndim == 2 else planes
    if scores.ndim != 2 or planes.ndim != 3 or planes.shape[:2] != scores.shape or not scores.size:
        raise DataError(
            f"scores of shape {scores.shape} and values of shape {np.shape(values)}: expected (h, w) and (h, w, D)"
        )
    if window != int(window) or window < 1 or window % 2 == 0:
        raise DataError(f"window {window}: a window is centred on its position, so give an odd number, 1 or more")
    (h, w), radius = scores.shape, int(window) // 2
    lowest, highest = finite_range(scores)
    if highest == np.inf or highest - lowest > 1200:
        raise DataError(f"scores from {lowest:.4g} to {highest:.4g}: they may lie 1,200 apart; divide them by a temperature")
    # exp(±30) and its sums keep all of float32's digits; exp(±600) those of float64
    work = np.float32 if highest - lowest <= 60 and window <= 255 else np.float64
    threads = get_num_threads()
    bands = min(h, max(threads, min(4 * threads, h // (4 * radius + 1))))  # each reads `radius` rows more above and below
    out = np.empty(planes.shape, np.float32)
    _smooth_bands(scores, planes, (lowest + highest) / 2, min(radius, h - 1), min(radius, w - 1), np.empty(bands, work), out)
    return out.reshape(np.shape(values))


@njit(cache=True)
def finite_range(scores):
    """Least and greatest of (h, w) scores that are neither NaN nor -inf; 0 and 0 where there is none."""
    lowest, highest = np.inf, -np.inf
    for value in scores.flat:
        if value > -np.inf:
            lowest, highest = min(lowest, value), max(highest, value)
    return (lowest, highest) if lowest <= highest else (0.0, 0.0)


@njit(cache=True, parallel=True, error_model="numpy")
def _smooth_bands(scores, values, middle, radius_y, radius_x, work, out):
    """Fill (h, w, D) `out` band of rows by band; `work` has an item per band, its type is that of the sums."""
    h, w, D = values.shape
    window, bands = 2 * radius_y + 1, len(work)
    for band in prange(bands):
        first, last = band * h // bands, (band + 1) * h // bands
        # Plane 0 holds weights, the others weighted values. `rest[j]` sums row j of a block and all after it; `block` is the next.
        rest = np.zeros((window, D + 1, w), work.dtype)
        block = np.zeros((window, D + 1, w), work.dtype)
        start_of_block, sums = np.zeros((D + 1, w), work.dtype), np.empty((D + 1, w), work.dtype)
        blocks = -(-w // (2 * radius_x + 1)) + 1
        lanes = np.empty((2, 2 * radius_x + 1, blocks), work.dtype)
        for j in range(window):
            if 0 <= first - radius_y + j < h:
                _weigh(scores[first - radius_y + j], values[first - radius_y + j], middle, rest[j])
        _sum_upwards(rest)
        for start in range(first, last, window):
            start_of_block[:] = 0
            for j in range(min(window, last - start)):
                for d in range(D + 1):
                    for x in range(w):
                        sums[d, x] = rest[j, d, x] + start_of_block[d, x]
                    _window_sums(sums[d], radius_x, lanes[0], lanes[1])
                for d in range(D):
                    for x in range(w):
                        out[start + j, x, d] = sums[d + 1, x] / sums[0, x]
                following = start + j + radius_y + 1
                block[j] = 0
                if following < h:
                    _weigh(scores[following], values[following], middle, block[j])
                    for d in range(D + 1):
                        for x in range(w):
                            start_of_block[d, x] += block[j, d, x]
            rest, block = block, rest
            _sum_upwards(rest)


@njit(cache=True)
def _weigh(scores, values, middle, out):
    """Write a = exp(scores - middle) into out[0] and a · values into out[1:], zeros where there is no data."""
    w, D = values.shape
    if out.itemsize == 4:
        # exp in operations that run in vector registers: 2^k times a polynomial (the coefficients of Cephes' expf), 1e-7 exact
        for x in range(w):
            score = np.float32(scores[x] - np.float32(middle)) if scores[x] > -np.inf else np.float32(0)
            k = np.floor(score * np.float32(1.44269504) + np.float32(0.5))
            r = score - k * np.float32(0.693359375) + k * np.float32(2.12194440e-4)
            p = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
            p = (p * r + np.float32(8.3334519073e-3)) * r + np.float32(4.1665795894e-2)
            p = (p * r + np.float32(1.6666665459e-1)) * r + np.float32(0.5)
            p = p * r * r + r + np.float32(1)
            power = np.int32((np.int32(k) + np.int32(127)) << 23).view(np.float32)
            out[0, x] = p * power if scores[x] > -np.inf else np.float32(0)
    else:
        for x in range(w):
            out[0, x] = np.exp(scores[x] - middle) if scores[x] > -np.inf else 0.0
    for d in range(D):
        for x in range(w):
            out[d + 1, x] = out[0, x] * values[x, d] if out[0, x] > 0 else out.dtype.type(0)


@njit(cache=True)
def _sum_upwards(rows):
    """Add to every row of (window, D + 1, w) all the rows after it."""
    for j in range(len(rows) - 2, -1, -1):
        for d in range(rows.shape[1]):
            for x in range(rows.shape[2]):
                rows[j, d, x] += rows[j + 1, d, x]


@njit(cache=True)
def _window_sums(line, radius, rest, start):
    """Replace every item of a (w,) line by the sum of those within `radius`; `rest` and `start` are (window, blocks) scratch.

    Blocks lie side by side in the scratch, so that all of them are summed at once.
    """
    window, blocks = rest.shape
    count = len(line)
    rest[:, 0] = 0
    rest[:, max(0, (count + radius) // window) :] = 0
    for b in range(blocks):
        first = b * window - radius
        for j in range(max(0, -first), min(window, count - first)):
            rest[j, b] = line[first + j]
    start[0] = 0
    for j in range(1, window):
        for b in range(blocks):
            start[j, b] = start[j - 1, b] + rest[j - 1, b]
    for j in range(window - 2, -1, -1):
        for b in range(blocks):
            rest[j, b] += rest[j + 1, b]
    for b in range(blocks - 1):
        for j in range(min(window, count - b * window)):
            line[b * window + j] = rest[j, b] + start[j, b + 1]


@njit(cache=True, nogil=True)
def fill_rings(points, ring_start, mask):
    """Set the pixels of a mask whose centre lies inside rings, by the even-odd rule: rings inside rings are holes.

    Args:
        points: (n, 2) float64, x and y in pixels; pixel (row r, column c) reaches from (c, r) to (c + 1, r + 1). Finite.
        ring_start: (R + 1,) int64, where each ring begins in `points`, and the end; rings are closed by themselves.
        mask: (H, W) bool; other pixels stay as they are.
    """
    H, W = mask.shape
    if not len(points):
        return
    crossings = np.empty(len(points))
    first = max(0, int(np.ceil(max(points[:, 1].min(), 0.0) - 0.5)))
    last = min(H, int(np.ceil(min(points[:, 1].max(), float(H)) - 0.5)))
    for row in range(first, last):
        y, n = row + 0.5, 0
        for ring in range(len(ring_start) - 1):
            start, stop = ring_start[ring], ring_start[ring + 1]
            for i in range(start, stop):
                j = i + 1 if i + 1 < stop else start
                if (points[i, 1] <= y) != (points[j, 1] <= y):
                    part = (y - points[i, 1]) / (points[j, 1] - points[i, 1])
                    crossings[n] = points[i, 0] + part * (points[j, 0] - points[i, 0])
                    n += 1
        found = np.sort(crossings[:n])
        for k in range(0, n - 1, 2):
            left = int(np.ceil(min(max(found[k], 0.0), float(W)) - 0.5))
            right = int(np.ceil(min(max(found[k + 1], 0.0), float(W)) - 0.5))
            mask[row, left:right] = True


@njit(cache=True, nogil=True)
def label_components(mask, eight):
    """Number the connected parts of a mask, in the order in which their first pixels are read.

    Args:
        mask: (H, W) bool.
        eight: Pixels that touch at a corner are connected too.

    Returns:
        (H, W) int32, 0 outside the mask, parts from 1 on; and their number.
    """
    H, W = mask.shape
    labels = np.zeros((H, W), np.int32)
    parent = np.zeros((H * W + 1) // 2 + 2, np.int32)
    count = 0
    for y in range(H):
        for x in range(W):
            if not mask[y, x]:
                continue
            least = 0
            for k in range(4 if eight else 2):  # left, above, above left, above right
                j, i = (y, x - 1) if k == 0 else (y - 1, x if k == 1 else x - 1 if k == 2 else x + 1)
                if j < 0 or i < 0 or i >= W or labels[j, i] == 0:
                    continue
                root = find_root(parent, labels[j, i])
                if least == 0 or root == least:
                    least = root
                else:
                    a, b = min(least, root), max(least, root)
                    parent[b] = a
                    least = a
            if least == 0:
                count += 1
                parent[count] = count
                least = count
            labels[y, x] = least
    number = np.zeros(count + 1, np.int32)
    parts = 0
    for label in range(1, count + 1):  # a root is the lowest label of its part, so it comes first
        root = find_root(parent, label)
        if root == label:
            parts += 1
            number[label] = parts
        else:
            number[label] = number[root]
    for y in range(H):
        for x in range(W):
            labels[y, x] = number[labels[y, x]]
    return labels, parts


@njit(cache=True, nogil=True)
def component_boxes(labels, count):
    """Measure numbered parts.

    Args:
        labels: (H, W) int32, 0 to `count`.
        count: Number of parts.

    Returns:
        (count, 5) int64: left, top, right, bottom in pixels, the last two exclusive, and the number of pixels; zeros for a number
        that no pixel has.
    """
    H, W = labels.shape
    found = np.zeros((count, 5), np.int64)
    for y in range(H):
        for x in range(W):
            if labels[y, x] > 0:
                one = found[labels[y, x] - 1]
                if one[4] == 0:
                    one[0], one[1] = x, y
                one[0], one[2], one[3] = min(one[0], x), max(one[2], x + 1), y + 1
                one[4] += 1
    return found


@njit(cache=True, nogil=True)
def heat_counts(heat, mask, low, high, bins):
    """Count a map's values inside and outside a mask, by bins of equal width from `low` to `high`; beyond is in the end bins.

    Args:
        heat: (H, W) float32; what is not finite is not counted.
        mask: (H, W) bool.
        low: Start of bin 0.
        high: End of the last bin; where it is not above `low`, everything is in bin 0.
        bins: Their number.

    Returns:
        (2, bins) int64: outside, inside.
    """
    counts = np.zeros((2, bins), np.int64)
    scale = bins / (high - low) if high > low else 0.0
    for y in range(heat.shape[0]):
        for x in range(heat.shape[1]):
            value = np.float64(heat[y, x])
            if np.isfinite(value):
                place = int(min(max((value - low) * scale, 0.0), bins - 1.0))
                counts[1 if mask[y, x] else 0, place] += 1
    return counts


@njit(cache=True, nogil=True)
def label_counts(maps, masks, low, high, bins):
    """Count pixels by the map that is highest there, by its value, and by whether the mask of that map holds them.

    Args:
        maps: (C, H, W) float32. Pixels where no map is finite are not counted; of equal maps the first wins.
        masks: (C, H, W) bool; they may overlap.
        low: As for `heat_counts`, of the highest value.
        high: See `low`.
        bins: See `low`.

    Returns:
        (C + 1, bins, 2) int64: by highest map and bin all pixels, and those in that map's mask; the last plane: all pixels, and
        those in no mask. And (C,) int64 pixels of each mask.
    """
    C, H, W = maps.shape
    counts = np.zeros((C + 1, bins, 2), np.int64)
    truth = np.zeros(C, np.int64)
    scale = bins / (high - low) if high > low else 0.0
    for y in range(H):
        for x in range(W):
            best, value, free = -1, -np.inf, 1
            for c in range(C):
                if np.isfinite(maps[c, y, x]) and maps[c, y, x] > value:
                    best, value = c, np.float64(maps[c, y, x])
                if masks[c, y, x]:
                    free = 0
            if best < 0:
                continue
            for c in range(C):
                truth[c] += masks[c, y, x]
            place = int(min(max((value - low) * scale, 0.0), bins - 1.0))
            counts[best, place, 0] += 1
            counts[best, place, 1] += masks[best, y, x]
            counts[C, place, 0] += 1
            counts[C, place, 1] += free
    return counts, truth


@njit(cache=True, nogil=True)
def match_boxes(found, truth, least_iou):
    """Give each found box, in order, the true box that it overlaps most, if none before has it.

    Args:
        found: (n, 4) float64, left, top, right, bottom; best first.
        truth: (m, 4) float64.
        least_iou: Smallest intersection over union that counts.

    Returns:
        (n,) bool: matched.
    """
    matched, taken = np.zeros(len(found), np.bool_), np.zeros(len(truth), np.bool_)
    for i in range(len(found)):
        best, most = -1, least_iou
        for j in range(len(truth)):
            width = min(found[i, 2], truth[j, 2]) - max(found[i, 0], truth[j, 0])
            height = min(found[i, 3], truth[j, 3]) - max(found[i, 1], truth[j, 1])
            if taken[j] or width <= 0 or height <= 0:
                continue
            both = width * height
            area = (found[i, 2] - found[i, 0]) * (found[i, 3] - found[i, 1])
            iou = both / (area + (truth[j, 2] - truth[j, 0]) * (truth[j, 3] - truth[j, 1]) - both)
            if iou >= most and (best < 0 or iou > most):
                best, most = j, iou
        if best >= 0:
            matched[i], taken[best] = True, True
    return matched
