"""Every option of the package: its name, unit, default and meaning; and the profiles that set many at once.

Options are addressed by dotted names (`train.steps=200`) on the command line (`--set`), in the notebooks' `overrides`
parameter, and in `load`. An unknown name or a value out of range stops before any work.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rsvlm.errors import ConfigError


class Section(BaseModel):
    """A group of options; frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: object) -> object:
        """Read `a,b` as a tuple where one is wanted, as the command line gives it."""
        if not isinstance(values, dict):  # which pydantic tells
            return values
        wanted = {name for name, field in cls.model_fields.items() if str(field.annotation).startswith("tuple")}
        return {k: _items(v) if k in wanted and isinstance(v, str) else v for k, v in values.items()}


def _items(text: str) -> str | list[str]:
    return text if text.lstrip().startswith("[") else [item.strip() for item in text.split(",") if item.strip()]


class Landmarks(Section):
    """How chips are cut from the imagery, described, and split."""

    size_px: int = Field(64, ge=16, le=1024, description="Side of a chip, in pixels of the imagery at the chip's centre.")
    train_stride: float = Field(0.2, gt=0, le=1, description="Step between neighbouring training chips, in chip sides.")
    test_stride: float = Field(0.4, gt=0, le=1, description="Step between chips of the other two splits, in chip sides.")
    max_latitude_deg: float = Field(72.0, gt=0, le=80, description="Chips reach no further from the equator, in degrees.")
    block_deg: float = Field(24.0, gt=5, le=90, description="Side of the geographic blocks that make the splits, in degrees.")
    test_share: float = Field(0.2, gt=0, lt=0.5, description="Share of the blocks with land held back for testing.")
    val_share: float = Field(0.08, gt=0, lt=0.5, description="Share of the blocks with land held back for validation.")
    max_water_share: float = Field(0.9, gt=0, le=1, description="Chips with a larger share of sea are dropped.")
    captions_per_chip: int = Field(5, ge=1, le=20, description="Captions written for each chip; the first is the fullest.")
    max_chips: int | None = Field(None, ge=1, description="Chips kept per split at most (a seeded sample); none: all.")
    ground: bool = Field(
        False, description="`data.demo.recipe` also takes real ground, the north of Itaipu, downloaded once (73 MB)."
    )
    samples_per_shard: int = Field(1000, ge=1, description="Samples in one shard file.")


class Chips(Section):
    """How chips are laid out over anybody's imagery, read, and split."""

    size_px: int = Field(256, ge=16, le=4096, description="Side of a chip, in pixels.")
    size_m: float | None = Field(None, gt=0, description="Side of a chip on the ground, in metres; none: as `size_px` says.")
    place: Literal["grid", "landmark", "list"] = Field(
        "grid", description="Where chips lie: side by side, one around each landmark, or at the points of a file."
    )
    points: str = Field("", description="For place=list: a CSV or GeoJSON file of lon, lat and perhaps key.")
    stride: float = Field(1.0, gt=0, le=4, description="Step between neighbouring chips of the grid, in chip sides.")
    bands: tuple[int, ...] = Field((), description="Bands of red, green and blue, from 1, or one for grey; empty: found.")
    stretch: Literal["auto", "none", "minmax", "percentile"] = Field(
        "auto",
        description="How other than 8-bit values become 0 to 255, one rule for images that belong together; auto: none for 8 bits, else percentile.",
    )
    stretch_percent: float = Field(2.0, ge=0, lt=50, description="Pixels cut at each end by stretch=percentile, in percent.")
    limits: tuple[float, ...] = Field(
        (),
        description="Values that become 0 and 255, as 0,3000, or a pair for each band, in place of a stretch; empty: found.",
    )
    nodata: Literal["auto", "file"] | float = Field(
        "auto",
        description="Value that holds no data; file: as the file declares it; auto: the same, else a value that fills parts of it.",
    )
    min_valid_share: float = Field(0.9, ge=0, le=1, description="Chips with a smaller share of pixels with data are dropped.")
    tile_rows: Literal["auto", "xyz", "tms", "zyx"] = Field(
        "auto",
        description="Rows of tiles count from the north (xyz) or the south (tms), or the folders are rows, from the north (zyx: "
        "z/y/x, as ArcGIS numbers them); auto: as files beside them say, else guessed.",
    )
    cover_edges: bool = Field(
        False,
        description="Add a last chip, flush with the edge, where the grid of chips leaves ground over; it overlaps others.",
    )
    allow_loopback: bool = Field(False, description="Also read imagery from addresses of this machine.")
    h3_resolution: int = Field(5, ge=0, le=12, description="Resolution of the H3 cells that splits are made of.")
    test_share: float = Field(0.1, ge=0, lt=0.5, description="Share of the cells held back for testing.")
    val_share: float = Field(0.05, ge=0, lt=0.5, description="Share of the cells held back for validation.")
    min_landmarks: int = Field(1, ge=0, description="Chips with fewer visible landmarks are dropped.")
    max_chips: int | None = Field(None, ge=1, description="Keep at most this many chips (a seeded sample); none: all.")
    samples_per_shard: int = Field(500, ge=1, description="Chips in one shard file; also one unit of work.")


class Captioner(Section):
    """Who writes captions of landmarks, and what that may cost."""

    kind: Literal["grammar", "gemini", "openai"] = Field(
        "grammar", description="The offline grammar, Gemini, or any OpenAI-compatible server."
    )
    model: str = Field("", description="Name of the model on the server; empty: the client's default.")
    base_url: str = Field("", description="Address of the server; empty: the vendor's.")
    prompt: str = Field("landmarks-v1", description="Name of a prompt template of `data/captions`, or the path of one.")
    kinds: tuple[Literal["full", "short", "relational"], ...] = Field(
        ("full", "short", "relational"), min_length=1, description="Captions wanted for each chip; the first is the fullest."
    )
    temperature: float = Field(0.4, ge=0, le=2, description="Sampling temperature of the model.")
    max_output_tokens: int = Field(600, ge=32, description="Longest answer, in tokens.")
    concurrency: int = Field(8, ge=1, le=256, description="Requests on their way at once.")
    batch: int = Field(0, ge=0, description="Chips in one batch job, where the server has such jobs; 0: none.")
    timeout_s: float = Field(120.0, gt=0, description="Longest wait for one answer, in seconds.")
    retries: int = Field(5, ge=0, description="Further attempts after failures that may pass (429, 5xx, time-outs).")
    max_requests: int | None = Field(None, ge=0, description="Budget in requests; none: no limit.")
    max_tokens: int | None = Field(None, ge=0, description="Budget in tokens, in and out together; none: no limit.")
    max_cost: float | None = Field(None, ge=0, description="Budget in the currency of the prices; none: no limit.")
    price_in: float = Field(0.0, ge=0, description="Price of a million tokens sent.")
    price_out: float = Field(0.0, ge=0, description="Price of a million tokens received.")
    language: str = Field("en", description="Language that captions must be in, as an ISO 639-1 code.")
    max_words: int = Field(120, ge=5, description="Longer captions are rejected.")


class Fetch(Section):
    """How images are downloaded."""

    contact: str = Field("", description="Address or page for owners of websites, told in the User-Agent.")
    concurrency: int = Field(32, ge=1, le=1024, description="Downloads at once.")
    per_host: int = Field(2, ge=1, le=16, description="Downloads at once from one host.")
    host_delay_s: float = Field(0.5, ge=0, description="Shortest time between two requests to one host, in seconds.")
    max_crawl_delay_s: float = Field(
        60.0,
        ge=0,
        description="Longest Crawl-delay that is kept, in seconds; addresses of hosts that ask for more are given up.",
    )
    connect_timeout_s: float = Field(10.0, gt=0, description="Longest wait for a connection, in seconds.")
    read_timeout_s: float = Field(15.0, gt=0, description="Longest silence of a server, in seconds.")
    total_timeout_s: float = Field(60.0, gt=0, description="Longest time for one image, in seconds.")
    max_bytes: int = Field(20_000_000, ge=1, description="Larger images are given up, in bytes.")
    max_redirects: int = Field(5, ge=0, le=20, description="Redirects followed, each one checked anew.")
    retries: int = Field(2, ge=0, description="Further attempts after failures that may pass.")
    retry_failed: bool = Field(False, description="Try again what failed in an earlier run for a reason that may have passed.")
    allow_loopback: bool = Field(False, description="Also fetch from this machine's loopback addresses (tests, the demo).")


class Web(Section):
    """Which pairs of a crawl are kept."""

    languages: tuple[str, ...] = Field(
        ("en",), description="Languages of texts that are kept, ISO 639-1 codes; empty: all in which the lexicon has terms."
    )
    min_words: int = Field(3, ge=1, description="Shorter texts are rejected.")
    max_words: int = Field(200, ge=1, description="Longer texts are cut.")
    min_relevance: float = Field(0.5, ge=0, le=1, description="Texts with a lower score for remote sensing are rejected.")
    min_side_px: int = Field(64, ge=1, description="Images with a shorter side are rejected, in pixels.")
    max_aspect: float = Field(4.0, ge=1, description="Images longer than this many times their shorter side are rejected.")
    max_side_px: int = Field(1024, ge=32, description="Larger images are scaled down to this side, in pixels.")
    overhead_precision: float = Field(
        0.95, gt=0, le=1, description="Precision that the overhead filter promises, on pictures like its labelled ones."
    )
    overhead_share: float = Field(
        0.2, gt=0, lt=1, description="Share of overhead pictures among those judged, for which the precision is promised."
    )
    hash_distance: int = Field(
        6, ge=0, le=16, description="Images whose hashes differ in so few bits, and agree in every part, are one."
    )
    embedding_similarity: float = Field(
        0.98, ge=0, le=1, description="With a model: images whose embeddings reach this cosine are one; 0: not compared."
    )
    test_share: float = Field(0.05, ge=0, lt=0.5, description="Share of the hosts held back for testing.")
    val_share: float = Field(0.05, ge=0, lt=0.5, description="Share of the hosts held back for validation.")
    samples_per_shard: int = Field(1000, ge=1, description="Pairs in one shard file.")


class Model(Section):
    """Which model is made, and its tokenizer."""

    preset: str = Field("nano", description="Name of a preset in `rsvlm.model.mammut.PRESETS`.")
    vocabulary_size: int = Field(2048, ge=300, description="Entries of the tokenizer trained on the training captions.")
    context_length: int = Field(112, ge=8, le=1024, description="Longest text, in tokens; longer texts are cut and counted.")
    text_ngrams: int | None = Field(
        None,
        ge=1,
        le=16,
        description="Longest run of tokens with an embedding of its own (`model.ngrams`), 1: none; none: as the preset says.",
    )
    text_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout behind each part of the text decoder, in training.")
    word_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of the tokens that the contrastive pass leaves out, in training."
    )
    vision_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Dropout of whole channels of a vision_tower's maps, and of the pooled image before its linear map, in training.",
    )


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
    start: str = Field("", description="Folder of a model to go on from, with its tokenizer; empty: random weights.")
    vision_start: str = Field(
        "",
        description="Weights of the vision tower to begin with: timm:NAME (of an installed package, or where timm says), timm:NAME:FILE, "
        "a file, or a folder with model.safetensors; empty: random.",
    )
    vision_rate: float = Field(1.0, gt=0, description="The vision tower learns at this many times the learning rate.")
    layers_rate: float = Field(
        1.0, gt=0, description="The layers of the text decoder learn at this many times the learning rate."
    )
    vision_frozen: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        0, description="Stages of the vision tower, from the first layers on, that do not learn; or all."
    )
    text_start: str = Field(
        "",
        description="Sentence encoder that makes the text embedding, in place of the decoder: minilm (downloaded as a package), or a folder "
        "of one; its tokenizer takes the place of model.vocabulary_size; empty: none.",
    )
    text_rate: float = Field(0.0, ge=0, description="As vision_rate, of a sentence encoder; 0: it stays as it is.")
    batch_size: int = Field(128, ge=2, description="Image-caption pairs per optimizer step, of all processes together.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Pairs in memory at once, per process; the gradient stays that of the whole batch; none: all."
    )
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up.")
    schedule: Literal["linear", "cosine"] = Field("linear", description="How the rate falls to zero after the warm-up.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay, on matrices only.")
    clip_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this global norm.")
    ema: float = Field(0.0, ge=0, lt=1, description="Decay per step of the averaged weights that the model ends with; 0: off.")
    first_caption_share: float = Field(0.5, ge=0, le=1, description="How often a sample's first, fullest caption is drawn.")
    augment: bool = Field(False, description="Quarter turns and flips, of the caption's words too (`training.augment`).")
    twins: int = Field(
        1,
        ge=1,
        le=8,
        description="Turns and flips of each image that a batch holds together, with their words turned, so that directions have to be "
        "read; fewer where a caption tells fewer apart; more than 1 includes train.augment.",
    )
    smallest_crop: float = Field(1.0, gt=0, le=1, description="Smallest part of an image that is shown, a share of its area.")
    light: float = Field(0.0, ge=0, lt=1, description="Contrast and brightness vary by up to this share, colours by half.")
    sizes_px: tuple[Annotated[int, Field(ge=8)], ...] = Field(
        (), description="Sides of the training images in pixels, each for an equal part of the run; empty: the model's own."
    )
    held_px: int = Field(0, ge=0, description="Side at which decoded images are kept in memory, in pixels; 0: none are kept.")
    held_maps: bool = Field(
        False, description="Keep what a frozen network makes of whole pictures in memory; goes with vision_frozen=all."
    )
    contrastive_loss: Literal["softmax", "sigmoid", "focal"] = Field("softmax", description="Which contrastive loss.")
    equal_texts: Literal["negatives", "ignored"] = Field(
        "negatives",
        description="What pairs of a batch with one text are to each other: negatives like all others, or left out of the softmax.",
    )
    focal_gamma: float = Field(1.0, ge=0, description="Exponent of the focal loss (MaMMUT leaves it unstated; our choice).")
    contrastive_weight: float = Field(2.0, ge=0, description="Weight of the contrastive loss (MaMMUT: 2 for retrieval).")
    caption_weight: float = Field(0.5, ge=0, description="Weight of the caption cross-entropy (MaMMUT: 0.5 for retrieval).")
    captioned_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the pairs of a batch that the caption loss is of: every n-th, n being 1/share, rounded.",
    )
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

    profile: Literal["smoke", "laptop", "published", "rsicd", "rsicd-scratch"] = Field(
        "laptop", description="Where the defaults came from."
    )
    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    landmarks: Landmarks = Landmarks()
    chips: Chips = Chips()
    captioner: Captioner = Captioner()
    fetch: Fetch = Fetch()
    web: Web = Web()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()


# The recipe in small: a tower that has seen ImageNet, words in a row, and turned twins in each batch, so that directions have to be read.
_RECIPE = {
    "steps": 700,
    "vision_start": "timm:tf_efficientnet_lite0",
    "vision_rate": 0.3,
    "vision_frozen": 1,
    "layers_rate": 0.3,
    "warmup_steps": 40,
    "ema": 0.98,
    "twins": 3,
    "captioned_share": 0.25,
    "checkpoint_every": 100,
}
# For thousands of pictures with captions that people wrote.
_FEW_MODEL = {"vocabulary_size": 2048, "context_length": 64}
_FEW = {
    "batch_size": 128,
    "weight_decay": 0.2,
    "ema": 0.995,
    "first_caption_share": 0.2,
    "augment": True,
    "smallest_crop": 0.4,
    "light": 0.3,
    "caption_weight": 1.0,
    "precision": "bf16",
    "workers": 2,
}
PROFILES: dict[str, dict] = {
    "smoke": {
        "landmarks": {"max_chips": 192, "train_stride": 0.8, "test_stride": 0.8, "samples_per_shard": 64},
        "train": {"steps": 20, "batch_size": 32, "warmup_steps": 5, "checkpoint_every": 10, "log_every": 5},
        "evaluate": {"bootstrap_samples": 100},
    },
    "laptop": {"landmarks": {"ground": True}, "model": {"preset": "lite0-places"}, "train": dict(_RECIPE)},
    "published": {
        "landmarks": {"ground": True},
        "model": {"preset": "lite0-places"},
        "train": _RECIPE | {"steps": 3000, "batch_size": 256, "warmup_steps": 200, "checkpoint_every": 250},
    },
    "rsicd": {
        "model": _FEW_MODEL | {"preset": "lite0-192", "text_dropout": 0.15},
        "train": _FEW
        | {
            "vision_start": "timm:tf_efficientnet_lite0",
            "vision_rate": 0.25,
            "vision_frozen": 2,
            "text_start": "minilm",
            "steps": 1000,
            "learning_rate": 1.5e-3,
            "warmup_steps": 80,
            "held_px": 224,
            "sizes_px": (160, 192, 224),
            "checkpoint_every": 250,
            "log_every": 25,
        },
    },
    "rsicd-scratch": {
        "model": _FEW_MODEL | {"preset": "conv-standard", "text_dropout": 0.1},
        "train": _FEW
        | {
            "steps": 3600,
            "learning_rate": 2e-3,
            "warmup_steps": 200,
            "held_px": 144,
            "sizes_px": (64, 64, 96, 96, 128),
            "checkpoint_every": 300,
            "log_every": 20,
        },
    },
}

ABOUT = {
    "smoke": "a miniature that shows that everything runs, in about a minute on two cores; its numbers mean nothing",
    "laptop": "the numbers of this book, in minutes on two cores without a GPU",
    "published": "the same data and model trained twenty times as long; meant for a GPU",
    "rsicd": "a convolutional model on RSICD from the weights of ImageNet and MiniLM, within an hour of two cores",
    "rsicd-scratch": "the same from random weights, within an hour of two cores that multiply in bf16",
}


def load(profile: str = "laptop", overrides: Mapping[str, object] | str | None = None) -> Config:
    """Build the options of a run from a profile and dotted overrides.

    Args:
        profile: One of `PROFILES`.
        overrides: `{"train.steps": 200}`, or the same as text, `"train.steps=200 train.batch_size=64"`. With `model.preset` or
            `train.start` among them, the profile's options of the vision tower do not count, nor with the latter those of the text side.

    Returns:
        The frozen options.

    Raises:
        ConfigError: An unknown profile or option (with the nearest known name), or a value out of range.
    """
    if profile not in PROFILES:
        raise ConfigError(f"unknown profile '{profile}': choose one of {', '.join(PROFILES)}")
    values: dict = {"profile": profile} | {section: dict(options) for section, options in PROFILES[profile].items()}
    known = names()
    given = pairs(overrides)
    for name, value in given.items():
        section, _, option = name.rpartition(".")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            raise ConfigError(f"unknown option '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        (values.setdefault(section, {}) if section else values)[option] = value
    if given.keys() & {"model.preset", "train.start"}:  # a profile's tower is that of its preset, and a start has a text side
        sides = ("vision_", "text_") if "train.start" in given else ("vision_",)
        for name in [name for name in values.get("train", {}) if name.startswith(sides) and f"train.{name}" not in given]:
            del values["train"][name]
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_mistake(error.errors())) from None


def _mistake(errors: list) -> str:
    """Say what is wrong with the first option that is; of one with values of several kinds, what each of them would have to be."""
    first = errors[0]
    if first["type"] == "value_error":  # of a whole section, whose validator names the option
        return str(first["ctx"]["error"])
    where, messages = first["loc"], [first["msg"]]
    if len(where) > 2 and isinstance(where[2], str):  # there pydantic names a kind of values
        of_option = [error["msg"] for error in errors if error["loc"][:2] == where[:2]]
        where, messages = where[:2], [of_option[0], *(message.removeprefix("Input should be ") for message in of_option[1:])]
    return f"option '{'.'.join(map(str, where))}' = {first['input']!r}: {'; or '.join(messages)}"


def names() -> list[str]:
    """Return the dotted name of every option."""
    return [row["name"] for row in describe()]


def describe() -> list[dict]:
    """Return one row `{name, type, default, description}` for every option, in the order of the file."""
    rows = []
    for name, field in Config.model_fields.items():
        inner = type(field.default).model_fields if isinstance(field.default, Section) else {}
        rows += [_row(f"{name}.{option}", field) for option, field in inner.items()] or [_row(name, field)]
    return rows


def _row(name: str, field) -> dict:
    kind = getattr(field.annotation, "__name__", None) or str(field.annotation)
    if kind in ("Literal", "Union", "Optional"):
        kind = str(field.annotation).replace("typing.", "")
    return {"name": name, "type": kind, "default": field.default, "description": field.description}


def pairs(overrides: Mapping[str, object] | str | None) -> dict[str, object]:
    """Read overrides given as text, `"train.steps=200 seed=1"`, or pass a mapping through.

    A value ends where a blank and the next `name=` follow; so it may hold blanks, as in `fetch.contact=our web page`.

    Raises:
        ConfigError: An item is not of the form name=value, or one name has two values.
    """
    if overrides is None or isinstance(overrides, Mapping):
        return dict(overrides or {})
    values: dict[str, object] = {}
    for item in re.split(r"\s+(?=[A-Za-z_][\w.]*=)", overrides.strip()) if overrides.strip() else []:
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"override '{item}' is not of the form name=value, as in train.steps=200")
        value = None if value.lower() == "none" else value
        if values.setdefault(name, value) != value:
            raise ConfigError(f"option '{name}' is given twice, as {values[name]!r} and as {value!r}: keep one")
    return values
