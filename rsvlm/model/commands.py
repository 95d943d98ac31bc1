"""`rsvlm export`: a model in the forms of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsvlm.records.commands import folder_place, writes_alone

app = typer.Typer()


@app.command()
@writes_alone("out")
def export(
    model: Annotated[Path, typer.Argument(help="Model folder: what `rsvlm train` wrote as model/, or an openMaMMUT.")],
    to: Annotated[str, typer.Option(help="onnx, hf or open_clip.")],
    out: Annotated[Path, typer.Option(help="Folder of the result.", callback=folder_place)],
) -> None:
    """Write a model for other programs: as ONNX, as a folder of transformers, or as a folder of open_clip."""
    import rsvlm
    from rsvlm.model import exporting

    folder = exporting.export(rsvlm.load(model, "cpu"), to, out)
    typer.echo(f"{folder}: {exporting.FORMS[to]}")
