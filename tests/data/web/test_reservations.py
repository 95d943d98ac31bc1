"""What the owner of a site writes is what is kept, also where it is misspelled: files, headers, and marks in a page."""

from __future__ import annotations

import gzip
import time

import pytest

from rsvlm.data.web import reservations

pytest.importorskip("protego", reason="protego is not installed")

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
    assert reservations.read_robots(data).allows(target) == allowed


def test_the_delay_is_that_of_our_group():
    delays = {
        "User-agent: *\nDisallow: /a\nCrawl-delay: 5\nUser-agent: rsvlm\nDisallow: /b": 0.0,
        "User-agent: *\nDisallow: /a\nUser-agent: rsvlm\nCrawl-delay: 2.5": 2.5,
        "User-agent: rsvlm\nCrawl-delay: 3\nUser-agent: other\nDisallow: /b": 3.0,
        "User-agent: *\nCrawl-delay: nan\nCrawl-delay: -1\nCrawl-delay: soon": 0.0,
        "Crawl-delay: 7": 0.0,
    }
    assert {text: reservations.read_robots(text.encode()).crawl_delay_s for text in delays} == delays


@pytest.mark.parametrize(
    ("text", "delay_s"),
    [
        ("Crawl-delay: 10 seconds", 10.0),
        ("Crawl delay: 2,5", 2.5),
        ("Crawl-delay 7", 7.0),
        ("Crawl-delay: 1\nRequest-rate: 1/10", 10.0),
        ("Request-rate: 2/1m", 30.0),
        ("Request-rate: 0/5", 0.0),
    ],
)
def test_a_delay_in_other_words(text, delay_s):
    assert reservations.read_robots(f"User-agent: *\n{text}".encode()).crawl_delay_s == delay_s


RULE = "User-agent: *\nDisallow: /private/\n"
ODD = {
    "no colon": b"User-agent *\nDisallow /private/\n",
    "an equals sign": b"User-agent = *\nDisallow = /private/\n",
    "a letter too many": b"User-agent: *\nDissallow: /private/\n",
    "a letter too few": b"User-agent: *\nDisalow: /private/\n",
    "letters in another order": b"User-agnet: *\nDiasllow: /private/\n",
    "a blank": b"User Agent: *\nDisallow: /private/\n",
    "one word": b"Useragent: *\nDisallow: /private/\n",
    "a no-break space": "User-agent: *\nDisallow:\u00a0/private/a.jpg\u00a0\n".encode(),
    "a no-break space of Latin-1": b"User-agent: *\nDisallow: /private/a.jpg\xa0\n",
    "a mark within": "User-agent: *\n\ufeffDisallow: /private/\n".encode(),
    "a whole address": b"User-agent: *\nDisallow: https://h.example/private/\n",
    "a whole host": b"User-agent: *\nDisallow: https://h.example\n",
    "another word": b"User-agent: *\nNoindex: /private/\n",
    "many names": b"User-agent: GPTBot, rsvlm, other\nDisallow: /private/\n",
    "UTF-16": RULE.encode("utf-16"),
    "UTF-16 without a mark": RULE.encode("utf-16-le"),
    "UTF-16, the other way": RULE.encode("utf-16-be"),
    "packed": gzip.compress(RULE.encode()),
    "packed, and cut": gzip.compress(RULE.encode() * 50)[:-12],
}


@pytest.mark.parametrize("name", ODD)
def test_a_rule_is_obeyed_however_it_is_written(name):
    robots = reservations.read_robots(ODD[name])
    assert robots.refusal("/private/a.jpg") == "robots_disallowed"
    assert robots.allows("/public/a.jpg") == (name != "a whole host")


def test_what_is_no_rule_forbids_nothing():
    for text in (
        "Disallow crawling, we said",
        "Sitemap: /a",
        "Alow: /",
        "Display: /a",
        "# Disallow: /",
    ):
        assert reservations.read_robots(f"User-agent: other\nDisallow: /\nUser-agent: *\nAllow: /b\n{text}".encode()).allows(
            "/a"
        )


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /", True),
        ("User-agent: *\nContent-Signal: search=no,ai-train=yes", False),
        ("User-agent: *\nContent-signal: AI-Train = No", True),
        ("User-agent: *\nContent-Usage: train-ai=n\nAllow: /", True),
        ("User-agent: *\nContent Usage: tdm=n", True),
        ("User-agent: *\nContent-Usage: search=n", False),
        ("Content-Signal: ai-train=no", True),
        ("User-agent: other\nContent-Signal: ai-train=no\n\nUser-agent: *\nAllow: /", False),
        ("User-agent: *\nContent-Signal: ai-train=no\nUser-agent: rsvlm\nDisallow:", False),
        ("User-agent: *\nUser-agent: other\nContent-Signal: ai-train=no", True),
        ("User-agent: *\nContent-Usage: /open train-ai=n\nContent-Usage: train-ai=y", False),
        ("User-agent: *\nContent-Usage: /a train-ai=y\nContent-Usage: train-ai=n", False),
        ("User-agent: *\nContent-Usage: /a/ train-ai=y\nContent-Usage: train-ai=n", True),
        ("User-agent: *\nContent-Usage: train-ai=y\nContent-Signal: ai-train=no", True),
        ("# Content-Signal: ai-train=no", False),
    ],
)
def test_preferences_about_training_in_robots_txt(text, refused):
    assert reservations.read_robots(text.encode()).refusal("/a.jpg") == ("content_usage" if refused else "")


@pytest.mark.parametrize(
    ("text", "reserved"),
    [
        ('[{"location": "/", "tdm-reservation": 1, "tdm-policy": "https://h.example/p"}]', True),
        ('[{"location": "/", "tdm-reservation": 0}]', False),
        ('[{"location": "*.jpg", "tdm-reservation": "1"}]', True),
        ('[{"location": "/b", "tdm-reservation": 1}]', False),
        ('[{"location": "/*.jpg$", "tdm-reservation": 1}, {"location": "/", "tdm-reservation": 0}]', True),
        ('[{"location": "/a*", "tdm-reservation": 0}, {"location": "/", "tdm-reservation": 1}]', False),
        ('[{"location": "/", "tdm-reservation": 0}, {"location": "/", "tdm-reservation": 1}]', True),
        ('{"location": "https://h.example/a.jpg", "TDM_Reservation": true}', True),
        ('[{"tdm-reservation": 1}]', True),
        ('[{"location": ["/x", "/a"], "tdm-reservation": 1}]', True),
        ('[{"location": "/", "tdm-reservation": 1},]', True),
        ("<!doctype html><title>404</title>", False),
        ("[1, null, {}]", False),
        ("[" * 100_000, False),
        ("", False),
    ],
)
def test_reservations_of_a_tdmrep_file(text, reserved):
    assert reservations.read_tdmrep(text.encode()).allows("/a.jpg") != reserved


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("User-Agent: *\nDisallow: *.jpg\nAllow: *.txt", False),
        ("User-Agent: *\nDisallow: *.png", True),
        ("Disallow: /", False),
        ("Training: deny", False),
        ("Training: allow", True),
        ("<html>Disallow: /</html>", True),
        ("", True),
    ],
)
def test_rules_of_ai_txt(text, allowed):
    assert reservations.read_ai_txt(text.encode()).allows("/a.jpg") == allowed


@pytest.mark.parametrize(
    ("text", "directives"),
    [
        ("NoAI, noindex ,", {"noai", "noindex"}),
        ("otherbot: noai, noindex", set()),
        ("otherbot: noai, RSVLM : noindex, none", {"noindex", "none"}),
        ("otherbot/2.1: noai, rsvlm/1.0: noml", {"noml"}),
        ("*: noai", {"noai"}),
        ("unavailable_after: 25 Jun 2010 15:00:00 PST, noai", {"unavailable_after", "noai"}),
        ("unavailable_after: Sat, 25 Jun 2933 15:00:00 GMT, noai", {"noai"}),
        ("unavailable_after: Saturday, 25-Jun-33 15:00:00 PST, noindex", {"noindex"}),
        ("unavailable_after: 25 Jun 2933 15:00:00 PST noml", {"noml"}),
        ("unavailable_after: 2933-06-25T15:00:00+00:00", set()),
        ("unavailable_after: 2010-06-25T15:00:00Z; nofollow", {"unavailable_after", "nofollow"}),
        ("unavailable_after: 31/12/2933", set()),
        ("unavailable_after: 31/12/2010", {"unavailable_after"}),
        ("unavailable_after: 45 Foo 7", {"unavailable_after", "foo", "7"}),
        ("unavailable_after: never", {"never"}),
        ("otherbot: nosnippet, max-image-preview: none, noai", set()),
        ("max-image-preview:none, max-snippet:-1", set()),
        ("otherbot: unavailable_after: 25 Jun 2010 15:00:00 PST, noai", set()),
        ("rsvlm: unavailable_after: 25 Jun 2010 15:00:00 PST, noai", {"unavailable_after", "noai"}),
        ("noindex nofollow", {"noindex", "nofollow"}),
        ("noindex;nofollow", {"noindex", "nofollow"}),
        ("noai/noimageai | noml", {"noai", "noimageai", "noml"}),
        ("no-index, no ai", {"noindex", "noai"}),
        ("noai: yes", {"noai", "yes"}),
        ("x," * 1000 + "noai", {"x", "noai"}),
    ],
)
def test_directives_of_everybody_and_of_ours(text, directives):
    assert reservations.directives_of(text) == directives


def test_objections_are_the_same_in_headers_of_any_spelling():
    headers = [("x-ROBOTS-tag", "all, noai"), ("X-Robots-Tag", "otherbot: none"), ("TDM-Reservation", " 1 "), ("A", "noindex")]
    assert reservations.objections(headers) == {"noai", "tdm-reservation"}
    assert reservations.objections([("tdm-reservation", "0"), ("X-Robots-Tag", "nofollow")]) == set()
    assert reservations.objections(
        [("Content-Usage", "train-ai=n"), ("TDM-Reservation", '"1"')]
    ) == reservations.OBJECTIONS & {
        "content-usage",
        "tdm-reservation",
    }
    assert reservations.refusal_of(headers) == "tdm_reserved" and reservations.refusal_of(headers[:1]) == "x_robots"
    assert reservations.refusal_of([("content-usage", "train-ai=n")]) == "content_usage" and not reservations.refusal_of([])


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"name": "robots", "content": "noai"}, {"noai"}),
        ({"name": " Robots ", "content": "noindex nofollow"}, {"noindex"}),
        ({"name": "googlebot,robots", "content": "noml"}, {"noml"}),
        ({"name": "googlebot", "content": "noai"}, set()),
        ({"property": "robots", "content": "noai"}, {"noai"}),
        ({"http-equiv": "X-Robots-Tag", "content": "noai"}, {"noai"}),
        ({"name": "tdm-reservation", "content": "1 "}, {"tdm-reservation"}),
        ({"name": "tdm-reservation", "content": "0"}, set()),
        ({"name": "Content-Usage", "content": "train-ai=n"}, {"content-usage"}),
        ({"name": "description", "content": "noai"}, set()),
        ({"charset": "utf-8"}, set()),
    ],
)
def test_objections_of_a_page(attributes, expected):
    assert reservations.page_objections(attributes) == expected


def test_hostile_robots_txt_costs_little():
    started = time.monotonic()
    many = b"User-agent: rsvlm\n" + b"user-agent:a\nuser-agent:rsvlm\n" * 9000 + b"disallow:/b\n" * 20000
    assert not reservations.read_robots(many).allows("/b")
    stars = reservations.read_robots(b"User-agent: *\nDisallow: /" + b"*a" * 200_000 + b"$")
    assert stars.allows("/" + "a" * 8000 + "b")
    assert reservations.read_robots(b"User-agent: *\nCrawl-delay: nan\nCrawl-delay: 1e9\nDisallow: \xff\xfe\0").allows("/a")
    long = b"User-agent: *\n" + b"#" * (reservations.ROBOTS_BYTES - 30) + b"\nDisallow: /only/this/folder\nDisallow: /x"
    rules = reservations.read_robots(long)
    assert all(map(rules.allows, ("/only/this/folder", "/only/th", "/x"))), "half a rule is not read"
    assert time.monotonic() - started < 6


def test_hostile_texts_cost_little():
    started = time.monotonic()
    for text in (" " * 300_000 + "x", "unavailable_after: " + "1" * 300_000 + "x", "unavailable_after: " + "1 " * 100_000):
        reservations.directives_of(text)
    for text in ("max-" * 50_000, "a-" * 100_000, "unavailable_after " * 10_000, "no " * 100_000, "a:" * 100_000):
        reservations.directives_of(text)
    for line in (b"d\xc2issallowx:/a\n", b"A ", b"A-", b"train-ai", b"disallow " + b" " * 99):
        reservations.read_robots(line * (reservations.ROBOTS_BYTES // len(line)))
    reservations.read_robots(b"".join(b"disal%04d: /\n" % number for number in range(9999)))
    reservations.read_tdmrep(b"tdm-reservation" + b" " * 400_000)
    reservations.read_ai_txt(b"\n" * 400_000)
    assert time.monotonic() - started < 6
