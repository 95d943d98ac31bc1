"""Whatever lies in a chip, the grammar's sentences are true of it: the audit's rules agree, and no extent is told but the measured one."""

import random

import numpy as np
import pandas as pd
import pytest

from rsvlm.data.captions import grammar

shapely = pytest.importorskip("shapely", reason="the extra [data] is not installed")

SIDE_M = 256.0
SIDE_DEG = SIDE_M / 111_195.0


def described(drawn: list) -> dict:
    """Make the record of a chip on the equator that holds these things."""
    from rsvlm.data.landmarks import describe
    from rsvlm.data.maps import features

    geometry = np.empty(len(drawn), object)
    geometry[:] = [shapely.transform(shape, lambda xy: xy * SIDE_DEG) for _, _, shape in drawn]
    columns = ["name", "names", "category", "source", "licence", "attribution", "id", "tags"]
    rows = [(name, {}, category, "map", "CC0-1.0", "me", "", {}) for category, name, _ in drawn]
    read = features.Features(pd.DataFrame(rows, columns=columns).astype(object).replace({np.nan: None}), geometry)
    box = {"west": 0.0, "south": 0.0, "east": SIDE_DEG, "north": SIDE_DEG, "gsd_m": 1.0, "size_px": 256}
    (marks,) = describe.describe(read, describe.index(read), pd.DataFrame([box]))
    record = {"key": "k", "gsd_m": 1.0, "size_px": 256, "bbox_lonlat": [0.0, 0.0, SIDE_DEG, SIDE_DEG]}
    return record | {"landmarks": marks, "relations": describe.relations(marks)}


def test_small_patches_in_many_parts_do_not_cover_most_of_the_picture():
    spots = [(0.1, 0.1), (0.5, 0.1), (0.9, 0.1), (0.1, 0.5), (0.9, 0.5), (0.5, 0.9)]
    record = described([("forest", None, shapely.box(x, y, x + 0.05, y + 0.05)) for x, y in spots])
    assert record["landmarks"][0]["share"] < 0.02 and sum(record["landmarks"][0]["by_sector"]) > 4
    for seed in range(20):
        assert grammar.write_map(record, random.Random(seed))["relational"] == "Forests are in many parts of the picture."


def test_what_leaves_a_side_empty_is_not_all_over_the_picture():
    spots = [(x / 13 + 0.03, y) for y in (0.4, 0.6, 0.9) for x in range(13)]
    record = described([("house", None, shapely.box(x, y, x + 0.03, y + 0.03)) for x, y in spots])
    for seed in range(10):
        assert "all over" not in " ".join(grammar.write_map(record, random.Random(seed)).values())
    spots = [(x / 7 + 0.03, y / 7 + 0.03) for y in range(7) for x in range(7)]
    record = described([("house", None, shapely.box(x, y, x + 0.03, y + 0.03)) for x, y in spots])
    assert "all over the picture" in " ".join(grammar.write_map(record, random.Random(0)).values())


def test_a_short_line_runs_through_nothing():
    path = ("path", None, shapely.LineString([(0.1, 0.9), (0.15, 0.9)]))
    texts = [grammar.write_map(described([path]), random.Random(seed))["full"] for seed in range(20)]
    assert not any(" through " in text for text in texts) and all("in the northwest" in text for text in texts)
