"""Held-out words are in no training caption; curricula have one budget; measures equal their definitions."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from conftest import png, toy_sample, write_tar, write_toy

from rsvlm import benchmarks, config, curriculum, experiments, shards, train
from rsvlm.errors import ConfigError, DataError


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
    experiments.write_pairs(home / "data", "toy-chips", {"train": samples, "test": samples[:8]})
    return home / "data"


# Categories


def test_categories_are_known_or_looked_for_by_their_name():
    lake, stadium = experiments.categories(" lake, Stadium")
    assert lake.sentence and "lake" not in lake.description and "lake" not in lake.frame
    assert stadium.marks == {"stadium"} and stadium.words == ("stadium",)
    assert experiments.prompts(stadium)["paper"] == "An aerial image of a stadium"
    assert experiments.prompts(experiments.categories("island")[0])["paper"] == "An aerial image of an island"
    assert experiments.prompts(experiments.categories("sea")[0])["paper"] == "An aerial image of sea"
    for wrong in ("", " , ", "lake,Lake"):
        with pytest.raises(ConfigError, match="each once"):
            experiments.categories(wrong)


def test_descriptions_and_frames_do_not_name_what_is_held_out():
    held = experiments.categories("lake,island")
    for one in held:
        assert experiments.speaks_of(one.sentence, one)
        for text in (one.frame, one.description):
            assert text and not any(experiments.speaks_of(text, other) for other in held)


def test_a_record_shows_by_landmark_or_colour_and_may_be_anything():
    lake, sand = experiments.categories("lake,tan land")
    assert experiments.shows({"landmarks": [{"category": "Lake"}]}, lake)
    assert experiments.shows({"measurements": {"land_colours": [None, "pale sand"]}}, sand)
    for record in ({}, {"landmarks": None}, {"landmarks": ["lake"]}, {"measurements": [1]}, {"landmarks": [{"category": 3}]}):
        assert not experiments.shows(record, lake)


# Holding out


def test_no_held_out_landmark_and_no_held_out_word_is_in_the_training_data(data):
    held = experiments.categories("lake")
    folder = experiments.hold_out(data, held, seed=3)
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
    assert experiments.hold_out(data, held, seed=3) == folder and experiments.hold_out(data, held, seed=4) != folder


@pytest.mark.parametrize(("names", "what"), [("river", "none is left"), ("volcano", "all are left")])
def test_holding_out_nothing_or_everything_is_an_error(data, names, what):
    with pytest.raises(DataError, match=what):
        experiments.hold_out(data, experiments.categories(names), seed=0)


def test_the_tokenizer_of_a_held_out_run_has_never_read_the_word(data, tiny_preset):
    folder = experiments.hold_out(data, experiments.categories("lake"), seed=3)
    for arm in experiments.ARMS:
        sets, stages = experiments.arm_data(folder, arm, 12)
        options = {"model.preset": tiny_preset, "model.vocabulary_size": 300, "train.stages": stages, "train.batch_size": 16}
        options = config.load("smoke", options)
        model = train.build(options, sets)
        shares = list(curriculum.read(sets, options.train, 0, 32, curriculum.Place.start(), 0))
        captions = [caption.lower() for share in shares for caption in share.captions]
        assert len(shares) == 12 and any("lake" in text for text in captions) == (arm != "held out")
        assert "lake" not in " ".join(model.tokenizer.get_vocab()).lower() or arm != "held out"
        if arm.endswith("names"):
            assert sum("lake" in text for text in captions) == 12 * 2
    with pytest.raises(ConfigError, match="no arm"):
        experiments.arm_data(folder, "none", 5)


# Variants


def test_every_variant_has_the_same_steps_and_starts_from_general_pairs():
    for variant in experiments.VARIANTS:
        for steps in (8, 80, 1001):
            stages = experiments.stages(variant, steps)
            options = config.load("smoke", {"train.stages": stages}).train
            assert options.steps == steps and set(stages[0]["data"]) == {"base"}
            said = set().union(*(stage["data"] for stage in stages)) - {"base"}
            assert said == {"base": set(), "both": {"web", "landmarks"}}.get(variant, {variant})
    assert [set(s["data"]) for s in experiments.stages("both", 80)][1:] == [{"web"}, {"landmarks"}, {"web", "landmarks"}]
    with pytest.raises(ConfigError, match="no variant"):
        experiments.stages("neither", 80)
    with pytest.raises(ConfigError, match="8 or more"):
        experiments.stages("both", 7)


def test_variants_share_tokenizer_and_first_weights(home, tiny_preset):
    sets = {name: write_toy(home / name, {"train": 8 + i, "test": 8}) for i, name in enumerate(("base", "web", "landmarks"))}
    models = []
    for variant in ("base", "both"):
        options = {"model.preset": tiny_preset, "model.vocabulary_size": 300}
        options = config.load("smoke", options | {"train.stages": experiments.stages(variant, 8)})
        models.append(train.build(options, sets))
    one, other = ({name: value.numpy().tobytes() for name, value in model.state_dict().items()} for model in models)
    assert one == other and models[0].tokenizer.get_vocab() == models[1].tokenizer.get_vocab()


def test_general_pairs_are_not_from_above_and_keep_hosts_apart(home):
    demo, rows = home / "demo", []
    for number in range(12):
        above, trap = number % 3 == 0, "broken" if number == 1 else ""
        rows.append(["host", f"{number}.png", number >= 8, above, "chart", "My cat", False, "en", trap])
        array = np.zeros((20, 20, 3), np.uint8)
        array[10:] = 245
        path = demo / "sites" / "host" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(array))
    columns = ["host", "path", "held_back", "overhead", "style", "text", "relevant", "language", "trap"]
    pd.DataFrame(rows, columns=columns).to_parquet(demo / "labels.parquet")
    folder = experiments.general_pairs(demo)
    found = {split: list(benchmarks.samples(folder, split)) for split in ("train", "test")}
    assert (len(found["train"]), len(found["test"])) == (4, 3)  # 2 4 5 7; 8 10 11
    assert found["train"][0].captions[0] == "A chart, black in the north and white in the south."
    assert "cat" not in str([s.captions for part in found.values() for s in part])


def test_pictures_keep_their_kind_and_shards_their_size(home, monkeypatch):
    monkeypatch.setattr(experiments, "_PER_SHARD", 3)
    samples = [chip(i, [], "A river.") for i in range(7)]
    manifest = experiments.write_pairs(home / "out", "seven", {"train": iter(samples)})
    assert [shard["samples"] for shard in manifest["splits"]["train"]["shards"]] == [3, 3, 1]
    assert [s.image for s in shards.stream(home / "out", "train")] == [data for _, data in samples]
    assert benchmarks.name(home / "out") == "seven"


def test_few_test_samples_are_joined_by_those_of_val(home):
    folder = write_toy(home / "toy", {"train": 4, "test": 5, "val": 6})
    assert len(experiments.held_back(folder)) == 11 and len(experiments.held_back(folder, least=5)) == 5
    assert len(experiments.held_back(write_toy(home / "no-val", {"train": 4, "test": 5}))) == 5
    write_tar(home / "bare" / "train" / "000000.tar", {"a.png": png(toy_sample(0)[0]), "a.txt": b"a field"})
    with pytest.raises(DataError, match="test"):
        experiments.held_back(home / "bare")
