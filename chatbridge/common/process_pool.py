"""Tasks in worker processes that may hang or crash: such a task is lost with a reason, its process is replaced.

A broken file raises an exception, but a decoder that overruns memory or never returns costs its whole process. So every
worker has a time limit per task, and holds a few tasks ahead that its successor gets.

Own code, not pebble: with pebble a worker cannot pause its time limit (during a download), and the time for which the
whole command is suspended (Ctrl-Z) counts against healthy tasks.
"""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection, get_all_start_methods, get_context
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
SUSPENDED_S = 2.0  # a wait that is this much too long means that all processes were suspended
EXIT_TIMEOUT_S = 5.0  # for a worker to exit by itself, and between its checks that the main process is alive


@dataclass(frozen=True)
class TimerPaused:
    """A message of a worker: the time limit of its task is paused, for example during a download, or runs again."""

    is_paused: bool


@dataclass(frozen=True)
class LostTask:
    """Why a task has no result: a short reason, equal for equal faults, and the details of this one."""

    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class ProcessPool(Generic[Task, Result]):
    """Processes that call `work` on one task at a time.

    work          must not raise; on systems that fork, it need not be picklable. If it has an attribute `on_pause`,
                  that is set to a function that pauses (True) and restarts (False) the timer of the task
    time_limit_s  of one task; a worker that needs longer is killed
    ahead         tasks that a worker holds at a time, the current one included: waking it for each one costs more than
                  a small image does; where tasks take long, many ahead leave some workers idle at the end
    """

    def __init__(self, work: Callable[[Task], Result], num_workers: int, time_limit_s: float, ahead: int = 16):
        self.work, self.num_workers, self.time_limit_s, self.ahead = work, max(1, num_workers), time_limit_s, ahead

    def results(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Any]]:
        """Every task with its result, or with a LostTask, in the order in which they finish."""
        left, workers = iter(tasks), [_Worker(self.work, self.ahead) for _ in range(self.num_workers)]
        try:
            busy = [worker for worker in workers if worker.take(left)]
            while busy:
                for worker in self._ready(busy):
                    yield from self._results(worker)
                    if not worker.take(left):
                        busy.remove(worker)
        finally:
            for worker in workers:
                worker.stop()

    def _ready(self, busy: list[_Worker]) -> list[_Worker]:
        """Workers that answered, died, or exceeded the time limit."""
        now = time.monotonic()
        wait_s = min(worker.started + self.time_limit_s for worker in busy) - now
        wait_s = None if math.isinf(wait_s) else max(0.0, wait_s)
        handles = {handle: worker for worker in busy for handle in (worker.pipe, worker.process.sentinel)}
        ready = {id(handles[found]): handles[found] for found in connection.wait(list(handles), wait_s)}
        before, now = now, time.monotonic()
        if wait_s is not None and (overslept := now - before - wait_s) > SUSPENDED_S:  # Ctrl-Z: the workers too
            for worker in busy:
                worker.started += overslept
        late = {id(worker): worker for worker in busy if now - worker.started > self.time_limit_s}
        return list({**ready, **late}.values())

    def _results(self, worker: _Worker) -> Iterator[tuple[Task, Any]]:
        """The answers of a worker; without one, its current task as lost."""
        has_answered = False
        with suppress(EOFError, OSError):  # it died during an answer
            while worker.tasks and worker.pipe.poll():
                found, has_answered = worker.pipe.recv(), True
                if isinstance(found, TimerPaused):
                    worker.pause(found.is_paused)
                else:
                    yield worker.done(), found
        if has_answered:
            return
        if worker.process.is_alive() and time.monotonic() - worker.started > self.time_limit_s:
            lost = LostTask("reading it hung", f"its process was ended after {self.time_limit_s:g} s")
        else:
            worker.process.join(EXIT_TIMEOUT_S)
            lost = LostTask("the decoder crashed", _how_it_ended(worker.process.exitcode))
        yield worker.done(), lost
        worker.restart()


class _Worker:
    """One process at a time and its tasks; it works on the first."""

    def __init__(self, work: Callable[[Any], Any], ahead: int):
        self.work, self.ahead, self.started, self.spent_s = work, ahead, 0.0, 0.0
        self.tasks: deque[Any] = deque()
        self.start()

    def start(self) -> None:
        context = get_context("fork" if "fork" in get_all_start_methods() else None)  # as torch's loader starts
        self.pipe, theirs = context.Pipe()
        self.process: Any = context.Process(target=_serve, args=(self.work, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def restart(self) -> None:
        """Start a new process for the remaining tasks."""
        self.stop()
        self.start()
        self.started = time.monotonic()
        for task in self.tasks:
            self.pipe.send(task)

    def take(self, tasks: Iterator[Any]) -> bool:
        """Fill up with tasks; False if there are none left."""
        if not self.process.is_alive() and not self.tasks:  # it was killed between two tasks
            self.restart()
        with suppress(BrokenPipeError):  # it died: `restart` sends them again
            for task in islice(tasks, self.ahead - len(self.tasks)):
                if not self.tasks:  # not earlier: the iterator may have taken long to produce this task
                    self.started = time.monotonic()
                self.tasks.append(task)
                self.pipe.send(task)
        return bool(self.tasks)

    def done(self) -> Any:
        """Remove and return the first task; start the timer of the next one."""
        self.started = time.monotonic()
        return self.tasks.popleft()

    def pause(self, is_paused: bool) -> None:
        """Pause or restart the timer; a paused one has its start at infinity."""
        now = time.monotonic()
        self.started, self.spent_s = (math.inf, now - self.started) if is_paused else (now - self.spent_s, 0.0)

    def stop(self) -> None:
        """Kill the process, whatever it is doing."""
        self.process.kill()
        self.process.join(EXIT_TIMEOUT_S)
        self.pipe.close()


def _serve(work: Callable[[Any], Any], pipe: Any) -> None:
    faulthandler.disable()  # a crash is expected here
    for number in (signal.SIGINT, signal.SIGTERM):  # the main process handles them and ends its workers
        signal.signal(number, signal.SIG_IGN)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)  # decoders print warnings; what matters comes back as a reason
    if hasattr(work, "on_pause"):
        work.on_pause = lambda is_paused: pipe.send(TimerPaused(is_paused))  # pyright: ignore[reportFunctionMemberAccess]
    parent = os.getppid()
    with suppress(EOFError, OSError):
        while os.getppid() == parent:  # sibling workers hold the pipe open, so it has no end of file
            if pipe.poll(EXIT_TIMEOUT_S):
                pipe.send(work(pipe.recv()))


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        memory = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended with exit code {code}"
