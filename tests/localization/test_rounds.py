"""Rounds: what is labelled, what a region teaches, when it stops, and that a killed run ends in the same bytes."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from conftest import write_toy
from safetensors.torch import load_file, save_file

from rsvlm import config
from rsvlm.data.demo import earth_facts, earth_masks, ground_cover
from rsvlm.errors import DataError, ModelError, RsvlmError
from rsvlm.localization import heat, pictures, rounds, teacher
from rsvlm.localization.pictures import Pictures
from rsvlm.model import weights
from rsvlm.model.encoder import Encoder
from rsvlm.model.others import opening
from rsvlm.records import files
from rsvlm.training import batches, checkpoints, train
from rsvlm.training.batches import Place

SIZES = dict(image_size=16, patch_size=4, vision_width=16, vision_stages=[1], vision_heads=2, image_pooling="attention")
SIZES |= dict(text_width=16, text_layers=1, text_heads=2)
CLASSES = {"sea": ["blue sea"], "land": ["tan land", "land"]}
FEW = rounds.Options(
    rounds=1, steps=4, batch_size=8, checkpoint_every=2, warmup_steps=1, most_recall_lost=100, least_agreement=1
)


def halves(count: int, seed: int) -> Pictures:
    """Pictures whose left side is blue and whose right side is tan, by a border that wanders; or one of the two."""
    rng = np.random.default_rng(seed)
    border = rng.choice([0, 8, 16], count)
    sea = np.arange(16)[None, None, :] < border[:, None, None]
    images = np.where(np.broadcast_to(sea, (count, 16, 16))[..., None], (20, 40, 140), (200, 170, 120))
    images = (images + rng.integers(-9, 10, images.shape)).astype(np.uint8)
    words = {0: ["tan land", "land"], 8: ["blue sea", "land"], 16: ["blue sea", "blue sea"]}
    return Pictures(images, [words[b] for b in border])


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("begin")
    options = replace(FEW, steps=60, learning_rate=5e-3, ema=0.5, checkpoint_every=100)
    return rounds.begin(SIZES, halves(48, 0), folder, options, vocabulary=300)


def same(one, other) -> bool:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_captions_alone_teach_where_the_sea_is(start):
    model, given = weights.load(start, "cpu"), halves(12, 1)
    odds = np.concatenate(list(teacher.odds_by_part(model, given.images, CLASSES, window=1)), axis=1)[0]
    np.testing.assert_allclose(odds.sum(axis=1), 1, atol=1e-5)
    land = given.images[:, 2::4, 2::4, 0] > given.images[:, 2::4, 2::4, 2]
    assert ((odds.argmax(axis=1) == 1) == land).mean() > 0.8


def test_flips_are_turned_back_and_a_larger_scale_keeps_the_grid(start):
    model, images = weights.load(start, "cpu"), halves(6, 2).images
    found = np.concatenate(list(teacher.odds_by_part(model, images, CLASSES, window=1, scale=2, flips=4)), axis=1)
    assert found.shape == (4, 6, 2, 4, 4)
    assert np.abs(found[1:] - found[:1]).mean() < 0.1  # turned back wrongly, left and right would be exchanged


def test_the_surest_patches_of_each_class_are_labelled():
    odds = np.zeros((1, 2, 2, 4), np.float32)
    odds[0, 0] = [[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]]
    odds[0, 1] = 1 - odds[0, 0]
    winner, sure = odds.argmax(axis=1), odds.max(axis=1)
    assert teacher.choose(winner, sure, 0.5).tolist() == [[[0, 0, -1, -1], [1, 1, -1, -1]]]
    assert (teacher.choose(winner, sure, 1.0) >= 0).all()
    # a class that nothing belongs to stays empty
    assert set(np.unique(teacher.choose(winner[:, :1], sure[:, :1], 0.5))) == {-1, 0}


def test_region_losses_of_known_labels(start):
    model = weights.load(start, "cpu")
    batch = heat.to_batch(model, list(halves(3, 3).images), 16, 16)
    texts = torch.nn.functional.normalize(torch.randn(2, 16, generator=torch.manual_seed(0)), dim=1)
    with torch.no_grad():
        found = heat.look(model, batch)
        embeddings = heat.project(model, found.values, found.rest)
        none = torch.full((3, 4, 4), -1)
        assert [float(x) for x in rounds.region_losses(model, found, none, texts, 3)] == [0, 0]
        one = none.clone()
        one[1, 2, 3] = 1
        patch, region = rounds.region_losses(model, found, one, texts, 1)
        wanted = -(model.logit_scale * embeddings[1, 2, 3] @ texts.T).log_softmax(0)[1]
        assert float(patch) == pytest.approx(float(wanted), rel=1e-4) and float(region) == pytest.approx(
            float(wanted), rel=1e-4
        )
        several = one.clone()
        several[0, :, 0] = 0
        odds = (model.logit_scale * embeddings @ texts.T).log_softmax(-1)
        patch, _ = rounds.region_losses(model, found, several, texts, 1)
        assert float(patch) == pytest.approx(-float(odds[0, :, 0, 0].sum() + odds[1, 2, 3, 1]) / 5, rel=1e-4)
        whole = torch.zeros_like(none)
        _, region = rounds.region_losses(model, found, whole, texts, 1)
        logits = model.logit_scale * model.encode_image(batch) @ texts.T
        assert float(region) == pytest.approx(float(-logits.log_softmax(1)[:, 0].mean()), rel=1e-4)


def test_a_killed_run_ends_in_the_same_bytes(start, tmp_path, monkeypatch):
    given, validation = halves(24, 4), halves(12, 5)
    whole = rounds.run(start, given, validation, CLASSES, tmp_path / "a", FEW, measure=lambda model: {"half": 0.5})
    assert [row["round"] for row in whole["rounds"]] == [0, 1] and whole["kept"] == 1
    assert whole["rounds"][1]["measured"] == {"half": 0.5} and not same(start, tmp_path / "a/round-1/model")
    assert 0.4 < sum(whole["rounds"][1][f"labelled[{name}]"] for name in CLASSES) < 0.75
    save, calls = checkpoints.save, []

    def save_and_die(*given):
        save(*given)
        calls.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        rounds.run(start, given, validation, CLASSES, tmp_path / "b", FEW)
    assert calls[0][1] == 2  # after step 2 of 4
    monkeypatch.setattr(checkpoints, "save", save)
    rounds.run(start, given, validation, CLASSES, tmp_path / "b", FEW, measure=lambda model: {"half": 0.5})
    assert same(tmp_path / "a/round-1/model", tmp_path / "b/round-1/model")
    assert (tmp_path / "a/round-1/labels.npz").read_bytes() == (tmp_path / "b/round-1/labels.npz").read_bytes()
    with pytest.raises(ModelError, match="other options or data"):
        rounds.run(start, given, validation, CLASSES, tmp_path / "b", replace(FEW, seed=1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [({}, None), ({"agreement": 0.8}, "flips"), ({"val_mR": 48.0}, "mean recall"), ({"told[sea]": 0.01}, "vanished")],
)
def test_rounds_stop_by_what_needs_no_mask(change, reason):
    before = {"round": 0, "agreement": 0.9, "val_mR": 50.0, "told[sea]": 0.3, "told[land]": 0.7, "measured": {"miou": 0.9}}
    after = before | {"round": 1, "measured": {"miou": 0.1}} | change
    found = rounds._stop([before, after], rounds.Options())
    assert found is None if reason is None else reason in found


def test_a_round_that_is_worse_is_not_kept(start, tmp_path):
    strict = replace(FEW, least_agreement=-1.0)  # agreement would have to grow by all there is
    found = rounds.run(start, halves(8, 6), halves(6, 7), CLASSES, tmp_path, strict)
    assert found["kept"] == 0 and "flips" in found["why"] and json.loads((tmp_path / "rounds.json").read_text()) == found
    assert rounds.run(start, halves(8, 6), halves(6, 7), CLASSES, tmp_path, strict) == found


@pytest.mark.parametrize("classes", [{"sea": ["sea"]}, {"sea": ["sea"], "land": []}])
def test_one_class_is_no_question(start, tmp_path, classes):
    with pytest.raises(DataError, match="two or more"):
        rounds.run(start, halves(4, 0), halves(4, 1), classes, tmp_path)


def test_pictures_of_another_size_are_refused(start, tmp_path):
    wrong = Pictures(np.zeros((2, 8, 8, 3), np.uint8), [["a"], ["b"]])
    with pytest.raises(DataError, match="expected \\(N, 16, 16, 3\\)"):
        rounds.run(start, wrong, halves(4, 1), CLASSES, tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_the_teacher_may_look_through_another_window(start, tmp_path, monkeypatch):
    seen = []

    def noted(model, images, classes, *, window=3, **how):
        seen.append((window, how.get("scale", 1)))
        return known(model, images, classes, window=window, **how)

    known = teacher.odds_by_part
    monkeypatch.setattr(teacher, "odds_by_part", noted)
    rounds.run(start, halves(8, 4), halves(12, 5), CLASSES, tmp_path, replace(FEW, steps=1, teacher_window=1, window=5))
    assert seen == [(5, 1), (1, 2), (5, 1)]  # round 0 is judged, the teacher labels, round 1 is judged


def direct(model, given, labels, options):
    """Loss, its parts and its gradient, of the first batch of the first round."""
    usable = np.arange(len(given.images))
    batch = next(rounds._read_batches(model, given, usable, labels, CLASSES, options, 1, Place(), 0))
    model.zero_grad(set_to_none=True)
    losses = train.backward(model, batch, rounds.objective(options, labels is not None), options.of_training())
    return {name: float(value.detach()) for name, value in losses.items()}, {n: p.grad for n, p in model.named_parameters()}


def test_without_losses_of_regions_labels_teach_nothing(start):
    model, given = weights.load(start, "cpu"), halves(8, 4)
    captions_alone = replace(FEW, patch_weight=0.0, region_weight=0.0)

    def loss(labels, options):
        return direct(model, given, labels, options)[0]["loss"]

    sea, land = np.zeros((8, 4, 4), np.int8), np.ones((8, 4, 4), np.int8)
    assert loss(sea, captions_alone) == loss(land, captions_alone) == loss(None, FEW)
    assert len({round(loss(sea, replace(FEW, **{name: 0.0})), 4) for name in ("patch_weight", "region_weight")}) == 2
    assert loss(sea, FEW) != loss(land, FEW)
    assert loss(None, replace(FEW, caption_weight=0.5)) > loss(None, FEW)


def sparse_labels(count):
    """Labels of a few patches of most pictures, one class or both in each."""
    labels = np.random.default_rng(0).choice([-1, -1, 0, 1], (count, 4, 4)).astype(np.int8)
    labels[::5] = -1
    labels[1] = 1
    return labels


@pytest.mark.parametrize("changed", [{}, {"caption_weight": 0.3}, {"contrastive_weight": 0.0, "patch_weight": 0.0}])
def test_the_accumulated_gradient_is_the_direct_one(start, changed):
    model, given, labels = weights.load(start, "cpu").train(), halves(8, 4), sparse_labels(8)
    options = replace(FEW, **changed)
    losses, gradient = direct(model, given, labels, options)
    assert losses.keys() >= {"loss", "contrastive", "patch", "region"}
    for micro in (1, 3):
        found, accumulated = direct(model, given, labels, replace(options, micro_batch_size=micro))
        assert found == pytest.approx(losses, rel=1e-5)
        for name, slope in gradient.items():
            if slope is None:
                assert accumulated[name] is None
            else:
                largest = float(slope.abs().max().clamp(min=1e-3))
                torch.testing.assert_close(accumulated[name], slope, rtol=0, atol=2e-5 * largest)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near(start, precision):
    model, given, labels = weights.load(start, "cpu").train(), halves(8, 4), sparse_labels(8)
    losses, _ = direct(model, given, labels, FEW)
    found, _ = direct(model, given, labels, replace(FEW, precision=precision))
    assert found == pytest.approx(losses, rel=0.05) and found != losses


def test_what_dropout_draws_depends_on_seed_round_and_step_alone(tmp_path):
    given, options = halves(16, 4), replace(FEW, steps=3)
    sizes = SIZES | {"text_dropout": 0.3}
    torch.manual_seed(1)
    first = rounds.begin(sizes, given, tmp_path / "a", options, vocabulary=300)
    torch.manual_seed(2)
    (tmp_path / "b").mkdir()
    shutil.copytree(tmp_path / "a" / "untrained", tmp_path / "b" / "untrained")
    assert same(first, rounds.begin(sizes, given, tmp_path / "b", options, vocabulary=300))
    plain = rounds.begin(SIZES, given, tmp_path / "c", options, vocabulary=300)
    assert not same(first, plain)
    seeds = {batches.dropout_seed(*where) for where in ((0, 1, 1), (0, 1, 2), (0, 2, 1), (1, 1, 1))}
    assert len(seeds) == 4


def test_a_round_tells_its_losses(start, tmp_path):
    rounds.run(start, halves(24, 4), halves(12, 5), CLASSES, tmp_path, replace(FEW, log_every=2))
    lines = [json.loads(line) for line in (tmp_path / "round-1" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(line["patch"] > 0 and line["region"] > 0 and line["samples_per_s"] > 0 for line in lines)
    assert not (tmp_path / "round-1" / "checkpoints").exists()


def test_a_loss_that_is_not_finite_stops_with_the_pictures(start, tmp_path):
    wild = replace(FEW, steps=30, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(RsvlmError, match="not_finite"):
        rounds.run(start, halves(24, 4), halves(12, 5), CLASSES, tmp_path, wild)
    saved = json.loads((tmp_path / "round-1" / "not_finite.json").read_text())
    assert len(saved["keys"]) == 8 and all(0 <= int(key) < 24 for key in saved["keys"])


def test_pictures_on_disk_are_those_in_memory(toy_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    whole, mapped = pictures.read(toy_shards, "train", 16), pictures.load_or_read(toy_shards, "train", 16)
    assert isinstance(mapped.images, np.memmap) and np.array_equal(whole.images, mapped.images)
    assert list(mapped.captions) == whole.captions and len(mapped.captions) == 96
    few = pictures.load_or_read(toy_shards, "train", 16, most=7, seed=3)
    assert np.array_equal(few.images, pictures.read(toy_shards, "train", 16, most=7, seed=3).images) and len(few.images) == 7
    with pytest.raises(DataError, match="split"):
        pictures.load_or_read(toy_shards, "nothing", 16)

    # and so is all that is learned from them
    begun = rounds.begin(SIZES, toy_shards, tmp_path / "mapped", replace(FEW, steps=6), vocabulary=300)
    assert same(begun, rounds.begin(SIZES, whole, tmp_path / "whole", replace(FEW, steps=6), vocabulary=300))
    classes, validation = {"red": ["red"], "blue": ["blue"]}, pictures.read(toy_shards, "val", 16)
    one = rounds.run(begun, toy_shards, toy_shards, classes, tmp_path / "one", FEW)
    assert one == rounds.run(begun, whole, validation, classes, tmp_path / "two", FEW)
    assert (tmp_path / "one" / "run.json").read_text() == (tmp_path / "two" / "run.json").read_text()


def test_memory_does_not_grow_with_the_pictures_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    data, peaks = write_toy(tmp_path / "data", {"train": 400, "few": 100}), {}
    for split in ("few", "train"):
        tracemalloc.start()
        mapped = pictures.load_or_read(data, split, 128)
        for index in (0, len(mapped.images) // 2, -1):
            mapped.images[[index]].sum()
        peaks[split] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks["train"] < peaks["few"] + 500_000 < mapped.images.nbytes / 4


def test_mean_recall_is_that_of_all_captions(start, monkeypatch):
    eye = np.eye(4, dtype=np.float32)
    found = Pictures(np.zeros((4, 16, 16, 3), np.uint8), [["a", "b"], ["c"], ["d"], ["e"]])
    monkeypatch.setattr(rounds.embed, "images", lambda model, arrays: eye)
    monkeypatch.setattr(rounds.embed, "texts", lambda model, texts: eye[[0, 1, 1, 2, 3]])  # “b” is nearer to another
    row = rounds.recall(None, found, bootstrap_samples=10)
    assert row["metric"] == "mR" and row["n"] == 4 and row["ci_low"] < row["value"] < 100
    # R@1 alone fits: of 4 images one finds a caption of another as near as its own; of 5 captions one finds another image
    assert row["value"] == pytest.approx((100 * 3 / 4 + 100 * 4 / 5) / 2)


def test_the_chapters_model_is_made_once(tmp_path, toy_shards, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    made = []
    monkeypatch.setattr(rounds, "begin", lambda sizes, given, out, options: made.append((sizes, len(given.images), options)))
    options = config.load("smoke", {"seed": 3})
    first, second = (rounds.load_or_begin(options, toy_shards, ground_cover.SIZES) for _ in range(2))
    assert first == second and first.parent.parent == tmp_path / "runs" and first.name == "model"
    ((sizes, count, chosen),) = made
    assert sizes == ground_cover.SIZES and count == 96 and (chosen.steps, chosen.seed) == (options.train.steps // 2, 3)
    assert rounds.load_or_begin(config.load("smoke", {"seed": 4}), toy_shards, ground_cover.SIZES) != first


def test_sentences_are_read_as_often_as_captions():
    texts = ["Sea and land. A coast. Far away.", "Sea.", "Land. Sea."]
    readings = pictures.readings(texts)
    assert texts[0] not in readings and {"A coast.", "Far away.", "Sea and land."} < set(readings)
    assert readings.count("Land. Sea.") * 2 == len(readings) // 2  # one of two whole captions
    assert pictures.readings(["Sea and land"]) == ["Sea and land", "Sea and land."]


def test_sentences_of_covers_name_the_colours_by_which_masks_tell_them():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (4000, 3))
    spoken = {text: name for name, texts in ground_cover.COVERS.items() for text in texts}
    said = [spoken[f"The land is {earth_facts.colour_word(*map(float, colour))} throughout."] for colour in colours]
    # Of one colour throughout, for masks look at the mean over three by three pixels.
    seen = [earth_masks.cover_masks(np.ones((3, 3), np.uint8), np.full((3, 3, 3), colour, np.uint8)) for colour in colours]
    right = [name in masks for name, masks in zip(said, seen, strict=True)]
    assert np.mean(right) > 0.95 and len(spoken) == sum(map(len, ground_cover.COVERS.values()))
    assert {name for name, masks in zip(said, seen, strict=True) if name in masks} == {"desert", "ice", "other land"}


def test_rounds_that_failed_before_anything_was_computed_bind_nobody(start, tmp_path, monkeypatch):
    def begun(**how):
        rounds.begin(SIZES, halves(8, 0), tmp_path / "begun", replace(FEW, steps=1, **how), vocabulary=300)

    def run(**how):
        return rounds.run(start, halves(8, 4), halves(12, 5), CLASSES, tmp_path / "run", replace(FEW, steps=1, **how))

    for wanted, place, stop in ((begun, rounds.tokenizer, "train"), (run, rounds, "judge")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, stop, lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
            wanted(seed=1)
        wanted(seed=2)
        with pytest.raises(ModelError, match="other options or data"):
            wanted(seed=1)


def test_two_do_not_write_into_one_folder(start, tmp_path):
    with files.sole_writer(tmp_path / "busy"):
        with pytest.raises(DataError, match="is being written by process"):
            rounds.run(start, halves(8, 0), halves(8, 1), CLASSES, tmp_path / "busy", FEW)
        with pytest.raises(DataError, match="is being written by process"):
            rounds.begin(SIZES, halves(8, 0), tmp_path / "busy", FEW, vocabulary=300)
    assert not (tmp_path / "busy").exists()


@pytest.fixture(scope="module")
def other_teacher(tmp_path_factory):
    """Name of a CLIP in open_clip's format, with random weights, other patches than the pupil's and pictures of another size."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    folder = tmp_path_factory.mktemp("teacher")
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    model = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    weights_of_it = open_clip.CLIP(**{"quick_gelu": False} | model).state_dict()
    torch.nn.init.normal_(weights_of_it["text_projection"])
    save_file({name: value.contiguous() for name, value in weights_of_it.items()}, folder / "open_clip_model.safetensors")
    return f"open_clip:{folder}"


def test_a_model_of_another_family_labels_the_first_round(start, other_teacher, tmp_path, monkeypatch):
    asked = []

    def noted(model, *given, **how):
        asked.append((model.name if isinstance(model, Encoder) else "pupil", how["flips"]))
        return known(model, *given, **how)

    known = teacher.odds_by_part
    monkeypatch.setattr(teacher, "odds_by_part", noted)
    given, validation, options = halves(8, 4), halves(12, 5), replace(FEW, rounds=2, steps=2, teacher_window=1)
    made = rounds.run(start, given, validation, CLASSES, tmp_path / "run", options, teacher=other_teacher)
    assert len(made["rounds"]) == 3
    assert [name for name, _ in asked] == ["pupil", other_teacher, "pupil", "pupil", "pupil"]

    # its labels lie on the pupil's grid of 4 x 4: of pictures of 64 pixels, 8 x 8 patches, the mean of two by two
    encoder = opening.open_encoder(other_teacher, "cpu")
    batch = heat.to_batch(encoder, list(given.images), 64, 64)
    texts = encoder.texts(["blue sea", "tan land", "land"])
    odds = 0
    for flip in ([], [-1], [-2], [-2, -1]):
        cosines = heat.heat(encoder, batch.flip(flip), texts, window=1)
        scores = torch.from_numpy(np.stack([cosines[:, 0], cosines[:, 1:].max(axis=1)], axis=1)) * encoder.logit_scale
        odds = odds + scores.softmax(1).unflatten(-1, (4, 2)).unflatten(2, (4, 2)).mean(dim=(3, 5)).flip(flip) / 4
    wanted = teacher.choose(odds.argmax(1).numpy(), odds.max(1).values.numpy(), options.sure_share)
    labels = np.load(tmp_path / "run" / "round-1" / "labels.npz")["labels"]
    assert labels.shape == (8, 4, 4) and (labels == wanted).mean() > 0.98
    assert set(np.unique(labels)) > {-1}

    # and it is part of what the run is
    assert json.loads((tmp_path / "run" / "run.json").read_text())["teacher"] == encoder.fingerprint
    assert rounds.run(start, given, validation, CLASSES, tmp_path / "run", options, teacher=other_teacher) == made
    with pytest.raises(ModelError, match="other options or data"):
        rounds.run(start, given, validation, CLASSES, tmp_path / "run", options)


def test_a_killed_run_with_another_teacher_ends_in_the_same_bytes(start, other_teacher, tmp_path, monkeypatch):
    given, validation = halves(8, 4), halves(12, 5)
    rounds.run(start, given, validation, CLASSES, tmp_path / "a", FEW, teacher=other_teacher)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rounds, "_train", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        rounds.run(start, given, validation, CLASSES, tmp_path / "b", FEW, teacher=other_teacher)
    rounds.run(start, given, validation, CLASSES, tmp_path / "b", FEW, teacher=other_teacher)
    assert same(tmp_path / "a/round-1/model", tmp_path / "b/round-1/model")


def test_what_is_trained_is_a_mammut_and_what_labels_knows_texts_and_patches(start, other_teacher, tmp_path):
    given = halves(8, 4), halves(12, 5), CLASSES, tmp_path / "run", FEW
    with pytest.raises(ModelError, match="rounds train a MaMMUT .* give that as teacher"):
        rounds.run(other_teacher, *given)
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), tmp_path / "tower.pth")
    with pytest.raises(ModelError, match="cannot label patches, for want of texts and the scale of its loss"):
        rounds.run(start, *given, teacher=f"timm:resnet18:{tmp_path / 'tower.pth'}")
    assert not (tmp_path / "run" / "run.json").exists()
