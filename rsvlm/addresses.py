"""Where requests may go, and why they end: no request leaves for an address that is not public.

Programs disagree on what an odd address means, so `checked` takes only plainly written ones. A name can lead anywhere, and
elsewhere a moment later, so `Backend` looks names up itself, checks every address, and connects to the very one it checked;
`refuse_inward` is the check for code that connects by other means. A request that is not made, or not answered, ends with a
`Stop` that holds one of `REASONS`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from rsvlm.errors import DataError

if TYPE_CHECKING:
    import httpx2


class Reason(NamedTuple):
    """What a reason code means, and whether a later attempt may end otherwise."""

    meaning: str
    temporary: bool


REASONS = {
    "ok": Reason("the image was fetched", False),
    "bad_url": Reason("not a whole, plainly written http address", False),
    "scheme_refused": Reason("neither http nor https", False),
    "credentials_in_url": Reason("the address carries a user name or password", False),
    "port_refused": Reason("neither port 80 nor 443", False),
    "address_refused": Reason("the host is, or is looked up as, an address that is not public", False),
    "no_such_host": Reason("the name of the host is unknown", False),
    "dns_failed": Reason("the name of the host could not be looked up", True),
    "connect_failed": Reason("the host did not accept a connection", True),
    "connect_timeout": Reason("the host did not answer in time", True),
    "tls_failed": Reason("no secure connection: a wrong certificate, or no TLS", False),
    "connection_lost": Reason("the connection broke off before or within the answer's head", True),
    "truncated": Reason("the answer ended before its end", True),
    "read_timeout": Reason("the server fell silent", True),
    "total_timeout": Reason("the answer took longer than one image may", True),
    "protocol_error": Reason("the answer is no valid HTTP", False),
    "robots_disallowed": Reason("the site's robots.txt does not allow this address", False),
    "robots_unavailable": Reason("the site's robots.txt could not be had, so nothing is allowed for now", True),
    "x_robots": Reason("the header X-Robots-Tag forbids indexing or use for learning", False),
    "tdm_reserved": Reason("the header TDM-Reservation reserves the right of text and data mining", False),
    "redirect_loop": Reason("redirected to an address that had redirected before", False),
    "too_many_redirects": Reason("more redirects than are followed", False),
    "bad_redirect": Reason("a redirect that does not say where to", False),
    "client_error": Reason("HTTP 4xx: not there, or not for us", False),
    "too_many_requests": Reason("HTTP 429: the server asks for fewer requests", True),
    "server_error": Reason("HTTP 5xx, 408 or 425: the server could not answer now", True),
    "status_unexpected": Reason("another HTTP status than 200", False),
    "too_large": Reason("more bytes than are taken", False),
    "decompression_bomb": Reason("more bytes than are taken, once unpacked", False),
    "bad_encoding": Reason("packed in an unknown way, or broken", False),
    "empty": Reason("no bytes", False),
    "not_image": Reason("the first bytes are of no accepted image format (SVG is none)", False),
    "type_mismatch": Reason("declared as a page, document or program, though it begins like an image", False),
    "unexpected_error": Reason("an error of this program, told in its log", True),
}
"""Every code that `Stop.reason` and `fetch.Fetched.reason` can hold."""

PORTS = {"http": 80, "https": 443}
_MAX_URL = 8192

# Everything that is not public, after the IANA special-purpose registries; Python's own list differs between its releases.
_NOT_PUBLIC_V4 = [
    ipaddress.ip_network(block)
    for block in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 "
        "192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 "
        "224.0.0.0/4 240.0.0.0/4 168.63.129.16/32"  # the last is public by its number, but a cloud's metadata host
    ).split()
]
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")
# Protocol assignments with Teredo, documentation, 6to4, documentation. Mapped addresses and NAT64 lie outside 2000::/3.
_NOT_PUBLIC_V6 = [ipaddress.ip_network(block) for block in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]


class Stop(Exception):
    """Ends an attempt with a reason."""

    def __init__(self, reason: str, wait_s: float = 0.0):
        """Stop for a reason; `wait_s` is what the server wants waited first, infinite: do not try again in this run."""
        super().__init__(reason)
        self.reason, self.wait_s = reason, wait_s


@dataclass
class Attempt:
    """What one attempt has found out so far, and the time it has left."""

    left_s: float
    found: dict  # of the fields of fetch.Fetched
    headers: httpx2.Headers | None = None


def address_is_allowed(address: str, allow_loopback: bool = False) -> bool:
    """Tell whether a request may go to an IP address: only to public ones, and to loopback where it is switched on.

    Args:
        address: IPv4 or IPv6, as text. Forms of IPv6 that carry an IPv4 address are refused whatever they carry.
        allow_loopback: Also `127.0.0.0/8` and `::1`.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.version == 6 and parsed.scope_id:
        return False
    if allow_loopback and any(parsed in block for block in _LOOPBACK):
        return True
    if parsed.version == 4:
        return not any(parsed in block for block in _NOT_PUBLIC_V4)
    return parsed in _PUBLIC_V6 and not any(parsed in block for block in _NOT_PUBLIC_V6)


def refuse_inward(host_or_url: str, allow_loopback: bool = False) -> list[str]:
    """Refuse a host that is, or is looked up as, an address that is not public.

    A later look-up may give others: connect to one of those returned, or check the address that answered in the same way.

    Args:
        host_or_url: A host's name or address, or a URL, which is one if it holds `://`.
        allow_loopback: Also this machine is allowed.

    Returns:
        The addresses of the host, as text.

    Raises:
        DataError: There is no host in it, or one of its addresses is refused. Of a URL the message names the host alone.
        OSError: The host cannot be looked up.
    """
    try:
        host = urlsplit(host_or_url).hostname if "://" in host_or_url else host_or_url
        if not host:
            raise ValueError
        found = [host] if _is_address(host) else [address[0] for *_, address in socket.getaddrinfo(host, None)]
    except ValueError:  # also of names that cannot be spelt for a look-up
        raise DataError("the address holds no plainly written host: expected a name, an IP address or a URL") from None
    for address in found:
        if not address_is_allowed(address, allow_loopback):
            raise DataError(
                f"the host '{host[:253]}' lies on this machine or in a private network, which is not asked: expected a public "
                "one (allow_loopback also allows this machine)"
            )
    return list(dict.fromkeys(found))


async def look_up(host: str, port: int) -> list[str]:
    """Look up the addresses of a host as the system does.

    Raises:
        OSError: The name is unknown, or nobody could be asked.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(address[0] for *_, address in found))


def checked(text: str, allow_loopback: bool, base: httpx2.URL | None = None) -> httpx2.URL:
    """Parse an address strictly, or stop. Programs disagree on odd ones, and what is checked must be what is asked."""
    import httpx2

    if not isinstance(text, str) or len(text) > _MAX_URL or "\\" in text.partition("?")[0]:
        raise Stop("bad_url")
    try:
        url = base.join(text.strip()) if base else httpx2.URL(text.strip())
        host = url.raw_host.decode("ascii").lower().removesuffix(".")
        url = url.copy_with(host=host, fragment=None) if host else url
    except (httpx2.InvalidURL, ValueError):  # ValueError: Unicode that has no bytes
        raise Stop("bad_url") from None
    if url.scheme and url.scheme not in PORTS:
        raise Stop("scheme_refused")
    if not url.scheme or not host or not 0 < (url.port or 80) < 65536:
        raise Stop("bad_url")
    if url.userinfo:
        raise Stop("credentials_in_url")
    if url.port not in (None, *PORTS.values()) and not allow_loopback:
        raise Stop("port_refused")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.split(".")
        plain = len(host) <= 253 and all(re.fullmatch(r"[a-z0-9_-]{1,63}", label) for label in labels)
        # 127.1, 0x7f.1 and 2130706433 are addresses to the system's look-up.
        if not plain or re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1]):
            raise Stop("bad_url") from None
    else:
        if not address_is_allowed(host, allow_loopback):
            raise Stop("address_refused")
    return url


def redirected(url: httpx2.URL, headers: httpx2.Headers, allow_loopback: bool) -> httpx2.URL:
    """Return where a redirect leads, checked anew, or stop."""
    if not (target := headers.get("location")):
        raise Stop("bad_redirect")
    return checked(target, allow_loopback, base=url)


class Backend:
    """Where httpx2's transport gets its connections from: looks up, checks every address, connects to a checked one.

    The transport keeps the host's name for the Host header and for TLS, so certificates are checked as ever.
    """

    def __init__(self, allow_loopback: bool, resolve: Callable[[str, int], Awaitable[list[str]]]):
        import httpcore2

        self.allow_loopback, self.resolve, self.tcp = allow_loopback, resolve, httpcore2.AnyIOBackend()

    async def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        """Connect within `timeout` seconds, the look-up included."""
        import httpcore2

        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                addresses = [host] if _is_address(host) else await self.resolve(host, port)
        except TimeoutError:
            raise Stop("dns_failed") from None
        except OSError as error:
            unknown = isinstance(error, socket.gaierror) and error.errno in (
                socket.EAI_NONAME,
                getattr(socket, "EAI_NODATA", None),
            )
            raise Stop("no_such_host" if unknown else "dns_failed") from None
        for address in addresses:
            # One refused address condemns the host: names that lead both inside and outside are set as traps.
            if not address_is_allowed(address, self.allow_loopback):
                raise Stop("address_refused")
            if port not in PORTS.values() and address_is_allowed(address):
                raise Stop("port_refused")
        for number, address in enumerate(addresses[:4]):
            left = max(0.1, (timeout - (time.monotonic() - started)) / (min(len(addresses), 4) - number))
            try:
                return await self.tcp.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed if addresses else Stop("no_such_host")

    async def connect_unix_socket(self, path, timeout=None, socket_options=None):
        """Refuse."""
        raise Stop("address_refused")

    async def sleep(self, seconds):
        """Wait."""
        await asyncio.sleep(seconds)


def reason_of(error: Exception) -> str:
    """Return the reason that an error of the transport stands for."""
    import httpcore2

    if isinstance(error, httpcore2.ConnectTimeout):
        return "connect_timeout"
    if isinstance(error, httpcore2.TimeoutException):
        return "read_timeout"
    if isinstance(error, httpcore2.ConnectError):
        # The cause is lost on the way through the pool; it is still what the error was made of.
        return "tls_failed" if error.args and isinstance(error.args[0], ssl.SSLError) else "connect_failed"
    if isinstance(error, httpcore2.ProtocolError):
        # The transport tells these apart by their text alone.
        if "without sending a response" in str(error):
            return "connection_lost"
        return "truncated" if "peer closed connection" in str(error) else "protocol_error"
    return "connection_lost"


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False
