"""Answers a failed allocation: the step, the longest sample, the part of memory that grew, settings that would fit."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn

from chatbridge.common.dist import Dist
from chatbridge.common.errors import TrainingError
from chatbridge.common.types import Batch
from chatbridge.runners.memory_use import MemoryUse, gib, memory_use, used_bytes
from chatbridge.runners.progress import StepResult
from chatbridge.runners.watchers import Phase, Watcher

MARKS = ("can't allocate memory", "out of memory", "_ALLOC_FAILED")  # CPU allocator; CUDA, NCCL; cuBLAS, cuDNN
UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
GROWS: dict[Phase, str] = {
    "data": "the batch itself",
    "forward": "activations and logits",
    "backward": "gradients, and activations that are computed again",
    "collective": "buffers of the sums over ranks",
    "optimizer": "moments of the optimizer",
    "checkpoint": "copies of the tensors that are saved",
    "evaluate": "KV caches and logits of answers",
}
Advice = Callable[[MemoryUse], Sequence[str]]


class OutOfMemory(Watcher):
    """Raises a TrainingError with the answer in place of the error of an allocation, on the rank where it failed.

    No checkpoint is written: the weights may be those of half a step.
    advice   settings that would fit, the best first
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, dist: Dist, advice: Advice) -> None:
        self.model, self.optimizer, self.dist, self.advice = model, optimizer, dist, advice
        self.at: tuple[Phase, int] = ("idle", 0)
        self.used: dict[Phase, int] = {}  # bytes at the beginning of each phase of this step, the most of its micros
        self.most_before = 0  # bytes at the beginning of any phase of earlier steps
        self.current: Sequence[Batch] = ()
        self.longest_before = 0  # tokens of a row, in earlier steps

    def batches(self, batches: Sequence[Batch]) -> None:
        self.current, self.used = batches, {}

    def phase(self, name: Phase, step: int) -> None:
        used = used_bytes(self.dist.device)
        self.used[name] = max(self.used.get(name, 0), used)
        self.at = name, step

    def step(self, result: StepResult) -> None:
        self.longest_before = max([self.longest_before, *(int(one.lengths.max()) for one in result.batches)])
        self.most_before = max(self.most_before, *self.used.values()) if self.used else self.most_before

    def __exit__(self, *problem: object) -> None:
        error = problem[1] if len(problem) > 1 else None
        if isinstance(error, Exception) and is_out_of_memory(error):
            text = self.answer(error)
            raise TrainingError(text) from None

    def answer(self, error: Exception) -> str:
        """The message for the user; frees what the failed step holds first, since it needs some memory itself."""
        used = used_bytes(self.dist.device)
        use = memory_use(self.model, self.optimizer, self.dist.device, used, missing_bytes(str(error)))
        if isinstance(error.__traceback__, TracebackType):
            traceback.clear_frames(error.__traceback__)
        phase, step = self.at
        lines = [
            f"step {step + 1}: out of memory in {phase} on rank {self.dist.rank} "
            f"({self.dist.device}, {gib(use.capacity)}): {_first(error)}",
            *self._conversations(),
            f"memory: weights {gib(use.weights)}, gradients {gib(use.gradients)}, optimizer {gib(use.optimizer)}, "
            f"activations and the rest {gib(use.rest)}; not allocated: {gib(use.missing)}",
            self._growth(phase, used),
        ]
        if use.reserved > max(use.missing, use.capacity // 20):
            lines.append(f"{gib(use.reserved)} are free in pieces: PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True")
        advice = self.advice(use)
        lines += [f"settings that would fit (estimated from {gib(use.needed)} now):"] * bool(advice)
        lines += [f"  {number}. {text}" for number, text in enumerate(advice, 1)]
        lines.append("no checkpoint changed; the same command, also with these settings, resumes from the newest one")
        return "\n    ".join(lines)

    def _conversations(self) -> list[str]:
        """The longest row of the step, and the shapes of each micro-batch."""
        if not self.current:
            return []
        longest = max(self.current, key=lambda batch: int(batch.lengths.max()))
        row = int(longest.lengths.argmax())
        before = f"; longest in earlier steps: {self.longest_before:,}" if self.longest_before else ""
        lines = [f"longest: {_origin(longest, row)}, {int(longest.lengths[row]):,} tokens{before}"]
        for number, batch in enumerate(self.current, 1):
            rows, length = batch.ids.shape
            media = "".join(f", {name} {_shape(value)}" for name, value in batch.media.items())
            lines.append(
                f"micro-batch {number}: {rows} x {length:,} positions, {batch.num_supervised:,} supervised{media}"
            )
        return lines

    def _growth(self, phase: Phase, used: int) -> str:
        """Which part grew: the memory at the beginning of each phase, and at the failure."""
        steps = ", ".join(f"{name} {gib(count)}" for name, count in self.used.items() if name != "idle")
        before = f"; most in earlier steps: {gib(self.most_before)}" if self.most_before else ""
        grown = GROWS.get(phase, "unknown")
        start = self.used.get(phase, used)
        return f"in {phase} grew: {grown}, {gib(start)} -> {gib(used)} (phases began at: {steps}){before}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a failed allocation: torch's own error, or one of the CPU allocator or a CUDA library."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in MARKS)


def missing_bytes(message: str) -> int:
    """The size of the failed allocation in torch's message; 0 if it has none."""
    found = re.search(r"[Tt]ried to allocate ([\d.]+) ?(KiB|MiB|GiB|bytes)?", message)
    return 0 if found is None else int(float(found[1]) * UNITS.get(found[2] or "", 1))


def _first(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    sentence = re.search(r"[Tt]ried to allocate [^.]*(\.\d+ [KMG]iB)?", text)
    return sentence[0] if sentence is not None else text.splitlines()[0][:200]


def _origin(batch: Batch, row: int) -> str:
    """The conversation of a row; of a packed row, all of them are in the batch."""
    if len(batch.sample_ids) == len(batch.ids) == len(batch.sources):
        return f"{batch.sample_ids[row]} of {batch.sources[row]}"
    return f"row {row + 1} of {len(batch.ids)}, with {len(batch.sources)} packed conversations in all"


def _shape(value: object) -> str:
    tensor = value if isinstance(value, Tensor) else getattr(value, "x", None)
    return "x".join(map(str, tensor.shape)) if isinstance(tensor, Tensor) else "?"
