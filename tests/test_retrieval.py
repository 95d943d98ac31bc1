"""Recall, chance and intervals against hand-worked cases and brute force."""

import numpy as np
import pytest

from rsvlm import retrieval
from rsvlm.errors import DataError


def unit(array):
    array = np.asarray(array, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def value(rows, direction, metric, field="value"):
    return next(row[field] for row in rows if (row["direction"], row["metric"]) == (direction, metric))


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
    assert value(rows, "i2t", "R@1", "n") == 3 and value(rows, "t2i", "R@1", "n") == 4


def test_one_to_one_takes_the_first_caption_of_each_image():
    images = np.eye(3, dtype=np.float32)
    captions = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)  # the first two both belong to image 0
    owner = np.array([0, 0, 1, 2])
    plain = retrieval.evaluate(images, captions, owner, ks=(1,))
    single = retrieval.evaluate(images, captions, owner, ks=(1,), protocol="one-to-one")
    assert value(plain, "i2t", "R@1") == pytest.approx(200 / 3)  # image 2 ties with caption 0, which counts against it
    assert value(single, "i2t", "R@1") == pytest.approx(100 / 3)
    assert value(single, "t2i", "R@1", "n") == 3


def test_equal_captions_count_against_each_other():
    images = np.eye(2, dtype=np.float32)
    captions = np.array([[1, 1], [1, 1]], np.float32)
    i2t, t2i = retrieval.ranks(images, captions, np.array([0, 1]))
    assert i2t.tolist() == [2, 2] and t2i.tolist() == [2, 2]


def test_chance_is_what_random_embeddings_reach():
    rng = np.random.default_rng(0)
    N, owner = 60, np.repeat(np.arange(60), rng.integers(1, 6, 60))
    M = len(owner)
    found, expected = [], None
    for _ in range(300):
        rows = retrieval.evaluate(
            unit(rng.normal(size=(N, 16))), unit(rng.normal(size=(M, 16))), owner, bootstrap_samples=10, ks=(1, 5)
        )
        found.append([row["value"] for row in rows])
        expected = [row["chance"] for row in rows]
    found = np.array(found)
    error = 4 * found.std(0) / np.sqrt(len(found))
    np.testing.assert_array_less(np.abs(found.mean(0) - expected)[:5], error[:5])  # all recalls and mR
    np.testing.assert_array_less(np.abs(found.mean(0) - expected)[5:], 0.15 * np.array(expected)[5:])  # medians: approximate


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


def test_an_image_without_captions_is_in_the_gallery_but_asks_nothing():
    images = np.eye(3, dtype=np.float32)
    rows = retrieval.evaluate(images, images[:2], np.array([0, 1]), ks=(1,))
    assert value(rows, "i2t", "R@1", "n") == 2
    assert value(rows, "t2i", "R@1", "chance") == pytest.approx(100 / 3)


@pytest.mark.parametrize("place", ["image", "caption"])
def test_nan_is_an_error_and_never_a_perfect_recall(place):
    images, captions = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)
    (images if place == "image" else captions)[1, 1] = np.nan
    with pytest.raises(DataError, match="NaN"):
        retrieval.evaluate(images, captions, np.arange(3))


@pytest.mark.parametrize(
    ("captions", "owner", "says"),
    [
        (np.eye(3, 4), np.arange(3), "expected"),
        (np.eye(3), np.arange(2), "image_of_caption"),
        (np.eye(3), np.array([0, 1, 3]), "reaches"),
        (np.eye(3), np.array([0, -1, 1]), "reaches"),
    ],
)
def test_shapes_that_do_not_fit_are_named(captions, owner, says):
    with pytest.raises(DataError, match=says):
        retrieval.evaluate(np.eye(3, dtype=np.float32), captions.astype(np.float32), owner)


def test_unknown_protocol_is_named():
    with pytest.raises(DataError, match="one-to-one"):
        retrieval.evaluate(np.eye(2), np.eye(2), np.arange(2), protocol="one2one")
