"""How well the overhead filter tells pictures from above that it never learnt from, by what a precision is promised for; and its speed.

Sets that are absent are named, and have rows without a value. Beside the filter stands the strongest trivial one: a logistic regression
on how often each colour is there, trained on the same pictures.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks import overhead_pictures
from rsvlm.data import reading
from rsvlm.data.web import overhead, overhead_training
from rsvlm.errors import DataError
from rsvlm.model import images
from rsvlm.records import provenance, results

BINS = 18  # of each channel's histogram: 54 numbers in all
DRAWS = 2000  # of the bootstrap
# of the rows that are stored; those of colours, and the difference, have a name behind it
PROTOCOL = "overhead, never learnt from"
SETS = {
    "rsicd val": ("RSICD", "val"),
    "vhr10": ("NWPU VHR-10", "half of it"),
    "oam 1": ("OpenAerialMap", "Zanzibar"),
    "oam 2": ("OpenAerialMap", "Kampala"),
    "praia da aguda": ("web map tiles", "Praia da Aguda"),
    "photographs": ("photographs", "held out by what they show"),
    "packages": ("files of packages", "held out by name"),
    "all": ("all of them", "held out"),
}
"""Data set and split of each set, as they are stored."""


def _jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer).convert("RGB")


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 40": _jpeg,
    "half the size": lambda image: image.resize((max(image.width // 2, 1), max(image.height // 2, 1))),
    "twice the size": lambda image: image.resize((image.width * 2, image.height * 2)),
    "mirrored": ImageOps.mirror,
    "grey": lambda image: image.convert("L").convert("RGB"),
    "black frame": lambda image: ImageOps.expand(image, max(min(image.size) // 12, 1), (0, 0, 0)),
}
"""Changes after which a picture shows what it showed."""


def measure(
    head: str = "",
    precision: float = 0.95,
    share: float = 0.2,
    labelled: str = "",
    n_changed: int = 50,
    n_speed: int = 256,
    seed: int = 0,
) -> list[dict]:
    """Score every set that was never learnt from, in all and one by one, and time the filter on one core.

    Args:
        head: File of a head. If empty, the one that comes along.
        precision: Precision that its threshold promises; without effect on a head from a file, likewise `share`.
        share: Share of overhead pictures that the precision is for.
        labelled: Folder of labelled pictures, as for `rsvlm web train-filter`, that the colour baseline is trained on. If empty, none.
        n_changed: Pictures of each set that are also scored after each of `CHANGES`.
        n_speed: Pictures that are timed. If 0, none.
        seed: Seed of the bootstrap.

    Returns:
        One row per method and set, or change: `method set metric value low high n`, with intervals of 95 %: Wilson's for shares, the
        bootstrap over pictures for the precision, and for what the filter's is above the colours'; and of the speed `per_s`, of one core, and `peak_mb` with that many and four times
        as many pictures.
    """
    known = overhead.load(Path(head)) if head else overhead.shipped(precision, share)
    sets = overhead_pictures.not_learnt_from()
    methods = {"filter": (known, overhead.features)}
    if labelled:
        methods["colours"] = baseline(known, *_labelled(Path(labelled))), colours
    rows, passed = [], {}
    for name, (fitted, features) in methods.items():
        scores = {of_set: fitted.scores(features(_decoded(paths))) for of_set, (_, paths) in sets.items()}
        rows += [{"method": name} | row for row in judged(sets, scores, fitted.threshold, fitted.share, seed)]
        passed[name] = {of_set: values >= fitted.threshold for of_set, values in scores.items()}
    if labelled and {above for name, (above, _) in sets.items() if len(passed["filter"][name])} == {True, False}:
        rows.append(difference(sets, *passed.values(), known.share, seed))
    rows += [{"method": "filter"} | row for row in _changed(sets, known, n_changed)]
    return rows + ([_speed(n_speed)] if n_speed else [])


def baseline(head: overhead.Head, measured: np.ndarray, labels: np.ndarray, sources: np.ndarray) -> overhead.Head:
    """Train the colour baseline, which reaches no high precision: with the threshold at which it finds as many labelled pictures as a head.

    Args:
        head: Head that it stands beside.
        measured: `(N, 54)`, as from `colours`.
        labels: `(N,)` bool, overhead.
        sources: `(N,)`, as for `overhead_training.fit`.
    """
    fitted = overhead_training.fit(measured, labels, sources, 1e-6, head.share)
    levels, _, true = fitted.curve.T
    place = min(int(np.searchsorted(true, head.recall)), len(levels) - 1)
    return replace(fitted, threshold=float(levels[place]), recall=float(true[place]))


def identity(head: str = "") -> str:
    """Return a hash of a head from a file, or of the one that comes along where there is no name."""
    return hashlib.sha256(overhead.text(overhead.load(Path(head or overhead.SHIPPED))).encode()).hexdigest()[:16]


def stored(rows: list[dict]) -> list[dict]:
    """Turn what was measured of each set into rows of results, in percent; what was absent, changed or timed has none."""
    metrics = {"recall": "recall", "false positives": "false_positive_rate", "AUC": "auc"}
    kept = []
    for row in rows:
        share = float(row["metric"].removeprefix("precision at ")) if row["metric"].startswith("precision at ") else None
        if row["set"] not in SETS or row["value"] is None or (share is None and row["metric"] not in metrics):
            continue
        dataset, split = SETS[row["set"]]
        protocol = PROTOCOL if row["method"] == "filter" else f"{PROTOCOL}: {row['method'].replace('filter', 'model')}"
        metric = metrics.get(row["metric"], f"precision_at_{100 * (share or 0):g}_percent")
        value, low, high = (None if row[name] is None else 100 * row[name] for name in ("value", "low", "high"))
        chance = 50.0 if metric == "auc" else share and 100 * share
        chance = None if row["method"] == "filter - colours" else chance
        kept.append(
            dict(zip(results.ROW, (dataset, split, protocol, "both", metric, value, low, high, chance, row["n"]), strict=True))
        )
    return kept


def judged(
    sets: dict[str, tuple[bool, list[Path]]], scores: dict[str, np.ndarray], threshold: float, share: float, seed: int = 0
) -> list[dict]:
    """Return the rows of one method: what passes of each set, recall in all, and the precision at a share."""
    passed = {name: values >= threshold for name, values in scores.items()}
    rows = []
    for name, (above, _) in sets.items():
        metric = "recall" if above else "false positives"
        rows.append({"set": name, "metric": metric} | _rate(passed[name]))
    pools = [
        np.concatenate([passed[n] for n, (a, _) in sets.items() if a == above] or [np.zeros(0, bool)])
        for above in (True, False)
    ]
    every = [
        np.concatenate([scores[n] for n, (a, _) in sets.items() if a == above] or [np.zeros(0)]) for above in (True, False)
    ]
    for pool, metric in zip(pools, ("recall", "false positives"), strict=True):
        rows.append({"set": "all", "metric": metric} | _rate(pool))
    if all(len(pool) for pool in pools):
        rng = np.random.default_rng(seed)
        drawn = [rng.binomial(len(pool), pool.mean(), DRAWS) / len(pool) for pool in pools]  # with replacement
        low, high = np.quantile(overhead.precision_of(*drawn, share), [0.025, 0.975])
        value = float(overhead.precision_of(pools[0].mean(), pools[1].mean(), share))
        n = sum(map(len, pools))
        rows.append(
            {"set": "all", "metric": f"precision at {share:g}", "value": value, "low": float(low), "high": float(high), "n": n}
        )
        order = np.sort(every[1])
        auc = ((np.searchsorted(order, every[0]) + np.searchsorted(order, every[0], "right")) / 2 / len(order)).mean()
        rows.append({"set": "all", "metric": "AUC", "value": float(auc), "low": None, "high": None, "n": n})
    return rows


def difference(
    sets: dict[str, tuple[bool, list[Path]]],
    one: dict[str, np.ndarray],
    other: dict[str, np.ndarray],
    share: float,
    seed: int = 0,
) -> dict:
    """Return by how much one method's precision at a share is above another's, over the same resamples of the pictures.

    Args:
        sets: As for `judged`.
        one: What passes of each set by the first method, (n,) bool.
        other: The same by the second.
        share: Share of overhead pictures.
        seed: Seed of the bootstrap.
    """
    rng, rates = np.random.default_rng(seed), []
    for above in (True, False):
        kinds = np.concatenate([2 * one[name] + other[name] for name, (is_above, _) in sets.items() if is_above == above])
        both = np.bincount(kinds, minlength=4) / len(kinds)  # neither, the second alone, the first alone, both
        drawn = np.vstack([both, rng.multinomial(len(kinds), both, DRAWS) / len(kinds)])
        rates.append((drawn[:, 2:].sum(axis=1), drawn[:, 1] + drawn[:, 3]))
    of_one, of_other = (overhead.precision_of(*pair, share) for pair in zip(*rates))
    value, *draws = (of_one - of_other).tolist()
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    known = {"method": "filter - colours", "set": "all", "metric": f"precision at {share:g}"}
    return known | {"value": value, "low": low, "high": high, "n": sum(map(len, one.values()))}


def _rate(passed: np.ndarray) -> dict:
    """Share of True with Wilson's interval."""
    n, z = len(passed), 1.96
    if not n:
        return {"value": None, "low": None, "high": None, "n": 0}
    rate = float(passed.mean())
    middle, half = rate + z * z / (2 * n), z * (rate * (1 - rate) / n + z * z / (4 * n * n)) ** 0.5
    low, high = (float((middle + side * half) / (1 + z * z / n)) for side in (-1, 1))
    return {"value": rate, "low": low, "high": high, "n": n}


def colours(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Measure how often each of 18 levels of each channel is there: `(N, 54)` float32."""
    level = (np.arange(256) * BINS // 256)[:, None] + BINS * np.arange(3)  # of each value in each channel
    rows = []
    for picture in pictures:
        places = level[picture.reshape(-1, 3), np.arange(3)].ravel()
        rows.append(np.bincount(places, minlength=3 * BINS) * (3 / picture.size))
    return np.array(rows, np.float32).reshape(-1, 3 * BINS)


def _labelled(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure the colours of labelled pictures: `(N, 54)`, with `(N,)` labels and sources."""
    parts = [(name, path) for name in overhead.CLASSES for path in reading.visible(folder / name, "**/*") if path.is_file()]
    if not parts:
        raise DataError(f"{folder} holds no labelled pictures: `python -m benchmarks overhead-pictures` writes them")
    labels = np.array([name == "overhead" for name, _ in parts])
    return (
        colours(_decoded(path for _, path in parts)),
        labels,
        np.array(["/".join(path.relative_to(folder).parts[:-1]) for _, path in parts]),
    )


def _decoded(paths: Iterable[Path]) -> Iterator[np.ndarray]:
    return (images.decode(path.read_bytes()) for path in paths)


def _changed(sets: dict[str, tuple[bool, list[Path]]], head: overhead.Head, count: int) -> Iterator[dict]:
    """Return how many pictures are on the other side after a change, of sets from above and of others."""
    for above in (True, False):
        paths = [
            path
            for known, listed in sets.values()
            if known == above
            for path in listed[:: max(len(listed) // max(count, 1), 1)][:count]
        ]
        if not paths or not count:
            continue
        before = overhead.score(head, _decoded(paths)) >= head.threshold
        for name, change in CHANGES.items():
            after = overhead.score(head, (np.asarray(change(Image.fromarray(p))) for p in _decoded(paths))) >= head.threshold
            yield {"set": name, "metric": f"other side, {'overhead' if above else 'other'}"} | _rate(before != after)


def _speed(count: int) -> dict:
    """Time the filter in a fresh process of one thread, with some pictures and with four times as many."""
    runs = []
    for n in (count, 4 * count):
        command = [sys.executable, "-m", "benchmarks.overhead", str(n)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        "method": "filter",
        "set": "pictures of 256 px",
        "metric": "per s of one core",
        "value": runs[0]["per_s"],
        "low": None,
        "high": None,
        "n": count,
        "peak_mb": runs[0]["peak_mb"],
        "peak_mb_x4": runs[1]["peak_mb"],
    }


def _timed(count: int) -> dict:
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pictures = (rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(count))
    overhead.features([np.zeros((64, 64, 3), np.uint8)] * overhead.AT_ONCE)
    start = time.process_time()
    overhead.features(pictures)
    return {"per_s": count / (time.process_time() - start), "peak_mb": provenance.peak_memory_mb()}


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    lines = [f"{'':<18}{'':<22}{'':<28}{'value':>9}{'95 % interval':>19}{'n':>7}"]
    for row in rows:
        value = "" if row["value"] is None else f"{row['value']:.3f}"
        interval = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        memory = f"   {row['peak_mb']:.0f} MB, with four times as many {row['peak_mb_x4']:.0f} MB" if "peak_mb" in row else ""
        lines.append(f"{row['method']:<18}{row['set']:<22}{row['metric']:<28}{value:>9}{interval:>19}{row['n']:>7}{memory}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(_timed(int(sys.argv[1]))))
