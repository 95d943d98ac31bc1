"""The words by which a text tells that it is about the ground seen from above, and a scorer that learns from them.

The lexicon (`lexicon.json`) lists phrases with a weight and a language, for and against. Texts become hashes of their words, whole
columns at a time; phrases are looked up among them, and a small logistic regression on hashed words, with the lexicon's evidence
beside them, gives each text a relevance. Where no scorer is given, one is trained on sentences made from the lexicon's templates.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rsvlm.errors import DataError

HASHED = 1 << 15
"""Weights of hashed words and pairs of words in a scorer."""

CAP = 8.0
"""Largest sum of lexicon weights on either side: a text does not get better by repetition."""

GROUND_CAP = 3.0
"""Largest part of it that words of the ground have: they say what is seen, not from where."""


@dataclass(frozen=True)
class Lexicon:
    """The words of `lexicon.json`: hashed phrases with weight and language, patterns, and sentences to learn from."""

    phrases: np.ndarray
    weights: np.ndarray
    ground: np.ndarray  # whether a phrase is a word of the ground
    languages: tuple[str, ...]
    gate: str
    boilerplate: re.Pattern
    opening: re.Pattern
    sites: re.Pattern
    function_words: dict
    seeds: dict


@dataclass(frozen=True)
class Scorer:
    """A logistic regression: `weights`, `(HASHED + 3,)` float32: hashed words, lexicon for, lexicon against, constant."""

    weights: np.ndarray


@functools.cache
def lexicon(path: Path | None = None) -> Lexicon:
    """Read a lexicon; the texts in `lexicon.json` say what its parts mean.

    Args:
        path: File of the same form. If None, the package's own.

    Raises:
        DataError: The file is missing or of another form.
    """
    path = Path(path) if path else Path(__file__).with_name("lexicon.json")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        groups = [(group, bool(group.get("ground"))) for group in data["groups"]]
        rows = [(term, float(group["weight"]), group["language"], at) for group, at in groups for term in group["terms"]]
        parts = {name: list(data["boilerplate"][name]) for name in ("anywhere", "start", "labels", "sites")}
        seeds = data["seeds"]
        function_words = {code: frozenset(words) for code, words in data["function_words"].items() if code != "about"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        form = "see rsvlm/data/web/lexicon.json for the form"
        raise DataError(f"{path} is no lexicon ({type(error).__name__}: {error}): {form}") from error
    rows += [(f"{term}s", *rest) for term, *rest in rows if not term.endswith("s")]
    hashes, starts = word_hashes([term for term, *_ in rows])
    lengths = np.diff(starts)
    if len(wrong := np.flatnonzero((lengths < 1) | (lengths > 5))):
        raise DataError(f"{path}: the term {rows[wrong[0]][0]!r} must have one to five words")
    phrases = np.zeros(len(rows), np.uint64)
    for length in range(1, 6):
        values, text = _phrases(hashes, starts, length)
        # A term of this many words is the one phrase of its length.
        whole = lengths[text] == length
        phrases[text[whole]] = values[whole]
    order = np.unique(phrases, return_index=True)[1]
    weights = np.array([rows[i][1] for i in order], np.float32)
    ground = np.array([rows[i][3] for i in order], bool)
    gate = _gate([term for term, weight, _, on_ground in rows if weight > 0 and not on_ground])
    anywhere, start, labels, sites = map(_either, parts.values())
    patterns = (
        rf"\b{anywhere}\b[.!:]?",
        rf"(?:{start}\b[\s:.-]*|{labels}(?:\s?#?\d{{1,4}}\s?[.:)-]|\s?:))\s*(?=\S)",
        rf"\s*(?:[-–—|•»:·]|\bby|\bon|\bfrom|\bat|\bvia)\s+{sites}(?:\.com|\.org)?\s*$",
    )
    patterns = [re.compile(pattern, re.IGNORECASE) for pattern in patterns]
    languages = tuple(rows[i][2] for i in order)
    return Lexicon(phrases[order], weights, ground, languages, gate, *patterns, function_words, seeds)


def _either(phrases: Sequence[str]) -> str:
    longest_first = sorted(phrases, key=len, reverse=True)
    return "(?:" + "|".join(re.escape(phrase).replace(r"\ ", r"[\s-]+") for phrase in longest_first) + ")"


def _gate(terms: Sequence[str]) -> str:
    """One pattern that hits whatever holds a term; longer terms that hold a shorter one are not needed."""
    needed: list[str] = []
    for term in sorted(set(terms), key=lambda term: (len(term), term)):
        if not any(shorter in term for shorter in needed):
            needed.append(term)
    # Unlimited, unlike a count, keeps the pattern small: beyond some size RE2 is a hundred times slower.
    return "|".join(r"\W+".join(map(re.escape, term.split())) for term in needed)


# Words, phrases, features

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_LARGE = pa.large_string()


def strings(values: Sequence | pa.Array, kind: pa.DataType = _LARGE) -> pa.Array:
    """Make a column of texts; half characters and broken UTF-8 become the sign for what is lost, null stays null."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    try:
        return pa.array(values, kind)
    except (UnicodeEncodeError, pa.ArrowException):
        # Half a character, or bytes that are no UTF-8.
        whole = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
        whole = [v and v.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for v in whole]
        return pa.array(whole, kind)


def word_hashes(texts: Sequence[str] | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Split texts into words of letters and digits, in lower case.

    Returns:
        `(W,)` uint64, a hash of each word, and `(N + 1,)` int64, where each text's words start.
    """
    column = pc.utf8_lower(strings(texts))
    column = pc.utf8_trim_whitespace(pc.replace_substring_regex(column, r"[^\pL\pN\pM]+", " "))
    lists = pc.split_pattern(column, " ")
    starts = np.asarray(lists.offsets).astype(np.int64)
    flat = lists.flatten()
    filled = pc.not_equal(flat, "").to_numpy(zero_copy_only=False)
    # An empty text splits into one empty word.
    starts = np.concatenate([[0], np.cumsum(filled)])[starts - starts[0]]
    coded = pc.dictionary_encode(flat.filter(pa.array(filled)))
    hashes = pd.util.hash_array(np.array(coded.dictionary.to_pylist(), object), categorize=False)
    return hashes[coded.indices.to_numpy()] if len(coded) else np.zeros(0, np.uint64), starts


def _phrases(hashes: np.ndarray, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash every run of `length` words that stays within a text, and tell which text it is in."""
    count = max(len(hashes) - length + 1, 0)
    text = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    inside = text[:count] == text[length - 1 :][:count] if count else np.zeros(0, bool)
    values = np.full(count, length, np.uint64)
    for offset in range(length):
        values = (values ^ hashes[offset : offset + count]) * _MULTIPLIER
        values ^= values >> np.uint64(29)
    return values[inside], text[:count][inside]


def evidence(hashes: np.ndarray, starts: np.ndarray, words: Lexicon) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Sum up the lexicon's weights in texts, each term once, up to `CAP`, and those of the ground up to `GROUND_CAP`.

    Args:
        hashes: Words of the texts, from `word_hashes`.
        starts: Where each text's words start, from `word_hashes`.
        words: The lexicon.

    Returns:
        The sums for and against, `(N,)` float32 each, and the language of each text's strongest term, or empty.
    """
    rows, terms = [], []
    for length in range(1, 6):
        values, text = _phrases(hashes, starts, length)
        place = np.minimum(np.searchsorted(words.phrases, values), len(words.phrases) - 1)
        hit = words.phrases[place] == values
        rows.append(text[hit])
        terms.append(place[hit])
    pairs = np.unique(np.stack([np.concatenate(rows), np.concatenate(terms)]), axis=1)
    weights = words.weights[pairs[1]]
    count = len(starts) - 1
    ground = words.ground[pairs[1]]
    parts = (np.where(ground, 0, weights), np.where(ground, weights, 0), -weights)
    views, seen, negative = (np.bincount(pairs[0], np.maximum(part, 0), minlength=count) for part in parts)
    positive = np.minimum(views + np.minimum(seen, GROUND_CAP), CAP).astype(np.float32)
    negative = np.minimum(negative, CAP).astype(np.float32)
    strongest = [""] * count
    for position in np.argsort(weights, kind="stable"):
        if weights[position] > 0 and words.languages[pairs[1, position]]:
            strongest[pairs[0, position]] = words.languages[pairs[1, position]]
    return positive, negative, strongest


@dataclass(frozen=True)
class _Features:
    """Texts as sparse rows: places of weights, the text of each, its value; and three dense columns."""

    place: np.ndarray
    text: np.ndarray
    value: np.ndarray
    dense: np.ndarray

    def times(self, weights: np.ndarray) -> np.ndarray:
        sums = np.bincount(self.text, self.value * weights[self.place], minlength=len(self.dense))
        return sums + self.dense @ weights[HASHED:]


def _features(texts: Sequence[str], words: Lexicon) -> _Features:
    hashes, starts = word_hashes(texts)
    positive, negative, _ = evidence(hashes, starts, words)
    values, text = map(np.concatenate, zip(*(_phrases(hashes, starts, length) for length in (1, 2))))
    place = ((values >> np.uint64(40)) % np.uint64(HASHED)).astype(np.int64)
    counts = np.maximum(np.bincount(text, minlength=len(starts) - 1), 1)
    dense = np.stack([positive / CAP, negative / CAP, np.ones(len(positive))], axis=1)
    return _Features(place, text, (1 / np.sqrt(counts))[text], dense)


# The scorer


def train(
    texts: Sequence[str], labels: Sequence[bool], words: Lexicon | None = None, strength: float = 1e-3, steps: int = 300
) -> Scorer:
    """Fit a scorer to labelled texts, deterministically.

    Args:
        texts: Cleaned texts.
        labels: Whether each describes an image of the ground taken from above.
        words: Lexicon of the evidence. If None, the package's own.
        strength: Weight of the squared hashed weights in the loss; the lexicon's two are free.
        steps: Steps of accelerated gradient descent on all texts.

    Raises:
        DataError: Not as many labels as texts, or only one kind of label.

    Source: logistic regression on hashed words (Weinberger et al. 2009); that the lexicon is part of it is our choice.
    """
    labels = np.asarray(labels, np.float64)
    if len(texts) != len(labels) or len(np.unique(labels)) != 2:
        sizes = f"{len(texts)} texts, {len(labels)} labels"
        raise DataError(f"training needs one label for each text, and both kinds: got {sizes}")
    features = _features(texts, words or lexicon())
    weights, ahead = np.zeros(HASHED + 3), np.zeros(HASHED + 3)
    penalty = np.full(HASHED + 3, strength)
    penalty[HASHED:] = 1e-5
    # The two kinds count alike, however many there are of each.
    share = np.where(labels > 0, 0.5 / labels.sum(), 0.5 / (len(labels) - labels.sum()))
    # Rows of hashed values have length one; the dense columns bound the curvature.
    rate = 4.0 / (1.0 + 2 * (features.dense**2).sum(axis=1).mean())
    for step in range(1, steps + 1):
        error = share * (_sigmoid(features.times(ahead)) - labels)
        gradient = penalty * ahead
        gradient[:HASHED] += np.bincount(features.place, features.value * error[features.text], minlength=HASHED)
        gradient[HASHED:] += error @ features.dense
        before, weights = weights, ahead - rate * gradient
        ahead = weights + (step - 1) / (step + 2) * (weights - before)
    return Scorer(weights.astype(np.float32))


def score(texts: Sequence[str], scorer: Scorer, words: Lexicon | None = None) -> np.ndarray:
    """Score texts for how likely they describe an image of the ground taken from above.

    Args:
        texts: Cleaned texts.
        scorer: From `train` or `default_scorer`.
        words: Lexicon of the evidence. If None, the package's own.

    Returns:
        `(N,)`, float32, 0 to 1.
    """
    if not len(texts):
        return np.zeros(0, np.float32)
    return _sigmoid(_features(texts, words or lexicon()).times(scorer.weights)).astype(np.float32)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -40, 40)))


@functools.cache
def default_scorer() -> Scorer:
    """Train the scorer that is used when none is given: on sentences made from the lexicon's templates, in under a second."""
    texts, labels = seed_texts(4000, seed=0)
    return train(texts, labels)


def seed_texts(count: int, seed: int, words: Lexicon | None = None) -> tuple[list[str], list[bool]]:
    """Make labelled sentences from the templates of the lexicon, half of each kind.

    Args:
        count: Number of sentences.
        seed: Seed of the choice of templates and fillings.
        words: Lexicon with the templates. If None, the package's own.
    """
    seeds = (words or lexicon()).seeds
    generator = np.random.default_rng([seed, 0x7E87])
    texts = []
    for index in range(count):
        templates = seeds["relevant" if index % 2 == 0 else "other"]
        filling = {name: values[generator.integers(len(values))] for name, values in seeds["slots"].items()}
        text = templates[generator.integers(len(templates))].format_map(filling)
        texts.append(text[:1].upper() + text[1:])
    return texts, [index % 2 == 0 for index in range(count)]
