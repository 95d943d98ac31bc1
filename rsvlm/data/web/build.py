"""From a crawl to audited shards of overhead pictures with their texts, as the paper did for its web data.

A build goes through `steps` that meet in files: candidates (`archives`), texts (`texts`), one text for each address, pictures from
the archives or the web (`fetch`), size and view from above (`overhead`), duplicates and benchmarks (`data.duplicates`), shards.
`paths` says where each file is. Whatever is left out is one line of `rejected.jsonl` with its stage and reason. Texts of the web are
data: kept, shown as text, never obeyed.

What decides the bytes, and so what is done again, is `_decisive`: its hash is the key of the build, and a folder with another key is
refused. Under one key only the answers of websites can change, where failures are asked for again: their hashes are in the names of
what is made of them. So a build that was stopped goes on, and another engine or number of workers gives the same bytes.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow.parquet as pq

from rsvlm.data import reading, shards, workers as engines
from rsvlm.data.web import archives, overhead, overlaps, pairs, removals, steps, texts
from rsvlm.data.web.paths import Files, Part, Source
from rsvlm.data.web.steps import SPLITS, Model
from rsvlm.errors import ConfigError, DataError
from rsvlm.records import stages
from rsvlm.records.files import file_sha256, write_atomic

if TYPE_CHECKING:
    from rsvlm import config

ROOMS = ("data/web", "data/*", "model/images", "model/others/efficientnet_lite")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

NAME = "rs-web"
_MAX_TEXT = 300  # characters of a text in rejected.jsonl


def build(
    inputs: Sequence[str | Path],
    options: config.Config,
    out: Path | str,
    *,
    head: overhead.Head | Path | str | None = None,
    benchmark_folders: Sequence[str | Path] = (),
    removed: Iterable[str] = (),
    columns: Mapping[str, str] | None = None,
    model: Model | None = None,
    cache: Path | str | None = None,
    engine: str = "local",
    workers: int = 0,
    progress: bool = True,
) -> dict:
    """Make a data set from crawls; go on with it where a stopped build left it.

    Pictures are fetched by this process alone, whatever the engine, so that a website meets one polite visitor. A pair goes to
    the split of its page's host. Pictures are encoded anew from their pixels, so nothing that hides in a file travels along.

    Args:
        inputs: WARC files, or tables of address and text, see `archives.inspect`. Pictures that a WARC file holds are not fetched.
        options: `web`, `fetch` (with `retry_failed` also a finished build asks again for what may have passed) and `seed`.
        out: Folder to fill; made when missing. With an engine that uses other machines, a folder that they all see.
        head: Overhead classifier: loaded, as `overhead.shipped()`, or the file of one from `rsvlm web train-filter`.
        benchmark_folders: Benchmarks whose pictures, however turned, and texts must not be in the data set.
        removed: Lines of a removal list, see `removals.read`: pictures, pages and hosts that stay out, and copies of such pictures.
        columns: Names of the columns `url`, `text` and `page` of tables. If None, they are looked for, see `tables.COLUMNS`.
        model: Model that scores pictures against texts, and finds near duplicates from `web.embedding_similarity` on. If None, there
            is no such score, and duplicates are found by hashes alone.
        cache: Folder of what was fetched, for several builds. If None, it is in `out`.
        engine: `local` or `ray`, see `workers.run`.
        workers: Number of processes, as in `workers.run`.
        progress: Show progress bars.

    Returns:
        The manifest, as from `shards.write`, with `name build seed options sources head benchmarks crawl notes
        unmatched_removals`.

    Raises:
        ConfigError: Options that contradict each other, or there is no head.
        DataError: An input is missing or of another form, the folder holds something else, or the disk is full.
        MissingExtraError: A package of the extra `data` is missing, or the one with the weights of the overhead filter.
    """
    # A request that cannot be met stops here, before anything is written.
    files = Files(Path(out), Path(cache) if cache else None)
    paths = [Path(path) for path in inputs]
    _check(files, paths, options.web, head, engine)
    columns = dict(columns or {})
    formats = [archives.inspect(path, columns)["format"] for path in paths]
    tables = {folder: overlaps.benchmark_table(Path(folder)) for folder in map(str, benchmark_folders)}
    unwanted = removals.read(removed)
    head = head if isinstance(head, overhead.Head) else overhead.load(Path(head))

    # What decides the bytes names the build; one that is finished is not done again.
    sources = _sources(files, paths, formats, engine, workers)
    decisive = _decisive(
        options,
        sources,
        hashlib.sha256(overhead.text(head).encode()).hexdigest()[:12],
        sorted(tables.values()),
        unwanted.entries,
        model,
    )
    decisive |= {"columns": columns} if columns else {}
    key = stages.key(**decisive)
    if (manifest := _opened(files, key, options.fetch.retry_failed)) is not None:
        return manifest
    overhead.save(head, files.head)
    if files.cache:
        write_atomic(files.cache_note, str(files.cache.resolve()))

    # From inputs to candidates with one text for each address.
    spread = functools.partial(_spread, engine=engine, workers=workers, progress=progress)
    spread("texts", functools.partial(steps.judge_texts, files, options.web, columns), sources, files.texts)
    for source in sources:  # texts as read, with the personal data in some
        files.candidates(source).unlink(missing_ok=True)
    part_count = steps.choose(files, sources, unwanted)

    # From candidates to pictures: those of the archives, those of the web, and what can be said of each.
    counts = {source: steps.counts(files.texts(source)) for source in sources}
    with_images = [source for source in sources if counts[source].get("image_records")]
    spread("archived pictures", functools.partial(steps.unpack, files), with_images, files.archived)
    parts = steps.fetch_all(files, part_count, with_images, options.fetch, progress, unwanted)
    spread("pictures", functools.partial(steps.judge_pictures, files, options.web), parts, files.judged)

    # From pictures to pairs, by what is there twice.
    copies = removals.copies(files, parts, steps.survivors_with_hashes(files, parts, set()), options.web.hash_distance)
    dropped = copies | steps.near_duplicates(files, parts, set(copies), options.web.hash_distance)
    if decisive["embedder"]:
        dropped |= steps.embedding_duplicates(files, parts, set(dropped), model, options.web)
    left = functools.partial(steps.survivors_with_hashes, files, parts, set(dropped))
    shared = overlaps.overlaps(files, left, tables, options.web.hash_distance)

    if unwanted:  # also from a folder of several builds
        pairs.forget_pictures(files, unwanted, removals.digests(files))

    # From pairs to shards, split by split.
    plan = stages.key(base=key, answers=[part.answers for part in parts])
    tasks = {split: steps.deal(files, parts, {*dropped, *shared}, plan, split, options, model) for split in SPLITS}
    _make_room(files, plan)
    header = {"name": NAME, "build": key} | {k: decisive[k] for k in ("seed", "options", "sources", "head", "benchmarks")}
    counted = [*counts.values(), *(steps.counts(files.archived(source)) for source in with_images)]
    header["crawl"] = dict(sorted(sum(map(collections.Counter, counted), collections.Counter()).items()))
    absent = " or ".join(split for split in SPLITS if not tasks[split]) if any(tasks.values()) else ""
    note = "no host is in the split {}: the data set has few hosts; choose another --seed, or web.val_share and web.test_share"
    header["notes"] = [note.format(absent)] if absent else []
    if unwanted and (n := removals.unseen(parts, files)):
        header["notes"] += [
            f"{n} pictures of the removal list were not seen (their host or page is listed, or they could not be had), "
            "so copies of them under other addresses cannot be told: list these as well"
        ]
    header["unmatched_removals"] = removals.unmatched(files, sources, parts, unwanted)
    return shards.write(
        files.out,
        plan,
        [task for of_split in tasks.values() for task in of_split],
        functools.partial(steps.make, files, options.web),
        engine,
        workers,
        progress,
        header=header,
        stages=pairs.STAGES,
        before=_rejections(files, sources, parts, dropped, shared, unwanted),
        finish=functools.partial(_finish, files, shared),
    )


def code() -> str:
    """Return a hash of the code and of the words that a build's bytes depend on."""
    return stages.source_hash(*ROOMS)


def _decisive(
    options: config.Config, sources: list[Source], head: str, benchmarks: list[str], removed: list[str], model: Model | None
) -> dict:
    """All that decides the bytes of a data set, but for what websites answer."""
    packages = ("Pillow", "numpy", "torch", "timm", "pyarrow", "fastwarc", "resiliparse", "lingua-language-detector")
    return {
        "sources": [{"name": source.name, "format": source.format, "sha256": source.sha256} for source in sources],
        "options": options.web.model_dump(mode="json"),
        "seed": options.seed,
        "fetch": options.fetch.model_dump(mode="json", include={"allow_loopback", "max_bytes", "max_redirects"}),
        "head": head,
        "benchmarks": benchmarks,
        "removed": removed,
        "agreement": model.fingerprint if model and model.score else "",
        "embedder": model.fingerprint if model and model.embed and options.web.embedding_similarity else "",
        "code": code(),
        "packages": {name: next((package.version for package in metadata.distributions(name=name)), "") for name in packages},
    }


def _check(files: Files, paths: Sequence[Path], options: config.Web, head: object, engine: str) -> None:
    texts.check_languages(options.languages)
    if options.test_share + options.val_share >= 1:
        raise ConfigError("web.test_share and web.val_share add up to 1 or more: leave hosts for training")
    if head is None:
        raise ConfigError("there is no overhead head: give one from `rsvlm web train-filter`, or overhead.shipped()")
    if engine not in engines.ENGINES:
        raise ConfigError(f"there is no engine '{engine}': choose {' or '.join(engines.ENGINES)}")
    overhead.tower_file()
    if not paths:
        raise DataError("there is no input: name WARC, parquet, CSV or JSON-lines files")
    if files.out.exists() and not files.out.is_dir():
        raise DataError(f"{files.out} is a file: give the folder that the shards shall go into")


def _sources(files: Files, paths: Sequence[Path], formats: Sequence[str], engine: str, workers: int) -> list[Source]:
    """Hash the inputs; one that has the size and time of the last run keeps its hash."""
    hashes = json.loads(files.hashes.read_text()) if files.hashes.is_file() else {}
    marks = [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]
    if fresh := {mark: path.resolve() for mark, path in zip(marks, paths, strict=True) if mark not in hashes}:
        if sum(path.stat().st_size for path in fresh.values()) <= 500_000_000:
            engine, workers = "local", 1  # sooner done than other processes are started
        hashes |= zip(fresh, engines.run(file_sha256, list(fresh.values()), engine, workers), strict=True)
        write_atomic(files.hashes, json.dumps(hashes))
    rows = zip(paths, formats, marks, strict=True)
    return [Source(n, path.name, path.resolve(), form, hashes[mark]) for n, (path, form, mark) in enumerate(rows)]


def _opened(files: Files, key: str, retry: bool) -> dict | None:
    """Return the manifest of a build that is finished and stays; stop at a folder of something else."""
    manifest = reading.read_manifest(files.out)
    known = {manifest.get("build")} if manifest else set()
    known |= {files.key.read_text()} if files.key.is_file() else set()
    if known - {key}:
        raise DataError(
            f"{files.out} holds a data set of other options, inputs or code: choose an empty folder, or delete this one"
        )
    if manifest is None:
        if not known and (shard := next(files.out.glob("*/*.tar"), None)):
            raise DataError(f"{shard} was not written by this build: choose an empty folder instead of {files.out}")
        write_atomic(files.key, key)
        return None
    if retry and manifest.get("rewritten"):
        raise DataError(f"pairs were removed from {files.out}: build into a new folder, with --remove and the addresses")
    return None if retry else shards.finished(files.out, manifest["plan"])


def _spread(what: str, stage: Callable, items: Sequence, target: Callable, engine: str, workers: int, progress: bool) -> None:
    """Have workers do a stage for each item whose target is not there yet."""
    from tqdm.auto import tqdm

    waiting = [item for item in items if not target(item).is_file()]
    done = engines.run(stage, waiting, engine, workers)
    collections.deque(tqdm(done, total=len(waiting), desc=what, disable=not (progress and waiting)), maxlen=0)


def _make_room(files: Files, plan: str) -> None:
    """Take away shards of this build that were made before other pictures came in."""
    if files.shard_plan.is_file() and files.shard_plan.read_text() != plan:
        files.manifest.unlink(missing_ok=True)
        for path in (path for split in SPLITS for path in (files.out / split).glob("*.tar")):
            path.unlink()
        shutil.rmtree(files.shard_plan.parent)


def _finish(files: Files, shared: dict[str, list[dict]], manifest: dict) -> list[str]:
    """Write what goes beside the shards; return the names."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for rows in shared.values() for row in rows)
    write_atomic(files.overlap, "".join(lines))
    return [*pairs.write_table(files, manifest), files.overlap.name]


def _rejections(
    files: Files,
    sources: Sequence[Source],
    parts: Sequence[Part],
    dropped: dict[str, dict],
    shared: dict[str, list[dict]],
    unwanted: removals.Removals,
) -> Iterator[dict]:
    """One line for every candidate that was given up before the shards; of one that is on the removal list, no more than that."""
    for line in _lines(files, sources, parts, dropped, shared):
        listed = line["reason"] == removals.LISTED or unwanted.name(line["url"], line.get("page"), line.get("final_url"))
        yield {name: line[name] for name in ("url", "stage", "reason")} if listed else line


def _lines(
    files: Files, sources: Sequence[Source], parts: Sequence[Part], dropped: dict[str, dict], shared: dict[str, list[dict]]
) -> Iterator[dict]:
    # By what can be read of it.
    for source in sources:
        for row in _unread(files, source):
            yield _line(
                row | {"text": ""}, "read", row["reason"], {"source": row["source"], "n": row["n"] if row["n"] > 1 else 0}
            )
    # By its text.
    columns = ["url", "page", "text", "relevance", "language", "kept", "reason"]
    for source in sources:
        with pq.ParquetFile(files.texts(source)) as file:
            rows = (row for batch in file.iter_batches(8192, columns=columns) for row in batch.to_pylist())
            for row in (row for row in rows if not row["kept"]):
                more = {"relevance": row["relevance"] and round(row["relevance"], 3), "language": row["language"]}
                yield _line(row, "text", row["reason"], more)
    for part in parts:
        # By its address, the answer or the picture.
        table = pd.read_parquet(files.judged(part))
        for row in table[table["stage"] != ""].to_dict("records"):
            more = {"key": row["key"], "relevance": round(row["relevance"], 3)}
            if row["stage"] != "address":
                more |= {"status": row["status"], "final_url": row["final_url"], "sha256": row["sha256"]}
            if row["width"] and row["stage"] != "address":
                more |= {"width_px": row["width"], "height_px": row["height"], "overhead": round(row["overhead"], 4)}
            yield _line(row, row["stage"], row["reason"], more)
        # By what else has the same picture or text.
        for row in table[(table["stage"] == "") & table["key"].isin({*dropped, *shared})].to_dict("records"):
            more = {"key": row["key"], "sha256": row["sha256"], "overhead": round(row["overhead"], 4)}
            if twin := dropped.get(row["key"]):
                more |= {"duplicate_of": twin["kept"], "distance": twin["distance"]}
                yield _line(row, "duplicate", twin["reason"], more)
            else:
                twin = shared[row["key"]][0]
                more |= {name: twin[name] for name in ("benchmark", "benchmark_key", "distance")}
                yield _line(row, "benchmark", f"{twin['reason']} in {twin['benchmark']}", more)


def _unread(files: Files, source: Source) -> Iterator[dict]:
    """Give what stands in an input and is no candidate, with its reason; what is not listed one by one, as a number `n` of it."""
    table = pd.read_parquet(files.unread(source)).fillna({"n": 1, **dict.fromkeys(steps.UNREAD[:4], "")})
    totals = steps.counts(files.texts(source))
    for reason in [name for name in archives.CANDIDATE_REASONS if totals.get(name)]:
        rows = table[table["reason"] == reason].astype({"n": int})
        yield from rows.to_dict("records")
        if rest := totals[reason] - int(rows["n"].sum()):
            yield {"url": "", "page": "", "reason": reason, "source": source.name, "n": rest}


def _line(row: dict, stage: str, reason: str, more: dict) -> dict:
    # What was rejected for the personal data in it is not written down again.
    text = "" if reason.startswith("personal_") else row["text"][:_MAX_TEXT]
    line = {"url": row["url"], "page": row["page"], "stage": stage, "reason": reason, "text": text}
    return line | {name: value for name, value in more.items() if value not in (None, "", 0)}
