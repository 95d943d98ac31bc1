"""Chips of anybody's imagery show the right pixels, and nothing follows hostile files."""

import json
import os
import pickle

import numpy as np
import pytest
from rasters import chips, options, picture, pixels, serve, write

from rsvlm.data.imagery import sources as imagery
from rsvlm.errors import ConfigError, DataError

rasterio = pytest.importorskip("rasterio")
pyproj = pytest.importorskip("pyproj")
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.transform import Affine, from_origin  # noqa: E402


@pytest.fixture
def server(tmp_path):
    with serve(tmp_path) as running:
        yield running


# Pixels


def test_nodata_is_counted_and_black(tmp_path):
    array = picture(32, 128)
    array[:, :, :32] = 0
    array[:, :16, 32:64] = 0
    array[:, :2, 64:96] = 0
    array[0, :, 96:] = 0  # one band alone does not make a pixel invalid
    sources, table, _ = chips(write(tmp_path / "a.tif", array, nodata=0))
    got = pixels(sources, table)
    assert [why for _, why in got] == ["all nodata", "too little data", None, None]
    assert got[0][0] is None and not got[2][0][:2].any() and np.array_equal(got[3][0], array[:, :, 96:].transpose(1, 2, 0))
    assert pixels(*chips(tmp_path / "a.tif", min_valid_share=0.4)[:2])[1][1] is None


def test_alpha_band(tmp_path):
    array = np.concatenate([picture(32, 64), np.full((1, 32, 64), 255, np.uint8)])
    array[3, :, :32] = 0
    kinds = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    sources, table, _ = chips(write(tmp_path / "a.tif", array, colours=kinds))
    assert [why for _, why in pixels(sources, table)] == ["all nodata", None]


def test_stretch_is_one_rule_for_the_whole_image(tmp_path):
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 10
    path = write(tmp_path / "a.tif", values)
    sources, table, _ = chips(path, stretch="minmax")
    assert sources[0].limits == ((0.0, 40_950.0),)
    whole = np.round(values / 40_950 * 255)
    for row, (got, _) in zip(table.itertuples(), pixels(sources, table)):
        top, left = int(row.top_px), int(row.left_px)
        assert np.abs(got[..., 0] - whole[top : top + 32, left : left + 32]).max() <= 1
        assert (got[..., 0] == got[..., 2]).all()  # one band is shown as grey
    low, high = chips(path, stretch_percent=10.0)[0][0].limits[0]
    assert low == pytest.approx(4_095, rel=0.01) and high == pytest.approx(36_855, rel=0.01)
    assert pixels(*chips(path, stretch="none")[:2])[3][0].min() == 255  # all values there are above 255
    assert chips(write(tmp_path / "b.tif", picture(64, 64)))[0][0].limits == ()


def test_floats_with_holes(tmp_path):
    values = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    values[:32, :32] = np.nan
    values[40, 40] = np.inf
    sources, table, _ = chips(write(tmp_path / "a.tif", values), stretch="minmax")
    got = pixels(sources, table)
    assert [why for _, why in got] == ["all nodata", None, None, None]
    assert got[3][0][8, 8].tolist() == [0, 0, 0] and got[3][0][31, 31, 0] == 255
    with pytest.raises(DataError, match="no data"):
        chips(write(tmp_path / "b.tif", np.full((64, 64), np.nan, np.float32)))


def test_bands_are_found_or_chosen(tmp_path):
    array = np.stack([np.full((32, 32), 10 * band, np.uint8) for band in (1, 2, 3, 4)])

    def shown(path, **values):
        return pixels(*chips(path, **values)[:2])[0][0][0, 0].tolist()

    plain = write(tmp_path / "a.tif", array, photometric="minisblack")
    assert shown(plain) == [10, 20, 30]
    assert shown(plain, bands=(4, 3, 2)) == [40, 30, 20] and shown(plain, bands=(2,)) == [20, 20, 20]
    kinds = [ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    assert shown(write(tmp_path / "b.tif", array, colours=kinds)) == [40, 30, 20]
    names = ("Blue band", "green", "RED", "nir")
    assert shown(write(tmp_path / "c.tif", array, photometric="minisblack", names=names)) == [30, 20, 10]
    assert shown(write(tmp_path / "d.tif", array[:2])) == [10, 10, 10]
    for bad in ((5,), (0, 1, 2), (1, 2)):
        with pytest.raises(ConfigError, match="chips.bands"):
            chips(plain, bands=bad)


def test_palette(tmp_path):
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": 32, "height": 32, "count": 1, "dtype": "uint8", "photometric": "palette"}
    with rasterio.open(path, "w", crs="EPSG:32629", transform=from_origin(0, 0, 10, 10), **profile) as dataset:
        values = np.zeros((1, 32, 32), np.uint8)
        values[:, 16:] = 7
        dataset.write(values)
        dataset.write_colormap(1, {0: (200, 0, 0, 255), 7: (0, 0, 90, 255)})
    got = pixels(*chips(path)[:2])[0][0]
    assert got[0, 0].tolist() == [200, 0, 0] and got[31, 0].tolist() == [0, 0, 90]


def test_upside_down_raster_is_shown_upright(tmp_path):
    array = picture(64, 64)
    upright = write(tmp_path / "a.tif", array)
    flipped = write(tmp_path / "b.tif", array[:, ::-1], transform=Affine(10, 0, 460_000, 0, 10, 4_300_000 - 640))
    first, second = chips(upright), chips(flipped)
    assert second[0][0].warped
    for (one, _), (two, _) in zip(pixels(*first[:2]), pixels(*second[:2]), strict=True):
        assert np.array_equal(one, two)
    assert np.allclose(first[1][["west", "north"]], second[1][["west", "north"]])


def test_rotated_raster_is_turned_north_up(tmp_path):
    array = np.full((3, 128, 128), 50, np.uint8)
    array[:, 90:94, 30:34] = 255
    turn = Affine.translation(460_000, 4_300_000) * Affine.rotation(30) * Affine.scale(10, -10)
    sources, table, _ = chips(write(tmp_path / "a.tif", array, transform=turn), size_px=16)
    assert 0 < len(table) and sources[0].warped
    x, y = turn * (32, 92)
    lonlat = pyproj.Transformer.from_crs("EPSG:32629", "EPSG:4326", always_xy=True).transform(x, y)
    near = chips(tmp_path / "a.tif", points=[lonlat], place="landmark", size_px=32)[1]
    got = next(imagery.read(sources[0], near))[0]
    rows, columns = np.nonzero(got[..., 0] > 150)
    assert abs(rows.mean() - 15.5) < 1.5 and abs(columns.mean() - 15.5) < 1.5
    assert {why for _, why in pixels(sources, table)} == {None, "all nodata", "too little data"}


def test_raster_turned_by_a_quarter_shows_the_same_pixels(tmp_path):
    array = picture(40, 90)
    upright = chips(write(tmp_path / "a.tif", array))
    assert not upright[0][0].warped
    sideways = Affine(0, 10, 460_000, -10, 0, 4_300_000)
    turned = chips(write(tmp_path / "b.tif", array.transpose(0, 2, 1), transform=sideways))
    assert (turned[0][0].width, turned[0][0].height) == (90, 40)
    assert upright[1]["left_px"].equals(turned[1]["left_px"])
    for (one, _), (two, _) in zip(pixels(*upright[:2]), pixels(*turned[:2]), strict=True):
        assert np.array_equal(one, two)


def test_long_turned_raster_is_as_sharp_as_it_was(tmp_path):
    array = np.full((3, 60, 240), 50, np.uint8)
    array[:, :, ::2] = 250
    turn = Affine.translation(460_000, 4_300_000) * Affine.rotation(80) * Affine.scale(10, -10)
    sources, table, _ = chips(write(tmp_path / "a.tif", array, transform=turn), size_px=16)
    contrasts = [got.std() for got, _ in pixels(sources, table) if got is not None]
    assert len(contrasts) > 5 and min(contrasts) > 40


def test_folder_that_is_called_as_a_raster_is_none(tmp_path):
    write(tmp_path / "scene.tif" / "a.tif", picture(32, 32))
    (source,) = imagery.open_imagery(str(tmp_path), options())
    assert source.file == "scene.tif/a.tif" and source.notes == ()


def test_coarser_chips_come_from_overviews(tmp_path):
    array = np.zeros((3, 512, 512), np.uint8)
    array[:, 1::2, :] = 200  # nearest-neighbour overviews keep the even rows only
    path = write(tmp_path / "a.tif", array, overviews=(2, 4), tiled=True, blockxsize=128, blockysize=128)
    expected = {10.0: 100, 40.0: 0}
    for gsd_m, value in expected.items():
        got = pixels(*chips(path, size_px=64, size_m=64 * gsd_m)[:2])[0][0]
        assert got.mean() == pytest.approx(value, abs=1)


def test_reading_is_repeatable_after_pickling_and_in_any_order(tmp_path):
    sources, table, _ = chips(write(tmp_path / "a.tif", picture(128, 128)), stride=0.5)
    source = pickle.loads(pickle.dumps(sources[0]))
    first = [got for got, _ in imagery.read(source, table)]
    backwards = [got for got, _ in imagery.read(source, table.iloc[::-1])]
    assert all(np.array_equal(a, b) for a, b in zip(first, backwards[::-1]))
    halves = zip(imagery.read(source, table.iloc[:9]), imagery.read(source, table.iloc[9:18]))
    assert all(np.array_equal(a[0], first[i]) and np.array_equal(b[0], first[i + 9]) for i, (a, b) in enumerate(halves))
    again = imagery.open_imagery(str(tmp_path / "a.tif"), options())[0]
    assert again == sources[0]
    write(tmp_path / "a.tif", picture(128, 128, seed=1))
    assert imagery.open_imagery(str(tmp_path / "a.tif"), options())[0].fingerprint != source.fingerprint


# Broken and hostile files


def test_missing_facts_are_named_with_a_remedy(tmp_path):
    with pytest.raises(DataError, match="coordinate system.*rio edit-info --crs"):
        chips(write(tmp_path / "a.tif", picture(64, 64), crs=None))
    with pytest.raises(DataError, match="no geotransform"):
        chips(write(tmp_path / "b.tif", picture(64, 64), transform=Affine.identity()))
    with pytest.raises(DataError, match="does not exist"):
        chips(tmp_path / "none.tif")
    with pytest.raises(ConfigError, match="blue-marble"):
        chips("blue-marble")
    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    with pytest.raises(DataError, match="longitude and latitude|coordinate system"):
        chips(write(tmp_path / "c.tif", picture(64, 64), crs=local))


@pytest.mark.parametrize("content", [b"", b"hello", b"II*\0\xff\xff\xff\xff", b"<VRTDataset/>"])
def test_broken_rasters(tmp_path, content):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(DataError, match="a.tif"):
        chips(path)


def test_other_formats_are_refused(tmp_path):
    path = tmp_path / "a.vrt"
    path.write_text("<VRTDataset/>")
    with pytest.raises(DataError, match="format"):
        chips(path)


def test_truncated_raster_loses_only_the_chips_that_are_cut(tmp_path):
    path = write(tmp_path / "a.tif", picture(256, 64), tiled=True, blockxsize=32, blockysize=32, interleave="pixel")
    sources, table, _ = chips(path)
    os.truncate(path, path.stat().st_size * 2 // 3)
    reasons = [why for _, why in pixels(sources, table)]
    assert reasons[:4] == [None] * 4 and reasons[-1] == "cannot be read" and len(reasons) == 16
    path.unlink()
    with pytest.raises(DataError):
        pixels(sources, table)


def test_folder_of_rasters_with_a_broken_one(tmp_path):
    write(tmp_path / "north" / "a.tif", picture(64, 64))
    write(tmp_path / "south" / "a.tif", picture(64, 64, 1), transform=from_origin(460_000, 4_200_000, 10, 10))
    (tmp_path / "south" / "bad.tif").write_bytes(b"II*\0nothing")
    (tmp_path / "read.me").write_text("hello")
    sources, table, notes = chips(tmp_path)
    assert len(sources) == 2 and len(table) == 8 and table["key"].is_unique
    assert [(note["reason"], note["count"]) for note in notes] == [("raster cannot be used", 1)]
    assert "bad.tif" in notes[0]["examples"][0]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no GeoTIFF"):
        chips(empty)


@pytest.mark.parametrize("prefix", ["", "/vsicurl/"])
def test_references_inside_a_raster_are_not_followed(server, tmp_path, prefix):
    path = write(tmp_path / "a.tif", picture(64, 64))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=f"{prefix}{server.url}/inward.tif")
    with pytest.raises(DataError, match="not followed"):
        chips(path)
    assert server.seen == []


# STAC


def stac_item(name: str, assets: dict, **properties) -> dict:
    place = {"geometry": {"type": "Point", "coordinates": [-9.5, 38.8]}, "bbox": [-9.5, 38.8, -9.4, 38.9]}
    properties = {"datetime": "2024-05-01T00:00:00Z", **properties}
    item = {"type": "Feature", "stac_version": "1.0.0", "id": name, "properties": properties, "links": [], "assets": assets}
    return item | place


def test_stac_items(tmp_path, server):
    write(tmp_path / "data" / "visual.tif", picture(64, 64))
    write(tmp_path / "data" / "b1.tif", picture(64, 64)[0])
    write(tmp_path / "elsewhere.tif", picture(64, 64))
    tiff = {"type": "image/tiff; application=geotiff"}
    single = {"b1": {"href": "./b1.tif", "roles": ["data"], **tiff}}
    items = [
        stac_item(
            "good",
            {**single, "rgb": {"href": "./visual.tif", "roles": ["visual"], **tiff}, "t": {"href": "t.png"}},
            license="CC-BY-4.0",
            providers=[{"name": "Mapper\n<b>"}],
        ),
        stac_item("only", single),
        stac_item("outside", {"visual": {"href": "../elsewhere.tif", **tiff}}),
        stac_item("secret", {"visual": {"href": "/etc/hostname.tif", **tiff}}),
        stac_item("inward", {"visual": {"href": f"{server.url}/visual.tif", **tiff}}),
        stac_item("cloud", {"visual": {"href": "s3://bucket/a.tif", **tiff}}),
        stac_item("nothing", {}),
        {"type": "Feature"},
        "text",
        stac_item("odd", {"visual": {"href": 3}}),
        stac_item("bad", {"visual": {"href": "http://[", **tiff}}),
        {**stac_item("old", single), "type": "Catalog"},
    ]
    path = tmp_path / "data" / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    sources, table, notes = chips(path)
    assert [source.name for source in sources] == ["good", "only"] and len(table) == 8
    assert (sources[0].licence, sources[0].attribution) == ("CC-BY-4.0", "Mapper <b>")
    counted = [note["reason"] for note in notes]
    assert counted.count("asset cannot be used") == 5 and counted.count("not a usable STAC item") == 5
    assert server.seen == []
    path.write_text(json.dumps(items[0]))
    assert len(chips(path)[0]) == 1
    for bad in ("[1, 2]", "{", json.dumps({"features": []}), json.dumps({"features": 3})):
        path.write_text(bad)
        with pytest.raises(DataError, match="items.json"):
            chips(path)


# Names and files


@pytest.mark.parametrize("names", [("ortho.tif", "ortho.tiff"), ("a/ortho.tif", "a-ortho.tif"), ("Ortho.tif", "ortho.gtiff")])
def test_files_with_one_name_stay_two_sources(tmp_path, names):
    arrays = [picture(64, 96), picture(64, 64, seed=1)]
    for number, (name, array) in enumerate(zip(names, arrays)):
        write(tmp_path / name, array, transform=from_origin(460_000 + 10_000 * number, 4_300_000, 10, 10))
    sources, table, notes = chips(tmp_path)
    assert notes == [] and table["key"].is_unique and len(table) == 6 + 4
    assert len({source.name.casefold() for source in sources}) == 2
    by_file = {source.file: source for source in sources}
    assert set(by_file) == set(names)
    for name, array in zip(names, arrays):
        part = table[table["source"] == by_file[name].name]
        assert part["lon"].between(*by_file[name].bbox_lonlat[::2]).all()
        for row, (got, _) in zip(part.itertuples(), imagery.read(by_file[name], part)):
            top, left = int(row.top_px), int(row.left_px)
            assert np.array_equal(got, array[:, top : top + 32, left : left + 32].transpose(1, 2, 0))


def test_names_do_not_change_when_a_folder_grows(tmp_path):
    write(tmp_path / "b.tif", picture(64, 64))
    (alone,) = chips(tmp_path)[0]
    write(tmp_path / "a.tif", picture(64, 64))
    write(tmp_path / "c" / "b.tif", picture(64, 64))
    assert alone.name in {source.name for source in chips(tmp_path)[0] if source.file == "b.tif"}


def test_items_of_one_id_are_two_sources_and_an_item_listed_again_is_one(tmp_path):
    for number, name in enumerate("ab"):
        place = from_origin(460_000 + 10_000 * number, 4_300_000, 10, 10)
        write(tmp_path / f"{name}.tif", picture(64, 64, number), transform=place)
    tiff = {"type": "image/tiff; application=geotiff", "roles": ["visual"]}
    items = [stac_item("T29", {"visual": {"href": f"./{name}.tif", **tiff}}) | {"collection": name} for name in "ab"]
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [*items, items[0], items[1], items[0]]}))
    sources, table, notes = chips(path)
    assert [source.file for source in sources] == ["a.tif", "b.tif"] and len({source.name for source in sources}) == 2
    assert len(table) == 8 and table["key"].is_unique
    assert [(note["reason"], note["count"]) for note in notes] == [("item that is listed again", 3)]
    for number, source in enumerate(sources):
        got = next(imagery.read(source, table[table["source"] == source.name]))[0]
        assert np.array_equal(got, picture(64, 64, number)[:, :32, :32].transpose(1, 2, 0))


def test_bands_of_a_stac_item_are_put_together(tmp_path):
    tiff = {"type": "image/tiff; application=geotiff", "roles": ["data"]}
    assets = {}
    for value, (key, name) in enumerate([("B02", "blue"), ("B03", "green"), ("B04", "red"), ("B08", "nir")], 1):
        write(tmp_path / f"{key}.tif", np.full((64, 64), 10 * value, np.uint8))
        assets[key] = {"href": f"./{key}.tif", "eo:bands": [{"name": key, "common_name": name}], **tiff}
    path = tmp_path / "item.json"
    path.write_text(json.dumps(stac_item("S2", assets)))
    sources, table, _ = chips(path)
    assert sources[0].file == "B04.tif + B03.tif + B02.tif"
    assert pixels(sources, table)[0][0][0, 0].tolist() == [30, 20, 10]


def test_places_that_share_a_key_are_two_chips(tmp_path):
    path = write(tmp_path / "a.tif", picture(200, 200))
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32629", "EPSG:4326", always_xy=True)
    first, second = (to_lonlat.transform(460_000 + 10 * c, 4_300_000 - 1000) for c in (50, 150))
    (tmp_path / "p.csv").write_text(f"lon,lat,key\n{first[0]},{first[1]},school\n{second[0]},{second[1]},school\n")
    chosen = options(place="list", points=str(tmp_path / "p.csv"))
    table, notes = imagery.lay_out(imagery.open_imagery(str(path), chosen), chosen)
    assert len(table) == 2 and table["key"].is_unique
    assert [(note["count"], note["examples"]) for note in notes] == [(2, ["school"])]
