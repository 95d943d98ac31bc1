"""Every family whose pooling is read: a window over the whole grid is the model's own embedding, and other people's code says what that is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import toy_sample
from safetensors.torch import save_file

from rsvlm.errors import ModelError
from rsvlm.localization import heat, smoothing
from rsvlm.model import embed, encoder as encoders, mammut
from rsvlm.model.others import clip_vit, opening, timm_towers

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
transformers = pytest.importorskip("transformers")

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VISION = {"image_size": 64, "patch_size": 16, "width": 48, "layers": 3, "head_width": 12}
OPEN_CLIP = {
    "class token": VISION,
    "class token, scaled": VISION | {"ls_init_value": 0.1},
    "mean": VISION | {"pool_type": "avg"},
    "mean, then the norm": VISION | {"pool_type": "avg", "final_ln_after_pool": True},
    "queries": VISION | {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4},
    "ResNet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
    "tower of timm": {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "token",
        "timm_proj": "linear",
        "image_size": 224,
    },
    "SigLIP of timm": {
        "timm_model_name": "vit_base_patch16_siglip_224",
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 224,
    },
    "EVA-02 of timm": {
        "timm_model_name": "eva02_tiny_patch14_224",
        "timm_pool": "token",
        "timm_proj": None,
        "image_size": 224,
    },
}
TIMM = {
    "vit_tiny_patch16_224": {"img_size": 64},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "depth": 2},
    "vit_small_patch16_dinov3": {"img_size": 64, "depth": 2},
    "vit_pe_core_base_patch16_224": {"img_size": 64, "embed_dim": 96, "num_heads": 4, "depth": 2},
    "vit_base_patch16_siglip_224": {"img_size": 64, "embed_dim": 96, "num_heads": 4, "depth": 2},
    "tf_efficientnet_lite0": {},
    "resnet18": {},
    "convnext_atto": {},
    "fastvit_mci0": {},
    "vit_base_mci_224": {"depth": 2},
    "eva02_base_patch16_clip_224": {"img_size": 64, "embed_dim": 96, "num_heads": 4, "depth": 3},
    "eva02_enormous_patch14_clip_224": {"img_size": 56, "embed_dim": 96, "num_heads": 4, "depth": 2, "init_values": 0.1},
    "eva02_tiny_patch14_224": {"img_size": 56, "depth": 2, "global_pool": "token"},
}


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory):
    """Write a folder in open_clip's format with random weights: (kind) -> folder."""
    root = tmp_path_factory.mktemp("families")

    def made(kind: str):
        folder = root / kind.replace(" ", "-")
        if not folder.exists():
            folder.mkdir()
            vision = dict(OPEN_CLIP[kind])
            width = 768 if "SigLIP" in kind else 24
            config = {"embed_dim": width, "vision_cfg": vision, "text_cfg": TEXT}
            normal = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
            (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": normal}))
            torch.manual_seed(0)
            model = open_clip.CLIP(**{"quick_gelu": False} | config)
            torch.nn.init.normal_(model.text_projection, std=1.0)
            save_file(
                {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
            )
        return folder

    return made


@pytest.fixture(scope="module")
def hugging(tmp_path_factory):
    """Two tiny models of transformers, without tokenizers: their towers are what is asked here."""
    vision = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision |= {"image_size": 64, "patch_size": 16}
    text = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 99}
    text |= {"max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    classes = {
        "clip": (transformers.CLIPConfig, transformers.CLIPModel),
        "siglip": (transformers.SiglipConfig, transformers.SiglipModel),
    }
    return {name: model(config(text_config=text, vision_config=vision)).eval() for name, (config, model) in classes.items()}


class _Processor:
    image_mean, image_std = (0.5,) * 3, (0.5,) * 3


def hugging_encoder(model):
    from rsvlm.model.others.hugging_face import HuggingFaceEncoder

    return HuggingFaceEncoder("hf:tiny", model, _Processor(), None, str)


def whole(encoder, batch, window=99):
    seen = encoder.patches(batch)
    return F.normalize(
        encoder.project(smoothing.smooth_attention(seen.scores, seen.values, window, seen.common), seen.rest), dim=-1
    )


def check(encoder, sides=(64, 64)):
    """The whole grid is the model's own embedding; a window of one is not; and a gradient flows back to the picture."""
    batch = torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        own = F.normalize(encoder.encode_images(batch).float(), dim=-1)
        assert own.std(dim=0).max() > 1e-4, "two pictures have two embeddings"
        found = whole(encoder, batch)
        assert found.shape == (2, sides[0] // encoder.patch_size, sides[1] // encoder.patch_size, own.shape[1])
        np.testing.assert_allclose(found, own[:, None, None].expand_as(found), rtol=0, atol=1e-5)
        assert (whole(encoder, batch, 1) - found).abs().max() > 1e-3
    batch.requires_grad_()
    whole(encoder, batch, 3).square()[:, 0].sum().backward()
    assert batch.grad.isfinite().all() and batch.grad.abs().max() > 0


@pytest.mark.parametrize("kind", list(OPEN_CLIP))
def test_open_clip(open_clip_folder, kind):
    encoder = opening.open_encoder(f"open_clip:{open_clip_folder(kind)}", "cpu")
    side = encoder.image_size
    check(encoder, (side, side))
    patch = encoder.patch_size
    with torch.inference_mode():
        larger = encoder.patches(torch.randn(1, 3, side + 2 * patch, side + 4 * patch))
    assert larger.scores.shape[2:] == (side // patch + 2, side // patch + 4)
    assert encoder.can >= {"texts", "patches"} and encoder.texts(["a river"]).shape == (1, encoder.width)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_transformers(hugging, kind):
    encoder = hugging_encoder(hugging[kind])
    check(encoder)
    assert ("last block" in encoder.can) == (kind == "clip")
    assert encoder.patches(torch.randn(1, 3, 96, 128)).scores.shape[2:] == (6, 8)


@pytest.mark.parametrize("name", list(TIMM))
def test_timm(name):
    torch.manual_seed(0)
    encoder = timm_towers.TimmEncoder(f"timm:{name}", timm.create_model(name, num_classes=0, **TIMM[name]).eval(), str)
    side = TIMM[name].get("img_size", 224 if "mci" in name else 64)
    check(encoder, (side, side))
    check(encoder, (side + 2 * encoder.patch_size, side + encoder.patch_size))  # positions follow the picture
    assert "texts" not in encoder.can
    with pytest.raises(ModelError, match="reads no texts"):
        encoder.texts(["a river"])


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("class_token", [False, True])
def test_ours(pooling, class_token):
    sizes = {"image_size": 64, "patch_size": 16, "vision_width": 32, "vision_layers": 2, "vision_heads": 2, "text_width": 16}
    torch.manual_seed(0)
    config = mammut.MammutConfig(**sizes, text_layers=1, text_heads=2, image_pooling=pooling, vision_class_token=class_token)
    check(embed.MammutEncoder(mammut.Mammut(config).eval()))


def test_a_window_of_one_without_the_class_token_is_the_path_of_the_values(open_clip_folder):
    """In the last block a patch that attends to itself alone has its own value, whatever the scores: MaskCLIP."""
    encoder = opening.open_encoder(f"open_clip:{open_clip_folder('class token')}", "cpu")
    batch = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        seen, block = encoder.patches(batch), heat.look(encoder, batch, "values")
        pooled = smoothing.smooth_attention(seen.scores, seen.values, 1)
        rest = block.state[:, 1:].unflatten(1, (4, 4))
        found = heat._by_other_attention(encoder, block, "values")
        np.testing.assert_allclose(F.normalize(encoder.project(pooled, rest), dim=-1), found, atol=1e-5)
        # by hand, with open_clip's own block and a mask that lets each token see itself alone
        visual = encoder.model.visual
        tokens = clip_vit._ahead_of_last(visual, batch, (4, 4))
        alone = torch.full((17, 17), -torch.inf).fill_diagonal_(0)
        states = visual.transformer.resblocks[-1](tokens, attn_mask=alone)
        wanted = F.normalize(visual.ln_post(states[:, 1:]) @ visual.proj, dim=-1).unflatten(1, (4, 4))
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("method", heat.OTHER_ATTENTION)
def test_other_attention_than_the_models_own(open_clip_folder, hugging, method):
    for encoder in (
        opening.open_encoder(f"open_clip:{open_clip_folder('class token')}", "cpu"),
        hugging_encoder(hugging["clip"]),
    ):
        batch = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        width = 24 if "open_clip" in encoder.name else encoder.model.config.projection_dim
        vectors = np.eye(2, width)
        found = heat.heat(encoder, batch, vectors.astype(np.float32), method=method)
        assert found.shape == (1, 2, 4, 6) and np.isfinite(found).all() and found.std() > 0


def test_half_precision_is_near_and_leaves_the_model_as_it_is(open_clip_folder):
    encoder = opening.open_encoder(f"open_clip:{open_clip_folder('class token')}", "cpu")
    half = encoder.in_bfloat16()
    pictures = [toy_sample(i)[0] for i in range(3)]
    cosines = (encoder.images(pictures) * half.images(pictures)).sum(axis=1)
    assert (cosines > 0.99).all() and encoder.dtype == torch.float32 and half.dtype == torch.bfloat16


def test_maps_of_a_model_of_open_clip(open_clip_folder):
    encoder = opening.open_encoder(f"open_clip:{open_clip_folder('class token')}", "cpu")
    picture = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    for method in ("smooth", "raw", "weights", *heat.OTHER_ATTENTION):
        found = heat.maps(encoder, picture, ["a river", "a road"], method=method, tile_px=64)
        assert found.shape == (2, 80, 100) and np.isfinite(found).all()
    with pytest.raises(ModelError, match="writes no captions"):
        heat.maps(encoder, picture, ["a river"], method="caption")


def test_a_text_tower_of_two_tables_of_positions(tmp_path):
    """LongCLIP: CLIP's own positions up to the twentieth, those that were trained on from there."""
    open_clip.add_model_config(_architecture(tmp_path))
    torch.manual_seed(0)
    model = open_clip.create_model("Toy-Long-16", text_cfg=TEXT | {"context_length": 48}).eval()
    torch.nn.init.normal_(model.text_projection, std=1.0)
    state = model.state_dict()
    table = state["positional_embedding"]
    second = table.clone()
    second[:20] = 7  # never read
    first = table.clone()
    first[20:] = 7
    torch.save(
        {"state_dict": state | {"positional_embedding": first, "positional_embedding_res": second}}, tmp_path / "long.pt"
    )
    encoder = opening.open_encoder(f"open_clip:Toy-Long-16:{tmp_path / 'long.pt'}", "cpu")
    texts = ["a river", "a very long sentence of many words " * 6]
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer("Toy-Long-16", context_length=48)(texts)
        wanted = F.normalize(model.encode_text(tokens), dim=-1).numpy()
    np.testing.assert_allclose(encoder.texts(texts), wanted, atol=1e-5)


def _architecture(folder):
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT | {"context_length": 16}}
    (folder / "Toy-Long-16.json").write_text(json.dumps(config))
    return folder / "Toy-Long-16.json"


def test_a_tower_of_timm_with_weights_of_a_file(tmp_path):
    torch.manual_seed(0)
    trunk = timm.create_model("tf_efficientnet_lite0").eval()
    torch.save(trunk.state_dict(), tmp_path / "lite0.pth")
    encoder = opening.open_encoder(f"timm:tf_efficientnet_lite0:{tmp_path / 'lite0.pth'}", "cpu")
    picture = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    with torch.inference_mode():
        wanted = F.normalize(
            trunk.forward_head(trunk.forward_features(encoder.preprocess([picture])), pre_logits=True), dim=-1
        )
    np.testing.assert_allclose(encoder.images([picture]), wanted, atol=1e-5)
    assert encoder.name == "timm:tf_efficientnet_lite0:lite0.pth" and encoder.can == {"patches"} and encoder.width == 1280
    state = trunk.state_dict()
    del state["conv_head.weight"]
    torch.save(state, tmp_path / "lacks.pth")
    for where, says in {
        f"timm:tf_efficientnet_lite0:{tmp_path / 'lacks.pth'}": "missing: conv_head.weight",
        f"timm:resnet18:{tmp_path / 'lite0.pth'}": "of another model",
        "timm:resnet19:x.pth": "did you mean .*resnet18",
        f"timm:resnet18:{tmp_path / 'no.pth'}": "no file of weights",
    }.items():
        with pytest.raises(ModelError, match=says):
            opening.open_encoder(where, "cpu")


def test_a_file_of_a_family_is_short():
    lines = {path.name: path.read_text().count("\n") for path in Path(opening.__file__).parent.glob("*.py")}
    assert {"TEMPLATE.py", "open_clip.py", "hugging_face.py", "timm_towers.py"} < lines.keys()
    assert {name: count for name, count in lines.items() if count > 150} == {}


def test_several_positions_that_all_windows_hold_are_as_one():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 4), torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4)
    seen = encoders.split_pooling(query, key, value, (2, 3))
    pooled = smoothing.smooth_attention(seen.scores, seen.values, 99, seen.common)[:, :, 0, 0]
    weights = torch.einsum("bnd,bnpd->bnp", query, key).mul(0.5).softmax(-1)
    torch.testing.assert_close(pooled, torch.einsum("bnp,bnpd->bnd", weights, value))
    tokens = torch.randn(2, 9, 5)
    mean = encoders.mean_pooling(tokens, (2, 3))
    pooled = smoothing.smooth_attention(mean.scores, mean.values, 99, mean.common)[:, 0, 1, 1]
    torch.testing.assert_close(pooled, tokens.mean(1))


def test_the_family_that_others_are_copied_from(monkeypatch):
    monkeypatch.setitem(opening.FAMILIES, "template", "TEMPLATE")
    encoder = opening.open_encoder("template:3", "cpu")
    check(encoder, (24, 24))
    with pytest.raises(ModelError, match="as in template:3"):
        opening.open_encoder("template:x", "cpu")


def test_a_coca_asks_by_the_first_of_its_queries():
    from open_clip.coca_model import CoCa

    from rsvlm.model.others.open_clip import OpenClipEncoder

    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "embed_cls": True}
    torch.manual_seed(0)
    model = CoCa(
        embed_dim=32,
        multimodal_cfg=text | {"attn_pooler_heads": 4, "embed_cls": False},
        text_cfg=text | {"output_tokens": True},
        vision_cfg=OPEN_CLIP["queries"] | {"output_tokens": True},
    ).eval()
    model.visual.preprocess_cfg = {"size": 64, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    transform = open_clip.image_transform(64, False, mean=(0.5,) * 3, std=(0.5,) * 3)
    check(OpenClipEncoder("coca", model, transform, open_clip.get_tokenizer("ViT-B-32"), str))
