"""Notebooks that are run once: their parameters, the key of a run, its executed copy, and many runs at a time.

`execute` runs one notebook in this process. `run_all` runs many, each in a process of its own that calls `execute`: those of the
book, whose copies are in `book/executed/`, and those of a matrix, each of which is a stage with what it measured.
"""

from __future__ import annotations

import ast
import contextlib
import glob
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rsvlm.errors import ConfigError, DataError, RsvlmError, need
from rsvlm.records import files, provenance, stages, text

if TYPE_CHECKING:
    from nbformat import NotebookNode

logger = logging.getLogger(__name__)


def find(patterns: Sequence[str]) -> list[Path]:
    """Return the notebooks that names or patterns (`notebooks/05*.ipynb`) stand for, each once, in order.

    Raises:
        DataError: Nothing has that name, or matches that pattern.
    """
    notebooks: dict[Path, None] = {}
    for pattern in patterns:
        # A name is taken as it is, even with brackets in it.
        names = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        paths = [Path(name) for name in names if name.endswith(".ipynb")]
        if not paths:
            raise DataError(f"there is no notebook '{pattern}': those at hand are in {stages.root() / 'notebooks'}")
        notebooks |= dict.fromkeys(paths)
    return list(notebooks)


def defaults(notebook: Path | str) -> dict[str, object]:
    """Return the names and values of a notebook's cell tagged `parameters`.

    Raises:
        DataError: There is no such notebook, it has no such cell, or a value is no literal.
        MissingExtraError: nbformat is not installed.
    """
    return _read(notebook)[2]


def tagged(notebook: Path, name: str) -> list[str]:
    """Return what the tags `NAME:…` on a notebook's cell of parameters say; of a tag that is NAME alone "". Raises as `defaults`."""
    tags = _read(notebook)[1]
    return [tag[len(name) + 1 :] for tag in tags if tag == name or tag.startswith(f"{name}:")]


def read_values(notebook: Path | str, given: Mapping[str, object]) -> dict[str, object]:
    """Read values for a notebook's parameters as what the notebook declares: each is of the kind of its default.

    A text that a command line gives is read so: `false` is no for a yes-or-no, `20241128` is a text where the default is one. A
    default of None declares nothing: then a text is read as Python would, if it can be.

    Args:
        notebook: Path of the notebook.
        given: Values for names of its cell of parameters, as text or of their kind.

    Returns:
        The values by name, of their kinds.

    Raises:
        ConfigError: The notebook lacks a parameter that is given, or a value is of another kind.
        DataError: As `defaults`.
    """
    known, name_of = defaults(notebook), Path(notebook).name
    if unknown := [name for name in given if name not in known]:
        hint = text.did_you_mean(unknown[0], known)
        raise ConfigError(f"{name_of} has no parameter '{unknown[0]}'{hint}; it has {', '.join(known)}")
    values = {}
    for name, value in given.items():
        try:
            values[name] = _of_kind(value, known[name])
        except ValueError:
            kind = (
                "yes or no, as true or false" if isinstance(known[name], bool) else f"of the kind {type(known[name]).__name__}"
            )
            raise ConfigError(
                f"parameter {name}={value!r} of {name_of}: expected what is {kind}, as {known[name]!r} is"
            ) from None
    return values


def _of_kind(value: object, example: object) -> object:
    """Read a value, often a text, as what an example is; what cannot be is a ValueError."""
    if isinstance(example, str):
        quoted = isinstance(value, str) and re.fullmatch(r"""(["']).*\1""", value, flags=re.DOTALL) is not None
        value = literal(value) if quoted else value
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ValueError
        return str(value)
    if isinstance(value, str):
        words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
        value = words.get(value.strip().lower(), value) if isinstance(example, bool) else literal(value.strip())
    if isinstance(example, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(example, list | tuple) and isinstance(value, list | tuple):
        value = type(example)(value)
    if example is not None and type(value) is not type(example):
        raise ValueError
    return value


def literal(value: str) -> object:
    """Read a value from a command line: what Python would read, else the text itself."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def notebook_key(notebook: Path | str, given: Mapping[str, object]) -> str:
    """Check values for a notebook's parameters, and return the key of its run with them.

    Args:
        notebook: Path of the notebook.
        given: Values for names of its cell of parameters, as for `read_values`.

    Returns:
        12 hexadecimal digits, made of its cells, the source of the package and the values.

    Raises:
        ConfigError: As `read_values`.
        DataError: As `defaults`.
    """
    values = read_values(notebook, given)
    sources = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in _read(notebook)[0]]
    decisive = {name: value for name, value in values.items() if name != "recompute"}  # changes the time, not the answer
    return stages.key(cells=sources, package=stages.source_hash(), parameters=decisive)


def is_executed(notebook: Path, parameters: Mapping[str, object]) -> bool:
    """Say whether `execute` would find its executed copy and run nothing. Raises as `notebook_key`."""
    return _executed_key(stages.root() / "book" / "executed" / notebook.name) == notebook_key(notebook, parameters)


def execute(
    notebook: Path | str,
    parameters: Mapping[str, object],
    recompute: bool = False,
    folder: Path | None = None,
    progress: bool = True,
) -> Path:
    """Run a notebook, unless it already ran with the same cells, package and parameters.

    Args:
        notebook: Path of the notebook, which has one cell tagged `parameters`.
        parameters: Values for names of that cell, as for `read_values`.
        recompute: Whether to run it even when nothing changed; the notebook's parameter of that name does so, too.
        folder: Folder of the executed copy. If None, `book/executed/`.
        progress: Whether to show a bar of its cells.

    Returns:
        The executed copy, `<folder>/<name>.ipynb`.

    Raises:
        ConfigError: As `read_values`.
        DataError: There is no such notebook, or it has no `parameters` cell.
        RsvlmError: A cell failed; the copy up to it is kept as `<name>.failed.ipynb`.
        MissingExtraError: papermill or the kernel is not installed.
    """
    notebook = Path(notebook)
    executed = (folder or stages.root() / "book" / "executed") / notebook.name
    parameters, known = read_values(notebook, parameters), defaults(notebook)
    recompute = recompute or parameters.get("recompute") is True
    run_key = notebook_key(notebook, parameters)
    if not recompute and _executed_key(executed) == run_key:
        return executed
    alone = files.lock(stages.root() / "runs" / f"{notebook.stem}.lock") if folder is None else contextlib.nullcontext()
    with alone:  # a folder of its own has been locked by its stage
        if recompute or _executed_key(executed) != run_key:  # another process may have run it meanwhile
            _execute(notebook, executed, parameters, known, run_key, progress)
    return executed


def _execute(notebook: Path, executed: Path, parameters: Mapping, known: Mapping, run_key: str, progress: bool) -> None:
    """Run a notebook with checked parameters, as `execute` says."""
    papermill = need("papermill", "book")
    import nbformat
    from nbclient.exceptions import DeadKernelError

    # It runs into a file of another name; what failed keeps its outputs so far.
    started, partial, failed = time.time(), executed.with_suffix(".partial.ipynb"), executed.with_suffix(".failed.ipynb")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A path, not a parsed notebook: papermill writes what it is given into the metadata.
        copy = papermill.execute_notebook(
            *map(str, (notebook.resolve(), partial)),
            parameters=dict(parameters),
            kernel_name="python3",
            cwd=str(stages.root()),
            progress_bar={"desc": notebook.stem, "dynamic_ncols": True} if progress else False,
            extra_arguments=["--IPKernelApp.log_level=50"],  # else each start warns of plain text on the loopback
        )
        _sign(copy, run_key, started, known, parameters)
        files.write_atomic(executed, nbformat.writes(copy))
        failed.unlink(missing_ok=True)  # of an earlier attempt
    except papermill.exceptions.PapermillExecutionError as error:
        os.replace(partial, failed)
        last = (str(error.evalue).strip().splitlines() or [""])[-1]
        where = f"{notebook.name}, cell {error.cell_index} failed: {error.ename}: {last}"
        raise RsvlmError(f"{where}\nIts outputs, and those before it, are in {failed.relative_to(stages.root())}.") from None
    except DeadKernelError:
        raise RsvlmError(f"{notebook.name}: the kernel was killed, often for want of memory: try the profile smoke") from None
    finally:
        partial.unlink(missing_ok=True)


def _sign(copy: NotebookNode, run_key: str, started: float, known: Mapping[str, object], given: Mapping[str, object]) -> None:
    """Write into an executed copy where it came from, and take papermill's own words out: paths and times of one machine."""
    import torch

    values = {**known, **given}
    device = str(values.get("device", "auto"))
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    copy.metadata["rsvlm"] = {  # the page of states and the tables of matrices read it
        "key": run_key,
        "duration_s": round(time.time() - started, 1),
        **{name: values[name] for name in ("profile", "seed") if name in values},
        "device": "cuda" if on_gpu else "cpu",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "cpu": provenance.cpu(),
        "cores": os.cpu_count(),
        **provenance.commit(),
    }
    copy.metadata.pop("jupytext", None)  # the copy is no half of a pair
    for part in (copy, *copy.cells):
        part.metadata.pop("papermill", None)
    for cell in copy.cells:
        if values == known and "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-cell")  # it says what the cell above says


def _read(notebook: Path | str) -> tuple[list, list[str], dict[str, object]]:
    """The cells of a notebook, and the tags and the values of the one that is tagged `parameters`."""
    notebook, nbformat = Path(notebook), need("nbformat", "book")
    if not notebook.is_file():
        raise DataError(f"there is no notebook {notebook}: those at hand are in {stages.root() / 'notebooks'}")
    cells = nbformat.read(notebook, as_version=4).cells
    marked = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(marked) != 1:
        raise DataError(f"{notebook.name} has {len(marked)} cells tagged 'parameters': tag the one that sets them")
    values = {}
    for line in ast.parse(marked[0].source).body:
        targets = line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        try:
            values |= {target.id: ast.literal_eval(line.value) for target in targets}
        except ValueError:
            raise DataError(f"{notebook.name}: '{ast.unparse(line)}' is no literal: move it out of the parameters") from None
    return cells, marked[0].metadata.tags, values


def _executed_key(path: Path) -> str | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["metadata"]["rsvlm"]["key"]
    except (OSError, ValueError, KeyError):
        return None


@dataclass(frozen=True)
class Task:
    """A notebook and its values, to be run in a process of its own."""

    notebook: Path
    parameters: Mapping[str, object]
    log: Path  # what the process writes
    after: frozenset[str] = frozenset()  # names of notebooks, without .ipynb, that have to be done before
    parts: Mapping[str, object] | None = None  # what decides the folder of a run of a matrix; if None, it is one of the book
    alone: bool = False  # it keeps all cores at work: two such beside each other take longer than one after the other


@dataclass(frozen=True)
class Ending:
    """How a task ended."""

    state: str  # made, failed, or there: complete before
    seconds: float = 0.0
    last_line: str = ""  # of the log, if it failed


def run_all(
    tasks: Sequence[Task],
    jobs: int,
    recompute: bool = False,
    environment: Mapping[str, str] | None = None,
    stop_early: bool = False,
    done_before: int = 0,
    when_done: Callable[[Path], None] | None = None,
) -> list[Ending | None]:
    """Run notebooks, each in a process of its own, several at a time, and each once those are done that it waits for.

    Args:
        tasks: The notebooks, in the order in which they begin; a name in `after` that is none of theirs is not waited for.
        jobs: Number of processes at once.
        recompute: Whether to run also those that are there.
        environment: Variables for the processes that have others beside them, where the caller's environment does not set them.
        stop_early: Whether nothing new begins once one has failed; what is under way is finished.
        done_before: Number of further runs that were there already, for the bar.
        when_done: Called with the path of each notebook that was made, once it is done; it has to be quick.

    Returns:
        How each ended, in the order of `tasks`; None for one that was not begun.

    Raises:
        ConfigError: `jobs` is below 1.
        DataError: Notebooks wait for each other.
        KeyboardInterrupt: Ctrl-C; what was running is stopped first.
    """
    from tqdm.auto import tqdm

    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}: at least one run has to go at once")
    waiting, unfinished = list(range(len(tasks))), {task.notebook.stem for task in tasks}
    running: dict[int, tuple[subprocess.Popen, float]] = {}
    endings: dict[int, Ending] = {}
    bar = tqdm(total=len(tasks) + done_before, initial=done_before, desc="notebooks", unit="run", dynamic_ncols=True)
    try:
        while running or waiting:
            # Begin what can begin.
            ready = _ready(tasks, waiting, list(running), unfinished, jobs)
            for number in ready:
                waiting.remove(number)
                variables = {} if tasks[number].alone else environment or {}
                running[number] = _start(tasks[number], recompute, variables), time.monotonic()
            if not running:
                names = ", ".join(tasks[number].notebook.name for number in waiting)
                raise DataError(f"{names} wait for each other: mend their tags after:NAME")
            # Take note of what has ended.
            time.sleep(0.1)
            done = [number for number, (process, _) in running.items() if process.poll() is not None]
            for number in done:
                endings[number] = _ending(*running.pop(number), tasks[number].log)
                unfinished.discard(tasks[number].notebook.stem)
                if endings[number].state == "failed" and stop_early and waiting:
                    waiting.clear()
                    logger.warning("%s failed; nothing new is begun", tasks[number].notebook.name)
                if endings[number].state == "made" and when_done:
                    when_done(tasks[number].notebook)
                bar.update()
            if ready or done:
                failed = sum(ending.state == "failed" for ending in endings.values())
                names = dict.fromkeys(tasks[number].notebook.stem for number in running)
                bar.set_postfix_str(", ".join([f"failed={failed}", *names]))
    finally:
        bar.close()
        _stop([process for process, _ in running.values()])
    return [endings.get(number) for number in range(len(tasks))]


def _ready(tasks: Sequence[Task], waiting: Sequence[int], running: list[int], unfinished: set[str], jobs: int) -> list[int]:
    """Return the numbers of the tasks that can begin now; those behind one that waits to be alone wait, too, so that its turn comes."""
    ready: list[int] = []
    for number in waiting:
        beside = running + ready
        if len(beside) == jobs or any(tasks[other].alone for other in beside):
            break
        if tasks[number].after & unfinished:
            continue
        if tasks[number].alone and beside:
            break
        ready.append(number)
    return ready


def _start(task: Task, recompute: bool, environment: Mapping[str, str]) -> subprocess.Popen:
    task.log.parent.mkdir(parents=True, exist_ok=True)
    request = {"notebook": str(task.notebook.resolve()), "parameters": task.parameters, "recompute": recompute}
    program = "import sys; from rsvlm.book import notebooks; notebooks.work(sys.argv[1])"
    with open(task.log, "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", program, json.dumps(request | {"parts": task.parts})],
            cwd=stages.root(),
            env={**environment, **os.environ, "RSVLM_HOME": str(stages.root()), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,  # its end tells the process that this one is gone, however it went
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the others
        )


def _ending(process: subprocess.Popen, started: float, log: Path) -> Ending:
    process.stdin.close()
    seconds = time.monotonic() - started
    if process.returncode == 0:
        return Ending("made", seconds)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next(filter(None, map(text.one_line, reversed(lines))), "it wrote nothing")
    signalled = f"killed (signal {-process.returncode}); " if process.returncode < 0 else ""
    return Ending("failed", seconds, signalled + last)


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
        request: JSON of notebook, parameters, recompute and parts.
    """
    arguments = json.loads(request)
    parts = arguments.pop("parts")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    threading.Thread(target=_watch, daemon=True).start()

    def compute(folder: Path) -> None:
        os.environ["RSVLM_RESULTS"] = str(folder / "results")  # of this process and its kernel
        execute(**arguments, folder=folder, progress=False)

    try:
        if parts is None:
            execute(**arguments, progress=False)
        else:
            stages.stage("grid", parts, compute, arguments["recompute"])
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
