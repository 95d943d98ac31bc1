"""Files of weights on disk and on a hub: tensors in, and never code.

A hub is asked only for a model that is named as one of its own; `huggingface_hub` has the cache, the offline switch (`HF_HUB_OFFLINE`)
and the address (`HF_ENDPOINT`).
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rsvlm.errors import ModelError
from rsvlm.records.text import one_line

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
"""Names under which trainings keep the state dict of a checkpoint."""


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, in float32, without the `module.` of distributed trainings.

    Args:
        path: A safetensors file; the index of a sharded one (`….safetensors.index.json`); or a pickle of tensors (.pt, .pth, .bin,
            .ckpt), bare or as a training writes it.

    Raises:
        ModelError: It is missing or cut off, holds no tensors, or is a pickle with more than tensors, of which nothing is run.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"there is no file of weights {path}")
    if path.name.endswith(".index.json"):
        state = _read_shards(path)
    elif path.suffix in PICKLES:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ModelError(
                f"{path} holds more than tensors, and that could be code, so it is not opened: convert it to safetensors "
                f"where you trust it ({one_line(str(error))[:120]})"
            ) from error
        except Exception as error:  # of zip, pickle, torch: whatever a file can be wrong in
            raise ModelError(f"{path} cannot be read as weights; is it whole? ({type(error).__name__})") from error
    else:
        state = _read_safetensors(path)
    while isinstance(state, dict) and (
        inner := next((state[key] for key in WRAPPERS if isinstance(state.get(key), dict)), None)
    ):
        state = inner
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise ModelError(f"{path} holds no tensors by name: expected the state dict of a model")
    while all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def fill(model: nn.Module, state: dict[str, Tensor], path: Path | str, optional: Sequence[str] = ()) -> nn.Module:
    """Put weights into a model whose keys they have; return it.

    Args:
        model: The model; unchanged when anything fails.
        state: Weights by key.
        path: Where they come from, for the message.
        optional: Keys of the weights that may be left over: beginnings.

    Raises:
        ModelError: A key is missing, left over or of another shape; they are listed.
    """
    ours = model.state_dict()
    wrong = {
        "missing": [key for key in ours if key not in state],
        "extra": [key for key in state if key not in ours and not key.startswith(tuple(optional))],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
            for key, value in ours.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    if any(wrong.values()):
        lists = "; ".join(f"{kind}: {', '.join(keys[:20])}{' …' * (len(keys) > 20)}" for kind, keys in wrong.items() if keys)
        raise ModelError(f"the weights in {path} are of another model ({sum(map(len, wrong.values()))} keys) - {lists}")
    model.load_state_dict({key: state[key] for key in ours})
    return model


def from_hub(repository: str, files: Sequence[str] = ("*.json", "*.txt", "*.model", "*.safetensors")) -> tuple[Path, str]:
    """Find a model of a hub in the cache, or fetch it.

    Args:
        repository: `ORG/NAME`, or `ORG/NAME@REVISION`.
        files: Patterns of the files that are wanted.

    Returns:
        The folder in the cache, and the revision, a commit.

    Raises:
        ModelError: There is no network or no such repository, or it is gated. No token is told.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    name, _, revision = repository.partition("@")
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(files)))
    except GatedRepoError:
        raise ModelError(f"{name} is gated: accept its terms on its page, then log in with `hf auth login`") from None
    except RepositoryNotFoundError:
        raise ModelError(f"the hub has no {name}, or shows it only to those who are logged in: look at the spelling") from None
    except LocalEntryNotFoundError:
        raise ModelError(
            f"{name} is not in the cache, and the hub cannot be reached: fetch it with `hf download {name}`"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"{name} could not be fetched ({type(error).__name__}): try `hf download {name}`") from None
    return folder, folder.name


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {one_line(str(error))[:200]}") from error


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Read the files that an index of safetensors names, all of them beside it."""
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(names.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is no index of safetensors: expected weight_map") from error
    if strange := [name for name in files if Path(name).name != name]:
        raise ModelError(f"{index} names {strange[0]}, which is not beside it")
    state = {key: value for name in files for key, value in _read_safetensors(index.parent / name).items()}
    if missing := sorted(set(names) - set(state)):
        raise ModelError(f"{index}: its files lack {len(missing)} tensors, first {missing[0]}")
    return state
