"""Chips described: a turned picture of a turned ground tells the same, no crop names what is outside, no sentence is false."""

from __future__ import annotations

import math
import random
import re

import numpy as np
import pandas as pd
import pytest
from fuzzing import fuzz
from hypothesis import strategies as st

from rsvlm.data.captions import audit, grammar
from rsvlm.data.captions.sentences import SHARE_LEVELS
from rsvlm.data.landmarks.directions import SECTORS
from rsvlm.data.maps.taxonomy import taxonomy

shapely = pytest.importorskip("shapely", reason="the extra [data] is not installed")

from rsvlm.data.landmarks import describe  # noqa: E402
from rsvlm.data.maps import features  # noqa: E402

SIDE_PX, SIDE_M = 256, 250.3  # so that no size is exactly one that counts
SHOWN = {
    shape: sorted(name for name, entry in taxonomy().items() if entry.visible_from_above and entry.shape == shape)
    for shape in ("area", "line", "point")
}
ALIKE = {
    "area": ["building", "house", "residential building", "row of houses", "farm building", "lake", "forest", "water tower"],
    "line": ["road", "main road", "river", "pier"],
    "point": ["tower", "communications tower", "tree"],
}
NAMES = st.sampled_from([None, None, None, "Alva", "Monte Verde", "Rua Augusta", "São João"])
EDGES = st.integers(-20, 99).map(lambda number: (2 * number + 1) / 160)  # never on the border of a sector or of a chip


@st.composite
def things(draw) -> tuple[str, str | None, object]:
    """Draw a thing: its category, its name and its shape in sides of the chip, from the upper left, over the edges of it too."""
    kind = draw(st.sampled_from(["area", "area", "area", "strip", "line", "point"]))
    x, y = draw(EDGES), draw(EDGES)
    if kind == "area":
        width, height = (draw(st.sampled_from([4, 16, 48, 112, 192])) / 160 for _ in range(2))
        shape = shapely.box(x, y, x + width, y + height)
    elif kind == "point":
        shape = shapely.Point(x, y)
    else:
        shape = shapely.LineString([(x, y), *(draw(st.tuples(EDGES, EDGES)) for _ in range(draw(st.integers(1, 3))))])
    if kind == "strip":
        shape, kind = shapely.make_valid(shape.buffer(draw(st.sampled_from([0.0123, 0.0271])), cap_style="flat")), "area"
    category = draw(st.sampled_from(SHOWN[kind]) | st.sampled_from(ALIKE[kind]))
    if shape.is_empty or (shape.length == 0 and kind != "point"):
        shape = shapely.box(x, y, x + 0.1, y + 0.1) if kind == "area" else shapely.LineString([(x, y), (x + 0.3, y + 0.2)])
    return category, draw(NAMES), shape


class Chip:
    """A chip on the ground: `corner` of its part of a square picture at `lon lat`, turned clockwise, `side` of it wide."""

    def __init__(self, lat: float, lon: float, degrees: float, corner=(0.0, 0.0), side: float = 1.0):
        self.lat, self.lon, self.degrees = lat, lon, degrees
        self.metres = np.array(describe.metres_per_degree(lat))
        x, y = corner
        self.within = shapely.box(x, y, x + side, y + side)
        places = np.array([(x, y), (x + side, y), (x + side, y + side), (x, y + side)])
        self.ring = self.on_ground(places)
        (west, south), (east, north) = self.ring.min(0), self.ring.max(0)
        self.row = {
            "west": west,
            "south": south,
            "east": east,
            "north": north,
            "gsd_m": SIDE_M / SIDE_PX,
            "size_px": SIDE_PX * side,
        }

    def on_ground(self, places: np.ndarray) -> np.ndarray:
        turn = math.radians(self.degrees)
        right, up = (places[:, 0] - 0.5) * SIDE_M, (0.5 - places[:, 1]) * SIDE_M
        metres = np.column_stack([right * math.cos(turn) + up * math.sin(turn), up * math.cos(turn) - right * math.sin(turn)])
        return metres / self.metres + (self.lon, self.lat)


def ground(drawn: list, chip: Chip) -> features.Features:
    """Return the map of the things, as they lie in the picture of a chip."""
    geometry = np.empty(len(drawn), object)
    geometry[:] = [shapely.transform(shape, chip.on_ground) for _, _, shape in drawn]
    columns = ["name", "names", "category", "source", "licence", "attribution", "id", "tags"]
    rows = [(name, {}, category, "map", "CC0-1.0", "me", "", {}) for category, name, _ in drawn]
    return features.Features(pd.DataFrame(rows, columns=columns).astype(object).replace({np.nan: None}), geometry)


def described(world: features.Features, chip: Chip) -> dict:
    """Make the record of a chip of this ground."""
    (marks,) = describe.describe(world, describe.index(world), pd.DataFrame([chip.row]), chip.ring[None])
    record = {
        "key": "k",
        "gsd_m": chip.row["gsd_m"],
        "size_px": int(chip.row["size_px"]),
        "outline_lonlat": chip.ring.tolist(),
    }
    record["bbox_lonlat"] = [chip.row[edge] for edge in ("west", "south", "east", "north")]
    return record | {"landmarks": marks, "relations": describe.relations(marks)}


CHIPS = st.builds(
    Chip,
    lat=st.sampled_from([0.0, 41.2, -52.0, 69.5]),
    lon=st.sampled_from([0.0, -8.6, 140.0]),
    degrees=st.floats(-5.9, 5.9).map(lambda degrees: round(degrees, 2)),
)
DRAWN = st.lists(things(), min_size=1, max_size=9)


def is_plain(shape) -> bool:
    return shape.is_empty or shapely.get_dimensions(shape) < 2 or shapely.dwithin(shape.buffer(-1e-3), shape.centroid, 0)


def told(record: dict) -> list[tuple]:
    """Return what is told of each landmark, but for sizes: what ranks equal may come in any order."""
    said = ("category", "name", "position", "by_sector", "count", "visible", "hidden_because", "cut")
    return sorted(
        (str([mark[key] for key in said]), mark["share"] or 0.0, mark["length_m"] or 0.0) for mark in record["landmarks"]
    )


@fuzz(drawn=DRAWN, chip=CHIPS, degrees=st.integers(-170, 170))
def test_a_turned_picture_of_a_turned_ground_tells_the_same(drawn, chip, degrees):
    # The middle of what bends around it is a point of it, and which one is not told.
    drawn = [thing for thing in drawn if is_plain(thing[2].intersection(chip.within))]
    straight = Chip(chip.lat, chip.lon, 0.0)
    turned = Chip(chip.lat, chip.lon, float(degrees))
    first, second = (told(described(ground(drawn, one), one)) for one in (straight, turned))
    assert [said for said, _, _ in first] == [said for said, _, _ in second]
    assert np.allclose([share for _, share, _ in first], [share for _, share, _ in second], rtol=0.02, atol=1e-4)
    assert np.allclose([length for _, _, length in first], [length for _, _, length in second], rtol=0.02, atol=0.5)


@fuzz(drawn=DRAWN, chip=CHIPS, order=st.randoms(use_true_random=False))
def test_features_in_any_order_make_the_same_landmarks(drawn, chip, order):
    again = order.sample(drawn, len(drawn))
    one, other = (described(ground(these, chip), chip)["landmarks"] for these in (drawn, again))
    said = ("category", "name", "count", "visible", "by_sector", "cut")
    assert sorted(str([mark[key] for key in said]) for mark in one) == sorted(
        str([mark[key] for key in said]) for mark in other
    )
    total = [sum(mark["share"] or 0.0 for mark in marks) for marks in (one, other)]
    assert abs(total[0] - total[1]) < 1e-3


@fuzz(
    drawn=DRAWN,
    chip=CHIPS,
    at=st.sampled_from([(0.0, 0.0), (0.5, 0.5), (0.25, 0.5), (0.375, 0.125)]),
    seed=st.integers(0, 999),
)
def test_a_crop_names_nothing_that_is_outside_it(drawn, chip, at, seed):
    """A chip and its crop see the same ground: each thing of the crop is in both, where the drawing has it."""
    crop = Chip(chip.lat, chip.lon, chip.degrees, at, 0.5)
    world = ground(drawn, chip)
    whole, part = described(world, chip), described(world, crop)
    inside = [(category, name) for category, name, shape in drawn if shape.intersects(crop.within)]
    for mark in part["landmarks"]:
        assert any(mark["category"] == category and mark["name"] in (name, None) for category, name in inside), mark
        assert any(mark["category"] == one["category"] and mark["name"] == one["name"] for one in whole["landmarks"])
        for key in ("lon", "lat"):
            assert crop.ring[:, int(key == "lat")].min() - 1e-6 <= mark[key] <= crop.ring[:, int(key == "lat")].max() + 1e-6
        area = sum(shape.intersection(crop.within).area for category, _, shape in drawn if category == mark["category"])
        assert (mark["share"] or 0.0) <= area / 0.25 + 0.01
    text = " ".join(grammar.write_map(part, random.Random(seed)).values())
    absent = {name for _, name, _ in drawn if name} - {name for _, name in inside}
    assert not any(name in text for name in absent), text


@fuzz(drawn=DRAWN, chip=CHIPS)
def test_sectors_that_are_told_are_sectors_that_are_covered(drawn, chip):
    """Where a single area is said to reach, a part of its drawing lies; and where a tenth of a strip lies, it is said to."""
    record = described(ground(drawn, chip), chip)
    for mark in record["landmarks"]:
        shapes = [shape for category, name, shape in drawn if (category, name) == (mark["category"], mark["name"])]
        if len(shapes) != 1:
            continue
        seen = shapes[0].intersection(chip.within)
        cells = [shapely.box(x / 3, y / 3, (x + 1) / 3, (y + 1) / 3) for y in range(3) for x in range(3)]
        at = {where: cell for where, cell in zip(GRID, cells)}
        for where, count in zip(SECTORS, mark["by_sector"]):
            assert not count or shapely.dwithin(seen, at[where], 1e-3), (mark["category"], where)
            part = seen.intersection(at[where])
            if seen.area > 0 and seen.length > 6 and 2 * seen.area / seen.length < 0.03 and part.area > 0.12 * seen.area:
                assert count, (mark["category"], where)


GRID = ("northwest", "north", "northeast", "west", "centre", "east", "southwest", "south", "southeast")


@fuzz(drawn=DRAWN, chip=CHIPS, seed=st.integers(0, 1000))
def test_the_audit_agrees_with_every_sentence(drawn, chip, seed):
    record = described(ground(drawn, chip), chip)
    verdict = audit.check(grammar.write_map(record, random.Random(seed)), record)
    assert not [finding for finding in verdict.findings if finding.status != "kept"]


def inside_share(drawn: list, category: str, name: str | None) -> float:
    """Return the share of the chip that areas of a category and a name take, measured without the package."""
    theirs = [shape for kind, own, shape in drawn if (kind, own) == (category, name) and shapely.get_dimensions(shape) == 2]
    return shapely.intersection(shapely.union_all(theirs), shapely.box(0, 0, 1, 1)).area


@fuzz(drawn=DRAWN, chip=CHIPS, seed=st.integers(0, 1000))
def test_extents_are_those_that_were_measured(drawn, chip, seed):
    captions = " ".join(grammar.write_map(described(ground(drawn, chip), chip), random.Random(seed)).values())
    levels = {word: (low, high) for (low, _), (high, word) in zip([(0.0, ""), *SHARE_LEVELS], SHARE_LEVELS)}
    said = re.findall(r"([^.]*?) (?:covers?|takes? up|occup(?:y|ies)) ([a-z ]+?) of the picture", captions)
    for subject, extent in said:
        low, high = levels[extent]
        folded = subject.casefold()
        shares = [
            inside_share(drawn, category, name)
            for category, name in {(kind, name) for kind, name, _ in drawn}
            if (name.casefold() in folded if name else any(word in folded for word in grammar.nouns(category)))
        ]
        assert any(low - 0.01 <= share <= high + 0.01 for share in shares), (subject, extent, shares)
    # What is not told by such a level is no extent at all.
    rest = re.sub("(?:about|nearly) [a-z ]+ of the picture", "", captions)
    assert not re.search(r"\b(?:most|half|whole|all) of the picture", rest)
