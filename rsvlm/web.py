"""From a crawl to audited shards of overhead pictures with their texts, as the paper did for its web data.

A build goes through stages that meet in files under `.work`: candidates (`crawl`), texts (`filters`), one text for each address,
pictures from the archives or the web (`fetch`), size and view from above (`overhead`), duplicates and benchmarks (`dedup`), shards.
A stage whose inputs are the same is not done again, so a build that was stopped goes on, and another engine gives the same bytes.
Whatever is left out is one line of `rejected.jsonl` with its stage and reason. Texts of the web are data: kept, shown as text, never
obeyed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import heapq
import json
import logging
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rsvlm import crawl, engines, fetch, files, filters, images, overhead, shards, stages, webdemo, webstages
from rsvlm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rsvlm import config

log = logging.getLogger(__name__)

NAME = "rs-web"
STAGES = ("text", "address", "fetch", "image", "duplicate", "benchmark", "shard", "removal")
REASONS = {
    "page_robots": "the page asks machines to leave it alone (noindex, noai, ... or a reservation of text and data mining)",
    "on_removal_list": "the address of the picture or its page is on the removal list",
    "same_address": "the same picture has a better text elsewhere",
    "archive_x_robots": "the archived answer forbids indexing or use for learning",
    "same bytes": "another picture has the same bytes",
    "same pixels": "another picture has the same pixels",
    "near picture": "another picture looks the same",
    "near duplicate by embedding": "another picture is nearly the same to the model",
    "removed": "taken out of the finished data set on request",
}
"""Reasons of the stages that are this module's own; see `meaning` for all."""

_TOLD = 300  # characters of a text in rejected.jsonl


def build(
    inputs: Sequence[str | Path],
    options: config.Config,
    out: Path | str,
    *,
    head: Path | str | None = None,
    benchmark_folders: Sequence[str | Path] = (),
    removed: Iterable[str] = (),
    agreement: webstages.Agreement | None = None,
    embedder: webstages.Embedder | None = None,
    cache: Path | str | None = None,
    engine: str = "local",
    workers: int = 0,
    progress: bool = True,
) -> dict:
    """Make a data set from crawls; go on with it where a stopped build left it.

    Pictures are fetched by this process alone, whatever the engine, so that a website meets one polite visitor. A pair goes to
    the split of its page's host. Pictures are encoded anew from their pixels, so nothing that hides in a file travels along.

    Args:
        inputs: WARC files, or tables of address and text, see `crawl.inspect`. Pictures that a WARC file holds are not fetched.
        options: `web`, `fetch` (with `retry_failed` also a finished build asks again for what may have passed) and `seed`.
        out: Folder to fill; made when missing. With an engine that uses other machines, a folder that they all see.
        head: The overhead classifier, from `rsvlm web train-filter`; none: the demo's.
        benchmark_folders: Benchmarks whose pictures, however turned, and texts must not be in the data set.
        removed: Addresses of pictures or pages that stay out.
        agreement: Scores pictures against texts; none: no such score.
        embedder: Finds near duplicates by embeddings, from `web.embedding_similarity` on; none: by hashes alone.
        cache: Folder of what was fetched, for several builds; none: in `out`.
        engine: `local` or `ray`, see `engines.run`.
        workers: As in `engines.run`.
        progress: Show progress bars.

    Returns:
        The manifest, as from `shards.write`, with `name build seed options sources head benchmarks crawl notes`.

    Raises:
        ConfigError: Options that contradict each other.
        DataError: An input is missing or of another form, the folder holds something else, or the disk is full.
        MissingExtraError: A package of the extra `data` is missing, or of `demo` where no head is given.
    """
    out, chosen = Path(out), options.web
    if chosen.test_share + chosen.val_share >= 1:
        raise ConfigError("web.test_share and web.val_share add up to 1 or more: leave hosts for training")
    if engine not in engines.ENGINES:
        raise ConfigError(f"there is no engine '{engine}': choose {' or '.join(engines.ENGINES)}")
    paths = [Path(path) for path in inputs]
    if not paths:
        raise DataError("there is no input: name WARC, parquet, CSV or JSON-lines files")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: give the folder that the shards shall go into")
    formats = [crawl.inspect(path)["format"] for path in paths]
    tables = {folder: webstages.benchmark_table(Path(folder)) for folder in map(str, benchmark_folders)}
    unwanted = {crawl.absolute_url(url.strip()) or url.strip() for url in removed if url.strip()}
    judge = overhead.load(head) if head else webdemo.default_head(chosen.overhead_precision)
    folder = out / ".work"
    hashes = _input_hashes(folder, paths, engine, workers)
    sources = [{"name": p.name, "format": f, "sha256": h} for p, f, h in zip(paths, formats, hashes, strict=True)]
    about = {
        "sources": sources,
        "options": chosen.model_dump(mode="json"),
        "seed": options.seed,
        "fetch": options.fetch.model_dump(mode="json", include={"allow_loopback", "max_bytes", "max_redirects"}),
        "head": webstages.head_hash(judge),
        "benchmarks": sorted(tables.values()),
        "removed": sorted(unwanted),
        "agreement": agreement.fingerprint if agreement else "",
        "embedder": embedder.fingerprint if embedder and chosen.embedding_similarity else "",
        "code": code(),
        "packages": {
            name: _version(name)
            for name in ("Pillow", "numpy", "pyarrow", "fastwarc", "resiliparse", "lingua-language-detector")
        },
    }
    base = stages.key(**about)
    if (done := _opened(out, base, options.fetch.retry_failed)) is not None:
        return done
    overhead.save(judge, folder / "head.npz")

    run = functools.partial(_run, engine=engine, workers=workers, progress=progress)
    work = webstages.Work(str(folder), chosen)
    source_code = _code("crawl")
    names = [f"{n:05d}-{stages.key(source=s, code=source_code)}.parquet" for n, s in enumerate(sources)]
    mark = {"options": about["options"], "code": _code("filters")}
    texts = [folder / "texts" / f"{name[:5]}-{stages.key(source=name, **mark)}.parquet" for name in names]
    items = [
        (str(path.resolve()), str(text), str(folder / "candidates" / n))
        for path, text, n in zip(paths, texts, names, strict=True)
    ]
    crawled: Counter = Counter()
    with_pictures = []
    for number, counts in enumerate(run("texts", functools.partial(webstages.texts, work), items)):
        crawled.update(counts)
        with_pictures += [number] if counts.get("image_records") else []

    chosen_key = stages.key(
        texts=[path.name for path in texts], removed=about["removed"], code=_code("webstages", follow=False)
    )
    parts = webstages.choose(texts, folder / "addresses" / chosen_key, unwanted)
    archived = [
        (str(paths[n].resolve()), str(folder / "archive" / f"{names[n][:-8]}-{chosen_key}.parquet")) for n in with_pictures
    ]
    unpack = functools.partial(webstages.unpack, str(folder / "addresses" / chosen_key), folder / "archive")
    list(run("archived pictures", unpack, archived))
    store = Path(cache) if cache else folder / "fetch"
    fetched = folder / "fetched" / stages.key(addresses=chosen_key, archived=[path[-40:] for _, path in archived])
    digests = webstages.fetch_all(parts, [Path(path) for _, path in archived], store, fetched, options.fetch, progress)

    stem = {"head": about["head"], "options": about["options"], "code": _code("overhead", "dedup", "images")}
    judged = [folder / "pictures" / f"{n:05d}-{stages.key(part=digest, **stem)}.parquet" for n, digest in enumerate(digests)]
    items = [(str(fetched / part.name), str(path)) for part, path in zip(parts, judged, strict=True)]
    list(run("pictures", functools.partial(webstages.judge, work), items))

    dropped = webstages.duplicates(judged, chosen.hash_distance)
    if about["embedder"]:
        at = folder / "embedded" / about["embedder"]
        dropped |= webstages.embedding_duplicates(judged, set(dropped), embedder, at, folder, chosen)
    overlaps = webstages.overlaps(judged, set(dropped), folder / "benchmarks", tables, chosen.hash_distance)
    plan = stages.key(base=base, digests=digests)
    final, counts = webstages.deal(judged, {*dropped, *overlaps}, folder / "final" / plan, options, agreement, folder)
    _make_room(out, plan)
    notes = [
        f"no host is in the split {split}: the data set has few hosts; choose another seed or share"
        for split in webstages.SPLITS
        if not counts[split]
    ]
    header = {"name": NAME, "build": base, **{k: about[k] for k in ("seed", "options", "sources", "head", "benchmarks")}}
    header |= {"crawl": dict(sorted(crawled.items())), "notes": notes}

    def finish(manifest: dict) -> list[str]:
        lines = [line for found in overlaps.values() for line in found]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        files.write_atomic(out / "overlap.jsonl", text)
        return [_write_pairs(out, manifest), "overlap.jsonl"]

    return shards.write(
        out,
        plan,
        final,
        functools.partial(webstages.make, work),
        engine,
        workers,
        progress,
        header=header,
        stages=STAGES,
        before=_rejected(texts, judged, dropped, overlaps),
        finish=finish,
    )


def meaning(stage: str, reason: str) -> str:
    """Say in words what a reason of `rejected.jsonl` means."""
    if stage == "text":
        return filters.REASONS.get(reason, "")
    if stage == "fetch" and reason in fetch.REASONS:
        return fetch.REASONS[reason].meaning
    if stage == "image":
        return overhead.REASONS.get(reason, "")
    if stage == "benchmark":
        return "the pair is in a benchmark, see overlap.jsonl"
    return REASONS.get(reason, "")


def code() -> str:
    """Return a hash of the code and the words that a build's bytes depend on."""
    return _code("web")


# What is told


def _rejected(
    texts: Sequence[Path], judged: Sequence[Path], dropped: dict[str, dict], overlaps: dict[str, list[dict]]
) -> Iterator[dict]:
    """One line for every candidate that was given up before the shards."""
    for path in texts:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(8192, columns=["url", "page", "text", "relevance", "language", "kept", "reason"]):
                for row in pa.Table.from_batches([batch]).to_pylist():
                    if not row["kept"]:
                        more = {"relevance": row["relevance"] and round(row["relevance"], 3), "language": row["language"]}
                        yield _line(row, "text", row["reason"], more)
    for path in judged:
        table = pd.read_parquet(path)
        for row in table[table["stage"] != ""].to_dict("records"):
            more = {"key": row["key"], "relevance": round(row["relevance"], 3)}
            if row["stage"] != "address":
                more |= {"status": row["status"], "final_url": row["final_url"], "sha256": row["sha256"]}
            if row["width"]:
                more |= {"width_px": row["width"], "height_px": row["height"], "overhead": round(row["overhead"], 4)}
            yield _line(row, row["stage"], row["reason"], more)
        table = table[table["stage"] == ""]
        for row in table[table["key"].isin({*dropped, *overlaps})].to_dict("records"):
            key, more = row["key"], {"key": row["key"], "sha256": row["sha256"], "overhead": round(row["overhead"], 4)}
            if key in dropped:
                found = dropped[key]
                yield _line(
                    row, "duplicate", found["reason"], more | {"duplicate_of": found["kept"], "distance": found["distance"]}
                )
            else:
                found = overlaps[key][0]
                more |= {name: found[name] for name in ("benchmark", "benchmark_key", "distance")}
                yield _line(row, "benchmark", f"{found['reason']} in {found['benchmark']}", more)


def _line(row: dict, stage: str, reason: str, more: dict) -> dict:
    # What was rejected for the personal data in it is not written down again.
    text = "" if reason.startswith("personal_") else row["text"][:_TOLD]
    line = {"url": row["url"], "page": row["page"], "stage": stage, "reason": reason, "text": text}
    return line | {name: value for name, value in more.items() if value not in (None, "", 0)}


_PAIRS = pa.schema(
    [(name, pa.string()) for name in ("key", "split", "shard", "url", "page", "title", "text_raw", "caption", "language")]
    + [(name, pa.float32()) for name in ("relevance", "overhead", "agreement")]
    + [("width_px", pa.int32()), ("height_px", pa.int32()), ("sha256", pa.string())]
)


def _write_pairs(out: Path, manifest: dict) -> str:
    """Write `pairs.parquet`, a row for each pair of the data set."""
    with webstages.parquet(out / "pairs.parquet", _PAIRS) as write:
        for shard in (shard for entry in manifest["splits"].values() for shard in entry["shards"]):
            rows = []
            for record in shards.records(out / shard["file"]):
                row = {name: record.get(name) for name in _PAIRS.names} | record["scores"]
                rows.append(
                    row | {"shard": shard["file"], "caption": record["captions"][0], "sha256": record["hashes"]["sha256"]}
                )
            write(pa.Table.from_pylist(rows, schema=_PAIRS))
    return "pairs.parquet"


def remove(folder: Path | str, addresses: Iterable[str]) -> tuple[dict, int]:
    """Take pairs out of a finished data set, for good: by the address of the picture, or of its page.

    Shards with such pairs are rewritten, the others stay. What was kept of the pictures is deleted, and of rejected candidates with
    such an address only the address and the reason are left.

    Args:
        folder: A data set made by `build`.
        addresses: Addresses, one each; in any spelling that `crawl.absolute_url` takes for the same.

    Returns:
        The manifest and how many pairs were taken out.

    Raises:
        DataError: No address is given, or the data set is unfinished or broken.
    """
    folder = Path(folder)
    wanted = {
        crawl.absolute_url(text) or text for address in addresses if (text := address.strip()) and not text.startswith("#")
    }
    if not wanted:
        raise DataError("the list holds no address: give one a line")

    def named(row: dict) -> bool:
        return bool(wanted & {row.get("url"), row.get("page"), row.get("final_url")})

    content = shards.manifest(folder)
    files = [shard["file"] for entry in content["splits"].values() for shard in entry["shards"]]
    gone = [record for file in files for record in shards.records(folder / file) if named(record)]
    # The shards last: a removal that was stopped finds its pairs in them again.
    _forget(folder, named, gone)
    manifest = shards.rewrite(folder, lambda record: not named(record), finish=lambda told: [_write_pairs(folder, told)])
    return manifest, len(gone)


def _forget(folder: Path, named: Callable[[dict], bool], gone: Sequence[dict]) -> None:
    """Delete what is kept of some addresses beside the shards: pictures, texts, and the tables of the stages, which hold both."""
    digests = {record["hashes"]["sha256"] for record in gone}
    lines, told = folder / "rejected.jsonl", set()
    with files.replacing(lines) as temporary, open(temporary, "wb") as file:

        def write(line: dict) -> None:
            file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")

        for line in _read_lines(lines):
            if named(line):
                digests.add(line.get("sha256", ""))
                told |= {line["url"]} if line["stage"] == "removal" else set()
                line = {name: line[name] for name in ("url", "stage", "reason")}
            write(line)
        for record in gone:
            if record["url"] not in told:
                write({"url": record["url"], "stage": "removal", "reason": "removed"})
    for digest in digests - {""}:
        for path in _kept_files(folder / ".work", digest):
            path.unlink(missing_ok=True)
    for name in ("candidates", "texts", "addresses", "fetched", "pictures", "final", "archive"):
        for path in (folder / ".work" / name).rglob("*.parquet"):
            path.unlink(missing_ok=True)


def _kept_files(work: Path, digest: str) -> list[Path]:
    return [path for store in ("fetch", "archive") for path in (work / store / "images" / digest[:2]).glob(f"{digest}*")]


def _read_lines(path: Path) -> Iterator[dict]:
    try:
        with open(path, "rb") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): build the data set again") from error


def look(folder: Path | str, per_reason: int = 12, kept: int = 24, seed: int = 0) -> dict:
    """Read what a page about a finished data set shows.

    Args:
        folder: A data set made by `build`.
        per_reason: Rejected candidates shown of each reason, a sample.
        kept: Pairs shown, a sample.
        seed: Seed of both samples.

    Returns:
        `manifest`; `kept`: `{"record", "image"}` each, the image (H, W, 3) uint8; `rejected`: `{"stage", "reason", "meaning", "count",
        "examples"}` each, in the order of the stages, an example a line of `rejected.jsonl` with `image`, or None where there is none.

    Raises:
        DataError: The folder is no finished data set.
    """
    folder = Path(folder)
    manifest = shards.manifest(folder)

    def rank(text: str) -> bytes:
        return hashlib.blake2b(f"{seed} {text}".encode("utf-8", "replace"), digest_size=8).digest()

    counts: Counter = Counter()
    heaps: dict[tuple[str, str], list] = {}
    for number, line in enumerate(_read_lines(folder / "rejected.jsonl")):
        name = (line["stage"], line["reason"])
        counts[name] += line.get("n", 1)
        heap = heaps.setdefault(name, [])
        # The largest of the smallest ranks is on top.
        heapq.heappush(heap, (_turned(rank(f"{number} {line.get('url')}")), number, line))
        if len(heap) > per_reason:
            heapq.heappop(heap)
    order = {stage: place for place, stage in enumerate(STAGES)}
    rejected = []
    for (stage, reason), heap in sorted(
        heaps.items(), key=lambda item: (order.get(item[0][0], 99), -counts[item[0]], item[0])
    ):
        examples = [line | {"image": _picture(folder, line)} for _, _, line in sorted(heap, reverse=True)]
        row = {"stage": stage, "reason": reason, "meaning": meaning(stage, reason), "count": counts[stage, reason]}
        rejected.append(row | {"examples": examples})
    with pq.ParquetFile(folder / "pairs.parquet") as file:
        batches = (batch.to_pylist() for batch in file.iter_batches(8192, columns=["key", "shard"]))
        chosen = heapq.nsmallest(kept, (row for rows in batches for row in rows), key=lambda row: rank(row["key"]))
    shown = [_pair(folder / row["shard"], row["key"]) for row in chosen]
    return {"manifest": manifest, "kept": shown, "rejected": rejected}


def _pair(shard: Path, key: str) -> dict:
    with tarfile.open(shard, "r:") as archive:
        found = {
            name.partition(".")[2]: archive.extractfile(name).read()
            for name in archive.getnames()
            if name.startswith(f"{key}.")
        }
    record = json.loads(found.pop("json"))
    return {"record": record, "image": images.decode(*found.values())}


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
    folder = Path(folder)
    shards.manifest(folder)
    columns = ["url", "page", "text", "stage", "reason", "language", "relevance", "overhead"]
    pairs = pd.read_parquet(folder / "pairs.parquet").rename(columns={"text_raw": "text"}).assign(stage="kept", reason="")
    lost = pd.DataFrame(list(_read_lines(folder / "rejected.jsonl"))).reindex(columns=columns)
    table = pd.concat([pairs[columns], lost], ignore_index=True)
    texts = ["url", "page", "text", "stage", "reason", "language"]
    return table.assign(**table[texts].fillna(""), **table[["relevance", "overhead"]].astype(float))


def _turned(rank: bytes) -> int:
    return -int.from_bytes(rank)


def _picture(folder: Path, line: dict) -> np.ndarray | None:
    digest = str(line.get("sha256") or "")
    if len(digest) == 64 and digest.isalnum():
        for path in _kept_files(folder / ".work", digest):
            with contextlib.suppress(DataError, OSError):
                return images.decode(path.read_bytes())
    return None


# Folders, files, hashes


def _run(what: str, work: Callable, items: Sequence, *, engine: str, workers: int, progress: bool) -> Iterator:
    from tqdm.auto import tqdm

    waiting = [item for item in items if not Path(item[1]).is_file()]
    # Where all is there, no processes are started to find that out.
    engine, workers = (engine, workers) if waiting else ("local", 1)
    yield from tqdm(engines.run(work, items, engine, workers), total=len(items), desc=what, disable=not (progress and items))


def _opened(out: Path, base: str, retry: bool) -> dict | None:
    """Return the manifest of a build that is finished and stays; stop at a folder of something else."""
    note = out / ".work" / "build"
    content = None
    if (out / "manifest.json").is_file():
        try:
            content = json.loads((out / "manifest.json").read_bytes())
        except ValueError as error:
            raise DataError(f"{out / 'manifest.json'} is no JSON ({error}): delete {out} and build again") from error
    known = {content.get("build")} if content else set()
    if note.is_file():
        known.add(note.read_text())
    if known - {base}:
        raise DataError(f"{out} holds a data set of other options, inputs or code: choose an empty folder, or delete this one")
    if content is None:
        if not known and (found := next(out.glob("*/*.tar"), None)):
            raise DataError(f"{found} was not written by this build: choose an empty folder instead of {out}")
        files.write_atomic(note, base)
        return None
    if content.get("rewritten"):
        if retry:
            raise DataError(f"pairs were removed from {out}: build into a new folder, with --remove and the addresses")
        return shards.finished(out, content["plan"])
    return None if retry else shards.finished(out, content["plan"])


def _make_room(out: Path, plan: str) -> None:
    """Take away shards of this build that were made before other pictures came in."""
    kept = out / ".tasks" / "plan"
    if kept.is_file() and kept.read_text() != plan:
        (out / "manifest.json").unlink(missing_ok=True)
        for split in webstages.SPLITS:
            for path in (out / split).glob("*.tar"):
                path.unlink(missing_ok=True)
            for path in (out / ".tasks" / split).glob("*.json"):
                path.unlink(missing_ok=True)
        kept.unlink()


def _input_hashes(folder: Path, paths: Sequence[Path], engine: str, workers: int) -> list[str]:
    """Hash the inputs; one that has the size and time of the last run keeps its hash."""
    note = folder / "inputs.json"
    known = json.loads(note.read_text()) if note.is_file() else {}
    marks = [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]
    fresh = [path for path, mark in zip(paths, marks, strict=True) if mark not in known]
    total = sum(path.stat().st_size for path in fresh)
    engine, workers = (engine, workers) if total > 500_000_000 else ("local", 1)
    found = iter(engines.run(files.file_sha256, [str(path.resolve()) for path in fresh], engine, workers))
    hashes = {mark: known[mark] if mark in known else next(found) for mark in marks}
    if fresh:
        files.write_atomic(note, json.dumps(hashes))
    return [hashes[mark] for mark in marks]


def _code(*names: str, follow: bool = True) -> str:
    words = hashlib.sha256((stages.PACKAGE / "lexicon.json").read_bytes()).hexdigest()
    return stages.key(source=stages.source_hash(*names, follow=follow), words=words)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
