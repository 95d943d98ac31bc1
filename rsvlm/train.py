"""One training loop, top to bottom: shards in, checkpoints and a model folder out, exact after any interruption.

A run lives in one folder:

    metrics.jsonl                 a line per `log_every` steps, and one per checkpoint with validation recall
    checkpoints/step-000100/      model and optimizer as safetensors, state.json; the newest two are kept
    model/                        written last: config.json, model.safetensors, tokenizer.json

Every random choice is a function of the seed and the step, and the reader's place is part of the checkpoint; so a run that was
killed anywhere and started again ends, on CPU, in the same bytes as one that was not.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from rsvlm import benchmarks, embed, mammut, runs, shards
from rsvlm import images as imaging
from rsvlm import tokenizer as tokenizers
from rsvlm.errors import DataError, ModelError, RsvlmError
from rsvlm.mammut import Mammut

if TYPE_CHECKING:
    from rsvlm.config import Config, Train

logger = logging.getLogger(__name__)

TEXT_GROUPS = 4  # of similar length, in each batch


@dataclass
class Place:
    """Where the reader stands: the next sample of `epoch` to read, and how many samples were skipped so far, by reason."""

    epoch: int
    position: int
    skipped: Counter


def train(config: Config, data: Path, out: Path) -> Path:
    """Train a MaMMUT on the `train` split of a shard folder; continue where `out` left off.

    Args:
        config: All options of the run.
        data: Shard folder with the splits `train` and, for the validation curve, `val`.
        out: The run's folder, made if absent.

    Returns:
        The finished model's folder, `out/model`.

    Raises:
        ModelError: `out` holds a run with other options or other data.
        RsvlmError: The loss became NaN or infinite; the step and the keys of its batch are in `out/not_finite.json`.
    """
    finished = out / "model"
    identity = _identity(config, data)
    if (out / "run.json").is_file():
        _check_same_run(json.loads((out / "run.json").read_text()), identity, out)
    out.mkdir(parents=True, exist_ok=True)
    runs.write_atomic(out / "run.json", json.dumps(identity, indent=1))
    if finished.is_dir():
        return finished

    target = mammut.resolve_device(config.device)
    options = config.train
    model = build(config, data).to(target)
    optimizer = make_optimizer(model, options)
    place = Place(0, 0, Counter())
    step = 0
    if checkpoint := newest_checkpoint(out):
        step, place = load_checkpoint(checkpoint, model, optimizer)
        logger.info("continuing from %s", checkpoint)
    metrics = _Metrics(out / "metrics.jsonl", from_step=step)
    validation = _validation_set(model, data)

    progress = tqdm(total=options.steps, initial=step, desc="train", unit=" steps")
    batches = read_batches(model, data, config.seed, options.batch_size, place, step, options.first_caption_share)
    model.train()
    clock = time.perf_counter()
    for images, tokens, keys, place in islice(batches, options.steps - step):
        step += 1
        rate = learning_rate(step, options)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = losses_of(model, images, tokens, options)
        _stop_if_not_finite(losses["loss"], step, keys, out)
        losses["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress.update()
        if step % options.log_every == 0 or step == options.steps:
            seconds, clock = time.perf_counter() - clock, time.perf_counter()
            values = {name: float(value.detach()) for name, value in losses.items()}
            line = {"step": step, "learning_rate": rate, **values, "gradient_norm": float(norm)}
            line |= {"scale": float(model.logit_scale.detach()), "epoch": place.epoch}
            metrics.write(line | {"samples_per_s": metrics.steps_since(step) * options.batch_size / seconds})
            progress.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
        if step % options.checkpoint_every == 0 or step == options.steps:
            if validation is not None:
                metrics.write({"step": step, **validate(model, *validation)})
                model.train()
            save_checkpoint(out, step, place, model, optimizer)
            clock = time.perf_counter()  # samples_per_s is of training alone
    progress.close()
    return _finish(model, finished)


def load_or_train(config: Config, data: Path, recompute: bool = False) -> Path:
    """Return the run folder of these options on this data, trained now unless it was before; a killed run continues.

    Returns:
        The run's folder, with `model/` and `metrics.jsonl`.
    """
    source = runs.source_hash("train", "mammut", "tokenizer", "images", "embed", follow=False)  # the data has its own hash
    parts = _identity(config, data) | {"source": source}
    return runs.stage("train", parts, lambda folder: train(config, data, folder), recompute)


def build(config: Config, data: Path) -> Mammut:
    """Make an untrained model for a data set: its tokenizer is trained on all captions of the `train` split."""
    captions = (caption for sample in benchmarks.samples(data, "train") for caption in sample.captions)
    tokenizer = tokenizers.train(captions, config.model.vocabulary_size, config.model.context_length)
    if config.model.preset not in mammut.PRESETS:
        raise ModelError(f"unknown preset '{config.model.preset}': choose one of {', '.join(mammut.PRESETS)}")
    softmax = config.train.contrastive_loss == "softmax"
    torch.manual_seed(config.seed)
    model = Mammut(
        mammut.MammutConfig(
            **mammut.PRESETS[config.model.preset],
            vocab_size=len(tokenizer),
            context_length=config.model.context_length,
            # with as many negatives as SigLIP's loss has, a bias of 0 would start every pair as a likely match
            initial_scale=1 / 0.07 if softmax else 10.0,
            initial_bias=0.0 if softmax else -10.0,
        )
    )
    model.tokenizer = tokenizer
    return model


def make_optimizer(model: Mammut, options: Train) -> torch.optim.AdamW:
    """AdamW in two groups: matrices decay; biases, norms, positions and the two scalars do not."""
    decayed = [p for name, p in model.named_parameters() if p.ndim >= 2 and "pos" not in name]
    plain = [p for name, p in model.named_parameters() if not (p.ndim >= 2 and "pos" not in name)]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), eps=1e-6)


def learning_rate(step: int, options: Train) -> float:
    """Rate at a step (1-based): linear warm-up to the peak, then linear decay to zero after the last step (as MaMMUT)."""
    if step <= options.warmup_steps:
        return options.learning_rate * step / options.warmup_steps
    left = (options.steps + 1 - step) / max(options.steps + 1 - options.warmup_steps, 1)
    return options.learning_rate * min(left, 1.0)


def losses_of(model: Mammut, images: Tensor, tokens: Tensor | Sequence[Tensor], options: Train) -> dict[str, Tensor]:
    """The weighted `loss` of one batch and its parts `contrastive` and `caption`, as scalars."""
    output = model(images, tokens, with_caption=options.caption_weight > 0)
    pair = output.image_embeddings, output.text_embeddings
    if options.contrastive_loss == "softmax":
        contrastive = mammut.softmax_loss(*pair, model.logit_scale)
    elif options.contrastive_loss == "sigmoid":
        contrastive = mammut.sigmoid_loss(*pair, model.logit_scale, model.logit_bias)
    else:
        contrastive = mammut.focal_loss(*pair, model.logit_scale, model.logit_bias, options.focal_gamma)
    loss = options.contrastive_weight * contrastive
    if output.caption_loss is None:
        return {"loss": loss, "contrastive": contrastive}
    return {"loss": loss + options.caption_weight * output.caption_loss} | {
        "contrastive": contrastive,
        "caption": output.caption_loss,
    }


def read_batches(
    model: Mammut, data: Path, seed: int, batch_size: int, place: Place, step: int, first_caption_share: float
) -> Iterator[tuple[Tensor, list[Tensor], list[str], Place]]:
    """Yield batches (images, groups of tokens, keys, the place after them) without end, from `place` on.

    Args:
        model: Gives the tokenizer, the image size and the device.
        data: Shard folder.
        seed: Of the order and of the choice of captions.
        batch_size: Pairs per batch.
        place: Where to begin.
        step: Steps taken before, so that a resumed run draws the same captions.
        first_caption_share: Probability of drawing a sample's first caption; otherwise one of the others, evenly.
    """
    samples = _endless(data, seed, place)
    while True:
        step += 1
        rng = np.random.default_rng([seed, step])
        arrays, captions, keys = [], [], []
        while len(arrays) < batch_size:
            sample, array, place = next(samples)
            arrays.append(array)
            captions.append(sample.captions[_draw_caption(rng, len(sample.captions), first_caption_share)])
            keys.append(sample.key)
        tokens = tokenizers.encode(model.tokenizer, captions)
        lengths = (tokens != tokenizers.PAD_ID).sum(axis=1)
        order = np.argsort(lengths, kind="stable")  # texts of similar length go through the decoder together
        groups = [
            torch.from_numpy(tokens[rows, : lengths[rows[-1]]]) for rows in np.array_split(order, TEXT_GROUPS) if len(rows)
        ]
        images = embed.to_batch(model, [arrays[i] for i in order])
        yield images, [group.to(model.device) for group in groups], [keys[i] for i in order], place


def _draw_caption(rng: np.random.Generator, count: int, first_share: float) -> int:
    if count == 1 or rng.random() < first_share:
        return 0
    return int(rng.integers(1, count))


def _endless(data: Path, seed: int, place: Place) -> Iterator[tuple[shards.Sample, np.ndarray, Place]]:
    epoch, position, skipped = place.epoch, place.position, Counter(place.skipped)
    while True:
        found = False
        for sample in shards.stream(data, "train", seed=seed, epoch=epoch, start=position, skipped=skipped):
            try:
                array = imaging.decode(sample.image)
            except DataError:
                skipped["broken image"] += 1
                continue
            found = True
            yield sample, array, Place(epoch, sample.position + 1, Counter(skipped))
        if not found and position == 0:
            raise DataError(f"the train split of {data} has no readable sample ({dict(skipped) or 'it is empty'})")
        epoch, position = epoch + 1, 0


def validate(model: Mammut, batch: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """Mean of image→text and text→image R@5 in percent, each image against the first captions of all (ties count against)."""
    model.eval()
    with torch.inference_mode():
        images = torch.cat([model.encode_image(part) for part in batch.split(256)]).float().cpu().numpy()
    scores = images @ embed.texts(model, captions).T
    right = np.diagonal(scores)
    hits = [((scores >= right[:, None]).sum(1) <= 5).mean(), ((scores >= right[None, :]).sum(0) <= 5).mean()]
    return {"val_R@5": 100 * float(np.mean(hits)), "val_chance_R@5": 100 * min(5 / len(right), 1.0)}


def save_checkpoint(out: Path, step: int, place: Place, model: Mammut, optimizer: torch.optim.Optimizer) -> Path:
    """Write a checkpoint under a temporary name, rename it, then drop all but the newest two."""
    home = out / "checkpoints"
    path = home / f"step-{step:06d}"
    partial = home / f".step-{step:06d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial / "model.safetensors")
        state = optimizer.state_dict()["state"]
        flat = {f"{i}.{name}": value.contiguous() for i, slots in state.items() for name, value in slots.items()}
        save_file(flat, partial / "optimizer.safetensors")
        runs.write_atomic(partial / "state.json", json.dumps({"step": step, "place": vars(place)}))
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in sorted(home.glob("step-*"))[:-2]:
        shutil.rmtree(old)
    return path


def newest_checkpoint(out: Path) -> Path | None:
    """Return the newest finished checkpoint of a run, if there is one."""
    return max((out / "checkpoints").glob("step-*"), default=None)


def load_checkpoint(path: Path, model: Mammut, optimizer: torch.optim.Optimizer) -> tuple[int, Place]:
    """Put a checkpoint's weights and moments into a model and its optimizer.

    Returns:
        The step it was written after, and where the reader stood.

    Raises:
        ModelError: Its tensors do not fit the model.
    """
    try:
        model.load_state_dict(load_file(path / "model.safetensors", device=str(model.device)))
        flat = load_file(path / "optimizer.safetensors")
        state = json.loads((path / "state.json").read_text())
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelError(f"checkpoint {path} cannot be continued: {error}; delete it to go back to the one before") from error
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    place = state["place"]
    return state["step"], Place(place["epoch"], place["position"], Counter(place["skipped"]))


class _Metrics:
    """A JSON-lines file that, on resume, is cut back to the checkpoint's step."""

    def __init__(self, path: Path, from_step: int):
        self.path = path
        self.last_step = from_step
        kept = []
        if path.is_file():
            whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            kept = [line for line in whole if json.loads(line)["step"] <= from_step]
        runs.write_atomic(path, "".join(kept))

    def write(self, line: dict) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def steps_since(self, step: int) -> int:
        steps, self.last_step = step - self.last_step, step
        return steps


def _identity(config: Config, data: Path) -> dict:
    options = config.model_dump(include={"seed", "model", "train"})
    return {"options": options, "data": benchmarks.fingerprint(data)}


def _check_same_run(old: dict, new: dict, out: Path) -> None:
    if old == new:
        return
    if old["data"] != new["data"]:
        raise ModelError(f"{out} holds a run on other data: give another --out, or delete it")
    differing = [
        f"{section}.{name}" if isinstance(value, dict) else section
        for section, value in new["options"].items()
        for name in (value if isinstance(value, dict) else [section])
        if old["options"].get(section) != value
        and (not isinstance(value, dict) or old["options"].get(section, {}).get(name) != value[name])
    ]
    raise ModelError(f"{out} holds a run with other options ({', '.join(differing)}): give another --out, or delete it")


def _validation_set(model: Mammut, data: Path) -> tuple[Tensor, list[str]] | None:
    try:
        samples = list(embed.decoded(shards.stream(data, "val"), Counter()))[:1000]
    except DataError:
        return None  # a data set without a val split trains all the same
    if not samples:
        return None
    return embed.to_batch(model, [array for _, array in samples]), [sample.captions[0] for sample, _ in samples]


def _stop_if_not_finite(loss: Tensor, step: int, keys: list[str], out: Path) -> None:
    if math.isfinite(loss.item()):
        return
    runs.write_atomic(out / "not_finite.json", json.dumps({"step": step, "keys": keys}, indent=1))
    raise RsvlmError(
        f"the loss is {loss.item()} at step {step}; the keys of its batch are in {out / 'not_finite.json'}. "
        "Lower train.learning_rate, or look at those samples; the checkpoint before is kept"
    )


def _finish(model: Mammut, folder: Path) -> Path:
    partial = folder.with_name(".model.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.eval().save_pretrained(partial)
    model.tokenizer.save_pretrained(partial)
    os.replace(partial, folder)
    return folder
