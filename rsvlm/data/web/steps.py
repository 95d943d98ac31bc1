"""The steps of a build from the web, each from files to files, for `build.build` to put in a row.

A step writes a file under another name until it is whole, and what is there is not made again, so that whoever is stopped goes
on. Workers run `judge_texts`, `unpack`, `judge_pictures` and `make`, for one input, part or shard each; the others run once, in the
process that builds: choosing among the texts of one address, fetching, finding duplicates, dealing pairs out to shards. Memory holds
a part at a time, and hashes of all.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rsvlm.data import duplicates, picture_details, shards
from rsvlm.data.web import archives, fetch, overhead, overlaps, paths, personal, texts
from rsvlm.data.web.paths import Files, Part, Source
from rsvlm.data.web.removals import LISTED, Removals
from rsvlm.data.web.reservations import OBJECTIONS
from rsvlm.errors import DataError
from rsvlm.model import images
from rsvlm.records import text
from rsvlm.records.files import write_atomic

if TYPE_CHECKING:
    from rsvlm import config

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
PART = 2048
"""Candidates of one part: the unit of work behind the text stage."""

_AT_ONCE = 64  # decoded pictures in memory
_HASHES = overlaps.HASHES
_JUDGEMENT = [("clean", pa.string()), ("relevance", pa.float32()), ("language", pa.string())]
UNREAD = ["url", "page", "reason", "source", "n"]
_TEXTS = pa.schema([*archives.SCHEMA, *_JUDGEMENT, ("kept", pa.bool_()), ("reason", pa.string())])
_ARCHIVED = pa.schema([(name, pa.string()) for name in ("url", "sha256", "content_type", "robots")])
_ANSWER = ["status", "final_url", "sha256", "content_type", "reason", "robots", "x_robots"]
_RENAMED = {"reason": "fetch_reason", "robots": "site_robots", "x_robots": "header_robots"}
_NOT_JUDGED = {"stage": "", "reason": "", "width": 0, "height": 0, "overhead": np.nan, "pixels_sha256": "", "contrast": np.nan}
_NOT_JUDGED |= {"pixels": 0, **dict.fromkeys(_HASHES, np.uint64(0)), picture_details.COLUMN: b""}


@dataclass(frozen=True)
class Model:
    """What a model says of pictures; called in the process that builds, never in workers.

    Attributes:
        fingerprint: Name of the model, by the hash of its weights.
        score: Function of `(H, W, 3)` uint8 pictures and as many texts that gives `(N,)` cosines: a score in the record, no reason to
            drop a pair. If None, there is no such score.
        embed: Function of `(H, W, 3)` uint8 pictures that gives `(N, E)` float32 of norm 1, by which near duplicates are found. If
            None, they are found by hashes alone.
    """

    fingerprint: str
    score: Callable[[Sequence[np.ndarray], Sequence[str]], np.ndarray] | None = None
    embed: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None


# From inputs to candidates


def judge_texts(files: Files, options: config.Web, columns: Mapping[str, str], source: Source) -> None:
    """Write the candidates of one input, and what gave none, and judge their texts; `columns` are as for `archives.inspect`."""
    candidates, counter = files.candidates(source), archives.Counts()
    if not candidates.is_file():
        with paths.parquet(candidates, archives.SCHEMA, counter) as write:
            for batch in archives.read(source.path, counter, names=columns if source.format != "warc" else None):
                write(batch)
            paths.write_frame(files.unread(source), pd.DataFrame(counter.listed, columns=UNREAD))
    tally = Counter(counts(candidates))
    with paths.parquet(files.texts(source), _TEXTS, tally) as write, pq.ParquetFile(candidates) as file:
        for batch in file.iter_batches(8192):
            judged = personal.blanked(texts.text_stage(pa.Table.from_batches([batch]), options), tally)
            write(judged.select(_TEXTS.names).cast(_TEXTS))


def counts(path: Path) -> dict[str, int]:
    """Return what the reader of an input counted, from the file of its candidates, its texts or its archived pictures."""
    return json.loads((pq.read_metadata(path).metadata or {}).get(b"counts", b"{}"))


def choose(files: Files, sources: Sequence[Source], unwanted: Removals) -> int:
    """Choose the most relevant text of each address; write all in parts, also those given up; return the number of parts."""
    if files.part_count.is_file():
        return json.loads(files.part_count.read_text())

    # The texts of one address lie side by side where they are sorted by its hash, and the best comes first.
    columns = [(np.zeros(0, object), np.zeros(0, np.uint64), np.zeros(0), np.zeros(0, np.int64))]
    for batch in _passed_texts(files, sources):
        relevance, length = batch["relevance"].to_numpy(float), batch["clean"].str.len().to_numpy(np.int64)
        columns.append((_refusals(batch, unwanted), _digests(batch["url"]), relevance, length))
    reason, digest, relevance, length = map(np.concatenate, zip(*columns, strict=True))
    order = np.lexsort((-length, -relevance, reason != "", digest))
    later = np.append(False, digest[order][1:] == digest[order][:-1])
    reason[order[later & (reason[order] == "")]] = "same_address"

    # Read again, since memory does not hold the texts.
    def candidates() -> Iterator[pd.DataFrame]:
        first = 0
        for batch in _passed_texts(files, sources):
            yield batch.assign(reason=reason[first : first + len(batch)], key=[_key(url) for url in batch["url"]])
            first += len(batch)

    count = 0
    for count, part in enumerate(_in_parts(candidates(), PART), 1):
        paths.write_frame(files.addresses(count - 1), part)
    write_atomic(files.part_count, json.dumps(count))
    return count


def _passed_texts(files: Files, sources: Sequence[Source]) -> Iterator[pd.DataFrame]:
    for source in sources:
        with pq.ParquetFile(files.texts(source)) as file:
            for batch in file.iter_batches(8192):
                table = pa.Table.from_batches([batch])
                if (passed := table.filter(table["kept"]).drop_columns(["kept", "reason"])).num_rows:
                    yield passed.to_pandas()


def _refusals(batch: pd.DataFrame, unwanted: Removals) -> np.ndarray:
    reasons = np.full(len(batch), "", object)
    reasons[[_forbids(robots) for robots in batch["robots"]]] = "page_robots"
    if unwanted:
        reasons[np.array([unwanted.name(*row) for row in zip(batch["url"], batch["page"], strict=True)], bool)] = LISTED
    return reasons


def _forbids(robots: str) -> bool:
    return not OBJECTIONS.isdisjoint(robots.split(","))


def _digests(urls: Sequence[str]) -> np.ndarray:
    """Hash addresses to `(N,)` uint64."""
    return pd.util.hash_array(np.asarray(urls, object), categorize=False)


def _key(url: str) -> str:
    return "web-" + hashlib.blake2b(url.encode("utf-8", "replace"), digest_size=10).hexdigest()


def _in_parts(tables: Iterable[pd.DataFrame], size: int) -> Iterator[pd.DataFrame]:
    """Share the rows of tables out anew, `size` to a table; the last one may be shorter."""
    waiting: list[pd.DataFrame] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= size:
            table = pd.concat(waiting, ignore_index=True)
            while len(table) >= size:
                yield table.iloc[:size]
                table = table.iloc[size:]
            waiting = [table] if len(table) else []
    if waiting:
        yield pd.concat(waiting, ignore_index=True)


# From candidates to pictures


class _Wanted:
    """Addresses that pictures are wanted of, by 8 bytes each."""

    def __init__(self, files: Files) -> None:
        digests = [np.zeros(0, np.uint64)]
        for number in range(json.loads(files.part_count.read_text())):
            table = pd.read_parquet(files.addresses(number), columns=["url", "reason"])
            digests.append(_digests(table.loc[table["reason"].isin(["", LISTED]), "url"]))
        self.digests = np.sort(np.concatenate(digests))

    def __contains__(self, url: str) -> bool:
        digest = _digests([url])[0]
        place = np.searchsorted(self.digests, digest)
        return bool(place < len(self.digests) and self.digests[place] == digest)


def unpack(files: Files, source: Source) -> None:
    """Put the pictures of one archive that candidates ask for beside the fetched ones; the first answer of an address counts."""
    seen: set[str] = set()
    counter = archives.Counts()
    with paths.parquet(files.archived(source), _ARCHIVED, counter) as write:
        for picture in archives.images(source.path, wanted=_Wanted(files), counts=counter):
            if picture.url not in seen:
                seen.add(picture.url)
                digest = hashlib.sha256(picture.data).hexdigest()
                if not files.archived_picture(digest).is_file():
                    write_atomic(files.archived_picture(digest), picture.data)
                write(pa.table([[picture.url], [digest], [picture.content_type], [picture.robots]], schema=_ARCHIVED))


def fetch_all(
    files: Files, part_count: int, sources: Sequence[Source], options: config.Fetch, progress: bool, unwanted: Removals
) -> list[Part]:
    """Get the pictures that the archives among `sources` do not hold, and write what came of the candidates of each part.

    Pictures that are on the removal list by their own addresses are asked for too, since their copies are to stay out as well.
    """
    if files.answer_hashes.is_file() and not options.retry_failed:
        return [Part(number, answers) for number, answers in enumerate(json.loads(files.answer_hashes.read_text()))]
    files.answer_hashes.unlink(missing_ok=True)
    # Of several answers of the archives, the first counts.
    tables = [pd.read_parquet(files.archived(source)) for source in sources] or [_ARCHIVED.empty_table().to_pandas()]
    archived = pd.concat(tables).drop_duplicates("url").set_index("url")

    def urls() -> Iterator[str]:
        for number in range(part_count):
            # By their hashes, hosts are mixed: one that is slow does not hold up the others.
            table = pd.read_parquet(files.addresses(number), columns=["url", "reason", "key"]).sort_values("key")
            listed = (table["reason"] == LISTED) & np.array([unwanted.name_itself(url) for url in table["url"]], bool)
            yield from table.loc[((table["reason"] == "") | listed) & ~table["url"].isin(archived.index), "url"]

    if next(urls(), None) is not None:
        fetch.download(urls(), files.fetched, options, progress=progress)
    parts = []
    for number in range(part_count):
        table = _with_answers(files, pd.read_parquet(files.addresses(number)), archived)
        led = (table["reason"] == "") & np.array([unwanted.name(address) for address in table["final_url"]], bool)
        table.loc[led, "reason"] = LISTED
        paths.write_frame(files.answers(number), table)
        rows = pd.util.hash_pandas_object(table.drop(columns=["file"]), index=False).to_numpy()
        parts.append(Part(number, hashlib.sha256(rows.tobytes()).hexdigest()[:16]))
    write_atomic(files.answer_hashes, json.dumps([part.answers for part in parts]))
    return parts


def _with_answers(files: Files, table: pd.DataFrame, archived: pd.DataFrame) -> pd.DataFrame:
    """Add what came of each candidate's picture: from an archive, from the web, or nothing where it was given up before."""
    wanted = table["reason"].isin(["", LISTED])
    inside = wanted & table["url"].isin(archived.index)
    answers, notes, nothing = {}, {"": ""}, fetch.Fetched("")
    for url, row in archived.loc[table.loc[inside, "url"]].iterrows():
        reason = "archive_x_robots" if _forbids(row["robots"]) else "ok"
        header = {"content_type": row["content_type"], "x_robots": row["robots"]}
        answers[url] = fetch.Fetched(url, reason, sha256=row["sha256"], **header)
        notes[url] = files.note(files.archived_picture(row["sha256"]))
    if (wanted & ~inside).any() and (
        files.fetched / "journal.sqlite"
    ).is_file():  # what is listed may be all, and not asked for
        for answer in fetch.results(files.fetched, table.loc[wanted & ~inside, "url"]):
            answers[answer.url] = answer
            if answer.reason == "ok":
                notes[answer.url] = files.note(fetch.image_path(files.fetched, answer))
    rows = [answers.get(url, nothing) if asked else nothing for url, asked in zip(table["url"], wanted, strict=True)]
    columns = pd.DataFrame([asdict(row) for row in rows])[_ANSWER].rename(columns=_RENAMED)
    return table.assign(**columns, file=[notes.get(row.url, "") for row in rows], archived=inside)


def judge_pictures(files: Files, options: config.Web, part: Part) -> None:
    """Decode, score and hash the pictures of one part."""
    table = pd.read_parquet(files.answers(part.number)).rename(columns={"reason": "given_up"}).assign(**_NOT_JUDGED)
    for stage, column in (("address", "given_up"), ("fetch", "fetch_reason")):
        lost = (table["stage"] == "") & ~table[column].isin(["", "ok"])
        table.loc[lost, "stage"] = stage
        table.loc[lost, "reason"] = table.loc[lost, column]
    head = overhead.load(files.head)
    listed = (table["given_up"] == LISTED) & (table["file"] != "")  # its copies are looked for by its hashes
    rows = table.index[(table["stage"] == "") | listed]
    for first in range(0, len(rows), _AT_ONCE):
        pictures = {}
        for row in rows[first : first + _AT_ONCE]:
            array, reason = overhead.decode(_bytes(files, table.at[row, "file"]), options)
            if array is None:
                table.loc[row, ["stage", "reason"]] = ["address", LISTED] if listed[row] else ["image", reason]
            else:
                table.loc[row, ["height", "width"]] = array.shape[:2]
                pictures[row] = array
        if pictures:
            table.loc[list(pictures), "overhead"] = overhead.score(head, list(pictures.values()))
            hashes = duplicates.hash_table((table.at[row, "key"], b"", array, "") for row, array in pictures.items())
            for column in ("pixels_sha256", "contrast", "pixels", *_HASHES, picture_details.COLUMN):
                table.loc[list(pictures), column] = hashes[column].to_numpy()
    low = (table["stage"] == "") & (table["overhead"] < head.threshold)
    table.loc[low, ["stage", "reason"]] = ["image", "not overhead"]
    paths.write_frame(files.judged(part), table.drop(columns=["given_up"]))


def _bytes(files: Files, note: str) -> bytes:
    try:
        return (files.work / note).read_bytes()
    except OSError as error:
        raise DataError(f"{files.work / note} has gone ({error}): delete {files.work} and build again") from error


# From pictures to pairs


def _survivors(files: Files, parts: Sequence[Part], columns: list[str]) -> Iterator[pd.DataFrame]:
    for part in parts:
        table = pd.read_parquet(files.judged(part), columns=[*columns, "stage"])
        yield table[table["stage"] == ""].drop(columns="stage").reset_index(drop=True)


def near_duplicates(files: Files, parts: Sequence[Part], dropped: set[str], distance: int) -> dict[str, dict]:
    """Return for each pair to drop which one stays and why, by key."""
    columns = ["key", "sha256", "pixels_sha256", "hash_0", "contrast", "pixels", "clean", picture_details.COLUMN]
    tables = [table[~table["key"].isin(dropped)] for table in _survivors(files, parts, columns)]
    if not any(map(len, tables)):
        return {}
    names = {"sha256": "bytes_sha256", "hash_0": "hash", "clean": "text"}
    return _by_key(duplicates.duplicates(pd.concat(tables, ignore_index=True).rename(columns=names), distance))


def _by_key(table: pd.DataFrame) -> dict[str, dict]:
    return {row["key"]: row for row in table.sort_values("key").to_dict("records")}


def embedding_duplicates(
    files: Files, parts: Sequence[Part], dropped: set[str], model: Model, options: config.Web
) -> dict[str, dict]:
    """Return for each pair to drop whose picture is embedded near another's which one stays, by key.

    The embeddings of a part lie in a file of their own, as 16-bit floats, and are read through one memory map.
    """
    # Embed what is not embedded yet.
    tables = [pd.DataFrame()]
    for part, table in zip(parts, _survivors(files, parts, ["key", "file", "pixels", "clean"]), strict=True):
        if len(table) and not files.embeddings(part).is_file():
            write_atomic(files.embeddings(part), _embedded(files, table, model, options))
        table = table.assign(part=part.number, row=np.arange(len(table)))
        tables.append(table[~table["key"].isin(dropped)])
    table = pd.concat(tables, ignore_index=True)
    if not len(table):
        return {}
    stored = {number: np.load(files.embeddings(parts[number]), mmap_mode="r") for number in table["part"].unique()}
    width = {array.shape[1] for array in stored.values()}
    if len(width) > 1:
        raise DataError(f"{files.work} holds embeddings of different widths {sorted(width)}: delete it and build again")

    # Lay the vectors of what is left one behind the other, in a file without a name, and compare them.
    with tempfile.TemporaryFile(dir=files.work) as file:
        embeddings = np.memmap(file, np.float32, "w+", shape=(len(table), *width))
        for number, rows in table.groupby("part", sort=False):
            values = stored[number][rows["row"].to_numpy()].astype(np.float32)
            embeddings[rows.index.to_numpy()] = values / np.linalg.norm(values, axis=1, keepdims=True)
        table = table.rename(columns={"clean": "text"})[["key", "pixels", "text"]]
        return _by_key(duplicates.embedding_duplicates(table, embeddings, options.embedding_similarity))


def _embedded(files: Files, table: pd.DataFrame, model: Model, options: config.Web) -> bytes:
    parts = []
    for arrays, _ in _decoded(files, table, options):
        vectors = np.asarray(model.embed(arrays), np.float32)
        if vectors.ndim != 2 or len(vectors) != len(arrays) or not (np.linalg.norm(vectors, axis=1) > 0.5).all():
            shape = f"{vectors.shape} for {len(arrays)} pictures"
            raise DataError(f"the model gave {shape}, or no unit vectors: one of norm 1 for each")
        parts.append(vectors.astype(np.float16))
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(parts), allow_pickle=False)
    return buffer.getvalue()


def _decoded(files: Files, table: pd.DataFrame, options: config.Web) -> Iterator[tuple[list[np.ndarray], list[str]]]:
    """Give pictures that were judged and their texts, as many at once as memory should hold."""
    for first in range(0, len(table), _AT_ONCE):
        rows = table.iloc[first : first + _AT_ONCE]
        yield [overhead.decode(_bytes(files, note), options)[0] for note in rows["file"]], rows["clean"].tolist()


def survivors_with_hashes(files: Files, parts: Sequence[Part], dropped: set[str]) -> Iterator[pd.DataFrame]:
    """Give the tables of all pairs so far but those dropped, with the hashes of their pictures."""
    for table in _survivors(files, parts, ["key", "url", "sha256", "pixels_sha256", "contrast", "pixels", "clean", *_HASHES]):
        yield table[~table["key"].isin(dropped)]


def deal(
    files: Files, parts: Sequence[Part], dropped: set[str], plan: str, split: str, options: config.Config, model: Model | None
) -> list[shards.Task]:
    """Write the pairs of each shard of a split into a file of its own, in the order of the candidates; return the tasks."""

    def pairs() -> Iterator[pd.DataFrame]:
        for part in parts:
            table = pd.read_parquet(files.judged(part))
            table = table[(table["stage"] == "") & ~table["key"].isin(dropped)]
            hosts = [host_of(page or url) for page, url in zip(table["page"], table["url"], strict=True)]
            table = table[[split_of(host, options.web, options.seed) == split for host in hosts]].assign(split=split)
            if len(table):
                yield table

    tasks = []
    for number, table in enumerate(_in_parts(pairs(), options.web.samples_per_shard)):
        path = files.shard_pairs(plan, split, number)
        if not path.is_file():
            paths.write_frame(path, table.assign(agreement=_agreement(files, table, model, options.web)))
        tasks.append(shards.Task(f"{split}/{number:06d}.tar", path))
    return tasks


def split_of(host: str, options: config.Web, seed: int) -> str:
    """Return the split of a host: drawn by a hash of its name and the seed, the same in every data set made with this seed."""
    draw = int.from_bytes(text.rank(host, seed)) / 2**64
    return "test" if draw < options.test_share else "val" if draw < options.test_share + options.val_share else "train"


def host_of(url: str) -> str:
    """The host of an address, with its port where that is unusual; `www.` is no other host."""
    return urlsplit(url).netloc.rpartition("@")[2].lower().removeprefix("www.")


def _agreement(files: Files, table: pd.DataFrame, model: Model | None, options: config.Web) -> np.ndarray:
    if not model or not model.score:
        return np.full(len(table), np.nan)
    return np.concatenate([model.score(arrays, texts) for arrays, texts in _decoded(files, table, options)])


def make(files: Files, options: config.Web, task: shards.Task) -> shards.Made:
    """Make the samples of one shard; runs in a worker."""
    rows = pd.read_parquet(task.items).to_dict("records")
    return shards.Made([(_record(row), *_encoded(_bytes(files, row["file"]), options)) for row in rows])


def _record(row: dict) -> dict:
    names = ("relevance", "overhead", "agreement")
    robots = {"site": row["site_robots"], "header": row["header_robots"], "page": row["robots"]}
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
        "scores": {name: None if np.isnan(row[name]) else round(float(row[name]), 4) for name in names},
        "width_px": int(row["width"]),
        "height_px": int(row["height"]),
        "hashes": {"sha256": row["sha256"], "pixels_sha256": row["pixels_sha256"], "perceptual": f"{int(row['hash_0']):016x}"},
        "robots": robots | {"archived": bool(row["archived"])},
        "licence": "unknown",
        "attribution": row["page"] or row["url"],
        "source": row["source"],
    }


def _encoded(data: bytes, options: config.Web) -> tuple[bytes, str]:
    """Encode pixels anew: as JPEG what was compressed with loss, else as PNG. No metadata and no hidden content travel along."""
    array, _ = overhead.decode(data, options)
    if data[:2] == b"\xff\xd8" or data[:4] == b"RIFF" or data[4:8] == b"jP  ":
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "JPEG", quality=95, subsampling=0)
        return buffer.getvalue(), "jpg"
    return images.encode_png(array), "png"
