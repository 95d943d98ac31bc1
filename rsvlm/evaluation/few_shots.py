"""Few-shot classification: what a handful of labelled pictures of each class add to a model's vectors.

Three ways of using them, and none is fitted to the pictures that are tested:

- `mean`: an image gets the class whose mean vector is nearest (Snell et al., Prototypical Networks, arXiv 1703.05175, equation 1, with
  cosines of whatever vectors there are).
- `text`: logistic regression that starts from the vectors of the classes' texts and is pulled back to them. The idea is Tip-Adapter's
  (Zhang et al., arXiv 2207.09519: text as the prior, shots beside it), in the form of a linear probe of Silva-Rodríguez et al. (A Closer
  Look at the Few-Shot Adaptation of Large Vision-Language Models, arXiv 2312.12730, sections 4.1 and 4.2: the pull is stronger for
  classes that the text tells well already, measured on the shots; no validation set).
- `linear`: logistic regression that knows no text, also on all labelled pictures there are (the linear probe of Radford et al., CLIP,
  arXiv 2103.00020, section 3.2).

The penalty of a few shots is fixed, see `PENALTY` and `PULL`; that of all pictures is chosen on a fifth of them held out.

Letters: T pictures to learn from, N pictures that are tested, E width, C classes.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from rsvlm.data import benchmarks, catalogue
from rsvlm.errors import DataError
from rsvlm.evaluation import by_name, classification, embeddings, given, leakage, statistics
from rsvlm.model import embed
from rsvlm.model.others import opening
from rsvlm.records import files

logger = logging.getLogger(__name__)

SHOTS = (1, 2, 4, 8, 16)
SEEDS = 5
PENALTY = 0.03
"""Half of this times the squared weights is added to the summed loss of the shots, whose vectors are centred and of mean square 1.

CLIP's own example has 1 / 0.316 for vectors that are not scaled: github.com/openai/CLIP, README, "Linear-probe evaluation".
"""

PULL = 1.0
"""The same for the distance from the text's weights, times the text's mean probability of the right class over the shots of the class."""

PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""From which that of the linear probe on all pictures is chosen."""

SCALES = np.append(0, np.geomspace(1, 200, 23))
"""From which the factor of the texts' cosines is chosen, by the loss on the shots; 0 is that of texts which mislead."""


def evaluate(
    known: np.ndarray,
    known_labels: np.ndarray,
    asked: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    texts: Mapping[str, np.ndarray] | None = None,
    *,
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    dataset: str = "unnamed",
    split: str = "test",
    bootstrap_samples: int = 1000,
    seed: int = 0,
    blocks: Sequence | None = None,
    resampled: dict | None = None,
) -> list[dict]:
    """Score each way with each number of shots: rows `{dataset, split, protocol, direction, metric, value, ci_low, ci_high, chance, n}`.

    Protocols are `few-shot mean`, `few-shot linear`, and `few-shot text: NAME` for each prompt set; metrics `top1@4` and
    `balanced_accuracy@4` of four shots to a class, `@all` of all pictures, and for texts `@0` of none. So no such number stands in a
    table beside one that was measured without labelled pictures. Values are means over seeds, each of which draws other shots; intervals
    are over images and seeds together, see `statistics.over_seeds`; those of `@0` and `@all`, which draw nothing, are over images alone.

    Args:
        known: (T, E) of pictures that may be learnt from; none may be among those asked for.
        known_labels: (T,) their classes, integers from 0 to C - 1.
        asked: (N, E) of the pictures that are tested.
        labels: (N,) their classes.
        class_names: C names.
        texts: Prompt sets: name → (C, E) vectors of the classes. If None or empty, the way `text` is left out.
        shots: Numbers of labelled pictures of each class; a class with fewer gives what it has, which the log tells.
        seeds: Number of draws of the shots.
        dataset: Name that goes into the rows.
        split: Name that goes into the rows.
        bootstrap_samples: Number of resamples of the tested pictures.
        seed: Seed of the draws and of the resamples.
        blocks: N blocks, as for `classification.evaluate`.
        resampled: Dictionary that the values over resamples are added to, (R,) under each row's (protocol, direction, metric).

    Raises:
        DataError: Shapes that do not fit, labels out of range, broken vectors, a class with no picture to learn from, or no shots or
            seeds.
    """
    C, texts = len(class_names), dict(texts or {})
    shots = sorted({int(k) for k in shots})
    if C < 2 or not shots or shots[0] < 1 or seeds < 1:
        raise DataError(f"{C} classes, shots {shots}, {seeds} seeds: expected two classes or more, and numbers from 1 on")
    known, known_labels = _checked(known, known_labels, C, "pictures to learn from")
    asked, labels = _checked(asked, labels, C, "pictures to test")
    texts = {name: embed.unit(vectors, f"class embeddings of {name}") for name, vectors in texts.items()}
    for what, vectors in {"to learn from": known, **{f"of prompt set {name}": of for name, of in texts.items()}}.items():
        if vectors.shape[1] != asked.shape[1] or (what != "to learn from" and len(vectors) != C):
            raise DataError(f"vectors {what} are {vectors.shape}: the tested are {asked.shape}, of {C} classes")
    there = np.bincount(known_labels, minlength=C)
    if not there.all():
        missing = class_names[int(np.argmin(there))]
        raise DataError(f"{(there == 0).sum()} of {C} classes have no picture to learn from, as '{missing}': no shots of it")
    if there.min() < shots[-1]:
        few = (there < shots[-1]).sum(), C, shots[-1], there.min()
        logger.warning("%d of %d classes have fewer than %d pictures to learn from, the rarest %d: it gives what it has", *few)

    # What each way says of the tested pictures, after each draw of the shots.
    answers: dict[tuple[str, str], list[np.ndarray]] = {}
    for k in shots:
        for number in range(seeds):
            chosen = draw(known_labels, k, seed=seed, number=number)
            for name, scores in ways(known[chosen], known_labels[chosen], asked, C, texts).items():
                answers.setdefault((name, str(k)), []).append(_hits(scores, labels))
    for name, vectors in texts.items():
        answers[f"text: {name}", "0"] = [_hits(asked @ vectors.T, labels)]
    answers["mean", "all"] = [_hits(nearest_mean(known, known_labels, asked, C), labels)]
    answers["linear", "all"] = [_hits(linear_on_all(known, known_labels, asked, C, seed=seed), labels)]

    # The same resamples of pictures and seeds for all, so that differences are paired.
    times = statistics.resamples(len(asked), bootstrap_samples, seed, blocks)
    measured = {
        (name, f"{metric}@{k}"): _measured(np.array(hits, float), labels, times, metric, seed)
        for (name, k), hits in answers.items()
        for metric in ("top1", "balanced_accuracy")
    }
    of_class = np.bincount(labels, minlength=C)
    units = _units(of_class[of_class > 0], statistics.count_blocks(blocks, len(asked)))
    rows = []
    for name in dict.fromkeys(name for name, _ in measured):
        by_shots = sorted((m for n, m in measured if n == name), key=_place)
        for metric in by_shots:
            values, protocol = measured[name, metric], f"few-shot {name}"
            about = {"dataset": dataset, "split": split, "protocol": protocol, "direction": "i2t", "metric": metric}
            known_ends = statistics.interval(values, units[metric.partition("@")[0]])
            rows.append(about | known_ends | {"chance": 100 / C, "n": len(asked)})
            if resampled is not None:
                resampled[protocol, "i2t", metric] = values
    statistics.warn_of_few(rows, bootstrap_samples)
    return rows


def draw(labels: np.ndarray, shots: int, *, seed: int = 0, number: int = 0) -> np.ndarray:
    """Draw pictures, `shots` of each class or all it has, without replacement; more shots hold those of fewer.

    Returns:
        (at most C · shots,) rows in rising order.
    """
    order = np.random.default_rng([seed, number]).permutation(len(labels))
    place = np.empty(len(labels), np.int64)  # of each picture among those of its class, in the order of the draw
    drawn = np.asarray(labels)[order]
    for label in np.unique(drawn):
        of = order[drawn == label]
        place[of] = np.arange(len(of))
    return np.flatnonzero(place < shots)


def halves(labels: np.ndarray, keys: Sequence[str]) -> np.ndarray:
    """Cut the pictures of each class into two halves by a hash of their keys: (N,) bool, true for those to learn from.

    Of an odd number the tested half has one more. The order of the pictures does not matter, and no seed does.
    """
    ranks = np.array([hashlib.sha256(str(key).encode("utf-8", "surrogateescape")).hexdigest() for key in keys])
    learn = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        of = np.flatnonzero(np.asarray(labels) == label)
        learn[of[np.argsort(ranks[of], kind="stable")][: len(of) // 2]] = True
    return learn


# Ways


def ways(
    known: np.ndarray, labels: np.ndarray, asked: np.ndarray, class_count: int, texts: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the (N, C) scores of each way that learns from these shots, by name."""
    scores = {"mean": nearest_mean(known, labels, asked, class_count), "linear": linear(known, labels, asked, class_count)}
    return scores | {f"text: {name}": from_text(known, labels, asked, vectors) for name, vectors in texts.items()}


def nearest_mean(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, class_count: int) -> np.ndarray:
    """Return (N, C) cosines with the mean of each class's vectors; arguments as of `linear`."""
    means = np.stack([known[labels == c].mean(axis=0) for c in range(class_count)])
    return asked @ (means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)).T


def linear(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, class_count: int, penalty: float = PENALTY) -> np.ndarray:
    """Return (N, C) scores of a logistic regression.

    Args:
        known: (T, E) of norm 1.
        labels: (T,) their classes, each of which is there.
        asked: (N, E) of norm 1.
        class_count: C.
        penalty: As `PENALTY`.
    """
    inputs, of_asked = _inputs(known, asked)
    return of_asked @ _fitted(inputs, labels, np.zeros((len(labels), class_count)), np.full(class_count, penalty))


def linear_on_all(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, class_count: int, *, seed: int = 0) -> np.ndarray:
    """Do the same on all pictures, with the one of `PENALTIES` that is best for a fifth of the pictures to learn from, held out."""
    order = np.random.default_rng(seed).permutation(len(known))
    rest, out = np.sort(order[len(order) // 5 :]), np.sort(order[: len(order) // 5])
    best = PENALTIES[1]
    if len(out) >= 10:
        right = [_hits(linear(known[rest], labels[rest], known[out], class_count, p), labels[out]).mean() for p in PENALTIES]
        best = PENALTIES[int(np.argmax(right))]
    return linear(known, labels, asked, class_count, best)


def from_text(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, texts: np.ndarray, pull: float = PULL) -> np.ndarray:
    """Return (N, C) scores of a logistic regression that starts from (C, E) vectors of texts; other arguments as of `linear`.

    The factor of the texts' cosines is the one of `SCALES` with the smallest loss on the shots.
    """
    cosines = (known @ texts.T).astype(np.float64)
    own = np.arange(len(labels)), labels
    losses = [-np.mean(_log_softmax(scale * cosines)[own]) for scale in SCALES]
    scale = SCALES[int(np.argmin(losses))]
    sure = np.exp(_log_softmax(scale * cosines)[own])
    knows = np.bincount(labels, sure, len(texts)) / np.bincount(labels, minlength=len(texts))
    inputs, of_asked = _inputs(known, asked)
    return scale * (asked @ texts.T) + of_asked @ _fitted(inputs, labels, scale * cosines, pull * knows)


def _inputs(known: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre both by the mean of the former, scale them to its mean square, and add a column of ones; only what the former span is kept."""
    middle = known.mean(axis=0, dtype=np.float64)
    centred = known - middle
    size = max(np.sqrt((centred**2).sum(axis=1).mean()), 1e-12)
    inputs, others = centred / size, (asked - middle) / size
    if len(inputs) < inputs.shape[1]:  # weights outside the span of the pictures would be 0
        basis = np.linalg.qr(inputs.T)[0]
        inputs, others = inputs @ basis, others @ basis
    return np.column_stack([inputs, np.ones(len(inputs))]), np.column_stack([others, np.ones(len(others))])


def _fitted(inputs: np.ndarray, labels: np.ndarray, base: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Weights (r, C) that are added to the scores `base` (T, C): the least Σ loss + ½ Σ penalty[c] weights[:, c]²."""
    x, start = torch.from_numpy(inputs), torch.from_numpy(base)
    targets, strength = torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(penalty) / len(labels)
    strength = strength.clamp_min(1e-6)
    weights = torch.zeros(x.shape[1], base.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weights], max_iter=100, tolerance_grad=1e-6, tolerance_change=1e-8, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(start + x @ weights, targets) + (strength * weights**2).sum() / 2
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return weights.detach().numpy()


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    top = scores - scores.max(axis=1, keepdims=True)
    return top - np.log(np.exp(top).sum(axis=1, keepdims=True))


# Scores


def _hits(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) bool: is the right class above all others? Equal scores count against it."""
    own = scores[np.arange(len(labels)), labels, None]
    return (scores >= own).sum(axis=1) == 1


def _measured(hits: np.ndarray, labels: np.ndarray, times: np.ndarray, metric: str, seed: int) -> np.ndarray:
    """(R,) percent, from (S, N) hits of each seed and (R, N) resamples."""
    times = times.astype(float)
    with np.errstate(invalid="ignore"):
        if metric == "top1":
            values = times @ hits.T / times.sum(axis=1, keepdims=True)
        else:
            of = [labels == c for c in np.unique(labels)]
            values = np.nanmean([times[:, c] @ hits[:, c].T / times[:, c].sum(axis=1, keepdims=True) for c in of], axis=0)
    return statistics.over_seeds(100 * values, seed)


def _units(of_class: np.ndarray, most: int) -> dict[str, int]:
    """Number of independent pictures that each metric is a share of; a mean over classes varies as the small ones do."""
    balanced = max(1, round(len(of_class) ** 2 / (1 / of_class).sum()))
    return {"top1": most, "balanced_accuracy": min(balanced, most)}


def _place(metric: str) -> tuple[bool, float]:
    name, _, k = metric.partition("@")
    return name != "top1", float("inf") if k == "all" else float(k)


def _checked(vectors: np.ndarray, labels: np.ndarray, class_count: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    vectors, labels = embed.unit(vectors, what), np.asarray(labels)
    if not len(vectors) or labels.shape != (len(vectors),) or labels.dtype.kind not in "iu":
        raise DataError(f"{what}: vectors {vectors.shape}, labels {labels.dtype} {labels.shape}: expected a whole number each")
    if labels.min() < 0 or labels.max() >= class_count:
        raise DataError(f"{what}: labels reach from {labels.min()} to {labels.max()}: expected 0…{class_count - 1}")
    return vectors, labels.astype(np.int64)


# By the names of a model and a benchmark


def score(
    model: str,
    root: Path | str | None,
    benchmark: str | None,
    options: by_name.Options,
    *,
    split: str | None = None,
    train_split: str = "train",
    prompts: Mapping[str, Sequence[str]] | None = None,
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
) -> by_name.Evaluation:
    """Score few shots of a model on a benchmark, or of vectors in a file; what `rsvlm evaluate classify --shots` calls.

    Shots come from `train_split`. Where the benchmark has no such split, or every picture is asked for, those of one split are halved, see
    `halves`: the first half gives the shots, the second is tested, and the rows' split says so. `about["shots_from"]` tells which.

    Args:
        model: As for `by_name.retrieve`; a file is one that `given.read_classes` reads.
        root: Folder of the benchmark; of a file not needed.
        benchmark: Name in `catalogue.rows`. If None, what the folder says.
        options: How it is scored.
        split: Split that is tested. If None, every picture there is.
        train_split: Split that shots come from.
        prompts: Prompt sets by name, templates each. If None, `paper`.
        shots: As for `evaluate`.
        seeds: As for `evaluate`.

    Raises:
        DataError: As `evaluate` and `given.read_classes`; or a benchmark that is missing or broken.
        ModelError: As `opening.open_encoder`.
    """
    if str(model).startswith(by_name.FILE):
        tested, known, texts, about = _of_file(model, benchmark, split, train_split)
    else:
        by_name.check(model, root, benchmark, "classification", options.device)
        tested, known, texts, about = _of_model(model, root, benchmark, options, split, train_split, prompts)
    name, source = split or leakage.EVERYTHING, f"split '{train_split}'"
    if known is None:
        learn = halves(tested.labels, tested.keys)
        known, tested = _part(tested, learn), _part(tested, ~learn)
        whole = f"split '{split}'" if split else "all pictures"
        source = f"the first half of {whole}, by a hash of their names; the second is tested"
        name = f"{name}, second half"
    about["shots_from"] = f"{source} ({len(known.labels):,} pictures)"
    draws: dict = {}
    facts = {"dataset": about["benchmark"], "split": name, "seed": options.seed, "resampled": draws}
    facts |= {"bootstrap_samples": options.bootstrap_samples, "shots": shots, "seeds": seeds}
    pictures = known.image_embeddings, known.labels, tested.image_embeddings, tested.labels
    return by_name.Evaluation(evaluate(*pictures, tested.class_names, texts, **facts), about, draws=draws)


def _of_model(
    model: str,
    root: Path | str,
    benchmark: str | None,
    options: by_name.Options,
    split: str | None,
    train_split: str,
    prompts: Mapping[str, Sequence[str]] | None,
) -> tuple[embeddings.Labelled, embeddings.Labelled | None, dict[str, np.ndarray], dict]:
    """What is tested, what is learnt from (None: halves of the former), vectors of the classes' texts, and what it is of."""
    encoder = opening.open_encoder(model, options.device)
    skipped: Counter = Counter()

    def embedded(which: str | None, skipped: Counter) -> embeddings.Labelled:
        names, items = benchmarks.labelled(root, benchmark, which, partial=options.partial, skipped=skipped)
        with tempfile.TemporaryDirectory() as scratch:
            sizes = {"batch_size": options.batch_size, "skipped": skipped}
            return embeddings.read_labelled(embeddings.labelled(encoder, items, Path(scratch), class_names=names, **sizes))

    tested, known = embedded(split, skipped), None
    if split not in (None, leakage.EVERYTHING, train_split):
        try:
            known = embedded(train_split, Counter())
        except DataError as error:
            logger.warning("shots come from one half of split '%s': split '%s' cannot be used, %s", split, train_split, error)
    if known is not None and known.class_names != tested.class_names:
        raise DataError(f"split '{train_split}' has other classes than '{split}': choose another with --train-split")
    texts = {}
    if "texts" in getattr(encoder, "can", ("texts",)):
        sets = prompts or {"paper": catalogue.prompt_set("paper")}
        of_names = encoder, tested.class_names
        texts = {name: classification.class_embeddings(*of_names, lines) for name, lines in sets.items()}
    else:
        logger.warning("%s reads no texts: shots of it start from none", encoder.name)
    return tested, known, texts, by_name.about_model(encoder, root, by_name.title(benchmark, root, "classification"), skipped)


def _of_file(
    model: str, benchmark: str | None, split: str | None, train_split: str
) -> tuple[embeddings.Labelled, embeddings.Labelled | None, dict[str, np.ndarray], dict]:
    """The same, of vectors in a file."""
    path = Path(str(model).removeprefix(by_name.FILE))
    vectors = given.read_classes(path)
    all_of_it = embeddings.Labelled(vectors.keys, vectors.labels, vectors.image_embeddings, vectors.class_names, None)
    texts = {} if vectors.class_embeddings is None else {vectors.prompts: vectors.class_embeddings}
    of_split = {name: np.array([one == name for one in vectors.splits]) for name in set(vectors.splits)}
    tested, known = all_of_it, None
    if split not in (None, leakage.EVERYTHING):
        if split not in of_split:
            there = ", ".join(sorted(of_split)) or "none: leave --split out, and its pictures are halved"
            raise DataError(f"{path} has no split '{split}' in its array `splits`; there are {there}")
        tested = _part(all_of_it, of_split[split])
        if train_split != split and train_split in of_split:
            known = _part(all_of_it, of_split[train_split])
    digest = files.file_sha256(path)
    name = by_name.title(benchmark, None, "classification") if benchmark else path.stem
    about = {"model": path.stem, "fingerprint": digest, "benchmark": name, "data_hash": digest[:16], "skipped": {}}
    return tested, known, texts, about


def _part(whole: embeddings.Labelled, chosen: np.ndarray) -> embeddings.Labelled:
    keys = [key for key, take in zip(whole.keys, chosen, strict=True) if take]
    return embeddings.Labelled(
        keys, whole.labels[chosen], whole.image_embeddings[chosen], whole.class_names, whole.logit_scale
    )
