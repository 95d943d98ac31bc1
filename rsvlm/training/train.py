"""One training loop, top to bottom: batches and losses in, checkpoints and a model folder out, exact after any interruption.

A run lives in one folder:

    run.json                      the options and the data, so that no other run continues here
    metrics.jsonl                 a line per `log_every` steps, and one per checkpoint with validation recall
    checkpoints/step-000100/      model, averaged model and optimizer as safetensors, state.json; the newest two stay
    model/                        written last: config.json, model.safetensors, tokenizer.json

Every random choice is a function of the seed and the step, and the reader's place is part of the checkpoint; so a run that was
killed anywhere and started again ends, on CPU, in the same bytes as one that was not. Under `torchrun` the same batches are
shared by several processes, which end in the same weights as one, up to the rounding of sums (and to what dropout draws).

`train` is the loop over data sets of pairs; `rsvlm.localization.rounds` gives it other batches and other losses.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.auto import tqdm

from rsvlm.errors import ConfigError
from rsvlm.model import losses
from rsvlm.model.device import keep_freed_memory, resolve_device
from rsvlm.model.mammut import Mammut
from rsvlm.records import stages
from rsvlm.training import batches, checkpoints, processes, starting, tower, validation
from rsvlm.training.batches import Batch, Place
from rsvlm.training.metrics import Metrics, memory_gb, stop_if_not_finite

if TYPE_CHECKING:
    from rsvlm.config import Config, Train

logger = logging.getLogger(__name__)

ROOMS = ("training", "model", "data/*", "data/landmarks/directions")
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

COUNTED = ("broken image", "text cut")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Output:
    """What the losses of a micro-batch of b pairs are made of.

    Attributes:
        image_embeddings: (b, E) of norm 1.
        text_embeddings: (b, E) of norm 1.
        scale: Scale of the contrastive logits, a scalar.
        means: Losses that need no other micro-batch, by name; each a mean over its items.
        counts: Number of items of each of those losses, there even where `means` was not asked for.
    """

    image_embeddings: Tensor
    text_embeddings: Tensor
    scale: Tensor
    means: dict[str, Tensor]
    counts: dict[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """What is minimised: one contrastive loss over all pairs of the batch, and means over items of any micro-batch.

    Attributes:
        forward: Function from the model, a micro-batch and whether its `means` are wanted to its `Output`.
        contrast: Function from the model, the batch, the (B, E) embeddings of its images and of its texts, and the scale of the logits
            to the contrastive loss.
        weights: Weight of the loss `contrastive` and of each of the means, by name.
    """

    forward: Callable[[Mammut, object, bool], Output]
    contrast: Callable[[Mammut, Batch, Tensor, Tensor, Tensor], Tensor]
    weights: dict[str, float]


def train(config: Config, data: Path | Mapping[str, Path], out: Path) -> Path:
    """Train a MaMMUT on the `train` splits of data sets; continue where `out` left off.

    Args:
        config: Options of the run.
        data: Folder of shards or of a benchmark, or several by name: they are mixed as `train.stages` says, or evenly. Their `val`
            splits, where they have one, give the validation curve.
        out: Folder of the run, made if absent.

    Returns:
        The finished model's folder, `out/model`.

    Raises:
        ConfigError: The batch cannot be shared by the processes, or options exclude each other.
        DataError: A stage names a data set that was not given, there is nothing to read, or another process trains into `out`.
        ModelError: `out` holds a run with other options or other data.
        RsvlmError: The loss became NaN or infinite; the step and the keys of its batch are in `out/not_finite.json`.
    """
    data = starting.named(data)
    with processes.joined(resolve_device(config.device)) as device, contextlib.ExitStack() as alone:
        # a bad request stops before any work
        batches.check(config.train, list(data))
        check(config.train)
        starting.check(config)
        alone.enter_context(processes.sole_writer(out))
        checkpoints.claim(out, starting.identity(config, data))
        if (out / "model").is_dir():
            return out / "model"

        # the model, what it reads, and what it is measured on
        model = starting.prepare(starting.build(config, data).to(device), config.train)
        read_batches = partial(batches.read_batches, model, data, config)
        pairs = validation.read(model, data)
        validate = None if pairs is None else partial(validation.measure, model, *pairs)
        return loop(model, read_batches, objective(config.train), config.train, out, validate)


def check(options: Train) -> None:
    """Check that a training can be shared by the processes there are.

    Raises:
        ConfigError: It cannot, or options exclude each other.
    """
    size = processes.size()
    if options.batch_size % size:
        shared = f"train.batch_size={options.batch_size} cannot be shared by {size} processes"
        raise ConfigError(f"{shared}: take a multiple of {size}")
    if options.equal_texts == "ignored" and options.contrastive_loss != "softmax":
        raise ConfigError(
            f"train.equal_texts=ignored goes with train.contrastive_loss=softmax, not {options.contrastive_loss}"
        )
    if options.held_maps:
        varied = {
            "vision_frozen": options.vision_frozen != "all",
            "smallest_crop": options.smallest_crop < 1,
            "light": options.light > 0,
            "sizes_px": len(set(options.sizes_px)) > 1,
            "fsdp": options.fsdp,
        }
        if any(varied.values()):
            name = next(name for name, is_so in varied.items() if is_so)
            raise ConfigError(
                f"train.held_maps keeps what a frozen network makes of whole pictures: that does not go with train.{name}="
                f"{getattr(options, name)}"
            )
    if options.fsdp and size == 1:
        raise ConfigError("train.fsdp shards a model over several processes: start it with torchrun")
    if options.fsdp and options.precision == "fp16":
        raise ConfigError("train.fsdp goes with train.precision fp32 or bf16: fp16 needs a loss scale of all shards")


def loop(
    model: Mammut,
    read_batches: Callable[[Place, int], Iterator[Batch]],
    objective: Objective,
    options: Train,
    out: Path,
    validate: Callable[[], dict[str, float]] | None = None,
) -> Path:
    """Take all steps that are left, with metrics and checkpoints on the way, and write the averaged model at the end.

    Args:
        model: Model to train, in place, on its device.
        read_batches: Function from a place of the reader and a step to this process's share of every batch after that step.
        objective: Losses to minimise.
        options: Options of the loop.
        out: Folder of the run; a checkpoint in it is continued.
        validate: Function that measures the model, with its averaged weights, at every checkpoint. If None, nothing is measured.

    Returns:
        The finished model's folder, `out/model`.

    Raises:
        ModelError: The newest checkpoint does not fit the model.
        RsvlmError: The loss became NaN or infinite; the step and the keys of its batch are in `out/not_finite.json`.
    """
    keep_freed_memory()

    # everything that a checkpoint holds
    optimizer = make_optimizer(model, options)
    scaler = torch.amp.GradScaler(model.device.type, enabled=options.precision == "fp16")
    ema = [processes.local(p).clone() for p in model.parameters()] if options.ema else None
    step, place, counts = 0, Place(), Counter()
    if checkpoint := checkpoints.newest(out):
        step, place = checkpoints.load(checkpoint, model, optimizer, ema, scaler)
        logger.info("continuing from %s", checkpoint)

    # what reports on the run
    metrics, pairs, silent = Metrics(out / "metrics.jsonl", from_step=step), options.batch_size, processes.rank() > 0
    progress = tqdm(total=options.steps * pairs, initial=step * pairs, desc="train", unit=" samples", disable=silent)

    # all steps that are left
    stream = read_batches(place, step)
    model.train()
    clock = time.perf_counter()
    for batch in batches.ahead(stream) if options.workers else stream:
        # one step of the optimizer
        step += 1
        rate = learning_rate(step, options)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        parts = backward(model, batch, objective, options, scaler)
        stop_if_not_finite(parts["loss"], step, batch.keys, out)
        scaler.unscale_(optimizer)
        norm = clip_gradients(model, options.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if ema is not None:
            torch._foreach_lerp_(ema, [processes.local(p) for p in model.parameters()], 1 - options.ema)

        # what was read so far
        if batch.counts["broken image"] and not place.counts["broken image"]:
            logger.warning("step %d: a broken image is left out; more of these are counted, not logged", step)
        counts.update(batch.counts)
        place = Place(batch.place.positions, batch.place.counts + counts)
        progress.update(pairs)

        # a line of metrics
        if step % options.log_every == 0 or step == options.steps:
            seconds, clock = time.perf_counter() - clock, time.perf_counter()
            line = {
                "step": step,
                "learning_rate": rate,
                **{name: float(value.detach()) for name, value in parts.items()},
                "gradient_norm": float(norm),
                "scale": float(model.logit_scale.detach()),
                "epoch": max((epoch for epoch, _ in place.positions.values()), default=0),
                "samples_per_s": metrics.steps_since(step) * pairs / seconds,
                "memory_gb": memory_gb(model.device),
                "texts_cut": place.counts["text cut"],
                "skipped": place.counts.total() - place.counts["text cut"],
            }
            metrics.write(line)
            progress.set_postfix(loss=f"{line['loss']:.3f}", memory=f"{line['memory_gb']:.1f} GB", refresh=False)

        # a point of the validation curve, and a checkpoint
        if step % options.checkpoint_every == 0 or step == options.steps:
            if validate is not None:
                with checkpoints.averaged(model, ema):
                    metrics.write({"step": step, **validate()})
                model.train()
            checkpoints.save(out, step, place, model, optimizer, ema, scaler)
            clock = time.perf_counter()  # samples_per_s is of training alone

    # the averaged model
    progress.close()
    with checkpoints.averaged(model, ema):
        return checkpoints.finish(model, out / "model")


def load_or_train(config: Config, data: Path | Mapping[str, Path], recompute: bool = False) -> Path:
    """Return the run folder of these options on this data, trained now unless it was before; a killed run continues.

    Returns:
        The run's folder, with `model/` and `metrics.jsonl`.
    """
    parts = starting.identity(config, starting.named(data)) | {"source": stages.source_hash(*ROOMS)}
    return stages.stage("train", parts, lambda folder: train(config, data, folder), recompute)


def make_optimizer(model: Mammut, options: Train) -> torch.optim.AdamW:
    """AdamW in groups: matrices decay; biases, norms and positions, and the two scalars, do not. `factor` is of the rate."""
    named = list(model.named_parameters())
    matrices = [(name, p) for name, p in named if p.ndim >= 2 and "pos" not in name]
    others = [(name, p) for name, p in named if p.ndim == 1 or (p.ndim >= 2 and "pos" in name)]
    scalars = [(name, p) for name, p in named if p.ndim == 0]  # apart, for FSDP does not shard them
    rates = {tower.prefix(model): options.vision_rate, "layers.": options.layers_rate}
    rates |= {"sentences.bert.": options.text_rate} if model.sentences is not None else {}
    groups = []

    def factor_of(name: str) -> float:
        return next((rate for prefix, rate in rates.items() if name.startswith(prefix)), 1.0)

    for members, decay in ((matrices, options.weight_decay), (others, 0.0), (scalars, 0.0)):
        for factor in dict.fromkeys((1.0, *rates.values())):
            own = [p for name, p in members if factor_of(name) == factor]
            if own:
                groups.append({"params": own, "weight_decay": decay, "factor": factor})
    fused = model.device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=fused)


def learning_rate(step: int, options: Train) -> float:
    """Rate at a step (1-based): linear warm-up to the peak, then a fall to zero after the last step (MaMMUT's is linear)."""
    if step <= options.warmup_steps:
        return options.learning_rate * step / options.warmup_steps
    left = min((options.steps + 1 - step) / max(options.steps + 1 - options.warmup_steps, 1), 1.0)
    return options.learning_rate * (left if options.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2)


def objective(options: Train) -> Objective:
    """Return the losses of MaMMUT: the chosen contrastive loss, and the caption loss where it has a weight."""
    with_caption = options.caption_weight > 0

    def forward(model: Mammut, part: tuple[Tensor, list[Tensor], list[Tensor]], with_means: bool) -> Output:
        images, groups, captioned = part
        groups = [group.to(model.device) for group in groups]
        held = not isinstance(images, Tensor)  # what a frozen network has made of them, in 16 bits
        images = [one.to(model.device, torch.float32) for one in images] if held else images.to(model.device)
        output = model(images, groups, with_caption=with_means and with_caption, captioned=captioned)
        means = {} if output.caption_loss is None else {"caption": output.caption_loss}
        targets = sum(
            (group[rows, 1:] != model.config.pad_token_id).sum() for group, rows in zip(groups, captioned, strict=True)
        )
        return Output(output.image_embeddings, output.text_embeddings, model.logit_scale, means, {"caption": targets})

    def contrast(model: Mammut, batch: Batch, image_embeddings: Tensor, text_embeddings: Tensor, scale: Tensor) -> Tensor:
        pair = image_embeddings.float(), text_embeddings.float()
        if options.contrastive_loss == "softmax" and options.equal_texts == "ignored":
            own = batch.text_numbers[:, None].to(model.device, torch.float32)  # 24 bits, which these hold
            numbers, _ = processes.gather(own, options.batch_size // processes.size())
            return losses.softmax_loss(*pair, scale, numbers[:, 0])
        if options.contrastive_loss == "softmax":
            return losses.softmax_loss(*pair, scale)
        if options.contrastive_loss == "sigmoid":
            return losses.sigmoid_loss(*pair, scale, model.logit_bias)
        return losses.focal_loss(*pair, scale, model.logit_bias, options.focal_gamma)

    caption = {"caption": options.caption_weight} if with_caption else {}
    return Objective(forward, contrast, {"contrastive": options.contrastive_weight} | caption)


def backward(
    model: Mammut, batch: Batch, objective: Objective, options: Train, scaler: torch.amp.GradScaler | None = None
) -> dict[str, Tensor]:
    """Leave the gradient of the loss over the whole batch, of all processes and micro-batches, in the parameters' `grad`.

    The contrastive loss compares all pairs, but memory holds the activations of one micro-batch. So: embed every micro-batch,
    all but the last without a graph; gather the embeddings of all processes; take the gradient of the loss with respect to the
    embeddings; and run each micro-batch backward from its rows of it, the first ones after a second forward. Nothing is
    approximated, and one process with one micro-batch does one forward and one plain backward.

    Returns:
        The weighted `loss` and its parts, `contrastive` and each of the means, of the whole batch; equal in all processes.

    Source: Gao et al. 2021 (gradient cache, arXiv 2101.06983), section 3.2; keeping the last graph is our addition.
    """
    scaled = scaler.scale if scaler is not None else lambda value: value
    device, dtype, weights = model.device, DTYPES[options.precision], objective.weights

    def run(i: int, with_means: bool = True) -> Output:
        torch.manual_seed(batch.seed + i)  # what the first forward dropped, the second drops again
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return objective.forward(model, batch.parts[i], with_means)

    # one process with one micro-batch: a plain backward
    if processes.size() == len(batch.parts) == 1:
        output = run(0)
        contrastive = objective.contrast(model, batch, output.image_embeddings, output.text_embeddings, output.scale)
        parts = {"contrastive": contrastive, **output.means}
        loss = _weighted(parts, weights)
        scaled(loss).backward()
        return {"loss": loss, **parts}

    # the embeddings of all pairs, of all micro-batches and processes
    settings = model.config
    of_sentences = settings.sentence_dropout * (settings.sentence_layers > 0)
    shares = settings.text_dropout, settings.word_dropout, settings.vision_dropout, of_sentences
    dropped = max(shares) > 0  # then both forwards draw the same
    with torch.no_grad():
        outputs = [run(i, with_means=dropped) for i in range(len(batch.parts) - 1)]
    outputs.append(run(len(outputs)))
    own = [torch.cat([output.image_embeddings, output.text_embeddings], dim=1).detach().float() for output in outputs]
    embeddings, first = processes.gather(torch.cat(own), options.batch_size // processes.size())  # (B, 2E)
    embeddings.requires_grad_()

    # the contrastive loss, and its gradient with respect to the embeddings (B, 2E) and the two scalars
    contrastive = objective.contrast(model, batch, *embeddings.chunk(2, dim=1), model.logit_scale)
    scalars = [model.log_scale, model.logit_bias]
    weighted = scaled(weights["contrastive"] * contrastive)
    gradient, *scalar_gradients = torch.autograd.grad(weighted, [embeddings, *scalars], allow_unused=True)
    for scalar, scalar_gradient in zip(scalars, scalar_gradients, strict=True):  # every process has the whole of these
        scalar.grad = None if scalar_gradient is None else scalar_gradient / processes.size()

    # number of items of each mean in the whole batch
    names = [name for name in weights if name != "contrastive"]
    items = [{name: int(output.counts[name]) for name in names} for output in outputs]
    sums = [sum(counts[name] for counts in items) for name in names] + [batch.counts[name] for name in COUNTED]
    sums = processes.add_up(torch.tensor(sums, dtype=torch.float64, device=device)).tolist()
    totals = {name: max(total, 1.0) for name, total in zip(names, sums)}
    batch.counts = +Counter(dict(zip(COUNTED, map(int, sums[len(names) :]), strict=True)))

    # each micro-batch backward, the last one first
    averaging = processes.size() if options.fsdp else 1  # FSDP divides the sum over processes by their number
    per_item = {name: scaled(torch.tensor(weights[name] / totals[name], device=device)) for name in names}
    means = {name: torch.zeros((), device=device) for name in names}
    last = first + sum(map(len, own))
    for i in reversed(range(len(outputs))):
        output = outputs[i] if i == len(outputs) - 1 else run(i)
        last, rows = last - len(own[i]), slice(last - len(own[i]), last)
        roots = [output.image_embeddings, output.text_embeddings, *(output.means[name] for name in names)]
        gradients = [part * averaging for part in gradient[rows].chunk(2, dim=1)]
        gradients += [per_item[name] * items[i][name] * averaging for name in names]
        for name in names:
            means[name] += output.means[name].detach() * items[i][name] / totals[name]
        learning = [(root, g.to(root.dtype)) for root, g in zip(roots, gradients, strict=True) if root.requires_grad]
        torch.autograd.backward(*map(list, zip(*learning)))  # of a frozen tower the image embeddings may have no graph
        outputs[i] = output = roots = learning = None  # its graph is used up: make room for the next

    # the gradient of all processes
    for parameter in model.parameters():
        if parameter.grad is not None and not processes.in_shards(parameter):
            processes.add_up(parameter.grad)
    parts = {"contrastive": contrastive.detach()} | {name: processes.add_up(mean) for name, mean in means.items()}
    return {"loss": _weighted(parts, weights), **parts}


def _weighted(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    return sum(weights[name] * part for name, part in parts.items())


def clip_gradients(model: Mammut, max_norm: float) -> Tensor:
    """Scale the gradients of all parameters down to a global norm; return the norm before."""
    graded = [p for p in model.parameters() if p.grad is not None]
    sharded = [p for p in graded if processes.in_shards(p)]
    if not sharded:
        return torch.nn.utils.clip_grad_norm_(graded, max_norm)
    squares = [processes.local(p.grad).square().sum() for p in sharded]
    others = [p.grad.square() for p in graded if not processes.in_shards(p)]
    norm = (processes.add_up(torch.stack(squares).sum()) + sum(others)).sqrt()
    torch._foreach_mul_([processes.local(p.grad) for p in graded], (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
