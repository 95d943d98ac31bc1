"""openMaMMUT: a CLIP tower, and a decoder whose cross-attentions sit beside its layers. Folders of open_clip, and single checkpoints.

LAION's checkpoints are `.pt` files without options: `open_clip:mammut_ViT-S-32:FILE` reads the options off the shapes of the
tensors. What open_clip calls `avg_all` over pads, and the class token in the mean, is followed.

Source: LAION, open_clip_mammut and scaling-laws-for-comparison (arXiv 2506.04598); open_clip's main branch (`mammut_*`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rsvlm.errors import ModelError, need
from rsvlm.model import embed, weights
from rsvlm.model.encoder import Encoder
from rsvlm.model.mammut import Mammut, MammutConfig
from rsvlm.model.others import reading
from rsvlm.model.others.towers import tried
from rsvlm.model.preprocessing import FILTERS, RESIZES
from rsvlm.model.weights import CLIP_MEAN, CLIP_STD, OPEN_CLIP_CONFIGS, OPEN_CLIP_WEIGHTS
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
        options = _options_of_shapes(state, 80 if match[1] == "H" else 64)
    except (KeyError, ValueError) as error:
        raise ModelError(f"{file} is no openMaMMUT: it lacks {error}") from error
    if options["vision_cfg"]["patch_size"] != int(match[2]):
        raise ModelError(f"{file} has patches of {options['vision_cfg']['patch_size']} pixels, and is no {name}")
    model = _built(_translated(options, {}), state, Path(file)).eval().to(device)
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


def _options_of_shapes(state: dict[str, Tensor], head_width: int) -> dict:
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


def load(folder: Path, options: dict, preprocess: dict) -> Mammut:
    """Read an openMaMMUT: a CLIP tower, and a decoder whose cross-attentions sit beside its layers, each with an MLP."""
    path = next((folder / name for name in OPEN_CLIP_WEIGHTS if (folder / name).is_file()), folder / OPEN_CLIP_WEIGHTS[0])
    theirs = weights.in_float32(weights.read(path))
    try:
        config = _translated(options, preprocess)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"the open_clip config in {folder} cannot be read: {type(error).__name__}: {error}") from error
    return _built(config, theirs, path)


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


# Options of open_clip that change nothing in what is computed here, or that only say what the keys of the weights say too.
_HARMLESS = """embed_dim custom_text nonscalar_logit_scale init_logit_scale init_logit_bias output_tokens does_full_decoding
dim_head patch_dropout pos_embed_type attn_pooler_queries attn_pooler_heads n_queries
hf_tokenizer_name""".split()


def _translated(options: dict, preprocess: dict) -> MammutConfig:
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


def _open_clip_name(name: str, cross_every: int, head: str) -> str:
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


def _reshaped(name: str, source: str, value: Tensor, shape: torch.Size) -> Tensor:
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


def _built(config: MammutConfig, theirs: dict[str, Tensor], path: Path) -> Mammut:
    theirs = theirs | {"logit_bias": theirs.get("logit_bias", torch.zeros(())).squeeze()}
    head = "text.lm_head" if "text.lm_head" in theirs else "text.text_projection"
    return weights.assemble(
        config, theirs, path, lambda name: _open_clip_name(name, config.cross_attention_every, head), _reshaped
    )


def follow_tokenizer(model: Mammut) -> None:
    """Make a CLIP tokenizer pad as open_clip does, with id `pad_token_id`, and take the ids of start and end from it."""
    tokenizer, config = model.tokenizer, model.config
    tokenizer.model_max_length, tokenizer.padding_side = config.context_length, "right"
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id


def in_their_words(model: Mammut) -> tuple[dict, dict, dict[str, Tensor]]:
    """Say a model in open_clip's words: options of the model and of its preprocessing, and its weights by open_clip's keys.

    Raises:
        ModelError: It has a part that open_clip's MaMMUT has not; all of them are listed.
    """
    config = model.config
    wrong = {
        "a convolutional tower": bool(config.vision_stages or config.vision_tower),
        "attention pooling of the image": config.image_pooling != "mean",
        "no class token": not config.vision_class_token,
        "no norm before the first block": not config.vision_pre_norm,
        "norms with another epsilon than 1e-5": config.vision_norm_eps != 1e-5,
        "no projection of the image": not config.projects_image,
        "a map from image to decoder with a bias": config.image_map_bias,
        "the MLP of layers with cross-attention in both passes": config.cross_layer_mlp == "one",
    }
    if any(wrong.values()):
        has = "; ".join(part for part, is_so in wrong.items() if is_so)
        raise ModelError(f"open_clip's MaMMUT has no words for this model, which has {has}: the preset l14 is of its form")
    vision = {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "layers": config.vision_layers,
        "width": config.vision_width,
        "head_width": config.vision_width // config.vision_heads,
        "mlp_ratio": (config.vision_mlp_width or 4 * config.vision_width) / config.vision_width,
        "output_tokens": True,
        "pool_type": "avg_all" if config.class_token_read else "avg",
        "final_ln_after_pool": config.norm_after_pooling,
    }
    text = {
        "context_length": config.context_length,
        "vocab_size": config.vocab_size,
        "width": config.text_width,
        "heads": config.text_heads,
        "layers": config.text_layers,
        "cross_attn_ratio": config.cross_attention_every,
        "has_mlp": config.cross_layer_mlp == "both",
        "pad_id": config.pad_token_id,
        "bos_id": config.bos_token_id,
        "eos_id": config.eos_token_id,
    }
    masked = {} if config.pads_are_text else {"pool_type": "avg", "use_pad_mask": True}
    options = {"embed_dim": config.text_width, "vision_cfg": vision, "text_cfg": text | masked, "custom_text": True}
    ways = {"mean": config.image_mean, "std": config.image_std}
    ways |= {"resize_mode": config.image_resize, "interpolation": config.image_interpolation}

    # query, key and value go back into one
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        source = _open_clip_name(name, config.cross_attention_every, "text.text_projection")
        value = value.detach().cpu()
        if source in ("visual.proj", "map_viz2txt_kv", "text.text_projection"):
            value = value.T
        elif source in ("visual.class_embedding", "visual.positional_embedding"):
            value = value.squeeze(0)
        state[source] = torch.cat([state[source], value]) if ".key_value." in name else value
    state["visual.class_embedding"] = state["visual.class_embedding"].flatten()
    return options, ways, state
