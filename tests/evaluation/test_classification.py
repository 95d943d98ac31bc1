"""Accuracy, balance, confusion and calibration against hand-worked cases and definitions written out."""

import numpy as np
import pytest
import torch
from conftest import COLOURS, toy_sample

from rsvlm.errors import DataError
from rsvlm.evaluation import classification
from rsvlm.records import results


def unit(array):
    array = np.asarray(array, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def cell(rows, metric, field="value", protocol="paper"):
    return next(row[field] for row in rows if (row["metric"], row["protocol"]) == (metric, protocol))


def random_case(seed, N=200, C=7, E=8):
    rng = np.random.default_rng(seed)
    classes, labels = unit(rng.normal(size=(C, E))), rng.integers(0, C, N)
    return unit(classes[labels] + 0.6 * rng.normal(size=(N, E))), labels, classes, [f"class {i}" for i in range(C)]


class Words:
    """An encoder whose texts are counts of letters."""

    name, fingerprint, width, logit_scale = "words", "0" * 64, 26, 10.0

    def __init__(self):
        self.asked = []

    def texts(self, captions):
        self.asked += captions
        return unit([[text.lower().count(chr(97 + i)) for i in range(26)] for text in captions])


# ---- prompts


def test_classes_are_the_normalised_mean_over_prompts():
    encoder, templates = Words(), ["An aerial image of {class}", "{} from above"]
    found = classification.class_embeddings(encoder, ["an airport", "a {river}"], templates)
    prompts = (
        ["An aerial image of an airport", "an airport from above"],
        ["An aerial image of a {river}", "a {river} from above"],
    )
    assert sorted(encoder.asked) == sorted(sum(map(list, prompts), []))
    expected = unit([Words().texts(list(of_class)).mean(axis=0) for of_class in prompts])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_perfect_score_has_an_interval_of_its_number_of_images():
    classes, labels = np.eye(3, dtype=np.float32), np.repeat(np.arange(3), [30, 10, 2])
    rows = classification.evaluate(classes[labels], labels, {"paper": classes}, ["a", "b", "c"], ks=(1,), bootstrap_samples=20)
    lows = {metric: cell(rows, metric, "ci_low") for metric in ("top1", "top1[c]", "balanced_accuracy")}
    assert lows["top1"] == pytest.approx(100 * 0.025 ** (1 / 42)) and lows["top1[c]"] == pytest.approx(100 * 0.025 ** (1 / 2))
    assert lows["top1[c]"] < lows["balanced_accuracy"] < lows["top1"]  # small classes count as much as large ones


@pytest.mark.parametrize(
    ("names", "templates", "says"),
    [
        ([], ["{class}"], "0 classes"),
        (["a"], [], "0 templates"),
        (["a", "b", "a"], ["{class}"], "'a' is blank or there twice"),
        (["a", " "], ["{class}"], "' ' is blank"),
        (["a", "b"], ["{class}", "an image"], "'an image' says the same of every class"),
    ],
)
def test_prompts_that_mean_nothing_are_named(names, templates, says):
    with pytest.raises(DataError, match=says):
        classification.class_embeddings(Words(), names, templates)


# ---- accuracy


def test_worked_example():
    classes = np.eye(3, dtype=np.float32)
    images = unit([[3, 2, 1], [3, 1, 2], [1, 3, 2], [2, 3, 1], [2, 3, 1]])
    labels = np.array([0, 1, 1, 1, 0])  # ranks 1, 3, 1, 1, 2
    rows = classification.evaluate(images, labels, classes, ["a", "b", "c"], ks=(1, 2), dataset="toy", split="val")
    assert cell(rows, "top1") == pytest.approx(60) and cell(rows, "top2") == pytest.approx(80)
    assert cell(rows, "top1[a]") == pytest.approx(50) and cell(rows, "top1[b]") == pytest.approx(200 / 3)
    assert cell(rows, "balanced_accuracy") == pytest.approx((50 + 200 / 3) / 2)  # c has no image
    assert [row["metric"] for row in rows] == ["top1", "top2", "balanced_accuracy", "top1[a]", "top1[b]"]
    assert cell(rows, "top1", "chance") == pytest.approx(100 / 3) and cell(rows, "top2", "chance") == pytest.approx(200 / 3)
    assert [row["n"] for row in rows] == [5, 5, 5, 2, 3]
    assert {(row["dataset"], row["split"], row["direction"]) for row in rows} == {("toy", "val", "i2t")}
    assert classification.confusion(images, labels, classes).tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_rows_are_rows_of_results():
    images, labels, classes, names = random_case(0)
    rows = classification.evaluate(images, labels, classes, names, logit_scale=20, bootstrap_samples=20)
    assert all(tuple(sorted(row)) == tuple(sorted(results.ROW)) for row in rows)
    assert all(type(row["value"]) is float and type(row["n"]) is int for row in rows)
    assert all(row["ci_low"] <= row["value"] <= row["ci_high"] for row in rows if row["metric"] in ("top1", "top5"))


@pytest.mark.parametrize("seed", range(3))
def test_the_definitions_written_out(seed, monkeypatch):
    images, labels, classes, names = random_case(seed)
    rows = classification.evaluate(images, labels, classes, names, bootstrap_samples=10)
    order = np.argsort(-(images @ classes.T), axis=1)
    for k in (1, 5):
        hits = [labels[i] in order[i, :k] for i in range(len(labels))]
        assert cell(rows, f"top{k}") == pytest.approx(100 * np.mean(hits))
    own = [np.mean([order[i, 0] == c for i in range(len(labels)) if labels[i] == c]) for c in range(len(names))]
    assert cell(rows, "balanced_accuracy") == pytest.approx(100 * np.mean(own))
    expected = np.zeros((7, 7), int)
    for i, label in enumerate(labels):
        expected[label, order[i, 0]] += 1
    np.testing.assert_array_equal(classification.confusion(images, labels, classes), expected)
    whole = classification._judged(images, labels, classes, 9.0)
    for block in (1, 13):  # what does not fit into memory at once gives the same
        for part, same in zip(classification._judged(images, labels, classes, 9.0, block=block), whole):
            np.testing.assert_allclose(part, same, rtol=1e-5)


def test_ties_count_against_the_image():
    classes = unit([[1, 0], [1, 0], [0, 1]])
    images = unit([[1, 0], [1, 0], [0, 1], [1, 1]])
    labels = np.array([0, 1, 2, 2])
    rows = classification.evaluate(images, labels, classes, ["a", "b", "c"], ks=(1, 2))
    assert cell(rows, "top1") == 25 and cell(rows, "top2") == 75
    matrix = classification.confusion(images, labels, classes)
    assert np.trace(matrix) == 1 and matrix[0, 1] == matrix[1, 0] == 1


def test_chance_is_what_guessing_reaches():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), [50, 5, 5, 5, 5, 30])  # far from balanced
    found = []
    for _ in range(200):
        images, classes = unit(rng.normal(size=(100, 16))), unit(rng.normal(size=(6, 16)))
        rows = classification.evaluate(images, labels, classes, list("abcdef"), bootstrap_samples=2)
        found.append([cell(rows, name) for name in ("top1", "top5", "balanced_accuracy", "top1[b]")])
    expected = [cell(rows, name, "chance") for name in ("top1", "top5", "balanced_accuracy", "top1[b]")]
    assert np.all(np.abs(np.mean(found, axis=0) - expected) < 4 * np.std(found, axis=0) / np.sqrt(200))


def test_the_interval_is_that_of_a_proportion_and_seeded():
    images, labels, classes, names = random_case(1, N=800)
    rows = classification.evaluate(images, labels, classes, names, bootstrap_samples=1000, seed=3)
    p = cell(rows, "top1") / 100
    half = 100 * 1.96 * np.sqrt(p * (1 - p) / 800)
    assert cell(rows, "top1") - cell(rows, "top1", "ci_low") == pytest.approx(half, rel=0.15)
    assert cell(rows, "top1", "ci_high") - cell(rows, "top1") == pytest.approx(half, rel=0.15)
    assert rows == classification.evaluate(images, labels, classes, names, bootstrap_samples=1000, seed=3)
    assert rows != classification.evaluate(images, labels, classes, names, bootstrap_samples=1000, seed=4)


def test_several_prompt_sets_in_one_call():
    images, labels, classes, names = random_case(2)
    turned = np.roll(classes, 1, axis=0)
    rows = classification.evaluate(images, labels, {"right": classes, "wrong": turned}, names, bootstrap_samples=10)
    alone = classification.evaluate(images, labels, classes, names, bootstrap_samples=10, protocol="right")
    assert [row for row in rows if row["protocol"] == "right"] == alone
    assert cell(rows, "top1", protocol="right") > 40 > cell(rows, "top1", protocol="wrong")


# ---- calibration


def test_reliability_against_the_definition():
    images, labels, classes, names = random_case(3, N=300)
    scale, bins = 12.0, 5
    table = classification.reliability(images, labels, classes, scale, bins)
    probability = torch.softmax(scale * torch.from_numpy(images @ classes.T).double(), dim=1).numpy()
    sure, right = probability.max(1), probability.argmax(1) == labels
    for row in table.itertuples():
        inside = (sure > row.low) & (sure <= row.high)
        assert row.n == inside.sum()
        if row.n:
            assert row.confidence == pytest.approx(sure[inside].mean(), abs=1e-6)
            assert row.accuracy == pytest.approx(right[inside].mean())
    assert table["n"].sum() == 300 and (table["low"].iloc[0], table["high"].iloc[-1]) == (0, 1)


def test_the_calibration_error_is_that_of_the_table_and_vanishes_where_sureness_is_earned():
    images, labels, classes, names = random_case(4, N=400)
    rows = classification.evaluate(images, labels, classes, names, logit_scale=12.0, bootstrap_samples=200)
    table = classification.reliability(images, labels, classes, 12.0)
    gaps = (table["n"] * (table["accuracy"] - table["confidence"]).abs()).sum() / 400
    assert cell(rows, "ece") == pytest.approx(100 * gaps)
    assert cell(rows, "ece", "chance") is None and cell(rows, "ece", "n") == 400
    # labels drawn from the model's own probabilities: it is then calibrated, whatever its accuracy
    rng = np.random.default_rng(0)
    images = unit(rng.normal(size=(20000, 8)))
    probability = torch.softmax(12.0 * torch.from_numpy(images @ classes.T).double(), dim=1).numpy()
    drawn = (probability.cumsum(1) < rng.random((20000, 1))).sum(1)
    earned = classification.evaluate(images, drawn, classes, names, logit_scale=12.0, bootstrap_samples=2)
    doubled = classification.evaluate(images, drawn, classes, names, logit_scale=24.0, bootstrap_samples=2)
    assert cell(earned, "ece") < 1.5 < 5 < cell(doubled, "ece")


# ---- bad input


def with_value(array, place, value):
    array = array.copy()
    array[place] = value
    return array


IMAGES, LABELS, CLASSES, NAMES = random_case(5, N=10, C=3)


@pytest.mark.parametrize(
    ("images", "labels", "classes", "names", "options", "says"),
    [
        (with_value(IMAGES, (4, 2), np.nan), LABELS, CLASSES, NAMES, {}, "image embeddings: row 4 is NaN"),
        (with_value(IMAGES, 4, 0), LABELS, CLASSES, NAMES, {}, "image embeddings: row 4 is zero"),
        (IMAGES, LABELS, with_value(CLASSES, (1, 1), np.inf), NAMES, {}, "class embeddings: row 1 is NaN or infinite"),
        (IMAGES[:, :4], LABELS, CLASSES, NAMES, {}, r"images \(10, 4\).* classes \(3, 8\)"),
        (IMAGES, with_value(LABELS, 0, 3), CLASSES, NAMES, {}, "to 3: expected 0…2"),
        (IMAGES, with_value(LABELS, 0, -1), CLASSES, NAMES, {}, "from -1"),
        (IMAGES, LABELS[:9], CLASSES, NAMES, {}, r"labels int64 \(9,\)"),
        (IMAGES, LABELS.astype(float), CLASSES, NAMES, {}, "labels float64"),
        (IMAGES[:0], LABELS[:0], CLASSES, NAMES, {}, "N ≥ 1"),
        (IMAGES, LABELS, CLASSES, NAMES + ["d"], {}, "3 class embeddings for 4 class names"),
        (IMAGES, LABELS, CLASSES[:1], NAMES[:1], {}, "every k from 1 to C - 1"),
        (IMAGES, LABELS, CLASSES, NAMES, {"ks": (1, 3)}, r"k of \[1, 3\], 3 classes"),
        (IMAGES, LABELS, CLASSES, NAMES, {"ks": (0,)}, "every k from 1"),
        (IMAGES, LABELS, {}, NAMES, {}, "0 prompt sets"),
        (IMAGES, LABELS, CLASSES, NAMES, {"logit_scale": 0.0}, "logit_scale 0.0"),
        (IMAGES, LABELS, CLASSES, NAMES, {"logit_scale": np.nan}, "logit_scale nan"),
    ],
)
def test_bad_input_is_named(images, labels, classes, names, options, says):
    with pytest.raises(DataError, match=says):
        classification.evaluate(images, labels, classes, names, bootstrap_samples=5, **options)


def test_without_five_others_there_is_no_top5_and_absent_classes_are_told(caplog):
    rows = classification.evaluate(IMAGES, np.zeros(10, int), CLASSES, NAMES, bootstrap_samples=5)
    assert "top5" not in {row["metric"] for row in rows}
    assert "2 of 3 classes have no image" in caplog.text
    assert cell(rows, "balanced_accuracy") == cell(rows, "top1")


# ---- an outside evaluator


def test_clip_benchmark_gives_the_same_numbers(tmp_path):
    reason = "clip_benchmark (with scikit-learn) is not installed"
    theirs = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification", reason=reason, exc_type=ImportError)
    from rsvlm.model import embed, mammut, tokenizer, weights

    torch.manual_seed(0)
    words = tokenizer.train([c for i in range(50) for c in toy_sample(i)[1]], 320, 32)
    sizes = {"image_size": 32, "patch_size": 8, "vision_width": 32, "vision_layers": 1, "vision_heads": 2}
    sizes |= {"text_width": 32, "text_layers": 1, "text_heads": 2}
    model = mammut.Mammut(mammut.MammutConfig(**sizes, vocab_size=len(words), context_length=32)).eval()
    model.tokenizer = words
    pictures, names = [toy_sample(i)[0] for i in range(60)], [*COLOURS, "grey", "black", "yellow"]
    labels = np.arange(60) % len(names)

    encoder = embed.MammutEncoder(model)
    classes = classification.class_embeddings(encoder, names, ["a picture that is {class}", "{class} in the north"])
    images = encoder.images(pictures)
    rows = classification.evaluate(images, labels, classes, names, bootstrap_samples=10)

    face = weights.OpenClipFace(model)
    templates = ["a picture that is {c}", "{c} in the north"]
    classifier = theirs.zero_shot_classifier(face, face.tokenizer, names, templates, "cpu", amp=False)
    np.testing.assert_allclose(classes, classifier.T.numpy(), atol=1e-5)
    loader = [(embed.to_batch(model, pictures), torch.from_numpy(labels))]
    scores, true = theirs.run_classification(face, classifier, loader, "cpu", amp=False)
    # its own accuracy() turns an array of one element into a float, which numpy no longer does
    top1, top5 = (float((scores.topk(k).indices == true[:, None]).any(1).double().mean()) for k in (1, 5))
    balanced = theirs.balanced_accuracy_score(true.numpy(), scores.argmax(1).numpy())
    found = [cell(rows, name) for name in ("top1", "top5", "balanced_accuracy")]
    np.testing.assert_allclose(found, 100 * np.array([top1, top5, balanced]), atol=1e-6)
