"""Values painted as images: maps and masks in colours that mean what they say."""

from __future__ import annotations

import numpy as np

from rsvlm.book.figures import galleries


def test_heat_is_scaled_cut_and_grey_where_unknown():
    image = galleries.heat_image(np.array([[0.0, 5.0], [10.0, 99.0], [np.nan, -9.0]]), 0, 10, side_px=12)
    assert image.shape == (12, 8, 3) and image.dtype == np.uint8
    cells = image[::4, ::4].reshape(-1, 3)
    assert (cells[2] == cells[3]).all() and (cells[0] == cells[5]).all() and (cells[0] != cells[2]).any()
    assert cells[4].tolist() == [150] * 3 and (cells[1] != cells[0]).any()


def test_a_mask_tells_right_from_too_much_and_too_little():
    told, truth = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    painted = galleries.mask_image(np.full((1, 4, 3), 100, np.uint8), told, truth)[0].tolist()
    assert painted[3] == [100, 100, 100] and len({tuple(colour) for colour in painted}) == 4
    assert painted[0][2] > painted[0][0] and painted[1][0] > painted[1][2]  # blue, orange


def test_one_value_everywhere_is_a_picture_too():
    assert np.ptp(galleries.heat_image(np.ones((2, 2)), 1, 1).reshape(-1, 3), axis=0).tolist() == [0, 0, 0]
