"""Sizes of MaMMUTs by name, for `MammutConfig`."""

from __future__ import annotations

_SIZES = "image_size patch_size vision_width vision_layers vision_heads text_width text_layers text_heads".split()
_OPENMAMMUT = {
    "vision_class_token": True,
    "vision_pre_norm": True,
    "vision_norm_eps": 1e-5,
    "norm_after_pooling": True,
    "cross_layer_mlp": "both",
    "image_map_bias": False,
    "pads_are_text": True,
}
_CONV = dict(zip(_SIZES, (128, 32, 512, 4, 8, 256, 2, 4)), vision_stages=(1, 1, 2, 1))
_PLACES = {"image_size": 64, "patch_size": 8, "vision_places": 3, "text_width": 128, "text_ngrams": 5}
_LITE = dict(zip(_SIZES, (128, 16, 256, 0, 8, 256, 2, 4)))
_FROZEN = dict(zip(_SIZES, (192, 32, 384, 1, 6, 384, 2, 6)), text_ngrams=3)
# Behind each row its parameters, vision tower + all the rest, at a vocabulary of 49,408 and a context of 77.
PRESETS: dict[str, dict] = {
    "nano": dict(zip(_SIZES, (64, 8, 128, 4, 4, 128, 3, 4))),  # 826,240 + 13,403,010
    # For thousands of pictures, not millions: see `convolutions`.
    "conv": dict(_CONV),  # 6,096,416 + 27,423,234
    "conv-standard": dict(_CONV, vision_standard_weights=True),  # 6,096,416 + 27,423,234
    # A tower that starts from ImageNet where `train.vision_start` gives its weights: see `trunk`.
    "lite0": dict(_LITE, vision_tower="tf_efficientnet_lite0"),  # 3,728,384 + 27,226,626
    "lite0-192": dict(_LITE, vision_tower="tf_efficientnet_lite0", image_size=192),  # 3,728,384 + 27,226,626
    "lite0-places": dict(_LITE | _PLACES, vision_tower="tf_efficientnet_lite0"),  # 3,738,880 + 14,235,906
    "lite2": dict(_LITE, vision_tower="tf_efficientnet_lite2", image_size=160, text_layers=3),  # 5,170,496 + 28,280,578
    # One whose tower may stay as ImageNet left it, for a block of its own follows: see `train.held_maps`.
    "lite0-frozen": dict(_FROZEN, vision_tower="tf_efficientnet_lite0"),  # 5,652,736 + 45,411,074
    "tiny": dict(zip(_SIZES, (224, 16, 192, 12, 3, 192, 6, 3))),  # 5,524,032 + 22,141,058
    "s32": dict(zip(_SIZES, (224, 32, 384, 12, 6, 384, 12, 6))),  # 22,493,184 + 62,974,466
    "b32": dict(zip(_SIZES, (224, 32, 768, 12, 12, 512, 12, 8))),  # 87,453,696 + 95,565,826
    "b16": dict(zip(_SIZES, (224, 16, 768, 12, 12, 512, 12, 8))),  # 85,797,120 + 95,565,826
    "l14": dict(zip(_SIZES, (224, 14, 1024, 24, 16, 768, 12, 12))) | _OPENMAMMUT,  # 303,179,776 + 205,115,138
    # The paper's 400 M + 400 M; the vision tower is SoViT-400m/14 (Alabdulmohsin et al., arXiv 2305.13035).
    "so400m": dict(zip(_SIZES, (224, 14, 1152, 27, 16, 1152, 15, 16)), vision_mlp_width=4304),  # 412,442,352 + 396,899,714
}
