"""Scenes in and maps out: pixels of any part of a raster or a mosaic, and rasters of cells on the same grid.

Other than `data.imagery.sources`, which cuts whole chips, this reads a scene block by block with everything that is wrong with it: places without
data, blocks of the file that are broken, tiles that are missing, and no word about where on Earth it lies.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsvlm.data.imagery import chip_layout, sources, tile_mosaics, windows
from rsvlm.data.imagery.chip_layout import Source
from rsvlm.localization.shapes import Region
from rsvlm.records import files

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """Imagery on one pixel grid, and the part of that grid where it lies.

    `left`, `top`, `width`, `height` are in pixels of the grid of `source`, and may begin before it; `tiles` (N, 2) are columns and rows of
    the tiles of a mosaic.
    """

    source: Source
    left: int
    top: int
    width: int
    height: int
    tiles: np.ndarray | None = None

    @property
    def located(self) -> bool:
        """Whether the grid has a place on Earth."""
        return bool(self.source.crs)


def open_scene(
    where: str | Path,
    bands: Sequence[int] = (),
    limits: Sequence[float] = (),
    nodata: str | float = "auto",
    tile_rows: str = "auto",
) -> list[Scene]:
    """Open a raster, its URL, a folder of XYZ tiles, an MBTiles file, or a folder of rasters.

    A raster that does not say where it lies is opened too, in coordinates of its pixels.

    Args:
        where: As for `sources.open_imagery`.
        bands: Bands shown as red, green and blue, or one. If empty, they are found out.
        limits: Values that become black and white, a pair, or one for each band. If empty, they are found out.
        nodata: Value that holds no data; `file`: as the file declares it; `auto`: the same, else a value that fills parts of it.
        tile_rows: Which way rows of tiles count: `xyz`, `tms`, `zyx` or `auto`, as `config.Chips.tile_rows`.

    Returns:
        One scene for each raster and each zoom level; one for the bands of a scene in files of their own.

    Raises:
        DataError: Nothing can be read there.
        MissingExtraError: rasterio or pyproj is not installed.
    """
    from rsvlm import config

    shown = {"bands": tuple(bands), "limits": tuple(limits), "nodata": nodata}
    options = config.Chips(**shown, min_valid_share=0.0, tile_rows=tile_rows)
    opened = sources.open_imagery(str(where), options, placed=False)
    for reason, count, example in (note for source in opened for note in source.notes):
        log.warning("left out: %s (%d, as %s)", reason, count, example)
    return [_on_grid(source) for source in opened]


def _on_grid(source: Source) -> Scene:
    if source.kind == "raster":
        if not source.crs:
            log.warning("%s does not say where it lies: results are in pixels, x to the right and y downwards", source.name)
        return Scene(source, 0, 0, source.width, source.height)
    tiles = tile_mosaics.present(source)
    (left, top), (right, bottom) = (tiles.min(0) * source.tile_px).tolist(), ((tiles.max(0) + 1) * source.tile_px).tolist()
    return Scene(source, left, top, right - left, bottom - top, tiles[np.argsort(tiles[:, 1])])


def origin(scene: Scene) -> tuple[int, int]:
    """Return row and column of the first pixel of a scene, counted from the place where both coordinates of its grid are 0.

    So all parts of one scene count alike. Where nobody knows the place, both are 0.
    """
    if not scene.located:
        return 0, 0
    x0, width, y0, height = scene.source.transform
    # Grids begin at whole pixels or at halves: a quarter keeps both from falling to either side of a whole number.
    row, column = (int(np.floor(place + 0.25)) for place in (-y0 / height, x0 / width))
    return row + scene.top, column + scene.left


def touches(scene: Scene, box: tuple[int, int, int, int], cell_px: float) -> bool:
    """Whether a tile of the mosaic reaches into a box of cells."""
    if scene.tiles is None:
        return True
    side = scene.source.tile_px
    y0, x0, y1, x1 = (np.array(box) * cell_px + (scene.top, scene.left) * 2) / side
    first, last = np.searchsorted(scene.tiles[:, 1], [int(np.floor(y0)), int(np.ceil(y1))])
    columns = scene.tiles[first:last, 0]
    return bool(((columns < x1) & (columns + 1 > x0)).any())


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
        code = crs.to_authority(min_confidence=100)
        self.authority = ":".join(code or ())
        if code and self.authority not in ("EPSG:4326", "OGC:CRS84"):
            self.polygons_in = self.authority
            self.member = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{code[0]}::{code[1]}"}}
            return
        self.polygons_in = "longitude, latitude"
        if not code:
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
        lon, lat, east_m, south_m, _ = chip_layout.measure(self.scene.source, *at)
        return lon, lat, east_m * south_m * self.cell_px**2


@contextmanager
def write_cells(path: Path, grid: Grid, size: tuple[int, int], texts: Sequence[str]) -> Iterator[Callable]:
    """Yield a function that writes (M, h, w) confidence at a box of cells; the file appears when all is written."""
    import rasterio
    from affine import Affine

    x0, width, y0, height = grid.transform
    form = {
        "driver": "GTiff", "width": size[1], "height": size[0], "count": len(texts), "dtype": "float32", "nodata": np.nan,
        "tiled": True, "blockxsize": 256, "blockysize": 256, "interleave": "band", "BIGTIFF": "IF_SAFER", "SPARSE_OK": True,
        "compress": "deflate", "zlevel": 1, "predictor": 3, "transform": Affine(width, 0, x0, 0, -height, y0),
    } | ({"crs": grid.scene.source.crs} if grid.scene.located else {})  # fmt: skip
    memory = rasterio.Env(GDAL_CACHEMAX=64_000_000)
    with files.replacing(path) as temporary, memory, rasterio.open(temporary, "w", **form) as file:
        for number, text in enumerate(texts, 1):
            file.set_band_description(number, chip_layout.clean(text))

        def write(box: tuple[int, int, int, int], confidence: np.ndarray) -> None:
            top, left, bottom, right = box
            file.write(confidence, window=((top, bottom), (left, right)))

        yield write


def list_regions(best: Sequence[Sequence[Region]], grid: Grid) -> list[dict]:
    """List the regions of all texts, those of highest confidence first, as in `scene.SearchResult`, but with `rings` in cells.

    Args:
        best: The regions of each text, as of `shapes.Regions.best`.
        grid: Where their cells lie.
    """
    regions = [(text, region) for text, of_text in enumerate(best) for region in of_text]
    regions.sort(key=lambda pair: (-pair[1].confidence, pair[0], -pair[1].order))
    if not regions:
        return []
    rows, columns, cells = np.array([(region.row, region.column, region.cells) for _, region in regions], np.float64).T
    xy = zip(*grid.place(columns + 0.5, rows + 0.5))
    lon, lat, area = grid.measure(columns + 0.5, rows + 0.5)
    measured = [[value if np.isfinite(value) else None for value in values.tolist()] for values in (lon, lat, area * cells)]
    listed = []
    for (text, region), count, (x, y), lon, lat, area in zip(regions, cells.tolist(), xy, *measured):
        polygons = getattr(region.shape, "geoms", [region.shape])
        listed.append(
            {
                "text": text,
                "confidence": round(region.confidence, 4),
                "peak": round(region.peak, 4),
                "lon": lon if lon is None else round(lon, 7),
                "lat": lat if lat is None else round(lat, 7),
                "area_m2": area if area is None else round(area, 2),
                "area_px": round(count * grid.cell_px**2, 2),
                "x": float(x),
                "y": float(y),
                "rings": [[np.asarray(ring.coords) for ring in (part.exterior, *part.interiors)] for part in polygons],
            }  # fmt: skip
        )
    return listed


def write_polygons(path: Path, listed: Sequence[dict], texts: Sequence[str], grid: Grid, model: str = "") -> None:
    """Write regions, as of `list_regions`, as GeoJSON in the coordinates that `grid.polygons_in` names; `model` is its name."""
    features, ranks = [], [0] * len(texts)
    source = grid.scene.source
    about = {"source": source.name, "file": source.file, "model": model}
    about |= {"licence": source.licence, "attribution": source.attribution}
    for region in listed:
        coordinates = [[grid.outline(ring) for ring in polygon] for polygon in region["rings"]]
        single = len(coordinates) == 1
        geometry = {"type": "Polygon" if single else "MultiPolygon", "coordinates": coordinates[0] if single else coordinates}
        properties = {name: region[name] for name in ("confidence", "peak", "area_m2", "area_px", "lon", "lat")}
        ranks[region["text"]] += 1
        place = {"rank": ranks[region["text"]], "score": region["confidence"]}
        properties = {"text": texts[region["text"]], **place, **properties, **about}
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    content = {"type": "FeatureCollection"} | ({"crs": grid.member} if grid.member else {}) | {"features": features}
    files.write_atomic(path, json.dumps(content, ensure_ascii=False, separators=(",", ":")))


class Preview:
    """A scene made small, and the highest confidence under each of its pixels, put together from blocks."""

    def __init__(self, size: tuple[int, int], count: int, shrink: int, fine: int):
        """Begin with a map of `size` rows and columns of cells for `count` texts; `shrink` and `fine` as in `scene_blocks.Plan`."""
        self._shrink, self._fine = shrink, fine
        shape = -(-size[0] // shrink), -(-size[1] // shrink)
        self._highest = np.full((count, *shape), -np.inf, np.float32)
        self._colours = np.zeros((shape[0] * fine, shape[1] * fine, 4), np.float32)  # sums, and how many there are

    def add(self, box: tuple, colours: np.ndarray, known: np.ndarray, confidence: np.ndarray) -> None:
        """Take a block: its box in cells, colours (`fine` to a cell's side, 3), which cells hold data, and (M, h, w) confidence."""
        shrink, fine = self._shrink, self._fine
        edges = [
            np.unique(np.append(low, np.arange(-(-low // shrink) * shrink, high, shrink))) for low, high in zip(box, box[2:])
        ]
        y, x = edges[0] - box[0], edges[1] - box[1]
        place = np.ix_(edges[0] // shrink, edges[1] // shrink)
        seen = known.repeat(fine, 0).repeat(fine, 1)[..., None]
        sums = np.concatenate([colours * seen, seen], axis=2, dtype=np.float32)
        if fine > 1:  # then no cell is shrunk
            self._colours[box[0] * fine : box[2] * fine, box[1] * fine : box[3] * fine] = sums
        else:
            self._colours[place] += np.add.reduceat(np.add.reduceat(sums, y, axis=0), x, axis=1)
        highest = np.where(known, confidence, -np.inf)
        highest = np.maximum.reduceat(np.maximum.reduceat(highest, y, axis=1), x, axis=2)
        for heat, of_block in zip(self._highest, highest):
            heat[place] = np.maximum(heat[place], of_block)

    def image(self) -> np.ndarray:
        """The scene made small, (H, W, 3) uint8; black where there is no data."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.nan_to_num(self._colours[..., :3] / self._colours[..., 3:]).round().astype(np.uint8)

    def heat(self) -> np.ndarray:
        """Highest confidence under each pixel, (M, h, w) float32; NaN where there is no data."""
        return np.where(np.isfinite(self._highest), self._highest, np.nan)


@contextmanager
def reader(scene: Scene, broken: set) -> Iterator[Callable]:
    """Yield a function from a box of pixels as the model sees them, and their size, to pixels (h, w, 3) and what holds data.

    Threads may call it, one at a time. Blocks of the file, or tiles, that cannot be read hold no data; their places go into `broken`.
    """
    with windows.open_windows(scene.source, cached_bytes=0) as source:

        def read(box: tuple[int, int, int, int], zoom: float) -> tuple[np.ndarray, np.ndarray]:
            # What lies before the first pixel of the source holds no data.
            lead = [max(0, -int(first // zoom)) for first in (scene.top, scene.left)]
            corner = tuple(first + int(many * zoom) for first, many in zip((scene.top, scene.left), lead))
            inside = tuple(max(0, edge - lead[axis % 2]) for axis, edge in enumerate(box))
            if inside[0] == inside[2] or inside[1] == inside[3]:
                return np.zeros((box[2] - box[0], box[3] - box[1], 3), np.uint8), np.zeros(
                    (box[2] - box[0], box[3] - box[1]), bool
                )
            picture = windows.read_view(source, inside, zoom, corner)
            if picture.broken and not broken:
                log.warning("a part of the scene cannot be read; such parts are left without data and counted")
            broken.update(picture.broken)
            if lead == [0, 0]:
                return picture.pixels, picture.valid
            before = [(max(0, many - first), 0) for many, first in zip(lead, box)]
            return np.pad(picture.pixels, (*before, (0, 0))), np.pad(picture.valid, before)

        yield read
