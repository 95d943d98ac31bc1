"""Scenes in and maps out: pixels of any part of a raster or a mosaic, and rasters of cells on the same grid.

Other than `imagery`, which cuts whole chips, this reads a scene block by block with everything that is wrong with it: places without
data, blocks of the file that are broken, tiles that are missing, and no word about where on Earth it lies.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from rsvlm import files, imagery, layout, mosaics
from rsvlm.errors import DataError
from rsvlm.layout import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """Imagery on one pixel grid, and the part of that grid where it lies.

    `left`, `top`, `width`, `height` are in pixels of the grid of `source`; `located` says whether that grid has a place on Earth;
    `tiles` (N, 2) are columns and rows of the tiles of a mosaic.
    """

    source: Source
    left: int
    top: int
    width: int
    height: int
    located: bool
    tiles: np.ndarray | None = None


def open_scene(where: str | Path, bands: Sequence[int] = ()) -> list[Scene]:
    """Open a raster, its URL, a folder of XYZ tiles, an MBTiles file, or a folder of rasters.

    A raster that does not say where it lies is opened too, in coordinates of its pixels.

    Args:
        where: As for `imagery.open_imagery`.
        bands: Bands shown as red, green and blue, or one; none: found out.

    Returns:
        One scene for each raster and each zoom level.

    Raises:
        DataError: Nothing can be read there, or tiles lie too far from each other to be one scene.
        MissingExtraError: rasterio or pyproj is not installed.
    """
    from rsvlm import config

    options = config.Chips(bands=tuple(bands), min_valid_share=0.0)
    try:
        sources = imagery.open_imagery(str(where), options)
    except DataError:
        source = _without_place(Path(where).expanduser(), options)
        if source is None:
            raise
        log.warning("%s does not say where it lies: results are in pixels, x to the right and y downwards", source.name)
        return [Scene(source, 0, 0, source.width, source.height, False)]
    return [_on_grid(source) for source in sources]


def touches(scene: Scene, box: tuple[int, int, int, int], cell_px: float) -> bool:
    """Whether a tile of the mosaic reaches into a box of cells."""
    if scene.tiles is None:
        return True
    side = scene.source.tile_px
    y0, x0, y1, x1 = (np.array(box) * cell_px + (scene.top, scene.left) * 2) / side
    first, last = np.searchsorted(scene.tiles[:, 1], [int(np.floor(y0)), int(np.ceil(y1))])
    columns = scene.tiles[first:last, 0]
    return bool(((columns < x1) & (columns + 1 > x0)).any())


# Where cells lie


class Grid:
    """The grid of cells of a scene: from cells to its coordinates, to longitude and latitude, and to square metres."""

    def __init__(self, scene: Scene, cell_px: float):
        self.scene, self.cell_px = scene, cell_px
        self.authority, self.member, self._to_lonlat = "", None, None
        self.polygons_in = "pixels, y downwards"
        if not scene.located:
            return
        import pyproj

        crs = pyproj.CRS.from_user_input(scene.source.crs)
        found = crs.to_authority(min_confidence=100)
        self.authority = ":".join(found) if found else ""
        if self.authority in ("EPSG:4326", "OGC:CRS84"):
            self.polygons_in = "longitude, latitude"
        elif found:
            self.polygons_in = self.authority
            self.member = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{found[0]}::{found[1]}"}}
        else:
            self.polygons_in = "longitude, latitude"
            self._to_lonlat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)

    @property
    def transform(self) -> tuple[float, float, float, float]:
        """X of the left edge, width of a cell, y of the upper edge, height of a cell (downwards is positive in pixels alone)."""
        if not self.scene.located:
            return 0.0, self.cell_px, 0.0, -self.cell_px
        x0, width, y0, height = self.scene.source.transform
        return x0 + width * self.scene.left, width * self.cell_px, y0 - height * self.scene.top, height * self.cell_px

    def place(self, columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates of the scene at positions in cells."""
        x0, width, y0, height = self.transform
        return x0 + width * columns, y0 - height * rows

    def outline(self, ring: np.ndarray) -> list[list[float]]:
        """Coordinates, as the polygons are written, of a ring (n, 2) in cells."""
        x, y = self.place(ring[:, 0], ring[:, 1])
        if self._to_lonlat is not None:
            x, y = self._to_lonlat.transform(x, y)
        digits = 8 if self.polygons_in == "longitude, latitude" else max(0, 3 - int(np.floor(np.log10(self.transform[1]))))
        return np.stack([x, y], axis=1).round(digits).tolist()

    def measure(self, columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Longitude and latitude, and square metres of a cell, at positions in cells; NaN where nobody knows."""
        if not self.scene.located:
            return (np.full(len(columns), np.nan),) * 3
        at = self.scene.left + columns * self.cell_px, self.scene.top + rows * self.cell_px
        lon, lat, east_m, south_m, _ = layout.measure(self.scene.source, *at)
        return lon, lat, east_m * south_m * self.cell_px**2


@contextmanager
def write_cells(path: Path, grid: Grid, size: tuple[int, int], texts: Sequence[str]) -> Iterator[Callable]:
    """Yield a function that writes (M, h, w) confidence at a box of cells; the file appears when all is written."""
    import rasterio
    from affine import Affine

    x0, width, y0, height = grid.transform
    form = {"driver": "GTiff", "width": size[1], "height": size[0], "count": len(texts), "dtype": "float32", "nodata": np.nan}
    form |= {
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "interleave": "band",
        "BIGTIFF": "IF_SAFER",
        "SPARSE_OK": True,
    }
    form |= {"compress": "deflate", "zlevel": 1, "predictor": 3, "transform": Affine(width, 0, x0, 0, -height, y0)}
    if grid.scene.located:
        form["crs"] = grid.scene.source.crs
    memory = rasterio.Env(GDAL_CACHEMAX=64_000_000)
    with files.replacing(path) as temporary, memory, rasterio.open(temporary, "w", **form) as file:
        for number, text in enumerate(texts, 1):
            file.set_band_description(number, layout.clean(text))

        def write(box: tuple[int, int, int, int], confidence: np.ndarray) -> None:
            top, left, bottom, right = box
            file.write(confidence, window=((top, bottom), (left, right)))

        yield write


def write_polygons(path: Path, listed: Sequence[dict], texts: Sequence[str], grid: Grid) -> None:
    """Write regions, as `scenes` lists them, whose `rings` are in cells, as GeoJSON in the coordinates that `grid.polygons_in` names."""
    features = []
    for region in listed:
        coordinates = [[grid.outline(ring) for ring in polygon] for polygon in region["rings"]]
        single = len(coordinates) == 1
        geometry = {"type": "Polygon" if single else "MultiPolygon", "coordinates": coordinates[0] if single else coordinates}
        told = {name: region[name] for name in ("confidence", "peak", "area_m2", "area_px", "lon", "lat")}
        features.append({"type": "Feature", "properties": {"text": texts[region["text"]], **told}, "geometry": geometry})
    content = {"type": "FeatureCollection"} | ({"crs": grid.member} if grid.member else {}) | {"features": features}
    files.write_atomic(path, json.dumps(content, ensure_ascii=False, separators=(",", ":")))


# Pixels


def _on_grid(source: Source) -> Scene:
    if source.kind == "raster":
        return Scene(source, 0, 0, source.width, source.height, True)
    tiles = mosaics.present(source)
    (left, top), (right, bottom) = tiles.min(0) * source.tile_px, (tiles.max(0) + 1) * source.tile_px
    return Scene(source, int(left), int(top), int(right - left), int(bottom - top), True, tiles[np.argsort(tiles[:, 1])])


def _without_place(path: Path, options) -> Source | None:
    """Open a raster that says nothing of where it lies; None: it does, or it is something else."""
    if not path.is_file() or path.suffix.lower() not in imagery.DRIVERS:
        return None
    with imagery.open_dataset(str(path), False) as (dataset, _):
        if dataset.tags(ns="OVERVIEWS") or any(kind.startswith("complex") for kind in dataset.dtypes):
            return None
        if dataset.crs is not None and not dataset.transform.is_identity:
            return None
        bands = imagery.shown_bands(dataset, options.bands, str(path))
        limits = imagery.value_limits(dataset, bands, options, str(path))
        source = Source(
            name=layout.name_of(path.stem),
            path=str(path.resolve()),
            kind="raster",
            licence="unknown",
            attribution=layout.clean(dataset.tags().get("TIFFTAG_COPYRIGHT")),
            fingerprint=layout.fingerprint(path),
            crs="",
            transform=(0.0, 1.0, 0.0, -1.0),
            width=dataset.width,
            height=dataset.height,
            bands=bands,
            limits=limits,
        )
    return replace(source, bbox_lonlat=(np.nan,) * 4)


@contextmanager
def reader(scene: Scene, broken: set) -> Iterator[Callable]:
    """Yield a function from a box of pixels as the model sees them, and their size, to pixels (h, w, 3) and what holds data.

    Threads may call it, one at a time. Blocks of the file, or tiles, that cannot be read hold no data; their places go into `broken`.
    """
    if scene.source.kind != "raster":
        with mosaics.tile_getter(scene.source) as get:
            yield lambda box, zoom: _read_tiles(scene, get, box, zoom, broken)
        return
    with imagery.open_dataset(scene.source.path, scene.source.allow_loopback, scene.source) as (dataset, file):
        once = _raster_reader(dataset, scene.source)

        def read(box: tuple[int, int, int, int], zoom: float) -> tuple[np.ndarray, np.ndarray]:
            top, left, bottom, right = box
            shape = bottom - top, right - left
            pixels, valid = np.zeros((*shape, 3), np.uint8), np.zeros(shape, bool)
            _read_patiently(once, dataset, file, box, (0, 0), zoom, pixels, valid, broken)
            return pixels, valid

        yield read


def _raster_reader(dataset, source: Source) -> Callable:
    """Return the function from a box as the model sees it to colours and what holds data; it raises what rasterio raises."""
    import rasterio
    from rasterio.enums import MaskFlags, Resampling
    from rasterio.windows import Window

    masked = any(MaskFlags.all_valid not in dataset.mask_flag_enums[band - 1] for band in source.bands)
    palette = imagery.read_palette(dataset, source.bands)

    def once(box: tuple[int, int, int, int], zoom: float) -> tuple[np.ndarray, np.ndarray]:
        top, left, bottom, right = (edge * zoom for edge in box)
        bottom, right = min(bottom, dataset.height), min(right, dataset.width)
        window = Window(left, top, right - left, bottom - top)
        shape = len(source.bands), box[2] - box[0], box[3] - box[1]
        how = Resampling.average if zoom > 1 else Resampling.bilinear if zoom < 1 else Resampling.nearest
        how = Resampling.nearest if palette is not None else how
        with rasterio.Env(**imagery.GDAL_OPTIONS):
            values = dataset.read(source.bands, window=window, out_shape=shape, resampling=how)
            valid = np.ones(shape[1:], bool)
            if masked:
                valid = dataset.read_masks(source.bands, window=window, out_shape=shape).any(0)
        if palette is not None:
            colours = palette[np.minimum(values[0], len(palette) - 1)]
            return colours[..., :3], valid & (colours[..., 3] > 0)
        if np.issubdtype(values.dtype, np.floating):
            valid &= np.isfinite(values).all(0)
        if source.limits:
            low, high = np.array(source.limits, np.float32).T[..., None, None]
            with np.errstate(invalid="ignore"):
                values = np.clip((values.astype(np.float32) - low) * (255.0 / (high - low)) + 0.5, 0, 255)
            values = np.where(np.isfinite(values), values, 0).astype(np.uint8)
        return np.broadcast_to(values.transpose(1, 2, 0), (*shape[1:], 3)), valid

    return once


def _read_patiently(once, dataset, file, box, origin, zoom: float, pixels, valid, broken: set) -> None:
    """Read a box into `pixels` and `valid`; where that fails, its parts, down to the blocks of the file that are broken."""
    from rasterio.errors import RasterioError

    top, left, bottom, right = box
    if top >= bottom or left >= right:
        return
    try:
        here = np.s_[origin[0] : origin[0] + bottom - top, origin[1] : origin[1] + right - left]
        pixels[here], valid[here] = once(box, zoom)
        return
    except RasterioError as error:
        if file and file.problem:
            raise DataError(file.problem) from error
    high, wide = (max(1, round(side / zoom)) for side in dataset.block_shapes[0])
    rows = _middle(top, bottom, high)
    columns = _middle(left, right, wide)
    if rows is None and columns is None:
        broken.add((round(top / high), round(left / wide)))
        if len(broken) == 1:
            log.warning("a part of the scene cannot be read; such parts are left without data and counted")
        return
    # Along the axis with more blocks; both halves begin and end with blocks of the file.
    if columns is None or (rows is not None and (bottom - top) / high >= (right - left) / wide):
        parts = ((top, left, rows, right), origin), ((rows, left, bottom, right), (origin[0] + rows - top, origin[1]))
    else:
        parts = (
            ((top, left, bottom, columns), origin),
            ((top, columns, bottom, right), (origin[0], origin[1] + columns - left)),
        )
    for part, corner in parts:
        _read_patiently(once, dataset, file, part, corner, zoom, pixels, valid, broken)


def _middle(low: int, high: int, step: int) -> int | None:
    """The multiple of `step` next to the middle of low…high and inside it; none: there is none."""
    middle = round((low + high) / 2 / step) * step
    middle = next((m for m in (middle, middle - step, middle + step) if low < m < high), None)
    return middle


def _read_tiles(scene: Scene, get, box: tuple, zoom: float, broken: set) -> tuple[np.ndarray, np.ndarray]:
    side, source = scene.source.tile_px, scene.source
    corner = scene.top, scene.left
    y0, x0, y1, x1 = (edge * zoom + corner[k % 2] for k, edge in enumerate(box))
    top, left, bottom, right = int(np.floor(y0)), int(np.floor(x0)), int(np.ceil(y1)), int(np.ceil(x1))
    pixels, valid = np.zeros((bottom - top, right - left, 3), np.uint8), np.zeros((bottom - top, right - left), bool)
    for ty in range(top // side, -(-bottom // side)):
        for tx in range(left // side, -(-right // side)):
            data = get(tx % (1 << source.zoom), ty)
            got = "tile missing" if data is None else mosaics.decode_tile(data, side)
            if isinstance(got, str):
                broken.update([(ty, tx)] if data is not None else ())
                continue
            rows = slice(max(ty * side, top), min(ty * side + side, bottom))
            columns = slice(max(tx * side, left), min(tx * side + side, right))
            here = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            there = np.s_[rows.start - ty * side : rows.stop - ty * side, columns.start - tx * side : columns.stop - tx * side]
            pixels[here] = got[0][there]
            valid[here] = True if got[1] is None else got[1][there]
    if zoom == 1:
        return pixels, valid
    part, shape = (x0 - left, y0 - top, x1 - left, y1 - top), (box[3] - box[1], box[2] - box[0])
    how = Image.Resampling.BOX if zoom > 1 else Image.Resampling.BILINEAR
    small = np.array(Image.fromarray(pixels).resize(shape, how, box=part))
    seen = Image.fromarray(valid.astype(np.uint8)).resize(shape, Image.Resampling.NEAREST, box=part)
    return small, np.asarray(seen) > 0
