"""Models go out in the forms of others, and come back as they were; what a form has no words for is listed."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import toy_sample

import rsvlm
from rsvlm.errors import ModelError
from rsvlm.model import exporting, mammut, presets, tokenizer

SMALL = {"image_size": 32, "patch_size": 8, "vision_width": 64, "vision_layers": 2, "vision_heads": 2, "text_width": 32}
SMALL |= {"text_layers": 4, "text_heads": 2, "context_length": 16}


def made(**options) -> mammut.Mammut:
    torch.manual_seed(0)
    words = tokenizer.train([caption for i in range(40) for caption in toy_sample(i)[1]], 300, 16)
    model = mammut.Mammut(mammut.MammutConfig(**SMALL | {"vocab_size": len(words)} | options)).eval()
    model.tokenizer = words
    return model


def same(one: mammut.Mammut, other: mammut.Mammut) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = torch.from_numpy(tokenizer.encode(one.tokenizer, ["red in the north", "blue"]))
    with torch.inference_mode():
        for ask in (
            lambda m: m.encode_image(images),
            lambda m: m.encode_text(tokens),
            lambda m: m.caption_logits(images, tokens),
        ):
            torch.testing.assert_close(ask(one), ask(other), rtol=0, atol=1e-6)


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("mlp", ["caption", "both"])
@pytest.mark.parametrize("read", [False, True])
def test_a_folder_of_open_clip_comes_back_as_it_was(tmp_path, pads, mlp, read):
    options = presets._OPENMAMMUT | {"pads_are_text": pads, "cross_layer_mlp": mlp, "class_token_read": read}
    model = made(**options, image_projection=True)
    folder = exporting.export(model, "open_clip", tmp_path / "out")
    again = rsvlm.load(folder, "cpu")
    assert {key for key, value in model.config.to_diff_dict().items() if again.config.to_dict().get(key) != value} <= {
        "dtype",
        "vision_mlp_width",
    }
    same(model, again)
    config = json.loads((folder / "open_clip_config.json").read_text())
    assert config["preprocess_cfg"]["resize_mode"] == "squash" and config["model_cfg"]["embed_dim"] == 32


def test_what_open_clip_has_no_words_for_is_listed(tmp_path):
    with pytest.raises(ModelError, match="attention pooling of the image; no class token; .*preset l14"):
        exporting.export(made(image_pooling="attention"), "open_clip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_transformers_comes_back_as_it_was(tmp_path):
    model = made()
    same(model, rsvlm.load(exporting.export(model, "hf", tmp_path / "out"), "cpu"))
    with pytest.raises(ModelError, match="choose one of onnx, hf, open_clip"):
        exporting.export(model, "gguf", tmp_path / "other")
