"""openMaMMUT: a CLIP tower, and a decoder whose cross-attentions sit beside its layers. Folders of open_clip, and single checkpoints.

LAION's checkpoints are `.pt` files without options: `open_clip:mammut_ViT-S-32:FILE` reads the options off the shapes of the
tensors. How options are read is in `open_mammut_options`, how tensors are called in `open_mammut_keys`.

Source: LAION, open_clip_mammut and scaling-laws-for-comparison (arXiv 2506.04598); open_clip's main branch (`mammut_*`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rsvlm.errors import ModelError, need
from rsvlm.model import embed, weights
from rsvlm.model.encoder import Encoder
from rsvlm.model.mammut import Mammut
from rsvlm.model.others import open_mammut_keys, open_mammut_options, reading
from rsvlm.model.others.towers import tried
from rsvlm.model.weights import OPEN_CLIP_CONFIGS, OPEN_CLIP_WEIGHTS
from rsvlm.records.files import file_sha256

CLIP_WORDS = 49_408
"""Entries of CLIP's vocabulary."""


def open_checkpoint(name: str, file: str, device: torch.device) -> Encoder:
    """Open one of LAION's checkpoints by the name of its architecture, `mammut_ViT-S-32` or the like.

    Raises:
        ModelError: The file is missing, or its shapes are not those of the name.
    """
    if not (match := re.fullmatch(r"mammut_ViT-(S|M|B|L|H)-(14|16|32)(-\d+)?", name)):
        raise ModelError(f"'{name}' is no architecture of openMaMMUT: expected mammut_ViT-S-32 or the like")
    state = reading.read_state(file)
    try:
        options = open_mammut_options.of_shapes(state, 80 if match[1] == "H" else 64)
    except (KeyError, ValueError) as error:
        raise ModelError(f"{file} is no openMaMMUT: it lacks {error}") from error
    if options["vision_cfg"]["patch_size"] != int(match[2]):
        raise ModelError(f"{file} has patches of {options['vision_cfg']['patch_size']} pixels, and is no {name}")
    model = open_mammut_keys.built(open_mammut_options.translated(options, {}), state, Path(file)).eval().to(device)
    encoder = _Encoder(model)
    encoder.name, encoder._fingerprint = f"open_clip:{name}:{Path(file).name}", lambda: file_sha256(Path(file))
    return tried(encoder)


def is_folder(folder: Path) -> bool:
    """Say whether a folder in open_clip's format holds a MaMMUT, whose decoder crosses to the image."""
    found = read_config(folder) if folder.is_dir() else None
    return found is not None and ("multimodal_cfg" in found[0] or "cross_attn_ratio" in found[0].get("text_cfg", {}))


def open_folder(folder: Path, device: torch.device) -> Encoder:
    """Open a folder as `weights.load` does; without a tokenizer.json, texts are read by open_clip's own, CLIP's.

    Raises:
        ModelError: As `weights.load`; or there is no tokenizer, and the vocabulary is not CLIP's.
    """
    model = weights.load(folder, device)
    if model.tokenizer is not None or model.config.vocab_size != CLIP_WORDS:
        return embed.MammutEncoder(model, folder)
    return tried(_Encoder(model, folder))


class _Encoder(embed.MammutEncoder):
    """An openMaMMUT that reads by open_clip's own tokenizer, for its checkpoint has none."""

    def __init__(self, model: Mammut, folder: Path | None = None):
        super().__init__(model, folder)
        open_clip = need("open_clip", "models")
        self.can = self.can - {"captions"}
        self.tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=model.config.context_length)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed as `Encoder` says."""
        return self.model.encode_text(self.tokenizer(list(texts)).to(self.device), normalize=False)


def load(folder: Path, options: dict, preprocess: dict) -> Mammut:
    """Read an openMaMMUT: a CLIP tower, and a decoder whose cross-attentions sit beside its layers, each with an MLP."""
    path = next((folder / name for name in OPEN_CLIP_WEIGHTS if (folder / name).is_file()), folder / OPEN_CLIP_WEIGHTS[0])
    theirs = weights.in_float32(weights.read(path))
    try:
        config = open_mammut_options.translated(options, preprocess)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"the open_clip config in {folder} cannot be read: {type(error).__name__}: {error}") from error
    return open_mammut_keys.built(config, theirs, path)


def read_config(folder: Path) -> tuple[dict, dict] | None:
    """Model and preprocessing options of an open_clip folder; None for any other folder."""
    for path in (folder / name for name in OPEN_CLIP_CONFIGS if (folder / name).is_file()):
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{path} cannot be read as JSON: {error}") from error
        options = config.get("model_cfg", config) if isinstance(config, dict) else {}
        if "vision_cfg" in options:
            return options, config.get("preprocess_cfg") or {}
    return None


def follow_tokenizer(model: Mammut) -> None:
    """Make a CLIP tokenizer pad as open_clip does, with id `pad_token_id`, and take the ids of start and end from it."""
    tokenizer, config = model.tokenizer, model.config
    tokenizer.model_max_length, tokenizer.padding_side = config.context_length, "right"
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
