"""What the owner of a site allows, and how often: robots.txt, the headers that object, a distance between requests.

`read_robots` reads the rules that hold for us (RFC 9309), `refused_by_headers` what an answer's head says of indexing and
learning. `Sites` keeps, for one run, the turn of each host and the robots.txt of each site, which is asked once a day.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import itertools
import math
import random
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rsvlm.addresses import REASONS, Attempt, Stop, redirected

if TYPE_CHECKING:
    import httpx2

    from rsvlm import config

AGENT = "rsvlm"
"""The name by which robots.txt and X-Robots-Tag address this program."""

HEADER_REFUSALS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
"""Directives of X-Robots-Tag that are honoured, for everybody or for `AGENT`. Source: our choice, as img2dataset's default."""

MAX_CRAWL_DELAY_S = 30.0
MAX_RETRY_AFTER_S = 60.0
ROBOTS_AGE_S = 24 * 3600.0
ROBOTS_FAILED_AGE_S = 600.0
ROBOTS_BYTES = 500 * 1024
ROBOTS_REDIRECTS = 5

_UNREACHABLE = set("no_such_host dns_failed connect_failed connect_timeout tls_failed address_refused port_refused".split())


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


@dataclass
class _Gate:
    """The way to one host: so many at once, and a distance between them."""

    slots: asyncio.Semaphore
    order: asyncio.Lock
    delay_s: float
    next_turn: float = 0.0
    users: int = 0


class Policy(NamedTuple):
    """What a site allows."""

    state: str  # as fetch.Fetched.robots
    robots: Robots = Robots()
    reason: str = ""  # why nothing is allowed for now
    expires: float = math.inf  # time.time()


class Store(Protocol):
    """Where the robots.txt files of earlier runs are."""

    def robots(self, site: str, since: float) -> tuple[str, bytes, float] | None:
        """Return the state, the file and the time (seconds since the epoch) of a site's robots.txt."""

    def put_robots(self, site: str, state: str, body: bytes, fetched_at: float) -> None:
        """Keep a robots.txt."""


class Sites:
    """The hosts and sites of one run: when each may be asked, and for what.

    `ask(url, attempt)` sends one request and returns the body; status and headers are then in the attempt.
    """

    def __init__(self, ask: Callable[[httpx2.URL, Attempt], Awaitable[bytes]], store: Store, options: config.Fetch, backoff_s):
        self.ask, self.store, self.options, self.backoff_s = ask, store, options, backoff_s
        self.slots = asyncio.Semaphore(options.concurrency)
        self.gates: dict[str, _Gate] = {}
        self.gates_kept = 10_000
        self.policies: OrderedDict[str, asyncio.Task[Policy]] = OrderedDict()

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
    async def turn(self, url: httpx2.URL) -> AsyncIterator[None]:
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

    async def again(self, number: int, reason: str, wait_s: float) -> bool:
        """After attempt `number`, counted from 1, wait for a further one; false: there is to be none."""
        if not REASONS[reason].temporary or wait_s > MAX_RETRY_AFTER_S or number > self.options.retries:
            return False
        # The host's gate is open to others meanwhile, so no URL that may never come holds up those that will.
        await asyncio.sleep(max(wait_s, self.backoff_s * 2 ** (number - 1) * random.uniform(0.5, 1.5)))
        return True

    def stop_of(self, url: httpx2.URL, status: int, headers: httpx2.Headers) -> Stop:
        """Return why a status is no answer; a host that asks for rest gets it from everybody."""
        wait_s = _retry_after_s(headers) if status in (429, 503) else 0.0
        if wait_s:
            gate = self._gate(url)
            gate.next_turn = max(gate.next_turn, time.monotonic() + min(wait_s, MAX_RETRY_AFTER_S))
        if status == 429:
            return Stop("too_many_requests", wait_s)
        if status >= 500 or status in (408, 425):
            return Stop("server_error", wait_s)
        return Stop("client_error" if status >= 400 else "status_unexpected")

    async def policy(self, url: httpx2.URL) -> Policy:
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

    async def _load_policy(self, site: str, url: httpx2.URL) -> Policy:
        if stored := self.store.robots(site, time.time() - ROBOTS_AGE_S):
            state, body, fetched_at = stored
            return Policy(state, read_robots(body), expires=fetched_at + ROBOTS_AGE_S)
        for number in itertools.count(1):
            try:
                state, body = await self._ask_policy(url.join("/robots.txt"))
            except Stop as stop:
                reason, wait_s = stop.reason, stop.wait_s
            else:
                self.store.put_robots(site, state, body, time.time())
                return Policy(state, read_robots(body), expires=time.time() + ROBOTS_AGE_S)
            if not await self.again(number, reason, wait_s):
                break
        # A host that cannot be reached at all is told as such: its images could not be had either.
        reason = reason if reason in _UNREACHABLE else "robots_unavailable"
        return Policy("unavailable", reason=reason, expires=time.time() + ROBOTS_FAILED_AGE_S)

    async def _ask_policy(self, url: httpx2.URL) -> tuple[str, bytes]:
        """Ask for a robots.txt.

        Source: RFC 9309, section 2.3.1: what a site does not have (4xx) forbids nothing, what it cannot show now (5xx)
        forbids everything. 429 counts among the latter, our choice.
        """
        attempt = Attempt(self.options.total_timeout_s, {})
        for _ in range(ROBOTS_REDIRECTS + 1):
            try:
                body = await self.ask(url, attempt)
                status = attempt.found["status"]
                if status == 200:
                    return "allowed", body
                if status in (301, 302, 303, 307, 308):
                    url = redirected(url, attempt.headers, self.options.allow_loopback)
                elif 400 <= status < 500 and status not in (408, 425, 429):
                    return "none", b""
                else:
                    raise self.stop_of(url, status, attempt.headers)
            except Stop as stop:
                if "status" in attempt.found and stop.reason in _UNREACHABLE:  # of another host, to which this one led
                    raise Stop("robots_unavailable", math.inf) from None
                raise
        return "none", b""


def refused_by_headers(headers: httpx2.Headers) -> str | None:
    """Return the reason for which the owner of an answer objects to its use, if any.

    Source: the headers X-Robots-Tag, and TDM-Reservation of the TDM Reservation Protocol.
    """
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


def _retry_after_s(headers: httpx2.Headers) -> float:
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
