"""How soon the built page that searches in the browser answers, in headless Chromium, its files coming from this machine."""

from __future__ import annotations

import functools
import http.server
import shutil
import statistics
import threading
import time
from pathlib import Path

from rsvlm.errors import DataError, MissingExtraError
from rsvlm.records import stages

PAGE, FOUND = "_static/search/index.html", "#rsvlm-search"  # what the book shows in a frame
QUERIES = ("sea to the west", "brown land", "many islands", "a lake", "ice")


def measure(repeats: int = 5, site: str = "") -> list[dict]:
    """Open the page and ask it, each time in a new profile of the browser.

    Args:
        repeats: How often.
        site: Folder of the built book; empty: that of this clone.

    Returns:
        Rows: `stage` (`opened`: until the page shows its first answer; `loaded`: the part of it after the page's load event; `query`: from
        typing a query to its answer, what the browser's driver adds included), `n`, and `seconds` (median) with `min` and `max`.

    Raises:
        DataError: The book is not built, or there is no Chromium.
        MissingExtraError: The extra `dev` is not installed.
    """
    folder = Path(site) if site else stages.root() / "_build" / "html"
    if not (folder / PAGE).is_file():
        raise DataError(f"there is no {folder / PAGE}: build the book first, make book")
    if (browser := next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)) is None:
        raise DataError("there is no Chromium here: install one, as in apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise MissingExtraError("'playwright' drives the browser: install the extra, pip install 'rsvlm[dev]'") from None

    spent: dict[str, list[float]] = {"opened": [], "loaded": [], "query": []}
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as driver:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(repeats):
            _ask(chromium, f"http://127.0.0.1:{server.server_port}/{PAGE}", spent)
        chromium.close()
        server.shutdown()
    return [_row(stage, times) for stage, times in spent.items()]


def _ask(chromium, address: str, spent: dict[str, list[float]]) -> None:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page, start = context.new_page(), time.perf_counter()
    page.goto(address, wait_until="load")
    loaded = time.perf_counter()
    page.wait_for_selector(f"{FOUND}[data-state=answered]")
    spent["opened"].append(time.perf_counter() - start)
    spent["loaded"].append(time.perf_counter() - loaded)
    for query in QUERIES:
        start = time.perf_counter()
        page.fill("#rsvlm-query", query)
        page.press("#rsvlm-query", "Enter")
        while page.get_attribute(FOUND, "data-text") != query:
            time.sleep(0.002)
        spent["query"].append(time.perf_counter() - start)
    context.close()


def _row(stage: str, times: list[float]) -> dict:
    return {"stage": stage, "n": len(times), "seconds": statistics.median(times), "min": min(times), "max": max(times)}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass
