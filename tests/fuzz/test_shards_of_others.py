"""Shards and folders of classes that others packed: each sample comes out as the peer's reader groups it, or is counted with a reason."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from conftest import png
from fuzzing import fuzz
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from rsvlm.data import benchmarks, reading, shards
from rsvlm.training import batches

PICTURES = [png(np.full((2, 2, 3), 40 * number, np.uint8)) for number in range(6)]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
SHADOW = b"\0\5\x16\7Mac OS X"

keys = st.text("aB3é_- ", min_size=1, max_size=6).map(str.strip).filter(bool)
captions = st.text(st.characters(codec="utf-8"), max_size=10) | st.sampled_from(
    ["a river", "one\ntwo\n", " ", "\ufeffa lake", "a\r\nb"]
)
records = st.one_of(
    st.builds(lambda text: {"caption": text}, captions),
    st.builds(
        lambda texts: {"captions": texts, "class": "lake"}, st.lists(captions | st.none() | st.just("\ud800"), max_size=3)
    ),
    st.builds(lambda text: {"text": text, "url": "x"}, captions | st.none()),
    st.just({"class": "river"}),
)


@st.composite
def shards_of_others(draw):
    """Members of a shard, in order: samples one after the other, their members in any order, and what lies between."""
    members, upper, shadows = [], draw(st.booleans()), draw(st.booleans())
    folder = draw(st.sampled_from(["", "./", "d/", "v1.2/deep er/"]))
    for key in draw(st.lists(keys, min_size=1, max_size=6, unique=True)):
        kinds = draw(
            st.lists(st.sampled_from(["png", "jpg", "jpeg", "webp", "tif", "seg.png"]), min_size=1, max_size=2, unique=True)
        )
        sample = {kind: draw(st.sampled_from(PICTURES)) for kind in kinds}
        if draw(st.integers(0, 4)):
            sample["txt"] = draw(captions).encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-16"])))
        if draw(st.booleans()):
            sample["json"] = json.dumps(draw(records), ensure_ascii=True).encode(draw(st.sampled_from(["utf-8", "utf-8-sig"])))
        if draw(st.booleans()):
            sample["cls"] = draw(st.sampled_from([b"0", b"1\n", b"2", b"lake", b"-1"]))
        for kind in draw(st.permutations(list(sample))):
            name = f"{folder}{key}.{kind.upper() if upper else kind}"
            if shadows:
                members.append((f"{folder}._{key}.{kind}", SHADOW))
            members.append((name, sample[kind]))
    return members


def write_shard(path, members, form):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=FORMATS[form]) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def grouped(path):
    """Samples as webdataset's rule groups them, read with the standard library: key → members."""
    groups = {}
    with tarfile.open(path) as archive:
        for member in archive:
            key, extension = base_plus_ext(member.name)
            if key is not None and not member.name.rpartition("/")[2].startswith("."):
                groups.setdefault(key, {})[extension.lower()] = archive.extractfile(member).read()
    return groups


def wanted(groups, by_line):
    """Captions of each sample that has a picture and any: those of its JSON where there are some, else those of its text."""
    result = {}
    for key, members in groups.items():
        image = next((members[kind] for kind in ("png", "jpg", "jpeg", "webp") if kind in members), None)
        record = json.loads(members.get("json", b"{}"))
        found = next((record[name] for name in ("captions", "caption", "text") if record.get(name)), None)
        if not found and "txt" in members:
            try:
                found = members["txt"].decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                continue
            found = found.splitlines() if by_line else found
        found = [found] if isinstance(found, str) else found or []
        found = [text.strip() for text in found if text and text.strip() and text != "\ud800"]
        if image and found:
            result[key] = (image, found)
    return result


@fuzz(
    parts=st.lists(shards_of_others(), min_size=1, max_size=3),
    form=st.sampled_from(list(FORMATS)),
    place=st.sampled_from(["train/{}.tar", "{}.tar"]),
    by_line=st.booleans(),
    seed=st.integers(0, 3),
)
def test_shards_of_others_are_what_webdataset_groups(parts, form, place, by_line, seed):
    with tempfile.TemporaryDirectory() as name:
        folder, right, total, of_class = Path(name), {}, 0, {}
        if by_line:
            (folder / "dataset_type.txt").write_text("retrieval\n")
        for number, members in enumerate(parts):
            members = [(f"p{number}/{name}", data) for name, data in members]
            members += [("whole.png", PICTURES[0]), ("whole.txt", b"a field")] if not number else []  # or it is no shard
            write_shard(folder / place.format(number), members, form)
            (folder / place.format(f"._{number}")).write_bytes(SHADOW)
            groups = grouped(folder / place.format(number))
            right |= wanted(groups, by_line)
            total += len(groups)
            of_class |= groups
        seen = {}
        for what, read in (
            ("evaluation", lambda skipped: benchmarks.samples(folder, "train", skipped=skipped)),
            ("training", lambda skipped: batches._epochs(folder, seed)(epoch=seed, start=0, skipped=skipped)),
        ):
            skipped = Counter()
            samples = list(read(skipped))
            seen[what] = {sample.key: (sample.image, sample.captions) for sample in samples}
            assert len(samples) == len(seen[what]) and len(samples) + skipped.total() == total, "each is there or counted"
            assert all("".join(sample.captions).encode() and sample.key.encode() for sample in samples)
        assert seen["evaluation"] == seen["training"] == right

        # Of a sample with a class, whatever else it lacks: by its record, else by its number.
        (folder / "classnames.txt").write_text("lake\nriver\n")
        labels = {}
        for key, members in of_class.items():
            label = json.loads(members.get("json", b"{}")).get("class")
            number = members.get("cls", b"").strip().decode()
            label = {"lake": 0, "river": 1}[label] if label else int(number) if number in ("0", "1") else None
            if label is not None and set(members) & {"png", "jpg", "jpeg", "webp"}:
                labels[key] = label
        skipped = Counter()
        assert {key: label for key, _, label in benchmarks.labelled(folder, skipped=skipped)[1]} == labels
        assert len(labels) + skipped.total() == total


# Folders of classes

classes = st.text("abC é_-&1", min_size=1, max_size=8).map(str.strip).filter(benchmarks.catalogue.key_of)


@fuzz(
    names=st.lists(classes, min_size=2, max_size=4, unique_by=benchmarks.catalogue.key_of),
    form=st.sampled_from(["flat", "around", "splits", "Splits", "lists"]),
    draw=st.data(),
)
def test_folders_of_classes_give_each_picture_once(names, form, draw):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "set"
        splits, right = ("train", "test"), {"train": {}, "test": {}}
        for label, name in enumerate(sorted(names)):
            for number in range(draw.draw(st.integers(1, 3))):
                split = splits[(label + number) % 2]
                file = f"{draw.draw(st.sampled_from(['x', 'a b', 'é.1']))}_{label}{number}{draw.draw(st.sampled_from(['.jpg', '.PNG', '.tif', '.Jpeg']))}"
                base = {"around": "inner/data/", "splits": f"{split}/", "Splits": f"{split.title()}/", "lists": "images/"}.get(
                    form, ""
                )
                path = folder / base / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{name}/{file}".encode())
                (path.parent / f"._{file}").write_bytes(SHADOW)
                right[split][f"{name}/{file}"] = name
        for name in ("__MACOSX/set", ".cache"):
            (folder / name).mkdir(parents=True)
            (folder / name / "1.jpg").write_bytes(SHADOW)
        if form == "lists":
            how = draw.draw(st.sampled_from(["{}/{}", "images\\{}\\{}", "set/images/{}/{}"]))
            after = draw.draw(st.sampled_from(["", " 3", ", 3"]))
            for split in splits:
                lines = [how.format(*key.split("/")) + after for key in right[split]]
                text = draw.draw(st.sampled_from(["\n", "\r\n"])).join(["", *lines, ""])
                (folder / f"{split}.txt").write_text(
                    text, encoding=draw.draw(st.sampled_from(["utf-8", "utf-8-sig"])), newline=""
                )
                (folder / f"._{split}.txt").write_bytes(SHADOW)
        everything = right["train"] | right["test"]
        for split, pairs in (
            right | {"all": everything} if form in ("splits", "Splits", "lists") else {"all": everything}
        ).items():
            if not pairs:
                continue
            skipped = Counter()
            words, items = benchmarks.labelled(folder, split=split, skipped=skipped)
            assert sorted(words) == sorted(map(benchmarks.catalogue.words_of, names))
            items = list(items)
            assert {data.decode(): words[label] for _, data, label in items} == {
                key: benchmarks.catalogue.words_of(name) for key, name in pairs.items()
            }
            assert len({key for key, _, _ in items}) == len(items) == len(pairs) and not skipped


# Our own


@st.composite
def made(draw):
    """What makers of three shards report: samples, and what they rejected."""
    tasks, number = [], 0
    for file in ("train/0.tar", "train/1.tar", "val/0.tar"):
        samples, rejected = [], []
        for _ in range(draw(st.integers(0, 3))):
            number += 1
            texts = draw(
                st.lists(st.text(max_size=5) | st.just("a river"), min_size=1, max_size=2).filter(
                    lambda of: any(map(str.strip, of))
                )
            )
            record = {"key": f"k{number}", "captions": texts, "licence": draw(st.sampled_from(["", "CC0"]))}
            if not draw(st.integers(0, 5)):
                record["score"] = float("nan")
            samples.append((record, draw(st.sampled_from(PICTURES)), "png"))
        for _ in range(draw(st.integers(0, 2))):
            rejected.append({"key": "r", "stage": draw(st.sampled_from("ab")), "reason": "x", "n": draw(st.integers(1, 3))})
        tasks.append((file, samples, rejected))
    return tasks


def give(task):
    return shards.Made(task.items[0], task.items[1])


@fuzz(tasks=made(), before=st.lists(st.sampled_from(["train", "val", ""]), max_size=2), removed=st.integers(0, 9))
def test_what_goes_into_shards_comes_out_or_is_a_row_of_the_funnel(tasks, before, removed):
    before = [{"key": "b", "stage": "start", "reason": "y", "split": split} for split in before]
    total = len(before) + sum(len(samples) + sum(line["n"] for line in rejected) for _, samples, rejected in tasks)
    right = {
        record["key"]: (picture, record) for _, samples, _ in tasks for record, picture, _ in samples if "score" not in record
    }
    with tempfile.TemporaryDirectory() as name:
        jobs = [shards.Task(file, (samples, rejected)) for file, samples, rejected in tasks]
        options = {"workers": 1, "progress": False, "before": before}
        content = shards.write(name, "plan", jobs, give, **options)
        for keep in (lambda record: True, lambda record: record["key"] != f"k{removed}"):
            content = shards.rewrite(name, keep)
            right = {key: (picture, record) for key, (picture, record) in right.items() if keep(record)}
            funnel = json.loads((Path(name) / "funnel.json").read_text())
            assert funnel["in"] == total == funnel["kept"] + funnel["rejected"] and funnel["kept"] == len(right)
            assert all(row["in"] == row["kept"] + row["rejected"] for row in funnel["rows"])
            seen = {}
            for split, entry in content["splits"].items():
                samples = list(shards.stream(name, split, seed=removed)) if entry["samples"] else []
                assert len(samples) == entry["samples"] == sum(shard["samples"] for shard in entry["shards"])
                told = [sample.record.pop("empty_captions", 0) for sample in samples]
                assert [len(sample.captions) for sample in samples] == [
                    len(sample.record["captions"]) - empty for sample, empty in zip(samples, told)
                ]
                seen |= {sample.key: (sample.image, sample.record) for sample in samples}
                if split == "val" and samples:
                    assert all(reading.records(Path(name) / shard["file"]) for shard in entry["shards"])
            assert seen == right
