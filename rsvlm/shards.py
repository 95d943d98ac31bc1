"""Shards: chips with captions as WebDataset tar files, and the reader that trains from them.

Layout of a data folder:

    manifest.json       what is inside, how it was made, and the hash of every shard; written last
    chips.parquet       one row per chip, captions included, pictures not
    train/000000.tar    members {key}.json and {key}.png, samples in a seeded random order
    val/...  test/...

Every file is written under a temporary name and renamed when whole. A build that was stopped goes on where it was: shards that
are whole are kept, and the bytes of the result do not depend on how often it was stopped.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import io
import json
import logging
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import PIL
from tqdm.auto import tqdm

from rsvlm import grammar, images, kernels, runs, tiles, worldmap
from rsvlm.errors import DataError

if TYPE_CHECKING:
    from rsvlm import config

log = logging.getLogger(__name__)

SCHEMA = 1
NAME = "rs-landmarks-blue-marble"
IMAGE_TYPES = ("png", "jpg", "jpeg", "webp")

_SOURCES = (tiles.IMAGERY_SOURCE, worldmap.MAP_SOURCE, worldmap.CITY_SOURCE)
_LICENSE = "; ".join(source["license"] for source in _SOURCES)
_ATTRIBUTION = "; ".join(source["attribution"] for source in _SOURCES)


@dataclass(frozen=True)
class Sample:
    """One picture with its captions.

    Attributes:
        key: Stable name within the data set.
        image: Encoded bytes, for `images.decode`.
        captions: At least one, none empty; the first is the fullest.
        record: The sample's JSON member, `{}` where there is none.
        position: Place in this epoch's order, from 0; broken samples keep theirs, so `start=position + 1` goes on exactly.
    """

    key: str
    image: bytes
    captions: list[str]
    record: dict
    position: int


def build(options: config.Landmarks, seed: int, out: Path, *, progress: bool = True) -> dict:
    """Cut, describe and write the demo's data set; go on with it where a stopped build left it.

    Args:
        options: How chips are cut, described and split.
        seed: Seed of the splits, the samples' order and the draw of `max_chips`.
        out: Folder to fill; made when missing.
        progress: Show progress bars.

    Returns:
        The manifest.

    Raises:
        MissingExtraError: The packages with imagery and map are not installed.
        DataError: A source file is broken, the options leave a split empty, the folder holds shards of something else, or
            the disk is full.
    """
    out = Path(out)
    plan, sources = _plan(options, seed)
    known = _known_shards(out, plan)
    finished = _finished(out, plan)
    if finished is not None:
        return finished
    imagery, world = tiles.load_imagery(), worldmap.load_map()
    table, funnel = _select(options, seed, world, imagery.shape[1] / 360.0)
    try:
        result = _write_all(out, plan, table, imagery, world, options, known, progress)
        content = {
            "schema": SCHEMA,
            "name": NAME,
            "plan": plan,
            "seed": seed,
            "options": options.model_dump(),
            "splits": result,
            "funnel": funnel,
            "sources": sources,
        }
        runs.write_atomic(out / "manifest.json", (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        raise DataError(f"writing to {out} failed ({error}): make room or choose another folder, then run again") from error
    for sidecar in out.glob("*/.*.tar.json"):
        sidecar.unlink()
    return content


def load_or_build(options: config.Config, recompute: bool = False) -> Path:
    """Return the folder of these options' data set, built now unless it was before; a stopped build goes on.

    Raises:
        DataError: As `build`.
        MissingExtraError: As `build`.
    """
    plan, _ = _plan(options.landmarks, options.seed)

    def compute(folder: Path) -> None:
        build(options.landmarks, options.seed, folder)

    return runs.stage("landmarks", {"plan": plan}, compute, recompute)


def manifest(folder: Path, *, verify: bool = False) -> dict:
    """Read a data folder's manifest and check that its shards are there.

    Args:
        folder: Folder that `build` filled.
        verify: Also compare every shard's SHA-256, which reads all bytes.

    Returns:
        The manifest: `schema plan seed options splits funnel sources`; `splits` maps a name to `samples` and `shards`, a list
        of `{file, samples, bytes, sha256}`.

    Raises:
        DataError: No manifest, an unknown schema, or a shard that is missing, of the wrong size or (`verify`) of other content.
    """
    folder = Path(folder)
    content = _read_manifest(folder)
    if content is None:
        raise DataError(
            f"{folder / 'manifest.json'} is missing: the build is unfinished or the folder is another; build it again"
        )
    for split in content["splits"].values():
        for shard in split["shards"]:
            path = folder / shard["file"]
            if not path.is_file():
                raise DataError(f"{path} is missing: build the data set again, whole shards are kept")
            if path.stat().st_size != shard["bytes"]:
                raise DataError(
                    f"{path} has {path.stat().st_size} bytes instead of {shard['bytes']}: build the data set again"
                )
            if verify and tiles.file_sha256(path) != shard["sha256"]:
                raise DataError(f"{path} has other content than the manifest says: build the data set again")
    return content


def count(folder: Path, split: str) -> int:
    """Return how many positions one epoch of a split has.

    Args:
        folder: A data folder, see `stream`.
        split: Name of the split.

    Raises:
        DataError: No shards, or no such split.
    """
    return sum(samples for _, samples in _shards_of(Path(folder), split))


def stream(
    folder: Path,
    split: str,
    *,
    seed: int | None = None,
    epoch: int = 0,
    start: int = 0,
    pool_shards: int = 4,
    skipped: collections.Counter | None = None,
) -> Iterator[Sample]:
    """Read the samples of one epoch in an order that can be taken up anywhere.

    With a seed the shards are permuted and read in pools of `pool_shards`, and the samples of a pool are permuted; memory holds
    one pool. Samples that cannot be used are left out, counted by reason and logged once per reason.

    A folder without a manifest works too: `{split}/*.tar`, or `*.tar` as the split `train`, with pictures as `.png`, `.jpg`,
    `.jpeg` or `.webp` and captions as `.txt` (one caption) or `.json` (`captions`, `caption` or `text`).

    Args:
        folder: A data folder.
        split: Name of the split.
        seed: Seed of the order; none: the stored order.
        epoch: Number of the epoch, from 0; another epoch has another order.
        start: Positions to pass over without decoding.
        pool_shards: Shards held in memory at once.
        skipped: Receives the count of samples left out, by reason.

    Returns:
        An iterator of samples.

    Raises:
        DataError: No shards, no such split, or a number out of range; raised at the call, not at the first sample.
    """
    shards = _shards_of(Path(folder), split)
    if start < 0 or epoch < 0 or pool_shards < 1:
        raise DataError(f"start and epoch must be at least 0, pool_shards at least 1; got {start}, {epoch}, {pool_shards}")
    counter = collections.Counter() if skipped is None else skipped
    return _stream(shards, seed, epoch, start, pool_shards, counter)


def _stream(
    shards: list[tuple[Path, int]],
    seed: int | None,
    epoch: int,
    start: int,
    pool_shards: int,
    skipped: collections.Counter,
) -> Iterator[Sample]:
    order = np.arange(len(shards))
    if seed is not None:
        order = np.random.default_rng([seed, epoch, 0]).permutation(len(shards))
    position = 0
    for pool, first in enumerate(range(0, len(order), pool_shards)):
        members = [shards[i] for i in order[first : first + pool_shards]]
        size = sum(samples for _, samples in members)
        if position + size <= start:
            position += size
            continue
        places = np.arange(size)
        if seed is not None:
            places = np.random.default_rng([seed, epoch, 1 + pool]).permutation(size)
        loaded = [group for path, samples in members for group in _read_shard(path, samples)]
        for place in places.tolist():
            if position >= start:
                try:
                    yield _decode(loaded[place], position)
                except _BrokenSample as problem:
                    _skip(skipped, problem)
            # Every picture is used once; letting go of it here keeps less than a pool in memory.
            loaded[place] = None
            position += 1


class _BrokenSample(Exception):
    """A sample cannot be used; the message is the reason, counted as it stands."""

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where


def _skip(skipped: collections.Counter, problem: _BrokenSample) -> None:
    if problem.reason not in skipped:
        log.warning("skipped a sample: %s (%s); more of these are counted, not logged", problem.reason, problem.where)
    skipped[problem.reason] += 1


def _read_shard(path: Path, samples: int) -> list[tuple[str, dict[str, bytes]] | _BrokenSample]:
    """Return exactly `samples` entries: key and members, or what is wrong with the sample."""
    groups: list[tuple[str, dict[str, bytes]] | _BrokenSample] = []
    ending = "shard is cut short"
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isreg():
                    continue
                key, extension = _split_name(member.name)
                if not groups or groups[-1][0] != key:
                    if len(groups) == samples:
                        break
                    groups.append((key, {}))
                # A member cut short raises here, with its sample already in place.
                groups[-1][1][extension] = archive.extractfile(member).read()
    except FileNotFoundError:
        ending = "shard is missing"
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        ending = "shard is cut short" if "unexpected end" in str(error) else "shard is broken"
    groups += [_BrokenSample(ending, str(path))] * (samples - len(groups))
    return groups


def _decode(group: tuple[str, dict[str, bytes]] | _BrokenSample, position: int) -> Sample:
    if isinstance(group, _BrokenSample):
        raise group
    key, members = group
    image = next((members[kind] for kind in IMAGE_TYPES if kind in members), None)
    if image is None:
        raise _BrokenSample("no image", key)
    try:
        images.read_size(image)
    except DataError as error:
        raise _BrokenSample("undecodable image", key) from error
    record: dict = {}
    if "json" in members:
        try:
            record = json.loads(members["json"])
        except (ValueError, RecursionError) as error:
            raise _BrokenSample("bad json", key) from error
        if not isinstance(record, dict):
            raise _BrokenSample("bad json", key)
    texts = _captions_of(record, members)
    if not texts:
        raise _BrokenSample("no caption", key)
    return Sample(key, image, texts, record, position)


def _captions_of(record: dict, members: dict[str, bytes]) -> list[str]:
    found = next((record[name] for name in ("captions", "caption", "text") if name in record), None)
    if found is None and "txt" in members:
        found = members["txt"].decode("utf-8", errors="replace")
    texts = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return [text.strip() for text in texts if isinstance(text, str) and text.strip()]


def _split_name(name: str) -> tuple[str, str]:
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}/{stem}" if folder else stem, extension.lower()


def _shards_of(folder: Path, split: str) -> list[tuple[Path, int]]:
    content = _read_manifest(folder)
    if content is not None:
        splits = {
            name: [(folder / shard["file"], shard["samples"]) for shard in entry["shards"]]
            for name, entry in content["splits"].items()
        }
    else:
        paths = {path.name: sorted(path.glob("*.tar")) for path in sorted(folder.glob("*")) if path.is_dir()}
        paths = {name: found for name, found in paths.items() if found}
        if loose := sorted(folder.glob("*.tar")):
            paths.setdefault("train", loose)
        splits = {name: [(path, None) for path in found] for name, found in paths.items()}
    if not splits:
        raise DataError(f"{folder} holds neither a manifest.json nor tar files: give the folder of a finished data set")
    if split not in splits:
        raise DataError(f"{folder} has no split '{split}': it has {', '.join(sorted(splits))}")
    return [
        (path, _count_samples(path, path.stat().st_size, path.stat().st_mtime_ns) if samples is None else samples)
        for path, samples in splits[split]
    ]


@functools.lru_cache(maxsize=4096)
def _count_samples(path: Path, size: int, mtime_ns: int) -> int:
    # Size and time are part of the arguments so that a changed file is counted anew.
    keys, last = 0, None
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isreg() and (key := _split_name(member.name)[0]) != last:
                    keys, last = keys + 1, key
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        log.warning("%s can be read only in part (%s)", path, error)
    return keys


def _read_manifest(folder: Path) -> dict | None:
    path = folder / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): delete it and build the data set again") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else None
        raise DataError(f"{path} has schema {found}, this version reads {SCHEMA}: build the data set again")
    try:
        files = [(s["file"], s["samples"], s["bytes"], s["sha256"]) for e in content["splits"].values() for s in e["shards"]]
        outside = [file for file, *_ in files if Path(file).is_absolute() or ".." in Path(file).parts]
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a manifest of this package ({error!r}): build the data set again") from error
    if outside or not isinstance(content.get("plan"), str):
        raise DataError(f"{path} is not a manifest of this package ({outside or 'no plan'}): build the data set again")
    return content


def _plan(options: config.Landmarks, seed: int) -> tuple[str, list[dict]]:
    """Return a hash of everything that the shards' bytes depend on, and the sources with their hashes."""
    hashes = {name: tiles.file_sha256(path) for name, path in worldmap.source_files().items()}
    picture = tiles.file_sha256(tiles.imagery_file())
    map_names = sorted(name for name in hashes if name.endswith((".dat", ".bin")))
    city_names = sorted(name for name in hashes if name.endswith(".json"))
    sources = [
        tiles.IMAGERY_SOURCE | {"sha256": picture},
        worldmap.MAP_SOURCE | {"sha256": _join_hashes([hashes[name] for name in map_names])},
        worldmap.CITY_SOURCE | {"sha256": _join_hashes([hashes[name] for name in city_names])},
    ]
    modules = (grammar, images, worldmap, tiles, kernels)
    code = [tiles.file_sha256(Path(module.__file__)) for module in modules] + [tiles.file_sha256(Path(__file__))]
    parts = {
        "schema": SCHEMA,
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


def _known_shards(out: Path, plan: str) -> dict[str, dict]:
    """Return the shards that an earlier run of the same plan finished, by file name.

    Raises:
        DataError: The folder holds tar files that no build wrote.
    """
    entries: dict[str, dict] = {}
    ours: set[str] = set()
    content = _read_manifest(out)
    if content is not None:
        for split in content["splits"].values():
            for shard in split["shards"]:
                ours.add(shard["file"])
                if content["plan"] == plan:
                    entries[shard["file"]] = shard
    for path in out.glob("*/.*.tar.json"):
        try:
            sidecar = json.loads(path.read_text(encoding="utf-8"))
            ours.add(sidecar["shard"]["file"])
            if sidecar["plan"] == plan:
                entries[sidecar["shard"]["file"]] = sidecar["shard"]
        except (ValueError, KeyError, TypeError):
            continue
    strangers = [path for path in out.glob("*/*.tar") if path.relative_to(out).as_posix() not in ours]
    if strangers:
        raise DataError(f"{strangers[0]} was not written by this build: choose an empty folder instead of {out}")
    return entries


def _finished(out: Path, plan: str) -> dict | None:
    content = _read_manifest(out)
    if content is None or content["plan"] != plan or not (out / "chips.parquet").is_file():
        return None
    try:
        return manifest(out, verify=True)
    except DataError as error:
        log.warning("%s; rebuilding what is broken", error)
        return None


def _select(
    options: config.Landmarks, seed: int, world: worldmap.Map, pixels_per_degree: float
) -> tuple[pd.DataFrame, list[dict]]:
    """Return the chips to write, in the order of writing, and the funnel."""
    weights = worldmap.block_weights(world.mask, options.block_deg, options.max_latitude_deg)
    table, funnel = tiles.chips(options, seed, pixels_per_degree, weights)
    sea = worldmap.shares(world.mask, table[["west", "south", "east", "north"]].to_numpy()).mean(axis=1)[:, worldmap.SEA]
    parts, rows = [], []
    for number, split in enumerate(tiles.SPLITS):
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


def _write_all(
    out: Path,
    plan: str,
    table: pd.DataFrame,
    imagery: np.ndarray,
    world: worldmap.Map,
    options: config.Landmarks,
    known: dict[str, dict],
    progress: bool,
) -> dict[str, dict]:
    """Write every shard and chips.parquet; return the manifest's `splits`."""
    # From here on the folder is unfinished. Sidecars take over what the old manifest said, about shards of other plans too:
    # they are replaced one by one, and until then must not look like somebody else's.
    old = _read_manifest(out)
    if old is not None:
        for shard in (shard for entry in old["splits"].values() for shard in entry["shards"]):
            _write_sidecar(out, old["plan"], shard)
        (out / "manifest.json").unlink()
    for leftover in [*out.glob(".*.partial"), *out.glob("*/.*.partial")]:
        leftover.unlink()
    splits: dict[str, dict] = {}
    rows: list[dict] = []
    with tqdm(total=len(table), unit="chip", desc="chips", disable=not progress) as bar, ThreadPoolExecutor(workers()) as pool:
        for split in tiles.SPLITS:
            chips = table[table["split"] == split].reset_index(drop=True)
            shards = []
            for number, first in enumerate(range(0, len(chips), options.samples_per_shard)):
                part = chips.iloc[first : first + options.samples_per_shard].reset_index(drop=True)
                file = f"{split}/{number:06d}.tar"
                shard = known.get(file)
                if shard is not None and (out / file).is_file() and tiles.file_sha256(out / file) == shard["sha256"]:
                    records = [json.loads(members["json"]) for _, members in _read_shard(out / file, shard["samples"])]
                else:
                    records, data = pack(part, imagery, world, options.captions_per_chip, pool)
                    shard = {
                        "file": file,
                        "samples": len(part),
                        "bytes": len(data),
                        "sha256": hashlib.sha256(data).hexdigest(),
                    }
                    # The sidecar goes first: a shard without one would look like somebody else's.
                    _write_sidecar(out, plan, shard)
                    runs.write_atomic(out / file, data)
                rows += [_row(record, file) for record in records]
                shards.append(shard)
                bar.update(len(part))
            splits[split] = {"samples": len(chips), "shards": shards}
    wanted = {shard["file"] for entry in splits.values() for shard in entry["shards"]}
    for path in out.glob("*/*.tar"):
        if path.relative_to(out).as_posix() not in wanted:
            path.unlink()
    buffer = io.BytesIO()
    pd.DataFrame(rows).to_parquet(buffer, index=False)
    runs.write_atomic(out / "chips.parquet", buffer.getvalue())
    return splits


def workers() -> int:
    """Return how many threads encode pictures; the bytes do not depend on it."""
    return min(4, os.cpu_count() or 1)


def pack(
    part: pd.DataFrame, imagery: np.ndarray, world: worldmap.Map, captions_per_chip: int, pool: ThreadPoolExecutor
) -> tuple[list[dict], bytes]:
    """Cut, describe and encode the chips of one shard.

    Args:
        part: Chips of one size, in the order of writing.
        imagery: `(R, 2 R, 3)`, uint8, as from `tiles.load_imagery`.
        world: The map.
        captions_per_chip: Captions written for each chip.
        pool: Threads that encode pictures while this one describes them.

    Returns:
        The JSON records and the bytes of the tar file.
    """
    pixels = tiles.cut(imagery, part)
    # Level 1 is twice as fast as zlib's default and a twentieth larger on these pictures.
    encoded = pool.map(functools.partial(images.encode_png, compress_level=1), pixels)
    described = worldmap.describe(world, part, pixels)
    written = grammar.write_all(described, captions_per_chip)
    records = []
    for chip, description, texts in zip(part.to_dict("records"), described, written, strict=True):
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
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for record, picture in zip(records, encoded, strict=True):
            text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
            for extension, data in (("json", text), ("png", picture)):
                # TarInfo's own defaults are time 0 and owner 0, so equal samples give equal bytes.
                member = tarfile.TarInfo(f"{record['key']}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return records, buffer.getvalue()


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


def _write_sidecar(out: Path, plan: str, shard: dict) -> None:
    folder, name = (out / shard["file"]).parent, Path(shard["file"]).name
    runs.write_atomic(folder / f".{name}.json", json.dumps({"plan": plan, "shard": shard}).encode())
