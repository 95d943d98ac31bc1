"""A site on this machine whose answers a test chooses, and how to fetch from it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from rsvlm import config
from rsvlm.data.web import fetch

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
        self.address = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def paths(self) -> list[str]:
        """What was asked for, without the files in which a site says what it allows."""
        return [path for _, path, _ in self.asked if path not in ("/robots.txt", "/.well-known/tdmrep.json", "/ai.txt")]


@contextmanager
def serve() -> Iterator[Site]:
    """A site for the length of one test."""
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


@contextmanager
def connections(monkeypatch) -> Iterator[list]:
    """Addresses that are connected to; a test fails if one of them is not this machine's."""
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
