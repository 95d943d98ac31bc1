"""Tables are read as they were written or not at all: what does not fit is an error that names the line, what is guessed is told."""

from __future__ import annotations

import csv
import io
import json
import logging
import tarfile
from collections import Counter

import pandas as pd
import pytest
from conftest import png, toy_sample, write_tar
from hypothesis import given, settings, strategies as st

from rsvlm.data import benchmarks, tables
from rsvlm.errors import DataError
from rsvlm.training import batches

NAMES = [f"{number:03}.jpg" for number in range(6)]
TEXTS = {name: [f"a river {index}", f"water, {index}"] for index, name in enumerate(NAMES)}


@pytest.fixture
def folder(tmp_path):
    """Six pictures in `images/`, and no table yet."""
    (tmp_path / "images").mkdir()
    for index, name in enumerate(NAMES):
        (tmp_path / "images" / name).write_bytes(png(toy_sample(index)[0]))
    return tmp_path


def read(folder, split="test", **options):
    return {sample.key: sample.captions for sample in benchmarks.samples(folder, split, **options)}


def karpathy(split="test", texts=TEXTS):
    return {"images": [{"filename": f, "split": split, "sentences": [{"raw": t} for t in of]} for f, of in texts.items()]}


def coco(texts=TEXTS, first_id=7):
    images = [{"id": first_id + i, "file_name": file} for i, file in enumerate(texts)]
    annotations = [{"id": 0, "image_id": first_id + i, "caption": t} for i, of in enumerate(texts.values()) for t in of]
    return {"info": {}, "images": images, "annotations": annotations[::-1][::-1]}


# Hidden files


def test_names_that_begin_with_a_dot_are_nobody_s(folder):
    (folder / "dataset_mine.json").write_text(json.dumps(karpathy()))
    before = benchmarks.fingerprint(folder)
    hidden = ["._dataset_mine.json", ".DS_Store", "images/._000.jpg", "._0.tar", "__MACOSX/._1.tar", "._test.csv"]
    for name in hidden:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\0\5\x16\7Mac OS X")
    assert read(folder) == TEXTS and benchmarks.name(folder) == "mine" and benchmarks.fingerprint(folder) == before


def test_hidden_members_of_shards_are_no_samples(tmp_path):
    members = {}
    for index in range(3):  # the order of macOS: each file after its shadow, so that shadows stand within samples
        for extension, data in (("png", png(toy_sample(index)[0])), ("txt", b"a field")):
            members |= {f"d/._{index}.{extension}": b"\0\5\x16\7", f"d/{index}.{extension}": data}
    write_tar(tmp_path / "test" / "0.tar", members)
    (tmp_path / "test" / "._0.tar").write_bytes(b"\0\5\x16\7")
    skipped = Counter()
    assert read(tmp_path, skipped=skipped) == {f"d/{index}": ["a field"] for index in range(3)} and not skipped


# JSON


@pytest.mark.parametrize(
    "content",
    [
        karpathy(),
        {"images": [{"filename": f, "split": "test", "captions": of} for f, of in TEXTS.items()]},
        {"images": [{"file_name": f, "split": "testing", "sentences": of} for f, of in TEXTS.items()]},
        {"images": [{"file": rf"images\{f}", "split": "Test", "raw": of[0], "raw_1": of[1]} for f, of in TEXTS.items()]},
        [{"image": f, "caption": of} for f, of in TEXTS.items()],
        [{"image": f"images/{f}", "caption": text} for f, of in TEXTS.items() for text in of],
        {"images": [{"path": f, "split": "test", "text": text} for f, of in TEXTS.items() for text in of]},
        coco(),
    ],
    ids=["karpathy", "captions", "sentences", "raw", "lists", "a row for each caption", "of one split", "coco"],
)
def test_forms_of_json_are_read_with_all_their_captions(folder, content):
    (folder / "captions_test2017.json").write_text(json.dumps(content))
    assert {key.rpartition("/")[2]: captions for key, captions in read(folder).items()} == TEXTS


def test_one_caption_may_be_a_string(folder):
    rows = [{"filename": file, "split": "test", "caption": of[0]} for file, of in TEXTS.items()]
    (folder / "dataset_mine.json").write_text(json.dumps({"images": rows}))
    assert read(folder) == {file: of[:1] for file, of in TEXTS.items()}


def test_a_json_without_captions_says_what_was_looked_for(folder):
    rows = [{"filename": file, "split": "test", "legend": of[0]} for file, of in TEXTS.items()]
    (folder / "dataset_mine.json").write_text(json.dumps({"images": rows}))
    with pytest.raises(
        DataError, match=r"dataset_mine.json has no captions \(looked for sentences, captions.*filename, legend"
    ):
        read(folder)


def test_coco_names_its_split_and_its_instances_are_no_captions(folder, caplog):
    (folder / "captions_val2017.json").write_text(json.dumps(coco()))
    boxes = coco() | {"annotations": [{"id": 1, "image_id": 7, "bbox": [0, 0, 1, 1], "category_id": 1}]}
    (folder / "instances_val2017.json").write_text(json.dumps(boxes))
    assert read(folder, "val") == TEXTS and "does not say which split" not in caplog.text
    with pytest.raises(DataError, match=r"captions_val2017.json has no split 'test': it has val \(by its name\) \(6 images\)"):
        read(folder)
    (folder / "captions_val2017.json").rename(folder / "captions.json")
    assert read(folder, "test") == TEXTS and "does not say which split its images are of: all 6" in caplog.text


def test_coco_s_own_folders_are_read(folder):
    (folder / "annotations").mkdir()
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps(coco()))
    (folder / "annotations" / "instances_val2017.json").write_text("never read")
    (folder / "images").rename(folder / "val2017")
    assert read(folder, "val") == TEXTS


def test_captions_of_images_that_are_not_listed_are_counted(folder, caplog):
    content = coco()
    content["annotations"] += [{"id": 1, "image_id": 99, "caption": "x"}]
    (folder / "captions_test.json").write_text(json.dumps(content))
    assert (
        read(folder) == TEXTS
        and "1 captions are of images that are not listed and left out, the first of id 99" in caplog.text
    )
    content["images"][1]["id"] = content["images"][0]["id"]
    (folder / "captions_test.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="1 ids of images more than once, the first is 7"):
        read(folder)


# Several


def test_two_tables_are_not_guessed_between(folder, caplog):
    for name in ("backup_2023.json", "dataset_mine.json"):
        (folder / name).write_text(json.dumps(karpathy()))
    with pytest.raises(DataError, match="several tables fit split 'test': backup_2023.json, dataset_mine.json"):
        read(folder)
    (folder / "backup_2023.json").write_text(json.dumps(karpathy("train")))
    assert read(folder) == TEXTS  # another split is no competitor
    (folder / "test.csv").write_text("image,caption\n000.jpg,other\n")
    with pytest.raises(DataError, match="several tables fit split 'test': dataset_mine.json, test.csv"):
        read(folder)
    (folder / "dataset_mine.json").rename(folder / "dataset_rsicd.json")
    assert read(folder, name="RSICD", partial=True) == TEXTS  # the catalogue knows what its table is called
    assert "names its table; not read: test.csv" in caplog.text


def test_all_words_for_a_split_mean_it(folder):
    rows = [{"filename": file, "caption": "x", "split": word} for file, word in zip(NAMES, ("test", "Test", "testing", "val"))]
    (folder / "mine.json").write_text(json.dumps(rows))
    assert list(read(folder)) == NAMES[:3]


def test_entries_that_are_no_objects_are_told_and_a_class_may_be_empty(folder, caplog):
    rows = [{"filename": file, "captions": of} for file, of in TEXTS.items()]
    (folder / "test.json").write_text(json.dumps([*rows, None, "x"]))
    assert read(folder) == TEXTS and "test.json: 2 entries of its images are no objects" in caplog.text
    (folder / "test.json").write_text(json.dumps({"no image": [], "images": [*rows, 7]} | {"lake": []}))
    assert read(folder) == TEXTS and "1 entries of its images" in caplog.text
    (folder / "images").rename(folder / "lake")
    rows = [{"filename": file, "split": "test", "raw": of[0], "raw_1": of[1]} for file, of in TEXTS.items()]
    (folder / "test.json").write_text(json.dumps({"no image": [], "lake": rows}))
    assert read(folder) == {f"lake/{file}": of for file, of in TEXTS.items()}


# CSV and TSV


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1), min_size=1, max_size=6))
def test_a_table_comes_back_as_pandas_wrote_it(tmp_path_factory, delimiter, texts):
    folder = tmp_path_factory.mktemp("table")
    frame = pd.DataFrame({"filepath": NAMES[: len(texts)], "title": texts})
    frame.to_csv(folder / "test.csv", sep=delimiter, index=True)  # with a column of row numbers
    rows = dict(tables.find_table(_request(folder), tables.CAPTION_COLUMNS)[1])
    assert rows == dict(zip(NAMES, texts))


def _request(folder):
    return benchmarks._request(folder, None, "retrieval", "test", False, None)


def test_cells_may_hold_line_breaks(folder):
    texts = {name: f'first line, "{name}"\nsecond line\r\n\nlast' for name in NAMES}
    rows = io.StringIO(newline="")
    csv.writer(rows).writerows([("image", "caption"), *texts.items()])
    (folder / "test.csv").write_text(rows.getvalue(), newline="")
    assert read(folder) == {name: [text] for name, text in texts.items()}


QUOTES = 'filepath\ttitle\n000.jpg\told\n001.jpg\t"An open one\n002.jpg\tnew\n003.jpg\tnew\n'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (QUOTES, "line 3, cannot be read .a quote opens a cell that nothing closes"),
        (QUOTES + '004.jpg\t"another\n', "line 3, cannot be read .*quote"),
        (QUOTES + '004.jpg\tsays yes"\n', "line 3, cannot be read .a quote opens a cell that takes in the row of 002.jpg"),
        ('image,caption\n000.jpg,"old" town\n', "line 2, cannot be read .*: close its quote, write it twice"),
        ("image,caption\n000.jpg,old\n001.jpg,a plane, and a car\n", "line 3.*3 cells, the header has 2.*put quotes around"),
        ("image,split,caption\n000.jpg,test\n", "line 2, cannot be read .it has 2 cells"),
        ("image,caption\n000.jpg,\"['a' 'b']\"\n", "the caption of 000.jpg is a list that cannot be read"),
    ],
)
def test_a_row_that_cannot_be_told_names_its_line(folder, content, says):
    (folder / "test.tsv").write_text(content)
    with pytest.raises(DataError, match=says):
        read(folder)


def test_row_numbers_without_a_header_backslashes_and_lists_are_understood(folder, caplog):
    lines = ['"image","caption","split"', *(rf'"{i}","images\{name}","lake {i}","test"' for i, name in enumerate(NAMES, 1))]
    (folder / "all.csv").write_text("\n".join(lines))
    assert read(folder) == {f"images/{name}": [f"lake {i}"] for i, name in enumerate(NAMES, 1)}
    assert "taken for a row number" in caplog.text
    pd.DataFrame({"filename": NAMES, "captions": [TEXTS[name] for name in NAMES]}).to_csv(folder / "all.csv")
    assert read(folder) == TEXTS
    (folder / "all.csv").write_text("image,caption,\n000.jpg,x,\n")  # a comma too many at every end
    assert read(folder) == {"000.jpg": ["x"]}


def test_columns_that_are_not_known_are_shown_with_those_that_are(folder):
    (folder / "test.csv").write_text(",bild,beschreibung\n0,000.jpg,x\n")
    with pytest.raises(
        DataError, match=r"test.csv has the columns \(no name\), bild, beschreibung: name one of images \(image, "
    ):
        read(folder)
    for name in NAMES:
        (folder / "images" / name).unlink()
    with pytest.raises(DataError, match=r"(?s)no known layout.*test.csv has the columns.*texts \(classname, class, label\)"):
        benchmarks.labelled(folder, split="all")


def test_the_header_is_read_like_every_other_row(folder):
    (folder / "test.csv").write_text('"source, where from";image;caption\n"a; b";000.jpg;a river\n')
    assert read(folder) == {"000.jpg": ["a river"]}
    (folder / "test.csv").write_text('\n"source, where from","which\nimage",image,caption\n"a, b",x,000.jpg,a river\n')
    assert read(folder) == {"000.jpg": ["a river"]}


def test_rows_of_empty_cells_are_no_rows(folder):
    (folder / "test.csv").write_text("image,caption,\n000.jpg,a river,\n,,\n  \n001.jpg,a lake,\n,,\n")
    assert read(folder) == {"000.jpg": ["a river"], "001.jpg": ["a lake"]}


def test_a_second_column_of_captions_is_told(folder, caplog):
    (folder / "test.csv").write_text("image,text,caption,caption\n000.jpg,x,a river,y\n")
    assert read(folder) == {"000.jpg": ["a river"]}
    assert "its column 'caption' is read; not read: text, caption" in caplog.text


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_encodings_that_are_plain_to_see_are_read(folder, encoding, caplog):
    text = "河边的机场，有很多飞机 café" if encoding != "gb18030" else "河边的机场，有很多飞机"
    (folder / "test.csv").write_text(f"image,caption\n000.jpg,{text}\n", encoding=encoding)
    assert read(folder) == {"000.jpg": [text]}
    assert ("read as GB18030: line 2 begins" in caplog.text) == (encoding == "gb18030")


@pytest.mark.parametrize("text", ["The city’s cafés", "Straße, naïve façade", "été «là-bas»", "ÀÉÎ ÕÜ ñandú"])
def test_windows_1252_is_refused_and_never_taken_for_chinese(folder, text):
    (folder / "test.csv").write_bytes(f"image,caption\n000.jpg,plain\n001.jpg,{text}\n".encode("cp1252"))
    with pytest.raises(DataError, match="line 3, is not in UTF-8 .*save it as UTF-8"):
        read(folder)


def test_other_texts_that_are_not_utf_8_are_refused_too(folder):
    for name, content in (("test.csv", "image,label\n000.jpg,cafe\n"), ("classnames.txt", "café\n")):
        (folder / name).write_bytes(content.encode("cp1252"))
    with pytest.raises(DataError, match="classnames.txt, line 1, is not in UTF-8"):
        benchmarks.labelled(folder, split="test")
    (folder / "classnames.txt").write_text("cafe\n", encoding="utf-8-sig")
    assert benchmarks.labelled(folder, split="test")[0] == ["cafe"]
    (folder / "test.csv").unlink()
    (folder / "dataset_mine.json").write_bytes(json.dumps(karpathy()).replace("river", "cafés").encode("cp1252"))
    with pytest.raises(DataError, match="not in UTF-8; save it as UTF-8"):
        read(folder)


# Archives and shards


def test_an_archive_beside_pictures_is_no_shard_for_anybody(folder):
    pictures = {f"images/{name}": (folder / "images" / name).read_bytes() for name in NAMES}
    write_tar(folder / "images.tar", pictures)
    with pytest.raises(DataError, match=r"(?s)no known layout.*images.tar.*unpack it"):
        read(folder)
    (folder / "dataset.json").write_text(json.dumps(karpathy("train")))
    assert read(folder, "train") == TEXTS
    trained = batches._epochs(folder, 0)(epoch=0, start=0, skipped=Counter())
    assert {sample.key: sample.captions for sample in trained} == TEXTS
    (folder / "dataset.json").unlink()
    for scene in ("airport", "beach"):
        (folder / "images" / scene).mkdir()
        (folder / "images" / scene / "1.png").write_bytes(png(toy_sample(0)[0]))
    for name in NAMES:
        (folder / "images" / name).unlink()
    assert benchmarks.labelled(folder)[0] == ["airport", "beach"]


def test_a_table_of_something_else_hides_no_shards(tmp_path):
    write_tar(tmp_path / "test" / "0.tar", {"a.png": png(toy_sample(0)[0]), "a.txt": b"a field"})
    (tmp_path / "stats.csv").write_text("shard,samples\n0,1\n")
    assert read(tmp_path) == {"a": ["a field"]}


def test_shards_of_rs5m_have_names_of_their_own_for_picture_and_caption(tmp_path):
    """Its dataloader.py reads .img_content, .img_name and .caption."""
    members = {"0.img_content": png(toy_sample(0)[0]), "0.img_name": b"a.jpg", "0.caption": b" an aerial view of a lake \n"}
    write_tar(tmp_path / "train" / "pub11-train-0000.tar", members | {"1.img_name": b"b.jpg", "1.caption": b"no picture"})
    skipped = Counter()
    (sample,) = benchmarks.samples(tmp_path, "train", skipped=skipped)
    assert sample.captions == ["an aerial view of a lake"] and sample.image == members["0.img_content"]
    assert skipped == {"no image": 1}


def test_a_line_of_a_text_is_a_caption_where_the_folder_says_retrieval(tmp_path, caplog):
    members = {
        f"{i}.{e}": d for i in range(2) for e, d in (("png", png(toy_sample(i)[0])), ("txt", b"one .\ntwo , three\n\n"))
    }
    write_tar(tmp_path / "test" / "0.tar", members)
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path)["0"] == ["one .\ntwo , three"]
    assert caplog.text.count("the caption of 0 has several lines") == 1 and "dataset_type.txt" in caplog.text
    (tmp_path / "dataset_type.txt").write_text("retrieval\n")
    assert read(tmp_path) == {"0": ["one .", "two , three"], "1": ["one .", "two , three"]}
    (tmp_path / "test" / "nshards.txt").write_text("1")
    assert read(tmp_path / "test", "train")["0"] == ["one .", "two , three"]


def test_what_a_shard_holds_twice_or_half_is_counted(tmp_path):
    picture, other = (png(toy_sample(index)[0]) for index in range(2))
    members = [
        ("a.png", picture),
        ("a.txt", b"a field"),
        ("a.png", other),
        ("b.png", picture),
        ("b.png", picture),
        ("b.TXT", b"x"),
    ]
    members += [("c.png", picture), ("c.json", json.dumps({"captions": ["\ud800", "", "a lake"]}).encode())]
    members += [("d.jpg", picture), ("d.json", b'{"caption": null}'), ("d.txt", b"a lake"), ("caf\udce9.png", picture)]
    members += [("caf\udce9.txt", b"a river")]
    (tmp_path / "test").mkdir()
    with tarfile.open(tmp_path / "test" / "0.tar", "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    skipped = Counter()
    samples = {sample.key: sample for sample in benchmarks.samples(tmp_path, "test", skipped=skipped)}
    captions = {"b": ["x"], "c": ["a lake"], "d": ["a lake"], r"caf\xe9": ["a river"]}
    assert {key: sample.captions for key, sample in samples.items()} == captions
    assert skipped == {"two different members of one name": 1} and samples["c"].record["empty_captions"] == 2


def test_a_text_of_a_shard_in_another_encoding_is_counted(tmp_path):
    picture = png(toy_sample(0)[0])
    members = {"a.png": picture, "a.txt": "café".encode("cp1252"), "b.png": picture, "b.txt": "\ufeffcafé".encode()}
    write_tar(tmp_path / "test" / "0.tar", members)
    skipped = Counter()
    assert read(tmp_path, skipped=skipped) == {"b": ["café"]} and skipped == {"caption not in UTF-8": 1}
