"""Writes the pages that are tables of what the package knows: all options, all results."""

from collections.abc import Sequence
from pathlib import Path

from rsvlm import config, runs


def options_page() -> str:
    head = "# All options\n\nSet one with `--set name=value` on the command line, or in a notebook's `overrides` parameter.\n"
    rows = [
        (f"`{option['name']}`", f"`{option['default']}`", f"{option['description']} (`{option['type']}`)")
        for option in config.describe()
    ]
    return f"{head}\n{_table(('option', 'default', 'meaning'), rows)}"


def results_page() -> str:
    page = "# All results\n\nEvery number of this book, with its interval, the value that guessing gives, and its origin.\n"
    names = ("data", "split", "protocol", "direction", "metric", "value", "95 % interval", "chance", "n")
    measured = runs.table()
    if (measured["profile"] != "smoke").any():
        measured = measured[measured["profile"] != "smoke"]  # miniatures: they show that it runs, and measure nothing
    for (experiment, run), group in measured.groupby(["experiment", "run"]):
        rows = []
        for row in group.itertuples():
            named = (row.dataset, row.split, row.protocol, row.direction, row.metric)
            interval = f"{row.ci_low:.2f} to {row.ci_high:.2f}".replace("nan to nan", "")
            rows.append((*named, f"{row.value:.2f}", interval, f"{row.chance:.2f}".replace("nan", ""), f"{row.n:,}"))
        first = group.iloc[0]
        origin = f"Profile {first.profile}, seed {first.seed}, {first.device}, commit `{first.commit[:12]}`"
        page += f"\n## {experiment}: {run}\n\n{origin}, data `{first.data_hash[:12]}`.\n\n{_table(names, rows)}"
    return page if len(measured) else page + "\nNothing was measured yet.\n"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_pages(app) -> None:
    folder = Path(app.srcdir) / "book" / "generated"
    for name, text in (("options.md", options_page()), ("results.md", results_page())):
        runs.write_atomic(folder / name, text)


def setup(app) -> dict:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
