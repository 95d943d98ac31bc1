"""Values painted as images: maps and masks in colours that mean what they say."""

from __future__ import annotations

from types import SimpleNamespace

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


def test_chips_of_several_models_stand_beside_each_other_query_by_query():
    picture = np.zeros((4, 4, 3), np.uint8)
    rows = [
        {"text": text, "rank": 1, "score": 0.5, "key": "k", "lat": 1.0, "lon": 2.0}
        for text in ("a <b>harbour</b>", "a runway")
    ]
    shown = str(galleries.chips_beside({"one": (rows, [picture, None]), "<two>": (rows[:1], [picture])}))
    assert shown.count('class="rsvlm-query"') == 2 and shown.count("<img") == 3 and "1.00°, 2.00°: 0.50" in shown
    assert "a &lt;b&gt;harbour" in shown and "&lt;two&gt;" in shown and "<two>" not in shown


def test_each_grid_keeps_its_own_size_and_shape():
    item = {"image": np.zeros((4, 8, 3), np.uint8), "alt": "a scene"}
    small, large = (
        str(galleries.gallery([item], **how)) for how in ({"thumbnail_px": 90}, {"thumbnail_px": 240, "whole": True})
    )
    rules = [part[: part.index("</style>")] for part in (small, large)]
    assert rules[0] == rules[1], "sizes in a style sheet would hold for all grids of a page"
    assert "--rsvlm-side: 90px" in small and "--rsvlm-side: 240px" in large
    assert 'class="rsvlm-gallery rsvlm-whole"' in large and 'class="rsvlm-gallery"' in small


def test_a_scene_of_several_models_shows_no_data_as_no_data(monkeypatch):
    shown = []
    monkeypatch.setattr(galleries, "gallery", lambda items, **how: shown.extend(items) or "")
    facts = {"scene": "s", "texts": [{"text": "a road", "regions": 1, "share_of_area": 0.5, "highest_confidence": 0.9}]}
    answer = SimpleNamespace(
        image=np.zeros((2, 2, 3), np.uint8), facts=facts, heat=np.array([[[0.0, 0.9], [np.nan, np.nan]]], np.float32)
    )
    galleries.scenes_beside({"one": answer, "two": answer})
    scene, *maps = shown
    assert "grey: no data" in scene["caption"] and len(maps) == 2 and "50.0 % of the ground" in maps[0]["caption"]
    assert maps[0]["image"][-1, -1].tolist() == [150] * 3 != maps[0]["image"][0, 0].tolist()


def test_one_region_is_not_told_as_regions():
    rows = [
        {"text": name, "regions": n, "share_of_area": 0.1, "highest_confidence": 0.7} for name, n in (("lake", 1), ("sea", 2))
    ]
    answer = SimpleNamespace(
        image=np.zeros((8, 8, 3), np.uint8), facts={"scene": "a.tif", "texts": rows}, heat=np.zeros((2, 8, 8), np.float32)
    )
    body = galleries.scenes_beside({"one": answer})._repr_html_()
    assert "1 region, 10.0 %" in body and "2 regions, 10.0 %" in body and "1 regions" not in body
