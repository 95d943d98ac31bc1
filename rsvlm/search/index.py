"""Imagery embedded for questions: chips of all its scenes, at one or several scales, once.

    imagery ── sources ── chips laid out ── parts ── read, embedded ── parts/ ── put together: vectors.npy, chips.parquet, index.json

What is done is kept: a killed indexing goes on where it was, and one that is run again does what is new and drops what is gone. Until
all is put together, the index answers as it did before. `index_files` says how it lies on disk, `query` asks it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from rsvlm.data import workers as engines
from rsvlm.data.imagery import ground, sources as imagery
from rsvlm.data.imagery.chip_layout import Source
from rsvlm.errors import ConfigError, DataError
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder
from rsvlm.model.mammut import Mammut
from rsvlm.records import files
from rsvlm.search import index_files, index_parts, tile_servers
from rsvlm.search.index_files import FORM, Index, _options, open_index, read_facts
from rsvlm.search.index_parts import Look, Part
from rsvlm.search.query import pictures, query
from rsvlm.search.result_files import features

__all__ = ["Index", "features", "index", "open_index", "pictures", "query", "read_facts"]

log = logging.getLogger(__name__)
_BLURRED = 4  # times that a chip is enlarged, at most, before it is told
_SHOWN = ("bands", "limits", "nodata", "tile_rows")  # options that say what pixels mean


def index(
    where: str | Path | Sequence[str | Path],
    model: Mammut | Encoder,
    out: Path,
    *,
    model_folder: str | Path = "",
    size_px: int | None = None,
    chip_m: Sequence[float] = (),
    stride: float = 1.0,
    min_valid_share: float = 0.5,
    cover_edges: bool = True,
    tile_rows: str = "auto",
    bands: Sequence[int] = (),
    limits: Sequence[float] = (),
    nodata: str | float = "auto",
    batch_size: int = 256,
    engine: str = "local",
    workers: int = 1,
    device: str = "auto",
    fresh: bool = False,
    allow_loopback: bool = False,
    contact: str = "",
    progress: bool = True,
) -> dict:
    """Embed every chip of imagery, one batch in memory at a time.

    Where `out` holds an index already, what is still asked for is taken from it: chips of scenes that have not changed, at the same scales,
    by the same model. Values of such scenes stay black and white as they were, and new scenes that belong to them follow.

    Args:
        where: Folder of rasters or of tiles, or whatever `sources.open_imagery` takes, or the address of a server of tiles as in
            `tile_servers`, or several; all of it says where on Earth it lies.
        model: Model in evaluation mode, of any family.
        out: Folder of the index.
        model_folder: Folder of the model, or its name as for `opening.open_encoder`, for those who ask, and for workers.
        size_px: Side of a chip, in pixels of the imagery. If None, that of the model's images, unless `chip_m` is given.
        chip_m: Sides of chips on the ground, in metres: a scale each. They are shown with as many pixels as the model's images have.
        stride: Step between chips, in sides.
        min_valid_share: Chips with a smaller share of pixels that hold data are left out.
        cover_edges: Add last chips flush with the edges of rasters, and enlarge those of rasters smaller than a chip.
        tile_rows: Which way rows of tiles count: `xyz`, `tms`, `zyx` or `auto`, as `config.Chips.tile_rows`.
        bands: Bands shown as red, green and blue, or one, as `config.Chips.bands`.
        limits: Values that become black and white, a pair, or one for each band. If empty, they are found for files together.
        nodata: Value that holds no data, as for `scene_files.open_scene`.
        batch_size: Chips per forward pass.
        engine: Who does the work, as in `workers.run`; with `ray`, `out`, the imagery and the model are seen by all machines.
        workers: Processes. With `local` and 1, this one does it, with `model` itself; others open `model_folder`.
        device: Device on which other processes open the model.
        fresh: Do all anew.
        allow_loopback: Also read imagery from addresses of this machine.
        contact: Page or e-mail address that servers of tiles are told.
        progress: Show a bar.

    Returns:
        Content of `index.json`: among it `chips`, in `skipped` how many were left out, by reason, in `ground_under_chips` the share of
        the imagery's pixels that lies under chips of the scale that covers most (ground that several files show counts once for each of
        them), in `scales` the same for each scale, in `sources` for each source and scale; in `embedded` how many chips were embedded now.

    Raises:
        ConfigError: Workers are asked for and the model has no name.
        DataError: There is no imagery, or no chip of it can be read, or another process writes to `out`.
        MissingExtraError: rasterio or pyproj is not installed.
    """
    out, model = Path(out), embed.encoder_of(model)
    is_here = engine == "local" and workers == 1
    if not is_here and not model_folder:
        raise ConfigError("workers open the model themselves: say which, as with --model FOLDER")
    places = [str(where)] if isinstance(where, (str, Path)) else [str(place) for place in where]
    shown = {"tile_rows": tile_rows, "bands": list(bands), "limits": list(limits), "nodata": nodata}
    shown |= {"allow_loopback": True} if allow_loopback else {}
    asked = {"stride": stride, "min_valid_share": min_valid_share, "cover_edges": cover_edges}
    looks = [Look(model.image_size, float(side), **asked) for side in dict.fromkeys(chip_m)]
    looks += [Look(size_px or model.image_size, **asked)] if size_px or not chip_m else []
    with files.sole_writer(out):
        before = None if fresh else _before(out)
        known = _known(before, shown, model.fingerprint)
        places = [tile_servers.local(place, out / "imagery", allow_loopback, progress, contact) for place in places]
        layout = _Layout(places, looks, shown, known, model.fingerprint)
        done = _Done(out, fresh)
        missing = list({part.id: part for part in layout.parts if part.id not in done}.values())
        total = sum(part.stop - part.start for part in missing)
        with tqdm(total=total, desc="index", unit=" chips", disable=not progress) as bar:
            if is_here:
                for _, count in index_parts.embed_parts(missing, model, done.folder, batch_size):
                    bar.update(count)
            elif missing:
                name = _named(model_folder)
                work = partial(
                    index_parts.embed_part, model=name, device=device, folder=str(done.folder.resolve()), batch_size=batch_size
                )
                for count in engines.run(work, missing, engine, workers):
                    bar.update(count)
        return _put_together(out, layout, done, model, {
            "model": _named(model_folder), "options": asked | shown | {"size_px": size_px, "chip_m": list(chip_m)},
            "embedded": total,
        })  # fmt: skip


def told(out: Path, facts: Mapping) -> list[str]:
    """Say in lines what is in an index, and what is not."""
    sources = len({source["name"] for source in facts["sources"]})
    on = f"on {100 * facts['ground_under_chips']:.0f} % of the ground of {sources} sources"
    kept = facts["chips"] - facts["embedded"]
    lines = [f"{out}: {facts['chips']:,} chips, {on}" + (f"; {kept:,} of them were there already" if kept > 0 else "")]
    if len(facts["scales"]) > 1:
        for name, scale in facts["scales"].items():
            lines.append(f"  {name}: {scale['chips']:,} chips, on {100 * scale['ground_under_chips']:.0f} % of the ground")
    lines += [f"  left out: {counted}" for counted in _counted(facts["skipped"])]
    for source in facts["sources"]:
        if not source["chips"]:
            lines.append(f"  nothing of it in the index, at {source['scale']}: {source['file']}")
    return lines


def _counted(reasons: Mapping[str, int]) -> list[str]:
    """Write reasons with their counts behind them, as `raster cannot be used (2)`: they are of one thing each."""
    return [f"{reason} ({count:,})" for reason, count in reasons.items()]


class _Layout:
    """What there is to embed: sources and parts of each scale, and notes on what is left out."""

    def __init__(self, places: list[str], looks: list[Look], shown: dict, known: Mapping, model: str):
        self.places = [place if "://" in place else str(Path(place).expanduser().resolve()) for place in places]
        self.shown, self.looks = shown, looks
        self.sources: list[tuple[Look, Source]] = []
        self.parts: list[Part] = []
        self.skipped: dict[str, Counter] = {}
        rasters: list[Source] = []
        for look in looks:
            # Which tiles are taken depends on the scale, rasters are the same.
            sources = rasters or imagery.open_imagery(places, _options(**shown, **asdict(look)), known=known)
            rasters = sources if all(source.kind == "raster" for source in sources) else []
            notes, blurred = Counter(), []
            self.skipped[look.name] = notes
            for source in sources:
                parts, of_source = index_parts.plan(source, look, model)
                self.parts += parts
                if parts and (wide := index_parts.pixels_of_chips(source, look)) < look.size_px / _BLURRED:
                    blurred.append((source.name, wide))
                self.sources.append((look, source))
                for note in of_source:
                    notes[note["reason"]] += note["count"]
            if blurred:
                name, wide = min(blurred, key=lambda one: one[1])
                log.warning(
                    "chips of %s of %d sources are blurred, those of %s have %.0f pixels a side where the model sees %d: larger chips "
                    "(--chip-m) suit such imagery", look.name, len(blurred), name, wide, look.size_px,
                )  # fmt: skip

    def left_out(self) -> Counter:
        """Count what is no source, by reason; at several scales it is the same, and counts once."""
        result: Counter = Counter()
        for notes in self.skipped.values():
            result |= notes
        return result


class _Done:
    """Parts that are embedded: those of the index that was there before, and files of a folder beside them."""

    def __init__(self, out: Path, fresh: bool):
        self.folder = out / "parts"
        if fresh:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file, self._groups, self._skipped = None, {}, {}
        if not fresh and (out / "chips.parquet").is_file():
            try:
                self._file = pq.ParquetFile(out / "chips.parquet")
            except (OSError, pa.ArrowException):
                return
            group = 0
            for part in index_files.kept_parts(self._file).get("parts", []):
                self._skipped[part["id"]] = part["skipped"]
                if part["chips"]:
                    self._groups[part["id"]] = group
                    group += 1

    def __contains__(self, name: str) -> bool:
        return name in self._skipped or _look_at(self.folder / f"{name}.parquet") is not None

    def facts(self, name: str) -> dict:
        """Return what is kept of a part beside its chips."""
        if name in self._skipped:
            group = self._groups.get(name)
            count = 0 if group is None else self._file.metadata.row_group(group).num_rows
            return {"id": name, "chips": count, "skipped": self._skipped[name]}
        count, skipped = _look_at(self.folder / f"{name}.parquet")
        return {"id": name, "chips": count, "skipped": skipped}

    def table(self, name: str) -> pa.Table:
        """Return the chips of a part."""
        if name in self._groups:
            return self._file.read_row_group(self._groups[name])
        return pq.read_table(self.folder / f"{name}.parquet")

    def close(self) -> None:
        """Give up what was kept: all of it is in the new index."""
        if self._file is not None:
            self._file.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _look_at(path: Path) -> tuple[int, dict[str, int]] | None:
    """Return how many chips a file of a part holds, and what was left out; None where it is not there, or broken."""
    try:
        about = pq.read_metadata(path)
        return about.num_rows, json.loads(about.metadata[b"skipped"])
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
        return None


def _put_together(out: Path, layout: _Layout, done: _Done, model: Encoder, facts: dict) -> dict:
    """Write the files of the index from its parts, a part in memory at a time, and return what `index.json` says."""
    parts = [done.facts(part.id) for part in layout.parts]
    skipped = layout.left_out()
    for part in parts:
        skipped.update(part["skipped"])
    if not any(part["chips"] for part in parts):
        raise DataError(
            f"no chip of {', '.join(layout.places)} could be read: {', '.join(_counted(skipped)) or 'there is none'}"
        )
    coverage = _Coverage(layout)

    def tables() -> Iterator[pa.Table | None]:
        for part, kept in zip(layout.parts, parts, strict=True):
            table = index_parts.named(done.table(kept["id"]), part.source) if kept["chips"] else None
            if table is not None:
                coverage.add(part, table)
            yield table

    build = index_files.write(out, parts, tables(), model.width)
    facts = {
        "form": FORM, "build": build, "imagery": layout.places, "chips": sum(part["chips"] for part in parts),
        "width": model.width, "model": facts["model"], "model_name": model.name, "fingerprint": model.fingerprint,
        "embedded": facts["embedded"], "options": facts["options"], **coverage.facts(), "skipped": dict(skipped),
    }  # fmt: skip
    written = json.dumps(facts, indent=1, ensure_ascii=False)
    files.write_atomic(out / "index.json", written)
    done.close()
    return json.loads(written)


class _Coverage:
    """How many chips each source has at each scale, and how much of its ground lies under them; parts of one come one after the other."""

    _COLUMNS = ("source", "left_px", "top_px", "width_px", "height_px")

    def __init__(self, layout: _Layout):
        self._layout = layout
        self._windows: list[pd.DataFrame] = []
        self._of: tuple[Look, Source] | None = None
        self._measured: dict[tuple[str, str], tuple[int, int, float]] = {}

    def add(self, part: Part, table: pa.Table) -> None:
        """Take the chips of a part."""
        if self._of is not None and self._of != (part.look, part.source):
            self._measure()
        self._of = part.look, part.source
        self._windows.append(table.select(list(self._COLUMNS)).to_pandas())

    def facts(self) -> dict:
        """Return what `index.json` says of scales and sources."""
        if self._of is not None:
            self._measure()
        scales, listed = {}, []
        for look in self._layout.looks:
            total = np.zeros(3)
            for source in (source for one, source in self._layout.sources if one == look):
                if (look.name, source.name) not in self._measured:
                    self._of = look, source
                    self._measure()
                count, pixels, share = self._measured[look.name, source.name]
                total += count, pixels, pixels * share
                listed.append({
                    "name": source.name, "scale": look.name, "file": source.file, "fingerprint": source.fingerprint,
                    "licence": source.licence, "attribution": source.attribution, "chips": count,
                    "ground_under_chips": round(share, 4), "shown": source.meaning, "opened": index_files.source_fields(source),
                })  # fmt: skip
            share = round(float(total[2] / max(total[1], 1)), 4)
            options = self._layout.shown | asdict(look)
            scales[look.name] = {"chips": int(total[0]), "ground_under_chips": share, "options": options}
        most = max(scale["ground_under_chips"] for scale in scales.values())
        shown = {source["name"]: source["shown"] for source in listed}
        return {"ground_under_chips": most, "scales": scales, "sources": listed, "shown": shown}

    def _measure(self) -> None:
        look, source = self._of
        chips = pd.concat(self._windows) if self._windows else pd.DataFrame({name: [] for name in self._COLUMNS})
        self._measured[look.name, source.name] = len(chips), *ground.measured(source, chips)
        self._windows, self._of = [], None


def _before(out: Path) -> dict | None:
    """Return what `index.json` says of the index that is there already, if there is one of this form."""
    try:
        return read_facts(out)
    except DataError:
        return None


def _known(before: dict | None, shown: dict, model: str) -> dict[str, dict]:
    """Return what was shown of the sources of the index that is there already, by fingerprint, where the same is asked for."""
    if before is None or before["fingerprint"] != model or any(before["options"].get(name) != shown[name] for name in _SHOWN):
        return {}
    return {source["fingerprint"]: source["shown"] for source in before["sources"]}


def _named(model: str | Path) -> str:
    """Name a model so that it is found again from anywhere: a folder by its whole path, others as they are named."""
    return str(Path(model).resolve()) if model and Path(model).is_dir() else str(model)
