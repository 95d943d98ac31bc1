"""Archives of crawls, written by hand, and what is read of them."""

from __future__ import annotations

import zlib

from rsvlm.data.web import archives, html as pages

PAGE = b'<title>T</title><h1>Near</h1><img src="/a.jpg" alt="one two three">'
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 50


def http(body: bytes, kind: str = "text/html; charset=utf-8", *headers: str, status: int = 200) -> bytes:
    lines = [f"HTTP/1.1 {status} OK", f"Content-Type: {kind}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def record(url: str, block: bytes, kind: str = "response", content: str = "application/http; msgtype=response", *more: str):
    lines = [
        "WARC/1.1",
        f"WARC-Type: {kind}",
        f"WARC-Target-URI: {url}",
        f"WARC-Record-ID: <urn:uuid:{zlib.crc32(url.encode()):08x}>",
        "WARC-Date: 2026-01-01T00:00:00Z",
        f"Content-Type: {content}",
        f"Content-Length: {len(block)}",
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def page(number: int, body: bytes = PAGE, **options) -> bytes:
    return record(f"http://site.example/{number}", http(body), **options)


def written(tmp_path, data: bytes, name: str = "x.warc"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def read(tmp_path, data: bytes, name: str = "x.warc") -> tuple[list[dict], pages.Counts]:
    path = written(tmp_path, data, name)
    counts = pages.Counts()
    rows = [row for batch in archives.read(path, counts) for row in batch.to_pylist()]
    assert counts["candidates"] == len(rows)
    return rows, counts
