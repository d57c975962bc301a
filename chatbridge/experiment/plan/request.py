"""What a plan is asked for: the machine, the number of ranks, the share of its rate that training reaches."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.runners.config import ranks_planned
from chatbridge.runners.gpus import ALIASES, GPUS

UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
         "tib": 1 << 40}  # fmt: skip
MOST_RANKS = 100_000
USUAL_MFU = 0.4  # of frozen language models with short sequences, on one node


@dataclass(frozen=True)
class PlanRequest:
    """gpu: a name of GPUS; memory: bytes of one rank's device, None: that of the GPU; mfu: share of its bf16 rate.

    on_gpu   whether `memory` is that of a GPU; None: it is
    """

    gpu: str | None = None
    memory: int | None = None
    ranks: int = 1
    mfu: float = USUAL_MFU
    on_gpu: bool | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether the run is planned for a GPU: bf16, and memory of the CUDA context."""
        has_one = self.gpu is not None or self.memory is not None
        return has_one if self.on_gpu is None else self.on_gpu

    @property
    def budget(self) -> int | None:
        """Bytes that one rank may use."""
        return self.memory if self.memory is not None else GPUS[self.gpu].memory if self.gpu else None


def plan_request(
    gpu: str | None = None, gpu_memory: str | None = None, ranks: int | None = None, mfu: float | None = None
) -> PlanRequest:
    """The request of a command line. raises ConfigError with everything that is wrong with it"""
    problems = []
    name = None if gpu is None else gpu.lower().replace("_", "-")
    name = ALIASES.get(name, name) if name is not None else None
    if name is not None and name not in GPUS:
        allowed = tuple(GPUS)
        problems.append(
            Problem(
                "--gpu",
                f"there is no GPU named {gpu!r}",
                allowed=allowed,
                nearest=nearest(name, allowed),
                hint="for another one give its memory: --gpu-memory 48GiB",
            )
        )
    memory = None
    if gpu_memory is not None:
        try:
            memory = parse_size(gpu_memory)
        except ValueError as error:
            problems.append(Problem("--gpu-memory", str(error)))
    count = ranks_planned() if ranks is None else ranks
    if not 1 <= count <= MOST_RANKS:
        problems.append(
            Problem("--ranks", f"is {count}, expected the number of processes, 1 or more (at most {MOST_RANKS:,})")
        )
    share = USUAL_MFU if mfu is None else mfu
    if not 0 < share <= 1:
        problems.append(Problem("--mfu", f"is {share:g}, expected a share above 0 and up to 1, for example 0.4"))
    if problems:
        raise ConfigError(problems)
    return PlanRequest(name, memory, count, share)


def parse_size(text: str) -> int:
    """Bytes: "80GiB" is 80 * 2**30, "80GB" 80 * 10**9, "80000MiB". raises ValueError"""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*", text)
    if found is None or found[2].lower() not in UNITS:
        raise ValueError(f"is {text!r}, expected a number with a unit, for example 80GiB, 80GB or 80000MiB")
    size = int(float(found[1]) * UNITS[found[2].lower()])
    if size < 1:
        raise ValueError(f"is {text!r}, expected more than nothing, for example 80GiB")
    return size


def show_size(size: float) -> str:
    """Bytes for people: "12.3 GiB"."""
    for unit in ("GiB", "MiB", "KiB"):
        if abs(size) >= UNITS[unit.lower()] or unit == "KiB":
            return f"{size / UNITS[unit.lower()]:,.1f} {unit}"
    raise AssertionError


@contextmanager
def planned_ranks(count: int) -> Iterator[None]:
    """While it is open, the configuration is checked as under torchrun with so many ranks."""
    before = os.environ.get("WORLD_SIZE")
    os.environ["WORLD_SIZE"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["WORLD_SIZE"]
        else:
            os.environ["WORLD_SIZE"] = before
