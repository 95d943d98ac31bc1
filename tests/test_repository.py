"""What a stranger meets in the repository: no outputs, no data, no addresses, no paths of one machine, pairs in step."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COLUMNS = 80
REQUIRED = ["profile", "seed", "device", "recompute", "run_name"]
MACHINE_PATH = re.compile(r"(?<![\w.:/~{}$-])/(?:home|Users|root|work|mnt|data|tmp|content|farm)/[\w.]")
TEXT = {
    ".py",
    ".md",
    ".toml",
    ".yml",
    ".yaml",
    ".json",
    ".ipynb",
    ".cff",
    ".bib",
    ".css",
    ".js",
    ".mjs",
    ".svg",
    ".txt",
    ".lock",
    "",
}


def tracked() -> list[Path]:
    """Files that git has, or would take."""
    try:
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git clone, so nothing says which files belong to the repository")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def cells(notebook: Path, kind: str = "code") -> list[dict]:
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found if cell["cell_type"] == kind]


def parsed(cell: dict) -> ast.Module:
    # Lines of IPython are no Python; the rules about them are tested by their text.
    return ast.parse(
        "\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in cell["source"].splitlines())
    )


# Files


def test_nothing_large_is_tracked():
    large = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in tracked() if path.stat().st_size > 500_000}
    assert not large, f"{large}: make it from the package's data, or leave it in data/ or runs/"


def test_no_made_file_is_tracked():
    made = re.compile(r"^(_build|runs|data|book/executed|book/generated|\.venv)/|__pycache__|\.ipynb_checkpoints|\.egg-info")
    assert [name for path in tracked() if made.search(name := path.relative_to(ROOT).as_posix())] == []


def test_no_file_names_a_place_on_one_machine():
    found = []
    for path in tracked():
        if path.suffix in TEXT and path != Path(__file__):
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if not line.startswith("#!") and MACHINE_PATH.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, found


def test_the_lock_holds_names_versions_and_hashes_alone():
    lines = [line for path in ROOT.glob("requirements*.lock") for line in path.read_text().splitlines()]
    pin = re.compile(r"^[a-z0-9][a-z0-9.-]*==[\w.+!]+( ; [^@]+)? \\$")
    rest = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")
    assert [line for line in lines if not pin.match(line) and not rest.match(line)] == []


def test_the_lock_has_every_dependency_that_the_book_and_the_tests_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [
        name for extra in ("demo", "data", "book", "test") for name in project["optional-dependencies"][extra]
    ]
    names = {re.match(r"[A-Za-z0-9._-]+", line).group().lower().replace("_", "-") for line in wanted}
    locked = {line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    assert names <= locked, f"{names - locked}: make lock"


def test_every_bound_has_a_reason():
    bound = re.compile(r'^\s+"[^"]*[<>=][^"]*",\s*(#.*)?$')
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    assert [line for line in lines if (match := bound.match(line)) and not match.group(1)] == []


def test_the_table_of_the_readme_is_that_of_the_results():
    from rsvlm.records import tables

    readme = (ROOT / "README.md").read_text()
    for experiment, block in re.findall(r"<!-- results: (\w+) -->\n(.*?)\n?<!-- end -->", readme, re.DOTALL):
        assert block.strip() == tables.formatted(experiment, "markdown").strip(), (
            f"rsvlm table {experiment} --format markdown, into README.md"
        )


def test_the_version_is_told_once():
    from rsvlm import __version__

    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_pages_of_the_book_exist():
    made = ("book/executed/", "book/generated/")
    named = re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text())
    assert named and all((ROOT / f"{name}.md").is_file() for name in named if not name.startswith(made))
    executed = {name.removeprefix("book/executed/") for name in named if name.startswith("book/executed/")}
    if NOTEBOOKS:
        assert executed == {path.stem for path in NOTEBOOKS}, "every notebook is a page, and every such page a notebook"


# The package


@pytest.mark.parametrize("path", sorted((ROOT / "rsvlm").rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_functions_say_what_they_take_and_give(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


# Notebooks


def test_there_are_notebooks():
    if not NOTEBOOKS:
        pytest.skip("there is no notebook yet")
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{number:02d}" for number in range(1, len(NOTEBOOKS) + 1)]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_it_has_no_outputs(self, notebook):
        assert [cell["source"][:40] for cell in cells(notebook) if cell["outputs"] or cell["execution_count"]] == []

    def test_it_names_the_kernel_that_every_environment_has(self, notebook):
        kernel = json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get("kernelspec", {}).get("name")
        assert kernel == "python3", f"jupytext --set-kernel python3 --sync notebooks/{notebook.name}"

    def test_its_pair_says_the_same(self, notebook):
        jupytext = pytest.importorskip("jupytext", reason="the extra [book] is not installed")
        script = jupytext.read(notebook.parent / "py" / f"{notebook.stem}.py")
        here = [(kind, cell["source"].rstrip()) for kind in ("markdown", "code") for cell in cells(notebook, kind)]
        there = [(k, cell.source.rstrip()) for k in ("markdown", "code") for cell in script.cells if cell.cell_type == k]
        assert here == there, f"jupytext --sync notebooks/{notebook.name}"

    def test_it_has_one_cell_of_literal_parameters(self, notebook):
        tagged = [cell for cell in cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
        assert len(tagged) == 1
        body = parsed(tagged[0]).body
        assert all(isinstance(line, (ast.Assign, ast.AnnAssign)) for line in body)
        names = [line.target.id if isinstance(line, ast.AnnAssign) else line.targets[0].id for line in body]
        for line in body:
            ast.literal_eval(line.value)
        assert set(REQUIRED) <= set(names) and len(names) <= 10

    def test_it_says_which_ones_make_what_it_reads(self, notebook):
        """`make book` runs two at once: one that takes chapter 2's model too early would wait for it and keep a place."""
        tags = next(c["metadata"]["tags"] for c in cells(notebook) if "parameters" in c["metadata"].get("tags", []))
        after = {tag.removeprefix("after:") for tag in tags if tag.startswith("after:")}
        assert after <= {path.stem for path in NOTEBOOKS if path.stem < notebook.stem}
        code = "\n".join(cell["source"] for cell in cells(notebook, "code"))
        if "earth.load_or_build(options" in code and notebook.stem != "01_landmarks":
            trains = "train.load_or_train(*recipe.prepare(options)" in code and notebook.stem != "02_training"
            assert after >= {"02_training" if trains else "01_landmarks"}

    def test_it_starts_with_a_title_and_a_claim(self, notebook):
        first = cells(notebook, "markdown")[0]["source"].strip()
        assert first.startswith("# ") and len(first.splitlines()) > 2

    def test_it_patches_nothing_and_names_no_machine(self, notebook):
        for cell in cells(notebook):
            assert "sys.path" not in cell["source"]
            assert not any(line.lstrip().startswith("!") for line in cell["source"].splitlines())
            assert not MACHINE_PATH.search(cell["source"])

    def test_its_cells_are_short(self, notebook):
        limits = {True: 40, False: 15}  # lines that are folded, or not shown at all, and lines that everybody reads
        long = [cell["source"].splitlines()[0] for cell in cells(notebook) if _lines(cell) > limits[_is_folded(cell)]]
        assert not long, f"{long}: above 15 lines, or 40 where they are folded, so it belongs into the package"
        for cell in cells(notebook):
            for node in ast.walk(parsed(cell)):
                if isinstance(node, ast.FunctionDef):
                    assert node.end_lineno - node.lineno < 20, f"{node.name}: above 20 lines, so it belongs into the package"

    def test_no_line_of_its_code_is_cut_off(self, notebook):
        """Beside the list of contents a window of 1280 pixels has room for so many letters."""
        wide = [line for cell in cells(notebook) for line in cell["source"].splitlines() if len(line) > COLUMNS]
        wide += [line for block in _blocks(notebook) for line in block if len(line) > COLUMNS]
        assert not wide, f"above {COLUMNS} columns: {wide}; `ruff format notebooks` wraps all but texts"

    def test_it_shows_code_after_a_sentence_and_names_what_is_folded(self, notebook):
        names, before = [], ""
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            tags = cell["metadata"].get("tags", [])
            if cell["cell_type"] == "code" and "hide-input" in tags:
                names.append(cell["metadata"].get("mystnb", {}).get("code_prompt_show", ""))
            elif cell["cell_type"] == "code" and "remove-input" not in tags:
                assert before == "markdown", f"no sentence stands before: {''.join(cell['source'])[:80]}"
            before = cell["cell_type"]
        assert all(name.startswith("Code: ") for name in names) and len(set(names)) == len(names), names

    def test_it_ends_with_an_exercise(self, notebook):
        """One exercise whose answer is folded below it, and then what one takes away."""
        texts = "\n".join(cell["source"] for cell in cells(notebook, "markdown"))
        assert re.search(r"(?m)^## Exercise\n\n(?:.+\n)+\n```\{dropdown\} Answer\n(?:.+\n)+```\n\n## Takeaways$", texts)
        assert texts.count("## Exercise") == 1 and "edits to try" not in texts
        assert re.search(r"(?m)^Time: .*to read", texts.partition("\n## ")[0]), "how long it takes, at the top"
        assert "{term}`" in texts, "terms lead to the glossary"


def _lines(cell: dict) -> int:
    return len(cell["source"].strip().splitlines())


def _is_folded(cell: dict) -> bool:
    return bool({"hide-input", "remove-input"} & set(cell["metadata"].get("tags", [])))


def _blocks(notebook: Path) -> list[list[str]]:
    """Lines of the blocks of code that stand in its text."""
    texts = [cell["source"] for cell in cells(notebook, "markdown")]
    found = [re.findall(r"(?ms)^```(?:text|bash|python)\n(.*?)^```", text) for text in texts]
    return [block.splitlines() for several in found for block in several]
