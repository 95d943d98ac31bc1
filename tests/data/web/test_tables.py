"""Tables of links become the candidates that are in them; every row is one, or is counted with its reason."""

from __future__ import annotations

import csv
import gzip
import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from rsvlm.data.web import archives, html as pages
from rsvlm.errors import DataError


def read(tmp_path, data: bytes, name: str, **options) -> tuple[list[dict], pages.Counts]:
    path = tmp_path / name
    path.write_bytes(data)
    counts = pages.Counts()
    rows = [row for batch in archives.read(path, counts, **options) for row in batch.to_pylist()]
    assert counts["candidates"] == len(rows)
    return rows, counts


COLUMNS = [("url", "text"), ("URL", "TEXT"), ("image_url", "caption"), ("URL", "top_caption"), ("Url", "alt_text")]
ROWS = [
    ("http://h.example/a.jpg", "a text, with comma"),
    ("http://h.example/ü b", "second"),
    ("nowhere", "x"),
    ("http://h.example/c", " "),
]
EXPECTED = [("http://h.example/a.jpg", "a text, with comma"), ("http://h.example/%C3%BC%20b", "second")]


def write_table(path, url: str, text: str) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"uid": [1, 2, 3, 4], url: [r[0] for r in ROWS], text: [r[1] for r in ROWS]}), path)
        return
    if ".jsonl" in path.name:
        data = "\n".join(json.dumps({"uid": 1, url: r[0], text: r[1]}) for r in ROWS)
    elif path.suffix == ".tsv":
        data = "\n".join(["\t".join(("uid", url, text)), *("\t".join(("1", *row)) for row in ROWS)])
    else:
        data = "\r\n".join([f"uid,{url},{text}", *(f'1,{row[0]},"{row[1]}"' for row in ROWS)])
    path.write_bytes(gzip.compress(data.encode()) if path.suffix == ".gz" else data.encode())


@pytest.mark.parametrize(("url", "text"), COLUMNS)
@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.tsv", "t.jsonl", "t.csv.gz", "t.jsonl.gz"])
def test_tables(tmp_path, name, url, text):
    write_table(tmp_path / name, url, text)
    counts = pages.Counts()
    rows = [row for batch in archives.read(tmp_path / name, counts) for row in batch.to_pylist()]
    assert [(row["url"], row["text"]) for row in rows] == EXPECTED
    assert {row["kind"] for row in rows} == {"table"} and rows[1]["source"] == f"{name}:2"
    assert counts == {"candidates": 2, "bad_url": 1, "no_text": 1}


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.tsv", "t.jsonl"])
def test_wrong_columns_are_listed(tmp_path, name):
    write_table(tmp_path / name, "address", "words")
    with pytest.raises(DataError, match=r"(?s)t\.\w+ has no column of text for url .* and text .*'uid'|'address'"):
        archives.inspect(tmp_path / name)
    write_table(tmp_path / name, "url", "words")
    with pytest.raises(DataError, match="for text .*'words'"):
        next(archives.read(tmp_path / name))


def test_a_column_of_another_type_is_none(tmp_path):
    pq.write_table(pa.table({"url": [1], "text": [["list"]]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no column of text"):
        archives.inspect(tmp_path / "t.parquet")


def test_other_formats_are_refused(tmp_path):
    files = {
        "a.txt": b"url,text\n",
        "a.json": b'[{"url": 1}]',
        "a.parquet": b"PAR1 no",
        "a.png": b"\x89PNG\r\n\x1a\n",
        "a": b"",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name):
            archives.inspect(tmp_path / name)


def test_broken_rows_are_counted(tmp_path):
    good = '{"url": "http://h.example/a", "text": "%s"}'
    lines = [good % "one", "{broken", "[1]", good % "\\ud800 half", "", "null", "[" * 100_000, good % ("x" * 5_000_000)]
    lines += [good % "last"]
    rows, counts = read(tmp_path, "\n".join(lines).encode(), "t.jsonl")
    assert [row["text"] for row in rows] == ["one", "\ufffd half", "last"] and counts["broken_row"] == 5
    table = b"url,text\nhttp://h.example/a,one\nhttp://h.example/b,\xe6\xb8\x81\xff bad\nthree,cells,here\nhttp://h.example/c,last\n"
    rows, counts = read(tmp_path, table, "t.csv")
    assert [row["text"] for row in rows] == ["one", "\u6e01\ufffd bad", "last"] and counts["broken_row"] == 1


def test_a_table_that_breaks_midway_ends_there(tmp_path):
    path = tmp_path / "t.jsonl.gz"
    noise = np.random.default_rng(0).integers(97, 123, (30_000, 60), dtype=np.uint8)
    noise = [line.tobytes() for line in noise]
    path.write_bytes(gzip.compress(b"".join(b'{"url": "http://h.example/a", "text": "%s"}\n' % line for line in noise))[:-9])
    counts = pages.Counts()
    assert sum(batch.num_rows for batch in archives.read(path, counts)) > 10_000
    assert counts["unread_rows"] == 1
    rows, counts = read(tmp_path, b'url,text\nhttp://h.example/a,one\nhttp://h.example/b,"' + b"x" * 9_000_000, "t.csv")
    assert counts["broken_row"] == 1


# Cells with line breaks, quotes, encodings


def urls(count: int) -> list[str]:
    return [f"http://h.example/{number}.jpg" for number in range(count)]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz"])
def test_cells_with_line_breaks_are_whole_wherever_a_block_ends(tmp_path, name, monkeypatch):
    texts = [
        f"Our garden, number {n}\n" + "\n".join(f'line {line}: some "words"' for line in range(n % 9)) for n in range(30_000)
    ]
    table = (
        pd.DataFrame({"url": urls(len(texts)), "text": texts}).to_csv(index=False, sep="\t" if "tsv" in name else ",").encode()
    )
    assert len(table) > 4_000_000
    rows, counts = read(tmp_path, gzip.compress(table) if name.endswith("gz") else table, name)
    assert [row["text"] for row in rows] == texts and counts == {"candidates": len(texts)}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.sampled_from(list("ab \"',;\n\r\té€")), min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=8
    )
)
def test_whatever_a_cell_holds_comes_back(tmp_path_factory, texts):
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("url", "text"), *zip(urls(len(texts)), texts, strict=True)])
    rows, counts = read(tmp_path_factory.getbasetemp(), buffer.getvalue().encode(), "any.csv")
    assert [row["text"] for row in rows] == texts and set(counts) == {"candidates"}


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("quoted", [False, True])
def test_a_quote_that_is_never_closed_takes_its_own_line_alone(tmp_path, where, quoted):
    lines = [f'"{url}","text {n}"' if quoted else f"{url},text {n}" for n, url in enumerate(urls(3000))]
    place = {"first": 0, "middle": 1500, "last": 2999}[where]
    lines[place] = f'{urls(3000)[place]},"a view of the port'
    rows, counts = read(tmp_path, "\n".join(["url,text", *lines]).encode(), "t.csv")
    texts = [row["text"] for row in rows]
    assert len(rows) == 3000 and texts[place] == "a view of the port" and texts[place - 1].startswith("text")
    assert counts == {"candidates": 3000, "odd_quotes": 1}


def test_quotes_are_letters_in_tab_separated_text(tmp_path):
    lines = [
        "url\ttext",
        'http://h.example/1\t"Port" of Rome',
        'http://h.example/2\t"never closed',
        "http://h.example/3\tlast",
    ]
    rows, counts = read(tmp_path, "\n".join(lines).encode(), "t.tsv")
    assert [row["text"] for row in rows] == ['"Port" of Rome', '"never closed', "last"] and counts == {"candidates": 3}


def test_rows_in_are_candidates_and_reasons(tmp_path):
    lines = [
        "url,text",
        "http://h.example/1,one",
        "nowhere,two",
        "http://h.example/3,",
        "a,b,c",
        'x,"y',
        "",
        "http://h.example/4,four",
    ]
    rows, counts = read(tmp_path, "\n".join(lines).encode(), "t.csv")
    assert len(rows) + sum(counts[name] for name in archives.REASONS if name != "odd_quotes") == 6
    assert [row["source"] for row in rows] == ["t.csv:1", "t.csv:5"] or len(rows) == 2
    assert [(row["reason"], row["url"]) for row in counts.listed][:2] == [
        ("bad_url", "nowhere"),
        ("no_text", "http://h.example/3"),
    ]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
def test_windows_1252_is_read_as_such_and_counted(tmp_path, name):
    texts = ["Vue aérienne de Zürich", "Größe – “Köln”", "plain", "вид"]
    lines = [
        json.dumps({"url": url, "text": text}, ensure_ascii=False)
        if name == "t.jsonl"
        else f"{url}{chr(9) if name == 't.tsv' else ','}{text}"
        for url, text in zip(urls(4), texts, strict=True)
    ]
    coded = [line.encode("cp1252" if number < 3 else "utf-8") for number, line in enumerate(lines)]
    head = [] if name == "t.jsonl" else [b"url\ttext" if name == "t.tsv" else b"url,text"]
    rows, counts = read(tmp_path, b"\n".join(head + coded), name)
    assert [row["text"] for row in rows] == texts and counts["windows_1252"] == 2


def test_tables_of_spreadsheets(tmp_path):
    rows, _ = read(tmp_path, "url;text\r\nhttp://h.example/1;Größe, 3,5 ha\r\n".encode("utf-8-sig"), "t.csv")
    assert rows[0]["text"] == "Größe, 3,5 ha"
    rows, _ = read(tmp_path, "url\ttext\r\nhttp://h.example/1\tKöln\r\n".encode("utf-16"), "t.csv")
    assert rows[0]["text"] == "Köln"
    rows, _ = read(tmp_path, b',"url","the\ntext",text\n0,http://h.example/1,x,one\n', "t.csv")
    assert rows[0]["text"] == "one"


def test_a_line_of_any_length_is_one_broken_row(tmp_path):
    line = b"http://h.example/1," + b"x" * 9_000_000
    rows, counts = read(tmp_path, b"url,text\n" + line + b"\nhttp://h.example/2,two\n", "t.csv")
    assert [row["text"] for row in rows] == ["two"] and counts["broken_row"] == 1


# Columns


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("url", "image_url", "caption"), {"url": "image_url", "text": "caption", "page": "url"}),
        (("URL", "TEXT", "page_url"), {"url": "URL", "text": "TEXT", "page": "page_url"}),
        (("photo_url", "photo_image_url", "photo_description"), ("photo_image_url", "photo_description", "photo_url")),
        (
            ("page_url", "image_url", "caption_reference_description"),
            ("image_url", "caption_reference_description", "page_url"),
        ),
        (("url", "re_caption", "org_caption"), {"url": "url", "text": "re_caption"}),
    ],
)
def test_the_picture_has_its_own_column(tmp_path, names, expected):
    if isinstance(expected, tuple):
        expected = dict(zip(("url", "text", "page"), expected, strict=True))
    row = [f"http://h.example/{name}" for name in names]
    pd.DataFrame([row], columns=list(names)).to_csv(tmp_path / "t.csv", index=False)
    assert archives.inspect(tmp_path / "t.csv")["columns"] == expected
    (found,) = next(archives.read(tmp_path / "t.csv")).to_pylist()
    assert found["url"].endswith(expected["url"]) and found["page"].endswith(expected.get("page", ""))


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.jsonl"])
def test_columns_can_be_named(tmp_path, name):
    table = pd.DataFrame({"url": ["http://h.example/page"], "Address": ["http://h.example/a"], "text": ["x"], "words": ["y"]})
    path = tmp_path / name
    {"csv": table.to_csv, "parquet": table.to_parquet, "jsonl": table.to_json}[path.suffix[1:]](
        path, **({"orient": "records", "lines": True} if name == "t.jsonl" else {"index": False})
    )
    (row,) = next(archives.read(path, names={"url": "address", "text": "words", "page": "url"})).to_pylist()
    assert (row["url"], row["text"], row["page"]) == ("http://h.example/a", "y", "http://h.example/page")
    with pytest.raises(DataError, match=r"no column 'nope' of text \(--text-column\): its columns are 'url'"):
        archives.inspect(path, {"text": "nope"})


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.jsonl"])
def test_what_the_table_calls_unsafe_is_left_out(tmp_path, name):
    table = pd.DataFrame({"url": urls(5), "text": [f"text {n}" for n in range(5)]})
    table = table.assign(NSFW=["UNLIKELY", "NSFW", "UNSURE", None, "UNLIKELY"], punsafe=[0.01, 0.2, 0.49, None, 0.5])
    path = tmp_path / name
    {"csv": table.to_csv, "parquet": table.to_parquet, "jsonl": table.to_json}[path.suffix[1:]](
        path, **({"orient": "records", "lines": True} if name == "t.jsonl" else {"index": False})
    )
    counts = pages.Counts()
    assert next(archives.read(path, counts))["text"].to_pylist() == ["text 0", "text 2", "text 3"]
    assert counts["unsafe"] == 2 and [row["url"][-5:] for row in counts.listed] == ["1.jpg", "4.jpg"]


def test_rows_that_a_broken_parquet_file_does_not_give_are_counted(tmp_path):
    path = tmp_path / "t.parquet"
    texts = [f"{number} " + "x" * 50 for number in range(40_000)]
    pq.write_table(pa.table({"url": urls(len(texts)), "text": texts}), path, row_group_size=10_000, compression="none")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300_000] = bytes(300_000)
    path.write_bytes(data)
    counts = pages.Counts()
    found = sum(batch.num_rows for batch in archives.read(path, counts))
    assert found + counts["unread_rows"] + counts["no_text"] + counts["bad_url"] == 40_000 and counts["unread_rows"]


@pytest.mark.parametrize(
    "how", [{"orient": "list"}, {"orient": "columns"}, {"orient": "split"}, {"orient": "columns", "indent": 1}]
)
@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
def test_a_table_written_by_its_columns_says_what_to_do(tmp_path, how, name):
    table = pd.DataFrame({"url": urls(3), "text": ["a", "b", "c"]})
    written = json.dumps(table.to_dict("list")) if how["orient"] == "list" else table.to_json(**how)
    path = tmp_path / name
    path.write_text(written)
    with pytest.raises(DataError, match=r"(?s)t\.json.*write one object a line.*lines=True"):
        archives.inspect(path)
    table.to_json(path, orient="records", lines=True)
    assert archives.inspect(path)["columns"]["url"] == "url"
