"""What values mean: no data, black and white; for one raster, and for several that belong together."""

from __future__ import annotations

import numpy as np
import pytest
from rasters import chips, pixels, serve, write

from rsvlm.data.imagery import values
from rsvlm.errors import ConfigError, DataError

rasterio = pytest.importorskip("rasterio")
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.transform import Affine, from_origin  # noqa: E402

TURNED = Affine.translation(460_000, 4_300_000) * Affine.rotation(30) * Affine.scale(10, -10)
RGBA = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
RGB = {"photometric": "rgb"}


def noise(low: int, high: int, kind="uint16", shape=(3, 128, 128), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(kind)


def reasons(path, **options) -> list:
    sources, table, _ = chips(path, **options)
    return [why for _, why in pixels(sources, table)]


def test_values_beyond_the_limits_are_cut_and_what_is_no_number_is_black():
    numbers = np.array([[[-5.0, 0.0, 5.0, 10.0, 99.0, np.nan, np.inf]]])
    assert values.stretch(numbers, ((0.0, 10.0),))[0, 0].tolist() == [0, 0, 128, 255, 255, 0, 255]
    assert values.stretch(numbers[..., 1:4], ((10.0, 0.0),))[0, 0].tolist() == [255, 128, 0]


# Transparency


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("turned", [False, True])
def test_infrared_that_is_called_transparency_hides_nothing(tmp_path, caplog, kind, turned):
    array = noise(60, 120, kind, (4, 128, 128))
    array[3, :, 64:] = 0  # water
    path = write(tmp_path / "a.tif", array, colours=RGBA, transform=TURNED if turned else None)
    assert "transparency" not in caplog.text
    sources, table, _ = chips(path, size_px=16)
    got = [why for _, why in pixels(sources, table)]
    assert sources[0].alpha == 0 and "band 4 calls itself transparency" in caplog.text
    plain = write(tmp_path / "b.tif", array[:3], transform=TURNED if turned else None, **RGB)
    assert got == reasons(plain, size_px=16) and got.count(None) >= 16
    caplog.clear()
    assert reasons(path, size_px=16, bands=(1, 2, 3)) == got and not caplog.records


@pytest.mark.parametrize("count", [3, 5])  # GDAL makes a mask of the fourth band, but of no sixth
@pytest.mark.parametrize("turned", [False, True])
def test_true_transparency_hides_whatever_the_number_of_bands(tmp_path, caplog, count, turned):
    array = np.concatenate([noise(60, 120, "uint8", (count, 128, 128)), np.full((1, 128, 128), 255, np.uint8)])
    array[-1, :, 64:] = 0
    array[-1, :, 63] = 128  # a soft edge
    kinds = [*RGBA[:3], *[ColorInterp.undefined] * (count - 3), RGBA[3]]
    path = write(tmp_path / "a.tif", array, colours=kinds, transform=TURNED if turned else None)
    source = chips(path)[0][0]
    assert source.alpha == count + 1 and not caplog.records
    got = reasons(path, size_px=16, min_valid_share=0.5)
    assert got.count(None) in range(24, 40) and set(got) >= {None, "all nodata"}
    assert got == reasons(path, size_px=16, min_valid_share=0.5, bands=(1, 2, 3))


# Where a raster does not reach


@pytest.mark.parametrize("how", ["uint8", "uint16", "int16", "float32", "mask", "nodata", "five bands"])
def test_corners_of_a_turned_raster_hold_no_data(tmp_path, how):
    kind = how if how[-1].isdigit() else "uint8"
    array = noise(100, 200, kind, (5 if how == "five bands" else 3, 128, 128))
    path = write(tmp_path / "a.tif", array, transform=TURNED, nodata=0 if how == "nodata" else None)
    if how == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(np.arange(128 * 128).reshape(128, 128) < 64 * 128)
    got = reasons(path)
    expected = reasons(write(tmp_path / "b.tif", array[:3].astype("uint8"), transform=TURNED, **RGB))
    assert expected.count(None) == 10 and len(expected) > 20
    assert got == expected if how != "mask" else 0 < got.count(None) < 10


def test_ground_control_points_say_where_a_raster_lies(tmp_path):
    from rasterio.control import GroundControlPoint

    array = noise(100, 200, "uint8")
    corners = [(row, column) for row in (0, 128) for column in (0, 128)]
    for name, shift in (("good", 0), ("bent", 400)):
        points = [GroundControlPoint(r, c, *(TURNED * (c, r))) for r, c in corners]
        points[0].x += shift
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", driver="GTiff", count=3, height=128, width=128, dtype="uint8"
        ) as file:
            file.write(array)
            file.gcps = points, rasterio.CRS.from_epsg(32629)
    turned = chips(write(tmp_path / "turned.tif", array, transform=TURNED))
    pinned = chips(tmp_path / "good.tif")
    np.testing.assert_allclose(pinned[1][["lon", "lat"]], turned[1][["lon", "lat"]], atol=1e-6)
    for (one, why), (two, same) in zip(pixels(*pinned[:2]), pixels(*turned[:2]), strict=True):
        assert why == same and (why or np.abs(one.astype(int) - two).mean() < 2)
    with pytest.raises(DataError, match="gdalwarp -tps"):
        chips(tmp_path / "bent.tif")


# Fill


@pytest.mark.parametrize(
    ("kind", "fill"),
    [("uint16", 0), ("int16", 0), ("int16", -32768), ("float32", -9999), ("float32", np.finfo("f4").min), ("uint16", 65535)],
)
def test_fill_that_a_file_does_not_declare_is_no_data_and_told(tmp_path, caplog, kind, fill):
    array = noise(700, 1700, kind)
    array[:, :, :40] = fill
    path = write(tmp_path / "a.tif", array, **RGB)
    sources, table, _ = chips(path)
    declared = chips(write(tmp_path / "b.tif", array, nodata=fill, **RGB))[0][0]
    np.testing.assert_allclose(sources[0].limits, declared.limits)
    assert sources[0].nodata == fill and declared.nodata is None
    got = pixels(sources, table)
    assert [why for _, why in got] == ["all nodata", "too little data", None, None] * 4
    assert 100 < got[2][0].mean() < 155
    (record,) = caplog.records
    assert "31 %" in record.message and "--nodata file" in record.message
    assert chips(path, nodata="file")[0][0].nodata is None and set(reasons(path, nodata="file")) == {None}
    assert chips(path, nodata=fill)[0][0].limits == sources[0].limits and len(caplog.records) == 1


def test_fill_and_infrared_of_a_raster_on_a_server(tmp_path):
    array = noise(700, 1700, shape=(4, 128, 128))
    array[:, :, :40] = 0
    path = write(tmp_path / "a.tif", array, colours=RGBA, transform=TURNED)
    with serve(tmp_path) as server:
        there = chips(f"{server.url}/a.tif", allow_loopback=True)
        assert there[0][0].nodata == 0 and there[0][0].alpha == 0
        got = [why for _, why in pixels(*there[:2])]
    assert got == reasons(path) and {None, "all nodata"} <= set(got)


def test_averages_do_not_mix_fill_into_data(tmp_path):
    array = noise(1000, 1010, "float32")
    array[:, :, :45] = -9999
    sources, table, _ = chips(write(tmp_path / "a.tif", array, **RGB), size_m=640, min_valid_share=0.1, limits=(0, 2000))
    seen = [got for got, _ in pixels(sources, table) if got is not None]
    assert seen and all(abs(int(value) - 128) < 3 for got in seen for value in got[got > 0])


def test_data_that_was_cut_off_at_a_value_is_kept_and_told(tmp_path, caplog):
    sea = np.maximum(noise(-400, 800, "int16"), 0)
    source = chips(write(tmp_path / "a.tif", sea, **RGB))[0][0]
    assert source.nodata is None and "if these hold no data, say --nodata 0" in caplog.text
    assert set(reasons(tmp_path / "a.tif")) == {None}
    caplog.clear()
    dark = noise(10, 255, "uint8")
    dark[:, :, :40] = 0
    source = chips(write(tmp_path / "b.tif", dark, **RGB))[0][0]
    assert source.nodata is None and "--nodata 0" in caplog.text
    assert reasons(tmp_path / "b.tif", nodata=0)[0] == "all nodata"


def test_what_no_pixel_can_be_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="chips.nodata"):
        chips(write(tmp_path / "a.tif", noise(1, 9, "uint8"), **RGB), nodata=-9999)


def test_much_nodata_between_the_places_that_are_looked_at_first(tmp_path):
    array = np.zeros((1, 2100, 2100), np.uint16)
    array[:, 140:270, 140:270] = noise(1000, 2000, shape=(1, 130, 130))
    path = write(tmp_path / "a.tif", array, nodata=0, compress="deflate", tiled=True)
    with rasterio.open(path) as dataset:
        first = values._joined(list(values._windows(dataset, (1,), 0, 8, 128)))
        assert not first.valid.any()
        further = values._look_further(dataset, (1,), 0, None)
    assert further.valid.sum() > 1000
    with pytest.raises(DataError, match="no data"):
        chips(write(tmp_path / "b.tif", array * 0, nodata=0, compress="deflate"))


# Black and white


def test_a_negative_is_shown_as_a_positive(tmp_path):
    grey = np.linspace(0, 255, 64 * 64).reshape(1, 64, 64)
    for kind, scale in (("uint8", 1), ("uint16", 40)):
        path = write(tmp_path / f"{kind}.tif", (grey * scale).astype(kind), photometric="miniswhite")
        sources, table, _ = chips(path)
        got = pixels(sources, table)
        assert got[0][0].mean() > 180 > 80 > got[3][0].mean()
        low, high = sources[0].limits[0]
        assert low > high


def test_few_bits_are_shown_over_their_whole_range(tmp_path):
    path = write(tmp_path / "a.tif", noise(0, 16, "uint8", (1, 64, 64)), nbits=4, photometric="minisblack")
    assert chips(path)[0][0].limits == ((0.0, 15.0),)


def test_a_dark_8_bit_raster_is_told_with_the_option_that_helps(tmp_path, caplog):
    path = write(tmp_path / "a.tif", noise(0, 15, "uint8"), **RGB)
    assert chips(path)[0][0].limits == () and "--limits 0,14" in caplog.text
    caplog.clear()
    sources, table, _ = chips(path, limits="0,14")
    assert pixels(sources, table)[0][0].max() == 255 and not caplog.records
    chips(write(tmp_path / "b.tif", noise(0, 255, "uint8"), **RGB))
    assert not caplog.records


def test_a_palette_without_a_table_is_grey(tmp_path, caplog):
    path = write(tmp_path / "a.tif", noise(60, 120, "uint8", (1, 64, 64)))
    (tmp_path / "a.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><ColorInterp>Palette</ColorInterp></PAMRasterBand></PAMDataset>'
    )
    sources, table, _ = chips(path)
    got = pixels(sources, table)[0][0]
    assert 60 <= got.min() < got.max() < 120 and (got[..., 0] == got[..., 1]).all() and "no table of colours" in caplog.text


def test_limits_that_are_given_end_the_search_for_them(tmp_path):
    path = write(tmp_path / "a.tif", noise(1000, 2000), **RGB)
    assert chips(path, limits="0,3000")[0][0].limits == ((0.0, 3000.0),) * 3
    assert chips(path, limits="0,3000,1,2,3,4")[0][0].limits == ((0.0, 3000.0), (1.0, 2.0), (3.0, 4.0))
    for bad in ("1", "1,2,3,4", "5,5"):
        with pytest.raises(ConfigError, match="chips.limits"):
            chips(path, limits=bad)


# Together


def tiles(folder) -> dict[str, np.ndarray]:
    arrays = {"sea": noise(150, 200), "field": noise(600, 800), "town": noise(200, 2800)}
    for number, (name, array) in enumerate(arrays.items()):
        write(folder / f"{name}.tif", array, transform=from_origin(460_000 + 1280 * number, 4_300_000, 10, 10), **RGB)
    return arrays


def test_rasters_of_one_folder_have_one_pair_of_limits(tmp_path):
    arrays = tiles(tmp_path / "many")
    sources, table, _ = chips(tmp_path / "many")
    (limits,) = {source.limits for source in sources}
    for band in range(3):
        whole = np.concatenate([array[band].ravel() for array in arrays.values()])
        np.testing.assert_allclose(limits[band], np.percentile(whole, (2, 98)), rtol=0.02)
    by_name = {source.name: pixels([source], table) for source in sources}
    assert max(got.std() for got, _ in by_name["sea"]) < 5 and max(got.mean() for got, _ in by_name["sea"]) < 10
    assert chips(tmp_path / "many", stretch="minmax")[0][0].limits == ((150.0, 2799.0),) * 3
    alone = chips(tmp_path / "many" / "sea.tif")[0][0]
    assert alone.limits != limits


def test_rasters_of_other_kinds_keep_their_own(tmp_path):
    tiles(tmp_path / "many")
    write(tmp_path / "many" / "reflectance.tif", noise(0, 100).astype(np.float32) / 100, **RGB)
    tiles(tmp_path / "many" / "other")
    write(tmp_path / "many" / "other" / "bright.tif", noise(9000, 9999), **RGB)
    limits = {source.path.split("many/")[1]: source.limits for source in chips(tmp_path / "many")[0]}
    assert limits["reflectance.tif"][0][1] < 1
    assert limits["sea.tif"] == limits["town.tif"] != limits["other/sea.tif"] == limits["other/bright.tif"]


def test_what_is_fill_in_one_of_them_is_fill_in_all(tmp_path):
    arrays = tiles(tmp_path / "many")
    for name, columns in (("sea", 64), ("field", 1)):
        arrays[name][:, :, :columns] = 0
        write(tmp_path / "many" / f"{name}.tif", arrays[name], **RGB)
    assert {source.nodata for source in chips(tmp_path / "many")[0]} == {0.0}
