"""Towers of timm by themselves, `timm:NAME` and `timm:NAME:FILE`. They read no texts: queries are pictures.

Source: Wightman, timm (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from rsvlm.errors import ModelError
from rsvlm.model.encoder import Encoder
from rsvlm.model.others import efficientnet_lite, reading, timm_maps, timm_vit
from rsvlm.model.others.towers import TowerEncoder, kind_of, tried
from rsvlm.records.files import file_sha256

CLASSIFIERS = ("head.", "classifier.", "fc.", "head_dist.")


def open_model(where: str, device: torch.device) -> Encoder:
    """Open a tower of timm by its name, and weights of a file, of an installed package, or those that timm names.

    Raises as `opening.open_encoder`.
    """
    name, file, revision = find_weights(where)
    trunk = timm.create_model(name, num_classes=0)
    state = reading.read_state(file)
    if efficientnet_lite.is_port(state):
        state = efficientnet_lite.renamed(state, trunk.state_dict(), file)
    reading.fill(trunk, state, file, CLASSIFIERS)
    label = f"timm:{name}" + f":{file.name}" * (not revision)
    encoder = TimmEncoder(label, trunk.eval().to(device), lambda: file_sha256(file))
    encoder.revision = revision
    return tried(encoder)


def find_weights(where: str) -> tuple[str, Path, str]:
    """Find the weights of `NAME` or `NAME:FILE`: in that file, in an installed package, or where timm says.

    Returns:
        Name in timm, file of weights, and the revision of the hub where they come from one, else nothing.

    Raises:
        ModelError: timm knows no such model, or there are no weights of it; of the hub, as `reading.from_hub`.
    """
    name, _, file = where.partition(":")
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), 5)
        raise ModelError(f"timm knows no model '{name}'" + f": did you mean {', '.join(near)}?" * bool(near))
    if file or (file := efficientnet_lite.packaged(name)):
        return name, Path(file), ""
    settings = timm.get_pretrained_cfg(name)
    if settings is None or not settings.hf_hub_id:
        raise ModelError(f"timm names no weights of {name} on the hub: give a file, timm:{name}:FILE")
    folder, revision = reading.from_hub(settings.hf_hub_id.removeprefix("hf-hub:"), ["*.json", "model.safetensors"])
    return name, folder / "model.safetensors", revision


class TimmEncoder(TowerEncoder):
    """A vision tower of timm behind the one face."""

    def __init__(self, name: str, trunk: nn.Module, fingerprint: Callable[[], str]):
        settings, (kind, can, side) = resolve_model_data_config(trunk), kind_of(trunk, (timm_vit, timm_maps))
        super().__init__(
            name,
            timm_vit.dynamic(trunk),
            can=can,
            fingerprint=fingerprint,
            image_size=settings["input_size"][1],
            patch_size=side,
            mean=settings["mean"],
            std=settings["std"],
        )
        self.kind, self.transform = kind, create_transform(**settings, is_training=False)

    def encode_images(self, batch: Tensor) -> Tensor:
        """Embed as `Encoder` says."""
        return self.model(batch)
