"""Evaluation sets as people have them on disk, behind two iterators: `samples` for retrieval, `labelled` for classification.

| on disk | recognised by |
|---|---|
| shards of this package, or any WebDataset with captions | `*.tar` in the folder or in `<split>/` |
| Karpathy JSON (RSICD, RSITMD, UCM-Captions, Sydney-Captions) | a `*.json` with an `images` list, images in a folder beside it |
| NWPU-Captions | a `*.json` {class: [images]}, images in folders of classes |
| tables (RS5M, SkyScript) | `*.csv` or `*.tsv` with a column of images and one of captions or labels |
| folders of classes | every image below a folder that is in the class list |

What is on disk is compared with what `catalogue` knows of a benchmark before the first image is read. Names in tables are data: one that
leads out of the benchmark's folder stops everything, and so does a folder that is a link out of it; such a file is left out.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
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

from rsvlm.data import catalogue, shards
from rsvlm.data.reading import BrokenSample
from rsvlm.errors import DataError

logger = logging.getLogger(__name__)

MAX_BYTES = 512 * 2**20
"""Largest image file and largest table that is read, in bytes."""

MAX_DEPTH = 8
"""Folders within folders that are looked through for images."""

MAX_CAPTION = 100_000
"""Longest caption, in characters; a longer one is left out like an empty one."""

_IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2")
_IMAGE_COLUMNS = ("image", "filename", "filepath", "file", "image_path", "img", "path")
_CAPTION_COLUMNS = ("caption", "title", "captions", "text", "sentence", "raw")
_LABEL_COLUMNS = ("classname", "class", "label")
_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


@dataclass(frozen=True)
class _Asked:
    """What a call asks for: `title` and `entry` of a known benchmark (an empty entry: unknown); `strict` if it was named."""

    folder: Path
    title: str
    entry: dict
    split: str | None
    strict: bool
    partial: bool
    skipped: Counter


def samples(
    folder: Path | str, split: str, *, name: str | None = None, partial: bool = False, skipped: Counter | None = None
) -> Iterator[shards.Sample]:
    """Yield the images and captions of one split, in stored order; memory holds the table of captions and one image.

    Captions are as on disk: neither stripped nor capitalised, repetitions kept. Empty ones are left out and their number logged;
    `record` has `key`, `split`, `class` where one is known, and `empty_captions` where some were left out.

    Args:
        folder: A shard folder or a benchmark folder.
        split: Name of the split in that folder.
        name: A benchmark of `catalogue.rows`, whose numbers must then be met; none: what the folder's own files say, and a difference
            is only logged.
        partial: Accept less than half of what a named benchmark should have.
        skipped: Counts the samples left out, by reason.

    Raises:
        DataError: The folder is of no known layout (it says what was expected), has no such split or less than half of it, or its
            table is broken, names a file twice or one outside the folder.
    """
    asked = _asked(folder, name, "retrieval", split, partial, skipped)
    where = f"{asked.folder}, split '{split}',"
    if _has_shards(asked.folder):
        if name:
            _compare(asked, where, {"images": shards.count(asked.folder, split)})
        return shards.stream(asked.folder, split, skipped=asked.skipped)
    path, rows = _caption_table(asked)
    count = sum(len(texts) for _, texts, _ in rows)
    _compare(asked, where, {"images": len(rows), "captions": count})
    if empty := sum(not _usable(text) for _, texts, _ in rows for text in texts):
        logger.warning("%s %d of %d captions are empty or no text and left out", where, empty, count)
    return _stream(asked, rows, _locate(asked, path, [file for file, _, _ in rows]))


def labelled(
    folder: Path | str,
    name: str | None = None,
    split: str | None = None,
    *,
    partial: bool = False,
    skipped: Counter | None = None,
) -> tuple[list[str], Iterator[tuple[str, bytes, int]]]:
    """Return the class names, and the images with their labels, in an order that does not depend on the file system.

    Args:
        folder: A benchmark folder: folders of classes with or without file lists, a table of files and labels, or shards whose
            records have a `class`.
        name: A benchmark of `catalogue.rows`, whose classes and numbers must then be met; none: what the folder is called, else every
            folder of images is a class.
        split: Name of the split; none or `all`: every image there is.
        partial: Accept less than half of what a named benchmark should have.
        skipped: Counts the images left out, by reason.

    Returns:
        Words of the C classes as the text tower reads them; and an iterator of key, encoded image and label in 0…C-1.

    Raises:
        DataError: As `samples`; or a folder of images is no class of the benchmark, or there is twice.
    """
    asked = _asked(folder, name, "classification", None if split == "all" else split, partial, skipped)
    if "scenes_of" in asked.entry:
        return _scenes(asked)
    if _has_shards(asked.folder):
        return _labelled_shards(asked)
    for path, rows in _tables(asked, _LABEL_COLUMNS):
        return _labelled_table(asked, path, list(rows))
    return _class_folders(asked)


def name(folder: Path | str) -> str:
    """Return the data set's name: what its own files say, else the folder's name."""
    folder = Path(folder)
    if (folder / "manifest.json").is_file():
        return str(_read_json(folder / "manifest.json").get("name", folder.name))
    for path in sorted(folder.glob("dataset_*.json")):
        return path.stem.removeprefix("dataset_")
    return folder.name


_name_of = name  # under which functions with an argument `name` call it


def fingerprint(folder: Path | str) -> str:
    """Return 16 hex digits that name the content of a data folder: of its shards' hashes, else of all file names and sizes."""
    folder = Path(folder)
    digest = hashlib.sha256()
    if (folder / "manifest.json").is_file():
        digest.update(json.dumps(shards.manifest(folder)["splits"], sort_keys=True).encode())
    else:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


# What was asked for


def _asked(folder: Path | str, name: str | None, task: str, split, partial: bool, skipped: Counter | None) -> _Asked:
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: --data takes a folder of shards or a benchmark as its authors pack it")
    title, entry = folder.name, {}
    if name:
        title, entry = catalogue.find(name, task)
    else:
        with contextlib.suppress(DataError):
            title, entry = catalogue.find(_name_of(folder), task)
    return _Asked(folder, title, entry, split, bool(name), partial, Counter() if skipped is None else skipped)


def _compare(asked: _Asked, where: str, found: dict, expected: dict | None = None) -> None:
    """Say where numbers differ from the known ones (or from `expected`); less than half of them is an error, if named."""
    known = asked.entry.get("splits", {}).get(asked.split or "all", {}) | (expected or {})
    for what, number in found.items():
        wanted = known.get(what, number)
        if 2 * number < wanted and asked.strict and not asked.partial:
            raise DataError(
                f"{where} has {number:,} of {wanted:,} {what}: half downloaded? Fetch the rest, or ask for it with partial=True"
            )
        if number != wanted:
            logger.warning(
                "%s has %d %s, expected %d: its figures are not those of %s", where, number, what, wanted, asked.title
            )


def _layout_error(asked: _Asked) -> DataError:
    folder, title, entry = asked.folder, asked.title, asked.entry
    there = sorted(f"{child.name}/" if child.is_dir() else child.name for child in folder.iterdir())
    found = "\n  ".join([*there[:12], *([f"… and {len(there) - 12} more"] if len(there) > 12 else [])]) or "(nothing)"
    if "layout" in entry:
        wanted = f"expected the layout of {title} ({entry['where']}), or *.tar shards:\n  " + "\n  ".join(entry["layout"])
    else:
        wanted = (
            "expected *.tar shards (in it or in <split>/), one Karpathy JSON file {'images': [{'filename', 'split', 'sentences': "
            "[{'raw'}]}]} or a CSV file with columns image and caption (or label) beside its image folder, or a folder per class"
        )
    return DataError(f"{folder} is no known layout: {wanted}\nand found\n  {found}")


# Tables


def _has_shards(folder: Path) -> bool:
    if not (next(folder.glob("*.tar"), None) or next(folder.glob("*/*.tar"), None)):
        return False
    # a tar beside a table is the archive that the benchmark came in
    tables = any(next(folder.glob(f"*.{kind}"), None) for kind in ("csv", "tsv"))
    return (folder / "manifest.json").is_file() or not (
        tables or any(map(_image_rows, map(_read_json, folder.glob("*.json"))))
    )


def _read_json(path: Path):
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES:,} bytes, which no known table is: remove it")
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}): fetch it again") from None


def _caption_table(asked: _Asked) -> tuple[Path, list[tuple[str, list, str | None]]]:
    """The table's path, and file, texts and class of every image of the split (of all of them, if none is asked for)."""
    folder, split = asked.folder, asked.split
    for path in sorted(folder.glob("*.json")):
        table = _read_json(path)
        rows = _image_rows(table)
        if rows is None:
            continue
        rows = [(row, scene) for row, scene in rows if isinstance(row, dict)]
        splits = Counter(str(row.get("split")) for row, _ in rows)
        if split is not None and split not in splits:
            wanted = asked.entry.get("splits", {}).get(split)
            lacking = f"; that of {asked.title} has {wanted['images']:,} images, this copy lacks it" if wanted else ""
            raise DataError(f"{path} has no split '{split}': it has {dict(splits)}{lacking}")
        chosen = [(row, scene) for row, scene in rows if split in (None, str(row.get("split")))]
        return path, [(_file_of(path, row, scene), _texts_of(row), scene) for row, scene in chosen]
    for path, rows in _tables(asked, _CAPTION_COLUMNS):
        captions: dict[str, list] = {}
        for file, caption in rows:
            captions.setdefault(file, []).append(caption)
        return path, [(file, texts, None) for file, texts in captions.items()]
    raise _layout_error(asked)


def _image_rows(table) -> list[tuple[dict, str | None]] | None:
    """Entries of a table of images, each with its class where entries are listed by class; none if this is no such table."""
    if isinstance(table, dict) and isinstance(table.get("images"), list):
        return [(row, None) for row in table["images"]]
    if isinstance(table, dict) and table and all(_is_image_list(rows) for rows in table.values()):
        return [(row, scene) for scene, rows in table.items() for row in rows]
    return None


def _is_image_list(rows) -> bool:
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and "filename" in rows[0]


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


def _usable(text) -> bool:
    """Whether a caption can be read: it says something, is no flood, and is made of characters."""
    if not isinstance(text, str) or len(text) > MAX_CAPTION or not text.strip():
        return False
    return text.isascii() or not re.search("[\ud800-\udfff]", text)


def _tables(asked: _Asked, columns: Iterable[str]) -> Iterator[tuple[Path, Iterator[tuple[str, str]]]]:
    """The one table of a split with a column of images and one of these columns, and its pairs of both; nothing if there is none."""
    folder, split = asked.folder, asked.split
    fitting, aliases = [], _SPLITS.get(split, (split,))
    for path in sorted([*folder.glob("*.csv"), *folder.glob("*.tsv")]):
        encoding = _encoding(path)
        with path.open(encoding=encoding, newline="") as file:
            head = file.readline(10_000).strip()
        delimiter = max(",;\t|", key=head.count)
        header = [column.strip(' "').casefold() for column in head.split(delimiter)]
        image, value = (next((header.index(c) for c in wanted if c in header), None) for wanted in (_IMAGE_COLUMNS, columns))
        if image is None or value is None:
            continue
        inside = header.index("split") if "split" in header else None
        named = {s for s, names in _SPLITS.items() if set(names) & set(re.split(r"[^a-z0-9]+", path.stem.casefold()))}
        if split is None or inside is not None or not named or split in named:
            where = inside if split is not None else None
            fitting.append((path, _pairs(path, encoding, delimiter, image, value, where, aliases)))
    if len(fitting) > 1 and split is None:
        return
    if len(fitting) > 1:
        raise DataError(f"several tables fit split '{split}': {', '.join(p.name for p, _ in fitting)}; keep one in {folder}")
    yield from fitting


def _encoding(path: Path) -> str:
    for encoding in ("utf-8-sig", "gb18030"):  # RS5M's table of RSICD is in the second
        try:
            with path.open(encoding=encoding, newline="") as file:
                while file.read(2**20):
                    pass
        except UnicodeDecodeError:
            continue
        return encoding
    raise DataError(f"{path} is text neither in UTF-8 nor in GB18030: save it as UTF-8")


def _pairs(path: Path, encoding: str, delimiter: str, image: int, value: int, where, splits) -> Iterator[tuple[str, str]]:
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            next(reader)
            for row in reader:
                if not row or (where is not None and row[where] not in splits):
                    continue
                yield row[image], row[value]
        except (csv.Error, IndexError) as error:
            raise DataError(f"{path}, line {reader.line_num}, cannot be read ({error}): mend that line") from None


# Images that a table names


def _locate(asked: _Asked, path: Path, files: list[str]) -> Callable[[str], Path]:
    """Check the names of a table, compare them with what is on disk, and return where each is."""
    if not files:
        raise DataError(f"{path} has no image of split '{asked.split}': ask for another split")
    if outside := next((file for file in files if not _is_inside(file)), None):
        raise DataError(
            f"{path} names {outside!r}, which is not inside its folder: such a table is not read, name files from there"
        )
    if twice := [file for file, n in Counter(files).items() if n > 1]:
        raise DataError(f"{path} has {len(twice)} files more than once, the first is {twice[0]!r}: keep one row of each")
    home, strip = _home(asked.folder, path, files, asked.split)
    there: dict[str, set[str]] = {}
    missing = []
    for file in files:
        parent, _, base = _stripped(file, strip).rpartition("/")
        if parent not in there:
            place = home / parent
            _check_inside(place, asked.folder)
            there[parent] = set(os.listdir(place)) if place.is_dir() else set()
        if base not in there[parent]:
            missing.append(file)
    if missing:
        logger.warning("%s: %d image files of %s are missing, the first is %s", home, len(missing), path.name, missing[0])
    _compare(asked, f"{home}, split '{asked.split}',", {"image files": len(files) - len(missing)}, {"image files": len(files)})
    return lambda file: home / _stripped(file, strip)


def _is_inside(file: str) -> bool:
    """Whether a name is one that a file below a folder can have."""
    try:
        data = os.fsencode(file)
    except UnicodeEncodeError:  # half a character
        return False
    parts = re.split(rb"[/\\]", data)
    drive = re.match(rb"[A-Za-z]:", data)
    return (
        bool(parts[0])
        and b".." not in parts
        and b"\0" not in data
        and not drive
        and len(data) < 1000
        and max(map(len, parts)) < 256
    )


def _stripped(file: str, strip: int) -> str:
    return file.split("/", strip)[-1]


def _home(folder: Path, path: Path, files: list[str], split: str | None) -> tuple[Path, int]:
    """The folder that holds the files, and how many leading folders of their names it does without; judged by a few files."""
    probe = files[:: max(1, len(files) // 20)][:20]
    homes = [folder, *sorted(child for child in folder.iterdir() if child.is_dir())]
    depth = 1 + min(file.count("/") for file in probe)
    found = {
        (h, n): sum((home / _stripped(f, n)).is_file() for f in probe) for h, home in enumerate(homes) for n in range(depth)
    }
    best = max(found, key=found.get)
    if not found[best]:
        raise DataError(
            f"{files[0]}, the first image of split '{split}' in {path}, is neither beside it nor in a folder beside it"
        )
    return homes[best[0]], best[1]


def _check_inside(place: Path, folder: Path) -> None:
    if not place.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{place} is a link out of {folder}: put the images themselves there, or link {folder} as a whole")


def _read_image(path: Path, folder: Path) -> bytes:
    """Bytes of a regular file; a link is followed only inside the folder. BrokenSample says what else it is."""
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


def _count_skipped(skipped: Counter, problem: BrokenSample) -> None:
    skipped[problem.reason] += 1
    if skipped[problem.reason] == 1:
        logger.warning("%s: %s; such samples are skipped and counted", problem.where, problem.reason)


def _stream(asked: _Asked, rows: list[tuple[str, list, str | None]], place: Callable[[str], Path]) -> Iterator[shards.Sample]:
    for position, (file, texts, _) in enumerate(rows):
        captions = [text for text in texts if _usable(text)]
        try:
            if not captions:
                raise BrokenSample("no caption", str(place(file)))
            image = _read_image(place(file), asked.folder)
        except BrokenSample as problem:
            _count_skipped(asked.skipped, problem)
            continue
        record: dict = {"key": file, "split": asked.split}
        if (scene := catalogue.scene_of(file, asked.entry)) is not None:
            record["class"] = scene
        if len(captions) < len(texts):
            record["empty_captions"] = len(texts) - len(captions)
        yield shards.Sample(key=file, image=image, captions=captions, record=record, position=position)


# Images with a class


def _scenes(asked: _Asked) -> tuple[list[str], Iterator[tuple[str, bytes, int]]]:
    source, of = catalogue.find(asked.entry["scenes_of"])
    words = catalogue.class_names(asked.title)
    path, rows = _caption_table(dataclasses.replace(asked, title=source, entry=of))
    scenes = {file: words.index(scene) for file, _, _ in rows if (scene := catalogue.scene_of(file, of)) in words}
    asked.skipped["no scene class"] += len(rows) - len(scenes)
    _compare(asked, f"{path}, split '{asked.split or 'all'}',", {"images": len(scenes)})
    place = _locate(asked, path, list(scenes))
    return words, _read_items(asked, ((file, place(file), label) for file, label in scenes.items()))


def _read_items(asked: _Asked, items: Iterable[tuple[str, Path, int]]) -> Iterator[tuple[str, bytes, int]]:
    for key, path, label in items:
        try:
            yield key, _read_image(path, asked.folder), label
        except BrokenSample as problem:
            _count_skipped(asked.skipped, problem)


def _labelled_shards(asked: _Asked) -> tuple[list[str], Iterator[tuple[str, bytes, int]]]:
    folder, by_sea = asked.folder, asked.title == "blue-marble"
    splits = [asked.split] if asked.split else sorted({path.parent.name for path in folder.glob("*/*.tar")}) or ["train"]
    if by_sea:
        words = catalogue.class_names(asked.title)
    else:
        files = sorted([*folder.glob("*.tar"), *folder.glob("*/*.tar")])
        records = (record for path in files for record in shards.records(path) if isinstance(record, dict))
        words = sorted({str(record["class"]) for record in records if record.get("class")})
    if not words:
        raise DataError(
            f"{folder}: no record of its shards has a 'class': give --benchmark blue-marble, or shards with classes"
        )

    def label_of(record: dict) -> int | None:
        if not by_sea:
            return words.index(str(record["class"])) if str(record.get("class")) in words else None
        sea = (record.get("measurements") or {}).get("sea_share")
        return None if not isinstance(sea, int | float) else 0 if sea >= 2 / 3 else 1 if sea > 0 else 2

    def items(streams: list[Iterator[shards.Sample]]) -> Iterator[tuple[str, bytes, int]]:
        for sample in itertools.chain.from_iterable(streams):
            if (label := label_of(sample.record)) is None:
                asked.skipped["no class"] += 1
            else:
                yield sample.key, sample.image, label

    return [catalogue.words_of(word) for word in words], items(
        [shards.stream(folder, split, skipped=asked.skipped) for split in splits]
    )


def _labelled_table(
    asked: _Asked, path: Path, rows: list[tuple[str, str]]
) -> tuple[list[str], Iterator[tuple[str, bytes, int]]]:
    own = asked.folder / "classnames.txt"
    if "class_list" in asked.entry and not own.is_file():
        labels, words = catalogue.class_list(asked.entry["class_list"])
    else:
        lines = (
            own.read_text(encoding="utf-8").splitlines()
            if own.is_file()
            else sorted({catalogue.words_of(label) for _, label in rows})
        )
        words = [line.strip() for line in lines if line.strip()]
        labels = {catalogue.key_of(word): label for label, word in enumerate(words)}
    if all(label.isdigit() for _, label in rows):
        labels = {str(label): label for label in range(len(words))}
    found = {file: labels.get(catalogue.key_of(label), -1) for file, label in rows}
    if unknown := sorted({label for _, label in rows if catalogue.key_of(label) not in labels}):
        raise DataError(
            f"{path} has {len(unknown)} labels that are no class of {asked.title}, the first is {unknown[0]!r}: mend the table"
        )
    place = _locate(asked, path, [file for file, _ in rows])
    return list(words), _read_items(asked, ((file, place(file), label) for file, label in found.items()))


def _class_folders(asked: _Asked) -> tuple[list[str], Iterator[tuple[str, bytes, int]]]:
    title, entry, split = asked.title, asked.entry, asked.split or "all"
    base, wanted = _split_of(asked)
    labels, words = catalogue.class_list(entry["class_list"]) if "class_list" in entry else _own_classes(asked.folder)
    images: Counter[int] = Counter()
    unknown, seen = Counter(), Counter()
    for place, label, files in _walk(asked, base, labels, wanted):
        if label is None:
            unknown[place.relative_to(base).as_posix()] += len(files)
            continue
        images[label] += len(files)
        if wanted is not None:
            seen.update(_listed(place.name, file, wanted) for file in files)
    loose = unknown.pop(".", 0)
    if not images and len(unknown) < 2:
        raise _layout_error(asked)
    if unknown:
        shown = ", ".join(f"'{place}' ({n} images)" for place, n in sorted(unknown.items())[:5])
        raise DataError(
            f"{base} has {len(unknown)} folders of images that are no class of {title}: {shown}; rename or remove them"
        )
    if twice := [file for file, n in seen.items() if n > 1]:
        raise DataError(f"{base}: '{twice[0]}' and {len(twice) - 1} other names of the file list are in more than one folder")
    if wanted and (lacking := sorted(wanted - set(seen))):
        logger.warning(
            "%s: %d files of the list of split '%s' are missing, the first is %s", base, len(lacking), split, lacking[0]
        )
    if loose:
        asked.skipped["outside the class folders"] += loose
    if empty := [words[label] for label in range(len(words)) if not images[label]]:
        logger.warning("%s: no image of %d classes of %s: %s", base, len(empty), title, ", ".join(empty[:10]))
    counts = {"classes": len(images), "images": images.total()}
    _compare(asked, f"{base}, split '{split}',", counts, {"classes": len(words)})
    items = (
        ((place / file).relative_to(base).as_posix(), place / file, label)
        for place, label, files in _walk(asked, base, labels, wanted)
        if label is not None
        for file in files
    )
    return list(words), _read_items(asked, items)


def _own_classes(base: Path) -> tuple[dict[str, int], list[str]]:
    """Every folder is a class, where no list says which there are; a single folder around them is passed through."""

    def below(folder: Path) -> list[str]:
        return sorted(
            c.name for c in folder.iterdir() if c.is_dir() and not c.is_symlink() and not c.name.startswith((".", "__"))
        )

    children = below(base)
    while len(children) == 1 and below(base / children[0]):
        base, children = base / children[0], below(base / children[0])
    if children and set(children) <= set(itertools.chain(*_SPLITS.values())):
        children = sorted({child for split in children for child in below(base / split)})
    return {catalogue.key_of(child): label for label, child in enumerate(children)}, [
        catalogue.words_of(child) for child in children
    ]


def _walk(
    asked: _Asked, base: Path, labels: dict[str, int], wanted: set[str] | None, label: int | None = None
) -> Iterator[tuple[Path, int | None, list[str]]]:
    """Folders with images, the label of each (of the innermost folder that is a class), and their image files, in order."""
    files, children, left_out = [], [], tuple(asked.entry.get("left_out", ()))
    with os.scandir(base) as there:
        for child in there:
            if child.name.startswith((".", "__")):
                continue
            if child.is_dir():
                if child.is_symlink():  # one that leads elsewhere inside would show the same images again, or never end
                    _check_inside(base / child.name, asked.folder)
                elif len(base.parts) - len(asked.folder.parts) < MAX_DEPTH:
                    children.append(child.name)
            elif child.name.lower().endswith(_IMAGES) and not child.name.rpartition(".")[0].endswith(left_out):
                files.append(child.name)
    if wanted is not None:
        files = [file for file in files if _listed(base.name, file, wanted)]
    if files:
        yield base, label, sorted(files)
    found = Counter(labels[catalogue.key_of(child)] for child in children if catalogue.key_of(child) in labels)
    for child in sorted(children):
        own = labels.get(catalogue.key_of(child))
        if own is not None and found[own] > 1:
            raise DataError(f"{base} has more than one folder of the class of '{child}': put their images into one")
        yield from _walk(asked, base / child, labels, wanted, label if own is None else own)


def _listed(parent: str, file: str, wanted: set[str]) -> str | None:
    stem = file.rpartition(".")[0]
    return next((form for form in (f"{catalogue.key_of(parent)}/{stem}", stem) if form in wanted), None)


def _split_of(asked: _Asked) -> tuple[Path, set[str] | None]:
    """The folder of a split and all its images; or the benchmark's folder and the names that a file list gives the split."""
    folder, title, entry, split = asked.folder, asked.title, asked.entry, asked.split
    if split is None:
        return folder, None
    aliases = _SPLITS.get(split, (split,))
    around = [folder, *sorted(child for child in folder.iterdir() if child.is_dir())]
    if place := next((place / alias for place in around for alias in aliases if (place / alias).is_dir()), None):
        _check_inside(place, folder)
        return place, None
    lists = [
        path
        for place in around
        for path in sorted(place.glob("*.txt"))
        if set(re.split(r"[^a-z0-9]+", path.stem.casefold())) & set(aliases)
    ]
    if len(lists) != 1:
        fit = (
            f"several file lists fit: {', '.join(path.name for path in lists)}"
            if lists
            else "no folder and no file list is its"
        )
        official = ", ".join(entry.get("splits", {})) or "none"
        raise DataError(
            f"{folder} has no split '{split}': {fit}; official splits of {title}: {official}; 'all' is every image"
        )
    data = lists[0].read_bytes()
    known, digest = entry.get("hashes", {}).get(lists[0].name), hashlib.md5(data, usedforsecurity=False).hexdigest()
    if known not in (None, digest):
        logger.warning("%s has the MD5 %s, expected %s: it is another list than the usual one", lists[0], digest, known)
    lines = [line.strip() for line in data.decode("utf-8", errors="replace").splitlines() if line.strip()]
    ends = re.compile(rf".*?({'|'.join(map(re.escape, _IMAGES))})(?=[\s,]|$)", re.IGNORECASE)  # a label may follow the name
    names = [match[0] if (match := ends.match(line)) else line for line in lines]
    forms = [re.sub(r"\.[^./]*$", "", file).replace("\\", "/").split("/") for file in names]
    stems = [form[-1] if len(form) == 1 else f"{catalogue.key_of(form[-2])}/{form[-1]}" for form in forms]
    if twice := [stem for stem, n in Counter(stems).items() if n > 1]:
        raise DataError(
            f"{lists[0]} names {len(twice)} files more than once, the first is '{twice[0]}': keep one line of each"
        )
    return folder, set(stems)
