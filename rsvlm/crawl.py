"""Web archives and tables of links into candidates: the address of an image and a text that somebody wrote beside it.

WARC files are read as streams, record by record; what is broken is counted and passed over. Pages go through a tokenizer of our
own that takes one look at each character and builds no tree: nested mark-up of 18 kB makes a standard tree builder take 860 MB,
and of 60 kB more than a machine has, because the standard re-opens formatting elements in every paragraph. Tables (parquet, CSV,
JSON lines) of address and text, as LAION, DataComp and COYO publish them, give the same rows. Every text is kept as data: nothing
here follows a link, runs a script or opens a connection.
"""

from __future__ import annotations

import io
import json
import logging
import re
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote, urldefrag, urljoin, urlsplit

import pyarrow as pa

from rsvlm.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from fastwarc.warc import WarcRecord

log = logging.getLogger(__name__)

REASONS = {
    "bad_url": "the address is no http or https address, cannot be joined to its page's, or is too long",
    "broken_encoding": "the body does not unpack as its headers say",
    "broken_record": "a record's header or compression is broken; reading went on at the next record, where there is one",
    "broken_row": "a line is no JSON object, or has another number of columns than the table",
    "cut_record": "the archive ends inside the record, or says that it was cut",
    "duplicate_on_page": "the same address with the same text stands on the page before",
    "http_status": "the server's answer was not 200",
    "no_text": "an image without a text, or a row without one",
    "no_url": "an image without an address that leads anywhere, as with pixels written into the page",
    "not_a_page": "a response that is neither a page nor an image",
    "too_large": "a body larger than the limit, packed or unpacked",
    "too_many_on_page": "one page may give only so many candidates",
}
"""Why something in an archive or table gave no candidate."""

SCHEMA = pa.schema(
    [pa.field(name, pa.string()) for name in ("url", "text", "page", "title", "heading", "source", "kind", "robots")]
)
"""Columns of a batch of candidates.

`url` is absolute; `text` as written, entities resolved, cut at `MAX_TEXT` characters; `page`, `title` and `heading` (the nearest
before the image) are empty for tables; `source` says where it was read: `file:offset:record id`, or `file:row`; `kind` is `img`
(alternative text), `srcset` (the same, with the address from a list of sizes), `figure` (a figure's caption) or `table`; `robots`
holds the page's directives for machines, sorted and joined by commas, from the page and from the server's headers.
"""

MAX_TEXT = 10_000
MAX_URL = 4_096
MAX_PAGE_BYTES = 5_000_000
MAX_IMAGE_BYTES = 20_000_000
MAX_PER_PAGE = 1_000
MAX_LINE = 4_000_000
BATCH_BYTES = 32_000_000
MAX_BROKEN = 10_000
"""Limits of one text and address (characters), page and image (bytes unpacked), page (candidates), line and batch (bytes), and
of the broken places after which an archive is given up."""

URL_COLUMNS = ("url", "image_url", "img_url", "imageurl", "image", "src", "link")
TEXT_COLUMNS = ("text", "caption", "alt", "alt_text", "alttext", "description", "top_caption")
PAGE_COLUMNS = ("page", "page_url", "parent_url", "pageurl")
"""Names of columns that are understood, the first found counts; upper and lower case are alike."""

DIRECTIVES = {"noai", "noimageai", "noindex", "noimageindex", "none", "tdm-reservation"}
"""Directives for machines that `robots` tells of."""

_VALUED = {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}

LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-url", "data-hi-res-src")
LAZY_SETS = ("data-srcset", "data-lazy-srcset")
# Formats that `rsvlm.images` does not read; a <picture> offers the others, too.
_UNREAD = ("image/avif", "image/svg", "image/jxl", "image/heic")
# What most addresses look like; nothing is to be done for them but to put them behind their host.
_PLAIN_URL = re.compile(r"(https?://[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?)?/(?!/)[A-Za-z0-9/?=&%+,;:@!$()*~_.-]*")
_NO_HOST = re.compile(r"[\s<>\"{}|\\^`]")
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
    head = _head(path)
    kinds = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
    kind = next((kinds[suffix.lower()] for suffix in reversed(path.suffixes[-2:]) if suffix.lower() in kinds), "")
    if head.startswith(b"WARC/") or ".warc" in [suffix.lower() for suffix in path.suffixes]:
        return {"format": "warc", "columns": {}}
    if head.startswith(b"PAR1"):
        kind = "parquet"
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
    found = inspect(path)
    if found["format"] == "warc":
        rows = _archive_rows(path, counts)
    else:
        rows = _table_rows(path, found["format"], found["columns"], counts)
    yield from _batches(rows, counts, batch_rows)


def images(
    path: Path | str, wanted: Container[str] | None = None, counts: Counter | None = None, max_bytes: int = MAX_IMAGE_BYTES
) -> Iterator[Picture]:
    """Read the images that an archive holds, so that it can be used without a network.

    Args:
        path: A WARC file.
        wanted: Addresses, as `read` gives them; others are passed over unread. None: all.
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
        url = absolute_url(_target(record))
        if url is None or (wanted is not None and url not in wanted) or not _answered(record, Counter()):
            continue
        content_type = (record.http_content_type if record.http_headers else record.headers.get("Content-Type")) or ""
        if content_type.startswith("text/") or (body := _body(record, max_bytes, counts)) is None:
            continue
        if content_type.startswith("image/") or _IMAGE_MAGIC.match(body):
            counts["images"] += 1
            yield Picture(url, body, content_type, _header_robots(record), source)


def absolute_url(reference: str | None, base: str = "") -> str | None:
    """Return an address in full and without fragment, or nothing where it is no http or https address.

    Blanks and letters outside ASCII in path and query are percent-encoded, so that one image has one spelling.

    Args:
        reference: An address, perhaps relative.
        base: The address that it is relative to.
    """
    if not reference or len(reference) > MAX_URL:
        return None
    if (plain := _PLAIN_URL.fullmatch(reference)) and "/." not in reference:
        if plain[1]:
            return reference
        if origin := _PLAIN_URL.match(base):
            if origin[1] and len(origin[1]) + len(reference) <= MAX_URL:
                return origin[1] + reference
    text = re.sub(r"[\t\r\n]", "", reference).strip("".join(map(chr, range(33))))
    try:
        if base and not text.startswith(("http://", "https://")):
            text = urljoin(base, text)
        text = urldefrag(text).url
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname or _NO_HOST.search(parts.netloc):
            return None
        if not text.isprintable():
            return None
    except ValueError:
        return None
    if not text.isascii() or " " in text:
        rest = text[len(parts.scheme) + 3 + len(parts.netloc) :]
        # Bytes of a broken encoding are dropped: no server answers to them.
        rest = rest.encode("utf-8", "ignore").decode()
        text = f"{parts.scheme}://{parts.netloc}{quote(rest, safe='/?&=%:@!$()*+,;~[]' + chr(39))}"
    return text if len(text) <= MAX_URL else None


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
    try:
        from fastwarc.warc import ArchiveIterator, WarcRecordType
    except ModuleNotFoundError as error:
        raise MissingExtraError(f'the package {error.name} is not installed: pip install "rsvlm[data]"') from error

    wanted = WarcRecordType.response | WarcRecordType.resource
    size, start, seen, broken = path.stat().st_size, 0, False, 0
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        while start is not None and start < size:
            last, skip = start, 1
            file.seek(start)
            try:
                # Not limited to the wanted types: a broken record must be told by its own place.
                for record in ArchiveIterator(file, parse_http=False, auto_decode="none"):
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


def _answered(record: WarcRecord, counts: Counter) -> bool:
    """Tell whether the server answered with the thing itself; a resource has no answer and is the thing."""
    if record.http_headers is None or record.http_headers.status_code == 200:
        return True
    counts["http_status"] += 1
    return False


def _body(record: WarcRecord, max_bytes: int, counts: Counter) -> bytes | None:
    """Unpack a record's body as far as the limit allows; nothing, and a count, where it is broken or too large."""
    headers = record.http_headers
    length = record.content_length
    if length > max_bytes:
        counts["too_large"] += 1
        return None
    try:
        data = record.reader.read(max_bytes + 1)
    except OSError:
        data = b""
    if len(data) < length:
        counts["cut_record"] += 1
        return None
    if headers is not None:
        codings = [name.strip().lower() for name in (headers.get("Content-Encoding") or "").split(",")]
        if "chunked" in (headers.get("Transfer-Encoding") or "").lower():
            codings.append("chunked")
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
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    for record, source in _records(path, counts):
        if not _answered(record, counts):
            continue
        served = record.http_content_type if record.http_headers else record.headers.get("Content-Type")
        content_type = (served or "").split(";")[0].strip().lower()
        if content_type.startswith("image/"):
            counts["image_records"] += 1
            continue
        if content_type not in ("text/html", "application/xhtml+xml", ""):
            counts["not_a_page"] += 1
            continue
        page = absolute_url(_target(record))
        if page is None:
            counts["bad_url"] += 1
            continue
        body = _body(record, MAX_PAGE_BYTES, counts)
        if body is None:
            continue
        if not content_type and b"<" not in body[:512]:
            counts["not_a_page"] += 1
            continue
        counts["pages"] += 1
        # Mapping leaves encodings of texts alone: Python has others, that unpack or run rules.
        charset = record.http_charset and map_encoding_to_html5(record.http_charset, fallback_utf8=False)
        text = _decode(body, charset, lambda data: detect_encoding(data, max_len=8192, from_html_meta=True))
        yield from page_rows(text, page, source, _header_robots(record), counts)


def _decode(body: bytes, charset: str | None, guess: Callable[[bytes], str | None]) -> str:
    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if body.startswith(mark):
            return body.decode(name, "replace")
    declared = charset or guess(body) or "utf-8"
    try:
        return body.decode(declared)
    except (UnicodeError, LookupError):
        pass
    # The declaration may be wrong, or a few bytes are; UTF-8 rarely fits by chance.
    try:
        return body.decode("utf-8")
    except UnicodeError:
        pass
    guessed = guess(body) or declared
    for name, errors in ((guessed, "strict"), (declared, "replace"), ("utf-8", "replace")):
        try:
            return body.decode(name, errors)
        except (UnicodeError, LookupError):
            continue
    return ""


def _header_robots(record: WarcRecord) -> str:
    if record.http_headers is None:
        return ""
    found = set()
    for name, value in record.http_headers:
        if name.lower() == "x-robots-tag":
            found |= _directives(value)
        elif name.lower() == "tdm-reservation" and value.strip() == "1":
            found.add("tdm-reservation")
    return ",".join(sorted(found))


def _directives(text: str) -> set[str]:
    """Directives for all machines or for ours; those that name another machine (`otherbot: noindex`) are not for us."""
    found, ours = set(), True
    for item in text.lower().split(",")[:100]:
        agent, colon, rest = item.partition(":")
        if agent.strip() in _VALUED:
            continue
        if colon:
            ours = agent.strip() in ("", "*", "rsvlm")
            item = rest
        if ours:
            found |= DIRECTIVES & {item.strip()}
    return found


# Pages

# The look at the first letter saves three quarters of the time.
_TAG = re.compile(
    r"<(?:(!--)|(/?)((?=[bfhimnpstxBFHIMNPSTX])(?i:img|source|picture|figure|figcaption|h[1-6]|base|meta|title|script|style|textarea"
    r"|iframe|xmp|noembed|noframes))(?=[\s/>]))"
)
_RAW = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("title", "script", "style", "textarea", "iframe", "xmp", "noembed", "noframes")
}
# Signs that stand alone, as a quote that never closes, are passed over.
_ATTRIBUTE = re.compile(
    r"[\s/=\"']*([^\s/>=\"'][^\s/>=]*)(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>\"'][^\s>]*)|(?=[>\"'])))?"
)
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_INLINE = re.compile(r"</?(?:a|abbr|b|em|font|i|mark|q|s|small|span|strong|sub|sup|u)(?=[\s/>])[^<>]*>?", re.IGNORECASE)
_CODE = re.compile(r"<(/?)(?:script|style)(?=[\s/>])[^<>]*>?", re.IGNORECASE)
_ANY_TAG = re.compile(r"<[A-Za-z/!?][^<>]*>?")
_OFFER = re.compile(r"[\s,]*(\S+)")
_DESCRIPTOR = re.compile(r"\s*([\d.]{1,12})([wx])\s*")


def page_rows(html: str, page: str, source: str = "", robots: str = "", counts: Counter | None = None) -> list[tuple]:
    """Find the images of a page that have a text.

    An image in a figure gives one candidate for its alternative text and one for the caption. Of several sizes the largest is
    taken, in a format that `rsvlm.images` reads; an address kept back for late loading goes before the placeholder's. The time is
    proportional to the length of the page whatever it holds, except sorting.

    Args:
        html: The page.
        page: Its address.
        source: Told with each candidate.
        robots: Directives that the server sent with the page.
        counts: Receives reasons as in `REASONS`.

    Returns:
        Rows in the order of `SCHEMA`.
    """
    counts = Counter() if counts is None else counts
    scan = _scan(html)
    base = absolute_url(scan.base, page) or page
    robots = ",".join(sorted(scan.robots | set(filter(None, robots.split(",")))))
    title, headings = _plain(scan.title), {}
    rows, seen = [], set()
    for references, text, kind, heading in scan.found:
        if not text.strip():
            counts["no_text"] += 1
            continue
        if not references:
            counts["no_url"] += 1
            continue
        url = absolute_url(references, base)
        if url is None:
            counts["bad_url"] += 1
        elif (url, text) in seen:
            counts["duplicate_on_page"] += 1
        elif len(rows) >= MAX_PER_PAGE:
            counts["too_many_on_page"] += 1
        else:
            seen.add((url, text))
            if heading not in headings:
                headings[heading] = _plain(html[slice(*scan.headings[heading])]) if heading >= 0 else ""
            rows.append((url, text[:MAX_TEXT], page, title, headings[heading], source, kind, robots))
    return rows


class _Scan:
    """What one pass over a page collects."""

    def __init__(self) -> None:
        self.base = ""
        self.title = ""
        self.robots: set[str] = set()
        self.headings: list[tuple[int, int]] = []
        self.found: list[tuple[str, str, str, int]] = []


def _scan(html: str) -> _Scan:
    scan, position, unclosed = _Scan(), 0, set()
    figures: list[list] = []  # open figures: addresses of their images, and the caption's start and end
    sources: list[dict] | None = None
    open_heading = False
    while match := _TAG.search(html, position):
        position, name = match.end(), (match[3] or "").lower()
        if match[1]:
            end = html.find("-->", match.start() + 2)
            if end < 0:
                break  # as browsers do: the rest is a comment
            position = end + 3
            continue
        closing = bool(match[2])
        if name[0] == "h":
            if open_heading:
                scan.headings[-1] = (scan.headings[-1][0], match.start())
            open_heading = not closing
            if open_heading:
                position = _after_tag(html, position)
                scan.headings.append((position, position + 2000))
        elif name in ("figure", "figcaption"):
            if figures and figures[-1][1] >= 0 and figures[-1][2] < 0:
                figures[-1][2] = match.start()
            if name == "figure":
                if not closing:
                    figures.append([[], -1, -1])
                elif figures:
                    _close_figure(scan, html, figures.pop())
            elif not closing and figures and figures[-1][1] < 0:
                position = _after_tag(html, position)
                figures[-1][1] = position
        elif name == "picture":
            sources = None if closing else []
        elif closing:
            continue
        elif name in _RAW:
            start = _after_tag(html, position)
            if name not in unclosed:
                end = _RAW[name].search(html, start)
                if end is None:
                    # Remembered, so that a thousand of them do not search to the end a thousand times.
                    unclosed.add(name)
                else:
                    if name == "title" and not scan.title:
                        scan.title = html[start : min(end.start(), start + 2000)]
                    position = end.end()
        else:
            attributes, position = _attributes(html, position)
            if name == "img":
                reference, kind = _best_reference(attributes, sources or ())
                heading = len(scan.headings) - 1
                scan.found.append((reference, attributes.get("alt", ""), kind, heading))
                if figures:
                    figures[-1][0].append((reference, heading))
                sources = None if sources is None else []
            elif name == "source" and sources is not None:
                sources.append(attributes)
            elif name == "base" and not scan.base:
                scan.base = attributes.get("href", "")
            elif name == "meta":
                about = attributes.get("name", "").lower()
                if about in ("robots", "rsvlm"):
                    scan.robots |= _directives(attributes.get("content", ""))
                elif about == "tdm-reservation" and attributes.get("content", "").strip() == "1":
                    scan.robots.add("tdm-reservation")
    while figures:
        _close_figure(scan, html, figures.pop())
    return scan


def _close_figure(scan: _Scan, html: str, figure: list) -> None:
    pictures, start, end = figure
    if start >= 0 and pictures:
        end = len(html) if end < 0 else end
        caption = _plain(html[start : min(end, start + 2 * MAX_TEXT)])
        if caption:
            scan.found += [(reference, caption, "figure", heading) for reference, heading in pictures[:MAX_PER_PAGE]]


def _after_tag(html: str, position: int) -> int:
    """Where a tag ends whose attributes do not matter; at its name's end where it does not end."""
    end = html.find(">", position, position + 5000)
    return end + 1 if end >= 0 else position


def _attributes(html: str, position: int) -> tuple[dict[str, str], int]:
    """Read a tag's attributes from the end of its name; the first of a name counts, as in browsers."""
    found: dict[str, str] = {}
    while match := _ATTRIBUTE.match(html, position):
        value = match[2] or match[3] or match[4] or ""
        found.setdefault(match[1].lower(), resolve(value) if "&" in value else value)
        position = match.end()
    return found, position


def resolve(text: str) -> str:
    """Resolve character references that end in a semicolon; `&copy=1` in an address is none."""
    return _REFERENCE.sub(lambda match: unescape(match[0]), text)


def _plain(html: str) -> str:
    """The text of a fragment: no tags, references resolved, blanks joined."""
    if "<" in html:
        parts = _CODE.split(html)
        # Text, slash, text, slash, ...: what follows an opening tag up to the closing one is no text.
        html = parts[0] + "".join(text for slash, text in zip(parts[1::2], parts[2::2], strict=True) if slash)
        html = _ANY_TAG.sub(" ", _INLINE.sub("", html))
    return " ".join(resolve(html).split())


def _best_reference(attributes: dict[str, str], sources: tuple | list) -> tuple[str, str]:
    """The largest image that an <img> and its <picture> offer, and whether its address is a list's."""
    sets = [source.get("srcset") or source.get("data-srcset", "") for source in sources if not _is_unread(source)]
    sets += [attributes[name] for name in (*LAZY_SETS, "srcset") if name in attributes]
    offers = [offer for one in sets for offer in _offers(one)]
    if offers:
        # Widths say more than densities; of equals the first.
        return max(offers, key=lambda offer: (offer[1] == "w", offer[2]))[0], "srcset"
    for name in (*LAZY, "src"):
        value = attributes.get(name, "").strip()
        if value and not value[:5].lower() == "data:":
            return value, "img"
    return "", "img"


def _is_unread(source: dict[str, str]) -> bool:
    return source.get("type", "").strip().lower().startswith(_UNREAD)


def _offers(srcset: str) -> list[tuple[str, str, float]]:
    """Read `a.jpg 480w, b.jpg 2x, c.jpg` as addresses with unit and number."""
    found, position, srcset = [], 0, srcset[:100_000]
    # Addresses may hold commas, as in pixels written into the page, but do not end in one.
    while match := _OFFER.match(srcset, position):
        address, position = match[1], match.end()
        unit, number = "x", 1.0
        if address.endswith(","):
            address = address.rstrip(",")
        else:
            end = srcset.find(",", position)
            end = len(srcset) if end < 0 else end
            if descriptor := _DESCRIPTOR.fullmatch(srcset[position : min(end, position + 100)]):
                unit = descriptor[2]
                number = float(descriptor[1]) if descriptor[1].count(".") < 2 and descriptor[1] != "." else 0.0
            position = end
        if address and address[:5].lower() != "data:":
            found.append((address, unit, number))
    return found


# Tables


def _columns(path: Path, kind: str) -> dict[str, str]:
    """Find the columns of a table that hold addresses, texts and pages."""
    import pyarrow.parquet

    try:
        if kind == "parquet":
            schema = pyarrow.parquet.read_schema(path)
            for name in schema.names:
                if not _is_text(schema.field(name).type):
                    schema = schema.remove(schema.get_field_index(name))
            names = schema.names
        elif kind == "jsonl":
            with _open(path) as file:
                first = next((line for line in iter(lambda: file.readline(MAX_LINE), b"") if line.strip()), b"")
            record = json.loads(first.decode("utf-8-sig", "replace"))
            names = list(record) if isinstance(record, dict) else []
        else:
            with _open(path) as file:
                line = file.readline(MAX_LINE).decode("utf-8-sig", "replace").strip("\r\n")
            names = [name.strip('"') for name in line.split("\t" if kind == "tsv" else ",")]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as {kind} ({str(error)[:200]}): is it what its name says?") from error
    lower = {}
    for name in names:
        lower.setdefault(name.strip().lower(), name)
    groups = {"url": URL_COLUMNS, "text": TEXT_COLUMNS, "page": PAGE_COLUMNS}
    found = {key: lower[name] for key, group in groups.items() for name in reversed(group) if name in lower}
    missing = [f"{key} ({', '.join(groups[key])})" for key in ("url", "text") if key not in found]
    if missing:
        there = ", ".join(repr(name[:60]) for name in names[:40]) or "none"
        raise DataError(f"{path} has no column of text for {' and '.join(missing)}: its columns are {there}")
    return found


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
    )
    return any(test(kind) for test in tests)


def _open(path: Path) -> io.BufferedReader:
    return io.BufferedReader(pa.input_stream(str(path), compression="detect"), 1 << 20)


def _table_rows(path: Path, kind: str, columns: dict[str, str], counts: Counter) -> Iterator[tuple]:
    pieces = {"parquet": _parquet_pieces, "jsonl": _json_pieces}.get(kind, _csv_pieces)
    number = 0
    for urls, texts, pages in pieces(path, kind, columns, counts):
        for url, text, page in zip(urls, texts, pages, strict=True):
            number += 1
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


def _pieces(batches: Iterator, columns: dict[str, str], path: Path, counts: Counter) -> Iterator[tuple]:
    """Give addresses, texts and pages of record batches as lists of bytes; a table that breaks midway ends there, counted."""
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            lists = []
            for key in ("url", "text", "page"):
                if key in columns:
                    # As bytes: strings that are not UTF-8 would otherwise end the whole table.
                    lists.append(batch.column(columns[key]).cast(pa.large_binary()).to_pylist())
                else:
                    lists.append([None] * batch.num_rows)
        except (OSError, ValueError, pa.ArrowException) as error:
            log.warning("%s is broken, what follows is not read: %s", path, str(error)[:200])
            counts["broken_row"] += 1
            return
        yield tuple(lists)


def _parquet_pieces(path: Path, kind: str, columns: dict[str, str], counts: Counter) -> Iterator[tuple]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        yield from _pieces(file.iter_batches(4096, columns=list(columns.values())), columns, path, counts)


def _csv_pieces(path: Path, kind: str, columns: dict[str, str], counts: Counter) -> Iterator[tuple]:
    from pyarrow import csv

    def skip(row: object) -> str:
        counts["broken_row"] += 1
        return "skip"

    names = list(columns.values())
    convert = csv.ConvertOptions(include_columns=names, column_types={name: pa.binary() for name in names}, check_utf8=False)
    # Quotes mean nothing in the tab-separated tables that are published.
    parse = csv.ParseOptions(
        delimiter="\t" if kind == "tsv" else ",", quote_char=False if kind == "tsv" else '"', invalid_row_handler=skip
    )
    try:
        options = csv.ReadOptions(block_size=MAX_LINE, use_threads=False)
        reader = csv.open_csv(str(path), read_options=options, parse_options=parse, convert_options=convert)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as {kind} ({str(error)[:200]}): is it what its name says?") from error
    with reader:
        yield from _pieces(iter(reader), columns, path, counts)


def _json_pieces(path: Path, kind: str, columns: dict[str, str], counts: Counter) -> Iterator[tuple]:
    with _open(path) as file:
        while True:
            try:
                line = file.readline(MAX_LINE)
                if not line:
                    return
                if len(line) == MAX_LINE and not line.endswith(b"\n"):
                    while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                        pass
                    raise ValueError("the line is too long")
                if not line.strip():
                    continue
                record = json.loads(line.decode("utf-8-sig", "replace"))
                row = [record.get(columns[key]) if key in columns else None for key in ("url", "text", "page")]
            except (ValueError, AttributeError, RecursionError):
                counts["broken_row"] += 1
                continue
            except (OSError, EOFError) as error:
                log.warning("%s is broken, what follows is not read: %s", path, str(error)[:200])
                counts["broken_row"] += 1
                return
            yield tuple([value] for value in row)


def _batches(rows: Iterator[tuple], counts: Counter, batch_rows: int) -> Iterator[pa.Table]:
    gathered, size = [], 0
    for row in rows:
        gathered.append(row)
        size += sum(map(len, row))
        if len(gathered) >= batch_rows or size >= BATCH_BYTES:
            yield _table(gathered, counts)
            gathered, size = [], 0
    if gathered:
        yield _table(gathered, counts)


def _table(rows: list[tuple], counts: Counter) -> pa.Table:
    counts["candidates"] += len(rows)
    try:
        return pa.table([pa.array(column, pa.string()) for column in zip(*rows)], schema=SCHEMA)
    except UnicodeEncodeError:
        # Half a character, as `\ud800` in JSON, becomes the sign for what is lost.
        clean = [tuple(cell.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for cell in row) for row in rows]
        return pa.table([pa.array(column, pa.string()) for column in zip(*clean)], schema=SCHEMA)
