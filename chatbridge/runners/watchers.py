"""What may look on while a run trains: the phases of each step, and its result.

The runner tells every watcher when a phase begins and when a step has finished, on every rank and in the same order.
A watcher never changes the step: a run with watchers computes the same weights as one without.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Literal

from chatbridge.common.types import Batch
from chatbridge.runners.progress import StepResult

# data: waiting for the loader; collective: sums over ranks; evaluate: validation and tasks; idle: none of these
Phase = Literal["idle", "data", "forward", "backward", "collective", "optimizer", "checkpoint", "evaluate"]


class Watcher:
    """Base class: does nothing. A context manager that the runner holds open from the first to the last step."""

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *problem: object) -> None:
        """The run ends, by itself or by the given exception."""

    def phase(self, name: Phase, step: int) -> None:
        """A phase of a step begins; it lasts until the next one. step: number of finished steps"""

    def batches(self, batches: Sequence[Batch]) -> None:
        """A step begins with these micro-batches of this rank."""

    def step(self, result: StepResult) -> None:
        """A step has finished."""


class Watchers(Watcher):
    """Several watchers as one."""

    def __init__(self, watchers: Sequence[Watcher] = ()) -> None:
        self.watchers = tuple(watchers)
        self._open = ExitStack()

    def __enter__(self) -> Watchers:
        with ExitStack() as stack:
            for watcher in self.watchers:
                stack.enter_context(watcher)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *problem: object) -> None:
        self._open.__exit__(*problem)  # pyright: ignore[reportArgumentType]

    def phase(self, name: Phase, step: int) -> None:
        for watcher in self.watchers:
            watcher.phase(name, step)

    def batches(self, batches: Sequence[Batch]) -> None:
        for watcher in self.watchers:
            watcher.batches(batches)

    def step(self, result: StepResult) -> None:
        for watcher in self.watchers:
            watcher.step(result)
