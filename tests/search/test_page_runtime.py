"""What comes from npm to run a model in a browser: other bytes are not taken, and a failure is quoted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rsvlm.errors import DataError, RsvlmError
from rsvlm.search import page_runtime


def test_other_bytes_than_expected_are_not_taken(tmp_path):
    for package in page_runtime.PACKAGES:
        with pytest.raises(DataError, match=re.escape(package.name) + " has the hash sha512-"):
            page_runtime.unpack(package, b"another package", tmp_path)
    assert not list(tmp_path.iterdir())


def npm(folder: Path, script: str) -> Path:
    folder.mkdir()
    path = folder / "npm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("script", "words"),
    [("echo 'npm error network unreachable' >&2; exit 1", "network unreachable"), ("exit 0", "it gave no file")],
)
def test_npm_that_fails_is_quoted(tmp_path, monkeypatch, script, words):
    monkeypatch.setenv("RSVLM_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{npm(tmp_path / 'bin', script)}:/usr/bin:/bin")
    with pytest.raises(RsvlmError, match=words):
        page_runtime.runtime()
    assert words in page_runtime.problem()
