"""What is paid, and what is kept: cache, budget and batch jobs, by real clients against loopback servers."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from captioning import ANSWERS, GOOD, Server, both, caption, gemini_answer, openai_answer, options, record, request
from conftest import ROOT

from rsvlm import config
from rsvlm.data.captions import asking, clients, prompts
from rsvlm.errors import ConfigError, DataError, RsvlmError

# The cache


def test_the_cache_is_keyed_by_model_prompt_picture_and_landmarks(serve, tmp_path):
    server = serve(lambda number, _: (200, openai_answer(), {}))
    own = tmp_path / "own.txt"
    own.write_bytes((prompts.PROMPTS / "landmarks-v1.txt").read_bytes() + b"\nThank you.")
    other = record(landmarks=record()["landmarks"][:1])
    variants = [
        (options("openai", server), request()),
        (options("openai", server, model="another"), request()),
        (options("openai", server, prompt=str(own)), request()),
        (options("openai", server, temperature=0.9), request()),
        (options("openai", server), request(1)),
        (options("openai", server), asking.Request("chip-0", request().image, other)),
    ]
    for count, (made, chip) in enumerate(variants, 1):
        for _ in range(2):
            assert caption(made, [chip], tmp_path / "cache")
        assert len(server.seen) == count
    again = asking.Request("other-key", request().image, record(lon=1.0, licence="x"))
    first = caption(variants[0][0], [request()], tmp_path / "cache")["chip-0"]
    assert caption(variants[0][0], [again], tmp_path / "cache")["other-key"] == first
    assert len(server.seen) == len(variants), "what the model is not told does not matter"


def test_twins_that_are_on_their_way_together_are_paid_once_and_order_is_kept(serve, tmp_path):
    def answer(number, _):
        time.sleep(0.15 if number == 0 else 0.01)
        return 200, openai_answer(), {}

    server = serve(answer)
    chips = [asking.Request(f"k{i}", request(i % 3).image, record()) for i in range(30)]
    keys = list(caption(options("openai", server, concurrency=4), chips, tmp_path))
    assert keys == [chip.key for chip in chips] and len(server.seen) == 3


def test_temporary_failures_are_not_kept(serve, tmp_path):
    server = serve(lambda number, _: (503, b"", {}) if number in (1, 2) else (200, openai_answer(), {}))
    made = options("openai", server, concurrency=1, retries=1)
    replies = caption(made, map(request, range(3)), tmp_path)
    assert [reply.refused for reply in replies.values()] == [None, "unavailable", None]
    assert caption(made, map(request, range(3)), tmp_path)["chip-1"].captions == GOOD
    assert len(server.seen) == 5


def test_the_number_on_their_way_is_limited_and_what_is_held_too(serve, tmp_path):
    now, most, lock, drawn = Counter(), [0], threading.Lock(), [0]

    def answer(number, _):
        with lock:
            now["n"] += 1
            most[0] = max(most[0], now["n"])
        time.sleep(0.03)
        with lock:
            now["n"] -= 1
        return 200, openai_answer(), {}

    def chips():
        for index in range(40):
            drawn[0] = index
            yield request(index)

    made = clients.open_captioner(options("openai", serve(answer), concurrency=3))
    stream = asking.caption_all(chips(), made, tmp_path)
    next(stream)
    assert drawn[0] <= 12
    stream.close()
    kept = asking.spent(tmp_path)["requests"]
    assert 0 < kept <= 16 and most[0] <= 3, "a consumer that stops leaves nothing half done"


def test_a_cache_that_is_none_is_named(tmp_path):
    (tmp_path / "captions.sqlite").write_bytes(b"not a database, and long enough to be looked at" * 50)
    with pytest.raises(DataError, match="captions.sqlite"):
        asking.spent(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="file"):
        asking.spent(tmp_path / "file")


# The budget


@both
def test_budget_zero_is_a_clear_error_and_the_cache_is_free(kind, serve, tmp_path):
    server = serve(lambda number, _: (200, ANSWERS[kind](), {}))
    with pytest.raises(asking.BudgetExhausted, match="max_requests=0"):
        caption(options(kind, server, max_requests=0), [request()], tmp_path)
    assert server.seen == []
    first = caption(options(kind, server), [request()], tmp_path)
    assert caption(options(kind, server, max_requests=0), [request()], tmp_path) == first
    with pytest.raises(ConfigError, match="price_in"):
        caption(options(kind, server, max_cost=0.0), [request(1)], tmp_path)
    priced = {"price_in": 1.0, "price_out": 4.0}
    with pytest.raises(asking.BudgetExhausted, match="max_cost=0"):
        caption(options(kind, server, max_cost=0.0, **priced), [request(1)], tmp_path)


@pytest.mark.parametrize("failing", [False, True])
def test_requests_are_never_more_than_the_budget_and_nothing_is_paid_twice(failing, serve, tmp_path):
    server = serve(lambda number, _: (500, b"", {}) if failing and number % 3 == 0 else (200, openai_answer(), {}))
    got, runs = {}, 0
    while len(got) < 20:
        runs += 1
        before = len(server.seen)
        made = asking.open_captioner(options("openai", server, concurrency=4, max_requests=8 * runs))
        stream = asking.caption_all(map(request, range(20)), made, tmp_path, sleep=lambda seconds: None)
        try:
            got |= dict(stream)
        except asking.BudgetExhausted:
            assert len(server.seen) == 8 * runs
        assert len(server.seen) <= 8 * runs and len(server.seen) > before
    asked = Counter(json.dumps(body) for _, _, body in server.seen)
    assert asking.spent(tmp_path)["requests"] == len(server.seen)
    assert len(asked) == 20 and (failing or set(asked.values()) == {1})
    assert all(reply.captions == GOOD for reply in got.values())


def test_tokens_and_cost_stop_before_they_are_exceeded(serve, tmp_path):
    server = serve(lambda number, _: (200, openai_answer(), {}))
    for name, most in (("max_tokens", 9000), ("max_cost", 0.009)):
        folder, before = tmp_path / name, len(server.seen)
        made = options("openai", server, concurrency=4, price_in=1.0, price_out=4.0, **{name: most})
        with pytest.raises(asking.BudgetExhausted, match=name):
            caption(made, map(request, range(200)), folder)
        paid, asked = asking.spent(folder), len(server.seen) - before
        used = {"max_tokens": paid["tokens_in"] + paid["tokens_out"], "max_cost": paid["cost"]}[name]
        per = {"max_tokens": 150, "max_cost": 300e-6}[name]
        assert used == pytest.approx(asked * per) and used <= most
        set_aside = {"max_tokens": 4500, "max_cost": 0.007}[name]
        assert most - used < set_aside, "what was set aside is given back when it is not used"


def test_a_killed_run_pays_again_at_most_for_what_was_on_its_way(serve, tmp_path):
    pytest.importorskip("openai", reason="the extra [llm] is not installed: make dev")
    killed = threading.Event()

    def answer(number, _):
        time.sleep(0.02)
        if number >= 40:
            killed.wait(60)  # however slowly this test notices, the run does not get further
        return 200, openai_answer(), {}

    server = serve(answer)
    program = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[3])\n"
        "from captioning import request, options\n"
        "from rsvlm.data.captions import asking, clients\n"
        "from types import SimpleNamespace\n"
        "made = clients.open_captioner(options('openai', SimpleNamespace(url=sys.argv[1]), concurrency=3))\n"
        "for key, reply in asking.caption_all(map(request, range(400)), made, sys.argv[2]):\n"
        "    assert reply.captions\n"
    )
    arguments = [sys.executable, "-c", program, server.url, str(tmp_path), str(ROOT / "tests")]
    run = subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(server.seen) < 25 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    _, errors = run.communicate()
    assert run.returncode == -signal.SIGKILL, errors.decode()[-500:]
    killed.set()
    time.sleep(0.1)
    killed_at = len(server.seen)
    assert 25 <= killed_at <= 43
    replies = caption(options("openai", server, concurrency=3), map(request, range(60)), tmp_path)
    assert len(replies) == 60 and all(reply.captions == GOOD for reply in replies.values())
    asked = Counter(json.dumps(body) for _, _, body in server.seen)
    again = [count for count in asked.values() if count > 1]
    assert len(asked) == 60 and len(again) <= 3 and set(again) <= {2}
    booked = asking.spent(tmp_path)["requests"]
    assert len(server.seen) <= booked <= len(server.seen) + 3, "whatever the killed run had asked is in the accounts"


def test_processes_share_cache_and_budget(tmp_path):
    budget, reply = asking.Budget(max_requests=40), asking.Reply(GOOD)

    def work(worker: int) -> int:
        store = asking._Store(tmp_path)  # a connection of its own, as another process has
        done = 0
        for index in range(20):
            if store.claim(budget, (10, 10)) is None:
                store.settle(budget, (10, 10), (3, 4), f"{worker}-{index}", reply)
                done += 1
        store.close()
        return done

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 40
    assert asking.spent(tmp_path) == {"requests": 40, "tokens_in": 120, "tokens_out": 160, "cost": 0.0}


# Batch jobs


class BatchServer:
    """Jobs that take two looks to be done."""

    def __init__(self):
        self.jobs, self.looks, self.ends = {}, Counter(), "BATCH_STATE_SUCCEEDED"

    def __call__(self, number, body):
        if "batch" in body:
            name = f"batches/j{len(self.jobs)}"
            self.jobs[name] = body["batch"]["inputConfig"]["requests"]["requests"]
            return 200, json.dumps({"name": name, "metadata": {"state": "BATCH_STATE_PENDING", "name": name}}).encode(), {}
        name = f"batches/j{len(self.jobs) - 1}"
        self.looks[name] += 1
        if self.looks[name] < 2:
            return 200, json.dumps({"name": name, "metadata": {"state": "BATCH_STATE_RUNNING", "name": name}}).encode(), {}
        answers = [{"response": json.loads(gemini_answer()), "metadata": one["metadata"]} for one in self.jobs[name]]
        output = {"inlinedResponses": {"inlinedResponses": answers[::-1]}}  # the order is not relied on
        done = {"name": name, "done": True, "metadata": {"state": self.ends, "name": name, "output": output}}
        return 200, json.dumps(done).encode(), {}


def batch_captioner(server: Server, **changes) -> clients.Gemini:
    made = clients.open_captioner(options("gemini", server, **changes))
    made.options = SimpleNamespace(**made.options.model_dump() | {"batch": 3})
    return made


def test_batch_jobs_are_posted_waited_for_and_resumed(serve, tmp_path):
    jobs = BatchServer()
    server = serve(jobs)
    chips = [request(i) for i in range(5)]
    replies = dict(asking.caption_all(chips, batch_captioner(server), tmp_path / "a", sleep=lambda seconds: None))
    assert [len(job) for job in jobs.jobs.values()] == [3, 2]
    assert all(reply.captions == GOOD and reply.usage["tokens_in"] == 100 for reply in replies.values())
    assert asking.spent(tmp_path / "a") == {"requests": 5, "tokens_in": 500, "tokens_out": 250, "cost": 0.0}
    assert dict(asking.caption_all(chips, batch_captioner(server), tmp_path / "a")) == replies and len(jobs.jobs) == 2

    def die(seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(asking.caption_all(chips[:3], batch_captioner(server), tmp_path / "b", sleep=die))
    again = dict(asking.caption_all(chips[:3], batch_captioner(server), tmp_path / "b", sleep=lambda seconds: None))
    assert len(jobs.jobs) == 3 and all(reply.captions == GOOD for reply in again.values()), "the job was not posted again"


def test_a_batch_job_that_fails_and_a_small_budget_are_told(serve, tmp_path):
    jobs = BatchServer()
    server = serve(jobs)
    made = batch_captioner(server, max_requests=4)
    with pytest.raises(asking.BudgetExhausted, match="max_requests=4"):
        list(asking.caption_all(map(request, range(9)), made, tmp_path / "a", sleep=lambda seconds: None))
    assert [len(job) for job in jobs.jobs.values()] == [3, 1]
    jobs.ends = "BATCH_STATE_FAILED"
    with pytest.raises(RsvlmError, match="JOB_STATE_FAILED"):
        list(asking.caption_all([request()], batch_captioner(server), tmp_path / "b", sleep=lambda seconds: None))


# Offline


def test_the_grammar_is_asked_without_cache_or_threads(tmp_path):
    made = clients.open_captioner(config.Captioner(kinds=("full", "short", "relational")), seed=3)
    assert made.identity["client"] == "grammar"
    chips = [request(0), request(1), request(2, landmarks=[])]
    first, second = (dict(asking.caption_all(chips, made, tmp_path / "none")) for _ in range(2))
    assert first == second and not (tmp_path / "none").exists()
    assert list(first["chip-0"].captions) == ["full", "short", "relational"]
    assert all("Praia da Aguda" in text and "Café" not in text for text in first["chip-0"].captions.values())
    assert "260 m west of the water tower" in first["chip-0"].captions["relational"]
    assert first["chip-0"].captions != first["chip-1"].captions, "the wording is drawn by the key"
    assert first["chip-2"] == asking.Reply(None, "nothing_to_say")
    only = asking.open_captioner(config.Captioner(kinds=("relational",)), seed=3)
    assert only.ask(request(0)).captions == {"relational": first["chip-0"].captions["relational"]}
    assert pickle.loads(pickle.dumps(made)).ask(request(0)) == first["chip-0"]


def test_anybodys_captioner_will_do(tmp_path):
    class Own:
        identity = {"client": "own", "model": "own", "parameters": {}}
        options = config.Captioner(concurrency=2)

        def __init__(self):
            self.asked = Counter()

        def ask(self, request, complaint=""):
            self.asked[request.key] += 1
            return asking.Reply(None, "unavailable") if request.key == "chip-1" else asking.Reply(GOOD)

        def weigh(self, request):
            return 10, 20

    own = Own()
    for _ in range(2):
        replies = dict(asking.caption_all(map(request, range(3)), own, tmp_path))
        assert [reply.refused for reply in replies.values()] == [None, "unavailable", None]
    assert own.asked == {"chip-0": 1, "chip-1": 2, "chip-2": 1}, "what may pass is asked again, the rest is kept"
