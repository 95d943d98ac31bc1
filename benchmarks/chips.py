"""Speed of the data side: from the whole-world image to shards on disk."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from rsvlm import config
from rsvlm.data import shards
from rsvlm.data.demo import earth, earth_facts, earth_grammar, earth_layout, earth_map


def measure(n_chips: int = 4000, repeats: int = 3) -> list[dict]:
    """Time every stage of chip building, one call unmeasured first.

    Args:
        n_chips: Chips per repeat.
        repeats: Timed runs of each stage.

    Returns:
        One row per stage: `stage`, `n` chips, `repeats`, `chips_per_s` (the median), `min`, `median`, `max` in chips per second.
        Stages: `tiles` (cutting), `landmarks`, `captions`, `shards` (all of these and the tar file, with PNG encoding) and
        `total` (a build of that many training chips with their validation and test chips into an empty folder, reading the
        imagery and the map included; once for every two repeats).

    Raises:
        MissingExtraError: The packages with imagery and map are not installed.
    """
    options = config.Landmarks()
    imagery, world = earth_layout.load_imagery(), earth_map.load_map()
    table = _sample(options, world, n_chips)
    pixels = earth_layout.cut(imagery, table)
    records = earth_facts.describe(world, table, pixels)
    with ThreadPoolExecutor(earth.threads()) as pool:
        rows = [
            _row("tiles", n_chips, repeats, lambda: earth_layout.cut(imagery, table)),
            _row("landmarks", n_chips, repeats, lambda: earth_facts.describe(world, table, pixels)),
            _row("captions", n_chips, repeats, lambda: earth_grammar.write_all(records, options.captions_per_chip)),
            _row("shards", n_chips, repeats, lambda: _shard(table, imagery, world, options, pool)),
        ]
    small = options.model_copy(update={"max_chips": n_chips})
    rows.append(_row("total", None, max(1, repeats // 2), lambda: _build(small)))
    return rows


def _sample(options: config.Landmarks, world: earth_map.Map, n_chips: int) -> pd.DataFrame:
    weights = earth_map.block_weights(world.mask, options.block_deg, options.max_latitude_deg)
    table, _ = earth_layout.chips(options, 0, weights=weights)
    sea = earth_map.shares(world.mask, table[["west", "south", "east", "north"]].to_numpy()).mean(axis=1)[:, earth_map.SEA]
    dry = np.flatnonzero(sea <= options.max_water_share)
    chosen = np.random.default_rng(0).choice(dry, n_chips, replace=n_chips > len(dry))
    return table.iloc[chosen].reset_index(drop=True)


def _shard(
    table: pd.DataFrame, imagery: np.ndarray, world: earth_map.Map, options: config.Landmarks, pool: ThreadPoolExecutor
) -> None:
    task = shards.Task("train/000000.tar", table)
    shards.pack(earth.make(imagery, world, options.captions_per_chip, pool, task).samples, [])


def _build(options: config.Landmarks) -> int:
    with tempfile.TemporaryDirectory() as folder:
        content = earth.build(options, 0, Path(folder), progress=False)
    return sum(split["samples"] for split in content["splits"].values())


def _row(stage: str, n_chips: int | None, repeats: int, work: Callable[[], object]) -> dict:
    made = work()
    count = made if n_chips is None else n_chips
    speeds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        speeds.append(count / (time.perf_counter() - start))
    middle = round(statistics.median(speeds), 1)
    return {
        "stage": stage,
        "n": count,
        "repeats": repeats,
        "chips_per_s": middle,
        "min": round(min(speeds), 1),
        "median": middle,
        "max": round(max(speeds), 1),
    }
