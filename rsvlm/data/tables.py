"""Tables of captions or labels as people save them: JSON in several forms, CSV and TSV.

A table is read as it was written or not at all: a row that does not fit its header, a quote that nothing closes or text in an unknown
encoding is an error that names the line; what is guessed is logged once.
"""

from __future__ import annotations

import ast
import codecs
import csv
import io
import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsvlm.data.layouts import IMAGE_ENDINGS, MAX_BYTES, SPLIT_NAMES, Request, words_of_name
from rsvlm.data.reading import holds_pictures_alone, visible
from rsvlm.errors import DataError

logger = logging.getLogger(__name__)

CAPTION_COLUMNS = ("caption", "title", "captions", "text", "sentence", "raw")
LABEL_COLUMNS = ("classname", "class", "label")
IMAGE_COLUMNS = ("image", "filename", "filepath", "file", "image_path", "img", "path", "file_name", "image_name")
_IMAGE_KEYS = ("filename", "file_name", "file", "image", "image_path", "img", "image_name", "filepath", "path")
_CAPTION_KEYS = ("sentences", "captions", "caption", "raw", "sentence", "text", "title")
_JSON = ("*.json", "annotations/captions*.json")  # the latter where COCO has it, among large files of other things
_PAIR = re.compile(rb"[\x80-\xff][\x00-\xff]", re.DOTALL)
_LIST = re.compile(r"\[\s*(['\"]).*\1\s*\]", re.DOTALL)

Pairs = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table that fits a split: file and texts of each image, and whether it says itself which split its images are of."""

    path: Path
    rows: Iterable[tuple[str, list]]
    says_split: bool


# Which table it is


def has_shards(folder: Path) -> bool:
    """Say whether a folder holds shards; archives of pictures that lie beside a table, or beside the pictures themselves, are none."""
    archives = visible(folder, "*.tar", "*/*.tar")
    if not archives or (folder / "manifest.json").is_file():
        return bool(archives)
    if any(image_rows(path, read_json(path)) is not None for path in visible(folder, *_JSON)):
        return False
    headers = (_header(path)[1] for path in visible(folder, "*.csv", "*.tsv"))
    if any(set(header) & set(IMAGE_COLUMNS) and set(header) & {*CAPTION_COLUMNS, *LABEL_COLUMNS} for header in headers):
        return False
    return not holds_pictures_alone(archives[0])


def caption_table(request: Request) -> tuple[Path, list[tuple[str, list]]]:
    """Return the path of the table of captions, and file and texts of every image of the split.

    Raises:
        DataError: No table or several fit the split, or it is broken; the message names what lacks.
    """
    fits, problems = _json_tables(request)
    of_text, others = _text_tables(request, CAPTION_COLUMNS)
    fits += [Table(path, _by_file(path, pairs), says_split) for path, pairs, says_split in of_text]
    if not fits:
        if problems or (others and not request.entry):
            raise DataError((problems + others)[0])
        raise request.layout_error(*others)
    table = _only_one(request, fits)
    rows = list(table.rows)
    _tell_split(request, table, len(rows))
    return table.path, rows


def find_table(request: Request, columns: Iterable[str]) -> tuple[Path, Pairs] | None:
    """Return the one CSV or TSV of a split with a column of images and one of `columns`, and its pairs of both; None if there is none.

    Raises:
        DataError: Several fit the split. Of all splits together there are often several; then there is none.
    """
    tables = [Table(path, pairs, says_split) for path, pairs, says_split in _text_tables(request, columns)[0]]
    if not tables or (len(tables) > 1 and request.split is None):
        return None
    table = _only_one(request, tables)
    return table.path, table.rows


def check_list(request: Request) -> None:
    """Check that the list which makes a split of the catalogue is there, with the names of its classes.

    Raises:
        DataError: One of both is not there.
    """
    if missing := [name for name in (request.list_file, "classnames.txt") if not (request.folder / name).is_file()]:
        made = f"split '{request.split}' of {request.title} is the images of {request.list_file}, with the classnames.txt beside it"
        raise DataError(f"{request.folder} has no {missing[0]}: {made}; give the folder that holds both, or another split")


def unfit_tables(request: Request, columns: Iterable[str]) -> list[str]:
    """Say of each CSV or TSV of a folder that has no such columns what it has and what it would need."""
    return _text_tables(request, columns)[1]


def _only_one(request: Request, tables: list[Table]) -> Table:
    if len(tables) > 1:  # those with a column of splits may have no row of this one
        tables = [Table(table.path, list(table.rows), table.says_split) for table in tables]
        tables = [table for table in tables if table.rows] or tables
    official = {line.split()[0] for line in request.entry.get("layout", ()) if line.strip()}
    chosen = [table for table in tables if table.path.name in official]
    if len(tables) > 1 and len(chosen) == 1:
        others = ", ".join(table.path.name for table in tables if table is not chosen[0])
        logger.warning("%s is read, as %s names its table; not read: %s", chosen[0].path, request.title, others)
        tables = chosen
    if len(tables) > 1:
        names = ", ".join(table.path.name for table in tables)
        asked = "all splits together" if request.split is None else f"split '{request.split}'"
        raise DataError(f"several tables fit {asked}: {names}; keep one in {request.folder}, and move the others elsewhere")
    return tables[0]


def _tell_split(request: Request, table: Table, count: int) -> None:
    if request.split is not None and not table.says_split:
        told = table.path, count, request.split, request.split, table.path.suffix
        logger.warning(
            "%s does not say which split its images are of: all %d are taken for '%s' (name the file %s%s, or add a split to each)",
            *told,
        )


def named_splits(path: Path) -> set[str]:
    """Return the usual splits that the name of a file names."""
    return {name for name, words in SPLIT_NAMES.items() if set(words) & words_of_name(path)}


# JSON


def read_json(path: Path) -> Any:
    """Read a JSON file; a DataError says that it is larger than `MAX_BYTES`, not valid, or not in UTF-8."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES:,} bytes, which no known table is: remove it")
        return json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not valid JSON: its byte {error.start} is not in UTF-8; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not valid JSON ({error}): fetch it again, or move it elsewhere if it is no table"
        ) from None


def image_rows(path: Path, content: Any) -> list[tuple[dict, str | None]] | None:
    """Return the entries of a table of images, each with its class where entries are listed by class; None if this is no such table.

    Forms: Karpathy's `{"images": [...]}`; COCO's, whose captions are among `annotations` and go into the entry as `captions`;
    NWPU's `{class: [...]}`; and a list with file and caption in each entry.
    """
    if isinstance(content, list):
        good = any(isinstance(row, dict) and image_name(row) and texts_of(row) is not None for row in content)
        return [(row, None) for row in _objects(path, content)] if good else None
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("images"), list):
        rows = _objects(path, content["images"])
        return [(row, None) for row in _with_annotations(path, rows, content.get("annotations"))]
    first = [rows[:1] for rows in content.values() if isinstance(rows, list)]  # of each class; one may have no image
    if (
        any(first)
        and len(first) == len(content)
        and all(isinstance(row, dict) and "filename" in row for row in sum(first, []))
    ):
        return [(row, scene) for scene, rows in content.items() for row in _objects(path, rows)]
    return None


def _objects(path: Path, entries: list) -> list[dict]:
    rows = [row for row in entries if isinstance(row, dict)]
    if others := len(entries) - len(rows):
        logger.warning("%s: %d entries of its images are no objects and left out", path, others)
    return rows


def _with_annotations(path: Path, rows: list[dict], annotations: object) -> list[dict]:
    """Give images the captions that COCO lists apart from them."""
    annotations = annotations if isinstance(annotations, list) else []
    captions: dict[object, list] = {}
    for annotation in annotations:
        if isinstance(annotation, dict) and "caption" in annotation:
            captions.setdefault(str(annotation.get("image_id")), []).append(annotation["caption"])
    if not captions:
        return rows
    ids = Counter(str(row.get("id")) for row in rows)
    if twice := [name for name, n in ids.items() if n > 1]:
        raise DataError(
            f"{path} has {len(twice)} ids of images more than once, the first is {twice[0]}: whose captions are they?"
        )
    if lost := sorted(set(captions) - set(ids)):
        count = sum(len(captions[name]) for name in lost)
        logger.warning(
            "%s: %d captions are of images that are not listed and left out, the first of id %s", path, count, lost[0]
        )
    return [row | {"captions": captions.get(str(row.get("id")), [])} for row in rows]


def _json_tables(request: Request) -> tuple[list[Table], list[str]]:
    """Return the JSON tables of a folder that fit the split, and what lacks in those that do not."""
    fits, lacking_split, lacking_captions, split = [], [], [], request.split
    for path in visible(request.folder, *_JSON):
        if (rows := image_rows(path, read_json(path))) is None:
            continue
        of_name, says_split = named_splits(path), any(row.get("split") is not None for row, _ in rows)
        splits = Counter(str(row.get("split")) for row, _ in rows)
        if split is not None and says_split:
            rows = [(row, scene) for row, scene in rows if is_split(str(row.get("split")), split)]
        elif split is not None and of_name and split not in of_name:
            rows, splits = [], Counter({f"{name} (by its name)": len(rows) for name in of_name})
        if not rows:
            wanted = request.entry.get("splits", {}).get(split)
            lacking = f"; that of {request.title} has {wanted['images']:,} images, this copy lacks it" if wanted else ""
            there = ", ".join(f"{name} ({n:,} images)" for name, n in splits.items()) or "no image"
            lacking_split.append(f"{path} has no split '{split}': it has {there}{lacking}")
            continue
        named = [(_file_of(path, row, scene), texts_of(row)) for row, scene in rows]
        if all(texts is None for _, texts in named):
            keys = ", ".join(sorted(set().union(*(row for row, _ in rows)))[:12])
            looked = f"looked for {', '.join(_CAPTION_KEYS)}, and COCO's annotations"
            lacking_captions.append(
                f"{path} has no captions ({looked}); its images have the keys {keys}: rename the one with captions"
            )
            continue
        by_file: dict[str, list] = {}
        several = "sentences" not in rows[0][0] and all(len(texts or [0]) == 1 for _, texts in named)  # a row for each caption
        for file, texts in named:
            if file in by_file and not several:
                break
            by_file.setdefault(file, []).extend(texts or [])
        else:
            named = list(by_file.items())
        fits.append(Table(path, [(file, texts or []) for file, texts in named], says_split or bool(of_name)))
    return fits, lacking_split + lacking_captions


def is_split(text: str, split: str) -> bool:
    """Whether a table's word for a split means this one: `valid` and `Validation` mean `val`."""
    return text.strip().casefold() in {name.casefold() for name in SPLIT_NAMES.get(split, (split,))}


def image_name(row: dict) -> str | None:
    """Return the file that an entry names, with `/` between folders; None if it names none."""
    file = next((row[key] for key in _IMAGE_KEYS if key in row), None)
    return file.replace("\\", "/") if isinstance(file, str) and file else None


def _file_of(path: Path, row: dict, scene: str | None) -> str:
    if (file := image_name(row)) is None:
        raise DataError(f"{path} has an image without a filename ({str(row)[:80]}): fetch it again")
    return file if scene is None else f"{scene}/{file}"


def texts_of(row: dict) -> list | None:
    """Return what an entry holds as captions, one or a list of them, as it stands; None if it has no such key."""
    for key in _CAPTION_KEYS:
        if key == "raw" and (raws := [text for name, text in row.items() if re.fullmatch(r"raw(_\d+)?", name)]):
            return raws
        if key != "raw" and isinstance(row.get(key), str | list):
            texts = row[key] if isinstance(row[key], list) else [row[key]]
            return [
                next((t[k] for k in ("raw", "caption", "text", "sentence") if k in t), None) if isinstance(t, dict) else t
                for t in texts
            ]
    return None


# CSV and TSV


def _by_file(path: Path, pairs: Pairs) -> list[tuple[str, list]]:
    captions: dict[str, list] = {}
    for file, caption in pairs:
        captions.setdefault(file, []).extend(_listed(path, file, caption))
    return list(captions.items())


def _listed(path: Path, file: str, cell: str) -> list[str]:
    """Return the captions in a cell: one, or those of a list that was written as text."""
    if not _LIST.fullmatch(cell.strip()):
        return [cell]
    try:
        texts = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [cell]
    without_commas = re.search(r"['\"]\s+['\"]", cell)  # as numpy prints an array: Python would glue its texts
    if without_commas or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"{path}: the caption of {file} is a list that cannot be read, {cell[:60]!r}: save a row for each caption"
        )
    return texts


def _text_tables(request: Request, columns: Iterable[str]) -> tuple[list[tuple[Path, Pairs, bool]], list[str]]:
    """Return the CSV and TSV files that fit the split, with their pairs, and what lacks in those without the columns."""
    split, fits, lacking, own = request.split, [], [], request.list_file
    for path in visible(request.folder, own) if own else visible(request.folder, "*.csv", "*.tsv"):
        delimiter, header = _header(path)
        image, value = (next((header.index(c) for c in wanted if c in header), None) for wanted in (IMAGE_COLUMNS, columns))
        if image is None or value is None:
            needed = f"one of images ({', '.join(IMAGE_COLUMNS)}) and one of texts ({', '.join(columns)})"
            there = ", ".join(name or "(no name)" for name in header[:12])
            lacking.append(f"{path} has the columns {there}: name {needed}")
            continue
        if unread := [c for i, c in enumerate(header) if c in columns and i != value]:
            told = path, header[value], ", ".join(unread)
            logger.warning("%s: its column '%s' is read; not read: %s (rename the one that shall be read to caption)", *told)
        of_split, of_name = header.index("split") if "split" in header else None, named_splits(path)
        if own:
            fits.append((path, _pairs(path, delimiter, len(header), (image, value, None), None), True))
        elif split is None or of_split is not None or not of_name or split in of_name:
            pairs = _pairs(path, delimiter, len(header), (image, value, None if split is None else of_split), split)
            fits.append((path, pairs, of_split is not None or bool(of_name)))
    return fits, lacking


def _header(path: Path) -> tuple[str, list[str]]:
    """Return what divides the cells of a table, and the names of its columns, in small letters."""
    with path.open(encoding=_marked_encoding(path) or "utf-8-sig", errors="replace", newline="") as file:
        head = file.read(10_000)
    headers = {}
    for delimiter in ",;\t|":
        row = next(filter(None, csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)), [])
        headers[delimiter] = [column.strip(" '\"").casefold() for column in row]
    names = {
        *IMAGE_COLUMNS,
        *CAPTION_COLUMNS,
        *LABEL_COLUMNS,
    }  # a name may hold the sign that divides the cells of another table
    delimiter = max(headers, key=lambda sign: (len(names & {*headers[sign]}), len(headers[sign])))
    return delimiter, headers[delimiter]


def _marked_encoding(path: Path) -> str | None:
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else None


def _encoding(path: Path) -> str:
    """Return the encoding of a text: UTF-16 with its mark, UTF-8, or GB18030 (as RS5M's table of RSICD) where that is plain to see."""
    if encoding := _marked_encoding(path):
        return encoding
    if _decodes(path, "utf-8-sig"):
        return "utf-8-sig"
    with path.open("rb") as file:
        number, line = next((number, line) for number, line in enumerate(file, start=1) if _first_wrong_byte(line) is not None)
    # Chinese text is pairs of high bytes; an accent of Windows-1252 stands alone between letters.
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(2**20), b"")
        are_high = Counter(min(pair) >= 0xA1 for block in blocks for pair in _PAIR.findall(block))
    if are_high[True] > are_high[False] and _decodes(path, "gb18030"):
        shown = line.decode("gb18030", errors="replace").strip()[:80]
        logger.warning(
            "%s is not in UTF-8 but read as GB18030: line %d begins %r; if that is wrong, save it as UTF-8",
            path,
            number,
            shown,
        )
        return "gb18030"
    start = max(0, _first_wrong_byte(line) - 20)
    raise DataError(
        f"{path}, line {number}, is not in UTF-8 ({line[start : start + 40]!r}): save it as UTF-8 (in Excel: 'CSV UTF-8')"
    )


def _first_wrong_byte(line: bytes) -> int | None:
    try:
        line.decode()
        return None
    except UnicodeDecodeError as error:
        return error.start


def _decodes(path: Path, encoding: str) -> bool:
    try:
        with path.open(encoding=encoding, newline="") as file:
            while file.read(2**20):
                pass
        return True
    except UnicodeDecodeError:
        return False


def read_lines(path: Path) -> list[str]:
    """Read the lines of a list, without blanks around them.

    Raises:
        DataError: It is in an unknown encoding, or has an empty line before another: do the numbers of the lines count it?
    """
    lines = [line.strip() for line in path.read_text(encoding=_encoding(path)).rstrip().splitlines()]
    if "" in lines:
        raise DataError(f"{path}, line {lines.index('') + 1}, is empty: remove the line, or write the name that lacks")
    return lines


def _pairs(path: Path, delimiter: str, width: int, columns: Sequence[int | None], split: str | None) -> Pairs:
    """Yield file and text of every row of the split; `columns` are those of files, of texts and of splits (perhaps None)."""
    shift = None
    for line, row in itertools.islice(_read_rows(path, delimiter), 1, None):  # after the header
        if shift is None:  # R and others leave the column of row numbers without a name
            image = columns[0]
            shift = int(len(row) == width + 1 and _is_image(row[image + 1]) and not _is_image(row[image]))
            if shift:
                logger.warning("%s: rows have one cell more than the header, their first is taken for a row number", path)
        image, value, of_split = (None if column is None else column + shift for column in columns)
        if len(row) <= max(image, value, of_split or 0) or any(cell.strip() for cell in row[width + shift :]):
            advice = "put quotes around cells that hold one" if len(row) > width else "mend that line"
            cells = f"it has {len(row)} cells, the header has {width}, between {delimiter!r}"
            raise DataError(f"{path}, line {line}, cannot be read ({cells}): {advice}")
        _check_swallowed(path, line, row, delimiter, image)
        if of_split is None or is_split(row[of_split], split):
            yield row[image].replace("\\", "/"), row[value]


def _read_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that has a cell that is not blank, with the number of its first line."""
    with path.open(encoding=_encoding(path), newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        line = 1
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                opened = reader.line_num > line or "unexpected end" in str(error)
                advice = (
                    'close its quote, write it twice ("") or remove it'
                    if opened or "expected after" in str(error)
                    else "mend it"
                )
                problem = f"a quote opens a cell that nothing closes; {error}" if opened else str(error)
                raise DataError(f"{path}, line {line}, cannot be read ({problem}): {advice}") from None
            if row is None:
                return
            if any(map(str.strip, row)):  # Excel writes a row of empty cells as delimiters alone
                yield line, row
            line = reader.line_num + 1


def _check_swallowed(path: Path, line: int, row: list[str], delimiter: str, image: int) -> None:
    """Refuse a cell with line breaks whose lines are rows themselves: its quote was closed by that of a later row."""
    for inner in (inner for cell in row if "\n" in cell or "\r" in cell for inner in cell.splitlines()[1:]):
        cells = inner.split(delimiter)
        if len(cells) > image and len(cells) > 1 and _is_image(cells[image]):
            problem = f"a quote opens a cell that takes in the row of {cells[image].strip()}"
            raise DataError(
                f'{path}, line {line}, cannot be read ({problem}): close its quote, write it twice ("") or remove it'
            )


def _is_image(cell: str) -> bool:
    return cell.strip(" '\"").casefold().endswith(IMAGE_ENDINGS)
