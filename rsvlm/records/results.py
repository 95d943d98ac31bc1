"""Results: what a run measured is written as flat rows, and read back beside what others published, never across protocols.

Two numbers may stand in one column only if data set, split, protocol, direction and metric are the same: recalls of one model differ
by several points between protocols. What is printed here is cut into one table per protocol, and `compare` refuses to mix them.
"""

from __future__ import annotations

import contextlib
import csv as spreadsheet
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from rsvlm.errors import ConfigError, DataError
from rsvlm.records import files, stages, text

if TYPE_CHECKING:
    import pandas as pd

    from rsvlm.config import Config


ROW = ("dataset", "split", "protocol", "direction", "metric", "value", "ci_low", "ci_high", "chance", "n")
"""A row of results: what was measured on what, the number, its interval, what guessing gives, and how many items it is over."""

DIRECTIONS = ("i2t", "t2i", "both")
KEY = ("dataset", "split", "protocol", "direction", "metric")
"""What numbers in one column have in common."""

RUN = ("experiment", "run")
EVERY_CAPTION = ("plain", "remoteclip", "rs5m")
"""Protocols of retrieval in which every caption is a query."""

ORIGIN = ("profile", "seed", "device", "commit", "data_hash")
PUBLISHED = ("model", "backbone", "task", *KEY, "value", "trained_on_dataset", "source")
TASKS = ("retrieval", "classification", "segmentation", "detection")
UNSTATED = "unstated"


def save_result(
    experiment: str,
    run_name: str,
    config: Config,
    rows: Sequence[Mapping[str, object]],
    provenance: Mapping,
    found: Mapping[str, object] | None = None,
) -> Path:
    """Write what a run measured to `results/<experiment>/<run_name>/`; a run of the same name is replaced.

    Where the environment variable RSVLM_RESULTS names a folder, that one stands for `results/`.

    Args:
        experiment: Name of the question, as in `retrieval`.
        run_name: Name of the run, as in `laptop-seed0`.
        config: Options of the run.
        rows: Rows with the keys of `ROW`, recalls and accuracies in percent; `ci_low`, `ci_high` and `chance` may be None.
        provenance: Origin, as of `provenance.provenance`.
        found: What else a page shows of the run, of values that JSON knows: `stored` reads it.

    Returns:
        The folder, with config.json, provenance.json, metrics.json and, where something was found, found.json.

    Raises:
        DataError: A row with a missing or unknown key, a value that is no finite number, or a row that is there twice.
        ConfigError: A name that is no plain file name, or that of a measured run of another profile.
    """
    run_name = str(run_name)  # papermill's own command line makes a number of one of digits
    for name in (experiment, run_name):
        check_name(name)
    rows = [checked_row(row) for row in rows]
    counts = Counter(tuple(row.values())[:5] for row in rows)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DataError(f"the metric row {twice[0]} is there {counts[twice[0]]} times: keep one")
    folder = Path(os.environ.get("RSVLM_RESULTS") or stages.root() / "results") / experiment / run_name
    with contextlib.suppress(OSError, ValueError):
        if (other := json.loads((folder / "config.json").read_text())["profile"]) not in ("smoke", config.profile):
            raise ConfigError(f"{folder} holds a run of profile {other}, not {config.profile}: give this run another name")
    # The metrics come last: a folder without them is not read as a result.
    parts = {"config": config.model_dump(mode="json"), "provenance": dict(provenance)}
    parts |= {"found": dict(found)} if found is not None else {}
    for name, value in (parts | {"metrics": rows}).items():
        files.write_atomic(folder / f"{name}.json", json.dumps(value, indent=1, allow_nan=False) + "\n")
    return folder


def stored(experiment: str, run_name: str, config: Config, given: Mapping[str, object] | None = None) -> dict | None:
    """Return what a run found, if it was made before with the same options.

    A page that takes long reads by this what was measured once, and measures only if it is told to.

    Args:
        experiment: As for `save_result`.
        run_name: As for `save_result`.
        config: Options of the run; on which device it ran makes no difference.
        given: Other values that decide what is found; they are compared with those of the same name in what was found.

    Returns:
        What `save_result` got as `found`, with `origin`: the run's provenance, and as `n` the counts of items that its rows are over.
        None if `results/` has no such run or one of other options (one that came since counts as it is by default), or if the
        environment variable RSVLM_RESULTS names another folder.

    Raises:
        DataError: The run is not complete.
    """
    folder = stages.root() / "results" / experiment / str(run_name)
    if os.environ.get("RSVLM_RESULTS") or not (folder / "found.json").is_file():
        return None
    try:
        names = ("found", "provenance", "config", "metrics")
        found, made, options, rows = (json.loads((folder / f"{name}.json").read_text()) for name in names)
        try:
            then = type(config)(**options).model_dump(mode="json")  # an option that is new since has its default
        except ValidationError:  # one that is gone
            return None
        if then | {"device": ""} != config.model_dump(mode="json") | {"device": ""}:
            return None
        if any(found.get(name) != json.loads(json.dumps(value)) for name, value in (given or {}).items()):
            return None
        return found | {"origin": made | {"n": sorted({row["n"] for row in rows})}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is not a complete result ({error!r}): run it again or remove it") from None


def check_name(name: str) -> str:
    """Check that a name can be that of an experiment or a run, and return it.

    Raises:
        ConfigError: It cannot.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"'{name}' cannot name a folder of results: use letters, digits, '.', '_' and '-'")
    return name


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


def table(experiment: str | None = None) -> pd.DataFrame:
    """Read all results as one table, a row per metric.

    Args:
        experiment: Name below `results/`; or a file of rows that `rsvlm evaluate --json` wrote; or folders of runs of a matrix,
            as in `runs/grid-*`. If None, all of `results/`.

    Returns:
        experiment, run, the columns of `ROW`, profile, seed, device, commit and data_hash, and the sketch of the captions (see
        `text.sketch`; empty where it is not told); sorted by experiment and run.

    Raises:
        DataError: A result that is not complete, or a row that `checked_row` refuses; the message names the file.
    """
    import pandas as pd

    experiment = experiment or "*"
    if experiment.endswith(".json"):
        rows = _evaluated(Path(experiment))
    elif "/" in experiment:
        rows = read_rows(f"{experiment.removeprefix(f'{stages.root()}/').strip('/')}/results/*/*")
    else:
        rows = read_rows(f"results/{experiment}/*")
    frame = pd.DataFrame(rows, columns=["experiment", "run", *ROW, *ORIGIN, "sketch"])
    return frame.astype(dict.fromkeys(("value", "ci_low", "ci_high", "chance"), float))


def read_rows(folders: str) -> list[dict]:
    """Read the rows of runs: whatever reads a metrics.json reads it here.

    Args:
        folders: Pattern of the runs' folders below `stages.root()`, as in `results/*/*`.

    Returns:
        For each row experiment, run, the keys of `ROW`, those of `ORIGIN`, and sketch; sorted by experiment and run.

    Raises:
        DataError: As `table`.
    """
    rows = []
    for path in sorted(stages.root().glob(f"{folders}/metrics.json")):
        try:
            made, config, measured = (json.loads(path.with_stem(n).read_text()) for n in ("provenance", "config", "metrics"))
            origin = {"profile": config["profile"]} | {part: made[part] for part in ORIGIN[1:]} | _sketch(made)
            names = {"experiment": path.parent.parent.name, "run": path.parent.name}
            rows += [names | checked_row(row) | origin for row in measured]
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            raise DataError(f"{path.parent} is not a complete result ({error!r}): run it again or remove it") from None
    return rows


def _evaluated(path: Path) -> list[dict]:
    """Rows of a file of `rsvlm evaluate --json`, named by the model that the file of provenance beside it names."""
    try:
        rows = [checked_row(row) for row in json.loads(path.read_text())]
        source = path.with_suffix(".provenance.json")
        made = json.loads(source.read_text()) if source.is_file() else {}
        names = {"experiment": path.name, "run": str(made.get("model", path.stem))}
        origin = {"profile": "evaluate"} | {part: made.get(part, "") for part in ORIGIN[1:]} | _sketch(made)
        return [names | row | origin for row in rows]
    except (OSError, ValueError, TypeError, AttributeError, DataError) as error:
        expected = "give a file that `rsvlm evaluate --json` wrote"
        raise DataError(f"{path} is no list of metric rows ({error}): {expected}") from None


def _sketch(made: Mapping) -> dict[str, str]:
    return {"sketch": str(made.get("population", {}).get("sketch", ""))}


def published(path: Path | str | None = None) -> pd.DataFrame:
    """Read figures of other systems as their authors, or others, printed them.

    Args:
        path: A CSV with the columns `PUBLISHED`. If None, the package's own, `published.csv`.

    Returns:
        The columns of `PUBLISHED`. `value` is in percent; `trained_on_dataset` says whether the system saw that data set's training
        split (yes or no); `source` says where the figure was read, and whether from a figure or a quotation. `protocol` is the rule of
        a recall, or the prompt set of a classification; a `split` may be a list of somebody's own, as those that `catalogue` knows.
        What the source leaves open of both is `unstated`.

    Raises:
        DataError: Other columns, a value that is no percentage, an empty or unknown cell, or a figure that is there twice; the
            message names the line.
    """
    import pandas as pd

    path = Path(path) if path else Path(__file__).with_name("published.csv")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = list(spreadsheet.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, spreadsheet.Error) as error:
        raise DataError(f"{path} cannot be read ({error}): give a CSV in UTF-8 with columns {', '.join(PUBLISHED)}") from None
    if not lines or tuple(lines[0]) != PUBLISHED:
        raise DataError(f"{path} has the columns {lines[0] if lines else 'of an empty file'}: expected {', '.join(PUBLISHED)}")
    rows: dict[tuple, dict] = {}
    for number, cells in enumerate(lines[1:], start=2):
        row = _published_row(cells, f"{path}, line {number}")
        name = tuple(row[part] for part in ("model", "backbone", *KEY))
        if name in rows:
            raise DataError(f"{path}, line {number}: {', '.join(name)} is there twice: keep one, or tell them apart")
        rows[name] = row
    return pd.DataFrame(list(rows.values()), columns=list(PUBLISHED)).astype({"value": float})


def _published_row(cells: Sequence[str], where: str) -> dict[str, object]:
    if len(cells) != len(PUBLISHED):
        raise DataError(f"{where}: {len(cells)} cells, expected {len(PUBLISHED)}: quote cells that hold a comma")
    row = dict(zip(PUBLISHED, map(str.strip, cells), strict=True))
    if empty := [name for name in PUBLISHED if not row[name] and name != "backbone"]:
        raise DataError(f"{where}: '{empty[0]}' is empty: fill it in, or write {UNSTATED} for a split or protocol")
    for name, choices in {"task": TASKS, "direction": DIRECTIONS, "trained_on_dataset": ("yes", "no")}.items():
        if row[name] not in choices:
            raise DataError(f"{where}: '{name}' is '{row[name]}', expected {' or '.join(choices)}")
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(row["value"])) <= 100:  # false for NaN
            return row | {"value": value}
    raise DataError(f"{where}: the value is no number from 0 to 100: give percent")


def strangers(measured: pd.DataFrame, known: Mapping[tuple[str, str], Mapping]) -> dict[tuple, str]:
    """Say which of our rows are not over the images and captions of the benchmark that they are named after.

    Captions may be a hundredth fewer, since blank ones are nobody's; images may not.

    Args:
        measured: Results as from `table`.
        known: Number of `images`, and perhaps of `captions` and their `sketch`, of each data set and split.

    Returns:
        Reason by (experiment, run, dataset, split), for those that are not, or of which it is not known.
    """
    sizes = {(bare(dataset), split): numbers for (dataset, split), numbers in known.items()}
    reasons: dict[tuple, str] = {}
    for key, rows in measured.groupby([*RUN, "dataset", "split"], sort=False):
        if (expected := sizes.get((bare(key[2]), key[3]))) is None:
            reasons[key] = "how many images and captions belong to it is not known"
            continue
        by_text = rows["direction"] == "t2i"
        each = by_text & rows["protocol"].str.partition(" ")[0].isin(EVERY_CAPTION)  # all captions are queries
        for what, chosen, least in (("images", ~by_text, 1.0), ("captions", each, 0.99)):
            number, wanted = rows.loc[chosen, "n"].max(), expected.get(what)
            if wanted is None or (what == "captions" and math.isnan(number)):
                continue
            if math.isnan(number) or not least * wanted <= number <= wanted:
                count = "unknown" if math.isnan(number) else f"{number:,.0f}"
                reasons.setdefault(key, f"{count} {what}, and that of the benchmark has {wanted:,}")
        ours, theirs = rows["sketch"].iloc[0], expected.get("sketch")
        if ours and theirs and text.likeness(ours, theirs) < text.ALIKE:
            reasons.setdefault(key, "its captions are others than the benchmark's")
    return reasons


def beside(
    measured: pd.DataFrame,
    figures: pd.DataFrame | None = None,
    *,
    known: Mapping[tuple[str, str], Mapping],
) -> pd.DataFrame:
    """Put our rows beside published figures of the same data set, split, protocol, direction and metric.

    A row that is not over the benchmark's images and captions, as far as these are known, is beside nothing. Mean recalls of one
    direction, which some publish, are the mean of our R@1, R@5 and R@10 of that direction; such a row has no interval. A figure whose split or protocol is unstated is beside nothing.

    Args:
        measured: Results as from `table`; runs of the profile `smoke` are left out.
        figures: Figures as from `published`. If None, the package's own.
        known: As for `strangers`, from `catalogue.populations`.

    Returns:
        Those columns (`KEY`) in which both have a number, best value first: KEY, system, value, ci_low, ci_high, n (0 where it is not
        told), trained_on_dataset (empty for ours), source (empty for ours).
    """
    import pandas as pd

    figures = published() if figures is None else figures
    figures = figures[(figures["split"] != UNSTATED) & (figures["protocol"] != UNSTATED)]
    figures = figures.assign(system=systems(figures), ci_low=math.nan, ci_high=math.nan, n=0)

    ours = spelled(measured[measured["profile"] != "smoke"], figures)
    ours = ours[~matching(ours, set(strangers(ours, known)), [*RUN, "dataset", "split"])]
    ours = _usual_recalls(ours)
    ours = pd.concat([ours, _mean_recalls(ours)], ignore_index=True)
    ours = ours.assign(
        system=systems(ours),
        trained_on_dataset="",
        source="",
    )
    columns = [*KEY, "system", "value", "ci_low", "ci_high", "n", "trained_on_dataset", "source"]
    shared = set(keys_of(ours)) & set(keys_of(figures))
    both = [part.loc[matching(part, shared), columns] for part in (ours, figures)]
    result = pd.concat([part for part in both if len(part)], ignore_index=True) if shared else ours.iloc[:0][columns]
    return result.sort_values([*KEY, "value"], ascending=[True] * len(KEY) + [False], kind="stable", ignore_index=True)


def bare(name: str) -> str:
    """Return the name of a data set without signs and capitals: UCM-Captions is ucm captions."""
    return re.sub(r"[\W_]+", "", name).casefold()


def spelled(measured: pd.DataFrame, figures: pd.DataFrame) -> pd.DataFrame:
    """Return our rows with the names of data sets as the figures spell them."""
    spelling = {bare(name): name for name in figures["dataset"]}
    return measured.assign(dataset=measured["dataset"].map(lambda name: spelling.get(bare(name), name)))


def systems(frame: pd.DataFrame) -> pd.Series:
    """Name the system of each row of `table` (experiment/run) or of `published` (model and backbone)."""
    first, second, joint = ("model", "backbone", ", ") if "model" in frame else ("experiment", "run", "/")
    return (frame[first] + joint + frame[second]).str.removesuffix(joint).astype(object)


def _usual_recalls(ours: pd.DataFrame) -> pd.DataFrame:
    """All rows but means of other recalls than R@1, R@5 and R@10: those are not what others call mean recall."""
    recalls = ours[ours["metric"].str.fullmatch(r"R@\d+")]
    other = recalls.loc[~recalls["metric"].isin(["R@1", "R@5", "R@10"]), ["experiment", "run", *KEY[:3]]].drop_duplicates()
    unusual = ours.merge(other.assign(other=True), how="left")["other"].notna().to_numpy()
    return ours[~(unusual & (ours["metric"] == "mR").to_numpy())]


def _mean_recalls(ours: pd.DataFrame) -> pd.DataFrame:
    """Mean of R@1, R@5 and R@10 of one direction, for the runs that have all three and no mean of their own."""
    names = ["experiment", "run", *KEY[:4]]
    one_way = ours[ours["direction"] != "both"]
    recalls = one_way[one_way["metric"].isin(["R@1", "R@5", "R@10"])]
    groups = recalls.groupby(names, sort=False)
    means = groups[["value"]].mean()[groups.size() == 3].reset_index()
    means = means.merge(groups["n"].first().reset_index(), on=names).assign(metric="mR", ci_low=math.nan, ci_high=math.nan)
    there = set(keys_of(one_way[one_way["metric"] == "mR"], names))
    return means[~matching(means, there, names)]


def keys_of(frame: pd.DataFrame, names: Sequence[str] = KEY) -> list[tuple]:
    """Return the values in the columns `names`, a tuple for each row."""
    return list(zip(*(frame[name] for name in names), strict=True))


def matching(frame: pd.DataFrame, keys: set[tuple], names: Sequence[str] = KEY) -> np.ndarray:
    """Return which rows have one of these keys: (rows,) bool."""
    return np.array([key in keys for key in keys_of(frame, names)], bool)


def compare(
    rows: pd.DataFrame | Iterable[Mapping], metric: str, protocol: str | None = None, direction: str | None = None
) -> pd.DataFrame:
    """Lay one metric out as systems × data sets; one column holds numbers of one data set, split, protocol and direction.

    Args:
        rows: Rows as from `table`, `beside` or `published`; or with the keys `KEY`, `value` and `system`.
        metric: Name of a metric: `R@1`, `mR`, `top1`, …
        protocol: Name of a protocol. If None, the only one of the rows.
        direction: Name of a direction. If None, all there are, each in a column of its own.

    Returns:
        Values with the systems as index, in the order of their first row, and columns (dataset, split, direction); NaN where there is
        no number. `attrs["protocol"]` and `attrs["metric"]` say what they are.

    Raises:
        DataError: No such rows, several protocols and none chosen, the protocol `unstated`, or two numbers for one cell.
    """
    import pandas as pd

    # rows with a system each
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if missing := [name for name in (*KEY, "value") if name not in frame]:
        raise DataError(f"the rows have no '{missing[0]}': give rows as from results.table, with {', '.join(KEY)} and value")
    if "system" not in frame:
        if not {"experiment", "run"} <= set(frame) and not {"model", "backbone"} <= set(frame):
            raise DataError("the rows do not say whose they are: give each a 'system'")
        frame = frame.assign(system=systems(frame))

    # of one metric and one protocol
    chosen = frame[(frame["metric"] == metric) & ((frame["direction"] == direction) | (direction is None))]
    if not len(chosen):
        known = ", ".join(sorted(set(frame["metric"]))) or "none"
        raise DataError(f"no row has the metric '{metric}'{f' of {direction}' if direction else ''}: there are {known}")
    protocols = sorted(set(chosen["protocol"]))
    if protocol is None and len(protocols) > 1:
        several = f"these {metric} are of the protocols {', '.join(protocols)}"
        raise DataError(f"{several}: numbers of different protocols do not compare, choose one with protocol=...")
    protocol = protocol or protocols[0]
    if protocol == UNSTATED:
        raise DataError(f"the protocol of these {metric} is unstated: they compare with nothing, not even with each other")
    if protocol not in protocols:
        raise DataError(f"no {metric} of protocol '{protocol}': there are {', '.join(protocols)}")
    chosen = chosen[chosen["protocol"] == protocol]

    # one number for each system and data set
    cell = ["system", "dataset", "split", "direction"]
    if (twice := chosen.duplicated(cell)).any():
        raise DataError(f"two numbers for {' / '.join(chosen.loc[twice, cell].iloc[0])}: tell the systems apart, or keep one")
    wide = chosen.set_index(cell)["value"].unstack(cell[1:]).reindex(chosen["system"].drop_duplicates())
    wide.attrs = {"protocol": protocol, "metric": metric}
    return wide
