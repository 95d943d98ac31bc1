"""What a process took, and from which commit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsvlm.records import provenance, stages


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells it of one program alone")
def test_peak_memory_does_not_begin_with_that_of_the_parent():
    program = "from rsvlm.records import provenance; before = provenance.peak_memory_mb(); b'x' * 2**27; print(before, provenance.peak_memory_mb())"
    held = np.ones(2**27)  # 1 GB here
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before < 500 < provenance.peak_memory_mb()
    assert held.nbytes and 120 < after - before < 200


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_outside_of_its_clone_a_command_tells_the_commit_of_the_clone(tmp_path, monkeypatch):
    clone, elsewhere = tmp_path / "clone", tmp_path / "elsewhere"
    (clone / "rsvlm").mkdir(parents=True)
    elsewhere.mkdir()
    (clone / "rsvlm" / "__init__.py").write_text("")
    git(clone, "init", "-q")
    monkeypatch.setenv("RSVLM_HOME", str(elsewhere))
    monkeypatch.setattr(stages, "PACKAGE", clone / "rsvlm")
    assert provenance.commit() == {"commit": "unknown", "dirty": False}, "a package that somebody installed into a repository"
    git(clone, "add", ".")
    git(clone, "commit", "-qm", "a")
    head = git(clone, "rev-parse", "HEAD")
    assert provenance.commit() == {"commit": head, "dirty": False}
    (clone / "rsvlm" / "__init__.py").write_text("changed = True")
    assert provenance.commit() == {"commit": head, "dirty": True}
    monkeypatch.setenv("RSVLM_HOME", str(clone))
    assert provenance.commit()["commit"] == head
