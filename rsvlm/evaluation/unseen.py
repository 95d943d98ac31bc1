"""What a model knows of categories that were left out of its training, as in the paper's experiment, on anybody's shards.

A hold-out writes its training data as shards, which `train` reads as any others. What a model then knows is measured by `statistics`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsvlm.data import benchmarks, pairs
from rsvlm.errors import ConfigError, DataError
from rsvlm.evaluation import statistics
from rsvlm.records import files, stages

ROOMS = ("evaluation", "data/*", "model")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

ARMS = {
    "all": "as many chips, drawn at random from all",
    "held out": "no chip with a held-out landmark, no caption with a held-out word",
    "held out + names": "the same, and one pair in eight is a chip with no more than the name of the category",
}
"""What the three models of the hold-out experiment are trained on."""

NAMED_SHARE = 1 / 8
"""Share of the pairs that tell no more than a name, in the arm with names."""


# Categories


@dataclass(frozen=True)
class Category:
    """A thing that chips show and captions name.

    Attributes:
        name: As it stands in a prompt.
        marks: A record that has one of these among its landmarks' categories or its land's colours shows the thing.
        words: A caption that contains one of these, in any case and inside any word, names it.
        sentence: A caption of it in the data set's own manner.
        frame: The same sentence without the word: what the other words alone are worth. Empty: not asked.
        description: What it looks like, in words that captions of other things have too. Empty: none.
    """

    name: str
    marks: frozenset[str]
    words: tuple[str, ...]
    sentence: str = ""
    frame: str = ""
    description: str = ""


def categories(names: str | Sequence[str], known: Mapping[str, Mapping] | None = None) -> list[Category]:
    """Return categories by names, in a list or a text with commas between them; `known` has the other attributes of a `Category`.

    One that is not known is looked for by its own name, among landmarks and in captions.

    Raises:
        ConfigError: No name, or one that is there twice.
    """
    asked = [name.strip().lower() for name in (names.split(",") if isinstance(names, str) else names)]
    asked = [name for name in asked if name]
    if not asked or len(set(asked)) < len(asked):
        raise ConfigError(f"categories '{names}': give names, each once, with commas between them, as in lake,island")
    plain = {name: {"marks": frozenset({name}), "words": (name,), "sentence": f"There is a {name}."} for name in asked}
    return [Category(name, **(known or {}).get(name, plain[name])) for name in asked]


def shows(record: Mapping[str, object], category: Category) -> bool:
    """Say whether a sample's record has the category, by its landmarks or by the measured colours of its land."""
    landmarks = [mark.get("category", "") for mark in record.get("landmarks") or () if isinstance(mark, Mapping)]
    measured = record.get("measurements")
    colours = (measured.get("land_colours") if isinstance(measured, Mapping) else None) or ()
    return not category.marks.isdisjoint({*(str(name).lower() for name in landmarks), *colours})


def speaks_of(caption: str, category: Category) -> bool:
    """Say whether a caption contains one of the category's words."""
    text = caption.casefold()
    return any(word in text for word in category.words)


def prompts(category: Category) -> dict[str, str]:
    """Return a category's prompts: the paper's, its `sentence`, its `frame` and its `description`, as far as there are any."""
    article = "" if category.name.split()[-1] in ("sea", "land") else "an " if category.name[0] in "aeiou" else "a "
    texts = {name: getattr(category, name) for name in ("sentence", "frame", "description")}
    return {"paper": f"An aerial image of {article}{category.name}"} | {name: text for name, text in texts.items() if text}


def compared(summaries: Mapping[str, Mapping]) -> dict[str, dict[str, dict]]:
    """Return what a page stores of a measure: the summary of each kind of data, and its difference to the control.

    Args:
        summaries: Kind of data, or baseline → as of `statistics.summary`; those of `ARMS` are among them.

    Returns:
        `each`: name → `value ci_low ci_high seeds`; `lost`: the same of the differences of `ARMS` to the first of them.
    """
    control = summaries[next(iter(ARMS))]
    lost = {arm: statistics.difference(summaries[arm], control) for arm in ARMS}
    names = ("value", "ci_low", "ci_high", "seeds")
    kinds = {"each": summaries, "lost": lost}
    return {
        kind: {name: {part: one[part] for part in names} for name, one in of_kind.items()} for kind, of_kind in kinds.items()
    }


# Data sets


def hold_out(data: Path | str, held: Sequence[Category], seed: int, recompute: bool = False) -> Path:
    """Write the training data of `ARMS`, or find them written: three folders of shards that hold a train split alone.

    `held-out` are all samples that show no held-out category and have no caption that speaks of one; `all` are as many, drawn at
    random from the whole train split; `named` are samples that show one, their captions replaced by no more than its name. The data
    are shards or a benchmark, with a train split; `recompute` writes the folders even if they are there.

    Returns:
        The folder with the three, and `counts.json`: samples by what was found in them.

    Raises:
        DataError: Nothing is left, or nothing is left out.
    """
    data = Path(data)
    parts = {
        "data": benchmarks.fingerprint(data),
        "seed": seed,
        "source": stages.source_hash(*ROOMS),
        "held": [[c.name, sorted(c.marks), *c.words] for c in held],
    }

    def compute(folder: Path) -> None:
        # What each sample has of the held-out categories: in its picture, and in its captions.
        marks = [
            (any(shows(sample.record, c) for c in held), any(speaks_of(t, c) for t in sample.captions for c in held))
            for sample in benchmarks.samples(data, "train")
        ]
        shown, told = np.array(marks, bool).reshape(-1, 2).T
        rest = ~(shown | told)
        if not rest.any() or rest.all():
            names = ", ".join(c.name for c in held)
            which = "none is left" if len(rest) and not rest.any() else "all are left"
            raise DataError(f"without {names} {which} of {data}'s {len(rest)} samples: hold out other categories")
        # As many of all samples, and those that show a held-out category, under no more than its name.
        rng = np.random.default_rng([seed, 0xA11])
        drawn = np.isin(np.arange(len(rest)), rng.choice(len(rest), rest.sum(), replace=False))
        for name, chosen in (("held-out", rest), ("all", drawn), ("named", shown)):
            pairs.write(folder / name, name, {"train": _chosen(data, chosen, held if name == "named" else None)})
        groups = {"shown": shown, "told": told, "told, not shown": told & ~shown, "kept": rest}
        counts = {"train": len(marks), **{name: int(group.sum()) for name, group in groups.items()}}
        files.write_atomic(folder / "counts.json", json.dumps(counts))

    return stages.stage("hold-out", parts, compute, recompute)


def arm_data(folder: Path, arm: str, steps: int) -> tuple[dict[str, Path], list[dict]]:
    """Return the data sets of one of `ARMS`, from what `hold_out` wrote, and the stages for `train.stages`."""
    if arm not in ARMS:
        raise ConfigError(f"there is no arm '{arm}': choose of {', '.join(ARMS)}")
    first = "all" if arm == "all" else "held-out"
    shares = {first: 1 - NAMED_SHARE, "named": NAMED_SHARE} if arm.endswith("names") else {first: 1.0}
    return {name: folder / name for name in shares}, [{"steps": steps, "data": shares}]


def _chosen(data: Path, chosen: np.ndarray, named: Sequence[Category] | None) -> Iterator[tuple[dict, bytes]]:
    for number, (sample, take) in enumerate(zip(benchmarks.samples(data, "train"), chosen.tolist(), strict=True)):
        if take:
            texts = sample.captions if named is None else [prompts(c)["paper"] for c in named if shows(sample.record, c)]
            record = {"key": f"{number:07d}", "source_key": sample.key, "captions": texts}
            licences = {name: sample.record[name] for name in ("license", "licence", "attribution") if name in sample.record}
            yield record | licences, sample.image
