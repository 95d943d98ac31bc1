"""A removal list names an address in every spelling, and a host as a whole."""

from __future__ import annotations

import time

import pytest

from rsvlm.data.web import removals
from rsvlm.errors import DataError

ADDRESS = "http://b\xfccher.example/a/port%3E.jpg?x=1"
SPELLINGS = (
    "HTTP://B\xdcCHER.example:80/a/port%3E.jpg?x=1",
    "http://b\xfccher.example./a/port%3e.jpg?x=1#top",
    "http://xn--bcher-kva.example/a/p%6Frt%3E.jpg?x=1",
    "http://xn--bcher-kva.example/b/../a/./port>.jpg?x=1",
    "https://xn--bcher-kva.example:443/a/port%3E.jpg?%78=1",
    "//xn--bcher-kva.example/a/port%3E.jpg?x=1",
    "xn--bcher-kva.example/a/port%3E.jpg?x=1",
    "<http://xn--bcher-kva.example/a/port%3E.jpg?x=1>",
    "http:\\\\xn--bcher-kva.example\\a\\port%3E.jpg?x=1",
    "xn--bcher-kva.example",
    "b\xfccher.example",
    "//b%C3%BCcher.example/a/port%3E.jpg?x=1",
    "https://xn--bcher-kva.example/",
    "XN--BCHER-KVA.EXAMPLE.",
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_names_the_address(spelling):
    wanted = removals.read([spelling])
    assert wanted.name(ADDRESS) and wanted.unmatched == []
    assert not removals.read([spelling]).name("http://other.example/a/port%3E.jpg?x=1", "", None)


@pytest.mark.parametrize("spelling", [text for text in SPELLINGS if text.lower().startswith("http") and "/a" in text])
def test_an_address_is_named_in_every_spelling_of_its_own(spelling):
    assert removals.read([ADDRESS]).name(spelling)


@pytest.mark.parametrize(
    ("line", "address", "named"),
    [
        ("example.org", "https://www.example.org/x", True),
        ("example.org", "https://img.cdn.example.org:8080/x", True),
        ("example.org", "https://myexample.org/x", False),
        ("example.org", "https://example.org.evil.example/x", False),
        ("example.org:8080", "http://example.org:8080/x", True),
        ("example.org:8080", "http://example.org/x", False),
        ("example.org:443", "https://example.org/x", True),
        ("//example.org:443/x", "https://example.org/x", True),
        ("example.org/x", "http://example.org:443/x", True),
        (r"\\example.org\x", "https://example.org/x", True),
        ("example.org/x?u=http://other.example/", "https://example.org/x?u=http://other.example/", True),
        ("http://example.org", "http://EXAMPLE.org./x", True),
        ("http://example.org/a", "http://example.org/ab", False),
        ("http://example.org/a", "http://www.example.org/a", False),
        ("http://example.org/a?b", "http://example.org/a", False),
        ("http://example.org/a%2Fb", "http://example.org/a/b", False),
        ("127.0.20.1", "http://127.0.20.1:18090/port.jpg", True),
        ("http://127.0.20.1:18090/", "http://127.0.20.1:18090/port.jpg", True),
        ("0.20.1", "http://127.0.20.1/x", False),
        ("[2001:DB8::1]", "http://[2001:db8:0::1]/x", True),
        ("localhost", "http://localhost:90/x", True),
        ("http://me@example.org/a", "http://example.org/a", True),
    ],
)
def test_hosts_and_addresses(line, address, named):
    try:
        wanted = removals.read([line])
    except DataError:
        assert line == "0.20.1"
        return
    assert wanted.name(address) == named
    assert wanted.unmatched == ([] if named else [line])


def test_lines_that_name_nothing_are_an_error():
    lines = [
        "# a remark",
        "",
        "not an address",
        "a.jpg.",
        "ftp://example.org/x",
        "mailto:me@example.org",
        "/x.jpg",
        "http://",
        "cat",
    ]
    with pytest.raises(
        DataError, match="lines of the removal list are neither an address nor a host: 'not an address'"
    ) as error:
        removals.read([*lines, "https://example.org/x.jpg # as of May"])
    assert "https://example.org/x.jpg #" not in str(error.value) and "'cat'" in str(error.value)
    assert removals.read(["https://example.org/x.jpg # as of May"]).name("https://example.org/x.jpg")
    assert not removals.read(["# a remark", " "])


def test_a_list_is_the_same_in_every_spelling():
    assert (
        removals.read(["HTTPS://a.example:443/%7Ex", "B.example"]).entries
        == removals.read(["b.example", "a.example/~x"]).entries
    )
    wanted = removals.read(["a.example/x", "b.example"])
    assert wanted.name_itself("http://a.example/x") and not wanted.name_itself("http://b.example/x")
    assert wanted.unmatched == ["a.example/x", "b.example"], "to look is not to find"
    wanted.name("http://c.example/x", "http://a.example/x")
    assert wanted.unmatched == ["b.example"]


def test_a_long_crawl_is_looked_through_quickly():
    wanted = removals.read([f"h{n}.example/x.jpg" for n in range(5000)] + [f"g{n}.example" for n in range(5000)])
    started = time.monotonic()
    assert sum(wanted.name(f"https://img.s{n}.example/pictures/{n}.jpg?width=100") for n in range(100_000)) == 0
    assert time.monotonic() - started < 6


def test_a_users_name_ahead_of_a_host_is_none_of_the_address():
    lines = ["//me@maps.example/a?u=http://h.example/", "me@maps.example/b"]
    assert list(removals.read(lines).addresses) == ["maps.example/a?u=http://h.example/", "maps.example/b"]
    with pytest.raises(DataError, match="neither an address nor a host"):
        removals.read(["jane@mail.example"])
