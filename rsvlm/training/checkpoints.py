"""Checkpoints: everything that decides how a run goes on, as safetensors and JSON, whole on disk or not there at all.

    step-000100/model.safetensors       weights
                ema.safetensors         averaged weights, where there are any
                optimizer.safetensors   moments, as `index.name`
                state.json              step, place of the reader, loss scale

Tensors are written whole, whatever shards they live in; so a run may go on with another number of processes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rsvlm.errors import ModelError
from rsvlm.model.mammut import Mammut
from rsvlm.records import files
from rsvlm.training import processes
from rsvlm.training.batches import Place

logger = logging.getLogger(__name__)


def claim(out: Path, identity: Mapping) -> None:
    """Write what decides a run into `out/run.json`, so that no other run goes on there; all processes call it.

    A run that has come to no checkpoint, as one that failed before its first step, has nothing to go on with: it binds nobody.

    Args:
        out: Folder of the run, made if absent.
        identity: What decides the run, as of `starting.identity`.

    Raises:
        ModelError: `out` holds another run; the message names what differs.
    """
    known = json.loads((out / "run.json").read_text()) if (out / "run.json").is_file() else None
    if known is not None and (newest(out) or (out / "model").is_dir()):
        _check_same_run(known, identity, out)
        return
    if known not in (None, identity) and processes.rank() == 0:
        logger.warning("%s holds the start of another run, which came to no checkpoint: this one takes its place", out)
    processes.write(out / "run.json", json.dumps(identity, indent=1))


def save(
    out: Path,
    step: int,
    place: Place,
    model: Mammut,
    optimizer: torch.optim.Optimizer,
    ema: list[Tensor] | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Path:
    """Write a checkpoint under a temporary name, rename it, then drop all but the newest two; all processes call it."""
    path = out / "checkpoints" / f"step-{step:06d}"
    partial = path.with_name(f".{path.name}.partial")
    slots = optimizer.state_dict()["state"]
    moments = {f"{i}.{name}": value for i, slot in slots.items() for name, value in slot.items()}
    try:
        if processes.rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        _save(model.state_dict(), partial / "model.safetensors")
        _save(moments, partial / "optimizer.safetensors")
        if ema is not None:
            with averaged(model, ema):
                _save(model.state_dict(), partial / "ema.safetensors")
        if processes.rank() == 0:
            state = {"step": step, "place": vars(place), "scaler": scaler.state_dict() if scaler is not None else {}}
            files.write_atomic(partial / "state.json", json.dumps(state))
            shutil.rmtree(path, ignore_errors=True)
            os.replace(partial, path)
            for old in sorted(path.parent.glob("step-*"))[:-2]:
                shutil.rmtree(old)
    finally:
        if processes.rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
    return path


def newest(out: Path) -> Path | None:
    """Return the newest finished checkpoint of a run, if there is one."""
    return max((out / "checkpoints").glob("step-*"), default=None)


def load(
    path: Path,
    model: Mammut,
    optimizer: torch.optim.Optimizer,
    ema: list[Tensor] | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[int, Place]:
    """Put a checkpoint's weights, averages and moments into a model and its optimizer; any number of processes may read it.

    Returns:
        The step it was written after, and where the reader stood.

    Raises:
        ModelError: Its tensors do not fit the model.
    """
    try:
        _load(model, path / "model.safetensors")
        if ema is not None:
            with averaged(model, ema):
                _load(model, path / "ema.safetensors")
        flat = load_file(path / "optimizer.safetensors")
        state = json.loads((path / "state.json").read_text())
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelError(f"checkpoint {path} cannot be continued: {error}; delete it to go back to the one before") from error
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = processes.like(value, parameters[int(index)])
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    if scaler is not None and state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    return state["step"], Place(state["place"]["positions"], Counter(state["place"]["counts"]))


def finish(model: Mammut, folder: Path) -> Path:
    """Write the finished model's folder under a temporary name and rename it; all processes call it."""
    partial = folder.with_name(".model.partial")
    state = {name: processes.whole(tensor) for name, tensor in model.state_dict().items()}
    if processes.rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        plain = Mammut(model.config)  # the trained one may be in shards
        plain.load_state_dict(state)
        plain.eval().save_pretrained(partial)
        model.tokenizer.save_pretrained(partial)
        os.replace(partial, folder)
    processes.add_up(torch.zeros(1, device=model.device))  # nobody returns before the folder is there
    return folder


@contextlib.contextmanager
def averaged(model: Mammut, ema: list[Tensor] | None) -> Iterator[None]:
    """Let the averaged weights stand in for the model's for a while, if there are any."""
    _exchange(model, ema)
    try:
        yield
    finally:
        _exchange(model, ema)


def _exchange(model: Mammut, ema: list[Tensor] | None) -> None:
    for parameter, average in zip(model.parameters(), ema or []):
        weight = processes.local(parameter)
        before = weight.clone()
        weight.copy_(average)
        average.copy_(before)


def _check_same_run(old: Mapping, new: Mapping, out: Path) -> None:
    if old == new:
        return
    if old["data"] != new["data"] or any(old.get(name) != new.get(name) for name in ("start", "vision", "text")):
        raise ModelError(f"{out} holds a run on other data or from another start: give another --out, or delete it")
    before = _by_name(old["options"])
    differing = ", ".join(name for name, value in _by_name(new["options"]).items() if before.get(name) != value)
    raise ModelError(f"{out} holds a run with other options ({differing}): give another --out, or delete it")


def _by_name(options: Mapping) -> dict[str, object]:
    """Return options by their dotted names."""
    sections = {section: values if isinstance(values, dict) else {"": values} for section, values in options.items()}
    return {f"{section}.{name}".rstrip("."): value for section, values in sections.items() for name, value in values.items()}


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    whole = {name: processes.whole(tensor) for name, tensor in tensors.items()}
    if processes.rank() == 0:
        save_file(whole, path)


def _load(model: Mammut, path: Path) -> None:
    own = model.state_dict()
    model.load_state_dict({name: processes.like(value, own.get(name)) for name, value in load_file(path).items()})
