"""What a training starts from: its data by name, its model, and what tells it from every other run."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rsvlm.data import benchmarks
from rsvlm.errors import ModelError
from rsvlm.model import mammut, tokenizer as tokenizers, weights
from rsvlm.model.mammut import Mammut
from rsvlm.model.others import bert
from rsvlm.records import files
from rsvlm.training import processes, text, tower

if TYPE_CHECKING:
    from rsvlm.config import Config, Train

logger = logging.getLogger(__name__)


def named(data: Path | Mapping[str, Path]) -> dict[str, Path]:
    """Return data sets by name; one without a name is `data`."""
    data = data if isinstance(data, Mapping) else {"data": data}
    return {name: Path(folder) for name, folder in data.items()}


def identity(config: Config, data: Mapping[str, Path]) -> dict:
    """Return what decides a run: its options, the content of its data, and the weights it starts from.

    Raises:
        ModelError: `train.start`, `train.vision_start` or `train.text_start` holds no weights.
    """
    options = config.model_dump(mode="json", include={"seed", "model", "train"})
    del options["train"]["workers"]  # they decide nothing
    start = sorted(Path(config.train.start).glob("*.safetensors")) if config.train.start else []
    if config.train.start and not start:
        raise ModelError(f"train.start={config.train.start} holds no safetensors: give the folder of a model")
    started = [files.file_sha256(path) for path in start]
    identity = {
        "options": options,
        "data": {name: benchmarks.fingerprint(path) for name, path in data.items()},
        "start": started,
    }
    if config.train.vision_start:
        identity["vision"] = tower.origin(config.train.vision_start)
    if config.train.text_start:
        identity["text"] = text.origin(config.train.text_start)
    return identity


def check(config: Config) -> None:
    """Check that there is such a model, and that its tower takes the weights it is to begin with, before anything is read.

    Raises:
        ModelError: There is none, or it does not; keys that do not fit are listed.
    """
    if not config.train.start and config.model.preset not in mammut.PRESETS:
        raise ModelError(f"unknown preset '{config.model.preset}': choose one of {', '.join(mammut.PRESETS)}")
    options = config.train
    if options.start and options.vision_start:
        raise ModelError(
            "train.start and train.vision_start exclude each other: a model to go on from has its tower's weights"
        )
    if options.start and options.text_start:
        raise ModelError("train.start and train.text_start exclude each other: a model to go on from has its text side")
    if options.text_start:
        text.check(options.text_start, config.model.context_length)
    if options.vision_frozen and options.start:
        model = tower.freeze(weights.load(Path(options.start)), options.vision_frozen)
    elif options.vision_start or options.vision_frozen:
        with torch.device("meta"):
            model = Mammut(mammut.MammutConfig(**mammut.PRESETS[config.model.preset]))
        tower.freeze(tower.begin(model, options.vision_start), options.vision_frozen)
    if options.held_maps and not model.config.vision_tower:
        raise ModelError(
            "train.held_maps keeps what a network of timm makes, and this model's tower is none: leave it out, or take "
            "model.preset=lite0-frozen, lite0 or lite2"
        )


def build(config: Config, data: Path | Mapping[str, Path]) -> Mammut:
    """Make the model to train: `train.start`, or an untrained one with a tokenizer trained on all captions of the data.

    The tokenizer is that of the sentence encoder where `train.text_start` names one.
    """
    turned = config.train.augment or config.train.twins > 1

    def captions() -> Iterator[str]:
        samples = itertools.chain.from_iterable(benchmarks.samples(folder, "train") for folder in named(data).values())
        return (caption for sample in samples for caption in sample.captions)

    if config.train.start:
        model = weights.load(Path(config.train.start), "cpu")
        if model.tokenizer is None:
            start = f"train.start={config.train.start}"
            raise ModelError(f"{start} holds no tokenizer.json: put the tokenizer of its vocabulary there")
        if model.config.image_resize != "squash":
            logger.warning(
                "%s was trained on pictures resized by '%s': here they are squeezed to a square, in training and by the new model",
                config.train.start,
                model.config.image_resize,
            )
            model.config.image_resize = "squash"
        model.config.image_interpolation = "bicubic"  # that of `images.resize`
        if model.sentences is not None:
            text.tell_unknown(model, text.tokens_of(model.tokenizer, captions(), turned))
        return model
    check(config)
    if config.train.text_start:
        known = bert.read(text.find(config.train.text_start), config.model.context_length)
        tokens = text.tokens_of(known.tokenizer, captions(), turned)
        tokenizer, of_text = known.tokenizer, text.settings(known, tokens)
    else:
        tokenizer = tokenizers.train(captions(), config.model.vocabulary_size, config.model.context_length)
        of_text = {"vocab_size": len(tokenizer)}
    softmax = config.train.contrastive_loss == "softmax"
    torch.manual_seed(config.seed)
    model = Mammut(
        mammut.MammutConfig(
            **mammut.PRESETS[config.model.preset] | ({"text_ngrams": ngrams} if (ngrams := config.model.text_ngrams) else {}),
            **of_text,
            context_length=config.model.context_length,
            text_dropout=config.model.text_dropout,
            word_dropout=config.model.word_dropout,
            vision_dropout=config.model.vision_dropout,
            # with as many negatives as SigLIP's loss has, a bias of 0 would start every pair as a likely match
            initial_scale=1 / 0.07 if softmax else 10.0,
            initial_bias=0.0 if softmax else -10.0,
        )
    )
    model.tokenizer = tokenizer
    if config.train.text_start:
        text.begin(model, known, tokens)
    return tower.begin(model, config.train.vision_start)


def prepare(model: Mammut, options: Train) -> Mammut:
    """Switch on activation checkpointing, what is frozen, FSDP and compilation, in place; names and values of the weights stay.

    Raises:
        ModelError: `train.vision_frozen` is more than the tower's stages, or `train.text_rate` goes with no sentence encoder.
    """
    tower.freeze(model, options.vision_frozen)
    text.freeze(model, options.text_rate)
    model.gradient_checkpointing = options.activation_checkpointing
    if (
        options.fsdp
    ):  # the decoder, which runs twice, and a sentence encoder are one unit with the rest; scalars cannot be sharded
        scalars = {p for p in model.parameters() if p.ndim == 0}
        processes.shard(model, model.vision.blocks, scalars, ("encode_image", "encode_text"))
    if options.compile:
        for block in model.vision.blocks:
            block.compile()
        for layer in [*model.layers, *(model.sentences.bert.layers if model.sentences is not None else ())]:
            layer.compile(dynamic=True)  # texts are cut to their longest, so their length changes with every batch
    return model
