"""A network of timm as vision tower: its maps, its frozen batch norms, and all that other towers promise."""

import numpy as np
import pytest
import timm
import torch
from conftest import toy_sample
from torch.utils.flop_counter import FlopCounterMode

import rsvlm
from rsvlm.errors import ModelError
from rsvlm.localization import smoothing
from rsvlm.model import embed, exporting, flops, mammut, tokenizer, trunk
from rsvlm.model.embed import MammutEncoder

NAME = "test_efficientnet"
SIZES = {"vision_tower": NAME, "image_size": 64, "patch_size": 16, "vision_width": 48, "vision_heads": 2, "vision_layers": 0}
SIZES |= {"text_width": 32, "text_layers": 2, "text_heads": 2, "context_length": 16}


def made(**options) -> mammut.Mammut:
    torch.manual_seed(0)
    words = tokenizer.train([caption for i in range(40) for caption in toy_sample(i)[1]], 300, 16)
    model = mammut.Mammut(mammut.MammutConfig(**SIZES | {"vocab_size": len(words)} | options))
    with torch.no_grad():  # as after training: finer maps count, and batch norms have statistics
        for lateral in model.vision.laterals:
            torch.nn.init.normal_(lateral.weight, std=0.1)
        for norm in model.vision._batch_norms():
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1.5)
    model.tokenizer = words
    return model.eval()


def pictures(count: int = 2, h: int = 64, w: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, h, w, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_tokens_are_the_networks_maps_enlarged_and_added():
    model = made()
    vision, images = model.vision, pictures()
    last, maps = vision.trunk.forward_intermediates(images)
    theirs = timm.create_model(NAME, num_classes=0).eval()
    theirs.load_state_dict(vision.trunk.state_dict())
    torch.testing.assert_close(last, theirs.forward_features(images))
    fine, coarse = (
        torch.einsum("dc,bchw->bdhw", part.weight[:, :, 0, 0], x) + part.bias.view(-1, 1, 1)
        for part, x in zip(vision.laterals, (maps[3], last), strict=True)
    )
    large = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    wanted = torch.nn.functional.layer_norm((fine + large).flatten(2).mT, (48,))
    torch.testing.assert_close(model.image_tokens(images), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_new_tower_begins_as_its_coarsest_map():
    torch.manual_seed(0)
    tower = trunk.TimmTower(NAME, 16, 48).eval()
    last, _ = tower.trunk.forward_intermediates(pictures())
    coarse = torch.nn.functional.interpolate(tower.laterals[-1](last), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(tower(pictures()), tower.norm(coarse.flatten(2).mT))


@pytest.mark.parametrize(("stride", "layers"), [(8, 0), (16, 0), (32, 0), (16, 2)])
@torch.no_grad()
def test_any_size_that_the_stride_divides_is_taken(stride, layers):
    model = made(patch_size=stride, vision_layers=layers)
    assert model.image_tokens(pictures(1, 3 * stride, 5 * stride)).shape == (1, 15, 48)
    with pytest.raises(ModelError, match=f"multiples of {stride}"):
        model.image_tokens(pictures(1, 3 * stride + 4, 64))


def test_batch_norms_stay_as_they_are_and_no_picture_shows_in_another():
    model = made().train()
    before = {name: value.clone() for name, value in model.vision.state_dict().items()}
    images = pictures(3)
    tokens = model.image_tokens(images)
    torch.testing.assert_close(model.image_tokens(images[1:2]), tokens[1:2], rtol=1e-4, atol=1e-4)
    tokens.square().mul(torch.arange(48.0)).sum().backward()
    after = model.vision.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    norms = {id(p) for norm in model.vision._batch_norms() for p in norm.parameters()}
    assert norms and all((p.grad is None) == (id(p) in norms) for p in model.vision.parameters())
    assert not any(norm.training for norm in model.vision._batch_norms()) and model.vision.norm.training


@torch.no_grad()
def test_a_mean_knows_places_only_by_blocks():
    tower = trunk.TimmTower(NAME, 16, 48, layers=2, heads=2, side_px=64).eval()
    last, maps = tower.trunk.forward_intermediates(pictures(), indices=tower.indices)

    def means(tower):
        found = []
        for turn in (lambda x: x, lambda x: x.flip(3)):  # the same cells elsewhere
            tower.trunk.forward_intermediates = lambda *_, turn=turn, **__: (turn(last), [turn(x) for x in maps])
            found.append(tower(pictures()).mean(dim=1))
        return found

    torch.nn.init.normal_(tower.positions)
    assert (torch.subtract(*means(tower)).abs() > 1e-3).any()
    torch.nn.init.zeros_(tower.positions)
    torch.testing.assert_close(*means(tower))
    plain = trunk.TimmTower(NAME, 16, 48).eval()
    torch.testing.assert_close(*means(plain))


def test_stages_run_again_give_the_same_gradient():
    gradients = []
    for again in (False, True):
        model = made().train()
        model.gradient_checkpointing = again
        model.image_tokens(pictures()).square().mul(torch.arange(48.0)).sum().backward()
        assert model.vision.trunk.grad_checkpointing is again
        gradients.append(torch.cat([p.grad.flatten() for p in model.vision.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("pooling", "layers"), [("mean", 0), ("attention", 0), ("mean", 2)])
@torch.no_grad()
def test_pooled_by_scores_and_values_it_is_the_models_own_embedding(pooling, layers):
    model = made(image_pooling=pooling, vision_layers=layers)
    encoder = MammutEncoder(model)
    batch = pictures(2, 64, 96)
    parts = encoder.patches(batch)
    assert parts.scores.shape[2:] == (4, 6)
    pooled = smoothing.smooth_attention(parts.scores, parts.values, 13)[:, :, 0, 0]  # a window that holds all places
    torch.testing.assert_close(encoder.project(pooled, parts.rest), model.encode_image(batch, normalize=False))


@pytest.mark.parametrize("layers", [0, 2])
@torch.no_grad()
def test_a_saved_folder_comes_back_and_stays_frozen(layers, tmp_path):
    model = made(vision_layers=layers)
    folder = exporting.export(model, "hf", tmp_path / "out")
    for again in (rsvlm.load(folder, "cpu"), mammut.Mammut.from_pretrained(folder)):
        state = model.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
        torch.testing.assert_close(again.eval().encode_image(pictures()), model.encode_image(pictures()), rtol=0, atol=1e-6)
        assert not any(p.requires_grad for norm in again.vision._batch_norms() for p in norm.parameters())
        assert again.vision.trunk.conv_stem.weight.requires_grad
    with pytest.raises(ModelError, match="which has a convolutional tower"):
        exporting.export(model, "open_clip", tmp_path / "other")


@pytest.mark.parametrize("layers", [0, 2])
@torch.no_grad()
def test_onnx_gives_the_same_vectors(layers, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = made(vision_layers=layers)
    folder = exporting.export_onnx(model, tmp_path, ["image"])
    session = onnxruntime.InferenceSession(folder / "image.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        images = pictures(count)
        (vectors,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(vectors, model.encode_image(images).numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("stride", "layers"), [(16, 0), (32, 0), (16, 2)])
@torch.no_grad()
def test_flops_are_those_that_torch_counts(stride, layers):
    model = made(patch_size=stride, image_pooling="attention", vision_layers=layers).requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model.encode_image(pictures(1))
    assert flops.count(model.config, 10)["vision"] == pytest.approx(counter.get_total_flops(), rel=0.01)


@torch.no_grad()
def test_half_precision_spares_the_tower_on_a_cpu():
    model = made()
    whole = model.image_tokens(pictures())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.image_tokens(pictures()), whole)
        assert model.image_map(whole).dtype == torch.bfloat16
    half = MammutEncoder(model).in_bfloat16()
    tiles = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    vector = torch.nn.functional.normalize(half.encode_images(half.normalised(tiles)).float(), dim=-1)[0]
    assert vector.numpy() @ embed.images(model, list(tiles))[0] > 0.99


def test_pictures_are_normalised_as_the_networks_own():
    settings = timm.get_pretrained_cfg(NAME)
    config = mammut.MammutConfig(**SIZES)
    assert (config.image_mean, config.image_std) == (list(settings.mean), list(settings.std))
    given = mammut.MammutConfig(**SIZES, image_mean=(0.1, 0.2, 0.3), image_std=(0.5, 0.5, 0.5))
    assert (given.image_mean, given.image_std) == ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])
    again = mammut.MammutConfig.from_dict(mammut.MammutConfig(**SIZES, image_mean=(0.5,) * 3).to_diff_dict())
    assert again.image_mean == [0.5] * 3  # given, though it is what towers of our own have
    plain = mammut.MammutConfig()
    assert (plain.image_mean, plain.image_std) == ([0.5] * 3, [0.25] * 3)
    assert mammut.MammutConfig(vision_tower="tf_efficientnet_lite0", patch_size=32).image_std == [0.5] * 3


@pytest.mark.parametrize(
    ("name", "sides"),
    [("test_resnet", [2, 4, 8, 16, 32]), ("test_convnext", [4, 8, 16, 32]), ("tf_efficientnet_lite0", [2, 4, 8, 16, 32])],
)
def test_networks_of_other_families_have_maps(name, sides):
    assert list(trunk.layout(name)) == sides and len(trunk.stage_ends(name)) == len(sides)
    with torch.no_grad():
        tower = trunk.TimmTower(name, 16, 24).train()
        assert tower(pictures(1, 32, 48)).shape == (1, 6, 24)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision_tower": "tf_efficientnet_lite"}, "timm knows no model.*did you mean.*tf_efficientnet_lite0"),
        ({"vision_tower": "test_vit"}, "is no convolutional network"),
        ({"patch_size": 7}, "has maps of 2, 4, 8, 16, 32 pixels: patch_size=7 is none"),
        ({"vision_class_token": True}, "leave out vision_stages, vision_class_token"),
        ({"vision_stages": (1, 1, 1)}, "leave out vision_stages"),
    ],
)
def test_what_cannot_be_a_tower_is_one_sentence(changes, words):
    with pytest.raises(ModelError, match=words):
        mammut.Mammut(mammut.MammutConfig(**SIZES | changes))


def test_channels_of_places_count_in_their_window_alone():
    gates = trunk.windows(3, 9, 6, 20)
    assert gates.shape == (54, 20)
    torch.testing.assert_close(gates.mean(0), torch.ones(20))
    assert (gates[:, :2] == 1).all()
    image = gates.view(9, 6, 20)
    north_west, centre, south_east = image[..., 2], image[..., 10], image[..., 19]
    assert north_west.argmax() == 0 and not north_west[:, 3:].any() and not north_west[5:].any()
    assert centre[4, 2] == centre.max() and not centre[0].any()
    torch.testing.assert_close(south_east, north_west.flip(0, 1))


@pytest.mark.parametrize("layers", [0, 1])
def test_places_are_a_factor_of_each_token(layers):
    torch.manual_seed(0)
    tower = trunk.TimmTower("tf_efficientnet_lite0", 16, 40, layers, 8, 64, places=3).eval()
    pictures = torch.randn(2, 3, 64, 96)
    tokens = tower(pictures)
    tower.places = 0
    torch.testing.assert_close(tokens, tower(pictures) * trunk.windows(3, 4, 6, 40))
