"""Two gloo processes are one: the same gradient, the same weights, the same checkpoints."""

import json
import multiprocessing
import os
import shutil
import socket

import pytest
import torch
from conftest import png, toy_sample, write_sentence_encoder, write_tar, write_toy
from safetensors.torch import load_file, save_file

from rsvlm import config
from rsvlm.errors import RsvlmError
from rsvlm.localization import pictures, rounds
from rsvlm.model import mammut
from rsvlm.records import files
from rsvlm.training import batches, checkpoints, processes as distributed, starting, train

LOSSES = {name: {"train__contrastive_loss": name} for name in ("softmax", "sigmoid", "focal")}
LOSSES["equal"] = {"train__equal_texts": "ignored"}


TOWER = {"image_size": 32, "patch_size": 16, "vision_width": 32, "vision_heads": 2, "vision_tower": "test_efficientnet"}
TOWER |= {"text_width": 32, "text_layers": 2, "text_heads": 2}
WITH_TOWER = {"model__preset": "tower", "train__vision_rate": 0.5, "train__vision_frozen": 1, "train__steps": 3}

WITH_ENCODER = {"train__text_rate": 0.5, "train__steps": 3}

TWINS = {"train__twins": 3, "train__steps": 4}


def one_of_two(rank, port, preset, data, out):
    """What each of two processes does; their environment is the one that torchrun makes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    mammut.PRESETS |= {"test": preset, "tower": TOWER}
    with distributed.joined(torch.device("cpu")):
        for loss, changed in LOSSES.items():
            settings = options(**changed, train__micro_batch_size=3)
            gradient(settings, data, out / f"{loss}.safetensors")
        gradient(options(), data.parent / "broken", out / "broken.safetensors")
        train.train(options(), data, out / "two")
        train.train(options(**TWINS), {"a": data, "b": data.parent / "few"}, out / "twins")
        teach_itself(data, out)
        train.train(options(train__fsdp=True, train__micro_batch_size=3), data, out / "shards")
        train.train(options(), data, out / "goes-on")
        train.train(options(train__fsdp=True), data, out / "goes-on-in-shards")
        for fsdp in (False, True):
            train.train(options(train__fsdp=fsdp, train__micro_batch_size=3, **WITH_TOWER), data, out / f"tower-{fsdp}")
            encoder = WITH_ENCODER | {"train__text_start": str(data.parent / "encoder"), "train__fsdp": fsdp}
            train.train(options(**encoder), data, out / f"encoder-{fsdp}")
        said = {}
        try:
            train.train(options(), data, out / "busy")
        except RsvlmError as error:
            said["busy"] = str(error)
        for name, changed in (("batch", {"train__batch_size": 15}), ("rate", {"train__learning_rate": 1e30})):
            try:
                train.train(options(**changed), data, out / name)
            except RsvlmError as error:
                said[name] = str(error)
        (out / f"said-{rank}.json").write_text(json.dumps(said))


def teach_itself(data, out):
    """Begin a small model and run one round, with labels of regions and captions."""
    sizes = {"image_size": 16, "patch_size": 4, "vision_width": 16, "vision_stages": [1], "vision_heads": 2}
    sizes |= {"image_pooling": "attention", "text_width": 16, "text_layers": 1, "text_heads": 2}
    how = rounds.Options(
        rounds=1, steps=4, batch_size=14, checkpoint_every=2, micro_batch_size=4, caption_weight=0.3, least_agreement=1
    )
    chips, validation = (pictures.read(data, split, 16) for split in ("train", "val"))
    begun = rounds.begin(sizes, chips, out / "begun", how, vocabulary=300)
    rounds.run(begun, chips, validation, {"red": ["red"], "blue": ["blue"]}, out / "rounds", how)


def options(**overrides):
    names = {"device": "cpu", "model.preset": "test", "model.vocabulary_size": 320, "model.context_length": 32}
    names |= {"train.batch_size": 16, "train.steps": 6, "train.warmup_steps": 2, "train.checkpoint_every": 3, "train.ema": 0.5}
    return config.load("smoke", names | {name.replace("__", "."): value for name, value in overrides.items()})


def gradient(settings, data, path):
    """Store the loss and the gradient of the first batch."""
    torch.manual_seed(0)
    model = starting.build(settings, data)
    batch = next(batches.read_batches(model, {"data": data}, settings, batches.Place(), 0))
    losses = train.backward(model.train(), batch, train.objective(settings.train), settings.train)
    found = {name: p.grad.contiguous() for name, p in model.named_parameters() if p.grad is not None}
    if distributed.rank() == 0:
        save_file(found | {name: value.detach().reshape(1) for name, value in losses.items()}, path)
    return batch


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Folders of the same work done by two processes and by one."""
    home = tmp_path_factory.mktemp("worlds")
    data = write_toy(home / "data", {"train": 96, "val": 24})
    broken = write_toy(home / "broken", {"train": 13})
    cut = png(toy_sample(0)[0])[:400]  # its header is whole: found out by the process alone that has it in its share
    extra = {f"bad-{i}.{kind}": value for i in range(5) for kind, value in (("png", cut), ("txt", b"red"))}
    write_tar(broken / "train" / "000001.tar", extra)
    preset = {"image_size": 32, "patch_size": 8, "vision_width": 32, "vision_layers": 2, "vision_heads": 2}
    preset |= {"text_width": 32, "text_layers": 2, "text_heads": 2}
    preset["sentence_dropout"] = 0.0  # what it draws differs between one process and two
    one, two = home / "one", home / "out"
    two.mkdir()
    one.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mammut.PRESETS, "test", preset)
        patch.setitem(mammut.PRESETS, "tower", TOWER)
        encoder = WITH_ENCODER | {"train__text_start": str(write_sentence_encoder(home / "encoder"))}
        train.train(options(**encoder), data, one / "encoder")
        train.train(options(**WITH_TOWER), data, one / "tower")
        for loss, changed in LOSSES.items():
            gradient(options(**changed), data, one / f"{loss}.safetensors")
        assert gradient(options(), broken, one / "broken.safetensors").counts["broken image"] > 0
        train.train(options(), data, one / "run")
        train.train(options(**TWINS), {"a": data, "b": write_toy(home / "few", {"train": 10})}, one / "twins")
        teach_itself(data, one)
        for name, fsdp in (
            ("goes-on", False),
            ("goes-on-in-shards", True),
        ):  # what is left of a run that was killed after step 3
            shutil.copytree(one / "run", two / name, ignore=shutil.ignore_patterns("model", "step-000006"))
            identity = json.loads((two / name / "run.json").read_text())
            identity["options"]["train"]["fsdp"] = fsdp
            (two / name / "run.json").write_text(json.dumps(identity))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        spawn = multiprocessing.get_context("spawn")  # a forked child would wait for threads that other tests left behind
        arguments = port, preset, data, two
        processes = [spawn.Process(target=one_of_two, args=(rank, *arguments), daemon=True) for rank in (0, 1)]
        with files.sole_writer(two / "busy"):
            for process in processes:
                process.start()
            for process in processes:
                process.join(240)
        assert [process.exitcode for process in processes] == [0, 0]
    return one, two


def furthest(a, b):
    """Largest difference between two sets of tensors, relative to the largest entry of the tensor."""
    a, b = load_file(a), load_file(b)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max() / a[name].abs().max().clamp(min=1e-3)) for name in a)


@pytest.mark.parametrize("case", [*LOSSES, "broken"])
def test_gathered_loss_and_gradient_are_those_of_one_process(worlds, case):
    one, two = worlds
    assert furthest(one / f"{case}.safetensors", two / f"{case}.safetensors") < 1e-5
    a, b = (torch.cat([g.flatten() for g in load_file(folder / f"{case}.safetensors").values()]) for folder in worlds)
    assert (a - b).norm() < 1e-6 * a.norm()


@pytest.mark.parametrize("run", ["two", "shards", "goes-on", "goes-on-in-shards"])
def test_two_processes_end_in_the_weights_of_one(worlds, run):
    one, two = worlds
    assert furthest(one / "run" / "model" / "model.safetensors", two / run / "model" / "model.safetensors") < 1e-4
    for name in ("model", "ema", "optimizer"):
        newest = (checkpoints.newest(folder) / f"{name}.safetensors" for folder in (one / "run", two / run))
        assert furthest(*newest) < (1e-2 if name == "optimizer" else 1e-4)
    lines = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (one / "run", two / run)]
    assert lines[0][-1] == pytest.approx(lines[1][-1])
    files = {path.suffix for path in (two / run).rglob("*") if path.is_file()}
    assert files == {".json", ".jsonl", ".safetensors"}  # no pickle


@pytest.mark.parametrize("run", ["tower-False", "tower-True"])
def test_two_processes_train_a_network_of_timm(worlds, run):
    one, two = worlds
    assert furthest(one / "tower" / "model" / "model.safetensors", two / run / "model" / "model.safetensors") < 1e-3


@pytest.mark.parametrize("run", ["encoder-False", "encoder-True"])
def test_two_processes_train_a_sentence_encoder(worlds, run):
    one, two = worlds
    assert furthest(one / "encoder" / "model" / "model.safetensors", two / run / "model" / "model.safetensors") < 1e-3


def test_two_processes_share_batches_of_twins(worlds):
    one, two = worlds
    assert furthest(one / "twins" / "model" / "model.safetensors", two / "twins" / "model" / "model.safetensors") < 1e-4
    ends = [json.loads((checkpoints.newest(f / "twins") / "state.json").read_text())["place"] for f in worlds]
    assert ends[0] == ends[1] and set(ends[0]["positions"]) == {"a", "b"}


def test_two_processes_share_a_round(worlds):
    one, two = worlds
    assert furthest(*(folder / "begun" / "model" / "model.safetensors" for folder in worlds)) < 1e-4
    assert furthest(*(folder / "rounds" / "round-1" / "model" / "model.safetensors" for folder in worlds)) < 1e-3
    tables = [json.loads((folder / "rounds" / "rounds.json").read_text())["rounds"] for folder in worlds]
    assert [row["val_mR"] for row in tables[0]] == pytest.approx([row["val_mR"] for row in tables[1]], abs=2)
    losses = [json.loads((f / "rounds" / "round-1" / "metrics.jsonl").read_text().splitlines()[-1]) for f in worlds]
    for name in ("contrastive", "caption", "patch", "region"):
        assert losses[0][name] == pytest.approx(losses[1][name], rel=1e-3)


def test_a_bad_request_is_one_sentence_in_every_process(worlds):
    _, two = worlds
    said = [json.loads((two / f"said-{rank}.json").read_text()) for rank in (0, 1)]
    assert said[0] == said[1]
    assert "train.batch_size=15 cannot be shared by 2 processes" in said[0]["batch"]
    assert not (two / "batch").exists()
    saved = json.loads((two / "rate" / "not_finite.json").read_text())
    assert f"is being written by process {os.getpid()}" in said[0]["busy"]
    assert "not_finite.json" in said[0]["rate"] and len(saved["keys"]) == 16


def test_one_process_alone_gathers_nothing():
    rows = torch.randn(3, 4)
    gathered, first = distributed.gather(rows, 5)
    assert gathered is rows and first == 0 and distributed.size() == 1 and distributed.rank() == 0
    assert distributed.add_up(rows) is rows
