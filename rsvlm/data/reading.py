"""Reading shards: pictures with captions out of WebDataset tar files, in an order that can be taken up anywhere.

The layout of a data folder is told in `shards`, which writes it. Folders of tar files that others wrote are read too.
"""

from __future__ import annotations

import functools
import json
import logging
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsvlm.errors import DataError
from rsvlm.model import images
from rsvlm.records import files

log = logging.getLogger(__name__)

SCHEMA = 1
IMAGE_TYPES = ("png", "jpg", "jpeg", "webp")


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


def manifest(folder: Path, *, verify: bool = False) -> dict:
    """Read a data folder's manifest and check that its shards are there.

    Args:
        folder: Folder that `write` filled.
        verify: Also compare every shard's SHA-256, which reads all bytes.

    Returns:
        The manifest (see `write`); `splits` maps a name to `samples` and `shards`, a list of `{file, samples, bytes, sha256}`.

    Raises:
        DataError: No manifest, an unknown schema, or a shard that is missing, of the wrong size or (`verify`) of other content.
    """
    folder = Path(folder)
    content = read_manifest(folder)
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
            if verify and files.file_sha256(path) != shard["sha256"]:
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
    skipped: Counter | None = None,
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
    counter = Counter() if skipped is None else skipped
    return _stream(shards, seed, epoch, start, pool_shards, counter)


def _stream(
    shards: list[tuple[Path, int]],
    seed: int | None,
    epoch: int,
    start: int,
    pool_shards: int,
    skipped: Counter,
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
        loaded = [group for path, samples in members for group in read_shard(path, samples)]
        for place in places.tolist():
            if position >= start:
                try:
                    yield _decode(loaded[place], position)
                except BrokenSample as problem:
                    _skip(skipped, problem)
            # Every picture is used once; letting go of it here keeps less than a pool in memory.
            loaded[place] = None
            position += 1


def records(path: Path | str) -> Iterator[dict]:
    """Read the records of one shard, in stored order; pictures are passed over.

    Args:
        path: A shard that `write` wrote.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isreg() and _split_name(member.name)[1] == "json":
                    yield json.loads(archive.extractfile(member).read())
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): build the data set again, whole shards are kept") from error


class BrokenSample(Exception):
    """A sample cannot be used; the message is the reason, counted as it stands."""

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where


def _skip(skipped: Counter, problem: BrokenSample) -> None:
    if problem.reason not in skipped:
        log.warning("skipped a sample: %s (%s); more of these are counted, not logged", problem.reason, problem.where)
    skipped[problem.reason] += 1


def read_shard(path: Path, samples: int) -> list[tuple[str, dict[str, bytes]] | BrokenSample]:
    """Return exactly `samples` entries: key and members, or what is wrong with the sample."""
    groups: list[tuple[str, dict[str, bytes]] | BrokenSample] = []
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
    groups += [BrokenSample(ending, str(path))] * (samples - len(groups))
    return groups


def _decode(group: tuple[str, dict[str, bytes]] | BrokenSample, position: int) -> Sample:
    if isinstance(group, BrokenSample):
        raise group
    key, members = group
    image = next((members[kind] for kind in IMAGE_TYPES if kind in members), None)
    if image is None:
        raise BrokenSample("no image", key)
    try:
        images.read_size(image)
    except DataError as error:
        raise BrokenSample("undecodable image", key) from error
    record: dict = {}
    if "json" in members:
        try:
            record = json.loads(members["json"])
        except (ValueError, RecursionError) as error:
            raise BrokenSample("bad json", key) from error
        if not isinstance(record, dict):
            raise BrokenSample("bad json", key)
    texts = _captions_of(record, members)
    if not texts:
        raise BrokenSample("no caption", key)
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
    content = read_manifest(folder)
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


def read_manifest(folder: Path) -> dict | None:
    """Read and check `manifest.json`; None where there is none."""
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
        others = [*content.get("files", ()), *content.get("replaced", ())]
        names = [Path(name) for name in [*(file for file, *_ in files), *others]]
        outside = [str(name) for name in names if name.is_absolute() or ".." in name.parts]
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a manifest of this package ({error!r}): build the data set again") from error
    if outside or not isinstance(content.get("plan"), str):
        raise DataError(f"{path} is not a manifest of this package ({outside or 'no plan'}): build the data set again")
    return content


def decoded(samples: Iterable[Sample], skipped: Counter) -> Iterator[tuple[Sample, np.ndarray]]:
    """Pair each sample with its decoded image; a broken image is skipped and counted."""
    for sample in samples:
        try:
            yield sample, images.decode(sample.image)
        except DataError as error:
            skipped["broken image"] += 1
            if skipped["broken image"] == 1:
                log.warning("image of %s: %s; such samples are skipped and counted", sample.key, error)
