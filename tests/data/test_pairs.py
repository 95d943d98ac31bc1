"""Pictures keep their bytes and kind, and shards their size."""

from __future__ import annotations

from conftest import png, toy_sample

from rsvlm.data import benchmarks, pairs, shards


def test_pictures_keep_their_kind_and_shards_their_size(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "PER_SHARD", 3)
    samples = [({"key": f"chip-{i}", "captions": ["A river."]}, png(toy_sample(i)[0])) for i in range(7)]
    manifest = pairs.write(tmp_path / "out", "seven", {"train": iter(samples)})
    assert [shard["samples"] for shard in manifest["splits"]["train"]["shards"]] == [3, 3, 1]
    assert [s.image for s in shards.stream(tmp_path / "out", "train")] == [data for _, data in samples]
    assert benchmarks.name(tmp_path / "out") == "seven"
