"""What took long is read from `results/` if, and only if, it was measured with the same options."""

from __future__ import annotations

import ast
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from rsvlm import config
from rsvlm.book.figures import numbers, tables
from rsvlm.errors import DataError
from rsvlm.records import provenance, results, stages

NOTEBOOKS = stages.PACKAGE.parent / "notebooks" / "py"
FOUND = {"held_out": "sea", "area": {"all": {"value": 81.5, "seeds": [80.0, 83.0]}}, "steps": (64, 8)}


def save(options, found=FOUND, run="laptop-seed0"):
    made = provenance.provenance(options, "d" * 12, "cpu", time.time() - 130, "x")
    row = {"dataset": "d", "split": "test", "protocol": "p", "direction": "t2i", "metric": "R@1", "value": 1.0, "n": 3}
    row |= dict.fromkeys(("ci_low", "ci_high", "chance"))
    return results.save_result("unseen", run, options, [row], made, found)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    monkeypatch.delenv("RSVLM_RESULTS", raising=False)
    return tmp_path


def test_what_was_found_comes_back_and_says_when(home):
    options = config.load("laptop", {"device": "cpu"})
    save(options)
    found = results.stored(
        "unseen", "laptop-seed0", config.load("laptop", {"device": "auto"}), {"held_out": "sea", "steps": (64, 8)}
    )
    assert found["area"] == FOUND["area"]
    assert found["origin"]["n"] == [3] and found["origin"]["command"] == "x"
    said = numbers.measured_before(found, "The six trainings")
    assert said.startswith("The six trainings were not run again") and "in 2 minutes" in said and "recompute=True" in said
    assert numbers.measured_before(None, "The six trainings") == ""


@pytest.mark.parametrize("other", [{"seed": 1}, {"train.steps": 30}, {"evaluate.bootstrap_samples": 20}])
def test_other_options_are_not_that_run(home, other):
    save(config.load("laptop"))
    assert results.stored("unseen", "laptop-seed0", config.load("laptop")) is not None
    assert results.stored("unseen", "laptop-seed0", config.load("laptop", other)) is None
    assert results.stored("unseen", "laptop-seed0", config.load("smoke")) is None


def test_other_values_that_decide_are_not_that_run(home):
    options = config.load("laptop")
    save(options)
    for given in ({"held_out": "lake"}, {"teacher": ""}, {"steps": [64, 9]}):
        assert results.stored("unseen", "laptop-seed0", options, given) is None
    assert results.stored("unseen", "another", options) is None


def test_a_page_tells_the_run_it_reads_from_its_own(home):
    options = config.load("laptop")
    save(options)
    before = results.stored("unseen", "laptop-seed0", options)
    before["origin"] |= {"commit": "a" * 40, "command": "the stored <run>", "n": [3, 2156], "dirty": False}
    today = provenance.provenance(options, "d" * 12, "cpu", time.time(), "today's")
    shown = tables.provenance(today | {"commit": "b" * 40, "dirty": False}, {"The six trainings": before, "The leaks": None})
    assert "The six trainings: measured before" in shown and "run for this page" in shown and "leaks" not in shown
    assert shown.index("the stored &lt;run&gt;") < shown.index("today&#x27;s") and "3 to 2,156" in shown
    assert re.search(f">{'a' * 12}</td><td[^>]*>{'b' * 12}</td>", shown) and before["origin"]["started"] in shown
    alone = tables.provenance(today)
    assert "before" not in alone and ">n</th>" not in alone and "today&#x27;s" in alone
    assert ">not recorded</td>" in tables.provenance(today | {"commit": "unknown", "dirty": False})


# Parameters of a page that do not decide what its stored run found: the options tell the first, and the others are of what runs each time.
OF_OPTIONS = {"profile", "seed", "device", "overrides", "recompute", "run_name"}
OF_EACH_RUN = {"08_classification": {"data", "model"}, "10_leakage": {"data"}}
KEPT = {
    "08_classification": "few-shots/laptop-seed0",
    "09_unseen_classes": "unseen-classes/laptop-seeds0-1-all",
    "10_leakage": "leaks/laptop-seed0",
    "14_rounds": "rounds/laptop-seed0",
    "16_compare": "compare/laptop-seed0",
}


def of_page(path: Path) -> tuple[set[str], set[str]]:
    """Names of a notebook's parameters, and of what it compares with its stored run."""
    cells = path.read_text().split("\n# %%")
    parameters = next(cell for cell in cells if '"parameters"' in cell.partition("\n")[0]).partition("\n")[2]
    names = {node.targets[0].id for node in ast.parse(parameters).body}
    decides = set()
    for node in ast.walk(ast.parse(path.read_text())):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if getattr(target, "id", "") == "decides":
            decides |= {key.value for key in node.value.keys}
    return names, decides


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_each_parameter_that_changes_numbers_decides_whether_the_stored_run_is_read(path):
    if "results.stored(" not in path.read_text():
        assert path.stem not in KEPT
        return
    names, decides = of_page(path)
    assert names - OF_OPTIONS - OF_EACH_RUN.get(path.stem, set()) <= decides
    found = json.loads((NOTEBOOKS.parents[1] / "results" / KEPT[path.stem] / "found.json").read_text())
    assert decides <= set(found), "the page would never read it"


def test_a_run_whose_results_go_elsewhere_measures_for_itself(home, monkeypatch):
    options = config.load("laptop")
    save(options)
    monkeypatch.setenv("RSVLM_RESULTS", str(home / "elsewhere"))
    assert results.stored("unseen", "laptop-seed0", options) is None


@pytest.mark.parametrize("part", ["config", "provenance", "found", "metrics"])
def test_half_a_run_is_named_and_not_read(home, part):
    options = config.load("laptop")
    path = save(options) / f"{part}.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(DataError, match="unseen/laptop-seed0 is not a complete result"):
        results.stored("unseen", "laptop-seed0", options)


def test_what_is_no_json_is_not_stored(home):
    with pytest.raises((TypeError, ValueError)):
        save(config.load("laptop"), {"value": np.zeros(3)})
    assert results.stored("unseen", "laptop-seed0", config.load("laptop")) is None


def test_an_option_that_came_since_has_its_default_and_one_that_went_is_another_run(home):
    options = config.load("laptop")
    path = save(options) / "config.json"
    kept = json.loads(path.read_text())

    def stored(**train):
        path.write_text(json.dumps(kept | {"train": kept["train"] | train}))
        return results.stored("unseen", "laptop-seed0", options)

    assert kept["train"].pop("fsdp") is False
    assert stored() is not None and stored(fsdp=True) is None
    assert stored(gone=True) is None


def test_the_book_reads_every_run_that_lies_here_for_it(monkeypatch):
    """A profile that changed leaves them unread, and the book slow: run their notebooks with `-p recompute=True`."""
    monkeypatch.setenv("RSVLM_HOME", str(stages.PACKAGE.parent))
    monkeypatch.delenv("RSVLM_RESULTS", raising=False)
    there = sorted((stages.PACKAGE.parent / "results").glob("*/*/found.json"))
    assert len(there) >= 4
    for path in there:
        kept = json.loads(path.with_name("config.json").read_text())
        options = config.load(kept["profile"], {"seed": kept["seed"]})
        assert results.stored(path.parts[-3], path.parts[-2], options) is not None, path
