"""Downloads against servers on this machine: polite, safe, resumable, and never a traceback for a bad answer."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
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
from pathlib import Path

import pytest
from conftest import ROOT
from sites import PICTURE, get, names, options, picture

from rsvlm.data import addresses
from rsvlm.data.imagery import remote
from rsvlm.data.web import fetch, journal, politeness, reservations
from rsvlm.errors import ConfigError, DataError, MissingExtraError

pytestmark = pytest.mark.usefixtures("connected")


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
    *files, image = site.asked
    assert [path for _, path, _ in files] == ["/robots.txt", "/.well-known/tdmrep.json", "/ai.txt"]
    assert image[2]["User-Agent"].startswith("rsvlm/")
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
    with journal.alone(tmp_path / "d"), pytest.raises(DataError, match="another run"):
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
    source = "\n".join(Path(room.__file__).read_text() for room in (addresses, politeness, reservations, remote, fetch))
    given = set(re.findall(r'(?:Stop\(|return |reason = |refused = )\(?"([a-z]+(?:_[a-z]+)+)"', source))
    given |= set(re.findall(r'"([a-z_]+)" if .+ else "([a-z_]+)"', source)[0])
    assert len(given) > 20 and given <= set(fetch.REASONS), given - set(fetch.REASONS)
    assert {name for name, reason in fetch.REASONS.items() if reason.temporary} == {
        "dns_failed", "connect_failed", "connect_timeout", "connection_lost", "truncated", "read_timeout", "total_timeout",
        "robots_unavailable", "too_many_requests", "server_error", "unexpected_error", "host_resting", "crawl_delay_too_long",
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
        "import sys\nfrom rsvlm import config\nfrom rsvlm.data.web import fetch\n"
        "options = config.Fetch(allow_loopback=True, host_delay_s=0, per_host=4, retries=0)\n"
        "fetch.download(open(sys.argv[1]).read().split(), sys.argv[2], options)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "urls.txt"), str(tmp_path / "killed")]
    kills = 0
    for goal in (25, 60):
        running = subprocess.Popen(command, cwd=ROOT)
        while len(set(site.paths())) < goal and running.poll() is None:
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
        kills += running.wait() == -signal.SIGKILL
    assert kills == 2
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    again = {path: count for path, count in Counter(site.paths()).items() if count > 1}
    assert len(again) <= 2 * 4 and max(again.values(), default=1) <= 3, "only what was on its way at a kill is asked again"

    fetch.download(urls, tmp_path / "whole", options(per_host=4))
    rows = {name: [replace(row, fetched_at=0.0) for row in fetch.results(tmp_path / name)] for name in ("killed", "whole")}
    assert rows["killed"] == rows["whole"] and len(rows["whole"]) == 120
    files = {name: {path.name: path.read_bytes() for path in (tmp_path / name).glob("images/*/[!.]*")} for name in rows}
    assert files["killed"] == files["whole"] and len(files["whole"]) == 96
