"""Rasters as writers in the field write them: each of their storages shows the same ground, and chips show what lies there."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import strategies as st

from rsvlm import config
from rsvlm.data.imagery import ground, sources as imagery
from rsvlm.errors import DataError

pytest.importorskip("pyproj")
rasterio = pytest.importorskip("rasterio")
from affine import Affine  # noqa: E402
from rasterio import warp  # noqa: E402
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.enums import ColorInterp, Resampling  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

PLACES = {
    "EPSG:32629": (460_000, 4_300_000, 10), "EPSG:32733": (300_005, 9_100_000, 0.5), "EPSG:3035": (4_321_000, 3_210_000, 20),
    "EPSG:2180": (500_000, 500_000, 1), "EPSG:31467": (3_500_000, 5_400_000, 2), "EPSG:3857": (-1_000_000, 6_000_000, 19.5),
    "EPSG:27700": (400_000, 300_000, 0.25), "EPSG:4326": (10, 0.002, 1e-4), "EPSG:3031": (100_000, -250_000, 30),
}  # fmt: skip
"""Coordinate systems, and a corner and a size of pixels where these are square on the ground."""

RANGES = {"uint8": (0, 255), "uint16": (200, 9000), "int16": (-300, 4000), "float32": (-0.25, 1.5), "int32": (-70_000, 90_000),
          "float64": (1e3, 1.7e3), "uint32": (0, 4_000_000), "int8": (-100, 120)}  # fmt: skip
OTHERS = ("nir", "swir16", "red edge", "SCL")


@dataclass(frozen=True)
class Raster:
    """A raster to be written: what it shows, and how it is stored."""

    height: int
    width: int
    bands: str
    kind: str
    gone: str
    box: tuple[float, float, float, float]
    crs: str
    turned: tuple[bool, bool, bool]
    points: bool
    order: int
    profile: tuple[tuple[str, object], ...]
    overviews: bool
    seed: int


@st.composite
def rasters(draw) -> Raster:
    bands = draw(st.sampled_from(["rgb", "rgba", "rgbi", "grey", "greya", "named", "palette", "white", "bit", "numbers"]))
    kinds = list(RANGES) if bands in ("rgb", "rgba", "grey", "greya", "named") else ["uint8"]
    kind = draw(st.sampled_from(kinds if bands != "rgbi" else ["uint8", "uint16"]))
    gone = ["", "internal", "msk", "option", "nodata", *(["nan"] if kind.startswith("float") else [])]
    gone = "alpha" if bands in ("rgba", "greya") else "" if bands == "bit" else draw(st.sampled_from(gone))
    height, width = draw(st.integers(12, 90)), draw(st.integers(12, 90))
    profile: dict = {"interleave": draw(st.sampled_from(["pixel", "band"])), "bigtiff": draw(st.sampled_from(["YES", "NO"]))}
    profile |= {"endianness": draw(st.sampled_from(["LITTLE", "BIG"]))}
    profile |= draw(
        st.sampled_from([{}, {"compress": "deflate"}, {"compress": "lzw", "predictor": 2}, {"compress": "packbits"}])
    )
    if bands == "bit" or kind in ("int8", "float64", "float32"):
        profile.pop("predictor", None)
    profile |= draw(st.sampled_from([{}, {"tiled": True, "blockxsize": 16, "blockysize": 32}, {"blockysize": 1}]))
    return Raster(
        height, width, bands, kind, gone, tuple(draw(st.floats(0, 1)) for _ in range(4)), draw(st.sampled_from(list(PLACES))),
        (draw(st.booleans()), draw(st.booleans()), draw(st.booleans())) if draw(st.booleans()) else (False,) * 3,
        draw(st.sampled_from([False, False, True])), draw(st.integers(0, 719)), tuple(profile.items()),
        draw(st.booleans()), draw(st.integers(0, 2**31)),
    )  # fmt: skip


class Written:
    """A raster that was written, and what is to be seen of it.

    Attributes:
        path: File.
        colours: (H, W, 3) uint8, north up.
        valid: (H, W), what holds data.
        options: With which it is to be read.
        exact: Whether its colours are told to the last digit.
    """

    def __init__(self, path: Path, raster: Raster, nodata_asked: bool = True):
        self.path, self.raster = path, raster
        rng, (low, high) = np.random.default_rng(raster.seed), RANGES[raster.kind]
        shape = raster.height, raster.width
        shown = {"rgb": 3, "rgba": 3, "rgbi": 3, "named": 3}.get(raster.bands, 1)
        dtype = np.dtype(raster.kind)
        values = low + (high - low) * rng.random((shown, *shape))
        values = (values + 1 if low == 0 else values).clip(low, high).astype(dtype)
        self.options: dict = {"nodata": "file"}
        table = None
        if raster.bands == "palette":
            table = {number: tuple(rng.integers(0, 256, 3).tolist()) + (255,) for number in range(256)}
        if raster.bands == "bit":
            values = rng.integers(0, 2, values.shape).astype(np.uint8)
        self.valid = np.ones(shape, bool)
        if raster.gone:
            y0, y1 = sorted(int(v * raster.height) for v in raster.box[:2])
            x0, x1 = sorted(int(v * raster.width) for v in raster.box[2:])
            self.valid[y0:y1, x0:x1] = False
            if not self.valid.any():
                self.valid[0, 0] = True
        nodata = np.nan if raster.gone == "nan" else dtype.type(min(low + 1, 0) if low <= 0 else 0)
        if raster.gone in ("nodata", "option", "nan"):
            values = np.where(self.valid & (values == nodata), nodata + 1, values)
            values = np.where(self.valid, values, nodata).astype(dtype)
        if raster.gone == "option":
            self.options["nodata"] = float(nodata)
        self.colours = self._seen(values, table)
        self._write(values, table, nodata)

    def _seen(self, values: np.ndarray, table: dict | None) -> np.ndarray:
        low, high = RANGES[self.raster.kind]
        if table:
            seen = np.array([table[number][:3] for number in range(256)], np.uint8)[values[0]].transpose(2, 0, 1)
        elif self.raster.bands == "bit":
            seen = values * 255
        elif self.raster.kind == "uint8":
            seen = 255 - values if self.raster.bands == "white" else values
        else:
            self.options["limits"] = (low, high)
            part = (values.astype(np.float64) - low) / (high - low)
            seen = np.floor(255 * np.nan_to_num(part).clip(0, 1) + 0.5)
        return np.broadcast_to(seen.astype(np.uint8), (3, *values.shape[1:])).transpose(1, 2, 0)

    def _write(self, values: np.ndarray, table: dict | None, nodata) -> None:
        raster = self.raster
        rng = np.random.default_rng(raster.seed + 1)
        layers, names, kinds = list(values), [""] * len(values), [ColorInterp.undefined] * len(values)
        profile: dict = {"driver": "GTiff", "dtype": raster.kind, **dict(raster.profile)}
        if len(values) == 3:
            kinds = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
        elif raster.bands in ("grey", "greya"):
            kinds = [ColorInterp.gray]
        if raster.bands == "numbers":
            kinds = [ColorInterp.palette]
        if raster.bands in ("rgba", "greya"):
            top = {"float32": 1.0, "float64": 255.0}.get(raster.kind) or np.iinfo(raster.kind).max
            layers.append(np.where(self.valid, top, 0).astype(raster.kind))
            kinds, names = [*kinds, ColorInterp.alpha], [*names, ""]
        if raster.bands == "rgbi":
            layers.append(rng.integers(0, 200, self.valid.shape).astype(raster.kind))
            kinds, names = [*kinds, ColorInterp.alpha], [*names, ""]
        if raster.bands == "named":
            names = ["Red", "green (B03)", "blue"]
            for other in OTHERS[: raster.seed % 4]:
                layers.append(rng.integers(0, 100, self.valid.shape).astype(raster.kind))
                names.append(other)
            kinds = [ColorInterp.undefined] * len(layers)
        if raster.bands in ("named", "rgb", "rgba"):
            order = np.random.default_rng(raster.order).permutation(len(layers))
            layers, names, kinds = ([part[i] for i in order] for part in (layers, names, kinds))
        if raster.bands == "white":
            profile["photometric"] = "MINISWHITE"
        if raster.bands == "bit":
            profile["nbits"] = 1
        if raster.gone in ("nodata", "nan"):
            profile["nodata"] = nodata
        stored, grid = turn(np.stack(layers), raster)
        valid = turn(self.valid[None], raster)[0][0]
        profile |= {"count": len(stored), "height": stored.shape[1], "width": stored.shape[2]}
        if not raster.points:
            profile |= {"crs": raster.crs, "transform": grid}
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=raster.gone == "internal"), rasterio.open(self.path, "w", **profile) as file:
            if raster.bands not in ("white", "bit", "palette"):
                file.colorinterp = kinds
            if table:
                file.write_colormap(1, table)
            for number, name in enumerate(names, 1):
                if name:
                    file.set_band_description(number, name)
            if raster.points:
                height, width = stored.shape[1:]
                places = [(0, 0), (height, 0), (0, width), (height, width), (height / 2, width / 2)]
                points = [GroundControlPoint(row, column, *(grid * (column, row)), 0) for row, column in places]
                file.gcps = points, rasterio.crs.CRS.from_string(raster.crs)
            file.write(stored)
            if raster.gone in ("internal", "msk"):
                file.write_mask(valid)
            if raster.overviews:
                file.build_overviews([2, 4], Resampling.nearest)


def turn(layers: np.ndarray, raster: Raster) -> tuple[np.ndarray, Affine]:
    """Store layers (n, h, w), north up, as a raster is turned: layers, and the transform that says so."""
    x0, y0, pixel = PLACES[raster.crs]
    grid = Affine(pixel, 0, x0, 0, -pixel, y0)
    columns, rows, across = raster.turned
    if columns:
        layers, grid = layers[:, :, ::-1], grid * Affine(-1, 0, layers.shape[2], 0, 1, 0)
    if rows:
        layers, grid = layers[:, ::-1], grid * Affine(1, 0, 0, 0, -1, layers.shape[1])
    if across:
        layers, grid = layers.transpose(0, 2, 1), grid * Affine(0, 1, 0, 1, 0, 0)
    return np.ascontiguousarray(layers), grid


def cut(colours: np.ndarray, valid: np.ndarray, chip, least: float) -> np.ndarray | str:
    """What a chip has to show: pixels, or the reason why none."""
    place = np.s_[int(chip.top_px) : int(chip.top_px + chip.height_px), int(chip.left_px) : int(chip.left_px + chip.width_px)]
    part = valid[place]
    if not part.any():
        return "all nodata"
    if part.mean() < least:
        return "too little data"
    return np.where(part[..., None], colours[place], 0)


@fuzz(
    raster=rasters(),
    size=st.integers(16, 40),
    least=st.sampled_from([0.0, 0.5, 0.9]),
    edges=st.booleans(),
    stride=st.sampled_from([1.0, 0.5, 0.75]),
)
def test_chips_show_what_lies_there_however_it_is_stored(raster, size, least, edges, stride):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = Written(Path(folder, "some picture.tif"), raster)
        options = config.Chips(size_px=size, min_valid_share=least, cover_edges=edges, stride=stride, **written.options)
        (source,) = imagery.open_imagery(str(written.path), options)
        assert (source.width, source.height) == (raster.width, raster.height)
        short = min(raster.width, raster.height) < size
        if short and not edges:
            with pytest.raises(DataError, match="smaller than one chip"):
                imagery.lay_out([source], options)
            return
        table, _ = imagery.lay_out([source], options)
        got = list(imagery.read(source, table))
        assert len(got) == len(table)
        for chip, (pixels, reason) in zip(table.itertuples(), got, strict=True):
            assert (pixels is None) == (reason is not None)
            if not short:
                expected = cut(written.colours, written.valid, chip, least)
                if isinstance(expected, str):
                    assert reason == expected
                else:
                    assert reason is None, reason
                    assert np.abs(pixels.astype(int) - expected).max() <= (raster.kind != "uint8")
        # All ground, or all that whole steps reach.
        covered = touched(source, table)
        if edges:
            assert covered.all()
        elif stride == 1:
            assert covered.sum() == raster.width // size * size * (raster.height // size * size)
        outlines_hold(source, table)


def touched(source, table) -> np.ndarray:
    """(H, W), pixels of a raster that lie under a chip or are touched by one."""
    under = np.zeros((source.height, source.width), bool)
    for chip in table.itertuples():
        bottom, right = (int(np.ceil(edge - 1e-3)) for edge in (chip.top_px + chip.height_px, chip.left_px + chip.width_px))
        under[int(chip.top_px) : bottom, int(chip.left_px) : right] = True
    return under


def outlines_hold(source, table) -> None:
    """Corners of chips that lie around no pole, by GDAL, are those of their outlines, and lie in their boxes."""
    table = table[table["east"] - table["west"] < 180]
    if table.empty:
        return
    left, top, wide, high = (table[name].to_numpy() for name in ("left_px", "top_px", "width_px", "height_px"))
    x0, pixel_width, y0, pixel_height = source.transform
    rings = ground.outlines([source], table)
    k = rings.shape[1] // 4
    for corner, (across, down) in enumerate([(0, 0), (1, 0), (1, 1), (0, 1)]):
        x, y = x0 + pixel_width * (left + across * wide), y0 - pixel_height * (top + down * high)
        lon, lat = map(np.array, warp.transform(rasterio.crs.CRS.from_wkt(source.crs), "EPSG:4326", x, y))
        away = (rings[:, corner * k, 0] - lon + 180) % 360 - 180
        assert np.abs(away).max() < 1e-7
        assert np.abs(rings[:, corner * k, 1] - lat).max() < 1e-7
        inside = (lon - table["west"] + 1e-7) % 360 <= table["east"] - table["west"] + 2e-7
        assert inside.all()
        assert ((table["south"] - 1e-7 <= lat) & (lat <= table["north"] + 1e-7)).all()
