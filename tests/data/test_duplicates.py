"""Duplicates are found whatever size, compression or turn hides them, and distinct pictures are left alone."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from conftest import DATA, png, toy_sample, write_tar
from hypothesis import given, settings, strategies as st
from PIL import Image

from rsvlm.data import duplicates, near_hashes, picture_details
from rsvlm.errors import ConfigError, DataError
from rsvlm.model import images


def picture(seed, size=96):
    """A smooth random picture with fine grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse, np.int16) + rng.integers(-12, 13, (size, size, 3)), 0, 255).astype(np.uint8)


def jpeg(array, quality):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    return images.decode(buffer.getvalue())


def table(*rows):
    """Rows are (key, pixels) or (key, pixels, text)."""
    return duplicates.hash_table((key, images.encode_png(array), array, *(text or [""])) for key, array, *text in rows)


# Hashes


@pytest.mark.parametrize("seed", range(3))
def test_hash_is_that_of_an_outside_implementation_for_all_turns(seed):
    imagehash = pytest.importorskip("imagehash", reason="the extra [data] is not installed")
    array = picture(seed, duplicates.SIDE)  # of this size, resizing has no part in it
    found = duplicates.perceptual_hashes(duplicates.thumbnails([array]), turns=True)[0]
    for number in range(duplicates.TURNS):
        turned = Image.fromarray(np.ascontiguousarray(duplicates.turn(array, number)))
        assert f"{found[number]:016x}" == str(imagehash.phash(turned)), number
    assert len(set(found)) == duplicates.TURNS
    assert duplicates.perceptual_hashes(duplicates.thumbnails([array]))[0] == found[0]


def noisy_hashes(rng, count):
    """Random hashes, many of them another one with up to nine bits flipped."""
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    for i in range(1, count):
        if rng.random() < 0.7:
            flips = rng.choice(64, rng.integers(0, 10), replace=False).astype(np.uint64)
            hashes[i] = hashes[rng.integers(0, i)] ^ np.bitwise_or.reduce(np.uint64(1) << flips, initial=np.uint64(0))
    return hashes


def noisy_pictures(rng, count):
    """Small pictures, of which many are another one's with noise, lighter or with other content in one part; plain ones among them."""
    coarse = rng.integers(0, 256, (count, 5, 5), dtype=np.uint8)
    coarse[rng.random(count) < 0.2] = 128
    small = np.stack([np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in coarse])
    for i in range(1, count):
        if rng.random() < 0.7:
            changed = small[rng.integers(0, i)] * rng.uniform(0.7, 1.3) + rng.normal(0, rng.choice([0.1, 3, 30]), (32, 32))
            top, left = rng.integers(0, 20, 2)
            if rng.random() < 0.5:
                changed[top : top + 12, left : left + 12] = rng.permutation(changed[top : top + 12, left : left + 12])
            small[i] = np.clip(changed, 0, 255)
    return small


def cells(small, zoom):
    """Means of 2 x 2 pixels of a picture that is shown larger by a factor, by a matrix that reads between pixels, and on beyond edges."""
    at = 15.5 + (np.arange(32) - 15.5) / zoom
    before = np.clip(np.floor(at).astype(int), 0, 30)
    between = np.zeros((32, 32))
    between[np.arange(32), before] = 1 - (at - before)
    between[np.arange(32), before + 1] = at - before
    return (between @ small @ between.T).reshape(16, 2, 16, 2).mean((1, 3))


def agree(one, other):
    """Small pictures are alike in all windows, by the definition, with NumPy's correlations."""
    noise = picture_details.NOISE**2

    def lowest(a, b):
        worst = 1.0
        for top in range(13):
            for left in range(13):
                parts = np.stack([form[top : top + 4, left : left + 4].ravel() for form in (a, b)])
                low, high = parts.min(0), parts.max(0)
                cut = ((high >= 250) & (low >= 200) & (low < 250)) | ((low <= 5) & (high > 5) & (high <= 55))
                if cut.sum() > 8:
                    continue
                (aa, ab), (_, bb) = np.cov(parts[:, ~cut], bias=True)
                if max(aa, bb) > noise:
                    worst = min(worst, (ab + noise) / np.sqrt((aa + noise) * (bb + noise)))
        return worst

    half = np.sqrt(picture_details.ZOOM)
    forms = {zoom: (cells(one, zoom), cells(other, 1 / zoom)) for zoom in (1.0, half, 1 / half)}
    if lowest(*forms[1.0]) < picture_details.UNLIKE:
        return False
    return max(lowest(*pair) for pair in forms.values()) >= picture_details.ALIKE


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), distance=st.integers(0, 12))
def test_what_stays_is_what_is_near_nothing_before_it_that_stays(seed, distance):
    rng = np.random.default_rng(seed)
    hashes, small = noisy_hashes(rng, 60), noisy_pictures(rng, 60)
    stays, expected = [], []
    for i in range(60):
        near = [
            (int(hashes[i] ^ hashes[j]).bit_count(), j)
            for j in stays
            if int(hashes[i] ^ hashes[j]).bit_count() <= distance and agree(small[i], small[j])
        ]
        bits, j = min(near, default=(65, i))
        expected.append(j if bits <= distance else i)
        stays += [i] if expected[-1] == i else []
    assert duplicates.find_stays(hashes, small, distance).tolist() == expected


def test_pictures_are_alike_where_every_window_agrees():
    rng = np.random.default_rng(4)
    small = noisy_pictures(rng, 32)
    first, second = np.triu_indices(32, 1)
    expected = [agree(small[i], small[j]) for i, j in zip(first, second, strict=True)]
    assert picture_details.alike(small[first], small[second]).tolist() == expected
    assert picture_details.alike(small[second], small[first]).tolist() == expected and 10 < sum(expected) < len(expected) - 10


def test_a_copy_with_cut_edges_is_alike_and_another_part_is_not():
    array = picture(5, 200)
    there = [array, array[3:-3, 3:-3], array[20:, 20:], np.flipud(array)]
    small = picture_details.unpacked(picture_details.small(duplicates.thumbnails(there)))
    assert small.shape == (4, 32, 32) and small.dtype == np.uint8
    assert picture_details.alike(small[[0, 0, 0, 0]], small).tolist() == [True, True, False, False]
    assert picture_details.unpacked(picture_details.small(np.zeros((0, 32, 32), np.float32))).shape == (0, 32, 32)


def test_there_are_no_chains():
    first = np.uint64(0)
    second, third = first ^ np.uint64(0b11111), first ^ np.uint64(0b1111111111)
    small = np.zeros((3, 32, 32), np.uint8)
    assert duplicates.find_stays(np.array([first, second, third]), small, 6).tolist() == [0, 0, 2]
    assert duplicates.find_stays(np.array([second, first, third]), small, 6).tolist() == [0, 0, 0]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), distance=st.integers(0, 12))
def test_nearest_is_that_of_all_pairs(seed, distance):
    rng = np.random.default_rng(seed)
    hashes = noisy_hashes(rng, 70)
    gallery, queries = np.unique(hashes[:30]), hashes[30:].reshape(20, 2)
    best, bits, form = near_hashes.nearest_hashes(queries, gallery, *duplicates._bands(gallery, distance), distance)
    every = np.bitwise_count(queries[:, :, None] ^ gallery).astype(int)  # (N, F, M)
    for i, row in enumerate(every):
        if row.min() > distance:
            assert best[i] == -1
        else:
            assert (bits[i], row[form[i], best[i]]) == (row.min(), row.min())
            assert (form[i], best[i]) == min(zip(*np.nonzero(row == row.min()), strict=True))


def test_a_distance_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="0 to 16"):
        duplicates.find_stays(np.zeros(3, np.uint64), np.zeros((3, 32, 32), np.uint8), 17)


def test_no_pictures_are_no_duplicates():
    empty = duplicates.hash_table([])
    assert len(duplicates.duplicates(empty)) == 0 and len(duplicates.overlap(empty, empty, "nothing")) == 0
    assert list(empty.columns[: len(duplicates.COLUMNS)]) == duplicates.COLUMNS


def test_many_equal_hashes_take_no_time():
    hashes = np.zeros(200_000, np.uint64)
    hashes[0] = 1 << 40
    small = np.zeros((len(hashes), 32, 32), np.uint8)
    assert duplicates.find_stays(hashes, small, 6).max() == 0 and duplicates.find_stays(hashes, small, 0).max() == 1


# Duplicates within a data set


def test_duplicates_are_found_and_the_best_is_kept():
    first, other = picture(1), picture(2)
    large = images.resize(first, 140, 140)
    found = duplicates.duplicates(
        table(
            ("a", first, "long enough text"),
            ("b", jpeg(first, 60), ""),
            ("c", large, ""),
            ("d", other, "x"),
            ("e", other, "longer"),
        )
    )
    assert dict(zip(found["key"], found["kept"], strict=True)) == {"a": "c", "b": "c", "d": "e"}
    assert list(found["reason"]) == ["near picture", "near picture", "same bytes"]
    assert (found["distance"] <= duplicates.DISTANCE).all()


def test_same_pixels_in_other_bytes():
    array = picture(3)
    rows = [
        ("a", images.encode_png(array), array, ""),
        ("b", images.encode_png(array, compress_level=0), array, ""),
        ("c", b"", array, ""),
    ]
    assert list(duplicates.duplicates(duplicates.hash_table(rows))["reason"]) == ["same pixels", "same pixels"]


def test_flat_pictures_are_no_duplicates_of_each_other():
    rng = np.random.default_rng(0)
    rows = [
        (f"sea{i}", np.full((64, 64, 3), 40 + i, np.uint8) + rng.integers(0, 2, (64, 64, 3), dtype=np.uint8))
        for i in range(20)
    ]
    assert len(duplicates.duplicates(table(*rows))) == 0
    assert len(duplicates.overlap(table(*rows[:10]), table(*rows[10:]), "sea")) == 0
    assert list(duplicates.duplicates(table(*rows, ("again", rows[0][1])))["key"]) == ["sea0"]  # "again" comes first by key


def test_order_decides_nothing():
    rows = [("a", picture(1)), ("b", jpeg(picture(1), 50)), ("c", picture(2)), ("d", jpeg(picture(2), 70)), ("e", picture(4))]
    one, two = (duplicates.duplicates(table(*part)).sort_values("key").reset_index(drop=True) for part in (rows, rows[::-1]))
    pd.testing.assert_frame_equal(one, two)


# Frames


def sheet(array):
    """A sheet with a title, a legend and a border around the picture, which is a third of it."""
    sheet = np.full((180, 250, 3), 255, np.uint8)
    sheet[30:150, 10:130] = images.resize(array, 120, 120)
    sheet[8:14, 20:160:3] = 0
    for n in range(6):
        sheet[40 + 16 * n : 50 + 16 * n, 160:172] = (40 * n, 200 - 20 * n, 90)
    sheet[30:150, [150, 240]], sheet[[30, 149], 150:240] = 0, 0
    return sheet


def quicklook(array):
    """A scene that is turned within a black square."""
    turned = Image.fromarray(images.resize(array, 120, 120)).rotate(12, expand=True, resample=Image.Resampling.BICUBIC)
    square = Image.new("RGB", (200, 200))
    square.paste(turned, ((200 - turned.width) // 2, (200 - turned.height) // 2))
    return np.asarray(square)


def scene(seed, fields, low, high):
    """A picture of many small fields, which a frame outweighs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(low, high, (fields, fields, 3), dtype=np.uint8))
    array = np.asarray(coarse.resize((96, 96), Image.Resampling.BICUBIC), np.int16)
    return np.clip(array + rng.integers(-6, 7, array.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("frame", "kind"), [(sheet, (12, 80, 160)), (quicklook, (8, 120, 250))])
def test_different_pictures_in_one_frame_stay_and_copies_of_them_go(frame, kind):
    framed = [frame(scene(seed, *kind)) for seed in range(60)]
    rows = table(*((f"k{n:02d}", array) for n, array in enumerate(framed)))
    near = np.bitwise_count(rows["hash"].to_numpy()[:, None] ^ rows["hash"].to_numpy()) <= duplicates.DISTANCE
    assert (near.sum(axis=1) > 1).sum() > 12, "the frame should make many of them near to the hash"
    gone = set(duplicates.duplicates(rows)["key"])
    assert not gone
    copies = [jpeg(array, 60) for array in framed]
    copies = [images.resize(array, array.shape[0] // 2, array.shape[1] // 2) for array in copies]
    copies = table(*((f"z{n:02d}", array) for n, array in enumerate(copies)))
    found = duplicates.duplicates(pd.concat([rows, copies], ignore_index=True))
    assert set(found["key"]) == {f"z{n:02d}" for n in range(60)}
    assert sum(key[1:] == kept[1:] for key, kept in zip(found["key"], found["kept"], strict=True)) == 60


# Against a benchmark


@pytest.mark.parametrize("number", range(duplicates.TURNS))
def test_a_turned_picture_of_a_benchmark_is_found(number):
    mine = [(f"m{i}", picture(10 + i)) for i in range(5)]
    theirs = [(f"b{i}", picture(20 + i)) for i in range(5)]
    mine.append(("stolen", jpeg(np.ascontiguousarray(duplicates.turn(theirs[3][1], number)), 75)))
    found = duplicates.overlap(table(*mine), table(*theirs), "bench")
    assert found[["key", "benchmark", "benchmark_key", "reason"]].to_numpy().tolist() == [
        ["stolen", "bench", "b3", "near picture"]
    ]
    turned = duplicates.turn(mine[-1][1].astype(float), int(found["turn"][0]))  # ours, turned so, is the benchmark's
    assert np.abs(turned - theirs[3][1]).mean() < 12


def test_the_strongest_reason_is_given_once():
    array = picture(5)
    found = duplicates.overlap(table(("a", array)), table(("b", array), ("c", jpeg(array, 80))), "bench")
    assert found["reason"].tolist() == ["same bytes"]


def test_equal_and_near_texts_are_found():
    long = "several white storage tanks stand beside a wide grey road with some green trees around a small square pond"
    mine = table(
        ("same", picture(1), "Many buildings are near a river!"),
        ("near", picture(2), long.replace("pond", "lake")),
        ("far", picture(3), "several white boats lie beside a wide grey pier with some people on it"),
        ("none", picture(4), ""),
        ("short", picture(6), "a river"),
    )
    theirs = table(
        ("b1", picture(7), "many buildings are near a river"),
        ("b2", picture(8), f"something else\n{long}"),
        ("b3", picture(9), ""),
    )
    found = duplicates.overlap(mine, theirs, "bench").set_index("key")
    assert found["reason"].to_dict() == {"same": "same text", "near": "near text"}
    assert found["benchmark_key"].to_dict() == {"same": "b1", "near": "b2"}
    assert 0 < found["distance"]["near"] <= 0.2 and (found["turn"] == -1).all()


@settings(deadline=None, max_examples=30)
@given(texts=st.lists(st.text(max_size=60), max_size=6))
def test_any_text_is_found_in_itself_and_breaks_nothing(texts):
    rows = table(*((str(i), picture(i), text) for i, text in enumerate(texts)))
    wordy = {str(i) for i, text in enumerate(texts) if any(duplicates.normalise_text(pd.Series(text.split("\n"))) != "")}
    found = duplicates.overlap(rows, rows, "itself")
    assert set(found[found["reason"] == "same text"]["key"]) == wordy


# Embeddings


def greedy(table, embeddings, similarity):
    """The twin: one picture after the other, the best first."""
    keys, size = table["key"].tolist(), list(zip(-table["pixels"], -table["text"].str.len(), table["key"], strict=True))
    stays, gone = [], {}
    for i in sorted(range(len(keys)), key=size.__getitem__):
        scores = [float(embeddings[i] @ embeddings[j]) for j in stays]
        if scores and max(scores) >= similarity:
            gone[keys[i]] = keys[stays[int(np.argmax(scores))]]
        else:
            stays.append(i)
    return gone


@pytest.mark.parametrize("seed", range(4))
def test_embedding_duplicates_are_those_of_one_by_one(seed):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(70, 6)).astype(np.float32)
    embeddings[40:60] = embeddings[10:30] + rng.normal(0, 0.2, (20, 6))  # near, and among each other in chains
    embeddings[60:] = embeddings[3]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = {
        "key": [f"k{i:02d}" for i in rng.permutation(70)],
        "pixels": rng.integers(1, 4, 70),
        "text": ["x" * (i % 3) for i in range(70)],
    }
    rows = pd.DataFrame(rows)
    expected = greedy(rows, embeddings, 0.9)
    for block in (8, 16, 500):
        found = duplicates.embedding_duplicates(rows, embeddings, 0.9, block=block)
        assert set(found["key"]) == set(expected) and len(expected) > 20
        assert set(found["reason"]) == {"near duplicate by embedding"} and not set(found["kept"]) & set(found["key"])
        at = {key: i for i, key in enumerate(rows["key"])}
        cosines = [embeddings[at[r.key]] @ embeddings[at[r.kept]] for r in found.itertuples()]
        best = [embeddings[at[r.key]] @ embeddings[at[expected[r.key]]] for r in found.itertuples()]
        np.testing.assert_allclose(cosines, best, atol=1e-5)
        np.testing.assert_allclose(1 - found["distance"], cosines, atol=1e-4)
    assert len(duplicates.embedding_duplicates(rows[:0], embeddings[:0], 0.9)) == 0
    embeddings[7, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        duplicates.embedding_duplicates(rows, embeddings, 0.9)


# The cache


def test_hashes_are_kept_until_the_pictures_change(tmp_path):
    calls = []

    def samples():
        calls.append(1)
        yield "a", b"x", picture(0), "text"

    for fingerprint in ("one", "one", "two"):
        found = duplicates.load_or_hash(tmp_path / "hashes.parquet", fingerprint, samples())
    assert len(calls) == 2 and found["hash"].dtype == np.uint64
    assert not list(tmp_path.glob(".*"))


# Real pictures


@pytest.mark.skipif(not (DATA / "rsicd").is_dir(), reason="RSICD is not on this disk: set RSVLM_DATA")
def test_real_pictures_are_found_again_and_distinct_ones_kept_apart():
    rows = json.loads((DATA / "rsicd" / "dataset_rsicd.json").read_text())["images"]
    files = [DATA / "rsicd" / "RSICD_images" / row["filename"] for row in rows if row["split"] == "val"][:300]
    arrays = [images.decode(path.read_bytes()) for path in files]
    detailed = [array for array in arrays if duplicates.thumbnails([array]).std() >= duplicates.FLAT]
    changes = {
        "jpeg": lambda a: jpeg(a, 60),
        "smaller": lambda a: images.resize(a, int(a.shape[0] * 0.8), int(a.shape[1] * 0.8)),
        "brighter": lambda a: np.clip(a.astype(np.float32) * 1.15, 0, 255).astype(np.uint8),
    }
    before = duplicates.perceptual_hashes(duplicates.thumbnails(detailed))
    for name, change in changes.items():
        after = duplicates.perceptual_hashes(duplicates.thumbnails(map(change, detailed)))
        small = [duplicates.thumbnails(part) for part in (detailed, map(change, detailed))]
        alike = picture_details.alike(*(picture_details.unpacked(picture_details.small(luma)) for luma in small))
        recall = ((np.bitwise_count(before ^ after) <= duplicates.DISTANCE) & alike).mean()
        assert recall > 0.95, (name, recall)
    apart = np.bitwise_count(before[:, None] ^ before[None])[np.triu_indices(len(before), 1)]
    assert (apart <= duplicates.DISTANCE).mean() < 2e-3


def test_hidden_pictures_are_not_looked_for(tmp_path, caplog):
    picture = png(toy_sample(0)[0])
    write_tar(tmp_path / "a.tar", {"._1.png": b"\0\5\x16\7", "1.png": picture})
    (tmp_path / "2.png").write_bytes(picture)
    for name in ("._2.png", "._a.tar", "__MACOSX/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert [name for name, *_ in duplicates.pictures(tmp_path)] == ["2.png", "a.tar/1.png"] and not caplog.text
