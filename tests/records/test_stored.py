"""What took long is read from `results/` if, and only if, it was measured with the same options."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from rsvlm import config
from rsvlm.book.figures import numbers
from rsvlm.errors import DataError
from rsvlm.records import provenance, results, stages

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


def test_a_run_whose_results_go_elsewhere_measures_for_itself(home, monkeypatch):
    options = config.load("laptop")
    save(options)
    monkeypatch.setenv("RSVLM_RESULTS", str(home / "elsewhere"))
    assert results.stored("unseen", "laptop-seed0", options) is None


@pytest.mark.parametrize("part", ["config", "provenance", "found"])
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


def test_the_book_reads_every_run_that_lies_here_for_it():
    """A profile that changed leaves them unread, and the book slow: run their notebooks with `-p recompute=True`."""
    there = sorted((stages.PACKAGE.parent / "results").glob("*/*/found.json"))
    assert len(there) >= 4
    for path in there:
        kept = json.loads(path.with_name("config.json").read_text())
        options = config.load(kept["profile"], {"seed": kept["seed"]}).model_dump(mode="json")
        assert options | {"device": ""} == kept | {"device": ""}, path
