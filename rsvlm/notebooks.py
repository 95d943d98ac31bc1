"""Notebooks that are run once: their parameters, the key of a run, and the executed copy."""

from __future__ import annotations

import ast
import glob
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rsvlm import files, provenance, stages
from rsvlm.errors import ConfigError, DataError, MissingExtraError, RsvlmError


def find(patterns: Sequence[str]) -> list[Path]:
    """Return the notebooks that names or patterns (`notebooks/05*.ipynb`) stand for, each once, in order.

    Raises:
        DataError: Nothing has that name, or matches that pattern.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        # A name is taken as it is, even with brackets in it.
        paths = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        paths = [path for path in paths if path.endswith(".ipynb")]
        if not paths:
            raise DataError(f"there is no notebook '{pattern}': those at hand are in {stages.root() / 'notebooks'}")
        found |= dict.fromkeys(map(Path, paths))
    return list(found)


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
        hint = stages.nearest(unknown[0], list(defaults))
        raise ConfigError(f"{notebook.name} has no parameter '{unknown[0]}'{hint}; it has {', '.join(defaults)}")
    text = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in cells]
    decisive = {name: value for name, value in given.items() if name != "recompute"}  # changes the time, not the answer
    return stages.key(cells=text, package=stages.source_hash(), parameters=decisive, data=data_hash)


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
    executed = (folder or stages.root() / "book" / "executed") / notebook.name
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
            cwd=str(stages.root()),
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
        files.write_atomic(executed, nbformat.writes(result))
        executed.with_suffix(".failed.ipynb").unlink(missing_ok=True)  # of an earlier attempt
    except PapermillExecutionError as error:
        failed = executed.with_suffix(".failed.ipynb")
        os.replace(temporary, failed)
        last = (str(error.evalue).strip().splitlines() or [""])[-1]
        where = f"{notebook.name}, cell {error.cell_index} failed: {error.ename}: {last}"
        raise RsvlmError(f"{where}\nIts outputs, and those before it, are in {failed.relative_to(stages.root())}.") from None
    except DeadKernelError:
        raise RsvlmError(f"{notebook.name}: the kernel was killed, often for want of memory: try the profile smoke") from None
    finally:
        temporary.unlink(missing_ok=True)
    return executed


def is_executed(notebook: Path, parameters: Mapping[str, object]) -> bool:
    """Say whether `execute` would find its executed copy and run nothing. Raises as `execute`."""
    return _executed_key(stages.root() / "book" / "executed" / notebook.name) == notebook_key(notebook, parameters)


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
        raise DataError(f"there is no notebook {notebook}: those at hand are in {stages.root() / 'notebooks'}")
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
    taken |= {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "cpu": provenance.cpu(),
        "cores": os.cpu_count(),
    }
    return taken | provenance.commit()


def _executed_key(path: Path) -> str | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["metadata"]["rsvlm"]["key"]
    except (OSError, ValueError, KeyError):
        return None


def _cuda(device: str) -> bool:
    if device != "auto":
        return device.startswith("cuda")
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()
