"""The first pages of a book that has none yet: built once the first notebook is done, while the others run.

They are built in a folder of their own, `runs/first-pages`, in which a page whose notebook has not run yet says so, and become
`_build/html/` at once. The pages of the whole book take their place when all notebooks are done.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tqdm.auto import tqdm

from rsvlm.records import files

log = logging.getLogger(__name__)
UNREAD = (".failed.ipynb", ".partial.ipynb")
WAITING = "This page is still being made: its notebook has not run yet. Load it again in some minutes."


class Builder:
    """Builds the first pages beside what runs; a `with` waits for them at its end.

    Args:
        home: Folder of the book.
        run: What builds the pages in a folder.
        enabled: Whether to build at all.
    """

    def __init__(self, home: Path, run: Callable[[Path], None], enabled: bool = True):
        self.home, self.run, self.enabled = home, run, enabled
        self.thread: threading.Thread | None = None

    def __enter__(self) -> Builder:
        """Return itself."""
        return self

    def begin(self, notebook: Path) -> None:
        """Begin to build, unless that was begun before; `notebook` is the one that is done."""
        if self.enabled and self.thread is None:
            self.thread = threading.Thread(target=self._build, args=(notebook, time.monotonic()), daemon=True)
            self.thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Wait for the pages, unless the user stops everything."""
        if self.thread is not None and kind is not KeyboardInterrupt:
            self.thread.join()

    def _build(self, notebook: Path, started: float) -> None:
        folder, index = self.home / "runs" / "first-pages", self.home / "_build" / "html" / "index.html"
        try:
            ran, all_of_them = lay_out(self.home, folder)
            self.run(folder)
            shutil.rmtree(self.home / "_build", ignore_errors=True)
            index.parent.parent.mkdir()
            os.replace(folder / "_build" / "html", index.parent)
            seconds = time.monotonic() - started
            tqdm.write(
                f"First pages: {index}  ({ran} of {all_of_them} chapters have run, as {notebook.stem} has; built in {seconds:.0f} s, "
                "the others appear when all are done)"
            )
        except Exception as error:  # the pages of the whole book come all the same
            log.warning("the first pages were not built: %s", error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def lay_out(home: Path, folder: Path) -> tuple[int, int]:
    """Copy the book's own files into a folder, link all else, and write a page for each notebook that has not run yet.

    Args:
        home: Folder of the book.
        folder: Where to; what is there is removed.

    Returns:
        Number of notebooks that have run, and of all that `_toc.yml` names.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(home / "book", folder / "book", ignore=lambda _, names: [name for name in names if name.endswith(UNREAD)])
    for path in home.iterdir():
        if path.name not in ("book", "runs", "data", "_build") and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    named = re.findall(r"book/executed/(\w+)", (home / "_toc.yml").read_text(encoding="utf-8"))
    executed = folder / "book" / "executed"
    missing = [name for name in named if not (executed / f"{name}.ipynb").is_file()]
    for name in missing:
        files.write_atomic(executed / f"{name}.md", f"# {title(home / 'notebooks' / f'{name}.ipynb')}\n\n{WAITING}\n")
    # What needs a trained model, where there is none from before.
    page = folder / "book" / "_static" / "search" / "index.html"
    if not page.is_file():
        files.write_atomic(page, f'<!doctype html><html lang="en"><title>Search</title><p>{WAITING}</p></html>\n')
    return len(named) - len(missing), len(named)


def title(notebook: Path) -> str:
    """Return the title of a notebook that has not run: the first line of its first text; its name where it has none."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown").splitlines()[0].lstrip("# ")
    except (OSError, ValueError, KeyError, StopIteration, IndexError):
        return notebook.stem
