"""`rsvlm search`: texts in one scene, or in an archive."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer
import typer.core

from rsvlm.errors import DataError
from rsvlm.records.commands import (
    Bands,
    BatchSize,
    Device,
    Limits,
    NoData,
    file_place,
    folder_place,
    load_config,
    meaning_of_pixels,
    writes_alone,
)


class _SceneFirst(typer.core.TyperGroup):
    """Verbs, the first of which may be left out: `search SCENE` is `search scene SCENE`."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        """Put the first verb in where none is named."""
        named = args and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named or not args else ["scene", *args])


app = typer.Typer(
    no_args_is_help=True,
    cls=_SceneFirst,
    help="""Search texts: in one scene, `search SCENE --text "..." --out DIR`; or in an archive, by `index` and `query`.""",
)

SearchModel = Annotated[
    str | None,
    typer.Option(
        help="FOLDER, open_clip:NAME:FILE, hf:FOLDER, …, as a wrong one lists; none: the demo's, which knows the Earth from space and "
        "no houses."
    ),
]


TileRows = Annotated[
    Literal["auto", "xyz", "tms", "zyx"],
    typer.Option(
        help="Rows of tiles count from the north (xyz) or the south (tms), or the folders are rows (zyx: z/y/x); auto: as files "
        "beside them say, else guessed."
    ),
]


Contact = Annotated[
    str, typer.Option(help="Page or e-mail address of yours, told to servers of tiles and maps; some ask for one.")
]


@app.command("scene")
@writes_alone("out")
def in_scene(
    scene: Annotated[
        str, typer.Argument(help="GeoTIFF, URL of one, folder of XYZ tiles or of rasters, MBTiles, or a server as for index.")
    ],
    more: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts, as with --text.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for polygons.geojson, heat.tif, map.html and search.json.", callback=folder_place),
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", "--texts", help="What to look for. Repeatable.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="FOLDER, open_clip:NAME:FILE, hf:FOLDER, …, as a wrong one lists; none: the demo's. Given twice or more, each model "
            "answers in a folder of its own, and compare.html shows the answers side by side."
        ),
    ] = None,
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
    band: Bands = None,
    limits: Limits = None,
    nodata: NoData = None,
    tile_rows: TileRows = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16, or auto: bf16 where it is fast.")] = "auto",
    gpkg: Annotated[bool, typer.Option("--gpkg", help="Also polygons.gpkg, a GeoPackage.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Also polygons.csv, a table.")] = False,
    contact: Contact = "",
    device: Device = "auto",
) -> None:
    """Find texts in one scene of any size: polygons, a map of confidence, and a page that shows both.

    Without --limits, values of more than 8 bits are stretched by what is in the scene, so that the answer for a place depends on what else
    the scene shows: search.json names the limits, and with the same --limits the answer is the same in any part of it, but for places
    nearer to its edge than --tile-px and half a window.
    """
    from rsvlm.book.figures import atlas, galleries, markup
    from rsvlm.records import files
    from rsvlm.search import result_files, scene as scenes, scene_files, tile_servers

    texts = [*(more or []), *(text or [])]
    if not texts or out is None:
        raise DataError('a search needs a text and a folder for the results: --text "..." --out DIR')
    chips = load_config("laptop", None, 0, more=meaning_of_pixels(band, limits, nodata)).chips
    scene = tile_servers.local(scene, out / "imagery", contact=contact)
    opened = scene_files.open_scene(scene, chips.bands, chips.limits, chips.nodata, tile_rows)
    loaded = [load_model(name, device)[0] for name in model or [None]]
    look = {"window": window, "tile_px": tile_px, "overlap": overlap, "min_px": min_px, "precision": precision}
    options = scenes.SearchOptions(background=background or scenes.BACKGROUND, threshold=confidence, **look)
    lines = []  # printed when all is written
    for one in opened:
        place = out if len(opened) == 1 else out / one.source.name
        answers = {}
        for number, encoder in enumerate(loaded, 1):
            folder = place if len(loaded) == 1 else place / f"{number}-{re.sub(r'[^0-9A-Za-z.-]+', '-', encoder.name)[:60]}"
            result = answers[f"{number}. {encoder.name}"] = scenes.search(one, texts, encoder, folder, options)
            files.write_atomic(folder / "map.html", atlas.scene_map(result).get_root().render())
            lines += [f"{encoder.name}:"] * (len(loaded) > 1)
            for row in result.facts["texts"]:
                regions = f"{row['regions']:,} regions" if row["regions"] else f"nothing of confidence {confidence:g}"
                lines.append(f"{row['text']}: {regions}; highest confidence {row['highest_confidence']:.2f}")
            if result.facts["unreadable"]:
                lines.append(f"parts of the scene that cannot be read, left without data: {result.facts['unreadable']}")
            more = result_files.write_more(folder / "polygons.geojson", result.facts["polygons_in"], gpkg, csv)
            lines.append(", ".join([f"{folder}: polygons.geojson", *more, "heat.tif", "map.html", "search.json"]))
        if len(loaded) > 1:
            page = files.write_atomic(
                place / "compare.html", markup.page("Models side by side", galleries.scenes_beside(answers))
            )
            lines.append(str(page))
    typer.echo("\n".join(lines))


@app.command("index")
def index(
    imagery: Annotated[
        list[str],
        typer.Argument(
            help="Folders of rasters or tiles, MBTiles, STAC JSON, rasters or their URLs; all must say where on Earth they lie. Or "
            "servers: 'https://host/{z}/{x}/{y}.png#zoom=14&bbox=WEST,SOUTH,EAST,NORTH', or a WMS, 'https://host/wms?layers=NAME#...'."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the index; one that is there is brought up to date.", callback=folder_place)
    ],
    model: SearchModel = None,
    size_px: Annotated[
        int | None, typer.Option(help="Side of a chip in pixels; none: that of the model's images, unless --chip-m is given.")
    ] = None,
    chip_m: Annotated[
        list[float] | None, typer.Option(min=1e-3, help="Side of a chip on the ground, in metres. Repeatable: a scale each.")
    ] = None,
    stride: Annotated[float, typer.Option(help="Step between chips, in sides.")] = 1.0,
    edges: Annotated[
        bool, typer.Option(help="Add last chips flush with the edges of rasters, and enlarge rasters smaller than a chip.")
    ] = True,
    band: Bands = None,
    limits: Limits = None,
    nodata: NoData = None,
    tile_rows: TileRows = "auto",
    batch_size: BatchSize = 256,
    engine: Annotated[str, typer.Option(help="local (processes) or ray, which may be several machines.")] = "local",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core, or as many as fit.")] = 1,
    fresh: Annotated[bool, typer.Option(help="Embed all anew, instead of what is new alone.")] = False,
    contact: Contact = "",
    device: Device = "auto",
) -> None:
    """Embed the chips of an archive of imagery, for `query`.

    Run again, it embeds what is new and drops what is gone; after a kill, it goes on where it was. Ground that several files show has
    chips of each of them, and counts once for each file where the share of the ground is told.
    """
    from rsvlm.search import index as archive

    loaded, origin = load_model(model, device)
    chips = load_config("laptop", None, 0, more=meaning_of_pixels(band, limits, nodata)).chips
    options = {"model_folder": origin, "size_px": size_px, "chip_m": chip_m or (), "stride": stride, "batch_size": batch_size}
    options |= {"cover_edges": edges, "tile_rows": tile_rows, "engine": engine, "workers": workers, "fresh": fresh}
    options |= {"bands": chips.bands, "limits": chips.limits, "nodata": chips.nodata, "device": device}
    options["contact"] = contact
    facts = archive.index(imagery, loaded, out, **options)
    typer.echo("\n".join(archive.told(out, facts)))


@app.command("query")
def query(
    index: Annotated[Path, typer.Argument(help="Folder of the index.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts, as with --text.")] = None,
    text: Annotated[list[str] | None, typer.Option("--text", "--texts", help="What to look for. Repeatable.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="File of a picture of what to look for. Repeatable.")] = None,
    like: Annotated[list[str] | None, typer.Option(help="Key of a chip that is like it. Repeatable.")] = None,
    at: Annotated[
        list[str] | None, typer.Option(help="LON,LAT of a place that is like it, on a chip of the index. Repeatable.")
    ] = None,
    unlike: Annotated[list[str] | None, typer.Option("--not", help="Text of what is not wanted. Repeatable.")] = None,
    not_image: Annotated[list[str] | None, typer.Option(help="File of a picture of what is not wanted. Repeatable.")] = None,
    not_like: Annotated[list[str] | None, typer.Option(help="Key of a chip of what is not wanted. Repeatable.")] = None,
    together: Annotated[
        bool, typer.Option("--together", help="One question of all that is looked for, instead of one for each.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="Chips for each question.")] = 10,
    model: Annotated[str | None, typer.Option(help="Model, as for index; none: the one that the index names.")] = None,
    csv: Annotated[Path | None, typer.Option(help="A table of the chips.", callback=file_place)] = None,
    geojson: Annotated[
        Path | None, typer.Option(help="Footprints of the chips, in longitude and latitude.", callback=file_place)
    ] = None,
    gpkg: Annotated[Path | None, typer.Option(help="The same as a GeoPackage.", callback=file_place)] = None,
    html: Annotated[Path | None, typer.Option(help="A page with the chips.", callback=file_place)] = None,
    map_page: Annotated[
        Path | None, typer.Option("--map", help="A page with the chips where they lie.", callback=file_place)
    ] = None,
    device: Device = "auto",
) -> None:
    """Find the best chips of an archive for each text, picture, chip and place.

    Whatever is looked for may end in ^WEIGHT, as "a harbour^2" or photo.jpg^0.5: with --together, how much it counts beside the others, all
    brought to one measure; with --not, how much that counts against it (without one, 0.5).
    """
    from rsvlm.search import index as archive, query as asking

    opened = archive.open_index(index)
    request = asking.Request([*(more or []), *(text or [])], image or [], like or [], at or [])
    rejected = asking.Request(unlike or [], not_image or [], not_like or [])
    request.check(rejected, together)
    encoder = load_model(model or opened.facts["model"], device)[0]
    matches = asking.ask(opened, request.questions(rejected, opened, encoder, together), top)
    places = _write_matches(opened, matches, csv, geojson, gpkg, html, map_page)
    for asked, part in matches.groupby("text", sort=False):
        typer.echo(asked)
        for row in part.itertuples():
            typer.echo(f"  {row.rank:>3}  {row.score:.3f}  {row.lon:.6f}, {row.lat:.6f}  {row.key}  {row.file}".rstrip())
    for place in places:
        typer.echo(str(place))


def _write_matches(index, matches, csv, geojson, gpkg, html, map_page) -> list[Path]:
    """Write the answers of a query to the files that are asked for, each a path or None, and return these."""
    from rsvlm.book.figures import atlas, galleries, markup
    from rsvlm.records import files
    from rsvlm.search import result_files

    written, features = [], result_files.features(matches)["features"]
    if csv:
        written.append(result_files.write_csv(csv, [feature["properties"] for feature in features]))
    if geojson:
        written.append(result_files.write_geojson(geojson, matches))
    if gpkg:
        written.append(result_files.write_geopackage(gpkg, features))
    pictures = index.pictures(matches) if html or map_page else []
    if html:
        body = galleries.chip_matches(matches.to_dict("records"), pictures)
        written.append(files.write_atomic(html, markup.page("Chips found", body)))
    if map_page:
        drawn = atlas.chips_map(result_files.map_items(matches, pictures))
        written.append(files.write_atomic(map_page, drawn.get_root().render()))
    return written


def load_model(name: str | Path | None, device: str):
    """Open a model by name, and say where it is from; none: the demo's, trained now if it never was."""
    from rsvlm.model.others.opening import open_encoder

    if not name:
        from rsvlm.data.demo import recipe
        from rsvlm.training import train as training

        options = load_config("laptop", None, 0, device)
        name = training.load_or_train(*recipe.prepare(options)) / "model"
    return open_encoder(name, device), name


@app.command("page")
@writes_alone("out")
def page(
    index: Annotated[Path, typer.Argument(help="Folder of the index.")],
    out: Annotated[Path, typer.Option(help="Folder of the page, which any web server shows.", callback=folder_place)],
    model: Annotated[str | None, typer.Option(help="Model, as for index; none: the one that the index names.")] = None,
    texts: Annotated[
        Literal["auto", "browser", "server"],
        typer.Option(
            help="Who reads what is typed: the browser, `search serve`, or auto: the browser where the text half of the model is "
            "small enough."
        ),
    ] = "auto",
    example: Annotated[
        list[str] | None, typer.Option(help="A text that the page offers. Repeatable; none: buildings, water, forest, road.")
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page; none: the name of the index's folder.")] = "",
    picture_px: Annotated[int, typer.Option(min=16, max=512, help="Side of the pictures of chips, in pixels.")] = 128,
    heat: Annotated[
        bool,
        typer.Option(
            help="Also show which parts of a chip fit, for models whose parts add up, as those trained here; a look at every chip."
        ),
    ] = False,
    device: Device = "auto",
) -> None:
    """Write an index as a page that searches and learns from yes and no, without a server of its own and without a network.

    Show it with `python -m http.server --bind 127.0.0.1 --directory OUT`, or lay the folder on any web server.
    """
    from rsvlm.search import index_files, site

    opened = index_files.open_index(index)
    encoder = load_model(model or opened.facts["model"], device)[0]
    options = {"title": title, "texts": texts, "picture_px": picture_px, "heat": heat}
    facts = site.write_site(opened, out, encoder, examples=example or site.EXAMPLES, **options)
    size = sum(path.stat().st_size for path in (out / "data").iterdir()) / 1e6
    typer.echo(f"{out}: {facts['chips']:,} chips; {size:.1f} MB to search them, and their pictures")
    if facts["no_texts"]:
        typer.echo(f"  without texts of the reader's own: {facts['no_texts']}; `rsvlm search serve {index}` answers them")
    if heat and not facts["grid"]:
        typer.echo(f"  without heat: what the parts of a chip add does not add up in {facts['model']}")
    if facts["unread"]:
        typer.echo(f"  pictures that cannot be read now: {facts['unread']:,}")
    typer.echo(f"  python -m http.server --bind 127.0.0.1 --directory {shlex.quote(str(out))}")


@app.command("serve")
def serve(
    index: Annotated[Path, typer.Argument(help="Folder of the index.")],
    model: Annotated[str | None, typer.Option(help="Model, as for index; none: the one that the index names.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="GeoJSON file that the page begins with and keeps; none: they end with it.", callback=file_place),
    ] = None,
    example: Annotated[
        list[str] | None, typer.Option(help="A text that the page offers. Repeatable; none: buildings, water, forest, road.")
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page; none: the name of the index's folder.")] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0: a free one.")] = 0,
    device: Device = "auto",
) -> None:
    """Show the page of an index on this machine alone: texts are read by the model here, of any size, and chips seen at full resolution.

    The address that is printed holds a token; without it, and from pages of other sites, nothing is answered.
    """
    from rsvlm.search import index_files, serve as serving, site

    opened = index_files.open_index(index)
    encoder = load_model(model or opened.facts["model"], device)[0]
    options = {"title": title, "port": port, "labels": labels}
    running = serving.start(opened, encoder, examples=example or site.EXAMPLES, **options)
    typer.echo(f"{running.address}\nOpen this address in a browser of this machine; Ctrl+C ends it.")
    try:
        while running.thread.is_alive():
            running.thread.join(0.5)
    except KeyboardInterrupt:
        running.stop()


@app.command("teach")
@writes_alone("out")
def teach(
    index: Annotated[Path, typer.Argument(help="Folder of the index.")],
    out: Annotated[
        Path, typer.Option(help="Folder for labels.geojson, ranked.geojson and teach.json.", callback=folder_place)
    ],
    text: Annotated[list[str] | None, typer.Option("--text", help="What to look for. Repeatable.")] = None,
    like: Annotated[list[str] | None, typer.Option(help="Key of a chip that it is like. Repeatable.")] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            help="GeoJSON of points or polygons with a property label, yes or no, such as the labels.geojson of before. Repeatable."
        ),
    ] = None,
    yes: Annotated[
        list[Path] | None, typer.Option(help="GeoJSON whose features are yes, but where one has another label. Repeatable.")
    ] = None,
    no: Annotated[
        list[Path] | None, typer.Option(help="GeoJSON whose features are no, but where one has another label. Repeatable.")
    ] = None,
    propose: Annotated[int, typer.Option(min=0, max=1000, help="Chips to look at next.")] = 10,
    top: Annotated[int, typer.Option(min=1, help="Chips in ranked.geojson.")] = 100,
    model: Annotated[str | None, typer.Option(help="Model, as for index; none: the one that the index names.")] = None,
    device: Device = "auto",
) -> None:
    """Order an archive by a text and by chips marked yes and no; say how sure that is, and which chips to look at next.

    A feature names a chip by its property key, or by where it lies: a point the chip whose middle is nearest, a polygon the chips whose
    middles it holds. Chips to look at next stand in labels.geojson without a label: give them one there, in QGIS or by hand, and
    give the file back with --labels. Without --text and --like, what is labelled yes says what to look for.
    """
    from rsvlm.search import index as archive, label_files, lessons, query as asking

    opened = archive.open_index(index)
    given = (
        [(path, None) for path in labels or []] + [(path, "yes") for path in yes or []] + [(path, "no") for path in no or []]
    )
    features = [feature for path, otherwise in given for feature in label_files.read(path, otherwise)]
    direction, name = None, "what is labelled yes"
    if text or like:
        request, nothing = asking.Request(texts=text or [], keys=like or []), asking.Request()
        request.check(nothing, together=True)
        encoder = load_model(model or opened.facts["model"], device)[0]
        question = request.questions(nothing, opened, encoder, True)[0]
        direction, name = question.vector, question.name
    taught = lessons.teach(opened, direction, features, name=name, propose=propose, top=top)
    places = lessons.write(taught, out)
    typer.echo("\n".join([*lessons.lines(taught), *map(str, places)]))
