"""The first pages of a book: those of what has run are whole, the others say that they wait, and a fault stops nothing."""

from __future__ import annotations

import json
import threading

import pytest

from rsvlm.book import build, first_pages


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    for name in ("book/executed", "notebooks", "results", "runs", ".git"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "_toc.yml").write_text("root: book/index\nchapters:\n- file: book/executed/01_a\n- file: book/executed/02_b\n")
    (tmp_path / "book" / "index.md").write_text("# First\n")
    (tmp_path / "book" / "executed" / "01_a.ipynb").write_text("{}")
    (tmp_path / "book" / "executed" / "02_b.partial.ipynb").write_text("{}")
    (tmp_path / "notebooks" / "02_b.ipynb").write_text(
        json.dumps({"cells": [{"cell_type": "markdown", "source": ["# A title\n", "More"]}]})
    )
    return tmp_path


def test_what_has_not_run_says_so_under_its_own_title(home):
    folder = home / "runs" / "first-pages"
    assert first_pages.lay_out(home, folder) == (1, 2)
    executed = folder / "book" / "executed"
    assert sorted(path.name for path in executed.iterdir()) == ["01_a.ipynb", "02_b.md"]
    assert (executed / "02_b.md").read_text().startswith("# A title\n\nThis page is still being made")
    assert (folder / "results").is_symlink() and not (folder / "runs").exists() and not (folder / ".git").exists()
    assert "still being made" in (folder / "book" / "_static" / "search" / "index.html").read_text()
    assert not (home / "book" / "generated").exists() and not (executed.parent / "_static" / "search").is_symlink()


def test_a_notebook_without_a_title_goes_by_its_name(tmp_path):
    (tmp_path / "03_c.ipynb").write_text('{"cells": []}')
    assert [first_pages.title(tmp_path / f"{name}.ipynb") for name in ("03_c", "04_lost")] == ["03_c", "04_lost"]


def test_pages_are_built_once_beside_what_runs_and_told(home, capsys):
    calls, go_on = [], threading.Event()

    def run(folder):
        assert go_on.wait(60)  # `begin` has come back before
        calls.append(folder)
        (folder / "_build" / "html").mkdir(parents=True)
        (folder / "_build" / "html" / "index.html").write_text("first")

    with first_pages.Builder(home, run) as builder:
        builder.begin(home / "notebooks" / "01_a.ipynb")
        builder.begin(home / "notebooks" / "02_b.ipynb")
        go_on.set()
    index = home / "_build" / "html" / "index.html"
    assert len(calls) == 1 and index.read_text() == "first" and not calls[0].exists()
    told = capsys.readouterr().out
    assert str(index) in told and "1 of 2 chapters have run" in told


def test_a_fault_of_the_first_pages_is_told_and_stops_nothing(home, caplog):
    def run(folder):
        raise RuntimeError("no builder")

    with first_pages.Builder(home, run) as builder:
        builder.begin(home / "notebooks" / "01_a.ipynb")
    assert "no builder" in caplog.text and not (home / "_build").exists()
    with first_pages.Builder(home, run, enabled=False) as builder:
        builder.begin(home / "notebooks" / "01_a.ipynb")
        assert builder.thread is None


def test_notebooks_run_in_the_order_of_the_contents_behind_what_they_wait_for(home):
    (home / "_toc.yml").write_text("\n".join(f"- file: book/executed/{name}" for name in ("04_d", "01_a", "03_c", "02_b")))
    books = [home / "notebooks" / f"{name}.ipynb" for name in ("01_a", "02_b", "03_c", "04_d", "05_e")]
    after = {book: frozenset({"02_b"} if book.stem == "04_d" else {"99_none"}) for book in books}
    assert [book.stem for book in build.in_order(books, after)] == ["02_b", "04_d", "01_a", "03_c", "05_e"]
    circle = {book: frozenset({"01_a", "02_b"}) for book in books}
    assert len(build.in_order(books, circle)) == len(books)
    (home / "_toc.yml").unlink()
    assert [book.stem for book in build.in_order(books[::-1], dict.fromkeys(books, frozenset()))] == [b.stem for b in books]
