"""Speed of one training step: forward, backward and optimizer, for us and for public implementations of the same idea.

Everyone gets the same images and the same texts as a tokenizer of fixed length hands them over, padded to the context length;
whoever cuts them does so inside its own time. Everyone is updated by the same optimizer, and all take turns within each round, so
that a machine that slows down slows all of them; what is compared is the ratio within a round.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsvlm import config
from rsvlm.errors import ConfigError
from rsvlm.model import flops, losses, mammut, tokenizer
from rsvlm.model.device import resolve_device
from rsvlm.records import provenance
from rsvlm.training import train
from rsvlm.training.batches import Batch, Place

VOCABULARY, CONTEXT = 49_408, 77  # CLIP's, which the peers are written for
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
INSTALL = 'pip install -e ".[bench]"'
# The last release, 3.3.0, has no MaMMUT; its main branch has.
ELSEWHERE = {"open_clip.mammut_model": "pip install git+https://github.com/mlfoundations/open_clip"}
# Dense bfloat16 peak in FLOP/s. Source: NVIDIA's data sheets, without sparsity.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}


@dataclass
class Contender:
    """One implementation, ready to take a step.

    Attributes:
        name: As printed.
        matched: How its shape was made to match ours.
        model: The module whose parameters are updated.
        backward: Given (B, 3, H, W) images and (B, context) padded tokens, leaves the gradients and returns the loss.
        check: The same to shapes by name, compared with what they should be before anything is timed.
    """

    name: str
    matched: str
    model: nn.Module
    backward: Callable[[Tensor, Tensor], Tensor]
    check: Callable[[Tensor, Tensor], dict[str, tuple]]


@dataclass(frozen=True)
class Setting:
    """What a run is made of; text lengths and sizes in tokens, see `measure`."""

    shape: str = "s32"
    batch: int = 16
    text_tokens: int = 30
    vocabulary: int = VOCABULARY
    context: int = CONTEXT
    precision: str = "fp32"
    device: str = "cpu"

    def model_config(self) -> mammut.MammutConfig:
        """Return the sizes of our model."""
        return mammut.MammutConfig(**mammut.PRESETS[self.shape], vocab_size=self.vocabulary, context_length=self.context)

    def inputs(self) -> tuple[Tensor, Tensor]:
        """Draw B images and B texts of `text_tokens` tokens, padded to the context length."""
        rng = torch.Generator().manual_seed(0)
        size = self.model_config().image_size
        images = torch.randn(self.batch, 3, size, size, generator=rng)
        tokens = torch.full((self.batch, self.context), tokenizer.PAD_ID)
        tokens[:, : self.text_tokens] = torch.randint(3, self.vocabulary, (self.batch, self.text_tokens), generator=rng)
        tokens[:, 0], tokens[:, self.text_tokens - 1] = tokenizer.BOS_ID, tokenizer.EOS_ID
        return images.to(self.device), tokens.to(self.device)


def measure(
    shape: str = "s32",
    batch: int = 16,
    repeats: int = 7,
    text_tokens: int = 30,
    vocabulary: int = VOCABULARY,
    context: int = CONTEXT,
    precision: str = "fp32",
    device: str = "auto",
    threads: int = 0,
    peers: bool = True,
    compile: bool = False,
    memory: bool = True,
) -> list[dict]:
    """Time whole training steps in interleaved rounds, two rounds unmeasured first.

    Args:
        shape: A preset of `mammut`.
        batch: Pairs per step.
        repeats: Timed rounds; in each, everyone takes one step.
        text_tokens: Length of every text.
        vocabulary: Tokens that can be predicted.
        context: Length that texts are padded to.
        precision: fp32, or bf16 by autocast.
        device: auto, cpu, cuda or cuda:N.
        threads: Of torch, on a CPU; 0 leaves them as they are.
        peers: Also the padded reference and the public packages.
        compile: Also ours through `torch.compile`.
        memory: Also measure peak memory, in one new process for each.

    Returns:
        One row per implementation: `samples_per_s` (median) with `min` and `max`; `speedup`, the median over rounds of its time
        divided by ours, with `speedup_min` and `speedup_max`; `parameters`; `peak_memory_mb`, what a process grew by (on CUDA:
        what torch had allocated); on CUDA also `utilisation`, model FLOPs (three times the forward pass's) against the peak. A
        peer that is not installed or fails its check has `problem` instead.

    Raises:
        ModelError: The device is not there.
        ConfigError: An unknown shape or precision, or texts longer than the context.
    """
    if shape not in mammut.PRESETS or precision not in PRECISIONS or not 2 <= text_tokens <= context:
        raise ConfigError(
            f"shape {shape}, precision {precision}, {text_tokens} tokens: choose a shape of {', '.join(mammut.PRESETS)}, a precision "
            f"of {', '.join(PRECISIONS)} and 2 to {context} tokens"
        )
    if threads:
        torch.set_num_threads(threads)
    target = str(resolve_device(device))
    setting = Setting(shape, batch, text_tokens, vocabulary, context, precision, target)
    names = ["rsvlm"] + ["rsvlm, compiled"] * compile + [name for name in MAKERS if not name.startswith("rsvlm")] * peers
    images, tokens = setting.inputs()
    ready, problems, losses = {}, {}, {}
    for name in names:
        try:
            contender = MAKERS[name](setting)
            losses[name] = _checked(contender, images, tokens, setting)
            if name == "padded reference" and abs(losses[name] - losses["rsvlm"]) > (1e-3 if precision == "fp32" else 0.1):
                raise ValueError(f"its loss is {losses[name]:.5f}, ours {losses['rsvlm']:.5f}: they are not the same model")
            ready[name] = contender
        except ModuleNotFoundError as error:
            problems[name] = f"{error.name} is not installed: {ELSEWHERE.get(error.name, INSTALL)}"
        except Exception as error:
            if name.startswith("rsvlm"):
                raise
            problems[name] = f"left out, its step failed: {type(error).__name__}: {error}"
    seconds = _rounds(ready, images, tokens, setting, repeats)
    rows = []
    for name in names:
        row = {"implementation": name, "shape": shape, "batch": batch, "text_tokens": text_tokens, "context": context}
        row |= {"vocabulary": vocabulary, "precision": precision, "device": _device_name(target)}
        row |= {"threads": torch.get_num_threads(), "rounds": repeats}
        if name in problems:
            rows.append(row | {"problem": problems[name]})
            continue
        speeds = [batch / second for second in seconds[name]]
        ratios = [theirs / ours for theirs, ours in zip(seconds[name], seconds["rsvlm"], strict=True)]
        row |= {"samples_per_s": statistics.median(speeds), "min": min(speeds), "max": max(speeds)}
        row |= {"speedup": statistics.median(ratios), "speedup_min": min(ratios), "speedup_max": max(ratios)}
        row |= {"parameters": sum(p.numel() for p in ready[name].model.parameters()), "loss": losses[name]}
        if memory:
            row["peak_memory_mb"] = _memory_of(name, setting)
        if name.startswith("rsvlm") and (share := _utilisation(setting, row["samples_per_s"])):
            row |= share
        rows.append({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} | {"matched": ready[name].matched})
    return rows


def table(rows: list[dict]) -> str:
    """Lay rows out for a terminal."""
    first = rows[0]
    lines = [
        f"One training step: {first['shape']}, batch {first['batch']}, texts of {first['text_tokens']} tokens (context "
        f"{first['context']}, vocabulary {first['vocabulary']:,}), {first['precision']}, {first['device']}, "
        f"{first['threads']} threads, {first['rounds']} rounds.",
        f"{'':<34}{'samples/s':>10}{'min':>8}{'max':>8}{'time / ours':>13}{'min':>7}{'max':>7}{'parameters':>13}{'peak MB':>9}",
    ]
    for row in rows:
        if "problem" in row:
            lines.append(f"{row['implementation']:<34}{row['problem']}")
            continue
        lines.append(
            f"{row['implementation']:<34}{row['samples_per_s']:>10.2f}{row['min']:>8.2f}{row['max']:>8.2f}{row['speedup']:>13.2f}"
            f"{row['speedup_min']:>7.2f}{row['speedup_max']:>7.2f}{row['parameters']:>13,}{row.get('peak_memory_mb') or 0:>9,.0f}"
        )
    lines += [f"  {row['implementation']}: {row['matched']}" for row in rows if "matched" in row]
    lines += [
        f"  {row['implementation']}: {row['model_tflops_per_s']:.2f} model TFLOP/s"
        + (f", {100 * row['utilisation']:.0f} % of the device's peak" if "utilisation" in row else "")
        for row in rows
        if "model_tflops_per_s" in row
    ]
    return "\n".join(lines)


def _make_ours(setting: Setting) -> Contender:
    model, options = our_model(setting), config.Train(precision=setting.precision)
    objective = train.objective(options)

    def backward(images: Tensor, tokens: Tensor) -> Tensor:
        longest = int((tokens != tokenizer.PAD_ID).sum(1).max())
        batch = Batch([(images, [tokens[:, :longest]], [slice(None)])], [], Place(), Counter())
        return train.backward(model, batch, objective, options)["loss"]

    def check(images: Tensor, tokens: Tensor) -> dict[str, tuple]:
        logits = model.caption_logits(images, tokens[:, : setting.text_tokens])
        return {"image": model.encode_image(images).shape, "text": model.encode_text(tokens).shape, "logits": logits.shape}

    matched = "the trainer's own step: texts cut to the longest, vocabulary product where there is a target"
    return Contender("rsvlm", matched, model, backward, check)


def _make_compiled(setting: Setting) -> Contender:
    ours = _make_ours(setting)
    ours.model.compile(dynamic=False)
    ours.name, ours.matched = "rsvlm, compiled", "ours, through torch.compile"
    return ours


def _make_padded(setting: Setting) -> Contender:
    """Our weights and modules, used as public implementations use theirs.

    Texts stay padded to the context length, and the decoder ends in the vocabulary product whichever pass asks for it: that of
    the contrastive pass is thrown away, so it costs its forward product alone (openMaMMUT's `encode_text` does so).
    """
    model, options = our_model(setting), config.Train()

    def passes(images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        patches = model.image_tokens(images)
        real = (tokens != tokenizer.PAD_ID) | model.config.pads_are_text
        states = model._decode(tokens, None if model.config.pads_are_text else real[:, None, None, :])
        unused = model.vocabulary(states)
        pooled = (states * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        logits = model.vocabulary(model.caption_states(tokens[:, :-1], patches))
        return model.image_embedding(patches), F.normalize(pooled, dim=-1), logits, unused

    def loss(images: Tensor, tokens: Tensor) -> Tensor:
        image, text, logits, _ = passes(images, tokens)
        caption = F.cross_entropy(logits.permute(0, 2, 1), tokens[:, 1:], ignore_index=tokenizer.PAD_ID)
        contrastive = losses.softmax_loss(image, text, model.logit_scale)
        return options.contrastive_weight * contrastive + options.caption_weight * caption

    def check(images: Tensor, tokens: Tensor) -> dict[str, tuple]:
        image, text, _, logits = passes(images, tokens)
        return {"image": image.shape, "text": text.shape, "logits": logits[:, : setting.text_tokens].shape}

    matched = "our weights; texts padded to the context length, vocabulary product at every position of both passes"
    return Contender("padded reference", matched, model, plainly(loss, setting), check)


def _peer(name: str, setting: Setting, cut: bool) -> Contender:
    from benchmarks import train_peers

    return getattr(train_peers, f"make_{name}")(setting, cut)


MAKERS: dict[str, Callable[[Setting], Contender]] = {
    "rsvlm": _make_ours,
    "rsvlm, compiled": _make_compiled,
    "padded reference": _make_padded,
    "mammut-pytorch, texts padded": lambda setting: _peer("mammut_pytorch", setting, cut=False),
    "mammut-pytorch, texts cut": lambda setting: _peer("mammut_pytorch", setting, cut=True),
    "open_clip MaMMUT, texts padded": lambda setting: _peer("open_mammut", setting, cut=False),
    "open_clip MaMMUT, texts cut": lambda setting: _peer("open_mammut", setting, cut=True),
    "open_clip CoCa, texts padded": lambda setting: _peer("coca", setting, cut=False),
    "open_clip CoCa, texts cut": lambda setting: _peer("coca", setting, cut=True),
}


def plainly(loss: Callable[[Tensor, Tensor], Tensor], setting: Setting) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a backward pass of a loss, under the setting's precision."""

    def backward(images: Tensor, tokens: Tensor) -> Tensor:
        with _autocast(setting):
            value = loss(images, tokens)
        value.backward()
        return value

    return backward


def _optimizer(model: nn.Module, setting: Setting) -> torch.optim.Optimizer:
    """AdamW as our trainer makes it, for the parameters of any model."""
    with torch.device("meta"):
        ours = mammut.Mammut(mammut.MammutConfig(**mammut.PRESETS["nano"]))
    like = train.make_optimizer(ours, config.Train()).defaults
    fused = True if setting.device.startswith("cuda") else like["fused"]
    return torch.optim.AdamW(
        model.parameters(), lr=like["lr"], betas=like["betas"], eps=like["eps"], weight_decay=0.01, fused=fused
    )


def our_model(setting: Setting) -> mammut.Mammut:
    """Make our model, with the same weights each time."""
    torch.manual_seed(0)  # the same weights for everyone who is made of our modules
    return mammut.Mammut(setting.model_config()).to(setting.device).train()


def _checked(contender: Contender, images: Tensor, tokens: Tensor, setting: Setting) -> float:
    """Return the first loss, after comparing the shapes of what the model gives with what they should be."""
    width, (B, T) = setting.model_config().text_width, (setting.batch, setting.text_tokens)
    expected = {"image": (B, width), "text": (B, width), "logits": (B, T, setting.vocabulary)}
    with torch.no_grad(), _autocast(setting):
        found = {name: tuple(shape) for name, shape in contender.check(images, tokens).items()}
    loss = float(contender.backward(images, tokens).detach())
    contender.model.zero_grad(set_to_none=True)
    if found != expected:
        raise ValueError(f"it gives {found}, expected {expected}")
    if not torch.isfinite(torch.tensor(loss)):
        raise ValueError(f"its loss is {loss}")
    return loss


def _rounds(
    contenders: dict[str, Contender], images: Tensor, tokens: Tensor, setting: Setting, repeats: int
) -> dict[str, list[float]]:
    """Seconds per step by name; in every round each takes one step, beginning with another."""
    optimizers = {name: _optimizer(entry.model, setting) for name, entry in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for index in range(repeats + 2):
        turn = index % len(order)
        for name in order[turn:] + order[:turn]:
            second = _step(contenders[name], optimizers[name], images, tokens, setting)
            if index >= 2:
                seconds[name].append(second)
    return seconds


def _step(contender: Contender, optimizer: torch.optim.Optimizer, images: Tensor, tokens: Tensor, setting: Setting) -> float:
    _wait(setting)
    start = time.perf_counter()
    contender.backward(images, tokens)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    _wait(setting)
    return time.perf_counter() - start


def _autocast(setting: Setting) -> torch.autocast:
    kind = torch.device(setting.device).type
    return torch.autocast(kind, PRECISIONS["bf16"], enabled=setting.precision == "bf16")


def _wait(setting: Setting) -> None:
    if setting.device.startswith("cuda"):
        torch.cuda.synchronize()


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _utilisation(setting: Setting, samples_per_s: float) -> dict[str, float]:
    """Model FLOPs that were done per second, and their share of the device's peak where that is known."""
    forward = flops.count(setting.model_config(), setting.text_tokens)
    done = 3 * sum(forward.values()) * samples_per_s  # a backward pass costs two forward passes
    found = {"model_tflops_per_s": done / 1e12}
    peak = next((peak for name, peak in PEAK_FLOPS.items() if name in _device_name(setting.device)), None)
    return found | ({"utilisation": done / peak} if peak and setting.precision == "bf16" else {})


def _memory_of(name: str, setting: Setting) -> float | None:
    """Run two steps in a process of their own and return what it grew by, in MB (2**20 bytes)."""
    job = json.dumps({"name": name, "setting": vars(setting), "threads": torch.get_num_threads()})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train", job], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    return round(json.loads(done.stdout.splitlines()[-1]), 1) if done.returncode == 0 else None


def _memory_here(job: dict) -> float:
    setting = Setting(**job["setting"])
    torch.set_num_threads(job["threads"])
    for package in ("open_clip", "mammut_pytorch"):
        if importlib.util.find_spec(package):
            __import__(package)  # the code of the peers is no memory of theirs
    before = provenance.peak_memory_mb()
    images, tokens = setting.inputs()
    contender = MAKERS[job["name"]](setting)
    optimizer = _optimizer(contender.model, setting)
    for _ in range(2):
        _step(contender, optimizer, images, tokens, setting)
    if setting.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return provenance.peak_memory_mb() - before


if __name__ == "__main__":
    print(_memory_here(json.loads(sys.argv[1])))
