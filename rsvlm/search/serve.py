"""The page of an index from this machine, to this machine alone: the model reads texts in Python, and chips come at full resolution.

A browser that shows other sites beside it must not let these ask here. So every request has to name the loopback address as its host
(else a site could point its own name at it), must not come from a page of another origin, and must begin with a token that only the
printed address has. Nothing is said to other origins: there are no headers of CORS.
"""

from __future__ import annotations

import io
import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from rsvlm.errors import DataError, RsvlmError, need
from rsvlm.model.encoder import Encoder
from rsvlm.records import files
from rsvlm.search import page_texts, site
from rsvlm.search.index_files import Index

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
MOST_WINDOW_PX = 1024
MOST_TEXT = 20_000  # letters; more than any model reads
MOST_BODY = 20_000_000  # bytes of a request
OTHERS = "this server answers only its own page: if a frame shows this, open its address in a tab of its own"
NO_LABELS = '{"type": "FeatureCollection", "features": []}'


@dataclass
class Labels:
    """Labels as the page sent them last: the text of a GeoJSON file, which is also written where a file is named."""

    path: Path | None = None
    content: str = NO_LABELS
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        """Take what the file holds now, where one is named and there. Raises DataError."""
        if self.path is not None and self.path.is_file():
            self.content = checked_labels(self.path.read_bytes(), str(self.path))

    def put(self, data: bytes) -> None:
        """Take what a page sent. Raises DataError."""
        with self.lock:
            self.content = checked_labels(data, "what the page sent")
            if self.path is not None:
                files.write_atomic(self.path, self.content)


def checked_labels(data: bytes, where: str) -> str:
    """Return the text of a FeatureCollection; what its features say is looked at by those who use it.

    Raises:
        DataError: It is none.
    """
    try:
        content = json.loads(data)
        whole = isinstance(content["features"], list)
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise DataError(f"{where} is no GeoJSON FeatureCollection: give a file that the page saved")
    return data.decode("utf-8-sig")


def window(index: Index, row: int) -> bytes | None:
    """Read a chip with all the pixels that the imagery has of it, up to `MOST_WINDOW_PX` a side, as PNG; None where it cannot be read."""
    table = index.rows([row])
    side = float(np.ceil(table[["width_px", "height_px"]].to_numpy(float).max()))
    table["size_px"] = int(np.clip(side, 16, MOST_WINDOW_PX))
    picture = index.pictures(table)[0]
    if picture is None:
        return None
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def application(folder: Path, index: Index, encoder: Encoder, token: str, port: int, labels: Labels, framed: bool = False):
    """Make the ASGI application that answers a page.

    Args:
        folder: Folder of the page, as from `site.load_or_write`.
        index: The index.
        encoder: Its model.
        token: What every address begins with.
        port: Port of the loopback address.
        labels: Where the page's labels go.
        framed: Whether a notebook may show the page in a frame.

    Raises:
        MissingExtraError: starlette is not installed.
    """
    need("starlette", "serve")
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    model_lock, imagery_lock = threading.Lock(), threading.Lock()

    def embed(text: str) -> dict:
        with model_lock:
            return {"vector": encoder.texts([text])[0].astype(float).tolist(), "cut": page_texts.cut_to(encoder, text)}

    def read(row: int) -> bytes | None:
        with imagery_lock:
            return window(index, row)

    async def body_of(request: Request) -> bytes:
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > MOST_BODY:
                raise DataError(f"a request may have {MOST_BODY / 1e6:.0f} MB")
        return content

    async def manifest(request: Request) -> Response:
        content = json.loads((folder / site.DATA / "manifest.json").read_text(encoding="utf-8"))
        content["server"] = {"texts": "texts" in encoder.can, "windows": True, "labels": True}
        return JSONResponse(content)

    async def ask(request: Request) -> Response:
        try:
            text = json.loads(await body_of(request))["text"]
            if not isinstance(text, str) or not text.strip() or len(text) > MOST_TEXT:
                raise DataError(f"expected a text of 1 to {MOST_TEXT:,} letters")
            return JSONResponse(await run_in_threadpool(embed, text))
        except (ValueError, KeyError, TypeError, RecursionError):
            return JSONResponse({"error": 'expected {"text": "..."}'}, 400)
        except RsvlmError as error:
            return JSONResponse({"error": str(error)}, 400)

    async def show_window(request: Request) -> Response:
        row = request.path_params["row"]
        picture = await run_in_threadpool(read, row) if 0 <= row < len(index) else None
        return Response(picture, media_type="image/png") if picture else Response("there is no such picture", 404)

    async def get_labels(request: Request) -> Response:
        return Response(labels.content, media_type="application/geo+json")

    async def put_labels(request: Request) -> Response:
        try:
            content = await body_of(request)
            await run_in_threadpool(labels.put, content)
        except (RsvlmError, OSError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return Response(status_code=204)

    routes = [
        Route(f"/{site.DATA}/manifest.json", manifest),
        Route("/ask", ask, methods=["POST"]),
        Route("/window/{row:int}", show_window),
        Route("/labels", get_labels),
        Route("/labels", put_labels, methods=["PUT"]),
        Mount("/", StaticFiles(directory=folder, html=True)),
    ]
    return guarded(Starlette(routes=[Mount(f"/{token}", routes=routes)]), token, port, framed)


def guarded(app: Callable, token: str, port: int, framed: bool = False) -> Callable:
    """Let through to an ASGI application what comes from its own page, or opens it, and refuse the rest."""
    hosts = {f"{LOOPBACK}:{port}", f"localhost:{port}"}
    own = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
    own += [(b"cross-origin-resource-policy", b"same-origin"), (b"cache-control", b"no-cache")]
    if not framed:
        own += [(b"content-security-policy", b"frame-ancestors 'none'"), (b"x-frame-options", b"DENY")]

    def refusal(scope) -> tuple[int, str] | None:
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        host, origin = headers.get("host", []), headers.get("origin", [])
        if len(host) != 1 or host[0].lower() not in hosts:
            return 421, "this server answers only at its loopback address"
        reading = scope["method"] in ("GET", "HEAD")
        if origin and origin != [f"http://{host[0].lower()}"] or not origin and not reading:
            return 403, OTHERS
        site_of, mode = (headers.get(name, [""])[0] for name in ("sec-fetch-site", "sec-fetch-mode"))
        if site_of in ("cross-site", "same-site") and not (reading and mode == "navigate"):
            return 403, OTHERS
        first = scope["path"].split("/")[1:2]
        if not secrets.compare_digest((first or [""])[0].encode(), token.encode()):
            return 403, "the address lacks its token: open the whole address that was printed"
        return None

    async def answer(scope, receive, send):
        if scope["type"] == "lifespan":
            return await app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", []) if pair[0].lower() != b"cache-control"]
                message = {**message, "headers": [*kept, *own]}
            await send(message)

        if refused := refusal(scope):
            status, words = refused
            plain = [(b"content-type", b"text/plain; charset=utf-8")]
            await send_with_headers({"type": "http.response.start", "status": status, "headers": plain})
            return await send_with_headers({"type": "http.response.body", "body": words.encode()})
        return await app(scope, receive, send_with_headers)

    return answer


@dataclass
class Running:
    """A server in a thread of this process.

    Attributes:
        address: Address of its page, with the token.
        kept: Labels of the page.
    """

    address: str
    kept: Labels
    server: object
    thread: threading.Thread

    def stop(self) -> None:
        """End the server."""
        self.server.should_exit = True
        self.thread.join(timeout=5)


def start(
    index: Index,
    encoder: Encoder,
    *,
    examples=site.EXAMPLES,
    title: str = "",
    port: int = 0,
    labels: Path | None = None,
    framed: bool = False,
) -> Running:
    """Serve the page of an index on the loopback address, in a thread.

    Args:
        index: The index.
        encoder: Its model.
        examples: Texts that the page offers.
        title: Title of the page. If empty, the name of the index's folder.
        port: Port. If 0, a free one.
        labels: GeoJSON file that the page begins with, and keeps. If None, labels are kept in memory.
        framed: Whether a notebook may show the page in a frame.

    Raises:
        DataError: The port is taken, or the file of labels is none.
        MissingExtraError: starlette or uvicorn is not installed.
    """
    uvicorn = need("uvicorn", "serve")
    need("starlette", "serve")
    kept = Labels(labels)
    try:
        listening = socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise DataError(f"port {port} cannot be used ({error.strerror}): give another --port, or none") from None
    try:
        folder = site.load_or_write(index, index.check(encoder), examples, title)
        token, port = secrets.token_urlsafe(24), listening.getsockname()[1]
        app = application(folder, index, encoder, token, port, kept, framed)
        options = {"access_log": False, "log_level": "warning", "server_header": False, "lifespan": "off"}
        server = uvicorn.Server(uvicorn.Config(app, **options, proxy_headers=False))
    except BaseException:
        listening.close()
        raise
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True, name="rsvlm search serve")
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    if not server.started:
        raise DataError(f"the server at {LOOPBACK}:{port} could not be started")
    return Running(f"http://{LOOPBACK}:{port}/{token}/", kept, server, thread)
