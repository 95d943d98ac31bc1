"""Maps that know nothing: what they show, and that they favour no class."""

import numpy as np

from rsvlm.localization import baselines

CLASSES = ("ship", "dock", "tree")


def test_baselines_are_what_they_say():
    image = np.zeros((30, 50, 3), np.uint8)
    image[:, 25:] = 200
    bright = baselines.brightness_map(image)
    assert bright.shape == (30, 50) and abs(bright.mean(0).argmax() - 25) <= 3 and bright[:, :10].max() == 0
    centre = baselines.centre_map((31, 51))
    assert np.unravel_index(centre.argmax(), centre.shape) == (15, 25) and centre.max() <= 1
    noise = baselines.random_map((30, 50), np.random.default_rng(0))
    assert noise.shape == (30, 50) and 0 <= noise.min() < noise.max() <= 1
    assert baselines.brightness_map(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1)
    drawn = [baselines.methods(CLASSES, seed)["centre"](image).argmax(0)[0, 0] for seed in range(20)]
    assert set(drawn) == {0, 1, 2}  # no class is favoured
