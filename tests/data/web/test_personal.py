"""Personal data beside the pairs is blanked by the tests that texts pass, and nothing else is."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from rsvlm import config
from rsvlm.data.web import html, personal, texts

pytest.importorskip("lingua", reason="lingua is not installed")

PERSONAL = (
    "Jane Roe, jane.roe@mail.example",
    "jane.roe [at] mail [dot] example",
    "jane.roe&#64;mail.example",
    "jane.roe at mail dot example",
    "jane.roe\u200b@mail.example",
    "jane.roe@\xadmail-of-jane.example <br>",
    "jane.roe\uff20mail.example",
    "jane.roe @ mail.example",
    "Call 555-123-4567",
    "Tel. +49 30 1234567",
    "by @jane_roe",
)
HARMLESS = (
    "",
    "Harbours of the north",
    "Landsat 8, 2019-05-04",
    "48.8566, 2.3522",
    "Sentinel-2 at 10 m & more",
    "Our garden",
    "Connect the dot",
    "Paris @ night.",
)


def judged(rows: list[dict]) -> pa.Table:
    rows = [dict.fromkeys(html.COLUMNS, "") | row for row in rows]
    return texts.text_stage(pa.Table.from_pylist(rows), config.Web())


@pytest.mark.parametrize("column", ["title", "heading"])
def test_titles_and_headings_are_blanked_also_of_what_is_kept(column):
    good = "Satellite image of the river delta near Basra, seen from above"
    table = judged([{"text": good, column: text} for text in (*PERSONAL, *HARMLESS)])
    counts = Counter()
    result = personal.blanked(table, counts)
    assert result[column].to_pylist() == [""] * len(PERSONAL) + list(HARMLESS)
    assert result.drop_columns([column]).equals(table.drop_columns([column])) and all(result["kept"].to_pylist())
    assert counts == {f"personal_{column}": len(PERSONAL)}


def test_rejected_texts_are_blanked_whatever_they_were_rejected_for():
    table = judged(
        [{"text": text} for text in (*PERSONAL, *HARMLESS, "Aerial view of a port, write to jane.roe@mail.example")]
    )
    counts = Counter()
    result = personal.blanked(table, counts)
    assert result["reason"].equals(table["reason"]) and result["kept"].equals(table["kept"])
    assert result["text"].to_pylist() == [""] * len(PERSONAL) + list(HARMLESS) + [""]
    assert not any("jane" in str(row).lower() or "555" in str(row) for row in result.to_pylist())
    assert counts == {"personal_text": len(PERSONAL) + 1}


def test_a_table_without_rows_stays_one():
    assert personal.blanked(judged([{}]).slice(0, 0), Counter()).num_rows == 0
