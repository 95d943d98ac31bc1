"""The overhead head: features are sane, the threshold keeps its promise, and hostile bytes come to a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rsvlm import config
from rsvlm.data.web import overhead
from rsvlm.errors import DataError
from rsvlm.model import images

OPTIONS = config.Web()


def png(array):
    return images.encode_png(np.asarray(array, np.uint8))


def noise(height=80, width=90, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Decoding


def bomb():
    """A PNG of 60,000 by 60,000 pixels in a few hundred bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "broken image"),
        (b"GIF89a", "broken image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "broken image"),
        (b"<html>not found</html>", "broken image"),
        (bomb(), "broken image"),
        (png(noise())[:400], "broken image"),
        (png(np.zeros((1, 1, 3))), "too small"),
        (png(noise(63, 200)), "too small"),
        (png(noise(70, 300)), "too long"),
        (png(np.full((80, 80, 3), 200)), "one colour"),
    ],
)
def test_what_is_no_usable_picture_has_a_reason(data, reason):
    array, found = overhead.decode(data, OPTIONS)
    assert (array, found) == (None, reason) and reason in overhead.REASONS


def test_usable_pictures_are_decoded_whatever_their_mode():
    for mode in ("L", "P", "RGBA", "LA", "CMYK", "1"):
        buffer = io.BytesIO()
        Image.fromarray(noise()).convert(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
        array, reason = overhead.decode(buffer.getvalue(), OPTIONS)
        assert reason is None and array.shape == (80, 90, 3) and array.dtype == np.uint8, mode


def test_large_pictures_are_scaled_down_and_keep_their_shape():
    array, _ = overhead.decode(png(noise(300, 500)), OPTIONS.model_copy(update={"max_side_px": 100}))
    assert array.shape == (60, 100, 3)


# The head


def test_features_are_finite_and_see_up_and_down():
    flat, sky = np.full((80, 80, 3), 120, np.uint8), noise()
    sky = np.clip(sky * 0.2 + np.linspace(200, 0, 80)[:, None, None], 0, 255).astype(np.uint8)
    found = overhead.features(overhead.thumbnails([flat, sky, sky[::-1], noise()]))
    assert np.isfinite(found).all() and found.dtype == np.float32
    assert np.abs(found[1] - found[2]).max() > 0.3
    assert overhead.features(overhead.thumbnails([])).shape == (0, found.shape[1])


def test_each_picture_is_measured_by_itself():
    pictures = [noise(seed=i) for i in range(3)]
    together = overhead.features(overhead.thumbnails(pictures))
    alone = np.concatenate([overhead.features(overhead.thumbnails([picture])) for picture in pictures])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_swings_tell_scale_direction_and_place():
    y, x = np.mgrid[:64, :64].astype(np.float32)
    swings = overhead.OCTAVES * (overhead.DIRECTIONS + 4)
    for octave, direction in ((0, 0), (1, 2), (2, 3), (3, 5)):
        angle, cycles = np.pi * direction / overhead.DIRECTIONS, 0.35 / 2**octave
        wave = 0.5 + 0.3 * np.sin(2 * np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)))
        found = overhead._swings(wave[None])[0].reshape(overhead.OCTAVES, -1)
        level = found[:, overhead.DIRECTIONS]
        assert found[octave, : overhead.DIRECTIONS].argmax() == direction and level.argmax() == octave
    part = np.where(x < 32, wave, 0.5)  # the same, in one half only
    uneven = overhead._swings(part[None])[0].reshape(overhead.OCTAVES, -1)
    assert uneven[octave, overhead.DIRECTIONS + 1] > 2 * found[octave, overhead.DIRECTIONS + 1]
    assert uneven.size == swings and np.isfinite(overhead._swings(np.zeros((1, 64, 64), np.float32))).all()


def two_clouds(rng, count, distance):
    labels = np.arange(count) % 2 == 0
    return (rng.normal(size=(count, 103)) + labels[:, None] * distance).astype(np.float32), labels


def left_out(found, labels, sources):
    """The twin of the block formula: fit again without each source."""
    mean, scale = found.mean(axis=0, dtype=float), found.std(axis=0, dtype=float) + 1e-3
    every, scores = overhead._standardise(found, mean, scale), np.empty(len(labels))
    for source in set(sources.tolist()):
        out = sources == source
        gram = overhead._kernel(every[~out], every[~out]) + overhead.RIDGE * np.eye((~out).sum())
        scores[out] = overhead._kernel(every[out], every[~out]) @ np.linalg.solve(gram, labels[~out].astype(float))
    return scores


def test_threshold_is_the_lowest_that_keeps_the_precision_on_sources_not_seen():
    rng = np.random.default_rng(0)
    found, labels = two_clouds(rng, 400, 0.12)
    sources = rng.integers(0, 40, 400)
    scores, recalls = left_out(found, labels, sources), []
    for precision, weights in ((0.7, None), (0.9, None), (0.9, np.where(labels, 1.0, 0.2))):
        head = overhead.fit(found, labels, sources, precision, weights)
        passed, weight = scores >= head.threshold, np.ones(400) if weights is None else weights
        assert np.average(labels[passed], weights=weight[passed]) >= precision
        lower = np.sort(scores[~passed])[::-1]
        assert all(np.average(labels[scores >= level], weights=weight[scores >= level]) < precision for level in lower)
        assert head.recall == pytest.approx(labels[passed].sum() / labels.sum()) and head.sources == 40
        assert head.auc == pytest.approx((scores[labels][:, None] > scores[~labels]).mean(), abs=1e-6)
        recalls.append(head.recall)
    assert recalls[0] > recalls[1] > 0 and recalls[2] > recalls[1]


def test_a_source_that_is_alike_in_itself_does_not_flatter():
    rng = np.random.default_rng(1)
    found, labels = two_clouds(rng, 300, 0.05)
    sources = np.arange(300) % 20
    found += rng.normal(0, 2, (20, 103)).astype(np.float32)[sources]  # each source has features of its own
    labels = np.isin(sources, rng.permutation(20)[:10])
    assert overhead.fit(found, labels, np.arange(300), 0.5).auc > 0.95 > overhead.fit(found, labels, sources, 0.4).auc + 0.2


def test_pictures_of_one_source_and_hopeless_labels_are_refused():
    found, labels = two_clouds(np.random.default_rng(0), 40, 1.0)
    with pytest.raises(DataError, match="0 sources of pictures of the class 'other'"):
        overhead.fit(found, np.ones(40, bool), np.arange(40))
    with pytest.raises(DataError, match="1 sources"):
        overhead.fit(found, labels, np.where(labels, -1, np.arange(40)))
    best = np.argmax(overhead.fit(found, labels, np.arange(40), 0.5).scores(found))
    wrong = labels.copy()
    wrong[labels] = np.random.default_rng(2).random(labels.sum()) < 0.5
    with pytest.raises(DataError, match="no threshold"):
        overhead.fit(np.zeros_like(found), wrong, np.arange(40), 0.999)
    assert labels[best]


def test_a_head_is_kept_and_nothing_else_is_taken_for_one(tmp_path):
    found, labels = two_clouds(np.random.default_rng(0), 60, 1.0)
    head = overhead.fit(found, labels, np.arange(60), 0.8, about="toy")
    overhead.save(head, tmp_path / "head.npz")
    again = overhead.load(tmp_path / "head.npz")
    assert (again.scores(found) == head.scores(found)).all()
    assert (again.threshold, again.about, again.sources) == (head.threshold, "toy", 60)
    with pytest.raises(DataError, match="features for a head"):
        again.scores(found[:, :5])
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04 junk")
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", **{"mean": np.array([{}], object)})
    for name in ("junk.npz", "other.npz", "pickle.npz", "missing.npz"):
        with pytest.raises(DataError, match="no overhead head"):
            overhead.load(tmp_path / name)


def test_a_labelled_folder_trains_a_head(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(24):
        rough = noise(seed=number)
        smooth = np.full((80, 80, 3), rng.integers(40, 200, 3), np.uint8)
        smooth[20:60, 20:60] = rng.integers(0, 256, 3)
        for name, array in (("overhead", rough), ("other", smooth)):
            path = tmp_path / name / f"part{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(array))
    (tmp_path / "other" / "notes.txt").write_text("no picture")
    (tmp_path / "other" / "._1.png").write_bytes(b"what macOS puts beside a picture")
    head, counts = overhead.train_folder(tmp_path, 0.9)
    assert counts == {"overhead": 24, "other": 24, "broken": 1}
    assert overhead.score(head, [noise(seed=99)])[0] >= head.threshold and head.sources == 4
    (tmp_path / "other" / "part1").rename(tmp_path / "other" / "part0" / "deeper")
    assert overhead.train_folder(tmp_path, 0.9)[0].sources == 2 + 24  # one folder says nothing of sources
    with pytest.raises(DataError, match="no readable picture"):
        overhead.train_folder(tmp_path / "overhead", 0.9)


def near_twins(number: int, is_overhead: bool) -> np.ndarray:
    """Pictures of two kinds that are hard to tell apart: rough everywhere, or rough in all but a part."""
    picture = noise(seed=number).astype(float)
    smooth = (
        np.random.default_rng(number).uniform(0.35, 1.0)
        if not is_overhead
        else np.random.default_rng(number).uniform(0.0, 0.65)
    )
    rows = max(int(80 * smooth), 1)
    picture[:rows] = picture[:rows].mean()
    return picture.clip(0, 255).astype(np.uint8)


def test_the_promise_does_not_come_from_how_many_pictures_each_folder_holds(tmp_path):
    for name, numbers in (("overhead", range(90)), ("other", range(90, 180))):
        for number in numbers:
            path = tmp_path / "even" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(near_twins(number, name == "overhead")))
            if name == "overhead" or number < 100:
                path = tmp_path / "uneven" / name / path.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(near_twins(number, name == "overhead")))
    even, _ = overhead.train_folder(tmp_path / "even", 0.75)
    uneven, counts = overhead.train_folder(tmp_path / "uneven", 0.75)
    assert counts["overhead"] == 9 * counts["other"]
    for head in (even, uneven):
        assert head.precision_at(0.5) >= 0.75 > head.precision_at(0.05)
        # at equal shares: precision = recall / (recall + false-positive rate)
        assert head.false_positive_rate <= head.recall / 3 + 1e-9
    # By the folders' shares all of the others might have passed.
    rare, _ = overhead.train_folder(tmp_path / "even", 0.75, share=0.2)
    assert rare.precision_at(0.2) >= 0.75 and rare.recall < even.recall and "0.2 of the pictures" in rare.about
    with pytest.raises(DataError, match="--share"):
        overhead.train_folder(tmp_path / "even", 0.75, share=1.0)
