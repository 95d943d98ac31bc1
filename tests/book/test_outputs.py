"""What pages print is written for readers: no raw objects, no missing numbers, one noun for one thing; and what is listed is cited."""

from __future__ import annotations

import os
import re
from html import unescape
from pathlib import Path

import pytest
from conftest import ROOT

SITE = Path(os.environ.get("RSVLM_SITE") or ROOT / "_build" / "html")
needs_site = pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="the book is not built: make book")

RAW = {
    "an object of Python": r"<IPython\.[\w.]+ object|<[\w.]+ object at 0x",
    "a dictionary": r"\{'[\w @-]+': ",
    "a number that is missing": r"(?<![\w-])nan(?![\w-])",
    "several of one": r"(?<![\w.,])1 (?:answers|captions|chips|classes|images|landmarks|models|pairs|pictures|regions|rows|samples|seeds|words)\b",
}


def outputs(page: str) -> str:
    """What cells of a page print, as text without markup, a line for each cell of a table."""
    found = re.findall(
        r'<div class="[^"]*\b(?:cell_output|output)\b[^"]*">(.*?)(?=<div class="cell |<section|</article>)', page, re.DOTALL
    )
    text = re.sub(r"(?s)<(style|script)\b.*?</\1>", "", "\n".join(found))
    return unescape(re.sub(r"<[^>]*>", "\n", text))


def raw(page: str) -> list[str]:
    """Which kinds of raw values stand in what a page prints."""
    text = outputs(page)
    return [f"{kind}: {match[0]}" for kind, pattern in RAW.items() if (match := re.search(pattern, text))]


def test_raw_values_are_found():
    cell = '<article><div class="cell_output docutils container"><p>{}</p></div></article>'
    assert raw(cell.format("1 chip, 21 chips and 1,101 chips; banana")) == []
    kinds = ["&lt;IPython.core.display.Markdown object&gt;", "{&#39;mask&#39;: 3}", "<td>nan</td>", "1 regions"]
    assert [len(raw(cell.format(kind))) for kind in kinds] == [1, 1, 1, 1]
    assert raw("<article><p>a table of nan</p></article>") == [], "what a page says is no output"


@needs_site
def test_no_page_prints_a_raw_value():
    pages = sorted((SITE / "book" / "executed").glob("*.html"))
    found = {page.stem: raw(page.read_text(encoding="utf-8")) for page in pages}
    assert not {name: kinds for name, kinds in found.items() if kinds}


def test_every_reference_is_cited():
    keys = set(re.findall(r"(?m)^@\w+\{([\w-]+)", (ROOT / "book" / "references.bib").read_text(encoding="utf-8")))
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks" / "py").glob("*.py")]
    lists = re.findall(r"\{cite(?::\w+)?\}`([^`]*)`", "\n".join(page.read_text(encoding="utf-8") for page in pages))
    cited = {key.strip() for names in lists for key in names.split(",")}
    assert keys and keys == cited
