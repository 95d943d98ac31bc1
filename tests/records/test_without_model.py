"""The best that was reached without a model, beside each row of results."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from rsvlm.records import results, tables, without_model

ROW = {"experiment": "retrieval", "run": "a", "dataset": "set", "split": "test", "direction": "both", "metric": "mR", "n": 10}


def row(protocol: str, value: float, **other) -> dict:
    return ROW | {"protocol": protocol, "value": value, "ci_low": value - 1, "ci_high": value + 1, "chance": 0.5} | other


def told(*rows: dict) -> pd.DataFrame:
    return without_model.beside(pd.DataFrame(rows))


def test_the_best_baseline_and_the_difference_stand_beside_a_row_and_no_longer_by_themselves():
    rows = [row("plain", 30.0), row("plain: colour", 20.0), row("plain: model - colour", 10.0)]
    rows += [row("plain: colour, whitened", 36.0), row("plain: model - colour, whitened", -6.0), row("rs5m", 7.0)]
    found = told(*rows)
    assert list(found["protocol"]) == ["plain", "rs5m"]
    first, second = found.to_dict("records")
    assert (first["baseline"], first["baseline_value"], first["gap"], first["gap_low"]) == (
        "colour, whitened",
        36.0,
        -6.0,
        -7.0,
    )
    assert second["baseline"] == "" and math.isnan(second["gap"])


@pytest.mark.parametrize(("metric", "best"), [("median_rank", "one"), ("ece", "one"), ("R@1", "other")])
def test_of_ranks_and_errors_the_smallest_is_the_best(metric, best):
    rows = [row("plain", 5.0)] + [row(f"plain: {name}", value) for name, value in (("one", 3.0), ("other", 9.0))]
    rows += [row("plain: model - one", 2.0), row("plain: model - other", -4.0)]
    assert told(*[one | {"metric": metric} for one in rows])["baseline"].tolist() == [best]


def test_nothing_is_taken_for_a_baseline_that_is_none_and_no_row_goes_missing():
    rows = [row("plain", 5.0), row("plain: colours swapped", 3.0), row("plain: colours swapped - unchanged", -2.0)]
    rows += [row("other: model - colour", 1.0), row("plain: colour", 2.0, run="b"), row("plain: model - colour", 3.0, run="b")]
    assert len(told(*rows)) == len(rows) and set(told(*rows)["baseline"]) == {""}
    assert len(told(rows[0], rows[0])) == 2, "a row that is there twice"
    assert list(told().columns) == list(without_model.COLUMNS)


def test_a_metric_that_the_model_does_not_have_goes_with_its_baseline():
    rows = [row("plain", 30.0), row("plain: colour", 20.0), row("plain: model - colour", 10.0)]
    rows.append(row("plain: colour", 4.0, metric="mAP"))
    assert list(told(*rows)["metric"]) == ["mR"]


@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
def test_tables_have_two_columns_more_where_there_is_a_baseline(form, monkeypatch):
    rows = [row("plain", 30.0), row("plain: colour", 36.0), row("plain: model - colour", -6.0), row("rs5m", 7.0)]
    origin = dict.fromkeys(results.ORIGIN, "") | {"profile": "laptop", "sketch": ""}
    monkeypatch.setattr(tables, "table", lambda experiment: pd.DataFrame([one | origin for one in rows]))
    printed = tables.formatted("retrieval", form)
    assert "36.0 (colour)" in printed and "-6.0 (-7.0 to -5.0)" in printed
    assert printed.count("without a model") == 1 and "plain: colour" not in printed
    everything = tables.formatted("retrieval", "csv")
    assert "plain: colour" in everything and "plain: model - colour" in everything
