"""Provenance: where numbers came from, what the process that made them took, and what is installed."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rsvlm.records import stages

if TYPE_CHECKING:
    from rsvlm.config import Config


def provenance(config: Config, data_hash: str, device: str, started: float, command: str) -> dict:
    """Describe where numbers came from.

    Args:
        config: Options of the run.
        data_hash: Hash of the data it read: a manifest's, or a stage's key.
        device: Device it ran on, as resolved: `cpu`, `cuda:0`.
        started: Start, in seconds since the epoch (`time.time()`).
        command: Command that repeats it, relative to the repository.

    Returns:
        commit, dirty, package_hash, data_hash, seed, device, versions, started (UTC), duration_s, command, cpu, cores.
    """
    distributions = ("torch", "timm", "transformers", "numpy", "numba")
    return {
        **commit(),
        "package_hash": stages.source_hash(),
        "data_hash": data_hash,
        "seed": config.seed,
        "device": device,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in distributions},
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "duration_s": round(time.time() - started, 1),
        "command": command.replace(f"{stages.root()}{os.sep}", ""),
        "cpu": cpu(),
        "cores": os.cpu_count(),
    }


def peak_memory_mb() -> float:
    """Most memory that this process has held so far, in 2**20 bytes; 0 where the system does not tell.

    On Linux of this program alone: `ru_maxrss` would begin with what the process that started it held.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def commit() -> dict[str, object]:
    """Return the commit of the repository at `stages.root()`, and whether files differ from it (`dirty`).

    Where there is none, as where a command runs outside of its clone, it is that of the clone which the package is part of, if it is.
    """
    folder = stages.root()
    if not (head := _git(folder, "rev-parse", "HEAD")) and _git(stages.PACKAGE, "ls-files", "__init__.py"):
        folder = stages.PACKAGE.parent
        head = _git(folder, "rev-parse", "HEAD")
    # Results are written while runs go on: they do not make the code that wrote them another.
    dirty = bool(head and _git(folder, "status", "--porcelain", "--", ".", ":!results"))
    return {"commit": head or "unknown", "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str:
    try:
        git = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return git.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def version(distribution: str) -> str:
    """Return the version of an installed distribution, or "absent"."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def cpu() -> str:
    """Return the name of the processor."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def installed() -> Iterator[str]:
    """Yield what is installed, what is missing and how to get it, line by line."""
    import torch

    from rsvlm import __version__

    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none (everything runs on CPU)"
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield f"rsvlm {__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} cores, {free:.0f} GB of disk free"
    yield f"project folder: {stages.root()}"
    yield f"CUDA device: {cuda}"
    extras: dict[str, list[str]] = {}
    for requirement in metadata.requires("rsvlm") or []:
        name = re.match(r"[\w.-]+", requirement)[0]
        if extra := re.search(r"extra == [\"'](\w+)", requirement):
            extras.setdefault(extra[1], []).append(name)
        else:
            yield f"  {name:<14} {version(name).replace('absent', 'missing')}"
    absent = {extra: [name for name in names if version(name) == "absent"] for extra, names in extras.items()}
    for extra, names in absent.items():
        yield f"extra [{extra}]: {'missing ' + ', '.join(names) if names else 'complete'}"
    missing = [extra for extra, names in absent.items() if names]
    if missing:
        yield f'to complete it: pip install -e ".[{",".join(missing)}]"   (or make test, which sets up .venv)'
