"""Questions of several parts, and what they are answered with."""

from __future__ import annotations

import numpy as np
import pytest
from rasters import encode, picture, write
from searching import tiny_model

from rsvlm.errors import DataError, ModelError
from rsvlm.search import index as archive, query

pytest.importorskip("pyproj")

TEXTS = ["a red field", "a blue lake"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    write(folder / "in" / "a.tif", picture(320, 320))
    model = tiny_model(TEXTS)
    archive.index(folder / "in", model, folder / "out", model_folder="NAME", stride=0.5, progress=False)
    return archive.open_index(folder / "out"), model, folder


def questions(asked, together=False, rejected=None, **wanted):
    index, model, _ = asked
    request, rejected = query.Request(**wanted), query.Request(**rejected or {})
    request.check(rejected, together)
    return request.questions(rejected, index, model, together)


def test_a_chip_and_a_place_are_most_like_themselves(asked):
    index, _, _ = asked
    row = index.rows([7]).iloc[0]
    place = f"{row['lon']},{row['lat']}"
    found = query.ask(index, questions(asked, keys=[row["key"]], places=[place]), 5)
    assert found.groupby("rank")["key"].first()[1] == row["key"] and found["rank"].tolist() == [1, 2, 3, 4, 5] * 2
    assert found["key"].tolist()[:5] == found["key"].tolist()[5:] and found["score"][0] == pytest.approx(1, abs=1e-3)
    assert found["text"].unique().tolist() == [f"like {row['key']}", f"like {row['lon']:g}, {row['lat']:g}"]
    assert found["model"].unique().tolist() == [index.model_name] and found["licence"].unique().tolist() == ["unknown"]


def test_scores_are_cosines_and_order_is_exact(asked):
    index, _, _ = asked
    some = questions(asked, texts=TEXTS, rejected={"texts": ["a road"]})
    found = query.ask(index, some, len(index) + 5)
    vectors = index.vectors.astype(np.float32)
    for question in some:
        assert np.linalg.norm(question.vector) == pytest.approx(1, abs=1e-5)
        part = found[found["text"] == question.name]
        cosines = vectors @ question.vector
        assert len(part) == len(index)
        np.testing.assert_allclose(part["score"], np.sort(cosines)[::-1], atol=1e-5)
    assert [question.name for question in some] == [f"{text}, not a road^0.5" for text in TEXTS]


def test_parts_count_alike_whatever_their_cosines(asked, tmp_path):
    """A picture's cosines lie further apart than a text's: without one measure for both, the text would say nothing."""
    index, model, folder = asked
    (folder / "like.png").write_bytes(encode(picture(40, 40, 3).transpose(1, 2, 0)))
    wanted = {"texts": TEXTS[:1], "images": [str(folder / "like.png")]}
    (both,) = questions(asked, together=True, **wanted)
    vectors = index.vectors.astype(np.float32)
    text, image = (one.vector for one in questions(asked, **wanted))
    spread = [(vectors @ one).std() for one in (text, image)]
    expected = (vectors @ text) / spread[0] + (vectors @ image) / spread[1]
    assert np.corrcoef(vectors @ both.vector, expected)[0, 1] == pytest.approx(1, abs=1e-4)
    # Weights say how much more.
    heavy = {"texts": [f"{TEXTS[0]}^3"], "images": [f"{folder / 'like.png'} ^ 1"]}
    (heavier,) = questions(asked, together=True, **heavy)
    assert heavier.vector @ text > both.vector @ text and heavier.name == f"{TEXTS[0]}^3, {folder / 'like.png'}"
    (less,) = questions(asked, texts=TEXTS[:1], rejected={"images": [str(folder / "like.png")]})
    assert (vectors[np.argmax(vectors @ less.vector)] @ image) < (vectors @ image).max()


def test_what_makes_no_question_is_refused_with_a_remedy(asked):
    index, _, folder = asked
    (folder / "notes.txt").write_text("no picture")
    key = index.rows([0])["key"][0]
    for wanted, more, words in (
        ({}, {}, "say what to look for: --text"),
        ({}, {"rejected": {"texts": ["a road"]}}, "say what to look for"),
        ({"texts": ["a^2", "b"]}, {}, "ask --together"),
        ({"texts": ["a^0"]}, {}, "a number above 0"),
        ({"images": ["absent.png"]}, {}, "absent.png cannot be read"),
        ({"images": [str(folder / "notes.txt")]}, {}, "notes.txt: "),
        ({"places": ["here"]}, {}, "give longitude and latitude"),
        ({"places": ["10,91"]}, {}, "give longitude and latitude"),
        ({"places": ["0,0"]}, {}, "lies on no chip"),
        ({"keys": ["<b>absent\n"]}, {}, "has no chip '<b>absent'"),
        ({"texts": [" "]}, {}, "text"),
        ({"keys": [key]}, {"rejected": {"keys": [f"{key}^1"]}}, "are the same"),
    ):
        with pytest.raises(DataError, match=words.replace("(", r"\(")):
            questions(asked, **wanted, **more)
    with pytest.raises(DataError, match="another model"):
        query.parts(index, tiny_model(TEXTS, seed=1), TEXTS)


def test_pictures_of_any_mode_are_looked_for(asked):
    from PIL import Image

    index, model, folder = asked
    whole = Image.fromarray(picture(48, 48, 1).transpose(1, 2, 0))
    names = []
    for mode in ("L", "P", "RGBA", "CMYK", "1"):
        path = folder / f"like-{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        whole.convert(mode).save(path)
        names.append(str(path))
    found = query.ask(index, questions(asked, images=names), 1)
    assert found["text"].tolist() == names and np.isfinite(found["score"]).all()


def test_weights_are_read_from_the_end():
    assert query.weighted("a harbour") == ("a harbour", 1.0) and query.weighted("a^b", 0.5) == ("a^b", 0.5)
    assert query.weighted("10^2") == ("10", 2.0) and query.weighted("a photo.jpg ^ .5") == ("a photo.jpg", 0.5)


def test_a_tower_without_texts_says_so(tmp_path):
    import timm

    from rsvlm.model.others.timm_towers import TimmEncoder

    encoder = TimmEncoder("timm:resnet18", timm.create_model("resnet18", num_classes=0).eval(), lambda: "00")
    write(tmp_path / "in" / "a.tif", picture(64, 64))
    archive.index(tmp_path / "in", encoder, tmp_path / "out", size_px=64, progress=False)
    with pytest.raises(ModelError, match="reads no texts"):
        query.parts(archive.open_index(tmp_path / "out"), encoder, TEXTS)
