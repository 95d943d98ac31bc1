"""Measures equal their definitions in every resample; intervals, differences and what is said of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rsvlm.errors import DataError
from rsvlm.evaluation import classification, retrieval, statistics


def test_resamples_are_the_same_however_many_come_at_once():
    whole = statistics.resamples(7, 10, 3)
    for at_once in (1, 3, 4, 20):
        parts = list(statistics.bootstrap(7, 10, 3, at_once))
        assert {len(part) for part in parts[1:-1]} <= {at_once} and len(parts[0]) == 1
        assert (np.concatenate(parts) == whole).all()
    rng = np.random.default_rng(3)
    assert all((row == np.bincount(rng.integers(0, 7, 7), minlength=7)).all() for row in whole[1:])
    assert statistics.resamples(7, 0, 3).tolist() == [[1] * 7]


def test_an_interval_is_of_the_resamples_that_have_a_value():
    values = np.array([50.0, np.nan, *range(101)])
    assert statistics.interval(values) == {"value": 50.0, "ci_low": 2.5, "ci_high": 97.5}
    for nothing in (values[:1], values[:2]):
        assert statistics.interval(nothing) == {"value": 50.0, "ci_low": None, "ci_high": None}
    gap = statistics.interval(values[:1]) | {"seeds": [50.0]}
    assert statistics.in_words(gap) == "+50.0 points (no interval)"


@pytest.mark.parametrize(("right", "low", "high"), [(58, 93.84, 100.0), (0, 0.0, 6.16)])
def test_an_interval_of_all_or_none_is_clopper_s_and_pearson_s(right, low, high):
    values = np.full(200, 100 * right / 58)
    found = statistics.interval(values, units=58)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((low, high), abs=0.005)
    # its end is the share of which so many misses in a row have a chance of 2.5 %
    assert (1 - statistics.most_missed(58) / 100) ** 58 == pytest.approx(0.025)
    assert statistics.interval(values)["ci_low"] == values[0]  # no share: nothing is known of it
    assert statistics.interval(values[:1], units=58)["ci_low"] is None


def test_summaries_of_perfect_systems_have_widths_of_their_own_numbers():
    ranks, image = np.ones((2, 30), int), np.repeat(np.arange(10), 3)
    times = statistics.resamples(40, 50, 0)  # the gallery has more images than ask
    perfect = statistics.summary(statistics.recall, [ranks], image, 1, times=times)
    assert perfect["units"] == 10 and perfect["ci_low"] == pytest.approx(100 * 0.025 ** (1 / 10)) and perfect["ci_high"] == 100
    gap = statistics.difference(perfect, perfect)
    assert gap["value"] == 0 and gap["ci_low"] == -gap["ci_high"] == pytest.approx(perfect["ci_low"] - 100)
    present = np.arange(40) < 4
    area = statistics.summary(statistics.mean_auc, [present[None].astype(float)], present, times=times)
    assert area["value"] == 100 and area["units"] == 4 and area["ci_low"] == pytest.approx(100 * 0.025 ** (1 / 4))


def test_few_resamples_whose_intervals_miss_their_number_are_told(caplog):
    rows = [{"metric": "R@1", "direction": "i2t", "value": 50.0, "ci_low": low, "ci_high": 80.0} for low in (40.0, 51.0, None)]
    statistics.warn_of_few(rows, 10)
    assert "1 of 2 intervals do not hold their own number, the first is of R@1 i2t: 10 resamples are few" in caplog.text
    caplog.clear()
    statistics.warn_of_few(rows, 1000)
    statistics.warn_of_few(rows[:1], 10)
    assert not caplog.text


def by_hand(score, right, total):
    """Average precision, going down the list; wrong before right at equal scores."""
    order = sorted(range(len(score)), key=lambda i: (-score[i], right[i]))
    precision = [sum(right[j] for j in order[: k + 1]) / (k + 1) for k in range(len(order))]
    return sum(max(precision[k:]) for k, i in enumerate(order) if right[i]) / total


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=14), st.integers(0, 5))
def test_precision_and_presence_equal_their_definitions(pairs, missed):
    score, right = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    total, once = right.sum() + missed, np.ones((1, len(pairs)))
    if total:
        found = statistics.average_precision(score, right, np.array([total]), once)
        assert found[0] == pytest.approx(by_hand(score, right, total))
    wins = [float(a > b) + 0.5 * (a == b) for a in score[right] for b in score[~right]]
    assert statistics.auc(score, right, once)[0] == pytest.approx(np.mean(wins) if wins else np.nan, nan_ok=True)
    weight = np.random.default_rng(len(pairs)).integers(0, 3, len(pairs))
    again = np.repeat(np.arange(len(pairs)), weight)  # a weight is so many copies
    times, once = weight[None].astype(float), np.ones((1, len(again)))
    if len(again):
        copied = statistics.auc(score[again], right[again], once)
        np.testing.assert_allclose(statistics.auc(score, right, times), copied)
    if right[again].any():
        found = statistics.average_precision(score, right, np.array([right[again].sum()]), times)[0]
        low, high = sorted([by_hand(score[again], right[again], right[again].sum()), found])
        assert high - low < 1e-9 or (len(set(score)) < len(score) and high <= 1)


def slow_auc(scores, present, times) -> float:
    """How often one that shows it is before one that does not, over pairs, written out."""
    right = wrong = 0.0
    for i, weight in enumerate(times):
        for j, other in enumerate(times):
            if present[i] and not present[j]:
                wrong += weight * other
                right += weight * other * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
    return 100 * right / wrong


def test_auc_is_the_share_of_pairs_in_order_in_every_resample():
    rng = np.random.default_rng(0)
    scores, present = rng.integers(0, 6, (3, 24)).astype(float), rng.random(24) < 0.4  # many ties
    times = statistics.resamples(24, 20, 1)
    expected = [np.mean([slow_auc(row, present, drawn) for row in scores]) for drawn in times]
    assert np.allclose(statistics.mean_auc(scores, present, times), expected, atol=1e-9)
    assert statistics.mean_auc(present[None].astype(float), present, times[:1]) == 100
    assert statistics.mean_auc(np.zeros((1, 24)), present, times[:1]) == 50
    assert np.isnan(statistics.mean_auc(scores, np.zeros(24, bool), times[:1]))
    with pytest.raises(DataError, match="NaN or infinite"):
        statistics.mean_auc(np.full((1, 24), np.nan), present, times)


def test_recall_counts_an_image_as_often_as_it_was_drawn():
    ranks, image = np.array([[1, 11, 3, 20], [1, 2, 30, 20]]), np.array([0, 0, 1, 2])
    times = np.array([[1, 1, 1], [2, 0, 1], [0, 0, 3]])
    # hits at 10 over two seeds: 1, 1/2, 1/2, 0
    assert np.allclose(statistics.recall(ranks, image, 10, times), [100 * 2 / 4, 100 * 3 / 5, 0])
    assert np.isnan(statistics.recall(ranks[:, :2], image[:2], 10, times)[2])


def test_mean_recall_is_that_of_the_retrieval_rows():
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(2, 60, 8)).astype(np.float32)
    vectors[1] += vectors[0]
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    i2t, t2i = retrieval.ranks(*vectors, np.arange(60))
    rows = retrieval.evaluate(*vectors, np.arange(60), protocol="one-to-one", bootstrap_samples=10)
    expected = next(line for line in rows if line["metric"] == "mR")
    times = statistics.resamples(60, 10, 0)
    found = statistics.summary(statistics.mean_recall, [i2t[None], t2i[None]], times=times)
    assert found["value"] == pytest.approx(expected["value"]) and found["seeds"] == [pytest.approx(found["value"])]
    assert statistics.chance(60) == pytest.approx(expected["chance"])


def test_summaries_of_seeds_and_differences_have_paired_intervals():
    rng = np.random.default_rng(3)
    present = rng.random(200) < 0.5
    good = present + rng.normal(size=(3, 200))
    times = statistics.resamples(200, 300, 0)
    one = statistics.summary(statistics.mean_auc, [good], present, times=times)
    other = statistics.summary(statistics.mean_auc, [good[:, ::-1]], present, times=times)
    assert one["value"] == pytest.approx(np.mean(one["seeds"])) and one["ci_low"] < one["value"] < one["ci_high"]
    gap, none = statistics.difference(one, other), statistics.difference(one, one)
    assert gap["ci_low"] > 0 and "chance" not in statistics.in_words(gap) and statistics.in_words(gap).startswith("+")
    assert (none["value"], none["ci_low"], none["ci_high"]) == (0, 0, 0) and "may be chance" in statistics.in_words(none)
    assert gap["seeds"] == [a - b for a, b in zip(one["seeds"], other["seeds"], strict=True)]
    assert statistics.in_words(gap | {"seeds": [1.0, -1.0]}).endswith("; seeds disagree)")
    assert statistics.in_words(gap | {"seeds": [1.0]}).endswith("; one seed)")
    rows = statistics.dots({("lake", "all"): one}, 50.0)
    assert len(rows) == 4 and rows[0]["ci_low"] == one["ci_low"] and "ci_low" not in rows[1]
    assert all(later["value"] == value for later, value in zip(rows[1:], one["seeds"], strict=True))


def test_resamples_begin_with_all_and_are_the_same_again():
    times = statistics.resamples(9, 4, 5)
    assert times.shape == (5, 9) and (times[0] == 1).all() and (times.sum(axis=1) == 9).all()
    assert (times == statistics.resamples(9, 4, 5)).all()
    assert any((one != other).any() for one, other in pairwise(times[1:]))


# Blocks


def test_blocks_are_drawn_whole_and_single_ones_are_as_none():
    blocks = ["a", "b", "a", "c", "b", "a"]
    times = statistics.resamples(6, 50, 0, blocks)
    assert (times[:, [0, 1]] == times[:, [2, 4]]).all() and (times[:, 0] == times[:, 5]).all()
    assert (times[1:, [0, 1, 3]].sum(axis=1) == 3).all() and (times[0] == 1).all()
    assert len({row.sum() for row in times}) > 1, "blocks differ in size, and so do resamples"
    assert (statistics.resamples(9, 20, 1, np.arange(9) * 7) == statistics.resamples(9, 20, 1)).all()
    for wrong, words in ((["a"], "1 blocks for 6 images"), ([None, *"bcdef"], "image 0 has no block")):
        with pytest.raises(DataError, match=words):
            statistics.resamples(6, 5, 0, wrong)


def _vectors(copies: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """60 pictures of which a noisy model finds some, each there several times, one caption each."""
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(60, 8))
    images = texts + 1.5 * rng.normal(size=(60, 8))
    whole = [np.repeat(one, copies, axis=0).astype(np.float32) for one in (images, texts)]
    return *(one / np.linalg.norm(one, axis=1, keepdims=True) for one in whole), np.arange(60 * copies)


def test_pictures_that_are_there_several_times_make_no_interval_narrower_if_blocks_are_drawn():
    images, texts, owners = _vectors(1)
    copied = _vectors(4)
    block = np.repeat(np.arange(60), 4)
    widths = {}
    how = {"ties": "optimistic", "bootstrap_samples": 400}  # so that a copy is no error
    cases = {"once": ((images, texts, owners), 5, None), "naive": (copied, 20, None), "blocks": (copied, 20, block)}
    for name, (vectors, k, blocks) in cases.items():
        rows = retrieval.evaluate(*vectors, ks=(k,), blocks=blocks, **how)
        row = next(row for row in rows if row["metric"] == f"R@{k}" and row["direction"] == "t2i")
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        widths[name] = row["ci_high"] - row["ci_low"]
    assert widths["naive"] < 0.7 * widths["blocks"], widths
    assert 0.7 < widths["blocks"] / widths["once"] < 1.5, widths


def test_the_same_holds_of_classes_and_a_perfect_score_is_of_so_many_blocks():
    rng = np.random.default_rng(1)
    label = np.repeat(rng.integers(0, 3, 40), 5)
    answer = np.where(np.repeat(rng.random(40) < 0.6, 5), label, (label + 1) % 3)
    images, block = np.eye(3, dtype=np.float32)[answer], np.repeat(np.arange(40), 5)

    def width(blocks, vectors=images):
        rows = classification.evaluate(vectors, label, np.eye(3, dtype=np.float32), ["a", "b", "c"], ks=[1], blocks=blocks)
        return rows[0]["ci_high"] - rows[0]["ci_low"]

    assert width(None) < 0.7 * width(block)
    assert width(block, np.eye(3, dtype=np.float32)[label]) == pytest.approx(statistics.most_missed(40))


def test_ground_that_overlaps_is_one_block_and_what_hangs_on_it_too():
    boxes = np.array([[0, 0, 2, 2], [5, 5, 6, 6], [1, 1, 3, 3], [2.5, 2.5, 4, 4], [4, 4, 5, 5]], float)
    assert statistics.overlapping(boxes).tolist() == [0, 1, 0, 0, 4], "boxes that touch are apart"
    with pytest.raises(DataError, match="box 1 is"):
        statistics.overlapping(np.array([[0, 0, 1, 1], [1, 0, 1, 1]]))


# Few units, few misses, magnitudes, seeds


def test_few_misses_and_few_units_have_clopper_s_and_pearson_s_interval():
    stats = pytest.importorskip("scipy.stats")
    for right, n in ((45, 50), (394, 400), (3, 120)):
        times = statistics.resamples(n, 2000, 0)
        values = 100 * times @ (np.arange(n) < right) / n
        found = statistics.interval(values, n)
        known = stats.binomtest(right, n).proportion_ci(method="exact")
        width = 100 * (known.high - known.low)
        assert found["ci_low"] == pytest.approx(100 * known.low, abs=0.1 * width)
        assert found["ci_high"] == pytest.approx(100 * known.high, abs=0.1 * width)
    values = 50 + 2.5 * np.append(0, np.random.default_rng(0).normal(size=20_000))
    wider = [found["ci_high"] - found["ci_low"] for found in (statistics.interval(values, 400), statistics.interval(values))]
    assert 1 < wider[0] / wider[1] < 1.01, "of many, percentiles stay, but for Student's t"
    assert statistics.exact_interval(0.5, 0.01, 1) == (0, 100)


def test_percentiles_of_a_share_lie_as_much_further_out_as_student_s_t_does():
    stats = pytest.importorskip("scipy.stats")
    for units in (10, 100, 1093):
        t = stats.t.ppf(0.975, units - 1) * np.sqrt(units / (units - 1))
        assert statistics._outside(units) == pytest.approx(100 * stats.norm.sf(t), rel=0.01)
    assert statistics._outside(10**7) == pytest.approx(2.5, rel=1e-4)


def test_few_misses_in_blocks_are_taken_to_hang_together():
    independent = 0.97 * 0.03 / 200
    assert statistics.effective_images(0.97, independent, 200) == pytest.approx(200), "of single images nothing changes"
    assert statistics.effective_images(0.97, independent * 2, 200) == pytest.approx(100), "nor where they vary more than these"
    blocks, few, some = (
        statistics.effective_images(share, share * (1 - share) / 400, statistics.Blocks(20)) for share in (0.001, 0.01, 0.3)
    )
    assert 20 < blocks < few < some < 400 and some > 360, "400 images in 20 blocks: the fewer hits, the nearer to 20"
    low, high = statistics.exact_interval(0.001, 0.001 * 0.999 / 400, statistics.Blocks(20))
    assert low < 0.1 < high and high > 0.5 * statistics.most_missed(20), "as of none, about"
    alone = statistics.effective_images(0.01, 0.01 * 0.99 / 400, 20)
    assert few < alone < 400, "units that are images are pulled less"
    assert isinstance(statistics.count_blocks(["a", "a", "b"], 3), statistics.Blocks)
    assert not isinstance(statistics.count_blocks(None, 3), statistics.Blocks)


def test_quantiles_are_those_of_the_textbook():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (4, 9, 30, 1e9):
        assert statistics.student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.003)
    for a, b in ((3, 48), (15.5, 2.2), (400, 30), (1, 1)):
        for part in (0.025, 0.975):
            assert statistics._beta(part, a, b) == pytest.approx(stats.beta.ppf(part, a, b), rel=1e-3)


def test_what_lies_in_one_block_tells_nothing_of_others():
    """Eight of nine right, all in the first of nine blocks: each resample that has them says the same, up to rounding."""
    draws = np.array([800 / 9, *(800 / 9 + np.tile([0, 2e-14, np.nan], 100))])
    found = statistics.interval(draws, statistics.Blocks(9))
    assert found == {"value": 800 / 9, "ci_low": 0.0, "ci_high": 100.0}


def test_blocks_of_unlike_sizes_count_as_fewer_equal_ones():
    assert statistics.count_blocks(None, 7) == 7 and statistics.count_blocks(list("aabbcc"), 6) == 3
    assert statistics.count_blocks(["a"] * 97 + ["b", "c", "d"], 100) == 1
    assert statistics.count_blocks(["a"] * 4 + ["b"] * 2 + ["c"] * 2, 8) == 2


def test_differences_of_few_are_wider_and_of_the_same_answers_0():
    times = statistics.resamples(50, 500, 0)
    ours, theirs = (100 * times @ (np.arange(50) < right) / 50 for right in (50, 49))
    few = statistics.gap(ours, theirs, 50)
    assert few["ci_low"] < 0 < few["value"] < few["ci_high"], "one of 50 may be chance"
    same = statistics.gap(theirs, theirs.copy(), 50)
    assert (same["value"], same["ci_low"], same["ci_high"]) == (0, 0, 0)


def test_a_sum_of_magnitudes_may_be_nothing_but_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(501, 15))
    alone = statistics.magnitude_interval(np.vstack([noise[:1], noise[:1] + noise[1:]]))
    assert alone["ci_low"] == pytest.approx(0, abs=1e-6) and alone["ci_high"] >= alone["value"]
    gaps = np.zeros(15)
    gaps[3] = 30
    clear = statistics.magnitude_interval(np.vstack([gaps + noise[:1], gaps + noise[:1] + noise[1:]]))
    assert 20 < clear["ci_low"] < 30.0 < clear["ci_high"] < 50
    assert statistics.magnitude_interval(np.full((3, 2), np.nan))["ci_low"] is None
    assert statistics.magnitude_interval(gaps[None])["ci_low"] is None


@pytest.mark.parametrize("sizes", [[68] * 9, [19, 33, 33, 55, 63, 77, 95, 106, 130], [13] * 43])
def test_differences_over_blocks_hold_the_truth_and_tell_something(sizes):
    """Two models that are right in some blocks more than in others; the truth is the mean over all blocks that there could be."""
    rng, sizes, K = np.random.default_rng(0), np.array(sizes), len(sizes)

    def chances(count):
        common, apart = rng.normal(0, 0.5, count), rng.normal(0, 0.3, count)
        return [1 / (1 + np.exp(-(common + sign * (0.4 + apart / 2)))) for sign in (1, -1)]

    one, other = chances(200_000)
    truth, held, widths = 100 * float(np.mean(one - other)), [], []
    for _ in range(300):
        ours, theirs = (rng.binomial(sizes, chance) for chance in chances(K))
        times = np.concatenate([np.ones((1, K)), rng.multinomial(K, np.ones(K) / K, size=300)])
        shares = [100 * times @ right / (times @ sizes) for right in (ours, theirs)]
        found = statistics.gap(*shares, K, images=int(sizes.sum()))
        held.append(found["ci_low"] <= truth <= found["ci_high"])
        widths.append(found["ci_high"] - found["ci_low"])
    assert 0.92 <= np.mean(held) <= 0.99
    assert np.mean(widths) < 20  # as if each block were one picture it was above 60 with nine


def test_seeds_widen_an_interval_as_far_as_they_differ():
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2001, 1)) * 2 + 70
    for spread, least, most in ((0.0, 7.2, 8.5), (5.0, 10.2, 12.8)):
        values = images + spread * np.array([[-1.2, 0.3, 0.9, -0.5, 0.5]])
        varied = statistics.over_seeds(values, 0)
        found = statistics.interval(varied)
        assert varied[0] == pytest.approx(values[0].mean())
        assert least < found["ci_high"] - found["ci_low"] < most
    assert (statistics.over_seeds(values[:, :1], 0) == values[:, 0]).all()
    assert (statistics.over_seeds(values, 3) == statistics.over_seeds(values, 3)).all()
