"""`rsvlm evaluate` and `rsvlm embed`: how well a model finds and tells."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from rsvlm.errors import ConfigError
from rsvlm.records.commands import (
    BatchSize,
    Benchmark,
    Device,
    JsonOut,
    Partial,
    ProtocolName,
    Resamples,
    Root,
    Seed,
    Ties,
    file_place,
    folder_place,
    writes_alone,
)

app = typer.Typer(no_args_is_help=True, help="Score a model on a data set.")

ModelName = Annotated[
    str,
    typer.Option(
        help="FOLDER, open_clip:NAME:FILE, hf:FOLDER, …, as a wrong one lists; or embeddings:FILE.npz (not for classes without --shots)."
    ),
]

Baselines = Annotated[
    bool,
    typer.Option(
        "--baselines", help="Also what colours alone reach (of reading: in directions), learnt from the training split."
    ),
]
TrainSplit = Annotated[str, typer.Option(help="Split that baselines and shots come from.")]


@writes_alone("out")
def embed(
    model: Annotated[str, typer.Option(help="FOLDER, open_clip:NAME:FILE, hf:FOLDER, …, as a wrong one lists.")],
    data: Annotated[Path, typer.Option(help="Folder of shards or a benchmark.")],
    out: Annotated[Path, typer.Option(help="Folder for the embeddings.", callback=folder_place)],
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 256,
    device: Device = "auto",
) -> None:
    """Embed the images and captions of a split into parquet files."""
    from rsvlm.data import benchmarks
    from rsvlm.evaluation import embeddings
    from rsvlm.model.others.opening import open_encoder

    skipped: Counter = Counter()
    samples = benchmarks.samples(data, split, skipped=skipped)
    embeddings.write(open_encoder(model, device), samples, out, batch_size=batch_size, skipped=skipped)
    typer.echo(f"{out}: {(out / 'embeddings.json').read_text()}")


def _list_benchmarks(asked: bool) -> None:
    if asked:
        from rsvlm.evaluation import by_name

        typer.echo(by_name.listing())
        raise typer.Exit


@app.callback()
def evaluate_options(
    listing: Annotated[
        bool, typer.Option("--list", callback=_list_benchmarks, is_eager=True, help="Describe the known benchmarks, and stop.")
    ] = False,
) -> None:
    """Score a model on a benchmark, or look for the benchmark in training sets."""


@app.command("retrieval")
@writes_alone("embeddings")
def retrieval(
    model: ModelName,
    root: Root = None,
    benchmark: Benchmark = None,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    protocol: ProtocolName = "all",
    ties: Ties = "pessimistic",
    per_class: Annotated[bool, typer.Option(help="Also recall of each scene class, into the JSON.")] = False,
    json_out: JsonOut = None,
    embeddings: Annotated[Path | None, typer.Option(help="Keep the embeddings in this folder.", callback=folder_place)] = None,
    bootstrap_samples: Resamples = 1000,
    batch_size: BatchSize = 256,
    seed: Seed = 0,
    device: Device = "auto",
    partial: Partial = False,
    baselines: Baselines = False,
    train_split: TrainSplit = "train",
) -> None:
    """Image→text and text→image recall with intervals and chance, under every protocol.

    Intervals are over images; where these tell their ground, over blocks of images whose ground overlaps.
    """
    from rsvlm.evaluation import asking, by_name

    started = time.time()
    options = by_name.Options(protocol, ties, bootstrap_samples, batch_size, seed, device, partial)
    evaluation = by_name.retrieve(model, root, benchmark, options, split=split, per_class=per_class, out=embeddings)
    if baselines:
        evaluation = asking.retrieval_baselines(evaluation, root, benchmark, options, split=split, train_split=train_split)
    report(evaluation, json_out, seed, device, started)


@app.command("classify")
def classify(
    model: ModelName,
    root: Root = None,
    benchmark: Benchmark = None,
    split: Annotated[str | None, typer.Option(help="Which split; none: every image.")] = None,
    prompts: Annotated[
        list[str] | None, typer.Option(help="A prompt set, or a file with a template on each line. Repeatable; none: paper.")
    ] = None,
    confusion: Annotated[
        Path | None, typer.Option(help="A CSV of how often each class was taken for which.", callback=file_place)
    ] = None,
    json_out: JsonOut = None,
    bootstrap_samples: Resamples = 1000,
    batch_size: BatchSize = 256,
    seed: Seed = 0,
    device: Device = "auto",
    partial: Partial = False,
    baselines: Baselines = False,
    train_split: TrainSplit = "train",
    shots: Annotated[
        str | None,
        typer.Option(
            help="Few shots instead: numbers of labelled pictures of each class, as 1,2,4,8,16. Nearest class mean, logistic regression "
            "that starts from the texts, and from nothing, and a linear probe on all. They come from --train-split; without --split, or "
            "without such a split, from one half of the pictures, and the other is tested. Of embeddings:FILE.npz the file holds "
            "image_embeddings, labels and class_names, perhaps class_embeddings, prompts, splits and keys."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of the shots; the mean over them is reported.")] = 5,
) -> None:
    """Zero-shot accuracy with intervals and chance; of each class into the JSON. With --shots, few-shot accuracy."""
    from rsvlm.evaluation import asking, by_name, few_shots
    from rsvlm.records import files

    started = time.time()
    draws = {"bootstrap_samples": bootstrap_samples, "seed": seed}
    options = by_name.Options(batch_size=batch_size, device=device, partial=partial, **draws)
    if shots is not None:
        if baselines or confusion:
            raise ConfigError("--baselines and --confusion are of zero-shot classes: leave them out beside --shots")
        sets = dict(map(by_name.templates_of, prompts or ["paper"]))
        how = {"split": split, "train_split": train_split, "prompts": sets, "seeds": seeds}
        evaluation = few_shots.score(model, root, benchmark, options, shots=_numbers(shots), **how)
        report(evaluation, json_out, seed, device, started)
        return
    evaluation = by_name.classify(model, root, benchmark, options, split=split, prompts=prompts or ["paper"])
    if baselines:
        evaluation = asking.class_baselines(evaluation, root, benchmark, options, split=split, train_split=train_split)
    places = keep(evaluation, json_out, seed, device, started)
    if confusion:
        places.append(str(files.write_atomic(confusion, by_name.confusion_csv(evaluation.confusion))))
    show(evaluation, places)


@app.command("captions")
def captions(
    model: Annotated[str, typer.Option(help="A model that writes captions: FOLDER, as `rsvlm train` wrote it.")],
    root: Root = None,
    benchmark: Benchmark = None,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    train_split: Annotated[
        str,
        typer.Option(help="Split whose captions stand beside: the most frequent, random ones, those of the nearest colours."),
    ] = "train",
    beams: Annotated[int, typer.Option(min=1, help="Unfinished captions followed at once; 1: greedy.")] = 1,
    list_out: Annotated[
        Path | None, typer.Option("--list", help="The captions, with the references, as .jsonl.", callback=file_place)
    ] = None,
    json_out: JsonOut = None,
    bootstrap_samples: Resamples = 1000,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    device: Device = "auto",
    partial: Partial = False,
) -> None:
    """Captions that a model writes: BLEU, ROUGE-L and CIDEr, times 100, beside captions that took no model.

    Scored by sacrebleu (BLEU) and COCO's own code (pycocoevalcap: ROUGE-L, CIDEr-D), on words in lower case without punctuation, where
    COCO has a tokenizer in Java. Captions of an image that read the same count once, empty ones not at all. Chance is a random training
    caption.
    """
    from rsvlm.evaluation import by_name

    started = time.time()
    draws = {"bootstrap_samples": bootstrap_samples, "seed": seed}
    options = by_name.Options(batch_size=batch_size, device=device, partial=partial, **draws)
    splits = {"split": split, "train_split": train_split}
    evaluation = by_name.captions(model, root, benchmark, options, **splits, beams=beams, out=list_out)
    places = keep(evaluation, json_out, seed, device, started)
    show(evaluation, places + [str(list_out)] * bool(list_out))


@app.command("reading")
def reading(
    model: Annotated[str, typer.Option(help="FOLDER, open_clip:NAME:FILE, hf:FOLDER, …, as a wrong one lists.")],
    root: Root = None,
    benchmark: Benchmark = None,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    measure: Annotated[
        list[str] | None,
        typer.Option(
            help="directions (which of eight turns of a picture does its sentence mean?), words (recall with colours, directions, "
            "counts or order changed), negation ('no river' against 'a river'). Repeatable; none: all three."
        ),
    ] = None,
    most: Annotated[int | None, typer.Option(min=1, help="Only the first so many pictures.")] = None,
    protocol: Annotated[str, typer.Option(help="Of words: plain, remoteclip, rs5m or one-to-one.")] = "one-to-one",
    ties: Ties = "pessimistic",
    json_out: JsonOut = None,
    bootstrap_samples: Resamples = 1000,
    batch_size: BatchSize = 256,
    seed: Seed = 0,
    device: Device = "auto",
    partial: Partial = False,
    baselines: Baselines = False,
    train_split: TrainSplit = "train",
) -> None:
    """Does a model read sentences? Directions, words of a kind, and negation, with intervals and chance.

    Printed are the means; recall at each k, single turns and single things are in the JSON.
    """
    from rsvlm.evaluation import asking, by_name

    started = time.time()
    options = by_name.Options(protocol, ties, bootstrap_samples, batch_size, seed, device, partial)
    how = {"split": split, "measures": measure or asking.MEASURES, "most": most}
    how |= {"train_split": train_split} if baselines else {}
    evaluation = asking.read(model, root, benchmark, options, **how)
    places = keep(evaluation, json_out, seed, device, started)
    shown = asking.headline(evaluation.rows)
    if further := len(evaluation.rows) - len(shown):
        places.insert(0, f"{further} further rows, as recall at each k: {json_out or '--json FILE writes them'}")
    show(dataclasses.replace(evaluation, rows=shown), places)


@app.command("leakage")
def leakage(
    train: Annotated[
        list[Path], typer.Option(help="Training set: shards, a benchmark's folder, or a JSON file of captions. Repeatable.")
    ],
    root: Root = None,
    benchmark: Benchmark = None,
    split: Annotated[str, typer.Option(help="The benchmark's split; all: every picture of the folder.")] = "test",
    train_split: Annotated[str, typer.Option(help="The training sets' split; all: every picture.")] = "train",
    distance: Annotated[int, typer.Option(min=0, max=16, help="Bits of 64 that near pictures may differ in.")] = 6,
    min_jaccard: Annotated[float, typer.Option(min=0.1, max=1, help="Smallest share of word triples of near captions.")] = 0.8,
    list_out: Annotated[Path | None, typer.Option("--list", help="The pairs, as CSV or .jsonl.", callback=file_place)] = None,
    html: Annotated[Path | None, typer.Option(help="A page with pairs side by side.", callback=file_place)] = None,
    pairs: Annotated[int, typer.Option(min=1, max=500, help="Pairs on that page.")] = 60,
    model: Annotated[str | None, typer.Option(help="Also score this model with and without the overlap.")] = None,
    protocol: ProtocolName = "all",
    ties: Ties = "pessimistic",
    json_out: JsonOut = None,
    bootstrap_samples: Resamples = 1000,
    batch_size: BatchSize = 256,
    seed: Seed = 0,
    device: Device = "auto",
    partial: Partial = False,
) -> None:
    """Pictures and captions of a benchmark that are in training sets, and what they do to the scores."""
    from rsvlm.book.figures import markup, tables
    from rsvlm.evaluation import by_name, leakage
    from rsvlm.records import files

    started = time.time()
    options = by_name.Options(protocol, ties, bootstrap_samples, batch_size, seed, device, partial)
    splits = {"split": split, "train_split": train_split}
    limits = {"distance": distance, "min_jaccard": min_jaccard}
    evaluation = by_name.overlap(train, root, benchmark, options, model=model, **splits, **limits)
    places = keep(evaluation, json_out, seed, device, started)
    if list_out:
        places.append(f"{leakage.write_list(evaluation.pairs, list_out)}: {len(evaluation.pairs)} pairs")
    if html:
        shown = leakage.look(evaluation.pairs, train, root, **splits, count=pairs, seed=seed)
        page = markup.page("Test data in training sets", tables.leakage_report(evaluation.rows, shown))
        places.append(str(files.write_atomic(html, page)))
    show(evaluation, places)


def _numbers(shots: str) -> list[int]:
    try:
        return [int(part) for part in shots.split(",")]
    except ValueError:
        raise ConfigError(f"--shots {shots}: expected whole numbers with commas between them, as 1,2,4,8,16") from None


def report(
    evaluation, json_out: Path | None, seed: int, device: str, started: float, save: tuple[str, str] | None = None
) -> None:
    """Write the rows, keep them as a result where `save` names it, and then print them."""
    show(evaluation, keep(evaluation, json_out, seed, device, started, save))


def keep(
    evaluation, json_out: Path | None, seed: int, device: str, started: float, save: tuple[str, str] | None = None
) -> list[str]:
    """Write the rows to a file, and keep them as a result where `save` names it; return the places.

    This comes before anything is printed, so that nothing is lost to somebody who stops reading.
    """
    from rsvlm import config
    from rsvlm.evaluation import by_name
    from rsvlm.model.device import resolve_device
    from rsvlm.records import provenance, results

    places = []
    if json_out or save:
        command = shlex.join(["rsvlm", *sys.argv[1:]])
        options = config.load("laptop", {"seed": seed, "device": device})
        used = str(resolve_device(device))
        origin = provenance.provenance(options, evaluation.about["data_hash"], used, started, command)
    if json_out:
        places.append(str(by_name.write(evaluation, json_out, origin)))
    if save:
        experiment, name = save
        for split in dict.fromkeys(row["split"] for row in evaluation.rows):  # one table of a run has one split
            rows = [row for row in evaluation.rows if row["split"] == split]
            part = split.partition(" without ")[2]
            run = f"{name}-without-{part}" if part else name
            places.append(str(results.save_result(experiment, run, options, rows, origin | evaluation.about)))
    return places


def show(evaluation, places: list[str]) -> None:
    """Print the rows, those of single classes left out, and where they and all else were written."""
    wide = max([11, *(len(row["protocol"]) for row in evaluation.rows)])
    for row in evaluation.rows:
        if "[" not in row["metric"]:
            interval = "" if row["ci_low"] is None else f"  [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
            chance = "" if row["chance"] is None else f"  chance {row['chance']:.2f}"
            what = f"{row['split']:<8} {row['protocol']:<{wide}} {row['direction']:<5} {row['metric']:<20}"
            typer.echo(f"{what} {row['value']:8.2f}{interval}{chance}  n {row['n']}")
    if skipped := evaluation.about.get("skipped"):
        typer.echo(f"left out: {', '.join(f'{reason} ({n:,})' for reason, n in skipped.items())}")
    if source := evaluation.about.get("shots_from"):
        typer.echo(f"shots are from {source}")
    if reason := evaluation.about.get("baselines"):
        typer.echo(reason)
    if left_out := evaluation.about.get("left_out_of_directions"):
        typer.echo(f"left out of directions: {', '.join(f'{reason} ({n:,})' for reason, n in left_out.items())}")
    if blocks := evaluation.about.get("blocks"):
        few = "; so few make them rough" if blocks < 20 else ""
        typer.echo(
            f"intervals are over {blocks} blocks of pictures whose ground hangs together, counted as if of one size{few}"
        )
    for measure, reason in evaluation.about.get("not_measured", {}).items():
        typer.echo(f"{measure} not measured: {reason}")
    for place in places:
        typer.echo(place)
