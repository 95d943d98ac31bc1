"""`rsvlm doctor`: what a file or folder is, what will be guessed and left out, and which command takes it, before anything is built.

Nothing is decided here. For each kind of input there is one function, which has the kind's own reader look at a small part and tells
what that reader says, warns of and counts. So what is told is what a build would do.
"""

from __future__ import annotations

import itertools
import json
import logging
import shlex
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from rsvlm.errors import DataError, RsvlmError
from rsvlm.records.commands import file_place
from rsvlm.records.text import one_line

app = typer.Typer()

LOOK = 200
"""Pictures, rows or pages of each kind that are looked at."""

MOST_BYTES = 300_000_000
"""Larger maps, which would have to be read whole, are known by their names alone."""

MODEL_NAMES = ("open_clip:", "hf:", "timm:")
WEB = (".warc", ".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
MAPS = (".geojson", ".json", ".geojsonl", ".ndjson", ".gpkg", ".shp", ".fgb", ".kml", ".gml", ".gdb", ".zip", ".pbf", ".osm")
MAPS += (".parquet", ".geoparquet", ".txt", ".tsv", ".bz2", ".gz")
RASTERS = (".tif", ".tiff", ".gtiff", ".jp2", ".j2k", ".vrt", ".mbtiles", ".json", ".geojson")
CONVERTED = (".img", ".ecw", ".sid", ".nc", ".hdf", ".asc", ".hgt", ".bil", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


@dataclass
class Finding:
    """What one reader says of an input.

    Attributes:
        kind: What it is, in a few words.
        facts: What was read in it.
        guessed: What it does not say, and is taken to be; with the option that decides it, where there is one.
        left_out: How many things are left out, by reason, of those that were looked at.
        commands: Commands that take it.
    """

    kind: str
    facts: list[str] = field(default_factory=list)
    guessed: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What can be said of one input: what it is, and where nothing takes it, what each reader that looked has against it."""

    path: str
    findings: list[Finding]
    refusals: dict[str, str]
    inside: list[str] = field(default_factory=list)  # what in a folder may be asked about by itself


def look(where: str) -> Report:
    """Have every reader that may take an input look at it.

    Args:
        where: File or folder, or a model by name (`hf:FOLDER`, `open_clip:NAME:FILE`).

    Raises:
        DataError: There is nothing of that name.
    """
    path = Path(where)
    if not where.startswith((*MODEL_NAMES, "embeddings:")) and not path.exists():
        raise DataError(f"there is no {where}: name a file, a folder, or a model as hf:FOLDER or open_clip:NAME:FILE")
    findings, refusals = [], {}
    for kind, may_take, inspect in KINDS:
        plain_folders = inspect is classes  # any folders of pictures are classes, those of images and masks, and of tiles, too
        if not may_take(where, path) or (plain_folders and any(one.kind.startswith(_NO_CLASSES) for one in findings)):
            continue
        with _warnings() as told:
            try:
                finding = inspect(where)
            except RsvlmError as error:
                words = one_line(str(error))
                refusals[kind] = words if len(words) <= 400 else f"{words[:400]}…"
                continue
            except Exception as error:  # a reader that fails is told of like one that refuses
                refusals[kind] = f"the reader failed ({type(error).__name__}: {one_line(str(error))})"
                continue
        finding.guessed += dict.fromkeys(line for line in told if line not in finding.guessed and _REPEATED not in line)
        finding.left_out = {reason: count for reason, count in finding.left_out.items() if count}
        findings.append(finding)
    inside = [] if any(one.kind.startswith("a ") for one in findings) else _inside(path)
    return Report(where, findings, {} if findings else refusals, inside)


def lines(report: Report) -> Iterator[str]:
    """Yield a report in plain words, line by line."""
    yield report.path
    for finding in report.findings:
        yield f"  is         {finding.kind}"
        rows = [("           ", finding.facts), ("  guessed  ", finding.guessed)]
        rows += [("  left out ", [f"{count:,} x {reason}" for reason, count in finding.left_out.items()])]
        for label, words in [*rows, ("  takes it ", finding.commands)]:
            yield from (f"{label if number == 0 else ' ' * len(label)}  {line}" for number, line in enumerate(words))
    if not report.findings:
        yield "  is         nothing that is read here" + (":" if report.refusals else "")
        for words in dict.fromkeys(report.refusals.values()):  # readers of one layout say the same
            kinds = " or ".join(kind for kind, same in report.refusals.items() if same == words)
            yield f"             as {kinds}: {words}"
        yield from (f"             {words}" for words in _instead(Path(report.path)))
    if report.inside:
        yield f"  inside     ask about these, too: {_listed(report.inside)}"


# One function for each kind of input


def model(where: str) -> Finding:
    """A model: of this package, of open_clip, of transformers or of timm, whose pictures, and as a rule texts, can be embedded."""
    from rsvlm.errors import ModelError
    from rsvlm.model import embed
    from rsvlm.model.encoder import ABILITIES
    from rsvlm.model.others import opening

    names = [where] if where.startswith(MODEL_NAMES) else [where, f"open_clip:{where}", f"hf:{where}"]
    problems = []
    for name in names:
        try:
            encoder = opening.open_encoder(name, "cpu")
        except ModelError as error:
            problems.append(str(error))
            continue
        weights = sum(p.numel() for p in encoder.model.parameters())
        own, can = isinstance(encoder, embed.MammutEncoder), encoder.can
        wordless = own and "captions" in can and encoder.model.tokenizer is None
        can = can - {"texts", "captions"} if wordless else can
        facts = [f"{weights:,} weights, vectors of {encoder.width} numbers, pictures of {encoder.image_size} px"]
        facts += [f"can do {ability}: {meaning}" for ability, meaning in ABILITIES.items() if ability in can]
        if wordless:
            return Finding("a model without a tokenizer: put its tokenizer.json beside the weights", facts)
        commands = [f"rsvlm search index IMAGERY --model {name} --out DIR"]
        if "texts" in can:
            commands = [f"rsvlm evaluate retrieval --model {name} --root DATA", f"rsvlm embed --model {name} ...", *commands]
            commands += [f'rsvlm search scene IMAGE --text "..." --model {name} --out DIR'] * ("patches" in can)
        return Finding("a MaMMUT" if own else f"a model of another package, {encoder.name}", facts, [], {}, commands)
    # The kind that the folder's own files are of has the most to say.
    raise ModelError(problems[0] if len(problems) == 1 else _most_telling(where, problems))


def _most_telling(where: str, problems: list[str]) -> str:
    folder = Path(where)
    if (folder / "open_clip_config.json").is_file():
        return problems[1]
    facts = json.loads((folder / "config.json").read_text()) if (folder / "config.json").is_file() else {}
    return problems[0 if facts.get("model_type") == "mammut" or "vision_cfg" in facts or not facts else 2]


def vectors(where: str) -> Finding:
    """Vectors that another system computed."""
    from rsvlm.evaluation import given

    read = given.read_embeddings(where)
    facts = [
        f"{len(read.keys):,} pictures, {len(read.image_of_caption):,} captions, {read.image_embeddings.shape[1]} numbers each"
    ]
    path, words = where.removeprefix("embeddings:"), given.wording(where)
    guessed = [] if words else ["the protocol whose wording the captions have: --protocol, or `wording` in the file, says it"]
    return Finding(
        "vectors of another system", facts, guessed, {}, [f"rsvlm evaluate retrieval --model embeddings:{shlex.quote(path)}"]
    )


def index(where: str) -> Finding:
    """An index of an archive of imagery."""
    from rsvlm.search import index as archive

    facts = archive.read_facts(Path(where))
    said = [f"{facts['chips']:,} chips of {', '.join(facts['imagery'])}, by the model {facts['model'] or '(not named)'}"]
    return Finding(
        "an index of imagery", said, [], facts.get("skipped", {}), [f'rsvlm search query {shlex.quote(where)} "a text"']
    )


def pairs(where: str) -> Finding:
    """Pictures with captions: shards, or a benchmark as its authors pack it."""
    from rsvlm.data import benchmarks, reading

    skipped: Counter = Counter()
    facts, problems, known = [], [], []
    for split in ("train", "val", "test"):
        try:
            some = itertools.islice(benchmarks.samples(where, split, skipped=skipped), LOOK)
            some = [sample for sample, _ in reading.decoded(some, skipped)]
        except DataError as error:
            problems.append(str(error))
            continue
        if not some:
            problems.insert(0, f"split '{split}': no sample can be used: {dict(skipped) or 'it is empty'}")
        else:
            if (keys := [sample.key for sample in some]) == known:
                facts.append(
                    f"{split}: the same pictures, as nothing says which split they are of: no test of what learns from them"
                )
                continue
            known, captions = keys, sum(len(sample.captions) for sample in some)
            facts.append(
                f"{split}: {_count(len(some))} pictures, {captions:,} captions in these; the first: {_short(some[0].captions[0])}"
            )
    if not facts:
        raise DataError(min(problems, key=lambda problem: "no split" in problem))  # says least, where another split is there
    commands = [f"rsvlm evaluate retrieval --model MODEL --root {shlex.quote(where)} --split {facts[-1].partition(':')[0]}"]
    if facts[0].startswith("train"):
        commands.append(f"rsvlm train --data {shlex.quote(where)} --out RUN")
    return Finding(f"pictures with captions, '{benchmarks.name(where)}'", facts, [], dict(skipped), commands)


def classes(where: str) -> Finding:
    """Pictures with classes."""
    from rsvlm.data import benchmarks, reading

    skipped: Counter = Counter()
    names, items = benchmarks.labelled(where, skipped=skipped)
    if len(names) < 2:
        raise DataError(f"{where} holds pictures in one folder alone, which tells no classes apart")
    some = (reading.Sample(key, data, [], {"class": names[n]}, 0) for key, data, n in itertools.islice(items, LOOK))
    found = Counter(sample.record["class"] for sample, _ in reading.decoded(some, skipped))
    if not found:
        raise DataError(f"no picture of {where} can be used: {dict(skipped) or 'there is none'}")
    absent = [name for name in names if not found[name]] if found.total() + skipped.total() < LOOK else []
    there = [name for name in names if name not in absent]
    facts = [f"{_count(found.total())} pictures of {len(there)} classes: {_listed(there)}"]
    facts += [f"classes without a picture: {len(absent)}: {_listed(absent)}"] if absent else []
    commands = [f"rsvlm evaluate classify --model MODEL --root {shlex.quote(where)}"]
    return Finding(f"pictures with classes, '{benchmarks.name(where)}'", facts, [], dict(skipped), commands)


def masks(where: str) -> Finding:
    """Pictures with true masks, in one of three layouts."""
    from rsvlm.localization import true_masks

    problems = []
    for benchmark in true_masks.BENCHMARKS:
        skipped: Counter = Counter()
        try:
            names = true_masks.classes(where, benchmark)
            items = list(true_masks.read(where, benchmark, skipped=skipped, limit=LOOK // 10))
        except RsvlmError as error:
            problems.append(f"{benchmark}: {error}")
            continue
        if not items:
            problems.append(f"{benchmark}: no picture can be used: {dict(skipped) or 'there is none'}")
            continue
        told = Counter(name for item in items for name in item.masks)
        facts = [f"classes: {_listed(names)}", f"{len(items)} pictures, spread over all, with masks of {_listed(told)}"]
        command = f"rsvlm evaluate localize --model MODEL --root {shlex.quote(where)} --benchmark {benchmark}"
        return Finding(f"pictures with masks, in the form '{benchmark}'", facts, [], dict(skipped), [command])
    raise DataError("; ".join(problems))


def imagery(where: str) -> Finding:
    """Imagery: a raster, a folder of them, tiles, MBTiles, or STAC items."""
    from rsvlm import config
    from rsvlm.data.imagery import sources

    options = config.Chips()
    opened = sources.open_imagery(where, options, placed=False)
    placed = [source for source in opened if source.crs]
    facts, left_out = [], Counter()
    for source in opened[:10]:
        west, south, east, north = source.bbox_lonlat
        place = f"{south:.4f} to {north:.4f} N, {west:.4f} to {east:.4f} E" if source.crs else "without a place on Earth"
        size = f"{source.width:,} x {source.height:,} px ({source.kind})"
        facts.append(f"{source.name}: {size}, {place}; licence {source.licence}")
        if source.bands:
            bands = f"{'bands' if len(source.bands) > 1 else 'band'} {', '.join(map(str, source.bands))}"
            stretch = ", ".join(f"{low:g} to {high:g}" for low, high in source.limits) or "as they are"
            facts.append(f"{source.name}: {bands} shown, values {stretch} (--set chips.bands=..., --set chips.limits=...)")
    facts += [f"and {len(opened) - 10} more"] if len(opened) > 10 else []
    commands = [
        f'rsvlm search scene {shlex.quote(where)} --text "..." --out DIR',
        f"rsvlm search index {shlex.quote(where)} --out DIR",
    ]
    if placed:
        commands.append(f"rsvlm landmarks build --imagery {shlex.quote(where)} --map MAP --out DIR")
        try:
            table, notes = sources.lay_out(placed, options)
            left_out.update({note["reason"]: note["count"] for note in notes})
            facts.append(f"{len(table):,} chips of {options.size_px} px fit in (--set chips.size_px=...)")
        except DataError as error:  # a scene can be searched all the same
            facts.append(one_line(str(error)))
            commands.pop()
    kind = "imagery" if opened[0].kind == "raster" else "tiles of imagery"
    return Finding(f"{kind}, {len(opened)} source{'s' * (len(opened) > 1)}", facts, [], dict(left_out), commands)


def vector_map(where: str) -> Finding:
    """A map: features that the taxonomy knows."""
    from rsvlm.data.maps import features

    path = Path(where)
    command = f"rsvlm landmarks build --imagery IMAGE --map {shlex.quote(where)} --out DIR"
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        size = f"{path.stat().st_size / 1e6:,.0f} MB, too large to be looked at"
        return Finding("a map, by its name", [size], [], {}, [command])
    read = features.read([where])
    if not len(read.table):
        raise DataError(f"no feature of {where} can be used: {features.reasons(read.counts)}")
    common = [f"{count:,} {name}" for name, count in read.table["category"].value_counts().items()]
    facts = [f"{len(read.table):,} features, {read.table['name'].notna().sum():,} of them with a name: {_listed(common)}"]
    facts += [f"licence {name or 'unknown'}" for name in read.table["licence"].unique()[:3]]
    guessed = [f"{read.counts[name]:,} {name}" for name in features.TOLD if read.counts[name]]
    left_out = {reason: count for reason, count in read.counts.items() if reason not in features.TOLD}
    return Finding("a map", facts, guessed, left_out, [command])


def web(where: str) -> Finding:
    """A web archive, or a table of addresses and texts."""
    from rsvlm.data.web import archives, html

    facts, counts = archives.inspect(where), html.Counts()
    columns = [f"{use} in the column '{name}'" for use, name in facts["columns"].items() if name]
    batch = next(archives.read(where, counts, batch_rows=LOOK), None)
    if batch is None or not len(batch):
        raise DataError(f"{where} is a {facts['format']} file without a candidate: {dict(counts) or 'it holds nothing'}")
    row = batch.slice(0, 1).to_pylist()[0]
    said = [f"{_count(len(batch))} candidates; the first: {_short(row['text'])} with {_short(row['url'])}"]
    told = {archives.REASONS[name]: count for name, count in counts.items() if name in archives.REASONS}
    commands = [f"rsvlm web build --input {shlex.quote(where)} --out DIR"]
    return Finding(f"candidates of the web ({facts['format']})", said, columns, told, commands)


def run(where: str) -> Finding:
    """The folder of a training."""
    folder = Path(where)
    options = json.loads((folder / "run.json").read_text(encoding="utf-8"))["options"]
    steps = [int(path.name.partition("-")[2]) for path in (folder / "checkpoints").glob("step-*")]
    steps = f"the last checkpoint after {max(steps, default=0):,}"
    facts = [f"{options['train']['steps']:,} steps of '{options['model']['preset']}', {steps}"]
    if (folder / "model").is_dir():
        command = f"rsvlm doctor {shlex.quote(str(folder / 'model'))}"
        return Finding("a training that is finished", facts, [], {}, [command])
    command = f"rsvlm train ... --out {shlex.quote(where)}   (the same command goes on)"
    return Finding("a training that is not finished", facts, [], {}, [command])


def packed(where: str) -> Finding:
    """A packed folder, which no command opens."""
    path = Path(where)
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            names = [member.name for member in itertools.islice(tar, 10 * LOOK) if member.isfile()]
    else:
        with zipfile.ZipFile(path) as file:
            names = [name for name in file.namelist() if not name.endswith("/")]
    kinds = Counter(Path(name).suffix.lower() or "(no ending)" for name in names if not Path(name).name.startswith("._"))
    facts = [f"{_count(len(names), 10 * LOOK)} files: {_listed(f'{count:,} {kind}' for kind, count in kinds.most_common())}"]
    commands = [f"unpack it, and then: rsvlm doctor {shlex.quote(str(path.with_suffix('')))}"]
    if path.suffix == ".tar" and any(kind in kinds for kind in (".txt", ".json")):
        beside = f"rsvlm doctor {shlex.quote(str(path.parent))}"
        commands.insert(0, f"if it is a shard of pictures and texts: put it into a folder, and then: {beside}")
    return Finding("a packed folder", facts, [], {}, commands)


def _is_model(where: str, path: Path) -> bool:
    weights = (".safetensors", ".bin", ".pt", ".pth")
    named = any((path / name).is_file() for name in ("config.json", "open_clip_config.json"))
    return where.startswith(MODEL_NAMES) or named or (path.is_dir() and any(file.suffix in weights for file in path.iterdir()))


def _inside(path: Path) -> list[str]:
    """Name what lies in a folder and may be data by itself: folders, maps and tables."""
    if not path.is_dir():
        return []
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    maps = (".geojson", ".gpkg", ".shp", ".fgb", ".pbf", ".parquet", ".warc", ".warc.gz", ".npz", ".mbtiles", ".zip")
    return [f"{file.name}{'/' * file.is_dir()}" for file in files if file.is_dir() or file.name.lower().endswith(maps)]


def _instead(path: Path) -> list[str]:
    """Say what to ask about in place of what nothing reads."""
    name = path.name.lower()
    if path.is_dir():
        return [] if any(path.iterdir()) else ["the folder is empty"]
    if name.endswith(_OF_SHAPES) and path.with_suffix(".shp").is_file():
        return [f"a part of a shapefile: rsvlm doctor {shlex.quote(str(path.with_suffix('.shp')))}"]
    if name.endswith((".json", ".csv", ".tsv", ".tar", ".png", ".jpg", ".jpeg", ".webp")):
        parent = shlex.quote(str(path.parent))
        return [f"captions, masks and pictures of a set are read with the folder that holds them all: rsvlm doctor {parent}"]
    known = (*MAPS, *WEB, *RASTERS, ".npz")
    return [] if name.endswith((*known, *CONVERTED)) else [f"read are {' '.join(sorted(set(known)))}"]


def _has(path: Path, endings: Iterable[str]) -> bool:
    """Whether a file, or something in a folder, has a name that ends so."""
    endings = tuple(endings)
    files = (file for file in path.rglob("*") if not file.name.startswith(".")) if path.is_dir() else [path]
    return any(file.name.lower().endswith(endings) for file in itertools.islice(files, 100_000))


_REPEATED = "features were read, and left out: "  # of a map, whose counts are told
_NO_CLASSES = ("pictures with", "tiles of")
_TEXTS = (".tar", ".json", ".csv", ".tsv", ".txt")
_PACKED = (".tar", ".tar.gz", ".tgz", ".zip")
_OF_SHAPES = (".dbf", ".shx", ".prj", ".cpg", ".sbn", ".sbx", ".shp.xml", ".qix")
_PICTURES = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".webp", ".mbtiles")

KINDS: list[tuple[str, Callable[[str, Path], bool], Callable[[str], Finding]]] = [
    ("a model", _is_model, model),
    ("vectors", lambda where, path: where.startswith("embeddings:") or path.suffix == ".npz", vectors),
    ("an index", lambda where, path: (path / "index.json").is_file(), index),
    ("a training", lambda where, path: (path / "run.json").is_file(), run),
    ("pictures with captions", lambda where, path: path.is_dir() and _has(path, _TEXTS), pairs),
    ("pictures with masks", lambda where, path: path.is_dir() and _has(path, _PICTURES), masks),
    ("imagery", lambda where, path: _has(path, _PICTURES) if path.is_dir() else _has(path, (*RASTERS, *CONVERTED)), imagery),
    ("pictures with classes", lambda where, path: path.is_dir() and _has(path, (*_PICTURES, ".tar")), classes),
    ("a map", lambda where, path: _has(path, (".parquet", ".geoparquet")) if path.is_dir() else _has(path, MAPS), vector_map),
    ("candidates of the web", lambda where, path: path.is_file() and any(end.lower() in WEB for end in path.suffixes), web),
    ("a packed folder", lambda where, path: path.is_file() and path.name.lower().endswith(_PACKED), packed),
]
"""Name of each kind, whether an input may be of it, by its name alone, and the function that has its reader look."""


# Words


def _count(count: int, most: int = LOOK) -> str:
    return f"{count:,}" if count < most else f"{count:,} or more"


def _listed(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"


def _short(text: str, most: int = 80) -> str:
    text = one_line(str(text))
    return f"'{text[:most]}{'…' * (len(text) > most)}'"


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what readers warn of, in place of printing it."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(one_line(record.getMessage()))
    package = logging.getLogger("rsvlm")
    spreads, package.propagate = package.propagate, False
    package.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rasterio and Pillow
            yield told
    finally:
        package.removeHandler(handler)
        package.propagate = spreads


# The verb


@app.command()
def doctor(
    data: Annotated[
        list[str] | None,
        typer.Argument(help="Files and folders of any kind, or models, as hf:FOLDER. None: what is installed here."),
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Also write the answers to this file.", callback=file_place)
    ] = None,
) -> None:
    """Say what data are, what will be guessed and left out, and which command takes them; or what is installed here.

    Nothing is built, and only a part of each input is looked at.
    """
    from rsvlm.records import files, provenance

    if not data:
        if json_out:
            raise DataError("--json writes what is said of data: name some, as in rsvlm doctor IMAGE.tif --json answer.json")
        typer.echo("\n".join(provenance.installed()))
        return
    reports = [look(where) for where in data]
    if json_out:
        files.write_atomic(json_out, json.dumps([asdict(report) for report in reports], indent=1, ensure_ascii=False) + "\n")
    for report in reports:
        typer.echo("\n".join(lines(report)))
    if unknown := [report.path for report in reports if not report.findings]:
        raise DataError(f"nothing here reads {', '.join(unknown)}: what each reader has against it stands above")
