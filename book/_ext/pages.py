"""Writes the pages that are tables of what the package knows, and mends what the builder leaves: options, results, states of pages."""

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from rsvlm import config
from rsvlm.book.figures.numbers import minus
from rsvlm.errors import DataError
from rsvlm.records import files, results, stages

KINDS = {"int": "whole number", "float": "number", "str": "text", "bool": "`True` or `False`", "tuple": "list, commas between"}
FRONT = """```{figure} _static/front.webp
:alt: Three pictures, of chips that answer to bare ground and to sea to the west, and of coasts that are dark where a model sees no sea.
:width: 100%

What models of an earlier build found. Of this build there are no pictures yet.
```
"""
# A piece of a page: what keeps its spaces as they are, a tag, or a text.
_PIECE = re.compile(
    r"""<(script|style|pre|code|textarea|svg|math|iframe)\b.*?</\1>|<!--.*?-->|<(?:[^"'>]|"[^"]*"|'[^']*')*>|[^<]+""",
    re.DOTALL,
)
_NUMBER = r"[+−-]?\d[\d,.]*"
_UNIT = r"(?:%|°|[kMG]i?B|[kM]?Hz|[kcm]?m²?|px|ms|s|min|h|(?:point|second|minute|hour|pixel|metre|kilometre)s?)(?!\w)"
_BESIDE = re.compile(rf"(?<=\d) (?={_UNIT})")
_WHOLE = re.compile(rf"\({_NUMBER}(?:\u00a0{_UNIT})? to {_NUMBER}(?:\u00a0{_UNIT})?[);,]|\b\d{{4}}-\d\d-\d\d\b|\bVHR-10\b")
_DASHES = re.compile(r"(?<=[>\s])--?\w")
_DOTS = re.compile(r"(?<=[a-z]\.)(?=[a-z])(?![^<>]*>)")  # between the words of a name, not in a tag
LIMITS = {"ge": "from {}", "gt": "above {}", "le": "up to {}", "lt": "below {}", "min_length": "(at least {})"}


def options_page() -> str:
    profiles = {name: config.load(name) for name in config.PROFILES}
    page = (
        "# All options\n\nSet one with `--set name=value` on the command line, or in a notebook's `overrides` parameter. An unknown name or "
        "a value out of range stops before any work. Units are part of the names: `_px` pixels, `_m` metres, `_deg` degrees, `_s` "
        "seconds.\n\n## Profiles\n\nA profile sets many options at once (`--profile name`).\n\n"
    )
    page += _table(
        ("profile", "what it is"), [(f"`{name}`", f"{about[0].upper()}{about[1:]}.") for name, about in config.ABOUT.items()]
    )
    described = {row["name"]: row for row in config.describe()}
    for section in dict.fromkeys(name.rpartition(".")[0] for name in described):
        about = type(getattr(profiles["laptop"], section)).__doc__ if section else "Options of a whole run."
        page += f"\n## {section or 'General'}\n\n{about}\n\n"
        names = [name for name in described if name.rpartition(".")[0] == section]
        table = _table(("option", "default", "values", "meaning"), [_option(described[name], profiles) for name in names])
        page += f"```{{table}}\n:class: options\n\n{table}```\n"
    return page


def _option(row: dict, profiles: dict[str, config.Config]) -> tuple[str, str, str, str]:
    section, _, option = row["name"].rpartition(".")

    def value(of: config.Config) -> object:
        return getattr(getattr(of, section) if section else of, option)

    usual = row["default"]
    others: dict[str, list[str]] = {}
    for name, of in profiles.items():
        if value(of) != usual and row["name"] != "profile":
            others.setdefault(_code(value(of)), []).append(name)
    changed = "".join(f"; {', '.join(names)}: {other}" for other, names in others.items())
    fields = (type(getattr(profiles["laptop"], section)) if section else config.Config).model_fields
    limits = [
        text.format(f"{limit:,}" if isinstance(limit, int) else limit)
        for found in fields[option].metadata
        for name, text in LIMITS.items()
        if (limit := getattr(found, name, None)) is not None
    ]
    choices = re.findall(r"'([^']*)'", row["type"]) if "Literal[" in row["type"] else []
    kind = ", ".join(f"`{choice}`" for choice in choices) or KINDS.get(row["type"].removesuffix(" | None"), row["type"])
    if choices and row["type"].startswith("Union["):  # a number, or one of these words
        least = re.search(r"Ge\(ge=(\d+)\)", row["type"])
        kind += f", or a {KINDS['int' if '[int,' in row['type'] else 'float']}{f' from {least[1]}' if least else ''}"
    return (
        f"`{row['name']}`",
        f"{_code(usual)}{changed}",
        " ".join([kind, " and ".join(limits).replace(" and up to", " up to")]).strip(),
        row["description"],
    )


def _code(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return f"`{value}`" if str(value) else "empty"


def results_page() -> str:
    page = "# All results\n\nThe records of this book: each number with its origin and, where they are known, its interval and the value that guessing gives.\nEach line opens a table.\n"
    names = ("direction", "metric", "value", "95 % interval", "chance", "n")
    _check_complete(stages.root() / "results")
    measured = results.table()
    if (measured["profile"] != "smoke").any():
        measured = measured[measured["profile"] != "smoke"]  # miniatures: they show that it runs, and measure nothing
    for (experiment, run), of_run in measured.groupby(["experiment", "run"]):
        first = of_run.iloc[0]
        commit = "commit not recorded" if first.commit == "unknown" else f"commit `{first.commit[:12]}`"
        origin = f"Profile {first.profile}, seed {first.seed}, {first.device}, {commit}"
        page += f"\n## {experiment}: {run}\n\n{origin}, data `{first.data_hash[:24]}`.\n"
        for (dataset, split, protocol), group in of_run.groupby(["dataset", "split", "protocol"], sort=False):
            rows = []
            for row in group.itertuples():
                interval = f"{row.ci_low:.2f} to {row.ci_high:.2f}".replace("nan to nan", "")
                chance = f"{row.chance:.2f}".replace("nan", "")
                rows.append((row.direction, row.metric, minus(f"{row.value:.2f}"), minus(interval), chance, f"{row.n:,}"))
            measured_by = protocol.replace(" - ", " \u2212 ").replace("'", "\u2019")
            what = escape(f"Data: {dataset}, {split}; protocol: {measured_by}; rows:\u00a0{len(rows):,}.")
            page += f"\n<details><summary>{what}</summary>\n\n{_table(names, rows)}\n</details>\n"  # all open, they fill 200 screens
    return page if len(measured) else page + "\nNothing was measured yet.\n"


def status_page(home: Path) -> str:
    page = (
        "# State of the pages\n\nWhen and where each notebook last ran, for how long, and from which state of the repository. The key is made "
        "of the notebook's cells, the source of the package and the parameters: where it is the same, the page is. Times are wall times and "
        "include every stage whose result was not yet in `runs/`.\n\n"
    )
    rows, total = [], 0.0
    for name in re.findall(r"book/executed/(\w+)", (home / "_toc.yml").read_text(encoding="utf-8")):
        path = home / "book" / "executed" / f"{name}.ipynb"
        if not path.is_file():  # among the first pages of a book whose notebooks still run
            rows.append((f"{{doc}}`../executed/{name}`", "not run yet", *[""] * 5))
            continue
        executed = json.loads(path.read_text(encoding="utf-8"))
        made = executed["metadata"].get("rsvlm", {})
        total += made.get("duration_s", 0.0)
        title = next("".join(cell["source"]) for cell in executed["cells"] if cell["cell_type"] == "markdown")
        title = re.sub(r"[`<>|]", "", title.splitlines()[0].lstrip("# "))
        commit = f"`{made['commit'][:12]}`{' with changes' if made.get('dirty') else ''}" if "commit" in made else ""
        where = f"{made.get('device', '')}, {made['cpu']}, {made['cores']} cores" if "cpu" in made else ""
        started = made.get("started", "").replace("T", " ").removesuffix("Z")
        run = ", ".join(str(made[name]) for name in ("profile", "seed") if name in made)
        origin = (run, started, where, commit)
        rows.append(
            (
                f"{{doc}}`{title} <../executed/{name}>`",
                _clock(made.get("duration_s", 0.0)),
                *origin,
                f"`{made['key'][:12]}`" if "key" in made else "",
            )
        )
    names = ("page", "time", "profile, seed", "started, UTC", "device", "commit", "key")
    return (
        f"{page}{_table(names, rows)}\nAll these times together: {_clock(total)}; less has passed where notebooks ran at the same time.\n"
        if rows
        else f"{page}No notebook is a page yet.\n"
    )


def _check_complete(folder: Path) -> None:
    """A run whose rows are lost would leave the book without a word: name the file instead."""
    for run in {path.parent for path in folder.glob("*/*/*.json")}:
        for name in ("config", "provenance", "metrics"):
            if not (run / f"{name}.json").is_file():
                raise DataError(f"{run / name}.json is missing: run that experiment again, or remove its folder")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_pages(app) -> None:
    home = Path(app.srcdir)
    pages = {"options": options_page(), "results": results_page(), "status": status_page(home)}
    for name, text in pages.items():
        files.write_atomic(home / "book" / "generated" / f"{name}.md", text)
    front = home / "book" / "generated" / "front.inc"
    # `rsvlm book` writes it; the builder alone has no model to ask
    if (home / "book" / "index.md").is_file() and not front.is_file():
        files.write_atomic(front, FRONT)


def unbroken(html: str) -> str:
    """Keep each number on one line with its unit, `66.3 %`, and each interval in brackets, `(62.7 to 69.9)`, date and VHR-10 whole.

    The dashes of an option stay with its name, `--set`, and names break behind their dots. Where a table is then too wide, `book.js`
    lets its intervals break.
    """

    def held(piece: re.Match) -> str:
        if piece[0].startswith("<code"):
            return _DASHES.sub(r'<span style="white-space: nowrap">\g<0></span>', _DOTS.sub("<wbr>", piece[0]))
        if piece[0].startswith("<"):
            return piece[0]
        return _WHOLE.sub(r'<span class="unbroken">\g<0></span>', _BESIDE.sub("\u00a0", piece[0]))

    return _PIECE.sub(held, html)


def mend_page(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Keep numbers whole, and take a role from lists of citations that their entries do not fit into: a screen reader would count none.

    The front page gets a style of its own.
    """
    if "body" in context:
        body = context["body"].replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        context["body"] = unbroken(body)
        if 'class="front-search"' in body:
            app.add_css_file("front.css")


def follow_the_reader(app, exception) -> None:
    """Without a script, pages are light: the theme's own default, `auto`, is a name that only its script understands."""
    for path in Path(app.outdir).rglob("*.html") if exception is None else ():
        text = path.read_text(encoding="utf-8")
        mended = text.replace(' data-theme="auto"', "", 1)
        if mended != text:
            path.write_text(mended, encoding="utf-8")


def setup(app) -> dict:
    app.connect("builder-inited", write_pages)
    app.connect("html-page-context", mend_page, priority=950)
    app.connect("build-finished", follow_the_reader)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
