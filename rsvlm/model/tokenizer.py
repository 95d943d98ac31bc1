"""Text to token ids and back: byte-level BPE trained on the training captions, saved beside the model.

Every text becomes `<bos> pieces <eos>`, padded on the right. Byte-level pieces need no unknown token: any string, in any script,
has an encoding and decodes to itself.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rsvlm.errors import DataError, ModelError

logger = logging.getLogger(__name__)

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2


def train(captions: Iterable[str], vocabulary_size: int, context_length: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE vocabulary from captions.

    Args:
        captions: Training captions; read once, in order, never held whole.
        vocabulary_size: Upper bound of the vocabulary, special tokens and the 256 bytes included.
        context_length: Longest encoding, in tokens, `<bos>` and `<eos>` included.

    Returns:
        A transformers tokenizer with `model_max_length == context_length`.

    Raises:
        DataError: There is no caption to learn from.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True)
    alphabet, special_tokens = pre_tokenizers.ByteLevel.alphabet(), [PAD, BOS, EOS]
    options = {"special_tokens": special_tokens, "initial_alphabet": alphabet, "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, **options)
    captions = iter(captions)
    if (first := next(captions, None)) is None:
        raise DataError("no caption to train a tokenizer on: is the training split empty?")
    tokenizer.train_from_iterator(itertools.chain([first], captions), trainer)
    special = [(BOS, BOS_ID), (EOS, EOS_ID)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=special)
    names = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, model_max_length=context_length, padding_side="right")


def of_bert(rules: str, context_length: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer by the rules of a BERT's `tokenizer.json`, which puts on both ends and cuts at the context.

    Raises:
        ModelError: They are not those of a BERT.
    """
    tokenizer = Tokenizer.from_str(rules)
    names = {"pad_token": "[PAD]", "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "[UNK]"}
    ids = {token: tokenizer.token_to_id(token) for token in names.values()}
    if absent := [token for token, number in ids.items() if number is None]:
        raise ModelError(f"there is no {absent[0]}, which a BERT has")
    if ids["[PAD]"] != PAD_ID:
        raise ModelError(f"[PAD] is {ids['[PAD]']}, and here it is {PAD_ID}")
    ends = [(token, ids[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, model_max_length=context_length, padding_side="right")


def load(folder: Path | str) -> PreTrainedTokenizerFast:
    """Load the tokenizer saved in a model folder.

    Raises:
        ModelError: The folder holds no readable `tokenizer.json`.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{path} is missing: a model folder holds tokenizer.json beside model.safetensors")
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder))
    except Exception as error:  # tokenizers raises a bare Exception on broken JSON
        raise ModelError(f"{path} cannot be read as a tokenizer: {error}") from error


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], counts: Counter | None = None) -> np.ndarray:
    """Encode texts as one array, as long as the longest of them.

    Args:
        tokenizer: Tokenizer of `train` or `load`; its `model_max_length` bounds T. Longer texts are cut before their `<eos>`, which
            is logged once.
        texts: B non-empty strings.
        counts: Counter that takes, as `text cut`, how many were cut. If None, they are only logged.

    Returns:
        (B, T) int64 token ids, `PAD_ID` after each text's end.

    Raises:
        DataError: A text is empty or blank: it would have an embedding that means nothing.
    """
    _check_present(tokenizer)
    if blank := [i for i, text in enumerate(texts) if not text.strip()]:
        raise DataError(f"text {blank[0]} of {len(texts)} is empty: drop it, or write a caption")
    options = {"truncation": True, "padding": "longest", "return_attention_mask": False}
    encodings = tokenizer(list(texts), split_special_tokens=True, **options)  # a caption that spells "<pad>" is text
    tokens = np.asarray(encodings["input_ids"], dtype=np.int64)
    if tokens.shape[1] == tokenizer.model_max_length:
        cut = sum(bool(e.overflowing) for e in encodings.encodings)
        if counts is not None:
            counts["text cut"] += cut
        if cut and not getattr(tokenizer, "said_cut", False):
            tokenizer.said_cut = True
            logger.warning("%d of %d texts were cut to %d tokens", cut, len(texts), tokens.shape[1])
    return tokens


def decode(tokenizer: PreTrainedTokenizerFast, tokens: np.ndarray) -> list[str]:
    """Turn (B, T) token ids back into B strings, special tokens left out."""
    _check_present(tokenizer)
    return [text.strip() for text in tokenizer.batch_decode(np.asarray(tokens), skip_special_tokens=True)]


def _check_present(tokenizer: PreTrainedTokenizerFast | None) -> None:
    if tokenizer is None:
        raise ModelError("this model came without a tokenizer: put its tokenizer.json beside the weights and load it again")
