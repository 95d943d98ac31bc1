"""Real client libraries against loopback servers: what is asked, how answers and failures are read, and what never leaks."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import time

import pytest
from captioning import ANSWERS, GOOD, KEY, both, caption, gemini_answer, openai_answer, options, record, request

from rsvlm.data.captions import asking, clients, prompts
from rsvlm.errors import ConfigError, RsvlmError


def chain(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


# The wire


def test_openai_sends_picture_landmarks_and_schema(serve, tmp_path):
    server = serve(lambda number, body: (200, openai_answer(), {}))
    chip = request()
    reply = caption(options("openai", server), [chip], tmp_path)["chip-0"]
    assert reply.captions == GOOD and reply.refused is None
    assert reply.usage == {"requests": 1, "tokens_in": 100, "tokens_out": 50, "cost": 0.0}
    path, headers, body = server.seen[0]
    headers = {name.lower(): value for name, value in headers.items()}
    assert path == "/v1/chat/completions" and headers["authorization"] == f"Bearer {KEY}"
    assert body["model"] == "test-model" and body["max_tokens"] == 600 and body["temperature"] == 0.4
    form = body["response_format"]["json_schema"]
    assert form["strict"] and form["schema"] == prompts.schema(("full", "short", "relational"))
    system, user = body["messages"]
    picture, text = user["content"]
    kind, _, data = picture["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == chip.image
    assert "Praia da Aguda" in text["text"] and "Praia" not in system["content"]


def test_gemini_sends_picture_landmarks_and_schema(serve, tmp_path):
    server = serve(lambda number, body: (200, gemini_answer(), {}))
    chip = request()
    reply = caption(options("gemini", server), [chip], tmp_path)["chip-0"]
    assert reply.captions == GOOD, "thoughts are no answer"
    assert reply.usage == {"requests": 1, "tokens_in": 100, "tokens_out": 50, "cost": 0.0}, "thoughts are paid"
    path, headers, body = server.seen[0]
    assert path.endswith("/models/test-model:generateContent") and KEY not in path
    assert {name.lower(): value for name, value in headers.items()}["x-goog-api-key"] == KEY
    picture, text = body["contents"][0]["parts"]
    assert base64.urlsafe_b64decode(picture["inlineData"]["data"]) == chip.image
    assert "Praia da Aguda" in text["text"] and "Praia" not in json.dumps(body["systemInstruction"])
    settings = body["generationConfig"]
    assert settings["responseMimeType"] == "application/json" and settings["maxOutputTokens"] == 600
    assert settings["responseJsonSchema"] == prompts.schema(("full", "short", "relational"))


@both
def test_hidden_requests_of_the_library_are_off(kind, serve, tmp_path):
    """A budget holds only when one call is one request: no retries, continuations or redirects behind our back."""
    extra = {"content": {"parts": [{"text": "{"}]}, "finishReason": "CONTINUATION", "continuationToken": "YQ=="}
    unfinished = json.dumps({"candidates": [extra]}).encode() if kind == "gemini" else openai_answer("{")
    server = serve(lambda number, body: (200 if number < 8 else 500, unfinished, {}))
    assert caption(options(kind, server), [request()], tmp_path)["chip-0"].refused == "not_json"
    assert len(server.seen) == 2, "the request, and one more to mend the answer"
    other = serve(lambda number, body: (200, ANSWERS[kind](), {}))
    server.answer = lambda number, body: (307, b"", {"location": f"{other.url}/v1/chat/completions"})
    with pytest.raises(ConfigError, match="address"):
        caption(options(kind, server), [request(1)], tmp_path)
    assert other.seen == [], "the key does not follow a redirect"


@both
def test_patience_with_429_500_and_slow_servers(kind, serve, tmp_path):
    def answer(number, body):
        if number == 0:
            return 429, b'{"error": {"message": "slow down"}}', {"retry-after": "7"}
        if number == 1:
            return 500, b"<html>broken", {"content-type": "text/html"}
        if number == 2:
            time.sleep(0.8)
        return 200, ANSWERS[kind](), {}

    server, waits = serve(answer), []
    reply = caption(options(kind, server, timeout_s=0.3), [request()], tmp_path, waits)["chip-0"]
    assert reply.captions == GOOD and len(server.seen) == 4
    assert waits[0] == 7.0 and 1.0 <= waits[1] <= 2.0 and 2.0 <= waits[2] <= 4.0
    assert reply.usage["requests"] == 4
    assert reply.usage["tokens_out"] == 50 + 600, "a request that timed out may have been charged in full"


def test_googles_own_retry_delay_is_honoured(serve, tmp_path):
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "x" * 500, "details": [info]}
    body = json.dumps({"error": error}).encode()
    server, waits = serve(lambda number, _: (429, body, {}) if number == 0 else (200, gemini_answer(), {})), []
    assert caption(options("gemini", server), [request()], tmp_path, waits)["chip-0"].captions
    assert waits == [34.5]


@both
def test_answers_that_are_no_answers_are_asked_once_more_and_then_counted(kind, serve, tmp_path):
    bodies = [b'{"candidates": [{"con', b"<html>", b"[]", b'"x"', b'{"candidates": 7, "choices": 7}', b"\xff\xfe"]
    server = serve(lambda number, _: (200, bodies[number // 2], {}))
    replies = caption(options(kind, server, concurrency=1), map(request, range(6)), tmp_path)
    assert {reply.refused for reply in replies.values()} <= {"not_json", "empty_answer"}
    assert len(server.seen) == 12


@both
def test_an_answer_is_mended_by_one_more_request(kind, serve, tmp_path):
    cut = {"openai": "length", "gemini": "MAX_TOKENS"}[kind]
    first = {"text": '{"full": "A sandy bea', "finish": cut}
    server = serve(lambda number, _: (200, ANSWERS[kind](**first) if number == 0 else ANSWERS[kind](), {}))
    reply = caption(options(kind, server), [request()], tmp_path)["chip-0"]
    assert reply.captions == GOOD and reply.usage["requests"] == 2 and reply.usage["tokens_in"] == 200
    second = json.dumps(server.seen[1][2])
    assert "cut off" in second and "1200" in second, "it is told why, and given more room"
    server.answer = lambda number, _: (200, ANSWERS[kind](**first), {})
    assert caption(options(kind, server), [request(1)], tmp_path)["chip-1"].refused == "truncated"


def refusals():
    feedback = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "candidates": None}
    yield "gemini", gemini_answer(**feedback), "blocked_prompt"
    yield "gemini", gemini_answer(finish="SAFETY"), "blocked_answer"
    yield "gemini", gemini_answer(finish="RECITATION", text=""), "blocked_answer"
    yield "openai", openai_answer(refusal="I cannot describe this.", text=""), "refused"
    yield "openai", openai_answer(finish="content_filter", text=""), "blocked_answer"


@pytest.mark.parametrize(("kind", "body", "reason"), refusals())
def test_refusals_are_final_and_kept(kind, body, reason, serve, tmp_path):
    server = serve(lambda number, _: (200, body, {}))
    for _ in range(2):
        assert caption(options(kind, server), [request()], tmp_path)["chip-0"].refused == reason
    assert len(server.seen) == 1, "a refusal is not asked for, and paid, again"


def test_what_is_no_picture_is_a_reason(serve, tmp_path):
    server = serve(lambda number, _: (200, openai_answer(), {}))
    bad = prompts.Request("bad", b"<svg>", record())
    assert caption(options("openai", server), [bad], tmp_path)["bad"].refused == "bad_image"
    assert server.seen == []


def test_settings_that_a_server_does_not_know_are_dropped_by_all_threads(serve, tmp_path):
    def answer(number, body):
        if number < 4:
            time.sleep(0.1)  # all four threads ask before the first learns
        if "response_format" in body:
            return 400, b'{"error": {"message": "response_format is not supported"}}', {}
        if "max_tokens" in body:
            return 400, b'{"error": {"message": "use another", "param": "max_tokens"}}', {}
        return 200, openai_answer("Sure! " + json.dumps(GOOD)), {}

    server = serve(answer)
    replies = caption(options("openai", server, concurrency=4, retries=0), map(request, range(6)), tmp_path)
    assert all(reply.captions == GOOD for reply in replies.values())
    assert "max_completion_tokens" in server.seen[-1][2]


def test_a_bad_request_is_counted_but_many_in_a_row_stop_the_run(serve, tmp_path):
    wrong = (400, b'{"error": {"message": "no"}}', {})
    server = serve(lambda number, body: wrong if number == 1 else (200, openai_answer(), {}))
    replies = caption(options("openai", server, concurrency=1), map(request, range(3)), tmp_path)
    assert [reply.refused for reply in replies.values()] == [None, "bad_request", None]
    server.answer = lambda number, body: (200, openai_answer(), {})
    assert caption(options("openai", server), [request(1)], tmp_path)["chip-1"].captions == GOOD, "it was not kept"
    server.answer = lambda number, body: (400, b'{"error": {"message": "image too odd"}}', {})
    with pytest.raises(RsvlmError, match="3 requests in a row.*image too odd"):
        caption(options("openai", server), map(request, range(10, 20)), tmp_path)


@both
def test_a_server_that_is_down_stops_the_run(kind, serve, tmp_path):
    made = options(kind, retries=1, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(RsvlmError, match="no answer"):
        caption(made, [request()], tmp_path)
    assert asking.spent(tmp_path)["tokens_out"] == 0, "nobody charges where nobody listens"


# Keys


@pytest.mark.parametrize(("kind", "status"), [("openai", 401), ("openai", 403), ("gemini", 400), ("gemini", 403)])
def test_a_wrong_key_stops_at_once_and_is_shown_nowhere(kind, status, serve, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    words = f"API key not valid: {KEY}"
    body = {"error": {"code": status, "message": words, "status": KEY, "details": [{"reason": "API_KEY_INVALID", "key": KEY}]}}
    server, waits = serve(lambda number, _: (status, json.dumps(body).encode(), {})), []
    with pytest.raises(ConfigError, match=f"{kind.upper()}_API_KEY") as caught:
        caption(options(kind, server, concurrency=1), map(request, range(5)), tmp_path, waits)
    assert len(server.seen) == 1 and waits == []
    assert all(KEY not in f"{error} {error.args!r}" for error in chain(caught.value))
    assert KEY not in caplog.text and KEY.encode() not in (tmp_path / "captions.sqlite").read_bytes()


@both
def test_a_key_that_a_server_echoes_is_scrubbed(kind, serve, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    body = json.dumps({"error": {"message": f"\x1b[31mbroken with {KEY}\nsecond line"}}).encode()
    server = serve(lambda number, _: (500, body, {}))
    with pytest.raises(RsvlmError, match="no request was answered") as caught:
        caption(options(kind, server, retries=1), [request()], tmp_path)
    assert "***" in str(caught.value) and "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert all(KEY not in f"{error} {error.args!r}" for error in chain(caught.value)) and KEY not in caplog.text


@both
def test_no_key_stops_before_any_work(kind, monkeypatch):
    name = f"{kind.upper()}_API_KEY"
    monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=name):
        clients.open_captioner(options(kind))
    for odd in ("two words", "schlüssel", "a\nb"):
        monkeypatch.setenv(name, odd)
        with pytest.raises(ConfigError, match=name) as caught:
            clients.open_captioner(options(kind))
        assert odd not in str(caught.value)


def test_a_local_server_needs_no_key(serve, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server = serve(lambda number, _: (200, openai_answer(), {}))
    assert caption(options("openai", server), [request()], tmp_path)["chip-0"].captions == GOOD
    with pytest.raises(ConfigError, match="captioner.model"):
        clients.open_captioner(options("openai", server, model=""))


@pytest.mark.parametrize(
    "address", ["ftp://host/v1", "http://user:word@host/v1", "https://host/v1?key=word", "host/v1", "http://"]
)
def test_addresses_with_anything_but_an_address_are_refused(address):
    with pytest.raises(ConfigError, match="base_url") as caught:
        clients.open_captioner(options("openai", base_url=address))
    assert "word" not in str(caught.value)


@both
def test_a_captioner_travels_without_its_key(kind, serve):
    made = clients.open_captioner(options(kind, serve(None)))
    packed = pickle.dumps(made)
    assert KEY.encode() not in packed and KEY not in repr(made) and KEY not in json.dumps(made.identity)
    assert pickle.loads(packed).identity == made.identity
