"""Speed and memory of a search in a scene made on the spot, with a nano model of random weights, as the command line does it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsvlm.errors import RsvlmError


def measure(n_side: int = 8192, many: Sequence[int] = (), n_texts: int = 1, repeats: int = 3, threads: int = 0) -> list[dict]:
    """Search scenes, each in a process of its own.

    Args:
        n_side: Side of the timed scene, in pixels: an 8-bit RGB GeoTIFF, JPEG inside, tiles of 512 pixels.
        many: Also one search in a scene of each of these sides, for the memory.
        n_texts: Texts looked for.
        repeats: Timed searches for each precision.
        threads: Threads of torch and numba; 0: as they are.

    Returns:
        Rows: `stage` (`search`, `memory`), `precision` (`auto` is the default of the command), `side`, `repeats`, `mp_per_s` (median, from
        the opened scene to the written files; compiling and loading left out by a small search before) with `min` and `max`,
        `mp_per_cpu_s`, and `peak_mb`, the most memory (2**20 bytes) that the process ever held.

    Raises:
        MissingExtraError: The extra `data` is not installed.
        RsvlmError: A search failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scene(folder / "small.tif", 256)
        write_scene(folder / "scene.tif", n_side)
        rows = []
        for precision in ("auto", "fp32"):
            done = [_child(folder, "scene.tif", precision, n_texts, threads) for _ in range(repeats)]
            rows.append(_row("search", precision, n_side, done))
        for side in many:
            write_scene(folder / "many.tif", side)
            rows.append(_row("memory", "auto", side, [_child(folder, "many.tif", "auto", n_texts, threads)]))
    return rows


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    lines = [f"{'':<8}{'precision':>10}{'side':>9}{'MP/s':>8}{'min':>8}{'max':>8}{'MP/CPU s':>10}{'peak MB':>9}"]
    for row in rows:
        speeds = "".join(f"{row[name]:>8.2f}" for name in ("mp_per_s", "min", "max"))
        lines.append(
            f"{row['stage']:<8}{row['precision']:>10}{row['side']:>9,}{speeds}{row['mp_per_cpu_s']:>10.2f}{row['peak_mb']:>9,.0f}"
        )
    return "\n".join(lines)


def write_scene(path: Path, side_px: int, seed: int = 0) -> None:
    """Write a square 8-bit RGB GeoTIFF of fields and noise, 1 m a pixel, UTM zone 29 north."""
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(seed)
    tile = rng.integers(60, 190, (8, 8, 3)).repeat(64, axis=0).repeat(64, axis=1) + rng.integers(-12, 13, (512, 512, 3))
    tile = np.moveaxis(tile.astype(np.uint8), 2, 0)
    form = {"driver": "GTiff", "width": side_px, "height": side_px, "count": 3, "dtype": "uint8", "crs": "EPSG:32629"}
    form |= {"transform": from_origin(500_000.0, 4_545_000.0, 1, 1), "tiled": True, "blockxsize": 512, "blockysize": 512}
    with rasterio.open(path, "w", photometric="ycbcr", compress="jpeg", BIGTIFF="IF_SAFER", **form) as file:
        for _, window in file.block_windows():
            part = np.roll(tile, rng.integers(0, 512, 2).tolist(), axis=(1, 2))
            file.write(part[:, : window.height, : window.width], window=window)


def _child(folder: Path, name: str, precision: str, texts: int, threads: int) -> dict:
    call = json.dumps([str(folder), name, precision, texts, threads])
    done = subprocess.run([sys.executable, str(Path(__file__).resolve()), call], capture_output=True, text=True)
    if done.returncode:
        raise RsvlmError(f"the search failed: {done.stderr.strip()[-800:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _main(call: str) -> None:
    """What the new process does."""
    import numba
    import torch

    from rsvlm.model import mammut, tokenizer
    from rsvlm.records import provenance
    from rsvlm.search import scene as scenes

    folder, name, precision, count, threads = json.loads(call)
    if threads:
        torch.set_num_threads(threads)
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    torch.manual_seed(0)
    model = mammut.Mammut(mammut.MammutConfig(**mammut.PRESETS["nano"], vocab_size=512)).eval()
    model.tokenizer = tokenizer.train(["fields and noise, seen from above"] * 8, 300, model.config.context_length)
    texts = [f"field number {i}" for i in range(count)]
    options = scenes.SearchOptions(precision=precision)
    scenes.search(Path(folder) / "small.tif", texts, model, Path(folder) / "out", options, progress=False)
    started, cpu = time.perf_counter(), time.process_time()
    result = scenes.search(Path(folder) / name, texts, model, Path(folder) / "out", options, progress=False)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    measured = {"mp": result.facts["megapixels"], "seconds": seconds, "cpu_s": cpu, "peak_mb": provenance.peak_memory_mb()}
    sys.stdout.write(json.dumps(measured) + "\n")


def _row(stage: str, precision: str, side: int, done: list[dict]) -> dict:
    speeds = [one["mp"] / one["seconds"] for one in done]
    row = {
        "stage": stage, "precision": precision, "side": side, "repeats": len(done), "mp_per_s": statistics.median(speeds),
        "min": min(speeds), "max": max(speeds), "mp_per_cpu_s": statistics.median(one["mp"] / one["cpu_s"] for one in done),
        "peak_mb": max(one["peak_mb"] for one in done),
    }  # fmt: skip
    return {key: round(cell, 2) if isinstance(cell, float) else cell for key, cell in row.items()}


if __name__ == "__main__":
    _main(sys.argv[1])
