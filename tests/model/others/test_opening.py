"""Models of others and vectors of others: the same numbers as their own libraries give, and nothing unsafe is opened."""

import io
import json
import pickle
import sys
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import toy_sample
from safetensors.torch import save_file

from rsvlm.data import reading, shards
from rsvlm.errors import DataError, MissingExtraError, ModelError
from rsvlm.evaluation import embeddings, given as given_file
from rsvlm.model import embed, encoder as encoder_room, mammut, tokenizer
from rsvlm.model.others import hugging_face, open_clip_names, opening

TEXTS = ["a river", "red in the north, white elsewhere", "an airport with two runways"]
PICTURES = [toy_sample(i)[0] for i in range(3)]  # 32×32: what the tiny models take, so nothing is resized
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Payload:
    """A pickle that creates a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def pixels(mean, std):
    batch = torch.from_numpy(np.stack(PICTURES)).permute(0, 3, 1, 2) / 255
    return (batch - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def words():
    return tokenizer.train([c for i in range(50) for c in toy_sample(i)[1]] + TEXTS, 320, 32)


# ---- our own


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "vision_width": 32, "vision_layers": 1, "vision_heads": 2}
    sizes |= {"text_width": 32, "text_layers": 1, "text_heads": 2}
    vocabulary = words()
    model = mammut.Mammut(mammut.MammutConfig(**sizes, vocab_size=len(vocabulary), context_length=32)).eval()
    folder = tmp_path_factory.mktemp("own") / "model"
    model.save_pretrained(folder)
    vocabulary.save_pretrained(folder)
    model.tokenizer = vocabulary
    return folder, model


def test_a_folder_of_ours_embeds_as_its_model_does(own):
    folder, model = own
    encoder = opening.open_encoder(str(folder), "cpu")
    np.testing.assert_allclose(encoder.images(PICTURES), embed.images(model, PICTURES), atol=1e-6)
    np.testing.assert_allclose(encoder.texts(TEXTS), embed.texts(model, TEXTS), atol=1e-6)
    assert (encoder.name, encoder.width) == (f"{folder.parent.name}/model", 32)
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)
    assert encoder.fingerprint == embed.fingerprint(folder)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("nowhere/at/all", "no model folder nowhere/at/all"),
        ("embeddings:x.npz", "no model to embed anything with"),
        ("hf:nowhere", "config.json"),
        ("hf:", "expected FOLDER"),
        ("open_clip:", "expected FOLDER"),
        ("tensorflow:x", "expected FOLDER"),
    ],
)
def test_what_is_no_model_is_named(where, says):
    with pytest.raises(ModelError, match=says):
        opening.open_encoder(where, "cpu")


# ---- open_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny architecture that open_clip then knows by name, and one of its models with random weights."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    folder = tmp_path_factory.mktemp("open_clip")
    config = {"embed_dim": 24, "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}}
    config["text_cfg"] = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    (folder / "Toy-B-8.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "Toy-B-8.json")
    torch.manual_seed(0)
    model = open_clip.create_model("Toy-B-8").eval()
    torch.nn.init.normal_(model.text_projection, std=1.0)
    with torch.inference_mode():
        images = F.normalize(model.encode_image(pixels(CLIP_MEAN, CLIP_STD)), dim=-1).numpy()
        texts = F.normalize(model.encode_text(open_clip.get_tokenizer("Toy-B-8")(TEXTS)), dim=-1).numpy()
    return folder, config, model, images, texts


@pytest.mark.parametrize("form", ["bare.pt", "training.pt", "bare.safetensors"])
def test_a_checkpoint_file_of_open_clip_in_each_form_it_is_published_in(clip, form, tmp_path):
    _, _, model, images, texts = clip
    state, file = model.state_dict(), tmp_path / form
    if form == "bare.safetensors":
        save_file(state, file)
    elif form == "bare.pt":
        torch.save(state, file)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, file)
    encoder = opening.open_encoder(f"open_clip:Toy-B-8:{file}", "cpu")
    np.testing.assert_allclose(encoder.images(PICTURES), images, atol=1e-5)
    np.testing.assert_allclose(encoder.texts(TEXTS), texts, atol=1e-5)
    assert (encoder.name, encoder.width) == (f"open_clip:Toy-B-8:{form}", 24)
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


def test_the_fingerprint_follows_the_weights(clip, tmp_path):
    state = clip[2].state_dict()
    torch.save(state, tmp_path / "a.pt")
    torch.save(state | {"logit_scale": torch.tensor(2.0)}, tmp_path / "b.pt")
    first, again, other = (opening.open_encoder(f"open_clip:Toy-B-8:{tmp_path / n}.pt", "cpu").fingerprint for n in "aab")
    assert first == again != other


def test_a_folder_in_open_clips_format(clip, tmp_path):
    _, config, model, images, _ = clip
    normal = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": normal}))
    with pytest.raises(ModelError, match="weights beside it"):
        opening.open_encoder(f"open_clip:{tmp_path}", "cpu")
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    encoder = opening.open_encoder(f"open_clip:{tmp_path}", "cpu")
    with torch.inference_mode():
        expected = F.normalize(model.encode_image(pixels([0.5] * 3, [0.5] * 3)), dim=-1).numpy()
    np.testing.assert_allclose(encoder.images(PICTURES), expected, atol=1e-5)
    assert np.abs(expected - images).max() > 1e-3  # so the folder's own normalisation was used


def test_a_checkpoint_that_would_run_code_is_refused(clip, tmp_path):
    (tmp_path / "bad.pt").write_bytes(pickle.dumps({"state_dict": Payload(tmp_path / "ran")}))
    torch.save({"state_dict": Payload(tmp_path / "ran")}, tmp_path / "worse.pt")
    for name in ("bad.pt", "worse.pt"):
        with pytest.raises(ModelError, match="safetensors"):
            opening.open_encoder(f"open_clip:Toy-B-8:{tmp_path / name}", "cpu")
    assert not (tmp_path / "ran").exists()


def test_wrong_checkpoints_are_refused(clip, tmp_path):
    state = clip[2].state_dict()
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({name: value for name, value in state.items() if name != "visual.proj"}, tmp_path / "lacks.pt")
    torch.save(state | {"visual.proj": torch.zeros(32, 7)}, tmp_path / "shape.pt")
    torch.save(state | {"visual.proj": torch.full((32, 24), torch.nan)}, tmp_path / "nan.pt")
    for name, says in {"empty": "cannot be read", "lacks": "visual.proj", "shape": "visual.proj", "nan": "NaN"}.items():
        with pytest.raises(ModelError, match=says):
            opening.open_encoder(f"open_clip:Toy-B-8:{tmp_path / name}.pt", "cpu")


def test_names_without_weights_are_refused_and_never_random(clip, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # an empty cache
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for where, says in {
        "open_clip:Toy-B-8": "they would be random",
        "open_clip:Toy-B-8:nowhere.pt": "no file 'nowhere.pt'",
        "open_clip:Toy-B-9": "no model 'Toy-B-9'",
        "open_clip:ViT-B-32": "laion2b_s34b_b79k",
        "open_clip:ViT-B-32:laion2b_s34b_b79k": "not in the cache",
    }.items():
        with pytest.raises(ModelError, match=says):
            opening.open_encoder(where, "cpu")


def test_a_tag_is_taken_from_the_cache_with_its_normalisation_and_activation(clip, tmp_path, monkeypatch):
    _, _, model, _, _ = clip
    import open_clip.pretrained as known

    torch.save(model.state_dict(), tmp_path / "toy.pt")
    facts = {"url": "https://example.org/toy.pt", "mean": [0.5] * 3, "std": [0.5] * 3, "quick_gelu": True}
    monkeypatch.setitem(known._PRETRAINED, "Toy-B-8", {"mine": facts})
    monkeypatch.setattr(open_clip_names, "_cached", lambda facts: tmp_path / facts["url"].rpartition("/")[2])
    encoder = opening.open_encoder("open_clip:Toy-B-8:mine", "cpu")
    import open_clip

    quick = open_clip.create_model("Toy-B-8", force_quick_gelu=True).eval()
    quick.load_state_dict(model.state_dict())
    with torch.inference_mode():
        expected = [F.normalize(m.encode_image(pixels([0.5] * 3, [0.5] * 3)), dim=-1).numpy() for m in (quick, model)]
    np.testing.assert_allclose(encoder.images(PICTURES), expected[0], atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-4


@pytest.mark.parametrize("agreed", [True, False])
def test_a_file_is_prepared_as_open_clips_own_weights_of_that_architecture(clip, tmp_path, monkeypatch, caplog, agreed):
    folder, _, model, _, _ = clip
    import open_clip
    import open_clip.pretrained as known
    from PIL import Image

    siglip = {"url": "https://example.org/a.pt", "mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}
    other = siglip if agreed else {"url": "https://example.org/b.pt"}
    monkeypatch.setitem(known._PRETRAINED, "Toy-B-8", {"one": siglip, "two": other})
    torch.save(model.state_dict(), tmp_path / "toy.pt")
    encoder = opening.open_encoder(f"open_clip:Toy-B-8:{tmp_path / 'toy.pt'}", "cpu")
    wide = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    facts = {name: siglip[name] for name in ("mean", "std", "resize_mode")} if agreed else {}
    batch = open_clip.image_transform(32, is_train=False, **{"mean": None, "std": None} | facts)(Image.fromarray(wide))[None]
    with torch.inference_mode():
        expected = F.normalize(model.encode_image(batch), dim=-1).numpy()
    np.testing.assert_allclose(encoder.images([wide]), expected, atol=1e-5)
    assert agreed == ("open_clip_config.json" not in caplog.text) and agreed == ("those of one" not in caplog.text)


# ---- transformers


@pytest.fixture(scope="module", params=["clip", "siglip"])
def hugging(request, tmp_path_factory):
    """A tiny folder as transformers saves it, the model itself, and how it normalises."""
    import transformers

    name = {"clip": "CLIP", "siglip": "Siglip"}[request.param]
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    vocabulary = words()
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 32, "hidden_size": 32, "intermediate_size": 64}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    mean, std = (CLIP_MEAN, CLIP_STD) if request.param == "clip" else ([0.5] * 3, [0.5] * 3)
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision)
    model = getattr(transformers, f"{name}Model")(config).eval()
    folder = tmp_path_factory.mktemp(request.param) / "tiny"
    model.save_pretrained(folder)
    vocabulary.save_pretrained(folder)
    size = {"shortest_edge": 32} if request.param == "clip" else {"height": 32, "width": 32}
    crop = {"crop_size": {"height": 32, "width": 32}} if request.param == "clip" else {}
    getattr(transformers, f"{name}ImageProcessor")(size=size, image_mean=mean, image_std=std, **crop).save_pretrained(folder)
    return request.param, folder, model, mean, std


def test_a_folder_of_transformers_embeds_as_its_own_forward_does(hugging):
    kind, folder, model, mean, std = hugging
    encoder = opening.open_encoder(f"hf:{folder}", "cpu")
    tokens = torch.from_numpy(tokenizer.encode(tokenizer.load(folder), TEXTS))
    if kind == "siglip":  # pads belong to its texts, up to the full length
        tokens = F.pad(tokens, (0, 32 - tokens.shape[1]))
    with torch.inference_mode():
        found = model(input_ids=tokens, pixel_values=pixels(mean, std))
    np.testing.assert_allclose(encoder.images(PICTURES), F.normalize(found.image_embeds, dim=-1).numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.texts(TEXTS), F.normalize(found.text_embeds, dim=-1).numpy(), atol=1e-5)
    assert (encoder.name, encoder.fingerprint) == ("hf:tiny", embed.fingerprint(folder))
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())


def test_the_neighbours_of_a_text_do_not_matter(hugging):
    encoder = opening.open_encoder(f"hf:{hugging[1]}", "cpu")
    np.testing.assert_allclose(encoder.texts(TEXTS)[:1], encoder.texts(TEXTS[:1]), atol=1e-6)
    many = [f"{i} rivers" for i in range(encoder_room.TEXTS + 3)]
    np.testing.assert_allclose(encoder.texts(many)[-1:], encoder.texts(many[-1:]), atol=1e-6)
    with pytest.raises(DataError, match="text 1 of 2 is empty"):
        encoder.texts(["a river", " "])
    with pytest.raises(DataError, match="float64"):
        encoder.images([PICTURES[0] / 255])


def copy(folder, to, leave_out=()):
    to.mkdir()
    for path in folder.iterdir():
        if path.name not in leave_out:
            (to / path.name).write_bytes(path.read_bytes())
    return to


def test_folders_of_transformers_that_cannot_be_used(hugging, tmp_path):
    kind, folder, model, _, _ = hugging
    for name in ("tokenizer.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            with pytest.raises(ModelError, match="cannot be opened|was opened"):
                opening.open_encoder(f"hf:{copy(folder, tmp_path / name, leave_out=[name])}", "cpu")
    lacking = copy(folder, tmp_path / "lacking")
    save_file(
        {n: v.contiguous() for n, v in model.state_dict().items() if "vision_model" not in n}, lacking / "model.safetensors"
    )
    with pytest.raises(ModelError, match="would be random"):
        opening.open_encoder(f"hf:{lacking}", "cpu")
    other = copy(folder, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="'bert'"):
        opening.open_encoder(f"hf:{other}", "cpu")


def test_a_folder_of_transformers_runs_no_code(hugging, tmp_path):
    _, folder, _, _, _ = hugging
    code = copy(folder, tmp_path / "code")
    (code / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    facts = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (code / "config.json").write_text(json.dumps(facts))
    pickled = copy(folder, tmp_path / "pickled", leave_out=["model.safetensors"])
    torch.save({"logit_scale": Payload(tmp_path / "ran")}, pickled / "pytorch_model.bin")
    for bad in (code, pickled):
        with pytest.raises(ModelError, match="cannot be opened"):
            opening.open_encoder(f"hf:{bad}", "cpu")
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A tiny SigLIP without a tokenizer, and what puts one beside a copy of it."""
    import transformers

    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 400, "max_position_embeddings": 16, "hidden_size": 32, "intermediate_size": 64, "pad_token_id": 0}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": 2, "eos_token_id": 1, "projection_size": 32}
    torch.manual_seed(0)
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)).eval()
    torch.nn.init.normal_(model.text_model.embeddings.token_embedding.weight, std=1.0)
    folder = tmp_path_factory.mktemp("siglip") / "bare"
    model.save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder, model


def texts_of(model, tokens):
    with torch.inference_mode():
        return F.normalize(hugging_face._features_of(model.get_text_features(input_ids=torch.tensor(tokens))), dim=-1).numpy()


def test_a_siglip_2_reads_lower_case_as_it_was_trained(siglip, tmp_path):
    """Published ones of a fixed resolution call themselves `siglip` and name Gemma's tokenizer, which keeps capitals."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    bare, model = siglip
    folder = copy(bare, tmp_path / "two")
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.normalizer, words.pre_tokenizer = normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    corpus = ["a large airport beside a River", "A Large Airport"] * 20
    words.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False))
    words.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    words.save(str(folder / "tokenizer.json"))
    facts = {"tokenizer_class": "GemmaTokenizer", "pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    facts |= {"unk_token": "<unk>", "padding_side": "right", "add_bos_token": False, "add_eos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    given = ["A Large Airport", "a large airport", "AIRPORT beside <EOS>"]

    second = transformers.Siglip2Tokenizer.from_pretrained(folder, padding_side="right")  # what its kind `siglip2` would get
    tokens = second(given, padding="max_length", max_length=16, truncation=True)["input_ids"]
    encoder = opening.open_encoder(f"hf:{folder}", "cpu")
    np.testing.assert_allclose(encoder.texts(given), texts_of(model, tokens), atol=1e-5)
    np.testing.assert_allclose(encoder.texts(given)[0], encoder.texts(given)[1], atol=1e-6)
    plain = transformers.GemmaTokenizer.from_pretrained(folder)  # which is not what it learned from
    other = texts_of(model, plain(given, padding="max_length", max_length=16, truncation=True)["input_ids"])
    assert np.abs(other[0] - other[1]).max() > 1e-3

    unsaid = {name: value for name, value in facts.items() if name != "padding_side"}
    (folder / "tokenizer_config.json").write_text(json.dumps(unsaid))
    np.testing.assert_allclose(opening.open_encoder(f"hf:{folder}", "cpu").texts(given), encoder.texts(given), atol=1e-6)
    (folder / "tokenizer_config.json").write_text(json.dumps(facts | {"do_lower_case": False}))  # unless its folder says so
    np.testing.assert_allclose(opening.open_encoder(f"hf:{folder}", "cpu").texts(given), other, atol=1e-5)


def test_a_siglip_1_with_a_sentencepiece_vocabulary(siglip, tmp_path, monkeypatch):
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    bare, model = siglip
    folder = copy(bare, tmp_path / "one")
    corpus = iter([f"a large airport beside river number {i}" for i in range(200)])
    with open(folder / "spiece.model", "wb") as file:
        options = {"vocab_size": 45, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2}
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=corpus, model_writer=file, **options)
    facts = {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts | {"model_max_length": 16}))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    bare_words = pieces.encode("a river beside") + [1]
    encoder = opening.open_encoder(f"hf:{folder}", "cpu")
    expected = texts_of(model, [bare_words + [1] * (16 - len(bare_words))])  # it ends, and is filled up, with the same
    np.testing.assert_allclose(encoder.texts(["A RIVER, beside!"]), expected, atol=1e-5)

    for package in ("sentencepiece", "google.protobuf"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, package, None)
            with pytest.raises(MissingExtraError, match=rf"{package}.*rsvlm\[models\]"):
                opening.open_encoder(f"hf:{folder}", "cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_folders_and_files_in_half_precision_embed_in_float32(hugging, clip, tmp_path, dtype):
    _, folder, model, mean, std = hugging
    half = copy(folder, tmp_path / "half", leave_out=["model.safetensors"])
    save_file({name: value.to(dtype).contiguous() for name, value in model.state_dict().items()}, half / "model.safetensors")
    config = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps(config | {"dtype": str(dtype).removeprefix("torch.")}))
    found, whole = opening.open_encoder(f"hf:{half}", "cpu"), opening.open_encoder(f"hf:{folder}", "cpu")
    assert found.images(PICTURES).dtype == np.float32
    np.testing.assert_allclose(found.images(PICTURES), whole.images(PICTURES), atol=0.02)
    np.testing.assert_allclose(found.texts(TEXTS), whole.texts(TEXTS), atol=0.02)

    _, options, model, images, texts = clip
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "open_clip_config.json").write_text(json.dumps({"model_cfg": options, "preprocess_cfg": {}}))
    save_file({name: value.to(dtype) for name, value in model.state_dict().items()}, inside / "open_clip_model.safetensors")
    torch.save({name: value.to(dtype) for name, value in model.state_dict().items()}, tmp_path / "half.pt")
    for where in (f"open_clip:{inside}", f"open_clip:Toy-B-8:{tmp_path / 'half.pt'}"):
        encoder = opening.open_encoder(where, "cpu")
        np.testing.assert_allclose(encoder.images(PICTURES), images, atol=0.03)
        np.testing.assert_allclose(encoder.texts(TEXTS), texts, atol=0.03)


def test_any_encoder_goes_through_write(hugging, toy_shards, tmp_path):
    encoder = opening.open_encoder(f"hf:{hugging[1]}", "cpu")
    samples = list(shards.stream(toy_shards, "val"))
    found = embeddings.read(embeddings.write(encoder, samples, tmp_path / "out", batch_size=7))
    arrays = [array for _, array in reading.decoded(samples, Counter())]
    np.testing.assert_allclose(found.image_embeddings, encoder.images(arrays), atol=1e-5)
    np.testing.assert_allclose(found.caption_embeddings, encoder.texts(found.captions), atol=1e-5)


# ---- vectors of others


def arrays():
    rng = np.random.default_rng(0)
    images, captions = rng.normal(size=(3, 5)), rng.normal(size=(6, 5)).astype(np.float16)
    return {"image_embeddings": images, "caption_embeddings": captions, "image_of_caption": np.repeat(np.arange(3), 2)}


def test_a_file_of_embeddings_is_read_and_scaled(tmp_path):
    given = arrays()
    texts, keys = np.array([f"caption {i} ä" for i in range(6)]), np.array(["a", "b", "c"])
    np.savez_compressed(tmp_path / "e.npz", **given, captions=texts, keys=keys, more=np.zeros(2))
    found = given_file.read_embeddings(f"embeddings:{tmp_path / 'e.npz'}")
    expected = given["image_embeddings"] / np.linalg.norm(given["image_embeddings"], axis=1, keepdims=True)
    np.testing.assert_allclose(found.image_embeddings, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.caption_embeddings, axis=1), 1, atol=1e-6)
    assert found.image_embeddings.dtype == found.caption_embeddings.dtype == np.float32
    assert (found.captions, found.keys, found.image_of_caption.tolist()) == (texts.tolist(), list("abc"), [0, 0, 1, 1, 2, 2])
    np.savez(tmp_path / "less.npz", **given)
    less = given_file.read_embeddings(tmp_path / "less.npz")
    assert (less.captions, less.keys) == ([], ["0", "1", "2"])


def broken(name, change):
    given = arrays()
    array = given[name].copy()
    given[name] = change(array)
    return given


def put(value):
    def change(array):
        array[1] = value
        return array

    return change


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (broken("image_embeddings", put(np.nan)), "image_embeddings: row 1 is NaN or infinite"),
        (broken("caption_embeddings", put(np.inf)), "caption_embeddings: row 1 is NaN or infinite"),
        (broken("caption_embeddings", put(0)), "caption_embeddings: row 1 is zero"),
        (broken("image_embeddings", lambda a: a[:, :4]), "4 dimensions, captions 5"),
        (broken("image_embeddings", lambda a: a[0]), r"shape \(5,\)"),
        (broken("image_embeddings", lambda a: a.astype(int)), "int64 of shape"),
        (broken("image_embeddings", lambda a: a[:0]), "at least one image"),
        (broken("image_embeddings", lambda a: a[:, :0]), "shape"),
        (broken("image_embeddings", lambda a: a.astype(object)), "without pickles"),
        (broken("image_of_caption", put(3)), "reaches from 0 to 3: expected 0…2"),
        (broken("image_of_caption", put(-1)), "reaches from -1"),
        (broken("image_of_caption", lambda a: a[:5]), "6 whole numbers"),
        (broken("image_of_caption", lambda a: a.astype(float)), "6 whole numbers"),
        (arrays() | {"captions": np.array(["a"] * 5)}, "captions is .* expected 6 texts"),
        (arrays() | {"captions": np.arange(6)}, "captions is int64"),
        (arrays() | {"keys": np.array(["a", "b", "a"])}, "'a' is there 2 times"),
        ({"image_embeddings": np.ones((1, 2))}, "has no caption_embeddings, image_of_caption: it has image_embeddings"),
    ],
)
def test_embeddings_that_do_not_fit_are_named(given, says, tmp_path):
    np.savez(tmp_path / "e.npz", **given)
    with pytest.raises(DataError, match=says):
        given_file.read_embeddings(tmp_path / "e.npz")


def test_files_that_hold_no_embeddings(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", **arrays())
    (tmp_path / "half.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:400])
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    np.save(tmp_path / "single.npz.npy", np.ones(3))
    (tmp_path / "single.npz.npy").rename(tmp_path / "single.npz")
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**12)})
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as file:
        file.writestr("image_embeddings.npy", huge.getvalue())
    for name in ("half", "text", "empty", "pickle", "single", "huge"):
        with pytest.raises(DataError, match=rf"{name}.npz cannot be read"):
            given_file.read_embeddings(tmp_path / f"{name}.npz")
    with pytest.raises(DataError, match="there is no file"):
        given_file.read_embeddings(tmp_path / "absent.npz")
    assert not (tmp_path / "ran").exists()
