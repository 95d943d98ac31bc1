"""Charts of amounts: what is counted adds up, and names are text."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rsvlm.book.figures import amounts, charts


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_strips_hold_every_landmark_that_has_a_size():
    categories = ["lake"] * 5 + ["$x$"] * 3 + ["town"] * 2
    table = pd.DataFrame({"category": categories, "size_px": [1, 2, 4, 8, 16, 1, 1, 0, 3, 3]})
    table["visible"] = table["size_px"] > 3
    figure = amounts.size_strips(table, most=2)
    visible, hidden = figure.axes[0].collections
    assert np.sort(visible.get_offsets()[:, 0]).tolist() == [4, 8, 16]
    assert np.sort(hidden.get_offsets()[:, 0]).tolist() == [1, 1, 1, 2]  # two lakes and two of the others: none without a size
    strips = np.round(np.asarray(hidden.get_offsets()[:, 1]) + 0.18).astype(int)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [r"\$x\$", "lake"] and sorted(strips.tolist()) == [0, 0, 1, 1]
    assert "<img" in charts.picture(figure, "Strips") and charts.picture(figure, "Strips") == charts.picture(figure, "Strips")


def test_a_matrix_is_in_percent_of_its_rows():
    counts = pd.DataFrame([[3, 1, 0], [0, 0, 0], [1, 0, 999]], index=["a", "b", "$c$"], columns=["x", "y", "z"])
    axes = amounts.share_matrix(counts, "columns", "rows").axes[0]
    assert texts(axes) == ["75", "25", "<1", "100"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (4)", "b (0)", r"\$c\$ (1,000)"]
    values = axes.collections[0].get_array().reshape(3, 3)
    assert values[1].mask.all() and values[0].tolist() == [75, 25, 0]


def test_a_split_that_lost_nothing_at_a_stage_still_flows_through_it():
    rows = [
        {"split": "train", "stage": "split", "in": 10, "kept": 6, "reasons": {"near": 4}},
        {"split": "train", "stage": "landmarks", "in": 6, "kept": 5, "reasons": {"none": 1}},
        {"split": "test", "stage": "landmarks", "in": 7, "kept": 3, "reasons": {"none": 4}},
        {"split": "val", "stage": "split", "in": 2, "kept": 1, "reasons": {"near": 1}},
    ]
    told = texts(amounts.funnel_sankey(rows).axes[0])
    assert {"split\n19", "landmarks\n14", "kept\n9", "5 near", "5 none"} <= set(told)
