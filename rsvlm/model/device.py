"""Where tensors live: `auto`, `cpu`, `cuda` or `cuda:N`."""

from __future__ import annotations

import torch

from rsvlm.errors import ModelError


def resolve_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device that is there; CUDA by name without any is a ModelError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device '{name}' was asked for, but torch sees no CUDA device here: use device=auto or cpu")
    return torch.device(name)
