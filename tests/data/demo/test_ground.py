"""Scenes out of packages: two scenes on one grid, colours that are the same for everybody, and no place that is not known."""

from __future__ import annotations

import hashlib
import os
import warnings

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from rsvlm import config
from rsvlm.data.demo import ground
from rsvlm.data.imagery import sources
from rsvlm.errors import DataError
from rsvlm.records import packages

PIXELS = "6e5e3601ba9a06a924d9c31b1badf69b3c6495cf82462bc0cfcad760b9da1727"
"""SHA-256 of 256 x 256 pixels of the picture."""

BOX = "<object><name>Tree</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def write_scenes(folder, offset=(4, 6)):
    """Two scenes of 10 x 12 pixels that overlap, the second with a corner that holds no data."""
    parts = {}
    for number, (scene, (top, left)) in enumerate(zip(ground._SCENES, ((0, 0), offset))):
        for band in ground._BANDS:
            values = np.full((10, 12), 7000 + 1000 * number + int(band[1]), np.uint16)
            values[:2, :2] = 0 if number else values[:2, :2]
            if number and band == "B4":
                values[2, 2] = 0  # a pixel that lacks red alone has no data
            place = from_origin(ground.ORIGIN[0] + 30 * left, ground.ORIGIN[1] - 30 * top, 30, 30)
            path = folder / f"{scene}_{band}.TIF"
            grid = {"crs": ground.CRS, "transform": place, "width": 12, "height": 10, "count": 1, "dtype": "uint16"}
            with rasterio.open(path, "w", driver="GTiff", **grid) as file:
                file.write(values, 1)
            parts[path.name] = path
    return parts


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ground, "ITAIPU_SHAPE", (14, 18))
    parts = write_scenes(tmp_path)
    monkeypatch.setattr(packages, "fetch", lambda package: parts)
    return parts


def read(path):
    with rasterio.open(path) as file:
        return np.moveaxis(file.read(), 0, 2), file.profile, file.tags()


def test_the_second_scene_lies_over_the_first_where_it_has_data(scenes):
    folder = ground.itaipu()
    values, profile, tags = read(folder / "values.tif")
    assert values.shape == (14, 18, 3) and profile["nodata"] == 0 and profile["crs"] == ground.CRS
    assert profile["transform"] == from_origin(*ground.ORIGIN, 30, 30)
    assert values[0, 0].tolist() == [7004, 7003, 7002] and values[9, 11].tolist() == [8004, 8003, 8002]
    assert (
        values[4, 6].tolist() == values[6, 8].tolist() == [7004, 7003, 7002]
    )  # the first is seen through the holes of the second
    assert values[13, 0].tolist() == values[0, 17].tolist() == [0, 0, 0]
    assert (
        tags["LICENSE"] == "public domain"
        and tags["DATE"] == "2020-05-18"
        and "Geological Survey" in tags["TIFFTAG_COPYRIGHT"]
    )
    picture, profile, _ = read(folder / "picture.tif")
    assert np.array_equal((picture > 0).any(axis=2), (values > 0).all(axis=2)) and profile["nodata"] == 0
    assert np.array_equal(picture, ground.true_colour(values))
    assert ground.itaipu() == folder


def test_it_is_imagery_like_any_other(scenes):
    source = sources.open_imagery(str(ground.itaipu() / "picture.tif"), config.load().chips)[0]
    assert (source.width, source.height) == (18, 14) and "Geological Survey" in source.attribution
    assert source.bbox_lonlat == pytest.approx((-55.0776, -25.0064, -55.0722, -25.0026), abs=1e-4)


def test_scenes_off_the_grid_are_refused(tmp_path, scenes):
    write_scenes(tmp_path, offset=(4, 60))
    with pytest.raises(DataError, match="does not lie on the grid"):
        ground.itaipu()


def test_true_colour_is_fixed_and_black_is_no_data_alone():
    black, white = np.array(ground.BLACK), np.array(ground.WHITE)
    values = np.stack([black * 0, black, (black + white) / 2, white, white + 500, black - 500]).astype(np.uint16)[None]
    values[0, 5, 0] = 0
    picture = ground.true_colour(values)[0]
    assert picture[0].tolist() == picture[5].tolist() == [0, 0, 0] and picture[1].tolist() == [1, 1, 1]
    assert picture[2] == pytest.approx(255 * 0.5**0.8, abs=1.1) and picture[3].tolist() == picture[4].tolist() == [255] * 3
    values[0, 5, 0] = 1
    assert ground.true_colour(values)[0, 5].tolist() == [1, 1, 1]
    tall = np.repeat(values, 600, axis=0)
    assert np.array_equal(ground.true_colour(tall), np.repeat(ground.true_colour(values), 600, axis=0))


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path / "home"))
    parts = {}
    for number, stem in enumerate(ground._PHOTOGRAPHS.values()):
        for end in (".png", ".xml"):
            parts[stem + end] = tmp_path / (stem + end)
        Image.fromarray(np.full((30, 40, 3), 90 + number, np.uint8)).save(parts[f"{stem}.png"])
        boxes = BOX.format(1, 2, 11, 12) + BOX.format(20, 5, 40, 30)
        parts[f"{stem}.xml"].write_text(f"<annotation>{boxes}</annotation>")
    monkeypatch.setattr(packages, "fetch", lambda package: parts)
    return parts


def test_photographs_have_a_pixel_size_and_no_place(photographs):
    with warnings.catch_warnings():
        warnings.simplefilter("error", rasterio.errors.NotGeoreferencedWarning)
        folder = ground.yellowstone()
        pixels, profile, tags = read(folder / "road.tif")
    assert pixels.shape == (30, 40, 3) and (pixels == 91).all() and profile["crs"] is None
    assert profile["transform"] == from_origin(0, 0, 0.1, 0.1) and tags["LICENSE"] == "CC0-1.0"
    table = ground.trees(folder)
    assert table.columns.tolist() == ["picture", "label", "xmin", "ymin", "xmax", "ymax"]
    assert table.groupby("picture").size().to_dict() == {"meadow": 2, "road": 2} and set(table["label"]) == {"tree"}
    assert table.iloc[1, 2:].tolist() == [20, 5, 40, 30]


def test_a_box_outside_of_its_photograph_is_refused(photographs):
    path = photographs[f"{ground._PHOTOGRAPHS['road']}.xml"]
    path.write_text(f"<annotation>{BOX.format(20, 5, 41, 30)}</annotation>")
    with pytest.raises(DataError, match="boxes outside"):
        ground.yellowstone()


@pytest.mark.skipif(not os.environ.get("RSVLM_DOWNLOAD"), reason="downloads 94 MB: asked for by RSVLM_DOWNLOAD=1")
def test_the_packages_of_the_registry_are_the_ground_that_the_book_shows(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    picture, _, _ = read(ground.itaipu() / "picture.tif")
    assert picture.shape == (*ground.ITAIPU_SHAPE, 3) and (picture == 0).all(axis=2).mean() == pytest.approx(0.20268, abs=1e-5)
    assert hashlib.sha256(picture[1000:1256, 1000:1256].tobytes()).hexdigest() == PIXELS
    table = ground.trees(ground.yellowstone())
    assert table.groupby("picture").size().to_dict() == {"meadow": 574, "road": 279}
