"""An index taught by a file of labels, as the command line does it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rasters import write
from searching import HOSTILE, tiny_model
from typer.testing import CliRunner

from rsvlm.errors import DataError
from rsvlm.model.others.opening import open_encoder
from rsvlm.search import commands, index as archive, label_files, lessons, teaching

pytest.importorskip("pyproj")
pytest.importorskip("rasterio")

TEXTS = ["a red field", "a blue lake"]
SIDE = 12


def folder_model(folder):
    return open_encoder(folder / "model", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and an index of 144 chips of colours that differ."""
    place = tmp_path_factory.mktemp("taught")
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (3, SIDE, SIDE))
    noise = rng.integers(-20, 20, (3, 32 * SIDE, 32 * SIDE))
    picture = np.clip(np.kron(colours, np.ones((1, 32, 32), int)) + noise, 1, 255).astype(np.uint8)
    write(place / "scenes" / "a.tif", picture)
    model = tiny_model(TEXTS)
    model.save_pretrained(place / "model")
    model.tokenizer.save_pretrained(place / "model")
    archive.index(
        place / "scenes", folder_model(place), place / "index", model_folder=place / "model", batch_size=64, progress=False
    )
    return place


@pytest.fixture
def index(folder):
    return archive.open_index(folder / "index")


def labels_of(index, count: int) -> list[dict]:
    """Labels of chips, the redder half of them yes."""
    red = np.array([chip[..., 0].mean() for chip in index.pictures(range(count))])
    chips = index.rows(range(count)).to_dict("records")
    return [label_files.feature(chip, "yes" if yes else "no") for chip, yes in zip(chips, red > np.median(red))]


def run(*arguments: object):
    return CliRunner().invoke(commands.app, [str(one) for one in ("teach", *arguments)])


def test_ten_clicks_from_the_command_line(folder, index, tmp_path):
    out = tmp_path / "out"
    done = run(folder / "index", "--text", "a red field", "--propose", 5, "--top", 7, "--out", out)
    assert done.exit_code == 0, done.output
    assert "0 yes and 0 no on 144 chips" in done.output and "label some chips yes and some no" in done.output
    first = label_files.read(out / "labels.geojson")
    assert [one["properties"]["proposed"] for one in first] == [1, 2, 3, 4, 5] and not any(
        one["properties"]["label"] for one in first
    )
    # The order is the question's own, and its first is proposed first.
    asked = archive.query(index, ["a red field"], folder_model(folder), k=7)
    ranked = label_files.read(out / "ranked.geojson")
    assert [one["properties"]["key"] for one in ranked] == asked["key"].tolist()
    assert first[0]["properties"]["key"] == asked["key"][0]

    # Somebody answers four of five, and draws a point of their own.
    for number, one in enumerate(first[:4]):
        one["properties"]["label"] = "yes" if number % 2 else "no"
    chip = index.rows([140]).to_dict("records")[0]
    own = {
        "type": "Feature",
        "properties": {"label": "yes", "note": HOSTILE},
        "geometry": {"type": "Point", "coordinates": [chip["lon"], chip["lat"]]},
    }
    label_files.write(out / "labels.geojson", [*first, own])
    done = run(folder / "index", "--text", "a red field", "--labels", out / "labels.geojson", "--propose", 5, "--out", out)
    assert done.exit_code == 0, done.output
    assert "3 yes and 2 no" in done.output and "expected average precision" in done.output
    facts = json.loads((out / "teach.json").read_text())
    assert facts["method"] == "classifier" and facts["labels"] == {"yes": 3, "no": 2, "left_out": {}}
    assert set(facts["expected"]["first"]) == {"10", "50", "100"} and facts["history"][-1][0] == 5
    again = label_files.read(out / "labels.geojson")
    # What nobody answered is proposed anew or not at all; labels, and what was written beside them, are kept.
    assert [one["properties"]["label"] for one in again] == ["no", "yes", "no", "yes", "yes"] + [None] * 5
    assert again[4]["properties"]["note"] == HOSTILE
    keys = [one["properties"]["key"] for one in again[5:]]
    assert chip["key"] not in keys and not set(keys) & {one["properties"]["key"] for one in again[:4]}
    ranked = {one["properties"]["key"]: one["properties"] for one in label_files.read(out / "ranked.geojson")}
    assert ranked[chip["key"]]["label"] == "yes" and 0 <= ranked[chip["key"]]["probability"] <= 1


def test_files_of_yes_and_of_no(folder, index, tmp_path):
    features = labels_of(index, 12)
    for word in ("yes", "no"):
        some = [one for one in features if one["properties"]["label"] == word]
        label_files.write(
            tmp_path / f"{word}.geojson", [{**one, "properties": {"key": one["properties"]["key"]}} for one in some]
        )
    done = run(folder / "index", "--yes", tmp_path / "yes.geojson", "--no", tmp_path / "no.geojson", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "6 yes and 6 no" in done.output
    facts = json.loads((tmp_path / "out" / "teach.json").read_text())
    assert facts["asked"] == "what is labelled yes" and facts["on_labels"]["value"] > 0


def test_labels_teach_what_the_text_does_not_say(index):
    features = labels_of(index, 72)
    taught = lessons.teach(index, None, features, top=len(index))
    red = np.array([chip[..., 0].mean() for chip in index.pictures(range(len(index)))])
    rest = np.arange(72, len(index))
    rank = np.empty(len(index))
    rank[taught.lesson.order] = np.arange(len(index))
    better, worse = rank[rest][red[rest] > np.median(red)], rank[rest][red[rest] <= np.median(red)]
    assert (better[:, None] < worse).mean() > 0.75
    assert any("expected average precision" in line for line in lessons.lines(taught))


def test_faults_are_told_and_nothing_is_guessed(folder, index, tmp_path):
    chip = index.rows([0]).to_dict("records")[0]
    far = {"type": "Feature", "properties": {"label": "yes"}, "geometry": {"type": "Point", "coordinates": [-60.0, 70.0]}}
    path = label_files.write(tmp_path / "far.geojson", [far])
    done = run(folder / "index", "--text", "a red field", "--labels", path, "--out", tmp_path / "out")
    assert done.exit_code != 0 and isinstance(done.exception, DataError) and "1 outside the imagery" in str(done.exception)
    both = [label_files.feature(chip, "yes"), label_files.feature(chip, "no"), *labels_of(index, 8)[1:]]
    taught = lessons.teach(index, None, both, propose=200)
    assert "chip with both yes and no" in "\n".join(lessons.lines(taught))
    proposed = [one["properties"]["key"] for one in taught.labels if one["properties"].get("proposed")]
    assert chip["key"] not in proposed and len(proposed) == len(index) - 8
    with pytest.raises(DataError, match="say what to look for"):
        lessons.teach(index, None, [label_files.feature(chip, "no")])
    one_kind = lessons.teach(index, None, [label_files.feature(one, "yes") for one in index.rows(range(6)).to_dict("records")])
    assert one_kind.facts["expected"] is None and "no chip is labelled no" in "\n".join(lessons.lines(one_kind))


def test_more_labels_than_are_learnt_from_are_drawn_and_told(index, monkeypatch):
    monkeypatch.setattr(teaching, "MOST", 20)
    taught = lessons.teach(index, None, labels_of(index, 30))
    told = taught.facts["labels"]
    assert told["yes"] + told["no"] == 20 and sum(told["left_out"].values()) == 10


def test_names_of_strangers_are_one_line_in_a_terminal(index):
    taught = lessons.teach(index, None, labels_of(index, 8))
    for one in taught.labels:
        one["properties"]["key"] = f"\x1b[31m{HOSTILE}\n\u202e"
    told = "\n".join(lessons.lines(taught))
    assert "\x1b" not in told and "\u202e" not in told
