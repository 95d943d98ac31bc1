"""An archive of imagery, indexed and asked."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from rasters import SIDE, ZOOM, X, Y, mosaic, picture, write, write_tiles
from searching import tiny_model

from rsvlm.book.figures import galleries
from rsvlm.errors import DataError, ModelError
from rsvlm.localization import heat
from rsvlm.model import embed
from rsvlm.search import index as archive

pyproj = pytest.importorskip("pyproj")
from_origin = pytest.importorskip("rasterio.transform").from_origin

TEXTS = ["a red field", "a blue lake"]


@pytest.fixture
def indexed(tmp_path):
    array = picture(96, 128)
    write(tmp_path / "scenes" / "a.tif", array)
    hidden = array.copy()
    hidden[:, :40] = 0
    write(tmp_path / "scenes" / "b.tif", hidden, nodata=0)
    model = tiny_model(TEXTS)
    facts = archive.index(tmp_path / "scenes", model, tmp_path / "index", batch_size=5, progress=False)
    return model, facts, tmp_path / "index", array


def test_the_best_chips_are_those_of_a_direct_search(indexed):
    model, facts, folder, array = indexed
    assert facts["chips"] == 12 + 8 and facts["skipped"] == {"all nodata": 4}
    found = archive.query(folder, TEXTS, model, k=3)
    assert found["rank"].tolist() == [1, 2, 3] * 2 and found["text"].tolist() == ["a red field"] * 3 + ["a blue lake"] * 3
    parts = [array[:, y : y + 32, x : x + 32].transpose(1, 2, 0) for y in (0, 32, 64) for x in (0, 32, 64, 96)]
    scores = embed.images(model, parts) @ heat.text_vectors(model, ["a red field"])[0]
    assert found["score"][0] == pytest.approx(scores.max(), abs=1e-5)
    best = found.iloc[0]
    y, x = divmod(int(scores.argmax()), 4)
    assert (best["top_px"], best["left_px"]) == (32 * y, 32 * x)
    shown = archive.pictures(folder, found)
    np.testing.assert_array_equal(shown[0], parts[int(scores.argmax())])
    feature = archive.features(found)["features"][0]
    assert best["file"] == feature["properties"]["file"] == "a.tif"
    assert "cosine" in galleries.chip_matches(found.to_dict("records"), shown)


def test_an_index_of_another_model_or_none_is_refused(indexed, tmp_path):
    _, _, folder, _ = indexed
    with pytest.raises(DataError, match="another model"):
        archive.query(folder, ["a red field"], tiny_model(TEXTS, seed=1))
    (folder / "index.json").write_text("[]")
    with pytest.raises(DataError, match="no finished index"):
        archive.query(folder, ["a red field"], tiny_model(TEXTS))
    with pytest.raises(DataError, match="text"):
        heat.text_vectors(tiny_model(TEXTS), [" "])


def test_limits_are_common_to_an_archive_and_stay_what_they_were(tmp_path):
    for name, factor in (("sea", 3), ("town", 12)):
        write(tmp_path / "scenes" / f"{name}.tif", picture(64, 64).astype(np.uint16) * factor, photometric="rgb")
    model = tiny_model(TEXTS)
    facts = archive.index(tmp_path / "scenes", model, tmp_path / "index", progress=False)
    sea, town = facts["shown"]["sea"], facts["shown"]["town"]
    assert sea["limits"] == town["limits"] and sea["bands"] == [1, 2, 3] and sea["guesses"] == []
    found = archive.query(tmp_path / "index", TEXTS[:1], model, k=8)
    before = archive.pictures(tmp_path / "index", found)
    write(tmp_path / "scenes" / "clouds.tif", picture(64, 64).astype(np.uint16) * 200, photometric="rgb")
    for one, other in zip(before, archive.pictures(tmp_path / "index", found), strict=True):
        np.testing.assert_array_equal(one, other)
    given = archive.index(tmp_path / "scenes", model, tmp_path / "other", limits=(0, 3060), bands=(3, 2, 1), progress=False)
    assert all(one["limits"] == [[0, 3060]] * 3 and one["bands"] == [3, 2, 1] for one in given["shown"].values())
    assert len(archive.pictures(tmp_path / "other", archive.query(tmp_path / "other", TEXTS[:1], model, k=2))) == 2


def test_an_index_reaches_to_every_edge_and_says_how_far(tmp_path):
    model = tiny_model(TEXTS)
    write(tmp_path / "in" / "wide.tif", picture(60, 75))
    write(tmp_path / "in" / "narrow.tif", picture(100, 30), transform=from_origin(470_000, 4_300_000, 10, 10))
    facts = archive.index(tmp_path / "in", model, tmp_path / "all", progress=False)
    assert facts["ground_under_chips"] == 1 and facts["chips"] == 2 * 3 + 4 and facts["skipped"] == {}
    table = pd.read_parquet(tmp_path / "all" / "chips.parquet")
    for name, width, height in (("wide", 75, 60), ("narrow", 30, 100)):
        part = table[table["source"] == name]
        seen = np.zeros((height, width), bool)
        for left, top, wide, high in part[["left_px", "top_px", "width_px", "height_px"]].astype(int).to_numpy():
            assert left >= 0 and top >= 0 and left + wide <= width and top + high <= height and wide == high
            seen[top : top + high, left : left + wide] = True
        assert seen.all()
    # Without them the loss is told, for each source too.
    facts = archive.index(tmp_path / "in", model, tmp_path / "less", cover_edges=False, progress=False)
    shares = {source["file"]: source["ground_under_chips"] for source in facts["sources"]}
    assert shares == {"narrow.tif": 0, "wide.tif": pytest.approx(2 * 32 * 32 / (60 * 75), abs=0.01)}
    assert facts["ground_under_chips"] == pytest.approx(2 * 32 * 32 / (60 * 75 + 30 * 100), abs=0.01)
    assert facts["skipped"] == {"smaller than one chip": 1}


def test_reasons_of_several_sources_are_added_up(tmp_path):
    write(tmp_path / "in" / "a.tif", picture(32, 32))
    for name in "bcd":
        write(tmp_path / "in" / f"{name}.tif", picture(20, 20))
    facts = archive.index(tmp_path / "in", tiny_model(TEXTS), tmp_path / "out", cover_edges=False, progress=False)
    assert facts["skipped"] == {"smaller than one chip": 3}


def test_every_answer_leads_to_its_file(tmp_path):
    """Also in folders of folders, in other scripts, where two files share a stem, and in a mosaic of tiles."""
    model, folder = tiny_model(TEXTS), tmp_path / "in"
    names = ["2024/coast/港湾.tif", "2024/coast/農地.tif", "ortho.tif", "ortho.tiff"]
    for number, name in enumerate(names):
        write(folder / name, picture(32, 32, number), transform=from_origin(460_000 + 1000 * number, 4_300_000, 10, 10))
    write_tiles(folder / "tiles", mosaic(1, 1)[1], "{z}/{x}/{y}.png")
    facts = archive.index(folder, model, tmp_path / "out", size_px=32, progress=False)
    assert {source["file"] for source in facts["sources"]} >= set(names)
    matches = archive.query(tmp_path / "out", TEXTS[:1], model, k=50)
    expected = [*names, *[f"tiles/{ZOOM}/{X}/{Y}.png"] * (SIDE // 32) ** 2]
    assert sorted(matches["file"]) == sorted(expected)
    assert [feature["properties"]["file"] for feature in archive.features(matches)["features"]] == matches["file"].tolist()
    to_grid = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32629", always_xy=True)
    for row, shown in zip(matches.itertuples(), archive.pictures(tmp_path / "out", matches)):
        if row.file in names:
            number = names.index(row.file)
            assert to_grid.transform(row.lon, row.lat)[0] == pytest.approx(460_160 + 1000 * number, abs=1)
            np.testing.assert_array_equal(shown, picture(32, 32, number).transpose(1, 2, 0))


def test_footprints_are_outlines_and_not_boxes_around_them(tmp_path):
    """In this projection up is some degrees from north: a box in degrees would reach beyond the picture."""
    model, corner = tiny_model(TEXTS), (4_836_315.0, 3_012_819.0)
    write(tmp_path / "in" / "a.tif", picture(32, 32), "EPSG:3035", from_origin(*corner, 1, 1))
    archive.index(tmp_path / "in", model, tmp_path / "out", progress=False)
    feature = archive.features(archive.query(tmp_path / "out", TEXTS[:1], model))["features"][0]
    ring = np.array(feature["geometry"]["coordinates"][0])
    x, y = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3035", always_xy=True).transform(*ring.T)
    expected = [(0, 0), (0, -32), (32, -32), (32, 0), (0, 0)]  # counter-clockwise
    np.testing.assert_allclose(np.stack([x, y], 1) - corner, expected, atol=0.01)


def test_an_index_of_an_older_form_is_refused(indexed):
    model, facts, folder, _ = indexed
    (folder / "index.json").write_text(json.dumps(facts | {"form": 1}))
    with pytest.raises(DataError, match="another version: make it with"):
        archive.query(folder, TEXTS[:1], model)


def test_what_an_index_gives_to_others(indexed):
    model, facts, folder, array = indexed
    index = archive.open_index(folder)
    assert index.facts == json.loads((folder / "index.json").read_text()) and len(index) == 20
    assert index.vectors.dtype == np.float16 and index.vectors.shape == (20, model.config.text_width)
    np.testing.assert_allclose(np.linalg.norm(index.vectors.astype(np.float32), axis=1), 1, atol=1e-3)
    assert {"key", "source", "file", "scale", "lon", "lat", "outline"} <= set(index.chips) and index.chips["key"].is_unique
    assert index.chips["scale"].unique().tolist() == ["32 px"]
    shown = index.pictures([5, 0])
    np.testing.assert_array_equal(shown[1], array[:, :32, :32].transpose(1, 2, 0))
    np.testing.assert_array_equal(index.pictures(index.rows([5]))[0], shown[0])


def test_an_archive_answers_pictures_by_a_tower_without_texts(tmp_path):
    import timm

    from rsvlm.model.others.timm_towers import TimmEncoder

    torch.manual_seed(0)
    encoder = TimmEncoder("timm:resnet18", timm.create_model("resnet18", num_classes=0).eval(), lambda: "00")
    for number in range(3):
        write(
            tmp_path / "in" / f"{number}.tif",
            picture(64, 64, number),
            transform=from_origin(460_000 + 1000 * number, 4_300_000, 10, 10),
        )
    archive.index(tmp_path / "in", encoder, tmp_path / "out", size_px=64, model_folder="timm:resnet18:x.pth", progress=False)
    assert archive.read_facts(tmp_path / "out")["model"] == "timm:resnet18:x.pth"
    matches = archive.query(tmp_path / "out", [], encoder, k=3, images={"like.png": picture(64, 64, 1).transpose(1, 2, 0)})
    assert matches["file"][0] == "1.tif" and matches["text"].unique().tolist() == ["like.png"]
    assert matches["score"][0] == pytest.approx(1, abs=1e-4) and matches["score"][1] < 0.9999
    with pytest.raises(ModelError, match="reads no texts"):
        archive.query(tmp_path / "out", TEXTS[:1], encoder)


def test_what_is_no_source_counts_once_at_several_scales_and_blurred_chips_are_told(tmp_path, caplog):
    write(tmp_path / "scenes" / "a.tif", picture(96, 96))
    (tmp_path / "scenes" / "broken.tif").write_bytes(b"II*\0garbage")
    facts = archive.index(tmp_path / "scenes", tiny_model(TEXTS), tmp_path / "index", chip_m=(40, 320, 480), progress=False)
    assert facts["skipped"]["raster cannot be used"] == 1
    told = [record.getMessage() for record in caplog.records if "blurred" in record.getMessage()]
    assert len(told) == 1 and "chips of 40 m of 1 sources" in told[0] and "those of a have 4 pixels a side" in told[0]


def test_memory_does_not_grow_with_the_number_of_scenes(tmp_path):
    """Of each scene more a few thousand bytes stay in memory that name it, and not its pixels."""
    model, pixels, peaks = tiny_model(TEXTS), picture(256, 256), {}
    for count in (1, 10, 200):  # what the first one loads is not counted
        for number in range(count):
            place = from_origin(400_000 + 2560 * (number % 20), 4_300_000 - 2560 * (number // 20), 10, 10)
            write(tmp_path / f"{count}" / f"{number:03d}.tif", pixels, transform=place)
        tracemalloc.start()
        facts = archive.index(
            tmp_path / f"{count}", model, tmp_path / f"index-{count}", size_px=128, batch_size=16, progress=False
        )
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert facts["chips"] == 4 * count
    assert (peaks[200] - peaks[10]) / 190 < pixels.nbytes / 4, peaks


def test_what_is_left_out_is_told_with_its_count_behind_it(tmp_path):
    facts = {"ground_under_chips": 1, "sources": [], "chips": 3, "embedded": 3, "scales": {}}
    told = archive.told(tmp_path, facts | {"skipped": {"raster cannot be used": 2, "all nodata": 1_500}})
    assert told[1:] == ["  left out: raster cannot be used (2)", "  left out: all nodata (1,500)"]


def test_where_no_chip_can_be_read_the_reasons_are_words(tmp_path):
    write(tmp_path / "in" / "a.tif", np.zeros((3, 64, 64), np.uint8), nodata=0)
    with pytest.raises(DataError, match=r"could be read: all nodata \(4\)"):
        archive.index(tmp_path / "in", tiny_model(TEXTS), tmp_path / "out", progress=False)
