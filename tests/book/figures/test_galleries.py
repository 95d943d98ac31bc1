"""Values painted as images: maps and masks in colours that mean what they say."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from rsvlm.book.figures import galleries
from rsvlm.errors import DataError


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
    assert shown.count('class="rsvlm-query"') == 2 and shown.count("<img") == 3 and "1.0° N 2.0° E: 0.50" in shown
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


def shaded(text="a <b>lake</b> & sea", spans=((0, 1), (5, 9), (16, 19)), changes=(0.001, 0.2, -0.05), **more):
    return str(galleries.shaded_words([{"text": text, "spans": list(spans), "changes": np.array(changes)} | more]))


def test_words_are_shaded_by_what_they_are_worth_and_not_by_colour_alone():
    shown = shaded(note="rank <1>")
    body = shown[shown.index('<div class="rsvlm-words">') : shown.index('<p class="rsvlm-legend">')]
    assert "a &lt;b&gt;" in body and "<b>" not in body and "rank &lt;1&gt;" in body and " &amp; " in body
    assert '<ruby class="rsvlm-more" style="--rsvlm-worth: 0.50">lake<rt>+200</rt></ruby>' in body
    assert '<ruby class="rsvlm-less" style="--rsvlm-worth: 0.12">sea<rt>−50</rt></ruby>' in body
    assert body.count("<ruby") == 2, "a word that is worth next to nothing is left plain"
    assert (
        re.sub('<rt>.*?</rt>|<span class="rsvlm-note".*?</span>|<[^>]+>', "", body).strip()
        == "a &lt;b&gt;lake&lt;/b&gt; &amp; sea"
    )
    rules = shown[: shown.index('<div class="rsvlm-words">')]
    assert "3px solid" in rules and "3px dotted" in rules, "lines tell what colours tell"
    legend = shown[shown.index('<p class="rsvlm-legend">') :]
    assert all(word in legend for word in ("solid line", "dotted line", "thousandths"))


def test_shades_are_even_over_all_sentences_and_pictures_stand_beside():
    one = {"text": "lake", "spans": [(0, 4)], "changes": [0.1]}
    picture = {"image": np.zeros((4, 4, 3), np.uint8), "alt": "a lake"}
    shown = str(galleries.shaded_words([one, one | {"changes": [0.05]} | picture]))
    assert "0.50" in shown and "0.25" in shown and shown.count("<img") == 1 and 'alt="a lake"' in shown
    assert "<ruby" not in str(galleries.shaded_words([one | {"changes": [0.0]}])).partition('<p class="rsvlm-legend">')[0]
    assert "legend" in str(galleries.shaded_words([]))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"changes": (1.0,)}, "3 words and 1 changes"), ({"spans": ((5, 9), (0, 1), (16, 19))}, "places in order")],
)
def test_words_without_a_place_are_refused(wrong, words):
    with pytest.raises(DataError, match=words):
        shaded(**wrong)


def test_a_chip_that_answers_is_described_by_its_place_and_keeps_its_name():
    row = {"text": "a city", "rank": 1, "score": 0.536, "key": "picture_64_0_0", "lon": -54.2976, "lat": -25.4497}
    row |= {"gsd_m": 30.0, "size_px": 64}
    shown = str(galleries.chip_matches([row], [np.zeros((4, 4, 3), np.uint8)]))
    assert 'alt="Answer 1 to “a city”: Chip near 25.45° S 54.30° W"' in shown
    assert "25.45° S 54.30° W, cosine 0.536 (picture_64_0_0)" in shown
    nowhere = str(galleries.chip_matches([row | {"lon": float("nan"), "lat": float("nan")}], [None]))
    assert "nan" not in nowhere and "cosine 0.536" in nowhere
