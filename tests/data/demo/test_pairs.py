"""Pairs of the demo: general pictures are told by what is in them, and no category is named where it must not be."""

from __future__ import annotations

import numpy as np
import pandas as pd
from conftest import png

from rsvlm.data import benchmarks
from rsvlm.data.demo import pairs as demo_pairs


def test_general_pairs_are_not_from_above_and_keep_hosts_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    demo, rows = tmp_path / "demo", []
    for number in range(12):
        above, trap = number % 3 == 0, "broken" if number == 1 else ""
        rows.append(["host", f"{number}.png", number >= 8, above, "chart", "My cat", False, "en", trap])
        array = np.zeros((20, 20, 3), np.uint8)
        array[10:] = 245
        path = demo / "sites" / "host" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(array))
    columns = ["host", "path", "held_back", "overhead", "style", "text", "relevant", "language", "trap"]
    pd.DataFrame(rows, columns=columns).to_parquet(demo / "labels.parquet")
    folder = demo_pairs.general_pairs(demo)
    found = {split: list(benchmarks.samples(folder, split)) for split in ("train", "test")}
    assert (len(found["train"]), len(found["test"])) == (4, 3)  # 2 4 5 7; 8 10 11
    assert found["train"][0].captions[0] == "A chart, black in the north and white in the south."
    assert "cat" not in str([s.captions for part in found.values() for s in part])
