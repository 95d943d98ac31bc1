"""Tables of the book that are written from records: the first page's, and the speeds."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from rsvlm.errors import DataError
from rsvlm.records import results

HOME = ROOT
ORIGIN = {
    "command": "python -m benchmarks x",
    "cpu": "a processor",
    "cores": 2,
    "device": "cpu",
    "started": "2026-01-02T03:04:05Z",
}
ORIGIN |= {"commit": "0123456789abcdef"}


@pytest.fixture(scope="module")
def measured():
    spec = importlib.util.spec_from_file_location("measured", HOME / "book" / "_ext" / "measured.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, name: str, rows: list[dict]) -> None:
    (folder / f"{name}.json").write_text(json.dumps({"rows": rows, "provenance": ORIGIN}))


def test_speeds_are_shown_as_measured_and_as_text(measured, tmp_path):
    write(tmp_path, "dedup", [{"hashes": 1_000_000, "seconds": 9.8291, "peak_memory_mb": 323}])
    write(
        tmp_path, "another", [{"implementation": "<script>|", "seconds": 1234.5}, {"implementation": "ours", "seconds": None}]
    )
    page = measured.page(tmp_path)
    assert "| 1,000,000 | 9.83 | 323 |" in page
    assert "| &lt;script&gt;\\| | 1,234 |" in page and "| ours |  |" in page
    assert "<script" not in page
    assert page.index("## Near duplicates") < page.index("## another"), "known ones first"
    assert "`python -m benchmarks x`, a processor, 2 cores, cpu, 2026-01-02, commit `0123456789ab`" in page


def test_what_a_reader_asks_first_comes_first_and_each_commit_is_in_plain_words(measured, tmp_path):
    for name in ("chips", "loader", "localize", "page", "scenes", "search", "teaching", "train", "web"):
        write(tmp_path, name, [{"seconds": 1.0}])
    record = {"rows": [{"seconds": 1.0}], "provenance": ORIGIN | {"commit": "unknown"}}
    (tmp_path / "dedup.json").write_text(json.dumps(record))
    record["provenance"] = ORIGIN | {"commit_found_by": "package_hash"}
    (tmp_path / "teaching.json").write_text(json.dumps(record))
    page = measured.page(tmp_path)
    titles = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    order = ("train", "scenes", "search", "page", "chips", "web", "dedup", "loader", "localize", "teaching")
    assert titles == [measured.PARTS[name][0] for name in order]
    assert page.index("took turns") < page.index("##") and "{doc}`status`" in page
    assert page.count("commit not recorded.") == 1 and page.endswith(
        "commit `0123456789ab`, found by the hash of the package.\n"
    )


def test_rows_that_measure_something_else_have_a_table_of_their_own(measured, tmp_path):
    learned = {"set": "RSICD", "policy": "ours", "labels": 40, "value": 95.8, "ci_low": 93.6, "ci_high": 97.8}
    sure = {"set": "RSICD", "n": 300, "policy": "confidence", "labels": 40, "covered": 99.5, "error": 5.7}
    stop = {
        "set": "RSICD",
        "n": 300,
        "policy": "stop",
        "labels": 40,
        "value": 33.1,
        "covered": 53.3,
        "then": 95.6,
        "last": 95.9,
    }
    write(tmp_path, "teaching", [learned, sure, stop])
    page = measured.page(tmp_path)
    assert "| RSICD | ours | 40 | 95.8 | 93.6 | 97.8 |" in page and page.count("| RSICD |") == 3
    assert "| RSICD | 40 | 300 | 99.5 | 5.7 |" in page, "no cell is empty"
    assert "labels by then, mean" in page and "| RSICD | 300 | 53.3 | 33.1 | 95.6 | 95.9 |" in page, "labels are no precision"


def test_no_measurement_is_an_error_that_names_the_folder(measured, tmp_path):
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        measured.page(tmp_path)


def test_every_stored_comparison_has_a_title(measured):
    stored = {path.stem for path in (HOME / "results" / "bench").glob("*.json")}
    assert stored <= set(measured.PARTS)
    for name in stored:
        rows = json.loads((HOME / "results" / "bench" / f"{name}.json").read_text())["rows"]
        wanted = set(measured.PARTS[name][1])
        assert wanted & set().union(*rows), f"{name}: none of {wanted} was measured"


def test_the_first_page_quotes_records(measured):
    text = measured.headline()
    lines = text.splitlines()[2:]
    assert len(lines) == len(measured.HEADLINE)
    table = results.table()
    for line, (_, where, experiment, run, _split, protocol, direction, metric) in zip(lines, measured.HEADLINE, strict=True):
        rows = table[(table["experiment"] == experiment) & (table["run"] == run) & (table["protocol"] == protocol)]
        value = rows[(rows["metric"] == metric) & (rows["direction"] == direction)]["value"]
        assert any(f"{one:.1f}\u00a0%" in line for one in value)
        assert (HOME / "notebooks" / f"{where}.ipynb").is_file()


def test_the_best_that_no_model_reached_stands_beside(measured, monkeypatch):
    def row(protocol, value, run="laptop-seed0", experiment="retrieval", **other):
        names = {"experiment": experiment, "run": run, "dataset": "d", "split": "test", "direction": "both", "metric": "mR"}
        return names | {"protocol": protocol, "value": value, "ci_low": 1.0, "ci_high": 2.0, "chance": 0.5, "n": 9} | other

    rows = [row("one-to-one", 37.0), row("one-to-one: colour", 46.0), row("one-to-one: model - colour", -9.0)]
    rsicd = {"experiment": "rsicd", "split": "val"}
    rows += [
        row("plain", 13.0, "model", **rsicd),
        row("plain", 14.6, "scene-class", **rsicd),
        row("plain", 9.0, "colour", **rsicd),
    ]
    rows += [row("remoteclip", 90.0, "scene-class", **rsicd), row("plain", 80.0, "another-model", **rsicd)]
    rows += [
        row("raw", 32.0, experiment="localize"),
        row("centre", 18.5, experiment="localize"),
        row("box", 50.0, experiment="localize"),
    ]
    monkeypatch.setattr(measured.results, "table", lambda: pd.DataFrame(rows))
    names = [(r["experiment"], r["run"], r["split"], r["protocol"]) for r in (rows[0], rows[3], rows[8])]
    monkeypatch.setattr(measured, "HEADLINE", [("?", "03_retrieval", *one, "both", "mR") for one in names])
    cells = [line.split(" | ")[2:4] for line in measured.headline().splitlines()[2:]]
    assert cells == [
        ["46.0 (colours)", "\u22129.0 (+1.0 to +2.0)"],
        ["14.6 (the kind of place)", "–"],
        ["18.5 (the middle)", "–"],
    ]


def test_a_number_with_nothing_beside_it_that_took_no_model_is_none_for_the_first_page(measured, monkeypatch):
    row = {"experiment": "web", "run": "r", "dataset": "d", "split": "test", "direction": "both", "metric": "mR"}
    row |= {"protocol": "plain", "value": 99.0, "ci_low": 98.0, "ci_high": 100.0, "chance": 50.0, "n": 9}
    monkeypatch.setattr(measured.results, "table", lambda: pd.DataFrame([row]))
    monkeypatch.setattr(measured, "HEADLINE", [("?", "06_web", "web", "r", "test", "plain", "both", "mR")])
    with pytest.raises(DataError, match="nothing without a model"):
        measured.headline()


def test_a_difference_that_a_notebook_stored_stands_in_its_column(measured, monkeypatch):
    row = {"experiment": "itaipu", "run": "r", "dataset": "d", "split": "test", "direction": "t2i", "metric": "mAP"}
    row |= {"ci_low": 1.0, "ci_high": 2.0, "chance": 34.0, "n": 9}
    values = {"zero-shot": 60.0, "colours, supervised": 57.0, "zero-shot - colours, supervised": 3.0}
    rows = [row | {"protocol": protocol, "value": value} for protocol, value in values.items()]
    monkeypatch.setattr(measured.results, "table", lambda: pd.DataFrame(rows))
    monkeypatch.setattr(measured, "HEADLINE", [("?", "11_itaipu", "itaipu", "r", "test", "zero-shot", "t2i", "mAP")])
    cells = measured.headline().splitlines()[2].split(" | ")[1:4]
    assert cells == ["60.0\u00a0% (1.0 to 2.0)", "57.0 (colours, with labels)", "+3.0 (+1.0 to +2.0)"]


def test_a_missing_record_is_named(measured, monkeypatch):
    monkeypatch.setattr(measured, "HEADLINE", (("?", "03_retrieval", "nothing", "here", "test", "plain", "both", "mR"),))
    with pytest.raises(DataError, match="results/nothing/here/metrics.json"):
        measured.headline()
