"""Speed of finding near duplicates among many perceptual hashes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from rsvlm import dedup


def measure(n: int = 1_000_000, distance: int = dedup.DISTANCE, share: float = 0.2) -> list[dict]:
    """Group n hashes in a process of its own.

    Four of five hashes are random; the others are one of those with up to `distance` bits flipped, or, for a tenth of them, the same
    hash, as a blank picture's.

    Args:
        n: Hashes.
        distance: Bits that near pictures may differ in.
        share: Share of hashes that are near another one.

    Returns:
        One row: `seconds`, `hashes_per_s`, `peak_memory_mb` of the whole process (2**20 bytes), `groups` found and `expected` at
        most.
    """
    job = json.dumps({"n": n, "distance": distance, "share": share})
    done = subprocess.run([sys.executable, str(Path(__file__).resolve()), job], capture_output=True, text=True, check=True)
    return [json.loads(done.stdout.splitlines()[-1])]


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    return "\n".join(
        f"Near duplicates among {row['hashes']:,} hashes, {row['distance']} bits: {row['seconds']:.1f} s "
        f"({row['hashes_per_s']:,.0f}/s), {row['peak_memory_mb']:,.0f} MB, {row['groups']:,} groups (made of {row['expected']:,})"
        for row in rows
    )


def _measure_here(n: int, distance: int, share: float) -> dict:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64)
    copies = np.arange(round(n * (1 - share)), n)
    hashes[copies] = hashes[rng.integers(0, copies[0], len(copies))]
    for _ in range(distance):
        hashes[copies] ^= np.uint64(1) << rng.integers(0, 64, len(copies), dtype=np.uint64)
    hashes[copies[::10]] = 0
    dedup.groups(hashes[:1000], distance)  # compiled, or read from the cache
    start = time.perf_counter()
    found = dedup.groups(hashes, distance)
    seconds = time.perf_counter() - start
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    row = {"hashes": n, "distance": distance, "seconds": round(seconds, 4), "hashes_per_s": round(n / seconds)}
    return row | {"peak_memory_mb": round(peak), "groups": len(np.unique(found)), "expected": int(copies[0]) + 1}


if __name__ == "__main__":
    print(json.dumps(_measure_here(**json.loads(sys.argv[1]))))
