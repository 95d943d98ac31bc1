"""The search page's files: the same answers as the model, the same ids in JavaScript, nothing taken unseen, no network needed."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch
from conftest import ROOT
from searching import CHIPS, HOSTILE, facts
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import rsvlm
from rsvlm import config
from rsvlm.book import live_search
from rsvlm.errors import DataError, ModelError, RsvlmError
from rsvlm.evaluation import embeddings
from rsvlm.model import embed, mammut, tokenizer
from rsvlm.model.others import opening
from rsvlm.records import files
from rsvlm.search import page as search_page, page_runtime, page_texts


def test_the_files_answer_as_the_model_does(home):
    queries = ["blue in the south", "a white picture", HOSTILE, "🏝️", "green " * 300]
    model = rsvlm.load(home / "model", device="cpu")
    gallery = np.fromfile(home / "made" / "vectors.bin", "<f4").reshape(CHIPS, -1)
    scores, rows = embeddings.search(embed.texts(model, queries), gallery, 8)
    found_scores, found_rows = search_page.search(home / "made", queries)
    np.testing.assert_allclose(found_scores, scores, rtol=0, atol=0.01 if facts(home)["tower"]["taken"] == "int8" else 1e-5)
    if facts(home)["tower"]["taken"] == "float32":
        np.testing.assert_array_equal(found_rows, rows)


def test_patches_add_up_to_the_chip(home):
    made, about = home / "made", facts(home)
    h, w = about["grid"]
    parts = np.fromfile(made / "patches.bin", np.int8).reshape(CHIPS, h, w, about["width"])
    chips = json.loads((made / "chips.json").read_text())
    scales = np.array([chip["scale"] for chip in chips])
    whole = (parts * scales[:, None, None, None]).mean(axis=(1, 2))
    vectors = np.fromfile(made / "vectors.bin", "<f4").reshape(CHIPS, -1)
    assert np.abs(whole - vectors).max() < scales.max() / 2 + 1e-6  # what rounding to int8 may take
    assert np.abs(parts).max() == 127


def test_pictures_and_places_belong_to_their_chips(home):
    from rsvlm.model import images

    chips = json.loads((home / "made" / "chips.json").read_text())
    data, start = (home / "made" / "pictures.bin").read_bytes(), 0
    for index, chip in enumerate(chips):
        array = images.decode(data[start : chip["end"]]).astype(int)
        assert np.abs(array - conftest.toy_sample(index)[0]).mean() < 25  # WebP, not another chip
        assert (chip["key"], chip["lon"]) == (f"toy-{index:05d}", -170.0 + 14 * index)
        start = chip["end"]
    assert start == len(data) and chips[3]["captions"][0] == HOSTILE


def test_static_answers_hold_no_markup_of_the_data(home):
    html = live_search.examples_html(home / "made", shown=CHIPS)
    assert html.count("<img ") == 2 * CHIPS and "onerror=alert(1)>" not in html and "&lt;img src=x" in html


def test_int8_is_taken_only_where_nothing_is_lost():
    exact = {"R@1": 20.0, "R@5": 40.0, "R@10": 60.0, "same_answers": 100.0}
    for change, expected in (
        ({}, "int8"),
        ({"R@1": 18.6}, "int8"),  # less than half a point in the mean
        ({"R@1": 18.4}, "float32"),
        ({"same_answers": 98.9}, "float32"),
        ({"R@10": 70.0}, "int8"),
    ):
        assert search_page.precision({"float32": exact, "int8": exact | change}) == expected, change


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
        search_page.build(f"timm:resnet18:{tmp_path / 'tower.pth'}", tmp_path, tmp_path / "made")


# A CLIP of transformers


def test_the_page_answers_as_a_clip_does_and_has_no_heat(clip, clip_made):
    told = json.loads((clip_made / "gallery.json").read_text())
    assert told["grid"] is None and not (clip_made / "patches.bin").exists()
    assert (told["context"], told["bos"], told["eos"], told["width"]) == (77, 49406, 49407, 16)
    encoder, queries = opening.open_encoder(f"hf:{clip}", "cpu"), ["Blue in the SOUTH", "a white picture", "🏝️", "green " * 300]
    gallery = np.fromfile(clip_made / "vectors.bin", "<f4").reshape(CHIPS, -1)
    scores, _ = embeddings.search(encoder.texts(queries), gallery, 8)
    found, _ = search_page.search(clip_made, queries)
    np.testing.assert_allclose(found, scores, rtol=0, atol=0.02 if told["tower"]["taken"] == "int8" else 1e-5)


def test_the_tokenizer_of_the_page_gives_clips_ids(clip, tmp_path):
    tokens = page_texts.open_texts(opening.open_encoder(f"hf:{clip}", "cpu")).tokens
    odd = [
        "A River, seen from ABOVE",
        "ΟΔΟΣ Σ ΣΑΣ",
        "İstanbul",
        "10 m × 20 m = 200 m²",
        "<|endoftext|> a <|startoftext|>b",
        "don't I'LL",
    ]
    texts = [*ODD, *odd, *random_texts(240, ["a satellite image of an airport with two runways", "It's a Harbour's quay."])]
    found = in_javascript(tokens, {"context": 77, "bos": 49406, "eos": 49407}, texts, tmp_path)
    expected = [tokenizer.encode(tokens, [text])[0].tolist() for text in texts]
    wrong = [ascii(text)[:80] for text, ids, (theirs, _) in zip(texts, expected, found, strict=True) if ids != theirs]
    assert len(texts) > 250 and not wrong, (len(wrong), wrong[:5])
    assert [cut for _, cut in found[:2]] == [True, True] and not found[texts.index("İstanbul")][1]


# The tokenizer in JavaScript

SCRIPTS = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xA00), (0x2000, 0x2070), (0x3040, 0x3100)]
SCRIPTS += [(0x4E00, 0x9000), (0xAC00, 0xD7A0), (0x1F300, 0x1FAFF), (0, 0x40), (0x20000, 0x2A000), (0xE000, 0x10000)]
ODD = ["a" * 10_000, "land " * 2000, "🏝️" * 2500, "陸" * 10_000, "<b>&amp;</b><script>alert(1)</script>", "<pad><eos> <bos>"]
ODD += ["   land   sea  ", "it's we'll I'D don’t", "\x85\ufeffx\u180ey\u3000z\x1c", "x\n\n\ty  ", "\u0301e\u0301"]
ODD += [" \u00a0 land \u00a0"]


def captions_of_the_grammar(folder: Path) -> list[str]:
    from rsvlm.data.demo import earth

    options = config.load("smoke", {"landmarks.max_chips": 250, "landmarks.captions_per_chip": 12}).landmarks
    earth.build(options, 0, folder, progress=False)
    import pandas as pd

    return [caption for captions in pd.read_parquet(folder / "chips.parquet").captions for caption in captions]


def random_texts(count: int, written: list[str]) -> list[str]:
    """Mixtures of one script, of any characters, and of captions."""
    draw, texts = random.Random(0), []
    while len(texts) < count:
        low, high = SCRIPTS[len(texts) % len(SCRIPTS)]
        codes = [draw.randrange(low, high) for _ in range(draw.randrange(1, 60))]
        codes += [draw.randrange(0x110000) for _ in range(draw.randrange(6))]
        letters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
        letters += draw.choice(written)[: draw.randrange(40)]
        if len(texts) % 3:
            draw.shuffle(letters)
        if (text := "".join(letters)).strip():
            texts.append(text)
    return texts


def in_javascript(tokens, facts: dict, texts: list[str], folder: Path) -> list:
    """Ids of each text by the page's script, and whether it was cut."""
    try:
        node = page_runtime.node()
    except RsvlmError as error:
        pytest.skip(str(error))
    given = {"tokenizer": json.loads(tokens.backend_tokenizer.to_str()), "facts": facts, "texts": texts}
    script = shutil.copy(ROOT / "book" / "_static" / "search.js", folder / "search.mjs")
    (folder / "given.json").write_text(json.dumps(given))
    command = [node, ROOT / "tests" / "js" / "tokenize.mjs", script, folder / "given.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_tokenizer_of_the_page_gives_the_same_ids(tmp_path):
    pytest.importorskip("mpl_toolkits.basemap_data", reason="the extra [demo] is not installed")
    written = captions_of_the_grammar(tmp_path / "data")
    tokens = tokenizer.train(written, 1500, 96)
    unique = list(dict.fromkeys(written))[:7000]
    texts = [*unique, *ODD, *random_texts(10_000 - len(unique), unique)]
    expected = [tokenizer.encode(tokens, [text])[0].tolist() for text in texts]
    assert len(texts) >= 10_000 and len(unique) > 1000 and max(map(len, expected)) == 96
    found = in_javascript(tokens, {"context": 96, "bos": 1, "eos": 2}, texts, tmp_path)
    wrong = [ascii(text)[:80] for text, ids, (theirs, _) in zip(texts, expected, found, strict=True) if ids != theirs]
    assert not wrong, f"{len(wrong)} of {len(texts)}: {wrong[:5]}"
    assert [cut for _, cut in found[len(unique) : len(unique) + 4]] == [True] * 4 and not found[len(unique) + 4][1]


# What comes from npm, and what happens without it


def test_other_bytes_than_expected_are_not_taken(tmp_path):
    for package in page_runtime.PACKAGES:
        with pytest.raises(DataError, match=re.escape(package.name) + " has the hash sha512-"):
            page_runtime.unpack(package, b"another package", tmp_path)
    assert not list(tmp_path.iterdir())


def npm(folder: Path, script: str) -> Path:
    folder.mkdir()
    path = folder / "npm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("script", "words"),
    [("echo 'npm error network unreachable' >&2; exit 1", "network unreachable"), ("exit 0", "it gave no file")],
)
def test_npm_that_fails_is_quoted(tmp_path, monkeypatch, script, words):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{npm(tmp_path / 'bin', script)}:/usr/bin:/bin")
    with pytest.raises(RsvlmError, match=words):
        page_runtime.runtime()


def test_without_npm_the_book_goes_on(tmp_path, monkeypatch, home, caplog):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    (tmp_path / "_toc.yml").write_text("root: book/index\n")
    assert live_search.prepare("smoke") and not (tmp_path / "book").exists()  # a book without the page
    (tmp_path / "_toc.yml").write_text("root: book/index\nchapters:\n- file: book/search\n")
    monkeypatch.setattr(live_search, "load_or_build", lambda options: home / "made")
    monkeypatch.setenv("PATH", f"{npm(tmp_path / 'bin', 'exit 1')}:/usr/bin:/bin")
    assert live_search.prepare("smoke") is False
    assert "npm could not fetch" in caplog.text and "make book" in caplog.text
    manifest = json.loads((tmp_path / "book" / "_static" / "search" / "manifest.json").read_text())
    assert manifest["runtime"] is None and "ort.js" not in manifest["files"]
    assert "<img" in (tmp_path / "book" / "generated" / "search.html").read_text()


def test_the_manifest_names_every_file_and_old_ones_go(tmp_path, home):
    ran = tmp_path / "ran"
    files.write_atomic(ran / "ort.js", "export {}")
    files.write_atomic(ran / "stage.json", "{}")
    files.write_atomic(tmp_path / "out" / "old.bin", "left")
    manifest = search_page.place(home / "made", ran, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == set(manifest["files"]) | {"manifest.json"} and "ort.js" in names
    assert not names & {"old.bin", "stage.json"}
    assert manifest["files"]["vectors.bin"]["bytes"] == (home / "made" / "vectors.bin").stat().st_size
