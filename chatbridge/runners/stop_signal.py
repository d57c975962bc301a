"""Ctrl-C and SIGTERM ask for a stop; the runner finishes its step, saves and leaves."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType

PATIENCE_S = 5.0  # a second Ctrl-C later than this ends the process at once; torchrun repeats the first within moments


class StopSignal:
    """While it is open, SIGINT and SIGTERM only set `requested`.

    Every rank gets the signal at its own moment (the terminal sends it to all, torchrun sends it on once more), so the
    runner asks all ranks at the end of a step before it stops. Children forked meanwhile (loader workers) ignore
    SIGINT and still end on SIGTERM.
    """

    def __init__(self) -> None:
        self.received: int | None = None  # the first signal
        self.received_at = 0.0
        self.process = os.getpid()
        self.previous: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
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
        elif number == signal.SIGINT and time.monotonic() - self.received_at > PATIENCE_S:
            raise KeyboardInterrupt
