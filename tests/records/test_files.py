"""Files are whole or not there, and one process at a time has a lock."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time

import filelock
import pytest

from rsvlm.errors import DataError
from rsvlm.records import files


def test_write_atomic_replaces_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = files.write_atomic(tmp_path / "new" / "a.txt", "grüß")
    assert path.read_text(encoding="utf-8") == "grüß"
    files.write_atomic(path, b"two")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(path, "three")
    assert path.read_bytes() == b"two"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("before", [None, b"old"])
def test_what_fails_half_way_changes_nothing(tmp_path, before):
    path = tmp_path / "a.txt"
    if before:
        path.write_bytes(before)
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert (path.read_bytes() if path.exists() else None) == before
    assert [file.name for file in tmp_path.iterdir()] == (["a.txt"] if before else [])


@pytest.mark.parametrize("folder", [False, True])
def test_a_place_is_tried_out_and_left_as_it_was(tmp_path, folder):
    (tmp_path / "file").write_text("old")
    good = [tmp_path / "new", tmp_path / "a" / "b" / "c.json", tmp_path if folder else tmp_path / "file"]
    assert [files.check_place(path, folder) for path in good] == good
    for path, says in [
        (tmp_path / "file" / "x.json", "it is no folder"),
        (tmp_path / "file" / "a" / "x.json", "it is no folder"),
        ("/proc/x.json", "/proc"),
        (tmp_path / "file" if folder else tmp_path, "it is no folder" if folder else "is a folder: name the file"),
    ]:
        with pytest.raises(DataError, match=says):
            files.check_place(path, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "old"


def _write_alone(folder, connection):
    with files.sole_writer(folder):
        connection.send("held")
        connection.recv()


@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_has_one_writer_and_others_are_told_who_it_is(tmp_path, killed):
    ours, theirs = multiprocessing.Pipe()
    holder = multiprocessing.get_context("fork").Process(target=_write_alone, args=(tmp_path / "out", theirs))
    holder.start()
    assert ours.recv() == "held"
    with pytest.raises(DataError, match=rf"process {holder.pid} on .*since .*give another --place"):
        with files.sole_writer(tmp_path / "out", "--place"):
            pytest.fail("two writers")
    if killed:
        holder.kill()
    else:
        ours.send("go")
    holder.join()
    with files.sole_writer(tmp_path / "out"):
        files.write_atomic(tmp_path / "out" / "a", "1")
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"a": "1"}


def test_a_folder_into_which_nothing_came_is_not_left(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "file").touch()
    for name in ("new", "old"):
        with pytest.raises(ValueError, match="bad"), files.sole_writer(tmp_path / name):
            raise ValueError("bad")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "old"]
    with pytest.raises(DataError, match="give another --out"), files.sole_writer(tmp_path / "file"):
        pass


def _hold(path, connection):
    with files.lock(path):
        connection.send("held")
        connection.recv()
        time.sleep(0.2)
        path.with_name("end").touch()


@pytest.mark.parametrize("killed", [False, True])
def test_a_lock_is_one_process_s_and_ends_with_it(tmp_path, caplog, killed):
    path = tmp_path / "new" / "stage.lock"
    ours, theirs = multiprocessing.Pipe()
    holder = multiprocessing.get_context("fork").Process(target=_hold, args=(path, theirs))
    holder.start()
    assert ours.recv() == "held"
    with pytest.raises(filelock.Timeout):
        files.lock(path, wait=False)
    assert not caplog.records
    holder.kill() if killed else ours.send("go")
    with caplog.at_level(logging.WARNING), files.lock(path):
        assert killed or path.with_name("end").exists()
    assert killed or "another process is making stage: waiting for it" in caplog.text
    holder.join()
    with files.lock(path, wait=False), pytest.raises(filelock.Timeout):
        files.lock(path, wait=False)


def test_the_sha256_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.file_sha256(tmp_path / "a") == files.file_sha256(str(tmp_path / "a"))
    assert files.file_sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")
