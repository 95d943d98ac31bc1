"""Speed of finding near duplicates among many perceptual hashes, and how well the hashes know real pictures again."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from rsvlm.data import duplicates, picture_details
from rsvlm.errors import DataError
from rsvlm.model import images
from rsvlm.records import provenance

DISTANCES = (0, 2, 4, 6, 8, 10, 12)


def measure(
    n: int = 1_000_000, distance: int = duplicates.DISTANCE, share: float = 0.2, pictures: str = "", n_sample: int = 600
) -> list[dict]:
    """Look for near ones among n hashes in a process of its own; with a folder of pictures, also measure what the hashes find.

    Four of five hashes are random, and so are the small pictures that go with them; the others are one of those with up to `distance` bits
    flipped, or, for a tenth of them, the same hash, as a blank picture's.

    Args:
        n: Hashes.
        distance: Bits that near pictures may differ in.
        share: Share of hashes that are near another one.
        pictures: Folder of pictures at any depth; empty: none.
        n_sample: How many of them, drawn at random from a seed.

    Returns:
        One row of the grouping, and those of `quality`. The first: `seconds`, `hashes_per_s`, `peak_memory_mb` of the whole process (2**20 bytes), `groups`, which is how many stay, and `expected` at most.
    """
    job = json.dumps({"n": n, "distance": distance, "share": share})
    done = subprocess.run([sys.executable, str(Path(__file__).resolve()), job], capture_output=True, text=True, check=True)
    return [json.loads(done.stdout.splitlines()[-1]), *(quality(Path(pictures), n_sample) if pictures else [])]


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    lines = [
        f"Near duplicates among {row['hashes']:,} hashes, {row['distance']} bits: {row['seconds']:.1f} s "
        f"({row['hashes_per_s']:,.0f}/s), {row['peak_memory_mb']:,.0f} MB, {row['groups']:,} groups (made of {row['expected']:,})"
        for row in rows
        if "hashes" in row
    ]
    told = [row for row in rows if "change" in row]
    if told:
        lines += [
            f"{told[0]['pictures']:,} pictures; %, or pairs, within bits of",
            f"{'':<28}" + "".join(f"{d:>9}" for d in DISTANCES),
        ]
    for row in told:
        cells = [row[f"within_{d}"] for d in DISTANCES]
        form = "{:>9,}" if row["change"] == "other pictures" else "{:>9.1f}"
        lines.append(
            f"{row['change']:<28}"
            + "".join(form.format(cell) for cell in cells)
            + f"   dropped {row['dropped']}, nearest {row['least']}, n {row['n']:,}"
        )
    return "\n".join(lines)


def quality(folder: Path, count: int) -> list[dict]:
    """Measure how far changed copies and other pictures are from a picture, in bits.

    Pictures without contrast are left out, as in `dedup`. Copies that the folder itself holds count as other pictures: look at the
    nearest before a false pair is believed.

    Args:
        folder: Loose pictures, at any depth; other files are passed over.
        count: Pictures, drawn at random from a seed.

    Returns:
        A row for each change: `within_D` the share of copies within D bits, in percent, and `dropped` that of copies within
        `duplicates.DISTANCE` that are alike in every part; for `other pictures` the numbers of pairs; `n` copies or pairs, `least` the nearest, `pictures`.

    Raises:
        DataError: There are fewer than two pictures with contrast.
    """
    names = sorted(path for path in folder.rglob("*") if path.is_file())
    rng = np.random.default_rng(0)
    chosen = [names[i] for i in rng.permutation(len(names))]
    before: list[np.ndarray] = []
    after: dict[str, list[np.ndarray]] = {name: [] for name in CHANGES}
    for path in chosen:
        try:
            array = images.decode(path.read_bytes())
        except DataError:
            continue
        luma = duplicates.thumbnails([array])
        if luma.std() < duplicates.FLAT:
            continue
        before.append(luma)
        for name, change in CHANGES.items():
            after[name].append(duplicates.thumbnails([change(array)]))
        if len(before) == count:
            break
    if len(before) < 2:
        raise DataError(f"{folder} holds fewer than two readable pictures with contrast: name another folder")
    hashes, small = duplicates.perceptual_hashes(np.concatenate(before)), _small(before)
    rows = []
    for name, lumas in after.items():
        bits = np.bitwise_count(hashes ^ duplicates.perceptual_hashes(np.concatenate(lumas)))
        agree = picture_details.alike(small, _small(lumas))
        dropped = round(100 * float(((bits <= duplicates.DISTANCE) & agree).mean()), 2)
        within = {f"within_{d}": round(100 * float((bits <= d).mean()), 2) for d in DISTANCES}
        rows.append({"change": name} | within | {"dropped": dropped} | _about(bits))
    ours, theirs = np.triu_indices(len(hashes), 1)
    bits = np.bitwise_count(hashes[ours] ^ hashes[theirs])
    near = bits <= duplicates.DISTANCE
    dropped = int(picture_details.alike(small[ours[near]], small[theirs[near]]).sum())
    within = {f"within_{d}": int((bits <= d).sum()) for d in DISTANCES}
    rows.append({"change": "other pictures"} | within | {"dropped": dropped} | _about(bits))
    return [row | {"pictures": len(hashes)} for row in rows]


def _small(lumas: list[np.ndarray]) -> np.ndarray:
    return picture_details.unpacked(picture_details.small(np.concatenate(lumas)))


def _about(bits: np.ndarray) -> dict:
    return {"n": len(bits), "least": int(bits.min())}


def _jpeg(array: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=60)
    return images.decode(buffer.getvalue())


def _cropped(array: np.ndarray) -> np.ndarray:
    y, x = (max(1, round(side * 0.025)) for side in array.shape[:2])
    return np.ascontiguousarray(array[y:-y, x:-x])


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG, quality 60": _jpeg,
    "80 % of the side": lambda a: images.resize(a, max(1, int(a.shape[0] * 0.8)), max(1, int(a.shape[1] * 0.8))),
    "brighter by 15 %": lambda a: np.clip(a.astype(np.float32) * 1.15, 0, 255).astype(np.uint8),
    "cropped by 2.5 % a side": _cropped,
}


def _measure_here(n: int, distance: int, share: float) -> dict:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64)
    copies = np.arange(round(n * (1 - share)), n)
    small = rng.integers(0, 256, (n, picture_details.SIDE, picture_details.SIDE), dtype=np.uint8)
    copied = rng.integers(0, copies[0], len(copies))
    hashes[copies], small[copies] = hashes[copied], small[copied]
    for _ in range(distance):
        hashes[copies] ^= np.uint64(1) << rng.integers(0, 64, len(copies), dtype=np.uint64)
    hashes[copies[::10]], small[copies[::10]] = 0, 0
    duplicates.find_stays(hashes[:1000], small[:1000], distance)  # compiled, or read from the cache
    start = time.perf_counter()
    found = duplicates.find_stays(hashes, small, distance)
    seconds = time.perf_counter() - start
    row = {"hashes": n, "distance": distance, "seconds": round(seconds, 4), "hashes_per_s": round(n / seconds)}
    return row | {
        "peak_memory_mb": round(provenance.peak_memory_mb()),
        "groups": len(np.unique(found)),
        "expected": int(copies[0]) + 1,
    }


if __name__ == "__main__":
    print(json.dumps(_measure_here(**json.loads(sys.argv[1]))))
