"""Benchmarks are read in the layouts of their authors, made small."""

import json
import os
import re
from collections import Counter

import numpy as np
import pytest
from conftest import DATA, png, toy_sample, write_tar, write_toy

from rsvlm.data import benchmarks, catalogue, tables
from rsvlm.errors import DataError
from rsvlm.model import images
from rsvlm.records import text

KARPATHY = {
    "RSICD": ("dataset_rsicd.json", "RSICD_images", "airport_{}.jpg", "airport"),
    "RSITMD": ("dataset_RSITMD.json", "images", "bareland_{}.tif", "bare land"),
    "UCM-Captions": ("dataset.json", "imgs", "11{}.tif", "airplane"),
    "Sydney-Captions": ("dataset.json", "imgs", "{}.tif", None),
}
CLASSES = {
    "AID": ["AID/Airport", "AID/BareLand"],
    "Million-AID": ["agriculture_land/arable_land/dry_field", "transportation_land/bridge"],
    "RESISC45": ["NWPU-RESISC45/airplane", "NWPU-RESISC45/sea_ice"],
    "EuroSAT": ["2750/AnnualCrop", "2750/SeaLake"],
    "UCM": ["UCMerced_LandUse/Images/agricultural", "UCMerced_LandUse/Images/tenniscourt"],
    "WHU-RS19": ["WHU-RS19/footballField", "WHU-RS19/Airport"],
    "RSSCN7": ["aGrass", "gParking"],
    "fMoW": ["airport/airport_0", "multi-unit_residential/multi-unit_residential_3"],
    "PatternNet": ["images/airplane", "images/oil_gas_field"],
    "MLRSNet": ["Images/harbor&port", "Images/swimmimg_pool"],
    "RSI-CB256": ["RSI-CB256/transportation/parkinglot", "RSI-CB256/water area/sea"],
    "RSI-CB128": ["RSI-CB128/woodland/city_green_tree", "RSI-CB128/water area/sea"],
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The catalogue with no expected numbers, since miniatures have none; tests of the checks put some back."""
    content = json.loads(json.dumps(catalogue._file("benchmarks.json")))
    for entry in content["benchmarks"].values():
        entry["splits"] = {}
    real = catalogue._file
    monkeypatch.setattr(catalogue, "_file", lambda file: content if file == "benchmarks.json" else real(file))
    return content["benchmarks"]


def picture(path, index=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(toy_sample(index)[0]))


def karpathy(folder, name, rows=None, images=3):
    table, home, pattern, _ = KARPATHY[name]
    for index in range(images):
        picture(folder / home / pattern.format(index), index)
    if rows is None:
        rows = [
            {
                "filename": pattern.format(i),
                "split": "test",
                "imgid": i,
                "sentids": [5 * i],
                "sentences": sentences(" A plane .", "", "b"),
            }
            for i in range(images)
        ]
    (folder / table).write_text(json.dumps({"images": rows, "dataset": name}))
    return folder


def sentences(*texts):
    return [{"raw": text, "tokens": text.split(), "sentid": i} for i, text in enumerate(texts)]


@pytest.mark.parametrize("name", KARPATHY)
def test_karpathy_sets_are_read_in_their_own_layout(tmp_path, name):
    skipped = Counter()
    found = list(benchmarks.samples(karpathy(tmp_path, name), "test", name=name, partial=True, skipped=skipped))
    assert len(found) == 3 and not skipped
    assert found[0].captions == [" A plane .", "b"]  # as on disk; the empty one is counted
    assert found[0].record["empty_captions"] == 1
    assert found[0].record.get("class") == KARPATHY[name][3]


def nwpu(folder, flat=False):
    rows = [
        {"filename": f"sea_ice_00{i}.jpg", "split": "test", "raw": "x", "raw_1": "y", "raw_2": "", "imgid": i}
        for i in range(3)
    ]
    for row in rows:
        picture(folder / "NWPU_images" / ("" if flat else "sea_ice") / row["filename"])
    (folder / "dataset_nwpu.json").write_text(json.dumps({"sea_ice": rows}))
    return folder


@pytest.mark.parametrize("flat", [False, True])
def test_nwpu_captions_has_a_table_of_another_shape(tmp_path, flat):
    found = list(benchmarks.samples(nwpu(tmp_path, flat), "test", name="NWPU-Captions"))
    assert [s.key for s in found] == [f"sea_ice/sea_ice_00{i}.jpg" for i in range(3)]
    assert found[0].captions == ["x", "y"] and found[0].record["class"] == "sea ice"


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8"), ("\t", "utf-8-sig"), (";", "gb18030")])
def test_tables_have_several_lines_per_image_and_any_delimiter(tmp_path, delimiter, encoding):
    lines = [("filename", "title"), ("a.jpg", "an island"), ("b.jpg", "岛"), ("a.jpg", "water")]
    (tmp_path / "rsicd_test.csv").write_text("\n".join(delimiter.join(line) for line in lines), encoding=encoding)
    (tmp_path / "rsicd_train.csv").write_text("filename,title\nc.jpg,other\n")
    for name in "abc":
        picture(tmp_path / "RSICD_images" / f"{name}.jpg")
    found = {s.key: s.captions for s in benchmarks.samples(tmp_path, "test")}
    assert found == {"a.jpg": ["an island", "water"], "b.jpg": ["岛"]}
    assert [s.key for s in benchmarks.samples(tmp_path, "train")] == ["c.jpg"]


def test_a_table_may_have_a_column_of_splits_and_names_with_a_folder_too_many(tmp_path):
    (tmp_path / "all.csv").write_text('path,caption,split\npack/a.jpg,"one, two",val\npack/b.jpg,three,test\n')
    picture(tmp_path / "img" / "a.jpg")
    assert [s.captions for s in benchmarks.samples(tmp_path, "val")] == [["one, two"]]
    with pytest.raises(DataError, match="no image of split 'train'"):
        benchmarks.samples(tmp_path, "train")


def test_two_tables_of_one_split_are_not_guessed_between(tmp_path):
    for name in ("test_a.csv", "test_b.csv"):
        (tmp_path / name).write_text("image,caption\na.jpg,x\n")
    with pytest.raises(DataError, match="several tables.*test_a.csv, test_b.csv"):
        benchmarks.samples(tmp_path, "test")


def classes_on_disk(folder, name, split=None):
    for index, place in enumerate(CLASSES[name]):
        for number in range(2):
            picture(folder / (split or "") / place / f"{place.rpartition('/')[2]}_{number}.jpg", index)
    return folder


@pytest.mark.parametrize("name", CLASSES)
def test_folders_of_classes_are_read_in_their_own_layout(tmp_path, name):
    split = {"fMoW": "val", "Million-AID": "train"}.get(name)
    folder = classes_on_disk(tmp_path, name, split)
    words, items = benchmarks.labelled(folder, name, split, partial=True)
    items = list(items)
    assert words == catalogue.class_names(name) and len(set(words)) == len(words)
    assert len(items) == 4 and len({key for key, _, _ in items}) == 4
    labels = [label for _, _, label in items]
    assert len(set(labels)) == 2 and labels == [labels[0]] * 2 + [labels[2]] * 2
    for key, data, label in items:
        scene = next(part for part in key.split("/")[::-1][1:] if catalogue.key_of(part) in catalogue.class_list(name)[0])
        assert catalogue.class_list(name)[0][catalogue.key_of(scene)] == label
        assert data[:4] == b"\x89PNG"


def test_the_second_copy_of_every_scene_of_fmow_is_left_out(tmp_path):
    folder = classes_on_disk(tmp_path, "fMoW", "val")
    picture(tmp_path / "val/airport/airport_0/airport_0_0_msrgb.jpg")
    assert len(list(benchmarks.labelled(folder, "fMoW", "val", partial=True)[1])) == 4


def test_file_lists_choose_the_split(tmp_path, caplog):
    folder = classes_on_disk(tmp_path, "RESISC45")
    (folder / "resisc45-test.txt").write_text("airplane_1.jpg\nsea_ice_0.jpg\nsea_ice_7.jpg\n")
    _, items = benchmarks.labelled(folder, "resisc45", "test", partial=True)
    assert [key.rpartition("/")[2] for key, _, _ in items] == ["airplane_1.jpg", "sea_ice_0.jpg"]
    assert "1 files of the list" in caplog.text and "sea_ice_7" in caplog.text
    assert "MD5" in caplog.text  # it is not the list that everybody uses
    with pytest.raises(DataError, match="no split 'val'.*no file list.*'all'"):
        benchmarks.labelled(folder, "RESISC45", "val")


def test_file_lists_may_name_folders_and_labels(tmp_path):
    folder = classes_on_disk(tmp_path, "UCM")
    (folder / "test.txt").write_text("agricultural/agricultural_0.tif 0\ntenniscourt/tenniscourt_1.tif 20\n")
    _, items = benchmarks.labelled(folder, "UCM", "test", partial=True)
    assert [label for _, _, label in items] == [0, 20]


def test_a_listed_name_in_two_folders_is_an_error(tmp_path):
    for place in CLASSES["AID"]:
        picture(tmp_path / place / "1.jpg")
    (tmp_path / "aid-test.txt").write_text("1.jpg\n")
    with pytest.raises(DataError, match="'1'.*more than one folder"):
        benchmarks.labelled(tmp_path, "AID", "test", partial=True)
    (tmp_path / "aid-test.txt").write_text("1.jpg\n1.jpg\n")
    with pytest.raises(DataError, match="more than once"):
        benchmarks.labelled(tmp_path, "AID", "test", partial=True)


def test_a_pack_of_skyscript_brings_its_own_words(tmp_path):
    (tmp_path / "classnames.txt").write_text("airport apron\nbarn\n")
    (tmp_path / "img_txt_pairs_val.csv").write_text("filepath,label\nimages/a.jpg,barn\nimages/b.jpg,airport apron\n")
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.jpg")
    words, items = benchmarks.labelled(tmp_path, "SkyScript", "val")
    assert words == ["airport apron", "barn"] and [label for _, _, label in items] == [1, 0]
    (tmp_path / "img_txt_pairs_val.csv").write_text("filepath,label\nimages/a.jpg,moon\n")
    with pytest.raises(DataError, match="no class of SkyScript.*'moon'"):
        benchmarks.labelled(tmp_path, "SkyScript", "val")
    with pytest.raises(DataError, match="SkyScript has no class list"):
        catalogue.class_names("SkyScript")


def test_a_subset_is_read_from_its_own_list_and_with_its_own_words(tmp_path, small, caplog):
    small["AID"]["splits"] = {"all": {"images": 3}, "skyscript-test": {"images": 2}}
    picture(tmp_path / "AID" / "Airport" / "c.jpg")
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.jpg")
    with pytest.raises(DataError, match="has no aid_img_txt_pairs_test.csv: split 'skyscript-test' of AID.*classnames.txt"):
        benchmarks.labelled(tmp_path, "AID", "skyscript-test")
    (tmp_path / "aid_img_txt_pairs_test.csv").write_text("filepath,label\nimages/a.jpg,bare land\nimages/b.jpg,aerodrome\n")
    (tmp_path / "aid_img_txt_pairs_train.csv").write_text("filepath,label\nimages/a.jpg,aerodrome\n")
    (tmp_path / "skyscript-test.csv").write_text("filepath,label,split\nimages/a.jpg,aerodrome,skyscript-test\n")
    with pytest.raises(DataError, match="has no classnames.txt"):  # the words are not those of the catalogue
        benchmarks.labelled(tmp_path, "AID", "skyscript-test")
    (tmp_path / "classnames.txt").write_text("aerodrome\nbare land\n")
    words, items = benchmarks.labelled(tmp_path, "AID", "skyscript-test")
    assert words == ["aerodrome", "bare land"] and [label for _, _, label in items] == [1, 0] and not caplog.text
    small["AID"]["splits"]["skyscript-test"]["images"] = 9
    with pytest.raises(DataError, match="has 2 of 9 images"):
        benchmarks.labelled(tmp_path, "AID", "skyscript-test")
    benchmarks.labelled(tmp_path, "AID", "skyscript-test", partial=True)
    assert "expected 9: its figures are not those of AID" in caplog.text


def test_unnamed_folders_are_classes(tmp_path):
    for place in ("mine/dryLake", "mine/salt_flat"):
        picture(tmp_path / place / "1.png")
    words, items = benchmarks.labelled(tmp_path)
    assert words == ["dry lake", "salt flat"] and [label for _, _, label in items] == [0, 1]


def test_unnamed_splits_hold_classes_of_any_script(tmp_path):
    for place in ("train/机场", "train/海滩", "val/机场"):
        picture(tmp_path / place / "1.png")
    words, items = benchmarks.labelled(tmp_path)
    assert words == ["机场", "海滩"] and [label for _, _, label in items] == [0, 1, 0]
    words, items = benchmarks.labelled(tmp_path, split="val")
    assert words == ["机场", "海滩"] and [label for _, _, label in items] == [0]  # the labels of all splits are the same


def test_the_archive_beside_a_table_is_not_taken_for_shards(tmp_path):
    folder = karpathy(tmp_path, "RSICD")
    write_tar(folder / "RSICD_images.tar", {"airport_0.jpg": b"x"})
    assert len(list(benchmarks.samples(folder, "test"))) == 3


def test_another_json_beside_shards_is_not_taken_for_a_table(tmp_path):
    (tmp_path / "stage.json").write_text('{"name": "pairs", "parts": {}}')
    write_tar(tmp_path / "test" / "000000.tar", {"a.png": png(toy_sample(0)[0]), "a.txt": b"A field."})
    assert [sample.key for sample in benchmarks.samples(tmp_path, "test")] == ["a"]


def test_the_number_of_an_image_of_ucm_tells_its_class():
    entry = catalogue.find("UCM-Captions")[1]
    told = [catalogue.scene_of(f"{number}.tif", entry) for number in (1, 100, 101, 2100, 2101, 0)]
    assert told == ["agricultural", "agricultural", "airplane", "tennis court", None, None]


def test_one_name_means_the_benchmark_of_that_task():
    assert catalogue.find("nwpu", "retrieval")[0] == "NWPU-Captions"
    assert catalogue.find("NWPU", "classification")[0] == "RESISC45"
    assert catalogue.find("ucm", "retrieval")[0] == "UCM-Captions" and catalogue.find("ucm")[0] == "UCM"


def test_scenes_of_rsicd_are_labels(tmp_path):
    rows = [
        {"filename": f, "split": "val", "sentences": sentences("x")} for f in ("port_1.jpg", "00002.jpg", "storagetanks_3.jpg")
    ]
    for row in rows:
        picture(tmp_path / "RSICD_images" / row["filename"])
    karpathy(tmp_path, "RSICD", rows, images=0)
    skipped = Counter()
    words, items = benchmarks.labelled(tmp_path, "RSICD-scenes", "val", skipped=skipped)
    assert [(key, words[label]) for key, _, label in items] == [
        ("port_1.jpg", "port"),
        ("storagetanks_3.jpg", "storage tanks"),
    ]
    assert skipped == {"no scene class": 1} and len(words) == 30


def test_shards_have_labels_where_their_records_do(tmp_path):
    def member(key, **record):
        return {f"{key}.png": png(toy_sample(0)[0]), f"{key}.json": json.dumps({"captions": ["x"]} | record).encode()}

    write_tar(
        tmp_path / "test" / "0.tar", member("a", **{"class": "salt_flat"}) | member("b") | member("c", **{"class": "barn"})
    )
    skipped = Counter()
    words, items = benchmarks.labelled(tmp_path, split="test", skipped=skipped)
    assert words == ["barn", "salt flat"] and [(key, label) for key, _, label in items] == [("a", 1), ("c", 0)]
    assert skipped == {"no class": 1}
    seas = {"a": 0.9, "b": 0.2, "c": 0}
    members = [member(key, measurements={"sea_share": sea}) for key, sea in seas.items()]
    write_tar(tmp_path / "test" / "0.tar", members[0] | members[1] | members[2])
    assert [label for _, _, label in benchmarks.labelled(tmp_path, "blue-marble", "test")[1]] == [0, 1, 2]
    with pytest.raises(DataError, match="no record.*'class'"):
        benchmarks.labelled(tmp_path, split="test")


def test_shards_of_clip_benchmark_have_numbers_for_classes_and_no_captions(tmp_path):
    members = {}
    for index, number in enumerate((b"1", b"0\n", b"7", b"x")):
        members |= {f"s{index}.png": png(toy_sample(index)[0]), f"s{index}.cls": number}
    write_tar(tmp_path / "test" / "0.tar", members)
    with pytest.raises(DataError, match="classnames.txt with the names of the numbers"):
        benchmarks.labelled(tmp_path, split="test")
    (tmp_path / "classnames.txt").write_text("sea ice\nbarn\n")
    (tmp_path / "dataset_type.txt").write_text("classification")
    skipped = Counter()
    words, items = benchmarks.labelled(tmp_path, split="test", skipped=skipped)
    assert words == ["sea ice", "barn"] and [(key, label) for key, _, label in items] == [("s0", 1), ("s1", 0)]
    assert skipped == {"no class": 2}


def test_all_splits_of_shards_are_every_image_and_unread_shards_are_told(tmp_path, caplog):
    picture = png(toy_sample(0)[0])
    for name in ("a.tar", "test/0.tar"):
        write_tar(tmp_path / name, {f"{name[0]}.png": picture, f"{name[0]}.json": json.dumps({"class": name[0]}).encode()})
    assert sorted(word for _, _, word in benchmarks.labelled(tmp_path)[1]) == [0, 1]  # those beside the folders are of train
    (tmp_path / "test").rename(tmp_path / "train")
    assert len(list(benchmarks.labelled(tmp_path)[1])) == 1 and "1 shards beside the folder train are not read" in caplog.text


def test_classes_that_differ_in_a_sign_alone_are_two(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(toy_sample(number)[0]))
    (tmp_path / "all.csv").write_text("image,label\n0.png,-1\n1.png,1\n2.png,Sea_Ice\n3.png,sea ice\n")
    words, items = benchmarks.labelled(tmp_path)
    assert [words[label] for _, _, label in items] == ["-1", "1", "sea ice", "sea ice"] and len(words) == 3
    (tmp_path / "all.csv").write_text("image,label\n0.png,0\n1.png,10\n2.png,2\n3.png,1\n")
    with pytest.raises(DataError, match="labels that are no class"):
        (tmp_path / "classnames.txt").write_text("sea\nland\n")
        benchmarks.labelled(tmp_path)
    (tmp_path / "classnames.txt").write_text("sea\n\nland\n")
    with pytest.raises(DataError, match="classnames.txt, line 2, is empty"):
        benchmarks.labelled(tmp_path)
    (tmp_path / "classnames.txt").unlink()
    words, items = benchmarks.labelled(tmp_path)
    assert [words[label] for _, _, label in items] == ["0", "10", "2", "1"]


def test_folders_of_splits_may_have_capitals_and_something_beside_them(tmp_path):
    for name in ("Train/lake/1.png", "Test/lake/2.png", "Test/__river/3.png", "Test/lake/@eaDir/2.png", "docs/read.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(toy_sample(0)[0]))
    words, items = benchmarks.labelled(tmp_path)
    assert words == ["river", "lake"] and sorted(label for _, _, label in items) == [0, 1, 1]
    assert [key for key, _, _ in benchmarks.labelled(tmp_path, split="test")[1]] == ["__river/3.png", "lake/2.png"]


def test_hidden_lists_are_nobody_s(tmp_path):
    for name in ("lake/1.png", "river/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(png(toy_sample(0)[0]))
    (tmp_path / "test.txt").write_text("lake/1.png\n")
    (tmp_path / "._test.txt").write_bytes(b"\0\5\x16\7")
    assert [key for key, _, _ in benchmarks.labelled(tmp_path, split="test")[1]] == ["lake/1.png"]


def test_names_that_are_not_utf_8_have_keys_all_the_same(tmp_path):
    for place in ("lake", "river"):
        (tmp_path / place).mkdir()
        with open(os.fsencode(tmp_path / place) + b"/caf\xe9.png", "wb") as file:
            file.write(png(toy_sample(0)[0]))
    assert [key for key, _, _ in benchmarks.labelled(tmp_path)[1]] == [r"lake/caf\xe9.png", r"river/caf\xe9.png"]
    assert benchmarks.fingerprint(tmp_path)


# Its quirks


@pytest.fixture
def quirks(tmp_path):
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


def test_karpathy_samples_have_images_and_all_their_captions(quirks):
    skipped = Counter()
    samples = list(benchmarks.samples(quirks, "test", skipped=skipped))
    assert [sample.key for sample in samples] == ["airport_0.jpg", "airport_2.jpg", "airport_3.jpg"]
    assert [len(sample.captions) for sample in samples] == [3, 2, 3]  # equal captions stay, blank ones go
    assert skipped == {"no image file": 1, "no caption": 1}
    np.testing.assert_array_equal(images.decode(samples[0].image), toy_sample(0)[0])
    assert benchmarks.name(quirks) == "rsicd"


def test_shards_are_samples_too(tmp_path):
    folder = write_toy(tmp_path / "toys", {"test": 5})
    assert len(list(benchmarks.samples(folder, "test"))) == 5
    assert benchmarks.name(folder) == "toys"


def test_a_wrong_split_names_those_there(quirks):
    with pytest.raises(DataError, match=r"no split 'train'.*val"):
        benchmarks.samples(quirks, "train")


def test_unknown_layouts_say_what_was_expected(tmp_path):
    with pytest.raises(DataError, match=r"expected (.|\n)*\.tar(.|\n)*CSV"):
        benchmarks.samples(tmp_path, "test")
    with pytest.raises(DataError, match="not a folder"):
        benchmarks.samples(tmp_path / "nowhere", "test")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        benchmarks.samples(tmp_path, "test")


def test_images_that_are_nowhere_are_named(quirks):
    (quirks / "RSICD_images").rename(quirks.parent / "elsewhere")
    with pytest.raises(DataError, match=r"airport_0\.jpg"):
        benchmarks.samples(quirks, "test")


def test_fingerprint_follows_the_content(quirks):
    before = benchmarks.fingerprint(quirks)
    assert before == benchmarks.fingerprint(quirks)
    (quirks / "RSICD_images" / "new.jpg").write_bytes(b"x")
    assert benchmarks.fingerprint(quirks) != before


# What is wrong with it


def test_half_a_download_is_said_before_any_work(tmp_path, small, caplog):
    folder = karpathy(tmp_path, "RSICD")
    small["RSICD"]["splits"] = {"test": {"images": 1093, "captions": 5465}}
    with pytest.raises(DataError, match="3 of 1,093 images: half downloaded"):
        benchmarks.samples(folder, "test", name="RSICD")
    assert len(list(benchmarks.samples(folder, "test", name="RSICD", partial=True))) == 3
    assert "expected 1093" in caplog.text
    small["RSICD"]["splits"] = {"test": {"images": 4, "captions": 10}}
    caplog.clear()
    assert len(list(benchmarks.samples(folder, "test", name="RSICD"))) == 3  # a difference is a warning
    assert "has 3 images, expected 4" in caplog.text and "has 9 captions, expected 10" in caplog.text
    for index in (1, 2):
        (folder / "RSICD_images" / f"airport_{index}.jpg").unlink()
    with pytest.raises(DataError, match="1 of 3 image files: half downloaded"):
        benchmarks.samples(folder, "test", name="RSICD")
    caplog.clear()
    assert len(list(benchmarks.samples(folder, "test"))) == 1  # nobody said that it is RSICD
    assert "2 image files" in caplog.text and "airport_1.jpg" in caplog.text


def test_other_captions_than_the_benchmark_s_are_told(tmp_path, small, caplog):
    folder = karpathy(tmp_path, "RSITMD")
    assert len(list(benchmarks.samples(folder, "test", name="RSITMD"))) == 3
    assert "has other captions in dataset_RSITMD.json than RSITMD has" in caplog.text
    caplog.clear()
    small["RSITMD"]["sketches"] = {"test": text.sketch(["a plane", "B"])}
    assert len(list(benchmarks.samples(folder, "test", name="RSITMD"))) == 3 and "other captions" not in caplog.text


@pytest.mark.skipif(not (DATA / "captions").is_dir(), reason=f"no captions in {DATA}")
def test_real_captions_are_those_of_the_catalogue(monkeypatch):
    monkeypatch.undo()
    for file, name in (("rsitmd", "RSITMD"), ("ucm", "UCM-Captions"), ("sydney", "Sydney-Captions")):
        rows = json.loads((DATA / "captions" / f"{file}_captions.json").read_text())["images"]
        of_split = {s: [c for row in rows if row["split"] == s for c in row["captions"]] for s in ("train", "test")}
        known = catalogue.populations()[name, "test"]["sketch"]
        assert text.likeness(text.sketch(of_split["test"]), known) == 1
        assert text.likeness(text.sketch(of_split["train"]), known) < text.ALIKE


def test_half_the_classes_are_half_a_download(tmp_path):
    with pytest.raises(DataError, match="2 of 45 classes: half downloaded"):
        benchmarks.labelled(classes_on_disk(tmp_path, "RESISC45"), "RESISC45")


def test_a_split_that_a_copy_lacks_is_told_apart_from_a_wrong_name(tmp_path, small):
    folder = karpathy(tmp_path, "RSICD")
    small["RSICD"]["splits"] = {"val": {"images": 1094}}
    with pytest.raises(DataError, match="no split 'val'.*1,094 images, this copy lacks it"):
        benchmarks.samples(folder, "val", name="RSICD")


@pytest.mark.parametrize("name", ["RSICD", "NWPU-Captions"])
def test_a_wrong_layout_is_answered_with_the_right_one(tmp_path, name):
    (tmp_path / "RSICD_images.zip").write_bytes(b"PK")
    with pytest.raises(DataError) as error:
        benchmarks.samples(tmp_path, "test", name=name)
    assert (
        f"layout of {name}" in str(error.value) and "dataset_" in str(error.value) and "RSICD_images.zip" in str(error.value)
    )


def test_a_wrong_layout_of_classes_is_answered_too(tmp_path):
    picture(tmp_path / "all" / "airport_1.jpg")
    with pytest.raises(DataError, match=r"layout of AID(.|\n)*Airport/(.|\n)*found(.|\n)*all/"):
        benchmarks.labelled(tmp_path, "AID")


def test_folders_that_are_no_class_or_twice_are_named(tmp_path):
    folder = classes_on_disk(tmp_path, "AID")
    picture(tmp_path / "AID" / "Lighthouse" / "1.jpg")
    with pytest.raises(DataError, match=r"no class of AID: 'AID/Lighthouse' \(1 images\)"):
        benchmarks.labelled(folder, "AID", partial=True)
    (tmp_path / "AID" / "Lighthouse").rename(tmp_path / "AID" / "bare_land")
    with pytest.raises(DataError, match="more than one folder of the class"):
        benchmarks.labelled(folder, "AID", partial=True)


def test_the_wrong_task_and_unknown_names_are_answered(tmp_path):
    with pytest.raises(DataError, match="RSICD is for retrieval.*RSICD-scenes"):
        benchmarks.labelled(tmp_path, "RSICD")
    with pytest.raises(DataError, match="unknown benchmark 'aid2'.*RSITMD"):
        benchmarks.samples(tmp_path, "test", name="aid2")
    with pytest.raises(DataError, match="unknown prompt set.*paper"):
        catalogue.prompt_set("nothing")


@pytest.mark.parametrize(
    "file", ["../../etc/passwd", "/etc/passwd", "a/../../b.jpg", "..\\b.jpg", "C:/b.jpg", "a\0.jpg", "\ud800.jpg", "x" * 300]
)
def test_names_that_lead_out_stop_everything(tmp_path, file):
    rows = [{"filename": "airport_0.jpg", "split": "test", "sentences": sentences("x")}]
    folder = karpathy(tmp_path, "RSICD", [*rows, rows[0] | {"filename": file}], images=1)
    with pytest.raises(DataError, match="not inside its folder"):
        benchmarks.samples(folder, "test")


def test_links_are_followed_only_inside(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    folder = karpathy(tmp_path / "rsicd", "RSICD") if (tmp_path / "rsicd").mkdir() is None else None
    home = folder / "RSICD_images"
    (home / "airport_0.jpg").unlink()
    (home / "airport_0.jpg").symlink_to(tmp_path / "secret.jpg")
    (home / "airport_1.jpg").unlink()
    (home / "airport_1.jpg").symlink_to("airport_2.jpg")
    skipped = Counter()
    assert [s.key for s in benchmarks.samples(folder, "test", skipped=skipped)] == ["airport_1.jpg", "airport_2.jpg"]
    assert skipped == {"link out of the folder": 1}
    home.rename(tmp_path / "elsewhere")
    home.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link out of"):
        benchmarks.samples(folder, "test")
    (tmp_path / "aid").mkdir()
    (tmp_path / "aid" / "Airport").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link out of"):
        benchmarks.labelled(tmp_path / "aid", "AID", partial=True)


def test_loops_of_links_end(tmp_path):
    folder = classes_on_disk(tmp_path, "AID")
    (folder / "AID" / "Airport" / "again").symlink_to(folder / "AID")
    (folder / "AID" / "Beach").symlink_to(folder / "AID" / "Airport")
    assert len(list(benchmarks.labelled(folder, "AID", partial=True)[1])) == 4
    deep = folder.joinpath("AID", "Beach2", *["d"] * 300)
    picture(deep / "1.jpg")
    assert len(list(benchmarks.labelled(folder, "AID", partial=True)[1])) == 4
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "one").symlink_to(tmp_path / "loop")
    with pytest.raises(DataError, match="no known layout"):
        benchmarks.labelled(tmp_path / "loop")


def test_pipes_and_folders_are_no_images(tmp_path):
    folder = karpathy(tmp_path, "RSICD")
    for index, make in ((0, os.mkfifo), (1, os.mkdir)):
        (folder / "RSICD_images" / f"airport_{index}.jpg").unlink()
        make(folder / "RSICD_images" / f"airport_{index}.jpg")
    skipped = Counter()
    assert [s.key for s in benchmarks.samples(folder, "test", skipped=skipped)] == ["airport_2.jpg"]
    assert skipped == {"no image file": 2}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 100_000, "not valid JSON"),
        (b'{"images": [{"filename": "\xff\xfe"}]}', "not valid JSON"),
        (b"[1, 2]", "no known layout"),
        (b'{"images": {"a": 1}}', "no known layout"),
        (b'{"images": [3, "x"]}', "no split"),
        (b'{"images": [{"split": "test", "sentences": []}]}', "without a filename"),
        (b'{"images": [{"filename": 7, "split": "test"}]}', "without a filename"),
        (b"{}", "no known layout"),
    ],
)
def test_broken_tables_have_one_clear_error(tmp_path, content, says):
    (tmp_path / "dataset_rsicd.json").write_bytes(content)
    with pytest.raises(DataError, match=says):
        benchmarks.samples(tmp_path, "test")


def test_a_table_too_large_is_not_read(tmp_path, monkeypatch):
    folder = karpathy(tmp_path, "RSICD")
    monkeypatch.setattr(tables, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="larger than 100 bytes"):
        benchmarks.samples(folder, "test")


def test_twice_the_same_file_is_an_error(tmp_path):
    row = {"filename": "airport_0.jpg", "split": "test", "sentences": sentences("x")}
    with pytest.raises(DataError, match="1 files more than once, the first is 'airport_0.jpg'"):
        benchmarks.samples(karpathy(tmp_path, "RSICD", [row, row]), "test")


def test_captions_that_are_no_text_are_left_out(tmp_path):
    texts = ["x" * 2**20, None, 7, "\ud800", "\n", "fine", "fine", {"a": 1}]
    rows = [
        {"filename": "airport_0.jpg", "split": "test", "sentences": [{"raw": text} for text in texts]},
        {"filename": "airport_1.jpg", "split": "test", "sentences": 7},
    ]
    skipped = Counter()
    (found,) = benchmarks.samples(karpathy(tmp_path, "RSICD", rows), "test", skipped=skipped)
    assert found.captions == ["fine", "fine"] and found.record["empty_captions"] == 6
    assert skipped == {"no caption": 1}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"image,caption\na.jpg,\xff\xff\xff", "line 2, is not in UTF-8.*save it as UTF-8"),
        (b"image,caption\na.jpg\n", "line 2, cannot be read"),
        (b"image,caption\na.jpg," + b"x" * 2**20, "line 2, cannot be read"),
        (b"image,caption\n../a.jpg,x\n", "not inside its folder"),
        (b"image,caption\n", "no image of split 'test'"),
    ],
)
def test_broken_csv_tables_have_one_clear_error(tmp_path, content, says):
    (tmp_path / "test.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        benchmarks.samples(tmp_path, "test")


# What is known


def test_the_catalogue_tells_everything(monkeypatch):
    monkeypatch.undo()  # the real numbers
    rows = {row["name"]: row for row in catalogue.rows()}
    for row in rows.values():
        assert row["task"] in ("retrieval", "classification")
        assert all(row[column] for column in ("title", "layout", "where", "licence", "traps"))
        assert row["verified"] == (not row["unsure"]), row["name"]
        assert all(re.match(r"\S.*: \S", source) for source in row["sources"]), row["name"]  # a place, and what it says
        assert (
            row["classes"] is None or row["name"] == "SkyScript" or row["classes"] == len(catalogue.class_names(row["name"]))
        )
        assert all(re.fullmatch("[0-9a-f]{32}", digest) for digest in row["hashes"].values())
    assert rows["RSICD"]["splits"]["test"] == {"images": 1093, "captions": 5465}
    assert rows["RSITMD"]["splits"]["test"] == {"images": 452, "captions": 2260}
    assert rows["UCM-Captions"]["splits"]["test"] == {"images": 210, "captions": 1050}
    assert "Million-AID" in " ".join(rows["AID"]["traps"]) and "RESISC45" in " ".join(rows["NWPU-Captions"]["traps"])
    assert rows["AID"]["classes"] == 30 and rows["Million-AID"]["classes"] == 51
    lists = {name: catalogue.find(name)[1].get("lists", {}) for name in rows}
    assert {split for of_set in lists.values() for split in of_set} == {
        f"skyscript-{part}" for part in ("train", "val", "test")
    }
    for name, of_set in lists.items():
        assert all(f"{split}: " in " ".join(rows[name]["traps"]) for split in of_set), name  # --list tells them


def test_class_words_are_read_by_a_text_tower():
    assert catalogue.class_names("aid")[1:3] == ["bare land", "baseball field"]
    assert catalogue.class_names("MLRSNet")[18] == "harbor and port"
    for row in catalogue.rows():
        words = [] if row["name"] == "SkyScript" or not row["classes"] else catalogue.class_names(row["name"])
        assert len(set(words)) == len(words) and not any("_" in word or word != word.lower() for word in words)


def test_prompt_sets_are_templates():
    assert catalogue.prompt_set("paper") == ["An aerial image of {class}"]
    assert {"plain", "remoteclip", "skyscript", "clip", "ensemble"} <= set(catalogue.prompt_sets())
    for name, content in catalogue.prompt_sets().items():
        assert content["source"] and (content["verified"] or content["unsure"])
        assert all(template.count("{class}") == 1 for template in catalogue.prompt_set(name))


def test_the_real_rsicd_is_whole_but_for_its_test_split(monkeypatch, caplog):
    folder = DATA / "rsicd"
    if not folder.is_dir():
        pytest.skip("RSICD is not here: put dataset_rsicd.json and RSICD_images/ into $RSVLM_DATA/rsicd")
    monkeypatch.undo()
    for split in ("train", "val"):
        found = next(iter(benchmarks.samples(folder, split, name="RSICD")))
        assert len(found.captions) == 5 and found.record["class"] == "airport"
        assert images.decode(found.image).shape == (224, 224, 3)
    with pytest.raises(DataError, match="no split 'test'.*1,093 images, this copy lacks it"):
        benchmarks.samples(folder, "test", name="RSICD")
    skipped = Counter()
    words, items = benchmarks.labelled(folder, "RSICD-scenes", "val", skipped=skipped)
    assert len({label for _, _, label in items}) == len(words) == 30
    assert skipped == {"no scene class": 67}
    assert "expected" not in caplog.text
