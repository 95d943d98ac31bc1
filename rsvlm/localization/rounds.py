"""Pseudo-label rounds: a model's own maps of unlabelled images teach it where things are, round after round, by files.

    out/run.json                 options, classes, hashes of the start and the pictures: no other run continues here
    out/round-1/labels.npz       what the teacher was sure of: class of each patch, -1 where it was not
                checkpoints/     as of `rsvlm.training.train`, whose loop it is; the newest two
                metrics.jsonl    its losses, speed and memory
                model/           averaged weights: the pupil, and the teacher of the next round
                metrics.json     agreement, labels, validation retrieval, and what `measure` returned; ends the round
    out/rounds.json              written last: the metrics of all rounds and the one to keep

The teacher sees each picture enlarged and in four flips; the pupil, a MaMMUT of this package, learns from patches, and from regions
pooled by its own attention, to tell the classes' texts apart there, while captions go on teaching it as before. The teacher of the
first round may be a model of any family. When to stop is decided from agreement between flips and from retrieval on validation
captions: no mask is read. Every draw is a function of the seed, the round and the step, so a run that was killed and started again
ends, on CPU, in the same bytes. Several processes that `torchrun` started share the batches of a round.

Source: our choice; the paper names the loop and states no loss. Most certain patches, class by class: Zou et al. 2018 (CBST, arXiv
1810.07911); averaged teacher: Tarvainen and Valpola 2017 (arXiv 1703.01780).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rsvlm import config
from rsvlm.data import benchmarks
from rsvlm.errors import DataError, ModelError
from rsvlm.evaluation import retrieval
from rsvlm.localization import heat, teacher as teachers
from rsvlm.localization.pictures import Pictures, Readings, load_or_read, read
from rsvlm.model import embed, images, losses, tokenizer, weights
from rsvlm.model.device import resolve_device
from rsvlm.model.encoder import Patches
from rsvlm.model.mammut import Mammut, MammutConfig
from rsvlm.model.others.opening import open_encoder
from rsvlm.records import stages
from rsvlm.training import checkpoints, processes, text, train
from rsvlm.training.batches import Batch, Place, dropout_seed

ROOMS = ("localization", "evaluation", "training", "model", "data/*", "data/landmarks/directions")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""


@dataclass(frozen=True)
class Options:
    """How rounds run.

    Attributes:
        rounds: At most so many.
        steps: Optimizer steps of each round; `batch_size` pictures in each.
        learning_rate: Peak of each round's AdamW, with `warmup_steps` of warm-up and the fall of `schedule`, as in `rsvlm.training.train`;
            likewise `weight_decay` and `clip_norm`.
        ema: Decay per step of the averaged weights that end a round.
        window: Window of the Smooth-Attention-Operation, in patches; `teacher_window` is the teacher's. If None, the same.
        teacher_scale: The teacher sees pictures enlarged by this whole number, and its maps are averaged over patches.
        sure_share: Of the patches that the teacher gives to a class, this share gets a label: the surest.
        patch_weight: Of the patch-text loss; `region_weight` of the region-text loss; 0 leaves a loss out.
        contrastive_weight: Of the image-text loss on captions; `caption_weight` of the caption loss.
        least_agreement: A round whose teacher agrees less with its flips than the one before, by more than this share, is not kept.
        most_recall_lost: Nor is one whose mean recall on validation captions is lower than at the start by more than so many points.
        precision: Precision of the towers, `fp32`, `bf16` or `fp16`; losses are float32 always.
        micro_batch_size: Pictures in memory at once, per process; the gradient stays that of the whole batch. If None, all.
        workers: Number above 0 to make a batch while the one before is learned from; no byte depends on it.
        checkpoint_every: Steps between checkpoints; `log_every` between lines of metrics.
        seed: Of every draw.
    """

    rounds: int = 3
    steps: int = 60
    batch_size: int = 64
    learning_rate: float = 5e-4
    warmup_steps: int = 5
    schedule: str = "linear"
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema: float = 0.95
    window: int = 3
    teacher_window: int | None = None
    teacher_scale: int = 2
    sure_share: float = 0.5
    patch_weight: float = 1.0
    region_weight: float = 0.5
    contrastive_weight: float = 1.0
    caption_weight: float = 0.0
    least_agreement: float = 0.01
    most_recall_lost: float = 1.0
    precision: str = "fp32"
    micro_batch_size: int | None = None
    workers: int = 0
    checkpoint_every: int = 20
    log_every: int = 10
    seed: int = 0

    def of_training(self) -> config.Train:
        """Return those of them that are options of the training loop."""
        names = config.Train.model_fields.keys() & self.__dict__.keys()
        return config.Train(**{name: getattr(self, name) for name in names})


def run(
    start: Path,
    pictures: Pictures | Path,
    validation: Pictures | Path,
    classes: Mapping[str, Sequence[str]],
    out: Path,
    options: Options | None = None,
    *,
    teacher: str | Path | None = None,
    measure: Callable[[Mammut], Mapping[str, float]] | None = None,
    device: str = "cpu",
) -> dict:
    """Run rounds, or go on with those in `out`.

    Args:
        start: Folder of a MaMMUT with its tokenizer: what is trained, and round 0 of the metrics.
        pictures: Pictures to learn from; or a folder of shards or a benchmark, whose train split `pictures.load_or_read` reads.
        validation: Pictures for the stop rule, by flips and captions; or a folder: up to 1,000 of its val split.
        classes: Sentences of each of at least two classes; the class is where any of its sentences is.
        out: The run's folder.
        options: See `Options`.
        teacher: Model that labels the first round, of any family, as for `opening.open_encoder`; from the second round on the pupil of
            the one before does. If None, `start`.
        measure: Called with the model of each round, in every process; what it returns is kept beside that round's metrics, and
            never decides.
        device: Where to train.

    Returns:
        `{"rounds": [metrics of round 0, 1, …], "kept": number of the round to keep, "why": why it stopped}`, as in `rounds.json`.

    Raises:
        ConfigError: The batch cannot be shared by the processes.
        DataError: Fewer than two classes, a class without a sentence, pictures that do not fit the model, or another process writes
            into `out`.
        ModelError: `out` holds a run with other options or data; `start` is no MaMMUT; or the teacher is refused by `teacher.check`.
        RsvlmError: The loss of a round became NaN or infinite; see its `not_finite.json`.
    """
    options, start, out = options or Options(), Path(start), Path(out)
    if len(classes) < 2 or not all(len(texts) for texts in classes.values()):
        raise DataError(f"classes {list(classes)}: give two or more, each with a sentence or several")
    with processes.joined(resolve_device(device)) as target, processes.sole_writer(out):
        # the same rounds as before, if there were any
        train.check(options.of_training())
        sizes = _of_start(start)
        side, grid = sizes.image_size, sizes.image_size // sizes.patch_size
        other = teachers.check(open_encoder(teacher, str(target))) if teacher is not None else None
        pictures, validation = _opened(pictures, "train", side), _opened(validation, "val", side, most=1000)
        for name, given in (("pictures", pictures), ("validation", validation)):
            if given.images.ndim != 4 or given.images.shape[1:] != (side, side, 3) or len(given.images) != len(given.captions):
                raise DataError(
                    f"{name}: {given.images.shape} and captions of {len(given.captions)}: expected (N, {side}, {side}, 3) and N"
                )
        identity = _identity(start, {"pictures": pictures, "validation": validation}, classes, options)
        identity |= {} if other is None else {"teacher": other.fingerprint}
        _begin_or_resume(out / "run.json", json.dumps(identity, indent=1))
        if (out / "rounds.json").is_file():
            return json.loads((out / "rounds.json").read_text())

        # round after round, as long as it is better
        table, folder, kept, why = [], start, 0, "all rounds are done"
        for number in range(options.rounds + 1):
            place = out / f"round-{number}"
            if not (place / "metrics.json").is_file():
                facts: dict = {"round": number}
                if number:
                    told_by = other if other and number == 1 else weights.load(folder, target)
                    how = {"window": options.teacher_window or options.window, "scale": options.teacher_scale, "grid": grid}
                    how |= {"sure_share": options.sure_share}
                    labels = teachers.load_or_label(place / "labels.npz", told_by, pictures.images, classes, **how)
                    other = told_by = None  # it needs no memory any more
                    facts |= {f"labelled[{name}]": float((labels == c).mean()) for c, name in enumerate(classes)}
                    folder = _train(folder, pictures, labels, classes, options, number, place, target)
                pupil = weights.load(folder, target)
                facts |= judge(pupil, validation, classes, options)
                facts |= {"measured": dict(measure(pupil))} if measure else {}
                processes.write(place / "metrics.json", json.dumps(facts, indent=1))
            folder = place / "model" if number else start
            table.append(json.loads((place / "metrics.json").read_text()))
            if (reason := _stop(table, options)) is not None:
                why = reason
                break
            kept = number
        result = {"rounds": table, "kept": kept, "why": why}
        processes.write(out / "rounds.json", json.dumps(result, indent=1))
        return result


def begin(
    sizes: Mapping[str, object],
    pictures: Pictures | Path,
    out: Path,
    options: Options | None = None,
    vocabulary: int = 2048,
    device: str = "cpu",
) -> Path:
    """Train a model on captions alone, for rounds to start from; go on where a killed run left off.

    Args:
        sizes: Options of `MammutConfig`. Patches have to know of themselves, not of the whole picture: a convolutional tower of few
            stages sees little around each, a transformer everything.
        pictures: To learn from, as of `run`; each step reads a caption of each picture or, as often, a single sentence of one. The
            longest caption, which says everything at once, is read by its sentences alone, unless it is the only one.
        out: The run's folder.
        options: `steps`, `batch_size`, `learning_rate`, … count; `rounds` and the losses of regions do not.
        vocabulary: Entries of the tokenizer, at most.
        device: Where to train.

    Returns:
        The folder of the model, `out/model`.

    Raises:
        DataError: Another process writes into `out`.
        ModelError: `out` holds a run with other options or data, or the sizes do not fit together.
    """
    options, out = options or Options(), Path(out)
    with processes.joined(resolve_device(device)) as target, processes.sole_writer(out):
        train.check(options.of_training())
        pictures = _opened(pictures, "train", int(MammutConfig(**sizes).image_size))
        pictures = Pictures(pictures.images, Readings(pictures.captions))
        identity = json.dumps(
            {"sizes": dict(sizes), "vocabulary": vocabulary} | _identity(None, {"pictures": pictures}, {}, options)
        )
        untrained = not (out / "untrained").is_dir()
        _begin_or_resume(out / "begin.json", identity)
        if untrained:
            trained = tokenizer.train((text for texts in pictures.captions for text in texts), vocabulary, 112)
            torch.manual_seed(options.seed)
            model = Mammut(MammutConfig(**sizes, vocab_size=len(trained), context_length=112))
            model.tokenizer = trained
            checkpoints.finish(model, out / "untrained")
        return _train(out / "untrained", pictures, None, {}, options, 0, out, target)


def load_or_begin(options: config.Config, data: Path, sizes: Mapping[str, object], recompute: bool = False) -> Path:
    """Return the folder of a small model, trained on captions alone now unless it was before.

    Args:
        options: Options of a longer training: the small one takes half its steps, at most 150, at its learning rate, and its seed.
        data: Folder of shards with a train split.
        sizes: Options of `MammutConfig`, as of `begin`; `image_size` among them.
        recompute: Train again.
    """
    steps, rate = min(options.train.steps // 2, 150), options.train.learning_rate
    chosen = Options(steps=steps, learning_rate=rate, warmup_steps=steps // 8, ema=0.9, seed=options.seed)
    source = stages.source_hash(*ROOMS)
    data_hash = benchmarks.fingerprint(data)
    parts = {"sizes": dict(sizes), "options": dataclasses.asdict(chosen), "data": data_hash, "source": source}

    def compute(folder: Path) -> None:
        begin(sizes, read(data, "train", sizes["image_size"], seed=options.seed), folder, chosen)

    return stages.stage("rounds-begin", parts, compute, recompute) / "model"


def region_losses(model: Mammut, patches: Patches, labels: Tensor, texts: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Cross-entropies of labelled patches, and of labelled regions, against the classes.

    Args:
        model: The model; its output head and logit scale are used.
        patches: Patches of B images.
        labels: (B, h, w) int64, -1 for no label.
        texts: (C, E) of norm 1.
        window: Patches are pooled over such windows first.

    Returns:
        The mean over labelled patches, so that classes count as often as they were told; and the mean over regions, where a region
        is all patches of one class in one image, pooled by their attention weights. 0 where there is no label.
    """
    z = heat.smooth(model, patches, window)  # (B, h, w, E)
    logits = model.logit_scale * z @ texts.T  # (B, h, w, C)
    total = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), ignore_index=-1, reduction="sum")
    patch = total / (labels >= 0).sum().clamp_min(1)

    inside = _members(labels, len(texts))
    image, kind = inside.flatten(2).any(-1).nonzero(as_tuple=True)
    if not len(image):
        return patch, patch * 0
    scores = patches.scores[image].masked_fill(~inside[image, kind][:, None], -torch.inf)  # (R, n, h, w)
    share = scores.flatten(2).softmax(-1)[..., None]  # (R, n, P, 1)
    pooled = (share * patches.values[image].flatten(2, 3)).sum(2)  # (R, n, d)
    region = F.cross_entropy(model.logit_scale * heat.project(model, pooled, patches.rest[image]) @ texts.T, kind)
    return patch, region


def _members(labels: Tensor, classes: int) -> Tensor:
    """Which patches are of which class: (B, h, w) labels to (B, C, h, w) bool."""
    return F.one_hot(labels + 1, classes + 1)[..., 1:].movedim(-1, 1).bool()


def judge(model: Mammut, validation: Pictures, classes: Mapping[str, Sequence[str]], options: Options) -> dict[str, float]:
    """Measure what needs no mask: `agreement` of each patch's class with that of the flips (0…1), and `val_mR` (`recall`)."""
    odds = teachers.odds_by_part(model, validation.images, classes, window=options.window, flips=len(teachers.FLIPS))
    winners = np.concatenate([part.argmax(axis=2) for part in odds], axis=1)
    shares = np.bincount(winners[0].ravel(), minlength=len(classes)) / winners[0].size
    agreement = float((winners[1:] == winners[0]).mean())
    of_classes = {f"told[{name}]": float(share) for name, share in zip(classes, shares, strict=True)}
    return {"agreement": agreement, "val_mR": recall(model, validation)["value"], **of_classes}


def recall(model: Mammut, pictures: Pictures, bootstrap_samples: int = 0, seed: int = 0) -> dict:
    """Mean of R@1, R@5 and R@10 in both directions, in percent, over all captions of the pictures: a row of `retrieval.evaluate`."""
    counts = [len(texts) for texts in pictures.captions]
    captions = embed.texts(model, [text for texts in pictures.captions for text in texts])
    vectors = embed.images(model, list(pictures.images)), captions, np.repeat(np.arange(len(counts)), counts)
    ks = [k for k in (1, 5, 10) if k <= len(counts)]
    rows = retrieval.evaluate(*vectors, dataset="", split="", ks=ks, bootstrap_samples=bootstrap_samples, seed=seed)
    return next(row for row in rows if row["metric"] == "mR")


def _stop(table: list[dict], options: Options) -> str | None:
    """Say why the newest round is not to be kept, from measures that need no mask; None if it is."""
    if len(table) == 1:
        return None
    first, before, now = table[0], table[-2], table[-1]
    number = f"round {now['round']}"
    if now["agreement"] < before["agreement"] - options.least_agreement:
        return f"{number}: flips agree in {now['agreement']:.3f} of the patches, {before['agreement']:.3f} before"
    if now["val_mR"] < first["val_mR"] - options.most_recall_lost:
        return f"{number}: mean recall of validation captions is {now['val_mR']:.1f}, {first['val_mR']:.1f} at the start"
    emptied = [name for name in now if name.startswith("told[") and now[name] < first[name] / 4]
    return f"{number}: a class all but vanished, {emptied[0]}" if emptied else None


def _train(
    start: Path,
    pictures: Pictures,
    labels: np.ndarray | None,
    classes: Mapping[str, Sequence[str]],
    options: Options,
    number: int,
    place: Path,
    device: torch.device,
) -> Path:
    """Train one round from the model in `start`; go on from its newest checkpoint, and return its model's folder."""
    if (place / "model").is_dir():
        return place / "model"
    usable = np.arange(len(pictures.images)) if labels is None else np.flatnonzero((labels >= 0).any(axis=(1, 2)))
    if len(usable) < processes.size():
        raise DataError(f"{place}: the teacher is sure of no patch: raise sure_share")
    model = text.freeze(weights.load(start, device), 0)
    read_batches = partial(_read_batches, model, pictures, usable, labels, classes, options, number)
    folder = train.loop(model, read_batches, objective(options, with_labels=labels is not None), options.of_training(), place)
    if processes.rank() == 0:
        shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return folder


@dataclass(frozen=True)
class Part:
    """A micro-batch of b pictures, a caption of each, and what the teacher said of their patches.

    Attributes:
        images: (b, 3, S, S) float32, normalised.
        tokens: (b, T) int64, from the shortest caption to the longest.
        labels: (b, h, w) int64, -1 where the teacher was not sure; None in a training on captions alone.
        classes: (C, T) int64, one sentence of each class; None likewise.
    """

    images: Tensor
    tokens: Tensor
    labels: Tensor | None
    classes: Tensor | None


def _read_batches(
    model: Mammut,
    pictures: Pictures,
    usable: np.ndarray,
    labels: np.ndarray | None,
    classes: Mapping[str, Sequence[str]],
    options: Options,
    number: int,
    place: Place,
    done: int,
) -> Iterator[Batch]:
    """Yield this process's share of every batch after `done` steps: of pictures that are `usable`, drawn anew in each step."""
    settings = model.config
    for step in range(done + 1, options.steps + 1):
        # what the batch is, of all processes
        rng = np.random.default_rng([options.seed, number, step])
        chosen = rng.choice(usable, min(options.batch_size, len(usable)), replace=False)
        texts = [pictures.captions[i] for i in chosen]
        counts = Counter()
        tokens = tokenizer.encode(model.tokenizer, [captions[rng.integers(len(captions))] for captions in texts], counts)
        lengths = (tokens != settings.pad_token_id).sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        chosen, tokens, lengths = chosen[order], tokens[order], lengths[order]
        asked = None
        if labels is not None and (options.patch_weight or options.region_weight):
            # one sentence of each class: over the steps, all of them
            words = [sentences[rng.integers(len(sentences))] for sentences in classes.values()]
            asked = torch.from_numpy(tokenizer.encode(model.tokenizer, words))

        # what this process has of it
        parts = []
        own = np.array_split(np.arange(len(chosen)), processes.size())[processes.rank()]
        for rows in np.array_split(own, math.ceil(len(own) / (options.micro_batch_size or len(own)))):
            pixels = np.asarray(pictures.images[chosen[rows]])
            normal = torch.from_numpy(images.normalise(pixels, settings.image_mean, settings.image_std))
            of_rows = None if asked is None else torch.from_numpy(labels[chosen[rows]].astype(np.int64))
            parts.append(Part(normal, torch.from_numpy(tokens[rows, : lengths[rows[-1]]]), of_rows, asked))
        yield Batch(
            parts,
            [str(i) for i in chosen],
            place,
            counts if processes.rank() == 0 else Counter(),  # of all texts, so one process tells them
            dropout_seed(options.seed, number, step),
            losses.text_numbers(torch.from_numpy(tokens)),
        )


def objective(options: Options, with_labels: bool) -> train.Objective:
    """Return the losses of a step: of captions and, where there are labels, of patches and regions.

    The caption loss carries its weight inside, because rounding depends on where it is multiplied.
    """
    with_labels = with_labels and bool(options.patch_weight or options.region_weight)

    def forward(model: Mammut, part: Part, with_means: bool) -> train.Output:
        means, tokens = {}, part.tokens.to(model.device)
        counts = {"caption": (tokens[:, 1:] != model.config.pad_token_id).sum()}
        image_tokens = model.image_tokens(part.images.to(model.device))
        texts = model.encode_text(tokens)
        image_embeddings, scale = model.image_embedding(image_tokens), model.logit_scale
        if with_means and options.caption_weight:
            means["caption"] = options.caption_weight * model.caption_loss(tokens, image_tokens) / counts["caption"]
        if with_labels:
            labels = part.labels.to(model.device)
            counts |= {"patch": (labels >= 0).sum(), "region": _members(labels, len(part.classes)).flatten(2).any(-1).sum()}
        if with_means and with_labels:
            classes = model.encode_text(part.classes.to(model.device))
            side = model.config.image_size // model.config.patch_size
            patches = embed.MammutEncoder(model).patches_of(image_tokens, (side, side))
            if patches.scores.isfinite().all():
                with torch.autocast(model.device.type, enabled=False):
                    means["patch"], means["region"] = region_losses(model, patches, labels, classes.float(), options.window)
            else:  # the weights have run away: a loss that is not finite stops the loop, which tells where
                means["patch"] = means["region"] = patches.scores.sum()
        return train.Output(image_embeddings, texts, scale, means, counts)

    def contrast(model: Mammut, batch: Batch, image_embeddings: Tensor, text_embeddings: Tensor, scale: Tensor) -> Tensor:
        numbers = batch.text_numbers.to(model.device)
        return losses.softmax_loss(image_embeddings.float(), text_embeddings.float(), scale, numbers)

    caption = {"caption": 1.0} if options.caption_weight else {}
    regions = {"patch": options.patch_weight, "region": options.region_weight} if with_labels else {}
    return train.Objective(forward, contrast, {"contrastive": options.contrastive_weight} | caption | regions)


def _of_start(start: Path) -> MammutConfig:
    """Return the options of the model that is trained."""
    if not start.is_dir():
        raise ModelError(
            f"there is no folder {start}: rounds train a MaMMUT of this package. A model of another family can label for it: "
            "give that as teacher, and a folder of `rsvlm train` or `rounds.begin` as start"
        )
    return weights.load(start).config


def _opened(source: Pictures | Path, split: str, side: int, most: int | None = None) -> Pictures:
    return source if isinstance(source, Pictures) else load_or_read(Path(source), split, side, most=most)


def _begin_or_resume(path: Path, identity: str) -> None:
    """Write down what decides a run, unless that of another run is there, which computed something."""
    if path.is_file() and path.read_text() != identity and any(path.parent.glob("*/*")):
        raise ModelError(f"{path.parent} holds a run with other options or data: give another folder, or delete it")
    processes.write(path, identity)


def _identity(start: Path | None, given: Mapping[str, Pictures], classes: Mapping, options: Options) -> dict:
    parts = {"options": dataclasses.asdict(options), "classes": {name: list(texts) for name, texts in classes.items()}}
    del parts["options"]["workers"]  # they decide nothing
    parts["start"] = embed.fingerprint(start) if start else ""
    for name, pictures in given.items():
        digest = hashlib.sha256()
        for first in range(0, len(pictures.images), 1024):
            digest.update(np.ascontiguousarray(pictures.images[first : first + 1024]).tobytes())
        digest.update(b"[")
        for i, texts in enumerate(pictures.captions):
            digest.update((", " if i else "").encode() + json.dumps(list(texts)).encode())
        digest.update(b"]")
        parts[name] = digest.hexdigest()
    return parts
