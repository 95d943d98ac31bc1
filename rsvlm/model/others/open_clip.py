"""Models of open_clip: OpenAI's, LAION's, RemoteCLIP, GeoRSCLIP, SkyCLIP and whatever else has its format.

`open_clip:NAME:FILE`, `open_clip:NAME:TAG`, `open_clip:FOLDER` and `open_clip:hf-hub:ORG/NAME`. Only the last is fetched, and pickles
are read as tensors alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rsvlm.errors import ModelError, need
from rsvlm.model.encoder import Encoder, Patches
from rsvlm.model.others import clip_resnet, clip_vit, long_clip, open_mammut, reading, timm_towers
from rsvlm.model.others.towers import scale_of, short, tried
from rsvlm.model.weights import CLIP_MEAN, CLIP_STD
from rsvlm.records.files import file_sha256

logger = logging.getLogger(__name__)


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
    source, options, files = _open_clip_source(open_clip, name, weight)
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


class OpenClipEncoder(Encoder):
    """A model of open_clip behind the one face: with a vision tower of its own, or with one of timm's."""

    def __init__(self, name: str, model: nn.Module, transform: Callable, tokenizer: Callable, fingerprint: Callable[[], str]):
        visual, settings = model.visual, model.visual.preprocess_cfg
        trunk = getattr(visual, "trunk", None)
        towers = (clip_vit, clip_resnet) if trunk is None else (timm_towers,)
        pools_inside = trunk is None or "pool" not in dict(visual.head.named_children())
        self.reading = next((tower for tower in towers if pools_inside and tower.has_patches(trunk or visual)), None)
        side = None
        if self.reading is timm_towers:
            side = timm_towers.patch_size(timm_towers.dynamic(trunk))
        elif self.reading:
            side = visual.patch_size[0] if self.reading is clip_vit else clip_resnet.PATCH_PX
        by_class_token = self.reading is not None and self.reading.pools_by_class_token(trunk or visual)
        size = settings["size"]
        super().__init__(
            name,
            model,
            can=["texts"] + ["patches"] * (self.reading is not None) + ["last block"] * by_class_token,
            fingerprint=fingerprint,
            image_size=max(size) if isinstance(size, (tuple, list)) else size,
            patch_size=side,
            mean=settings["mean"],
            std=settings["std"],
            logit_scale=scale_of(model),
        )
        self.transform, self.tokenizer = transform, tokenizer

    @property
    def tower(self) -> nn.Module:
        """The vision tower: of timm, without the head that open_clip puts on it."""
        return getattr(self.model.visual, "trunk", self.model.visual)

    def preprocess(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Prepare images as `Encoder` says."""
        return torch.stack([self.transform(Image.fromarray(a)) for a in arrays]).to(self.device, self.dtype)

    def encode_images(self, batch: Tensor) -> Tensor:
        """Embed as `Encoder` says."""
        return self.model.encode_image(batch)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed as `Encoder` says."""
        return self.model.encode_text(self.tokenizer(list(texts)).to(self.device))

    def patches(self, batch: Tensor) -> Patches:
        """Split the pooling as `Encoder` says."""
        return self.reading.patches(self.tower, batch) if self.reading else super().patches(batch)

    def last_block(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the tower up to the attention of its last block, as `Encoder` says."""
        return self.reading.last_block(self.tower, batch) if "last block" in self.can else super().last_block(batch)

    def project(self, pooled: Tensor, rest: Tensor | None) -> Tensor:
        """Send pooled values through the rest of the tower as `Encoder` says."""
        vectors = self.reading.project(self.tower, pooled, rest)
        return (self.model.visual.head(vectors) if self.reading is timm_towers else vectors).float()


def _open_clip_source(open_clip, name: str, weight: str) -> tuple[str, dict, list[Path]]:
    """Find what is meant: open_clip's name of the model, options of its factory, and the files of weights."""
    if Path(name).is_dir():
        files = [path for path in sorted(Path(name).glob("*")) if path.suffix in (".safetensors", ".bin", ".pt", ".pth")]
        if not (Path(name) / "open_clip_config.json").is_file() or not files or weight:
            what = "takes no FILE" if weight else "holds no open_clip_config.json with weights beside it"
            raise ModelError(f"open_clip:{name}: the folder {what}")
        return f"local-dir:{name}", {}, files
    architecture = name.replace("/", "-")
    if (known := open_clip.get_model_config(architecture)) is None:
        near = [model for model in open_clip.list_models() if model.lower().startswith(architecture.lower()[:5])]
        raise ModelError(f"open_clip knows no model '{name}': it knows {', '.join((near or open_clip.list_models())[:8])}, …")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if Path(weight).is_file():
        return architecture, {"pretrained": weight} | _usual_preprocessing(open_clip, architecture, tags), [Path(weight)]
    if weight not in tags:
        what = f"there is no file '{weight}'" if weight else "no weights are named: they would be random"
        raise ModelError(f"open_clip:{name}: {what}. Add :FILE, a checkpoint on disk, or one of open_clip's tags: {tags}")
    facts = open_clip.get_pretrained_cfg(architecture, weight)
    if (path := _cached(facts)) is None:
        missing = f"open_clip:{name}:{weight}: its weights are not in the cache, and nothing is downloaded here"
        raise ModelError(f"{missing}: fetch {facts.get('hf_hub') or facts.get('url')}")
    if bool(known.get("quick_gelu")) > bool(facts.get("quick_gelu")):
        weights = f"open_clip:{name}:{weight}"
        raise ModelError(f"{weights}: they were trained with another activation: take a name without quickgelu")
    options = {"pretrained": str(path), "force_quick_gelu": bool(facts.get("quick_gelu"))}
    return architecture, options | _preprocessing(facts), [path]


def _preprocessing(facts: dict) -> dict:
    """Options of open_clip's factory for how the images of a tag are prepared, its usual ones where the tag says nothing."""
    return {
        "image_mean": tuple(facts.get("mean") or CLIP_MEAN),
        "image_std": tuple(facts.get("std") or CLIP_STD),
        "image_interpolation": facts.get("interpolation") or "bicubic",
        "image_resize_mode": facts.get("resize_mode") or "shortest",
    }


def _usual_preprocessing(open_clip, architecture: str, tags: list[str]) -> dict:
    """Options for a file of weights, which says nothing of it: as the architecture's own tags have them, where they agree."""
    usual = _preprocessing({})
    known = {tag: _preprocessing(open_clip.get_pretrained_cfg(architecture, tag)) for tag in tags}
    if known and all(options == known[tags[0]] for options in known.values()):
        return known[tags[0]]
    if others := [tag for tag, options in known.items() if options != usual]:
        logger.warning(
            "a file of %s does not say how its images are prepared: taken as CLIP's, not as those of %s; "
            "what an open_clip_config.json beside the weights says is followed with open_clip:FOLDER",
            architecture,
            ", ".join(others),
        )
    return usual


def _cached(facts: dict) -> Path | None:
    """Find the weights of one of open_clip's tags on disk, in the places where it keeps what it has downloaded."""
    from huggingface_hub import try_to_load_from_cache

    if hub := facts.get("hf_hub"):
        repository, _, file = hub.rpartition("/")
        files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        paths = (try_to_load_from_cache(repository, file) for file in files)
        if path := next((path for path in paths if isinstance(path, str)), None):
            return Path(path)
    path = Path("~/.cache/clip").expanduser() / Path(facts.get("url") or "-").name
    return path if path.is_file() else None
