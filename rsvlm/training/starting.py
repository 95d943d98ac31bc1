"""What a training starts from: its data by name, its model, and what tells it from every other run."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rsvlm.data import benchmarks
from rsvlm.errors import ModelError
from rsvlm.model import mammut, tokenizer as tokenizers, trunk, weights
from rsvlm.model.mammut import Mammut
from rsvlm.model.others import efficientnet_lite, reading, timm_towers
from rsvlm.records import files
from rsvlm.records.provenance import version
from rsvlm.training import processes

if TYPE_CHECKING:
    from rsvlm.config import Config, Train

logger = logging.getLogger(__name__)


def named(data: Path | Mapping[str, Path]) -> dict[str, Path]:
    """Return data sets by name; one without a name is `data`."""
    data = data if isinstance(data, Mapping) else {"data": data}
    return {name: Path(folder) for name, folder in data.items()}


def identity(config: Config, data: Mapping[str, Path]) -> dict:
    """Return what decides a run: its options, the content of its data, and the weights it starts from.

    Raises:
        ModelError: `train.start` or `train.vision_start` holds no weights.
    """
    options = config.model_dump(mode="json", include={"seed", "model", "train"})
    del options["train"]["workers"]  # they decide nothing
    start = sorted(Path(config.train.start).glob("*.safetensors")) if config.train.start else []
    if config.train.start and not start:
        raise ModelError(f"train.start={config.train.start} holds no safetensors: give the folder of a model")
    started = [files.file_sha256(path) for path in start]
    identity = {
        "options": options,
        "data": {name: benchmarks.fingerprint(path) for name, path in data.items()},
        "start": started,
    }
    if config.train.vision_start:
        identity["vision"] = vision_origin(config.train.vision_start)
    return identity


def check(config: Config) -> None:
    """Check that there is such a model, and that its tower takes the weights it is to begin with, before anything is read.

    Raises:
        ModelError: There is none, or it does not; keys that do not fit are listed.
    """
    if not config.train.start and config.model.preset not in mammut.PRESETS:
        raise ModelError(f"unknown preset '{config.model.preset}': choose one of {', '.join(mammut.PRESETS)}")
    options = config.train
    if options.start and options.vision_start:
        raise ModelError(
            "train.start and train.vision_start exclude each other: a model to go on from has its tower's weights"
        )
    if (options.vision_start or options.vision_frozen) and not options.start:
        with torch.device("meta"):
            model = Mammut(mammut.MammutConfig(**mammut.PRESETS[config.model.preset]))
        freeze(begin_vision(model, options.vision_start), options.vision_frozen)


def vision_weights(start: str) -> tuple[str, Path, str]:
    """Find what `train.vision_start` names.

    Returns:
        Name of the tower in timm, or nothing; file of weights; and the revision of the hub that it comes from, or nothing.

    Raises:
        ModelError: There is no such model or file.
    """
    if start.startswith("timm:"):
        name, path, revision = timm_towers.find_weights(start.removeprefix("timm:"))
    else:
        name, path, revision = "", Path(start), ""
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise ModelError(
            f"train.vision_start={start}: there is no file {path}; give timm:NAME, timm:NAME:FILE, a file or a folder"
        )
    return name, path, revision


def vision_origin(start: str) -> dict[str, str]:
    """Say where the weights of a vision tower come from: file, sha256, and package and version, or revision, where there is one."""
    name, path, revision = vision_weights(start)
    origin = {"file": path.name, "sha256": files.file_sha256(path)}
    if path == efficientnet_lite.packaged(name):
        module = efficientnet_lite.PACKAGES[name][0]
        origin |= {"package": module.replace("_", "-"), "version": version(module)}
    return origin | ({"revision": revision} if revision else {})


def begin_vision(model: Mammut, start: str) -> Mammut:
    """Give a model the weights that `train.vision_start` names for its tower, in place; return it.

    Where a network of timm is named, pictures are normalised as that network's are.

    Raises:
        ModelError: There are no such weights, or they do not fit; the keys are listed.
    """
    if not start:
        return model
    name, path, _ = vision_weights(start)
    weights.put_vision(model, reading.read_state(path), path)
    if name:
        model.config.image_mean, model.config.image_std = trunk.normalisation(name)
    return model


def tower_prefix(model: Mammut) -> str:
    """Return how the names of the vision tower's parameters begin; of a network of timm, without what is built on it."""
    return "vision.trunk." if model.config.vision_tower else "vision."


def freeze(model: Mammut, stages: int | str) -> Mammut:
    """Keep stages of the vision tower as they are, in place: so many from its first layers on, or `all`; return the model.

    A stage of a network of timm ends where its map is halved; of other towers each block is one, with what stands ahead of the
    first.

    Raises:
        ModelError: The tower has not so many.
    """
    tower = model.get_submodule(tower_prefix(model)[:-1])
    if stages == "all":
        tower.requires_grad_(False)
        return model
    network = model.config.vision_tower
    ends = trunk.stage_ends(network) if network else [f"blocks.{i}" for i in range(len(tower.blocks))]
    if stages > len(ends):
        raise ModelError(f"train.vision_frozen={stages}: this vision tower has {len(ends)} stages; give fewer, or all")
    has_begun = False
    for name, module in tower.named_modules() if stages else ():  # in the order in which they work
        if has_begun and not name.startswith(f"{ends[stages - 1]}."):
            break
        has_begun = has_begun or name == ends[stages - 1]
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    return model


def prepare(model: Mammut, options: Train) -> Mammut:
    """Switch on activation checkpointing, frozen stages, FSDP and compilation, in place; names and values of the weights stay.

    Raises:
        ModelError: `train.vision_frozen` is more than the tower's stages.
    """
    freeze(model, options.vision_frozen)
    model.gradient_checkpointing = options.activation_checkpointing
    if options.fsdp:  # the decoder is one unit with the rest, for it runs twice; scalars cannot be sharded
        scalars = {p for p in model.parameters() if p.ndim == 0}
        processes.shard(model, model.vision.blocks, scalars, ("encode_image", "encode_text"))
    if options.compile:
        for block in model.vision.blocks:
            block.compile()
        for layer in model.layers:
            layer.compile(dynamic=True)  # texts are cut to their longest, so their length changes with every batch
    return model
