"""A typo in any option fails, everywhere, and says what was meant."""

import pytest

from rsvlm import config
from rsvlm.errors import ConfigError


def test_profiles_are_valid_and_differ():
    loaded = {name: config.load(name) for name in config.PROFILES}
    assert set(loaded) == set(config.ABOUT) == {"smoke", "laptop", "published", "rsicd", "rsicd-scratch"}
    assert loaded["smoke"].train.steps < loaded["laptop"].train.steps < loaded["published"].train.steps
    assert all(options.profile == name for name, options in loaded.items())


def test_overrides_as_text_and_as_mapping_agree():
    text = config.load("smoke", "train.steps=7 landmarks.max_chips=none seed=3 train.learning_rate=1e-4")
    assert text == config.load(
        "smoke", {"train.steps": 7, "landmarks.max_chips": None, "seed": 3, "train.learning_rate": 1e-4}
    )
    assert (text.train.steps, text.landmarks.max_chips, text.seed) == (7, None, 3)


@pytest.mark.parametrize(
    ("profile", "overrides", "says"),
    [
        ("smoky", None, "smoke, laptop, published"),
        ("smoke", "train.step=7", r"did you mean 'train\.steps'"),
        ("smoke", "steps=7", "unknown option 'steps'"),
        ("smoke", "train=7", "unknown option 'train'"),
        ("smoke", "train.steps", "not of the form name=value"),
        ("smoke", "train.steps=0", r"'train\.steps' = '0'.*greater"),
        ("smoke", "train.steps=many", r"train\.steps.*integer"),
        ("smoke", "train.contrastive_loss=hinge", "softmax"),
        ("smoke", "train.vision_frozen=some", r"'train\.vision_frozen' = 'some': .*valid integer.*or 'all'$"),
        ("smoke", "train.vision_frozen=-1", r"'train\.vision_frozen' = '-1': .*or equal to 0.*or 'all'$"),
        ("smoke", "chips.nodata=x", r"'chips\.nodata' = 'x': .*'auto' or 'file'; or a valid number"),
        ("smoke", "train.stages=x", r"^train\.stages is not JSON"),
        ("smoke", "train.stages=[8, 16]", r"train\.stages.*dictionary"),
    ],
)
def test_mistakes_are_named(profile, overrides, says):
    with pytest.raises(ConfigError, match=says):
        config.load(profile, overrides)


def test_options_cannot_be_changed_after():
    with pytest.raises(ValueError, match="frozen"):
        config.load("smoke").train.steps = 3


def test_every_option_has_a_description_and_a_unique_name():
    rows = config.describe()
    assert all(row["description"] and row["type"] for row in rows)
    assert len({row["name"] for row in rows}) == len(rows) > 20


def test_values_may_hold_blanks_and_end_where_the_next_option_begins():
    text = "fetch.contact=our web page train.steps=7\n web.languages=en, de"
    assert config.pairs(text) == {"fetch.contact": "our web page", "train.steps": "7", "web.languages": "en, de"}
    loaded = config.load("smoke", text)
    assert (loaded.fetch.contact, loaded.train.steps, loaded.web.languages) == ("our web page", 7, ("en", "de"))
    assert config.load("smoke", 'train.stages=[{"steps": 3, "data": {"A": 1}}] seed=1').train.steps == 3
    assert config.pairs("  ") == config.pairs("") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed=1 seed=2", "'seed' is given twice, as '1' and as '2'"),
        ("train.learning_rate=inf", "finite"),
        ("train.weight_decay=nan", "finite"),
        ("train.augment=maybe", "boolean"),
        ("train.steps=7 oops", "integer"),
    ],
)
def test_values_that_would_be_misread_are_refused(text, says):
    with pytest.raises(ConfigError, match=says):
        config.load("smoke", text)
    assert config.pairs("seed=1 seed=1") == {"seed": "1"}


def test_yes_and_no_are_read_as_such():
    for word in ("false", "False", "no", "off", "0"):
        assert config.load("smoke", f"train.augment={word}").train.augment is False


@pytest.mark.parametrize("own", [{"model.preset": "nano"}, {"train.start": "somewhere"}])
def test_a_preset_or_a_start_of_ones_own_goes_without_the_tower_of_the_profile(own):
    usual, chosen = config.load("laptop").train, config.load("laptop", own).train
    assert usual.vision_start and usual.vision_frozen and usual.vision_rate != 1
    assert (chosen.vision_start, chosen.vision_frozen, chosen.vision_rate) == ("", 0, 1)
    assert chosen.twins == usual.twins
    kept = config.load("laptop", own | {"train.vision_start": "timm:x", "train.vision_rate": 0.5}).train
    assert (kept.vision_start, kept.vision_frozen, kept.vision_rate) == ("timm:x", 0, 0.5)
