"""Notebooks run once, say what failed, wait for those they need, and stop with the process that started them."""

from __future__ import annotations

import functools
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from rsvlm.book import build, notebooks
from rsvlm.book.figures import numbers
from rsvlm.errors import ConfigError, DataError, RsvlmError

PARAMETERS = 'profile = "laptop"\nseed = 0\ndevice = "auto"\nrecompute = False\nrun_name = ""'


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    return tmp_path


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


def test_the_page_of_the_web_finds_the_stage_of_texts_by_its_name():
    """A stage may stand before it: what could not be read."""
    page = (Path(__file__).parents[2] / "notebooks" / "py" / "06_web.py").read_text()
    cell = next(part for part in page.split("# %%") if "pictures with a text" in part)
    rows = [{"stage": "read", "in": 9, "kept": 4}, {"stage": "text", "in": 4, "kept": 2}]
    manifest = {"splits": {"train": {"samples": 1}}, "funnel": rows, "crawl": {"pages": 3}}
    names = {"report": {"manifest": manifest}, "numbers": numbers}
    exec(compile(cell.partition("\n")[2], "06_web.py", "exec"), names)
    assert names["first"] == rows[1]


def test_patterns_find_notebooks_once(home, monkeypatch):
    for name in ("01_a", "02_b", "03_[c]"):
        write_notebook(home / "notebooks" / f"{name}.ipynb")
    monkeypatch.chdir(home)
    found = notebooks.find(["notebooks/0[12]*.ipynb", "notebooks/01_a.ipynb", "notebooks/03_[c].ipynb"])
    assert [path.stem for path in found] == ["01_a", "02_b", "03_[c]"]
    with pytest.raises(DataError, match=r"no notebook 'notebooks/9\*'"):
        notebooks.find(["notebooks/9*"])


def test_execute_runs_once_and_again_when_something_changed(home, monkeypatch):
    pytest.importorskip("papermill", reason="the extra [book] is not installed")
    notebook = write_notebook(home / "notebooks" / "01_a.ipynb", "open('count', 'a').write('x'); print(profile, seed)")
    made = notebooks.execute(notebook, {"profile": "smoke"})
    assert made == home / "book" / "executed" / "01_a.ipynb"
    copy = json.loads(made.read_text())
    assert "smoke 0" in str(copy["cells"][-1]["outputs"])
    assert "jupytext" not in copy["metadata"] and "papermill" not in copy["metadata"]
    assert str(home) not in made.read_text()
    assert (home / "count").read_text() == "x"  # the working directory is the root
    before = made.read_bytes()
    notebooks.execute(notebook, {"profile": "smoke"})
    assert made.read_bytes() == before
    write_notebook(notebook, "open('count', 'a').write('x'); print(profile, seed, 'again')")
    notebooks.execute(notebook, {"profile": "smoke"})
    assert (home / "count").read_text() == "xx"
    notebooks.execute(notebook, {"profile": "laptop"})
    copy = json.loads(made.read_text())
    injected = [cell for cell in copy["cells"] if "injected-parameters" in cell["metadata"].get("tags", [])]
    assert ["remove-cell" in cell["metadata"]["tags"] for cell in injected] == [True]  # says what the cell above says
    assert [path.name for path in made.parent.iterdir()] == ["01_a.ipynb"]
    count = (home / "count").read_text()
    for value, times in (("no", 0), ("True", 1), (True, 2)):
        notebooks.execute(notebook, {"profile": "laptop", "recompute": value})
        assert (home / "count").read_text() == count + times * "x"


def test_execute_names_the_cell_that_failed_and_keeps_it(home):
    pytest.importorskip("papermill", reason="the extra [book] is not installed")
    notebook = write_notebook(home / "notebooks" / "01_a.ipynb", "1 / 0")
    with pytest.raises(RsvlmError, match=r"01_a.ipynb, cell \d+ failed: ZeroDivisionError: division by zero"):
        notebooks.execute(notebook, {})
    assert [path.name for path in (home / "book" / "executed").iterdir()] == ["01_a.failed.ipynb"]


def test_execute_checks_parameters_before_any_work(home):
    pytest.importorskip("papermill", reason="the extra [book] is not installed")
    notebook = write_notebook(home / "notebooks" / "01_a.ipynb", "pass")
    with pytest.raises(ConfigError, match="no parameter 'profil'; did you mean 'profile'"):
        notebooks.execute(notebook, {"profil": "smoke"})
    with pytest.raises(DataError, match="0 cells tagged 'parameters'"):
        notebooks.execute(write_notebook(home / "b.ipynb", parameters=None), {})
    with pytest.raises(DataError, match="is no literal"):
        notebooks.execute(write_notebook(home / "c.ipynb", parameters="seed = 1 + len('a')"), {})
    with pytest.raises(DataError, match="there is no notebook"):
        notebooks.execute(home / "d.ipynb", {})
    assert not (home / "book").exists()


KINDS = PARAMETERS + '\nlimit = None\nshare = 0.5\nclasses = ["a"]\npair = (1, 2)\nseeds = "0,1"'


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"recompute": "false"}, False),
        ({"recompute": " No "}, False),
        ({"recompute": "0"}, False),
        ({"recompute": "True"}, True),
        ({"recompute": True}, True),
        ({"run_name": "20241128"}, "20241128"),
        ({"run_name": 20241128}, "20241128"),
        ({"run_name": "1e3"}, "1e3"),
        ({"run_name": "None"}, "None"),
        ({"run_name": "'quoted'"}, "quoted"),
        ({"run_name": "'"}, "'"),
        ({"seeds": "0,1,2"}, "0,1,2"),
        ({"seed": "3"}, 3),
        ({"share": "1"}, 1.0),
        ({"share": "2e-3"}, 0.002),
        ({"limit": "12"}, 12),
        ({"limit": "all"}, "all"),
        ({"classes": "['b', 'c']"}, ["b", "c"]),
        ({"classes": ("b",)}, ["b"]),
        ({"pair": "[3, 4]"}, (3, 4)),
    ],
    ids=str,
)
def test_values_are_read_as_what_the_notebook_declares(home, given, read):
    notebook = write_notebook(home / "notebooks" / "01_a.ipynb", parameters=KINDS)
    values = notebooks.read_values(notebook, given)
    assert list(values.values()) == [read] and type(*values.values()) is type(read)
    assert notebooks.notebook_key(notebook, given) == notebooks.notebook_key(notebook, values)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"recompute": "perhaps"}, "parameter recompute='perhaps' of 01_a.ipynb: expected what is yes or no"),
        ({"recompute": 2}, "yes or no"),
        ({"seed": "1.5"}, "of the kind int, as 0 is"),
        ({"seed": "true"}, "of the kind int"),
        ({"seed": True}, "of the kind int"),
        ({"share": "half"}, "of the kind float"),
        ({"classes": "b"}, "of the kind list"),
        ({"run_name": None}, "of the kind str"),
        ({"runname": "a"}, "no parameter 'runname'; did you mean 'run_name'"),
    ],
    ids=str,
)
def test_values_of_another_kind_are_refused(home, given, says):
    notebook = write_notebook(home / "notebooks" / "01_a.ipynb", parameters=KINDS)
    with pytest.raises(ConfigError, match=says):
        notebooks.read_values(notebook, given)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "profile=huge"], "unknown profile 'huge'"),
        (["-p", "profile=smoke", "--profile", "laptop"], "'profile' is given twice, as 'laptop' by --profile"),
        (["-p", "seed=1", "-p", "seed=2"], "'seed' is given twice, as '1' by -p"),
        (["-p", "seed=-1"], "option 'seed'"),
        (["-p", "overrides=train.stepz=3"], "did you mean 'train.steps'"),
        (["-p", "overrides=train.steps=3", "--set", "train.steps=4"], "'overrides' is given twice, as .* by --set"),
        (["-p", "run_name=my run"], "'my run' cannot name a folder of results"),
        (["-p", "recompute=perhaps"], "yes or no"),
        (["-p", "seed"], "not of the form name=value"),
    ],
    ids=str,
)
def test_parameters_of_a_command_are_checked_before_any_work(home, monkeypatch, arguments, says):
    from rsvlm import __main__ as cli

    notebook = write_notebook(
        home / "notebooks" / "01_a.ipynb", "open('ran', 'w')", parameters=PARAMETERS + '\noverrides = ""'
    )
    monkeypatch.setattr(sys, "argv", ["rsvlm", "run", str(notebook), *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert re.search(says, str(ended.value.code))
    assert not (home / "ran").exists() and not (home / "book").exists()


def test_a_command_hands_parameters_on_as_what_they_are(home, monkeypatch):
    from rsvlm import __main__ as cli

    handed = []
    monkeypatch.setattr(notebooks, "execute", lambda notebook, values, recompute: handed.append(values))
    notebook = write_notebook(home / "notebooks" / "01_a.ipynb", parameters=PARAMETERS + '\noverrides = ""')
    for arguments in (["-p", "profile=smoke", "-p", "recompute=false"], ["--profile", "smoke", "--set", "train.steps=3"]):
        monkeypatch.setattr(sys, "argv", ["rsvlm", "run", str(notebook), *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
    first, second = (notebooks.read_values(notebook, values) for values in handed)
    assert first == {"overrides": "", "profile": "smoke", "recompute": False, "seed": 0}
    assert second == {"overrides": "train.steps=3", "profile": "smoke", "seed": 0}


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
    build.execute_all(books, {"profile": "smoke"}, jobs=2)
    times = {name: (float(a), float(b)) for name, a, b in map(str.split, (home / "order").read_text().splitlines())}
    assert len(times) == 5 and times["01_a"][1] <= times["02_b"][0] and times["02_b"][1] <= times["03_c"][0]
    assert max(times["01_a"][0], times["05_e"][0]) < min(times["01_a"][1], times["05_e"][1])  # at once, and not in turn
    assert "passive" in (home / "book" / "executed" / "01_a.ipynb").read_text()
    before = (home / "order").read_text()
    build.execute_all(books, {"profile": "smoke"}, jobs=2)
    assert (home / "order").read_text() == before


def test_one_that_needs_all_cores_has_them(home):
    pytest.importorskip("papermill", reason="the extra [book] is not installed")
    tags = {"01_a": [], "02_b": ["alone"], "03_c": ["alone"], "04_d": []}
    books = [
        write_notebook(home / "notebooks" / f"{n}.ipynb", NOTE.format(name=n, two=False), tags=t) for n, t in tags.items()
    ]
    build.execute_all(books, {"profile": "smoke"}, jobs=3)
    times = {name: (float(a), float(b)) for name, a, b in map(str.split, (home / "order").read_text().splitlines())}
    assert list(times) == list(tags)
    for one, other in itertools.pairwise(times.values()):
        assert one[1] <= other[0]
    waits = {n: "passive" in (home / "book" / "executed" / f"{n}.ipynb").read_text() for n in tags}
    assert waits == {"01_a": True, "02_b": False, "03_c": False, "04_d": True}


def test_when_a_notebook_fails_none_is_begun_and_none_is_cut_off(home):
    pytest.importorskip("papermill", reason="the extra [book] is not installed")
    slow = write_notebook(home / "notebooks" / "03_slow.ipynb", "import time; time.sleep(8); open('slow', 'w')")
    bad = write_notebook(home / "notebooks" / "02_bad.ipynb", "1 / 0", tags=["after:09_nothing"])
    late = write_notebook(home / "notebooks" / "04_late.ipynb", "open('late', 'w')", tags=["after:02_bad"])
    with pytest.raises(RsvlmError, match=r"02_bad.ipynb, cell \d+ failed: ZeroDivisionError.*\n.*runs/book-02_bad.log"):
        build.execute_all([bad, slow, late], {}, jobs=2)
    assert "book/executed/02_bad.failed.ipynb" in (home / "runs" / "book-02_bad.log").read_text()
    assert (home / "slow").exists() and not (home / "late").exists()
    circle = [
        write_notebook(home / "notebooks" / f"{a}.ipynb", tags=[f"after:{b}"]) for a, b in (("05_a", "06_b"), ("06_b", "05_a"))
    ]
    with pytest.raises(DataError, match="wait for each other"):
        build.execute_all(circle, {}, jobs=2)


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
        build.build("smoke")
    with pytest.raises(ConfigError, match="unknown profile 'tiny'"):
        build.build("tiny")
