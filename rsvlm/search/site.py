"""An index as a page that searches: a folder which any static server shows, without a network, and no server of ours.

    index.html         the page; opened as a file it says what to do, and shows the answers to the examples
    page/              its scripts and its style sheet
    pictures/000/      a small WebP of each chip, by its number
    heat/000/          what each part of a chip adds to its vector, as of `page_heat`, where that was asked for
    data/              what is searched; last of all `manifest.json`, with size and hash of each file

`data/` has `index.json` (facts, and the vectors of the examples), `vectors.bin` (N, E) int8, `columns.bin` (2, E) float32, what is
added to a column of these after it was multiplied with the other, `places.bin` (N, points, 2) uint32, the outlines in steps of `unit` degrees from `origin`,
`chips.json.gz` (keys, files, how much ground a pixel shows, and captions where there are any), `overview.webp` (the chips as a map), and, where the text half of the model is small enough, that
half as `text.onnx`, its `tokenizer.json` and what runs both. Numbers are little-endian.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import math
import shutil
import tempfile
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from rsvlm.errors import DataError, RsvlmError
from rsvlm.model import images
from rsvlm.model.encoder import Encoder
from rsvlm.records import files, stages
from rsvlm.search import page_heat, page_runtime, page_texts
from rsvlm.search.index_files import Index

log = logging.getLogger(__name__)

ROOMS = (
    "search/site", "search/page_heat", "search/page_texts", "search/page_runtime", "search/page_files", "search/index_files",
    "localization", "model", "data/imagery", "data/*",
)  # fmt: skip
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

DATA = "data"  # folder of what is searched
EXAMPLES = ("buildings", "water", "a forest", "a road")
SHOWN = 24
PICTURE_PX = 128
STATIC = 6  # answers to each example in the page that is opened as a file
SOURCES = 5  # of the imagery, named on the page
OVERVIEW_PX = 1600  # of the longer side
MOST_STEPS = 2**32 - 1

EXACT_MB = 40  # towers up to this size go out as they are
MOST_MB = 90  # larger ones are made smaller, and stay out if that does not suffice
SAMPLE = 200  # chips whose neighbours are compared before and after rounding


def quantise(vectors: np.ndarray, block: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """Round vectors to bytes, column by column, as models have columns that hardly differ between images, and are large.

    Args:
        vectors: (N, E) of any floating type.
        block: Rows in memory at a time.

    Returns:
        (N, E) int8, and (2, E) float32: a vector is the first row of these plus the bytes times the second.
    """
    blocks = [slice(start, start + block) for start in range(0, len(vectors), block)]
    extremes = np.array(
        [(part.min(axis=0), part.max(axis=0)) for part in (np.asarray(vectors[b], np.float32) for b in blocks)]
    )
    low, high = extremes[:, 0].min(axis=0), extremes[:, 1].max(axis=0)
    columns = np.stack([(low + high) / 2, np.maximum((high - low) / 254, 1e-12)])
    whole = np.empty(vectors.shape, np.int8)
    for b in blocks:
        whole[b] = np.rint((np.asarray(vectors[b], np.float32) - columns[0]) / columns[1]).clip(-127, 127)
    return whole, columns


def kept_neighbours(vectors: np.ndarray, whole: np.ndarray, columns: np.ndarray, k: int = 10, seed: int = 0) -> float:
    """Measure what rounding changes: the percentage of the k nearest chips of a chip that are still among its k nearest, of a sample.

    Args:
        vectors: (N, E) of norm 1.
        whole: (N, E) int8 of `quantise`.
        columns: (2, E) float32 of `quantise`.
        k: Neighbours.
        seed: Seed of the sample.
    """
    rows = np.random.default_rng(seed).permutation(len(vectors))[:SAMPLE]
    asked, k = np.asarray(vectors[np.sort(rows)], np.float32), min(k, len(vectors))
    exact = np.empty((len(asked), len(vectors)), np.float32)
    for start in range(0, len(vectors), 8192):
        exact[:, start : start + 8192] = asked @ np.asarray(vectors[start : start + 8192], np.float32).T
    rounded = _products(asked, whole, columns)
    best = [np.argpartition(-scores, k - 1, axis=1)[:, :k] for scores in (exact, rounded)]
    return 100 * float(np.mean([np.isin(one, other).mean() for one, other in zip(*best, strict=True)]))


def _products(directions: np.ndarray, whole: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Multiply (M, E) directions with the rounded vectors, as the page does: (M, N) float32."""
    weights, blocks = directions * columns[1], range(0, len(whole), 8192)
    return (directions @ columns[0])[:, None] + np.concatenate(
        [weights @ whole[start : start + 8192].astype(np.float32).T for start in blocks], axis=1
    )


def write_site(
    index: Index,
    out: Path,
    encoder: Encoder | None = None,
    *,
    title: str = "",
    examples: Sequence[str] = EXAMPLES,
    texts: str = "auto",
    picture_px: int = PICTURE_PX,
    heat: bool = False,
    ground: tuple[bytes, Sequence[float]] | None = None,
    progress: bool = True,
) -> dict:
    """Write the page of an index.

    Args:
        index: The index; or what has chips, vectors and pictures as one has. Where its `chips` have a column `captions`, the page shows
            these beside a chip.
        out: Folder of the page; one that holds other things is refused.
        encoder: The model of the index. If None, the page takes chips as questions, and no texts.
        title: Title of the page. If empty, the name of the index's folder.
        examples: Texts that the page offers; their vectors go into it.
        texts: Where texts are read: `browser` (or an error that says why not), `server` (`serve` answers them), or `auto`, the
            browser where the text half of the model is small enough.
        picture_px: Side of the pictures, in pixels.
        heat: Show which parts of a chip fit what is searched for, where the parts of the model add up: see `page_heat`.
        ground: Picture on which the map shows the chips, as WebP, and its west, south, east and north. If None, the chips themselves.
        progress: Show a bar.

    Returns:
        Content of `data/index.json`: among it `tower` (bytes and precision of the text half; None where it stays out),
        `grid` (parts of a chip that have heat, down and across; None without any), `no_texts` (why), `kept_neighbours` (percent), and `unread` (chips whose picture could not be read).

    Raises:
        DataError: The folder holds something else, or the imagery cannot be read.
        ModelError: `browser` was asked for, and the model's text half cannot run there.
    """
    out = Path(out)
    _clear(out)
    data, table = out / "data", index.chips if ground else _together(index.chips)
    if encoder is not None:
        index.check(encoder)
    data.mkdir(parents=True, exist_ok=True)

    # The text half first: where it is asked for and cannot be had, no work was done.
    tower, reason = None, "the page was made without the model"
    if encoder is not None:
        tower, reason = _text_half(encoder, data, texts)
    readable = encoder is not None and "texts" in encoder.can
    asked = list(dict.fromkeys(text.strip() for text in examples if text.strip())) if readable else []
    vectors = encoder.texts(asked) if asked else np.empty((0, index.vectors.shape[1]), np.float32)

    whole, columns = quantise(index.vectors)
    files.write_atomic(data / "vectors.bin", whole.tobytes())
    files.write_atomic(data / "columns.bin", columns.astype("<f4").tobytes())
    places = _places(table)
    files.write_atomic(data / "places.bin", places.pop("steps").astype("<u4").tobytes())
    names = list(dict.fromkeys(table["file"].astype(str)))
    number = {name: i for i, name in enumerate(names)}
    named = {
        "key": table["key"].astype(str).tolist(),
        "files": names,
        "file": [number[name] for name in table["file"].astype(str)],
    }
    if "captions" in table:
        named["captions"] = [list(captions) for captions in table["captions"]]
    if {"gsd_m", "size_px"} <= set(table.columns):
        named["gsd_m"] = [float(f"{gsd:.4g}") for gsd in table["gsd_m"]]
        named["size_px"] = table["size_px"].astype(int).tolist()
    content = json.dumps(named, ensure_ascii=False, separators=(",", ":")).encode()
    files.write_atomic(data / "chips.json.gz", gzip.compress(content, mtime=0))

    overview = _Overview(table)
    unread = _pictures(index, out / "pictures", overview, picture_px, progress)
    picture, bounds = ground or (overview.webp(), overview.bounds)
    files.write_atomic(data / "overview.webp", picture)
    grid = page_heat.write(index, encoder, out / "heat", progress) if heat and encoder is not None else None

    facts = {
        "title": title or index.folder.resolve().name, "chips": len(index), "width": int(index.vectors.shape[1]), "shown": SHOWN,
        "model": encoder.name if encoder is not None else index.model_name, "fingerprint": _fingerprint(index, whole),
        "licences": _licences(index), "placed": True, **places, "bounds": _bounds(table), "overview": list(bounds), "grid": grid,
        "examples": [
            {"text": text, "vector": np.round(vector.astype(float), 6).tolist(), "cut": page_texts.cut_to(encoder, text)}
            for text, vector in zip(asked, vectors)
        ],
        "tower": tower, "no_texts": None if tower else reason, "unread": unread,
        "kept_neighbours": round(kept_neighbours(index.vectors, whole, columns), 2),
    }  # fmt: skip
    files.write_atomic(data / "index.json", json.dumps(facts, ensure_ascii=False))
    _write_page(out, facts, _answers_html(table, asked, vectors, whole, columns))
    entries = {
        path.name: {"bytes": path.stat().st_size, "sha256": files.file_sha256(path)} for path in sorted(data.glob("[!.]*"))
    }
    files.write_atomic(data / "manifest.json", json.dumps({"files": entries, "tower": tower is not None}, indent=1))
    return facts


def load_or_write(index: Index, encoder: Encoder, examples: Sequence[str] = EXAMPLES, title: str = "") -> Path:
    """Return the folder of an index's page without a text half, written now unless it was before."""
    parts = {"index": files.file_sha256(index.folder / "index.json"), "folder": str(index.folder.resolve()), "title": title}
    parts |= {"examples": list(examples), "source": stages.source_hash(*ROOMS)}

    def write(folder: Path) -> None:
        write_site(index, folder / "page", encoder, examples=examples, texts="server", title=title)

    return stages.stage("search-page", parts, write) / "page"


def _clear(out: Path) -> None:
    """Take away what an earlier call wrote, its manifest first; refuse a folder of other things."""
    there = [path.name for path in out.iterdir() if not path.name.startswith(".lock")] if out.is_dir() else []
    known = {"index.html", "page", "pictures", "heat", "data"}
    if others := sorted(set(there) - known):
        raise DataError(f"{out} holds other things ({others[0]}): name a folder of its own for the page")
    if there and not ((out / "data").is_dir() and set(there) <= known):
        raise DataError(f"{out} is no page of an index: name a new folder")
    (out / "data" / "manifest.json").unlink(missing_ok=True)
    for name in ("data", "pictures", "heat", "page"):
        if (out / name).exists():
            shutil.rmtree(out / name)


def _text_half(encoder: Encoder, data: Path, texts: str) -> tuple[dict | None, str | None]:
    """Write the text half of a model with what runs it, or say why not."""
    if texts == "server":
        return None, "texts were left to the server"
    if "texts" not in encoder.can:
        return None, f"{encoder.name} reads no texts"
    try:
        ran = page_runtime.runtime()
        half = page_texts.open_texts(encoder)
        with tempfile.TemporaryDirectory() as folder:
            path, precision = half.export(Path(folder) / "text.onnx"), "float32"
            if path.stat().st_size > EXACT_MB * 1e6:
                whole = path.stat().st_size / 1e6
                path, precision = page_texts.shrink(path, Path(folder) / "int8.onnx"), "int8"
                log.warning(
                    "the text half of %s has %.0f MB, so the page gets it in eight bits: some of its answers will differ from those "
                    "of `rsvlm search query`, and the server's (`rsvlm search serve`) will not",
                    *(encoder.name, whole),
                )
            size = path.stat().st_size
            if size > MOST_MB * 1e6 and texts != "browser":
                return (
                    None,
                    f"the text half of {encoder.name} has {size / 1e6:.0f} MB, more than the {MOST_MB} MB that a page loads",
                )
            shutil.copyfile(path, data / "text.onnx")
    except RsvlmError as error:
        if texts == "browser":
            raise
        return None, str(error)
    half.tokens.save_pretrained(data)
    for path in data.glob("*.json"):
        if path.name != "tokenizer.json":
            path.unlink()
    for name in page_runtime.FILES:
        shutil.copyfile(ran / name, data / name)
    bounds = {"context": half.context, "bos": half.tokens.bos_token_id, "eos": half.tokens.eos_token_id}
    return {"bytes": size, "precision": precision, **bounds}, None


def _together(table: pd.DataFrame) -> pd.DataFrame:
    """Turn chips on both sides of the 180th meridian, whole turns, so that they lie together on a map; others stay where they are."""
    middles = table[["west", "east"]].mean(axis=1).to_numpy(float)
    around = np.sort(middles % 360)
    start = around[(np.diff(around, append=around[0] + 360).argmax() + 1) % len(around)]  # behind the widest gap
    turned = start + (middles - start) % 360
    if np.ptp(turned) >= np.ptp(middles) / 2:
        return table
    turned -= 360 * np.round((turned.min() + turned.max()) / 720)
    shift = 360 * np.rint((turned - middles) / 360)
    outlines = [np.asarray(outline, float) + [by, 0] * (len(outline) // 2) for outline, by in zip(table["outline"], shift)]
    return table.assign(west=table["west"] + shift, east=table["east"] + shift, outline=outlines)


def _bounds(table: pd.DataFrame) -> list[float]:
    """West, south, east and north of a map of the chips. One at a pole has all longitudes, or many, and does not make the map wider."""
    boxes = table[["west", "south", "east", "north"]].to_numpy(float)
    polar = (np.abs(boxes[:, [1, 3]]).max(axis=1) > 89.999) & (boxes[:, 2] - boxes[:, 0] >= 90)
    boxes = boxes if polar.all() else boxes[~polar]
    return [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]


def _places(table: pd.DataFrame) -> dict:
    """Outlines in whole steps: `steps` (N, points, 2) uint32, and `points`, `origin` and `unit` (longitude, latitude) in degrees."""
    rings = [np.asarray(outline, float).reshape(-1, 2) for outline in table["outline"]]
    if len({len(ring) for ring in rings}) > 1:  # some have points along their edges: the corners of all
        rings = [ring[:: max(len(ring) // 4, 1)][:4] for ring in rings]
    outlines = np.stack(rings)
    origin = outlines.min(axis=(0, 1))
    unit = np.maximum(outlines.max(axis=(0, 1)) - origin, 1e-9) / MOST_STEPS
    steps = np.clip(np.rint((outlines - origin) / unit), 0, MOST_STEPS).astype(np.uint32)
    return {"steps": steps, "points": outlines.shape[1], "origin": origin.tolist(), "unit": unit.tolist()}


class _Overview:
    """All chips on one picture, in even degrees; where several lie, the smallest is seen."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.boxes = table[["west", "south", "east", "north"]].to_numpy(float)
        self.bounds = west, south, east, north = _bounds(table)
        middle = math.cos(math.radians((south + north) / 2))
        wide, high = max((east - west) * max(middle, 0.2), 1e-9), max(north - south, 1e-9)
        scale = OVERVIEW_PX / max(wide, high)
        self.size = max(1, round(wide * scale)), max(1, round(high * scale))
        self.pixels = np.zeros((self.size[1], self.size[0], 4), np.uint8)
        self.areas = np.full(self.size[::-1], np.inf)

    def add(self, row: int, picture: np.ndarray) -> None:
        """Lay the picture of a chip where it lies."""
        west, south, east, north = self.boxes[row]
        scale = (
            self.size[0] / max(self.bounds[2] - self.bounds[0], 1e-9),
            self.size[1] / max(self.bounds[3] - self.bounds[1], 1e-9),
        )
        left, right = math.floor((west - self.bounds[0]) * scale[0]), math.ceil((east - self.bounds[0]) * scale[0])
        top, bottom = math.floor((self.bounds[3] - north) * scale[1]), math.ceil((self.bounds[3] - south) * scale[1])
        if min(left, top) < -1:  # at a pole, beyond the picture
            return
        left, top = min(max(left, 0), self.size[0] - 1), min(max(top, 0), self.size[1] - 1)
        shape = min(right, self.size[0]) - left, min(bottom, self.size[1]) - top
        if min(shape) < 1:
            return
        area = (east - west) * (north - south)
        free = self.areas[top : top + shape[1], left : left + shape[0]] >= area
        small = np.asarray(Image.fromarray(picture).resize(shape, Image.Resampling.BOX))
        self.pixels[top : top + shape[1], left : left + shape[0], :3][free] = small[free]
        self.pixels[top : top + shape[1], left : left + shape[0], 3][free] = 255
        self.areas[top : top + shape[1], left : left + shape[0]][free] = area

    def webp(self) -> bytes:
        """Encode the picture."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, "WEBP", quality=70)
        return buffer.getvalue()


def _pictures(index: Index, folder: Path, overview: _Overview, picture_px: int, progress: bool, batch: int = 1024) -> int:
    """Write a small picture of each chip; return how many could not be read."""
    unread, grey = 0, np.full((picture_px, picture_px, 3), 128, np.uint8)
    with tqdm(total=len(index), desc="pictures", unit=" chips", disable=not progress) as bar:
        for start in range(0, len(index), batch):
            rows = np.arange(start, min(start + batch, len(index)))
            for row, picture in zip(rows.tolist(), index.pictures(rows), strict=True):
                unread += picture is None
                path = folder / f"{row // 1000:03d}" / f"{row:06d}.webp"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(images.thumbnail_webp(grey if picture is None else picture, picture_px, quality=75))
                if picture is not None:
                    overview.add(row, picture)
            bar.update(len(rows))
    if unread == len(index):
        raise DataError(f"no chip of {index.folder} can be read: is the imagery still where it was?")
    return unread


def _answers_html(
    table: pd.DataFrame, texts: Sequence[str], vectors: np.ndarray, whole: np.ndarray, columns: np.ndarray
) -> str:
    """Write what the page has to show without a script: the best chips for each example, or some chips as they lie."""

    def items(rows: Sequence[int]) -> str:
        return "".join(
            f'<li><img src="{_picture(row)}" width="128" height="128" loading="lazy" alt="Chip {escape(str(table["key"].iloc[row]))}"></li>'
            for row in rows
        )

    if not len(texts):
        rows = np.unique(np.linspace(0, len(table) - 1, 12).astype(int)).tolist()
        return f'<h2>Some of the chips</h2><ol class="strip">{items(rows)}</ol>'
    scores = _products(vectors, whole, columns)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :STATIC].tolist()
    return "\n".join(
        f'<h2>“{escape(text)}”</h2><ol class="strip">{items(rows)}</ol>' for text, rows in zip(texts, best, strict=True)
    )


def _picture(row: int) -> str:
    return f"pictures/{row // 1000:03d}/{row:06d}.webp"


def _write_page(out: Path, facts: dict, static: str) -> None:
    """Lay the scripts beside the page, and put texts into it, escaped."""
    folder = resources.files("rsvlm.search").joinpath("page_files")
    for file in folder.iterdir():
        if file.name.endswith((".js", ".css")):
            files.write_atomic(out / "page" / file.name, file.read_bytes())
    about = [f"{facts['chips']:,} chips, seen by {facts['model']}. Nothing that you type or say leaves your computer."]
    about += ["Sources, and their licences:", *facts["licences"]] if facts["licences"] else []
    page = folder.joinpath("index.html").read_text(encoding="utf-8")
    for name, text in (("@TITLE@", escape(facts["title"])), ("@ABOUT@", "<br>".join(map(escape, about)))):
        page = page.replace(name, text.replace("@", "&#64;"))
    files.write_atomic(out / "index.html", page.replace("@STATIC@", static))


def _licences(index: Index) -> list[str]:
    """Name each source of the imagery once, as far as files told, with its licences after it: `SOURCE — LICENCE; LICENCE`.

    Several sources of one picture, and their licences, are joined by semicolons in the same order; where these are not equally many,
    which licence is whose is not known, and all stand after all.
    """
    licences: dict[str, list[str]] = {}
    for facts in index.facts.get("sources", []):
        names, terms = ((facts.get(key) or "").strip() for key in ("attribution", "licence"))
        split = [[part.strip() for part in text.split(";") if part.strip()] for text in (names, terms)]
        pairs = zip(*split) if len(split[0]) == len(split[1]) else [(names, terms)]
        for name, term in pairs:
            of_name = licences.setdefault(name, [])
            of_name += [term] if term not in ("", "unknown", *of_name) else []
    lines = [" — ".join(filter(None, (name, "; ".join(terms)))) for name, terms in licences.items()]
    lines = list(filter(None, lines))
    return lines[:SOURCES] + ([f"and {len(lines) - SOURCES:,} more"] if len(lines) > SOURCES else [])


def _fingerprint(index: Index, whole: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps([index.facts["fingerprint"], len(index)]).encode())
    digest.update(whole.tobytes())
    return digest.hexdigest()[:24]
