"""openMaMMUT's weights by our names, and ours by its: open_clip's `in_proj` holds query, key and value in one.

Source: LAION, open_clip_mammut; open_clip's main branch (`mammut_*`).
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from rsvlm.model import weights
from rsvlm.model.mammut import Mammut, MammutConfig

_TOPS = {
    "vision.cls_token": "visual.class_embedding",
    "vision.pos_embed": "visual.positional_embedding",
    "vision.patch_embed.proj.weight": "visual.conv1.weight",
    "vision.norm_pre.": "visual.ln_pre.",
    "vision.norm.": "visual.ln_post.",
    "image_projection.weight": "visual.proj",
    "image_map.weight": "map_viz2txt_kv",
    "token_embedding.weight": "text.token_embedding.weight",
    "position_embedding.weight": "text.positional_embedding",
    "norm.": "text.ln_final.",
    "log_scale": "logit_scale",
}
_TIMM = {"attn": "attn", "mlp": "mlp", "norm1": "ln_1", "norm2": "ln_2"}
_DECODER = {"self_attention": "attn", "norm_self": "ln_1", "mlp": "mlp", "norm_mlp": "ln_2"}
_CROSS = {
    "cross_attention": "attn",
    "norm_cross": "ln_1",
    "norm_image": "ln_1_kv",
    "cross_mlp": "mlp",
    "norm_cross_mlp": "ln_2",
}
_ATTENTION = {"qkv": "in_proj_", "query": "in_proj_", "key_value": "in_proj_", "proj": "out_proj.", "out": "out_proj."}
_MLP = {"fc1": "c_fc.", "fc2": "c_proj.", "0": "c_fc.", "2": "c_proj."}


def their_name(name: str, cross_every: int, head: str) -> str:
    """Translate a key of ours into open_clip's, whose `in_proj` holds query, key and value in one."""
    if match := re.fullmatch(r"(vision\.blocks|layers)\.(\d+)\.(\w+)\.(?:(\w+)\.)?(\w+)", name):
        tower, index, part, leaf, kind = match.groups()
        if part in _CROSS:
            place = f"text.cross_attn.{int(index) // cross_every}.{_CROSS[part]}"
        elif tower == "layers":
            place = f"text.resblocks.{index}.{_DECODER[part]}"
        else:
            place = f"visual.transformer.resblocks.{index}.{_TIMM[part]}"
        return f"{place}.{(_ATTENTION | _MLP).get(leaf, '')}{kind}"
    if name == "vocabulary.weight":
        return head
    return next((their + name[len(our) :] for our, their in _TOPS.items() if name.startswith(our)), name)


def reshaped(name: str, source: str, value: Tensor, shape: torch.Size) -> Tensor:
    """Cut or turn a tensor of open_clip into the shape that it has here; return it as it is where it does not fit."""
    if ".query." in name:
        return value[: shape[0]]
    if ".key_value." in name:
        return value[shape[0] // 2 :]
    if source in ("visual.proj", "map_viz2txt_kv", "text.text_projection", "text.lm_head"):
        return value.T
    if value.numel() == shape.numel() and value.ndim <= 2 and not name.endswith((".weight", ".bias")):
        return value.reshape(shape)  # class token, positions and scale differ by a leading 1
    return value


def built(config: MammutConfig, theirs: dict[str, Tensor], path: Path) -> Mammut:
    """Build our model from weights by open_clip's keys; every key that does not fit is listed."""
    theirs = theirs | {"logit_bias": theirs.get("logit_bias", torch.zeros(())).squeeze()}
    head = "text.lm_head" if "text.lm_head" in theirs else "text.text_projection"
    return weights.assemble(config, theirs, path, lambda name: their_name(name, config.cross_attention_every, head), reshaped)


def state_of(model: Mammut) -> dict[str, Tensor]:
    """Return a model's weights by open_clip's keys."""
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        source = their_name(name, model.config.cross_attention_every, "text.text_projection")
        value = value.detach().cpu()
        if source in ("visual.proj", "map_viz2txt_kv", "text.text_projection"):
            value = value.T
        elif source in ("visual.class_embedding", "visual.positional_embedding"):
            value = value.squeeze(0)
        state[source] = torch.cat([state[source], value]) if ".key_value." in name else value
    state["visual.class_embedding"] = state["visual.class_embedding"].flatten()
    return state
