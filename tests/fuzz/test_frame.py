"""The room's own frame: it draws anew with each seed, and a failure says how to bring it back."""

from __future__ import annotations

import fuzzing
import pytest
from hypothesis import strategies as st


def test_a_check_runs_until_its_time_is_spent_and_with_new_seeds(monkeypatch):
    monkeypatch.setattr(fuzzing.Share, "seconds", 0.5)
    monkeypatch.setattr(fuzzing, "MINUTES", 1)
    drawn = set()
    fuzzing.fuzz(number=st.integers(0, 10**9))(lambda number: drawn.add(number))()
    assert len(drawn) > 30, "more than one round of 20"


def test_a_failure_names_its_seed(monkeypatch):
    monkeypatch.setattr(fuzzing.Share, "seconds", 0.0)
    monkeypatch.setattr(fuzzing, "MINUTES", 1)
    monkeypatch.setattr(fuzzing, "SEED", 7)

    def check(number):
        assert number < 0

    with pytest.raises(AssertionError) as failure:
        fuzzing.fuzz(number=st.integers(0, 10))(check)()
    assert "FUZZ_SEED=7" in "".join(failure.value.__notes__)
