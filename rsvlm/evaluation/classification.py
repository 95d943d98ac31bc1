"""Zero-shot classification: an image gets the class whose texts are nearest. Accuracy, its interval, confusion, calibration."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rsvlm.errors import DataError
from rsvlm.evaluation import embeddings, statistics
from rsvlm.model import embed

logger = logging.getLogger(__name__)

BINS = 15
"""Of confidence, for the calibration error. Source: Guo et al. 2017 (arXiv 1706.04599), section 5."""


def class_embeddings(encoder: embed.Encoder, class_names: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """Embed classes through prompts: the mean over the templates of embeddings of norm 1, scaled to norm 1 again.

    Args:
        encoder: The model.
        class_names: C names, as they are to be read.
        templates: Sentences with `{class}` or `{}` where the name goes.

    Returns:
        (C, E) float32 of norm 1.

    Raises:
        DataError: No class or template, a name that is blank or there twice, or a template without a place for the name.

    Source: Radford et al. 2021 (CLIP, arXiv 2103.00020), section 3.1.4.
    """
    names = list(class_names)
    if not names or not templates:
        raise DataError(f"{len(names)} classes and {len(templates)} templates: expected at least one of each")
    if wrong := [name for i, name in enumerate(names) if not name.strip() or name in names[:i]]:
        raise DataError(f"the class name {wrong[0]!r} is blank or there twice: its images could not be told from others")
    if wrong := [template for template in templates if "{class}" not in template and "{}" not in template]:
        raise DataError(f"the template {wrong[0]!r} says the same of every class: put {{class}} where the name goes")
    prompts = {template: [template.replace("{class}", name).replace("{}", name) for name in names] for template in templates}
    return embed.unit(np.mean(list(embeddings.caption_variants(encoder, names, prompts).values()), axis=0), "classes")


def evaluate(
    image_embeddings: np.ndarray,
    labels: np.ndarray,
    class_embeddings: np.ndarray | Mapping[str, np.ndarray],
    class_names: Sequence[str],
    *,
    dataset: str = "unnamed",
    split: str = "test",
    protocol: str = "paper",
    ks: Sequence[int] | None = None,
    logit_scale: float | None = None,
    bootstrap_samples: int = 1000,
    seed: int = 0,
    blocks: Sequence | None = None,
    resampled: dict | None = None,
) -> list[dict]:
    """Classification metrics as rows `{dataset, split, protocol, direction, metric, value, ci_low, ci_high, chance, n}`.

    `top1`, `top5`: percent of images whose class is among the k best; another class with the same score counts against it.
    `balanced_accuracy`: the mean over classes of their own top1, `top1[NAME]`; a class without images has none and is left out.
    `ece`: expected calibration error in percent points, see `reliability`. Intervals are `statistics.interval` over bootstrap resamples
    of the images, that of `ece` is `statistics.magnitude_interval`. `chance` is what uniform guessing reaches, k / C.

    Args:
        image_embeddings: (N, E) floating-point; scaled to norm 1.
        labels: (N,) integers, rows of the classes.
        class_embeddings: (C, E); or several prompt sets, name → (C, E), whose names are then the protocols.
        class_names: C names, for the rows.
        dataset: Name that goes into the rows.
        split: Name that goes into the rows.
        protocol: Name of the prompt set, where there is one.
        ks: Ranks that accuracies are of, each below C. If None, those of 1 and 5 that are.
        logit_scale: The model's own factor of cosines. If None, there is no `ece`.
        bootstrap_samples: Number of resamples of the images.
        seed: Seed of the resamples, which are the same for every prompt set.
        blocks: N blocks, equal for images that are not independent: they are resampled whole, as by `statistics.bootstrap`.
        resampled: Dictionary that the values over resamples are added to, (R,) under each row's (protocol, direction, metric).

    Raises:
        DataError: Shapes that do not fit, a label out of range, a vector that is zero, NaN or infinite, or a k that is not
            between 1 and C - 1: with all classes among the k best there is nothing to measure.
    """
    sets = class_embeddings if isinstance(class_embeddings, Mapping) else {protocol: class_embeddings}
    C = len(class_names)
    ks = [k for k in (1, 5) if k < C] if ks is None else list(ks)
    if not sets or not ks or not all(1 <= k < C for k in ks):
        raise DataError(f"{len(sets)} prompt sets, k of {ks}, {C} classes: expected one set or more, every k from 1 to C - 1")
    images = embed.unit(image_embeddings, "image embeddings")
    rows = []
    for name, classes in sets.items():
        if len(classes) != C:
            raise DataError(f"prompt set {name}: {len(classes)} class embeddings for {C} class names: expected one of each")
        label, rank, _, confidence = _judged(images, labels, classes, logit_scale)
        draws = {"count": bootstrap_samples, "seed": seed, "blocks": blocks}
        table = _metrics(label, rank, confidence, class_names, ks, draws)
        rows += [{"dataset": dataset, "split": split, "protocol": name, "direction": "i2t", **row} for row, _ in table]
        if resampled is not None:
            resampled |= {(name, "i2t", row["metric"]): values for row, values in table}
    if absent := C - len(np.unique(labels)):
        missing = f"{absent} of {C} classes have no image"
        logger.warning("%s, %s: %s; balanced accuracy is over the others", dataset, split, missing)
    statistics.warn_of_few(rows, bootstrap_samples)
    return rows


def confusion(image_embeddings: np.ndarray, labels: np.ndarray, class_embeddings: np.ndarray) -> np.ndarray:
    """Count images by true class (rows) and best class (columns): (C, C) int64. Raises as `evaluate`.

    Where another class has the same score as the true one, it is taken: the diagonal sums to what `top1` counts.
    """
    label, _, best, _ = _judged(embed.unit(image_embeddings, "image embeddings"), labels, class_embeddings, None)
    C = len(class_embeddings)
    return np.bincount(label * C + best, minlength=C * C).reshape(C, C)


def reliability(
    image_embeddings: np.ndarray, labels: np.ndarray, class_embeddings: np.ndarray, logit_scale: float, bins: int = BINS
) -> pd.DataFrame:
    """Compare how sure a model is with how often it is right, in bins of equal width.

    Sureness is the largest softmax probability over the classes of `logit_scale` times the cosines. The expected calibration
    error is Σ n |accuracy − confidence| / Σ n.

    Returns:
        One row per bin: `low` and `high` in 0…1, `n` images, their mean `confidence` and `accuracy` in 0…1 (NaN in an empty bin).

    Raises:
        DataError: As `evaluate`.
    """
    images = embed.unit(image_embeddings, "image embeddings")
    _, rank, _, confidence = _judged(images, labels, class_embeddings, logit_scale)
    place = _bin(confidence, bins)
    n, sure, right = (np.bincount(place, weight, bins) for weight in (None, confidence, rank == 1))
    with np.errstate(invalid="ignore"):
        edges = np.linspace(0, 1, bins + 1)
        return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": n, "confidence": sure / n, "accuracy": right / n})


def _judged(
    images: np.ndarray, labels: np.ndarray, classes: np.ndarray, logit_scale: float | None, block: int = 16384
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Give every image its label, the rank of that class, its best class, and the confidence in it (None without a scale)."""
    labels, classes = np.asarray(labels), embed.unit(classes, "class embeddings")
    N, C = len(images), len(classes)
    if not N or labels.shape != (N,) or labels.dtype.kind not in "iu" or images.shape[1] != classes.shape[1]:
        raise DataError(
            f"images {images.shape}, labels {labels.dtype} {labels.shape}, classes {classes.shape}: "
            "expected (N, E), N whole numbers, (C, E), N ≥ 1"
        )
    if labels.min() < 0 or labels.max() >= C:
        raise DataError(f"labels reach from {labels.min()} to {labels.max()}: expected 0…{C - 1}, the {C} classes")
    if logit_scale is not None and not (np.isfinite(logit_scale) and logit_scale > 0):
        raise DataError(f"logit_scale {logit_scale}: expected a factor above 0")
    labels = labels.astype(np.int64)
    rank, best, confidence = np.empty(N, np.int64), np.empty(N, np.int64), np.empty(N)
    for start in range(0, N, block):
        part = slice(start, start + block)
        scores = images[part] @ classes.T  # (n, C)
        own = scores[np.arange(len(scores)), labels[part], None]
        rank[part] = (scores >= own).sum(1)  # itself included: ties count against it
        if logit_scale is not None:
            confidence[part] = 1 / np.exp(logit_scale * (scores - scores.max(1, keepdims=True)).astype(np.float64)).sum(1)
        scores[np.arange(len(scores)), labels[part]] = np.where(rank[part] == 1, np.inf, -np.inf)
        best[part] = scores.argmax(1)
    return labels, rank, best, confidence if logit_scale is not None else None


def _bin(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)  # (low, high]


def _metrics(
    label: np.ndarray, rank: np.ndarray, confidence: np.ndarray | None, names: Sequence[str], ks: Sequence[int], draws: dict
) -> list[tuple[dict, np.ndarray]]:
    """Every metric of one prompt set: value, interval, chance and n, and values over resamples; `draws` as of `statistics.bootstrap`."""
    N, C = len(label), len(names)
    hits = rank[:, None] <= np.asarray(ks)  # (N, K)
    place = None if confidence is None else _bin(confidence, BINS)

    def measured(times: np.ndarray) -> np.ndarray:
        """All metrics where image i was drawn times[i] times, then the gaps of the bins: (K + 1 + 1 + C + BINS,) in percent."""
        seen, total = np.bincount(label, times, C), times.sum()
        with np.errstate(invalid="ignore"):
            own = np.bincount(label, times * (rank == 1), C) / seen
        gaps = np.full(BINS, np.nan)
        if place is not None:
            gaps = np.bincount(place, times * ((rank == 1) - confidence), BINS) / total
        return 100 * np.concatenate([times @ hits / total, [own[seen > 0].mean(), np.abs(gaps).sum()], own, gaps])

    values = np.array([measured(times[0].astype(float)) for times in statistics.bootstrap(N, **draws)])
    values, gaps = values[:, :-BINS], values[:, -BINS:]
    metrics = [f"top{k}" for k in ks] + ["balanced_accuracy", "ece"] + [f"top1[{name}]" for name in names]
    chances = [100 * k / C for k in ks] + [100 / C, None] + [100 / C] * C
    of_class = np.bincount(label, minlength=C)
    counts = [N] * (len(ks) + 2) + of_class.tolist()
    # A mean over classes varies as if it were over so many images, since those of a small class count more.
    seen = of_class[of_class > 0]
    balanced = max(1, round(len(seen) ** 2 / (1 / seen).sum()))
    units = [N] * len(ks) + [balanced, None] + of_class.tolist()
    most = statistics.count_blocks(draws["blocks"], N)
    units = [count if count is None else min(count, most) for count in units]
    table = []
    for name, of_metric, of_units, chance, n in zip(metrics, values.T, units, chances, counts, strict=True):
        if not np.isnan(of_metric[0]):  # no scale, no error; no image, no accuracy
            known = statistics.magnitude_interval(gaps) if name == "ece" else statistics.interval(of_metric, of_units)
            table.append(({"metric": name, **known, "chance": chance, "n": n}, of_metric))
    return table
