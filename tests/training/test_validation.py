"""What the validation curve is of, and that it tells what it is not of."""

import json
import shutil

import numpy as np
from conftest import png

from rsvlm.model.mammut import Mammut, MammutConfig
from rsvlm.training import validation

SIZES = dict(image_size=16, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2)
SIZES |= dict(text_width=16, text_layers=1, text_heads=2)


def test_a_data_set_that_gives_no_pair_is_told_with_its_reason(toy_shards, tmp_path, caplog):
    model = Mammut(MammutConfig(**SIZES))
    twice, bare = tmp_path / "twice", tmp_path / "bare"
    (twice / "images").mkdir(parents=True)
    (twice / "images" / "a.png").write_bytes(png(np.zeros((9, 9, 3), np.uint8)))
    table = {"images": [{"filename": "a.png", "split": "val", "sentences": [{"raw": "a sea"}]}]}
    for name in ("one.json", "two.json"):
        (twice / name).write_text(json.dumps(table))
    shutil.copytree(toy_shards / "train", bare / "train")
    images, captions = validation.read(model, {"toy": toy_shards})
    assert len(images) == len(captions) > 0 and not caplog.records
    assert validation.read(model, {"twice": twice, "bare": bare}) is None
    several, without = [line.getMessage() for line in caplog.records]
    assert "several tables fit split 'val': one.json, two.json" in several and str(twice) in several
    assert "has no split 'val'" in without
