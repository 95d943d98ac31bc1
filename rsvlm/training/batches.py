"""The curriculum: stages, each a mixture of data sets, read as one sequence of batches that can be taken up anywhere.

    WebLI ×10,000 steps  →  RS-WebLI ×2,000  →  RS-Landmarks ×2,000  →  RS-WebLI + RS-Landmarks ×1,000

What a batch holds is a function of the seed, the step and the place: not of how many processes share it, of how many threads
decode it, or of how it is cut into micro-batches. Every process walks through the encoded samples of all, which is cheap, and
decodes those of its own share, which is not.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rsvlm.data import benchmarks, shards, tables
from rsvlm.errors import DataError
from rsvlm.model import images, losses, tokenizer as tokenizers
from rsvlm.training import augment, processes

if TYPE_CHECKING:
    from rsvlm.config import Config, Stage, Train
    from rsvlm.model.mammut import Mammut

logger = logging.getLogger(__name__)

TEXT_GROUPS = 4  # of similar length, in each micro-batch

_CAPTION, _MIXTURE, _TURN, _VIEW = (), (1,), (2,), (3,)  # what a generator is for; the first is [seed, step] alone


@dataclass
class Place:
    """Where the reader stands; by default before the first sample.

    Attributes:
        positions: Epoch of each data set that was read from, and the next position in that epoch's order.
        counts: Number of samples left out so far, by reason; and of texts cut, as `text cut`.
    """

    positions: dict[str, tuple[int, int]] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)


@dataclass
class Share:
    """One process's share of a batch.

    Attributes:
        images: n decoded images, each (S, S, 3) uint8, S being `side_at` the step; those that could not be decoded are left out. Or
            what `make_maps` made of each.
        captions: n captions.
        keys: Names of the samples of the whole batch, as `data set/key` where there are several sets.
        place: Place of the reader after this batch.
    """

    images: list[np.ndarray] | list[list[np.ndarray]]
    captions: list[str]
    keys: list[str]
    place: Place


@dataclass
class Batch:
    """One process's share of a batch, as the model takes it.

    Attributes:
        parts: Micro-batches, as the `forward` of an objective takes them. Of pairs: images (b, 3, S, S) float32, or the maps (b, C, h, w)
            float16 of a frozen network; groups of token rows (b1, T1), (b2, T2), …; and the rows of each group that the caption loss
            is of, as `Mammut.forward` takes them.
        keys: Names of the samples of the whole batch, of all processes.
        place: Place of the reader after this batch.
        counts: Pairs left out and texts cut; of the whole batch only after `train.backward`.
        seed: Seed of what dropout draws.
        text_numbers: Numbers (n,) of this share's texts, as of `losses.text_numbers`, in the order of the parts; of `rounds` those of the
            whole batch. If None, all texts count as different.
    """

    parts: list
    keys: list[str]
    place: Place
    counts: Counter
    seed: int = 0
    text_numbers: Tensor | None = None


def check(options: Train, names: Sequence[str]) -> None:
    """Check before any work that every stage mixes data sets that were given.

    Raises:
        DataError: It does not; the stage and the set are named.
    """
    for number, stage in enumerate(options.stages, 1):
        if missing := sorted(set(stage.data) - set(names)):
            given = ", ".join(names)
            raise DataError(f"stage {number} mixes '{missing[0]}', but the data sets are {given}: add it with --data")


def weights_at(step: int, stages: Sequence[Stage], names: Sequence[str]) -> dict[str, float]:
    """Return the mixture of a step (1-based); without stages, or after the last, an even one, or the last."""
    for stage in stages:
        step -= stage.steps
        if step <= 0:
            return stage.data
    return stages[-1].data if stages else dict.fromkeys(names, 1.0)


def side_at(step: int, options: Train, size_px: int) -> int:
    """Return the side of the images of a step (1-based), in pixels: `train.sizes_px` over equal parts of the run, or `size_px`."""
    return options.sizes_px[(step - 1) * len(options.sizes_px) // options.steps] if options.sizes_px else size_px


def read(
    data: Mapping[str, Path],
    options: Train,
    seed: int,
    size_px: int,
    place: Place,
    step: int,
    rank: int = 0,
    ranks: int = 1,
    make_maps: Callable[[np.ndarray], list[np.ndarray]] | None = None,
) -> Iterator[Share]:
    """Yield this process's share of every batch after `step`, to the last.

    Args:
        data: Folder of each data set: shards, or a benchmark with a train split.
        options: Stages, batch size, how captions are drawn and images varied, and the number of threads.
        seed: Seed of every choice.
        size_px: Side of the images where the options name none, in pixels.
        place: Place of the reader to begin at.
        step: Number of steps taken before.
        rank: Number of this process: it decodes samples rank, rank + ranks, … of each batch.
        ranks: Number of processes that share a batch.
        make_maps: Function from an image (S, S, 3) uint8 to what a frozen network makes of it; it is asked once for each image and
            turn, and what it gave is kept and stands for the image.

    Raises:
        DataError: A data set has no sample that can be used.
    """
    names, counts = list(data), Counter(place.counts)
    positions = {name: (epoch, position) for name, (epoch, position) in place.positions.items()}
    held: dict = {}
    sources = {name: _endless(folder, seed, *positions.get(name, (0, 0)), counts) for name, folder in data.items()}
    with ThreadPoolExecutor(max(options.workers, 1)) as pool:
        decode_all = pool.map if options.workers else map
        for number in range(step + 1, options.steps + 1):
            # a caption of each sample of the whole batch, and a symmetry, where the caption can be turned with its image
            samples, keys, captions, turns = [], [], [], []
            rng = np.random.default_rng([seed, number, *_CAPTION])
            turning = np.random.default_rng([seed, number, *_TURN])
            drawn = draw_sets(weights_at(number, options.stages, names), options.batch_size, [seed, number, *_MIXTURE])
            for name in turning.permutation(drawn).tolist() if options.twins > 1 else drawn:
                if len(samples) == options.batch_size:
                    break
                sample, positions[name] = next(sources[name])
                caption = sample.captions[draw_caption(rng, len(sample.captions), options.first_caption_share)]
                pairs = _turned(turning, caption, options)[: options.batch_size - len(samples)]
                for turn, text in pairs:
                    turns.append(turn)
                    captions.append(text)
                samples += [sample] * len(pairs)
                keys += [f"{name}/{sample.key}" if len(names) > 1 else sample.key] * len(pairs)

            # the images of this process's share
            share = range(rank, len(samples), ranks)
            view = partial(_view, side_at(number, options, size_px), options.held_px, held)
            view = view if make_maps is None else partial(_maps, make_maps, view, held)
            views = _draw_views(np.random.default_rng([seed, number, *_VIEW]), len(samples), options)
            arrays = list(decode_all(view, *zip(*((keys[i], samples[i], turns[i], *views[i]) for i in share))))
            readable = {i: array for i, array in zip(share, arrays) if array is not None}
            texts = [captions[i] for i in readable]
            yield Share(list(readable.values()), texts, keys, Place(dict(positions), Counter(counts)))


def read_batches(model: Mammut, data: Mapping[str, Path], config: Config, place: Place, step: int) -> Iterator[Batch]:
    """Yield this process's share of every batch after `step`, at `place`, to the last; `model` gives tokenizer and sizes.

    Raises:
        DataError: A data set has no sample that can be used, or too few images of a batch can be decoded.
    """
    options, settings = config.train, model.config
    share = options.batch_size // processes.size()
    n_parts, every = math.ceil(share / (options.micro_batch_size or share)), max(1, round(1 / options.captioned_share))
    make_maps = partial(_of_frozen, model) if options.held_maps else None
    where = place, step, processes.rank(), processes.size()
    shares = read(data, options, config.seed, settings.image_size, *where, make_maps)
    for number, rows in enumerate(shares, step + 1):
        if len(rows.images) < n_parts:
            readable = f"only {len(rows.images)} of {share} images of a batch are readable"
            raise DataError(f"{readable}, as of {rows.keys[0]}: see the data")
        counts = Counter({"broken image": share - len(rows.images)})
        tokens = tokenizers.encode(model.tokenizer, rows.captions, counts)
        lengths = (tokens != settings.pad_token_id).sum(axis=1)
        parts, order = [], np.argsort(lengths, kind="stable")
        # texts of similar length go through the decoder together
        for part in np.array_split(order, n_parts):
            groups = [group for group in np.array_split(part, TEXT_GROUPS) if len(group)]
            if make_maps is None:
                pixels = np.stack([rows.images[i] for i in part])
                shown = torch.from_numpy(images.normalise(pixels, settings.image_mean, settings.image_std))
            else:
                shown = [torch.from_numpy(np.stack(maps)) for maps in zip(*(rows.images[i] for i in part))]
            captioned = [
                torch.from_numpy(np.flatnonzero((group * processes.size() + processes.rank()) % every == 0))
                for group in groups
            ]
            parts.append((shown, [torch.from_numpy(tokens[group, : lengths[group[-1]]]) for group in groups], captioned))
        numbers = losses.text_numbers(torch.from_numpy(tokens[order]))
        yield Batch(parts, rows.keys, rows.place, +counts, dropout_seed(config.seed, number), numbers)


@torch.inference_mode()
def _of_frozen(model: Mammut, picture: np.ndarray) -> list[np.ndarray]:
    """What the network of a model's tower makes of a picture: maps (C, h, w) float16. One by one, so that no batch shows in a byte."""
    normal = torch.from_numpy(images.normalise(picture[None], model.config.image_mean, model.config.image_std))
    normal = normal.to(model.device, memory_format=torch.channels_last)
    return [one[0].half().contiguous().cpu().numpy() for one in model.vision.maps(normal)]


def dropout_seed(*draw: int) -> int:
    """Return the seed of what dropout draws, from that of the run and from where it is (its step); another in each process."""
    return int(np.random.SeedSequence([*draw, processes.rank()]).generate_state(1)[0])


def ahead(items: Iterator) -> Iterator:
    """Yield from an iterator whose next item is made in a thread while the last one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = pool.submit(next, items, None)
            yield item


def draw_sets(weights: Mapping[str, float], count: int, seed: Sequence[int]) -> list[str]:
    """Draw `count` data sets in proportion to their weights: each as often as its share, rounded up or down by chance."""
    names = list(weights)
    if len(names) == 1:
        return names * count
    edges = np.cumsum([weights[name] for name in names])
    marks = (np.arange(count) + np.random.default_rng(seed).random()) / count
    drawn = np.searchsorted(edges / edges[-1], marks, side="right").clip(max=len(names) - 1)
    return [names[i] for i in drawn]


def draw_caption(rng: np.random.Generator, count: int, first_share: float) -> int:
    """Draw one of `count` captions: the first with probability `first_share`, otherwise one of the others, evenly."""
    return 0 if count == 1 or rng.random() < first_share else int(rng.integers(1, count))


def _endless(folder: Path, seed: int, epoch: int, position: int, counts: Counter) -> Iterator[tuple]:
    """Yield each sample of epoch after epoch, and where the next one stands (epoch, position)."""
    read_epoch = _epochs(folder, seed)
    while True:
        is_empty = True
        for sample in read_epoch(epoch=epoch, start=position, skipped=counts):
            is_empty = False
            yield sample, (epoch, sample.position + 1)
        if is_empty and position == 0:
            raise DataError(f"the train split of {folder} has no readable sample ({dict(counts) or 'it is empty'})")
        epoch, position = epoch + 1, 0


def _epochs(folder: Path, seed: int) -> Callable[..., Iterator[shards.Sample]]:
    """Return a reader of one epoch of a folder's train split, in an order made of the seed and the epoch."""
    if tables.has_shards(folder):
        return partial(shards.stream, folder, "train", seed=seed)
    # Benchmarks are stored class by class and are small, so the encoded images are held in memory and permuted as a whole.
    left_out: Counter = Counter()
    samples = list(benchmarks.samples(folder, "train", skipped=left_out))

    def read_epoch(epoch: int, start: int, skipped: Counter) -> Iterator[shards.Sample]:
        if start == 0:
            skipped.update(left_out)
        order = np.random.default_rng([seed, epoch, 0]).permutation(len(samples))
        for position in range(start, len(samples)):
            sample = samples[order[position]]
            yield shards.Sample(sample.key, sample.image, sample.captions, sample.record, position)

    return read_epoch


def _turned(rng: np.random.Generator, caption: str, options: Train) -> list[tuple[int, str]]:
    """Draw the symmetries in which a sample is shown, each with its caption; as it is, where options or caption allow no other."""
    if options.twins > 1:
        return list(augment.draw_twins(rng, caption, options.twins).items())
    turn = int(rng.integers(augment.ELEMENTS)) if options.augment else 0
    text = augment.turn_text(caption, turn)
    return [(0, caption) if text is None else (turn, text)]


def _draw_views(rng: np.random.Generator, count: int, options: Train) -> list[tuple]:
    """Draw the part and the light of each picture; none where the options leave them as they are."""
    boxes = augment.draw_boxes(rng, count, options.smallest_crop) if options.smallest_crop < 1 else [None] * count
    lights = augment.draw_light(rng, count, options.light) if options.light else [None] * count
    return list(zip(boxes, lights))


def _maps(make: Callable, view: Callable, held: dict, key: str, sample: shards.Sample, turn: int, *variation) -> list | None:
    if (key, turn) not in held:
        array = view(key, sample, turn, *variation)
        if array is None:
            return None
        held[key, turn] = make(array)
    return held[key, turn]


def _view(side_px: int, held_px: int, held: dict, key: str, sample: shards.Sample, turn: int, box, light) -> np.ndarray | None:
    if (array := held.get(key)) is None:
        try:
            array = images.decode(sample.image, where=sample.key)
        except DataError as error:
            logger.debug("image of %s: %s", sample.key, error)  # the trainer counts these and says so once
            return None
        if held_px:
            array = held[key] = images.resize(array, held_px, held_px)
    array = images.resize(array, side_px, side_px, box)
    return augment.turn_image(array if light is None else augment.relight(array, light), turn)
