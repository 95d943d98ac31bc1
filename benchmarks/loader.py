"""Speed of reading: our shards through our reader and through plain WebDataset, pictures decoded in both."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rsvlm import config
from rsvlm.data import shards
from rsvlm.data.demo import earth
from rsvlm.errors import DataError
from rsvlm.model import images

INSTALL = 'pip install -e ".[bench]"'
SPLIT = "train"


def measure(n_chips: int = 4000, repeats: int = 5) -> list[dict]:
    """Read the same shards to the end, in turns, one pass of each unmeasured first.

    Ours checks each sample, may start anywhere and permutes pools of whole shards; WebDataset shuffles through a buffer of 1,000
    samples. Both read in one process, decode the picture to (H, W, 3) uint8 and the record to a dict.

    Args:
        n_chips: Training chips to make and read.
        repeats: Timed passes of each reader.

    Returns:
        One row per reader: `samples_per_s` (median) with `min` and `max`; `speedup`, the median over rounds of its time divided by
        ours, with `speedup_min` and `speedup_max`. A reader that is not installed has `problem` instead.

    Raises:
        MissingExtraError: The packages with imagery and map are not installed.
        DataError: The readers give different samples.
    """
    options = config.Landmarks().model_copy(update={"max_chips": n_chips})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        earth.build(options, 0, folder, progress=False)
        readers = {"rsvlm": lambda epoch: _ours(folder, epoch)}
        problems = {}
        try:
            import webdataset  # noqa: F401

            readers["webdataset"] = lambda epoch: _webdataset(folder, epoch)
        except ModuleNotFoundError as error:
            problems["webdataset"] = f"{error.name} is not installed: {INSTALL}"
        count = _compare(readers)
        seconds = _rounds(readers, repeats)
    rows = []
    for reader in (*readers, *problems):
        row = {"implementation": reader, "samples": count, "repeats": repeats}
        if reader in problems:
            rows.append(row | {"problem": problems[reader]})
            continue
        speeds = [count / second for second in seconds[reader]]
        ratios = [theirs / ours for theirs, ours in zip(seconds[reader], seconds["rsvlm"], strict=True)]
        row |= {"samples_per_s": statistics.median(speeds), "min": min(speeds), "max": max(speeds)}
        row |= {"speedup": statistics.median(ratios), "speedup_min": min(ratios), "speedup_max": max(ratios)}
        rows.append({key: round(cell, 3) if isinstance(cell, float) else cell for key, cell in row.items()})
    return rows


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    lines = [
        f"Reading {rows[0]['samples']:,} samples from shards, pictures decoded, {rows[0]['repeats']} passes.",
        f"{'':<34}{'samples/s':>10}{'min':>8}{'max':>8}{'time / ours':>13}{'min':>7}{'max':>7}",
    ]
    for row in rows:
        numbers = (
            row["problem"]
            if "problem" in row
            else f"{row['samples_per_s']:>10.0f}{row['min']:>8.0f}{row['max']:>8.0f}{row['speedup']:>13.2f}"
            f"{row['speedup_min']:>7.2f}{row['speedup_max']:>7.2f}"
        )
        lines.append(f"{row['implementation']:<34}{numbers}")
    return "\n".join(lines)


def _ours(folder: Path, epoch: int) -> Iterator[tuple[str, np.ndarray, dict]]:
    for sample in shards.stream(folder, SPLIT, seed=0, epoch=epoch):
        yield sample.key, images.decode(sample.image), sample.record


def _webdataset(folder: Path, epoch: int) -> Iterator[tuple[str, np.ndarray, dict]]:
    import webdataset

    urls = [str(path) for path in sorted((folder / SPLIT).glob("*.tar"))]
    reader = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=epoch, empty_check=False)
    return iter(reader.shuffle(1000).decode("rgb8").to_tuple("__key__", "png", "json"))


def _compare(readers: dict[str, Callable]) -> int:
    """Return how many samples there are, after checking that all readers give the same ones."""
    seen = {}
    for name, read in readers.items():
        seen[name] = {key: (int(picture.sum(dtype=np.int64)), record) for key, picture, record in read(0)}
    first = next(iter(seen.values()))
    for name, found in seen.items():
        if found != first:
            raise DataError(f"{name} reads other samples than {next(iter(seen))}: {len(found)} and {len(first)}")
    return len(first)


def _rounds(readers: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    order = list(readers)
    for index in range(repeats):
        turn = index % len(order)
        for name in order[turn:] + order[:turn]:
            start = time.perf_counter()
            for _ in readers[name](1 + index):
                pass
            seconds[name].append(time.perf_counter() - start)
    return seconds
