"""`rsvlm web`: data sets from crawls of the web."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsvlm.errors import DataError
from rsvlm.records.commands import Device, Overrides, Profile, Seed, file_place, folder_place, load_config, writes_alone

_LIST = "addresses of pictures or pages, or hosts as a whole (example.org, with www.example.org and others below it)."

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
    head: Annotated[
        Path | None, typer.Option(help="Overhead classifier, from `web train-filter`; none: the one that comes along.")
    ] = None,
    benchmarks: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a benchmark: pairs whose picture or text is in it are left out. Repeatable."),
    ] = None,
    remove: Annotated[Path | None, typer.Option(help=f"What stays out, one a line: {_LIST}")] = None,
    url_column: Annotated[
        str | None, typer.Option(help="Column of tables with the pictures' addresses; none: image_url, url and the like.")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of tables with the texts; none: text, caption, alt and the like.")
    ] = None,
    page_column: Annotated[
        str | None, typer.Option(help="Column of tables with the pages' addresses; none: page_url and the like.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model (FOLDER, open_clip:NAME:FILE, hf:FOLDER, …): scores how well picture and text agree, and finds near duplicates (--set web.embedding_similarity=0: none)."
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
    from rsvlm.data.web import build as web, overhead
    from rsvlm.records import files

    fetching = {"contact": contact, "allow_loopback": allow_loopback or None, "retry_failed": retry_failed or None}
    fetching = {f"fetch.{name}": value for name, value in fetching.items() if value is not None}
    config = load_config(profile, overrides, seed, device, fetching)
    shipped = None if head else overhead.shipped(config.web.overhead_precision, config.web.overhead_share)
    manifest = web.build(
        [*inputs, *(more or [])],
        config,
        out,
        head=head or shipped,
        benchmark_folders=benchmarks or [],
        removed=files.read_lines(remove, "address") if remove else (),
        columns={k: v for k, v in (("url", url_column), ("text", text_column), ("page", page_column)) if v},
        model=load_judge(model, device) if model else None,
        cache=cache,
        engine=engine,
        workers=workers,
    )
    counts = {split: part["samples"] for split, part in manifest["splits"].items()}
    typer.echo(f"{out}: {', '.join(f'{n} {split}' for split, n in counts.items()) or 'no'} pairs")
    typer.echo(f"  read       {', '.join(f'{n:,} {name}' for name, n in manifest['crawl'].items()) or 'nothing'}")
    for row in manifest["funnel"]:
        typer.echo(f"  {row['stage']:<10} {row['in']:>9,} in  {row['kept']:>9,} kept  {listed(row['reasons'])}")
    for note in manifest.get("notes", []):
        typer.echo(f"note: {note}")
    if shipped:
        typer.echo(f"overhead filter: the one that comes along, {overhead.told(shipped)}")
        typer.echo("  pictures of another kind: label some hundred of them and run `rsvlm web train-filter`")
    if not sum(counts.values()):
        raise DataError(f"{out} holds no pair: {why_empty(manifest)}")
    if remove:
        tell_unmatched(manifest.get("unmatched_removals", []), remove)


@app.command("train-filter")
def train_filter(
    folder: Annotated[Path, typer.Argument(help="Labelled pictures in its folders overhead/ and other/.")],
    out: Annotated[Path, typer.Option(help="Where the classifier goes, for `web build --head`.", callback=file_place)],
    precision: Annotated[float, typer.Option(min=0.01, max=1.0, help="Precision that the threshold must reach.")] = 0.95,
    share: Annotated[
        float,
        typer.Option(
            min=0.001, max=0.999, help="Share of pictures from above among those to be judged, that the precision is for."
        ),
    ] = 0.2,
) -> None:
    """Train the classifier that tells pictures from above from others; say what it and the one that comes along are good for."""
    from rsvlm.data.web import overhead, overhead_training

    head, counts = overhead_training.train_folder(folder, precision, share)
    overhead.save(head, out)
    typer.echo(", ".join(f"{n} {name}" for name, n in counts.items()))
    typer.echo(f"{out}: {overhead.told(head)}")
    others = [
        (f"{head.precision_at(at):.2f} at {at:.0%}", head.least_precision_at(at)) for at in (0.5, 0.2, 0.05) if at != share
    ]
    told = ", ".join(what if least is None else f"{what} (or only {least:.2f})" for what, least in others)
    bound = "; in brackets with the most false positives that the labelled pictures leave likely (95 %)" if "(" in told else ""
    typer.echo(f"with the same threshold the precision is {told}{bound}")
    typer.echo(f"the one that comes along: {overhead.told(overhead.shipped(precision, share))}")


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
    urls: Annotated[Path, typer.Option(help=f"What goes, one a line; # starts a remark: {_LIST}")],
    cache: Annotated[
        Path | None, typer.Option(help="Folder of fetched pictures, from which they go as well; none: the build's.")
    ] = None,
) -> None:
    """Take pairs out of a finished data set, for good; exit status 1 where something of the list was not found."""
    from rsvlm.data.web import pairs as web_pairs
    from rsvlm.records import files

    result = web_pairs.remove(folder, files.read_lines(urls, "address"), cache)
    left = sum(part["samples"] for part in result.manifest["splits"].values())
    typer.echo(f"{folder}: {result.pairs} pairs removed, {left} left")
    tell_unmatched(result.unmatched, urls)


def tell_unmatched(lines: list[str], path: Path) -> None:
    """List what of a removal list was not found, and end with an exit status that says so."""
    for line in lines:
        typer.echo(f"not found: {line}", err=True)
    if lines:
        typer.echo(f"nothing was found for {len(lines)} lines of {path}; all others were heeded", err=True)
        raise typer.Exit(1)


def listed(reasons: dict[str, int]) -> str:
    """Reasons with their numbers, the commonest first."""
    return ", ".join(f"{n:,} {reason}" for reason, n in sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def why_empty(manifest: dict) -> str:
    """Say what took all candidates of a data set without a pair: the stage that left none, its reasons, and what can be done."""
    from rsvlm.data.web import archives, fetch, pairs

    crawl = manifest["crawl"]
    last = next((row for row in reversed(manifest["funnel"]) if not row["kept"]), None)
    if not crawl.get("candidates"):
        reasons = {name: crawl[name] for name in archives.REASONS if crawl.get(name)}
        return f"no address with a text was found in the inputs ({listed(reasons) or 'they are empty'})"
    if last is None:
        return "see rejected.jsonl"
    meanings = {reason: pairs.meaning(last["stage"], reason) for reason in last["reasons"]}
    told = "; ".join(f"{reason}: {meaning}" for reason, meaning in meanings.items() if meaning)
    if last["stage"] != "fetch":
        return f"the stage '{last['stage']}' took all {last['in']:,} ({listed(last['reasons'])}); {told}"
    may_pass = any(name in fetch.REASONS and fetch.REASONS[name].temporary for name in last["reasons"])
    advice = "; --retry-failed asks again for what may have passed" if may_pass else ""
    return f"none of {last['in']:,} pictures could be fetched ({listed(last['reasons'])}); {told}{advice}"


def load_judge(model: str | Path, device: str):
    """Make a model score pictures against texts, by the cosine of their embeddings, and embed pictures."""
    from rsvlm.data.web import steps
    from rsvlm.model.others.opening import open_encoder
    from rsvlm.records import stages

    encoder = open_encoder(model, device)

    def score(pictures, texts):
        return (encoder.images(pictures) * encoder.texts(texts)).sum(axis=1)

    return steps.Model(stages.key(weights=encoder.fingerprint, code=stages.source_hash("model")), score, encoder.images)
