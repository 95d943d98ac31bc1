"""Indexing beside the bare tower, and one question to many vectors beside reading them once."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import scenes as scene_files
from rsvlm.errors import RsvlmError

_FOR_MEMORY = dict.fromkeys(("ratio", "min", "max", "cpu_ratio"))  # what is not timed beside anything


def measure(
    n_vectors: int = 1_000_000,
    width: int = 512,
    n_side: int = 4096,
    many: Sequence[int] = (),
    n_scenes: Sequence[int] = (),
    repeats: int = 5,
    threads: int = 0,
) -> list[dict]:
    """Time questions and indexing, in turns with what they cannot do without, and note the memory of each in a process of its own.

    Args:
        n_vectors: Vectors that are asked, as an index holds them; 0: none.
        width: Their length.
        n_side: Side of the scene that is indexed, in pixels; 0: none.
        many: Also one question to so many vectors, mostly zeros that take no room on disk, for the memory.
        n_scenes: Also an archive of so many scenes of 512 pixels, for the memory.
        repeats: Timed pairs.
        threads: Threads of torch and numba; 0: as they are.

    Returns:
        Rows: `stage`, `size`, `seconds` (median), `ratio` (of a question: its time to that of reading the file once; of indexing: chips per
        second to those of the tower alone on the same chips, read before; median over the pairs) with `min` and `max`, and `peak_mb`.

    Raises:
        RsvlmError: A run failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), []
        if n_vectors:
            write_vectors(folder / "vectors.npy", n_vectors, width)
            rows.append(_child("query", n_vectors, str(folder / "vectors.npy"), repeats, threads))
        for count in many:
            write_vectors(folder / "many.npy", count, width, filled=min(count, 200_000))
            rows.append(_child("query", count, str(folder / "many.npy"), 1, threads) | _FOR_MEMORY)
        if n_side:
            (folder / "one").mkdir()
            scene_files.write_scene(folder / "one" / "scene.tif", n_side)
            rows.append(_child("index", n_side, str(folder / "one"), repeats, threads))
        for count in n_scenes:
            archive = folder / f"scenes-{count}"
            archive.mkdir()
            for number in range(count):
                scene_files.write_scene(archive / f"{number:05d}.tif", 512, number)
            rows.append(_child("scenes", count, str(archive), 1, threads) | _FOR_MEMORY)
    return rows


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    lines = [f"{'':<8}{'size':>12}{'seconds':>9}{'ratio':>7}{'min':>7}{'max':>7}{'of CPU':>8}{'peak MB':>9}"]
    for row in rows:
        numbers = "".join(f"{row[name]:>7.2f}" if row[name] else f"{'':>7}" for name in ("ratio", "min", "max"))
        numbers += f"{row['cpu_ratio']:>8.2f}" if row["cpu_ratio"] else f"{'':>8}"
        lines.append(f"{row['stage']:<8}{row['size']:>12,}{row['seconds']:>9.2f}{numbers}{row['peak_mb']:>9,.0f}")
    return "\n".join(lines)


def write_vectors(path: Path, count: int, width: int, filled: int | None = None) -> None:
    """Write (count, width) float16; those beyond the first `filled` are zeros, and holes where the disk has such."""
    rng = np.random.default_rng(0)
    filled = count if filled is None else filled
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": (count, width)})
        start = file.tell()
        for first in range(0, filled, 8192):
            block = rng.standard_normal((min(8192, filled - first), width), np.float32)
            file.write((block / np.linalg.norm(block, axis=1, keepdims=True)).astype(np.float16).tobytes())
        file.truncate(start + 2 * count * width)


def _child(stage: str, size: int, where: str, repeats: int, threads: int) -> dict:
    call = json.dumps([stage, where, repeats, threads])
    done = subprocess.run([sys.executable, "-m", "benchmarks.search", call], capture_output=True, text=True)
    if done.returncode:
        raise RsvlmError(f"the process that measures failed: {done.stderr.strip()[-800:]}")
    return {"stage": stage, "size": size} | json.loads(done.stdout.splitlines()[-1])


def _main(call: str) -> None:
    """What the new process does."""
    import numba
    import torch

    from rsvlm.records import provenance

    stage, where, repeats, threads = json.loads(call)
    if threads:
        torch.set_num_threads(threads)
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    pairs = _query(Path(where), repeats) if stage == "query" else _index(where, repeats, stage == "index")
    ratios, cpu_ratios = ([ratio for ratio in some if ratio] for some in zip(*(pair[1] for pair in pairs)))
    measured = {"seconds": statistics.median(pair[0] for pair in pairs), "repeats": repeats}
    measured |= {"cpu_ratio": statistics.median(cpu_ratios) if cpu_ratios else 0.0}
    measured |= {
        "ratio": statistics.median(ratios) if ratios else 0.0,
        "min": min(ratios, default=0),
        "max": max(ratios, default=0),
    }
    print(json.dumps(measured | {"peak_mb": round(provenance.peak_memory_mb())}))


def _query(path: Path, repeats: int) -> list[tuple[float, np.ndarray]]:
    from rsvlm.search import nearest

    width = np.load(path, mmap_mode="r").shape[1]
    question = np.random.default_rng(1).standard_normal((1, width)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:  # compiled, or read from the cache
        write_vectors(Path(name) / "few.npy", 10, width)
        nearest.nearest(Path(name) / "few.npy", question, 10)
    pairs = []
    for _ in range(repeats):
        before = _timed(lambda: _read(path))
        asked = _timed(lambda: nearest.nearest(path, question, 10))
        pairs.append((asked[0], asked / ((before + _timed(lambda: _read(path))) / 2)))
    return pairs


def _timed(work: Callable) -> np.ndarray:
    """Return the seconds that something takes, on the clock and of the processor."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - started, time.process_time() - cpu])


def _read(path: Path) -> None:
    """Read a file once, as fast as it goes."""
    block = bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(block):
            pass


def _index(where: str, repeats: int, with_tower: bool) -> list[tuple[float, np.ndarray]]:
    import torch

    from rsvlm.model import embed, mammut, tokenizer
    from rsvlm.search import index as archive

    torch.manual_seed(0)
    model = mammut.Mammut(mammut.MammutConfig(**mammut.PRESETS["nano"], vocab_size=512)).eval()
    model.tokenizer = tokenizer.train(["fields and noise, seen from above"] * 8, 300, model.config.context_length)
    encoder = embed.encoder_of(model)
    pairs = []
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "index"
        facts = archive.index(where, encoder, out, progress=False)
        index = archive.open_index(out)
        chips = index.pictures(np.arange(min(len(index), 2048))) if with_tower else []
        for _ in range(repeats):
            whole = _timed(lambda: archive.index(where, encoder, out, fresh=True, progress=False))
            alone = _timed(lambda: [encoder.images(chips[first : first + 256]) for first in range(0, len(chips), 256)])
            share = alone / max(len(chips), 1) / (whole / facts["chips"])
            pairs.append((whole[0], share))
    return pairs


if __name__ == "__main__":
    _main(sys.argv[1])
