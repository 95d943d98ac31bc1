"""Rows of tiles count from the north or from the south, and imagery lies where it is."""

from __future__ import annotations

import json
import logging
import sqlite3

import numpy as np
import pytest
from rasters import SIDE, ZOOM, X, Y, chips, encode, mosaic, options, pixels, write_mbtiles, write_tiles

from rsvlm.data.imagery import sources as imagery, tile_mosaics, tile_rows
from rsvlm.errors import DataError

FLIP = (1 << ZOOM) - 1
BOUNDS = (X / 2**ZOOM * 360 - 180, 38.0, (X + 3) / 2**ZOOM * 360 - 180, 39.5)  # where the tiles of `mosaic` are


def smooth(columns: int = 3, rows: int = 3) -> tuple[np.ndarray, dict]:
    """A picture whose neighbouring tiles continue each other, and its tiles."""
    y, x = np.mgrid[: rows * SIDE, : columns * SIDE] / SIDE
    whole = np.stack([60 + 40 * y + 20 * np.sin(5 * x), 200 - 30 * y, 50 + 30 * x], 2).clip(0, 255).astype(np.uint8)
    cut = {
        (X + c, Y + r): encode(np.ascontiguousarray(whole[r * SIDE : r * SIDE + SIDE, c * SIDE : c * SIDE + SIDE]))
        for c in range(columns)
        for r in range(rows)
    }
    return whole, cut


def from_south(tiles: dict) -> dict:
    """The same tiles, numbered as TMS does."""
    return {(x, FLIP - y): data for (x, y), data in tiles.items()}


def check(where, whole, **values):
    """The imagery lies in Portugal, and every chip shows its own place."""
    sources, table, _ = chips(where, size_px=SIDE, **values)
    assert len(table) == 9 and table["lat"].between(38.0, 39.5).all()
    for row, (got, _) in zip(table.itertuples(), pixels(sources, table), strict=True):
        top, left = int(row.top_px) - Y * SIDE, int(row.left_px) - X * SIDE
        assert np.array_equal(got, whole[top : top + SIDE, left : left + SIDE])
    x, y = (int(v) // SIDE for v in table[["left_px", "top_px"]].iloc[0])
    if sources[0].kind == "tiles":
        assert (where / tile_mosaics.file_of(sources[0], x, y)).is_file()


TILE_MAP = """<?xml version="1.0" encoding="utf-8"?>
<TileMap version="1.0.0"><Title>a</Title><SRS>{srs}</SRS>
<BoundingBox minx="{0}" miny="{1}" maxx="{2}" maxy="{3}"/><TileSets profile="{profile}"/></TileMap>"""
METRES = (-1_055_000, 4_580_000, -1_030_000, 4_780_000)
OLDER = (BOUNDS[1], BOUNDS[0], BOUNDS[3], BOUNDS[2])  # latitude first


@pytest.mark.parametrize("form", ["{z}/{x}/{y}.png", "deep/{z}/{x}/{y}.png", "{x}-{y}-{z}.png"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tilemapresource.xml", TILE_MAP.format(*BOUNDS, srs="EPSG:3857", profile="mercator")),
        ("tilemapresource.xml", TILE_MAP.format(*METRES, srs="EPSG:3857", profile="mercator")),
        ("tilemapresource.xml", TILE_MAP.format(*OLDER, srs="EPSG:900913", profile="global-mercator")),
        ("tilemapresource.xml", TILE_MAP.format("", "", "", "", srs="OSGEO:41001", profile="mercator")),
        ("tilejson.json", json.dumps({"tilejson": "3.0.0", "scheme": "tms", "tiles": ["a/{z}/{x}/{y}.png"]})),
        ("tiles.json", json.dumps({"tiles": ["https://example.org/{z}/{x}/{-y}.png"]})),
        ("metadata.json", json.dumps({"bounds": ",".join(map(str, BOUNDS))})),
        ("metadata.json", json.dumps({"bounds": BOUNDS, "scheme": "xyz"})),  # the bounds can be checked, the word cannot
    ],
)
def test_files_beside_tiles_are_asked(tmp_path, form, name, content):
    whole, tiles = mosaic()
    write_tiles(tmp_path, from_south(tiles), form)
    (tmp_path / form.rpartition("{z}")[0].replace("{x}-{y}-", "") / name).write_text(content)
    check(tmp_path, whole)


def test_bounds_that_fit_rows_from_the_north_keep_them(tmp_path):
    """Some writers leave a tilemapresource.xml beside tiles of the other order."""
    whole, tiles = mosaic()
    write_tiles(tmp_path, tiles, "{z}/{x}/{y}.png")
    (tmp_path / "tilemapresource.xml").write_text(TILE_MAP.format(*BOUNDS, srs="EPSG:3857", profile="mercator"))
    check(tmp_path, whole)


def test_an_option_decides(tmp_path):
    whole, tiles = mosaic()
    write_tiles(tmp_path / "tms", from_south(tiles), "{z}/{x}/{y}.png")
    check(tmp_path / "tms", whole, tile_rows="tms")
    assert chips(tmp_path / "tms", tile_rows="xyz")[1]["lat"].max() < -38
    check(write_mbtiles(tmp_path / "a.mbtiles", from_south(tiles)), whole, tile_rows="xyz")


def test_where_nothing_is_said_pictures_that_continue_each_other_are_asked(tmp_path, caplog):
    whole, tiles = smooth()
    with caplog.at_level(logging.WARNING):
        check(write_tiles(tmp_path / "xyz", tiles, "{z}/{x}/{y}.png"), whole)
        assert not caplog.records
        check(write_tiles(tmp_path / "tms", from_south(tiles), "{z}/{x}/{y}.png"), whole)
    assert len(caplog.records) == 1 and "chips.tile_rows" in caplog.text and "TMS" in caplog.text


def test_what_has_to_be_guessed_is_told_once_with_both_places_and_the_option(tmp_path, caplog):
    _, tiles = mosaic()
    with caplog.at_level(logging.WARNING):
        chips(write_tiles(tmp_path, tiles, "{z}/{x}/{y}.png"))
    assert len(caplog.records) == 1
    assert all(words in caplog.text for words in ("N as XYZ", "S as TMS", "chips.tile_rows", "--tile-rows"))


@pytest.mark.parametrize("said", [{"scheme": "xyz"}, {"bounds": ",".join(map(str, BOUNDS))}, {}])
def test_mbtiles_whose_rows_count_from_the_north_against_the_standard(tmp_path, said, caplog):
    whole, tiles = smooth()
    with caplog.at_level(logging.WARNING):
        check(write_mbtiles(tmp_path / "north.mbtiles", from_south(tiles), **said), whole)  # the writer turns them
        assert bool(caplog.records) == (not said)
        caplog.clear()
        check(write_mbtiles(tmp_path / "south.mbtiles", tiles, **{k: v for k, v in said.items() if k != "scheme"}), whole)
        assert not caplog.records


def test_sets_of_both_orders_in_one_folder(tmp_path):
    whole, tiles = mosaic()
    west = {xy: data for xy, data in tiles.items() if xy[0] == X}
    east = {xy: data for xy, data in tiles.items() if xy[0] > X}
    write_tiles(tmp_path, west, "a/{z}/{x}/{y}.png")
    write_tiles(tmp_path, from_south(east), "b/{z}/{x}/{y}.png")
    (tmp_path / "a" / "tilejson.json").write_text('{"scheme": "xyz"}')
    (tmp_path / "b" / "tilejson.json").write_text('{"scheme": "tms"}')
    check(tmp_path, whole)


def test_a_tile_that_is_there_twice_is_counted(tmp_path):
    _, tiles = mosaic()
    write_tiles(tmp_path, tiles, "2019/{z}/{x}/{y}.png")
    write_tiles(tmp_path, {(X, Y): tiles[X, Y]}, "2023/{z}/{x}/{y}.png")
    _, table, notes = chips(tmp_path, size_px=SIDE, tile_rows="xyz")
    assert len(table) == 9
    assert [(note["reason"], note["count"], note["examples"]) for note in notes] == [
        (tile_mosaics.TWICE, 1, [f"2023/{ZOOM}/{X}/{Y}.png"])
    ]


@pytest.mark.parametrize(
    ("said", "values", "told"),
    [
        ({"tiles": ["https://tiles.example/{z}/{y}/{x}"]}, {}, ""),
        ({"bounds": BOUNDS}, {}, "the bounds of tilejson.json fit"),
        ({}, {}, "their pictures continue each other as z/y/x"),
        ({}, {"tile_rows": "zyx"}, ""),
    ],
)
def test_folders_of_rows_are_told_from_folders_of_columns(tmp_path, said, values, told, caplog):
    whole, tiles = smooth()
    write_tiles(tmp_path / "tiles", tiles, "{z}/{y}/{x}.png")
    if said:
        (tmp_path / "tiles" / "tilejson.json").write_text(json.dumps(said))
    with caplog.at_level(logging.WARNING):
        check(tmp_path / "tiles", whole, **values)
    assert (told in caplog.text and "chips.tile_rows (--tile-rows" in caplog.text) if told else not caplog.text
    caplog.clear()
    with pytest.raises(AssertionError):  # which the option decides
        check(tmp_path / "tiles", whole, tile_rows="xyz")


@pytest.mark.parametrize(("srs", "profile"), [("EPSG:4326", "geodetic"), ("", "raster"), ("EPSG:3763", "")])
def test_tiles_of_other_grids_are_left_out_and_counted(tmp_path, srs, profile):
    _, tiles = mosaic()
    write_tiles(tmp_path / "in", tiles, "other/{z}/{x}/{y}.png")
    (tmp_path / "in" / "other" / "tilemapresource.xml").write_text(TILE_MAP.format(*BOUNDS, srs=srs, profile=profile))
    with pytest.raises(DataError, match="another grid than Web Mercator.*9, as"):
        chips(tmp_path / "in")
    write_tiles(tmp_path / "in", {(X + 5, Y): tiles[X, Y]}, "good/{z}/{x}/{y}.png")
    _, table, notes = chips(tmp_path / "in", size_px=SIDE)
    assert len(table) == 1 and [(note["reason"], note["count"]) for note in notes] == [(tile_mosaics.OTHER_GRID, 9)]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"<a", b"\xff\xfe", b"[1]", b'{"bounds": [1, 2]}', b'{"bounds": "x,y,z,w", "scheme": 3}', b"{" * 100_000,
        b'<!DOCTYPE a [<!ENTITY b "c">]><TileMap><SRS>&b;</SRS></TileMap>', b'{"bounds": [NaN, 0, 1, 1], "tiles": 5}',
    ],
)  # fmt: skip
def test_broken_and_hostile_files_say_nothing(tmp_path, content):
    for name in tile_rows.FILES:
        (tmp_path / name).write_bytes(content)
    statement = tile_rows.read_statement(tmp_path)
    assert (statement.bounds, statement.other_grid) == (None, "") and statement.rows in ("", "tms")


def test_an_mbtiles_file_of_one_tile_of_the_world(tmp_path):
    path = tmp_path / "w.mbtiles"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB)")
        database.execute("INSERT INTO tiles VALUES (0, 0, 0, ?)", [encode(np.full((64, 64, 3), 9, np.uint8))])
    database.close()
    assert len(imagery.open_imagery(str(path), options())) == 1
