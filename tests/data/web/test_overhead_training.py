"""A head trained from labelled pictures: the threshold keeps its promise on sources not seen, at the share that was stated."""

import numpy as np
import pytest

from rsvlm.data.web import overhead, overhead_training as training
from rsvlm.errors import DataError
from rsvlm.model import images


def png(array):
    return images.encode_png(np.asarray(array, np.uint8))


def noise(height=80, width=90, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def two_clouds(rng, count, distance, width=20):
    labels = np.arange(count) % 2 == 0
    return (rng.normal(size=(count, width)) + labels[:, None] * distance).astype(np.float32), labels


def by_hand(labels, sources):
    """The twin of the weights: a class has 1, each of its sources the same part of it, each picture the same part of that."""
    keys = list(zip(labels.tolist(), sources.tolist(), strict=True))
    of_class = {label: len({source for other, source in keys if other == label}) for label in (True, False)}
    return np.array([1 / of_class[key[0]] / keys.count(key) for key in keys])


def left_out(found, labels, sources, share):
    """The twin of the threshold's scores: fit by hand without each fold, and score it."""
    weight = by_hand(labels, sources) * np.where(labels, share, 1 - share)
    scores, folds = np.empty(len(labels)), training._folds(labels, sources)
    for fold in range(5):
        out = folds == fold
        weights, bias = training._logistic(found[~out], labels[~out], weight[~out])
        scores[out] = 1 / (1 + np.exp(-(found[out] @ weights + bias)))
    return scores


def test_the_fit_is_the_minimum_of_its_loss():
    found, labels = two_clouds(np.random.default_rng(0), 300, 0.4, 6)
    weight = np.where(labels, 0.3, 1.0)
    weights, bias = training._logistic(found, labels, weight)
    mean, scale = found.mean(axis=0, dtype=float), found.std(axis=0, dtype=float) + 1e-2
    standard, slopes = (found - mean) / scale, weights * scale
    wrong = (1 / (1 + np.exp(-(found @ weights + bias))) - labels) * weight / weight.sum()
    np.testing.assert_allclose(standard.T @ wrong + training.RIDGE * slopes, 0, atol=2e-5)
    assert wrong.sum() == pytest.approx(0, abs=2e-5)


def test_folds_keep_sources_whole_and_leave_both_classes_in():
    labels = np.arange(120) < 40
    sources = np.arange(120) // 4
    folds = training._folds(labels, sources)
    assert all(len(set(folds[sources == source])) == 1 for source in range(30))
    assert all(set(labels[folds != fold]) == {True, False} for fold in range(5)) and set(folds) == set(range(5))
    assert set(training._folds(labels, np.where(labels, sources, sources % 2))[~labels]) == {0, 1}


def test_threshold_is_the_lowest_that_keeps_the_precision_on_sources_not_seen():
    rng = np.random.default_rng(0)
    found, labels = two_clouds(rng, 600, 0.55)
    sources, recalls = rng.integers(0, 40, 600), []
    for precision, share in ((0.7, 0.5), (0.9, 0.5), (0.7, 0.2)):
        head = training.fit(found, labels, sources, precision, share)
        scores = left_out(found, labels, sources, share)
        part = by_hand(labels, sources)
        weight = part * np.where(labels, share, 1 - share)
        passed = scores >= head.threshold
        assert np.average(labels[passed], weights=weight[passed]) >= precision
        lower = np.sort(scores[~passed])[::-1]
        assert all(np.average(labels[scores >= level], weights=weight[scores >= level]) < precision for level in lower)
        assert head.recall == pytest.approx(part[passed & labels].sum()) and head.sources == 40
        pairs = part[labels][:, None] * part[~labels]
        assert head.auc == pytest.approx(((scores[labels][:, None] > scores[~labels]) * pairs).sum(), abs=1e-4)
        assert head.false_positive_rate == pytest.approx(part[passed & ~labels].sum(), abs=1e-6)
        assert head.others == round(1 / (part[~labels] ** 2).sum()) < (~labels).sum()
        again = head.at(precision, share)
        assert again.recall == head.recall and again.threshold == scores[passed].min().round(6) >= head.threshold
        recalls.append(head.recall)
    assert recalls[0] > recalls[1] > 0 and recalls[0] > recalls[2] > 0


def test_a_source_counts_as_much_as_another_however_many_pictures_it_has():
    rng = np.random.default_rng(4)
    found, labels = two_clouds(rng, 400, 0.8)
    sources = np.where(np.arange(400) < 200, 0, np.arange(400) // 2)  # half of each class is of one source
    weight = training.evenly(labels, sources)
    np.testing.assert_allclose(weight, by_hand(labels, sources))
    assert weight[labels].sum() == pytest.approx(1) and weight[labels & (sources == 0)].sum() == pytest.approx(1 / 101)
    many = np.concatenate([np.arange(400), np.arange(200), np.arange(200)])  # all of that source, three times
    head, more = (training.fit(found[rows], labels[rows], sources[rows], 0.6, 0.5) for rows in (np.arange(400), many))
    assert more.recall == pytest.approx(head.recall, abs=0.03) and more.auc == pytest.approx(head.auc, abs=0.01)


def test_what_is_not_counted_is_learnt_from_and_sets_no_threshold():
    rng = np.random.default_rng(3)
    found, labels = two_clouds(rng, 400, 0.8)
    counted = np.arange(400) < 300
    head = training.fit(found, labels, np.arange(400), 0.8, 0.5, counted)
    scores = left_out(found, labels, np.arange(400), 0.5)
    assert head.recall == pytest.approx((scores[counted & labels] >= head.threshold).mean())  # a source each
    assert head.sources == 400 and head.auc != training.fit(found, labels, np.arange(400), 0.8, 0.5).auc


def test_a_source_that_is_alike_in_itself_does_not_flatter():
    rng = np.random.default_rng(1)
    found, _ = two_clouds(rng, 300, 0.0, 60)
    sources = np.arange(300) % 20
    found += rng.normal(0, 2, (20, 60)).astype(np.float32)[sources]  # each source has features of its own
    labels = np.isin(sources, rng.permutation(20)[:10])
    assert training.fit(found, labels, np.arange(300), 0.5, 0.5).auc > 0.9
    assert training.fit(found, labels, sources, 0.4, 0.5).auc < 0.75


def test_pictures_of_one_source_and_hopeless_labels_are_refused():
    found, labels = two_clouds(np.random.default_rng(0), 40, 1.0)
    with pytest.raises(DataError, match="0 sources of pictures of the class 'other'"):
        training.fit(found, np.ones(40, bool), np.arange(40))
    with pytest.raises(DataError, match="1 sources"):
        training.fit(found, labels, np.where(labels, -1, np.arange(40)))
    with pytest.raises(DataError, match="no threshold"):
        training.fit(np.zeros_like(found), labels, np.arange(40), 0.999)


def test_views_show_the_same_thing_as_other_collections_would():
    picture = noise(120, 200)
    views = [training.varied(picture, np.random.default_rng(n), True) for n in range(60)]
    assert all(view.dtype == np.uint8 and view.ndim == 3 and min(view.shape[:2]) >= 16 for view in views)
    assert len({view.shape for view in views}) > 30  # sizes and proportions
    assert any((view[..., 0] == view[..., 1]).all() for view in views)  # grey
    assert any((view[0].max() < 30) and view.max() > 100 for view in views)  # a black border
    again = training.varied(picture, np.random.default_rng(7), True)
    assert (again == views[7]).all()
    assert training.varied(noise(1, 1), np.random.default_rng(0), False).ndim == 3


def test_pictures_from_above_are_also_turned_and_others_are_not():
    lit = np.zeros((64, 64, 3), np.uint8)
    lit[:32] = 255  # light above
    sideways = {}
    for is_overhead in (True, False):
        views = [training.varied(lit, np.random.default_rng(n), is_overhead).mean(axis=2) for n in range(60)]
        halves = [[np.array_split(view, 2, axis) for axis in (0, 1)] for view in views]
        high, wide = np.array([[abs(a.mean() - b.mean()) for a, b in view] for view in halves]).T
        sideways[is_overhead] = int((wide > high + 20).sum())
    assert sideways[True] > 10 and sideways[False] < 5  # a frame that is wider at one side


@pytest.fixture
def simple(monkeypatch):
    """Features that need no tower: mean and spread of blocks."""

    def features(pictures):
        rows = [np.r_[p[: len(p) // 2].std(), p[len(p) // 2 :].std(), p.mean(axis=(0, 1))] / 64 for p in pictures]
        return np.array(rows, np.float32)

    monkeypatch.setattr(overhead, "features", features)


def test_a_labelled_folder_trains_a_head(tmp_path, simple, caplog):
    rng = np.random.default_rng(0)
    for number in range(24):
        smooth = np.full((80, 80, 3), rng.integers(40, 200, 3), np.uint8)
        smooth[20:60, 20:60] = rng.integers(0, 256, 3)
        for name, array in (("overhead", noise(seed=number)), ("other", smooth)):
            path = tmp_path / name / f"part{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(array))
    (tmp_path / "other" / "notes.txt").write_text("no picture")
    (tmp_path / "other" / "._1.png").write_bytes(b"what macOS puts beside a picture")
    head, counts = training.train_folder(tmp_path, 0.6, 0.5)
    assert counts == {"overhead": 24, "other": 24, "broken": 1} and head.sources == 4
    assert "no picture can be read from them: other/notes.txt" in caplog.text
    assert head.trained_on == {"other/part0": 12, "other/part1": 12, "overhead/part0": 12, "overhead/part1": 12}
    assert overhead.score(head, [noise(seed=99)])[0] >= head.threshold
    (tmp_path / "other" / "part1").rename(tmp_path / "other" / "part0" / "deeper")
    head, _ = training.train_folder(tmp_path, 0.6, 0.5)
    assert head.sources == 4 and head.trained_on["other/part0"] == 24  # a source each, of one kind
    for path in (tmp_path / "other" / "part0" / "deeper").iterdir():
        path.rename(tmp_path / "other" / "part0" / path.name)
    assert training.train_folder(tmp_path, 0.6, 0.5)[0].sources == 2 + 24  # one folder says nothing of sources


def test_folders_without_pictures_are_told_before_any_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(overhead, "features", lambda pictures: pytest.fail("a picture was measured"))
    with pytest.raises(DataError, match="nowhere/other holds no files .there is no folder .*nowhere"):
        training.train_folder(tmp_path / "nowhere")
    for name in ("Overhead", "other"):
        (tmp_path / name).mkdir()
    for number in range(3):
        (tmp_path / "other" / f"{number}.png").write_bytes(png(noise()))
    with pytest.raises(DataError, match=r"overhead holds no files \(.* holds Overhead, other\): put labelled"):
        training.train_folder(tmp_path)
    (tmp_path / "overhead").mkdir()
    (tmp_path / "overhead" / "0.png").write_bytes(png(noise()))
    with pytest.raises(DataError, match="overhead holds 1 file "):
        training.train_folder(tmp_path)


def test_pictures_that_none_can_read_are_told(tmp_path, simple):
    for name in overhead.CLASSES:
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="no readable picture"):
        training.train_folder(tmp_path)


def near_twins(number: int, is_overhead: bool) -> np.ndarray:
    """Pictures of two kinds that are hard to tell apart: rough everywhere, or rough in all but a part."""
    picture = noise(seed=number).astype(float)
    smooth = np.random.default_rng(number).uniform(*((0.0, 0.65) if is_overhead else (0.35, 1.0)))
    rows = max(int(80 * smooth), 1)
    picture[:rows] = picture[:rows].mean()
    return picture.clip(0, 255).astype(np.uint8)


def test_the_promise_does_not_come_from_how_many_pictures_each_folder_holds(tmp_path, simple, monkeypatch):
    monkeypatch.setattr(training, "VIEWS", 1)
    monkeypatch.setattr(training, "MOST", 1)
    for name, numbers in (("overhead", range(90)), ("other", range(90, 180))):
        for number in numbers:
            for folder in ("even", "uneven")[: 1 + (name == "overhead" or number < 100)]:
                path = tmp_path / folder / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(near_twins(number, name == "overhead")))
    even, _ = training.train_folder(tmp_path / "even", 0.75, share=0.5)
    uneven, counts = training.train_folder(tmp_path / "uneven", 0.75, share=0.5)
    assert counts["overhead"] == 9 * counts["other"]
    for head in (even, uneven):
        assert head.precision_at(0.5) >= 0.75 > head.precision_at(0.05)
        # at equal shares: precision = recall / (recall + false-positive rate)
        assert head.false_positive_rate <= head.recall / 3 + 1e-9
    rare, _ = training.train_folder(tmp_path / "even", 0.75, share=0.2)
    assert rare.precision_at(0.2) >= 0.75 and rare.recall < even.recall and rare.share == 0.2
    with pytest.raises(DataError, match="--share"):
        training.train_folder(tmp_path / "even", 0.75, share=1.0)
