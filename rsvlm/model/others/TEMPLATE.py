"""How a family of models is added: copy this file, fill it, and name it in `opening.FAMILIES`. A file has at most 150 lines.

What stands here is a whole family, whose model is the mean colour of nine parts of a picture; `template:3` opens it. A real one
reads weights by `reading.read_state` and `reading.fill`, which run no code and list every key that does not fit, and a folder of
a hub by `reading.from_hub`. `towers.tried` embeds a black picture and a text before it is handed out. A family whose towers pool in
several ways leaves each way to a file of its own, as `towers.TowerEncoder` does.

Four things are asked of a family, with B images, M texts, E dimensions, n heads of width d and a grid of h × w patches:

    preprocess(arrays)         B arrays (H, W, 3) uint8 of any size  -> (B, 3, S, S), as the model was trained
    encode_images(batch)       (B, 3, S, S)                          -> (B, E), of any norm
    encode_texts(texts)        M texts                               -> (M, E); leave it out where there is no text tower
    patches(batch), project(pooled, rest)    leave them out where there are no patches

For the last: write the pooling by which the model comes from patches to its embedding as scores and values
(`encoder.split_pooling` for attention, `encoder.mean_pooling` for means), and what follows it as `project`. A test says whether it
is right: a window over the whole grid gives `encode_images` (`tests/model/others/test_families.py`: add a line there).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsvlm.errors import ModelError
from rsvlm.model.encoder import Encoder, Patches, joined, mean_pooling
from rsvlm.model.images import resize
from rsvlm.model.others.towers import tried


def open_model(where: str, device: torch.device) -> Encoder:
    """Open what stands behind the colon. Raises ModelError in one sentence that says what to do."""
    if not where.isdigit() or int(where) < 1:
        raise ModelError(f"template:{where}: expected the parts of a side, as in template:3")
    return tried(Colours(int(where)))


class Colours(Encoder):
    """The mean colour of parts of a picture: its patches are the parts, its pooling is their mean."""

    def __init__(self, parts: int):
        super().__init__(
            f"template:{parts}",
            nn.Linear(3, 3, bias=False).eval(),
            can=["patches"],
            fingerprint=lambda: f"{parts:08x}",
            image_size=8 * parts,
            patch_size=8,
        )

    def preprocess(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Prepare images as `Encoder` says."""
        return self.normalised(np.stack([resize(array, self.image_size, self.image_size) for array in arrays]))

    def encode_images(self, batch: Tensor) -> Tensor:
        """Embed as `Encoder` says."""
        return self.model(batch.mean(dim=(2, 3)))

    def patches(self, batch: Tensor) -> Patches:
        """Split the pooling as `Encoder` says."""
        parts = F.avg_pool2d(batch, self.patch_size)  # (B, 3, h, w)
        return mean_pooling(parts.flatten(2).transpose(1, 2), tuple(parts.shape[2:]))

    def project(self, pooled: Tensor, rest: Tensor | None) -> Tensor:
        """Send pooled values through the rest of the model as `Encoder` says."""
        return self.model(joined(pooled))
