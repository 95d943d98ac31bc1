"""Reading shards: pictures with captions out of WebDataset tar files, in an order that can be taken up anywhere.

The layout of a data folder is told in `shards`, which writes it. Folders of tar files that others wrote are read too.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from rsvlm.errors import DataError
from rsvlm.model import images
from rsvlm.records import files

log = logging.getLogger(__name__)

SCHEMA = 1
IMAGE_TYPES = ("png", "jpg", "jpeg", "webp")

MAX_CAPTION = 100_000
"""Longest caption, in characters; a longer one is left out like an empty one."""

_HIDDEN = ("__MACOSX", "@eaDir")  # folders that macOS and Synology put beside the files, with something of each
_BROKEN = (tarfile.TarError, OSError, EOFError, ValueError)


@dataclass(frozen=True)
class Sample:
    """One picture with its captions.

    Attributes:
        key: Stable name within the data set.
        image: Encoded bytes, for `images.decode`.
        captions: At least one (unless none was asked for), none empty; the first is the fullest.
        record: The sample's JSON member, `{}` where there is none.
        position: Place in this epoch's order, from 0; broken samples keep theirs, so `start=position + 1` goes on exactly.
    """

    key: str
    image: bytes
    captions: list[str]
    record: dict
    position: int


def manifest(folder: Path, *, verify: bool = False) -> dict:
    """Read the manifest of a folder that `write` filled, and check that its shards are there; to `verify` is to read and hash them.

    Returns:
        The manifest (see `write`); `splits` maps a name to `samples` and `shards`, a list of `{file, samples, bytes, sha256}`.

    Raises:
        DataError: No manifest, an unknown schema, or a shard that is missing, of the wrong size or (`verify`) of other content.
    """
    folder = Path(folder)
    content = read_manifest(folder)
    if content is None:
        raise DataError(f"{folder / 'manifest.json'} is missing: the build is unfinished or the folder another; build again")
    for split in content["splits"].values():
        for shard in split["shards"]:
            path = folder / shard["file"]
            if not path.is_file():
                raise DataError(f"{path} is missing: build the data set again, whole shards are kept")
            if path.stat().st_size != shard["bytes"]:
                raise DataError(f"{path} has {path.stat().st_size} bytes instead of {shard['bytes']}: build the data again")
            if verify and files.file_sha256(path) != shard["sha256"]:
                raise DataError(f"{path} has other content than the manifest says: build the data set again")
    return content


def visible(folder: Path, *patterns: str) -> list[Path]:
    """Return what matches any of the patterns below a folder, sorted; hidden names (see `is_hidden`) are passed over."""
    paths = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in paths if not any(map(is_hidden, path.relative_to(folder).parts)))


def is_hidden(name: str) -> bool:
    """Say whether a file or folder is none of the data, by its name: `._x` and `__MACOSX` of macOS, `.cache`, `@eaDir`."""
    return name.startswith(".") or name in _HIDDEN


def printable(name: str) -> str:
    """Return a file's name as text that can be written anywhere: bytes of it that are not UTF-8 become escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def usable(caption: object) -> bool:
    """Say whether a caption can be read: it says something, is no flood, and is made of characters."""
    if not isinstance(caption, str) or len(caption) > MAX_CAPTION or not caption.strip():
        return False
    return caption.isascii() or not re.search("[\ud800-\udfff]", caption)


def holds_pictures_alone(path: Path, most: int = 200) -> bool:
    """Say whether the first members of a tar file are pictures, and none of them has a text of its own: so it is no shard."""
    kinds: dict[str, set[str]] = {}
    try:
        for key, extension, _ in itertools.islice(_members(path), most):
            kinds.setdefault(key, set()).add(extension)
    except _BROKEN:
        return False  # a broken shard is told when it is read
    pictures = [kinds_of_key for kinds_of_key in kinds.values() if kinds_of_key & {*IMAGE_TYPES, "tif", "tiff", "bmp"}]
    return bool(pictures) and all(len(kinds_of_key) == 1 for kinds_of_key in pictures)


def count(folder: Path, split: str) -> int:
    """Return how many positions one epoch of a split of a data folder has.

    Raises:
        DataError: No shards, or no such split.
    """
    return sum(samples for _, samples in _shards_of(Path(folder), split))


def splits(folder: Path) -> list[str]:
    """Return the names of the splits of a data folder; empty if it has no shards."""
    return sorted(_shards_by_split(Path(folder)))


def stream(
    folder: Path,
    split: str,
    *,
    seed: int | None = None,
    epoch: int = 0,
    start: int = 0,
    pool_shards: int = 4,
    skipped: Counter | None = None,
    captioned: bool = True,
) -> Iterator[Sample]:
    """Read the samples of one epoch in an order that can be taken up anywhere.

    With a seed the shards are permuted and read in pools of `pool_shards`, and the samples of a pool are permuted; memory holds
    one pool. Samples that cannot be used are left out, counted by reason and logged once per reason.

    A folder without a manifest works too: `{split}/*.tar`, or `*.tar` as the split `train`, with pictures as `.png`, `.jpg`,
    `.jpeg` or `.webp` and captions as `.txt` (one caption) or `.json` (`captions`, `caption` or `text`); in RS5M's shards they are called
    `.img_content` and `.caption`. Where a `dataset_type.txt` with the word `retrieval` lies in the folder, as in sets for CLIP_benchmark,
    every line of a `.txt` is a caption.

    Captions that are empty, no text or too long are left out; `empty_captions` in the record is then their number.

    Args:
        folder: A data folder.
        split: Name of the split.
        seed: Seed of the order. If None, the stored order.
        epoch: Number of the epoch, from 0; another epoch has another order.
        start: Positions to pass over without decoding.
        pool_shards: Shards held in memory at once.
        skipped: Counter of the samples left out, by reason.
        captioned: Whether samples without a caption are left out. If false, a number in a `.cls` is `cls` in the record.

    Raises:
        DataError: No shards, no such split, or a number out of range; raised at the call, not at the first sample.
    """
    shards = _shards_of(Path(folder), split)
    if start < 0 or epoch < 0 or pool_shards < 1:
        raise DataError(f"start and epoch must be at least 0, pool_shards at least 1; got {start}, {epoch}, {pool_shards}")
    text = _read_text(Path(folder)) if captioned else None
    return _stream(shards, seed, epoch, start, pool_shards, Counter() if skipped is None else skipped, text)


def _stream(
    shards: list[tuple[Path, int]],
    seed: int | None,
    epoch: int,
    start: int,
    pool_shards: int,
    skipped: Counter,
    text: Callable[[str, bytes], list[str]] | None,
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
                    yield _decode(loaded[place], position, text)
                except BrokenSample as problem:
                    skip(skipped, problem)
            # Every picture is used once; letting go of it keeps less than a pool in memory.
            loaded[place] = None
            position += 1


def records(path: Path | str) -> Iterator[dict]:
    """Read the records of a shard that `write` wrote, in stored order; pictures are passed over.

    Raises:
        DataError: It cannot be read.
    """
    try:
        for _, extension, unpack in _members(path):
            if extension == "json":
                yield json.loads(unpack().read())
    except _BROKEN as error:
        raise DataError(f"{path} cannot be read ({error}): build the data set again, whole shards are kept") from error


class BrokenSample(Exception):
    """A sample cannot be used; the message is the reason, counted as it stands."""

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(reason)
        self.reason, self.where = reason, where


def skip(skipped: Counter, problem: BrokenSample) -> None:
    """Count a sample that is left out, and log the first of each reason."""
    if problem.reason not in skipped:
        log.warning("skipped a sample: %s (%s); more of these are counted, not logged", problem.reason, problem.where)
    skipped[problem.reason] += 1


def read_shard(path: Path, samples: int) -> list[tuple[str, dict[str, bytes]] | BrokenSample]:
    """Return exactly `samples` entries: key and members, or what is wrong with the sample."""
    groups: list[tuple[str, dict[str, bytes]] | BrokenSample] = []
    twice: set[int] = set()
    ending = "shard is cut short"
    try:
        for key, extension, unpack in _members(path):
            if not groups or groups[-1][0] != key:
                if len(groups) == samples:
                    break
                groups.append((key, {}))
            data = unpack().read()  # one cut short raises, with its sample already in place
            if groups[-1][1].setdefault(extension, data) != data:
                twice.add(len(groups) - 1)
    except FileNotFoundError:
        ending = "shard is missing"
    except _BROKEN as error:
        ending = "shard is cut short" if "unexpected end" in str(error) else "shard is broken"
    for index in twice:
        groups[index] = BrokenSample("two different members of one name", f"{path}: {groups[index][0]}")
    groups += [BrokenSample(ending, str(path))] * (samples - len(groups))
    return groups


def _read_text(folder: Path) -> Callable[[str, bytes], list[str]]:
    """Return a function that reads the captions in a `.txt` of a folder's shards: one on each line where the folder says so."""
    places = [folder, folder.parent] if (folder / "nshards.txt").is_file() else [folder]
    kinds = [place / "dataset_type.txt" for place in places if (place / "dataset_type.txt").is_file()]
    by_line = any(kind.read_text(encoding="utf-8", errors="replace").strip() == "retrieval" for kind in kinds)
    told = False

    def captions(key: str, data: bytes) -> list[str]:
        nonlocal told
        try:
            text = data.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise BrokenSample("caption not in UTF-8", key) from error
        if by_line:
            return text.splitlines()
        if "\n" in text and not told and (told := True):
            several = (
                "the caption of %s has several lines and is read as one, as are others: if each line is a caption, write the"
            )
            log.warning(several + " word retrieval into %s", key, folder / "dataset_type.txt")
        return [text]

    return captions


def _decode(
    group: tuple[str, dict[str, bytes]] | BrokenSample, position: int, text: Callable[[str, bytes], list[str]] | None
) -> Sample:
    if isinstance(group, BrokenSample):
        raise group
    key, members = group
    image = next((members[kind] for kind in (*IMAGE_TYPES, "img_content") if kind in members), None)
    if image is None:
        raise BrokenSample("no image", key)
    try:
        images.read_size(image)
    except DataError as error:
        raise BrokenSample("undecodable image", key) from error
    try:
        record = json.loads(members.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise BrokenSample("bad json", key) from error
    if not isinstance(record, dict):
        raise BrokenSample("bad json", key)
    if text is None:
        number = members.get("cls", b"").strip()
        return Sample(key, image, [], record | ({"cls": int(number)} if number.isdigit() else {}), position)
    texts = next((record[name] for name in ("captions", "caption", "text") if record.get(name)), None)
    written = next((members[kind] for kind in ("txt", "caption") if kind in members), None)
    if texts is None and written is not None:
        texts = text(key, written)
    texts = [texts] if isinstance(texts, str) else texts if isinstance(texts, list) else []
    captions = [text.strip() for text in texts if usable(text)]
    if not captions:
        raise BrokenSample("no caption", key)
    if len(captions) < len(texts):
        record |= {"empty_captions": len(texts) - len(captions)}
    return Sample(key, image, captions, record, position)


def _members(path: Path | str) -> Iterator[tuple[str, str, Callable[[], IO[bytes]]]]:
    """Yield the key and extension of each file in a tar file, and a function that opens it."""
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            folder, _, base = printable(member.name).rpartition("/")
            if member.isreg() and not base.startswith("."):  # macOS puts ._a.jpg beside a.jpg
                stem, _, extension = base.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                yield key, extension.lower(), functools.partial(archive.extractfile, member)


def _shards_by_split(folder: Path) -> dict[str, list[tuple[Path, int | None]]]:
    """Return the shards of each split, with their number of samples where a manifest tells it."""
    content = read_manifest(folder)
    if content is not None:
        entries = {name: entry["shards"] for name, entry in content["splits"].items()}
        return {name: [(folder / s["file"], s["samples"]) for s in shards] for name, shards in entries.items()}
    by_split: dict[str, list] = {}
    for path in visible(folder, "*/*.tar"):
        by_split.setdefault(path.parent.name, []).append((path, None))
    loose = visible(folder, "*.tar")
    if loose and "train" in by_split:
        log.warning(
            "%s: %d shards beside the folder train are not read: move them into the folder of a split", folder, len(loose)
        )
    elif loose:
        by_split["train"] = [(path, None) for path in loose]
    return by_split


def _shards_of(folder: Path, split: str) -> list[tuple[Path, int]]:
    by_split = _shards_by_split(folder)
    if not by_split:
        raise DataError(f"{folder} holds neither a manifest.json nor tar files: give the folder of a finished data set")
    if split not in by_split:
        raise DataError(f"{folder} has no split '{split}': it has {', '.join(sorted(by_split))}")
    return [
        (path, _count_samples(path, path.stat().st_size, path.stat().st_mtime_ns) if samples is None else samples)
        for path, samples in by_split[split]
    ]


@functools.lru_cache(maxsize=4096)
def _count_samples(path: Path, size: int, mtime_ns: int) -> int:
    # Size and time are part of the arguments so that a changed file is counted anew.
    keys, last = 0, None
    try:
        for key, _, _ in _members(path):
            if key != last:
                keys, last = keys + 1, key
    except _BROKEN as error:
        log.warning("%s can be read only in part (%s)", path, error)
    return keys


def read_manifest(folder: Path) -> dict | None:
    """Return the checked content of `manifest.json`; None where there is none."""
    path = folder / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): delete it and build the data set again") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise DataError(f"{path} has schema {schema}, this version reads {SCHEMA}: build the data set again")
    try:
        shards = [(s["file"], s["samples"], s["bytes"], s["sha256"]) for e in content["splits"].values() for s in e["shards"]]
        others = [*content.get("files", ()), *content.get("replaced", ())]
        names = [Path(name) for name in [*(file for file, *_ in shards), *others]]
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
            yield sample, images.decode(sample.image, where=sample.key)
        except DataError as error:
            skip(skipped, BrokenSample("broken image", f"{sample.key}: {error}"))
