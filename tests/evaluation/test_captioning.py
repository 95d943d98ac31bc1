"""Captions are scored as COCO's own code scores them, resampled without scoring again, and stand beside captions that took no model."""

import json
import logging
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import toy_sample, write_toy

from rsvlm import __main__ as cli
from rsvlm.data import shards
from rsvlm.errors import DataError, MissingExtraError, ModelError
from rsvlm.evaluation import baselines, captioning, statistics
from rsvlm.evaluation.captioning import FREQUENT, METRICS, NEAREST, RANDOM
from rsvlm.model import embed, mammut, tokenizer, weights
from rsvlm.model.encoder import Encoder
from rsvlm.records import results

WORDS = "the a river runs through dense green forest beside many white houses near small harbour with ships and road".split()


@pytest.fixture
def coco():
    """COCO's own evaluation, without its tokenizer."""
    for package in ("sacrebleu", "pycocoevalcap"):
        pytest.importorskip(package, reason="the extra [captions] is not installed")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    def scores(written, references):
        theirs, ours = dict(enumerate(references)), {i: [text] for i, text in enumerate(written)}
        values = [*Bleu(4).compute_score(theirs, ours, verbose=0)[0], Rouge().compute_score(theirs, ours)[0]]
        return dict(zip(METRICS, [100 * value for value in [*values, Cider().compute_score(theirs, ours)[0]]]))

    return scores


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A folder with a tiny MaMMUT of random weights."""
    folder = tmp_path_factory.mktemp("writer") / "model"
    words = tokenizer.train([caption for i in range(50) for caption in toy_sample(i)[1]], 320, 24)
    torch.manual_seed(0)
    sizes = {"image_size": 32, "vision_width": 32, "vision_layers": 1, "vision_heads": 2}
    sizes |= {"text_width": 32, "text_layers": 2, "text_heads": 2, "context_length": 24}
    model = mammut.Mammut(mammut.MammutConfig(**sizes, vocab_size=len(words)))
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)  # fresh from the start it writes one word for every picture
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def made(count, seed=0, most=5):
    """Candidates and references of random words, some of them shared, some candidates short or empty."""
    rng = np.random.default_rng(seed)

    def text(least):
        return " ".join(rng.choice(WORDS, rng.integers(least, 14)))

    references = [captioning.references(text(3) for _ in range(rng.integers(1, most + 1))) for _ in range(count)]
    written = [text(0) if i % 3 else references[i][0] for i in range(count)]
    return written, references


@pytest.mark.parametrize("seed", range(5))
def test_the_scores_are_those_of_coco(coco, seed):
    written, references = made(40, seed)
    scores = captioning.score(written, references, np.ones((1, 40), int))
    assert list(scores) == list(METRICS)
    assert {name: float(values[0]) for name, values in scores.items()} == pytest.approx(coco(written, references), rel=1e-6)


def test_a_perfect_caption_scores_all_and_an_empty_one_nothing(coco):
    _, references = made(20)
    ones = np.ones((1, 20), int)
    best = captioning.score([texts[0] for texts in references], references, ones)
    assert [best[f"BLEU-{n}"][0] for n in range(1, 5)] == pytest.approx([100] * 4) and best["ROUGE-L"][0] == pytest.approx(100)
    assert captioning.score([". ,"] * 20, references, ones) == {name: [0] for name in METRICS}

    # one empty among others is counted, and costs what COCO lets it cost
    written = ["", *(texts[0] for texts in references[1:])]
    scores = captioning.score(written, references, ones)
    assert {name: float(v[0]) for name, v in scores.items()} == pytest.approx(coco(written, references), rel=1e-6)
    assert scores["ROUGE-L"][0] == pytest.approx(100 * 19 / 20)


def test_repeated_and_empty_captions_are_no_further_references(coco):
    assert captioning.references(["A river.", "a river", " , ", "", "A road , wide ."]) == ["a river", "a road wide"]
    written, references = made(15)
    padded = [(texts * 5)[:5] for texts in references]
    once = coco(written, [captioning.references(texts) for texts in padded])
    scores = captioning.score(written, references, np.ones((1, 15), int))
    assert {name: float(values[0]) for name, values in scores.items()} == pytest.approx(once, rel=1e-6)
    many = coco(written, padded)
    assert [many[name] for name in METRICS[:-1]] == pytest.approx([once[name] for name in METRICS[:-1]])
    assert many["CIDEr"] != pytest.approx(once["CIDEr"], rel=1e-3)


def test_a_resample_scores_as_if_its_images_were_there_so_often(coco):
    written, references = made(30)
    times = statistics.resamples(30, 4, 0)
    scores = captioning.score(written, references, times)
    alone = [100 * v for v in _of_images(written, references)]
    for row, counts in enumerate(times):
        drawn = np.repeat(np.arange(30), counts)
        expected = coco([written[i] for i in drawn], [references[i] for i in drawn])
        for name in METRICS[:-1]:
            assert scores[name][row] == pytest.approx(expected[name], rel=1e-6), name
        assert scores["CIDEr"][row] == pytest.approx(np.mean([alone[i] for i in drawn]))  # words weigh as in the whole set


def _of_images(written, references):
    from pycocoevalcap.cider.cider import Cider

    return Cider().compute_score(dict(enumerate(references)), {i: [text] for i, text in enumerate(written)})[1]


def test_numbers_that_do_not_fit_are_refused():
    ones = np.ones((1, 2), int)
    for written, references in ((["a"], [["a"], ["b"]]), (["a", "b"], [["a"], []]), ([], [])):
        with pytest.raises(DataError, match="expected one caption for each image, at least one reference"):
            captioning.score(written, references, ones)


@pytest.mark.parametrize(
    "text, words",
    [
        ("A small, low-lying village; it's near the river .", "a small low-lying village it's near the river"),
        ("Weiß -- 3.5 km (two miles)!", "weiß 3.5 km two miles"),
        ("“Été” -a- 'quoted'", "été a quoted"),
        ("道路 。", "道路"),
        (" ... ", ""),
    ],
)
def test_words_are_in_lower_case_without_signs_around_them(text, words):
    assert captioning.plain_words(text) == words


def pictures(arrays, texts):
    return captioning.Pictures(list(map(str, range(len(arrays)))), texts, np.stack([baselines.colours(a) for a in arrays]))


def test_captions_that_took_no_model():
    red, green = (np.full((9, 12, 3), colour, np.uint8) for colour in ((200, 30, 30), (30, 160, 40)))
    train = pictures([red, green, green], [["clay", "a field"], ["forest", "a field"], ["trees"]])
    others = captioning.without_model(train, pictures([green, red, green], [["x"]] * 3))
    assert others[FREQUENT] == ["a field"] * 3 and others[NEAREST] == ["forest", "clay", "forest"]
    assert others[RANDOM] == captioning.without_model(train, pictures([red] * 3, [["x"]] * 3))[RANDOM]
    many = captioning.without_model(train, pictures([red] * 500, [["x"]] * 500))[RANDOM]
    assert Counter(many).most_common(1)[0][0] == "a field" and set(many) == {"clay", "a field", "forest", "trees"}

    # of captions as frequent the first by alphabet
    assert captioning.without_model(pictures([red], [["b", "a"]]), train)[FREQUENT] == ["a"] * 3
    with pytest.raises(DataError, match="1 of the 2 pictures asked for are among those of training"):
        captioning.without_model(train, captioning.Pictures(["0", "new"], [train.references[0], ["x"]], train.colours[:2]))


def test_rows_have_intervals_chance_and_the_gap_to_the_best_without_a_model(coco):
    written, references = made(40)
    shown = captioning.Pictures(list(map(str, range(40))), references, np.zeros((40, 54), np.float32))
    rng = np.random.default_rng(1)
    others = {FREQUENT: ["the river"] * 40, RANDOM: [" ".join(rng.choice(WORDS, 6)) for _ in range(40)]}
    rows = captioning.evaluate(written, shown, others, dataset="made", bootstrap_samples=200)
    assert len(rows) == 4 * len(METRICS) and all(results.checked_row(row) for row in rows)
    by = {(row["protocol"], row["metric"]): row for row in rows}
    for row in rows:
        assert row["ci_low"] < row["value"] < row["ci_high"] or row["value"] == 0
    for metric in METRICS:
        best = max(others, key=lambda name: by[name, metric]["value"])
        gap = by[f"greedy minus {best}", metric]
        assert gap["value"] == pytest.approx(by["greedy", metric]["value"] - by[best, metric]["value"])
        assert by["greedy", metric]["chance"] == by[RANDOM, metric]["value"] and gap["chance"] is None
    again = captioning.evaluate(written, shown, others, dataset="made", bootstrap_samples=200)
    assert again == rows

    # what is paired with itself differs by nothing
    same = captioning.evaluate(written, shown, {FREQUENT: written}, bootstrap_samples=20)
    assert {(r["value"], r["ci_low"], r["ci_high"]) for r in same if " minus " in r["protocol"]} == {(0, 0, 0)}


def test_one_image_has_no_interval_and_no_cider(coco, caplog):
    shown = captioning.Pictures(["0"], [["a wide river"]], np.zeros((1, 54), np.float32))
    with caplog.at_level(logging.WARNING):
        rows = captioning.evaluate(["a wide road"], shown, {}, dataset="made")
    assert [row["metric"] for row in rows] == list(METRICS[:-1]) and rows[0]["value"] == pytest.approx(200 / 3)
    assert all(row["ci_low"] is None and row["chance"] is None for row in rows) and "has one image" in caplog.text


def test_captions_are_written_in_batches_as_one_by_one(coco, writer, toy_shards, tmp_path):
    encoder = embed.MammutEncoder(weights.load(writer, torch.device("cpu")), writer)
    samples = list(shards.stream(toy_shards, "val"))[:7]
    skipped = Counter()
    broken = shards.Sample("broken", b"no picture", ["a text"], {}, 7)
    wordless = shards.Sample("wordless", samples[0].image, [" . "], {}, 8)
    written, shown = captioning.write(encoder, [*samples, broken, wordless], batch_size=3, skipped=skipped)
    assert shown.keys == [sample.key for sample in samples] and shown.colours.shape == (7, 54)
    assert shown.references[0] == captioning.references(samples[0].captions)
    assert skipped == {"broken image": 1, "no word in any caption": 1}
    assert written == captioning.write(encoder, samples, batch_size=7)[0] and len(set(written)) > 1
    assert captioning.write(encoder, samples, beams=3)[0] != written
    with pytest.raises(DataError, match="no picture with a caption could be read .broken image: 1."):
        captioning.write(encoder, [broken])


def test_a_model_without_captions_is_refused_before_a_picture_is_read():
    def never():
        raise AssertionError
        yield

    encoder = Encoder("clip", torch.nn.Identity(), can=("texts", "patches"), fingerprint=str, image_size=32)
    with pytest.raises(ModelError, match="clip writes no captions: take a MaMMUT"):
        captioning.write(encoder, never())


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    encoder = Encoder("writer", torch.nn.Identity(), can=("captions",), fingerprint=str, image_size=32)
    with pytest.raises(MissingExtraError, match=r"sacrebleu is not installed: pip install 'rsvlm\[captions\]'"):
        captioning.check_ability(encoder)


def test_the_command_end_to_end(coco, writer, tmp_path, capsys, monkeypatch, caplog):
    data = write_toy(tmp_path / "toy", {"train": 24, "val": 12})

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["rsvlm", "evaluate", "captions", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out + captured.err

    base = ["--model", writer, "--data", data, "--split", "val", "--bootstrap-samples", "20"]
    code, text = call(*base, "--beams", "2", "--json", tmp_path / "r.json", "--list", tmp_path / "c.jsonl")
    assert code == 0, text
    rows = json.loads((tmp_path / "r.json").read_text())
    assert {row["protocol"].partition(" minus ")[0] for row in rows} == {"2 beams", FREQUENT, RANDOM, NEAREST}
    assert {row["metric"] for row in rows} == set(METRICS) and {row["n"] for row in rows} == {12}
    assert all(set(row) == set(results.ROW) and row["split"] == "val" and row["direction"] == "i2t" for row in rows)
    made = json.loads((tmp_path / "r.provenance.json").read_text())
    assert made["words"] == "plain" and made["references"] == 24 and made["skipped"] == {}
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and all(
        len(line["references"]) == 2 and {"key", "caption", NEAREST} <= set(line) for line in lines
    )

    # without training captions nothing stands beside, which is told
    with caplog.at_level(logging.WARNING):
        code, text = call(*base, "--train-split", "practice")
    assert code == 0 and RANDOM not in text and "--train-split names another split" in caplog.text
    code, text = call("--model", "embeddings:mine.npz", "--data", data)
    assert code != 0 and "write no captions" in str(code) + text
