"""Bands are found by what is said of them, in whatever words; what nobody says is guessed and told, and what somebody asks for is final."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rasters import chips, pixels, write

from rsvlm.data.imagery import bands

rasterio = pytest.importorskip("rasterio")

SHADES = np.stack([np.full((32, 32), 60 + 13 * band, np.uint8) for band in range(1, 14)])


def shown(tmp_path, names=(), count=None, file="a.tif", **values):
    """Bands of an 8-bit raster whose bands have these names."""
    count = count or len(names)
    path = write(tmp_path / file, SHADES[:count], photometric="minisblack", names=names)
    sources, table, _ = chips(path, **values)
    assert pixels(sources, table)[0][0][0, 0].tolist() == [60 + 13 * band for band in (sources[0].bands * 3)[:3]]
    return sources[0].bands


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Blue (B02)", "Green (B03)", "Red (B04)", "NIR (B08)"), (3, 2, 1)),
        (("B02", "B03", "B04", "B08"), (3, 2, 1)),
        (("B2", "B3", "B4", "B8A"), (3, 2, 1)),
        (("B02_10m", "B03_10m", "B04_10m"), (3, 2, 1)),
        (tuple(f"B{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, "8A", 9, 10, 11, 12)), (4, 3, 2)),
        (("SR_B2", "SR_B3", "SR_B4", "SR_B5"), (3, 2, 1)),
        (("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7"), (3, 2, 1)),
        (tuple(f"SR_B{n}" for n in range(1, 8)), (4, 3, 2)),
        (("Blue-444", "Green-560", "Red-668", "Red edge-717", "NIR-842"), (3, 2, 1)),
        (("coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"), (6, 4, 2)),
        (("Near Infrared", "Red", "Green", "Blue"), (2, 3, 4)),
        (("b", "g", "r"), (3, 2, 1)),
        (("444 nm", "560 nm", "668 nm", "842 nm"), (3, 2, 1)),
    ],
)
def test_names_of_bands_are_understood(tmp_path, caplog, names, expected):
    assert shown(tmp_path, names) == expected
    assert not caplog.records


def test_names_of_files_say_what_some_makers_put_where(tmp_path):
    assert shown(tmp_path, count=4, file="20240101_3B_AnalyticMS_SR.tif") == (3, 2, 1)
    assert shown(tmp_path, count=8, file="20240101_3B_AnalyticMS_SR_8b.tif") == (6, 4, 2)
    assert shown(tmp_path, tuple(f"band {n}" for n in range(1, 8)), file="LC08_L2SP_190_SR.tif") == (4, 3, 2)
    assert shown(tmp_path, tuple(f"band {n}" for n in range(1, 7)), file="LE07_L2SP_190_SR.tif") == (3, 2, 1)


@pytest.mark.parametrize(
    "names", [("", "", "", ""), ("band 1", "band 2", "band 3", "band 4"), ("red", "nir", "green", "swir")]
)
def test_a_guess_is_told_once_with_the_option_that_ends_it(tmp_path, caplog, names):
    for file in ("one.tif", "two.tif", "three.tif"):
        write(tmp_path / "many" / file, SHADES[:4], photometric="minisblack", names=names)
    sources = chips(tmp_path / "many")[0]
    assert [source.bands for source in sources] == [(1, 2, 3)] * 3 and all(source.guesses for source in sources)
    (record,) = caplog.records
    assert "bands 1, 2 and 3 are shown" in record.message and "--band" in record.message and "2 more" in record.message
    caplog.clear()
    assert {source.bands for source in chips(tmp_path / "many", bands=(4, 2, 1))[0]} == {(4, 2, 1)}
    assert not caplog.records


def test_names_are_followed_rather_than_the_kinds_that_writers_set_by_themselves(tmp_path, caplog):
    path = write(tmp_path / "a.tif", SHADES[:3], photometric="rgb", names=("blue", "green", "red"))
    assert chips(path)[0][0].bands == (3, 2, 1) and "names" in caplog.text


def test_wavelengths_in_the_tags_of_bands(tmp_path, caplog):
    path = write(tmp_path / "a.tif", SHADES[:4], photometric="minisblack")
    with rasterio.open(path, "r+") as dataset:
        for band, length in enumerate((0.475, 0.56, 0.668, 0.717), 1):
            dataset.update_tags(band, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=length)
    assert chips(path)[0][0].bands == (3, 2, 1) and not caplog.records


@pytest.mark.parametrize(
    ("about", "properties"),
    [
        ({"eo:bands": [{"name": f"b{i}", "common_name": n} for i, n in enumerate(("blue", "green", "red", "nir"))]}, {}),
        ({"bands": [{"name": f"b{i}", "eo:common_name": n} for i, n in enumerate(("blue", "green", "red", "nir"))]}, {}),
        ({"eo:bands": [{"name": n} for n in ("B02", "B03", "B04", "B08")], "raster:bands": [{"nodata": 0}] * 4}, {}),
        ({"eo:bands": [1, 2, 3, 0]}, {"eo:bands": [{"common_name": n} for n in ("nir", "blue", "green", "red")]}),
    ],
)
def test_a_stac_item_says_what_the_bands_of_its_asset_are(tmp_path, caplog, about, properties):
    write(tmp_path / "a.tif", SHADES[:4], photometric="minisblack")
    item = {
        "type": "Feature", "id": "one", "properties": properties, "geometry": None,
        "assets": {"analytic": {"href": "./a.tif", "roles": ["data"], **about}},
    }  # fmt: skip
    (tmp_path / "item.json").write_text(json.dumps(item))
    assert chips(tmp_path / "item.json")[0][0].bands == (3, 2, 1) and not caplog.records
    item["assets"]["analytic"] |= {key: rows[:3] for key, rows in about.items()}  # of another number of bands: not believed
    (tmp_path / "item.json").write_text(json.dumps(item))
    assert chips(tmp_path / "item.json")[0][0].bands == (1, 2, 3) and len(caplog.records) == 1


def test_transparency_is_no_colour(tmp_path, caplog):
    kinds = [rasterio.enums.ColorInterp[name] for name in ("gray", "undefined", "alpha")]
    array = np.concatenate([SHADES[:2], np.full((1, 32, 32), 255, np.uint8)])
    source = chips(write(tmp_path / "a.tif", array, colours=kinds))[0][0]
    assert source.bands == (1,) and source.alpha == 3 and "grey" in caplog.text


def test_what_is_not_said_is_nothing():
    assert bands.of_asset({"assets": {"a": {"href": "x"}}}, "x") == ()
    assert bands.of_asset({"assets": {"a": {"href": "x", "bands": [3, {}]}}}, "y") == ()
