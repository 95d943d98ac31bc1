"""`rsvlm landmarks`: data sets from imagery and a map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rsvlm.errors import DataError
from rsvlm.records.commands import (
    Bands,
    Limits,
    NoData,
    Overrides,
    Profile,
    Seed,
    file_place,
    folder_place,
    load_config,
    meaning_of_pixels,
    writes_alone,
)

app = typer.Typer(no_args_is_help=True, help="Make data sets from imagery and a map, and look at them.")


@app.command("build")
@writes_alone("out")
def build_shards(
    out: Annotated[
        Path, typer.Option(help="Folder for the shards; an unfinished build in it is continued.", callback=folder_place)
    ],
    imagery: Annotated[
        str | None,
        typer.Option(
            help="GeoTIFF, URL of one, folder of rasters or of XYZ tiles, MBTiles, or STAC JSON; none: the Blue Marble."
        ),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="GeoJSON, GeoPackage, shapefile, .osm.pbf, Overture or GeoNames; perhaps with what it does not say itself, as in "
            "PATH#category=building&crs=EPSG:32629&encoding=cp1252, or PATH#layer=roads. Repeatable.",
        ),
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
    band: Bands = None,
    limits: Limits = None,
    nodata: NoData = None,
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
    given = {name: value for name, value in given.items() if value is not None} | meaning_of_pixels(band, limits, nodata)
    config = load_config(profile, overrides, seed, more=given)
    if imagery in (None, "blue-marble"):
        if maps or given or exclude or benchmarks:
            raise DataError(
                "the Blue Marble has its own map and captions: give --imagery PATH with --map and the other options"
            )
        from rsvlm.data.demo import earth

        manifest = earth.build(config.landmarks, config.seed, out)
    else:
        from rsvlm.data.landmarks import build

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
        for line in build.funnel_lines(manifest):
            typer.echo(line)
    counts = {split: part["samples"] for split, part in manifest["splits"].items()}
    typer.echo(f"{out}: {', '.join(f'{n} {split}' for split, n in counts.items())} chips")


@app.command("audit")
def audit_captions(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished build.")],
    sample_sheet: Annotated[
        Path | None, typer.Option(help="A CSV of captions for people to rate.", callback=file_place)
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Captions in that sheet.")] = 200,
    html: Annotated[Path | None, typer.Option(help="The report as a page.", callback=file_place)] = None,
    seed: Seed = 0,
) -> None:
    """Say how many captions were kept, repaired and rejected, and why; and what became of the chips."""
    from rsvlm.book.figures import markup, tables
    from rsvlm.data import shards
    from rsvlm.data.captions import audit
    from rsvlm.data.landmarks import build
    from rsvlm.records import files

    content = shards.read_manifest(folder) or {}
    if content.get("name") == build.NAME:
        build.check_not_empty(content, str(folder))
    chips = {name: content[name] for name in ("funnel", "notes") if name in content}
    report = audit.report(folder) | {"chips": chips}
    places = []
    if sample_sheet:
        places.append(audit.sample_sheet(folder, sample_sheet, size, seed))
    if html:
        places.append(files.write_atomic(html, markup.page("Audit of captions", tables.caption_audit(report))))
    typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
    for place in places:
        typer.echo(str(place))


@app.command("show")
def show(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished build.")],
    html: Annotated[Path, typer.Option(help="Where the page goes.", callback=file_place)],
    key: Annotated[list[str] | None, typer.Option(help="A chip's key; repeatable. None: a seeded sample.")] = None,
    chips: Annotated[int, typer.Option(min=1, max=500, help="Chips in the sample.")] = 24,
    seed: Seed = 0,
) -> None:
    """Write a page with chips, their landmarks on a map, and their captions."""
    from rsvlm.book.figures import atlas
    from rsvlm.data.landmarks import build
    from rsvlm.records import files

    samples = build.look(folder, keys=key or [], count=chips, seed=seed)
    page = atlas.chips_map(samples).get_root().render()
    typer.echo(f"{files.write_atomic(html, page)}: {len(samples)} chips")
