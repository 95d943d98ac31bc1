"""Pictures as arrays: safe decoding, encoding, resizing and normalising.

Everything that enters the package as image bytes passes through `decode`, which accepts a short list of formats, looks at the
size before any pixel is unpacked, and turns whatever it finds into upright 8-bit RGB.
"""

from __future__ import annotations

import contextlib
import io
import logging
import struct
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageOps

from rsvlm.errors import DataError

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000")
"""Formats that `decode` accepts. The list is short on purpose: some of Pillow's other readers start external programs."""

MAX_PIXELS = 64_000_000
"""Default limit of `decode`, in pixels: 192 MB of RGB."""

OPAQUE_SHARE = 0.75  # of the pixels that are seen at all, those that transparency shows whole; our choice
PHOTOMETRIC = 262  # the tag of TIFF that says whether 0 is black or, in a negative, white
SAMPLES, PLANES = 277, 284  # the number of bands, and whether pixel by pixel (1) or band by band (2)


_told: set[str] = set()  # warnings that were given


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, where: str = "") -> np.ndarray:
    """Decode image bytes of any accepted format into upright RGB.

    Grey, palette, CMYK and 16-bit images are converted; transparent pixels are laid over white; the EXIF turn is applied; of
    an animation the first frame is taken. 16-bit values are scaled by their full range, not stretched. The fourth band of a TIFF
    or JPEG 2000 file is transparency only if its values say so too (`is_transparency`): often it is infrared, and left out.

    Args:
        data: Bytes of an encoded image in one of `FORMATS`.
        max_pixels: Largest width times height that is unpacked.
        where: Name of the image in warnings, each of which is given once, with the first image that it is true of.

    Returns:
        Array `(H, W, 3)`, uint8, 0 to 255.

    Raises:
        DataError: The bytes are empty, of another format, broken, cut short, too large, or hold floating-point pixels.
    """
    if not data:
        raise DataError("image has no bytes")
    with _opened(data, "image cannot be decoded") as image:
        width, height = image.size
        if width * height > max_pixels:
            raise DataError(f"image of {width} x {height} pixels is larger than the limit of {max_pixels} pixels")
        if image.format == "JPEG2000" and not _is_whole(data):
            raise DataError("image cannot be decoded (it is cut short)")
        image.load()
        # Where a picture has room for transparency alone, a fourth band is nothing else.
        doubtful = image.format in ("TIFF", "JPEG2000")
        negative = image.format == "TIFF" and image.mode.startswith("I") and image.tag_v2.get(PHOTOMETRIC) == 0
        lost = image.format == "TIFF" and image.mode == "LA" and image.tag_v2.get(PLANES) == 2
        image = ImageOps.exif_transpose(image)
        if lost:
            _tell(
                "the transparency of a grey TIFF whose bands lie one behind the other cannot be read: all of it is shown",
                where,
            )
            image = image.convert("L")
        return np.asarray(_to_rgb(image, doubtful, negative, where))


def is_transparency(alpha: np.ndarray, colours: np.ndarray) -> bool:
    """Say whether the values of a band that calls itself transparency look like it, and not like infrared.

    Transparency shows most of what it shows at all whole; infrared has many values. Where all of it is 0, the colours decide: what nobody
    is to see has none.

    Args:
        alpha: Its values.
        colours: Values of the other bands, of any shape.
    """
    seen = alpha[alpha > 0]
    if not seen.size:
        return not alpha.size or not colours.size or colours.min() == colours.max()
    whole = [1, 255, 32767, 65535] + ([np.iinfo(alpha.dtype).max] if np.issubdtype(alpha.dtype, np.integer) else [])
    return bool(np.isin(seen.max(), whole) and (seen == seen.max()).mean() >= OPAQUE_SHARE)


def read_size(data: bytes) -> tuple[int, int]:
    """Read width and height, in pixels, from an image's header, without unpacking pixels.

    Raises:
        DataError: The header is of no accepted format, or broken.
    """
    with _opened(data, "image header cannot be read") as image:
        return image.size


@contextlib.contextmanager
def _opened(data: bytes, problem: str) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow's own limit of size, and of odd metadata
        try:
            with Image.open(io.BytesIO(one_plane(data)), formats=FORMATS) as image:
                yield image
        except DataError:
            raise
        except Exception as error:  # parsers of hostile bytes raise OSError, SyntaxError, struct.error, KeyError, …
            raise DataError(f"{problem} ({type(error).__name__}: {error})") from error


def one_plane(data: bytes) -> bytes:
    """Call the band of a TIFF that has one alone pixel by pixel; many say band by band, which is the same, and Pillow misreads it."""
    order = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}.get(data[:4])
    if order is None:
        return data
    # where the table of tags is, its count, and a tag: number, type, count and value
    at, count, tag = ("Q", "Q", "HHQ4x4x") if b"+" in data[:4] else ("I", "H", "HHI4x")
    with contextlib.suppress(struct.error):
        (start,) = struct.unpack_from(order + at, data, 8 if at == "Q" else 4)
        (number,) = struct.unpack_from(order + count, data, start)
        start, size = start + struct.calcsize(order + count), struct.calcsize(order + tag)
        places = {}
        for place in range(start, min(start + number * size, len(data) - size + 1), size):
            places[struct.unpack_from(order + "H", data, place)[0]] = place + struct.calcsize(order + tag.partition("4x")[0])
        values = {name: struct.unpack_from(order + "H", data, place)[0] for name, place in places.items()}
        if values.get(SAMPLES, 1) == 1 and values.get(PLANES) == 2:
            return data[: places[PLANES]] + struct.pack(order + "H", 1) + data[places[PLANES] + 2 :]
    return data


def encode_png(array: np.ndarray, *, compress_level: int = 6) -> bytes:
    """Encode (H, W, 3) or (H, W) uint8 pixels as PNG bytes without metadata, so that equal pixels give equal bytes.

    Args:
        array: Pixels.
        compress_level: zlib level, 0 (fast) to 9 (small).

    Raises:
        DataError: The array has another shape or type.
    """
    _check_pixels(array)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()


def thumbnail_webp(array: np.ndarray, size_px: int, *, quality: int = 70) -> bytes:
    """Encode a small copy of (H, W, 3) or (H, W) uint8 pixels as WebP bytes.

    Args:
        array: Pixels.
        size_px: Longest side of the thumbnail, in pixels; smaller images are not enlarged.
        quality: WebP quality, 1 to 100.

    Raises:
        DataError: The array has another shape or type, or `size_px` is below 1.
    """
    _check_pixels(array)
    if size_px < 1:
        raise DataError(f"thumbnail size must be at least 1 pixel, not {size_px}")
    image = Image.fromarray(array).convert("RGB")
    image.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=quality, method=4)
    return buffer.getvalue()


def resize(array: np.ndarray, height_px: int, width_px: int, box: Sequence[float] | None = None) -> np.ndarray:
    """Resample an image, or a part of it, to a given size with a bicubic filter that averages when it shrinks.

    Args:
        array: `(H, W, 3)` or `(H, W)`, uint8, 0 to 255.
        height_px: Rows of the result.
        width_px: Columns of the result.
        box: Part (x0, y0, x1, y1), in shares of the sides, 0 to 1. If None, the whole.

    Returns:
        Array `(height_px, width_px, ...)`, uint8. The input itself when the size is already right.

    Raises:
        DataError: The array has another shape or type, or a side is below 1.
    """
    _check_pixels(array)
    if height_px < 1 or width_px < 1:
        raise DataError(f"image cannot be resized to {height_px} x {width_px}: sides must be at least 1 pixel")
    if box is None and array.shape[:2] == (height_px, width_px):
        return array
    rows, columns = array.shape[:2]
    part = None if box is None else (box[0] * columns, box[1] * rows, box[2] * columns, box[3] * rows)
    return np.asarray(Image.fromarray(array).resize((width_px, height_px), Image.Resampling.BICUBIC, part))


def normalise(batch: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Turn a batch of pixels into the input of a vision tower: scaled to 0-1, shifted, scaled, channels first.

    Args:
        batch: `(B, H, W, 3)`, uint8, 0 to 255.
        mean: Three channel means, of pixels scaled to 0-1.
        std: Three channel standard deviations, of pixels scaled to 0-1.

    Returns:
        Array `(B, 3, H, W)`, float32, C-contiguous.

    Raises:
        DataError: The batch has another shape or type, or `mean` and `std` do not have three values each.
    """
    batch = np.asarray(batch)
    if batch.ndim != 4 or batch.shape[3] != 3 or batch.dtype != np.uint8:
        raise DataError(f"expected a uint8 batch of shape (B, H, W, 3), got {batch.dtype} {batch.shape}")
    mean_rgb, std_rgb = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    if mean_rgb.shape != (3,) or std_rgb.shape != (3,) or not (std_rgb > 0).all():
        raise DataError(f"mean and std need three values each, std above zero; got {list(mean)} and {list(std)}")
    normal = np.ascontiguousarray(batch.transpose(0, 3, 1, 2), dtype=np.float32)
    normal *= (1.0 / (255.0 * std_rgb)).reshape(3, 1, 1)
    normal -= (mean_rgb / std_rgb).reshape(3, 1, 1)
    return normal


def _to_rgb(image: Image.Image, doubtful: bool, negative: bool, where: str) -> Image.Image:
    if image.mode == "F":
        raise DataError("image has floating-point pixels; scale them to 8 bits before use")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise DataError("image has integer pixels beyond 16 bits; scale them to 8 bits before use")
        values = 65535 - values if negative else values
        # 65535 / 257 = 255 exactly: the full 16-bit range lands on the full 8-bit range.
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if doubtful and image.mode in ("RGBA", "LA"):
        *colours, alpha = (np.asarray(band) for band in image.split())
        if not is_transparency(alpha, np.stack(colours)):
            _tell(
                "the last band of a TIFF calls itself transparency and has other values, as infrared has: such bands are left out",
                where,
            )
            image = image.convert(image.mode[:-1])
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _is_whole(data: bytes) -> bool:
    """Whether a JPEG 2000 file has all of its codestream; the decoder shows what is missing as black, and says nothing."""
    place = 0
    if data[:4] != b"\xff\x4f\xff\x51":  # boxes around the codestream, each with its length and type
        while data[place + 4 : place + 8] != b"jp2c":
            size = int.from_bytes(data[place : place + 4], "big")
            size = int.from_bytes(data[place + 8 : place + 16], "big") if size == 1 else size
            if size < 8 or place + size >= len(data):
                return False
            place += size
        size = int.from_bytes(data[place : place + 4], "big")
        size = int.from_bytes(data[place + 8 : place + 16], "big") if size == 1 else size
        if size:
            return place + size <= len(data)
    return data.rstrip(b"\0").endswith(b"\xff\xd9")  # its mark of the end


def _tell(message: str, where: str) -> None:
    """Log a warning that may concern thousands of pictures once, with the name of the first."""
    if message not in _told:
        _told.add(message)
        log.warning("%s%s", f"{where}, and perhaps others: " if where else "", message)


def _check_pixels(array: np.ndarray) -> None:
    right_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if not right_shape or array.dtype != np.uint8 or 0 in array.shape:
        raise DataError(f"expected uint8 pixels of shape (H, W, 3) or (H, W), got {array.dtype} {array.shape}")
