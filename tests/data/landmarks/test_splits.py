"""Chips that lie aslant in degrees are kept apart, and out of footprints, by their outlines."""

import numpy as np
import pandas as pd
import pytest

from rsvlm import config
from rsvlm.data.landmarks import splits

h3 = pytest.importorskip("h3")
shapely = pytest.importorskip("shapely")
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
