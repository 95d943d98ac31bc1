"""What the owner of a site allows, and how often: robots.txt, the headers that object, a distance between requests.

`read_robots` reads the rules that hold for us (RFC 9309), `objections` what an answer's head says of indexing and learning.
`Sites` keeps, for one run, the turn of each host and the robots.txt of each site, which is asked once a day.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rsvlm.data.addresses import MAX_RETRY_AFTER_S, REASONS, REDIRECTS, Attempt, Stop, redirected, stop_of

if TYPE_CHECKING:
    import httpx2
    from protego import Protego

    from rsvlm import config
    from rsvlm.data.web.fetch import _Journal

AGENT = "rsvlm"
"""The name by which robots.txt and X-Robots-Tag address this program."""

OBJECTIONS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none", "tdm-reservation"})
"""Directives for machines that are honoured, for everybody or for `AGENT`. Source: our choice, as img2dataset's default."""

MAX_CRAWL_DELAY_S = 30.0
ROBOTS_AGE_S = 24 * 3600.0
ROBOTS_FAILED_AGE_S = 600.0
ROBOTS_BYTES = 500 * 1024
ROBOTS_REDIRECTS = 5

_UNREACHABLE = set("no_such_host dns_failed connect_failed connect_timeout tls_failed address_refused port_refused".split())


@dataclass(frozen=True)
class Robots:
    """The rules of one robots.txt that hold for us; none: everything is allowed."""

    rules: Protego | None = None
    crawl_delay_s: float = 0.0

    def allows(self, target: str) -> bool:
        """Tell whether a path with its query may be asked for; the longest rule decides, and allow among equals.

        Source: RFC 9309, section 2.2.2.
        """
        return self.rules is None or self.rules.can_fetch("http://_" + _spelled(target), AGENT)


def read_robots(data: bytes) -> Robots:
    """Read the rules of a robots.txt that hold for us.

    Groups that name us are joined; the group of `*` counts only where none does. `Crawl-delay`, no part of the standard, belongs
    to its group. A path without its first slash is read as if it had one. Protego reads the grammar, from a text in which we
    settle where its answers differ:

    - it takes a name that begins ours (`rsv`) for ours, and one with a version (`rsvlm/1.0`) not: others become `other`;
    - it ends the list of a group's names at a `Crawl-delay`, which we therefore put behind the group's first rule;
    - it takes `%2F` and `/` for two things also in a query, `$` at a rule's end also for a plain dollar, and a `%` that stands
      alone for the beginning of every code: see `_spelled`;
    - it lets a path without its first slash match nothing, and takes the folder of an allowed `index.html` for allowed;
    - it reads text, and splits it at every sign that Unicode takes for an end: we percent-encode all but ASCII.

    Args:
        data: The file; what lies beyond `ROBOTS_BYTES` is not read.

    Source: RFC 9309.
    """
    from protego import Protego

    if len(data) > ROBOTS_BYTES:
        data = data[:ROBOTS_BYTES].rpartition(b"\n")[0]  # half a rule would be another rule
    data = re.sub(rb"[^\t\r\n -~]", lambda match: b"%%%02X" % match[0][0], data.removeprefix(b"\xef\xbb\xbf"))
    lines, delays, ours = [], [], False
    for line in re.split(r"[\r\n]+", data.decode("ascii")):
        name, _, value = (part.strip() for part in line.partition("#")[0].partition(":"))
        name = name.lower()
        naming = bool(lines) and lines[-1].startswith("user-agent")
        if name == "user-agent":
            token = re.match(r"\*(?=\s|$)|[A-Za-z_-]*", value)[0].lower()
            lines.append(f"user-agent: {token if token in (AGENT, '*') else 'other'}")
            ours = token in (AGENT, "*") or (naming and ours)
        elif name in ("allow", "disallow"):
            path = value if value[:1] in "/*" else f"/{value}"
            anchor = "$" if path.endswith("$") else "*" if path.endswith("/index.html") else ""
            rule = f"{name}: {_spelled(path.removesuffix('$'))}{anchor}"
            lines += [rule if ours else "disallow:", *delays]  # nothing of others is kept: a hostile file has thousands
            delays = []
        elif name == "crawl-delay":
            (delays if naming else lines).append(f"crawl-delay: {value}")
    rules = Protego.parse("\n".join(lines + delays))
    return Robots(rules, rules.crawl_delay(AGENT) or 0.0)


def _spelled(path: str) -> str:
    """Spell in one way what means one thing: a slash or question mark in a query, a dollar that is no anchor, a lone percent."""
    path, mark, query = re.sub("%(?![0-9A-Fa-f]{2})", "%25", path).partition("?")
    query = re.sub("%3f", "?", re.sub("%2f", "/", query, flags=re.IGNORECASE), flags=re.IGNORECASE)
    return re.sub(r"%24|\$", "%00", path + mark + query)


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


class Sites:
    """The hosts and sites of one run: when each may be asked, and for what.

    `ask(url, attempt)` sends one request and returns the body; status and headers are then in the attempt. `journal` keeps the
    robots.txt files of earlier runs.
    """

    def __init__(
        self, ask: Callable[[httpx2.URL, Attempt], Awaitable[bytes]], journal: _Journal, options: config.Fetch, backoff_s
    ):
        self.ask, self.journal, self.options, self.backoff_s = ask, journal, options, backoff_s
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
        stop = stop_of(status, headers)
        if stop.wait_s:
            gate = self._gate(url)
            gate.next_turn = max(gate.next_turn, time.monotonic() + min(stop.wait_s, MAX_RETRY_AFTER_S))
        return stop

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
        if stored := self.journal.robots(site, time.time() - ROBOTS_AGE_S):
            state, body, fetched_at = stored
            return Policy(state, read_robots(body), expires=fetched_at + ROBOTS_AGE_S)
        for number in itertools.count(1):
            try:
                state, body = await self._ask_policy(url.join("/robots.txt"))
            except Stop as stop:
                reason, wait_s = stop.reason, stop.wait_s
            else:
                self.journal.put_robots(site, state, body, time.time())
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
                status = attempt.answer["status"]
                if status == 200:
                    return "allowed", body
                if status in REDIRECTS:
                    url = redirected(url, attempt.headers, self.options.allow_loopback)
                elif 400 <= status < 500 and status not in (408, 425, 429):
                    return "none", b""
                else:
                    raise self.stop_of(url, status, attempt.headers)
            except Stop as stop:
                if "status" in attempt.answer and stop.reason in _UNREACHABLE:  # of another host, to which this one led
                    raise Stop("robots_unavailable", math.inf) from None
                raise
        return "none", b""


def directives_of(text: str) -> set[str]:
    """Return directives of an X-Robots-Tag, or of a page's `<meta name=robots>`, that hold for everybody or for us.

    `agent: directive` holds for that agent up to the end of the line; some directives have values of their own.
    """
    directives, ours = set(), True
    for item in text.lower().split(","):
        agent, colon, rest = item.partition(":")
        agent = agent.strip()
        if colon and (agent == "unavailable_after" or agent.startswith("max-")):
            continue
        if colon:
            ours, item = agent in ("", "*", AGENT), rest
        if ours:
            directives.add(item.strip())
    return directives


def objections(headers: Iterable[tuple[str, str]]) -> set[str]:
    """Return those of `OBJECTIONS` that an answer's headers hold, as names and values.

    Source: the headers X-Robots-Tag, and TDM-Reservation of the TDM Reservation Protocol.
    """
    directives = set()
    for name, value in headers:
        if name.lower() == "x-robots-tag":
            directives |= directives_of(value) & OBJECTIONS
        elif name.lower() == "tdm-reservation" and value.strip() == "1":
            directives.add("tdm-reservation")
    return directives
