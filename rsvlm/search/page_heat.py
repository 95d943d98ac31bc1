"""What each part of a chip adds to its vector, as files that the page reads when a chip is chosen.

The product of a part with a question, averaged over the parts, is the chip's cosine with it. Only some models add up like that: their
output head is linear, and nothing is pooled besides the patches. A CLIP does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from rsvlm.localization import heat
from rsvlm.model.encoder import Encoder
from rsvlm.search.index_files import Index


def adds_up(model: Encoder, array: np.ndarray) -> bool:
    """Say whether what the patches of an image contribute adds up to its vector: a linear head, and nothing pooled besides them."""
    if not model.linear or "patches" not in model.can:
        return False
    with torch.inference_mode():
        return model.contributing(model.preprocess([array])).common is None


def contributions(model: Encoder, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return what each patch adds to its image's vector: (N, h, w, E) int8, and the (N,) float32 scale of each image.

    As `heat.heat(method="attention")`: the mean over the patches is the image's vector, if the model's output head is linear.

    Args:
        model: The model, one for which `adds_up` is true.
        arrays: N decoded images, embedded in one pass.
    """
    with torch.inference_mode():
        patches = heat.look(model, model.preprocess(arrays), "attention")
        h, w = patches.scores.shape[2:]
        share = patches.scores.flatten(2).softmax(-1).unflatten(-1, (h, w))  # (B, n, h, w)
        joined = heat.project(model, h * w * share[..., None] * patches.values, patches.rest, normalize=False)  # (B, h, w, E)
        joined = (joined / joined.mean(dim=(1, 2), keepdim=True).norm(dim=-1, keepdim=True)).cpu().numpy()
    scale = np.maximum(np.abs(joined).max(axis=(1, 2, 3)), 1e-12) / 127
    return np.rint(joined / scale[:, None, None, None]).astype(np.int8), scale.astype(np.float32)


def path_of(folder: Path, row: int) -> Path:
    """Return the file of a chip: its scale, float32 in little-endian order, and then its parts, (h, w, E) int8."""
    return folder / f"{row // 1000:03d}" / f"{row:06d}.bin"


def write(index: Index, model: Encoder, folder: Path, progress: bool = True, batch_size: int = 64) -> list[int] | None:
    """Write the file of each chip that can be read.

    Returns:
        The grid of the parts, h and w; None, and no files, where the parts of this model do not add up.
    """
    grid = None
    with tqdm(total=len(index), desc="heat", unit=" chips", disable=not progress) as bar:
        for start in range(0, len(index), batch_size):
            rows = np.arange(start, min(start + batch_size, len(index)))
            seen = [(row, array) for row, array in zip(rows.tolist(), index.pictures(rows), strict=True) if array is not None]
            bar.update(len(rows))
            if not seen:
                continue
            if grid is None and not adds_up(model, seen[0][1]):
                return None
            parts, scales = contributions(model, [array for _, array in seen])
            grid = list(parts.shape[1:3])
            for (row, _), part, scale in zip(seen, parts, scales, strict=True):
                path = path_of(folder, row)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(scale.astype("<f4").tobytes() + part.tobytes())
    return grid
