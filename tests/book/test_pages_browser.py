"""Every built page in a real browser, as a phone shows it: quiet, whole, quick, reachable, and asking no other host.

The pages are those in `_build/html`, or where RSVLM_SITE points; they are served below a path, as GitHub serves them.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import os
import re
import shutil
import threading
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from rsvlm.book.figures import galleries, markup

SITE = Path(os.environ.get("RSVLM_SITE") or ROOT / "_build" / "html")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BELOW = "/below/a/path/"
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
SERIOUS = {"serious", "critical"}
LIVE = {"book/search.html"}  # the page that searches brings a model along

pytestmark = pytest.mark.timeout(1200)  # on a busy machine; on two idle cores a page takes seconds
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or not importlib.util.find_spec("playwright") or not importlib.util.find_spec("axe_playwright_python"),
    reason="a browser is needed: chromium, and the extra [dev]",
)
needs_site = pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="the book is not built: make book")


def pages_of(site: Path) -> list[str]:
    """All pages but those that only send the reader on."""
    paths = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.relative_to(site).parts]
    sending = '<meta http-equiv="Refresh"'
    return [path.relative_to(site).as_posix() for path in paths if not path.read_text(encoding="utf-8").startswith(sending)]


class Below(http.server.SimpleHTTPRequestHandler):
    """Serves a folder below a path, and nothing at the top."""

    def translate_path(self, path: str) -> str:
        return super().translate_path(path.removeprefix(BELOW[:-1])) if path.startswith(BELOW) else "/nowhere"

    def log_message(self, *arguments) -> None:
        pass


def axe() -> str:
    """The rules of axe-core, as a script."""
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


RULES = """scheme => { document.documentElement.dataset.theme = scheme; return axe.run(document, {
  preload: false, resultTypes: ["violations"],
  runOnly: scheme == "dark" ? {type: "rule", values: ["color-contrast"]} : {type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
}).then(found => found.violations.map(v => ({id: v.id, impact: v.impact, scheme, nodes: v.nodes.map(n => n.html.slice(0, 150))}))) }"""
WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.body.querySelectorAll("*")]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 4).map(e => e.outerHTML.slice(0, 150))"""


def seen(site: Path) -> dict[str, dict]:
    """Open every page once; return what was wrong: errors, foreign, wide, axe, and seconds of work until it was loaded."""
    from playwright.sync_api import sync_playwright

    rules, found = axe(), {}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Below, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}{BELOW}"
        with sync_playwright() as driver:
            browser = driver.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-software-rasterizer"]
            )
            context = browser.new_context(viewport=PHONE, color_scheme="light", service_workers="block")
            context.set_default_timeout(120_000)
            context.route(lambda url: not url.startswith((base, "data:", "blob:")), lambda route: route.abort())
            for name in pages_of(site):
                found[name] = one_page(context, f"{base}{name}", base, rules)
            browser.close()
        server.shutdown()
    return found


def one_page(context, address: str, base: str, rules: str) -> dict:
    page, errors, foreign = context.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("response", lambda got: errors.append(f"{got.status} {got.url}") if got.status >= 400 else None)
    page.on("request", lambda asked: foreign.append(asked.url) if not asked.url.startswith((base, "data:", "blob:")) else None)
    clock = context.new_cdp_session(page)
    clock.send("Performance.enable")
    page.goto(address, wait_until="load")
    measured = {row["name"]: row["value"] for row in clock.send("Performance.getMetrics")["metrics"]}
    # Seconds that the page kept its thread busy, not those on the clock: other work on the machine is none of its own.
    report = {"seconds": measured["ThreadTime"], "wide": page.evaluate(WIDE)}
    report |= {"errors": list(errors), "foreign": list(foreign)}
    for frame in page.frames:
        frame.evaluate(rules)
    broken = [fault for scheme in ("light", "dark") for fault in page.evaluate(RULES, scheme)]
    page.close()
    return report | {"axe": [fault for fault in broken if fault["impact"] in SERIOUS]}


class Links(HTMLParser):
    """Collects where a page leads and what in it can be led to."""

    def __init__(self, text: str):
        super().__init__()
        self.to: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        self.to += [found[name] for name in ("href", "src") if found.get(name) and tag in ("a", "link", "img", "script")]

    handle_startendtag = handle_starttag


def broken_links(site: Path) -> list[str]:
    """Links inside a site that lead nowhere, or that would leave it if it lay below a path."""
    pages = {name: Links((site / name).read_text(encoding="utf-8")) for name in pages_of(site)}
    broken = []
    for name, page in pages.items():
        for link in dict.fromkeys(page.to):
            if re.match(r"[a-z][a-z0-9+.-]*:|//", link):
                continue
            path, _, part = urllib.parse.unquote(link.partition("?")[0] if "#" not in link else link).partition("#")
            path = path.partition("?")[0]
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            if path.startswith("/") or target.startswith("..") or not (site / target).exists():
                broken.append(f"{name}: {link}")
            elif part and target in pages and part not in pages[target].ids:
                broken.append(f"{name}: {link} (no such place)")
    return broken


# The rules find what they are for

GOOD = """<!doctype html><html lang="en"><head><title>A page</title><meta name="viewport" content="width=device-width"></head>
<body><main><h1 id="top">A page</h1><p><a href="#top">Up</a> <a href="good.html?x=1#top">again</a></p></main></body></html>"""
BAD = """<!doctype html><html lang="en"><head><title>A page</title><meta name="viewport" content="width=device-width"></head>
<body><main><h1>A page</h1><p style="color:#bbb;background:#fff">Pale</p><div style="width:900px">wide</div>
<img src="https://a.example/i.png"><a href="nowhere.html">to</a> <a href="/good.html">top</a> <a href="good.html#nothing">in</a>
<script>console.error("broken"); let sum = 0; for (let i = 0; i < 4e8; i++) sum += Math.sqrt(i); document.title = sum;</script></main></body></html>"""


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "good.html").write_text(GOOD)
    assert broken_links(tmp_path) == []
    (tmp_path / "bad.html").write_text(BAD)
    assert [line.partition(": ")[2] for line in broken_links(tmp_path)] == [
        "nowhere.html",
        "/good.html",
        "good.html#nothing (no such place)",
    ]


@needs_browser
def test_faults_of_a_page_are_found(tmp_path):
    (tmp_path / "good.html").write_text(GOOD)
    (tmp_path / "bad.html").write_text(BAD)
    reports = seen(tmp_path)
    bad, good = reports["bad.html"], reports["good.html"]
    assert {fault["id"] for fault in bad["axe"]} >= {"color-contrast", "image-alt"}
    assert "broken" in bad["errors"] and bad["foreign"] == ["https://a.example/i.png"] and "wide" in str(bad["wide"])
    assert bad["seconds"] > 0.2 + good["seconds"] and good["seconds"] < 0.2
    assert not (good["axe"] or good["errors"] or good["foreign"] or good["wide"])


@needs_browser
def test_the_last_column_has_room_for_words_and_none_to_spare_for_numbers(tmp_path):
    last = {"numbers": "4 (1 to 9)", "words": "no interval was measured of this"}
    row = f"<tr><td>{'a long name ' * 9}</td><td>"
    tables = "".join(f'<table id="{name}">{row}{cell}</td></tr></table>' for name, cell in last.items())
    for name in ("book.css", "book.js"):
        shutil.copy(ROOT / "book" / "_static" / name, tmp_path)
    head = '<!doctype html><link rel="stylesheet" href="book.css"><script src="book.js"></script>'
    (tmp_path / "tables.html").write_text(f'{head}<article class="bd-article">{tables}</article>')
    with served(tmp_path) as (address, browser):
        page = browser.new_page(viewport=PHONE)
        page.goto(f"{address}tables.html", wait_until="load")
        found = page.evaluate(
            "() => Object.fromEntries([...document.querySelectorAll('table')].map("
            "t => [t.id, t.querySelector('td:last-child').getBoundingClientRect().width]))"
        )
        page.close()
    assert found["numbers"] < 100 and found["words"] >= 128


@needs_browser
def test_a_strip_is_one_row_on_a_desk_and_whole_on_a_phone(tmp_path):
    cell = {"image": np.full((8, 8, 3), 90, np.uint8), "alt": "A chip", "score": 0.5, "right": False, "overlaps": True}
    cell["ground"] = {"gsd_m": 7413.0, "size_px": 64, "lon": -160.2, "lat": -12.4}
    query = "A long sentence about lakes and their islands. " * 6 + "x" * 80
    entries = [
        {"query": query, "images": [cell] * 5, "right_one": cell | {"rank": 1090}, "kind": "lost", "reason": "far down."},
        {"query": query, "images": [cell | {"right": True}, *[cell] * 4], "right_one": cell | {"rank": 1}},
    ]
    (tmp_path / "strip.html").write_text(markup.page("Strips", galleries.text_to_image(entries)))
    with served(tmp_path) as (address, browser):
        for viewport in (DESK, PHONE):
            page = browser.new_page(viewport=viewport)
            page.goto(f"{address}strip.html", wait_until="load")
            check_strips(page, wide=viewport is DESK)
            page.close()


# The book itself, where it was built


@pytest.fixture(scope="module")
def reports():
    return seen(SITE)


@needs_site
@needs_browser
@pytest.mark.parametrize("part", ["errors", "foreign", "wide"])
def test_no_page_reports_an_error_or_asks_another_host_or_is_wider_than_a_phone(reports, part):
    assert {name: report[part] for name, report in reports.items() if report[part]} == {}


@needs_site
@needs_browser
def test_no_page_shuts_anybody_out(reports):
    faults = [(name, fault) for name, report in reports.items() for fault in report["axe"]]
    assert not faults, "\n".join(f"{name}, {f['scheme']}: {f['id']} ({len(f['nodes'])}) {f['nodes'][0]}" for name, f in faults)


@needs_site
@needs_browser
def test_every_page_is_ready_within_two_seconds(reports):
    assert {name: round(r["seconds"], 1) for name, r in reports.items() if r["seconds"] > 2} == {}


@needs_site
def test_every_page_is_at_most_five_megabytes():
    sizes = {name: (SITE / name).stat().st_size / 1e6 for name in pages_of(SITE) if name not in LIVE}
    assert {name: round(size, 1) for name, size in sizes.items() if size > 5} == {}


@needs_site
def test_every_link_leads_somewhere_also_below_a_path():
    assert broken_links(SITE) == []


@contextlib.contextmanager
def served(folder: Path):
    """Serve a folder below a path; give its address and a browser."""
    from playwright.sync_api import sync_playwright

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Below, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            yield f"http://127.0.0.1:{server.server_port}{BELOW}", browser
            browser.close()
        server.shutdown()


@pytest.fixture(scope="module")
def site():
    """The book and a browser."""
    with served(SITE) as pair:
        yield pair


def holding(*words: str) -> list[str]:
    """The pages that hold any of some words."""
    texts = {name: (SITE / name).read_text(encoding="utf-8") for name in pages_of(SITE) if name not in LIVE}
    return [name for name, text in texts.items() if any(word in text for word in words)]


FOOTPRINTS = """body => [...body.querySelectorAll("canvas")].some(c => c.width * c.height > 0
  && c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some(v => v)) || !!body.querySelector("path.leaflet-interactive[d]")"""


def picture_of(block) -> bytes:
    block.scroll_into_view_if_needed()
    return block.screenshot(animations="disabled")


# Not a picture of the block: the ring around a control in use changes that one, too.
SHOWN = """async block => {
  const shown = [...block.lastElementChild.children].flatMap((frame, k) => frame.checkVisibility() ? [k] : []);
  const drawn = [...block.lastElementChild.querySelectorAll("img")].filter(i => i.checkVisibility());
  await Promise.all(drawn.map(i => { i.loading = "eager"; return i.decode().catch(() => null); }));
  if (shown.length != 1 || !drawn.every(i => i.complete && i.naturalWidth)) return "broken: " + shown;
  return block.lastElementChild.children[shown[0]].innerHTML;
}"""


# Of each strip: are its answers in one row, is the right one beside it, and what is cut off, or too small to read?
STRIPS = """() => [...document.querySelectorAll(".rsvlm-strips")].filter(e => e.checkVisibility()).map(figure => ({
  rows: [...figure.querySelectorAll(".rsvlm-strip")].map(strip => {
    const boxes = [...strip.querySelectorAll(".rsvlm-answers li")].map(e => e.getBoundingClientRect());
    const apart = strip.querySelector(".rsvlm-apart"), box = apart && apart.getBoundingClientRect(), asked = strip.querySelector(".rsvlm-asked");
    return { tops: new Set(boxes.map(b => Math.round(b.top))).size, left: asked.getBoundingClientRect().right <= boxes[0].left + 1,
      gap: apart ? box.left - Math.max(...boxes.map(b => b.right)) : 99, below: apart ? box.top - Math.max(...boxes.map(b => b.bottom)) : 99,
      seen: !apart || apart.checkVisibility() && box.width > 40 && box.right <= innerWidth && /rank [0-9]/.test(apart.innerText) };
  }),
  cut: [...figure.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1
    || e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display == "block").map(e => e.outerHTML.slice(0, 120)),
  small: [...figure.querySelectorAll("*")].filter(e => e.innerText && parseFloat(getComputedStyle(e).fontSize) < 10).map(e => e.outerHTML.slice(0, 120)),
}))"""


def check_strips(page, wide: bool) -> None:
    """Fail where a strip of the page is not whole: in one row on a desk, on a phone one below the other."""
    figures = page.evaluate(STRIPS)
    assert figures and not [fault for figure in figures for fault in (*figure["cut"], *figure["small"])]
    for row in (row for figure in figures for row in figure["rows"]):
        assert row["seen"], row
        if wide:
            assert row["tops"] == 1 and row["left"] and row["gap"] >= 16, row
        else:
            assert row["tops"] >= 2 and not row["left"] and row["below"] >= 8, row


@needs_site
@needs_browser
def test_every_strip_of_the_book_is_one_row_on_a_desk_and_whole_on_a_phone(site):
    address, browser = site
    names = holding('class="rsvlm-strips"')
    assert {Path(name).stem for name in names} >= {"03_retrieval", "07_recall_at_k"}
    for name in names:
        for viewport in (DESK, PHONE):
            page = browser.new_page(viewport=viewport)
            page.goto(address + name, wait_until="load")
            check_strips(page, wide=viewport is DESK)
            page.close()


@needs_site
@pytest.mark.parametrize(
    "page", ["01_landmarks", "03_retrieval", "05_own_landmarks", "07_recall_at_k", "08_classification", "09_unseen_classes"]
)
def test_pictures_of_chips_are_told_by_what_is_seen_and_not_by_file_names(page):
    alts = re.findall(r'alt="(Chip[^"]*)"', (SITE / "book" / "executed" / f"{page}.html").read_text(encoding="utf-8"))
    assert alts and not [alt for alt in alts if not re.match(r"Chip near [0-9]+° ", alt)]


SMALL = """() => [...document.querySelectorAll("img[data-letters]")].map(i => [i.alt, i.dataset.letters * i.getBoundingClientRect().width])
  .filter(([alt, size]) => size > 0 && size < 10).map(([alt, size]) => size.toFixed(1) + " px: " + alt.slice(0, 80))"""


@needs_site
@needs_browser
def test_letters_of_charts_can_be_read_on_a_phone(site):
    address, browser = site
    names = holding("data-letters=")
    assert {Path(name).stem for name in names} >= {"01_landmarks", "08_classification"}
    page, small = browser.new_page(viewport=PHONE), {}
    for name in names:
        page.goto(address + name, wait_until="load")
        small[name] = page.evaluate(SMALL)
    page.close()
    assert not {name: found for name, found in small.items() if found}


def turn(control, on: bool) -> None:
    """Move a slider or a list by one, or back again."""
    if control.evaluate("e => e.tagName") == "SELECT":
        count = control.locator("option").count()
        control.select_option(index=(int(control.input_value()) + (1 if on else -1)) % count)
    else:
        control.press("ArrowRight" if on else "ArrowLeft")


@needs_site
@needs_browser
def test_every_slider_and_list_changes_what_is_seen_and_comes_back(site):
    address, browser = site
    names = holding('class="rsvlm-slider"')
    assert {Path(name).stem for name in names} >= {"03_retrieval"}
    page = browser.new_page(viewport=PHONE)
    for name in names:
        page.goto(address + name, wait_until="load")
        for block in page.locator(".rsvlm-slider").all():
            block.scroll_into_view_if_needed()
            for control in block.locator("input:visible, select:visible").all():
                first, on = block.evaluate(SHOWN), control.input_value() != control.get_attribute("max")
                turn(control, on)
                second = block.evaluate(SHOWN)
                turn(control, not on)
                assert "broken" not in first + second and second != first, f"{name}: a control that changes nothing"
                assert block.evaluate(SHOWN) == first, f"{name}: a control that does not come back"
    page.close()


# What a map and its outline cover, beside what the picture does; and what is seen: two uniform maps are alike in all but the picture.
BOXES = """form => [".rsvlm-stage > div:not([hidden]) img", ".rsvlm-over", ".rsvlm-stage svg"].map(name => {
  const box = form.querySelector(name).getBoundingClientRect(); return [box.left, box.top, box.width, box.height].map(Math.round); })"""
MAP = """form => [".rsvlm-stage > div:not([hidden]) img", ".rsvlm-over"].map(name => form.querySelector(name)).map(
  image => [image.src, image.alt]).join() + form.querySelector(".rsvlm-said").textContent.replaceAll("\\u00a0", " ")"""


@needs_site
@needs_browser
def test_every_map_lies_over_its_picture_and_clicks_and_keys_choose_it(site):
    address, browser = site
    names = holding('class="rsvlm-attention"')
    assert {Path(name).stem for name in names} >= {"04_mammut", "13_attention", "14_rounds"}
    page = browser.new_page(viewport=PHONE)
    for name in names:
        page.goto(address + name, wait_until="load")
        for form in page.locator(".rsvlm-attention").all():
            form.scroll_into_view_if_needed()
            first, *others = form.evaluate(BOXES)
            assert others == [first, first] and min(first[2:]) > 200, f"{name}: a map beside its picture"
            for group in form.locator("fieldset").all():
                before = form.evaluate(MAP)
                chosen = int(group.locator("input:checked").get_attribute("value"))
                buttons = group.locator("label")
                buttons.nth((chosen + 1) % buttons.count()).click()
                after = form.evaluate(MAP)
                assert after != before, f"{name}: a button that changes nothing"
                group.locator("input:checked").press("ArrowLeft")
                assert form.evaluate(MAP) == before, f"{name}: a key that does not lead back"
                now = form.evaluate(BOXES)  # the page may have scrolled
                assert now == [now[0]] * 3 and now[0][2:] == first[2:], f"{name}: a map that moved away from its picture"
    page.close()


@needs_site
@needs_browser
@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_maps_show_what_lies_where_also_without_scripts(site, scripts):
    address, browser = site
    names = holding("<iframe")
    assert {Path(name).stem for name in names} >= {"01_landmarks", "05_own_landmarks", "15_scene"}
    context = browser.new_context(viewport=PHONE, java_script_enabled=scripts)
    page = context.new_page()
    for name in names:
        page.goto(address + name, wait_until="load")
        for map_ in page.locator("iframe").all():
            map_.scroll_into_view_if_needed()
            inside = map_.content_frame
            pictures = inside.locator(".leaflet-image-layer, .leaflet-interactive" if scripts else "svg image, img").first
            pictures.wait_for(state="visible", timeout=30_000)
            said = " ".join(inside.locator("noscript p:visible").all_inner_texts())
            assert ("needs scripts" in said) is not scripts, name
            drawn = inside.locator("body").evaluate(FOOTPRINTS) if scripts else None
            searched = Path(name).stem in ("15_scene", "18_find_it")  # which may find nothing, in a miniature
            assert drawn is not False or searched, f"{name}: a map without a footprint"
            assert len(picture_of(map_)) > 5_000, f"{name}: hardly anything to see"
    context.close()


@needs_site
@needs_browser
def test_without_scripts_pages_keep_their_pictures_and_one_frame_of_each_slider(site):
    """The theme's script chooses light or dark; without it nothing may be left without colours."""
    assert not [name for name in pages_of(SITE) if 'data-theme="auto"' in (SITE / name).read_text(encoding="utf-8")]
    address, browser = site
    context = browser.new_context(viewport=PHONE, java_script_enabled=False)
    page = context.new_page()
    for name in holding('class="rsvlm-slider"', 'class="rsvlm-attention"'):
        page.goto(address + name, wait_until="load")
        for block in page.locator(".rsvlm-slider").all():
            said = " ".join(block.locator("noscript p:visible").all_inner_texts())
            assert block.locator("img:visible").count() and "needs scripts" in said, name
            assert not block.locator("input:visible, select:visible").count(), name
        for block in page.locator(".rsvlm-attention").all():
            assert block.locator(".rsvlm-over:visible").count() == 1 and not block.locator("input:visible").count(), name
    context.close()
