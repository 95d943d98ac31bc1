"""Parts of an index: some thousand chips of one source at one scale, embedded at once, by whichever process has time.

A part is named by everything that decides its vectors: the picture, what is shown of it, how chips are laid, and the model. So a part
that is done is never done again, whatever else comes into the archive or leaves it.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rsvlm.data.imagery import ground, sources as imagery, tile_mosaics
from rsvlm.data.imagery.chip_layout import Source
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder
from rsvlm.records import files, text
from rsvlm.search import index_files

CHIPS = 4096
"""Chips of a part: what a killed indexing may lose of each worker."""

_AHEAD = 3  # batches that are read while one is embedded
T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """How chips are laid at one scale: as the options of `config.Chips` of these names."""

    size_px: int
    size_m: float | None = None
    stride: float = 1.0
    min_valid_share: float = 0.5
    cover_edges: bool = True

    @property
    def name(self) -> str:
        """Name of the scale."""
        return f"{self.size_m:g} m" if self.size_m else f"{self.size_px} px"


@dataclass(frozen=True)
class Part:
    """Chips `start` to before `stop` of a source at one scale; `model` is the fingerprint."""

    source: Source
    look: Look
    start: int
    stop: int
    model: str

    @property
    def id(self) -> str:
        """Name of the part, by all that decides its vectors; what the source is called is not among it."""
        fields = asdict(self.source)
        for name in (
            "name",
            "path",
            "file",
            "bands_at",
            "licence",
            "attribution",
            "sketch",
            "notes",
            "guesses",
            "allow_loopback",
        ):
            del fields[name]
        said = [index_files.FORM, self.model, fields, asdict(self.look), self.start, self.stop]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


@lru_cache(2)
def lay_out(source: Source, look: Look) -> tuple[pd.DataFrame, list[dict]]:
    """Return the chips of a source, perhaps none, and notes on what is left out, as `sources.lay_out`."""
    return imagery.lay_out([source], index_files._options(**asdict(look)), empty_ok=True)


def plan(source: Source, look: Look, model: str) -> tuple[list[Part], list[dict]]:
    """Cut the chips of a source into parts; and the notes of `lay_out`."""
    chips, notes = lay_out(source, look)
    return [Part(source, look, start, min(start + CHIPS, len(chips)), model) for start in range(0, len(chips), CHIPS)], notes


def pixels_of_chips(source: Source, look: Look) -> float:
    """Return how many pixels of a source lie along the side of its chips, in the middle."""
    chips = lay_out(source, look)[0]
    return float(np.median(np.sqrt(chips["width_px"] * chips["height_px"])))


def embed_parts(parts: Iterable[Part], model: Encoder, folder: Path, batch_size: int) -> Iterator[tuple[Part, int]]:
    """Embed parts, and write each to a file of `folder`: `<id>.parquet`. Batches are read while others are embedded.

    Yields:
        The part and how many chips of it were worked on, batch by batch; the file is there before the last of a part.

    Raises:
        DataError: A source cannot be opened any more, or the model gives no numbers.
    """
    vectors: list[np.ndarray] = []
    good: list[int] = []
    skipped: Counter = Counter()
    for part, batch, is_last in ahead(_batches(parts, batch_size), _AHEAD):
        skipped.update(reason for _, _, reason in batch if reason)
        shown = [(row, pixels) for row, pixels, _ in batch if pixels is not None]
        if shown:
            good += [row for row, _ in shown]
            found = model.images([pixels for _, pixels in shown])
            vectors.append(embed.unit(found, f"chips of {part.source.name}").astype(np.float16))
        if is_last:
            _write(part, good, vectors, skipped, folder, model.width)
            vectors, good, skipped = [], [], Counter()
        yield part, len(batch)


def embed_part(part: Part, model: str, device: str, folder: str, batch_size: int) -> int:
    """Embed one part by a model of this name, in a process of its own: as `embed_parts`. Returns the number of its chips."""
    import torch

    torch.set_num_threads(1)
    for _ in embed_parts([part], _open_model(model, device), Path(folder), batch_size):
        pass
    return part.stop - part.start


@lru_cache(1)
def _open_model(model: str, device: str) -> Encoder:
    from rsvlm.model.others.opening import open_encoder

    return open_encoder(model, device)


def read_part(path: Path) -> tuple[pa.Table, dict[str, int]] | None:
    """Read what `embed_parts` wrote: the rows, and what was left out by reason; None where it is not there, or broken."""
    try:
        table = pq.read_table(path)
        return table, json.loads(table.schema.metadata[b"skipped"])
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
        return None


def named(table: pa.Table, source: Source) -> pa.Table:
    """Give rows the name of their source as it is now: it, the keys of chips and the files follow from what else there is."""
    chips = table.select(["key", "source", "left_px", "top_px", "width_px", "height_px"]).to_pandas()
    old = chips["source"].iloc[0]
    keys = [source.name + key[len(old) :] for key in chips["key"]]
    for name, values in (("key", keys), ("source", [source.name] * len(keys)), ("file", _files(source, chips))):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return table


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Yield items that a thread of their own makes, at most `count` before they are wanted."""
    made: queue.Queue = queue.Queue(count)
    over = threading.Event()

    def put(entry: tuple) -> bool:
        while not over.is_set():
            try:
                made.put(entry, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:  # raised where the items are used
            put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        over.set()
        thread.join()


def _batches(parts: Iterable[Part], size: int) -> Iterator[tuple[Part, list, bool]]:
    """Read parts: each with a batch of row, pixels or None, and reason or None; and whether it is the last of the part."""
    for part in parts:
        rows = lay_out(part.source, part.look)[0].iloc[part.start : part.stop]
        read = zip(range(len(rows)), imagery.read(part.source, rows))
        done = 0
        for batch in text.batched(((row, pixels, reason) for row, (pixels, reason) in read), size):
            done += len(batch)
            yield part, batch, done == len(rows)


def _write(part: Part, good: Sequence[int], vectors: Sequence[np.ndarray], skipped: Counter, folder: Path, width: int) -> None:
    chips = lay_out(part.source, part.look)[0].iloc[part.start : part.stop].iloc[list(good)].reset_index(drop=True)
    if len(chips):
        chips = chips.assign(scale=part.look.name, file=_files(part.source, chips))
        table = index_files.table_of(chips, ground.outlines([part.source], chips), np.concatenate(vectors))
    else:
        table = index_files.schema(width).empty_table()
    table = table.replace_schema_metadata({"skipped": json.dumps(dict(skipped))})
    with files.replacing(folder / f"{part.id}.parquet") as temporary:
        pq.write_table(table, temporary, compression=index_files.compression())


def _files(source: Source, chips: pd.DataFrame) -> list[str]:
    """Return the file of each chip, relative to the archive; of a mosaic the tile under the chip's middle, where that is a file."""
    if source.kind != "tiles":
        return [source.file] * len(chips)
    result = []
    for row in chips[["left_px", "top_px", "width_px", "height_px"]].itertuples():
        x, y = (int(v // source.tile_px) for v in (row.left_px + row.width_px / 2, row.top_px + row.height_px / 2))
        tile = tile_mosaics.file_of(source, x % (1 << source.zoom), y)
        root = source.file if source.file.endswith("/") else ""  # of one place of several
        result.append(root + tile if tile else source.file)
    return result
