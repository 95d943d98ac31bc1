"""Sentence encoders of the BERT family, such as MiniLM: their weights for `model.sentences`, and their tokenizers.

Those are read whose embedding is the mean of the last states, with absolute positions and GELU; a folder, or a zip of its files, is as
sentence-transformers or transformers writes it. What is built behind the last layer is left out.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rsvlm.errors import ModelError
from rsvlm.model import sentences, tokenizer, weights

FILES = ("config.json", "model.safetensors", "tokenizer.json")
POOLING = "1_Pooling/config.json"
"""How sentence-transformers says what the embedding is; transformers does not say it."""

_EXPECTED = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": sentences.NORM_EPS,
    "position_embedding_type": "absolute",
}
_SIZES = {
    "sentence_layers": "num_hidden_layers",
    "sentence_width": "hidden_size",
    "sentence_heads": "num_attention_heads",
    "vocab_size": "vocab_size",
}
_LAYER = {
    "attention.self.query": "attention.query",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "norm_attention",
    "intermediate.dense": "mlp.0",
    "output.dense": "mlp.2",
    "output.LayerNorm": "norm_mlp",
}


@dataclass(frozen=True)
class Known:
    """A sentence encoder that was read: its sizes in the words of `MammutConfig`, the weights of a `sentences.Bert`, its tokenizer."""

    sizes: dict[str, int]
    state: dict[str, Tensor]
    tokenizer: PreTrainedTokenizerFast


def read_sizes(path: Path, context_length: int) -> dict[str, int]:
    """Read what a sentence encoder is, without its weights: its sizes in the words of `MammutConfig`.

    Raises:
        ModelError: As `read`.
    """
    for name in FILES[1:]:
        _file(path, name)
    options, pooling = (_file(path, name, json.loads) for name in ("config.json", POOLING))
    if not isinstance(options, dict) or not isinstance(pooling or {}, dict):
        raise ModelError(f"{path} / config.json does not hold options by name")
    for name, value in _EXPECTED.items():
        found = options.get(name, "absolute" if name == "position_embedding_type" else None)
        if found != value:
            raise ModelError(f"{path}: {name}={found}, but sentence encoders here have {value}, as MiniLM")
    wanted = (*_SIZES.values(), "intermediate_size", "max_position_embeddings")
    if wrong := [name for name in wanted if not isinstance(options.get(name), int) or options[name] < 1]:
        raise ModelError(f"{path}: {wrong[0]}={options.get(wrong[0])} is no size")
    width, heads, longest = options["hidden_size"], options["num_attention_heads"], options["max_position_embeddings"]
    if options["intermediate_size"] != 4 * width or width % heads:
        raise ModelError(f"{path}: states of {width} go with an MLP of {4 * width} and a number of heads that divides them")
    if context_length > longest:
        raise ModelError(f"{path} reads {longest} tokens: give model.context_length={longest} at most, not {context_length}")
    ways = [name for name, value in (pooling or {}).items() if name.startswith("pooling_mode") and value is True]
    if ways not in ([], ["pooling_mode_mean_tokens"]) or (pooling or {}).get("pooling_mode", "mean") != "mean":
        raise ModelError(f"{path} does not embed a sentence by the mean of its tokens: take an encoder that does, as MiniLM")
    return {ours: options[theirs] for ours, theirs in _SIZES.items()}


def read(path: Path, context_length: int) -> Known:
    """Read a sentence encoder.

    Args:
        path: A folder, or a zip of its files, with `FILES`.
        context_length: Longest text, in tokens.

    Raises:
        ModelError: A file is missing or broken, or the encoder is of another kind.
    """
    sizes = read_sizes(path, context_length)
    state = _renamed(path, _file(path, "model.safetensors", load), sizes, context_length)
    words = _file(path, "tokenizer.json", lambda data: tokenizer.of_bert(data.decode(), context_length))
    if len(words) > sizes["vocab_size"]:
        raise ModelError(
            f"the tokenizer in {path} has {len(words)} entries, the encoder {sizes['vocab_size']}: they do not go together"
        )
    return Known(sizes, state, words)


def _file(path: Path, name: str, reader=None):
    """Read one file of a folder or zip, or see only that it is there; None where there is no word on its pooling."""
    try:
        file = (zipfile.Path(path) if path.is_file() else path) / name
        if file.is_file():
            return reader(file.read_bytes()) if reader else file
    except Exception as error:  # of zip, JSON, safetensors, tokenizers: whatever a file can be wrong in
        raise ModelError(f"{name} of {path} cannot be read: {error}") from None
    if name == POOLING:
        return None
    raise ModelError(f"{path} has no {name}: give the folder of a sentence encoder, with {', '.join(FILES)}")


def _renamed(path: Path, state: dict[str, Tensor], sizes: dict[str, int], context_length: int) -> dict[str, Tensor]:
    """Call a BERT's weights as `sentences.Bert` does; keys and values are one matrix here, and the type of a text is in its positions."""
    state = {re.sub(r"^.*?(?=(embeddings|encoder|pooler)\.)", "", key, count=1): value.float() for key, value in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith(("pooler.", "embeddings.position_ids"))}
    try:
        kind = state.pop("embeddings.token_type_embeddings.weight")[0]
        ours = {
            "token_embedding.weight": state.pop("embeddings.word_embeddings.weight"),
            "position_embedding.weight": state.pop("embeddings.position_embeddings.weight")[:context_length] + kind,
        }
        for end in ("weight", "bias"):
            ours[f"norm.{end}"] = state.pop(f"embeddings.LayerNorm.{end}")
            for i in range(sizes["sentence_layers"]):
                front = f"encoder.layer.{i}."
                for theirs, name in _LAYER.items():
                    ours[f"layers.{i}.{name}.{end}"] = state.pop(f"{front}{theirs}.{end}")
                pair = [state.pop(f"{front}attention.self.{name}.{end}") for name in ("key", "value")]
                ours[f"layers.{i}.attention.key_value.{end}"] = torch.cat(pair)
    except KeyError as error:
        raise ModelError(f"the weights in {path} are not those of a BERT: {error.args[0]} is missing") from None
    if state:
        raise ModelError(f"the weights in {path} are not those of a BERT: what is {sorted(state)[0]}?")
    with torch.device("meta"):
        shape = sizes["sentence_width"], sizes["sentence_layers"], sizes["sentence_heads"]
        bert = sentences.Bert(sizes["vocab_size"], context_length, *shape)
    weights.check(path, {key: (value.shape, ours[key]) for key, value in bert.state_dict().items()}, set())
    return ours
