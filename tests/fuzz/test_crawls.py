"""Archives and tables of links: what goes in comes out, or is counted with a reason; personal data does not."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import re
import tempfile
import zlib
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import fuzz
from hypothesis import strategies as st

from rsvlm import config
from rsvlm.data.web import archives, html, personal, texts

for package in ("fastwarc", "resiliparse", "lingua"):
    pytest.importorskip(package, reason=f"{package} is not installed")

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(60))

# Archives


def chunked(data, body: bytes) -> bytes:
    parts, at = [], 0
    while at < len(body):
        size = data.draw(st.integers(1, 200))
        part = body[at : at + size]
        ending = data.draw(st.sampled_from([b"", b";x=1", b" "]))
        parts.append(data.draw(st.sampled_from([b"%x", b"%X", b"%04x"])) % len(part) + ending + b"\r\n" + part + b"\r\n")
        at += size
    return b"".join(parts) + data.draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nX-Sum: 1\r\n\r\n"]))


def answer(data, kind: str, body: bytes, status: int = 200) -> bytes:
    """An HTTP answer, packed and cut as servers do."""
    headers = [("Content-Type", kind), ("Server", "x")]
    packing = data.draw(st.sampled_from(["", "", "gzip", "x-gzip", "deflate", "raw", "named"]))
    if packing in ("gzip", "x-gzip"):
        half = len(body) // 2 if data.draw(st.booleans()) else len(body)
        body = gzip.compress(body[:half]) + (gzip.compress(body[half:]) if body[half:] else b"")
    elif packing in ("deflate", "raw"):
        packer = zlib.compressobj(wbits=15 if packing == "deflate" else -15)
        body = packer.compress(body) + packer.flush()
    if packing:
        coding = {"raw": "deflate", "named": "gzip"}.get(packing, packing)  # named: unpacked already, and still said to be
        headers.append(("Content-Encoding", data.draw(st.sampled_from([coding, coding.upper()]))))
    if packing != "named" and data.draw(st.booleans()):
        body = chunked(data, body)
        headers.append(("Transfer-Encoding", data.draw(st.sampled_from(["chunked", "Chunked"]))))
    end = data.draw(st.sampled_from(["\r\n", "\r\n", "\n"]))
    names = data.draw(st.sampled_from([str, str.lower, str.upper]))
    gap = data.draw(st.sampled_from([": ", ":", ":  "]))
    lines = [f"HTTP/1.1 {status} OK", *(names(name) + gap + value for name, value in data.draw(st.permutations(headers)))]
    return (end.join(lines) + end + end).encode() + body


def record(
    data, url: str, block: bytes, kind: str = "response", content: str = "application/http; msgtype=response", digest: str = ""
) -> bytes:
    """A record of an archive, its header spelled as the format allows."""
    url = data.draw(st.sampled_from([url, url, f"<{url}>"]))
    names = data.draw(st.sampled_from([str, str, str.lower, str.upper]))
    fields = [("WARC-Type", kind), ("WARC-Target-URI", url), ("WARC-Record-ID", f"<urn:uuid:{zlib.crc32(block):08x}>")]
    fields += [("WARC-Date", "2026-01-01T00:00:00Z"), ("Content-Type", content), ("Content-Length", str(len(block)))]
    fields += data.draw(st.sampled_from([[], [("WARC-IP-Address", "93.184.216.34")], [("X-Note", "a\r\n  folded line")]]))
    if digest:
        value = hashlib.new(digest, block).digest()
        told = data.draw(
            st.sampled_from([value.hex(), base64.b32encode(value).decode(), base64.b32encode(value).decode().lower()])
        )
        fields.append(("WARC-Block-Digest", f"{digest}:{told}"))
    gap = data.draw(st.sampled_from([": ", ": ", ":", ":\t"]))
    end = data.draw(st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"]))
    lines = [
        data.draw(st.sampled_from(["WARC/1.0", "WARC/1.1"])),
        *(names(name) + gap + value for name, value in data.draw(st.permutations(fields))),
    ]
    return (end.join(lines) + end + end).replace("\r\n  ", end + "  ").encode() + block + 2 * end.encode()


KINDS = st.lists(
    st.sampled_from(["page", "page", "image", "resource", "missing", "request", "pdf", "archive", "about"]),
    min_size=1,
    max_size=6,
)


def nested(data) -> bytes:
    """Records that are the content of another, as where an archive or a text about archives was crawled."""
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<img src=/n.png alt=nested>"
    return b"".join(
        record(data, "http://maps.example/nested", data.draw(st.sampled_from([page, b"x"])))
        for _ in range(data.draw(st.integers(1, 3)))
    )


def archive(data, kinds: list[str], without_digest: bool = True) -> tuple[list[bytes], Counter, list[str], dict[str, bytes]]:
    """Records; what is to be counted of them; texts of pages in order; pictures.

    One that holds others has a digest, or may be without.
    """
    digests = st.sampled_from(["sha1", "md5", "sha256"] + [""] * without_digest * 3)
    records, counts, alts, pictures = [], Counter(), [], {}
    for number, kind in enumerate(kinds):
        url = f"http://maps.example/{number}"
        if kind == "page":
            alts.append(f"port {number} é")
            page = f"<title>x</title><p>{'y ' * data.draw(st.integers(0, 300))}</p><img src=/{number}.png alt='{alts[-1]}'>".encode()
            content = data.draw(
                st.sampled_from(["text/html", "text/html; charset=utf-8", "TEXT/HTML", "application/xhtml+xml"])
            )
            records.append(record(data, url, answer(data, content, page)))
            counts += Counter(records=1, pages=1, candidates=1)
        elif kind in ("image", "resource"):
            pictures[url] = PNG + bytes([number])
            if kind == "image":
                records.append(
                    record(data, url, answer(data, data.draw(st.sampled_from(["image/png", "Image/PNG"])), pictures[url]))
                )
            else:
                records.append(record(data, url, pictures[url], "resource", "image/png"))
            counts += Counter(records=1, image_records=1)
        elif kind == "request":
            block = b"GET / HTTP/1.1\r\nHost: maps.example\r\n\r\n"
            records.append(record(data, url, block, "request", "application/http; msgtype=request"))
            counts["other_record"] += 1
        elif kind == "archive":
            block = b"HTTP/1.1 200 OK\r\nContent-Type: application/warc\r\n\r\n" + nested(data)
            records.append(record(data, url, block, digest=data.draw(digests)))
            counts += Counter(records=1, not_a_page=1)
        elif kind == "about":
            alts.append(f"port {number} é")
            page = b"<plaintext>" + nested(data).replace(b"<", b"&lt;")
            block = (
                f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<img src=/{number}.png alt='{alts[-1]}'>".encode() + page
            )
            records.append(record(data, url, block, digest=data.draw(digests)))
            counts += Counter(records=1, pages=1, candidates=1)
        else:
            what = ("application/pdf", b"%PDF", 200) if kind == "pdf" else ("text/html", b"<p>no</p>", 404)
            records.append(record(data, url, answer(data, *what)))
            counts += Counter({"records": 1, "not_a_page" if kind == "pdf" else "http_status": 1})
    return records, counts, alts, pictures


def packed(data, records: list[bytes]) -> bytes:
    """Plain, a member for each record, one for all, or one for some."""
    form = data.draw(st.sampled_from(["plain", "each", "all", "some"]))
    if form == "some":
        half = data.draw(st.integers(0, len(records)))
        return gzip.compress(b"".join(records[:half])) + b"".join(map(gzip.compress, records[half:]))
    return b"".join(records) if form == "plain" else packed_as(form, records)


def packed_as(form: str, records: list[bytes]) -> bytes:
    return b"".join(map(gzip.compress, records)) if form == "each" else gzip.compress(b"".join(records))


def rows_of(path: Path) -> tuple[list[dict], Counter]:
    counts = html.Counts()
    return [row for batch in archives.read(path, counts) for row in batch.to_pylist()], Counter(counts)


@fuzz(data=st.data(), kinds=KINDS)
def test_every_record_of_an_archive_is_read_or_counted(data, kinds):
    records, counts, alts, pictures = archive(data, kinds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, data.draw(st.sampled_from(["x.warc", "x.warc.gz", "x.WARC"])))
        path.write_bytes(packed(data, records))
        rows, told = rows_of(path)
        assert [row["text"] for row in rows] == alts and told == counts, path.read_bytes()[:5000]
        assert {picture.url: picture.data for picture in archives.images(path)} == pictures, path.read_bytes()[:5000]


@fuzz(data=st.data(), kinds=KINDS, where=st.floats(0, 1), junk=st.sampled_from([b"", b"junk\r\n", b"\r\n\r\n\r\n", b"WARC/9"]))
def test_what_stands_around_a_broken_place_is_read_and_the_broken_counted(data, kinds, where, junk):
    """One record among whole ones is cut anywhere; the others come out as they are, and it has a reason."""
    records, counts, alts, pictures = archive(data, ["page", *kinds, "page"], without_digest=False)
    broken = record(
        data, "http://maps.example/broken", answer(data, "text/html", b"<img src=/b.png alt=broken>" + bytes(range(256)) * 2)
    )
    cut = broken[: max(1, int(where * len(broken)))]
    at = data.draw(st.integers(1, len(records) - 1))
    form, lead = data.draw(st.sampled_from(["plain", "each", "all"])), data.draw(st.sampled_from([b"", b"", b"junk\r\n"]))
    behind, end = cut + junk + b"".join(records[at:]), len(broken) - (4 if broken[8:9] == b"\r" else 2)
    if re.search(rb"WARC/1", behind[5:end]) and end <= len(behind) and re.match(rb"\s*(?:WARC/|$)", behind[end:]):
        return  # by chance it ends where another record begins, or the last one ends, so nothing tells that it is no text about archives
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.warc" if form == "plain" else "x.warc.gz")
        if form == "each":
            member = gzip.compress(broken)
            member = member[: max(1, int(where * len(member)))] if data.draw(st.booleans()) else gzip.compress(cut)
            path.write_bytes(packed_as(form, records[:at]) + lead + member + junk + packed_as(form, records[at:]))
        else:
            plain = b"".join([*records[:at], lead, behind])
            path.write_bytes(plain if form == "plain" else gzip.compress(plain))
        rows, told = rows_of(path)
        case = (where, junk, at, form, told, path.read_bytes()[:5000])
        assert [row["text"] for row in rows if row["text"] != "broken"] == alts, case
        assert {picture.url: picture.data for picture in archives.images(path)} == pictures, case
        told.subtract(counts)
        assert min(told.values()) >= 0, case
        is_read = told["pages"] == 1
        reasons = told["broken_record"] + sum(told[name] for name in ("cut_record", "broken_encoding", "not_a_page"))
        assert 1 <= is_read + reasons <= 1 + bool(lead) + bool(junk.strip()), case
        assert told["records"] == is_read + reasons - told["broken_record"], case


# Tables of links

CELLS = st.text(st.sampled_from("ab é,;\"\t\n|'日"), max_size=8)
LINKS = st.sampled_from(
    ["http://h.example/a.jpg", "https://h.example/ü b.png", "//h.example/x", "ftp://h.example/x", "", "nan", "a.jpg"]
)
ROWS = st.lists(st.tuples(LINKS, CELLS, CELLS), min_size=1, max_size=8)


def as_csv(rows, delimiter: str, quoting: int, end: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([("url", "caption", "more"), *rows])
    return text.getvalue()


@fuzz(data=st.data(), rows=ROWS)
def test_every_row_of_a_table_is_a_candidate_or_counted(data, rows):
    form = data.draw(st.sampled_from(["csv", "csv", "tsv", "jsonl", "parquet"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"t.{form}")
        if form in ("csv", "tsv"):
            if form == "tsv":  # a tab or an end of line within a cell has no one spelling there
                rows = [[cell.replace("\t", " ").replace("\n", " ").replace('"', "'") for cell in row] for row in rows]
            delimiter = "\t" if form == "tsv" else data.draw(st.sampled_from(",;"))
            quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])) if form == "csv" else csv.QUOTE_MINIMAL
            end = data.draw(st.sampled_from(["\n", "\r\n"]))
            written = as_csv(rows, delimiter, quoting, end)
            encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
            path.write_bytes(written.encode(encoding))
            table = pd.read_csv(path, sep=delimiter, encoding=encoding, keep_default_na=False, dtype=str, lineterminator=None)
            rows = list(table.itertuples(index=False, name=None))
        elif form == "jsonl":
            ascii_only, end = data.draw(st.booleans()), data.draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
            lines = [
                json.dumps(dict(zip(("url", "caption", "more"), row, strict=True)), ensure_ascii=ascii_only) for row in rows
            ]
            path.write_bytes((data.draw(st.sampled_from(["", "\ufeff"])) + end.join(lines)).encode())
        else:
            kind = data.draw(
                st.sampled_from([pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
            )
            table = {
                name: pa.array(list(column), pa.string())
                for name, column in zip(("url", "caption", "more"), zip(*rows), strict=True)
            }
            pq.write_table(
                pa.table(
                    {name: column.cast(kind) if kind != pa.binary() else column.cast(kind) for name, column in table.items()}
                ),
                path,
                row_group_size=3,
            )
        found, told = rows_of(path)
        wanted = [(html.absolute_url(url), text) for url, text, _ in rows if text.strip() and html.absolute_url(url)]
        assert [(row["url"], row["text"]) for row in found] == wanted, path.read_bytes()
        assert told["no_text"] == sum(not text.strip() for _, text, _ in rows), path.read_bytes()
        rejected = sum(told[name] for name in archives.CANDIDATE_REASONS)
        assert len(found) + rejected == len(rows) and told["candidates"] == len(found), (told, path.read_bytes())


@fuzz(rows=ROWS, place=st.integers(0, 500), end=st.sampled_from(["\n", "\r\n"]))
def test_a_quote_that_is_never_closed_costs_no_row_without_a_reason(rows, place, end):
    rows = [[cell.replace("\n", " ").replace('"', "'").replace(",", " ") for cell in row] for row in rows]
    text = "\n".join(",".join(row) for row in [("url", "caption", "more"), *rows])
    head = text.index("\n") + 1
    place = head + place % (len(text) - head)
    text = (text[:place] + '"' + text[place:]).replace("\n", end)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        path.write_bytes(text.encode())
        found, told = rows_of(path)
        assert len(found) + sum(told[name] for name in archives.CANDIDATE_REASONS) == len(rows), (text, told)


# Texts and personal data

LOCAL, HOST = "jane.doe", "mailbox-of-jane.example"
MAILS = (
    *(
        f"{LOCAL}@{HOST}",
        f"{LOCAL}&#64;{HOST}",
        f"{LOCAL}&#x40;{HOST}",
        f"{LOCAL}%40{HOST}",
        f"{LOCAL} [at] {HOST}",
        f"{LOCAL}(at){HOST}",
    ),
    *(
        f"{LOCAL}&commat;{HOST}",
        f"{LOCAL} at mailbox-of-jane dot example",
        f"mailto:{LOCAL}@{HOST}",
        f"<{LOCAL}@{HOST}>",
        f"{LOCAL}\u200b@{HOST}",
    ),
    *(
        f"{LOCAL} {{at}} {HOST}",
        f"{LOCAL}@\u00ad{HOST}",
        f"{LOCAL.upper()}@{HOST.upper()}",
        f"{LOCAL}\uff20{HOST}",
        f"{LOCAL} @ {HOST}",
    ),
)
PHONES = (
    "+49 30 901820",
    "+1 (555) 123-4567",
    "0049 30 9018 2233",
    "tel. 030 9018223",
    "phone: 555-123-4567",
    "call 020 7946 0958",
    "+44&nbsp;20&nbsp;7946&nbsp;0958",
)
HANDLES = ("@jane_doe77", "via @jane_doe77", "(@jane_doe77)")
SECRETS = ("jane", "9018", "4567", "7946")
BEFORE = ("Satellite image of the harbour", "My cat", "Aerial photograph of fields", "Photo by", "Orthophoto &amp; map,", "")
AFTER = ("", "seen from above", "in winter &copy; all", ".", "| Blog", "<br>")


@fuzz(
    rows=st.lists(
        st.tuples(
            *[st.tuples(st.sampled_from(BEFORE), st.sampled_from((*MAILS, *PHONES, *HANDLES, "", "")), st.sampled_from(AFTER))]
            * 3
        ),
        min_size=1,
        max_size=8,
    )
)
def test_personal_data_comes_out_nowhere_and_every_text_has_an_end(rows):
    columns = {name: [" ".join(filter(None, row[at])) for row in rows] for at, name in enumerate(("text", "title", "heading"))}
    counts = Counter()
    judged = personal.blanked(texts.text_stage(pa.table(columns), config.Web()), counts).to_pylist()
    assert len(judged) == len(rows)
    for row, given in zip(judged, zip(*columns.values(), strict=True), strict=True):
        assert row["kept"] == (row["reason"] == "") and (row["kept"] or row["reason"] in texts.REASONS)
        written = " ".join(str(row[name]) for name in ("text", "clean", "title", "heading")).lower()
        assert not [secret for secret in SECRETS if secret in written], (given, row)
    for at, name in enumerate(("text", "title", "heading")):
        clear = sum(1 for row in judged if not row[name]) - sum(1 for text in columns[name] if not text)
        assert counts[f"personal_{name}"] <= sum(1 for row in rows if row[at][1]) and counts[f"personal_{name}"] == clear
