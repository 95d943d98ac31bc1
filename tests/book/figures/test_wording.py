"""Words that are marked: by their worth, and by what another text has in their place."""

from __future__ import annotations

import re

import pytest

from rsvlm.book.figures import wording


@pytest.mark.parametrize(
    ("text", "other", "marked"),
    [
        ("Sea to the east.", "Sea to the west.", ["east"]),
        ("Tan land. Two lakes in the north.", "Two lakes in the south. Tan land.", ["north"]),
        ("Many large islands & lakes", "lakes", ["Many large islands"]),
        ("the same", "The same.", []),
        ("<b>new</b>", "", ["b&gt;new&lt;/b"]),
        ("", "a", []),
    ],
)
def test_what_another_text_lacks_is_marked_and_all_else_dimmed(text, other, marked):
    html, count = wording.differing(text, other)
    assert re.findall("<b>(.*?)</b>", html) == marked
    assert count == sum(len(re.findall(r"\w+", re.sub("&[a-z]+;", " ", part))) for part in marked)
    assert re.sub("</?(?:b|span)>", "", html) == text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def test_shades_without_numbers_take_no_room():
    html = wording.shaded("a lake", [(0, 1), (2, 6)], [0.0, -0.1], 0.1, numbers=False)
    assert html == 'a <span class="rsvlm-less" style="--rsvlm-worth: 0.50">lake</span>'


def test_a_word_with_its_number_keeps_the_marks_behind_it():
    html = wording.shaded("a lake, (sea)", [(0, 1), (2, 6), (9, 12)], [0.0, 0.1, 0.1], 0.1)
    assert re.sub("<rt>.*?</rt>|<[^>]+>", "", html) == "a lake, (sea)"
    assert re.findall("</ruby>(.*?)</span>", html) == [",", ")"]
    assert re.findall("<ruby.*?</ruby>.", wording.shaded("a-b", [(0, 1), (1, 2), (2, 3)], [0.1] * 3, 0.1))
