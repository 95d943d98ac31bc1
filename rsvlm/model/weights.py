"""Weights in: model folders of our own and of open_clip, vision towers; and a face of open_clip's shape.

Only safetensors and JSON are ever read: nothing is unpickled, and no code from a folder is run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn

from rsvlm.errors import ModelError
from rsvlm.model import embed, tokenizer as tokenizers
from rsvlm.model.mammut import Mammut, MammutConfig

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""How CLIP's images are normalised; open_clip folders that say nothing else mean this."""

OPEN_CLIP_CONFIGS = ("open_clip_config.json", "config.json")
OPEN_CLIP_WEIGHTS = ("weights.safetensors", "open_clip_model.safetensors", "model.safetensors")


def load(folder: Path | str, device: str | torch.device = "cpu") -> Mammut:
    """Load a model folder in eval mode, its tokenizer attached as `model.tokenizer`.

    Args:
        folder: Either what `save_pretrained` wrote: `config.json`, `model.safetensors` and `tokenizer.json`. Or an openMaMMUT in
            open_clip's format: a config with `embed_dim`, `vision_cfg` and `text_cfg` (or `multimodal_cfg`) beside one of
            `OPEN_CLIP_WEIGHTS`; where such a folder holds no `tokenizer.json`, `model.tokenizer` is None.
        device: Device of the weights.

    Raises:
        ModelError: A file is missing or a pickle, or a key of the weights is missing, extra or of another shape; they are listed.
    """
    from rsvlm.model.others import open_mammut

    folder = Path(folder)
    foreign = open_mammut.read_config(folder)
    model = _load_own(folder) if foreign is None else open_mammut.load(folder, *foreign)
    if foreign is None or (folder / "tokenizer.json").is_file():
        model.tokenizer = tokenizers.load(folder)
        if len(model.tokenizer) > model.config.vocab_size:
            sizes = f"the tokenizer has {len(model.tokenizer)} entries, the model {model.config.vocab_size}"
            raise ModelError(f"{folder}: {sizes}; take the tokenizer that was saved with this model")
        if foreign is not None:
            open_mammut.follow_tokenizer(model)
    return model.eval().to(device)


def load_vision(model: Mammut, path: Path | str, ignore: Sequence[str] = ("head.", "attn_pool.")) -> Mammut:
    """Replace the vision tower's weights by those of a timm ViT or SigLIP, in place; return the model.

    The position grid and the patch projection are resampled to this model's image and patch size (timm's own functions). Width,
    depth and the switches must fit: for a CLIP tower `vision_class_token=True, vision_pre_norm=True, vision_norm_eps=1e-5`, for a
    plain ViT with its class token `vision_class_token=True`, for a SigLIP none. The tower is run with the exact GELU.

    Args:
        model: Model of the tower; unchanged when anything fails.
        path: File of safetensors with a timm state dict, or a folder with `model.safetensors`.
        ignore: Beginnings of keys that may be left out: by default the classifier and SigLIP's pooling head. A tower with a class
            token fits a model without one if `cls_token` is named here, too.

    Raises:
        ModelError: A key is missing, extra or of another shape; they are listed, and nothing was changed.
    """
    path = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    return put_vision(model, read(path), path, ignore)


def put_vision(
    model: Mammut, theirs: dict[str, Tensor], path: Path, ignore: Sequence[str] = ("head.", "attn_pool.")
) -> Mammut:
    """Replace the vision tower's weights as `load_vision` does, by tensors that were read from `path`; return the model.

    A network of timm as the tower takes its own weights, of which a classifier is left out, or those of EfficientNet-Lite's port.
    """
    from rsvlm.model.others import efficientnet_lite, timm_towers

    if model.config.vision_tower:
        ours = model.vision.trunk.state_dict()
        if efficientnet_lite.is_port(theirs):
            theirs = efficientnet_lite.renamed(theirs, ours, path)
        theirs = {key: value for key, value in theirs.items() if key in ours or not key.startswith(timm_towers.CLASSIFIERS)}
        check(path, {key: (value.shape, theirs.get(key)) for key, value in ours.items()}, set(theirs) - set(ours))
        model.vision.trunk.load_state_dict(theirs, assign=model.device.type == "meta")
        return model
    theirs = {key: value for key, value in theirs.items() if not key.startswith(tuple(ignore))}
    if model.config.norm_after_pooling:  # timm calls a norm that comes after the pooling by another name
        theirs = {re.sub("^fc_norm", "norm", key): value for key, value in theirs.items()}
    side, prefix = model.config.patch_size, int(model.config.vision_class_token)
    grid = model.config.image_size // side
    if (patch := theirs.get("patch_embed.proj.weight")) is not None and patch.ndim == 4:
        theirs["patch_embed.proj.weight"] = resample_patch_embed(patch.float(), [side, side])
    if (positions := theirs.get("pos_embed")) is not None and positions.ndim == 3:
        extra = positions.shape[1] - math.isqrt(positions.shape[1]) ** 2  # a class token has a position in front, or none
        grid_only = resample_abs_pos_embed(positions[:, extra:].float(), [grid, grid], num_prefix_tokens=0)
        front = positions[:, :extra] if extra else positions.new_zeros(1, prefix, positions.shape[2])
        theirs["pos_embed"] = torch.cat([front[:, :prefix].float(), grid_only], dim=1)
    ours = model.vision.state_dict()
    check(path, {key: (value.shape, theirs.get(key)) for key, value in ours.items()}, set(theirs) - set(ours))
    model.vision.load_state_dict(theirs, assign=model.device.type == "meta")  # there nothing can be copied
    return model


class OpenClipFace(nn.Module):
    """A model behind the names and defaults of open_clip: embeddings are not normalised unless asked for.

    `face, face.preprocess, face.tokenizer` are what evaluators of open_clip's models ask for.
    """

    def __init__(self, model: Mammut):
        super().__init__()
        self.model = model

    @property
    def logit_scale(self) -> Tensor:
        """The logarithm of the scale, as open_clip keeps it: its callers take `.exp()`."""
        return self.model.log_scale

    @property
    def logit_bias(self) -> Tensor:
        """What is added to the scaled cosines."""
        return self.model.logit_bias

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """Embed (B, 3, H, W) preprocessed images as (B, E)."""
        return self.model.encode_image(images, normalize)

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """Embed (B, T) tokens as (B, E)."""
        return self.model.encode_text(tokens, normalize)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Turn a picture of any size and mode into (3, S, S) float32, as everywhere in this package."""
        return embed.to_batch(self.model, [np.asarray(image.convert("RGB"))])[0].cpu()

    def tokenizer(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Encode texts as (B, T) int64, padded and cut to `context_length`, by default the model's."""
        tokens = torch.from_numpy(tokenizers.encode(self.model.tokenizer, [texts] if isinstance(texts, str) else texts))
        config = self.model.config
        missing = (context_length or config.context_length) - tokens.shape[1]
        return nn.functional.pad(tokens, (0, missing), value=config.pad_token_id)


def _load_own(folder: Path) -> Mammut:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder / 'config.json'} is missing: give the folder that `rsvlm train` wrote as model/")
    theirs = in_float32(read(path := folder / "model.safetensors"))
    return assemble(MammutConfig.from_pretrained(folder, local_files_only=True), theirs, path)


def assemble(
    config: MammutConfig, theirs: dict[str, Tensor], path: Path, translate: Callable = str, reshape: Callable | None = None
) -> Mammut:
    """Build a model from weights whose keys are translations of ours; `reshape` turns a tensor of another name into our shape."""
    with torch.device("meta"):
        model = Mammut(config)
    sources = {name: translate(name) for name in model.state_dict()}
    ours, pairs = {}, {}
    for name, parameter in model.state_dict().items():
        source, value = sources[name], theirs.get(sources[name])
        if value is not None and source != name:
            value = reshape(name, source, value, parameter.shape)
        ours[name] = value
        pairs[f"{source} ({name})" if source != name else name] = (parameter.shape, value)
    check(path, pairs, set(theirs) - set(sources.values()))
    model.load_state_dict({name: value.contiguous() for name, value in ours.items()}, assign=True)
    return model


def check(path: Path, pairs: dict[str, tuple[torch.Size, Tensor | None]], extra: set[str]) -> None:
    """Raise unless every key has a value of its shape and no value is left over."""
    missing = [key for key, (_, value) in pairs.items() if value is None]
    shapes = [(key, value.shape, shape) for key, (shape, value) in pairs.items() if value is not None]
    other = [f"{key} {tuple(theirs)} for {tuple(ours)}" for key, theirs, ours in shapes if theirs != ours]
    wrong = {"missing": missing, "extra": sorted(extra), "of another shape": other}
    if any(wrong.values()):
        lists = "; ".join(f"{kind}: {', '.join(keys[:20])}{' …' * (len(keys) > 20)}" for kind, keys in wrong.items() if keys)
        raise ModelError(f"the weights in {path} do not fit the model ({sum(map(len, wrong.values()))} keys) - {lists}")


def read(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; nothing else is opened."""
    if not path.is_file() or path.suffix != ".safetensors":
        advice = ": weights come as safetensors"
        if pickles := [file.name for file in path.parent.glob("*") if file.suffix in (".bin", ".pt", ".pth", ".ckpt")]:
            advice = f"; {', '.join(pickles)} may run code when opened and is not read: convert it to safetensors"
        raise ModelError(f"{path} {'is not a safetensors file' if path.is_file() else 'is missing'}{advice}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from error


def in_float32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights that were saved in half precision, for what they meet here is float32."""
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
