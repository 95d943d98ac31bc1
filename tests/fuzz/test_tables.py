"""Tables of captions as programs write them: each row comes out as pandas or json read it, or is counted with a reason."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd
from fuzzing import fuzz
from hypothesis import strategies as st

from rsvlm.data import benchmarks
from rsvlm.training import batches

SPLIT_WORDS = {
    "train": ("train", "Train", "training"),
    "val": ("val", "valid", "Validation"),
    "test": ("test", "TEST ", "testing"),
}
names = st.text("abzé河_ -+", min_size=1, max_size=8).map(str.strip).filter(bool)
texts = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12),
    st.text("ab ,;\t|\"'\n\\[]", max_size=12),
    st.sampled_from(
        ["a river", "NA", "null", "1.0", "", " ", "['a'", '"', "a, b; c", "first line\nsecond line", "2021-03-04", "'s"]
    ),
)


@st.composite
def collections(draw):
    """File of each picture, perhaps in folders, with its split and its captions."""
    folder = draw(st.sampled_from(["", "images/", "images/deep er/"]))
    files = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    endings = st.sampled_from([".jpg", ".PNG", ".tif"])
    return {
        f"{folder}{file}{draw(endings)}": (
            draw(st.sampled_from(list(SPLIT_WORDS))),
            draw(st.lists(texts, min_size=1, max_size=3)),
        )
        for file in files
    }


@st.composite
def dialects(draw):
    """How a program writes a table: what divides and ends cells, quotes, encoding, and which columns there are besides."""
    return {
        "sep": draw(st.sampled_from(",;\t|")),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])),
        "end": draw(st.sampled_from(["\n", "\r\n"])),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])),
        "columns": draw(
            st.permutations(
                [
                    draw(st.sampled_from(["image", "filename", "Filepath", "IMG", "image_name"])),
                    draw(st.sampled_from(["caption", "Title", "text", "sentence"])),
                    "split",
                    *draw(st.lists(st.sampled_from(["", "imgid", "source, where from", "note"]), unique=True)),
                ]
            )
        ),
        "row_numbers": draw(st.sampled_from(["none", "named", "unnamed", "without header"])),
        "blank": draw(st.sampled_from(["none", "lines", "cells"])),
        "trailing": draw(st.booleans()),
        "backslash": draw(st.booleans()),
    }


def write_pictures(folder, collection, without=()):
    for file in collection:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if file not in without:
            path.write_bytes(file.encode())


def write_table(path, rows, dialect):
    """Write (file, split, caption) rows in a dialect; extra cells hold what would mislead."""
    values = {"": "7", "imgid": "3", "source, where from": "a, b", "note": 'so "called"'}
    kinds = {"image": 0, "filename": 0, "Filepath": 0, "IMG": 0, "image_name": 0, "split": 1}
    table = []
    for number, row in enumerate(rows):
        row = (row[0].replace("/", "\\") if dialect["backslash"] else row[0], *row[1:])
        cells = [values[column] if column in values else row[kinds.get(column, 2)] for column in dialect["columns"]]
        table.append(([] if dialect["row_numbers"] == "none" else [str(number)]) + cells)
    header = list(dialect["columns"])
    header = {"named": ["number", *header], "unnamed": ["", *header]}.get(dialect["row_numbers"], header)
    if dialect["blank"] != "none":
        blank = [] if dialect["blank"] == "lines" else [""] * len(table[0])
        table = [line for row in table for line in (row, blank)]
    if dialect["trailing"] and dialect["row_numbers"] != "without header":
        header, table = [*header, ""], [[*row, ""] if row else [] for row in table]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=dialect["sep"], quoting=dialect["quoting"], lineterminator=dialect["end"]).writerows(
        [header, *table]
    )
    path.write_text(out.getvalue(), encoding=dialect["encoding"], newline="")


def read(folder, split):
    """What the package gives of a split, and the numbers of captions and pictures that it left out."""
    skipped: Counter = Counter()
    samples = list(benchmarks.samples(folder, split, skipped=skipped))
    assert all(sample.image.decode() == sample.key for sample in samples), "each with its own picture"
    return (
        {sample.key: sample.captions for sample in samples},
        sum(sample.record.get("empty_captions", 0) for sample in samples),
        skipped,
    )


def usable(captions):
    return [caption for caption in captions if caption.strip()]


def check(folder, collection, without=()):
    """Compare every split with what was written: pictures, captions, and the count of what lacks."""
    for split in SPLIT_WORDS:
        wanted = {file: captions for file, (of, captions) in collection.items() if of == split}
        if not set(wanted) - set(without):
            continue
        read_captions, empty, skipped = read(folder, split)
        assert read_captions == {file: usable(of) for file, of in wanted.items() if usable(of) and file not in without}
        assert empty == sum(len(wanted[file]) - len(of) for file, of in read_captions.items())
        assert len(read_captions) + skipped.total() == len(wanted), "each picture is there or counted"
        if split == "train" and read_captions:
            trained = batches._epochs(folder, 0)(epoch=1, start=0, skipped=Counter())
            assert {sample.key: sample.captions for sample in trained} == read_captions, "training sees what evaluation sees"


def alike(frame):
    """Pairs of file and caption, however often, as pandas read them."""
    columns = {column.strip().casefold(): column for column in frame.columns if isinstance(column, str)}
    image = next(columns[name] for name in ("image", "filename", "filepath", "img", "image_name") if name in columns)
    text = next(columns[name] for name in ("caption", "title", "text", "sentence") if name in columns)
    cells = zip(frame[image].str.replace("\\", "/"), frame[columns["split"]], frame[text])
    return Counter((file, split.strip().casefold(), caption) for file, split, caption in cells if file)


@fuzz(collection=collections(), dialect=dialects(), shuffle=st.randoms(use_true_random=False), lacking=st.booleans())
def test_a_table_is_what_pandas_reads(collection, dialect, shuffle, lacking):
    rows = [
        (file, shuffle.choice(SPLIT_WORDS[of]), caption) for file, (of, captions) in collection.items() for caption in captions
    ]
    shuffle.shuffle(rows)  # so that captions of a picture stand anywhere, in another order
    for file, (of, _) in collection.items():
        collection[file] = of, [caption for name, _, caption in rows if name == file]
    without = list(collection)[1:2] if lacking else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, collection, without)
        write_table(folder / "captions.csv", rows, dialect)
        options = {"sep": dialect["sep"], "encoding": dialect["encoding"], "dtype": str, "keep_default_na": False}
        by_pandas = alike(pd.read_csv(folder / "captions.csv", **options))
        assert by_pandas == Counter((file, split.strip().casefold(), caption) for file, split, caption in rows)
        check(folder, collection, without)


FORMS = ("sentences", "texts", "listed", "one", "rows", "raws", "coco", "classes")


def json_of(form, files, shuffle):
    """Write {file: (split, captions)} in a form that somebody uses; entries in any order, ids of any type."""
    entries = []
    items = list(files.items())
    shuffle.shuffle(items)
    for file, (of, captions) in items:
        entry = {"filename": file, "split": shuffle.choice(SPLIT_WORDS[of]), "imgid": len(entries)}
        if form == "sentences":
            entries.append(
                entry | {"sentids": [1], "sentences": [{"tokens": ["x"], "raw": text, "imgid": 0} for text in captions]}
            )
        elif form in ("texts", "listed"):
            entries.append(entry | {"captions" if form == "texts" else "sentences": captions})
        elif form == "one":
            entries.append(entry | {"caption": captions[0] if len(captions) == 1 else captions})
        elif form == "rows":
            entries += [entry | {"caption": text} for text in captions]
        elif form == "raws":
            entries.append(entry | {f"raw_{i}" if i else "raw": text for i, text in enumerate(captions)})
        elif form == "coco":
            entries.append({"id": entry["imgid"] + 5, "file_name": file, "split": entry["split"], "width": 1})
        elif form == "classes":
            scene, entry["filename"] = file.split("/")
            entries.append((scene, entry | {f"raw_{i}" if i else "raw": text for i, text in enumerate(captions)}))
    if form == "classes":
        return {"an empty class": []} | {scene: [entry for of, entry in entries if of == scene] for scene, _ in entries}
    content = {"info": {}, "images": entries}
    if form == "coco":
        number = shuffle.choice([int, str])
        notes = [(n + 5, text) for n, (_, (_, captions)) in enumerate(items) for text in captions]
        order = sorted(range(len(notes)), key=lambda i: shuffle.random() if len(notes) == len(items) else notes[i][0])
        content["annotations"] = [{"id": i, "image_id": number(notes[i][0]), "caption": notes[i][1]} for i in order]
    return entries if form != "coco" and shuffle.random() < 0.3 else content


@fuzz(
    collection=collections(),
    form=st.sampled_from(FORMS),
    shuffle=st.randoms(use_true_random=False),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
    ascii_only=st.booleans(),
    lacking=st.booleans(),
)
def test_every_form_of_json_gives_its_pairs(collection, form, shuffle, encoding, ascii_only, lacking):
    if form == "classes":
        collection = {f"{shuffle.choice(['lake', 'sea ice'])}/{file.split('/')[-1]}": of for file, of in collection.items()}
    without = list(collection)[1:2] if lacking else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, collection, without)
        content = json.dumps(json_of(form, collection, shuffle), ensure_ascii=ascii_only, indent=shuffle.choice([None, 1]))
        (folder / "dataset.json").write_text(content, encoding=encoding)
        (folder / "._dataset.json").write_bytes(b"\0\5\x16\7")
        check(folder, collection, without)
