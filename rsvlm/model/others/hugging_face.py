"""CLIP, SigLIP and SigLIP 2 of transformers: `hf:FOLDER` and `hf:ORG/NAME`. No code of a model folder is run.

A CLIP pools by its class token in the last block, a SigLIP by a learned query behind it.

Source: Wolf et al., transformers (Apache-2.0); Radford et al. (arXiv 2103.00020); Zhai et al. (arXiv 2303.15343).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import normalizers
from torch import Tensor, nn

from rsvlm.errors import ModelError, RsvlmError, need
from rsvlm.model import embed
from rsvlm.model.encoder import Encoder, Patches, at_places, attend, in_heads, joined, mean_pooling, split_pooling
from rsvlm.model.others.reading import from_hub
from rsvlm.model.others.towers import features_of, scale_of, short, tried


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


class HuggingFaceEncoder(Encoder):
    """A CLIP or SigLIP of transformers behind the one face."""

    def __init__(self, name: str, model: nn.Module, processor, tokenizer, fingerprint):
        vision, clip = model.config.vision_config, model.config.model_type == "clip"
        super().__init__(
            name,
            model,
            can=("texts", "patches", "last block") if clip else ("texts", "patches"),
            fingerprint=fingerprint,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            mean=processor.image_mean,
            std=processor.image_std,
            logit_scale=scale_of(model),
        )
        self.processor, self.tokenizer, self.clip = processor, tokenizer, clip

    def preprocess(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Prepare images as `Encoder` says."""
        batch = self.processor(images=[np.array(a) for a in arrays], return_tensors="pt", input_data_format="channels_last")
        return batch["pixel_values"].to(self.device, self.dtype)

    def encode_images(self, batch: Tensor) -> Tensor:
        """Embed as `Encoder` says."""
        return features_of(self.model.get_image_features(pixel_values=batch))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed as `Encoder` says.

        SigLIP was trained on texts padded to the full length, with the pads attended to; CLIP's text never sees what follows its end.
        """
        length = self.model.config.text_config.max_position_embeddings
        padding, asked = ("longest", ("input_ids", "attention_mask")) if self.clip else ("max_length", ("input_ids",))
        tokens = self.tokenizer(list(texts), padding=padding, truncation=True, max_length=length, return_tensors="pt")
        return features_of(
            self.model.get_text_features(**{key: tokens[key].to(self.device) for key in asked if key in tokens})
        )

    def patches(self, batch: Tensor) -> Patches:
        """Split the pooling as `Encoder` says."""
        tower, side = vision_of(self.model), self.patch_size
        grid = batch.shape[2] // side, batch.shape[3] // side
        if self.clip:
            query, key, value, x = self.last_block(batch)
            return split_pooling(query[:, :, 0], key, value, grid, x[:, 0])
        x = tower.embeddings(batch, interpolate_pos_encoding=True)
        for block in tower.encoder.layers:
            x = _run(block, x)
        x = tower.post_layernorm(x)
        if not hasattr(tower, "head"):
            return mean_pooling(x, grid)
        query, key, value = attend(tower.head.attention, tower.head.probe, x)
        return split_pooling(query[:, :, 0], key, value, grid)

    def last_block(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run a CLIP up to the attention of its last block, as `Encoder` says."""
        if not self.clip:
            return super().last_block(batch)
        tower = vision_of(self.model)
        x = tower.pre_layrnorm(tower.embeddings(batch, interpolate_pos_encoding=True))
        *blocks, last = tower.encoder.layers
        for block in blocks:
            x = _run(block, x)
        attention, context = last.self_attn, last.layer_norm1(x)
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        return *(in_heads(projection(context), attention.num_heads) for projection in projections), x

    def project(self, pooled: Tensor, rest: Tensor | None) -> Tensor:
        """Send pooled values through the rest of the tower as `Encoder` says."""
        tower = vision_of(self.model)
        x = joined(pooled).to(self.dtype)
        if self.clip:
            last = tower.encoder.layers[-1]
            x = last.self_attn.out_proj(x)
            if rest is not None:
                x = at_places(rest, x) + x
                x = x + last.mlp(last.layer_norm2(x))
            return self.model.visual_projection(tower.post_layernorm(x)).float()
        if hasattr(tower, "head"):
            x = tower.head.attention.out_proj(x)
            x = x + tower.head.mlp(tower.head.layernorm(x))
        return x.float()


def vision_of(model: nn.Module) -> nn.Module:
    """The vision tower: its parts stood one level deeper before the fifth series of transformers."""
    tower = model.vision_model
    return getattr(tower, "vision_model", tower)


def _run(block: nn.Module, x: Tensor) -> Tensor:
    output = block(x, attention_mask=None)
    return output[0] if isinstance(output, tuple) else output  # a tuple before the fifth series


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
