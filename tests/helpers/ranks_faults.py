"""`chatbridge train` with a fault in one rank: ranks_faults.py FAULTS ARGUMENTS... (see `break_once`).

FAULTS is a JSON list with an entry per start by torchrun: {"rank": 1, "step": 2, "kind": "kill"}, or null for none.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

import torch

from chatbridge.cli import train
from chatbridge.common.errors import run_command
from chatbridge.runners import checkpoint
from chatbridge.runners.runner import Runner


def fail(kind: str) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        raise ArithmeticError("a fault of the test")
    if kind == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
    if kind == "hang":
        time.sleep(600)


def break_once(fault: dict[str, Any]) -> None:
    """Fail in a phase of a step: `forward`, `data`, or `checkpoint` (its files are written, but do not count yet)."""
    place, kind, step = fault.get("phase", "forward"), fault["kind"], fault["step"]
    if place == "checkpoint":
        checkpoint.write_manifest = lambda *_, **__: fail(kind)
        return
    tell = Runner._phase

    def broken_phase(self: Runner, name: Any) -> None:
        tell(self, name)
        if name == place and self.state.step == step:
            fail(kind)

    Runner._phase = broken_phase


def main() -> int:
    faults = json.loads(sys.argv[1])
    start = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    fault = faults[start] if start < len(faults) else None
    if fault is not None and fault["rank"] == int(os.environ.get("RANK", "0")):
        break_once(fault)
    return train.main(sys.argv[2:])


if __name__ == "__main__":
    run_command(main)
