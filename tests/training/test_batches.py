"""What is read depends on the seed, the step and the place, and on nothing else."""

import json
import sys
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from conftest import png, toy_sample, write_toy

from rsvlm import __main__ as cli, config
from rsvlm.errors import ConfigError, DataError
from rsvlm.training import augment, batches, train
from rsvlm.training.batches import Place

STAGES = [
    {"steps": 3, "data": {"a": 1}},
    {"steps": 2, "data": {"karpathy": 2.0}},
    {"steps": 6, "data": {"a": 1, "karpathy": 3}},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards `a`, and a benchmark folder as its authors pack it."""
    home = tmp_path_factory.mktemp("sets")
    write_toy(home / "a", {"train": 40, "val": 8}, samples_per_shard=8)
    (home / "karpathy" / "images").mkdir(parents=True)
    rows = []
    for index in range(30):
        array, captions = toy_sample(1000 + index)
        (home / "karpathy" / "images" / f"{index}.png").write_bytes(png(array))
        sentences = [{"raw": caption} for caption in captions]
        rows.append({"filename": f"{index}.png", "split": "val" if index < 6 else "train", "sentences": sentences})
    rows.append({"filename": "gone.png", "split": "train", "sentences": [{"raw": "not there"}]})
    (home / "karpathy" / "dataset_toy.json").write_text(json.dumps({"images": rows}))
    return {"a": home / "a", "karpathy": home / "karpathy"}


def options(**overrides):
    names = {"train.batch_size": 12, "train.stages": json.dumps(STAGES)}
    return config.load("smoke", names | {name.replace("__", "."): value for name, value in overrides.items()}).train


def read(data, settings, place=None, step=0, **process):
    return list(batches.read(data, settings, 5, 32, place or Place(), step, **process))


def same(a, b):
    return (
        (a.captions, a.keys, a.place) == (b.captions, b.keys, b.place)
        and len(a.images) == len(b.images)
        and all(np.array_equal(x, y) for x, y in zip(a.images, b.images))
    )


def test_each_stage_mixes_its_sets_for_its_steps(data):
    shares = read(data, options())
    drawn = [Counter(key.split("/")[0] for key in share.keys) for share in shares]
    assert drawn[:3] == [{"a": 12}] * 3 and drawn[3:5] == [{"karpathy": 12}] * 2
    assert drawn[5:] == [{"a": 3, "karpathy": 9}] * 6
    assert options().steps == len(shares) == 11
    epoch = [key for share in shares for key in share.keys if key.startswith("karpathy")][:24]
    assert len(set(epoch)) == 24  # every training sample once before any comes again, over the border of two stages
    assert epoch != sorted(epoch, key=lambda key: int(key.split("/")[1].split(".")[0]))
    assert shares[-1].place.counts["no image file"] == 4  # one in each epoch that was begun


def test_an_even_mixture_without_stages(data):
    for batch in read(data, options(train__stages="", train__steps=4)):
        assert Counter(key.split("/")[0] for key in batch.keys) == {"a": 6, "karpathy": 6}


def test_shares_are_rounded_by_chance_and_true_on_average():
    drawn = [Counter(batches.draw_sets({"a": 1, "b": 2.2}, 5, [0, step])) for step in range(2000)]
    assert {count["a"] for count in drawn} == {1, 2}
    assert np.mean([count["a"] for count in drawn]) == pytest.approx(5 / 3.2, abs=0.03)
    assert batches.draw_sets({"a": 0.3}, 4, [0]) == ["a"] * 4


VARIED = {"train__augment": True, "train__smallest_crop": 0.4, "train__light": 0.3, "train__sizes_px": (16, 24)}


@pytest.mark.parametrize("stop", [1, 4, 8])
def test_reading_goes_on_exactly_where_it_was(data, stop):
    settings = options(**VARIED, train__held_px=28)
    whole = read(data, settings)
    place = json.loads(json.dumps(vars(whole[stop - 1].place)))  # as a checkpoint keeps it
    rest = read(data, settings, Place(place["positions"], Counter(place["counts"])), stop)
    assert len(rest) == 11 - stop and all(same(a, b) for a, b in zip(whole[stop:], rest, strict=True))


def test_threads_change_nothing(data):
    plain, threaded = (read(data, options(**VARIED, train__held_px=28, train__workers=n)) for n in (0, 3))
    assert all(same(a, b) for a, b in zip(plain, threaded, strict=True))
    assert all(same(a, b) for a, b in zip(plain, batches.ahead(iter(threaded)), strict=True))


def test_processes_share_a_batch_without_overlap_or_gap(data):
    settings = options(**VARIED)
    for whole, *shares in zip(read(data, settings), *(read(data, settings, rank=r, ranks=3) for r in range(3)), strict=True):
        for rank, share in enumerate(shares):
            assert share.captions == whole.captions[rank::3]
            assert all(np.array_equal(a, b) for a, b in zip(share.images, whole.images[rank::3], strict=True))
            assert (share.keys, share.place) == (whole.keys, whole.place)


def test_images_grow_over_equal_parts_of_the_run(data):
    sides = [{array.shape for array in batch.images} for batch in read(data, options(train__sizes_px="16,16,24"))]
    assert sides == [{(16, 16, 3)}] * 8 + [{(24, 24, 3)}] * 3  # of 11 steps, parts of 4, 4 and 3
    assert {array.shape for batch in read(data, options()) for array in batch.images} == {(32, 32, 3)}


def test_held_images_are_decoded_once(data, monkeypatch):
    decoded = Counter()
    real = batches.images.decode
    monkeypatch.setattr(batches.images, "decode", lambda content, **how: decoded.update([content]) or real(content, **how))
    plain = read(data, options())
    assert max(decoded.values()) > 1
    decoded.clear()
    held = read(data, options(train__held_px=32))  # their own size: nothing is lost
    assert set(decoded.values()) == {1}
    assert all(same(a, b) for a, b in zip(plain, held, strict=True))
    smaller = read(data, options(train__held_px=8))
    assert all(a.keys == b.keys and not same(a, b) for a, b in zip(plain, smaller, strict=True))


def test_views_leave_captions_and_order_as_they_are(data):
    plain, varied = read(data, options()), read(data, options(train__smallest_crop=0.5, train__light=0.2))
    for a, b in zip(plain, varied, strict=True):
        assert (a.captions, a.keys, a.place) == (b.captions, b.keys, b.place)
        assert not any(np.array_equal(x, y) for x, y in zip(a.images, b.images, strict=True))


def test_other_seeds_read_other_orders(data):
    a, b = (next(batches.read(data, options(), seed, 32, Place(), 0)).keys for seed in (1, 2))
    assert a != b


def test_an_error_in_the_thread_ahead_reaches_the_reader():
    def failing():
        yield 1
        raise DataError("no more")

    ahead = batches.ahead(failing())
    assert list(islice(ahead, 1)) == [1]
    with pytest.raises(DataError, match="no more"):
        next(ahead)


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ('[{"steps":5,"data":{}}]', r"train\.stages\.0\.data.*at least 1 item"),
        ('[{"steps":0,"data":{"a":1}}]', r"train\.stages\.0\.steps' = 0.*greater"),
        ('[{"data":{"a":1}}]', r"train\.stages\.0\.steps.*required"),
        ('[{"steps":5,"data":{"a":-1}}]', r"train\.stages\.0\.data\.a' = -1.*greater than 0"),
        ('[{"steps":5,"data":{"a":0}}]', r"train\.stages\.0\.data\.a' = 0.*greater than 0"),
        ('[{"steps":5,"data":{"a":NaN}}]', r"train\.stages\.0\.data\.a"),
        ('[{"steps":5,"set":{"a":1}}]', r"train\.stages\.0"),
        ("[{'steps':5}]", "not JSON"),
        ('{"steps":5}', "not a list of stages"),
    ],
)
def test_a_stage_that_cannot_be_is_one_sentence(stages, says):
    with pytest.raises(ConfigError, match=says) as error:
        config.load("smoke", {"train.stages": stages})
    assert "\n" not in str(error.value)


def test_a_set_that_was_not_given_stops_before_any_work(data, tmp_path):
    settings = config.load("smoke", {"train.stages": '[{"steps":1,"data":{"a":1}},{"steps":1,"data":{"webli":1}}]'})
    with pytest.raises(DataError, match="stage 2 mixes 'webli', but the data sets are a, karpathy"):
        train.train(settings, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_options_take_stages_as_text_on_the_command_line():
    text = 'train.stages=[{"steps":7,"data":{"a":1,"b":0.5}}] train.batch_size=4'
    loaded = config.load("laptop", text).train
    assert (loaded.steps, loaded.stages[0].data, loaded.batch_size) == (7, {"a": 1.0, "b": 0.5}, 4)


def test_the_verb_trains_on_named_mixtures(data, tiny_preset, tmp_path, capsys, monkeypatch):
    stages = tmp_path / "stages.json"
    stages.write_text('[{"steps": 1, "data": {"a": 1}},\n {"steps": 1, "data": {"a": 1, "papers": 2}}]')
    base = ["rsvlm", "train", "--data", str(data["a"]), "--out", str(tmp_path / "run"), "--profile", "smoke"]
    base += ["--set", "model.preset=test", "--set", "model.vocabulary_size=320", "--set", "train.batch_size=9"]
    for more, says in [
        (["--stages", str(stages)], "stage 2 mixes 'papers', but the data sets are a"),
        (["--stages", str(tmp_path / "no.json")], "no.json is no file"),
        (["--data", f"a={data['karpathy']}"], "two data sets are named 'a'"),
        (["--data", "papers=nowhere"], "nowhere is not a folder"),
    ]:
        monkeypatch.setattr(sys, "argv", [*base, *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert says in ended.value.code and not (tmp_path / "run").exists()
    monkeypatch.setattr(sys, "argv", [*base, "--data", f"papers={data['karpathy']}", "--stages", str(stages)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code and (tmp_path / "run" / "model" / "model.safetensors").is_file()
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-000002" / "state.json").read_text())
    assert state["place"]["positions"] == {"a": [0, 12], "papers": [0, 6]}


def test_several_processes_share_one_batch_of_twins(toy_shards, tmp_path):
    data = {"a": toy_shards, "b": write_toy(tmp_path / "other", {"train": 10})}
    options = config.load(
        "smoke", {"train.steps": 4, "train.batch_size": 16, "train.twins": 3, "train.smallest_crop": 0.5}
    ).train
    whole = list(batches.read(data, options, 0, 32, Place(), 0))
    for ranks in (2, 4):
        readers = [list(batches.read(data, options, 0, 32, Place(), 0, rank, ranks)) for rank in range(ranks)]
        for batch, shares in zip(whole, zip(*readers, strict=True), strict=True):
            for rank, share in enumerate(shares):
                assert (share.keys, share.place, share.captions) == (batch.keys, batch.place, batch.captions[rank::ranks])
                assert np.array_equal(share.images, batch.images[rank::ranks])
    assert {key.split("/")[0] for key in whole[0].keys} == {"a", "b"} and len(set(whole[0].keys)) < 16
    # who begins later, at the place of a checkpoint, reads on as whoever did not stop
    for batch, again in zip(whole[2:], batches.read(data, options, 0, 32, whole[1].place, 2), strict=True):
        assert (again.keys, again.captions, again.place) == (batch.keys, batch.captions, batch.place)


def test_twins_show_a_picture_turned_with_its_words_beside_itself(tmp_path):
    marked = np.zeros((8, 8, 3), np.uint8)
    marked[0, 1] = 255  # no two turns are alike
    captions = {
        "told": "a mark in the north, west of it",
        "plain": "a mark",
        "named": "a mark of Northern Ireland, to the west",
    }
    rows = []
    for key, caption in captions.items():
        (tmp_path / f"{key}.png").write_bytes(png(marked))
        rows.append({"filename": f"{key}.png", "split": "train", "sentences": [{"raw": caption}]})
    (tmp_path / "dataset_toy.json").write_text(json.dumps({"images": rows}))
    options = config.load("smoke", {"train.steps": 3, "train.batch_size": 12, "train.twins": 3}).train
    for share in batches.read({"a": tmp_path}, options, 0, 8, Place(), 0):
        assert len(share.images) == len(share.captions) == len(share.keys) == 12
        names = [key.split(".")[0] for key in share.keys]
        for image, caption, name in zip(share.images, share.captions, names):
            turn = next(t for t in range(8) if np.array_equal(augment.turn_image(marked, t), image))
            assert caption == augment.turn_text(captions[name], turn)
            assert name != "named" or turn == 0
        told = [caption for caption, name in zip(share.captions, names) if name == "told"]
        assert len(told) > 2 * names.count("plain") - 2 and len(set(told)) >= 3
