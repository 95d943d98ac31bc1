"""Fixtures of all tests in this folder: a loopback server, and an environment with keys that are none."""

from captioning import keys_fixture, serve_fixture  # noqa: F401
