"""What the tests of prompts, clients and captions share: a chip, a loopback server, and answers as the vendors send them."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rsvlm import config
from rsvlm.data.captions import asking
from rsvlm.data.landmarks.directions import SECTORS
from rsvlm.model import images

KEY = "sk-test-6f1c0de5ecret"
GOOD = {"full": "A sandy beach runs along the west.", "short": "A beach.", "relational": "The tower is east of the beach."}


def record(**changes) -> dict:
    beach = {"name": "Praia da Aguda", "category": "beach", "lon": -8.6543, "lat": 41.0456, "position": "west", "share": 0.2}
    beach |= {"visible": True, "length_m": 412.0, "names": {"en": "Sharp Beach"}, "geometry": {"type": "Point"}}
    tower = {"name": None, "category": "water_tower", "lon": -8.6511, "lat": 41.0461, "position": "east", "visible": True}
    cafe = {"name": "Café Mar", "category": "cafe", "position": "north", "visible": False, "hidden_because": "indoors"}
    relations = [
        {"from": 0, "to": 1, "distance_m": 263.0, "direction": "east"},
        {"from": 0, "to": 2, "distance_m": 9, "direction": "north"},
    ]
    made = {"key": "a", "size_px": 64, "gsd_m": 10.0, "lon": -8.65, "lat": 41.04, "bbox_lonlat": [-8.66, 41.03, -8.64, 41.05]}
    return made | {"landmarks": [beach, tower, cafe], "relations": relations} | changes


def request(index: int = 0, **changes) -> asking.Request:
    pixels = np.full((8, 8, 3), index % 256, np.uint8)
    pixels[0, 0] = index // 256
    return asking.Request(f"chip-{index}", images.encode_png(pixels), record(**changes))


class Server:
    """A loopback server that answers by a function of the request's number and body, and remembers what it was sent."""

    def __init__(self, answer):
        self.answer, self.seen, self.lock = answer, [], threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                with outer.lock:
                    number = len(outer.seen)
                    outer.seen.append((self.path, dict(self.headers), json.loads(body or b"{}")))
                status, content, headers = outer.answer(number, outer.seen[number][2])
                self.send_response(status)
                usual = {"content-type": "application/json", "content-length": str(len(content))}
                for name, value in (usual | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *arguments: None  # a client that gave up waiting
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture(name="serve")
def serve_fixture():
    servers = []

    def start(answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture(name="keys", autouse=True)
def keys_fixture(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "GOOGLE_", "GEMINI_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


def openai_answer(text=None, **changes) -> bytes:
    content = json.dumps(GOOD) if text is None else text
    message = {"role": "assistant", "content": content, "refusal": changes.pop("refusal", None)}
    choice = {"index": 0, "message": message, "finish_reason": changes.pop("finish", "stop")}
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    made = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(made | changes).encode()


def gemini_answer(text=None, **changes) -> bytes:
    parts = [{"text": "thinking aloud {", "thought": True}, {"text": json.dumps(GOOD) if text is None else text}]
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": changes.pop("finish", "STOP")}
    usage = {"promptTokenCount": 100, "candidatesTokenCount": 30, "thoughtsTokenCount": 20, "totalTokenCount": 150}
    return json.dumps({"candidates": [candidate], "usageMetadata": usage} | changes).encode()


ANSWERS = {"openai": openai_answer, "gemini": gemini_answer}
both = pytest.mark.parametrize("kind", ["openai", "gemini"])


def options(kind: str, server: Server | None = None, **changes) -> config.Captioner:
    """Options of a captioner that asks this server; a test that asks for them is skipped where its client is missing."""
    if client := {"openai": "openai", "gemini": "google.genai"}.get(kind):
        pytest.importorskip(client, reason="the extra [llm] is not installed: make dev")
    address = "" if server is None else server.url + ("/v1" if kind == "openai" else "")
    return config.Captioner(**{"kind": kind, "base_url": address, "model": "test-model", "concurrency": 2} | changes)


def caption(made: config.Captioner, requests, cache, waits: list | None = None) -> dict[str, asking.Reply]:
    sleep = (lambda seconds: None) if waits is None else waits.append
    return dict(asking.caption_all(requests, asking.open_captioner(made), cache, sleep=sleep))


def landmark(category: str, position: str, **changes) -> dict:
    """A made-up landmark in the middle of its sector of a chip between 0 and 0.003 degrees."""
    row, column = divmod(SECTORS.index(position), 3)
    mark = {"name": None, "names": {}, "category": category, "position": position, "visible": True, "count": 1}
    mark |= {"lon": 0.0005 + 0.001 * column, "lat": 0.0025 - 0.001 * row, "share": 0.01, "area_m2": 100.0, "length_m": None}
    mark["by_sector"] = [int(sector == position) for sector in SECTORS]
    return mark | changes


def scene(*marks: dict, relations=()) -> dict:
    """A record of these landmarks."""
    about = {"key": "k", "gsd_m": 1.2, "size_px": 256, "bbox_lonlat": [0.0, 0.0, 0.003, 0.003]}
    return about | {"landmarks": list(marks), "relations": list(relations)}


COAST = scene(
    landmark("beach", "west", name="Praia da Aguda"),
    landmark("water tower", "southeast"),
    landmark("parking", "northeast"),
    landmark("road", "centre", name="Rua 25 de Abril", area_m2=None, length_m=200.0, share=None),
    landmark("building", "north", count=37, by_sector=[0, 30, 7, 0, 0, 0, 0, 0, 0]),
    landmark("shop", "south", name="Café Luar", visible=False),
)
