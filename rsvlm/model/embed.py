"""Model + images and texts → vectors of norm 1, in memory; and our own model behind the one face of `encoder`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsvlm.errors import DataError, ModelError
from rsvlm.model import tokenizer as tokenizers
from rsvlm.model.encoder import Encoder, Patches, in_heads, joined, mean_pooling, split_pooling
from rsvlm.model.images import normalise
from rsvlm.model.mammut import Mammut
from rsvlm.model.preprocessing import squared
from rsvlm.records import files


class MammutEncoder(Encoder):
    """A model of this package behind the one face."""

    def __init__(self, model: Mammut, folder: Path | None = None):
        config = model.config
        super().__init__(
            "/".join(folder.resolve().parts[-2:]) if folder else "mammut",  # most folders are named model
            model,
            can=("texts", "patches", "captions"),
            fingerprint=lambda: fingerprint(folder) if folder is not None else _fingerprint(model),
            image_size=config.image_size,
            patch_size=config.patch_size,
            mean=config.image_mean,
            std=config.image_std,
        )
        self.width, self.linear = config.text_width, not config.norm_after_pooling

    @property
    def logit_scale(self) -> float:
        """Factor of the cosines in the loss, as it is now."""
        return self.model.logit_scale.item()

    def preprocess(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Prepare images as `Encoder` says."""
        return to_batch(self.model, arrays)

    def encode_images(self, batch: Tensor) -> Tensor:
        """Embed as `Encoder` says."""
        return self.model.encode_image(batch, normalize=False)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed as `Encoder` says."""
        tokens = tokenizers.encode(self.model.tokenizer, texts)
        return self.model.encode_text(torch.from_numpy(tokens).to(self.device), normalize=False)

    def patches(self, batch: Tensor) -> Patches:
        """Split the pooling as `Encoder` says; where a class token is read like the patches, it is common to all windows.

        Of a model with `vision_places` a patch is what a picture would be that is like it everywhere.
        """
        side = self.model.config.patch_size
        return self.patches_of(self.model.image_tokens(batch, placed=False), (batch.shape[2] // side, batch.shape[3] // side))

    def contributing(self, batch: Tensor) -> Patches:
        """Split the pooling as `Encoder` says, each patch as what it is where it lies."""
        side = self.model.config.patch_size
        return self.patches_of(self.model.image_tokens(batch), (batch.shape[2] // side, batch.shape[3] // side))

    def patches_of(self, tokens: Tensor, grid: tuple[int, int]) -> Patches:
        """Split the pooling of (B, P, Dv) tokens, of which the last h · w are the grid."""
        if self.model.pool is None:
            return mean_pooling(tokens, grid)
        attention = self.model.pool.attention
        key, value = (in_heads(part, attention.heads) for part in attention.key_value(tokens).chunk(2, dim=-1))
        query = in_heads(attention.query(self.model.pool.query), attention.heads)
        return split_pooling(query[:, :, 0], key, value, grid)

    def project(self, pooled: Tensor, rest: Tensor | None = None) -> Tensor:
        """Send pooled values through the output head as `Encoder` says."""
        x = joined(pooled).to(self.dtype)
        x = x if self.model.pool is None else self.model.pool.attention.out(x)
        x = self.model.vision.norm(x) if self.model.config.norm_after_pooling else x
        return self.model.image_projection(x).float()


def _fingerprint(model: Mammut) -> str:
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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


def images(model: Mammut | Encoder, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Embed B decoded images, each (H, W, 3) uint8 of any size, as (B, E) float32 of norm 1. Raises as `Encoder.images`."""
    return encoder_of(model).images(arrays)


def texts(model: Mammut | Encoder, captions: Sequence[str]) -> np.ndarray:
    """Embed M texts as (M, E) float32 of norm 1. Raises as `Encoder.texts`."""
    return encoder_of(model).texts(captions)


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
