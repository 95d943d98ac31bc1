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

All in percent. `metric[CLASS]` is that of one class. Pixels where a map has no data are not scored.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from rsvlm import images, kernels, maskfiles, masks
from rsvlm.errors import DataError

logger = logging.getLogger(__name__)

BINS = 100
"""Thresholds that are tried: k / BINS of a map's range."""

MOST_BOXES = 100
"""Boxes of a class in an image that count, the best ones, as in COCO's own evaluation; noise would have thousands."""

RESAMPLES_AT_ONCE = 100

Maps = Callable[[np.ndarray], np.ndarray]
"""From an image (H, W, 3) uint8 to maps (C, H, W) float, or (C + 1, H, W) with one of the background at the end."""


@dataclass(frozen=True)
class Measured:
    """What one method did on each image, before any mean is taken.

    Attributes:
        classes: C names.
        keys: N names of images.
        pairs: A row for each image with a class in it: `image label` (numbers), `pointing energy area` (0 to 1; energy is NaN of a
            map that is the same everywhere; area is the share of the image that the mask covers).
        curves: (pairs, BINS) float64, IoU at each threshold.
        cells: (N, thresholds, C + 1, 3) int32, pixels that are told to be of a class, are so truly, and both; background last. One
            threshold alone where the background has its own map.
        presence: (N, C) float64, the maximum of each map.
        present: (N, C) bool.
        boxes: A row for each box found: `image label score right`.
        true_boxes: (N, C) int64, their number.
        background: Whether what is no class counts in `miou`.
        threshold: Where in 0 to 1 the fixed threshold is.
    """

    classes: tuple[str, ...]
    keys: tuple[str, ...]
    pairs: pd.DataFrame
    curves: np.ndarray
    cells: np.ndarray
    presence: np.ndarray
    present: np.ndarray
    boxes: pd.DataFrame
    true_boxes: np.ndarray
    background: bool
    threshold: float

    @property
    def place(self) -> int:
        """Which of the BINS thresholds is the fixed one."""
        return min(round(self.threshold * BINS), BINS - 1)


def evaluate(
    items: Iterable[maskfiles.Item],
    maps_of: Maps | Mapping[str, Maps],
    classes: Sequence[str],
    *,
    dataset: str = "unnamed",
    split: str = "test",
    protocol: str = "maps",
    against: str | Collection[str] = (),
    without: Mapping[str, Collection[str]] | None = None,
    background: bool = True,
    threshold: float = 0.5,
    tolerance_px: int = 0,
    min_px: int = 1,
    bootstrap_samples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> list[dict]:
    """Score one method or several on the same images, as rows (`results.ROW`) with direction `t2i`.

    Args:
        items: Pictures with masks.
        maps_of: A method, or name → method; the names are then the protocols. Each gets the decoded image.
        classes: C classes, in the order of the maps; masks of other classes count as background.
        dataset: Name that goes into the rows.
        split: Name that goes into the rows.
        protocol: Name of the method, where there is one.
        against: Methods; rows of every other one, but for those of single classes, then also come as differences to each, over the
            same resamples, under the protocol `OTHER - AGAINST`; of two of them the later one minus the earlier.
        without: Name → keys of images; all rows then come again, without these, under the split `SPLIT without NAME`. Where that leaves
            all images or none, they do not, which is logged.
        background: See `measure`.
        threshold: See `measure`.
        tolerance_px: See `measure`.
        min_px: See `measure`.
        bootstrap_samples: Resamples of the images for the intervals (2.5 to 97.5 percentile); 0: no intervals.
        seed: Of the bootstrap; every method meets the same resamples.
        progress: Show a bar.

    Raises:
        DataError: As `measure`, or `against` is no method.
    """
    methods = dict(maps_of) if isinstance(maps_of, Mapping) else {protocol: maps_of}
    against = [against] if isinstance(against, str) else list(against)
    if unknown := [name for name in against if name not in methods]:
        raise DataError(f"no method '{unknown[0]}' to compare with: there are {', '.join(methods)}")
    options = {"background": background, "threshold": threshold, "tolerance_px": tolerance_px, "min_px": min_px}
    found = measure(items, methods, classes, progress=progress, **options)
    keys = next(iter(found.values())).keys
    result = []
    for part, left_out in ({"": ()} | {f" without {name}": some for name, some in (without or {}).items()}).items():
        kept = np.array([key not in left_out for key in keys])
        if not kept.any() or (part and kept.all()):  # known only now, and no reason to throw the rest away
            logger.warning(
                "%s%s: %d of %d images, left out: are there keys such as %s?", split, part, kept.sum(), len(keys), keys[0]
            )
            continue
        some = {name: subset(one, kept) for name, one in found.items()}
        drawn = {name: _drawn(one, bootstrap_samples, seed) for name, one in some.items()}
        common = {"dataset": dataset, "split": f"{split}{part}"}
        for name, one in some.items():
            result += _rows(one, drawn[name], _chances(one), common | {"protocol": name})
        for other, name in itertools.product(against, some):
            if name != other and not (name in against and against.index(name) < against.index(other)):
                gain = {m: v for m, v in _minus(drawn[name], drawn[other]).items() if "[" not in m}
                result += _rows(some[name], gain, {}, common | {"protocol": f"{name} - {other}"})
    return result


def measure(
    items: Iterable[maskfiles.Item],
    methods: Mapping[str, Maps],
    classes: Sequence[str],
    *,
    background: bool = True,
    threshold: float = 0.5,
    tolerance_px: int = 0,
    min_px: int = 1,
    progress: bool = False,
) -> dict[str, Measured]:
    """Compare maps with masks, image by image; memory holds one image.

    Thresholds are shares of each map's own range within the image; for `miou`, of the range of all its maps together. Boxes are
    ranked by the highest value of the map inside, as it is. Where a method gives one more map, it is the background's: a pixel is
    background where that map is highest, and no threshold is put.

    Args:
        items: As for `evaluate`.
        methods: Name → method.
        classes: As for `evaluate`.
        background: Pixels below the threshold are told to be no class, and that counts like a class in `miou`. Without it each pixel
            gets a class.
        threshold: The fixed threshold, 0 to 1.
        tolerance_px: How far beside the mask the maximum may lie.
        min_px: Parts of fewer pixels become no box.
        progress: Show a bar.

    Raises:
        DataError: No class, image or method, a mask or map of another size than its image, or an image that cannot be decoded.
    """
    names = list(classes)
    if not names or len(set(names)) < len(names) or not methods:
        raise DataError(f"{len(names)} classes, {len(methods)} methods: expected at least one of each, and no class twice")
    if not 0 <= threshold <= 1 or tolerance_px < 0:
        raise DataError(f"threshold {threshold}, tolerance {tolerance_px} px: expected 0 to 1, and 0 or more")
    pages: dict[str, list[dict]] = {name: [] for name in methods}
    keys = []
    for item in tqdm(items, desc="compare with masks", unit=" images", disable=not progress):
        image = images.decode(item.image)
        truth = _stack(item, names, image.shape[:2])
        boxes = [_true_boxes(item, name, truth[c]) for c, name in enumerate(names)]
        for method, maps_of in methods.items():
            found = _checked_maps(maps_of(image), method, item.key, len(names), image.shape[:2])
            pages[method].append(_page(found, truth, boxes, threshold, tolerance_px, min_px))
        keys.append(item.key)
    if not keys:
        raise DataError("no image with masks was read: check the folder, and what was left out")
    return {name: _bound(names, keys, found, background, threshold) for name, found in pages.items()}


def rows(
    measured: Measured,
    *,
    dataset: str = "unnamed",
    split: str = "test",
    protocol: str = "maps",
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> list[dict]:
    """Metrics of one method with bootstrap intervals over its images; see `evaluate`."""
    drawn = _drawn(measured, bootstrap_samples, seed)
    return _rows(measured, drawn, _chances(measured), {"dataset": dataset, "split": split, "protocol": protocol})


def difference(
    one: Measured,
    other: Measured,
    *,
    dataset: str = "unnamed",
    split: str = "test",
    protocol: str = "difference",
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> list[dict]:
    """Metrics of one method minus those of another on the same images; an interval that excludes 0 is a difference.

    Raises:
        DataError: Other images or classes.
    """
    if one.keys != other.keys or one.classes != other.classes:
        raise DataError("the two methods were not measured on the same images and classes: measure them together")
    drawn = _minus(*(_drawn(measured, bootstrap_samples, seed) for measured in (one, other)))
    return _rows(one, drawn, {}, {"dataset": dataset, "split": split, "protocol": protocol})


def subset(measured: Measured, kept: np.ndarray) -> Measured:
    """What was measured on some of the images alone.

    Args:
        measured: What was measured on N images.
        kept: (N,) bool.
    """
    number = np.cumsum(kept) - 1
    pairs, boxes = (table[kept[table["image"]]] for table in (measured.pairs, measured.boxes))
    return replace(
        measured,
        keys=tuple(np.array(measured.keys, object)[kept]),
        pairs=pairs.assign(image=number[pairs["image"]]).reset_index(drop=True),
        boxes=boxes.assign(image=number[boxes["image"]]).reset_index(drop=True),
        curves=measured.curves[kept[measured.pairs["image"]]],
        **{name: getattr(measured, name)[kept] for name in ("cells", "presence", "present", "true_boxes")},
    )


# One image


def pointing(heat: np.ndarray, mask: np.ndarray, tolerance_px: int = 0) -> float:
    """Return 1 where the maximum of a map lies in the mask, else 0; of several equal maxima the share that does.

    Args:
        heat: (H, W); what is not finite cannot be the maximum.
        mask: (H, W) bool.
        tolerance_px: A maximum within a square of this radius around a pixel of the mask counts too.

    Source: Zhang et al. 2016 (arXiv 1608.00507), section 4.1, without its 15 pixels of tolerance.
    """
    there = np.isfinite(heat)
    if not there.any():
        return 0.0
    if tolerance_px:
        mask = kernels.smooth_pool(np.zeros(mask.shape, np.float32), mask.astype(np.float32), 2 * tolerance_px + 1) > 0
    return float(mask[there & (heat == heat[there].max())].mean())


def energy(heat: np.ndarray, mask: np.ndarray) -> float:
    """Return the share of a map's sum that lies in the mask, once its minimum is taken off; NaN where nothing is left.

    Source: Wang et al. 2020 (Score-CAM, arXiv 1910.01279), section 4.3, which has no negative values to begin with.
    """
    there = np.isfinite(heat)
    if not there.any():
        return np.nan
    values = np.where(there, heat, 0).astype(np.float64) - heat[there].min()
    values[~there] = 0
    total = values.sum()
    return float(values[mask].sum() / total) if total > 0 else np.nan


def iou_curve(heat: np.ndarray, mask: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """Return the IoU of the mask and {heat at or above low + k / BINS · (high - low)} for k from 0 to BINS - 1.

    Args:
        heat: (H, W) numbers; pixels that are not finite are left out.
        mask: (H, W) bool.
        value_range: low and high; none: the map's own.

    Returns:
        (BINS,) float64; NaN where neither mask nor map has a pixel.

    Raises:
        DataError: Shapes that differ.
    """
    heat, mask = np.ascontiguousarray(heat, np.float32), np.ascontiguousarray(mask, bool)
    if heat.ndim != 2 or heat.shape != mask.shape:
        raise DataError(f"a map of shape {heat.shape} and a mask of shape {mask.shape}: expected (H, W) of both")
    low, high = value_range or np.nan_to_num(_ends(np.where(np.isfinite(heat), heat, np.nan)[None])[:, 0])
    counts = kernels.heat_counts(heat, mask, low, high, BINS)
    outside, inside = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return inside / (counts[1].sum() + outside)


def average_precision(score: np.ndarray, right: np.ndarray, total: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Area under precision against recall, precision being the best at that recall or a higher one.

    Args:
        score: (D,) of what was found; of equal ones the wrong come first.
        right: (D,) bool.
        total: (S,) number of all true ones.
        times: (S, D), how often each counts: one row for each resample.

    Returns:
        (S,) float64, 0 to 1; NaN where there is nothing to find.
    """
    order = np.lexsort((right, -score))
    hits = times[:, order] * right[order]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(np.cumsum(hits, 1) / np.cumsum(times[:, order], 1))
        best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        return np.where(total > 0, (best * hits).sum(1) / total, np.nan)


def presence_auc(score: np.ndarray, present: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Probability that an image with the class scores higher than one without, equal scores by half.

    Args:
        score: (N,).
        present: (N,) bool.
        times: (S, N), how often each image counts.

    Returns:
        (S,) float64, 0 to 1; NaN without both kinds.
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], score[order][1:] != score[order][:-1]]))  # of runs of equal scores
    with_it, without = (np.add.reduceat(times[:, order] * kind[order], starts, 1) for kind in (present, ~present))
    below = np.cumsum(without, 1) - without / 2
    with np.errstate(invalid="ignore"):
        return (with_it * below).sum(1) / (with_it.sum(1) * without.sum(1))


# Baselines


def random_map(shape: tuple[int, int], rng: np.random.Generator, cells: int = 8) -> np.ndarray:
    """Uniform noise on a grid of `cells` × `cells`, enlarged as maps of patches are: (H, W) float32, 0 to 1."""
    noise = Image.fromarray(rng.random((cells, cells), np.float32))
    return np.asarray(noise.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def centre_map(shape: tuple[int, int]) -> np.ndarray:
    """A Gaussian in the middle, its deviation a quarter of each side: (H, W) float32, 0 to 1."""
    y, x = (((np.arange(n) + 0.5) / n - 0.5) / 0.25 for n in shape)
    return np.exp(-(y[:, None] ** 2 + x**2) / 2).astype(np.float32)


def brightness_map(image: np.ndarray) -> np.ndarray:
    """How much the brightness changes from pixel to pixel, mean over a window of a sixteenth of the longer side.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (H, W) float32.
    """
    luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
    slopes = [np.gradient(luma, axis=axis) if luma.shape[axis] > 1 else np.zeros_like(luma) for axis in (0, 1)]
    window = max(luma.shape) // 32 * 2 + 1
    return kernels.smooth_pool(np.zeros(luma.shape, np.float32), np.hypot(*slopes).astype(np.float32), window)


def baselines(classes: Sequence[str], seed: int = 0) -> dict[str, Maps]:
    """Methods that know nothing of the text: `random`, `centre` and `brightness`, for `evaluate`.

    The last two give one map to every class; which class it names is drawn for each image, so that no class is favoured. What is
    drawn depends on the seed and the image alone, not on the order of images.
    """
    C = len(classes)

    def rng(image: np.ndarray) -> np.random.Generator:
        return np.random.default_rng([seed, *image.shape[:2], int(image.sum(dtype=np.int64))])

    def shared(image: np.ndarray, one: np.ndarray) -> np.ndarray:
        order = rng(image).permutation(C).astype(np.float32)
        return one * (1 + 1e-6 * order[:, None, None])

    return {
        "random": lambda image: np.stack([random_map(image.shape[:2], draw) for draw in rng(image).spawn(C)]),
        "centre": lambda image: shared(image, centre_map(image.shape[:2])),
        "brightness": lambda image: shared(image, brightness_map(image)),
    }


# Parts


def _stack(item: maskfiles.Item, classes: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    truth = np.zeros((len(classes), *size), bool)
    for c, name in enumerate(classes):
        if name in item.masks:
            if item.masks[name].shape != size:
                raise DataError(
                    f"{item.key}: the mask of '{name}' is {item.masks[name].shape}, the image {size}: expected equal sizes, as from maskfiles.read"
                )
            truth[c] = item.masks[name]
    return truth


def _true_boxes(item: maskfiles.Item, name: str, mask: np.ndarray) -> np.ndarray:
    """(m, 4): of the things that the data tell apart, else of the parts of the mask."""
    if "boxes" in item.record:
        return np.asarray(item.record["boxes"].get(name, np.zeros((0, 4))), np.float64).reshape(-1, 4)
    return masks.boxes(masks.components(mask)).astype(np.float64)


def _checked_maps(found: np.ndarray, method: str, key: str, C: int, size: tuple[int, int]) -> np.ndarray:
    found = np.ascontiguousarray(found, np.float32)
    if found.ndim != 3 or found.shape[1:] != size or found.shape[0] not in (C, C + 1):
        raise DataError(
            f"method '{method}' gave maps of shape {found.shape} for {key}: expected {(C, *size)}, or one more of the background"
        )
    known = np.isfinite(found)
    return found if known.all() else np.where(known, found, np.float32(np.nan))


def _ends(maps: np.ndarray) -> np.ndarray:
    """Lowest and highest value of each map (C, H, W), whose unknown pixels are NaN: (2, C) float64, NaN where nothing is known."""
    flat = maps.reshape(len(maps), -1)
    return np.array([np.fmin.reduce(flat, axis=1), np.fmax.reduce(flat, axis=1)], np.float64)


def _cells(found: np.ndarray, truth: np.ndarray, low: float, high: float) -> np.ndarray:
    """(thresholds, C + 1, 3): pixels told, true, and both; one threshold alone, which nothing is below, if the background has a map."""
    C = len(truth)
    with_map = len(found) == C + 1
    full = np.concatenate([truth, ~truth.any(0)[None]]) if with_map else truth
    counts, true = kernels.label_counts(found, full, low, high, BINS)
    if with_map:
        return np.stack([counts[: C + 1, :, 0].sum(1), true, counts[: C + 1, :, 1].sum(1)], -1)[None]
    above = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]  # (C + 1, BINS, 2) from each threshold on
    cells = np.empty((BINS, C + 1, 3), np.int64)
    cells[:, :C, 0], cells[:, :C, 1], cells[:, :C, 2] = above[:C, :, 0].T, true, above[:C, :, 1].T
    everything, free = counts[C].sum(0)
    cells[:, C, 0], cells[:, C, 1], cells[:, C, 2] = everything - above[C, :, 0], free, free - above[C, :, 1]
    return cells


def _page(
    found: np.ndarray, truth: np.ndarray, boxes: list[np.ndarray], threshold: float, tolerance_px: int, min_px: int
) -> dict:
    """All that is kept of one image."""
    C = len(truth)
    ends = _ends(found)
    known = np.nan_to_num(ends)
    page: dict = {"pairs": [], "curves": [], "present": truth.any((1, 2)), "true_boxes": [len(one) for one in boxes]}
    page["cells"] = _cells(found, truth, known[0].min(), known[1].max()).astype(np.int32)
    page["presence"] = np.where(np.isnan(ends[1]), -np.inf, ends[1])[:C]
    for c in np.flatnonzero(page["present"]):
        heat, mask = found[c], truth[c]
        page["pairs"].append((c, pointing(heat, mask, tolerance_px), energy(heat, mask), mask.mean()))
        page["curves"].append(iou_curve(heat, mask, tuple(known[:, c])))
    page["boxes"] = np.concatenate([_boxes(found[c], c, *known[:, c], boxes[c], threshold, min_px) for c in range(C)])
    return page


def _boxes(heat: np.ndarray, c: int, low: float, high: float, truth: np.ndarray, threshold: float, min_px: int) -> np.ndarray:
    """(n, 3) float64 of the best boxes of a map, best first: class, highest value inside, whether it is right."""
    if not high > low:
        return np.zeros((0, 3))
    labels = masks.components(heat >= low + threshold * (high - low), min_px)
    parts = masks.boxes(labels).astype(np.float64)
    peaks = np.full(len(parts), -np.inf)
    flat = labels.ravel()  # by runs of equal labels, of which there are few
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    run, most = flat[starts], np.maximum.reduceat(heat.ravel(), starts)
    np.maximum.at(peaks, run[run > 0] - 1, most[run > 0])
    order = np.argsort(-peaks, kind="stable")[:MOST_BOXES]
    right = kernels.match_boxes(parts[order], truth, 0.5)
    return np.column_stack([np.full(len(order), float(c)), peaks[order], right])


def _bound(names: list[str], keys: list[str], pages: list[dict], background: bool, threshold: float) -> Measured:
    if len({page["cells"].shape for page in pages}) > 1:
        raise DataError("a method gave a map of the background for some images and none for others: decide on one")
    pairs = [(n, *pair) for n, page in enumerate(pages) for pair in page["pairs"]]
    boxes = pd.DataFrame(np.concatenate([page["boxes"] for page in pages]), columns=["label", "score", "right"])
    boxes = boxes.astype({"label": int, "right": bool}).assign(
        image=np.repeat(range(len(pages)), [len(p["boxes"]) for p in pages])
    )
    return Measured(
        classes=tuple(names),
        keys=tuple(keys),
        pairs=pd.DataFrame(pairs, columns=["image", "label", "pointing", "energy", "area"]).astype(
            {"image": int, "label": int}
        ),
        curves=np.array([curve for page in pages for curve in page["curves"]]).reshape(-1, BINS),
        cells=np.stack([page["cells"] for page in pages]),
        presence=np.array([page["presence"] for page in pages], float),
        present=np.stack([page["present"] for page in pages]),
        boxes=boxes,
        true_boxes=np.array([page["true_boxes"] for page in pages], np.int64),
        background=background,
        threshold=threshold,
    )


# Means over images, for many resamples at once


def _drawn(measured: Measured, samples: int, seed: int) -> dict[str, np.ndarray]:
    """Each metric, 0 to 1: first over all images, then over each resample."""
    N, rng = len(measured.keys), np.random.default_rng(seed)
    parts = [_values(measured, np.ones((1, N)))]
    for start in range(0, samples, RESAMPLES_AT_ONCE):
        count = min(RESAMPLES_AT_ONCE, samples - start)
        parts.append(
            _values(measured, np.stack([np.bincount(rng.integers(0, N, N), minlength=N) for _ in range(count)]).astype(float))
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _groups(m: Measured) -> list[tuple[str, np.ndarray]]:
    """All pairs, and those of each class: suffix of the metric's name, and (pairs,) bool."""
    label = m.pairs["label"].to_numpy()
    groups = [("", np.ones(len(label), bool)), *((f"[{name}]", label == c) for c, name in enumerate(m.classes))]
    return [(suffix, of) for suffix, of in groups if of.any()]


def _values(m: Measured, times: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics where image n was drawn times[s, n] times: name → (S,)."""
    found: dict[str, np.ndarray] = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for suffix, of in _groups(m):
            pairs = m.pairs[of]
            weight = times[:, pairs["image"]]
            table = np.column_stack(
                [pairs[["pointing", "energy"]], m.curves[of] if not suffix else m.curves[of, m.place, None]]
            )
            means = (weight @ np.nan_to_num(table)) / (weight @ np.isfinite(table))
            found |= {f"pointing{suffix}": means[:, 0], f"energy{suffix}": means[:, 1]}
            found[f"iou@{m.threshold:g}{suffix}"] = means[:, 2 if suffix else 2 + m.place]
            if not suffix:
                found["iou_best"] = means[:, 2:].max(1)
        found |= _mean_ious(m, times)
        label, image = m.boxes["label"].to_numpy(), m.boxes["image"].to_numpy(np.int64)
        score, right = m.boxes["score"].to_numpy(float), m.boxes["right"].to_numpy(bool)
        of_class = [label == c for c in range(len(m.classes))]
        totals = times @ m.true_boxes
        boxes = [average_precision(score[of], right[of], totals[:, c], times[:, image[of]]) for c, of in enumerate(of_class)]
        presence = [presence_auc(m.presence[:, c], m.present[:, c], times) for c in range(len(m.classes))]
        for metric, parts in (("ap50", boxes), ("presence_auc", presence)):
            found |= {metric: _nanmean(np.stack(parts, 1))}
            found |= {f"{metric}[{name}]": part for name, part in zip(m.classes, parts, strict=True)}
    return found


def _mean_ious(m: Measured, times: np.ndarray) -> dict[str, np.ndarray]:
    sums = (times @ m.cells.reshape(len(m.cells), -1)).reshape(len(times), *m.cells.shape[1:])
    told, true, both = np.moveaxis(sums, -1, 0)  # each (S, thresholds, C + 1)
    iou, labels = np.where(true > 0, both / (told + true - both), np.nan), [*m.classes, "background"]
    place = m.place if iou.shape[1] > 1 else 0
    if iou.shape[1] > 1 and not m.background:  # nothing is below the first threshold
        iou, labels, place = iou[:, :1, :-1], labels[:-1], 0
    mean = _nanmean(iou)
    found = {"miou": mean[:, place]} | ({"miou_best": mean.max(1)} if mean.shape[1] > 1 else {})
    return found | {f"iou[{name}]": iou[:, place, c] for c, name in enumerate(labels)}


def _nanmean(table: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN."""
    return np.nansum(table, axis=-1) / np.isfinite(table).sum(-1)


def _chances(m: Measured) -> dict[str, float]:
    """What a map that knows nothing gets, 0 to 1, where that follows from the masks alone."""
    chances: dict[str, float] = {"presence_auc": 0.5}
    for suffix, of in _groups(m):
        chances |= {f"{metric}{suffix}": m.pairs["area"][of].mean() for metric in ("pointing", "energy")}
    return chances


def _minus(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: ours[name] - theirs[name] for name in ours if name in theirs}


def _rows(m: Measured, drawn: Mapping[str, np.ndarray], chances: Mapping[str, float], common: dict) -> list[dict]:
    of_pairs = {
        f"{metric}{suffix}": int(of.sum())
        for suffix, of in _groups(m)
        for metric in ("pointing", "energy", f"iou@{m.threshold:g}", "iou_best")
    }
    result = []
    for metric, values in drawn.items():
        kept = 100 * values[np.isfinite(values)]
        if not np.isfinite(values[0]):
            continue
        low, high = np.percentile(kept[1:], [2.5, 97.5]).tolist() if len(kept) > 1 else (None, None)
        chance = chances.get(metric, chances.get(metric.split("[")[0]) if metric.startswith("presence") else None)
        row = {"metric": metric, "value": float(kept[0]), "ci_low": low, "ci_high": high}
        row |= {"chance": None if chance is None else 100 * float(chance), "n": of_pairs.get(metric, len(m.keys))}
        result.append(common | {"direction": "t2i"} | row)
    return result
