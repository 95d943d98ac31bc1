"""An index taught by a file of labels: the file in; the order of its chips, what to look at next, and how sure that is, out.

    labels.geojson   the labels that were given, whatever came with them, and the chips to look at next, without a label yet
    ranked.geojson   the first chips of the order, with their probabilities and the labels they have
    teach.json       what was asked, learnt and expected, and what was left out

Either GeoJSON can be edited, in QGIS or the page, and given back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsvlm.errors import DataError
from rsvlm.records import files, text
from rsvlm.search import confidence, label_files, teaching
from rsvlm.search.index_files import Index

KS = (10, 50, 100)
"""How many of the first chips expectations speak of."""

BIASED = (
    "on the labels alone, each left out in turn; what is proposed is what is hard to tell, so that expectations of all chips are made "
    "from probabilities instead, which are fitted to labels against scores"
)

_IN_MEMORY = 2**30  # bytes of vectors in single precision


@dataclass(frozen=True)
class Taught:
    """A lesson on an index: `lesson`, `facts` for `teach.json`, and the `labels` and `ranked` features."""

    lesson: teaching.Lesson
    facts: dict
    labels: list[dict]
    ranked: list[dict]


def teach(
    index: Index,
    direction: np.ndarray | None,
    features: Sequence[Mapping],
    *,
    name: str = "",
    propose: int = 10,
    top: int = 100,
) -> Taught:
    """Order the chips of an index by what is asked and by labels.

    Args:
        index: The index.
        direction: (E,), a question's vector. If None, the mean of what is labelled yes.
        features: Labels, as from `label_files.read`.
        name: What is asked, in words.
        propose: Number of chips to look at next.
        top: Number of chips in `ranked`.

    Raises:
        DataError: There is neither a direction nor a chip labelled yes; or labels, none of which can be used; or vectors are broken.
    """
    chips = index.chips
    placed = label_files.place(features, chips)
    rows, yes, left_out = placed.rows, placed.yes, dict(placed.left_out)
    if left_out and not len(rows):
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        lie_elsewhere = len(placed.both) < sum(left_out.values())
        advice = f"are these labels of the imagery of {index.folder}?" if lie_elsewhere else "leave one of the two away"
        raise DataError(f"no label can be used ({reasons}): {advice}")
    if len(rows) > teaching.MOST:
        kept = sorted(range(len(rows)), key=lambda at: text.rank(str(chips["key"].iloc[rows[at]]), 0))[: teaching.MOST]
        left_out[f"labels more than the {teaching.MOST:,} that are learnt from, drawn by their keys"] = len(rows) - len(kept)
        rows, yes = rows[sorted(kept)], yes[sorted(kept)]
    vectors = in_memory(index)
    if direction is None:
        if not yes.any():
            raise DataError("say what to look for: --text or --like, or labels of which one that lies in the imagery is yes")
        direction = np.asarray(vectors[rows[yes]], np.float64).mean(axis=0)
    about = teaching.space(vectors, direction)
    lesson = teaching.teach(vectors, about, rows, yes, propose, passed_over=placed.both)
    expected = confidence.expectations(lesson, rows, yes, KS)
    told = confidence.history(vectors, about, rows, yes) if expected else []
    facts = {
        "asked": name, "index": index.folder.resolve().name, "model": index.model_name, "fingerprint": index.facts["fingerprint"],
        "chips": len(chips), "labels": {"yes": int(yes.sum()), "no": int((~yes).sum()), "left_out": left_out},
        "method": lesson.method, "freedom": lesson.classifier and lesson.classifier.freedom,
        "on_labels": lesson.classifier and confidence.precision_on_labels(lesson.classifier, yes), "about_on_labels": BIASED,
        "expected": expected, "history": told, "enough": confidence.enough(told), "missing": _missing(yes),
    }  # fmt: skip
    labelled = dict(zip(rows.tolist(), yes.tolist()))
    pending = [one for one in features if _says_something(one)]
    proposals = index.rows(lesson.proposals).to_dict("records")
    for number, (row, chip) in enumerate(zip(lesson.proposals.tolist(), proposals), 1):
        pending.append(_feature(chip, None, lesson, row, proposed=number))
    first = lesson.order[:top].tolist()
    words = {True: label_files.YES, False: label_files.NO, None: None}
    ranked = [
        _feature(chip, words[labelled.get(row)], lesson, row, rank=number)
        for number, (row, chip) in enumerate(zip(first, index.rows(first).to_dict("records")), 1)
    ]
    return Taught(lesson, facts, pending, ranked)


def write(taught: Taught, out: Path) -> list[Path]:
    """Write the three files, `teach.json` last, and return their paths."""
    return [
        label_files.write(out / "labels.geojson", taught.labels),
        label_files.write(out / "ranked.geojson", taught.ranked),
        files.write_atomic(out / "teach.json", json.dumps(taught.facts, ensure_ascii=False, indent=1) + "\n"),
    ]


def in_memory(index: Index) -> np.ndarray:
    """Return the vectors in single precision where they take little memory, so that lessons are quick; else as they lie on disk."""
    vectors = index.vectors
    return np.asarray(vectors, np.float32) if 2 * vectors.nbytes <= _IN_MEMORY else vectors


def lines(taught: Taught) -> list[str]:
    """Say in words what was learnt, for a terminal."""
    facts, expected, told = taught.facts, taught.facts["expected"], taught.facts["labels"]
    methods = {
        "text": "no labels: the order is that of the question",
        "rocchio": f"fewer than {teaching.FEW} labels: the order is Rocchio's",
        "classifier": "a classifier that starts from the question",
    }
    result = [f"{told['yes']} yes and {told['no']} no on {facts['chips']:,} chips; {methods[facts['method']]}"]
    result += [f"  left out: {count:,} {reason}" for reason, count in told["left_out"].items()]
    if facts["on_labels"]:
        result.append(f"average precision {_interval(facts['on_labels'], 100)} % on the labels, which were hard ones")
    if expected:
        count = f"{_interval(expected['yes'])} of all chips are yes"
        result.append(f"expected average precision {_interval(expected['average_precision'], 100)} % on all chips; {count}")
        result += [f"  {_interval(one)} among the first {k}" for k, one in expected["first"].items()]
    if facts["missing"]:
        result.append(facts["missing"])
    if facts["enough"]:
        result.append(
            f"enough: the last {confidence.PATIENCE} labels have not raised what is expected by {100 * confidence.RISE:g} point"
        )
    result.append("look at next:")
    for feature in taught.labels:
        said = feature["properties"]
        if said.get("proposed") and said["label"] is None:
            sure = "" if said["probability"] is None else f"  {said['probability']:.2f}"
            result.append(f"  {said['proposed']:>3}{sure}  {text.one_line(said['key'])}")
    return result


def _missing(yes: np.ndarray) -> str:
    """Say which labels there must be before anything can be expected."""
    if not len(yes):
        return "nothing is expected yet: label some chips yes and some no"
    if yes.all() or not yes.any():
        return f"nothing is expected yet: no chip is labelled {'no' if yes.all() else 'yes'}"
    few = teaching.FEW - len(yes)
    return f"nothing is expected yet: {few} more label{'s' if few > 1 else ''}" if few > 0 else ""


def _says_something(feature: Mapping) -> bool:
    """Say whether a feature is more than a proposal of before that nobody has answered."""
    said = feature.get("properties") or {}
    return said.get("label") is not None or said.get("proposed") is None


def _feature(chip: Mapping, label: str | None, lesson: teaching.Lesson, row: int, **more: object) -> dict:
    probability = None if lesson.probabilities is None else round(float(lesson.probabilities[row]), 4)
    more |= {"score": round(float(lesson.scores[row]), 4), "probability": probability}
    more |= {name: str(chip[name]) for name in ("source", "file", "scale") if name in chip}
    return label_files.feature(chip, label, **more)


def _interval(told: Mapping[str, float], factor: float = 1) -> str:
    value, low, high = (factor * told[name] for name in ("value", "ci_low", "ci_high"))
    form = "{:,.0f} ({:,.0f} to {:,.0f})" if factor > 1 or value >= 100 else "{:,.1f} ({:,.0f} to {:,.0f})"
    return form.format(value, low, high)
