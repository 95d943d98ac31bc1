"""Pseudo-label rounds: a model's own maps of unlabelled images teach it where things are, round after round, by files.

    out/run.json                 options, classes, hashes of the start and the pictures: no other run continues here
    out/round-1/labels.npz       what the teacher was sure of: class of each patch, -1 where it was not
                checkpoints/     as of `rsvlm.train`; the newest two
                model/           averaged weights: the pupil, and the teacher of the next round
                metrics.json     agreement, labels, validation retrieval, and what `measure` returned; ends the round
    out/rounds.json              written last: the metrics of all rounds and the one to keep

The teacher sees each picture enlarged and in four flips; the pupil learns from patches, and from regions pooled by its own
attention, to tell the classes' texts apart there, while captions go on teaching it as before. When to stop is decided from
agreement between flips and from retrieval on validation captions: no mask is read. Every draw is a function of the seed, the round
and the step, so a run that was killed and started again ends, on CPU, in the same bytes.

Source: our choice; the paper names the loop and states no loss. Most certain patches, class by class: Zou et al. 2018 (CBST, arXiv
1810.07911); averaged teacher: Tarvainen and Valpola 2017 (arXiv 1703.01780).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from rsvlm import benchmarks, checkpoints, embed, localize, losses, retrieval, runs, train, weights
from rsvlm import images as imaging
from rsvlm import tokenizer as tokenizers
from rsvlm.curriculum import Place
from rsvlm.errors import DataError, ModelError
from rsvlm.mammut import Mammut, MammutConfig
from rsvlm.runs import write_atomic

if TYPE_CHECKING:
    from rsvlm import config

logger = logging.getLogger(__name__)

FLIPS = ((), (-1,), (-2,), (-2, -1))

LOCAL: dict = {"image_size": 64, "patch_size": 8, "vision_width": 64, "vision_stages": [1, 1], "image_pooling": "attention"}
"""Sizes of the chapters' small model: a patch sees some forty pixels around its own eight, and no patch knows its position."""
LOCAL |= {"vision_heads": 4, "text_width": 64, "text_layers": 2, "text_heads": 4}


def _land(*colours: str) -> tuple[str, ...]:
    return tuple(f"The land is {colour} throughout." for colour in colours)


_SEA = ("Sea covers nearly all of the picture.", "Sea takes up nearly all of the picture.")
SEA_AND_LAND = {
    "sea": _SEA,
    "land": _land("dark green", "green", "tan", "brown", "light brown", "grey", "white", "olive", "very dark green"),
}
"""Sentences of the two classes that nearly every chip of the Blue Marble has, as whole as their captions are; single words such as
“Sea.” say little to a model that has read none. Chosen by the masks of the validation chips."""

COVERS = {
    "sea": _SEA,
    "other land": _land("light green", "green", "dark green", "very dark green", "khaki", "olive", "dark olive")
    + _land("reddish brown", "brown", "grey", "dark grey"),
    "desert": _land("orange", "pale sand", "tan", "light brown"),
    "ice": _land("white", "pale grey"),
}
"""The same of four covers of the ground: the colours of each are those by which `earthmasks.read` tells it."""


@dataclass(frozen=True)
class Options:
    """How rounds run.

    Attributes:
        rounds: At most so many.
        steps: Optimizer steps of each round; `batch_size` pictures in each.
        learning_rate: Peak of each round's AdamW, with `warmup_steps` of warm-up and the fall of `schedule`, as in `rsvlm.train`;
            likewise `weight_decay` and `clip_norm`.
        ema: Decay per step of the averaged weights that end a round.
        window: Of the Smooth-Attention-Operation, in patches; `teacher_window` is the teacher's (none: the same).
        teacher_scale: The teacher sees pictures enlarged by this whole number, and its maps are averaged over patches.
        sure_share: Of the patches that the teacher gives to a class, this share gets a label: the surest.
        patch_weight: Of the patch-text loss; `region_weight` of the region-text loss; 0 leaves a loss out.
        contrastive_weight: Of the image-text loss on captions; `caption_weight` of the caption loss.
        least_agreement: A round whose teacher agrees less with its flips than the one before, by more than this share, is not kept.
        most_recall_lost: Nor is one whose mean recall on validation captions is lower than at the start by more than so many points.
        checkpoint_every: Steps between checkpoints.
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
    checkpoint_every: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Pictures:
    """N pictures (N, S, S, 3) uint8 and the captions of each; no mask."""

    images: np.ndarray
    captions: Sequence[Sequence[str]]


def run(
    start: Path,
    pictures: Pictures,
    validation: Pictures,
    classes: Mapping[str, Sequence[str]],
    out: Path,
    options: Options | None = None,
    *,
    measure: Callable[[Mammut], Mapping[str, float]] | None = None,
    device: str = "cpu",
) -> dict:
    """Run rounds, or go on with those in `out`.

    Args:
        start: Folder of a model with its tokenizer: the teacher of the first round, and round 0 of the metrics.
        pictures: To learn from.
        validation: For the stop rule: flips and captions.
        classes: Sentences of each of at least two classes; the class is where any of its sentences is.
        out: The run's folder.
        options: See `Options`.
        measure: Called with the model of each round; what it returns is kept beside that round's metrics, and never decides.
        device: Where to train.

    Returns:
        `{"rounds": [metrics of round 0, 1, …], "kept": number of the round to keep, "why": why it stopped}`, as in `rounds.json`.

    Raises:
        DataError: Fewer than two classes, a class without a sentence, or pictures that do not fit the model.
        ModelError: `out` holds other rounds.
    """
    options, start, out = options or Options(), Path(start), Path(out)
    if len(classes) < 2 or not all(len(texts) for texts in classes.values()):
        raise DataError(f"classes {list(classes)}: give two or more, each with a sentence or several")
    model = weights.load(start, device)
    side = model.config.image_size
    for name, given in (("pictures", pictures), ("validation", validation)):
        if given.images.ndim != 4 or given.images.shape[1:] != (side, side, 3) or len(given.images) != len(given.captions):
            raise DataError(
                f"{name}: {given.images.shape} and captions of {len(given.captions)}: expected (N, {side}, {side}, 3) and N"
            )
    identity = _identity(start, {"pictures": pictures, "validation": validation}, classes, options)
    if (out / "run.json").is_file() and json.loads((out / "run.json").read_text()) != identity:
        raise ModelError(f"{out} holds rounds of other options or data: give another folder, or delete it")
    if (out / "rounds.json").is_file():
        return json.loads((out / "rounds.json").read_text())
    write_atomic(out / "run.json", json.dumps(identity, indent=1))

    table, folder, kept, why = [], start, 0, "all rounds are done"
    for number in range(options.rounds + 1):
        place = out / f"round-{number}"
        if not (place / "metrics.json").is_file():
            facts: dict = {"round": number}
            if number:
                teacher = weights.load(folder, device)
                facts |= _labels(teacher, pictures, classes, options, place / "labels.npz")
                folder = _train(folder, pictures, classes, options, number, place, device)
            pupil = weights.load(folder, device)
            facts |= judge(pupil, validation, classes, options)
            facts |= {} if measure is None else {"measured": dict(measure(pupil))}
            write_atomic(place / "metrics.json", json.dumps(facts, indent=1))
        folder = place / "model" if number else start
        table.append(json.loads((place / "metrics.json").read_text()))
        if (reason := _stop(table, options)) is not None:
            why = reason
            break
        kept = number
    result = {"rounds": table, "kept": kept, "why": why}
    write_atomic(out / "rounds.json", json.dumps(result, indent=1))
    return result


def read(folder: Path, split: str, side: int, *, most: int | None = None, seed: int = 0) -> Pictures:
    """Read the pictures of a split, resized to (side, side), with all captions; a seeded sample if there are more than `most`.

    Raises:
        DataError: There is nothing to read.
    """
    found = [(s.image, s.captions) for s in benchmarks.samples(folder, split)]
    chosen = np.sort(np.random.default_rng([seed, 1]).permutation(len(found))[:most])
    if not len(chosen):
        raise DataError(f"{folder} has no picture in its split '{split}'")
    arrays = [imaging.decode(found[i][0]) for i in chosen]
    resized = [a if a.shape[:2] == (side, side) else imaging.resize(a, side, side) for a in arrays]
    return Pictures(np.stack(resized), [found[i][1] for i in chosen])


def begin(
    sizes: Mapping[str, object], pictures: Pictures, out: Path, options: Options | None = None, vocabulary: int = 2048
) -> Path:
    """Train a model on captions alone, for rounds to start from; go on where a killed run left off.

    Args:
        sizes: Options of `MammutConfig`. Patches have to know of themselves, not of the whole picture: a convolutional tower of few
            stages sees little around each, a transformer everything.
        pictures: To learn from; each step reads a caption of each picture or, as often, a single sentence of one. The longest
            caption, which says everything at once, is read by its sentences alone, unless it is the only one.
        out: The run's folder.
        options: `steps`, `batch_size`, `learning_rate`, … count; `rounds` and the losses of regions do not.
        vocabulary: Entries of the tokenizer, at most.

    Returns:
        The folder of the model, `out/model`.

    Raises:
        ModelError: `out` holds another beginning, or the sizes do not fit together.
    """
    options, out = options or Options(), Path(out)
    pictures = Pictures(pictures.images, [_readings(texts) for texts in pictures.captions])
    identity = json.dumps(
        {"sizes": dict(sizes), "vocabulary": vocabulary} | _identity(None, {"pictures": pictures}, {}, options)
    )
    if (out / "begin.json").is_file() and (out / "begin.json").read_text() != identity:
        raise ModelError(f"{out} holds a beginning with other options or data: give another folder, or delete it")
    write_atomic(out / "begin.json", identity)
    if not (out / "untrained").is_dir():
        tokenizer = tokenizers.train((text for texts in pictures.captions for text in texts), vocabulary, 112)
        torch.manual_seed(options.seed)
        model = Mammut(MammutConfig(**sizes, vocab_size=len(tokenizer), context_length=112))
        model.tokenizer = tokenizer
        checkpoints.finish(model, out / "untrained")
    return _train(out / "untrained", pictures, {}, options, 0, out, "cpu")


def load_or_begin(options: config.Config, data: Path, recompute: bool = False) -> Path:
    """Return the folder of the chapters' small model (`LOCAL`), trained on captions alone now unless it was before.

    Args:
        options: Twice its steps, its learning rate and seed.
        data: Shards with a train split.
        recompute: Train again.
    """
    steps, rate = options.train.steps // 2, options.train.learning_rate
    chosen = Options(steps=steps, learning_rate=rate, warmup_steps=steps // 8, ema=0.9, seed=options.seed)
    source = runs.source_hash("rounds", "mammut", "tokenizer", "images", "losses", "train", follow=False)
    parts = {"sizes": LOCAL, "options": dataclasses.asdict(chosen), "data": benchmarks.fingerprint(data), "source": source}

    def compute(folder: Path) -> None:
        begin(LOCAL, read(data, "train", LOCAL["image_size"], seed=options.seed), folder, chosen)

    return runs.stage("rounds-begin", parts, compute, recompute) / "model"


def probabilities(
    model: Mammut, images: np.ndarray, classes: Mapping[str, Sequence[str]], *, window: int = 3, scale: int = 1, flips: int = 1
) -> np.ndarray:
    """Tell the classes of patches apart: (flips, N, C, h, w) float32, over the classes they add up to 1.

    Args:
        model: The model, in evaluation mode.
        images: (N, S, S, 3) uint8.
        classes: Sentences of each class; the surest sentence speaks for its class.
        window: Of the Smooth-Attention-Operation.
        scale: Pictures are enlarged by this number; maps then averaged, so that the grid stays that of scale 1.
        flips: So many of: as it is, left-right, upside down, both; maps are turned back.
    """
    sentences, starts = _sentences(classes)
    texts = embed.texts(model, sentences)
    side, found = model.config.image_size * scale, []
    for part in np.array_split(images, max(len(images) * scale**2 // 64, 1)):
        batch = localize.to_batch(model, list(part), side, side)
        for flip in FLIPS[:flips]:
            scores = localize.heat(model, batch.flip(flip) if flip else batch, texts, window=window)
            scores = torch.from_numpy(np.maximum.reduceat(scores, starts, axis=1) * model.logit_scale.item())
            grid = F.avg_pool2d(scores.softmax(1), scale)
            found.append((grid.flip(flip) if flip else grid).numpy())
    return np.stack([np.concatenate(found[i::flips]) for i in range(flips)])


def choose(odds: np.ndarray, sure_share: float) -> np.ndarray:
    """Label the surest patches of each class: (N, C, h, w) probabilities → (N, h, w) int8, -1 where unsure."""
    winner, sure = odds.argmax(axis=1), odds.max(axis=1)
    labels = np.full(winner.shape, -1, np.int8)
    for c in range(odds.shape[1]):
        if (mine := winner == c).any():
            labels[mine & (sure >= np.quantile(sure[mine], 1 - sure_share))] = c
    return labels


def region_losses(model: Mammut, found: localize.Patches, labels: Tensor, texts: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Cross-entropies of labelled patches, and of labelled regions, against the classes.

    Args:
        model: The model; its output head and logit scale are used.
        found: Patches of B images.
        labels: (B, h, w) int64, -1 for no label.
        texts: (C, E) of norm 1.
        window: Patches are pooled over such windows first.

    Returns:
        The mean over labelled patches, so that classes count as often as they were told; and the mean over regions, where a region
        is all patches of one class in one image, pooled by their attention weights. 0 where there is no label.
    """
    z = localize.smooth(model, found, window)  # (B, h, w, E)
    logits = model.logit_scale * z @ texts.T  # (B, h, w, C)
    each = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), ignore_index=-1, reduction="sum")
    patch = each / (labels >= 0).sum().clamp_min(1)

    members = F.one_hot(labels + 1, len(texts) + 1)[..., 1:]  # (B, h, w, C)
    inside = members.movedim(-1, 1).bool()  # (B, C, h, w)
    image, kind = inside.flatten(2).any(-1).nonzero(as_tuple=True)
    if not len(image):
        return patch, patch * 0
    scores = found.scores[image].masked_fill(~inside[image, kind][:, None], -torch.inf)  # (R, n, h, w)
    share = scores.flatten(2).softmax(-1)[..., None]  # (R, n, P, 1)
    pooled = (share * found.values[image].flatten(2, 3)).sum(2)  # (R, n, d)
    region = F.cross_entropy(model.logit_scale * localize.project(model, pooled) @ texts.T, kind)
    return patch, region


def judge(model: Mammut, validation: Pictures, classes: Mapping[str, Sequence[str]], options: Options) -> dict[str, float]:
    """Measure what needs no mask: `agreement` of each patch's class with that of the flips (0…1), and `val_mR` (`recall`)."""
    winners = probabilities(model, validation.images, classes, window=options.window, flips=4).argmax(axis=2)
    shares = np.bincount(winners[0].ravel(), minlength=len(classes)) / winners[0].size
    told = {f"told[{name}]": float(share) for name, share in zip(classes, shares, strict=True)}
    agreement = float((winners[1:] == winners[0]).mean())
    return {"agreement": agreement, "val_mR": recall(model, validation)["value"], **told}


def recall(model: Mammut, pictures: Pictures, bootstrap_samples: int = 0, seed: int = 0) -> dict:
    """Mean of R@1, R@5 and R@10 in both directions, in percent, over all captions of the pictures: a row of `retrieval.evaluate`."""
    counts = [len(texts) for texts in pictures.captions]
    captions = embed.texts(model, [text for texts in pictures.captions for text in texts])
    found = embed.images(model, list(pictures.images)), captions, np.repeat(np.arange(len(counts)), counts)
    ks = [k for k in (1, 5, 10) if k <= len(counts)]
    rows = retrieval.evaluate(*found, dataset="", split="", ks=ks, bootstrap_samples=bootstrap_samples, seed=seed)
    return next(row for row in rows if row["metric"] == "mR")


def _stop(table: list[dict], options: Options) -> str | None:
    """Say why the newest round is not to be kept, from measures that need no mask; None if it is."""
    now, first = table[-1], table[0]
    if len(table) == 1:
        return None
    if now["agreement"] < table[-2]["agreement"] - options.least_agreement:
        return (
            f"round {now['round']}: flips agree in {now['agreement']:.3f} of the patches, {table[-2]['agreement']:.3f} before"
        )
    if now["val_mR"] < first["val_mR"] - options.most_recall_lost:
        return f"round {now['round']}: mean recall of validation captions is {now['val_mR']:.1f}, {first['val_mR']:.1f} at the start"
    emptied = [name for name in now if name.startswith("told[") and now[name] < first[name] / 4]
    return f"round {now['round']}: a class all but vanished, {emptied[0]}" if emptied else None


def _labels(model: Mammut, pictures: Pictures, classes: Mapping, options: Options, path: Path) -> dict:
    """Write the teacher's labels; return how many patches have one, of each class."""
    if not path.is_file():
        window = options.teacher_window or options.window
        odds = probabilities(model, pictures.images, classes, window=window, scale=options.teacher_scale, flips=4)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, labels=choose(odds.mean(axis=0), options.sure_share))
        write_atomic(path, buffer.getvalue())
    labels = np.load(path)["labels"]
    return {f"labelled[{name}]": float((labels == c).mean()) for c, name in enumerate(classes)}


def _train(start: Path, pictures: Pictures, classes: Mapping, options: Options, number: int, place: Path, device: str) -> Path:
    """Train one round from the model in `start`; go on from its newest checkpoint, and return its model's folder."""
    finished = place / "model"
    if finished.is_dir():
        return finished
    model = weights.load(start, device)
    optimizer = train.make_optimizer(model, options)
    ema = [parameter.detach().clone() for parameter in model.parameters()]
    done = 0
    if checkpoint := checkpoints.newest(place):
        done, _ = checkpoints.load(checkpoint, model, optimizer, ema)
        logger.info("continuing round %d from %s", number, checkpoint)
    labels, labelled = None, np.arange(len(pictures.images))
    if classes:
        labels = np.load(place / "labels.npz")["labels"]
        labelled = np.flatnonzero((labels >= 0).any(axis=(1, 2)))
    if not len(labelled):
        raise DataError(f"{place}: the teacher is sure of no patch: raise sure_share")
    model.train()
    left = range(done + 1, options.steps + 1)
    for step in tqdm(left, desc=f"round {number}", initial=done, total=options.steps, leave=False):
        for group in optimizer.param_groups:
            group["lr"] = train.learning_rate(step, options)
        rng = np.random.default_rng([options.seed, number, step])
        chosen = rng.choice(labelled, min(options.batch_size, len(labelled)), replace=False)
        loss = _loss(model, pictures, labels, chosen, classes, options, rng)
        if not loss.isfinite():
            raise DataError(f"the loss of round {number} is {loss.item()} at step {step}: lower learning_rate")
        loss.backward()
        train.clip_gradients(model, options.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(ema, [parameter.detach() for parameter in model.parameters()], 1 - options.ema)
        if step % options.checkpoint_every == 0 or step == options.steps:
            checkpoints.save(place, step, Place({}, Counter()), model, optimizer, ema)
    with checkpoints.averaged(model, ema):
        checkpoints.finish(model, finished)
    shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return finished


def _loss(
    model: Mammut,
    pictures: Pictures,
    labels: np.ndarray | None,
    chosen: np.ndarray,
    classes: Mapping[str, Sequence[str]],
    options: Options,
    rng: np.random.Generator,
) -> Tensor:
    """The loss of one step: captions of the chosen images, and, where there are labels, their patches and regions."""
    side, patch = model.config.image_size, model.config.patch_size
    captions = [pictures.captions[i][rng.integers(len(pictures.captions[i]))] for i in chosen]
    tokens = tokenizers.encode(model.tokenizer, captions)
    order = np.argsort((tokens != model.config.pad_token_id).sum(axis=1), kind="stable")
    tokens = torch.from_numpy(tokens[order]).to(model.device)
    image_tokens = model.image_tokens(localize.to_batch(model, list(pictures.images[chosen[order]]), side, side))
    texts = model.encode_text(tokens)
    numbers = losses.text_numbers(tokens)
    loss = options.contrastive_weight * losses.softmax_loss(
        model.image_embedding(image_tokens), texts, model.logit_scale, numbers
    )
    if options.caption_weight:
        loss = (
            loss
            + options.caption_weight
            * model.caption_loss(tokens, image_tokens)
            / (tokens[:, 1:] != model.config.pad_token_id).sum()
        )
    if labels is None or not (options.patch_weight or options.region_weight):
        return loss
    # one sentence of each class: over the steps, all of them
    words = [texts[rng.integers(len(texts))] for texts in classes.values()]
    asked = model.encode_text(torch.from_numpy(tokenizers.encode(model.tokenizer, words)).to(model.device))
    found = localize.split_tokens(model, image_tokens, side // patch, side // patch)
    wanted = torch.from_numpy(labels[chosen[order]].astype(np.int64)).to(model.device)
    of_patch, of_region = region_losses(model, found, wanted, asked, options.window)
    return loss + options.patch_weight * of_patch + options.region_weight * of_region


def _sentences(classes: Mapping[str, Sequence[str]]) -> tuple[list[str], list[int]]:
    groups = [list(texts) for texts in classes.values()]
    return sum(groups, []), [0, *np.cumsum([len(group) for group in groups])[:-1].tolist()]


def _split(texts: Sequence[str]) -> list[str]:
    return [f"{part.strip(' .')}." for text in texts for part in text.split(". ") if part.strip(" .")]


def _readings(texts: Sequence[str]) -> list[str]:
    """Whole captions and single sentences, each kind repeated as often as the other is long, so that they are drawn alike."""
    whole = sorted(texts, key=len)[:-1] or list(texts)
    single = _split(texts)
    return [*whole * len(single), *single * len(whole)]


def _identity(start: Path | None, given: Mapping[str, Pictures], classes: Mapping, options: Options) -> dict:
    parts = {"options": dataclasses.asdict(options), "classes": {name: list(texts) for name, texts in classes.items()}}
    parts["start"] = embed.fingerprint(start) if start else ""
    for name, some in given.items():
        digest = hashlib.sha256(np.ascontiguousarray(some.images).tobytes())
        digest.update(json.dumps([list(texts) for texts in some.captions]).encode())
        parts[name] = digest.hexdigest()
    return parts
