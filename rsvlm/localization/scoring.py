"""How well maps say where things are: against true masks, beside baselines, with intervals over images.

| metric | of | says |
|---|---|---|
| `pointing` | pairs of an image and a class in it | how often the map's maximum lies in the mask |
| `energy` | pairs | the share of the map, its minimum taken off, that lies in the mask |
| `iou@0.5` | pairs | mean IoU of the mask and the map from half of its own range on |
| `iou_best` | pairs | the same at the one threshold that is best for these very images: a bound, not a result |
| `miou`, `miou_best` | classes, and what is none of them | IoU over all pixels of all images, where the highest map names the class |
| `ap50` | classes | average precision of boxes around the map's parts from half of its range on, at an IoU of 0.5 with true boxes |
| `presence_auc` | classes | how often the maximum of the map is higher in an image with the class than in one without |

All in percent. `metric[CLASS]` is that of one class. Pixels where a map has no data are not scored, nor are those of which the truth is
not known (`true_masks.truth`): maps are cut to what is known of their class before anything is measured, and in `miou` to what is known of
all classes. Where no image has any of the classes, there is nothing to find, and no row.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from rsvlm.errors import DataError
from rsvlm.evaluation import statistics
from rsvlm.localization import agreement, true_masks
from rsvlm.model import images

logger = logging.getLogger(__name__)

RESAMPLES_AT_ONCE = 100

Maps = Callable[[np.ndarray], np.ndarray]
"""From an image (H, W, 3) uint8 to maps (C, H, W) float, or (C + 1, H, W) with one of the background at the end."""


@dataclass(frozen=True)
class Rules:
    """What counts as right.

    Attributes:
        background: Pixels below the threshold are said to be of no class, and that counts like a class in `miou`. Without it each pixel
            gets a class.
        threshold: The fixed threshold, 0 to 1.
        tolerance_px: How far beside the mask the maximum may lie.
        min_px: Parts of fewer pixels become no box.
    """

    background: bool = True
    threshold: float = 0.5
    tolerance_px: int = 0
    min_px: int = 1


@dataclass(frozen=True)
class Measured:
    """What one method did on each image, before any mean is taken.

    Attributes:
        classes: C names.
        keys: N names of images.
        pairs: A row for each image with a class in it: `image label` (numbers), `pointing energy area` (0 to 1; energy is NaN of a
            map that is the same everywhere; area is the share of the image that the mask covers).
        curves: (pairs, BINS) float64, IoU at each threshold.
        cells: (N, thresholds, C + 1, 3) int32, pixels that are said to be of a class, are so truly, and both; background last. One
            threshold alone where the background has its own map.
        presence: (N, C) float64, the maximum of each map.
        present: (N, C) bool.
        told: (N, C) bool, images of which it is known whether they have the class.
        scored: (N,) bool, images with a pixel of which all classes are known.
        boxes: A row for each box around parts of a map: `image label score right`.
        true_boxes: (N, C) int64, their number.
        rules: What counted as right.
    """

    classes: tuple[str, ...]
    keys: tuple[str, ...]
    pairs: pd.DataFrame
    curves: np.ndarray
    cells: np.ndarray
    presence: np.ndarray
    present: np.ndarray
    told: np.ndarray
    scored: np.ndarray
    boxes: pd.DataFrame
    true_boxes: np.ndarray
    rules: Rules

    @property
    def place(self) -> int:
        """Which of the BINS thresholds is the fixed one."""
        return min(round(self.rules.threshold * agreement.BINS), agreement.BINS - 1)


def evaluate(
    items: Iterable[true_masks.Item],
    maps_of: Maps | Mapping[str, Maps],
    classes: Sequence[str],
    rules: Rules = Rules(),
    *,
    dataset: str = "unnamed",
    split: str = "test",
    against: str | Collection[str] = (),
    without: Mapping[str, Collection[str]] | None = None,
    bootstrap_samples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> list[dict]:
    """Score one method or several on the same images, as rows (`results.ROW`) with direction `t2i`.

    Args:
        items: Pictures with masks.
        maps_of: Name → method, or a single one, `maps`; the names are the protocols. Each gets the decoded image.
        classes: C classes, in the order of the maps; masks of other classes count as background.
        rules: What counts as right.
        dataset: Name that goes into the rows.
        split: Name that goes into the rows.
        against: Methods; rows of every other one, but for those of single classes, then also come as differences to each, over the
            same resamples, under the protocol `OTHER - AGAINST`; of two of them the later one minus the earlier.
        without: Name → keys of images; all rows then come again, without these, under the split `SPLIT without NAME`. Where that leaves
            all images or none, they do not, which is logged.
        bootstrap_samples: Number of resamples of the images for the intervals (2.5 to 97.5 percentile); with 0 there are none.
        seed: Seed of the resamples, which are the same for every method.
        progress: Show a bar.

    Raises:
        DataError: As `measure`, or `against` is no method.
    """
    methods = dict(maps_of) if isinstance(maps_of, Mapping) else {"maps": maps_of}
    against = [against] if isinstance(against, str) else list(against)
    if unknown := [name for name in against if name not in methods]:
        raise DataError(f"no method '{unknown[0]}' to compare with: there are {', '.join(methods)}")
    keys, pages = _pages(items, methods, classes, rules, progress)
    result = []
    for listed, left_out in {"": (), **(without or {})}.items():
        part = f"{split} without {listed}" if listed else split
        # Whether a list of pictures fits is known only now, and is no reason to throw the rest away.
        rest = [n for n, key in enumerate(keys) if key not in left_out]
        if not rest or (listed and len(rest) == len(keys)):
            logger.warning("%s: %d of %d images, left out: are there keys such as %s?", part, len(rest), len(keys), keys[0])
            continue
        of_part = {method: _bound(classes, keys, pages[method], rest, rules) for method in methods}
        draws = {name: _draws(one, bootstrap_samples, seed) for name, one in of_part.items()}
        common = {"dataset": dataset, "split": part}
        for name, one in of_part.items():
            result += _rows(one, draws[name], _chances(one), common | {"protocol": name})
        # Differences over the same resamples; of two methods that others are compared with, once.
        for other, name in itertools.product(against, of_part):
            if name != other and not (name in against and against.index(name) < against.index(other)):
                ours = {metric: values for metric, values in draws[name].items() if "[" not in metric}
                result += _rows(of_part[name], ours, {}, common | {"protocol": f"{name} - {other}"}, draws[other])
    statistics.warn_of_few(result, bootstrap_samples)
    return result


def measure(
    items: Iterable[true_masks.Item],
    methods: Mapping[str, Maps],
    classes: Sequence[str],
    rules: Rules = Rules(),
    *,
    progress: bool = False,
) -> dict[str, Measured]:
    """Compare maps with masks, image by image; memory holds one image.

    Thresholds are shares of each map's own range within the image; for `miou`, of the range of all its maps together. Boxes are
    ranked by the highest value of the map inside, as it is. Where a method gives one more map, it is the background's: a pixel is
    background where that map is highest, and no threshold is put.

    Arguments are those of `evaluate`; `methods` is name → method.

    Raises:
        DataError: No class, image or method, a mask or map of another size than its image, or an image that cannot be decoded.
    """
    keys, pages = _pages(items, methods, classes, rules, progress)
    return {method: _bound(classes, keys, pages[method], range(len(keys)), rules) for method in methods}


def rows(
    measured: Measured,
    minus: Measured | None = None,
    *,
    dataset: str = "unnamed",
    split: str = "test",
    protocol: str = "maps",
    bootstrap_samples: int = 1000,
    seed: int = 0,
    blocks: Sequence | np.ndarray | None = None,
) -> list[dict]:
    """Return the metrics of one method with bootstrap intervals over images, or, with `minus`, their differences to another's.

    An interval of a difference that excludes 0 is a difference. The other arguments are those of `evaluate`; `protocol` is the name
    that goes into the rows, and `blocks` are of the images, as for `statistics.bootstrap`.

    Raises:
        DataError: The two methods were measured on other images or classes.
    """
    common = {"dataset": dataset, "split": split, "protocol": protocol}
    draws = _draws(measured, bootstrap_samples, seed, blocks)
    if minus is None:
        return _rows(measured, draws, _chances(measured), common, blocks=blocks)
    if measured.keys != minus.keys or measured.classes != minus.classes:
        raise DataError("the two methods were not measured on the same images and classes: measure them together")
    return _rows(measured, draws, {}, common, _draws(minus, bootstrap_samples, seed, blocks), blocks)


# Parts


def _pages(
    items: Iterable[true_masks.Item], methods: Mapping[str, Maps], classes: Sequence[str], rules: Rules, progress: bool
) -> tuple[list[str], dict[str, list[dict]]]:
    """Names of images, and for each method what `_page` says of each of them."""
    if not classes or len(set(classes)) < len(classes) or not methods:
        raise DataError(f"{len(classes)} classes, {len(methods)} methods: expected at least one of each, and no class twice")
    if not 0 <= rules.threshold <= 1 or rules.tolerance_px < 0:
        raise DataError(f"threshold {rules.threshold}, tolerance {rules.tolerance_px} px: expected 0 to 1, and 0 or more")
    pages: dict[str, list[dict]] = {name: [] for name in methods}
    keys = []
    for item in tqdm(items, desc="compare with masks", unit=" images", disable=not progress):
        image = images.decode(item.image, where=item.key)
        truth = true_masks.truth(item, classes, image.shape[:2])
        for method, maps_of in methods.items():
            maps = _checked_maps(maps_of(image), method, item.key, len(classes), image.shape[:2])
            pages[method].append(_page(maps, truth, rules))
        keys.append(item.key)
    if not keys:
        raise DataError("no image with masks was read: check the folder, and what was left out")
    return keys, pages


def _checked_maps(maps: np.ndarray, method: str, key: str, C: int, size: tuple[int, int]) -> np.ndarray:
    maps = np.ascontiguousarray(maps, np.float32)
    if maps.ndim != 3 or maps.shape[1:] != size or maps.shape[0] not in (C, C + 1):
        wanted = f"expected {(C, *size)}, or one more of the background"
        raise DataError(f"method '{method}' gave maps of shape {maps.shape} for {key}: {wanted}")
    known = np.isfinite(maps)
    return maps if known.all() else np.where(known, maps, np.float32(np.nan))


def _page(maps: np.ndarray, truth: true_masks.Truth, rules: Rules) -> dict:
    """All that `Measured` holds of one image."""
    C, masks = len(truth.masks), truth.masks
    # Maps are cut to what is known: of each class, of the boxes of each class, of all classes.
    of_class, of_boxes, of_all = maps, maps, maps
    ends = boxes_ends = all_ends = agreement.ends(maps)
    if truth.unknown is not None:
        of_class, of_boxes = _cut(maps[:C], truth.unknown), _cut(maps[:C], truth.unboxed)
        of_all = _cut(maps, truth.unknown.any(0))
        ends, boxes_ends, all_ends = agreement.ends(of_class), agreement.ends(of_boxes), agreement.ends(of_all)
    unboxed = truth.unboxed if truth.unboxed is not None else [None] * C
    known, boxes_known, all_known = np.nan_to_num(ends), np.nan_to_num(boxes_ends), np.nan_to_num(all_ends)

    # Of each class that is there, then of boxes, labels and the whole image.
    present = masks.any((1, 2))
    pairs, curves = [], []
    for c in np.flatnonzero(present):
        heat, mask = of_class[c], masks[c]
        area = mask.mean() if truth.unknown is None else mask.sum() / (~truth.unknown[c]).sum()
        pairs.append((c, agreement.pointing(heat, mask, rules.tolerance_px), agreement.energy(heat, mask), area))
        curves.append(agreement.iou_curve(heat, mask, tuple(known[:, c])))
    best = [
        agreement.best_boxes(of_boxes[c], truth.boxes[c], *boxes_known[:, c], rules.threshold, rules.min_px, unboxed[c])
        for c in range(C)
    ]
    return {
        "pairs": pairs,
        "curves": curves,
        "cells": agreement.cells(of_all, masks, all_known[0].min(), all_known[1].max()).astype(np.int32),
        "presence": np.where(np.isnan(ends[1]), -np.inf, ends[1])[:C],
        "present": present,
        "told": truth.told,
        "scored": truth.scored,
        "boxes": np.concatenate([np.insert(part, 0, c, axis=1) for c, part in enumerate(best)]),
        "true_boxes": [len(one) for one in truth.boxes],
    }


def _cut(maps: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    return np.where(unknown, np.float32(np.nan), maps)


def _bound(classes: Sequence[str], keys: list[str], pages: list[dict], chosen: Iterable[int], rules: Rules) -> Measured:
    """Put the pages of some images together."""
    pages, keys = [pages[n] for n in chosen], [keys[n] for n in chosen]
    if len({page["cells"].shape for page in pages}) > 1:
        raise DataError("a method gave a map of the background for some images and none for others: decide on one")
    pairs = [(n, *pair) for n, page in enumerate(pages) for pair in page["pairs"]]
    pairs = pd.DataFrame(pairs, columns=["image", "label", "pointing", "energy", "area"])
    boxes = pd.DataFrame(np.concatenate([page["boxes"] for page in pages]), columns=["label", "score", "right"])
    of_image = np.repeat(range(len(pages)), [len(page["boxes"]) for page in pages])
    return Measured(
        classes=tuple(classes),
        keys=tuple(keys),
        pairs=pairs.astype({"image": int, "label": int}),
        curves=np.array([curve for page in pages for curve in page["curves"]]).reshape(-1, agreement.BINS),
        cells=np.stack([page["cells"] for page in pages]),
        presence=np.array([page["presence"] for page in pages], float),
        present=np.stack([page["present"] for page in pages]),
        told=np.stack([page["told"] for page in pages]),
        scored=np.array([page["scored"] for page in pages], bool),
        boxes=boxes.astype({"label": int, "right": bool}).assign(image=of_image),
        true_boxes=np.array([page["true_boxes"] for page in pages], np.int64),
        rules=rules,
    )


# Means over images, for many resamples at once


def _draws(measured: Measured, samples: int, seed: int, blocks: Sequence | np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Each metric, 0 to 1: first over all images, then over each resample."""
    resamples = statistics.bootstrap(len(measured.keys), samples, seed, RESAMPLES_AT_ONCE, blocks)
    parts = [_metrics(measured, times.astype(float)) for times in resamples]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _groups(m: Measured) -> list[tuple[str, np.ndarray]]:
    """All pairs, and those of each class: suffix of the metric's name, and (pairs,) bool."""
    label = m.pairs["label"].to_numpy()
    groups = [("", np.ones(len(label), bool)), *((f"[{name}]", label == c) for c, name in enumerate(m.classes))]
    return [(suffix, of) for suffix, of in groups if of.any()]


def _metrics(m: Measured, times: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics where image n was drawn times[s, n] times: name → (S,)."""
    metrics: dict[str, np.ndarray] = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        # Means over pairs of an image and a class in it.
        for suffix, of in _groups(m):
            pairs = m.pairs[of]
            weight = times[:, pairs["image"]]
            curves = m.curves[of, m.place, None] if suffix else m.curves[of]
            table = np.column_stack([pairs[["pointing", "energy"]], curves])
            means = (weight @ np.nan_to_num(table)) / (weight @ np.isfinite(table))
            metrics |= {f"pointing{suffix}": means[:, 0], f"energy{suffix}": means[:, 1]}
            metrics[f"iou@{m.rules.threshold:g}{suffix}"] = means[:, 2 if suffix else 2 + m.place]
            if not suffix:
                metrics["iou_best"] = means[:, 2:].max(1)

        # Means over classes, of all pixels, of boxes, and of whole images.
        metrics |= _mean_ious(m, times)
        label, image = m.boxes["label"].to_numpy(), m.boxes["image"].to_numpy(np.int64)
        score, right = m.boxes["score"].to_numpy(float), m.boxes["right"].to_numpy(bool)
        totals, boxes, presence = times @ m.true_boxes, [], []
        for c in range(len(m.classes)):
            of = label == c
            boxes.append(statistics.average_precision(score[of], right[of], totals[:, c], times[:, image[of]]))
            told = m.told[:, c]
            scores = m.presence[told, c], m.present[told, c], times[:, told]
            presence.append(statistics.auc(*scores) if told.any() else np.full(len(times), np.nan))
        for metric, parts in (("ap50", boxes), ("presence_auc", presence)):
            metrics[metric] = _nanmean(np.stack(parts, 1))
            metrics |= {f"{metric}[{name}]": part for name, part in zip(m.classes, parts, strict=True)}
    return metrics


def _mean_ious(m: Measured, times: np.ndarray) -> dict[str, np.ndarray]:
    if not m.present.any():  # of the background alone, whatever says nothing anywhere would be best
        return {}
    sums = (times @ m.cells.reshape(len(m.cells), -1)).reshape(len(times), *m.cells.shape[1:])
    predicted, true, both = np.moveaxis(sums, -1, 0)  # each (S, thresholds, C + 1)
    iou, labels = np.where(true > 0, both / (predicted + true - both), np.nan), [*m.classes, "background"]
    place = m.place if iou.shape[1] > 1 else 0
    if iou.shape[1] > 1 and not m.rules.background:  # nothing is below the first threshold
        iou, labels, place = iou[:, :1, :-1], labels[:-1], 0
    mean = _nanmean(iou)
    best = {"miou_best": mean.max(1)} if mean.shape[1] > 1 else {}
    return {"miou": mean[:, place], **best, **{f"iou[{name}]": iou[:, place, c] for c, name in enumerate(labels)}}


def _nanmean(table: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN."""
    return np.nansum(table, axis=-1) / np.isfinite(table).sum(-1)


def _chances(m: Measured) -> dict[str, float]:
    """What a map that knows nothing gets, 0 to 1, where that follows from the masks alone."""
    areas = {f"{metric}{suffix}": m.pairs["area"][of].mean() for suffix, of in _groups(m) for metric in ("pointing", "energy")}
    return areas | {"presence_auc": 0.5} | {f"presence_auc[{name}]": 0.5 for name in m.classes}


def _units(m: Measured) -> dict[str, int]:
    """Number of images that each metric is a share of, for intervals at 0 and 100 %: those with the class, as far as they are scored."""
    units = {}
    for suffix, of in _groups(m):
        images_of_pairs = m.pairs["image"][of].nunique()
        units |= {
            f"{metric}{suffix}": images_of_pairs for metric in ("pointing", "energy", f"iou@{m.rules.threshold:g}", "iou_best")
        }
    with_class, with_boxes, told = m.present[m.scored].sum(0), (m.true_boxes > 0).sum(0), m.told.sum(0)
    rarer = np.minimum((m.present & m.told).sum(0), told - (m.present & m.told).sum(0))
    for metric, mean, counts in (
        ("iou", "miou", with_class),
        ("ap50", "ap50", with_boxes),
        ("presence_auc", "presence_auc", rarer),
    ):
        units |= {f"{metric}[{name}]": int(count) for name, count in zip(m.classes, counts, strict=True)}
        # A mean over classes varies as if it were over so many images, since those of a rare class count more.
        seen = counts[counts > 0]
        units[mean] = min(round(len(seen) ** 2 / (1 / seen).sum()), len(m.keys)) if len(seen) else 0
    return units | {"miou_best": units["miou"], "iou[background]": int(m.scored.sum())}


def _rows(
    m: Measured,
    draws: Mapping[str, np.ndarray],
    chances: Mapping[str, float],
    common: dict,
    minus: Mapping[str, np.ndarray] | None = None,
    blocks: Sequence | None = None,
) -> list[dict]:
    of_pairs = ("pointing", "energy", f"iou@{m.rules.threshold:g}", "iou_best")
    counts = {f"{metric}{suffix}": int(of.sum()) for suffix, of in _groups(m) for metric in of_pairs}
    labels = ("miou", "miou_best", *(f"iou[{name}]" for name in (*m.classes, "background")))
    counts |= dict.fromkeys(labels, int(m.scored.sum())) | {"presence_auc": int(m.told.any(1).sum())}
    counts |= {f"presence_auc[{name}]": int(m.told[:, c].sum()) for c, name in enumerate(m.classes)}
    most = statistics.count_blocks(blocks, len(m.keys))
    result, images = [], _units(m)
    units = {metric: min(count, most) for metric, count in images.items()}
    for metric, values in draws.items():
        if minus is None:
            numbers = statistics.interval(100 * values, units.get(metric))
        elif metric in minus:
            of_units = units.get(metric), metric.startswith("pointing"), images.get(metric)
            numbers = statistics.gap(100 * values, 100 * minus[metric], *of_units)
        else:
            continue
        if np.isfinite(numbers["value"]):
            row = common | {"direction": "t2i", "metric": metric, **numbers}
            chance = 100 * float(chances[metric]) if metric in chances else None
            result.append(row | {"chance": chance, "n": counts.get(metric, len(m.keys))})
    return result
