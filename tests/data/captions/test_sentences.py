"""Sentences are joined as English joins them, and are no longer than a caption may be."""

from rsvlm.data.captions import sentences


def test_list_words():
    assert sentences.list_words(["a"]) == "a"
    assert sentences.list_words(["a", "b"]) == "a and b"
    assert sentences.list_words(["a", "b", "c"]) == "a, b and c"


def test_sentences_fit_and_empty_ones_are_left_out():
    assert sentences.sentence("a lake lies here") == "A lake lies here."
    long = " ".join(["word"] * (sentences.MAX_WORDS - 2))
    assert sentences.fit([long, "", "Three more words.", "Two more."]) == f"{long} Two more."
    assert sentences.fit([]) == ""
