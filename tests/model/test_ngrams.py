"""Embeddings of several tokens in a row."""

import numpy as np
import pytest
import torch

from rsvlm.errors import ModelError
from rsvlm.model import exporting, mammut, tokenizer
from rsvlm.model.ngrams import NgramEmbedding

SIZES = {"image_size": 32, "vision_width": 64, "vision_heads": 2, "vision_layers": 1, "text_width": 96, "text_heads": 3}
SIZES |= {"text_layers": 2, "text_ngrams": 4, "text_ngram_rows": 97, "vocab_size": 300, "context_length": 24}


@pytest.fixture
def tokens():
    return torch.randint(3, 300, (3, 9), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("longest", [2, 3, 5])
def test_an_ngram_is_of_its_last_token_and_those_before(tokens, longest):
    ngrams = NgramEmbedding(longest, 4096, 8)
    changed = tokens.clone()
    changed[:, 3] += 1
    differ = (ngrams(tokens) != ngrams(changed)).any(-1)
    assert differ.tolist() == [[3 <= place < 3 + longest for place in range(9)]] * 3


@torch.no_grad()
def test_what_stands_before_may_be_given(tokens):
    ngrams = NgramEmbedding(4, 97, 8)
    whole = ngrams(tokens)
    for place in range(9):
        assert torch.equal(ngrams(tokens[:, place:], tokens[:, :place]), whole[:, place:])


@torch.no_grad()
def test_equal_runs_of_tokens_are_equal_wherever_they_stand():
    ngrams = NgramEmbedding(3, 4096, 8)
    found = ngrams(torch.tensor([[5, 6, 7, 8, 5, 6, 7, 9]]))[0]
    assert torch.equal(found[2], found[6]) and not torch.equal(
        found[1], found[5]
    )  # a bigram and a trigram; another start of the trigram
    assert not torch.equal(ngrams(torch.tensor([[5, 6]]))[0, 1], ngrams(torch.tensor([[6, 5]]))[0, 1])


@torch.no_grad()
def test_captions_equal_a_loop_without_a_cache():
    torch.manual_seed(0)
    model = mammut.Mammut(mammut.MammutConfig(**mammut.PRESETS["nano"] | SIZES)).eval()
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.mul_(6)
    pictures = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    found = model.generate(pictures)
    assert len({tuple(row) for row in found.tolist()}) > 1 and found.shape[1] > 6
    for image, row in zip(pictures, found.tolist(), strict=True):
        tokens = [tokenizer.BOS_ID]
        while len(tokens) < 24 and tokens[-1] != tokenizer.EOS_ID:
            tokens.append(model.caption_logits(image[None], torch.tensor([tokens]))[0, -1].argmax().item())
        assert row[: len(tokens)] == tokens


@torch.no_grad()
def test_embeddings_do_not_depend_on_padding(tokens):
    torch.manual_seed(0)
    model = mammut.Mammut(mammut.MammutConfig(**mammut.PRESETS["nano"] | SIZES)).eval()
    padded = torch.nn.functional.pad(tokens, (0, 5), value=tokenizer.PAD_ID)
    torch.testing.assert_close(model.encode_text(padded), model.encode_text(tokens))


@torch.no_grad()
def test_a_text_is_more_than_its_words_before_anything_was_learned():
    torch.manual_seed(0)
    model = mammut.Mammut(mammut.MammutConfig(**mammut.PRESETS["nano"] | SIZES | {"text_ngram_rows": 4096})).eval()
    for layer in model.layers:  # words alone, without what layers do
        for linear in (layer.self_attention.out, layer.mlp[2]):
            torch.nn.init.zeros_(linear.weight)
    model.position_embedding.weight.zero_()
    one, other = model.encode_text(torch.tensor([[10, 11, 20, 12, 13, 21], [10, 11, 21, 12, 13, 20]]))
    assert 1 - one @ other > 0.05
    model.ngram_embedding = None
    one, other = model.encode_text(torch.tensor([[10, 11, 20, 12, 13, 21], [10, 11, 21, 12, 13, 20]]))
    assert 1 - one @ other < 1e-5


@torch.no_grad()
def test_the_exported_tower_reads_texts_of_any_length(tmp_path):
    torch.manual_seed(0)
    model = mammut.Mammut(mammut.MammutConfig(**mammut.PRESETS["nano"] | SIZES)).eval()
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=1, max=24)}
    example = torch.randint(3, 300, (2, 5))
    path = tmp_path / "text.onnx"
    exporting.export_tower(model.encode_text, model, path, ("tokens", "text_embeddings"), example, axes)
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [dev] is not installed")
    session = onnxruntime.InferenceSession(path)
    for shape in ((1, 1), (3, 2), (2, 9), (1, 24)):
        tokens = torch.randint(3, 300, shape)
        found = session.run(None, {"tokens": tokens.numpy()})[0]
        np.testing.assert_allclose(found, model.encode_text(tokens).numpy(), atol=1e-5)


def test_open_clip_has_no_words_for_them(tmp_path):
    model = mammut.Mammut(mammut.MammutConfig(**mammut.PRESETS["nano"] | SIZES))
    with pytest.raises(ModelError, match="embeddings of several tokens in a row"):
        exporting.export_open_clip(model, tmp_path)
