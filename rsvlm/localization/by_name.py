"""Maps of texts against true masks, by name: open a model, read pictures with masks, score its maps; `rsvlm evaluate localize`.

Beside the model's maps stand those that know nothing (`baselines`), on the same pictures and the same resamples.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsvlm.data import benchmarks, catalogue
from rsvlm.errors import DataError
from rsvlm.evaluation.by_name import Evaluation
from rsvlm.localization import baselines, heat, scoring, smoothing, true_masks
from rsvlm.localization.mask_reading import EVERY
from rsvlm.model import images
from rsvlm.model.encoder import Encoder
from rsvlm.model.others.opening import open_encoder
from rsvlm.records import files


@dataclass(frozen=True)
class Options:
    """Which pictures are looked at, in which words they are asked, what maps are made, and how these are scored.

    Attributes:
        benchmark: How pictures and masks are stored, as for `true_masks.read`; likewise `half`, `limit`, `label` and `size_px`.
        without: Text files of picture names, one a line: all rows come again without these.
        dataset: Name in the rows. If None, the folder's.
        classes: Only these classes. If None, all.
        prompts: Name of a prompt set, each of whose templates is a sentence of a class.
        texts: Sentences instead, as for `heat.sentences`.
        background: What else there may be. If None, what `texts` says.
        methods: Methods of `heat.METHODS`.
        window: As for `heat.maps`; likewise `scale`, `join`, `temperature`, `tile_px` and `size`.
        floor: Pixels whose best score is below are of no class. If None, half of the picture's range decides.
        everywhere: Every pixel has a class.
        baselines: Maps that know nothing are scored too: random, centre and brightness.
        against: Differences to these methods are given too, on the same resamples.
        bootstrap_samples: Number of resamples of the pictures.
        seed: Seed of the resamples and of the random map.
    """

    benchmark: str = "coco"
    half: str | None = None
    limit: int | None = None
    label: str = "building"
    size_px: int = 256
    without: Sequence[Path] = ()
    dataset: str | None = None

    classes: Sequence[str] | None = None
    prompts: str = "plain"
    texts: Path | str | None = None
    background: Sequence[str] | None = None

    methods: Sequence[str] = ("smooth",)
    window: int | Sequence[int] = 3
    scale: float | Sequence[float] = 1.0
    join: str = "best"
    temperature: float | None = None
    tile_px: int | None = None
    size: str = "image"

    floor: float | None = None
    everywhere: bool = False
    baselines: bool = True
    against: Sequence[str] = ()
    bootstrap_samples: int = 1000
    seed: int = 0

    def of_maps(self) -> dict:
        """Return those of them that are options of `heat.maps`."""
        return {name: getattr(self, name) for name in ("window", "scale", "join", "temperature", "tile_px", "size")}


def locate(
    model: Path | str,
    root: Path | str,
    options: Options = Options(),
    *,
    others: Mapping[str, true_masks.Benchmark] | None = None,
    device: str = "auto",
    progress: bool = False,
) -> Evaluation:
    """Compare maps of texts with true masks, beside maps that know nothing.

    Args:
        model: As for `opening.open_encoder`.
        root: Folder of pictures with masks.
        options: What is asked.
        others: Further values of `benchmark`, as for `true_masks.read`.
        device: auto, cpu, cuda or cuda:N.
        progress: Show a bar.

    Raises:
        DataError: An unknown method, class or file, a window that fits no grid, no picture that can be read, or none with a class.
    """
    # What can be wrong is looked at before a model is opened.
    others = others or {}
    if unknown := [name for name in options.methods if name not in heat.METHODS]:
        raise DataError(f"unknown method '{unknown[0]}': choose one of {', '.join(heat.METHODS)}")
    for side in np.atleast_1d(options.window).tolist():
        smoothing.check_window(side)
    classes, sentences, background = _words(root, options, others)
    without = {Path(path).stem: files.read_lines(path, "name of a picture") for path in options.without}

    # Pictures are read one after the other while they are scored.
    skipped: Counter = Counter()
    layout = {"half": options.half, "limit": options.limit, "label": options.label, "size_px": options.size_px}
    items = true_masks.read(root, options.benchmark, skipped=skipped, others=others, **layout)
    coverage = Coverage(classes)

    net = open_encoder(model, device)
    methods = _methods(net, sentences, background, options)
    if options.baselines:
        methods |= baselines.methods(classes, options.seed)
    split = others[options.benchmark].split if options.benchmark in others else "all"
    rows = scoring.evaluate(
        coverage.counted(items, root, skipped),
        methods,
        classes,
        scoring.Rules(background=not options.everywhere),
        dataset=options.dataset or Path(root).resolve().name,
        split=f"{split}, half {options.half}" if options.half else split,
        against=options.against,
        without=without,
        bootstrap_samples=options.bootstrap_samples,
        seed=options.seed,
        progress=progress,
    )
    if not rows:
        reasons = _reasons(skipped)
        raise DataError(
            f"{root}: none of {coverage.pictures} pictures has {', '.join(classes)}, so there is nothing to find{reasons}: "
            "check the names of classes and the numbers in the masks, or give other classes (--class)"
        )
    about = {
        "model": net.name,
        "fingerprint": net.fingerprint,
        "benchmark": options.benchmark,
        "data_hash": benchmarks.fingerprint(root),
        "skipped": dict(skipped),
        "unknown": coverage.unknown(),
        "absent": coverage.absent(),
        "background": background,
        "floor": options.floor,
        "texts": dict(zip(classes, sentences, strict=True)),
        "half": options.half,
        "without": without,
    }
    return Evaluation(rows, about | options.of_maps())


class Coverage:
    """What the masks of some pictures say of classes, and what they leave open; counted while the pictures pass."""

    def __init__(self, classes: Sequence[str]):
        self.classes, self.pictures, self.pixels = list(classes), 0, 0
        self._seen: set[str] = set()
        self._unknown: dict[str, Counter] = {name: Counter() for name in (EVERY, *classes)}

    def counted(
        self, items: Iterable[true_masks.Item], root: Path | str, skipped: Mapping[str, int]
    ) -> Iterator[true_masks.Item]:
        """Pass pictures on.

        Raises:
            DataError: There is none.
        """
        for item in items:
            self.pictures += 1
            size = images.decode(item.image, where=item.key).shape[:2]
            self.pixels += size[0] * size[1]
            for name, mask in item.masks.items():
                self._seen |= {name} if mask.any() else set()
            alone = item.record.get("boxes_alone", {})
            for name in self._unknown.keys() & (item.unknown.keys() | alone.keys()):
                boxes = alone.get(name, [])
                area = int((item.unknown.get(name, False) | true_masks.inside_boxes(boxes, size)).sum())
                self._unknown[name] += Counter(pictures=int(area > 0), pixels=area, boxes_alone=len(boxes))
            yield item
        if not self.pictures:
            raise DataError(
                f"{root}: no picture with masks was read{_reasons(skipped)}: check the folder, and --half and --limit"
            )

    def unknown(self) -> dict[str, dict]:
        """What was not scored, by class, of which `every class` is one: pictures and share of all pixels, and boxes without a mask."""
        result = {}
        for name, counts in self._unknown.items():
            if counts:
                share = round(100 * counts["pixels"] / self.pixels, 4)
                facts = {"pictures": counts["pictures"], "percent_of_pixels": share, "boxes_alone": counts["boxes_alone"]}
                result[name or "every class"] = facts
        return result

    def absent(self) -> list[str]:
        """Classes that are in no mask."""
        return [name for name in self.classes if name not in self._seen]


def _reasons(skipped: Mapping[str, int]) -> str:
    return f" ({'; '.join(f'{reason}: {count}' for reason, count in skipped.items())})" if skipped else ""


def _words(
    root: Path | str, options: Options, others: Mapping[str, true_masks.Benchmark]
) -> tuple[list[str], list[list[str]], Sequence[str] | None]:
    """The classes, the sentences of each, and what else there may be (None: nothing is said of it)."""
    known = true_masks.classes(root, options.benchmark, label=options.label, others=others)
    if unknown := [name for name in options.classes or [] if name not in known]:
        raise DataError(f"{root} has no class '{unknown[0]}': it has {', '.join(known)}")
    classes = list(options.classes or known)
    if options.texts:
        sentences, background = heat.sentences(options.texts, classes)
        return classes, sentences, options.background or background
    templates = catalogue.prompt_set(options.prompts)
    sentences = [[line.replace("{class}", name).replace("{}", name) for line in templates] for name in classes]
    return classes, sentences, options.background or None


def _methods(
    net: Encoder, sentences: list[list[str]], background: Sequence[str] | None, options: Options
) -> dict[str, scoring.Maps]:
    """Name → what makes maps of a picture; all methods share what the tower saw in it."""
    words = {"texts": sentences, "background": background}
    vectors = {
        name: None if texts is None else [heat.text_vectors(net, text) for text in texts] for name, texts in words.items()
    }
    picture, seen = None, {}

    def maps(image: np.ndarray, method: str) -> np.ndarray:
        nonlocal picture, seen
        if image is not picture:
            picture, seen = image, {}
        asked = words if method in ("caption", "gradient") else vectors  # those two read words
        scores = heat.maps(net, image, method=method, seen=seen, **asked, **options.of_maps())
        return scores if options.floor is None else np.concatenate([scores, np.full_like(scores[:1], options.floor)])

    return {name: functools.partial(maps, method=name) for name in options.methods}
