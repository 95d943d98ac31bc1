"""Curricula have one budget, and variants start from the same weights."""

from __future__ import annotations

import pytest
from conftest import write_toy

from rsvlm import config
from rsvlm.errors import ConfigError
from rsvlm.training import starting, variants


def test_every_variant_has_the_same_steps_and_starts_from_general_pairs():
    for variant in variants.VARIANTS:
        for steps in (8, 80, 1001):
            stages = variants.stages(variant, steps)
            options = config.load("smoke", {"train.stages": stages}).train
            assert options.steps == steps and set(stages[0]["data"]) == {"base"}
            said = set().union(*(stage["data"] for stage in stages)) - {"base"}
            assert said == {"base": set(), "both": {"web", "landmarks"}}.get(variant, {variant})
    assert [set(s["data"]) for s in variants.stages("both", 80)][1:] == [{"web"}, {"landmarks"}, {"web", "landmarks"}]
    with pytest.raises(ConfigError, match="no variant"):
        variants.stages("neither", 80)
    with pytest.raises(ConfigError, match="8 or more"):
        variants.stages("both", 7)


def test_variants_share_tokenizer_and_first_weights(tmp_path, tiny_preset):
    sets = {
        name: write_toy(tmp_path / name, {"train": 8 + i, "test": 8}) for i, name in enumerate(("base", "web", "landmarks"))
    }
    models = []
    for variant in ("base", "both"):
        options = {"model.preset": tiny_preset, "model.vocabulary_size": 300}
        options = config.load("smoke", options | {"train.stages": variants.stages(variant, 8)})
        models.append(starting.build(options, sets))
    one, other = ({name: value.numpy().tobytes() for name, value in model.state_dict().items()} for model in models)
    assert one == other and models[0].tokenizer.get_vocab() == models[1].tokenizer.get_vocab()
