"""What was reached without a model, beside what a model reached: of each row of results the best of its baselines, and the difference.

A run stores a baseline NAME of a protocol in rows of the protocol `PROTOCOL: NAME`, and what the model is better by in rows of the protocol
`PROTOCOL: model - NAME`; `evaluate --baselines` does so. Here the best of them is found again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsvlm.records.results import KEY, RUN

if TYPE_CHECKING:
    import pandas as pd

MINUS = "model - "
"""How the name of a difference begins."""

SMALLER_IS_BETTER = ("median_rank", "ece")
"""Metrics of which the smallest baseline is the best."""

COLUMNS = ("baseline", "baseline_value", "gap", "gap_low", "gap_high")

_PLACE = (*RUN, *KEY)


def beside(measured: pd.DataFrame) -> pd.DataFrame:
    """Put beside each row the best that its run reached without a model.

    Args:
        measured: Rows as from `results.table`.

    Returns:
        The same rows without those of baselines and differences, and the columns `COLUMNS`: name and value of the best baseline, and
        the model's difference from it with its interval; empty and NaN where a row has none. `ece` and `median_rank` are best where
        they are smallest.
    """
    rows = {tuple(row[name] for name in _PLACE): row for row in measured.to_dict("records")}
    at = _PLACE.index("protocol")
    best: dict[tuple, tuple] = {}
    taken = np.zeros(len(measured), bool)
    for number, (place, row) in enumerate(rows.items() if len(rows) == len(measured) else ()):
        protocol, found, name = place[at].rpartition(f": {MINUS}")
        if not found:
            continue
        mine, theirs = ((*place[:at], one, *place[at + 1 :]) for one in (protocol, f"{protocol}: {name}"))
        if mine not in rows or theirs not in rows:
            continue
        taken[number] = True
        value = rows[theirs]["value"]
        sign = -1 if row["metric"] in SMALLER_IS_BETTER else 1
        if mine not in best or sign * value > sign * best[mine][1]:
            best[mine] = name, value, row["value"], row["ci_low"], row["ci_high"]
    places = list(rows) if len(rows) == len(measured) else []
    names = {(*place[:at], place[at].replace(f": {MINUS}", ": ")) for place, one in zip(places, taken) if one}
    for number, place in enumerate(places):
        taken[number] |= place[: at + 1] in names
    none = ("", *[float("nan")] * 4)
    kept = measured[~taken]
    columns = [best.get(place, none) for place, one in zip(places, taken) if not one] if places else [none] * len(kept)
    return kept.assign(**{name: [row[number] for row in columns] for number, name in enumerate(COLUMNS)})
