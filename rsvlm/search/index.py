"""Texts searched in an archive of imagery: chips of all its scenes, embedded once, and the best of them for a sentence.

An index is a folder: `vectors.npy`, `chips.parquet` with where each chip lies and the file that shows it, and, last, `index.json`. It
points to the archive and to the model, and knows when it is asked with another one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from rsvlm.data.imagery import ground, sources as imagery, tile_mosaics
from rsvlm.errors import DataError
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder
from rsvlm.model.mammut import Mammut
from rsvlm.records import files, text
from rsvlm.search.index_files import FORM, Index, _options, open_index, read_facts
from rsvlm.search.query import features, pictures, query

__all__ = ["Index", "features", "index", "open_index", "pictures", "query", "read_facts"]


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
    vectors = np.lib.format.open_memmap(out / "vectors.npy", "w+", np.float16, (len(table), model.width))
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
    _cut(out / "vectors.npy", len(embedded))
    table = table.iloc[embedded].drop(columns="split").reset_index(drop=True)
    table["file"] = _files(sources, table)
    table["outline"] = [ring.reshape(-1).tolist() for ring in ground.outlines(sources, table)]
    counts = table["source"].value_counts()
    share, shares = ground.covered(sources, table)
    of_sources = [
        {
            "name": source.name, "file": source.file, "fingerprint": source.fingerprint, "chips": int(counts.get(source.name, 0)),
            "ground_under_chips": round(share_of_source, 4),
        }
        for source, share_of_source in zip(sources, shares, strict=True)
    ]  # fmt: skip
    table.insert(1, "scale", f"{options.size_px} px")
    facts = {
        "form": FORM, "archive": str(Path(archive).resolve()) if "://" not in str(archive) else str(archive), "chips": len(embedded),
        "model": _named(model_folder), "fingerprint": model.fingerprint,
        "options": asked, "ground_under_chips": round(share, 4), "sources": of_sources,
        "shown": {source.name: source.meaning for source in sources}, "skipped": dict(skipped),
    }  # fmt: skip
    table.to_parquet(out / "chips.parquet")
    files.write_atomic(out / "index.json", json.dumps(facts, indent=1, ensure_ascii=False))
    return facts


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


def _cut(path: Path, count: int) -> None:
    """Keep the first rows of a file of vectors."""
    vectors = np.load(path, mmap_mode="r")
    if count < len(vectors):
        with files.replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, vectors[:count])


def _named(model: str | Path) -> str:
    """Name a model so that it is found again from anywhere: a folder by its whole path, others as they are named."""
    return str(Path(model).resolve()) if model and Path(model).is_dir() else str(model)
