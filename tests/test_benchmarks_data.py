"""The data side's speed comparisons run, in small."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks.{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_near_duplicates_are_timed_and_counted():
    bench = load("dedup")
    (row,) = bench.measure(n=5000)
    assert row["hashes"] == 5000 and row["seconds"] > 0 and row["peak_memory_mb"] > 50
    assert 0.99 * row["expected"] <= row["groups"] <= row["expected"]  # chance may join two
    assert "5,000 hashes" in bench.table([row])


def test_web_stages_are_timed():
    pytest.importorskip("fastwarc", reason="the extra [data] is not installed")
    bench = load("web")
    rows = bench.measure(n_pages=20, n_texts=500, repeats=1, workers=1)
    assert {row["part"] for row in rows} >= {"warc", "text"}
    assert bench.table(rows).count("\n") >= 1
