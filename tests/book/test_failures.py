"""Kinds of failure: each search is of one kind, and its reason is true of it."""

from __future__ import annotations

import pytest

from rsvlm.book import failures

GREEN, NORTH = "Green land in the south.", "Green land in the north."


@pytest.mark.parametrize(
    ("rank", "overlap", "first", "kind", "reason"),
    [
        (1, 1.0, GREEN, failures.FOUND, "comes first"),
        (2, 0.504, NORTH, failures.NEAR, "shows 50 % of"),
        (90, 0.001, NORTH, failures.NEAR, "shows 1 % of"),
        (51, 0.0, NORTH, failures.LOST, "far down. No single word"),
        (50, 0.0, NORTH, failures.DIRECTIONS, "the colours of the sentence (green)"),
        (50, 0.0, "Tan and white land.", failures.COLOURS, "the first answer's caption lacks green and adds tan and white."),
        (2, 0.0, "Southern green land, smooth.", failures.OTHER, "the same colours and directions"),
        (2, 0.0, "Smooth.", failures.COLOURS, "caption lacks green."),
    ],
)
def test_each_search_is_of_one_kind_and_says_why(rank, overlap, first, kind, reason):
    assert failures.kind(rank, 500, overlap, GREEN, first) == kind and kind in failures.KINDS
    assert reason in failures.reason(kind, overlap, GREEN, first, failures.hindering([], GREEN, rank, []))


def test_the_word_that_hinders_most_is_named_if_there_is_one():
    spans, text = [(0, 5), (6, 10)], "Green land"
    assert failures.hindering(spans, text, 90, [1200, 40]) == "Without “land” it would have rank 40."
    assert failures.hindering(spans, text, 90, [90, 100]) == "No single word is to blame."


def test_an_example_has_the_median_rank_of_its_kind():
    kinds = [failures.LOST, failures.FOUND, failures.LOST, failures.LOST]
    assert failures.examples(kinds, [70, 1, 99, 80]) == {failures.FOUND: 1, failures.LOST: 3}
    assert list(failures.examples(kinds, [70, 1, 99, 80])) == [failures.FOUND, failures.LOST]
