"""CLIP and SigLIP folders of transformers. No code of a model folder is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import normalizers
from torch import Tensor

from rsvlm.errors import ModelError, RsvlmError, need
from rsvlm.model import embed
from rsvlm.model.others.towers import TowerEncoder, pooled, scale_of, short, tried


def hugging_face_encoder(folder: Path, device: torch.device) -> TowerEncoder:
    """Open a folder that transformers saved. Raises as `opening.open_encoder`."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise ModelError(f"hf:{folder}: there is no {folder / 'config.json'}; expected a folder that transformers saved")
    local = {"local_files_only": True, "trust_remote_code": False}
    reading = {"dtype": torch.float32, "output_loading_info": True, "weights_only": True}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        kind = config.model_type
        if kind not in ("clip", "siglip"):
            raise ModelError(f"hf:{folder} is a '{kind}': a CLIP or SigLIP was expected")
        if (folder / "spiece.model").is_file() and not (folder / "tokenizer.json").is_file():
            need("sentencepiece", "models")  # SigLIP's first series
            need("google.protobuf", "models")
        model, report = AutoModel.from_pretrained(folder, config=config, **reading, **local)
        processor, tokenizer = (part.from_pretrained(folder, **local) for part in (AutoImageProcessor, AutoTokenizer))
    except RsvlmError:
        raise
    except Exception as error:  # of JSON, safetensors, torch, tokenizers: whatever a folder can be wrong in
        expected = "Expected weights, tokenizer and image processor"
        raise ModelError(f"hf:{folder} cannot be opened: {short(error)}. {expected}") from error
    if lost := sorted(report["missing_keys"]) + sorted(report["mismatched_keys"]):
        raise ModelError(f"hf:{folder}: the weights lack {len(lost)} of the model's, which would be random: {lost[:5]}")
    if kind == "siglip":
        _as_trained(tokenizer)
    model = model.eval().to(device)
    length = config.text_config.max_position_embeddings
    # SigLIP was trained on texts padded to the full length, with the pads attended to; CLIP's text never sees what follows its end.
    padding, asked = ("max_length", ("input_ids",)) if kind == "siglip" else ("longest", ("input_ids", "attention_mask"))

    def see(arrays: list[np.ndarray]) -> Tensor:
        batch = processor(images=[np.array(a) for a in arrays], return_tensors="pt", input_data_format="channels_last")
        return pooled(model.get_image_features(pixel_values=batch["pixel_values"].to(device)))

    def read(captions: list[str]) -> Tensor:
        tokens = tokenizer(captions, padding=padding, truncation=True, max_length=length, return_tensors="pt")
        return pooled(model.get_text_features(**{name: tokens[name].to(device) for name in asked if name in tokens}))

    return tried(TowerEncoder(f"hf:{folder.name}", lambda: embed.fingerprint(folder), scale_of(model), see, read))


def _as_trained(tokenizer) -> None:
    """Have the tokenizer of a SigLIP 2 read texts as in its training: in lower case, and filled up on the right.

    Published ones of a fixed resolution name the plain tokenizer of Gemma, and the kind `siglip`; their folders do not ask for
    lower case. SigLIP's own tokenizer does it by itself.

    Source: Tschannen et al. 2025 (SigLIP 2, arXiv 2502.14786), section 2.1; as transformers does for the kind `siglip2`.
    """
    if not type(tokenizer).__name__.startswith("Gemma"):
        return
    if "padding_side" not in tokenizer.init_kwargs:
        tokenizer.padding_side = "right"  # Gemma's default is the left
    if tokenizer.init_kwargs.get("do_lower_case") is False:
        return
    backend = tokenizer.backend_tokenizer
    others = [backend.normalizer] if backend.normalizer is not None else []
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *others])
