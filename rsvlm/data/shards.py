"""Shards: pictures with captions as WebDataset tar files, and the writer that any number of workers share.

Layout of a data folder:

    manifest.json       what is inside, how it was made, and the hash of every shard; written last
    funnel.json         how many items each stage kept, and how many it rejected for which reason
    rejected.jsonl      one line per rejected item: its key, stage and reason
    train/000000.tar    members {key}.json and {key}.png (or .jpg, .webp)
    val/...  test/...
    .tasks/             what each shard's maker reported; read when a build is taken up again

Every file is written under a temporary name and renamed when whole. A build that was stopped goes on where it was: shards that
are whole are kept, and the bytes of the result depend neither on how often it was stopped nor on how many made it.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import io
import json
import logging
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from rsvlm.data import workers as engines
from rsvlm.data.reading import (
    IMAGE_TYPES,
    SCHEMA,
    BrokenSample,
    Sample as Sample,  # readers find everything about shards here
    count as count,
    manifest,
    read_manifest,
    read_shard,
    records as records,
    stream as stream,
)
from rsvlm.errors import DataError
from rsvlm.records import files

log = logging.getLogger(__name__)

_FILE = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9_.-]*[A-Za-z0-9_-]\.tar")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")  # longer names do not fit into every tar header
_MOST_TEXTS = 50  # licences and attributions in a manifest


@dataclass(frozen=True)
class Task:
    """One shard to make.

    Attributes:
        file: Where it goes, `{split}/{name}.tar`; the split is what the folder is called.
        items: Whatever its maker needs, picklable; small, since it is sent to another process.
    """

    file: str
    items: object


@dataclass(frozen=True)
class Made:
    """What became of a task's items.

    Attributes:
        samples: Record, encoded picture and its extension (`png`, `jpg`, `jpeg`, `webp`), in the order of writing. A record has a
            `key` of letters, digits, `_` and `-`, unlike all others, and should have `licence` and `attribution`.
        rejected: One dictionary per rejected item, with at least `stage` and `reason`. With `n` it stands for that many items. With
            `part` (what was rejected: `caption`) it tells of a sample that was kept nevertheless.
        counts: Anything else that is worth counting, summed over all tasks.
        usage: Numbers that something cost (requests, tokens, currency), summed over all tasks. Count what was answered from a
            cache like the rest, so that the sums do not depend on how often the build was stopped.
    """

    samples: list[tuple[dict, bytes, str]]
    rejected: list[dict] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=collections.Counter)
    usage: Mapping[str, float] = field(default_factory=dict)


def write(
    out: Path | str,
    plan: str,
    tasks: Iterable[Task],
    work: Callable[[Task], Made],
    engine: str = "local",
    workers: int = 0,
    progress: bool = True,
    *,
    header: Mapping[str, object] | None = None,
    stages: Sequence[str] = (),
    before: Iterable[Mapping] = (),
    finish: Callable[[dict], Sequence[str]] | None = None,
) -> dict:
    """Have every task made into a shard, and sum up; go on where a stopped build left it.

    Whoever makes a shard also writes it, so that only its hash travels. Memory holds one task's samples per worker, and
    their tar file.

    Args:
        out: Folder to fill; made when missing. With an engine that uses other machines, a folder that they all see.
        plan: Hash of everything that the bytes depend on: options, sources, code.
        tasks: Tasks for the shards, each with another file; the same ones for the same plan.
        work: Function that makes one task; see `workers.run` for what it may be.
        engine: `local` or `ray`.
        workers: Number of processes, as in `workers.run`: 0 is one per core, 1 is this process.
        progress: Whether to show a bar.
        header: Further entries of the manifest: name, options, seed, sources.
        stages: Names of the stages that items pass, in the order in which the funnel lists them.
        before: Items rejected before there were tasks, as in `Made.rejected`, with `split` where they had one. Read once, late.
        finish: Function that gets the manifest when all shards are there and the manifest is not; it may write more files into
            the folder and returns their names.

    Returns:
        The manifest: `schema plan splits` (see `manifest`), what the header gave, `funnel` (rows of `split stage in kept rejected
        reason reasons`, where in = kept + rejected, kept is what the next stage gets, and the split `all` stands for items that
        had none yet), `rejected_counts` and `part_counts` (stage → reason → number), `counts`, `usage`, `licences` and
        `attributions` (text → samples; the commonest), and `files`.

    Raises:
        DataError: The folder holds shards of another plan or of somebody else, a file or key is no name or is there twice, or
            the disk is full.
        ConfigError, MissingExtraError: As `workers.run`.
    """
    out = Path(out)
    if (content := finished(out, plan)) is not None:
        return content
    with _writing(out):
        files.write_atomic(out / ".tasks" / "plan", plan)
        # From here on the folder is unfinished; what the tasks reported says which shards are whole.
        (out / "manifest.json").unlink(missing_ok=True)
        for leftover in [*out.glob(".*.partial"), *out.glob("*/.*.partial"), *out.glob(".tasks/*/.*.partial")]:
            leftover.unlink(missing_ok=True)
    names: dict[str, None] = {}

    def checked() -> Iterator[Task]:
        for task in tasks:
            if not _FILE.fullmatch(task.file) or task.file in names:
                raise DataError(f"'{task.file}' cannot name a shard: give each another split/name.tar of letters and digits")
            names[task.file] = None
            yield task

    make = functools.partial(_make, out, plan, work)
    total = len(tasks) if isinstance(tasks, Sequence) else None
    with tqdm(total=total, unit="shard", desc="shards", disable=not progress) as bar:
        samples = 0
        for count in engines.run(make, checked(), engine, workers):
            samples += count
            bar.update()
            bar.set_postfix(samples=samples, refresh=False)
    with _writing(out):
        content = _sum_up(out, plan, list(names), dict(header or {}), stages, before)
        content["files"] = ["funnel.json", "rejected.jsonl", *(finish(content) if finish else ())]
        files.write_atomic(out / "manifest.json", json.dumps(content, indent=1) + "\n")
    return content


def finished(out: Path | str, plan: str) -> dict | None:
    """Return the manifest where `write` with this plan has nothing left to do in a folder, perhaps missing or empty; None where it has.

    Reads all bytes of a data set that is there.

    Raises:
        DataError: The folder holds shards of another plan or of somebody else, or samples were removed from it and it is broken.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: give the folder that the shards shall go into")
    content = read_manifest(out)
    ours = {shard["file"] for entry in content["splits"].values() for shard in entry["shards"]} if content else set()
    if content:  # a removal that was stopped leaves files behind, until it is called again
        ours |= {_next_file(file) for file in ours} | set(content.get("replaced", ()))
    plans = {content["plan"]} if content else set()
    with contextlib.suppress(OSError):
        plans.add((out / ".tasks" / "plan").read_text(encoding="utf-8", errors="replace"))
    if plans - {plan}:
        raise DataError(f"{out} holds a data set of other options, sources or code: choose an empty folder, or delete it")
    for path in [*out.glob("*/*.tar"), *out.glob("*.tar")]:
        file = path.relative_to(out).as_posix()
        if file not in ours and not _report_path(out, file).is_file():
            raise DataError(f"{path} was not written by this build: choose an empty folder instead of {out}")
    if content is None:
        return None
    try:
        manifest(out, verify=True)
        if missing := [name for name in content.get("files", ()) if not (out / name).is_file()]:
            raise DataError(f"{out / missing[0]} is missing")
    except DataError as error:
        if content.get("rewritten"):
            mend = f"samples were removed from {out}, so it is not mended: build it into a new folder"
            raise DataError(f"{error}; {mend}") from error
        log.warning("%s; rebuilding what is broken", error)
        return None
    return content


def rewrite(
    folder: Path | str,
    keep: Callable[[dict], bool],
    reason: str = "removed",
    finish: Callable[[dict], Sequence[str]] | None = None,
) -> dict:
    """Take samples out of a finished data set, for good; shards without any of them stay as they are.

    A shard that changes gets another name (`000000.1.tar` after `000000.tar`), so that manifest and shards fit at every moment;
    the old file is deleted afterwards. When this is stopped, calling it again completes it. Files that `finish` wrote when the
    data set was built go too, unless this `finish` writes them anew: they may tell of what was taken out. `keep` says of a sample's
    record whether it stays; the funnel gives the reason under the stage `removal`.

    Returns:
        The manifest, with `rewritten` set: `write` does not mend such a folder, since that would bring samples back.

    Raises:
        DataError: The data set is unfinished or broken, or the disk is full.
    """
    folder = Path(folder)
    content = manifest(folder, verify=True)
    stale = set(content.get("replaced", ()))
    sums = {"licences": collections.Counter(), "attributions": collections.Counter()}
    splits: dict[str, dict] = {}
    rows: list[dict] = []
    with _writing(folder):
        for split, entry in content["splits"].items():
            shards = [rest for shard in entry["shards"] if (rest := _without(folder, shard, keep, sums)) is not None]
            # One of these names is this run's; the other may be there from a run that was stopped.
            stale |= {name for shard in entry["shards"] for name in (shard["file"], _next_file(shard["file"]))}
            splits[split] = {"samples": sum(shard["samples"] for shard in shards), "shards": shards}
            if removed := entry["samples"] - splits[split]["samples"]:
                rows.append(_funnel_row(split, "removal", splits[split]["samples"], {reason: removed}))
        if rows:
            stale |= set(content.get("files", []))
            content |= {"splits": splits, "funnel": [*content.get("funnel", []), *rows], "rewritten": True}
            content |= {name: _commonest(counts) for name, counts in sums.items()}
            content["files"] = ["funnel.json", "rejected.jsonl", *(finish(content) if finish else ())]
            content["replaced"] = sorted(stale)
            files.write_atomic(folder / "manifest.json", json.dumps(content, indent=1) + "\n")
        # From here on also what a run that was stopped did not come to.
        _write_funnel(folder, content)
        wanted = {shard["file"] for entry in splits.values() for shard in entry["shards"]} | set(content.get("files", ()))
        for file in stale - wanted:
            (folder / file).unlink(missing_ok=True)
        if content.get("rewritten"):
            shutil.rmtree(folder / ".tasks", ignore_errors=True)
    return content


def pack(samples: Iterable[tuple[dict, bytes, str]], rejected: list[dict]) -> tuple[list[dict], bytes]:
    """Put samples, as in `Made`, into a tar file; equal samples give equal bytes.

    To `rejected` are added those whose record is no JSON text (lone surrogates, infinities), as in `Made.rejected`.

    Returns:
        The records written, and the tar file.

    Raises:
        DataError: A key that is no name or is there twice, or an extension that the reader does not know.
    """
    records: dict[str, dict] = {}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for record, picture, extension in samples:
            key = record.get("key")
            if not isinstance(key, str) or not _KEY.fullmatch(key) or key in records:
                rule = "keys are 1 to 90 letters, digits, '_' and '-', each there once"
                raise DataError(f"'{key}' cannot name a sample: {rule}")
            if extension not in IMAGE_TYPES:
                raise DataError(f"sample {key} has a picture of type '{extension}': write {', '.join(IMAGE_TYPES)}")
            try:
                text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
            except ValueError:
                rejected.append({"key": key, "stage": "shard", "reason": "record is no JSON text"})
                continue
            _add(archive, f"{key}.json", text)
            _add(archive, f"{key}.{extension}", picture)
            records[key] = record
    return list(records.values()), buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    # TarInfo's own defaults are time 0 and owner 0, so equal samples give equal bytes.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _make(out: Path, plan: str, work: Callable[[Task], Made], task: Task) -> int:
    """Make one shard unless it is there; runs in a worker. Returns its number of samples."""
    report = _read_report(out, task.file, plan)
    if report is not None and (shard := report["shard"]) is None:
        return 0
    if report is not None and (out / task.file).is_file() and files.file_sha256(out / task.file) == shard["sha256"]:
        return shard["samples"]
    made = work(task)
    rejected = list(made.rejected)
    records, data = pack(made.samples, rejected)
    report = {"plan": plan, "shard": _entry(task.file, len(records), data) if records else None, "rejected": rejected}
    report |= {"counts": dict(made.counts), "usage": dict(made.usage), **_licences(records)}
    with _writing(out):
        # The report goes first: a shard without one would look like somebody else's.
        files.write_atomic(_report_path(out, task.file), _line(report))
        if records:
            files.write_atomic(out / task.file, data)
    return len(records)


def _entry(file: str, samples: int, data: bytes) -> dict:
    return {"file": file, "samples": samples, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _line(content: Mapping) -> bytes:
    # A lone surrogate becomes its escape, which is JSON again.
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _report_path(out: Path, file: str) -> Path:
    return out / ".tasks" / f"{file}.json"


def _read_report(out: Path, file: str, plan: str) -> dict | None:
    try:
        report = json.loads(_report_path(out, file).read_bytes())
        return report if report["plan"] == plan else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"writing to {out} failed ({error}): make room or choose another folder, then run again") from error


def _sum_up(out: Path, plan: str, names: list[str], header: dict, stages: Sequence[str], before: Iterable[Mapping]) -> dict:
    """Merge what the tasks reported, one at a time, and write rejected.jsonl and funnel.json; return the manifest."""
    splits: dict[str, dict] = {file.partition("/")[0]: {"samples": 0, "shards": []} for file in names}
    lost: collections.Counter = collections.Counter()  # (split, stage, reason) → items
    parts: collections.Counter = collections.Counter()
    sums = {name: collections.Counter() for name in ("counts", "usage", "licences", "attributions")}
    with files.replacing(out / "rejected.jsonl") as temporary, open(temporary, "wb") as lines:
        for line in before:
            _tally(line, str(line.get("split") or "all"), lost, parts)
            lines.write(_line(line))
        for file in names:
            split, report = file.partition("/")[0], _read_report(out, file, plan)
            if report is None:
                raise DataError(f"{_report_path(out, file)} has gone since its shard was made: run the build again")
            if report["shard"] is not None:
                splits[split]["shards"].append(report["shard"])
                splits[split]["samples"] += report["shard"]["samples"]
            for line in report["rejected"]:
                _tally(line, split, lost, parts)
                lines.write(_line({"shard": file} | line))
            for name, counter in sums.items():
                counter.update(report[name])
    content = {"schema": SCHEMA, "plan": plan} | header | {"splits": splits, "funnel": _funnel(splits, lost, stages)}
    content |= {"rejected_counts": _by_stage(lost), "part_counts": _by_stage(parts)}
    content |= {name: dict(sorted(sums[name].items())) for name in ("counts", "usage")}
    content |= {name: _commonest(sums[name]) for name in ("licences", "attributions")}
    _write_funnel(out, content)
    return content


def _tally(line: Mapping, split: str, lost: collections.Counter, parts: collections.Counter) -> None:
    target = parts if line.get("part") else lost
    target[split, line["stage"], line["reason"]] += line.get("n", 1)


def _by_stage(counts: collections.Counter) -> dict[str, dict[str, int]]:
    stages: dict[str, collections.Counter] = {}
    for (_, stage, reason), n in sorted(counts.items()):
        stages.setdefault(stage, collections.Counter())[reason] += n
    return {stage: dict(reasons) for stage, reasons in stages.items()}


def _funnel(splits: dict[str, dict], lost: collections.Counter, stages: Sequence[str]) -> list[dict]:
    seen = {stage for _, stage, _ in lost}
    order = [stage for stage in stages if stage in seen] + sorted(seen - set(stages))
    names = [*splits, *sorted({split for split, _, _ in lost} - {*splits, "all"})]
    rows: list[dict] = []
    total = 0
    for split in [*names, "all"]:
        # Backwards: what the last stage kept is there to be counted.
        kept = splits.get(split, {"samples": 0})["samples"] if split != "all" else total
        chain = []
        for stage in reversed(order):
            reasons = {reason: n for (where, what, reason), n in sorted(lost.items()) if (where, what) == (split, stage)}
            if reasons:
                chain.append(_funnel_row(split, stage, kept, reasons))
                kept = chain[-1]["in"]
        rows = chain[::-1] + rows if split == "all" else rows + chain[::-1]
        total += kept
    return rows


def _funnel_row(split: str, stage: str, kept: int, reasons: dict[str, int]) -> dict:
    rejected = sum(reasons.values())
    row = {"split": split, "stage": stage, "in": kept + rejected, "kept": kept, "rejected": rejected}
    return row | {"reason": "; ".join(reasons), "reasons": reasons}


def _write_funnel(out: Path, content: Mapping) -> None:
    rows = content.get("funnel", [])
    kept = sum(entry["samples"] for entry in content["splits"].values())
    rejected = sum(row["rejected"] for row in rows)
    funnel = {"in": kept + rejected, "kept": kept, "rejected": rejected, "rows": rows}
    funnel |= {name: content.get(name, {}) for name in ("rejected_counts", "part_counts", "counts", "usage")}
    files.write_atomic(out / "funnel.json", json.dumps(funnel, indent=1) + "\n")


def _licences(records: Iterable[dict]) -> dict[str, dict[str, int]]:
    licences, attributions = collections.Counter(), collections.Counter()
    for record in records:
        licences[str(record.get("licence") or record.get("license") or "unknown")] += 1
        attributions[str(record.get("attribution") or "unknown")] += 1
    return {"licences": dict(licences), "attributions": dict(attributions)}


def _commonest(counts: collections.Counter) -> dict[str, int]:
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = {"(others)": sum(n for _, n in order[_MOST_TEXTS:])} if len(order) > _MOST_TEXTS else {}
    return dict(order[:_MOST_TEXTS]) | rest


def _without(folder: Path, shard: dict, keep: Callable[[dict], bool], sums: dict[str, collections.Counter]) -> dict | None:
    """Return a shard's entry after removals, written anew where there were any; None where nothing is left."""
    groups = [group for group in read_shard(folder / shard["file"], shard["samples"]) if not isinstance(group, BrokenSample)]
    rest = [(key, members, record) for key, members in groups if keep(record := json.loads(members["json"]))]
    for name, counts in _licences(record for *_, record in rest).items():
        sums[name].update(counts)
    if len(rest) == shard["samples"]:
        return shard
    if not rest:
        return None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for key, members, _ in rest:
            for extension, data in members.items():
                _add(archive, f"{key}.{extension}", data)
    file = _next_file(shard["file"])
    files.write_atomic(folder / file, buffer.getvalue())
    return _entry(file, len(rest), buffer.getvalue())


def _next_file(file: str) -> str:
    stem, _, number = file.removesuffix(".tar").partition(".")
    return f"{stem}.{int(number or 0) + 1}.tar"
