"""The three layouts of masks on disk that `true_masks` reads: COCO's table, folders of mask pictures, polygons on a map.

Each is opened by its folder, has `classes`, and yields the arguments of `true_masks.Item` from
`read(choose, skipped)`: `choose` picks numbers of pictures from their names, `skipped` counts by reason what is left out.
"""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from rsvlm.data.imagery import sources as imagery
from rsvlm.data.landmarks import describe
from rsvlm.data.maps import features, files as map_files
from rsvlm.data.maps.taxonomy import taxonomy
from rsvlm.errors import DataError, need
from rsvlm.localization import pixels
from rsvlm.model import images

logger = logging.getLogger(__name__)

MAX_BYTES = 512 * 2**20
"""Largest file that is read, in bytes."""

_PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
_MAPS = (".geojson", ".gpkg", ".shp", ".fgb", ".parquet")
_PROPORTION = 0.01
_NO_NAME = ("", "background", "_background_", "__background__", "void", "ignore", "unlabeled", "unlabelled")

Choose = Callable[[Sequence[str]], list[int]]
Parts = tuple[str, bytes, dict[str, np.ndarray], dict]
Thing = tuple[str, np.ndarray, bool]
"""Its class, its mask, and whether it is a single thing, which has a box."""


class Coco:
    """A table of pictures, categories and annotations."""

    def __init__(self, root: Path):
        for path in sorted(root.glob("*.json"), key=lambda p: (p.name != "instances.json", p.name)):
            table = _json(path)
            if isinstance(table, dict) and all(
                isinstance(table.get(k), list) for k in ("images", "annotations", "categories")
            ):
                break
        else:
            raise DataError(
                f"{root} has no JSON file with lists of images, annotations and categories: expected a COCO data set"
            )
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
            raise DataError(
                f"{path}: {len(rows)} pictures with {len(by_picture)} ids, {len(names)} categories: keep one of each"
            )
        if strange:
            logger.warning("%s: %d annotations are of no picture or no category of the table", path, strange)
        self.root, self.path, self.names, self.rows, self.strange = root, path, names, rows, strange
        self.annotations, self.classes = by_picture, list(dict.fromkeys(names.values()))

    def read(self, choose: Choose, skipped: Counter) -> Iterator[Parts]:
        """Yield pictures by the names of their files."""
        place = self.root / "images" if (self.root / "images").is_dir() else self.root
        files = [_inside(self.root, place, row["file_name"], self.path) for row in self.rows]
        if self.strange:
            skipped["annotation of no picture or category"] += self.strange
        keys = [Path(row["file_name"]).with_suffix("").as_posix() for row in self.rows]
        for number in choose(keys):
            row = self.rows[number]
            if (picture := _picture(files[number], skipped)) is None:
                continue
            data, size = picture
            stated = (int(row["height"]), int(row["width"]))
            if stated != size:
                if not _same_shape(stated, size):
                    skipped["picture of another shape than its masks"] += 1
                    continue
                skipped["mask resampled to its picture"] += 1
            masks, boxes = _joined(self._things(row, stated, size, skipped))
            yield keys[number], data, masks, {"file": row["file_name"], "boxes": boxes}

    def _things(self, row: dict, stated: tuple[int, int], size: tuple[int, int], skipped: Counter) -> Iterator[Thing]:
        for one in self.annotations[row["id"]]:
            try:
                mask = _segmentation(one.get("segmentation"), stated, size)
            except (DataError, ValueError, TypeError, KeyError, OverflowError) as error:
                logger.info("%s, annotation %s: %s", row["file_name"], one.get("id"), error)
                skipped["mask broken"] += 1
                continue
            if not mask.any():
                skipped["mask without a pixel"] += 1
                continue
            yield self.names[one["category_id"]], mask, not one.get("iscrowd")  # a crowd is an area, not a thing


def _segmentation(what: object, stated: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The mask of an annotation, in the picture's own size."""
    if isinstance(what, dict):
        if [int(n) for n in what["size"]] != list(stated):
            raise DataError(f"run lengths of a mask of {what['size']}, picture of {list(stated)}")
        counts = what["counts"]
        counts = decode_counts(counts) if isinstance(counts, (str, bytes)) else np.array(counts or [], np.int64)
        return _resized(run_lengths(counts, *stated), size)
    if not isinstance(what, list) or not what:
        raise DataError("an annotation without a segmentation")
    mask, scale = np.zeros(size, bool), np.array([size[1] / stated[1], size[0] / stated[0]])
    for ring in what:
        points = np.array(ring, np.float64).reshape(-1, 2)
        if len(points) < 3 or not np.isfinite(points).all():
            raise DataError("a polygon of fewer than three points, or with numbers that are not finite")
        pixels.fill_rings(points * scale, np.array([0, len(points)]), mask)
    return mask


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
    """Return the (height, width) bool mask of run lengths: outside and inside in turn, down the columns.

    Raises:
        DataError: Counts that are negative or do not add up to the size.
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 0).any() or counts.astype(float).sum() != height * width:
        raise DataError(f"run lengths do not add up to {width} x {height} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


class Folders:
    """Mask pictures beside pictures: one for each class, in its folder, or one of class numbers."""

    def __init__(self, root: Path):
        pictures, masks = root / "images", root / "masks"
        if not pictures.is_dir() or not masks.is_dir():
            wanted = "masks/CLASS/KEY.png, or masks/KEY.png and classes.json"
            raise DataError(f"{root} has no folders images/ and masks/: expected {wanted}")
        files: dict[str, Path] = {}
        for path in sorted(path for path in pictures.iterdir() if path.suffix.lower() in _PICTURES):
            if path.stem in files:
                raise DataError(f"{pictures} has two pictures '{path.stem}': which of them the mask is of cannot be told")
            files[path.stem] = path
        if not files:
            raise DataError(f"{pictures} holds no picture ({', '.join(_PICTURES)})")
        table = next((path for folder in (root, masks) if (path := folder / "classes.json").is_file()), None)
        folders = [path.name for path in sorted(masks.iterdir()) if path.is_dir()]
        if table is None and not folders:
            raise DataError(
                f"{masks} has no folder of a class, and {root} no classes.json that names the numbers of index pictures"
            )
        self.root, self.files, self.numbered = root, files, table is not None
        self.names = _numbers(table) if self.numbered else {name: _words(name) for name in folders}
        self.classes = list(dict.fromkeys(self.names.values()))

    def read(self, choose: Choose, skipped: Counter) -> Iterator[Parts]:
        """Yield pictures by their names."""
        keys = list(self.files)
        for number in choose(keys):
            key, file = keys[number], self.files[keys[number]].name
            folder = self.root / "images"
            if (picture := _picture(_inside(self.root, folder, file, folder), skipped)) is None:
                continue
            data, size = picture
            try:
                masks = self._numbered(key, size, skipped) if self.numbered else self._of_classes(key, size, skipped)
            except DataError as error:
                skipped[str(error)] += 1
                continue
            yield key, data, _joined((name, mask, False) for name, mask in masks if mask.any())[0], {"file": file}

    def _numbered(self, key: str, size: tuple[int, int], skipped: Counter) -> list[tuple[str, np.ndarray]]:
        index = self._mask(key, size, skipped)
        if index is None or index.ndim == 3:
            raise DataError("mask missing" if index is None else "mask in colours, not in class numbers")
        return [(name, index == value) for value, name in self.names.items()]

    def _of_classes(self, key: str, size: tuple[int, int], skipped: Counter) -> list[tuple[str, np.ndarray]]:
        masks = [(name, self._mask(f"{folder}/{key}", size, skipped)) for folder, name in self.names.items()]
        return [(name, _not_black(mask)) for name, mask in masks if mask is not None]

    def _mask(self, name: str, size: tuple[int, int], skipped: Counter) -> np.ndarray | None:
        """Numbers of a mask picture, (H, W) or (H, W, channels); None where there is no such file. DataError tells why not."""
        paths = [self.root / "masks" / f"{name}{kind}" for kind in (".png", ".tif", ".tiff")]
        if (path := next((path for path in paths if path.is_file()), None)) is None:
            return None
        _inside(self.root, path.parent, path.name, path.parent)
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


def _numbers(path: Path) -> dict[int, str]:
    """Class by number: a list (0 first), {number: name}, or {name: number}; background and void are no classes."""
    table = _json(path)
    try:
        if isinstance(table, list):
            table = dict(enumerate(table))
        elif not all(isinstance(name, str) for name in table.values()):
            table = {number: name for name, number in table.items()}
        names = {int(number): _words(name) for number, name in table.items()}
    except (ValueError, TypeError, AttributeError):
        raise DataError(f"{path}: expected a list of names, {{number: name}} or {{name: number}}") from None
    names = {number: name for number, name in names.items() if name.casefold() not in _NO_NAME}
    if not names or not all(0 <= number < 65536 for number in names):
        raise DataError(f"{path} names no class, or one whose number is not within 0 and 65535")
    return names


def _not_black(index: np.ndarray) -> np.ndarray:
    """What is inside: in colours, whatever is not black; transparency does not count."""
    return index > 0 if index.ndim == 2 else (index[..., : 1 if index.shape[2] == 2 else 3] > 0).any(2)


class Polygons:
    """Maps of shapes beside imagery, which is cut into chips; shapes that do not say what they are are of class `label`."""

    def __init__(self, root: Path, label: str, size_px: int):
        self.root, self.label, self.size_px = root, label, size_px
        self.maps = []  # folders of imagery, each with its map
        for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
            paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _MAPS)
            if paths:
                self.maps.append((folder, min(paths, key=lambda path: path.stem != "labels")))
        if not self.maps:
            raise DataError(f"{root} has no labels.geojson (or .gpkg, .shp, .fgb, .parquet), and no folder in it has")

    @property
    def classes(self) -> list[str]:
        """Classes of all shapes, sorted."""
        return sorted({self._class_of(raw) for _, path in self.maps for raw in _shapes(path, Counter())})

    def read(self, choose: Choose, skipped: Counter) -> Iterator[Parts]:
        """Yield chips, source by source."""
        from rsvlm import config

        options = config.Chips(size_px=self.size_px, min_valid_share=0.5)
        sources = []
        for folder, path in self.maps:
            opened = imagery.open_imagery(str(folder), options)
            chips, _ = imagery.lay_out(opened, options)
            raws = list(_shapes(path, skipped))
            prefix = "" if folder == self.root else f"{folder.name}/"
            sources += [(source, chips[chips["source"] == source.name], prefix, raws) for source in opened]
        chosen = set(choose([prefix + key for _, chips, prefix, _ in sources for key in chips["key"]]))
        first = 0
        for source, chips, prefix, raws in sources:
            rows = [row for row in range(len(chips)) if first + row in chosen]
            first += len(chips)
            if not rows:
                continue
            chips, draw = chips.iloc[rows], self._drawing(source, raws)
            for row, (picture, reason) in zip(chips.to_dict("records"), imagery.read(source, chips), strict=True):
                if picture is None:
                    skipped[f"picture: {reason}"] += 1
                    continue
                masks, boxes = _joined(draw(row))
                where = {"footprint_lonlat": [row[side] for side in ("west", "south", "east", "north")], "boxes": boxes}
                yield prefix + row["key"], images.encode_png(picture, compress_level=1), masks, where

    def _class_of(self, raw: map_files.Raw) -> str:
        return _own_class(raw) or _words(self.label)

    def _drawing(self, source: imagery.Source, raws: list[map_files.Raw]) -> Callable[[dict], Iterator[Thing]]:
        """Bring shapes into the pixels of a source; return the function from a chip to the shapes in it."""
        pyproj, shapely = need("pyproj", "data"), need("shapely", "data")
        to_grid = pyproj.Transformer.from_crs("EPSG:4326", source.crs, always_xy=True)
        x0, pixel_width, y0, pixel_height = source.transform

        def to_pixels(points: np.ndarray) -> np.ndarray:
            x, y = to_grid.transform(points[:, 0], points[:, 1])
            return np.column_stack([(np.asarray(x) - x0) / pixel_width, (y0 - np.asarray(y)) / pixel_height])

        names = [self._class_of(raw) for raw in raws]
        parts, owner = shapely.get_parts(np.array([raw.geometry for raw in raws], object), return_index=True)
        area = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
        parts, owner = shapely.transform(parts[area], to_pixels), owner[area]
        usable = np.isfinite(shapely.bounds(parts)).all(1)
        parts, owner = parts[usable], owner[usable]
        tree = shapely.STRtree(parts)

        def draw(chip: dict) -> Iterator[Thing]:
            left, top, width, height, size = (chip[k] for k in ("left_px", "top_px", "width_px", "height_px", "size_px"))
            near = np.sort(tree.query(shapely.box(left, top, left + width, top + height)))
            for one in np.unique(owner[near]):
                mask = np.zeros((size, size), bool)
                for part in parts[near[owner[near] == one]]:
                    rings = shapely.get_rings(part)
                    points, ring = shapely.get_coordinates(rings, return_index=True)
                    points = (points - [left, top]) * [size / width, size / height]
                    pixels.fill_rings(points, np.searchsorted(ring, np.arange(len(rings) + 1)), mask)
                if mask.any():
                    yield names[one], mask, True

        return draw


def _shapes(path: Path, skipped: Counter) -> Iterator[map_files.Raw]:
    """Yield the shapes that are areas and of a class, or say nothing of themselves."""
    need("shapely", "data")
    reader, _ = map_files.file_reader(path, None, {})
    for raw in reader(skipped):
        if raw.geometry is None:
            continue
        if raw.geometry.geom_type not in ("Polygon", "MultiPolygon", "GeometryCollection"):
            skipped["shape that is no area"] += 1
        elif _own_class(raw) is None:
            skipped["shape of no class, or not to be seen from above"] += 1
        else:
            yield raw


def _own_class(raw: map_files.Raw) -> str | None:
    """Return the class that a shape tells, by a property `class` or by the taxonomy of maps, in words.

    Empty: it says nothing of itself. None: what it says means no class, or it cannot be seen from above.
    """
    if raw.category is None and raw.tags.get("class"):
        return _words(raw.tags["class"])
    category = features.category_of_raw(raw)
    if category is None:
        return None if raw.category == "" or features.describes(raw.tags) else ""
    return taxonomy()[category].words[0] if describe.seen_from_above(category, raw.tags) else None


# What all of them need


def _json(path: Path):
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES:,} bytes: split it")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): is the file complete?") from None


def _words(name: object) -> str:
    return re.sub(r"[_\s]+", " ", str(name)).strip()


def _inside(root: Path, place: Path, file: str, table: Path) -> Path:
    """Where a file lies that a table names; a name or link that leads out of the folder stops everything."""
    path = place / file
    if "\0" in file or not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{table} names {file!r}, which is not inside its folder: such a table is not read")
    return path


def _picture(path: Path, skipped: Counter) -> tuple[bytes, tuple[int, int]] | None:
    """A picture's bytes, and its height and width once it is upright; None, and counted, where it cannot be used."""
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


def _joined(things: Iterable[Thing]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Join the masks of each class, and box single things: (n, 4) float left, top, right, bottom in pixels."""
    masks: dict[str, np.ndarray] = {}
    boxes: dict[str, list] = {}
    for name, mask, single in things:
        masks[name] = masks[name] | mask if name in masks else mask
        if single:
            columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
            boxes.setdefault(name, []).append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return masks, {name: np.array(corners, float) for name, corners in boxes.items()}
