"""How a picture of any shape comes to the square that a model was trained on: its own model's way, whoever made it.

Models of this package squash. Those of open_clip say in their folder what they do, and what that means is said here.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode

from rsvlm.errors import ModelError
from rsvlm.model.images import resize

RESIZES = ("squash", "shortest", "longest")
"""Both sides are scaled apart; or the shorter one, and the centre is cut out; or the longer one, and black is put around."""

FILTERS = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}


def squared(array: np.ndarray, side_px: int, way: str = "squash", interpolation: str = "bicubic") -> np.ndarray:
    """Bring a picture to a square.

    Args:
        array: (H, W, 3) uint8 of any size.
        side_px: Side of the square, S.
        way: One of `RESIZES`.
        interpolation: One of `FILTERS`; each averages when it shrinks.

    Returns:
        (S, S, 3) uint8; the input itself where it is that large already.

    Raises:
        ModelError: There is no such way or interpolation.
    """
    if way not in RESIZES or interpolation not in FILTERS:
        known = f"{', '.join(RESIZES)} with {' or '.join(FILTERS)}"
        raise ModelError(f"pictures cannot be resized by '{way}' with '{interpolation}': known are {known}")
    if array.shape[:2] == (side_px, side_px):
        return array
    if way == "squash" and interpolation == "bicubic":
        return resize(array, side_px, side_px)
    size = [side_px] if way == "shortest" else [side_px, side_px]
    if way == "longest":
        size = [max(round(length * side_px / max(array.shape[:2])), 1) for length in array.shape[:2]]
    picture = functional.resize(Image.fromarray(array), size, FILTERS[interpolation])
    return np.asarray(functional.center_crop(picture, [side_px, side_px]))
