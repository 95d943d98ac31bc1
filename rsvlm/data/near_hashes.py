"""The inner loops of `duplicates`: which perceptual hashes lie near each other, and which is the nearest."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(inline="always")
def _bits(x):
    """Count the ones of a uint64."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(inline="always")
def find_root(parent, i):
    """Return the root of the tree that item i hangs in, in (N,) `parent`, and shorten the way to it."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)
def _means(small):
    """Return the means of 2 x 2 pixels, (16, 16) float32, of a (32, 32) uint8 picture: what `_cells` gives for a zoom of 1."""
    cells = np.empty((16, 16), np.float32)
    for i in range(16):
        for j in range(16):
            a, b = small[2 * i, 2 * j : 2 * j + 2], small[2 * i + 1, 2 * j : 2 * j + 2]
            cells[i, j] = 0.25 * (np.float32(a[0]) + np.float32(a[1]) + np.float32(b[0]) + np.float32(b[1]))
    return cells


@njit(cache=True, nogil=True)
def _cells(small, zoom):
    """Return the means of 2 x 2 pixels, (16, 16) float32, of a (32, 32) uint8 picture that is shown larger by a factor."""
    cells, middle = np.zeros((16, 16), np.float32), 15.5
    for i in range(32):
        y = middle + (i - middle) / zoom
        top = min(max(int(np.floor(y)), 0), 30)
        down = y - top
        for j in range(32):
            x = middle + (j - middle) / zoom
            left = min(max(int(np.floor(x)), 0), 30)
            along = x - left
            upper = (1 - along) * small[top, left] + along * small[top, left + 1]
            lower = (1 - along) * small[top + 1, left] + along * small[top + 1, left + 1]
            cells[i // 2, j // 2] += 0.25 * ((1 - down) * upper + down * lower)
    return cells


@njit(cache=True, nogil=True)
def _agreement(one, other, noise, enough):
    """Return the lowest correlation of two (16, 16) arrays in a window of 4 x 4, or the first below `enough`.

    Where one is white or black and the other not far from it, light that was turned up or down may have cut it: nothing is known.
    """
    lowest = 1.0
    for top in range(13):
        for left in range(13):
            n, a, b, aa, bb, ab = 0, 0.0, 0.0, 0.0, 0.0, 0.0
            for i in range(top, top + 4):
                for j in range(left, left + 4):
                    p, q = one[i, j], other[i, j]
                    low, high = min(p, q), max(p, q)
                    if (high >= 250 and 200 <= low < 250) or (low <= 5 and 5 < high <= 55):
                        continue
                    n, a, b, aa, bb, ab = n + 1, a + p, b + q, aa + p * p, bb + q * q, ab + p * q
            if n < 8:
                continue
            aa, bb, ab, floor = aa - a * a / n, bb - b * b / n, ab - a * b / n, n * noise * noise
            if max(aa, bb) > floor:
                lowest = min(lowest, (ab + floor) / np.sqrt((aa + floor) * (bb + floor)))
                if lowest < enough:
                    return lowest
    return lowest


@njit(cache=True, nogil=True)
def _alike(one, other, noise, enough, unlike, zoom):
    """Say whether two small pictures, (32, 32) uint8 each, are alike in every window, perhaps with the edges of either cut."""
    if (one == other).all():
        return True
    lowest = _agreement(_means(one), _means(other), noise, unlike)
    if lowest < unlike or lowest >= enough:
        return lowest >= enough
    half = np.sqrt(zoom)  # both are moved alike, for being moved makes smooth
    for ours in (half, 1 / half):
        if _agreement(_cells(one, ours), _cells(other, 1 / ours), noise, enough) >= enough:
            return True
    return False


@njit(cache=True, nogil=True)
def alike(ours: np.ndarray, theirs: np.ndarray, noise: float, enough: float, unlike: float, zoom: float) -> np.ndarray:
    """Say of each pair whether they are alike: (N, 32, 32) uint8 twice, to (N,) bool; the others as for `find_stays`."""
    result = np.empty(len(ours), np.bool_)
    for i in range(len(ours)):
        result[i] = _alike(ours[i], theirs[i], noise, enough, unlike, zoom)
    return result


@njit(cache=True, nogil=True)
def find_stays(
    hashes: np.ndarray,
    small: np.ndarray,
    places: np.ndarray,
    probes: np.ndarray,
    counts: np.ndarray,
    distance: int,
    noise: float,
    enough: float,
    unlike: float,
    zoom: float,
) -> np.ndarray:
    """Let a picture go when it is near one before it that stays: few bits differ, and they are alike in every part.

    Hashes are cut into four bands of 16 bits, and only those found by probing each band with some bits flipped are compared: if bands
    are probed up to t bits each, and these t + 1 add up to more than `distance`, two near hashes differ by no more than its t in one
    band. What goes is compared with nothing any more: no chains, and a picture that comes a million times costs no more than once.

    Args:
        hashes: `(N,)`, uint64, what should stay first.
        small: `(N, 32, 32)`, uint8, small pictures as from `picture_details`.
        places: `(4, 65536, 2)`, int32, in row b twice where each value of band b (bits 16 b to 16 b + 15) would begin if hashes were
            sorted by it; the second number is moved on as places are taken.
        probes: `(K,)`, int64, what is flipped in a band, fewest bits first.
        counts: `(4,)`, int64, how many of the probes each band is probed with.
        distance: Largest number of bits that differ.
        noise: Standard deviation of luma that is no detail.
        enough: Smallest correlation in each window of pictures that are alike.
        unlike: Correlation in a window below which pictures are not compared any further.
        zoom: How much larger a copy with cut edges shows the same.

    Returns:
        `(N,)`, int64, the nearest that stays; its own number where a picture stays.
    """
    n = len(hashes)
    stays = np.arange(n)
    slot_hash, slot_number = np.empty((4, n), np.uint64), np.empty((4, n), np.int32)
    for i in range(n):
        best, fewest, query = -1, distance, hashes[i]
        for band in range(4):
            value = np.int64((query >> np.uint64(16 * band)) & np.uint64(0xFFFF))
            for probe in probes[: counts[band]]:
                for place in range(places[band, value ^ probe, 0], places[band, value ^ probe, 1]):
                    bits = _bits(query ^ slot_hash[band, place])
                    if bits > fewest:
                        continue
                    j = np.int64(slot_number[band, place])
                    nearer = best < 0 or bits < fewest or j < best
                    if nearer and _alike(small[i], small[j], noise, enough, unlike, zoom):
                        best, fewest = j, bits
        if best >= 0:
            stays[i] = best
            continue
        for band in range(4):
            value = np.int64((query >> np.uint64(16 * band)) & np.uint64(0xFFFF))
            place = places[band, value, 1]
            slot_hash[band, place], slot_number[band, place] = query, i
            places[band, value, 1] += 1
    return stays


@njit(cache=True, parallel=True)
def nearest_hashes(
    queries: np.ndarray, gallery: np.ndarray, order: np.ndarray, start: np.ndarray, probes: np.ndarray, distance: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find for each query, in any of its forms, the gallery's hash that differs in the fewest bits.

    Args:
        queries: `(N, F)`, uint64, the F forms of a query.
        gallery: `(M,)`, uint64, no two alike.
        order: `(4, M)`, int64, in row b the hashes by the value of band b (bits 16 b to 16 b + 15).
        start: `(4, 65537)`, int64, where each value begins in `order`.
        probes: `(K,)`, int64, what is flipped in each band: up to a quarter of `distance`, rounded down, for two that differ in no more
            bits than that differ in no more than a quarter in one band.
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
                        n_bits = _bits(query ^ gallery[j])
                        if n_bits < bits[i] or (n_bits == bits[i] and n_bits <= distance and f == form[i] and j < best[i]):
                            best[i], bits[i], form[i] = j, n_bits, f
    return best, bits, form
