"""Where each file of a build from the web is. Nothing else puts these names together, and none is taken apart again.

A folder belongs to one build, named by the key in `.work/build` (`build` says what decides it). So what is made before any website
is asked goes by its number alone. What the websites answer may differ under one key, since failures may be asked for again: whatever
is made of a part's answers carries their hash, and the pairs of the shards carry the hash of the key and of all answers.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rsvlm.records.files import replacing


@dataclass(frozen=True)
class Source:
    """One input."""

    number: int  # place among the inputs, from 0
    name: str  # of the file as it was given, without its folder
    path: Path  # absolute: the same for all workers
    format: str  # as from `archives.inspect`
    sha256: str  # of the bytes


@dataclass(frozen=True)
class Part:
    """Some candidates whose pictures were asked for: the unit of work behind the text stage."""

    number: int  # place among the parts, from 0
    answers: str  # hash of what came of each candidate


def _named(form: str) -> Callable[..., Path]:
    """Return a method that gives the path of a working file; its arguments are put into the form of the name."""
    return lambda files, *parts: files.work / form.format(*parts)


@dataclass(frozen=True)
class Files:
    """The files of a data set; small, and sent to workers with every item."""

    out: Path  # folder of the data set, for whoever uses it; the working files are in `.work`, in folders named after steps
    cache: Path | None = None  # folder of what was fetched, for several builds; if None, it is among the working files

    # The data set.
    manifest = property(lambda self: self.out / "manifest.json")  # what is inside; written by `shards` when all is there
    rejected = property(lambda self: self.out / "rejected.jsonl")  # a line for each candidate given up; written by `shards`
    pairs = property(lambda self: self.out / "pairs.parquet")  # a row for each pair
    overlap = property(lambda self: self.out / "overlap.jsonl")  # a line for each thing in common with a benchmark
    shard_plan = property(lambda self: self.out / ".tasks" / "plan")  # in the folder of reports that `shards` keeps

    # Working files of the whole build.
    work = property(lambda self: self.out / ".work")
    hashes = property(lambda self: self.work / "inputs.json")  # of the inputs
    key = property(lambda self: self.work / "build")  # of the build
    head = property(lambda self: self.work / "head.json")  # the overhead classifier
    part_count = property(lambda self: self.work / "addresses" / "count.json")  # written when all `addresses` are there
    fetched = property(lambda self: self.cache or self.work / "fetch")  # folder of `fetch`: its journal, and pictures
    cache_note = property(lambda self: self.work / "cache")  # where the folder of several builds is, if there is one
    listed = property(lambda self: self.work / "listed.parquet")  # hashes of pictures that are on the removal list
    answer_hashes = property(lambda self: self.work / "fetched" / "digests.json")  # written when all `answers` are there

    # Working files of one source, part or shard, as in `files.texts(source)`.
    # of a source: all texts with an address, as read; deleted once judged
    candidates = _named("candidates/{0.number:05d}.parquet")
    unread = _named("unread/{0.number:05d}.parquet")  # of a source: what gave no candidate, and why
    texts = _named("texts/{0.number:05d}.parquet")  # of a source: the same, judged
    addresses = _named("addresses/{:05d}.parquet")  # of a part's number: candidates, at most one of each address not given up
    archived = _named("archive/{0.number:05d}.parquet")  # of a source: what an archive answered itself
    archived_picture = _named(
        "archive/images/{0:.2}/{0}"
    )  # of a SHA-256: a picture, placed as `fetch` places those of the web
    answers = _named("fetched/{:05d}.parquet")  # of a part's number: candidates, with what came of each
    judged = _named("pictures/{0.number:05d}-{0.answers}.parquet")  # of a part: candidates, with their end, scores and hashes
    embeddings = _named("embedded/{0.number:05d}-{0.answers}.npy")  # of a part: vectors of the pictures that were not given up
    benchmark = _named("benchmarks/{}.parquet")  # of a table's name: hashes of a benchmark's pictures
    shard_pairs = _named("final/{}/{}-{:06d}.parquet")  # of a plan, a split and a number: pairs of one shard

    def note(self, picture: Path) -> str:
        """Write down where a picture is: from `work` on, so that the data set can be moved, or in full where it is elsewhere."""
        inside = picture.is_relative_to(self.work)
        return picture.relative_to(self.work).as_posix() if inside else str(picture.resolve())

    def kept_pictures(self, sha256: str) -> list[Path]:
        """All files of a picture, but for those in a cache of several builds."""
        return list(self.work.glob(f"*/images/{sha256[:2]}/{sha256}*"))

    def tables(self) -> list[Path]:
        """All working files with addresses or texts of candidates."""
        return [path for path in self.work.rglob("*.parquet") if path.parent != self.work / "benchmarks"]


@contextlib.contextmanager
def parquet(path: Path, schema: pa.Schema, counts: Mapping[str, int] | None = None) -> Iterator[Callable[[pa.Table], None]]:
    """Write a parquet file batch by batch; `counts` go into its metadata, as they are at the end."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        yield writer.write_table
        if counts is not None:
            writer.add_key_value_metadata({"counts": json.dumps(counts)})


def write_frame(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet, in one step."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)
