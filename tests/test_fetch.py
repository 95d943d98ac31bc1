"""Downloads against servers on this machine: polite, safe, resumable, and never a traceback for a bad answer."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsvlm import addresses, config, fetch, ranges, robots
from rsvlm.errors import ConfigError, DataError, MissingExtraError

httpx2 = pytest.importorskip("httpx2", reason="httpx2 is not installed")
httpcore2 = pytest.importorskip("httpcore2", reason="httpx2 is not installed")
pytest.importorskip("protego", reason="protego is not installed")

CERTIFICATES = httpx2.create_ssl_context()  # read once: it takes longer than most tests
QUICK = {"allow_loopback": True, "host_delay_s": 0.0, "retries": 0, "connect_timeout_s": 2.0, "read_timeout_s": 2.0}


def picture(seed: int = 0, kind: str = "PNG") -> bytes:
    array = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


PICTURE = picture()


class Site:
    """A server on this machine; a route is `(status, headers, body)` or a function of the handler."""

    def __init__(self):
        self.routes = {"/robots.txt": (404, {}, b"")}
        self.asked, self.now, self.most, self.lock = [], 0, 0, threading.Lock()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                with site.lock:
                    site.asked.append((time.monotonic(), self.path, dict(self.headers)))
                    site.now += 1
                    site.most = max(site.most, site.now)
                try:
                    route = site.routes.get(self.path, (404, {}, b""))
                    route(self) if callable(route) else self.answer(*route)
                except OSError:  # the client went away, as it should
                    self.close_connection = True
                finally:
                    with site.lock:
                        site.now -= 1

            def answer(self, status, headers, body):
                self.send_response_only(status)
                for name, value in headers.items():
                    for one in value if isinstance(value, list) else [value]:
                        self.send_header(name, one)
                if "Content-Length" not in headers and status not in (204, 304):
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def raw(self, *parts, pause_s=0.0):
                self.close_connection = True
                for part in parts:
                    self.wfile.write(part)
                    self.wfile.flush()
                    time.sleep(pause_s)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.asked if path != "/robots.txt"]


@pytest.fixture
def site():
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture(autouse=True)
def connected(monkeypatch):
    """Addresses that were connected to; a test fails if one of them is not this machine's."""
    seen, real = [], httpcore2.AnyIOBackend.connect_tcp

    async def connect(self, host, port, *rest, **named):
        seen.append((host, port))
        if host not in ("127.0.0.1", "127.0.0.2"):
            raise httpcore2.ConnectError("outside")
        return await real(self, host, port, *rest, **named)

    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", connect)
    monkeypatch.setattr(httpx2, "create_ssl_context", lambda: CERTIFICATES)
    yield seen
    assert {host for host, _ in seen} <= {"127.0.0.1", "127.0.0.2"}


def options(**changed) -> config.Fetch:
    return config.Fetch(**QUICK | changed)


def names(**known):
    """A look-up that knows a few names and counts how often it is asked; a list gives one answer after the other."""

    async def resolve(host, port):
        resolve.asked.append(host)
        answer = known[host.replace(".", "_")]
        if isinstance(answer, Exception):
            raise answer
        return [answer.pop(0)] if isinstance(answer, list) and len(answer) > 1 else list(np.atleast_1d(answer))

    resolve.asked = []
    return resolve


def get(url, out, resolve=None, **changed) -> fetch.Fetched:
    """Fetch one URL and return its row."""
    summary = fetch.download([url], out, options(**changed), resolve=resolve, backoff_s=0.01)
    assert sum(summary.counts.values()) == 1
    (row,) = fetch.results(out, [url])
    assert summary.counts == {row.reason: 1} and row.reason in fetch.REASONS
    assert bool(row.sha256) == (row.reason == "ok") and not list(out.rglob("*.partial"))
    return row


# An image, and what is kept of it


@pytest.mark.parametrize(
    ("kind", "extension"),
    [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif"), ("JPEG2000", "jp2")],
)
def test_an_image_is_fetched_whole(site, tmp_path, kind, extension):
    data = picture(1, kind)
    site.routes["/a"] = (200, {"Content-Type": "application/octet-stream", "ETag": '"one"'}, data)
    row = get(site.url("/a#part"), tmp_path, contact="https://example.org/bot")
    assert (row.reason, row.status, row.n_bytes, row.extension) == ("ok", 200, len(data), extension)
    assert row.sha256 == hashlib.sha256(data).hexdigest() and row.etag == '"one"' and row.robots == "none"
    assert row.final_url == site.url("/a") and row.attempts == 1
    assert fetch.image_path(tmp_path, row).read_bytes() == data
    policy, image = site.asked
    assert policy[1] == "/robots.txt" and image[2]["User-Agent"].startswith("rsvlm/")
    assert "(+https://example.org/bot)" in image[2]["User-Agent"] and image[2]["Host"] == f"127.0.0.1:{site.port}"


def test_what_is_done_is_not_asked_again(site, tmp_path):
    site.routes |= {"/a": (200, {}, PICTURE), "/b": (404, {}, b""), "/c": (503, {}, b"")}
    urls = [site.url(path) for path in ("/a", "/b", "/c", "/a")]
    first = fetch.download(urls, tmp_path, options())
    assert first.counts == {"ok": 2, "client_error": 1, "server_error": 1} and first.asked == 3
    asked = len(site.asked)
    again = fetch.download(urls, tmp_path, options())
    assert again.counts == first.counts and again.asked == 0 and len(site.asked) == asked

    site.routes["/c"] = (200, {}, PICTURE)
    retried = fetch.download(urls, tmp_path, options(retry_failed=True))
    assert retried.counts == {"ok": 3, "client_error": 1} and retried.asked == 1
    assert site.paths().count("/b") == 1, "what failed for good is left alone"
    assert len(site.asked) == asked + 1, "robots.txt is kept on disk"

    next((tmp_path / "images").rglob("*.png")).unlink()
    assert fetch.download(urls, tmp_path, options()).asked == 2, "an image that was lost is fetched again"


def test_equal_images_of_many_urls_are_one_file(site, tmp_path):
    urls = [site.url(f"/{number}") for number in range(30)]
    site.routes |= {f"/{number}": (200, {}, PICTURE) for number in range(30)}
    assert fetch.download(urls, tmp_path, options(per_host=16)).counts == {"ok": 30}
    assert len(list(tmp_path.glob("images/*/*"))) == 1
    assert [row.url for row in fetch.results(tmp_path)] == sorted(urls)


def test_a_refresh_asks_on_condition(site, tmp_path):
    state = {"body": PICTURE, "etag": '"1"'}

    def conditional(handler):
        head = {"ETag": state["etag"], "Last-Modified": "Mon, 02 Jan 2006 15:04:05 GMT"}
        unchanged = handler.headers.get("If-None-Match") == state["etag"]
        handler.answer(304 if unchanged else 200, head, b"" if unchanged else state["body"])

    site.routes["/a"] = conditional
    url = site.url("/a")
    first = get(url, tmp_path)
    assert fetch.download([url], tmp_path, options(), refresh=True).counts == {"ok": 1}
    (same,) = fetch.results(tmp_path, [url])
    assert same.status == 304 and same.sha256 == first.sha256 and same.fetched_at > first.fetched_at
    assert site.asked[-1][2]["If-Modified-Since"] == first.last_modified != ""

    state |= {"body": picture(5), "etag": '"2"'}
    fetch.download([url], tmp_path, options(), refresh=True)
    (other,) = fetch.results(tmp_path, [url])
    assert other.sha256 == hashlib.sha256(state["body"]).hexdigest()

    site.routes["/a"] = (500, {}, b"")
    assert fetch.download([url], tmp_path, options(), refresh=True).counts == {"ok": 1}, "a copy stays a copy"
    site.routes["/a"] = (410, {}, b"")
    assert fetch.download([url], tmp_path, options(), refresh=True).counts == {"client_error": 1}, "taken back by its owner"


# Hostile answers


def gzip_bomb() -> bytes:
    return gzip.compress(PICTURE + bytes(30_000_000))


ANSWERS = {
    "a page": (200, {"Content-Type": "image/png"}, b"<!doctype html><title>no</title>" * 9, "not_image"),
    "a short page": (200, {}, b"<p>", "not_image"),
    "SVG with a script": (200, {"Content-Type": "image/svg+xml"}, b"<svg><script>alert(1)</script></svg>", "not_image"),
    "page and image": (200, {"Content-Type": "Text/HTML; charset=x"}, PICTURE + b"<script>", "type_mismatch"),
    "PDF and image": (200, {"Content-Type": "application/pdf"}, PICTURE, "type_mismatch"),
    "plain text": (200, {"Content-Type": "text/plain"}, PICTURE, "ok"),
    "nothing": (200, {}, b"", "empty"),
    "said to be large": (200, {"Content-Length": "999999999999"}, PICTURE, "too_large"),
    "large": (200, {}, PICTURE + bytes(200_000), "too_large"),
    "packed": (200, {"Content-Encoding": "gzip"}, gzip.compress(PICTURE), "ok"),
    "bomb": (200, {"Content-Encoding": "gzip"}, gzip_bomb(), "decompression_bomb"),
    "half packed": (200, {"Content-Encoding": "gzip"}, gzip.compress(PICTURE)[:-9], "truncated"),
    "not packed": (200, {"Content-Encoding": "gzip"}, PICTURE, "bad_encoding"),
    "packed strangely": (200, {"Content-Encoding": "br"}, PICTURE, "bad_encoding"),
    "no content": (204, {}, b"", "status_unexpected"),
    "part": (206, {}, PICTURE, "status_unexpected"),
    "unasked 304": (304, {}, b"", "status_unexpected"),
    "choices": (300, {"Location": "/ok"}, b"", "status_unexpected"),
    "missing": (404, {}, b"", "client_error"),
    "forbidden": (451, {}, b"", "client_error"),
    "too many": (429, {"Retry-After": "0"}, b"", "too_many_requests"),
    "slow": (408, {}, b"", "server_error"),
    "broken": (500, {}, b"", "server_error"),
    "nowhere": (302, {}, b"", "bad_redirect"),
    "a long way": (302, {"Location": "/1"}, b"", "too_many_redirects"),
    "loop": (302, {"Location": "/x"}, b"", "redirect_loop"),
    "metadata": (302, {"Location": "http://169.254.169.254/latest/meta-data/"}, b"", "address_refused"),
    "inside": (301, {"Location": "http://10.0.0.8/x.png"}, b"", "address_refused"),
    "inside by name": (307, {"Location": "http://inside.example/x.png"}, b"", "address_refused"),
    "mapped": (308, {"Location": "http://[::ffff:127.0.0.1]/"}, b"", "address_refused"),
    "file": (302, {"Location": "file:///etc/hostname"}, b"", "scheme_refused"),
    "gopher": (302, {"Location": "gopher://127.0.0.1/"}, b"", "scheme_refused"),
    "data": (302, {"Location": "data:image/png;base64,AAAA"}, b"", "scheme_refused"),
    "name and password": (302, {"Location": "http://me:secret@127.0.0.1/"}, b"", "credentials_in_url"),
    "relative with a host": (302, {"Location": "//192.168.1.1/x"}, b"", "address_refused"),
    "no address": (302, {"Location": "http://0x7f.1/x"}, b"", "bad_url"),
    "backslashes": (302, {"Location": "http:\\\\127.0.0.1\\x"}, b"", "bad_url"),
    "another port outside": (302, {"Location": "http://outside.example:8080/x"}, b"", "port_refused"),
    "a name nobody knows": (302, {"Location": "http://missing.example/x"}, b"", "no_such_host"),
    "no name service": (302, {"Location": "http://unlucky.example/x"}, b"", "dns_failed"),
    "odd name": (302, {"Location": "http://b\xfccher..example/x"}, b"", "bad_url"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_has_a_reason(site, tmp_path, name):
    *route, reason = ANSWERS[name]
    site.routes |= {f"/{number}": (302, {"Location": f"/{number + 1}"}, b"") for number in range(9)}
    site.routes["/x"] = tuple(route)
    resolve = names(
        inside_example="10.1.2.3",
        outside_example="93.184.216.34",
        missing_example=socket.gaierror(socket.EAI_NONAME, "unknown"),
        unlucky_example=socket.gaierror(socket.EAI_AGAIN, "try again"),
    )
    row = get(site.url("/x"), tmp_path, resolve, max_bytes=100_000)
    assert row.reason == reason
    assert (row.status == route[0]) or reason in ("redirect_loop", "too_many_redirects")


RAW = {
    "garbage": ([b"\x16\x03\x01 what?\r\n\r\n"], 0, "protocol_error"),
    "endless head": ([b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 200_000], 0, "protocol_error"),
    "two lengths": ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\n", PICTURE], 0, "protocol_error"),
    "closed at once": ([], 0, "connection_lost"),
    "closed within the head": ([b"HTTP/1.1 200 OK\r\nContent-Le"], 0, "connection_lost"),
    "shorter than said": ([b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", PICTURE], 0, "truncated"),
    "broken chunks": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", PICTURE], 0, "protocol_error"),
    "cut chunks": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n", PICTURE], 0, "truncated"),
    "longer than said": ([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PICTURE), PICTURE, PICTURE], 0, "ok"),
    "without length": ([b"HTTP/1.0 200 OK\r\n\r\n", PICTURE], 0, "ok"),
    "silence": ([b"HTTP/1.1 200 OK\r\n"], 3.0, "read_timeout"),
    "drops": ([b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", PICTURE] + [b"."] * 20, 0.15, "total_timeout"),
    "for ever": ([b"HTTP/1.1 200 OK\r\n\r\n", PICTURE] + [bytes(60_000)] * 200, 0, "too_large"),
}


@pytest.mark.parametrize("name", RAW)
def test_broken_and_lying_servers(site, tmp_path, name):
    parts, pause_s, reason = RAW[name]
    site.routes["/x"] = lambda handler: handler.raw(*parts, pause_s=pause_s)
    started = time.monotonic()
    row = get(site.url("/x"), tmp_path, read_timeout_s=0.5, total_timeout_s=1.0, max_bytes=1_000_000)
    assert row.reason == reason
    assert time.monotonic() - started < 8


def test_a_bomb_is_never_unpacked(site, tmp_path):
    site.routes["/x"] = (200, {"Content-Encoding": "gzip"}, gzip_bomb())
    site.routes["/robots.txt"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(b"#" * 30_000_000))
    tracemalloc.start()
    try:
        assert get(site.url("/x"), tmp_path, max_bytes=100_000).reason == "decompression_bomb"
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_hosts_that_do_not_answer(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        assert get(f"http://127.0.0.1:{port}/x.png", tmp_path).reason == "connect_failed"
        assert get(f"http://127.0.0.1:{port}/y.png", tmp_path, retries=2).attempts == 1

    async def sleeps(host, port):
        await asyncio.sleep(9)

    assert get("http://slow.example/x.png", tmp_path, sleeps, connect_timeout_s=0.2).reason == "dns_failed"


def test_a_server_without_tls_is_told_apart(tmp_path):
    def listen():
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=listen, daemon=True).start()
        row = get(f"https://127.0.0.1:{server.getsockname()[1]}/x", tmp_path, retries=2)
    assert row.reason == "tls_failed" and row.attempts == 1


def test_an_error_of_ours_is_counted_and_logged(site, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fetch, "_read", lambda *_: 1 / 0)
    site.routes["/x"] = (200, {}, PICTURE)
    assert get(site.url("/x"), tmp_path).reason == "unexpected_error"
    assert "ZeroDivisionError" in caplog.text


# Addresses


ODD_URLS = {
    "http://127.1/": "bad_url",
    "http://0x7f.1/": "bad_url",
    "http://2130706433/": "bad_url",
    "http://0177.0.0.1/": "bad_url",
    "http://0x7f000001/": "bad_url",
    "http://127.0.0.1/": "address_refused",
    "http://127.0.0.1./": "address_refused",
    "http://127。0。0。1/": "address_refused",
    "http://[::ffff:127.0.0.1]/": "address_refused",
    "http://[::1]/": "address_refused",
    "http://[fe80::1%25eth0]/": "address_refused",
    "http://localhost/": "address_refused",
    "http://LOCALHOST./": "address_refused",
    "https://inside.example/": "address_refused",
    "http://half.example/": "address_refused",
    "http://nothing.example/": "no_such_host",
    "http://a@localhost/": "credentials_in_url",
    "http://good.example@127.0.0.1/": "credentials_in_url",
    "http://good.example\\@127.0.0.1/": "bad_url",
    "http://localhost:8080/": "port_refused",
    "http://localhost:22/": "port_refused",
    "http://x:99999/": "bad_url",
    "http://local\thost/": "bad_url",
    "http://exa mple.com/": "bad_url",
    "http://exa%6dple.com/": "bad_url",
    "http://a..b/": "bad_url",
    "http://" + "a" * 64 + ".com/": "bad_url",
    "http://☃☃☃.☃/": "bad_url",
    "http://x/\r\nHost: y": "bad_url",
    "http://x/\0": "bad_url",
    "http://x/\udc80": "bad_url",
    "http://x/" + "a" * 1_000_000: "bad_url",
    "http:x": "bad_url",
    "http://": "bad_url",
    "//x/y.png": "bad_url",
    "x.png": "bad_url",
    "": "bad_url",
    "file:///etc/hostname": "scheme_refused",
    "ftp://x/y.png": "scheme_refused",
    "javascript:alert(1)": "scheme_refused",
    "data:image/png;base64,AAAA": "scheme_refused",
    None: "bad_url",
    7: "bad_url",
}


def test_odd_addresses_reach_nothing(tmp_path, connected):
    resolve = names(
        localhost="127.0.0.1",
        inside_example="192.168.7.7",
        half_example=np.array(["93.184.216.34", "10.0.0.1"]),
        nothing_example=np.array([]),
    )
    summary = fetch.download(ODD_URLS, tmp_path, config.Fetch(host_delay_s=0, retries=0), resolve=resolve)
    rows = {url: next(fetch.results(tmp_path, [url])) for url in ODD_URLS}
    assert {url: row.reason for url, row in rows.items()} == ODD_URLS
    assert summary.counts == Counter(ODD_URLS.values()) and connected == []


def test_a_second_look_up_cannot_lead_inside(site, tmp_path, connected):
    """The name leads here first, to pass the check, and inside when the connection is made anew."""
    site.routes["/robots.txt"] = (200, {"Connection": "close"}, b"")
    site.routes["/x"] = (200, {}, PICTURE)
    resolve = names(turncoat_example=["127.0.0.1", "10.0.0.1"])
    assert get(site.url("/x", "turncoat.example"), tmp_path, resolve).reason == "address_refused"
    assert resolve.asked == ["turncoat.example"] * 2 and connected == [("127.0.0.1", site.port)] and site.paths() == []


def test_the_connection_goes_to_the_address_that_was_checked(site, tmp_path, connected, monkeypatch):
    """One look-up for each connection, none by the libraries below; the name is kept for the Host header."""
    real = asyncio.BaseEventLoop.getaddrinfo

    async def numbers_only(self, host, *rest, **named):
        assert addresses.address_is_allowed(host, allow_loopback=True), f"looked up {host}"
        return await real(self, host, *rest, **named)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", numbers_only)
    site.routes["/x"] = (200, {}, PICTURE)
    resolve = names(pictures_example="127.0.0.1")
    row = get(site.url("/x", "Pictures.Example."), tmp_path, resolve)
    assert row.reason == "ok" and resolve.asked == ["pictures.example"] and connected == [("127.0.0.1", site.port)]
    assert {headers["Host"] for *_, headers in site.asked} == {f"pictures.example:{site.port}"}


def test_tls_names_the_host_not_the_address(tmp_path):
    hello = []

    def listen():
        connection, _ = server.accept()
        with connection:
            hello.append(connection.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=listen)
        thread.start()
        url = f"https://pictures.example:{server.getsockname()[1]}/x"
        row = get(url, tmp_path, names(pictures_example="127.0.0.1"))
        thread.join()
    assert row.reason in ("connect_failed", "tls_failed") and b"pictures.example" in hello[0]


def test_proxies_of_the_environment_and_cookies_are_not_used(site, tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.routes["/x"] = (302, {"Location": "/y", "Set-Cookie": "a=b; Path=/"}, b"")
    site.routes["/y"] = (200, {"Set-Cookie": "c=d"}, PICTURE)
    assert get(site.url("/x"), tmp_path).reason == "ok"
    sent = {name for *_, headers in site.asked for name in headers}
    assert sent == {"Host", "User-Agent", "Accept", "Accept-Encoding"}


# robots.txt


def test_what_robots_txt_forbids_is_not_asked(site, tmp_path):
    site.routes["/robots.txt"] = (200, {}, b"User-agent: rsvlm\nDisallow: /private\n")
    site.routes |= {"/private/x": (200, {}, PICTURE), "/to": (302, {"Location": "/private/x"}, b""), "/x": (200, {}, PICTURE)}
    urls = [site.url(path) for path in ("/private/x", "/%70rivate/x", "/to", "/x")]
    assert fetch.download(urls, tmp_path, options()).counts == {"robots_disallowed": 3, "ok": 1}
    assert site.paths() == ["/to", "/x"] or site.paths() == ["/x", "/to"]
    assert [row.robots for row in fetch.results(tmp_path, urls)] == ["disallowed"] * 3 + ["allowed"]
    assert [path for _, path, _ in site.asked].count("/robots.txt") == 1


@pytest.mark.parametrize(
    ("route", "reason", "state"),
    [
        ((404, {}, b""), "ok", "none"),
        ((401, {}, b""), "ok", "none"),
        ((429, {}, b""), "robots_unavailable", "unavailable"),
        ((500, {}, b""), "robots_unavailable", "unavailable"),
        ((503, {"Retry-After": "9999"}, b""), "robots_unavailable", "unavailable"),
        ((204, {}, b""), "robots_unavailable", "unavailable"),
        ((302, {"Location": "http://10.0.0.1/robots.txt"}, b""), "robots_unavailable", "unavailable"),
        ((302, {"Location": "file:///etc/hostname"}, b""), "robots_unavailable", "unavailable"),
        ((302, {"Location": "/robots.txt"}, b""), "ok", "none"),
        ((302, {"Location": "/other"}, b""), "robots_disallowed", "disallowed"),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(b"User-agent: *\nDisallow: /")), "robots_disallowed", "disallowed"),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(b"#" * 30_000_000)), "ok", "allowed"),
        ((200, {}, b"User-agent: *\nDisallow: /\n" + b"#" * 2_000_000), "robots_disallowed", "disallowed"),
        ((200, {"Content-Type": "text/html"}, b"<html>"), "ok", "allowed"),
        ((200, {"Content-Encoding": "br"}, b"?"), "robots_unavailable", "unavailable"),
        (lambda handler: handler.raw(b"HTTP/1.1 200 OK\r\n", pause_s=1.0), "robots_unavailable", "unavailable"),
        (lambda handler: handler.raw(b"?\r\n\r\n"), "robots_unavailable", "unavailable"),
    ],
)
def test_answers_to_robots_txt(site, tmp_path, route, reason, state):
    site.routes |= {"/robots.txt": route, "/x": (200, {}, PICTURE), "/other": (200, {}, b"User-agent: *\nDisallow: /")}
    row = get(site.url("/x"), tmp_path, read_timeout_s=0.4, retries=1)
    assert (row.reason, row.robots) == (reason, state)
    assert site.paths().count("/x") == (reason == "ok")
    if reason == "robots_unavailable":
        site.routes["/robots.txt"] = (404, {}, b"")
        assert get(site.url("/x"), tmp_path, retry_failed=True).reason == "ok", "a failure is not kept for the next run"


# Politeness


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"X-Robots-Tag": "noai"}, "x_robots"),
        ({"X-Robots-Tag": "NoArchive, NoImageAI"}, "x_robots"),
        ({"X-Robots-Tag": ["nofollow", "noindex"]}, "x_robots"),
        ({"X-Robots-Tag": "RSVLM: nosnippet, noai"}, "x_robots"),
        ({"X-Robots-Tag": "otherbot: noai, noindex"}, "ok"),
        ({"X-Robots-Tag": "otherbot: noai, rsvlm: noai"}, "x_robots"),
        ({"X-Robots-Tag": ["otherbot: noai", "noai"]}, "x_robots"),
        ({"X-Robots-Tag": "unavailable_after: 25 Jun 2010 15:00:00 PST, noai"}, "x_robots"),
        ({"X-Robots-Tag": "max-image-preview:none, nofollow, notranslate"}, "ok"),
        ({"X-Robots-Tag": "noaim, all"}, "ok"),
        ({"TDM-Reservation": "1"}, "tdm_reserved"),
        ({"TDM-Reservation": "0"}, "ok"),
    ],
)
def test_headers_by_which_owners_object(site, tmp_path, headers, reason):
    site.routes["/x"] = (200, headers, PICTURE)
    row = get(site.url("/x"), tmp_path)
    assert row.reason == reason
    assert ("X-Robots-Tag" in headers) == bool(row.x_robots)


def test_an_objection_on_the_way_counts(site, tmp_path):
    site.routes |= {"/x": (302, {"Location": "/y", "X-Robots-Tag": "noai"}, b""), "/y": (200, {}, PICTURE)}
    assert get(site.url("/x"), tmp_path).reason == "x_robots" and site.paths() == ["/x"]


def test_a_distance_is_kept_between_requests_to_one_host(site, tmp_path):
    site.routes |= {f"/{number}": (200, {}, PICTURE) for number in range(6)}
    urls = [site.url(f"/{number}") for number in range(6)]
    assert fetch.download(urls, tmp_path, options(host_delay_s=0.1, per_host=8, concurrency=8)).counts == {"ok": 6}
    times = sorted(at for at, *_ in site.asked)
    assert len(times) == 7 and times[-1] - times[0] > 0.55 and np.diff(times).min() > 0.02


def test_a_crawl_delay_is_kept_up_to_a_limit(site, tmp_path, monkeypatch):
    monkeypatch.setattr(robots, "MAX_CRAWL_DELAY_S", 0.2)
    site.routes["/robots.txt"] = (200, {}, b"User-agent: *\nCrawl-delay: 86400\n")
    site.routes |= {f"/{number}": (200, {}, PICTURE) for number in range(4)}
    fetch.download([site.url(f"/{number}") for number in range(4)], tmp_path, options(per_host=4))
    times = [at for at, path, _ in site.asked if path != "/robots.txt"]
    assert len(times) == 4 and 0.55 < times[-1] - times[0] < 10


def test_so_many_at_once_and_no_more(site, tmp_path):
    def slow(handler):
        time.sleep(0.03)
        handler.answer(200, {}, PICTURE)

    site.routes |= {f"/{number}": slow for number in range(20)}
    urls = [site.url(f"/{number}") for number in range(20)]
    fetch.download(urls, tmp_path / "host", options(per_host=2, concurrency=8))
    assert 1 < site.most <= 2
    site.most = 0
    hosts = {f"h{number}_example": "127.0.0.1" for number in range(5)}
    urls = [site.url(f"/{number}", f"h{number % 5}.example") for number in range(20)]
    fetch.download(urls, tmp_path / "all", options(per_host=2, concurrency=3), resolve=names(**hosts))
    assert 1 < site.most <= 3


def test_a_slow_host_does_not_hold_up_the_others(site, tmp_path):
    site.routes |= {f"/{number}": (200, {}, PICTURE) for number in range(10)}
    urls = [site.url(f"/{number}", "slow.example") for number in range(5)]
    urls += [site.url(f"/{number}", "quick.example") for number in range(5, 6)]
    resolve = names(slow_example="127.0.0.1", quick_example="127.0.0.1")
    fetch.download(urls, tmp_path, options(host_delay_s=0.1, concurrency=1), resolve=resolve)
    assert site.paths().index("/5") <= 1


def test_retries_are_for_what_may_pass(site, tmp_path):
    tries = Counter()

    def heals(handler):
        tries[handler.path] += 1
        handler.answer(*((200, {}, PICTURE) if tries[handler.path] == 3 else (503, {"Retry-After": "0"}, b"")))

    site.routes |= {
        "/heals": heals,
        "/gone": (404, {}, b""),
        "/ill": (500, {}, b""),
        "/later": (503, {"Retry-After": "3600"}, b""),
    }
    site.routes["/then"] = (429, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}, b"")
    rows = {
        path: get(site.url(path, f"h{n}.example"), tmp_path, names(**{f"h{n}_example": "127.0.0.1"}), retries=2)
        for n, path in enumerate(("/heals", "/gone", "/ill", "/later", "/then"))
    }
    assert {path: (row.reason, row.attempts) for path, row in rows.items()} == {
        "/heals": ("ok", 3),
        "/gone": ("client_error", 1),
        "/ill": ("server_error", 3),
        "/later": ("server_error", 1),
        "/then": ("too_many_requests", 1),
    }
    assert Counter(site.paths()) == {"/heals": 3, "/gone": 1, "/ill": 3, "/later": 1, "/then": 1}


def test_a_host_that_asks_for_rest_gets_it_from_all(site, tmp_path):
    site.routes |= {"/a": (429, {"Retry-After": "1"}, b""), "/b": (200, {}, PICTURE)}
    fetch.download([site.url("/a"), site.url("/b")], tmp_path, options(per_host=1))
    (first, _, _), (second, _, _) = site.asked[-2:]
    assert second - first > 0.8


# The run


def test_it_can_be_called_where_a_loop_is_running(site, tmp_path):
    site.routes["/x"] = (200, {}, PICTURE)

    async def notebook():
        return fetch.download([site.url("/x")], tmp_path, options())

    assert asyncio.run(notebook()).counts == {"ok": 1}


def test_an_error_of_the_caller_is_the_callers(site, tmp_path):
    def urls():
        yield site.url("/x")
        raise FileNotFoundError("their list")

    with pytest.raises(FileNotFoundError, match="their list"):
        fetch.download(urls(), tmp_path, options())


def test_urls_are_read_as_they_are_needed(site, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "READ_AHEAD", 4)
    ahead = []

    def urls():
        for number in range(40):
            ahead.append(number - len(site.paths()))
            yield site.url(f"/{number}")

    assert fetch.download(urls(), tmp_path, options()).counts == {"client_error": 40}
    assert max(ahead) <= 8


def test_bad_requests_stop_before_any_work(site, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="fetch.contact"):
        fetch.download([site.url("/x")], tmp_path / "a", options(contact="me\r\nX-Evil: 1"))
    with pytest.raises(DataError, match="fetch into it first"):
        list(fetch.results(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "journal.sqlite").write_bytes(b"no database, " * 999)
    for work in (lambda: list(fetch.results(tmp_path / "b")), lambda: fetch.download([], tmp_path / "b", options())):
        with pytest.raises(DataError, match="journal.sqlite"):
            work()
    (tmp_path / "c").write_text("a file")
    with pytest.raises(DataError, match="cannot be read or written"):
        fetch.download([site.url("/x")], tmp_path / "c", options())
    with fetch._alone(tmp_path / "d"), pytest.raises(DataError, match="another run"):
        fetch.download([site.url("/x")], tmp_path / "d", options())
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingExtraError, match=r"rsvlm\[data\]"):
        fetch.download([site.url("/x")], tmp_path / "e", options())
    assert site.asked == []


def test_a_full_disk_stops_the_run(site, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch.files, "write_atomic", full)
    site.routes["/x"] = (200, {}, PICTURE)
    with pytest.raises(DataError, match="No space left"):
        fetch.download([site.url("/x")], tmp_path, options())
    assert list(fetch.results(tmp_path)) == [], "what is not on disk is not in the journal"


def test_a_journal_cannot_name_a_file_elsewhere(tmp_path):
    row = fetch.Fetched("http://x/", "ok", sha256="../../../../secret", extension="png")
    for wrong in (row, replace(row, sha256="a" * 64, extension="../x"), fetch.Fetched("http://x/", "client_error")):
        with pytest.raises(DataError):
            fetch.image_path(tmp_path, wrong)


def test_every_reason_that_is_given_is_explained():
    source = "\n".join(Path(room.__file__).read_text() for room in (addresses, robots, ranges, fetch))
    given = set(re.findall(r'(?:Stop\(|return |reason = |refused = )\(?"([a-z]+(?:_[a-z]+)+)"', source))
    given |= set(re.findall(r'"([a-z_]+)" if .+ else "([a-z_]+)"', source)[0])
    assert len(given) > 20 and given <= set(fetch.REASONS), given - set(fetch.REASONS)
    assert {name for name, reason in fetch.REASONS.items() if reason.temporary} == {
        "dns_failed", "connect_failed", "connect_timeout", "connection_lost", "truncated", "read_timeout", "total_timeout",
        "robots_unavailable", "too_many_requests", "server_error", "unexpected_error",
    }  # fmt: skip


def test_a_killed_run_goes_on_to_the_same_end(site, tmp_path):
    def slow(handler):
        time.sleep(0.01)
        number = int(handler.path[1:])
        handler.answer(*((200, {"ETag": f'"{number}"'}, picture(number)) if number % 5 else (404, {}, b"")))

    site.routes |= {f"/{number}": slow for number in range(120)}
    urls = [site.url(f"/{number}") for number in range(120)]
    (tmp_path / "urls.txt").write_text("\n".join(urls))
    program = (
        "import sys\nfrom rsvlm import config, fetch\n"
        "options = config.Fetch(allow_loopback=True, host_delay_s=0, per_host=4, retries=0)\n"
        "fetch.download(open(sys.argv[1]).read().split(), sys.argv[2], options)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "urls.txt"), str(tmp_path / "killed")]
    kills = 0
    for goal in (25, 60):
        running = subprocess.Popen(command, cwd=Path(fetch.__file__).parent.parent)
        while len(set(site.paths())) < goal and running.poll() is None:
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
        kills += running.wait() == -signal.SIGKILL
    assert kills == 2
    assert subprocess.run(command, cwd=Path(fetch.__file__).parent.parent).returncode == 0
    again = {path: count for path, count in Counter(site.paths()).items() if count > 1}
    assert len(again) <= 2 * 4 and max(again.values(), default=1) <= 3, "only what was on its way at a kill is asked again"

    fetch.download(urls, tmp_path / "whole", options(per_host=4))
    rows = {name: [replace(row, fetched_at=0.0) for row in fetch.results(tmp_path / name)] for name in ("killed", "whole")}
    assert rows["killed"] == rows["whole"] and len(rows["whole"]) == 120
    files = {name: {path.name: path.read_bytes() for path in (tmp_path / name).glob("images/*/[!.]*")} for name in rows}
    assert files["killed"] == files["whole"] and len(files["whole"]) == 96
