"""Embeddings on disk and exact search."""

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import png, toy_sample, write_tar

from rsvlm import embed, mammut, shards, tokenizer
from rsvlm.errors import DataError


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
    folder = embed.write(model, samples, tmp_path / "out", batch_size=7)  # 48 images: a short last batch
    found = embed.read(folder)
    assert found.keys == [sample.key for sample in samples]
    assert found.captions == [caption for sample in samples for caption in sample.captions]
    np.testing.assert_array_equal(found.image_of_caption, np.repeat(np.arange(48), 2))
    arrays = [array for _, array in embed.decoded(samples, Counter())]
    np.testing.assert_allclose(found.image_embeddings, embed.images(model, arrays), atol=1e-5)
    np.testing.assert_allclose(found.caption_embeddings, embed.texts(model, found.captions), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.caption_embeddings, axis=1), 1, atol=1e-5)


def test_unfinished_embeddings_are_refused(model, toy_shards, tmp_path):
    folder = embed.write(model, shards.stream(toy_shards, "val"), tmp_path / "out")
    (folder / "embeddings.json").unlink()
    with pytest.raises(DataError, match="no finished embeddings"):
        embed.read(folder)


def test_broken_images_are_skipped_and_counted(model, tmp_path):
    array, captions = toy_sample(0)
    members = {"a.png": png(array), "a.txt": captions[0].encode(), "b.png": png(array)[:100], "b.txt": b"red"}
    write_tar(tmp_path / "data" / "test" / "0.tar", members)
    skipped = Counter()
    found = embed.read(
        embed.write(model, shards.stream(tmp_path / "data", "test", skipped=skipped), tmp_path / "e", skipped=skipped)
    )
    assert found.keys == ["a"] and sum(skipped.values()) == 1


def test_no_sample_at_all_is_an_error(model, tmp_path):
    with pytest.raises(DataError, match="no sample could be embedded"):
        embed.write(model, [], tmp_path / "e")


def test_images_of_other_sizes_are_resized(model):
    array, _ = toy_sample(3)
    large = np.kron(array, np.ones((3, 3, 1), np.uint8))
    close = embed.images(model, [array, large])
    assert close[0] @ close[1] > 0.99


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_search_equals_sorting_everything(block):
    rng = np.random.default_rng(0)
    queries, gallery = rng.integers(-2, 3, (5, 4)).astype(np.float32), rng.integers(-2, 3, (50, 4)).astype(np.float32)
    scores, index = embed.search(queries, gallery, 6, block=block)
    full = queries @ gallery.T
    expected = np.lexsort((np.broadcast_to(np.arange(50), full.shape), -full), axis=1)[:, :6]  # ties: the lower row first
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(full, expected, 1))
