"""A picture of any shape comes to the square as open_clip brings it there."""

import numpy as np
import pytest

from rsvlm.errors import ModelError
from rsvlm.model import images, preprocessing

SHAPES = [(48, 80), (80, 48), (33, 47), (20, 9), (32, 32), (7, 100)]


def picture(shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)


@pytest.mark.parametrize("way", preprocessing.RESIZES)
@pytest.mark.parametrize("interpolation", preprocessing.FILTERS)
def test_every_way_is_that_of_open_clip(way, interpolation):
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    from PIL import Image

    plain = {"mean": (0, 0, 0), "std": (1, 1, 1), "resize_mode": way, "interpolation": interpolation}
    theirs = open_clip.image_transform(32, is_train=False, **plain)
    for shape in SHAPES:
        array = picture(shape)
        expected = np.rint(theirs(Image.fromarray(array)).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        np.testing.assert_array_equal(preprocessing.squared(array, 32, way, interpolation), expected, f"{shape}")


def test_a_picture_of_the_right_size_is_not_copied_and_models_of_this_package_squash():
    array = picture((32, 32))
    assert preprocessing.squared(array, 32, "shortest", "bilinear") is array
    wide = picture((30, 50))
    np.testing.assert_array_equal(preprocessing.squared(wide, 32), images.resize(wide, 32, 32))


def test_a_part_at_the_edge_is_seen_only_where_both_sides_are_scaled():
    array = np.zeros((40, 80, 3), np.uint8)
    array[:, :8] = 255
    assert preprocessing.squared(array, 20, "shortest").max() == 0
    assert preprocessing.squared(array, 20, "squash").max() == preprocessing.squared(array, 20, "longest").max() == 255


@pytest.mark.parametrize("given", [("stretch", "bicubic"), ("squash", "nearest")])
def test_what_is_not_known_is_refused(given):
    with pytest.raises(ModelError, match="known are squash, shortest, longest with bicubic or bilinear"):
        preprocessing.squared(picture((9, 9)), 8, *given)
