"""Every score against its definition written out, baselines, intervals, and differences on the same images."""

import numpy as np
import pytest
from conftest import png
from hypothesis import given, settings, strategies as st
from localization.test_agreement import a_map

from rsvlm.errors import DataError
from rsvlm.localization import agreement, baselines, mask_reading, pixels, scoring, true_masks
from rsvlm.model import images
from rsvlm.records import results

CLASSES = ("ship", "dock", "tree")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 4), st.booleans(), st.integers(0, 10**6))
def test_iou_of_classes_equals_its_definition(H, W, C, own, seed):
    """At the fixed threshold, or with a map of the background; over the pixels of two images together."""
    rng = np.random.default_rng(seed)
    names, blank = [f"class {c}" for c in range(C)], png(np.zeros((H, W, 3), np.uint8))
    maps, masks = [a_map(rng, (C + own, H, W)) for _ in range(2)], rng.random((2, C, H, W)) < 0.3
    items = [true_masks.Item(str(n), blank, dict(zip(names, masks[n], strict=True))) for n in range(2)]
    turn = iter(maps)
    found = scoring.measure(items, {"a": lambda image: next(turn)}, names)["a"]
    score = {row["metric"]: row["value"] for row in scoring.rows(found, bootstrap_samples=0)}
    sums = np.zeros((C + 1, 3))
    for heat, truth in zip(maps, masks, strict=True):
        there, filled = np.isfinite(heat).any(0), np.nan_to_num(heat, nan=-9)
        told = filled.argmax(0)
        if not own and there.any():  # the thresholds are shares of the range of all maps
            low, high = float(np.nanmin(heat)), float(np.nanmax(heat))
            place = ((filled.max(0).astype(float) - low) * (agreement.BINS / max(high - low, 1e-9))).astype(int)
            told[place < 50] = C
        truth = np.concatenate([truth, ~truth.any(0)[None]]) & there
        for c in range(C + 1):
            hit = (told == c) & there
            sums[c] += hit.sum(), truth[c].sum(), (hit & truth[c]).sum()
    wanted = [100 * both / (told + true - both) for told, true, both in sums if true]
    if not masks.any():  # the background alone is no score
        assert not any(metric.startswith(("iou[", "miou")) for metric in score)
        return
    got = [score[f"iou[{name}]"] for name, (_, true, _) in zip([*names, "background"], sums, strict=True) if true]
    np.testing.assert_allclose(got, wanted)
    if wanted:
        assert score["miou"] == pytest.approx(np.mean(wanted))


# Truth that is not known


def partly_known(rng, C, H=9, W=11):
    """Masks of C classes that exclude each other, and pixels unknown of all, and of each class."""
    label = rng.integers(0, C + 1, (H, W))
    masks = {f"class {c}": label == c for c in range(C)}
    unknown = {key: rng.random((H, W)) < rng.choice([0, 0.3]) for key in (mask_reading.EVERY, *masks)}
    return masks, unknown


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 10**6))
def test_what_a_map_says_where_nothing_is_known_changes_no_score(C, count, own, seed):
    rng, blank = np.random.default_rng(seed), png(np.zeros((9, 11, 3), np.uint8))
    given_masks = [partly_known(rng, C) for _ in range(count)]
    items = [true_masks.Item(str(n), blank, masks, {}, unknown) for n, (masks, unknown) in enumerate(given_masks)]
    names = [f"class {c}" for c in range(C)]
    maps = [a_map(rng, (C + own, 9, 11)) for _ in items]
    others = [heat.copy() for heat in maps]
    for other, (_, unknown) in zip(others, given_masks, strict=True):
        for c in range(C + own):  # the background is known where all classes are
            nowhere = unknown[mask_reading.EVERY] | (unknown[names[c]] if c < C else np.any(list(unknown.values()), 0))
            other[c, nowhere] = rng.normal(0, 9, nowhere.sum())
    results_of = []
    for some in (maps, others):
        turn = iter(some)
        results_of.append(scoring.evaluate(items, lambda image, turn=turn: next(turn), names, bootstrap_samples=5))
    assert results_of[0] == results_of[1]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.booleans(), st.integers(0, 10**6))
def test_an_exact_map_is_worth_100_wherever_something_is_known(C, everywhere, seed):
    rng, blank = np.random.default_rng(seed), png(np.zeros((9, 11, 3), np.uint8))
    masks, unknown = partly_known(rng, C)
    if everywhere:  # each pixel has a class
        masks["class 0"] |= ~np.any(list(masks.values()), 0)
    names = list(masks)
    heat = np.stack([masks[name] for name in names]).astype(np.float32)
    heat[:, unknown[mask_reading.EVERY]] = rng.normal(0, 9, (C, unknown[mask_reading.EVERY].sum()))
    for c, name in enumerate(names):
        heat[c, unknown[name]] = rng.normal(0, 9, unknown[name].sum())
    item = true_masks.Item("a", blank, masks, {}, unknown)
    rules = scoring.Rules(background=not everywhere)
    rows = scoring.evaluate([item], lambda image: heat, names, rules, bootstrap_samples=0)
    # Thresholds are shares of a map's range, which a class that is everywhere or nowhere does not have.
    known = {name: mask & ~unknown[name] & ~unknown[mask_reading.EVERY] for name, mask in masks.items()}
    full = [name for name, mask in known.items() if mask.sum() == (~unknown[name] & ~unknown[mask_reading.EVERY]).sum()]
    assert not [row for row in rows if row["value"] != 100] or full


def test_a_part_around_what_is_unknown_is_no_wrong_box():
    """The box of a thin arc holds more that is unknown than is known, so there is no true box, and none that could be wrong."""
    ship = np.zeros((20, 30), bool)
    ship[2, 2:12] = ship[2:12, 2] = True
    unknown = np.zeros((20, 30), bool)
    unknown[3:12, 3:12] = True
    other = np.zeros((20, 30), bool)
    other[15:18, 20:25] = True
    item = true_masks.Item("a", png(np.zeros((20, 30, 3), np.uint8)), {"ship": ship | other}, {}, {"ship": unknown})
    heat = np.where(ship, 2, other)[None].astype(np.float32)
    (row,) = [
        row for row in scoring.evaluate([item], lambda image: heat, ["ship"], bootstrap_samples=0) if row["metric"] == "ap50"
    ]
    assert row["value"] == 100


def test_a_picture_half_unknown_is_worth_its_other_half():
    items = world(8)
    halves, left = [], np.zeros((32, 40), bool)
    left[:, :20] = True
    for item in items:
        image = images.decode(item.image)[:, :20].copy()
        halves.append(true_masks.Item(item.key, png(image), {name: mask[:, :20] for name, mask in item.masks.items()}))
    cut = [true_masks.Item(item.key, item.image, item.masks, {}, {mask_reading.EVERY: ~left}) for item in items]

    def poor(image):
        return np.pad(sees(image[:, :20], 0.3), ((0, 0), (0, 0), (0, image.shape[1] - 20)), constant_values=3)

    rows, wanted = (scoring.evaluate(some, poor, CLASSES, bootstrap_samples=20) for some in (cut, halves))
    assert len(rows) == len(wanted) >= 20
    for row, other in zip(rows, wanted, strict=True):
        assert row["metric"] == other["metric"] and row["n"] == other["n"], row
        assert row["value"] == pytest.approx(other["value"]) and row["chance"] == pytest.approx(other["chance"]), row


def test_numbers_of_pictures_are_those_that_were_scored():
    items = world(6)
    items[0] = true_masks.Item("no", items[0].image, items[0].masks, {}, {mask_reading.EVERY: np.ones((32, 40), bool)})
    items[1] = true_masks.Item("crowd", items[1].image, {}, {}, {"dock": np.eye(32, 40, dtype=bool)})
    rows = scoring.evaluate(items, sees, CLASSES, bootstrap_samples=0)
    counts = {row["metric"]: row["n"] for row in rows}
    assert counts["miou"] == 5 and counts["presence_auc[dock]"] == 4 and counts["pointing[ship]"] == 4


def test_counts_by_label_and_bin_equal_the_twin():
    rng = np.random.default_rng(1)
    maps, masks = a_map(rng, (3, 20, 30)), rng.random((3, 20, 30)) < 0.3
    counts, truth = pixels.label_counts(maps, masks, -0.3, 0.7, 7)
    there = np.isfinite(maps).any(0)
    filled = np.nan_to_num(maps, nan=-9)
    best, value = filled.argmax(0), filled.max(0).astype(float)
    place = np.clip(((value + 0.3) * (7 / 1.0)).astype(int), 0, 6)
    for c in range(3):
        for b in range(7):
            here = there & (best == c) & (place == b)
            assert counts[c, b].tolist() == [here.sum(), (here & masks[c]).sum()]
    free = ~masks.any(0)
    assert counts[3, :, 0].sum() == there.sum() and counts[3, :, 1].sum() == (there & free).sum()
    np.testing.assert_array_equal(truth, (masks & there).sum((1, 2)))


def test_boxes_are_given_away_once_and_to_the_better():
    truth = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], float)
    found = np.array([[1, 0, 11, 10], [0, 0, 10, 10], [20, 0, 30, 5.1], [20, 0, 30, 5.1], [50, 50, 60, 60]], float)
    assert pixels.match_boxes(found, truth, 0.5).tolist() == [True, False, True, False, False]
    assert pixels.match_boxes(found, np.zeros((0, 4)), 0.5).sum() == 0

    def twin(found, truth):
        taken, hits = set(), []
        for a in found:
            best = (0, None)
            for j, b in enumerate(truth):
                both = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
                iou = both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both)
                best = max(best, (iou, -j)) if j not in taken and iou >= 0.5 else best
            taken |= set() if best[1] is None else {-best[1]}
            hits.append(best[1] is not None)
        return hits

    rng = np.random.default_rng(0)
    for _ in range(20):
        corner = rng.integers(0, 6, (2, 12, 2))
        found, truth = (np.concatenate([c, c + rng.integers(4, 9, (12, 2))], 1).astype(float) for c in corner)
        assert pixels.match_boxes(found, truth, 0.5).tolist() == twin(found, truth)


def world(count=24, seed=0):
    """Images with a bright square (ship) and perhaps a dark one (dock); tree is nowhere but once."""
    rng = np.random.default_rng(seed)
    items = []
    for n in range(count):
        image, masks = np.full((32, 40, 3), 140, np.uint8), {}
        for name, value in (("ship", 250), ("dock", 5)):
            if name == "ship" or n % 2:
                y, x = rng.integers(1, 22), rng.integers(1, 12) + (20 if name == "dock" else 0)
                mask = np.zeros((32, 40), bool)
                mask[y : y + 8, x : x + 7] = True
                image[mask], masks[name] = value, mask
        if n == 0:
            masks["tree"] = np.eye(32, 40, dtype=bool)
        items.append(true_masks.Item(f"im{n}", png(image), masks))
    return items


def sees(image, noise=0.0):
    """Maps that know the colours: ship is bright, dock is dark, tree is nothing."""
    luma = image[..., 0].astype(np.float32) / 255
    draw = np.random.default_rng(int(image.sum())).normal(0, noise, (3, *luma.shape)).astype(np.float32) if noise else 0
    return np.stack([np.maximum(luma - 0.7, 0), np.maximum(0.3 - luma, 0), np.zeros_like(luma)]) + draw


def value(rows, metric, field="value", protocol="maps"):
    return next(row[field] for row in rows if row["metric"] == metric and row["protocol"] == protocol)


def test_a_method_that_sees_scores_full_and_the_rows_are_rows():
    rows = scoring.evaluate(world(), sees, CLASSES, dataset="toy", bootstrap_samples=50)
    for row in rows:
        results.checked_row(row)
    for name in ("ship", "dock"):
        for metric in ("pointing", "ap50", "iou@0.5"):
            assert value(rows, f"{metric}[{name}]") == 100, (metric, name)
    assert value(rows, "presence_auc[dock]") == 100
    assert not any(row["metric"] == "presence_auc[ship]" for row in rows)  # a ship is everywhere: nothing to tell
    assert value(rows, "pointing", "n") == 24 + 12 + 1 and value(rows, "pointing[dock]", "n") == 12
    assert value(rows, "pointing[ship]", "chance") == pytest.approx(100 * 56 / 1280)
    assert value(rows, "miou", "n") == 24 and value(rows, "iou[ship]") == 100
    assert value(rows, "miou_best") >= value(rows, "miou") and value(rows, "iou_best") >= value(rows, "iou@0.5")


def test_without_a_background_each_pixel_gets_a_class_and_a_map_of_it_needs_no_threshold():
    items, both = world(8), ["ship", "dock"]
    rows = scoring.evaluate(items, lambda image: sees(image)[:2], both, scoring.Rules(background=False), bootstrap_samples=0)
    total = 8 * 1280
    assert not any(row["metric"] in ("miou_best", "iou[background]") for row in rows)
    assert value(rows, "iou[ship]") == pytest.approx(100 * 8 * 56 / (total - 4 * 56))  # whatever is not dark is a ship
    assert value(rows, "miou", "ci_low") is None
    zero = lambda image: np.concatenate([sees(image)[:2], np.full((1, 32, 40), 0.2, np.float32)])  # noqa: E731
    rows = scoring.evaluate(items, zero, both, bootstrap_samples=0)
    assert value(rows, "miou") == 100 and value(rows, "iou[background]") == 100


def test_an_interval_at_0_or_100_percent_is_as_wide_as_its_images_are_few():
    methods = {"right": sees, "wrong": lambda image: 1 - sees(image)}
    rows = scoring.evaluate(world(12), methods, CLASSES, against="right", bootstrap_samples=50)
    shown = 100 * (1 - 0.025 ** (1 / 12))
    assert value(rows, "pointing[ship]", protocol="right") == 100 and value(rows, "pointing[ship]", protocol="wrong") == 0
    assert value(rows, "pointing[ship]", "ci_low", "right") == pytest.approx(100 - shown)
    assert value(rows, "pointing[ship]", "ci_high", "wrong") == pytest.approx(shown)
    for row in rows:
        if "-" not in row["protocol"] and row["value"] in (0, 100):
            assert row["ci_low"] < row["ci_high"], row


def test_intervals_cover_and_differences_are_paired():
    methods = {"good": lambda image: sees(image, 0.1), "worse": lambda image: sees(image, 0.25)}
    methods |= {"same": methods["good"]} | baselines.methods(CLASSES)
    rows = scoring.evaluate(world(), methods, CLASSES, against="good", bootstrap_samples=200)
    for row in rows:
        results.checked_row(row)
        assert row["ci_low"] is None or row["ci_low"] - 1e-9 <= row["value"] <= row["ci_high"] + 1e-9 or row["n"] < 13
    assert (
        value(rows, "miou", "ci_low", "good") < value(rows, "miou", protocol="good") < value(rows, "miou", "ci_high", "good")
    )
    assert {value(rows, "miou", field, "same - good") for field in ("value", "ci_low", "ci_high")} == {0.0}
    assert value(rows, "miou", "ci_high", "worse - good") < 0
    assert value(rows, "miou", protocol="worse - good") == pytest.approx(
        value(rows, "miou", protocol="worse") - value(rows, "miou", protocol="good")
    )
    for name in ("random", "centre", "brightness"):
        assert value(rows, "pointing", protocol=name) < value(rows, "pointing", protocol="good")
    again = scoring.evaluate(world(), baselines.methods(CLASSES), CLASSES, bootstrap_samples=200)
    assert [row for row in rows if row["protocol"] in ("random", "centre", "brightness")] == again


def test_maps_without_data_and_flat_maps_are_scored():
    nothing = lambda image: np.full((3, 32, 40), np.nan, np.float32)  # noqa: E731
    methods = {"none": nothing, "flat": lambda image: np.ones((3, 32, 40))}
    rows = scoring.evaluate(world(4), methods, CLASSES, bootstrap_samples=20)
    assert value(rows, "pointing", protocol="none") == 0 and value(rows, "ap50", protocol="none") == 0
    assert value(rows, "pointing[ship]", protocol="flat") == pytest.approx(value(rows, "pointing[ship]", "chance", "flat"))
    assert value(rows, "presence_auc", protocol="flat") == 50


def test_images_without_a_mask_count_as_background():
    empty = [true_masks.Item(f"no{n}", png(np.full((32, 40, 3), 140, np.uint8)), {}) for n in range(3)]
    assert scoring.evaluate(empty, sees, CLASSES, bootstrap_samples=5) == []  # nothing is there to find
    items = world(8)
    alone, more = (scoring.evaluate(some, sees, CLASSES, bootstrap_samples=0) for some in (items, items + empty))
    assert value(more, "pointing") == value(alone, "pointing") and value(more, "pointing", "n") == value(
        alone, "pointing", "n"
    )
    assert value(more, "presence_auc[ship]") == 100 and value(more, "miou", "n") == 11


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"items": []}, "no image"),
        ({"classes": []}, "0 classes"),
        ({"classes": ["a", "a"]}, "no class twice"),
        ({"maps_of": lambda image: np.zeros((3, 5, 5))}, "gave maps of shape"),
        ({"maps_of": {"one": sees}, "against": "two"}, "no method 'two'"),
        ({"rules": scoring.Rules(threshold=2)}, "threshold 2"),
        (
            {"items": [true_masks.Item("x", png(np.zeros((8, 8, 3), np.uint8)), {"ship": np.ones((4, 4), bool)})]},
            "equal sizes",
        ),
        ({"items": [true_masks.Item("x", b"GIF89a", {})]}, "cannot be decoded"),
    ],
)
def test_a_bad_request_is_refused(change, says):
    with pytest.raises(DataError, match=says):
        scoring.evaluate(**{"items": world(2), "maps_of": sees, "classes": CLASSES} | change)


def test_rows_without_some_images_are_those_of_the_others_alone(caplog):
    items, methods = world(12), {"good": lambda image: sees(image, 0.1), "worse": lambda image: sees(image, 0.25)}
    odd = {item.key for item in items[1::3]}
    more = {"against": "good", "bootstrap_samples": 30, "dataset": "toy"}
    rows = scoring.evaluate(items, methods, CLASSES, without={"odd": odd}, **more)
    alone = scoring.evaluate(
        [item for item in items if item.key not in odd], methods, CLASSES, split="test without odd", **more
    )
    assert [row for row in rows if row["split"] == "test without odd"] == alone
    assert [row for row in rows if row["split"] == "test"] == scoring.evaluate(items, methods, CLASSES, **more)
    for keys in (["no such image"], [item.key for item in items]):
        caplog.clear()
        more = scoring.evaluate(items, methods, CLASSES, without={"odd": keys}, bootstrap_samples=0)
        assert {row["split"] for row in more} == {"test"} and "are there keys such as im0" in caplog.text


def test_of_many_boxes_the_best_count():
    """Noise has a part at every other pixel; the right box is found where its map is highest, and lost where it is not."""
    mask = np.zeros((40, 60), bool)
    mask[20:30, 20:30] = True
    item = true_masks.Item("a", png(np.zeros((40, 60, 3), np.uint8)), {"ship": mask})
    for level, hits in ((1.0, 1), (0.6, 0)):
        heat = np.zeros((40, 60), np.float32)
        heat[::2, ::2] = 0.9
        heat[18:32, 18:32] = 0
        heat[mask] = level
        found = scoring.measure([item], {"a": lambda image, heat=heat: heat[None]}, ["ship"])["a"]
        assert len(found.boxes) == agreement.MOST_BOXES and found.boxes["right"].sum() == hits


def test_two_methods_on_other_images_are_not_compared():
    found = [scoring.measure(world(n), {"a": sees}, CLASSES)["a"] for n in (2, 3)]
    with pytest.raises(DataError, match="same images"):
        scoring.rows(*found)


def test_an_interval_at_0_or_100_percent_has_the_width_that_its_images_allow():
    right, wrong = lambda image: sees(image)[:2], lambda image: -sees(image)[:2]
    methods = {"right": right, "same": right, "wrong": wrong}
    rows = scoring.evaluate(world(), methods, ("ship", "dock"), against="right", bootstrap_samples=50)
    ends = {
        (row["protocol"], row["metric"]): (row["ci_low"], row["ci_high"])
        for row in rows
        if row["value"] in (0, 100) or row["protocol"] == "same - right"
    }
    of_12, of_24 = (100 * (1 - 0.025 ** (1 / n)) for n in (12, 24))
    for metric in ("pointing", "iou@0.5", "ap50", "iou"):
        assert ends["right", f"{metric}[dock]"] == pytest.approx((100 - of_12, 100)), metric
    assert ends["right", "presence_auc[dock]"] == pytest.approx((100 - of_12, 100))
    assert ends["right", "pointing"] == pytest.approx((100 - of_24, 100))
    assert ends["wrong", "pointing[dock]"] == pytest.approx((0, of_12))
    assert ends["right", "iou[background]"] == pytest.approx((100 - of_24, 100))
    of_32 = 100 * (1 - 0.025 ** (1 / 24))  # 4 / (1 / 24 + 1 / 12) are 32, and no more than there are images
    assert ends["right", "ap50"] == pytest.approx((100 - of_32, 100))
    assert ends["same - right", "pointing"] == pytest.approx((-of_24, of_24))
    assert all(low < high for low, high in ends.values())


def test_few_resamples_are_told(caplog):
    noisy = lambda image: sees(image, 0.25)[:2]  # noqa: E731
    with caplog.at_level("WARNING"):
        scoring.evaluate(world(120), noisy, ("ship", "dock"), bootstrap_samples=1)
    assert "1 resamples are few" in caplog.text and "--bootstrap-samples" in caplog.text


def test_images_of_one_block_are_resampled_together():
    found = scoring.measure(world(4), {"a": sees}, CLASSES)["a"]
    single, one, pairs = (
        {row["metric"]: row for row in scoring.rows(found, bootstrap_samples=50, blocks=blocks)}
        for blocks in (None, [7] * 4, ["a", "a", "b", "b"])
    )
    for metric, row in one.items():
        assert row["value"] == single[metric]["value"] == pairs[metric]["value"]
        if row["ci_low"] is not None:
            assert row["ci_low"] <= row["value"] <= row["ci_high"], metric
            told = row["ci_high"] - row["ci_low"]
            assert told in (0, 100) or told >= pairs[metric]["ci_high"] - pairs[metric]["ci_low"], "one block tells nothing"
    with pytest.raises(DataError, match="blocks for 4 images"):
        scoring.rows(found, bootstrap_samples=50, blocks=[1, 2])
