"""What came of every address that was asked: one row of a journal each, and the images beside it, named by their hashes."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from filelock import Timeout

from rsvlm.errors import DataError
from rsvlm.records import files

EXTENSIONS = ("png", "jpg", "gif", "webp", "tif", "bmp", "jp2", "j2k")


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
    robots: str = ""  # of the final URL's site: allowed, disallowed (by any of its files), none (no robots.txt) or unavailable
    x_robots: str = ""  # the header X-Robots-Tag, as text of the web
    attempts: int = 0
    fetched_at: float = 0.0  # seconds since the epoch


def results(out: Path | str, urls: Iterable[str] | None = None) -> Iterator[Fetched]:
    """Read what came of URLs.

    Args:
        out: The folder given to `download`.
        urls: URLs to read, in this order; those that were never fetched are left out. If None, all, sorted.

    Raises:
        DataError: The folder holds no journal.
    """
    if not (Path(out) / "journal.sqlite").is_file():
        raise DataError(f"{out} holds no journal.sqlite: fetch into it first")
    with contextlib.closing(Journal(Path(out))) as journal:
        yield from journal.rows() if urls is None else (row for url in urls if (row := journal.get(as_key(url))))


def image_path(out: Path | str, row: Fetched) -> Path:
    """Return the file of an image that was fetched: its name is the hash of its bytes.

    Raises:
        DataError: The row is of no image.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", row.sha256) or row.extension not in EXTENSIONS:
        raise DataError(f"{row.url} has no image: {row.reason}")
    return Path(out) / "images" / row.sha256[:2] / f"{row.sha256}.{row.extension}"


def forget(out: Path | str, named: Callable[[Fetched], bool], digests: Iterable[str] = ()) -> set[str]:
    """Delete images that were fetched, for good: `download` does not ask for their addresses again, nor keep their bytes from others.

    Args:
        out: The folder given to `download`; nothing is done where there is none.
        named: Tells of a row whether its image is to go.
        digests: Hashes of the bytes of further images that are to go.

    Returns:
        Hashes of the bytes of all that went.

    Raises:
        DataError: Another run is fetching into the folder, or it cannot be written.
    """
    out = Path(out)
    if not (out / "journal.sqlite").is_file():
        return set()
    with alone(out), contextlib.closing(Journal(out)) as journal:
        gone = {row.url: row for row in journal.rows() if named(row)}
        digests = {*digests, *(row.sha256 for row in gone.values())} - {""}
        gone |= {row.url: row for row in journal.rows() if row.sha256 in digests}
        for row in gone.values():
            if row.reason == "ok":
                with writing(out):
                    image_path(out, row).unlink(missing_ok=True)
            journal.put(Fetched(row.url, "removed", sha256=row.sha256, final_url=row.final_url, fetched_at=row.fetched_at))
    return digests


class Journal:
    """One row per URL and one per robots.txt, in SQLite: a row is there wholly or not at all, however the program ends."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "journal.sqlite"
        columns = [f"{field.name} {'TEXT' if field.type == 'str' else 'NUMERIC'} NOT NULL" for field in fields(Fetched)]
        columns[0] += " PRIMARY KEY"
        with writing(self.path):
            self.database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        self._rows("PRAGMA journal_mode=WAL")
        self._rows("PRAGMA synchronous=NORMAL")
        self._rows(f"CREATE TABLE IF NOT EXISTS fetched ({', '.join(columns)}) WITHOUT ROWID")
        self._rows("CREATE TABLE IF NOT EXISTS robots (site TEXT PRIMARY KEY, state TEXT, body BLOB, fetched_at REAL)")
        if [row[1] for row in self._rows("PRAGMA table_info(fetched)")] != [field.name for field in fields(Fetched)]:
            raise DataError(f"{self.path} was written by another version: name another folder")

    def _rows(self, query: str, *values) -> list[tuple]:
        with writing(self.path):
            return self.database.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def get(self, url: str) -> Fetched | None:
        """Return the row of a URL, if there is one."""
        return next((Fetched(*row) for row in self._rows("SELECT * FROM fetched WHERE url = ?", url)), None)

    def rows(self) -> Iterator[Fetched]:
        """Give all rows, sorted by their URLs."""
        with writing(self.path):
            yield from (Fetched(*row) for row in self.database.execute("SELECT * FROM fetched ORDER BY url"))

    def removed(self) -> set[str]:
        """Hashes of the bytes of images that are not kept again."""
        return {digest for (digest,) in self._rows("SELECT sha256 FROM fetched WHERE reason = 'removed'")} - {""}

    def put(self, row: Fetched) -> None:
        """Write a row in place of an earlier one."""
        self._rows(f"INSERT OR REPLACE INTO fetched VALUES ({', '.join('?' * len(fields(Fetched)))})", *astuple(row))

    def robots(self, site: str, since: float) -> tuple[str, bytes, float] | None:
        """Return the state, the file and the time (seconds since the epoch) of a site's robots.txt."""
        query = "SELECT state, body, fetched_at FROM robots WHERE site = ? AND fetched_at > ?"
        return next(iter(self._rows(query, site, since)), None)

    def put_robots(self, site: str, state: str, body: bytes, fetched_at: float) -> None:
        """Write down what a site says in one of its files."""
        self._rows("INSERT OR REPLACE INTO robots VALUES (?, ?, ?, ?)", site, state, body, fetched_at)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around reading and writing: turn errors of the disk into a DataError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise DataError(f"{path} cannot be read or written ({error}): free space, or name another folder") from error


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a second run out of a folder; the lock ends with the process, however it ends."""
    with writing(folder):
        try:
            lock = files.lock(folder / ".lock", wait=False)
        except Timeout:
            raise DataError(f"another run is fetching into {folder}: wait for it, or name another folder") from None
    with lock:
        yield


def as_key(url: object) -> str:
    """A URL as text that has bytes."""
    return str(url).encode("utf-8", "backslashreplace").decode()
