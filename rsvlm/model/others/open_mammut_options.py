"""openMaMMUT's options read: from a config in open_clip's words, or, for a checkpoint that has none, from the shapes of its tensors.

What open_clip calls `avg_all` over pads, and the class token in the mean, is followed.

Source: LAION, open_clip_mammut and scaling-laws-for-comparison (arXiv 2506.04598); open_clip's main branch (`mammut_*`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from torch import Tensor

from rsvlm.errors import ModelError
from rsvlm.model.mammut import MammutConfig
from rsvlm.model.preprocessing import FILTERS, RESIZES
from rsvlm.model.weights import CLIP_MEAN, CLIP_STD


def of_shapes(state: dict[str, Tensor], head_width: int) -> dict:
    """Read options in open_clip's words off the shapes of a checkpoint; KeyError names what is not there."""

    def count(pattern: str) -> int:
        return 1 + max((int(m[1]) for key in state if (m := re.match(pattern, key))), default=-1)

    width, _, side, _ = state["visual.conv1.weight"].shape
    vocabulary, text_width = state["text.token_embedding.weight"].shape
    layers, crossings = count(r"text\.resblocks\.(\d+)\."), count(r"text\.cross_attn\.(\d+)\.")
    if not crossings:
        raise KeyError("text.cross_attn")
    ratio = -(-layers // crossings)
    vision = {
        "image_size": side * math.isqrt(len(state["visual.positional_embedding"]) - 1),
        "patch_size": side,
        "layers": count(r"visual\.transformer\.resblocks\.(\d+)\."),
        "width": width,
        "head_width": head_width,
        "pool_type": "avg_all",
        "final_ln_after_pool": True,
    }
    text = {
        "context_length": len(state["text.positional_embedding"]),
        "vocab_size": vocabulary,
        "width": text_width,
        "heads": text_width // 64,
        "layers": layers,
        "cross_attn_ratio": ratio,
        "has_mlp": "text.resblocks.0.mlp.c_fc.weight" in state,
    }
    return {"embed_dim": state["visual.proj"].shape[1], "vision_cfg": vision, "text_cfg": text}


# Options of open_clip that change nothing in what is computed here, or that only say what the keys of the weights say too.
_HARMLESS = """embed_dim custom_text nonscalar_logit_scale init_logit_scale init_logit_bias output_tokens does_full_decoding
dim_head patch_dropout pos_embed_type attn_pooler_queries attn_pooler_heads n_queries
hf_tokenizer_name""".split()


def translated(options: dict, preprocess: dict) -> MammutConfig:
    """Translate open_clip's options; one that is not known, and is not plainly off, is an error.

    The text embedding has two forms. Released openMaMMUT weights (`pool_type` avg_all without `use_pad_mask`, the defaults beside
    `text_cfg`) average over all positions and attend to pads; newer ones (the defaults of `multimodal_cfg`) mask pads in both.
    """
    # what the widths and the poolings are
    options = dict(options)
    vision, pad = dict(options.pop("vision_cfg")), options.pop("pad_id", 0)
    newer = options.pop("multimodal_cfg", None)
    text = dict(newer or options.pop("text_cfg"))
    width, vision_width, vocabulary = text.pop("width", 512), vision.pop("width", 768), text.pop("vocab_size", 49408)
    sides = {name: _side(name, vision.pop(name, usual)) for name, usual in (("image_size", 224), ("patch_size", 16))}
    preprocess = {
        name: value for name, value in preprocess.items() if value is not None and name != "size"
    }  # it follows the model
    way, interpolation = preprocess.pop("resize_mode", "shortest"), preprocess.pop("interpolation", "bicubic")
    interpolation = "bicubic" if interpolation == "random" else interpolation  # that is of the training alone
    fill = preprocess.pop("fill_color", 0)
    older = vision.pop("global_average_pool", False)  # before pool_type there was this, with the norm behind it
    pooling = vision.pop("pool_type", "avg_all" if older else "tok")
    averaged = text.pop("pool_type", "avg" if newer else "avg_all"), text.pop("use_pad_mask", bool(newer))
    wrong = {
        f"pool_type '{pooling}' of vision_cfg (avg and avg_all are)": pooling not in ("avg", "avg_all"),
        f"pool_type and use_pad_mask {averaged} of the text": averaged not in (("avg_all", False), ("avg", True)),
        f"embed_dim {options['embed_dim']} beside a decoder of width {width}": options["embed_dim"] != width,
        "an mlp_ratio other than 4 in the decoder": text.pop("mlp_ratio", 4) != 4,
        f"resize_mode '{way}' of preprocess_cfg ({', '.join(RESIZES)} are)": way not in RESIZES,
        f"interpolation '{interpolation}' of preprocess_cfg ({', '.join(FILTERS)} are)": interpolation not in FILTERS,
        f"fill_color {fill} of preprocess_cfg (0 is)": way == "longest" and fill != 0,
    }
    if any(wrong.values()):
        raise ModelError(f"not known here, so not read: {'; '.join(problem for problem, is_so in wrong.items() if is_so)}")

    # every option is taken out as it is translated, so that what is left is not known
    config = MammutConfig(
        **sides,
        vision_width=vision_width,
        vision_layers=vision.pop("layers", 12),
        vision_heads=vision_width // vision.pop("head_width", 64),
        vision_mlp_width=int(vision_width * vision.pop("mlp_ratio", 4)),
        vision_class_token=True,
        class_token_read=pooling == "avg_all",
        vision_pre_norm=True,
        vision_norm_eps=1e-5,
        norm_after_pooling=vision.pop("final_ln_after_pool", older),
        image_projection=True,
        text_width=width,
        text_layers=text.pop("layers", 12),
        text_heads=text.pop("heads", 8),
        cross_attention_every=text.pop("cross_attn_ratio", 1),
        cross_layer_mlp="both" if text.pop("has_mlp", True) else "caption",
        image_map_bias=False,
        pads_are_text=averaged[0] == "avg_all",
        vocab_size=vocabulary,
        context_length=text.pop("context_length", 77),
        image_mean=_three(preprocess.pop("mean", CLIP_MEAN)),
        image_std=_three(preprocess.pop("std", CLIP_STD)),
        image_resize=way,
        image_interpolation=interpolation,
        pad_token_id=text.pop("pad_id", pad),
        bos_token_id=text.pop("bos_id", vocabulary - 2),  # CLIP's vocabulary ends with these two
        eos_token_id=text.pop("eos_id", vocabulary - 1),
    )
    left = {**options, **vision, **text, **preprocess}
    off = (None, False, "none", "classic", "RGB", {}, {"clean": "whitespace"})  # blanks mean nothing to the tokenizer
    if unknown := {name: value for name, value in left.items() if name not in _HARMLESS and value not in off}:
        raise ModelError(f"not known here, so not read: the open_clip options {unknown}")
    return config


def _side(name: str, value: int | Sequence[int]) -> int:
    """Return the side of a square that is given as one number or as height and width."""
    height, width = value if isinstance(value, (list, tuple)) else (value, value)
    if height != width:
        raise ModelError(f"{name} {list(value)} of vision_cfg is no square, and models are read here that see squares alone")
    return int(height)


def _three(value: float | Sequence[float]) -> tuple[float, ...]:
    """Return a number for each channel, where there may be one for all."""
    return (value,) * 3 if isinstance(value, (int, float)) else tuple(value)
