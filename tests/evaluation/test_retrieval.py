"""Recall, ties, protocols, chance and intervals against hand-worked cases, written-out definitions and brute force."""

import importlib.util
import logging
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import ROOT, toy_sample
from hypothesis import given, settings, strategies as st
from PIL import Image
from scipy import stats

from rsvlm.errors import DataError
from rsvlm.evaluation import counting, retrieval
from rsvlm.model import embed, mammut, tokenizer, weights


def unit(array):
    array = np.asarray(array, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def value(rows, direction, metric, field="value", protocol=None):
    wanted = (direction, metric)
    return next(
        row[field] for row in rows if (row["direction"], row["metric"]) == wanted and protocol in (None, row["protocol"])
    )


def brute_force(scores, right):
    """Per query: wrong items above and level with its best right answer, right ones level with it, and average precision."""
    found = []
    for line, own in zip(scores, right, strict=True):
        if not own.any():
            found.append((0, 0, 0, 0.0, 0.0))
            continue
        best = line[own].max()
        precision = []
        for level in (False, True):  # optimistic, pessimistic
            wrong = [(line[~own] >= t).sum() if level else (line[~own] > t).sum() for t in sorted(line[own], reverse=True)]
            precision.append(np.mean([(p + 1) / (p + 1 + w) for p, w in enumerate(wrong)]))
        found.append(((line[~own] > best).sum(), (line[~own] == best).sum(), (line[own] == best).sum(), *precision))
    return np.array(found, float)


def small_numbers(seed, N, M, width):
    """Vectors of small whole numbers: sums are exact and ties are common. None is zero."""
    rng = np.random.default_rng(seed)
    images, texts = (rng.integers(-2, 3, (count, width)).astype(np.float32) for count in (N, M))
    images[~images.any(1)], texts[~texts.any(1)] = 1, 1
    return images, texts, rng.integers(0, N, M)


def same(standing, wanted):
    got = np.column_stack([standing.above, standing.equal, standing.own])
    np.testing.assert_array_equal(got, wanted[:, :3])
    np.testing.assert_allclose(standing.precision["optimistic"], wanted[:, 3])
    np.testing.assert_allclose(standing.precision["pessimistic"], wanted[:, 4])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 90), st.integers(1, 6))
def test_standings_equal_the_full_matrix(seed, N, M, width):
    images, texts, owners = small_numbers(seed, N, M, width)
    right = owners == np.arange(N)[:, None]
    i2t, t2i = retrieval.standings(images, texts, owners)
    same(i2t, brute_force(images @ texts.T, right))
    same(t2i, brute_force(texts @ images.T, right.T))


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_no_block_size_and_no_library_changes_a_count(block, monkeypatch):
    rng = np.random.default_rng(0)
    images, texts, owners = unit(rng.normal(size=(90, 33))), unit(rng.normal(size=(260, 33))), rng.integers(0, 90, 260)
    texts[rng.integers(0, 260, 60)] = texts[5]  # one caption that many images own, anywhere
    images[[3, 50, 88]] = images[20]
    wanted = retrieval.standings(images, texts, owners)
    monkeypatch.setattr(counting, "BLOCK", block)
    blocks = retrieval.standings(images, texts, owners)
    with monkeypatch.context() as patch:
        patch.setattr(counting, "_on_cpu", lambda device: False)  # what a GPU would run
        in_torch = retrieval.standings(images, texts, owners)
    for other in (blocks, in_torch):
        for one, two in zip(wanted, other, strict=True):
            for name in ("above", "equal", "own"):
                np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    order = rng.permutation(260)  # the order of the captions changes nothing either
    shuffled = retrieval.standings(images, texts[order], owners[order])
    np.testing.assert_array_equal(wanted[0].equal, shuffled[0].equal)
    np.testing.assert_array_equal(wanted[1].equal[order], shuffled[1].equal)


def test_threads_change_nothing():
    rng = np.random.default_rng(0)
    images, texts = unit(rng.normal(size=(1100, 8))), unit(rng.normal(size=(2100, 8)))
    owners = rng.integers(0, 1100, 2100)
    alone = retrieval.ranks(images, texts, owners)
    torch.set_num_threads(3)
    try:
        together = retrieval.ranks(images, texts, owners)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    np.testing.assert_array_equal(alone[0], together[0])
    np.testing.assert_array_equal(alone[1], together[1])


def test_scores_that_float32_cannot_tell_apart_are_ranked_right():
    rng = np.random.default_rng(0)
    image = unit(rng.normal(size=(1, 512)))
    texts = np.repeat(image, 400, 0)
    at = rng.permutation(400)
    texts[np.arange(400), at] = np.nextafter(texts[np.arange(400), at], np.float32(9))  # each one bit away from the image
    images = np.concatenate([image, unit(rng.normal(size=(399, 512)))])
    right = np.eye(400, dtype=bool)
    scores = images.astype(np.float64) @ texts.astype(np.float64).T
    i2t, _ = retrieval.standings(images, texts, np.arange(400))
    assert i2t.above[0] == (scores[0] > scores[0, 0] + 1e-16).sum() > 20
    assert (images @ texts.T)[0].max() - (images @ texts.T)[0].min() < 1e-6  # where float32 would have ranked by noise
    assert right.sum() == 400


def clip_benchmark_recall(scores, positive_pairs, k):
    """recall_at_k of CLIP_benchmark, written out: right answers among the first k over all right answers; above 0 is a hit."""
    top = np.argsort(-scores, axis=1)[:, :k]
    true_positives = np.take_along_axis(positive_pairs, top, 1).sum(1)
    return float(((true_positives / positive_pairs.sum(1)) > 0).mean())


@pytest.mark.parametrize("seed", range(5))
def test_plain_is_the_definition_of_clip_benchmark(seed):
    rng = np.random.default_rng(seed)
    N = 120
    owners = np.repeat(np.arange(N), rng.integers(1, 8, N))  # one to seven captions per image
    images = unit(rng.normal(size=(N, 24)))
    texts = unit(images[owners] + 1.5 * rng.normal(size=(len(owners), 24)))
    scores = texts @ images.T  # (captions, images), as there
    positive_pairs = owners[:, None] == np.arange(N)
    rows = retrieval.evaluate(images, texts, owners, bootstrap_samples=0)
    for k in (1, 5, 10):
        image_retrieval = clip_benchmark_recall(scores, positive_pairs, k)
        text_retrieval = clip_benchmark_recall(scores.T, positive_pairs.T, k)
        assert 0 < image_retrieval < 1
        assert value(rows, "t2i", f"R@{k}") == pytest.approx(100 * image_retrieval, abs=1e-6)
        assert value(rows, "i2t", f"R@{k}") == pytest.approx(100 * text_retrieval, abs=1e-6)


def test_clip_benchmark_gives_the_same_numbers():
    reason = "clip_benchmark is not installed"
    theirs = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval", reason=reason, exc_type=ImportError)
    torch.manual_seed(0)
    words = tokenizer.train([caption for index in range(50) for caption in toy_sample(index)[1]], 320, 48)
    sizes = {"image_size": 32, "patch_size": 8, "vision_width": 32, "vision_layers": 1, "vision_heads": 2}
    sizes |= {"text_width": 32, "text_layers": 1, "text_heads": 2}
    model = mammut.Mammut(mammut.MammutConfig(**sizes, vocab_size=len(words), context_length=48)).eval()
    model.tokenizer = words
    rng = np.random.default_rng(0)
    pictures = [toy_sample(index)[0] for index in range(50)]
    # one to seven captions of an image, all different: where scores tie, theirs takes the order that topk happens to give
    captions = [[f"{toy_sample(i)[1][0]}, {i} {j}" for j in range(rng.integers(1, 8))] for i in range(50)]
    owners = np.repeat(np.arange(50), [len(own) for own in captions])

    encoder = embed.MammutEncoder(model)
    strings = [caption for own in captions for caption in own]
    ours = retrieval.evaluate(encoder.images(pictures), encoder.texts(strings), owners, strings, "plain", bootstrap_samples=0)

    face = weights.OpenClipFace(model)
    batches = [slice(0, 24), slice(24, 48), slice(48, 50)]
    loader = [(torch.stack([face.preprocess(Image.fromarray(a)) for a in pictures[part]]), captions[part]) for part in batches]
    found = theirs.evaluate(face, loader, face.tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
    assert len(found) == 6 and 0 < min(found.values()) < max(found.values()) < 1
    for k in (1, 5, 10):
        assert value(ours, "t2i", f"R@{k}") == pytest.approx(100 * found[f"image_retrieval_recall@{k}"], abs=1e-6)
        assert value(ours, "i2t", f"R@{k}") == pytest.approx(100 * found[f"text_retrieval_recall@{k}"], abs=1e-6)


def test_worked_example():
    # three images on the axes; captions 0, 1 belong to image 0, caption 2 to image 1, caption 3 to image 2 but points at image 1
    images = np.eye(3, dtype=np.float32)
    captions = np.array([[1, 0, 0], [0, 0.6, 0.8], [0, 1, 0], [0, 0.8, 0.6]], np.float32)
    owner = np.array([0, 0, 1, 2])
    i2t, t2i = retrieval.ranks(images, captions, owner)
    assert i2t.tolist() == [1, 1, 2]  # image 2: caption 1 scores 0.8, its own 0.6
    assert t2i.tolist() == [1, 3, 1, 2]  # caption 1: both other images score above its own (0)
    rows = retrieval.evaluate(images, captions, owner, ks=(1, 2))
    assert value(rows, "i2t", "R@1") == pytest.approx(200 / 3)
    assert value(rows, "t2i", "R@1") == pytest.approx(50)
    assert value(rows, "t2i", "R@2") == pytest.approx(75)
    assert value(rows, "both", "mR") == pytest.approx((200 / 3 + 100 + 50 + 75) / 4)
    assert value(rows, "t2i", "median_rank") == 1.5
    assert value(rows, "t2i", "mAP") == pytest.approx(100 * (1 + 1 / 3 + 1 + 1 / 2) / 4)
    # image 0: ranks 1 and, behind both that tie with caption 1, 4; image 1: rank 1; image 2: rank 2
    assert value(rows, "i2t", "mAP") == pytest.approx(100 * ((1 + 2 / 4) / 2 + 1 + 1 / 2) / 3)
    assert value(rows, "i2t", "R@1", "n") == 3 and value(rows, "t2i", "R@1", "n") == 4


def test_three_rules_for_ties():
    images = unit([[1, 0], [1, 0], [1, 0], [0, 1]])  # the first three cannot be told apart
    i2t, t2i = retrieval.standings(images, images, np.arange(4))
    assert retrieval.rank(t2i).tolist() == [3, 3, 3, 1]
    assert retrieval.rank(t2i, "optimistic").tolist() == [1, 1, 1, 1]
    assert retrieval.rank(t2i, "average").tolist() == [2, 2, 2, 1]
    np.testing.assert_allclose(retrieval.hits(t2i, (1, 2, 3), "average"), [[1 / 3, 2 / 3, 1]] * 3 + [[1, 1, 1]])
    found = {
        ties: value(retrieval.evaluate(images, images, np.arange(4), ks=(1,), ties=ties), "t2i", "R@1")
        for ties in retrieval.TIES
    }
    assert found == pytest.approx({"pessimistic": 25, "average": 50, "optimistic": 100})
    rows = retrieval.evaluate(images, images, np.arange(4), ks=(1,), ties="average")
    assert {row["protocol"] for row in rows} == {"plain (average ties)"}  # never taken for the usual number


def test_average_ties_are_what_random_orders_give():
    images, texts, owners = small_numbers(4, 6, 20, 2)
    i2t, _ = retrieval.standings(images, texts, owners)
    scores, right = images @ texts.T, owners == np.arange(6)[:, None]
    rng = np.random.default_rng(0)
    ranked, hit = [], []
    for _ in range(4000):
        order = np.lexsort((rng.random(scores.shape), -scores), axis=1)
        first = np.argmax(np.take_along_axis(right, order, 1), 1) + 1
        ranked.append(first)
        hit.append(first[:, None] <= (1, 4))
    asked = right.any(1)
    assert (i2t.equal[asked] > 0).any()
    np.testing.assert_allclose(np.mean(ranked, 0)[asked], retrieval.rank(i2t, "average")[asked], atol=0.15)
    np.testing.assert_allclose(np.mean(hit, 0)[asked], retrieval.hits(i2t, (1, 4), "average")[asked], atol=0.04)


def test_one_to_one_takes_the_first_caption_of_each_image():
    images = np.eye(3, dtype=np.float32)
    captions = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)  # the first two both belong to image 0
    owner = np.array([0, 0, 1, 2])
    plain = retrieval.evaluate(images, captions, owner, ks=(1,))
    single = retrieval.evaluate(images, captions, owner, ks=(1,), protocol="one-to-one")
    assert value(plain, "i2t", "R@1") == pytest.approx(200 / 3)  # image 2 ties with caption 0, which counts against it
    assert value(single, "i2t", "R@1") == pytest.approx(100 / 3)
    assert value(single, "t2i", "R@1", "n") == 3


def test_equal_captions_count_against_each_other_unless_pooled():
    images = unit([[1, 0], [1, 0.1]])
    captions = unit([[1, 1], [1, 1]])
    i2t, t2i = retrieval.ranks(images, captions, np.array([0, 1]))
    assert i2t.tolist() == [2, 2] and t2i.tolist() == [2, 1]
    rows = retrieval.evaluate(images, captions, np.array([0, 1]), ["same", "same"], "skyscript", ks=(1,))
    assert value(rows, "i2t", "R@1") == value(rows, "t2i", "R@1") == 100
    assert value(rows, "t2i", "R@1", "n") == 1 and value(rows, "i2t", "R@1", "n") == 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 15), st.integers(1, 40))
def test_pooling_equals_the_definition(seed, N, M):
    images, _, owners = small_numbers(seed, N, M, 3)
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 + M // 3, M)  # many images carry the same text, some twice
    texts = unit(rng.normal(size=(M, 3)))[codes]
    captions = [f"text {code}" for code in codes]
    names = sorted(set(codes.tolist()))
    scores = images.astype(float) @ np.array([texts[codes == c][0] for c in names]).astype(float).T
    right = np.array([[((codes == c) & (owners == i)).any() for c in names] for i in range(N)])
    rows = retrieval.evaluate(images, texts, owners, captions, "skyscript", ks=(1,), bootstrap_samples=0)
    for direction, matrix, own in (("i2t", scores, right), ("t2i", scores.T, right.T)):
        asked = own.any(1)
        wanted = brute_force(np.round(matrix, 9), own)[asked]
        assert value(rows, direction, "R@1") == pytest.approx(100 * ((wanted[:, 0] + wanted[:, 1]) == 0).mean())
        assert value(rows, direction, "mAP") == pytest.approx(100 * wanted[:, 4].mean())
        assert value(rows, direction, "R@1", "n") == asked.sum()


def test_all_protocols_from_one_set_of_embeddings(caplog):
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(20), 3)
    images = unit(rng.normal(size=(20, 8)))
    codes = rng.integers(0, 30, 60)
    texts = unit(rng.normal(size=(30, 8)))[codes]
    captions = [f"text {code}" for code in codes]
    rows = retrieval.evaluate(images, texts, owners, captions, "all", ks=(1, 5), bootstrap_samples=20)
    assert list(dict.fromkeys(row["protocol"] for row in rows)) == list(retrieval.PROTOCOLS)
    for name in retrieval.PROTOCOLS:
        alone = retrieval.evaluate(images, texts, owners, captions, name, ks=(1, 5), bootstrap_samples=20)
        assert [row for row in rows if row["protocol"] == name] == alone
    assert value(rows, "t2i", "R@1", "n", "skyscript") == len(set(captions)) < 60
    assert value(rows, "t2i", "R@1", "n", "one-to-one") == 20
    with caplog.at_level(logging.WARNING):
        without = retrieval.evaluate(images, texts, owners, None, "all", ks=(1, 5), bootstrap_samples=20)
    assert "skyscript" not in {row["protocol"] for row in without} and "skyscript is left out" in caplog.text
    with pytest.raises(DataError, match="caption strings"):
        retrieval.evaluate(images, texts, owners, None, "skyscript")


def test_caption_text():
    captions = ["many Planes are parked", "ÉCOLE"]
    assert retrieval.caption_text("remoteclip", captions) == ["Many planes are parked", "École"]
    assert retrieval.caption_text("skyscript", captions)[0] == "a satellite image. many Planes are parked"
    for name in ("plain", "rs5m", "one-to-one"):
        assert retrieval.caption_text(name, captions) == captions
    with pytest.raises(DataError, match="unknown protocol"):
        retrieval.caption_text("flickr", captions)


def test_empty_captions_are_left_out_and_counted(caplog):
    images = np.eye(3, dtype=np.float32)
    captions = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0], [np.nan, 0, 0]], np.float32)
    owners, texts = np.array([0, 0, 1, 2]), ["  ", "a", "b", ""]
    skipped = Counter()
    with caplog.at_level(logging.WARNING):
        rows = retrieval.evaluate(images, captions, owners, texts, ks=(1,), skipped=skipped)
    assert skipped == {"empty caption": 2} and "2 of 4 captions are empty" in caplog.text
    assert value(rows, "i2t", "R@1") == value(rows, "t2i", "R@1") == 100
    assert value(rows, "i2t", "R@1", "n") == 2  # image 2 asks nothing now, and is still a distractor:
    assert value(rows, "t2i", "R@1", "chance") == pytest.approx(100 / 3)
    single = retrieval.evaluate(images, captions, owners, texts, "one-to-one", ks=(1,))
    assert value(single, "t2i", "R@1") == 100  # the first caption that says something
    with pytest.raises(DataError, match="all 4 captions are empty"):
        retrieval.evaluate(images, captions, owners, [""] * 4)


def test_chance_is_what_random_embeddings_reach():
    rng = np.random.default_rng(0)
    N, owner = 40, np.repeat(np.arange(40), rng.integers(1, 6, 40))
    M = len(owner)
    captions = [f"text {i}" for i in rng.integers(0, M // 2, M)]  # pooled: several right answers both ways
    for protocol in ("plain", "skyscript"):
        found, expected = [], None
        for _ in range(300):
            images, texts = unit(rng.normal(size=(N, 16))), unit(rng.normal(size=(M, 16)))
            rows = retrieval.evaluate(images, texts, owner, captions, protocol, bootstrap_samples=0, ks=(1, 5))
            found.append([row["value"] for row in rows])
            expected = np.array([row["chance"] for row in rows])
        found = np.array(found)
        off = np.abs(found.mean(0) - expected)
        exact = np.array([row["metric"] != "median_rank" for row in rows])
        np.testing.assert_array_less(off[exact], (4 * found.std(0) / np.sqrt(len(found)))[exact])
        np.testing.assert_array_less(off[~exact], 0.2 * expected[~exact])  # medians: approximate


def test_interval_covers_and_narrows():
    rng = np.random.default_rng(1)

    def rows_of(count):
        images = rng.normal(size=(count, 8))
        return retrieval.evaluate(
            unit(images), unit(images + rng.normal(size=images.shape)), np.arange(count), bootstrap_samples=300
        )

    small, large = rows_of(50), rows_of(1000)
    for rows in (small, large):
        assert all(row["ci_low"] <= row["value"] <= row["ci_high"] for row in rows if row["metric"] != "median_rank")
    width = [value(r, "both", "mR", "ci_high") - value(r, "both", "mR", "ci_low") for r in (small, large)]
    assert 0 < width[1] < width[0]


def test_intervals_equal_a_loop_over_resampled_images():
    rng = np.random.default_rng(2)
    owners = np.sort(rng.integers(0, 150, 450))  # with fewer images the ends would not be percentiles
    images = unit(rng.normal(size=(150, 8)))
    texts = unit(images[owners] + rng.normal(size=(450, 8)) / 3)
    rows = retrieval.evaluate(images, texts, owners, ks=(1,), bootstrap_samples=50, seed=7)
    i2t, t2i = retrieval.ranks(images, texts, owners)
    draws = np.random.default_rng(7)
    recalls, medians = [], []
    for _ in range(50):
        mine = np.concatenate([t2i[owners == image] for image in draws.integers(0, 150, 150)])
        recalls.append(100 * np.mean(mine <= 1))
        medians.append(np.median(mine))
    outside = 100 * stats.norm.cdf(-stats.t.ppf(0.975, 149) * np.sqrt(150 / 149))  # expanded percentiles, Hesterberg 2015
    for metric, found, out in (("R@1", recalls, outside), ("median_rank", medians, 2.5)):
        low, high = np.percentile(found, [out, 100 - out])
        ends = value(rows, "t2i", metric, "ci_low"), value(rows, "t2i", metric, "ci_high")
        assert ends == pytest.approx((low, high), rel=2e-3)  # Student's t is known to 1 in 300
    without = retrieval.evaluate(images, texts, owners, ks=(1,), bootstrap_samples=0)
    assert value(without, "t2i", "R@1", "ci_low") is None
    assert value(without, "t2i", "R@1") == value(rows, "t2i", "R@1")


def test_no_interval_of_a_share_is_without_width():
    owners = np.repeat(np.arange(20), 3)
    images = np.eye(20, dtype=np.float32)
    rows = retrieval.evaluate(images, images[owners], owners, ks=(1, 5), bootstrap_samples=50, classes=["a"] * 5 + ["b"] * 15)
    wide = {row["metric"]: row["ci_low"] for row in rows if row["direction"] == "t2i" and row["value"] == 100}
    assert wide["R@1"] == wide["R@5"] == wide["mAP"] == pytest.approx(100 * 0.025 ** (1 / 20))  # 20 images, not 60 captions
    assert wide["R@1[a]"] == pytest.approx(100 * 0.025 ** (1 / 5))
    none = retrieval.evaluate(images, np.roll(images, 1, axis=0), np.arange(20), ks=(1,), bootstrap_samples=50)
    assert value(none, "i2t", "R@1") == 0 and value(none, "i2t", "R@1", "ci_high") == pytest.approx(
        100 * (1 - 0.025 ** (1 / 20))
    )
    assert all(row["ci_low"] < row["ci_high"] for row in rows + none if row["metric"] != "median_rank")


def test_breakdown_by_class():
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(30), 2)
    images = unit(rng.normal(size=(30, 8)))
    texts = unit(images[owners] + rng.normal(size=(60, 8)))
    classes = ["airport"] * 10 + ["<b>park</b>"] * 15 + [None] * 5
    rows = retrieval.evaluate(images, texts, owners, ks=(1,), classes=classes, bootstrap_samples=50)
    i2t, t2i = retrieval.ranks(images, texts, owners)
    assert value(rows, "i2t", "R@1[airport]") == pytest.approx(100 * np.mean(i2t[:10] == 1))
    assert value(rows, "t2i", "R@1[<b>park</b>]") == pytest.approx(100 * np.mean(t2i[20:50] == 1))
    assert value(rows, "t2i", "R@1[airport]", "n") == 20 and value(rows, "both", "mR[airport]", "n") == 10
    assert value(rows, "t2i", "R@1[airport]", "chance") == pytest.approx(100 / 30)  # the gallery is everybody
    assert value(rows, "i2t", "R@1[airport]", "ci_low") <= value(rows, "i2t", "R@1[airport]")
    assert not any("None" in row["metric"] for row in rows)
    with pytest.raises(DataError, match="3 classes for 30"):
        retrieval.evaluate(images, texts, owners, classes=["a"] * 3)


def test_an_image_without_captions_is_in_the_gallery_but_asks_nothing():
    images = np.eye(3, dtype=np.float32)
    rows = retrieval.evaluate(images, images[:2], np.array([0, 1]), ks=(1,))
    assert value(rows, "i2t", "R@1", "n") == 2
    assert value(rows, "t2i", "R@1", "chance") == pytest.approx(100 / 3)
    assert retrieval.ranks(images, images[:2], np.array([0, 1]))[0].tolist() == [1, 1, 0]


@pytest.mark.parametrize("what", ["image", "caption"])
@pytest.mark.parametrize(("poison", "says"), [(np.nan, "NaN"), (np.inf, "infinite"), (3e38, "huge"), (0, "zero")])
def test_a_broken_vector_is_an_error_and_never_a_hit(what, poison, says):
    images, captions = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)
    (images if what == "image" else captions)[1, 1] = poison
    with pytest.raises(DataError, match=f"1 of 3 {what} embeddings .*{says}.* row 1"):
        retrieval.evaluate(images, captions, np.arange(3), ks=(1,))


@pytest.mark.parametrize(
    ("captions", "owner", "says"),
    [
        (np.eye(3, 4), np.arange(3), "expected"),
        (np.eye(3)[0], np.arange(3), "expected"),
        (np.eye(3), np.arange(2), "image_of_caption"),
        (np.eye(3), np.array([0, 1, 3]), "reaches"),
        (np.eye(3), np.array([0, -1, 1]), "reaches"),
        (np.eye(3), np.array([0.0, 1.0, 2.5]), "whole numbers"),
        (np.empty((0, 3)), np.empty(0, int), "N, M ≥ 1"),
    ],
)
def test_shapes_that_do_not_fit_are_named(captions, owner, says):
    with pytest.raises(DataError, match=says):
        retrieval.evaluate(np.eye(3, dtype=np.float32), captions.astype(np.float32), owner, ks=(1,))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"protocol": "one2one"}, "one-to-one"),
        ({"ties": "lucky"}, "pessimistic"),
        ({"ks": (1, 5)}, "k = 5 is larger than the gallery of 4 images.* up to 4"),
        ({"ks": (0, 1)}, "from 1 on"),
        ({"ks": ()}, "from 1 on"),
        ({"captions": ["a"]}, "1 captions for 4"),
    ],
)
def test_a_bad_request_stops_before_any_work(wrong, says, monkeypatch):
    monkeypatch.setattr(retrieval, "_stand", None)
    with pytest.raises(DataError, match=says):
        retrieval.evaluate(np.eye(4), np.eye(4), np.arange(4), **wrong)


def test_memory_stays_flat_on_mapped_files(tmp_path):
    """The scores alone would take 288 MB; what is read from the files is 14 MB."""
    program = """
import sys
import numpy as np
from rsvlm.evaluation import retrieval
from rsvlm.records import provenance
folder = sys.argv[1]
few = np.eye(40, dtype=np.float32)
retrieval.standings(few, few, np.arange(40))
before = provenance.peak_memory_mb()
images, texts = (np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in ("images", "texts"))
retrieval.evaluate(images, texts, np.arange(len(texts)) % len(images), bootstrap_samples=20)
print(provenance.peak_memory_mb() - before)
"""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", unit(rng.normal(size=(3600, 8))))
    np.save(tmp_path / "texts.npy", unit(rng.normal(size=(20000, 8))))
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
    assert float(done.stdout) < 100


def test_the_benchmark_compares_answers_before_times():
    path = ROOT / "benchmarks" / "retrieval.py"
    spec = importlib.util.spec_from_file_location("benchmarks.retrieval", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    rows = {row["implementation"]: row for row in bench.measure(40, 200, 16, repeats=1, memory=False)}
    assert rows["dense top-k"]["recalls"] == pytest.approx(rows["rsvlm"]["recalls"])
    assert rows["rsvlm"]["ratio"] > 0 and "matrix product" in bench.table(list(rows.values()))
    assert "problem" not in rows["faiss flat"] or "[bench]" in rows["faiss flat"]["problem"]
    (large,) = bench.measure(0, many=40, width=16, threads=1)
    assert (large["images"], large["captions"], len(large["recalls"])) == (40, 200, 6)
    assert large["peak_memory_mb"] > large.get("own_memory_mb", 0) and "40 × 200" in bench.table([large])
