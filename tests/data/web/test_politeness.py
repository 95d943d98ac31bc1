"""A site is asked as its owner wishes: what its files and headers allow, in turn, and not when it wants to rest."""

from __future__ import annotations

import gzip
import time
from collections import Counter

import numpy as np
import pytest
from sites import PICTURE, get, names, options

from rsvlm.data.web import fetch, politeness

pytestmark = pytest.mark.usefixtures("connected")


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
        ({"X-Robots-Tag": "unavailable_after: Sat, 25 Jun 2033 15:00:00 GMT, noai"}, "x_robots"),
        ({"X-Robots-Tag": "unavailable_after: 25 Jun 2010 15:00:00 PST"}, "x_robots"),
        ({"X-Robots-Tag": "unavailable_after: 25 Jun 2910 15:00:00 PST"}, "ok"),
        ({"X-Robots-Tag": "noindex;nofollow"}, "x_robots"),
        ({"Content-Usage": "search=y, train-ai=n"}, "content_usage"),
        ({"Content-Usage": "search=n, train-ai=y"}, "ok"),
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
    assert len(times) == 9 and times[-1] - times[0] > 0.75 and np.diff(times).min() > 0.02


def test_a_crawl_delay_is_kept_or_the_address_is_given_up(site, tmp_path):
    site.routes |= {f"/{number}": (200, {}, PICTURE) for number in range(4)}
    urls = [site.url(f"/{number}") for number in range(4)]
    site.routes["/robots.txt"] = (200, {}, b"User-agent: *\nCrawl-delay: 0.2\n")
    assert fetch.download(urls, tmp_path / "kept", options(per_host=4)).counts == {"ok": 4}
    times = [at for at, path, _ in site.asked if path[1:].isdigit()]
    assert 0.55 < times[-1] - times[0] < 10

    site.asked.clear()
    site.routes["/robots.txt"] = (200, {}, b"User-agent: *\nCrawl-delay: 86400\n")
    assert fetch.download(urls, tmp_path / "no", options(per_host=4)).counts == {"crawl_delay_too_long": 4}
    assert site.paths() == []
    assert [row.robots for row in fetch.results(tmp_path / "no")] == ["allowed"] * 4


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

    answers = {  # by which a path answers, and the reason and the number of attempts
        "/heals": (heals, "ok", 3),
        "/gone": ((404, {}, b""), "client_error", 1),
        "/ill": ((500, {}, b""), "server_error", 3),
        "/later": ((503, {"Retry-After": "3600"}, b""), "server_error", 1),
        "/then": ((429, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}, b""), "too_many_requests", 1),
    }
    for n, (path, (route, reason, attempts)) in enumerate(answers.items()):
        site.routes[path] = route
        row = get(site.url(path, f"h{n}.example"), tmp_path, names(**{f"h{n}_example": "127.0.0.1"}), retries=2)
        assert (row.reason, row.attempts) == (reason, attempts)
    assert Counter(site.paths()) == {path: attempts for path, (_, _, attempts) in answers.items()}


def test_a_host_that_asks_for_rest_gets_it_from_all(site, tmp_path):
    site.routes |= {"/a": (429, {"Retry-After": "1"}, b""), "/b": (200, {}, PICTURE)}
    fetch.download([site.url("/a"), site.url("/b")], tmp_path, options(per_host=1))
    (first, _, _), (second, _, _) = site.asked[-2:]
    assert second - first > 0.8


def test_a_host_that_asks_for_an_hour_is_left_alone(site, tmp_path):
    numbers = range(8)
    site.routes |= {f"/{number}": (429, {"Retry-After": "4000"}, b"") for number in numbers}
    urls = [site.url(f"/{number}") for number in numbers]
    started = time.monotonic()
    counts = fetch.download(urls, tmp_path, options(per_host=1, retries=2)).counts
    assert counts == {"too_many_requests": 1, "host_resting": 7} and len(site.paths()) == 1
    assert time.monotonic() - started < 10, "nobody waits for it"
    site.routes |= {f"/{number}": (200, {}, PICTURE) for number in numbers}
    assert fetch.download(urls, tmp_path, options()).counts == counts, "nor asks again in the next run"
    assert fetch.download(urls, tmp_path, options(retry_failed=True)).counts == {"ok": 8}


def test_a_rest_is_one_hosts_and_also_that_of_its_robots_txt(site, tmp_path):
    site.routes |= {"/a": (503, {"Retry-After": "4000"}, b""), "/b": (200, {}, PICTURE)}
    urls = [site.url("/a", "h1.example"), site.url("/b", "h1.example"), site.url("/b", "h2.example")]
    resolve = names(h1_example="127.0.0.1", h2_example="127.0.0.1")
    reasons = {}
    for url in urls:
        reasons[url] = get(url, tmp_path, resolve).reason
    assert list(reasons.values()) == ["server_error", "ok", "ok"], "each is a run of its own"
    fetch.download(urls, tmp_path / "one", options(per_host=1), resolve=resolve)
    assert [row.reason for row in fetch.results(tmp_path / "one", urls)] == ["server_error", "host_resting", "ok"]


@pytest.mark.parametrize("answer", ["429", "drops"])
def test_a_host_that_fails_again_and_again_is_left_alone(site, tmp_path, answer):
    def drops(handler):
        handler.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", PICTURE, b".", b".", pause_s=0.4)

    route = drops if answer == "drops" else (429, {"Retry-After": "0"}, b"")
    site.routes |= {f"/{number}": route for number in range(12)}
    urls = [site.url(f"/{number}") for number in range(12)]
    limits = {"per_host": 1, "retries": 2, "total_timeout_s": 0.3, "read_timeout_s": 0.3}
    counts = fetch.download(urls, tmp_path, options(**limits), backoff_s=0.01).counts
    assert len(site.paths()) == politeness.MAX_FAILURES and counts["host_resting"] >= 7 and sum(counts.values()) == 12
    assert all(fetch.REASONS[reason].temporary for reason in counts)


def test_failures_between_answers_do_not_end_in_rest(site, tmp_path):
    site.routes |= {f"/{n}": (200, {}, PICTURE) if n % 3 else (503, {}, b"") for n in range(24)}
    counts = fetch.download([site.url(f"/{n}") for n in range(24)], tmp_path, options(per_host=1)).counts
    assert counts == {"ok": 16, "server_error": 8}


# Reservations


TDMREP = b'[{"location": "/open/*", "tdm-reservation": 0}, {"location": "/", "tdm-reservation": 1}]'


@pytest.mark.parametrize(
    ("file", "route", "reason"),
    [
        ("/.well-known/tdmrep.json", (200, {}, TDMREP), "tdmrep_reserved"),
        ("/.well-known/tdmrep.json", (200, {}, b'[{"location": "/*.png$", "tdm-reservation": 1}]'), "ok"),
        ("/.well-known/tdmrep.json", (302, {"Location": "/other.json"}, b""), "tdmrep_reserved"),
        ("/.well-known/tdmrep.json", (302, {"Location": "http://10.0.0.1/tdmrep.json"}, b""), "ok"),
        ("/.well-known/tdmrep.json", (500, {}, TDMREP), "ok"),
        ("/.well-known/tdmrep.json", (200, {}, b"[" * 3_000_000), "ok"),
        ("/ai.txt", (200, {}, b"User-Agent: *\nDisallow: *.jpg\nAllow: /\n"), "ai_txt_disallowed"),
        ("/ai.txt", (200, {}, b"User-Agent: *\nDisallow: *.png\nAllow: *.jpg\n"), "ok"),
        ("/ai.txt", (200, {}, b"<html><p>Disallow: /</html>"), "ok"),
        ("/ai.txt", (404, {}, b"User-Agent: *\nDisallow: /"), "ok"),
        ("/ai.txt", lambda handler: handler.raw(b"?\r\n\r\n"), "ok"),
        ("/robots.txt", (200, {}, b"User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /\n"), "content_usage"),
    ],
)
def test_files_in_which_sites_reserve(site, tmp_path, file, route, reason):
    site.routes |= {file: route, "/x.jpg": (200, {}, PICTURE), "/y.jpg": (200, {}, PICTURE), "/other.json": (200, {}, TDMREP)}
    row = get(site.url("/x.jpg"), tmp_path)
    assert row.reason == reason and row.robots == ("disallowed" if reason != "ok" else "none")
    assert ("/x.jpg" in site.paths()) == (reason == "ok"), "what is reserved is not asked for"
    assert get(site.url("/y.jpg"), tmp_path).reason == reason
    asked = [path for _, path, _ in site.asked].count(file)
    assert asked == (2 if reason == "ok" and (callable(route) or route[0] in (302, 500)) else 1), "an answer is kept for a day"
