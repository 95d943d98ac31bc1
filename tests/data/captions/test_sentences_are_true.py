"""Whatever lies in a chip, the grammar's sentences are true of it: the audit's rules agree, and no extent is told but the measured one."""

import random
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rsvlm.data.captions import audit, grammar
from rsvlm.data.captions.sentences import SHARE_LEVELS
from rsvlm.data.maps.taxonomy import taxonomy

shapely = pytest.importorskip("shapely", reason="the extra [data] is not installed")

SIDE_M = 256.0
SIDE_DEG = SIDE_M / 111_195.0
SHOWN = {
    shape: sorted(name for name, entry in taxonomy().items() if entry.visible_from_above and entry.shape == shape)
    for shape in ("area", "line", "point")
}
ALIKE = {
    "area": ["building", "house", "residential building", "row of houses", "farm building", "lake", "forest", "water tower"],
    "line": ["road", "main road", "river", "pier"],
    "point": ["tower", "communications tower", "tree"],
}
NAMES = (None, None, None, "Alva", "Monte Verde", "Rua Augusta", "São João")
places = st.integers(0, 40).map(lambda cell: cell / 40)


@st.composite
def things(draw) -> tuple[str, str | None, object]:
    """Draw a thing: its category, its name and its shape in units of the chip, over the edges of it too."""
    kind = draw(st.sampled_from(["area", "area", "area", "line", "point"]))
    x, y = draw(places), draw(places)
    if kind == "area":
        width, height = (draw(st.sampled_from([0.04, 0.1, 0.3, 0.7, 1.2])) for _ in range(2))
        shape = shapely.box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif kind == "line":
        shape = shapely.LineString([(x, y), *(draw(st.tuples(places, places)) for _ in range(draw(st.integers(1, 3))))])
    else:
        shape = shapely.Point(x, y)
    return draw(st.sampled_from(SHOWN[kind]) | st.sampled_from(ALIKE[kind])), draw(st.sampled_from(NAMES)), shape


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


def inside_share(drawn: list, category: str, name: str | None) -> float:
    """Return the share of the chip that areas of a category and a name take, measured without the package."""
    theirs = [shape for kind, own, shape in drawn if (kind, own) == (category, name) and shape.geom_type == "Polygon"]
    return shapely.intersection(shapely.union_all(theirs), shapely.box(0, 0, 1, 1)).area


@settings(max_examples=60, deadline=None)
@given(st.lists(things(), min_size=1, max_size=9), st.integers(0, 1000))
def test_the_audit_agrees_with_every_sentence(drawn, seed):
    record = described(drawn)
    captions = grammar.write_map(record, random.Random(seed))
    verdict = audit.check(captions, record)
    assert not [finding for finding in verdict.findings if finding.status != "kept"]


@settings(max_examples=60, deadline=None)
@given(st.lists(things(), min_size=1, max_size=9), st.integers(0, 1000))
def test_extents_are_those_that_were_measured(drawn, seed):
    captions = " ".join(grammar.write_map(described(drawn), random.Random(seed)).values())
    levels = {word: (low, high) for (low, _), (high, word) in zip([(0.0, ""), *SHARE_LEVELS], SHARE_LEVELS)}
    told = re.findall(r"([^.]*?) (?:covers?|takes? up|occup(?:y|ies)) ([a-z ]+?) of the picture", captions)
    for subject, extent in told:
        low, high = levels[extent]
        folded = subject.casefold()
        shares = [
            inside_share(drawn, category, name)
            for category, name in {(kind, name) for kind, name, _ in drawn}
            if (name.casefold() in folded if name else any(word in folded for word in grammar.nouns(category)))
        ]
        assert any(low - 0.01 <= share <= high + 0.01 for share in shares), (subject, extent, shares)
    # What is not told by such a level is no extent at all.
    assert not re.search(
        r"\b(?:most|half|whole|all) of the picture", re.sub("(?:about|nearly) [a-z ]+ of the picture", "", captions)
    )


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
