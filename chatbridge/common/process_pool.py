"""Work in processes that may hang or crash: the task is lost with a reason, a new process takes the place.

An exception is no more than a broken file; a decoder that overruns memory or never returns takes its process with it.
So every worker has a clock, and a few tasks ahead that go to its successor when it is ended.
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
OVERSLEPT_S = 2.0  # by so much a wait may come late, before workers are taken to have stood still as well
PATIENCE_S = 5.0  # for a worker to leave by itself, and between its looks at whether the command is still there


@dataclass(frozen=True)
class TimerPaused:
    """A worker's word that its clock stands still, for example while a shard is fetched, or goes on."""

    is_paused: bool


@dataclass(frozen=True)
class LostTask:
    """What happened to a task that has no result: a few words, the same for the same fault, and this one's own."""

    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class ProcessPool(Generic[Task, Result]):
    """A few processes that call `work` on one task at a time.

    work          must not raise; on systems that fork, it and what it holds need not be picklable. If it has an
                  attribute `on_pause`, that is set to what stops (True) and restarts (False) the clock of the task
    time_limit_s  of one task; a worker that needs longer is ended, whatever it is doing
    ahead         tasks a worker holds at a time, the one it works on included: waking it for each costs more than a
                  small picture does; where a task takes long, many ahead leave some workers idle in the end
    """

    def __init__(self, work: Callable[[Task], Result], num_workers: int, time_limit_s: float, ahead: int = 16):
        self.work, self.num_workers, self.time_limit_s, self.ahead = work, max(1, num_workers), time_limit_s, ahead

    def results(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Any]]:
        """Every task with its result, or what became of it (Lost), in the order in which they are done."""
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
        """Workers that answered, died, or are over their time."""
        now = time.monotonic()
        wait_s = min(worker.started + self.time_limit_s for worker in busy) - now
        wait_s = None if math.isinf(wait_s) else max(0.0, wait_s)
        handles = {handle: worker for worker in busy for handle in (worker.pipe, worker.process.sentinel)}
        ready = {id(handles[found]): handles[found] for found in connection.wait(list(handles), wait_s)}
        before, now = now, time.monotonic()
        if wait_s is not None and (overslept := now - before - wait_s) > OVERSLEPT_S:  # all were suspended (Ctrl-Z)
            for worker in busy:
                worker.started += overslept
        late = {id(worker): worker for worker in busy if now - worker.started > self.time_limit_s}
        return list({**ready, **late}.values())

    def _results(self, worker: _Worker) -> Iterator[tuple[Task, Any]]:
        """What a worker has answered; if that is nothing, what became of its task."""
        has_spoken = False
        with suppress(EOFError, OSError):  # it died while it answered
            while worker.tasks and worker.pipe.poll():
                found, has_spoken = worker.pipe.recv(), True
                if isinstance(found, TimerPaused):
                    worker.pause(found.is_paused)
                else:
                    yield worker.done(), found
        if has_spoken:
            return
        if worker.process.is_alive() and time.monotonic() - worker.started > self.time_limit_s:
            lost = LostTask("reading it hung", f"its process was ended after {self.time_limit_s:g} s")
        else:
            worker.process.join(PATIENCE_S)
            lost = LostTask("the decoder crashed", _end(worker.process.exitcode))
        yield worker.done(), lost
        worker.restart()


class _Worker:
    """One process at a time, with the tasks it has; it works on the first."""

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
        """A new process for the tasks that are left."""
        self.stop()
        self.start()
        self.started = time.monotonic()
        for task in self.tasks:
            self.pipe.send(task)

    def take(self, tasks: Iterator[Any]) -> bool:
        """Fill up with tasks; False when there is none."""
        if not self.process.is_alive() and not self.tasks:  # it was ended between two tasks
            self.restart()
        with suppress(BrokenPipeError):  # it died: `restart` sends them again
            for task in islice(tasks, self.ahead - len(self.tasks)):
                if not self.tasks:  # here, since the next task may be long in coming and the worker waits for it
                    self.started = time.monotonic()
                self.tasks.append(task)
                self.pipe.send(task)
        return bool(self.tasks)

    def done(self) -> Any:
        """The first task leaves; the clock of the next one starts."""
        self.started = time.monotonic()
        return self.tasks.popleft()

    def pause(self, is_paused: bool) -> None:
        """A clock that stands still started at the end of time."""
        now = time.monotonic()
        self.started, self.spent_s = (math.inf, now - self.started) if is_paused else (now - self.spent_s, 0.0)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join(PATIENCE_S)
        self.pipe.close()


def _serve(work: Callable[[Any], Any], pipe: Any) -> None:
    faulthandler.disable()  # a crash is expected here
    for number in (signal.SIGINT, signal.SIGTERM):  # for the command, which then ends its workers
        signal.signal(number, signal.SIG_IGN)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)  # decoders talk; what they have to say comes back as a reason
    if hasattr(work, "on_pause"):
        work.on_pause = lambda is_paused: pipe.send(TimerPaused(is_paused))  # pyright: ignore[reportFunctionMemberAccess]
    command = os.getppid()
    with suppress(EOFError, OSError):
        while os.getppid() == command:  # siblings hold the pipe open, so its end does not tell
            if pipe.poll(PATIENCE_S):
                pipe.send(work(pipe.recv()))


def _end(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        short = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"its process was ended by {name}{short}"
    return f"its process left with exit code {code}"
