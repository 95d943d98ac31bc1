"""The way out: where requests may go, and why they end. No request leaves for an address that is not public.

Programs disagree on what an odd address means, so `checked` takes only plainly written ones. A name can lead anywhere, and
elsewhere a moment later, so a backend looks names up itself, checks every address, connects to the very one it checked, and
checks the one that answered: `AsyncBackend` for many requests at once, `SyncBackend` for one after another. A request that is
not made, or not answered, ends with a `Stop` of one of the kinds in `REASONS`; its caller decides by the kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    import httpcore2
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
    "content_usage": Reason("Content-Usage or Content-Signal, a header or in robots.txt, says no to training", False),
    "tdmrep_reserved": Reason("the site's tdmrep.json reserves the right of text and data mining", False),
    "ai_txt_disallowed": Reason("the site's ai.txt does not allow learning from this address", False),
    "crawl_delay_too_long": Reason("robots.txt asks for more time between requests than fetch.max_crawl_delay_s", True),
    "host_resting": Reason("not asked: its host wants to be left alone for long, or failed several times in a row", True),
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
    "removed": Reason("this picture was taken out of what was fetched, on request", False),
    "unexpected_error": Reason("an error of this program, told in its log", True),
}
"""Every code that `Stop.reason` and `fetch.Fetched.reason` can hold."""

PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
MAX_RETRY_AFTER_S = 60.0
"""Nobody is waited for longer; what wants more is not asked again in the same run."""

_MAX_URL = 8192
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")

# Everything that is not public, after the IANA special-purpose registries; Python's own list differs between its releases.
# Of IPv6: protocol assignments with Teredo, documentation, 6to4, documentation. Mapped addresses and NAT64 lie outside 2000::/3.
_NOT_PUBLIC = [
    ipaddress.ip_network(block)
    for block in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 "
        "192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 "
        "224.0.0.0/4 240.0.0.0/4 168.63.129.16/32 "  # the last is public by its number, but a cloud's metadata host
        "2001::/23 2001:db8::/32 2002::/16 3fff::/20"
    ).split()
]
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")


class Stop(Exception):
    """Ends an attempt with a reason."""

    def __init__(self, reason: str, wait_s: float = 0.0, status: int = 0):
        """Stop for a reason.

        Args:
            reason: A key of `REASONS`.
            wait_s: Seconds that the server wants waited before the next attempt. If infinite, there is none in this run.
            status: HTTP status that is the reason, or 0.
        """
        super().__init__(reason)
        self.reason, self.wait_s, self.status = reason, wait_s, status


@dataclass
class Attempt:
    """What is known of one attempt so far, and the time it has left."""

    left_s: float
    answer: dict  # fields of fetch.Fetched
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
    return (parsed.version == 4 or parsed in _PUBLIC_V6) and not any(parsed in block for block in _NOT_PUBLIC)


async def look_up(host: str, port: int) -> list[str]:
    """Look up the addresses of a host as the system does.

    Raises:
        OSError: The name is unknown, or nobody could be asked.
    """
    return _unique(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))


def checked(text: str, allow_loopback: bool, base: httpx2.URL | None = None, any_port: bool = False) -> httpx2.URL:
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
    if url.port not in (None, *PORTS.values()) and not (allow_loopback or any_port):
        raise Stop("port_refused")
    labels = host.split(".")
    if _is_address(host):
        if not address_is_allowed(host, allow_loopback):
            raise Stop("address_refused")
    # 127.1, 0x7f.1 and 2130706433 are addresses to the system's look-up.
    elif len(host) > 253 or not all(map(_LABEL.fullmatch, labels)) or re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1]):
        raise Stop("bad_url")
    return url


def normal_form(text: str) -> str | None:
    """Return the one spelling that all spellings of an http address share, or nothing where it is none.

    Scheme and host are in small letters, the host in its `xn--` form and without a dot behind it; a port that the scheme implies, a
    fragment and a user's name are left out; of the rest, what need not be percent-encoded is not, what must be is, in capitals; the
    path has no `.` and `..`. The address is for comparison: it may be one that `checked` refuses.

    Source: RFC 3986, sections 6.2.2 and 6.2.3.
    """
    text = re.sub(r"[\t\r\n]", "", text).strip("".join(map(chr, range(33))))
    end = re.search(r"[?#]|$", text).start()
    text = text[:end].replace("\\", "/") + text[end:]  # as in browsers
    try:
        parts = urlsplit(text)
        host, port = unquote(parts.hostname or "", errors="strict").rstrip("."), parts.port
        host = host.lower() if host.isascii() else _in_ascii(host)
    except ValueError:
        return None
    if parts.scheme not in PORTS or not host or re.search(r"[\s<>\"{}|\\^`/?#@]", host):
        return None
    if ":" in host:
        if not _is_address(host):
            return None
        host = f"[{ipaddress.ip_address(host).compressed}]"
    netloc = host if port in (None, PORTS[parts.scheme]) else f"{host}:{port}"
    segments: list[str] = []
    steps = _encoded(parts.path).split("/")[1:] or [""]
    for step in steps:
        if step == "..":
            segments = segments[:-1]
        elif step != ".":
            segments.append(step)
    segments += [""] if steps[-1] in (".", "..") else []
    query = f"?{_encoded(parts.query)}" if parts.query else ""
    return f"{parts.scheme}://{netloc}/{'/'.join(segments)}{query}"


def _encoded(text: str) -> str:
    """Percent-encode what must be, and nothing else."""

    def one(match: re.Match) -> str:
        if not match[1]:
            return quote(match[0].encode("utf-8", "replace"), safe="")
        sign = chr(int(match[1], 16))
        return sign if re.fullmatch(r"[A-Za-z0-9._~-]", sign) else match[0].upper()

    return re.sub(r"%([0-9A-Fa-f]{2})|[^A-Za-z0-9._~!$&'()*+,;=:@/?-]", one, text)


def _in_ascii(host: str) -> str:
    """Return a name with other letters in its `xn--` form."""
    with contextlib.suppress(ImportError):
        import idna

        return idna.encode(host, uts46=True).decode("ascii")
    return host.encode("idna").decode("ascii").lower()


def redirected(url: httpx2.URL, headers: httpx2.Headers, allow_loopback: bool, any_port: bool = False) -> httpx2.URL:
    """Return where a redirect leads, checked anew, or stop."""
    if not (target := headers.get("location")):
        raise Stop("bad_redirect")
    return checked(target, allow_loopback, url, any_port)


def transport_url(url: httpx2.URL) -> httpcore2.URL:
    """Return a checked address as the transport takes it."""
    import httpcore2

    return httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


class _Checks:
    """What both backends check, and how they share the time among a host's addresses."""

    def __init__(self, allow_loopback: bool, any_port: bool = False):
        self.allow_loopback, self.any_port = allow_loopback, any_port

    def turns(self, addresses: list[str], port: int, ends: float) -> Iterator[tuple[str, float]]:
        """Check all addresses of a host, or stop; then yield those to try, each with its seconds."""
        for address in addresses:
            # One refused address condemns the host: names that lead both inside and outside are set as traps.
            if not address_is_allowed(address, self.allow_loopback):
                raise Stop("address_refused")
            if port not in PORTS.values() and not self.any_port and address_is_allowed(address):
                raise Stop("port_refused")
        addresses = addresses[:4]
        for number, address in enumerate(addresses):
            yield address, max(0.1, (ends - time.monotonic()) / (len(addresses) - number))

    def refusal(self, stream) -> Stop | None:
        """Check the address that answered, whichever was called: why the connection is not used, or none."""
        try:
            address = stream.get_extra_info("server_addr")[0]
        except OSError:  # the connection is broken already
            return Stop("connection_lost")
        return None if address_is_allowed(address, self.allow_loopback) else Stop("address_refused")


class AsyncBackend(_Checks):
    """Where httpx2's asynchronous transport gets its connections from.

    The transport keeps the host's name for the Host header and for TLS, so certificates are checked as ever.
    """

    def __init__(
        self, allow_loopback: bool, resolve: Callable[[str, int], Awaitable[list[str]]] = look_up, any_port: bool = False
    ):
        import httpcore2

        super().__init__(allow_loopback, any_port)
        self.resolve, self.tcp = resolve, httpcore2.AnyIOBackend()

    async def connect_tcp(self, host, port, timeout, local_address=None, socket_options=None):
        """Connect within `timeout` seconds, the look-up included."""
        import httpcore2

        ends = time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                addresses = [host] if _is_address(host) else await self.resolve(host, port)
        except OSError as error:
            raise _not_looked_up(error) from None
        failed = Stop("no_such_host")
        for address, left_s in self.turns(addresses, port, ends):
            try:
                stream = await self.tcp.connect_tcp(address, port, left_s, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
                continue
            if stop := self.refusal(stream):
                await stream.aclose()
                raise stop
            return _AsyncStream(stream)
        raise failed


class SyncBackend(_Checks):
    """The same for httpx2's synchronous transport; the system's look-up is not limited in time."""

    def connect_tcp(self, host, port, timeout, local_address=None, socket_options=None):
        """Connect within `timeout` seconds."""
        import httpcore2

        try:
            addresses = [host] if _is_address(host) else _unique(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            raise _not_looked_up(error) from None
        failed = Stop("no_such_host")
        for address, left_s in self.turns(addresses, port, time.monotonic() + timeout):
            try:
                stream = httpcore2.SyncBackend().connect_tcp(address, port, left_s, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
                continue
            if stop := self.refusal(stream):
                stream.close()
                raise stop
            return _SyncStream(stream)
        raise failed


class _AsyncStream:
    """A connection whose end stops the reading: the transport would tell it from broken HTTP by a text alone."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    async def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        return _AsyncStream(await self.stream.start_tls(ssl_context, server_hostname, timeout))

    async def read(self, max_bytes, timeout=None):
        if data := await self.stream.read(max_bytes, timeout):
            return data
        raise Stop("connection_lost")


class _SyncStream(_AsyncStream):
    """The same for the synchronous transport."""

    def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        return _SyncStream(self.stream.start_tls(ssl_context, server_hostname, timeout))

    def read(self, max_bytes, timeout=None):
        if data := self.stream.read(max_bytes, timeout):
            return data
        raise Stop("connection_lost")


@contextlib.contextmanager
def transport_errors() -> Iterator[None]:
    """Around a request: turn errors of the transport, and the end of its time, into a `Stop` of their kind."""
    import httpcore2

    try:
        yield
    except TimeoutError:
        raise Stop("total_timeout") from None
    except httpcore2.ConnectTimeout as error:
        raise Stop("connect_timeout") from error
    except httpcore2.TimeoutException as error:
        raise Stop("read_timeout") from error
    except httpcore2.ConnectError as error:
        # The cause is lost on the way through the pool; it is still what the error was made of.
        raise Stop("tls_failed" if error.args and isinstance(error.args[0], ssl.SSLError) else "connect_failed") from error
    except httpcore2.ProtocolError as error:
        raise Stop("protocol_error") from error
    except httpcore2.NetworkError as error:
        raise Stop("connection_lost") from error


@contextlib.contextmanager
def body_of(headers: httpx2.Headers) -> Iterator[None]:
    """Around the reading of a body: the end of the connection is the body's where no length was told, else too early."""
    try:
        yield
    except Stop as stop:
        if stop.reason != "connection_lost":
            raise
        if "content-length" in headers or "transfer-encoding" in headers:
            raise Stop("truncated") from None


def stop_of(status: int, headers: httpx2.Headers) -> Stop:
    """Return why a status is no answer, and for how long the server wants to be left alone."""
    wait_s = (retry_after_s(headers.get("retry-after")) or 0.0) if status in (429, 503) else 0.0
    if status == 429:
        return Stop("too_many_requests", wait_s, status)
    if status >= 500 or status in (408, 425):
        return Stop("server_error", wait_s, status)
    return Stop("client_error" if status >= 400 else "status_unexpected", status=status)


class Rests:
    """Until when each host wants to be left alone, as its answers to this process said."""

    def __init__(self) -> None:
        self.until: dict[str, float] = {}  # time.monotonic()

    def note(self, host: str, stop: Stop) -> None:
        """Keep for how long a host wants to be left alone, where it said so."""
        if stop.wait_s:
            self.until[host] = max(self.until.get(host, 0.0), time.monotonic() + stop.wait_s)

    def left_s(self, host: str) -> float:
        """Return the seconds that a host still wants to be left alone, or 0."""
        return max(0.0, self.until.get(host, 0.0) - time.monotonic())


def retry_after_s(value: str | None) -> float | None:
    """Read the header Retry-After, which holds seconds or a date.

    Returns:
        Seconds from now on, 0 for a date that has passed. None if there is no header, or if it holds neither.

    Source: RFC 9110, section 10.2.3; fractions, and the unit written out, are our addition.
    """
    value = (value or "").strip()
    if match := re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(?: ?s(?:ec(?:ond)?s?)?)?", value, re.IGNORECASE):
        return float(match[1])
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # Dates of the web are of Greenwich, also where they do not say so.
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())


def _not_looked_up(error: OSError) -> Stop:
    unknown = isinstance(error, socket.gaierror) and error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
    return Stop("no_such_host" if unknown else "dns_failed")


def _unique(answers: list[tuple]) -> list[str]:
    return list(dict.fromkeys(address[0] for *_, address in answers))


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False
