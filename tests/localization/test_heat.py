"""Maps of where a text is: the pooling of windows against its definition, and what each kind of map has to add up to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from rsvlm.errors import DataError, ModelError
from rsvlm.localization import heat, smoothing
from rsvlm.model import tokenizer as tokenizers
from rsvlm.model.attention import Attention
from rsvlm.model.mammut import Mammut, MammutConfig
from tests.localization.test_smoothing import direct


@pytest.fixture(scope="module", params=["attention", "mean"])
def model(request) -> Mammut:
    torch.manual_seed(0)
    tokenizer = tokenizers.train(["the sea to the east", "tan land", "a lake in the north and a river"], 300, 24)
    sizes = dict(image_size=32, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, text_width=8, text_layers=3)
    made = Mammut(
        MammutConfig(**sizes, text_heads=2, vocab_size=len(tokenizer), context_length=24, image_pooling=request.param)
    )
    made.tokenizer = tokenizer
    for parameter in made.parameters():  # far from the start, where all attention is even
        torch.nn.init.normal_(parameter, std=0.5) if parameter.ndim > 1 else None
    return made.eval()


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)


def grids(B, n, h, w, d, spread, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-spread, spread, (B, n, h, w)).astype(np.float32)
    return torch.from_numpy(scores), torch.from_numpy(rng.normal(size=(B, n, h, w, d)).astype(np.float32))


@settings(max_examples=25, deadline=None)
@given(
    h=st.integers(1, 12),
    w=st.integers(1, 12),
    radius=st.integers(0, 15),
    spread=st.sampled_from([0.0, 1.0, 30.0, 100.0, 600.0]),
    seed=st.integers(0, 99),
)
def test_any_grid_equals_the_definition_and_the_kernel(h, w, radius, spread, seed):
    scores, values = grids(2, 2, h, w, 3, spread, seed)
    found = smoothing.smooth_attention(scores, values, 2 * radius + 1)
    assert found.shape == values.shape and found.dtype == torch.float32
    for b, n in np.ndindex(2, 2):
        wanted = direct(scores[b, n].numpy(), values[b, n].numpy(), 2 * radius + 1)
        np.testing.assert_allclose(found[b, n].numpy(), wanted, rtol=0, atol=1e-5)
        kernel = smoothing.smooth_pool(scores[b, n].numpy(), values[b, n].numpy(), 2 * radius + 1)
        np.testing.assert_allclose(found[b, n].numpy(), kernel, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [1, 3, 99])
def test_gradients_are_those_of_the_definition(window):
    scores, values = (x.double().requires_grad_() for x in grids(1, 2, 4, 5, 3, 2))
    assert torch.autograd.gradcheck(lambda s, v: smoothing.smooth_attention(s, v, window), (scores, values))


def test_gradients_stay_finite_where_scores_range_over_a_thousand():
    scores, values = grids(1, 1, 6, 40, 2, 1)
    scores = (scores + torch.linspace(-590, 590, 40)).requires_grad_()
    values.requires_grad_()
    smoothing.smooth_attention(scores, values, 5).square().sum().backward()
    assert scores.grad.isfinite().all() and values.grad.isfinite().all() and scores.grad.abs().max() > 1e-3


def test_a_gradient_moves_the_scores_towards_the_wanted_values():
    scores, values = torch.zeros(1, 1, 3, 3, requires_grad=True), torch.zeros(1, 1, 3, 3, 1)
    values[0, 0, 1, 1] = 1
    smoothing.smooth_attention(scores, values, 3).sum().backward()
    assert scores.grad[0, 0, 1, 1] > 0 and (scores.grad[0, 0, 0] < 0).all()


@pytest.mark.parametrize("window", [0, -3, 2, 2.5])
def test_a_window_has_a_centre(window):
    with pytest.raises(DataError, match="odd"):
        smoothing.smooth_attention(*grids(1, 1, 3, 3, 1, 1), window)


@pytest.mark.parametrize(
    ("scores", "values", "message"),
    [
        (torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 4, 3, 2), "shape"),
        (torch.zeros(3, 4), torch.zeros(3, 4, 2), "shape"),
        (torch.tensor([[[[0.0, 1300.0]]]]), torch.zeros(1, 1, 1, 2, 1), "temperature"),
        (torch.tensor([[[[0.0, torch.nan]]]]), torch.zeros(1, 1, 1, 2, 1), "temperature"),
    ],
)
def test_what_cannot_be_pooled_is_refused(scores, values, message):
    with pytest.raises(DataError, match=message):
        smoothing.smooth_attention(scores, values, 3)


def test_a_window_over_the_whole_grid_is_the_models_own_pooling(model, picture):
    batch = heat.to_batch(model, [picture], 32, 48)
    with torch.inference_mode():
        whole, found = model.encode_image(batch), heat.look(model, batch)
        everywhere = heat.smooth(model, found, 11)
        np.testing.assert_allclose(everywhere, whole[:, None, None].expand(-1, 4, 6, -1), atol=1e-5)
        alone = heat.smooth(model, found, 1)
        np.testing.assert_allclose(alone, heat.project(model, found.values, found.rest), atol=1e-5)
        assert (heat.smooth(model, found, 3) - alone).abs().max() > 1e-2
    assert found.scores.shape == (1, 2 if model.pool else 1, 4, 6)


def test_contributions_add_up_to_the_cosine_of_the_image(model, picture):
    batch = heat.to_batch(model, [picture], 32, 48)
    texts = heat.text_vectors(model, ["the sea", "tan land"])
    shares = heat.heat(model, batch, texts, method="attention")
    with torch.inference_mode():
        np.testing.assert_allclose(shares.mean((2, 3)), model.encode_image(batch).numpy() @ texts.T, atol=1e-5)
    weights = heat.heat(model, batch, texts, method="weights")
    np.testing.assert_allclose(weights.sum((2, 3)), 1, atol=1e-5)


def test_raw_is_a_window_of_one_and_several_windows_are_averaged(model, picture):
    batch, texts = heat.to_batch(model, [picture], 32, 48), heat.text_vectors(model, ["the sea", "tan land"])
    one, three = (heat.heat(model, batch, texts, window=w) for w in (1, 3))
    np.testing.assert_allclose(heat.heat(model, batch, texts, method="raw", window=5), one, atol=1e-6)
    np.testing.assert_allclose(heat.heat(model, batch, texts, window=(1, 3)), (one + three) / 2, atol=1e-6)
    assert one.shape == (1, 2, 4, 6) and np.abs(one).max() <= 1 + 1e-5
    whole = heat.heat(model, batch, texts, window=99)
    np.testing.assert_allclose(whole, np.broadcast_to(whole[..., :1, :1], whole.shape), atol=1e-5)
    assert np.abs(heat.heat(model, batch, texts, global_share=0.5) - three).max() > 1e-3


def test_cross_attention_of_each_text_adds_up_to_one(model, picture):
    batch = heat.to_batch(model, [picture], 32, 48)
    found = heat.cross_attention(model, batch, ["the sea to the east", "tan land"])
    assert found.shape == (1, 2, 2, 2, 4, 6) and found.min() >= 0
    np.testing.assert_allclose(found.sum((-2, -1)), 1, atol=1e-5)
    alone = heat.cross_attention(model, batch, ["tan land"])
    np.testing.assert_allclose(found[:, 1], alone[:, 0], atol=1e-5)  # padding adds nothing
    single = heat.cross_attention(model, batch, ["the sea to the east", "tan land"], by_token=True)  # (1, 2, T, 2, 2, 4, 6)
    real = single.sum((-2, -1)).mean((-2, -1)) > 0.5
    assert real[0, 0].all() and 0 < real[0, 1].sum() < real.shape[2]  # nothing where a text is shorter
    np.testing.assert_allclose(single.sum(2) / real.sum(2)[..., None, None, None, None], found, atol=1e-5)
    weighed = heat.cross_attention(model, batch, ["tan land"], gradient=True)
    assert weighed.shape == alone.shape and weighed.min() >= 0 and 0 < (weighed > 0).mean() < 1
    assert all(parameter.grad is None for parameter in model.parameters())
    states = model.layers[0].cross_attention
    assert not states._forward_pre_hooks and not states.out._forward_pre_hooks


def test_slopes_are_those_of_the_weights():
    torch.manual_seed(0)
    layer = Attention(8, 2).double()
    x, key_value = torch.randn(1, 3, 8).double(), layer.key_value(torch.randn(1, 5, 8).double()).detach()
    target = torch.randn(1, 3, 8).double()
    weights = heat._attention(layer, x, key_value, None).detach().requires_grad_()  # (1, 2, 3, 5)
    value = key_value.view(1, 5, 2, 2, 4).permute(2, 0, 3, 1, 4)[1]
    mixed = (weights @ value).transpose(1, 2).reshape(1, 3, 8).detach().requires_grad_()
    (slope,) = torch.autograd.grad((layer.out(mixed) * target).sum(), mixed)
    (wanted,) = torch.autograd.grad((layer.out((weights @ value).transpose(1, 2).reshape(1, 3, 8)) * target).sum(), weights)
    found = heat._attention(layer, x, key_value, slope)
    torch.testing.assert_close(found, (weights * wanted).clamp_min(0).detach(), check_dtype=False)


@pytest.mark.parametrize("method", [name for name in heat.METHODS if name not in heat.OTHER_ATTENTION])
def test_every_method_maps_every_pixel(model, picture, method):
    found = heat.maps(model, picture[:21, :37], ["the sea", ["tan land", "land"]], method=method, tile_px=16)
    assert found.shape == (2, 21, 37) and found.dtype == np.float32 and np.isfinite(found).all()


@pytest.mark.parametrize("method", heat.OTHER_ATTENTION)
def test_a_model_without_a_class_token_has_no_other_attention(model, picture, method):
    with pytest.raises(ModelError, match="no last block"):
        heat.maps(model, picture, ["the sea"], method=method)


def test_the_best_sentence_speaks_and_vectors_stand_for_sentences(model, picture):
    groups = [["the sea", "a river"], ["tan land"]]
    found = heat.maps(model, picture, groups, size="patches")
    single = heat.maps(model, picture, ["the sea", "a river", "tan land"], size="patches")
    np.testing.assert_allclose(found, [np.maximum(single[0], single[1]), single[2]], atol=1e-6)
    vectors = [heat.text_vectors(model, group) for group in groups]
    np.testing.assert_allclose(heat.maps(model, picture, vectors, size="patches"), found, atol=1e-6)


def test_the_mean_of_sentences_and_of_scales(model, picture):
    single = heat.maps(model, picture, ["the sea", "a river", "tan land"])
    mean = heat.maps(model, picture, [["the sea", "a river"], ["tan land"]], join="mean")
    np.testing.assert_allclose(mean, [(single[0] + single[1]) / 2, single[2]], atol=1e-6)
    one, two = (heat.maps(model, picture, ["the sea"], scale=scale) for scale in (1, 2))
    both = heat.maps(model, picture, ["the sea"], scale=(1, 2))
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)
    tiled = [heat.maps(model, picture, ["the sea"], scale=scale, tile_px=16) for scale in (1, 2, (1, 2))]
    np.testing.assert_allclose(tiled[2], (tiled[0] + tiled[1]) / 2, atol=1e-5)


def test_several_methods_look_at_an_image_once(model, picture, monkeypatch):
    how = {"scale": (1, 2), "tile_px": 24, "batch_size": 2}
    wanted = [heat.maps(model, picture, ["the sea"], method=m, **how) for m in ("raw", "smooth", "caption")]
    tower, looks, seen = heat.look, [], {}
    monkeypatch.setattr(heat, "look", lambda *given: looks.append(1) or tower(*given))
    for method, one in zip(("raw", "smooth", "caption"), wanted, strict=True):
        found = heat.maps(model, picture, ["the sea"], method=method, seen=seen, **how)
        np.testing.assert_allclose(found, one, atol=1e-6)
    assert len(looks) == len(seen) > 2


def test_sentences_are_read_from_a_file_or_the_package(tmp_path):
    groups, rest = heat.sentences("rsicd", ["airplane", "ship"])
    assert all("plane" in line for line in groups[0]) and len(groups) == 2 and len(rest) > 3
    file = tmp_path / "texts.json"
    file.write_text('{"ship": "a ship", "": ["a meadow"], "dock": ["a dock", "a pier"]}')
    assert heat.sentences(file, ["dock", "ship"]) == ([["a dock", "a pier"], ["a ship"]], ["a meadow"])
    file.write_text('{"ship": "a ship"}')
    assert heat.sentences(str(file), ["ship"]) == ([["a ship"]], None)
    for text, says in [
        ('{"ship": []}', "no sentence, or one that is blank"),
        ('{"ship": [" "]}', "blank"),
        ('{"ship": [3]}', "blank"),
        ('{"ship": "a ship", "": [""]}', "blank"),
        ('{"dock": "a dock"}', "no sentence for class 'ship'"),
        ("[1]", "cannot be read"),
        ("{", "cannot be read"),
        ('{"ship": 3}', "cannot be read"),
    ]:
        file.write_text(text)
        with pytest.raises(DataError, match=says):
            heat.sentences(file, ["ship"])
    with pytest.raises(DataError, match="cannot be read"):
        heat.sentences(tmp_path / "no.json", ["ship"])


def test_contrast_with_a_background_makes_probabilities(model, picture):
    both = heat.maps(model, picture, ["the sea", "tan land"], background=[])
    np.testing.assert_allclose(both.sum(0), 1, atol=1e-5)
    split = [heat.maps(model, picture, [a], background=[b])[0] for a, b in (("the sea", "tan land"), ("tan land", "the sea"))]
    np.testing.assert_allclose(both, split, atol=1e-5)
    sharp = heat.maps(model, picture, ["the sea", "tan land"], background=[], temperature=1e-4)
    assert np.abs(sharp - 0.5).mean() > np.abs(both - 0.5).mean()


def test_tiles_cover_the_image_and_fade_into_each_other(model, picture):
    for length, tile, overlap in ((37, 16, 0.5), (16, 16, 0.5), (100, 32, 0.0), (33, 32, 0.9), (5, 1, 0.0)):
        starts = heat._starts(length, tile, overlap)
        seen = np.zeros(length, int)
        for start in starts:
            seen[start : start + tile] += 1
        assert seen.min() >= 1 and starts[0] == 0 and starts[-1] == length - tile
        assert all(b - a <= max(tile * (1 - overlap), 1) + 1 for a, b in zip(starts, starts[1:]))
    flat = np.full((40, 40, 3), 128, np.uint8)  # every tile is the same, so no seam may show
    tile = heat.maps(model, flat[:16, :16], ["the sea"], window=99)
    np.testing.assert_allclose(heat.maps(model, flat, ["the sea"], window=99, tile_px=16), tile[0, 0, 0], atol=1e-4)


def test_edges_can_be_taken_from_the_image(model, picture):
    guided = heat.maps(model, picture, ["the sea"], size="guided")
    assert guided.shape == (1, 32, 48) and np.isfinite(guided).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "unknown method"),
        ({"window": 4}, "odd"),
        ({"window": []}, "no window"),
        ({"texts": []}, "no text|text is missing"),
        ({"texts": ["  "]}, "blank"),
        ({"texts": [["sea"], []]}, "missing"),
        ({"size": "huge"}, "size"),
        ({"size": "patches", "tile_px": 8}, "without tiles"),
        ({"overlap": 1.0}, "overlap"),
        ({"scale": 0}, "scale"),
        ({"scale": [1, -1]}, "scale"),
        ({"scale": []}, "scale"),
        ({"size": "patches", "scale": [1, 2]}, "one scale"),
        ({"join": "worst"}, "join"),
        ({"image": np.zeros((8, 8), np.uint8)}, "expected"),
        ({"image": np.zeros((8, 8, 3), np.float32)}, "uint8"),
        ({"image": np.zeros((0, 8, 3), np.uint8)}, "expected"),
    ],
)
def test_a_bad_request_is_refused(model, picture, change, message):
    given = {"image": picture, "texts": ["sea"]} | change
    with pytest.raises(DataError, match=message):
        heat.maps(model, given.pop("image"), given.pop("texts"), **given)
