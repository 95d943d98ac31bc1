"""One reader: rasters and mosaics of the same pixels give the same windows, and what cannot be read is said and left out."""

from __future__ import annotations

import numpy as np
import pytest
from rasters import ZOOM, X, Y, mosaic, options, picture, write, write_tiles

from rsvlm.data.imagery import sources as imagery, windows
from rsvlm.data.imagery.windows import Picture, Reader, Window
from rsvlm.errors import DataError


def test_a_raster_and_a_mosaic_give_the_same_windows(tmp_path):
    whole, tiles = mosaic()
    raster = imagery.open_imagery(str(write(tmp_path / "a.tif", whole.transpose(2, 0, 1))), options())[0]
    tiled = imagery.open_imagery(str(write_tiles(tmp_path / "m", tiles, f"{ZOOM}/{{x}}/{{y}}.png")), options())[0]
    with windows.open_windows(raster) as one, windows.open_windows(tiled, cached_bytes=0) as other:
        for left, top in ((0, 0), (50, 60), (100, 7)):
            first = one.read(Window(left, top, 40, 33, (33, 40)))
            second = other.read(Window(X * 64 + left, Y * 64 + top, 40, 33, (33, 40)))
            for got in (first, second):
                np.testing.assert_array_equal(got.pixels, whole[top : top + 33, left : left + 40])
                assert got.valid.all() and got.reason is None
    write(tmp_path / "a.tif", picture(64, 64))
    with pytest.raises(DataError, match="has changed"), windows.open_windows(raster):
        pass


def test_a_view_leaves_out_the_blocks_that_cannot_be_read_and_no_others():
    whole = picture(64, 96).transpose(1, 2, 0)

    def read(window):
        top, left, (high, wide) = int(window.top), int(window.left), window.shape
        if top < 48 and top + high > 32 and left < 32 and left + wide > 16:  # the block in row 2, column 1
            return Picture(np.zeros((high, wide, 3), np.uint8), np.zeros((high, wide), bool), windows.UNREADABLE)
        return Picture(whole[top : top + high, left : left + wide], np.ones((high, wide), bool))

    view = windows.read_view(Reader(lambda wanted: [read(window) for window in wanted], (16, 16)), (0, 0, 64, 96), 1)
    assert view.broken == {(2, 1)} and view.reason == windows.UNREADABLE
    expected = np.ones((64, 96), bool)
    expected[32:48, 16:32] = False
    np.testing.assert_array_equal(view.valid, expected)
    np.testing.assert_array_equal(view.pixels, np.where(expected[..., None], whole, 0))


def test_a_view_beyond_the_last_row_and_column_leaves_the_others_as_they_are(tmp_path):
    whole = picture(65, 67)
    source = imagery.open_imagery(str(write(tmp_path / "a.tif", whole)), options())[0]
    with windows.open_windows(source) as reader:
        view = windows.read_view(reader, (0, 0, 33, 34), 2)
    means = whole[:, :64, :66].reshape(3, 32, 2, 33, 2).mean(axis=(2, 4)).transpose(1, 2, 0)
    assert np.abs(view.pixels[:32, :33] - means).max() <= 0.5 and view.valid.all()
    np.testing.assert_array_equal(view.pixels[32], view.pixels[31])
