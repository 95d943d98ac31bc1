"""Questions to an index: texts and pictures in, the best chips out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rsvlm.evaluation import embeddings
from rsvlm.localization import heat
from rsvlm.model.encoder import Encoder
from rsvlm.model.mammut import Mammut
from rsvlm.search.index_files import Index, open_index


def best(index: Index, questions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k best chips for each question, exactly: (Q, k) scores (cosines), best first, and (Q, k) numbers of chips.

    Args:
        index: The index.
        questions: (Q, E) float32 of norm 1.
        k: Chips for each question.
    """
    return embeddings.search(np.asarray(questions, np.float32), index.vectors, k)


def query(
    folder: Path | Index,
    texts: Sequence[str],
    model: Mammut | Encoder,
    k: int = 10,
    images: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Find the k best chips for each text and each picture, exactly.

    Args:
        folder: The index, or its folder.
        texts: M texts.
        model: Model that the index was made with.
        k: Chips for each text and picture.
        images: Pictures, (H, W, 3) uint8 each, by the names that stand for them. If None, there are none.

    Returns:
        A row for each: `text` (of a picture its name), `rank` from 1, `score` (cosine), and the columns of the chip table; among these `file`, relative to the
        archive, and `outline`, longitudes and latitudes in turn.

    Raises:
        DataError: No text and no picture, no finished index, or one of another model.
        ModelError: The model reads no texts.
    """
    index = folder if isinstance(folder, Index) else open_index(folder)
    model, images = index.check(model), images or {}
    asked = [heat.text_vectors(model, texts)] if len(texts) or not images else []
    asked += [model.images(list(images.values()))] if images else []
    scores, rows = best(index, np.concatenate(asked), k)
    matches = index.rows(rows.reshape(-1))
    count = rows.shape[1]
    matches.insert(0, "text", np.repeat([*texts, *images], count))
    matches.insert(1, "rank", np.tile(np.arange(1, count + 1), len(rows)))
    matches.insert(2, "score", scores.reshape(-1))
    return matches


def pictures(folder: Path | Index, matches: pd.DataFrame) -> list[np.ndarray | None]:
    """Read the chips of a table that `query` gave from the archive: (S, S, 3) uint8 each, None where it cannot be read now."""
    return (folder if isinstance(folder, Index) else open_index(folder)).pictures(matches)


def features(matches: pd.DataFrame) -> dict:
    """Footprints of the chips of a table that `query` gave, as GeoJSON in longitude and latitude."""
    members = []
    for row in matches.to_dict("records"):
        ring = np.asarray(row["outline"], float).reshape(-1, 2)
        # Counter-clockwise, as GeoJSON has it.
        ring = np.concatenate([ring[:1], ring[::-1]]).round(8).tolist()
        properties = {name: row[name] for name in ("text", "rank", "key", "source", "file") if name in row}
        properties |= {"score": round(float(row["score"]), 4)}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        members.append({"type": "Feature", "properties": properties, "geometry": geometry})
    return {"type": "FeatureCollection", "features": members}
