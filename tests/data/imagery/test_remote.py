"""Rasters on servers: few bytes cross the network, passing failures pass, and no address leads inward."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from rasters import chips, options, picture, pixels, serve, write

from rsvlm.data.imagery import remote, sources as imagery
from rsvlm.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def no_rests():
    remote._RESTS.until.clear()
    yield
    remote._RESTS.until.clear()


@pytest.fixture
def server(tmp_path):
    with serve(tmp_path) as running:
        yield running


@pytest.fixture
def cog(tmp_path) -> Path:
    shape = {"driver": "COG", "blocksize": 128, "compress": "none", "overview_resampling": "average"}
    return write(tmp_path / "cog.tif", picture(1024, 1024), **shape)


def test_only_the_windows_needed_cross_the_network(server, cog):
    sources, table, _ = chips(f"{server.url}/cog.tif", size_px=128, allow_loopback=True)
    local = chips(cog, size_px=128)
    size = cog.stat().st_size
    opened = server.sent
    assert opened < 0.1 * size and size > 3_000_000
    some = table.iloc[[0, 27]]
    got = [array for array, _ in imagery.read(sources[0], some)]
    expected = [array for array, _ in imagery.read(local[0][0], local[1].iloc[[0, 27]])]
    assert all(np.array_equal(a, b) for a, b in zip(got, expected))
    # Two tiles of 128 x 128 x 3 bytes, the header again, and what the 32-KiB blocks bring along.
    assert server.sent - opened < 2 * 128 * 128 * 3 + 6 * 32_768
    assert set(server.seen) == {"/cog.tif"} and server.connections == 2  # one to open, one to read
    before = server.sent
    coarse = chips(f"{server.url}/cog.tif", size_px=128, size_m=10_000.0, allow_loopback=True)
    assert len(pixels(*coarse[:2])) == 1 and server.sent - before < 0.2 * size  # from the overview


def test_private_addresses_are_refused(server, cog):
    hosts = "localhost 10.0.0.1 169.254.169.254 [::1] [::ffff:127.0.0.1] 0.0.0.0 2130706433".split()
    for url in (f"{server.url}/cog.tif", *(f"http://{host}/a.tif" for host in hosts)):
        with pytest.raises(DataError, match="private network"):
            chips(url)
    # Allowed loopback does not allow other private addresses, not even by a redirect.
    server.moved["/inward.tif"] = "http://10.0.0.1/cog.tif"
    for url in ("http://192.168.0.1/a.tif", f"{server.url}/inward.tif"):
        with pytest.raises(DataError, match="private network"):
            chips(url, allow_loopback=True)
    server.moved["/file.tif"] = "file:///etc/passwd"
    with pytest.raises(DataError, match="http"):
        chips(f"{server.url}/file.tif", allow_loopback=True)
    assert server.seen == ["/inward.tif", "/file.tif"]


def test_a_name_that_changes_its_address_is_refused(server, cog, monkeypatch):
    """The name resolves to a public address when it is looked up, and to this machine when it is connected to."""
    real, answers = socket.getaddrinfo, ["93.184.216.34"]

    def lookup(host, port, *args, **kwargs):
        return real(answers.pop() if answers else "127.0.0.1", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(DataError, match="private network"):
        chips(f"http://rebound.example:{server.server_port}/cog.tif")
    assert server.seen == [] and answers == []


@pytest.mark.parametrize(
    "where", ["/vsicurl/http://10.0.0.1/a.tif", "s3://bucket/a.tif", "ftp://host/a.tif", "file:///a.tif", "WMS:x"]
)
def test_other_addresses_are_refused(where):
    with pytest.raises(ConfigError, match="http"):
        imagery.open_imagery(where, options())


def test_redirects_and_passing_failures_are_survived(server, cog, monkeypatch):
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    server.moved["/old.tif"] = "/cog.tif"
    server.fail[:] = [503, 429]
    assert len(chips(f"{server.url}/old.tif", size_px=128, allow_loopback=True)[1]) == 64


def test_servers_that_cannot_be_used(server, cog, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    (tmp_path / "whole.tif").write_bytes(cog.read_bytes())
    server.moved["/loop.tif"] = "/loop.tif"
    for name, text in (("whole.tif", "parts of files"), ("none.tif", "404"), ("loop.tif", "redirected")):
        with pytest.raises(DataError, match=text) as caught:
            chips(f"{server.url}/{name}?signature=SECRET", allow_loopback=True)
        assert "SECRET" not in str(caught.value) and "SECRET" not in caplog.text
    with pytest.raises(DataError, match="without user name") as caught:
        chips(f"http://me:SECRET@127.0.0.1:{server.server_port}/cog.tif", allow_loopback=True)
    assert "SECRET" not in str(caught.value)


WHOLE = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/4\r\nContent-Length: 4\r\n\r\nbyte"


@pytest.mark.parametrize(
    ("first", "waits", "problem"),
    [
        (WHOLE, [], ""),
        (b"HTTP/1.0 206 Partial Content\r\nContent-Range: bytes 0-3/4\r\n\r\nbyte", [], ""),
        (b"", [0.5], ""),
        (b"HTTP/1.1 206 Partial Con", [0.5], ""),
        (WHOLE[:-1], [0.5], ""),
        (WHOLE.replace(b"0-3/4", b"1-4/5"), [0.5], ""),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", [0.5], ""),
        (b"HTTP/1.1 429 Slower\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", [7.0], ""),
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n", [], "status 503"),
        (b"HTTP/1.1 302 There\r\nContent-Length: 0\r\n\r\n", [], "a redirect that does not say where to"),
        (b"\x16\x03\x01 what?\r\n\r\n", [], "no valid HTTP"),
    ],
)
def test_what_may_pass_is_asked_again_by_its_kind(monkeypatch, first, waits, problem):
    slept = []
    monkeypatch.setattr(remote.time, "sleep", slept.append)

    def listen():
        for answer in (first, WHOLE):
            try:
                connection, _ = listener.accept()
            except OSError:  # one answer was enough
                return
            with connection:
                connection.recv(4096)
                # said, for whoever kept the connection would find it closed now and then, and ask once more
                connection.sendall(answer.replace(b"\r\nContent-Length", b"\r\nConnection: close\r\nContent-Length"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.tif"
        if problem:
            with pytest.raises(DataError, match=problem):
                remote.WebFile(url, True)
        else:
            assert remote.WebFile(url, True).read() == b"byte"
    assert slept == waits


@pytest.mark.parametrize("wanted_s", [7, 3600])
def test_rest_that_a_host_wants_holds_for_all_its_files(monkeypatch, wanted_s):
    slept, answers = [], [b"HTTP/1.1 429 Slower\r\nRetry-After: %d\r\nContent-Length: 0\r\n\r\n" % wanted_s, WHOLE]
    monkeypatch.setattr(remote.time, "sleep", slept.append)

    def listen():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(answers.pop(0))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if wanted_s < 60:
            remote.WebFile(f"{address}/a.tif", True)  # waits, and has its answer
            answers.append(WHOLE)
            remote.WebFile(f"{address}/b.tif", True)  # time stands still here, so the rest is not over
            assert slept[0] == 7.0 and 6.0 < slept[1] < 7.0 and len(slept) == 2
        else:
            with pytest.raises(DataError, match="status 429"):
                remote.WebFile(f"{address}/a.tif", True)
            with pytest.raises(DataError, match="left alone for 3[56].. s more"):
                remote.WebFile(f"{address}/b.tif", True)
            assert answers == [WHOLE] and not slept, "the second file was not asked for"


def test_a_server_without_tls_or_none_at_all_is_named(monkeypatch):
    slept = []
    monkeypatch.setattr(remote.time, "sleep", slept.append)

    def listen():
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, daemon=True).start()
        port = listener.getsockname()[1]
        with pytest.raises(DataError, match="no secure connection"):
            remote.WebFile(f"https://127.0.0.1:{port}/a.tif", True)
    assert slept == []
    with pytest.raises(DataError, match="did not accept a connection"):
        remote.WebFile(f"http://127.0.0.1:{port}/a.tif", True)
    assert len(slept) == 3


def test_a_server_that_fails_midway_stops_the_task_instead_of_dropping_chips(server, cog, monkeypatch):
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    sources, table, _ = chips(f"{server.url}/cog.tif", size_px=128, allow_loopback=True)
    reading = imagery.read(sources[0], table.iloc[20:40])
    assert next(reading)[1] is None
    server.fail[:] = [500] * 100
    with pytest.raises(DataError, match="500"):
        list(reading)


def test_a_connection_that_the_server_closed_is_made_anew_with_its_checks(monkeypatch):
    """The server ends the connection after its first answer; by then the name leads inside."""
    asked = []

    def serve(host, port=0):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(host)
                first, last = map(int, self.headers["Range"][6:].split("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/1000000")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(bytes(last - first + 1))

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer((host, port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    outside = serve("127.0.0.1")
    inside = serve("127.0.0.2", outside.server_port)
    real, leads = socket.getaddrinfo, ["127.0.0.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **named: real(leads[-1], *rest, **named))
    monkeypatch.setattr(remote.addresses, "address_is_allowed", lambda address, *_: address == "127.0.0.1")
    try:
        file = remote.WebFile(f"http://rebound.example:{outside.server_port}/a.tif", False)
        leads.append("127.0.0.2")
        file.seek(900_000)
        assert file.read(10) == b"" and "private network" in file.problem and asked == ["127.0.0.1"]
    finally:
        for server in (outside, inside):
            server.shutdown()
            server.server_close()
