"""Archives become the candidates that are in them; what is broken or hostile is counted and costs little."""

from __future__ import annotations

import gzip
import time
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crawled import PAGE, PNG, http, page, read, record, written
from hypothesis import given, settings, strategies as st

from rsvlm.data.web import archives, html as pages, warc
from rsvlm.errors import DataError

pytest.importorskip("fastwarc", reason="the extra [data] is not installed")
pytest.importorskip("resiliparse", reason="the extra [data] is not installed")

# Pages


def test_a_candidate_knows_its_page(tmp_path):
    rows, counts = read(tmp_path, page(1) + page(2))
    assert rows[0] == {
        "url": "http://site.example/a.jpg",
        "text": "one two three",
        "page": "http://site.example/1",
        "title": "T",
        "heading": "Near",
        "source": f"x.warc:0:urn:uuid:{zlib.crc32(b'http://site.example/1'):08x}",
        "kind": "img",
        "robots": "",
    }
    assert [row["page"][-1] for row in rows] == ["1", "2"] and counts == {"records": 2, "pages": 2, "candidates": 2}
    assert int(rows[1]["source"].split(":")[1]) == len(page(1))


def test_directives_for_machines(tmp_path):
    html = b"<meta name=ROBOTS content='NoAI, max-snippet:5, noindex'>" + PAGE
    headers = ("X-Robots-Tag: noimageai", "X-Robots-Tag: otherbot: noindex, none", "TDM-Reservation: 1")
    data = record("http://h.example/1", http(html, "text/html", *headers)) + page(2)
    rows, _ = read(tmp_path, data)
    assert [row["robots"] for row in rows] == ["noai,noimageai,noindex,tdm-reservation", ""]


# Encodings


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("Zürich, Straße".encode("latin-1"), "text/html; charset=iso-8859-1"),
        ("Zürich, Straße".encode(), "text/html; charset=iso-8859-1x"),
        ("Zürich, Straße".encode(), "text/html; charset=zlib"),
        ("Zürich, Straße".encode(), "text/html"),
        ("Zürich, Straße".encode("cp1252"), "text/html; charset=utf-8"),
    ],
)
def test_the_charset_is_found(tmp_path, body, kind):
    sentence = "Die Häuser der Stadt stehen an größeren Straßen und über den Flüssen. "
    filler = b"<p>" + (sentence * 5).encode("utf-8" if b"\xc3" in body else "cp1252")
    rows, _ = read(tmp_path, record("http://h.example/1", http(b"<img src=a alt='" + body + b"'>" + filler, kind)))
    assert rows[0]["text"] == "Zürich, Straße"


def test_the_page_says_its_charset(tmp_path):
    body = b"<meta charset='windows-1251'><img src=a alt='" + "вид сверху".encode("cp1251") + b"'>"
    wide = "<img src=a alt='вид сверху'>".encode("utf-16")
    rows, _ = read(tmp_path, record("http://h.example/1", http(body, "text/html")) + record("http://h.example/2", http(wide)))
    assert [row["text"] for row in rows] == ["вид сверху"] * 2


def test_bytes_that_are_no_text_do_not_end_the_page(tmp_path):
    rows, _ = read(tmp_path, page(1, b"<img src=a alt='one \xff\xfe two \x81'>" + PAGE))
    assert len(rows) == 2 and rows[0]["text"].startswith("one ") and rows[1]["text"] == "one two three"


def packed(body: bytes, coding: str) -> bytes:
    if coding == "deflate-raw":
        return zlib.compress(body)[2:-4]
    if coding in ("br", "zstd"):
        return pa.Codec({"br": "brotli"}.get(coding, coding)).compress(body, asbytes=True)
    return {"gzip": gzip.compress, "deflate": zlib.compress}[coding](body)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "deflate-raw", "br", "zstd"])
def test_packed_bodies(tmp_path, coding):
    name = coding.removesuffix("-raw")
    good = record("http://h.example/1", http(packed(PAGE, coding), "text/html", f"Content-Encoding: {name}"))
    already = record("http://h.example/2", http(PAGE, "text/html", f"Content-Encoding: {name}"))
    broken = record("http://h.example/3", http(b"\x1f\x8b" + b"~~~" * 9, "text/html", f"Content-Encoding: {name}"))
    rows, counts = read(tmp_path, good + already + broken + page(4))
    assert [row["page"][-1] for row in rows] == ["1", "2", "4"] and counts["broken_encoding"] == 1


def test_chunks(tmp_path):
    chunks = b"5;note=1\r\n" + PAGE[:5] + b"\r\n" + f"{len(PAGE) - 5:X}\r\n".encode() + PAGE[5:] + b"\r\n0\r\n\r\n"
    header = "Transfer-Encoding: chunked"
    data = record("http://h.example/1", http(chunks, "text/html", header))
    data += record("http://h.example/2", http(PAGE, "text/html", header))
    data += record("http://h.example/3", http(b"ffff\r\n" + PAGE, "text/html", header))
    squeezed = gzip.compress(PAGE)
    both = f"{len(squeezed):x}\r\n".encode() + squeezed + b"\r\n0\r\n\r\n"
    data += record("http://h.example/4", http(both, "text/html", header, "Content-Encoding: gzip"))
    rows, counts = read(tmp_path, data)
    assert [row["page"][-1] for row in rows] == ["1", "2", "4"] and counts["broken_encoding"] == 1


def test_chunks_that_came_whole_are_used_where_the_last_one_is_missing(tmp_path):
    header, image = "Transfer-Encoding: chunked", b"<img src=/%d alt='number %d'>"
    chunks = [image % (n, n) for n in range(3)]
    sent = [f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks]
    for end, found in ((b"", 3), (b"0", 3), (b"0\r\n\r\n", 3), (b"ff\r\n<img src=/4 alt='number", 3)):
        rows, counts = read(tmp_path, record("http://h.example/1", http(b"".join(sent) + end, "text/html", header)))
        assert len(rows) == found and counts["cut_body"] == (not end.startswith(b"0\r")), end
    picture = record("http://h.example/1", http(b"".join(sent), "image/png", header))
    assert list(archives.images(written(tmp_path, picture))) == []  # of a picture all is wanted: it can be asked for


def test_all_members_of_a_packed_body_are_read_and_one_without_end_as_far_as_it_came(tmp_path):
    first, second = b"<img src=/1 alt='number one'>", b"<img src=/2 alt='number two'>"
    body = gzip.compress(first) + gzip.compress(second)
    rows, counts = read(tmp_path, record("http://h.example/1", http(body, "text/html", "Content-Encoding: gzip")))
    assert [row["text"] for row in rows] == ["number one", "number two"] and not counts["cut_body"]
    noise = np.random.default_rng(0).bytes(3000).hex().encode()
    body = gzip.compress(first + noise)[:-1000]
    rows, counts = read(tmp_path, record("http://h.example/1", http(body, "text/html", "Content-Encoding: gzip")))
    assert [row["text"] for row in rows] == ["number one"] and counts["cut_body"] == 1


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_a_bomb_is_not_unpacked(tmp_path, coding):
    import tracemalloc

    bomb = packed(b"\0" * (100_000_000 if coding != "br" else 20_000_000), coding)
    assert len(bomb) < 1_000_000
    data = record("http://h.example/1", http(bomb, "text/html", f"Content-Encoding: {coding}")) + page(2)
    tracemalloc.start()
    rows, counts = read(tmp_path, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts["too_large"] == 1 and len(rows) == 1 and peak < 60_000_000


def test_a_page_of_ten_megabytes_is_too_large(tmp_path):
    rows, counts = read(tmp_path, page(1, PAGE + b"x" * 10_000_000) + page(2))
    assert len(rows) == 1 and counts["too_large"] == 1


# Broken archives


def members(*records: bytes) -> bytes:
    return b"".join(map(gzip.compress, records))


@pytest.mark.parametrize("middle", ["garbage", "negative", "no length", "cut"])
@pytest.mark.parametrize("name", ["x.warc", "x.warc.gz"])
def test_reading_goes_on_behind_what_is_broken(tmp_path, middle, name):
    pack = gzip.compress if name.endswith("gz") else bytes
    broken = {
        "garbage": b"neither record nor member\r\n\r\n",
        "negative": pack(page(2).replace(b"Content-Length: ", b"Content-Length: -")),
        "no length": pack(page(2).replace(b"Content-Length: ", b"Content-Len: ")),
        "cut": pack(page(2))[:-70],
    }[middle]
    first, *rest = (pack(page(number)) for number in (1, 3, 4))
    rows, counts = read(tmp_path, first + broken + b"".join(rest), name)
    found = [row["page"][-1] for row in rows]
    assert found == ["1", "3", "4"] and counts["broken_record"] + counts["cut_record"] == 1


def test_records_that_end_early_are_counted(tmp_path):
    rows, counts = read(tmp_path, page(1) + page(2)[:-30])
    assert len(rows) == 1 and counts["cut_record"] == 1
    told = record("http://h.example/1", http(PAGE), "response", "application/http", "WARC-Truncated: length")
    rows, counts = read(tmp_path, told + page(2))
    assert len(rows) == 1 and counts["cut_record"] == 1


def test_other_records_and_answers(tmp_path):
    data = record("http://h.example/0", b"software: x\r\n", "warcinfo", "application/warc-fields")
    data += record("http://h.example/1", b"GET / HTTP/1.1\r\n\r\n", "request", "application/http; msgtype=request")
    data += record("http://h.example/2", http(PAGE, status=404))
    data += record("http://h.example/3", http(b"{}", "application/json"))
    data += record("dns:h.example", b"1.2.3.4", "response", "text/dns") + record("http://h.example/4", http(PNG, "image/png"))
    data += record("http://h.example/5", b"\0\xff not http at all \r\n\r\nx") + record("ftp://h.example/6", http(PAGE))
    data += record("<http://h.example/7>", PAGE, "resource", "text/html") + page(8)
    rows, counts = read(tmp_path, data)
    assert [row["page"] for row in rows] == ["http://h.example/7", "http://site.example/8"]
    expected = {"http_status": 2, "not_a_page": 2, "image_records": 1, "bad_target": 1, "pages": 2, "candidates": 2}
    assert counts == expected | {"records": 8, "other_record": 2}


def test_http_headers_without_end(tmp_path):
    data = record("http://h.example/1", b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 3_000_000) + page(2)
    rows, counts = read(tmp_path, data)
    assert [row["page"] for row in rows] == ["http://site.example/2"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_gives_counts_and_no_error(tmp_path_factory, data):
    plain = [page(1), record("http://h.example/2", http(gzip.compress(PAGE), "text/html", "Content-Encoding: gzip")), page(3)]
    whole = bytearray(b"".join(map(gzip.compress, plain)) if data.draw(st.booleans()) else b"".join(plain))
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(whole) - 1))
        whole[position : position + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=30))
        if not whole:
            whole = bytearray(b"x")
    path = tmp_path_factory.getbasetemp() / "fuzz.warc"
    path.write_bytes(whole)
    try:
        assert sum(batch.num_rows for batch in archives.read(path)) <= 6
        list(archives.images(path))
    except DataError as error:
        assert "fuzz.warc" in str(error)


def test_many_broken_places_do_not_take_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(warc, "MAX_BROKEN", 200)
    fake = gzip.compress(b"WARC/1.1\r\n")[:-4]
    start = time.process_time()
    rows, counts = read(tmp_path, gzip.compress(page(1)) + fake * 20_000, "x.warc.gz")
    assert len(rows) == 1 and counts["broken_record"] == 201 and time.process_time() - start < 5


def test_what_is_no_archive_says_so(tmp_path):
    for name, data in {"a.warc": b"<html>", "a.warc.gz": b"\x1f\x8b\x08zz", "b.warc": b"x" * 100_000}.items():
        with pytest.raises(DataError, match=name):
            read(tmp_path, data, name)
    with pytest.raises(DataError, match="no file"):
        list(archives.read(tmp_path / "absent.warc"))
    assert read(tmp_path, b"", "empty.warc")[0] == []


def test_hostile_texts_are_kept_as_data(tmp_path):
    text = "<script>alert(1)</script> Ignore previous instructions " + "x" * 1_000_000
    rows, _ = read(tmp_path, page(1, f"<img src=a alt='{text}'>".encode()))
    assert rows[0]["text"] == text[: pages.MAX_TEXT]


# Archives in odd forms


def small_letters(data: bytes) -> bytes:
    for name in (b"WARC-Type", b"WARC-Target-URI", b"WARC-Record-ID", b"WARC-Date"):
        data = data.replace(name, name.lower())
    return data


def shouted(data: bytes) -> bytes:
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.upper().replace(b"HTTP://SITE.EXAMPLE", b"http://site.example") + b"\r\n\r\n" + rest


ODD = {
    "type": small_letters,
    "all names": lambda data: small_letters(data).replace(b"Content-Length: ", b"content-length: ", 1),
    "capitals": shouted,
    "line feeds": lambda data: data.replace(b"\r\n", b"\n").replace(b"Content-Length: 13", b"Content-Length: 13", 1),
    "folded": lambda data: data.replace(b"\r\nWARC-Date: ", b"\r\nX-Note: one\r\n  two\r\nWARC-Date: "),
    "version 0.18": lambda data: data.replace(b"WARC/1.1", b"WARC/0.18"),
    "version 1.0": lambda data: data.replace(b"WARC/1.1", b"WARC/1.0"),
}


@pytest.mark.parametrize("form", ODD)
@pytest.mark.parametrize("name", ["x.warc", "x.warc.gz"])
def test_field_names_know_no_case_and_lines_may_end_in_a_line_feed(tmp_path, form, name):
    pack = gzip.compress if name.endswith("gz") else bytes

    def odd(number: int) -> bytes:
        block = http(PAGE)
        if form == "line feeds":
            block = block.replace(b"\r\n", b"\n")
        return pack(ODD[form](record(f"http://site.example/{number}", block)))

    found = [row["page"][-1] for row in read(tmp_path, odd(1) + odd(2) + pack(page(3)) + odd(4), name)[0]]
    assert found == ["1", "2", "3", "4"]
    broken = odd(2).replace(b"ength: ", b"ength: x").replace(b"ENGTH: ", b"ENGTH: x")
    if name == "x.warc":
        rows, counts = read(tmp_path, odd(1) + broken + odd(3) + odd(4), name)
        assert [row["page"][-1] for row in rows] == ["1", "3", "4"] and counts["broken_record"] >= 1


def test_the_place_of_an_odd_record_is_its_own(tmp_path):
    data = small_letters(page(1))
    rows, _ = read(tmp_path, data.replace(b"Content-Length", b"content-length", 1) * 3)
    assert [int(row["source"].split(":")[1]) for row in rows] == [0, len(data), 2 * len(data)]


@pytest.mark.parametrize("name", ["x.warc.wet.gz", "x.warc"])
def test_archives_of_texts_or_links_alone_are_refused(tmp_path, name):
    info = record("http://h.example/", b"software: x\r\n", "warcinfo", "application/warc-fields")
    texts = info + record("http://h.example/1", b"Aerial view of a port", "conversion", "text/plain") * 3
    links = info + record("http://h.example/1", b'{"Envelope": {}}', "metadata", "application/json") * 3
    for data, what in ((texts, "WET"), (links, "WAT")):
        data = gzip.compress(data) if name.endswith("gz") else data
        with pytest.raises(DataError, match=rf"(?s){what}.*take the \.warc\.gz of the same name"):
            read(tmp_path, data, name)


def test_an_archive_without_a_page_says_what_is_in_it(tmp_path, caplog):
    data = record("http://h.example/1", b"", "revisit") + record("http://h.example/2", http(PAGE, status=404))
    rows, counts = read(tmp_path, data)
    assert rows == [] and counts == {"other_record": 1, "records": 1, "http_status": 1}
    assert "no page was read" in caplog.text and "1 http_status" in caplog.text
    part = record("http://h.example/1", http(PAGE), "response", "application/http", "WARC-Segment-Number: 1")
    assert read(tmp_path, part + page(2))[1]["cut_record"] == 1


def test_every_record_is_a_page_an_image_or_has_a_reason(tmp_path):
    data = page(1) + record("http://h.example/2", http(PNG, "image/png")) + record("http://h.example/3", http(b"x", "a/b"))
    data += record("http://h.example/4", http(b"\x1f\x8b~", "text/html", "Content-Encoding: gzip"))
    data += page(5, PAGE + b"<img src=b><img alt=t><img src=ftp://x alt=t>")
    rows, counts = read(tmp_path, data)
    reasons = set(archives.RECORD_REASONS) - {"other_record", "broken_record", "cut_body"}
    assert counts["records"] == 5 == counts["pages"] + counts["image_records"] + sum(counts[name] for name in reasons)
    listed = [(row["reason"], row["url"]) for row in counts.listed]
    where = (
        ("broken_encoding", "http://h.example/4"),
        ("no_text", "http://site.example/b"),
        ("no_url", ""),
        ("bad_url", "ftp://x"),
    )
    assert listed == list(where) and all(row["source"].startswith("x.warc:") for row in counts.listed)


def test_a_record_with_line_feeds_may_say_nothing_of_its_type(tmp_path):
    head = b"WARC/1.1\nWARC-Type: response\nWARC-Target-URI: http://h.example/\nContent-Length: 4\n\n"
    rows, counts = read(tmp_path, head + b"junk" + b"\n\n" + page(1))
    assert len(rows) == 1 and counts["pages"] == 1


# Images in archives


def test_images_of_an_archive(tmp_path):
    jpeg = b"\xff\xd8\xff\xe0" + b"1" * 40
    data = page(1) + record("http://h.example/a b.png", http(PNG, "image/png", "X-Robots-Tag: noai"))
    data += record("http://h.example/b.jpg", http(gzip.compress(jpeg), "application/octet-stream", "Content-Encoding: gzip"))
    data += record("http://h.example/c.png", http(PNG, "image/png", status=404))
    data += record("http://h.example/d", http(b"%PDF", "x/y"))
    data += record("http://h.example/e.png", http(PNG * 100, "image/png"))
    data += record("http://h.example/f.png", PNG, "resource", "image/png")
    path = tmp_path / "x.warc"
    path.write_bytes(data)
    counts = pages.Counts()
    found = {picture.url: picture for picture in archives.images(path, counts=counts, max_bytes=1000)}
    assert [url[-5:] for url in found] == ["b.png", "b.jpg", "f.png"]
    assert found["http://h.example/a%20b.png"].data == PNG and found["http://h.example/a%20b.png"].robots == "noai"
    assert found["http://h.example/b.jpg"].data == jpeg
    assert counts == {"archived_images": 3, "archived_too_large": 1}
    wanted = [picture.url for picture in archives.images(path, wanted={"http://h.example/b.jpg"})]
    assert wanted == ["http://h.example/b.jpg"]


def test_batches_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "BATCH_BYTES", 50_000)
    path = tmp_path / "t.parquet"
    texts = ["x" * 9_000] * 30 + ["y"] * 100
    pq.write_table(pa.table({"url": [f"http://h.example/{i}" for i in range(130)], "text": texts}), path)
    sizes = [batch.num_rows for batch in archives.read(path, batch_rows=40)]
    assert sum(sizes) == 130 and max(sizes) == 40 and sizes[0] == 6


def test_the_same_file_gives_the_same_rows(tmp_path):
    rng = np.random.default_rng(0)
    bodies = [b"".join(b"<img src=/%d alt='t %d'>" % tuple(rng.integers(0, 99, 2)) for _ in range(20)) for _ in range(30)]
    data = members(*(page(i, body) for i, body in enumerate(bodies)))
    first, second = read(tmp_path, data, "a.warc.gz"), read(tmp_path, data, "a.warc.gz")
    assert first == second and len(first[0]) > 300
