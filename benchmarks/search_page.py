"""How soon the page of an index answers in headless Chromium: opened, asked by text, taught by a click. Chips and model are made up."""

from __future__ import annotations

import functools
import http.server
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.page import _Quiet
from rsvlm.errors import DataError, MissingExtraError
from rsvlm.model import embed, mammut, tokenizer
from rsvlm.search import site

TEXTS = ("sea to the west", "brown land", "many islands", "a lake", "ice")
ROOT = "document.getElementById('rsvlm-search')"


def measure(n_chips: int = 20_000, width: int = 512, repeats: int = 3, labels: int = 20) -> list[dict]:
    """Write a page, open it each time in a new profile of the browser, ask it, and say yes or no.

    Args:
        n_chips: Chips of the index.
        width: Width of their vectors.
        repeats: How often the page is opened.
        labels: Labels given each time.

    Returns:
        Rows: `stage`, `n`, and `seconds` (median) with `min` and `max`. Stages: `opened`, until the page shows its first answer; `loaded`,
        the part of it after the page's load event; `text`, from typing a text to its answer, what the browser's driver adds included;
        `click`, from a key that labels to the new order, as the page measures it. And a row `megabytes` of the files that search, and
        `kept neighbours`, the percentage of the nearest ten of a chip that rounding keeps.

    Raises:
        DataError: There is no Chromium.
        MissingExtraError: The extra `dev` is not installed.
    """
    if (browser := next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)) is None:
        raise DataError("there is no Chromium here: install one, as in apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise MissingExtraError("'playwright' drives the browser: install the extra, pip install 'rsvlm[dev]'") from None
    spent: dict[str, list[float]] = {"opened": [], "loaded": [], "text": [], "click": []}
    with tempfile.TemporaryDirectory() as folder:
        facts = site.write_site(_index(n_chips, width), Path(folder) / "site", _model(width), picture_px=16)
        size = sum(path.stat().st_size for path in (Path(folder) / "site" / "data").glob("[vcp]*.*")) / 1e6
        handler = functools.partial(_Quiet, directory=str(Path(folder) / "site"))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as driver:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
            for _ in range(repeats):
                _use(chromium, f"http://127.0.0.1:{server.server_port}/", labels, spent)
            chromium.close()
            server.shutdown()
    rows = [
        {"stage": stage, "n": len(times), "seconds": statistics.median(times), "min": min(times), "max": max(times)}
        for stage, times in spent.items()
        if times
    ]
    return [*rows, {"stage": "megabytes", "value": size}, {"stage": "kept neighbours", "value": facts["kept_neighbours"]}]


def _use(chromium, address: str, labels: int, spent: dict[str, list[float]]) -> None:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page, start = context.new_page(), time.perf_counter()
    page.goto(address, wait_until="load")
    loaded = time.perf_counter()
    page.wait_for_selector("#rsvlm-search[data-state=answered]")
    spent["opened"].append(time.perf_counter() - start)
    spent["loaded"].append(time.perf_counter() - loaded)
    if page.is_visible("#rsvlm-query"):
        _answered(
            page, lambda: (page.fill("#rsvlm-query", "a first text"), page.press("#rsvlm-query", "Enter"))
        )  # loads the tower
        for text in TEXTS:
            start = time.perf_counter()
            page.fill("#rsvlm-query", text)
            _answered(page, lambda: page.press("#rsvlm-query", "Enter"))
            spent["text"].append(time.perf_counter() - start)
    page.locator("[data-part=strip] .picture").first.focus()
    for number in range(labels):
        _answered(page, lambda number=number: page.keyboard.press("yn"[number % 2]))
        spent["click"].append(float(page.get_attribute("#rsvlm-search", "data-took")) / 1000)
    context.close()


def _answered(page, act) -> None:
    before = page.evaluate(f"{ROOT}.dataset.changes")
    act()
    while page.evaluate(f"{ROOT}.dataset.changes") == before:
        time.sleep(0.002)


def _index(count: int, width: int):
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(40, width))
    vectors = kinds[rng.integers(0, 40, count)] + rng.normal(size=(count, width)) + 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    across = int(np.ceil(count**0.5))
    west, north = 10 + 0.02 * (np.arange(count) % across), 50 - 0.02 * (np.arange(count) // across)
    table = pd.DataFrame({"west": west, "south": north - 0.02, "east": west + 0.02, "north": north})
    table["outline"] = table[["west", "north", "east", "north", "east", "south", "west", "south"]].to_numpy().tolist()
    table["key"] = [f"scene_256_{256 * (row % across)}_{256 * (row // across)}" for row in range(count)]
    table["file"] = "scene.tif"
    pictures = [np.full((16, 16, 3), shade, np.uint8) for shade in range(0, 256, 16)]

    class Made:
        folder, facts, chips = Path("made"), {"model": "made up", "fingerprint": "0"}, table

        def __len__(self) -> int:
            return count

        def check(self, model):
            return model

        def pictures(self, rows) -> list[np.ndarray]:
            return [pictures[row % 16] for row in rows]

    made = Made()
    made.vectors = vectors.astype(np.float16)
    return made


def _model(width: int):
    import torch

    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "vision_width": width, "vision_layers": 1, "vision_heads": 8}
    sizes |= {"text_width": width, "text_layers": 3, "text_heads": 8, "vocab_size": 400}
    model = mammut.Mammut(mammut.MammutConfig(**sizes)).eval()
    model.tokenizer = tokenizer.train([*TEXTS] * 9, 400, model.config.context_length)
    return embed.encoder_of(model)
