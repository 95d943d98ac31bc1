"""Questions to an index: texts, pictures, chips and places in, the best chips out.

A question is a vector of norm 1, and the score of a chip its cosine with it. One text is its own vector. A question of several parts is
the sum of their vectors, each divided by the standard deviation of its cosines over the index, so that a text, whose cosines with pictures
hardly differ, says as much as a picture; times its weight; less those of what is not wanted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from rsvlm.errors import DataError
from rsvlm.localization import heat
from rsvlm.model import embed, images as images_of
from rsvlm.model.encoder import Encoder
from rsvlm.model.mammut import Mammut
from rsvlm.search import nearest
from rsvlm.search.index_files import Index, open_index

NOTHING = "say what to look for: --text, or --image, --like or --at, what is like it"
UNWANTED = 0.5
"""Weight of what is not wanted, where none is given."""

_SAMPLE = 4096  # chips whose cosines say how far those of a part lie apart


@dataclass(frozen=True)
class Part:
    """Something that is looked for: its name, its vector (E,) float32 of norm 1, and how much it counts; less than 0: not wanted."""

    name: str
    vector: np.ndarray
    weight: float = 1.0


@dataclass(frozen=True)
class Question:
    """What is asked at once: its name, and its vector (E,) float32 of norm 1."""

    name: str
    vector: np.ndarray


@dataclass(frozen=True)
class Request:
    """What somebody writes that they look for: texts, files of pictures, keys of chips, and places as `LON,LAT`; each may end in `^WEIGHT`."""

    texts: Sequence[str] = ()
    images: Sequence[str] = ()
    keys: Sequence[str] = ()
    places: Sequence[str] = ()

    def check(self, rejected: Request, together: bool) -> None:
        """Refuse what makes no question, before a model is opened for it.

        Raises:
            DataError: Nothing is looked for; a weight has no effect or is no number above 0; a file is no picture; a place is none.
        """
        wanted = self._all()
        if not wanted:
            raise DataError(NOTHING)
        if not together and len(wanted) > 1 and (heavy := [name for name in wanted if weighted(name)[0] != name]):
            raise DataError(
                f"'{heavy[0]}': a weight says how much it counts beside the others: ask --together, or leave it out"
            )
        for name in [*wanted, *rejected._all()]:
            weighted(name)
        for request in (self, rejected):
            request._pictures()
        for place in self.places:
            _place(weighted(place)[0])

    def questions(self, rejected: Request, index: Index, model: Mammut | Encoder, together: bool) -> list[Question]:
        """Return one question for each, or one of all; what is not wanted counts in every one."""
        wanted, against = self.parts(index, model), rejected.parts(index, model, -1.0)
        groups = [wanted] if together else [[part] for part in wanted]
        return [join(index, [*group, *against]) for group in groups]

    def parts(self, index: Index, model: Mammut | Encoder, sign: float = 1.0) -> list[Part]:
        """Return the parts; with a sign less than 0 they are not wanted, and count half where no weight is written."""
        usual = 1.0 if sign > 0 else UNWANTED
        split = [[weighted(name, usual) for name in names] for names in (self.texts, self.images, self.keys, self.places)]
        texts, _, keys, places = ([name for name, _ in some] for some in split)
        found = parts(index, model, texts, self._pictures(), keys, [_place(place) for place in places])
        weights = [weight for some in split for _, weight in some]
        return [replace(part, weight=sign * weight) for part, weight in zip(found, weights, strict=True)]

    def _all(self) -> list[str]:
        return [*self.texts, *self.images, *self.keys, *self.places]

    def _pictures(self) -> list[tuple[str, np.ndarray]]:
        result = []
        for name in self.images:
            path = Path(name if Path(name).is_file() else weighted(name)[0])
            try:
                result.append((str(path), images_of.decode(path.read_bytes())))
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error.strerror or error}): give the file of a picture") from None
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
        return result


def weighted(text: str, usual: float = 1.0) -> tuple[str, float]:
    """Split `NAME^WEIGHT` into both; without a weight it is the usual one.

    Raises:
        DataError: The weight is 0 or infinite.
    """
    match = re.fullmatch(r"(?s)(.*\S)\s*\^\s*(\d+(?:\.\d*)?|\.\d+)", text)
    weight = float(match[2]) if match else usual
    if not 0 < weight < 1e6:
        raise DataError(f"'{text}': a weight is a number above 0, as in '{match[1]}^0.5'")
    return (match[1] if match else text), weight


def parts(
    index: Index,
    model: Mammut | Encoder,
    texts: Sequence[str] = (),
    images: Sequence[tuple[str, np.ndarray]] = (),
    keys: Sequence[str] = (),
    places: Sequence[tuple[float, float]] = (),
) -> list[Part]:
    """Turn what is looked for into parts of questions, of weight 1, in the order of the arguments.

    Args:
        index: The index that is asked.
        model: Model that it was made with.
        texts: Sentences.
        images: Pictures, (H, W, 3) uint8 each, behind the names that stand for them.
        keys: Keys of chips of the index.
        places: Longitudes and latitudes of places on chips of the index.

    Raises:
        DataError: The index is one of another model; a text is blank; it has no such chip; no chip lies there.
        ModelError: The model reads no texts.
    """
    model = index.check(model)
    found: list[Part] = []
    if texts:
        found += map(Part, texts, heat.text_vectors(model, list(texts)))
    if images:
        vectors = embed.unit(model.images([picture for _, picture in images]), "the pictures that are looked for")
        found += [Part(name, vector) for (name, _), vector in zip(images, vectors)]
    rows = [(f"like {key}", index.find(key)) for key in keys]
    rows += [(f"like {lon:g}, {lat:g}", index.at(lon, lat)) for lon, lat in places]
    for name, row in rows:
        vector = index.vectors[row].astype(np.float32)
        found.append(Part(name, vector / np.linalg.norm(vector)))
    return found


def join(index: Index, some: Sequence[Part], name: str = "") -> Question:
    """Make one question of several parts.

    Raises:
        DataError: No part is wanted, or the parts cancel each other out.
    """
    wanted = [part for part in some if part.weight > 0]
    if not wanted:
        raise DataError(NOTHING)
    name = name or _name(some)
    if len(some) == 1:
        return Question(name, some[0].vector)
    vectors = np.stack([part.vector for part in some])
    sample = np.unique(np.linspace(0, len(index) - 1, min(_SAMPLE, len(index))).astype(np.int64))
    apart = (index.vectors[sample].astype(np.float32) @ vectors.T).std(axis=0)
    apart = np.where(apart > 1e-6, apart, 1.0)
    weights = np.array([part.weight for part in some], np.float32)
    total = (weights / apart) @ vectors
    if np.linalg.norm(total) < 1e-6 * np.abs(weights / apart).sum():
        raise DataError(f"what is looked for and what is not wanted are the same: {name}")
    return Question(name, (total / np.linalg.norm(total)).astype(np.float32))


def ask(index: Index, questions: Sequence[Question], k: int = 10) -> pd.DataFrame:
    """Find the k best chips for each question, exactly, in one pass over the vectors on disk.

    Returns:
        A row for each: `text` (name of the question), `rank` from 1, `score` (cosine of the chip and the question), `model` (its name), the
        columns of the chip table, `model_hash` (what names its weights), and `licence` and `attribution` of the imagery; what its file says of itself is text of strangers.
    """
    scores, rows = best(index, np.stack([question.vector for question in questions]), k)
    matches = index.rows(rows.reshape(-1))
    count = rows.shape[1]
    matches.insert(0, "text", np.repeat([question.name for question in questions], count).astype(object))
    matches.insert(1, "rank", np.tile(np.arange(1, count + 1), len(rows)))
    matches.insert(2, "score", scores.reshape(-1))
    matches.insert(3, "model", index.model_name)
    matches["model_hash"] = index.facts["fingerprint"]
    said = {source["name"]: source for source in index.facts["sources"]}
    for column in ("licence", "attribution"):
        matches[column] = [said.get(name, {}).get(column, "") for name in matches["source"]]
    return matches


def best(index: Index, questions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k best chips for each question, exactly: (Q, k) scores (cosines), best first, and (Q, k) numbers of chips.

    Args:
        index: The index.
        questions: (Q, E) float32 of norm 1.
        k: Chips for each question; all, where there are fewer.
    """
    return nearest.nearest(index.folder / "vectors.npy", questions, k)


def query(
    folder: Path | Index,
    texts: Sequence[str],
    model: Mammut | Encoder,
    k: int = 10,
    images: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Find the k best chips for each text and each picture, as `ask`, each asked by itself.

    Args:
        folder: The index, or its folder.
        texts: M texts.
        model: Model that the index was made with.
        k: Chips for each text and picture.
        images: Pictures, (H, W, 3) uint8 each, by the names that stand for them. If None, there are none.

    Raises:
        DataError: No text and no picture, no finished index, or one of another model.
        ModelError: The model reads no texts.
    """
    index = folder if isinstance(folder, Index) else open_index(folder)
    asked = parts(index, model, texts, list((images or {}).items()))
    if not asked:
        raise DataError(NOTHING)
    return ask(index, [join(index, [part]) for part in asked], k)


def pictures(folder: Path | Index, matches: pd.DataFrame) -> list[np.ndarray | None]:
    """Read the chips of a table that `query` gave from the archive: (S, S, 3) uint8 each, None where it cannot be read now."""
    return (folder if isinstance(folder, Index) else open_index(folder)).pictures(matches)


def _name(some: Sequence[Part]) -> str:
    """Name a question by its parts, as `a harbour, not ships^0.5`."""
    names = []
    for part in some:
        weight = "" if abs(part.weight) == 1 else f"^{abs(part.weight):g}"
        names.append(f"{'not ' if part.weight < 0 else ''}{part.name}{weight}")
    return ", ".join(names)


def _place(text: str) -> tuple[float, float]:
    """Read `LON,LAT`."""
    try:
        lon, lat = map(float, text.split(","))
    except ValueError:
        lon = lat = np.nan
    if not (abs(lon) <= 360 and abs(lat) <= 90):
        raise DataError(f"'{text}' is no place: give longitude and latitude in degrees, as in --at=-54.59,-25.41")
    return lon, lat
