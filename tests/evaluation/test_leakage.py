"""What a benchmark shares with a training set is found from both sides, and nothing else is; scores are told with and without it."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pandas as pd
import pytest
from conftest import DATA, png, write_tar
from PIL import Image

from rsvlm.book.figures import galleries, markup, tables
from rsvlm.data import duplicates
from rsvlm.errors import ConfigError, DataError, ModelError
from rsvlm.evaluation import by_name, embeddings, leakage
from rsvlm.model import embed, images
from rsvlm.records import results


def picture(seed, size=64):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse, np.int16) + rng.integers(-9, 10, (size, size, 3)), 0, 255).astype(np.uint8)


def jpeg(array):
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def sentence(seed):
    return " ".join(np.random.default_rng(seed).choice(list("abcdefghijklmnopqrstuvwxyz"), 12))


def write_set(folder, split, items):
    """Items are (key, encoded picture, captions)."""
    members = {}
    for key, data, captions in items:
        members[f"{key}.{'png' if data[:4] == png(picture(0, 8))[:4] else 'jpg'}"] = data
        members[f"{key}.json"] = json.dumps({"key": key, "captions": captions}).encode()
    write_tar(folder / split / "000000.tar", members)
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A benchmark of 12 pictures, and a training set that holds seven of them in one way or another, among 20 others."""
    root = tmp_path_factory.mktemp("sets")
    tests = [(f"test-{i}", png(picture(i)), [sentence(i), sentence(100 + i), sentence(100 + i)]) for i in range(12)]
    words = sentence(6).split()
    copies = [
        ("bytes", tests[0][1], ["nothing in common with it at all here"]),
        ("pixels", images.encode_png(picture(1)) + b"", ["other words again for this one picture"]),
        ("turned", png(np.ascontiguousarray(np.rot90(picture(2)))), ["yet other words for the turned picture"]),
        ("mirrored", jpeg(picture(3)[:, ::-1]), ["and some more for the mirrored picture"]),
        ("small", jpeg(images.resize(picture(4), 40, 40)), ["words of the small picture, none shared"]),
        ("text", png(picture(201)), ["something else", sentence(5).upper() + " !"]),
        ("nearly", png(picture(202)), [" ".join([*words[:11], "else"])]),
    ]
    # Saved with other settings, so that only the pixels are equal.
    buffer = io.BytesIO()
    Image.fromarray(picture(1)).save(buffer, "PNG", compress_level=1)
    copies[1] = ("pixels", buffer.getvalue(), copies[1][2])
    others = [(f"other-{i}", png(picture(300 + i)), [sentence(400 + i)]) for i in range(20)]
    return write_set(root / "train", "train", [*copies, *others]), write_set(root / "bench", "test", tests)


@pytest.fixture(scope="module")
def found(sets):
    return leakage.find(sets[0], sets[1], name="bench")


WANTED = {
    ("bytes", "test-0", "same bytes"),
    ("pixels", "test-1", "same pixels"),
    ("turned", "test-2", "near picture"),
    ("mirrored", "test-3", "near picture"),
    ("small", "test-4", "near picture"),
    ("text", "test-5", "same text"),
    ("nearly", "test-6", "near text"),
}


def test_all_copies_are_found_and_nothing_else(found):
    assert tuple(found) == leakage.COLUMNS and set(found["train_set"]) == {"train"} and set(found["benchmark"]) == {"bench"}
    assert set(zip(found["train_key"], found["benchmark_key"], found["reason"], strict=True)) == WANTED
    assert len(found) == len(WANTED)


def test_the_turn_makes_the_training_picture_the_benchmarks(found, sets):
    items = leakage.look(found, sets[0], sets[1])
    assert len(items) == len(WANTED)
    turns = {item["train_key"]: item["turn"] for item in items}
    assert turns["bytes"] == 0 and turns["mirrored"] == 4 and turns["turned"] == 3 and turns["text"] == -1
    for item in items:
        if item["turn"] >= 0:
            turned = np.ascontiguousarray(duplicates.turn(item["train_image"], item["turn"]))
            turned = images.resize(turned, 64, 64).astype(float)
            assert abs(turned - item["benchmark_image"]).mean() < 12, item["train_key"]
    texts = {item["train_key"]: item["benchmark_captions"] for item in items}
    assert texts["text"][0] == sentence(5)


@pytest.mark.parametrize("turn", range(duplicates.TURNS))
def test_both_sides_tell_the_same_turn(turn):
    """From the benchmark's side the turn that is found undoes this one: the list has it the right way round."""
    array = picture(7)
    ours = duplicates.hash_table([("ours", b"x", array, "")])
    theirs = duplicates.hash_table([("theirs", b"y", np.ascontiguousarray(duplicates.turn(array, turn)), "")])
    one = leakage.pairs(ours, theirs)
    assert len(one) == 1 and one["turn"][0] == turn
    back = duplicates.overlap(theirs, ours, "")
    assert leakage._BACK[back["turn"][0]] == turn


def test_each_copy_within_the_benchmark_and_within_training_is_named():
    def table(*rows):
        return duplicates.hash_table((key, png(picture(seed)), picture(seed), "") for key, seed in rows)

    found = leakage.pairs(table(("a", 1), ("b", 1), ("c", 2)), table(("x", 1), ("y", 1), ("z", 3)))
    assert set(found["train_key"]) == {"a", "b"} and set(found["benchmark_key"]) == {"x", "y"}


def test_the_answer_does_not_depend_on_the_batch(found, sets):
    again = leakage.find([sets[0]], sets[1], name="bench", batch=14)
    pd.testing.assert_frame_equal(
        again.sort_values(list(again), ignore_index=True), found.sort_values(list(found), ignore_index=True)
    )
    assert again.attrs == found.attrs
    assert [len(table) for table in leakage.tables(sets[0], "train", batch=9)] == [9, 9, 9]
    assert [len(table) for table in leakage.tables(sets[0], "train", batch=10)] == [10, 10, 7]


def test_rows_count_images_once_and_captions_each(found):
    rows = {row["metric"]: row for row in leakage.rows(found)}
    assert all(tuple(row) == results.ROW and results.checked_row(row) for row in rows.values())
    assert rows["images: near picture"]["value"] == 100 * 3 / 12 and rows["images: near picture"]["n"] == 12
    assert rows["images: any picture"]["value"] == 100 * 5 / 12 and rows["images: any caption"]["value"] == 100 * 2 / 12
    assert rows["captions: same text"]["value"] == 100 * 1 / 36 and rows["captions: same text"]["n"] == 36
    assert rows["images: same bytes"]["protocol"] == "overlap with train"


def test_captions_without_pictures_are_compared_too(sets, tmp_path):
    path = tmp_path / "captions.json"
    entries = [{"file": "a.tif", "split": "test", "captions": [sentence(5), sentence(5)]}]
    entries += [{"filename": "b.tif", "split": "train", "sentences": [{"raw": sentence(8)}]}]
    path.write_text(json.dumps({"images": entries}))
    found = leakage.find(path, sets[1], train_split=leakage.EVERYTHING)
    told = found[["train_set", "train_key", "benchmark_key", "reason"]].to_numpy().tolist()
    assert told == [["captions", "a.tif", "test-5", "same text"], ["captions", "b.tif", "test-8", "same text"]]
    assert len(leakage.find(path, sets[1], train_split="train")) == 1
    items = leakage.look(found, path, sets[1], train_split=leakage.EVERYTHING)
    item = next(item for item in items if item["train_key"] == "a.tif")
    assert item["train_image"] is None and item["train_captions"] == [sentence(5)] * 2
    assert "a.tif" in galleries.leakage_pairs(items)


def test_captions_alone_may_be_strings_rows_of_their_own_or_coco_s(sets, tmp_path):
    texts = {"a.tif": [sentence(5), "one"], "b.tif": [sentence(8)]}
    rows = [{"image": file, "caption": text} for file, of in texts.items() for text in of]
    images = [{"id": i, "file_name": file} for i, file in enumerate(texts)]
    annotations = [{"image_id": i, "caption": text} for i, of in enumerate(texts.values()) for text in of]
    for content in (rows, {"images": images, "annotations": annotations}):
        (tmp_path / "c.json").write_text(json.dumps(content))
        found = leakage.find(tmp_path / "c.json", sets[1], train_split=leakage.EVERYTHING)
        assert found[["train_key", "benchmark_key"]].to_numpy().tolist() == [["a.tif", "test-5"], ["b.tif", "test-8"]]
        shown = leakage.look(found, tmp_path / "c.json", sets[1], train_split=leakage.EVERYTHING)
        assert [item["train_captions"] for item in shown if item["train_key"] == "a.tif"] == [texts["a.tif"]]


def test_a_folder_of_bare_pictures_is_compared_whole(sets, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "p.png").write_bytes(png(picture(2)))
    found = leakage.find(tmp_path, sets[1], train_split=leakage.EVERYTHING)
    assert found[["train_key", "benchmark_key", "reason"]].to_numpy().tolist() == [["deep/p.png", "test-2", "same bytes"]]
    assert leakage.look(found, tmp_path, sets[1], train_split=leakage.EVERYTHING)[0]["train_image"].shape == (64, 64, 3)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"images": 3}', '{"images": [{"file": "a", "split": "train"}]}', '{"images": [3]}', "[" * 10_000]
)
def test_a_file_that_holds_no_captions_is_named(sets, tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(DataError, match="c.json(: expected| is not valid JSON)"):
        leakage.find(path, sets[1])


def test_bad_requests(sets, tmp_path):
    with pytest.raises(DataError, match="nowhere is not there"):
        leakage.find(tmp_path / "nowhere", sets[1])
    with pytest.raises(DataError, match="no split 'val'"):
        leakage.find(sets[0], sets[1], split="val")
    with pytest.raises(ConfigError, match="0 to 16"):
        leakage.find(sets[0], sets[1], distance=30)
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"images": [{"file": "a", "split": "val", "captions": ["x"]}]}))
    with pytest.raises(DataError, match="no split 'train': it has"):
        leakage.find(path, sets[1])


def test_broken_pictures_are_left_out_and_told(tmp_path, sets, caplog):
    broken = write_set(tmp_path / "bench", "test", [("good", png(picture(0)), ["a"]), ("bad", png(picture(1))[:60], ["b"])])
    found = leakage.find(sets[0], broken)
    assert found.attrs["images"] == 1 and "broken image" in caplog.text


# The list


def test_a_set_of_which_nothing_can_be_read_is_no_clean_one(tmp_path, sets):
    """No overlap with pictures that nobody looked at is not an answer."""
    write_set(tmp_path / "broken", "train", [("a", b"\x89PNG broken", ["one caption of it"])])
    write_set(tmp_path / "broken", "test", [("a", b"\x89PNG broken", ["one caption of it"])])
    with pytest.raises(DataError, match="no picture of .*broken, split 'train', could be read"):
        leakage.find([sets[0], tmp_path / "broken"], sets[1])
    with pytest.raises(DataError, match="no picture of .*broken, split 'test', could be read"):
        leakage.find(sets[0], tmp_path / "broken")


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_the_list_comes_back_from_its_file(found, tmp_path, name):
    odd = found.copy()
    odd.loc[0, "train_key"], odd.loc[1, "train_key"], odd.loc[2, "benchmark_key"] = 'a,"b"\nc', "007", "NA"
    path = leakage.write_list(odd, tmp_path / name)
    pd.testing.assert_frame_equal(leakage.read_list(path), odd, check_dtype=False)
    assert set(path.read_text().splitlines()[0].replace('"', "").split(",")) >= {"train_set"} or name == "list.jsonl"
    nothing = leakage.write_list(found.iloc[:0], tmp_path / name)
    assert len(leakage.read_list(nothing)) == 0


@pytest.mark.parametrize(("name", "text"), [("x.csv", "key\n1"), ("x.jsonl", "{"), ("x.jsonl", '{"a": 1}'), ("x.csv", "")])
def test_another_file_is_no_list(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="no list of overlaps"):
        leakage.read_list(tmp_path / name)


def test_pages_show_names_and_captions_as_text(found, sets):
    items = leakage.look(found, sets[0], sets[1], count=3)
    assert len(items) == 3 and len({item["reason"] for item in items}) == 3
    attack = "<script>alert(1)</script>\ud800"
    items[0] |= {"train_key": attack, "benchmark_captions": [attack]}
    page = markup.page("Leakage", tables.leakage_report(leakage.rows(found), items))
    page.encode()
    assert "<script" not in page and page.count("&lt;script&gt;alert(1)") >= 2 and "data:image/webp" in page
    assert "None." in galleries.leakage_pairs([])


# Scores


def vectors(count=40, captions=2, seed=0):
    rng = np.random.default_rng(seed)
    unit = embed.unit(rng.normal(size=(count, 8)).astype(np.float32), "images")
    owner = np.repeat(np.arange(count), captions)
    texts = embed.unit(unit[owner] + 0.8 * rng.normal(size=(len(owner), 8)).astype(np.float32), "texts")
    names = [f"key-{i}" for i in range(count)]
    return embeddings.Embeddings(names, [f"caption {i}" for i in range(len(owner))], owner, unit, texts)


def overlap_of(keys, reason="same bytes"):
    return pd.DataFrame([dict.fromkeys(leakage.COLUMNS, "") | {"benchmark_key": key, "reason": reason} for key in keys])


def test_without_leaves_images_and_their_captions_out():
    whole = vectors(6)
    part = leakage.without(whole, {"key-0", "key-4"})
    assert part.keys == ["key-1", "key-2", "key-3", "key-5"] and part.image_of_caption.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert part.captions == [f"caption {i}" for i in (2, 3, 4, 5, 6, 7, 10, 11)]
    assert (part.image_embeddings == whole.image_embeddings[[1, 2, 3, 5]]).all()
    assert (part.caption_embeddings == whole.caption_embeddings[[2, 3, 4, 5, 6, 7, 10, 11]]).all()
    with pytest.raises(DataError, match="none of the 1 images"):
        leakage.without(whole, {"elsewhere"})
    with pytest.raises(DataError, match="nothing remains"):
        leakage.without(whole, set(whole.keys))


def test_scores_without_the_overlap_fall_when_the_overlap_was_learnt():
    whole = vectors()
    learnt = [f"key-{i}" for i in range(12)]
    captions = whole.caption_embeddings.copy()
    captions[:24] = whole.image_embeddings[whole.image_of_caption[:24]]  # these are known by heart
    whole = embeddings.Embeddings(whole.keys, whole.captions, whole.image_of_caption, whole.image_embeddings, captions)
    rows = leakage.compare(whole, overlap_of(learnt), dataset="toy", split="test", bootstrap_samples=20)
    value = {row["split"]: row["value"] for row in rows if row["metric"] == "R@1" and row["direction"] == "t2i"}
    assert list(value) == ["test", "test without overlap", "test without as many others"]
    assert value["test without overlap"] < value["test"] < value["test without as many others"]
    n = {row["split"]: row["n"] for row in rows if row["metric"] == "mR"}
    assert n == {"test": 40, "test without overlap": 28, "test without as many others": 28}
    assert {row["protocol"] for row in rows} == {"plain"} and all(results.checked_row(row) for row in rows)


def test_only_the_reasons_asked_for_count(caplog):
    found = pd.concat([overlap_of(["key-0"]), overlap_of(["key-1", "key-2"], "same text")])
    options = {"dataset": "toy", "split": "test", "bootstrap_samples": 10}
    rows = leakage.compare(vectors(), found, **options)
    assert min(row["n"] for row in rows if row["metric"] == "mR") == 39
    rows = leakage.compare(vectors(), found, reasons=(*leakage.PICTURES, *leakage.TEXTS), **options)
    assert min(row["n"] for row in rows if row["metric"] == "mR") == 37
    assert {row["split"] for row in leakage.compare(vectors(), found.iloc[:0], **options)} == {"test"}
    most = overlap_of([f"key-{i}" for i in range(20)])
    assert len({row["split"] for row in leakage.compare(vectors(), most, **options)}) == 2
    assert "too many to leave out as many others" in caplog.text


# Evaluations by name


def test_a_protocol_that_cannot_be_measured_takes_no_other_with_it(monkeypatch, caplog):
    whole = vectors()
    alike = dataclasses.replace(whole, captions=["a river"] * len(whole.captions))  # one text, of which no ten can be found
    about = {"benchmark": "toy"}
    options = by_name.Options(bootstrap_samples=10)
    monkeypatch.setattr(by_name, "_embedded", lambda *_: ({"plain": whole, "skyscript": alike}, about, None))
    assert {row["protocol"] for row in by_name.retrieve("m", options=options).rows} == {"plain"}
    assert "protocol skyscript is left out: k = 10 is larger than the gallery" in caplog.text
    for parts, asked in (({"skyscript": alike}, "all"), ({"skyscript": alike}, "skyscript")):
        monkeypatch.setattr(by_name, "_embedded", lambda *_, parts=parts: (parts, about, None))
        with pytest.raises(DataError, match="take more images and captions"):
            by_name.retrieve("m", options=dataclasses.replace(options, protocol=asked))


def test_an_evaluation_of_a_file_of_embeddings_says_what_it_is_of(tmp_path):
    whole = vectors()
    path = tmp_path / "vectors.npz"
    arrays = {"image_embeddings": whole.image_embeddings, "caption_embeddings": whole.caption_embeddings}
    np.savez(path, **arrays, image_of_caption=whole.image_of_caption, captions=np.array(whole.captions))
    found = by_name.retrieve(f"embeddings:{path}", options=by_name.Options(bootstrap_samples=10))
    countings = {"plain", "skyscript", "one-to-one"}
    assert {row["protocol"] for row in found.rows} == {f"{name} (wording not stated)" for name in countings}
    assert found.about["model"] == "vectors" and len(found.about["fingerprint"]) == 64
    assert found.about["population"].items() >= {"images": 40, "captions": len(whole.captions)}.items()
    options = by_name.Options(protocol="rs5m", bootstrap_samples=10)
    with pytest.raises(DataError, match="vectors.npz has 40 images, the split 'test' of RSICD has 1,093.*--partial"):
        by_name.retrieve(f"embeddings:{path}", benchmark="rsicd", options=options)
    with pytest.raises(DataError, match="unknown benchmark 'rscid'"):
        by_name.retrieve(f"embeddings:{path}", benchmark="rscid", options=options)
    options = dataclasses.replace(options, partial=True)
    named = by_name.retrieve(f"embeddings:{path}", benchmark="rsicd", options=options)
    assert {(row["dataset"], row["protocol"]) for row in named.rows} == {("RSICD", "rs5m")}
    with pytest.raises(DataError, match="unknown protocol 'plane'"):
        by_name.retrieve("embeddings:nothing.npz", options=by_name.Options(protocol="plane"))
    with pytest.raises(DataError, match="cannot read the names of classes"):
        by_name.classify(f"embeddings:{path}", tmp_path)


def test_what_is_misspelt_is_said_before_what_is_missing(tmp_path):
    (tmp_path / "model").mkdir()
    for model, root, benchmark, error, says in [
        ("nowhere", None, "RSCID", DataError, "unknown benchmark 'RSCID'"),
        ("nowhere", None, "RSICD", ModelError, "no model folder nowhere"),
        (str(tmp_path / "model"), None, "RSICD", DataError, "no benchmark folder of RSICD is given: --root"),
        (str(tmp_path / "model"), None, None, DataError, "no benchmark folder is given: --root"),
        (str(tmp_path / "model"), tmp_path / "RSCID", "RSICD", DataError, "no benchmark folder .*RSCID: --root"),
    ]:
        with pytest.raises(error, match=says):
            by_name.retrieve(model, root, benchmark)
        with pytest.raises(error, match=says):
            by_name.overlap([tmp_path], root, benchmark, model=model)


@pytest.mark.parametrize(
    ("wording", "reported", "other"),
    [("plain", {"plain", "rs5m", "one-to-one"}, "skyscript"), ("remoteclip", {"remoteclip"}, "plain")],
)
def test_one_wording_is_never_reported_as_another(tmp_path, wording, reported, other):
    whole, path = vectors(), tmp_path / "vectors.npz"
    arrays = {"image_embeddings": whole.image_embeddings, "caption_embeddings": whole.caption_embeddings}
    arrays |= {"image_of_caption": whole.image_of_caption, "captions": np.array(whole.captions)}
    np.savez(path, **arrays, wording=np.array(wording))

    def rows(**options):
        return by_name.retrieve(f"embeddings:{path}", options=by_name.Options(bootstrap_samples=5, **options)).rows

    assert {row["protocol"] for row in rows()} == reported
    ties = rows(ties="average")
    assert {row["protocol"] for row in ties} == {f"{name} (average ties)" for name in reported}
    with pytest.raises(DataError, match=f"words of {wording}: {other} words them otherwise; it fits {wording}"):
        rows(protocol=other)
    for wrong, says in ((np.array("rsicd"), "its wording is 'rsicd'"), (np.ones(2), "expected one text")):
        np.savez(path, **arrays, wording=wrong)
        with pytest.raises(DataError, match=says):
            rows()
    np.savez(path, **arrays)
    unknown = rows(ties="average")
    assert "plain (wording not stated) (average ties)" in {row["protocol"] for row in unknown}


def test_the_listing_tells_every_benchmark_and_its_traps():
    text = by_name.listing()
    for word in ("RSICD", "Million-AID", "NWPU-Captions", "licence", "beware", "layout", "looked up huggingface.co"):
        assert word in text
    assert by_name.listing(["rsitmd"]).startswith("RSITMD: retrieval")
    with pytest.raises(DataError, match="unknown benchmark 'x'"):
        by_name.listing(["x"])


@pytest.mark.skipif(not (DATA / "captions").is_dir(), reason=f"no captions in {DATA}")
def test_real_captions_of_data_sets_that_grew_out_of_each_other_overlap():
    ours, theirs = DATA / "captions" / "rsitmd_captions.json", DATA / "rsicd" / "dataset_rsicd.json"
    if not theirs.is_file():
        pytest.skip(f"no RSICD in {DATA}")
    rows = {
        row["metric"]: row for row in leakage.rows(leakage.find(ours, theirs, split="val", train_split=leakage.EVERYTHING))
    }
    assert rows["captions: same text"]["n"] == 5469 and rows["captions: same text"]["value"] > 10
