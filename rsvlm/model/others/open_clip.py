"""Models of open_clip: OpenAI's, LAION's, RemoteCLIP, GeoRSCLIP, SkyCLIP and whatever else has its format.

`open_clip:NAME:FILE`, `open_clip:NAME:TAG`, `open_clip:FOLDER` and `open_clip:hf-hub:ORG/NAME`. Only the last is fetched, and pickles
are read as tensors alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rsvlm.errors import ModelError, need
from rsvlm.model.encoder import Encoder
from rsvlm.model.others import clip_resnet, clip_vit, long_clip, open_clip_names, open_mammut, reading, timm_maps, timm_vit
from rsvlm.model.others.towers import TowerEncoder, kind_of, scale_of, short, tried
from rsvlm.records.files import file_sha256


def open_model(where: str, device: torch.device) -> Encoder:
    """Open a model that open_clip knows, by its name and a file or tag of weights. Raises as `opening.open_encoder`."""
    open_clip = need("open_clip", "models")
    revision = ""
    if where.startswith("hf-hub:"):
        folder, revision = reading.from_hub(where.removeprefix("hf-hub:"))
        name, weight, named = str(folder), "", f"open_clip:{where}"
    else:
        name, _, weight = where.partition(":")
        if name.startswith("mammut_") and weight and not Path(name).is_dir():
            return open_mammut.open_checkpoint(name, weight, device)
        if not weight and open_mammut.is_folder(Path(name)):
            return open_mammut.open_folder(Path(name), device)
        named = f"open_clip:{name}" + f":{Path(weight).name}" * bool(weight)
    source, options, files = open_clip_names.source(open_clip, name, weight)
    try:
        if long_clip.is_long(weight):
            model, preprocess, tokenizer = long_clip.create(open_clip, source, options, device)
        else:
            model, preprocess = open_clip.create_model_from_pretrained(source, device=device, weights_only=True, **options)
            tokenizer = open_clip.get_tokenizer(source)
    except ModelError:
        raise
    except Exception as error:  # of pickle, torch, safetensors, transformers, JSON: whatever a file can be wrong in
        raise ModelError(
            f"{weight or name} cannot be opened as open_clip's {name}: {short(error)}. "
            "Expected its state dict as tensors alone (convert others to safetensors), of the architecture that NAME says"
        ) from error
    facts = json.dumps([source, open_clip.get_model_config(source), model.visual.preprocess_cfg], sort_keys=True, default=str)

    def fingerprint() -> str:
        return hashlib.sha256("\n".join([facts, *map(file_sha256, files)]).encode()).hexdigest()

    encoder = OpenClipEncoder(named, model.eval(), preprocess, tokenizer, fingerprint)
    encoder.revision = revision
    return tried(encoder)


class OpenClipEncoder(TowerEncoder):
    """A model of open_clip behind the one face: with a vision tower of its own, or with one of timm's."""

    def __init__(self, name: str, model: nn.Module, transform: Callable, tokenizer: Callable, fingerprint: Callable[[], str]):
        visual, settings = model.visual, model.visual.preprocess_cfg
        trunk = getattr(visual, "trunk", None)
        if trunk is None:
            kinds = clip_vit, clip_resnet
        else:  # a pooling that open_clip puts behind the tower is not read
            kinds = () if "pool" in dict(visual.head.named_children()) else (timm_vit, timm_maps)
        kind, can, side = kind_of(visual if trunk is None else trunk, kinds)
        if kind is timm_vit:
            timm_vit.dynamic(trunk)
        size = settings["size"]
        super().__init__(
            name,
            model,
            can=["texts", *can],
            fingerprint=fingerprint,
            image_size=max(size) if isinstance(size, (tuple, list)) else size,
            patch_size=side,
            mean=settings["mean"],
            std=settings["std"],
            logit_scale=scale_of(model),
        )
        self.kind, self.transform, self.tokenizer = kind, transform, tokenizer

    @property
    def tower(self) -> nn.Module:
        """The vision tower: of timm, without the head that open_clip puts on it."""
        return getattr(self.model.visual, "trunk", self.model.visual)

    def encode_images(self, batch: Tensor) -> Tensor:
        """Embed as `Encoder` says."""
        return self.model.encode_image(batch)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed as `Encoder` says."""
        return self.model.encode_text(self.tokenizer(list(texts)).to(self.device))

    def project(self, pooled: Tensor, rest: Tensor | None) -> Tensor:
        """Send pooled values through the rest of the tower, and the head on it, as `Encoder` says."""
        vectors = self.kind.project(self.tower, pooled, rest)
        return (self.model.visual.head(vectors) if self.tower is not self.model.visual else vectors).float()
