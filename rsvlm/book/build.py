"""The book: every notebook that changed is run, two at a time where there are cores for it, and the pages are built.

A notebook says by a tag `after:NAME` on its cell of parameters that it reads what another one makes, and by `alone` that it keeps all
cores at work. Notebooks run in the order of `_toc.yml`. Where there are no pages yet, those of the first notebook are built as soon as it
is done, while the others run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rsvlm import config
from rsvlm.book import first_pages, notebooks
from rsvlm.errors import DataError, RsvlmError, need
from rsvlm.records import files, provenance, stages


def build(profile: str = "laptop", recompute: bool = False, jobs: int = 0) -> Path:
    """Run every notebook that changed, then build the pages where any of their inputs changed.

    Args:
        profile: Profile of the options, given to every notebook.
        recompute: Whether to run and build everything again; the notebooks are told, too.
        jobs: Number of notebooks at once; 0 means two, where there are two cores.

    Returns:
        The first page, `_build/html/index.html`.

    Raises:
        DataError: There are no notebooks here.
        RsvlmError: A notebook or the builder failed.
        MissingExtraError: The extra `book` is not installed.
    """
    config.load(profile)  # an unknown profile stops here
    home = stages.root()
    books = sorted((home / "notebooks").glob("*.ipynb"))
    if not books:
        raise DataError(f"there are no notebooks in {home / 'notebooks'}: run this inside a clone, or set RSVLM_HOME to one")
    with files.lock(home / "runs" / "book.lock"):  # another process may be building it: then this one finds it done
        return _build(home, books, profile, recompute, jobs or min(2, os.cpu_count() or 1))


def _build(home: Path, books: Sequence[Path], profile: str, recompute: bool, jobs: int) -> Path:
    """Run notebooks and build pages, as `build` says."""
    index, stamp = home / "_build" / "html" / "index.html", home / "_build" / "inputs.txt"
    with first_pages.Builder(home, run_builder, not index.is_file() and len(books) > 1) as early:
        execute_all(books, {"profile": profile, "recompute": recompute}, recompute, jobs, early.begin)

    if not recompute and index.is_file() and stamp.is_file() and stamp.read_text() == _inputs(home):
        return index
    from rsvlm.book import front, live_search  # and with them torch: not needed where nothing changed

    complete = live_search.prepare(profile)  # where something is missing, the next call builds again
    front.prepare(profile)
    inputs = _inputs(home)
    build_pages(home)
    if not index.is_file():
        raise RsvlmError(f"the builder ended without {index}: is a root page named in _toc.yml?")
    if complete:
        files.write_atomic(stamp, inputs)
    return index


def execute_all(
    books: Sequence[Path],
    parameters: Mapping[str, object],
    recompute: bool = False,
    jobs: int = 1,
    when_done: Callable[[Path], None] | None = None,
) -> None:
    """Run notebooks that changed, several at a time, each once those are done that its tags `after:NAME` name.

    They begin in the order of `_toc.yml`, and those that it does not name last; one with the tag `alone` has all cores. Of others, threads
    wait for work without turning, for otherwise two runs take each other's cores; their number stays what it is alone, and with it
    every result.

    Args:
        books: Paths of the notebooks; a tag that names none of them is not waited for.
        parameters: Values for the notebooks, as for `notebooks.execute`.
        recompute: Whether to run also those that did not change.
        jobs: Number of notebooks at once.
        when_done: Called with the path of each notebook that was run, once it is done.

    Raises:
        RsvlmError: A notebook failed; those under way were finished first, and no other begun. As `notebooks.execute`.
        DataError: Notebooks wait for each other.
    """
    waiting = [path for path in books if recompute or not notebooks.is_executed(path, parameters)]
    after = {path: frozenset(notebooks.tagged(path, "after")) for path in waiting}
    waiting = in_order(waiting, after)
    if jobs == 1 or len(waiting) < 2:
        for path in waiting:
            notebooks.execute(path, parameters, recompute)
            if when_done:
                when_done(path)
        return
    logs = stages.root() / "runs"
    tasks = [
        notebooks.Task(
            path, parameters, logs / f"book-{path.stem}.log", after[path], alone=bool(notebooks.tagged(path, "alone"))
        )
        for path in waiting
    ]
    # Read by OpenMP when it starts.
    environment = {"OMP_WAIT_POLICY": "passive"}
    endings = notebooks.run_all(tasks, jobs, recompute, environment, stop_early=True, when_done=when_done)
    for task, ending in zip(tasks, endings, strict=True):
        if ending and ending.state == "failed":
            raise RsvlmError(f"{ending.last_line}\nIts log, {task.log.relative_to(stages.root())}, says more.")


def in_order(books: Sequence[Path], after: Mapping[Path, frozenset[str]]) -> list[Path]:
    """Order notebooks as `_toc.yml` names them, those that it does not name last, and each behind those that it waits for.

    Args:
        books: Paths of the notebooks.
        after: Names of the notebooks, without `.ipynb`, that each waits for.
    """
    contents = stages.root() / "_toc.yml"
    named = re.findall(r"book/executed/(\w+)", contents.read_text(encoding="utf-8")) if contents.is_file() else []
    places = {name: place for place, name in enumerate(named)}
    ordered: dict[Path, None] = {}
    begun: set[Path] = set()

    def add(path: Path) -> None:
        if path in begun:  # one that waits for itself is told by whoever runs it
            return
        begun.add(path)
        for other in books:
            if other.stem in after[path]:
                add(other)
        ordered[path] = None

    for path in sorted(books, key=lambda path: (places.get(path.stem, len(places)), path.name)):
        add(path)
    return list(ordered)


def build_pages(home: Path) -> None:
    """Build the pages from executed notebooks.

    Raises:
        RsvlmError: The builder warned, which is an error here; the message has all of its warnings.
        MissingExtraError: The extra `book` is not installed.
    """
    need("jupyter_book", "book")
    shutil.rmtree(home / "_build", ignore_errors=True)  # pages that left the table of contents would stay
    run_builder(home, strict=True)


def run_builder(home: Path, strict: bool = False) -> None:
    """Call Jupyter Book in a folder.

    Args:
        home: Folder of the book.
        strict: Whether a warning is an error.

    Raises:
        RsvlmError: As `build_pages`.
    """
    # -n -W --keep-going: a broken link is an error, and all of them are reported at once.
    program = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", program, "build", ".", *(["-n", "-W", "--keep-going"] if strict else [])]
    plain = os.environ | {"NO_COLOR": "1"}
    done = subprocess.run(command, cwd=home, env=plain, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if any(word in line for word in ("WARNING", "ERROR", "rsvlm.errors."))][-20:]
        raise RsvlmError("jupyter-book failed:\n" + "\n".join([*errors, "...", *lines[-10:]]))


def _inputs(home: Path) -> str:
    parts = [*map(provenance.version, ("jupyter-book", "sphinx-book-theme")), stages.source_hash("records")]
    paths = [home / "_config.yml", home / "_toc.yml", *(home / "results").rglob("*.json"), *(home / "book").rglob("*")]
    generated, unread = home / "book" / "generated", (".failed.ipynb", ".partial.ipynb", ".pyc")
    for path in sorted(paths):
        if path.is_file() and generated not in path.parents and not path.name.endswith(unread):
            parts += [path.relative_to(home).as_posix(), files.file_sha256(path)]
    return stages.key(parts=parts)
