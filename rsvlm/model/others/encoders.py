"""Models of others, and vectors that others computed, behind the one `embed.Encoder`: each with its own preprocessing.

Nothing is downloaded, no code of a model folder is run, and pickles are read as tensors only.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from rsvlm.errors import DataError, MissingExtraError, ModelError
from rsvlm.evaluation import embeddings
from rsvlm.model import embed, weights
from rsvlm.model.device import resolve_device
from rsvlm.model.embed import Encoder
from rsvlm.records.files import file_sha256

FORMS = "FOLDER, open_clip:NAME:FILE, open_clip:NAME:TAG, open_clip:FOLDER or hf:FOLDER"
TEXTS = 256
"""Texts per forward pass."""
ARRAYS = ("image_embeddings", "caption_embeddings", "image_of_caption", "captions", "keys")
"""What a file of embeddings holds; the last two perhaps."""


def open_encoder(where: str | Path, device: str = "auto") -> Encoder:
    """Open a model for evaluation.

    Args:
        where: One of
            `FOLDER`: of this package, or an openMaMMUT (see `weights.load`).
            `open_clip:NAME:FILE`: an architecture that open_clip knows, and a checkpoint: a state dict, bare or as its training
            writes it. The file does not say which activation it was trained with, the name does: `ViT-B-32-quickgelu` or
            `ViT-B-32`. Images are normalised as that architecture's are by default.
            `open_clip:NAME:TAG`: weights that open_clip names so and that are in its cache; with the tag's activation.
            `open_clip:FOLDER`: with `open_clip_config.json` and weights.
            `hf:FOLDER`: a CLIP or SigLIP saved by transformers, with its tokenizer and image processor.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        ModelError: Another form; or the model is missing, broken, or of another kind. `embeddings:FILE` is no model: see
            `read_embeddings`.
        MissingExtraError: open_clip is not installed.
    """
    form, _, rest = str(where).partition(":")
    target = resolve_device(device)
    if form == "open_clip" and rest:
        name, _, weight = rest.partition(":")
        return _open_clip(name, weight, target)
    if form == "hf" and rest:
        return _hugging_face(Path(rest), target)
    if form == "embeddings":
        raise ModelError(f"{where} holds vectors and no model to embed anything with: expected {FORMS}")
    if not Path(where).is_dir():
        raise ModelError(f"there is no model folder {where}: expected {FORMS}")
    return embed.MammutEncoder(weights.load(where, target), Path(where))


def read_embeddings(path: str | Path) -> embeddings.Embeddings:
    """Read vectors that any other system computed, from an `.npz` file; a leading `embeddings:` is dropped.

    The file holds `image_embeddings` (N, E) and `caption_embeddings` (M, E), floating-point, of any norm but 0, and
    `image_of_caption` (M,) integers from 0 to N - 1; perhaps `captions` (M,) and `keys` (N,), texts, and `wording`, see there. Vectors
    are scaled to norm 1.

    Raises:
        DataError: The file is missing, broken or pickled, or its arrays do not fit together; the message names the array.
    """
    path = Path(str(path).removeprefix("embeddings:"))
    found = _arrays(path)
    names = ARRAYS[:3]
    if missing := [name for name in names if name not in found]:
        raise DataError(
            f"{path} has no {', '.join(missing)}: it has {', '.join(found) or 'nothing'}; expected {', '.join(names)}"
        )
    images, captions = (embed.unit(found[name], f"{path}, {name}") for name in names[:2])
    owner = found["image_of_caption"]
    if images.shape[1] != captions.shape[1]:
        raise DataError(f"{path}: images have {images.shape[1]} dimensions, captions {captions.shape[1]}: expected the same")
    if not len(images) or owner.shape != (len(captions),) or owner.dtype.kind not in "iu" or not owner.size:
        raise DataError(
            f"{path}: {len(images)} images, {len(captions)} captions, image_of_caption of {owner.dtype} {owner.shape}: "
            f"expected at least one image, and {len(captions) or 'some'} whole numbers"
        )
    if owner.min() < 0 or owner.max() >= len(images):
        raise DataError(f"{path}: image_of_caption reaches from {owner.min()} to {owner.max()}: expected 0…{len(images) - 1}")
    keys = _strings(path, "keys", found.get("keys"), len(images)) or [str(i) for i in range(len(images))]
    if len(set(keys)) < len(keys):
        (twice, times), *_ = Counter(keys).most_common(1)
        raise DataError(f"{path}: the key {twice!r} is there {times} times: every image needs a name of its own")
    return embeddings.Embeddings(
        keys=keys,
        captions=_strings(path, "captions", found.get("captions"), len(captions)),
        image_of_caption=owner.astype(np.int64),
        image_embeddings=images,
        caption_embeddings=captions,
    )


def wording(path: str | Path) -> str | None:
    """Return what a file of embeddings says of its captions' words: the text `wording`, the name of a protocol; None if nothing.

    Raises:
        DataError: The file is missing, broken or pickled, or `wording` is not a single text.
    """
    path = Path(str(path).removeprefix("embeddings:"))
    found = _arrays(path, ("wording",)).get("wording")
    if found is not None and (found.dtype.kind != "U" or found.size != 1):
        raise DataError(f"{path}: wording is {found.dtype} of shape {found.shape}: expected one text, the name of a protocol")
    return None if found is None else str(found.item())


class TowerEncoder:
    """Two functions into one space as an `Encoder`: `see` takes a list of (H, W, 3) uint8 arrays, `read` a list of texts."""

    def __init__(
        self,
        name: str,
        fingerprint: Callable[[], str],
        logit_scale: float | None,
        see: Callable[[list[np.ndarray]], Tensor],
        read: Callable[[list[str]], Tensor],
    ):
        self.name, self.logit_scale, self._fingerprint, self._see, self._read = name, logit_scale, fingerprint, see, read

    @cached_property
    def fingerprint(self) -> str:
        """Made when it is asked for: it reads all weights."""
        return self._fingerprint()

    @cached_property
    def width(self) -> int:
        """E, of a text."""
        return self.texts(["a river"]).shape[1]

    def images(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Embed as `Encoder` says."""
        if wrong := [a for a in arrays if a.dtype != np.uint8 or a.ndim != 3 or a.shape[2] != 3]:
            raise DataError(f"an image is {wrong[0].dtype} {wrong[0].shape}: expected uint8 (H, W, 3)")
        return self._normalised(self._see, list(arrays))

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Embed as `Encoder` says."""
        if blank := [i for i, text in enumerate(captions) if not text.strip()]:
            raise DataError(f"text {blank[0]} of {len(captions)} is empty: drop it, or write a caption")
        parts = [list(captions[start : start + TEXTS]) for start in range(0, len(captions), TEXTS)]
        return np.concatenate([self._normalised(self._read, part) for part in parts])

    def _normalised(self, tower: Callable[[list], Tensor], given: list) -> np.ndarray:
        with torch.inference_mode():
            return F.normalize(tower(given).float(), dim=-1).cpu().numpy()


def _open_clip(name: str, weight: str, device: torch.device) -> TowerEncoder:
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtraError("open_clip_torch is not installed: pip install 'rsvlm[models]'") from error
    source, options, files = _open_clip_source(open_clip, name, weight)
    named = f"open_clip:{name}" + f":{Path(weight).name}" * bool(weight)
    try:
        model, preprocess = open_clip.create_model_from_pretrained(source, device=device, weights_only=True, **options)
        tokenizer = open_clip.get_tokenizer(source)
    except Exception as error:  # of pickle, torch, safetensors, transformers, JSON: whatever a file can be wrong in
        raise ModelError(
            f"{weight or name} cannot be opened as open_clip's {name}: {_short(error)}. "
            "Expected its state dict as tensors alone (convert others to safetensors), of the architecture that NAME says"
        ) from error
    facts = json.dumps([source, open_clip.get_model_config(source), model.visual.preprocess_cfg], sort_keys=True, default=str)

    def fingerprint() -> str:
        return hashlib.sha256("\n".join([facts, *map(file_sha256, files)]).encode()).hexdigest()

    def see(arrays: list[np.ndarray]) -> Tensor:
        return model.encode_image(torch.stack([preprocess(Image.fromarray(array)) for array in arrays]).to(device))

    def read(captions: list[str]) -> Tensor:
        return model.encode_text(tokenizer(captions).to(device))

    return _tried(TowerEncoder(named, fingerprint, _scale(model.eval()), see, read))


def _open_clip_source(open_clip, name: str, weight: str) -> tuple[str, dict, list[Path]]:
    """Find what is meant: open_clip's name of the model, options of its factory, and the files of weights."""
    if Path(name).is_dir():
        files = [path for path in sorted(Path(name).glob("*")) if path.suffix in (".safetensors", ".bin", ".pt", ".pth")]
        if not (Path(name) / "open_clip_config.json").is_file() or not files or weight:
            what = "takes no FILE" if weight else "holds no open_clip_config.json with weights beside it"
            raise ModelError(f"open_clip:{name}: the folder {what}")
        return f"local-dir:{name}", {}, files
    architecture = name.replace("/", "-")
    if (known := open_clip.get_model_config(architecture)) is None:
        near = [model for model in open_clip.list_models() if model.lower().startswith(architecture.lower()[:5])]
        raise ModelError(
            f"open_clip knows no model '{name}': it knows {', '.join(near[:8] or open_clip.list_models()[:8])}, …"
        )
    if Path(weight).is_file():
        return architecture, {"pretrained": weight}, [Path(weight)]
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if weight not in tags:
        what = f"there is no file '{weight}'" if weight else "no weights are named: they would be random"
        raise ModelError(f"open_clip:{name}: {what}. Add :FILE, a checkpoint on disk, or one of open_clip's tags: {tags}")
    facts = open_clip.get_pretrained_cfg(architecture, weight)
    path = _cached(facts)
    if path is None:
        place = facts.get("hf_hub") or facts.get("url")
        raise ModelError(
            f"open_clip:{name}:{weight}: its weights are not in the cache, and nothing is downloaded here: fetch {place}"
        )
    options = {"image_mean": facts.get("mean"), "image_std": facts.get("std")}
    options |= {"image_interpolation": facts.get("interpolation"), "image_resize_mode": facts.get("resize_mode")}
    if bool(known.get("quick_gelu")) > bool(facts.get("quick_gelu")):
        raise ModelError(
            f"open_clip:{name}:{weight}: these weights were trained with another activation: take a name without quickgelu"
        )
    options |= {"pretrained": str(path), "force_quick_gelu": bool(facts.get("quick_gelu"))}
    return architecture, options, [path]


def _cached(facts: dict) -> Path | None:
    """Find the weights of one of open_clip's tags on disk, in the places where it keeps what it has downloaded."""
    from huggingface_hub import try_to_load_from_cache

    if hub := facts.get("hf_hub"):
        repository, _, file = hub.rpartition("/")
        files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        found = [try_to_load_from_cache(repository, file) for file in files]
        if path := next((path for path in found if isinstance(path, str)), None):
            return Path(path)
    path = Path("~/.cache/clip").expanduser() / Path(facts.get("url") or "-").name
    return path if path.is_file() else None


def _hugging_face(folder: Path, device: torch.device) -> TowerEncoder:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise ModelError(f"hf:{folder}: there is no {folder / 'config.json'}; expected a folder that transformers saved")
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        kind = config.model_type
        if kind not in ("clip", "siglip"):
            raise ModelError(f"hf:{folder} is a '{kind}': a CLIP or SigLIP was expected")
        model, report = AutoModel.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True, weights_only=True, **local
        )
        processor, tokenizer = (part.from_pretrained(folder, **local) for part in (AutoImageProcessor, AutoTokenizer))
    except ModelError:
        raise
    except Exception as error:  # of JSON, safetensors, torch, tokenizers: whatever a folder can be wrong in
        raise ModelError(
            f"hf:{folder} cannot be opened: {_short(error)}. Expected weights, tokenizer and image processor"
        ) from error
    if lost := sorted(report["missing_keys"]) + sorted(report["mismatched_keys"]):
        raise ModelError(f"hf:{folder}: the weights lack {len(lost)} of the model's, which would be random: {lost[:5]}")
    model = model.eval().to(device)
    length = config.text_config.max_position_embeddings
    # SigLIP was trained on texts padded to the full length, with the pads attended to; CLIP's text never sees what follows its end.
    padding, asked = ("max_length", ("input_ids",)) if kind == "siglip" else ("longest", ("input_ids", "attention_mask"))

    def see(arrays: list[np.ndarray]) -> Tensor:
        pixels = processor(images=[np.array(a) for a in arrays], return_tensors="pt", input_data_format="channels_last")[
            "pixel_values"
        ]
        return _pooled(model.get_image_features(pixel_values=pixels.to(device)))

    def read(captions: list[str]) -> Tensor:
        tokens = tokenizer(captions, padding=padding, truncation=True, max_length=length, return_tensors="pt")
        return _pooled(model.get_text_features(**{name: tokens[name].to(device) for name in asked if name in tokens}))

    return _tried(TowerEncoder(f"hf:{folder.name}", lambda: embed.fingerprint(folder), _scale(model), see, read))


def _tried(encoder: TowerEncoder) -> TowerEncoder:
    """Embed one image and one text, so that a model without a usable tokenizer or processor stops before the work."""
    try:
        width = embed.unit(encoder.images([np.zeros((32, 48, 3), np.uint8)]), "images").shape[1]
        embed.unit(encoder.texts(["a river"]), "texts")
        if width == encoder.width:
            return encoder
        problem = f"its images have {width} dimensions, its texts {encoder.width}"
    except Exception as error:  # whatever libraries raise where parts do not fit
        raise ModelError(
            f"{encoder.name} was opened, but cannot embed a black image and 'a river': {_short(error)}"
        ) from error
    raise ModelError(f"{encoder.name}: {problem}: expected one space")


def _pooled(found) -> Tensor:
    """Take the embedding out of what transformers returns: a tensor before its fifth series, in the fifth one of several."""
    return found if isinstance(found, Tensor) else found.pooler_output


def _scale(model: nn.Module) -> float | None:
    scale = getattr(model, "logit_scale", None)
    return scale.exp().item() if isinstance(scale, Tensor) and scale.numel() == 1 else None


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{' …' * (len(text) > 300)}"


def _arrays(path: Path, names: Sequence[str] = ARRAYS) -> dict[str, np.ndarray]:
    """Read arrays of an npz file, as far as it has them; none may be pickled."""
    if not path.is_file():
        raise DataError(
            f"there is no file {path}: expected an .npz with image_embeddings, caption_embeddings, image_of_caption"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names if name in file.files}
    except Exception as error:  # of zip, zlib, numpy's headers, memory: whatever a file can be wrong in
        raise DataError(
            f"{path} cannot be read as .npz without pickles: {_short(error)}; write it with numpy.savez"
        ) from error


def _strings(path: Path, name: str, array: np.ndarray | None, count: int) -> list[str]:
    if array is None:
        return []
    if array.dtype.kind != "U" or array.shape != (count,):
        raise DataError(f"{path}: {name} is {array.dtype} of shape {array.shape}: expected {count} texts")
    return array.tolist()
