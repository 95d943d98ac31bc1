"""Sentences changed on purpose: what should change does, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from rsvlm.errors import DataError
from rsvlm.evaluation import words

TEXT = "Sea to the west covers about a third, very dark blue in the north west and Southwestern part; Green land, 12 lakes."


def rng():
    return np.random.default_rng(0)


def test_words_of_a_kind_are_found_in_any_case_joined_or_not():
    assert words.of_kind(TEXT, "colours") == ["blue", "green"]
    assert words.of_kind(TEXT, "directions") == ["west", "northwest", "southwest"]
    assert words.of_kind(TEXT, "counts") == ["third", "12"]
    assert words.of_kind("greenhouses, tangerine fields, westminster", "colours") == []
    assert words.of_kind("westminster, bottomless", "directions") == []
    with pytest.raises(DataError, match="choose one of colours, directions, counts"):
        words.of_kind(TEXT, "smells")


def test_removed_words_leave_no_gaps_and_never_nothing():
    assert words.removed([TEXT, "Blue, green", "a road"], "colours") == [
        "Sea to the west covers about a third, in the north west and Southwestern part; land, 12 lakes.",
        "a picture",
        "a road",
    ]


def test_the_control_removes_as_many_words_of_no_kind():
    (left,) = words.others_removed([TEXT], "colours", rng())
    for kind in words.KINDS:
        assert words.of_kind(left, kind) == words.of_kind(TEXT, kind)
    assert len(TEXT.split()) - len(left.split()) == 4, "very dark blue, and green"
    assert words.others_removed(["blue", "a road"], "colours", rng()) == ["blue", "a road"]


def test_swapped_words_are_others_of_their_kind_and_stay_apart():
    captions = ["green land, blue sea, green hills", "tan land", "a road"]
    for seed in range(20):
        changed = words.swapped(captions, "colours", np.random.default_rng(seed))
        before, after = (words.of_kind(texts[0], "colours") for texts in (captions, changed))
        assert after[0] == after[2] != after[1] and all(a != b for a, b in zip(before, after, strict=True))
        assert set(after) <= {"green", "blue", "tan"} and changed[2] == "a road"
    (one,) = words.swapped([TEXT], "directions", rng())
    assert "Southwestern" not in one and one.count("ern part") == 1 and one.split("ern part")[0].split()[-1][0].isupper()


def test_alike_and_east_for_west():
    assert words.alike(["green land, Blue sea", "green"], "colours") == ["green land, Green sea", "green"]
    assert words.east_for_west(["Eastern shore, north-west, a beast at rest on the left"]) == [
        "Western shore, north-east, a beast at rest on the right"
    ]
    twice = words.east_for_west(words.east_for_west([TEXT]))
    assert twice == [TEXT]


def test_shuffled_words_are_the_same_words_between_the_same_marks():
    (changed,) = words.shuffled([TEXT], rng())
    strip = str.maketrans("", "", ",;.")
    assert sorted(changed.lower().translate(strip).split()) == sorted(TEXT.lower().translate(strip).split())
    assert changed != TEXT and [c for c in changed if c in ",;."] == [c for c in TEXT if c in ",;."] and changed[0].isupper()


def test_every_change_gives_a_text_for_each_and_is_the_same_again():
    captions = [TEXT, "a road", "green", "two"]
    for name, change in words.changes().items():
        changed = change(captions, rng())
        assert len(changed) == 4 and all(text.strip() for text in changed) and changed == change(captions, rng()), name
        assert changed[1] == "a road" or name == "order shuffled"


def test_each_word_is_left_out_in_turn():
    spans, without = words.without_each("a river, seen.")
    assert spans == [(0, 1), (2, 7), (9, 13)] and without == ["river, seen.", "a, seen.", "a river."]
    assert words.without_each("river") == ([], [])
