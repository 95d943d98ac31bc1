"""Many runs of notebooks: a matrix of values, every run of it made once, in a folder of its own, and one table of them all.

A run is a stage, `runs/grid-<key>/`, with the executed notebook and what it measured; its log is `runs/grid-<key>.log` beside it.
The key knows the notebook's cells, the package and every value, so that a matrix that was stopped goes on where it was, and one
that grew makes what is new. Nothing of a run enters `results/` or `book/`.
"""

from __future__ import annotations

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

from rsvlm import config
from rsvlm.book import notebooks
from rsvlm.errors import ConfigError, DataError
from rsvlm.records import files, results, stages, text

if TYPE_CHECKING:
    import pandas as pd

MOST = 10_000
OURS = ("run_name", "overrides", "recompute")
"""Parameters of notebooks that a matrix sets itself."""

_PAIRS = {"[": "]", "(": ")", "{": "}"}


@dataclass(frozen=True, kw_only=True)
class Run(notebooks.Task):
    """One cell of a matrix: a notebook and its values."""

    chosen: dict[str, str]  # what the matrix says of this run, as it was written
    key: str

    @property
    def folder(self) -> Path:
        """Where the executed notebook and its results are, once the run is complete."""
        return self.log.with_suffix("")


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
    values: dict[str, list[str]] = {}
    for item in items:
        name, equals, listed = (part.strip() for part in item.partition("="))
        if not equals or not name:
            raise ConfigError(f"'{item}' is no axis of a matrix: write name=value,value, as in train.learning_rate=1e-3,3e-4")
        if name in values:
            raise ConfigError(f"the axis '{name}' is there twice: give all its values at once, {name}=value,value")
        values[name] = _split(item, listed)
        if twice := [value for value in values[name] if values[name].count(value) > 1]:
            raise ConfigError(f"the axis '{name}' has the value '{twice[0]}' twice: keep one")
    return values


def _split(item: str, listed: str) -> list[str]:
    """Cut a text at its commas, but for those inside quotes or brackets."""
    values, closing, quote = [""], [], ""
    for letter in listed:
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
    return [re.sub(r"""^(["'])((?:(?!\1).)*)\1$""", r"\2", value.strip(), flags=re.DOTALL) for value in values]


def plan(
    books: Sequence[Path],
    matrix: Mapping[str, Sequence[str]],
    given: Mapping[str, object] | None = None,
    overrides: Sequence[str] = (),
) -> list[Run]:
    """Lay out every combination of notebooks and values, and check each of them; nothing runs yet.

    Args:
        books: Paths of the notebooks.
        matrix: Values of each name, as from `axes`. A name is that of a parameter of the notebooks (`seed`, `profile`) or of an
            option (`train.learning_rate`); a parameter goes first where it is both.
        given: Parameters that are the same in every run, such as `profile`.
        overrides: Options that are the same in every run, as `name=value`.

    Returns:
        The runs; the last axis changes fastest.

    Raises:
        ConfigError: An unknown name (with the nearest known one), a value out of range, one that was already given, or more than
            `MOST` runs.
        DataError: A notebook that cannot be read.
    """
    given = dict(given or {})
    overrides = [*str(given.pop("overrides", "")).split(), *overrides]
    count = len(books) * math.prod(map(len, matrix.values()))
    if count > MOST:
        raise ConfigError(f"this matrix has {count:,} runs, above {MOST:,}: name fewer values")
    known = {book: notebooks.defaults(book) for book in books}
    for name in matrix:
        _check_name(name, known, config.names())
        if name in given or any(item.partition("=")[0] == name for item in overrides):
            raise ConfigError(f"'{name}' is given once for all runs and once for each: keep one")
    keys = {book: notebooks.notebook_key(book, given) for book in books}
    common = {book: notebooks.read_values(book, given) for book in books}
    runs = []
    for book, *values in itertools.product(books, *matrix.values()):
        # A value goes to the notebook's parameter of that name, else to the option.
        chosen = dict(zip(matrix, values, strict=True))
        options = [*overrides, *(f"{name}={value}" for name, value in chosen.items() if name not in known[book])]
        if spaced := [option for option in options if len(option.split()) != 1]:
            raise ConfigError(f"'{spaced[0]}': values of options in a matrix hold no spaces")
        own = notebooks.read_values(book, {name: value for name, value in chosen.items() if name in known[book]})
        parameters = common[book] | own | {"overrides": " ".join(options)}
        # An option out of range stops here, before any work.
        named = {name: parameters[name] for name in ("seed", "device") if name in parameters}
        config.load(str(parameters.get("profile", "laptop")), named | config.pairs(parameters["overrides"]))
        parts = {"notebook": book.name, "text": keys[book], "parameters": parameters}
        key = stages.key(**parts)
        log = stages.root() / "runs" / f"grid-{key}.log"
        runs.append(Run(book, parameters | {"run_name": f"grid-{key}"}, log, parts=parts, chosen=chosen, key=key))
    return runs


def _check_name(name: str, known: Mapping[Path, Mapping[str, object]], options: Sequence[str]) -> None:
    if name in OURS:
        raise ConfigError(f"'{name}' is no axis: every run gets its own; options go by name, as in train.steps=100,200")
    lacking = [book.name for book, parameters in known.items() if name not in parameters]
    if not lacking or name in options:
        return
    if len(lacking) < len(known):
        raise ConfigError(f"{lacking[0]} has no parameter '{name}', which other notebooks of this matrix have")
    names = sorted({parameter for parameters in known.values() for parameter in parameters} - set(OURS)) + list(options)
    section, _, last = name.rpartition(".")

    def likeness(other: str) -> tuple[bool, bool, float]:
        """The usual abbreviations first: `train.lr` is `train.learning_rate`, and not another option of these initials."""
        of_other, _, last_of_other = other.rpartition(".")
        short = "".join(word[0] for word in last_of_other.split("_")) == last
        close = difflib.SequenceMatcher(None, last, last_of_other).ratio()
        usual = (last, last_of_other) == ("lr", "learning_rate")
        return usual, short and section in ("", of_other), close + (0.3 if section == of_other else 0)

    raise ConfigError(f"unknown option '{name}': did you mean '{max(names, key=likeness)}'?")


def run_all(planned: Sequence[Run], jobs: int = 1, recompute: bool = False) -> list[notebooks.Ending]:
    """Make the runs that are not there yet, each in a process of its own; one that fails stops no other.

    Args:
        planned: Runs, as from `plan`.
        jobs: Number of runs at once; they share the cores.
        recompute: Whether to make also those that are there.

    Returns:
        How each ended, in the order of `planned`.

    Raises:
        ConfigError: `jobs` is below 1.
        KeyboardInterrupt: Ctrl-C; what was running is stopped first, and begins again next time.
    """
    threads = str(max(1, (os.cpu_count() or 1) // max(1, jobs)))
    shared = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), threads) if jobs > 1 else {}
    missing = [run for run in planned if recompute or not run.folder.is_dir()]
    environment, there = shared | {"TQDM_DISABLE": "1"}, len(planned) - len(missing)
    endings = notebooks.run_all(missing, jobs, recompute, environment=environment, done_before=there)
    ended = {run.key: ending for run, ending in zip(missing, endings, strict=True)}
    return [ended.get(run.key, notebooks.Ending("there")) for run in planned]


def table(keys: Sequence[str] | None = None) -> pd.DataFrame:
    """Read complete runs as one table, a row per metric.

    Args:
        keys: Keys of the runs, whose order the rows have. If None, all runs that are in `runs/`.

    Returns:
        run (its key), notebook, every parameter and option that was given, seconds, experiment, and the columns of `results.ROW`; a run
        that measured nothing has one row, without an experiment. Numbers written as text are numbers here.

    Raises:
        DataError: A run whose files cannot be read; the message names its folder.
    """
    import pandas as pd

    runs = stages.root() / "runs"
    folders = sorted(runs.glob("grid-*")) if keys is None else [runs / f"grid-{key}" for key in dict.fromkeys(keys)]
    rows: list[dict] = []
    for folder in folders:
        if not (folder / "stage.json").is_file():
            continue
        try:
            rows += _rows_of(folder)
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            raise DataError(f"{folder} is no complete run ({error!r}): remove it and run the matrix again") from None
    frame = pd.DataFrame(rows)
    last = [name for name in ("seconds", "experiment", *results.ROW) if name in frame]
    return frame[[name for name in frame if name not in last] + last]


def _rows_of(folder: Path) -> list[dict]:
    parts = json.loads((folder / "stage.json").read_text(encoding="utf-8"))["parts"]
    executed = json.loads((folder / parts["notebook"]).read_text(encoding="utf-8"))["metadata"]["rsvlm"]
    given = dict(parts["parameters"])
    options = config.pairs(given.pop("overrides", ""))
    named = {
        "run": folder.name.removeprefix("grid-"),
        "notebook": Path(parts["notebook"]).stem,
        **{name: _plain(value) if isinstance(value, str) else value for name, value in (given | options).items()},
        "seconds": executed["duration_s"],
    }
    measured = results.read_rows(f"runs/{folder.name}/results/*/*")
    return [named | {name: row[name] for name in ("experiment", *results.ROW)} for row in measured] or [named]


def wide(runs: pd.DataFrame, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Lay runs out one to a row: what differs between them, and a column for each metric.

    Args:
        runs: Rows of runs, as from `table`.
        metrics: Metrics shown (`R@1`, `mR`). If None, all.

    Returns:
        With the run's key as index: notebook where there are several, the values that differ, seconds, and the metrics. A column is
        named by its metric, with the direction and then the protocol, split and data set where that is not enough: numbers of two
        protocols never share a column.
    """
    import pandas as pd

    measures = ("experiment", *results.ROW)
    of_run = runs.drop_duplicates("run").set_index("run")[[name for name in runs if name not in (*measures, "run")]]
    differing = [name for name in of_run if name == "seconds" or of_run[name].astype(str).nunique(dropna=False) > 1]
    if "value" not in runs:
        return of_run[differing]
    measured = runs.dropna(subset=["value"])
    measured = measured if metrics is None else measured[measured["metric"].isin(list(metrics))]
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
    for name in frame.select_dtypes(exclude="number"):
        frame[name] = [text.cell(value) for value in frame[name]]
    path = stages.root() / "runs" / f"batch-{stages.key(runs=sorted(keys))}.csv"
    return files.write_atomic(path, frame.to_csv(index=False, lineterminator="\n"))


def _plain(value: str) -> object:
    read = notebooks.literal(value)
    return read if isinstance(read, bool | int | float | None) else value
