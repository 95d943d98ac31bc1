"""What a process took."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsvlm.records import provenance


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells it of one program alone")
def test_peak_memory_does_not_begin_with_that_of_the_parent():
    program = "from rsvlm.records import provenance; before = provenance.peak_memory_mb(); b'x' * 2**27; print(before, provenance.peak_memory_mb())"
    held = np.ones(2**27)  # 1 GB here
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before < 500 < provenance.peak_memory_mb()
    assert held.nbytes and 120 < after - before < 200
