"""The retrieval strip: the right one is always there, with its rank, and everything is told in words, too."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from rsvlm.book.figures import galleries, strips
from rsvlm.errors import DataError

PLACE = {"gsd_m": 7413.0, "size_px": 64, "lon": -60.2, "lat": -12.4}
PICTURE = np.full((8, 8, 3), 50, np.uint8)


def answers(right=None, overlaps=(), count=5):
    cells = [{"image": PICTURE, "alt": f"Chip <{i}>", "ground": PLACE, "score": 0.8 - 0.1 * i} for i in range(count)]
    return [cell | {"right": i == right, "overlaps": i in overlaps} for i, cell in enumerate(cells)]


def strip(rank, right=None, **more):
    one = {"image": PICTURE, "alt": "The <sea>", "ground": PLACE, "score": 0.2, "rank": rank}
    entry = {"query": "a <b>lake</b>", "images": answers(right, more.pop("overlaps", ())), "right_one": one}
    return str(galleries.text_to_image([entry | more]))


def alts(html):
    return re.findall(r'alt="([^"]*)"', html)


def test_the_right_one_stands_apart_with_its_rank():
    html = strip(rank=1090, overlaps=[1])
    assert html.count("<img") == 6 and "the right one, <b>rank 1,090</b>" in html
    row, apart = html.split('<div class="rsvlm-apart">')
    assert "rsvlm-answer rsvlm-right" in apart and "rsvlm-answer rsvlm-right" not in row
    assert row.count("<li>") == 5 and row.count("rsvlm-answer rsvlm-overlaps") == 1
    assert alts(html)[1] == "Chip &lt;1&gt;, rank 2, overlaps the right one"
    assert alts(html)[-1] == "The &lt;sea&gt;, rank 1090, right"
    assert html.count("12°\u00a0S 60°\u00a0W") == 6 and html.count('class="rsvlm-scale"') == 6


def test_the_right_one_in_the_row_is_marked_there_and_told_in_the_gap():
    html = strip(rank=2, right=1, overlaps=[0, 1])
    assert html.count("<img") == 5 and "<b>rank 2</b>, in the row" in html
    assert alts(html)[1].endswith(", rank 2, right") and html.count("rsvlm-answer rsvlm-overlaps") == 1
    assert "2 ✓" in html and html.count("✓") == 1
    assert "<b>rank 3</b>, in the row" in strip(rank=3, right=1), "ties count against it"
    assert "<p>the right one:<br><b>rank 2</b>" in html
    several = [cell | {"right": True} for cell in answers(1)]
    of_many = galleries.text_to_image([{"query": "a lake", "images": several, "right_one": several[0] | {"rank": 1}}])
    assert "<p>the first right one:<br><b>rank 1</b>" in str(of_many)


@pytest.mark.parametrize(("rank", "right"), [(2, None), (5, None), (1, 2)])
def test_a_rank_that_the_row_contradicts_is_refused(rank, right):
    with pytest.raises(DataError, match=f"rank {rank}, and stands at place"):
        strip(rank, right)


def test_scores_are_drawn_on_one_axis_from_zero():
    bars = [int(share) for share in re.findall(r"--rsvlm-share: (\d+)%", strip(rank=90))]
    assert bars == [100, 88, 75, 62, 50, 25] and "cosine, all from 0 to 0.80" in strip(rank=90)
    low = [cell | {"score": -0.25} for cell in answers(count=1)]
    html = str(galleries.text_to_image([{"query": "sea", "images": low}]))
    assert "--rsvlm-share: 0%" in html and "−0.25" in html


def test_text_is_text_and_words_are_shaded():
    html = strip(rank=9, spans=[(5, 9)], changes=[0.2], kind="<lost>", reason="a & b", note="n < 1")
    body = html[html.index("<section>") :]
    assert '“a &lt;b&gt;<span class="rsvlm-more" style="--rsvlm-worth: 0.50">lake</span>&lt;/b&gt;”' in body
    assert "&lt;lost&gt;" in body and "a &amp; b" in body and "n &lt; 1" in body and "<b>lake" not in body
    assert "on orange" in html and "on orange" not in strip(rank=9)


def test_pictures_are_brightened_on_the_page_alone_and_it_is_told():
    assert strips.gain(PICTURE) == 3.0 and strips.gain(np.full((8, 8, 3), 240, np.uint8)) == 1.0
    assert strips.gain(Image.fromarray(np.full((8, 8, 3), 110, np.uint8))) == pytest.approx(2.0)
    assert strips.gain(np.zeros((4, 4, 3), np.uint8)) == 3.0
    html = strip(rank=9)
    assert html.count("--rsvlm-gain: 3.00") == 6 and html.count("brightened for display; the model sees the original") == 1


def test_without_a_right_one_there_is_a_row_alone():
    html = str(galleries.text_to_image([{"query": "sea", "note": "held out", "images": answers(count=6)[:4]}]))
    assert html.count("<img") == 4 and "rsvlm-apart" not in html[html.index("<section>") :] and "held out" in html
    assert "--rsvlm-columns: 2.6fr 4fr;" in html and "the right one" not in html[html.index("<section>") :]


def test_a_picture_without_words_is_refused():
    with pytest.raises(DataError, match="answer 1 needs an 'image' and an 'alt'"):
        galleries.text_to_image([{"query": "sea", "images": [{"image": PICTURE, "alt": " "}]}])


def test_captions_show_what_sets_them_apart_from_the_right_one():
    entry = {"image": PICTURE, "alt": "A chip", "right_one": {"text": "A small lake. Tan <land>.", "rank": 41}}
    wrong = {"text": "Tan <land>. A large lake.", "right": False}
    html = str(galleries.image_to_text([entry | {"captions": [wrong, wrong]}]))
    assert html.count("<b>large</b>") == 2 and "<b>small</b>" in html and "<span>Tan &lt;land&gt;. A </span>" in html
    assert "rank 41, 1 word differs from the first" in html and html.count("1 word differs from the right one") == 2
    assert html.count("<li") == 4 and html.index("rank 2") < html.index("⋯") < html.index("✓ the right one")
    assert html.count("brightened for display") == 1

    right = {"text": "A small lake. Tan <land>.", "right": True}
    html = str(
        galleries.image_to_text([entry | {"captions": [right, wrong], "right_one": {"text": right["text"], "rank": 1}}])
    )
    assert html.count("<li") == 2 and "✓ the right one, rank 1<" in html and "⋯" not in html
