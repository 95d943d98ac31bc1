"""`rsvlm evaluate localize`: where is it?"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from rsvlm.evaluation.commands import report
from rsvlm.records.commands import Device, JsonOut, Resamples, Seed, result_name

app = typer.Typer()


@app.command("localize")
def localize(
    model: Annotated[str, typer.Option(help="FOLDER, open_clip:NAME:FILE, hf:FOLDER, …, as a wrong one lists.")],
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
    label: Annotated[str, typer.Option(help="polygons: class of shapes that say nothing of themselves.")] = "building",
    size_px: Annotated[int, typer.Option(min=16, help="polygons: side of the pictures cut from the imagery.")] = 256,
    dataset: Annotated[str | None, typer.Option(help="Name in the rows; none: the folder's.")] = None,
    save: Annotated[
        str | None, typer.Option(help="Also keep the rows as results/localize/NAME.", callback=result_name)
    ] = None,
    json_out: JsonOut = None,
    bootstrap_samples: Resamples = 1000,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """How well maps of a text agree with true masks, beside maps that know nothing, with intervals.

    Pixels that nobody labelled are not scored: classes called ignore, void, unlabeled or no data; numbers that classes.json does not
    name; crowds of COCO. What was left out is printed, and is in the JSON.

    For a model of RSICD's captions and aerial pictures: --texts rsicd --join mean --temperature 0.1 --scale 0.5 --scale 1
    --method raw.
    """
    from rsvlm.data.demo import earth_masks
    from rsvlm.localization import by_name, true_masks

    started = time.time()
    pictures = {"benchmark": benchmark, "half": half, "limit": limit, "label": label, "size_px": size_px, "dataset": dataset}
    words = {"classes": classes, "prompts": prompts, "texts": texts, "background": background}
    maps = {"methods": method or ["smooth"], "window": window or [3], "scale": scale or [1.0], "join": join, "size": size}
    maps |= {"temperature": temperature, "tile_px": tile_px, "floor": floor, "everywhere": everywhere}
    scores = {"baselines": baselines, "against": against or (), "bootstrap_samples": bootstrap_samples, "seed": seed}
    options = by_name.Options(without=without or (), **pictures, **words, **maps, **scores)
    others = {"blue-marble": true_masks.Benchmark(earth_masks.COVERS, "test", earth_masks.read)}
    evaluation = by_name.locate(model, root, options, others=others, device=device, progress=sys.stderr.isatty())
    for name, facts in evaluation.about["unknown"].items():
        alone = f"; {facts['boxes_alone']} boxes have no mask and count in ap50 alone" if facts["boxes_alone"] else ""
        typer.echo(
            f"not scored, of {name}: {facts['percent_of_pixels']:.2f} % of the pixels, in {facts['pictures']} pictures{alone}"
        )
    if absent := evaluation.about["absent"]:
        typer.echo(f"in no mask: {', '.join(absent)}")
    report(evaluation, json_out, seed, device, started, save and ("localize", save))
