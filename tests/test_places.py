"""A Places API is asked for everything once, within limits, at public addresses alone; its key stays secret."""

import http.server
import json
import logging
import threading
import traceback
from collections import Counter

import pytest

from rsvlm import maps, places
from rsvlm.errors import ConfigError, DataError

pytest.importorskip("shapely", reason="the extra [data] is not installed")

KEY = "secret-key-1234567890"


class Places(http.server.BaseHTTPRequestHandler):
    """Answers from a list of functions, one for each request, the last one again and again."""

    answers: list = []
    asked: list = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append((self.path, body, dict(self.headers)))
        answers = type(self).answers
        status, data, headers = (answers.pop(0) if len(answers) > 1 else answers[0])(body)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("GOOGLE_MAPS_API_KEY", KEY)
    handler = type("Handler", (Places,), {"answers": [], "asked": []})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    handler.where = f"places:http://127.0.0.1:{running.server_port}"
    yield handler
    running.shutdown()
    running.server_close()


def replies(*found, status: int = 200, token: str | None = None, **headers):
    data = json.dumps({"places": list(found)} | ({"nextPageToken": token} if token else {})).encode()
    return lambda body: (status, data, headers)


def place(identity: str, lon: float, lat: float, kind: str = "beach", name: str = "Praia") -> dict:
    label = {"text": name, "languageCode": "pt"}
    return {"id": identity, "displayName": label, "types": [kind], "location": {"longitude": lon, "latitude": lat}}


BOX = (-9.46, 38.84, -9.44, 38.86)


def test_places_are_asked_for_and_kept(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    server.answers = [
        replies(place("a", -9.45, 38.85), place("b", -9.45, 38.85, "plumber"), {"id": 3}, "no", place("c", 0, 0))
    ]
    features = maps.read([server.where], BOX, cache=tmp_path, allow_loopback=True)
    assert features.table["category"].tolist() == ["beach"] and features.table["names"][0] == {"pt": "Praia"}
    assert features.counts == {"broken place": 2, "unmapped tags": 1, "outside the region": 1}
    path, body, headers = server.asked[0]
    assert (
        path == "/v1/places:searchNearby"
        and headers["X-Goog-Api-Key"] == KEY
        and "places.location" in headers["X-Goog-FieldMask"]
    )
    circle = body["locationRestriction"]["circle"]
    assert circle["center"] == pytest.approx({"latitude": 38.85, "longitude": -9.45}) and 1300 < circle["radius"] < 1600
    assert 1 <= len(body["includedTypes"]) <= 50
    again = maps.read([server.where], BOX, cache=tmp_path, allow_loopback=True)
    assert len(server.asked) == 1 and again.table.equals(features.table)
    assert all(KEY not in path.read_text() and KEY not in path.name for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in caplog.text


def test_a_full_circle_is_cut_in_four(server):
    many = [place(str(i), -9.45, 38.85) for i in range(places.PER_CIRCLE)]
    server.answers = [
        replies(*many),
        replies(place("0", -9.45, 38.85)),
        replies(),
        replies(),
        replies(place("x", -9.45, 38.85)),
    ]
    assert len(maps.read([server.where], BOX, allow_loopback=True).table) == places.PER_CIRCLE + 1
    assert len(server.asked) == 5


def test_search_by_text_turns_pages(server):
    server.answers = [replies(place("a", -9.45, 38.85), token="next"), replies(place("b", -9.45, 38.85))]
    assert len(maps.read([server.where + "?query=water+towers"], BOX, allow_loopback=True).table) == 2
    bodies = [body for _, body, _ in server.asked]
    assert bodies[0]["textQuery"] == "water towers" and "pageToken" not in bodies[0] and bodies[1]["pageToken"] == "next"
    assert bodies[0]["locationRestriction"]["rectangle"]["low"] == {"latitude": 38.84, "longitude": pytest.approx(-9.46)}


def test_failures_that_may_pass_are_tried_again(server):
    server.answers = [replies(status=429, **{"Retry-After": "7"}), replies(status=503), replies(place("a", -9.45, 38.85))]
    waits = []
    found = list(places.read_places(server.where, BOX, Counter(), allow_loopback=True, sleep=waits.append))
    assert len(found) == 1 and waits == [7.0, 2.0]


@pytest.mark.parametrize(
    "answer, error, word",
    [
        (replies(status=403), ConfigError, "GOOGLE_MAPS_API_KEY"),
        (replies(status=429), DataError, "429"),
        (lambda body: (400, json.dumps({"error": {"message": f"bad\n{KEY}"}}).encode(), {}), DataError, "bad"),
        (lambda body: (200, b"<html>garbage", {}), DataError, "no JSON"),
        (lambda body: (200, b"[" * 50_000, {}), DataError, "no JSON"),
        (lambda body: (200, b"[1, 2]", {}), DataError, "no list of places"),
        (lambda body: (200, b'{"places": {"a": 1}}', {}), DataError, "no list of places"),
        (lambda body: (200, b'{"places": [', {}), DataError, "no JSON"),
        (lambda body: (302, b"", {"Location": "http://127.0.0.1:1/"}), DataError, "302"),
        (lambda body: (200, b" " * (places.MAX_BYTES + 1), {}), DataError, "larger"),
    ],
    ids=["403", "429", "400", "garbage", "deep", "list", "object", "cut", "redirect", "huge"],
)
def test_other_answers_are_errors_that_keep_the_key(server, caplog, tmp_path, answer, error, word):
    caplog.set_level(logging.DEBUG)
    server.answers = [answer]
    with pytest.raises(error, match=word) as caught:
        list(places.read_places(server.where, BOX, Counter(), tmp_path, True, sleep=lambda s: None))
    assert KEY not in "".join(traceback.format_exception(caught.value)) and KEY not in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_places_need_a_key_a_region_and_a_public_address(server, monkeypatch):
    with pytest.raises(ConfigError, match="public address"):
        maps.read([server.where], BOX)
    with pytest.raises(ConfigError, match="region"):
        maps.read([server.where], allow_loopback=True)
    for inward in ("https://10.0.0.1", "https://169.254.169.254", "https://[::1]", "http://8.8.8.8", "https://u:p@8.8.8.8"):
        with pytest.raises(ConfigError):
            maps.read([f"places:{inward}"], BOX)
    with pytest.raises(DataError, match="too large"):
        maps.read([server.where], (-170, -80, 170, 80), allow_loopback=True)
    asked = len(server.asked)
    monkeypatch.delenv("GOOGLE_MAPS_API_KEY")
    with pytest.raises(ConfigError, match="GOOGLE_MAPS_API_KEY"):
        maps.read([server.where], BOX, allow_loopback=True)
    assert len(server.asked) == asked


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setenv("GOOGLE_MAPS_API_KEY", KEY)
    with pytest.raises(DataError, match="does not answer"):
        list(places.read_places("places:http://127.0.0.1:9", BOX, Counter(), None, True, sleep=lambda s: None))
