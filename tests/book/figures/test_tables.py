"""Tables: whatever a map or a model wrote is shown as text."""

from __future__ import annotations

import html
import re

import pytest

from rsvlm import config
from rsvlm.book.figures import tables
from rsvlm.data.captions import audit, prompts as prompting

HOSTILE = '</pre><script>alert("1")</script>\u202e & <b>x</b>'
MARKS = [
    {"name": HOSTILE, "names": {}, "category": "lake", "position": "north", "count": 1, "share": 0.2, "size_px": 29.3}
    | {"prominence": 0.5, "visible": True, "hidden_because": None, "source": "<i>map</i>"},
    {"name": None, "names": {}, "category": "swimming_pool", "position": "east", "count": 1200, "share": None, "size_px": None}
    | {"prominence": None, "visible": False, "hidden_because": "too small at this resolution", "source": None},
]


def cells(table: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)] for row in rows]


def test_landmarks_are_listed_as_text_with_what_hides_them():
    table = tables.landmark_table(MARKS)
    head, lake, pool = cells(table)
    assert dict(zip(head, lake, strict=True)) == {
        "name": HOSTILE,
        "category": "lake",
        "count": "1",
        "position": "north",
        "share": "20.0 %",
        "size, pixels": "29.3",
        "prominence": "0.50",
        "visible": "yes",
        "source": "<i>map</i>",
    }
    assert pool[:4] == ["", "swimming pool", "1,200", "east"] and pool[-2] == "too small at this resolution"
    assert "<script" not in table and "<i>" not in table and "<b>" not in table


def test_relations_name_both_ends_in_the_right_order():
    table = tables.relation_table(MARKS, [{"from": 0, "to": 1, "distance_m": 4800.0, "direction": "south"}])
    assert cells(table)[1] == ["the swimming_pool in the east", "4.8 km", "south of", HOSTILE]
    assert "<script" not in table
    assert tables.relation_table(MARKS, []) == "<p>None.</p>"


def test_a_prompt_is_shown_whole_and_stays_in_its_block():
    options = config.Captioner()
    record = {"size_px": 64, "gsd_m": 10.0, "landmarks": MARKS, "relations": []}
    instructions, message = prompting.compose(prompting.load_prompt(options.prompt), record, options)
    shown = tables.prompt_text(instructions, message)
    blocks = re.findall(r"<pre dir=ltr>(.*?)</pre>", shown, re.DOTALL)
    assert [html.unescape(block) for block in blocks] == [instructions, message]
    assert "alert" in message and "<script" not in shown and shown.count("<pre") == 2


def test_findings_tell_the_fault_the_reason_and_what_is_left():
    bad = {"one": "A lake <img src=x onerror=alert(1)> in the north.", "two": "I'm sorry, but I cannot describe this image."}
    found = audit.check(bad | {"three": "A lake lies in the north."}, {"key": "a", "landmarks": [MARKS[0] | {"name": None}]})
    names = ("original", "reasons", "details", "text")
    rows = [{"fault": f.kind} | {name: getattr(f, name) for name in names} for f in found.findings]
    table = tables.finding_table(rows)
    one, two, three = cells(table)[1:]
    assert one[1] == bad["one"] and "markup" in one[2] and "<img" not in table
    assert two[2].startswith("refusal (I'm sorry") and two[3] == "rejected"
    assert three == ["three", "A lake lies in the north.", "nothing", "A lake lies in the north."]


@pytest.mark.parametrize(("detail", "told"), [("1.69° N", "61.69° N"), ("north of", "north of"), ("not in it", "not in it")])
def test_what_an_audit_found_begins_at_the_start_of_a_word(detail, told):
    row = {"fault": "coordinates", "original": "It lies at 61.69° N, north of a lake.", "reasons": ["coordinates"]}
    assert f"coordinates ({told})" in cells(tables.finding_table([row | {"details": [detail], "text": ""}]))[1][2]
