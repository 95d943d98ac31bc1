"""One training loop, top to bottom: data sets in, checkpoints and a model folder out, exact after any interruption.

A run lives in one folder:

    run.json                      the options and the data, so that no other run continues here
    metrics.jsonl                 a line per `log_every` steps, and one per checkpoint with validation recall
    checkpoints/step-000100/      model, averaged model and optimizer as safetensors, state.json; the newest two are kept
    model/                        written last: config.json, model.safetensors, tokenizer.json

Every random choice is a function of the seed and the step, and the reader's place is part of the checkpoint; so a run that was
killed anywhere and started again ends, on CPU, in the same bytes as one that was not. Under `torchrun` the same batches are
shared by several processes, which end in the same weights as one, up to the rounding of sums (and to what dropout draws).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from rsvlm import benchmarks, checkpoints, curriculum, distributed, embed, losses, mammut, runs, weights
from rsvlm import images as imaging
from rsvlm import tokenizer as tokenizers
from rsvlm.curriculum import Place
from rsvlm.errors import ConfigError, DataError, ModelError, RsvlmError
from rsvlm.mammut import Mammut

if TYPE_CHECKING:
    from rsvlm.config import Config, Train

logger = logging.getLogger(__name__)

TEXT_GROUPS = 4  # of similar length, in each micro-batch
COUNTED = ("broken image", "text cut")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(config: Config, data: Path | Mapping[str, Path], out: Path) -> Path:
    """Train a MaMMUT on the `train` splits of data sets; continue where `out` left off.

    Args:
        config: All options of the run.
        data: A folder of shards or a benchmark folder, or several by name: they are mixed as `train.stages` says, or evenly.
            Their `val` splits, where they have one, give the validation curve.
        out: The run's folder, made if absent.

    Returns:
        The finished model's folder, `out/model`.

    Raises:
        ConfigError: The batch cannot be shared by the processes, or options exclude each other.
        DataError: A stage names a data set that was not given, or there is nothing to read.
        ModelError: `out` holds a run with other options or other data.
        RsvlmError: The loss became NaN or infinite; the step and the keys of its batch are in `out/not_finite.json`.
    """
    options, data, finished = config.train, _named(data), out / "model"
    with distributed.joined(distributed.resolve_device(config.device)) as target:
        _check(config, data)
        identity = _identity(config, data)
        if (out / "run.json").is_file():
            _check_same_run(json.loads((out / "run.json").read_text()), identity, out)
        if finished.is_dir():
            return finished
        if distributed.rank() == 0:
            out.mkdir(parents=True, exist_ok=True)
            runs.write_atomic(out / "run.json", json.dumps(identity, indent=1))

        model = prepare(build(config, data).to(target), options)
        optimizer = make_optimizer(model, options)
        scaler = torch.amp.GradScaler(target.type, enabled=options.precision == "fp16")
        ema = [distributed.local(p).clone() for p in model.parameters()] if options.ema else None
        step, place, counts = 0, Place.start(), Counter()
        if checkpoint := checkpoints.newest(out):
            step, place = checkpoints.load(checkpoint, model, optimizer, ema, scaler)
            logger.info("continuing from %s", checkpoint)
        metrics = _Metrics(out / "metrics.jsonl", from_step=step)
        validation = _validation_set(model, data)

        pairs = options.batch_size
        progress = tqdm(
            total=options.steps * pairs, initial=step * pairs, desc="train", unit=" samples", disable=distributed.rank() > 0
        )
        batches = read_batches(model, data, config, place, step)
        model.train()
        clock = time.perf_counter()
        for batch in curriculum.ahead(batches) if options.workers else batches:
            step += 1
            rate = learning_rate(step, options)
            for group in optimizer.param_groups:
                group["lr"] = rate
            found = backward(model, batch, options, scaler)
            _stop_if_not_finite(found["loss"], step, batch.keys, out)
            scaler.unscale_(optimizer)
            norm = clip_gradients(model, options.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            if ema is not None:
                torch._foreach_lerp_(ema, [distributed.local(p) for p in model.parameters()], 1 - options.ema)
            if batch.counts["broken image"] and not place.counts["broken image"]:
                logger.warning("step %d: a broken image is left out; more of these are counted, not logged", step)
            counts.update(batch.counts)
            place = Place(batch.place.positions, batch.place.counts + counts)
            progress.update(pairs)
            if step % options.log_every == 0 or step == options.steps:
                seconds, clock = time.perf_counter() - clock, time.perf_counter()
                values = {name: float(value.detach()) for name, value in found.items()}
                line = {"step": step, "learning_rate": rate, **values, "gradient_norm": float(norm)}
                line |= {"scale": float(model.logit_scale.detach()), "epoch": max(e for e, _ in place.positions.values())}
                line |= {"samples_per_s": metrics.steps_since(step) * pairs / seconds, "memory_gb": _memory_gb(target)}
                line |= {"texts_cut": place.counts["text cut"], "skipped": place.counts.total() - place.counts["text cut"]}
                metrics.write(line)
                progress.set_postfix(loss=f"{values['loss']:.3f}", memory=f"{line['memory_gb']:.1f} GB", refresh=False)
            if step % options.checkpoint_every == 0 or step == options.steps:
                if validation is not None:
                    with checkpoints.averaged(model, ema):
                        metrics.write({"step": step, **validate(model, *validation)})
                    model.train()
                checkpoints.save(out, step, place, model, optimizer, ema, scaler)
                clock = time.perf_counter()  # samples_per_s is of training alone
        progress.close()
        with checkpoints.averaged(model, ema):
            return checkpoints.finish(model, finished)


def load_or_train(config: Config, data: Path | Mapping[str, Path], recompute: bool = False) -> Path:
    """Return the run folder of these options on this data, trained now unless it was before; a killed run continues.

    Returns:
        The run's folder, with `model/` and `metrics.jsonl`.
    """
    # The data has its own hash.
    modules = "train", "curriculum", "augment", "directions", "mammut", "tokenizer", "images", "embed"
    parts = _identity(config, _named(data)) | {"source": runs.source_hash(*modules, follow=False)}
    return runs.stage("train", parts, lambda folder: train(config, data, folder), recompute)


def build(config: Config, data: Path | Mapping[str, Path]) -> Mammut:
    """Make the model to train: `train.start`, or an untrained one with a tokenizer trained on all captions of the data."""
    if config.train.start:
        model = weights.load(Path(config.train.start), "cpu")
        if model.tokenizer is None:
            raise ModelError(
                f"train.start={config.train.start} holds no tokenizer.json: put the tokenizer of its vocabulary there"
            )
        return model
    samples = itertools.chain.from_iterable(benchmarks.samples(folder, "train") for folder in _named(data).values())
    captions = (caption for sample in samples for caption in sample.captions)
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
            text_dropout=config.model.text_dropout,
            # with as many negatives as SigLIP's loss has, a bias of 0 would start every pair as a likely match
            initial_scale=1 / 0.07 if softmax else 10.0,
            initial_bias=0.0 if softmax else -10.0,
        )
    )
    model.tokenizer = tokenizer
    return model


def prepare(model: Mammut, options: Train) -> Mammut:
    """Switch on activation checkpointing, FSDP and compilation, in place; names and values of the weights stay."""
    model.gradient_checkpointing = options.activation_checkpointing
    if options.fsdp:  # the decoder is one unit with the rest, for it runs twice; scalars cannot be sharded
        scalars = {p for p in model.parameters() if p.ndim == 0}
        distributed.shard(model, model.vision.blocks, scalars, ("encode_image", "encode_text"))
    if options.compile:
        for block in model.vision.blocks:
            block.compile()
        for layer in model.layers:
            layer.compile(dynamic=True)  # texts are cut to their longest, so their length changes with every batch
    return model


def make_optimizer(model: Mammut, options: Train) -> torch.optim.AdamW:
    """AdamW in three groups: matrices decay; biases, norms and positions, and the two scalars, do not."""
    decayed = [p for name, p in model.named_parameters() if p.ndim >= 2 and "pos" not in name]
    plain = [p for name, p in model.named_parameters() if p.ndim == 1 or (p.ndim >= 2 and "pos" in name)]
    scalars = [p for p in model.parameters() if p.ndim == 0]  # apart, for FSDP does not shard them
    groups = [{"params": decayed, "weight_decay": options.weight_decay}]
    groups += [{"params": group, "weight_decay": 0.0} for group in (plain, scalars)]
    fused = model.device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=fused)


def learning_rate(step: int, options: Train) -> float:
    """Rate at a step (1-based): linear warm-up to the peak, then a fall to zero after the last step (MaMMUT's is linear)."""
    if step <= options.warmup_steps:
        return options.learning_rate * step / options.warmup_steps
    left = min((options.steps + 1 - step) / max(options.steps + 1 - options.warmup_steps, 1), 1.0)
    return options.learning_rate * (left if options.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2)


@dataclass
class Batch:
    """This process's share of a batch.

    Attributes:
        parts: Micro-batches: images (b, 3, S, S) float32 and groups of token rows (b1, T1), (b2, T2), …, as `Mammut.forward`
            takes them.
        keys: Of the whole batch, of all processes.
        place: Of the reader, after this batch.
        counts: Of the whole batch: pairs left out and texts cut; known for all processes only after `backward`.
        seed: Of what is dropped.
    """

    parts: list[tuple[Tensor, list[Tensor]]]
    keys: list[str]
    place: Place
    counts: Counter
    seed: int = 0


def read_batches(model: Mammut, data: Mapping[str, Path], config: Config, place: Place, step: int) -> Iterator[Batch]:
    """Yield this process's share of every batch from `step` + 1, at `place`, to the last; `model` gives tokenizer and sizes."""
    options, settings = config.train, model.config
    share = options.batch_size // distributed.size()
    n_parts = math.ceil(share / (options.micro_batch_size or share))
    shares = curriculum.read(
        data, options, config.seed, settings.image_size, place, step, distributed.rank(), distributed.size()
    )
    for number, rows in enumerate(shares, step + 1):
        if len(rows.images) < n_parts:
            raise DataError(
                f"only {len(rows.images)} of {share} images of a batch are readable, as of {rows.keys[0]}: see the data"
            )
        counts = Counter({"broken image": share - len(rows.images)})
        tokens = tokenizers.encode(model.tokenizer, rows.captions, counts)
        lengths = (tokens != settings.pad_token_id).sum(axis=1)
        parts = []
        # texts of similar length go through the decoder together
        for part in np.array_split(np.argsort(lengths, kind="stable"), n_parts):
            groups = [group for group in np.array_split(part, TEXT_GROUPS) if len(group)]
            pixels = np.stack([rows.images[i] for i in part])
            images = torch.from_numpy(imaging.normalise(pixels, settings.image_mean, settings.image_std))
            parts.append((images, [torch.from_numpy(tokens[group, : lengths[group[-1]]]) for group in groups]))
        seed = int(np.random.SeedSequence([config.seed, number, distributed.rank()]).generate_state(1)[0])
        yield Batch(parts, rows.keys, rows.place, +counts, seed)


def contrastive_loss(model: Mammut, image_embeddings: Tensor, text_embeddings: Tensor, options: Train) -> Tensor:
    """The chosen contrastive loss of (B, E) and (B, E), in float32."""
    pair = image_embeddings.float(), text_embeddings.float()
    if options.contrastive_loss == "softmax":
        return losses.softmax_loss(*pair, model.logit_scale)
    if options.contrastive_loss == "sigmoid":
        return losses.sigmoid_loss(*pair, model.logit_scale, model.logit_bias)
    return losses.focal_loss(*pair, model.logit_scale, model.logit_bias, options.focal_gamma)


def backward(model: Mammut, batch: Batch, options: Train, scaler: torch.amp.GradScaler | None = None) -> dict[str, Tensor]:
    """Leave the gradient of the loss over the whole batch, of all processes and micro-batches, in the parameters' `grad`.

    The contrastive loss compares all pairs, but memory holds the activations of one micro-batch. So: embed every micro-batch,
    all but the last without a graph; gather the embeddings of all processes; take the gradient of the loss with respect to the
    embeddings; and run each micro-batch backward from its rows of it, the first ones after a second forward. Nothing is
    approximated, and one process with one micro-batch does one forward and one plain backward.

    Returns:
        The weighted `loss` and its parts `contrastive` and `caption`, of the whole batch; equal in all processes.

    Source: Gao et al. 2021 (gradient cache, arXiv 2101.06983), section 3.2; keeping the last graph is our addition.
    """
    scale = scaler.scale if scaler is not None else lambda value: value
    with_caption = options.caption_weight > 0

    def run(i: int, with_caption: bool) -> mammut.MammutOutput:
        images, groups = batch.parts[i]
        device, dtype = model.device, DTYPES[options.precision]
        torch.manual_seed(batch.seed + i)  # what the first forward dropped, the second drops again
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return model(images.to(device), [group.to(device) for group in groups], with_caption=with_caption)

    if distributed.size() == len(batch.parts) == 1:
        output = run(0, with_caption)
        contrastive = contrastive_loss(model, output.image_embeddings, output.text_embeddings, options)
        loss = options.contrastive_weight * contrastive
        if with_caption:
            loss = loss + options.caption_weight * output.caption_loss
        scale(loss).backward()
        return {"loss": loss, "contrastive": contrastive} | ({"caption": output.caption_loss} if with_caption else {})

    dropped = model.config.text_dropout > 0  # then both forwards have to draw the same
    with torch.no_grad():
        outputs = [run(i, dropped and with_caption) for i in range(len(batch.parts) - 1)]
    outputs.append(run(len(outputs), with_caption))
    own = [
        torch.cat([output[name].detach().float() for output in outputs]) for name in ("image_embeddings", "text_embeddings")
    ]
    embeddings, first = distributed.gather(torch.cat(own, dim=1), options.batch_size // distributed.size())  # (B, 2E)
    embeddings.requires_grad_()
    contrastive = contrastive_loss(model, *embeddings.chunk(2, dim=1), options)
    scalars = [model.log_scale, model.logit_bias]
    wanted = scale(options.contrastive_weight * contrastive)
    gradient, *of_scalars = torch.autograd.grad(wanted, [embeddings, *scalars], allow_unused=True)
    for scalar, of_scalar in zip(scalars, of_scalars, strict=True):
        scalar.grad = None if of_scalar is None else of_scalar / distributed.size()  # every process has the whole of it

    targets = [sum(int((group[:, 1:] != model.config.pad_token_id).sum()) for group in groups) for _, groups in batch.parts]
    totals = torch.tensor([sum(targets), *(batch.counts[name] for name in COUNTED)], dtype=torch.float64, device=model.device)
    totals = distributed.add_up(totals)
    batch.counts = +Counter(dict(zip(COUNTED, map(int, totals[1:].tolist()), strict=True)))
    averaging = distributed.size() if options.fsdp else 1  # FSDP divides the sum over processes by their number
    per_target = scale(torch.tensor(options.caption_weight / float(totals[0]), device=model.device))
    caption = torch.zeros((), device=model.device)
    last = first + len(own[0])
    for i in reversed(range(len(outputs))):
        output = outputs[i] if i == len(outputs) - 1 else run(i, with_caption)
        last, rows = last - len(output.image_embeddings), slice(last - len(output.image_embeddings), last)
        roots = [output.image_embeddings, output.text_embeddings]
        gradients = [part * averaging for part in gradient[rows].chunk(2, dim=1)]
        if with_caption:
            roots.append(output.caption_loss)
            gradients.append(per_target * targets[i] * averaging)
            caption += output.caption_loss.detach() * targets[i] / float(totals[0])
        torch.autograd.backward(roots, [g.to(root.dtype) for g, root in zip(gradients, roots, strict=True)])
        outputs[i] = output = roots = None  # its graph is used up: make room for the next
    for parameter in model.parameters():
        if parameter.grad is not None and not distributed.in_shards(parameter):
            distributed.add_up(parameter.grad)
    found = {"contrastive": contrastive.detach()} | ({"caption": distributed.add_up(caption)} if with_caption else {})
    loss = options.contrastive_weight * found["contrastive"] + options.caption_weight * found.get("caption", 0.0)
    return {"loss": loss, **found}


def clip_gradients(model: Mammut, max_norm: float) -> Tensor:
    """Scale the gradients of all parameters down to a global norm; return the norm before."""
    graded = [p for p in model.parameters() if p.grad is not None]
    sharded = [p for p in graded if distributed.in_shards(p)]
    if not sharded:
        return torch.nn.utils.clip_grad_norm_(graded, max_norm)
    squares = [distributed.local(p.grad).square().sum() for p in sharded]
    others = [p.grad.square() for p in graded if not distributed.in_shards(p)]
    norm = (distributed.add_up(torch.stack(squares).sum()) + sum(others)).sqrt()
    torch._foreach_mul_([distributed.local(p.grad) for p in graded], (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def validate(model: Mammut, batch: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """Mean of image→text and text→image R@5 in percent, each image against the first captions of all (ties count against)."""
    model.eval()
    with torch.inference_mode():
        images = torch.cat([model.encode_image(part) for part in batch.split(256)]).float().cpu().numpy()
    scores = images @ embed.texts(model, captions).T
    right = np.diagonal(scores)
    hits = [((scores >= right[:, None]).sum(1) <= 5).mean(), ((scores >= right[None, :]).sum(0) <= 5).mean()]
    return {"val_R@5": 100 * float(np.mean(hits)), "val_chance_R@5": 100 * min(5 / len(right), 1.0)}


class _Metrics:
    """A JSON-lines file that, on resume, is cut back to the checkpoint's step."""

    def __init__(self, path: Path, from_step: int):
        self.path = path
        self.last_step = from_step
        kept = []
        if path.is_file():
            whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            kept = [line for line in whole if json.loads(line)["step"] <= from_step]
        if distributed.rank() == 0:
            runs.write_atomic(path, "".join(kept))

    def write(self, line: dict) -> None:
        if distributed.rank() == 0:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def steps_since(self, step: int) -> int:
        steps, self.last_step = step - self.last_step, step
        return steps


def _named(data: Path | Mapping[str, Path]) -> dict[str, Path]:
    return {name: Path(folder) for name, folder in (data if isinstance(data, Mapping) else {"data": data}).items()}


def _check(config: Config, data: Mapping[str, Path]) -> None:
    options, size = config.train, distributed.size()
    curriculum.check(options, list(data))
    if options.batch_size % size:
        raise ConfigError(
            f"train.batch_size={options.batch_size} cannot be shared by {size} processes: take a multiple of {size}"
        )
    if options.fsdp and size == 1:
        raise ConfigError("train.fsdp shards a model over several processes: start it with torchrun")
    if options.fsdp and options.precision == "fp16":
        raise ConfigError("train.fsdp goes with train.precision fp32 or bf16: fp16 needs a loss scale of all shards")


def _identity(config: Config, data: Mapping[str, Path]) -> dict:
    options = config.model_dump(mode="json", include={"seed", "model", "train"})
    del options["train"]["workers"]  # they decide nothing
    start = sorted(Path(config.train.start).glob("*.safetensors")) if config.train.start else []
    if config.train.start and not start:
        raise ModelError(f"train.start={config.train.start} holds no safetensors: give the folder of a model")
    started = [hashlib.sha256(path.read_bytes()).hexdigest() for path in start]
    return {"options": options, "data": {name: benchmarks.fingerprint(path) for name, path in data.items()}, "start": started}


def _check_same_run(old: dict, new: dict, out: Path) -> None:
    if old == new:
        return
    if old["data"] != new["data"] or old.get("start") != new["start"]:
        raise ModelError(f"{out} holds a run on other data or from another start: give another --out, or delete it")
    differing = [
        f"{section}.{name}" if isinstance(value, dict) else section
        for section, value in new["options"].items()
        for name in (value if isinstance(value, dict) else [section])
        if old["options"].get(section) != value
        and (not isinstance(value, dict) or old["options"].get(section, {}).get(name) != value[name])
    ]
    raise ModelError(f"{out} holds a run with other options ({', '.join(differing)}): give another --out, or delete it")


def _validation_set(model: Mammut, data: Mapping[str, Path], most: int = 1000) -> tuple[Tensor, list[str]] | None:
    samples: list = []
    for folder in data.values():
        with contextlib.suppress(DataError):  # a data set without a val split trains all the same
            readable = embed.decoded(benchmarks.samples(folder, "val"), Counter())
            samples += itertools.islice(readable, most // len(data))
    if not samples:
        return None
    return embed.to_batch(model, [array for _, array in samples]), [sample.captions[0] for sample, _ in samples]


def _stop_if_not_finite(loss: Tensor, step: int, keys: list[str], out: Path) -> None:
    if math.isfinite(loss.item()):
        return
    if distributed.rank() == 0:
        runs.write_atomic(out / "not_finite.json", json.dumps({"step": step, "keys": keys}, indent=1))
    raise RsvlmError(
        f"the loss is {loss.item()} at step {step}; the keys of its batch are in {out / 'not_finite.json'}. "
        "Lower train.learning_rate, or look at those samples; the checkpoint before is kept"
    )


def _memory_gb(device: torch.device) -> float:
    """Most memory held so far: of the GPU by tensors, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return runs.peak_memory_mb() * 2**20 / 1e9
