"""Only public addresses are reached, however they are written or looked up."""

from __future__ import annotations

import socket

import pytest

from rsvlm import addresses
from rsvlm.errors import DataError


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("127.255.0.1", False),
        ("0.0.0.0", False),
        ("10.255.255.255", False),
        ("100.64.0.1", False),
        ("100.100.100.200", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("172.31.0.1", False),
        ("172.32.0.1", True),
        ("192.0.0.192", False),
        ("192.168.0.1", False),
        ("198.19.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", False),
        ("::127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::a00:1", False),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
        ("2001:db8::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("2606:2800::1%1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("127.1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_only_public_addresses(address, allowed):
    assert addresses.address_is_allowed(address) == allowed
    switched = addresses.address_is_allowed(address, allow_loopback=True)
    assert switched == (allowed or address in ("127.0.0.1", "127.255.0.1", "::1")), "the switch opens loopback alone"


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


def test_the_addresses_that_were_checked_are_told(look_ups):
    found = ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"]
    assert addresses.refuse_inward("good.example") == found
    assert addresses.refuse_inward("https://good.example:8443/x?y#z") == found
    assert look_ups == ["good.example"] * 2
    assert addresses.refuse_inward("https://[2606:2800::1]/") == ["2606:2800::1"]
    assert addresses.refuse_inward("93.184.216.34") == ["93.184.216.34"]
    assert len(look_ups) == 2, "an address is not looked up"


@pytest.mark.parametrize("form", ["{}", "http://{}/x", "https://{}:8443"])
@pytest.mark.parametrize("host", ["here.example", "127.1", "2130706433", "127.0.0.1"])
def test_loopback_is_refused_unless_it_is_switched_on(look_ups, host, form):
    with pytest.raises(DataError, match="private network"):
        addresses.refuse_inward(form.format(host))
    assert addresses.refuse_inward(form.format(host), allow_loopback=True) == ["127.0.0.1"]


@pytest.mark.parametrize(
    "where",
    [
        "half.example",
        "linked.example",
        "169.254.169.254",
        "::ffff:10.0.0.1",
        "http://[fe80::1%25eth0]/",
        "https://half.example/",
        "http://good.example@10.0.0.1/",
        "http://good.example\\@192.168.1.1/",
        "http://[::ffff:7f00:1]/",
    ],
)
def test_what_lies_inside_is_refused_switched_on_or_not(look_ups, where):
    for allow_loopback in (False, True):
        with pytest.raises(DataError, match="private network"):
            addresses.refuse_inward(where, allow_loopback)


@pytest.mark.parametrize(
    "where", ["", "http://", "http:///x", "http://[::1", "a" * 64 + ".example", "http://a..b/", "file:///x"]
)
def test_what_names_no_host_is_refused(look_ups, where):
    with pytest.raises(DataError, match="no plainly written host"):
        addresses.refuse_inward(where, allow_loopback=True)


def test_a_name_that_cannot_be_looked_up_may_be_one_later(look_ups):
    for where in ("missing.example", "https://missing.example/"):
        with pytest.raises(OSError, match="unknown"):
            addresses.refuse_inward(where)


def test_a_refusal_tells_no_secret(look_ups):
    with pytest.raises(DataError) as refusal:
        addresses.refuse_inward("https://me:secret@here.example/x?key=secret")
    assert "here.example" in str(refusal.value) and "secret" not in str(refusal.value)
