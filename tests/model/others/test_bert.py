"""A sentence encoder of others is read as they run it, from a folder or a zip; what is of another kind is told."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SENTENCES, write_sentence_encoder
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, BertModel

from rsvlm.errors import ModelError
from rsvlm.model import sentences, tokenizer
from rsvlm.model.others import bert


def embed(known, texts):
    """Mean of the encoder's states at a root mean square of 1, without a hidden layer."""
    sizes = [known.sizes[f"sentence_{name}"] for name in ("width", "layers", "heads")]
    model = sentences.SentenceEncoder(known.sizes["vocab_size"], known.tokenizer.model_max_length, *sizes, 8, 0.0)
    model.bert.load_state_dict(known.state)
    model.head = nn.Identity()
    tokens = torch.from_numpy(tokenizer.encode(known.tokenizer, texts))
    with torch.no_grad():
        return model.eval()(tokens, tokens != 0).numpy()


def theirs(folder, texts):
    """The same by transformers."""
    words, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    given = words(texts, padding=True, return_tensors="pt", split_special_tokens=True)
    with torch.no_grad():
        states = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
    weights = given["attention_mask"][..., None]
    mean = (states * weights).sum(1) / weights.sum(1)
    return (F.normalize(mean, dim=1) * mean.shape[1] ** 0.5).numpy()


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_texts_have_the_vectors_that_transformers_gives_them(form, sentence_folder, tmp_path):
    path = sentence_folder
    if form == "zip":
        path = shutil.make_archive(tmp_path / "encoder", "zip", sentence_folder)
    texts = [*SENTENCES[:3], "[PAD] a river", "café <b>"]
    known = bert.read(type(sentence_folder)(path), 24)
    np.testing.assert_allclose(embed(known, texts), theirs(sentence_folder, texts), atol=1e-5)
    assert len(known.tokenizer) == known.sizes["vocab_size"] and known.tokenizer.model_max_length == 24
    assert tokenizer.decode(known.tokenizer, tokenizer.encode(known.tokenizer, [SENTENCES[0]])) == [SENTENCES[0]]
    assert tokenizer.encode(known.tokenizer, ["river " * 60]).shape == (1, 24)


def test_keys_may_have_another_front(sentence_folder, tmp_path):
    folder = shutil.copytree(sentence_folder, tmp_path / "copy")
    state = load_file(folder / "model.safetensors")
    save_file({f"0.auto_model.{name}": value for name, value in state.items()}, folder / "model.safetensors")
    np.testing.assert_array_equal(embed(bert.read(folder, 24), SENTENCES), embed(bert.read(sentence_folder, 24), SENTENCES))


def of_config(**changed):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return change


def of_weights(change):
    def changed(folder):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path)

    return changed


def without(name):
    return of_weights(lambda state: {key: value for key, value in state.items() if key != name})


def pooled(**options):
    def change(folder):
        (folder / "1_Pooling").mkdir()
        (folder / bert.POOLING).write_text(json.dumps(options))

    return change


def in_words(old, new):
    def change(folder):
        rules = json.dumps(json.loads((folder / "tokenizer.json").read_text()), separators=(",", ":"))
        rules = json.loads(rules.replace(old, new))
        rules["added_tokens"] = [token for token in rules["added_tokens"] if token["content"] not in ("[PAD]", "[CLS]")]
        (folder / "tokenizer.json").write_text(json.dumps(rules))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (of_config(model_type="roberta"), "model_type=roberta, but sentence encoders here have bert"),
        (of_config(hidden_act="relu"), "hidden_act=relu, but"),
        (of_config(position_embedding_type="relative_key"), "position_embedding_type=relative_key"),
        (of_config(intermediate_size=17), "go with an MLP of 64"),
        (of_config(max_position_embeddings=16), "model.context_length=16 at most, not 24"),
        (of_config(num_hidden_layers=3), r"encoder\.layer\.2\..* is missing"),
        (of_config(num_hidden_layers=1), r"what is encoder\.layer\.1\."),
        (of_config(vocab_size=7), r"of another shape: token_embedding\.weight"),
        (without("embeddings.LayerNorm.bias"), r"embeddings\.LayerNorm\.bias is missing"),
        (of_weights(lambda state: state | {"encoder.rel": torch.zeros(1)}), r"what is encoder\.rel"),
        (of_config(hidden_size=None), "hidden_size=None is no size"),
        (of_config(num_attention_heads=3), "number of heads that divides them"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), r"model\.safetensors of .* cannot be read"),
        (lambda folder: (folder / "config.json").write_text("no"), r"config\.json of .* cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "does not hold options by name"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), r"tokenizer\.json of .* cannot be read"),
        (in_words("[CLS]", "[BEGIN]"), r"there is no \[CLS\]"),
        (in_words('"[PAD]":0', '"[PAD]":1'), r"\[PAD\] is 1, and here it is 0"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"has no tokenizer\.json: give the folder"),
        (pooled(pooling_mode_mean_tokens=False, pooling_mode_cls_token=True), "by the mean of its tokens"),
        (pooled(pooling_mode_mean_tokens=True, pooling_mode_max_tokens=True), "by the mean of its tokens"),
        (pooled(pooling_mode="cls"), "by the mean of its tokens"),
    ],
)
def test_what_is_of_another_kind_is_told(change, words, sentence_folder, tmp_path):
    folder = shutil.copytree(sentence_folder, tmp_path / "copy")
    change(folder)
    with pytest.raises(ModelError, match=words):
        bert.read(folder, 24)


def test_a_tokenizer_of_more_words_than_the_encoder_is_told(sentence_folder, tmp_path):
    folder = shutil.copytree(sentence_folder, tmp_path / "copy")
    size = json.loads((folder / "config.json").read_text())["vocab_size"] - 1
    of_config(vocab_size=size)(folder)
    name = "embeddings.word_embeddings.weight"
    of_weights(lambda state: state | {name: state[name][:size].contiguous()})(folder)
    with pytest.raises(ModelError, match=f"has {size + 1} entries, the encoder {size}"):
        bert.read(folder, 24)


def test_both_ends_are_put_on_where_the_rules_forgot_them(sentence_folder, tmp_path):
    folder = shutil.copytree(sentence_folder, tmp_path / "copy")
    rules = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    words, usual = (bert.read(where, 24).tokenizer for where in (folder, sentence_folder))
    np.testing.assert_array_equal(tokenizer.encode(words, SENTENCES), tokenizer.encode(usual, SENTENCES))


def test_a_folder_may_say_that_its_mean_is_meant(sentence_folder, tmp_path):
    folder = shutil.copytree(sentence_folder, tmp_path / "copy")
    pooled(word_embedding_dimension=16, pooling_mode_mean_tokens=True, pooling_mode_cls_token=False)(folder)
    assert bert.read_sizes(folder, 24) == bert.read_sizes(sentence_folder, 24)


def test_a_broken_zip_is_told(tmp_path):
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ModelError, match=r"model\.safetensors of .*cut\.zip cannot be read"):
        bert.read(tmp_path / "cut.zip", 24)


@pytest.mark.slow
def test_minilm_comes_out_of_its_package_and_knows_what_sentences_mean(minilm):
    known = bert.read(minilm, 64)
    assert sum(value.numel() for value in known.state.values()) > 22e6
    vectors = embed(
        known, ["many aeroplanes stand at the terminal", "several planes are parked at an airport", "a green meadow"]
    )
    cosines = vectors @ vectors.T / 384
    assert cosines[0, 1] > 0.5 > 0.3 > cosines[0, 2]  # the first two share no word


def test_the_toy_is_another_one_at_each_seed(tmp_path):
    first, second = (write_sentence_encoder(tmp_path / str(seed), seed) for seed in (0, 1))
    assert not np.array_equal(embed(bert.read(first, 24), SENTENCES), embed(bert.read(second, 24), SENTENCES))
