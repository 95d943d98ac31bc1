"""A data set of pairs from the web that is finished: its table, what a page shows of it, and how pairs are taken out for good."""

from __future__ import annotations

import contextlib
import functools
import heapq
import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rsvlm.data import shards
from rsvlm.data.web import archives, fetch, journal, overhead, paths, removals, texts
from rsvlm.data.web.paths import Files
from rsvlm.errors import DataError
from rsvlm.model import images
from rsvlm.records import text
from rsvlm.records.files import replacing

STAGES = ("read", "text", "address", "fetch", "image", "duplicate", "benchmark", "shard", "removal")
REASONS = {
    "page_robots": "the page asks machines to leave it alone (noindex, noai, ... or a reservation of text and data mining)",
    "on_removal_list": "the address of the picture, where it leads, its page or the host of one is on the removal list",
    "copy_on_removal_list": "the picture is one of the removal list, under another address",
    "same_address": "the same picture has a better text elsewhere",
    "archive_x_robots": "the archived answer forbids indexing or use for learning",
    "same bytes": "another picture has the same bytes",
    "same pixels": "another picture has the same pixels",
    "near picture": "another picture looks the same",
    "near duplicate by embedding": "another picture is nearly the same to the model",
    "removed": "taken out of the finished data set on request",
}
"""Reasons of the stages that are this module's own; see `meaning` for all."""

_PAIRS = pa.schema(
    [(name, pa.string()) for name in ("key", "split", "shard", "url", "page", "title", "text_raw", "caption", "language")]
    + [(name, pa.float32()) for name in ("relevance", "overhead", "agreement")]
    + [("width_px", pa.int32()), ("height_px", pa.int32()), ("sha256", pa.string())]
)


def meaning(stage: str, reason: str) -> str:
    """Say in words what a reason of `rejected.jsonl` means."""
    if stage == "benchmark":
        return "the pair is in a benchmark, see overlap.jsonl"
    if stage == "fetch" and reason in fetch.REASONS:
        return fetch.REASONS[reason].meaning
    return {"read": archives.REASONS, "text": texts.REASONS, "image": overhead.REASONS}.get(stage, REASONS).get(reason, "")


def look(folder: Path | str, per_reason: int = 12, kept: int = 24, seed: int = 0) -> dict:
    """Read what a page about a finished data set shows.

    Args:
        folder: A data set made by `build`.
        per_reason: Number of rejected candidates shown of each reason, a sample.
        kept: Number of pairs shown, a sample.
        seed: Seed of both samples.

    Returns:
        `manifest`; `kept`: `{"record", "image"}` each, the image (H, W, 3) uint8; `rejected`: `{"stage", "reason", "meaning", "count",
        "examples"}` each, in the order of the stages, an example a line of `rejected.jsonl` with `image`, or None where there is none.

    Raises:
        DataError: The folder is no finished data set.
    """
    files = Files(Path(folder))
    manifest = shards.manifest(files.out)

    counts, samples = Counter(), defaultdict(list)
    for number, line in enumerate(_read_lines(files.rejected)):
        name = (line["stage"], line["reason"])
        counts[name] += line.get("n", 1)
        samples[name].append((text.rank(f"{number} {line.get('url')}", seed), number, line))
        if len(samples[name]) > 4 * per_reason:
            samples[name] = heapq.nsmallest(per_reason, samples[name])
    order, rejected = {stage: place for place, stage in enumerate(STAGES)}, []
    for stage, reason in sorted(counts, key=lambda name: (order.get(name[0], 99), -counts[name], name)):
        lines = [line for _, _, line in heapq.nsmallest(per_reason, samples[stage, reason])]
        row = {"stage": stage, "reason": reason, "meaning": meaning(stage, reason), "count": counts[stage, reason]}
        rejected.append(row | {"examples": [line | {"image": _picture(files, line)} for line in lines]})
    with pq.ParquetFile(files.pairs) as file:
        batches = file.iter_batches(8192, columns=["key", "shard"])
        chosen = text.sample((row for batch in batches for row in batch.to_pylist()), kept, seed, key=lambda row: row["key"])
    shown = [_pair(files.out / row["shard"], row["key"]) for row in chosen]
    return {"manifest": manifest, "kept": shown, "rejected": rejected}


def _picture(files: Files, line: dict) -> np.ndarray | None:
    digest = str(line.get("sha256") or "")
    if len(digest) == 64 and digest.isalnum():
        for path in files.kept_pictures(digest):
            with contextlib.suppress(DataError, OSError):
                return images.decode(path.read_bytes())
    return None


def _pair(shard: Path, key: str) -> dict:
    with tarfile.open(shard, "r:") as archive:
        names = [name for name in archive.getnames() if name.startswith(f"{key}.")]
        members = {name.partition(".")[2]: archive.extractfile(name).read() for name in names}
    record = json.loads(members.pop("json"))
    return {"record": record, "image": images.decode(*members.values())}


def outcomes(folder: Path | str) -> pd.DataFrame:
    """Tell what became of every candidate of a finished data set; memory grows with their number.

    Args:
        folder: A data set made by `build`.

    Returns:
        One row per candidate: `url page text stage reason language relevance overhead`; `stage` is `kept` for pairs, scores are NaN
        where a candidate did not get so far.

    Raises:
        DataError: The folder is no finished data set.
    """
    files = Files(Path(folder))
    shards.manifest(files.out)
    columns = ["url", "page", "text", "stage", "reason", "language", "relevance", "overhead"]
    pairs = pd.read_parquet(files.pairs).rename(columns={"text_raw": "text"}).assign(stage="kept", reason="")
    lost = pd.DataFrame([line for line in _read_lines(files.rejected) if line["stage"] != "read"]).reindex(columns=columns)
    table = pd.concat([pairs[columns], lost], ignore_index=True)
    return table.assign(**table[columns[:6]].fillna(""), **table[columns[6:]].astype(float))


def write_table(files: Files, manifest: dict) -> list[str]:
    """Write a row for each pair of a data set; return the name of the file, for the manifest."""
    with paths.parquet(files.pairs, _PAIRS) as write:
        for shard in (shard for entry in manifest["splits"].values() for shard in entry["shards"]):
            rows = []
            for record in shards.records(files.out / shard["file"]):
                row = {name: record.get(name) for name in _PAIRS.names} | record["scores"] | {"shard": shard["file"]}
                rows.append(row | {"caption": record["captions"][0], "sha256": record["hashes"]["sha256"]})
            write(pa.Table.from_pylist(rows, schema=_PAIRS))
    return [files.pairs.name]


class Removed(NamedTuple):
    """What came of a removal."""

    manifest: dict
    pairs: int  # taken out
    unmatched: list[str]  # lines of the list, as written, that nothing was found for


def remove(folder: Path | str, addresses: Iterable[str], cache: Path | str | None = None) -> Removed:
    """Take pairs out of a finished data set, for good: by the address of the picture, of its page, or by the host of either.

    What has the bytes of such a picture, or was found to show the same, goes as well. Shards with such pairs are rewritten, the
    others stay. What was kept of the pictures is deleted, also in the folder of what was fetched for several builds, and of rejected
    candidates with such an address only the address and the reason are left.

    Args:
        folder: A data set made by `build`.
        addresses: Lines of a removal list, see `removals.read`.
        cache: Folder of what was fetched. If None, the one that the build had.

    Returns:
        The manifest, the number of pairs that were taken out, and what was not found.

    Raises:
        DataError: No address is given, a line is no address, or the data set is unfinished or broken.
    """
    files = Files(Path(folder))
    wanted = removals.read(addresses)
    if not wanted:
        raise DataError("the list holds no address: give one a line")
    manifest = shards.manifest(files.out)
    noted = files.cache_note.read_text() if files.cache_note.is_file() else ""
    files = Files(files.out, Path(cache or noted) if cache or noted else None)

    def named(row: dict) -> bool:
        return wanted.name(row.get("url"), row.get("page"), row.get("final_url"))

    # A rejected copy of a pair was named: then the pair shows what its owner wants gone.
    lost = [line for line in _read_lines(files.rejected) if named(line)]
    digests = {line.get("sha256", "") for line in lost} - {""}
    twins = {line.get("duplicate_of") for line in lost if line["reason"] in removals.SAME_PICTURE}
    names = [shard["file"] for entry in manifest["splits"].values() for shard in entry["shards"]]
    gone = []
    for record in (record for name in names for record in shards.records(files.out / name)):
        if named(record) or record["key"] in twins or record["hashes"]["sha256"] in digests:
            gone.append(record)
    keys = {record["key"] for record in gone}
    digests |= {record["hashes"]["sha256"] for record in gone}
    # The shards last: a removal that was stopped finds its pairs in them again.
    _forget(files, named, gone, digests)
    forget_pictures(files, wanted, digests)
    finish = functools.partial(write_table, files)
    return Removed(
        shards.rewrite(files.out, lambda record: record["key"] not in keys, finish=finish), len(gone), wanted.unmatched
    )


def forget_pictures(files: Files, wanted: removals.Removals, digests: set[str]) -> None:
    """Delete pictures, by their addresses or the hashes of their bytes, from among the working files and what was fetched."""
    digests = digests | journal.forget(files.fetched, lambda row: wanted.name(row.url, row.final_url), digests)
    for path in [path for digest in digests for path in files.kept_pictures(digest)]:
        path.unlink(missing_ok=True)


def _forget(files: Files, named: Callable[[dict], bool], gone: Sequence[dict], digests: set[str]) -> None:
    """Delete what is kept of some addresses beside the shards: texts, pictures of copies, and the tables of the stages."""
    keys, removed = {record["key"] for record in gone}, set()

    def lines() -> Iterator[dict]:
        """The lines of rejected candidates, some shorter, and one for each pair."""
        for line in _read_lines(files.rejected):
            if line.get("duplicate_of") in keys and line["reason"] in removals.SAME_PICTURE:
                digests.update({line.get("sha256", "")} - {""})
            if line["stage"] == "removal":
                removed.add(line["url"])
            if named(line):
                line = {name: line[name] for name in ("url", "stage", "reason")}
            yield line
        for record in gone:
            if record["url"] not in removed:
                yield {"url": record["url"], "stage": "removal", "reason": "removed"}

    with replacing(files.rejected) as temporary, open(temporary, "wb") as file:
        for line in lines():
            file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
    for path in files.tables():
        path.unlink(missing_ok=True)


def _read_lines(path: Path) -> Iterator[dict]:
    try:
        with open(path, "rb") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): build the data set again") from error
