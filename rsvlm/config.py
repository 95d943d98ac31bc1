"""Every option of the package: its name, unit, default and meaning; and the profiles that set many at once.

Options are addressed by dotted names (`train.steps=200`) on the command line (`--set`), in the notebooks' `overrides`
parameter, and in `load`. An unknown name or a value out of range stops before any work.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rsvlm.errors import ConfigError


class Section(BaseModel):
    """A group of options; frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Landmarks(Section):
    """How chips are cut from the imagery, described, and split."""

    size_px: int = Field(64, ge=16, le=1024, description="Side of a chip, in pixels of the imagery at the chip's centre.")
    train_stride: float = Field(0.2, gt=0, le=1, description="Step between neighbouring training chips, in chip sides.")
    test_stride: float = Field(
        0.4, gt=0, le=1, description="Step between neighbouring validation and test chips, in chip sides."
    )
    max_latitude_deg: float = Field(72.0, gt=0, le=80, description="Chips reach no further from the equator, in degrees.")
    block_deg: float = Field(
        24.0, gt=5, le=90, description="Side of the geographic blocks that splits are made of, in degrees."
    )
    test_share: float = Field(0.2, gt=0, lt=0.5, description="Share of the blocks with land held back for testing.")
    val_share: float = Field(0.08, gt=0, lt=0.5, description="Share of the blocks with land held back for validation.")
    max_water_share: float = Field(0.9, gt=0, le=1, description="Chips with a larger share of sea are dropped.")
    captions_per_chip: int = Field(5, ge=1, le=20, description="Captions written for each chip; the first is the fullest.")
    max_chips: int | None = Field(
        None, ge=1, description="Keep at most this many chips per split (a seeded sample); none: all."
    )
    samples_per_shard: int = Field(1000, ge=1, description="Samples in one shard file.")


class Model(Section):
    """Which model is made, and its tokenizer."""

    preset: str = Field("nano", description="Name of a preset in `rsvlm.mammut.PRESETS`.")
    vocabulary_size: int = Field(2048, ge=300, description="Entries of the tokenizer trained on the training captions.")
    context_length: int = Field(112, ge=8, le=1024, description="Longest text, in tokens; longer texts are cut and counted.")


class Stage(Section):
    """One stage of a curriculum."""

    steps: int = Field(ge=1, description="Optimizer steps of this stage.")
    data: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        min_length=1, description="Weight of each data set in the mixture, by name; they need not add up to 1."
    )


class Train(Section):
    """The training loop."""

    steps: int = Field(300, ge=1, description="Optimizer steps; with stages, the sum of theirs.")
    stages: tuple[Stage, ...] = Field(
        (),
        description='Curriculum: a JSON list of stages, as in `[{"steps":100,"data":{"A":1}},{"steps":50,"data":{"A":1,"B":3}}]`; '
        "empty: an even mixture of all data sets.",
    )
    start: str = Field(
        "", description="Folder of a model to go on from, with its tokenizer; empty: start from random weights."
    )
    batch_size: int = Field(128, ge=2, description="Image-caption pairs per optimizer step, of all processes together.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Pairs in memory at once, per process; the gradient stays that of the whole batch; none: all."
    )
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up.")
    schedule: Literal["linear", "cosine"] = Field("linear", description="How the rate falls to zero after the warm-up.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay, on matrices only.")
    clip_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this global norm.")
    ema: float = Field(
        0.0, ge=0, lt=1, description="Decay per step of the averaged weights that the model ends with; 0: none."
    )
    first_caption_share: float = Field(0.5, ge=0, le=1, description="How often a sample's first, fullest caption is drawn.")
    augment: bool = Field(False, description="Quarter turns and flips, the caption's words turned along (`rsvlm.augment`).")
    contrastive_loss: Literal["softmax", "sigmoid", "focal"] = Field("softmax", description="Which contrastive loss.")
    focal_gamma: float = Field(1.0, ge=0, description="Exponent of the focal loss (MaMMUT leaves it unstated; our choice).")
    contrastive_weight: float = Field(2.0, ge=0, description="Weight of the contrastive loss (MaMMUT: 2 for retrieval).")
    caption_weight: float = Field(0.5, ge=0, description="Weight of the caption cross-entropy (MaMMUT: 0.5 for retrieval).")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Of the towers (autocast); losses are fp32 always.")
    compile: bool = Field(False, description="Compile the blocks of both towers with torch.compile.")
    activation_checkpointing: bool = Field(False, description="Keep only the input of each block and run it again backward.")
    fsdp: bool = Field(False, description="Under torchrun: shard weights and optimizer over the processes (FSDP2).")
    workers: int = Field(0, ge=0, description="Threads that decode images while the model works; no byte depends on it.")
    checkpoint_every: int = Field(50, ge=1, description="Steps between checkpoints.")
    log_every: int = Field(10, ge=1, description="Steps between metric lines.")

    @model_validator(mode="before")
    @classmethod
    def _read_stages(cls, values: dict) -> dict:
        stages = values.get("stages") or ()
        if isinstance(stages, str):
            try:
                stages = json.loads(stages)
            except ValueError:
                raise ValueError("train.stages is not JSON like [{'steps':100,'data':{'A':1}}], in double quotes") from None
        if not isinstance(stages, list | tuple):
            raise ValueError("train.stages is not a list of stages")
        steps = [stage.get("steps") if isinstance(stage, dict) else getattr(stage, "steps", None) for stage in stages]
        total = {"steps": sum(steps)} if stages and all(isinstance(n, int) and n > 0 for n in steps) else {}
        return values | {"stages": stages} | total


class Evaluate(Section):
    """Retrieval metrics."""

    batch_size: int = Field(256, ge=1, description="Images or captions per forward pass.")
    bootstrap_samples: int = Field(1000, ge=10, description="Bootstrap resamples of the images for the 95 % intervals.")


class Config(Section):
    """All options of one run."""

    profile: Literal["smoke", "laptop", "published"] = Field("laptop", description="Which profile the defaults came from.")
    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    landmarks: Landmarks = Landmarks()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()


PROFILES: dict[str, dict] = {
    "smoke": {
        "landmarks": {"max_chips": 192, "train_stride": 0.8, "test_stride": 0.8, "samples_per_shard": 64},
        "train": {"steps": 20, "batch_size": 32, "warmup_steps": 5, "checkpoint_every": 10, "log_every": 5},
        "evaluate": {"bootstrap_samples": 100},
    },
    "laptop": {},
    "published": {"train": {"steps": 3000, "batch_size": 256, "warmup_steps": 200, "checkpoint_every": 250}},
}

ABOUT = {
    "smoke": "a miniature that shows that everything runs, in about a minute on two cores; its numbers mean nothing",
    "laptop": "the numbers of this book, in minutes on two cores without a GPU",
    "published": "the same data and model trained twenty times as long; meant for a GPU",
}


def load(profile: str = "laptop", overrides: Mapping[str, object] | str | None = None) -> Config:
    """Build the options of a run from a profile and dotted overrides.

    Args:
        profile: One of `PROFILES`.
        overrides: `{"train.steps": 200}`, or the same as text, `"train.steps=200 train.batch_size=64"`.

    Returns:
        The frozen options.

    Raises:
        ConfigError: An unknown profile or option (with the nearest known name), or a value out of range.
    """
    if profile not in PROFILES:
        raise ConfigError(f"unknown profile '{profile}': choose one of {', '.join(PROFILES)}")
    values: dict = {"profile": profile}
    for section, options in PROFILES[profile].items():
        values[section] = dict(options)
    for name, value in pairs(overrides).items():
        section, _, option = name.rpartition(".")
        known = names()
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"unknown option '{name}'{hint}")
        (values.setdefault(section, {}) if section else values)[option] = value
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"option '{where}' = {first['input']!r}: {first['msg']}") from None


def names() -> list[str]:
    """Return the dotted name of every option."""
    return [row["name"] for row in describe()]


def describe() -> list[dict]:
    """Return one row `{name, type, default, description}` for every option, in the order of the file."""
    rows = []
    for name, field in Config.model_fields.items():
        if isinstance(field.default, Section):
            section = type(field.default)
            rows += [_row(f"{name}.{option}", inner) for option, inner in section.model_fields.items()]
        else:
            rows.append(_row(name, field))
    return rows


def _row(name: str, field) -> dict:
    kind = getattr(field.annotation, "__name__", None) or str(field.annotation)
    if kind in ("Literal", "Union", "Optional"):
        kind = str(field.annotation).replace("typing.", "")
    return {"name": name, "type": kind, "default": field.default, "description": field.description}


def pairs(overrides: Mapping[str, object] | str | None) -> dict[str, object]:
    """Read overrides given as text, `"train.steps=200 seed=1"`, or pass a mapping through.

    Raises:
        ConfigError: An item is not of the form name=value.
    """
    if overrides is None:
        return {}
    if isinstance(overrides, Mapping):
        return dict(overrides)
    pairs = {}
    for item in overrides.split():
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"override '{item}' is not of the form name=value, as in train.steps=200")
        pairs[name] = None if value.lower() == "none" else value
    return pairs
