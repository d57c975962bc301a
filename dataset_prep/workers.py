"""One function over many files in several processes, where a file may crash or hang its decoder.

Every worker is a process of its own with a pipe; the one that dies or takes too long is replaced, and only the file it
held is lost. Results come as they are ready.
"""

from __future__ import annotations

import errno
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

PARENT_LOOK_S = 5.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of where results go: no fault of the item, and the next one's too
Item = TypeVar("Item")
Result = TypeVar("Result")


class Unusable(ValueError):
    """Why an item cannot be used, in the same few words for the same fault; `detail` is this one's own."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Done(Generic[Item, Result]):
    """What became of an item: a result, or the reason why there is none."""

    item: Item
    result: Result | None = None
    reason: str | None = None  # a few words, the same for the same fault
    detail: str = ""  # what this item's decoder said


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 2, limit_s: float = 600
) -> Iterator[Done[Item, Result]]:
    """`function` of every item, in any order.

    workers   processes; 0 works in this one, without a time limit
    limit_s   seconds an item may take before its worker is ended
    An Unusable that `function` raises is the reason; any other error is "cannot be read" with the error's own words as
    the detail. Running out of memory, and a disk that is full or read-only, are raised.
    """
    if workers == 0:
        yield from (_attempt(function, item) for item in items)
        return
    waiting = deque(items)
    team = [_Worker(function) for _ in range(min(workers, len(waiting)))]
    try:
        for worker in team:
            worker.give(waiting.popleft())
        while busy := [worker for worker in team if worker.busy]:
            left_s = min(worker.deadline(limit_s) for worker in busy) - time.monotonic()
            wait([worker.pipe for worker in busy], timeout=max(0.0, left_s))
            for worker in busy:
                done = worker.take(limit_s)
                if done is not None:
                    if waiting:
                        worker.give(waiting.popleft())
                    yield done
    finally:
        for worker in team:
            worker.end()


def _attempt(function: Callable[[Any], Any], item: Any) -> Done[Any, Any]:
    try:
        return Done(item, function(item))
    except MemoryError:
        raise
    except Unusable as error:
        return Done(item, reason=str(error), detail=error.detail)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise OSError(error.errno, error.strerror, error.filename) from None  # PyAV's own do not travel
        words = " ".join(str(getattr(error, "strerror", None) or error).split())
        return Done(item, reason="cannot be read", detail=f"{type(error).__name__}: {words}")


class _Worker:
    """One process and the item it holds."""

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function
        self.busy = False
        self._item: Any = None
        self._since = 0.0
        self._start()

    def give(self, item: Any) -> None:
        self._item, self._since, self.busy = item, time.monotonic(), True
        self.pipe.send(item)

    def deadline(self, limit_s: float) -> float:
        return self._since + limit_s

    def take(self, limit_s: float) -> Done[Any, Any] | None:
        """What became of the item; None while the work goes on. The process is a fresh one after a crash or a hang."""
        if self.pipe.poll():
            try:
                done = self.pipe.recv()
                if isinstance(done, OSError):
                    raise done
            except (EOFError, ConnectionResetError):
                self._process.join()
                done = Done(self._item, reason="crashes its decoder", detail=_ending(self._process.exitcode))
                self._restart()
        elif time.monotonic() >= self.deadline(limit_s):
            done = Done(self._item, reason="takes too long", detail=f"more than {limit_s:g} s")
            self._restart()
        else:
            return None
        self.busy = False
        return done

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()

    def _restart(self) -> None:
        self.end()
        self._start()

    def _start(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=_work, args=(self._function, theirs), daemon=True)
        self._process.start()
        theirs.close()


def _work(function: Callable[[Any], Any], pipe: Connection) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # both are for the process that started this one, and ends it
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    while True:
        while not pipe.poll(PARENT_LOOK_S):
            if parent is not None and not parent.is_alive():  # killed: brothers hold its end of the pipe open
                return
        try:
            done = _attempt(function, pipe.recv())
        except OSError as error:
            done = error
        pipe.send(done)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
