"""Web archives and tables of links into candidates: the address of an image and a text that somebody wrote beside it.

Archives go through `rsvlm.data.web.warc`, record by record; what is broken is counted and passed over. Pages go through `rsvlm.data.web.html`,
tables through `rsvlm.data.web.tables`, and give the same rows. Every text is kept as data: nothing here follows a link, runs a
script or opens a connection.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import re
import zlib
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from rsvlm.data.web import html, lexicon, tables, warc
from rsvlm.data.web.html import Counts, absolute_url
from rsvlm.errors import DataError, need

if TYPE_CHECKING:
    from fastwarc.warc import WarcRecord

log = logging.getLogger(__name__)

RECORD_REASONS = {
    "bad_target": "the record's own address is no http or https address",
    "broken_encoding": "the body does not unpack as its headers say",
    "broken_record": "a record's header, compression or end is broken; reading went on at the next record, where there is one",
    "cut_body": "not left out: a body without its end, of which what came whole was read",
    "cut_record": "the archive ends or another record begins inside the record, or it says that it was cut",
    "http_status": "the server's answer was not 200",
    "not_a_page": "a response that is neither a page nor an image",
    "other_record": "a record that is no answer of a server: a request, metadata, a text, or a page that the crawl had already",
    "too_large": "a body larger than the limit, packed or unpacked",
}
"""Why a record of an archive was not read. These count records; `rsvlm.data.web.html.REASONS` and those of tables count what could
have been a candidate."""

CANDIDATE_REASONS = html.REASONS | {k: v for k, v in tables.REASONS.items() if not v.startswith("not left out")}
"""Why an image of a page or a row of a table is no candidate."""

REASONS = html.REASONS | RECORD_REASONS | tables.REASONS
"""Why something in an archive or table gave no candidate, and what was read in another way than it says."""

SCHEMA = pa.schema([pa.field(name, pa.string()) for name in html.COLUMNS])
"""Columns of a batch of candidates, see `rsvlm.data.web.html.COLUMNS`."""

MAX_PAGE_BYTES = 5_000_000
MAX_IMAGE_BYTES = 20_000_000
BATCH_BYTES = 32_000_000
"""Limits of one page and image (bytes unpacked) and batch (bytes)."""

_IMAGE_MAGIC = re.compile(rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|BM|II\*\0|MM\0\*|\0\0\0\x0cjP  ", re.DOTALL)


@dataclass(frozen=True)
class Picture:
    """An image that an archive holds: its address, bytes as served, declared type, robots headers, and where it was read."""

    url: str
    data: bytes
    content_type: str
    robots: str
    source: str


def inspect(path: Path | str, names: Mapping[str, str] | None = None) -> dict:
    """Find out what a file is, before any work.

    Args:
        path: A WARC file, packed or not, or a table: `.parquet`, `.csv`, `.tsv`, `.jsonl`, `.ndjson` (and `.gz`, `.zst`, ... of
            the last four).
        names: Names of a table's columns under `url`, `text` and `page`, where they are not to be looked for.

    Returns:
        `{"format": "warc" | "parquet" | "csv" | "tsv" | "jsonl", "columns": {"url": ..., "text": ..., "page": ...}}`, the columns
        as they are named in the file; empty for archives.

    Raises:
        DataError: The file is missing, of another format, an archive of texts or links alone, or has no columns of addresses and
            texts.
        MissingExtraError: The packages that read archives are not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is no file: name WARC, parquet, CSV or JSON-lines files")
    head, suffixes = _head(path), [suffix.lower() for suffix in path.suffixes]
    if head.startswith(b"WARC/") or ".warc" in suffixes:
        _refuse_without_pages(path)
        return {"format": "warc", "columns": {}}
    if not (kind := tables.kind(path, head)):
        raise DataError(f"{path} is neither a WARC file nor a table: expected .warc, .warc.gz, .parquet, .csv, .tsv or .jsonl")
    if kind == "jsonl" and head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"["):
        raise DataError(f"{path} is one JSON list: write one object a line (JSON lines) instead")
    return {"format": kind, "columns": tables.columns(path, kind, names)}


def _refuse_without_pages(path: Path) -> None:
    """Stop at Common Crawl's WET and WAT files, which look like archives and hold texts or links of pages, not the pages."""
    found = [(_field(record, "WARC-Type"), _content_type(record)) for record in _first_records(path)]
    kinds = {kind for kind, _ in found} - {"warcinfo"}
    is_links = kinds == {"metadata"} and all("json" in content for kind, content in found if kind == "metadata")
    if kinds and kinds <= {"conversion"} or is_links:
        what = "links and headers of pages (WAT)" if is_links else "texts of pages (WET)"
        raise DataError(f"{path} holds {what}, no pages and no pictures' addresses: take the .warc.gz of the same name")


def read(
    path: Path | str, counts: Counts | None = None, batch_rows: int = 8192, names: Mapping[str, str] | None = None
) -> Iterator[pa.Table]:
    """Read the candidates of one file, batch by batch, in the file's order.

    Args:
        path: As for `inspect`.
        counts: Receives `records` (answers and resources of an archive), `pages`, `image_records`, `candidates`, one count for each
            of `REASONS` that occurred, and where each of what gave no candidate stands.
        batch_rows: Rows of a batch, at most; batches of long texts are smaller, see `BATCH_BYTES`.
        names: As for `inspect`.

    Yields:
        Tables of `SCHEMA`.

    Raises:
        DataError: As `inspect`, at the first batch; or an archive without a single record.
        MissingExtraError: The packages that read archives are not installed.
    """
    path, counts = Path(path), Counts() if counts is None else counts
    kind, columns = inspect(path, names).values()
    rows = _archive_rows(path, counts) if kind == "warc" else tables.rows(path, kind, columns, counts)
    yield from _batches(rows, counts, batch_rows)
    if kind == "warc" and not counts["pages"]:
        log.warning("%s: no page was read of it (%s)", path, ", ".join(f"{n} {name}" for name, n in counts.items()) or "empty")


def images(
    path: Path | str, wanted: Container[str] | None = None, counts: Counts | None = None, max_bytes: int = MAX_IMAGE_BYTES
) -> Iterator[Picture]:
    """Read the images that an archive holds, so that it can be used without a network.

    Args:
        path: A WARC file.
        wanted: Addresses, as `read` gives them; others are passed over unread. If None, all are read.
        counts: Receives `archived_images`, and how many could not be used, as `archived_` and a reason of `RECORD_REASONS`. What is
            wrong with records, `read` has counted.
        max_bytes: Larger images are passed over, in bytes.

    Yields:
        Images answered with 200, in the file's order; an address may occur twice.

    Raises:
        DataError: The file is missing or no archive.
        MissingExtraError: The packages that read archives are not installed.
    """
    path, counts = Path(path), Counts() if counts is None else counts
    if (kind := inspect(path)["format"]) != "warc":
        raise DataError(f"{path} is a {kind} file: only WARC files hold images")
    lost = Counts()
    for record, source in warc.records(path, Counts()):
        url, content_type = absolute_url(_target(record)), _content_type(record)
        if url is None or (wanted is not None and url not in wanted) or not _is_answered(record):
            continue
        if content_type.startswith("text/") or (body := _body(record, source, max_bytes, lost, whole=True)) is None:
            continue
        if content_type.startswith("image/") or _IMAGE_MAGIC.match(body):
            counts["archived_images"] += 1
            yield Picture(url, body, content_type, html.served_robots(record.http_headers or ()), source)
    counts.update({f"archived_{reason}": n for reason, n in lost.items()})
    if lost:
        reasons = ", ".join(f"{n} {reason}" for reason, n in lost.items())
        log.warning("%s: some pictures that it holds cannot be used (%s): they are asked of their websites", path, reasons)


# Archives


def _head(path: Path, size: int = 512) -> bytes:
    """First bytes of a file, unpacked if it is packed in a way that pyarrow or gzip knows; empty if they do not unpack."""
    with path.open("rb") as file:
        raw = file.read(65536)
    if raw.startswith(b"\x1f\x8b"):
        try:
            return zlib.decompressobj(47).decompress(raw, size)
        except zlib.error:
            return b""
    return raw[:size]


def _field(record: WarcRecord, name: str) -> str:
    return (record.headers.get(name) or "").strip().lower()


def _first_records(path: Path, count: int = 20) -> list[WarcRecord]:
    reader, records = need("fastwarc.warc", "data"), []
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        for record in itertools.islice(reader.ArchiveIterator(file, parse_http=False, auto_decode="none"), count):
            records.append(record)
    return records


def _target(record: WarcRecord) -> str:
    return record.headers.get("WARC-Target-URI", "").strip("<> ")


def _content_type(record: WarcRecord) -> str:
    return (record.http_content_type if record.http_headers else record.headers.get("Content-Type")) or ""


def _is_answered(record: WarcRecord) -> bool:
    """Tell whether the server answered with the thing itself; a resource has no answer and is the thing."""
    return record.http_headers is None or record.http_headers.status_code == 200


def _body(record: WarcRecord, place: str, max_bytes: int, counts: Counts, whole: bool) -> bytes | None:
    """Unpack a record's body as far as the limit allows; nothing, and a count, where it is broken or too large.

    A body without its end, as where a server hangs up, is given as far as it came, unless it must be `whole`.
    """
    url = _target(record)
    if (length := record.content_length) > max_bytes:
        counts.reject("too_large", place, url)
        return None
    try:
        data = record.reader.read(max_bytes + 1)
    except OSError:
        data = b""
    if len(data) < length:
        counts.reject("cut_record", place, url)
        return None
    headers = record.http_headers or {}
    codings = [name.strip().lower() for name in (headers.get("Content-Encoding") or "").split(",")]
    codings += ["chunked"] if "chunked" in (headers.get("Transfer-Encoding") or "").lower() else []
    codings = [name for name in codings if name not in ("", "identity")]
    try:
        if len(codings) > 3:
            raise ValueError(f"{len(codings)} codings")
        is_whole = True
        for name in reversed(codings):
            data, ended = _unpack(data, name, max_bytes)
            is_whole &= ended
            if len(data) > max_bytes:
                counts.reject("too_large", place, url)
                return None
        if not is_whole and (whole or not data):
            raise ValueError("the body ends early")
    except (OSError, ValueError, EOFError, zlib.error):
        counts.reject("broken_encoding", place, url)
        return None
    if not is_whole:
        counts["cut_body"] += 1
    return data


def _unpack(data: bytes, coding: str, max_bytes: int) -> tuple[bytes, bool]:
    """Undo one coding of a body, giving at most one byte more than allowed, and tell whether it has its end.

    Archives often hold bodies that were unpacked already, under headers that still name the coding: what is plainly not packed
    is returned as it is.
    """
    if coding == "chunked":
        return _join_chunks(data)
    plain = data.lstrip()[:1] == b"<" or _IMAGE_MAGIC.match(data) is not None
    if plain and not data.startswith(b"\x1f\x8b"):
        return data, True
    if coding in ("gzip", "x-gzip", "deflate"):
        # Servers send either of two formats as deflate.
        bits = 47 if coding != "deflate" or data[:1] and data[0] & 15 == 8 else -15
        result = b""
        while True:  # a body of several members is all of them, one behind the other
            unpacker = zlib.decompressobj(bits)
            result += unpacker.decompress(data, max_bytes + 1 - len(result))
            data = unpacker.unused_data
            if not unpacker.eof or not data.startswith(b"\x1f\x8b") or len(result) > max_bytes:
                return result, unpacker.eof or len(result) > max_bytes
    if coding in ("br", "zstd"):
        from fastwarc.stream_io import BrotliReader, ZstdReader

        reader = (BrotliReader if coding == "br" else ZstdReader)(io.BytesIO(data))
        result = bytearray()
        while len(result) <= max_bytes and (part := reader.read(min(1 << 16, max_bytes + 1 - len(result)))):
            result += part
        return bytes(result), True
    raise ValueError(f"unknown coding {coding}")


_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,1000})?\r?\n")
_LINE_END = re.compile(rb"\r?\n")


def _join_chunks(data: bytes) -> tuple[bytes, bool]:
    """Join the chunks that came whole, and tell whether the last one, of size 0, is among them; what has none is no chunks."""
    parts, position = [], 0
    while match := _CHUNK.match(data, position):
        if (size := int(match[1], 16)) == 0:
            return b"".join(parts), True
        part = data[match.end() : match.end() + size]
        if len(part) < size:
            return b"".join(parts), False
        parts.append(part)
        position = match.end() + size
        position = end.end() if (end := _LINE_END.match(data, position)) else position
    if not parts:
        return data, True
    if not re.fullmatch(rb"[0-9A-Fa-f]{0,8}\s*", data[position : position + 100]):
        raise ValueError("the length of a chunk is no number")
    return b"".join(parts), False


def _archive_rows(path: Path, counts: Counts) -> Iterator[tuple]:
    for record, source in warc.records(path, counts):
        content_type, target = _content_type(record).split(";")[0].strip().lower(), _target(record)
        if not _is_answered(record):
            counts["http_status"] += 1
        elif content_type.startswith("image/"):
            counts["image_records"] += 1
        elif content_type not in ("text/html", "application/xhtml+xml", ""):
            counts["not_a_page"] += 1
        elif (page := absolute_url(target)) is None:
            counts["bad_target"] += 1
        elif (body := _body(record, source, MAX_PAGE_BYTES, counts, whole=False)) is None:
            continue
        elif not content_type and b"<" not in body[:512]:
            counts["not_a_page"] += 1
        else:
            counts["pages"] += 1
            text = html.decode(body, record.http_charset)
            yield from html.page_rows(text, page, source, html.served_robots(record.http_headers or ()), counts)


def _batches(rows: Iterator[tuple], counts: Counts, batch_rows: int) -> Iterator[pa.Table]:
    batch, size = [], 0
    for row in itertools.chain(rows, [None]):
        if batch and (row is None or len(batch) >= batch_rows or size >= BATCH_BYTES):
            counts["candidates"] += len(batch)
            yield pa.table([lexicon.strings(column, pa.string()) for column in zip(*batch)], schema=SCHEMA)
            batch, size = [], 0
        if row:
            batch.append(row)
            size += sum(map(len, row))
