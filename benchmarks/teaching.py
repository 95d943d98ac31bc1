"""How fast a search learns: average precision against the number of labels that a simulated user gives.

A set's chips are halved by blocks (pictures; for VHR-10 and Itaipu what was cut from one picture, or lies in one block), anew for each
seed. One half is searched and labelled: the user says of each chip proposed what the set says of it. On the other half, none of which is
ever labelled, average precision is measured, so that no gain comes from chips whose answer was given. Above stands a linear classifier
trained on all labels of the searched half, without the text.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.overhead_pictures import shared
from rsvlm.errors import DataError
from rsvlm.evaluation import statistics

SETS = ("RSICD", "VHR-10", "Itaipu")
POLICIES = {
    "ours": ("auto", True),
    "ours, random choice": ("auto", False),
    "Rocchio": ("rocchio", True),
    "Rocchio, random choice": ("rocchio", False),
}
"""Ways to learn, by what is learnt and whether the chips to label are proposed."""

PROMPT = "An aerial image of {class}"
SIDE_PX = 256  # of chips of VHR-10
LEAST = 3  # chips that show a class, in each half; else the class is left out
FIRST = 20  # chips of the searched half of which the expected number of yes is compared


@dataclass(frozen=True)
class Labelled:
    """N chips: `vectors` (N, E), `texts` (C, E) of the `classes`, `labels` (N, C) 1, 0 or -1 for unknown, and (N,) `blocks`."""

    name: str
    classes: list[str]
    vectors: np.ndarray
    texts: np.ndarray
    labels: np.ndarray
    blocks: np.ndarray


def measure(
    model: str = "",
    benchmark: Sequence[str] = SETS,
    root: str = "",
    split: str = "val",
    n_seeds: int = 10,
    labels: Sequence[int] = (5, 10, 20, 40),
    step: int = 5,
    classes: int = 0,
    device: str = "cpu",
    vectors: str = "",
) -> list[dict]:
    """Teach every class of every set, with every seed and every policy.

    Args:
        model: Name of a model, as for `search index --model`; not needed where all `vectors` are there.
        benchmark: Sets, of `SETS`.
        root: Folder with `rsicd/` and `vhr10/`. If empty, `RSVLM_DATA`, else ../shared/data.
        split: Split of RSICD.
        n_seeds: Number of halvings.
        labels: Numbers of labels after which precision is measured.
        step: Number of labels between two fits.
        classes: Number of classes of each set; 0: all.
        device: Where the model runs.
        vectors: Folder in which vectors are kept, and found again. If empty, they are not.

    Returns:
        Rows `set policy labels value ci_low ci_high share share_low share_high n`: mean average precision over classes in percent, the
        share of the distance from the text alone to the classifier on all labels, both with intervals over classes and seeds; and
        rows of policy `confidence`: how often the expectation's interval held the precision of the searched half's order (`covered`),
        the mean absolute error, and the same for the number of yes among its first 20; and of policy `stop`: after how many labels
        it said that these are enough, in how many cases, and the precision on the other half then and after the last label.

    Raises:
        DataError: A set is unknown or not there.
    """
    unknown = [name for name in benchmark if name not in SETS]
    if unknown or not labels:
        raise DataError(f"sets {unknown}, labels {list(labels)}: expected some of {', '.join(SETS)}, and a number of labels")
    rows = []
    for name in benchmark:
        data = _load(name, model, Path(root) if root else shared(), split, device, Path(vectors) if vectors else None)
        rows += _rows(data, teach_all(data, n_seeds, sorted(labels), step, classes), sorted(labels))
    return rows


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    lines = []
    for row in rows:
        if row["policy"] == "confidence":
            lines.append(
                f"{row['set']:<8}{'expected, in the interval':<26}{row['labels']:>5}  precision {row['covered']:.0f} % of {row['n']} "
                f"(off by {row['error']:.1f} points on average), yes among the first {FIRST} {row['first_covered']:.0f} % "
                f"(off by {row['first_error']:.1f})"
            )
        elif row["policy"] == "stop":
            lines.append(
                f"{row['set']:<8}{'says enough':<26}{row['value']:>7.1f} labels on average in {row['covered']:.0f} % of {row['n']}; "
                f"precision then {row['then']:.1f}, at the last {row['last']:.1f}"
            )
        else:
            share = (
                "" if row["share"] is None else f"{row['share']:>8.0f} % ({row['share_low']:.0f} to {row['share_high']:.0f})"
            )
            value = f"{row['value']:.1f} ({row['ci_low']:.1f} to {row['ci_high']:.1f})"
            lines.append(f"{row['set']:<8}{row['policy']:<26}{row['labels']:>5}  {value:<24}{share}")
    return "\n".join(lines)


def teach_all(data: Labelled, n_seeds: int, labels: Sequence[int], step: int, classes: int = 0) -> list[dict]:
    """Return a record for each class and seed: `class`, `seed`, `text`, `all`, and by policy a list of (labels, precision, beliefs)."""
    records = []
    for seed in range(n_seeds):
        searched = halves(data.blocks, seed)
        for number in range(classes or len(data.classes)):
            known = data.labels[:, number] >= 0
            here, there = np.flatnonzero(searched & known), np.flatnonzero(~searched & known)
            yes, truth = (data.labels[rows, number] == 1 for rows in (here, there))
            if min(yes.sum(), truth.sum()) >= LEAST and min((~yes).sum(), (~truth).sum()) >= LEAST:
                halved = data.vectors[here], yes, data.vectors[there], truth
                records.append({"class": number, "seed": seed} | _taught(data.texts[number], halved, labels, step, seed))
    if not records:
        raise DataError(f"no class of {data.name} is shown by {LEAST} chips of each half")
    return records


def halves(blocks: np.ndarray, seed: int) -> np.ndarray:
    """Draw half of the blocks: (N,) bool, whether a chip is searched and labelled."""
    names = np.unique(blocks)
    drawn = np.random.default_rng(seed).permutation(len(names))[: len(names) // 2]
    return np.isin(blocks, names[drawn])


def all_labels(vectors: np.ndarray, yes: np.ndarray) -> tuple[np.ndarray, float]:
    """Train a logistic regression with an L2 penalty on all labels, without the text: (E,) weights and the offset.

    The penalty is the one of seven with the least loss of each label when left out (approximated to first order).
    """
    middle = vectors.mean(axis=0, dtype=np.float64)
    x = vectors - middle
    spread = np.sqrt((x**2).sum(axis=1).mean())
    x = np.concatenate([x / spread, np.ones((len(x), 1))], axis=1)
    best, w = (np.inf, None), np.zeros(x.shape[1])
    for freedom in (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0):
        penalty = np.append(np.full(x.shape[1] - 1, 1 / freedom), 1e-6)
        for _ in range(30):
            p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
            curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
            move = np.linalg.solve(curvature, x.T @ (yes - p) - penalty * w)
            w = w + move * min(1, 8 / np.abs(x @ move).max())
            if np.abs(x @ move).max() < 1e-4:
                break
        own = np.einsum("ne,ne->n", x, np.linalg.solve(curvature, x.T).T)
        left_out = x @ w - own * (yes - p) / np.maximum(1 - p * (1 - p) * own, 1e-3)
        loss = np.logaddexp(0, -(2 * yes - 1) * left_out).mean()
        best = (loss, w) if loss < best[0] else best
    weights = best[1][:-1] / spread
    return weights, float(best[1][-1] - weights @ middle)


def precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Average precision, 0 to 1."""
    return float(statistics.average_precision(scores, truth, np.array([truth.sum()]), np.ones((1, len(truth))))[0])


def _taught(text: np.ndarray, halved: tuple, labels: Sequence[int], step: int, seed: int) -> dict:
    """Teach one class: the user labels what each policy proposes."""
    from rsvlm.search import confidence, simulated, teaching

    here, yes, there, truth = halved
    about = teaching.space(here, text)
    weights, offset = all_labels(here, yes.astype(float))
    record: dict = {"text": precision(there @ text, truth), "all": precision(there @ weights + offset, truth)}
    for policy, (method, proposed) in POLICIES.items():
        points, told = [], []
        order = np.random.default_rng([seed, zlib.crc32(text.tobytes())]).permutation(len(here))
        how = {"method": method, "at_random": None if proposed else order, "step": step}
        for seen, lesson in simulated.lessons(here, about, yes, labels, **how):
            if not len(seen):
                continue
            beliefs = None
            if policy == "ours":
                beliefs = confidence.expectations(lesson, seen, yes[seen], [min(FIRST, len(here))])
                told += [(len(seen), beliefs["average_precision"]["value"])] if beliefs else []
            if len(seen) in labels or policy == "ours":
                so = precision(lesson.scores, yes), int(yes[lesson.order[:FIRST]].sum())
                value = precision(there @ lesson.weights + lesson.offset, truth)
                points.append((len(seen), value, beliefs, so, confidence.enough(told)))
        record[policy] = points
    return record


def _rows(data: Labelled, records: list[dict], labels: Sequence[int]) -> list[dict]:
    """Sum up what was taught."""
    text, best = (100 * _matrix(records, lambda one, name=name: one[name]) for name in ("text", "all"))
    n, rows = int(np.isfinite(text).sum()), []
    draws = list(_resamples(text.shape))
    common = {"set": data.name, "n": n}

    def row(policy: str, count: int, values: np.ndarray, shares: bool) -> dict:
        means = [_mean(values[draw]) for draw in draws]
        low, high = np.nanpercentile(means[1:], [2.5, 97.5])
        entry = {"policy": policy, "labels": count, "value": float(means[0]), "ci_low": float(low), "ci_high": float(high)}
        share: list = [None] * 3
        if shares:
            gaps = [_mean((best - text)[draw]) or np.nan for draw in draws]
            gains = [100 * _mean((values - text)[draw]) / gap for draw, gap in zip(draws, gaps, strict=True)]
            share = [float(gains[0]), *map(float, np.nanpercentile(gains[1:], [2.5, 97.5]))]
        return common | entry | dict(zip(("share", "share_low", "share_high"), share, strict=True))

    rows.append(row("text alone", 0, text, False))
    for policy in POLICIES:
        for count in labels:
            values = 100 * _matrix(records, lambda one, at=(policy, count): _at(one[at[0]], at[1])[1])
            rows.append(row(policy, count, values, True))
    rows.append(row("all labels of the half", len(data.vectors) // 2, best, False))
    for count in labels:
        believed = [(*p[3], p[2]) for one in records if (p := _at(one["ours"], count))[2]]
        if believed:
            rows.append(common | {"policy": "confidence", "labels": count} | _covered(believed))
    stops = [next((p for p in one["ours"] if p[4]), None) for one in records]
    if any(stops):
        then = [p[1] if p else one["ours"][-1][1] for p, one in zip(stops, records, strict=True)]
        last, when = [one["ours"][-1][1] for one in records], [p[0] for p in stops if p]
        entry = {
            "policy": "stop",
            "labels": labels[-1],
            "value": float(np.mean(when)),
            "covered": 100 * len(when) / len(stops),
        }
        rows.append(common | entry | {"then": 100 * float(np.mean(then)), "last": 100 * float(np.mean(last))})
    return rows


def _covered(believed: list[tuple]) -> dict:
    """Compare expectations with what was so."""
    inside, off, first_inside, first_off = [], [], [], []
    for value, found, beliefs in believed:
        overall, first = beliefs["average_precision"], next(iter(beliefs["first"].values()))
        inside.append(overall["ci_low"] <= value <= overall["ci_high"])
        off.append(abs(overall["value"] - value))
        first_inside.append(first["ci_low"] <= found <= first["ci_high"])
        first_off.append(abs(first["value"] - found))
    shares = {"covered": 100 * np.mean(inside), "error": 100 * np.mean(off)}
    shares |= {"first_covered": 100 * np.mean(first_inside), "first_error": np.mean(first_off)}
    return {name: float(value) for name, value in shares.items()} | {"n": len(believed)}


def _at(points: list[tuple], count: int) -> tuple:
    """The point after so many labels, or the last, where a half has fewer chips."""
    return next((point for point in points if point[0] >= count), points[-1])


def _matrix(records: list[dict], value) -> np.ndarray:
    """Arrange values by class and seed, NaN where a class was left out: (C, S)."""
    classes = sorted({one["class"] for one in records})
    result = np.full((len(classes), 1 + max(one["seed"] for one in records)), np.nan)
    for one in records:
        result[classes.index(one["class"]), one["seed"]] = value(one)
    return result


def _mean(values: np.ndarray) -> float:
    """Mean of what is no NaN; NaN where nothing is, as in a draw of seeds that left a class out."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _resamples(shape: tuple[int, int], count: int = 1000) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw classes and seeds, both with replacement; the first draw is all of them, once."""
    rng = np.random.default_rng(0)
    yield np.ix_(np.arange(shape[0]), np.arange(shape[1]))
    for _ in range(count):
        yield np.ix_(rng.integers(0, shape[0], shape[0]), rng.integers(0, shape[1], shape[1]))


def _load(name: str, model: str, root: Path, split: str, device: str, kept: Path | None) -> Labelled:
    """Embed a set, or find its vectors again."""
    place = kept / f"{name}-{split}.npz" if kept and name == "RSICD" else kept / f"{name}.npz" if kept else None
    if place and place.is_file():
        with np.load(place) as file:
            return Labelled(name, file["classes"].tolist(), *(file[part] for part in ("vectors", "texts", "labels", "blocks")))
    if not model:
        raise DataError(f"no vectors of {name} are kept in {kept}: name a model with --model")
    from rsvlm.evaluation import classification
    from rsvlm.model.others.opening import open_encoder

    encoder = open_encoder(model, device)
    classes, labels, blocks, pictures = {"RSICD": _rsicd, "VHR-10": _vhr10, "Itaipu": _itaipu}[name](root, split)
    from rsvlm.model import embed
    from rsvlm.records import text

    vectors = np.concatenate([embed.unit(encoder.images(batch), name) for batch in text.batched(pictures, 64)])
    texts = classification.class_embeddings(encoder, classes, [PROMPT])
    data = Labelled(name, classes, vectors, texts, np.asarray(labels, np.int8), np.asarray(blocks))
    if place:
        place.parent.mkdir(parents=True, exist_ok=True)
        parts = {part: getattr(data, part) for part in ("vectors", "texts", "labels", "blocks")}
        np.savez(place, classes=np.array(classes), **parts)
    return data


def _rsicd(root: Path, split: str) -> tuple[list[str], np.ndarray, np.ndarray, Iterator[np.ndarray]]:
    """Pictures of RSICD by the scene class in their names."""
    from rsvlm.data import benchmarks
    from rsvlm.model import images

    folder = root / "rsicd" if (root / "rsicd").is_dir() else root
    classes, items = benchmarks.labelled(folder, "RSICD-scenes", split, partial=True)
    items = list(items)
    labels = np.array([label for *_, label in items])[:, None] == np.arange(len(classes))
    return classes, labels, np.arange(len(items)), (images.decode(data) for _, data, _ in items)


def _vhr10(root: Path, split: str) -> tuple[list[str], np.ndarray, np.ndarray, Iterator[np.ndarray]]:
    """Chips of VHR-10's pictures: a chip shows a class if half of the box of one of its objects lies in it; less is unknown."""
    from rsvlm.model import images

    folder = root / "vhr10"
    try:
        content = json.loads((folder / "instances.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no VHR-10 ({error}): give --root, or set RSVLM_DATA") from None
    numbers = {int(one["id"]): place for place, one in enumerate(content["categories"])}
    boxes: dict[int, list[tuple]] = {}
    for one in content["annotations"]:
        box = json.loads(one["bbox"]) if isinstance(one["bbox"], str) else one["bbox"]
        boxes.setdefault(int(one["image_id"]), []).append((numbers[int(one["category_id"])], *box))
    chips = []
    for one in content["images"]:
        height, width = int(one["height"]), int(one["width"])
        for row in range(max(height // SIDE_PX, 1)):
            for column in range(max(width // SIDE_PX, 1)):
                top, left = (max((size % SIDE_PX) // 2, 0) + SIDE_PX * at for size, at in ((height, row), (width, column)))
                top, left = (top if height >= SIDE_PX else 0), (left if width >= SIDE_PX else 0)
                labels = np.zeros(len(numbers), np.int8)
                for label, x, y, w, h in boxes.get(int(one["id"]), []):
                    across, down = min(x + w, left + SIDE_PX) - max(x, left), min(y + h, top + SIDE_PX) - max(y, top)
                    inside = max(across, 0) * max(down, 0) / max(w * h, 1e-9)
                    if inside >= 0.5:
                        labels[label] = 1
                    elif inside > 0 and not labels[label]:
                        labels[label] = -1
                chips.append((one["file_name"], int(one["id"]), top, left, labels))

    def pictures() -> Iterator[np.ndarray]:
        name, pixels = "", np.empty(0)
        for file, _, top, left, _ in chips:
            if file != name:
                name, pixels = file, images.decode((folder / "images" / file).read_bytes())
            yield pixels[top : top + SIDE_PX, left : left + SIDE_PX]

    classes = [one["name"].replace("_", " ") for one in content["categories"]]
    return classes, np.array([chip[4] for chip in chips]), np.array([chip[1] for chip in chips]), pictures()


def _itaipu(root: Path, split: str) -> tuple[list[str], np.ndarray, np.ndarray, Iterator[np.ndarray]]:
    """Chips of the south of Itaipu by what two looks saw in them; the north chose the priors."""
    from rsvlm.data.demo import ground, itaipu

    seen = itaipu.labels()
    seen = seen[seen["split"] == "test"]
    names = list(itaipu.LABELS)
    pictures = itaipu.pictures(ground.itaipu(), seen.index.tolist())
    return names, seen[names].to_numpy(), np.array([itaipu.block(chip) for chip in seen.index]), iter(pictures)
