"""Captions from landmarks: the loop that pays for nothing twice.

`caption_all` puts a cache, a budget, retries and a limit of requests on their way around any captioner (`clients`). Answers are
kept in one SQLite file and written in the transaction that books what they cost, so a killed run has paid for what is in the
cache and for the requests that were on their way. The file uses a rollback journal, not a write-ahead log, because the latter
breaks on folders that several machines share.

Source: our choice. The paper names Gemini as the writer; how it was asked was not published.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import random
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rsvlm.data.captions.clients import Grammar, open_captioner
from rsvlm.data.captions.prompts import PASSING, REPAIRABLE, Captioner, Failure, Reply, Request, facts
from rsvlm.errors import ConfigError, DataError, RsvlmError

if TYPE_CHECKING:
    from rsvlm import config

__all__ = ["Budget", "BudgetExhausted", "Captioner", "Reply", "Request", "caption_all", "open_captioner", "spent"]

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 600.0
"""A server that asks for more patience than this is taken to be unavailable."""

PATIENCE = 3
"""So many requests in a row given up, with no answer in between, and the run stops instead of losing chips."""

POLL_S = 30.0
"""Time between two looks at a batch job, in seconds."""

MOST_BATCH_BYTES = 12_000_000
"""Bytes of pictures in one batch job at most: as base64, with the texts, they stay below the 20 MB that Gemini takes."""

_STORE_VERSION = 1
_ACCOUNTS = ("requests", "tokens_in", "tokens_out", "cost")


class BudgetExhausted(RsvlmError):
    """The next request might cost more than the budget has left; what was paid for is in the cache."""


@dataclass(frozen=True)
class Budget:
    """What a cache folder may cost over all its runs; a limit that is None is no limit. Prices are of a million tokens."""

    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self):
        if self.max_cost is not None and not self.price_in + self.price_out > 0:
            raise ConfigError("captioner.max_cost needs prices: set captioner.price_in and captioner.price_out")

    @classmethod
    def of(cls, options: config.Captioner) -> Budget:
        """Take the budget from the options."""
        return cls(options.max_requests, options.max_tokens, options.max_cost, options.price_in, options.price_out)

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Price tokens, in the currency of the prices."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


def caption_all(
    requests: Iterable[Request],
    captioner: Captioner,
    cache: Path | str,
    *,
    sleep: Callable[[float], object] | None = None,
) -> Iterator[tuple[str, Reply]]:
    """Caption chips, in their order; what is in the cache is not asked for again.

    Args:
        requests: The chips; a few times `concurrency` of them (or `batch`) are held in memory.
        captioner: Who is asked. The grammar is free: it is asked directly, without threads, budget or cache.
        cache: Folder of the cache and its accounts; made where it is missing. Several processes, also of several machines
            whose shared folder has working locks, may use one. The options' budget is what it may cost over all its runs, the
            requests of killed runs included.
        sleep: Function that waits so many seconds. If None, a wait that ends early when the run stops.

    Yields:
        Key and reply. A chip without captions is a reply with a reason.

    Raises:
        BudgetExhausted: The next request might cost more than is left. Every answer paid for is in the cache.
        ConfigError: The server refuses the key, or does not know the model.
        RsvlmError: Requests fail one after the other: the server is down, or takes all of them for wrong.
        DataError: The cache cannot be read or written.
    """
    if isinstance(captioner, Grammar):
        yield from ((request.key, captioner.ask(request)) for request in requests)
        return
    concurrency, batch = captioner.options.concurrency, captioner.options.batch
    with contextlib.closing(_Store(Path(cache))) as store:
        run = _Run(captioner, store, sleep)
        if batch:
            if not hasattr(captioner, "post"):
                raise ConfigError(f"the client '{captioner.identity['client']}' has no batch jobs: set batch to 0")
            for chunk in _chunks(requests, batch):
                yield from run.obtain_batch(chunk)
            return
        waiting: deque[tuple[Request, str, Reply | Future]] = deque()
        asked: dict[str, Future] = {}
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="caption")
        try:
            for request in requests:
                digest = _digest(captioner.identity, request)
                # What is being asked is looked up first: it moves from there into the cache, never the other way.
                reply = asked.get(digest) or store.find(digest)
                if reply is None:
                    reply = asked[digest] = pool.submit(run.obtain, request, digest)
                waiting.append((request, digest, reply))
                while waiting and (
                    len(waiting) >= 4 * concurrency or isinstance(waiting[0][2], Reply) or waiting[0][2].done()
                ):
                    yield run.take(*waiting.popleft(), asked)
            while waiting:
                yield run.take(*waiting.popleft(), asked)
        finally:
            # Requests on their way are paid for: wait for them, so that their answers are kept.
            run.halt()
            pool.shutdown(wait=True, cancel_futures=True)
        run.check_end()


def spent(cache: Path | str) -> dict[str, float]:
    """Return what a cache folder has cost over all its runs: requests, tokens, cost.

    Raises:
        DataError: The cache cannot be read.
    """
    with contextlib.closing(_Store(Path(cache))) as store:
        return store.totals()


class _Stopped(Exception):
    """Another thread met an error first."""


class _Run:
    """What the threads of one `caption_all` share: the accounts, the failures in a row, the first error."""

    def __init__(self, captioner: Captioner, store: _Store, sleep: Callable | None):
        self.captioner, self.store = captioner, store
        self.budget, self.retries = Budget.of(captioner.options), captioner.options.retries
        self.stop = threading.Event()
        self.sleep = sleep or self.stop.wait
        self.room = threading.Condition()
        self.flying = self.answered = self.failed = self.heaviest = 0
        self.last = ""
        self.error: BaseException | None = None
        self.chance = random.Random()

    def obtain(self, request: Request, digest: str) -> Reply:
        """Ask until there is a reply; runs in a thread."""
        try:
            return self._obtain(request, digest)
        except BaseException as error:
            with self.room:
                if self.error is None and not isinstance(error, _Stopped):
                    self.error = error
            self.halt()
            raise

    def halt(self) -> None:
        """Let threads that wait give up; what is on its way comes home."""
        self.stop.set()
        with self.room:
            self.room.notify_all()

    def take(self, request: Request, digest: str, reply: Reply | Future, asked: dict) -> tuple[str, Reply]:
        """Wait for a reply."""
        if isinstance(reply, Future):
            try:
                reply = reply.result()
            except BaseException:
                if self.error is None:
                    raise
                reply = None
            if reply is None:  # the first error is raised, outside of the handler of another
                self.halt()
                raise self.error
            asked.pop(digest, None)
        return request.key, reply

    def check_end(self) -> None:
        """Do not take a server that never answered for one that has nothing to say."""
        if self.failed and not self.answered and self.last.startswith("unavailable"):
            raise RsvlmError(f"no request was answered, the last because {self.last}: run again when the server is up")

    def _obtain(self, request: Request, digest: str) -> Reply:
        usage, complaint, tries = dict.fromkeys(_ACCOUNTS, 0), "", 0
        while True:
            claim = self.claim(request, complaint)
            try:
                reply, failure = self.captioner.ask(request, complaint), None
            except Failure as caught:
                failure = caught
            except BaseException:
                self.settle(claim, (0, 0))
                raise
            if failure is None:
                tokens = (reply.usage.get("tokens_in", claim[0]), reply.usage.get("tokens_out", claim[1]))
                usage = self._added(usage, tokens)
                reply = Reply(reply.captions, reply.refused, usage)
                final = reply.refused not in REPAIRABLE or bool(complaint)
                self.settle(claim, tokens, digest if final else None, reply)
                if final:
                    return reply
                complaint = REPAIRABLE[reply.refused]
                continue
            tokens = claim if failure.charged else (0, 0)
            usage = self._added(usage, tokens)
            self.settle(claim, tokens)
            wait_s = failure.wait_s
            if wait_s is None:  # half of it certain, half by chance, so that threads do not come back together
                wait_s = min(2.0**tries, 60.0) * self.chance.uniform(0.5, 1.0)
            tries += wait_s > 0
            if not failure.again or tries > self.retries or wait_s > LONGEST_WAIT_S:
                return self._give_up(request, failure, usage)
            log.info("chip %s: %s; asking again in %.1f s", request.key, failure, wait_s)
            self.sleep(wait_s)
            if self.stop.is_set():
                raise _Stopped

    def _give_up(self, request: Request, failure: Failure, usage: dict) -> Reply:
        with self.room:
            self.failed, self.last = self.failed + 1, f"{failure.reason}: {failure}"
            failed = self.failed
        log.warning("chip %s: given up, %s", request.key, failure)
        if failed >= PATIENCE:
            raise RsvlmError(f"{failed} requests in a row were given up, the last because {self.last}. What was paid is kept")
        return Reply(None, failure.reason, usage)

    def _added(self, usage: dict, tokens: tuple[int, int]) -> dict:
        """Return what was used with one more request."""
        more = (1, *tokens, self.budget.cost(*tokens))
        return {name: value + new for (name, value), new in zip(usage.items(), more, strict=True)}

    def claim(self, request: Request, complaint: str = "") -> tuple[int, int]:
        """Set aside tokens for the next request; wait for those on their way where only they stand in the way."""
        weight_in, weight_out = self.captioner.weigh(request)
        with self.room:
            while not self.stop.is_set():
                claim = (max(weight_in, self.heaviest), weight_out * (2 if complaint else 1))
                short = self.store.claim(self.budget, claim)
                if short is None:
                    self.flying += 1
                    return claim
                if not self.flying:
                    raise BudgetExhausted(short)
                self.room.wait()
        raise _Stopped

    def settle(self, claim: tuple[int, int], tokens: tuple[int, int], digest: str | None = None, reply: Reply | None = None):
        """Book what a request did cost in place of what was set aside, and keep its reply, in one transaction."""
        try:
            self.store.settle(self.budget, claim, tokens, digest, reply)
        finally:
            with self.room:
                self.flying -= 1
                if reply is not None:
                    self.answered, self.failed = self.answered + 1, 0
                    self.heaviest = max(self.heaviest, tokens[0])
                self.room.notify_all()

    def obtain_batch(self, chunk: Sequence[Request]) -> Iterator[tuple[str, Reply]]:
        """Ask for many chips by one job; a job that an earlier run started is waited for, not paid again."""
        digests = [_digest(self.captioner.identity, request) for request in chunk]
        for job in self.store.jobs(digests):
            self._collect(job)
        missing = {d: request for d, request in zip(digests, chunk, strict=True) if self.store.find(d) is None}
        short, claims = None, {}
        for digest, request in missing.items():
            claim = self.captioner.weigh(request)
            short = self.store.claim(self.budget, claim)
            if short is not None:
                break
            claims[digest] = claim
        passing: dict[str, Reply] = {}
        if claims:
            job = self._persist(lambda: self.captioner.post({digest: missing[digest] for digest in claims}))
            self.store.add_job(job, claims)
            passing = self._collect(job)
        for digest, request in zip(digests, chunk, strict=True):
            reply = self.store.find(digest) or passing.get(digest)
            if reply is None:
                raise BudgetExhausted(short)
            yield request.key, reply

    def _collect(self, job: str) -> dict[str, Reply]:
        """Wait for a job and keep its replies; return those that are not kept."""
        claims, passing, replies = self.store.claims(job), {}, None
        while replies is None:
            try:
                replies = self._persist(lambda: self.captioner.collect(job))
            except Failure as failure:
                if not failure.again:  # the job is lost; what was set aside for it stays booked
                    self.store.drop_job(job)
                raise
            if replies is None:
                self.sleep(POLL_S)
        for digest, claim in claims.items():
            reply = replies.get(digest) or Reply(None, "unavailable")
            tokens = (reply.usage.get("tokens_in", 0), reply.usage.get("tokens_out", 0))
            reply = Reply(reply.captions, reply.refused, self._added(dict.fromkeys(_ACCOUNTS, 0), tokens))
            if reply.refused in PASSING:
                passing[digest] = reply
            self.store.settle(self.budget, claim, tokens, digest, reply)
        self.store.drop_job(job)
        return passing

    def _persist(self, call: Callable):
        """Call until there is an answer, `retries` times at most."""
        for attempt in range(self.retries):
            try:
                return call()
            except Failure as failure:
                if not failure.again:
                    raise
                wait_s = failure.wait_s
            self.sleep(min(2.0**attempt, 60.0) if wait_s is None else min(wait_s, LONGEST_WAIT_S))
        return call()


class _Store:
    """The cache and its accounts: one SQLite file, safe with several threads and processes, whole after any kill."""

    def __init__(self, folder: Path):
        self.path = folder / "captions.sqlite"
        self.lock = threading.Lock()
        self.database = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder} cannot be made ({error.strerror}): name another folder for the cache") from None
        with self._transaction() as execute:
            version = execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _STORE_VERSION):
                advice = "move it away, or name another folder"
                raise DataError(f"{self.path} is of version {version}, not {_STORE_VERSION}: {advice}")
            if version == 0:
                execute("CREATE TABLE replies (digest TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID")
                execute("CREATE TABLE jobs (digest TEXT PRIMARY KEY, job TEXT, tokens_in INTEGER, tokens_out INTEGER)")
                execute("CREATE TABLE totals (requests INTEGER, tokens_in INTEGER, tokens_out INTEGER, cost REAL)")
                execute("INSERT INTO totals VALUES (0, 0, 0, 0.0)")
                execute(f"PRAGMA user_version = {_STORE_VERSION}")

    def close(self) -> None:
        """Close the file."""
        if self.database is not None:
            self.database.close()

    @contextlib.contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[Callable]:
        """Run statements all or none, one thread and one process at a time."""
        problem = None
        with self.lock:
            try:
                if self.database is None:
                    self.database = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
                    self.database.execute("PRAGMA journal_mode = TRUNCATE")
                    self.database.execute("PRAGMA synchronous = FULL")
                self.database.execute(begin)
                try:
                    yield self.database.execute
                    self.database.execute("COMMIT")
                except BaseException:
                    if self.database.in_transaction:
                        self.database.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                problem = error
        if problem is not None:
            raise DataError(f"the cache {self.path} cannot be used ({problem}): free the disk, or move the file away")

    def find(self, digest: str) -> Reply | None:
        """Return a kept reply."""
        with self._transaction(begin="BEGIN") as execute:  # readers do not wait for each other
            row = execute("SELECT reply FROM replies WHERE digest = ?", (digest,)).fetchone()
        return Reply(**json.loads(row[0])) if row else None

    def claim(self, budget: Budget, tokens: tuple[int, int]) -> str | None:
        """Book a request with the most that it may cost; or say what stands against it, and book nothing."""
        with self._transaction() as execute:
            requests, tokens_in, tokens_out, cost = execute("SELECT * FROM totals").fetchone()
            limits = (
                ("requests", budget.max_requests, requests, 1),
                ("tokens", budget.max_tokens, tokens_in + tokens_out, sum(tokens)),
                ("cost", budget.max_cost, cost, budget.cost(*tokens)),
            )
            for name, most, used, more in limits:
                if most is not None and used + more > most + 1e-9:
                    short = f"captioner.max_{name}={most:g} is used up: {used:g} so far, and the next needs up to {more:g}"
                    return (
                        f"the budget {short}. Answers paid for are kept in {self.path}: raise the budget, run the same again"
                    )
            self._book(execute, 1, *tokens, budget.cost(*tokens))
        return None

    def settle(self, budget: Budget, claim: tuple[int, int], tokens: tuple[int, int], digest: str | None, reply: Reply | None):
        """Book the true cost in place of the claim, and keep the reply if it has a digest and is not one that passes."""
        with self._transaction() as execute:
            more = [new - old for new, old in zip(tokens, claim, strict=True)]
            self._book(execute, 0, *more, budget.cost(*tokens) - budget.cost(*claim))
            if digest is not None and reply.refused not in PASSING:
                text = json.dumps(asdict(reply), ensure_ascii=False)
                execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (digest, text))

    def totals(self) -> dict[str, float]:
        """Return what was spent."""
        with self._transaction() as execute:
            row = execute("SELECT * FROM totals").fetchone()
        return dict(zip(_ACCOUNTS, row, strict=True))

    def add_job(self, job: str, claims: Mapping[str, tuple[int, int]]) -> None:
        """Write down which chips a batch job is about."""
        with self._transaction():
            rows = [(digest, job, *claim) for digest, claim in claims.items()]
            self.database.executemany("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?)", rows)

    def jobs(self, digests: Sequence[str]) -> list[str]:
        """Return the unfinished jobs that are about any of these chips."""
        with self._transaction() as execute:
            rows = [execute("SELECT job FROM jobs WHERE digest = ?", (digest,)).fetchone() for digest in digests]
        return sorted({row[0] for row in rows if row})

    def claims(self, job: str) -> dict[str, tuple[int, int]]:
        """Return the chips of a job and what was set aside for each."""
        with self._transaction() as execute:
            rows = execute("SELECT digest, tokens_in, tokens_out FROM jobs WHERE job = ?", (job,)).fetchall()
        return {digest: (tokens_in, tokens_out) for digest, tokens_in, tokens_out in rows}

    def drop_job(self, job: str) -> None:
        """Forget a job."""
        with self._transaction() as execute:
            execute("DELETE FROM jobs WHERE job = ?", (job,))

    @staticmethod
    def _book(execute: Callable, requests: int, tokens_in: int, tokens_out: int, cost: float) -> None:
        change = "requests = requests + ?, tokens_in = tokens_in + ?, tokens_out = tokens_out + ?, cost = cost + ?"
        execute(f"UPDATE totals SET {change}", (requests, tokens_in, tokens_out, cost))


def _digest(identity: Mapping, request: Request) -> str:
    """Name an answer by what decides it: who is asked, with which prompt, about which picture and which landmarks."""
    language = (identity.get("parameters") or {}).get("language") or "en"
    parts = {"identity": identity, "image": hashlib.sha256(request.image).hexdigest()}
    parts["facts"] = facts(request.record, language)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _chunks(requests: Iterable[Request], most: int) -> Iterator[list[Request]]:
    chunk: list[Request] = []
    for request in requests:
        if chunk and (len(chunk) == most or sum(len(r.image) for r in chunk) + len(request.image) > MOST_BATCH_BYTES):
            yield chunk
            chunk = []
        chunk.append(request)
    if chunk:
        yield chunk
