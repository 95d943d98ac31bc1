"""What the owner of a site writes is what is kept: the rules of robots.txt, and the headers that object."""

from __future__ import annotations

import time

import pytest

from rsvlm import robots

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
    ("User-agent: *\nDisallow: /a%20b", "/a%20b/c", False),
    # not the standard, but plainly meant
    ("User-agent: *\nDisallow: images/", "/images/x", False),
]


@pytest.mark.parametrize(("text", "target", "allowed"), ROBOTS)
def test_rules_of_robots_txt(text, target, allowed):
    data = text.encode("latin-1") if "\xef" in text else text.encode()
    assert robots.read_robots(data).allows(target) == allowed


def test_the_delay_is_that_of_our_group():
    delays = {
        "User-agent: *\nDisallow: /a\nCrawl-delay: 5\nUser-agent: rsvlm\nDisallow: /b": 0.0,
        "User-agent: *\nDisallow: /a\nUser-agent: rsvlm\nCrawl-delay: 2.5": 2.5,
        "User-agent: rsvlm\nCrawl-delay: 3\nUser-agent: other\nDisallow: /b": 3.0,
        "User-agent: *\nCrawl-delay: nan\nCrawl-delay: -1\nCrawl-delay: soon": 0.0,
        "Crawl-delay: 7": 0.0,
    }
    assert {text: robots.read_robots(text.encode()).crawl_delay_s for text in delays} == delays


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
    assert robots.directives_of(text) == directives


def test_objections_are_the_same_in_headers_of_any_spelling():
    headers = [("x-ROBOTS-tag", "all, noai"), ("X-Robots-Tag", "otherbot: none"), ("TDM-Reservation", " 1 "), ("A", "noindex")]
    assert robots.objections(headers) == {"noai", "tdm-reservation"}
    assert robots.objections([("tdm-reservation", "0"), ("X-Robots-Tag", "nofollow")]) == set()


def test_hostile_robots_txt_costs_little():
    started = time.monotonic()
    many = b"User-agent: rsvlm\n" + b"user-agent:a\nuser-agent:rsvlm\n" * 9000 + b"disallow:/b\n" * 20000
    assert not robots.read_robots(many).allows("/b")
    stars = robots.read_robots(b"User-agent: *\nDisallow: /" + b"*a" * 200_000 + b"$")
    assert stars.allows("/" + "a" * 8000 + "b")
    assert robots.read_robots(b"User-agent: *\nCrawl-delay: nan\nCrawl-delay: 1e9\nDisallow: \xff\xfe\0").allows("/a")
    long = b"User-agent: *\n" + b"#" * (robots.ROBOTS_BYTES - 30) + b"\nDisallow: /only/this/folder\nDisallow: /x"
    rules = robots.read_robots(long)
    assert all(map(rules.allows, ("/only/this/folder", "/only/th", "/x"))), "half a rule is not read"
    assert time.monotonic() - started < 6
