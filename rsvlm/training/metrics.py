"""What a training reports while it runs: lines of numbers, memory, and the batch at which it had to stop."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rsvlm.errors import RsvlmError
from rsvlm.records import files, provenance
from rsvlm.training import processes


class Metrics:
    """A JSON-lines file that, on resume, is cut back to the checkpoint's step; process 0 writes it."""

    def __init__(self, path: Path, from_step: int):
        self.path = path
        self.last_step = from_step
        lines = []
        if path.is_file():
            whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            lines = [line for line in whole if json.loads(line)["step"] <= from_step]
        if processes.rank() == 0:
            files.write_atomic(path, "".join(lines))

    def write(self, line: dict) -> None:
        """Append one line."""
        if processes.rank() == 0:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def steps_since(self, step: int) -> int:
        """Return how many steps were taken since this was asked before."""
        steps, self.last_step = step - self.last_step, step
        return steps


def stop_if_not_finite(loss: Tensor, step: int, keys: Sequence[str], out: Path) -> None:
    """Raise RsvlmError for a loss that is NaN or infinite, and write the keys of its batch to `out/not_finite.json`."""
    if math.isfinite(loss.item()):
        return
    if processes.rank() == 0:
        files.write_atomic(out / "not_finite.json", json.dumps({"step": step, "keys": list(keys)}, indent=1))
    raise RsvlmError(
        f"the loss is {loss.item()} at step {step}; the keys of its batch are in {out / 'not_finite.json'}. "
        "Lower the learning rate, or look at those samples; the checkpoint before is kept"
    )


def memory_gb(device: torch.device) -> float:
    """Return the most memory held so far, in 10**9 bytes: of the GPU by tensors, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return provenance.peak_memory_mb() * 2**20 / 1e9
