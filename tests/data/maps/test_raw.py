"""Properties of any program become flat tags, none lost among empty ones; texts are read in the encoding they were written in."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rsvlm.data.maps import raw


def test_no_column_is_lost_among_empty_ones():
    empty = {f"key{i}": [None, "", float("nan"), np.nan, "nan", "NULL", "<NA>"][i % 7] for i in range(500)}
    assert raw.tags_of(empty | {"natural": "water", "name": "None", "fid": np.int64(3)}) == {
        "natural": "water",
        "name": "None",
        "fid": "3",
    }
    many = {f"key{i}": str(i) for i in range(1000)}
    assert raw.tags_of(many) == many


@pytest.mark.parametrize(
    "packed",
    [
        {"tags": {"natural": "beach", "oneway": True}},
        {"tags": '{"natural": "beach", "oneway": true}'},
        {"other_tags": '"natural"=>"beach","oneway"=>"yes"'},
        {"source_tags": [("natural", "beach"), ("oneway", "yes")]},
        {"source_tags": [{"key": "natural", "value": "beach"}, {"key": "oneway", "value": "yes"}]},
    ],
)
def test_packed_tags(packed):
    assert raw.tags_of(packed) == {"natural": "beach", "oneway": "yes"}


@pytest.mark.parametrize(
    ("own", "tags", "identity"),
    [
        ("way/12", {}, "way/12"),
        (None, {"full_id": "w12"}, "way/12"),
        (None, {"osm_id": "12", "osm_type": "way"}, "way/12"),
        (12, {"element": "way"}, "way/12"),
        (None, {"osmid": "12", "element_type": "way"}, "way/12"),
        (None, {"fid": "3"}, "3"),
        (0, {}, ""),
        ("0.0", {}, ""),
        ("-1", {}, ""),
        (None, {"id": "0"}, ""),
        (None, {}, ""),
    ],
)
def test_identities(own, tags, identity):
    assert raw.identity_of(own, tags) == identity


@given(st.text(st.characters(codec="utf-8", min_codepoint=0x20, max_codepoint=0x2FFF, exclude_categories=("Cc", "Cs"))))
def test_texts_in_utf_8_are_read_back(text):
    guesses = Counter()
    assert raw.decoded(text.encode().decode("latin-1"), guesses) == text
    assert guesses == (Counter() if text.isascii() else Counter({"UTF-8": 1}))


@pytest.mark.parametrize("text", ["Praça", "O’Neill’s", "Café “Zoé” 5 €", "Køge", "Malmö"])
def test_texts_in_windows_1252_are_read_back(text):
    assert raw.decoded(text.encode("cp1252").decode("latin-1"), Counter()) == text


def test_a_letter_that_a_narrow_column_cut_is_left_out():
    guesses = Counter()
    assert raw.decoded_bytes("São Praç".encode()[:-1], guesses) == "São Pra" and guesses == {"UTF-8": 1}
