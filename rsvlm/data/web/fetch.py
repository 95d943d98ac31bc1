"""Images from the web: polite, safe, resumable, and a reason for every URL.

`download` asks each website's robots.txt first, keeps a distance between requests to one host, tells honestly who asks, and
takes an image only when its owner does not object (`reservations`). No request can reach an address that is not public, on
no hop of a redirect (`addresses`). What came of a URL is one row of a journal (`journal.sqlite`), its bytes a file named by
their hash, so that a run that was killed goes on where it stopped and asks nobody twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import math
import re
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from rsvlm import __version__
from rsvlm.data import addresses
from rsvlm.data.addresses import REASONS, REDIRECTS, Attempt, Stop
from rsvlm.data.web.journal import (
    Fetched,
    Journal,
    alone,
    as_key,
    image_path,
    results as results,  # read with the same name by whoever downloads
    writing,
)
from rsvlm.data.web.politeness import Sites
from rsvlm.data.web.reservations import AGENT, ROBOTS_BYTES, refusal_of
from rsvlm.errors import ConfigError, DataError, need
from rsvlm.records import files

if TYPE_CHECKING:
    import httpcore2
    import httpx2

    from rsvlm import config

log = logging.getLogger(__name__)

READ_AHEAD = 8192
"""URLs that wait for their host at once; a longer run of one host's URLs holds up the others."""

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


@dataclass(frozen=True)
class Summary:
    """What came of all URLs of one call."""

    counts: Counter  # URLs by reason, those of earlier runs included; they add up to the URLs given
    asked: int  # URLs that this run asked for; the others were done


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
        resolve: `await resolve(host, port)` gives the addresses of a host, as text. If None, the system's look-up.
        backoff_s: Wait before the second attempt, in seconds; doubled for each further one.

    Returns:
        The number of URLs that ended in each reason; the rows are read with `results`.

    Raises:
        ConfigError: `fetch.contact` cannot stand in a header.
        DataError: The folder cannot be written, or its journal is of another program.
        MissingExtraError: httpx2, httpcore2 or protego is not installed.
    """
    if not re.fullmatch(r"[!-'*-~ ]*", options.contact):
        raise ConfigError(f"fetch.contact={options.contact!r} cannot stand in a header: use ASCII without parentheses")
    for package in ("httpcore2", "httpx2", "protego"):
        need(package, "data")
    try:
        with alone(Path(out)):
            return _run(_download(urls, Path(out), options, refresh, progress, resolve or addresses.look_up, backoff_s))
    except BaseExceptionGroup as group:  # of the tasks of one run; the first is the cause
        raise group.exceptions[0] from None


class _Fetcher:
    """One run: its connections, and what it may ask of whom."""

    def __init__(self, journal: Journal, options: config.Fetch, resolve, backoff_s: float):
        import httpcore2
        import httpx2

        self.journal, self.options = journal, options
        # The bare transport: a client would bring cookies, redirects and proxies of the environment, none of which is wanted.
        self.pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            max_connections=options.concurrency,
            keepalive_expiry=10.0,
            network_backend=addresses.AsyncBackend(options.allow_loopback, resolve),
        )
        self.sites = Sites(self._ask, journal, options, backoff_s)
        self.removed = journal.removed()
        self.writing = [asyncio.Lock() for _ in range(64)]
        self.agent = f"{AGENT}/{__version__}" + (f" (+{options.contact})" if options.contact else "")

    async def fetch(self, url: str, key: str, known: Fetched | None) -> Fetched:
        """Fetch one image, with further attempts, and write down what came of it."""
        for number in itertools.count(1):
            attempt = Attempt(self.options.total_timeout_s, {"attempts": number})
            wait_s = 0.0
            try:
                await self._follow(url, known, attempt)
                reason = "ok"
            except Stop as stop:
                reason, wait_s = stop.reason, stop.wait_s
            except DataError:
                raise
            except Exception:
                log.warning("unexpected error while fetching %.200r", url, exc_info=True)
                reason, wait_s = "unexpected_error", math.inf
            if not await self.sites.again(number, reason, wait_s):
                break
        if known and REASONS[reason].temporary:
            return known  # a copy that could not be checked again is still a copy
        row = Fetched(key, reason, fetched_at=time.time(), **attempt.answer)
        if reason == "ok" and row.status == 304:
            row = replace(known, robots=row.robots, status=304, fetched_at=row.fetched_at)
        self.journal.put(row)
        return row

    async def _keep(self, body: bytes, attempt: Attempt) -> None:
        digest = (await asyncio.to_thread(hashlib.sha256, body)).hexdigest()
        if digest in self.removed:
            raise Stop("removed")
        path = image_path(self.journal.folder, Fetched("", sha256=digest, extension=attempt.answer["extension"]))
        async with self.writing[int(digest[:2], 16) % 64]:  # two URLs of one image must not write one file at once
            if not path.is_file():
                with writing(path):
                    await asyncio.to_thread(files.write_atomic, path, body)
        attempt.answer |= {"sha256": digest, "n_bytes": len(body)}

    async def _follow(self, text: str, known: Fetched | None, attempt: Attempt) -> None:
        """Follow one URL to its image, and keep it; status 304: it is the one that is known."""
        url, seen = addresses.checked(text, self.options.allow_loopback), set()
        for _ in range(self.options.max_redirects + 1):
            attempt.answer["final_url"] = address = str(url)
            if address in seen:
                raise Stop("redirect_loop")
            seen.add(address)
            policy = await self.sites.policy(url)
            refused = await self.sites.refusal(url, policy)
            temporary = refused and REASONS[refused].temporary
            attempt.answer["robots"] = "disallowed" if refused and not temporary and not policy.reason else policy.state
            if refused:
                raise Stop(refused, math.inf)  # further attempts in this run would be told the same
            conditions = {}
            if known and known.final_url == address:
                conditions = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
            await self._ask(url, attempt, conditions, image=True)
            if (status := attempt.answer["status"]) == 200 or (status == 304 and conditions):
                return
            if status not in REDIRECTS:
                raise self.sites.stop_of(url, status, attempt.headers)
            url = addresses.redirected(url, attempt.headers, self.options.allow_loopback)
        raise Stop("too_many_redirects")

    async def _ask(self, url: httpx2.URL, attempt: Attempt, conditions: dict | None = None, image: bool = False) -> bytes:
        """Ask for an image, and keep it, or for a robots.txt; waiting for a turn takes none of the attempt's time.

        Raises:
            Stop: There is no usable answer.
        """
        import httpx2

        options = self.options
        limit_s = {"connect": options.connect_timeout_s, "read": options.read_timeout_s, "write": options.read_timeout_s}
        headers = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": self.agent,
            "Accept": _ACCEPT if image else "text/plain,*/*;q=0.1",
            "Accept-Encoding": "identity" if image else "gzip",
        }
        headers |= {name: value for name, value in (conditions or {}).items() if value}
        target = addresses.transport_url(url)
        async with self.sites.turn(url, attempt):
            started = time.monotonic()
            try:
                with addresses.transport_errors():
                    async with (
                        asyncio.timeout(attempt.left_s),
                        self.pool.stream("GET", target, headers=headers, extensions={"timeout": limit_s}) as response,
                    ):
                        attempt.headers = httpx2.Headers(response.headers)
                        attempt.answer["status"] = response.status
                        if image:
                            attempt.answer |= _described(attempt.headers)
                            if response.status < 400 and (refused := refusal_of(attempt.headers.multi_items())):
                                raise Stop(refused)
                        if response.status != 200:
                            await _drain(response, attempt.headers)
                            return b""
                        body = await _read(response, attempt, options.max_bytes if image else ROBOTS_BYTES + 1, image)
            finally:
                attempt.left_s -= time.monotonic() - started
            if image:  # still in turn: where the disk is slower than the net, images do not pile up in memory
                await self._keep(body, attempt)
        return body


async def _read(response: httpcore2.Response, attempt: Attempt, limit: int, image: bool) -> bytes:
    """Read a body of at most `limit` bytes, packed and unpacked; an image's first bytes are looked at as soon as they are there.

    Of a robots.txt the rest beyond the limit is left.
    """
    headers = attempt.headers
    declared = headers.get("content-length", "")
    if image and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise Stop("too_large")
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise Stop("bad_encoding")
    unpack = zlib.decompressobj(32 + zlib.MAX_WBITS) if encoding not in ("", "identity") else None
    body, n_packed = bytearray(), 0
    with addresses.body_of(headers):
        async for chunk in response.aiter_stream():
            n_packed += len(chunk)
            if image and n_packed > limit:
                raise Stop("too_large")
            try:
                body += unpack.decompress(chunk, limit - len(body) + 1) if unpack else chunk
            except zlib.error:
                raise Stop("bad_encoding") from None
            if image and len(body) > limit:
                raise Stop("decompression_bomb")
            if len(body) > limit or n_packed > limit:
                return bytes(body[:limit])
            if image and "extension" not in attempt.answer and len(body) >= _MAGIC_BYTES:
                _look(body, attempt)
    if unpack and not unpack.eof:
        raise Stop("truncated")
    if image and not body:
        raise Stop("empty")
    if image and "extension" not in attempt.answer:
        _look(body, attempt)
    return bytes(body)


async def _drain(response: httpcore2.Response, headers: httpx2.Headers) -> None:
    """Read the short body of an answer that is no image, so that its connection serves the next request."""
    with contextlib.suppress(Exception):
        if int(headers.get("content-length", "-1")) <= 16_384:
            async with asyncio.timeout(1.0):
                async for _ in response.aiter_stream():
                    pass


def _look(body: bytearray, attempt: Attempt) -> None:
    extension = next((name for magic, name in _MAGIC if re.match(magic, body, re.DOTALL)), None)
    if not extension:
        raise Stop("not_image")
    if _NO_IMAGE.match(attempt.answer["content_type"]):
        raise Stop("type_mismatch")
    attempt.answer["extension"] = extension


def _described(headers: httpx2.Headers) -> dict[str, str]:
    """What is kept of an answer's head; of what is sent back one day, only what can stand in a header."""
    marks = {name: headers.get(name.replace("_", "-"), "") for name in ("etag", "last_modified")}
    marks = {name: value if re.fullmatch(r"[ -~]{1,500}", value) else "" for name, value in marks.items()}
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()[:100]
    return marks | {"content_type": content_type, "x_robots": ", ".join(headers.get_list("x-robots-tag"))[:500]}


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

    with contextlib.closing(Journal(out)) as journal, tqdm(desc="fetch", unit=" URLs", disable=not progress) as bar:
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
                key = as_key(url)
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
