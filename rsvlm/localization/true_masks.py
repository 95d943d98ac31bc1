"""Pictures with true masks as people have them on disk, behind one iterator: `read`.

| benchmark | on disk |
|---|---|
| `coco` | `instances.json` (any one JSON of that form) beside `images/`: polygons, or run lengths, compressed or not |
| `masks` | `images/KEY.ext` and `masks/CLASS/KEY.png`, not 0 is inside; or `masks/KEY.png` of class numbers, and `classes.json` |
| `polygons` | `labels.geojson` (or another map) beside GeoTIFFs or XYZ tiles; or folders of that |

Benchmarks that are kept in another way, as the demo's, come in as a `Benchmark`. A mask of another size than its picture is
resampled to it (nearest, and counted) where both have the same proportions within 1 %; otherwise the picture is left out and counted:
it was turned or cut since. Names in files are data: one that leads out of the folder stops everything.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from rsvlm.data.imagery import sources as imagery
from rsvlm.data.maps import files as map_files
from rsvlm.errors import DataError, MissingExtraError
from rsvlm.localization import pixels as kernels
from rsvlm.model import images

logger = logging.getLogger(__name__)

BENCHMARKS = ("coco", "masks", "polygons")

MAX_BYTES = 512 * 2**20
"""Largest file that is read, in bytes."""

_PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
_PROPORTION = 0.01
_NO_NAME = ("", "background", "_background_", "__background__", "void", "ignore", "unlabeled", "unlabelled")


@dataclass(frozen=True)
class Item:
    """A picture and what is where in it.

    Attributes:
        key: Its name in the data set.
        image: Encoded bytes, for `images.decode`.
        masks: Class → (H, W) bool of the picture's size; a class that is nowhere in it is left out.
        record: `boxes`, where the data tell single things: class → (n, 4) float left, top, right, bottom in pixels; and what else
            is known: `file`, `footprint_lonlat`.
    """

    key: str
    image: bytes
    masks: dict[str, np.ndarray]
    record: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """Pictures with masks that are kept in a way of their own.

    Attributes:
        classes: Classes that the masks may have.
        split: Name of the split that is read.
        read: Function of the folder, the split, a count `skipped` of what is left out, and a `limit` to the pictures or None; it
            yields the arguments of `Item`.
    """

    classes: Sequence[str]
    split: str
    read: Callable[..., Iterable[tuple]]


def read(
    root: Path | str,
    benchmark: str = "coco",
    *,
    skipped: Counter | None = None,
    limit: int | None = None,
    half: str | None = None,
    label: str = "building",
    size_px: int = 256,
    others: Mapping[str, Benchmark] | None = None,
) -> Iterator[Item]:
    """Yield pictures with their masks, in an order that does not depend on the file system; pictures without a mask too.

    Args:
        root: The folder.
        benchmark: One of `BENCHMARKS` or of `others`.
        skipped: Counts, by reason, the pictures and masks left out, and those resampled.
        limit: So many pictures, spread evenly over all of them; none: all.
        half: `a` or `b`: only the pictures of this half, as `half_of` splits them, so that settings are chosen on one and scores are of
            the other; none: all.
        label: Of `polygons`: the class of shapes without a property `class`.
        size_px: Of `polygons`: side of the chips that pictures are cut into.
        others: Further benchmarks by name.

    Raises:
        DataError: The folder, or the file that describes it, is missing, broken or of another form.
        MissingExtraError: `polygons` needs the packages of [data].
    """
    root, skipped, others = _folder(root), Counter() if skipped is None else skipped, others or {}
    if benchmark not in (*BENCHMARKS, *others):
        raise _unknown(benchmark, others)
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit}: give the number of pictures, 1 or more")
    if half not in (None, "a", "b"):
        raise DataError(f"half '{half}': choose a or b, or none for all pictures")
    if benchmark == "coco":
        return _coco(root, _instances(root), skipped, limit, half)
    if benchmark == "masks":
        return _mask_folder(root, _layout(root), skipped, limit, half)
    if benchmark == "polygons":
        return _polygons(root, _maps(root), skipped, limit, half, label, size_px)
    other = others[benchmark]
    items = (Item(*parts) for parts in other.read(root, other.split, skipped=skipped, limit=limit))
    return (item for item in items if half in (None, half_of(item.key)))


def classes(
    root: Path | str,
    benchmark: str = "coco",
    *,
    label: str = "building",
    others: Mapping[str, Benchmark] | None = None,
) -> list[str]:
    """Return the classes that the masks may have, in the words a text tower reads (`storage_tank` is `storage tank`).

    Args:
        root: As for `read`.
        benchmark: As for `read`.
        label: As for `read`.
        others: As for `read`.

    Raises:
        DataError: As `read`.
    """
    root = _folder(root)
    if benchmark == "coco":
        return list(dict.fromkeys(_instances(root)["names"].values()))
    if benchmark == "masks":
        return list(dict.fromkeys(_layout(root)["names"].values()))
    if benchmark == "polygons":
        found = {_class_of(raw, label) for _, path in _maps(root) for raw in _shapes(path, Counter())}
        return sorted(found)
    if benchmark in (others or {}):
        return list(others[benchmark].classes)
    raise _unknown(benchmark, others or {})


def _unknown(benchmark: str, others: Mapping[str, Benchmark]) -> DataError:
    return DataError(f"unknown kind of masks '{benchmark}': choose one of {', '.join([*BENCHMARKS, *others])}")


def decode_counts(text: str | bytes) -> np.ndarray:
    """Decode COCO's compressed run lengths: numbers of 5 bits a character, from the third on differences to the one before last.

    Returns:
        (n,) int64 run lengths.

    Raises:
        DataError: A character that none has, or a number that is cut off or too long.

    Source: the format of the COCO API's masks (maskApi, rleFrString), written anew.
    """
    data = np.frombuffer(text.encode("latin-1", "replace") if isinstance(text, str) else bytes(text), np.uint8)
    digits = data.astype(np.int64) - 48
    if (digits < 0).any() or (digits > 63).any() or (len(digits) and digits[-1] & 32):
        raise DataError(f"run lengths {str(text)[:40]!r} are no compressed COCO mask")
    ends = np.flatnonzero((digits & 32) == 0)
    starts = np.concatenate([[0], ends + 1])[:-1]
    place = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    if place.max(initial=0) > 9:
        raise DataError(f"run lengths {str(text)[:40]!r} hold a number of more than 50 bits")
    numbers = np.add.reduceat((digits & 31) << (5 * place), starts) if len(ends) else np.zeros(0, np.int64)
    numbers -= np.where(digits[ends] & 16, np.int64(1) << (5 * (place[ends] + 1)), 0)
    for first in (1, 2):  # every second one, from the third on, is a difference
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def run_lengths(counts: Sequence[int] | np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the mask of run lengths: outside and inside in turn, down the columns.

    Returns:
        (height, width) bool.

    Raises:
        DataError: Counts that are negative or do not add up to the size.
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 0).any() or counts.astype(float).sum() != height * width:
        raise DataError(f"run lengths do not add up to {width} x {height} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


# What is on disk


def _folder(root: Path | str) -> Path:
    if not Path(root).is_dir():
        raise DataError(f"{root} is not a folder: give the one that holds the pictures and their masks")
    return Path(root)


def _json(path: Path):
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES:,} bytes: split it")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): is the file complete?") from None


def _words(name: object) -> str:
    return re.sub(r"[_\s]+", " ", str(name)).strip()


def half_of(key: str) -> str:
    """Return `a` or `b`, by a hash of a picture's name alone."""
    return "ab"[hashlib.sha256(key.encode()).digest()[-1] % 2]


def _chosen(keys: Sequence[str], limit: int | None, half: str | None = None) -> list[int]:
    """Numbers of the pictures of a half, and of these so many, spread evenly."""
    found = [n for n, key in enumerate(keys) if half in (None, half_of(key))]
    if limit is None or limit >= len(found):
        return found
    return [found[n] for n in np.linspace(0, len(found) - 1, limit).round().astype(int)]


def _inside(root: Path, place: Path, file: str, table: Path) -> Path:
    """Where a file lies that a table names; a name or link that leads out of the folder stops everything."""
    path = place / file
    if "\0" in file or not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{table} names {file!r}, which is not inside its folder: such a table is not read")
    return path


def _pixels(path: Path, skipped: Counter) -> tuple[bytes, tuple[int, int]] | None:
    """A picture's bytes, and its height and width once it is upright; none, and counted, where it cannot be used."""
    try:
        if path.stat().st_size > MAX_BYTES:
            skipped["picture too large"] += 1
            return None
        data = path.read_bytes()
        return data, images.decode(data).shape[:2]
    except OSError:
        skipped["picture missing"] += 1
    except DataError as error:
        logger.warning("%s: %s", path.name, error)
        skipped["picture broken"] += 1
    return None


def _same_shape(one: Sequence[int], other: Sequence[int]) -> bool:
    return abs(one[0] * other[1] - other[0] * one[1]) <= _PROPORTION * one[0] * other[1]


def _resized(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    rows, columns = ((np.arange(n) * m) // n for n, m in zip(size, mask.shape[:2], strict=True))
    return mask[rows[:, None], columns]


# COCO


def _instances(root: Path) -> dict:
    """The table of a COCO folder: its path, `names` of categories, pictures in order, and annotations by picture."""
    for path in sorted(root.glob("*.json"), key=lambda p: (p.name != "instances.json", p.name)):
        table = _json(path)
        if isinstance(table, dict) and all(isinstance(table.get(k), list) for k in ("images", "annotations", "categories")):
            break
    else:
        raise DataError(f"{root} has no JSON file with lists of images, annotations and categories: expected a COCO data set")
    try:
        names = {one["id"]: _words(one["name"]) for one in table["categories"]}
        rows = sorted(table["images"], key=lambda one: str(one["file_name"]))
        for row in rows:
            if not (isinstance(row["file_name"], str) and 0 < row["height"] < 1e6 and 0 < row["width"] < 1e6):
                raise DataError(f"{path}: picture {row} has no file_name, height or width")
        by_picture: dict = {row["id"]: [] for row in rows}
        strange = 0
        for one in table["annotations"]:
            if one["image_id"] in by_picture and one["category_id"] in names:
                by_picture[one["image_id"]].append(one)
            else:
                strange += 1
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is no COCO table: {type(error).__name__} {error} where one was expected") from None
    if len(by_picture) < len(rows) or len({row["file_name"] for row in rows}) < len(rows) or not names:
        raise DataError(f"{path}: {len(rows)} pictures with {len(by_picture)} ids, {len(names)} categories: keep one of each")
    if strange:
        logger.warning("%s: %d annotations are of no picture or no category of the table", path, strange)
    return {"path": path, "names": names, "rows": rows, "annotations": by_picture, "strange": strange}


def _coco(root: Path, table: dict, skipped: Counter, limit: int | None, half: str | None) -> Iterator[Item]:
    place = root / "images" if (root / "images").is_dir() else root
    files = [_inside(root, place, row["file_name"], table["path"]) for row in table["rows"]]
    if table["strange"]:
        skipped["annotation of no picture or category"] += table["strange"]
    keys = [Path(row["file_name"]).with_suffix("").as_posix() for row in table["rows"]]
    for number in _chosen(keys, limit, half):
        row = table["rows"][number]
        if (got := _pixels(files[number], skipped)) is None:
            continue
        data, size = got
        said = (int(row["height"]), int(row["width"]))
        if said != size:
            if not _same_shape(said, size):
                skipped["picture of another shape than its masks"] += 1
                continue
            skipped["mask resampled to its picture"] += 1
        found, boxes = {}, {}
        for one in table["annotations"][row["id"]]:
            try:
                mask = _segmentation(one.get("segmentation"), said, size)
            except (DataError, ValueError, TypeError, KeyError, OverflowError) as error:
                logger.info("%s, annotation %s: %s", row["file_name"], one.get("id"), error)
                skipped["mask broken"] += 1
                continue
            name = table["names"][one["category_id"]]
            if not mask.any():
                skipped["mask without a pixel"] += 1
                continue
            _add(found, name, mask)
            if not one.get("iscrowd"):  # a crowd is an area, not a thing
                boxes.setdefault(name, []).append(_box(mask))
        boxes = {name: np.array(rows, float) for name, rows in boxes.items()}
        yield Item(keys[number], data, found, {"file": row["file_name"], "boxes": boxes})


def _segmentation(what: object, said: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The mask of an annotation, in the picture's own size."""
    if isinstance(what, dict):
        if [int(n) for n in what["size"]] != list(said):
            raise DataError(f"run lengths of a mask of {what['size']}, picture of {list(said)}")
        counts = what["counts"]
        counts = decode_counts(counts) if isinstance(counts, (str, bytes)) else np.array(counts or [], np.int64)
        return _resized(run_lengths(counts, *said), size)
    if not isinstance(what, list) or not what:
        raise DataError("an annotation without a segmentation")
    mask, scale = np.zeros(size, bool), np.array([size[1] / said[1], size[0] / said[0]])
    for ring in what:
        points = np.array(ring, np.float64).reshape(-1, 2)
        if len(points) < 3 or not np.isfinite(points).all():
            raise DataError("a polygon of fewer than three points, or with numbers that are not finite")
        kernels.fill_rings(points * scale, np.array([0, len(points)]), mask)
    return mask


def _add(found: dict[str, np.ndarray], name: str, mask: np.ndarray) -> None:
    found[name] = found[name] | mask if name in found else mask


def _box(mask: np.ndarray) -> list[int]:
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


# Folders of masks


def _layout(root: Path) -> dict:
    """Pictures by key, and `names`: of a class folder, or of a number in index pictures (`numbers`)."""
    pictures, masks = root / "images", root / "masks"
    if not pictures.is_dir() or not masks.is_dir():
        raise DataError(
            f"{root} has no folders images/ and masks/: expected masks/CLASS/KEY.png, or masks/KEY.png and classes.json"
        )
    files: dict[str, Path] = {}
    for path in sorted(path for path in pictures.iterdir() if path.suffix.lower() in _PICTURES):
        if path.stem in files:
            raise DataError(f"{pictures} has two pictures '{path.stem}': which of them the mask is of cannot be told")
        files[path.stem] = path
    if not files:
        raise DataError(f"{pictures} holds no picture ({', '.join(_PICTURES)})")
    for path in (root / "classes.json", masks / "classes.json"):
        if path.is_file():
            return {"files": files, "names": _numbers(path), "numbers": True}
    folders = {path.name: _words(path.name) for path in sorted(masks.iterdir()) if path.is_dir()}
    if not folders:
        raise DataError(
            f"{masks} has no folder of a class, and {root} no classes.json that names the numbers of index pictures"
        )
    return {"files": files, "names": folders, "numbers": False}


def _numbers(path: Path) -> dict[int, str]:
    """Class by number: a list (0 first), {number: name}, or {name: number}; background and void are no classes."""
    table = _json(path)
    try:
        if isinstance(table, list):
            table = dict(enumerate(table))
        elif not all(isinstance(name, str) for name in table.values()):
            table = {number: name for name, number in table.items()}
        found = {int(number): _words(name) for number, name in table.items()}
    except (ValueError, TypeError, AttributeError):
        raise DataError(f"{path}: expected a list of names, {{number: name}} or {{name: number}}") from None
    found = {number: name for number, name in found.items() if name.casefold() not in _NO_NAME}
    if not found or not all(0 <= number < 65536 for number in found):
        raise DataError(f"{path} names no class, or one whose number is not within 0 and 65535")
    return found


def _mask_folder(root: Path, layout: dict, skipped: Counter, limit: int | None, half: str | None) -> Iterator[Item]:
    keys, names = list(layout["files"]), layout["names"]
    for number in _chosen(keys, limit, half):
        key, file = keys[number], layout["files"][keys[number]].name
        if (got := _pixels(_inside(root, root / "images", file, root / "images"), skipped)) is None:
            continue
        data, size = got
        try:
            if layout["numbers"]:
                index = _mask_picture(root, key, size, skipped)
                if index is None or index.ndim == 3:
                    raise DataError("mask missing" if index is None else "mask in colours, not in class numbers")
                parts = [(name, index == value) for value, name in names.items()]
            else:
                there = [(name, _mask_picture(root, f"{folder}/{key}", size, skipped)) for folder, name in names.items()]
                # in colours, whatever is not black is inside; transparency does not count
                parts = [(name, _black_or_not(index)) for name, index in there if index is not None]
        except DataError as error:
            skipped[str(error)] += 1
            continue
        found: dict[str, np.ndarray] = {}
        for name, mask in parts:
            if mask.any():
                _add(found, name, mask)
        yield Item(key, data, found, {"file": file})


def _black_or_not(index: np.ndarray) -> np.ndarray:
    return index > 0 if index.ndim == 2 else (index[..., : 1 if index.shape[2] == 2 else 3] > 0).any(2)


def _mask_picture(root: Path, name: str, size: tuple[int, int], skipped: Counter) -> np.ndarray | None:
    """Numbers of a mask picture, (H, W) or (H, W, channels); none: there is no such file. The reason why not as a DataError."""
    path = next((path for kind in (".png", ".tif", ".tiff") if (path := root / "masks" / f"{name}{kind}").is_file()), None)
    if path is None:
        return None
    _inside(root, path.parent, path.name, path.parent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(path.read_bytes()), formats=("PNG", "TIFF")) as image:
                if image.width * image.height > images.MAX_PIXELS:
                    raise DataError("too large")
                index = np.asarray(image)
    except Exception as error:  # as in images.decode: parsers raise many kinds of errors
        logger.warning("%s: %s", path, error)
        raise DataError("mask broken") from None
    if index.shape[:2] == tuple(size):
        return index
    if not _same_shape(index.shape, size):
        raise DataError("mask of another shape than its picture")
    skipped["mask resampled to its picture"] += 1
    return _resized(index, size)


# Polygons on a map


def _maps(root: Path) -> list[tuple[Path, Path]]:
    """Folders of imagery, each with its map."""
    found = []
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        files = sorted(
            path for path in folder.iterdir() if path.suffix.lower() in (".geojson", ".gpkg", ".shp", ".fgb", ".parquet")
        )
        files.sort(key=lambda path: path.stem != "labels")
        if files:
            found.append((folder, files[0]))
    if not found:
        raise DataError(f"{root} has no labels.geojson (or .gpkg, .shp, .fgb, .parquet), and no folder in it has")
    return found


def _shapes(path: Path, skipped: Counter) -> Iterator[map_files.Raw]:
    try:
        reader, _ = map_files.file_reader(path, None, {})
        yield from (raw for raw in reader(skipped) if raw.geometry is not None)
    except ImportError as error:
        raise MissingExtraError(f'the package {error.name} is not installed: pip install "rsvlm[data]"') from None


def _class_of(raw: map_files.Raw, label: str) -> str:
    return _words(raw.tags.get("class") or label)


def _polygons(
    root: Path,
    folders: list[tuple[Path, Path]],
    skipped: Counter,
    limit: int | None,
    half: str | None,
    label: str,
    size_px: int,
) -> Iterator[Item]:
    from rsvlm import config

    options = config.Chips(size_px=size_px, min_valid_share=0.5)
    laid = []
    for folder, path in folders:
        sources = imagery.open_imagery(str(folder), options)
        chips, _ = imagery.lay_out(sources, options)
        shapes = list(_shapes(path, skipped))
        laid += [(folder, source, chips[chips["source"] == source.name], shapes) for source in sources]
    kept = set(_chosen([key for folder, _, chips, _ in laid for key in _chip_keys(root, folder, chips)], limit, half))
    first = 0
    for folder, source, chips, shapes in laid:
        wanted = [row for row in range(len(chips)) if first + row in kept]
        first += len(chips)
        if not wanted:
            continue
        chips = chips.iloc[wanted]
        draw, named = _drawing(source, shapes, label), _chip_keys(root, folder, chips)
        for key, row, (pixels, reason) in zip(named, chips.to_dict("records"), imagery.read(source, chips), strict=True):
            if pixels is None:
                skipped[f"picture: {reason}"] += 1
                continue
            found, boxes = draw(row)
            where = {"footprint_lonlat": [row[side] for side in ("west", "south", "east", "north")], "boxes": boxes}
            yield Item(key, images.encode_png(pixels, compress_level=1), found, where)


def _chip_keys(root: Path, folder: Path, chips: pd.DataFrame) -> list[str]:
    return [key if folder == root else f"{folder.name}/{key}" for key in chips["key"]]


def _drawing(source: imagery.Source, shapes: list[map_files.Raw], label: str) -> Callable[[dict], tuple[dict, dict]]:
    """Bring shapes into the pixels of a source; return the function from a chip to its masks and boxes by class."""
    import pyproj
    import shapely

    to_grid = pyproj.Transformer.from_crs("EPSG:4326", source.crs, always_xy=True)
    x0, pixel_width, y0, pixel_height = source.transform

    def to_pixels(points: np.ndarray) -> np.ndarray:
        x, y = to_grid.transform(points[:, 0], points[:, 1])
        return np.column_stack([(np.asarray(x) - x0) / pixel_width, (y0 - np.asarray(y)) / pixel_height])

    names = [_class_of(raw, label) for raw in shapes]
    parts, owner = shapely.get_parts(np.array([raw.geometry for raw in shapes], object), return_index=True)
    area = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    parts, owner = shapely.transform(parts[area], to_pixels), owner[area]
    usable = np.isfinite(shapely.bounds(parts)).all(1)
    parts, owner = parts[usable], owner[usable]
    tree = shapely.STRtree(parts)

    def draw(chip: dict) -> tuple[dict, dict]:
        left, top, width, height, size = (chip[k] for k in ("left_px", "top_px", "width_px", "height_px", "size_px"))
        found: dict[str, np.ndarray] = {}
        boxes: dict[str, list] = {}
        near = np.sort(tree.query(shapely.box(left, top, left + width, top + height)))
        for one in np.unique(owner[near]):
            mask = np.zeros((size, size), bool)
            for part in parts[near[owner[near] == one]]:
                rings = shapely.get_rings(part)
                points, ring = shapely.get_coordinates(rings, return_index=True)
                points = (points - [left, top]) * [size / width, size / height]
                kernels.fill_rings(points, np.searchsorted(ring, np.arange(len(rings) + 1)), mask)
            if mask.any():
                _add(found, names[one], mask)
                boxes.setdefault(names[one], []).append(_box(mask))
        return found, {name: np.array(rows, float) for name, rows in boxes.items()}

    return draw
