"""Images from the web: polite, safe, resumable, and a reason for every URL.

`download` asks each website's robots.txt first, keeps a distance between requests to one host, tells honestly who asks, and
takes an image only when its owner's headers do not object. No request can reach an address that is not public: names are
looked up here, every address is checked, and the connection goes to the very address that was checked, on each hop of a
redirect anew. What came of a URL is one row of a journal (`journal.sqlite`), its bytes a file named by their hash, so that a
run that was killed goes on where it stopped and asks nobody twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import ipaddress
import logging
import math
import random
import re
import socket
import sqlite3
import ssl
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqdm.auto import tqdm

from rsvlm import __version__, runs
from rsvlm.errors import ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:
    import httpcore2
    import httpx2

    from rsvlm import config

log = logging.getLogger(__name__)

AGENT = "rsvlm"
"""The name by which robots.txt and X-Robots-Tag address this program."""


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
"""Every code that a row's `reason` can hold."""

HEADER_REFUSALS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
"""Directives of X-Robots-Tag that are honoured, for everybody or for `AGENT`. Source: our choice, as img2dataset's default."""

MAX_CRAWL_DELAY_S = 30.0
MAX_RETRY_AFTER_S = 60.0
ROBOTS_AGE_S = 24 * 3600.0
ROBOTS_FAILED_AGE_S = 600.0
ROBOTS_BYTES = 500 * 1024
ROBOTS_REDIRECTS = 5
READ_AHEAD = 8192
"""URLs that wait for their host at once; a longer run of one host's URLs holds up the others."""

_MAX_URL = 8192
_PORTS = {"http": 80, "https": 443}
_ACCEPT = "image/webp,image/png,image/jpeg,image/gif,image/tiff,image/bmp,image/jp2,*/*;q=0.1"
# A document or program that also begins like an image is made to be taken for both.
_NO_IMAGE = re.compile(
    r"text/(?!plain)|application/(?!octet-stream|binary|x-binary|force-download|download|unknown)|video/|audio/"
)
_MAGIC = (
    (rb"\x89PNG\r\n\x1a\n", "png"),
    (rb"\xff\xd8\xff", "jpg"),
    (rb"GIF8[79]a", "gif"),
    (rb"RIFF.{4}WEBP", "webp"),
    (rb"II[*+]\0|MM\0[*+]", "tif"),
    (rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "bmp"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
    (rb"\xff\x4f\xff\x51", "j2k"),
)
_MAGIC_BYTES = 32

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


@dataclass(frozen=True)
class Fetched:
    """What came of one URL."""

    url: str  # as given
    reason: str = ""  # a key of REASONS
    status: int = 0  # the last HTTP status; 0: there was no answer
    n_bytes: int = 0  # of the image, unpacked
    sha256: str = ""  # of the image
    extension: str = ""  # by its first bytes: png, jpg, gif, webp, tif, bmp, jp2, j2k
    content_type: str = ""  # as the server declared it
    final_url: str = ""  # the last address asked
    etag: str = ""
    last_modified: str = ""
    robots: str = ""  # of the final URL's site: allowed, disallowed, none (it has no robots.txt) or unavailable
    x_robots: str = ""  # the header X-Robots-Tag, as text of the web
    attempts: int = 0
    fetched_at: float = 0.0  # seconds since the epoch


@dataclass(frozen=True)
class Summary:
    """What came of all URLs of one call."""

    counts: Counter  # URLs by reason, those of earlier runs included; they add up to the URLs given
    asked: int  # URLs that this run asked for; the others were done


@dataclass(frozen=True)
class Robots:
    """The rules of one robots.txt that hold for us: pattern, whether it ends at the end, and allow, the longest first."""

    rules: tuple[tuple[str, bool, bool], ...] = ()
    crawl_delay_s: float = 0.0

    def allows(self, target: str) -> bool:
        """Tell whether a path with its query may be asked for; the longest rule decides, and allow among equals.

        Source: RFC 9309, section 2.2.2.
        """
        target = _canonical(target.encode())
        if target == "/robots.txt":
            return True
        return next((allow for pattern, anchored, allow in self.rules if _matches(pattern, anchored, target)), True)


def download(
    urls: Iterable[str],
    out: Path | str,
    options: config.Fetch,
    *,
    refresh: bool = False,
    progress: bool = False,
    resolve: Callable[[str, int], Awaitable[list[str]]] | None = None,
    backoff_s: float = 1.0,
) -> Summary:
    """Fetch the images of many URLs into a folder; what an earlier run did is not asked again.

    It may be called from a notebook. At most `READ_AHEAD` URLs wait at once, so memory does not grow with their number, and a
    mixed order of hosts is faster than a sorted one.

    Args:
        urls: Addresses of images, as found on the web; read as they are needed.
        out: The folder of the journal and the images.
        options: Rates, limits, whether to retry what failed for a reason that may have passed.
        refresh: Also ask again for images that are there, on condition that they have changed.
        progress: Show a progress bar.
        resolve: `await resolve(host, port)` gives the addresses of a host, as text; none: the system's look-up.
        backoff_s: Wait before the second attempt, in seconds; doubled for each further one.

    Returns:
        How many URLs ended in which reason; the rows are read with `results`.

    Raises:
        ConfigError: `fetch.contact` cannot stand in a header.
        DataError: The folder cannot be written, or its journal is of another program.
        MissingExtraError: httpx2 is not installed.
    """
    if not re.fullmatch(r"[!-'*-~ ]*", options.contact):
        raise ConfigError(f"fetch.contact={options.contact!r} cannot stand in a header: use ASCII without parentheses")
    try:
        import httpcore2  # noqa: F401  httpx2's own transport
        import httpx2  # noqa: F401
    except ImportError:
        raise MissingExtraError('the package httpx2 is not installed: pip install "rsvlm[data]"') from None
    try:
        with _alone(Path(out)):
            return _run(_download(urls, Path(out), options, refresh, progress, resolve or look_up, backoff_s))
    except BaseExceptionGroup as group:  # of the tasks of one run; the first is the cause
        raise group.exceptions[0] from None


def results(out: Path | str, urls: Iterable[str] | None = None) -> Iterator[Fetched]:
    """Read what came of URLs.

    Args:
        out: The folder given to `download`.
        urls: Only these, in this order, without those that were never fetched; none: all, sorted.

    Raises:
        DataError: The folder holds no journal.
    """
    if not (Path(out) / "journal.sqlite").is_file():
        raise DataError(f"{out} holds no journal.sqlite: fetch into it first")
    with contextlib.closing(_Journal(Path(out))) as journal:
        yield from journal.rows() if urls is None else (row for url in urls if (row := journal.get(_key(url))))


def image_path(out: Path | str, row: Fetched) -> Path:
    """Return the file of an image that was fetched: its name is the hash of its bytes.

    Raises:
        DataError: The row is of no image.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", row.sha256) or row.extension not in {name for _, name in _MAGIC}:
        raise DataError(f"{row.url} has no image: {row.reason}")
    return _image_path(Path(out), row.sha256, row.extension)


def _image_path(out: Path, digest: str, extension: str) -> Path:
    return out / "images" / digest[:2] / f"{digest}.{extension}"


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


def read_robots(data: bytes, agent: str = AGENT) -> Robots:
    """Read the rules of a robots.txt that hold for one crawler.

    Groups that name the crawler are joined; the group of `*` counts only where none does. `Crawl-delay`, no part of the
    standard, belongs to its group. A path without its first slash is read as if it had one.

    Args:
        data: The file; what lies beyond `ROBOTS_BYTES` is not read.
        agent: The crawler's product token, in any case.

    Source: RFC 9309.
    """
    if len(data) > ROBOTS_BYTES:
        data = data[:ROBOTS_BYTES].rpartition(b"\n")[0]  # half a rule would be another rule
    found: dict[str, list] = {}
    wanted = {agent.lower(), "*"}  # nothing of other crawlers is kept: a hostile file names thousands
    current: set[str] = set()
    naming = False
    for line in re.split(rb"[\r\n]+", data.removeprefix(b"\xef\xbb\xbf")):
        name, colon, value = (part.strip() for part in line.partition(b"#")[0].partition(b":"))
        name = name.lower()
        if name == b"user-agent":
            token = re.match(rb"\*(?=\s|$)|[A-Za-z_-]*", value)[0].decode().lower()
            current = ({token} & wanted) | (current if naming else set())
            naming = True
            for token in current:
                found.setdefault(token, [[], 0.0])
        elif name in (b"allow", b"disallow"):
            naming = False
            if value:
                for token in current:
                    found[token][0].append((value, name == b"allow"))
        elif name == b"crawl-delay" and re.fullmatch(rb"\d{1,9}(\.\d{0,9})?", value):
            for token in current:
                found[token][1] = max(found[token][1], float(value))
    rules, delay_s = found.get(agent.lower()) or found.get("*") or ([], 0.0)
    read = []
    for value, allow in rules:
        path = value if value[:1] in b"/*" else b"/" + value
        pattern = _canonical(path.removesuffix(b"$"), pattern=True)
        read.append((len(pattern) + path.endswith(b"$"), allow, (pattern, path.endswith(b"$"), allow)))
    return Robots(tuple(rule for *_, rule in sorted(read, key=lambda item: item[:2], reverse=True)), delay_s)


async def look_up(host: str, port: int) -> list[str]:
    """Look up the addresses of a host as the system does.

    Raises:
        OSError: The name is unknown, or nobody could be asked.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(address[0] for *_, address in found))


# Robots


def _canonical(data: bytes, pattern: bool = False) -> str:
    """Spell a path with its query in one way, so that equal ones are equal text.

    What need not be percent-encoded is decoded; what must be is encoded. `*` and `$` stand for themselves only in patterns.
    """
    path, mark, query = data.partition(b"?")

    def spell(part: bytes, kept: bytes) -> bytes:
        def one(match: re.Match) -> bytes:
            code = int(match[0][1:], 16) if len(match[0]) == 3 else match[0][0]
            decode = len(match[0]) == 3 and 0x21 <= code <= 0x7E and code not in kept
            wildcard = pattern and match[0] == b"*"
            return bytes([code]) if decode or wildcard else b"%%%02X" % code

        return re.sub(rb"%[0-9A-Fa-f]{2}|[^!-~]|[%*$]", one, part)

    # In a query a slash or a question mark means nothing, encoded or not; in a path it does.
    return (spell(path, b"%#*$/?") + mark + spell(query, b"%#*$")).decode("ascii")


def _matches(pattern: str, anchored: bool, target: str) -> bool:
    first, *rest = pattern.split("*")
    if not target.startswith(first):
        return False
    position = len(first)
    if not rest:
        return not anchored or position == len(target)
    for piece in rest[:-1]:  # the earliest place for each piece leaves most room for the next: no going back is needed
        position = target.find(piece, position)
        if position < 0:
            return False
        position += len(piece)
    if anchored:
        return len(target) - len(rest[-1]) >= position and target.endswith(rest[-1])
    return target.find(rest[-1], position) >= 0


def _refused_by_headers(headers: httpx2.Headers) -> str | None:
    if headers.get("tdm-reservation", "").strip() == "1":
        return "tdm_reserved"
    for line in headers.get_list("x-robots-tag"):
        ours = True
        for part in line.lower().split(","):
            # `agent: directive` holds for that agent up to the end of the line; some directives have values of their own.
            agent, colon, directive = part.rpartition(":")
            if re.match(r"\s*(unavailable_after|max-[a-z-]+)\s*:", part):
                continue
            if colon:
                ours = agent.strip() in (AGENT, "*")
            if ours and directive.strip() in HEADER_REFUSALS:
                return "x_robots"
    return None


# Addresses


class _Stop(Exception):
    """Ends an attempt with a reason."""

    def __init__(self, reason: str, wait_s: float = 0.0):
        """Stop for a reason; `wait_s` is what the server wants waited first, infinite: do not try again in this run."""
        super().__init__(reason)
        self.reason, self.wait_s = reason, wait_s


def _checked(text: str, allow_loopback: bool, base: httpx2.URL | None = None) -> httpx2.URL:
    """Parse an address strictly, or stop. Programs disagree on odd ones, and what is checked must be what is asked."""
    import httpx2

    if not isinstance(text, str) or len(text) > _MAX_URL or "\\" in text.partition("?")[0]:
        raise _Stop("bad_url")
    try:
        url = base.join(text.strip()) if base else httpx2.URL(text.strip())
        host = url.raw_host.decode("ascii").lower().removesuffix(".")
        url = url.copy_with(host=host, fragment=None) if host else url
    except (httpx2.InvalidURL, ValueError):  # ValueError: Unicode that has no bytes
        raise _Stop("bad_url") from None
    if url.scheme and url.scheme not in _PORTS:
        raise _Stop("scheme_refused")
    if not url.scheme or not host or not 0 < (url.port or 80) < 65536:
        raise _Stop("bad_url")
    if url.userinfo:
        raise _Stop("credentials_in_url")
    if url.port not in (None, *_PORTS.values()) and not allow_loopback:
        raise _Stop("port_refused")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.split(".")
        plain = len(host) <= 253 and all(re.fullmatch(r"[a-z0-9_-]{1,63}", label) for label in labels)
        # 127.1, 0x7f.1 and 2130706433 are addresses to the system's look-up.
        if not plain or re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1]):
            raise _Stop("bad_url") from None
    else:
        if not address_is_allowed(host, allow_loopback):
            raise _Stop("address_refused")
    return url


class _Backend:
    """Where httpx2's transport gets its connections from: looks up, checks every address, connects to a checked one.

    The transport keeps the host's name for the Host header and for TLS, so certificates are checked as ever.
    """

    def __init__(self, options: config.Fetch, resolve: Callable[[str, int], Awaitable[list[str]]]):
        import httpcore2

        self.options, self.resolve, self.tcp = options, resolve, httpcore2.AnyIOBackend()

    async def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        """Connect within `timeout` seconds, the look-up included."""
        import httpcore2

        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                addresses = [host] if _is_address(host) else await self.resolve(host, port)
        except TimeoutError:
            raise _Stop("dns_failed") from None
        except OSError as error:
            unknown = isinstance(error, socket.gaierror) and error.errno in (
                socket.EAI_NONAME,
                getattr(socket, "EAI_NODATA", None),
            )
            raise _Stop("no_such_host" if unknown else "dns_failed") from None
        for address in addresses:
            # One refused address condemns the host: names that lead both inside and outside are set as traps.
            if not address_is_allowed(address, self.options.allow_loopback):
                raise _Stop("address_refused")
            if port not in _PORTS.values() and address_is_allowed(address):
                raise _Stop("port_refused")
        for number, address in enumerate(addresses[:4]):
            left = max(0.1, (timeout - (time.monotonic() - started)) / (min(len(addresses), 4) - number))
            try:
                return await self.tcp.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed if addresses else _Stop("no_such_host")

    async def connect_unix_socket(self, path, timeout=None, socket_options=None):
        """Refuse."""
        raise _Stop("address_refused")

    async def sleep(self, seconds):
        """Wait."""
        await asyncio.sleep(seconds)


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


# Requests


@dataclass
class _Gate:
    """The way to one host: so many at once, and a distance between them."""

    slots: asyncio.Semaphore
    order: asyncio.Lock
    delay_s: float
    next_turn: float = 0.0
    users: int = 0


@dataclass
class _Attempt:
    """What one attempt has found out so far, and the time it has left."""

    left_s: float
    found: dict  # of the fields of Fetched
    headers: httpx2.Headers | None = None


class _Policy(NamedTuple):
    """What a site allows."""

    state: str  # as Fetched.robots
    robots: Robots = Robots()
    reason: str = ""  # why nothing is allowed for now
    expires: float = math.inf  # time.time()


class _Fetcher:
    """One run: the connections, the gates of the hosts and their robots.txt."""

    def __init__(self, journal: _Journal, options: config.Fetch, resolve, backoff_s: float):
        import httpcore2
        import httpx2

        self.journal, self.options, self.backoff_s = journal, options, backoff_s
        # The bare transport: a client would bring cookies, redirects and proxies of the environment, none of which is wanted.
        self.pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            max_connections=options.concurrency,
            keepalive_expiry=10.0,
            network_backend=_Backend(options, resolve),
        )
        self.slots = asyncio.Semaphore(options.concurrency)
        self.gates: dict[str, _Gate] = {}
        self.gates_kept = 10_000
        self.policies: OrderedDict[str, asyncio.Task[_Policy]] = OrderedDict()
        self.writing = [asyncio.Lock() for _ in range(64)]
        self.agent = f"{AGENT}/{__version__}" + (f" (+{options.contact})" if options.contact else "")

    async def fetch(self, url: str, key: str, known: Fetched | None) -> Fetched:
        """Fetch one image, with further attempts, and write down what came of it."""
        for number in range(1, self.options.retries + 2):
            attempt = _Attempt(self.options.total_timeout_s, {"attempts": number})
            wait_s = 0.0
            try:
                await self._follow(url, known, attempt)
                reason = "ok"
            except _Stop as stop:
                reason, wait_s = stop.reason, stop.wait_s
            except DataError:
                raise
            except Exception:
                log.warning("unexpected error while fetching %.200r", url, exc_info=True)
                reason, wait_s = "unexpected_error", math.inf
            if not REASONS[reason].temporary or wait_s > MAX_RETRY_AFTER_S or number > self.options.retries:
                break
            # The host's gate is open to others meanwhile, so no URL that may never come holds up those that will.
            await asyncio.sleep(max(wait_s, self.backoff_s * 2 ** (number - 1) * random.uniform(0.5, 1.5)))
        if known and REASONS[reason].temporary:
            return known  # a copy that could not be checked again is still a copy
        row = Fetched(key, reason, fetched_at=time.time(), **attempt.found)
        if reason == "ok" and row.status == 304:
            row = replace(known, robots=row.robots, status=304, fetched_at=row.fetched_at)
        self.journal.put(row)
        return row

    async def _keep(self, body: bytes, attempt: _Attempt) -> None:
        digest = (await asyncio.to_thread(hashlib.sha256, body)).hexdigest()
        path = _image_path(self.journal.folder, digest, attempt.found["extension"])
        async with self.writing[int(digest[:2], 16) % 64]:  # two URLs of one image must not write one file at once
            if not path.is_file():
                with _writing(path):
                    await asyncio.to_thread(runs.write_atomic, path, body)
        attempt.found |= {"sha256": digest, "n_bytes": len(body)}

    async def _follow(self, text: str, known: Fetched | None, attempt: _Attempt) -> None:
        """Follow one URL to its image, and keep it; status 304: it is the one that is known."""
        url, seen = _checked(text, self.options.allow_loopback), set()
        for _ in range(self.options.max_redirects + 1):
            attempt.found["final_url"] = address = str(url)
            if address in seen:
                raise _Stop("redirect_loop")
            seen.add(address)
            policy = await self._policy(url)
            allowed = policy.robots.allows(url.raw_path.decode("ascii"))
            attempt.found["robots"] = policy.state if allowed else "disallowed"
            if policy.reason:
                raise _Stop(policy.reason, math.inf)  # further attempts in this run would be told the same
            if not allowed:
                raise _Stop("robots_disallowed")
            conditions = {}
            if known and known.final_url == address:
                conditions = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
            await self._ask(url, attempt, {name: value for name, value in conditions.items() if value})
            status = attempt.found["status"]
            if status == 200 or (status == 304 and conditions):
                return
            if status not in (301, 302, 303, 307, 308):
                raise self._stop_of(url, status, attempt.headers)
            url = self._next(url, attempt.headers)
        raise _Stop("too_many_redirects")

    def _next(self, url: httpx2.URL, headers: httpx2.Headers) -> httpx2.URL:
        if not (target := headers.get("location")):
            raise _Stop("bad_redirect")
        return _checked(target, self.options.allow_loopback, base=url)

    def _stop_of(self, url: httpx2.URL, status: int, headers: httpx2.Headers) -> _Stop:
        wait_s = _retry_after_s(headers) if status in (429, 503) else 0.0
        if wait_s:
            gate = self._gate(url)
            gate.next_turn = max(gate.next_turn, time.monotonic() + min(wait_s, MAX_RETRY_AFTER_S))
        if status == 429:
            return _Stop("too_many_requests", wait_s)
        if status >= 500 or status in (408, 425):
            return _Stop("server_error", wait_s)
        return _Stop("client_error" if status >= 400 else "status_unexpected")

    def _gate(self, url: httpx2.URL) -> _Gate:
        host = url.raw_host.decode("ascii")
        if host not in self.gates:
            if len(self.gates) >= self.gates_kept:
                now = time.monotonic()
                self.gates = {name: gate for name, gate in self.gates.items() if gate.users or gate.next_turn > now}
                self.gates_kept = max(10_000, 2 * len(self.gates))
            self.gates[host] = _Gate(asyncio.Semaphore(self.options.per_host), asyncio.Lock(), self.options.host_delay_s)
        return self.gates[host]

    @contextlib.asynccontextmanager
    async def _turn(self, url: httpx2.URL) -> AsyncIterator[None]:
        """Wait for one's turn at a host, then for a free connection; hold both."""
        gate = self._gate(url)
        gate.users += 1
        try:
            async with gate.slots:
                async with gate.order:  # who waits for a connection holds up this host alone
                    while (wait_s := gate.next_turn - time.monotonic()) > 0:
                        await asyncio.sleep(wait_s)
                    await self.slots.acquire()
                    gate.next_turn = time.monotonic() + gate.delay_s
                try:
                    yield
                finally:
                    self.slots.release()
        finally:
            gate.users -= 1

    async def _ask(self, url: httpx2.URL, attempt: _Attempt, conditions: dict[str, str], image: bool = True) -> bytes:
        """Send one request and read its answer within limits; waiting for a turn takes none of the attempt's time.

        Raises:
            _Stop: There is no usable answer.
        """
        import httpcore2
        import httpx2

        options = self.options
        limit_s = {"connect": options.connect_timeout_s, "read": options.read_timeout_s, "write": options.read_timeout_s}
        headers = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": self.agent,
            "Accept": _ACCEPT if image else "text/plain,*/*;q=0.1",
            "Accept-Encoding": "identity" if image else "gzip",
        }
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        async with self._turn(url):
            started = time.monotonic()
            try:
                async with (
                    asyncio.timeout(attempt.left_s),
                    self.pool.stream("GET", target, headers=headers | conditions, extensions={"timeout": limit_s}) as response,
                ):
                    attempt.headers = httpx2.Headers(response.headers)
                    attempt.found["status"] = response.status
                    if image:
                        attempt.found |= _described(attempt.headers)
                        if response.status < 400 and (refused := _refused_by_headers(attempt.headers)):
                            raise _Stop(refused)
                    if response.status != 200:
                        await _drain(response, attempt.headers)
                        return b""
                    body = await _read(response, attempt, options.max_bytes if image else ROBOTS_BYTES + 1, image)
            except TimeoutError:
                raise _Stop("total_timeout") from None
            except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError) as error:
                raise _Stop(_reason_of(error)) from error
            finally:
                attempt.left_s -= time.monotonic() - started
            if image:  # still in turn: where the disk is slower than the net, images do not pile up in memory
                await self._keep(body, attempt)
        return body

    async def _policy(self, url: httpx2.URL) -> _Policy:
        """Return what the robots.txt of a site allows; asked once a day, whoever wants to know."""
        site = f"{url.scheme}://{url.netloc.decode('ascii')}"
        task = self.policies.get(site)
        if task is None or (task.done() and task.result().expires < time.time()):
            task = self.policies[site] = asyncio.create_task(self._load_policy(site, url))
            while len(self.policies) > 1024:  # on disk they stay
                self.policies.popitem(last=False)
        self.policies.move_to_end(site)
        policy = await asyncio.shield(task)
        gate = self._gate(url)
        gate.delay_s = max(gate.delay_s, min(policy.robots.crawl_delay_s, MAX_CRAWL_DELAY_S))
        return policy

    async def _load_policy(self, site: str, url: httpx2.URL) -> _Policy:
        if stored := self.journal.robots(site, time.time() - ROBOTS_AGE_S):
            state, body, fetched_at = stored
            return _Policy(state, read_robots(body), expires=fetched_at + ROBOTS_AGE_S)
        for number in range(1, self.options.retries + 2):
            try:
                state, body = await self._ask_policy(url.join("/robots.txt"))
            except _Stop as stop:
                reason, wait_s = stop.reason, stop.wait_s
            else:
                self.journal.put_robots(site, state, body, time.time())
                return _Policy(state, read_robots(body), expires=time.time() + ROBOTS_AGE_S)
            if not REASONS[reason].temporary or wait_s > MAX_RETRY_AFTER_S or number > self.options.retries:
                break
            await asyncio.sleep(max(wait_s, self.backoff_s * 2 ** (number - 1) * random.uniform(0.5, 1.5)))
        # A host that cannot be reached at all is told as such: its images could not be had either.
        reason = reason if reason in _UNREACHABLE else "robots_unavailable"
        return _Policy("unavailable", reason=reason, expires=time.time() + ROBOTS_FAILED_AGE_S)

    async def _ask_policy(self, url: httpx2.URL) -> tuple[str, bytes]:
        """Ask for a robots.txt.

        Source: RFC 9309, section 2.3.1: what a site does not have (4xx) forbids nothing, what it cannot show now (5xx)
        forbids everything. 429 counts among the latter, our choice.
        """
        attempt = _Attempt(self.options.total_timeout_s, {})
        for _ in range(ROBOTS_REDIRECTS + 1):
            try:
                body = await self._ask(url, attempt, {}, image=False)
                status = attempt.found["status"]
                if status == 200:
                    return "allowed", body
                if status in (301, 302, 303, 307, 308):
                    url = self._next(url, attempt.headers)
                elif 400 <= status < 500 and status not in (408, 425, 429):
                    return "none", b""
                else:
                    raise self._stop_of(url, status, attempt.headers)
            except _Stop as stop:
                if "status" in attempt.found and stop.reason in _UNREACHABLE:  # of another host, to which this one led
                    raise _Stop("robots_unavailable", math.inf) from None
                raise
        return "none", b""


_UNREACHABLE = set("no_such_host dns_failed connect_failed connect_timeout tls_failed address_refused port_refused".split())


async def _read(response: httpcore2.Response, attempt: _Attempt, limit: int, image: bool) -> bytes:
    """Read a body of at most `limit` bytes, packed and unpacked; an image's first bytes are looked at as soon as they are there.

    Of a robots.txt the rest beyond the limit is left.
    """
    headers = attempt.headers
    declared = headers.get("content-length", "")
    if image and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise _Stop("too_large")
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise _Stop("bad_encoding")
    unpack = zlib.decompressobj(32 + zlib.MAX_WBITS) if encoding not in ("", "identity") else None
    body, n_packed = bytearray(), 0
    async for chunk in response.aiter_stream():
        n_packed += len(chunk)
        if image and n_packed > limit:
            raise _Stop("too_large")
        try:
            body += unpack.decompress(chunk, limit - len(body) + 1) if unpack else chunk
        except zlib.error:
            raise _Stop("bad_encoding") from None
        if image and len(body) > limit:
            raise _Stop("decompression_bomb")
        if len(body) > limit or n_packed > limit:
            return bytes(body[:limit])
        if image and "extension" not in attempt.found and len(body) >= _MAGIC_BYTES:
            _look(body, attempt)
    if unpack and not unpack.eof:
        raise _Stop("truncated")
    if image and not body:
        raise _Stop("empty")
    if image and "extension" not in attempt.found:
        _look(body, attempt)
    return bytes(body)


async def _drain(response: httpcore2.Response, headers: httpx2.Headers) -> None:
    """Read the short body of an answer that is no image, so that its connection serves the next request."""
    with contextlib.suppress(Exception):
        if int(headers.get("content-length", "-1")) <= 16_384:
            async with asyncio.timeout(1.0):
                async for _ in response.aiter_stream():
                    pass


def _look(body: bytearray, attempt: _Attempt) -> None:
    extension = next((name for magic, name in _MAGIC if re.match(magic, body, re.DOTALL)), None)
    if not extension:
        raise _Stop("not_image")
    if _NO_IMAGE.match(attempt.found["content_type"]):
        raise _Stop("type_mismatch")
    attempt.found["extension"] = extension


def _described(headers: httpx2.Headers) -> dict[str, str]:
    """What is kept of an answer's head; of what is sent back one day, only what can stand in a header."""
    kept = {name: headers.get(name.replace("_", "-"), "") for name in ("etag", "last_modified")}
    kept = {name: value if re.fullmatch(r"[ -~]{1,500}", value) else "" for name, value in kept.items()}
    kept["content_type"] = headers.get("content-type", "").partition(";")[0].strip().lower()[:100]
    return kept | {"x_robots": ", ".join(headers.get_list("x-robots-tag"))[:500]}


def _retry_after_s(headers: httpx2.Headers) -> float:
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _reason_of(error: Exception) -> str:
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


# The journal


class _Journal:
    """One row per URL and one per robots.txt, in SQLite: a row is there wholly or not at all, however the program ends."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "journal.sqlite"
        columns = [f"{field.name} {'TEXT' if field.type == 'str' else 'NUMERIC'} NOT NULL" for field in fields(Fetched)]
        columns[0] += " PRIMARY KEY"
        with _writing(self.path):
            self.database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=NORMAL")
            self.database.execute(f"CREATE TABLE IF NOT EXISTS fetched ({', '.join(columns)}) WITHOUT ROWID")
            self.database.execute(
                "CREATE TABLE IF NOT EXISTS robots (site TEXT PRIMARY KEY, state TEXT, body BLOB, fetched_at REAL)"
            )
            names = [row[1] for row in self.database.execute("PRAGMA table_info(fetched)")]
        if names != [field.name for field in fields(Fetched)]:
            raise DataError(f"{self.path} was written by another version: name another folder")

    def close(self) -> None:
        self.database.close()

    def get(self, url: str) -> Fetched | None:
        with _writing(self.path):
            row = self.database.execute("SELECT * FROM fetched WHERE url = ?", (url,)).fetchone()
        return Fetched(*row) if row else None

    def rows(self) -> Iterator[Fetched]:
        with _writing(self.path):
            yield from (Fetched(*row) for row in self.database.execute("SELECT * FROM fetched ORDER BY url"))

    def put(self, row: Fetched) -> None:
        with _writing(self.path):
            marks = ", ".join("?" * len(fields(Fetched)))
            self.database.execute(f"INSERT OR REPLACE INTO fetched VALUES ({marks})", astuple(row))

    def robots(self, site: str, since: float) -> tuple[str, bytes, float] | None:
        with _writing(self.path):
            query = "SELECT state, body, fetched_at FROM robots WHERE site = ? AND fetched_at > ?"
            return self.database.execute(query, (site, since)).fetchone()

    def put_robots(self, site: str, state: str, body: bytes, fetched_at: float) -> None:
        with _writing(self.path):
            self.database.execute("INSERT OR REPLACE INTO robots VALUES (?, ?, ?, ?)", (site, state, body, fetched_at))


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise DataError(f"{path} cannot be read or written ({error}): free space, or name another folder") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second run out of a folder; the lock ends with the process, however it ends."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows has none: there, do not fetch into one folder twice at once
            pass
        except BlockingIOError:
            raise DataError(f"another run is fetching into {folder}: wait for it, or name another folder") from None
        yield


# The run


def _key(url: object) -> str:
    """A URL as text that has bytes."""
    return str(url).encode("utf-8", "backslashreplace").decode()


async def _download(urls, out: Path, options: config.Fetch, refresh: bool, progress: bool, resolve, backoff_s) -> Summary:
    # Look-ups block a thread each; the usual few would be taken by a handful of dead names.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max(8, min(64, options.concurrency))))
    counts, asked, waiting = Counter(), 0, {}
    started, places = time.time(), asyncio.Semaphore(READ_AHEAD)

    def is_done(row: Fetched) -> bool:
        if row.fetched_at >= started:  # in this run
            return True
        if row.reason == "ok":
            return not refresh and image_path(out, row).is_file()
        return row.reason in REASONS and not (options.retry_failed and REASONS[row.reason].temporary)

    with contextlib.closing(_Journal(out)) as journal, tqdm(desc="fetch", unit=" URLs", disable=not progress) as bar:
        fetcher = _Fetcher(journal, options, resolve, backoff_s)

        async def one(url: str, key: str, known: Fetched | None) -> None:
            try:
                row = await fetcher.fetch(url, key, known)
                count = waiting.pop(key)
                counts[row.reason] += count
                bar.update(count)
            finally:
                places.release()

        async with fetcher.pool, asyncio.TaskGroup() as group:
            for number, url in enumerate(urls):
                if number % 256 == 0:
                    await asyncio.sleep(0)  # rows that are done must not keep the others from going on
                key = _key(url)
                if key in waiting:
                    waiting[key] += 1
                elif (row := journal.get(key)) and is_done(row):
                    counts[row.reason] += 1
                    bar.update(1)
                else:
                    await places.acquire()
                    waiting[key], asked = 1, asked + 1
                    known = row if row and row.reason == "ok" and image_path(out, row).is_file() else None
                    group.create_task(one(url, key, known))
    return Summary(counts, asked)


def _run(work: Coroutine) -> Summary:
    """Run a coroutine to its end, also where a loop is running, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    begun = []

    async def main() -> Summary:
        begun.append((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(asyncio.run, main())
        try:
            return future.result()
        except KeyboardInterrupt:
            for loop, task in begun:
                loop.call_soon_threadsafe(task.cancel)
            raise
