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
def _alike(one, other, windows, least_bits, least_share):
    """Compare the details of two pictures, (8,) uint64 each, in every window: (w, 4) uint64 masks of a plane of 256 bits."""
    for w in range(len(windows)):
        both, either = 0, 0
        for k in range(8):
            mask = windows[w, k % 4]
            both += _bits(one[k] & other[k] & mask)
            either += _bits((one[k] | other[k]) & mask)
        if either >= least_bits and both < least_share * either:
            return False
    return True


@njit(cache=True, nogil=True)
def alike(ours: np.ndarray, theirs: np.ndarray, windows: np.ndarray, least_bits: int, least_share: float) -> np.ndarray:
    """Say of each pair whether its details agree: (N, 8) uint64 twice, to (N,) bool; the others as for `find_stays`."""
    result = np.empty(len(ours), np.bool_)
    for i in range(len(ours)):
        result[i] = _alike(ours[i], theirs[i], windows, least_bits, least_share)
    return result


@njit(cache=True, nogil=True)
def find_stays(
    hashes: np.ndarray,
    details: np.ndarray,
    places: np.ndarray,
    probes: np.ndarray,
    counts: np.ndarray,
    distance: int,
    windows: np.ndarray,
    least_bits: int,
    least_share: float,
) -> np.ndarray:
    """Let a picture go when it is near one before it that stays: few bits differ, and the details agree.

    Hashes are cut into four bands of 16 bits, and only those found by probing each band with some bits flipped are compared: if bands
    are probed up to t bits each, and these t + 1 add up to more than `distance`, two near hashes differ by no more than its t in one
    band. What goes is compared with nothing any more: no chains, and a picture that comes a million times costs no more than once.

    Args:
        hashes: `(N,)`, uint64, what should stay first.
        details: `(N, 8)`, uint64, as from `picture_details.rises`.
        places: `(4, 65536, 2)`, int32, in row b twice where each value of band b (bits 16 b to 16 b + 15) would begin if hashes were
            sorted by it; the second number is moved on as places are taken.
        probes: `(K,)`, int64, what is flipped in a band, fewest bits first.
        counts: `(4,)`, int64, how many of the probes each band is probed with.
        distance: Largest number of bits that differ.
        windows: `(W, 4)`, uint64, parts of the picture, each of which has to agree.
        least_bits: Number of details, in either picture, from which on a window is compared.
        least_share: Smallest share of these that both pictures have.

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
                    if nearer and _alike(details[i], details[j], windows, least_bits, least_share):
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
