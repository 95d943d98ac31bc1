"""The page of an index in a real browser: asked, clicked, taught, saved, and on a phone; and its server, which other sites cannot ask."""

from __future__ import annotations

import http.server
import json
import threading

import numpy as np
import pytest
from indexed import CHROMIUM, EXAMPLES, HOSTILE_FILE, HOSTILE_TITLE, Quiet, served, until

from rsvlm.evaluation import embeddings

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")]
ROOT = "document.getElementById('rsvlm-search')"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra [dev] is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(page_folder):
    with served(page_folder) as where:
        yield where


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


def opened(page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#rsvlm-search[data-state=answered]")


def after(page, act) -> None:
    """Do something, and wait until the page has answered it."""
    before = page.evaluate(f"{ROOT}.dataset.changes")
    act()
    until(page, f"(before) => {ROOT}.dataset.changes !== before", before)


def hits(page) -> list[int]:
    return [int(row) for row in page.get_attribute("#rsvlm-search", "data-hits").split()]


def best_rows(indexed, vector: np.ndarray) -> list[int]:
    return embeddings.search(vector[None].astype(np.float32), np.asarray(indexed[0].vectors, np.float32), 24)[1][0].tolist()


def alike(found: list[int], wanted: list[int]) -> float:
    return len(set(found) & set(wanted)) / len(wanted)


def test_texts_examples_and_clicks_are_answered_as_in_python(tab, address, indexed, page_folder):
    index, encoder = indexed
    opened(tab, address)
    assert alike(hits(tab), best_rows(indexed, encoder.texts([EXAMPLES[0]])[0])) > 0.9
    if json.loads((page_folder / "data" / "index.json").read_text())["tower"]:
        for text in ("green in the south", "🏝️ <b>white</b> & “blue”"):
            tab.fill("#rsvlm-query", text)
            after(tab, lambda: tab.press("#rsvlm-query", "Enter"))
            assert alike(hits(tab), best_rows(indexed, encoder.texts([text])[0])) > 0.9
        assert tab.locator(".pill").first.inner_text().startswith("“🏝️ <b>white</b>")
    else:
        assert tab.is_hidden("#rsvlm-query") and "reads no texts" in tab.inner_text("[data-part=mute]")
    # A click: more like this; without the text, the chip itself comes first, and those like it
    after(tab, lambda: tab.click("[data-part=question] .pill button"))
    row = int(tab.locator("[data-part=strip] li").nth(3).get_attribute("data-row"))
    after(tab, lambda: tab.locator("[data-part=strip] .picture").nth(3).click())
    assert hits(tab)[0] == row and alike(hits(tab), best_rows(indexed, np.asarray(index.vectors[row]))) > 0.9
    after(tab, lambda: tab.click("[data-part=undo]"))
    after(tab, lambda: tab.click("[data-part=undo]"))
    assert tab.locator(".pill").count() == 1


def test_undo_goes_back_to_the_beginning_and_no_further(tab, address):
    opened(tab, address)
    assert tab.is_disabled("[data-part=undo]")
    tab.locator("[data-part=strip] .picture").first.focus()
    after(tab, lambda: tab.keyboard.press("y"))
    assert tab.is_enabled("[data-part=undo]")
    tab.reload()  # the label was kept, and is where this page begins
    tab.wait_for_selector("#rsvlm-search[data-state=answered]")
    assert tab.is_disabled("[data-part=undo]")
    tab.locator("[data-part=strip] .picture").first.focus()
    tab.keyboard.press("u")
    after(tab, lambda: tab.keyboard.press("n"))
    after(tab, lambda: tab.keyboard.press("u"))
    tab.keyboard.press("u")
    until(tab, "() => document.querySelector('[data-part=learned]').textContent.startsWith('1 yes, 0 no')")


def test_a_text_that_is_cut_is_told(browser, running):
    page = browser.new_page()
    opened(page, running.address)
    page.fill("#rsvlm-query", "red in the north " * 200)
    after(page, lambda: page.press("#rsvlm-query", "Enter"))
    assert "it was cut to 96 tokens" in page.inner_text("[data-part=status]")
    page.close()


def test_keys_teach_and_undo(tab, address):
    opened(tab, address)
    tab.locator("[data-part=strip] .picture").first.focus()
    for key in "ynynyn":
        after(tab, lambda key=key: tab.keyboard.press(key))
    until(tab, "() => document.querySelector('[data-part=learned]').textContent.includes('Expected to be right')")
    assert tab.inner_text("[data-part=learned]").startswith("3 yes, 3 no.")
    assert tab.locator("[data-part=next] li").count() == 6 and "%" in tab.inner_text("[data-part=strip] .score >> nth=0")
    after(tab, lambda: tab.keyboard.press("u"))
    until(tab, "() => document.querySelector('[data-part=learned]').textContent.startsWith('3 yes, 2 no')")
    chosen = tab.get_attribute("#rsvlm-search", "data-chosen")
    tab.keyboard.press("ArrowRight")
    until(tab, f"(old) => {ROOT}.dataset.chosen !== old", chosen)
    tab.uncheck("[data-part=keys]")
    tab.keyboard.press("y")
    tab.focus("#rsvlm-query") if tab.is_visible("#rsvlm-query") else None
    tab.keyboard.press("n")
    assert "3 yes, 2 no" in tab.inner_text("[data-part=learned]")  # a letter that is typed is no label
    # A reload keeps labels
    tab.reload()
    tab.wait_for_selector("#rsvlm-search[data-state=answered]")
    assert tab.locator("[data-part=strip] li.yes, [data-part=strip] li.no").count() >= 3


def test_labels_and_results_are_saved_and_loaded(tab, address, indexed, tmp_path):
    index, _ = indexed
    opened(tab, address)
    first = hits(tab)[:2]
    for row, label in zip(first, ("yes", "no"), strict=True):
        after(tab, lambda row=row, label=label: tab.click(f"[data-part=strip] li[data-row='{row}'] button.{label}"))
    with tab.expect_download() as saved:
        tab.click("[data-part=save]")
    saved.value.save_as(tmp_path / "labels.geojson")
    features = json.loads((tmp_path / "labels.geojson").read_text())["features"]
    assert [one["properties"]["label"] for one in features] == ["yes", "no"]
    assert [one["properties"]["key"] for one in features] == index.chips["key"].iloc[first].tolist()
    ring = np.array(features[0]["geometry"]["coordinates"][0])
    wanted = np.array(index.chips["outline"].iloc[first[0]]).reshape(-1, 2)
    assert (ring[0] == ring[-1]).all() and abs(ring[:-1] - wanted[[0, *range(len(wanted) - 1, 0, -1)]]).max() < 1e-7
    after(tab, lambda: tab.click("[data-part=clear]"))
    # As somebody edited it: one by its place alone, one on both sides, one elsewhere, one with another word
    del features[0]["properties"]["key"]
    point = {"type": "Point", "coordinates": ring[:-1].mean(axis=0).tolist()}
    both = index.chips["key"].iloc[40]
    features += [{"properties": {"label": label, "key": both}, "geometry": None} for label in ("yes", "no")]
    features += [{"properties": {"label": "Y"}, "geometry": point}, {"properties": {"label": "maybe"}, "geometry": point}]
    features += [{"properties": {"label": "yes"}, "geometry": {"type": "Point", "coordinates": [0, 0]}}, {"properties": None}]
    edited = json.dumps({"type": "FeatureCollection", "features": features})
    upload = {"name": "<b>mine</b>.geojson", "mimeType": "application/json", "buffer": edited.encode()}
    after(tab, lambda: tab.set_input_files("[data-part=load]", upload))
    until(tab, "() => document.querySelector('[data-part=status]').textContent.includes('mine')")
    status = tab.inner_text("[data-part=status]")
    assert status.startswith("2 labels of <b>mine</b>.geojson"), status
    assert "1 chips had both yes and no" in status and "1 lie at no chip" in status and "1 have another label" in status
    for content in (b"{", b"[]", b'{"features": 5}', b"\xff\xfe\x00"):
        tab.set_input_files("[data-part=load]", upload | {"buffer": content})
        until(tab, "() => document.querySelector('[data-part=status]').textContent.includes('holds no labels')")
    for part in ("geojson", "csv"):
        tab.fill("[data-part=count]", "30")
        with tab.expect_download() as saved:
            tab.click(f"[data-part={part}]")
        saved.value.save_as(tmp_path / f"results.{part}")
    found = json.loads((tmp_path / "results.geojson").read_text())["features"]
    assert [one["properties"]["rank"] for one in found] == list(range(1, 31)) and found[0]["properties"]["model"]
    lines = (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 31 and lines[0].startswith("rank,score")


def test_names_from_files_are_shown_as_text(tab, address, indexed):
    opened(tab, address)
    row = int(np.flatnonzero(indexed[0].chips["file"] == HOSTILE_FILE)[0])
    after(tab, lambda: tab.click("[data-part=more]"))
    after(tab, lambda: tab.click("[data-part=more]"))
    after(tab, lambda: tab.click(f"[data-part=strip] li[data-row='{row}'] .picture"))
    assert HOSTILE_FILE in tab.inner_text("[data-part=facts]") and tab.inner_text("h1") == HOSTILE_TITLE
    assert tab.locator("[onerror], script:not([src])").count() == 0


def test_the_map_shows_and_chooses_chips(tab, address):
    opened(tab, address)
    canvas = tab.locator("[data-part=canvas]")
    colours = "(canvas) => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size"
    assert canvas.evaluate(colours) > 20
    box, before = canvas.bounding_box(), tab.get_attribute("#rsvlm-search", "data-chosen")
    for share in (0.1, 0.2, 0.3, 0.4, 0.6, 0.8):
        tab.mouse.click(box["x"] + share * box["width"], box["y"] + 0.6 * box["height"])
    assert tab.get_attribute("#rsvlm-search", "data-chosen") != before
    tab.click("[data-part=in]")
    tab.click("[data-part=whole]")


def test_on_a_phone_nothing_is_cut_off_and_readers_find_their_way(tab, address):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra [dev] is not installed")
    for width, scheme in ((390, "light"), (320, "dark"), (1280, "dark")):
        tab.set_viewport_size({"width": width, "height": 844})
        tab.emulate_media(color_scheme=scheme)
        opened(tab, address)
        tab.locator("[data-part=strip] .picture").first.focus()
        for key in "yn":
            after(tab, lambda key=key: tab.keyboard.press(key))
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.Axe().run(tab).response["violations"]
        assert not [f"{rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in found]


def test_as_a_file_and_without_scripts_the_page_shows_what_it_can(browser, page_folder):
    for options in ({}, {"java_script_enabled": False}):
        context = browser.new_context(**options)
        page = context.new_page()
        page.goto((page_folder / "index.html").as_uri())
        if not options:
            assert "python -m http.server" in page.inner_text("[data-part=status]")
        assert page.locator("#search-static img").count() == 12 and page.is_visible("#search-static")
        page.locator("#search-static img").first.scroll_into_view_if_needed()
        if not options:
            until(page, "() => document.querySelector('#search-static img').naturalWidth > 0")
        context.close()


def test_broken_files_are_named(browser, address):
    context = browser.new_context()
    page = context.new_page()
    page.route("**/vectors.bin*", lambda route: route.fulfill(body=b"short"))
    page.goto(address)
    page.wait_for_selector("#rsvlm-search[data-state=failed]")
    assert "vectors.bin has 5 bytes" in page.inner_text("[data-part=status]") and page.is_visible("#search-static")
    context.close()


# The server


@pytest.fixture(scope="module")
def running(indexed, tmp_path_factory):
    pytest.importorskip("starlette", reason="the extra [serve] is not installed")
    pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
    from rsvlm.search import serve

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSVLM_HOME", str(tmp_path_factory.mktemp("home")))
        one = serve.start(*indexed, framed=True)
    yield one
    one.stop()


def test_the_server_reads_texts_and_gets_labels(tab, running, indexed):
    opened(tab, running.address)
    tab.fill("#rsvlm-query", "white in the north")
    after(tab, lambda: tab.press("#rsvlm-query", "Enter"))
    assert alike(hits(tab), best_rows(indexed, indexed[1].texts(["white in the north"])[0])) > 0.9
    after(tab, lambda: tab.click("[data-part=yes]"))
    until(tab, "() => document.querySelector('[data-part=photo]').naturalWidth > 0")
    assert "/window/" in tab.get_attribute("[data-part=photo]", "src")
    until(tab, "async () => (await (await fetch('labels')).json()).features.length === 1")
    assert json.loads(running.kept.content)["features"][0]["properties"]["label"] == "yes"


ATTACK = """<!doctype html><title>Another site</title><script>
const out = {};
const tried = async (name, act) => { try { out[name] = await act(); } catch (error) { out[name] = String(error); } };
(async () => {
  const at = decodeURIComponent(location.hash.slice(1));
  await tried("get", async () => (await fetch(at + "data/index.json")).status);
  await tried("ask", async () => (await fetch(at + "ask", {method: "POST", headers: {"content-type": "application/json"}, body: '{"text":"a"}'})).status);
  await tried("blind", async () => (await fetch(at + "labels", {method: "POST", mode: "no-cors", body: "x"})).type);
  await tried("put", async () => (await fetch(at + "labels", {method: "PUT", body: '{"features": []}'})).status);
  await tried("image", () => new Promise((done) => { const i = new Image(); i.onload = () => done("seen"); i.onerror = () => done("refused"); i.src = at + "window/0"; }));
  await tried("script", () => new Promise((done) => { const s = document.createElement("script"); s.onload = () => done("run"); s.onerror = () => done("refused"); s.src = at + "data/index.json"; document.head.append(s); }));
  document.title = "done"; window.out = out;
})();
</script>"""


class Attacker(Quiet):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(ATTACK.encode())


def test_a_page_of_another_site_gets_nothing_even_with_the_token(browser, running):
    before = running.kept.content
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Attacker) as evil:
        threading.Thread(target=evil.serve_forever, daemon=True).start()
        context = browser.new_context()
        page = context.new_page()
        for target in (running.address, running.address.replace("127.0.0.1", "localhost")):
            page.goto("about:blank")
            page.goto(f"http://127.0.0.1:{evil.server_port}/#{target}")
            until(page, "() => document.title === 'done'")
            out = page.evaluate("window.out")
            for name in ("get", "ask", "put"):
                assert "TypeError" in str(out[name]), out  # the browser shows it nothing
            assert out["image"] == out["script"] == "refused" and out["blind"] in ("opaque", "TypeError: Failed to fetch")
        context.close()
        evil.shutdown()
    assert running.kept.content == before
