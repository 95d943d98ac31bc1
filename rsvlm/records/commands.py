"""The options that the verbs of all rooms share, and the verb `table`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsvlm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rsvlm.config import Config

app = typer.Typer()


def file_place(path: Path | None) -> Path | None:
    """Check, as a callback of an option, that the file which it names can be written; the work comes after. Raises DataError."""
    from rsvlm.records import files

    return None if path is None else files.check_place(path)


def folder_place(path: Path | None) -> Path | None:
    """Check, as a callback of an option, that files can be written into the folder which it names. Raises DataError."""
    from rsvlm.records import files

    return None if path is None else files.check_place(path, folder=True)


def result_name(name: str | None) -> str | None:
    """Check, as a callback of an option, that a name can be that of a result. Raises ConfigError."""
    from rsvlm.records import results

    return None if name is None else results.check_name(name)


Profile = Annotated[str, typer.Option(help="smoke, laptop, published, rsicd or rsicd-scratch.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="An option as name=value: train.steps=200. Repeatable.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random choice.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Root = Annotated[Path | None, typer.Option("--root", "--data", help="Folder of the benchmark, or of shards.")]
Benchmark = Annotated[str | None, typer.Option(help="Its name, see evaluate --list; none: what the folder says.")]
ProtocolName = Annotated[str, typer.Option("--protocol", help="plain, remoteclip, rs5m, skyscript, one-to-one or all.")]
Ties = Annotated[str, typer.Option(help="How equal scores count: pessimistic, average or optimistic.")]
Partial = Annotated[bool, typer.Option("--partial", help="Take less than half of what a named benchmark should have.")]
JsonOut = Annotated[
    Path | None,
    typer.Option("--json", help="File of the metric rows; NAME.provenance.json goes beside it.", callback=file_place),
]
Resamples = Annotated[int, typer.Option(min=10, help="Resamples for the intervals.")]
Bands = Annotated[
    list[int] | None,
    typer.Option("--band", help="Bands shown as red, green and blue, from 1; give three, or one; none: as files say."),
]
Limits = Annotated[
    str | None,
    typer.Option(
        help="Values that become black and white, as 0,3000, or a pair for each band; none: found for files together."
    ),
]
NoData = Annotated[
    str | None,
    typer.Option(help="Value that holds no data; file: as files declare it; none: the same, else what fills parts."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per forward pass.")]


def writes_alone(name: str) -> Callable[[Callable], Callable]:
    """Make a command keep other processes out of the folder that its argument `name` chooses, for as long as it runs."""

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def run(**arguments):
            from rsvlm.records import files

            folder = arguments.get(name)
            with files.sole_writer(folder, f"--{name}") if folder else contextlib.nullcontext():
                return command(**arguments)

        return run

    return decorate


def load_config(
    profile: str, overrides: list[str] | None, seed: int | str, device: str = "auto", more: dict | None = None
) -> Config:
    """Return the options of a profile with those that a command line sets."""
    from rsvlm import config

    return config.load(profile, {"seed": seed, "device": device} | config.pairs(" ".join(overrides or [])) | (more or {}))


def meaning_of_pixels(band: list[int] | None, limits: str | None, nodata: str | None) -> dict[str, object]:
    """Return the options of `chips` that say what the bands and values of imagery mean, without those that nobody gave."""
    given = {"chips.bands": tuple(band or ()), "chips.limits": limits, "chips.nodata": nodata}
    return {name: value for name, value in given.items() if value not in (None, ())}


@app.command()
def table(
    experiment: Annotated[
        str | None, typer.Argument(help="One experiment, a file of evaluate --json, or 'runs/grid-*' (a matrix); none: all.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="text, markdown, csv or latex.")] = "text",
    published: Annotated[
        bool,
        typer.Option(
            help="Beside published figures of the same protocol or prompt set, where images and captions are the benchmark's."
        ),
    ] = False,
) -> None:
    """Print the recorded results, one table for each protocol."""
    from rsvlm.data import catalogue
    from rsvlm.records import results, stages, tables, text

    if results.table(experiment).empty:
        there = sorted({path.parent.parent.name for path in (stages.root() / "results").glob("*/*/metrics.json")})
        which, hint = (f" '{experiment}'", text.did_you_mean(experiment, there)) if experiment else ("", "")
        raise DataError(f"there is no result{which}{hint}; there are {', '.join(there) or 'none yet'}")

    typer.echo(tables.formatted(experiment, form, published, catalogue.populations()))


@app.command(hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench() -> None:
    """Say where the benchmarks of speed are."""
    raise ConfigError("speed is measured in a checkout of the repository, not by the package: python -m benchmarks NAME")
