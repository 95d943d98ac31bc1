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

from rsvlm.data import benchmarks, catalogue, duplicates, shards
from rsvlm.errors import DataError
from rsvlm.evaluation import captioning, classification, embeddings, given, leakage, retrieval, shared_ground, statistics
from rsvlm.model.embed import Encoder
from rsvlm.model.others import opening
from rsvlm.records import files, results, stages, text

logger = logging.getLogger(__name__)

FILE = "embeddings:"
COUNTINGS = ("plain", "skyscript", "one-to-one")  # remoteclip and rs5m count as plain does, and differ in words


@dataclass(frozen=True)
class Options:
    """How a model is run and its answers are scored.

    Attributes:
        protocol: One of `retrieval.PROTOCOLS`, or all of them.
        ties: Rule for ties, as for `retrieval.evaluate`.
        bootstrap_samples: Number of resamples of the images.
        batch_size: Images per forward pass.
        seed: Seed of the resamples, and of the images that `overlap` leaves out for comparison.
        device: auto, cpu, cuda or cuda:N.
        partial: Whether less than half of what a named benchmark should have is accepted.
    """

    protocol: str = "all"
    ties: str = "pessimistic"
    bootstrap_samples: int = 1000
    batch_size: int = 256
    seed: int = 0
    device: str = "auto"
    partial: bool = False

    def scoring(self) -> dict:
        """Return those that `retrieval.evaluate` takes."""
        return {"ties": self.ties, "bootstrap_samples": self.bootstrap_samples, "seed": self.seed}


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        rows: Metric rows (`results.ROW`).
        about: What they are of, for the provenance: model, its fingerprint, benchmark, data_hash, skipped (reason → number); of
            retrieval also population: number of images and captions, and a sketch of these (`text.sketch`).
        confusion: Of a classification, for each prompt set the images of each true class (row) by answer (column).
        pairs: Of a search for overlaps, the pairs.
        draws: Values over resamples, (R,) for each row's (protocol, direction, metric), for `statistics.gap`.
        parts: Of retrieval, the embeddings of each protocol.
        blocks: Of retrieval, (N,) blocks of images that share ground, which are resampled whole; None where images do not tell theirs.
    """

    rows: list[dict]
    about: dict
    confusion: dict[str, pd.DataFrame] = field(default_factory=dict)
    pairs: pd.DataFrame | None = None
    draws: dict[tuple[str, str, str], np.ndarray] = field(default_factory=dict)
    parts: dict[str, embeddings.Embeddings] = field(default_factory=dict)
    blocks: np.ndarray | None = None


def retrieve(
    model: str,
    root: Path | str | None = None,
    benchmark: str | None = None,
    options: Options = Options(),
    *,
    split: str = "test",
    per_class: bool = False,
    out: Path | None = None,
) -> Evaluation:
    """Score image→text and text→image retrieval. Images are embedded once, and every text once, whatever protocols read it.

    Images whose records tell their ground (`footprint_lonlat`) are resampled in blocks of what overlaps; `about["blocks"]` is their
    number.

    Args:
        model: As for `opening.open_encoder`, or `embeddings:FILE.npz`, which needs no folder and no benchmark. It holds one wording
            of the captions. Of all protocols it gets those whose words its `wording` names, or, where it names none, each way of
            counting once, marked `(wording not stated)`; whoever asks for a single protocol says that the words are that one's.
        root: Folder of the benchmark.
        benchmark: Name in `catalogue.rows`, whose numbers must then be met. If None, what the folder itself says.
        options: How it is scored.
        split: Split of the benchmark; of a file of embeddings only the name, and what its numbers must be like.
        per_class: Whether there are recalls of each scene class, too, where the benchmark tells classes.
        out: Folder that the embeddings are kept in. If None, they are not.

    Raises:
        DataError: An unknown protocol, or a benchmark or file that is missing, broken, of another form or of other words.
        ModelError: As `opening.open_encoder`.
    """
    noted: dict[str, dict] = {}
    parts, about, labels = _embedded(model, root, benchmark, split, options, out, noted, per_class)
    rows, draws, keys = [], {}, next(iter(parts.values())).keys
    blocks = shared_ground.blocks([noted.get(key, {}) for key in keys])
    about |= {} if blocks is None else {"blocks": statistics.count_blocks(blocks, len(keys))}
    facts = {"dataset": about["benchmark"], "split": split, "resampled": draws, "blocks": blocks} | options.scoring()
    for protocol, vectors in parts.items():
        of_images = [noted.get(key, {}).get("class") for key in vectors.keys] if per_class else None
        try:
            rows += retrieval.evaluate(*vectors.arrays(), protocol, classes=of_images, **facts)
        except DataError as error:  # as a protocol that needs more texts than there are: the others can be measured
            if options.protocol != "all" or (not rows and protocol == list(parts)[-1]):
                raise
            logger.warning("protocol %s is left out: %s", protocol, error)
    return Evaluation(_labelled(rows, labels), about, draws=draws, parts=parts if labels is None else {}, blocks=blocks)


def classify(
    model: str,
    root: Path | str | None,
    benchmark: str | None = None,
    options: Options = Options(),
    *,
    split: str | None = None,
    prompts: Sequence[str] = ("paper",),
) -> Evaluation:
    """Score zero-shot classification: an image gets the class whose texts are nearest. Arguments are as for `retrieve`, but for two.

    If `split` is None, every image is read. `prompts` are names of `catalogue.prompt_sets`, or text files with one template on each
    line, with `{class}`, `{c}` or `{}` for the name. Where the folder brings other names of classes than the catalogue has, the protocol
    says so.

    Raises:
        DataError: As `retrieve`; or an unknown prompt set.
        ModelError: As `opening.open_encoder`.
    """
    if str(model).startswith(FILE):
        raise DataError(f"{model} cannot read the names of classes: give --model a model, or add --shots, which needs none")
    templates = dict(map(templates_of, prompts))
    check(model, root, benchmark, "classification", options.device)
    skipped: Counter = Counter()
    names, items = benchmarks.labelled(root, benchmark, split, partial=options.partial, skipped=skipped)
    if _are_other_words(names, title(benchmark, root, "classification"), split):
        logger.warning("%s has other names of classes than are known here: its accuracies are under other words", root)
        templates = {f"{name} (other class words)": lines for name, lines in templates.items()}
    encoder = opening.open_encoder(model, options.device)
    classes = {name: classification.class_embeddings(encoder, names, lines) for name, lines in templates.items()}
    with tempfile.TemporaryDirectory() as scratch:
        sizes = {"batch_size": options.batch_size, "skipped": skipped}
        vectors = embeddings.read_labelled(embeddings.labelled(encoder, items, Path(scratch), class_names=names, **sizes))
    about = about_model(encoder, root, title(benchmark, root, "classification"), skipped)
    known = vectors.image_embeddings, vectors.labels
    facts = {"dataset": about["benchmark"], "split": split or leakage.EVERYTHING, "logit_scale": vectors.logit_scale}
    draws: dict = {}
    facts |= {"bootstrap_samples": options.bootstrap_samples, "seed": options.seed, "resampled": draws}
    rows = classification.evaluate(*known, classes, names, **facts)
    tables = {name: classification.confusion(*known, of_classes) for name, of_classes in classes.items()}
    confused = {name: pd.DataFrame(table, names, names) for name, table in tables.items()}
    return Evaluation(rows, about, confused, draws=draws)


def captions(
    model: str,
    root: Path | str | None,
    benchmark: str | None = None,
    options: Options = Options(),
    *,
    split: str = "test",
    train_split: str = "train",
    beams: int = 1,
    out: Path | None = None,
) -> Evaluation:
    """Score the captions that a model writes, beside captions that took no model; arguments are as for `retrieve`, but for three.

    `train_split` is where the captions without a model come from; where the benchmark has none, nothing stands beside, and a warning
    says so. `beams` is as for `captioning.write`. `out` gets the captions as JSON lines.

    Raises:
        DataError: As `retrieve`.
        ModelError: As `opening.open_encoder`; or the model writes no captions.
        MissingExtraError: A package that scores is not installed.
    """
    if str(model).startswith(FILE):
        raise DataError(f"{model} holds vectors, which write no captions: give --model a model")
    check(model, root, benchmark, "retrieval", options.device)
    skipped: Counter = Counter()
    samples = benchmarks.samples(root, split, name=benchmark, partial=options.partial, skipped=skipped)
    encoder = opening.open_encoder(model, options.device)
    captioning.check_ability(encoder)
    alone, others = "no captions without a model stand beside these, for %s; --train-split names another split", {}
    train = None
    try:  # before hours of writing, so that a wrong name can be mended
        if split == train_split:
            raise DataError(f"split '{split}' is asked for and learnt from")
        train = captioning.read(benchmarks.samples(root, train_split, name=benchmark, partial=options.partial))
    except DataError as error:
        logger.warning(alone, error)
    written, pictures = captioning.write(encoder, samples, batch_size=options.batch_size, beams=beams, skipped=skipped)
    try:
        others = captioning.without_model(train, pictures, options.seed) if train else {}
    except DataError as error:
        logger.warning(alone, error)
    about = about_model(encoder, root, title(benchmark, root, "retrieval"), skipped)
    facts = {"dataset": about["benchmark"], "split": split, "protocol": f"{beams} beams" if beams > 1 else "greedy"}
    draws = {"bootstrap_samples": options.bootstrap_samples, "seed": options.seed}
    rows = captioning.evaluate(written, pictures, others, **facts, **draws)
    if out:
        captioning.write_list(out, written, pictures, others)
    return Evaluation(rows, about | {"words": "plain", "references": sum(map(len, pictures.references))})


def overlap(
    train: Sequence[Path | str],
    root: Path | str | None,
    benchmark: str | None = None,
    options: Options = Options(),
    *,
    split: str = "test",
    train_split: str = "train",
    distance: int = duplicates.DISTANCE,
    min_jaccard: float = 0.8,
    model: str | None = None,
) -> Evaluation:
    """Look for a benchmark in training sets; with a model, also score it with and without the pictures that are in them.

    `train`, `train_split`, `distance` and `min_jaccard` are as for `leakage.find`, the others as for `retrieve`; without a model
    nothing is scored.

    Raises:
        DataError: As `leakage.find` and `retrieve`.
    """
    if not train:
        raise DataError("no training set is given: --train takes a folder of shards or of a benchmark, or a file of captions")
    named = benchmark and next((e["name"] for e in catalogue.rows() if e["name"].casefold() == benchmark.casefold()), None)
    benchmark = named or (benchmark and title(benchmark, root))
    check(model, root, benchmark, None, options.device)
    parts, labels = {}, None
    about = {"benchmark": title(benchmark, root), "data_hash": _data_hash(root)}
    if model:
        parts, about, labels = _embedded(model, root, benchmark, split, options, None)
    name = about["benchmark"]
    limits = {"distance": distance, "min_jaccard": min_jaccard}
    splits = {"split": split, "train_split": train_split, "partial": options.partial}
    pairs = leakage.find(train, root, name=name, **splits, **limits)
    rows = leakage.rows(pairs)
    facts = {"dataset": name, "split": split} | options.scoring()
    for protocol, vectors in parts.items():
        rows += _labelled(leakage.compare(vectors, pairs, protocol=protocol, **facts), labels)
    return Evaluation(rows, about | {"train": list(map(leakage.called, train))}, pairs=pairs)


def title(benchmark: str | None, root: Path | str | None, task: str | None = None) -> str:
    """Return a benchmark's name as `catalogue.rows` spells it; without a name, what the folder itself says.

    Raises:
        DataError: No benchmark of that task, or of any if it is None, has this name.
    """
    if benchmark is None:
        return leakage.called(root) if root else "unnamed"
    return catalogue.find(benchmark, task)[0]


def write(evaluation: Evaluation, out: Path | str, provenance: Mapping[str, object]) -> Path:
    """Write the rows as a JSON list, and beside it `NAME.provenance.json` with where they came from.

    Raises:
        DataError: A row that `results.checked_row` refuses.
    """
    out = Path(out)
    rows = [results.checked_row(row) for row in evaluation.rows]
    contents = {out.with_suffix(".provenance.json"): dict(provenance) | evaluation.about, out: rows}
    for path, content in contents.items():
        files.write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return out


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
    counts = {split: ", ".join(f"{n:,} {what}" for what, n in known.items()) for split, known in row["splits"].items()}
    splits = [f"{split}: {numbers}" for split, numbers in counts.items()]
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
    options: Options,
    out: Path | None,
    noted: dict[str, dict] | None = None,
    per_class: bool = False,
) -> tuple[dict[str, embeddings.Embeddings], dict, dict[str, str] | None]:
    """Embeddings for each protocol (of a file: one for all that were asked for), what they are of, and labels for `_labelled`.

    Class and ground of images are noted in `noted`, by key; where classes are wanted and there are none, that is told before the work
    begins.
    """
    names = list(retrieval.PROTOCOLS) if options.protocol == "all" else [options.protocol]
    if unknown := [name for name in names if name not in retrieval.PROTOCOLS]:
        raise DataError(f"unknown protocol '{unknown[0]}': choose one of {', '.join(retrieval.PROTOCOLS)}, or all")
    check(model, root, benchmark, "retrieval", options.device)
    if str(model).startswith(FILE):
        vectors, labels = given.read_embeddings(model), _labels(model, options.protocol)
        path = Path(str(model).removeprefix(FILE))
        digest = files.file_sha256(path)
        dataset = title(benchmark, root, "retrieval") if benchmark or root else path.stem
        if per_class:
            raise _no_classes(dataset)
        if benchmark:
            _compare(path, vectors, dataset, split, options.partial)
        about = {"model": path.stem, "fingerprint": digest, "benchmark": dataset, "data_hash": digest[:16], "skipped": {}}
        return {options.protocol: vectors}, about | _population(vectors), labels
    skipped: Counter = Counter()
    samples = benchmarks.samples(root, split, name=benchmark, partial=options.partial, skipped=skipped)
    if per_class:
        looked_at = benchmarks.samples(root, split, name=benchmark, partial=options.partial)
        if not any("class" in sample.record for sample in looked_at):
            raise _no_classes(title(benchmark, root, "retrieval"))
    samples = samples if noted is None else _noted(samples, noted)
    encoder = opening.open_encoder(model, options.device)
    wordings = {name: functools.partial(retrieval.caption_text, name) for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        out = out or Path(scratch)
        embeddings.write(encoder, samples, out, batch_size=options.batch_size, skipped=skipped, texts=wordings)
        parts = {name: embeddings.read(out, name) for name in names}
    about = about_model(encoder, root, title(benchmark, root, "retrieval"), skipped)
    return parts, about | _population(next(iter(parts.values()))), None


def _labels(model: str, protocol: str) -> dict[str, str]:
    """For a file of embeddings, the protocols that may be reported, and under what name: one set of vectors has one wording."""
    stated, probe = given.wording(model), ["A Lake."]
    if stated is None:
        return {protocol: protocol} if protocol != "all" else {name: f"{name} (wording not stated)" for name in COUNTINGS}
    if stated not in retrieval.PROTOCOLS:
        known = ", ".join(retrieval.PROTOCOLS)
        raise DataError(f"{model}: its wording is '{stated}': expected the name of a protocol: {known}")
    texts = {name: retrieval.caption_text(name, probe) for name in retrieval.PROTOCOLS}
    same = [name for name in texts if texts[name] == texts[stated]]
    if protocol not in ("all", *same):
        otherwise = f"{protocol} words them otherwise; it fits {', '.join(same)}"
        raise DataError(f"{model} holds captions in the words of {stated}: {otherwise}")
    if protocol == "all":
        others = ", ".join(name for name in texts if name not in same)
        logger.info("%s holds captions in the words of %s: left out are %s", model, stated, others)
    return {name: name for name in same}


def _labelled(rows: list[dict], labels: Mapping[str, str] | None) -> list[dict]:
    """Keep the rows of the protocols in `labels` and name them so; ties stay in the name."""
    if labels is None:
        return rows
    parts = [(row, *row["protocol"].partition(" ")) for row in rows]
    return [row | {"protocol": labels[name] + blank + rest} for row, name, blank, rest in parts if name in labels]


def check(model: str | None, root: Path | str | None, benchmark: str | None, task: str | None, device: str) -> None:
    """Say what is misspelt before what is missing, and both before any work."""
    name, entry = catalogue.find(benchmark, task) if benchmark else ("", {})
    if model and str(model).startswith(FILE):
        return
    if model and ":" not in str(model) and not Path(model).is_dir():
        opening.open_encoder(model, device)  # says so
    expected = "--root takes the folder that holds its images and captions, or shards"
    expected += f" (from {entry['where']})" if entry else ""
    if root is None:
        raise DataError(f"no benchmark folder{f' of {name}' if name else ''} is given: {expected}")
    if not Path(root).exists():
        raise DataError(f"there is no benchmark folder {root}: {expected}")


def _compare(path: Path, vectors: embeddings.Embeddings, name: str, split: str, partial: bool) -> None:
    """Compare the numbers of vectors with those of the benchmark that they are said to be of."""
    known = catalogue.populations().get((name, split), {})
    for what, number in (("images", len(vectors.keys)), ("captions", len(vectors.image_of_caption))):
        wanted = known.get(what, number)
        if 2 * number < wanted and not partial:
            advice = "leave --benchmark out, or take what is there with --partial (partial=True)"
            raise DataError(f"{path} has {number:,} {what}, the split '{split}' of {name} has {wanted:,}: {advice}")
        if number != wanted:
            difference = path, number, what, wanted, name
            logger.warning("%s has %d %s, expected %d: its figures are not those of %s", *difference)


def _population(vectors: embeddings.Embeddings) -> dict:
    """What the scores are over: number of images and captions, and a sketch of the captions, by which others are noticed."""
    captions = [caption.removeprefix("a satellite image. ") for caption in vectors.captions]
    counts = {"images": len(vectors.keys), "captions": len(vectors.image_of_caption)}
    return {"population": counts | {"sketch": text.sketch(captions)}}


def _noted(samples: Iterable[shards.Sample], noted: dict[str, dict]) -> Iterator[shards.Sample]:
    """Pass samples on and note the scene class and the ground of each, where its record has one."""
    for sample in samples:
        noted[sample.key] = {}
        if "class" in sample.record:
            noted[sample.key]["class"] = str(sample.record["class"])
        if shared_ground.FOOTPRINT in sample.record:
            noted[sample.key][shared_ground.FOOTPRINT] = sample.record[shared_ground.FOOTPRINT]
        yield sample


def _no_classes(name: str) -> DataError:
    return DataError(f"{name} does not say of what class its images are: leave --per-class out")


def about_model(encoder: Encoder, root: Path | str, name: str, skipped: Counter) -> dict:
    """Say what an evaluation is of: model, its fingerprint, benchmark, data and what was left out."""
    about = {"model": encoder.name, "fingerprint": encoder.fingerprint, "benchmark": name}
    about |= {"revision": encoder.revision} if encoder.revision else {}
    return about | {"data_hash": _data_hash(root), "skipped": dict(skipped)}


def _data_hash(root: Path | str) -> str:
    path = Path(root)
    return benchmarks.fingerprint(path) if path.is_dir() else stages.key(path=path.name, size=path.stat().st_size)


def templates_of(where: str) -> tuple[str, list[str]]:
    """Return name and templates of a prompt set of ours, or of a file; other templates never go by the name of one of ours.

    Raises:
        DataError: It is neither.
    """
    path = Path(where)
    if not path.is_file():
        return where, catalogue.prompt_set(where)
    lines = [line for line in files.read_lines(path, "template") if not line.startswith("#")]
    lines = [line.replace("{c}", "{class}") for line in lines]  # as sets for CLIP_benchmark have it
    taken = path.stem in catalogue.prompt_sets() and lines != catalogue.prompt_set(path.stem)
    return f"{path.stem} (of a file)" if taken else path.stem, lines


def _are_other_words(names: Sequence[str], dataset: str, split: str | None) -> bool:
    """Say whether classes are called otherwise than the catalogue knows, where the split does not bring names of its own."""
    try:
        known, entry = catalogue.find(dataset, "classification")
    except DataError:
        return False
    fixed = "class_list" in entry and split not in entry.get("lists", {})
    return fixed and sorted(names) != sorted(catalogue.class_names(known))


def confusion_csv(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return confusion matrices as one CSV: prompts, true class, answer, images; only pairs that occur."""
    parts = []
    for name, table in tables.items():
        row, column = np.nonzero(table.to_numpy())
        counts = {"class": table.index[row], "answer": table.columns[column], "images": table.to_numpy()[row, column]}
        parts.append(pd.DataFrame({"prompts": name} | counts))
    return pd.concat(parts, ignore_index=True).to_csv(index=False, lineterminator="\n")
