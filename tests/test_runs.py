"""Keys, stages, results and notebooks: what is done once is done once, and nothing is ever half there."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rsvlm import book, config, results, runs
from rsvlm.errors import ConfigError, DataError, RsvlmError

PARAMETERS = 'profile = "laptop"\nseed = 0\ndevice = "auto"\nrecompute = False\nrun_name = ""'


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    return tmp_path


def row(**changes):
    base = {"dataset": "ucm", "split": "test", "protocol": "plain", "direction": "i2t", "metric": "R@1", "value": 50.0}
    return base | {"ci_low": 45.0, "ci_high": 55.0, "chance": 0.5, "n": 210} | changes


def save(rows, run="laptop-seed0"):
    options = config.load()
    return runs.save_result("retrieval", run, options, rows, runs.provenance(options, "d" * 12, "cpu", time.time(), "rsvlm x"))


def write_notebook(path: Path, *sources: str, parameters: str | None = PARAMETERS, tags: Sequence[str] = ()) -> Path:
    nbformat = pytest.importorskip("nbformat", reason="the extra [book] is not installed")
    cells = [nbformat.v4.new_markdown_cell("# A page")]
    if parameters is not None:
        cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters", *tags]}))
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "jupytext": {"formats": "ipynb"}}), path
    )
    return path


# Where things are


def test_root_is_the_variable_then_the_repository_then_here(tmp_path, monkeypatch):
    monkeypatch.delenv("RSVLM_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert runs.root() == tmp_path
    (tmp_path / "rsvlm").mkdir()
    (tmp_path / "_config.yml").touch()
    deep = tmp_path / "notebooks" / "py"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert runs.root() == tmp_path
    monkeypatch.setenv("RSVLM_HOME", str(deep))
    assert runs.root() == deep


# Keys


def test_key_knows_values_and_not_their_order():
    assert runs.key(a=1, b={"x": [1, 2], "y": None}) == runs.key(b={"y": None, "x": (1, 2)}, a=np.int64(1))
    assert runs.key(a=1) != runs.key(a=2)
    assert runs.key(a=1) != runs.key(b=1)
    assert runs.key(options=config.load()) != runs.key(options=config.load(overrides="train.steps=3"))
    assert len(runs.key(path=Path("a/b"))) == 12


@pytest.mark.parametrize("value", [float("nan"), np.zeros(3), {1, 2}, object()])
def test_key_refuses_what_has_no_exact_text(value):
    with pytest.raises(ConfigError, match="cannot name a run"):
        runs.key(a=value)


def test_source_hash_follows_imports_of_the_package(tmp_path, monkeypatch):
    sources = {"low": "x = 1", "mid": "from rsvlm.low import x", "other": "from rsvlm import mid\nimport os", "alone": ""}
    for name, text in sources.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(runs, "PACKAGE", tmp_path)
    before = {name: runs.source_hash(name) for name in sources} | {"all": runs.source_hash()}
    (tmp_path / "low.py").write_text("x = 2")
    after = {name: runs.source_hash(name) for name in sources} | {"all": runs.source_hash()}
    assert {name for name in before if before[name] != after[name]} == {"low", "mid", "other", "all"}
    with pytest.raises(ConfigError, match="did you mean 'alone'"):
        runs.source_hash("alon")


def test_a_module_that_is_a_folder_counts_with_all_its_files(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    files = {"top.py": "from rsvlm.folder import part", "low.py": "x = 1", "folder/__init__.py": ""}
    files |= {"folder/part.py": "from rsvlm import low", "folder/part.js": "one()", "folder/part.css": "p { margin: 0; }"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(runs, "PACKAGE", tmp_path)
    for name, changed in {"folder/part.js": {"top", "folder", "all"}, "low.py": {"top", "folder", "low", "all"}}.items():
        before = {module: runs.source_hash(module) for module in ("top", "folder", "low")} | {"all": runs.source_hash()}
        (tmp_path / name).write_text("y = 2")
        after = {module: runs.source_hash(module) for module in ("top", "folder", "low")} | {"all": runs.source_hash()}
        assert {module for module in before if before[module] != after[module]} == changed


# Files


def test_write_atomic_replaces_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = runs.write_atomic(tmp_path / "new" / "a.txt", "grüß")
    assert path.read_text(encoding="utf-8") == "grüß"
    runs.write_atomic(path, b"two")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        runs.write_atomic(path, "three")
    assert path.read_bytes() == b"two"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


# Stages


def test_stage_computes_once_and_writes_down_its_parts(home):
    calls = []

    def compute(folder):
        calls.append(folder)
        (folder / "a").write_text(str(len(calls)))

    first = runs.stage("shards", {"seed": 0}, compute)
    assert runs.stage("shards", {"seed": 0}, compute) == first
    assert len(calls) == 1
    assert json.loads((first / "stage.json").read_text()) == {"name": "shards", "parts": {"seed": 0}}
    assert runs.stage("shards", {"seed": 1}, compute) != first
    assert runs.stage("shards", {"seed": 0}, compute, recompute=True) == first
    assert (first / "a").read_text() == "3"


def test_stage_resumes_after_an_error_and_keeps_the_old_one_until_the_new_is_complete(home):
    def broken(folder):
        (folder / "half").write_text("1")
        raise RuntimeError("stop")

    def resumed(folder):
        (folder / "whole").write_text((folder / "half").read_text() if (folder / "half").is_file() else "from nothing")

    with pytest.raises(RuntimeError, match="stop"):
        runs.stage("shards", {}, broken)
    folder = runs.stage("shards", {}, resumed)
    assert (folder / "whole").read_text() == "1"
    with pytest.raises(RuntimeError, match="stop"):
        runs.stage("shards", {}, broken, recompute=True)
    assert (folder / "whole").read_text() == "1"
    runs.stage("shards", {}, resumed, recompute=True)
    assert (folder / "whole").read_text() == "from nothing"


_KILLED = """
import sys, time
from pathlib import Path
from rsvlm import runs
def compute(folder):
    for i in range(3):
        if not (folder / str(i)).is_file():
            runs.write_atomic(folder / str(i), f"part {i}")
            if i == 1 and sys.argv[1] == "die":
                print("ready", flush=True)
                time.sleep(60)
runs.stage("shards", {"a": 1}, compute)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_stage_survives_a_kill_and_ends_in_the_same_bytes(home):
    killed = subprocess.Popen([sys.executable, "-c", _KILLED, "die"], stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "ready\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert [path.name for path in (home / "runs").glob("shards-*") if path.is_dir()][0].endswith(".partial")
    subprocess.run([sys.executable, "-c", _KILLED, "live"], check=True)
    folder = home / "runs" / f"shards-{runs.key(a=1)}"
    assert {path.name for path in folder.iterdir()} == {"0", "1", "2", "stage.json"}
    assert (folder / "2").read_text() == "part 2"


def _slow(folder):
    with open(folder.parent / "calls", "a") as file:
        file.write("x")
    time.sleep(0.5)


def _make_slow(home):
    os.environ["RSVLM_HOME"] = str(home)
    runs.stage("slow", {}, _slow)


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


# Results


def test_results_come_back_as_a_table(home):
    folder = save([row(), row(metric="mR", ci_low=None, ci_high=None, chance=None, value=np.float32(33.5), n=np.int64(210))])
    save([row(value=60)], run="laptop-seed1")
    assert {path.name for path in folder.iterdir()} == {"config.json", "metrics.json", "provenance.json"}
    table = results.table("retrieval")
    assert list(table["run"]) == ["laptop-seed0", "laptop-seed0", "laptop-seed1"]
    assert list(table["value"]) == [50.0, 33.5, 60.0]
    assert list(table["seed"]) == [0, 0, 0]
    assert np.isnan(table["ci_low"][1])
    assert len(results.table("nothing")) == 0
    made = json.loads((folder / "provenance.json").read_text())
    assert {"commit", "dirty", "package_hash", "data_hash", "seed", "device", "versions", "duration_s", "command"} <= set(made)
    assert str(home) not in (folder / "provenance.json").read_text()


@pytest.mark.parametrize(
    "rows",
    [
        [row(value=float("nan"))],
        [row(ci_low=float("inf"))],
        [row(value=None)],
        [row(direction="both ways")],
        [row(n=0)],
        [row(dataset="")],
        [row(colour="red")],
        [{key: value for key, value in row().items() if key != "chance"}],
        [row(), row(value=51.0)],
    ],
)
def test_bad_rows_are_refused_before_anything_is_written(home, rows):
    with pytest.raises(DataError, match="metric row"):
        save(rows)
    assert not (home / "results").exists()


def test_names_of_results_are_plain(home):
    with pytest.raises(ConfigError, match="cannot name"):
        save([row()], run="../elsewhere")


def test_a_miniature_does_not_replace_a_measured_run(home):
    save([row()])
    small = config.load("smoke")
    with pytest.raises(ConfigError, match="holds a run of profile laptop, not smoke"):
        runs.save_result("retrieval", "laptop-seed0", small, [row()], runs.provenance(small, "d", "cpu", time.time(), "x"))


def test_a_broken_result_is_named(home):
    folder = save([row()])
    (folder / "provenance.json").unlink()
    with pytest.raises(DataError, match="laptop-seed0 is not a complete result"):
        results.table()


# Notebooks


def test_execute_runs_once_and_again_when_something_changed(home, monkeypatch):
    pytest.importorskip("papermill", reason="the extra [book] is not installed")
    notebook = write_notebook(home / "notebooks" / "01_a.ipynb", "open('count', 'a').write('x'); print(profile, seed)")
    made = runs.execute(notebook, {"profile": "smoke"})
    assert made == home / "book" / "executed" / "01_a.ipynb"
    copy = json.loads(made.read_text())
    assert "smoke 0" in str(copy["cells"][-1]["outputs"])
    assert "jupytext" not in copy["metadata"] and "papermill" not in copy["metadata"]
    assert str(home) not in made.read_text()
    assert (home / "count").read_text() == "x"  # the working directory is the root
    before = made.read_bytes()
    runs.execute(notebook, {"profile": "smoke"})
    assert made.read_bytes() == before
    runs.execute(notebook, {"profile": "smoke"}, data_hash="other data")
    assert (home / "count").read_text() == "xx"
    runs.execute(notebook, {"profile": "laptop"})
    copy = json.loads(made.read_text())
    injected = [cell for cell in copy["cells"] if "injected-parameters" in cell["metadata"].get("tags", [])]
    assert ["remove-cell" in cell["metadata"]["tags"] for cell in injected] == [True]  # says what the cell above says
    assert [path.name for path in made.parent.iterdir()] == ["01_a.ipynb"]


def test_execute_names_the_cell_that_failed_and_keeps_it(home):
    pytest.importorskip("papermill", reason="the extra [book] is not installed")
    notebook = write_notebook(home / "notebooks" / "01_a.ipynb", "1 / 0")
    with pytest.raises(RsvlmError, match=r"01_a.ipynb, cell \d+ failed: ZeroDivisionError: division by zero"):
        runs.execute(notebook, {})
    assert [path.name for path in (home / "book" / "executed").iterdir()] == ["01_a.failed.ipynb"]


def test_execute_checks_parameters_before_any_work(home):
    pytest.importorskip("papermill", reason="the extra [book] is not installed")
    notebook = write_notebook(home / "notebooks" / "01_a.ipynb", "pass")
    with pytest.raises(ConfigError, match="no parameter 'profil'; did you mean 'profile'"):
        runs.execute(notebook, {"profil": "smoke"})
    with pytest.raises(DataError, match="0 cells tagged 'parameters'"):
        runs.execute(write_notebook(home / "b.ipynb", parameters=None), {})
    with pytest.raises(DataError, match="is no literal"):
        runs.execute(write_notebook(home / "c.ipynb", parameters="seed = 1 + len('a')"), {})
    with pytest.raises(DataError, match="there is no notebook"):
        runs.execute(home / "d.ipynb", {})
    assert not (home / "book").exists()


NOTE = """import pathlib, time, os
name = {name!r}
start = time.time()
while {two} and time.time() < start + 60 and len(list(pathlib.Path(".").glob("*.begun"))) < 2:
    pathlib.Path(name + ".begun").touch()
    time.sleep(0.05)
print(os.environ.get("OMP_WAIT_POLICY"))
with open("order", "a") as file:
    file.write(f"{{name}} {{start}} {{time.time()}}\\n")"""


def test_notebooks_run_two_at_a_time_and_after_those_they_need(home):
    pytest.importorskip("papermill", reason="the extra [book] is not installed")
    needs = {"01_a": [], "02_b": ["after:01_a"], "03_c": ["after:02_b", "after:01_a"], "04_d": [], "05_e": ["after:99_none"]}
    books = [
        write_notebook(home / "notebooks" / f"{n}.ipynb", NOTE.format(name=n, two=n in ("01_a", "05_e")), tags=tags)
        for n, tags in needs.items()
    ]
    book.execute_all(books, {"profile": "smoke"}, jobs=2)
    times = {name: (float(a), float(b)) for name, a, b in map(str.split, (home / "order").read_text().splitlines())}
    assert len(times) == 5 and times["01_a"][1] <= times["02_b"][0] and times["02_b"][1] <= times["03_c"][0]
    assert max(times["01_a"][0], times["05_e"][0]) < min(times["01_a"][1], times["05_e"][1])  # at once, and not in turn
    assert "passive" in (home / "book" / "executed" / "01_a.ipynb").read_text()
    before = (home / "order").read_text()
    book.execute_all(books, {"profile": "smoke"}, jobs=2)
    assert (home / "order").read_text() == before


def test_when_a_notebook_fails_none_is_begun_and_none_is_cut_off(home):
    pytest.importorskip("papermill", reason="the extra [book] is not installed")
    slow = write_notebook(home / "notebooks" / "03_slow.ipynb", "import time; time.sleep(8); open('slow', 'w')")
    bad = write_notebook(home / "notebooks" / "02_bad.ipynb", "1 / 0", tags=["after:09_nothing"])
    late = write_notebook(home / "notebooks" / "04_late.ipynb", "open('late', 'w')", tags=["after:02_bad"])
    with pytest.raises(RsvlmError, match=r"02_bad.ipynb, cell \d+ failed: ZeroDivisionError"):
        book.execute_all([bad, slow, late], {}, jobs=2)
    assert (home / "slow").exists() and not (home / "late").exists()
    circle = [
        write_notebook(home / "notebooks" / f"{a}.ipynb", tags=[f"after:{b}"]) for a, b in (("05_a", "06_b"), ("06_b", "05_a"))
    ]
    with pytest.raises(DataError, match="wait for each other"):
        book.execute_all(circle, {}, jobs=2)


def test_ctrl_c_stops_the_notebooks_that_run(home):
    pytest.importorskip("papermill", reason="the extra [book] is not installed")
    for name in ("01_a", "02_b"):
        write_notebook(
            home / "notebooks" / f"{name}.ipynb",
            f"import os, time; open('{name}', 'w').write(str(os.getpid())); time.sleep(600)",
        )
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    command = [sys.executable, "-m", "rsvlm", "book", "--profile", "smoke", "--jobs", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard, cwd=home)
    begun, start = [home / "01_a", home / "02_b"], time.monotonic()
    while process.poll() is None and time.monotonic() < start + 120 and not all(p.exists() and p.read_text() for p in begun):
        time.sleep(0.1)
    kernels = [int(path.read_text()) for path in begun]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0 and "rsvlm: stopped" in errors and "Traceback" not in errors, errors
    gone = time.monotonic() + 30
    while time.monotonic() < gone and any(Path(f"/proc/{kernel}").exists() for kernel in kernels):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{kernel}").exists() for kernel in kernels)


def test_the_book_needs_notebooks_and_a_known_profile(home):
    with pytest.raises(DataError, match="there are no notebooks"):
        book.build("smoke")
    with pytest.raises(ConfigError, match="unknown profile 'tiny'"):
        book.build("tiny")


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells it of one program alone")
def test_peak_memory_does_not_begin_with_that_of_the_parent():
    program = "from rsvlm import runs; before = runs.peak_memory_mb(); b'x' * 2**27; print(before, runs.peak_memory_mb())"
    held = np.ones(2**27)  # 1 GB here
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before < 500 < runs.peak_memory_mb()
    assert held.nbytes and 120 < after - before < 200
