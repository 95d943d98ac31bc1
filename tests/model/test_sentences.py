"""A model with a sentence encoder: whole in its folder, blind to padding, and its decoder has a small vocabulary of its own."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import SENTENCES, toy_sample

import rsvlm
from rsvlm.errors import ModelError
from rsvlm.localization import heat
from rsvlm.model import embed, exporting, mammut, sentences, tokenizer
from rsvlm.model.others import bert
from rsvlm.search import page_texts
from rsvlm.training import text

SIZES = {"image_size": 32, "patch_size": 8, "vision_width": 32, "vision_layers": 2, "vision_heads": 2}
SIZES |= {"text_width": 24, "text_layers": 2, "text_heads": 2, "context_length": 24}
CAPTIONS = [caption for i in range(8) for caption in toy_sample(i)[1]]


@pytest.fixture
def model(sentence_folder):
    known = bert.read(sentence_folder, 24)
    tokens = text.tokens_of(known.tokenizer, CAPTIONS, False)
    torch.manual_seed(0)
    made = mammut.Mammut(mammut.MammutConfig(**SIZES | text.settings(known, tokens)))
    made.tokenizer = known.tokenizer
    return text.begin(made, known, tokens).eval()


def tokens_of(model, texts):
    return torch.from_numpy(tokenizer.encode(model.tokenizer, texts))


@torch.no_grad()
def test_a_text_embedding_depends_on_the_text_alone(model):
    tokens = tokens_of(model, SENTENCES)
    together = model.encode_text(tokens)
    assert together.shape == (3, 24)
    for i, sentence in enumerate(SENTENCES):
        torch.testing.assert_close(model.encode_text(tokens_of(model, [sentence])), together[i : i + 1], rtol=0, atol=1e-6)
    assert (together @ together.T).fill_diagonal_(0).max() < 0.999
    with pytest.raises(ModelError, match="nothing but padding"):
        model.encode_text(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(ModelError, match="text of 25 tokens: this model's context_length is 24"):
        model.encode_text(torch.full((1, 25), 5))
    before = together.clone()
    for parameter in [*model.layers.parameters(), *model.token_embedding.parameters()]:
        parameter.add_(1)
    assert torch.equal(model.encode_text(tokens), before)  # the decoder has no part in it


@torch.no_grad()
def test_a_folder_is_whole(model, tmp_path):
    model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    again = rsvlm.load(tmp_path, "cpu")
    images, tokens = torch.randn(2, 3, 32, 32), tokens_of(model, SENTENCES[:2])
    for ask in (lambda m: m.encode_text(tokens), lambda m: m.caption_logits(images, tokens), lambda m: m.generate(images)):
        assert torch.equal(ask(model), ask(again))
    assert again.rows.tokens.equal(model.rows.tokens) and tokens_of(again, SENTENCES).equal(tokens_of(model, SENTENCES))


@torch.no_grad()
def test_the_decoder_has_rows_for_the_words_of_captions_alone(model):
    known = model.rows.tokens
    assert len(known) == model.config.caption_vocab_size < model.config.vocab_size == len(model.tokenizer)
    assert model.token_embedding.weight.shape[0] == model.vocabulary.weight.shape[0] == len(known)
    torch.testing.assert_close(known[model.decoder_rows(known)], known)
    assert set(tokens_of(model, CAPTIONS).flatten().tolist()) <= set(known.tolist())
    foreign = tokens_of(model, ["many planes stand at the terminal"])
    rows = model.decoder_rows(foreign)
    unknown = ~torch.isin(foreign, known)
    assert unknown.any() and (known[rows[unknown]] == model.tokenizer.unk_token_id).all()
    assert torch.equal(known[rows[~unknown]], foreign[~unknown])


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "top_p": 0.9}])
def test_captions_are_written_in_tokens_of_the_tokenizer(model, options):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.vocabulary.weight[model.decoder_rows(torch.tensor([model.tokenizer.unk_token_id]))] = 0
    torch.manual_seed(0)
    ids = model.generate(images, max_new_tokens=6, **options)
    assert (ids[:, 0] == model.tokenizer.bos_token_id).all() and torch.isin(ids, model.rows.tokens).all()
    assert all(isinstance(caption, str) for caption in model.captions(images, max_new_tokens=6, **options))


def test_options_that_speak_of_the_decoders_rows_are_refused(model):
    with pytest.raises(ModelError, match="generate has no eos_token_id, streamer here"):
        model.generate(torch.zeros(1, 3, 32, 32), eos_token_id=3, streamer=None)


def test_greedy_captions_are_the_likeliest_tokens(model):
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ids = model.generate(images, max_new_tokens=4)
    with torch.no_grad():
        likeliest = model.rows.tokens[model.caption_logits(images, ids).argmax(-1)]
    assert torch.equal(likeliest[:, :-1], ids[:, 1:])


def test_the_caption_loss_is_of_the_decoders_rows(model):
    images, tokens = torch.randn(2, 3, 32, 32), tokens_of(model, CAPTIONS[:2])
    with torch.no_grad():
        loss = model(images, tokens).caption_loss
        logits = model.caption_logits(images, tokens)[:, :-1]
        targets, real = model.decoder_rows(tokens[:, 1:]), tokens[:, 1:] != 0
        torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits[real], targets[real]))


def test_words_are_left_out_in_training_alone(model):
    tokens = tokens_of(model, SENTENCES)
    with torch.no_grad():
        whole = model.encode_text(tokens)
        model.config.word_dropout = 0.5
        assert torch.equal(model.encode_text(tokens), whole)
        model.train()
        model.sentences.head.eval()
        assert (model.encode_text(tokens) - whole).abs().max() > 1e-3


def test_attention_of_the_decoder_to_the_image_is_read(model):
    images = torch.randn(1, 3, 32, 32)
    grids = heat.cross_attention(model, images, SENTENCES[:2], gradient=True)
    assert np.isfinite(grids).all() and grids.shape[:2] == (1, 2)


def test_it_runs_as_onnx_for_any_number_and_length_of_texts(model, tmp_path):
    exporting.export_onnx(model, tmp_path, ("text",))
    session = onnxruntime.InferenceSession(tmp_path / "text.onnx", providers=["CPUExecutionProvider"])
    for texts in (SENTENCES, SENTENCES[:1], ["red"]):
        tokens = tokens_of(model, texts)
        with torch.no_grad():
            wanted = model.encode_text(tokens).numpy()
        np.testing.assert_allclose(session.run(None, {"tokens": tokens.numpy()})[0], wanted, atol=1e-5)


def test_open_clip_has_no_words_for_it(model, tmp_path):
    with pytest.raises(ModelError, match="a sentence encoder"):
        exporting.export(model, "open_clip", tmp_path / "out")


@pytest.mark.parametrize("missing", [{"caption_vocab_size": None}, {"unk_token_id": None}, {"pads_are_text": True}])
def test_options_that_do_not_go_together_are_told(missing):
    with pytest.raises(ModelError, match="sentence_layers=2 go with"):
        mammut.MammutConfig(**{"sentence_layers": 2, "caption_vocab_size": 9, "unk_token_id": 3} | missing)


def test_a_layer_is_that_of_torch():
    """The same weights in torch's own layer with its norms behind."""
    torch.manual_seed(0)
    ours = sentences.BertLayer(16, 4).eval()
    how = {"activation": "gelu", "batch_first": True, "layer_norm_eps": sentences.NORM_EPS, "dropout": 0.0}
    theirs = torch.nn.TransformerEncoderLayer(16, 4, 64, **how)  # not in evaluation: its fast path is another function
    attention = ours.attention
    with torch.no_grad():
        for kind in ("weight", "bias"):
            pair = [getattr(part, kind) for part in (attention.query, attention.key_value)]
            getattr(theirs.self_attn, f"in_proj_{kind}").copy_(torch.cat(pair))
            for mine, name in ((attention.out, "self_attn.out_proj"), (ours.mlp[0], "linear1"), (ours.mlp[2], "linear2")):
                getattr(theirs.get_submodule(name), kind).copy_(getattr(mine, kind))
        x, real = torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
        wanted = theirs(x, src_key_padding_mask=~real)
        torch.testing.assert_close(ours(x, real[:, None, None, :])[real], wanted[real])


def test_the_search_page_takes_it(model, tmp_path):
    texts = page_texts.open_texts(embed.MammutEncoder(model))
    path = texts.export(tmp_path / "text.onnx")
    wanted = embed.texts(model, SENTENCES)
    np.testing.assert_allclose(page_texts.embed_by_file(path, texts.tokens, SENTENCES), wanted, atol=1e-5)
    small = page_texts.embed_by_file(page_texts.shrink(path, tmp_path / "int8.onnx"), texts.tokens, SENTENCES)
    assert (small * wanted).sum(1).min() > 0.99
