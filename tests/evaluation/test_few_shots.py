"""Shots are drawn apart from what is tested, each way against its definition, and rows that no zero-shot number stands beside."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from rsvlm.__main__ import app
from rsvlm.errors import DataError
from rsvlm.evaluation import few_shots, given
from rsvlm.records import results, tables

NAMES = ["lake", "forest", "town", "field"]


def unit(array):
    array = np.asarray(array, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def case(seed=0, T=120, N=80, E=12, noise=0.9, wrong=0.0):
    """Pictures around four directions; texts that point near them, `wrong` of the way elsewhere."""
    rng = np.random.default_rng(seed)
    middle = unit(rng.normal(size=(4, E)))
    labels = np.arange(T) % 4, np.arange(N) % 4
    pictures = [unit(middle[of] + noise * rng.normal(size=(len(of), E)) / np.sqrt(E) * 2) for of in labels]
    texts = unit(middle + wrong * rng.normal(size=(4, E)))
    return pictures[0], labels[0], pictures[1], labels[1], texts


def value(rows, protocol, metric, field="value"):
    return next(row[field] for row in rows if (row["protocol"], row["metric"]) == (protocol, metric))


def evaluate(of, **options):
    known, known_labels, asked, labels, texts = of
    options = {"bootstrap_samples": 100, "shots": (1, 4), "seeds": 3} | options
    return few_shots.evaluate(known, known_labels, asked, labels, NAMES, {"paper": texts}, **options)


# ---- shots


def test_draws_hold_so_many_of_each_class_and_more_shots_hold_those_of_fewer():
    labels = np.repeat([0, 1, 2], [30, 5, 2])
    two, four = (few_shots.draw(labels, k, seed=1, number=2) for k in (2, 4))
    assert np.bincount(labels[four]).tolist() == [4, 4, 2] and set(two) < set(four)
    assert (few_shots.draw(labels, 4, seed=1, number=2) == four).all()
    assert any((few_shots.draw(labels, 4, seed=1, number=n) != four).any() for n in (3, 4))


def test_halves_are_of_each_class_and_do_not_depend_on_the_order():
    labels, keys = np.repeat([0, 1], [9, 4]), [f"picture {i}" for i in range(13)]
    learn = few_shots.halves(labels, keys)
    assert np.bincount(labels[learn]).tolist() == [4, 2]
    turned = few_shots.halves(labels[::-1], keys[::-1])
    assert (turned[::-1] == learn).all()


# ---- ways


def test_nearest_mean_is_that():
    known, labels, asked, _, _ = case()
    scores = few_shots.nearest_mean(known, labels, asked, 4)
    means = unit([known[labels == c].mean(axis=0) for c in range(4)])
    np.testing.assert_allclose(scores, asked @ means.T, atol=1e-6)


def test_logistic_regression_is_that_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    known, labels, asked, _, _ = case(T=40)
    middle = known.mean(axis=0)
    size = np.sqrt(((known - middle) ** 2).sum(axis=1).mean())
    x, y = (np.column_stack([(part - middle) / size, np.ones(len(part))]) for part in (known, asked))
    theirs = linear_model.LogisticRegression(C=1 / few_shots.PENALTY, fit_intercept=False, tol=1e-8, max_iter=5000).fit(
        x, labels
    )
    ours = few_shots.linear(known, labels, asked, 4)
    expected = theirs.decision_function(y)
    np.testing.assert_allclose(ours - ours.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True), atol=0.02)


def test_fewer_pictures_than_dimensions_give_what_all_dimensions_give(monkeypatch):
    known, labels, asked, _, _ = case(T=8, E=40)
    short = few_shots.linear(known, labels, asked, 4)
    monkeypatch.setattr(np.linalg, "qr", lambda matrix: (np.eye(len(matrix)), None))
    np.testing.assert_allclose(short, few_shots.linear(known, labels, asked, 4), atol=1e-3)


def test_text_is_held_to_and_left_where_shots_say_otherwise():
    known, labels, asked, _, texts = case()
    held = few_shots.from_text(known[:8], labels[:8], asked, texts, pull=1e6)
    assert (held.argmax(1) == (asked @ texts.T).argmax(1)).mean() > 0.97
    asked_labels = np.arange(80) % 4
    misled, alone = (
        (scores.argmax(1) == asked_labels).mean()
        for scores in (
            few_shots.from_text(known, labels, asked, np.roll(texts, 1, axis=0)),
            few_shots.linear(known, labels, asked, 4, few_shots.PULL / 4),
        )
    )
    assert misled > alone - 0.05, "texts of the wrong classes are overruled by 120 pictures"


# ---- scores


def test_rows_are_rows_of_results_under_protocols_and_metrics_of_their_own():
    rows = evaluate(case())
    assert [results.checked_row(row) for row in rows] == rows
    protocols = {row["protocol"] for row in rows}
    assert protocols == {"few-shot mean", "few-shot linear", "few-shot text: paper"}
    of_text = [row["metric"] for row in rows if row["protocol"] == "few-shot text: paper" and row["metric"].startswith("top1")]
    assert of_text == ["top1@0", "top1@1", "top1@4"]
    assert {row["metric"] for row in rows if row["protocol"] == "few-shot linear"} >= {"top1@all", "balanced_accuracy@all"}
    assert all(row["ci_low"] <= row["value"] <= row["ci_high"] and row["chance"] == 25 and row["n"] == 80 for row in rows)


def test_more_shots_help_texts_help_few_and_it_is_the_same_again():
    rows = evaluate(case(noise=1.4), shots=(1, 16), seeds=5)
    for way in ("mean", "linear", "text: paper"):
        assert value(rows, f"few-shot {way}", "top1@16") > value(rows, f"few-shot {way}", "top1@1")
    assert value(rows, "few-shot text: paper", "top1@1") > value(rows, "few-shot linear", "top1@1") + 5
    assert rows == evaluate(case(noise=1.4), shots=(1, 16), seeds=5)
    assert rows != evaluate(case(noise=1.4), shots=(1, 16), seeds=5, seed=1)


def test_the_mean_is_over_seeds_and_the_interval_over_seeds_too():
    of = case(noise=1.4)
    several, images = evaluate(of, seeds=4, shots=(1,), bootstrap_samples=1000), of[2:4]
    hits = []
    for number in range(4):
        chosen = few_shots.draw(of[1], 1, number=number)
        scores = few_shots.nearest_mean(of[0][chosen], of[1][chosen], images[0], 4)
        hits.append(100 * np.mean(scores.argmax(1) == images[1]))
    assert value(several, "few-shot mean", "top1@1") == pytest.approx(np.mean(hits))
    width = [value(several, "few-shot mean", "top1@1", end) for end in ("ci_low", "ci_high")]
    assert width[1] - width[0] > 2 * 1.96 * np.std(hits, ddof=1) / 2


def test_pictures_that_are_tested_are_never_learnt_from():
    known, known_labels, asked, labels, texts = case(N=40)
    seen = []
    for number in range(3):
        seen += few_shots.draw(known_labels, 4, number=number).tolist()
    changed = known.copy()
    changed[np.setdiff1d(np.arange(len(known)), seen)] = unit(np.ones((1, 12)))
    pick = {"shots": (4,), "seeds": 3}
    first, again = (evaluate((part, known_labels, asked, labels, texts), **pick) for part in (known, changed))
    assert value(first, "few-shot linear", "top1@4") == value(again, "few-shot linear", "top1@4")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"known_labels": np.zeros(120, int)}, "3 of 4 classes have no picture to learn from, as 'forest'"),
        ({"known_labels": np.arange(120)}, "labels reach from 0 to 119"),
        ({"texts": np.ones((3, 12), np.float32)}, "prompt set paper are"),
        ({"asked": np.ones((80, 5), np.float32)}, "vectors to learn from are"),
        ({"shots": ()}, "shots \\[\\]"),
        ({"seeds": 0}, "0 seeds"),
    ],
)
def test_what_does_not_fit_is_named(change, says):
    known, known_labels, asked, labels, texts = case()
    of = {"known": known, "known_labels": known_labels, "asked": asked, "labels": labels, "texts": texts}
    options = {name: change[name] for name in ("shots", "seeds") if name in change}
    of |= {name: part for name, part in change.items() if name in of}
    with pytest.raises(DataError, match=says):
        evaluate(tuple(of.values()), **options)


def test_classes_with_fewer_pictures_are_told(caplog):
    evaluate(case(T=12), shots=(8,), seeds=1)
    assert "4 of 4 classes have fewer than 8 pictures" in caplog.text


# ---- of a file, by the command


def write(path, splits=True, texts=True):
    known, known_labels, asked, labels, vectors = case()
    arrays = {"image_embeddings": np.concatenate([known, asked]), "labels": np.concatenate([known_labels, labels])}
    arrays |= {"class_names": np.array(NAMES)}
    arrays |= {"splits": np.array(["train"] * 120 + ["test"] * 80)} if splits else {}
    arrays |= {"class_embeddings": vectors, "prompts": np.array("plain")} if texts else {}
    np.savez(path, **arrays)
    return path


def test_the_command_scores_a_file_and_says_where_the_shots_are_from(tmp_path):
    file, out = write(tmp_path / "mine.npz"), tmp_path / "out.json"
    command = ["evaluate", "classify", "--model", f"embeddings:{file}", "--split", "test", "--shots", "1,2", "--seeds", "2"]
    done = CliRunner().invoke(app, [*command, "--bootstrap-samples", "50", "--json", str(out)])
    assert done.exit_code == 0, done.output
    assert "shots are from split 'train' (120 pictures)" in done.output and "few-shot text: plain" in done.output
    rows = json.loads(out.read_text())
    assert {row["split"] for row in rows} == {"test"} and {row["n"] for row in rows} == {80}
    printed = tables.formatted(str(out), "text", False, {})
    assert "few-shot linear" in printed and "top1@2" in printed
    beside = tables.formatted(str(out), "text", True, {})
    assert beside.count("nothing published beside it: mine, test, protocol few-shot") == 3, "nobody's figures are of these"


def test_without_splits_one_half_is_tested_and_the_rows_say_so(tmp_path):
    file = write(tmp_path / "mine.npz", splits=False, texts=False)
    command = [
        "evaluate",
        "classify",
        "--model",
        f"embeddings:{file}",
        "--shots",
        "1",
        "--seeds",
        "1",
        "--bootstrap-samples",
        "20",
    ]
    done = CliRunner().invoke(app, [*command, "--json", str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    assert "the first half of all pictures" in done.output and "few-shot text" not in done.output
    rows = json.loads((tmp_path / "out.json").read_text())
    assert {row["split"] for row in rows} == {"all, second half"} and {row["n"] for row in rows} == {100}


def test_wrong_requests_are_told(tmp_path):
    file = write(tmp_path / "mine.npz")
    model = ["evaluate", "classify", "--model", f"embeddings:{file}"]
    for options, says in (
        (["--shots", "one"], "expected whole numbers"),
        (["--shots", "1", "--baselines"], "leave them out beside --shots"),
        (["--shots", "1", "--split", "val"], "has no split 'val'"),
        ([], "add --shots"),
    ):
        done = CliRunner().invoke(app, [*model, *options])
        assert done.exit_code and says in str(done.output) + str(done.exception), (options, done.output)
    np.savez(tmp_path / "bare.npz", image_embeddings=np.eye(3))
    with pytest.raises(DataError, match="has no labels, class_names"):
        given.read_classes(tmp_path / "bare.npz")
    np.savez(tmp_path / "far.npz", image_embeddings=np.eye(3), labels=np.array([0, 1, 2]), class_names=np.array(["a", "b"]))
    with pytest.raises(DataError, match="numbers from 0 to 1"):
        given.read_classes(tmp_path / "far.npz")
