"""Baselines and reading by the names of a model and a benchmark: what is measured, and what is said where it cannot be."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from conftest import png, toy_sample, write_tar
from evaluation.test_reading import Guesser
from typer.testing import CliRunner

from rsvlm.errors import DataError, ModelError
from rsvlm.evaluation import asking, by_name, commands

FEW = by_name.Options(protocol="one-to-one", bootstrap_samples=20, device="cpu")


class Model(Guesser):
    """A model that guesses, behind the face."""

    name, fingerprint, revision, logit_scale, width = "guess", "guess", "", None, 16


@pytest.fixture
def guess(monkeypatch, tmp_path):
    monkeypatch.setattr(asking.opening, "open_encoder", lambda *arguments: Model())
    (tmp_path / "model").mkdir()
    return str(tmp_path / "model")


@pytest.fixture(scope="module")
def chips(tmp_path_factory):
    """12 pictures in two places, whose captions tell all turns apart, with landmarks and footprints."""
    folder, members = tmp_path_factory.mktemp("chips"), {}
    for index in range(12):
        array, captions = toy_sample(index)
        captions = [captions[0] + ", and a lake in the northeast near the east" if index != 3 else "a picture"]
        west = float(100 * (index % 2)) + index / 100
        record = {"key": f"c{index}", "captions": captions, "footprint_lonlat": [west, 0.0, west + 1, 1.0]}
        record["landmarks"] = [{"category": "lake"}] if index < 6 else []
        members |= {f"c{index}.png": png(array), f"c{index}.json": json.dumps(record).encode()}
    write_tar(folder / "test" / "000000.tar", members)
    return folder


def test_reading_measures_all_three_and_counts_what_it_leaves_out(guess, chips):
    evaluation = asking.read(guess, chips, None, FEW)
    protocols = {row["protocol"].partition(":")[0] for row in evaluation.rows}
    assert protocols == {"directions", "one-to-one", "negation"}
    about = evaluation.about
    assert about["images"] == 12 and about["blocks"] == 2 and about["not_measured"] == {}
    assert about["left_out_of_directions"] == {asking.reading.NOT_TOLD: 1}
    of_turns = next(row for row in evaluation.rows if row["metric"] == "directions")
    assert of_turns["n"] == 11 and of_turns["split"] == "test"
    assert {row["n"] for row in asking.read(guess, chips, None, FEW, most=11, measures=["negation"]).rows} == {11}


def test_colours_know_directions_where_captions_tell_where_colours_are(guess, tmp_path):
    colours = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
    for split, count in (("train", 60), ("test", 20)):
        members = {}
        for index in range(count):
            rng = np.random.default_rng([len(split), index])
            names = rng.permutation(list(colours)).tolist()
            array = np.array([colours[name] for name in names], np.uint8).reshape(2, 2, 3).repeat(8, 0).repeat(8, 1)
            places = ("northwest", "northeast", "southwest", "southeast")
            text = ", ".join(f"{name} in the {place}" for name, place in zip(names, places, strict=True))
            record = {"key": f"{split}{index}", "captions": [text]}
            members |= {f"{split}{index}.png": png(array), f"{split}{index}.json": json.dumps(record).encode()}
        write_tar(tmp_path / "set" / split / "000000.tar", members)
    rows = asking.read(guess, tmp_path / "set", None, FEW, measures=["directions"], train_split="train").rows
    best = {row["protocol"]: row for row in rows if row["metric"] == "directions" and row["direction"] == "t2i"}
    assert best["directions: colour"]["value"] > 80 and best["directions"]["value"] < 50
    assert best["directions: model - colour"]["ci_high"] < 0
    alone = asking.read(guess, tmp_path / "set", None, FEW, measures=["directions"], train_split="nowhere")
    assert {row["protocol"] for row in alone.rows} == {"directions"} and alone.about["not_measured"] == {}
    assert re.search("no baselines: .*nowhere", alone.about["baselines"])
    same = asking.read(guess, tmp_path / "set", None, FEW, measures=["directions"], train_split="test")
    assert same.rows == alone.rows and "learnt from" in same.about["baselines"]
    words = asking.read(guess, tmp_path / "set", None, FEW, measures=["words"], train_split="train")
    assert "--measure directions" in words.about["baselines"], "what was asked for and is not there is told"


@pytest.mark.parametrize(("wrong", "words"), [({"protocol": "skyscript"}, "--protocol"), ({"ties": "fair"}, "--ties")])
def test_a_wrong_option_stops_reading_before_any_work(monkeypatch, guess, chips, wrong, words):
    monkeypatch.setattr(asking.opening, "open_encoder", lambda *arguments: pytest.fail("a model was opened"))
    with pytest.raises(DataError, match=words):
        asking.read(guess, chips, None, dataclasses.replace(FEW, **wrong))


def test_a_model_that_reads_no_texts_says_so_before_any_picture(monkeypatch, guess, chips):
    def refuse(self, captions):
        raise ModelError("it has no texts")

    monkeypatch.setattr(Model, "texts", refuse)
    monkeypatch.setattr(Model, "images", lambda self, arrays: pytest.fail("a picture was embedded"))
    with pytest.raises(ModelError, match="it has no texts"):
        asking.read(guess, chips, None, FEW)


def test_bars_tell_how_far_reading_is(guess, chips, capsys):
    asking.read(guess, chips, None, FEW, measures=["directions"])
    assert "embed and turn: 12 images" in capsys.readouterr().err


def test_what_cannot_be_measured_is_said_and_nothing_at_all_is_an_error(guess, toy_shards):
    evaluation = asking.read(guess, toy_shards, None, FEW, most=12)
    assert set(evaluation.about["not_measured"]) == {"directions", "negation"} and "blocks" not in evaluation.about
    assert asking.reading.NOT_TOLD in evaluation.about["not_measured"]["directions"], "halves are the same after a flip"
    with pytest.raises(DataError, match="do not say what they show"):
        asking.read(guess, toy_shards, None, FEW, measures=["negation"])
    with pytest.raises(DataError, match="unknown measure 'spelling'"):
        asking.read(guess, toy_shards, None, FEW, measures=["spelling"])
    with pytest.raises(DataError, match="cannot read changed sentences"):
        asking.read("embeddings:a.npz", toy_shards, None, FEW)


def test_the_command_writes_rows_and_says_what_was_left_out(guess, chips, tmp_path):
    command = ["reading", "--model", guess, "--data", chips, "--bootstrap-samples", 20, "--json", tmp_path / "r.json"]
    done = CliRunner().invoke(commands.app, [str(part) for part in [*command, "--device", "cpu", "--measure", "directions"]])
    assert done.exit_code == 0, done.output
    assert "intervals are over 2 blocks" in done.output and "so few make them rough" in done.output
    assert f"left out of directions: {asking.reading.NOT_TOLD} (1)" in done.output and "chance 12.50" in done.output
    rows = json.loads((tmp_path / "r.json").read_text())
    assert {row["protocol"] for row in rows} == {"directions"} and len(rows) == 16
    assert json.loads((tmp_path / "r.provenance.json").read_text())["blocks"] == 2


def test_colours_stand_beside_a_model_and_who_guesses_is_worse(guess, toy_shards):
    evaluation = by_name.retrieve(guess, toy_shards, None, FEW)
    asking.retrieval_baselines(evaluation, toy_shards, None, FEW)
    mean = {row["protocol"]: row for row in evaluation.rows if row["metric"] == "mR"}
    assert list(mean) == ["one-to-one"] + [f"one-to-one: {who}{name}" for name in asking.RIDGES for who in ("", "model - ")]
    assert mean["one-to-one: colour"]["value"] > 2 * mean["one-to-one"]["value"], "captions tell colours, and where they are"
    gap = mean["one-to-one: model - colour"]
    assert gap["ci_high"] < 0 and gap["value"] == pytest.approx(
        mean["one-to-one"]["value"] - mean["one-to-one: colour"]["value"]
    )


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"train_split": "nowhere"}, "no baselines: .*nowhere"),
        ({"train_split": "test"}, "asked for and learnt from"),
        ({"split": "val"}, "other pictures"),
    ],
)
def test_without_a_training_split_one_sentence_says_so(guess, toy_shards, how, words):
    evaluation = by_name.retrieve(guess, toy_shards, None, FEW)
    count = len(evaluation.rows)
    alone = asking.retrieval_baselines(evaluation, toy_shards, None, FEW, **how)
    assert len(alone.rows) == count
    assert re.search(words, alone.about["baselines"]), alone.about["baselines"]


def classes(folder, splits):
    """Shards of red and blue pictures with their class."""
    for split, count in splits.items():
        members = {}
        for index in range(count):
            red = index % 3 == 0
            array = np.full((8, 8, 3), (200, 20, 20) if red else (20, 20, 200), np.uint8)
            array[index % 8, :4] = 90
            record = {"key": f"{split}{index}", "class": "red" if red else "blue", "captions": ["a"]}
            members |= {f"{split}{index}.png": png(array), f"{split}{index}.json": json.dumps(record).encode()}
        write_tar(folder / split / "000000.tar", members)
    return folder


def test_commonest_class_and_colours_stand_beside_classes(guess, tmp_path):
    root = classes(tmp_path / "set", {"train": 30, "test": 12})
    evaluation = by_name.classify(guess, root, None, FEW, split="test")
    asking.class_baselines(evaluation, root, None, FEW, split="test")
    best = {row["protocol"]: row for row in evaluation.rows if row["metric"] == "top1"}
    assert best["paper: majority"]["value"] == pytest.approx(100 * 8 / 12) and best["paper: colour"]["value"] == 100
    assert best["paper: model - colour"]["value"] == pytest.approx(best["paper"]["value"] - 100)
    whole = by_name.classify(guess, root, None, FEW)
    assert "none is left to learn from" in asking.class_baselines(whole, root, None, FEW).about["baselines"]
