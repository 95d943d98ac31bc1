"""The book's page that searches: the demo's chips, as the page of an index has them, with a network or without one."""

from __future__ import annotations

import gzip
import json
import re
import shutil

import conftest
import numpy as np
import pytest
from conftest import ROOT
from searching import CHIPS, HOSTILE, facts

from rsvlm.book import live_search
from rsvlm.errors import DataError, RsvlmError
from rsvlm.model import images
from rsvlm.model.others.opening import open_encoder
from rsvlm.search import page_runtime


def test_pictures_places_and_captions_belong_to_their_chips(home):
    page, about = home / "page", facts(home / "page")
    columns = json.loads(gzip.decompress((page / "data" / "chips.json.gz").read_bytes()))
    steps = np.fromfile(page / "data" / "places.bin", "<u4").reshape(CHIPS, about["points"], 2)
    for row in range(CHIPS):
        picture = images.decode((page / "pictures" / "000" / f"{row:06d}.webp").read_bytes()).astype(int)
        assert np.abs(picture - conftest.toy_sample(row)[0]).mean() < 25  # WebP, not another chip
        assert columns["key"][row] == f"toy-{row:05d}" and columns["captions"][row][-1] in (
            HOSTILE,
            conftest.toy_sample(row)[1][-1],
        )
        west, north = steps[row, 0] * np.array(about["unit"]) + about["origin"]
        assert (west, north) == pytest.approx((-172 + 14 * row, 62 - 5 * row), abs=1e-6)
    assert columns["captions"][3][0] == HOSTILE and set(columns["gsd_m"]) == {13_900.0}
    assert (
        about["overview"] == [-180, -90, 180, 90]
        and images.decode((page / "data" / "overview.webp").read_bytes()).shape[1] == 360
    )


def test_pictures_without_a_place_are_refused(home, tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    data = conftest.write_toy(tmp_path / "data", {"test": 8})
    encoder = open_encoder(home / "model", "cpu")
    with pytest.raises(DataError, match="do not say where their pictures lie .footprint_lonlat"):
        live_search.gallery(encoder, encoder, data, device="cpu")


def test_without_npm_the_book_goes_on(tmp_path, monkeypatch, home, caplog):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    (tmp_path / "_toc.yml").write_text("root: book/index\n")
    assert live_search.prepare("smoke") and not (tmp_path / "book").exists()  # a book without the page
    (tmp_path / "_toc.yml").write_text("root: book/index\nchapters:\n- file: book/search\n")
    place = tmp_path / "book" / "_static" / "search"
    (place / "data").mkdir(parents=True)
    (place / "data" / "old.bin").write_bytes(b"left")
    made = shutil.copytree(home / "page", tmp_path / "made")
    monkeypatch.setattr(live_search, "load_or_build", lambda options: made)

    def refuse():
        raise RsvlmError("npm could not fetch anything")

    monkeypatch.setattr(page_runtime, "runtime", refuse)
    assert live_search.prepare("smoke") is False
    assert "npm could not fetch" in caplog.text and "make book" in caplog.text
    assert (place / "index.html").is_file() and not (place / "data" / "old.bin").exists()
    monkeypatch.setattr(page_runtime, "runtime", lambda: tmp_path)
    assert live_search.prepare("smoke") is True


def test_the_book_shows_the_page_in_a_frame_and_links_it():
    source = (ROOT / "book" / "search.md").read_text(encoding="utf-8")
    (frame,) = re.findall(r"<iframe[^>]*>", source)
    assert 'src="../_static/search/index.html"' in frame and "data-fits" in frame and "title=" in frame
    assert '<a href="../_static/search/index.html">' in source
