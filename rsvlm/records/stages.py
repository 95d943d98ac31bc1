"""Stages: whatever takes long is computed once, and named by a hash of everything that decides its content.

A stage is a folder `runs/<name>-<key>`. One that is there is complete; one that is being made carries another name, so that a
killed run resumes and a finished one is never half written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from rsvlm.errors import ConfigError
from rsvlm.records import files, text

PACKAGE = Path(__file__).parent.parent


def root() -> Path:
    """Return the folder that holds `runs/`, `results/` and `notebooks/`.

    Returns:
        The folder named by the environment variable RSVLM_HOME; else the nearest folder, from the working directory upwards,
        with both `_config.yml` and `rsvlm/`; else the working directory.
    """
    if home := os.environ.get("RSVLM_HOME"):
        return Path(home).resolve()
    working = Path.cwd()
    folders = (working, *working.parents)
    return next((path for path in folders if (path / "_config.yml").is_file() and (path / "rsvlm").is_dir()), working)


def source_hash(*rooms: str) -> str:
    """Hash the files of rooms, whatever their kind, so that an edit of any of them gives another key.

    Args:
        rooms: Folders or files of the package, files without their suffix, as in `source_hash("model", "data/reading")`; `data/*`
            is all files that lie in `data` itself. If none is given, the whole package.

    Returns:
        64 hexadecimal digits; the same on every machine for the same files.

    Raises:
        ConfigError: The package has no such room.
    """
    digest = hashlib.sha256()
    for path in files_of(*rooms):
        source = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(PACKAGE).as_posix()} {len(source)}\n".encode() + source)
    return digest.hexdigest()


def files_of(*rooms: str) -> list[Path]:
    """Return the files that `source_hash` reads for these rooms, in order of their names."""
    paths: set[Path] = set()
    for room in rooms or ("",):
        folder = PACKAGE / room
        matching = folder.rglob("*") if folder.is_dir() else [*PACKAGE.glob(f"{room}.*"), *PACKAGE.glob(room)]
        new = {path for path in matching if path.is_file() and "__pycache__" not in path.parts}
        if not new:
            rooms_there = [path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py")]
            raise ConfigError(f"rsvlm has no room '{room}'{text.did_you_mean(room, rooms_there)}")
        paths |= new
    return sorted(paths)


def key(**parts: object) -> str:
    """Return 12 hexadecimal digits that name a set of named values: the same values, the same key, in any order.

    Args:
        parts: Numbers, text, lists, mappings, paths, pydantic models, NumPy scalars.

    Raises:
        ConfigError: A value that has no exact text, such as NaN or an array.
    """
    return hashlib.sha256(_canonical(parts).encode()).hexdigest()[:12]


def stage(name: str, parts: Mapping[str, object], compute: Callable[[Path], None], recompute: bool = False) -> Path:
    """Return the folder of a stage; compute it first where it is not there yet.

    Args:
        name: Name of what the stage makes: `shards`, `checkpoint`, `embeddings`.
        parts: Everything that decides the content: options, hashes of sources and of inputs. They are written to `stage.json`.
        compute: Function that fills a folder. After a kill it is called again with what it had left there, and resumes; files
            written by `files.write_atomic` are complete.
        recompute: Whether to start from nothing even when the stage is there; the old folder stays until the new one is complete.

    Returns:
        `runs/<name>-<key>` under `root()`.

    Raises:
        ConfigError: `recompute` is neither True nor False.
        Exception: Whatever `compute` raises; its folder is kept for the next attempt.
    """
    if not isinstance(recompute, bool):  # papermill's own command line reads `false` as text, and any text would mean yes
        raise ConfigError(f"recompute is {recompute!r}: give True or False")
    folder = root() / "runs" / f"{name}-{key(**parts)}"
    if folder.is_dir() and not recompute:
        return folder
    with files.lock(folder.with_name(folder.name + ".lock")):
        if folder.is_dir() and not recompute:  # another process made it while this one waited
            return folder
        partial = folder.with_name(folder.name + ".partial")
        if recompute and partial.is_dir():
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        compute(partial)
        for left in partial.rglob(".*.partial"):  # of a writer that was killed
            left.unlink()
        origin = {"name": name, "parts": json.loads(_canonical(parts))}
        files.write_atomic(partial / "stage.json", json.dumps(origin, indent=1))
        if folder.is_dir():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    return folder


def _canonical(parts: Mapping[str, object]) -> str:
    def plain(value: object) -> object:
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        if isinstance(value, Path):
            return value.as_posix()
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            return value.item()
        raise TypeError(f"{type(value).__name__} has no exact text")

    try:
        return json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False, default=plain)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"parts {sorted(parts)} cannot name a run: {error}; pass numbers, text, lists or a hash") from None
