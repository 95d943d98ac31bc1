"""A model by name, whoever made it: `open_encoder`."""

from __future__ import annotations

from pathlib import Path

from rsvlm.errors import ModelError
from rsvlm.model import embed, weights
from rsvlm.model.device import resolve_device
from rsvlm.model.embed import Encoder
from rsvlm.model.others.hugging_face import hugging_face_encoder
from rsvlm.model.others.open_clip import open_clip_encoder

FORMS = "FOLDER, open_clip:NAME:FILE, open_clip:NAME:TAG, open_clip:FOLDER or hf:FOLDER"


def open_encoder(where: str | Path, device: str = "auto") -> Encoder:
    """Open a model for evaluation.

    Args:
        where: One of
            `FOLDER`: of this package, or an openMaMMUT (see `weights.load`).
            `open_clip:NAME:FILE`: an architecture that open_clip knows, and a checkpoint: a state dict, bare or as its training
            writes it. The file does not say which activation it was trained with, the name does: `ViT-B-32-quickgelu` or
            `ViT-B-32`. Images are prepared as those of open_clip's own weights of that name; where these differ, as CLIP's,
            with a warning.
            `open_clip:NAME:TAG`: weights that open_clip names so and that are in its cache; with the tag's activation.
            `open_clip:FOLDER`: with `open_clip_config.json` and weights.
            `hf:FOLDER`: a CLIP or SigLIP saved by transformers, with its tokenizer and image processor.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        ModelError: Another form; or the model is missing, broken, or of another kind. `embeddings:FILE` is no model.
        MissingExtraError: open_clip is not installed.
    """
    form, _, rest = str(where).partition(":")
    target = resolve_device(device)
    if form == "open_clip" and rest:
        name, _, weight = rest.partition(":")
        return open_clip_encoder(name, weight, target)
    if form == "hf" and rest:
        return hugging_face_encoder(Path(rest), target)
    if form == "embeddings":
        raise ModelError(f"{where} holds vectors and no model to embed anything with: expected {FORMS}")
    if not Path(where).is_dir():
        raise ModelError(f"there is no model folder {where}: expected {FORMS}")
    return embed.MammutEncoder(weights.load(where, target), Path(where))
