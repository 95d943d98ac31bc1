"""`rsvlm run` and `rsvlm book`: notebooks, alone, as a matrix, and all of them as pages."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from rsvlm.errors import ConfigError, DataError, RsvlmError
from rsvlm.records.commands import Overrides, Profile, load_config

app = typer.Typer()


@app.command()
def run(
    notebooks: Annotated[list[str], typer.Argument(help="Notebooks, or patterns in quotes, as 'notebooks/05*.ipynb'.")],
    parameters: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="A notebook parameter, name=value.")
    ] = None,
    grid: Annotated[
        list[str] | None, typer.Option(help="An option or parameter and its values, name=a,b; several make a matrix of runs.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="With --grid: runs at once.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --grid: show the runs and stop.")] = False,
    profile: Annotated[str | None, typer.Option(help="Profile of the options: smoke, laptop (the default), ...")] = None,
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every random choice; 0 by default.")] = None,
    recompute: Annotated[bool, typer.Option(help="Run even if nothing changed.")] = False,
) -> None:
    """Execute notebooks with checked parameters, once each or, with --grid, once for every combination of values."""
    from rsvlm.book import matrix
    from rsvlm.book.notebooks import execute, find
    from rsvlm.records import results

    axes = matrix.axes(grid or [])
    values = _given(parameters or [], {"profile": profile, "seed": seed, "overrides": " ".join(overrides or []) or None})
    values |= {name: value for name, value in {"profile": "laptop", "seed": 0}.items() if name not in {**values, **axes}}
    load_config(values.get("profile", "laptop"), [values.get("overrides", "")], values.get("seed", 0))
    if values.get("run_name"):
        results.check_name(values["run_name"])
    books = find(notebooks)
    if axes:
        _run_matrix(matrix.plan(books, axes, values), jobs, dry_run, recompute)
    elif jobs > 1 or dry_run:
        raise DataError("--jobs and --dry-run belong to --grid, which this command does not have")
    else:
        for notebook in books:
            typer.echo(str(execute(notebook, {"overrides": ""} | values, recompute=recompute)))


def _given(items: list[str], options: dict) -> dict:
    """Return parameters of notebooks, as text, and options that go by the same names; None is not given."""
    values = {name: value for name, value in options.items() if value is not None}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals:
            raise DataError(f"parameter '{item}' is not of the form name=value")
        if name in values and str(values[name]) != text:
            other = {"overrides": "--set"}.get(name, f"--{name}") if options.get(name) is not None else "-p"
            raise ConfigError(f"'{name}' is given twice, as {values[name]!r} by {other} and as {text!r} by -p: keep one")
        values[name] = text
    return values


def _run_matrix(planned: list, jobs: int, dry_run: bool, recompute: bool) -> None:
    from rsvlm.book import matrix
    from rsvlm.records import stages

    there = {run.key for run in planned if run.folder.is_dir() and not recompute}
    for run in planned:
        values = "  ".join(f"{name}={value}" for name, value in run.chosen.items())
        typer.echo(f"{run.key}  {'there' if run.key in there else 'to do'}  {run.notebook.stem}  {values}")
    typer.echo(f"{len(planned)} runs, {len(there)} of them there, {jobs} at once")
    if dry_run:
        return
    endings = matrix.run_all(planned, jobs, recompute)
    failed = [(run, ending) for run, ending in zip(planned, endings, strict=True) if ending.state == "failed"]
    if len(failed) < len(planned):
        path = matrix.write_table(planned).relative_to(stages.root())
        typer.echo(f"table: {path}   (in a terminal: rsvlm table 'runs/grid-*')")
    for run, ending in failed:
        values = " ".join(f"{name}={value}" for name, value in run.chosen.items())
        typer.echo(f"failed: {run.notebook.stem} {values}: {ending.last_line}", err=True)
        typer.echo(f"        {run.log.relative_to(stages.root())}", err=True)
    if failed:
        raise RsvlmError(f"{len(failed)} of {len(planned)} runs failed; the same command tries those again, and only those")


@app.command()
def book(
    profile: Profile = "laptop",
    recompute: Annotated[bool, typer.Option(help="Execute every notebook again.")] = False,
    jobs: Annotated[int, typer.Option(min=0, help="Notebooks at once; 0: two, where there are two cores.")] = 0,
) -> None:
    """Execute the notebooks and build the book."""
    from rsvlm.book import build

    start = time.perf_counter()
    load_config(profile, None, 0)
    page = build.build(profile, recompute, jobs)
    typer.echo(f"{page}  ({time.perf_counter() - start:.0f} s)")
