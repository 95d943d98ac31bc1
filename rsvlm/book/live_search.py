"""The book's page on which a reader searches: `search.site` of the demo's model and the chips that it has never seen."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rsvlm.book.figures import atlas
from rsvlm.data import benchmarks, reading
from rsvlm.data.demo import earth, recipe
from rsvlm.errors import DataError
from rsvlm.evaluation import embeddings
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder
from rsvlm.model.others.opening import open_encoder
from rsvlm.records import stages
from rsvlm.search import page_runtime, site
from rsvlm.training import train

if TYPE_CHECKING:
    from rsvlm.config import Config

log = logging.getLogger(__name__)
TITLE = "Chips of the Earth, from space"
EXAMPLES = (
    "Sea to the west.",
    "Dark green land with many lakes.",
    "Bright, pale sand.",
    "Many islands in a dark blue sea.",
    "Almost all of it is sea.",
)


@dataclass(frozen=True)
class Gallery:
    """Pictures of a data set, in the form in which `site.write_site` takes an index: chips, vectors, and the pictures themselves."""

    folder: Path
    facts: dict
    chips: pd.DataFrame
    vectors: np.ndarray
    arrays: list[np.ndarray]

    def __len__(self) -> int:
        """Return their number."""
        return len(self.arrays)

    def pictures(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return some of the pictures."""
        return [self.arrays[row] for row in rows]

    def check(self, encoder: Encoder) -> Encoder:
        """Return the model; the vectors come from it."""
        return encoder


def gallery(encoder: Encoder, model: Path | str, data: Path, split: str = "test", device: str = "auto") -> Gallery:
    """Embed a split whose records have `footprint_lonlat`: west, south, east and north, in degrees.

    Raises:
        DataError: There are no such pictures.
    """
    embedded = embeddings.read(embeddings.load_or_embed(model, data, split, device=device))
    skipped: Counter = Counter()
    samples, arrays = zip(*reading.decoded(benchmarks.samples(data, split, skipped=skipped), skipped))
    records = [sample.record for sample in samples]
    if not all(record.get("footprint_lonlat") for record in records):
        raise DataError(f"{data}: the records of '{split}' do not say where their pictures lie (footprint_lonlat)")
    chips = pd.DataFrame([record["footprint_lonlat"] for record in records], columns=["west", "south", "east", "north"])
    chips["outline"] = chips[["west", "north", "east", "north", "east", "south", "west", "south"]].to_numpy().tolist()
    chips["key"], chips["file"] = [sample.key for sample in samples], ""
    chips["captions"] = [list(sample.captions) for sample in samples]
    if all({"gsd_m", "size_px"} <= set(record) for record in records):
        chips["gsd_m"], chips["size_px"] = ([record[name] for record in records] for name in ("gsd_m", "size_px"))
    named = {(record.get("license", ""), record.get("attribution", "")) for record in records}
    sources = [{"licence": licence, "attribution": attribution} for licence, attribution in sorted(named)]
    facts = {"model": encoder.name, "fingerprint": encoder.fingerprint, "sources": sources}
    return Gallery(data, facts, chips, embedded.image_embeddings.astype(np.float32), list(arrays))


def load_or_build(config: Config) -> Path:
    """Return the folder of the page for the model and the test split of these options, made now unless it was before.

    Where what reads texts in a browser cannot be fetched, the page is made without it, and made again when it can.
    """
    data = earth.load_or_build(config)
    model = train.load_or_train(*recipe.prepare(config)) / "model"
    parts = {"model": embed.fingerprint(model), "data": benchmarks.fingerprint(data), "texts": page_runtime.problem() is None}
    parts["source"] = stages.source_hash(*site.ROOMS, "evaluation", "book/live_search")

    def build(folder: Path) -> None:
        encoder = open_encoder(model, "cpu")
        chips = gallery(encoder, model, data, device=config.device)
        ground = atlas.blue_marble(1440), (-180, -90, 180, 90)
        site.write_site(chips, folder / "page", encoder, title=TITLE, examples=EXAMPLES, heat=True, ground=ground)

    return stages.stage("search", parts, build) / "page"


def prepare(profile: str) -> bool:
    """Lay the search page where the builder of the book finds it, in `book/_static/search/`, if the book has that page.

    Args:
        profile: Profile of the options.

    Returns:
        Whether nothing is missing: where the texts of readers cannot be read, the page says so, and a warning says what to do.
    """
    from rsvlm import config

    home = stages.root()
    if "file: book/search" not in (home / "_toc.yml").read_text(encoding="utf-8"):
        return True
    problem = page_runtime.problem()
    if problem:
        log.warning("%s\nThe search page is built without what reads texts; `make book` with a network adds it.", problem)
    place, made = home / "book" / "_static" / "search", load_or_build(config.load(profile))
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(made, place)
    return problem is None
