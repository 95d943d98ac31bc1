"""Evaluation sets as people have them on disk."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import DATA, png, toy_sample, write_toy

from rsvlm.data import benchmarks
from rsvlm.errors import DataError
from rsvlm.model import images


@pytest.fixture
def karpathy(tmp_path):
    """A miniature in RSICD's layout, with its quirks: repeated, empty and padded captions, a missing image."""
    rows = []
    (tmp_path / "RSICD_images").mkdir()
    for index in range(6):
        array, captions = toy_sample(index)
        name = f"airport_{index}.jpg"
        if index != 4:
            (tmp_path / "RSICD_images" / name).write_bytes(png(array))
        sentences = [{"raw": captions[0]}, {"raw": captions[0]}, {"raw": " " if index == 2 else captions[1]}, {"raw": ""}]
        sentences = [{"raw": ""}] if index == 5 else sentences
        rows.append({"filename": name, "split": "val" if index == 1 else "test", "sentences": sentences, "imgid": index})
    (tmp_path / "dataset_rsicd.json").write_text(json.dumps({"images": rows, "dataset": "RSICD"}))
    return tmp_path


def test_karpathy_samples_have_images_and_all_their_captions(karpathy):
    skipped = Counter()
    samples = list(benchmarks.samples(karpathy, "test", skipped=skipped))
    assert [sample.key for sample in samples] == ["airport_0.jpg", "airport_2.jpg", "airport_3.jpg"]
    assert [len(sample.captions) for sample in samples] == [3, 2, 3]  # equal captions stay, blank ones go
    assert skipped == {"no image file": 1, "no caption": 1}
    np.testing.assert_array_equal(images.decode(samples[0].image), toy_sample(0)[0])
    assert benchmarks.name(karpathy) == "rsicd"


def test_shards_are_samples_too(tmp_path):
    folder = write_toy(tmp_path / "toys", {"test": 5})
    assert len(list(benchmarks.samples(folder, "test"))) == 5
    assert benchmarks.name(folder) == "toys"


def test_a_wrong_split_names_those_there(karpathy):
    with pytest.raises(DataError, match=r"no split 'train'.*val"):
        benchmarks.samples(karpathy, "train")


def test_unknown_layouts_say_what_was_expected(tmp_path):
    with pytest.raises(DataError, match="expected .*tar"):
        benchmarks.samples(tmp_path, "test")
    with pytest.raises(DataError, match="not a folder"):
        benchmarks.samples(tmp_path / "nowhere", "test")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        benchmarks.samples(tmp_path, "test")


def test_images_that_are_nowhere_are_named(karpathy):
    (karpathy / "RSICD_images").rename(karpathy.parent / "elsewhere")
    with pytest.raises(DataError, match=r"airport_0\.jpg"):
        benchmarks.samples(karpathy, "test")


def test_fingerprint_follows_the_content(karpathy):
    before = benchmarks.fingerprint(karpathy)
    assert before == benchmarks.fingerprint(karpathy)
    (karpathy / "RSICD_images" / "new.jpg").write_bytes(b"x")
    assert benchmarks.fingerprint(karpathy) != before


def test_the_real_rsicd_is_read():
    folder = DATA / "rsicd"
    if not folder.is_dir():
        pytest.skip("RSICD is not here: put dataset_rsicd.json and RSICD_images/ into $RSVLM_DATA/rsicd")
    first = next(iter(benchmarks.samples(folder, "val")))
    assert images.decode(first.image).shape == (224, 224, 3) and len(first.captions) == 5
