"""The search page in a real browser: typed queries give Python's answers, and nothing else happens."""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from searching import CHIPS, HOSTILE

import rsvlm
from rsvlm.book import live_search
from rsvlm.errors import RsvlmError
from rsvlm.evaluation import embeddings
from rsvlm.model import embed
from rsvlm.search import page as search_page, page_runtime

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
]
QUERIES = ["blue in the south", "a white picture", "red and green", "🏝️ <b>islands</b> & “sea”", "green " * 1667]


def page_of(source: str, static: str) -> str:
    """Wrap the raw HTML of book/search.md into the smallest page, without the book's theme."""
    blocks = re.findall(r"```\{raw\} html\n(.*?)```", source, re.DOTALL)
    body = "".join(static if block.startswith(":file:") else block for block in blocks)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Search</title>'
    style = "body{margin:0 auto;padding:1rem;max-width:50rem;font-family:sans-serif;color:#111;background:#fff}"
    return f'<!doctype html><html lang="en"><head>{head}<link rel="icon" href="data:,"><style>{style}</style></head><body><main><h1>Search</h1>{body}</main></body></html>'


def site_of(made: Path, folder: Path) -> Path:
    """A site under a sub-path, as on a project's page: `site/sub/path/book/search.html`."""
    try:
        ran = page_runtime.runtime()
    except RsvlmError as error:
        pytest.skip(f"the runtime of the page is not here: {error}")
    base = folder / "sub" / "path"
    search_page.place(made, ran, base / "_static" / "search")
    for name in ("search.js", "search.css"):
        shutil.copy(ROOT / "book" / "_static" / name, base / "_static")
    (base / "book").mkdir()
    html = page_of((ROOT / "book" / "search.md").read_text(encoding="utf-8"), live_search.examples_html(made))
    (base / "book" / "search.html").write_text(html, encoding="utf-8")
    return folder


@contextlib.contextmanager
def served(site: Path):
    """Serve a site; yield the address of its page."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *arguments: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/sub/path/book/search.html"
        server.shutdown()


@pytest.fixture(scope="module")
def site(home, tmp_path_factory):
    return site_of(home / "made", tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def address(site):
    with served(site) as where:
        yield where


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra [dev] is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def tab(browser):
    """A page that notes what it is told and asks for; nothing of either may be left at the end."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    told, asked = [], []
    page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(120_000)  # a busy machine takes its time
    yield page
    assert not told
    assert [url for url in asked if not url.startswith(("http://127.0.0.1", "data:", "blob:", "file:"))] == []
    context.close()


def answers(page, query: str) -> list[int]:
    """Type a query, and wait for its answers."""
    page.fill("#rsvlm-query", query)
    page.press("#rsvlm-query", "Enter")
    page.wait_for_function("(q) => document.getElementById('rsvlm-search').dataset.query === q", arg=query)
    return [int(row) for row in page.get_attribute("#rsvlm-search", "data-hits").split()]


def opened(page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#rsvlm-search[data-state=answered]")


def test_five_typed_queries_give_the_answers_of_python(tab, address, home):
    opened(tab, address)
    model = rsvlm.load(home / "model", device="cpu")
    gallery = np.fromfile(home / "made" / "vectors.bin", "<f4").reshape(CHIPS, -1)
    _, of_the_files = search_page.search(home / "made", QUERIES)
    _, of_the_model = embeddings.search(embed.texts(model, QUERIES), gallery, 8)
    found = [answers(tab, query) for query in QUERIES]
    assert found == of_the_files.tolist()
    if '"taken":"float32"' in (home / "made" / "gallery.json").read_text():
        assert found == of_the_model.tolist()
    assert "cut to 24 tokens" in tab.inner_text("[data-part=status]")  # the last has 10,000 characters
    assert len(set(map(tuple, found))) > 1


def test_a_clip_answers_and_shows_no_heat(tab, clip_made, tmp_path):
    with served(site_of(clip_made, tmp_path)) as where:
        opened(tab, where)
        queries = ["Blue in the SOUTH", "a white picture", "🏝️ & “sea”", "green " * 300]
        _, wanted = search_page.search(clip_made, queries)
        assert [answers(tab, query) for query in queries] == wanted.tolist()
        tab.wait_for_selector("#rsvlm-search[data-state=answered]")
        assert tab.is_visible("[data-part=photo]") and "cut to 77 tokens" in tab.inner_text("[data-part=status]")
        assert [tab.is_visible(f"[data-part={part}]") for part in ("heat", "sum", "low", "opacity")] == [False] * 4


def test_text_is_shown_as_text(tab, address):
    tab.add_init_script("window.alert = () => { throw new Error('markup was run') }")
    opened(tab, address)
    answers(tab, HOSTILE)
    tab.wait_for_function("document.querySelector('[data-part=captions]').textContent !== ''")
    assert HOSTILE in tab.text_content("[data-part=captions]") + tab.text_content("[data-part=caption]")
    assert tab.locator("#rsvlm-search [onerror], #rsvlm-search script").count() == 0
    tab.fill("#rsvlm-query", "")
    tab.press("#rsvlm-query", "Enter")
    assert "Type what you are looking for" in tab.inner_text("[data-part=status]")


def test_a_chip_is_chosen_by_keyboard_and_the_slider_shows_its_heat(tab, address):
    opened(tab, address)
    answers(tab, "blue in the south")
    assert tab.locator("[data-part=answers] button").count() == 8
    assert tab.locator("[data-part=answers] img[alt*='° ']").count() == 8
    title = tab.inner_text("[data-part=title]")
    second = tab.locator("[data-part=answers] button").nth(1)
    second.focus()
    second.press("Enter")
    tab.wait_for_function("(old) => document.querySelector('[data-part=title]').textContent !== old", arg=title)
    assert tab.inner_text("[data-part=title]").startswith("Answer 2")
    colours = "new Set(document.querySelector('[data-part=heat]').getContext('2d').getImageData(0, 0, 256, 256).data).size"
    assert tab.evaluate(colours) > 20
    before = tab.evaluate("getComputedStyle(document.querySelector('[data-part=heat]')).opacity")
    tab.focus("[data-part=opacity]")
    tab.keyboard.press("End")
    assert float(tab.evaluate("getComputedStyle(document.querySelector('[data-part=heat]')).opacity")) == 1 > float(before)
    assert tab.locator("[data-part=map] circle").count() == CHIPS + 8


def test_a_link_brings_its_query(tab, address):
    tab.goto(address + "?q=" + "red%20%3Cb%3E")
    tab.wait_for_selector("#rsvlm-search[data-state=answered]")
    assert tab.input_value("#rsvlm-query") == "red <b>"
    assert tab.is_hidden("#search-static")


def test_a_phone_does_not_scroll_sideways_and_readers_find_their_way(tab, address):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra [dev] is not installed")
    tab.set_viewport_size({"width": 390, "height": 844})
    opened(tab, address)
    answers(tab, "w" * 300)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    found = axe.Axe().run(tab).response["violations"]
    grave = [f"{rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in found if rule["impact"] in ("serious", "critical")]
    assert not grave


def test_without_scripts_there_are_answers_made_in_advance(browser, address, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert "needs JavaScript" in page.inner_text("main")
    assert page.locator("#search-static img").count() == 8
    context.close()


def test_what_is_missing_is_said(browser, address, site):
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto(address)
    page.wait_for_selector("#rsvlm-search[data-state=failed]")
    assert "no WebAssembly" in page.inner_text("[data-part=status]") and page.is_visible("#search-static")
    context.close()
    context = browser.new_context()
    page = context.new_page()
    page.route("**/vectors.bin*", lambda route: route.fulfill(body=b"short"))
    page.goto(address)
    page.wait_for_selector("#rsvlm-search[data-state=failed]")
    assert "vectors.bin has 5 bytes" in page.inner_text("[data-part=status]")
    page.goto((site / "sub" / "path" / "book" / "search.html").as_uri())
    assert "python -m http.server" in page.inner_text("[data-part=status]") and page.is_visible("#search-static")
    context.close()


def test_a_book_without_the_runtime_says_so(browser, address, site, home):
    base = site / "sub" / "path"
    kept = base / "_static" / "kept"
    shutil.move(base / "_static" / "search", kept)
    try:
        search_page.place(home / "made", None, base / "_static" / "search")
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#rsvlm-search[data-state=failed]")
        assert "built without a network" in page.inner_text("[data-part=status]")
        context.close()
    finally:
        shutil.rmtree(base / "_static" / "search")
        shutil.move(kept, base / "_static" / "search")
