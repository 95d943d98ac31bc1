"""Writes the pages that are tables of what the package knows: all options, all results."""

from collections.abc import Sequence
from pathlib import Path

from rsvlm import config, results, runs


def options_page() -> str:
    head = "# All options\n\nSet one with `--set name=value` on the command line, or in a notebook's `overrides` parameter.\n"
    rows = [
        (f"`{option['name']}`", f"`{option['default']}`", f"{option['description']} (`{option['type']}`)")
        for option in config.describe()
    ]
    return f"{head}\n{_table(('option', 'default', 'meaning'), rows)}"


def results_page() -> str:
    page = "# All results\n\nEvery number of this book, with its interval, the value that guessing gives, and its origin.\n"
    names = ("direction", "metric", "value", "95 % interval", "chance", "n")
    measured = results.table()
    if (measured["profile"] != "smoke").any():
        measured = measured[measured["profile"] != "smoke"]  # miniatures: they show that it runs, and measure nothing
    for (experiment, run), of_run in measured.groupby(["experiment", "run"]):
        first = of_run.iloc[0]
        origin = f"Profile {first.profile}, seed {first.seed}, {first.device}, commit `{first.commit[:12]}`"
        page += f"\n## {experiment}: {run}\n\n{origin}, data `{first.data_hash[:24]}`.\n"
        for (dataset, split, protocol), group in of_run.groupby(["dataset", "split", "protocol"], sort=False):
            rows = []
            for row in group.itertuples():
                interval = f"{row.ci_low:.2f} to {row.ci_high:.2f}".replace("nan to nan", "")
                chance = f"{row.chance:.2f}".replace("nan", "")
                rows.append((row.direction, row.metric, f"{row.value:.2f}", interval, chance, f"{row.n:,}"))
            page += f"\nData: {dataset}, {split}; protocol: {protocol}.\n\n{_table(names, rows)}"
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
