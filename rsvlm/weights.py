"""Weights in and out: model folders of our own, openMaMMUT checkpoints, timm towers, ONNX."""

from __future__ import annotations

from pathlib import Path

import torch

from rsvlm import tokenizer as tokenizers
from rsvlm.errors import ModelError
from rsvlm.mammut import Mammut


def load(folder: Path | str, device: str | torch.device = "cpu") -> Mammut:
    """Load a model folder in eval mode, its tokenizer attached as `model.tokenizer`.

    Only safetensors and JSON are read: nothing is unpickled, and no code from the folder is run.

    Args:
        folder: A folder written by `save_pretrained` with `config.json`, `model.safetensors` and `tokenizer.json`.
        device: Where the weights go.

    Raises:
        ModelError: A file is missing, or a key of the weights is missing, extra or of another shape; the keys are listed.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} is missing: give the folder that `rsvlm train` wrote as model/")
    try:
        model, report = Mammut.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:
        raise ModelError(f"{folder} cannot be read as a MaMMUT model: {error}") from error
    if wrong := [f"{kind}: {sorted(map(str, keys))[:5]}" for kind, keys in report.items() if keys]:
        raise ModelError(f"the weights in {folder} do not fit its config.json: {'; '.join(wrong)}")
    model.tokenizer = tokenizers.load(folder)
    if len(model.tokenizer) > model.config.vocab_size:
        raise ModelError(
            f"{folder}: the tokenizer has {len(model.tokenizer)} entries, the model {model.config.vocab_size}; "
            "take the tokenizer that was saved with this model"
        )
    return model.eval().to(device)
