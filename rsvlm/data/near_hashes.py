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
        order: `(4, M)`, int64, as for `join_near_hashes`.
        start: `(4, 65537)`, int64, as there.
        probes: `(K,)`, int64, as there.
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
