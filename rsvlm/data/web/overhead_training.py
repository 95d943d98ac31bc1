"""A head for `overhead`, trained from labelled pictures, whose threshold was chosen on sources that it had not seen.

Each picture is shown several times, as a whole and from closer, scaled, recompressed, framed, in other colours, so that size, quality
and borders, which differ between collections, tell nothing of the class. And each source counts alike, however many pictures it has:
a large collection would teach its own looks.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from rsvlm.data import reading
from rsvlm.data.web import overhead
from rsvlm.data.web.overhead import CLASSES, Head
from rsvlm.errors import DataError
from rsvlm.model import images
from rsvlm.records.text import one_line

logger = logging.getLogger(__name__)

VIEWS, MOST, FOLDS = 2, 4, 5  # of each labelled picture, itself the first; of one of the smaller class; and folds of sources
CLOSEST = 0.25  # least part of a picture's side that a view shows
RIDGE = 0.01  # of the fit, on standardised features


def train_folder(folder: Path, precision: float = 0.95, share: float = 0.2) -> tuple[Head, dict[str, int]]:
    """Train a head from `folder/overhead` and `folder/other`, pictures at any depth.

    Pictures of one source (a camera, a website, a region) belong into one folder, as in `other/my-phone/` or `other/phones/mine/`; where
    all pictures of a class lie in one folder, each of them counts as a source. Each is learnt from as it is and `varied` once, or
    more often where its class has fewer pictures; the threshold is chosen on the pictures as they are.

    Args:
        folder: Folder of the two.
        precision: Precision that the threshold reaches.
        share: Share of overhead pictures among those that the head will judge. How many pictures the two folders hold does not count:
            at nine overhead pictures to one other, nearly half of the others could pass and the precision would still be 0.95.

    Returns:
        The head, and the number of pictures of each class that were used, and of those that could not be read.

    Raises:
        DataError: A class folder is missing or holds fewer than two pictures, the share is not between 0 and 1, or as `fit`.
        MissingExtraError: The package with the tower's weights is not installed.
    """
    if not 0 < share < 1:
        raise DataError(f"a share of {share} overhead pictures: give one between 0 and 1 (--share)")
    paths = {name: [p for p in reading.visible(Path(folder) / name, "**/*") if p.is_file()] for name in CLASSES}
    for name, of_class in paths.items():  # before any is measured
        if len(of_class) < 2:
            there = ", ".join(sorted(p.name for p in reading.visible(Path(folder), "*") if p.is_dir())) or "no folders"
            count = f"{len(of_class) or 'no'} file{'s' * (len(of_class) != 1)}"
            holds = f"{Path(folder)} holds {there}" if Path(folder).is_dir() else f"there is no folder {Path(folder)}"
            raise DataError(f"{Path(folder) / name} holds {count} ({holds}): put labelled pictures into overhead/ and other/")
    most = max(map(len, paths.values()))
    times = {name: min(max(VIEWS * most // len(of_class), VIEWS), MOST) for name, of_class in paths.items()}
    parts: list[tuple[int, tuple[str, ...], bool]] = []  # of each view its class, path, and whether it is the picture as it is
    counts, broken = {"broken": 0}, []

    def views() -> Iterator[np.ndarray]:
        for label, name in enumerate(CLASSES):
            counts[name] = 0
            for path in paths[name]:
                try:
                    picture = images.decode(data := path.read_bytes(), where=str(path))
                except DataError:
                    counts["broken"] += 1
                    broken.append(one_line(str(path.relative_to(folder))))
                    continue
                counts[name] += 1
                parts.extend((label, path.relative_to(Path(folder) / name).parts, view == 0) for view in range(times[name]))
                rng = np.random.default_rng(list(hashlib.sha256(data).digest()[:8]))  # the same picture, the same views
                yield picture
                yield from (varied(picture, rng, bool(label)) for _ in range(times[name] - 1))
            if not counts[name]:
                raise DataError(
                    f"{Path(folder) / name} holds no readable picture: put labelled pictures into overhead/ and other/"
                )

    total = sum(times[name] * len(paths[name]) for name in CLASSES)
    measured = overhead.features(tqdm(views(), total=total, desc="measure", unit=" views", disable=None))
    if broken:
        more = f" and {len(broken) - 10:,} more" if len(broken) > 10 else ""
        logger.warning("left out, for no picture can be read from them: %s%s", ", ".join(broken[:10]), more)
    sources, trained_on = [], {}
    for label, name in enumerate(CLASSES):
        several = len({path[:-1] for known, path, _ in parts if known == label}) > 1
        for _, path, as_it_is in (part for part in parts if part[0] == label):
            sources.append("/".join((name, *(path[:-1] if several else path))))
            kind = "/".join((name, *path[:-1][:1]))
            trained_on[kind] = trained_on.get(kind, 0) + as_it_is
    labels, counted = np.array([label == 1 for label, *_ in parts]), np.array([as_it_is for *_, as_it_is in parts])
    about = f"labelled folder {Path(folder).name}"
    return fit(measured, labels, np.array(sources), precision, share, counted, trained_on, about), counts


def varied(picture: np.ndarray, rng: np.random.Generator, is_overhead: bool) -> np.ndarray:
    """Show `(H, W, 3)` uint8 pixels as another collection might: closer, of another size, mirrored, in other colours, framed, recompressed.

    Pictures from above are also turned, for nothing is up in them; a photograph is rarely shown so.
    """
    share = float(np.exp(rng.uniform(np.log(CLOSEST), 0)))
    sides = [min(max(int(side * share * rng.uniform(0.8, 1.25)), 1), side) for side in picture.shape[:2]]
    top, left = (int(rng.integers(side - part + 1)) for side, part in zip(picture.shape[:2], sides, strict=True))
    image = Image.fromarray(picture[top : top + sides[0], left : left + sides[1]])
    factor = np.exp(rng.uniform(np.log(64), np.log(320))) / max(image.size)
    image = image.resize(tuple(max(round(side * factor), 16) for side in image.size), Image.Resampling.BICUBIC)
    image = ImageOps.mirror(image) if rng.random() < 0.5 else image
    turn = int(rng.integers(4))
    if is_overhead and turn:
        image = image.transpose((Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)[turn - 1])
    colours = rng.random()
    if colours < 0.15:
        image = image.convert("L").convert("RGB")
    elif colours < 0.3:  # as where infrared is shown as red
        image = Image.fromarray(np.asarray(image)[..., rng.permutation(3)])
    if rng.random() < 0.5:
        pixels = (np.asarray(image, np.float32) - 128) * rng.uniform(0.4, 1.5) + 128 + rng.uniform(-30, 30)
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.2:
        sides = tuple((rng.uniform(0.02, 0.15, 4) * (rng.random(4) < 0.6) * min(image.size)).astype(int).tolist())
        image = ImageOps.expand(image, sides, fill=((0, 0, 0), (255, 255, 255))[rng.integers(2)])
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(40, 96)))
    return images.decode(buffer.getvalue())


def fit(
    measured: np.ndarray,
    labels: np.ndarray,
    sources: np.ndarray,
    precision: float = 0.95,
    share: float = 0.2,
    counted: np.ndarray | None = None,
    trained_on: dict[str, int] | None = None,
    about: str = "",
) -> Head:
    """Train a head on all pictures, and choose its threshold by heads that have not seen the source of what they score.

    Args:
        measured: `(N, F)` features.
        labels: `(N,)` bool, overhead.
        sources: `(N,)`, names or numbers; pictures with the same one are alike for reasons of their own: of one camera, site or place.
            Each source of a class counts as much as any other, in the fit and in the threshold, however many pictures it has.
        precision: Precision that the threshold reaches; it is the lowest that does.
        share: Share of overhead pictures among those that will be judged; both classes weigh by it, however many pictures they have.
        counted: `(N,)` bool, what the threshold is chosen on; the others are only learnt from. If None, all.
        trained_on: Number of pictures of each kind, for the record. If None, those of the classes.
        about: Description of the pictures, for the record.

    Raises:
        DataError: There are fewer than two sources of a class, or no threshold reaches the precision.
    """
    for name, part in zip(CLASSES, (~labels, labels), strict=True):
        if (count := len(np.unique(sources[part]))) < 2:
            wanted = "label pictures of a dozen sources of each class"
            raise DataError(f"{count} sources of pictures of the class '{name}': {wanted}")
    weight = evenly(labels, sources) * np.where(labels, share, 1 - share)
    folds, logits = _folds(labels, sources), np.empty(len(labels))
    for fold in np.unique(folds):
        out = folds == fold
        weights, bias = _logistic(measured[~out], labels[~out], weight[~out])
        logits[out] = measured[out] @ weights + bias
    counted = np.ones(len(labels), bool) if counted is None else counted
    scores, known, part = overhead.probability(logits[counted]), labels[counted], evenly(labels[counted], sources[counted])
    evidence = round(1 / (part[~known] ** 2).sum())
    order = np.argsort(-scores, kind="stable")
    scores, known, part = scores[order], known[order], part[order]
    last = np.append(np.diff(scores) != 0, True)  # equal scores pass or fail together
    true, false = (np.minimum(np.cumsum(part * of)[last], 1.0) for of in (known, ~known))
    levels = scores[last]
    chosen = overhead.lowest(false, true, precision, share)
    auc = float(np.trapezoid(np.append(0, true), np.append(0, false)))
    # of the curve, as many points as a reader could tell apart, and the chosen one
    marks = np.stack([np.round(25 * np.log10(false + 1e-4)), np.round(100 * true), np.arange(len(true)) == chosen], axis=1)
    shown = np.append((np.diff(marks, axis=0) != 0).any(axis=1), True)
    weights, bias = _logistic(measured, labels, weight)
    weights = np.array([float(f"{value:.5g}") for value in weights])
    return Head(
        weights=weights,
        bias=round(bias, 5),
        threshold=float(levels[chosen : chosen + 2].mean()),  # halfway to the next score, which would break the promise
        precision=precision,
        share=share,
        recall=float(true[chosen]),
        auc=auc,
        sources=len(np.unique(sources)),
        curve=np.stack([levels, false, true], axis=1)[shown],
        trained_on=trained_on or {name: int((labels == bool(n)).sum()) for n, name in enumerate(CLASSES)},
        about=about,
        evidence=evidence,
    )


def evenly(labels: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Return the weight of each picture, `(N,)`: those of a class sum to 1, and each source has the same part of it."""
    weight = np.empty(len(labels))
    for part in (labels, ~labels):
        _, place, count = np.unique(sources[part], return_inverse=True, return_counts=True)
        weight[part] = 1 / (len(count) * count[place])
    return weight


def _folds(labels: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Deal the sources of each class out to up to five folds, by their names: `(N,)`, the fold of each picture."""
    folds = np.zeros(len(labels), int)
    for part in (labels, ~labels):
        names, place = np.unique(sources[part], return_inverse=True)
        order = np.argsort([hashlib.sha256(str(name).encode()).hexdigest() for name in names])
        fold = np.empty(len(names), int)
        fold[order] = np.arange(len(names)) % min(FOLDS, len(names))
        folds[part] = fold[place]
    return folds


def _logistic(measured: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit a logistic regression with a ridge on standardised features; return the weights of the features as they are, and the bias."""
    import torch
    import torch.nn.functional as F

    mean, scale = measured.mean(axis=0, dtype=np.float64), measured.std(axis=0, dtype=np.float64) + 1e-2
    x = torch.from_numpy(((measured - mean) / scale).astype(np.float32))
    y, importance = torch.from_numpy(labels.astype(np.float32)), torch.from_numpy((weight / weight.sum()).astype(np.float32))
    line = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100, tolerance_grad=1e-6, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        losses = F.binary_cross_entropy_with_logits(x @ line[1:] + line[0], y, reduction="none")
        value = losses @ importance + RIDGE / 2 * (line[1:] ** 2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    values = line.detach().numpy().astype(np.float64)
    weights = values[1:] / scale
    return weights, float(values[0] - weights @ mean)
