"""Time of smooth attention pooling over a large map, beside the same weighted mean made of exp, two box filters and a division."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np

from rsvlm.localization import smoothing
from rsvlm.records import provenance

PATCH = 40  # side of the corner that everyone's answer is compared on
TOLERANCE = 1e-3  # the peers' sums are float32 and may drift; ours is held to 1e-5 in the tests


def measure(
    n_size: int = 10_000, window: int = 31, repeats: int = 3, threads: int = 2, peers: bool = True, memory: bool = True
) -> list[dict]:
    """Time everyone on the same random scores and values, in turns, their answers compared first.

    Args:
        n_size: Side of the map.
        window: Side of the window, odd.
        repeats: Timed rounds.
        threads: Threads of ours and of OpenCV; SciPy and NumPy have one.
        peers: Also OpenCV and SciPy.
        memory: Also peak memory of ours, in a process of its own.

    Returns:
        One row each: `seconds` (median; `fastest`, `slowest`), `cpu_seconds` (median), `megapixels_per_s`, `ratio` and `cpu_ratio` to
        ours (median over the rounds of that round's ratio; above 1 it is slower than ours), `largest_error` in the lower right
        corner against NumPy in float64, or `problem`; ours also `peak_memory_mb` with the map in it (2**20 bytes).
    """
    before, used = numba.get_num_threads(), min(threads, numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(used)
    try:
        rows = _compare(*_inputs(n_size), window, repeats, threads, peers)
    finally:
        numba.set_num_threads(before)
    if memory:
        job = json.dumps({"n_size": n_size, "window": window, "threads": used})
        command = [sys.executable, str(Path(__file__).resolve()), job]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows[0] |= json.loads(done.stdout.splitlines()[-1])
    return [{"size": n_size, "window": window, "threads": used} | row for row in rows]


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    first = rows[0]
    lines = [f"Smooth pooling, {first['size']:,} × {first['size']:,}, window {first['window']}, {first['threads']} threads"]
    for row in rows:
        text = f"  {row['implementation']:<22} {row.get('problem', '')}"
        if "problem" not in row:
            text += f"{row['seconds']:7.2f} s ({row['fastest']:.2f} to {row['slowest']:.2f}), CPU {row['cpu_seconds']:.2f} s"
            text += f"  {row['megapixels_per_s']:6.1f} Mpx/s  {row['ratio']:.2f} × ours (CPU time {row['cpu_ratio']:.2f} ×)"
            text += f"  error {row['largest_error']:.1e}"
            text += f"  {row['peak_memory_mb']:,} MB" if "peak_memory_mb" in row else ""
        lines.append(text)
    return "\n".join(lines)


def _inputs(side: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((side, side), np.float32), rng.standard_normal((side, side), np.float32)


def _opencv(scores: np.ndarray, values: np.ndarray, window: int) -> np.ndarray:
    import cv2

    weights = cv2.exp(scores - scores.max())
    outside = cv2.BORDER_CONSTANT  # zeros in both: what is beyond the edge has no weight
    above = cv2.blur(weights * values, (window, window), borderType=outside)
    return cv2.divide(above, cv2.blur(weights, (window, window), borderType=outside))


def _scipy(scores: np.ndarray, values: np.ndarray, window: int) -> np.ndarray:
    from scipy import ndimage

    weights = np.exp(scores - scores.max())
    above = ndimage.uniform_filter(weights * values, window, mode="constant")
    return above / ndimage.uniform_filter(weights, window, mode="constant")


def _numpy(scores: np.ndarray, values: np.ndarray, window: int) -> np.ndarray:
    """The lower right corner by the definition, in float64: last in the order in which running sums drift."""
    radius, side = window // 2, min(PATCH, *scores.shape)
    part = np.s_[max(0, len(scores) - side - radius) :, max(0, scores.shape[1] - side - radius) :]
    weights = np.exp(scores[part].astype(np.float64))
    weighted = weights * values[part]
    out = np.empty((side, side))
    top, left = weights.shape[0] - side, weights.shape[1] - side
    for y, x in np.ndindex(side, side):
        near = np.s_[max(0, top + y - radius) : top + y + radius + 1, max(0, left + x - radius) : left + x + radius + 1]
        out[y, x] = weighted[near].sum() / weights[near].sum()
    return out


def _compare(scores: np.ndarray, values: np.ndarray, window: int, repeats: int, threads: int, peers: bool) -> list[dict]:
    contenders: dict[str, tuple[str, Callable]] = {"rsvlm smooth_pool": ("numba", smoothing.smooth_pool)}
    if peers:
        contenders |= {"OpenCV exp, blur ÷ blur": ("cv2", _opencv), "SciPy uniform_filter": ("scipy", _scipy)}
    rows = {name: {"implementation": name} for name in contenders}
    wanted = _numpy(scores, values, window)

    # Who is installed and answers alike on a small corner, so that compiling and a wrong answer cost no time.
    corner = min(len(scores), len(wanted) + 4 * window)
    part = np.s_[-corner:, -corner:]
    for name, (package, run) in list(contenders.items()):
        if importlib.util.find_spec(package) is None:
            rows[name]["problem"] = 'not installed: pip install -e ".[bench]"'
            del contenders[name]
            continue
        if package == "cv2":
            importlib.import_module("cv2").setNumThreads(threads)
        if (error := _error(run(scores[part], values[part], window), wanted)) > TOLERANCE:
            rows[name]["problem"] = f"its answer is off by {error:.2g}: not the same task"
            del contenders[name]

    # In turns.
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, (_, run) in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            answer = run(scores, values, window)
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
            rows[name]["largest_error"] = _error(answer, wanted)
            del answer
    base = np.array(times["rsvlm smooth_pool"])
    for name in contenders:
        spent = np.array(times[name])
        (seconds, cpu_seconds), (ratio, cpu_ratio) = (np.median(part, axis=0).tolist() for part in (spent, spent / base))
        rows[name] |= {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "fastest": float(spent[:, 0].min()),
            "slowest": float(spent[:, 0].max()),
            "megapixels_per_s": scores.size / seconds / 1e6,
            "ratio": ratio,
            "cpu_ratio": cpu_ratio,
        }
    return list(rows.values())


def _error(answer: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(answer[-len(wanted) :, -len(wanted) :] - wanted).max())


def _memory_here(n_size: int, window: int, threads: int) -> dict:
    numba.set_num_threads(threads)
    smoothing.smooth_pool(*_inputs(n_size), window)
    return {"peak_memory_mb": round(provenance.peak_memory_mb())}


if __name__ == "__main__":
    print(json.dumps(_memory_here(**json.loads(sys.argv[1]))))
