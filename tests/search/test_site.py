"""The page of an index as files: what is in them, how much rounding changes, and what is refused."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from indexed import EXAMPLES, HOSTILE_FILE, HOSTILE_TITLE

from rsvlm.errors import DataError, ModelError
from rsvlm.model import images
from rsvlm.model.others import opening
from rsvlm.search import site


def clustered(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Vectors of norm 1 as models give them: some kinds of many, and two columns that are large and hardly differ."""
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(40, width))
    vectors = kinds[rng.integers(0, 40, count)] + rng.normal(size=(count, width))
    vectors[:, [7, 100]] = 25 + 0.5 * rng.normal(size=(count, 2))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_rounding_to_bytes_changes_little_of_the_order():
    vectors = clustered(5000, 512)
    whole, columns = site.quantise(vectors)
    assert whole.dtype == np.int8 and np.abs(whole).max() == 127
    assert (np.abs(columns[0] + whole * columns[1] - vectors) <= columns[1] / 2 + 1e-6).all()
    assert site.kept_neighbours(vectors, whole, columns) > 97
    worse = (whole // 16 * 16).astype(np.int8)  # four bits: the measure sees what is lost
    assert site.kept_neighbours(vectors, worse, columns) < 85


def test_a_hundred_thousand_chips_have_at_most_sixty_megabytes():
    """By the formats alone: rows, outlines of four corners, and keys as they are written."""
    rng = np.random.default_rng(0)
    keys = [f"S2B_MSIL2A_20240518T134209_R124_T21JYM_256_{256 * (i % 400)}_{256 * (i // 400)}" for i in range(100_000)]
    content = json.dumps({"key": keys, "files": ["a.tif"], "file": [0] * len(keys)}, separators=(",", ":")).encode()
    vectors, columns = site.quantise(rng.normal(size=(100, 512)).astype(np.float32))
    table = pd.DataFrame({"outline": [rng.normal(size=8).tolist() for _ in range(100)]})
    places = site._places(table)["steps"]
    each = (vectors.nbytes + places.nbytes) / 100
    assert each * 100_000 + columns.nbytes + len(gzip.compress(content)) < 60e6


def test_the_files_are_those_of_the_index(indexed, page_folder):
    index, encoder = indexed
    facts = json.loads((page_folder / "data" / "index.json").read_text())
    assert (facts["chips"], facts["width"], facts["title"]) == (len(index), index.vectors.shape[1], HOSTILE_TITLE)
    manifest = json.loads((page_folder / "data" / "manifest.json").read_text())
    there = {path.name: path.stat().st_size for path in (page_folder / "data").iterdir() if path.name != "manifest.json"}
    assert {name: entry["bytes"] for name, entry in manifest["files"].items()} == there
    columns = json.loads(gzip.decompress((page_folder / "data" / "chips.json.gz").read_bytes()))
    assert columns["key"] == index.chips["key"].tolist() and HOSTILE_FILE in columns["files"]
    np.testing.assert_allclose([one["vector"] for one in facts["examples"]], encoder.texts(EXAMPLES), atol=1e-6)
    # Outlines to a part in four thousand millions of the whole
    steps = np.fromfile(page_folder / "data" / "places.bin", "<u4").reshape(len(index), facts["points"], 2)
    rings = np.stack(index.chips["outline"].tolist()).reshape(len(index), -1, 2)
    np.testing.assert_allclose(steps * np.array(facts["unit"]) + facts["origin"], rings, rtol=0, atol=1e-9)
    # The picture of a chip is that chip
    for row in (0, len(index) - 1):
        picture = images.decode((page_folder / "pictures" / "000" / f"{row:06d}.webp").read_bytes())
        assert np.abs(picture.mean((0, 1)) - index.pictures([row])[0].mean((0, 1))).max() < 8
    overview = images.decode((page_folder / "data" / "overview.webp").read_bytes())
    assert max(overview.shape) == site.OVERVIEW_PX


def test_names_and_titles_are_text_in_the_page(page_folder):
    html = (page_folder / "index.html").read_text()
    assert "<script>alert" not in html and "<img src=x" not in html and "&lt;script&gt;alert(2)" in html
    assert html.count("pictures/000/") == site.STATIC * len(EXAMPLES)  # what is seen without a script
    assert "http:" not in html and "https:" not in html  # nothing from elsewhere
    for path in (page_folder / "page").glob("*.js"):
        code = path.read_text()
        assert "innerHTML" not in code and "https:" not in code and "insertAdjacentHTML" not in code


def test_the_name_of_a_model_tells_no_path_of_this_machine(indexed, page_folder):
    for path in [page_folder / "index.html", *(page_folder / "data").glob("*.json")]:
        assert str(indexed[0].folder.parent) not in path.read_text(encoding="utf-8"), path.name


def test_each_source_is_named_once_with_its_licence_after_it(indexed, tmp_path):
    index, encoder = indexed
    several = {
        "attribution": "NASA, Blue Marble; GSHHG (1996); <b>GeoNames</b>",
        "licence": "free, credit NASA; LGPL-3.0; CC-BY-4.0",
    }
    sources = [
        several,
        {"attribution": "GSHHG (1996)", "licence": "BSD"},
        several,
        {"attribution": "Town", "licence": "unknown"},
    ]
    sources += [{"attribution": "", "licence": ""}, {"attribution": "A; B", "licence": "ODbL"}]
    told = dataclasses.replace(index, facts=index.facts | {"sources": index.facts["sources"] + sources})
    facts = site.write_site(told, tmp_path / "page", encoder, texts="server", progress=False)
    named = [
        "NASA, Blue Marble — free, credit NASA",
        "GSHHG (1996) — LGPL-3.0; BSD",
        "<b>GeoNames</b> — CC-BY-4.0",
        "Town",
        "A; B — ODbL",
    ]
    assert facts["licences"] == named
    html = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "licences:<br>NASA, Blue Marble — free, credit NASA<br>GSHHG (1996) — LGPL-3.0; BSD<br>&lt;b&gt;GeoNames" in html
    many = [{"attribution": f"Town {n}", "licence": "CC0-1.0"} for n in range(site.SOURCES + 2)]
    assert site._licences(dataclasses.replace(index, facts={"sources": many}))[-2:] == ["Town 4 — CC0-1.0", "and 2 more"]


def test_a_folder_of_other_things_is_left_alone_and_a_page_is_replaced(indexed, page_folder, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(DataError, match="holds other things .chapter.tex.*folder of its own"):
        site.write_site(indexed[0], tmp_path / "thesis", indexed[1], progress=False)
    assert (tmp_path / "thesis" / "chapter.tex").exists()
    (tmp_path / "pictures" / "pictures").mkdir(parents=True)
    with pytest.raises(DataError, match="no page of an index"):
        site.write_site(indexed[0], tmp_path / "pictures", indexed[1], progress=False)
    again = shutil.copytree(page_folder, tmp_path / "again")
    (again / "pictures" / "000" / "000999.webp").write_bytes(b"of an older index")
    facts = site.write_site(indexed[0], again, indexed[1], texts="server", progress=False)
    assert not (again / "pictures" / "000" / "000999.webp").exists() and not (again / "data" / "text.onnx").exists()
    assert facts["tower"] is None and "server" in facts["no_texts"]


def test_where_the_text_half_cannot_run_in_a_browser_it_is_said(indexed, tmp_path, monkeypatch):
    def refuse(encoder):
        raise ModelError("a browser cannot run the texts of this one")

    monkeypatch.setattr(site.page_runtime, "runtime", lambda: tmp_path)
    monkeypatch.setattr(site.page_texts, "open_texts", refuse)
    facts = site.write_site(indexed[0], tmp_path / "page", indexed[1], progress=False)
    assert facts["no_texts"] == "a browser cannot run the texts of this one" and len(facts["examples"]) == len(site.EXAMPLES)
    with pytest.raises(ModelError, match="cannot run"):
        site.write_site(indexed[0], tmp_path / "page", indexed[1], texts="browser", progress=False)


def test_a_large_text_half_is_made_smaller_and_that_is_told(home, tmp_path, monkeypatch, caplog):
    for name in site.page_runtime.FILES:
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(site.page_runtime, "runtime", lambda: tmp_path)
    (tmp_path / "data").mkdir()
    encoder = opening.open_encoder(home / "model", "cpu")
    assert site._text_half(encoder, tmp_path / "data", "")[0]["precision"] == "float32" and "eight bits" not in caplog.text
    monkeypatch.setattr(site, "EXACT_MB", 0)
    assert site._text_half(encoder, tmp_path / "data", "")[0]["precision"] == "int8"
    assert "in eight bits: some of its answers will differ" in caplog.text


def test_gone_imagery_is_told(indexed, tmp_path, monkeypatch):
    monkeypatch.setattr(type(indexed[0]), "pictures", lambda self, rows: [None] * len(rows))
    with pytest.raises(DataError, match="no chip of .* can be read"):
        site.write_site(indexed[0], tmp_path / "page", indexed[1], texts="server", progress=False)


def test_the_verb_says_what_it_made_and_how_to_see_it(indexed, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from rsvlm.search import commands

    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    options = ["page", str(indexed[0].folder), "--out", str(tmp_path / "page"), "--texts", "server", "--example", "red"]
    done = CliRunner().invoke(commands.app, options)
    assert done.exit_code == 0, done.output
    assert (
        "84 chips" in done.output and "python -m http.server --bind 127.0.0.1" in done.output and "search serve" in done.output
    )
    assert json.loads((tmp_path / "page" / "data" / "index.json").read_text())["examples"][0]["text"] == "red"


def table_of(*boxes: tuple[float, float, float, float]) -> pd.DataFrame:
    """A chip table with these boxes: west, south, east, north."""
    table = pd.DataFrame(boxes, columns=["west", "south", "east", "north"])
    table["outline"] = table[["west", "north", "east", "north", "east", "south", "west", "south"]].to_numpy().tolist()
    return table


def test_both_sides_of_the_180th_meridian_lie_together_on_the_map():
    table = site._together(table_of((179, -18, 179.5, -17), (179.9, -18, 180.1, -17), (-179.8, -18, -179, -17)))
    west, _, east, _ = site._bounds(table)
    assert east - west == pytest.approx(2.0) and -180.5 <= (west + east) / 2 <= 180.5
    np.testing.assert_allclose([np.reshape(ring, (-1, 2))[:, 0].min() for ring in table["outline"]], table["west"])
    assert (np.diff(table["west"]) > 0).all()  # in their order from west to east
    # Chips of one side, or of the whole Earth, stay as they are
    for boxes in (
        [(-54, -25, -53, -24), (-50, -25, -49, -24)],
        [(lon, 0, lon + 10, 5) for lon in range(-180, 180, 30)],
        [(170, 0, 171, 1)],
    ):
        pd.testing.assert_frame_equal(site._together(table_of(*boxes)), table_of(*boxes))


def test_a_chip_at_a_pole_does_not_stretch_the_map():
    near = [(10, 80, 12, 80.5), (14, 81, 15, 81.5)]
    for polar in ((-180, 89, 180, 90), (135, 89, 315, 90)):
        assert site._bounds(table_of(*near, polar)) == [10, 80, 15, 81.5]
    assert site._bounds(table_of((-180, 89, 180, 90))) == [-180, 89, 180, 90]
    overview = site._Overview(table_of(*near, (-180, 89, 180, 90)))
    for row in range(3):
        overview.add(row, np.full((8, 8, 3), 50 * (row + 1), np.uint8))
    assert set(np.unique(overview.pixels[..., 0])) == {0, 50, 100}
