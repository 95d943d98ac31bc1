"""Texts searched in an archive of imagery: chips of all its scenes, embedded once, and the best of them for a sentence.

An index is a folder: `vectors.npy`, `chips.parquet` with where each chip lies and the file that shows it, and, last, `index.json`. It
points to the archive and to the model, and knows when it is asked with another one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from rsvlm.data.imagery import ground, sources as imagery, tile_mosaics
from rsvlm.errors import DataError
from rsvlm.evaluation import embeddings
from rsvlm.localization import heat
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder
from rsvlm.model.mammut import Mammut
from rsvlm.records import files, text


def index(
    archive: str | Path,
    model: Mammut | Encoder,
    out: Path,
    *,
    model_folder: str | Path = "",
    size_px: int | None = None,
    stride: float = 1.0,
    min_valid_share: float = 0.5,
    cover_edges: bool = True,
    tile_rows: str = "auto",
    bands: Sequence[int] = (),
    limits: Sequence[float] = (),
    nodata: str | float = "auto",
    batch_size: int = 256,
    progress: bool = True,
) -> dict:
    """Embed every chip of an archive, one batch in memory at a time.

    Args:
        archive: Folder of rasters or of tiles, or whatever `sources.open_imagery` takes; all of it says where on Earth it lies.
        model: Model in evaluation mode, of any family.
        out: Folder of the index.
        model_folder: Folder of the model, or its name as for `opening.open_encoder`, for those who ask.
        size_px: Side of a chip, in pixels of the imagery. If None, that of the model's images.
        stride: Step between chips, in sides.
        min_valid_share: Chips with a smaller share of pixels that hold data are left out.
        cover_edges: Add last chips flush with the edges of rasters, and enlarge those of rasters smaller than a chip.
        tile_rows: Which way rows of tiles count: `xyz`, `tms`, `zyx` or `auto`, as `config.Chips.tile_rows`.
        bands: Bands shown as red, green and blue, or one, as `config.Chips.bands`.
        limits: Values that become black and white, a pair, or one for each band. If empty, they are found for files together.
        nodata: Value that holds no data, as for `scene_files.open_scene`.
        batch_size: Chips per forward pass.
        progress: Show a bar.

    Returns:
        Content of `index.json`: among it `chips`, in `skipped` how many were left out, by reason, in `ground_under_chips` the share of
        the archive's pixels that lies under chips (ground that several files show counts once for each of them), and in `sources` the same, and the file, of each source.

    Raises:
        DataError: There is no imagery, or no chip of it can be read.
        MissingExtraError: rasterio or pyproj is not installed.
    """
    out, model = Path(out), embed.encoder_of(model)
    asked = {"size_px": size_px or model.image_size, "stride": stride, "min_valid_share": min_valid_share}
    asked |= {"cover_edges": cover_edges, "tile_rows": tile_rows}
    asked |= {"bands": list(bands), "limits": list(limits), "nodata": nodata}
    options = _options(**asked)
    sources = imagery.open_imagery(str(archive), options)
    table, notes = imagery.lay_out(sources, options)
    skipped = Counter()
    for note in notes:
        skipped[note["reason"]] += note["count"]
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.json").unlink(missing_ok=True)
    vectors = np.lib.format.open_memmap(out / "vectors.npy", "w+", np.float32, (len(table), model.width))
    embedded: list[int] = []
    with tqdm(total=len(table), desc="index", unit=" chips", disable=not progress) as bar:
        for source in sources:
            rows = np.flatnonzero(table["source"].to_numpy() == source.name)
            read = zip(rows.tolist(), imagery.read(source, table.iloc[rows]))
            for batch in text.batched(read, batch_size):
                bar.update(len(batch))
                skipped.update(reason for _, (_, reason) in batch if reason)
                good = {row: pixels for row, (pixels, _) in batch if pixels is not None}
                if good:
                    unit = embed.unit(model.images(list(good.values())), f"chips of {source.name}")
                    vectors[len(embedded) : len(embedded) + len(good)] = unit
                    embedded += good
    if not embedded:
        raise DataError(f"no chip of {archive} could be read: {dict(skipped)}")
    vectors.flush()
    del vectors
    table = table.iloc[embedded].drop(columns="split").reset_index(drop=True)
    table["file"] = _files(sources, table)
    table["outline"] = [ring.reshape(-1).tolist() for ring in ground.outlines(sources, table)]
    table.to_parquet(out / "chips.parquet")
    counts = table["source"].value_counts()
    share, shares = ground.covered(sources, table)
    of_sources = [
        {
            "name": source.name, "file": source.file, "fingerprint": source.fingerprint, "chips": int(counts.get(source.name, 0)),
            "ground_under_chips": round(share_of_source, 4),
        }
        for source, share_of_source in zip(sources, shares, strict=True)
    ]  # fmt: skip
    facts = {
        "archive": str(Path(archive).resolve()) if "://" not in str(archive) else str(archive), "chips": len(embedded),
        "model": _named(model_folder), "fingerprint": model.fingerprint,
        "options": asked, "ground_under_chips": round(share, 4), "sources": of_sources,
        "shown": {source.name: source.meaning for source in sources}, "skipped": dict(skipped),
    }  # fmt: skip
    files.write_atomic(out / "index.json", json.dumps(facts, indent=1, ensure_ascii=False))
    return facts


def read_facts(folder: Path) -> dict:
    """Return what is in the `index.json` of an index.

    Raises:
        DataError: It is not there, or it is of another form.
    """
    try:
        facts = json.loads((Path(folder) / "index.json").read_text(encoding="utf-8"))
        whole = isinstance(facts["chips"], int) and {"archive", "model", "fingerprint", "options"} <= set(facts)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise DataError(f"{folder} is no finished index: make it with `rsvlm search index FOLDER --out {folder}`")
    return facts


def query(
    folder: Path,
    texts: Sequence[str],
    model: Mammut | Encoder,
    k: int = 10,
    images: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Find the k best chips for each text and each picture, exactly.

    Args:
        folder: Folder of the index.
        texts: M texts.
        model: Model that the index was made with.
        k: Chips for each text and picture.
        images: Pictures, (H, W, 3) uint8 each, by the names that stand for them. If None, there are none.

    Returns:
        A row for each: `text` (of a picture its name), `rank` from 1, `score` (cosine), and the columns of the chip table; among these `file`, relative to the
        archive, and `outline`, longitudes and latitudes in turn.

    Raises:
        DataError: No text and no picture, no finished index, or one of another model.
        ModelError: The model reads no texts.
    """
    facts, model, images = read_facts(folder), embed.encoder_of(model), images or {}
    if facts["fingerprint"] != model.fingerprint:
        raise DataError(
            f"{folder} was made with another model ({facts['model'] or 'unknown'}): ask with that one, or index again"
        )
    chips = pd.read_parquet(Path(folder) / "chips.parquet")
    vectors = np.load(Path(folder) / "vectors.npy", mmap_mode="r", allow_pickle=False)[: facts["chips"]]
    if len(vectors) != len(chips) or len(chips) != facts["chips"]:
        raise DataError(f"{folder}: {len(vectors)} vectors, {len(chips)} chips, {facts['chips']} expected: index again")
    asked = [heat.text_vectors(model, texts)] if len(texts) or not images else []
    asked += [model.images(list(images.values()))] if images else []
    scores, rows = embeddings.search(np.concatenate(asked), vectors, k)
    matches = chips.iloc[rows.reshape(-1)].reset_index(drop=True)
    count = rows.shape[1]
    matches.insert(0, "text", np.repeat([*texts, *images], count))
    matches.insert(1, "rank", np.tile(np.arange(1, count + 1), len(rows)))
    matches.insert(2, "score", scores.reshape(-1))
    return matches


def pictures(folder: Path, matches: pd.DataFrame) -> list[np.ndarray | None]:
    """Read the chips of a table that `query` gave from the archive: (S, S, 3) uint8 each, None where it cannot be read now."""
    facts = read_facts(folder)
    sources = {source.name: source for source in imagery.open_imagery(facts["archive"], _options(**facts["options"]))}
    # As they were indexed: limits are common to all files, of which there may be others by now.
    for name, meaning in facts.get("shown", {}).items():
        if name in sources:
            limits = tuple(tuple(pair) for pair in meaning["limits"])
            sources[name] = replace(sources[name], limits=limits, nodata=meaning["nodata"])
    chips: list[np.ndarray | None] = [None] * len(matches)
    for name, part in matches.reset_index(drop=True).groupby("source"):
        if name in sources:
            for row, (pixels, _) in zip(part.index, imagery.read(sources[name], part)):
                chips[row] = pixels
    return chips


def features(matches: pd.DataFrame) -> dict:
    """Footprints of the chips of a table that `query` gave, as GeoJSON in longitude and latitude."""
    members = []
    for row in matches.to_dict("records"):
        if "outline" in row:
            ring = np.asarray(row["outline"], float).reshape(-1, 2)
        else:  # an index of before outlines were kept
            ring = ground.box_rings(np.array([[row[edge] for edge in ("west", "south", "east", "north")]], float))[0]
        # Counter-clockwise, as GeoJSON has it.
        ring = np.concatenate([ring[:1], ring[::-1]]).round(8).tolist()
        properties = {name: row[name] for name in ("text", "rank", "key", "source", "file") if name in row}
        properties |= {"score": round(float(row["score"]), 4)}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        members.append({"type": "Feature", "properties": properties, "geometry": geometry})
    return {"type": "FeatureCollection", "features": members}


def _files(sources: Sequence[imagery.Source], table: pd.DataFrame) -> list[str]:
    """Return the file of each chip, relative to the archive; of a mosaic the tile under the chip's middle, where that is a file."""
    named = {source.name: source for source in sources}
    result = []
    for row in table[["source", "left_px", "top_px", "width_px", "height_px"]].itertuples():
        source = named[row.source]
        file = source.file
        if source.kind == "tiles":
            x, y = (int(v // source.tile_px) for v in (row.left_px + row.width_px / 2, row.top_px + row.height_px / 2))
            file = tile_mosaics.file_of(source, x % (1 << source.zoom), y) or file
        result.append(file)
    return result


def _options(**asked):
    from rsvlm import config

    return config.Chips(**asked)


def _named(model: str | Path) -> str:
    """Name a model so that it is found again from anywhere: a folder by its whole path, others as they are named."""
    return str(Path(model).resolve()) if model and Path(model).is_dir() else str(model)
