"""Is a picture taken from above? A small head on image features, trained from labelled pictures.

The features need no network: colour, edges, spectrum, what gravity does to a photograph, for a picture of the ground has no up and
down, and whether the picture swings alike in all its parts and directions, as ground does and things before a background do not.
The head is a kernel ridge regression: a picture is overhead as far as it is like the overhead pictures it was shown, and unlike the
others; what is like neither gets 0. Its threshold is the lowest that reaches a stated precision where each labelled picture is scored
by a head that has seen nothing of the same source (a photograph, a website, a region), for on the web most pictures are of things
that nobody labelled. With a model, its image embeddings take the features' place.

Source: our choice. The paper filters its web images by classifiers trained on human labels; features, labels and thresholds were
not published.
"""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from rsvlm.data import reading
from rsvlm.errors import DataError
from rsvlm.model import images
from rsvlm.records import files

if TYPE_CHECKING:
    from rsvlm import config

SIDE = 64  # pixels that the features see
OCTAVES, DIRECTIONS, MARGIN = 4, 6, 16  # of the oriented filters, and pixels mirrored around the picture for them
CLASSES = ("other", "overhead")
WIDTH, RIDGE = 0.003, 0.3  # of the kernel, on standardised features, and of the fit: the best where sources are left out

REASONS = {
    "broken image": "the bytes cannot be decoded: damaged, cut short, of another format, or a bomb",
    "too small": "the shorter side is below web.min_side_px",
    "too long": "the longer side is more than web.max_aspect times the shorter",
    "one colour": "all pixels are nearly alike",
    "not overhead": "the overhead score is below the threshold",
}
"""Why the image stage rejects a picture."""


def decode(data: bytes, options: config.Web) -> tuple[np.ndarray | None, str | None]:
    """Decode bytes and check size and content: `(H, W, 3)` uint8 and None, or None and one of `REASONS`."""
    try:
        array = images.decode(data)
    except DataError:
        return None, "broken image"
    short, long = sorted(array.shape[:2])
    if short < options.min_side_px:
        return None, "too small"
    if long > options.max_aspect * short:
        return None, "too long"
    if array.reshape(-1, 3)[:: max(array.size // 30_000, 1)].std(axis=0).max() < 1.0:
        return None, "one colour"
    if long > options.max_side_px:
        factor = options.max_side_px / long
        array = images.resize(array, max(round(array.shape[0] * factor), 1), max(round(array.shape[1] * factor), 1))
    return array, None


def thumbnails(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Squeeze `(H, W, 3)` uint8 pictures to `(N, 64, 64, 3)` float32 in 0…1."""
    small = [np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX)) for picture in pictures]
    return np.stack(small).astype(np.float32) / 255 if small else np.zeros((0, SIDE, SIDE, 3), np.float32)


def features(small: np.ndarray) -> np.ndarray:
    """Measure `(N, 64, 64, 3)` float32 thumbnails: `(N, F)` float32, each of about unit size."""
    n = len(small)
    luma = small @ np.array([0.299, 0.587, 0.114], np.float32)  # (N, 64, 64)
    highest, lowest = small.max(axis=3), small.min(axis=3)
    saturation = (highest - lowest) / np.maximum(highest, 1 / 255)
    parts = [small.mean(axis=(1, 2)), small.std(axis=(1, 2))]
    parts += [np.stack([saturation.mean(axis=(1, 2)), saturation.std(axis=(1, 2))], axis=1)]
    # what gravity does: the means of eight bands from top to bottom against those from left to right
    rows = np.stack([band.mean(axis=(1, 2)) for band in np.array_split(small, 8, axis=1)], axis=1)  # (N, 8, 3)
    columns = np.stack([band.mean(axis=(1, 2)) for band in np.array_split(small, 8, axis=2)], axis=1)
    parts += [rows[:, 0] - rows[:, -1], np.abs(columns[:, 0] - columns[:, -1]), rows.std(axis=1), columns.std(axis=1)]
    parts += [rows[:, :2].mean(axis=1) - rows[:, 2:].mean(axis=1)]
    # the thing in the middle, and a plain border around it
    inner, border = small[:, 16:48, 16:48], np.concatenate([small[:, :4], small[:, -4:]], axis=1)
    parts += [inner.mean(axis=(1, 2)) - border.mean(axis=(1, 2)), inner.std(axis=(1, 2)), border.std(axis=(1, 2))]
    # edges: how many, how strong, and in which of eight directions
    across, down = np.diff(luma[:, :-1], axis=2), np.diff(luma[:, :, :-1], axis=1)
    strength = np.hypot(across, down)
    direction = np.floor((np.arctan2(down, across) / np.pi % 1) * 8).astype(np.int64).clip(0, 7)
    where = np.arange(n)[:, None, None] * 8 + direction
    edges = np.bincount(where.ravel(), weights=strength.ravel(), minlength=8 * n).reshape(n, 8)
    total = strength.sum(axis=(1, 2))[:, None]
    weak = np.stack([(strength < level).mean(axis=(1, 2)) for level in (1 / 255, 4 / 255, 16 / 255, 64 / 255)], axis=1)
    quarters = np.stack([part.mean(axis=(1, 2)) for part in np.array_split(strength, 4, axis=1)], axis=1)
    parts += [edges / (total + 1e-6), total / SIDE**2, weak, quarters / (quarters.sum(axis=1, keepdims=True) + 1e-6)]
    # the spectrum: its slope says how rough the picture is at each scale
    window = np.hanning(SIDE)[:, None] * np.hanning(SIDE)
    power = np.abs(np.fft.rfft2((luma - luma.mean(axis=(1, 2), keepdims=True)) * window)) ** 2  # (N, 64, 33)
    fy, fx = np.meshgrid(np.fft.fftfreq(SIDE) * SIDE, np.arange(SIDE // 2 + 1), indexing="ij")
    ring = np.digitize(np.hypot(fx, fy), [1, 2, 4, 6, 9, 13, 18, 24, 32])
    rings = np.stack([power[:, ring == k].mean(axis=1) for k in range(1, 10)], axis=1)
    upright = power[:, np.abs(fy) > np.abs(fx)].sum(axis=1) / (power.sum(axis=(1, 2)) + 1e-6)
    parts += [np.log(rings + 1e-4), upright[:, None]]
    # ground is rough everywhere; photographs have smooth parts and sharp outlines, at every scale
    blocks = luma.reshape(n, 8, 8, 8, 8).std(axis=(2, 4)).reshape(n, 64)
    parts += [np.log(np.percentile(blocks, [2, 25, 50, 75, 98], axis=1).T + 2e-3), blocks.std(axis=1, keepdims=True) * 5]
    coarse = luma
    for _ in range(3):
        count = coarse.shape[1] * (coarse.shape[1] - 1)
        change = np.concatenate([np.abs(np.diff(coarse, axis=axis)).reshape(n, count) for axis in (1, 2)], axis=1)
        spread = change.std(axis=1) / (change.mean(axis=1) + 1e-3)
        parts += [np.stack([spread, np.log(change.mean(axis=1) + 1e-3), (change < 0.02).mean(axis=1)], axis=1)]
        coarse = coarse.reshape(n, coarse.shape[1] // 2, 2, coarse.shape[2] // 2, 2).mean(axis=(2, 4))
    # colours: which hues, weighted by how strong they are, and how far the channels go together
    hue = np.arctan2(np.sqrt(3) * (small[..., 1] - small[..., 2]), 2 * small[..., 0] - small[..., 1] - small[..., 2])
    bins = np.floor((hue / (2 * np.pi) % 1) * 12).astype(np.int64).clip(0, 11) + 12 * np.arange(n)[:, None, None]
    hues = np.bincount(bins.ravel(), weights=(highest - lowest).ravel(), minlength=12 * n).reshape(n, 12) / SIDE**2
    parts += [hues * 10, np.sort(hues / (hues.sum(axis=1, keepdims=True) + 1e-3), axis=1)[:, -3:]]
    centred = (small - small.mean(axis=(1, 2), keepdims=True)).reshape(n, SIDE**2, 3)
    norm = np.sqrt((centred**2).sum(axis=1)) + 1e-3
    for a, b in ((0, 1), (1, 2), (0, 2)):
        parts += [(centred[..., a] * centred[..., b]).sum(axis=1, keepdims=True) / (norm[:, [a]] * norm[:, [b]])]
    # how the brightness is spread
    histogram = np.stack([((luma >= k / 8) & (luma < (k + 1) / 8 + (k == 7))).mean(axis=(1, 2)) for k in range(8)], axis=1)
    parts += [histogram, -(histogram * np.log(histogram + 1e-6)).sum(axis=1, keepdims=True)]
    parts += [(lowest > 0.95).mean(axis=(1, 2))[:, None], (highest < 0.05).mean(axis=(1, 2))[:, None]]
    return np.concatenate([*parts, _swings(luma)], axis=1).astype(np.float32)


@functools.cache
def _filters() -> np.ndarray:
    """Return `(4, 6, 96, 96)` float32: what each filter lets through of a spectrum, one octave wide about 0.35, 0.17, ... cycles a pixel."""
    side = SIDE + 2 * MARGIN
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)
    octave = np.log2(np.hypot(fx, fy) + 1e-9) - np.log2(0.35 / 2.0 ** np.arange(OCTAVES))[:, None, None]
    away = np.arctan2(fy, fx) - np.pi / DIRECTIONS * np.arange(DIRECTIONS)[:, None, None]
    away = np.angle(np.exp(1j * away)) / (0.7 * np.pi / DIRECTIONS)
    return np.exp(-3.125 * octave[:, None] ** 2 - away**2 / 2).astype(np.float32)


def _swings(luma: np.ndarray) -> np.ndarray:
    """Tell how strongly `(N, 64, 64)` lumas swing at each scale, in which directions, and how that differs between 16 cells: `(N, 40)`.

    Source: Gabor 1946 for the filters; which of their statistics help is our choice, made where sources are left out.
    """
    swings = [np.zeros((0, OCTAVES * (DIRECTIONS + 4)))]
    for first in range(0, len(luma), 64):
        part = luma[first : first + 64]
        spectrum = np.fft.fft2(np.pad(part, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), mode="reflect"))
        columns = []
        for filters in _filters():  # of one octave
            swing = np.abs(np.fft.ifft2(spectrum[:, None] * filters))[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
            cells = swing.reshape(len(part), DIRECTIONS, 4, SIDE // 4, 4, SIDE // 4).mean(axis=(3, 5))
            level, whole = cells.sum(axis=1), cells.mean(axis=(2, 3))  # (n, 4, 4), (n, 6)
            share = cells / (level[:, None] + 1e-3)
            numbers = [np.log(whole.sum(axis=1) + 1e-3), np.log(level + 1e-3).std(axis=(1, 2))]
            numbers += [share.std(axis=(2, 3)).mean(axis=1), share.max(axis=1).mean(axis=(1, 2))]
            columns += [whole / (whole.sum(axis=1, keepdims=True) + 1e-4), np.stack(numbers, axis=1)]
        swings.append(np.concatenate(columns, axis=1))
    return np.concatenate(swings)


@dataclass(frozen=True)
class Head:
    """A trained overhead classifier; `recall`, `auc` and `roc` were measured on each source by a head that has not seen it."""

    mean: np.ndarray  # (F,), of each feature
    scale: np.ndarray  # (F,), spread of each feature
    centres: np.ndarray  # (K, F), standardised features of the labelled pictures
    weights: np.ndarray  # (K,), of the kernel's value at each centre
    threshold: float  # scores from here on are overhead
    precision: float  # stated for `threshold`
    recall: float  # at `threshold`
    auc: float  # area under the ROC curve
    sources: int  # number of different sources of the labelled pictures
    roc: np.ndarray  # (L, 4): threshold, false positive rate, true positive rate, precision
    about: str  # what it was trained on

    @property
    def false_positive_rate(self) -> float:
        """Share of the other pictures that reach the threshold."""
        passed = self.roc[self.roc[:, 0] >= self.threshold]
        return float(passed[-1, 1]) if len(passed) else 0.0

    def precision_at(self, share: float) -> float:
        """Precision at the threshold where this share of all pictures is from above."""
        right, wrong = share * self.recall, (1 - share) * self.false_positive_rate
        return right / max(right + wrong, 1e-9)

    def scores(self, measured: np.ndarray) -> np.ndarray:
        """Score `(N, F)` features: `(N,)` float64, about 1 for overhead and 0 for others."""
        if measured.shape[1] != len(self.mean):
            raise DataError(f"{measured.shape[1]} features for a head of {len(self.mean)}: train it again with this version")
        return _kernel(_standardise(measured, self.mean, self.scale), self.centres) @ self.weights


def _standardise(measured: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip((measured.astype(np.float64) - mean) / scale, -4, 4)


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.exp(-WIDTH * np.maximum(square, 0))


def score(head: Head, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Score `(H, W, 3)` uint8 pictures: `(N,)` float64, 0…1."""
    return head.scores(features(thumbnails(pictures)))


def fit(
    measured: np.ndarray,
    labels: np.ndarray,
    sources: np.ndarray,
    precision: float = 0.95,
    weights: np.ndarray | None = None,
    about: str = "",
) -> Head:
    """Train a head on all pictures, and choose its threshold by heads that have not seen the source of what they score.

    Args:
        measured: `(N, F)` features.
        labels: `(N,)` bool, overhead.
        sources: `(N,)`, names or numbers; pictures with the same one are alike for reasons of their own: of one camera, site or place.
        precision: Precision that the threshold reaches; it is the lowest that does.
        weights: `(N,)`, how often each kind of picture is met, where some were labelled more than their share. If None, 1 each. What
            has the weight 0 is learnt from, and does not count where the threshold is set.
        about: Description of the pictures, for the record.

    Raises:
        DataError: There are fewer than two sources of a class, or no threshold reaches the precision.
    """
    for name, part in zip(CLASSES, (~labels, labels), strict=True):
        if (count := len(np.unique(sources[part]))) < 2:
            wanted = "label pictures of a dozen sources of each class"
            raise DataError(f"{count} sources of pictures of the class '{name}': {wanted}")
    mean, scale = measured.mean(axis=0, dtype=np.float64), measured.std(axis=0, dtype=np.float64) + 1e-3
    centres = _standardise(measured, mean, scale)
    inverse = np.linalg.inv(_kernel(centres, centres) + RIDGE * np.eye(len(centres)))
    dual = inverse @ labels.astype(np.float64)
    # What a fit without a source says of that source, without fitting again: the block formula of leave-one-out.
    scores = labels.astype(np.float64)
    for source in np.unique(sources):
        rows = np.flatnonzero(sources == source)
        scores[rows] -= np.linalg.solve(inverse[np.ix_(rows, rows)], dual[rows])
    order = np.argsort(-scores, kind="stable")
    scores, known, weight = scores[order], labels[order], (np.ones(len(labels)) if weights is None else weights)[order]
    last = np.append(np.diff(scores) != 0, True)  # equal scores pass or fail together
    true, false = np.cumsum(weight * known)[last], np.cumsum(weight * ~known)[last]
    levels, reached = scores[last], true / np.maximum(true + false, 1e-9)  # at first there may be none with a weight
    if not (reached >= precision).any():
        best = f"the best is {reached.max():.3f}; label more pictures, or ask for less (--precision)"
        raise DataError(f"no threshold reaches a precision of {precision}: {best}")
    chosen = np.flatnonzero(reached >= precision)[-1]
    threshold = levels[chosen : chosen + 2].mean()  # halfway to the next score, which would break the promise
    tpr, fpr = true / true[-1], false / false[-1]
    auc = float(np.trapezoid(np.append(0, tpr), np.append(0, fpr)))
    roc, recall = np.stack([levels, fpr, tpr, reached], axis=1), float(tpr[chosen])
    return Head(mean, scale, centres, dual, float(threshold), precision, recall, auc, len(np.unique(sources)), roc, about)


def train_folder(folder: Path, precision: float, share: float = 0.5) -> tuple[Head, dict[str, int]]:
    """Train a head from `folder/overhead` and `folder/other`, pictures at any depth.

    Pictures of one source (a camera, a website, a region) belong into one folder of their class, as in `other/my-phone/`; where a class
    has fewer than two such folders, each of its pictures counts as a source.

    Args:
        folder: Folder of the two.
        precision: Precision that the threshold reaches.
        share: Share of overhead pictures among those that the head will judge. How many pictures the two folders hold does not count:
            at nine overhead pictures to one other, nearly half of the others could pass and the precision would still be 0.95.

    Returns:
        The head, and the number of pictures of each class that were used, and of those that could not be read.

    Raises:
        DataError: A class folder is missing or holds no picture, the share is not between 0 and 1, or as `fit`.
    """
    if not 0 < share < 1:
        raise DataError(f"a share of {share} overhead pictures: give one between 0 and 1 (--share)")
    rows, labels, sources, counts = [], [], [], {"broken": 0}
    for label, name in enumerate(CLASSES):
        top, parts = Path(folder) / name, []
        for path in (path for path in reading.visible(top, "**/*") if path.is_file()):
            try:
                rows.append(thumbnails([images.decode(path.read_bytes(), where=str(path))])[0])
                parts.append(path.relative_to(top).parts)
            except DataError:
                counts["broken"] += 1
        if not parts:
            raise DataError(f"{top} holds no readable picture: put labelled pictures into overhead/ and other/")
        counts[name] = len(parts)
        folders = {part[0] for part in parts if len(part) > 1}
        sources += [f"{name}/{part[0] if len(folders) > 1 else '/'.join(part)}" for part in parts]
        labels += [bool(label)] * len(parts)
    about = f"labelled folder {Path(folder).name}, {share:.3g} of the pictures taken as overhead"
    labels = np.array(labels)
    weights = np.where(labels, share / labels.mean(), (1 - share) / (1 - labels.mean()))
    return fit(features(np.stack(rows)), labels, np.array(sources), precision, weights, about), counts


def save(head: Head, path: Path) -> None:
    """Write a head as an .npz of plain numbers."""
    buffer = io.BytesIO()
    np.savez(buffer, **asdict(head))
    files.write_atomic(path, buffer.getvalue())


def load(path: Path) -> Head:
    """Read a head; nothing is unpickled.

    Raises:
        DataError: The file is missing or is no head.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            values = {name: content[name] for name in content.files}
        return Head(**{name: value if value.ndim else value.item() for name, value in values.items()})
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"{path} is no overhead head ({error}): make one with `rsvlm web train-filter`") from error
