"""`rsvlm train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsvlm.errors import DataError
from rsvlm.records.commands import Device, Overrides, Profile, Seed, folder_place, load_config

app = typer.Typer()


@app.command()
def train(
    data: Annotated[list[str], typer.Option(help="Folder with a train split, as PATH or NAME=PATH. Repeatable.")],
    out: Annotated[Path, typer.Option(help="The run's folder; an unfinished run in it is continued.", callback=folder_place)],
    stages: Annotated[
        Path | None, typer.Option(help='Curriculum: a file of [{"steps": 9, "data": {"NAME": 1}}, ...].')
    ] = None,
    profile: Profile = "laptop",
    overrides: Overrides = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a MaMMUT, or continue a run that was stopped.

    Several data sets are mixed evenly, or stage by stage as --stages (or --set train.stages=JSON without blanks) says. A data set
    without a NAME goes by the name of its folder. Several processes share each batch when started with
    torchrun --nproc-per-node N -m rsvlm train ...
    """
    from rsvlm.training import train as training

    if stages is not None:
        if not stages.is_file():
            raise DataError(f"{stages} is no file: --stages takes a JSON list of stages")
        overrides = [*(overrides or []), "train.stages=" + "".join(stages.read_text().split())]
    typer.echo(str(training.train(load_config(profile, overrides, seed, device), _data_sets(data), out)))


def _data_sets(items: list[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not equals or Path(item).exists():
            name, path = Path(item).resolve().name, item
        if name in folders:
            raise DataError(f"two data sets are named '{name}': give one another name, as in --data NAME={path}")
        if not Path(path).is_dir():
            raise DataError(f"{path} is not a folder: --data takes a folder of shards or of a benchmark, as PATH or NAME=PATH")
        folders[name] = Path(path)
    return folders
