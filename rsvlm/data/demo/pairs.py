"""Pairs that the package brings along: the demo web's, its general pictures told anew, and sentences for Blue Marble chips."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rsvlm.data import pairs
from rsvlm.data.demo import web
from rsvlm.data.web import build, overhead
from rsvlm.model import images
from rsvlm.records import files, stages

if TYPE_CHECKING:
    from rsvlm.config import Config

ROOMS = ("data/demo/pairs", "data/demo/web*", "data/web", "data/*", "model/images", "model/others/efficientnet_lite")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

CATEGORIES = {
    "lake": {
        "marks": frozenset({"lake"}),
        "words": ("lake",),
        "sentence": "There are several lakes in the centre.",
        "frame": "There are several in the centre.",
        "description": "Green land throughout, with dark blue patches and almost black in the centre.",
    },
    "island": {
        "marks": frozenset({"island"}),
        "words": ("island",),
        "sentence": "There are several islands in the centre.",
        "frame": "There are several in the centre.",
        "description": "Sea on several sides covers nearly all of the picture. The coast crosses the centre.",
    },
    "sea": {
        "marks": frozenset({"sea"}),
        "words": ("sea",),
        "sentence": "Sea to the west covers about half of the picture.",
        "frame": "The west covers about half of the picture.",
        "description": "Dark blue and blue throughout, very smooth.",
    },
    "tan land": {
        "marks": frozenset({"tan", "pale sand"}),
        "words": ("tan", "sand"),
        "sentence": "The land is tan and pale sand throughout.",
    },
    "green land": {
        "marks": frozenset({"green", "dark green"}),
        "words": ("green",),
        "sentence": "The land is green and dark green throughout.",
    },
}
"""What Blue Marble chips show and their captions name: name → attributes of an `unseen.Category`, in words of these captions."""

_COLOURS = {
    "black": (15, 15, 18),
    "dark grey": (70, 70, 72),
    "grey": (130, 130, 130),
    "white": (245, 245, 245),
    "red": (190, 40, 40),
    "orange": (235, 140, 40),
    "yellow": (235, 220, 70),
    "brown": (115, 80, 50),
    "tan": (200, 170, 130),
    "green": (70, 130, 60),
    "dark green": (35, 60, 30),
    "light blue": (150, 190, 225),
    "blue": (50, 90, 180),
    "navy": (20, 30, 80),
    "purple": (120, 60, 150),
    "pink": (225, 140, 170),
}


def demo_web(options: Config, pictures: int, recompute: bool = False) -> Path:
    """Return the folder of the demo web and of the pairs built from it (`demo`, `pairs`), made now unless they were before.

    Args:
        options: Options, of which `web`, `fetch` (with `allow_loopback`) and `seed` count.
        pictures: Number of pictures on all hosts together.
        recompute: Whether to make it again.
    """

    def make(folder: Path) -> None:
        web.make(folder / "demo", options.seed, pictures)
        with web.serve(folder / "demo") as addresses:
            web.capture(addresses, folder / "crawl.warc.gz")
            head = overhead.shipped(options.web.overhead_precision, options.web.overhead_share)
            build.build([folder / "crawl.warc.gz"], options, folder / "pairs", head=head, workers=1, progress=False)
        files.write_atomic(folder / "addresses.json", json.dumps(addresses))

    parts = {"options": options.web, "fetch": options.fetch, "seed": options.seed, "pictures": pictures, "code": build.code()}
    parts["demo"] = stages.source_hash(*ROOMS)
    return stages.stage("web", parts, make, recompute)


def general_pairs(demo: Path, recompute: bool = False) -> Path:
    """Return shards of the demo web's pictures that are not from above: the hosts for training, and the others as the split `test`.

    The demo draws its alt-texts at random, and those of a web at large say something of their pictures. So these are told anew, from
    what is known: the kind of the picture, and the measured colours of its upper and lower half.

    Args:
        demo: Folder written by `web.make`.
        recompute: Whether to write them again.
    """
    labels = pd.read_parquet(demo / "labels.parquet")
    labels = labels[~labels["overhead"] & labels["trap"].isin(["", "copy"])]

    def samples(rows: pd.DataFrame) -> Iterator[tuple[dict, bytes]]:
        for number, row in enumerate(rows.itertuples()):
            data = (demo / "sites" / row.host / row.path).read_bytes()
            yield {"key": f"{row.host}-{number:05d}", "captions": _captions(row.style, images.decode(data))}, data

    def compute(folder: Path) -> None:
        held = labels["held_back"]
        pairs.write(folder, "general-demo", {"train": samples(labels[~held]), "test": samples(labels[held])})

    parts = {"labels": stages.key(rows=labels.astype(str).to_dict("records")), "source": stages.source_hash(*ROOMS)}
    return stages.stage("general", parts, compute, recompute)


def _captions(style: str, array: np.ndarray) -> list[str]:
    """Three captions of a picture, (H, W, 3) uint8: its kind, and the nearest of `_COLOURS` to the mean of its halves."""
    middle = max(1, len(array) // 2)
    means = np.stack([part.reshape(-1, 3).mean(axis=0) for part in (array[:middle], array[-middle:])])
    names, values = list(_COLOURS), np.array(list(_COLOURS.values()))
    above, below = (names[i] for i in ((means[:, None] - values) ** 2).sum(-1).argmin(1))
    kind = {"text": "screen of text", "icon": "drawn icon"}.get(style, style)
    colours = f"{above} throughout" if above == below else f"{above} in the north and {below} in the south"
    return [f"A {kind}, {colours}.", f"A picture of a {kind}.", f"{colours[0].upper()}{colours[1:]}: a {kind}."]
