"""A model by name, whoever made it: `open_encoder`."""

from __future__ import annotations

import importlib
from pathlib import Path

from rsvlm.errors import ModelError
from rsvlm.model import embed, weights
from rsvlm.model.device import resolve_device
from rsvlm.model.encoder import Encoder
from rsvlm.model.others import open_mammut

FAMILIES = {"open_clip": "open_clip", "hf": "hugging_face", "timm": "timm_towers"}
"""What stands before the colon, and the file of this folder whose `open_model` reads what stands behind it."""

FORMS = (
    "FOLDER, open_clip:NAME:FILE, open_clip:NAME:TAG, open_clip:FOLDER, open_clip:hf-hub:ORG/NAME, hf:FOLDER, hf:ORG/NAME, "
    "timm:NAME or timm:NAME:FILE"
)


def open_encoder(where: str | Path, device: str = "auto") -> Encoder:
    """Open a model, whoever made it.

    Args:
        where: One of
            `FOLDER`: of this package, or an openMaMMUT (see `weights.load`).
            `open_clip:NAME:FILE`: an architecture that open_clip knows, and a checkpoint: a state dict, bare or as its training
            writes it. The file does not say which activation it was trained with, the name does: `ViT-B-32-quickgelu` or
            `ViT-B-32`. Images are prepared as those of open_clip's own weights of that name; where these differ, as CLIP's,
            with a warning. A text tower of 248 positions (LongCLIP, FarSLIP) is told by its keys.
            `open_clip:NAME:TAG`: weights that open_clip names so and that are in its cache; with the tag's activation.
            `open_clip:FOLDER`: with `open_clip_config.json` and weights.
            `open_clip:hf-hub:ORG/NAME[@REVISION]`: such a folder of a hub, fetched unless it is in the cache.
            `hf:FOLDER` or `hf:ORG/NAME[@REVISION]`: a CLIP, SigLIP or SigLIP 2 saved by transformers, with its tokenizer and image
            processor; the second is fetched unless it is in the cache.
            `timm:NAME:FILE` or `timm:NAME[.TAG]`: a vision tower of timm, with weights of a file; of an installed package (for
            `tf_efficientnet_lite0`, the demo's); or, fetched unless they are in the cache, those that timm names. It reads no
            texts: queries are pictures.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        ModelError: Another form; or the model is missing, broken, or of another kind. `embeddings:FILE` is no model.
        MissingExtraError: open_clip is not installed.
    """
    form, _, rest = str(where).partition(":")
    target = resolve_device(device)
    if form in FAMILIES and rest:
        return importlib.import_module(f"{__package__}.{FAMILIES[form]}").open_model(rest, target)
    if form == "embeddings":
        raise ModelError(f"{where} holds vectors and no model to embed anything with: expected {FORMS}")
    if not Path(where).is_dir():
        raise ModelError(f"there is no model folder {where}: expected {FORMS}")
    if open_mammut.is_folder(Path(where)):
        return open_mammut.open_folder(Path(where), target)
    return embed.MammutEncoder(weights.load(where, target), Path(where))
