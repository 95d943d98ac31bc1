"""Splits stay apart on the ground, and nothing touches footprints: by the outlines of chips, however these lie in degrees."""

import json

import numpy as np
import pandas as pd
import pytest

from rsvlm import config
from rsvlm.data.landmarks import splits
from rsvlm.errors import ConfigError, DataError

h3 = pytest.importorskip("h3")
shapely = pytest.importorskip("shapely")


def grid(west=-9.0, south=41.0, columns=40, rows=40, side_deg=0.004, size_px=64):
    """A chip table of touching squares."""
    y, x = np.divmod(np.arange(columns * rows), columns)
    table = pd.DataFrame({"west": west + x * side_deg, "south": south + y * side_deg})
    table["east"], table["north"] = table["west"] + side_deg, table["south"] + side_deg
    table["lon"], table["lat"] = (table["west"] + table["east"]) / 2, (table["south"] + table["north"]) / 2
    table["size_px"], table["gsd_m"] = size_px, side_deg * 111_320 / size_px
    table["key"] = [f"c{i:05d}" for i in range(len(table))]
    return table


def held(table, split, options):
    """Outlines of the cells of a split, from the library alone."""
    cells = {h3.latlng_to_cell(y, x, options.h3_resolution) for x, y in table.loc[split, ["lon", "lat"]].to_numpy()}
    return shapely.polygons([[(x, y) for y, x in h3.cell_to_boundary(cell)] for cell in cells])


# Splits


@pytest.mark.parametrize("resolution", [6, 7])
def test_training_chips_keep_a_chip_away_from_cells_held_back(resolution):
    options = config.Chips(h3_resolution=resolution, test_share=0.2, val_share=0.2)
    table = grid()
    split, reasons = splits.assign(table, options, seed=1)
    kept = reasons == ""
    assert {"train", "val", "test"} <= set(split[kept]) and (reasons != "").any()
    boxes = shapely.box(*table[["west", "south", "east", "north"]].to_numpy().T)
    side = 0.004
    for later, earlier in (("test", ("train", "val")), ("val", ("train",))):
        tree = shapely.STRtree(held(table, split == later, options))
        for name in earlier:
            inner = shapely.buffer(boxes, 0.7 * side, join_style="mitre")
            outer = shapely.buffer(boxes, 1.05 * side, join_style="mitre")
            chosen = np.flatnonzero(split == name)
            assert not set(chosen[tree.query(inner[chosen], "intersects")[0]]) & set(np.flatnonzero(kept))
            # And none is dropped that is far from every such cell.
            near = set(chosen[tree.query(outer[chosen], "intersects")[0]])
            if name == "val":
                assert set(chosen[~kept[chosen]]) <= near


def test_a_cell_is_in_the_same_split_in_every_data_set():
    options = config.Chips(h3_resolution=7, test_share=0.3, val_share=0.1)
    large, part = grid(), grid(columns=11, rows=9)
    split, _ = splits.assign(large, options, 5)
    again, _ = splits.assign(part, options, 5)
    names = dict(zip(zip(large["lon"].round(6), large["lat"].round(6), strict=True), split, strict=True))
    assert [names[spot] for spot in zip(part["lon"].round(6), part["lat"].round(6), strict=True)] == list(again)
    assert (splits.assign(large, options, 6)[0] != split).any()


def test_cells_are_drawn_in_the_shares_asked_for():
    rng = np.random.default_rng(0)
    table = grid(columns=60, rows=50)
    table[["lat", "lon"]] = np.stack([rng.uniform(-60, 60, 3000), rng.uniform(-180, 179, 3000)], axis=1)
    split, _ = splits.assign(table, config.Chips(test_share=0.2, val_share=0.1), 0)
    shares = {name: float((split == name).mean()) for name in splits.SPLITS}
    assert shares["test"] == pytest.approx(0.2, abs=0.03) and shares["val"] == pytest.approx(0.1, abs=0.03)


def test_chips_on_the_line_of_180_degrees_and_near_a_pole_have_a_split():
    options = config.Chips(h3_resolution=6, test_share=0.3, val_share=0.1)
    for table in (grid(west=179.95, columns=20, rows=3), grid(south=89.985, columns=5, rows=3)):
        split, reasons = splits.assign(table, options, 0)
        assert set(split) <= set(splits.SPLITS) and len(reasons) == len(table)


def test_cells_smaller_than_chips_are_refused():
    with pytest.raises(ConfigError, match=r"h3_resolution=12 .* give \d or less"):
        splits.assign(grid(columns=2, rows=2), config.Chips(h3_resolution=12), 0)
    # Nothing is held back: there is nothing to keep apart.
    split, reasons = splits.assign(grid(columns=2, rows=2), config.Chips(h3_resolution=12, test_share=0, val_share=0), 0)
    assert set(split) == {"train"} and not any(reasons)


# Footprints that stay out


def test_chips_that_touch_footprints_stay_out(tmp_path):
    table = grid(columns=10, rows=10)
    (tmp_path / "a.csv").write_text("name,West,South,East,North\nx,-8.999,41.001,-8.998,41.002\n")
    ring = [[-8.97, 41.03], [-8.965, 41.03], [-8.965, 41.035], [-8.97, 41.035], [-8.97, 41.03]]
    shape = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (tmp_path / "b.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [shape]}))
    reasons = splits.excluded(table, [tmp_path / "a.csv", tmp_path / "b.geojson"])
    assert reasons[0] == "touches a footprint of a.csv"
    boxes = shapely.box(*table[["west", "south", "east", "north"]].to_numpy().T)
    corner = shapely.box(-8.999, 41.001, -8.998, 41.002)
    expected = shapely.intersects(boxes, shapely.polygons(ring)) | shapely.intersects(boxes, corner)
    assert ((reasons != "") == expected).all() and expected.sum() > 2


def test_footprints_may_lie_in_a_system_of_their_own_and_be_written_in_any_encoding(tmp_path, caplog):
    pyproj = pytest.importorskip("pyproj")
    ring = [[-8.97, 41.03], [-8.965, 41.03], [-8.965, 41.035], [-8.97, 41.03]]
    utm = pyproj.Transformer.from_crs("OGC:CRS84", "EPSG:32629", always_xy=True)
    shape = {"type": "Polygon", "coordinates": [[utm.transform(*point) for point in ring]]}
    rows = [{"type": "Feature", "properties": {}, "geometry": geometry} for geometry in (shape, None)]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32629"}}
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": rows}))
    (found,) = splits.read_footprints(tmp_path / "a.geojson")
    assert found.equals_exact(shapely.Polygon(ring), 1e-7)
    assert "1 of 2 footprints have no geometry" in caplog.text
    for encoding in ("cp1252", "utf-16", "utf-8-sig"):
        (tmp_path / "b.csv").write_text("west,south,east,north,place\n1,2,3,4,Ovar à beira\n", encoding=encoding)
        assert splits.read_footprints(tmp_path / "b.csv")[0].bounds == (1, 2, 3, 4)


def test_a_footprint_across_180_degrees_is_one_place(tmp_path):
    table = grid(west=179.99, south=0, columns=4, rows=1)
    (tmp_path / "a.csv").write_text("west,south,east,north\n179.9995,-1,-179.9999,1\n")
    assert [bool(r) for r in splits.excluded(table, [tmp_path / "a.csv"])] == [False, False, True, False]
    (tmp_path / "b.csv").write_text("west,south,east,north\n-179.9970,-1,-179.9960,1\n")
    assert [bool(r) for r in splits.excluded(table, [tmp_path / "b.csv"])] == [False, False, False, True]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "x,y\n1,2\n", "columns west, south, east, north"),
        ("a.csv", "west,south,east,north\n1,2,three,4\n", "cannot be read"),
        ("a.csv", "west,south,east,north\n400000,5000000,400100,5000100\n", "in degrees"),
        ("a.csv", "west,south,east,north\n1,2,3,4\n1,2,,4\n", "without a number"),
        ("a.geojson", '{"type":"Polygon","coordinates":[[[0,0],[1,0]]]}', "broken geometry"),
        ("a.geojson", "{", "cannot be read"),
        ("a.geojson", '{"type":"FeatureCollection","features":[]}', "no footprint"),
        ("a.geojson", '{"type":"Nonsense"}', "cannot be read"),
    ],
)
def test_what_is_no_footprint_is_refused(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=says):
        splits.read_footprints(tmp_path / name)
    with pytest.raises(DataError, match="missing"):
        splits.read_footprints(tmp_path / "absent.csv")


# Outlines

SIDE = 0.004


def slanting(columns=40, rows=40, by=0.1):
    """Touching chips that lean to the east: a table with the boxes around them, and their outlines."""
    y, x = np.divmod(np.arange(columns * rows), columns)
    lean = by * SIDE
    west, south = -9.0 + x * SIDE, 41.0 + y * SIDE
    east, north = west + SIDE, south + SIDE
    corners = [(west + lean, north), (east + lean, north), (east, south), (west, south)]
    rings = np.stack([np.stack(corner, axis=1) for corner in corners], axis=1)
    middle = rings.mean(axis=1)
    table = pd.DataFrame({"west": west, "south": south, "east": east + lean, "north": north})
    table = table.assign(lon=middle[:, 0], lat=middle[:, 1], size_px=64, gsd_m=SIDE * 111_320 / 64)
    return table.assign(key=[f"c{i:05d}" for i in range(len(table))]), rings


def test_a_chip_touches_what_its_outline_touches_and_not_its_box(tmp_path):
    table, rings = slanting(10, 10)
    # In the box of the first chip alone, in its outline, and nowhere.
    (tmp_path / "a.csv").write_text(
        "west,south,east,north\n-8.99999,41.0037,-8.9998,41.0039\n-8.978,41.0205,-8.9779,41.0206\n8,41,9,42\n"
    )
    reasons = splits.excluded(table, [tmp_path / "a.csv"], rings)
    shapes = shapely.polygons(rings)
    expected = shapely.intersects(shapes, shapely.box(-8.99999, 41.0037, -8.9998, 41.0039))
    expected |= shapely.intersects(shapes, shapely.box(-8.978, 41.0205, -8.9779, 41.0206))
    assert ((reasons != "") == expected).all() and expected.sum() == 1
    assert (splits.excluded(table, [tmp_path / "a.csv"]) != "").sum() == 2
    kept, before = splits.select(
        table, config.load("smoke", {"chips.test_share": 0, "chips.val_share": 0}), [tmp_path / "a.csv"], rings
    )
    assert len(kept) == 99 and [row["stage"] for row in before] == ["footprints"]


@pytest.mark.parametrize("resolution", [6, 7])
def test_chips_keep_their_own_side_away_from_cells_held_back(resolution):
    options = config.Chips(h3_resolution=resolution, test_share=0.2, val_share=0.2)
    table, rings = slanting(by=0.1)
    split, reasons = splits.assign(table, options, 1, rings)
    middle = rings.mean(axis=1, keepdims=True)
    held = {}
    for name in ("val", "test"):
        cells = {h3.latlng_to_cell(y, x, resolution) for x, y in table.loc[split == name, ["lon", "lat"]].to_numpy()}
        held[name] = shapely.STRtree(shapely.polygons([[(x, y) for y, x in h3.cell_to_boundary(cell)] for cell in cells]))
    near, far = (shapely.polygons(middle + (rings - middle) * factor) for factor in (2.4, 3.1))
    for name, later in (("train", ("val", "test")), ("val", ("test",))):
        chosen = np.flatnonzero(split == name)
        close, perhaps = (
            {int(chosen[i]) for other in later for i in held[other].query(shapes[chosen], "intersects")[0]}
            for shapes in (near, far)
        )
        dropped = {int(i) for i in chosen if reasons[i]}
        assert close <= dropped and dropped
        # At the rim a cell may be held back in which there is no chip.
        row, column = np.divmod(np.array(sorted(dropped - perhaps), int), 40)
        assert ((np.minimum(row, 39 - row) < 2) | (np.minimum(column, 39 - column) < 2)).all()
    # Boxes reach further, and take chips that are far enough away.
    assert (splits.assign(table, options, 1)[1] != "").sum() > (reasons != "").sum()


def test_outlines_that_are_boxes_change_nothing():
    options = config.Chips(h3_resolution=7, test_share=0.2, val_share=0.2)
    table, rings = slanting(by=0.0)
    for first, second in zip(splits.assign(table, options, 3), splits.assign(table, options, 3, rings), strict=True):
        assert (first == second).all()


def test_chips_that_are_turned_from_north_are_dropped_with_advice():
    chips = pd.DataFrame({"key": list("abcd"), "lon": 10.0, "lat": 50.0, "up_deg": [0.0, -5.9, 30.0, 354.1]})
    chips[["west", "south", "east", "north"]] = [9.99, 49.99, 10.01, 50.01]
    chips = chips.assign(gsd_m=5.0, size_px=256)
    kept, before = splits.select(chips, config.load("smoke", {"chips.test_share": 0, "chips.val_share": 0}))
    assert list(kept["key"]) == ["a", "b", "d"]
    assert [(line["key"], line["stage"]) for line in before] == [("c", "turned")] and "warp" in before[0]["reason"]
