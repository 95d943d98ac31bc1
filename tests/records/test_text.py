"""Small tools for texts of strangers, each with what it must not let through."""

import pytest

from rsvlm import errors
from rsvlm.records import text


def test_one_line_shows_nothing_that_cannot_be_seen():
    assert text.one_line(" a\u202eb\x00c\n\td\u2028e ") == "a b c d e"
    assert text.one_line("Größe 10 °C — ok") == "Größe 10 °C — ok"


def test_a_cell_is_no_formula():
    assert [text.cell(value) for value in ("=1+1", "@x", "－1", "\tx", "a=1", 3, None)] == [
        "'=1+1",
        "'@x",
        "'－1",
        "'\tx",
        "a=1",
        3,
        None,
    ]


def test_a_sample_depends_on_names_and_seed_alone():
    names = [f"chip {n}" for n in range(500)]
    drawn = text.sample(names, 20, 3, str)
    assert drawn == text.sample(reversed(names), 20, 3, str) and len(set(drawn)) == 20
    assert drawn != text.sample(names, 20, 4, str) and text.sample(names[:3], 20, 3, str) != []
    assert drawn == sorted(names, key=lambda name: text.rank(name, 3))[:20]


def test_sketches_tell_versions_of_a_set_from_other_sets():
    ours = [f"There is a pond with {i} boats ." for i in range(500)]
    cleaned = [one.casefold().removesuffix(" .") for one in ours[20:]] + ["", "  ", "another"]
    sketch = text.sketch(ours)
    assert len(sketch) == 8 * text.SKETCH and sketch == text.sketch(ours[::-1] + ours[:7])
    assert text.likeness(sketch, sketch) == 1 and text.likeness(sketch, text.sketch(cleaned)) > 0.8
    halves = [text.likeness(text.sketch(ours[i:]), text.sketch(ours[: 500 - i])) for i in (100, 300)]
    assert halves[0] > text.ALIKE > halves[1]  # 60 % in common, and none
    assert text.likeness(sketch, text.sketch(["noise"])) == text.likeness(sketch, "") == 0


def test_batches_hold_everything_once():
    assert list(text.batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]] and list(text.batched([], 3)) == []


def test_the_nearest_name_is_offered():
    assert (
        text.did_you_mean("traim", ["train", "test"]) == "; did you mean 'train'?"
        and text.did_you_mean("xyz", ["train"]) == ""
    )


def test_a_missing_package_says_which_extra_brings_it():
    assert errors.need("json", "data").dumps({}) == "{}"
    with pytest.raises(
        errors.MissingExtraError, match=r"the package no_such_package is not installed: pip install 'rsvlm\[data\]'"
    ):
        errors.need("no_such_package.part", "data")
