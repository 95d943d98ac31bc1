"""Published figures: where each was read, what it is of, and that it is printed beside nothing of another kind."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from rsvlm.data import catalogue
from rsvlm.records import results, tables

COMMIT = r"https://github\.com/[\w.-]+/[\w.-]+/blob/[0-9a-f]{7,40}/[\w./-]+"
OPEN = re.compile(
    rf"{COMMIT}\.(md|png|csv|ipynb)(?=[\s;)]|$)|https://openaccess\.thecvf\.com/[\w/.-]+\.pdf|arXiv \d{{4}}\.\d{{5}}\b"
)
PLACE = re.compile(r'\btable ([IVX]+|\d+)\b|(table|figure) "[^"]+"|\.(png|csv)(?=[\s;)]|$)|\.ipynb \(an output\b')
UNCHECKED = "not checked there", "third-party", "quoted by others"
SETS = "SkyScript AID EuroSAT fMoW Million-AID PatternNet RESISC45 RSI-CB256".split()


@pytest.fixture(scope="module")
def figures():
    return results.published()


# What the rows say


def test_every_source_can_be_opened_and_says_where_to_look(figures):
    assert not (closed := [text for text in figures["source"] if not OPEN.search(text)]), closed
    nowhere = {text for text in figures["source"] if not PLACE.search(text)}
    assert all("third-party" in text and text.endswith("table not known here") for text in nowhere), nowhere
    assert not [text for text in figures["source"] if "github.com" in text and not re.search(COMMIT, text)]


@pytest.mark.parametrize(
    "text",
    [
        "https://github.com/zqcrafts/SkySense-O (its README shows it); table 2",
        "FarSLIP table 2",
        "https://github.com/NJU-LHRS/FarSLIP/blob/main/README.md (table 2)",
    ],
)
def test_what_nobody_could_open_is_noticed(text):
    assert not OPEN.search(text)
    assert not PLACE.search("https://github.com/NJU-LHRS/FarSLIP/blob/1c4874a/README.md")


def test_what_was_not_read_at_its_source_says_so_and_is_beside_nothing(figures):
    unchecked = figures[figures["source"].str.contains("|".join(UNCHECKED))]
    assert set(unchecked["model"].str.partition(" (")[0]) >= {"PIR", "SkySense-O", "SegEarth-OV", "RS-MaMMUT or RS-SigLIP2"}
    assert set(unchecked["protocol"]) == {"unstated", "skysense-o"}, "no evaluator here has such a protocol"


def test_what_was_read_from_a_picture_says_so(figures):
    pictures = figures[figures["source"].str.contains(r"\.png", regex=True)]
    assert len(pictures) and pictures["source"].str.startswith("read from a figure: ").all()


def test_the_papers_own_figure_is_marked_as_somebody_elses_words(figures):
    own = figures[figures["model"].str.contains("the paper")]
    assert len(own) == 1 and own["source"].str.startswith("third-party summary").all() and set(own["protocol"]) == {"unstated"}


def test_protocols_are_those_of_the_programs_that_measured(figures):
    retrieval = figures[figures["task"] == "retrieval"]
    geo = retrieval[retrieval["model"].str.startswith("GeoRSCLIP") & retrieval["source"].str.contains("om-ai-lab")]
    assert len(geo) > 30 and set(geo["protocol"]) == {"rs5m"}  # it never writes captions with a capital
    assert set(retrieval.loc[retrieval["model"] == "PIR", "protocol"]) == {"unstated"}
    resisc = figures[
        (figures["model"] == "GeoRSCLIP") & (figures["dataset"] == "RESISC45") & (figures["backbone"] == "ViT-H/14")
    ]
    assert resisc[["split", "protocol", "value"]].to_numpy().tolist() == [["all", "rs5m", 73.83]]


def test_prompt_sets_of_figures_are_ours_or_nobody_has_them_here(figures):
    named = set(figures.loc[figures["task"] == "classification", "protocol"])
    assert {"skyscript", "rs5m"} == named & set(catalogue.prompt_sets())


def test_the_prompt_set_of_rs5m_is_three_nouns_in_35_sentences():
    templates = catalogue.prompt_set("rs5m")
    of_noun = [
        {re.sub(rf"\ba?n? ?{noun}", "#", text) for text in templates if noun in text}
        for noun in ("remote sensing image", "aerial image", "satellite image")
    ]
    assert len(templates) == len(set(templates)) == 105 and list(map(len, of_noun)) == [35] * 3
    assert of_noun[0] == of_noun[1] == of_noun[2]
    assert all(text.endswith(" {class}.") and text[0] == "a" for text in templates)


@pytest.mark.parametrize(
    ("task", "protocol", "count", "name"),
    [("classification", "skyscript", 8, "SkyScript"), ("segmentation", "farslip", 8, "OVSS")],
)
def test_figures_agree_with_the_printed_means(figures, task, protocol, count, name):
    checked = 0
    for _, group in figures[(figures["task"] == task) & (figures["protocol"] == protocol)].groupby(["model", "backbone"]):
        values = group.set_index("dataset")["value"]
        sets = values[~values.index.str.startswith("mean")]
        for number, part in ((count, sets), (count - 1, sets.drop("SkyScript", errors="ignore"))):
            if (printed := values.get(f"mean of {number} {name} sets")) is not None and len(part) == number:
                assert part.mean() == pytest.approx(printed, abs=0.0101), group
                checked += 1
    assert checked >= 7


def test_recalls_agree_with_the_printed_mean_recall(figures):
    checked = 0
    retrieval = figures[figures["task"] == "retrieval"]
    for _, group in retrieval.groupby(["model", "backbone", "dataset", "protocol"]):
        recalls, mean = group[group["metric"].str.startswith("R@")]["value"], group[group["direction"] == "both"]["value"]
        if len(recalls) == 6 and len(mean):
            assert recalls.mean() == pytest.approx(mean.iloc[0], abs=0.0051), group
            checked += 1
    assert checked == 10


@pytest.mark.parametrize(("dataset", "images"), [("AID", 2000), ("EuroSAT", 2700)])
def test_the_size_of_a_subset_shows_in_every_accuracy_on_it(figures, dataset, images):
    values = figures[(figures["dataset"] == dataset) & (figures["split"] == "skyscript-test")]["value"]
    assert len(values) == 16 and catalogue.populations()[dataset, "skyscript-test"]["images"] == images
    assert all(round(100 * round(value * images / 100) / images, 2) == value for value in values)


def test_fmow_of_open_clip_is_the_worst_region_and_no_top1(figures):
    theirs = figures[(figures["dataset"] == "fMoW") & (figures["protocol"] == "open_clip")]
    assert len(theirs) == 6 and set(theirs["metric"]) == {"worst_region_top1"}


def test_dofa_clip_has_the_network_that_it_has(figures):
    theirs = figures[(figures["model"] == "DOFA-CLIP") & (figures["backbone"] == "SigLIP So400M/14-384")]
    values = theirs.set_index("dataset")["value"]
    assert values["mean of 8 SkyScript sets"] == 64.45 and set(values.index) == {*SETS, "mean of 8 SkyScript sets"}
    assert not (figures["backbone"] == "ViT-L/16-384").any()


# What is printed


def measured(**changes):
    base = {"dataset": "RSICD", "split": "test", "protocol": "rs5m", "direction": "both", "metric": "mR", "value": 30.123}
    return base | {"ci_low": 29.0, "ci_high": 31.0, "chance": 0.5, "n": 1093} | changes


def blocks(printed):
    """Parts of a printed Markdown: title, and the lines of its table."""
    parts = printed.split("\n\n")
    return list(zip(parts[::2], (part.splitlines() for part in parts[1::2]), strict=True))


def ours_and_theirs(tmp_path, known=None, **changes):
    """Titles of the tables in which our row stands with those of others, and the others' lines of all of them."""
    path = tmp_path / "out.json"
    path.write_text(json.dumps([measured(**changes)]))
    printed = tables.formatted(str(path), "markdown", with_published=True, known=catalogue.populations() | (known or {}))
    with_us = [(title, lines) for title, lines in blocks(printed) if any("| 30.1 |" in line for line in lines)]
    return [(title, [line for line in lines[2:] if "30.1" not in line]) for title, lines in with_us]


CLASSIFIED = {"direction": "i2t", "metric": "top1"}
AID = {"dataset": "AID", "split": "skyscript-test", "protocol": "skyscript", "n": 2000, **CLASSIFIED}
RESISC = {"dataset": "RESISC45", "split": "all", "protocol": "rs5m", "n": 31500, **CLASSIFIED}


@pytest.mark.parametrize(("changes", "count"), [({}, 3), (AID, 16), (RESISC, 3)])
def test_what_is_one_quantity_stands_together(tmp_path, changes, count):
    ((title, others),) = ours_and_theirs(tmp_path, **changes)
    row = measured(**changes)
    assert (
        title == f"{row['dataset']}, {row['split']}, protocol {row['protocol']}, {row['direction']}:" and len(others) == count
    )


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("protocol", {"protocol": "plain"}),
        ("protocol", {"protocol": "rs5m (wording not stated)"}),
        ("protocol", {"protocol": "rs5m (ties: optimistic)"}),
        ("protocol", {"protocol": "unstated"}),
        ("prompt set", AID | {"protocol": "paper"}),
        ("prompt set", AID | {"protocol": "skyscript (of a file)"}),
        ("prompt set", RESISC | {"protocol": "skyscript"}),
        ("class words", {"dataset": "AID", "split": "all", "protocol": "rs5m", "n": 10000, **CLASSIFIED}),
        ("class words", {"dataset": "EuroSAT", "split": "all", "protocol": "rs5m", "n": 27000, **CLASSIFIED}),
        ("class words", RESISC | {"protocol": "rs5m (other class words)"}),
        ("subset", AID | {"split": "all", "n": 10000}),
        ("subset", AID | {"split": "test"}),
        ("subset", AID | {"n": 1999}),
        ("subset", RESISC | {"split": "test", "n": 6300}),
        ("subset", RESISC | {"split": "skyscript-train", "protocol": "skyscript"}),
        ("subset", RESISC | {"split": "vtab-test", "protocol": "open_clip", "n": 6300}),
        ("split", {"split": "val", "n": 1094}),
        ("data set", {"dataset": "NWPU-Captions", "n": 3150}),
        ("metric", {"dataset": "fMoW", "split": "wilds-test", "protocol": "open_clip", "n": 22108, **CLASSIFIED}),
        ("metric", {"metric": "R@1"}),
        ("direction", {"direction": "i2t"}),
    ],
)
def test_a_figure_of_another_kind_is_beside_nothing_of_ours(tmp_path, kind, changes):
    beside = ours_and_theirs(tmp_path, **changes)
    assert beside and all(title.startswith("ours, ") and not others for title, others in beside), kind


def test_every_table_of_others_is_one_quantity_and_the_unstated_ones_stand_apart(tmp_path, figures):
    path = tmp_path / "out.json"
    path.write_text(json.dumps([measured(dataset="none")]))
    known = catalogue.populations()
    everything = tables._published_blocks(results.table(str(path)), known, everything=True)
    kinds = figures.assign(system=results.systems(figures)).groupby(list(results.KEY)).size()
    apart = [rows for title, _, rows in everything if "unstated, comparable with nothing" in title]
    stated = [(title, names, rows) for title, names, rows in everything if title.startswith("published, ")]
    loose = figures[(figures["protocol"] == "unstated") | (figures["split"] == "unstated")]
    assert len(apart) == 1 and len(apart[0]) == len(loose) > 0
    assert len(stated) == len(kinds) - len(loose.groupby(list(results.KEY)))
    assert sum(len(rows) for _, _, rows in stated) == len(figures) - len(loose)
    values = [[float(row[1]) for row in rows] for _, _, rows in stated]
    assert values == [sorted(of_table, reverse=True) for of_table in values]


def test_the_csv_holds_one_quantity_in_a_column_too(tmp_path):
    path = tmp_path / "out.json"
    path.write_text(json.dumps([measured(), measured(**AID)]))
    text = tables.formatted(str(path), "csv", with_published=True, known=catalogue.populations())
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 2 + 3 + 16
    assert {(row["split"], row["protocol"]) for row in rows} == {("test", "rs5m"), ("skyscript-test", "skyscript")}
