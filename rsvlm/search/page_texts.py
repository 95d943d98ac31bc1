"""The half of a model that reads queries, for the page that searches: a tokenizer that the page's script knows, and a tower as ONNX.

Three kinds are known: byte-level BPE as `model.tokenizer` trains it; the BPE of CLIP, whose words are in lower case and end in `</w>`;
and the WordPiece of BERT, in lower case, which sentence encoders have. The towers are those of this package, and of a CLIP of transformers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rsvlm.errors import ModelError, need
from rsvlm.model import embed, exporting, tokenizer
from rsvlm.model.encoder import Encoder

CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""How CLIP cuts a text into words, as transformers writes it; the page's script has the same rule."""


@dataclass(frozen=True)
class Texts:
    """A tokenizer that the page's script knows, its longest text in tokens, and the tower: (B, T) ids to (B, E) of norm 1."""

    tokens: PreTrainedTokenizerFast
    context: int
    model: nn.Module
    encode: Callable[[Tensor], Tensor]

    def export(self, path: Path) -> Path:
        """Write the tower as ONNX, for any B, and any T up to `context`; return the file."""
        example = torch.full((2, min(5, self.context)), self.tokens.eos_token_id)
        example[:, 0] = self.tokens.bos_token_id
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=1, max=self.context)}
        return exporting.export_tower(self.encode, self.model, path, ("tokens", "text_embeddings"), example, axes)


def open_texts(encoder: Encoder) -> Texts:
    """Take the half of a model that reads texts, where a browser can run it.

    Raises:
        ModelError: It is of another family, or its tokenizer is of another kind: its name, and what answers instead.
    """
    from rsvlm.model.others.hugging_face import HuggingFaceEncoder

    if isinstance(encoder, embed.MammutEncoder) and not hasattr(encoder, "tokenizer"):
        if encoder.model.tokenizer is None:
            raise ModelError("the model has no tokenizer: put its tokenizer.json beside the weights")
        texts = Texts(encoder.model.tokenizer, encoder.model.config.context_length, encoder.model, encoder.model.encode_text)
    elif isinstance(encoder, HuggingFaceEncoder):
        tokens = copy.deepcopy(encoder.tokenizer)
        tokens.model_max_length = encoder.model.config.text_config.max_position_embeddings
        texts = Texts(
            tokens, tokens.model_max_length, encoder.model, lambda ids: F.normalize(encoder.text_features(ids), dim=-1)
        )
    else:
        raise ModelError(f"a browser cannot run the texts of {encoder.name}: {_INSTEAD}")
    if not _known(json.loads(texts.tokens.backend_tokenizer.to_str())):
        raise ModelError(f"the tokenizer of {encoder.name} is not one that the search page reads: {_INSTEAD}")
    return texts


_OF_BERT = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}


def cut_to(encoder: Encoder, text: str) -> int:
    """Return to how many tokens a model cuts a text; 0 where it reads all of it, or does not say how it reads."""
    tokens = getattr(encoder, "tokenizer", None) or getattr(encoder.model, "tokenizer", None)
    if isinstance(tokens, PreTrainedTokenizerBase):
        positions = getattr(
            getattr(encoder.model.config, "text_config", None), "max_position_embeddings", tokens.model_max_length
        )
        return _over(len(tokens(text, split_special_tokens=True, verbose=False)["input_ids"]), positions)
    longest = getattr(tokens, "context_length", None)  # a tokenizer of open_clip, its own or one of transformers
    if longest and isinstance(inner := getattr(tokens, "tokenizer", None), PreTrainedTokenizerBase):
        return _over(len(inner(text, verbose=False)["input_ids"]), longest)
    return _over(len(tokens.encode(text)) + 2, longest) if longest and hasattr(tokens, "encode") else 0


def _over(count: int, longest: int) -> int:
    return longest if count > longest else 0


_INSTEAD = (
    "the search page runs models of this package and CLIPs of transformers (hf:FOLDER), with their own byte-level BPE or the WordPiece of a BERT; "
    "`rsvlm search index` and `rsvlm search query` answer with any model that reads texts"
)


def _known(rules: dict) -> bool:
    """Say whether the script has these rules: byte-level BPE, ours or CLIP's, or BERT's WordPiece."""
    bpe, cut, first = rules["model"], rules["pre_tokenizer"] or {}, rules["normalizer"]
    if bpe["type"] == "WordPiece":
        return first == _OF_BERT and cut == {"type": "BertPreTokenizer"} and bpe["continuing_subword_prefix"] == "##"
    other = ("dropout", "ignore_merges", "byte_fallback", "continuing_subword_prefix")
    if bpe["type"] != "BPE" or any(bpe.get(name) for name in other):
        return False
    if bpe.get("end_of_word_suffix") == "</w>":
        kinds = [part["type"] for part in (first or {}).get("normalizers", [])]
        parts = cut.get("pretokenizers", [{}])
        words = parts[0].get("pattern") == {"Regex": CLIP_WORDS} and parts[0]["invert"]
        return kinds == ["NFC", "Replace", "Lowercase"] and words and [part["type"] for part in parts[1:]] == ["ByteLevel"]
    plain = not bpe.get("end_of_word_suffix") and not bpe.get("unk_token") and first is None
    return plain and cut.get("type") == "ByteLevel" and cut["add_prefix_space"] and cut.get("use_regex", True)


def shrink(exact: Path, small: Path) -> Path:
    """Write an exported tower with weights of eight bits; return the file.

    Raises:
        MissingExtraError: `onnx` or `onnxruntime` is not installed.
    """
    onnx, quantization = need("onnx", "book"), need("onnxruntime.quantization", "book")
    graph = onnx.load(exact)
    # Else it asks for a step that adds nothing here.
    graph.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    del graph.graph.value_info[:]  # shapes of weights, which it turns around without telling them
    # Unsigned: two signed bytes overflow in the products of some processors, and not of others.
    quantization.quantize_dynamic(graph, small, weight_type=quantization.QuantType.QUInt8)
    return small


def embed_by_file(tower: Path, tokens: PreTrainedTokenizerFast, texts: Sequence[str]) -> np.ndarray:
    """Run an exported tower on one text at a time, as the page does: (M, E) float32."""
    onnxruntime = need("onnxruntime", "book")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tower, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"tokens": tokenizer.encode(tokens, [text])})[0] for text in texts])
