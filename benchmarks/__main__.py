"""Speed and memory, beside public implementations: `python -m benchmarks NAME`, from the root of a clone.

Each file beside this one has a `measure` function that returns rows, and some a `table` that shows them. Peers run on the same
inputs, and their answers are compared before their times.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from rsvlm import config
from rsvlm.errors import RsvlmError
from rsvlm.records import files, provenance, results

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Measure speed.")

JsonOut = Annotated[Path | None, typer.Option("--json", help="Where the rows go.")]


@app.command("chips")
def chips(
    chips: Annotated[int, typer.Option(min=10, help="Chips per repeat.")] = 4000,
    repeats: Annotated[int, typer.Option(min=1, help="Timed repeats.")] = 3,
    json_out: JsonOut = None,
) -> None:
    """Chips per second from imagery and map to captioned shards."""
    _report("chips", json_out, n_chips=chips, repeats=repeats)


@app.command("adapters")
def adapters(
    images: Annotated[int, typer.Option(min=2, help="Pictures per pass.")] = 64,
    side: Annotated[int, typer.Option(min=0, help="Side of the scene that is searched, in pixels; 0: none.")] = 2240,
    repeats: Annotated[int, typer.Option(min=1, help="Timed pairs of passes, and searches.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    json_out: JsonOut = None,
) -> None:
    """What the one face of all models costs beside open_clip's own forward, and a scene's share of time in the tower."""
    _report("adapters", json_out, n_images=images, n_side=side, repeats=repeats, threads=threads)


@app.command("landmarks")
def landmarks(
    chips: Annotated[int, typer.Option(min=16, help="Chips of a timed build.")] = 16_000,
    features: Annotated[int, typer.Option(min=1, help="Features of the map.")] = 10_000,
    repeats: Annotated[int, typer.Option(min=1, help="Timed builds.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core.")] = 0,
    many: Annotated[int, typer.Option(min=0, help="Also the memory of a build of this many chips; 0: none.")] = 0,
    json_out: JsonOut = None,
) -> None:
    """Chips per second, and memory, from a local COG and a map to audited shards."""
    _report("landmarks", json_out, n_chips=chips, n_features=features, repeats=repeats, workers=workers, many=many)


@app.command("web")
def web(
    pages: Annotated[int, typer.Option(min=10, help="Pages of the archive that is made and read.")] = 4000,
    texts: Annotated[int, typer.Option(min=100, help="Alt-texts.")] = 200_000,
    pictures: Annotated[int, typer.Option(min=0, help="Pictures of the demo's web that is built; 0: none.")] = 360,
    repeats: Annotated[int, typer.Option(min=1, help="Timed passes.")] = 3,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core.")] = 0,
    json_out: JsonOut = None,
) -> None:
    """Web pages, alt-texts, and candidates of a whole build per second, and the memory they take."""
    _report("web", json_out, n_pages=pages, n_texts=texts, n_pictures=pictures, repeats=repeats, workers=workers)


@app.command("overhead")
def overhead(
    head: Annotated[
        str, typer.Option(help="File of a head, from `rsvlm web train-filter`; none: the one that comes along.")
    ] = "",
    precision: Annotated[float, typer.Option(min=0.01, max=1, help="Precision that the threshold promises.")] = 0.95,
    share: Annotated[float, typer.Option(min=0.001, max=0.999, help="Share of overhead pictures that it is for.")] = 0.2,
    labelled: Annotated[str, typer.Option(help="Labelled pictures to train the colour baseline on; none: no baseline.")] = "",
    changed: Annotated[int, typer.Option(min=0, help="Pictures of each set also scored changed; 0: none.")] = 50,
    speed: Annotated[int, typer.Option(min=0, help="Pictures timed; 0: none.")] = 256,
    store: Annotated[str, typer.Option(help="Name under which the rows are stored in results/overhead/; none: nowhere.")] = "",
    json_out: JsonOut = None,
) -> None:
    """What the overhead filter takes of real pictures it never learnt from (RSVLM_DATA, else ../shared/data), and its speed."""
    options = {"head": head, "precision": precision, "share": share, "labelled": labelled}
    started = time.time()
    rows, command = _report("overhead", json_out, **options, n_changed=changed, n_speed=speed)
    if store:
        from benchmarks import overhead as benchmark

        settings = config.load(overrides={"web.overhead_precision": precision, "web.overhead_share": share})
        origin = provenance.provenance(settings, benchmark.identity(head), "cpu", started, f"{command} --store {store}")
        results.save_result("overhead", store, settings, benchmark.stored(rows), origin)


@app.command("overhead-pictures")
def overhead_pictures(
    folder: Annotated[Path, typer.Argument(help="Folder for overhead/ and other/, which `rsvlm web train-filter` takes.")],
    scenes: Annotated[
        Path | None, typer.Option(help="Folder of large pictures of the ground, to be cut up; none: those of packages, 94 MB.")
    ] = None,
) -> None:
    """Write the pictures that the shipped overhead filter was trained on (RSVLM_DATA, else ../shared/data)."""
    from benchmarks import overhead_pictures as pictures

    counts = pictures.to_learn_from(folder, scenes)
    typer.echo(f"{folder}: {', '.join(f'{n:,} {kind}' for kind, n in counts.items())}")


@app.command("dedup")
def dedup(
    hashes: Annotated[int, typer.Option(min=1000, help="Perceptual hashes.")] = 1_000_000,
    pictures: Annotated[Path | None, typer.Option(help="Also which changed copies of these pictures are found.")] = None,
    sample: Annotated[int, typer.Option(min=2, max=5000, help="How many of them.")] = 600,
    json_out: JsonOut = None,
) -> None:
    """Time and memory of finding near duplicates, and how well real pictures are found again."""
    more = {"pictures": str(pictures), "n_sample": sample} if pictures else {}
    _report("dedup", json_out, n=hashes, **more)


@app.command("train")
def train(
    shape: Annotated[str, typer.Option(help="A preset: nano, tiny, s32, b32, b16, l14 or so400m.")] = "s32",
    batch: Annotated[int, typer.Option(min=2, help="Pairs per step.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds; everyone takes one step in each.")] = 7,
    text_tokens: Annotated[int, typer.Option(min=3, help="Length of every text, in tokens.")] = 30,
    vocabulary: Annotated[int, typer.Option(min=300, help="Tokens that can be predicted.")] = 49_408,
    context: Annotated[int, typer.Option(min=4, help="Length that texts are padded to, in tokens.")] = 77,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int, typer.Option(min=0, help="Threads of torch on a CPU; 0: as they are.")] = 0,
    peers: Annotated[bool, typer.Option(help="Also the padded reference and the public packages.")] = True,
    compile: Annotated[bool, typer.Option(help="Also ours through torch.compile.")] = False,
    memory: Annotated[bool, typer.Option(help="Also peak memory, in one more process for each.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    json_out: JsonOut = None,
) -> None:
    """Samples per second of one whole training step, beside public implementations."""
    options = {"shape": shape, "batch": batch, "repeats": repeats, "text_tokens": text_tokens, "vocabulary": vocabulary}
    options |= {"context": context, "precision": precision, "threads": threads, "peers": peers, "compile": compile}
    _report("train", json_out, **options, memory=memory, device=device)


@app.command("loader")
def loader(
    chips: Annotated[int, typer.Option(min=50, help="Training chips to make and read.")] = 4000,
    repeats: Annotated[int, typer.Option(min=1, help="Timed passes.")] = 5,
    json_out: JsonOut = None,
) -> None:
    """Samples per second read from shards, beside plain WebDataset."""
    _report("loader", json_out, n_chips=chips, repeats=repeats)


@app.command("scenes")
def scenes(
    side: Annotated[int, typer.Option(min=256, help="Side of the scene, in pixels.")] = 8192,
    many: Annotated[
        list[int] | None, typer.Option(min=256, help="Also the memory of a scene with this side. Repeatable.")
    ] = None,
    texts: Annotated[int, typer.Option(min=1, help="Texts looked for.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Timed searches.")] = 3,
    threads: Annotated[int, typer.Option(min=0, help="Threads of torch; 0: as they are.")] = 0,
    json_out: JsonOut = None,
) -> None:
    """Megapixels per second, and memory, of a search in a scene with a nano model."""
    _report("scenes", json_out, n_side=side, many=many or (), n_texts=texts, repeats=repeats, threads=threads)


@app.command("retrieval")
def retrieval(
    images: Annotated[int, typer.Option(min=0, help="Images; 0: no comparison.")] = 10_000,
    captions: Annotated[int, typer.Option(min=20, help="Captions, spread evenly over the images.")] = 50_000,
    width: Annotated[int, typer.Option(min=1, help="Length of the vectors.")] = 512,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds; everyone runs once in each.")] = 3,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0: as they are.")] = 0,
    peers: Annotated[bool, typer.Option(help="Also faiss flat search and dense top-k.")] = True,
    memory: Annotated[bool, typer.Option(help="Also peak memory, in one more process.")] = True,
    many: Annotated[int, typer.Option(min=0, help="Also once so many images with five captions each, mapped; 0: none.")] = 0,
    json_out: JsonOut = None,
) -> None:
    """Time and memory of exact recall both ways, beside the bare matrix product."""
    options = {"n_images": images, "n_captions": captions, "width": width, "repeats": repeats}
    _report("retrieval", json_out, **options, threads=threads, peers=peers, memory=memory, many=many)


@app.command("localize")
def localize(
    size: Annotated[int, typer.Option(min=64, help="Side of the map, in pixels.")] = 10_000,
    window: Annotated[int, typer.Option(min=1, help="Side of the window, odd.")] = 31,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds; everyone runs once in each.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of ours and of OpenCV.")] = 2,
    peers: Annotated[bool, typer.Option(help="Also OpenCV and SciPy.")] = True,
    memory: Annotated[bool, typer.Option(help="Also peak memory, in one more process.")] = True,
    json_out: JsonOut = None,
) -> None:
    """Time of smooth attention pooling over a large map, beside the same made of box filters."""
    _report("localize", json_out, n_size=size, window=window, repeats=repeats, threads=threads, peers=peers, memory=memory)


@app.command("page")
def page(
    repeats: Annotated[int, typer.Option(min=1, help="How often the page is opened and asked.")] = 5,
    site: Annotated[str, typer.Option(help="Folder of the built book; none: that of this clone.")] = "",
    json_out: JsonOut = None,
) -> None:
    """Seconds until the built page that searches answers, in headless Chromium."""
    _report("page", json_out, repeats=repeats, **({"site": site} if site else {}))


@app.command("search_page")
def search_page(
    chips: Annotated[int, typer.Option(min=100, help="Chips of the index that is made up.")] = 20_000,
    width: Annotated[int, typer.Option(min=8, help="Width of their vectors.")] = 512,
    repeats: Annotated[int, typer.Option(min=1, help="How often the page is opened.")] = 3,
    labels: Annotated[int, typer.Option(min=1, help="Labels given each time.")] = 20,
    json_out: JsonOut = None,
) -> None:
    """Seconds until the page of an index opens, answers a text and learns from a click, in headless Chromium."""
    _report("search_page", json_out, n_chips=chips, width=width, repeats=repeats, labels=labels)


@app.command("teaching")
def teaching(
    model: Annotated[
        str, typer.Option(help="Model, as for `rsvlm search index`; not needed where all vectors are kept.")
    ] = "",
    benchmark: Annotated[list[str] | None, typer.Option(help="RSICD, VHR-10 or Itaipu; none: all. Repeatable.")] = None,
    root: Annotated[str, typer.Option(help="Folder with rsicd/ and vhr10/; none: RSVLM_DATA, else ../shared/data.")] = "",
    split: Annotated[str, typer.Option(help="Split of RSICD.")] = "val",
    seeds: Annotated[int, typer.Option(min=1, help="Halvings into what is labelled and what is measured.")] = 10,
    labels: Annotated[
        list[int] | None, typer.Option(min=1, help="After so many labels; none: 5, 10, 20, 40. Repeatable.")
    ] = None,
    step: Annotated[int, typer.Option(min=1, help="Labels between two fits.")] = 5,
    classes: Annotated[int, typer.Option(min=0, help="Only the first classes of each set; 0: all.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "cpu",
    vectors: Annotated[
        str, typer.Option(help="Folder in which vectors are kept and found again; none: they are not kept.")
    ] = "",
    json_out: JsonOut = None,
) -> None:
    """How much a search learns from 5, 10, 20, 40 labels that a simulated user gives, beside random choice, Rocchio and all labels."""
    options = {"model": model, "benchmark": benchmark or ["RSICD", "VHR-10", "Itaipu"], "root": root, "split": split}
    options |= {"n_seeds": seeds, "labels": labels or [5, 10, 20, 40], "step": step, "classes": classes, "device": device}
    _report("teaching", json_out, **options, vectors=vectors)


@app.command("search")
def search(
    vectors: Annotated[int, typer.Option(min=0, help="Vectors that are asked; 0: none.")] = 1_000_000,
    width: Annotated[int, typer.Option(min=1, help="Length of the vectors.")] = 512,
    side: Annotated[int, typer.Option(min=0, help="Side of the scene that is indexed, in pixels; 0: none.")] = 4096,
    many: Annotated[list[int] | None, typer.Option(help="Also one question to so many vectors. Repeatable.")] = None,
    scenes: Annotated[list[int] | None, typer.Option(help="Also an archive of so many small scenes. Repeatable.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed pairs.")] = 5,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0: as they are.")] = 0,
    json_out: JsonOut = None,
) -> None:
    """One question to an index beside reading it once, indexing beside the bare tower, and the memory of both."""
    options = {"n_vectors": vectors, "width": width, "n_side": side, "many": many or [], "n_scenes": scenes or []}
    _report("search", json_out, **options, repeats=repeats, threads=threads)


def _report(name: str, json_out: Path | None, **arguments) -> tuple[list[dict], str]:
    """Measure, print the rows, and write them with where they came from; return them, and the command that repeats them."""
    started = time.time()
    benchmark = importlib.import_module(f"benchmarks.{name}")
    rows = benchmark.measure(**arguments)
    if hasattr(benchmark, "table"):
        typer.echo(benchmark.table(rows))
    else:
        for row in rows:
            typer.echo("  ".join(f"{k} {cell:.3g}" if isinstance(cell, float) else f"{k} {cell}" for k, cell in row.items()))
    named = {name.removeprefix("n_").replace("_", "-"): value for name, value in arguments.items()}
    each = [(k, v) for k, values in named.items() for v in (values if isinstance(values, list | tuple) else [values])]
    options = [f"--{'' if v else 'no-'}{k}" if isinstance(v, bool) else f"--{k} {v}" for k, v in each if v != ""]
    command = " ".join([f"python -m benchmarks {name}", *options])
    if json_out:
        origin = provenance.provenance(config.load(), "none", rows[0].get("device", "cpu"), started, command)
        files.write_atomic(json_out, json.dumps({"rows": rows, "provenance": origin}, indent=1) + "\n")
    return rows, command


def main() -> None:
    """Run the command line; an expected error ends in one sentence and a non-zero exit code."""
    try:
        app()
    except RsvlmError as error:
        sys.exit(f"benchmarks: {error}")


if __name__ == "__main__":
    main()
