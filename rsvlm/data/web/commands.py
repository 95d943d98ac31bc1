"""`rsvlm web`: data sets from crawls of the web."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from rsvlm.records.commands import Device, Overrides, Profile, Seed, file_place, folder_place, load_config, writes_alone

app = typer.Typer(no_args_is_help=True, help="Make data sets from crawls of the web, and look at them.")


@app.command("build")
@writes_alone("out")
def build(
    inputs: Annotated[
        list[Path], typer.Option("--input", help="WARC file, or parquet, CSV or JSON lines of address and text. Repeatable.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the shards; an unfinished build in it is continued.", callback=folder_place)
    ],
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
    from rsvlm.data.demo import web as demo_web
    from rsvlm.data.web import build as web
    from rsvlm.records import files

    fetching = {"contact": contact, "allow_loopback": allow_loopback or None, "retry_failed": retry_failed or None}
    fetching = {f"fetch.{name}": value for name, value in fetching.items() if value is not None}
    config = load_config(profile, overrides, seed, device, fetching)
    manifest = web.build(
        [*inputs, *(more or [])],
        config,
        out,
        head=head or functools.partial(demo_web.default_head, config.web.overhead_precision),
        benchmark_folders=benchmarks or [],
        removed=files.read_lines(remove, "address") if remove else (),
        model=load_judge(model, device) if model else None,
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


@app.command("train-filter")
def train_filter(
    folder: Annotated[Path, typer.Argument(help="Labelled pictures in its folders overhead/ and other/.")],
    out: Annotated[Path, typer.Option(help="Where the classifier goes, for `web build --head`.", callback=file_place)],
    precision: Annotated[float, typer.Option(min=0.01, max=1.0, help="Precision that the threshold must reach.")] = 0.95,
) -> None:
    """Train the classifier that tells pictures from above from others."""
    from rsvlm.data.web import overhead

    head, counts = overhead.train_folder(folder, precision)
    overhead.save(head, out)
    typer.echo(", ".join(f"{n} {name}" for name, n in counts.items()))
    typer.echo(
        f"{out}: {head.sources} sources, each left out in turn: AUC {head.auc:.3f}; from a score of {head.threshold:.3f} on, "
        f"precision at least {head.precision:.2f} at recall {head.recall:.3f}"
    )


@app.command("show")
def show(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished build.")],
    html: Annotated[Path, typer.Option(help="Where the page goes.", callback=file_place)],
    pairs: Annotated[int, typer.Option(min=1, max=500, help="Pairs shown.")] = 24,
    per_reason: Annotated[int, typer.Option(min=1, max=200, help="Rejected candidates shown for each reason.")] = 12,
    seed: Seed = 0,
) -> None:
    """Write a page with the funnel, pairs, and what was rejected for which reason."""
    from rsvlm.book.figures import markup, tables
    from rsvlm.data.web import pairs as web_pairs
    from rsvlm.records import files

    report = web_pairs.look(folder, per_reason, pairs, seed)
    path = files.write_atomic(html, markup.page("Pairs from the web", tables.web_report(report)))
    typer.echo(f"{path}: {len(report['kept'])} pairs, {len(report['rejected'])} reasons")


@app.command("remove")
def remove(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished build.")],
    urls: Annotated[Path, typer.Option(help="Addresses of pictures or pages, one a line; # starts a remark.")],
) -> None:
    """Take pairs out of a finished data set, for good."""
    from rsvlm.data.web import pairs as web_pairs
    from rsvlm.records import files

    manifest, removed = web_pairs.remove(folder, files.read_lines(urls, "address"))
    left = sum(part["samples"] for part in manifest["splits"].values())
    typer.echo(f"{folder}: {removed} pairs removed, {left} left")


def load_judge(model: Path, device: str):
    """Make a model score pictures against texts, by the cosine of their embeddings, and embed pictures."""
    import rsvlm
    from rsvlm.data.web import steps
    from rsvlm.model import embed as embedding
    from rsvlm.records import files, stages

    loaded = rsvlm.load(model, device)
    weights = [files.file_sha256(path) for path in sorted(model.iterdir()) if path.is_file()]
    code = stages.source_hash("model")

    def score(pictures, texts):
        return (embedding.images(loaded, pictures) * embedding.texts(loaded, texts)).sum(axis=1)

    return steps.Model(stages.key(weights=weights, code=code), score, lambda pictures: embedding.images(loaded, pictures))
