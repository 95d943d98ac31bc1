"""Only public addresses are reached, however they are written or looked up."""

from __future__ import annotations

import asyncio
import email.utils
import socket
import threading
import time
from collections import Counter

import numpy as np
import pytest
from sites import PICTURE, get, httpcore2, names

from rsvlm import config
from rsvlm.data import addresses
from rsvlm.data.web import fetch

pytestmark = pytest.mark.usefixtures("connected")

GOOD = ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"]


PUBLIC = [*GOOD, "172.32.0.1"]
NOT_PUBLIC = (
    "127.0.0.1 127.255.0.1 0.0.0.0 10.255.255.255 100.64.0.1 100.100.100.200 169.254.169.254 168.63.129.16 172.31.0.1 192.0.0.192 "
    "192.168.0.1 198.19.0.1 224.0.0.1 255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::ffff:93.184.216.34 ::127.0.0.1 64:ff9b::7f00:1 "
    "64:ff9b:1::a00:1 2002:7f00:1:: 2001:0:7f00:1:: 2001:db8::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 2606:2800::1%1 fec0::1 "
    "ff02::1 127.1 localhost"
)


@pytest.mark.parametrize("address", [*PUBLIC, *NOT_PUBLIC.split(), ""])
def test_only_public_addresses(address):
    assert addresses.address_is_allowed(address) == (address in PUBLIC)
    switched = addresses.address_is_allowed(address, allow_loopback=True)
    assert switched == (address in (*PUBLIC, "127.0.0.1", "127.255.0.1", "::1")), "the switch opens loopback alone"


@pytest.fixture
def look_ups(monkeypatch):
    """A look-up that knows a few names, and the system's own forms of an address; what it was asked."""
    known = {
        "good.example": ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "93.184.216.34"],
        "half.example": ["93.184.216.34", "10.0.0.1"],
        "here.example": ["127.0.0.1"],
        "linked.example": ["fe80::1%2"],
        "127.1": ["127.0.0.1"],
        "2130706433": ["127.0.0.1"],
    }
    asked = []

    def getaddrinfo(host, port, *rest, **named):
        asked.append(host)
        host.encode("idna")
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


class Network:
    """In place of the network: which addresses were called, which do not answer, and who answers for another."""

    def __init__(self):
        self.called, self.closed, self.dead, self.answers = [], [], (), {}

    def connect(self, address: str, port: int):
        self.called.append(address)
        if address in self.dead:
            raise httpcore2.ConnectError("dead")
        return Stream(self, self.answers.get(address, address), port)


class Stream:
    def __init__(self, network: Network, address: str, port: int):
        self.network, self.peer = network, (address, port)

    def get_extra_info(self, info):
        return {"server_addr": self.peer}[info]

    def close(self):
        self.network.closed.append(self.peer[0])

    async def aclose(self):
        self.close()


@pytest.fixture(params=["async", "sync"])
def reach(request, monkeypatch, look_ups):
    """A function that connects to a host or a URL by one of the two backends; `reach.network` says what was called."""
    network = Network()

    async def connect(self, address, port, *_):
        return network.connect(address, port)

    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", connect)
    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", lambda self, address, port, *_: network.connect(address, port))

    def reach(where, allow_loopback=False, any_port=True):
        host, port = where, 80
        if "://" in where or not where:
            url = addresses.checked(where, allow_loopback, any_port=any_port)
            host, port = url.host, url.port or {"http": 80, "https": 443}[url.scheme]
        if request.param == "sync":
            addresses.SyncBackend(allow_loopback, any_port).connect_tcp(host, port, 5.0)
        else:
            asyncio.run(addresses.AsyncBackend(allow_loopback, any_port=any_port).connect_tcp(host, port, 5.0))
        return network.called

    reach.network = network
    return reach


def test_what_was_checked_is_called_and_nothing_else(reach, look_ups):
    assert reach("good.example") == GOOD[:1]
    assert reach("https://good.example:8443/x?y#z") == GOOD[:1] * 2
    assert look_ups == ["good.example"] * 2, "one look-up for each connection"
    assert reach("https://[2606:2800::1]/")[-1] == "2606:2800::1"
    assert reach("93.184.216.34")[-1] == "93.184.216.34"
    assert len(look_ups) == 2, "an address is not looked up"


def test_of_several_addresses_the_next_is_called(reach):
    reach.network.dead = GOOD[:1]
    assert reach("good.example") == GOOD
    reach.network.dead = GOOD
    with pytest.raises(httpcore2.ConnectError):
        reach("good.example")
    assert reach.network.called == GOOD * 2, "each address once"


def test_the_address_that_answers_is_checked_too(reach):
    reach.network.answers = {GOOD[0]: "10.0.0.1"}
    with pytest.raises(addresses.Stop, match="address_refused"):
        reach("good.example")
    assert reach.network.closed == ["10.0.0.1"]


@pytest.mark.parametrize("form", ["{}", "http://{}/x", "https://{}:8443"])
@pytest.mark.parametrize("host", ["here.example", "127.1", "2130706433", "127.0.0.1"])
def test_loopback_is_refused_unless_it_is_switched_on(reach, host, form):
    odd = "://" in form and host in ("127.1", "2130706433")
    with pytest.raises(addresses.Stop, match="bad_url" if odd else "address_refused"):
        reach(form.format(host))
    assert reach.network.called == []
    if odd:
        with pytest.raises(addresses.Stop, match="bad_url"):
            reach(form.format(host), allow_loopback=True)
    else:
        assert reach(form.format(host), allow_loopback=True) == ["127.0.0.1"]


INSIDE = "half.example linked.example 169.254.169.254 ::ffff:10.0.0.1 http://[fe80::1%25eth0]/ https://half.example/ http://[::ffff:7f00:1]/"
INSIDE = dict.fromkeys(INSIDE.split(), "address_refused")
INSIDE |= {"http://good.example@10.0.0.1/": "credentials_in_url", "http://good.example\\@192.168.1.1/": "bad_url"}


@pytest.mark.parametrize(("where", "reason"), INSIDE.items())
def test_what_lies_inside_is_refused_switched_on_or_not(reach, where, reason):
    for allow_loopback in (False, True):
        with pytest.raises(addresses.Stop, match=reason):
            reach(where, allow_loopback)
    assert reach.network.called == []


@pytest.mark.parametrize(
    "where", ["", "http://", "http:///x", "http://[::1", f"http://{'a' * 64}.example/", "http://a..b/", "file:///x"]
)
def test_what_names_no_host_is_refused(reach, where):
    reason = "scheme_refused" if where.startswith("file") else "bad_url"
    with pytest.raises(addresses.Stop, match=reason):
        reach(where, allow_loopback=True)


def test_odd_ports_are_for_those_who_ask_for_them(reach):
    for allow_loopback in (False, True):
        with pytest.raises(addresses.Stop, match="port_refused"):
            reach("https://good.example:8443/", allow_loopback, any_port=False)
    assert reach.network.called == []
    assert reach("http://here.example:8080/", allow_loopback=True, any_port=False) == ["127.0.0.1"]


def test_names_that_are_unknown_and_look_ups_that_fail_are_told_apart(reach, monkeypatch):
    for where in ("missing.example", "https://missing.example/"):
        with pytest.raises(addresses.Stop, match="no_such_host"):
            reach(where)

    def fails(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(addresses.Stop, match="dns_failed"):
        reach("good.example")
    assert addresses.REASONS["dns_failed"].temporary and not addresses.REASONS["no_such_host"].temporary


def test_a_refusal_tells_no_secret(reach):
    for where in ("https://me:secret@here.example/x?key=secret", "https://here.example/x?key=secret"):
        with pytest.raises(addresses.Stop) as refusal:
            reach(where)
        assert str(refusal.value) in addresses.REASONS


PAST = ["0", "Wed, 21 Oct 2015 07:28:00 GMT", "Wednesday, 21-Oct-15 07:28:00 GMT", "Wed Oct 21 07:28:00 2015"]
NO_WAIT = [None, "", "soon", "-5", "inf", "nan", "1e3", "\u0667", "9" * 5000]
NO_WAIT += ["Wed, 99 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 +9999999999"]
WAITS = (
    {"7": 7.0, " 120 ": 120.0, "1.5": 1.5, "90 seconds": 90.0, "2s": 2.0, "999999999999": 999999999999.0}
    | dict.fromkeys(PAST, 0.0)
    | dict.fromkeys(NO_WAIT)
)


@pytest.mark.parametrize(("value", "seconds"), WAITS.items())
def test_retry_after(value, seconds):
    assert addresses.retry_after_s(value) == seconds


@pytest.mark.parametrize("zone", [" GMT", " +0000", " -0000", ""])
def test_retry_after_as_a_date_is_of_greenwich(zone, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        date = email.utils.formatdate(time.time() + 100).removesuffix(" -0000") + zone
        assert 98 < addresses.retry_after_s(date) <= 100
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("status", "retry_after", "reason", "wait_s"),
    [
        (429, "9", "too_many_requests", 9.0),
        (503, "9", "server_error", 9.0),
        (503, None, "server_error", 0.0),
        (500, "9", "server_error", 0.0),
        (408, None, "server_error", 0.0),
        (425, None, "server_error", 0.0),
        (404, "9", "client_error", 0.0),
        (206, None, "status_unexpected", 0.0),
    ],
)
def test_a_status_has_a_reason_and_a_wait(status, retry_after, reason, wait_s):
    stop = addresses.stop_of(status, {"retry-after": retry_after} if retry_after else {})
    assert (stop.reason, stop.wait_s) == (reason, wait_s)


# On the way of a download


ODD_URLS = {
    "bad_url": [
        *"http://127.1/ http://0x7f.1/ http://2130706433/ http://0177.0.0.1/ http://0x7f000001/ http://exa%6dple.com/".split(),
        *"http://good.example\\@127.0.0.1/ http://x:99999/ http://a..b/ http://☃☃☃.☃/ http:x http:// //x/y.png x.png".split(),
        *["http://local\thost/", "http://exa mple.com/", f"http://{'a' * 64}.com/", "http://x/\r\nHost: y", "http://x/\0"],
        *["http://x/\udc80", "http://x/" + "a" * 1_000_000, "", None, 7],
    ],
    "address_refused": [
        *"http://127.0.0.1/ http://127.0.0.1./ http://127。0。0。1/ http://[::ffff:127.0.0.1]/ http://[::1]/".split(),
        *"http://[fe80::1%25eth0]/ http://localhost/ http://LOCALHOST./ https://inside.example/ http://half.example/".split(),
    ],
    "no_such_host": ["http://nothing.example/"],
    "credentials_in_url": ["http://a@localhost/", "http://good.example@127.0.0.1/"],
    "port_refused": ["http://localhost:8080/", "http://localhost:22/"],
    "scheme_refused": ["file:///etc/hostname", "ftp://x/y.png", "javascript:alert(1)", "data:image/png;base64,AAAA"],
}


def test_odd_addresses_reach_nothing(tmp_path, connected):
    half, nothing = np.array(["93.184.216.34", "10.0.0.1"]), np.array([])
    resolve = names(localhost="127.0.0.1", inside_example="192.168.7.7", half_example=half, nothing_example=nothing)
    reasons = {url: reason for reason, urls in ODD_URLS.items() for url in urls}
    summary = fetch.download(reasons, tmp_path, config.Fetch(host_delay_s=0, retries=0), resolve=resolve)
    assert {url: next(fetch.results(tmp_path, [url])).reason for url in reasons} == reasons and len(reasons) == 43
    assert summary.counts == Counter(reasons.values()) and connected == []


def test_a_second_look_up_cannot_lead_inside(site, tmp_path, connected):
    """The name leads here first, to pass the check, and inside when the connection is made anew."""
    site.routes["/robots.txt"] = (200, {"Connection": "close"}, b"")
    site.routes["/x"] = (200, {}, PICTURE)
    resolve = names(turncoat_example=["127.0.0.1", "10.0.0.1"])
    assert get(site.url("/x", "turncoat.example"), tmp_path, resolve).reason == "address_refused"
    assert set(resolve.asked) == {"turncoat.example"} and len(resolve.asked) > 1
    assert connected == [("127.0.0.1", site.port)] and site.paths() == []


def test_the_connection_goes_to_the_address_that_was_checked(site, tmp_path, connected, monkeypatch):
    """One look-up for each connection, none by the libraries below; the name is kept for the Host header."""
    real = asyncio.BaseEventLoop.getaddrinfo

    async def numbers_only(self, host, *rest, **named):
        assert addresses.address_is_allowed(host, allow_loopback=True), f"looked up {host}"
        return await real(self, host, *rest, **named)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", numbers_only)
    site.routes["/x"] = (200, {}, PICTURE)
    resolve = names(pictures_example="127.0.0.1")
    row = get(site.url("/x", "Pictures.Example."), tmp_path, resolve)
    assert row.reason == "ok" and resolve.asked == ["pictures.example"] and connected == [("127.0.0.1", site.port)]
    assert {headers["Host"] for *_, headers in site.asked} == {f"pictures.example:{site.port}"}


def test_tls_names_the_host_not_the_address(tmp_path):
    hello = []

    def listen():
        connection, _ = server.accept()
        with connection:
            hello.append(connection.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=listen)
        thread.start()
        url = f"https://pictures.example:{server.getsockname()[1]}/x"
        row = get(url, tmp_path, names(pictures_example="127.0.0.1"))
        thread.join()
    assert row.reason in ("connect_failed", "tls_failed") and b"pictures.example" in hello[0]


def test_proxies_of_the_environment_and_cookies_are_not_used(site, tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.routes["/x"] = (302, {"Location": "/y", "Set-Cookie": "a=b; Path=/"}, b"")
    site.routes["/y"] = (200, {"Set-Cookie": "c=d"}, PICTURE)
    assert get(site.url("/x"), tmp_path).reason == "ok"
    sent = {name for *_, headers in site.asked for name in headers}
    assert sent == {"Host", "User-Agent", "Accept", "Accept-Encoding"}


# One spelling


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HTTP://Example.ORG:80", "http://example.org/"),
        ("https://example.org.:443/a/./b/../c?d=%7e#e", "https://example.org/a/c?d=~"),
        ("http://example.org:8080/%7Euser/%e3%83%84/\u30c4", "http://example.org:8080/~user/%E3%83%84/%E3%83%84"),
        ("http://example.org/../../a/..", "http://example.org/"),
        ("http://example.org/a/%2e%2e/b//c/.", "http://example.org/b//c/"),
        ("http://example.org/a%2fb%3f", "http://example.org/a%2Fb%3F"),
        ("http://example.org/a b>100%", "http://example.org/a%20b%3E100%25"),
        ("http://example.org?a=b/../c", "http://example.org/?a=b/../c"),
        ("http:\\\\example.org\\a?b\\c", "http://example.org/a?b%5Cc"),
        ("http://B\xfccher.example/", "http://xn--bcher-kva.example/"),
        ("http://xn--BCHER-kva.example", "http://xn--bcher-kva.example/"),
        ("http://[2001:DB8:0:0::1]:80/", "http://[2001:db8::1]/"),
        ("http://me:secret@example.org/a", "http://example.org/a"),
        (" http://example.org/\ta\n", "http://example.org/a"),
        ("ftp://example.org/", None),
        ("example.org/a", None),
        ("http:///a", None),
        ("http://[::1", None),
        ("http://a b/", None),
        ("http://example.org:99999999/", None),
        ("", None),
    ],
)
def test_the_normal_form_of_an_address(text, expected):
    assert addresses.normal_form(text) == expected
    if expected:
        assert addresses.normal_form(expected) == expected
