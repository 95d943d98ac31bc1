"""The two passes behave as the paper says, the losses as worked by hand, and a folder comes back as it was saved."""

import io
import itertools
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

import rsvlm
from rsvlm.errors import ModelError
from rsvlm.model import attention, embed, flops, images, losses, mammut, positions, presets, tokenizer

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
    return model._decode(tokens)


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


def test_vocabulary_product_is_computed_only_where_there_is_a_target(model, batch, monkeypatch):
    images, tokens = batch
    tokens = tokens.clone()
    tokens[0, 6:] = PAD
    products, real = [], losses.SummedCrossEntropy.apply
    monkeypatch.setattr(
        losses.SummedCrossEntropy, "apply", lambda states, *rest: products.append(len(states)) or real(states, *rest)
    )
    hook = model.vocabulary.register_forward_hook(lambda module, given, out: products.append(out.numel()))
    try:
        model(images, tokens)
        model.encode_text(tokens)
    finally:
        hook.remove()
    assert products == [23]


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
    assert losses.softmax_loss(images, texts, torch.tensor(2.0)).item() == pytest.approx(expected, rel=1e-5)


def test_pairs_of_the_same_text_are_no_wrong_answers():
    images, texts, cosines = worked_pair()
    numbers = losses.text_numbers(torch.tensor([[1, 7, 8, 2], [1, 8, 7, 2], [1, 7, 8, 2]]))
    others = [(0, 1), (0, 1, 2), (1, 2)]  # what pair i is compared with: pairs 0 and 2 have the same text
    rows = [np.log(sum(np.exp(2 * cosines[i][j]) for j in those)) - 2 * cosines[i][i] for i, those in enumerate(others)]
    columns = [np.log(sum(np.exp(2 * cosines[j][i]) for j in those)) - 2 * cosines[i][i] for i, those in enumerate(others)]
    given = [part.clone().requires_grad_() for part in (images, texts)]
    found = losses.softmax_loss(*given, torch.tensor(2.0), numbers)
    found.backward()
    assert found.item() == pytest.approx((np.mean(rows) + np.mean(columns)) / 2, rel=1e-5)
    assert all(part.grad.isfinite().all() for part in given)
    alone = losses.softmax_loss(images, texts, torch.tensor(2.0), torch.tensor([4, 5, 6]))
    assert torch.equal(alone, losses.softmax_loss(images, texts, torch.tensor(2.0)))


def test_texts_are_numbered_whatever_their_padding():
    tokens = torch.randint(1, 49408, (5000, 16), generator=torch.Generator().manual_seed(0))
    numbers = losses.text_numbers(tokens)
    assert len(numbers.unique()) >= 4996  # about 0.7 pairs of 5,000 meet by chance
    padded = torch.cat([tokens, torch.full((5000, 5), PAD)], dim=1)
    assert torch.equal(losses.text_numbers(padded), numbers)
    assert (losses.text_numbers(tokens.flip(1)) != numbers).float().mean() > 0.99


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_loss_worked_by_hand(gamma):
    images, texts, cosines = worked_pair()
    total = 0.0
    for i in range(3):
        for j in range(3):
            p = 1 / (1 + np.exp(-(2 * cosines[i][j] - 1)))
            p = p if i == j else 1 - p
            total -= (1 - p) ** gamma * np.log(p)
    found = losses.focal_loss(images, texts, torch.tensor(2.0), torch.tensor(-1.0), gamma).item()
    assert found == pytest.approx(2 * total / 3, rel=1e-5)  # image→text plus text→image
    if gamma == 0:
        assert losses.sigmoid_loss(images, texts, torch.tensor(2.0), torch.tensor(-1.0)).item() == pytest.approx(
            total / 3, rel=1e-5
        )


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_cross_entropy_in_parts_is_the_cross_entropy(precision, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    states, weight = (torch.randn(n, 8, generator=rng, requires_grad=True) for n in (11, 50))
    targets = torch.randint(0, 50, (11,), generator=rng)
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 4 * 50)  # parts of 4, 4 and 3 rows
    with torch.autocast("cpu", precision, enabled=precision is not None):
        found = losses.SummedCrossEntropy.apply(states, weight, targets)
    plain = torch.nn.functional.cross_entropy(states @ weight.T, targets, reduction="sum")
    exact = precision is None
    assert found.item() == pytest.approx(plain.item(), rel=1e-6 if exact else 1e-2)
    for mine, theirs in zip(
        torch.autograd.grad(3 * found, (states, weight)), torch.autograd.grad(3 * plain, (states, weight)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5 if exact else 0.05, atol=1e-6 if exact else 0.1)
    assert losses.SummedCrossEntropy.apply(states[:0], weight, targets[:0]).item() == 0


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_focal_gradient_is_finite_when_every_answer_is_sure(scale):
    images = torch.eye(3, requires_grad=True)
    losses.focal_loss(images, torch.eye(3), torch.tensor(scale), torch.tensor(-scale / 2), 2.0).backward()
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
    for found in (AutoModel.from_pretrained(folder), mammut.Mammut.from_pretrained(folder)):
        assert isinstance(found, mammut.Mammut) and torch.equal(found.eval().encode_image(images), model.encode_image(images))


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
    with pytest.raises(ModelError, match=r"model\.safetensors is missing; pytorch_model\.bin may run code"):
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


def test_unknown_switches_are_named():
    with pytest.raises(ModelError, match="image_pooling='max'"):
        mammut.MammutConfig(image_pooling="max")
    with pytest.raises(ModelError, match="make patches of 16 pixels.*patch_size=8"):
        mammut.MammutConfig(vision_stages=(1, 1, 1))
    with pytest.raises(ModelError, match="without class token"):
        mammut.MammutConfig(vision_stages=(1, 1), vision_class_token=True)


def test_presets_have_the_parameters_that_their_table_states():
    rows = re.findall(r'"([\w-]+)": dict\(.*# ([\d,]+) \+ ([\d,]+)', Path(presets.__file__).read_text())
    assert [row[0] for row in rows] == list(mammut.PRESETS)
    for name, *stated in rows:
        with torch.device("meta"):
            model = mammut.Mammut(mammut.MammutConfig(**mammut.PRESETS[name], vocab_size=49408, context_length=77))
        vision, whole = (sum(p.numel() for p in part.parameters()) for part in (model.vision, model))
        assert [f"{vision:,}", f"{whole - vision:,}"] == stated
    assert name == "so400m" and vision == pytest.approx(400e6, rel=0.05) and whole - vision == pytest.approx(400e6, rel=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_pooling": "attention", "cross_attention_every": 1},
        {"vision_stages": (2, 1, 3), "patch_size": 16},
        {name: value for name, value in mammut.PRESETS["l14"].items() if isinstance(value, bool | str)},
        {"cross_layer_mlp": "caption", "vision_class_token": True, "class_token_read": False, "image_projection": True},
        {"sentence_layers": 3, "sentence_width": 96, "caption_vocab_size": 77, "unk_token_id": 3},
    ],
)
@torch.no_grad()
def test_flops_are_those_that_torch_counts(changes):
    config = mammut.MammutConfig(**mammut.PRESETS["nano"] | SIZES | {"patch_size": 4, "vision_mlp_width": 200} | changes)
    with torch.device("meta"):
        model = mammut.Mammut(config).requires_grad_(False)
        image, tokens, states = torch.zeros(1, 3, 32, 32), torch.full((1, 20), 5), torch.zeros(19, 192)
    patches = model.image_tokens(image)
    runs = {
        "vision": lambda: model.encode_image(image),
        "contrastive": lambda: model.train().encode_text(tokens),  # in training it does not look for texts that are all pads
        "caption": lambda: model.caption_states(tokens[:, 1:], patches),
        "vocabulary": lambda: model.vocabulary(states),
    }
    for name, run in runs.items():
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run()
        assert flops.count(config, 20)[name] == pytest.approx(counter.get_total_flops(), rel=0.01), name


@torch.no_grad()
def test_images_of_other_sizes_are_taken(model):
    assert model.image_tokens(torch.randn(1, 3, 64, 64)).shape == (1, 64, 64)
    assert model.image_tokens(torch.randn(1, 3, 24, 40)).shape == (1, 15, 64)
    before = model.vision.pos_embed.clone()
    model.vision.pos_embed.fill_(0.7)
    seen = []
    handle = model.vision.norm_pre.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    model.image_tokens(torch.zeros(1, 3, 56, 40))
    handle.remove()
    model.vision.pos_embed.copy_(before)
    torch.testing.assert_close(seen[0], (0.7 + model.vision.patch_embed.proj.bias).expand(1, 35, 64))  # a constant stays one


CONV = {"vision_stages": (1, 2), "patch_size": 8}


@torch.no_grad()
def test_convolutions_see_their_surroundings_and_one_image_at_a_time(tmp_path):
    model = tiny(**CONV).train()
    images = torch.randn(3, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    tokens = model.image_tokens(images)
    assert tokens.shape == (3, 15, 32)
    torch.testing.assert_close(model.image_tokens(images[1:2]), tokens[1:2])  # in training too: no statistics of the batch
    with pytest.raises(ModelError, match="multiples of 8"):
        model.image_tokens(images[:, :, :20])
    model.eval().save_pretrained(tmp_path)
    again = mammut.Mammut.from_pretrained(tmp_path).eval()
    assert torch.equal(again.encode_image(images), model.encode_image(images))


@torch.no_grad()
def test_standard_weights_do_not_depend_on_size_and_offset(tmp_path):
    model = tiny(**CONV, vision_standard_weights=True).eval()
    images = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    convolutions = [part for part in model.vision.modules() if isinstance(part, torch.nn.Conv2d)]
    for part in (p for p in model.vision.modules() if isinstance(p, torch.nn.GroupNorm)):
        part.weight.copy_(torch.linspace(0.5, 1.5, len(part.weight)))  # so that every block counts
    before = model.image_tokens(images)
    noise = torch.randn(convolutions[3].weight.shape, generator=torch.Generator().manual_seed(1))
    for part in convolutions:
        part.weight.mul_(torch.linspace(0.5, 3, len(part.weight)).view(-1, 1, 1, 1)).add_(0.7)
    torch.testing.assert_close(model.image_tokens(images), before, rtol=1e-3, atol=1e-4)
    model.save_pretrained(tmp_path)
    assert torch.equal(mammut.Mammut.from_pretrained(tmp_path).eval().image_tokens(images), model.image_tokens(images))
    convolutions[3].weight.add_(noise)
    assert (model.image_tokens(images) - before).abs().max() > 0.1


def test_dropout_is_of_the_texts_and_of_training_alone():
    model, plain = tiny(text_dropout=0.3), tiny()
    plain.load_state_dict(model.state_dict())
    images, tokens = torch.zeros(2, 3, 32, 32), torch.tensor([[1, 5, 6, 7, 2], [1, 8, 9, 2, 0]])
    with torch.no_grad():
        for one in (model.eval(), plain.train()):
            torch.testing.assert_close(one.encode_text(tokens), plain.eval().encode_text(tokens))
        first, second = (model.train()(images, tokens) for _ in range(2))
    assert torch.equal(first.image_embeddings, second.image_embeddings)
    assert (first.text_embeddings - second.text_embeddings).abs().max() > 1e-2 and first.caption_loss != second.caption_loss


def test_words_are_left_out_of_the_contrastive_pass_in_training_alone():
    model, tokens = tiny(word_dropout=0.5), torch.tensor([[1, 5, 6, 7, 8, 9, 2, 0]])
    with torch.no_grad():
        whole = model.eval().encode_text(tokens)
        torch.testing.assert_close(tiny().eval().encode_text(tokens), whole)
        found = torch.cat([model.train().encode_text(tokens) for _ in range(200)])
        possible = []
        for kept in itertools.product([True, False], repeat=6):  # the first token always stays, a pad never counts
            real = torch.tensor([True, *kept, False])[None]
            states = model._decode(tokens, real[:, None, None, :])
            possible.append(torch.nn.functional.normalize(states[real].mean(0), dim=0))
        captions = [model.caption_logits(torch.zeros(1, 3, 32, 32), tokens) for _ in range(2)]
    distances = torch.cdist(found, torch.stack(possible), compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.min(dim=1).values.max() < 1e-5
    assert len(distances.argmin(dim=1).unique()) > 40  # of 64
    assert torch.equal(*captions)


def test_channels_of_a_tower_and_of_the_pooled_image_are_dropped_in_training_alone():
    how = {"vision_tower": "test_efficientnet", "patch_size": 16, "vision_width": 24}
    model, images = tiny(**how, vision_dropout=0.5), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.eval().encode_image(images), tiny(**how).eval().encode_image(images))
        tokens = model.image_tokens(images)
        first, second = (model.train().image_embedding(tokens) for _ in range(2))
        assert (first - second).abs().max() > 1e-2
        seen = []
        model.vision.laterals[-1].register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
        model.image_tokens(images)
    whole = seen[0].flatten(2).abs().amax(2) == 0
    assert 0.2 < whole.float().mean() < 0.8 and not ((seen[0] == 0).flatten(2).any(2) & ~whole).any()


def test_convolutional_tokens_are_cells_in_reading_order():
    model = tiny(**CONV)
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for norm in (part for part in model.vision.modules() if isinstance(part, torch.nn.GroupNorm)):
        norm.forward = lambda x: x  # a norm looks at the whole image: without it a token depends on its surroundings alone
    model.image_tokens(images)[0, 16 * 7 + 9].sum().backward()
    weight = images.grad[0].abs().sum(0) / images.grad.abs().sum()
    row, column = ((weight.sum(axis) * torch.arange(128)).sum() for axis in (1, 0))
    assert abs(row - 7.5 * 8) < 8 and abs(column - 9.5 * 8) < 8  # within the cell
    assert weight[0].sum() == weight[-1].sum() == 0


@torch.no_grad()
def test_positions_of_a_crop(model):
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(1, 4, 4, 6, generator=generator)
    whole, quarter = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.5, 0, 1, 0.5]])  # the quarter at the top right
    torch.testing.assert_close(positions.cropped(grid, whole, (4, 4)), grid, rtol=0, atol=1e-5)
    plain = torch.nn.functional.interpolate(grid.permute(0, 3, 1, 2), (8, 8), mode="bilinear").permute(0, 2, 3, 1)
    torch.testing.assert_close(positions.cropped(grid, whole, (8, 8)), plain, rtol=0, atol=1e-5)
    found = positions.cropped(grid, torch.cat([whole, quarter]), (4, 4))[1]
    # Two cells become four: centres at columns 1.75, 2.25, 2.75, 3.25 and rows -0.25, 0.25, 0.75, 1.25; edges are held.
    columns = [{1: 0.25, 2: 0.75}, {2: 0.75, 3: 0.25}, {2: 0.25, 3: 0.75}, {3: 1.0}]
    rows = [{0: 1.0}, {0: 0.75, 1: 0.25}, {0: 0.25, 1: 0.75}, {1: 0.75, 2: 0.25}]
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            expected = sum(a * b * grid[0, y, x] for y, a in row.items() for x, b in column.items())
            torch.testing.assert_close(found[i, j], expected, rtol=0, atol=1e-5)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    torch.testing.assert_close(model.image_tokens(images, whole.expand(2, 4)), model.image_tokens(images), rtol=0, atol=1e-4)
    assert (model.image_tokens(images, quarter.expand(2, 4)) - model.image_tokens(images)).abs().max() > 1e-3


@torch.no_grad()
def test_attention_pooling_worked_by_hand():
    pool = attention.AttentionPool(2, 1)
    for linear in (pool.attention.query, pool.attention.out):
        linear.weight.copy_(torch.eye(2))
        linear.bias.zero_()
    pool.attention.key_value.weight.copy_(torch.cat([torch.eye(2), 2 * torch.eye(2)]))  # keys are tokens, values twice them
    pool.attention.key_value.bias.zero_()
    pool.query.copy_(torch.tensor([[[2**0.5, 0.0]]]))  # so that q·k / √2 is the first coordinate
    tokens = torch.tensor([[[0.0, 1.0], [math.log(3), 5.0]]])  # weights 1/4 and 3/4
    torch.testing.assert_close(pool(tokens), torch.tensor([[1.5 * math.log(3), 2 * (0.25 + 3.75)]]))


def in_mode(mode: str) -> np.ndarray:
    pixels = np.arange(40 * 50 * 3).reshape(40, 50, 3) % 256
    if mode == "16-bit":
        picture = Image.fromarray((pixels[..., 0] * 257).astype(np.uint16))
    else:
        picture = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF")
    return images.decode(buffer.getvalue())


@torch.no_grad()
def test_images_of_every_mode_are_embedded(model):
    arrays = [in_mode(mode) for mode in ("RGB", "L", "RGBA", "CMYK", "16-bit", "P", "1")]
    assert {array.shape for array in arrays} == {(40, 50, 3)}
    found = embed.images(model, arrays)
    assert found.shape == (7, 192)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found[2], found[0], rtol=0, atol=1e-6)  # opaque


def test_text_without_a_word_is_refused(model):
    tokens = torch.full((2, 5), 7)
    tokens[1] = PAD
    with pytest.raises(ModelError, match="nothing but padding"):
        model.encode_text(tokens)


def test_texts_too_long_are_cut_and_counted_in_one_line(caplog):
    words = tokenizer.train(["red in the north", "blue in the south"], 300, 16)
    tokens = tokenizer.encode(words, ["red " * 40, "blue", "north " * 40])
    assert tokens.shape == (3, 16) and tokens[0, -1] == tokenizer.EOS_ID
    assert [record.getMessage() for record in caplog.records] == ["2 of 3 texts were cut to 16 tokens"]
    config = mammut.MammutConfig(**mammut.PRESETS["nano"] | SIZES, vocab_size=300, context_length=16, pads_are_text=True)
    with pytest.raises(ModelError, match="text of 17 tokens"):
        mammut.Mammut(config).encode_text(torch.full((1, 17), 5))


def gradients(model, given, run):
    model.zero_grad(set_to_none=True)
    out = run(*given)
    (out.caption_loss + losses.softmax_loss(out.image_embeddings, out.text_embeddings, model.logit_scale)).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def tiny(**changes):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "vision_width": 32, "vision_layers": 1, "vision_heads": 2}
    sizes |= {"text_width": 32, "text_layers": 2, "text_heads": 2, "vocab_size": 50, "context_length": 12}
    return mammut.Mammut(mammut.MammutConfig(**sizes | changes))


@pytest.mark.parametrize(
    "changes", [{"cross_layer_mlp": "one"}, {"cross_layer_mlp": "caption"}, {"cross_layer_mlp": "both"}, CONV]
)
def test_activation_checkpointing_gives_the_same_gradients(changes):
    model = tiny(**changes).train()
    given = torch.randn(3, 3, 16, 16), torch.randint(3, 50, (3, 9))
    plain = gradients(model, given, model)
    model.gradient_checkpointing = True
    again = gradients(model, given, model)
    assert plain.keys() == again.keys() and len(plain) > 40
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=0, atol=1e-6)


def test_attention_in_half_precision_is_near():
    model = tiny()
    given = torch.randn(3, 3, 16, 16), torch.randint(3, 50, (3, 9))
    given[1][0, 5:] = PAD
    plain = gradients(model, given, model)
    with torch.autocast("cpu", torch.bfloat16):
        half = gradients(model, given, model)
    flat, low = (torch.cat([part[name].flatten() for name in plain]) for part in (plain, half))
    assert 0 < (flat - low).norm() < 0.05 * flat.norm()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="torch.compile needs a C++ compiler")
def test_compiled_equals_plain():
    model = tiny(text_layers=1)
    given = torch.randn(3, 3, 16, 16), torch.randint(3, 50, (3, 9))
    given[1][0, 5:] = PAD
    plain = gradients(model, given, model)
    traced = gradients(model, given, torch.compile(model, backend="aot_eager"))  # the same graphs without the C++ compiler
    for name, gradient in plain.items():
        torch.testing.assert_close(traced[name], gradient, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        compiled = torch.compile(model.caption_logits)(*given)
        torch.testing.assert_close(compiled, model.caption_logits(*given), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def talker():
    """A model whose captions differ, end, and are not sure of themselves."""
    model = tiny(context_length=24, cross_layer_mlp="both").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(6)
    return model


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def log_probability(model, image, tokens):
    """Of (1, T) tokens after the first."""
    log_p = model.caption_logits(image, tokens[:, :-1]).log_softmax(-1)
    return log_p.gather(2, tokens[:, 1:, None]).sum().item()


@torch.no_grad()
def test_greedy_captions_equal_a_loop_without_a_cache(talker, pictures):
    found = talker.generate(pictures)
    assert found.shape[1] <= 24 and len({tuple(row) for row in found.tolist()}) > 1
    for image, row in zip(pictures, found.tolist(), strict=True):
        tokens = [tokenizer.BOS_ID]
        while len(tokens) < 24 and tokens[-1] != tokenizer.EOS_ID:
            tokens.append(talker.caption_logits(image[None], torch.tensor([tokens]))[0, -1].argmax().item())
        assert row[: len(tokens)] == tokens and set(row[len(tokens) :]) <= {PAD}
        assert talker.generate(image[None])[0].tolist() == tokens  # alone as in the batch


@torch.no_grad()
def test_captions_stop_at_the_end_and_are_padded(talker, pictures):
    first = talker.generate(pictures, max_new_tokens=3)
    assert first.shape == (4, 4)
    talker.config.eos_token_id = first[0, 2].item()  # whatever the first image says second now ends a text
    try:
        found = talker.generate(pictures, max_new_tokens=8)
    finally:
        talker.config.eos_token_id = tokenizer.EOS_ID
    assert found[0, 2] == first[0, 2] and (found[0, 3:] == PAD).all() and found.shape[1] > 4


@torch.no_grad()
def test_beams_find_nothing_worse_than_greedy(talker, pictures):
    length = {"max_new_tokens": 6, "min_new_tokens": 6}
    greedy = talker.generate(pictures, **length)
    beams = talker.generate(pictures, num_beams=6, **length)
    scores = [[log_probability(talker, i[None], row[None]) for i, row in zip(pictures, rows)] for rows in (greedy, beams)]
    assert (np.array(scores[1]) >= np.array(scores[0]) - 1e-4).all() and not torch.equal(greedy, beams)
    assert torch.equal(beams, torch.cat([talker.generate(image[None], num_beams=6, **length) for image in pictures]))


@torch.no_grad()
def test_nucleus_sampling_is_seeded(talker, pictures):
    length = {"max_new_tokens": 6, "min_new_tokens": 6}

    def sample(seed, top_p):
        torch.manual_seed(seed)
        return talker.generate(pictures, do_sample=True, top_p=top_p, top_k=0, **length).tolist()

    assert sample(1, 0.9) == sample(1, 0.9) != sample(2, 0.9)
    assert sample(1, 1e-6) == talker.generate(pictures, **length).tolist()


@torch.no_grad()
def test_captions_are_words(talker, pictures):
    with pytest.raises(ModelError, match="came without a tokenizer"):
        talker.captions(pictures)
    with pytest.raises(ModelError, match="captions of 31 tokens"):
        talker.generate(pictures, max_new_tokens=30)
    model = tiny(vocab_size=300).eval()
    model.tokenizer = tokenizer.train(["red in the north", "blue in the south"], 300, 12)
    captions = model.captions(pictures, max_new_tokens=5)
    assert len(captions) == 4 and all(isinstance(caption, str) for caption in captions)
