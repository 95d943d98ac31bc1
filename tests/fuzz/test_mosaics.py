"""Tiles and folders: a pyramid shows what the raster it was cut from shows, and what lies in a folder is shown once or has a reason."""

from __future__ import annotations

import io
import json
import sqlite3
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import strategies as st
from PIL import Image

from rsvlm import config
from rsvlm.data.imagery import sources as imagery

pytest.importorskip("pyproj")
rasterio = pytest.importorskip("rasterio")
from rasterio.transform import from_origin  # noqa: E402

SIDE = 64
MERCATOR_M = 20_037_508.342789244


def encode(rgba: np.ndarray, kind: str) -> bytes:
    """A tile (SIDE, SIDE, 4) without loss, in one of the forms that tiles have."""
    image = Image.fromarray(rgba)
    if kind == "RGB":
        image = image.convert("RGB")
    elif kind == "P":  # a table of colours, the first of which is transparent
        table, numbers = np.unique(rgba[..., :3].reshape(-1, 3), axis=0, return_inverse=True)
        numbers = np.where(rgba[..., 3] > 0, numbers.reshape(rgba.shape[:2]) + 1, 0).astype(np.uint8)
        image = Image.fromarray(numbers, "P")
        image.putpalette([0, 0, 0, *table.reshape(-1).tolist()])
        image.info["transparency"] = 0
    buffer = io.BytesIO()
    image.save(buffer, "WEBP" if kind == "WEBP" else "PNG", **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def ground_of(seed: int, columns: int, rows: int) -> np.ndarray:
    """(H, W, 3) of few colours, whose lines and columns all differ."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(1, 256, (40, 3), dtype=np.uint8)
    return colours[rng.integers(0, 40, (rows * SIDE, columns * SIDE))]


def write_tiles(folder: Path, tiles: dict, zoom: int, form: str, before: str, ending: str) -> Path:
    """Write tiles {(column, row): bytes}, rows from the north."""
    last = (1 << zoom) - 1
    if form == "mbtiles":
        path = folder / "some tiles.mbtiles"
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB)")
            database.execute("CREATE TABLE metadata (name TEXT, value TEXT)")
            database.executemany(
                "INSERT INTO tiles VALUES (?, ?, ?, ?)", [(zoom, x, last - y, data) for (x, y), data in tiles.items()]
            )
            database.execute("INSERT INTO metadata VALUES ('scheme', 'tms')")
        database.close()
        return path
    for (x, y), data in tiles.items():
        row = last - y if form in ("tms", "tilejson") else y
        name = f"{before}{x}-{row}-{zoom}" if form == "flat" else f"{before}{zoom}/{x}/{row}"
        file = folder / f"{name}{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    beside = (folder / f"{before}x").parent
    if form == "tms":
        (beside / "tilemapresource.xml").write_text(
            '<TileMap version="1.0.0"><SRS>EPSG:900913</SRS><TileSets profile="mercator"/></TileMap>'
        )
    if form in ("tilejson", "stated"):
        (beside / "tiles.json").write_text(json.dumps({"tiles": ["x"], "scheme": "tms" if form == "tilejson" else "xyz"}))
    return folder


@fuzz(
    zoom=st.integers(3, 18), corner=st.tuples(st.floats(0, 1), st.floats(0.1, 0.9)), columns=st.integers(1, 4), rows=st.integers(1, 4),
    form=st.sampled_from(["xyz", "stated", "tms", "tilejson", "flat", "mbtiles"]), kind=st.sampled_from(["RGB", "RGBA", "P", "WEBP"]),
    before=st.sampled_from(["", "", "set a/", "deep/er/", "pre-"]), size=st.sampled_from([16, 24, 32, 64, 100, 128]),
    stride=st.sampled_from([1.0, 0.5]), seed=st.integers(0, 2**31), least=st.sampled_from([0.0, 0.9]),
)  # fmt: skip
def test_tiles_show_what_they_were_cut_from(zoom, corner, columns, rows, form, kind, before, size, stride, seed, least):
    rng, world = np.random.default_rng(seed), 1 << zoom
    columns, rows = min(columns, world), min(rows, world)
    x, y = int(corner[0] * (world - columns)), int(corner[1] * (world - rows))
    if before == "pre-" and form != "flat":
        before = ""
    picture = ground_of(seed, columns, rows)
    seen = np.ones(picture.shape[:2], bool)
    if kind != "RGB":
        seen[: rng.integers(0, rows * SIDE), : rng.integers(0, columns * SIDE)] = False
    rgba = np.concatenate([picture, np.where(seen, 255, 0).astype(np.uint8)[..., None]], axis=2)
    fate = rng.choice(["there", "missing", "broken"], (rows, columns), p=[0.8, 0.1, 0.1])
    fate[rng.integers(rows), rng.integers(columns)] = "there"
    tiles = {}
    for r, c in np.ndindex(rows, columns):
        data = encode(rgba[r * SIDE : (r + 1) * SIDE, c * SIDE : (c + 1) * SIDE], kind)
        if fate[r, c] != "missing":
            tiles[x + c, y + r] = data if fate[r, c] == "there" else data[: len(data) // 2]
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        order = "xyz" if form in ("xyz", "flat") else "auto"
        where = write_tiles(Path(name), tiles, zoom, form, before, ".webp" if kind == "WEBP" else ".png")
        options = config.Chips(size_px=size, stride=stride, min_valid_share=least, tile_rows=order)
        (source,) = imagery.open_imagery(str(where), options)
        # Every window of the grid that touches a tile is a chip, or needs a tile that is missing.
        step = size * stride
        there = {(c, r) for r, c in np.ndindex(rows, columns) if fate[r, c] != "missing"}
        windows = {}
        for i in range(int((x * SIDE - size) // step), int(((x + columns) * SIDE) // step) + 2):
            for j in range(int((y * SIDE - size) // step), int(((y + rows) * SIDE) // step) + 2):
                left, top = i * step - x * SIDE, j * step - y * SIDE
                under = {(c, r) for c in range(int(left // SIDE), int(-(-(left + size) // SIDE)))
                         for r in range(int(top // SIDE), int(-(-(top + size) // SIDE)))}  # fmt: skip
                if i >= 0 and j >= 0 and under & there:
                    windows[left + x * SIDE, top + y * SIDE] = under <= there
        if not any(windows.values()):
            with pytest.raises(Exception, match="no chip of"):
                imagery.lay_out([source], options)
            return
        table, notes = imagery.lay_out([source], options)
        kept, whole = set(zip(table["left_px"], table["top_px"])), {place for place, is_whole in windows.items() if is_whole}
        assert kept == whole, kept ^ whole
        lacking = sum(note["count"] for note in notes if note["reason"] == "chip needs a tile that is missing")
        world_wide = any(left + size > world * SIDE or top + size > world * SIDE for left, top in windows)
        assert world_wide or stride < 1 or lacking == len(windows) - len(table)
        for chip, (pixels, reason) in zip(table.itertuples(), imagery.read(source, table), strict=True):
            left, top = int(chip.left_px) - x * SIDE, int(chip.top_px) - y * SIDE
            place = np.s_[top : top + size, left : left + size]
            of_tiles = np.s_[top // SIDE : -(-(top + size) // SIDE), left // SIDE : -(-(left + size) // SIDE)]
            if (fate[of_tiles] == "broken").any():
                assert reason == "tile broken"
            elif seen[place].mean() < least or not seen[place].any():
                assert reason == ("too little data" if seen[place].any() else "all nodata")
            else:
                assert np.array_equal(pixels, np.where(seen[place][..., None], picture[place], 0)), kind
            # The place, by the rule of Web Mercator.
            for at, edge in ((chip.west, chip.left_px), (chip.east, chip.left_px + size)):
                assert abs((at - (edge / (SIDE << zoom) * 360 - 180) + 180) % 360 - 180) < 1e-9
            for at, edge in ((chip.north, chip.top_px), (chip.south, chip.top_px + size)):
                assert abs(at - np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * edge / (SIDE << zoom)))))) < 1e-9


NAMES = ("scene", "Scene", "SCENE", "the scene", "the-scene", "the_scene", "szene é", "scene.v2", "scene_mask", "ortho_2020-01-01",
         "a-very-long-name-of-a-scene-that-goes-on-and-on", "a-very-long-name-of-a-scene-that-goes-on-and-on-2", "x-1-2", "scene-8a1f03",
         "B02", "S2A_B02", "S2A_B03", "S2A_B04", "S2A_B8A", "S2A_SCL", "S2A_TCI", "LC08_SR_B4", "LC08_SR_B3", "LC08_SR_B2", "LC08_QA_PIXEL",
         "red", "green", "blue", "nir", "B4", "b04", "_", "über/..", "3", "12-7-4")  # fmt: skip
FOLDERS = ("", "a", "A", "a/b", "a-b", "R10m", "R20m", "b.tif")


@dataclass(frozen=True)
class Named:
    """What of a source decides its name."""

    name: str
    path: str
    bands_at: tuple[str, ...] = ()
    file: str = ""


@fuzz(
    files=st.lists(st.tuples(st.sampled_from(FOLDERS), st.sampled_from(NAMES)), min_size=1, max_size=8, unique=True),
    data=st.data(),
)
def test_sources_that_share_a_name_are_told_apart_by_their_files_alone(files, data):
    named = [Named(stem, f"/imagery/{folder}/{stem}.tif".replace("//", "/")) for folder, stem in files]
    apart = imagery._told_apart(named, Path("/imagery"))
    assert [Path("/imagery", source.file) for source in apart] == [Path(source.path) for source in named]
    shared = Counter(source.name.casefold() for source in named)
    assert all(now.name == was.name for now, was in zip(apart, named, strict=True) if shared[was.name.casefold()] == 1)
    again = imagery._told_apart(data.draw(st.permutations(named)), Path("/imagery"))
    assert {source.file: source.name for source in again} == {source.file: source.name for source in apart}
    # One that is called already what another would be called.
    taken = data.draw(st.sampled_from([str, str.upper]))(data.draw(st.sampled_from(apart)).name)
    for some in (named + [Named(taken, "/imagery/z/z.tif")], [Named(taken, "/imagery/z/z.tif"), *named]):
        assert len({source.name.casefold() for source in imagery._told_apart(some, Path("/imagery"))}) == len(some)


@fuzz(
    files=st.lists(
        st.tuples(
            st.sampled_from(FOLDERS), st.sampled_from(NAMES), st.sampled_from([".tif", ".TIF", ".tiff", ".gtiff"]),
            st.sampled_from([1, 3, 3, 4]), st.sampled_from(["good", "good", "good", "good", "empty", "text", "placeless", "cut"]),
        ),
        min_size=1, max_size=10,
    ),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_each_file_of_a_folder_is_shown_or_has_a_reason(files, seed):
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root, written = Path(name), {}
        for folder, stem, ending, bands, state in files:
            path = root / folder / f"{stem.replace('/..', '')}{ending}"
            if path.is_dir() or path in written or any(parent in written for parent in path.parents):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(1, 256, (bands, 24, 40), dtype=np.uint8)
            where = {} if state == "placeless" else {"crs": "EPSG:32629", "transform": from_origin(460_000, 4_300_000, 10, 10)}
            with rasterio.open(path, "w", driver="GTiff", width=40, height=24, count=bands, dtype="uint8", **where) as file:
                file.write(pixels)
                if bands >= 3:
                    file.colorinterp = [
                        *[rasterio.enums.ColorInterp(number) for number in (3, 4, 5)],
                        *[rasterio.enums.ColorInterp.undefined] * (bands - 3),
                    ]
            if state in ("empty", "text"):
                path.write_bytes(b"" if state == "empty" else b"not a picture at all")
            elif state == "cut":
                path.write_bytes(path.read_bytes()[:60])
            written[path] = (pixels, state)
        options = config.Chips(size_px=16, min_valid_share=0, nodata="file")
        try:
            sources = imagery.open_imagery(str(root), options)
        except Exception as error:
            assert "holds no usable imagery" in str(error)
            return
        shown = [Path(path) for source in sources for path in source.bands_at or [source.path]]
        assert len(shown) == len(set(shown))
        notes = Counter({note[0]: note[1] for note in []})
        for source in sources:
            for reason, count, _ in source.notes:
                notes[reason] += count
        assert len(shown) + sum(notes.values()) == len(written), (shown, notes)
        assert len({source.name.casefold() for source in sources}) == len(sources)
        table, told = imagery.lay_out(sources, options)
        assert table["key"].is_unique and len(table) == 2 * len(sources)
        assert "same chip twice" not in {note["reason"] for note in told}
        for source in sources:
            bands = [written[Path(path)][0] for path in source.bands_at] or [written[Path(source.path)][0]]
            picture = np.stack([band[0] for band in bands]) if source.bands_at else bands[0]
            picture = picture[:3] if len(picture) >= 3 else np.repeat(picture[:1], 3, 0)
            for chip, (pixels, reason) in zip(
                table[table["source"] == source.name].itertuples(),
                imagery.read(source, table[table["source"] == source.name]),
                strict=True,
            ):
                assert reason is None
                assert np.array_equal(pixels, picture.transpose(1, 2, 0)[:16, int(chip.left_px) : int(chip.left_px) + 16])
