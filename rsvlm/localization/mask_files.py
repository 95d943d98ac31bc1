"""Two layouts of masks on disk that `true_masks` reads: folders of mask pictures, and polygons on a map; `coco` has the third.

Each is opened by its folder, has `classes`, and yields the arguments of `true_masks.Item` from
`read(choose, skipped)`: `choose` picks numbers of pictures from their names, `skipped` counts by reason what is left out. What was not
labelled (`ignore`, `void`, `unlabeled`, `no data`; numbers that have no name; pixels without data) is `unknown`.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from rsvlm.data.imagery import ground, sources as imagery
from rsvlm.data.landmarks import describe
from rsvlm.data.maps import features, files as map_files
from rsvlm.data.maps.taxonomy import taxonomy
from rsvlm.data.reading import visible
from rsvlm.errors import DataError, need
from rsvlm.localization import pixels, shapes
from rsvlm.localization.mask_reading import (
    EVERY,
    PICTURES,
    Choose,
    Parts,
    Thing,
    inside,
    is_background,
    is_unknown,
    joined,
    read_json,
    read_picture,
    resized,
    same_shape,
    words,
)
from rsvlm.model import images

logger = logging.getLogger(__name__)

MIN_BLACK_PX = 16
"""Connected black pixels of an image, from so many on, are without data."""

MOST_VALUES = 8
"""Values of a mask that have no name are told one by one up to so many."""

_MAPS = (".geojson", ".gpkg", ".shp", ".fgb", ".parquet")


class Folders:
    """Mask pictures beside pictures: one for each class, in its folder, or one of class numbers."""

    def __init__(self, root: Path):
        pictures, masks = root / "images", root / "masks"
        if not pictures.is_dir() or not masks.is_dir():
            wanted = "masks/CLASS/KEY.png, or masks/KEY.png and classes.json"
            raise DataError(f"{root} has no folders images/ and masks/: expected {wanted}")
        files: dict[str, Path] = {}
        for path in (path for path in visible(pictures, "*") if path.suffix.lower() in PICTURES):
            if path.stem in files:
                raise DataError(f"{pictures} has two pictures '{path.stem}': which of them the mask is of cannot be told")
            files[path.stem] = path
        if not files:
            raise DataError(f"{pictures} holds no picture ({', '.join(PICTURES)})")
        table = next((path for folder in (root, masks) if (path := folder / "classes.json").is_file()), None)
        folders = [path.name for path in visible(masks, "*") if path.is_dir()]
        if table is None and not folders:
            raise DataError(
                f"{masks} has no folder of a class, and {root} no classes.json that names the numbers of index pictures"
            )
        self.root, self.files, self.table = root, files, table
        named = _numbers(table) if table else {name: words(name) for name in folders}
        self.names = {key: name for key, name in named.items() if not is_background(name) and not is_unknown(name)}
        self.unknown = {key: name for key, name in named.items() if is_unknown(name)}
        self.background = {key for key, name in named.items() if is_background(name)}
        self.classes = list(dict.fromkeys(self.names.values()))
        if not self.names or (table and not all(0 <= number < 65536 for number in self.names)):
            raise DataError(f"{table or masks} names no class, or one whose number is not within 0 and 65535")
        # Where no number is called background, 0 is it: a table of the classes alone leaves it out.
        self.guess = bool(table) and not self.background and 0 not in named

    def read(self, choose: Choose, skipped: Counter) -> Iterator[Parts]:
        """Yield pictures by their names."""
        keys = list(self.files)
        for number in choose(keys):
            key, file = keys[number], self.files[keys[number]].name
            folder = self.root / "images"
            if (picture := read_picture(inside(self.root, folder, file, folder), skipped)) is None:
                continue
            data, size = picture
            try:
                masks, unknown = (self._numbered if self.table else self._of_classes)(key, size, skipped)
            except DataError as error:
                skipped[str(error)] += 1
                continue
            masks, _ = joined((name, mask, False) for name, mask in masks if mask.any())
            yield key, data, masks, {"file": file}, {EVERY: unknown} if unknown.any() else {}

    def _numbered(self, key: str, size: tuple[int, int], skipped: Counter) -> tuple[list[tuple[str, np.ndarray]], np.ndarray]:
        index = self._mask(key, size, skipped)
        if index is None or index.ndim == 3:
            raise DataError("mask missing" if index is None else "mask in colours, not in class numbers")
        index = index.astype(np.uint8) if index.dtype == bool else index
        values = np.unique(index)
        if self.guess and 0 in values:
            logger.warning(
                '%s does not name 0: it is taken as background; name it "ignore" if it was not labelled', self.table
            )
            self.guess, self.background = False, {0}
        said = self.names.keys() | self.background | self.unknown.keys()
        strange = [value for value in values.tolist() if value not in said]
        for value in strange if len(strange) <= MOST_VALUES else ():
            skipped[f"mask with {value:g}, which {self.table.name} does not name: not scored there"] += 1
        if len(strange) > MOST_VALUES:
            skipped[f"mask with many values that {self.table.name} does not name: not scored there"] += 1
        for value in self.unknown.keys() & set(values.tolist()):
            skipped[f"mask with '{self.unknown[value]}': not scored there"] += 1
        unknown = np.isin(index, [*strange, *self.unknown]) | np.isnan(index)
        return [(name, index == value) for value, name in self.names.items()], unknown

    def _of_classes(
        self, key: str, size: tuple[int, int], skipped: Counter
    ) -> tuple[list[tuple[str, np.ndarray]], np.ndarray]:
        masks = {folder: self._mask(f"{folder}/{key}", size, skipped, colours=True) for folder in [*self.names, *self.unknown]}
        of_classes = [(folder, masks[folder]) for folder in self.names if masks[folder] is not None]
        if not of_classes:
            raise DataError("mask missing in the folders of all classes")
        for folder in self.names:
            if masks[folder] is None:
                skipped[f"no mask in {folder}/: taken as nothing of it there"] += 1
        unknown = np.zeros(size, bool)
        for folder, name in self.unknown.items():
            if masks[folder] is not None and (area := _not_black(masks[folder])).any():
                skipped[f"mask with '{name}': not scored there"] += 1
                unknown |= area
        for folder, mask in of_classes:
            if mask.ndim == 2 and set(np.unique(mask).tolist()) in ({1, 255}, {0, 1, 255}):
                skipped[f"mask in {folder}/ with 1 and 255: both taken as inside"] += 1
        return [(self.names[folder], _not_black(mask)) for folder, mask in of_classes], unknown

    def _mask(self, name: str, size: tuple[int, int], skipped: Counter, colours: bool = False) -> np.ndarray | None:
        """Numbers of a mask picture, (H, W) or (H, W, channels); None where there is no such file. DataError tells why not.

        With `colours`, a palette is read by them where black is among them: its number need not be 0.
        """
        paths = [self.root / "masks" / f"{name}{kind}" for kind in (".png", ".tif", ".tiff")]
        if (path := next((path for path in paths if path.is_file()), None)) is None:
            return None
        inside(self.root, path.parent, path.name, path.parent)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = path.read_bytes()
                with Image.open(io.BytesIO(images.one_plane(data)), formats=("PNG", "TIFF")) as image:
                    if image.width * image.height > images.MAX_PIXELS:
                        raise DataError("too large")
                    upright = ImageOps.exif_transpose(image)  # as its picture becomes
                    index = np.asarray(upright)
                    if colours and image.mode == "P":
                        index = _shown(upright, index)
                    elif not colours and image.mode in ("L", "1"):
                        index = _as_stored(image, index, data)
        except Exception as error:  # as in images.decode: parsers raise many kinds of errors
            logger.warning("%s: %s", path, error)
            raise DataError("mask broken") from None
        if index.shape[:2] == tuple(size):
            return index
        if not same_shape(index.shape, size):
            raise DataError("mask of another shape than its picture")
        skipped["mask resampled to its picture"] += 1
        return resized(index, size)


def _numbers(path: Path) -> dict[int, str]:
    """Name by number: a list (0 first), {number: name}, or {name: number}."""
    table = read_json(path)
    try:
        if isinstance(table, list):
            table = dict(enumerate(table))
        elif not all(isinstance(name, str) for name in table.values()):
            table = {number: name for name, number in table.items()}
        return {int(number): words(name) for number, name in table.items()}
    except (ValueError, TypeError, AttributeError):
        raise DataError(f"{path}: expected a list of names, {{number: name}} or {{name: number}}") from None


def _as_stored(image: Image.Image, index: np.ndarray, data: bytes) -> np.ndarray:
    """The numbers of a grey picture: Pillow turns negatives round and spreads 2 and 4 bits over the range of 8."""
    depth, index = 8, index.astype(np.uint8) * (255 if image.mode == "1" else 1)
    if image.format == "TIFF":
        depth, index = image.tag_v2.get(258, (1,))[0], index if image.tag_v2.get(images.PHOTOMETRIC) != 0 else 255 - index
    elif data[12:16] == b"IHDR":
        depth = data[24]
    return index // (255 // (2 ** min(depth, 8) - 1))


def _shown(image: Image.Image, index: np.ndarray) -> np.ndarray:
    """The colours of a picture with a palette; its numbers where none of the colours that it may use is black."""
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return palette[index] if (palette[: max(index.max(), 1) + 1] == 0).all(1).any() and index.max() < len(palette) else index


def _not_black(index: np.ndarray) -> np.ndarray:
    """What is inside: in colours, whatever is not black; transparency does not count."""
    return index > 0 if index.ndim == 2 else (index[..., : 1 if index.shape[2] == 2 else 3] > 0).any(2)


class Polygons:
    """Maps of shapes beside imagery, which is cut into chips; shapes that do not say what they are are of class `label`."""

    def __init__(self, root: Path, label: str, size_px: int):
        self.root, self.label, self.size_px = root, label, size_px
        self.maps = []  # folders of imagery, each with its map
        for folder in (root, *(path for path in visible(root, "*") if path.is_dir())):
            paths = [path for path in visible(folder, "*") if path.suffix.lower() in _MAPS]
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
            chips, draw, extent = chips.iloc[rows], self._drawing(source, raws), _extent(raws)
            outlines = ground.outlines([source], chips)
            beyond = _beyond(outlines, extent)
            read = zip(chips.to_dict("records"), imagery.read(source, chips), outlines, beyond, strict=True)
            for row, (picture, reason), outline, nothing_near in read:
                if picture is None:
                    skipped[f"picture: {reason}"] += 1
                    continue
                masks, boxes = joined(draw(row))
                where = {"footprint_lonlat": [row[side] for side in ("west", "south", "east", "north")]}
                where |= {"outline_lonlat": outline.tolist(), "boxes": boxes}
                # Pixels without data are black, and hardly any others are.
                black = shapes.components(~picture.any(2), MIN_BLACK_PX) > 0
                if black.any():
                    skipped["picture with pixels without data: not scored there"] += 1
                if not masks and nothing_near:
                    skipped["picture beyond all shapes of the map: taken as empty"] += 1
                unknown = {EVERY: black} if black.any() else {}
                yield prefix + row["key"], images.encode_png(picture, compress_level=1), masks, where, unknown

    def _class_of(self, raw: map_files.Raw) -> str:
        return _own_class(raw) or words(self.label)

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


def _extent(raws: list[map_files.Raw]) -> tuple[float, float, float, float]:
    """West, south, east and north of all shapes; of none the whole world."""
    bounds = np.array([raw.geometry.bounds for raw in raws if not raw.geometry.is_empty])
    return (*bounds[:, :2].min(0), *bounds[:, 2:].max(0)) if len(bounds) else (-180, -90, 180, 90)


def _beyond(outlines: np.ndarray, extent: tuple[float, float, float, float]) -> np.ndarray:
    """Tell which chips `(N, 4k, 2)` lie outside the box around all shapes, where perhaps nobody drew any."""
    shapely = need("shapely", "data")
    return ~shapely.intersects(shapely.polygons(outlines), shapely.box(*extent))


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
        return words(raw.tags["class"])
    category = features.category_of_raw(raw)
    if category is None:
        return None if raw.category == "" or features.describes(raw.tags) else ""
    return taxonomy()[category].words[0] if describe.seen_from_above(category, raw.tags) else None
