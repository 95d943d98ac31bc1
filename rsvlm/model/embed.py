"""Model + images and texts → vectors of norm 1, in memory: the one face of every encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from rsvlm.errors import DataError, ModelError
from rsvlm.model import tokenizer as tokenizers
from rsvlm.model.images import normalise
from rsvlm.model.mammut import Mammut
from rsvlm.model.preprocessing import squared
from rsvlm.records import files
from rsvlm.records.text import batched


class Encoder(Protocol):
    """What an evaluation asks of a model, whoever made it; `others.opening.open_encoder` gives one.

    Attributes:
        name: Name in tables.
        fingerprint: Hexadecimal digits that name its weights and its preprocessing.
        width: E.
        logit_scale: Factor of the cosines in its own loss, for calibration. None if it is not known.
    """

    name: str
    fingerprint: str
    width: int
    logit_scale: float | None

    def images(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Embed B decoded images, each (H, W, 3) uint8 of any size, as (B, E) float32 of norm 1."""

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Embed M texts, none blank, as (M, E) float32 of norm 1."""


class MammutEncoder:
    """A model of this package as an `Encoder`."""

    def __init__(self, model: Mammut, folder: Path | None = None):
        self.model, self.folder = model, folder
        self.name = "/".join(folder.resolve().parts[-2:]) if folder else "mammut"  # most folders are named model
        self.width = model.config.text_width
        self.logit_scale = model.logit_scale.item()

    @cached_property
    def fingerprint(self) -> str:
        """Of the folder it came from; of a model that came from none, of its options and weights."""
        if self.folder is not None:
            return fingerprint(self.folder)
        digest = hashlib.sha256(self.model.config.to_json_string().encode())
        for name, value in self.model.state_dict().items():
            digest.update(name.encode() + value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def images(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Embed as `Encoder` says."""
        return images(self.model, arrays)

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Embed as `Encoder` says."""
        return texts(self.model, captions)


def fingerprint(folder: Path) -> str:
    """Name the content of a model folder by 64 hexadecimal digits: of its weights, options and vocabulary.

    Raises:
        ModelError: There is no file of weights in the folder.
    """
    weights, texts = (".safetensors", ".bin"), (".json", ".txt", ".model")
    paths = sorted(path for path in folder.glob("*") if path.suffix in (*weights, *texts) and path.is_file())
    if not any(path.suffix in weights for path in paths):
        raise ModelError(f"{folder} holds no weights (*.safetensors): give the folder that `rsvlm train` wrote as model/")
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{files.file_sha256(path)}\n".encode())
    return digest.hexdigest()


def unit(vectors: np.ndarray, what: str) -> np.ndarray:
    """Check vectors and scale them to norm 1.

    Args:
        vectors: (N, E), of any floating type.
        what: Name of the vectors, for the message.

    Returns:
        (N, E) float32.

    Raises:
        DataError: Another shape or type; or a vector is zero, NaN or infinite, and so is no direction.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or not vectors.shape[1] or vectors.dtype.kind != "f":
        raise DataError(f"{what}: {vectors.dtype} of shape {vectors.shape}; expected floating-point numbers of shape (N, E)")
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ne,ne->n", vectors, vectors, dtype=np.float64)).astype(np.float32)
    if (bad := np.flatnonzero(~np.isfinite(norms) | (norms == 0))).size:
        kind = "is zero" if norms[bad[0]] == 0 else "is NaN or infinite"
        raise DataError(f"{what}: row {bad[0]} {kind} ({bad.size} of {len(vectors)} rows are broken): embed them again")
    return vectors.astype(np.float32) / norms[:, None]


def images(model: Mammut, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Embed B decoded images, each (H, W, 3) uint8 of any size, as (B, E) float32 of norm 1.

    Raises:
        DataError: An array of another shape or type, or a single one that is not in a list.
    """
    if isinstance(arrays, np.ndarray) and arrays.ndim < 4:
        raise DataError(f"one array of shape {arrays.shape} is given: expected a list of images, [array]")
    if wrong := [i for i, a in enumerate(arrays) if np.ndim(a) != 3 or np.shape(a)[2] != 3 or np.asarray(a).dtype != np.uint8]:
        shape = f"{np.asarray(arrays[wrong[0]]).dtype} of shape {np.shape(arrays[wrong[0]])}"
        raise DataError(f"image {wrong[0]} is {shape}: expected uint8 of shape (H, W, 3), as from images.decode")
    if not len(arrays):
        return np.empty((0, model.config.text_width), np.float32)
    with torch.inference_mode():
        return model.encode_image(to_batch(model, arrays)).float().cpu().numpy()


def texts(model: Mammut, captions: Sequence[str], batch_size: int = 256) -> np.ndarray:
    """Embed M texts as (M, E) float32 of norm 1. Texts of similar length go together, so that little is padded.

    Raises:
        DataError: A single text that is not in a list.
    """
    if isinstance(captions, str):
        raise DataError(f"one text is given, {captions[:60]!r}: expected a list of texts, [text]")
    order = np.argsort([len(caption) for caption in captions], kind="stable").tolist()
    embeddings = np.empty((len(captions), model.config.text_width), np.float32)
    with torch.inference_mode():
        for chosen in batched(order, batch_size):
            tokens = tokenizers.encode(model.tokenizer, [captions[i] for i in chosen])
            embeddings[chosen] = model.encode_text(torch.from_numpy(tokens).to(model.device)).float().cpu().numpy()
    return embeddings


def to_batch(model: Mammut, arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Bring B decoded images to this model's square, its own way, and normalise them: (B, 3, S, S) float32 on its device."""
    config = model.config
    square = [squared(a, config.image_size, config.image_resize, config.image_interpolation) for a in arrays]
    batch = normalise(np.stack(square), config.image_mean, config.image_std)
    return torch.from_numpy(batch).to(model.device)


def encoder_of(model: Mammut | Encoder) -> Encoder:
    """Return the model behind the one face."""
    return MammutEncoder(model) if isinstance(model, Mammut) else model


def unit_texts(encoder: Encoder, captions: list[str]) -> np.ndarray:
    """Embed M captions: (M, E) float32 of norm 1. Raises as `unit`."""
    return unit(encoder.texts(captions), f"texts from {captions[0]!r} on, embedded by {encoder.name}")
