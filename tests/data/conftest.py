"""Fixtures of tests that ask a site on this machine."""

from __future__ import annotations

import pytest


@pytest.fixture
def site():
    import sites

    with sites.serve() as running:
        yield running


@pytest.fixture
def connected(monkeypatch):
    """Addresses that were connected to; all are this machine's."""
    import sites

    with sites.connections(monkeypatch) as seen:
        yield seen
