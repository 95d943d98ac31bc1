"""Where chips lie on a grid of pixels, and where that is on Earth.

A `Source` is imagery on one north-up pixel grid. A chip is a window of that grid: `place` cuts the grid into chips, or centres
them on points, and measures each one on the ground (footprint, metres per pixel, bearing of up) with the ellipsoid and the
projection, so that it holds at any latitude, across the 180th meridian and on the poles. No pixel is read here.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rsvlm.data.imagery.remote import shown
from rsvlm.errors import ConfigError, DataError, need
from rsvlm.records import text as texts

if TYPE_CHECKING:
    from rsvlm import config
    from rsvlm.data.imagery import values

log = logging.getLogger(__name__)

COLUMNS = "key source split lon lat west south east north gsd_m size_px left_px top_px width_px height_px up_deg".split()
"""Columns of a chip table. The last five: the chip's window in its source's pixel grid, and the bearing of the picture's upper
edge, in degrees clockwise from true north."""

SQUARE = 0.01  # pixels whose sides differ by less on the ground are taken as square
UNSCALED = 0.005  # a size in metres this near to `size_px` pixels is read without resampling
MAX_CHIPS = 20_000_000
MAX_WINDOW_PX = 64_000_000
MERCATOR_M = 20_037_508.342789244  # half the Earth's circumference, of its larger radius


@dataclass(frozen=True)
class Source:
    """Imagery on one pixel grid. It holds no open file: a worker process reopens it by itself.

    Attributes:
        name: Names the source in keys of chips; `[A-Za-z0-9_-]` only.
        path: Absolute path, or URL. A URL may carry a signature: write `name` into records, not this.
        kind: `raster`, `tiles` or `mbtiles`.
        licence: As found beside the imagery, else `unknown`.
        attribution: As found beside the imagery, else empty. Text from a file: escape it where it is shown.
        fingerprint: SHA-256, in hexadecimal, of size and samples of a raster, or of names and sizes of tiles.
        crs: Coordinate system of the grid, as WKT or code.
        transform: `x0, pixel width, y0, pixel height` of the grid, north-up: x = x0 + width · column, y = y0 - height · row.
        width: Columns of the grid.
        height: Rows of the grid.
        bbox_lonlat: West, south, east, north in degrees; east may exceed 180.
        bands: Bands shown, from 1: three, or one for grey.
        limits: Of each band the values that become 0 and 255; empty: values are kept.
        min_valid_share: Chips with a smaller share of pixels that hold data are not returned.
        warped: The raster is warped to the grid while it is read.
        allow_loopback: The URL may lie on this machine.
        zoom: Zoom level of tiles.
        tile_px: Side of a tile.
        patterns: Names of tiles: what stands before the numbers, whether they are folders, what stands after.
        south_first: What stands before the numbers of tiles whose rows are numbered from the south.
        rows_first: What stands before the numbers of tiles whose folders are rows, not columns.
        better_zooms: Zoom levels whose tiles replace tiles of this one.
        alpha: Band that says what is transparent, from 1; 0: none.
        nodata: Value that holds no data, where the file does not declare it itself.
        guesses: What was guessed about bands and values, in words.
        sketch: Values, until limits that are common to several sources are known.
        file: Path relative to the folder that was opened, or to that of the file; of a URL, the address without its query.
        bands_at: Files of the bands that are put together; empty where the raster is one file.
        notes: What was left out on opening: reason, count, an example. `lay_out` tells them.
    """

    name: str
    path: str
    kind: str
    licence: str
    attribution: str
    fingerprint: str
    crs: str
    transform: tuple[float, float, float, float]
    width: int
    height: int
    bbox_lonlat: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    bands: tuple[int, ...] = ()
    limits: tuple[tuple[float, float], ...] = ()
    min_valid_share: float = 0.0
    warped: bool = False
    allow_loopback: bool = False
    zoom: int = -1
    tile_px: int = 0
    patterns: tuple[tuple[str, bool, str], ...] = ()
    south_first: tuple[str, ...] = ()
    rows_first: tuple[str, ...] = ()
    better_zooms: tuple[int, ...] = ()
    alpha: int = 0
    nodata: float | None = None
    guesses: tuple[str, ...] = ()
    sketch: values.Sketch | None = None
    file: str = ""
    bands_at: tuple[str, ...] = ()
    notes: tuple[tuple[str, int, str], ...] = ()

    @property
    def meaning(self) -> dict:
        """What is shown of it, for records: bands, the values that become black and white, no data, and what was guessed."""
        limits = [list(pair) for pair in self.limits]
        return {"bands": list(self.bands), "limits": limits, "nodata": self.nodata, "guesses": list(self.guesses)}


def read_points(path: Path) -> tuple[np.ndarray, list[str], list[tuple[str, int, str]]]:
    """Read places of chips from a file.

    Args:
        path: CSV with the columns `lon`, `lat` and perhaps `key`, or GeoJSON of points with perhaps a property `key`.

    Returns:
        `(N, 2)` longitudes and latitudes in degrees; N keys, empty where none was given or it has other characters than
        letters, digits, `_` and `-`; notes about rows left out.

    Raises:
        DataError: The file is missing or of another form, or no row can be used.
    """
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() in (".json", ".geojson"):
            rows = []
            for feature in json.loads(text)["features"]:
                point = feature.get("geometry") or {}
                lon, lat = point["coordinates"][:2] if point.get("type") == "Point" else (None, None)
                rows.append((lon, lat, (feature.get("properties") or {}).get("key", feature.get("id"))))
        else:
            rows = [(row["lon"], row["lat"], row.get("key")) for row in csv.DictReader(io.StringIO(text))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read as CSV with the columns lon, lat, or as GeoJSON points ({type(error).__name__}: {error})"
        ) from error
    points, keys, bad = [], [], []
    for *place, key in rows:
        try:
            lon, lat = map(float, place)
        except (TypeError, ValueError):
            lon = lat = np.nan
        if abs(lat) <= 90 and abs(lon) <= 360:
            points.append((lon, lat))
            keys.append(str(key) if key and re.fullmatch(r"[A-Za-z0-9_-]{1,100}", str(key)) else "")
        else:
            bad.append(str(tuple(place))[:80])
    if not points:
        raise DataError(f"{path} has no row with a longitude and latitude in degrees")
    notes = [("row without a longitude and latitude in degrees", len(bad), bad[0])] if bad else []
    # A key that several places share names none of them.
    counts = Counter(key for key, _ in dict.fromkeys(zip(keys, points)))
    if shared := [key for key in keys if key and counts[key] > 1]:
        notes.append(("key that several points share: their chips are named by their places", len(shared), shared[0]))
        keys = ["" if counts[key] > 1 else key for key in keys]
    return np.array(points), keys, notes


def place(
    source: Source, options: config.Chips, points: np.ndarray | None = None, present: np.ndarray | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """Lay out the chips of one source.

    Args:
        source: Imagery that is cut.
        options: Size and stride.
        points: `(N, 2)`, longitudes and latitudes in degrees, one chip around each. If None, chips lie side by side.
        present: `(M, 2)`, columns and rows of the tiles that are there. If None, the grid is whole.

    Returns:
        A table with the columns `COLUMNS`, and for each of its rows whether that chip lies wholly inside the imagery. Rows
        outside may hold NaN.

    Raises:
        ConfigError: Far too many chips, or far too large ones.
    """
    if points is not None:
        table = _chips(source, options, *_to_pixels(source, *points.T))
        return table, _inside(source, table, present)
    to_edges = options.cover_edges and present is None
    shrunk = _shrunk(source, options) if to_edges else 1.0
    table = _chips(source, options, *_grid_centres(source, options, present, shrunk), shrunk)
    if to_edges:
        table = _flush(source, options, table, shrunk)
    return table, _inside(source, table, present)


def _shrunk(source: Source, options: config.Chips) -> float:
    """Return the factor, at most 1, by which chips are made smaller to fit into a raster that is less high or wide than they."""
    columns, rows = np.meshgrid(np.linspace(0, source.width, 9), np.linspace(0, source.height, 9))
    width, height, _ = _sides(source, options, columns.ravel(), rows.ravel())
    with np.errstate(invalid="ignore"):
        factor = np.nanmin([1.0, *(source.width / width), *(source.height / height)])
    if factor < 1:
        log.warning(
            "%s is %d x %d pixels, less than a chip: its chips take %.0f x %.0f of them and are shown with %d a side",
            source.name, source.width, source.height, factor * np.nanmax(width), factor * np.nanmax(height), options.size_px,
        )  # fmt: skip
    return float(factor)


def _flush(source: Source, options: config.Chips, table: pd.DataFrame, shrunk: float) -> pd.DataFrame:
    """Move chips that reach over the right and lower edge of a raster back until they are flush with it."""
    left, top, width, height = table[["left_px", "top_px", "width_px", "height_px"]].to_numpy(np.float64).T
    over = (left + width > source.width) | (top + height > source.height)
    if not over.any():
        return table
    x, y = np.minimum(left, source.width - width)[over], np.minimum(top, source.height - height)[over]
    # Whole pixels, and inside.
    x, y = (np.maximum(np.floor(v + 1e-6), 0) for v in (x, y))
    moved = _chips(source, options, x + width[over] / 2, y + height[over] / 2, shrunk)
    return pd.concat([table[~over], moved]).drop_duplicates("key").reset_index(drop=True)


def _grid_centres(
    source: Source, options: config.Chips, present: np.ndarray | None, shrunk: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel centres of all grid chips that touch the imagery; whether they lie wholly inside is judged later."""
    boxes = np.array([[0, 0, source.width, source.height]], np.float64)
    if present is not None:
        boxes = np.concatenate([present, present + 1], 1).astype(np.float64) * source.tile_px
    if not len(boxes):
        return np.zeros(0), np.zeros(0)
    (west, north), (east, south) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    # Chips of one row share one width, that of the row's middle; each chip's own window follows at its own centre.
    y = np.linspace(north, south, 2049)
    width, height, _ = _sides(source, options, np.full(len(y), (west + east) / 2), y, shrunk)
    width, height = (np.where(np.isfinite(v), v, options.size_px) for v in (width, height))
    step = options.stride
    if (width == options.size_px).all() and (height == options.size_px).all():
        side = options.size_px * step
        tops = np.arange(np.floor(north / side), np.ceil(south / side) + 1) * side
    else:
        width, height = np.clip(width, 1.0, 4.0 * source.width), np.clip(height, 1.0, 4.0 * source.height)
        if (south - north) / (height.min() * step) > MAX_CHIPS:
            raise ConfigError(f"{source.name}: chips of {height.min():.1f} source pixels are too many; give larger ones")
        tops, top = [], north
        while top < south:
            tops.append(top)
            top += step * float(np.interp(top, y, height))
        tops = np.array(tops)
    row_width, row_height = np.interp(tops, y, width), np.interp(tops, y, height)
    first, last = np.searchsorted(tops + row_height, boxes[:, 1], "right"), np.searchsorted(tops, boxes[:, 3], "left")
    box, row = _spread(first, last)
    steps = row_width[row] * step
    left = np.maximum(np.floor((boxes[box, 0] - row_width[row]) / steps + 1e-9) + 1, 0)
    right = np.ceil(boxes[box, 2] / steps - 1e-9)
    if np.maximum(right - left, 0).sum() > MAX_CHIPS:
        raise ConfigError(f"{source.name} would be cut into more than {MAX_CHIPS} chips: give larger ones or a larger stride")
    pair, column = _spread(left.astype(np.int64), right.astype(np.int64))
    cells = np.unique(np.stack([row[pair], column], 1), axis=0)
    row, column = cells.T
    return column * row_width[row] * step + row_width[row] / 2, tops[row] + row_height[row] / 2


def _spread(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for ranges first[i] to last[i], exclusive, the number i and the value of every member."""
    counts = np.maximum(last - first, 0)
    number = np.repeat(np.arange(len(counts)), counts)
    return number, np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)


def _sides(
    source: Source, options: config.Chips, x: np.ndarray, y: np.ndarray, shrunk: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return width and height of chips in source pixels, and their ground sample distance, at pixel positions of centres."""
    _, _, east_m, south_m, _ = measure(source, x, y)
    size = float(options.size_px)
    with np.errstate(divide="ignore", invalid="ignore"):
        if options.size_m:
            gsd_m = np.full(len(x), options.size_m / size)
        else:
            # Square on the ground means: the coarser side is kept, the finer one is averaged.
            gsd_m = np.where(np.abs(east_m / south_m - 1) <= SQUARE, np.sqrt(east_m * south_m), np.maximum(east_m, south_m))
        width, height = size * gsd_m / east_m, size * gsd_m / south_m
        tolerance = UNSCALED if options.size_m else SQUARE
        as_is = (np.abs(width / size - 1) <= tolerance) & (np.abs(height / size - 1) <= tolerance)
    gsd_m = np.where(as_is, np.sqrt(east_m * south_m), gsd_m)
    return np.where(as_is, size, width) * shrunk, np.where(as_is, size, height) * shrunk, gsd_m * shrunk


def _chips(source: Source, options: config.Chips, x: np.ndarray, y: np.ndarray, shrunk: float = 1.0) -> pd.DataFrame:
    """Make the table of chips around pixel positions; those with no place on Earth have NaN in it."""
    size = options.size_px
    width, height, _ = _sides(source, options, x, y, shrunk)
    width, height = (np.floor(v * 1000 + 1e-6) / 1000 if shrunk < 1 else v.round(3) for v in (width, height))
    # Whole pixels at the corner: chips of whole pixels are then copies, and keys are short.
    left, top = np.round(x - width / 2) + 0.0, np.round(y - height / 2) + 0.0
    lon, lat, east_m, south_m, up_deg = measure(source, left + width / 2, top + height / 2)
    gsd_m = np.sqrt(east_m * width * south_m * height) / size
    boxes = footprints(source, left, top, width, height)
    ending = f"_{options.size_m:g}m".replace(".", "p").replace("+", "") if options.size_m else ""
    usable = np.isfinite(left) & np.isfinite(top) & np.isfinite(boxes).all(1)
    keys = [f"{source.name}_{size}_{int(a)}_{int(b)}{ending}" if ok else "" for a, b, ok in zip(left, top, usable)]
    columns = (keys, source.name, "", lon, lat, *boxes.T, gsd_m, size, left, top, width, height, up_deg)
    return pd.DataFrame(dict(zip(COLUMNS, columns)), index=range(len(x)))


def _inside(source: Source, table: pd.DataFrame, present: np.ndarray | None) -> np.ndarray:
    left, top, width, height = table[["left_px", "top_px", "width_px", "height_px"]].to_numpy(np.float64).T
    with np.errstate(invalid="ignore"):
        inside = (table["key"].to_numpy() != "") & (left >= 0) & (top >= 0) & (top + height <= source.height)
    if present is None:
        return inside & (left + width <= source.width)
    if not inside.any():
        return inside
    if (width * height)[inside].max() > MAX_WINDOW_PX:
        raise ConfigError(f"a chip would take more than {MAX_WINDOW_PX} pixels of {source.name}: give coarser tiles")
    codes, whole = np.sort(tile_code(present)), np.flatnonzero(inside)
    x0, y0 = (np.floor(v[whole] / source.tile_px).astype(np.int64) for v in (left, top))
    x1, y1 = (np.ceil(v[whole] / source.tile_px).astype(np.int64) for v in (left + width, top + height))
    complete = np.ones(len(whole), bool)
    for dx in range(int((x1 - x0).max())):
        for dy in range(int((y1 - y0).max())):
            # Modulo: a mosaic of the world goes on at its first column.
            code = tile_code(np.stack([(x0 + dx) % (1 << source.zoom), y0 + dy], 1))
            there = codes[np.minimum(np.searchsorted(codes, code), len(codes) - 1)] == code
            complete &= there | (x0 + dx >= x1) | (y0 + dy >= y1)
    inside[whole] = complete
    return inside


def north_up(transform, width: int, height: int) -> tuple[tuple[float, float, float, float], int, int, bool]:
    """Return a north-up grid over a raster as in `Source`: transform, width, height, and whether the raster lies otherwise."""
    t = transform
    if t.b == 0 and t.d == 0 and t.a > 0 and t.e < 0:
        return (t.c, t.a, t.f, -t.e), width, height, False
    column, row = np.array([[0, width, 0, width], [0, 0, height, height]])
    x, y = t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f
    pixel_width, pixel_height = (abs(t.determinant) ** 0.5,) * 2
    if is_straight(t):  # one of each pair is 0
        pixel_width, pixel_height = abs(t.a) + abs(t.b), abs(t.d) + abs(t.e)
    spans = np.array([np.ptp(x) / pixel_width, np.ptp(y) / pixel_height])
    columns, rows = np.ceil(spans - 1e-6).astype(int).tolist()
    return (float(x.min()), pixel_width, float(y.max()), pixel_height), columns, rows, True


def placed(dataset) -> tuple:
    """Return coordinate system and affine transform of a raster, from its ground control points where it has no others.

    Raises:
        DataError: The points do not fit an affine transform, to half a pixel on average.
    """
    points, crs = dataset.gcps
    if not points or not dataset.transform.is_identity:
        return dataset.crs, dataset.transform
    from rasterio.transform import from_gcps

    transform = from_gcps(points)
    across = np.hypot(transform.a, transform.d)
    away = [np.hypot(*np.subtract(transform * (point.col, point.row), (point.x, point.y))) / across for point in points]
    if len(points) < 3 or not np.mean(away) <= 0.5:
        raise DataError(
            f"{shown(dataset.name)} has {len(points)} ground control points that no straight grid fits: warp it first, as with "
            "gdalwarp -tps IN OUT.tif"
        )
    return crs, transform


def is_straight(transform) -> bool:
    """Whether rows and columns of a raster run along those of a north-up grid, in whichever direction: its pixels can be copied."""
    return transform.b == transform.d == 0 or transform.a == transform.e == 0


def to_lonlat(source: Source) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the function from pixel positions to longitude and latitude; infinite where there is none."""
    transformer = need("pyproj", "data").Transformer.from_crs(source.crs, "EPSG:4326", always_xy=True)
    x0, pixel_width, y0, pixel_height = source.transform

    def transform(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lon, lat = transformer.transform(x0 + pixel_width * np.asarray(x), y0 - pixel_height * np.asarray(y))
        return lon, np.where(np.abs(lat) <= 90 + 1e-9, np.clip(lat, -90, 90), np.inf)

    return transform


def _to_pixels(source: Source, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel positions of places; of those a turn of the Earth apart, the one inside the grid."""
    pyproj = need("pyproj", "data")
    crs = pyproj.CRS.from_user_input(source.crs)
    x0, pixel_width, y0, pixel_height = source.transform
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    x, y = (np.asarray(x) - x0) / pixel_width, (y0 - np.asarray(y)) / pixel_height
    turn = 360.0 if crs.is_geographic else 2 * MERCATOR_M if crs.to_epsg() == 3857 else 0.0
    if turn:
        # Infinite stays infinite: such a place has no pixel.
        with np.errstate(invalid="ignore"):
            x = np.where(np.isfinite(x), x - np.floor(x / (turn / pixel_width)) * (turn / pixel_width), x)
    return x, y


def measure(source: Source, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return longitude, latitude, metres of one pixel to the right and downwards, and the bearing of up, at pixel positions."""
    geod = need("pyproj", "data").Geod(ellps="WGS84")
    transform = to_lonlat(source)
    lon, lat = transform(x, y)
    ends = [transform(x + dx, y + dy) for dx, dy in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))]
    usable = np.isfinite(lon) & np.isfinite(lat) & np.all([np.isfinite(v) for end in ends for v in end], axis=0)
    (w, e, n, s) = [tuple(np.where(usable, v, 0.0) for v in end) for end in ends]
    east_m, south_m = geod.inv(*w, *e)[2], geod.inv(*n, *s)[2]
    up_deg = geod.inv(*s, *n)[0]
    lon = (np.where(usable, lon, 0.0) + 180.0) % 360.0 - 180.0
    return tuple(np.where(usable, v, np.nan) for v in (lon, lat, east_m, south_m, up_deg))


def footprints(
    source: Source, left: np.ndarray, top: np.ndarray, width: np.ndarray, height: np.ndarray, *, fine: bool = False
) -> np.ndarray:
    """Return west, south, east, north `(N, 4)` of windows: of points along their edges, and of a pole inside."""
    transform = to_lonlat(source)
    _, lat_top = transform(left + width / 2, top)
    _, lat_bottom = transform(left + width / 2, top + height)
    with np.errstate(invalid="ignore"):
        large = (np.abs(lat_top - lat_bottom) > 0.5) | fine
    result = np.empty((len(left), 4))
    # Edges of small windows are nearly straight on the globe; of large ones more points are looked at, a few windows at a time.
    for points, chosen in ((33, large), (3, ~large)):
        rows = np.flatnonzero(chosen)
        for part in np.array_split(rows, len(rows) * points // 400_000 + 1):
            result[part] = _edges(transform, left[part], top[part], width[part], height[part], points)
    x0, pixel_width, y0, pixel_height = source.transform
    to_grid = need("pyproj", "data").Transformer.from_crs("EPSG:4326", source.crs, always_xy=True)
    for lat_pole, side in ((90.0, 3), (-90.0, 1)):
        x, y = to_grid.transform(0.0, lat_pole)
        column, row = (x - x0) / pixel_width, (y0 - y) / pixel_height
        around = (left < column) & (column < left + width) & (top < row) & (row < top + height)
        result[around, 0], result[around, 2], result[around, side] = -180.0, 180.0, lat_pole
    return result


def _edges(transform, left: np.ndarray, top: np.ndarray, width: np.ndarray, height: np.ndarray, points: int) -> np.ndarray:
    part, zeros, ones = np.linspace(0, 1, points), np.zeros(points), np.ones(points)
    edge_x, edge_y = np.concatenate([part, part, zeros, ones]), np.concatenate([zeros, ones, part, part])
    centre_lon, _ = transform(left + width / 2, top + height / 2)
    lon, lat = transform(left[:, None] + width[:, None] * edge_x, top[:, None] + height[:, None] * edge_y)
    with np.errstate(invalid="ignore"):
        # A window as wide as the world has its edges half a turn from its centre: keep them on their own sides.
        turn = (lon - centre_lon[:, None] + 180.0) % 360.0 - 180.0
        turn = np.where((np.abs(turn) >= 180.0 - 1e-9) & (edge_x > 0.5), 180.0, turn)
        west, east = turn.min(1) + centre_lon, turn.max(1) + centre_lon
        shift = np.floor((west + 180.0) / 360.0) * 360.0
        return np.stack([west - shift, lat.min(1), east - shift, lat.max(1)], 1)


def tile_code(xy: np.ndarray) -> np.ndarray:
    """Return one number for column and row of each tile, `(..., 2)` to `(...)`, int64."""
    return (xy[..., 0] << 31) | xy[..., 1]


def name_of(text: str) -> str:
    """Return a name with the characters of keys, not too long; two texts do not share one."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:40] or "imagery"
    return name if name == text else f"{name}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:6]}"


def clean(text: object) -> str:
    """Return text from a file on one line, not too long; nothing of what is no text."""
    return texts.one_line(text)[:300] if isinstance(text, str) else ""


def fingerprint(*paths: Path) -> str:
    """Hash the size of a file and pieces evenly spread over it (all of it up to 4 MB), and its companions' sizes; or of several."""
    digests = [_fingerprint(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _fingerprint(path: Path, pieces: int = 64, piece: int = 65_536) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    whole = size <= pieces * piece
    starts = range(0, size, piece) if whole else np.linspace(0, size - piece, pieces).astype(np.int64).tolist()
    with open(path, "rb") as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(piece))
    for ending in (".aux.xml", ".msk", ".ovr"):
        companion = path.with_name(path.name + ending)
        digest.update(f"{ending} {companion.stat().st_size if companion.is_file() else 0}\n".encode())
    return digest.hexdigest()
