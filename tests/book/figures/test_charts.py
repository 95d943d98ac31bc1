"""Charts of measured values: they show the numbers they are given, keep missing ones out, and take names as text."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from rsvlm.book.figures import amounts, charts, style

HOSTILE = r"$\frac{1}{0}$ <script>alert(1)</script>"


def lines(axes, marker: str) -> list[tuple[float, float]]:
    """Places of the single marks of one kind."""
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == marker]


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_a_score_matrix_shows_every_score_and_rank_and_frames_right_pairs():
    scores = np.array([[0.9, 0.2, 0.35], [0.1, 0.8, 0.7]])
    right = np.array([[True, False, True], [False, True, False]])
    figure = charts.score_matrix(scores, right, (["A", HOSTILE], ["x", HOSTILE, "z"]), ([1, 2], [3, 4, 5]))
    axes = figure.axes[0]
    told = texts(axes)
    assert told[:6] == ["0.90", "0.20", "0.35", "0.10", "0.80", "0.70"]
    assert told[6:] == ["rank 1", "rank 2", "rank 3", "rank 4", "rank 5"]
    framed = sorted((int(patch.get_y()), int(patch.get_x())) for patch in axes.patches)
    assert framed == [(0, 0), (0, 2), (1, 1)]
    assert "<script" not in charts.picture(figure, HOSTILE)


ROWS = [
    {"label": "plain", "series": "ours", "panel": "mR", "value": 20.0, "ci_low": 15.0, "ci_high": 26.0, "chance": 1.0},
    {"label": "plain", "series": "theirs", "panel": "mR", "value": 30.0, "ci_low": None, "ci_high": None, "chance": None},
    {"label": HOSTILE, "series": "ours", "panel": "R@1", "value": 40.0, "ci_low": 39.0, "ci_high": 41.0, "chance": 2.0},
]


def test_dots_stand_at_their_values_with_intervals_and_chance_where_there_are_any():
    figure = charts.interval_dots(ROWS, "percent")
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("mR", "R@1")
    assert sorted(x for x, _ in lines(first, "o")) == [20.0, 30.0] and [x for x, _ in lines(second, "o")] == [40.0]
    assert [x for x, _ in lines(first, "|")] == [1.0]
    spans = [tuple(line.get_xdata()) for line in first.lines if len(line.get_xdata()) == 2]
    assert spans == [(15.0, 26.0)]
    ours, theirs = (next(y for x, y in lines(first, "o") if x == value) for value in (20.0, 30.0))
    assert ours != theirs and round(ours) == round(theirs) == 0  # one label, two lines apart
    assert round(lines(second, "o")[0][1]) == 1
    assert first.get_xlim() == second.get_xlim()
    charts.picture(figure, "Dots")  # a hostile label is no formula, which would stop here


def test_a_legend_above_dots_is_no_wider_than_they_are():
    names = ["one", "the other of the two", "all of them, pooled", "their median, in windows of three", "what is left"]
    figure = charts.interval_dots([{"label": "a", "series": name, "value": 3} for name in names], "percent")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names and len(figure.legends) == 1
    assert figure.legends[0].get_window_extent().width < figure.bbox.width


def test_dots_need_nothing_but_labels_and_values():
    figure = charts.interval_dots([{"label": "a", "value": 3}, {"label": "b", "value": -4}], "points")
    assert [x for x, _ in lines(figure.axes[0], "o")] == [3, -4]
    assert not figure.legends and figure.axes[0].get_xlim()[0] < -4


def test_curves_have_their_bands_and_guessing():
    curve = pd.DataFrame({"x": [10, 100], "value": [50.0, 20.0], "ci_low": [45.0, 18.0], "ci_high": [55.0, 22.0]})
    guess = pd.DataFrame({"x": [10, 100], "value": [10.0, 1.0]})
    axes = charts.curves_with_bands({"a": curve, "b": curve[["x", "value"]]}, "x", "y", guess).axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[50.0, 20.0], [50.0, 20.0], [10.0, 1.0]]
    assert axes.get_xscale() == "log"
    band = axes.collections[0].get_paths()[0].vertices
    assert len(axes.collections) == 1 and (band[:, 1].min(), band[:, 1].max()) == (18.0, 55.0)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "guessing"]
    linear = charts.curves_with_bands({"a": curve.assign(x=[0, 20])}, "x", "y", scale="linear").axes[0]
    assert linear.get_xscale() == "linear" and list(linear.get_xticks()) == [0, 20]


@pytest.mark.parametrize("names", [("one",), ("one", HOSTILE)])
def test_reliability_leaves_empty_bins_out(names):
    bins = pd.DataFrame(
        {"low": [0.0, 0.5], "high": [0.5, 1.0], "n": [0, 7], "confidence": [np.nan, 0.8], "accuracy": [np.nan, 0.6]}
    )
    figure = charts.reliability(dict.fromkeys(names, bins))
    assert len(figure.axes) == 2 * len(names)
    upper = figure.axes[0]
    measured = next(line for line in upper.lines if line.get_label() == "measured")
    assert list(zip(measured.get_xdata(), measured.get_ydata(), strict=True)) == [(0.8, 0.6)]
    bars = figure.axes[len(names)].patches
    assert [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in bars] == [(0.5, 0.5, 7)]
    charts.picture(figure, "Reliability")


# A phone of 390 pixels has room for a picture of so many.
PHONE_PX = 358


def drawings():
    """One of each chart that pages show."""
    rng, tokens = np.random.default_rng(0), [f"token{number}" for number in range(30)]
    bins = pd.DataFrame({"low": [0.0, 0.5], "high": [0.5, 1.0], "n": [3, 7], "confidence": [0.3, 0.8], "accuracy": [0.2, 0.6]})
    curve = pd.DataFrame({"x": [1, 10], "value": [50.0, 20.0]})
    stage = {"split": "train", "stage": "cut", "in": 9, "kept": 5, "rejected": 4, "reasons": {"no_data": 3, "cloud": 1}}
    counts = pd.DataFrame([[8, 1], [0, 9]], ["sea", "land"], ["sea", "land"])
    marks = pd.DataFrame({"category": ["lake", "city"], "size_px": [3.0, 9.0], "visible": [True, False]})
    logged = pd.DataFrame(
        {"step": [1, 2], "contrastive": [4.0, 3.0], "val_R@5": [1, 9], "val_chance_R@5": 1, "samples_per_s": 9}
    )
    names = (["image A", "image B"], ["a lake", "the sea"])
    return {
        "dots": charts.interval_dots(ROWS, "percent"),
        "curves": charts.curves_with_bands({"a": curve}, "x", "y"),
        "reliability": charts.reliability({"paper": bins, "plain": bins}),
        "training": charts.training_curves(logged),
        "scores": charts.score_matrix(rng.random((2, 2)), np.eye(2, dtype=bool), names, ([1, 1], [1, 2])),
        "tokens": charts.token_bars(tokens, {"share": rng.random(30)}, "percent"),
        "ranks": charts.rank_histogram({"a": np.array([1, 2])}, 100),
        "funnel": amounts.funnel([stage, stage | {"split": "test"}]),
        "stream": amounts.funnel_sankey([stage]),
        "matrix": amounts.share_matrix(counts, "said", "true"),
        "shares": amounts.stacked_shares(counts, "chips"),
        "bars": amounts.count_bars({"a": 3}, "pictures"),
        "sizes": amounts.size_strips(marks),
    }


def letters_px(element: str) -> list[float]:
    """How large the smallest letters of pictures are on a phone."""
    return [PHONE_PX * float(share) for share in re.findall(r'data-letters="([^"]*)"', element)]


def test_letters_of_every_chart_can_be_read_on_a_phone():
    for name, figure in drawings().items():
        element = charts.picture(figure, "A chart")
        assert '<source media="(max-width: 600px)"' in element, name
        assert min(letters_px(element)) >= 10, name
        wide, narrow = figure.get_size_inches(), figure.narrow.get_size_inches()
        assert narrow[0] < wide[0] or wide[0] < 4.5, name
    tokens = [f"token{number}" for number in range(40)]
    element = charts.token_matrices({"caption pass": np.ones((40, 40))}, tokens, ("read", "reads", "share"), "A matrix")
    assert min(letters_px(element)) >= 10


def test_on_a_phone_panels_stand_below_each_other_and_each_has_its_labels():
    figure = charts.interval_dots(ROWS, "percent")
    assert [axes.get_subplotspec().get_geometry()[:2] for axes in figure.axes] == [(1, 2)] * 2
    assert [axes.get_subplotspec().get_geometry()[:2] for axes in figure.narrow.axes] == [(2, 1)] * 2
    told = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.narrow.axes]
    assert told[0] == told[1] and told[0][0] == "plain"
    values = [sorted(x for x, _ in lines(axes, "o")) for axes in figure.narrow.axes]
    assert values == [[20.0, 30.0], [40.0]]


def test_a_chart_that_nobody_drew_for_phones_is_one_picture():
    figure, _ = style.canvas()
    assert charts.picture(figure, "Empty").startswith("<img ")


def test_the_legend_of_long_names_stays_inside_of_its_figure():
    names = "the book's model, words", "the book's model, example", "EfficientNet-Lite0, example", "mean colour, example"
    rows = [{"label": "sea", "series": name, "value": 50.0, "chance": 20.0} for name in names]
    figure = charts.interval_dots(rows, "percent")
    for drawn in (figure, figure.narrow):
        drawn.draw_without_rendering()
        box = drawn.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= drawn.bbox.x1
        assert [text.get_text() for text in drawn.legends[0].get_texts()] == [*names, "chance"]
