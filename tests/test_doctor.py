"""The doctor knows every kind of input by what its own reader says of it, and builds nothing."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import tarfile
import zipfile

import mapping
import numpy as np
import pytest
import torch
from conftest import png, toy_sample, write_toy
from safetensors.torch import save_file

from rsvlm import __main__ as cli, doctor
from rsvlm.errors import DataError
from rsvlm.model import mammut, tokenizer
from rsvlm.search import index_files


def ask(where) -> tuple[doctor.Report, str]:
    report = doctor.look(str(where))
    return report, "\n".join(doctor.lines(report))


def kinds(report) -> list[str]:
    return [finding.kind for finding in report.findings]


@pytest.fixture
def model(tmp_path):
    sizes = {"image_size": 32, "patch_size": 8, "vision_width": 32, "vision_layers": 1, "vision_heads": 2}
    sizes |= {"text_width": 32, "text_layers": 1, "text_heads": 2}
    words = tokenizer.train(["a river", "an airport"], 300, 16)
    folder = tmp_path / "model"
    mammut.Mammut(mammut.MammutConfig(**sizes, vocab_size=len(words), context_length=16)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_a_model(model, tmp_path):
    report, text = ask(model)
    assert kinds(report) == ["a MaMMUT"] and "can do patches: maps of places, and searches of scenes" in text
    assert "vectors of 32 numbers, pictures of 32 px" in text and f"--model {model}" in text
    (model / "tokenizer.json").unlink()
    report, text = ask(model)
    assert not report.findings and "tokenizer.json is missing" in text
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickled.pt")
    assert "may run code" in ask(tmp_path)[1] or "nothing that is read here" in ask(tmp_path)[1]


def test_a_model_of_transformers_and_a_broken_one(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = tokenizer.train(["a river", "an airport"], 300, 16)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {
        "vocab_size": len(words),
        "max_position_embeddings": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = transformers.CLIPConfig(text_config=text, vision_config=sizes | {"image_size": 32, "patch_size": 8})
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(tmp_path)
    for where in (str(tmp_path), f"hf:{tmp_path}"):
        report, said = ask(where)
        assert len(report.findings) == 1 and report.findings[0].kind.startswith("a model of another package"), said
        assert f"--model hf:{tmp_path}" in said
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "model.safetensors")
    report, said = ask(tmp_path)
    assert not report.findings and "would be random" in said  # what transformers' reader says, not that of another kind


def test_pictures_with_captions(tmp_path):
    report, text = ask(write_toy(tmp_path / "toy", {"train": 6, "test": 3}))
    assert kinds(report) == ["pictures with captions, 'toy'"]
    assert "train: 6 pictures, 12 captions" in text and "test: 3 pictures" in text and "rsvlm train --data" in text

    folder = tmp_path / "table"
    (folder / "images").mkdir(parents=True)
    rows = [("filename", "title")] + [(f"{i}.png", f"picture {i}") for i in range(4)]
    for i in range(4):
        (folder / "images" / f"{i}.png").write_bytes(png(toy_sample(i)[0]) if i else b"")
    with open(folder / "test.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    report, text = ask(folder)
    assert kinds(report)[0] == "pictures with captions, 'table'" and sum(report.findings[0].left_out.values()) > 0
    assert "1 x " in text and "left out" in text


def test_pictures_with_classes_and_with_masks(tmp_path):
    for i in range(6):
        path = tmp_path / "scenes" / ("Forest", "Water")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(toy_sample(i)[0]))
    report, text = ask(tmp_path / "scenes")
    assert kinds(report) == ["pictures with classes, 'scenes'"] and "6 pictures of 2 classes: " in text and "classify" in text
    assert "without a picture" not in text
    (tmp_path / "scenes" / "Desert").mkdir()
    _, text = ask(tmp_path / "scenes")
    assert "6 pictures of 2 classes: " in text and "classes without a picture: 1: desert" in text.lower(), text

    root = tmp_path / "masks"
    images, annotations = [], []
    for i in range(3):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "images" / f"{i}.png").write_bytes(png(toy_sample(i)[0]))
        images.append({"id": i, "file_name": f"{i}.png", "width": 32, "height": 32})
        annotations.append(
            {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "segmentation": [[2, 2, 20, 2, 20, 20, 2, 20]]}
        )
    table = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "ship"}]}
    (root / "instances.json").write_text(json.dumps(table))
    report, text = ask(root)
    assert kinds(report) == ["pictures with masks, in the form 'coco'"]  # and its folder of pictures is no class
    assert "classes: ship" in text and "--benchmark coco" in text


def test_imagery_and_what_is_guessed_of_it(tmp_path):
    pytest.importorskip("rasterio", reason="the extra [data] is not installed")
    import rasters

    scene = rasters.write(tmp_path / "folder" / "scene.tif", rasters.picture(300, 280))
    for where in (scene, tmp_path / "folder"):
        report, text = ask(where)
        assert kinds(report) == ["imagery, 1 source"], text
        assert "280 x 300 px (raster)" in text and "1 chips of 256 px fit in" in text
        assert "bands 1, 2, 3 shown, values as they are" in text and not report.findings[0].guessed  # it says which are which
        assert "search scene" in text and "landmarks build --imagery" in text
    small = rasters.write(tmp_path / "small" / "scene.tif", rasters.picture(64, 64))
    report, text = ask(small)
    assert "no chip of 256 px fits" in text and "search scene" in text and "landmarks build" not in text
    (tmp_path / "folder" / "broken.tif").write_bytes(b"II*\0nothing")
    report, text = ask(tmp_path / "folder")
    assert kinds(report) == ["imagery, 1 source"] and report.findings[0].left_out == {"raster cannot be used": 1}
    tiles = rasters.write_tiles(tmp_path / "tiles", rasters.mosaic()[1], "{z}/{x}/{y}.png")
    assert kinds(ask(tiles)[0]) == ["tiles of imagery, 1 source"]


def test_what_cannot_be_read_is_said_before_a_build(tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="the extra [data] is not installed")
    import rasters

    whole = rasters.write(tmp_path / "whole.tif", rasters.picture(300, 280)).read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[:1500])  # as a download that stopped: sizes and place are there, pixels are not
    report, text = ask(tmp_path / "cut.tif")
    assert not report.findings and "no pixel can be read" in text and "copy it again" in text
    with rasterio.open(tmp_path / "dem.img", "w", driver="HFA", width=8, height=8, count=1, dtype="uint8"):
        pass
    assert "rio convert" in ask(tmp_path / "dem.img")[1]
    (tmp_path / "photo.png").write_bytes(png(np.zeros((8, 8, 3), np.uint8)))
    text = ask(tmp_path / "photo.png")[1]
    assert "rio convert" in text and f"rsvlm doctor {tmp_path}" in text


def test_a_guess_is_told_once_and_paths_can_be_copied(tmp_path):
    pytest.importorskip("rasterio", reason="the extra [data] is not installed")
    import rasters

    where = rasters.write(tmp_path / "my scene.tif", rasters.picture(300, 280).astype("float32") / 255)
    report, text = ask(where)
    assert text.count("which of its 3 bands are red, green and blue") == 1
    assert f"rsvlm search scene '{where}' --text" in text and f"--imagery '{where}' --map MAP" in text


def test_what_nothing_reads_is_told_what_to_do(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in ask(tmp_path / "empty")[1]
    for name in ("map.shp", "map.dbf", "captions.json", "slides.pdf"):
        (tmp_path / name).write_text("{}")
    assert f"a part of a shapefile: rsvlm doctor {tmp_path / 'map.shp'}" in ask(tmp_path / "map.dbf")[1]
    assert f"read with the folder that holds them all: rsvlm doctor {tmp_path}" in ask(tmp_path / "captions.json")[1]
    assert "read are " in ask(tmp_path / "slides.pdf")[1] and ".geojson" in ask(tmp_path / "slides.pdf")[1]


def test_one_table_for_all_splits_is_no_test(tmp_path):
    (tmp_path / "a.png").write_bytes(png(np.zeros((8, 8, 3), np.uint8)))
    (tmp_path / "captions.csv").write_text("image,caption\na.png,a river\n")
    report, text = ask(tmp_path)
    assert "train: 1 pictures" in text and "test: the same pictures" in text


def test_a_map(tmp_path):
    pytest.importorskip("pyogrio", reason="the extra [data] is not installed")
    features = [mapping.point(8.0 + i / 100, 50, amenity="school", name=f"School {i}") for i in range(3)]
    where = mapping.write(tmp_path / "map.geojson", *features, mapping.point(8, 50, nothing="known"))
    report, text = ask(where)
    assert kinds(report) == ["a map"], text
    assert "3 features, 3 of them with a name: 3 school" in text and f"--map {where}" in text
    assert report.findings[0].left_out == {"unmapped tags": 1} and not report.findings[0].guessed
    text = ask(mapping.write(tmp_path / "own.geojson", mapping.point(8, 50, nothing="known")))[1]
    assert "no feature of" in text and "as in #category=" in text


def test_candidates_of_the_web(tmp_path):
    pytest.importorskip("fastwarc", reason="the extra [data] is not installed")
    with open(tmp_path / "links.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("URL", "TEXT"), ("https://example.org/a.jpg", "a harbour seen from above"), ("", "no address")]
        )
    report, text = ask(tmp_path / "links.csv")
    assert kinds(report) == ["candidates of the web (csv)"]
    assert report.findings[0].left_out, text  # the row without an address, in words
    (tmp_path / "texts.csv").write_text("url,caption\nhttps://example.org/a.jpg,a harbour\nhttps://example.org/b.jpg,\n")
    assert any("without a text" in reason for reason in ask(tmp_path / "texts.csv")[0].findings[0].left_out)
    assert "url in the column 'URL'" in text and "1 candidates; the first: 'a harbour seen from above'" in text
    page = b"<html><body><img src='a.jpg' alt='a harbour seen from above'></body></html>"
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://example.org/\r\nContent-Length: {len(answer)}\r\n"
    head += "WARC-Record-ID: <urn:uuid:1>\r\nContent-Type: application/http; msgtype=response\r\n\r\n"
    (tmp_path / "crawl.warc.gz").write_bytes(gzip.compress(head.encode() + answer + b"\r\n\r\n"))
    report, text = ask(tmp_path / "crawl.warc.gz")
    assert kinds(report) == ["candidates of the web (warc)"] and "https://example.org/a.jpg" in text, text
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    report, text = ask(tmp_path / "other.csv")
    assert not report.findings and "as candidates of the web" in text


def test_vectors_trainings_and_packed_folders(tmp_path):
    arrays = {"image_embeddings": np.ones((2, 3)), "caption_embeddings": np.ones((4, 3)), "image_of_caption": [0, 0, 1, 1]}
    np.savez(tmp_path / "e.npz", **arrays)
    for where in (tmp_path / "e.npz", f"embeddings:{tmp_path / 'e.npz'}"):
        report, text = ask(where)
        assert "2 pictures, 4 captions, 3 numbers each" in text and "--protocol" in text

    run = tmp_path / "run"
    (run / "checkpoints" / "step-000050").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"options": {"train": {"steps": 300}, "model": {"preset": "nano"}}}))
    report, text = ask(run)
    assert kinds(report) == ["a training that is not finished"] and "the last checkpoint after 50" in text

    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as file:
        file.writestr("a/1.tif", b"x")
        file.writestr("a/2.tif", b"x")
    report, text = ask(tmp_path / "pictures.zip")
    assert kinds(report)[-1] == "a packed folder" and "2 .tif" in text and "unpack it" in text
    with tarfile.open(tmp_path / "000000.tar", "w") as file:
        for name in ("1.png", "1.txt"):
            member = tarfile.TarInfo(name)
            member.size = 1
            file.addfile(member, io.BytesIO(b"x"))
    assert "put it into a folder" in ask(tmp_path / "000000.tar")[1]


def test_an_index(tmp_path):
    facts = {"imagery": ["/somewhere"], "chips": 7, "model": "", "fingerprint": "0", "options": {}, "skipped": {"no data": 2}}
    facts["form"] = index_files.FORM
    (tmp_path / "index.json").write_text(json.dumps(facts))
    report, text = ask(tmp_path)
    assert kinds(report) == ["an index of imagery"] and "7 chips of /somewhere" in text and "2 x no data" in text


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["rsvlm", "doctor", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().out


def test_the_verb_tells_all_and_fails_where_nothing_takes_an_input(tmp_path, monkeypatch, capsys):
    toy = write_toy(tmp_path / "toy", {"test": 3})
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    code, text = call(monkeypatch, capsys, toy)
    assert not code and "pictures with captions" in text
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before  # nothing was built

    (tmp_path / "notes.txt").write_text("nothing that anybody reads")
    code, text = call(monkeypatch, capsys, toy, tmp_path / "notes.txt", "--json", tmp_path / "answers.json")
    assert "nothing here reads" in code and "notes.txt" in code and "pictures with captions" in text
    first, second = json.loads((tmp_path / "answers.json").read_text())
    assert first["findings"][0]["commands"] and not second["findings"] and second["refusals"]

    assert "there is no" in call(monkeypatch, capsys, tmp_path / "absent")[0]
    assert "name some" in call(monkeypatch, capsys, "--json", tmp_path / "x.json")[0]
    with pytest.raises(DataError, match="there is no"):
        doctor.look(str(tmp_path / "absent"))


def test_folders_of_data_are_named(tmp_path):
    write_toy(tmp_path / "one", {"test": 3})
    (tmp_path / "map.geojson").write_text("{}")
    report, text = ask(tmp_path)
    assert report.inside == ["map.geojson", "one/"] and "ask about these, too: map.geojson, one/" in text


def test_a_reader_that_fails_is_told_and_stops_no_other(tmp_path, monkeypatch):
    def fails(where):
        raise ZeroDivisionError("by zero")

    toy = write_toy(tmp_path / "toy", {"test": 3})
    always = ("a thing", lambda where, path: True, fails)
    monkeypatch.setattr(doctor, "KINDS", [always, *doctor.KINDS])
    assert kinds(ask(toy)[0]) == ["pictures with captions, 'toy'"]
    monkeypatch.setattr(doctor, "KINDS", [always])
    assert ask(toy)[0].refusals == {"a thing": "the reader failed (ZeroDivisionError: by zero)"}
