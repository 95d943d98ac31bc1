"""How evaluation sets lie on disk: folders of classes, lists of a split, and the files that a table names; `tables` reads the tables.

Names in tables are data: one that leads out of the benchmark's folder stops everything, and so does a folder that is a link out of it;
such a file is left out.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rsvlm.data import catalogue
from rsvlm.data.reading import BrokenSample, is_hidden, visible
from rsvlm.errors import DataError

logger = logging.getLogger(__name__)

MAX_BYTES = 512 * 2**20
"""Largest image file and largest table that is read, in bytes."""

MAX_DEPTH = 8
"""Folders within folders that are looked through for images."""

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2")
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


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

    @property
    def list_file(self) -> str | None:
        """Name of the table that alone says which images the split has; None if the catalogue knows of none."""
        return self.entry.get("lists", {}).get(self.split)

    def compare(self, where: str, counts: dict, expected: dict | None = None) -> None:
        """Warn of numbers that differ from the known ones (or from `expected`); less than half is a DataError, if strict."""
        known = self.entry.get("splits", {}).get(self.split or "all", {}) | (expected or {})
        for what, number in counts.items():
            wanted = known.get(what, number)
            if 2 * number < wanted and self.strict:
                raise DataError(
                    f"{where} has {number:,} of {wanted:,} {what}: half downloaded? Fetch the rest, "
                    "or take what is there with --partial (partial=True)"
                )
            if number != wanted:
                difference = where, number, what, wanted, self.title
                logger.warning("%s has %d %s, expected %d: its figures are not those of %s", *difference)

    def layout_error(self, *remarks: str) -> DataError:
        """Return the error that shows the expected layout beside what lies in the folder, and remarks on what lies there."""
        children = [child for child in self.folder.iterdir() if not child.name.startswith(".")]
        names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in children)
        names = names[:12] + ([f"… and {len(names) - 12} more"] if len(names) > 12 else []) or ["(nothing)"]
        forms = [
            "expected one of",
            "*.tar shards, in it or in <split>/",
            "a JSON file {'images': [{'filename', 'split', 'sentences': [{'raw'}]}]} (Karpathy), or of COCO's captions, and the images",
            "a CSV or TSV file with a column image and a column caption (or label), and the images",
            "a folder of images for each class",
        ]
        if "layout" in self.entry:
            forms = [f"expected the layout of {self.title} ({self.entry['where']}), or *.tar shards:", *self.entry["layout"]]
        lines = [f"{self.folder} is no known layout: {forms[0]}", *forms[1:]]
        if any(name.endswith(".tar") for name in names):
            remarks = *remarks, "(a *.tar of images without a .txt or .json for each is an archive: unpack it)"
        return DataError("\n  ".join(lines) + "\n" + "\n  ".join(["and found", *names, *remarks]))


def words_of_name(path: Path) -> set[str]:
    """Return the words of a file's name, in small letters; a year at the end of a word may be left out (`val2014`)."""
    words = set(re.split(r"[^a-z0-9]+", path.stem.casefold()))
    return words | {word.rstrip("0123456789") for word in words}


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
    return [folder, *(child for child in visible(folder, "*") if child.is_dir())]


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
        return sorted(child.name for child in folders if not is_hidden(child.name))

    children = below(base)
    while len(children) == 1 and below(base / children[0]):
        base, children = base / children[0], below(base / children[0])
    splits = [child for child in children if child.casefold() in itertools.chain(*SPLIT_NAMES.values())]
    if in_splits := {child for split in splits for child in below(base / split)}:
        children = sorted(in_splits)  # whatever lies beside the splits has no images, or is no class
    labels = {catalogue.key_of(child): label for label, child in enumerate(children)}
    return labels, list(map(catalogue.words_of, children))


def walk(
    request: Request, base: Path, labels: dict[str, int], wanted: set[str] | None, label: int | None = None
) -> Iterator[tuple[Path, int | None, list[str]]]:
    """Yield folders with images, the label of each (of the innermost folder that is a class), and their image files, in order."""
    files, children, left_out = [], [], tuple(request.entry.get("left_out", ()))
    with os.scandir(base) as entries:
        for child in entries:
            if is_hidden(child.name):
                continue
            if child.is_dir():
                if child.is_symlink():  # one that leads elsewhere inside would show the same images again, or never end
                    _check_inside(base / child.name, request.folder)
                elif len(base.parts) - len(request.folder.parts) < MAX_DEPTH:
                    children.append(child.name)
            elif child.name.lower().endswith(IMAGE_ENDINGS) and not child.name.rpartition(".")[0].endswith(left_out):
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
    aliases = SPLIT_NAMES.get(split, (split.casefold(),))
    around = _around(folder)
    folders = (child for place in around for child in visible(place, "*") if child.is_dir())
    if place := next((child for child in folders if child.name.casefold() in aliases), None):
        _check_inside(place, folder)
        return place, None
    lists = [path for place in around for path in visible(place, "*.txt") if words_of_name(path) & set(aliases)]
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
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8 (byte {error.start}): save it as UTF-8") from None
    name = re.compile(
        rf".*?({'|'.join(map(re.escape, IMAGE_ENDINGS))})(?=[\s,]|$)", re.IGNORECASE
    )  # a label may follow the name
    files = [match[0] if (match := name.match(line)) else line for line in lines]
    parts = [re.sub(r"\.[^./]*$", "", file).replace("\\", "/").split("/") for file in files]
    stems = [part[-1] if len(part) == 1 else f"{catalogue.key_of(part[-2])}/{part[-1]}" for part in parts]
    if twice := [stem for stem, n in Counter(stems).items() if n > 1]:
        raise DataError(f"{path} names {len(twice)} files more than once, the first is '{twice[0]}': keep one line of each")
    return set(stems)
