"""The page of an index in a cell of a notebook, and its labels in Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from rsvlm.model.encoder import Encoder
from rsvlm.search import serve, site
from rsvlm.search.index_files import Index, open_index

_PAGES: dict[tuple, serve.Running] = {}  # that run now, by what they show: a cell that is run again goes on with its labels


class Shown:
    """What `show` returns; as the last value of a cell, it is the page."""

    def __init__(self, running: serve.Running, height: int) -> None:
        self._running, self._height = running, height

    @property
    def address(self) -> str:
        """Address of the page, for a browser on this machine."""
        return self._running.address

    def labels(self) -> dict:
        """Return the labels that the page has now, as a FeatureCollection of GeoJSON: `label` (yes or no), `key` and `file` of each chip."""
        return json.loads(self._running.kept.content)

    def stop(self) -> None:
        """End the server behind the page; `labels` still gives them, and the next `show` begins without."""
        self._running.stop()

    def _repr_html_(self) -> str:
        # The sentence comes first: where the frame is dead or was taken away, it is what a reader sees.
        address = escape(self.address)
        return (
            "<p>A page that searches, shown while this Python runs. If it is missing or grey, run this cell again. If that does not help, "
            f'open <a href="{address}" target="_blank" rel="noopener">{address}</a> in a browser of the machine on which Python runs.</p>'
            f'<iframe src="{address}" width="100%" height="{self._height}" style="border: 1px solid #8888" title="Search"></iframe>'
        )

    def __repr__(self) -> str:
        return f"page of an index at {self.address}"


def show(
    index: Index | Path | str,
    model: Encoder | Path | str | None = None,
    *,
    examples: Sequence[str] = site.EXAMPLES,
    labels: Path | str | None = None,
    height: int = 900,
    device: str = "auto",
) -> Shown:
    """Put the page of an index into a cell of a notebook; `.labels()` of what is returned are its labels.

    The page comes from a server on the loopback address of the machine on which Python runs. So it is seen in JupyterLab, Jupyter
    Notebook and VS Code where the browser runs on that machine too, and in VS Code over a connection where it forwards the port;
    not where a hub or a hosted notebook runs Python elsewhere: write the page with `rsvlm search page` there. A notebook that is opened
    again, or exported, holds the address alone: run the cell again.

    Run again in the same Python, it goes on with the same page and its labels, unless that was stopped.

    Args:
        index: The index, or its folder.
        model: The model, or its name. If None, the one that the index names.
        examples: Texts that the page offers.
        labels: GeoJSON file that the page begins with, and keeps. If None, labels are kept as long as Python runs.
        height: Height of the frame, in pixels.
        device: Device of a model that is opened here.

    Raises:
        DataError: There is no finished index, or it is of another model.
        MissingExtraError: The extra `serve` is not installed.
    """
    from rsvlm.model.others.opening import open_encoder

    index = index if isinstance(index, Index) else open_index(index)
    encoder = model if isinstance(model, Encoder) else open_encoder(model or index.facts["model"], device)
    kept = Path(labels).resolve() if labels is not None else None
    what = index.folder.resolve(), index.facts["build"], index.check(encoder).fingerprint, tuple(examples), kept
    running = _PAGES.get(what)
    if running is None or not running.thread.is_alive():
        running = _PAGES[what] = serve.start(index, encoder, examples=examples, labels=kept, framed=True)
    else:
        running.kept.read()
    return Shown(running, height)
