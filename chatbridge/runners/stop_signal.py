"""Turns Ctrl-C and SIGTERM into a request to stop: the runner finishes its step, saves and exits."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType

REPEAT_S = 5.0  # torchrun repeats a Ctrl-C within this time; a later one ends the process at once


class StopSignal:
    """A context manager within which SIGINT and SIGTERM only set `requested`.

    Ranks receive the signal at different times (from the terminal, and again from torchrun), so the runner compares all
    ranks at the end of a step before it stops. Processes forked within it (loader workers) ignore SIGINT and end on
    SIGTERM.
    """

    def __init__(self) -> None:
        self.received: int | None = None  # the first signal
        self.received_at = 0.0
        self.process = os.getpid()
        self.previous: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal was received."""
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """Exit code by the convention of shells: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.received or signal.SIGINT)

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.received is None:
            self.received, self.received_at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self.received_at > REPEAT_S:
            raise KeyboardInterrupt
