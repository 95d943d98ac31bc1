"""Embeddings on disk and exact search."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import png, toy_sample, write_tar

from rsvlm.data import reading, shards
from rsvlm.errors import DataError, ModelError
from rsvlm.evaluation import embeddings
from rsvlm.model import embed, mammut, tokenizer


@pytest.fixture(scope="module")
def model(toy_shards):
    torch.manual_seed(0)
    words = tokenizer.train([c for s in shards.stream(toy_shards, "train") for c in s.captions], 320, 32)
    sizes = {"image_size": 32, "vision_width": 64, "vision_heads": 2, "vision_layers": 2, "text_width": 48, "text_heads": 2}
    model = mammut.Mammut(
        mammut.MammutConfig(**mammut.PRESETS["nano"] | sizes, vocab_size=len(words), context_length=32)
    ).eval()
    model.tokenizer = words
    return model


def test_written_and_read_embeddings_are_the_models(model, toy_shards, tmp_path):
    samples = list(shards.stream(toy_shards, "test"))
    folder = embeddings.write(model, samples, tmp_path / "out", batch_size=7)  # 48 images: a short last batch
    found = embeddings.read(folder)
    assert found.keys == [sample.key for sample in samples]
    assert found.captions == [caption for sample in samples for caption in sample.captions]
    np.testing.assert_array_equal(found.image_of_caption, np.repeat(np.arange(48), 2))
    arrays = [array for _, array in reading.decoded(samples, Counter())]
    np.testing.assert_allclose(found.image_embeddings, embed.images(model, arrays), atol=1e-5)
    np.testing.assert_allclose(found.caption_embeddings, embed.texts(model, found.captions), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.caption_embeddings, axis=1), 1, atol=1e-5)


def test_unfinished_embeddings_are_refused(model, toy_shards, tmp_path):
    folder = embeddings.write(model, shards.stream(toy_shards, "val"), tmp_path / "out")
    (folder / "embeddings.json").unlink()
    with pytest.raises(DataError, match="no finished embeddings"):
        embeddings.read(folder)


def test_broken_images_are_skipped_and_counted(model, tmp_path):
    array, captions = toy_sample(0)
    members = {"a.png": png(array), "a.txt": captions[0].encode(), "b.png": png(array)[:100], "b.txt": b"red"}
    write_tar(tmp_path / "data" / "test" / "0.tar", members)
    skipped = Counter()
    found = embeddings.read(
        embeddings.write(model, shards.stream(tmp_path / "data", "test", skipped=skipped), tmp_path / "e", skipped=skipped)
    )
    assert found.keys == ["a"] and sum(skipped.values()) == 1


def test_no_sample_at_all_is_an_error(model, tmp_path):
    with pytest.raises(DataError, match="no sample could be embedded"):
        embeddings.write(model, [], tmp_path / "e")


def test_images_of_other_sizes_are_resized(model):
    array, _ = toy_sample(3)
    large = np.kron(array, np.ones((3, 3, 1), np.uint8))
    close = embed.images(model, [array, large])
    assert close[0] @ close[1] > 0.99


def test_what_is_no_list_of_images_or_texts_says_so(model):
    array, _ = toy_sample(0)
    assert embed.images(model, []).shape == embed.texts(model, []).shape == (0, 48)
    assert embed.images(model, np.stack([array, array])).shape == (2, 48)
    for ask, says in [
        (lambda: embed.texts(model, "a beach"), "one text is given, 'a beach': expected a list"),
        (lambda: embed.images(model, array), r"one array of shape \(32, 32, 3\) is given: expected a list"),
        (lambda: embed.images(model, [array, array[..., 0]]), r"image 1 is uint8 of shape \(32, 32\): expected uint8"),
        (lambda: embed.images(model, [array / 255]), "image 0 is float64 of shape"),
    ]:
        with pytest.raises(DataError, match=says):
            ask()


class Counting:
    """An encoder of four dimensions that remembers what it was asked."""

    name, fingerprint, width, logit_scale = "counting", "f" * 64, 4, 7.5

    def __init__(self):
        self.asked, self.batches = [], []

    def images(self, arrays):
        self.batches.append(len(arrays))
        return np.stack([[*array.mean(axis=(0, 1)), 1] for array in arrays]).astype(np.float32)

    def texts(self, captions):
        self.asked += captions
        return np.array([[len(text), text.count(" "), ord(text[0]), 1] for text in captions], np.float32)


def shout(captions):
    return [caption.upper() for caption in captions]


def test_other_wordings_are_embedded_beside_the_captions_and_equal_texts_once(toy_shards, tmp_path):
    encoder, samples = Counting(), list(shards.stream(toy_shards, "test"))
    samples = samples + [replace(samples[0], key="again", captions=[samples[0].captions[0], "ON A ROOF"])]
    wordings = {"shouted": shout, "same": lambda captions: list(captions)}
    folder = embeddings.write(encoder, samples, tmp_path / "out", batch_size=7, texts=wordings)
    captions = [caption for sample in samples for caption in sample.captions]
    assert sorted(encoder.asked) == sorted({*captions, *shout(captions)})  # each once, over all batches
    assert max(encoder.batches) == 7
    for name, wording in {"": captions, "same": captions, "shouted": shout(captions)}.items():
        found = embeddings.read(folder, name)
        assert found.captions == captions
        expected = embed.unit(Counting().texts(wording), "")
        np.testing.assert_allclose(found.caption_embeddings, expected, atol=1e-6)
    with pytest.raises(DataError, match=r"no wording 'whispered' .*\['shouted', 'same'\]"):
        embeddings.read(folder, "whispered")
    with pytest.raises(DataError, match="0 texts for"):
        embeddings.write(encoder, samples, tmp_path / "out", texts={"lost": lambda captions: []})


def test_variants_in_memory_encode_equal_texts_once():
    encoder, captions = Counting(), ["a river", "a road", "a river"]
    found = embeddings.caption_variants(encoder, captions, {"plain": captions, "loud": ["A ROAD", "a road", "A RIVER"]})
    assert sorted(encoder.asked) == ["A RIVER", "A ROAD", "a river", "a road"]
    np.testing.assert_array_equal(found["plain"], embed.unit(Counting().texts(captions), ""))
    np.testing.assert_array_equal(found["plain"][0], found["plain"][2])
    np.testing.assert_array_equal(found["loud"][1], found["plain"][1])
    with pytest.raises(DataError, match="loud has 2 texts for 3"):
        embeddings.caption_variants(encoder, captions, {"loud": ["A", "B"]})
    assert embeddings.caption_variants(encoder, [], {"plain": []})["plain"].shape == (0, 4)


def test_labelled_images_are_written_and_read(tmp_path):
    items = [(f"{i}.png", png(toy_sample(i)[0]), i % 3) for i in range(11)]
    items[4] = ("4.png", items[4][1][:60], 1)
    skipped, encoder = Counter(), Counting()
    folder = embeddings.labelled(encoder, items, tmp_path / "e", class_names=["a", "b", "ä"], batch_size=4, skipped=skipped)
    found = embeddings.read_labelled(folder)
    assert found.keys == [f"{i}.png" for i in range(11) if i != 4]
    assert found.labels.tolist() == [i % 3 for i in range(11) if i != 4] and found.labels.dtype == np.int64
    expected = embed.unit(Counting().images([toy_sample(i)[0] for i in range(11) if i != 4]), "")
    np.testing.assert_allclose(found.image_embeddings, expected, atol=1e-6)
    assert (found.class_names, found.logit_scale, sum(skipped.values())) == (["a", "b", "ä"], 7.5, 1)
    with pytest.raises(DataError, match="without captions"):
        embeddings.read(folder)
    with pytest.raises(DataError, match=r"2.png has label 2: expected 0…1"):
        embeddings.labelled(encoder, items, tmp_path / "e", class_names=["a", "b"])
    with pytest.raises(DataError, match="no finished embeddings"):  # what was there is not taken for what was asked
        embeddings.read_labelled(folder)
    with pytest.raises(DataError, match="no image could be embedded"):
        embeddings.labelled(encoder, [], tmp_path / "e", class_names=["a"])


def test_an_embedding_that_is_no_direction_is_an_error(toy_shards, tmp_path):
    class Broken(Counting):
        def texts(self, captions):
            return super().texts(captions) * np.float32(np.nan)

    with pytest.raises(DataError, match="texts from .* embedded by counting: row 0 is NaN"):
        embeddings.write(Broken(), shards.stream(toy_shards, "val"), tmp_path / "e")
    with pytest.raises(DataError, match="no finished embeddings"):
        embeddings.read(tmp_path / "e")


@pytest.mark.parametrize("scale", [1e-30, 1, 1e25])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_unit_vectors(scale, kind):
    vectors = (np.random.default_rng(0).normal(size=(5, 7)) * (1 if kind is np.float16 else scale)).astype(kind)
    found = embed.unit(vectors, "")
    expected = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_embeddings_are_made_once_for_each_model_and_wording(model, toy_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path / "home"))
    saved = tmp_path / "model"
    model.save_pretrained(saved)
    model.tokenizer.save_pretrained(saved)
    folder = embeddings.load_or_embed(saved, toy_shards, "val", device="cpu")
    assert embeddings.load_or_embed(str(saved), toy_shards, "val") == folder
    assert embeddings.load_or_embed(embed.MammutEncoder(model, saved), toy_shards, "val") == folder
    expected = embed.texts(model, embeddings.read(folder).captions)
    np.testing.assert_allclose(embeddings.read(folder).caption_embeddings, expected, atol=1e-5)

    encoder = Counting()
    foreign = embeddings.load_or_embed(encoder, toy_shards, "val", texts={"shouted": shout})
    count = len(encoder.asked)
    assert embeddings.load_or_embed(encoder, toy_shards, "val", texts={"shouted": shout}) == foreign
    assert len(encoder.asked) == count and foreign != folder
    assert embeddings.load_or_embed(encoder, toy_shards, "val") != foreign
    assert embeddings.load_or_embed(encoder, toy_shards, "val", texts={"shouted": list}) != foreign
    with pytest.raises(ModelError, match="holds no weights"):
        embeddings.load_or_embed(tmp_path, toy_shards, "val")


def test_a_models_fingerprint_is_of_its_weights(model, tmp_path):
    first = embed.MammutEncoder(model).fingerprint
    with torch.no_grad():
        model.log_scale += 0.5
    other = embed.MammutEncoder(model).fingerprint
    with torch.no_grad():
        model.log_scale -= 0.5
    assert first != other and len(first) == 64


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_search_equals_sorting_everything(block):
    rng = np.random.default_rng(0)
    queries, gallery = rng.integers(-2, 3, (5, 4)).astype(np.float32), rng.integers(-2, 3, (50, 4)).astype(np.float32)
    scores, index = embeddings.search(queries, gallery, 6, block=block)
    full = queries @ gallery.T
    expected = np.lexsort((np.broadcast_to(np.arange(50), full.shape), -full), axis=1)[:, :6]  # ties: the lower row first
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(full, expected, 1))
