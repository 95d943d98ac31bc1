"""What was left out of scores is said, and a request that nothing answers is an error."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import png
from localization.test_mask_files import index, write
from typer.testing import CliRunner

from rsvlm.errors import DataError
from rsvlm.localization import by_name, commands


@pytest.fixture
def blind(monkeypatch):
    """No model is opened: each class has the same flat map."""
    model = SimpleNamespace(name="none", fingerprint="none", revision="")
    monkeypatch.setattr(by_name, "open_encoder", lambda *arguments: model)
    maps = lambda net, sentences, *rest: {"smooth": lambda image: np.ones((len(sentences), *image.shape[:2]))}  # noqa: E731
    monkeypatch.setattr(by_name, "_methods", maps)
    return by_name.Options(benchmark="masks", baselines=False, bootstrap_samples=0)


def test_what_was_not_scored_is_in_the_report_and_in_the_json(tmp_path, blind):
    masks = {"a.png": index(v1=(0, 3), v9=(3, 8)), "b.png": index(v1=(0, 3), v2=(4, 5))}
    write(tmp_path / "set", masks, ["background", "road", "ignore", "house"])
    base = ["--model", "none", "--benchmark", "masks", "--root", tmp_path / "set", "--no-baselines", "--device", "cpu"]
    done = CliRunner().invoke(commands.app, [str(one) for one in [*base, "--json", tmp_path / "r.json"]])
    assert done.exit_code == 0, done.output
    assert "not scored, of every class: 15.00 % of the pixels, in 2 pictures" in done.output
    assert "in no mask: house" in done.output and "mask with 9, which classes.json does not name" in done.output
    made = json.loads((tmp_path / "r.provenance.json").read_text())
    assert made["unknown"] == {"every class": {"pictures": 2, "percent_of_pixels": 15.0, "boxes_alone": 0}}
    assert made["absent"] == ["house"] and made["skipped"]["mask with 'ignore': not scored there"] == 1


def test_masks_without_any_class_are_an_error_that_names_their_numbers(tmp_path, blind):
    mask = index(v255=(0, 4))
    root = write(tmp_path, {"a.png": mask, "b.png": mask}, ["background", "road"])
    with pytest.raises(DataError, match="none of 2 pictures has road.*mask with 255, which classes.json does not name.*: 2"):
        by_name.locate("none", root, blind)


def test_where_no_picture_can_be_read_the_reasons_are_told(tmp_path, blind):
    root = write(tmp_path, {"a.png": index()[:5]}, ["background", "road"])
    with pytest.raises(DataError, match="no picture with masks was read .*another shape.*: 1; mask missing: 1"):
        by_name.locate("none", root, blind)


def test_boxes_without_a_mask_are_counted(tmp_path):
    boxes = {"boxes_alone": {"road": np.array([[0, 0, 10, 10], [5, 5, 10, 10]])}}
    item = by_name.true_masks.Item("a", png(np.zeros((20, 20, 3), np.uint8)), {}, boxes, {})
    coverage = by_name.Coverage(["road", "house"])
    assert list(coverage.counted([item], tmp_path, {})) == [item]
    assert coverage.unknown() == {"road": {"pictures": 1, "percent_of_pixels": 25.0, "boxes_alone": 2}}
    assert coverage.absent() == ["road", "house"]
