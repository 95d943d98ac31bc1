"""Words for Itaipu's labels, and how well pictures fit them."""

from __future__ import annotations

import numpy as np
import pytest

from rsvlm.book import itaipu_words


class Encoder:
    """Sees the brightness of a picture and of its upper half, and reads how many letters a text has; all vectors lean to one side."""

    def __init__(self):
        self.read = []

    def images(self, pictures):
        return np.array([[picture.mean() / 255, 1.0, 3.0, picture[:2].mean() / 255] for picture in pictures])

    def texts(self, sentences):
        self.read.append(sentences)
        return np.array([[len(text) / 50, 1.0, 3.0, 0.5] for text in sentences])


def test_the_words_are_for_the_labels_in_their_order():
    itaipu = pytest.importorskip("rsvlm.data.demo.itaipu", reason="the extra [data] is not installed")
    assert tuple(itaipu_words.WORDS) == itaipu.LABELS


def test_a_picture_is_compared_with_every_word_in_every_sentence():
    encoder = Encoder()
    pictures = np.random.default_rng(0).integers(0, 255, (70, 4, 4, 3), np.uint8)  # more than are embedded at once
    scores = itaipu_words.cosines(encoder, pictures)
    assert scores.shape == (70, len(itaipu_words.WORDS)) and (np.abs(scores) <= 1 + 1e-6).all()
    assert [len(part) for part in encoder.read] == [4 * len(words) for words in itaipu_words.WORDS.values()]
    assert np.allclose(itaipu_words.cosines(encoder, pictures[65:]), scores[65:])


def test_which_way_is_up_makes_no_difference_unless_it_is_asked_for():
    pictures = np.random.default_rng(0).integers(0, 255, (5, 4, 4, 3), np.uint8)
    upside_down = pictures[:, ::-1]
    seen = itaipu_words.cosines(Encoder(), pictures)
    assert np.allclose(itaipu_words.cosines(Encoder(), upside_down), seen)
    as_it_is = itaipu_words.cosines(Encoder(), pictures, turned=False)
    assert not np.allclose(itaipu_words.cosines(Encoder(), upside_down, turned=False), as_it_is)


def test_labels_are_judged_against_each_other():
    scores = np.array([[0.9, 0.8, 0.7], [0.3, 0.1, 0.2]])
    told = itaipu_words.contrast(scores)
    assert np.allclose(told.mean(axis=1), 0) and told.argmax(axis=1).tolist() == scores.argmax(axis=1).tolist()
    # A picture that is near every text stands behind one that is nearer to this text than to others.
    assert scores[0, 0] > scores[1, 0] and np.allclose(told[:, 0], [0.1, 0.1])
