"""Vectors that others computed, in a file: scored as those of any model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsvlm.errors import DataError
from rsvlm.evaluation import embeddings, retrieval
from rsvlm.model import embed
from rsvlm.model.others.towers import short

ARRAYS = ("image_embeddings", "caption_embeddings", "image_of_caption", "captions", "keys")
"""What a file of embeddings holds; the last two perhaps."""

OF_CLASSES = ("image_embeddings", "labels", "class_names", "class_embeddings", "prompts", "splits", "keys")
"""What a file of images with classes holds; the last four perhaps."""


def read_embeddings(path: str | Path) -> embeddings.Embeddings:
    """Read vectors that any other system computed, from an `.npz` file; a leading `embeddings:` is dropped.

    The file holds `image_embeddings` (N, E) and `caption_embeddings` (M, E), floating-point, of any norm but 0, and
    `image_of_caption` (M,) integers from 0 to N - 1; perhaps `captions` (M,) and `keys` (N,), texts, and `wording`, see there. Vectors
    are scaled to norm 1.

    Raises:
        DataError: The file is missing, broken or pickled, or its arrays do not fit together; the message names the array.
    """
    path = Path(str(path).removeprefix("embeddings:"))
    arrays, names = _arrays(path), ARRAYS[:3]
    if missing := [name for name in names if name not in arrays]:
        present = ", ".join(arrays) or "nothing"
        raise DataError(f"{path} has no {', '.join(missing)}: it has {present}; expected {', '.join(names)}")
    images, captions = (embed.unit(arrays[name], f"{path}, {name}") for name in names[:2])
    try:
        owners = retrieval.checked_owners(images, captions, arrays["image_of_caption"])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    keys = _strings(path, "keys", arrays.get("keys"), len(images)) or [str(i) for i in range(len(images))]
    if len(set(keys)) < len(keys):
        (twice, times), *_ = Counter(keys).most_common(1)
        raise DataError(f"{path}: the key {twice!r} is there {times} times: every image needs a name of its own")
    return embeddings.Embeddings(
        keys=keys,
        captions=_strings(path, "captions", arrays.get("captions"), len(captions)),
        image_of_caption=owners,
        image_embeddings=images,
        caption_embeddings=captions,
    )


def wording(path: str | Path) -> str | None:
    """Return what a file of embeddings says of its captions' words: the text `wording`, the name of a protocol; None if nothing.

    Raises:
        DataError: The file is missing, broken or pickled, or `wording` is not a single text.
    """
    path = Path(str(path).removeprefix("embeddings:"))
    text = _arrays(path, ("wording",)).get("wording")
    if text is None:
        return None
    if text.dtype.kind != "U" or text.size != 1:
        raise DataError(f"{path}: wording is {text.dtype} of shape {text.shape}: expected one text, the name of a protocol")
    return str(text.item())


@dataclass(frozen=True)
class Classes:
    """N images with a class each, as a file tells them: see `read_classes`."""

    keys: list[str]
    labels: np.ndarray
    image_embeddings: np.ndarray
    class_names: list[str]
    class_embeddings: np.ndarray | None
    prompts: str
    splits: list[str]


def read_classes(path: str | Path) -> Classes:
    """Read vectors of images with classes, which any other system computed, from an `.npz` file; a leading `embeddings:` is dropped.

    The file holds `image_embeddings` (N, E), `labels` (N,) integers from 0 to C - 1, and `class_names` (C,) texts; perhaps
    `class_embeddings` (C, E), vectors of texts about the classes, and `prompts`, one text that names the sentences; `splits` (N,) texts
    such as train and test; and `keys` (N,) texts. Vectors are scaled to norm 1.

    Raises:
        DataError: The file is missing, broken or pickled, or its arrays do not fit together; the message names the array.
    """
    path = Path(str(path).removeprefix("embeddings:"))
    arrays = _arrays(path, OF_CLASSES)
    if missing := [name for name in OF_CLASSES[:3] if name not in arrays]:
        raise DataError(f"{path} has no {', '.join(missing)}: a file of classes holds {', '.join(OF_CLASSES[:3])}")
    images, labels = embed.unit(arrays["image_embeddings"], f"{path}, image_embeddings"), arrays["labels"]
    names = _strings(path, "class_names", arrays["class_names"], len(arrays["class_names"]))
    C = len(names)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or not ((labels >= 0) & (labels < C)).all():
        raise DataError(f"{path}: labels are {labels.dtype} {labels.shape}: expected {len(images)} numbers from 0 to {C - 1}")
    texts = arrays.get("class_embeddings")
    if texts is not None and texts.shape != (C, images.shape[1]):
        raise DataError(f"{path}: class_embeddings are {texts.shape}: expected {(C, images.shape[1])}")
    prompts = arrays.get("prompts")
    return Classes(
        keys=_strings(path, "keys", arrays.get("keys"), len(images)) or [str(i) for i in range(len(images))],
        labels=labels.astype(np.int64),
        image_embeddings=images,
        class_names=names,
        class_embeddings=None if texts is None else embed.unit(texts, f"{path}, class_embeddings"),
        prompts="prompts not stated" if prompts is None or prompts.dtype.kind != "U" else str(prompts.reshape(-1)[0]),
        splits=_strings(path, "splits", arrays.get("splits"), len(images)),
    )


def _arrays(path: Path, names: Sequence[str] = ARRAYS) -> dict[str, np.ndarray]:
    """Read arrays of an npz file, as far as it has them; none may be pickled."""
    if not path.is_file():
        raise DataError(f"there is no file {path}: expected an .npz with {', '.join(names[:3])}")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names if name in file.files}
    except Exception as error:  # of zip, zlib, numpy's headers, memory: whatever a file can be wrong in
        raise DataError(f"{path} cannot be read as .npz without pickles: {short(error)}; write it with numpy.savez") from error


def _strings(path: Path, name: str, array: np.ndarray | None, count: int) -> list[str]:
    if array is None:
        return []
    if array.dtype.kind != "U" or array.shape != (count,):
        raise DataError(f"{path}: {name} is {array.dtype} of shape {array.shape}: expected {count} texts")
    return array.tolist()
