"""A matrix of runs: what it may say, what it makes, and that one that fails or is stopped harms no other."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from rsvlm.book import matrix, notebooks
from rsvlm.book.figures import interactive
from rsvlm.errors import ConfigError, DataError
from rsvlm.records import results

PARAMETERS = 'profile = "laptop"\nseed = 0\ndevice = "auto"\nrecompute = False\nrun_name = ""\noverrides = ""'
WORK = """import time
from rsvlm import config
from rsvlm.records import provenance, results
options = config.load(profile, {"seed": seed} | config.pairs(overrides))
if seed == 9:
    raise ValueError("nine\\nis too many")
row = {"dataset": "toy", "split": "test", "protocol": "plain", "direction": "both", "metric": "mR", "ci_low": None, "ci_high": None}
rows = [row | {"value": seed + options.train.steps / 10, "chance": 1.0, "n": 10}]
results.save_result("toy", run_name, options, rows, provenance.provenance(options, "d", "cpu", time.time(), "rsvlm run"))"""


def write_notebook(path: Path, *sources: str, parameters: str = PARAMETERS) -> Path:
    nbformat = pytest.importorskip("nbformat", reason="the extra [book] is not installed")
    cells = [
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, sources),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    return tmp_path


# What a matrix says


@pytest.mark.parametrize(
    ("item", "values"),
    [
        ("seed=0,1,2", ["0", "1", "2"]),
        (" seed = 0 , 1 ", ["0", "1"]),
        ("train.start=a=b,c", ["a=b", "c"]),
        ('train.sizes_px="64,96",128', ["64,96", "128"]),
        ("train.start='it\"s',b", ['it"s', "b"]),
        ('train.stages=[{"steps":1,"data":{"A":1}}],[]', ['[{"steps":1,"data":{"A":1}}]', "[]"]),
        ("train.start=,a", ["", "a"]),
        ("""train.start="a",'b'""", ["a", "b"]),
        ('train.start="a"x"b",c', ['"a"x"b"', "c"]),  # no quotes around the whole
    ],
)
def test_values_are_cut_at_their_commas_and_no_others(item, values):
    assert list(matrix.axes([item]).values()) == [values]


@pytest.mark.parametrize("item", ["seed", "=1", "", "seed=1,1", "a='x", "a=[1,2", "a=1]", "a=(1]", "a=\"x,'y"])
def test_what_is_no_axis_is_refused(item):
    with pytest.raises(ConfigError):
        matrix.axes([item])
    with pytest.raises(ConfigError, match="twice"):
        matrix.axes(["seed=1", "seed=2"])


@given(st.lists(st.text(st.characters(exclude_characters="\"'[](){}", codec="utf-8")), min_size=1, unique_by=str.strip))
def test_quoted_values_come_back_whatever_they_hold(texts):
    found = matrix.axes(["name=" + ",".join(f'"{text}"' for text in texts)])
    assert found == {"name": texts}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("train.lr", "train.learning_rate"),
        ("lr", "train.learning_rate"),
        ("train.batchsize", "train.batch_size"),
        ("sed", "seed"),
        ("training.steps", "train.steps"),
        ("landmarks.test_shares", "landmarks.test_share"),
    ],
)
def test_a_wrong_name_is_told_the_right_one(home, name, meant):
    book = write_notebook(home / "notebooks" / "01_a.ipynb")
    with pytest.raises(ConfigError, match=f"unknown option '{name}': did you mean '{meant}'"):
        matrix.plan([book], {name: ["1"]})
    assert not (home / "runs").exists()


def test_a_plan_is_every_combination_and_each_has_its_key(home):
    books = [write_notebook(home / "notebooks" / f"0{n}_a.ipynb", f"{n}") for n in (1, 2)]
    axes = matrix.axes(["train.learning_rate=1e-3,3e-4", "seed=0,1,2"])
    planned = matrix.plan(books, axes, {"profile": "smoke"}, ["train.steps=3"])
    assert len(planned) == 12 == len({run.key for run in planned})
    first, last = planned[0], planned[-1]
    assert first.parameters["overrides"] == "train.steps=3 train.learning_rate=1e-3"
    assert first.parameters["seed"] == 0 and first.parameters["run_name"] == f"grid-{first.key}"
    assert last.chosen == {"train.learning_rate": "3e-4", "seed": "2"} and last.notebook == books[1]
    again = matrix.plan(
        books[:1], matrix.axes(["seed=1", "train.learning_rate=1e-3"]), {"profile": "smoke"}, ["train.steps=3"]
    )
    assert again[0].key == planned[1].key  # a smaller matrix shares its runs
    write_notebook(books[0], "another text")
    assert matrix.plan(books[:1], matrix.axes(["seed=1"]), {"profile": "smoke"})[0].key not in {run.key for run in planned}


@pytest.mark.parametrize(
    ("axes", "more", "told"),
    [
        ({"train.learning_rate": ["1", "x"]}, {}, "train.learning_rate' = 'x'"),
        ({"seed": ["-1"]}, {}, "option 'seed' = -1"),
        ({"profile": ["smok"]}, {}, "unknown profile 'smok'"),
        ({"run_name": ["a"]}, {}, "'run_name' is no axis"),
        ({"seed": ["1"]}, {"given": {"seed": 2}}, "'seed' is given once for all runs"),
        ({"train.steps": ["1"]}, {"overrides": ["train.steps=2"]}, "'train.steps' is given once for all runs"),
        ({"train.start": ["a train.steps=1"]}, {}, "hold no spaces"),
        ({"seed": list(map(str, range(101))), "train.steps": list(map(str, range(1, 101)))}, {}, "10,100 runs"),
    ],
)
def test_a_bad_matrix_stops_before_any_work(home, axes, more, told):
    book = write_notebook(home / "notebooks" / "01_a.ipynb")
    with pytest.raises(ConfigError, match=told):
        matrix.plan([book], axes, **more)
    assert not (home / "runs").exists()


def test_a_parameter_that_only_some_notebooks_have_is_named(home):
    books = [write_notebook(home / "notebooks" / "01_a.ipynb")]
    books.append(write_notebook(home / "notebooks" / "02_b.ipynb", parameters=PARAMETERS + "\nways = 3"))
    with pytest.raises(ConfigError, match="01_a.ipynb has no parameter 'ways'"):
        matrix.plan(books, {"ways": ["1"]})
    assert matrix.plan(books[1:], {"ways": ["1"]})[0].parameters["ways"] == 1


def test_values_of_a_matrix_are_read_as_what_the_notebook_declares(home):
    book = write_notebook(home / "notebooks" / "01_a.ipynb", parameters=PARAMETERS + '\nbig = True\nday = ""')
    planned = matrix.plan([book], {"big": ["false", "true"], "day": ["20241128"]}, {"seed": "4"})
    assert [(run.parameters["big"], run.parameters["day"], run.parameters["seed"]) for run in planned] == [
        (False, "20241128", 4),
        (True, "20241128", 4),
    ]
    with pytest.raises(ConfigError, match="big='maybe'"):
        matrix.plan([book], {"big": ["maybe"]})


@pytest.mark.parametrize(("jobs", "threads"), [(1, None), (2, "4"), (16, "1")])
def test_runs_at_once_share_the_cores(home, monkeypatch, jobs, threads):
    begun = {}

    def run_all(tasks, jobs, recompute, environment, done_before):
        begun.update(environment)
        return [
            notebooks.Ending("made" if number else "failed", 1.0, "" if number else "no memory")
            for number, _ in enumerate(tasks)
        ]

    monkeypatch.setattr(notebooks, "run_all", run_all)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    book = write_notebook(home / "notebooks" / "01_a.ipynb")
    outcomes = matrix.run_all(matrix.plan([book], {"seed": ["0", "1"]}), jobs)
    assert [(outcome.state, outcome.last_line) for outcome in outcomes] == [("failed", "no memory"), ("made", "")]
    assert begun.get("OMP_NUM_THREADS") == begun.get("NUMBA_NUM_THREADS") == threads


def test_no_run_at_once_is_refused(home):
    with pytest.raises(ConfigError, match="at least one run"):
        matrix.run_all([], jobs=0)


# What it makes: processes with kernels, which take seconds to start, and minutes on a busy machine


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three runs, one of which fails."""
    pytest.importorskip("papermill", reason="the extra [book] is not installed")
    home = tmp_path_factory.mktemp("matrix")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSVLM_HOME", str(home))
        book = write_notebook(home / "notebooks" / "01_a.ipynb", WORK)
        planned = matrix.plan([book], matrix.axes(["seed=9,0", "train.steps=10,20"]), {"profile": "smoke"})[1:]
        yield home, planned, matrix.run_all(planned, jobs=2)


@pytest.mark.timeout(1200)
def test_one_that_fails_stops_no_other_and_is_told(made):
    home, planned, outcomes = made
    assert [outcome.state for outcome in outcomes] == ["failed", "made", "made"]
    assert outcomes[0].last_line == "01_a.ipynb, cell 2 failed: ValueError: is too many"
    assert outcomes[0].last_line in planned[0].log.read_text() and not planned[0].folder.exists()
    assert (home / "runs" / f"grid-{planned[0].key}.partial" / "01_a.failed.ipynb").is_file()


def test_every_run_has_its_copy_log_and_rows_and_the_book_is_left_alone(made):
    home, planned, _ = made
    for run in planned[1:]:
        assert json.loads((run.folder / "01_a.ipynb").read_text())["metadata"]["rsvlm"]["profile"] == "smoke"
        assert "papermill" in run.log.read_text()
        assert (run.folder / "results" / "toy" / f"grid-{run.key}" / "metrics.json").is_file()
    assert not (home / "results").exists() and not (home / "book").exists()


def test_the_table_has_options_and_metrics(made):
    home, planned, _ = made
    table = matrix.table([run.key for run in planned])
    assert table["run"].tolist() == [run.key for run in planned[1:]]
    assert table["train.steps"].tolist() == [10, 20] and table["value"].tolist() == [1.0, 2.0]
    assert len(matrix.table()) == 2
    wide = matrix.wide(table)
    assert wide.columns.tolist() == ["train.steps", "seconds", "mR"] and wide["mR"].tolist() == [1.0, 2.0]
    read = pd.read_csv(matrix.write_table(planned))
    assert read["train.steps"].tolist() == [10, 20]
    assert results.table("runs/grid-*")["value"].tolist() == results.table(f"{home}/runs/grid-*")["value"].tolist()
    assert len(results.table(f"runs/grid-{planned[1].key}")) == 1 and not len(results.table())


def test_what_is_there_is_not_made_again_and_a_broken_run_is_named(made):
    _, planned, _ = made
    before = [run.folder.stat().st_mtime_ns for run in planned[1:]]
    start = time.perf_counter()
    assert [outcome.state for outcome in matrix.run_all(planned[1:], jobs=2)] == ["there", "there"]
    assert time.perf_counter() - start < 2 and before == [run.folder.stat().st_mtime_ns for run in planned[1:]]
    stage = planned[2].folder / "stage.json"
    good = stage.read_text()
    stage.write_text("{")
    with pytest.raises(DataError, match=f"grid-{planned[2].key} is no complete run"):
        matrix.table()
    stage.write_text(good)


@pytest.mark.timeout(1200)
def test_a_run_ends_with_the_process_that_started_it_and_begins_again(home):
    pytest.importorskip("papermill", reason="the extra [book] is not installed")
    waiting = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(0 if os.path.exists('go') else 120)"
    book = write_notebook(home / "notebooks" / "01_a.ipynb", waiting)
    (run,) = matrix.plan([book], {"seed": ["0"]}, {"profile": "smoke"})
    process = notebooks._start(run, False, {})
    until = time.monotonic() + 600
    while not (home / "pid").exists() and time.monotonic() < until:
        time.sleep(0.1)
    kernel = int((home / "pid").read_text())
    notebooks._stop([process], patience_s=60)
    assert process.returncode != 0 and not run.folder.exists()
    while Path(f"/proc/{kernel}").exists() and time.monotonic() < until + 60:
        time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)
    (home / "go").touch()
    assert [outcome.state for outcome in matrix.run_all([run])] == ["made"]


def test_columns_of_two_protocols_stay_apart():
    row = {"run": "a", "notebook": "n", "seed": 0, "seconds": 1.0, "experiment": "e", "dataset": "d", "split": "test"}
    row |= {"direction": "both", "metric": "mR", "ci_low": None, "ci_high": None, "chance": 1.0, "n": 2}
    rows = [row | {"protocol": name, "value": value} for name, value in (("plain", 1.0), ("rs5m", 2.0))]
    wide = matrix.wide(pd.DataFrame([*rows, *(one | {"run": "b", "seed": 1} for one in rows[:1])]))
    assert wide.columns.tolist() == ["seed", "seconds", "plain mR both", "rs5m mR both"]
    assert wide["rs5m mR both"].tolist()[0] == 2.0 and pd.isna(wide["rs5m mR both"].iloc[1])


# The figure


def test_lines_can_be_reached_and_read_and_escape_what_they_show():
    rows = pd.DataFrame({"train.start": ["<b>", "y"], "seed": [0, 1], "mR both": [1.5, float("nan")]}, index=["k1", "k2"])
    html = interactive.parallel_coordinates(rows, "mR both")
    assert html.count('tabindex="0"') == 2 and "<b>" not in html and "&lt;b&gt;" in html and "<script" not in html
    assert 'aria-label="train.start &lt;b&gt;, seed 0, mR both 1.5"' in html
    for broken, colour in ((rows.iloc[:0], "seed"), (rows[["seed"]], "seed"), (rows, "train.start"), (rows, "nothing")):
        with pytest.raises(DataError):
            interactive.parallel_coordinates(broken, colour)
