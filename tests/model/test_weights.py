"""Weights come in from open_clip and timm exactly or not at all, and go out as folders, ONNX and an open_clip-shaped face."""

import json
import math
import os
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import ROOT
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, PreTrainedTokenizerFast

import rsvlm
from rsvlm.errors import DataError, ModelError
from rsvlm.evaluation import by_name, given as given_file
from rsvlm.model import embed, exporting, mammut, tokenizer, weights
from rsvlm.model.others import open_mammut_options, opening

ORACLE = Path(os.environ.get("RSVLM_ORACLE", ROOT.parent / "shared" / "oracle")) / "openmammut-tiny"
needs_oracle = pytest.mark.skipif(not ORACLE.is_dir(), reason=f"{ORACLE} is not there")

CONFIG = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 32, "output_tokens": True}
    | {"pool_type": "avg_all", "final_ln_after_pool": True},
    "text_cfg": {"context_length": 16, "vocab_size": 100, "width": 48, "heads": 4, "layers": 4, "output_tokens": True}
    | {"cross_attn_ratio": 2, "does_full_decoding": True, "has_mlp": False},
    "pad_id": 0,
}


def random_weights(config: dict, head: str = "text.text_projection") -> dict[str, torch.Tensor]:
    """Weights of a model in open_clip's format, as its keys and shapes are documented by the oracle."""
    generator = torch.Generator().manual_seed(0)
    vision, text = config["vision_cfg"], config.get("multimodal_cfg") or config["text_cfg"]
    d, e, side, words = vision["width"], text["width"], vision["patch_size"], text["vocab_size"]
    places = 1 + (vision["image_size"] // side) ** 2
    shapes = {"visual.class_embedding": (d,), "visual.positional_embedding": (places, d), "visual.proj": (d, e)}
    shapes |= {"visual.conv1.weight": (d, 3, side, side), "map_viz2txt_kv": (d, e), "logit_scale": (), head: (e, words)}
    shapes |= {"text.token_embedding.weight": (words, e), "text.positional_embedding": (text["context_length"], e)}
    norms = [("visual.ln_pre", d), ("visual.ln_post", d), ("text.ln_final", e)]
    blocks = [(f"visual.transformer.resblocks.{i}", d, True) for i in range(vision["layers"])]
    for i in range(text["layers"]):
        sees = i % text["cross_attn_ratio"] == 0
        blocks.append((f"text.resblocks.{i}", e, text.get("has_mlp", True) or not sees))
        if sees:
            blocks.append((f"text.cross_attn.{i // text['cross_attn_ratio']}", e, True))
            norms.append((f"{blocks[-1][0]}.ln_1_kv", e))
    for place, width, mlp in blocks:
        shapes |= {f"{place}.attn.in_proj_weight": (3 * width, width), f"{place}.attn.in_proj_bias": (3 * width,)}
        shapes |= {f"{place}.attn.out_proj.weight": (width, width), f"{place}.attn.out_proj.bias": (width,)}
        norms.append((f"{place}.ln_1", width))
        if mlp:
            norms.append((f"{place}.ln_2", width))
            shapes |= {f"{place}.mlp.c_fc.weight": (4 * width, width), f"{place}.mlp.c_fc.bias": (4 * width,)}
            shapes |= {f"{place}.mlp.c_proj.weight": (width, 4 * width), f"{place}.mlp.c_proj.bias": (width,)}
    shapes |= {f"{place}.{kind}": (width,) for place, width in norms for kind in ("weight", "bias")}
    found = {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return {key: value + ("ln_" in key and key.endswith("weight")) for key, value in found.items()}


def write(
    folder: Path, config: dict, state: dict, name: str = "weights.safetensors", config_name: str = "config.json"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config_name).write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in state.items()}, folder / name)
    return folder


class Reference:
    """What an openMaMMUT computes, spelt out with torch's own functions; checked against the oracle below."""

    def __init__(self, state: dict, config: dict):
        self.state, self.vision = state, config["vision_cfg"]
        self.text = config.get("multimodal_cfg") or config["text_cfg"]
        self.masked = "multimodal_cfg" in config

    def norm(self, place, x):
        return F.layer_norm(x, x.shape[-1:], self.state[f"{place}.weight"], self.state[f"{place}.bias"])

    def block(self, place, x, heads, image=None, mask=None):
        normed = self.norm(f"{place}.ln_1", x)
        other = normed if image is None else self.norm(f"{place}.ln_1_kv", image)
        names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        w_in, b_in, w_out, b_out = (self.state[f"{place}.attn.{name}"] for name in names)
        q, k, v = (
            F.linear(given, w, b).unflatten(-1, (heads, -1)).transpose(1, 2)
            for given, w, b in zip((normed, other, other), w_in.chunk(3), b_in.chunk(3))
        )
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        x = x + F.linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), w_out, b_out)
        if f"{place}.mlp.c_fc.weight" in self.state:
            hidden = F.linear(self.norm(f"{place}.ln_2", x), *self.pair(f"{place}.mlp.c_fc"))
            x = x + F.linear(F.gelu(hidden), *self.pair(f"{place}.mlp.c_proj"))
        return x

    def pair(self, place):
        return self.state[f"{place}.weight"], self.state[f"{place}.bias"]

    def image(self, images):
        x = F.conv2d(images, self.state["visual.conv1.weight"], stride=self.vision["patch_size"]).flatten(2).mT
        x = torch.cat([self.state["visual.class_embedding"].expand(len(x), 1, -1), x], 1)
        x = self.norm("visual.ln_pre", x + self.state["visual.positional_embedding"])
        for i in range(self.vision["layers"]):
            x = self.block(f"visual.transformer.resblocks.{i}", x, x.shape[-1] // self.vision["head_width"])
        x = x[:, 1:] if self.vision["pool_type"] == "avg" else x
        pooled = self.norm("visual.ln_post", x.mean(1)) @ self.state["visual.proj"]
        return F.normalize(pooled, dim=-1), x @ self.state["map_viz2txt_kv"]

    def decode(self, tokens, image, mask):
        x = self.state["text.token_embedding.weight"][tokens] + self.state["text.positional_embedding"][: tokens.shape[1]]
        for i in range(self.text["layers"]):
            x = self.block(f"text.resblocks.{i}", x, self.text["heads"], mask=mask)
            index, rest = divmod(i, self.text["cross_attn_ratio"])
            if image is not None and not rest:
                x = self.block(f"text.cross_attn.{index}", x, self.text["heads"], image)
        return self.norm("text.ln_final", x)

    def encode_text(self, tokens):
        real = tokens != 0 if self.masked else torch.ones_like(tokens, dtype=torch.bool)
        states = self.decode(tokens, None, real[:, None, None])
        return F.normalize((states * real[..., None]).sum(1) / real.sum(1, keepdim=True), dim=-1)

    def logits(self, images, tokens):
        causal = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
        head = self.state.get("text.lm_head", self.state.get("text.text_projection"))
        return self.decode(tokens, self.image(images)[1], causal) @ head


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 98, (3, 16), generator=generator)
    tokens[0, 9:] = tokens[1, 12:] = 0
    return torch.randn(3, 3, 32, 32, generator=generator), tokens


@needs_oracle
@torch.no_grad()
def test_the_oracle_is_matched():
    model = rsvlm.load(ORACLE, device="cpu")
    given = {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(ORACLE / "io.npz").items()}
    close = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(model.encode_image(given["images"]), given["image_embeddings"], **close)
    torch.testing.assert_close(model.encode_text(given["tokens"]), given["text_embeddings"], **close)
    logits = model.caption_logits(given["images"], given["tokens"][:, :-1])
    torch.testing.assert_close(logits, given["caption_logits"], **close)
    torch.testing.assert_close(model.logit_scale.detach(), given["logit_scale"], **close)
    assert not model.training and model.tokenizer is None
    cut = given["tokens"][:, : int((given["tokens"] != 0).sum(1).max())]  # pads that were cut off come back
    torch.testing.assert_close(model.encode_text(cut), given["text_embeddings"], **close)


@needs_oracle
@torch.no_grad()
def test_the_reference_of_these_tests_matches_the_oracle():
    config = json.loads((ORACLE / "config.json").read_text())
    given = {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(ORACLE / "io.npz").items()}
    reference = Reference(load_file(ORACLE / "weights.safetensors"), config)
    assert config == CONFIG and {k: v.shape for k, v in random_weights(CONFIG).items()} == {
        key: value.shape for key, value in reference.state.items()
    }
    torch.testing.assert_close(reference.image(given["images"])[0], given["image_embeddings"], rtol=0, atol=1e-5)
    torch.testing.assert_close(reference.encode_text(given["tokens"]), given["text_embeddings"], rtol=0, atol=1e-5)
    logits = reference.logits(given["images"], given["tokens"][:, :-1])
    torch.testing.assert_close(logits, given["caption_logits"], rtol=0, atol=1e-4)


def text(**changes) -> dict:
    return CONFIG | {"text_cfg": {k: v for k, v in (CONFIG["text_cfg"] | changes).items() if v is not None}}


def newer(**vision) -> dict:
    """The format of today's open_clip: pads masked, another place for the decoder's options, another name for its head."""
    decoder = {k: v for k, v in CONFIG["text_cfg"].items() if k not in ("does_full_decoding", "output_tokens", "has_mlp")}
    return {"embed_dim": 48, "vision_cfg": CONFIG["vision_cfg"] | vision, "multimodal_cfg": decoder}


@pytest.mark.parametrize(
    "config",
    [CONFIG, text(has_mlp=None), text(cross_attn_ratio=1), newer(), newer(pool_type="avg")],
    ids=["one MLP with the cross-attention", "MLPs in both", "every layer", "newer", "newer without the class token"],
)
@torch.no_grad()
def test_every_kind_of_open_clip_model_computes_what_its_reference_does(tmp_path, batch, config):
    images, tokens = batch
    state = random_weights(config, "text.lm_head" if "multimodal_cfg" in config else "text.text_projection")
    model, reference = rsvlm.load(write(tmp_path, config, state), device="cpu"), Reference(state, config)
    close = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(model.encode_image(images), reference.image(images)[0], **close)
    torch.testing.assert_close(model.encode_text(tokens), reference.encode_text(tokens), **close)
    torch.testing.assert_close(model.caption_logits(images, tokens), reference.logits(images, tokens), **close)
    short = model.encode_text(tokens[:1, :9])  # pads cut off: masked in newer models, put back in older ones
    torch.testing.assert_close(short, model.encode_text(tokens[:1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(model.logit_scale.log(), state["logit_scale"])


@torch.no_grad()
def test_the_whole_config_of_open_clip_and_half_precision_are_read(tmp_path, batch):
    state = {key: value.half() for key, value in random_weights(CONFIG).items()} | {"logit_bias": torch.tensor([-9.5])}
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic"}
    older = {k: v for k, v in CONFIG["vision_cfg"].items() if k not in ("pool_type", "final_ln_after_pool")}
    options = CONFIG | {"vision_cfg": older | {"global_average_pool": True}, "custom_text": True}
    whole = {"model_cfg": options, "preprocess_cfg": preprocess}
    names = ("open_clip_model.safetensors", "open_clip_config.json")
    model = rsvlm.load(write(tmp_path, whole, state, *names), device="cpu")
    assert model.config.image_mean == [0.1, 0.2, 0.3] and model.config.image_std == [0.4, 0.5, 0.6]
    assert model.dtype == torch.float32 and model.logit_bias.item() == -9.5
    reference = Reference({key: value.float() for key, value in state.items()}, CONFIG)
    torch.testing.assert_close(model.encode_image(batch[0]), reference.image(batch[0])[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "preprocess",
    [
        {},
        {"mean": 0.4, "std": [0.2, 0.3, 0.4], "size": [32, 32], "mode": "RGB", "fill_color": 0},
        {"resize_mode": "squash", "interpolation": "bilinear"},
        {"resize_mode": "longest", "interpolation": "random"},
        {"resize_mode": None, "interpolation": None, "mean": None},
    ],
    ids=lambda given: given.get("resize_mode") or "shortest",
)
def test_pictures_are_prepared_as_open_clip_does_it_for_the_folder(tmp_path, preprocess):
    transform = pytest.importorskip("open_clip.transform", reason="open_clip_torch is not installed")
    whole = {
        "model_cfg": CONFIG | {"vision_cfg": CONFIG["vision_cfg"] | {"image_size": [32, 32]}},
        "preprocess_cfg": preprocess,
    }
    model = rsvlm.load(write(tmp_path, whole, random_weights(CONFIG), config_name="open_clip_config.json"), device="cpu")
    merged = transform.merge_preprocess_dict(transform.PreprocessCfg(size=32), preprocess)
    theirs = transform.image_transform_v2(transform.PreprocessCfg(**merged), is_train=False)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, shape, np.uint8) for shape in ((48, 90, 3), (90, 48, 3), (20, 31, 3))]
    expected = torch.stack([theirs(Image.fromarray(array)) for array in arrays])
    torch.testing.assert_close(embed.to_batch(model, arrays), expected, rtol=0, atol=1e-5)
    face = weights.OpenClipFace(model)
    torch.testing.assert_close(face.preprocess(Image.fromarray(arrays[0])), expected[0], rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "ours")  # and goes on with the weights
    tokenizer.train(["a river"], 300, 16).save_pretrained(tmp_path / "ours")
    config = mammut.MammutConfig.from_pretrained(tmp_path / "ours")
    assert (config.image_resize, config.image_interpolation) == (model.config.image_resize, model.config.image_interpolation)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_ours_that_was_saved_in_another_precision_is_read_as_float32(tmp_path, dtype):
    vocabulary = tokenizer.train(["a river"], 300, 16)
    sizes = {"image_size": 32, "patch_size": 8, "vision_width": 32, "vision_layers": 1, "vision_heads": 2}
    sizes |= {"text_width": 32, "text_layers": 1, "text_heads": 2, "vocab_size": len(vocabulary), "context_length": 16}
    torch.manual_seed(0)
    model = mammut.Mammut(mammut.MammutConfig(**sizes)).eval().to(dtype)
    model.save_pretrained(tmp_path)
    vocabulary.save_pretrained(tmp_path)
    loaded = rsvlm.load(tmp_path, "cpu")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    expected = model.to(torch.float32)
    expected.tokenizer = vocabulary
    pictures = [np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)]
    np.testing.assert_allclose(embed.images(loaded, pictures), embed.images(expected, pictures), atol=1e-6)
    np.testing.assert_allclose(embed.texts(loaded, ["a river"]), embed.texts(expected, ["a river"]), atol=1e-6)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", r"1 keys.*missing: text\.ln_final\.bias"),
        ("extra", r"1 keys.*extra: text\.resblocks\.0\.mlp\.c_fc\.weight"),
        ("misshaped", r"of another shape: visual\.conv1\.weight .*\(64, 3, 4, 4\) for \(64, 3, 8, 8\)"),
        ("fused", r"in_proj_weight \(layers\.0\.self_attention\.key_value\.weight\) \(52, 48\) for \(96, 48\)"),
    ],
)
def test_a_partial_match_of_open_clip_weights_fails_and_lists_the_keys(tmp_path, fault, words):
    state = random_weights(CONFIG)
    if fault == "missing":
        del state["text.ln_final.bias"]
    elif fault == "extra":
        state["text.resblocks.0.mlp.c_fc.weight"] = torch.zeros(192, 48)
    elif fault == "misshaped":
        state["visual.conv1.weight"] = torch.zeros(64, 3, 4, 4)
    else:
        state["text.resblocks.0.attn.in_proj_weight"] = torch.zeros(100, 48)
    with pytest.raises(ModelError, match=words):
        rsvlm.load(write(tmp_path, CONFIG, state))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (CONFIG | {"quick_gelu": True}, "quick_gelu"),
        (text(ls_init_value=0.1), "ls_init_value"),
        (CONFIG | {"vision_cfg": CONFIG["vision_cfg"] | {"pool_type": "tok"}}, "pool_type 'tok' of vision_cfg"),
        (CONFIG | {"embed_dim": 64}, "embed_dim 64"),
        (text(pool_type="avg"), "use_pad_mask .*'avg', False"),
        (text(pool_type="eos", use_pad_mask=True), "'eos', True"),
        (CONFIG | {"vision_cfg": CONFIG["vision_cfg"] | {"width": "wide"}}, "cannot be read: TypeError"),
        (CONFIG | {"vision_cfg": CONFIG["vision_cfg"] | {"image_size": [32, 64]}}, r"image_size \[32, 64\] .* no square"),
        (text(tokenizer_kwargs={"clean": "canonicalize"}), "tokenizer_kwargs.*canonicalize"),
        (text(tokenizer_mode="clips"), "tokenizer_mode.*clips"),
        ({"model_cfg": CONFIG, "preprocess_cfg": {"resize_mode": "stretch"}}, "resize_mode 'stretch'"),
        ({"model_cfg": CONFIG, "preprocess_cfg": {"interpolation": "nearest"}}, "interpolation 'nearest'"),
        ({"model_cfg": CONFIG, "preprocess_cfg": {"resize_mode": "longest", "fill_color": 7}}, "fill_color 7"),
        ({"model_cfg": CONFIG, "preprocess_cfg": {"mode": "BGR"}}, "'mode': 'BGR'"),
    ],
)
def test_options_that_cannot_be_rebuilt_are_named(tmp_path, config, words):
    with pytest.raises(ModelError, match=words):
        rsvlm.load(write(tmp_path, config, random_weights(CONFIG)))


class Trap:
    def __reduce__(self):
        return os.mkdir, (os.environ["RSVLM_TRAP"],)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "epoch_1.pt"])
def test_a_pickle_is_refused_and_not_opened(tmp_path, monkeypatch, name):
    monkeypatch.setenv("RSVLM_TRAP", str(tmp_path / "sprung"))
    folder = write(tmp_path / "model", CONFIG, {})
    (folder / "weights.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match=f"{name} may run code when opened and is not read: convert it to safetensors"):
        rsvlm.load(folder)
    with pytest.raises(ModelError, match="is not a safetensors file"):
        weights.load_vision(small_model(), folder / name)
    assert not (tmp_path / "sprung").exists()


def test_broken_json_is_named(tmp_path):
    folder = write(tmp_path, CONFIG, random_weights(CONFIG))
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read as JSON"):
        rsvlm.load(folder)


@torch.no_grad()
def test_an_imported_model_can_be_saved_as_one_of_ours_and_captions(tmp_path, batch):
    images, tokens = batch
    model = rsvlm.load(write(tmp_path / "theirs", text(has_mlp=None), random_weights(text(has_mlp=None))), device="cpu")
    model.save_pretrained(tmp_path / "ours")
    again = AutoModel.from_pretrained(tmp_path / "ours").eval()
    assert isinstance(again, mammut.Mammut)
    assert torch.equal(again.caption_logits(images, tokens), model.caption_logits(images, tokens))
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        rsvlm.load(tmp_path / "ours")
    generated = again.generate(images)
    assert generated[:, 0].tolist() == [98] * 3 and generated.shape[1] <= 16
    for use in (lambda: model.captions(images), lambda: embed.texts(model, ["a runway"])):
        with pytest.raises(ModelError, match="came without a tokenizer"):
            use()


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer built as CLIP's, with 100 entries: `!` is 0, the ids of start and end are the last, the end is the pad."""
    letters = ["!", *"abcdefghijklmnopqrstuvwxyz"]
    pieces = letters + [f"{letter}</w>" for letter in letters]
    merges = [("a", "n</w>"), ("s", "e"), ("se", "a</w>")]
    pieces += [a + b for a, b in merges]
    pieces += [f"unused{i}" for i in range(98 - len(pieces))] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    made.post_processor = processors.RobertaProcessing(("<|endoftext|>", 99), ("<|startoftext|>", 98), add_prefix_space=False)
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=77, **special)


def test_a_clip_tokenizer_beside_the_weights_is_used_as_open_clip_does(tmp_path, batch):
    folder = write(tmp_path, CONFIG, random_weights(CONFIG))
    clip_tokenizer().save_pretrained(folder)
    model = rsvlm.load(folder, device="cpu")
    alone = tokenizer.encode(model.tokenizer, ["An a ! b"])
    tokens = tokenizer.encode(model.tokenizer, ["An a ! b", "sea"])
    assert tokens[0].tolist() == alone[0].tolist() == [98, 54, 28, 27, 29, 99]
    assert tokens[1].tolist() == [98, 56, 99, 0, 0, 0]  # padded with 0, not with the end
    assert tokenizer.encode(model.tokenizer, ["a " * 40]).shape == (1, 16)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (98, 99)
    assert all(isinstance(caption, str) and "<|" not in caption for caption in model.captions(batch[0]))


def small_model(**changes) -> mammut.Mammut:
    torch.manual_seed(0)
    sizes = {"vision_width": 32, "vision_layers": 2, "vision_heads": 2, "text_width": 32, "text_layers": 2, "text_heads": 2}
    return mammut.Mammut(mammut.MammutConfig(**{"image_size": 32, "vocab_size": 100} | sizes | changes)).eval()


def tower(name: str, **changes) -> VisionTransformer:
    torch.manual_seed(1)
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}
    made = timm.create_model(name, pretrained=False, **sizes | changes).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return made


PLAIN = {"vision_class_token": True}
CLIP = PLAIN | {"vision_pre_norm": True, "vision_norm_eps": 1e-5}
TOWERS = {
    "plain": ("vit_tiny_patch16_224", PLAIN, {}),
    "CLIP": ("vit_base_patch16_clip_224", CLIP, {"num_classes": 7}),
    "SigLIP": ("vit_base_patch16_siglip_224", {}, {"num_classes": 0}),
    "SigLIP without its pooling": ("vit_base_patch16_siglip_gap_224", {}, {}),
    "no position for the class token": ("vit_tiny_patch16_224", PLAIN, {"no_embed_class": True}),
}


@pytest.mark.parametrize("kind", TOWERS)
@torch.no_grad()
def test_timm_towers_give_timms_patch_tokens(tmp_path, batch, kind):
    name, switches, changes = TOWERS[kind]
    theirs = tower(name, **changes)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    if kind == "SigLIP":
        assert any(key.startswith("attn_pool.") for key in theirs.state_dict())
    expected = theirs.forward_features(batch[0])
    model = weights.load_vision(small_model(**switches), tmp_path)
    torch.testing.assert_close(model.image_tokens(batch[0]), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_another_grid_and_patch_size_are_resampled_as_timm_does(tmp_path):
    theirs = tower("vit_tiny_patch16_224", img_size=64, patch_size=16)
    save_file(theirs.state_dict(), tmp_path / "tower.safetensors")
    model = weights.load_vision(small_model(image_size=48, **PLAIN), tmp_path / "tower.safetensors")
    target = tower("vit_tiny_patch16_224", img_size=48, patch_size=8)
    target.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), target, interpolation="bicubic", antialias=True))
    images = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(model.image_tokens(images), target.forward_features(images), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_norm_behind_the_pooling_keeps_its_place(tmp_path, batch):
    theirs = tower("vit_tiny_patch16_224", global_pool="avg", num_classes=0)
    save_file(theirs.state_dict(), tmp_path / "tower.safetensors")
    model = weights.load_vision(small_model(norm_after_pooling=True, **PLAIN), tmp_path / "tower.safetensors")
    torch.testing.assert_close(model.image_tokens(batch[0]), theirs.forward_features(batch[0]), rtol=0, atol=1e-5)
    assert torch.equal(model.vision.norm.weight, theirs.fc_norm.weight)


@pytest.mark.parametrize(
    ("switches", "changes", "ignore", "words"),
    [
        ({}, {}, None, r"extra: cls_token"),
        (PLAIN, {"class_token": False, "global_pool": "avg"}, None, r"missing: cls_token"),
        (PLAIN, {"depth": 1}, None, r"missing: blocks\.1\.norm1\.weight"),
        (PLAIN, {"embed_dim": 48}, None, r"cls_token \(1, 1, 48\) for \(1, 1, 32\)"),
        (PLAIN, {"num_classes": 5}, (), r"extra: head\.bias, head\.weight"),
        (PLAIN, {"reg_tokens": 4}, None, r"extra: reg_token"),
    ],
)
def test_a_tower_that_does_not_fit_lists_the_keys_and_changes_nothing(tmp_path, switches, changes, ignore, words):
    save_file(tower("vit_tiny_patch16_224", **changes).state_dict(), tmp_path / "tower.safetensors")
    model = small_model(**switches)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=words):
        weights.load_vision(model, tmp_path / "tower.safetensors", *([] if ignore is None else [ignore]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_a_class_token_is_dropped_only_when_named(tmp_path):
    theirs = tower("vit_tiny_patch16_224")
    save_file(theirs.state_dict(), tmp_path / "tower.safetensors")
    model = weights.load_vision(small_model(), tmp_path / "tower.safetensors", ignore=("head.", "cls_token"))
    assert torch.equal(model.vision.pos_embed, theirs.pos_embed[:, 1:])


@pytest.mark.parametrize("kind", ["attention pooling", "openMaMMUT"])
@torch.no_grad()
def test_exported_towers_equal_torch(tmp_path, batch, kind):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [dev] is not installed")
    if kind == "openMaMMUT":
        model = rsvlm.load(write(tmp_path / "model", CONFIG, random_weights(CONFIG)), device="cpu")
    else:
        model = small_model(image_pooling="attention", text_width=48, context_length=20).train()
    training = model.training
    folder = exporting.export_onnx(model, tmp_path / "onnx")
    assert model.training is training
    assert {path.name for path in folder.iterdir()} == {"image.onnx", "text.onnx", "onnx.json"}
    facts = json.loads((folder / "onnx.json").read_text())
    assert facts["image_size"] == 32 and facts["logit_scale"] == pytest.approx(model.logit_scale.item())
    model.eval()
    image, words = (onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("image", "text"))
    images, tokens = batch
    for rows, length in [(slice(0, 1), 9), (slice(0, 3), 16), (slice(1, 3), 14)]:  # other sizes than it was traced with; pads
        found = image.run(None, {"images": images[rows].numpy()})[0]
        np.testing.assert_allclose(found, model.encode_image(images[rows]).numpy(), rtol=0, atol=1e-4)
        found = words.run(None, {"tokens": tokens[rows, :length].numpy()})[0]
        np.testing.assert_allclose(found, model.encode_text(tokens[rows, :length]).numpy(), rtol=0, atol=1e-4)


@torch.no_grad()
def test_an_evaluator_written_for_open_clip_runs_unchanged():
    model = small_model(context_length=12)
    model.tokenizer = tokenizer.train(["an aerial image of a red field", "an aerial image of a blue field"] * 3, 300, 12)
    model.token_embedding = torch.nn.Embedding(len(model.tokenizer), 32)
    face = weights.OpenClipFace(model)

    def zero_shot(model, preprocess, tokenizer, pictures, classes, device="cpu"):  # the loop of CLIP_benchmark
        model.eval()
        prototypes = []
        for name in classes:
            texts = tokenizer([f"an aerial image of a {name} field", f"a {name} field"]).to(device)
            embedding = F.normalize(model.encode_text(texts), dim=-1).mean(dim=0)
            prototypes.append(embedding / embedding.norm())
        images = torch.stack([preprocess(picture) for picture in pictures]).to(device)
        features = F.normalize(model.encode_image(images), dim=-1)
        return model.logit_scale.exp() * features @ torch.stack(prototypes, dim=1)

    red = Image.fromarray(np.full((40, 60, 3), (200, 0, 0), np.uint8))
    logits = zero_shot(face, face.preprocess, face.tokenizer, [red, red.convert("L")], ["red", "blue"])
    assert logits.shape == (2, 2) and logits.isfinite().all()
    assert face.preprocess(red).shape == (3, 32, 32)
    raw = face.encode_image(face.preprocess(red)[None])
    assert raw.norm() != pytest.approx(1, abs=1e-3)  # open_clip's default
    torch.testing.assert_close(face.encode_image(face.preprocess(red)[None], normalize=True), F.normalize(raw, dim=-1))
    np.testing.assert_allclose(embed.images(model, [np.asarray(red)]), F.normalize(raw, dim=-1).numpy(), rtol=0, atol=1e-6)
    tokens = face.tokenizer("a red field " * 9)
    assert tokens.shape == (1, 12) and tokens.dtype == torch.int64
    with pytest.raises(DataError, match="empty"):
        face.tokenizer([" "])


def rsicd_and_a_service(folder):
    """Write twelve pictures of a small RSICD; return what answers as the service does, and keeps the texts that it was asked for."""
    captions = {f"airport_{number}.png": [f"a Lake {number}"] for number in range(1, 13)}
    (folder / "RSICD" / "RSICD_images").mkdir(parents=True)
    for shade, name in enumerate(captions):
        Image.new("RGB", (20, 20), (0, 20 * shade, 99)).save(folder / "RSICD" / "RSICD_images" / name)
    rows = [
        {"filename": name, "split": "test", "sentences": [{"raw": text} for text in texts]} for name, texts in captions.items()
    ]
    (folder / "RSICD" / "dataset_rsicd.json").write_text(json.dumps({"images": rows}))
    texts: list[str] = []

    def predict(instances, parameters, use_dedicated_endpoint):
        texts.extend(instance["text"] for instance in instances if "text" in instance)
        return SimpleNamespace(predictions=[{"embedding": [1.0, len(str(instance)) % 7]} for instance in instances])

    return SimpleNamespace(predict=predict, texts=texts, wordings=("plain", "remoteclip", "skyscript"))


def test_the_page_on_use_elsewhere_runs_as_it_stands(tmp_path, monkeypatch):
    page = (ROOT / "book" / "elsewhere.md").read_text(encoding="utf-8")
    texts = ["a harbour with ships", "a runway beside a harbour"] * 3
    words = tokenizer.train(texts, 300, 12)
    model = small_model(context_length=12, vocab_size=len(words))
    model.tokenizer = words
    model.save_pretrained(tmp_path / "runs/mine/model")
    model.tokenizer.save_pretrained(tmp_path / "runs/mine/model")
    Image.fromarray(np.full((40, 60, 3), (0, 0, 200), np.uint8)).save(tmp_path / "harbour.png")
    monkeypatch.chdir(tmp_path)
    asked = rsicd_and_a_service(tmp_path)
    names: dict = {"endpoint": asked}
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        exec(block, names)
    np.testing.assert_allclose(np.linalg.norm(names["vectors"], axis=1), 1, atol=1e-5)
    assert names["logits"].shape == (1, 2) and (tmp_path / "runs/mine/onnx/text.onnx").is_file()
    torch.testing.assert_close(names["mammut"].token_embedding.weight, names["model"].token_embedding.weight.cpu())
    assert given_file.read_embeddings("embeddings:mine.npz").image_of_caption.tolist() == [0, 0, 1, 1, 2, 2]

    # vectors of a service: every protocol is scored once, from its own words
    options = by_name.Options(bootstrap_samples=10)
    found = [by_name.retrieve(f"embeddings:theirs-{name}.npz", None, None, options).rows for name in asked.wordings]
    protocols = [{row["protocol"] for row in rows} for rows in found]
    assert protocols == [{"plain", "rs5m", "one-to-one"}, {"remoteclip"}, {"skyscript"}]
    assert asked.texts[0::12] == ["a Lake 1", "A lake 1", "a satellite image. a Lake 1"] and len(asked.texts) == 36


def test_the_preset_l14_is_the_shape_of_the_released_weights():
    vision = {
        "image_size": 224,
        "layers": 24,
        "width": 1024,
        "patch_size": 14,
        "output_tokens": True,
        "global_average_pool": True,
    }
    decoder = {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12, "output_tokens": True}
    decoder |= {"cross_attn_ratio": 2, "does_full_decoding": True}
    options = {"embed_dim": 768, "vision_cfg": vision, "text_cfg": decoder, "custom_text": True}
    config = open_mammut_options.translated(options, {})
    assert {name: getattr(config, name) for name in mammut.PRESETS["l14"]} == mammut.PRESETS["l14"]
    assert (config.context_length, config.vocab_size, config.bos_token_id) == (77, 49408, 49406)


def test_a_checkpoint_of_laion_is_read_by_the_name_of_its_architecture(tmp_path):
    """Its options are in the shapes of its tensors; texts are read by CLIP's vocabulary, pads and all."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    vision = CONFIG["vision_cfg"] | {"image_size": 64, "patch_size": 32, "width": 64, "head_width": 64}
    decoder = CONFIG["text_cfg"] | {"width": 64, "heads": 1, "vocab_size": 49408, "context_length": 77}
    config = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": decoder}
    state = random_weights(config)
    torch.save({"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "epoch_1.pt")
    encoder, reference = (
        opening.open_encoder(f"open_clip:mammut_ViT-S-32:{tmp_path / 'epoch_1.pt'}", "cpu"),
        Reference(state, config),
    )
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer("ViT-B-32")(["a river", "an airport"])
        np.testing.assert_allclose(encoder.texts(["a river", "an airport"]), reference.encode_text(tokens), atol=1e-4)
        np.testing.assert_allclose(F.normalize(encoder.encode_images(images), dim=-1), reference.image(images)[0], atol=1e-4)
    assert encoder.name == "open_clip:mammut_ViT-S-32:epoch_1.pt" and encoder.can == {"texts", "patches"}
    for name, says in {"mammut_ViT-S-16": "patches of 32 pixels", "mammut_ViT-X-16": "no architecture of openMaMMUT"}.items():
        with pytest.raises(ModelError, match=says):
            opening.open_encoder(f"open_clip:{name}:{tmp_path / 'epoch_1.pt'}", "cpu")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="lacks .*visual.conv1"):
        opening.open_encoder(f"open_clip:mammut_ViT-S-32:{tmp_path / 'other.pt'}", "cpu")


def test_a_folder_of_open_clips_mammut_reads_by_clips_vocabulary_where_it_has_none(tmp_path):
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    config = CONFIG | {"text_cfg": CONFIG["text_cfg"] | {"vocab_size": 49408, "context_length": 77}}
    state = random_weights(config)
    folder, reference = write(tmp_path, config, state), Reference(state, config)
    with torch.inference_mode():
        wanted = reference.encode_text(open_clip.get_tokenizer("ViT-B-32")(["a river"]))
        for where in (str(folder), f"open_clip:{folder}"):
            np.testing.assert_allclose(opening.open_encoder(where, "cpu").texts(["a river"]), wanted, atol=1e-4)
