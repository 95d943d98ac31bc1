"""Pictures with captions, as shards: what an experiment or a demo makes itself, so that training and evaluation read it as any other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rsvlm.data import shards
from rsvlm.records import stages
from rsvlm.records.text import batched

PER_SHARD = 1000
"""Samples in a shard."""


def write(out: Path, name: str, splits: Mapping[str, Iterable[tuple[dict, bytes]]]) -> dict:
    """Write pairs as shards.

    Args:
        out: An empty folder, made when missing.
        name: Name of the data set, for its manifest.
        splits: Name of each split → its samples: a record with `key` and `captions`, and an encoded picture (PNG, JPEG or WebP).

    Returns:
        The manifest, see `shards.write`.
    """

    def tasks() -> Iterator[shards.Task]:
        for split, samples in splits.items():
            for number, part in enumerate(batched(samples, PER_SHARD)):
                yield shards.Task(f"{split}/{number:06d}.tar", part)

    plan = stages.key(name=name, splits=list(splits))
    return shards.write(out, plan, tasks(), _make, workers=1, progress=False, header={"name": name})


def _make(task: shards.Task) -> shards.Made:
    return shards.Made([(record, picture, _extension(picture)) for record, picture in task.items])


def _extension(picture: bytes) -> str:
    if picture[:2] == b"\xff\xd8":
        return "jpg"
    return "webp" if picture[8:12] == b"WEBP" else "png"
