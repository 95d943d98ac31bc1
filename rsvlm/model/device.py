"""Where tensors live: `auto`, `cpu`, `cuda` or `cuda:N`; and memory that a step may use again."""

from __future__ import annotations

import ctypes
import functools
import sys

import torch

from rsvlm.errors import ModelError

LARGEST_KEPT = 2**30
"""Bytes of one tensor; memory of a larger one goes back to the system as before."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of glibc's malloc.h


def resolve_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device that is there; CUDA by name without any is a ModelError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device '{name}' was asked for, but torch sees no CUDA device here: use device=auto or cpu")
    return torch.device(name)


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 2 GiB of what tensors on the CPU free, for the next step; True where the C library can.

    Without it glibc gives each large tensor back to the system and fetches its pages anew at the next step, zeroed one by one:
    of a convolutional tower on one core that was two thirds of the time to embed, and over a quarter of a training step's.
    Source: our choice, see the lab log of 2026-11-29; `man mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all([mallopt(_MMAP_THRESHOLD, LARGEST_KEPT), mallopt(_TRIM_THRESHOLD, 2**31 - 1)])
