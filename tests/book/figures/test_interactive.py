"""Figures that a reader moves: a slider that works alone, and without scripts shows one frame."""

from __future__ import annotations

import html
import json
import re
import shutil

import pytest

from rsvlm.book.figures import interactive, markup
from rsvlm.errors import DataError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "\"'><script>alert(1)</script>"
STEPS = {"layer": ["1", "2"], "head": ["a", "b", HOSTILE]}
FRAMES = [f"<p>frame {k}</p>" for k in range(6)]


def visible(text: str) -> list[str]:
    return re.findall(r"<div><p>(frame \d)</p></div>", text)


def test_one_frame_is_shown_and_every_place_has_a_name():
    text = interactive.slider(FRAMES, STEPS, start=4)
    assert visible(text) == ["frame 4"] and text.count("<div hidden>") == 5
    assert re.findall(r'value="(\d)"', text) == ["1", "1"] and re.findall(r'aria-valuetext="([^"]*)"', text) == ["2", "b"]
    told = [json.loads(html.unescape(names)) for names in re.findall(r'data-names="([^"]*)"', text)]
    assert told == list(STEPS.values())
    assert "<script" not in text and text._repr_html_() == text
    quiet = re.search("(?s)<noscript>(.*?)</noscript>", text).group(1)
    assert "layer 2, head b" in quiet and "display: none" in quiet


@pytest.mark.parametrize(
    ("frames", "steps", "start"), [(FRAMES[:5], STEPS, 0), (FRAMES, STEPS, 6), (FRAMES[:1], {"w": ["1"]}, 0), ([], {}, 0)]
)
def test_frames_and_places_have_to_fit(frames, steps, start):
    with pytest.raises(DataError, match="one frame for each combination"):
        interactive.slider(frames, steps, start)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_keys_move_the_slider_and_its_frame(tmp_path):
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    (tmp_path / "page.html").write_text(
        markup.page("A page", interactive.slider(FRAMES, STEPS) + interactive.slider(FRAMES, STEPS))
    )
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        assert page.locator("p:visible").all_inner_texts() == ["frame 0"] * 2
        for key in ("Tab", "ArrowRight", "Tab", "ArrowRight", "ArrowRight"):
            page.keyboard.press(key)
        assert page.locator("p:visible").all_inner_texts() == ["frame 5", "frame 0"]  # the second is another block
        assert [page.get_by_label(name).first.get_attribute("aria-valuetext") for name in STEPS] == ["2", HOSTILE]
        quiet = browser.new_context(java_script_enabled=False).new_page()
        quiet.goto((tmp_path / "page.html").as_uri())
        assert "frame 0" in quiet.locator("p:visible").all_inner_texts() and not quiet.locator("input:visible").count()
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_a_drop_down_chooses(tmp_path):
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ["first", HOSTILE, "third"]
    chosen = interactive.slider(FRAMES[:3], {"sentence": names}, start=1, drop_down=True)
    (tmp_path / "page.html").write_text(markup.page("A page", chosen))
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        listed = page.get_by_label("sentence")
        assert page.locator("p:visible").first.inner_text() == "frame 1"
        assert listed.locator("option").all_inner_texts() == names and page.locator("script").count() == 0
        listed.select_option("third")
        assert page.locator("p:visible").first.inner_text() == "frame 2"
        quiet = browser.new_context(java_script_enabled=False).new_page()
        quiet.goto((tmp_path / "page.html").as_uri())
        assert "frame 1" in quiet.locator("p:visible").all_inner_texts() and not quiet.locator("select:visible").count()
        browser.close()
