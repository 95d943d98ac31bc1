"""Tables of links into candidates: parquet, CSV, tab-separated text and JSON lines of address and text.

LAION, DataComp, COYO and others publish their data so. Every row is a candidate or is counted with its reason, also where a quote
is never closed: what cannot be read as a row is one line, and reading goes on behind it.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from rsvlm.data.web.html import MAX_TEXT, Counts, absolute_url, decode_cell
from rsvlm.errors import DataError

log = logging.getLogger(__name__)

REASONS = {
    "broken_row": "a line is no JSON object, or has another number of columns than the table",
    "odd_quotes": "not left out: a line was read by itself, since its quotes do not close where a cell ends",
    "windows_1252": "not left out: a text that is no UTF-8 was read as Windows-1252",
    "unread_rows": "the table is broken from here on: rows behind this place were not read",
    "unsafe": "the table's own column says that the picture is not safe for work",
}
"""Why a row gave no candidate, besides those of `rsvlm.data.web.html.REASONS`."""

FORMATS = {"parquet": "parquet", "csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "json": "jsonl"}
"""Formats of tables, by the ending of the file's name."""

COLUMNS = {
    "url": ("image_url", "img_url", "imageurl", "photo_image_url", "image_src", "url", "image", "src", "link"),
    "text": (
        *("text", "caption", "alt", "alt_text", "alttext", "description", "top_caption", "re_caption", "photo_description"),
        *("caption_reference_description", "caption_alt_text_description", "org_caption"),
    ),
    "page": ("page", "page_url", "parent_url", "pageurl", "photo_url"),
    "nsfw": ("nsfw",),
    "punsafe": ("punsafe",),
}
"""Names of columns that are understood, the first found counts; upper and lower case are alike. Where a picture's address has a column
of its own and there is none for the page, `url` is the page's."""

UNSAFE_FROM = 0.5
"""Value of `punsafe` from which a row is left out: LAION's classifier then takes the picture to be unsafe rather than safe. Our choice."""

_ONE_A_LINE = (
    'write one object a line, as {"url": ..., "text": ...}, which pandas does with to_json(FILE, orient="records", lines=True)'
)

MAX_LINE = 4_000_000
"""Longest line that is read, in characters; a longer one is a broken row."""


def kind(path: Path, head: bytes) -> str:
    """Return the format of a table, by its name and first bytes, or nothing where it is none."""
    if head.startswith(b"PAR1"):
        return "parquet"
    suffixes = [suffix.lower().removeprefix(".") for suffix in path.suffixes[-2:]]
    return next((FORMATS[suffix] for suffix in reversed(suffixes) if suffix in FORMATS), "")


def columns(path: Path, form: str, names: Mapping[str, str] | None = None) -> dict[str, str]:
    """Find the columns of a table that hold addresses, texts, pages, and what the table says about safety.

    Args:
        path: The table.
        form: Its format, as from `kind`.
        names: Names of columns under `url`, `text` and `page`, for what is not to be looked for.

    Returns:
        Name of the column under each key of `COLUMNS`; what is not there is left out, but for `url` and `text`.

    Raises:
        DataError: The table cannot be read, or has no such columns.
    """
    try:
        every, texts = _names(path, form)
    except (OSError, ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        hint = _ONE_A_LINE if form == "jsonl" else "is it what its name says?"
        raise DataError(f"{path} cannot be read as {form} ({str(error)[:200]}): {hint}") from error
    lower = {name.strip().lower(): name for name in reversed(texts)}
    found = {key: lower[name] for key, group in COLUMNS.items() for name in reversed(group) if name in lower}
    found |= {name: column for column in every for name in ("nsfw", "punsafe") if column.strip().lower() == name}
    listed = ", ".join(repr(name[:60]) for name in every[:40]) or "none"
    for key, name in (names or {}).items():
        if name not in texts and name.lower() not in lower:
            raise DataError(f"{path} has no column {name!r} of text (--{key}-column): its columns are {listed}")
        found[key] = name if name in texts else lower[name.lower()]
    if missing := [f"{key} ({', '.join(COLUMNS[key])})" for key in ("url", "text") if key not in found]:
        options = "name it with --url-column or --text-column"
        raise DataError(f"{path} has no column of text for {' and '.join(missing)}: its columns are {listed}; {options}")
    if "page" not in found and "url" in lower and found["url"] != lower["url"]:
        found["page"] = lower["url"]
    return found


def _names(path: Path, form: str) -> tuple[list[str], list[str]]:
    """All columns of a table, and those that may hold text."""
    import pyarrow.parquet

    if form == "parquet":
        schema = pyarrow.parquet.read_schema(path)
        return schema.names, [field.name for field in schema if _is_text(field.type)]
    if form == "jsonl":
        with _open(path) as file:
            first = next((line for line in iter(lambda: file.readline(MAX_LINE), b"") if line.strip()), b"")
        record = json.loads(first.decode("utf-8-sig", "replace"))
        if isinstance(record, dict) and record and all(isinstance(value, list | dict) for value in record.values()):
            raise DataError(
                f"{path} is one JSON object that holds a table by its columns ({', '.join(record)[:200]}): {_ONE_A_LINE}"
            )
        names = list(record) if isinstance(record, dict) else []
    else:
        with _lines(path) as lines:
            _, names = next(_records(lines, form, Counts()), (0, []))
    return names, names


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return str(kind) in ("string", "large_string", "string_view", "binary", "large_binary")


def rows(path: Path, form: str, names: Mapping[str, str], counts: Counts) -> Iterator[tuple]:
    """Give the candidates of a table, as `rsvlm.data.web.html.COLUMNS` says; the others are counted.

    Args:
        path: The table.
        form: Its format, as from `kind`.
        names: Its columns, as from `columns`.
        counts: Receives reasons as in `REASONS`.
    """
    cells = {"parquet": _parquet_cells, "jsonl": _json_cells}.get(form, _csv_cells)
    for number, row in cells(path, form, names, counts):
        place, url, page = f"{path.name}:{number}", decode_cell(row.get("url")), decode_cell(row.get("page"))
        if not (text := decode_cell(row.get("text"), counts)).strip():
            counts.reject("no_text", place, url, page)
        elif (address := absolute_url(url)) is None:
            counts.reject("bad_url", place, url, page)
        elif _is_unsafe(row):
            counts.reject("unsafe", place, address, page)
        else:
            yield address, text[:MAX_TEXT], absolute_url(page) or "", "", "", place, "table", ""


def _is_unsafe(row: Mapping[str, object]) -> bool:
    """Tell what LAION's columns say: NSFW holds UNLIKELY, UNSURE or NSFW; punsafe is a probability."""
    if decode_cell(row.get("nsfw")).strip().lower() in ("nsfw", "true", "1"):
        return True
    try:
        value = row.get("punsafe")
        return float(decode_cell(value) or value or 0) >= UNSAFE_FROM
    except (TypeError, ValueError):
        return False


def _open(path: Path) -> io.BufferedReader:
    return io.BufferedReader(pa.input_stream(str(path), compression="detect"), 1 << 20)


def _unread(path: Path, number: int, error: Exception, counts: Counts, n: int = 1) -> None:
    log.warning("%s is broken, what follows row %d is not read: %s", path, number, str(error)[:200])
    counts.reject("unread_rows", f"{path.name}:{number + 1}", n=n)


# Parquet


def _parquet_cells(path: Path, form: str, names: Mapping[str, str], counts: Counts) -> Iterator[tuple[int, dict]]:
    import pyarrow.parquet

    number = 0
    with pyarrow.parquet.ParquetFile(path) as file:
        try:
            for batch in file.iter_batches(4096, columns=list(dict.fromkeys(names.values()))):
                # As bytes: strings that are not UTF-8 would otherwise end the whole table.
                values = {key: batch.column(name) for key, name in names.items()}
                values = {k: (v.cast(pa.large_binary()) if _is_text(v.type) else v).to_pylist() for k, v in values.items()}
                for row in zip(*values.values(), strict=True):
                    number += 1
                    yield number, dict(zip(values, row, strict=True))
        except (OSError, ValueError, pa.ArrowException) as error:
            _unread(path, number, error, counts, file.metadata.num_rows - number)


# CSV and tab-separated text


def _lines(path: Path) -> io.TextIOWrapper:
    """Open a text whose lines keep their ends; bytes that are no UTF-8 stay what they are."""
    file = _open(path)
    wide = file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
    return io.TextIOWrapper(file, "utf-16" if wide else "utf-8-sig", "replace" if wide else "surrogateescape", newline="")


def _records(lines: io.TextIOWrapper, form: str, counts: Counts, name: str = "") -> Iterator[tuple[int, list[str]]]:
    """Split lines into records, as RFC 4180 does: quoted cells may hold line breaks, delimiters and doubled quotes.

    A quote that is never closed, or closed in the middle of a cell, makes no record of what follows: its line is read by itself, and
    so are the lines behind it. In tab-separated text a quote is a letter like others where no quoted cell comes of it.
    """
    waiting: list[str] = []  # lines that were read and are to be read again
    taken: list[str] = []  # lines of this record
    delimiter = "\t" if form == "tsv" else ","

    def read_line() -> str:
        line = lines.readline(MAX_LINE)
        if len(line) == MAX_LINE and not line.endswith("\n"):
            while (rest := lines.readline(MAX_LINE)) and not rest.endswith("\n"):
                pass
        return line

    def feed() -> Iterator[str]:
        while line := waiting.pop() if waiting else read_line():
            taken.append(line)
            yield line

    if form == "csv" and (first := read_line()):
        # Where a comma separates decimals, a semicolon separates cells.
        delimiter = next((sign for sign in ",;\t|" if sign in first), ",")
        waiting.append(first)
    reader, number = csv.reader(feed(), delimiter=delimiter, strict=True), 0
    while True:
        taken.clear()
        try:
            record = next(reader, None)
            if record and form == "tsv" and any("\t" in cell for cell in record):
                raise csv.Error("a quote swallowed the next cell")
        except csv.Error:
            waiting.extend(reversed(taken[1:]))
            record = _one_line(taken[0], delimiter, form)
            if record and form == "csv":
                counts["odd_quotes"] += 1
            if not record:
                counts.reject("broken_row", f"{name}:{number}")
            reader = csv.reader(feed(), delimiter=delimiter, strict=True)
        if record is None:
            return
        if record:
            yield number, record
            number += 1


def _one_line(line: str, delimiter: str, form: str) -> list[str]:
    """Read a line by itself, however its quotes stand; empty where it cannot be."""
    quoting = csv.QUOTE_NONE if form == "tsv" else csv.QUOTE_MINIMAL
    try:
        return next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter, quoting=quoting), [])
    except csv.Error:
        return []


def _csv_cells(path: Path, form: str, names: Mapping[str, str], counts: Counts) -> Iterator[tuple[int, dict]]:
    number = 0
    with _lines(path) as lines:
        try:
            records = _records(lines, form, counts, path.name)
            _, header = next(records)
            places = {key: header.index(name) for key, name in names.items()}
            for number, record in records:
                if len(record) != len(header):
                    counts.reject("broken_row", f"{path.name}:{number}")
                else:
                    yield number, {key: record[place] for key, place in places.items()}
        except (OSError, EOFError) as error:
            _unread(path, number, error, counts)


# JSON lines


def _json_cells(path: Path, form: str, names: Mapping[str, str], counts: Counts) -> Iterator[tuple[int, dict]]:
    number = 0
    with _open(path) as file:
        while True:
            try:
                if not (line := file.readline(MAX_LINE)):
                    return
                number += bool(line.strip())
                if len(line) == MAX_LINE and not line.endswith(b"\n"):
                    while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                        pass
                    raise ValueError("the line is too long")
                if line.strip():
                    record = json.loads(decode_cell(line.removeprefix(b"\xef\xbb\xbf"), counts))
                    yield number, {key: record.get(name) for key, name in names.items()}
            except (ValueError, AttributeError, RecursionError):
                counts.reject("broken_row", f"{path.name}:{number}")
            except (OSError, EOFError) as error:
                _unread(path, number, error, counts)
                return
