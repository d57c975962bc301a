"""The settings that the plan's search finds for the device of a run that is out of memory, in a process of its own.

The process sees no GPU, so it takes nothing of the full one; it can be ended at any time; and it leaves the threads of
the run (the watchdog) alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from chatbridge.common.log import get_logger
from chatbridge.runners.memory_use import MemoryUse, gib

LONGEST_S = 60.0
NUM_MEASURED = 64  # conversations of a source; `chatbridge plan` measures more
MOST_SHOWN = 4
MARK = "fits: "  # begins a line of an answer
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
log = get_logger(__name__)


@dataclass(frozen=True)
class Search:
    """What the process is asked: the file and options of the run, and the device of one rank.

    capacity  bytes of the device
    needed    bytes that the failed step needed at least; when the plan says less, it is taken to be off by this ratio
    """

    path: str
    options: tuple[str, ...]
    ranks: int
    on_gpu: bool
    capacity: int
    needed: int
    limit_s: float


def searched_settings(
    path: Path, options: Sequence[str], ranks: int, on_gpu: bool, use: MemoryUse, stall_timeout_s: float | None
) -> list[str]:
    """Settings with which the plan fits, the best first; what was found in time; none when the search fails.

    stall_timeout_s  of the run: the search ends well before the watchdog would take this rank for a hanging one
    """
    limit_s = min(LONGEST_S, (stall_timeout_s or 4 * LONGEST_S) / 4)
    asked = Search(str(path), tuple(options), ranks, on_gpu, use.capacity, use.needed, limit_s)
    environment = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", __name__, json.dumps(asdict(asked))]
    log.warning("out of memory; looking for settings that fit, for at most %.0f s", limit_s)
    reason, lines = "", ""
    try:
        lines = subprocess.run(command, env=environment, capture_output=True, timeout=limit_s, check=True).stdout
    except subprocess.CalledProcessError as error:
        reason, lines = (_text(error.stderr).splitlines() or [f"exit code {error.returncode}"])[-1], error.stdout
    except subprocess.TimeoutExpired as error:  # what it found before is as good
        reason, lines = "it takes longer", error.stdout
    except (OSError, MemoryError) as error:
        reason = str(error)
    found = [line.removeprefix(MARK) for line in _text(lines).splitlines() if line.startswith(MARK)]
    if reason:
        log.warning("the search ended with %d: %s", len(found), reason[:200])
    return found[:MOST_SHOWN]


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace").strip() if isinstance(output, bytes) else output or ""


def found_settings(asked: Search) -> Iterator[str]:
    """What the process answers, as soon as it is found. raises ConfigError"""
    from chatbridge.experiment.plan.fitting import search
    from chatbridge.experiment.plan.planner import Planner
    from chatbridge.experiment.plan.request import PlanRequest

    request = PlanRequest(memory=asked.capacity, ranks=asked.ranks, on_gpu=asked.on_gpu)
    planner = Planner(asked.path, request, NUM_MEASURED)
    plan = planner.plan(asked.options)
    if plan.memory is None:
        return
    off = max(asked.needed / plan.memory.total, 1.0)
    planner.request = replace(request, memory=int(asked.capacity / off))
    for one in search(planner, replace(plan, request=planner.request), asked.options):
        yield f"{' '.join(map(_quoted, one.options))}: {one.cost}; {gib(one.total * off)} by its plan"


def _quoted(option: str) -> str:
    return f"'{option}'" if any(mark in option for mark in ' "[{*') else option


def main() -> None:
    """Print a line for each answer."""
    asked = Search(**json.loads(sys.argv[1]))
    if hasattr(signal, "alarm"):
        signal.alarm(int(asked.limit_s) + 1)  # also when the run that asked was killed
    for text in islice(found_settings(asked), MOST_SHOWN):
        print(f"{MARK}{text}", flush=True)


if __name__ == "__main__":
    main()
