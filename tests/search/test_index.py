"""An archive of imagery, indexed and asked."""

from __future__ import annotations

import numpy as np
import pytest
from rasters import picture, write
from searching import tiny_model

from rsvlm.book.figures import galleries
from rsvlm.errors import DataError
from rsvlm.localization import heat
from rsvlm.model import embed
from rsvlm.search import index as archive

TEXTS = ["a red field", "a blue lake"]


@pytest.fixture
def indexed(tmp_path):
    array = picture(96, 130)
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
    geometry = archive.features(found)["features"][0]["geometry"]
    assert geometry["coordinates"][0][0] == [pytest.approx(best["west"]), pytest.approx(best["south"])]
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
