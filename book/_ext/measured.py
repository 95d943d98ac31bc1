"""Writes what is quoted from records: the table of the first page, and the page of speeds from `results/bench/`."""

import json
import re
from html import escape
from pathlib import Path

from rsvlm.errors import DataError
from rsvlm.records import files, results, without_model

# The first page's table: a question, the page that answers it, and the one row of a record that does (experiment, run, split,
# protocol, direction, metric). What nobody has tried without a model has no place in it.
HEADLINE = (
    ("Which place on Earth is meant by a sentence? 7 km to a pixel", "03_retrieval", "retrieval", "laptop-seed0")
    + ("test", "one-to-one", "both", "mR"),
    ("Which chips at Itaipu show a river, a city, a forest? 30 m to a pixel", "11_itaipu", "itaipu", "laptop-seed0")
    + ("test", "zero-shot", "t2i", "mAP"),
    ("Which picture of RSICD is meant? Trained on it, from weights of others", "12_rsicd", "rsicd", "imagenet-minilm-seed0")
    + ("val", "plain", "both", "mR"),
    ("Where in a picture of VHR-10 is it? No mask to learn from", "13_attention", "localize")
    + ("vhr10-rsicd-standard-without-chosen-on", "all without chosen-on", "raw", "t2i", "pointing"),
    ("Is a picture of the web taken from above, where a fifth are?", "06_web", "overhead", "shipped")
    + ("held out", "overhead, never learnt from", "both", "precision_at_20_percent"),
)
# Rows of the same data set, split, direction and metric that took no model, beside those that `without_model` finds: by experiment, the
# runs of the same protocol, and the protocols of the same run.
BASELINES = {
    "itaipu": ((), ("colours, supervised",)),
    "rsicd": (("scene-class", "colour"), ()),
    "localize": ((), ("random", "centre", "brightness")),
}
# What baselines are called on the first page.
CALLED = {
    "scene-class": "the kind of place",
    "colour": "colours",
    "colour, whitened": "colours",
    "colours, supervised": "colours, with labels",
    "centre": "the middle",
}
METRICS = {
    "mR": "mean recall",
    "mAP": "mean average precision",
    "top1": "top-1 accuracy",
    "miou": "mean IoU",
    "pointing": "pointing game",
    "precision_at_20_percent": "precision",
}

# What each file of results/bench compares, and which of its columns are shown under which name, in the order in which a reader asks:
# training, embedding, search, data, the rest.
PARTS = {
    "train": (
        "A training step, beside other ways to write it",
        {
            "implementation": "implementation",
            "samples_per_s": "samples/s",
            "speedup": "its time over ours",
            "matched": "how matched",
        },
    ),
    "scenes": (
        "Searching a scene",
        {
            "side": "side, pixels",
            "precision": "precision",
            "mp": "megapixels",
            "mp_per_s": "megapixels/s",
            "peak_mb": "memory, MB",
        },
    ),
    "search": (
        "An index: one question beside reading the vectors once, indexing beside the bare tower",
        {
            "stage": "stage",
            "size": "vectors, pixels a side, or scenes",
            "seconds": "seconds",
            "ratio": "its time over reading, or its speed over the tower's",
            "min": "least",
            "max": "most",
            "peak_mb": "memory, MB",
        },
    ),
    "retrieval": (
        "Ranking in both directions, beside the bare product and its peers",
        {
            "images": "images",
            "captions": "captions",
            "implementation": "implementation",
            "seconds": "seconds",
            "ratio": "its time over the product's",
            "peak_memory_mb": "memory, MB",
        },
    ),
    "retrieval-memory": (
        "The same from mapped files: memory, with and without these files",
        {
            "images": "images",
            "captions": "captions",
            "cpu_seconds": "CPU seconds",
            "peak_memory_mb": "memory, MB",
            "own_memory_mb": "without the files, MB",
        },
    ),
    "search_page": (
        "The page of an index of 20,000 chips in the browser",
        {
            "stage": "what",
            "n": "times",
            "seconds": "seconds",
            "min": "least",
            "max": "most",
            "value": "MB, or percent",
        },
    ),
    "page": (
        "The page that searches in the browser",
        {"stage": "to the answer, counted from", "n": "times", "seconds": "seconds", "min": "least", "max": "most"},
    ),
    "chips": ("Chips of the embedded Earth", {"stage": "stage", "n": "chips", "chips_per_s": "chips/s"}),
    "landmarks": (
        "Any imagery and any map to audited shards",
        {"stage": "stage", "chips": "chips", "chips_per_s": "chips/s", "peak_mb": "memory, MB"},
    ),
    "landmarks-memory": (
        "The same, whose memory must not grow with the input",
        {"stage": "stage", "chips": "chips", "peak_mb": "memory, MB"},
    ),
    "web": (
        "A crawl: archives read, and texts judged",
        {
            "part": "part",
            "items": "items",
            "per_s": "items/s",
            "peak_mb": "memory, MB",
            "peak_mb_x4": "of four times as many, MB",
        },
    ),
    "dedup": (
        "Near duplicates among hashes of pictures",
        {"hashes": "hashes", "seconds": "seconds", "peak_memory_mb": "memory, MB"},
    ),
    "loader": (
        "Reading shards, beside webdataset",
        {"implementation": "implementation", "samples_per_s": "samples/s", "speedup": "our speed over its"},
    ),
    "localize": (
        "The Smooth-Attention-Operation on a large map, beside its peers",
        {
            "size": "side, pixels",
            "implementation": "implementation",
            "seconds": "seconds",
            "ratio": "its time over ours",
            "peak_memory_mb": "memory, MB",
        },
    ),
    "teaching": (
        "A search that learns: how far a few labels take it from the text alone to all labels",
        {
            "set": "set",
            "policy": "how it learns",
            "labels": "labels",
            "value": "mAP, percent",
            "ci_low": "from",
            "ci_high": "to",
            "share": "of the way, percent",
            "share_low": "from",
            "share_high": "to",
        },
    ),
}
# What has to be known to read one of these tables, above it.
ABOUT = {
    "teaching": "A simulated user labels chips of one half of a set; mean average precision (mAP) is measured on the other half. *Of the "
    "way* says how much of the gap between the text alone and a classifier on all labels of the first half is closed. *Ours* is what the "
    "search does, *Rocchio* the formula of that name; both choose the chips to label, except under *random choice*.\n\n",
    "search_page": "*Opened* is the time until the page shows its first answer, *loaded* the part of it after the page's load event, *text* "
    "from typing to the answer, *click* from a label to the new order. *Megabytes* are those of the files that search; *kept neighbours* "
    "is the percentage of the nearest ten of a chip that rounding keeps.\n\n",
}

# Rows of such a file that measure something else, by their policy: a table of their own below, since their columns mean other things.
FURTHER = {
    "confidence": (
        "What the search expects of itself, beside what came true. *In the interval*: how often its 95 % interval held the truth",
        {
            "set": "set",
            "labels": "labels",
            "n": "cases",
            "covered": "average precision: in the interval, percent",
            "error": "off by, points",
            "first_covered": "yes among the first 20: in the interval, percent",
            "first_error": "off by, chips",
        },
    ),
    "stop": (
        "When the search says that these labels are enough, and the mAP in percent then (after the last label where it never says so)",
        {
            "set": "set",
            "n": "cases",
            "covered": "said so, percent",
            "value": "labels by then, mean",
            "then": "mAP then",
            "last": "mAP after the last",
        },
    ),
}


def headline() -> str:
    """The table of HEADLINE, each number with its interval, the best that was reached without a model, and what guessing gives.

    Raises:
        DataError: A record is missing, or nothing stands beside it that took no model; it is named.
    """
    everything = results.table()
    measured = without_model.beside(everything)
    text = "| question | reached, 95 % interval | without a model | difference | chance | n |\n"
    text += "| --- | --: | --: | --: | --: | --: |\n"
    for question, where, experiment, run, *rest in HEADLINE:
        names = ("split", "protocol", "direction", "metric")
        found = measured[(measured["experiment"] == experiment) & (measured["run"] == run)]
        for name, wanted in zip(names, rest, strict=True):
            found = found[found[name] == wanted]
        path = f"results/{experiment}/{run}/metrics.json"
        if len(found) != 1:
            raise DataError(
                f"{path} has {len(found)} rows of {', '.join(rest)}, the first page quotes one: run the notebook {where}"
            )
        row = found.iloc[0]
        value, name, gap = _without_model(row, everything)
        if not name:
            raise DataError(f"{path} has nothing without a model beside {', '.join(rest)}: take the row off the first page")
        what = f"{METRICS.get(row.metric, row.metric)}, {row.protocol}"
        reached = f"{_points(row.value)}\u00a0% ({_points(row.ci_low)} to {_points(row.ci_high)})"
        beside = f"{_points(value)} ({escape(CALLED.get(name, name))})"
        gained = f"{gap[0]:+.1f} ({gap[1]:+.1f} to {gap[2]:+.1f})".replace("-", "\u2212") if gap else "–"
        cells = (reached, beside, gained, _points(row.chance), f"{row.n:,}")
        text += f"| {{doc}}`{question} </book/executed/{where}>`: {what} | {' | '.join(cells)} |\n"
    return text


def _points(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"


def _without_model(row, everything) -> tuple[float, str, tuple[float, float, float] | None]:
    """The best that no model reached, its name, and the difference where it was measured on the same resamples."""
    value, name = row.baseline_value, row.baseline
    gap = (row.gap, row.gap_low, row.gap_high) if name else None
    runs, protocols = BASELINES.get(row.experiment, ((), ()))
    same = everything[everything["experiment"] == row.experiment]
    for key in ("dataset", "split", "direction", "metric"):
        same = same[same[key] == getattr(row, key)]
    for other in same.itertuples():
        is_run = other.run in runs and other.protocol == row.protocol
        if is_run or (other.protocol in protocols and other.run == row.run):
            if not name or other.value > value:
                value, name = other.value, other.run if is_run else other.protocol
                gained = same[(same["run"] == row.run) & (same["protocol"] == f"{row.protocol} - {name}")]
                gap = None if gained.empty else tuple(gained.iloc[0][["value", "ci_low", "ci_high"]])
    return value, name, gap


def page(folder: Path) -> str:
    """The page of all files there; a name that has no place in PARTS is shown with all its columns."""
    text = "# Performance\n\nEach table is one command, run on one machine on one day; its last line names them and the commit, and every line is a record in "
    text += "`results/bench/`. Speeds and times are medians where something ran more than once. Read the ratios first: each is the median over "
    text += "rounds in which all took turns, not a quotient of columns. Memory is the most that the process held, in MB of 2\u00b2\u2070 bytes.\n\n"
    text += "`make bench` measures all but the last anew. A command that begins with `rsvlm bench` belongs to an older record; today it "
    text += "begins with `python -m benchmarks`. What each chapter and the whole book take is in {doc}`status`.\n"
    paths = sorted(folder.glob("*.json"), key=lambda path: [*PARTS, path.stem].index(path.stem))
    if not paths:
        raise DataError(f"{folder} holds no measurement: run make bench, or restore the folder")
    for path in paths:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows, origin = found["rows"], found["provenance"]
        title, names = PARTS.get(path.stem, (path.stem, {name: name for row in rows for name in row}))
        text += f"\n## {title}\n\n{ABOUT.get(path.stem, '')}{_table([row for row in rows if row.get('policy') not in FURTHER], names)}"
        for policy, (about, columns) in FURTHER.items():
            if further := [row for row in rows if row.get("policy") == policy]:
                text += f"\n{about}:\n\n{_table(further, columns)}"
        command = re.sub(r" --[\w-]+ (?= )", "", origin["command"])  # without options that were given nothing
        text += f"\n`{command}`, {origin['cpu']}, {origin['cores']} cores, {origin['device']}, {origin['started'][:10]}, "
        found_by = ", found by the hash of the package" if origin.get("commit_found_by") == "package_hash" else ""
        text += "commit not recorded.\n" if origin["commit"] == "unknown" else f"commit `{origin['commit'][:12]}`{found_by}.\n"
    return text


def _table(rows: list[dict], names: dict[str, str]) -> str:
    shown = {name: label for name, label in names.items() if any(row.get(name) is not None for row in rows)}
    cells = [[_cell(row.get(name)) for name in shown] for row in rows]
    lines = [[*shown.values()], ["--:" if _numbers(rows, name) else "---" for name in shown], *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _numbers(rows: list[dict], name: str) -> bool:
    return all(isinstance(row.get(name), int | float | None) for row in rows)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else escape(str(value)).replace("|", r"\|")


def write_pages(app) -> None:
    home = Path(app.srcdir)
    generated = home / "book" / "generated"
    if "file: book/generated/performance" in (home / "_toc.yml").read_text(encoding="utf-8"):
        files.write_atomic(generated / "performance.md", page(home / "results" / "bench"))
    if (home / "book" / "index.md").is_file():
        # No page of its own, so its name is none of a page's. The class tells the test that reads pages for typed decimals.
        files.write_atomic(generated / "headline.inc", f":::{{container}} generated\n\n{headline()}\n:::\n")


def setup(app) -> dict:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
