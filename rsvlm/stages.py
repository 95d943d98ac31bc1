"""Stages: whatever takes long is computed once, and named by a hash of everything that decides its content.

A stage is a folder `runs/<name>-<key>`. One that is there is complete; one that is being made carries another name, so that a
killed run resumes and a finished one is never half written.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from rsvlm import files
from rsvlm.errors import ConfigError

PACKAGE = Path(__file__).parent


def root() -> Path:
    """Return the folder that holds `runs/`, `results/` and `notebooks/`.

    Returns:
        The folder named by the environment variable RSVLM_HOME; else the nearest folder, from the working directory upwards,
        with both `_config.yml` and `rsvlm/`; else the working directory.
    """
    if home := os.environ.get("RSVLM_HOME"):
        return Path(home).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "_config.yml").is_file() and (folder / "rsvlm").is_dir():
            return folder
    return here


def source_hash(*modules: str, follow: bool = True) -> str:
    """Hash the source of package modules and of every package module they import, directly or not.

    Args:
        modules: Names without the package's, as in `source_hash("tiles", "captions")`; none means the whole package.
        follow: Also what they import; without it, only the modules named.

    Returns:
        64 hexadecimal digits; the same on every machine for the same sources.

    Raises:
        ConfigError: The package has no module of that name.
    """
    waiting = list(modules) or sorted(path.stem for path in PACKAGE.glob("*.py"))
    seen: dict[str, bytes] = {}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        path = PACKAGE / f"{name}.py"
        if not path.is_file():
            raise ConfigError(f"rsvlm has no module '{name}'{nearest(name, [p.stem for p in PACKAGE.glob('*.py')])}")
        seen[name] = path.read_bytes().replace(b"\r\n", b"\n")
        waiting += _package_imports(seen[name]) if follow else ()
    digest = hashlib.sha256()
    for name, source in sorted(seen.items()):
        digest.update(f"{name} {len(source)}\n".encode() + source)
    return digest.hexdigest()


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
        name: What the stage makes: `shards`, `checkpoint`, `embeddings`.
        parts: Everything that decides the content: options, hashes of sources and of inputs. They are kept in `stage.json`.
        compute: Fills the folder it is given. After a kill it is called again with what it had left there, so that it can
            resume; it has to be able to tell complete files from broken ones (`write_atomic` leaves no broken ones).
        recompute: Start from nothing even when the stage is there; the old folder stays until the new one is complete.

    Returns:
        `runs/<name>-<key>` under `root()`.

    Raises:
        Exception: Whatever `compute` raises; its folder is kept for the next attempt.
    """
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
        files.write_atomic(
            partial / "stage.json", json.dumps({"name": name, "parts": json.loads(_canonical(parts))}, indent=1)
        )
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


@cache
def _package_imports(source: bytes) -> tuple[str, ...]:
    known = {path.stem for path in PACKAGE.glob("*.py")}
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "rsvlm":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rsvlm."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("rsvlm.")}
    return tuple(sorted(found & known))


def nearest(name: str, known: list[str]) -> str:
    """Return "; did you mean ...?" with the known name that is most like a wrong one, or nothing where none is like it."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
