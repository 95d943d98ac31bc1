"""The command line: `python -m rsvlm VERB`. Each room with verbs has a `commands.py`, mounted here, as is `doctor`."""

from __future__ import annotations

import errno
import logging
import sys

import typer

from rsvlm import doctor
from rsvlm.book import commands as book
from rsvlm.data.landmarks import commands as landmarks
from rsvlm.data.web import commands as web
from rsvlm.errors import RsvlmError
from rsvlm.evaluation import commands as evaluation
from rsvlm.localization import commands as localization
from rsvlm.model import commands as model
from rsvlm.records import commands as records
from rsvlm.search import commands as search
from rsvlm.training import commands as training

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Remote-sensing vision-language models from landmarks to retrieval.",
)
app.add_typer(landmarks.app, name="landmarks")
app.add_typer(web.app, name="web")
app.add_typer(training.app)
app.add_typer(model.app)
app.command()(evaluation.embed)
evaluation.app.add_typer(localization.app)
app.add_typer(evaluation.app, name="evaluate")
app.add_typer(search.app, name="search")
app.add_typer(records.app)
app.add_typer(doctor.app)
app.add_typer(book.app)


def main() -> None:
    """Run the command line; an expected error ends in one sentence and a non-zero exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    stopped = "rsvlm: stopped; nothing half-written was kept, and the same command continues where it can"
    try:
        code = app(standalone_mode=False)
        sys.exit(stopped if code == 130 else code)  # newer Typer turns Ctrl-C into this code, older into Abort
    except RsvlmError as error:
        sys.exit(f"rsvlm: {error}")
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(stopped)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            sys.exit(f"rsvlm: {error.filename or 'a file'} cannot be read or written: {error.strerror}")
        if error.errno != errno.ENOSPC:
            raise
        place = error.filename or "while writing"
        sys.exit(f"rsvlm: no space left on the disk ({place}): free some and run the command again")
    except Exception as error:
        if not hasattr(error, "show"):  # Typer's own errors of usage know how to show themselves
            raise
        error.show()
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
