"""Pictures of many forms, whose pixels are known before they are written, beside what `images.decode` reads of them."""

from __future__ import annotations

import io
import logging
import re

import numpy as np
import pytest
import rasterio
from fuzzing import fuzz
from hypothesis import strategies as st
from PIL import Image

from rsvlm.data import duplicates
from rsvlm.errors import DataError
from rsvlm.model import images

SEEDS = st.integers(0, 2**32 - 1)

TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a),
}
"""What a picture looks like, upright, whose EXIF orientation is this: by the table of the standard."""


def grey(values):
    return np.repeat(values.astype(np.float64)[..., None], 3, 2)


def over_white(colours, alpha):
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def stored(rng):
    """A picture for Pillow to write, options to write it with, its format, what it shows, and how far a reading may be off."""
    H, W = (int(n) for n in rng.integers(1, 24, 2))
    byte = lambda *shape: rng.integers(0, 256, (H, W, *shape), dtype=np.uint8)  # noqa: E731
    kind = rng.choice(
        ["L", "RGB", "RGBA", "LA", "P", "P transparent", "1", "I;16", "CMYK", "L transparent", "RGB transparent"]
    )
    of_kind = {
        "CMYK": ["TIFF"],
        "I;16": ["PNG", "TIFF"],
        "L": ["PNG", "TIFF", "BMP", "GIF"],
        "RGB": ["PNG", "TIFF", "BMP", "WEBP"],
    }
    of_kind |= {"RGBA": ["PNG", "WEBP"], "1": ["PNG", "TIFF", "BMP"], "P": ["PNG", "TIFF", "GIF", "BMP"]}
    form = rng.choice(of_kind.get(kind, ["PNG"]))
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    if form == "TIFF" and kind != "1":
        options["compression"] = rng.choice([None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
    if kind == "L":
        values = byte()
        return Image.fromarray(values), options, form, grey(values), 0
    if kind == "RGB":
        values = byte(3)
        return Image.fromarray(values), options, form, values.astype(float), 0
    if kind == "RGBA":
        values = byte(4)
        values[..., 3] = rng.choice([0, 255, 128], (H, W)) if rng.random() < 0.5 else values[..., 3]
        return Image.fromarray(values), options, form, over_white(values[..., :3].astype(float), values[..., 3]), 1
    if kind == "LA":
        values = byte(2)
        image = Image.merge("LA", [Image.fromarray(np.ascontiguousarray(values[..., n])) for n in (0, 1)])
        return image, options, form, over_white(grey(values[..., 0]), values[..., 1]), 1
    if kind == "1":
        values = byte() > 127
        return Image.fromarray(values), options, form, grey(values * 255), 0
    if kind == "I;16":
        values = rng.integers(0, 65536, (H, W), dtype=np.uint16)
        return Image.fromarray(values), options, form, grey(values / 257), 0.51
    if kind == "CMYK":
        values = byte(4)
        inks = values.astype(float) / 255
        shown = 255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])
        return Image.fromarray(values, "CMYK"), options, form, shown, 2
    if kind in ("L transparent", "RGB transparent"):
        values = byte(3) if kind.startswith("RGB") else byte()
        clear = values[0, 0]
        shown = values.astype(float) if values.ndim == 3 else grey(values)
        hidden = (values == clear).all(2) if values.ndim == 3 else values == clear
        options["transparency"] = tuple(clear.tolist()) if values.ndim == 3 else int(clear)
        return Image.fromarray(values), options, form, np.where(hidden[..., None], 255, shown), 0
    count = int(rng.integers(1, 257))
    palette, values = rng.integers(0, 256, (count, 3), dtype=np.uint8), rng.integers(0, count, (H, W), dtype=np.uint8)
    image = Image.fromarray(values)
    image.putpalette(palette.tobytes())
    shown = palette[values].astype(float)
    if kind == "P transparent":
        alphas = rng.choice(np.array([0, 255, 100], np.uint8), count)
        options["transparency"] = alphas.tobytes()
        shown = over_white(shown, alphas[values])
    return image, options, form, shown, 1 if kind == "P transparent" else 0


@fuzz(seed=SEEDS, orientation=st.integers(0, 9))
def test_a_picture_is_what_was_drawn_whatever_its_form(seed, orientation):
    rng = np.random.default_rng(seed)
    image, options, form, shown, off = stored(rng)
    if orientation and form in ("PNG", "WEBP") or (form == "TIFF" and 0 < orientation < 9):
        exif = Image.Exif()
        exif[274] = orientation
        options["exif"] = exif.tobytes()
        shown = TURNS.get(orientation, TURNS[1])(shown)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    ours = images.decode(buffer.getvalue())
    assert ours.shape == shown.shape, (image.mode, form, ours.shape, shown.shape)
    assert np.abs(ours - shown).max() <= off, (image.mode, form, options.keys(), orientation)


@fuzz(seed=SEEDS)
def test_a_tiff_is_what_was_drawn_whatever_wrote_it(seed):
    """As GDAL writes them: photometrics, bit depths, strips and tiles, bands side by side; or it is refused, never misread."""
    rng = np.random.default_rng(seed)
    H, W = (int(n) for n in rng.integers(16, 40, 2))
    kind = rng.choice(["grey", "white is 0", "rgb", "rgba", "grey alpha", "palette", "cmyk", "jpeg", "bits"])
    kind = str(kind)
    options = {"driver": "GTiff", "height": H, "width": W, "count": 1, "dtype": "uint8"}
    options["interleave"] = str(rng.choice(["pixel", "band"]))
    if rng.random() < 0.4:
        options |= {"tiled": True, "blockxsize": 16, "blockysize": 16}
    if rng.random() < 0.6 and kind != "jpeg":
        options["compress"] = str(rng.choice(["lzw", "deflate", "packbits"]))
        if options["compress"] != "packbits" and rng.random() < 0.5 and kind != "bits":
            options["predictor"] = 2
    if rng.random() < 0.3:
        options["bigtiff"] = "yes"
    if rng.random() < 0.3:
        options["endianness"] = "big"
    off, colours, alpha = 0, None, None
    if kind in ("grey", "white is 0"):
        wide = rng.random() < 0.5
        values = rng.integers(0, 65536 if wide else 256, (1, H, W)).astype(np.uint16 if wide else np.uint8)
        options |= {"dtype": values.dtype.name} | ({"photometric": "miniswhite"} if kind == "white is 0" else {})
        shown, off = grey(values[0] / 257 if wide else values[0]), 0.51 if wide else 0
        shown = 255 - shown if kind == "white is 0" else shown
    elif kind == "bits":
        depth = int(rng.choice([1, 2, 4]))
        values = rng.integers(0, 2**depth, (1, H, W), dtype=np.uint8)
        options["nbits"] = depth
        shown = grey(values[0] * (255 // (2**depth - 1)))
    elif kind == "palette":
        values = rng.integers(0, 256, (1, H, W), dtype=np.uint8)
        table = rng.integers(0, 256, (256, 3))
        colours, shown = {n: (*map(int, colour), 255) for n, colour in enumerate(table)}, table[values[0]].astype(float)
        options["photometric"] = "palette"
    elif kind == "jpeg":
        side = np.linspace(0, 255, W)[None] * np.ones((H, 1))
        values = np.stack([side, side[:, ::-1], np.full((H, W), rng.integers(0, 256))]).astype(np.uint8)
        options |= {
            "compress": "jpeg",
            "photometric": "ycbcr",
            "interleave": "pixel",
            "jpeg_quality": 95,
            "endianness": "little",
        }
        options["interleave"] = "pixel"
        shown, off = values.transpose(1, 2, 0).astype(float), 16
    elif kind == "cmyk":
        values = rng.integers(0, 256, (4, H, W), dtype=np.uint8)
        options["photometric"] = "cmyk"
        inks = values.transpose(1, 2, 0) / 255
        shown, off = 255 * (1 - inks[..., :3]) * (1 - inks[..., 3:]), 2
    else:
        count = {"rgb": 3, "rgba": 4, "grey alpha": 2}[kind]
        values = rng.integers(0, 256, (count, H, W), dtype=np.uint8)
        options |= {"photometric": "minisblack" if kind == "grey alpha" else "rgb"} | (
            {"alpha": "yes"} if count % 2 == 0 else {}
        )
        if count % 2 == 0:
            alpha = rng.choice([0, 255], (H, W), p=[0.3, 0.7])
            values[-1] = alpha
        picture = grey(values[0]) if count == 2 else values[:3].transpose(1, 2, 0).astype(float)
        if count == 2 and options["interleave"] == "band":
            alpha = None  # it cannot be read there, which is told
        shown, off = picture if alpha is None else over_white(picture, alpha), 1
    options["count"] = len(values)
    with rasterio.MemoryFile() as file:
        with file.open(**options) as dataset:
            dataset.write(values)
            if colours:
                dataset.write_colormap(1, colours)
        data = file.read()
    logging.disable()
    try:
        ours = images.decode(data)
    except DataError:
        return  # what cannot be read is refused
    finally:
        logging.disable(logging.NOTSET)
    assert ours.shape == shown.shape and np.abs(ours - shown).max() <= off, (kind, options)


@fuzz(seed=SEEDS, form=st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000"]))
def test_a_picture_that_is_cut_short_is_whole_or_refused(seed, form):
    """Never is the part that came shown with the rest of it grey."""
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 256, (*rng.integers(8, 40, 2), 3), dtype=np.uint8)
    buffer, options = io.BytesIO(), {}
    if form == "JPEG2000":
        options = {"no_jp2": bool(rng.random() < 0.5)} | ({"tile_size": (16, 16)} if rng.random() < 0.5 else {})
    Image.fromarray(array).save(buffer, form, **options)
    data = buffer.getvalue()
    whole = images.decode(data)
    ends = rng.integers(0, len(data), 12).tolist()
    if form == "JPEG2000":  # where the decoder says nothing: behind the mark that begins a tile
        ends += [match.end() for match in re.finditer(rb"\xff[\x90\x93]", data)][:30]
    for end in ends:
        try:
            part = images.decode(data[:end])
        except DataError:
            continue
        np.testing.assert_array_equal(part, whole, err_msg=f"{form} of {len(data)} bytes, cut at {end}")


# Near-duplicates


def ground(rng, low, high, size=120):
    """A picture of fields with grain, unlike any other."""
    fields = int(rng.integers(8, 16))
    coarse = Image.fromarray(rng.integers(low, high, (fields, fields, 3), dtype=np.uint8))
    array = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.int16)
    return np.clip(array + rng.integers(-6, 7, array.shape), 0, 255).astype(np.uint8)


def framed(array, kind):
    """The picture in the frame of a map sheet, in a black margin, or turned within black; or bare."""
    if kind == "bare":
        return array
    side = 220 if kind == "sheet" else 200
    page = np.full((side, side, 3), 255 if kind == "sheet" else 0, np.uint8)
    if kind == "sheet":
        page[8:14, 20:160:3] = 0
        page[30:190, [12, 205]] = 0
        for n in range(6):
            page[40 + 16 * n : 50 + 16 * n, 170:182] = (40 * n, 200 - 20 * n, 90)
    inner = Image.fromarray(array)
    if kind == "turned":
        inner = inner.rotate(12, expand=True, resample=Image.Resampling.BICUBIC)
    top = (side - inner.height) // 2
    page[top : top + inner.height, top : top + inner.width] = np.asarray(inner)
    return page


def copy_of(array, rng):
    """The same picture as another site would keep it."""
    how = rng.choice(["compressed", "smaller", "brighter", "png"])
    image = Image.fromarray(array)
    if how == "smaller":
        image = image.resize((int(image.width * 0.7), int(image.height * 0.7)), Image.Resampling.LANCZOS)
    elif how == "brighter":
        image = image.point(lambda value: min(255, value * 1.08))
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if how == "png" else "JPEG", **({} if how == "png" else {"quality": int(rng.integers(60, 95))}))
    return buffer.getvalue()


@fuzz(seed=SEEDS, kind=st.sampled_from(["bare", "sheet", "margin", "turned"]))
def test_copies_are_duplicates_and_other_places_in_the_same_frame_are_not(seed, kind):
    """Whatever the order in which pictures come, and each of two says of the other what that says of it."""
    rng = np.random.default_rng(seed)
    values = (80, 160) if kind == "sheet" else (10, 245)  # which the frame outweighs
    places = [framed(ground(rng, *values), kind) for _ in range(12)]
    rows = [(f"a{n}", images.encode_png(array), array, "") for n, array in enumerate(places)]
    for n in range(4):
        data = copy_of(places[n], rng)
        rows.append((f"b{n}", data, images.decode(data), ""))
    found = duplicates.duplicates(duplicates.hash_table(rows))
    pairs = {frozenset((key, kept)) for key, kept in zip(found["key"], found["kept"], strict=True)}
    wrong = [sorted(pair) for pair in pairs if len({key[1:] for key in pair}) > 1]
    missed = [n for n in range(4) if frozenset((f"a{n}", f"b{n}")) not in pairs]
    assert not wrong and not missed, (kind, wrong, missed)
    rng.shuffle(rows)
    again = duplicates.duplicates(duplicates.hash_table(rows))
    columns = ["key", "kept", "reason", "distance"]
    assert sorted(again[columns].to_numpy().tolist()) == sorted(found[columns].to_numpy().tolist())
    mine, theirs = rows[:5], rows[5:]
    tables = duplicates.hash_table(mine), duplicates.hash_table(theirs)
    there = {(a, b) for a, b in duplicates.overlap(*tables, "b")[["key", "benchmark_key"]].to_numpy().tolist()}
    back = {(b, a) for a, b in duplicates.overlap(*tables[::-1], "b")[["key", "benchmark_key"]].to_numpy().tolist()}
    same = {(a, b) for a, *_ in mine for b, *_ in theirs if a[1:] == b[1:] and int(a[1:]) < 4}
    assert same <= there and same <= back, (kind, same - there, same - back)


pytest.importorskip("rasterio")
