"""Data sets from anybody's imagery and map: one request in, audited shards out.

A build lays chips over the imagery, keeps apart what must be apart (cells held back for testing, footprints and pictures of
benchmarks), and cuts the rest into tasks of one shard each. Whoever works on a task (`make`) describes its chips from the map,
reads their pixels, has them captioned, audits the captions and returns samples, so a thousand workers write the same bytes as
one. Whatever is left out on the way is counted in `funnel.json` and written down with its reason in `rejected.jsonl`.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rsvlm.data import benchmarks, duplicates, shards, workers as engines
from rsvlm.data.captions import asking, audit, clients, prompts
from rsvlm.data.imagery import ground, sources as imagery
from rsvlm.data.landmarks import describe, splits
from rsvlm.data.maps import features as maps, taxonomy
from rsvlm.errors import ConfigError, DataError, RsvlmError, need
from rsvlm.model import images
from rsvlm.records import stages, text

shapely = need("shapely", "data")

if TYPE_CHECKING:
    from rsvlm import config

log = logging.getLogger(__name__)

ROOMS = ("data/landmarks", "data/imagery", "data/maps", "data/captions", "data/*", "model/images")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

NAME = "rs-landmarks"
STAGES = ("turned", "footprints", "split", "sample", "landmarks", "imagery", "benchmarks", "captions", "audit", "shard")
_EDGES = ["west", "south", "east", "north"]
_SOURCE_FIELDS = ("name", "file", "kind", "licence", "attribution", "fingerprint", "bbox_lonlat")
_AT_ONCE = 64  # pictures in memory before they are encoded


@dataclass(frozen=True)
class Work:
    """What a worker needs beside its chips; small, and sent along with every task."""

    folder: str  # folder of what all workers share: the map's features, hashes of benchmark pictures
    features: str  # fingerprint of those features
    cache: str  # folder of the captions that were paid for
    captioner: config.Captioner  # who writes captions, with this worker's part of the requests that may be on their way
    seed: int  # of the grammar's choices
    min_landmarks: int  # chips with fewer visible landmarks are dropped
    benchmarks: tuple[str, ...] = ()  # tables of hashes, in that folder, of pictures that no chip may look like


# The whole, and one task of it


def build(
    where: str,
    map_paths: Sequence[str],
    options: config.Config,
    out: Path | str,
    *,
    exclude: Sequence[str | Path] = (),
    benchmark_folders: Sequence[str | Path] = (),
    cache: Path | str | None = None,
    licence: str = "",
    attribution: str = "",
    engine: str = "local",
    workers: int = 0,
    progress: bool = True,
) -> dict:
    """Make a data set of chips captioned from the landmarks on a map; go on with it where a stopped build left it.

    Args:
        where: Imagery, as `sources.open_imagery` takes it: a file, URL, folder of rasters or of tiles, MBTiles, STAC JSON.
        map_paths: Maps, as `features.read` takes them; at least one.
        options: `chips`, `captioner` and `seed` of them.
        out: Folder to fill; made when missing. Its `.work` keeps what workers share.
        exclude: Files of footprints to keep out, see `excluded`.
        benchmark_folders: Benchmarks; chips that look like their pictures, however turned, are left out.
        cache: Folder of captions that were paid for. If None, `OUT.captions` beside the data, so that whoever deletes a data
            set does not pay for its captions again.
        licence: Licence of the imagery, where it does not say so itself or says it wrongly.
        attribution: Attribution of the imagery, likewise.
        engine: Name of what runs the workers, `local` or `ray`, see `workers.run`.
        workers: Number of processes; 0: one per core.
        progress: Whether a bar is shown.

    Returns:
        The manifest, see `shards.write`.

    Raises:
        DataError: Imagery or map cannot be read, nothing is left to write, or the folder holds something else.
        ConfigError: An option is out of range, or the key of the caption server is missing.
        MissingExtraError: A package of the extra `data`, `llm` or `scale` is not installed.
        RsvlmError: The budget for captions is used up; what was paid for is kept, and the same command goes on.
    """
    if not map_paths:
        raise DataError("a build needs a map: give --map PATH once or more")
    chosen = options.captioner
    if chosen.kind == "grammar" and chosen.language != "en":
        raise ConfigError(f"captioner.language={chosen.language}: the grammar writes English; choose another captioner for it")
    out = Path(out)
    # An unknown engine, a missing key and a budget without prices stop here, before any work.
    engines.run(make, (), engine, workers)
    identity = clients.open_captioner(chosen, options.seed).identity
    asking.Budget.of(chosen)
    # Lay out the chips.
    stated = {name: words for name, words in (("licence", licence), ("attribution", attribution)) if words}
    sources = [replace(source, **stated) for source in imagery.open_imagery(where, options.chips)]
    features = maps.needed(maps.read(map_paths, _bounds(sources)), map_paths)
    points = _points(features) if options.chips.place == "landmark" else None
    chips, notes = imagery.lay_out(sources, options.chips, points)
    share = ground.covered(sources, chips)[0] if options.chips.place == "grid" else None
    chips, before = splits.select(chips, options, exclude, ground.outlines(sources, chips))
    if not len(chips):
        raise DataError(f"no chip is left of {where}: {_commonest(before)}")
    # Name what the bytes depend on: where it is all there, the build is done.
    folder = out / ".work"
    tables = [benchmark_table(path) for path in benchmark_folders]
    fingerprint = maps.fingerprint(features)
    plan = _plan(chips, sources, fingerprint, options, identity, tables)
    if (finished := shards.finished(out, plan)) is not None:
        return check_not_empty(finished, where)
    # Save what workers share; the limit of requests is one for all of them together.
    for path, name in zip(benchmark_folders, tables, strict=True):
        duplicates.load_or_hash(folder / f"{name}.parquet", name, duplicates.pictures(Path(path)))
    maps.save(features, folder)
    at_once = max(1, chosen.concurrency // (workers or engines.cores()))
    chosen = chosen.model_copy(update={"concurrency": at_once})
    paid = str(cache or out.with_name(f"{out.name}.captions"))
    work = Work(str(folder), fingerprint, paid, chosen, options.seed, options.chips.min_landmarks, tuple(tables))
    # Do the tasks.
    notes = [*map(_note_line, notes), *splits.thin(chips, options.chips), *_edges_line(share, options.chips)]
    for note in notes:
        log.warning("%s", note)
    header = {
        "name": NAME,
        "seed": options.seed,
        "options": options.chips.model_dump(mode="json"),
        "captioner": identity,
        "sources": [{name: getattr(source, name) for name in _SOURCE_FIELDS} | source.meaning for source in sources],
        "ground_under_chips": None if share is None else round(share, 4),
        "map": {"features": len(features.table), "counts": dict(features.counts)},
        "notes": notes,
    }
    tasks = list(cut(chips, sources, options.chips.samples_per_shard))
    del features  # workers read what was saved
    doing = functools.partial(make, work)
    made = shards.write(out, plan, tasks, doing, engine, workers, progress, header=header, stages=STAGES, before=before)
    return check_not_empty(made, where)


def check_not_empty(manifest: dict, where: str) -> dict:
    """Return the manifest of a data set of what lies at `where`.

    Raises:
        DataError: Nothing is in it; the error says what took everything.
    """
    if not any(entry["samples"] for entry in manifest["splits"].values()):
        taken = Counter()
        for row in manifest["funnel"]:
            taken.update({f"({row['stage']}): {reason}": n for reason, n in row["reasons"].items()})
        reasons = "; ".join(f"{n:,} chips {reason}" for reason, n in taken.most_common(5)) or "there were none"
        notes = [note for note in manifest.get("notes") or () if not note.startswith(splits.THIN)]  # no split has any
        told = f"; {'; '.join(notes)}" if notes else ""
        hint = "" if manifest["map"]["features"] else "; the map has nothing where the imagery lies"
        if hint and any(source["kind"] != "raster" for source in manifest["sources"]):
            hint += " (chips.tile_rows decides which way rows of tiles count)"
        raise DataError(f"no chip of {where} was kept: {reasons}{hint}{told}")
    return manifest


def funnel_lines(manifest: dict) -> list[str]:
    """Say in lines what a build kept of how many chips, and how many each reason took."""
    kept = sum(entry["samples"] for entry in manifest["splits"].values())
    rejected = sum(row["rejected"] for row in manifest["funnel"])
    lines = [f"chips: {kept + rejected:,} = {kept:,} kept + {rejected:,} rejected"]
    taken: Counter = Counter()
    for row in manifest["funnel"]:
        taken.update({(row["stage"], reason): n for reason, n in row["reasons"].items()})
    return lines + [f"  {n:,} chips ({stage}): {reason}" for (stage, reason), n in taken.most_common()]


def _edges_line(share: float | None, options: config.Chips) -> list[str]:
    """Say how much of the ground lies under chips, where that is not nearly all."""
    if share is None or share > 0.99 or options.stride > 1:
        return []
    way = "smaller chips leave less over" if options.cover_edges else "chips.cover_edges=true puts a last chip there"
    return [f"chips lie on {100 * share:.0f} % of the ground of the imagery, the rest is left over at edges: {way}"]


def cut(chips: pd.DataFrame, sources: Sequence[imagery.Source], size: int) -> Iterator[shards.Task]:
    """Cut chips into tasks of one shard each, neighbours together, and give each the sources it reads."""
    named = {source.name: source for source in sources}
    for split in splits.SPLITS:
        part = chips[chips["split"] == split]
        for number, first in enumerate(range(0, len(part), size)):
            chosen = part.iloc[first : first + size].reset_index(drop=True)
            yield shards.Task(f"{split}/{number:06d}.tar", (chosen, [named[name] for name in chosen["source"].unique()]))


def make(work: Work, task: shards.Task) -> shards.Made:
    """Make the samples of one task; runs in a worker.

    Args:
        work: What all tasks share.
        task: Its items are a chip table and the sources that these chips are cut from.

    Returns:
        The samples in the order of the chips, and what was rejected.
    """
    chips, sources = task.items
    rejected: list[dict] = []
    records = {record["key"]: record for record in _describe(work, chips, sources, rejected)}
    chips = chips[chips["key"].isin(records.keys())]
    pictures: dict[str, bytes] = {}

    def requests() -> Iterator[prompts.Request]:
        for key, picture in _pictures(work, chips, sources, rejected):
            pictures[key] = picture
            yield prompts.Request(key, picture, records[key])

    def unanswered() -> list[str]:
        return [key for key, reply in replies.items() if reply.refused == "unavailable"]

    captioner = clients.open_captioner(work.captioner, work.seed)
    replies = dict(asking.caption_all(requests(), captioner, work.cache))
    again = [prompts.Request(key, pictures[key], records[key]) for key in unanswered()]
    replies |= dict(asking.caption_all(again, captioner, work.cache))
    if lost := unanswered():
        # Without them the shard would be taken for whole, and they would never be asked for again.
        others = f"chip {lost[0]} and {len(lost) - 1} others"
        raise RsvlmError(f"{others} got no captions from the server: run the same command later")
    samples, usage = [], Counter()
    for key, picture in pictures.items():
        usage.update(replies[key].usage)
        record = _captioned(records[key], replies[key], work.captioner, captioner.identity, rejected)
        if record is not None:
            samples.append((record, picture, "png"))
    return shards.Made(samples, rejected, Counter(), dict(usage))


def _describe(work: Work, chips: pd.DataFrame, sources: Sequence[imagery.Source], rejected: list[dict]) -> Iterator[dict]:
    """Give the records, without captions, of the chips in which enough can be seen."""
    features, index = _map(work.folder, work.features)
    named = {source.name: source for source in sources}
    least = work.min_landmarks
    outlines = ground.outlines(sources, chips)
    why = "no visible landmark" if least == 1 else f"fewer than {least} visible landmarks"
    marks_of_chips = describe.describe(features, index, chips, outlines)
    for chip, marks, outline in zip(chips.to_dict("records"), marks_of_chips, outlines, strict=True):
        visible = sum(mark["visible"] for mark in marks)
        if visible < least:
            hidden = Counter(mark["hidden_because"] for mark in marks if not mark["visible"]).most_common(1)
            reason = f"{why}: what there is is hidden ({hidden[0][0]})" if hidden and not visible else why
            rejected.append({"key": chip["key"], "stage": "landmarks", "reason": reason})
            continue
        source = named[chip["source"]]
        yield {
            "key": chip["key"],
            "split": chip["split"],
            "captions": [],
            "caption_kinds": [],
            "bbox_lonlat": [round(float(chip[edge]), 7) for edge in _EDGES],
            "outline_lonlat": outline.round(7).tolist(),
            "lon": round(float(chip["lon"]), 7),
            "lat": round(float(chip["lat"]), 7),
            "gsd_m": float(f"{chip['gsd_m']:.6g}"),
            "size_px": int(chip["size_px"]),
            "landmarks": marks,
            "relations": describe.relations(marks),
            "measurements": {
                "side_m": float(f"{chip['gsd_m'] * chip['size_px']:.6g}"),
                "visible": visible,
                "hidden": len(marks) - visible,
            },
            "licence": _joined([source.licence, *(mark["licence"] for mark in marks)]),
            "attribution": _joined([source.attribution, *(mark["attribution"] for mark in marks)]),
            "source": source.name,
        }


def _pictures(
    work: Work, chips: pd.DataFrame, sources: Sequence[imagery.Source], rejected: list[dict]
) -> Iterator[tuple[str, bytes]]:
    """Give the encoded pictures of chips that hold data and look like no benchmark, in the order of the chips."""

    def read() -> Iterator[tuple[str, np.ndarray]]:
        for source in sources:
            part = chips[chips["source"] == source.name]
            for key, (pixels, reason) in zip(part["key"], imagery.read(source, part), strict=True):
                if pixels is None:
                    rejected.append({"key": key, "stage": "imagery", "reason": reason})
                else:
                    yield key, pixels

    for batch in text.batched(read(), _AT_ONCE):
        alike = _lookalikes(work, batch) if work.benchmarks else {}
        for key, pixels in batch:
            if key in alike:
                rejected.append({"key": key, "stage": "benchmarks"} | alike[key])
            else:
                yield key, _png(pixels)


def _png(pixels: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 as PNG, every row as its difference from the one above.

    Other encoders weigh five filters for every row, which takes twice as long and makes pictures from above no smaller.
    """
    height, width, _ = pixels.shape
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 2
    flat = pixels.reshape(height, -1)
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")):
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
    return png


def _lookalikes(work: Work, batch: list[tuple[str, np.ndarray]]) -> dict[str, dict]:
    """Return what each chip that looks like a benchmark's picture looks like, by key."""
    lookalikes: dict[str, dict] = {}
    ours = duplicates.hash_table((key, b"", pixels, "") for key, pixels in batch)
    for name, table in _benchmark_tables(work.folder, work.benchmarks):
        for row in duplicates.overlap(ours, table, name).to_dict("records"):
            which = {"benchmark_key": row["benchmark_key"], "distance": row["distance"]}
            lookalikes.setdefault(row["key"], {"reason": f"looks like a picture of {name}"} | which)
    return lookalikes


def _captioned(
    record: dict, reply: prompts.Reply, options: config.Captioner, identity: dict, rejected: list[dict]
) -> dict | None:
    """Give the record with the captions that pass the audit; none where none does."""
    lost = {"key": record["key"], "stage": "captions"}
    if reply.captions is None:
        rejected.append(lost | {"reason": reply.refused})
        return None
    detect = None if options.language == "en" else audit.language_detector()
    verdict = audit.check(reply.captions, record, options.language, options.max_words, detect)
    rows = verdict.rows()
    rejected += [row | {"part": "caption"} for row in rows if row["status"] == "rejected"]
    captions = verdict.captions
    if not captions:
        rejected.append(lost | {"reason": "no caption passed the audit"})
        return None
    # What was repaired is told whole, since the caption no longer shows it.
    passed = [row for row in rows if row["status"] != "rejected"]
    audited = [row if row["status"] == "repaired" else {"kind": row["kind"], "status": row["status"]} for row in passed]
    written = {"captions": list(captions.values()), "caption_kinds": list(captions), "captioner": identity}
    return record | written | {"audit": audited}


def _joined(texts: Iterable[str | None]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


@functools.lru_cache(1)
def _map(folder: str, fingerprint: str) -> tuple[maps.Features, describe.Index]:
    # The fingerprint is part of the arguments so that another map in the same folder is read anew.
    features = maps.load(folder)
    return features, describe.index(features)


def _points(features: maps.Features) -> np.ndarray:
    """Return (N, 2) longitudes and latitudes inside the features that a picture from above can show."""
    shown = {name for name, category in taxonomy.taxonomy().items() if category.visible_from_above}
    seen = features.table["category"].isin(shown).to_numpy()
    return shapely.get_coordinates(shapely.point_on_surface(features.geometry[seen]))


# Pictures that stay out


def benchmark_table(folder: str | Path) -> str:
    """Name the table of a benchmark's hashes; a folder that is not there is a DataError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: --benchmarks takes folders of pictures, loose or in tar files")
    return duplicates.table_name(benchmarks.name(folder), benchmarks.fingerprint(folder))


@functools.lru_cache(1)
def _benchmark_tables(folder: str, names: tuple[str, ...]) -> list[tuple[str, pd.DataFrame]]:
    return [(name.rpartition("-")[0], pd.read_parquet(Path(folder) / f"{name}.parquet")) for name in names]


# What a build is made of, and what it has made


def _plan(chips: pd.DataFrame, sources: Sequence, features: str, options: config.Config, identity: dict, tables: list) -> str:
    """Hash everything that the bytes of the data set depend on."""
    chosen = options.captioner
    return stages.key(
        chips=hashlib.sha256(pd.util.hash_pandas_object(chips, index=False).to_numpy().tobytes()).hexdigest(),
        options=options.chips.model_dump(mode="json", exclude={"allow_loopback"}),
        sources=[[source.name, source.fingerprint, source.licence, source.attribution, source.meaning] for source in sources],
        map=features,
        captioner=identity,
        audit=[chosen.language, chosen.max_words],
        looks=sorted(tables),
        code=stages.source_hash(*ROOMS),
        packages={name: metadata.version(name) for name in ("Pillow", "h3", "numpy", "pyproj", "rasterio", "shapely")},
        zlib=zlib.ZLIB_RUNTIME_VERSION,
    )


def _bounds(sources: Sequence[imagery.Source]) -> tuple[float, float, float, float]:
    """Return the smallest box around all sources; its east may lie beyond 180 degrees."""
    wests, souths, easts, norths = np.array([source.bbox_lonlat for source in sources], float).T
    turns = (0.0, np.where(wests < 0, 360.0, 0.0))
    spans = [(float((wests + turn).min()), float((easts + turn).max())) for turn in turns]
    west, east = min(spans, key=lambda span: span[1] - span[0])
    turn = 360.0 * np.floor((west + 180.0) / 360.0)
    west, east = (west - turn, east - turn) if east - west < 360 else (-180.0, 180.0)
    return west, float(souths.min()), east, float(norths.max())


def _note_line(note: dict) -> str:
    """Say in one line what was left out on the way to a layout."""
    examples = ", ".join(map(str, note["examples"][:3]))
    return f"{note['source'] or 'imagery'}: {note['reason']} ({note['count']}{f', as {examples}' if examples else ''})"


def _commonest(before: Sequence[dict]) -> str:
    counts: Counter = Counter()
    for row in before:
        counts[row["reason"]] += row.get("n", 1)
    return "; ".join(f"{n} {reason}" for reason, n in counts.most_common(3)) or "the imagery holds none of this size"


def look(folder: Path | str, keys: Sequence[str] = (), count: int = 24, seed: int = 0) -> list[dict]:
    """Read chips of a finished data set, to look at.

    Args:
        folder: A data folder.
        keys: Keys of the chips. If empty, a sample is read.
        count: Size of the sample.
        seed: Seed of the sample.

    Returns:
        `{"record", "image"}` per chip, the image (H, W, 3) uint8; in the order of the keys given, else of the sample's.

    Raises:
        DataError: The folder is no finished data set, or it has no such key.
    """
    wanted = set(keys)
    full = [split for split, entry in shards.manifest(folder)["splits"].items() if entry["shards"]]
    samples = (sample for split in full for sample in shards.stream(folder, split) if not wanted or sample.key in wanted)
    samples = text.sample(samples, len(wanted) or count, seed, key=lambda sample: sample.key)
    if missing := sorted(wanted - {sample.key for sample in samples}):
        raise DataError(f"{folder} has no chip '{missing[0]}': keys are the names of the members of its tar files")
    if keys:
        samples.sort(key=lambda sample: list(keys).index(sample.key))
    return [{"record": {"captions": one.captions} | one.record, "image": images.decode(one.image)} for one in samples]
