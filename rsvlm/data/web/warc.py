"""A web archive into its records: where each begins and ends, told by what stands there and not by its own word alone.

Files are read as streams, packed or not, with at most one record in memory. The format itself is read by fastwarc, one record at a
time: a record whose length is wrong would take its neighbours with it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import io
import logging
import re
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rsvlm.data.web.html import Counts
from rsvlm.errors import DataError, need

if TYPE_CHECKING:
    from fastwarc.warc import WarcRecord

log = logging.getLogger(__name__)

MAX_BROKEN = 10_000
MAX_BLOCK = 25_000_000
MAX_HEADER = 1 << 16
"""Limits: broken places after which an archive is given up, and what is held of one record's block and header (bytes)."""

_BLANKS = b"\r\n\t "
_HEADER = re.compile(rb"(WARC/\d+\.\d+)[ \t]*\r?\n((?:[^\r\n]+\r?\n)*)\r?\n")
_MARK = re.compile(rb"WARC/\d{1,3}\.\d{1,3}[ \t]{0,8}\r?\n[A-Za-z][A-Za-z0-9-]{0,60}[ \t]{0,8}:")
_MARK_BYTES = 128  # no mark is longer


def records(path: Path, counts: Counts) -> Iterator[tuple[WarcRecord, str]]:
    """Read every response and resource of an archive, with its place, going on behind what is broken.

    A record ends where it says if another one, or nothing, stands there. If something else does and a record begins inside, this one
    was cut, and reading goes on at that place; a record may well hold the text of another, as a page about archives does.

    Args:
        path: A WARC file, packed or not.
        counts: Receives `records`, and `broken_record`, `cut_record` and `other_record` of
            `rsvlm.data.web.archives.RECORD_REASONS`.

    Yields:
        Records with their HTTP headers read, and `file name:offset:record id`, where the offset is in bytes of the file (in a packed
        one, of the member in which the record begins).

    Raises:
        DataError: The file holds no record at all.
        MissingExtraError: The packages that read archives are not installed.
    """
    seen, before = False, counts["broken_record"]
    with path.open("rb") as file:
        stream = _Window(file)
        while counts["broken_record"] - before <= MAX_BROKEN:
            stream.drop_blanks()
            if not stream.data and not stream.is_broken:
                break
            header = stream.header()
            seen |= header is not None
            fields = _fields(header[2]) if header else {}
            length = fields.get(b"content-length", b"")
            inner = _MARK.search(header[0], 1) if header else None
            if inner or not (length.isdigit() and len(length) < 16):
                counts["broken_record"] += 1
                log.debug("%s: broken record at byte %d", path, stream.place)
                stream.go_to_mark(inner.start() if inner else 1)
                continue
            start, length = len(header[0]), int(length)
            end = start + length
            place = f"{path.name}:{stream.place}:{_text(fields, b'warc-record-id').strip('<>')}"
            is_whole = stream.ends_at(end)
            inner = None if is_whole else stream.mark_within(start, end)
            if inner is not None and _is_as_told(fields, stream.data[start:end]):
                inner = None
            elif inner is None and stream.is_damaged:
                counts["broken_record"] += 1
                stream.go_to_mark(len(stream.data))
                continue
            is_cut = inner is not None or len(stream.data) < end <= MAX_BLOCK
            if (kind := fields.get(b"warc-type", b"").lower()) not in (b"response", b"resource"):
                counts["broken_record" if is_cut or not kind else "other_record"] += 1
            elif is_cut or {b"warc-truncated", b"warc-segment-number"} & fields.keys():
                counts["records"] += 1
                counts.reject("cut_record", place, _text(fields, b"warc-target-uri").strip("<> "))
            elif record := _record(header[1], fields, bytes(stream.data[start : min(end, start + MAX_BLOCK)]), length):
                counts["records"] += 1
                yield record, place
            else:
                counts["broken_record"] += 1
            if inner is None and end > MAX_BLOCK and stream.is_packed:
                counts["broken_record"] += stream.drop_long(end)
            else:
                stream.drop(end if inner is None else inner)
        else:
            log.warning("%s is broken in more than %d places: the rest is not read", path, MAX_BROKEN)
    if not seen and path.stat().st_size:
        raise DataError(f"{path} holds no WARC record: it is broken from its start, or no archive")


def _fields(lines: bytes) -> dict[bytes, bytes]:
    """Read the fields of a header; their names know no case (ISO 28500, section 4), and lines may be folded."""
    unfolded = re.sub(rb"\r?\n[ \t]+", b" ", lines)
    parts = [line.split(b":", 1) for line in unfolded.splitlines() if b":" in line]
    return {name.strip().lower(): value.strip() for name, value in parts}


def _text(fields: dict[bytes, bytes], name: bytes) -> str:
    return fields.get(name, b"").decode("utf-8", "replace")


def _is_as_told(fields: dict[bytes, bytes], block: bytes) -> bool:
    """Tell whether a record's digest, where it has one, is that of its block."""
    name, _, told = _text(fields, b"warc-block-digest").partition(":")
    if not told or (name := name.strip().lower().replace("-", "")) not in ("md5", "sha1", "sha256", "sha512"):
        return False
    digest = hashlib.new(name, block, usedforsecurity=False).digest()
    with contextlib.suppress(binascii.Error):
        return told.strip().lower() == digest.hex() or base64.b32decode(told.strip().upper()) == digest
    return False


def _record(version: bytes, fields: dict[bytes, bytes], block: bytes, length: int) -> WarcRecord | None:
    """Read one record, spelled as the reader wants it: names of fields in the standard's letters, HTTP lines that end in CRLF.

    Nothing, where the reader cannot.
    """
    if block.startswith(b"HTTP/") and (empty := re.search(rb"\n\r?\n", block)):
        head = re.sub(rb"\r?\n", b"\r\n", block[: empty.end()])
        length += len(head) - empty.end()
        block = head + block[empty.end() :]
    told = fields | {b"content-length": str(length).encode()}
    told[b"content-type"] = fields.get(b"content-type", b"application/http").lower()
    names = {name: name.title().replace(b"Warc", b"WARC").replace(b"-Id", b"-ID").replace(b"Uri", b"URI") for name in told}
    lines = [version, *(names[name] + b": " + value for name, value in told.items())]
    stream = io.BytesIO(b"\r\n".join(lines) + b"\r\n\r\n" + block + b"\r\n\r\n")
    with contextlib.suppress(OSError, ValueError):
        record = next(need("fastwarc.warc", "data").ArchiveIterator(stream, parse_http=False, auto_decode="none"), None)
        if record and b"http" in told[b"content-type"]:
            record.parse_http(quirks_mode=True)
        return record
    return None


class _Window:
    """The bytes of an archive, unpacked: a window that goes forward, with the record that is read at its start."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.data, self.position = file, bytearray(), 0
        self.is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        self.packed, self.unpacker, self.members = b"", None, deque([(0, 0)])
        self.is_broken, self.broken_place, self.is_ended = False, 0, False

    @property
    def place(self) -> int:
        """Where the record begins, in bytes of the file."""
        while len(self.members) > 1 and self.members[1][0] <= self.position:
            self.members.popleft()
        return self.members[0][1] if self.is_packed else self.position

    @property
    def is_damaged(self) -> bool:
        """Tell whether the bytes that could not be unpacked are the record's own."""
        return self.is_broken and self.broken_place == self.place

    def fill(self, size: int) -> int:
        """Take as many bytes into the window, or all that there are, and give their number."""
        while len(self.data) < size and (part := self._unpacked() if self.is_packed else self.file.read(1 << 16)):
            self.data += part
        return len(self.data)

    def drop(self, size: int) -> None:
        """Go so many bytes forward, also over what was never in the window."""
        while size > (n := len(self.data)):
            self.position, size = self.position + n, size - n
            self.data.clear()
            if not self.is_packed:
                self.file.seek(size, io.SEEK_CUR)
                self.position += size
                return
            if not self.fill(1):
                return
        del self.data[:size]
        self.position += size

    def drop_long(self, size: int) -> int:
        """Go over a record of a packed archive that is longer than the window may be.

        Returns:
            How many others begin inside, where it does not end as it says. A member that begins inside, with a record, ends it.
        """
        end, last, n = self.position + size, self.position, 0
        while self.position < end and self.fill(1 << 18):
            stop = min(len(self.data), end - self.position + _MARK_BYTES)
            for place in [self.position + match.start() for match in _MARK.finditer(self.data, 0, stop)]:
                if last < place < end:
                    if any(place == start for start, _ in self.members):
                        self.drop(place - self.position)
                        return n + 1
                    last, n = place, n + 1
            self.drop(min(end - self.position, max(1, len(self.data) - _MARK_BYTES)))
        return 0 if self.ends_at(0) else n

    def drop_blanks(self) -> None:
        while self.fill(1) and (size := len(self.data) - len(self.data.lstrip(_BLANKS))):
            self.drop(size)

    def header(self) -> re.Match | None:
        """Read the header that stands at the start of the window, if one does."""
        for size in (2048, MAX_HEADER):
            self.fill(size)
            if (header := _HEADER.match(bytes(self.data[:size]))) or not self.data.startswith(b"WARC/"):
                return header
        return None

    def ends_at(self, end: int) -> bool:
        """Tell whether a record, or nothing, stands at a place where one is said to end."""
        if end > MAX_BLOCK and not self.is_packed:
            self.file.seek(self.position + end - 1)
            after = self.file.read(4097)
            self.file.seek(self.position + len(self.data))
            is_long, after = bool(after), after[1:]
        elif end > MAX_BLOCK:
            return self.fill(MAX_BLOCK) >= MAX_BLOCK  # what stands at the end is seen only once it is there
        else:
            is_long, after = self.fill(end + 4096) >= end, bytes(self.data[end : end + 4096])
        after = after.lstrip(_BLANKS)[:6]
        is_next = is_long and (re.match(rb"WARC/\d", after) is not None or b"WARC/".startswith(after))
        if self.is_packed and not is_next:
            self.fill(
                end + (1 << 20)
            )  # a member without its end unpacks to anything, until what is behind it is no longer understood
        return is_next and not self.is_damaged

    def mark_within(self, start: int, end: int) -> int | None:
        """Find where the next record begins between two places behind the window's start."""
        if end <= MAX_BLOCK or self.is_packed:
            match = _MARK.search(self.data, start, min(end, len(self.data)) + _MARK_BYTES)
            return match.start() if match and match.start() < end else None
        data = b""
        self.file.seek(self.position + start)
        while start < end and (part := self.file.read(1 << 16)):
            data += part
            if match := _MARK.search(data):
                break
            start += max(0, len(data) - _MARK_BYTES)
            data = data[-_MARK_BYTES:]
        else:
            match = None
        self.file.seek(self.position + len(self.data))
        return start + match.start() if match and start + match.start() < end else None

    def go_to_mark(self, skip: int) -> None:
        """Go to the next place where a record begins, at least so many bytes on, or to the next member that can be unpacked."""
        self.drop(skip)
        while True:
            if match := _MARK.search(self.data):
                return self.drop(match.start())
            self.drop(max(0, len(self.data) - _MARK_BYTES))
            size = len(self.data)
            if self.fill(size + (1 << 16)) == size:
                self.drop(size)
                return self._go_to_member() if self.is_broken else None

    def _unpacked(self) -> bytes:
        """Unpack the next part of the file; nothing at its end and where it is broken."""
        while not self.is_broken:
            if self.unpacker is None:
                self.packed = self.packed.lstrip(b"\0\r\n")
                while len(self.packed) < 2 and (part := self.file.read(1 << 16)):
                    self.packed = (self.packed + part).lstrip(b"\0\r\n")
                if not self.packed:
                    return b""
                start = self.file.tell() - len(self.packed)
                if not self.packed.startswith(b"\x1f\x8b"):
                    self.is_broken, self.broken_place = True, start
                    break
                self.members.append((self.position + len(self.data), start))
                self.unpacker = zlib.decompressobj(31)
            data = self.packed or self.file.read(1 << 16)
            try:
                part = self.unpacker.decompress(data, 1 << 18)
            except zlib.error:
                self.is_broken, self.broken_place = True, self.members[-1][1]
                break
            if not data and not part:
                # The file ends in a member: its last one, or one that was cut before others.
                if not self.is_ended and self._next_member(self.members[-1][1] + 1) is not None:
                    self.is_broken, self.broken_place = True, self.members[-1][1]
                self.is_ended = True
                break
            self.packed = self.unpacker.unconsumed_tail
            if self.unpacker.eof:
                self.packed, self.unpacker = self.unpacker.unused_data, None
            if part:
                return part
        return b""

    def _go_to_member(self) -> None:
        """Go to the next member behind a broken place that unpacks to a record, or to the end of the file."""
        self.packed, self.unpacker, self.is_broken, self.is_ended = b"", None, False, False
        place = self._next_member(self.broken_place + 1)
        self.file.seek(*((0, io.SEEK_END) if place is None else (place,)))

    def _next_member(self, start: int) -> int | None:
        """Find the next member that unpacks to a record, at or behind a place."""
        self.file.seek(start)
        tail = b""
        while data := self.file.read(1 << 16):
            data = tail + data
            for match in re.finditer(rb"\x1f\x8b\x08", data):
                with contextlib.suppress(zlib.error):
                    if zlib.decompressobj(31).decompress(data[match.start() : match.start() + 4096], 5) == b"WARC/":
                        return self.file.tell() - len(data) + match.start()
            # Long enough to unpack a member's beginning; what stands wholly in it was looked at and is looked at again.
            tail = data[-1024:]
        return None
