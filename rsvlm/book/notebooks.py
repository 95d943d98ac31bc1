"""Notebooks that are run once: their parameters, the key of a run, its executed copy, and many runs at a time.

`execute` runs one notebook in this process. `run_all` runs many, each in a process of its own that calls `execute`: those of the
book, whose copies are in `book/executed/`, and those of a matrix, each of which is a stage with what it measured.
"""

from __future__ import annotations

import ast
import glob
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsvlm.errors import ConfigError, DataError, MissingExtraError, RsvlmError
from rsvlm.records import files, provenance, stages
from rsvlm.records.text import did_you_mean

logger = logging.getLogger(__name__)


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
        hint = did_you_mean(unknown[0], defaults)
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
    # What was run with the same key is not run again.
    notebook = Path(notebook)
    run_key = notebook_key(notebook, parameters, data_hash)
    defaults = _parameters(notebook, _cells(notebook))
    repeated = all(defaults[name] == value for name, value in parameters.items())
    executed = (folder or stages.root() / "book" / "executed") / notebook.name
    if not recompute and _executed_key(executed) == run_key:
        return executed

    # It runs into a file of another name.
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
        # The copy says where it came from, and nothing of papermill's, which holds paths and times of one machine.
        result.metadata.pop("jupytext", None)  # the copy is no half of a pair
        result.metadata["rsvlm"] = _origin(run_key, started, defaults | dict(parameters))
        for part in (result, *result.cells):
            part.metadata.pop("papermill", None)
        for cell in result.cells:
            if repeated and "injected-parameters" in cell.metadata.get("tags", []):
                cell.metadata.tags.append("remove-cell")  # it says what the cell above says
        files.write_atomic(executed, nbformat.writes(result))
        executed.with_suffix(".failed.ipynb").unlink(missing_ok=True)  # of an earlier attempt
    # What failed keeps its outputs so far.
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


@dataclass(frozen=True)
class Task:
    """A notebook and its values, to be run in a process of its own."""

    notebook: Path
    parameters: Mapping[str, object]
    log: Path  # what the process writes
    after: frozenset[str] = frozenset()  # names of notebooks, without .ipynb, that have to be done before
    parts: Mapping[str, object] | None = None  # what decides the folder of a run of a matrix; if None, it is one of the book


@dataclass(frozen=True)
class Ending:
    """How a task ended: its seconds, and the last line that it wrote if it failed."""

    seconds: float
    error: str = ""


def run_all(
    tasks: Sequence[Task],
    jobs: int,
    recompute: bool = False,
    environment: Mapping[str, str] | None = None,
    stop_early: bool = False,
    done_before: int = 0,
) -> list[Ending | None]:
    """Run notebooks, each in a process of its own, several at a time, and each once those are done that it waits for.

    Args:
        tasks: The notebooks, in the order in which they begin; a name in `after` that is none of theirs is not waited for.
        jobs: So many at once.
        recompute: Run also those that are there.
        environment: Variables for the processes, where the caller's environment does not set them.
        stop_early: Whether nothing new begins once one has failed; what is under way is finished.
        done_before: Number of further runs that were there already, for the bar.

    Returns:
        How each ended, in the order of `tasks`; None for one that was not begun.

    Raises:
        ConfigError: Not one run at once.
        DataError: Notebooks that wait for each other.
        KeyboardInterrupt: Ctrl-C; what was running is stopped first.
    """
    from tqdm.auto import tqdm

    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}: at least one run has to go at once")
    waiting, left = list(range(len(tasks))), {task.notebook.stem for task in tasks}
    running: dict[int, tuple[subprocess.Popen, float]] = {}
    endings: dict[int, Ending] = {}
    total = len(tasks) + done_before
    try:
        with tqdm(total=total, initial=done_before, desc="notebooks", unit="run", dynamic_ncols=True) as bar:
            while running or waiting:
                # Begin what can begin.
                ready = [number for number in waiting if not tasks[number].after & left][: jobs - len(running)]
                for number in ready:
                    waiting.remove(number)
                    running[number] = _start(tasks[number], recompute, environment or {}), time.monotonic()
                if not running:
                    names = ", ".join(tasks[number].notebook.name for number in waiting)
                    raise DataError(f"{names} wait for each other: mend their tags after:NAME")
                # Take note of what has ended.
                time.sleep(0.1)
                done = [number for number, (process, _) in running.items() if process.poll() is not None]
                for number in done:
                    endings[number] = _ended(*running.pop(number), tasks[number].log)
                    left.discard(tasks[number].notebook.stem)
                    if endings[number].error and stop_early and waiting:
                        waiting.clear()
                        logger.warning("%s failed; nothing new is begun", tasks[number].notebook.name)
                    bar.update()
                if ready or done:
                    failed = sum(bool(ending.error) for ending in endings.values())
                    names = dict.fromkeys(tasks[number].notebook.stem for number in running)
                    bar.set_postfix_str(", ".join([f"failed={failed}", *names]))
    finally:
        _stop([process for process, _ in running.values()])
    return [endings.get(number) for number in range(len(tasks))]


def _start(task: Task, recompute: bool, environment: Mapping[str, str]) -> subprocess.Popen:
    task.log.parent.mkdir(parents=True, exist_ok=True)
    request = {"notebook": str(task.notebook.resolve()), "parameters": task.parameters, "parts": task.parts}
    request = json.dumps(request | {"recompute": recompute})
    program = "import sys; from rsvlm.book import notebooks; notebooks.work(sys.argv[1])"
    with open(task.log, "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", program, request],
            cwd=stages.root(),
            env={**environment, **os.environ, "RSVLM_HOME": str(stages.root()), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,  # its end tells the process that this one is gone, however it went
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the others
        )


def _ended(process: subprocess.Popen, started: float, log: Path) -> Ending:
    process.stdin.close()
    seconds = time.monotonic() - started
    if process.returncode == 0:
        return Ending(seconds)
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = "".join(letter for letter in lines[-1] if letter.isprintable()) if lines else "it wrote nothing"
    return Ending(seconds, last if process.returncode > 0 else f"killed (signal {-process.returncode}); {last}")


def _stop(processes: Sequence[subprocess.Popen], patience_s: float = 15.0) -> None:
    for process in processes:
        process.stdin.close()
    until = time.monotonic() + patience_s
    for process in processes:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def work(request: str) -> None:
    """Run one task: what `run_all` starts as a process. It ends when its standard input does.

    Args:
        request: JSON of notebook, parameters, parts and recompute.
    """
    asked = json.loads(request)
    given = asked["notebook"], asked["parameters"], asked["recompute"]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    threading.Thread(target=_watch, daemon=True).start()

    def compute(folder: Path) -> None:
        os.environ["RSVLM_RESULTS"] = str(folder / "results")  # of this process and its kernel
        execute(*given, folder=folder, progress=False)

    try:
        if asked["parts"] is None:
            execute(*given, progress=False)
        else:
            stages.stage("grid", asked["parts"], compute, asked["recompute"])
    except RsvlmError as error:
        first, *more = str(error).splitlines()
        sys.exit("\n".join([*more, first]))  # what the list of failures shows is the last line
    except KeyboardInterrupt:
        sys.exit("stopped")


def _watch() -> None:
    while os.read(0, 1):  # the file, not sys.stdin: Python waits for the lock of that one when it ends
        pass
    os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C: the kernel is ended, too
    time.sleep(10)
    os._exit(130)


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
