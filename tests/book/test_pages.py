"""What is done to every page: numbers that stay on one line, and entries of the bibliography named as the text cites them."""

from __future__ import annotations

import importlib.util

import pytest
from conftest import ROOT


def extension(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("html", "shown"),
    [
        ("<p>66.3 % of all</p>", "<p>66.3\u00a0% of all</p>"),
        ("<td>5,328 km</td><td>4 points</td>", "<td>5,328\u00a0km</td><td>4\u00a0points</td>"),
        ("<p>+9.4 (+4.1 to +13.0)</p>", '<p>+9.4 <span class="unbroken">(+4.1 to +13.0)</span></p>'),
        ("<p>3 % (2 % to 4 %)</p>", '<p>3\u00a0% <span class="unbroken">(2\u00a0% to 4\u00a0%)</span></p>'),
        ("<p>(−7.6 to 16.6; n = 3)</p>", '<p><span class="unbroken">(−7.6 to 16.6;</span> n = 3)</p>'),
        (
            "<h2>2026-11-29: on VHR-10</h2>",
            '<h2><span class="unbroken">2026-11-29</span>: on <span class="unbroken">VHR-10</span></h2>',
        ),
        (
            '<code><span class="pre">x</span> <span class="pre">--set</span></code>',
            '<code><span class="pre">x</span> <span class="pre"><span style="white-space: nowrap">--s</span>et</span></code>',
        ),
        (
            '<code class="a.b"><span class="pre">train.steps=1.5</span></code> train.steps',
            '<code class="a.b"><span class="pre">train.<wbr>steps=1.5</span></code> train.steps',
        ),
        ("<p>3 maps and 12 models, 2 to 4, (see 2 to 4)</p>", "<p>3 maps and 12 models, 2 to 4, (see 2 to 4)</p>"),
    ],
)
def test_a_number_stays_with_its_unit_and_an_interval_with_itself(html, shown):
    assert extension("pages").unbroken(html) == shown


@pytest.mark.parametrize(
    "html",
    [
        '<img alt="3 km > 2 km (1 to 2)"><input title="5 %">',
        "<script>if (a < 3 && 4 % 2) {'(1 to 2)'}</script><style>i { left: 3 px }</style><pre>3 % (1 to 2)</pre>",
        "<code>3 %</code><!-- it's 3 % --><svg><text>3 km</text></svg><math><mn>3 m</mn></math>",
        '<iframe srcdoc="&lt;p&gt;3 km&lt;/p&gt;"></iframe>',
    ],
)
def test_tags_code_and_drawings_stay_as_they_are(html):
    assert extension("pages").unbroken(html) == html


BIB = """
@misc{b, author = {Li, Zhen and Yu, Wei and Zhu, Xiao}, title = {Of B}, year = {2025b}}
@misc{c, author = {Okabe, Masataka and van der Ito, Kei}, title = {Of C}, year = {2008}}
@misc{a, author = {Li, Kai and Liu, Rui and Cao, Xi}, title = {Of A}, year = {2025a}}
@misc{d, author = {Daum{\\'e}, Hal}, title = {Of D}, year = {2021}}
"""


def test_entries_are_named_by_authors_and_year_and_sorted_by_that():
    database = pytest.importorskip("pybtex.database", reason="the extra [book] is not installed")
    plugin = pytest.importorskip("pybtex.plugin")
    extension("citations").setup(None)
    style = plugin.find_plugin("pybtex.style.formatting", "authoryear")()
    entries = list(style.format_bibliography(database.parse_string(BIB, "bibtex")))
    labels = ["Daumé, 2021", "Li et al., 2025a", "Li et al., 2025b", "Okabe and van der Ito, 2008"]
    assert [entry.label for entry in entries] == labels and [entry.key for entry in entries] == list("dabc")


def test_no_two_entries_of_the_book_have_one_name():
    database = pytest.importorskip("pybtex.database", reason="the extra [book] is not installed")
    found = database.parse_file(str(ROOT / "book" / "references.bib")).entries.values()
    labels = [extension("citations").label(entry) for entry in found]
    assert len(labels) > 10 and len(set(labels)) == len(labels)
