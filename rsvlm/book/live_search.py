"""The book's page on which a reader types a query: the demo's model and gallery, as files that a browser loads."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rsvlm.book.figures import atlas, galleries
from rsvlm.data import benchmarks
from rsvlm.data.demo import earth
from rsvlm.errors import RsvlmError
from rsvlm.model import embed, images
from rsvlm.records import files, stages
from rsvlm.search import page, page_runtime
from rsvlm.training import train

if TYPE_CHECKING:
    from rsvlm.config import Config

log = logging.getLogger(__name__)
EXAMPLES = (
    "Sea to the west.",
    "Dark green land with many lakes.",
    "Bright, pale sand.",
    "Many islands in a dark blue sea.",
    "Almost all of it is sea.",
)


def load_or_build(config: Config) -> Path:
    """Return the folder that `page.build` filled for the model and the test split of these options, made now unless it was before."""
    data = earth.load_or_build(config)
    model = train.load_or_train(config, data) / "model"
    source = stages.source_hash(*page.ROOMS, "book/live_search")
    parts = {"model": embed.fingerprint(model), "data": benchmarks.fingerprint(data), "source": source}

    def build(folder: Path) -> None:
        page.build(model, data, folder, examples=EXAMPLES, world_map=atlas.blue_marble(1440), device=config.device)

    return stages.stage("search", parts, build)


def prepare(profile: str) -> bool:
    """Lay the search page's files where the builder of the book finds them, if the book has that page.

    They go to `book/_static/search/`, with `manifest.json` (size and SHA-256 of each), and to `book/generated/search.html`: what
    the page shows without a script. Where the runtime cannot be fetched, the page says so, and a warning says what to do.

    Args:
        profile: Profile of the options.

    Returns:
        Whether nothing is missing.
    """
    from rsvlm import config

    home = stages.root()
    if "file: book/search" not in (home / "_toc.yml").read_text(encoding="utf-8"):
        return True
    searchable = load_or_build(config.load(profile))
    try:
        runtime = page_runtime.runtime()
    except RsvlmError as error:
        log.warning("%s\nThe search page is built without its search; `make book` with a network adds it.", error)
        runtime = None
    page.place(searchable, runtime, home / "book" / "_static" / "search")
    files.write_atomic(home / "book" / "generated" / "search.html", examples_html(searchable))
    return runtime is not None


def examples_html(searchable: Path, shown: int = 4) -> str:
    """Write the answers to the example queries as HTML: what the page has to show where no script runs.

    Args:
        searchable: Folder that `page.build` filled.
        shown: Number of answers to each query.
    """
    facts, chips = (json.loads((searchable / name).read_text(encoding="utf-8")) for name in ("gallery.json", "chips.json"))
    pictures = (searchable / "pictures.bin").read_bytes()
    starts = [0, *(chip["end"] for chip in chips)]

    def answer(row: int) -> dict:
        picture = images.decode(pictures[starts[row] : chips[row]["end"]])
        return {"image": picture, "alt": chips[row]["captions"][0], "right": False, "ground": chips[row]}

    _, best = page.search(searchable, facts["examples"], shown)
    return galleries.text_to_image(
        [{"query": text, "images": [answer(int(row)) for row in rows]} for text, rows in zip(facts["examples"], best)]
    )
