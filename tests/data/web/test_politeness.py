"""What the owner of a site writes is what is kept: the rules of robots.txt, and the headers that object."""

from __future__ import annotations

import gzip
import time
from collections import Counter

import numpy as np
import pytest
from sites import PICTURE, get, names, options

from rsvlm.data.web import fetch, politeness

pytestmark = pytest.mark.usefixtures("connected")

ROBOTS = [
    ("", "/a", True),
    ("User-agent: *\nDisallow: /", "/a", False),
    ("User-agent: *\nDisallow:", "/a", True),
    ("User-agent: *\nDisallow: /", "/robots.txt", True),
    ("Disallow: /\nUser-agent: other\nDisallow: /", "/a", True),
    ("user-AGENT : RSVLM # us\ndisALLOW:/a#b\n", "/a", False),
    ("User-agent: rsvlm/1.0 (x)\nDisallow: /a", "/ab", False),
    ("User-agent: rsvlmbot\nDisallow: /", "/a", True),
    ("User-agent: rsv\nDisallow: /", "/a", True),
    ("\xef\xbb\xbfUser-agent: *\r\nDisallow: /a\r\n", "/a", False),
    ("User-agent: *\rDisallow: /a\r", "/a", False),
    # a group of our own replaces that of everybody, even an empty one
    ("User-agent: *\nDisallow: /\nUser-agent: rsvlm\nDisallow: /b", "/a", True),
    ("User-agent: rsvlm\nDisallow: /b\nUser-agent: *\nDisallow: /", "/b", False),
    ("User-agent: *\nDisallow: /\n\nUser-agent: rsvlm\n", "/a", True),
    # groups of one crawler are joined; one group may name many
    ("User-agent: rsvlm\nDisallow: /a\nUser-agent: x\nDisallow: /c\nUser-agent: rsvlm\nDisallow: /b", "/b", False),
    ("User-agent: rsvlm\nDisallow: /a\nUser-agent: x\nDisallow: /c\nUser-agent: rsvlm\nDisallow: /b", "/a", False),
    ("User-agent: rsvlm\nDisallow: /a\nUser-agent: x\nDisallow: /c\nUser-agent: rsvlm\nDisallow: /b", "/c", True),
    ("User-agent: x\n\nSitemap: /s\nUser-agent: rsvlm\nCrawl-delay: 1\nUser-agent: y\nDisallow: /a", "/a", False),
    # the longest rule, and allow among equals, in any order
    ("User-agent: *\nAllow: /p\nDisallow: /", "/page", True),
    ("User-agent: *\nDisallow: /\nAllow: /p", "/page", True),
    ("User-agent: *\nAllow: /folder\nDisallow: /folder", "/folder/x", True),
    ("User-agent: *\nDisallow: /folder\nAllow: /folder", "/folder/x", True),
    ("User-agent: *\nAllow: /page\nDisallow: /*.htm", "/page.htm", False),
    ("User-agent: *\nAllow: /$\nDisallow: /", "/", True),
    ("User-agent: *\nAllow: /$\nDisallow: /", "/page.htm", False),
    ("User-agent: *\nAllow: /example/page/\nDisallow: /example/page/x.gif", "/example/page/x.gif", False),
    ("User-agent: *\nAllow: /index.html\nDisallow: /", "/", False),
    ("User-agent: *\nAllow: /index.html\nDisallow: /", "/index.html?a", True),
    # * and $
    ("User-agent: *\nDisallow: *.gif$", "/images/x.gif", False),
    ("User-agent: *\nDisallow: *.gif$", "/images/x.gif?y", True),
    ("User-agent: *\nDisallow: /*.php", "/folder/any.php.file.html", False),
    ("User-agent: *\nDisallow: /*.php", "/windows.PHP", True),
    ("User-agent: *\nDisallow: /fish*.php", "/fishheads/catfish.php?id=1", False),
    ("User-agent: *\nDisallow: /fish*.php", "/Fish.php", True),
    ("User-agent: *\nDisallow: /a*b*a$", "/aba", False),
    ("User-agent: *\nDisallow: /a*b*a$", "/ab", True),
    ("User-agent: *\nDisallow: /ab*ba$", "/aba", True),
    ("User-agent: *\nDisallow: /a$b", "/a$b", False),
    ("User-agent: *\nDisallow: /a%24", "/a$b", False),
    ("User-agent: *\nDisallow: /a$", "/a%24", True),
    ("User-agent: *\nDisallow: /x%2A.html", "/x*.html", False),
    ("User-agent: *\nDisallow: /x%2A.html", "/xyz.html", True),
    # one spelling for what is percent-encoded
    ("User-agent: *\nDisallow: /%62%61%7A", "/baz", False),
    ("User-agent: *\nDisallow: /baz", "/%62%61%7a", False),
    ("User-agent: *\nDisallow: /\u30c4", "/%E3%83%84", False),
    ("User-agent: *\nDisallow: /%e3%83%84", "/%E3%83%84", False),
    ("User-agent: *\nDisallow: /a%2Fb", "/a/b", True),
    ("User-agent: *\nDisallow: /a%2fb", "/a%2Fb", False),
    ("User-agent: *\nDisallow: /a?b=https://x.y", "/a?b=https%3A%2F%2Fx.y", False),
    ("User-agent: *\nDisallow: /a?b=https%3A%2F%2Fx.y", "/a?b=https://x.y", False),
    ("User-agent: *\nDisallow: /100%", "/100%25", False),
    ("User-agent: *\nDisallow: /100%", "/100%20off", True),
    ("User-agent: *\nDisallow: /a%20b", "/a%20b/c", False),
    # not the standard, but plainly meant
    ("User-agent: *\nDisallow: images/", "/images/x", False),
]


@pytest.mark.parametrize(("text", "target", "allowed"), ROBOTS)
def test_rules_of_robots_txt(text, target, allowed):
    data = text.encode("latin-1") if "\xef" in text else text.encode()
    assert politeness.read_robots(data).allows(target) == allowed


def test_the_delay_is_that_of_our_group():
    delays = {
        "User-agent: *\nDisallow: /a\nCrawl-delay: 5\nUser-agent: rsvlm\nDisallow: /b": 0.0,
        "User-agent: *\nDisallow: /a\nUser-agent: rsvlm\nCrawl-delay: 2.5": 2.5,
        "User-agent: rsvlm\nCrawl-delay: 3\nUser-agent: other\nDisallow: /b": 3.0,
        "User-agent: *\nCrawl-delay: nan\nCrawl-delay: -1\nCrawl-delay: soon": 0.0,
        "Crawl-delay: 7": 0.0,
    }
    assert {text: politeness.read_robots(text.encode()).crawl_delay_s for text in delays} == delays


@pytest.mark.parametrize(
    ("text", "directives"),
    [
        ("NoAI, noindex ,", {"noai", "noindex", ""}),
        ("otherbot: noai, noindex", set()),
        ("otherbot: noai, RSVLM : noindex, none", {"noindex", "none"}),
        ("*: noai", {"noai"}),
        ("unavailable_after: 25 Jun 2010 15:00:00 PST, noai", {"noai"}),
        ("otherbot: nosnippet, max-image-preview: none, noai", set()),
        ("rsvlm: unavailable_after: 25 Jun 2010 15:00:00 PST, noai", {"unavailable_after: 25 jun 2010 15:00:00 pst", "noai"}),
        ("x," * 1000 + "noai", {"x", "noai"}),
    ],
)
def test_directives_of_everybody_and_of_ours(text, directives):
    assert politeness.directives_of(text) == directives


def test_objections_are_the_same_in_headers_of_any_spelling():
    headers = [("x-ROBOTS-tag", "all, noai"), ("X-Robots-Tag", "otherbot: none"), ("TDM-Reservation", " 1 "), ("A", "noindex")]
    assert politeness.objections(headers) == {"noai", "tdm-reservation"}
    assert politeness.objections([("tdm-reservation", "0"), ("X-Robots-Tag", "nofollow")]) == set()


def test_hostile_robots_txt_costs_little():
    started = time.monotonic()
    many = b"User-agent: rsvlm\n" + b"user-agent:a\nuser-agent:rsvlm\n" * 9000 + b"disallow:/b\n" * 20000
    assert not politeness.read_robots(many).allows("/b")
    stars = politeness.read_robots(b"User-agent: *\nDisallow: /" + b"*a" * 200_000 + b"$")
    assert stars.allows("/" + "a" * 8000 + "b")
    assert politeness.read_robots(b"User-agent: *\nCrawl-delay: nan\nCrawl-delay: 1e9\nDisallow: \xff\xfe\0").allows("/a")
    long = b"User-agent: *\n" + b"#" * (politeness.ROBOTS_BYTES - 30) + b"\nDisallow: /only/this/folder\nDisallow: /x"
    rules = politeness.read_robots(long)
    assert all(map(rules.allows, ("/only/this/folder", "/only/th", "/x"))), "half a rule is not read"
    assert time.monotonic() - started < 6


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
    assert len(times) == 7 and times[-1] - times[0] > 0.55 and np.diff(times).min() > 0.02


def test_a_crawl_delay_is_kept_up_to_a_limit(site, tmp_path, monkeypatch):
    monkeypatch.setattr(politeness, "MAX_CRAWL_DELAY_S", 0.2)
    site.routes["/robots.txt"] = (200, {}, b"User-agent: *\nCrawl-delay: 86400\n")
    site.routes |= {f"/{number}": (200, {}, PICTURE) for number in range(4)}
    fetch.download([site.url(f"/{number}") for number in range(4)], tmp_path, options(per_host=4))
    times = [at for at, path, _ in site.asked if path != "/robots.txt"]
    assert len(times) == 4 and 0.55 < times[-1] - times[0] < 10


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
