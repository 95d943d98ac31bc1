"""How much work a model is: the FLOPs of its matrix products, counted from its options.

A map of n tokens from width a to b takes 2nab (a 3 × 3 convolution nine times that), attention from n to m tokens of width D takes
4nmD: a block on n tokens with an MLP of width M is 2n(4D² + 2DM) + 4n²D. The caption pass predicts T - 1 tokens from T - 1. Norms,
softmax, GELU are left out. What networks of timm take is counted while one is run, without memory for its weights.

Letters: T text tokens, P patches, Dv vision width, D text width.
"""

from __future__ import annotations

import math

from rsvlm.model import trunk
from rsvlm.model.mammut import MammutConfig


def count(config: MammutConfig, text_tokens: int) -> dict[str, int]:
    """Count the forward FLOPs for one image with a text of T tokens; backward takes twice as many.

    Returns:
        The parts: `vision` (tower, pooling, projection), `contrastive`, `caption` (image map included) and `vocabulary`.
    """
    Dv, D, layers = config.vision_width, config.text_width, config.text_layers
    patches = (config.image_size // config.patch_size) ** 2
    P = patches + (config.vision_class_token and config.class_token_read)  # that the decoder sees

    # the vision tower
    if config.vision_tower:
        blocks = config.vision_layers, config.vision_heads
        vision = trunk.flops(config.vision_tower, config.patch_size, Dv, config.image_size, *blocks)
    elif stages := config.vision_stages:  # where the width doubles, cells are quartered: w² times their number stays
        width, cells = Dv // 2 ** (len(stages) - 1), (config.image_size // 4) ** 2
        vision = cells * (108 * width + (9 + 36 * sum(stages) - 8 * (len(stages) - 1)) * width**2)
    else:
        n, M = patches + config.vision_class_token, config.vision_mlp_width or 4 * Dv
        vision = config.vision_layers * (4 * n * Dv * (2 * Dv + M) + 4 * n**2 * Dv) + 6 * patches * config.patch_size**2 * Dv
    if config.image_pooling == "attention":
        vision += 4 * (1 + P) * Dv**2 + 4 * P * Dv
    vision += 2 * Dv * D * config.projects_image

    # the decoder, twice
    cross = math.ceil(layers / config.cross_attention_every)
    late = {"one": (0, 0), "caption": (-cross, 0), "both": (0, cross)}[config.cross_layer_mlp]  # MLPs beside one a layer
    T, t = config.context_length if config.pads_are_text else text_tokens, text_tokens - 1
    contrastive = layers * (8 * T * D**2 + 4 * T**2 * D) + (layers + late[0]) * 16 * T * D**2
    if config.sentence_layers:
        S = config.sentence_width
        contrastive = config.sentence_layers * (24 * T * S**2 + 4 * T**2 * S) + 4 * S * (S + D)
    caption = layers * (8 * t * D**2 + 4 * t**2 * D) + (layers + late[1]) * 16 * t * D**2
    rows = config.caption_vocab_size if config.sentence_layers else config.vocab_size
    caption += 2 * P * Dv * D + cross * (4 * (t + P) * D**2 + 4 * t * P * D)
    return {"vision": vision, "contrastive": contrastive, "caption": caption, "vocabulary": 2 * t * D * rows}
