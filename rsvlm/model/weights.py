"""Weights in and out: model folders of our own and of open_clip, timm towers, ONNX files, an open_clip-shaped face.

Only safetensors and JSON are ever read: nothing is unpickled, and no code from a folder is run.
"""

from __future__ import annotations

import json
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

from rsvlm.errors import ModelError, need
from rsvlm.model import embed, tokenizer as tokenizers
from rsvlm.model.mammut import Mammut, MammutConfig
from rsvlm.model.preprocessing import FILTERS, RESIZES
from rsvlm.records import files

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
    folder = Path(folder)
    foreign = _open_clip_config(folder)
    model = _load_own(folder) if foreign is None else _load_open_clip(folder, *foreign)
    if foreign is None or (folder / "tokenizer.json").is_file():
        model.tokenizer = tokenizers.load(folder)
        if len(model.tokenizer) > model.config.vocab_size:
            sizes = f"the tokenizer has {len(model.tokenizer)} entries, the model {model.config.vocab_size}"
            raise ModelError(f"{folder}: {sizes}; take the tokenizer that was saved with this model")
        if foreign is not None:
            _follow_tokenizer(model)
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
    theirs = {key: value for key, value in _read(path).items() if not key.startswith(tuple(ignore))}
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
    _check(path, {key: (value.shape, theirs.get(key)) for key, value in ours.items()}, set(theirs) - set(ours))
    model.vision.load_state_dict(theirs)
    return model


def export_onnx(model: Mammut, folder: Path | str, towers: Sequence[str] = ("image", "text")) -> Path:
    """Write the towers as ONNX: `image.onnx`, `text.onnx`, and `onnx.json` with what a caller needs to feed them.

    `image.onnx` takes `images` (B, 3, S, S) float32, normalised, and gives `image_embeddings`; `text.onnx` takes `tokens` (B, T)
    int64, padded on the right, and gives `text_embeddings`: (B, E) float32 of norm 1, for any B and any T up to the context. Files
    get their names only when they are whole. A file of ONNX holds 2 GB at most.

    Raises:
        MissingExtraError: `onnx` or `onnxscript` is not installed.
    """
    for package in ("onnx", "onnxscript"):
        need(package, "export")
    folder, config = Path(folder), model.config
    folder.mkdir(parents=True, exist_ok=True)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=1, max=config.context_length)
    images = torch.zeros(2, 3, config.image_size, config.image_size, device=model.device)
    tokens = torch.full((2, min(5, config.context_length)), config.bos_token_id, device=model.device)
    parts = {
        "image": (model.encode_image, "images", images, {0: batch}),
        "text": (model.encode_text, "tokens", tokens, {0: batch, 1: length}),
    }

    # each tower by its own method
    training = model.training
    model.eval()
    for name in towers:
        encode, argument, example, dynamic = parts[name]
        names = {"input_names": [argument], "output_names": [f"{name}_embeddings"]}
        tower = _Tower(encode, model).eval()
        program = torch.onnx.export(tower, (example,), dynamic_shapes=(dynamic,), dynamo=True, verbose=False, **names)
        with files.replacing(folder / f"{name}.onnx") as temporary:
            program.save(temporary, external_data=False)
    model.train(training)

    # what a caller needs to feed them
    names = ["image_size", "image_mean", "image_std", "image_resize", "image_interpolation"]
    names += ["context_length", "pad_token_id", "bos_token_id", "eos_token_id"]
    scalars = {"logit_scale": model.logit_scale.item(), "logit_bias": model.logit_bias.item()}
    facts = {name: getattr(config, name) for name in names} | scalars
    (folder / "onnx.json").write_text(json.dumps(facts, indent=1))
    return folder


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


class _Tower(nn.Module):
    """One method of a model as a module of its own, for the exporter."""

    def __init__(self, encode: Callable[[Tensor], Tensor], model: Mammut):
        super().__init__()
        self.model, self.encode = model, encode

    def forward(self, batch: Tensor) -> Tensor:
        return self.encode(batch)


def _load_own(folder: Path) -> Mammut:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder / 'config.json'} is missing: give the folder that `rsvlm train` wrote as model/")
    theirs = _in_float32(_read(path := folder / "model.safetensors"))
    return _assemble(MammutConfig.from_pretrained(folder, local_files_only=True), theirs, path, lambda name: name)


def _load_open_clip(folder: Path, options: dict, preprocess: dict) -> Mammut:
    """Read an openMaMMUT: a CLIP tower, and a decoder whose cross-attentions sit beside its layers, each with an MLP."""
    path = next((folder / name for name in OPEN_CLIP_WEIGHTS if (folder / name).is_file()), folder / OPEN_CLIP_WEIGHTS[0])
    theirs = _in_float32(_read(path))
    theirs["logit_bias"] = theirs.get("logit_bias", torch.zeros(())).squeeze()
    try:
        config = _open_clip_options(options, preprocess)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"the open_clip config in {folder} cannot be read: {type(error).__name__}: {error}") from error
    head = "text.lm_head" if "text.lm_head" in theirs else "text.text_projection"
    return _assemble(config, theirs, path, lambda name: _open_clip_name(name, config.cross_attention_every, head))


def _open_clip_config(folder: Path) -> tuple[dict, dict] | None:
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


def _open_clip_options(options: dict, preprocess: dict) -> MammutConfig:
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


def _assemble(config: MammutConfig, theirs: dict[str, Tensor], path: Path, translate: Callable[[str], str]) -> Mammut:
    """Build a model from weights whose keys are the translations of ours."""
    with torch.device("meta"):
        model = Mammut(config)
    sources = {name: translate(name) for name in model.state_dict()}
    ours, pairs = {}, {}
    for name, parameter in model.state_dict().items():
        source, value = sources[name], theirs.get(sources[name])
        if value is not None and source != name:
            value = _reshaped(name, source, value, parameter.shape)
        ours[name] = value
        pairs[f"{source} ({name})" if source != name else name] = (parameter.shape, value)
    _check(path, pairs, set(theirs) - set(sources.values()))
    model.load_state_dict({name: value.contiguous() for name, value in ours.items()}, assign=True)
    return model


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


def _check(path: Path, pairs: dict[str, tuple[torch.Size, Tensor | None]], extra: set[str]) -> None:
    """Raise unless every key has a value of its shape and no value is left over."""
    missing = [key for key, (_, value) in pairs.items() if value is None]
    shapes = [(key, value.shape, shape) for key, (shape, value) in pairs.items() if value is not None]
    other = [f"{key} {tuple(theirs)} for {tuple(ours)}" for key, theirs, ours in shapes if theirs != ours]
    wrong = {"missing": missing, "extra": sorted(extra), "of another shape": other}
    if any(wrong.values()):
        lists = "; ".join(f"{kind}: {', '.join(keys[:20])}{' …' * (len(keys) > 20)}" for kind, keys in wrong.items() if keys)
        raise ModelError(f"the weights in {path} do not fit the model ({sum(map(len, wrong.values()))} keys) - {lists}")


def _read(path: Path) -> dict[str, Tensor]:
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


def _in_float32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights that were saved in half precision, for what they meet here is float32."""
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def _follow_tokenizer(model: Mammut) -> None:
    """Make a CLIP tokenizer pad as open_clip does, with id `pad_token_id`, and take the ids of start and end from it."""
    tokenizer, config = model.tokenizer, model.config
    tokenizer.model_max_length, tokenizer.padding_side = config.context_length, "right"
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
