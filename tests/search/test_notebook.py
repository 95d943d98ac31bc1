"""The page in a cell of a notebook, whose address is another one: it answers there, and its labels are in Python."""

from __future__ import annotations

import pytest
from indexed import CHROMIUM, served

import rsvlm.search

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")]


def test_a_cell_answers_and_gives_its_labels(indexed, tmp_path, monkeypatch):
    pytest.importorskip("starlette", reason="the extra [serve] is not installed")
    pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra [dev] is not installed")
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path / "home"))
    (tmp_path / "notebook").mkdir()
    shown = rsvlm.search.show(indexed[0].folder, indexed[1], height=700)
    # As JupyterLab lays an output into its page, in light and dark
    cell = f'<!doctype html><html lang="en"><title>Notebook</title><div class="output">{shown._repr_html_()}</div></html>'
    (tmp_path / "notebook" / "index.html").write_text(cell, encoding="utf-8")
    with served(tmp_path / "notebook") as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        frame = page.wait_for_selector("iframe").content_frame()
        frame.wait_for_selector("#rsvlm-search[data-state=answered]")
        assert frame.evaluate("innerHeight") == 700  # that of the cell, as the page of another address has none of the frame's
        with page.expect_response(lambda answer: answer.request.method == "PUT"):
            frame.click("[data-part=yes]")
        browser.close()
    assert [feature["properties"]["label"] for feature in shown.labels()["features"]] == ["yes"]
    shown.stop()
