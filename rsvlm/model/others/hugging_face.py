"""CLIP, SigLIP and SigLIP 2 of transformers: `hf:FOLDER` and `hf:ORG/NAME`. No code of a model folder is run.

Source: Wolf et al., transformers (Apache-2.0); Radford et al. (arXiv 2103.00020); Zhai et al. (arXiv 2303.15343).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import normalizers
from torch import Tensor, nn

from rsvlm.errors import ModelError, RsvlmError, need
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder
from rsvlm.model.others import hugging_clip, hugging_siglip
from rsvlm.model.others.reading import from_hub
from rsvlm.model.others.towers import TowerEncoder, kind_of, scale_of, short, tried


def open_model(where: str, device: torch.device) -> Encoder:
    """Open a folder that transformers saved, or `ORG/NAME[@REVISION]` of a hub. Raises as `opening.open_encoder`."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    folder, revision = Path(where), ""
    if not folder.exists() and len(folder.parts) == 2 and not where.startswith((".", "/", "~")):
        folder, revision = from_hub(where)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"hf:{where}: there is no {folder / 'config.json'}; expected a folder that transformers saved, or ORG/NAME"
        )
    local = {"local_files_only": True, "trust_remote_code": False}
    reading = {"dtype": torch.float32, "output_loading_info": True, "weights_only": True}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        kind = config.model_type
        if kind not in ("clip", "siglip"):
            raise ModelError(f"hf:{where} is a '{kind}': a CLIP or SigLIP was expected")
        if (folder / "spiece.model").is_file() and not (folder / "tokenizer.json").is_file():
            need("sentencepiece", "models")  # SigLIP's first series
            need("google.protobuf", "models")
        model, report = AutoModel.from_pretrained(folder, config=config, **reading, **local)
        processor, tokenizer = (part.from_pretrained(folder, **local) for part in (AutoImageProcessor, AutoTokenizer))
    except RsvlmError:
        raise
    except Exception as error:  # of JSON, safetensors, torch, tokenizers: whatever a folder can be wrong in
        expected = "Expected weights, tokenizer and image processor"
        raise ModelError(f"hf:{where} cannot be opened: {short(error)}. {expected}") from error
    if lost := sorted(report["missing_keys"]) + sorted(report["mismatched_keys"]):
        raise ModelError(f"hf:{where}: the weights lack {len(lost)} of the model's, which would be random: {lost[:5]}")
    if kind == "siglip":
        _as_trained(tokenizer)
    name = f"hf:{where}" if revision else f"hf:{folder.name}"
    encoder = HuggingFaceEncoder(name, model.eval().to(device), processor, tokenizer, lambda: embed.fingerprint(folder))
    encoder.revision = revision
    return tried(encoder)


class HuggingFaceEncoder(TowerEncoder):
    """A CLIP or SigLIP of transformers behind the one face."""

    def __init__(self, name: str, model: nn.Module, processor, tokenizer, fingerprint: Callable[[], str]):
        vision, (kind, can, side) = model.config.vision_config, kind_of(model, (hugging_clip, hugging_siglip))
        super().__init__(
            name,
            model,
            can=["texts", *can],
            fingerprint=fingerprint,
            image_size=vision.image_size,
            patch_size=side,
            mean=processor.image_mean,
            std=processor.image_std,
            logit_scale=scale_of(model),
        )
        self.kind, self.processor, self.tokenizer = kind, processor, tokenizer

    def preprocess(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Prepare images as `Encoder` says."""
        batch = self.processor(images=[np.array(a) for a in arrays], return_tensors="pt", input_data_format="channels_last")
        return batch["pixel_values"].to(self.device, self.dtype)

    def encode_images(self, batch: Tensor) -> Tensor:
        """Embed as `Encoder` says."""
        return _features_of(self.model.get_image_features(pixel_values=batch))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed as `Encoder` says, the texts padded as in training."""
        length = self.model.config.text_config.max_position_embeddings
        padding, asked = self.kind.PADDING, self.kind.ASKED
        tokens = self.tokenizer(list(texts), padding=padding, truncation=True, max_length=length, return_tensors="pt")
        return self.text_features(**{key: tokens[key].to(self.device) for key in asked if key in tokens})

    def text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embed (M, T) tokens as (M, E), of any norm; what the mask leaves out is not read."""
        mask = {} if attention_mask is None else {"attention_mask": attention_mask}
        return _features_of(self.model.get_text_features(input_ids=input_ids, **mask))


def _features_of(output) -> Tensor:
    """Take the embedding out of what transformers returns: a tensor before its fifth series, in the fifth one of several."""
    return output if isinstance(output, Tensor) else output.pooler_output


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
