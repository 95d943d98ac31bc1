"""Rasters on web servers, read by ranges of bytes as they are needed.

GDAL could ask a server itself, but it follows redirects to any address and looks for companions beside a file. Here `WebFile`
asks in its place, by the package's one way out (`addresses`): no address inside this machine or a private network is asked,
whether named outright, by a redirect or by a name that changes its meaning; failures that may pass are tried again; and
`opener` shows GDAL that one file alone.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rsvlm.data import addresses
from rsvlm.data.addresses import Stop
from rsvlm.errors import DataError, need

if TYPE_CHECKING:
    import httpx2

_PROBLEMS = {
    "scheme_refused": "is not an http(s) address without user name, so it is not opened",
    "too_many_redirects": "is redirected more than five times",
    "address_refused": "is no plainly written address of a public host; what lies on this machine or in a private network is not "
    "asked (allow_loopback also allows this machine)",
}
_RESTS = addresses.Rests()
"""Rest that hosts want, whichever of their files it was said of."""

_PROBLEMS |= {"credentials_in_url": _PROBLEMS["scheme_refused"], "bad_url": _PROBLEMS["address_refused"]}


def shown(path: str) -> str:
    """Return a path or URL as it may be shown: without query and user name, which may hold keys."""
    if "://" not in path:
        return path
    parts = urlsplit(path)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class WebFile(io.RawIOBase):
    """A file on a web server, read by ranges.

    `problem` says what failed, where GDAL cannot pass an error on; `size` is in bytes.
    """

    BLOCK = 32_768
    KEPT_BLOCKS = 2048
    LONGEST_S = 120.0

    def __init__(self, url: str, allow_loopback: bool):
        need("httpx2", "data")
        self._url, self._allow_loopback = url, allow_loopback
        self._position, self._blocks = 0, OrderedDict()
        backend = addresses.SyncBackend(allow_loopback, any_port=True)
        self._pool = need("httpcore2", "data").ConnectionPool(max_connections=1, network_backend=backend)
        self.problem, self.size = "", 0
        self._keep(0, self._request(0, 2 * self.BLOCK))

    def fingerprint(self) -> str:
        """Hash the size, the beginning and the end."""
        digest = hashlib.sha256(f"{self.size}\n".encode())
        for start in (0, max(0, self.size - 2 * self.BLOCK)):
            self.seek(start)
            digest.update(self.read(2 * self.BLOCK))
        if self.problem:
            raise DataError(self.problem)
        return digest.hexdigest()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position."""
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, count: int = -1) -> bytes:
        """Read from the position on; after a failure: nothing."""
        start = min(self._position, self.size)
        stop = self.size if count < 0 else min(start + count, self.size)
        numbers = range(start // self.BLOCK, -(-stop // self.BLOCK))
        missing = [number for number in numbers if number not in self._blocks]
        if missing:
            # One request from the first missing block to the last: servers answer one long range faster than many short ones.
            try:
                data = self._request(missing[0] * self.BLOCK, min((missing[-1] + 1) * self.BLOCK, self.size))
            except DataError as error:
                # GDAL cannot pass it on: it sees the end of the file, and whoever asked it looks at `problem`.
                self.problem = str(error)
                return b""
            self._keep(missing[0], data)
        data = b"".join(self._blocks[number] for number in numbers)
        for number in numbers:
            self._blocks.move_to_end(number)
        while len(self._blocks) > self.KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        first = numbers.start * self.BLOCK if numbers else start
        self._position = stop
        return data[start - first : stop - first]

    def disconnect(self) -> None:
        """Close the connection."""
        self._pool.close()

    def _keep(self, first: int, data: bytes) -> None:
        for number, at in enumerate(range(0, len(data), self.BLOCK), first):
            self._blocks[number] = data[at : at + self.BLOCK]

    def _request(self, start: int, stop: int) -> bytes:
        """Ask for the bytes from `start` to before `stop`, with further attempts after failures that may pass."""
        if (rest_s := _RESTS.left_s(self._host())) > addresses.MAX_RETRY_AFTER_S:
            self._fail(f"is not asked for: its host wants to be left alone for {rest_s:.0f} s more; try again later")
        if rest_s:
            time.sleep(rest_s)
        for attempt in range(4):
            try:
                return self._part(start, stop)
            except Stop as error:
                problem = error
            _RESTS.note(self._host(), problem)
            if not addresses.REASONS[problem.reason].temporary or problem.wait_s > addresses.MAX_RETRY_AFTER_S:
                break
            if attempt < 3:
                time.sleep(max(problem.wait_s, 0.5 * 2**attempt))
        why = f"status {problem.status}" if problem.status else addresses.REASONS[problem.reason].meaning
        self._fail(_PROBLEMS.get(problem.reason, f"cannot be read ({why}): check the address, or try again later"))

    def _host(self) -> str:
        """Name the host that is asked, or that answered last where the address led elsewhere."""
        return (urlsplit(self._url).hostname or "").rstrip(".")

    def _part(self, start: int, stop: int) -> bytes:
        """Ask once."""
        status, headers, body = self._follow(start, stop)
        if status == 200:
            self._fail("comes from a server that does not serve parts of files: download it first")
        if status != 206:
            raise addresses.stop_of(status, headers)
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("content-range", ""))
        if match and int(match[1]) == start and len(body) == int(match[2]) - start + 1:
            total = int(match[3])
            if self.size and total != self.size:
                self._fail(f"changed from {self.size} to {total} bytes while it was read: start again")
            if len(body) == min(stop, total) - start:
                self.size = total
                return body
        raise Stop("truncated", status=status)

    def _fail(self, what: str):
        self.problem = f"{shown(self._url)} {what}"
        raise DataError(self.problem)

    def _follow(self, start: int, stop: int) -> tuple[int, httpx2.Headers, bytes]:
        """Ask once, and follow redirects: status, headers and, of a part, the body."""
        import httpx2

        url = addresses.checked(self._url, self._allow_loopback, any_port=True)
        headers = {"User-Agent": "rsvlm", "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        limits = {"timeout": {"connect": 30.0, "read": 30.0, "write": 30.0}}
        for _ in range(6):
            headers["Host"] = url.netloc.decode("ascii")
            target = addresses.transport_url(url)
            with (
                addresses.transport_errors(),
                self._pool.stream("GET", target, headers=headers, extensions=limits) as response,
            ):
                answered, body, ends = httpx2.Headers(response.headers), bytearray(), time.monotonic() + self.LONGEST_S
                if response.status not in addresses.REDIRECTS:
                    with addresses.body_of(answered):
                        # More bytes than asked for tell of a server that sends everything.
                        for piece in response.iter_stream() if response.status == 206 else ():
                            body += piece
                            if len(body) > stop - start:
                                break
                            if time.monotonic() > ends:
                                raise Stop("total_timeout")
                    return response.status, answered, bytes(body)
            url = addresses.redirected(url, answered, self._allow_loopback, any_port=True)
            self._url = str(url)
        raise Stop("too_many_redirects")


class _Opened(io.RawIOBase):
    """A web file as it was opened once, with a position of its own."""

    def __init__(self, file: WebFile):
        self._file, self._position = file, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._file.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, count: int = -1) -> bytes:
        self._file.seek(self._position)
        data = self._file.read(count)
        self._position += len(data)
        return data


def opener(file: WebFile) -> Callable:
    """Return what opens, for GDAL, one file named `imagery`, at its beginning and as often as it likes, and nothing beside it."""

    def open_it(path: str, mode: str = "r") -> _Opened:
        if path != "imagery":
            raise FileNotFoundError(path)
        return _Opened(file)

    return open_it
