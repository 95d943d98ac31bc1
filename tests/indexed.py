"""A small index of coloured fields, one of its files with a hostile name, and its page: what the tests of `site` and `serve` share."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS
from searching import tiny_model

from rsvlm.model.others.opening import open_encoder
from rsvlm.search import index as archive, index_files, site

HOSTILE_FILE = "<img src=x onerror=alert(1)>.tif"
HOSTILE_TITLE = "<script>alert(2)</script> & fields"
EXAMPLES = ("red in the north", "a picture that is blue")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def fields(height: int, width: int, seed: int) -> np.ndarray:
    """A scene (3, H, W) of fields of 32 pixels a side, each of one colour."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, len(COLOURS), (height // 32, width // 32))
    colours = np.array(list(COLOURS.values()))[kinds].repeat(32, 0).repeat(32, 1)
    return np.clip(colours + rng.integers(-25, 15, colours.shape), 1, 255).astype(np.uint8).transpose(2, 0, 1)


@pytest.fixture(scope="session")
def indexed(tmp_path_factory):
    """An index of 84 chips, and its model."""
    rasters = pytest.importorskip("rasters")
    folder = tmp_path_factory.mktemp("indexed")
    rasters.write(folder / "scenes" / "a.tif", fields(160, 384, 0))
    place = rasters.from_origin(466_000, 4_301_000, 10, 10)
    rasters.write(folder / "scenes" / HOSTILE_FILE, fields(128, 192, 1), transform=place)
    model = tiny_model([f"{colour} in the {side}" for colour in COLOURS for side in ("north", "south")], tokens=330)
    model.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    encoder = open_encoder(folder / "model", "cpu")
    archive.index(folder / "scenes", encoder, folder / "index", model_folder=folder / "model", progress=False)
    return index_files.open_index(folder / "index"), encoder


@pytest.fixture(scope="session")
def page_folder(indexed, tmp_path_factory):
    """The page of that index, texts in the browser where its packages and npm are here."""
    folder = tmp_path_factory.mktemp("page") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSVLM_HOME", str(folder.parent))
        site.write_site(indexed[0], folder, indexed[1], title=HOSTILE_TITLE, examples=EXAMPLES, progress=False)
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder as any static server does; yield its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def until(page, script: str, arg=None, seconds: float = 120):
    """Wait for a true answer of a script; Playwright's own waiting needs eval, which the page forbids."""
    end = time.monotonic() + seconds
    while not (answer := page.evaluate(script, arg)):
        assert time.monotonic() < end, f"never: {script}"
        time.sleep(0.05)
    return answer
