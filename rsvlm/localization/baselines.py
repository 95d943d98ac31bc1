"""Maps that know nothing of a text, to score beside those that do: noise, the middle of the picture, where brightness changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from rsvlm.localization import smoothing


def random_map(shape: tuple[int, int], rng: np.random.Generator, cells: int = 8) -> np.ndarray:
    """Uniform noise on a grid of `cells` × `cells`, enlarged as maps of patches are: (H, W) float32, 0 to 1."""
    noise = Image.fromarray(rng.random((cells, cells), np.float32))
    return np.asarray(noise.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def centre_map(shape: tuple[int, int]) -> np.ndarray:
    """A Gaussian in the middle, its deviation a quarter of each side: (H, W) float32, 0 to 1."""
    y, x = (((np.arange(n) + 0.5) / n - 0.5) / 0.25 for n in shape)
    return np.exp(-(y[:, None] ** 2 + x**2) / 2).astype(np.float32)


def brightness_map(image: np.ndarray) -> np.ndarray:
    """How much the brightness changes from pixel to pixel, mean over a window of a sixteenth of the longer side.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (H, W) float32.
    """
    luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
    slopes = [np.gradient(luma, axis=axis) if luma.shape[axis] > 1 else np.zeros_like(luma) for axis in (0, 1)]
    window = max(luma.shape) // 32 * 2 + 1
    return smoothing.smooth_pool(np.zeros(luma.shape, np.float32), np.hypot(*slopes).astype(np.float32), window)


def methods(classes: Sequence[str], seed: int = 0) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return methods that know nothing of the text, for `scoring.evaluate`: `random`, `centre` and `brightness`.

    The last two give one map to every class; which class it names is drawn for each image, so that no class is favoured. What is
    drawn depends on the seed and the image alone, not on the order of images.
    """
    C = len(classes)

    def rng(image: np.ndarray) -> np.random.Generator:
        return np.random.default_rng([seed, *image.shape[:2], int(image.sum(dtype=np.int64))])

    def shared(image: np.ndarray, one: np.ndarray) -> np.ndarray:
        order = rng(image).permutation(C).astype(np.float32)
        return one * (1 + 1e-6 * order[:, None, None])

    return {
        "random": lambda image: np.stack([random_map(image.shape[:2], draw) for draw in rng(image).spawn(C)]),
        "centre": lambda image: shared(image, centre_map(image.shape[:2])),
        "brightness": lambda image: shared(image, brightness_map(image)),
    }
