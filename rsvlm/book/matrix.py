"""Many runs of notebooks: a matrix of values, every run of it made once, in a folder of its own, and one table of them all.

A run is a stage, `runs/grid-<key>/`, with the executed notebook and what it measured; its log is `runs/grid-<key>.log` beside it.
The key knows the notebook's cells, the package and every value, so that a matrix that was stopped goes on where it was, and one
that grew makes what is new. Nothing of a run enters `results/` or `book/`.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rsvlm.book import notebooks
from rsvlm.errors import ConfigError, DataError
from rsvlm.records import files, results, stages

if TYPE_CHECKING:
    import pandas as pd

MOST = 10_000
OURS = ("run_name", "overrides", "recompute")
"""Parameters of notebooks that a matrix sets itself."""

_PAIRS = {"[": "]", "(": ")", "{": "}"}


@dataclass(frozen=True)
class Run:
    """One cell of a matrix: a notebook and its values."""

    notebook: Path
    chosen: dict[str, str]  # what the matrix says of this run, as it was written
    parameters: dict[str, object]  # what the notebook is given
    parts: dict[str, object]  # what decides the key
    key: str

    @property
    def folder(self) -> Path:
        """Where the executed notebook and its results are, once the run is complete."""
        return stages.root() / "runs" / f"grid-{self.key}"

    @property
    def log(self) -> Path:
        """What the run wrote while it ran."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def task(self) -> notebooks.Task:
        """The run as `notebooks.run_all` takes it."""
        return notebooks.Task(self.notebook, self.parameters, self.log, parts=self.parts)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `made`, `there` (it was complete before) or `failed`."""

    run: Run
    state: str
    seconds: float
    last_line: str = ""


def axes(items: Sequence[str]) -> dict[str, list[str]]:
    """Read axes of a matrix, each as `name=value,value`.

    A comma inside quotes or brackets belongs to its value: `train.sizes_px="64,96",128` has two values.

    Args:
        items: One text for each axis.

    Returns:
        The values of each name, as text, without the quotes around them.

    Raises:
        ConfigError: Not of that form, an axis or a value that is there twice, or a quote or bracket that does not close.
    """
    found: dict[str, list[str]] = {}
    for item in items:
        name, equals, text = (part.strip() for part in item.partition("="))
        if not equals or not name:
            raise ConfigError(f"'{item}' is no axis of a matrix: write name=value,value, as in train.learning_rate=1e-3,3e-4")
        if name in found:
            raise ConfigError(f"the axis '{name}' is there twice: give all its values at once, {name}=value,value")
        found[name] = _split(item, text)
        if twice := [value for value in found[name] if found[name].count(value) > 1]:
            raise ConfigError(f"the axis '{name}' has the value '{twice[0]}' twice: keep one")
    return found


def _split(item: str, text: str) -> list[str]:
    """Cut a text at its commas, but for those inside quotes or brackets."""
    values, closing, quote = [""], [], ""
    for letter in text:
        if letter == "," and not closing and not quote:
            values.append("")
            continue
        values[-1] += letter
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in _PAIRS:
            closing.append(_PAIRS[letter])
        elif letter in _PAIRS.values() and (not closing or closing.pop() != letter):
            raise ConfigError(f"'{item}': the '{letter}' closes nothing; put quotes around a value that holds brackets")
    if quote or closing:
        raise ConfigError(f"'{item}': the {quote or 'bracket'} does not close; put other quotes around a value that holds one")
    stripped = [value.strip() for value in values]
    return [re.sub(r"""^(["'])((?:(?!\1).)*)\1$""", r"\2", value, flags=re.DOTALL) for value in stripped]


def plan(
    books: Sequence[Path],
    matrix: Mapping[str, Sequence[str]],
    given: Mapping[str, object] | None = None,
    overrides: Sequence[str] = (),
) -> list[Run]:
    """Lay out every combination of notebooks and values, and check each of them; nothing runs yet.

    Args:
        books: The notebooks.
        matrix: As from `axes`. A name is that of a parameter of the notebooks (`seed`, `profile`) or of an option
            (`train.learning_rate`); a parameter goes first where it is both.
        given: Parameters that are the same in every run, such as `profile`.
        overrides: Options that are the same in every run, as `name=value`.

    Returns:
        The runs; the last axis changes fastest.

    Raises:
        ConfigError: An unknown name (with the nearest known one), a value out of range, one that was already given, or more than
            `MOST` runs.
        DataError: A notebook that cannot be read.
    """
    from rsvlm import config

    given = dict(given or {})
    overrides = [*str(given.pop("overrides", "")).split(), *overrides]
    count = len(books) * math.prod(map(len, matrix.values()))
    if count > MOST:
        raise ConfigError(f"this matrix has {count:,} runs, above {MOST:,}: name fewer values")
    defaults = {book: notebooks.parameters(book) for book in books}
    for name in matrix:
        _check_name(name, defaults, config.names())
        if name in given or any(item.partition("=")[0] == name for item in overrides):
            raise ConfigError(f"'{name}' is given once for all runs and once for each: keep one")
    planned = []
    texts = {book: notebooks.notebook_key(book, given) for book in books}
    for book, *values in itertools.product(books, *matrix.values()):
        chosen = dict(zip(matrix, values, strict=True))
        parameters = given | {name: _plain(value) for name, value in chosen.items() if name in defaults[book]}
        options = [*overrides, *(f"{name}={value}" for name, value in chosen.items() if name not in defaults[book])]
        if spaced := [option for option in options if len(option.split()) != 1]:
            raise ConfigError(f"'{spaced[0]}': values of options in a matrix hold no spaces")
        parameters["overrides"] = " ".join(options)
        named = {name: parameters[name] for name in ("seed", "device") if name in parameters}
        config.load(str(parameters.get("profile", "laptop")), named | config.pairs(parameters["overrides"]))
        parts = {"notebook": book.name, "text": texts[book], "parameters": parameters}
        key = stages.key(**parts)
        planned.append(Run(book, chosen, parameters | {"run_name": f"grid-{key}"}, parts, key))
    return planned


def _check_name(name: str, defaults: Mapping[Path, Mapping[str, object]], options: Sequence[str]) -> None:
    if name in OURS:
        raise ConfigError(f"'{name}' is no axis: every run gets its own; options go by name, as in train.steps=100,200")
    lacking = [book.name for book, known in defaults.items() if name not in known]
    if not lacking or name in options:
        return
    if len(lacking) < len(defaults):
        raise ConfigError(f"{lacking[0]} has no parameter '{name}', which other notebooks of this matrix have")
    known = sorted({parameter for names in defaults.values() for parameter in names} - set(OURS)) + list(options)
    raise ConfigError(f"unknown option '{name}': did you mean '{nearest(name, known)}'?")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the known name that a wrong one most likely means: `train.lr` is `train.learning_rate`."""

    def alike(other: str) -> tuple[bool, float]:
        section, _, last = name.rpartition(".")
        of_other, _, last_of_other = other.rpartition(".")
        short = "".join(word[0] for word in last_of_other.split("_")) == last  # the usual abbreviations
        close = difflib.SequenceMatcher(None, last, last_of_other).ratio()
        return short and section in ("", of_other), close + (0.3 if section == of_other else 0)

    return max(known, key=alike)


def run_all(planned: Sequence[Run], jobs: int = 1, recompute: bool = False) -> list[Outcome]:
    """Make the runs that are not there yet, each in a process of its own; one that fails stops no other.

    Args:
        planned: As from `plan`.
        jobs: Runs at once; they share the cores.
        recompute: Make also those that are there.

    Returns:
        How each ended, in the order of `planned`.

    Raises:
        ConfigError: Not one run at once.
        KeyboardInterrupt: Ctrl-C; what was running is stopped first, and begins again next time.
    """
    threads = str(max(1, (os.cpu_count() or 1) // max(1, jobs)))
    shared = {name: threads for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS")} if jobs > 1 else {}
    missing = [run for run in planned if recompute or not run.folder.is_dir()]
    endings = notebooks.run_all(
        [run.task for run in missing],
        jobs,
        recompute,
        environment=shared | {"TQDM_DISABLE": "1"},
        done_before=len(planned) - len(missing),
    )
    outcomes = {
        run.key: Outcome(run, "failed" if ending.error else "made", ending.seconds, ending.error)
        for run, ending in zip(missing, endings, strict=True)
    }
    return [outcomes.get(run.key, Outcome(run, "there", 0.0)) for run in planned]


def table(keys: Sequence[str] | None = None) -> pd.DataFrame:
    """Read complete runs as one table, a row per metric.

    Args:
        keys: Only these runs; none: all that are in `runs/`.

    Returns:
        run (its key), notebook, every parameter and option that was given, seconds, experiment, and the columns of `results.ROW`; a run
        that measured nothing has one row, without an experiment. Numbers written as text are numbers here.

    Raises:
        DataError: A run whose files cannot be read; the message names its folder.
    """
    import pandas as pd

    rows: list[dict] = []
    for path in sorted((stages.root() / "runs").glob("grid-*/stage.json")):
        key = path.parent.name.removeprefix("grid-")
        if keys is not None and key not in keys:
            continue
        try:
            rows += _rows_of(key, path.parent)
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            raise DataError(f"{path.parent} is no complete run ({error!r}): remove it and run the matrix again") from None
    frame = pd.DataFrame(rows)
    last = [name for name in ("seconds", "experiment", *results.ROW) if name in frame]
    frame = frame[[name for name in frame if name not in last] + last]
    if keys is not None and len(frame):
        frame = frame.sort_values("run", key=lambda column: column.map(list(keys).index), kind="stable", ignore_index=True)
    return frame


def _rows_of(key: str, folder: Path) -> list[dict]:
    from rsvlm import config

    parts = json.loads((folder / "stage.json").read_text(encoding="utf-8"))["parts"]
    executed = json.loads((folder / parts["notebook"]).read_text(encoding="utf-8"))["metadata"]["rsvlm"]
    given = dict(parts["parameters"])
    options = config.pairs(given.pop("overrides", ""))
    named = {"run": key, "notebook": Path(parts["notebook"]).stem}
    named |= {name: _plain(value) if isinstance(value, str) else value for name, value in (given | options).items()}
    named["seconds"] = executed["duration_s"]
    measured = results.read_rows(f"runs/{folder.name}/results/*/*")
    return [named | {name: row[name] for name in ("experiment", *results.ROW)} for row in measured] or [named]


def wide(runs_table: pd.DataFrame, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Lay runs out one to a row: what differs between them, and a column for each metric.

    Args:
        runs_table: As from `table`.
        metrics: Only these (`R@1`, `mR`); none: all.

    Returns:
        With the run's key as index: notebook where there are several, the values that differ, seconds, and the metrics. A column is
        named by its metric, with the direction and then the protocol, split and data set where that is not enough: numbers of two
        protocols never share a column.
    """
    import pandas as pd

    measures = ("experiment", *results.ROW)
    fixed = [name for name in runs_table if name not in measures and name != "run"]
    of_run = runs_table.drop_duplicates("run").set_index("run")[fixed]
    differing = [name for name in fixed if name == "seconds" or of_run[name].astype(str).nunique(dropna=False) > 1]
    if "value" not in runs_table:
        return of_run[differing]
    measured = runs_table.dropna(subset=["value"])
    measured = measured[measured["metric"].isin(list(metrics))] if metrics is not None else measured
    context = [name for name in ("experiment", "dataset", "split", "protocol") if measured[name].nunique() > 1]
    columns = measured[[*measures[:5], "metric"]].drop_duplicates()
    for parts in (["metric"], ["metric", "direction"], [*context, "metric", "direction"]):  # as short as tells them apart
        if not columns.duplicated(parts).any():
            break
    labels = measured[parts].agg(" ".join, axis=1)
    values = measured.assign(label=labels).pivot(index="run", columns="label", values="value")
    values = values.reindex(columns=list(dict.fromkeys(labels))).rename_axis(columns=None)
    return pd.concat([of_run[differing], values.reindex(of_run.index)], axis=1)


def write_table(planned: Sequence[Run]) -> Path:
    """Write the table of the complete runs among these to `runs/batch-<key>.csv`, one name for one matrix; return the file."""
    keys = [run.key for run in planned]
    frame = table(keys)
    for name in frame.select_dtypes(exclude="number"):  # a spreadsheet takes such a cell for a formula
        frame[name] = [f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell for cell in frame[name]]
    path = stages.root() / "runs" / f"batch-{stages.key(runs=sorted(keys))}.csv"
    return files.write_atomic(path, frame.to_csv(index=False, lineterminator="\n"))


def _plain(text: str) -> object:
    value = literal(text)
    return value if isinstance(value, bool | int | float | None) else text


def literal(text: str) -> object:
    """Read a value from a command line: what Python would read, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
