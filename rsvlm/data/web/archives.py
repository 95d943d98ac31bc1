"""Web archives and tables of links into candidates: the address of an image and a text that somebody wrote beside it.

WARC files are read as streams, record by record; what is broken is counted and passed over. Pages go through `rsvlm.data.web.html`.
Tables (parquet, CSV, JSON lines) of address and text, as LAION, DataComp and COYO publish them, give the same rows. Every text is
kept as data: nothing here follows a link, runs a script or opens a connection.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import re
import zlib
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from rsvlm.data.web import html, lexicon
from rsvlm.data.web.html import MAX_TEXT, absolute_url
from rsvlm.errors import DataError, need

if TYPE_CHECKING:
    from fastwarc.warc import WarcRecord

log = logging.getLogger(__name__)

REASONS = html.REASONS | {
    "broken_encoding": "the body does not unpack as its headers say",
    "broken_record": "a record's header or compression is broken; reading went on at the next record, where there is one",
    "broken_row": "a line is no JSON object, or has another number of columns than the table",
    "cut_record": "the archive ends inside the record, or says that it was cut",
    "http_status": "the server's answer was not 200",
    "not_a_page": "a response that is neither a page nor an image",
    "too_large": "a body larger than the limit, packed or unpacked",
}
"""Why something in an archive or table gave no candidate."""

SCHEMA = pa.schema([pa.field(name, pa.string()) for name in html.COLUMNS])
"""Columns of a batch of candidates, see `rsvlm.data.web.html.COLUMNS`."""

MAX_PAGE_BYTES = 5_000_000
MAX_IMAGE_BYTES = 20_000_000
MAX_LINE = 4_000_000
BATCH_BYTES = 32_000_000
MAX_BROKEN = 10_000
"""Limits of one page and image (bytes unpacked), line and batch (bytes), and of the broken places after which an archive is given
up."""

URL_COLUMNS = ("url", "image_url", "img_url", "imageurl", "image", "src", "link")
TEXT_COLUMNS = ("text", "caption", "alt", "alt_text", "alttext", "description", "top_caption")
PAGE_COLUMNS = ("page", "page_url", "parent_url", "pageurl")
"""Names of columns that are understood, the first found counts; upper and lower case are alike."""

_IMAGE_MAGIC = re.compile(rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|BM|II\*\0|MM\0\*|\0\0\0\x0cjP  ", re.DOTALL)


@dataclass(frozen=True)
class Picture:
    """An image that an archive holds: its address, bytes as served, declared type, robots headers, and where it was read."""

    url: str
    data: bytes
    content_type: str
    robots: str
    source: str


def inspect(path: Path | str) -> dict:
    """Find out what a file is, before any work.

    Args:
        path: A WARC file, packed or not, or a table: `.parquet`, `.csv`, `.tsv`, `.jsonl`, `.ndjson` (and `.gz`, `.zst`, ... of
            the last four).

    Returns:
        `{"format": "warc" | "parquet" | "csv" | "tsv" | "jsonl", "columns": {"url": ..., "text": ..., "page": ...}}`, the columns
        as they are named in the file; empty for archives.

    Raises:
        DataError: The file is missing, of another format, or has no columns of addresses and texts.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is no file: name WARC, parquet, CSV or JSON-lines files")
    head, suffixes = _head(path), [suffix.lower() for suffix in path.suffixes]
    if head.startswith(b"WARC/") or ".warc" in suffixes:
        return {"format": "warc", "columns": {}}
    kinds = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
    kind = next((kinds[suffix] for suffix in reversed(suffixes[-2:]) if suffix in kinds), "")
    kind = "parquet" if head.startswith(b"PAR1") else kind
    if not kind:
        raise DataError(f"{path} is neither a WARC file nor a table: expected .warc, .warc.gz, .parquet, .csv, .tsv or .jsonl")
    if kind == "jsonl" and head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"["):
        raise DataError(f"{path} is one JSON list: write one object a line (JSON lines) instead")
    return {"format": kind, "columns": _columns(path, kind)}


def read(path: Path | str, counts: Counter | None = None, batch_rows: int = 8192) -> Iterator[pa.Table]:
    """Read the candidates of one file, batch by batch, in the file's order.

    Args:
        path: As for `inspect`.
        counts: Receives `pages`, `candidates`, and one count for each of `REASONS` that occurred.
        batch_rows: Rows of a batch, at most; batches of long texts are smaller, see `BATCH_BYTES`.

    Yields:
        Tables of `SCHEMA`.

    Raises:
        DataError: As `inspect`, at the first batch; or an archive without a single record.
        MissingExtraError: The packages that read archives are not installed.
    """
    path, counts = Path(path), Counter() if counts is None else counts
    kind, columns = inspect(path).values()
    rows = _archive_rows(path, counts) if kind == "warc" else _table_rows(path, kind, columns, counts)
    yield from _batches(rows, counts, batch_rows)


def images(
    path: Path | str, wanted: Container[str] | None = None, counts: Counter | None = None, max_bytes: int = MAX_IMAGE_BYTES
) -> Iterator[Picture]:
    """Read the images that an archive holds, so that it can be used without a network.

    Args:
        path: A WARC file.
        wanted: Addresses, as `read` gives them; others are passed over unread. If None, all are read.
        counts: Receives `images`, and reasons as in `REASONS`.
        max_bytes: Larger images are passed over, in bytes.

    Yields:
        Images answered with 200, in the file's order; an address may occur twice.

    Raises:
        DataError: The file is missing or no archive.
        MissingExtraError: The packages that read archives are not installed.
    """
    path, counts = Path(path), Counter() if counts is None else counts
    if (kind := inspect(path)["format"]) != "warc":
        raise DataError(f"{path} is a {kind} file: only WARC files hold images")
    for record, source in _records(path, counts):
        url, content_type = absolute_url(_target(record)), _content_type(record)
        if url is None or (wanted is not None and url not in wanted) or not _is_answered(record):
            continue
        if content_type.startswith("text/") or (body := _body(record, max_bytes, counts)) is None:
            continue
        if content_type.startswith("image/") or _IMAGE_MAGIC.match(body):
            counts["images"] += 1
            yield Picture(url, body, content_type, html.served_robots(record.http_headers or ()), source)


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


def _records(path: Path, counts: Counter) -> Iterator[tuple[WarcRecord, str]]:
    """Give every response and resource of an archive with its place, going on behind what is broken."""
    warc = need("fastwarc.warc", "data")
    wanted = warc.WarcRecordType.response | warc.WarcRecordType.resource
    size, start, seen, broken = path.stat().st_size, 0, False, 0
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        while start is not None and start < size:
            last, skip = start, 1
            file.seek(start)
            try:
                # Not limited to the wanted types: a broken record must be told by its own place.
                for record in warc.ArchiveIterator(file, parse_http=False, auto_decode="none"):
                    last, seen = record.stream_pos, True
                    length = record.headers.get("Content-Length", "")
                    if not (length.isascii() and length.isdigit() and len(length) < 16):
                        raise OSError("no length")
                    skip = 1 if packed else int(length)
                    if not record.record_type & wanted:
                        continue
                    if record.headers.get("WARC-Truncated"):
                        counts["cut_record"] += 1
                        continue
                    if "http" in record.headers.get("Content-Type", "http"):
                        record.parse_http(quirks_mode=True)
                    yield record, f"{path.name}:{last}:{(record.record_id or '').strip('<>')}"
                break
            except (OSError, ValueError) as error:
                log.debug("%s: broken record after byte %d: %s", path, last, error)
                counts["broken_record"] += 1
                broken += 1
                if broken > MAX_BROKEN:
                    log.warning("%s is broken in more than %d places: the rest is not read", path, MAX_BROKEN)
                    break
                start = _next_record(file, last + skip, packed)
    if not seen and size:
        raise DataError(f"{path} holds no WARC record: it is broken from its start, or no archive")


def _next_record(file: BinaryIO, start: int, packed: bool, block: int = 1 << 16) -> int | None:
    """Find where the next record starts, at or after a byte; in packed archives, the next member that unpacks to a record."""
    mark = re.compile(rb"\x1f\x8b\x08" if packed else rb"(?<=\n)WARC/1\.")
    file.seek(start)
    tail, position = b"", start
    while data := file.read(block):
        data, position = tail + data, position - len(tail)
        for match in mark.finditer(data):
            if not packed:
                return position + match.start()
            try:
                member = data[match.start() : match.start() + 4096]
                if zlib.decompressobj(31).decompress(member, 5) == b"WARC/":
                    return position + match.start()
            except zlib.error:
                continue
        position += len(data)
        # Long enough to unpack a member's beginning; what stands wholly in it was looked at and is looked at again.
        tail = data[-1024:]
    return None


def _target(record: WarcRecord) -> str:
    return record.headers.get("WARC-Target-URI", "").strip("<> ")


def _content_type(record: WarcRecord) -> str:
    return (record.http_content_type if record.http_headers else record.headers.get("Content-Type")) or ""


def _is_answered(record: WarcRecord) -> bool:
    """Tell whether the server answered with the thing itself; a resource has no answer and is the thing."""
    return record.http_headers is None or record.http_headers.status_code == 200


def _body(record: WarcRecord, max_bytes: int, counts: Counter) -> bytes | None:
    """Unpack a record's body as far as the limit allows; nothing, and a count, where it is broken or too large."""
    if (length := record.content_length) > max_bytes:
        counts["too_large"] += 1
        return None
    try:
        data = record.reader.read(max_bytes + 1)
    except OSError:
        data = b""
    if len(data) < length:
        counts["cut_record"] += 1
        return None
    headers = record.http_headers or {}
    codings = [name.strip().lower() for name in (headers.get("Content-Encoding") or "").split(",")]
    codings += ["chunked"] if "chunked" in (headers.get("Transfer-Encoding") or "").lower() else []
    codings = [name for name in codings if name not in ("", "identity")]
    try:
        if len(codings) > 3:
            raise ValueError(f"{len(codings)} codings")
        for name in reversed(codings):
            data = _unpack(data, name, max_bytes)
            if len(data) > max_bytes:
                counts["too_large"] += 1
                return None
    except (OSError, ValueError, EOFError, zlib.error):
        counts["broken_encoding"] += 1
        return None
    return data


def _unpack(data: bytes, coding: str, max_bytes: int) -> bytes:
    """Undo one coding of a body, giving at most one byte more than allowed.

    Archives often hold bodies that were unpacked already, under headers that still name the coding: what is plainly not packed
    is returned as it is.
    """
    if coding == "chunked":
        return _join_chunks(data)
    plain = data.lstrip()[:1] == b"<" or _IMAGE_MAGIC.match(data) is not None
    if plain and not data.startswith(b"\x1f\x8b"):
        return data
    if coding in ("gzip", "x-gzip", "deflate"):
        # Servers send either of two formats as deflate.
        bits = 47 if coding != "deflate" or data[:1] and data[0] & 15 == 8 else -15
        unpacker = zlib.decompressobj(bits)
        result = unpacker.decompress(data, max_bytes + 1)
        if not unpacker.eof and len(result) <= max_bytes:
            raise ValueError("the packed body ends early")
        return result
    if coding in ("br", "zstd"):
        from fastwarc.stream_io import BrotliReader, ZstdReader

        reader = (BrotliReader if coding == "br" else ZstdReader)(io.BytesIO(data))
        result = bytearray()
        while len(result) <= max_bytes and (part := reader.read(min(1 << 16, max_bytes + 1 - len(result)))):
            result += part
        return bytes(result)
    raise ValueError(f"unknown coding {coding}")


_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,1000})?\r?\n")
_LINE_END = re.compile(rb"\r?\n")


def _join_chunks(data: bytes) -> bytes:
    parts, position = [], 0
    while match := _CHUNK.match(data, position):
        size = int(match[1], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(data[match.end() : match.end() + size])
        position = match.end() + size
        if len(parts[-1]) < size or not (end := _LINE_END.match(data, position)):
            raise ValueError("a chunk is cut")
        position = end.end()
    if not parts:
        return data
    raise ValueError("the length of a chunk is no number")


def _archive_rows(path: Path, counts: Counter) -> Iterator[tuple]:
    for record, source in _records(path, counts):
        content_type = _content_type(record).split(";")[0].strip().lower()
        if not _is_answered(record):
            counts["http_status"] += 1
        elif content_type.startswith("image/"):
            counts["image_records"] += 1
        elif content_type not in ("text/html", "application/xhtml+xml", ""):
            counts["not_a_page"] += 1
        elif (page := absolute_url(_target(record))) is None:
            counts["bad_url"] += 1
        elif (body := _body(record, MAX_PAGE_BYTES, counts)) is None:
            continue
        elif not content_type and b"<" not in body[:512]:
            counts["not_a_page"] += 1
        else:
            counts["pages"] += 1
            text = html.decode(body, record.http_charset)
            yield from html.page_rows(text, page, source, html.served_robots(record.http_headers or ()), counts)


# Tables


def _columns(path: Path, kind: str) -> dict[str, str]:
    """Find the columns of a table that hold addresses, texts and pages."""
    import pyarrow.parquet

    try:
        if kind == "parquet":
            names = [field.name for field in pyarrow.parquet.read_schema(path) if _is_text(field.type)]
        elif kind == "jsonl":
            with _open(path) as file:
                first = next((line for line in iter(lambda: file.readline(MAX_LINE), b"") if line.strip()), b"")
            record = json.loads(first.decode("utf-8-sig", "replace"))
            names = list(record) if isinstance(record, dict) else []
        else:
            with _open(path) as file:
                line = file.readline(MAX_LINE).decode("utf-8-sig", "replace").strip("\r\n")
            names = [name.strip('"') for name in line.split("\t" if kind == "tsv" else ",")]
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as {kind} ({str(error)[:200]}): is it what its name says?") from error
    lower = {name.strip().lower(): name for name in reversed(names)}
    groups = {"url": URL_COLUMNS, "text": TEXT_COLUMNS, "page": PAGE_COLUMNS}
    columns = {key: lower[name] for key, group in groups.items() for name in reversed(group) if name in lower}
    if missing := [f"{key} ({', '.join(groups[key])})" for key in ("url", "text") if key not in columns]:
        listed = ", ".join(repr(name[:60]) for name in names[:40]) or "none"
        raise DataError(f"{path} has no column of text for {' and '.join(missing)}: its columns are {listed}")
    return columns


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return str(kind) in ("string", "large_string", "string_view", "binary", "large_binary")


def _open(path: Path) -> io.BufferedReader:
    return io.BufferedReader(pa.input_stream(str(path), compression="detect"), 1 << 20)


def _table_rows(path: Path, kind: str, columns: dict[str, str], counts: Counter) -> Iterator[tuple]:
    cells = {"parquet": _parquet_cells, "jsonl": _json_cells}.get(kind, _csv_cells)
    for number, (url, text, page) in enumerate(cells(path, kind, columns, counts), 1):
        text = _as_text(text)
        if not text.strip():
            counts["no_text"] += 1
        elif (address := absolute_url(_as_text(url))) is None:
            counts["bad_url"] += 1
        else:
            page = absolute_url(_as_text(page)) or ""
            yield address, text[:MAX_TEXT], page, "", "", f"{path.name}:{number}", "table", ""


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _cells(batches: Iterator, columns: dict[str, str], path: Path, counts: Counter) -> Iterator[tuple]:
    """Give address, text and page of each row of record batches, as bytes; a table that breaks midway ends there, counted."""
    try:
        for batch in batches:
            # As bytes: strings that are not UTF-8 would otherwise end the whole table.
            values = {key: batch.column(name).cast(pa.large_binary()).to_pylist() for key, name in columns.items()}
            yield from zip(*(values.get(key, [None] * batch.num_rows) for key in ("url", "text", "page")), strict=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        log.warning("%s is broken, what follows is not read: %s", path, str(error)[:200])
        counts["broken_row"] += 1


def _parquet_cells(path: Path, kind: str, columns: dict[str, str], counts: Counter) -> Iterator[tuple]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        yield from _cells(file.iter_batches(4096, columns=list(columns.values())), columns, path, counts)


def _csv_cells(path: Path, kind: str, columns: dict[str, str], counts: Counter) -> Iterator[tuple]:
    from pyarrow import csv

    def skip(row: object) -> str:
        counts["broken_row"] += 1
        return "skip"

    names = list(columns.values())
    convert = csv.ConvertOptions(include_columns=names, column_types={name: pa.binary() for name in names}, check_utf8=False)
    # Quotes mean nothing in the tab-separated tables that are published.
    delimiter, quote = ("\t", False) if kind == "tsv" else (",", '"')
    parse = csv.ParseOptions(delimiter=delimiter, quote_char=quote, invalid_row_handler=skip)
    try:
        options = csv.ReadOptions(block_size=MAX_LINE, use_threads=False)
        reader = csv.open_csv(str(path), read_options=options, parse_options=parse, convert_options=convert)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as {kind} ({str(error)[:200]}): is it what its name says?") from error
    with reader:
        yield from _cells(iter(reader), columns, path, counts)


def _json_cells(path: Path, kind: str, columns: dict[str, str], counts: Counter) -> Iterator[tuple]:
    with _open(path) as file:
        while True:
            try:
                if not (line := file.readline(MAX_LINE)):
                    return
                if len(line) == MAX_LINE and not line.endswith(b"\n"):
                    while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                        pass
                    raise ValueError("the line is too long")
                if not line.strip():
                    continue
                record = json.loads(line.decode("utf-8-sig", "replace"))
                yield tuple(record.get(columns[key]) if key in columns else None for key in ("url", "text", "page"))
            except (ValueError, AttributeError, RecursionError):
                counts["broken_row"] += 1
            except (OSError, EOFError) as error:
                log.warning("%s is broken, what follows is not read: %s", path, str(error)[:200])
                counts["broken_row"] += 1
                return


def _batches(rows: Iterator[tuple], counts: Counter, batch_rows: int) -> Iterator[pa.Table]:
    batch, size = [], 0
    for row in itertools.chain(rows, [None]):
        if batch and (row is None or len(batch) >= batch_rows or size >= BATCH_BYTES):
            counts["candidates"] += len(batch)
            yield pa.table([lexicon.strings(column, pa.string()) for column in zip(*batch)], schema=SCHEMA)
            batch, size = [], 0
        if row:
            batch.append(row)
            size += sum(map(len, row))
