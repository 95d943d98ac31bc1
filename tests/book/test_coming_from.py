"""Commands that pages print are commands: each verb and each option of them exists, and takes such a value."""

import functools
import re
import shlex

import pytest
import typer
import typer.core
from conftest import ROOT

from rsvlm import __main__ as cli

LOG = ROOT / "book" / "lab_log.md"  # tells what was run on its day, often a part of it
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(page for page in sorted((ROOT / "book").glob("*.md")) if page != LOG)]
COMING = [page for page in PAGES if page.name.startswith("coming_from_")]
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def printed(text: str) -> list[list[str]]:
    """The commands of a page, as words behind `rsvlm`: of blocks of shell, and of code in a sentence or a table."""
    blocks: dict[str, list[str]] = {"prose": [], "bash": [], "other": []}
    inside = ""
    for line in text.splitlines():
        if line.startswith("```"):
            kind = line.strip("`").strip()
            inside = "" if inside else "prose" if kind.startswith("{") else kind if kind in blocks else "other"
        else:
            blocks[inside or "prose"].append(line)
    lines = "\n".join(blocks["bash"]).replace("\\\n", " ").splitlines()
    lines += [re.sub(r"\s+", " ", span) for span in SPAN.findall("\n".join(blocks["prose"]))]
    commands = []
    for line in (line for line in lines if "rsvlm " in line):
        parser = shlex.shlex(re.sub(r"\s#\s.*", "", line), posix=True, punctuation_chars="&|;")
        parser.whitespace_split, parser.commenters = True, ""
        words: list[str] = []
        for word in [*parser, ";"]:
            if word and not set(word) <= set("&|;"):
                words.append(word)
            elif words:
                if words[0] in ("rsvlm", ".venv/bin/rsvlm") and words[1:]:
                    commands.append(words[1:])
                words = []
    return commands


@functools.cache
def command() -> typer.core.TyperGroup:
    """The command line, each verb of which does nothing and looks at no place."""

    def emptied(verb):
        for parameter in verb.params:
            parameter.callback = None
        for other in getattr(verb, "commands", {}).values():
            emptied(other)
        verb.callback = lambda **values: values
        return verb

    return emptied(typer.main.get_command(cli.app))


def check(words: list[str]) -> None:
    """Read a command as Typer does. Verbs alone are a mention, of which no argument is wanted. What does not fit raises."""
    verb, named = command(), 0
    while named < len(words) and words[named] in getattr(verb, "commands", {}):
        verb, named = verb.commands[words[named]], named + 1
    if named == len(words) > 0:
        return
    if hasattr(verb, "commands") and words[named].startswith("-"):  # an option of a group
        known = [option for parameter in verb.params for option in parameter.opts]
        assert words[named:] == ["--help"] or (len(words) == named + 1 and words[named] in known), known
        return
    command().main(args=list(words), prog_name="rsvlm", standalone_mode=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_is_one(page):
    wrong = []
    for words in printed(page.read_text(encoding="utf-8")):
        if any("…" in word or word == "..." for word in words):
            continue  # a part of one
        try:
            check(words)
        except Exception as error:  # of Typer, which has its own
            wrong.append(f"rsvlm {shlex.join(words)}: {error!r} {getattr(error, 'message', '')}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", COMING, ids=lambda page: page.stem)
def test_a_page_for_users_of_another_tool_has_commands_that_are_whole(page):
    text = page.read_text(encoding="utf-8")
    commands = printed(text)
    assert len(commands) >= 5 and all(words and not any("…" in word for word in words) for words in commands)
    assert "https://github.com/" in text and re.search("^## What (it does|they do) better", text, re.MULTILINE)


def test_commands_are_found_wherever_a_page_prints_them():
    page = """
Say `rsvlm doctor a.tif`, or `rsvlm web
show data --html b.html`, and `rsvlm.model`.

```bash
.venv/bin/rsvlm train --data a \\
  --out b   # a remark
rsvlm search index t/ --out i && .venv/bin/rsvlm search query i "a harbour; ships"
make book
```

```python
"rsvlm nothing"
```

```{list-table}
* - `papermill x`
  - `rsvlm run 'n/02*.ipynb' --grid seed=0,1`
```

And `rsvlm book`.

```{table}
| a | `rsvlm table x` |
```
"""
    assert sorted(printed(page)) == sorted(
        [
            ["doctor", "a.tif"],
            ["web", "show", "data", "--html", "b.html"],
            ["train", "--data", "a", "--out", "b"],
            ["search", "index", "t/", "--out", "i"],
            ["search", "query", "i", "a harbour; ships"],
            ["run", "n/02*.ipynb", "--grid", "seed=0,1"],
            ["book"],
            ["table", "x"],
        ]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        "evaluate retreival --model M",
        "evaluate retrieval --model M --protcol plain",
        "evaluate retrieval --root R",
        "evaluate retrieval --model M --bootstrap-samples many",
        "web show data",
        "book --set train.steps=2",
    ],
)
def test_what_is_no_command_is_noticed(wrong):
    with pytest.raises(Exception) as told:  # of Typer, which has its own
        check(shlex.split(wrong))
    assert type(told.value).__name__ in ("NoSuchOption", "MissingParameter", "BadParameter", "UsageError", "NoSuchCommand")


@pytest.mark.parametrize(
    "right", ["evaluate retrieval", "evaluate --list", "--help", "search s.tif --text harbour --out found"]
)
def test_mentions_of_verbs_and_a_verb_that_may_be_left_out_are_commands(right):
    check(shlex.split(right))
