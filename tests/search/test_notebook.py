"""The page in a cell of a notebook, whose address is another one: it answers there, and its labels are in Python.

No notebook is started: its page is one that lays out the output as JupyterLab does, or as the frame in which VS Code shows outputs.
"""

from __future__ import annotations

import pytest
from indexed import CHROMIUM, served

import rsvlm.search

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")]

EDITOR = "allow-scripts allow-same-origin allow-forms allow-pointer-lock allow-downloads"  # what VS Code lets the frame of outputs do


@pytest.fixture
def shown(indexed, tmp_path, monkeypatch):
    pytest.importorskip("starlette", reason="the extra [serve] is not installed")
    pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path / "home"))
    page = rsvlm.search.show(indexed[0].folder, indexed[1], height=700)
    yield page
    page.stop()


@pytest.fixture
def tab():
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra [dev] is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        yield page
        browser.close()


def notebook(folder, shown, rights: str | None = None, policy: str = "") -> None:
    """Write a page with the output of a cell: in itself, or in a frame that has these rights alone."""
    cell = f'{policy}<title>Notebook</title><div class="output">{shown._repr_html_()}</div>'
    (folder / "output.html").write_text(f'<!doctype html><html lang="en">{cell}</html>', encoding="utf-8")
    frame = f'<iframe sandbox="{rights}" src="output.html" width="1000" height="900"></iframe>'
    page = (folder / "output.html").read_text() if rights is None else f'<!doctype html><html lang="en">{frame}</html>'
    (folder / "index.html").write_text(page, encoding="utf-8")


@pytest.mark.parametrize("rights", [None, EDITOR])
def test_a_cell_answers_and_gives_its_labels(shown, tab, tmp_path, rights):
    notebook(tmp_path, shown, rights)
    with served(tmp_path) as address:
        tab.goto(address)
        outer = tab.wait_for_selector("iframe").content_frame()
        frame = outer if rights is None else outer.wait_for_selector("iframe").content_frame()
        frame.wait_for_selector("#rsvlm-search[data-state=answered]")
        assert frame.evaluate("innerHeight") == 700  # that of the cell, as the page of another address has none of the frame's
        with tab.expect_response(lambda answer: answer.request.method == "PUT"):
            frame.click("[data-part=yes]")
    assert [feature["properties"]["label"] for feature in shown.labels()["features"]] == ["yes"]


def test_where_a_frame_may_not_run_the_page_it_says_so(shown, tab, tmp_path):
    notebook(tmp_path, shown, "allow-scripts allow-downloads")  # without an origin of its own
    with served(tmp_path) as address:
        tab.goto(address)
        frame = tab.wait_for_selector("iframe").content_frame().wait_for_selector("iframe").content_frame()
        assert "in a tab of its own" in frame.inner_text("body")  # to a page without an origin the server tells nothing else


def test_where_no_frame_is_allowed_the_sentence_stays(shown, tab, tmp_path):
    policy = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; child-src https: data:">"""  # VS Code's strict one
    notebook(tmp_path, shown, EDITOR, policy)
    with served(tmp_path) as address:
        tab.goto(address)
        outer = tab.wait_for_selector("iframe").content_frame()
        assert "run this cell again" in outer.inner_text("p") and outer.get_attribute("p a", "href") == shown.address
        assert not [frame for frame in tab.frames if frame.url.startswith(shown.address)]
