"""Text to ids and back."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rsvlm.errors import DataError, ModelError
from rsvlm.model import tokenizer

CAPTIONS = ["Dark green land in the north.", "Sea to the southwest covers about a third.", "Two islands, São Tomé nearby."]


@pytest.fixture(scope="module")
def trained():
    return tokenizer.train(CAPTIONS * 10, vocabulary_size=400, context_length=32)


def test_encoding_is_bos_pieces_eos_and_pads_on_the_right(trained):
    tokens = tokenizer.encode(trained, ["Dark green land", "land"])
    assert tokens.dtype == np.int64
    assert (tokens[:, 0] == tokenizer.BOS_ID).all()
    ends = [list(row).index(tokenizer.EOS_ID) for row in tokens]
    assert ends[0] == tokens.shape[1] - 1 > ends[1]
    assert (tokens[1, ends[1] + 1 :] == tokenizer.PAD_ID).all()
    assert (tokens[0] != tokenizer.PAD_ID).all()


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=6))
def test_any_text_comes_back(trained, text):
    assert tokenizer.decode(trained, tokenizer.encode(trained, [text])) == [text]


def test_long_texts_are_cut_and_counted(trained, caplog):
    with caplog.at_level(logging.WARNING):
        tokens = tokenizer.encode(trained, ["green " * 100, "green"])
    assert tokens.shape == (2, 32)
    assert tokens[0, -1] == tokenizer.EOS_ID
    assert "1 of 2 texts were cut to 32 tokens" in caplog.text


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_an_error(trained, text):
    with pytest.raises(DataError, match="text 1 of 2 is empty"):
        tokenizer.encode(trained, ["green", text])


def test_saved_and_loaded_give_the_same_ids(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    again = tokenizer.load(tmp_path)
    np.testing.assert_array_equal(tokenizer.encode(again, CAPTIONS), tokenizer.encode(trained, CAPTIONS))
    assert again.model_max_length == 32


def test_training_is_deterministic(trained):
    again = tokenizer.train(CAPTIONS * 10, vocabulary_size=400, context_length=32)
    assert again.get_vocab() == trained.get_vocab()


def test_no_captions_is_an_error():
    with pytest.raises(DataError, match="no caption"):
        tokenizer.train([], 400, 32)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ModelError, match="tokenizer.json is missing"):
        tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(ModelError, match="cannot be read"):
        tokenizer.load(tmp_path)
