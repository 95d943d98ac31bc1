"""Numbers as pages print them: minus signs, intervals, and tables without nan or dictionaries."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rsvlm.book.figures import numbers


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("changes by -7.7 points (-10.4 to -5.0)", "changes by −7.7 points (−10.4 to −5.0)"),
        ("-20.3, -25.3", "−20.3, −25.3"),
        ("worth -0.00 nats, or -0, -0.0; -0.04 and -0.50 stay", "worth 0.00 nats, or 0, 0.0; −0.04 and −0.50 stay"),
        ("pages 2-3, 1.2e-05, ViT-B/32, seeds0-1", "pages 2-3, 1.2e-05, ViT-B/32, seeds0-1"),
        ("`-p seed=-1` by -1", "`-p seed=-1` by −1"),
        ("one-to-one, --set, 2024-11-28", "one-to-one, --set, 2024-11-28"),
    ],
)
def test_a_hyphen_ahead_of_a_number_is_a_minus_sign(written, shown):
    assert numbers.minus(written) == shown


def test_sentences_are_shown_as_text_even_where_markdown_is_not_understood():
    said = numbers.prose("It falls by -1.5 points.", "", "That is all.")
    assert said._repr_markdown_() == "It falls by −1.5 points. That is all." == repr(said)
    assert numbers.points("a", "", "-2")._repr_markdown_() == "- a\n- −2\n"
    assert numbers.prose("From 65 to 1 %.") == "From 65 to 1\u00a0%." and "12\u00a0%" in numbers.points("12 % of all")


def test_where_there_is_no_text_nothing_is_shown():
    formatters = pytest.importorskip("IPython.core.formatters", reason="the extra [book] is not installed")
    shown = formatters.DisplayFormatter().format
    assert shown(numbers.prose("")) == shown(numbers.points("")) == ({}, {})
    assert shown(numbers.prose("It is -1."))[0] == {"text/plain": "It is −1.", "text/markdown": "It is −1."}


def test_an_interval_has_one_notation():
    row = {"value": 62.94, "ci_low": 58.1, "ci_high": 67.07}
    assert numbers.interval(row) == "62.9 (58.1 to 67.1)"
    assert numbers.interval(row, 0, unit="%") == "63 % (58 to 67)"
    assert numbers.interval({"value": 1.0, "ci_low": -2.0, "ci_high": 3.0}, signed=True) == "+1.0 (−2.0 to +3.0)"
    assert numbers.interval({"value": float("nan"), "ci_low": None}) == numbers.interval({"value": None}, unit="%") == ""
    for none in (None, np.nan):
        assert numbers.interval({"value": 5.0, "ci_low": none, "ci_high": none}) == "5.0"


def test_a_count_agrees_with_its_noun():
    assert [numbers.counted(n, "region") for n in (0, 1, 1200)] == ["0 regions", "1 region", "1,200 regions"]
    assert numbers.counted(2, "category", "categories") == "2 categories"


def test_a_table_shows_no_nan_no_dictionary_and_no_markup():
    rows = [
        {
            "n": 16888,
            "value": -0.25,
            "why": {"too dark": 16888, "no text": 2},
            "name": "<script>alert(1)</script>",
            "good": True,
        },
        {"n": 2, "value": np.nan, "why": {}, "name": None, "good": False},
    ]
    html = numbers.table(pd.DataFrame(rows), digits={"value": 2}).to_html()
    assert "nan" not in html and "None" not in html and "{&" not in html and "<script" not in html
    for text in ("16,888", "−0.25", "16,888 too dark; 2 no text", "&lt;script&gt;", ">yes<", ">no<"):
        assert text in html
    assert 'class="row_heading' not in html and "row_heading" in numbers.table(pd.DataFrame(rows), index=True).to_html()


def test_whole_numbers_beside_missing_ones_are_asked_for_by_their_digits():
    html = numbers.table(pd.DataFrame({"population": [264734.0, np.nan]}), digits=0).to_html()
    assert "264,734" in html and "264,734.0" not in html and "nan" not in html
