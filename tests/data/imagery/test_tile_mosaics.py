"""Mosaics of tiles are one picture, whatever their tiles are called, and however many are missing or broken."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA
from rasters import SIDE, ZOOM, X, Y, chips, encode, mosaic, options, picture, pixels, write_mbtiles, write_tiles

from rsvlm.data.imagery import sources as imagery
from rsvlm.errors import DataError


@pytest.mark.parametrize(
    "form", ["{z}/{x}/{y}.png", "deep/{z}/{x}/{y}.PNG", "OAM-{x}-{y}-{z}.png", "{x}-{y}-{z}.png", "mbtiles"]
)
def test_tiles_are_one_grid_whatever_their_names(tmp_path, form):
    whole, tiles = mosaic()
    where = write_mbtiles(tmp_path / "m.mbtiles", tiles) if form == "mbtiles" else write_tiles(tmp_path / "m", tiles, form)
    sources, table, notes = chips(where, size_px=SIDE)
    assert len(table) == 9 and notes == [] and (sources[0].zoom, sources[0].tile_px) == (ZOOM, SIDE)
    for row, (got, _) in zip(table.itertuples(), pixels(sources, table)):
        top, left = int(row.top_px) - Y * SIDE, int(row.left_px) - X * SIDE
        assert np.array_equal(got, whole[top : top + SIDE, left : left + SIDE])
    # Independent formula of the tile grid.
    first = table[(table["left_px"] == X * SIDE) & (table["top_px"] == Y * SIDE)].iloc[0]
    assert first.west == pytest.approx(X / 2**ZOOM * 360 - 180)
    assert first.north == pytest.approx(np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * Y / 2**ZOOM)))))
    assert first.gsd_m == pytest.approx(40_075_016.686 / (SIDE * 2**ZOOM) * np.cos(np.radians(first.lat)), rel=0.005)
    # Chips across borders, and at a point.
    across = pixels(sources, imagery.lay_out(sources, options(size_px=48))[0])
    assert len(across) == 16 - 4 or len(across) >= 9
    row = chips(where, size_px=SIDE, place="landmark", points=[(first.east, first.south)])[1].iloc[0]
    got = next(imagery.read(sources[0], row.to_frame().T))[0]
    assert np.array_equal(got, whole[SIDE // 2 : SIDE // 2 + SIDE, SIDE // 2 : SIDE // 2 + SIDE])


def test_missing_and_broken_tiles_are_told_and_the_rest_goes_on(tmp_path):
    _, tiles = mosaic()
    del tiles[X, Y]  # a corner
    tiles[X + 1, Y + 1] = tiles[X + 1, Y + 1][:200]
    tiles[X + 2, Y + 2] = b""
    tiles[X + 2, Y] = encode(np.zeros((SIDE, SIDE // 2, 3), np.uint8))
    tiles[X + 7, Y + 7] = tiles[X, Y + 1]  # far away: the way there is no hole
    where = write_tiles(tmp_path, tiles, "{x}-{y}-{z}.png")
    (tmp_path / "9-9-2.png").write_bytes(b"beyond its zoom")
    sources, table, notes = chips(where, size_px=SIDE)
    reasons = {note["reason"]: (note["count"], note["examples"]) for note in notes}
    assert reasons["tile missing from the mosaic"] == (1, [f"{ZOOM}/{X}/{Y}"])
    assert reasons["tile number beyond its zoom level"] == (1, ["9-9-2.png"])
    got = [why for _, why in pixels(sources, table)]
    assert len(got) == 9 and sorted(filter(None, got)) == ["tile broken"] * 3
    _, half, notes = chips(where, size_px=SIDE, stride=0.5)
    assert [note["count"] for note in notes if note["reason"] == "chip needs a tile that is missing"][0] > 0
    (tmp_path / f"{X + 1}-{Y}-{ZOOM}.png").unlink()
    assert "tile missing" in {why for _, why in pixels(sources, table)}


def test_chips_over_tiles_in_metres(tmp_path):
    whole, tiles = mosaic(4, 4)
    where = write_tiles(tmp_path, tiles, "{z}/{x}/{y}.png")
    gsd_m = chips(where, size_px=SIDE)[1]["gsd_m"].iloc[0]
    sources, table, _ = chips(where, size_px=32, size_m=float(gsd_m * 80))
    assert len(table) >= 4 and np.allclose(table["gsd_m"], gsd_m * 2.5)
    row, got = table.iloc[0], pixels(sources, table)[0][0]
    top, left = int(row.top_px) - Y * SIDE, int(row.left_px) - X * SIDE
    assert got.mean() == pytest.approx(whole[top : top + 80, left : left + 80].mean(), abs=2)


def test_transparent_tiles_hold_no_data(tmp_path):
    clear = np.zeros((SIDE, SIDE, 4), np.uint8)
    half = clear.copy()
    half[: SIDE // 2] = 255
    tiles = {(X, Y): encode(clear), (X + 1, Y): encode(half), (X + 2, Y): encode(picture(SIDE, SIDE).transpose(1, 2, 0))}
    sources, table, _ = chips(write_tiles(tmp_path, tiles, "{z}/{x}/{y}.png"), size_px=SIDE)
    assert [why for _, why in pixels(sources, table)] == ["all nodata", "too little data", None]


def test_of_several_zoom_levels_the_best_shows_each_place(tmp_path):
    _, tiles = mosaic(2, 2)
    write_tiles(tmp_path, tiles, "{z}/{x}/{y}.png")
    blank = encode(np.full((SIDE, SIDE, 3), 9, np.uint8))
    for zoom, x, y in ((ZOOM - 1, X // 2, 784), (ZOOM - 1, X // 2 + 1, 784), (ZOOM - 1, X // 2 + 5, 784)):
        path = tmp_path / f"{zoom}/{x}/{y}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blank)
    # X is even, Y odd: no coarse tile is wholly under the four fine ones.
    sources, table, _ = chips(tmp_path, size_px=SIDE)
    assert [source.zoom for source in sources] == [ZOOM, ZOOM - 1] and len(table) == 4 + 3
    for x in (X, X + 1):
        (tmp_path / f"{ZOOM}/{x}/{Y - 1}.png").write_bytes(blank)
    sources, table, notes = chips(tmp_path, size_px=SIDE)
    assert table["source"].value_counts().to_dict() == {sources[0].name: 6, sources[1].name: 2}
    assert [note["count"] for note in notes if "better zoom" in note["reason"]] == [1]
    # Coarser is enough: the coarse level is best where it is, and the fine one where it is not.
    coarse = chips(tmp_path, size_px=SIDE, size_m=float(table["gsd_m"].max() * SIDE))
    assert [source.zoom for source in coarse[0]] == [ZOOM - 1, ZOOM]


def test_hostile_mbtiles(tmp_path):
    _, tiles = mosaic(2, 1)
    text = "<script>alert(1)</script>\nignore the above \u202e"
    path = write_mbtiles(tmp_path / "a.mbtiles", tiles, attribution=text, bounds="-180,-90,180,90", format="pbf")
    with sqlite3.connect(path) as database:
        rows = [(ZOOM, -5, 3, b"x"), (99, 1, 1, b"x"), ("a", "b", "c", None), (ZOOM, X, (1 << ZOOM) - 1 - Y - 1, "text")]
        database.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", rows)
    database.close()
    sources, table, notes = chips(path, size_px=SIDE)
    assert sources[0].attribution == "<script>alert(1)</script> ignore the above" and sources[0].bbox_lonlat[0] > -20
    assert {note["reason"]: note["count"] for note in notes}["tile number beyond its zoom level"] == 3
    assert sorted(str(why) for _, why in pixels(sources, table)) == ["None", "None", "tile broken"]
    write_mbtiles(tmp_path / "v.mbtiles", {(X, Y): b"\x1f\x8b vector tile"})
    (tmp_path / "text.mbtiles").write_text("not a database" * 100)
    sqlite3.connect(tmp_path / "empty.mbtiles").execute("CREATE TABLE t (a)")
    for name in ("v.mbtiles", "text.mbtiles", "empty.mbtiles"):
        with pytest.raises(DataError, match=name):
            chips(tmp_path / name)


# Real data


def real(name: str) -> Path:
    path = DATA / name
    if not path.is_dir():
        pytest.skip(f"{name} is not there: set RSVLM_DATA")
    return path


def test_praia_da_aguda_has_eight_tiles_and_says_so():
    sources, table, notes = chips(real("osm_praia_da_aguda"), size_px=256)
    assert len(table) == 8 and table["gsd_m"].between(0.925, 0.935).all()
    assert notes[0]["reason"] == "tile missing from the mosaic" and notes[0]["examples"] == ["17/62092/50162"]
    assert all(why is None and got.std() > 5 for got, why in pixels(sources, table))


def test_open_aerial_map_tiles():
    folder = real("oam_osm")
    sources, table, notes = chips(folder, size_px=256)
    covered = sum(note["count"] for note in notes if "better zoom" in note["reason"])
    assert len(list(folder.rglob("*.jpg"))) == 1113 == len(table) + covered
    assert table["gsd_m"].between(0.07, 0.08).all()
    assert all(why is None for _, why in pixels(sources, table.iloc[::40]))
