"""Windows of pixels, from rasters and from mosaics of tiles: red, green and blue, 0 to 255, and which pixels hold data.

`open_windows` opens a source once and reads any number of its windows: chips (`sources.read`) and parts of scenes (`read_view`) come
through it. Here are the choice of bands (`shown_bands`), the stretch of values (`value_limits`, `stretch`), palettes, masks and the
transparency of tiles. Whatever a file refers to is left alone: GDAL opens the formats in `DRIVERS` alone, and reaches no network.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from rsvlm.data.imagery import band_files, remote, tile_mosaics
from rsvlm.data.imagery.chip_layout import MAX_WINDOW_PX, Source
from rsvlm.data.imagery.remote import shown
from rsvlm.errors import ConfigError, DataError, need
from rsvlm.model import images

if TYPE_CHECKING:
    from rsvlm import config

DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".gtiff": "GTiff", ".jp2": "JP2OpenJPEG", ".j2k": "JP2OpenJPEG"}
"""Formats that are opened. Others, VRT and WMS above all, may point GDAL to any file or address."""

_GDAL_OPTIONS = {
    "GDAL_CACHEMAX": 128_000_000,
    "GDAL_HTTP_PROXY": "127.0.0.1:1",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "-",
    "GDAL_PAM_PROXY_DIR": "",
}
"""Held whenever GDAL opens or reads: it follows some references inside files, and with these none can reach a network."""

CACHED_BYTES = 64_000_000  # of decoded tiles
UNREADABLE = "cannot be read"
_OF_PILLOW = {"nearest": "NEAREST", "average": "BOX", "bilinear": "BILINEAR", "cubic": "BICUBIC"}


@dataclass(frozen=True)
class Window:
    """A part of a grid, `left`, `top`, `width` and `height` in its pixels, and how a picture is made of it.

    Attributes:
        shape: Rows and columns of the picture.
        resampling: `nearest`, `average`, `bilinear` or `cubic`: how a picture of another size than the window is made. Numbers of a
            palette are never mixed.
    """

    left: float
    top: float
    width: float
    height: float
    shape: tuple[int, int]
    resampling: str = "nearest"


@dataclass(frozen=True)
class Picture:
    """What was read of a window.

    Attributes:
        pixels: (h, w, 3) uint8; black where nothing could be read.
        valid: (h, w) bool, the pixels that hold data.
        reason: Why a part of it, or all of it, could not be read: `UNREADABLE`, `tile missing` or `tile broken`. None if all was read.
        broken: Row and column of the tiles, or of the blocks of the file, that hold no readable pixels.
    """

    pixels: np.ndarray
    valid: np.ndarray
    reason: str | None = None
    broken: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Reader:
    """An open source: the function from windows to pictures, and rows and columns of a block of the file, or of a tile."""

    read_all: Callable[[Sequence[Window]], list[Picture]]
    block_shape: tuple[int, int]

    def read(self, window: Window) -> Picture:
        """Read one window."""
        return self.read_all([window])[0]


@contextmanager
def open_windows(source: Source, cached_bytes: int = CACHED_BYTES) -> Iterator[Reader]:
    """Open a source, and yield its reader. Threads may use it, one at a time.

    Args:
        source: As from `sources.open_imagery`.
        cached_bytes: Bytes of decoded tiles of a mosaic that are cached for windows that follow; 0 for none.

    Raises:
        DataError: The source cannot be opened or has changed; when reading: its server does not answer, or the MBTiles file broke.
    """
    if source.kind != "raster":
        side = source.tile_px
        with tile_mosaics.tile_getter(source) as get:
            count = max(8, cached_bytes // (side * side * 3)) if cached_bytes else 0
            tile = lru_cache(count)(lambda x, y: _decode_tile(get(x, y), side))
            yield Reader(lambda wanted: [_read_mosaic(tile, source, window) for window in wanted], (side, side))
        return
    with open_dataset(source.path, source.allow_loopback, source) as (dataset, file):
        with environment():
            if (dataset.width, dataset.height) != (source.width, source.height) or dataset.count < max(source.bands):
                raise DataError(f"{shown(source.path)} has changed since it was opened: start again")
            read = _raster_reader(dataset, file, source)

        def read_all(wanted: Sequence[Window]) -> list[Picture]:
            # The options are held while GDAL reads, not while the caller works: windows of several sources may be read in turn.
            with environment():
                return [read(window) for window in wanted]

        yield Reader(read_all, dataset.block_shapes[0])


def read_view(reader: Reader, box: tuple[int, int, int, int], zoom: float, corner: tuple[int, int] = (0, 0)) -> Picture:
    """Read a box of a source that is looked at from further away or nearer; parts that cannot be read hold no data.

    Where a raster fails, its parts are read, down to the blocks of the file that are broken.

    Args:
        reader: The open source.
        box: Top, left, bottom, right, in pixels as they are looked at.
        zoom: Pixels of the source, a side, to one of these.
        corner: Row and column of the source where these begin.

    Raises:
        DataError: The source itself fails, as in `open_windows`.
    """
    top, left, bottom, right = box
    y0, x0, y1, x1 = (edge * zoom + corner[axis % 2] for axis, edge in enumerate(box))
    resampling = "average" if zoom > 1 else "bilinear" if zoom < 1 else "nearest"
    picture = reader.read(Window(x0, y0, x1 - x0, y1 - y0, (bottom - top, right - left), resampling))
    if picture.reason != UNREADABLE:
        return picture
    # Both halves begin and end with blocks of the file; they lie along the axis with more blocks.
    high, wide = (max(1, round(side / zoom)) for side in reader.block_shape)
    row, column = _middle(top, bottom, high), _middle(left, right, wide)
    if row is None and column is None:
        return replace(picture, broken=frozenset({(round(top / high), round(left / wide))}))
    axis, halves = 1, ((top, left, bottom, column), (top, column, bottom, right))
    if column is None or (row is not None and (bottom - top) / high >= (right - left) / wide):
        axis, halves = 0, ((top, left, row, right), (row, left, bottom, right))
    first, second = (read_view(reader, half, zoom, corner) for half in halves)
    pixels, valid = (np.concatenate(pair, axis) for pair in ((first.pixels, second.pixels), (first.valid, second.valid)))
    return Picture(pixels, valid, first.reason or second.reason, first.broken | second.broken)


def _middle(low: int, high: int, step: int) -> int | None:
    """Return the multiple of `step` next to the middle of low…high and inside it. If None, there is none."""
    middle = round((low + high) / 2 / step) * step
    return next((edge for edge in (middle, middle - step, middle + step) if low < edge < high), None)


def _raster_reader(dataset, file: remote.WebFile | None, source: Source) -> Callable[[Window], Picture]:
    import rasterio.windows
    from rasterio.enums import MaskFlags, Resampling
    from rasterio.errors import RasterioError

    masked = any(MaskFlags.all_valid not in dataset.mask_flag_enums[band - 1] for band in source.bands)
    palette = _read_palette(dataset, source.bands)

    def read(window: Window) -> Picture:
        # What lies beyond the raster's last row and column is not asked for.
        width, height = min(window.width, dataset.width - window.left), min(window.height, dataset.height - window.top)
        place = rasterio.windows.Window(window.left, window.top, width, height)
        shape = (len(source.bands), *window.shape)
        resampling = Resampling["nearest" if palette is not None else window.resampling]
        values, valid = None, np.ones(window.shape, bool)
        try:
            values = dataset.read(source.bands, window=place, out_shape=shape, resampling=resampling)
            if masked:
                valid = dataset.read_masks(source.bands, window=place, out_shape=shape).any(0)
        except RasterioError:
            values = None
        if file and file.problem:
            raise DataError(file.problem)
        if values is None:
            return Picture(np.zeros((*window.shape, 3), np.uint8), np.zeros(window.shape, bool), UNREADABLE)
        # Colours of what was read, and which of it counts.
        if palette is not None:
            colours = palette[np.minimum(values[0], len(palette) - 1)]
            return Picture(np.ascontiguousarray(colours[..., :3]), valid & (colours[..., 3] > 0))
        if np.issubdtype(values.dtype, np.floating):
            valid &= np.isfinite(values).all(0)
        if source.limits:
            values = stretch(values, source.limits)
        pixels = values.transpose(1, 2, 0)
        return Picture(np.ascontiguousarray(pixels) if len(values) == 3 else np.repeat(pixels, 3, axis=2), valid)

    return read


def _read_mosaic(tile: Callable, source: Source, window: Window) -> Picture:
    """Put a window together from its tiles; `tile` is the function from column and row to what `_decode_tile` returns."""
    side, width, height = source.tile_px, window.width, window.height
    x0, y0 = int(np.floor(window.left)), int(np.floor(window.top))
    x1, y1 = int(np.ceil(window.left + width)), int(np.ceil(window.top + height))
    pixels, valid = np.zeros((y1 - y0, x1 - x0, 3), np.uint8), np.zeros((y1 - y0, x1 - x0), bool)
    reason, broken = None, []
    for row in range(y0 // side, -(-y1 // side)):
        for column in range(x0 // side, -(-x1 // side)):
            # Modulo: a mosaic of the world goes on at its first column.
            decoded = tile(column % (1 << source.zoom), row)
            if isinstance(decoded, str):
                reason = reason or decoded
                broken += [(row, column)] if decoded == "tile broken" else []
                continue
            # The part of the tile that lies in the window.
            top, bottom = max(row * side, y0), min((row + 1) * side, y1)
            left, right = max(column * side, x0), min((column + 1) * side, x1)
            in_window = np.s_[top - y0 : bottom - y0, left - x0 : right - x0]
            in_tile = np.s_[top - row * side : bottom - row * side, left - column * side : right - column * side]
            colours, opaque = decoded
            pixels[in_window] = colours[in_tile]
            valid[in_window] = True if opaque is None else opaque[in_tile]
    if not pixels.shape[:2] == window.shape == (height, width):
        box = window.left - x0, window.top - y0, window.left - x0 + width, window.top - y0 + height
        size = window.shape[::-1]
        pixels = np.array(Image.fromarray(pixels).resize(size, Image.Resampling[_OF_PILLOW[window.resampling]], box=box))
        valid = np.asarray(Image.fromarray(valid.astype(np.uint8)).resize(size, Image.Resampling.NEAREST, box=box)) > 0
    return Picture(pixels, valid, reason, frozenset(broken))


def _decode_tile(data: bytes | None, side: int) -> tuple[np.ndarray, np.ndarray | None] | str:
    """Decode a tile: (side, side, 3) uint8 and, where it has transparent pixels, which ones are seen; or a reason why not."""
    if data is None:
        return "tile missing"
    try:
        if images.read_size(data) != (side, side):
            return "tile broken"
        pixels = images.decode(data)
        with Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
            see_through = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            valid = np.asarray(image.convert("RGBA"))[..., 3] > 0 if see_through else None
    except DataError:
        return "tile broken"
    return pixels, valid


def shown_bands(dataset, wanted: tuple[int, ...], label: str) -> tuple[int, ...]:
    """Return the bands of a raster that are shown as red, green and blue, or the one that is shown as grey, from 1 on.

    Args:
        dataset: Raster, open.
        wanted: Bands that somebody asked for. If empty, they are found out from what the file says of its bands.
        label: Name of the raster in messages.

    Raises:
        ConfigError: Not one or three bands, or some that are not there.
    """
    count = dataset.count
    if wanted and (len(wanted) not in (1, 3) or not all(1 <= band <= count for band in wanted)):
        raise ConfigError(f"chips.bands is {wanted}; {label} has bands 1 to {count}, and one or three can be shown")
    if wanted:
        return tuple(wanted)
    colours = ("red", "green", "blue")
    by_kind = [kind.name for kind in dataset.colorinterp]
    by_text = [re.sub(r"[^a-z]|band", "", (text or "").lower()) for text in dataset.descriptions]
    for names in (by_kind, by_text):
        if all(names.count(colour) == 1 for colour in colours):
            return tuple(names.index(colour) + 1 for colour in colours)
    return (1, 2, 3) if count >= 3 and by_kind[0] != "palette" else (1,)


def value_limits(dataset, bands: tuple[int, ...], options: config.Chips, label: str) -> tuple[tuple[float, float], ...]:
    """Find the values that become 0 and 255: one pair per band for the whole raster, so that its chips can be compared.

    Args:
        dataset: Raster, open.
        bands: Bands as from `shown_bands`.
        options: Kind of stretch.
        label: Name of the raster in messages.

    Returns:
        Pairs, one for each band; empty where values are shown as they are.

    Raises:
        DataError: It holds no data.
    """
    kind = "percentile" if options.stretch == "auto" else options.stretch
    if dataset.dtypes[bands[0] - 1] == "uint8" and options.stretch in ("auto", "none"):
        return ()
    if kind == "none":
        return ((0.0, 255.0),) * len(bands)
    values, valid = _sample(dataset, bands)
    cut = options.stretch_percent if kind == "percentile" else 0.0
    limits = []
    for band, mask in zip(values, valid):
        band = band[(mask > 0) & np.isfinite(band)]
        if not band.size:
            raise DataError(f"{label} holds no data that could be stretched to 0-255")
        low, high = np.percentile(band.astype(np.float64), (cut, 100 - cut)).tolist()
        limits.append((low, high if high > low else low + 1.0))
    return tuple(limits)


def _sample(dataset, bands: tuple[int, ...], side: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    from rasterio.windows import Window

    width, height = dataset.width, dataset.height
    if dataset.overviews(bands[0]) or width * height <= MAX_WINDOW_PX:
        scale = min(1.0, side / max(width, height))
        shape = (len(bands), max(1, round(height * scale)), max(1, round(width * scale)))
        return dataset.read(bands, out_shape=shape), dataset.read_masks(bands, out_shape=shape)
    # Without overviews a whole look would read everything, perhaps over a network: look at 64 small windows instead.
    x, y = (np.linspace(0, max(0, side - 128), 8).astype(int).tolist() for side in (width, height))
    windows = [Window(left, top, min(128, width), min(128, height)) for top in y for left in x]
    values = [dataset.read(bands, window=w).reshape(len(bands), -1) for w in windows]
    masks = [dataset.read_masks(bands, window=w).reshape(len(bands), -1) for w in windows]
    return np.concatenate(values, 1), np.concatenate(masks, 1)


def stretch(values: np.ndarray, limits: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Turn values (bands, h, w) into 0 to 255, uint8, by the limits of each band; what is no number becomes 0."""
    low, high = np.array(limits, np.float32).T[..., None, None]
    with np.errstate(invalid="ignore"):
        values = np.clip((values.astype(np.float32) - low) * (255.0 / (high - low)) + 0.5, 0, 255)
    return np.where(np.isfinite(values), values, 0).astype(np.uint8)


def _read_palette(dataset, bands: tuple[int, ...]) -> np.ndarray | None:
    """Return the colours (N, 4) uint8, red, green, blue and opacity, of a band of their numbers, or None if it has none."""
    if len(bands) != 1 or dataset.colorinterp[bands[0] - 1].name != "palette":
        return None
    colours = dataset.colormap(bands[0])
    table = np.zeros((max(colours) + 1, 4), np.uint8)
    table[list(colours)] = list(colours.values())
    return table


@contextmanager
def open_dataset(
    path: str, allow_loopback: bool, source: Source | None = None, bands_at: Sequence[str] = ()
) -> Iterator[tuple]:
    """Yield the open raster, on the grid of its source where one is given, and the file behind a URL (else none).

    Args:
        path: File or http(s) URL; of the formats in `DRIVERS` alone.
        allow_loopback: Also addresses of this machine.
        source: As from `open_imagery`; where its grid is north-up and the raster's is not, the raster is warped as it is read.
        bands_at: Files of the bands that are put together to one raster, as `source.bands_at`. If empty, the raster is one file.

    Raises:
        DataError: It cannot be opened.
    """
    rasterio = need("rasterio", "data")
    from affine import Affine
    from rasterio.enums import MaskFlags, Resampling
    from rasterio.errors import RasterioError
    from rasterio.vrt import WarpedVRT

    with ExitStack() as stack:
        file, where, beside = None, {"fp": path}, {}
        if "://" in path:
            file = remote.WebFile(path, allow_loopback)
            stack.callback(file.disconnect)
            where = {"fp": "imagery", "opener": remote.opener(file)}
            # GDAL would also ask for half a dozen files beside it.
            beside = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
        driver = DRIVERS.get(Path(urlsplit(path).path if file else path).suffix.lower(), "GTiff")
        bands_at = source.bands_at if source else bands_at
        try:
            with rasterio.Env(**_GDAL_OPTIONS, **beside):
                opened = band_files.stacked(bands_at, open_file) if bands_at else rasterio.open(**where, driver=driver)
                dataset = stack.enter_context(opened)
        except RasterioError as error:
            why = f"{shown(path)} cannot be read as a {driver} raster: it is broken, cut short or of another format"
            raise DataError((file and file.problem) or why) from error
        if source and source.warped:
            x0, pixel_width, y0, pixel_height = source.transform
            bare = all(flags == [MaskFlags.all_valid] for flags in dataset.mask_flag_enums)
            straight = dataset.transform.b == 0 and dataset.transform.d == 0
            smooth = not straight and dataset.colorinterp[0].name != "palette"
            grid = {"crs": dataset.crs, "transform": Affine(pixel_width, 0, x0, 0, -pixel_height, y0)}
            grid |= {"width": source.width, "height": source.height}
            resampling = Resampling.bilinear if smooth else Resampling.nearest
            dataset = stack.enter_context(WarpedVRT(dataset, **grid, resampling=resampling, add_alpha=bare))
        yield dataset, file


@contextmanager
def open_file(path: Path | str) -> Iterator:
    """Yield the raster of a file of this machine; errors as `open_dataset`."""
    with open_dataset(str(path), False) as (dataset, _):
        yield dataset


def environment():
    """Return the environment in which GDAL opens and reads: a reference inside a file cannot reach a network."""
    return need("rasterio", "data").Env(**_GDAL_OPTIONS)
