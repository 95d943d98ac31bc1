"""What `rsvlm evaluate reading` and `--baselines` ask, by the names of a model and a benchmark; `by_name` does the rest."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from rsvlm.data import benchmarks
from rsvlm.data.reading import decoded
from rsvlm.data.shards import Sample
from rsvlm.errors import DataError
from rsvlm.evaluation import baselines, by_name, embeddings, reading, retrieval, statistics
from rsvlm.model import embed
from rsvlm.model.others import opening
from rsvlm.records.text import batched
from rsvlm.training import augment

MEASURES = ("directions", "words", "negation")
RIDGES = {"colour": 0.0, "colour, whitened": 0.1}
"""Name of a ridge regression on colours → its whitening."""


# Baselines beside a model


def retrieval_baselines(
    evaluation: by_name.Evaluation,
    root: Path | str | None,
    benchmark: str | None,
    options: by_name.Options,
    *,
    split: str = "test",
    train_split: str = "train",
) -> by_name.Evaluation:
    """Put ridge regressions on colours, learnt from the training split, beside a model's retrieval: see `baselines.beside`.

    Under `one-to-one` they learn from first captions, as these are asked, elsewhere from all. Where there is nothing to learn from,
    or the pictures are not at hand, the model's rows stay alone and `about["baselines"]` says why. Arguments are those of
    `by_name.retrieve`, which `evaluation` comes from.
    """
    try:
        if root is None:
            raise DataError("the vectors of a file say nothing of colours; --root takes the folder of the pictures")
        read = {"name": benchmark, "partial": options.partial}
        colours, _, keys = _coloured(benchmarks.samples(root, split, **read))
        mine = next(iter(evaluation.parts.values()), None)
        if mine is None:
            raise DataError("vectors of a file may be of any pictures in any order; give --model a model")
        if keys != list(mine.keys):
            raise DataError(
                f"the vectors are of {len(mine.keys)} other pictures than the {len(keys)} of split '{split}' in {root}"
            )
        known, captions, _ = _coloured(benchmarks.samples(root, train_split, **read))
        _check_apart(root, split, train_split)
        ridges, told = {}, []
        for protocol, vectors in evaluation.parts.items():
            rows_of = [row for row in evaluation.rows if row["protocol"].split(" ")[0] == protocol]
            first = protocol == "one-to-one"
            for name, whitening in RIDGES.items() if rows_of else ():
                if (name, first) not in ridges:
                    texts = [of[:1] for of in captions] if first else captions
                    ridges[name, first] = baselines.colour_ridge(known, texts, whitening=whitening, seed=options.seed)
                draws: dict = {}
                ridge = ridges[name, first]
                facts = {"dataset": evaluation.about["benchmark"], "split": split, "resampled": draws} | options.scoring()
                pair = ridge.images(colours), ridge.texts(vectors.captions)
                rows = retrieval.evaluate(*pair, vectors.image_of_caption, vectors.captions, protocol, **facts)
                told += baselines.beside(rows_of, evaluation.draws, name, rows, draws, len(keys))
        evaluation.rows.extend(told)
    except DataError as error:
        return _alone(evaluation, error)
    return evaluation


def class_baselines(
    evaluation: by_name.Evaluation,
    root: Path | str,
    benchmark: str | None,
    options: by_name.Options,
    *,
    split: str | None = None,
    train_split: str = "train",
) -> by_name.Evaluation:
    """Put the commonest class, and a logistic regression on colours, beside a model's classes, as `retrieval_baselines`."""
    try:
        if split in (None, "all"):
            raise DataError("every picture is asked for, and none is left to learn from: choose a test split with --split")
        _check_apart(root, split, train_split)
        names, known, labels = _coloured_classes(root, benchmark, train_split, options)
        same, asked, truth = _coloured_classes(root, benchmark, split, options)
        if names != same:
            raise DataError(f"split '{train_split}' has other classes than '{split}'")
        facts = {"dataset": evaluation.about["benchmark"], "split": split, "bootstrap_samples": options.bootstrap_samples}
        told = []
        for protocol in dict.fromkeys(row["protocol"] for row in evaluation.rows):
            mine = [row for row in evaluation.rows if row["protocol"] == protocol]
            scored = baselines.of_classes(known, labels, asked, truth, names, seed=options.seed, protocol=protocol, **facts)
            for name, (rows, draws) in scored.items():
                told += baselines.beside(mine, evaluation.draws, name, rows, draws, len(truth))
        evaluation.rows.extend(told)
    except DataError as error:
        return _alone(evaluation, error)
    return evaluation


def _coloured(samples: Iterable[Sample]) -> tuple[np.ndarray, list[list[str]], list[str]]:
    """Colours (N, 54), captions and keys of the pictures that can be read."""
    parts = [(baselines.colours(image), list(sample.captions), sample.key) for sample, image in _shown(samples)]
    if not parts:
        raise DataError("no picture of the split can be read")
    colours, captions, keys = zip(*parts, strict=True)
    return np.stack(colours), list(captions), list(keys)


def _coloured_classes(
    root: Path | str, benchmark: str | None, split: str, options: by_name.Options
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the classes, and colours (N, 54) and labels (N,) of the pictures of a split that can be read."""
    names, items = benchmarks.labelled(root, benchmark, split, partial=options.partial)
    samples = (Sample(key, image, [], {"label": label}, 0) for key, image, label in items)
    parts = [(baselines.colours(image), sample.record["label"]) for sample, image in _shown(samples)]
    if not parts:
        raise DataError(f"no picture of split '{split}' can be read")
    colours, labels = zip(*parts, strict=True)
    return list(names), np.stack(colours), np.array(labels, np.int64)


def _shown(samples: Iterable[Sample]) -> Iterable[tuple[Sample, np.ndarray]]:
    """The pictures that can be read, with their samples, while a bar tells how many."""
    return tqdm(decoded(samples, Counter()), desc="colours", unit=" images")


def _check_apart(root: Path | str, split: str, train_split: str) -> None:
    if split == train_split:
        raise DataError(f"split '{split}' of {root} is asked for and learnt from: choose another with --train-split")


def _alone(evaluation: by_name.Evaluation, error: DataError) -> by_name.Evaluation:
    return dataclasses.replace(evaluation, about=evaluation.about | {"baselines": f"no baselines: {error}"})


# Does it read?


def read(
    model: str,
    root: Path | str,
    benchmark: str | None,
    options: by_name.Options,
    *,
    split: str = "test",
    measures: Sequence[str] = MEASURES,
    most: int | None = None,
    train_split: str | None = None,
) -> by_name.Evaluation:
    """Measure whether a model reads sentences: directions, words of a kind, negation, as `reading` says.

    Pictures whose records tell their ground (`footprint_lonlat`) are resampled in blocks of what overlaps; `about["blocks"]` is their
    number, `about["not_measured"]` says what could not be measured, and why, and `about["baselines"]` why no colours stand beside.

    Args:
        model: As for `opening.open_encoder`.
        root: Folder of the benchmark.
        benchmark: Name in `catalogue.rows`. If None, what the folder itself says.
        options: How it is scored; of the protocols all but skyscript.
        split: Split of the benchmark.
        measures: Some of `MEASURES`.
        most: Number of pictures, the first of the split. If None, all.
        train_split: Split from whose first captions ridge regressions on colours learn, whose directions stand beside the model's:
            where colours lie is much of what captions tell. If None, none are learnt.

    Raises:
        DataError: An unknown measure, protocol or rule for ties; a benchmark that is missing or broken; nothing could be measured.
        ModelError: As `opening.open_encoder`; or the model reads no texts.
    """
    if unknown := [name for name in measures if name not in MEASURES]:
        raise DataError(f"unknown measure '{unknown[0]}': choose of {', '.join(MEASURES)}")
    if str(model).startswith(by_name.FILE):
        raise DataError(f"{model} cannot read changed sentences: give --model a model")
    protocol = "one-to-one" if options.protocol == "all" else options.protocol
    possible = [name for name in retrieval.PROTOCOLS if name != "skyscript"]  # which pools equal captions: changed ones differ
    if protocol not in possible:
        raise DataError(f"protocol '{protocol}' is none for changed words: choose one of {', '.join(possible)} (--protocol)")
    if options.ties not in retrieval.TIES:
        raise DataError(f"unknown rule for ties '{options.ties}': choose one of {', '.join(retrieval.TIES)} (--ties)")
    by_name.check(model, root, benchmark, "retrieval", options.device)
    skipped: Counter = Counter()
    samples = benchmarks.samples(root, split, name=benchmark, partial=options.partial, skipped=skipped)
    encoder = opening.open_encoder(model, options.device)
    encoder.texts(["a river"])  # a model that reads none says so before any picture is embedded
    pictures = itertools.islice(decoded(samples, skipped), most)
    left_out: Counter = Counter()
    records, captions, vectors, sentences, turned, colours = [], [], [], {}, [], []
    for sample, arrays, own, telling in _turned(encoder, pictures, options.batch_size, "directions" in measures, left_out):
        if telling is not None:
            sentences[len(records)] = telling
            turned.append(own)
            colours += [np.stack([baselines.colours(array) for array in arrays])] if train_split else []
        records.append(sample.record)
        captions.append(list(sample.captions))
        vectors.append(own[0])
    if not records:
        raise DataError(f"no picture could be read ({embeddings.reasons(skipped) or 'the split is empty'})")

    images, blocks = np.stack(vectors), _blocks(records)
    about = by_name.about_model(encoder, root, by_name.title(benchmark, root, "retrieval"), skipped)
    about |= {"left_out_of_directions": dict(left_out), "images": len(images)}
    about |= {} if blocks is None else {"blocks": statistics.count_blocks(blocks, len(blocks))}
    facts = {"dataset": about["benchmark"], "split": split, "seed": options.seed}
    facts |= {"bootstrap_samples": options.bootstrap_samples}
    rows, missing = [], {}
    if train_split and "directions" not in measures:
        about["baselines"] = "no baselines: of reading, colours are asked for directions alone; add --measure directions"
    for measure in measures:
        try:
            if measure == "directions":
                of_turned = None if blocks is None else blocks[list(sentences)]
                if not turned:
                    raise DataError(f"no picture is left: {embeddings.reasons(left_out)}")
                told, how, draws = list(sentences.values()), facts | {"blocks": of_turned}, {}
                rows += reading.directions(np.stack(turned), told, encoder.texts, resampled=draws, **how)
                if train_split:
                    try:
                        _check_apart(root, split, train_split)
                        learnt = benchmarks.samples(root, train_split, name=benchmark, partial=options.partial)
                        rows += _directions_of_colours(np.stack(colours), told, learnt, rows, draws, how)
                    except DataError as error:
                        about["baselines"] = f"no baselines: {error}"
            elif measure == "words":
                owners = np.repeat(np.arange(len(images)), list(map(len, captions)))
                texts = [text for of in captions for text in of]
                how = facts | {"protocol": protocol, "ties": options.ties, "blocks": blocks}
                rows += reading.ablation(images, texts, owners, encoder.texts, **how)
            else:
                names, shown = reading.labels(records)
                rows += reading.negation(images, names, shown, encoder.texts, blocks=blocks, **facts)
        except DataError as error:  # as a set without directions in its captions: the others can be measured
            missing[measure] = str(error)
    if not rows:
        raise DataError("; ".join(f"{name}: {why}" for name, why in missing.items()))
    return by_name.Evaluation(rows, about | {"not_measured": missing})


def _directions_of_colours(
    colours: np.ndarray, sentences: list[list[str]], learnt: Iterable[Sample], rows: list[dict], draws: dict, how: dict
) -> list[dict]:
    """Rows of `baselines.beside`, of ridge regressions on (N, 8, 54) colours of turned pictures."""
    known, captions, _ = _coloured(learnt)
    told = []
    for name, whitening in RIDGES.items():
        ridge = baselines.colour_ridge(known, [texts[:1] for texts in captions], whitening=whitening, seed=how["seed"])
        theirs: dict = {}
        turned = ridge.images(colours.reshape(-1, colours.shape[2])).reshape(*colours.shape[:2], -1)
        of_colours = reading.directions(turned, sentences, ridge.texts, resampled=theirs, **how)
        units = statistics.count_blocks(how["blocks"], len(colours))
        told += baselines.beside(rows, draws, name, of_colours, theirs, units)
    return told


def _turned(
    encoder: embed.Encoder, pictures: Iterable[tuple[Sample, np.ndarray]], batch_size: int, turn: bool, left_out: Counter
) -> Iterator[tuple[Sample, list[np.ndarray], np.ndarray, list[str] | None]]:
    """Embed each picture, and its other turns where its captions tell them apart: sample, 1 or 8 pictures, vectors, sentences."""
    for batch in batched(
        tqdm(pictures, desc="embed and turn" if turn else "embed", unit=" images"), max(1, batch_size // augment.ELEMENTS)
    ):
        told = [reading.telling(sample.captions, left_out) if turn else None for sample, _ in batch]
        turns = [range(augment.ELEMENTS if sentences else 1) for sentences in told]
        arrays = [
            [np.ascontiguousarray(augment.turn_image(image, number)) for number in numbers]
            for (_, image), numbers in zip(batch, turns, strict=True)
        ]
        vectors = embed.unit(encoder.images([array for of in arrays for array in of]), f"images from {batch[0][0].key} on")
        parts = np.split(vectors, np.cumsum([len(of) for of in arrays])[:-1])
        for (sample, _), of, own, sentences in zip(batch, arrays, parts, told, strict=True):
            yield sample, of, own, sentences


def _blocks(records: Sequence[Mapping]) -> np.ndarray | None:
    """(N,) blocks of pictures whose ground overlaps; None where a record does not tell its ground."""
    boxes = [record.get("footprint_lonlat") for record in records]
    if not all(box is not None and len(box) == 4 for box in boxes):
        return None
    boxes = np.array(boxes, float)
    boxes[:, 2] += np.where(boxes[:, 2] <= boxes[:, 0], 360, 0)  # over the date line
    return statistics.overlapping(boxes)
