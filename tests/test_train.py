"""The loop learns, and ends in the same bytes whether or not it was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import write_tar, write_toy
from safetensors.torch import load_file

import rsvlm
from rsvlm import config, embed, mammut, shards, train
from rsvlm.errors import ModelError, RsvlmError

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
    images = embed.images(model, [array for _, array in embed.decoded(samples, Counter())])
    queries = sorted({sample.captions[0] for sample in samples})
    best = (images @ embed.texts(model, queries).T).argmax(0)
    right = np.mean([samples[i].captions[0] == query for i, query in zip(best, queries, strict=True)])
    assert right > 3 / len(queries), right  # three times what guessing gives


def test_interrupted_at_any_checkpoint_gives_the_same_weights(toy_shards, tiny_preset, tmp_path, monkeypatch):
    settings = options(train__steps=13, train__checkpoint_every=4, train__log_every=3)  # 13 steps of 16: more than two epochs
    whole = weights(train.train(settings, toy_shards, tmp_path / "whole"))
    real = train.save_checkpoint
    for stop in (4, 8, 13):  # the last: every step is taken, but the model is not written yet

        def save_and_die(out, step, *rest, stop=stop):
            real(out, step, *rest)
            if step == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(train, "save_checkpoint", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train.train(settings, toy_shards, tmp_path / f"cut-{stop}")
        monkeypatch.setattr(train, "save_checkpoint", real)
        assert not (tmp_path / f"cut-{stop}" / "model").exists()
        again = weights(train.train(settings, toy_shards, tmp_path / f"cut-{stop}"))
        assert same(whole, again)
        steps = [json.loads(line)["step"] for line in (tmp_path / f"cut-{stop}" / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps) and steps.count(6) == 1


KILLED = """
import sys
from pathlib import Path
from rsvlm import config, mammut, train
mammut.PRESETS["test"] = {preset!r}
train.train(config.load("smoke", {overrides!r}), Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_killed_at_random_moments_gives_the_same_weights(toy_shards, tiny_preset, tmp_path):
    settings = options(train__steps=60, train__checkpoint_every=5)
    overrides = {"device": "cpu"} | {f"train.{k}": v for k, v in settings.train.model_dump().items()}
    overrides |= {f"model.{k}": v for k, v in settings.model.model_dump().items()}
    script = KILLED.format(preset=mammut.PRESETS["test"], overrides=overrides)
    whole = weights(train.train(settings, toy_shards, tmp_path / "whole"))
    out = tmp_path / "killed"
    rng = np.random.default_rng(int.from_bytes(os.urandom(4)))
    kills = 0
    command = [sys.executable, "-c", script, str(toy_shards), str(out)]
    for attempt in range(20):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
        while attempt < 3 and process.poll() is None and not (out / "run.json").is_file():
            time.sleep(0.02)  # the import takes seconds; a kill before the run began would prove nothing
        if attempt < 3:
            time.sleep(rng.uniform(0.0, 1.5))
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors.decode()[-500:]
    assert (out / "model").is_dir()
    assert kills >= 1
    assert same(whole, weights(out / "model"))


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


def test_a_checkpoint_of_another_model_is_refused(toy_shards, tiny_preset, tmp_path):
    settings = options(train__steps=2)
    train.train(settings, toy_shards, tmp_path / "run")
    other = train.build(options(preset="nano"), toy_shards)
    checkpoint = train.newest_checkpoint(tmp_path / "run")
    with pytest.raises(ModelError, match="cannot be continued"):
        train.load_checkpoint(checkpoint, other, train.make_optimizer(other, settings.train))


def test_checkpoints_hold_no_pickle_and_only_the_newest_two_stay(toy_shards, tiny_preset, tmp_path):
    train.train(options(train__steps=8, train__checkpoint_every=2), toy_shards, tmp_path / "run")
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["step-000006", "step-000008"]
    files = {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert files == {".json", ".jsonl", ".safetensors"}


def test_a_full_disk_leaves_the_last_checkpoint_whole(toy_shards, tiny_preset, tmp_path, monkeypatch):
    settings = options(train__steps=6, train__checkpoint_every=2)
    real, calls = train.save_file, []

    def full_disk(*arguments, **named):
        calls.append(1)
        if len(calls) > 3:  # the second file of the second checkpoint
            raise OSError(28, "No space left on device")
        real(*arguments, **named)

    monkeypatch.setattr(train, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        train.train(settings, toy_shards, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    monkeypatch.setattr(train, "save_file", real)
    assert train.train(settings, toy_shards, tmp_path / "run").is_dir()


def test_a_loss_that_is_not_finite_stops_with_the_keys(toy_shards, tiny_preset, tmp_path):
    settings = options(train__steps=30, train__learning_rate=1e30, train__warmup_steps=0)
    with pytest.raises(RsvlmError, match="not_finite"):
        train.train(settings, toy_shards, tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "not_finite.json").read_text())
    assert len(saved["keys"]) == 16 and saved["keys"][0].startswith("toy-")


def test_broken_samples_are_skipped_and_counted(tiny_preset, tmp_path):
    data = write_toy(tmp_path / "data", {"train": 24})
    write_tar(data / "train" / "000001.tar", {"bad.png": b"not a png", "bad.json": b'{"captions": ["red"]}'})
    settings = options(train__steps=4)
    train.train(settings, data, tmp_path / "run")
    state = json.loads((train.newest_checkpoint(tmp_path / "run") / "state.json").read_text())
    assert sum(state["place"]["skipped"].values()) >= 2  # 4 × 16 samples: at least two epochs


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


def test_biases_norms_and_positions_do_not_decay(toy_shards, tiny_preset):
    model = train.build(options(), toy_shards)
    decayed, plain = (group["params"] for group in train.make_optimizer(model, options().train).param_groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in plain} >= {"log_scale", "logit_bias", "norm.weight", "position_embedding.weight"}
    assert {names[id(p)] for p in decayed} >= {"vocabulary.weight", "layers.0.mlp.0.weight"}
    assert len(decayed) + len(plain) == len(names)
