"""The verbs, end to end on a toy world, and one clear sentence for each mistake."""

import csv
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import typer
from conftest import png, toy_sample, write_toy

from rsvlm import __main__ as cli
from rsvlm.evaluation import leakage, retrieval
from rsvlm.records import files, provenance, results, tables


def call(capsys, monkeypatch, *arguments):
    """Run the command line in this process; return its exit code and what it printed."""
    monkeypatch.setattr(sys, "argv", ["rsvlm", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    code = ended.value.code
    return (1, code) if isinstance(code, str) else (code or 0, captured.out + captured.err)


@pytest.fixture
def trained(toy_shards, tiny_preset, tmp_path, capsys, monkeypatch):
    settings = ["--set", "model.preset=test", "--set", "model.vocabulary_size=320", "--set", "train.steps=4"]
    code, text = call(
        capsys, monkeypatch, "train", "--data", toy_shards, "--out", tmp_path / "run", "--profile", "smoke", *settings
    )
    assert code == 0, text
    return tmp_path / "run" / "model"


def test_train_embed_evaluate(trained, toy_shards, tmp_path, capsys, monkeypatch):
    code, text = call(
        capsys, monkeypatch, "embed", "--model", trained, "--data", toy_shards, "--out", tmp_path / "emb", "--split", "test"
    )
    assert code == 0 and '"images": 48' in text
    out = tmp_path / "rows.json"
    code, text = call(
        capsys,
        monkeypatch,
        "evaluate",
        "retrieval",
        "--model",
        trained,
        "--data",
        toy_shards,
        "--split",
        "test",
        "--json",
        out,
    )
    assert code == 0, text
    rows = json.loads(out.read_text())
    assert all(set(row) == set(results.ROW) for row in rows)
    assert {(row["protocol"], row["direction"]) for row in rows} == {
        (protocol, direction) for protocol in retrieval.PROTOCOLS for direction in ("i2t", "t2i", "both")
    }
    assert "chance" in text
    made = json.loads((tmp_path / "rows.provenance.json").read_text())
    assert made["model"].endswith("model") and made["command"].startswith("rsvlm evaluate retrieval") and made["skipped"] == {}
    assert {"fingerprint", "data_hash", "benchmark", "commit", "versions", "seed"} <= set(made)
    code, text = call(capsys, monkeypatch, "table", out, "--format", "markdown")
    assert code == 0 and text.count("protocol skyscript:") == 1


def test_evaluate_classify(trained, tmp_path, capsys, monkeypatch):
    for index in range(12):
        array, _ = toy_sample(index)
        path = tmp_path / "scenes" / ("north", "south", "west", "east")[index % 4] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(array))
    (tmp_path / "mine.txt").write_text("# two sentences\na picture of {class}\n{class}\n")
    base = ["evaluate", "classify", "--model", trained, "--root", tmp_path / "scenes"]
    more = [
        "--prompts",
        "paper",
        "--prompts",
        tmp_path / "mine.txt",
        "--confusion",
        tmp_path / "c.csv",
        "--json",
        tmp_path / "r.json",
    ]
    code, text = call(capsys, monkeypatch, *base, *more, "--bootstrap-samples", "20")
    assert code == 0 and "top1[" not in text, text
    rows = json.loads((tmp_path / "r.json").read_text())
    assert {row["protocol"] for row in rows} == {"paper", "mine"} and {row["dataset"] for row in rows} == {"scenes"}
    assert {"top1", "balanced_accuracy", "ece", "top1[north]"} <= {row["metric"] for row in rows}
    counted = list(csv.DictReader((tmp_path / "c.csv").open()))
    assert sum(int(row["images"]) for row in counted if row["prompts"] == "mine") == 12
    for arguments, says in [
        ([*base, "--prompts", "poem"], "unknown prompt set 'poem'"),
        ([*base, "--benchmark", "EuroSAT"], "EuroSAT"),
        ([*base, "--root", tmp_path / "no"], "no benchmark folder"),
        (base[:4], "no benchmark folder"),
    ]:
        code, text = call(capsys, monkeypatch, *arguments)
        assert code != 0 and says in text, (arguments, text)


def test_evaluate_leakage(trained, toy_shards, tmp_path, capsys, monkeypatch):
    leaky = write_toy(tmp_path / "leaky", {"train": 100})  # the toy's train split, and four samples of its val split
    base = ["evaluate", "leakage", "--train", leaky, "--root", toy_shards, "--split", "val", "--bootstrap-samples", "20"]
    files = ["--list", tmp_path / "l.csv", "--html", tmp_path / "p.html", "--json", tmp_path / "r.json"]
    code, text = call(capsys, monkeypatch, *base, "--model", trained, "--protocol", "plain", *files)
    assert code == 0, text
    found = leakage.read_list(tmp_path / "l.csv")
    same = found[found["reason"] == "same bytes"]
    assert (same["train_key"] == same["benchmark_key"]).all() and len(same) == 4
    rows = json.loads((tmp_path / "r.json").read_text())
    splits = {row["split"] for row in rows if row["protocol"] == "plain"}
    assert splits == {"val", "val without overlap", "val without as many others"}
    assert "<h2>Pairs</h2>" in (tmp_path / "p.html").read_text()
    for arguments, says in [
        ([*base, "--split", "tset"], "no split 'tset'"),
        ([*base, "--train", tmp_path / "no"], "no is not there"),
        ([*base, "--distance", "40"], "distance"),
    ]:
        code, text = call(capsys, monkeypatch, *arguments)
        assert code != 0 and says in text, (arguments, text)


def test_evaluate_localize(trained, tmp_path, capsys, monkeypatch):
    (tmp_path / "set" / "images").mkdir(parents=True)
    rows = [{"id": n, "file_name": f"{n}.png", "height": 32, "width": 32} for n in range(4)]
    for n in range(4):
        (tmp_path / "set" / "images" / f"{n}.png").write_bytes(png(toy_sample(n)[0]))
    half = [[0, 0, 32, 0, 32, 16, 0, 16]]
    found = [{"id": n, "image_id": n, "category_id": n % 2, "segmentation": half} for n in range(4)]
    table = {"images": rows, "annotations": found, "categories": [{"id": 0, "name": "red"}, {"id": 1, "name": "blue_field"}]}
    (tmp_path / "set" / "instances.json").write_text(json.dumps(table))
    (tmp_path / "texts.json").write_text(json.dumps({"red": "a picture that is red", "blue field": ["blue", "a blue field"]}))
    base = ["evaluate", "localize", "--model", trained, "--benchmark", "coco", "--root", tmp_path / "set"]
    more = ["--method", "raw", "--method", "smooth", "--window", "3", "--against", "raw", "--bootstrap-samples", "20"]
    code, text = call(capsys, monkeypatch, *base, *more, "--json", tmp_path / "r.json", "--device", "cpu")
    assert code == 0 and "pointing[" not in text, text
    rows = json.loads((tmp_path / "r.json").read_text())
    protocols = ["raw", "smooth", "random", "centre", "brightness"]
    assert {row["protocol"] for row in rows} == {*protocols, *(f"{name} - raw" for name in protocols[1:])}
    assert {"pointing", "iou@0.5", "miou", "energy", "ap50", "presence_auc", "iou[red]"} <= {row["metric"] for row in rows}
    made = json.loads((tmp_path / "r.provenance.json").read_text())
    assert made["window"] == [3] and made["benchmark"] == "coco" and len(made["texts"]["blue field"]) >= 1
    few = [*base, "--no-baselines", "--class", "red", "--texts", tmp_path / "texts.json", "--everywhere", "--limit", "2"]
    code, text = call(capsys, monkeypatch, *few, "--background", "something else", "--bootstrap-samples", "20")
    assert code == 0 and "pointing" in text and "miou_best" not in text, text
    (tmp_path / "texts.json").write_text('{"red": []}')
    for arguments, says in [
        ([*base, "--method", "guess"], "unknown method 'guess'"),
        ([*base, "--window", "4"], "odd"),
        ([*base, "--class", "green"], "no class 'green'"),
        ([*base, "--benchmark", "masks"], "images/ and masks/"),
        ([*base, "--root", tmp_path / "no"], "not a folder"),
        ([*base, "--prompts", "poem"], "unknown prompt set 'poem'"),
        ([*base, "--texts", tmp_path / "texts.json"], "no sentence for class 'blue field'"),
        ([*base, "--class", "red", "--texts", tmp_path / "texts.json"], "a class has no sentence"),
        ([*base, "--against", "centre", "--no-baselines"], "no method 'centre'"),
        ([*base, "--model", tmp_path], "config.json is missing"),
    ]:
        code, text = call(capsys, monkeypatch, *arguments)
        assert code != 0 and says in text, (arguments, text)


def test_evaluate_list_and_files_of_embeddings(tmp_path, capsys, monkeypatch):
    code, text = call(capsys, monkeypatch, "evaluate", "--list")
    assert code == 0 and "RSICD: retrieval" in text and "beware" in text
    vectors = np.eye(12, dtype=np.float32)
    np.savez(tmp_path / "v.npz", image_embeddings=vectors, caption_embeddings=vectors, image_of_caption=np.arange(12))
    base = ["evaluate", "retrieval", "--model", f"embeddings:{tmp_path / 'v.npz'}", "--bootstrap-samples", "20"]
    code, text = call(capsys, monkeypatch, *base, "--protocol", "plain")
    assert code == 0 and "100.00" in text, text
    code, text = call(capsys, monkeypatch, *base, "--protocol", "skyscript")
    assert code == 1 and "captions" in text and "Traceback" not in text
    named = [*base, "--protocol", "remoteclip", "--benchmark", "RSICD", "--json", tmp_path / "named.json"]
    code, text = call(capsys, monkeypatch, *named)
    assert code == 1 and "12 images, the split 'test' of RSICD has 1,093" in text and "--partial" in text, text
    code, text = call(capsys, monkeypatch, *named, "--partial")
    assert code == 0 and "[73.54, 100.00]" in text, text  # 12 of 12
    code, text = call(capsys, monkeypatch, "table", tmp_path / "named.json", "--published")
    assert (
        code == 0 and "ours, beside no published figure (12 images" in text and "RemoteCLIP" in text and "RSITMD" not in text
    )
    code, text = call(capsys, monkeypatch, *base, "--ties", "lucky")
    assert code == 1 and "lucky" in text
    np.savez(tmp_path / "v.npz", image_embeddings=vectors * np.nan, caption_embeddings=vectors, image_of_caption=np.arange(12))
    code, text = call(capsys, monkeypatch, *base)
    assert code == 1 and "NaN" in text


def test_a_bad_request_stops_before_any_work(trained, toy_shards, tmp_path, capsys, monkeypatch):
    base = ["evaluate", "retrieval", "--model", trained, "--data", toy_shards, "--json", tmp_path / "x.json"]
    for arguments, says in [
        ([*base, "--split", "tset"], "no split 'tset'"),
        ([*base, "--protocol", "plane"], "unknown protocol"),
        ([*base, "--model", tmp_path], "config.json is missing"),
        ([*base, "--data", tmp_path / "no"], "no benchmark folder"),
        ([*base, "--device", "cuda:7"], "no CUDA device"),
        ([*base, "--benchmark", "RSCID"], "unknown benchmark 'RSCID'"),
        ([*base, "--per-class"], "does not say of what class"),
        (base[:4], "no benchmark folder"),
        (["table", "--format", "html"], "no format 'html'"),
        (["train", "--data", toy_shards, "--out", tmp_path / "t", "--set", "train.stepz=3"], "did you mean 'train.steps'"),
        (["book", "--profile", "huge"], "unknown profile"),
        (["bench", "retrieval", "--count", "3"], "python -m benchmarks"),
        (["run", tmp_path / "no.ipynb"], "no notebook"),
        (["table", "--no-such-option"], "No such option"),
    ]:
        code, text = call(capsys, monkeypatch, *arguments)
        assert code != 0 and says in text, (arguments, text)
    assert not (tmp_path / "x.json").exists() and not (tmp_path / "t").exists()


def outputs():
    """Every option of every command that names a file or folder to write, as (command, option)."""
    found = []

    def walk(command, path):
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*path, name])
        for parameter in command.params:
            option = next((text for text in parameter.opts if text.startswith("--")), "")
            if option in ("--out", "--json", "--html", "--geojson", "--confusion", "--embeddings", "--sample-sheet"):
                found.append((tuple(path), option))
            elif (path[-1:], option) == (["leakage"], "--list"):
                found.append((tuple(path), option))

    walk(typer.main.get_command(cli.app), [])
    return found


@pytest.mark.parametrize(("path", "option"), outputs(), ids=lambda value: value if isinstance(value, str) else " ".join(value))
def test_a_place_that_cannot_be_written_stops_every_command_before_its_work(path, option, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "inside"
    parameters = {
        p.name: p for p in functools.reduce(lambda c, n: c.commands[n], path, typer.main.get_command(cli.app)).params
    }
    given = [p for p in parameters.values() if p.required and option not in p.opts]
    arguments = [part for p in given for part in ([p.opts[0]] if p.opts[0].startswith("--") else []) + [str(tmp_path)]]
    code, text = call(capsys, monkeypatch, *path, *arguments, option, place)
    assert code == 1 and f"{place} cannot be written" in text and "it is no folder" in text, text


def test_one_command_at_a_time_writes_into_a_folder(trained, toy_shards, tmp_path, capsys, monkeypatch):
    train = ["train", "--data", toy_shards, "--profile", "smoke", "--set", "train.steps=4"]
    embed = ["embed", "--model", trained, "--data", toy_shards]
    web, earth = ["web", "build", "--input", tmp_path / "no.warc"], ["landmarks", "build"]
    index = ["search", "index", tmp_path, "--model", trained]
    scene = ["search", "scene", tmp_path, "a river", "--model", trained]
    with files.sole_writer(tmp_path / "out"):
        for command in (train, embed, web, earth, index, scene):
            code, text = call(capsys, monkeypatch, *command, "--out", tmp_path / "out")
            assert code == 1 and f"is being written by process {os.getpid()}" in text and "--out" in text, (command, text)
        code, text = call(
            capsys,
            monkeypatch,
            "evaluate",
            "retrieval",
            "--model",
            trained,
            "--data",
            toy_shards,
            "--embeddings",
            tmp_path / "out",
        )
        assert code == 1 and "another --embeddings" in text
        assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", ".lock.holder"}


def test_what_is_written_does_not_wait_for_a_reader(trained, toy_shards, tmp_path):
    """The pipe is closed before the first line: nothing is lost, and nothing is complained of."""
    out = tmp_path / "rows.json"
    command = [sys.executable, "-m", "rsvlm", "evaluate", "retrieval", "--model", trained, "--data", toy_shards, "--json", out]
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen([*map(str, command)], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 1 and "Traceback" not in errors and "BrokenPipe" not in errors, errors
    assert len(json.loads(out.read_text())) > 10 and (tmp_path / "rows.provenance.json").is_file()


def test_a_result_that_cannot_be_named_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    code, text = call(
        capsys, monkeypatch, "evaluate", "localize", "--model", tmp_path, "--root", tmp_path, "--save", "my run/1"
    )
    assert code == 1 and "'my run/1' cannot name a folder of results" in text


def test_landmarks_build_audit_show(capsys, monkeypatch, tmp_path):
    pytest.importorskip("rasterio", reason="the extra [data] is not installed")
    from tests.data.landmarks.test_build import write_features, write_raster

    raster, features = write_raster(tmp_path / "picture.tif"), write_features(tmp_path / "map.geojson")
    settings = [part for pair in ("size_px=64", "test_share=0", "val_share=0") for part in ("--set", f"chips.{pair}")]
    base = ["landmarks", "build", "--imagery", raster, "--map", features, "--workers", "1", *settings]
    code, text = call(capsys, monkeypatch, *base, "--captioner", "grammar", "--out", tmp_path / "data")
    assert (
        code == 0 and "train" in text and re.search(r"chips: 16 = \d+ kept \+ \d+ rejected\n  \d+ chips \(imagery\): ", text)
    ), text
    names = {path.name for path in (tmp_path / "data").iterdir()}
    assert {"manifest.json", "funnel.json", "rejected.jsonl", "train"} <= names
    sheet, page = tmp_path / "sheet.csv", tmp_path / "audit.html"
    code, text = call(
        capsys, monkeypatch, "landmarks", "audit", tmp_path / "data", "--sample-sheet", sheet, "--size", "5", "--html", page
    )
    assert code == 0 and '"kept"' in text, text
    assert len(sheet.read_text(encoding="utf-8-sig").splitlines()) == 6 and "<h1>Audit of captions</h1>" in page.read_text()
    code, text = call(capsys, monkeypatch, "landmarks", "show", tmp_path / "data", "--html", tmp_path / "map.html")
    assert code == 0 and "Lagoa Azul" in (tmp_path / "map.html").read_text()
    key = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert key["name"] == "rs-landmarks"
    for arguments, says in [
        (["landmarks", "build", "--map", features, "--out", tmp_path / "x"], "has its own map"),
        (["landmarks", "build", "--limits", "0,9", "--out", tmp_path / "x"], "has its own map"),
        (["landmarks", "build", "--imagery", raster, "--out", tmp_path / "x"], "--map"),
        ([*base, "--captioner", "parrot", "--out", tmp_path / "x"], "captioner.kind"),
        ([*base, "--set", "chips.min_landmarks=99", "--out", tmp_path / "none"], "was kept: "),
        (["landmarks", "audit", tmp_path / "none"], "was kept: "),
        ([*base, "--engine", "steam", "--out", tmp_path / "x"], "no engine 'steam'"),
        (["landmarks", "show", tmp_path / "data", "--key", "nothing", "--html", tmp_path / "y"], "no chip 'nothing'"),
        (["landmarks", "show", tmp_path, "--html", tmp_path / "y"], "manifest.json is missing"),
        (["landmarks", "audit", tmp_path / "nowhere"], "nowhere"),
    ]:
        code, text = call(capsys, monkeypatch, *arguments)
        assert code != 0 and says in text, (arguments, text)
    assert not (tmp_path / "x").exists() and not (tmp_path / "y").exists()


def test_doctor_says_what_is_there_and_what_is_missing(capsys, monkeypatch):
    code, text = call(capsys, monkeypatch, "doctor")
    assert code == 0 and "extra [demo]" in text and "torch" in text
    requirements = ["torch>=2", 'absent-package>=1; extra == "demo"', 'numpy; extra == "book"']
    monkeypatch.setattr(provenance.metadata, "requires", lambda name: requirements)
    code, text = call(capsys, monkeypatch, "doctor")
    assert (
        code == 0
        and "extra [demo]: missing absent-package" in text
        and "extra [book]: complete" in text
        and 'pip install -e ".[demo' in text
    )


def test_a_table_of_nothing_names_what_there_is(capsys, monkeypatch, tmp_path):
    for name in ("retreival", "nothing", "retrieval/laptop"):
        code, text = call(capsys, monkeypatch, "table", name)
        assert code == 1 and f"no result '{name}'" in text and "recall-at-k" in text, text
    assert "did you mean 'retrieval'" in call(capsys, monkeypatch, "table", "retreival")[1]
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    assert call(capsys, monkeypatch, "table") == (1, "rsvlm: there is no result; there are none yet")


def test_a_full_disk_is_one_sentence(capsys, monkeypatch, tmp_path):
    def full(*arguments, **named):
        raise OSError(28, "No space left on device", "shard.tar")

    monkeypatch.setattr(tables, "table", full)
    code, text = call(capsys, monkeypatch, "table")
    assert code == 1 and "no space left on the disk (shard.tar)" in text


def test_ctrl_c_is_one_sentence_and_the_run_can_continue(tmp_path):
    data = write_toy(tmp_path / "data", {"train": 24})
    settings = ["--profile", "smoke", "--set", "train.steps=100000", "--set", "train.batch_size=2"]
    command = [sys.executable, "-m", "rsvlm", "train", "--data", str(data), "--out", str(tmp_path / "run"), *settings]
    # A shell starts what it puts into the background with Ctrl-C ignored, and so would be this test's child.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    while process.poll() is None and not list((tmp_path / "run" / "checkpoints").glob("step-*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "rsvlm: stopped" in errors and "Traceback" not in errors
    assert not (tmp_path / "run" / "model").exists()


def test_results_are_printed_as_a_table(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    from rsvlm import config

    row = {"dataset": "toy", "split": "test", "protocol": "plain", "direction": "both", "metric": "mR"}
    row |= {"value": 12.5, "ci_low": 10.0, "ci_high": 15.0, "chance": 1.0, "n": 48}
    options = config.load("smoke")
    results.save_result(
        "retrieval", "smoke-seed0", options, [row], provenance.provenance(options, "0", "cpu", time.time(), "x")
    )
    code, text = call(capsys, monkeypatch, "table")
    assert code == 0 and "12.5" in text and "smoke-seed0" in text
    code, text = call(capsys, monkeypatch, "table", "--published", "--format", "csv")
    assert code == 0 and text.splitlines()[0].startswith("dataset,split,protocol")


def test_search_in_a_scene_and_in_an_archive(trained, capsys, monkeypatch, tmp_path):
    pytest.importorskip("rasterio")
    pytest.importorskip("shapely")
    from rasters import picture, write

    scene = write(tmp_path / "archive" / "scene.tif", picture(64, 96))
    wanted = ["--model", trained, "--out", tmp_path / "found", "--confidence", "0.05"]
    code, text = call(capsys, monkeypatch, "search", scene, "red in the north", "--text", "blue elsewhere", *wanted)
    assert code == 0 and text.count("highest confidence") == 2, text
    names = {"polygons.geojson", "heat.tif", "map.html", "search.json"}
    assert {path.name for path in (tmp_path / "found").iterdir()} == names
    features = json.loads((tmp_path / "found" / "polygons.geojson").read_text())["features"]
    assert features and {"rank", "score", "model", "source", "file"} <= set(features[0]["properties"])
    # options may come first, and the verb may be named
    first = tmp_path / "found" / "heat.tif"
    before = first.read_bytes()
    code, text = call(capsys, monkeypatch, "search", *wanted, "--text", "red in the north", "--text", "blue elsewhere", scene)
    assert code == 0 and first.read_bytes() == before, text
    meant = ["--band", "3", "--band", "2", "--band", "1", "--limits", "0,510", "--nodata", "file"]
    code, text = call(capsys, monkeypatch, "search", scene, "blue", *wanted, *meant, "--gpkg", "--csv")
    assert "polygons.geojson, polygons.gpkg, polygons.csv" in text and (tmp_path / "found" / "polygons.csv").is_file()
    facts = json.loads((tmp_path / "found" / "search.json").read_text())
    assert code == 0 and facts["bands"] == [3, 2, 1] and facts["limits"] == [[0, 510]] * 3, text

    code, text = call(
        capsys, monkeypatch, "search", "index", tmp_path / "archive", "--out", tmp_path / "index", "--model", trained
    )
    assert code == 0 and "6 chips, on 100 % of the ground" in text, text
    shown = ["--top", "2", "--html", tmp_path / "q.html", "--geojson", tmp_path / "q.geojson"]
    code, text = call(capsys, monkeypatch, "search", "query", tmp_path / "index", "red in the north", *shown)
    assert call(capsys, monkeypatch, "search", "query", tmp_path / "index", "--text", "red in the north", *shown) == (
        code,
        text,
    )
    assert code == 0 and text.startswith("red in the north\n    1  ") and "  scene.tif\n" in text, text
    assert len(json.loads((tmp_path / "q.geojson").read_text())["features"]) == 2
    assert "data:image/webp" in (tmp_path / "q.html").read_text()
    more = ["--not", "blue elsewhere", "--like", "scene_32_0_0^2", "--together", "--csv", tmp_path / "q.csv"]
    more += ["--gpkg", tmp_path / "q.gpkg", "--map", tmp_path / "map.html"]
    code, text = call(capsys, monkeypatch, "search", "query", tmp_path / "index", "red in the north", *more)
    assert code == 0 and text.startswith("red in the north, like scene_32_0_0^2, not blue elsewhere^0.5\n    1  "), text
    assert all((tmp_path / name).is_file() for name in ("q.csv", "q.gpkg", "map.html"))
    again = [
        "search",
        "index",
        tmp_path / "archive",
        scene,
        "--out",
        tmp_path / "index",
        "--model",
        trained,
        "--chip-m",
        "320",
    ]
    code, text = call(capsys, monkeypatch, *again)
    assert code == 0 and "12 chips" in text, text

    for arguments, words in (
        (["search", scene, "--model", trained], "--text"),
        (["search", scene, "--text", "x", *wanted, "--limits", "0,much"], "chips.limits"),
        (["search", scene, "--text", "x", *wanted, "--limits", "0,1,2"], "0,3000"),
        (["search", tmp_path / "absent.tif", "--text", "x", *wanted], "absent.tif does not exist"),
        (["search", "query", tmp_path / "archive", "red", "--model", trained], "search index IMAGERY"),
    ):
        code, text = call(capsys, monkeypatch, *arguments)
        assert code == 1 and words in text, text
    code, text = call(capsys, monkeypatch, "search", "--help")
    assert code == 0 and all(verb in text for verb in ("scene", "index", "query"))
