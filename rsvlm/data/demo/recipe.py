"""The paper's recipe in small: a tower that has seen ImageNet learns from the Blue Marble, and then from real ground beside it."""

from __future__ import annotations

import logging
from pathlib import Path

from rsvlm.config import Config, Stage
from rsvlm.data.demo import earth
from rsvlm.errors import DataError

log = logging.getLogger(__name__)

EARTH, GROUND = "earth", "itaipu"
"""Names of the two data sets."""

ALONE_SHARE = 0.5
"""Share of the steps that the Blue Marble is alone in; after that the two are mixed evenly."""

STRIDE = 0.5
"""Step between chips of Itaipu's north, in chip sides."""


def prepare(options: Config, recompute: bool = False) -> tuple[Config, dict[str, Path]]:
    """Return the data sets that the model is trained on, made now unless they were before, and the options with the stages.

    Args:
        options: Options of the run. With `landmarks.ground`, and without `train.stages`, Itaipu's north is the second data set.
        recompute: Whether to make the Blue Marble's chips anew.

    Returns:
        Options and data sets as `train.load_or_train` takes them. Where the package with the ground cannot be had, a warning says so,
        and the Blue Marble is alone.

    Raises:
        MissingExtraError: A package of [data] or [demo] is not installed.
        DataError: As `earth.build`.
    """
    sets = {EARTH: earth.load_or_build(options, recompute)}
    steps = options.train.steps
    if not options.landmarks.ground or options.train.stages or steps < 2:
        return options, sets
    from rsvlm.data.demo import itaipu_map  # needs rasterio

    try:
        sets[GROUND] = itaipu_map.captioned("train", STRIDE, options.seed)
    except DataError as error:
        log.warning("the model learns from the Blue Marble alone, without Itaipu: %s", error)
        return options, sets
    alone = max(1, round(ALONE_SHARE * steps))
    stages = (Stage(steps=alone, data={EARTH: 1}), Stage(steps=steps - alone, data={EARTH: 1, GROUND: 1}))
    return options.model_copy(update={"train": options.train.model_copy(update={"stages": stages})}), sets
