"""The paper's two experiments on anybody's shards: what a model knows of categories that were left out, and what each data set adds.

Data sets are written as shards and trained on by `train` as any others; numbers over several seeds come with intervals that resample
the test images, the same ones for all that is compared, so that differences have intervals too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rsvlm import benchmarks, distributed, embed, images, retrieval, runs, shards, web, webdemo, weights
from rsvlm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rsvlm.config import Config

ARMS = {
    "all": "as many chips, drawn at random from all",
    "held out": "no chip with a held-out landmark, no caption with a held-out word",
    "held out + names": "the same, and one pair in eight is a chip with no more than the name of the category",
}
"""What the three models of the hold-out experiment are trained on."""

VARIANTS = {
    "base": "general pairs alone",
    "web": "base, then RS-WebLI",
    "landmarks": "base, then RS-Landmarks",
    "both": "base, then RS-WebLI, then RS-Landmarks, then a mixture of the two",
}
"""The four variants, which see equally many pairs."""

NAMED_SHARE = 1 / 8
BASE_SHARE = 1 / 4
"""Share of the steps that every variant spends on general pairs, but `base`, which spends all."""

_PER_SHARD = 1000
_COLOURS = {
    "black": (15, 15, 18),
    "dark grey": (70, 70, 72),
    "grey": (130, 130, 130),
    "white": (245, 245, 245),
    "red": (190, 40, 40),
    "orange": (235, 140, 40),
    "yellow": (235, 220, 70),
    "brown": (115, 80, 50),
    "tan": (200, 170, 130),
    "green": (70, 130, 60),
    "dark green": (35, 60, 30),
    "light blue": (150, 190, 225),
    "blue": (50, 90, 180),
    "navy": (20, 30, 80),
    "purple": (120, 60, 150),
    "pink": (225, 140, 170),
}


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


_FRAME = "There are several in the centre."
_KNOWN = (
    Category(
        "lake",
        frozenset({"lake"}),
        ("lake",),
        "There are several lakes in the centre.",
        _FRAME,
        "Green land throughout, with dark blue patches and almost black in the centre.",
    ),
    Category(
        "island",
        frozenset({"island"}),
        ("island",),
        "There are several islands in the centre.",
        _FRAME,
        "Sea on several sides covers nearly all of the picture. The coast crosses the centre.",
    ),
    Category(
        "sea",
        frozenset({"sea"}),
        ("sea",),
        "Sea to the west covers about half of the picture.",
        "The west covers about half of the picture.",
        "Dark blue and blue throughout, very smooth.",
    ),
    Category("tan land", frozenset({"tan", "pale sand"}), ("tan", "sand"), "The land is tan and pale sand throughout."),
    Category("green land", frozenset({"green", "dark green"}), ("green",), "The land is green and dark green throughout."),
)


def categories(names: str | Sequence[str]) -> list[Category]:
    """Return categories by name; one that is not known is looked for by its own name, among landmarks and in captions.

    Args:
        names: Several, or text with commas between them.

    Raises:
        ConfigError: No name, or one that is there twice.
    """
    asked = [name.strip().lower() for name in (names.split(",") if isinstance(names, str) else names)]
    asked = [name for name in asked if name]
    if not asked or len(set(asked)) < len(asked):
        raise ConfigError(f"categories '{names}': give names, each once, with commas between them, as in lake,island")
    known = {category.name: category for category in _KNOWN}
    return [known.get(name) or Category(name, frozenset({name}), (name,), f"There is a {name}.") for name in asked]


def shows(record: Mapping[str, object], category: Category) -> bool:
    """Say whether a sample's record has the category, by its landmarks or by the measured colours of its land."""
    found = {str(mark.get("category", "")).lower() for mark in record.get("landmarks") or () if isinstance(mark, Mapping)}
    measured = record.get("measurements")
    found |= set((measured.get("land_colours") if isinstance(measured, Mapping) else None) or ())
    return bool(found & category.marks)


def speaks_of(caption: str, category: Category) -> bool:
    """Say whether a caption contains one of the category's words."""
    text = caption.casefold()
    return any(word in text for word in category.words)


def prompts(category: Category) -> dict[str, str]:
    """Return a category's prompts: the paper's, its `sentence`, its `frame` and its `description`, as far as there are any."""
    article = "" if category.name.split()[-1] in ("sea", "land") else "an " if category.name[0] in "aeiou" else "a "
    found = {"paper": f"An aerial image of {article}{category.name}", "sentence": category.sentence}
    found |= {"frame": category.frame, "description": category.description}
    return {name: text for name, text in found.items() if text}


# Data sets


def hold_out(data: Path | str, held: Sequence[Category], seed: int, recompute: bool = False) -> Path:
    """Write the training data of `ARMS`, or find them written: three folders of shards that hold a train split alone.

    `held-out` are all samples that show no held-out category and have no caption that speaks of one; `all` are as many, drawn at
    random from the whole train split; `named` are samples that show one, their captions replaced by no more than its name.

    Args:
        data: Shards or a benchmark, with a train split.
        held: What to leave out.
        seed: Of the draws.
        recompute: Write them again.

    Returns:
        The folder with the three, and `counts.json`: samples by what was found in them.

    Raises:
        DataError: Nothing is left, or nothing is left out.
    """
    data = Path(data)
    parts = {"data": benchmarks.fingerprint(data), "seed": seed, "source": runs.source_hash("experiments", follow=False)}
    parts |= {"held": [[c.name, sorted(c.marks), *c.words] for c in held]}

    def compute(folder: Path) -> None:
        found = [
            (any(shows(sample.record, c) for c in held), any(speaks_of(t, c) for t in sample.captions for c in held))
            for sample in benchmarks.samples(data, "train")
        ]
        shown, told = np.array(found, bool).reshape(-1, 2).T
        kept, counts = ~(shown | told), {"train": len(found), "shown": int(shown.sum()), "told": int(told.sum())}
        counts |= {"told, not shown": int((told & ~shown).sum()), "kept": int(kept.sum())}
        if not kept.any() or kept.all():
            names = ", ".join(c.name for c in held)
            which = "none is left" if len(kept) and not kept.any() else "all are left"
            raise DataError(f"without {names} {which} of {data}'s {len(kept)} samples: hold out other categories")
        rng = np.random.default_rng([seed, 0xA11])
        drawn = np.isin(np.arange(len(kept)), rng.choice(len(kept), kept.sum(), replace=False))
        for name, chosen in (("held-out", kept), ("all", drawn), ("named", shown)):
            write_pairs(folder / name, name, {"train": _chosen(data, chosen, held if name == "named" else None)})
        runs.write_atomic(folder / "counts.json", json.dumps(counts))

    return runs.stage("hold-out", parts, compute, recompute)


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


def write_pairs(out: Path, name: str, splits: Mapping[str, Iterable[tuple[dict, bytes]]]) -> dict:
    """Write pairs as shards.

    Args:
        out: An empty folder, made when missing.
        name: Of the data set, for its manifest.
        splits: For each split its samples: a record with `key` and `captions`, and an encoded picture (PNG, JPEG or WebP).

    Returns:
        The manifest, see `shards.write`.
    """

    def tasks() -> Iterator[shards.Task]:
        for split, samples in splits.items():
            part, number = [], 0
            for sample in samples:
                part.append(sample)
                if len(part) == _PER_SHARD:
                    yield shards.Task(f"{split}/{number:06d}.tar", part)
                    part, number = [], number + 1
            if part:
                yield shards.Task(f"{split}/{number:06d}.tar", part)

    plan = runs.key(name=name, splits=list(splits))
    return shards.write(out, plan, tasks(), _make, workers=1, progress=False, header={"name": name})


def _make(task: shards.Task) -> shards.Made:
    return shards.Made([(record, picture, _extension(picture)) for record, picture in task.items])


def _extension(picture: bytes) -> str:
    if picture[:2] == b"\xff\xd8":
        return "jpg"
    return "webp" if picture[8:12] == b"WEBP" else "png"


def demo_web(options: Config, pictures: int, recompute: bool = False) -> Path:
    """Return the folder of the demo web and of the pairs built from it (`demo`, `pairs`), made now unless they were before.

    Args:
        options: `web`, `fetch` (with `allow_loopback`) and `seed`.
        pictures: On all hosts together.
        recompute: Make it again.
    """

    def make(folder: Path) -> None:
        webdemo.make(folder / "demo", options.seed, pictures)
        with webdemo.serve(folder / "demo") as addresses:
            webdemo.capture(addresses, folder / "crawl.warc.gz")
            head = webdemo.default_head(options.web.overhead_precision)
            web.build([folder / "crawl.warc.gz"], options, folder / "pairs", head=head, workers=1, progress=False)
        runs.write_atomic(folder / "addresses.json", json.dumps(addresses))

    parts = {"options": options.web, "fetch": options.fetch, "seed": options.seed, "pictures": pictures, "code": web.code()}
    parts["demo"] = runs.source_hash("webdemo")
    return runs.stage("web", parts, make, recompute)


def general_pairs(demo: Path, recompute: bool = False) -> Path:
    """Return shards of the demo web's pictures that are not from above: the hosts for training, and the others as the split `test`.

    The demo draws its alt-texts at random, and those of a web at large say something of their pictures. So these are told anew, from
    what is known: the kind of the picture, and the measured colours of its upper and lower half.

    Args:
        demo: Folder written by `webdemo.make`.
        recompute: Write them again.
    """
    labels = pd.read_parquet(demo / "labels.parquet")
    labels = labels[~labels["overhead"] & labels["trap"].isin(["", "copy"])]
    parts = {"labels": runs.key(rows=labels.astype(str).to_dict("records"))}
    parts["source"] = runs.source_hash("experiments", "webdemo", follow=False)

    def samples(rows: pd.DataFrame) -> Iterator[tuple[dict, bytes]]:
        for number, row in enumerate(rows.itertuples()):
            data = (demo / "sites" / row.host / row.path).read_bytes()
            yield {"key": f"{row.host}-{number:05d}", "captions": _told(row.style, images.decode(data))}, data

    def compute(folder: Path) -> None:
        held = labels["held_back"]
        write_pairs(folder, "general-demo", {"train": samples(labels[~held]), "test": samples(labels[held])})

    return runs.stage("general", parts, compute, recompute)


def _told(style: str, array: np.ndarray) -> list[str]:
    middle = max(1, len(array) // 2)
    means = np.stack([part.reshape(-1, 3).mean(axis=0) for part in (array[:middle], array[-middle:])])
    names, values = list(_COLOURS), np.array(list(_COLOURS.values()))
    above, below = (names[i] for i in ((means[:, None] - values) ** 2).sum(-1).argmin(1))
    kind = {"text": "screen of text", "icon": "drawn icon"}.get(style, style)
    colours = f"{above} throughout" if above == below else f"{above} in the north and {below} in the south"
    return [f"A {kind}, {colours}.", f"A picture of a {kind}.", f"{colours[0].upper()}{colours[1:]}: a {kind}."]


def stages(variant: str, steps: int) -> list[dict]:
    """Return the stages of one of `VARIANTS`, for `train.stages`: the same number of steps for all.

    Source: the order is the paper's; the shares of the steps are our choice, for the paper states none.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"there is no variant '{variant}': choose of {', '.join(VARIANTS)}")
    if steps < 8:
        raise ConfigError(f"{steps} steps cannot be shared out among four stages: give 8 or more")
    if variant == "base":
        return [{"steps": steps, "data": {"base": 1.0}}]
    first = round(BASE_SHARE * steps)
    if variant != "both":
        return [{"steps": first, "data": {"base": 1.0}}, {"steps": steps - first, "data": {variant: 1.0}}]
    quarter = (steps - first) // 4
    plan = [(first, {"base": 1.0}), (quarter, {"web": 1.0}), (2 * quarter, {"landmarks": 1.0})]
    plan.append((steps - first - 3 * quarter, {"web": 1.0, "landmarks": 1.0}))
    return [{"steps": count, "data": data} for count, data in plan]


# Numbers over several seeds


def resamples(n: int, count: int, seed: int) -> np.ndarray:
    """Draw `count` bootstrap resamples of `n` images: (count + 1, n) int64 times each is drawn; the first row is all ones."""
    rng = np.random.default_rng(seed)
    drawn = [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(count)]
    return np.stack([np.ones(n, np.int64), *drawn])


def recall(ranks: np.ndarray, image: np.ndarray, k: int, times: np.ndarray) -> np.ndarray:
    """Recall at k in percent, the mean over seeds, in every resample of the images.

    Args:
        ranks: (S, M) int: for each seed's model the rank of the right answer of M queries, 1 being best.
        image: (M,) int: the image that a query belongs to.
        k: How many answers count.
        times: (R, N) from `resamples`.

    Returns:
        (R,) float; NaN in a resample without any of the queries' images.
    """
    hits, weights = (np.asarray(ranks) <= k).mean(axis=0), times[:, image]
    with np.errstate(invalid="ignore"):
        return 100 * (weights @ hits) / weights.sum(axis=1)


def mean_recall(i2t: np.ndarray, t2i: np.ndarray, times: np.ndarray, ks: Sequence[int] = (1, 5, 10)) -> np.ndarray:
    """Mean of the recalls at `ks` in both directions, one caption per image: (S, N) ranks each → (R,) percent, as `recall`."""
    image = np.arange(i2t.shape[1])
    return np.mean([recall(ranks, image, k, times) for ranks in (i2t, t2i) for k in ks], axis=0)


def auc(scores: np.ndarray, present: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Area under the ROC curve in percent, the mean over seeds, in every resample of the images; ties count half.

    Args:
        scores: (S, N) float: for each seed's model, how well image and prompt agree.
        present: (N,) bool: whether the image shows what the prompt says.
        times: (R, N) from `resamples`.

    Returns:
        (R,) float; 50 is guessing; NaN in a resample where all images show it, or none does.

    Raises:
        DataError: A score is NaN or infinite.
    """
    scores, found = np.asarray(scores, float), []
    if not np.isfinite(scores).all():
        raise DataError(f"{(~np.isfinite(scores)).sum()} scores are NaN or infinite: the embeddings are broken")
    for row in scores:
        order = np.argsort(row, kind="stable")
        first = np.flatnonzero(np.diff(row[order], prepend=-np.inf))  # of each group of equal scores
        right, wrong = (
            np.add.reduceat(times[:, order] * which[order], first, axis=1) for which in (present, ~np.asarray(present))
        )
        below = np.cumsum(wrong, axis=1) - wrong
        with np.errstate(invalid="ignore"):
            found.append((right * (below + wrong / 2)).sum(axis=1) / (right.sum(axis=1) * wrong.sum(axis=1)))
    return 100 * np.mean(found, axis=0)


def summary(measure: Callable[..., np.ndarray], arrays: Sequence[np.ndarray], *rest: object, times: np.ndarray) -> dict:
    """Sum up a measure over seeds: its mean with an interval, and each seed's own value.

    Args:
        measure: `recall`, `mean_recall` or `auc`.
        arrays: Its first arguments, those that have a row for each seed.
        rest: Its arguments between these and `times`.
        times: (R, N) from `resamples`; the same for whatever is compared.

    Returns:
        `value`, `ci_low` and `ci_high` (2.5 and 97.5 % over the resamples), `seeds` (one value each) and `draws` (R - 1,).
    """
    found = measure(*arrays, *rest, times)
    low, high = np.nanpercentile(found[1:], [2.5, 97.5])
    each = [float(measure(*(array[i : i + 1] for array in arrays), *rest, times[:1])[0]) for i in range(len(arrays[0]))]
    return {"value": float(found[0]), "ci_low": float(low), "ci_high": float(high), "seeds": each, "draws": found[1:]}


def difference(one: Mapping, other: Mapping) -> dict:
    """Return the difference of two summaries over the same resamples: `value ci_low ci_high seeds`, the last one for each seed."""
    low, high = np.nanpercentile(one["draws"] - other["draws"], [2.5, 97.5])
    each = [a - b for a, b in zip(one["seeds"], other["seeds"], strict=True)]
    return {"value": one["value"] - other["value"], "ci_low": float(low), "ci_high": float(high), "seeds": each}


def told(gap: Mapping) -> str:
    """Say a `difference` in points, with its interval over images, and why it may be chance: the interval holds 0, or seeds disagree.

    One seed cannot disagree with itself, so of one seed alone it says that, too.
    """
    words = f"{gap['value']:+.1f} points ({gap['ci_low']:+.1f} to {gap['ci_high']:+.1f}"
    doubts = ["may be chance"] if gap["ci_low"] <= 0 <= gap["ci_high"] else []
    doubts += ["one seed"] if len(gap["seeds"]) == 1 else []
    doubts += ["seeds disagree"] if min(gap["seeds"]) < 0 < max(gap["seeds"]) else []
    return "; ".join([words, *doubts]) + ")"


def row(entry: Mapping) -> dict:
    """Return the part of a `summary` that a row of results holds: `value ci_low ci_high`."""
    return {name: entry[name] for name in ("value", "ci_low", "ci_high")}


def dots(entries: Mapping[tuple[str, str], Mapping], chance: float) -> list[dict]:
    """Return summaries, named by label and series, as rows for `figures.interval_dots`: the interval, and a dot for each seed."""
    rows = []
    for (label, series), entry in entries.items():
        rows.append({"label": label, "series": series, "chance": chance} | row(entry))
        rows += [{"label": label, "series": series, "value": value} for value in entry["seeds"]]
    return rows


# Retrieval with one caption per picture


def held_back(folder: Path | str, least: int = 100) -> list[shards.Sample]:
    """Return the samples of a data set's test split, and where they are fewer than `least` those of its val split as well.

    Nothing is chosen by the val split here, so it is as unseen as the other.

    Raises:
        DataError: The data set has no test split.
    """
    found = list(benchmarks.samples(folder, "test"))
    if len(found) < least:
        with contextlib.suppress(DataError):
            found += benchmarks.samples(folder, "val")
    return found


def first_ranks(model: Path, samples: Sequence[shards.Sample], device: str = "auto") -> tuple[np.ndarray, np.ndarray]:
    """Rank each picture's first caption among those of all, and the other way round, protocol `one-to-one`.

    Args:
        model: Folder of a trained model.
        samples: The N pictures.
        device: Where it runs.

    Returns:
        (N,) int64 ranks image → text and text → image, 1 being best.
    """
    loaded = weights.load(model, distributed.resolve_device(device))
    parts = [samples[first : first + 256] for first in range(0, len(samples), 256)]
    found = np.concatenate([embed.images(loaded, [images.decode(sample.image) for sample in part]) for part in parts])
    texts = embed.texts(loaded, [sample.captions[0] for sample in samples])
    return retrieval.ranks(found, texts, np.arange(len(samples)))


def chance(n: int, ks: Sequence[int] = (1, 5, 10)) -> float:
    """Return the mean recall at `ks` of a random order of n, in percent."""
    return 100 * float(np.mean(np.minimum(np.array(ks) / n, 1)))
