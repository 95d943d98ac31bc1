"""Keys and stages: what is done once is done once, and nothing is ever half there."""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_rooms import imports

from rsvlm import config
from rsvlm.errors import ConfigError
from rsvlm.records import stages


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    return tmp_path


# Where things are


def test_root_is_the_variable_then_the_repository_then_here(tmp_path, monkeypatch):
    monkeypatch.delenv("RSVLM_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert stages.root() == tmp_path
    (tmp_path / "rsvlm").mkdir()
    (tmp_path / "_config.yml").touch()
    deep = tmp_path / "notebooks" / "py"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert stages.root() == tmp_path
    monkeypatch.setenv("RSVLM_HOME", str(deep))
    assert stages.root() == deep


# Keys


def test_key_knows_values_and_not_their_order():
    assert stages.key(a=1, b={"x": [1, 2], "y": None}) == stages.key(b={"y": None, "x": (1, 2)}, a=np.int64(1))
    assert stages.key(a=1) != stages.key(a=2)
    assert stages.key(a=1) != stages.key(b=1)
    assert stages.key(options=config.load()) != stages.key(options=config.load(overrides="train.steps=3"))
    assert len(stages.key(path=Path("a/b"))) == 12


@pytest.mark.parametrize("value", [float("nan"), np.zeros(3), {1, 2}, object()])
def test_key_refuses_what_has_no_exact_text(value):
    with pytest.raises(ConfigError, match="cannot name a run"):
        stages.key(a=value)


def test_source_hash_is_of_rooms_and_files(tmp_path, monkeypatch):
    for name in (
        "top.py",
        "model/mammut.py",
        "model/words.json",
        "model/others/clip.py",
        "data/reading.py",
        "data/web/fetch.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(stages, "PACKAGE", tmp_path)
    rooms = {"all": (), "model": ("model",), "reading": ("data/reading",), "data": ("data/*",), "both": ("model", "data")}
    changed = {}
    for path in sorted(path for path in tmp_path.rglob("*.*")):
        before = {name: stages.source_hash(*wanted) for name, wanted in rooms.items()}
        path.write_text("edited")
        changed[path.name] = {name for name, wanted in rooms.items() if stages.source_hash(*wanted) != before[name]}
    assert changed.pop("top.py") == {"all"} and changed.pop("fetch.py") == {"all", "both"}
    assert changed.pop("reading.py") == {"all", "reading", "data", "both"}
    assert all(names == {"all", "model", "both"} for names in changed.values()) and len(changed) == 3
    with pytest.raises(ConfigError, match="did you mean 'data/reading'"):
        stages.source_hash("data/readin")


def deciding() -> dict[str, tuple[str, ...]]:
    """`room/file` of every module whose stages are named by a hash of rooms, and these rooms."""
    found = {}
    for path in stages.PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROOMS":
                found[path.relative_to(stages.PACKAGE).with_suffix("").as_posix()] = ast.literal_eval(node.value)
    return found


def reached(module: str) -> set[str]:
    """`room/file` of everything that a module imports, directly or not, for other things than types."""
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        path = stages.PACKAGE / f"{name}.py"
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        source = re.sub(r"^if TYPE_CHECKING:\n(    .*\n|\n)+", "", path.read_text(), flags=re.MULTILINE)
        waiting += imports(source)
    return seen


@pytest.mark.parametrize("module", deciding())
def test_an_edit_of_any_file_that_decides_a_stage_gives_another_key(module, tmp_path, monkeypatch):
    """Everything that the making of a stage imports lies in its rooms; what only keeps it, or names options, need not."""
    rooms = deciding()[module]
    files = {path.relative_to(stages.PACKAGE) for path in stages.files_of(*rooms)}
    kept = {name for name in reached(module) if not name.startswith("records/") and name not in ("config", "errors")}
    assert {name for name in kept if Path(f"{name}.py") not in files} == set(), f"add their rooms to ROOMS of {module}"
    for path in files:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stages.PACKAGE / path, tmp_path / path)
    monkeypatch.setattr(stages, "PACKAGE", tmp_path)
    keys = {stages.source_hash(*rooms)}
    for path in sorted(files):
        with (tmp_path / path).open("ab") as file:
            file.write(b"\n")
        keys.add(stages.source_hash(*rooms))
    assert len(keys) == len(files) + 1


def test_rooms_are_named_wherever_sources_are_hashed():
    """No call of `source_hash` has a list of its own, but for whole rooms."""
    calls = [line for path in stages.PACKAGE.rglob("*.py") for line in re.findall(r"source_hash\((.*?)\)", path.read_text())]
    assert len(calls) > 10
    assert {call for call in calls if call and "ROOMS" not in call and "*rooms" not in call} <= {
        '"model"',
        '"records"',
        '"model", "data/reading"',
    }


# Stages


def test_stage_computes_once_and_writes_down_its_parts(home):
    calls = []

    def compute(folder):
        calls.append(folder)
        (folder / "a").write_text(str(len(calls)))

    first = stages.stage("shards", {"seed": 0}, compute)
    assert stages.stage("shards", {"seed": 0}, compute) == first
    assert len(calls) == 1
    assert json.loads((first / "stage.json").read_text()) == {"name": "shards", "parts": {"seed": 0}}
    assert stages.stage("shards", {"seed": 1}, compute) != first
    assert stages.stage("shards", {"seed": 0}, compute, recompute=True) == first
    assert (first / "a").read_text() == "3"


def test_a_text_is_not_taken_for_yes(home):
    with pytest.raises(ConfigError, match="recompute is 'false'"):
        stages.stage("shards", {}, lambda folder: None, recompute="false")
    assert not (home / "runs").exists()


def test_stage_resumes_after_an_error_and_keeps_the_old_one_until_the_new_is_complete(home):
    def broken(folder):
        (folder / "half").write_text("1")
        raise RuntimeError("stop")

    def resumed(folder):
        (folder / "whole").write_text((folder / "half").read_text() if (folder / "half").is_file() else "from nothing")

    with pytest.raises(RuntimeError, match="stop"):
        stages.stage("shards", {}, broken)
    folder = stages.stage("shards", {}, resumed)
    assert (folder / "whole").read_text() == "1"
    with pytest.raises(RuntimeError, match="stop"):
        stages.stage("shards", {}, broken, recompute=True)
    assert (folder / "whole").read_text() == "1"
    stages.stage("shards", {}, resumed, recompute=True)
    assert (folder / "whole").read_text() == "from nothing"


_KILLED = """
import sys, time
from pathlib import Path
from rsvlm.records import files, stages
def compute(folder):
    for i in range(3):
        if not (folder / str(i)).is_file():
            files.write_atomic(folder / str(i), f"part {i}")
            if i == 1 and sys.argv[1] == "die":
                print("ready", flush=True)
                time.sleep(60)
stages.stage("shards", {"a": 1}, compute)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_stage_survives_a_kill_and_ends_in_the_same_bytes(home):
    killed = subprocess.Popen([sys.executable, "-c", _KILLED, "die"], stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "ready\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert [path.name for path in (home / "runs").glob("shards-*") if path.is_dir()][0].endswith(".partial")
    subprocess.run([sys.executable, "-c", _KILLED, "live"], check=True)
    folder = home / "runs" / f"shards-{stages.key(a=1)}"
    assert {path.name for path in folder.iterdir()} == {"0", "1", "2", "stage.json"}
    assert (folder / "2").read_text() == "part 2"


def _slow(folder):
    with open(folder.parent / "calls", "a") as file:
        file.write("x")
    time.sleep(0.5)


def _make_slow(home):
    os.environ["RSVLM_HOME"] = str(home)
    stages.stage("slow", {}, _slow)


@pytest.mark.skipif(os.name != "posix", reason="file locks")
def test_two_processes_do_not_make_the_same_stage(home):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_make_slow, args=(home,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert (home / "runs" / "calls").read_text() == "x"
