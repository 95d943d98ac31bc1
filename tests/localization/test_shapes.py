"""Thresholds, parts, boxes, outlines and the guided filter against written-out definitions."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rsvlm.errors import DataError
from rsvlm.localization import pixels, shapes


def flood(mask, eight):
    """Connected parts by filling, one pixel at a time."""
    labels, count = np.zeros(mask.shape, int), 0
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0) and (eight or 0 in (dy, dx))]
    for start in zip(*np.nonzero(mask), strict=True):
        if labels[start]:
            continue
        count += 1
        waiting = [start]
        labels[start] = count
        while waiting:
            y, x = waiting.pop()
            for dy, dx in steps:
                j, i = y + dy, x + dx
                if 0 <= j < mask.shape[0] and 0 <= i < mask.shape[1] and mask[j, i] and not labels[j, i]:
                    labels[j, i] = count
                    waiting.append((j, i))
    return labels


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.sampled_from([0.3, 0.5, 0.65, 1.0]), st.booleans(), st.integers(0, 10**6))
def test_parts_equal_a_flood_fill(H, W, share, eight, seed):
    mask = np.random.default_rng(seed).random((H, W)) < share
    wanted = flood(mask, eight)
    labels = shapes.components(mask, connectivity=8 if eight else 4)
    np.testing.assert_array_equal(labels, wanted)
    for n, box in enumerate(shapes.boxes(labels), 1):
        y, x = np.nonzero(wanted == n)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    sizes = np.bincount(wanted.ravel())[1:]
    np.testing.assert_array_equal(pixels.component_boxes(labels, len(sizes))[:, 4], sizes)
    large = shapes.components(mask, 3, 8 if eight else 4)
    assert (
        large.max(initial=0) == (sizes >= 3).sum() and ((large > 0) == np.isin(wanted, 1 + np.flatnonzero(sizes >= 3))).all()
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 9), st.integers(0, 10**6), st.booleans())
def test_filled_rings_equal_the_even_odd_rule(corners, seed, hole):
    rng = np.random.default_rng(seed)
    rings = [rng.uniform(-4, 16, (corners, 2))] + ([rng.uniform(2, 9, (4, 2))] if hole else [])
    mask = np.zeros((11, 13), bool)
    pixels.fill_rings(np.concatenate(rings), np.cumsum([0, *map(len, rings)]), mask)
    wanted = np.zeros(mask.shape, bool)
    for y, x in np.ndindex(mask.shape):  # cross every edge with the ray to the left of the pixel's centre
        for ring in rings:
            for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, 0), strict=True):
                if (ay <= y + 0.5) != (by <= y + 0.5) and ax + (y + 0.5 - ay) / (by - ay) * (bx - ax) <= x + 0.5:
                    wanted[y, x] ^= True
    np.testing.assert_array_equal(mask, wanted)


def test_a_square_covers_its_pixels_and_neighbours_share_none():
    left, right = np.zeros((6, 6), bool), np.zeros((6, 6), bool)
    for mask, x in ((left, 0.0), (right, 2.5)):
        pixels.fill_rings(np.array([[x, 1], [x + 2.5, 1], [x + 2.5, 4], [x, 4]]), np.array([0, 4]), mask)
    assert left.sum() + right.sum() == 15 and not (left & right).any()
    far = np.zeros((6, 6), bool)
    pixels.fill_rings(np.array([[-1e300, -1e300], [1e300, -1e300], [1e300, 1e300], [-1e300, 1e300]]), np.array([0, 4]), far)
    assert far.all()
    pixels.fill_rings(np.zeros((0, 2)), np.array([0, 0]), far)


def test_thresholds():
    heat = np.array([[0.1, 0.5, 0.9], [np.nan, 0.4, np.inf]])
    assert shapes.threshold(heat).tolist() == [[False, True, True], [False, False, False]]
    assert shapes.threshold(heat, "percentile", 75).sum() == 1
    assert shapes.threshold(heat, "two", 0.3, 0.8).tolist() == [[0, -1, 1], [-1, -1, -1]]
    assert shapes.threshold(heat, "two", 0.3, 0.8).dtype == np.int8
    none = np.full((2, 2), np.nan)
    assert not any(shapes.threshold(none, how).any() for how in ("fixed", "percentile", "otsu"))


def test_otsu_separates_two_groups_and_equals_the_exhaustive_search():
    rng = np.random.default_rng(0)
    heat = np.where(rng.random((40, 50)) < 0.3, rng.normal(5, 0.3, (40, 50)), rng.normal(1, 0.4, (40, 50)))
    assert 2 < shapes.otsu(heat) < 4
    heat = rng.random((40, 50)) ** 2
    edges = np.histogram_bin_edges(heat, 256)[1:-1]
    spread = [(heat < t).mean() * (heat >= t).mean() * (heat[heat < t].mean() - heat[heat >= t].mean()) ** 2 for t in edges]
    assert shapes.otsu(heat) == pytest.approx(edges[np.argmax(spread)], abs=0.02)
    assert shapes.threshold(np.ones((3, 3)), "otsu").sum() == 0


def guided(heat, image, radius, eps):
    """The guided filter written out: a regression in every window, and the mean of all regressions that see a pixel."""
    guide, (H, W) = image / 255, heat.shape
    window = lambda y, x: np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]  # noqa: E731
    lines = np.empty((H, W, 4))
    for y, x in np.ndindex(H, W):
        colours, p = guide[window(y, x)].reshape(-1, 3), heat[window(y, x)].ravel()
        spread = np.cov(colours.T, bias=True) + eps * np.eye(3)
        slope = np.linalg.solve(spread, (colours * p[:, None]).mean(0) - colours.mean(0) * p.mean())
        lines[y, x] = *slope, p.mean() - slope @ colours.mean(0)
    mean = np.array([[lines[window(y, x)].reshape(-1, 4).mean(0) for x in range(W)] for y in range(H)])
    return (mean[..., :3] * guide).sum(-1) + mean[..., 3]


def test_the_guided_filter_equals_its_definition_and_follows_an_edge():
    rng = np.random.default_rng(0)
    heat, image = rng.random((11, 14)) + 40, rng.integers(0, 256, (11, 14, 3), dtype=np.uint8)
    np.testing.assert_allclose(shapes.refine(heat, image, 2, 1e-2), guided(heat, image, 2, 1e-2), atol=2e-4)
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = (40, 200, 90)
    blurred = np.clip((np.arange(32) - 8) / 16, 0, 1)[None].repeat(32, 0)
    refined = shapes.refine(blurred, image, 6, 1e-4)
    assert refined[16, 16] - refined[16, 15] > 0.3  # 1 / 16 before


def test_no_data_stays_no_data_and_touches_nothing():
    heat, image = np.full((20, 20), 0.5, np.float32), np.full((20, 20, 3), 99, np.uint8)
    heat[:, :8] = np.nan
    refined = shapes.refine(heat, image, 2, 1e-3)
    assert np.isnan(refined[:, :4]).all() and np.allclose(refined[:, 8:], 0.5)


def test_outlines_keep_holes_and_the_transform():
    pytest.importorskip("rasterio", reason="the extra [data] is not installed")
    mask = np.zeros((8, 9), bool)
    mask[1:6, 1:6] = True
    mask[3, 3] = False
    mask[6, 6] = True  # at a corner
    found = shapes.polygons(shapes.components(mask), (10, 0, 500, 0, -10, 900))
    assert len(found) == 1 and found[0]["geometry"]["type"] == "MultiPolygon" and found[0]["properties"] == {"part": 1}
    rings = [ring for part in found[0]["geometry"]["coordinates"] for ring in part]
    assert len(rings) == 3 and (510.0, 890.0) in rings[0] + rings[1] + rings[2]
    four = shapes.polygons(shapes.components(mask, connectivity=4))
    assert [one["geometry"]["type"] for one in four] == ["Polygon", "Polygon"]
    assert shapes.polygons(np.zeros((3, 3), np.int32)) == []


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: shapes.threshold(np.ones((2, 2)), "best"), "choose one of"),
        (lambda: shapes.threshold(np.ones((2, 2)), "percentile", 101), "0 to 100"),
        (lambda: shapes.threshold(np.ones((2, 2)), "two", 0.5, 0.4), "at or above"),
        (lambda: shapes.threshold(np.ones(3)), "shape"),
        (lambda: shapes.components(np.ones((2, 2, 2))), "shape"),
        (lambda: shapes.components(np.ones((2, 2)), connectivity=6), "4 or 8"),
        (lambda: shapes.refine(np.ones((2, 2)), np.ones((3, 2, 3), np.uint8)), "map's size"),
    ],
)
def test_a_bad_request_is_refused(call, says):
    with pytest.raises(DataError, match=says):
        call()
