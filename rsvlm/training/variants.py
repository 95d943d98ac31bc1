"""What each data set adds: the paper's four variants, as stages of one training with the same number of steps for all."""

from __future__ import annotations

from rsvlm.errors import ConfigError

VARIANTS = {
    "base": "general pairs alone",
    "web": "base, then RS-WebLI",
    "landmarks": "base, then RS-Landmarks",
    "both": "base, then RS-WebLI, then RS-Landmarks, then a mixture of the two",
}
"""The four variants, which see equally many pairs."""

BASE_SHARE = 1 / 4
"""Share of the steps that every variant spends on general pairs, but `base`, which spends all."""


def stages(variant: str, steps: int) -> list[dict]:
    """Return the stages of one of `VARIANTS`, for `train.stages`: the same number of steps for all.

    Source: the order is the paper's; the shares of the steps are our choice, for the paper states none.

    Raises:
        ConfigError: An unknown variant, or too few steps to be shared out.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"there is no variant '{variant}': choose of {', '.join(VARIANTS)}")
    if steps < 8:
        raise ConfigError(f"{steps} steps cannot be shared out among four stages: give 8 or more")
    first = round(BASE_SHARE * steps)
    rest, quarter = steps - first, (steps - first) // 4
    plan = {
        "base": [(steps, ["base"])],
        "web": [(first, ["base"]), (rest, ["web"])],
        "landmarks": [(first, ["base"]), (rest, ["landmarks"])],
        "both": [
            (first, ["base"]),
            (quarter, ["web"]),
            (2 * quarter, ["landmarks"]),
            (rest - 3 * quarter, ["web", "landmarks"]),
        ],
    }
    return [{"steps": count, "data": dict.fromkeys(names, 1.0)} for count, names in plan[variant]]
