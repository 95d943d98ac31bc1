"""An index that is brought up to date: what is done is kept, what is new is done, what is gone is dropped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from rasters import ZOOM, mosaic, picture, write, write_tiles
from searching import tiny_model

from rsvlm.data.imagery import sources as imagery
from rsvlm.errors import ConfigError, DataError
from rsvlm.records import files
from rsvlm.search import index as archive, index_parts

from_origin = pytest.importorskip("rasterio.transform").from_origin

TEXTS = ["a red field", "a blue lake"]
FILES = ("index.json", "vectors.npy", "chips.parquet")


def scene(folder: Path, name: str, seed: int, side: int = 96) -> Path:
    place = from_origin(460_000 + 2000 * seed, 4_300_000, 10, 10)
    return write(folder / f"{name}.tif", picture(side, side, seed), transform=place)


def content(folder: Path) -> dict[str, bytes]:
    """What an index holds, without how much of it was new."""
    held = {name: (folder / name).read_bytes() for name in FILES}
    start, _, rest = held["index.json"].partition(b'"embedded": ')
    return held | {"index.json": start + rest.partition(b",")[2]}


class Stopped(Exception):
    """Stands for a kill."""


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(index_parts, "CHIPS", 4)


def test_what_is_new_is_embedded_and_what_is_gone_is_dropped(tmp_path, small_parts):
    model = tiny_model(TEXTS)
    for number, name in enumerate("abc"):
        scene(tmp_path / "in", name, number)
    first = archive.index(tmp_path / "in", model, tmp_path / "out", progress=False)
    assert first["embedded"] == first["chips"] == 27
    before = archive.open_index(tmp_path / "out").rows(range(27))
    # Nothing new: nothing is embedded, and all bytes are the same.
    held = content(tmp_path / "out")
    assert archive.index(tmp_path / "in", model, tmp_path / "out", progress=False)["embedded"] == 0
    assert content(tmp_path / "out") == held
    # One goes, one comes, one has other pixels.
    (tmp_path / "in" / "b.tif").unlink()
    scene(tmp_path / "in", "d", 3)
    scene(tmp_path / "in", "c", 7)
    assert archive.index(tmp_path / "in", model, tmp_path / "out", progress=False)["embedded"] == 18
    index = archive.open_index(tmp_path / "out")
    assert index.chips["source"].unique().tolist() == ["a", "c", "d"] and len(index) == 27
    assert index.rows(range(9)).drop(columns="outline").equals(before.iloc[:9].drop(columns="outline"))
    # It is what an index made at once is.
    archive.index(tmp_path / "in", model, tmp_path / "fresh", progress=False)
    assert content(tmp_path / "fresh") == content(tmp_path / "out")
    assert archive.index(tmp_path / "in", model, tmp_path / "out", fresh=True, progress=False)["embedded"] == 27
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES)


def test_a_stopped_indexing_goes_on_and_the_old_index_answers_until_then(tmp_path, small_parts, monkeypatch):
    model = tiny_model(TEXTS)
    scene(tmp_path / "in", "a", 0)
    archive.index(tmp_path / "in", model, tmp_path / "out", progress=False)
    old = content(tmp_path / "out")
    scene(tmp_path / "in", "b", 1)
    scene(tmp_path / "in", "c", 2)
    read = imagery.read

    def stopping(source, chips):
        if source.name == "c":
            raise Stopped
        yield from read(source, chips)

    with monkeypatch.context() as patch:
        patch.setattr(index_parts.imagery, "read", stopping)
        with pytest.raises(Stopped):
            archive.index(tmp_path / "in", model, tmp_path / "out", progress=False)
    assert content(tmp_path / "out") == old and len(archive.query(tmp_path / "out", TEXTS[:1], model, k=99)) == 9
    # A file of a part that was cut short counts for nothing.
    done = sorted((tmp_path / "out" / "parts").glob("*.parquet"))
    assert len(done) == 3
    done[0].write_bytes(done[0].read_bytes()[:100])
    facts = archive.index(tmp_path / "in", model, tmp_path / "out", progress=False)
    assert facts["chips"] == 27 and 9 < facts["embedded"] <= 9 + 4
    archive.index(tmp_path / "in", model, tmp_path / "fresh", progress=False)
    assert content(tmp_path / "fresh") == content(tmp_path / "out")


def test_a_kill_between_the_files_is_seen_and_mended_without_embedding(tmp_path, monkeypatch):
    model = tiny_model(TEXTS)
    scene(tmp_path / "in", "a", 0)
    archive.index(tmp_path / "in", model, tmp_path / "out", progress=False)
    scene(tmp_path / "in", "b", 1)
    replace, replaced = os.replace, []

    def stopping(old, new):
        if Path(new).name == "vectors.npy":
            raise Stopped
        replaced.append(Path(new).name)
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", stopping)
        with pytest.raises(Stopped):
            archive.index(tmp_path / "in", model, tmp_path / "out", progress=False)
    assert replaced[-1] == "chips.parquet"
    with pytest.raises(DataError, match="not of one indexing"):
        archive.query(tmp_path / "out", TEXTS[:1], model)
    shutil.rmtree(tmp_path / "out" / "parts")
    facts = archive.index(tmp_path / "in", model, tmp_path / "out", progress=False)
    assert facts["embedded"] == 0 and facts["chips"] == 18
    assert len(archive.query(tmp_path / "out", TEXTS[:1], model, k=99)) == 18


def test_two_at_once_are_told_apart(tmp_path):
    scene(tmp_path / "in", "a", 0)
    with files.sole_writer(tmp_path / "out"), pytest.raises(DataError, match="is being written by process"):
        archive.index(tmp_path / "in", tiny_model(TEXTS), tmp_path / "out", progress=False)


def test_another_model_or_other_options_embed_anew(tmp_path):
    scene(tmp_path / "in", "a", 0)
    model, out = tiny_model(TEXTS), tmp_path / "out"
    archive.index(tmp_path / "in", model, out, progress=False)
    assert archive.index(tmp_path / "in", tiny_model(TEXTS, seed=1), out, progress=False)["embedded"] == 9
    assert archive.index(tmp_path / "in", model, out, progress=False)["embedded"] == 9
    assert archive.index(tmp_path / "in", model, out, stride=0.5, progress=False)["embedded"] == 25
    assert archive.index(tmp_path / "in", model, out, stride=0.5, bands=(3, 2, 1), progress=False)["embedded"] == 25


def test_values_stay_what_they_were_when_scenes_come(tmp_path, caplog):
    for name, factor in (("sea", 3), ("town", 12)):
        write(tmp_path / "in" / f"{name}.tif", picture(64, 64).astype(np.uint16) * factor, photometric="rgb")
    model, out = tiny_model(TEXTS), tmp_path / "out"
    before = archive.index(tmp_path / "in", model, out, progress=False)["shown"]["sea"]["limits"]
    write(tmp_path / "in" / "clouds.tif", picture(64, 64).astype(np.uint16) * 200, photometric="rgb")
    facts = archive.index(tmp_path / "in", model, out, progress=False)
    assert facts["embedded"] == 4 and all(one["limits"] == before for one in facts["shown"].values())
    assert "1 new pictures are shown as those before them, by the values" in caplog.text
    facts = archive.index(tmp_path / "in", model, out, fresh=True, progress=False)
    assert facts["embedded"] == 12 and facts["shown"]["sea"]["limits"] != before


def test_several_places_and_scales(tmp_path):
    model = tiny_model(TEXTS)
    scene(tmp_path / "one", "a", 0)
    scene(tmp_path / "two" / "deep", "a", 1)
    write_tiles(tmp_path / "tiles", mosaic()[1], "{z}/{x}/{y}.png")
    places = [tmp_path / "one", tmp_path / "two", tmp_path / "tiles"]
    facts = archive.index(places, model, tmp_path / "out", chip_m=(320, 480.5), size_px=48, progress=False)
    assert list(facts["scales"]) == ["320 m", "480.5 m", "48 px"] and facts["imagery"] == list(map(str, places))
    chips = archive.open_index(tmp_path / "out").chips
    assert chips["key"].is_unique and len(chips) == facts["chips"]
    assert chips.groupby("scale", sort=False)["gsd_m"].mean().round(1).tolist()[:2] == [10.0, pytest.approx(15.0, abs=0.1)]
    rasters = chips[~chips["source"].str.contains("tiles")]
    assert sorted(rasters["file"].unique()) == [str(tmp_path / "one" / "a.tif"), str(tmp_path / "two" / "deep" / "a.tif")]
    assert rasters.groupby("file")["source"].nunique().tolist() == [1, 1]
    tiles = chips[chips["source"].str.contains("tiles")]
    assert all(Path(file).is_file() and f"tiles/{ZOOM}/" in file for file in tiles["file"])
    assert {name: scale["chips"] for name, scale in facts["scales"].items()} == chips["scale"].value_counts().to_dict()
    # A chip of each scale is shown as it was seen.
    index = archive.open_index(tmp_path / "out")
    rows = [int(np.flatnonzero(chips["scale"] == scale)[0]) for scale in facts["scales"]]
    assert [one.shape for one in index.pictures(rows)] == [(32, 32, 3), (32, 32, 3), (48, 48, 3)]
    # Another place less: nothing is embedded.
    facts = archive.index(places[:1], model, tmp_path / "out", chip_m=[320], progress=False)
    assert facts["embedded"] == 0 and set(archive.open_index(tmp_path / "out").chips["file"]) == {"a.tif"}


@pytest.mark.parametrize(("engine", "workers"), [("local", 2), ("ray", 1)])
def test_whoever_does_the_work_the_bytes_are_the_same(tmp_path, small_parts, engine, workers):
    if engine == "ray":
        pytest.importorskip("ray")
    model = tiny_model(TEXTS)
    model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    from rsvlm.model.others.opening import open_encoder

    for number, name in enumerate("ab"):
        scene(tmp_path / "in", name, number)
    encoder = open_encoder(tmp_path / "model", "cpu")
    options = {"model_folder": tmp_path / "model", "progress": False, "device": "cpu"}
    archive.index(tmp_path / "in", encoder, tmp_path / "here", **options)
    archive.index(tmp_path / "in", encoder, tmp_path / "there", engine=engine, workers=workers, **options)
    assert content(tmp_path / "here") == content(tmp_path / "there")
    with pytest.raises(ConfigError, match="--model FOLDER"):
        archive.index(tmp_path / "in", encoder, tmp_path / "no", engine=engine, workers=2, progress=False)


def test_an_archive_without_a_chip_is_refused_and_leaves_the_old_index(tmp_path):
    model = tiny_model(TEXTS)
    scene(tmp_path / "in", "a", 0)
    archive.index(tmp_path / "in", model, tmp_path / "out", progress=False)
    write(tmp_path / "empty" / "a.tif", np.zeros((3, 64, 64), np.uint8), nodata=0)
    with pytest.raises(DataError, match=r"no chip of .* could be read: all nodata \(4\)"):
        archive.index(tmp_path / "empty", model, tmp_path / "out", progress=False)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="holds no GeoTIFF"):
        archive.index(tmp_path / "nothing", model, tmp_path / "out", progress=False)
    assert len(archive.query(tmp_path / "out", TEXTS[:1], model)) == 9


def test_errors_of_the_thread_that_reads_ahead_come_out():
    def items():
        yield 1
        raise DataError("broken")

    with pytest.raises(DataError, match="broken"):
        list(index_parts.ahead(items(), 1))
    stream = index_parts.ahead(iter(range(1000)), 2)
    assert next(stream) == 0
    stream.close()
