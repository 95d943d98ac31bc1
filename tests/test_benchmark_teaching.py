"""The benchmark of teaching: what is labelled is not what is measured, and its numbers are those it says they are."""

from __future__ import annotations

import importlib
import json
import subprocess

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from teaching_cases import archive
from typer.testing import CliRunner

from rsvlm.errors import DataError


@pytest.fixture
def bench():
    return importlib.import_module("benchmarks.teaching")


@pytest.fixture
def data(bench):
    """A set of two classes, one of them unknown for some chips, in blocks of two."""
    vectors, direction, truth = archive(240)
    labels = np.stack([truth, np.where(np.arange(240) % 9 == 0, -1, ~truth)], axis=1).astype(np.int8)
    texts = np.stack([direction, -direction]).astype(np.float32)
    return bench.Labelled("RSICD", ["a", "b"], vectors.astype(np.float32), texts, labels, np.arange(240) // 2)


def test_no_block_is_on_both_sides(bench, data):
    for seed in range(3):
        searched = bench.halves(data.blocks, seed)
        assert not set(data.blocks[searched]) & set(data.blocks[~searched]) and searched.sum() == 120
    assert (bench.halves(data.blocks, 0) != bench.halves(data.blocks, 1)).any()


def test_the_classifier_on_all_labels_is_a_logistic_regression(bench, data):
    yes = (data.labels[:, 0] == 1).astype(float)
    weights, offset = bench.all_labels(data.vectors, yes)
    scores = data.vectors @ weights + offset
    assert bench.precision(scores, yes == 1) > 0.9
    assert 1 / (1 + np.exp(-scores)) @ np.ones(240) == pytest.approx(yes.sum(), abs=0.01)  # the offset has no penalty


def test_a_user_who_labels_teaches(bench, data):
    rows = bench._rows(data, bench.teach_all(data, 2, [5, 20], 5), [5, 20])
    named = {(row["policy"], row["labels"]): row for row in rows}
    assert named["text alone", 0]["n"] == 4 and named["text alone", 0]["share"] is None
    ours, random = named["ours", 20], named["ours, random choice", 20]
    assert ours["ci_low"] <= ours["value"] <= ours["ci_high"] and ours["share_low"] <= ours["share"] <= ours["share_high"]
    gap = named["all labels of the half", 120]["value"]
    text = named["text alone", 0]["value"]
    assert ours["share"] == pytest.approx(100 * (ours["value"] - text) / (gap - text))
    assert ours["value"] > text and random["value"] != ours["value"]
    told = bench.table(rows)
    assert "ours" in told and "text alone" in told and "in the interval" in told


def test_the_verb_reads_vectors_that_were_kept_and_records_the_commit_wherever_it_runs(bench, data, tmp_path, monkeypatch):
    from benchmarks.__main__ import app

    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))

    parts = {part: getattr(data, part) for part in ("vectors", "texts", "labels", "blocks")}
    np.savez(tmp_path / "RSICD-val.npz", classes=np.array(data.classes), **parts)
    out = tmp_path / "rows.json"
    options = ["--benchmark", "RSICD", "--seeds", "1", "--labels", "5", "--labels", "10", "--vectors", tmp_path, "--json", out]
    done = CliRunner().invoke(app, ["teaching", *map(str, options)])
    assert done.exit_code == 0, done.output
    stored = json.loads(out.read_text())
    assert {row["labels"] for row in stored["rows"] if row["policy"] == "Rocchio"} == {5, 10}
    assert "--labels 5 --labels 10" in stored["provenance"]["command"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    assert stored["provenance"]["commit"] == (head or "unknown")
    with pytest.raises(DataError, match="name a model"):
        bench.measure(benchmark=["VHR-10"], vectors=str(tmp_path))
    with pytest.raises(DataError, match="expected some of RSICD"):
        bench.measure(benchmark=["ImageNet"])


def test_a_chip_shows_what_lies_in_it_by_half(bench, tmp_path):
    folder = tmp_path / "vhr10"
    (folder / "images").mkdir(parents=True)
    Image.fromarray(np.full((300, 560, 3), 90, np.uint8)).save(folder / "images" / "1.jpg")
    # Two chips side by side, from (24, 22) on; boxes are x, y, width, height.
    boxes = [(1, [100, 100, 20, 20]), (2, [270, 100, 40, 20]), (1, [275, 100, 20, 20])]
    content = {
        "categories": [{"id": 1, "name": "storage_tank"}, {"id": 2, "name": "ship"}],
        "images": [{"id": 7, "file_name": "1.jpg", "height": 300, "width": 560}],
        "annotations": [{"image_id": "7", "category_id": str(c), "bbox": json.dumps(box)} for c, box in boxes],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    classes, labels, blocks, pictures = bench._vhr10(tmp_path, "")
    assert classes == ["storage tank", "ship"] and blocks.tolist() == [7, 7]
    assert labels.tolist() == [[1, -1], [1, 1]]
    assert [picture.shape for picture in pictures] == [(256, 256, 3)] * 2
    with pytest.raises(DataError, match="RSVLM_DATA"):
        bench._vhr10(tmp_path / "none", "")
