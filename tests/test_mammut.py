"""The two passes behave as the paper says, the losses as worked by hand, and a folder comes back as it was saved."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import rsvlm
from rsvlm import mammut, tokenizer
from rsvlm.errors import ModelError

PAD = tokenizer.PAD_ID
SIZES = {"image_size": 32, "vision_width": 64, "vision_heads": 2, "vision_layers": 2}
SIZES |= {"text_width": 192, "text_heads": 3, "text_layers": 4}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = mammut.MammutConfig(**mammut.PRESETS["nano"] | SIZES, vocab_size=300)
    model = mammut.Mammut(config).eval()
    with torch.no_grad():  # larger weights than at the start of training, so that every path shows in the outputs
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)
    return model


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 32, 32, generator=generator)
    tokens = torch.randint(3, 300, (3, 10), generator=generator)
    return images, tokens


def contrastive_states(model, tokens):
    return model._decode(tokens, None, causal=False, image=None)


@torch.no_grad()
def test_contrastive_pass_sees_the_future_and_the_order(model, batch):
    _, tokens = batch
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 290 + 3
    difference = (contrastive_states(model, tokens) - contrastive_states(model, changed))[:, 0].abs().max()
    assert difference > 1e-3  # a change of the last token moves the first token's state
    assert (model.encode_text(tokens) - model.encode_text(tokens.flip(1))).abs().max() > 1e-3


@torch.no_grad()
def test_caption_pass_does_not_see_the_future(model, batch):
    images, tokens = batch
    changed = tokens.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 290 + 3
    before, after = model.caption_logits(images, tokens), model.caption_logits(images, changed)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=1e-5)
    assert (before[:, 6:] - after[:, 6:]).abs().max() > 1e-3


@torch.no_grad()
def test_image_reaches_the_text_only_in_the_caption_pass(model, batch):
    images, tokens = batch
    assert (model.caption_logits(images, tokens) - model.caption_logits(images.flip(0), tokens)).abs().max() > 1e-3
    for layer in model.layers:
        if layer.cross_attention is not None:
            layer.cross_attention.out.weight.data.add_(1)
    before = model(images, tokens).text_embeddings
    torch.testing.assert_close(before, model(images.flip(0), tokens).text_embeddings)
    for layer in model.layers:
        if layer.cross_attention is not None:
            layer.cross_attention.out.weight.data.sub_(1)


def test_cross_attention_is_in_every_second_layer(model):
    assert [layer.cross_attention is not None for layer in model.layers] == [True, False, True, False]


@torch.no_grad()
def test_text_embedding_depends_on_neither_padding_nor_neighbours(model, batch):
    _, tokens = batch
    alone = model.encode_text(tokens[:1, :7])
    padded = torch.nn.functional.pad(tokens[:1, :7], (0, 5), value=PAD)
    together = torch.cat([padded, torch.nn.functional.pad(tokens[1:], (0, 2), value=PAD)])
    torch.testing.assert_close(model.encode_text(padded), alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.encode_text(together)[:1], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_embeddings_are_means_of_unit_norm(model, batch):
    images, tokens = batch
    patches = model.image_tokens(images)
    assert patches.shape == (3, 16, 64)
    raw = model.image_projection(patches.mean(1))
    torch.testing.assert_close(model.encode_image(images, normalize=False), raw)
    torch.testing.assert_close(model.encode_image(images), raw / raw.norm(dim=-1, keepdim=True))
    raw = contrastive_states(model, tokens).mean(1)
    torch.testing.assert_close(model.encode_text(tokens, normalize=False), raw, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_caption_loss_is_the_mean_over_real_targets(model, batch):
    images, tokens = batch
    tokens = tokens.clone()
    tokens[0, 6:] = PAD
    log_p = model.caption_logits(images, tokens).log_softmax(-1)
    terms = [-log_p[b, t, tokens[b, t + 1]] for b in range(3) for t in range(9) if tokens[b, t + 1] != PAD]
    assert len(terms) == 5 + 9 + 9
    torch.testing.assert_close(model(images, tokens).caption_loss, torch.stack(terms).mean())


def test_vocabulary_product_is_computed_only_where_there_is_a_target(model, batch):
    images, tokens = batch
    tokens = tokens.clone()
    tokens[0, 6:] = PAD
    seen = []
    hook = model.vocabulary.register_forward_hook(lambda module, given, out: seen.append(given[0].shape))
    try:
        model(images, tokens)
        model.encode_text(tokens)
    finally:
        hook.remove()
    assert sum(shape[0] for shape in seen) == 23


@torch.no_grad()
def test_groups_of_texts_change_nothing(model, batch):
    images, tokens = batch
    tokens = tokens.clone()
    tokens[0, 3:] = PAD
    grouped = model(images, [tokens[:1, :3], tokens[1:]])
    whole = model(images, tokens)
    torch.testing.assert_close(grouped.text_embeddings, whole.text_embeddings, rtol=0, atol=1e-5)
    torch.testing.assert_close(grouped.caption_loss, whole.caption_loss)


def worked_pair():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    texts = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    cosines = [[1.0, 0.8, 0.0], [0.0, 0.6, 1.0], [0.6, 0.96, 0.8]]
    return images, texts, cosines


def test_softmax_loss_worked_by_hand():
    images, texts, cosines = worked_pair()
    rows = [np.log(sum(np.exp(2 * c) for c in row)) - 2 * row[i] for i, row in enumerate(cosines)]
    columns = [np.log(sum(np.exp(2 * row[j]) for row in cosines)) - 2 * cosines[j][j] for j in range(3)]
    expected = (np.mean(rows) + np.mean(columns)) / 2
    assert mammut.softmax_loss(images, texts, torch.tensor(2.0)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_loss_worked_by_hand(gamma):
    images, texts, cosines = worked_pair()
    total = 0.0
    for i in range(3):
        for j in range(3):
            p = 1 / (1 + np.exp(-(2 * cosines[i][j] - 1)))
            p = p if i == j else 1 - p
            total -= (1 - p) ** gamma * np.log(p)
    found = mammut.focal_loss(images, texts, torch.tensor(2.0), torch.tensor(-1.0), gamma).item()
    assert found == pytest.approx(2 * total / 3, rel=1e-5)  # image→text plus text→image
    if gamma == 0:
        assert mammut.sigmoid_loss(images, texts, torch.tensor(2.0), torch.tensor(-1.0)).item() == pytest.approx(
            total / 3, rel=1e-5
        )


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_focal_gradient_is_finite_when_every_answer_is_sure(scale):
    images = torch.eye(3, requires_grad=True)
    mammut.focal_loss(images, torch.eye(3), torch.tensor(scale), torch.tensor(-scale / 2), 2.0).backward()
    assert images.grad.isfinite().all()


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    words = tokenizer.train(["red in the north", "blue in the south"], 300, 16)
    config = mammut.MammutConfig(**mammut.PRESETS["nano"] | {"vision_layers": 1}, vocab_size=len(words), context_length=16)
    model = mammut.Mammut(config).eval()
    model.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


@torch.no_grad()
def test_a_saved_folder_comes_back_the_same(saved):
    model, folder = saved
    again = rsvlm.load(folder, device="cpu")
    assert not again.training
    for (name, before), (_, after) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(before, after), name
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.encode_image(images), again.encode_image(images))
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("fault", ["missing", "extra", "misshaped"])
def test_a_partial_match_fails_and_lists_the_keys(saved, fault):
    _, folder = saved
    weights = load_file(folder / "model.safetensors")
    if fault == "missing":
        del weights["image_map.weight"]
    elif fault == "extra":
        weights["image_map.wight"] = torch.zeros(3)
    else:
        weights["image_map.weight"] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"image_map\.we?ight"):
        rsvlm.load(folder)


def test_a_pickle_is_not_read(saved):
    model, folder = saved
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        rsvlm.load(folder)


def test_a_truncated_file_is_named(saved):
    _, folder = saved
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cannot be read"):
        rsvlm.load(folder)


def test_a_tokenizer_of_another_vocabulary_is_refused(saved, tmp_path):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    tokenizer.train(["a quite different and larger text " + chr(0x4E00 + i) for i in range(400)], 800, 16).save_pretrained(
        folder
    )
    assert config["vocab_size"] < 800
    with pytest.raises(ModelError, match="tokenizer has"):
        rsvlm.load(folder)


def test_wrong_shapes_are_named(model):
    with pytest.raises(ModelError, match="multiples of 8"):
        model.encode_image(torch.zeros(1, 3, 63, 64))
    with pytest.raises(ModelError, match="context_length is 96"):
        model.encode_text(torch.full((1, 97), 5))
