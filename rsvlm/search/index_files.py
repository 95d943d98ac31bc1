"""An index of imagery as it lies on disk, and what is read of it.

    index.json      what was indexed, and how; written last
    vectors.npy     (N, E) float16 of norm 1; after them, the name of the build
    chips.parquet   GeoParquet: where each of the N chips lies, in the order of the vectors, its outline and its vector

`open_index` reads `index.json` alone; chips, vectors and pictures are read when they are asked for. A file of another build than
`index.json` names is refused: while one index takes the place of another, no answer is of both.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rsvlm.data.imagery import chip_layout, sources as imagery
from rsvlm.data.imagery.chip_layout import Source
from rsvlm.errors import DataError, RsvlmError
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder
from rsvlm.model.mammut import Mammut
from rsvlm.records import files, text

log = logging.getLogger(__name__)

FORM = 2
"""Form of the files, as `index.json` names it."""

_BUILD = 32  # characters of the name of a build
_EDGES = ["west", "south", "east", "north"]
_HEAD = np.dtype([("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("points", "<u4")])  # of a polygon, as WKB


@dataclass(frozen=True)
class Index:
    """N chips of imagery, embedded.

    Attributes:
        folder: Its folder.
        facts: Content of `index.json`.
    """

    folder: Path
    facts: dict

    def __len__(self) -> int:
        """Return N."""
        return self.facts["chips"]

    @property
    def model_name(self) -> str:
        """Name of its model for those who are given results: without the path that it has on this machine."""
        return self.facts.get("model_name") or Path(str(self.facts["model"])).name

    @cached_property
    def chips(self) -> pd.DataFrame:
        """The table of all chips, N rows, numbered from 0; in memory, so ask `rows` for a few of many.

        Among its columns: `key`, which names a chip and no other; `source` and `file`, the picture it is cut from; `scale`, as
        `250 m` or `256 px`; `lon`, `lat` of its middle; `outline`, longitudes and latitudes in turn, clockwise from the upper left corner.
        """
        with self._open_table() as file:
            return _frame(file.read(columns=_without_vector(file)))

    @cached_property
    def vectors(self) -> np.ndarray:
        """(N, E) float16 of norm 1, a memory map that cannot be written to; row i is that of chip i."""
        vectors = np.load(self.folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        with open(self.folder / "vectors.npy", "rb") as file:
            file.seek(vectors.offset + vectors.nbytes)
            self._check_build(file.read(_BUILD).decode("ascii", "replace"), "vectors.npy")
        if vectors.dtype != np.float16 or vectors.shape != (len(self), self.facts["width"]):
            raise DataError(f"{self.folder}: vectors.npy has the shape {vectors.shape}, {len(self)} expected: index again")
        return vectors

    def rows(self, numbers: Sequence[int] | np.ndarray) -> pd.DataFrame:
        """Return the rows of some chips, in the order of their numbers, numbered from 0."""
        numbers = np.asarray(numbers, np.int64)
        if "chips" in self.__dict__:
            return self.chips.iloc[numbers].reset_index(drop=True)
        with self._open_table() as file:
            ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
            groups = np.searchsorted(ends, numbers, "right")
            pieces = []
            for group in np.unique(groups).tolist():
                mine = np.flatnonzero(groups == group)
                part = file.read_row_group(group, columns=_without_vector(file))
                piece = _frame(part.take(numbers[mine] - (ends[group] - part.num_rows)))
                pieces.append(piece.set_index(mine))
        return pd.concat(pieces).sort_index() if pieces else self.chips.iloc[:0].copy()

    def find(self, key: str) -> int:
        """Return the number of the chip of a key.

        Raises:
            DataError: There is none.
        """
        start = 0
        for part in self._parts(["key"]):
            match = np.flatnonzero(part["key"].to_numpy() == key)
            if len(match):
                return start + int(match[0])
            start += len(part)
        raise DataError(
            f"{self.folder} has no chip '{text.one_line(key)[:100]}': answers and chips.parquet name them, as {self.rows([0])['key'][0]}"
        )

    def at(self, lon: float, lat: float) -> int:
        """Return the number of the chip over a place, in degrees, whose middle is nearest to it; of equal ones the first.

        Raises:
            DataError: The place lies on no chip.
        """
        best, nearest, start = -1, np.inf, 0
        for part in self._parts(["lon", "lat", *_EDGES]):
            west, south, east, north = part[_EDGES].to_numpy(np.float64).T
            # Longitudes of boxes may lie in another turn.
            turned = lon + 360 * np.round(((west + east) / 2 - lon) / 360)
            over = (turned >= west) & (turned <= east) & (lat >= south) & (lat <= north)
            away = np.hypot(((west + east) / 2 - turned) * np.cos(np.radians(lat)), (south + north) / 2 - lat)
            away = np.where(over, away, np.inf)
            if len(part) and away.min() < nearest:
                best, nearest = start + int(away.argmin()), float(away.min())
            start += len(part)
        if best < 0:
            raise DataError(
                f"{lon:g}, {lat:g} lies on no chip of {self.folder}: give longitude and latitude, in degrees, of a place in the imagery"
            )
        return best

    def pictures(self, rows: pd.DataFrame | Sequence[int] | np.ndarray) -> list[np.ndarray | None]:
        """Read chips from the imagery, as they were when they were embedded.

        Args:
            rows: Numbers of chips, or rows of `chips`.

        Returns:
            (S, S, 3) uint8 each; None where the imagery is gone, cannot be read or has changed.
        """
        table = rows if isinstance(rows, pd.DataFrame) else self.rows(rows)
        pictures: list[np.ndarray | None] = [None] * len(table)
        for (name, scale), part in table.reset_index(drop=True).groupby(["source", "scale"]):
            source = self._source(name, scale)
            if source is None:
                log.warning("%s cannot be shown: its file is gone, or has changed since it was indexed", name)
                continue
            try:
                for row, (pixels, _) in zip(part.index, imagery.read(source, part)):
                    pictures[row] = pixels
            except RsvlmError as error:
                log.warning("%s cannot be shown: %s", name, error)
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

    def _source(self, name: str, scale: str) -> Source | None:
        """Return a source as it was indexed, unless its files are gone or others."""
        kept = next((one for one in self.facts["sources"] if (one["name"], one["scale"]) == (name, scale)), None)
        if kept is None:
            return None
        source = source_of(kept["opened"])
        if not source.path:  # an address that may hold a key is not kept
            sources = imagery.open_imagery(self.facts["imagery"], _options(**self.facts["scales"][scale]["options"]))
            return next((one for one in sources if one.name == name and one.fingerprint == source.fingerprint), None)
        if "://" in source.path:
            return source
        paths = [Path(path) for path in source.bands_at or (source.path,)]
        if not all(path.exists() for path in paths):
            return None
        is_same = source.kind != "raster" or chip_layout.fingerprint(*paths) == source.fingerprint
        return source if is_same else None

    @contextmanager
    def _open_table(self) -> Iterator[pq.ParquetFile]:
        try:
            file = pq.ParquetFile(self.folder / "chips.parquet")
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.folder}/chips.parquet cannot be read ({str(error)[:200]}): index again") from None
        with file:
            self._check_build(kept_parts(file).get("build", ""), "chips.parquet")
            if file.metadata.num_rows != len(self):
                raise DataError(f"{self.folder}: {file.metadata.num_rows} chips, {len(self)} expected: index again")
            yield file

    def _parts(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        """Yield some columns of the table, a part at a time."""
        with self._open_table() as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns).to_pandas()

    def _check_build(self, build: str, name: str) -> None:
        if build != self.facts["build"]:
            raise DataError(f"{self.folder}/{name} and index.json are not of one indexing: open it again, or index again")


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
        whole = isinstance(facts["chips"], int) and {"model", "fingerprint", "options"} <= set(facts)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole or facts.get("form") != FORM:
        what = "was made by another version" if whole else "is no finished index"
        raise DataError(f"{folder} {what}: make it with `rsvlm search index IMAGERY --out {folder}`")
    return facts


def write(folder: Path, parts: Sequence[dict], tables: Iterator[pa.Table | None], width: int) -> str:
    """Write `vectors.npy` and `chips.parquet` anew, a part at a time, and return the name of the build.

    Args:
        folder: The index. What it was stays until all is written.
        parts: Of each part its `id`, how many `chips` it has, and what was `skipped`.
        tables: The table of each part that has chips, in the form of `table_of`; None for others.
        width: E.
    """
    count = sum(part["chips"] for part in parts)
    kept = {"form": FORM, "build": hashlib.sha256(json.dumps([*parts, count]).encode()).hexdigest()[:_BUILD]}
    kept["parts"] = list(parts)
    box = [np.inf, np.inf, -np.inf, -np.inf]
    with files.replacing(folder / "vectors.npy") as vectors_path, files.replacing(folder / "chips.parquet") as table_path:
        with (
            open(vectors_path, "wb") as vectors,
            pq.ParquetWriter(table_path, schema(width), compression=compression()) as writer,
        ):
            head = {"descr": "<f2", "fortran_order": False, "shape": (count, width)}
            np.lib.format.write_array_header_1_0(vectors, head)
            for table in tables:
                if table is None:
                    continue
                writer.write_table(table, row_group_size=table.num_rows)
                vectors.write(table["vector"].combine_chunks().flatten().to_numpy().tobytes())
                edges = [table[edge].to_numpy() for edge in _EDGES]
                box = [
                    min(box[0], edges[0].min()),
                    min(box[1], edges[1].min()),
                    max(box[2], edges[2].max()),
                    max(box[3], edges[3].max()),
                ]
            vectors.write(kept["build"].encode())
            writer.add_key_value_metadata({"geo": json.dumps(_geo(box)), "rsvlm": json.dumps(kept)})
    return kept["build"]


def schema(width: int) -> pa.Schema:
    """Return the columns of `chips.parquet`."""
    fields = {name: pa.string() for name in ("key", "scale", "source", "file")}
    fields |= {name: pa.float64() for name in ("lon", "lat", *_EDGES, "gsd_m")} | {"size_px": pa.int32()}
    fields |= {name: pa.float64() for name in ("left_px", "top_px", "width_px", "height_px", "up_deg")}
    return pa.schema(fields | {"geometry": pa.binary(), "vector": pa.list_(pa.float16(), width)})


def compression() -> dict[str, str]:
    """Return how columns are packed: not at all, where that would only take time."""
    return {name: "none" if name == "vector" else "zstd" for name in [*schema(1).names, "vector.list.element"]}


def table_of(chips: pd.DataFrame, outlines: np.ndarray, vectors: np.ndarray) -> pa.Table:
    """Return rows of `chips.parquet`: of a chip table with `scale` and `file`, its outlines (n, p, 2), and vectors (n, E) of norm 1."""
    columns = {name: chips[name] for name in schema(1).names if name in chips.columns}
    halves = vectors.astype(np.float16)
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(halves.reshape(-1)), halves.shape[1])
    columns["geometry"] = pa.array(_to_wkb(outlines), pa.binary())
    form = schema(halves.shape[1])
    return pa.table({name: pa.array(columns[name], form.field(name).type) for name in form.names}, schema=form)


def kept_parts(file: pq.ParquetFile) -> dict:
    """Return what `chips.parquet` says of its parts; nothing where it is of another form."""
    try:
        kept = json.loads(file.metadata.metadata[b"rsvlm"])
    except (KeyError, ValueError, TypeError):
        return {}
    return kept if isinstance(kept, dict) and kept.get("form") == FORM else {}


def source_fields(source: Source) -> dict:
    """Return a source as JSON keeps it; of an address that may hold a key, without that."""
    fields = asdict(source) | {"sketch": None, "notes": [], "guesses": []}
    return fields | ({"path": ""} if "://" in source.path and "?" in source.path else {})


def source_of(fields: dict) -> Source:
    """Return the source that `source_fields` kept."""
    return Source(**{name: _tuples(value) for name, value in fields.items()})


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _options(**asked):
    from rsvlm import config

    return config.Chips(**asked)


def _without_vector(file: pq.ParquetFile) -> list[str]:
    return [name for name in file.schema_arrow.names if name != "vector"]


def _frame(table: pa.Table) -> pd.DataFrame:
    """Return rows of `chips.parquet` as a table, outlines in place of geometries."""
    frame = table.drop_columns(["geometry"]).to_pandas()
    frame["outline"] = _from_wkb(table["geometry"].to_pylist())
    return frame


def _geo(box: list[float]) -> dict:
    """Metadata of GeoParquet 1.1: polygons in longitude and latitude, which is its usual coordinate system."""
    column = {"encoding": "WKB", "geometry_types": ["Polygon"], "orientation": "counterclockwise", "edges": "planar"}
    bounded = {"bbox": box} if np.isfinite(box).all() else {}
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column | bounded}}


def _to_wkb(outlines: np.ndarray) -> list[bytes]:
    """Return outlines (n, p, 2), clockwise and open, as polygons, counter-clockwise and closed."""
    rings = np.concatenate([outlines[:, :1], outlines[:, ::-1]], axis=1).astype("<f8")
    head = np.array([(1, 3, 1, rings.shape[1])], _HEAD).tobytes()
    return [head + ring.tobytes() for ring in rings]


def _from_wkb(polygons: Sequence[bytes]) -> list[list[float]]:
    """Return outlines as `_to_wkb` takes them, longitudes and latitudes in turn."""
    return [np.frombuffer(one, "<f8", offset=_HEAD.itemsize).reshape(-1, 2)[:0:-1].reshape(-1).tolist() for one in polygons]
