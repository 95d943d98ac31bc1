"""The loop learns, and ends in the same bytes whether or not it was killed."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import png, toy_sample, write_tar, write_toy
from safetensors.torch import load_file

import rsvlm
from rsvlm import config
from rsvlm.data import reading, shards
from rsvlm.errors import ConfigError, DataError, ModelError, RsvlmError
from rsvlm.model import embed, mammut
from rsvlm.training import batches, checkpoints, starting, train
from rsvlm.training.batches import Place

TOY = {"vocabulary_size": 320, "context_length": 32}


def options(preset="test", **overrides):
    names = {
        "device": "cpu",
        "model.preset": preset,
        **{f"model.{k}": v for k, v in TOY.items()},
        "train.batch_size": 16,
        "train.warmup_steps": 2,
    }
    return config.load("smoke", names | {name.replace("__", "."): value for name, value in overrides.items()})


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_short_training_learns_the_toy_world(toy_shards, tiny_preset, tmp_path):
    settings = options(train__steps=300, train__learning_rate=3e-3, train__checkpoint_every=100, train__log_every=1)
    folder = train.train(settings, toy_shards, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    recalls = [line["val_R@5"] for line in lines if "val_R@5" in line]
    assert np.mean(losses[-10:]) < 0.6 * losses[0]  # a batch of 16 holds equal pairs: no zero
    assert len(recalls) == 3 and recalls[-1] > 2 * lines[-1].get("val_chance_R@5", 5 / 24 * 100)
    assert all(line["samples_per_s"] > 0 for line in lines if "loss" in line)
    model = rsvlm.load(folder, device="cpu")
    samples = list(shards.stream(toy_shards, "test"))
    images = embed.images(model, [array for _, array in reading.decoded(samples, Counter())])
    queries = sorted({sample.captions[0] for sample in samples})
    best = (images @ embed.texts(model, queries).T).argmax(0)
    right = np.mean([samples[i].captions[0] == query for i, query in zip(best, queries, strict=True)])
    assert right > 3 / len(queries), right  # three times what guessing gives


def test_interrupted_at_any_checkpoint_gives_the_same_weights(toy_shards, tiny_preset, tmp_path, monkeypatch):
    settings = options(train__steps=13, train__checkpoint_every=4, train__log_every=3)  # 13 steps of 16: more than two epochs
    whole = weights(train.train(settings, toy_shards, tmp_path / "whole"))
    real = checkpoints.save
    for stop in (4, 8, 13):  # the last: every step is taken, but the model is not written yet

        def save_and_die(out, step, *rest, stop=stop):
            real(out, step, *rest)
            if step == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(checkpoints, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train.train(settings, toy_shards, tmp_path / f"cut-{stop}")
        monkeypatch.setattr(checkpoints, "save", real)
        assert not (tmp_path / f"cut-{stop}" / "model").exists()
        again = weights(train.train(settings, toy_shards, tmp_path / f"cut-{stop}"))
        assert same(whole, again)
        steps = [json.loads(line)["step"] for line in (tmp_path / f"cut-{stop}" / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps) and steps.count(6) == 1


def train_in_another_process(preset, threads, *arguments):
    mammut.PRESETS["test"] = preset
    torch.set_num_threads(threads)  # another number adds up in another order
    train.train(*arguments)


def test_killed_at_random_moments_gives_the_same_weights(toy_shards, tiny_preset, tmp_path):
    loop = {"train__ema": 0.9, "train__micro_batch_size": 6, "train__augment": True, "train__workers": 2}
    loop |= {"model__text_dropout": 0.2}
    settings = options(train__steps=60, train__checkpoint_every=4, **loop)
    # importing takes longer than the training, and a child of this process would wait for threads that other tests left behind
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["rsvlm.training.train"])
    arguments = mammut.PRESETS[tiny_preset], torch.get_num_threads(), settings, toy_shards
    first = server.Process(target=os.getpid)  # the server imports before it: that is no part of a training's time
    first.start()
    first.join()
    # the whole run is a process like the killed ones: what other tests have loaded into this one may round tiny numbers to zero
    started = time.perf_counter()
    process = server.Process(target=train_in_another_process, args=(*arguments, tmp_path / "whole"))
    process.start()
    process.join(300)
    whole, duration = weights(tmp_path / "whole" / "model"), time.perf_counter() - started
    out = tmp_path / "killed"
    rng = np.random.default_rng(int.from_bytes(os.urandom(4)))
    kills = []
    for attempt in range(9):
        process = server.Process(target=train_in_another_process, args=(*arguments, out))
        process.start()
        process.join(rng.uniform(0.05, 0.4) * duration if attempt < 8 else 300)
        if process.is_alive():
            process.kill()
            newest = checkpoints.newest(out)
            kills.append(newest.name if newest else "none")
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL and attempt < 8
    assert (out / "model").is_dir()
    assert kills and kills == sorted(kills, key=lambda name: name.replace("none", ""))
    assert same(whole, weights(out / "model"))


def direct(settings, data, **changed):
    """Loss and gradient of the first batch, with other options of the loop than `settings` says."""
    settings = settings.model_copy(update={"train": settings.train.model_copy(update=changed)})
    model = starting.prepare(starting.build(settings, data), settings.train).train()
    batch = next(batches.read_batches(model, {"data": data}, settings, Place(), 0))
    losses = train.backward(model, batch, train.objective(settings.train), settings.train)
    return {k: float(v.detach()) for k, v in losses.items()}, {n: p.grad for n, p in model.named_parameters()}, batch


def furthest(a, b):
    """Largest difference of two gradients, relative to the largest entry of each tensor."""
    assert {n for n, g in a.items() if g is None} == {n for n, g in b.items() if g is None}
    pairs = [(a[n], b[n]) for n in a if a[n] is not None]
    return max(float((x - y).abs().max() / x.abs().max().clamp(min=1e-3)) for x, y in pairs)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "focal"])
@pytest.mark.parametrize("caption_weight", [0.0, 0.5])
def test_the_accumulated_gradient_is_the_direct_one(toy_shards, tiny_preset, loss, caption_weight):
    settings = options(train__contrastive_loss=loss, train__caption_weight=caption_weight)
    losses, gradient, _ = direct(settings, toy_shards)
    for micro in (1, 5, 8):
        found, accumulated, batch = direct(settings, toy_shards, micro_batch_size=micro)
        assert len(batch.parts) == -(-16 // micro) and all(len(images) <= micro for images, *_ in batch.parts)
        assert found == pytest.approx(losses, rel=1e-5)
        assert furthest(gradient, accumulated) < 1e-5


@pytest.mark.parametrize("twins", [1, 8])
def test_the_caption_loss_of_some_pairs_is_the_same_in_any_micro_batches(toy_shards, tiny_preset, twins):
    settings = options(train__captioned_share=0.25, train__twins=twins)
    losses, gradient, batch = direct(settings, toy_shards)
    assert sum(map(len, batch.parts[0][2])) == 4  # of 16
    assert losses["caption"] != direct(options(train__twins=twins), toy_shards)[0]["caption"]
    for micro in (1, 5):
        found, accumulated, _ = direct(settings, toy_shards, micro_batch_size=micro)
        assert found == pytest.approx(losses, rel=1e-5)
        assert furthest(gradient, accumulated) < 1e-5


def test_a_loss_of_each_micro_batch_alone_would_be_another(toy_shards, tiny_preset):
    settings = options()
    losses, gradient, _ = direct(settings, toy_shards)
    model = starting.build(settings, toy_shards).train()
    batch = next(batches.read_batches(model, {"data": toy_shards}, settings, Place(), 0))
    (images, groups, captioned), rows = batch.parts[0], 8
    halves = [(images[:rows], groups[:2], captioned[:2]), (images[rows:], groups[2:], captioned[2:])]
    for half in halves:
        part = batches.Batch([half], batch.keys, batch.place, Counter())
        train.backward(model, part, train.objective(settings.train), settings.train)
    mean = {n: p.grad / 2 for n, p in model.named_parameters() if p.grad is not None}
    assert furthest({n: g for n, g in gradient.items() if g is not None}, mean) > 1e-2


@pytest.mark.parametrize("dropout", ["text_dropout", "word_dropout", "vision_dropout"])
def test_micro_batches_drop_the_same_in_both_forwards(toy_shards, tiny_preset, dropout):
    settings = options(**{f"model__{dropout}": 0.3})
    losses, gradient, batch = direct(settings, toy_shards, micro_batch_size=8)
    model, outputs = starting.build(settings, toy_shards).train(), []
    for i, (images, groups, _) in enumerate(batch.parts):
        torch.manual_seed(batch.seed + i)
        outputs.append(model(images, groups))
    embeddings = [torch.cat([output[name] for output in outputs]) for name in ("image_embeddings", "text_embeddings")]
    targets = [sum(int((group[:, 1:] != 0).sum()) for group in groups) for _, groups, _ in batch.parts]
    caption = sum(output.caption_loss * n for output, n in zip(outputs, targets, strict=True)) / sum(targets)
    contrastive = train.objective(settings.train).contrast(model, batch, *embeddings, model.logit_scale)
    loss = 2 * contrastive + 0.5 * caption
    loss.backward()
    assert losses["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert furthest({n: p.grad for n, p in model.named_parameters()}, gradient) < 1e-5


def test_what_is_dropped_depends_on_seed_and_step_alone(toy_shards, tiny_preset):
    def first(settings, step):
        model = starting.build(options(), toy_shards)
        return next(batches.read_batches(model, {"data": toy_shards}, settings, Place(), step)).seed

    assert first(options(), 3) == first(options(train__micro_batch_size=4), 3)
    assert len({first(options(), 3), first(options(), 4), first(options(seed=1), 3)}) == 3


def test_activation_checkpointing_changes_no_gradient(toy_shards, tiny_preset):
    losses, gradient, _ = direct(options(), toy_shards)
    found, other, _ = direct(options(), toy_shards, activation_checkpointing=True)
    assert found == losses and furthest(gradient, other) < 1e-6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPU")
def test_compiled_is_uncompiled(toy_shards, tiny_preset, monkeypatch):
    monkeypatch.setitem(mammut.PRESETS, "test", mammut.PRESETS["test"] | {"vision_layers": 1, "text_layers": 1})
    losses, gradient, _ = direct(options(), toy_shards)
    found, other, _ = direct(options(), toy_shards, compile=True)
    assert found == pytest.approx(losses, rel=1e-5)
    assert furthest(gradient, other) < 2e-5


@pytest.mark.parametrize(("precision", "near"), [("bf16", 0.1), ("fp16", 0.02)])
def test_half_precision_is_near_and_trains(toy_shards, tiny_preset, tmp_path, precision, near):
    losses, gradient, _ = direct(options(), toy_shards)
    found, other, _ = direct(options(), toy_shards, precision=precision)
    assert found == pytest.approx(losses, rel=0.02) and found != losses
    flat, half = (torch.cat([g.flatten() for g in part.values() if g is not None]) for part in (gradient, other))
    assert 0 < (flat - half).norm() < near * flat.norm()
    settings = options(
        train__precision=precision, train__steps=25, train__log_every=1, train__learning_rate=3e-3, train__micro_batch_size=8
    )
    saved = weights(train.train(settings, toy_shards, tmp_path / "run"))
    assert all(tensor.dtype == torch.float32 for tensor in saved.values())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(found[-5:]) < 0.8 * found[0]
    state = json.loads((checkpoints.newest(tmp_path / "run") / "state.json").read_text())
    assert bool(state["scaler"]) == (precision == "fp16")


def test_pairs_of_one_text_are_no_negatives_where_they_are_ignored(toy_shards, tiny_preset):
    settings = options(train__equal_texts="ignored", train__caption_weight=0.0)  # toys have few texts: some are equal
    model = starting.prepare(starting.build(settings, toy_shards), settings.train).train()
    batch = next(batches.read_batches(model, {"data": toy_shards}, settings, batches.Place(), 0))
    images, groups, _ = batch.parts[0]
    rows = [tuple(row[row > 0].tolist()) for group in groups for row in group]
    assert 1 < len(set(rows)) < len(rows)
    found = train.backward(model, batch, train.objective(settings.train), settings.train)["contrastive"]
    with torch.no_grad():
        output = model(images, groups, with_caption=False)
        logits = model.logit_scale * output.image_embeddings @ output.text_embeddings.T
    losses = []
    for i, row in enumerate(rows):
        others = [j for j, other in enumerate(rows) if other != row]
        for line in (logits[i], logits[:, i]):
            losses.append(torch.logsumexp(line[[i, *others]], 0) - line[i])
    assert float(found) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    first, gradient, _ = direct(settings, toy_shards)
    second, other, _ = direct(settings, toy_shards, micro_batch_size=5)
    assert second["contrastive"] == pytest.approx(first["contrastive"], rel=1e-5)
    assert all(torch.allclose(gradient[n], other[n], atol=1e-5) for n in gradient if gradient[n] is not None)
    plain, _, _ = direct(settings, toy_shards, equal_texts="negatives")
    assert plain["contrastive"] > first["contrastive"]
    with pytest.raises(ConfigError, match="equal_texts=ignored goes with"):
        train.check(options(train__equal_texts="ignored", train__contrastive_loss="focal").train)


def test_the_model_ends_with_the_averaged_weights(toy_shards, tiny_preset, tmp_path):
    settings = options(train__steps=2, train__checkpoint_every=1, train__ema=0.75)
    end = weights(train.train(settings, toy_shards, tmp_path / "run"))
    first, second = (weights(tmp_path / "run" / "checkpoints" / f"step-00000{step}") for step in (1, 2))
    start = starting.build(settings, toy_shards).state_dict()
    for name in end:
        average = 0.75 * (0.75 * start[name] + 0.25 * first[name]) + 0.25 * second[name]
        torch.testing.assert_close(end[name], average, rtol=1e-5, atol=1e-6)
    assert same(end, load_file(tmp_path / "run" / "checkpoints" / "step-000002" / "ema.safetensors"))
    plain = weights(train.train(options(train__steps=2), toy_shards, tmp_path / "plain"))
    assert same(plain, second)  # averaging does not touch the training


def test_everything_at_once_goes_on_in_the_same_bytes(toy_shards, tiny_preset, tmp_path, monkeypatch):
    other = write_toy(tmp_path / "other", {"train": 40})
    data = {"a": toy_shards, "b": other}
    stages = '[{"steps":4,"data":{"a":1}},{"steps":5,"data":{"a":1,"b":2}}]'
    loop = {"train__stages": stages, "train__ema": 0.9, "train__micro_batch_size": 6, "train__augment": True}
    loop |= {"train__checkpoint_every": 1, "train__schedule": "cosine", "train__precision": "fp16"}
    loop |= {"train__smallest_crop": 0.5, "train__light": 0.2, "train__sizes_px": (16, 32), "train__held_px": 24}
    whole = weights(train.train(options(**loop), data, tmp_path / "whole"))
    real = checkpoints.save
    for stop in (2, 4, 7):

        def save_and_die(out, step, *rest, stop=stop):
            real(out, step, *rest)
            if step == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(checkpoints, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train.train(options(**loop), data, tmp_path / f"cut-{stop}")
        monkeypatch.setattr(checkpoints, "save", real)
        again = train.train(options(**loop, train__workers=2), data, tmp_path / f"cut-{stop}")  # threads are free to choose
        assert same(whole, weights(again))


def test_twins_of_two_data_sets_go_on_in_the_same_bytes(toy_shards, tiny_preset, tmp_path, monkeypatch):
    data = {"a": toy_shards, "b": write_toy(tmp_path / "other", {"train": 10})}  # of which several epochs are read
    loop = {"train__twins": 3, "train__steps": 7, "train__checkpoint_every": 1, "train__smallest_crop": 0.5}
    whole = weights(train.train(options(**loop), data, tmp_path / "whole"))
    real = checkpoints.save
    for stop in (1, 4):

        def save_and_die(out, step, *rest, stop=stop):
            real(out, step, *rest)
            if step == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(checkpoints, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train.train(options(**loop), data, tmp_path / f"cut-{stop}")
        monkeypatch.setattr(checkpoints, "save", real)
        assert same(whole, weights(train.train(options(**loop, train__workers=2), data, tmp_path / f"cut-{stop}")))
    ends = [
        json.loads((checkpoints.newest(tmp_path / name) / "state.json").read_text())["place"] for name in ("whole", "cut-4")
    ]
    assert ends[0] == ends[1] and ends[0]["positions"]["b"][0] > 0
    assert not same(whole, weights(train.train(options(**loop | {"train__twins": 1}), data, tmp_path / "alone")))


def test_a_run_starts_from_the_model_of_another(toy_shards, tiny_preset, tmp_path, caplog):
    first = train.train(options(train__steps=2), toy_shards, tmp_path / "first")
    settings = options(train__steps=1, train__start=str(first), train__learning_rate=1e-30)
    second = train.train(settings, toy_shards, tmp_path / "second")
    ours, theirs = weights(first), weights(second)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-12) for name in ours)
    with pytest.raises(ModelError, match="holds no safetensors"):
        train.train(options(train__start=str(tmp_path)), toy_shards, tmp_path / "third")
    assert not (tmp_path / "third").exists()
    of_open_clip = {"image_resize": "shortest", "image_interpolation": "bilinear"}
    (first / "config.json").write_text(json.dumps(json.loads((first / "config.json").read_text()) | of_open_clip))
    begun = starting.build(settings, toy_shards).config  # pictures are squeezed in this training, so by its model, too
    assert (begun.image_resize, begun.image_interpolation) == ("squash", "bicubic")
    assert "squeezed to a square" in caplog.text


def test_a_model_that_there_is_not_stops_before_any_work(toy_shards, tmp_path):
    with pytest.raises(ModelError, match="unknown preset 'huge'"):
        train.train(options(preset="huge"), toy_shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_long_texts_are_cut_counted_and_said_once(toy_shards, tiny_preset, tmp_path, caplog):
    settings = options(model__context_length=8, train__steps=4, train__log_every=1)
    train.train(settings, toy_shards, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    counts = [line["texts_cut"] for line in lines if "texts_cut" in line]
    assert 0 < counts[0] < counts[1] < counts[3] <= 4 * 16
    assert len([record for record in caplog.records if "cut" in record.message]) == 1


def test_a_line_tells_speed_and_memory(toy_shards, tiny_preset, tmp_path, capsys):
    train.train(options(train__steps=4, train__log_every=2), toy_shards, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["samples_per_s"] > 0 and 0.05 < line["memory_gb"] < 64 and line["skipped"] == 0
    shown = capsys.readouterr().err
    assert "samples/s" in shown and "GB" in shown and "64/64" in shown


def test_options_that_exclude_each_other_stop_before_any_work(toy_shards, tiny_preset, tmp_path):
    with pytest.raises(ConfigError, match="torchrun"):
        train.train(options(train__fsdp=True), toy_shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_finished_runs_are_not_run_again(toy_shards, tiny_preset, tmp_path):
    settings = options(train__steps=2)
    folder = train.train(settings, toy_shards, tmp_path / "run")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    train.train(settings, toy_shards, tmp_path / "run")
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_with_other_options_is_refused(toy_shards, tiny_preset, tmp_path):
    train.train(options(train__steps=2), toy_shards, tmp_path / "run")
    with pytest.raises(ModelError, match=r"train\.learning_rate"):
        train.train(options(train__steps=2, train__learning_rate=0.5), toy_shards, tmp_path / "run")


def test_a_start_that_failed_binds_nobody(toy_shards, tiny_preset, tmp_path, monkeypatch, caplog):
    other = write_toy(tmp_path / "other", {"train": 40})
    for place, stop in ((starting, "build"), (checkpoints, "save")):  # before the first step, and before the first checkpoint
        out = tmp_path / stop
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, stop, lambda *given, **how: (_ for _ in ()).throw(KeyboardInterrupt))
            train.train(options(train__steps=2, train__log_every=1), toy_shards, out)
        assert (out / "run.json").is_file()
        settings = options(train__steps=1, train__log_every=1)
        train.train(settings, other, out)
        assert json.loads((out / "run.json").read_text()) == starting.identity(settings, {"data": other})
        assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1]
    assert caplog.text.count("came to no checkpoint: this one takes its place") == 2
    shutil.rmtree(out / "model")  # a checkpoint alone binds as well
    with pytest.raises(ModelError, match="other data"):
        train.train(settings, toy_shards, out)


def test_a_checkpoint_of_another_model_is_refused(toy_shards, tiny_preset, tmp_path):
    settings = options(train__steps=2)
    train.train(settings, toy_shards, tmp_path / "run")
    other = starting.build(options(preset="nano"), toy_shards)
    checkpoint = checkpoints.newest(tmp_path / "run")
    with pytest.raises(ModelError, match="cannot be continued"):
        checkpoints.load(checkpoint, other, train.make_optimizer(other, settings.train))


def test_checkpoints_hold_no_pickle_and_only_the_newest_two_stay(toy_shards, tiny_preset, tmp_path):
    train.train(options(train__steps=8, train__checkpoint_every=2), toy_shards, tmp_path / "run")
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["step-000006", "step-000008"]
    files = {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert files == {".json", ".jsonl", ".safetensors"}


def test_a_full_disk_leaves_the_last_checkpoint_whole(toy_shards, tiny_preset, tmp_path, monkeypatch):
    settings = options(train__steps=6, train__checkpoint_every=2)
    real, calls = checkpoints.save_file, []

    def full_disk(*arguments, **named):
        calls.append(1)
        if len(calls) > 3:  # the second file of the second checkpoint
            raise OSError(28, "No space left on device")
        real(*arguments, **named)

    monkeypatch.setattr(checkpoints, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        train.train(settings, toy_shards, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    monkeypatch.setattr(checkpoints, "save_file", real)
    assert train.train(settings, toy_shards, tmp_path / "run").is_dir()


@pytest.mark.parametrize("micro_batch_size", [None, 5])
def test_a_loss_that_is_not_finite_stops_with_the_keys(toy_shards, tiny_preset, tmp_path, micro_batch_size):
    settings = options(
        train__steps=30, train__learning_rate=1e30, train__warmup_steps=0, train__micro_batch_size=micro_batch_size
    )
    with pytest.raises(RsvlmError, match="not_finite"):
        train.train(settings, toy_shards, tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "not_finite.json").read_text())
    assert len(saved["keys"]) == 16 and saved["keys"][0].startswith("toy-")


def test_broken_samples_are_skipped_and_counted(tiny_preset, tmp_path):
    data = write_toy(tmp_path / "data", {"train": 24})
    write_tar(data / "train" / "000001.tar", {"bad.png": b"not a png", "bad.json": b'{"captions": ["red"]}'})
    settings = options(train__steps=4)
    train.train(settings, data, tmp_path / "run")
    state = json.loads((checkpoints.newest(tmp_path / "run") / "state.json").read_text())
    assert sum(state["place"]["counts"].values()) >= 2  # 4 × 16 samples: at least two epochs


def test_a_data_set_without_a_readable_image_is_one_sentence(tiny_preset, tmp_path):
    cut = png(toy_sample(0)[0])[:400]
    write_tar(
        tmp_path / "data" / "train" / "0.tar", {f"{i}.{k}": v for i in range(9) for k, v in (("png", cut), ("txt", b"red"))}
    )
    with pytest.raises(DataError, match="only 0 of 16 images"):
        train.train(options(), tmp_path / "data", tmp_path / "run")


@pytest.mark.parametrize("loss", ["sigmoid", "focal"])
def test_other_losses_train(toy_shards, tiny_preset, tmp_path, loss):
    settings = options(train__steps=20, train__contrastive_loss=loss, train__log_every=1, train__learning_rate=3e-3)
    train.train(settings, toy_shards, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]


def test_learning_rate_warms_up_then_falls_to_zero():
    settings = config.load("laptop", {"train.steps": 100, "train.warmup_steps": 10, "train.learning_rate": 1.0}).train
    rates = [train.learning_rate(step, settings) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == 1.0
    assert 0 < rates[-1] < 0.02
    assert np.all(np.diff(rates[10:]) < 0)
    half = [train.learning_rate(step, settings.model_copy(update={"schedule": "cosine"})) for step in range(1, 101)]
    assert half[:10] == rates[:10] and 0 < half[-1] < 0.001 and np.all(np.diff(half[10:]) < 0)
    assert half[55] == pytest.approx(0.5, abs=0.02) and half[30] > rates[30] and half[80] < rates[80]


def test_biases_norms_and_positions_do_not_decay(toy_shards, tiny_preset):
    model = starting.build(options(), toy_shards)
    decayed, plain, scalars = (group["params"] for group in train.make_optimizer(model, options().train).param_groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in plain} >= {"norm.weight", "position_embedding.weight"}
    assert {names[id(p)] for p in scalars} == {"log_scale", "logit_bias"}
    assert {names[id(p)] for p in decayed} >= {"vocabulary.weight", "layers.0.mlp.0.weight"}
    assert len(decayed) + len(plain) + len(scalars) == len(names)
