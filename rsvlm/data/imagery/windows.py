"""Windows of pixels, from rasters and from mosaics of tiles: red, green and blue, 0 to 255, and which pixels hold data.

`open_windows` opens a source once and reads any number of its windows: chips (`sources.read`) and parts of scenes (`read_view`) come
through it. Which bands are shown and what their values mean is known by then, see `values.read_meaning`; here are palettes, masks and the
transparency of tiles. Whatever a file refers to is left alone: GDAL opens the formats in `DRIVERS` alone, and reaches no network.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from rsvlm.data.imagery import band_files, bands as of_bands, chip_layout, remote, tile_mosaics, values
from rsvlm.data.imagery.chip_layout import Source
from rsvlm.data.imagery.remote import shown
from rsvlm.errors import DataError, need
from rsvlm.model import images

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
    from rasterio.enums import Resampling
    from rasterio.errors import RasterioError

    # GDAL takes a band of transparency for a mask in some types and numbers of bands alone, so it is read here.
    added = source.warped and not source.alpha and dataset.colorinterp[-1].name == "alpha"
    alpha = dataset.count if added else source.alpha
    masked = values.has_mask(dataset, source.bands)
    palette = _read_palette(dataset, source.bands)

    def read(window: Window) -> Picture:
        # Pixels that reach beyond the raster's last row or column repeat those before: the others stay what they are.
        across, down = window.width / window.shape[1], window.height / window.shape[0]
        wide = min(window.shape[1], max(1, int((dataset.width - window.left) / across + 1e-6)))
        high = min(window.shape[0], max(1, int((dataset.height - window.top) / down + 1e-6)))
        if (high, wide) == window.shape:
            return read_inside(window)
        picture = read_inside(replace(window, width=wide * across, height=high * down, shape=(high, wide)))
        beyond = (0, window.shape[0] - high), (0, window.shape[1] - wide)
        pixels, valid = np.pad(picture.pixels, (*beyond, (0, 0)), mode="edge"), np.pad(picture.valid, beyond, mode="edge")
        return replace(picture, pixels=pixels, valid=valid)

    def read_inside(window: Window) -> Picture:
        width, height = min(window.width, dataset.width - window.left), min(window.height, dataset.height - window.top)
        place = rasterio.windows.Window(window.left, window.top, width, height)
        shape = (len(source.bands), *window.shape)
        resampling = Resampling["nearest" if palette is not None else window.resampling]
        numbers, valid = None, np.ones(window.shape, bool)
        try:
            numbers = dataset.read(source.bands, window=place, out_shape=shape, resampling=resampling)
            if masked:
                valid = dataset.read_masks(source.bands, window=place, out_shape=shape).any(0)
            if alpha:
                valid &= dataset.read(alpha, window=place, out_shape=window.shape) > 0
        except RasterioError:
            numbers = None
        if file and file.problem:
            raise DataError(file.problem)
        if numbers is None:
            return Picture(np.zeros((*window.shape, 3), np.uint8), np.zeros(window.shape, bool), UNREADABLE)
        # Colours of what was read, and which of it counts.
        if palette is not None:
            colours = palette[np.minimum(numbers[0], len(palette) - 1)]
            return Picture(np.ascontiguousarray(colours[..., :3]), valid & (colours[..., 3] > 0))
        if np.issubdtype(numbers.dtype, np.floating):
            valid &= np.isfinite(numbers).all(0)
        if source.limits:
            numbers = values.stretch(numbers, source.limits)
        pixels = numbers.transpose(1, 2, 0)
        return Picture(np.ascontiguousarray(pixels) if len(numbers) == 3 else np.repeat(pixels, 3, axis=2), valid)

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


def _read_palette(dataset, bands: tuple[int, ...]) -> np.ndarray | None:
    """Return the colours (N, 4) uint8, red, green, blue and opacity, of a band of their numbers, or None if it has none."""
    if not values.has_colours(dataset, bands):
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
        if source:
            crs, transform = chip_layout.placed(dataset)
            tagged = of_bands.alpha_band(dataset) and not source.alpha
            if source.nodata is not None or (source.warped and (tagged or dataset.gcps[0])):
                document = _corrected(dataset, source.nodata, crs, transform)
                dataset = stack.enter_context(rasterio.open(document, driver="VRT"))
        if source and source.warped:
            x0, pixel_width, y0, pixel_height = source.transform
            declared = any(MaskFlags.nodata in flags for flags in dataset.mask_flag_enums)
            smooth = not chip_layout.is_straight(transform) and not values.has_colours(dataset, source.bands)
            grid = {"crs": crs, "transform": Affine(pixel_width, 0, x0, 0, -pixel_height, y0)}
            grid |= {"width": source.width, "height": source.height}
            resampling = Resampling.bilinear if smooth else Resampling.nearest
            add_alpha = not declared and not source.alpha
            # Pixels stay as large as they are: of a turned picture that is not square GDAL takes them for larger ones, and blurs.
            scale = {"XSCALE": 1, "YSCALE": 1}
            dataset = stack.enter_context(WarpedVRT(dataset, **grid, resampling=resampling, add_alpha=add_alpha, **scale))
        yield dataset, file


def _corrected(dataset, nodata: float | None, crs, transform) -> str:
    """Describe a raster anew, as a virtual one: with this value for no data, this place, and no band of transparency."""
    import rasterio.shutil
    from rasterio.io import MemoryFile

    with MemoryFile(ext=".vrt") as file:
        rasterio.shutil.copy(dataset, file.name, driver="VRT")
        document = ElementTree.fromstring(file.read())
    for name in ("GCPList", "SRS", "GeoTransform"):
        for element in document.findall(name):
            document.remove(element)
    if crs:
        ElementTree.SubElement(document, "SRS").text = crs.to_wkt()
    ElementTree.SubElement(document, "GeoTransform").text = ", ".join(map(repr, transform.to_gdal()))
    for band in document.findall("VRTRasterBand"):
        for element in [*band.findall("ColorInterp"), *band.findall("NoDataValue")]:
            if element.text == "Alpha" or (element.tag == "NoDataValue" and nodata is not None):
                band.remove(element)
        if nodata is not None:
            ElementTree.SubElement(band, "NoDataValue").text = repr(nodata)
    return ElementTree.tostring(document).decode()


@contextmanager
def open_file(path: Path | str) -> Iterator:
    """Yield the raster of a file of this machine; errors as `open_dataset`."""
    with open_dataset(str(path), False) as (dataset, _):
        yield dataset


def environment():
    """Return the environment in which GDAL opens and reads: a reference inside a file cannot reach a network."""
    return need("rasterio", "data").Env(**_GDAL_OPTIONS)
