"""Shares the room's time among the checks that run."""

from __future__ import annotations

import fuzzing


def pytest_collection_finish(session):
    checks = sum(hasattr(item.obj, "is_fuzz") for item in session.items if hasattr(item, "obj"))
    fuzzing.Share.seconds = 60 * fuzzing.MINUTES / max(checks, 1)
