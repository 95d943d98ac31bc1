"""Pictures of one size with their captions: in memory, or decoded once into files that are mapped into it.

    runs/pictures-KEY/images.npy         (N, S, S, 3) uint8
                      captions.jsonl     a list of captions a line
                      ends.npy           (N + 1,) int64, where each line begins, and the last one ends

What is mapped is read page by page when it is asked for, so memory does not grow with the number of pictures.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsvlm.data import benchmarks
from rsvlm.errors import DataError
from rsvlm.model import images as imaging
from rsvlm.records import stages

ROOMS = ("localization/pictures", "data/*", "model/images")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""


@dataclass(frozen=True)
class Pictures:
    """N pictures (N, S, S, 3) uint8, in memory or mapped from a file, and the captions of each; no mask."""

    images: np.ndarray
    captions: Sequence[Sequence[str]]


def read(folder: Path, split: str, side: int, *, most: int | None = None, seed: int = 0) -> Pictures:
    """Read the pictures of a split, resized to (side, side), with all captions; a seeded sample if there are more than `most`.

    Raises:
        DataError: There is nothing to read.
    """
    pairs = list(_decoded(folder, split, side, _sample(folder, split, most, seed)))
    return Pictures(np.stack([image for image, _ in pairs]), [captions for _, captions in pairs])


def load_or_read(folder: Path, split: str, side: int, *, most: int | None = None, seed: int = 0) -> Pictures:
    """Return what `read` does, from files that are made once and mapped: N pictures take no more memory than a batch of them.

    Raises:
        DataError: There is nothing to read.
    """
    parts = {"data": benchmarks.fingerprint(folder), "split": split, "side": side, "most": most, "seed": seed}
    parts["source"] = stages.source_hash(*ROOMS)

    def compute(stage: Path) -> None:
        taken = _sample(folder, split, most, seed)
        images = np.lib.format.open_memmap(stage / "images.npy", "w+", np.uint8, (int(taken.sum()), side, side, 3))
        ends = np.zeros(len(images) + 1, np.int64)
        with open(stage / "captions.jsonl", "wb") as file:
            for i, (image, captions) in enumerate(_decoded(folder, split, side, taken)):
                images[i] = image
                file.write(json.dumps(list(captions)).encode() + b"\n")
                ends[i + 1] = file.tell()
        images.flush()
        np.save(stage / "ends.npy", ends)

    stage = stages.stage("pictures", parts, compute)
    lines = np.memmap(stage / "captions.jsonl", np.uint8, "r")
    return Pictures(np.load(stage / "images.npy", mmap_mode="r"), _Captions(lines, np.load(stage / "ends.npy")))


def readings(texts: Sequence[str]) -> list[str]:
    """Whole captions and single sentences, each kind repeated as often as the other is long, so that they are drawn alike.

    The longest caption, which says everything at once, is read by its sentences alone, unless it is the only one.
    """
    whole = sorted(texts, key=len)[:-1] or list(texts)
    single = [f"{part.strip(' .')}." for text in texts for part in text.split(". ") if part.strip(" .")]
    return [*whole * len(single), *single * len(whole)]


class Readings(Sequence):
    """The `readings` of each picture's captions, made when they are asked for."""

    def __init__(self, captions: Sequence[Sequence[str]]):
        self.captions = captions

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> list[str]:
        return readings(self.captions[index])


class _Captions(Sequence):
    """Lists of captions, each a line of JSON in a mapped file; line i lies between `ends` i and i + 1."""

    def __init__(self, lines: np.ndarray, ends: np.ndarray):
        self.lines, self.ends = lines, ends

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> list[str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return json.loads(self.lines[self.ends[index] : self.ends[index + 1]].tobytes())


def _sample(folder: Path, split: str, most: int | None, seed: int) -> np.ndarray:
    """Say of each picture of a split, in stored order, whether it is taken: (N,) bool."""
    taken = np.zeros(sum(1 for _ in benchmarks.samples(folder, split)), bool)
    taken[np.random.default_rng([seed, 1]).permutation(len(taken))[:most]] = True
    if not taken.any():
        raise DataError(f"{folder} has no picture in its split '{split}'")
    return taken


def _decoded(folder: Path, split: str, side: int, taken: np.ndarray) -> Iterator[tuple[np.ndarray, list[str]]]:
    for sample in itertools.compress(benchmarks.samples(folder, split), taken):
        image = imaging.decode(sample.image)
        yield image if image.shape[:2] == (side, side) else imaging.resize(image, side, side), sample.captions
