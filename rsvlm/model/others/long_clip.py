"""LongCLIP's text towers, as FarSLIP and LRSCLIP have them: 248 positions in two tables, of which the first 20 are kept as they were.

    positions 0…19    from `positional_embedding`, CLIP's own, stretched to 248
    positions 20…247  from `positional_embedding_res`, which was trained on

Source: Zhang et al., Long-CLIP (arXiv 2403.15378), section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from rsvlm.errors import ModelError
from rsvlm.model.others import reading

KEPT = 20
SECOND = "positional_embedding_res"


def is_long(weight: str) -> bool:
    """Say whether a checkpoint has a second table of positions."""
    return bool(weight) and Path(weight).is_file() and any(key.endswith(SECOND) for key in reading.read_state(weight))


def create(open_clip, architecture: str, options: dict, device: torch.device) -> tuple[nn.Module, Callable, Callable]:
    """Build open_clip's model of this architecture with as many positions as the checkpoint has; and its preprocessing and tokenizer.

    Raises:
        ModelError: The checkpoint does not fit.
    """
    path = options.pop("pretrained")
    state = {key.removeprefix("text."): value for key, value in reading.read_state(path).items()}
    first, second = state.pop("positional_embedding"), state.pop(SECOND)
    if first.shape != second.shape:
        raise ModelError(
            f"{path}: its tables of positions are {tuple(first.shape)} and {tuple(second.shape)}: expected two alike"
        )
    state["positional_embedding"] = torch.cat([first[:KEPT], second[KEPT:]])
    text = open_clip.get_model_config(architecture)["text_cfg"] | {"context_length": len(first)}
    if set(text) & {"hf_model_name", "hf_tokenizer_name"}:
        raise ModelError(f"{architecture} has a text tower of transformers: expected CLIP's own, with {len(first)} positions")
    model, _, preprocess = open_clip.create_model_and_transforms(architecture, device=device, text_cfg=text, **options)
    buffers = {key: value for key, value in model.state_dict().items() if key not in state and "mask" in key}
    reading.fill(model, state | buffers, path, optional=("mask1", "mask2", "input_resolution", "context_length", "vocab_size"))
    return model, preprocess, open_clip.get_tokenizer(architecture, context_length=len(first))
