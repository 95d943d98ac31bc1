"""Covers of the ground in the words of the Blue Marble's captions, and the small model whose patches are asked for them."""

from __future__ import annotations

SIZES = {
    "image_size": 64,
    "patch_size": 8,
    "vision_width": 64,
    "vision_stages": [1, 1],
    "image_pooling": "attention",
    "vision_heads": 4,
    "text_width": 64,
    "text_layers": 2,
    "text_heads": 4,
}
"""Sizes of the chapters' small model: a patch sees some forty pixels around its own eight, and no patch knows its position."""


def _land(*colours: str) -> tuple[str, ...]:
    return tuple(f"The land is {colour} throughout." for colour in colours)


_SEA = ("Sea covers nearly all of the picture.", "Sea takes up nearly all of the picture.")
SEA_AND_LAND = {
    "sea": _SEA,
    "land": _land("dark green", "green", "tan", "brown", "light brown", "grey", "white", "olive", "very dark green"),
}
"""Sentences of the two classes that nearly every chip of the Blue Marble has, as whole as their captions are; single words such as
“Sea.” say little to a model that has read none. Chosen by the masks of the validation chips."""

COVERS = {
    "sea": _SEA,
    "other land": _land("light green", "green", "dark green", "very dark green", "khaki", "olive", "dark olive")
    + _land("reddish brown", "brown", "grey", "dark grey"),
    "desert": _land("orange", "pale sand", "tan", "light brown"),
    "ice": _land("white", "pale grey"),
}
"""The same of four covers of the ground: the colours of each are those by which `earth_masks.read` tells it."""
