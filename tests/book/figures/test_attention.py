"""Maps over their pictures: they begin with the most telling one, say what there is to see, and a click or a key chooses another."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsvlm.book.figures import attention, markup
from rsvlm.errors import DataError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "\"'><script>alert(1)</script>"
PICTURE = np.full((32, 48, 3), 90, np.uint8)
ITEM = {"image": PICTURE, "alt": "A coast", "ground": {"gsd_m": 10, "size_px": 48}}


def states(text: str) -> list[dict]:
    return json.loads(html.unescape(re.search(r'data-figure="([^"]*)"', text)[1]))["states"]


def pixels(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA"))


def spike(size: float, mean: float = 1.0) -> np.ndarray:
    """A map (4, 6) that is even but for one cell in the lower right."""
    grid = np.full((4, 6), mean)
    grid[3, 5] += size
    return grid


MAPS = np.array([[spike(0.01), spike(3)], [spike(40), spike(1)], [spike(2), spike(0)]])  # three words, two heads
WORDS, HEADS = ["Dark", HOSTILE, "sea"], ["head 1", "head 2"]


def drawn(**how) -> str:
    return attention.explore([ITEM], [MAPS], "%", texts=WORDS, views=HEADS, kinds=("word", "head"), **how)


def test_the_map_of_the_largest_range_is_first_and_its_range_is_told():
    text = drawn()
    first = states(text)[2]  # the second word, the first head
    assert re.findall(r'<input type="radio" name="(\w+)" value="(\d)" checked>', text) == [("text", "1"), ("view", "0")]
    shown = re.search(r'<img class="dark-light rsvlm-over" alt="([^"]*)" src="data:image/png;base64,([^"]*)"', text)
    assert html.unescape(shown[1]) == first["said"] and shown[2] == first["png"]
    assert first["said"] == f"“{HOSTILE}”, head 1: 1 to 41 %, mean 2.7 %; highest at the bottom right."
    assert "Shown first is the map with the largest range" in text and "6 maps" in text
    assert "6 maps. In each, colours go from its lowest value (dark) to its highest (yellow)" in text
    assert "A map is grey where" in text
    assert "A map is grey" not in attention.explore([ITEM], [MAPS[1:2, :1]]), "nothing is said of what is not there"
    assert '<span>1 %</span><i class="rsvlm-colours"' in text and "<span>41 %</span>" in text


def test_names_are_text_and_every_picture_has_its_words():
    text = drawn()
    assert "<script" not in text and html.escape(HOSTILE) in text and text._repr_html_() == text
    assert 'alt="A coast"' in text and all(' class="dark-light' in image for image in re.findall(r"<img [^>]*>", text))
    assert "One pixel is 10 m" in text and "rsvlm-scale" in text
    with pytest.raises(DataError, match="'alt' that says"):
        attention.explore([{"image": PICTURE, "alt": " "}], [MAPS[:1, :1]])


def test_a_uniform_map_is_grey_and_says_so():
    uniform, other = states(drawn())[0], states(drawn())[1]
    assert uniform["grey"] and "uniform" in uniform["said"] and "below 10 % of it" in uniform["said"] and uniform["path"] == ""
    assert uniform["short"] == "uniform, 1.0 %"
    assert (pixels(uniform["png"]) == [*attention.GREY, 255]).all()
    assert not other["grey"] and len(np.unique(pixels(other["png"]).reshape(-1, 4), axis=0)) == 2
    all_grey = attention.explore([ITEM], [np.ones((1, 1, 4, 6))])
    assert 'class="dark-light rsvlm-over rsvlm-grey"' in all_grey and "uniform, 1.0 in the mean" in all_grey


def test_each_map_has_colours_of_its_own_unless_limits_are_given():
    own = [pixels(state["png"])[3, 5].tolist() for state in states(drawn())[1:4]]
    assert own[0] == own[1] == own[2] == [253, 231, 36, 255]
    shared = [pixels(state["png"])[3, 5].tolist() for state in states(drawn(limits=(0, 100)))[1:4]]
    assert shared[0] != shared[1] and "0 (dark) to 100 (yellow) in all maps" in drawn(limits=(0, 100))
    assert states(drawn(limits=(0, 100)))[2]["path"] == "" and states(drawn(limits=(0, 60)))[2]["path"]  # 41 of 100, of 60


def test_the_line_encloses_what_is_above_the_middle():
    grid = np.array([[0, 1, 9], [0, 8, 9]])
    path = states(attention.explore([ITEM], [grid[None, None]]))[0]["path"]
    assert sorted(path.split("M")[1:]) == sorted(["2 0H3", "1 1H2", "1 2H3", "1 1V2", "2 0V1", "3 0V2"])


def test_what_is_not_known_is_grey_and_notes_are_added():
    grid = spike(3).reshape(1, 1, 4, 6).copy()
    grid[0, 0, 0, 0] = np.nan
    state = states(attention.explore([ITEM], [grid], notes=[[["Half of it is sea."]]]))[0]
    assert pixels(state["png"])[0, 0].tolist() == [*attention.GREY, 255] and state["said"].endswith(". Half of it is sea.")
    nothing = states(attention.explore([ITEM], [grid * np.nan]))[0]
    assert nothing["said"] == "no value is known." and nothing["grey"]


@pytest.mark.parametrize("maps", [[], [MAPS[0]], [MAPS[:2]], [MAPS, MAPS]])
def test_maps_have_to_fit_their_names(maps):
    with pytest.raises(DataError, match="expected one array"):
        attention.explore([ITEM], maps, texts=WORDS, views=HEADS)


TRUTH = np.array([[0, 0, 1], [1, 1, -1]])
BEFORE, AFTER = np.array([[1, 0, 1], [0, 1, 0]]), np.array([[0, 1, 1], [1, 1, 1]])


def test_fixed_and_broken_differ_in_colour_and_in_pattern():
    text = attention.changes(
        [ITEM], [np.stack([BEFORE, AFTER])], [TRUTH], ["round 0", "round 1"], {"sea": "#0072B2", HOSTILE: "#fff"}
    )
    change, before, after, truth = states(text)
    assert change["said"] == "From round 0 to round 1: 40 % of the pixels are fixed (blue), 20 % broken (orange stripes)."
    assert [state["short"] for state in (before, after, truth)] == ["60 % right", "80 % right", ""]
    large = pixels(change["png"])
    side = large.shape[1] // 3
    cells = {
        place: large[place[0] * side : (place[0] + 1) * side, place[1] * side : (place[1] + 1) * side]
        for place in np.ndindex(2, 3)
    }
    colours = {place: len(np.unique(cell.reshape(-1, 4), axis=0)) for place, cell in cells.items()}
    assert colours[0, 0] == colours[1, 0] == 1 and colours[0, 1] == 2  # even where fixed, striped where broken
    assert cells[0, 2][..., 3].max() == cells[1, 2][..., 3].max() == 0 and cells[0, 0][..., 3].min() == 255
    assert pixels(truth["png"])[1, 2, 3] == 0 and "<script" not in text
    assert "fixed: wrong in round 0, right in round 1" in text and "broken, in stripes" in text


def test_changes_have_to_fit_the_masks():
    with pytest.raises(DataError, match="expected"):
        attention.changes([ITEM], [BEFORE[None]], [TRUTH], ["round 0"], {"sea": "blue", "land": "green"})


BOXES = """form => [".rsvlm-stage > div:not([hidden]) img", ".rsvlm-over", ".rsvlm-stage svg"].map(name => {
  const box = form.querySelector(name).getBoundingClientRect(); return [box.left, box.top, box.width, box.height].map(Math.round); })"""
SMALL = """() => [...document.querySelectorAll("form *")].filter(e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType == 3
  && n.textContent.trim()) && parseFloat(getComputedStyle(e).fontSize) < 10).map(e => e.outerHTML.slice(0, 99))"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_clicks_and_keys_choose_a_map_which_lies_over_the_picture(tmp_path):
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    axe = pytest.importorskip("axe_playwright_python", reason="axe is not installed")
    two = [ITEM | {"name": name, "alt": f"Picture {name}"} for name in ("a", HOSTILE)]
    body = attention.explore(two, [MAPS, MAPS[:, ::-1]], "%", texts=WORDS, views=HEADS, kinds=("word", "head"))
    body += attention.changes(
        [ITEM], [np.stack([BEFORE, AFTER])], [TRUTH], ["before", "after"], {"sea": "blue", "land": "green"}
    )
    (tmp_path / "page.html").write_text(
        markup.page("A page", f"<main><h1>Maps</h1>{body}</main>").replace("<h1>A page</h1>", "")
    )
    held = states(body)
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        form = page.locator("form").first
        over, said = form.locator(".rsvlm-over"), form.locator(".rsvlm-said")
        for block in page.locator("form").all():
            first, *others = block.evaluate(BOXES)
            assert others == [first, first] and min(first[2:]) > 100

        def at(number: int) -> bool:
            shows = (
                over.get_attribute("src").endswith(held[number]["png"]) and over.get_attribute("alt") == held[number]["said"]
            )
            return shows and said.inner_text() == held[number]["said"]

        assert at(2)
        form.get_by_text("sea", exact=True).click()
        assert at(4) and form.locator("small").all_inner_texts() == [held[4]["short"], held[5]["short"]]
        form.get_by_label("sea", exact=True).press("ArrowLeft")
        form.get_by_label("head 1").press("ArrowRight")
        assert at(3)
        form.get_by_label("a", exact=True).press("ArrowDown")
        assert at(9) and form.locator(".rsvlm-stage > div:visible img").get_attribute("alt") == f"Picture {HOSTILE}"
        form.get_by_label("a", exact=True).press("Enter")  # which sends no form away
        assert form.evaluate(BOXES)[0] == form.evaluate(BOXES)[1]
        outline = "getComputedStyle(document.activeElement.nextElementSibling).outlineStyle"
        assert page.evaluate(outline) == "solid"  # one sees where the keys lead
        form.get_by_label("opacity of the map").press("End")
        assert over.evaluate("e => getComputedStyle(e).opacity") == "1"
        last = page.locator("form").last
        last.get_by_text("after", exact=True).click()
        assert last.locator(".rsvlm-key ul:visible").inner_text().split() == ["sea", "land"]
        page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
        assert page.evaluate("axe.run().then(found => found.violations.map(v => v.id + v.nodes[0].html.slice(0, 150)))") == []
        assert page.evaluate(SMALL) == [] and page.evaluate("document.documentElement.scrollWidth") == 390 and not faults
        quiet = browser.new_context(java_script_enabled=False).new_page()
        quiet.goto((tmp_path / "page.html").as_uri())
        assert quiet.locator(".rsvlm-over:visible").count() == 2 and not quiet.locator("input:visible").count()
        assert held[2]["said"] in quiet.locator("noscript p:visible").first.inner_text()
        browser.close()
