"""Does a model read sentences, or a few words of them? Four measures of that, of any model or of plain vectors.

    directions  which of the eight turns of a picture does its own sentence mean?
    ablation    how much less is found when words of a kind are changed?
    negation    is "no river" nearer than "a river" to a picture without one?
    importance  what is each word of a sentence worth to one search?

A model is asked through `texts`, a function from a list of sentences to (M, E) vectors, such as `Encoder.texts`; images come as vectors.
Whatever a measure asks is put together first and embedded at once, equal sentences once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rsvlm.errors import DataError
from rsvlm.evaluation import retrieval, statistics, words
from rsvlm.model import embed
from rsvlm.training import augment

Texts = Callable[[Sequence[str]], np.ndarray]

TIE = 1e-6
"""Cosines that differ by less are equal: sums of float32 numbers in another order differ by as much."""

TURNS = tuple(
    f"{'mirrored' if turn % 2 else 'as it is'}{f', turned {90 * (turn // 2)}°' if turn > 1 else ''}" if turn % 2 or not turn
    else f"turned {90 * (turn // 2)}°"
    for turn in range(augment.ELEMENTS)
)  # fmt: skip
"""What each of the eight symmetries of `augment` does to a picture; turns are counter-clockwise, after the mirror."""

NOT_TURNED = "no caption whose words can be turned with the picture"
NOT_TOLD = "no caption that says something else of each of the eight turns"

TEMPLATES = (("a picture with {a}", "a picture without {a}"), ("there is {a}", "there is no {}"), ("{}", "no {}"))
"""Pairs of sentences, of a picture with a thing and without it: `{}` is its name, `{a}` the name with its article."""

LEAST = 5
"""Pictures with a thing, and without it, that a thing needs to be asked for."""

_MASSES = frozenset("sea land ice water farmland sand snow grass vegetation bareland wasteland".split())


# Directions


def telling(captions: Sequence[str], left_out: Counter | None = None) -> list[str] | None:
    """Return the first caption that says something else of each of the eight turns of its picture, turned along with each.

    Two sentences say the same if they differ in the order of directions within a list ("north and south"), or of whole sentences.

    Args:
        captions: Captions of one picture.
        left_out: Counter that the reason is added to, where there is none.

    Returns:
        Eight sentences, the first as it is, as `augment.turn_text` turns them; None where no caption is like that.
    """
    reason = NOT_TURNED
    for caption in captions:
        turned = [augment.turn_text(caption, turn) for turn in range(augment.ELEMENTS)]
        if None in turned:
            continue
        if len(set(map(augment.meaning, turned))) == augment.ELEMENTS:
            return turned
        reason = NOT_TOLD
    if left_out is not None:
        left_out[reason] += 1
    return None


def turned_vectors(encoder, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Embed the eight turns of each of B pictures, (H, W, 3) uint8: (B, 8, E) float32 of norm 1.

    `encoder` is an `Encoder`, or whatever else has its `images`.
    """
    turns = [np.ascontiguousarray(augment.turn_image(image, turn)) for image in pictures for turn in range(augment.ELEMENTS)]
    vectors = embed.unit(np.asarray(encoder.images(turns)), "turned pictures")
    return vectors.reshape(len(pictures), augment.ELEMENTS, -1)


def directions(
    turned: np.ndarray,
    sentences: Sequence[Sequence[str]],
    texts: Texts,
    *,
    dataset: str = "unnamed",
    split: str = "test",
    bootstrap_samples: int = 1000,
    seed: int = 0,
    blocks: Sequence | None = None,
    resampled: dict | None = None,
) -> list[dict]:
    """Ask which turn of a picture its own sentence means, and which of its turned sentences a picture has.

    `directions` is the share of pictures that are told from all seven other turns, in percent, chance 12.5; `directions[TURN]` from
    that one of `TURNS` alone, chance 50. An equal cosine (`TIE`) is an error. Pictures whose captions do not tell all turns apart
    have no place here: see `telling`.

    Args:
        turned: (N, 8, E) vectors of the turns of N pictures, as from `turned_vectors`.
        sentences: N times eight sentences, as from `telling`.
        texts: As in the head of this file.
        dataset: Name that goes into the rows.
        split: Name that goes into the rows.
        bootstrap_samples: Number of resamples of the pictures.
        seed: Seed of the resamples.
        blocks: N blocks, as for `statistics.bootstrap`.
        resampled: Dictionary that the values over resamples are added to, (R,) under each row's (protocol, direction, metric).

    Returns:
        Rows as of `retrieval.evaluate`: `t2i` of a sentence among eight turns, `i2t` of a picture among eight sentences.

    Raises:
        DataError: There is no picture, or shapes do not fit.
    """
    turned = np.asarray(turned)
    N, T = len(turned), augment.ELEMENTS
    if not N or turned.ndim != 3 or turned.shape[1] != T or len(sentences) != N or any(len(of) != T for of in sentences):
        raise DataError(f"turns {turned.shape}, {len(sentences)} lists of sentences: expected (N, 8, E), N of eight, N ≥ 1")
    pictures = embed.unit(turned.reshape(N * T, -1), "turned pictures").reshape(turned.shape)
    of_texts = _embedded(texts, [text for of in sentences for text in of]).reshape(N, T, -1)
    times = statistics.resamples(N, bootstrap_samples, seed, blocks).astype(float)
    rows = []
    for direction, query, answers in (("t2i", of_texts[:, 0], pictures), ("i2t", pictures[:, 0], of_texts)):
        scores = np.einsum("ne,nte->nt", query, answers, dtype=np.float64)
        beaten = scores[:, :1] > scores + TIE  # (N, 8)
        told = {"directions": (beaten[:, 1:].all(axis=1), 100 / T)}
        told |= {f"directions[{name}]": (beaten[:, turn], 50.0) for turn, name in enumerate(TURNS) if turn}
        for metric, (hits, chance) in told.items():
            values = 100 * (times @ hits) / times.sum(axis=1)
            row = statistics.interval(values, statistics.count_blocks(blocks, N))
            rows.append(_row(dataset, split, "directions", direction, metric, row, chance, N))
            if resampled is not None:
                resampled["directions", direction, metric] = values
    statistics.warn_of_few(rows, bootstrap_samples)
    return rows


# Words of a kind


def ablation(
    image_embeddings: np.ndarray,
    captions: Sequence[str],
    image_of_caption: np.ndarray,
    texts: Texts,
    *,
    changes: Mapping[str, words.Change] | None = None,
    protocol: str = "one-to-one",
    dataset: str = "unnamed",
    split: str = "test",
    ks: Sequence[int] = (1, 5, 10),
    ties: str = "pessimistic",
    bootstrap_samples: int = 1000,
    seed: int = 0,
    blocks: Sequence | None = None,
) -> list[dict]:
    """Measure what is found with captions as they are and with changed ones, and the difference over the same resamples.

    Args:
        image_embeddings: (N, E).
        captions: M captions.
        image_of_caption: (M,) their images.
        texts: As in the head of this file.
        changes: Name → change of captions. If None, those of `words.changes`.
        protocol: One of `retrieval.PROTOCOLS` but skyscript, which pools equal captions: changed ones are no longer equal.
        dataset: Name that goes into the rows.
        split: Name that goes into the rows.
        ks: Ranks that recalls are of.
        ties: Rule for ties, as for `retrieval.evaluate`.
        bootstrap_samples: Number of resamples of the images.
        seed: Seed of the resamples and of the changes.
        blocks: N blocks, as for `statistics.bootstrap`.

    Returns:
        Rows of recalls and `mR` under the protocol, under `PROTOCOL: CHANGE`, and, changed minus unchanged, under
        `PROTOCOL: CHANGE - unchanged`; and `captions_changed`, the share of captions that a change found something in, in percent.

    Raises:
        DataError: As `retrieval.evaluate`; or the protocol is skyscript.
    """
    if protocol == "skyscript":
        raise DataError("skyscript pools equal captions, which changed ones no longer are: choose another protocol")
    owners = retrieval.checked_owners(image_embeddings, np.empty((len(captions), image_embeddings.shape[1])), image_of_caption)
    kept = np.flatnonzero([bool(text.strip()) for text in captions])
    if protocol == "one-to-one":
        kept = np.sort(kept[np.unique(owners[kept], return_index=True)[1]])
    owners, captions = owners[kept], [captions[i] for i in kept]
    changes = words.changes() if changes is None else changes
    wordings = {"": list(captions)}
    for name, change in changes.items():  # what is drawn depends on the name, and not on which others are asked for
        wordings[name] = list(change(captions, np.random.default_rng([seed, 0xAB, *name.encode()])))
        if len(wordings[name]) != len(captions):
            raise DataError(
                f"the change '{name}' made {len(wordings[name])} of {len(captions)} captions: expected one of each"
            )
    asked = [text for wording in wordings.values() for text in retrieval.caption_text(protocol, wording)]
    vectors = dict(zip(wordings, np.split(_embedded(texts, asked), len(wordings)), strict=True))

    facts = {"dataset": dataset, "split": split, "ks": ks, "ties": ties, "seed": seed, "blocks": blocks}
    facts |= {"bootstrap_samples": bootstrap_samples}
    units = statistics.count_blocks(None if blocks is None else np.asarray(blocks)[np.unique(owners)], len(np.unique(owners)))
    images, rows, usual = embed.unit(image_embeddings, "image embeddings"), [], {}
    for name, of_texts in vectors.items():
        draws: dict = {}
        measured = retrieval.evaluate(images, of_texts, owners, None, protocol, resampled=draws, **facts)
        measured = [row for row in measured if row["metric"].startswith("R@") or row["metric"] == "mR"]
        usual = usual or draws
        rows += [row | {"protocol": f"{row['protocol']}: {name}"} if name else row for row in measured]
        for row in measured if name else ():
            place = (row["protocol"], row["direction"], row["metric"])
            difference = statistics.gap(draws[place], usual[place], units, images=len(np.unique(owners)))
            rows.append(row | {"protocol": f"{row['protocol']}: {name} - unchanged", "chance": None} | difference)
        if name:
            share = 100 * np.mean([one != other for one, other in zip(wordings[name], captions, strict=True)])
            known = {"value": float(share), "ci_low": None, "ci_high": None}
            label = f"{measured[0]['protocol']}: {name}"
            rows.append(_row(dataset, split, label, "t2i", "captions_changed", known, None, len(captions)))
    return rows


# Negation


def labels(records: Sequence[Mapping]) -> tuple[list[str], np.ndarray]:
    """Return what pictures are known to show or not to show: L names, and (N, L) float, 1 shown, 0 not shown.

    Of records with `landmarks` these are the categories of all visible landmarks; else scene classes, of which each picture has one.

    Raises:
        DataError: The records have neither.
    """
    if all("landmarks" in record for record in records):
        of_each = [
            {str(mark["category"]) for mark in record["landmarks"] if mark.get("visible", True) is not False}
            for record in records
        ]
    elif all(record.get("class") for record in records):
        of_each = [{re.sub(r"(?<=[a-z])(?=[A-Z])|[_-]", " ", str(record["class"])).lower()} for record in records]
    else:
        raise DataError("the pictures do not say what they show: records need landmarks, or a class each")
    names = sorted(set().union(*of_each))
    return names, np.array([[float(name in shown) for name in names] for shown in of_each]).reshape(len(records), len(names))


def negation(
    image_embeddings: np.ndarray,
    names: Sequence[str],
    shown: np.ndarray,
    texts: Texts,
    *,
    templates: Sequence[tuple[str, str]] = TEMPLATES,
    dataset: str = "unnamed",
    split: str = "test",
    bootstrap_samples: int = 1000,
    seed: int = 0,
    blocks: Sequence | None = None,
) -> list[dict]:
    """Ask of each picture which is nearer, the sentence that it shows a thing or the one that it does not.

    `negation` is the share of pictures for which the right one is nearer (an equal cosine, `TIE`, is an error): the mean of the shares
    among pictures with a thing and without it, then over things, so that who always prefers one of the two has 50 %. `[with]` and
    `[without]` are these two shares, `[NAME]` is of one thing. `auc_with` and `auc_without` are areas under the ROC curve, in percent:
    how well the sentence with a thing finds the pictures that show it, and the one without it those that do not; who does not read
    the "no" is as far below 50 with the second as above it with the first.

    Args:
        image_embeddings: (N, E).
        names: L things.
        shown: (N, L), 1 where an image shows the thing, 0 where it does not, NaN where that is not known.
        texts: As in the head of this file.
        templates: Pairs of sentences, as `TEMPLATES`; the vectors of several are averaged.
        dataset: Name that goes into the rows.
        split: Name that goes into the rows.
        bootstrap_samples: Number of resamples of the images.
        seed: Seed of the resamples.
        blocks: N blocks, as for `statistics.bootstrap`.

    Raises:
        DataError: Shapes do not fit, or no thing is shown by, and missing from, at least `LEAST` images.
    """
    images, shown = embed.unit(image_embeddings, "image embeddings"), np.asarray(shown, float)
    N = len(images)
    if shown.shape != (N, len(names)):
        raise DataError(
            f"shown is {shown.shape}: expected a row for each of {N} images, a column for each of {len(names)} things"
        )
    asked = np.flatnonzero(np.minimum((shown == 1).sum(0), (shown == 0).sum(0)) >= LEAST)
    if not len(asked):
        raise DataError(
            f"nothing of {', '.join(names) or 'no names'} is in {LEAST} images or more and missing from as many others"
        )
    names, shown = [names[i] for i in asked], shown[:, asked]
    sentences = [
        side.replace("{a}", _named(name)).replace("{}", name) for pair in templates for side in pair for name in names
    ]
    vectors = _embedded(texts, sentences).reshape(len(templates), 2, len(names), -1).mean(axis=0)
    cosines = np.stack([images @ embed.unit(side, "sentences of negation").T for side in vectors]).astype(
        np.float64
    )  # (2, N, L)
    right = np.where(shown == 1, cosines[0] > cosines[1] + TIE, cosines[1] > cosines[0] + TIE)

    times = statistics.resamples(N, bootstrap_samples, seed, blocks).astype(float)
    with np.errstate(invalid="ignore"):
        of_side = [100 * (times @ (right & (shown == side))) / (times @ (shown == side).astype(float)) for side in (1, 0)]
    both = (of_side[0] + of_side[1]) / 2  # (R, L)
    areas = []
    for cosine, side in zip(cosines, (1, 0), strict=True):
        known = [~np.isnan(column) for column in shown.T]
        columns = zip(cosine.T, shown.T, known, strict=True)
        areas.append(np.column_stack([statistics.auc(c[k], (s[k] == side), times[:, k]) for c, s, k in columns]))
    measured = {"negation": both.mean(1), "negation[with]": of_side[0].mean(1), "negation[without]": of_side[1].mean(1)}
    measured |= {"auc_with": 100 * areas[0].mean(1), "auc_without": 100 * areas[1].mean(1)}
    measured |= {f"negation[{name}]": both[:, column] for column, name in enumerate(names)}
    rows = [
        _row(dataset, split, "negation", "i2t", metric, statistics.interval(values), 50.0, N)
        for metric, values in measured.items()
    ]
    statistics.warn_of_few(rows, bootstrap_samples)
    return rows


def _named(name: str) -> str:
    """Put the article in front of a name, where it has one."""
    last = name.split()[-1]
    if last in _MASSES or (last.endswith("s") and not last.endswith("ss")):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


# Single words


@dataclass(frozen=True)
class Importance:
    """What each of W words of a text is worth to one search.

    Attributes:
        text: The text.
        spans: (start, end) of each word in it.
        cosine: Cosine of the whole text with the image.
        changes: (W,) what the cosine loses without the word; negative where it gains.
        rank: Rank of the image among all, with the whole text, 1 being best; ties count against it.
        ranks: (W,) int64 the rank without the word.
    """

    text: str
    spans: list[tuple[int, int]]
    cosine: float
    changes: np.ndarray
    rank: int
    ranks: np.ndarray


def importance(
    image_embeddings: np.ndarray, captions: Sequence[str], image_of_caption: Sequence[int], texts: Texts
) -> list[Importance]:
    """Leave each word of each caption out in turn, and see what becomes of the search for its image.

    Args:
        image_embeddings: (N, E) of all images that are searched.
        captions: M captions; of one that has a single word, nothing is left out.
        image_of_caption: (M,) their images.
        texts: As in the head of this file.

    Returns:
        One entry for each caption.
    """
    images = embed.unit(image_embeddings, "image embeddings")
    reduced = [words.without_each(text) for text in captions]
    asked = [text for caption, (_, without) in zip(captions, reduced, strict=True) for text in (caption, *without)]
    owners = np.repeat(np.asarray(image_of_caption, np.int64), [1 + len(spans) for spans, _ in reduced])
    scores = _embedded(texts, asked).astype(np.float64) @ images.T.astype(np.float64) if asked else np.empty((0, len(images)))
    own = scores[np.arange(len(asked)), owners]
    ranks = (scores >= own[:, None] - TIE).sum(axis=1)  # itself included
    entries, start = [], 0
    for caption, (spans, _) in zip(captions, reduced, strict=True):
        part = slice(start + 1, start + 1 + len(spans))
        lost = own[start] - own[part]
        entries.append(Importance(caption, spans, float(own[start]), lost, int(ranks[start]), ranks[part]))
        start = part.stop
    return entries


def _embedded(texts: Texts, sentences: Sequence[str]) -> np.ndarray:
    """Embed sentences, equal ones once: (M, E) float32 of norm 1."""
    place = {text: number for number, text in enumerate(dict.fromkeys(sentences))}
    vectors = embed.unit(np.asarray(texts(list(place))), "sentences")
    return vectors[[place[text] for text in sentences]]


def _row(
    dataset: str, split: str, protocol: str, direction: str, metric: str, entry: Mapping, chance: float | None, n: int
) -> dict:
    names = {"dataset": dataset, "split": split, "protocol": protocol, "direction": direction, "metric": metric}
    return names | dict(entry) | {"chance": chance, "n": n}
