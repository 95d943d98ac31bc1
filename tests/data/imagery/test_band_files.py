"""Scenes that come as a file for each band are one picture, and their masks are none."""

import numpy as np
import pytest
from rasters import chips, picture, pixels, write

from rsvlm.data.imagery import band_files, sources as imagery
from rsvlm.errors import DataError

pytest.importorskip("rasterio")
from rasterio.transform import from_origin  # noqa: E402


def deliver(folder, names: dict, **profile):
    """Write files of one value each."""
    for name, value in names.items():
        write(folder / name, np.full((64, 64), value, np.uint16), **profile)


LANDSAT_8 = {f"LC08_L2SP_204033_20240101_02_T1_SR_B{number}.TIF": 1000 * number for number in range(1, 8)}
MASKS = [
    f"LC08_L2SP_204033_20240101_02_T1_{name}.TIF" for name in ("QA_PIXEL", "QA_RADSAT", "SR_QA_AEROSOL", "ST_EMIS", "SAA")
]


def shown(folder, **values):
    """Return the values of the one chip's first pixel as they are in the files, and all notes."""
    sources, table, notes = chips(folder, size_px=64, stretch="none", **values)
    with_limits = [imagery.replace(source, limits=((0.0, 25_500.0),) * len(source.bands)) for source in sources]
    return [(got[0, 0].astype(int) * 100).tolist() for got, _ in pixels(with_limits, table)], sources, notes


def test_bands_are_one_picture_and_masks_none(tmp_path):
    deliver(tmp_path / "in", LANDSAT_8 | dict.fromkeys(MASKS, 5))
    colours, sources, notes = shown(tmp_path)
    assert colours == [[4000, 3000, 2000]]
    assert "B4.TIF" in sources[0].file and "B2.TIF" in sources[0].file
    assert {note["reason"]: note["count"] for note in notes} == {band_files.MASK: 5, band_files.UNSHOWN: 4}
    # Others can be chosen, by their order; what is asked for and is not there is refused by name.
    assert shown(tmp_path, bands=(5, 4, 3))[0] == [[5000, 4000, 3000]] and shown(tmp_path, bands=(7,))[0] == [[7000] * 3]
    with pytest.raises(DataError, match="1 B1, 2 B2.*7 B7"):
        chips(tmp_path, bands=(9,))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({f"LE07_L1TP_204033_20020101_20200917_02_T1_B{n}.TIF": 1000 * n for n in (1, 2, 3, 4)}, [3000, 2000, 1000]),
        ({f"T29SMC_20240101T113321_B0{n}.jp2.tif": 1000 * n for n in (2, 3, 4, 8)}, [4000, 3000, 2000]),
        ({f"S2A_29SMC_0_L2A/B0{n}.tif": 1000 * n for n in (2, 3, 4)}, [4000, 3000, 2000]),
        (
            {f"HLS.S30.T29SMC.2024001T113321.v2.0.B{n}.tif": int(n[:2]) * 1000 for n in ("02", "03", "04", "08")},
            [4000, 3000, 2000],
        ),
        ({"town_red.tif": 1000, "town_green.tif": 2000, "town_blue.tif": 3000, "town_nir.tif": 4000}, [1000, 2000, 3000]),
    ],
)
def test_red_green_and_blue_are_found_by_the_names_of_deliveries(tmp_path, names, expected):
    names = {name.replace(".jp2.tif", ".tif"): value for name, value in names.items()}
    deliver(tmp_path / "in", names)
    assert shown(tmp_path / "in")[0] == [expected]


def test_two_scenes_in_one_folder_stay_two_and_the_finest_of_a_band_is_taken(tmp_path):
    safe = tmp_path / "a.SAFE" / "IMG_DATA"
    for day in ("20240101", "20240106"):
        deliver(safe / "R10m", {f"T29SMC_{day}_B0{n}_10m.tif": 1000 * n for n in (2, 3, 4)})
        for n in (2, 3, 4):
            coarse = np.full((32, 32), 9, np.uint16)
            write(safe / "R20m" / f"T29SMC_{day}_B0{n}_20m.tif", coarse, transform=from_origin(460_000, 4_300_000, 20, 20))
        write(safe / "R20m" / f"T29SMC_{day}_SCL_20m.tif", coarse, transform=from_origin(460_000, 4_300_000, 20, 20))
    colours, sources, notes = shown(tmp_path)
    assert colours == [[4000, 3000, 2000]] * 2 and len({source.name for source in sources}) == 2
    assert [note["count"] for note in notes if note["reason"] == band_files.MASK] == [1, 1]


def test_a_picture_in_colours_goes_before_its_bands(tmp_path):
    deliver(tmp_path, {f"T29SMC_20240101_B0{n}.tif": 1000 * n for n in (2, 3, 4)})
    array = picture(64, 64)
    write(tmp_path / "T29SMC_20240101_TCI.tif", array)
    sources, table, notes = chips(tmp_path, size_px=64)
    assert np.array_equal(pixels(sources, table)[0][0], array.transpose(1, 2, 0)) and len(table) == 1
    assert [(note["reason"], note["count"]) for note in notes] == [(band_files.PICTURED, 3)]


def test_bands_without_colours_stop_with_the_option_that_chooses(tmp_path):
    deliver(tmp_path, {f"LC08_L2SP_204033_20240101_02_T1_SR_B{n}.TIF": n for n in (5, 6, 7)})
    with pytest.raises(DataError, match=r"chips.bands.*1 B5, 2 B6, 3 B7"):
        chips(tmp_path)
    assert len(chips(tmp_path, bands=(3, 2, 1))[0]) == 1


def test_what_is_only_called_like_a_band_stays_a_picture(tmp_path):
    """Blocks of a survey, colours of one file, and a grey picture of its own."""
    for number in (1, 2):
        place = from_origin(460_000 + 10_000 * number, 4_300_000, 10, 10)
        write(tmp_path / f"block_B{number}.tif", picture(64, 64), transform=place)
        write(tmp_path / f"grey_B{number}.tif", picture(64, 64)[0], transform=place)
    write(tmp_path / "barn_red.tif", picture(64, 64)[0])
    write(tmp_path / "scene.tif", picture(64, 64))
    write(tmp_path / "scene_mask.tif", picture(64, 64)[0])
    write(tmp_path / "face_mask.tif", picture(64, 64))
    sources, _, notes = chips(tmp_path, size_px=64)
    files = {"block_B1.tif", "block_B2.tif", "grey_B1.tif", "grey_B2.tif", "barn_red.tif", "scene.tif", "face_mask.tif"}
    assert {source.file for source in sources} == files
    assert [(note["reason"], note["examples"]) for note in notes] == [(band_files.MASK, ["scene_mask.tif"])]


def test_a_band_that_changed_its_place_is_refused_when_it_is_read(tmp_path):
    deliver(tmp_path, {f"x_B0{n}.tif": n for n in (2, 3, 4)})
    sources, table, _ = chips(tmp_path)
    deliver(tmp_path, {"x_B03.tif": 3}, transform=from_origin(0, 4_300_000, 10, 10))
    with pytest.raises(DataError, match="other ground"):
        pixels(sources, table)


def test_masks_and_points_of_bands_are_kept_and_the_finest_grid_of_turned_ones(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    values, holds = picture(64, 64), np.ones((64, 64), bool)
    holds[:, :40] = False
    for number, band in zip((4, 3, 2), values):
        coarse = 2 if number == 4 else 1
        stored = band[::coarse, ::-coarse] if coarse == 1 else band[::2, ::2][:, ::-1]
        grid = from_origin(460_000, 4_300_000, 10, 10) * rasterio.Affine(-coarse, 0, 64, 0, coarse, 0)
        path = write(tmp_path / "in" / f"S2_B0{number}.tif", stored, crs=None, transform=rasterio.Affine.identity())
        corners = [(0, 0), (stored.shape[0], 0), (0, stored.shape[1]), stored.shape]
        with rasterio.open(path, "r+") as file:
            points = [rasterio.control.GroundControlPoint(row, column, *(grid * (column, row)), 0) for row, column in corners]
            file.gcps = points, rasterio.CRS.from_epsg(32629)
            file.write_mask(holds[::coarse, ::coarse][:, ::-1])
    sources, table, _ = chips(tmp_path, size_px=64, min_valid_share=0)
    assert (sources[0].width, sources[0].height) == (64, 64)
    ((got, _),) = pixels(sources, table)
    assert not got[:, :40].any() and np.array_equal(got[:, 40:, 1:], values[1:, :, 40:].transpose(1, 2, 0))
