"""Speed and memory of the web's data side: archives into candidates, texts through their stage, and a whole build.

Every figure is taken in processes of their own, one for each core, each with an input of its own; what they did is divided by the
time that the slowest took. The inputs are made here, from a seed.
"""

from __future__ import annotations

import gzip
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsvlm import config
from rsvlm.data import workers as engines
from rsvlm.data.demo import web as demo_web
from rsvlm.data.web import archives, build as web, lexicon, overhead, texts
from rsvlm.errors import RsvlmError
from rsvlm.records import provenance

TARGETS = {"warc": 2000.0, "text": 20_000.0}
"""Pages and texts per second that two cores must reach."""


def measure(
    n_pages: int = 3000, n_texts: int = 100_000, n_pictures: int = 0, repeats: int = 3, workers: int = 0
) -> list[dict]:
    """Time the parts, and take the peak memory with the input and with four times as much.

    Args:
        n_pages: Pages of 20 kB for each process.
        n_texts: Texts for each process, 2 % of them relevant.
        n_pictures: Pictures on the demo's web, for a build from its archive to shards, fetched over loopback. If 0, no such build.
        repeats: Timed runs; the median is given.
        workers: Processes at once. If 0, one for each core.

    Returns:
        One row per part: `items` of all processes, `per_s` (median) with `min` and `max`, `target_per_s` (None where there is none),
        `per_cpu_s` of one core without neighbours, `kept`, and the largest memory of one process, `peak_mb`, and with four times
        the input, `peak_mb_x4`.

    Raises:
        RsvlmError: A process failed.
    """
    workers = workers or engines.cores()
    rows = []
    for part, count in (("warc", n_pages), ("text", n_texts)):
        with tempfile.TemporaryDirectory() as name:
            paths = [make(part, Path(name), count, seed) for seed in range(workers)]
            runs = [_together(part, paths) for _ in range(repeats)]
            large = _together(part, [make(part, Path(name), 4 * count, workers)])
        rows.append(_row(part, count * workers, runs, large))
    return rows + ([_build(n_pictures, repeats)] if n_pictures else [])


def _row(part: str, items: int, runs: list[list[dict]], large: list[dict]) -> dict:
    """Sum up runs of a part, each of some processes at once, and the one with four times the input."""
    speeds = [sum(done["items"] for done in run) / max(done["seconds"] for done in run) for run in runs]
    every = [done for run in runs for done in run]
    row = {
        "part": part,
        "items": items,
        "processes": len(runs[0]),
        "repeats": len(runs),
        "per_s": statistics.median(speeds),
        "min": min(speeds),
        "max": max(speeds),
        "target_per_s": TARGETS.get(part),
        "per_cpu_s": statistics.median(done["items"] / done["cpu_seconds"] for done in every),
        "kept": sum(done["kept"] for done in runs[0]),
        "peak_mb": max(done["peak_mb"] for done in every),
        "peak_mb_x4": large[0]["peak_mb"],
    }
    return {key: round(cell, 1) if isinstance(cell, float) else cell for key, cell in row.items()}


def _build(count: int, repeats: int) -> dict:
    """Build the demo's web in one fresh process, which works alone, while this one serves it."""
    runs = []
    with tempfile.TemporaryDirectory() as name:
        overhead.save(overhead.shipped(), Path(name) / "head.json")
        for size, times in ((count, repeats), (4 * count, 1)):
            folder = Path(name) / str(size)
            demo_web.make(folder, 0, size)
            with demo_web.serve(folder, port=0) as addresses:
                demo_web.capture(addresses, folder / "crawl.warc.gz")
                runs += [_together("build", [folder]) for _ in range(times)]
    return _row("build", runs[0][0]["items"], runs[:-1], runs[-1])


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    what = {
        "warc": "pages of 20 kB into candidates",
        "text": "texts, 2 % relevant, through their stage",
        "build": "candidates of the demo, pages to shards",
    }
    lines = [
        f"{rows[0]['processes']} processes, {rows[0]['repeats']} runs.",
        f"{'':<44}{'per s':>10}{'min':>10}{'max':>10}{'target':>10}{'per CPU s':>10}{'peak MB':>9}{'at x4':>8}",
    ]
    for row in rows:
        cells = [row[key] for key in ("per_s", "min", "max", "target_per_s", "per_cpu_s")]
        numbers = "".join(f"{'':>10}" if cell is None else f"{cell:>10,.0f}" for cell in cells)
        lines.append(f"{what.get(row['part'], row['part']):<44}{numbers}{row['peak_mb']:>9.0f}{row['peak_mb_x4']:>8.0f}")
    return "\n".join(lines)


# Processes


def _together(part: str, paths: list[Path]) -> list[dict]:
    """Run a part on several inputs at once, each in a fresh process."""
    commands = [[sys.executable, str(Path(__file__).resolve()), part, str(path)] for path in paths]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for command in commands]
    outputs = [process.communicate() for process in processes]
    for process, (_, problem) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RsvlmError(f"the part '{part}' failed: {problem[-500:]}")
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


def _alone(part: str, path: Path) -> dict:
    """One part in this process; what is made once for a whole run (patterns, scorer, detector) is made before the clock starts."""
    texts.text_stage(["Aerial view of the harbour of Rotterdam"], config.Web())
    start, used = time.perf_counter(), time.process_time()
    counts = archives.Counts()
    items = kept = 0
    if part == "warc":
        for batch in archives.read(path, counts):
            kept += batch.num_rows
        items = counts["pages"]
    elif part == "build":
        options = config.load("laptop", {"fetch.allow_loopback": True, "fetch.host_delay_s": 0.0})
        with tempfile.TemporaryDirectory() as name:
            out, head = Path(name) / "pairs", path.parent / "head.json"
            manifest = web.build([path / "crawl.warc.gz"], options, out, head=head, workers=1, progress=False)
        items = manifest["crawl"]["candidates"]
        kept = sum(entry["samples"] for entry in manifest["splits"].values())
    else:
        for batch in pq.ParquetFile(path).iter_batches(8192):
            judged = texts.text_stage(pa.Table.from_batches([batch]), config.Web())
            items, kept = items + judged.num_rows, kept + sum(judged["kept"].to_pylist())
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - used
    spent = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": provenance.peak_memory_mb()}
    return {"items": items, "kept": kept, **spent}


# Inputs


def make(part: str, folder: Path, count: int, seed: int) -> Path:
    """Write the input of a part: an archive of pages, or a table of texts."""
    if part == "warc":
        return _make_archive(folder / f"{seed}.warc.gz", count, seed)
    path = folder / f"{seed}.parquet"
    pq.write_table(pa.table({"text": web_texts(count, seed)}), path)
    return path


_WORDS = (
    "the a of and to in for with on our new your from about more home contact price news photo best free city house team day year"
    " black red summer small large garden kitchen vintage wedding music car dog cat book shop world travel hotel food art design"
    " water road school university company product service online video game phone computer table chair window light green blue"
).split()


def _make_archive(path: Path, count: int, seed: int) -> Path:
    generator = np.random.default_rng(seed)
    texts = web_texts(2000, seed)
    # As many kinds of page as a reader cannot keep in its caches, and no more than are quickly made.
    pages = [_page(generator, texts) for _ in range(50)]
    with path.open("wb") as file:
        for index in range(count):
            body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + pages[index % len(pages)]
            head = (
                "WARC/1.1\r\nWARC-Type: response\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
                f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{index:012d}>\r\n"
                f"WARC-Target-URI: http://host{index % 97}.example/{index}\r\n"
                f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            file.write(gzip.compress(head.encode() + body + b"\r\n\r\n", 6, mtime=0))
    return path


def _page(generator: np.random.Generator, texts: list[str], size: int = 20_000) -> bytes:
    """A page of paragraphs, links, scripts and one image in about 1.3 kB."""

    def words(count: int) -> str:
        return " ".join(_WORDS[i] for i in generator.integers(0, len(_WORDS), count))

    parts = [
        f"<!DOCTYPE html><html><head><meta charset='utf-8'><title>{words(5)}</title><style>.a{{margin:0}}</style></head><body>"
    ]
    length = len(parts[0])
    while length < size:
        number = int(generator.integers(1 << 30))
        text = texts[number % len(texts)].replace('"', "&quot;")
        links = "".join(f"<li><a href='/n/{number + i}'>{words(2)}</a></li>" for i in range(6))
        parts.append(
            f"<div class='box'><h2>{words(4)}</h2><p>{words(70)} <b>{words(2)}</b></p><ul>{links}</ul>"
            f'<script>var a = {{"id": {number}, "n": [{",".join(map(str, range(30)))}]}};</script>'
            f'<img class="lazy" src="/i/{number}.jpg" width="300" height="200" alt="{text}"><p>{words(40)}</p></div>'
        )
        length += len(parts[-1])
    return ("".join(parts) + "</body></html>").encode()


def web_texts(count: int, seed: int) -> list[str]:
    """Alternative texts as on the web: file names, goods, people, signs, and in one of fifty a picture from above."""
    generator = np.random.default_rng([seed, 0x7E])
    relevant, labels = lexicon.seed_texts(4 * (count // 50 + 1), seed)
    relevant = [text for text, label in zip(relevant, labels, strict=True) if label]
    result = []
    for index in range(count):
        kind, number = int(generator.integers(10)), int(generator.integers(1 << 20))
        words = " ".join(_WORDS[i] for i in generator.integers(0, len(_WORDS), int(generator.integers(1, 14))))
        if index % 50 == 0:
            result.append(relevant[index // 50])
        elif kind == 0:
            result.append(f"IMG_{number:07d}.jpg")
        elif kind == 1:
            result.append("logo")
        elif kind == 2:
            result.append(f"{words} | {words} &amp; more")
        elif kind == 3 and number % 8 == 0:
            result.append(f"Satellite dish and {words}")
        else:
            result.append(words)
    return result


if __name__ == "__main__":
    print(json.dumps(_alone(sys.argv[1], Path(sys.argv[2]))))
