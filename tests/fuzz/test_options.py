"""Values that a command line gives, beside pydantic's and JSON's reading of them: what is written is what is read, or it is refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import nbformat
import pydantic
import pytest
from fuzzing import fuzz
from hypothesis import strategies as st

from rsvlm import config
from rsvlm.book import matrix, notebooks
from rsvlm.errors import ConfigError

TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)
ODD = st.sampled_from(
    [
        "true",
        "False",
        "yes",
        "NO",
        "off",
        "1",
        "0",
        "01",
        "1e3",
        "20241128",
        "007",
        "1_000",
        "None",
        "none",
        "null",
        "nan",
        "inf",
    ]
    + [
        "",
        " ",
        "0x10",
        "1.",
        ".5",
        "-3",
        "+4",
        "1e-4",
        "[1, 2]",
        "(1, 2)",
        "'quoted'",
        '"1"',
        "a,b",
        "{}",
        "1j",
        "b'x'",
        "2.0",
    ]
)
TYPES = {"yes": bool, "count": int, "share": float, "name": str}
DEFAULTS = {"yes": False, "count": 3, "share": 0.5, "name": "a"}


def literal(value) -> str:
    """How a person writes a value on a command line."""
    return str(value) if not isinstance(value, list) else json.dumps(value)


@fuzz(
    yes=st.booleans(),
    count=st.integers(-(10**9), 10**9),
    share=NUMBERS,
    name=TEXTS,
    odd=ODD,
    which=st.sampled_from(list(TYPES)),
)
def test_parameters_are_read_as_their_declared_types(yes, count, share, name, odd, which):
    """A value comes back as it was written; an odd one is what pydantic, which is told the type, makes of it, or it is refused."""
    given = {"yes": yes, "count": count, "share": share}
    with tempfile.TemporaryDirectory() as scratch:
        book = nbformat.v4.new_notebook()
        cell = nbformat.v4.new_code_cell("\n".join(f"{name} = {value!r}" for name, value in DEFAULTS.items()))
        cell.metadata["tags"] = ["parameters"]
        book.cells.append(cell)
        path = Path(scratch) / "01_a.ipynb"
        nbformat.write(book, path)
        written = {key: literal(value) for key, value in given.items()} | {"name": name}
        read = notebooks.read_values(path, written)
        assert {key: read[key] for key in given} == given and {key: type(value) for key, value in read.items()} == TYPES
        quoted = len(name) > 1 and name[0] == name[-1] and name[0] in "\"'"
        assert read["name"] == name or quoted
        assert notebooks.read_values(path, read) == read or quoted, "reading once more changes nothing"
        try:
            ours = notebooks.read_values(path, {which: odd})[which]
        except ConfigError as error:
            assert which in str(error) and type(DEFAULTS[which]) is not str
            ours = None
    if which == "name":
        assert ours == odd or ours == odd[1:-1]
        return
    try:
        theirs = pydantic.TypeAdapter(TYPES[which]).validate_python(odd)
    except pydantic.ValidationError:
        theirs = None
    assert ours is None or type(ours) is TYPES[which]
    if ours is not None and theirs is not None:
        assert ours == theirs or ours != ours, (which, odd)
    if theirs is None and ours is not None:
        assert odd in ("0x10", "1_000"), (which, odd, ours)  # Python writes numbers so


OPTIONS = [row for row in config.describe() if row["name"].count(".") == 1]


@fuzz(data=st.data())
def test_options_set_by_text_are_those_set_by_value(data):
    """`--set` reads a value as pydantic does from JSON, for every option there is; blanks around several of them are no part of one."""
    fields = {
        row["name"]: type(config.Config.model_fields[row["name"].partition(".")[0]].default).model_fields[
            row["name"].partition(".")[2]
        ]
        for row in OPTIONS
    }
    names = data.draw(st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=3, unique=True))
    texts = {}
    for name in names:
        kind = str(fields[name].annotation)
        if kind == "<class 'bool'>":
            texts[name] = data.draw(st.sampled_from(["true", "false", "True", "no", "1", "off"]))
        elif "int" in kind and "Stage" not in kind and "tuple" not in kind:
            texts[name] = str(data.draw(st.integers(-5, 10**6)))
        elif "float" in kind and "tuple" not in kind:
            texts[name] = repr(data.draw(NUMBERS))
        elif kind == "<class 'str'>":
            texts[name] = data.draw(st.text(st.sampled_from("abcÄ:/._- 12,;'\""), min_size=1, max_size=12)).strip() or "a"
        else:
            texts[name] = data.draw(st.sampled_from(["none", "8,16", "[8, 16]", "grid", "a, b", "[]"]))
    joined = data.draw(st.sampled_from([" ", "  ", "\n"])).join(f"{name}={text}" for name, text in texts.items())
    try:
        by_text = config.load("smoke", joined)
    except ConfigError as error:
        by_text, why = None, str(error)
    values = {name: None if text.lower() == "none" else text for name, text in texts.items()}
    try:
        by_value = config.load("smoke", values)
    except ConfigError as error:
        by_value = None
        assert by_text is None and str(error) == why
        assert any(name in why or name.rpartition(".")[0] in why for name in names), "the option is named"
    assert by_text == by_value
    if by_text is None:
        return
    again = config.Config.model_validate_json(by_text.model_dump_json())
    assert again == by_text, "written as JSON and read again"
    for name, text in texts.items():
        section, _, option = name.partition(".")
        value = getattr(getattr(by_text, section), option)
        if isinstance(value, bool):
            assert value is pydantic.TypeAdapter(bool).validate_python(text)
        elif isinstance(value, int | float):
            assert value == json.loads(text), name
        elif isinstance(value, str):
            assert value == text, name


PLAIN = st.text(st.sampled_from("abc123.-_/ :=ä"), min_size=1, max_size=8).map(str.strip).filter(bool)
BRACKETS = st.lists(st.integers(0, 9), min_size=1, max_size=3).map(json.dumps)
COMMAS = st.lists(PLAIN, min_size=2, max_size=3).map(",".join)


@fuzz(values=st.lists(st.one_of(PLAIN, BRACKETS, COMMAS), min_size=1, max_size=5, unique=True), quote=st.sampled_from("\"'"))
def test_axes_of_a_matrix_hold_the_values_that_were_written(values, quote):
    """Commas inside quotes and brackets are of their value; a value never falls apart, and none is lost."""
    written = [f"{quote}{value}{quote}" if "," in value and not value.startswith("[") else value for value in values]
    assert matrix.axes([f"x.y={','.join(written)}"]) == {"x.y": values}
    twice = [*written, written[-1]]
    with pytest.raises(ConfigError, match="twice"):
        matrix.axes([f"x.y={','.join(twice)}"])
