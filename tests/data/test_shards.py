"""The writer gives the same bytes on any engine, however often it is stopped; the reader resumes exactly and survives damage."""

import collections
import errno
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from rsvlm.data import reading, shards
from rsvlm.errors import DataError
from rsvlm.model import images
from rsvlm.records import files

HERE = ROOT / "tests"
PLAN = "a plan"
TASKS = [
    shards.Task("train/000000.tar", (0, 13)),
    shards.Task("train/000001.tar", (13, 10)),
    shards.Task("train/000002.tar", (23, 7)),
    shards.Task("val/000000.tar", (30, 1)),  # nothing is left of it
    shards.Task("val/000001.tar", (31, 9)),
]
STAGES = ("layout", "read", "audit", "shard")
BEFORE = [
    {"stage": "layout", "reason": "near a border", "split": "train", "n": 4},
    {"key": "x", "stage": "layout", "reason": "outside"},
]


def make(task: shards.Task) -> shards.Made:
    """Turn numbers into samples; of those above the first of a task, every fifth and every seventh are rejected."""
    first, count = task.items
    samples, rejected = [], []
    for number in range(first, first + count):
        key = f"toy-{number:03d}"
        if number % 5 == 0:
            rejected.append({"key": key, "stage": "read", "reason": "all nodata"})
        elif number % 7 == 0:
            rejected.append({"key": key, "stage": "audit", "reason": "invented name", "text": "<b>Ωmega</b>\n\ud800"})
        else:
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
            record = {
                "key": key,
                "captions": [f"number {number}", "a toy — «ø»"],
                "licence": "CC0",
                "attribution": f"by {first}",
            }
            samples.append((record, images.encode_png(pixels), "png"))
            if number % 4 == 0:
                rejected.append({"key": key, "stage": "audit", "reason": "too long", "part": "caption"})
    return shards.Made(samples, rejected, collections.Counter(captions=2 * len(samples)), {"tokens": 10 * count, "cost": 0.5})


def slow(task: shards.Task) -> shards.Made:
    time.sleep(0.25)
    return make(task)


def write(out: Path, work=make, workers: int = 1, engine: str = "local", **options) -> dict:
    given = {"header": {"name": "toy", "seed": 7}, "stages": STAGES, "before": BEFORE} | options
    return shards.write(out, PLAN, TASKS, work, engine, workers, False, **given)


def never(task: shards.Task) -> shards.Made:
    raise AssertionError(f"{task.file} is made again")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    write(folder)
    return folder


@pytest.fixture
def copy(built, tmp_path) -> Path:
    shutil.copytree(built, tmp_path / "data")
    return tmp_path / "data"


def contents(folder: Path) -> dict[str, str]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): files.file_sha256(path) for path in paths}


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


def test_manifest_funnel_and_rejected_tell_the_same(built):
    content = shards.manifest(built, verify=True)
    assert content["name"] == "toy" and content["plan"] == PLAN
    assert {name: entry["samples"] for name, entry in content["splits"].items()} == {"train": 20, "val": 8}
    assert [shard["file"] for shard in content["splits"]["val"]["shards"]] == ["val/000001.tar"]
    funnel = json.loads((built / "funnel.json").read_text())
    assert (funnel["in"], funnel["kept"], funnel["rejected"]) == (45, 28, 17) and funnel["rows"] == content["funnel"]
    rows = {(row["split"], row["stage"]): (row["in"], row["kept"], row["rejected"]) for row in funnel["rows"]}
    assert rows == {
        ("all", "layout"): (45, 44, 1),
        ("train", "layout"): (34, 30, 4),
        ("train", "read"): (30, 24, 6),
        ("train", "audit"): (24, 20, 4),
        ("val", "read"): (10, 8, 2),
    }
    lines = [json.loads(line) for line in (built / "rejected.jsonl").read_text().splitlines()]
    assert sum(line.get("n", 1) for line in lines if "part" not in line) == 17
    assert [line["shard"] for line in lines[2:]] == sorted(line["shard"] for line in lines[2:])
    assert next(line for line in lines if "text" in line)["text"] == "<b>Ωmega</b>\n\ud800"
    assert content["rejected_counts"]["layout"] == {"near a border": 4, "outside": 1}
    assert content["part_counts"] == {"audit": {"too long": 7}} and content["counts"] == {"captions": 56}
    assert content["usage"] == {"tokens": 400, "cost": 2.5} and content["licences"] == {"CC0": 28}
    assert content["attributions"] == {"by 0": 9, "by 31": 8, "by 13": 6, "by 23": 5}


def test_processes_write_the_same_bytes(built, tmp_path):
    write(tmp_path, workers=2)
    assert contents(tmp_path) == contents(built)


def fail_at_last(task: shards.Task) -> shards.Made:
    if task.file == TASKS[-1].file:
        raise DataError(f"{task.file} fails")
    return make(task)


def test_ray_writes_the_same_bytes_and_tells_errors_as_they_are(built, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="needs ray: pip install rsvlm[scale]")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE / "data"), str(ROOT)]))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(DataError, match="val/000001.tar fails"):
        write(tmp_path, fail_at_last, workers=2, engine="ray")
    assert not ray.is_initialized()  # it was started for this alone
    made = {name: sha256 for name, sha256 in contents(tmp_path).items() if name.endswith(".tar")}
    assert made == {name: sha256 for name, sha256 in contents(built).items() if name.startswith("train/")}
    write(tmp_path)
    assert contents(tmp_path) == contents(built)


@pytest.mark.parametrize("stop_at", [0, 1, 2, 3, 5, 8, 9, 10, 11, 12])
def test_a_stopped_build_goes_on_to_the_same_bytes(built, tmp_path, monkeypatch, stop_at):
    moves = []

    def interrupted(source, target, move=os.replace):
        if len(moves) == stop_at:
            raise KeyboardInterrupt
        moves.append(Path(target).name)
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path)
    with pytest.raises(DataError, match="manifest.json is missing"):
        shards.manifest(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.tar")}
    # What a killed process, which cleans nothing up, may leave behind.
    for name in (".rejected.jsonl.1.partial", "train/.000001.tar.1.partial", ".tasks/train/.000001.tar.json.1.partial"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    write(tmp_path)
    assert contents(tmp_path) == contents(built)
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())


def test_killed_builds_go_on_to_the_same_bytes(built, tmp_path):
    program = f"import test_shards as t\nfrom pathlib import Path\nt.write(Path({str(tmp_path)!r}), t.slow, 2)\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE / "data"), str(ROOT)])}
    for wanted in (1, 3):
        maker = subprocess.Popen([sys.executable, "-c", program], env=environment)
        end = time.monotonic() + 60
        while len(list(tmp_path.glob("*/*.tar"))) < wanted and maker.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        maker.send_signal(signal.SIGKILL)
        assert maker.wait() == -signal.SIGKILL
        assert not (tmp_path / "manifest.json").exists()
    write(tmp_path, workers=1)
    assert contents(tmp_path) == contents(built)


def test_a_finished_build_is_not_touched_and_a_broken_one_is_mended(built, copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert write(copy, work=never) == shards.manifest(built) == shards.finished(copy, PLAN)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    for name in ("train/000001.tar", ".tasks/train/000002.tar.json"):
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 3] ^= 128
        (copy / name).write_bytes(data)
    (copy / "funnel.json").unlink()
    (copy / ".tasks" / "val" / "000000.tar.json").unlink()
    with pytest.raises(DataError, match="other content"):
        shards.manifest(copy, verify=True)
    assert shards.finished(copy, PLAN) is None
    write(copy)
    assert contents(copy) == contents(built)
    untouched = copy / "train" / "000000.tar"
    assert untouched.stat().st_mtime_ns == before[untouched]


def test_folders_of_somebody_else_are_left_alone(copy, tmp_path):
    before = contents(copy)
    with pytest.raises(DataError, match="other options, sources or code"):
        shards.write(copy, "another plan", TASKS, make, workers=1, progress=False)
    (copy / "manifest.json").unlink()  # unfinished
    with pytest.raises(DataError, match="other options, sources or code"):
        shards.write(copy, "another plan", TASKS, make, workers=1, progress=False)
    del before["manifest.json"]
    assert contents(copy) == before
    for name in ("mine.tar", "train/mine.tar"):
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"x")
        with pytest.raises(DataError, match="choose an empty folder"):
            write(folder)
        assert list(contents(folder)) == [name]


def test_a_full_disk_leaves_nothing_half_written(built, tmp_path, monkeypatch):
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) >= 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="No space left.*run again"):
            write(tmp_path)
    assert not list(tmp_path.rglob("*.partial")) and len(list(tmp_path.glob("*/*.tar"))) == 1
    write(tmp_path)
    assert contents(tmp_path) == contents(built)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        write(tmp_path / "file")


@pytest.mark.parametrize(
    "file", ["../x.tar", "/x/y.tar", "train/a/b.tar", "train/a.zip", "x.tar", "train/.tar", "tr ain/a.tar", ""]
)
def test_files_that_are_no_names_are_refused(tmp_path, file):
    with pytest.raises(DataError, match="cannot name a shard"):
        shards.write(tmp_path, PLAN, [shards.Task(file, (0, 1))], make, workers=1, progress=False)
    with pytest.raises(DataError, match="cannot name a shard"):
        shards.write(tmp_path / "twice", PLAN, [TASKS[0], TASKS[0]], make, workers=1, progress=False)


def test_what_cannot_be_packed():
    good = {"key": "a", "text": "ø"}
    hostile = [{"key": "b", "text": "\ud800"}, {"key": "c", "score": float("nan")}]
    rejected: list[dict] = []
    kept, data = shards.pack([(record, picture(1), "png") for record in [good, *hostile]], rejected)
    assert kept == [good] and [(line["key"], line["reason"]) for line in rejected] == [
        ("b", "record is no JSON text"),
        ("c", "record is no JSON text"),
    ]
    assert tarfile.open(fileobj=io.BytesIO(data)).getnames() == ["a.json", "a.png"]
    for key in ("", "../a", "a b", "a.b", "x" * 91, 3, None):
        with pytest.raises(DataError, match="cannot name a sample"):
            shards.pack([({"key": key}, b"", "png")], [])
    with pytest.raises(DataError, match="'a' cannot name a sample"):
        shards.pack([(good, b"", "png"), (good, b"", "png")], [])
    with pytest.raises(DataError, match="type 'exe'"):
        shards.pack([(good, b"", "exe")], [])


def test_files_of_the_caller_come_before_the_manifest(tmp_path):
    seen = []

    def finish(content: dict) -> list[str]:
        seen.append((tmp_path / "manifest.json").exists())
        records = [r for s in content["splits"]["train"]["shards"] for r in shards.records(tmp_path / s["file"])]
        (tmp_path / "extra.json").write_text(json.dumps(records))
        return ["extra.json"]

    content = write(tmp_path, finish=finish)
    assert seen == [False] and len(json.loads((tmp_path / "extra.json").read_text())) == 20
    assert content["files"] == ["funnel.json", "rejected.jsonl", "extra.json"]
    (tmp_path / "extra.json").unlink()
    write(tmp_path, work=never, finish=finish)
    assert seen == [False, False] and (tmp_path / "extra.json").exists()


def gone(record: dict) -> bool:
    return record["key"] not in {"toy-003", "toy-006", *(f"toy-{number:03d}" for number in range(31, 40))}


def test_removal_rewrites_what_is_touched(built, copy):
    content = shards.rewrite(copy, gone, "asked for")
    assert content == shards.manifest(copy, verify=True) and content["rewritten"]
    files = [path.relative_to(copy).as_posix() for path in sorted(copy.glob("*/*.tar"))]
    assert files == ["train/000000.1.tar", "train/000001.tar", "train/000002.tar"]
    kept = [sample for sample in shards.stream(built, "train") if gone(sample.record)]
    found = list(shards.stream(copy, "train"))
    assert [(s.key, s.image, s.record) for s in found] == [(s.key, s.image, s.record) for s in kept] and len(kept) == 18
    assert shards.count(copy, "val") == 0 and list(shards.stream(copy, "val")) == []
    assert content["attributions"] == {"by 0": 7, "by 13": 6, "by 23": 5}
    funnel = json.loads((copy / "funnel.json").read_text())
    assert (funnel["in"], funnel["kept"], funnel["rejected"]) == (45, 18, 27)
    rows = [(row["split"], row["in"], row["kept"], row["reason"]) for row in funnel["rows"] if row["stage"] == "removal"]
    assert rows == [("train", 20, 18, "asked for"), ("val", 8, 0, "asked for")]
    before = contents(copy)
    shards.rewrite(copy, gone, "asked for")
    assert write(copy, work=never) == content and contents(copy) == before
    # Twice in a row: the next name.
    shards.rewrite(copy, lambda record: record["key"] != "toy-001")
    assert [path.name for path in sorted((copy / "train").iterdir())] == ["000000.2.tar", "000001.tar", "000002.tar"]
    (copy / "train" / "000001.tar").write_bytes(b"")
    with pytest.raises(DataError, match="build it into a new folder"):
        write(copy, work=never)


@pytest.mark.parametrize("stop_at", range(4))
def test_a_stopped_removal_fits_its_manifest_and_goes_on(copy, tmp_path, monkeypatch, stop_at):
    reference = tmp_path / "reference"
    shutil.copytree(copy, reference)
    shards.rewrite(reference, gone)
    steps = []

    def interrupted(name):
        original = getattr(os, name)

        def step(*arguments, **options):
            if str(arguments[0]).endswith(".partial") and name == "unlink":
                return original(*arguments, **options)
            if len(steps) == stop_at:
                raise KeyboardInterrupt
            steps.append(name)
            return original(*arguments, **options)

        return step

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink"):
            patch.setattr(os, name, interrupted(name))
        with pytest.raises(KeyboardInterrupt):
            shards.rewrite(copy, gone)
    shards.manifest(copy, verify=True)
    shards.rewrite(copy, gone)
    assert contents(copy) == contents(reference)


def test_a_stopped_removal_leaves_no_copy_for_another_one(copy, monkeypatch):
    def interrupted(source, target, move=os.replace):
        if Path(target).name == "manifest.json":
            raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shards.rewrite(copy, gone)
    assert (copy / "train" / "000000.1.tar").exists()
    assert write(copy, work=never) == shards.manifest(copy)
    shards.rewrite(copy, lambda record: record["key"] != "toy-024")
    assert [path.name for path in sorted((copy / "train").iterdir())] == ["000000.tar", "000001.tar", "000002.1.tar"]


def test_missing_shard_wrong_size_and_strange_manifests(copy):
    path = copy / "val" / "000001.tar"
    data = path.read_bytes()
    path.write_bytes(data[:-512])
    with pytest.raises(DataError, match="bytes instead of"):
        shards.manifest(copy)
    path.unlink()
    with pytest.raises(DataError, match="000001.tar is missing"):
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
    assert [sample.position for sample in whole] == list(range(20)) and shards.count(built, "train") == 20
    for start in range(22):
        rest = list(shards.stream(built, "train", start=start, **options))
        assert [(s.position, s.key) for s in rest] == [(s.position, s.key) for s in whole[start:]]


def test_memory_is_bounded_by_the_pool(built, monkeypatch):
    opened = []
    monkeypatch.setattr(
        reading, "read_shard", lambda path, samples, read=reading.read_shard: opened.append(path) or read(path, samples)
    )
    samples = shards.stream(built, "train", seed=1, pool_shards=1)
    next(samples)
    assert len(opened) == 1
    list(shards.stream(built, "train", seed=1, pool_shards=1, start=19))
    assert len(opened) == 2


def test_wrong_split_and_wrong_folder_fail_at_the_call(built, tmp_path):
    with pytest.raises(DataError, match="train, val"):
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


@pytest.mark.parametrize("share", [0.03, 0.3, 0.55, 0.8])
def test_a_truncated_shard_loses_only_its_end(copy, share):
    whole = list(shards.stream(copy, "train", seed=1))
    path = copy / "train" / "000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    skipped = collections.Counter()
    rest = list(shards.stream(copy, "train", seed=1, skipped=skipped))
    assert 11 <= len(rest) < 20 and sum(skipped.values()) == 20 - len(rest)
    places = {sample.position: sample.key for sample in whole}
    assert all(places[sample.position] == sample.key for sample in rest)


def test_a_missing_or_garbled_shard_is_counted(copy):
    (copy / "train" / "000000.tar").unlink()
    (copy / "train" / "000001.tar").write_bytes(os.urandom(5000))
    skipped = collections.Counter()
    assert len(list(shards.stream(copy, "train", seed=1, skipped=skipped))) == 5
    assert skipped["shard is missing"] == 9 and sum(skipped.values()) == 15


def test_loose_tars_without_a_manifest_are_the_training_split(built, tmp_path):
    for path in (built / "val").glob("*.tar"):
        shutil.copy(path, tmp_path)
    assert keys(shards.stream(tmp_path, "train", seed=2)) == keys(shards.stream(built, "val", seed=2))
    assert shards.count(tmp_path, "train") == shards.count(built, "val")
