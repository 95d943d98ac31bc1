"""Chips with labels: cells that do not overlap, splits by a fixed rule, and two looks that may disagree."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import rasterio

from rsvlm.data.demo import itaipu
from rsvlm.errors import ConfigError, DataError


def write_look(path, rows):
    path.write_text("chip,labels\n" + "".join(f"{chip},{labels}\n" for chip, labels in rows.items()))
    return path


@pytest.fixture
def looks(tmp_path):
    first = {"r00c00": "water;island", "r05c07": "forest", "r23c30": "", "r22c11": "city; Fields", "r01c01": "dam"}
    second = {"r22c11": "fields;city;forest", "r23c30": "", "r05c07": "forest", "r00c00": "water"}
    return write_look(tmp_path / "look1.csv", first), write_look(tmp_path / "look2.csv", second)


@pytest.fixture
def mosaic(tmp_path):
    """A folder with a picture of 23 x 2 cells, each in a shade of its own, and one that lacks a pixel."""
    shades = np.arange(46).reshape(23, 2) + 10
    pixels = np.repeat(np.repeat(shades, 64, axis=0), 64, axis=1).astype(np.uint8)
    pixels = np.pad(pixels, ((0, 9), (0, 5)), constant_values=7)
    pixels[130, 3] = 0
    grid = {"width": pixels.shape[1], "height": pixels.shape[0], "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "picture.tif", "w", driver="GTiff", **grid) as file:
        file.write(np.repeat(pixels[None], 3, axis=0))
    return tmp_path, np.repeat(pixels[..., None], 3, axis=2)


def test_the_south_tests_and_a_fifth_of_the_north_validates_in_blocks():
    splits = pd.DataFrame([[itaipu.split(row, col) for col in range(40)] for row in range(24)])
    assert (splits.iloc[22:] == "test").all(axis=None) and not (splits.iloc[:22] == "test").any(axis=None)
    assert (splits.iloc[:20] == "val").to_numpy().mean() == 0.2
    held_out = (splits.iloc[:20] == "val").to_numpy().reshape(5, 4, 10, 4).mean(axis=(1, 3))
    assert set(held_out.ravel()) == {0, 1} and (held_out.sum(axis=0) == 1).all() and (held_out.sum(axis=1) == 2).all()


def test_blocks_are_of_one_split():
    every = [(row, col) for row in range(20) for col in range(44)]
    of_block = pd.DataFrame([(itaipu.block(itaipu.name(*at)), itaipu.split(*at)) for at in every]).groupby(0)[1]
    assert (of_block.nunique() == 1).all() and (of_block.size() == 16).all()


def test_cells_are_those_without_a_hole(mosaic):
    folder, pixels = mosaic
    table = itaipu.cells(pixels)
    assert len(table) == 45 and "r02c00" not in set(table["chip"]) and table["chip"].iloc[-1] == "r22c01"
    assert table["split"].value_counts().to_dict() == {"train": 32, "val": 11, "test": 2}
    chosen = itaipu.pictures(folder, ["r22c01", "r00c00"])
    assert chosen.shape == (2, 64, 64, 3) and (chosen[0] == 55).all() and (chosen[1] == 10).all()
    with pytest.raises(ConfigError, match="r23c00 lies outside"):
        itaipu.pictures(folder, ["r23c00"])
    with pytest.raises(ConfigError, match="'c1r1' is no name"):
        itaipu.pictures(folder, ["c1r1"])


def test_looks_are_joined_and_disagreement_is_unknown(looks, tmp_path, caplog):
    table = itaipu.join(*looks)
    assert "1 chips were looked at once" in caplog.text and table["chip"].tolist() == ["r00c00", "r05c07", "r22c11", "r23c30"]
    one = table.set_index("chip").loc["r22c11"]
    assert one.to_dict() == {
        "row": 22,
        "col": 11,
        "split": "test",
        "first": "city;fields",
        "second": "city;forest;fields",
        "labels": "city;fields",
        "unsure": "forest",
    }
    path = tmp_path / "labels.csv"
    table.to_csv(path, index=False)
    labels = itaipu.labels(path)
    assert labels.columns.tolist() == ["row", "col", "split", *itaipu.LABELS] and set(labels[list(itaipu.LABELS)].dtypes) == {
        np.dtype(np.int8)
    }
    assert labels.loc["r22c11", list(itaipu.LABELS)].tolist() == [0, 0, 1, 0, -1, 1, 0, 0, 0]
    assert labels.loc["r00c00", ["water", "island"]].tolist() == [itaipu.YES, itaipu.UNKNOWN]
    assert not labels.loc["r23c30", list(itaipu.LABELS)].any()


def test_pictures_come_with_the_labels_of_their_split(mosaic, looks):
    folder, _ = mosaic
    path = folder / "labels.csv"
    rows = {"r22c01": "dam", "r22c00": "water", "r05c00": "forest"}
    first, second = write_look(folder / "a.csv", rows), write_look(folder / "b.csv", rows)
    itaipu.join(first, second).to_csv(path, index=False)
    pictures, table = itaipu.labelled(folder, "test", path)
    assert table.index.tolist() == ["r22c00", "r22c01"] and pictures[:, 0, 0, 0].tolist() == [54, 55]
    assert table["dam"].tolist() == [0, 1]
    assert len(itaipu.labelled(folder, "train", path)[1]) == 1 and itaipu.labelled(folder, "val", path)[0].shape == (
        0,
        64,
        64,
        3,
    )
    with pytest.raises(ConfigError, match="no split 'all'"):
        itaipu.labelled(folder, "all", path)


def test_agreement_is_counted_by_label(looks):
    table = itaipu.agreement(itaipu.join(*looks)).set_index("label")
    assert table.loc["island"].tolist()[:3] == [1, 0, 0] and table.loc["island", "agreed"] == 0.75
    assert table.loc["forest", "kappa"] == pytest.approx(0.5) and table.loc["water", "kappa"] == 1
    assert np.isnan(table.loc["dam", "kappa"])


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ({"r01c01": "lake"}, "r01c01 has the label 'lake': expected some of water, river"),
        ({"r1c1": "water"}, "r1c1 is no name of a chip"),
    ],
)
def test_a_look_with_a_slip_is_refused(tmp_path, rows, error):
    path = write_look(tmp_path / "look.csv", rows)
    with pytest.raises(DataError, match=error):
        itaipu.join(path, path)


def test_a_chip_twice_and_a_table_of_another_form_are_refused(tmp_path, looks):
    twice = tmp_path / "twice.csv"
    twice.write_text("chip,labels\nr01c01,water\nr01c01,water\n")
    with pytest.raises(DataError, match="r01c01 is there twice"):
        itaipu.join(twice, twice)
    with pytest.raises(DataError, match="columns chip, labels: expected chip, row"):
        itaipu.labels(looks[0])
    with pytest.raises(DataError, match="cannot be read"):
        itaipu.labels(tmp_path / "none.csv")
    path = tmp_path / "labels.csv"
    table = itaipu.join(*looks)
    table.assign(split="train").to_csv(path, index=False)
    with pytest.raises(DataError, match="r00c00 is in row 0, column 0, of the split val"):
        itaipu.labels(path)
    table.assign(chip=["r0c0\x1b", *table["chip"][1:]]).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"labels\.csv: 'r0c0' is no name of a chip: they are called as r03c17"):
        itaipu.labels(path)
    pd.concat([table, table]).to_csv(path, index=False)
    with pytest.raises(DataError, match="more than once"):
        itaipu.labels(path)


def test_the_labels_of_the_package_are_two_looks_at_cells_of_every_split():
    table = itaipu.labels()
    assert table["split"].value_counts().to_dict() == {"test": 375, "train": 317, "val": 78}
    held = table[list(itaipu.LABELS)].to_numpy()
    assert (held == itaipu.YES).any(axis=1).all() and (held[:, :7] == itaipu.YES).sum(axis=0).min() >= 60
    assert not (table[["city", "village"]] == itaipu.YES).all(axis=1).any()
    agreement = itaipu.agreement(pd.read_csv(itaipu.FILE, dtype=str, keep_default_na=False))
    assert (agreement["kappa"] > 0.7).all()  # of more than chance, by far
