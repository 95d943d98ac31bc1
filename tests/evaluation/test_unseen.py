"""What is held out is in no training picture and no training caption, and the tokenizer has never read it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import png, toy_sample

from rsvlm import config
from rsvlm.data import benchmarks, pairs
from rsvlm.data.demo import categories
from rsvlm.errors import ConfigError, DataError
from rsvlm.evaluation import statistics, unseen
from rsvlm.training import batches, starting


def chip(index: int, landmarks: list[str], caption: str, colours: list | None = None) -> tuple[dict, bytes]:
    record = {"key": f"chip-{index:03d}", "captions": [caption, "The land is green."], "license": "none needed"}
    record |= {"landmarks": [{"category": name} for name in landmarks], "measurements": {"land_colours": colours or []}}
    return record, png(toy_sample(index)[0])


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def data(home):
    """40 chips: a quarter has a lake, two speak of one that no landmark tells of, one in capitals and one within a name."""
    samples = [chip(i, ["lake", "river"] if i % 4 == 0 else ["river"], "Rivers in the north.") for i in range(40)]
    samples[1][0]["captions"][1] = "LAKES lie in the south."
    samples[2][0]["captions"][0] = "On the map: Blakeslake in the north."
    samples[4][0]["captions"][0] = "A lake lies in the east."
    pairs.write(home / "data", "toy-chips", {"train": samples, "test": samples[:8]})
    return home / "data"


def known(names: str) -> list[unseen.Category]:
    return unseen.categories(names, categories.CATEGORIES)


# Categories


def test_categories_are_known_or_looked_for_by_their_name():
    lake, stadium = known(" lake, Stadium")
    assert lake.sentence and "lake" not in lake.description and "lake" not in lake.frame
    assert stadium.marks == {"stadium"} and stadium.words == ("stadium",)
    assert unseen.prompts(stadium)["paper"] == "An aerial image of a stadium"
    assert unseen.prompts(known("island")[0])["paper"] == "An aerial image of an island"
    assert unseen.prompts(known("sea")[0])["paper"] == "An aerial image of sea"
    for wrong in ("", " , ", "lake,Lake"):
        with pytest.raises(ConfigError, match="each once"):
            known(wrong)


def test_descriptions_and_frames_do_not_name_what_is_held_out():
    held = known("lake,island")
    for one in held:
        assert unseen.speaks_of(one.sentence, one)
        for text in (one.frame, one.description):
            assert text and not any(unseen.speaks_of(text, other) for other in held)


def test_a_record_shows_by_landmark_or_colour_and_may_be_anything():
    lake, sand = known("lake,tan land")
    assert unseen.shows({"landmarks": [{"category": "Lake"}]}, lake)
    assert unseen.shows({"measurements": {"land_colours": [None, "pale sand"]}}, sand)
    for record in ({}, {"landmarks": None}, {"landmarks": ["lake"]}, {"measurements": [1]}, {"landmarks": [{"category": 3}]}):
        assert not unseen.shows(record, lake)


# Holding out


def test_no_held_out_landmark_and_no_held_out_word_is_in_the_training_data(data):
    held = known("lake")
    folder = unseen.hold_out(data, held, seed=3)
    kept = list(benchmarks.samples(folder / "held-out", "train"))
    source = {s.key: s for s in benchmarks.samples(data, "train")}
    assert len(kept) == 40 - 10 - 2
    for sample in kept:
        assert not any("lake" in caption.lower() for caption in sample.captions)
        assert not any(mark["category"] == "lake" for mark in source[sample.record["source_key"]].record["landmarks"])
        assert sample.image == source[sample.record["source_key"]].image and sample.record["license"] == "none needed"
    everything = {sample.record["source_key"] for sample in benchmarks.samples(folder / "all", "train")}
    assert len(everything) == len(kept) and everything != {s.record["source_key"] for s in kept}
    named = list(benchmarks.samples(folder / "named", "train"))
    assert {tuple(s.captions) for s in named} == {("An aerial image of a lake",)} and len(named) == 10
    assert json.loads((folder / "counts.json").read_text()) == {
        "train": 40, "shown": 10, "told": 3, "told, not shown": 2, "kept": 28,
    }  # fmt: skip
    assert unseen.hold_out(data, held, seed=3) == folder and unseen.hold_out(data, held, seed=4) != folder


@pytest.mark.parametrize(("names", "what"), [("river", "none is left"), ("volcano", "all are left")])
def test_holding_out_nothing_or_everything_is_an_error(data, names, what):
    with pytest.raises(DataError, match=what):
        unseen.hold_out(data, known(names), seed=0)


def test_the_tokenizer_of_a_held_out_run_has_never_read_the_word(data, tiny_preset):
    folder = unseen.hold_out(data, known("lake"), seed=3)
    for arm in unseen.ARMS:
        sets, stages = unseen.arm_data(folder, arm, 12)
        options = {"model.preset": tiny_preset, "model.vocabulary_size": 300, "train.stages": stages, "train.batch_size": 16}
        options = config.load("smoke", options)
        model = starting.build(options, sets)
        shares = list(batches.read(sets, options.train, 0, 32, batches.Place(), 0))
        captions = [caption.lower() for share in shares for caption in share.captions]
        assert len(shares) == 12 and any("lake" in text for text in captions) == (arm != "held out")
        assert "lake" not in " ".join(model.tokenizer.get_vocab()).lower() or arm != "held out"
        if arm.endswith("names"):
            assert sum("lake" in text for text in captions) == 12 * 2
    with pytest.raises(ConfigError, match="no arm"):
        unseen.arm_data(folder, "none", 5)


def test_what_a_page_stores_are_the_summaries_and_their_differences_to_the_control():
    rng = np.random.default_rng(0)
    times = statistics.resamples(40, 50, 0)
    found = {name: rng.random((2, 40)) < chance for name, chance in zip((*unseen.ARMS, "colours"), (0.8, 0.5, 0.6, 0.4))}
    ranks = {name: np.where(right, 1, 11) for name, right in found.items()}
    owners = np.arange(40)
    summaries = {name: statistics.summary(statistics.recall, [one], owners, 10, times=times) for name, one in ranks.items()}
    stored = json.loads(json.dumps(unseen.compared(summaries)))
    assert list(stored["each"]) == list(summaries) and list(stored["lost"]) == list(unseen.ARMS)
    for name, right in found.items():
        np.testing.assert_allclose(stored["each"][name]["seeds"], 100 * right.mean(axis=1))
    lost = stored["lost"]["held out"]
    assert lost["value"] == pytest.approx(100 * (found["held out"].mean() - found["all"].mean()))
    assert lost["ci_low"] < lost["value"] < lost["ci_high"]
    assert stored["lost"]["all"]["value"] == 0
