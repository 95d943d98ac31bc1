"""The lexicon's terms are found as they are meant, and the scorer learns and does not change."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rsvlm.data.web import lexicon
from rsvlm.errors import DataError

FILE = Path(lexicon.__file__).with_suffix(".json")

# Lexicon


def test_the_lexicon_is_in_order():
    data = json.loads(FILE.read_text())
    terms = [term for group in data["groups"] for term in group["terms"]]
    assert len(terms) == len(set(terms)) > 500 and all(group["about"] and group["weight"] for group in data["groups"])
    assert all(term == " ".join(term.lower().split()) for term in terms)


def test_every_term_is_found_whole_and_in_the_plural():
    data = json.loads(FILE.read_text())
    words = lexicon.lexicon()
    for group in data["groups"]:
        texts = [f"x {term} y" for term in group["terms"]]
        positive, negative, _ = lexicon.evidence(*lexicon.word_hashes(texts), words)
        found = positive if group["weight"] > 0 else negative
        assert (found >= min(abs(group["weight"]), lexicon.CAP) - 1e-6).all(), group["terms"][int(np.argmin(found))]
        if group["weight"] > 0 and not group.get("ground"):
            column = pa.compute.utf8_lower(pa.array([text.replace(" ", "-") for text in texts], pa.large_string()))
            assert pa.compute.all(pa.compute.match_substring_regex(column, words.gate)).as_py()
    one, many = (lexicon.evidence(*lexicon.word_hashes([text]), words)[0] for text in ("satellite image", "satellite images"))
    assert one == many > 0
    assert lexicon.evidence(*lexicon.word_hashes(["unsatellites imaged"]), words)[0] == 0


def test_evidence_does_not_reach_over_texts():
    positive, _, _ = lexicon.evidence(*lexicon.word_hashes(["x blue", "marble y", "", "blue marble"]), lexicon.lexicon())
    assert positive.tolist()[:3] == [0, 0, 0] and positive[3] > 0


def test_words_of_the_ground_count_only_so_much_and_open_no_gate():
    words = lexicon.lexicon()
    texts = ["harbour", "harbour river village coast", "from above", "harbour river village coast from above"]
    positive, _, languages = lexicon.evidence(*lexicon.word_hashes(texts), words)
    one, many, view, both = positive.tolist()
    assert 0 < one < many == lexicon.GROUND_CAP and both == view + many and languages[:2] == ["", ""]
    assert not re.search(words.gate, texts[1]) and re.search(words.gate, texts[2])


def test_the_gate_is_small_enough_to_be_quick():
    """Beyond some size of the pattern, a hundred thousand texts take seconds."""
    column = pa.array([f"some words {number} about my cat and the garden in spring" for number in range(100_000)])
    start = time.process_time()
    assert not pa.compute.any(pa.compute.match_substring_regex(column, lexicon.lexicon().gate)).as_py()
    assert time.process_time() - start < 0.5


def test_what_is_no_lexicon_says_so(tmp_path):
    groups = [{"about": "x", "language": "en", "weight": 4, "terms": ["a b c d e f"]}]
    for bad in ("{", "[]", '{"groups": []}', json.dumps(json.loads(FILE.read_text()) | {"groups": groups})):
        path = tmp_path / f"bad{len(bad)}.json"
        path.write_text(bad)
        with pytest.raises(DataError, match="bad"):
            lexicon.lexicon(path)


# Scorer


def test_words_and_phrases_are_those_of_a_plain_loop():
    texts = ["The quick-brown fox, the FOX", "", "über 2 Häuser's", "..."]
    hashes, starts = lexicon.word_hashes(texts)
    assert np.diff(starts).tolist() == [6, 0, 4, 0]
    names = ["the", "quick", "brown", "fox", "the", "fox", "über", "2", "häuser", "s"]
    assert len({(name, value) for name, value in zip(names, hashes.tolist())}) == len(set(names)) == len(set(hashes.tolist()))
    values, text = lexicon._phrases(hashes, starts, 2)
    assert text.tolist() == [0] * 5 + [2] * 3 and len(set(values.tolist())) == 8
    assert lexicon._phrases(hashes, starts, 7)[0].size == 0


def test_the_gradient_leads_to_the_minimum():
    """The loss at the fitted weights is lower than at any weights nearby."""
    texts, labels = lexicon.seed_texts(200, seed=3)
    words, labels = lexicon.lexicon(), np.array(labels, float)
    features = lexicon._features(texts, words)
    fitted = lexicon.train(texts, labels, steps=3000).weights.astype(float)

    def loss(weights):
        p = np.clip(1 / (1 + np.exp(-features.times(weights))), 1e-12, 1 - 1e-12)
        fit = -0.5 * (np.log(p[labels > 0]).mean() + np.log(1 - p[labels == 0]).mean())
        return fit + 0.5 * (1e-3 * (weights[: lexicon.HASHED] ** 2).sum() + 1e-5 * (weights[lexicon.HASHED :] ** 2).sum())

    rng = np.random.default_rng(0)
    used = np.append(np.unique(features.place), lexicon.HASHED + np.arange(3))
    for _ in range(20):
        nearby = fitted.copy()
        nearby[used] += rng.normal(0, 0.1, len(used))
        assert loss(nearby) > loss(fitted)


def test_sentences_not_seen_are_scored():
    texts, labels = lexicon.seed_texts(600, seed=9)
    correct = (lexicon.score(texts, lexicon.default_scorer()) > 0.5) == np.array(labels)
    assert correct.mean() > 0.97


def test_a_scorer_learns_what_it_is_told():
    texts = ["aerial view of red doors", "aerial view of blue lamps"] * 20
    scorer = lexicon.train(texts, [True, False] * 20)
    red, blue = lexicon.score(["red doors here", "blue lamps here"], scorer)
    assert red > 0.5 > blue
    with pytest.raises(DataError, match="both kinds"):
        lexicon.train(["a", "b"], [True, True])
    with pytest.raises(DataError, match="both kinds"):
        lexicon.train(["a", "b"], [True])


def test_another_process_gives_the_same_scores():
    """Hashes do not depend on the seed of Python's own."""
    program = "from rsvlm.data.web import lexicon; print(lexicon.score(['Aerial view of Rome'], lexicon.train(*lexicon.seed_texts(60, 0))).tobytes().hex())"
    runs = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout for _ in range(2)
    }
    assert len(runs) == 1
