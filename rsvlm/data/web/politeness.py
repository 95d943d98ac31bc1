"""How often a host may be asked, and for what: a distance between requests, rest where it is wanted, and each site's own files.

`Sites` keeps, for one run, the turn of each host, and asks once a day for what each site says: its robots.txt, tdmrep.json and
ai.txt, read by `reservations`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rsvlm.data.addresses import MAX_RETRY_AFTER_S, REASONS, REDIRECTS, Attempt, Stop, redirected, stop_of
from rsvlm.data.web.reservations import Robots, read_ai_txt, read_robots, read_tdmrep

if TYPE_CHECKING:
    import httpx2

    from rsvlm import config
    from rsvlm.data.web.journal import Journal

ROBOTS_AGE_S = 24 * 3600.0
ROBOTS_FAILED_AGE_S = 600.0
ROBOTS_REDIRECTS = 5
MAX_FAILURES = 5
"""After so many failures of a host in a row it is left alone for the rest of the run. Source: our choice."""

_RESERVATIONS = (("/.well-known/tdmrep.json", read_tdmrep, "tdmrep_reserved"), ("/ai.txt", read_ai_txt, "ai_txt_disallowed"))
_UNREACHABLE = set("no_such_host dns_failed connect_failed connect_timeout tls_failed address_refused port_refused".split())
_OVERTAXED = {"connect_failed", "connect_timeout", "read_timeout", "total_timeout"}


@dataclass
class _Gate:
    """The way to one host: so many at once, and a distance between them."""

    slots: asyncio.Semaphore
    order: asyncio.Lock
    delay_s: float
    next_turn: float = 0.0
    rests_until: float = 0.0  # time.monotonic(); infinite: to the end of the run
    failures: int = 0  # in a row
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
        self, ask: Callable[[httpx2.URL, Attempt], Awaitable[bytes]], journal: Journal, options: config.Fetch, backoff_s
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
                gates = self.gates.items()
                self.gates = {n: gate for n, gate in gates if gate.users or max(gate.next_turn, gate.rests_until) > now}
                self.gates_kept = max(10_000, 2 * len(self.gates))
            self.gates[host] = _Gate(asyncio.Semaphore(self.options.per_host), asyncio.Lock(), self.options.host_delay_s)
        return self.gates[host]

    @contextlib.asynccontextmanager
    async def turn(self, url: httpx2.URL, attempt: Attempt) -> AsyncIterator[None]:
        """Wait for one's turn at a host, then for a free connection; hold both.

        Raises:
            Stop: The host rests: it asked for more time than anybody waits, or failed too often.
        """
        gate = self._gate(url)
        gate.users += 1
        try:
            async with gate.slots:
                async with gate.order:  # who waits for a connection holds up this host alone
                    while gate.rests_until <= time.monotonic() < gate.next_turn:
                        await asyncio.sleep(gate.next_turn - time.monotonic())
                    if gate.rests_until > time.monotonic():
                        raise Stop("host_resting", math.inf)
                    await self.slots.acquire()
                    gate.next_turn = time.monotonic() + gate.delay_s
                failed = False
                try:
                    yield
                    failed = attempt.answer["status"] in (429, 503)
                except Stop as stop:
                    failed = stop.reason in _OVERTAXED
                    raise
                finally:
                    self.slots.release()
                    gate.failures = gate.failures + 1 if failed else 0
                    if gate.failures >= MAX_FAILURES:
                        gate.rests_until = math.inf
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
        """Return why a status is no answer; a host that asks for rest gets it from everybody, for as long as it asks."""
        stop, gate = stop_of(status, headers), self._gate(url)
        if stop.wait_s > MAX_RETRY_AFTER_S:
            gate.rests_until = max(gate.rests_until, time.monotonic() + stop.wait_s)
        elif stop.wait_s:
            gate.next_turn = max(gate.next_turn, time.monotonic() + stop.wait_s)
        return stop

    async def policy(self, url: httpx2.URL) -> Policy:
        """Return what the robots.txt of a site allows; asked once a day, whoever wants to know."""
        policy = await self._once(f"{url.scheme}://{url.netloc.decode('ascii')}", lambda site: self._load_policy(site, url))
        gate = self._gate(url)
        gate.delay_s = max(gate.delay_s, min(policy.robots.crawl_delay_s, self.options.max_crawl_delay_s))
        return policy

    async def refusal(self, url: httpx2.URL, policy: Policy) -> str:
        """Return why an address may not be asked for, by its site's files, or nothing; robots.txt is looked at first."""
        target = url.raw_path.decode("ascii")
        if refused := policy.reason or policy.robots.refusal(target):
            return refused
        if policy.robots.crawl_delay_s > self.options.max_crawl_delay_s:
            return "crawl_delay_too_long"
        for path, read, reason in _RESERVATIONS:
            name = f"{url.scheme}://{url.netloc.decode('ascii')}{path}"
            reserved = await self._once(
                name, lambda name, path=path, read=read: self._load_reservation(name, url.join(path), read)
            )
            if not reserved.robots.allows(target):
                return reason
        return ""

    async def _once(self, name: str, load: Callable[[str], Coroutine[None, None, Policy]]) -> Policy:
        task = self.policies.get(name)
        if task is None or (task.done() and task.result().expires < time.time()):
            task = self.policies[name] = asyncio.create_task(load(name))
            while len(self.policies) > 4096:  # on disk they stay
                self.policies.popitem(last=False)
        self.policies.move_to_end(name)
        return await asyncio.shield(task)

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

    async def _load_reservation(self, name: str, url: httpx2.URL, read: Callable[[bytes], Robots]) -> Policy:
        """Ask once for a file that few sites have; one that cannot be had reserves nothing."""
        if stored := self.journal.robots(name, time.time() - ROBOTS_AGE_S):
            state, body, fetched_at = stored
            return Policy(state, read(body), expires=fetched_at + ROBOTS_AGE_S)
        try:
            state, body = await self._ask_policy(url)
        except Stop:
            return Policy("unavailable", expires=time.time() + ROBOTS_FAILED_AGE_S)
        self.journal.put_robots(name, state, body, time.time())
        return Policy(state, read(body), expires=time.time() + ROBOTS_AGE_S)

    async def _ask_policy(self, url: httpx2.URL) -> tuple[str, bytes]:
        """Ask for a robots.txt, or another file of a site.

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
