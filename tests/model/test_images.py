"""Decoding is safe and exact, normalising is the formula it says."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from rsvlm.errors import DataError
from rsvlm.model import images


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (11, 17, 3), dtype=np.uint8)


def test_png_round_trip_is_exact_and_repeatable(pixels):
    data = images.encode_png(pixels)
    assert np.array_equal(images.decode(data), pixels)
    assert images.encode_png(pixels) == data
    assert images.read_size(data) == (17, 11)


def test_grey_becomes_three_equal_channels(pixels):
    result = images.decode(encode(Image.fromarray(pixels[..., 0]), "PNG"))
    assert result.shape == (11, 17, 3)
    assert np.array_equal(result, np.repeat(pixels[..., :1], 3, axis=2))


def test_transparent_pixels_become_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    result = images.decode(encode(Image.fromarray(rgba), "PNG"))
    assert result[0, 0].tolist() == [10, 20, 30]
    assert (result[1] == 255).all()


def test_palette_with_transparent_entry():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.putpixel((1, 0), 1)
    result = images.decode(encode(image, "PNG", transparency=1))
    assert result[0].tolist() == [[200, 0, 0], [255, 255, 255]]


def test_cmyk_jpeg():
    result = images.decode(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = result.reshape(-1, 3).mean(axis=0)
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (65535, 255), (257 * 100, 100)])
def test_sixteen_bits_keep_their_scale(value, expected):
    data = encode(Image.fromarray(np.full((3, 3), value, np.uint16)), "PNG")
    assert (images.decode(data) == expected).all()


def test_exif_turn_is_applied():
    array = np.zeros((16, 32, 3), np.uint8)
    array[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    result = images.decode(encode(Image.fromarray(array), "JPEG", exif=exif, quality=95))
    assert result.shape == (32, 16, 3)
    assert result[:12].mean() > 240 and result[20:].mean() < 15


def test_floating_point_pixels_are_refused():
    data = encode(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF")
    with pytest.raises(DataError, match="floating-point"):
        images.decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_truncated_bytes_are_refused(kind):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(DataError):
            images.decode(data[: int(len(data) * share)])


def test_bomb_is_refused_before_it_is_unpacked():
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match="limit|bomb|Bomb"):
        images.decode(data)


def test_own_limit(pixels):
    with pytest.raises(DataError, match="17 x 11"):
        images.decode(images.encode_png(pixels), max_pixels=100)


def test_formats_outside_the_list_are_refused(pixels):
    with pytest.raises(DataError):
        images.decode(encode(Image.fromarray(pixels), "PPM"))
    with pytest.raises(DataError, match="no bytes"):
        images.decode(b"")


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF", b"II*\0"])
)
def test_any_bytes_give_pixels_or_data_error(body, prefix):
    try:
        assert images.decode(prefix + body, max_pixels=10_000).dtype == np.uint8
    except DataError:
        pass


def test_normalise_is_the_formula(pixels):
    batch = np.stack([pixels, pixels[::-1]])
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    result = images.normalise(batch, mean, std)
    expected = ((batch / 255.0 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    assert result.dtype == np.float32 and result.flags.c_contiguous
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 3, 3), np.uint8), np.zeros((1, 2, 2, 4), np.uint8), np.zeros((1, 2, 2, 3), float)]
)
def test_normalise_refuses_other_batches(bad):
    with pytest.raises(DataError):
        images.normalise(bad, (0, 0, 0), (1, 1, 1))


def test_normalise_refuses_zero_std():
    with pytest.raises(DataError, match="std"):
        images.normalise(np.zeros((1, 2, 2, 3), np.uint8), (0, 0, 0), (1, 0, 1))


def test_resize_keeps_means_and_thumbnail_keeps_proportions():
    smooth = np.tile(np.linspace(0, 255, 60).astype(np.uint8)[None, :, None], (40, 1, 3))
    result = images.resize(smooth, 20, 30)
    assert result.shape == (20, 30, 3)
    assert abs(result.mean() - smooth.mean()) < 1
    thumbnail = Image.open(io.BytesIO(images.thumbnail_webp(smooth, 30)))
    assert thumbnail.format == "WEBP" and thumbnail.size == (30, 20)
    with pytest.raises(DataError):
        images.resize(smooth, 0, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_infrared_that_a_tiff_calls_transparency_hides_nothing(mode, caplog):
    images._told.clear()
    rng = np.random.default_rng(0)
    pixels = rng.integers(20, 90, (16, 16, len(mode)), dtype=np.uint8)
    pixels[:8, :, -1] = 0  # water
    colours = np.broadcast_to(pixels[..., :-1], (16, 16, 3))
    image = Image.fromarray(pixels, mode)
    for name in ("first.tif", "second.tif"):
        assert np.array_equal(images.decode(encode(image, "TIFF"), where=name), colours)
    assert len(caplog.records) == 1 and "infrared" in caplog.text and "first.tif, and perhaps others: " in caplog.text
    assert not np.array_equal(images.decode(encode(image, "PNG")), colours)  # where a fourth band is nothing else
    pixels[..., -1] = np.where(np.arange(16) < 8, 0, 255)[:, None]
    result = images.decode(encode(Image.fromarray(pixels, mode), "TIFF"))
    assert (result[:8] == 255).all() and np.array_equal(result[8:], colours[8:])


def test_transparency_is_known_by_its_values():
    colours = np.arange(16)
    some = np.array([0, 255], np.uint8).repeat(8)
    assert images.is_transparency(some, colours) and images.is_transparency(np.append(some, 128), colours)
    assert images.is_transparency(some.astype(np.uint16), colours) and images.is_transparency(some.astype(np.float32), colours)
    assert not images.is_transparency(np.array([0, 120], np.uint8).repeat(8), colours)
    assert not images.is_transparency(np.arange(256, dtype=np.uint8), colours)
    nothing = np.zeros(16, np.uint8)
    assert images.is_transparency(nothing, nothing) and not images.is_transparency(nothing, colours)


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_negative_tiff_becomes_a_positive(bits, planes):
    values = np.full((4, 4), 60 * (257 if bits == 16 else 1), f"uint{bits}")
    data = bytearray(encode(Image.fromarray(values), "TIFF"))
    entry = data.index((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))  # the tag, as a short
    data[entry + 8] = 0
    entry = data.index((284).to_bytes(2, "little") + (3).to_bytes(2, "little"))  # how bands are stored, of which there is one
    data[entry + 8] = planes
    assert (images.decode(bytes(data)) == 195).all()


@pytest.mark.parametrize("boxes", [True, False])
def test_a_jpeg_2000_file_that_is_cut_short_is_refused(pixels, boxes):
    data = encode(Image.fromarray(pixels), "JPEG2000", no_jp2=not boxes)
    np.testing.assert_array_equal(images.decode(data), pixels)
    np.testing.assert_array_equal(images.decode(data + b"\0\0"), pixels)
    for end in range(1, len(data)):
        with pytest.raises(DataError, match="cannot be decoded"):
            images.decode(data[:end])


@pytest.mark.parametrize("kind", ["nbits", "uint16", "bigtiff", "big"])
def test_a_single_band_may_be_called_band_by_band(kind):
    """As GDAL writes it, and programs that copy what they read of another file."""
    rasterio = pytest.importorskip("rasterio", reason="the extra [data] is not installed")
    options = {"nbits": {"nbits": 4}, "bigtiff": {"bigtiff": "yes"}, "big": {"endianness": "big"}}.get(kind, {})
    dtype = "uint16" if kind == "uint16" else "uint8"
    values = np.full((1, 9, 11), {"nbits": 4, "uint16": 68 * 257}.get(kind, 68), dtype)
    with rasterio.MemoryFile() as file:
        sizes = {"height": 9, "width": 11, "count": 1, "dtype": dtype}
        with file.open(driver="GTiff", interleave="band", **sizes, **options) as dataset:
            dataset.write(values)
        data = file.read()
    np.testing.assert_array_equal(images.decode(data), 68)
