"""An index of imagery as it lies on disk, and what is read of it.

    index.json      what was indexed, and how; written last
    vectors.npy     (N, E) float16 of norm 1
    chips.parquet   where each of the N chips lies, in the order of the vectors

`open_index` reads `index.json` alone; chips, vectors and pictures are read when they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from rsvlm.data.imagery import sources as imagery
from rsvlm.errors import DataError
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder
from rsvlm.model.mammut import Mammut

FORM = 2
"""Form of the files, as `index.json` names it."""


@dataclass(frozen=True)
class Index:
    """N chips of an archive of imagery, embedded.

    Attributes:
        folder: Its folder.
        facts: Content of `index.json`.
    """

    folder: Path
    facts: dict

    def __len__(self) -> int:
        """Return N."""
        return self.facts["chips"]

    @cached_property
    def chips(self) -> pd.DataFrame:
        """The table of all chips, N rows, numbered from 0.

        Among its columns: `key`, which names a chip and no other; `source` and `file`, the picture it is cut from; `scale`, as
        `250 m` or `256 px`; `lon`, `lat` of its middle; `outline`, longitudes and latitudes in turn, clockwise from the upper left corner.
        """
        table = pd.read_parquet(self.folder / "chips.parquet")
        if len(table) != len(self):
            raise DataError(f"{self.folder}: {len(table)} chips, {len(self)} expected: index again")
        return table

    @cached_property
    def vectors(self) -> np.ndarray:
        """(N, E) float16 of norm 1, a memory map that cannot be written to; row i is that of chip i."""
        vectors = np.load(self.folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        if vectors.dtype != np.float16 or len(vectors) != len(self):
            raise DataError(f"{self.folder}: {len(vectors)} vectors of {vectors.dtype}, {len(self)} expected: index again")
        return vectors

    def rows(self, numbers: Sequence[int] | np.ndarray) -> pd.DataFrame:
        """Return the rows of some chips, in the order of their numbers, numbered from 0."""
        return self.chips.iloc[np.asarray(numbers, np.int64)].reset_index(drop=True)

    def pictures(self, rows: pd.DataFrame | Sequence[int] | np.ndarray) -> list[np.ndarray | None]:
        """Read chips from the imagery, as they were when they were embedded.

        Args:
            rows: Numbers of chips, or rows of `chips`.

        Returns:
            (S, S, 3) uint8 each; None where the imagery cannot be read now.
        """
        table = rows if isinstance(rows, pd.DataFrame) else self.rows(rows)
        options = _options(**self.facts["options"])
        sources = {source.name: source for source in imagery.open_imagery(self.facts["archive"], options)}
        # As they were indexed: limits are common to all files, of which there may be others by now.
        for name, meaning in self.facts.get("shown", {}).items():
            if name in sources:
                limits = tuple(tuple(pair) for pair in meaning["limits"])
                sources[name] = replace(sources[name], limits=limits, nodata=meaning["nodata"])
        pictures: list[np.ndarray | None] = [None] * len(table)
        for name, part in table.reset_index(drop=True).groupby("source"):
            if name in sources:
                for row, (pixels, _) in zip(part.index, imagery.read(sources[name], part)):
                    pictures[row] = pixels
        return pictures

    def check(self, model: Mammut | Encoder) -> Encoder:
        """Return the encoder of a model, if the index was made with it.

        Raises:
            DataError: It was made with another one.
        """
        encoder = embed.encoder_of(model)
        if self.facts["fingerprint"] != encoder.fingerprint:
            raise DataError(
                f"{self.folder} was made with another model ({self.facts['model'] or 'unknown'}): ask with that one, or index again"
            )
        return encoder


def open_index(folder: Path | str) -> Index:
    """Open a finished index.

    Raises:
        DataError: There is none, or it is of another form.
    """
    folder = Path(folder)
    return Index(folder, read_facts(folder))


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
    if not whole or facts.get("form") != FORM:
        what = "was made by an older version" if whole else "is no finished index"
        raise DataError(f"{folder} {what}: make it with `rsvlm search index FOLDER --out {folder}`")
    return facts


def _options(**asked):
    from rsvlm import config

    return config.Chips(**asked)
