"""The page from a server on loopback: what it answers to its own page, and what to nobody else."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import numpy as np
import pytest
from indexed import HOSTILE_FILE

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")

import rsvlm.search  # noqa: E402
from rsvlm.errors import DataError  # noqa: E402
from rsvlm.model import images  # noqa: E402
from rsvlm.search import serve  # noqa: E402


@pytest.fixture(scope="module")
def running(indexed, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSVLM_HOME", str(tmp_path_factory.mktemp("home")))
        one = serve.start(*indexed)
    yield one
    one.stop()


def ask(running, path: str, method: str = "GET", body: bytes | None = None, token: bool = True, **headers: str):
    """Send a request with exactly these headers; return the answer and its body."""
    parts = urlsplit(running.address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    connection.putrequest(method, (parts.path if token else "/") + path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"host": parts.netloc, "content-length": str(len(body or b"")), **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer, answer.read()


def origin(running) -> str:
    parts = urlsplit(running.address)
    return f"{parts.scheme}://{parts.netloc}"


def test_the_page_gets_what_it_asks_for(running, indexed):
    index, encoder = indexed
    answer, body = ask(running, "")
    assert answer.status == 200 and b"rsvlm-search" in body
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin" and answer.headers["x-frame-options"] == "DENY"
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    manifest = json.loads(ask(running, "data/manifest.json")[1])
    assert manifest["server"] == {"texts": True, "windows": True, "labels": True} and "text.onnx" not in manifest["files"]
    question = json.dumps({"text": "red in the north"}).encode()
    told = json.loads(ask(running, "ask", "POST", question, origin=origin(running))[1])
    np.testing.assert_allclose(told["vector"], encoder.texts(["red in the north"])[0], atol=1e-6)
    assert told["cut"] == 0
    question = json.dumps({"text": "red in the north " * 200}).encode()
    assert json.loads(ask(running, "ask", "POST", question, origin=origin(running))[1])["cut"] == 96
    answer, body = ask(running, "window/3")
    np.testing.assert_array_equal(images.decode(body), index.pictures([3])[0])  # chips of this index have all their pixels


def test_a_window_has_all_the_pixels_of_the_imagery(indexed):
    index, _ = indexed
    table = index.rows([5])
    assert images.decode(serve.window(index, 5)).shape == (int(table["height_px"][0]), int(table["width_px"][0]), 3)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", ""])
def test_another_host_is_refused(running, host):
    assert ask(running, "", host=host)[0].status == 421


def test_localhost_is_this_machine_too(running):
    assert ask(running, "", host=f"localhost:{urlsplit(running.address).port}")[0].status == 200


def test_without_the_token_nothing_is_told(running):
    for path in ("", "data/index.json", "window/0", "labels", "a" * 32 + "/", "../", "%2e%2e/"):
        answer, body = ask(running, path, token=False)
        assert answer.status == 403 and b"token" in body, path


def test_other_origins_are_refused_whatever_they_ask(running):
    port = urlsplit(running.address).port
    question = json.dumps({"text": "red"}).encode()
    for other in (
        "http://evil.example",
        "null",
        f"https://127.0.0.1:{port}",
        f"http://127.0.0.1:{port + 1}",
        f"http://localhost:{port}",
    ):
        assert ask(running, "ask", "POST", question, origin=other)[0].status == 403, other
        assert ask(running, "data/index.json", origin=other)[0].status == 403, other
    assert ask(running, "ask", "POST", question)[0].status == 403  # no browser sends it so
    assert ask(running, "labels", "PUT", b"{}")[0].status == 403
    assert ask(running, "data/index.json", sec_fetch_site="cross-site", sec_fetch_mode="no-cors")[0].status == 403
    assert ask(running, "data/index.json", sec_fetch_site="same-site", sec_fetch_mode="cors")[0].status == 403
    assert ask(running, "ask", "OPTIONS", origin="http://evil.example")[0].status == 403
    assert (
        ask(running, "", sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0].status == 200
    )  # a link that has the token


def test_bad_requests_are_answered_in_words(running):
    for body, words in (
        (b"", b"expected"),
        (b"[]", b"expected"),
        (b'{"text": 5}', b"letters"),
        (b'{"text": "  "}', b"letters"),
        (json.dumps({"text": "a" * 30_000}).encode(), b"letters"),
        (b"\xff\xfe", b"expected"),
        (b"[" * 100_000, b"expected"),
    ):
        answer, told = ask(running, "ask", "POST", body, origin=origin(running))
        assert answer.status == 400 and words in told
    for path in (
        "window/-1",
        "window/1000000",
        "window/x",
        "ask",
        "../index.json",
        "..%2f..%2findex.json",
        "data/../../stage.json",
    ):
        assert ask(running, path)[0].status in (403, 404, 405), path
    answer, _ = ask(running, "labels", "PUT", b'{"features": 3}', origin=origin(running))
    assert answer.status == 400


def test_labels_come_back_and_are_kept_in_a_file(indexed, running, tmp_path):
    content = json.dumps(
        {
            "type": "FeatureCollection",
            "features": [{"type": "Feature", "properties": {"label": "yes", "key": "é"}, "geometry": None}],
        }
    )
    assert ask(running, "labels", "PUT", content.encode(), origin=origin(running))[0].status == 204
    assert ask(running, "labels")[1].decode() == content and json.loads(running.kept.content)["features"]
    kept = serve.Labels(tmp_path / "labels.geojson")
    kept.put(content.encode())
    assert serve.Labels(tmp_path / "labels.geojson").content == content
    (tmp_path / "broken.geojson").write_text("no")
    with pytest.raises(DataError, match="broken.geojson is no GeoJSON"):
        serve.Labels(tmp_path / "broken.geojson")


def test_a_taken_port_is_told(indexed, running):
    with pytest.raises(DataError, match="another --port"):
        serve.start(*indexed, port=urlsplit(running.address).port)


def test_a_notebook_shows_the_page_and_gets_its_labels(indexed, tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    shown = rsvlm.search.show(indexed[0].folder, indexed[1], height=700)
    try:
        html = shown._repr_html_()
        assert f'<iframe src="{shown.address}"' in html and 'height="700"' in html and "<script" not in html
        assert shown.labels() == {"type": "FeatureCollection", "features": []}
        answer, _ = ask(shown._running, "")
        assert "x-frame-options" not in answer.headers
        content = json.dumps({"type": "FeatureCollection", "features": [{"properties": {"label": "no"}}]}).encode()
        ask(shown._running, "labels", "PUT", content, origin=origin(shown._running))
        assert shown.labels()["features"][0]["properties"]["label"] == "no"
        again = rsvlm.search.show(indexed[0], indexed[1])  # the cell, run again: the same page, with its labels
        assert again.address == shown.address and again.labels() == shown.labels()
    finally:
        shown.stop()
    assert HOSTILE_FILE not in html
    fresh = rsvlm.search.show(indexed[0], indexed[1])
    assert fresh.address != shown.address and fresh.labels()["features"] == [] and shown.labels()["features"]
    fresh.stop()


def test_a_cell_that_is_run_again_reads_the_file_of_labels_again(indexed, tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    shown = rsvlm.search.show(*indexed, labels=tmp_path / "labels.geojson")
    edited = {"type": "FeatureCollection", "features": [{"properties": {"label": "yes"}}]}
    (tmp_path / "labels.geojson").write_text(json.dumps(edited))  # as in QGIS
    assert rsvlm.search.show(*indexed, labels=tmp_path / "labels.geojson").labels() == edited
    shown.stop()


def test_where_the_frame_is_gone_or_dead_a_sentence_says_what_to_do(indexed, tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    shown = rsvlm.search.show(*indexed)
    shown.stop()
    before, frame = shown._repr_html_().split("<iframe")
    assert "run this cell again" in before and shown.address in before and frame  # untrusted notebooks lose the frame alone
