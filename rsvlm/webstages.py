"""The stages of a build from the web, each from files to files, for `web` to put in a row.

A stage writes a file under another name until it is whole and does nothing where the file is there, so that whoever is stopped goes
on. Workers run `texts`, `unpack`, `judge` and `make`; the others run once, in the process that builds: choosing among the texts of one
address, fetching, finding duplicates, dealing pairs out to shards. Memory holds a part at a time, and hashes of all.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rsvlm import benchmarks, crawl, dedup, fetch, files, filters, images, overhead, shards
from rsvlm.errors import DataError

if TYPE_CHECKING:
    from rsvlm import config

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
PART = 2048
"""Candidates of one part: the unit of work behind the text stage."""

_AT_ONCE = 64  # decoded pictures in memory
_FORBID = fetch.OBJECTIONS
_TEXT_SCHEMA = crawl.SCHEMA
for _name, _type in (
    ("clean", pa.string()),
    ("relevance", pa.float32()),
    ("language", pa.string()),
    ("kept", pa.bool_()),
    ("reason", pa.string()),
):
    _TEXT_SCHEMA = _TEXT_SCHEMA.append(pa.field(_name, _type))
_FOUND = {
    "fetch_reason": "",
    "status": 0,
    "final_url": "",
    "sha256": "",
    "file": "",
    "content_type": "",
    "site_robots": "",
    "header_robots": "",
    "archived": False,
}
_JUDGED = {
    "stage": "",
    "reason": "",
    "width": 0,
    "height": 0,
    "overhead": np.nan,
    "pixels_sha256": "",
    "contrast": np.nan,
    "pixels": 0,
    **{f"hash_{number}": np.uint64(0) for number in range(dedup.TURNS)},
}


@dataclass(frozen=True)
class Agreement:
    """Who says how well a picture and its text agree; a score in the record, no reason to drop a pair.

    Attributes:
        fingerprint: Names the model, by the hash of its weights.
        score: Takes `(H, W, 3)` uint8 pictures and as many texts, gives `(N,)` cosines. Called in this process.
    """

    fingerprint: str
    score: Callable[[Sequence[np.ndarray], Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Embedder:
    """Who turns pictures into embeddings, by which near duplicates are found.

    Attributes:
        fingerprint: Names the model, by the hash of its weights.
        embed: Takes `(H, W, 3)` uint8 pictures, gives `(N, E)` float32 of norm 1. Called in this process.
    """

    fingerprint: str
    embed: Callable[[Sequence[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Work:
    """What a worker needs beside its part; small, and sent along with every part.

    Attributes:
        folder: The build's `.work`.
        options: Which pairs are kept.
    """

    folder: str
    options: config.Web


def split_of(host: str, options: config.Web, seed: int) -> str:
    """Return the split of a host: drawn by a hash of its name and the seed, the same in every data set made with this seed."""
    draw = int.from_bytes(hashlib.blake2b(f"{seed} {host}".encode(), digest_size=8).digest()) / 2**64
    return "test" if draw < options.test_share else "val" if draw < options.test_share + options.val_share else "train"


# From texts to pictures


def texts(work: Work, item: tuple[str, str, str]) -> dict[str, int]:
    """Write the candidates of one input, and judge their texts; returns what its reader counted."""
    source, target, candidates = item
    if not Path(candidates).is_file():
        counts: Counter = Counter()
        with parquet(candidates, crawl.SCHEMA, counts) as write:
            for batch in crawl.read(source, counts):
                write(batch)
    if not Path(target).is_file():
        with parquet(target, _TEXT_SCHEMA) as write, pq.ParquetFile(candidates) as file:
            for batch in file.iter_batches(8192):
                judged = filters.text_stage(pa.Table.from_batches([batch]), work.options)
                write(judged.select(_TEXT_SCHEMA.names).cast(_TEXT_SCHEMA))
    return json.loads((pq.read_metadata(candidates).metadata or {}).get(b"counts", b"{}"))


def choose(texts: Sequence[Path], folder: Path, unwanted: set[str]) -> list[Path]:
    """Of all texts of one address keep the most relevant; write the candidates left in parts, those given up with their reason."""
    done = folder / "parts.json"
    if done.is_file():
        return [folder / name for name in json.loads(done.read_text())]
    digests, scores, lengths, refused = [np.zeros(0, np.uint64)], [np.zeros(0)], [np.zeros(0, np.int64)], []
    for batch in _kept_texts(texts):
        refused.append(_refused(batch, unwanted))
        digests.append(pd.util.hash_array(batch["url"].to_numpy(object), categorize=False))
        scores.append(batch["relevance"].to_numpy(float))
        lengths.append(batch["clean"].str.len().to_numpy(np.int64))
    digest, score, length = map(np.concatenate, (digests, scores, lengths))
    reasons = np.concatenate([np.zeros(0, object), *refused])
    order = np.lexsort((np.arange(len(digest)), -length, -score, reasons != "", digest))
    later = np.append(False, digest[order][1:] == digest[order][:-1])
    reasons[order[later & (reasons[order] == "")]] = "same_address"

    names: list[str] = []
    held: list[pd.DataFrame] = []
    row = 0

    def flush(last: bool) -> None:
        nonlocal held
        table = pd.concat(held, ignore_index=True) if held else pd.DataFrame()
        while len(table) >= PART or (last and len(table)):
            names.append(f"{len(names):05d}.parquet")
            write_frame(folder / names[-1], table.iloc[:PART])
            table = table.iloc[PART:]
        held = [table] if len(table) else []

    for batch in _kept_texts(texts):
        batch = batch.assign(reason=reasons[row : row + len(batch)], key=[_key(url) for url in batch["url"]])
        row += len(batch)
        held.append(batch)
        if sum(map(len, held)) >= PART:
            flush(False)
    flush(True)
    files.write_atomic(done, json.dumps(names))
    return [folder / name for name in names]


def _kept_texts(texts: Sequence[Path]) -> Iterator[pd.DataFrame]:
    for path in texts:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(8192):
                table = pa.Table.from_batches([batch])
                if (kept := table.filter(table["kept"]).drop_columns(["kept", "reason"])).num_rows:
                    yield kept.to_pandas()


def _refused(batch: pd.DataFrame, unwanted: set[str]) -> np.ndarray:
    reasons = np.full(len(batch), "", object)
    reasons[[bool(_FORBID & set(robots.split(","))) for robots in batch["robots"]]] = "page_robots"
    if unwanted:
        reasons[(batch["url"].isin(unwanted) | batch["page"].isin(unwanted)).to_numpy()] = "on_removal_list"
    return reasons


class _Wanted:
    """Addresses that pictures are wanted of, by 8 bytes each."""

    def __init__(self, folder: Path) -> None:
        found = [np.zeros(0, np.uint64)]
        for name in json.loads((folder / "parts.json").read_text()):
            table = pd.read_parquet(folder / name, columns=["url", "reason"])
            found.append(pd.util.hash_array(table.loc[table["reason"] == "", "url"].to_numpy(object), categorize=False))
        self.digests = np.sort(np.concatenate(found))

    def __contains__(self, url: str) -> bool:
        digest = pd.util.hash_array(np.array([url], object), categorize=False)[0]
        place = np.searchsorted(self.digests, digest)
        return bool(place < len(self.digests) and self.digests[place] == digest)


_ARCHIVED = pa.schema([(name, pa.string()) for name in ("url", "sha256", "content_type", "robots")])


def unpack(addresses: str, store: Path, item: tuple[str, str]) -> int:
    """Put the pictures of one archive that candidates ask for beside the fetched ones; the first answer of an address counts."""
    source, target = item
    if not Path(target).is_file():
        seen: set[str] = set()
        with parquet(target, _ARCHIVED) as write:
            for found in crawl.images(source, wanted=_Wanted(Path(addresses))):
                if found.url not in seen:
                    seen.add(found.url)
                    digest = hashlib.sha256(found.data).hexdigest()
                    path = store / "images" / digest[:2] / digest
                    if not path.is_file():
                        files.write_atomic(path, found.data)
                    row = (found.url, digest, found.content_type, found.robots)
                    write(pa.table([[cell] for cell in row], schema=_ARCHIVED))
    return pq.read_metadata(target).num_rows


def fetch_all(
    parts: Sequence[Path], archived: Sequence[Path], store: Path, folder: Path, options: config.Fetch, progress: bool
) -> list[str]:
    """Get the pictures that no archive holds, and write what came of each part; returns a hash of each."""
    done = folder / "digests.json"
    if done.is_file() and not options.retry_failed:
        return json.loads(done.read_text())
    done.unlink(missing_ok=True)
    held = pd.concat([pd.read_parquet(path) for path in archived]) if archived else _ARCHIVED.empty_table().to_pandas()
    held = held.drop_duplicates("url").set_index("url")

    def urls() -> Iterator[str]:
        for part in parts:
            # By their hashes, hosts are mixed: one that is slow does not hold up the others.
            table = pd.read_parquet(part, columns=["url", "reason", "key"]).sort_values("key")
            yield from table.loc[(table["reason"] == "") & ~table["url"].isin(held.index), "url"]

    if next(urls(), None) is not None:
        fetch.download(urls(), store, options, progress=progress)
    digests = []
    for part in parts:
        table = pd.read_parquet(part).assign(**_FOUND)
        open_ = table["reason"] == ""
        here = open_ & table["url"].isin(held.index)
        found = held.loc[table.loc[here, "url"]]
        table.loc[here, ["sha256", "content_type", "header_robots"]] = found[["sha256", "content_type", "robots"]].to_numpy()
        forbidden = np.array([bool(_FORBID & set(robots.split(","))) for robots in found["robots"]], bool)
        table.loc[here, "fetch_reason"] = np.where(forbidden, "archive_x_robots", "ok")
        table.loc[here, "archived"] = True
        table.loc[here, "file"] = [f"archive/images/{digest[:2]}/{digest}" for digest in found["sha256"]]
        asked = table.index[open_ & ~here]
        if len(asked):
            rows = {row.url: row for row in fetch.results(store, table.loc[asked, "url"])}
            rows = [rows[url] for url in table.loc[asked, "url"]]
            table.loc[asked, "fetch_reason"] = [row.reason for row in rows]
            table.loc[asked, "status"] = [row.status for row in rows]
            for ours, theirs in (
                ("final_url",) * 2,
                ("sha256",) * 2,
                ("content_type",) * 2,
                ("site_robots", "robots"),
                ("header_robots", "x_robots"),
            ):
                table.loc[asked, ours] = [getattr(row, theirs) for row in rows]
            table.loc[asked, "file"] = [
                _stored(fetch.image_path(store, row), folder.parents[1]) if row.reason == "ok" else "" for row in rows
            ]
        write_frame(folder / part.name, table)
        told = table.drop(columns=["file"])
        digests.append(hashlib.sha256(pd.util.hash_pandas_object(told, index=False).to_numpy().tobytes()).hexdigest()[:16])
    files.write_atomic(done, json.dumps(digests))
    return digests


def _stored(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path.resolve())


def judge(work: Work, item: tuple[str, str]) -> int:
    """Decode, score and hash the pictures of one part."""
    source, target = item
    if Path(target).is_file():
        return 0
    table = pd.read_parquet(source).rename(columns={"reason": "given_up"}).assign(**_JUDGED)
    for where, column in (("address", "given_up"), ("fetch", "fetch_reason")):
        lost = (table["stage"] == "") & ~table[column].isin(["", "ok"])
        table.loc[lost, "stage"] = where
        table.loc[lost, "reason"] = table.loc[lost, column]
    head = _head(str(Path(work.folder) / "head.npz"))
    open_ = table.index[table["stage"] == ""]
    for first in range(0, len(open_), _AT_ONCE):
        samples, rows = [], []
        for row in open_[first : first + _AT_ONCE]:
            data = _bytes(work.folder, table.at[row, "file"])
            array, reason = overhead.decode(data, work.options)
            if array is None:
                table.loc[row, ["stage", "reason"]] = ["image", reason]
                continue
            table.loc[row, ["height", "width"]] = array.shape[:2]
            samples.append((table.at[row, "key"], b"", array, ""))
            rows.append(row)
        if not rows:
            continue
        table.loc[rows, "overhead"] = overhead.score(head, [array for _, _, array, _ in samples])
        hashed = dedup.hash_table(samples)
        for column in ("pixels_sha256", "contrast", "pixels", *(f"hash_{number}" for number in range(dedup.TURNS))):
            table.loc[rows, column] = hashed[column].to_numpy()
    low = (table["stage"] == "") & (table["overhead"] < head.threshold)
    table.loc[low, ["stage", "reason"]] = ["image", "not overhead"]
    write_frame(Path(target), table.drop(columns=["given_up"]))
    return len(open_)


def head_hash(head: overhead.Head) -> str:
    """Hash a head: its numbers and where they come from."""
    digest = hashlib.sha256()
    for name, value in sorted(asdict(head).items()):
        array = np.asarray(value)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]


@functools.lru_cache(1)
def _head(path: str) -> overhead.Head:
    return overhead.load(Path(path))


def _bytes(folder: str | Path, file: str) -> bytes:
    try:
        return (Path(folder) / file).read_bytes()
    except OSError as error:
        raise DataError(f"{Path(folder) / file} has gone ({error}): delete {folder} and build again") from error


def _survivors(judged: Sequence[Path], columns: list[str]) -> Iterator[pd.DataFrame]:
    for path in judged:
        table = pd.read_parquet(path, columns=list(dict.fromkeys([*columns, "stage"])))
        yield table[table["stage"] == ""]


def duplicates(judged: Sequence[Path], distance: int) -> dict[str, dict]:
    """Return for each pair to drop which one stays and why, by key."""
    columns = ["key", "sha256", "pixels_sha256", "hash_0", "contrast", "pixels", "clean"]
    tables = [table.drop(columns="stage") for table in _survivors(judged, columns)]
    if not tables or not sum(map(len, tables)):
        return {}
    names = {"sha256": "bytes_sha256", "hash_0": "hash", "clean": "text"}
    found = dedup.duplicates(pd.concat(tables, ignore_index=True).rename(columns=names), distance)
    return {row["key"]: row for row in found.sort_values("key").to_dict("records")}


def embedding_duplicates(
    judged: Sequence[Path], dropped: set[str], embedder: Embedder, folder: Path, work: Path, options: config.Web
) -> dict[str, dict]:
    """Return for each pair to drop whose picture is embedded near another's which one stays, by key.

    The embeddings of a part lie in a file of their own, as 16-bit floats, and are read through one memory map.
    """
    tables = []
    for path in judged:
        table = pd.read_parquet(path, columns=["key", "file", "pixels", "clean", "stage"])
        table = table[table["stage"] == ""].reset_index(drop=True)
        target = folder / f"{path.stem}.npy"
        if len(table) and not target.is_file():
            files.write_atomic(target, _embedded(table["file"].tolist(), embedder, work, options))
        tables.append(table.assign(part=len(tables), row=np.arange(len(table))))
    tables = [table for table in tables if len(table)]
    if not tables:
        return {}
    table = pd.concat(tables, ignore_index=True)
    table = table[~table["key"].isin(dropped)].reset_index(drop=True)
    stored = {part: np.load(folder / f"{judged[part].stem}.npy", mmap_mode="r") for part in table["part"].unique()}
    width = {array.shape[1] for array in stored.values()}
    if len(width) > 1:
        raise DataError(f"{folder} holds embeddings of different widths {sorted(width)}: delete it and build again")
    whole = folder / ".whole.npy"
    whole.unlink(missing_ok=True)
    embeddings = np.lib.format.open_memmap(whole, "w+", np.float32, (len(table), *width)) if len(table) else np.zeros((0, 1))
    try:
        for part, rows in table.groupby("part", sort=False):
            values = stored[part][rows["row"].to_numpy()].astype(np.float32)
            embeddings[rows.index.to_numpy()] = values / np.linalg.norm(values, axis=1, keepdims=True)
        table = table.rename(columns={"clean": "text"})[["key", "pixels", "text"]]
        found = dedup.embedding_duplicates(table, embeddings, options.embedding_similarity)
    finally:
        whole.unlink(missing_ok=True)
    return {row["key"]: row for row in found.sort_values("key").to_dict("records")}


def _embedded(files: Sequence[str], embedder: Embedder, work: Path, options: config.Web) -> bytes:
    parts = []
    for first in range(0, len(files), _AT_ONCE):
        arrays = [overhead.decode(_bytes(work, file), options)[0] for file in files[first : first + _AT_ONCE]]
        found = np.asarray(embedder.embed(arrays), np.float32)
        if found.ndim != 2 or len(found) != len(arrays) or not (np.linalg.norm(found, axis=1) > 0.5).all():
            raise DataError(
                f"the model gave {found.shape} for {len(arrays)} pictures, or no unit vectors: one of norm 1 for each"
            )
        parts.append(found.astype(np.float16))
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(parts), allow_pickle=False)
    return buffer.getvalue()


def overlaps(
    judged: Sequence[Path], dropped: set[str], folder: Path, tables: dict[str, str], distance: int
) -> dict[str, list[dict]]:
    """Return what each pair has in common with which benchmark, by key."""
    found: dict[str, list[dict]] = {}
    for place, name in tables.items():
        pictures = folder / f"{name}.parquet"
        theirs = dedup.load_or_hash(pictures, name, dedup.pictures(Path(place)))
        theirs = pd.concat([theirs, _benchmark_texts(Path(place))], ignore_index=True)
        columns = [
            "key",
            "url",
            "sha256",
            "pixels_sha256",
            "contrast",
            "pixels",
            "clean",
            *(f"hash_{n}" for n in range(dedup.TURNS)),
        ]
        for ours in _survivors(judged, columns):
            ours = ours[~ours["key"].isin(dropped)].rename(columns={"sha256": "bytes_sha256", "clean": "text"})
            if not len(ours):
                continue
            addresses = dict(zip(ours["key"], ours["url"], strict=True))
            for row in dedup.overlap(ours.assign(hash=ours["hash_0"]), theirs, benchmarks.name(place), distance).to_dict(
                "records"
            ):
                found.setdefault(row["key"], []).append({"key": row["key"], "url": addresses[row["key"]]} | row)
    return dict(sorted(found.items()))


def benchmark_table(folder: Path) -> str:
    """Name the table of a benchmark's hashes; a folder that is not there is a DataError."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: --benchmarks takes folders of pictures, loose or in tar files")
    return dedup.table_name(benchmarks.name(folder), benchmarks.fingerprint(folder))


def _benchmark_texts(folder: Path) -> pd.DataFrame:
    """The captions of a benchmark in a known layout, as rows of a hash table without pictures; a folder of bare pictures has none."""
    rows = []
    try:
        splits = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and next(path.glob("*.tar"), None)]
        splits += ["train"] if next(folder.glob("*.tar"), None) else []
        for path in [] if splits else sorted(folder.glob("*.json")):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                splits += sorted({str(row["split"]) for row in json.loads(path.read_bytes())["images"]})
        for split in splits:
            rows += [(sample.key, "\n".join(sample.captions)) for sample in benchmarks.samples(folder, split)]
    except DataError as error:
        log.warning("%s: its texts are not looked for (%s)", folder, error)
    table = pd.DataFrame(rows, columns=["key", "text"]).astype(object)
    empty = {"bytes_sha256": "", "pixels_sha256": "", "contrast": 0.0, "pixels": 0, "hash": np.uint64(0)}
    return table.assign(**empty, **{f"hash_{number}": np.uint64(0) for number in range(dedup.TURNS)})


def deal(
    judged: Sequence[Path], dropped: set[str], folder: Path, options: config.Config, agreement: Agreement | None, work: Path
) -> tuple[list[shards.Task], Counter]:
    """Write the pairs of each shard into a file of its own, in the order of the candidates; returns the tasks."""
    size, names, counts = options.web.samples_per_shard, {split: [] for split in SPLITS}, Counter()
    held: dict[str, list[pd.DataFrame]] = {split: [] for split in SPLITS}

    def flush(split: str, last: bool) -> None:
        table = pd.concat(held[split], ignore_index=True) if held[split] else pd.DataFrame()
        while len(table) >= size or (last and len(table)):
            path = folder / f"{split}-{len(names[split]):06d}.parquet"
            if not path.is_file():
                part = table.iloc[:size].reset_index(drop=True)
                write_frame(path, part.assign(agreement=_agree(part, agreement, work, options.web)))
            names[split].append(path)
            table = table.iloc[size:]
        held[split] = [table] if len(table) else []

    for path in judged:
        table = pd.read_parquet(path)
        table = table[(table["stage"] == "") & ~table["key"].isin(dropped)]
        hosts = [host_of(page or url) for page, url in zip(table["page"], table["url"], strict=True)]
        table = table.assign(split=[split_of(host, options.web, options.seed) for host in hosts])
        for split, part in table.groupby("split"):
            held[split].append(part)
            counts[split] += len(part)
            flush(split, False)
    for split in SPLITS:
        flush(split, True)
    tasks = [shards.Task(f"{split}/{n:06d}.tar", str(path)) for split in SPLITS for n, path in enumerate(names[split])]
    return tasks, counts


def _agree(table: pd.DataFrame, agreement: Agreement | None, work: Path, options: config.Web) -> np.ndarray:
    scores = np.full(len(table), np.nan)
    for first in range(0, len(table) if agreement else 0, _AT_ONCE):
        part = table.iloc[first : first + _AT_ONCE]
        arrays = [overhead.decode(_bytes(work, file), options)[0] for file in part["file"]]
        scores[first : first + len(part)] = agreement.score(arrays, part["clean"].tolist())
    return scores


def make(work: Work, task: shards.Task) -> shards.Made:
    """Make the samples of one shard; runs in a worker."""
    samples = []
    for row in pd.read_parquet(task.items).to_dict("records"):
        data = _bytes(work.folder, row["file"])
        array, _ = overhead.decode(data, work.options)
        samples.append((_record(row), *_encoded(array, data)))
    return shards.Made(samples)


def _record(row: dict) -> dict:
    score = {
        name: None if np.isnan(row[name]) else round(float(row[name]), 4) for name in ("relevance", "overhead", "agreement")
    }
    return {
        "key": row["key"],
        "split": row["split"],
        "captions": [row["clean"]],
        "caption_kinds": ["web"],
        "url": row["url"],
        "final_url": row["final_url"] or row["url"],
        "page": row["page"],
        "title": row["title"],
        "heading": row["heading"],
        "text_raw": row["text"],
        "found_as": row["kind"],
        "language": row["language"],
        "scores": score,
        "width_px": int(row["width"]),
        "height_px": int(row["height"]),
        "hashes": {"sha256": row["sha256"], "pixels_sha256": row["pixels_sha256"], "perceptual": f"{int(row['hash_0']):016x}"},
        "robots": {
            "site": row["site_robots"],
            "header": row["header_robots"],
            "page": row["robots"],
            "archived": bool(row["archived"]),
        },
        "licence": "unknown",
        "attribution": row["page"] or row["url"],
        "source": row["source"],
    }


def _encoded(array: np.ndarray, data: bytes) -> tuple[bytes, str]:
    """Encode pixels anew: as JPEG what was compressed with loss, else as PNG. No metadata and no hidden content travel along."""
    if data[:2] == b"\xff\xd8" or data[:4] == b"RIFF" or data[4:8] == b"jP  ":
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "JPEG", quality=95, subsampling=0)
        return buffer.getvalue(), "jpg"
    return images.encode_png(array), "png"


# Addresses and files


def _key(url: str) -> str:
    return "web-" + hashlib.blake2b(url.encode("utf-8", "replace"), digest_size=10).hexdigest()


def host_of(url: str) -> str:
    """The host of an address, with its port where that is unusual; `www.` is no other host."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2].lower().removeprefix("www.")


@contextlib.contextmanager
def parquet(path: Path | str, schema: pa.Schema, counts: Counter | None = None) -> Iterator[Callable[[pa.Table], None]]:
    """Write a parquet file batch by batch, under another name until it is whole; `counts` go into its metadata."""
    try:
        with files.replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            yield writer.write_table
            if counts is not None:
                writer.add_key_value_metadata({"counts": json.dumps(counts)})
    except OSError as error:
        raise DataError(f"writing {path} failed ({error}): make room, then run the same command again") from error


def write_frame(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet, in one step."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    files.write_atomic(path, buffer.getvalue())
