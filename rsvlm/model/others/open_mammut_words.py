"""A MaMMUT of this package in the words of open_clip's main branch, as `rsvlm export --to open_clip` writes it."""

from __future__ import annotations

from rsvlm.errors import ModelError
from rsvlm.model.mammut import MammutConfig


def options_of(config: MammutConfig) -> tuple[dict, dict]:
    """Say a model's options in open_clip's words: of the model, and of its preprocessing.

    Raises:
        ModelError: It has a part that open_clip's MaMMUT has not; all of them are listed.
    """
    wrong = {
        "a convolutional tower": bool(config.vision_stages or config.vision_tower),
        "a sentence encoder": config.sentence_layers > 0,
        "embeddings of several tokens in a row": config.text_ngrams > 1,
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
    return options, ways
