"""Who reads sentences passes, who reads colours alone or nothing at all fails: each measure told by models that are known."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from rsvlm.errors import DataError
from rsvlm.evaluation import reading, words

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250), "black": (5, 5, 5)}
NAMES = list(COLOURS)
PLACES = {"northwest": (0, 0), "northeast": (0, 1), "southwest": (1, 0), "southeast": (1, 1)}
WAYS = tuple(PLACES)


def picture(colours: list[str]) -> np.ndarray:
    """Four quarters in colours, 8 × 8 pixels."""
    image = np.empty((8, 8, 3), np.uint8)
    for colour, (row, column) in zip(colours, PLACES.values(), strict=True):
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = COLOURS[colour]
    return image


def sentence(colours: list[str]) -> str:
    return ". ".join(f"{colour} in the {place}" for colour, place in zip(colours, PLACES, strict=True))


class Reader:
    """Knows the colours of pictures and of sentences, and, with `places`, where each colour is."""

    def __init__(self, places: bool):
        self.places = places

    def images(self, arrays):
        quarters = [[NAMES.index(name_of(a[4 * r + 1, 4 * c + 1])) for r, c in PLACES.values()] for a in arrays]
        return np.stack([self.vector(list(enumerate(row))) for row in quarters])

    def texts(self, captions):
        pattern = re.compile(rf"({'|'.join(NAMES)})\b(?:[^.]*?\b({'|'.join(WAYS)}))?", re.IGNORECASE)
        return np.stack(
            [
                self.vector(
                    [
                        (WAYS.index(place) if place else -1, NAMES.index(colour))
                        for colour, place in pattern.findall(text.lower())
                    ]
                )
                for text in captions
            ]
        )

    def vector(self, places):
        table = np.zeros((4, 5))
        for place, colour in places:
            if place < 0 or not self.places:
                table[:, colour] += 0.25
            else:
                table[place, colour] += 1
        return np.append(table.ravel(), 1e-3).astype(np.float32)


def name_of(pixel) -> str:
    return min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - pixel).sum())


class Guesser:
    """Gives every picture and text a vector of its own."""

    def images(self, arrays):
        return np.stack([np.random.default_rng(list(a.tobytes()[::7])).normal(size=16) for a in arrays])

    def texts(self, captions):
        return np.stack([np.random.default_rng(list(text.encode())).normal(size=16) for text in captions])


@pytest.fixture(scope="module")
def chips():
    orders = list(itertools.permutations(NAMES, 4))
    return [list(orders[i]) for i in np.random.default_rng(0).permutation(len(orders))[:60]]


def value(rows, metric, direction=None, protocol=None):
    of = [
        r for r in rows if r["metric"] == metric and direction in (None, r["direction"]) and protocol in (None, r["protocol"])
    ]
    assert len(of) == 1, [row["protocol"] for row in of]
    return of[0]


# Directions


def test_a_sentence_tells_all_turns_only_if_their_meanings_differ():
    left_out = Counter()
    assert reading.telling(["Sea in the north.", "Sea in the north, a lake in the west."], left_out)[2].startswith(
        "Sea in the west"
    )
    for caption, reason in {
        "sea to the east": reading.NOT_TOLD,  # as true after a flip
        "green in the north and south, a lake in the east": reading.NOT_TOLD,  # only another order
        "A road from the north to the south. A lake in the east.": reading.NOT_TOLD,
        "A lake in the north. A lake in the south. A hill in the west.": reading.NOT_TOLD,
        "a river": reading.NOT_TOLD,
        "North Korea": reading.NOT_TURNED,
    }.items():
        left_out.clear()
        assert reading.telling([caption], left_out) is None and left_out == {reason: 1}, caption
    assert reading.telling([]) is None


@pytest.mark.parametrize(
    ("model", "low", "high"), [(Reader(places=True), 100, 100), (Reader(places=False), 0, 0), (Guesser(), 2, 27)]
)
def test_directions_are_known_to_who_reads_places_alone(chips, model, low, high):
    sentences = [reading.telling([sentence(chip)]) for chip in chips]
    turned = reading.turned_vectors(model, [picture(chip) for chip in chips])
    rows = reading.directions(turned, sentences, model.texts, dataset="toy", bootstrap_samples=200)
    for direction in ("t2i", "i2t"):
        row = value(rows, "directions", direction)
        assert low <= row["value"] <= high and row["chance"] == 12.5 and row["n"] == 60, row
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        pairs = [value(rows, f"directions[{name}]", direction) for name in reading.TURNS[1:]]
        assert all(pair["chance"] == 50 for pair in pairs)
        assert np.mean([pair["value"] for pair in pairs]) == pytest.approx(50 if low == 2 else low, abs=15)
    copied = np.repeat(turned, 3, axis=0), [one for one in sentences for _ in range(3)]
    if low == 2:
        widths = []
        for blocks in (None, np.repeat(np.arange(60), 3)):
            row = reading.directions(*copied, model.texts, bootstrap_samples=300, blocks=blocks)[0]
            widths.append(row["ci_high"] - row["ci_low"])
        assert widths[1] > 1.3 * widths[0]


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match=r"expected \(N, 8, E\)"):
        reading.directions(np.ones((1, 4, 3), np.float32), [["a"] * 8], Guesser().texts)


def test_eight_turns_have_eight_names():
    assert len(set(reading.TURNS)) == 8 and reading.TURNS[:3] == ("as it is", "mirrored", "turned 90°")


# Ablation


def ablated(model, chips, ties="pessimistic"):
    captions, owners = [], []
    for number, chip in enumerate(chips):
        captions += [sentence(chip), "another caption"]
        owners += [number, number]
    vectors = model.images([picture(chip) for chip in chips]).astype(np.float32)
    return reading.ablation(vectors, captions, np.array(owners), model.texts, ks=(1, 5), ties=ties, bootstrap_samples=200)


def test_who_reads_colours_alone_loses_with_colours_and_with_nothing_else(chips):
    rows = [
        row | {"protocol": row["protocol"].replace(" (average ties)", "")}
        for row in ablated(Reader(places=False), chips, ties="average")  # each palette is there several times
    ]
    usual = value(rows, "mR", protocol="one-to-one")["value"]
    assert usual > 20
    for change, loses in {
        "colours removed": True,
        "colours all alike": True,
        "directions swapped": False,
        "east for west": False,
    }.items():
        gap = value(rows, "mR", protocol=f"one-to-one: {change} - unchanged")
        assert gap["value"] == pytest.approx(value(rows, "mR", protocol=f"one-to-one: {change}")["value"] - usual)
        assert (gap["ci_high"] < -1e-6) == loses and gap["chance"] is None, change
        assert loses or gap["value"] == pytest.approx(0, abs=1e-6)
    changed = {row["protocol"]: row["value"] for row in rows if row["metric"] == "captions_changed"}
    assert changed["one-to-one: colours removed"] == 100 and changed["one-to-one: counts removed"] == 0


def test_who_reads_places_loses_with_each_of_them_and_with_order(chips):
    rows = ablated(Reader(places=True), chips)
    assert value(rows, "R@1", "t2i", "one-to-one")["value"] > 70
    for change in ("colours removed", "directions removed", "directions swapped", "east for west", "order shuffled"):
        assert value(rows, "mR", protocol=f"one-to-one: {change} - unchanged")["ci_high"] < 0, change
    control = value(rows, "mR", protocol="one-to-one: directions kept, as many others removed - unchanged")
    assert control["value"] == 0, "other words are not read"
    assert value(rows, "mR", protocol="one-to-one: counts removed - unchanged")["value"] == 0


def test_who_guesses_has_nothing_to_lose(chips):
    rows = ablated(Guesser(), chips)
    gaps = [row for row in rows if row["protocol"].endswith("- unchanged") and row["metric"] == "mR"]
    assert len(gaps) == len(words.changes()) and sum(row["ci_low"] <= 0 <= row["ci_high"] for row in gaps) > 0.8 * len(gaps)


def test_a_change_must_keep_the_number_and_a_protocol_that_pools_is_refused(chips):
    arguments = np.eye(2, dtype=np.float32), ["a", "b"], np.arange(2), Guesser().texts
    with pytest.raises(DataError, match="'none' made 0 of 2"):
        reading.ablation(*arguments, changes={"none": lambda captions, rng: []}, ks=(1,))
    with pytest.raises(DataError, match="pools equal captions"):
        reading.ablation(*arguments, protocol="skyscript")


# Negation

THINGS = ("river", "city", "island")


def denied(read_no: bool):
    def texts(captions):
        of = np.array([[float(name in text) for name in THINGS] for text in captions])
        no = np.array([[-1.0 if read_no and re.search(r"\bno\b|without", text) else 1.0] for text in captions])
        return np.hstack([of * no, np.full((len(of), 1), 0.1)]).astype(np.float32)

    return texts


def asked(texts, **how):
    shown = (np.random.default_rng(0).random((80, 3)) < (0.5, 0.3, 0.7)).astype(float)
    images = np.hstack([2 * shown - 1, np.full((80, 1), 0.1)]).astype(np.float32)
    return reading.negation(images, THINGS, shown, texts, bootstrap_samples=100, **how), shown


def test_who_reads_no_answers_rightly_and_who_does_not_is_at_half_or_below():
    rows, _ = asked(denied(read_no=True))
    assert all(value(rows, metric)["value"] == 100 for metric in ("negation", "negation[river]", "auc_with", "auc_without"))
    rows, _ = asked(denied(read_no=False))
    assert value(rows, "negation")["value"] == 0, "the two sentences are equal, and ties are errors"
    assert value(rows, "auc_with")["value"] == 100 and value(rows, "auc_without")["value"] == 0
    rows, _ = asked(Guesser2())
    row = value(rows, "negation")
    assert row["value"] == pytest.approx(50, abs=20) and row["chance"] == 50


class Guesser2:
    """Always prefers the same of the two sentences."""

    def __call__(self, captions):
        vectors = np.random.default_rng(1).normal(size=(len(captions), 4))
        vectors[:, 3] = [50.0 if re.search(r"\bno\b|without", text) else -50.0 for text in captions]
        return vectors.astype(np.float32)


def test_who_always_says_no_has_half():
    rows, _ = asked(Guesser2())
    assert value(rows, "negation[without]")["value"] == 100 and value(rows, "negation[with]")["value"] == 0
    assert value(rows, "negation")["value"] == 50


def test_things_that_few_show_and_unknown_ones_are_left_out():
    shown = np.full((20, 3), np.nan)
    shown[:10, 0], shown[:3, 1] = np.arange(10) % 2, 1
    images = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    rows = reading.negation(images, THINGS, shown, denied(True), bootstrap_samples=20)
    assert [row["metric"] for row in rows if row["metric"].startswith("negation[")][2:] == ["negation[river]"]
    with pytest.raises(DataError, match="nothing of river, city, island"):
        reading.negation(images, THINGS, np.full((20, 3), np.nan), denied(True))


def test_records_tell_what_is_shown_and_what_not():
    marks = [[{"category": "river"}, {"category": "city", "visible": False}], [{"category": "lake"}], []]
    names, shown = reading.labels([{"landmarks": of} for of in marks])
    assert names == ["lake", "river"] and shown.tolist() == [[0, 1], [1, 0], [0, 0]]
    names, shown = reading.labels([{"class": "BareLand"}, {"class": "storage_tank"}])
    assert names == ["bare land", "storage tank"] and shown.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(DataError, match="do not say what they show"):
        reading.labels([{"key": "a"}])


# Single words


def test_the_words_that_matter_are_those_that_are_read(chips):
    model = Reader(places=True)
    images = model.images([picture(chip) for chip in chips])
    batches = []

    def texts(captions):
        batches.append(len(captions))
        return model.texts(captions)

    captions = [sentence(chip) for chip in chips[:3]] + ["red"]
    entries = reading.importance(images, captions, [0, 1, 2, 0], texts)
    assert len(batches) == 1, "all at once"
    for entry in entries[:3]:
        of_word = {
            entry.text[start:end] + str(start): lost for (start, end), lost in zip(entry.spans, entry.changes, strict=True)
        }
        assert all(abs(lost) < 1e-6 for word, lost in of_word.items() if word.strip("0123456789") in ("in", "the"))
        assert all(lost > 0.01 for word, lost in of_word.items() if word.strip("0123456789") in NAMES)
        assert entry.rank == 1 and entry.ranks.shape == entry.changes.shape and entry.cosine > 0.99
    assert entries[3].spans == [] and entries[3].changes.shape == (0,) and entries[3].rank > 1
    assert reading.importance(images, [], [], texts) == []
