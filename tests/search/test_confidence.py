"""How sure a search that learns is: expectations hold what was so about as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from teaching_cases import archive, precision

from rsvlm.evaluation import statistics
from rsvlm.search import confidence, teaching


def taught(seed: int, labels: int = 20):
    vectors, direction, truth = archive(seed=seed)
    about = teaching.space(vectors, direction)
    seen = np.empty(0, np.int64)
    lesson = teaching.teach(vectors, about, [], [], 5)
    while len(seen) < labels:
        seen = np.r_[seen, lesson.proposals]
        lesson = teaching.teach(vectors, about, seen, truth[seen], 5)
    return vectors, about, truth, seen, lesson


def test_what_is_expected_holds_what_is_so():
    inside, off, first = [], [], []
    for seed in range(12):
        _, _, truth, seen, lesson = taught(seed)
        told = confidence.expectations(lesson, seen, truth[seen], (20,))
        true = precision(lesson.order, truth)
        inside.append(told["average_precision"]["ci_low"] <= true <= told["average_precision"]["ci_high"])
        off.append(abs(told["average_precision"]["value"] - true))
        among = truth[lesson.order[:20]].sum()
        first.append(told["first"][20]["ci_low"] - 0.5 <= among <= told["first"][20]["ci_high"] + 0.5)
    assert np.mean(inside) >= 0.75 and np.mean(off) < 0.2 and np.mean(first) >= 0.75, (inside, off, first)


def test_a_labelled_chip_counts_as_what_its_label_says():
    vectors, direction, truth = archive(60)
    about = teaching.space(vectors, direction)
    rows = np.arange(60)
    lesson = teaching.teach(vectors, about, rows, truth)
    told = confidence.expectations(lesson, rows, truth, (10, 60, 61))
    assert told["yes"] == {"value": truth.sum(), "ci_low": truth.sum(), "ci_high": truth.sum()}
    scores = statistics.average_precision(lesson.scores, truth, np.array([truth.sum()]), np.ones((1, 60)))
    assert told["average_precision"]["value"] == pytest.approx(scores[0])
    assert told["first"][10]["value"] == truth[lesson.order[:10]].sum() and set(told["first"]) == {10, 60}


def test_on_the_labels_alone_precision_is_that_of_the_left_out():
    _, _, truth, seen, lesson = taught(1)
    told = confidence.precision_on_labels(lesson.classifier, truth[seen])
    hits = np.array([truth[seen].sum()])
    true = statistics.average_precision(lesson.classifier.left_out, truth[seen], hits, np.ones((1, len(seen))))[0]
    assert told["value"] == pytest.approx(true) and told["ci_low"] <= told["value"] <= told["ci_high"]


def test_nothing_is_expected_of_few_labels_or_of_one_kind():
    vectors, direction, truth = archive()
    about = teaching.space(vectors, direction)
    few, one_kind = np.arange(4), np.flatnonzero(truth)[:7]
    for rows in (few, one_kind):
        lesson = teaching.teach(vectors, about, rows, truth[rows])
        assert confidence.expectations(lesson, rows, truth[rows]) is None
        assert confidence.history(vectors, about, rows, truth[rows]) == []
    assert confidence.precision_on_labels(lesson.classifier, truth[one_kind]) is None


def test_the_history_is_what_was_expected_then():
    vectors, about, truth, seen, lesson = taught(3, 25)
    told = confidence.history(vectors, about, seen, truth[seen])
    assert told[-1][0] == 25 and [n for n, _ in told] == sorted({n for n, _ in told})
    now = confidence.expectations(lesson, seen, truth[seen], ())["average_precision"]["value"]
    assert told[-1][1] == pytest.approx(now, abs=1e-6)


def test_enough_is_when_the_estimate_stops_rising():
    assert not confidence.enough([])
    assert not confidence.enough([(5, 0.5), (10, 0.6)])
    assert not confidence.enough([(5, 0.5), (10, 0.6), (15, 0.7), (20, 0.75)])
    assert confidence.enough([(5, 0.5), (10, 0.7), (15, 0.72), (20, 0.705)])


def test_later_ranks_count_in_groups_of_half_a_percent():
    edges = confidence.groups(1_000_000, (10, 50_000))
    sizes = np.diff(edges)
    assert (sizes[:2000] == 1).all() and (sizes > 0).all() and edges[-1] == 1_000_000 and 50_000 in edges and len(edges) < 4000
    assert (sizes[2000:] <= np.maximum(edges[2000:-1] // 200, 1)).all()
