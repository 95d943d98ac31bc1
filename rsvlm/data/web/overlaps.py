"""What a data set from the web has in common with benchmarks, and so must not hold."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from rsvlm.data import benchmarks, duplicates, picture_details, reading, tables as listings
from rsvlm.data.web.paths import Files
from rsvlm.errors import DataError

log = logging.getLogger(__name__)

HASHES = [f"hash_{number}" for number in range(duplicates.TURNS)]


def overlaps(
    files: Files, pairs: Callable[[], Iterable[pd.DataFrame]], tables: dict[str, str], distance: int
) -> dict[str, list[dict]]:
    """Return what each pair has in common with which benchmark, by key.

    Args:
        files: Files of the build.
        pairs: A function that gives the tables of all pairs, from the first on, with the hashes of their pictures.
        tables: Names of the hash tables of benchmarks, by their folders.
        distance: Bits in which the hashes of one picture differ at most.
    """
    rows: dict[str, list[dict]] = {}
    for folder, name in tables.items():
        theirs = duplicates.load_or_hash(files.benchmark(name), name, duplicates.pictures(Path(folder)))
        theirs = pd.concat([theirs, _benchmark_texts(Path(folder))], ignore_index=True)
        for ours in pairs():
            ours = ours.rename(columns={"sha256": "bytes_sha256", "clean": "text"})
            if not len(ours):
                continue
            addresses = dict(zip(ours["key"], ours["url"], strict=True))
            shared = duplicates.overlap(ours.assign(hash=ours["hash_0"]), theirs, benchmarks.name(folder), distance)
            for row in shared.to_dict("records"):
                rows.setdefault(row["key"], []).append({"key": row["key"], "url": addresses[row["key"]]} | row)
    return dict(sorted(rows.items()))


def benchmark_table(folder: Path) -> str:
    """Name the table of a benchmark's hashes; a folder that is not there is a DataError."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: --benchmarks takes folders of pictures, loose or in tar files")
    return duplicates.table_name(benchmarks.name(folder), benchmarks.fingerprint(folder))


def _benchmark_texts(folder: Path) -> pd.DataFrame:
    """The captions of a benchmark in a known layout, as rows of a hash table without pictures; a folder of bare pictures has none."""
    rows = []
    try:
        splits = reading.splits(folder) if listings.has_shards(folder) else []
        for path in [] if splits else reading.visible(folder, "*.json"):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                splits += sorted({str(row["split"]) for row in json.loads(path.read_bytes())["images"]})
        for split in splits:
            rows += [(sample.key, "\n".join(sample.captions)) for sample in benchmarks.samples(folder, split)]
    except DataError as error:
        log.warning("%s: its texts are not looked for (%s)", folder, error)
    table = pd.DataFrame(rows, columns=["key", "text"]).astype(object)
    empty = {"bytes_sha256": "", "pixels_sha256": "", "contrast": 0.0, "pixels": 0, "hash": np.uint64(0)}
    return table.assign(**empty, **dict.fromkeys(HASHES, np.uint64(0)), **{picture_details.COLUMN: b""})
