"""How much ground a picture shows, from its record."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rsvlm.book.figures import galleries, scale

EARTH = {"gsd_m": 7413.005, "size_px": 64}
PICTURE = {"image": np.zeros((64, 64, 3), np.uint8), "alt": "A chip"}


@pytest.mark.parametrize(
    ("metres", "words"),
    [(7413, "7.4 km"), (474432, "474 km"), (30, "30 m"), (0.1, "10 cm"), (1920, "1.9 km"), (999.6, "1 km"), (0.01, "1 cm")]
    + [(9.96, "10 m"), (2.5e6, "2,500 km"), (200, "200 m")],
)
def test_lengths_have_the_unit_that_reads_best(metres, words):
    assert scale.length(metres) == words


def test_words_are_those_of_the_records_and_never_made_up():
    assert scale.in_words([EARTH, EARTH]) == "One pixel is 7.4 km; a picture is 474 km wide."
    two = scale.in_words([EARTH, {"gsd_m": 30.0, "size_px": 64}])
    assert two == "One pixel is 30 m to 7.4 km; a picture is 1.9 km to 474 km wide."
    for record in (None, {}, {"gsd_m": 30.0}, {"gsd_m": None, "size_px": 64}, {"gsd_m": float("nan"), "size_px": 64}):
        assert scale.ground(record) is None and scale.bar(record) == "" and scale.in_words([record]) == ""
    assert scale.ground({"gsd_m": 0, "size_px": 64}) is None and scale.ground({"gsd_m": "many", "size_px": 1}) is None


@pytest.mark.parametrize("gsd_m", [0.1, 0.3, 1, 7.7, 30, 7413.005])
def test_a_bar_is_as_long_as_it_says_and_not_too_long(gsd_m):
    share, number, unit = re.search(
        r"length: ([\d.]+)%\">([\d,.]+) (\w+)<", scale.bar({"gsd_m": gsd_m, "size_px": 64})
    ).groups()
    metres = float(number.replace(",", "")) * {"cm": 0.01, "m": 1, "km": 1000}[unit]
    assert float(share) == pytest.approx(100 * metres / (64 * gsd_m), abs=0.06)
    assert 15 < float(share) <= 40 + 1e-9 and number.replace(",", "").strip("0") in {"1", "2", "5"}


def test_every_gallery_of_chips_has_a_bar_on_each_and_one_line_below():
    known, words = PICTURE | {"ground": EARTH}, "One pixel is 7.4 km"
    one_of_each = {
        "gallery": galleries.gallery([known, PICTURE]),
        "queries": galleries.text_to_image([{"query": "sea", "images": [known | {"right": True}]}] * 2),
        "texts": galleries.image_to_text([known | {"captions": [{"text": "sea", "right": True}]}]),
        "captions": galleries.captions_beside([known | {"captions": {"a": "sea"}}]),
        "words": galleries.shaded_words([known | {"text": "sea", "spans": [(0, 3)], "changes": [0.1]}] * 2),
        "matches": galleries.chip_matches(
            [{"text": "sea", "rank": 1, "score": 0.5, "key": "a", "lon": 1.0, "lat": 2.0} | EARTH], [PICTURE["image"]]
        ),
    }
    for name, figure in one_of_each.items():
        html = str(getattr(figure, "data", figure))
        assert html.count('class="rsvlm-scale"') == (2 if name in ("queries", "words") else 1), name
        assert html.count(words) == 1, name
    assert 'rsvlm-ground"' not in str(galleries.gallery([PICTURE])), "of a picture without a record nothing is said"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (EARTH | {"lon": -60.2, "lat": -12.4}, "12° S 60° W"),
        (EARTH | {"footprint_lonlat": [178.0, 10.0, -178.0, 14.0]}, "12° N 180° W"),
        (EARTH | {"lon": 0.3, "lat": -0.2}, "0° 0°"),
        (EARTH | {"lon": 190, "lat": 5}, "5° N 170° W"),
        ({"gsd_m": 30.0, "size_px": 64, "lon": -54.5881, "lat": -25.4065}, "25.41° S 54.59° W"),
        ({"lon": 1.25, "lat": 2.25}, "2.2° N 1.2° E"),
        ({"lon": float("nan"), "lat": 2.0}, ""),
        ({"lon": 1.0, "lat": None}, ""),
        (None, ""),
    ],
)
def test_places_are_as_exact_as_the_picture_is_large(record, words):
    assert scale.place(record) == words


def test_a_chip_is_described_by_its_place_and_its_shortest_caption():
    record = EARTH | {"lon": -60.2, "lat": -12.4, "captions": ["A long caption of it.", " Dark green forest. ", ""]}
    assert scale.described(record) == "Chip near 12° S 60° W: Dark green forest"
    assert scale.described({"captions": ["A harbour"]}) == "Chip: A harbour" and scale.described(None) == "Chip"
