"""Time and memory of exact recall in both directions, beside the bare matrix product, faiss and dense top-k."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from rsvlm.errors import DataError
from rsvlm.evaluation import retrieval
from rsvlm.records import provenance

KS = (1, 5, 10)
MAPPED = "rsvlm, mapped files"
TOLERANCE = 0.05  # points of recall: a peer ranks float32 scores, in which neighbours may change places


def measure(
    n_images: int = 10_000,
    n_captions: int = 50_000,
    width: int = 512,
    repeats: int = 3,
    threads: int = 0,
    peers: bool = True,
    memory: bool = True,
    many: int = 0,
) -> list[dict]:
    """Time everyone on the same random vectors, in turns.

    Args:
        n_images: Images; 0: no comparison.
        n_captions: Captions, spread evenly over the images; each agrees a little with its own.
        width: Length of the vectors.
        repeats: Timed rounds.
        threads: Threads of torch, faiss and ours; 0: as they are.
        peers: Also faiss flat search and dense top-k, which hold all scores.
        memory: Also peak memory of ours, on memory-mapped files in a process of its own.
        many: Also ours alone, once, on that many images with five captions each, memory-mapped in a process of its own; 0: none.

    Returns:
        One row each: `seconds` (median; `fastest`, `slowest`), `cpu_seconds` (median), `ratio` and `cpu_ratio` to the bare matrix
        product (median over the rounds of that round's ratio), `recalls` (both ways) or `problem`; ours also `peak_memory_mb` of the
        whole process with the mapped files in it, and `own_memory_mb`, most of it that was no file's (2**20 bytes; the latter only
        where the system tells). The row of `many` has `seconds`, `cpu_seconds`, `recalls` and both memories.
    """
    threads = threads or torch.get_num_threads()
    rows = _sized(n_images, n_captions, width, repeats, threads, peers, memory) if n_images else []
    if many:
        with tempfile.TemporaryDirectory() as scratch:
            _write(Path(scratch), many, 5 * many, width)
            sizes = {"images": many, "captions": 5 * many, "width": width, "threads": threads}
            rows.append(sizes | {"implementation": MAPPED} | _apart(scratch, threads))
    return rows


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    if not rows:
        return "Nothing was asked for: give --images or --many"
    first = rows[0]
    lines = [
        f"Recall both ways, {first['images']:,} images × {first['captions']:,} captions, width {first['width']}, "
        f"{first['threads']} threads"
    ]
    for row in rows:
        if "problem" in row:
            lines.append(f"  {row['implementation']:<15} {row['problem']}")
            continue
        text = f"  {row['implementation']:<15} {row['seconds']:8.2f} s"
        if row["implementation"] == MAPPED:
            text += f", {row['images']:,} × {row['captions']:,}"
        else:
            text += f" ({row['fastest']:.2f} to {row['slowest']:.2f})"
            text += f"  {row['ratio']:.2f} × the product (CPU time {row['cpu_ratio']:.2f} ×)"
        lines.append(text + (f"  {row['peak_memory_mb']:,} MB" if "peak_memory_mb" in row else ""))
    return "\n".join(lines)


def _sized(n_images: int, n_captions: int, width: int, repeats: int, threads: int, peers: bool, memory: bool) -> list[dict]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            _write(Path(scratch), n_images, n_captions, width)
            rows = _compare(Path(scratch), repeats, threads, peers)
            if memory:
                rows[1] |= {k: v for k, v in _apart(scratch, threads).items() if k.endswith("_mb")}
    finally:
        torch.set_num_threads(before)
    return [{"images": n_images, "captions": n_captions, "width": width, "threads": threads} | row for row in rows]


def _write(folder: Path, n_images: int, n_captions: int, width: int) -> None:
    rng = np.random.default_rng(0)
    owners = np.sort(np.arange(n_captions) % n_images)
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (count, width))
        for name, count in (("images", n_images), ("captions", n_captions))
    }
    for name, file in files.items():
        for start in range(0, len(file), 8192):
            block = rng.standard_normal((min(8192, len(file) - start), width), np.float32) / np.sqrt(width)
            if name == "captions":
                block += 0.15 * files["images"][owners[start : start + 8192]]
            file[start : start + 8192] = block / np.linalg.norm(block, axis=1, keepdims=True)
        file.flush()
    np.save(folder / "image_of_caption.npy", owners)


def _read(folder: Path, mapped: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mode = "r" if mapped else None
    return tuple(np.load(folder / f"{name}.npy", mmap_mode=mode) for name in ("images", "captions", "image_of_caption"))


def _ours(images: np.ndarray, captions: np.ndarray, owners: np.ndarray) -> list[float]:
    both = retrieval.standings(images, captions, owners)
    return [float(100 * value) for side in both for value in retrieval.hits(side, KS).mean(0)]


def _product(images: np.ndarray, captions: np.ndarray, owners: np.ndarray) -> None:
    x, y = torch.from_numpy(images), torch.from_numpy(captions)
    for i in range(0, len(x), 4096):
        for j in range(0, len(y), 4096):
            x[i : i + 4096] @ y[j : j + 4096].T


def _dense(images: np.ndarray, captions: np.ndarray, owners: np.ndarray) -> list[float]:
    scores = torch.from_numpy(captions) @ torch.from_numpy(images).T
    to_texts, to_images = scores.topk(max(KS), 0).indices.T.numpy(), scores.topk(max(KS), 1).indices.numpy()
    return _recalls(to_texts, to_images, owners)


def _faiss(images: np.ndarray, captions: np.ndarray, owners: np.ndarray) -> list[float]:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    found = []
    for gallery, queries in ((captions, images), (images, captions)):
        index = faiss.IndexFlatIP(gallery.shape[1])
        index.add(gallery)
        found.append(index.search(queries, max(KS))[1])
    return _recalls(*found, owners)


def _recalls(to_texts: np.ndarray, to_images: np.ndarray, owners: np.ndarray) -> list[float]:
    right = [owners[to_texts] == np.arange(len(to_texts))[:, None], to_images == owners[:, None]]
    return [float(100 * side[:, :k].any(1).mean()) for side in right for k in KS]


def _compare(folder: Path, repeats: int, threads: int, peers: bool) -> list[dict]:
    contenders: dict[str, Callable] = {"matrix product": _product, "rsvlm": _ours}
    contenders |= {"faiss flat": _faiss, "dense top-k": _dense} if peers else {}
    vectors = _read(folder, mapped=False)
    few = tuple(array[:20] for array in vectors[:2])
    retrieval.standings(*few, np.arange(20))  # compiled, or read from the cache
    rows = {name: {"implementation": name} for name in contenders}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    if "faiss flat" in contenders and importlib.util.find_spec("faiss") is None:
        rows["faiss flat"]["problem"] = 'not installed: pip install -e ".[bench]"'
        del contenders["faiss flat"]
    for _ in range(repeats):
        for name, run in list(contenders.items()):
            wall, cpu = time.perf_counter(), time.process_time()
            answer = run(*vectors)
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
            rows[name]["recalls"] = answer
            ours = rows["rsvlm"].get("recalls")
            if answer and ours and max(abs(a - b) for a, b in zip(answer, ours, strict=True)) > TOLERANCE:
                rows[name]["problem"] = f"its recalls are {np.round(answer, 2)}, ours {np.round(ours, 2)}: not the same task"
                del contenders[name]
    base = np.array(times["matrix product"])
    for name in contenders:
        spent = np.array(times[name])
        ratio, cpu_ratio = np.median(spent / base, axis=0)
        rows[name] |= {"seconds": float(np.median(spent[:, 0])), "cpu_seconds": float(np.median(spent[:, 1]))}
        rows[name] |= {"fastest": float(spent[:, 0].min()), "slowest": float(spent[:, 0].max())}
        rows[name] |= {"ratio": float(ratio), "cpu_ratio": float(cpu_ratio)}
    return list(rows.values())


def _apart(folder: str, threads: int) -> dict:
    """Run `_here` in a process of its own, whose memory is nobody else's."""
    command = [sys.executable, str(Path(__file__).resolve()), json.dumps({"folder": folder, "threads": threads})]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"the process that measures memory failed: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _here(folder: str, threads: int) -> dict:
    torch.set_num_threads(threads)
    vectors = _read(Path(folder), mapped=True)
    own, over = [0], threading.Event()
    watch = threading.Thread(target=_watch, args=(own, over))
    watch.start()
    wall, cpu = time.perf_counter(), time.process_time()
    recalls = _ours(*vectors)
    spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu, "recalls": recalls}
    over.set()
    watch.join()
    spent |= {"peak_memory_mb": round(provenance.peak_memory_mb())}
    return spent | ({"own_memory_mb": round(own[0] / 2**10)} if own[0] else {})


def _watch(own: list[int], over: threading.Event) -> None:
    """Note the most memory that is no file's, ten times a second."""
    status = Path("/proc/self/status")
    while status.is_file() and not over.wait(0.1):
        line = next((line for line in status.read_text().splitlines() if line.startswith("RssAnon")), "RssAnon 0")
        own[0] = max(own[0], int(line.split()[1]))


if __name__ == "__main__":
    print(json.dumps(_here(**json.loads(sys.argv[1]))))
