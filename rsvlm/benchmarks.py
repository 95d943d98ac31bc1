"""Evaluation sets in the formats people have on disk, behind one schema: an iterator of `shards.Sample`.

| on disk | recognised by |
|---|---|
| shards of this package, or any WebDataset with captions | `*.tar` in the folder or in `<split>/` |
| Karpathy JSON (RSICD, RSITMD, UCM-Captions, Sydney) | one `*.json` with an `images` list, images in a folder beside it |
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rsvlm import shards
from rsvlm.errors import DataError

logger = logging.getLogger(__name__)


def samples(folder: Path | str, split: str, *, skipped: Counter | None = None) -> Iterator[shards.Sample]:
    """Yield the images and captions of one split, in stored order.

    Args:
        folder: A shard folder or a benchmark folder.
        split: Name of the split in that folder.
        skipped: Counts the samples left out, by reason.

    Raises:
        DataError: The folder is of no known layout (it says what was expected), or it has no such split.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: --data takes a folder of shards or a benchmark as its authors pack it")
    if next(folder.glob("*.tar"), None) or next(folder.glob("*/*.tar"), None):
        return shards.stream(folder, split, skipped=skipped)
    for path in sorted(folder.glob("*.json")):
        table = _read_json(path)
        if isinstance(table, dict) and isinstance(table.get("images"), list):
            return _karpathy(path, table["images"], split, Counter() if skipped is None else skipped)
    raise DataError(
        f"{folder} is no known layout: expected *.tar shards (in it or in {split}/), or one Karpathy JSON file "
        "{'images': [{'filename', 'split', 'sentences': [{'raw'}]}]} beside its image folder"
    )


def name(folder: Path | str) -> str:
    """Return the data set's name: what its own files say, else the folder's name."""
    folder = Path(folder)
    if (folder / "manifest.json").is_file():
        return str(_read_json(folder / "manifest.json").get("name", folder.name))
    for path in sorted(folder.glob("dataset_*.json")):
        return path.stem.removeprefix("dataset_")
    return folder.name


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


def _read_json(path: Path):
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}): fetch it again") from None


def _karpathy(path: Path, rows: list[dict], split: str, skipped: Counter) -> Iterator[shards.Sample]:
    splits = Counter(str(row.get("split")) for row in rows)
    if split not in splits:
        raise DataError(f"{path} has no split '{split}': it has {dict(splits)}")
    folders = [path.parent, *sorted(child for child in path.parent.iterdir() if child.is_dir())]
    first = str(next(row for row in rows if row.get("split") == split)["filename"])
    home = next((folder for folder in folders if (folder / first).is_file()), None)
    if home is None:
        raise DataError(
            f"{first}, the first image of split '{split}' in {path}, is neither beside it nor in a folder beside it"
        )
    return _karpathy_samples(home, [row for row in rows if row.get("split") == split], skipped)


def _karpathy_samples(home: Path, rows: list[dict], skipped: Counter) -> Iterator[shards.Sample]:
    for position, row in enumerate(rows):
        captions = [caption for s in row.get("sentences", []) if (caption := str(s.get("raw", "")).strip())]
        file = home / str(row["filename"])
        if not captions or not file.is_file():
            reason = "no image file" if captions else "no caption"
            skipped[reason] += 1
            if skipped[reason] == 1:
                logger.warning("%s: %s; such samples are skipped and counted", file, reason)
            continue
        record = {"key": str(row["filename"]), "split": row["split"]}
        yield shards.Sample(key=record["key"], image=file.read_bytes(), captions=captions, record=record, position=position)
