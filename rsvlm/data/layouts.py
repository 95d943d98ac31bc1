"""How evaluation sets lie on disk: tables of captions or labels, folders of classes, lists of a split, and the files they name.

Names in tables are data: one that leads out of the benchmark's folder stops everything, and so does a folder that is a link out of it;
such a file is left out.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import itertools
import json
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsvlm.data import catalogue
from rsvlm.data.reading import BrokenSample
from rsvlm.errors import DataError

logger = logging.getLogger(__name__)

MAX_BYTES = 512 * 2**20
"""Largest image file and largest table that is read, in bytes."""

MAX_DEPTH = 8
"""Folders within folders that are looked through for images."""

CAPTION_COLUMNS = ("caption", "title", "captions", "text", "sentence", "raw")
LABEL_COLUMNS = ("classname", "class", "label")
_IMAGE_COLUMNS = ("image", "filename", "filepath", "file", "image_path", "img", "path")
_IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2")
_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


@dataclass(frozen=True)
class Request:
    """What is asked of a folder.

    `title` and `entry` are those of the catalogue (if empty, the benchmark is unknown); if the split is None, it is every image. If
    `strict`, less than half of the benchmark is an error. `skipped` counts samples left out, by reason.
    """

    folder: Path
    title: str
    entry: dict
    split: str | None
    strict: bool
    skipped: Counter

    def compare(self, where: str, counts: dict, expected: dict | None = None) -> None:
        """Warn of numbers that differ from the known ones (or from `expected`); less than half is a DataError, if strict."""
        known = self.entry.get("splits", {}).get(self.split or "all", {}) | (expected or {})
        for what, number in counts.items():
            wanted = known.get(what, number)
            if 2 * number < wanted and self.strict:
                raise DataError(
                    f"{where} has {number:,} of {wanted:,} {what}: half downloaded? Fetch the rest, "
                    "or ask for it with partial=True"
                )
            if number != wanted:
                difference = where, number, what, wanted, self.title
                logger.warning("%s has %d %s, expected %d: its figures are not those of %s", *difference)

    def layout_error(self) -> DataError:
        """Return the error that shows the expected layout beside what lies in the folder."""
        names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in self.folder.iterdir())
        shown = "\n  ".join(names[:12] + ([f"… and {len(names) - 12} more"] if len(names) > 12 else [])) or "(nothing)"
        wanted = (
            "expected *.tar shards (in it or in <split>/), one Karpathy JSON file {'images': [{'filename', 'split', 'sentences': "
            "[{'raw'}]}]} or a CSV file with columns image and caption (or label) beside its image folder, or a folder per class"
        )
        if "layout" in self.entry:
            tree = "\n  ".join(self.entry["layout"])
            wanted = f"expected the layout of {self.title} ({self.entry['where']}), or *.tar shards:\n  {tree}"
        return DataError(f"{self.folder} is no known layout: {wanted}\nand found\n  {shown}")


# Tables


def has_shards(folder: Path) -> bool:
    """Say whether a folder holds shards; a tar file beside a table is the archive that the benchmark came in."""
    if not (next(folder.glob("*.tar"), None) or next(folder.glob("*/*.tar"), None)):
        return False
    if (folder / "manifest.json").is_file():
        return True
    tables = any(next(folder.glob(f"*.{kind}"), None) for kind in ("csv", "tsv"))
    return not tables and not any(map(_image_rows, map(read_json, folder.glob("*.json"))))


def read_json(path: Path) -> Any:
    """Read a JSON file; a DataError says that it is larger than `MAX_BYTES`, or not valid."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES:,} bytes, which no known table is: remove it")
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}): fetch it again") from None


def caption_table(request: Request) -> tuple[Path, list[tuple[str, list]]]:
    """Return the path of the table of captions, and file and texts of every image of the split."""
    split = request.split
    for path in sorted(request.folder.glob("*.json")):
        if (rows := _image_rows(read_json(path))) is None:
            continue
        rows = [(row, scene) for row, scene in rows if isinstance(row, dict)]
        splits = Counter(str(row.get("split")) for row, _ in rows)
        if split is not None and split not in splits:
            wanted = request.entry.get("splits", {}).get(split)
            lacking = f"; that of {request.title} has {wanted['images']:,} images, this copy lacks it" if wanted else ""
            raise DataError(f"{path} has no split '{split}': it has {dict(splits)}{lacking}")
        chosen = [(row, scene) for row, scene in rows if split in (None, str(row.get("split")))]
        return path, [(_file_of(path, row, scene), _texts_of(row)) for row, scene in chosen]
    if table := find_table(request, CAPTION_COLUMNS):
        captions: dict[str, list] = {}
        for file, caption in table[1]:
            captions.setdefault(file, []).append(caption)
        return table[0], list(captions.items())
    raise request.layout_error()


def _image_rows(table: Any) -> list[tuple[dict, str | None]] | None:
    """Entries of a table of images, each with its class where entries are listed by class; None if this is no such table."""
    if not isinstance(table, dict):
        return None
    if isinstance(table.get("images"), list):
        return [(row, None) for row in table["images"]]
    lists = [rows for rows in table.values() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    if table and len(lists) == len(table) and all("filename" in rows[0] for rows in lists):
        return [(row, scene) for scene, rows in table.items() for row in rows]
    return None


def _file_of(path: Path, row: dict, scene: str | None) -> str:
    file = row.get("filename", row.get("file"))
    if not isinstance(file, str) or not file:
        raise DataError(f"{path} has an image without a filename ({str(row)[:80]}): fetch it again")
    return file if scene is None else f"{scene}/{file}"


def _texts_of(row: dict) -> list:
    if isinstance(row.get("sentences"), list):
        return [sentence.get("raw") if isinstance(sentence, dict) else sentence for sentence in row["sentences"]]
    if isinstance(row.get("captions"), list):
        return row["captions"]
    return [text for column, text in row.items() if re.fullmatch(r"raw(_\d+)?", column)]


def find_table(request: Request, columns: Iterable[str]) -> tuple[Path, Iterator[tuple[str, str]]] | None:
    """Return the one table of a split with a column of images and one of `columns`, and its pairs of both; None if there is none."""
    folder, split = request.folder, request.split
    tables, aliases = [], _SPLITS.get(split, (split,))
    for path in sorted([*folder.glob("*.csv"), *folder.glob("*.tsv")]):
        encoding = _encoding(path)
        with path.open(encoding=encoding, newline="") as file:
            head = file.readline(10_000).strip()
        delimiter = max(",;\t|", key=head.count)
        header = [column.strip(' "').casefold() for column in head.split(delimiter)]
        image, value = (next((header.index(c) for c in wanted if c in header), None) for wanted in (_IMAGE_COLUMNS, columns))
        if image is None or value is None:
            continue
        of_split = header.index("split") if "split" in header else None
        named = {name for name, words in _SPLITS.items() if set(words) & _words(path)}
        if split is None or of_split is not None or not named or split in named:
            of_split = None if split is None else of_split
            tables.append((path, _pairs(path, encoding, delimiter, image, value, of_split, aliases)))
    if len(tables) > 1 and split is not None:
        raise DataError(f"several tables fit split '{split}': {', '.join(p.name for p, _ in tables)}; keep one in {folder}")
    return tables[0] if len(tables) == 1 else None


def _words(path: Path) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", path.stem.casefold()))


def _encoding(path: Path) -> str:
    for encoding in ("utf-8-sig", "gb18030"):  # RS5M's table of RSICD is in the second
        try:
            with path.open(encoding=encoding, newline="") as file:
                while file.read(2**20):
                    pass
            return encoding
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path} is text neither in UTF-8 nor in GB18030: save it as UTF-8")


def _pairs(path: Path, encoding: str, delimiter: str, image: int, value: int, of_split, splits) -> Iterator[tuple[str, str]]:
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            next(reader)
            for row in reader:
                if row and (of_split is None or row[of_split] in splits):
                    yield row[image], row[value]
        except (csv.Error, IndexError) as error:
            raise DataError(f"{path}, line {reader.line_num}, cannot be read ({error}): mend that line") from None


# Images that a table names


def locate(request: Request, path: Path, files: list[str]) -> Callable[[str], Path]:
    """Check the names in a table, compare them with what is on disk, and return a function from a name to its place.

    Raises:
        DataError: There is no name, one leads out of the folder or is there twice, or no image is where a table's images are.
    """
    if not files:
        raise DataError(f"{path} has no image of split '{request.split}': ask for another split")
    if outside := next((file for file in files if not _is_inside(file)), None):
        unread = "such a table is not read, name files from there"
        raise DataError(f"{path} names {outside!r}, which is not inside its folder: {unread}")
    if twice := [file for file, n in Counter(files).items() if n > 1]:
        raise DataError(f"{path} has {len(twice)} files more than once, the first is {twice[0]!r}: keep one row of each")
    home, strip = _home(request, path, files)
    listings: dict[str, set[str]] = {}
    missing = []
    for file in files:
        parent, _, base = file.split("/", strip)[-1].rpartition("/")
        if parent not in listings:
            place = home / parent
            _check_inside(place, request.folder)
            listings[parent] = set(os.listdir(place)) if place.is_dir() else set()
        if base not in listings[parent]:
            missing.append(file)
    if missing:
        logger.warning("%s: %d image files of %s are missing, the first is %s", home, len(missing), path.name, missing[0])
    present = {"image files": len(files) - len(missing)}
    request.compare(f"{home}, split '{request.split}',", present, {"image files": len(files)})
    return lambda file: home / file.split("/", strip)[-1]


def _is_inside(file: str) -> bool:
    """Whether a name is one that a file below a folder can have."""
    try:
        name = os.fsencode(file)
    except UnicodeEncodeError:  # half a character
        return False
    parts = re.split(rb"[/\\]", name)
    if not parts[0] or b".." in parts or b"\0" in name or re.match(rb"[A-Za-z]:", name):
        return False
    return len(name) < 1000 and max(map(len, parts)) < 256


def _home(request: Request, path: Path, files: list[str]) -> tuple[Path, int]:
    """The folder that holds the files, and how many leading folders of their names it does without; judged by a few files."""
    probe = files[:: max(1, len(files) // 20)][:20]
    depth = 1 + min(file.count("/") for file in probe)
    places = [(home, strip) for home in _around(request.folder) for strip in range(depth)]
    hits = [sum((home / file.split("/", strip)[-1]).is_file() for file in probe) for home, strip in places]
    if any(hits):
        return places[hits.index(max(hits))]
    missing = f"{files[0]}, the first image of split '{request.split}' in {path}"
    raise DataError(f"{missing}, is neither beside it nor in a folder beside it")


def _around(folder: Path) -> list[Path]:
    return [folder, *sorted(child for child in folder.iterdir() if child.is_dir())]


def _check_inside(place: Path, folder: Path) -> None:
    if not place.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{place} is a link out of {folder}: put the images themselves there, or link {folder} as a whole")


def read_image(path: Path, folder: Path) -> bytes:
    """Read a regular file; a link is followed only inside the folder. BrokenSample says what else it is."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe must not be waited for
    try:
        handle = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise BrokenSample("no image file", str(path)) from None
        target = path.resolve()
        if not target.is_relative_to(folder.resolve()) or not target.is_file():
            raise BrokenSample("link out of the folder", str(path)) from None
        handle = os.open(target, flags)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
        os.close(handle)
        raise BrokenSample("image file too large" if stat.S_ISREG(status.st_mode) else "no image file", str(path))
    with os.fdopen(handle, "rb") as file:
        return file.read()


# Folders of classes


def own_classes(base: Path) -> tuple[dict[str, int], list[str]]:
    """Take every folder for a class, where no list says which there are; a single folder around them is passed through."""

    def below(folder: Path) -> list[str]:
        folders = (child for child in folder.iterdir() if child.is_dir() and not child.is_symlink())
        return sorted(child.name for child in folders if not child.name.startswith((".", "__")))

    children = below(base)
    while len(children) == 1 and below(base / children[0]):
        base, children = base / children[0], below(base / children[0])
    if children and set(children) <= set(itertools.chain(*_SPLITS.values())):
        children = sorted({child for split in children for child in below(base / split)})
    labels = {catalogue.key_of(child): label for label, child in enumerate(children)}
    return labels, list(map(catalogue.words_of, children))


def walk(
    request: Request, base: Path, labels: dict[str, int], wanted: set[str] | None, label: int | None = None
) -> Iterator[tuple[Path, int | None, list[str]]]:
    """Yield folders with images, the label of each (of the innermost folder that is a class), and their image files, in order."""
    files, children, left_out = [], [], tuple(request.entry.get("left_out", ()))
    with os.scandir(base) as entries:
        for child in entries:
            if child.name.startswith((".", "__")):
                continue
            if child.is_dir():
                if child.is_symlink():  # one that leads elsewhere inside would show the same images again, or never end
                    _check_inside(base / child.name, request.folder)
                elif len(base.parts) - len(request.folder.parts) < MAX_DEPTH:
                    children.append(child.name)
            elif child.name.lower().endswith(_IMAGES) and not child.name.rpartition(".")[0].endswith(left_out):
                files.append(child.name)
    if wanted is not None:
        files = [file for file in files if listed(base.name, file, wanted)]
    if files:
        yield base, label, sorted(files)
    own_labels = {child: labels.get(catalogue.key_of(child)) for child in sorted(children)}
    times = Counter(own_labels.values())
    for child, own in own_labels.items():
        if own is not None and times[own] > 1:
            raise DataError(f"{base} has more than one folder of the class of '{child}': put their images into one")
        yield from walk(request, base / child, labels, wanted, label if own is None else own)


def listed(parent: str, file: str, wanted: set[str]) -> str | None:
    """Return the form in which a list names a file of a folder, with the folder or without it; None if it does not."""
    stem = file.rpartition(".")[0]
    return next((form for form in (f"{catalogue.key_of(parent)}/{stem}", stem) if form in wanted), None)


def split_of(request: Request) -> tuple[Path, set[str] | None]:
    """Return the folder of a split and None, for all its images; or the benchmark's folder and the names that a list has for it."""
    folder, split = request.folder, request.split
    if split is None:
        return folder, None
    aliases = _SPLITS.get(split, (split,))
    around = _around(folder)
    if place := next((place / alias for place in around for alias in aliases if (place / alias).is_dir()), None):
        _check_inside(place, folder)
        return place, None
    lists = [path for place in around for path in sorted(place.glob("*.txt")) if _words(path) & set(aliases)]
    if len(lists) != 1:
        several = f"several file lists fit: {', '.join(path.name for path in lists)}"
        official = ", ".join(request.entry.get("splits", {})) or "none"
        raise DataError(
            f"{folder} has no split '{split}': {several if lists else 'no folder and no file list is its'}; "
            f"official splits of {request.title}: {official}; 'all' is every image"
        )
    return folder, _read_list(lists[0], request.entry.get("hashes", {}).get(lists[0].name))


def _read_list(path: Path, known: str | None) -> set[str]:
    """Read the files that a list names, without their extensions, as `listed` forms them."""
    data = path.read_bytes()
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if known not in (None, digest):
        logger.warning("%s has the MD5 %s, expected %s: it is another list than the usual one", path, digest, known)
    lines = [line.strip() for line in data.decode("utf-8", errors="replace").splitlines() if line.strip()]
    name = re.compile(rf".*?({'|'.join(map(re.escape, _IMAGES))})(?=[\s,]|$)", re.IGNORECASE)  # a label may follow the name
    files = [match[0] if (match := name.match(line)) else line for line in lines]
    parts = [re.sub(r"\.[^./]*$", "", file).replace("\\", "/").split("/") for file in files]
    stems = [part[-1] if len(part) == 1 else f"{catalogue.key_of(part[-2])}/{part[-1]}" for part in parts]
    if twice := [stem for stem, n in Counter(stems).items() if n > 1]:
        raise DataError(f"{path} names {len(twice)} files more than once, the first is '{twice[0]}': keep one line of each")
    return set(stems)
