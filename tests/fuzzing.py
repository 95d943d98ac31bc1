"""How the fuzz room works: checks of odd but legal files, tried on drawn inputs for as long as the room is given.

`FUZZ_MINUTES` is what all checks of a run share; if not set, each check runs three rounds. `FUZZ_SEED` is the first seed (0 if not set). A
failure names its seed.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable

import hypothesis
from hypothesis import HealthCheck
from hypothesis.internal.conjecture import providers
from hypothesis.strategies import SearchStrategy

MINUTES = float(os.environ.get("FUZZ_MINUTES") or 0)
ROUNDS = 3  # of each check in the suite, which tries the same files every time; about a minute of them
SEED = int(os.environ.get("FUZZ_SEED") or 0)
ROUND = hypothesis.settings(
    max_examples=20, deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck), print_blob=False
)
# Hypothesis also draws numbers and words from the source of whatever modules are loaded by then, so that a seed would draw other files in
# every process of a run.
providers._get_local_constants = providers.Constants


class Share:
    """What each check may take, in seconds; the room's `conftest.py` sets it when it knows how many there are."""

    seconds = 1.0


def fuzz(**drawn: SearchStrategy) -> Callable:
    """Make a test of a check: it runs in rounds of 20 examples, a seed each, until its share of the time is spent.

    Args:
        drawn: A strategy for each argument of the check.
    """

    def decorate(check: Callable) -> Callable:
        @functools.wraps(check)
        def test():
            end, seed = time.monotonic() + Share.seconds, SEED
            logger = logging.getLogger("rsvlm")
            level = logger.level
            logger.setLevel(logging.ERROR)  # odd files are warned of, thousands of times
            try:
                while seed == SEED or (time.monotonic() < end if MINUTES else seed < SEED + ROUNDS):
                    hypothesis.seed(seed)(ROUND(hypothesis.given(**drawn)(check)))()
                    seed += 1
            except BaseException as error:
                error.add_note(f"again: FUZZ_SEED={seed} python -m pytest tests/fuzz -k {check.__name__}")
                raise
            finally:
                logger.setLevel(level)

        del test.__wrapped__  # pytest would take the check's arguments for fixtures
        test.is_fuzz = True
        return test

    return decorate
