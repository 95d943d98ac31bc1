"""The search page inside a page of the book, in a real browser: typed texts give Python's answers, and nothing else happens."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from conftest import ROOT
from indexed import CHROMIUM, served, until
from searching import CHIPS, HOSTILE, facts

from rsvlm.model.others.opening import open_encoder

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")]
QUERIES = ["blue in the south", "a white picture", "🏝️ <b>islands</b> & “sea”", "green " * 1667]
PAGE = "sub/path/book/search.html"


def book_of(page_folder, folder):
    """A book of one page below a path, as on a project's page, around the page that searches."""
    base = folder / "sub" / "path"
    shutil.copytree(page_folder, base / "_static" / "search")
    (base / "book").mkdir()
    (block,) = re.findall(r"```\{raw\} html\n(.*?)```", (ROOT / "book" / "search.md").read_text(encoding="utf-8"), re.DOTALL)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Search</title>'
    style = (ROOT / "book" / "_static" / "book.css").read_text(encoding="utf-8") + "body{margin:0;padding:1rem}"
    html = f'<!doctype html><html lang="en" data-theme="light"><head>{head}<link rel="icon" href="data:,"><style>{style}</style></head>'
    html += f"<body><main><h1>Search</h1>{block}</main></body></html>"
    (base / "book" / "search.html").write_text(html, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def book(home, tmp_path_factory):
    return book_of(home / "page", tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="module")
def address(book):
    with served(book) as where:
        yield where + PAGE


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra [dev] is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def tab(browser):
    """A page; at the end the browser has complained of nothing, and nothing was asked of another host."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    told, asked = [], []
    page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: told.append("markup was run"))
    page.set_default_timeout(120_000)
    yield page
    assert not told
    assert [url for url in asked if not url.startswith(("http://127.0.0.1", "data:", "blob:"))] == []
    context.close()


def opened(page, address: str):
    """Open a page of the book; return the frame of the page that searches."""
    page.goto(address)
    frame = page.wait_for_selector("iframe.search-page").content_frame()
    frame.wait_for_selector("#rsvlm-search[data-state=answered]")
    return frame


def answers(frame, text: str) -> list[int]:
    """Type a text, and wait for its answers."""
    frame.fill("#rsvlm-query", text)
    frame.press("#rsvlm-query", "Enter")
    until(frame, "(text) => document.getElementById('rsvlm-search').dataset.text === text", text.strip())
    frame.wait_for_selector("#rsvlm-search[data-state=answered]")
    return [int(row) for row in frame.get_attribute("#rsvlm-search", "data-hits").split()]


def assert_ordered(page_folder, vector: np.ndarray, found: list[int], shortest: int = CHIPS) -> None:
    """All chips, in the order of their cosines; what rounding to bytes may exchange is nearly alike."""
    width = facts(page_folder)["width"]
    columns = np.fromfile(page_folder / "data" / "columns.bin", "<f4").reshape(2, width)
    whole = columns[0] + columns[1] * np.fromfile(page_folder / "data" / "vectors.bin", np.int8).reshape(CHIPS, width)
    scores = (whole @ vector)[found]
    assert len(set(found)) >= shortest and (np.diff(scores) < 1e-3).all()


def needs_texts(page_folder) -> None:
    if not facts(page_folder)["tower"]:
        pytest.skip(facts(page_folder)["no_texts"])


def test_typed_texts_give_the_answers_of_python(tab, address, home):
    needs_texts(home / "page")
    frame = opened(tab, address)
    for text, vector in zip(QUERIES, open_encoder(home / "model", "cpu").texts(QUERIES), strict=True):
        assert_ordered(home / "page", vector, answers(frame, text))
    assert "cut to 24 tokens" in frame.inner_text("[data-part=status]")  # the last has 10,000 letters


def test_a_clip_answers_and_shows_no_heat(tab, clip, clip_page, tmp_path):
    needs_texts(clip_page)
    with served(book_of(clip_page, tmp_path)) as where:
        frame, queries = opened(tab, where + PAGE), ["Blue in the SOUTH", "🏝️ & “sea”", "green " * 300]
        for text, vector in zip(queries, open_encoder(f"hf:{clip}", "cpu").texts(queries), strict=True):
            assert_ordered(clip_page, vector, answers(frame, text))
        assert frame.is_visible("[data-part=photo]") and "cut to 77 tokens" in frame.inner_text("[data-part=status]")
        assert [frame.is_visible(f"[data-part={part}]") for part in ("heat", "heat-words", "opacity")] == [False] * 3


def test_captions_are_shown_as_text(tab, address, home):
    frame = opened(tab, address)
    frame.focus("[data-part=strip] li[data-row='3'] .picture")
    frame.press("[data-part=strip] li[data-row='3'] .picture", "Enter")
    until(frame, "(text) => document.querySelector('[data-part=caption]').textContent === text", HOSTILE)
    assert "445 km wide, 14 km to a pixel" in frame.inner_text("[data-part=facts]")
    assert frame.locator("[onerror], script:not([src])").count() == 0


def test_a_chip_is_chosen_by_keyboard_and_the_slider_shows_its_heat(tab, address):
    frame = opened(tab, address)
    root = "document.getElementById('rsvlm-search')"
    first = frame.get_attribute("#rsvlm-search", "data-chosen")
    until(frame, f"(row) => {root}.dataset.heat === row", first)
    frame.focus("[data-part=strip] .picture >> nth=0")
    tab.keyboard.press("ArrowRight")
    until(frame, f"(row) => {root}.dataset.heat !== row", first)
    colours = "new Set(document.querySelector('[data-part=heat]').getContext('2d').getImageData(0, 0, 256, 256).data).size"
    assert frame.evaluate(colours) > 20
    score = re.search(r"score (\S+)", frame.inner_text("[data-part=facts]"))[1]
    assert float(frame.inner_text("[data-part=sum]")) == pytest.approx(float(score), abs=0.01)
    before = frame.evaluate("getComputedStyle(document.querySelector('[data-part=heat]')).opacity")
    frame.focus("[data-part=opacity]")
    tab.keyboard.press("End")
    assert float(frame.evaluate("getComputedStyle(document.querySelector('[data-part=heat]')).opacity")) == 1 > float(before)


def test_a_link_to_the_book_brings_its_text_and_one_typed_is_in_its_address(tab, address, home):
    needs_texts(home / "page")
    frame = opened(tab, address + "?q=" + "red%20%3Cb%3E")
    assert frame.input_value("#rsvlm-query") == "red <b>" and frame.is_hidden("#search-static")
    answers(frame, "a white picture")
    assert tab.url.endswith("?q=a%20white%20picture")


def test_the_frame_is_as_high_as_the_page_and_as_dark_as_the_book(tab, address):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra [dev] is not installed")
    for width in (390, 1280):
        tab.set_viewport_size({"width": width, "height": 844})
        frame = opened(tab, address)
        until(frame, "() => document.documentElement.scrollHeight <= innerHeight + 1")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for scheme, ground in (("dark", "rgb(18, 24, 30)"), ("light", "rgb(255, 255, 255)")):
            tab.evaluate("(scheme) => (document.documentElement.dataset.theme = scheme)", scheme)
            until(frame, "(ground) => getComputedStyle(document.body).backgroundColor === ground", ground)
            found = axe.Axe().run(frame).response["violations"]
            assert not [f"{rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in found]


def test_as_a_file_and_without_scripts_there_are_answers_made_in_advance(browser, book):
    for options in ({}, {"java_script_enabled": False}):
        context = browser.new_context(**options)
        page = context.new_page()
        page.goto((book / PAGE).as_uri())
        frame = page.wait_for_selector("iframe.search-page").content_frame()
        frame.wait_for_selector("#search-static img")
        assert frame.locator("#search-static img").count() == 12 and frame.is_visible("#search-static")
        if not options:
            said = frame.inner_text("[data-part=status]")
            assert "python -m http.server" in said and "that of index.html" in said
        context.close()


def test_a_browser_without_webassembly_still_answers_examples_and_clicks(browser, address, home):
    needs_texts(home / "page")
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("delete globalThis.WebAssembly")
    frame = opened(page, address)
    frame.fill("#rsvlm-query", "a text")
    frame.press("#rsvlm-query", "Enter")
    until(frame, "() => document.querySelector('[data-part=status]').textContent.includes('no WebAssembly')")
    frame.click("[data-part=examples] button >> nth=1")
    frame.wait_for_selector("#rsvlm-search[data-state=answered]")
    context.close()


def test_a_page_made_without_a_network_says_so(tab, home, tmp_path, monkeypatch):
    from searching import page_of

    from rsvlm.errors import RsvlmError
    from rsvlm.search import page_runtime

    def refuse():
        raise RsvlmError("npm could not fetch anything")

    monkeypatch.setattr(page_runtime, "runtime", refuse)
    page_of(home / "model", home / "data", tmp_path, ["a white picture"])
    with served(book_of(tmp_path / "page", tmp_path / "book")) as where:
        frame = opened(tab, where + PAGE)
        assert "npm could not fetch anything" in frame.inner_text("[data-part=mute]") and frame.is_hidden("#rsvlm-query")
