"""Results stand beside others of the same protocol and beside nothing else, and no text from a file breaks a table."""

from __future__ import annotations

import csv
import io
import json
import time

import numpy as np
import pandas as pd
import pytest

from rsvlm import config
from rsvlm.errors import ConfigError, DataError
from rsvlm.records import provenance, results, tables, text

HEAD = ",".join(results.PUBLISHED)
KNOWN = {("RSICD", "test"): {"images": 1093, "captions": 5465}, ("UCM-Captions", "test"): {"images": 210, "captions": 1050}}


def row(**changes):
    base = {"dataset": "rsicd", "split": "test", "protocol": "remoteclip", "direction": "both", "metric": "mR", "value": 30.0}
    return base | {"ci_low": 28.0, "ci_high": 32.0, "chance": 0.5, "n": 1093} | changes


@pytest.fixture
def save(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))

    def write(rows, run="laptop-seed0", experiment="retrieval", profile="laptop"):
        options = config.load(profile)
        made = provenance.provenance(options, "d" * 12, "cpu", time.time(), "x")
        return results.save_result(experiment, run, options, rows, made)

    return write


def recalls(direction, values, **changes):
    return [row(direction=direction, metric=f"R@{k}", value=v, **changes) for k, v in zip((1, 5, 10), values, strict=True)]


# Results of runs


def test_results_come_back_as_a_table(save, tmp_path):
    folder = save(
        [row(metric="R@1", value=50.0), row(ci_low=None, ci_high=None, chance=None, value=np.float32(33.5), n=np.int64(210))]
    )
    save([row(value=60)], run="laptop-seed1")
    assert {path.name for path in folder.iterdir()} == {"config.json", "metrics.json", "provenance.json"}
    table = results.table("retrieval")
    assert list(table["run"]) == ["laptop-seed0", "laptop-seed0", "laptop-seed1"]
    assert list(table["value"]) == [50.0, 33.5, 60.0]
    assert list(table["seed"]) == [0, 0, 0]
    assert np.isnan(table["ci_low"][1])
    assert len(results.table("nothing")) == 0
    made = json.loads((folder / "provenance.json").read_text())
    assert {"commit", "dirty", "package_hash", "data_hash", "seed", "device", "versions", "duration_s", "command"} <= set(made)
    assert str(tmp_path) not in (folder / "provenance.json").read_text()


@pytest.mark.parametrize(
    "rows",
    [
        [row(value=float("nan"))],
        [row(ci_low=float("inf"))],
        [row(value=None)],
        [row(direction="both ways")],
        [row(n=0)],
        [row(dataset="")],
        [row(colour="red")],
        [{key: value for key, value in row().items() if key != "chance"}],
        [row(), row(value=51.0)],
    ],
)
def test_bad_rows_are_refused_before_anything_is_written(save, tmp_path, rows):
    with pytest.raises(DataError, match="metric row"):
        save(rows)
    assert not (tmp_path / "results").exists()


def test_names_of_results_are_plain(save):
    with pytest.raises(ConfigError, match="cannot name"):
        save([row()], run="../elsewhere")


def test_a_miniature_does_not_replace_a_measured_run(save):
    save([row()])
    small = config.load("smoke")
    with pytest.raises(ConfigError, match="holds a run of profile laptop, not smoke"):
        results.save_result(
            "retrieval", "laptop-seed0", small, [row()], provenance.provenance(small, "d", "cpu", time.time(), "x")
        )


def test_a_broken_result_is_named(save):
    folder = save([row()])
    (folder / "provenance.json").unlink()
    with pytest.raises(DataError, match="laptop-seed0 is not a complete result"):
        results.table()


# Published figures


def test_published_figures_say_what_they_are():
    table = results.published()
    assert tuple(table) == results.PUBLISHED and set(table["trained_on_dataset"]) == {"yes", "no"}
    found = table[(table["model"] == "RemoteCLIP") & (table["dataset"] == "RSICD") & (table["backbone"] == "ViT-L/14")]
    assert found[["protocol", "direction", "metric", "value"]].to_numpy().tolist() == [["remoteclip", "both", "mR", 36.35]]
    assert set(table.loc[table["task"] == "retrieval", "split"]) == {"test"}


GOOD = "CLIP,ViT-B/32,retrieval,RSICD,test,plain,both,mR,15.7,no,somewhere"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "of an empty file"),
        ("model,value\nCLIP,3", "expected model, backbone"),
        (f"{HEAD}\n{GOOD}\n{GOOD}", "line 3: CLIP.* is there twice"),
        (f"{HEAD}\n{GOOD.replace('15.7', 'nan')}", "line 2: 'value' is no number|from 0 to 100"),
        (f"{HEAD}\n{GOOD.replace('15.7', '1e9')}", "from 0 to 100"),
        (f"{HEAD}\n{GOOD.replace('15.7', 'about 16')}", "from 0 to 100"),
        (f"{HEAD}\n{GOOD.replace('no,', 'maybe,')}", "'trained_on_dataset' is 'maybe'"),
        (f"{HEAD}\n{GOOD.replace('both', 'up')}", "'direction' is 'up'"),
        (f"{HEAD}\n{GOOD.replace('plain', ' ')}", "'protocol' is empty"),
        (f"{HEAD}\n{GOOD},more", "12 cells, expected 11"),
        (f'{HEAD}\n"CLIP,15', "cannot be read"),
    ],
)
def test_a_broken_file_of_figures_is_one_sentence(tmp_path, text, says):
    path = tmp_path / "figures.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=says) as error:
        results.published(path)
    assert str(path) in str(error.value)


def test_figures_that_are_no_text_or_not_there(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x00")
    for name in ("x.csv", "nothing.csv"):
        with pytest.raises(DataError, match="cannot be read"):
            results.published(tmp_path / name)


# Beside each other


def test_only_the_same_data_split_protocol_and_metric_stand_beside(save):
    save(
        [
            row(),
            row(protocol="plain", value=31.0),
            row(split="val", value=35.0),
            row(dataset="UCM captions", value=50.0, n=210),
        ]
    )
    save([row(dataset="rsitmd", protocol="unstated", value=40.0)], run="odd")
    save([row(value=99.0)], run="mini", profile="smoke")
    both = results.beside(results.table(), known=KNOWN)
    assert set(both["dataset"]) == {"RSICD", "UCM-Captions"} and set(both["protocol"]) == {"remoteclip"}
    assert set(both["split"]) == {"test"}
    ours = both[both["source"] == ""]
    assert sorted(ours["value"]) == [30.0, 50.0] and set(ours["system"]) == {"retrieval/laptop-seed0"}
    figures = results.published()
    figures = figures[(figures["protocol"] == "remoteclip") & (figures["metric"] == "mR") & (figures["dataset"] != "RSITMD")]
    assert len(both) - 2 == len(figures) and set(figures["direction"]) == {"both"}
    assert both.groupby("dataset")["value"].is_monotonic_decreasing.all()


def test_nothing_in_common_is_an_empty_table(save):
    save([row(split="val")])
    assert len(results.beside(results.table(), known=KNOWN)) == 0
    assert len(results.beside(results.table("nothing"), known=KNOWN)) == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n": 12}, "12 images, and that of the benchmark has 1,093"),
        ({"n": 1094}, "1,094 images"),
        ({"dataset": "rsitmd", "n": 452}, "is not known"),
        ({"direction": "t2i", "metric": "R@1", "n": 5465}, "unknown images"),
    ],
)
def test_what_is_called_as_a_benchmark_and_has_other_images_is_beside_nothing(save, changes, says):
    save([row(**changes)])
    assert len(results.beside(results.table(), known=KNOWN)) == 0
    assert says in next(iter(results.strangers(results.table(), KNOWN).values()))
    if changes.get("metric") != "R@1":
        printed = tables.formatted("retrieval", with_published=True, known=KNOWN)
        assert (
            "ours, beside no published figure (" in printed and says in printed and "30.0" in printed.split("published, ")[0]
        )


def test_captions_count_too_but_for_a_few_blank_ones(save):
    def reasons(**captions):
        folder = save([row(), row(direction="t2i", metric="R@1", **captions)])
        return list(results.strangers(results.table(), KNOWN).values()), folder

    assert reasons(n=5465)[0] == reasons(n=5450)[0] == []
    assert reasons(n=1093)[0] == ["1,093 captions, and that of the benchmark has 5,465"]
    assert reasons(n=1093, protocol="one-to-one")[0] == []  # where not every caption is a query
    assert list(results.strangers(results.table(), {}).values()) == ["how many images and captions belong to it is not known"]


def test_other_captions_of_the_same_number_are_noticed(tmp_path):
    captions = [f"a pond with {i} boats ." for i in range(90)]
    known = {("RSICD", "test"): KNOWN["RSICD", "test"] | {"sketch": text.sketch(captions)}}
    (tmp_path / "out.json").write_text(json.dumps([row()]))
    for told, count in ((captions[:85] + ["x"] * 5, 4), ([f"noise {i}" for i in range(90)], 0), ([], 4)):
        made = {"model": "ours", "population": {"images": 1093, "sketch": text.sketch(told)}}
        (tmp_path / "out.provenance.json").write_text(json.dumps(made))
        both = results.beside(results.table(str(tmp_path / "out.json")), known=known)
        assert len(both) == count
    assert not results.strangers(results.table(str(tmp_path / "out.json")), known)


def test_our_rows_are_printed_where_nothing_is_published_and_others_figures_are_not(save):
    save([row(dataset="my coast", value=12.3, n=40), row(), row(metric="R@1", value=45.6)])
    printed = tables.formatted("retrieval", with_published=True, known=KNOWN)
    assert "ours, nothing published beside it: my coast, test" in printed and "12.3" in printed and "45.6" in printed
    assert (
        "RSITMD" not in printed and "42.63" not in printed and "RSITMD" in tables.formatted(with_published=True, known=KNOWN)
    )
    header = printed.splitlines()[1]
    assert "  n  " in header and "1093" in printed.split("\n\n")[0]
    read = pd.read_csv(io.StringIO(tables.formatted("retrieval", "csv", with_published=True, known=KNOWN)))
    assert {12.3, 45.6, 30.0, 36.35} <= set(read["value"]) and set(read["dataset"]) == {"my coast", "RSICD"}


def test_mean_recall_of_one_direction_is_made_from_its_three_recalls(save):
    part = {"protocol": "skyscript", "ci_low": None, "ci_high": None}
    save([*recalls("i2t", (10, 20, 33), **part), *recalls("t2i", (1, 2, 3), **part)[:2]])
    both = results.beside(results.table(), known=KNOWN)
    ours = both[both["source"] == ""]
    assert ours[["dataset", "direction", "metric", "value"]].to_numpy().tolist() == [["RSICD", "i2t", "mR", 21.0]]
    assert np.isnan(ours["ci_low"].iloc[0])


def test_a_mean_of_other_recalls_is_not_put_beside_mean_recall(save):
    save([row(), *recalls("i2t", (1, 2, 3))], run="usual")
    save([row(value=70.0), row(direction="i2t", metric="R@50", value=90.0)], run="unusual")
    both = results.beside(results.table(), known=KNOWN)
    assert set(both.loc[both["source"] == "", "system"]) == {"retrieval/usual"} and {"mR", "R@1"} <= set(both["metric"])


# Compared


def test_compare_lays_out_one_protocol_and_refuses_two():
    rows = [row(system="a"), row(system="b", value=20.0), row(system="a", dataset="ucm", value=50.0)]
    wide = results.compare(rows, "mR")
    assert wide.loc["a"].tolist() == [30.0, 50.0] and wide.loc["b", ("rsicd", "test", "both")] == 20.0
    assert np.isnan(wide.loc["b", ("ucm", "test", "both")]) and wide.attrs == {"protocol": "remoteclip", "metric": "mR"}
    mixed = [*rows, row(system="b", protocol="plain", dataset="ucm")]
    with pytest.raises(DataError, match="protocols plain, remoteclip.*do not compare"):
        results.compare(mixed, "mR")
    assert results.compare(mixed, "mR", "plain").shape == (1, 1)
    two_ways = [row(system="a", metric="R@1", direction=d, value=v) for d, v in (("i2t", 1.0), ("t2i", 2.0))]
    assert results.compare(two_ways, "R@1").shape == (1, 2)
    assert results.compare(two_ways, "R@1", direction="t2i").to_numpy().tolist() == [[2.0]]


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        ([row(system="a", protocol="unstated")], {}, "unstated"),
        ([row(system="a", protocol="unstated")], {"protocol": "unstated"}, "compare with nothing"),
        ([row(system="a")], {"protocol": "plane"}, "no mR of protocol 'plane'"),
        ([row(system="a")], {"direction": "i2t"}, "no row has the metric 'mR' of i2t"),
        ([row(system="a"), row(system="a", value=31.0)], {}, "two numbers for a / rsicd / test / both"),
        ([row()], {}, "whose they are"),
        ([{"metric": "mR"}], {}, "no 'dataset'"),
        ([], {}, "no 'dataset'"),
    ],
)
def test_compare_refuses(rows, options, says):
    with pytest.raises(DataError, match=says):
        results.compare(rows, "mR", **options)


def test_compare_takes_the_published_table():
    table = results.published()
    with pytest.raises(DataError, match="do not compare"):
        results.compare(table, "mR")
    wide = results.compare(table, "mR", "rs5m")
    assert wide.loc["GeoRSCLIP, ViT-B/32", ("RSICD", "test", "both")] == 26.06


# Printed


def test_every_printed_table_is_of_one_protocol(save):
    save([row(), row(protocol="plain", value=31.0)])
    for form in ("text", "markdown", "latex"):
        printed = tables.formatted("retrieval", form)
        assert printed.count("protocol remoteclip") == printed.count("protocol plain") == 1
        below = printed.split("protocol plain")[1]
        assert "31.0" in below and "30.0" not in below, form


def test_formats_leave_miniatures_out_where_they_are_meant_for_readers(save):
    save([row(value=77.7)], run="mini", profile="smoke")
    assert "77.7" in tables.formatted() and "77.7" in tables.formatted(None, "csv")
    assert "77.7" not in tables.formatted(None, "markdown") + tables.formatted(None, "latex") + tables.formatted(
        with_published=True, known=KNOWN
    )
    with pytest.raises(ConfigError, match="no format 'html'"):
        tables.formatted(None, "html")


def test_published_figures_are_printed_with_source_and_the_unstated_ones_apart(save):
    save([row()])
    printed = tables.formatted(None, "markdown", with_published=True, known=KNOWN)
    first, *_, last = printed.split("\n\n|")
    assert first.startswith("RSICD, test, protocol remoteclip")
    table = printed.split("\n\n")[1]
    assert "measured here" in table and "om-ai-lab/RS5M" in table and "28.0 to 32.0" in table and "| 36.35 |" in table
    assert "unstated" in printed.split("\n\n")[-2] and "42.63" in last
    assert printed.count("MT-RSWebLI-RSLandmarks") == 1


HOSTILE = 'a|b_c & 50% <b>$x$ #{y}~^\\ `*[l](u) \x1b[31m\nnext "q",'


def test_hostile_names_break_no_table(save):
    save([row(dataset=HOSTILE, metric="=1+1|2", chance=None, ci_low=None, ci_high=None)])
    lines = tables.formatted("retrieval", "markdown").split("\n")
    assert [line.count("|") - line.count("\\|") for line in lines] == [0, 0, 8, 8, 8]
    assert "<b>" not in lines[0] and "\\$x\\$" in lines[0] and "\\`\\*\\[l\\]" in lines[0] and "\x1b" not in lines[0]
    tex = tables.formatted("retrieval", "latex")
    assert r"50\% \textless{}b\textgreater{}\$x\$ \#\{y\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in tex
    body = tex.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert len(body.strip().splitlines()) == 1 and body.count("&") == 6
    assert "\x1b" not in tables.formatted("retrieval") and len(tables.formatted("retrieval").splitlines()) == 3
    read = list(csv.DictReader(io.StringIO(tables.formatted("retrieval", "csv"))))
    assert read[0]["dataset"] == HOSTILE and read[0]["metric"] == "'=1+1|2" and read[0]["chance"] == ""
    assert "nan" not in tables.formatted("retrieval", "markdown") + tables.formatted("retrieval", "latex") + tables.formatted(
        "retrieval", "csv"
    )


def test_csv_has_every_column_of_the_table(save):
    save([row()])
    read = pd.read_csv(io.StringIO(tables.formatted("retrieval", "csv")))
    assert [*read, "sketch"] == list(results.table()) and read["value"].tolist() == [30.0]
    both = pd.read_csv(io.StringIO(tables.formatted("retrieval", "csv", with_published=True, known=KNOWN)))
    assert {"source", "system", "protocol"} <= set(both) and 36.35 in both["value"].tolist()


# Rows of an evaluation


def test_rows_of_an_evaluation_are_read_from_their_file(tmp_path):
    path = tmp_path / "out.json"
    path.write_text(json.dumps([row()]))
    assert results.table(str(path))["run"].tolist() == ["out"]
    (tmp_path / "out.provenance.json").write_text(json.dumps({"model": "ViT-B-32", "seed": 3}))
    both = results.beside(results.table(str(path)), known=KNOWN)
    assert "out.json/ViT-B-32" in set(both["system"])


@pytest.mark.parametrize("text", ["{", "3", '{"rows": 3}', '[{"value": 1}]', "[3]", '[{"value": NaN}]'])
def test_a_file_that_holds_no_rows_is_named(tmp_path, text):
    path = tmp_path / "out.json"
    path.write_text(text)
    with pytest.raises(DataError, match="is no list of metric rows") as error:
        results.table(str(path))
    assert str(path) in str(error.value)
    with pytest.raises(DataError, match="is no list of metric rows"):
        results.table(str(tmp_path / "missing.json"))


def test_a_result_edited_by_hand_is_refused(save):
    folder = save([row()])
    (folder / "metrics.json").write_text(json.dumps([row(value=float("nan"))]))
    with pytest.raises(DataError, match="laptop-seed0 is not a complete result.*not a finite number"):
        results.table()
