"""The page of an index in a cell of a notebook, and its labels in Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from rsvlm.model.encoder import Encoder
from rsvlm.search import serve, site
from rsvlm.search.index_files import Index, open_index


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
        """End the server behind the page; the labels stay."""
        self._running.stop()

    def _repr_html_(self) -> str:
        address = escape(self.address)
        frame = f'<iframe src="{address}" width="100%" height="{self._height}" style="border: 1px solid #8888" title="Search"></iframe>'
        return (
            f'{frame}<p>If the frame stays empty, open <a href="{address}" target="_blank" rel="noopener">{address}</a>.</p>'
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
    not where a hub or a hosted notebook runs Python elsewhere: write the page with `rsvlm search page` there.

    Args:
        index: The index, or its folder.
        model: The model, or its name. If None, the one that the index names.
        examples: Texts that the page offers.
        labels: GeoJSON file that the page begins with, and keeps. If None, labels are kept in memory.
        height: Height of the frame, in pixels.
        device: Device of a model that is opened here.

    Raises:
        DataError: There is no finished index, or it is of another model.
        MissingExtraError: The extra `serve` is not installed.
    """
    from rsvlm.model.others.opening import open_encoder

    index = index if isinstance(index, Index) else open_index(index)
    encoder = model if isinstance(model, Encoder) else open_encoder(model or index.facts["model"], device)
    kept = Path(labels) if labels is not None else None
    return Shown(serve.start(index, encoder, examples=examples, labels=kept, framed=True), height)
