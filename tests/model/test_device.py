"""Tests of `model.device`."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from rsvlm.model.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before, can = faults(), keep_freed_memory()
faults()
print(can, before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again():
    """A loop that frees large tensors fetches their pages anew each time, and hardly any once it keeps them."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    can, before, after = done.stdout.split()
    assert can == "True"
    assert int(before) > 20 * int(after) + 20


def test_it_does_nothing_where_it_cannot(monkeypatch):
    """Another system or C library is left as it is."""
    from rsvlm.model import device

    monkeypatch.setattr(device.sys, "platform", "win32")
    assert not device.keep_freed_memory.__wrapped__()
