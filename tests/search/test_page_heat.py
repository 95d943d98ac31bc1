"""What the parts of a chip add to its vector: it adds up, and a model of another kind has none."""

from __future__ import annotations

import numpy as np
from searching import CHIPS, facts

from rsvlm.search import page_heat


def test_parts_add_up_to_the_chip(home):
    page = home / "page"
    (h, w), width = facts(page)["grid"], facts(page)["width"]
    columns = np.fromfile(page / "data" / "columns.bin", "<f4").reshape(2, width)
    whole = columns[0] + columns[1] * np.fromfile(page / "data" / "vectors.bin", np.int8).reshape(CHIPS, width)
    for row in range(CHIPS):
        data = page_heat.path_of(page / "heat", row).read_bytes()
        scale = np.frombuffer(data[:4], "<f4")[0]
        parts = np.frombuffer(data, np.int8, offset=4).reshape(h * w, width)
        assert np.abs(parts).max() == 127
        # What rounding to bytes may take, of parts and of vectors
        assert np.abs((parts * scale).mean(axis=0) - whole[row]).max() < scale / 2 + columns[1].max() / 2 + 1e-5


def test_a_clip_has_none(clip_page):
    assert facts(clip_page)["grid"] is None and not (clip_page / "heat").exists()


def test_a_chip_whose_picture_is_gone_has_none(home, tmp_path):
    from rsvlm.model.others.opening import open_encoder

    encoder = open_encoder(home / "model", "cpu")
    pictures = [None, np.full((32, 32, 3), 90, np.uint8), None]

    class Chips:
        def __len__(self) -> int:
            return 3

        def pictures(self, rows):
            return [pictures[row] for row in rows]

    assert page_heat.write(Chips(), encoder, tmp_path, progress=False, batch_size=2) == facts(home / "page")["grid"]
    assert [page_heat.path_of(tmp_path, row).exists() for row in range(3)] == [False, True, False]
