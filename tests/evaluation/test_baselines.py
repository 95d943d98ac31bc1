"""What is known without a model: each baseline finds what it can, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from rsvlm.errors import DataError
from rsvlm.evaluation import baselines, classification, retrieval

PALETTE = {
    "red": (200, 40, 30),
    "green": (40, 160, 50),
    "blue": (30, 50, 200),
    "white": (240, 240, 240),
    "brown": (120, 80, 40),
}
WAYS = ("across", "upright")


def world(count: int, seed: int) -> tuple[list[np.ndarray], list[str], np.ndarray]:
    """Pictures of two colours, one in the north and one in the south, with stripes one way or the other; captions that tell all."""
    rng = np.random.default_rng(seed)
    pictures, captions, kinds = [], [], []
    stripes = [one % 2 == 0 for one in np.mgrid[:24, :24]]  # as light, and as uneven, in each sector
    for _ in range(count):
        north, south = rng.choice(list(PALETTE), 2, replace=False)
        picture = (
            np.repeat(np.array([PALETTE[north], PALETTE[south]], float)[:, None, None], 12, 1).repeat(24, 2).reshape(24, 24, 3)
        )
        shape = int(rng.integers(2))
        picture[stripes[shape]] *= 0.9
        pictures.append(np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8))
        captions.append(f"{north} in the north, {south} in the south, with stripes {WAYS[shape]}")
        kinds.append(shape)
    return pictures, captions, np.array(kinds)


def numbers(pictures) -> np.ndarray:
    return np.stack([baselines.colours(picture) for picture in pictures])


def mean_recall(images, texts) -> float:
    rows = retrieval.evaluate(images, texts, np.arange(len(images)), ks=(1, 5), ties="average", bootstrap_samples=0)
    return next(row["value"] for row in rows if row["metric"] == "mR")


def test_a_picture_is_54_numbers_of_its_sectors_however_small_it_is():
    picture = np.zeros((9, 6, 3), np.uint8)
    picture[:3, 4:] = 255  # the northeast
    of_it = baselines.colours(picture).reshape(9, 2, 3)
    bright = np.isclose(of_it[:, 0], np.log(1.02), atol=1e-5).all(1)
    assert bright.tolist() == [False, False, True] + [False] * 6 and np.allclose(of_it[:, 1], np.log(0.005), atol=1e-4)
    for shape in ((1, 1), (2, 5), (64, 64), (7, 300)):
        of_any = baselines.colours(np.full((*shape, 3), 90, np.uint8))
        assert of_any.shape == (baselines.COLOURS,) and len(np.unique(of_any.round(3))) == 2


@pytest.mark.parametrize("whitening", [0.0, 0.1])
def test_colours_find_what_is_told_in_colours_and_directions(whitening):
    pictures, captions, _ = world(400, 0)
    asked, sentences, _ = world(20, 1)
    ridge = baselines.colour_ridge(numbers(pictures), [[text] for text in captions], whitening=whitening)
    images, texts = ridge.images(numbers(asked)), ridge.texts(sentences)
    assert images.shape == texts.shape and np.allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    reached, chance = mean_recall(images, texts), 15.0
    # Colours do not tell the stripes apart, nor pictures of the same colours; of sentences of other pictures nothing is found.
    assert reached > 3 * chance
    assert mean_recall(images, texts[np.random.default_rng(0).permutation(20)]) < 2 * chance
    upside_down = ridge.images(numbers([picture[::-1] for picture in asked]))
    assert mean_recall(upside_down, texts) < reached / 1.5, "the regression knows north from south"


def test_the_penalty_is_chosen_on_pictures_held_out_and_words_nobody_used_do_no_harm():
    pictures, captions, _ = world(120, 0)
    rng = np.random.default_rng(0)
    noise = np.hstack([numbers(pictures)[:, :6], rng.normal(size=(120, 48))])
    chosen, again = (baselines.colour_ridge(noise, [[text] for text in captions]) for _ in range(2))
    assert chosen.penalty == again.penalty in baselines.PENALTIES and (chosen.weights == again.weights).all()
    ridge = baselines.colour_ridge(noise, [[text] for text in captions], penalties=[0.5])
    assert ridge.penalty == 0.5
    strange = ridge.texts(["xylophone", "", captions[0]])
    assert np.isfinite(strange).all() and np.allclose(np.linalg.norm(strange, axis=1), 1, atol=1e-5)
    same = baselines.colour_ridge(np.ones((12, 54)), [["a lake"]] * 12)
    assert np.isfinite(same.images(np.ones((2, 54)))).all(), "where all pictures are the same nothing is predicted"


def test_cosines_are_those_of_predicted_and_actual_ngrams():
    pictures, captions, _ = world(60, 0)
    ridge = baselines.colour_ridge(numbers(pictures), [[text] for text in captions], penalties=[0.01])
    x = ridge.scale(numbers(pictures))
    actual = ridge.ngrams.vectors(captions)
    known = np.linalg.solve(x.T @ x + 0.01 * 60 * np.eye(54), x.T @ actual)  # the textbook
    predicted = x @ known
    one, other = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (predicted, actual))
    assert np.allclose(ridge.images(numbers(pictures)) @ ridge.texts(captions).T, one @ other.T, atol=1e-5)


def test_first_captions_are_taken_alone_where_the_others_tell_nothing():
    pictures, captions, _ = world(300, 0)
    rng = np.random.default_rng(1)
    chatter = [[text, *(" ".join(rng.choice(list("abcdefgh"), 12)) for _ in range(3))] for text in captions]
    ridge = baselines.colour_ridge(numbers(pictures), chatter)
    assert not {"a", "b"} & set(ridge.ngrams.columns) and "red" in ridge.ngrams.columns


@pytest.mark.parametrize(
    ("captions", "words"),
    [([["a lake"]] * 9, "9 lists of captions for 12"), ([[]] * 8 + [["a lake"]] * 4, "4 training pictures have captions")],
)
def test_a_regression_on_nothing_is_refused(captions, words):
    with pytest.raises(DataError, match=words):
        baselines.colour_ridge(np.zeros((12, 54)), captions)


def test_who_knows_the_class_alone_stands_between_chance_and_the_best():
    classes, owners = np.repeat(list("abcd"), 5), np.arange(20)
    rows = {row["metric"]: row for row in baselines.scene_class(classes, owners, ks=(1, 5)) if row["direction"] == "t2i"}
    assert rows["R@1"]["value"] == pytest.approx(20, abs=8) and rows["R@5"]["value"] == 100
    assert rows["R@1"]["ci_low"] is None and rows["R@1"]["chance"] == pytest.approx(5)
    drawn: dict = {}
    again = baselines.scene_class(classes, owners, ks=(1, 5), bootstrap_samples=30, resampled=drawn)
    assert [row["value"] for row in again if row["direction"] == "t2i"] == [row["value"] for row in rows.values()]
    of_first = drawn["plain", "t2i", "R@1"]  # the first value is over all images
    assert of_first.shape == (31,) and of_first[0] == pytest.approx(rows["R@1"]["value"]) and of_first.std() > 1


def top1(images, labels, C) -> float:
    rows = classification.evaluate(
        images, labels, np.eye(C, dtype=np.float32), list("abcde"[:C]), ks=[1], bootstrap_samples=10
    )
    return rows[0]["value"]


def test_the_commonest_class_is_the_answer_for_all():
    trained, asked = np.array([1] * 5 + [0] * 2 + [2] * 3), np.array([0, 1, 1, 2])
    assert top1(baselines.majority(trained, 3, 4), asked, 3) == 50
    assert top1(baselines.majority(trained[trained != 1], 4, 4), asked, 4) == 25, "2 is first now, and 3, unseen, last"


def test_colours_tell_classes_of_colours_and_not_of_stripes():
    pictures, captions, shapes = world(300, 0)
    asked, sentences, other_shapes = world(200, 1)
    names = list(PALETTE)
    north, truth = (np.array([names.index(text.split()[0]) for text in texts]) for texts in (captions, sentences))
    x, y = numbers(pictures), numbers(asked)
    assert top1(baselines.colour_classes(x, north, 5, y), truth, 5) > 95
    assert top1(baselines.colour_classes(x, shapes, 2, y), other_shapes, 2) < 70
    with pytest.raises(DataError, match="9 training pictures"):
        baselines.colour_classes(x[:9], north[:9], 5, y)


def test_what_a_model_is_better_by_has_an_interval_over_the_same_pictures():
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(60, 8)).astype(np.float32)
    good, poor = (texts + noise * rng.normal(size=texts.shape).astype(np.float32) for noise in (0.6, 3.0))
    ours, theirs = {}, {}
    rows = retrieval.evaluate(good, texts, np.arange(60), resampled=ours)
    other = retrieval.evaluate(poor, texts, np.arange(60), resampled=theirs)
    told = baselines.beside(rows, ours, "colour", other, theirs, 60)
    by = {(row["protocol"], row["direction"], row["metric"]): row for row in told}
    gap, alone = by["plain: model - colour", "both", "mR"], by["plain: colour", "both", "mR"]
    model = next(row for row in rows if row["metric"] == "mR")
    assert gap["value"] == pytest.approx(model["value"] - alone["value"]) and gap["ci_low"] > 0 and gap["chance"] is None
    nothing = baselines.beside(rows, ours, "itself", rows, ours, 60)
    assert next(row for row in nothing if row["protocol"] == "plain: model - itself" and row["metric"] == "mR")["value"] == 0


def test_rows_of_classes_come_with_their_draws():
    pictures, captions, _ = world(80, 0)
    truth = np.array([list(PALETTE).index(text.split()[0]) for text in captions])
    x = numbers(pictures)
    scored = baselines.of_classes(x[:40], truth[:40], x[40:], truth[40:], list(PALETTE), bootstrap_samples=20, ks=[1])
    assert list(scored) == ["majority", "colour"]
    best = {name: next(row["value"] for row in rows if row["metric"] == "top1") for name, (rows, _) in scored.items()}
    assert best["colour"] > best["majority"] + 20
    assert all(draws["paper", "i2t", "top1"].shape == (21,) for _, draws in scored.values())


def test_colours_are_those_of_nine_sectors():
    array = np.zeros((6, 9, 3), np.uint8)
    array[4:, 6:, 2] = [[10, 30, 20], [10, 30, 20]]
    vector = np.exp(baselines.colours(array)) - np.tile([0.02] * 3 + [0.005] * 3, 9)
    assert vector.shape == (54,) and np.flatnonzero(vector.round(5)).tolist() == [8 * 6 + 2, 8 * 6 + 5]
    assert vector[[50, 53]] * 255 == pytest.approx([20, np.std([10, 30, 20])], abs=1e-3)
    assert np.isfinite(baselines.colours(np.zeros((1, 2, 3), np.uint8))).all()
