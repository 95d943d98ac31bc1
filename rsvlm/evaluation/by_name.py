"""Evaluations by name: open a model, read a benchmark, embed it once, score it under every protocol; what `rsvlm evaluate` calls.

A model is a folder of this package, `open_clip:NAME[:FILE]`, `hf:FOLDER`, or `embeddings:FILE.npz`, which any other system may have
written; the benchmark is one of `catalogue.rows`, or a folder that says itself what it is.
"""

from __future__ import annotations

import functools
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from rsvlm.data import benchmarks, catalogue, shards
from rsvlm.errors import DataError
from rsvlm.evaluation import classification, embeddings as embedded, given, leakage, retrieval
from rsvlm.model.embed import Encoder
from rsvlm.model.others import opening as encoders
from rsvlm.records import files, results, stages

logger = logging.getLogger(__name__)

FILE = "embeddings:"
COUNTINGS = ("plain", "skyscript", "one-to-one")  # remoteclip and rs5m count as plain does, and differ in words


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        rows: Metric rows (`results.ROW`).
        about: What they are of, for the provenance: model, its fingerprint, benchmark, data_hash, skipped (reason → number).
        confusion: Of a classification, for each prompt set the images of each true class (row) by answer (column).
        found: Of a search for overlaps, the pairs.
    """

    rows: list[dict]
    about: dict
    confusion: dict[str, pd.DataFrame] = field(default_factory=dict)
    found: pd.DataFrame | None = None


def retrieve(
    model: str,
    root: Path | str | None = None,
    benchmark: str | None = None,
    *,
    split: str = "test",
    protocol: str = "all",
    ties: str = "pessimistic",
    per_class: bool = False,
    bootstrap_samples: int = 1000,
    batch_size: int = 256,
    seed: int = 0,
    device: str = "auto",
    keep: Path | None = None,
) -> Evaluation:
    """Score image→text and text→image retrieval. Images are embedded once, and every text once, whatever protocols read it.

    Args:
        model: As for `encoders.open_encoder`, or `embeddings:FILE.npz`, which needs no folder and no benchmark. It holds one wording
            of the captions. Of all protocols it gets those whose words its `wording` names, or, where it names none, each way of
            counting once, marked `(wording not stated)`; whoever asks for a single protocol says that the words are that one's.
        root: Folder of the benchmark.
        benchmark: Its name in `catalogue.rows`, whose numbers must then be met; none: what the folder itself says.
        split: Its split; of a file of embeddings only the name.
        protocol: One of `retrieval.PROTOCOLS`, or all of them.
        ties: As for `retrieval.evaluate`.
        per_class: Also recalls of each scene class, where the benchmark tells classes.
        bootstrap_samples: As for `retrieval.evaluate`.
        batch_size: Images per forward pass.
        seed: Of the bootstrap.
        device: auto, cpu, cuda or cuda:N.
        keep: Keep the embeddings in this folder.

    Raises:
        DataError: An unknown protocol, or a benchmark or file that is missing, broken, of another form or of other words.
        ModelError: As `encoders.open_encoder`.
    """
    classes: dict[str, str] = {}
    parts, about, labels = _embedded(model, root, benchmark, split, protocol, batch_size, device, keep, classes)
    if per_class and not classes:
        raise DataError(f"{about['benchmark']} does not say of what class its images are: leave --per-class out")
    rows = [
        row
        for name, found in parts.items()
        for row in retrieval.evaluate(
            found.image_embeddings,
            found.caption_embeddings,
            found.image_of_caption,
            found.captions or None,
            name,
            dataset=about["benchmark"],
            split=split,
            ties=ties,
            bootstrap_samples=bootstrap_samples,
            seed=seed,
            classes=[classes.get(key) for key in found.keys] if per_class else None,
        )
    ]
    return Evaluation(_labelled(rows, labels), about)


def classify(
    model: str,
    root: Path | str | None,
    benchmark: str | None = None,
    *,
    split: str | None = None,
    prompts: Sequence[str] = ("paper",),
    bootstrap_samples: int = 1000,
    batch_size: int = 256,
    seed: int = 0,
    device: str = "auto",
) -> Evaluation:
    """Score zero-shot classification: an image gets the class whose texts are nearest.

    Args:
        model: As for `encoders.open_encoder`.
        root: As for `retrieve`.
        benchmark: As for `retrieve`.
        split: The benchmark's split; none: every image.
        prompts: Names of `catalogue.prompt_sets`, or text files with one template on each line, with `{class}` for the name.
        bootstrap_samples: As for `classification.evaluate`.
        batch_size: Images per forward pass.
        seed: Of the bootstrap.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        DataError: As `retrieve`; or an unknown prompt set.
        ModelError: As `encoders.open_encoder`.
    """
    if str(model).startswith(FILE):
        raise DataError(f"{model} cannot read the names of classes: give --model a model, or score the file with retrieval")
    _checked_root(root)
    templates = dict(map(_templates, prompts))
    skipped: Counter = Counter()
    names, items = benchmarks.labelled(root, benchmark, split, skipped=skipped)
    encoder = encoders.open_encoder(model, device)
    classes = {name: classification.class_embeddings(encoder, names, lines) for name, lines in templates.items()}
    with tempfile.TemporaryDirectory() as scratch:
        out = embedded.labelled(encoder, items, Path(scratch), class_names=names, batch_size=batch_size, skipped=skipped)
        found = embedded.read_labelled(out)
    about = _about(encoder, root, benchmark, skipped)
    rows = classification.evaluate(
        found.image_embeddings,
        found.labels,
        classes,
        names,
        dataset=about["benchmark"],
        split=split or leakage.EVERYTHING,
        logit_scale=found.logit_scale,
        bootstrap_samples=bootstrap_samples,
        seed=seed,
    )
    tables = {name: classification.confusion(found.image_embeddings, found.labels, part) for name, part in classes.items()}
    return Evaluation(rows, about, {name: pd.DataFrame(table, names, names) for name, table in tables.items()})


def overlap(
    train: Sequence[Path | str],
    root: Path | str | None,
    benchmark: str | None = None,
    *,
    split: str = "test",
    train_split: str = "train",
    distance: int = leakage.duplicates.DISTANCE,
    min_jaccard: float = 0.8,
    model: str | None = None,
    protocol: str = "all",
    ties: str = "pessimistic",
    bootstrap_samples: int = 1000,
    batch_size: int = 256,
    seed: int = 0,
    device: str = "auto",
) -> Evaluation:
    """Look for a benchmark in training sets; with a model, also score it with and without the pictures that are in them.

    Args:
        train: As for `leakage.find`.
        root: As for `retrieve`.
        benchmark: As for `retrieve`.
        split: The benchmark's split.
        train_split: As for `leakage.find`.
        distance: As for `leakage.find`.
        min_jaccard: As for `leakage.find`.
        model: As for `retrieve`; none: no scores.
        protocol: As for `retrieve`.
        ties: As for `retrieve`.
        bootstrap_samples: As for `retrieve`.
        batch_size: Images per forward pass.
        seed: Of the bootstrap and of the images left out for comparison.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        DataError: As `leakage.find` and `retrieve`.
    """
    if not train:
        raise DataError("no training set is given: --train takes a folder of shards or of a benchmark, or a file of captions")
    _checked_root(root)
    parts, labels = {}, None
    about = {"benchmark": title(benchmark, root), "data_hash": _data_hash(root)}
    if model:
        parts, about, labels = _embedded(model, root, benchmark, split, protocol, batch_size, device, None, {})
    name = about["benchmark"]
    found = leakage.find(
        train, root, split=split, train_split=train_split, name=name, distance=distance, min_jaccard=min_jaccard
    )
    rows = leakage.rows(found)
    for each, embeddings in parts.items():
        options = {"protocol": each, "ties": ties, "bootstrap_samples": bootstrap_samples, "seed": seed}
        rows += _labelled(leakage.compare(embeddings, found, dataset=name, split=split, **options), labels)
    return Evaluation(rows, about | {"train": [leakage.called(where) for where in train]}, found=found)


def title(benchmark: str | None, root: Path | str | None) -> str:
    """Return a benchmark's name as `catalogue.rows` spells it; without a name, what the folder itself says."""
    if benchmark is None:
        return leakage.called(root) if root else "unnamed"
    return next((e["name"] for e in catalogue.rows() if e["name"].casefold() == benchmark.casefold()), benchmark)


def write(evaluation: Evaluation, out: Path | str, provenance: Mapping[str, object]) -> Path:
    """Write the rows as a JSON list, and beside it `NAME.provenance.json` with where they came from.

    Raises:
        DataError: A row that `results.checked_row` refuses.
    """
    out = Path(out)
    rows = [results.checked_row(row) for row in evaluation.rows]
    made = dict(provenance) | evaluation.about
    files.write_atomic(out.with_suffix(".provenance.json"), json.dumps(made, indent=1, allow_nan=False) + "\n")
    return files.write_atomic(out, json.dumps(rows, indent=1, allow_nan=False) + "\n")


def listing(names: Sequence[str] = ()) -> str:
    """Describe the known benchmarks: what each is, where to get it, how its folder looks, its licence and its traps.

    Raises:
        DataError: A name that is not known.
    """
    rows = catalogue.rows()
    known = {row["name"].casefold(): row for row in rows}
    if unknown := [name for name in names if name.casefold() not in known]:
        raise DataError(f"unknown benchmark '{unknown[0]}': there are {', '.join(row['name'] for row in rows)}")
    return "\n\n".join(_described(known[name.casefold()]) for name in (names or [row["name"] for row in rows]))


def _described(row: Mapping) -> str:
    splits = [
        f"{split}: {', '.join(f'{n:,} {what}' for what, n in counts.items())}" for split, counts in row["splits"].items()
    ]
    layout = row["layout"].replace("\n", "\n  " + " " * 10)
    lines = [f"{row['name']}: {row['task']}" + (f", {row['classes']} classes" if row["classes"] else "")]
    lines += [f"  splits    {'; '.join(splits)}"] if splits else []
    lines += [f"  from      {row['where']}", f"  licence   {row['licence']}", f"  layout    {layout}"]
    lines += [f"  paper     {row['paper']}"] if row.get("paper") else []
    lines += [f"  beware    {trap}" for trap in row["traps"]]
    lines += [f"  looked up {source}" for source in row["sources"]]
    return "\n".join(lines + ([] if row["verified"] else [f"  not seen first-hand: {row['unsure'] or 'all of this'}"]))


def _embedded(
    model: str,
    root: Path | str | None,
    benchmark: str | None,
    split: str,
    protocol: str,
    batch_size: int,
    device: str,
    keep: Path | None,
    classes: dict[str, str],
) -> tuple[dict[str, embedded.Embeddings], dict, dict[str, str] | None]:
    """Embeddings for each protocol (of a file: one for all that were asked for), what they are of, and labels for `_labelled`."""
    names = list(retrieval.PROTOCOLS) if protocol == "all" else [protocol]
    if unknown := [name for name in names if name not in retrieval.PROTOCOLS]:
        raise DataError(f"unknown protocol '{unknown[0]}': choose one of {', '.join(retrieval.PROTOCOLS)}, or all")
    if str(model).startswith(FILE):
        found, labels = given.read_embeddings(model), _labels(model, protocol)
        path = Path(str(model).removeprefix(FILE))
        digest = files.file_sha256(path)
        dataset = title(benchmark, root) if benchmark or root else path.stem
        about = {"model": path.stem, "fingerprint": digest, "benchmark": dataset, "data_hash": digest[:16], "skipped": {}}
        return {protocol: found}, about, labels
    _checked_root(root)
    skipped: Counter = Counter()
    samples = _noted(benchmarks.samples(root, split, name=benchmark, skipped=skipped), classes)
    encoder = encoders.open_encoder(model, device)
    wordings = {name: functools.partial(retrieval.caption_text, name) for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        out = keep or Path(scratch)
        embedded.write(encoder, samples, out, batch_size=batch_size, skipped=skipped, texts=wordings)
        parts = {name: embedded.read(out, name) for name in names}
    return parts, _about(encoder, root, benchmark, skipped), None


def _labels(model: str, protocol: str) -> dict[str, str]:
    """For a file of embeddings, the protocols that may be reported, and under what name: one set of vectors has one wording."""
    stated, probe = given.wording(model), ["A Lake."]
    if stated is None:
        return {protocol: protocol} if protocol != "all" else {name: f"{name} (wording not stated)" for name in COUNTINGS}
    if stated not in retrieval.PROTOCOLS:
        raise DataError(
            f"{model}: its wording is '{stated}': expected the name of a protocol: {', '.join(retrieval.PROTOCOLS)}"
        )
    same = [
        name for name in retrieval.PROTOCOLS if retrieval.caption_text(name, probe) == retrieval.caption_text(stated, probe)
    ]
    if protocol not in ("all", *same):
        raise DataError(
            f"{model} holds captions in the words of {stated}: {protocol} words them otherwise; it fits {', '.join(same)}"
        )
    left = [name for name in retrieval.PROTOCOLS if name not in same]
    if protocol == "all":
        logger.info("%s holds captions in the words of %s: left out are %s", model, stated, ", ".join(left))
    return {name: name for name in same}


def _labelled(rows: list[dict], labels: Mapping[str, str] | None) -> list[dict]:
    """Keep the rows of the protocols in `labels` and name them so; ties stay in the name."""
    if labels is None:
        return rows
    cut = [(row, *row["protocol"].partition(" ")) for row in rows]
    return [row | {"protocol": labels[name] + blank + rest} for row, name, blank, rest in cut if name in labels]


def _checked_root(root: Path | str | None) -> None:
    if root is None or not Path(root).exists():
        raise DataError(
            f"there is no benchmark folder {root or ''}: --root takes the folder that holds its images and captions"
        )


def _noted(samples: Iterable[shards.Sample], classes: dict[str, str]) -> Iterator[shards.Sample]:
    """Pass samples on and note the scene class of each, where its record has one."""
    for sample in samples:
        if "class" in sample.record:
            classes[sample.key] = str(sample.record["class"])
        yield sample


def _about(encoder: Encoder, root: Path | str, benchmark: str | None, skipped: Counter) -> dict:
    about = {"model": encoder.name, "fingerprint": encoder.fingerprint, "benchmark": title(benchmark, root)}
    return about | {"data_hash": _data_hash(root), "skipped": dict(skipped)}


def _data_hash(root: Path | str) -> str:
    path = Path(root)
    return benchmarks.fingerprint(path) if path.is_dir() else stages.key(path=path.name, size=path.stat().st_size)


def _templates(where: str) -> tuple[str, list[str]]:
    """Name and templates of a prompt set of ours, or of a file."""
    path = Path(where)
    if not path.is_file():
        return where, catalogue.prompt_set(where)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): give a text file with one template on each line") from None
    return path.stem, [line for line in lines if line and not line.startswith("#")]


def confusion_csv(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return confusion matrices as one CSV: prompts, true class, answer, images; only pairs that occur."""
    parts = []
    for name, table in tables.items():
        row, column = np.nonzero(table.to_numpy())
        counts = {
            "prompts": name,
            "class": table.index[row],
            "answer": table.columns[column],
            "images": table.to_numpy()[row, column],
        }
        parts.append(pd.DataFrame(counts))
    return pd.concat(parts, ignore_index=True).to_csv(index=False, lineterminator="\n")
