"""Records of an archive end where the next one stands; what a wrong length covers is read, and what was cut is counted."""

from __future__ import annotations

import base64
import gzip
import hashlib
import random
import tracemalloc

import pytest
from crawled import PAGE, http, page, read, record, written

from rsvlm.data.web import archives, html as pages, warc

pytest.importorskip("fastwarc", reason="the extra [data] is not installed")
pytest.importorskip("resiliparse", reason="the extra [data] is not installed")

FORMS = {
    "plain": b"".join,
    "a member each": lambda parts: b"".join(map(gzip.compress, parts)),
    "one member": lambda parts: gzip.compress(b"".join(parts)),
}


def long(number: int) -> bytes:
    return page(number, PAGE + b"z" * 400)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kept", [1, 20, 60, 150, 212, 215, 300, 500, 700])
@pytest.mark.parametrize("behind", [b"", b"\r\n\r\n"])
def test_a_cut_record_takes_no_other_with_it(tmp_path, form, kept, behind):
    rows, counts = read(tmp_path, FORMS[form]([long(1), long(2)[:kept] + behind, long(3), long(4)]))
    assert [row["page"][-1] for row in rows] == ["1", "3", "4"]
    assert counts["broken_record"] + counts["cut_record"] == 1 and counts["records"] == 3 + counts["cut_record"]
    assert [row["url"] for row in counts.listed] == ["http://site.example/2"] * counts["cut_record"]


@pytest.mark.parametrize("form", FORMS)
def test_a_cut_record_of_another_kind_takes_no_page_with_it(tmp_path, form):
    asked = record("http://site.example/", b"GET / HTTP/1.1\r\nX: " + b"x" * 500 + b"\r\n\r\n", "request")
    rows, counts = read(tmp_path, FORMS[form]([asked[:-300], page(3), asked, page(4)]))
    assert [row["page"][-1] for row in rows] == ["3", "4"] and (counts["broken_record"], counts["other_record"]) == (1, 1)


def nested(*more: str) -> bytes:
    return record("http://site.example/9", http(page(7) + page(8), "application/warc"), "response", "application/http", *more)


@pytest.mark.parametrize("form", FORMS)
def test_a_record_may_hold_the_text_of_others(tmp_path, form):
    about = page(5, PAGE + b"<pre>" + page(7) + b"</pre>")
    for parts in ([page(1), nested(), about, page(3)], [page(1), about, nested()], [nested() + b"\r\n" * 50, about]):
        rows, counts = read(tmp_path, FORMS[form](parts))
        assert not {"7", "8"} & {row["page"][-1] for row in rows} and counts["not_a_page"] == 1
        assert {"broken_record", "cut_record"}.isdisjoint(counts) and "5" in [row["page"][-1] for row in rows]


@pytest.mark.parametrize("spell", [bytes.hex, lambda digest: base64.b32encode(digest).decode().lower()])
def test_a_record_whose_digest_fits_is_whole_whatever_follows(tmp_path, spell):
    block = http(page(7) + page(8), "application/warc")
    told = [f"WARC-Block-Digest: sha1:{spell(hashlib.sha1(data).digest())}" for data in (block, block + b"x")]
    for more, found in ((told[0], ["3"]), (told[1], ["7", "8", "3"])):
        rows, counts = read(tmp_path, nested(more) + b"junk\r\n" + page(3))
        assert [row["page"][-1] for row in rows] == found and counts["cut_record"] == len(found) // 3


@pytest.mark.parametrize("form", FORMS)
def test_long_records_are_gone_over_and_what_they_cover_is_read_or_counted(tmp_path, monkeypatch, form):
    monkeypatch.setattr(warc, "MAX_BLOCK", 300_000)
    film = record("http://site.example/2", http(b"\0" * 900_000, "video/mp4"))
    rows, counts = read(tmp_path, FORMS[form]([page(1), film, page(3)]))
    assert len(rows) == 2 and counts["not_a_page"] == 1 and not counts["broken_record"]
    rows, counts = read(tmp_path, FORMS[form]([page(1), film[:600_000], page(3), page(4), film, page(5)]))
    lost = form == "one member" and 2  # which only a second look at the file would give
    assert [row["page"][-1] for row in rows] == (["1", "5"] if lost else ["1", "3", "4", "5"])
    assert counts["broken_record"] + counts["cut_record"] >= (lost or 1)


@pytest.mark.parametrize("form", FORMS)
def test_no_more_than_a_record_is_held(tmp_path, monkeypatch, form):
    monkeypatch.setattr(warc, "MAX_BLOCK", 300_000)
    film = record("http://site.example/2", http(bytes(range(256)) * 80_000, "video/mp4"))
    path = written(tmp_path, FORMS[form]([page(1), film, film[:9_000_000], film, page(3)]))
    del film
    tracemalloc.start()
    rows = sum(batch.num_rows for batch in archives.read(path, pages.Counts()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 2 and peak < 4_000_000


def test_a_long_member_that_is_damaged_is_one_broken_record(tmp_path):
    noise = bytes(random.Random(0).choices(range(33, 60), k=600_000))
    parts = [gzip.compress(page(number, PAGE + noise)) for number in (1, 2, 3)]
    parts[1] = parts[1][:300_000] + bytes(1000) + parts[1][301_000:]
    rows, counts = read(tmp_path, b"".join(parts))
    assert [row["page"][-1] for row in rows] == ["1", "3"] and (counts["broken_record"], counts["records"]) == (1, 2)
    whole = bytearray(gzip.compress(b"".join(page(number, PAGE + noise) for number in (1, 2, 3))))
    whole[-8:-4] = b"\0\1\2\3"  # what all was checked by, which its last record alone waits for
    rows, counts = read(tmp_path, bytes(whole))
    assert [row["page"][-1] for row in rows] == ["1", "2"] and counts["broken_record"] == 1


def test_members_behind_one_that_is_cut_are_read_also_where_it_unpacks_to_the_end(tmp_path):
    cut = gzip.compress(long(2), 0)[:300]  # bytes as they are, so that what follows is taken for more of them
    for behind in (1, 3):
        rows, counts = read(tmp_path, gzip.compress(page(1)) + cut + gzip.compress(page(3)) * behind)
        assert [row["page"][-1] for row in rows] == ["1"] + ["3"] * behind and counts["broken_record"] == 1 == counts[
            "records"
        ] - behind
    rows, counts = read(tmp_path, gzip.compress(page(1)) + gzip.compress(page(2))[:-6])
    assert len(rows) == 2 and not counts["broken_record"]
