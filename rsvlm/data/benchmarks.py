"""Evaluation sets as people have them on disk, behind two iterators: `samples` for retrieval, `labelled` for classification.

| on disk | recognised by |
|---|---|
| shards of this package, or any WebDataset with captions | `*.tar` in the folder or in `<split>/` |
| Karpathy JSON (RSICD, RSITMD, UCM-Captions, Sydney-Captions) | a `*.json` with an `images` list, images in a folder beside it |
| COCO captions | a `*.json` with `images` and, in `annotations`, their captions; its name tells the split |
| NWPU-Captions | a `*.json` {class: [images]}, images in folders of classes |
| tables (RS5M, SkyScript) | `*.csv` or `*.tsv` with a column of images and one of captions or labels |
| folders of classes | every image below a folder that is in the class list |

What is on disk (`tables`, `layouts`) is compared with what `catalogue` knows of a benchmark before the first image is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rsvlm.data import catalogue, layouts, reading, shards, tables
from rsvlm.data.layouts import Request
from rsvlm.errors import DataError
from rsvlm.records import text

logger = logging.getLogger(__name__)

Labelled = tuple[list[str], Iterator[tuple[str, bytes, int]]]


def samples(
    folder: Path | str, split: str, *, name: str | None = None, partial: bool = False, skipped: Counter | None = None
) -> Iterator[shards.Sample]:
    """Yield the images and captions of one split, in stored order; memory holds the table of captions and one image.

    Captions are as on disk: neither stripped nor capitalised, repetitions kept. Empty ones are left out and their number logged;
    `record` has `key`, `split`, `class` where one is known, and `empty_captions` where some were left out.

    Args:
        folder: A shard folder or a benchmark folder.
        split: Name of the split in that folder.
        name: A benchmark of `catalogue.rows`, whose numbers must then be met. If None, what the folder's own files say, and a
            difference is only logged.
        partial: Whether less than half of what a named benchmark should have is accepted.
        skipped: Counter of the samples left out, by reason.

    Raises:
        DataError: The folder is of no known layout (it says what was expected), has no such split or less than half of it, or its
            table is broken, names a file twice or one outside the folder.
    """
    request = _request(folder, name, "retrieval", split, partial, skipped)
    where = f"{request.folder}, split '{split}',"
    if tables.has_shards(request.folder):
        if name:
            request.compare(where, {"images": shards.count(request.folder, split)})
        return shards.stream(request.folder, split, skipped=request.skipped)
    path, rows = tables.caption_table(request)
    count = sum(len(texts) for _, texts in rows)
    request.compare(where, {"images": len(rows), "captions": count})
    usual = request.entry.get("sketches", {}).get(split)
    if usual and text.likeness(text.sketch(t for _, texts in rows for t in texts if isinstance(t, str)), usual) < text.ALIKE:
        told = where, path.name, request.title
        logger.warning("%s has other captions in %s than %s has: its figures are not those of it", *told)
    if empty := sum(not reading.usable(caption) for _, texts in rows for caption in texts):
        too_long = f"longer than {reading.MAX_CAPTION:,} characters"
        logger.warning("%s %d of %d captions are empty, no text or %s, and left out", where, empty, count, too_long)
    return _stream(request, rows, layouts.locate(request, path, [file for file, _ in rows]))


def labelled(
    folder: Path | str,
    name: str | None = None,
    split: str | None = None,
    *,
    partial: bool = False,
    skipped: Counter | None = None,
) -> Labelled:
    """Return the class names, and the images with their labels, in an order that does not depend on the file system.

    Args:
        folder: A benchmark folder: folders of classes with or without file lists, a table of files and labels, or shards whose
            records have a `class`, or whose `.cls` number the lines of a `classnames.txt` (as in sets for CLIP_benchmark).
        name: A benchmark of `catalogue.rows`, whose classes and numbers must then be met. If None, what the folder is called, else
            every folder of images is a class.
        split: Name of the split. If None or `all`, every image there is. One of which the catalogue knows the list, as
            `skyscript-test`, is read from that table, with the names of classes in the classnames.txt beside it.
        partial: As for `samples`.
        skipped: Counter of the images left out, by reason.

    Returns:
        Words of the C classes as the text tower reads them; and an iterator of key, encoded image and label in 0…C-1.

    Raises:
        DataError: As `samples`; or a folder of images is no class of the benchmark, or there is twice.
    """
    request = _request(folder, name, "classification", None if split == "all" else split, partial, skipped)
    if "scenes_of" in request.entry:
        return _scenes(request)
    if request.list_file:
        tables.check_list(request)
    if tables.has_shards(request.folder):
        return _labelled_shards(request)
    if table := tables.find_table(request, tables.LABEL_COLUMNS):
        return _labelled_table(request, table[0], list(table[1]))
    return _class_folders(request)


def name(folder: Path | str) -> str:
    """Return the data set's name: what its own files say, else the folder's name."""
    folder = Path(folder)
    if (folder / "manifest.json").is_file():
        return str(tables.read_json(folder / "manifest.json").get("name", folder.name))
    for path in reading.visible(folder, "dataset_*.json"):
        return path.stem.removeprefix("dataset_")
    return folder.name


_name_of = name  # where an argument is called so


def fingerprint(folder: Path | str) -> str:
    """Return 16 hex digits that name the content of a data folder: of its shards' hashes, else of all file names and sizes."""
    folder = Path(folder)
    digest = hashlib.sha256()
    if (folder / "manifest.json").is_file():
        digest.update(json.dumps(shards.manifest(folder)["splits"], sort_keys=True).encode())
    else:
        for path in (path for path in reading.visible(folder, "**/*") if path.is_file()):
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _request(folder: Path | str, name: str | None, task: str, split, partial: bool, skipped: Counter | None) -> Request:
    folder, title, entry = Path(folder), Path(folder).name, {}
    if name:
        title, entry = catalogue.find(name, task)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: --data takes a folder of shards or a benchmark as its authors pack it")
    if not name:
        with contextlib.suppress(DataError):
            title, entry = catalogue.find(_name_of(folder), task)
    return Request(folder, title, entry, split, bool(name) and not partial, Counter() if skipped is None else skipped)


# Images with captions


def _stream(request: Request, rows: list[tuple[str, list]], place: Callable[[str], Path]) -> Iterator[shards.Sample]:
    for position, (file, texts) in enumerate(rows):
        captions = [text for text in texts if reading.usable(text)]
        try:
            if not captions:
                raise reading.BrokenSample("no caption", str(place(file)))
            image = layouts.read_image(place(file), request.folder)
        except reading.BrokenSample as problem:
            reading.skip(request.skipped, problem)
            continue
        record: dict = {"key": file, "split": request.split}
        if (scene := catalogue.scene_of(file, request.entry)) is not None:
            record["class"] = scene
        if len(captions) < len(texts):
            record["empty_captions"] = len(texts) - len(captions)
        yield shards.Sample(key=file, image=image, captions=captions, record=record, position=position)


# Images with a class


def _read_items(request: Request, items: Iterable[tuple[str, Path, int]]) -> Iterator[tuple[str, bytes, int]]:
    for key, path, label in items:
        try:
            yield key, layouts.read_image(path, request.folder), label
        except reading.BrokenSample as problem:
            reading.skip(request.skipped, problem)


def _read_table(request: Request, path: Path, rows: list[tuple[str, int]]) -> Iterator[tuple[str, bytes, int]]:
    place = layouts.locate(request, path, [file for file, _ in rows])
    return _read_items(request, ((file, place(file), label) for file, label in rows))


def _scenes(request: Request) -> Labelled:
    source, entry = catalogue.find(request.entry["scenes_of"])
    words = catalogue.class_names(request.title)
    path, rows = tables.caption_table(dataclasses.replace(request, title=source, entry=entry))
    labels = [(file, words.index(scene)) for file, _ in rows if (scene := catalogue.scene_of(file, entry)) in words]
    request.skipped["no scene class"] += len(rows) - len(labels)
    request.compare(f"{path}, split '{request.split or 'all'}',", {"images": len(labels)})
    return words, _read_table(request, path, labels)


def _labelled_shards(request: Request) -> Labelled:
    folder, by_sea = request.folder, request.title == "blue-marble"
    splits = [request.split] if request.split else reading.splits(folder)
    own = folder / "classnames.txt"
    if by_sea:
        words = catalogue.class_names(request.title)
    elif own.is_file():
        words = tables.read_lines(own)
    else:
        files = reading.visible(folder, "*.tar", "*/*.tar")
        records = (record for path in files for record in shards.records(path) if isinstance(record, dict))
        words = sorted({catalogue.words_of(str(record["class"])) for record in records if record.get("class")})
    if not words:
        advice = "give --benchmark blue-marble, other shards, or a classnames.txt with the names of the numbers in .cls"
        raise DataError(f"{folder}: no record of its shards has a 'class': {advice}")
    label_named = _by_name(words)

    def label_of(record: dict) -> int | None:
        if not by_sea:
            number = record.get("cls", -1)
            known = number if 0 <= number < len(words) else None
            return label_named(str(record["class"])) if record.get("class") else known
        sea = (record.get("measurements") or {}).get("sea_share")
        return None if not isinstance(sea, int | float) else 0 if sea >= 2 / 3 else 1 if sea > 0 else 2

    def items(streams: list[Iterator[shards.Sample]]) -> Iterator[tuple[str, bytes, int]]:
        for sample in itertools.chain.from_iterable(streams):
            if (label := label_of(sample.record)) is None:
                request.skipped["no class"] += 1
            else:
                yield sample.key, sample.image, label

    streams = [shards.stream(folder, split, skipped=request.skipped, captioned=False) for split in splits]
    return list(map(catalogue.words_of, words)), items(streams)


def _labelled_table(request: Request, path: Path, rows: list[tuple[str, str]]) -> Labelled:
    own = request.folder / "classnames.txt"
    if request.list_file:
        request.compare(f"{path}, split '{request.split}',", {"images": len(rows)})
    if "class_list" in request.entry and not own.is_file():
        known, words = catalogue.class_list(request.entry["class_list"])
        labels = {label: known.get(catalogue.key_of(label)) for _, label in rows}
    else:
        seen_words = sorted({catalogue.words_of(label) for _, label in rows})
        words = tables.read_lines(own) if own.is_file() else seen_words
        label_named = _by_name(words)
        labels = {label: label_named(label) for _, label in rows}
    if (own.is_file() or "class_list" in request.entry) and all(label.isdigit() for label in labels):
        labels = {label: int(label) if int(label) < len(words) else None for label in labels}  # numbers of the classes
    if unknown := sorted(label for label, number in labels.items() if number is None):
        first = f"the first is {unknown[0]!r}"
        raise DataError(f"{path} has {len(unknown)} labels that are no class of {request.title}, {first}: mend the table")
    return list(words), _read_table(request, path, [(file, labels[label]) for file, label in rows])


def _by_name(words: list[str]) -> Callable[[str], int | None]:
    """Return a function from a class's name, as somebody writes it, to its place; None where it is none, or could be several."""
    exact = {catalogue.words_of(word): label for label, word in enumerate(words)}
    times = Counter(map(catalogue.key_of, words))
    loose = {key: label for label, word in enumerate(words) if times[key := catalogue.key_of(word)] == 1}
    return lambda name: exact.get(catalogue.words_of(name), loose.get(catalogue.key_of(name)))


def _class_folders(request: Request) -> Labelled:
    title, entry, split = request.title, request.entry, request.split or "all"
    base, wanted = layouts.split_of(request)
    known = "class_list" in entry
    labels, words = catalogue.class_list(entry["class_list"]) if known else layouts.own_classes(request.folder)

    # Images are counted by class, those of other folders by folder, and those of the file list by name.
    images: Counter[int] = Counter()
    unknown, seen = Counter(), Counter()
    for place, label, files in layouts.walk(request, base, labels, wanted):
        if label is None:
            unknown[place.relative_to(base).as_posix()] += len(files)
            continue
        images[label] += len(files)
        if wanted is not None:
            seen.update(layouts.listed(place.name, file, wanted) for file in files)

    # What is wrong with the folder stops everything; what lacks is logged.
    loose = unknown.pop(".", 0)
    if not images and len(unknown) < 2:
        raise request.layout_error(*tables.unfit_tables(request, tables.LABEL_COLUMNS))
    if unknown:
        shown = ", ".join(f"'{place}' ({n} images)" for place, n in sorted(unknown.items())[:5])
        raise DataError(f"{base} has {len(unknown)} folders of images that are no class of {title}: {shown}; rename or remove")
    if twice := [file for file, n in seen.items() if n > 1]:
        raise DataError(f"{base}: '{twice[0]}' and {len(twice) - 1} other names of the file list are in more than one folder")
    if wanted and (missing := sorted(wanted - set(seen))):
        lacks = base, len(missing), split, missing[0]
        logger.warning("%s: %d files of the list of split '%s' are missing, the first is %s", *lacks)
    if loose:
        request.skipped["outside the class folders"] += loose
    if empty := [words[label] for label in range(len(words)) if not images[label]]:
        logger.warning("%s: no image of %d classes of %s: %s", base, len(empty), title, ", ".join(empty[:10]))
    counts = {"classes": len(images), "images": images.total()}
    request.compare(f"{base}, split '{split}',", counts, {"classes": len(words)})

    items = (
        (reading.printable((place / file).relative_to(base).as_posix()), place / file, label)
        for place, label, files in layouts.walk(request, base, labels, wanted)
        if label is not None
        for file in files
    )
    return list(words), _read_items(request, items)
