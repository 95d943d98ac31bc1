"""A search that learns from yes and no: the fit is the one it says it is, and labels help."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import teaching_cases
from teaching_cases import archive, precision

from rsvlm.errors import DataError
from rsvlm.search import teaching


def at_rows(vectors, direction, truth, rows, **more):
    about = teaching.space(vectors, direction)
    return about, teaching.teach(vectors, about, np.asarray(rows), truth[rows], **more)


def test_the_cases_for_others_hold():
    stored = json.loads(teaching_cases.FILE.read_text())

    def same(one, other, where=""):
        if isinstance(one, dict):
            assert one.keys() == other.keys(), where
            for name in one:
                same(one[name], other[name], f"{where}/{name}")
        elif isinstance(one, list) and one and isinstance(one[0], float | int):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4, err_msg=where)
        elif isinstance(one, list):
            assert len(one) == len(other), where
            for number, pair in enumerate(zip(one, other)):
                same(*pair, f"{where}[{number}]")
        else:
            assert one == (pytest.approx(other, rel=1e-4, abs=1e-4) if isinstance(one, float) else other), where

    same(teaching_cases.cases(), stored)


def test_without_labels_the_order_is_that_of_the_text_and_chips_among_its_first_are_proposed():
    vectors, direction, truth = archive()
    about, lesson = at_rows(vectors, direction, truth, np.empty(0, int), count=4)
    assert lesson.method == "text" and lesson.probabilities is None and lesson.classifier is None
    np.testing.assert_array_equal(lesson.order, np.argsort(-(vectors @ direction), kind="stable"))
    assert lesson.proposals[0] == lesson.order[0] and set(lesson.proposals.tolist()) < set(lesson.order[:80].tolist())
    assert about.spread == pytest.approx(np.sqrt(((vectors - vectors.mean(0)) ** 2).sum(1).mean()))


def test_rocchio_is_the_textbooks():
    vectors, direction, truth = archive()
    yes, no = np.flatnonzero(truth)[:2], np.flatnonzero(~truth)[:1]
    _, lesson = at_rows(vectors, direction, truth, [*yes, *no])
    assert lesson.method == "rocchio"
    expected = direction + 0.75 * vectors[yes].mean(axis=0) - 0.15 * vectors[no].mean(axis=0)
    np.testing.assert_allclose(lesson.weights, expected)
    np.testing.assert_allclose(lesson.scores, vectors @ expected, atol=1e-6)
    assert not set(lesson.proposals) & {*yes, *no}


def test_the_classifier_is_the_minimum_of_what_it_says_it_minimises():
    vectors, direction, truth = archive()
    rows = np.r_[np.flatnonzero(truth)[:5], np.flatnonzero(~truth)[:7]]
    about = teaching.space(vectors, direction)
    learnt = teaching.fit(about, vectors[rows], truth[rows], freedoms=[3.0])
    h, z, y = about.centred(vectors[rows]), about.text(vectors[rows]), truth[rows].astype(float)
    # The same in the space of the vectors: by plain Newton over A, B and v.
    x = np.concatenate([z[:, None], np.ones((len(rows), 1)), h], axis=1)
    start = np.r_[1.0, -2.0, np.zeros(h.shape[1])]
    weight, w = np.r_[1.0, 1 / 4, np.full(h.shape[1], 1 / 3.0)], start.copy()
    for _ in range(100):
        p = teaching.logistic(x @ w)
        w = w - np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + np.diag(weight), weight * (w - start) - x.T @ (y - p))
    every = np.concatenate([about.text(vectors)[:, None], np.ones((len(vectors), 1)), about.centred(vectors)], axis=1)
    np.testing.assert_allclose(vectors @ learnt.weights + learnt.offset, every @ w, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_the_fit_is_that_minimum_also_where_labels_contradict_the_text(seed):
    """Whole steps of Newton's go too far there."""
    vectors, direction, truth = archive(seed=seed)
    rows = np.random.default_rng(seed).permutation(len(vectors))[:60]
    about = teaching.space(vectors, -direction)
    h, z, y = about.centred(vectors[rows]), about.text(vectors[rows]), truth[rows].astype(float)
    for freedom in teaching.FREEDOMS:
        kernel = freedom * h @ h.T + np.outer(4 * z, 4 * z) + 4
        a, _ = teaching._newton(kernel, 4 * z - 2, y)
        # Where the gradient is zero, each a is what the label is above its chance.
        np.testing.assert_allclose(a, y - teaching.logistic(4 * z - 2 + kernel @ a), atol=1e-5)


def test_what_is_left_out_is_near_to_a_fit_without_it():
    vectors, direction, truth = archive(seed=2)
    rows = np.r_[np.flatnonzero(truth)[:8], np.flatnonzero(~truth)[:12]]
    about = teaching.space(vectors, direction)
    learnt = teaching.fit(about, vectors[rows], truth[rows], freedoms=[3.0])
    without = []
    for row in rows:
        rest = rows[rows != row]
        fit = teaching.fit(about, vectors[rest], truth[rest], freedoms=[3.0])
        without.append(vectors[row] @ fit.weights + fit.offset)
    all_in = vectors[rows] @ learnt.weights + learnt.offset
    assert np.abs(learnt.left_out - without).mean() < 0.35 * np.abs(all_in - without).mean()
    assert np.corrcoef(learnt.left_out, without)[0, 1] > 0.98


@pytest.mark.parametrize("kind", [True, False])
def test_one_kind_of_label_alone_is_learnt_from(kind):
    vectors, direction, truth = archive()
    rows = np.flatnonzero(truth == kind)[:6]
    _, lesson = at_rows(vectors, direction, truth, rows, count=5)
    assert lesson.method == "classifier" and np.isfinite(lesson.scores).all()
    means = [lesson.probabilities[rows].mean(), lesson.probabilities.mean()]
    assert means[0] > means[1] if kind else means[0] < 0.5
    # Nothing is known to be yes: the first of the order may be.
    if not kind:
        free = [row for row in lesson.order if row not in set(rows.tolist())]
        assert set(lesson.proposals.tolist()) < set(free[:100]) and len(lesson.proposals) == 5


def test_twenty_labels_that_are_proposed_teach_more_than_twenty_at_random_and_than_rocchio():
    gains = {"auto": [], "random": [], "rocchio": []}
    for seed in range(6):
        vectors, direction, truth = archive(seed=seed)
        about = teaching.space(vectors, direction)
        text = precision(teaching.teach(vectors, about, [], []).order, truth)
        for policy, values in gains.items():
            seen = np.empty(0, np.int64)
            lesson = teaching.teach(vectors, about, [], [], 5)
            while len(seen) < 20:
                at_random = np.random.default_rng(seed).permutation(len(vectors))
                seen = at_random[: len(seen) + 5] if policy == "random" else np.r_[seen, lesson.proposals]
                lesson = teaching.teach(vectors, about, seen, truth[seen], 5, "rocchio" if policy == "rocchio" else "auto")
            assert len(np.unique(seen)) == len(seen)
            values.append(precision(lesson.order, truth) - text)
    means = {policy: np.mean(values) for policy, values in gains.items()}
    assert means["auto"] > 0.1 and means["auto"] > means["random"] and means["auto"] > means["rocchio"], means


def test_proposals_are_uncertain_and_not_alike():
    vectors, direction, truth = archive()
    twins = np.concatenate([vectors, vectors])  # each chip has a twin at the same place
    rows = np.r_[np.flatnonzero(truth)[:6], np.flatnonzero(~truth)[:6]]
    about = teaching.space(twins, direction)
    lesson = teaching.teach(twins, about, rows, truth[rows], 10)
    assert len(lesson.proposals) == 10
    first = teaching.teach(twins, about, [], [], 10).proposals
    assert len(set((first % len(vectors)).tolist())) == 10
    chosen = lesson.proposals[:8] % len(vectors)  # two are drawn at random
    assert len(set(chosen.tolist())) == 8 and not set(chosen.tolist()) & set(rows.tolist())
    doubt = lesson.probabilities * (1 - lesson.probabilities)
    assert doubt[lesson.proposals[:8]].mean() > 2 * doubt.mean()


def test_no_chip_is_proposed_that_has_a_label_or_is_passed_over_and_no_more_than_there_are():
    vectors, direction, truth = archive(30)
    rows = np.arange(20)
    _, lesson = at_rows(vectors, direction, truth, rows, count=50, passed_over=[20, 21])
    assert set(lesson.proposals.tolist()) == set(range(22, 30))
    _, lesson = at_rows(vectors, direction, truth, np.arange(30), count=5)
    assert len(lesson.proposals) == 0


def test_half_precision_gives_the_same():
    vectors, direction, truth = archive()
    rows = np.r_[np.flatnonzero(truth)[:6], np.flatnonzero(~truth)[:6]]
    _, single = at_rows(vectors.astype(np.float32), direction, truth, rows)
    _, half = at_rows(vectors.astype(np.float16), direction, truth, rows)
    np.testing.assert_allclose(half.scores, single.scores, atol=0.05)


@pytest.mark.parametrize(
    ("rows", "yes", "message"),
    [([0, 0], [True, True], "once"), ([9999], [True], "expected one label"), ([-1], [True], "one label"), ([0], [], "labels")],
)
def test_labels_that_do_not_fit_are_refused(rows, yes, message):
    vectors, direction, _ = archive(30)
    with pytest.raises(DataError, match=message):
        teaching.teach(vectors, teaching.space(vectors, direction), rows, yes)


def test_vectors_that_say_nothing_are_refused():
    vectors, direction, _ = archive(30)
    with pytest.raises(DataError, match="zero, NaN"):
        teaching.space(vectors, direction * 0)
    with pytest.raises(DataError, match=r"expected \(N, E\)"):
        teaching.space(vectors, direction[:-1])
    with pytest.raises(DataError, match="alike"):
        teaching.space(np.repeat(vectors[:1], 30, axis=0), direction)
    vectors[3, 1] = np.nan
    with pytest.raises(DataError, match="index again"):
        teaching.space(vectors, direction)


def test_many_labels_are_too_many_for_the_fit():
    vectors, direction, truth = archive(teaching.MOST + 5)
    about = teaching.space(vectors, direction)
    with pytest.raises(DataError, match="1 to 1,000"):
        teaching.fit(about, vectors, truth)


def test_a_click_is_quick():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20_000, 512)).astype(np.float32) + 0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    about = teaching.space(vectors, vectors[0])
    rows = np.arange(60)
    yes = vectors[rows] @ vectors[0] > np.median(vectors[rows] @ vectors[0])
    seconds = []
    for _ in range(5):
        start = time.process_time()
        teaching.teach(vectors, about, rows, yes)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.2  # 0.01 where nothing else runs
