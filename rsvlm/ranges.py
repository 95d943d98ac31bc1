"""Rasters on web servers, read by ranges of bytes as they are needed.

GDAL could ask a server itself, but it follows redirects to any address and looks for companions beside a file. Here `WebFile`
asks in its place: no address inside this machine or a private network is asked, whether named outright, by a redirect or by
a name that changes its meaning; failures that may pass are tried again; and `Container` shows GDAL that one file alone.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import re
import ssl
import time
from collections import OrderedDict
from urllib.parse import urljoin, urlsplit

from rsvlm import addresses
from rsvlm.errors import DataError


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
        self._url, self._allow_loopback = url, allow_loopback
        self._position, self._blocks, self._connection = 0, OrderedDict(), None
        self.problem, self.size = "", 0
        first = self._request(0, 2 * self.BLOCK)
        for number in range(-(-len(first) // self.BLOCK)):
            self._blocks[number] = first[number * self.BLOCK : (number + 1) * self.BLOCK]

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
            for number in range(missing[0], missing[-1] + 1):
                at = (number - missing[0]) * self.BLOCK
                self._blocks[number] = data[at : at + self.BLOCK]
        data = b"".join(self._blocks[number] for number in numbers)
        for number in numbers:
            self._blocks.move_to_end(number)
        while len(self._blocks) > self.KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        first = numbers.start * self.BLOCK if numbers else start
        self._position = stop
        return data[start - first : stop - first]

    def close(self) -> None:
        """Stay open: GDAL closes and reopens as it likes; `disconnect` ends it."""

    def disconnect(self) -> None:
        """Close the connection."""
        if self._connection:
            self._connection.close()
        self._connection = None

    def _request(self, start: int, stop: int) -> bytes:
        why = ""
        for attempt in range(4):
            if attempt:
                self.disconnect()
                time.sleep(0.25 * 2**attempt)
            try:
                status, headers, body = self._follow(
                    {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}, stop - start
                )
            except (OSError, ValueError, http.client.HTTPException) as error:
                why = f"{type(error).__name__}: {error}"
                continue
            match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", ""))
            if status == 206 and match and int(match[1]) == start and len(body) == int(match[2]) - start + 1:
                total = int(match[3])
                if self.size and total != self.size:
                    self._fail(f"changed from {self.size} to {total} bytes while it was read: start again")
                if len(body) == min(stop, total) - start:
                    self.size = total
                    return body
            why = f"status {status}"
            if status == 200:
                self._fail("comes from a server that does not serve parts of files: download it first")
            if status != 206 and status != 429 and status < 500:
                break
        self._fail(f"cannot be read ({why}): check the address, or try again later")

    def _fail(self, what: str):
        self.problem = f"{shown(self._url)} {what}"
        raise DataError(self.problem)

    def _follow(self, headers: dict[str, str], most: int) -> tuple[int, http.client.HTTPMessage, bytes]:
        for _ in range(6):
            parts = urlsplit(self._url)
            if self._connection is None:
                self._connection = _connect(parts, self._allow_loopback, shown(self._url))
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            self._connection.request("GET", target, headers={"User-Agent": "rsvlm", **headers})
            response = self._connection.getresponse()
            if response.status not in (301, 302, 303, 307, 308):
                # One byte more than asked for tells of a server that sends everything.
                body, deadline = b"", time.monotonic() + self.LONGEST_S
                while response.status == 206 and len(body) <= most and (piece := response.read1(most + 1 - len(body))):
                    body += piece
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{len(body)} bytes in {self.LONGEST_S:.0f} s")
                response.close()  # or the connection would not be used again
                if response.status != 206 or len(body) > most or response.will_close:
                    self.disconnect()
                return response.status, response.headers, body
            self.disconnect()
            self._url = urljoin(self._url, response.headers.get("Location", ""))
        self._fail("is redirected more than five times")


class Container:
    """What GDAL sees of the web: one file named `imagery`, and nothing beside it."""

    def __init__(self, file: WebFile):
        self._file = file

    def open(self, path: str, mode: str = "r") -> WebFile:
        """Open the file at its beginning, or refuse another."""
        if path != "imagery":
            raise FileNotFoundError(path)
        self._file.seek(0)
        return self._file

    def isfile(self, path: str) -> bool:
        """Tell whether it is the file."""
        return path == "imagery"

    def isdir(self, path: str) -> bool:
        """There are no folders."""
        return False

    def ls(self, path: str) -> list[str]:
        """There is nothing to list."""
        return []

    def mtime(self, path: str) -> int:
        """The web's times are not asked."""
        return 0

    def size(self, path: str) -> int:
        """Return the size in bytes."""
        return self._file.size


def _connect(parts, allow_loopback: bool, text: str) -> http.client.HTTPConnection:
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise DataError(f"{text} is not an http(s) address without user name, so it is not opened")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        addresses.refuse_inward(parts.hostname, allow_loopback)
    except OSError as error:
        raise OSError(f"the host cannot be found ({error})") from error
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.hostname, port, timeout=30, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=30)
    connection.auto_open = 0  # else it would connect again by itself, without the checks, once the server closed it
    connection.connect()
    try:
        # Again for the address that answered: a name may have changed its address since it was looked up.
        addresses.refuse_inward(connection.sock.getpeername()[0], allow_loopback)
    except DataError:
        connection.close()
        raise
    return connection
